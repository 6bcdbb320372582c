#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Has attnd keep the history of a training that collapses:

    make_history.py NAME     writes NAME.db.gz, and NAME.json: what attnd says of it

Run once per schema of the history, to add files. See README.md: files that are there are never written again.
"""
import gzip
import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / ".." / ".." / "e2e"))
from harness import Attnd, Trainer, wait_until  # noqa: E402

SETTINGS = ("window.unit=step", "window.rank_grace=0", "history.commit=50ms", "history.states=1", "history.maps=false")
JOB, STEPS, HEADS, T = "golden", 70, 2, 4


def publish(trainer):
    """Heads that get sharper in three stages, until they look at one key each: files of few numbers are small."""
    logits = np.random.default_rng(1).normal(size=(1, HEADS, T, T))
    for step in range(STEPS):
        weights = np.exp(step // 24 * 30 * (logits - logits.max(-1, keepdims=True)))
        trainer.attention((weights / weights.sum(-1, keepdims=True)).astype(np.float32), step=step)
    trainer.event("bye", step=STEPS - 1)


def said(attnd):
    """Later versions have to read the file alike."""
    run, = attnd.call("runs", job=JOB)["runs"]
    history = attnd.call("history", job=JOB, metric="entropy_normalized", limit=STEPS)
    return {"run": {key: run[key] for key in ("run", "state", "world", "first_ns", "last_ns", "epoch", "step")},
            "last": history["windows"]["last"], "time_ns": history["windows"]["time_ns"][-1],
            "values": {name: [[round(x, 6) for x in head] for head in history["values"][name]] for name in ("mean", "max", "p90")},
            "metrics": sorted(attnd.call("windows", job=JOB)["layers"][0]["metrics"])}


def main(name):
    path = HERE / f"{name}.db.gz"
    if path.exists():
        sys.exit(f"{path} is there: it is never written again")
    attnd = Attnd(*SETTINGS)
    trainer = Trainer(attnd, JOB, run=bytes(range(16)))
    publish(trainer)
    attnd.settled(STEPS + 1)
    wait_until(lambda: [run for run in attnd.call("runs", job=JOB)["runs"] if run["state"] == "ended"], "the run's history")
    answer, database = said(attnd), pathlib.Path(attnd.history_path)
    attnd.stop()
    path.write_bytes(gzip.compress(database.read_bytes(), 9, mtime=0))
    attnd.discard()
    (HERE / f"{name}.json").write_text(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
