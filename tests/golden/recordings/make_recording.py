#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Records one training of every message type, event and header key of this version, through a real attnd:

    make_recording.py NAME     writes NAME.rec, and NAME.json: what attnd says of it

Run once per revision of header keys, to add files. See README.md: files that are there are never written again.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / ".." / ".." / "e2e"))
sys.path.insert(0, str(HERE / ".." / ".." / ".." / "clients" / "python"))
from attnd.sending.head_maps import HeadMaps  # noqa: E402
from harness import Attnd, Trainer, softmax_maps, wait_until  # noqa: E402
from row_sums import places_of, rows_of  # noqa: E402

ATTNCTL = os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")
SETTINGS = ("metrics.spectrum_budget=0",)
JOB = "golden"
LAYERS = [dict(stack="decoder", layer=0, site="self", heads=2, module="blocks.0.attn"),
          dict(stack="encoder", layer=1, site="cross", heads=4), dict(stack="decoder", layer=2, site="self", heads=2)]


def publish(trainer, rng):
    """One epoch, of which three messages were dropped at the source."""
    queries = rng.normal(size=(2, 2, 6, 4)).astype(np.float32)
    keys = rng.normal(size=(2, 1, 6, 4)).astype(np.float16)
    trainer.event("hello", layers=LAYERS, client="golden/1", settings={"learning_rate": 0.1, "warmup_steps": 10, "fp16": True})
    trainer.attention(softmax_maps(rng, 2, 2, 6, 6), mask=np.ones((2, 6, 6), np.uint8),
                      tokens=np.arange(12, dtype=np.int32).reshape(2, 6), grad=rng.normal(size=(2, 2, 6, 6)),
                      labels=["the", "cat", "sat", "on", "a", "mat"], microbatch=1, module="blocks.0.attn")
    trainer.attention(softmax_maps(rng, 2, 2, 6, 6, causal=True, dtype=np.float16), step=1, causal=True, window=6,
                      documents=np.zeros((2, 6), np.int32), dropout=True, v=keys,
                      wo_r=rng.normal(size=(2, 3, 4)).astype(np.float32), x_norm=np.full((2, 6), 2, np.float32))
    trainer.qk(queries, keys, v=keys, step=2, scale=0.5, softcap=30.0, causal=True, q_len=[6, 4], k_len=[6, 4],
               dout=rng.normal(size=(2, 2, 6, 4)), wo_r=rng.normal(size=(2, 3, 4)).astype(np.float32),
               x_norm=np.full((2, 6), 2, np.float32))
    trainer.qk(queries[:, :, 2:4], keys, step=3, scale=0.5, causal=True, q_offset=2)
    trainer.qk(queries[:, :, 1::2], keys, step=4, scale=0.5, causal=True, q_offset=1, q_stride=2)
    for offset in (0, 2):  # a slice of the heads each
        trainer.attention(softmax_maps(rng, 1, 2, 3, 5), stack="encoder", layer=1, site="cross", step=3, head_offset=offset,
                          heads_total=4, learned_sink=True, labels=list("abcde"), q_labels=["x", "y", "z"])
    trainer.projections(wq=rng.normal(size=(8, 6)).astype(np.float32), wk=rng.normal(size=(4, 6)).astype(np.float32),
                        wo=rng.normal(size=(6, 8)), heads=2, kv_heads=1, head_dim=4, step=3)
    for row in (0, 5):  # a matrix in parts
        trainer.projections(wq=rng.normal(size=(8, 6)).astype(np.float32)[row:row + 5], heads=2, head_dim=4, step=4,
                            parts={"wq": [8, 6, row, 0]})
    maps = HeadMaps(rng.uniform(size=(2, 4, 4)).astype(np.float16), 6, 5, first_key=1, q_offset=1, sample=1, batch=4, labels=list("abcdef"))
    rows = rows_of(rng.normal(size=(2, 2, 6, 6)), causal=True, maps=maps)
    trainer.rows(rows._replace(key_lengths=np.full((2, 1, 6), 2, np.float32), sinks=np.full(2, -1, np.float32)), step=4, layer=2,
                 k_len=[6, 6], microbatch=1, sample_stride=2)
    weights = softmax_maps(rng, 1, 1, 3, 6)
    logits, distance = np.log(weights), abs(np.arange(3)[:, None] - np.arange(1, 6)).astype(np.float32)
    largest = logits[..., 1:].max(-1)
    fall = logits[..., 1:] - largest[..., None]
    e = np.exp(fall)
    sums = [largest, e.sum(-1), (e * fall).sum(-1), (e * distance).sum(-1), logits[..., 0]]
    trainer.send(*trainer.tensor_frames(
        "rows", {"sums": np.stack(sums), "places": places_of(3, 6, True)}, step=4, layer=2, dropout=True, head_offset=1, heads_total=2,
        sums=["largest", "total", "weighted", "distance", "first"], queries=5, keys=6, weights="f32", learned_sink=True, local_window=4))
    for step in (3, 4):
        trainer.sketch(wq=rng.normal(size=(2, 64)).astype(np.float32), wk=rng.normal(size=(1, 64)).astype(np.float32),
                       held=(rng.uniform(size=(3, 64)) < step / 4).astype(np.uint8), stored=["bf16", "f32"], frozen=["wk"], step=step)
    trainer.event("hello", step=4, layers=LAYERS, client="golden/1", dropped_total=3, step_seconds=0.5, capture_seconds=0.125,
                  own_every=1)
    trainer.attention(softmax_maps(rng, 2, 2, 6, 6), step=5, dropped=2)
    trainer.event("log", step=5, values={"loss": 2.5, "grad_norm": None})
    trainer.event("epoch_end", step=5, dropped_total=3)
    trainer.event("bye", step=5, dropped_total=3)
    return 20


def said(attnd, messages):
    """Later versions have to read the recording alike."""
    attnd.settled(messages)
    wait_until(lambda: attnd.call("jobs") and attnd.call("jobs")[0]["state"] == "ended", "the end of the run")
    job, = attnd.call("jobs")
    layers = []
    for summary in sorted(attnd.call("summary", job=JOB), key=lambda s: (s["stack"], s["layer"])):
        entropy = summary["heads"].get("entropy")
        layers.append({**{key: summary[key] for key in ("stack", "layer", "site", "messages", "rows", "invalid_rows", "lost",
                                                        "dropped", "epoch", "step", "causal", "tier", "shape")},
                       **{key: summary[key] for key in ("module",) if key in summary},
                       "last": summary["window"]["last"], "entropy": entropy and [round(x, 6) for x in entropy["mean"]]})
    run, = wait_until(lambda: [run for run in attnd.call("runs", job=JOB)["runs"] if run["state"] == "ended"], "the run's history")
    log = [{key: series[key] for key in ("name", "step", "epoch", "value")} for series in attnd.call("log", job=JOB)["series"]]
    sketches = [row["sketch"] for row in attnd.call("sketches", job=JOB)["sketches"]]
    return {"job": {key: job[key] for key in ("state", "world", "layers", "received", "processed", "lost", "dropped", "epoch",
                                              "step")},
            "layers": layers, **({"log": log, "settings": run["settings"]} if log else {}),
            **({"sketches": sketches} if sketches else {})}


def main(name):
    path = HERE / f"{name}.rec"
    if path.exists():
        sys.exit(f"{path} is there: it is never written again")
    attnd = Attnd(*SETTINGS)
    recorder = subprocess.Popen([ATTNCTL, "--endpoint", attnd.endpoint("control"), "record", JOB, str(path)],
                                stderr=subprocess.PIPE, text=True)
    recorder.stderr.readline()
    messages = publish(Trainer(attnd, JOB, run=bytes(range(16))), np.random.default_rng(1))
    answer = said(attnd, messages)
    recorder.send_signal(signal.SIGINT)
    recorder.wait()
    attnd.close()
    (HERE / f"{name}.json").write_text(json.dumps(answer, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
