#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench hogs: how long a small job's values take while another job of the same attnd sends all it can.

    ATTND_BIN=build/daemon/attnd python3 tests/bench/hogs.py [seconds=15] [HOG...]

The small job sends [1,4,16,16] twenty times a second; measured is the time from before sending to its `live` value at a
subscriber. Each hog is a process of its own that sends one kind of message over and over as fast as attnd takes it. Prints
a JSON line for each hog: median, ninth decile and longest in ms of the values that came until two seconds and a half after
the last was sent, how many came of those sent, and what attnd has received in all. A value that has not come is in no time.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import msgpack
import numpy as np
import zmq

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "tests/reliable"), str(ROOT / "clients/python")]
import harness  # noqa: E402
import lane  # noqa: E402
from attnd.layer_state import LayerState, ROW_METRICS  # noqa: E402

STEP_WINDOWS = ("window.unit=step", "window.length=1")
# From the hog's start to the first message; from the last message to the end.
BEGIN_S, END_S = 2.0, 2.5
WIDE_EVERY_S = 2.0


class Elsewhere:
    """What harness.Trainer and lane.Lane need of an attnd that another process has started."""

    def __init__(self, **endpoints):
        self.context, self._endpoints = zmq.Context.instance(), endpoints

    def endpoint(self, name):
        return self._endpoints[name]


def state(rng, heads):
    made = LayerState(heads)
    made.add({name: rng.lognormal(size=(1, heads, 64)) for name in ROW_METRICS}, keys=256, step=0, causal=True)
    return msgpack.unpackb(made.pack(), strict_map_key=False)


def state_frames(trainer, document, step):
    document["newest"][1] = step
    packed = np.frombuffer(msgpack.packb(document), dtype=np.uint8)
    heads = len(document["heads"])
    return trainer.tensor_frames("state", {"state": packed}, step=step, heads=heads, first_epoch=0, first_step=step)


def attention(rng, heads, length):
    weights = rng.random((1, heads, length, length), dtype=np.float32)
    return weights / weights.sum(-1, keepdims=True)


def hog(kind, ingest, reliable):
    """Sends for ever; "lane-KIND" by the reliable lane."""
    by_lane, kind = kind.startswith("lane-"), kind.removeprefix("lane-")
    rng = np.random.default_rng(1)
    trainer = (lane.Lane if by_lane else harness.Trainer)(Elsewhere(ingest=ingest, reliable=reliable), "hog")
    if kind.startswith("states"):
        document = state(rng, int(kind[6:]))
        send = lambda step: trainer.send(*state_frames(trainer, document, step))  # noqa: E731
    elif kind in ("maps", "tiny"):
        weights = attention(rng, *((16, 1024) if kind == "maps" else (1, 2)))
        send = lambda step: trainer.attention(weights, step=step)  # noqa: E731
    elif kind == "qk":
        q, k = (rng.standard_normal((1, 16, 1024, 64)).astype(np.float32) for _ in range(2))
        send = lambda step: trainer.qk(q, k, step=step, scale=0.125, causal=True)  # noqa: E731
    elif kind.startswith("wide"):  # windows of as many heads as the largest models have, or eight times as many
        weights = attention(rng, int(kind[4:] or 128), 4)

        def send(step):
            for layer in range(126):
                trainer.attention(weights, layer=layer, epoch=step, step=step)
            trainer.event("epoch_end", epoch=step, step=step)
            time.sleep(WIDE_EVERY_S)
    elif kind == "epochs":
        send = lambda step: trainer.event("epoch_end", epoch=step, step=step)  # noqa: E731
    else:
        send = lambda step: trainer.event("log", step=step, values={"loss": 1.0})  # noqa: E731
    for step in range(1 << 60):
        send(step)


HOGS = {"none": (), "maps": (), "qk": (), "wide": (), "wide1024": (), "states1024": (), "states32": (), "tiny": STEP_WINDOWS, "log": STEP_WINDOWS,
        "epochs": (), "lane-states1024": (), "lane-states32": (), "lane-tiny": STEP_WINDOWS, "lane-log": STEP_WINDOWS}


def measure(kind, settings, seconds):
    rng = np.random.default_rng(2)
    weights = attention(rng, 4, 16)
    with tempfile.TemporaryDirectory(prefix="attnd-bench-") as directory:
        daemon = harness.Attnd(*settings, directory=directory)
        reader, trainer = harness.Reader(daemon, "live/small/"), harness.Trainer(daemon, "small")
        process = None
        if kind != "none":
            process = subprocess.Popen([sys.executable, __file__, "--hog", kind, daemon.endpoint("ingest"),
                                        daemon.endpoint("reliable")])
        sent, latency = {}, {}

        def read(until):
            while (left := until - time.monotonic()) > 0:
                if reader.socket.poll(int(1000 * left) + 1):
                    result = msgpack.unpackb(reader.socket.recv_multipart()[1], strict_map_key=False)
                    if not result["snapshot"] and result.get("step") in sent:
                        latency.setdefault(result["step"], time.monotonic() - sent[result["step"]])

        read(time.monotonic() + BEGIN_S)
        begin = time.monotonic()
        for step in range(int(20 * seconds)):
            sent[step] = time.monotonic()
            trainer.attention(weights, step=step)
            read(begin + (step + 1) / 20)
        read(time.monotonic() + END_S)
        received = daemon.stats()["received"]
        if process:
            assert process.poll() is None, "the hog has ended by itself"
            process.kill()
            process.wait()
        daemon.process.kill()
        daemon.process.wait()
        daemon.context.destroy(linger=0)
    ms = sorted(1e3 * one for one in latency.values()) or [float("nan")]
    print(json.dumps({"bench": "hogs", "hog": kind, "median_ms": round(statistics.median(ms), 1),
                      "p90_ms": round(ms[int(0.9 * (len(ms) - 1))], 1), "longest_ms": round(ms[-1], 1),
                      "came": len(latency), "sent": len(sent), "received": received}), flush=True)


def main():
    if sys.argv[1:2] == ["--hog"]:
        hog(*sys.argv[2:])
    seconds, kinds = 15.0, []
    for argument in sys.argv[1:]:
        if argument.startswith("seconds="):
            seconds = float(argument[8:])
        else:
            kinds.append(argument)
    for kind in kinds or HOGS:
        measure(kind, HOGS[kind], seconds)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
