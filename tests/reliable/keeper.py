# SPDX-License-Identifier: MIT
"""Trainers that publish a message per step by the reliable lane, and an oracle that counts what became of them.

A trainer's own log says how many messages it published, and of how many it said that they are kept: those must be in the
history, each once; the others at most once. Each step is a window of its own, so the history tells every message."""
import itertools
import os
import pathlib
import re
import subprocess
import sys

from harness import PATIENCE_S, wait_until

PACKAGE = str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python")
SETTINGS = ("window.unit=step", "window.length=1", "window.every=1", "limits.jobs=1000", "history.checkpoint=200ms",
            "history.commit=50ms", "metrics.spectrum=false")
PROGRAM = """
import os, sys, time
import numpy as np
import attnd
from attnd.sending.rows import Rows
what, address, job, run, count, pause_us, linger_ms = sys.argv[1:]
publisher = attnd.Publisher(job, address=address, run=run, linger=int(linger_ms) / 1000,
                            reliable=True if what == "tensors" else None, reliable_bytes=64 << 20)
assert publisher.wait_for_subscriber(60)
publisher.tell_absences(lambda: "Start it again: attnd")

# Of one query, which sees two keys alike.
ROW = Rows(("largest", "total", "weighted", "distance", "first"), np.array([0, 1, 0, 1, 0], np.float32).reshape(5, 1, 1, 1),
           np.array([0, 2, 0, 1, 2, 1, 1, 0], np.int32).reshape(8, 1, 1), 1, 2)

def tell(published):
    stats = publisher.stats()
    kept = stats["sent"] + stats["unacknowledged"]
    os.write(1, b"P %d K %d D %d R %d\\n" % (published, kept, stats["dropped"], sum(stats["refused_by_reason"].values())))
    return kept + stats["dropped"]

def publish(step):
    if what == "tensors":
        return publisher.publish_attention(np.ones((1, 1, 1, 1), np.float32), stack="decoder", layer=0, step=step)
    return publisher.publish_rows(ROW, stack="decoder", layer=0, step=step)

for step in range(int(count)):
    if not publish(step):
        os.write(1, b"X %d\\n" % step)
    tell(step + 1)
    time.sleep(int(pause_us) / 1e6)
while tell(int(count)) < int(count):
    time.sleep(0.01)
sys.stdin.read()
publisher.close()
"""


def keeper_command(attnd, job, run, count, pause_us, linger_ms, tensors=True):
    """That of a trainer at an address, which publishes weights or rows and ends after the end of its input."""
    return [sys.executable, "-c", PROGRAM, "tensors" if tensors else "rows", attnd, job, run.hex(),
            *map(str, (count, pause_us, linger_ms))]


class Keeper:
    """One of them, in a process. `key`: its own, for an attnd with keys."""

    all = []

    def __init__(self, attnd, job, folder, count=1000000, pause_us=2000, linger_ms=30000, tensors=False, spool=True, address=None,
                 run=None, key=None):
        self.job, self.run, self.folder = job, run or os.urandom(16), folder
        self.log = os.path.join(folder, f"{os.urandom(16).hex()}.log")
        environment = {**os.environ, "PYTHONPATH": PACKAGE}
        if spool:
            environment["ATTND_SPOOL"] = os.path.join(folder, "spool")
        if key:
            address = attnd.endpoint("ingest")
            environment.update(ATTND_SERVER_KEY=attnd.server.public, ATTND_KEY=key.secret)
        with open(self.log, "wb") as out, open(self.log + ".err", "wb") as err:
            self.process = subprocess.Popen(
                keeper_command(address or attnd.directory, job, self.run, count, pause_us, linger_ms, tensors),
                stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment)
        Keeper.all.append(self)

    def said(self):
        """(published, kept, dropped), as it said last."""
        return self._counted()[:3]

    def refused_by_attnd(self):
        """As it said last."""
        return self._counted()[3]

    def _counted(self):
        with open(self.log, "rb") as file:
            file.seek(max(0, os.path.getsize(self.log) - 200))
            lines = re.findall(rb"^P (\d+) K (\d+) D (\d+) R (\d+)\n", file.read(), re.MULTILINE)
        return tuple(map(int, lines[-1])) if lines else (0, 0, 0, 0)

    def refused(self):
        """The steps that were not published."""
        with open(self.log, "rb") as file:
            return [int(step) for step in re.findall(rb"^X (\d+)\n", file.read(), re.MULTILINE)]

    def wait_for(self, kept):
        wait_until(lambda: self.said()[1] >= kept or self.ended(), f"{kept} messages are kept ({self.said()})", 120)
        assert not self.ended(), self.errors()

    def ended(self):
        return self.process.poll() is not None

    def errors(self):
        with open(self.log + ".err", errors="replace") as file:
            return file.read()

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def finish(self):
        """Has it close, and waits until it has."""
        self.process.stdin.close()
        assert self.process.wait(120) == 0, self.errors()


def history_of(attnd, keeper):
    """How often each step is in the history: {step: times}. One row per message. The window of the newest one is open until
    it is flushed."""
    try:
        attnd.call("flush")
        answer = attnd.call("history", job=keeper.job, run=keeper.run.hex(), metric="entropy", statistics=["count"], limit=200000)
    except RuntimeError as error:
        if str(error) in ("job_unknown", "run_unknown", "no_history"):
            return {}
        raise
    assert not answer["more"]
    return {step: int(count) for step, count in zip(answer["windows"]["last"], answer["values"]["count"][0]) if count}


def is_whole(attnd, keeper, at_least):
    """Whether each of the first steps that its queue had room for is there once, and none twice."""
    there = history_of(attnd, keeper)
    assert all(times == 1 for times in there.values()), (keeper.job, {k: n for k, n in there.items() if n != 1})
    refused = set(keeper.refused())
    steps = (step for step in itertools.count() if step not in refused)
    return set(itertools.islice(steps, at_least)) <= set(there)
