# SPDX-License-Identifier: MIT
"""A soak of the reliable lane: kills of either side under load, and a network that is slow, loses and is cut; full
disks are in test_clients.py, bounds in tests/python/test_reliable.py. The logs of the trainers are compared with the
history, message by message.

    ATTND_BIN=... python3 tests/reliable/lane_soak.py [KILLS [PART...]]

Trainers publish rows and weights in turn. It ends with a table: messages that were published; of which their trainer had said that
they are kept; that are in the history; that are in it twice; that were said to be kept and are missing; that the trainer
counted as refused by attnd, where each run has one process; that it counted as dropped, at the bound of what is kept or of its
queue. The three before the last must be 0. Networks need root.
"""
import glob
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("reliable", "e2e", "e2e/access", "fleet")]
from harness import Attnd, wait_until  # noqa: E402
from keeper import SETTINGS, Keeper, history_of  # noqa: E402
from machines import Star  # noqa: E402

PATIENCE_S = 300
HOST = "10.78.0.1"  # of the center of the star
# The first that the kernel has: delays and losses, or a narrow line with a short queue, which loses packets too.
QDISCS = ("netem delay 30ms 10ms loss 2% rate 8mbit", "tbf rate 2mbit burst 16kbit latency 100ms")
COLUMNS = ("published", "kept", "in the history", "twice", "missing", "refused", "dropped")


class Tally:
    """The trainers of one part of the soak."""

    def __init__(self, name):
        self.name, self.folder, self.keepers = name, tempfile.mkdtemp(prefix="lane-soak-"), []
        self.randomly = random.Random(name)

    def trainer(self, attnd, **more):
        keeper = Keeper(attnd, f"{self.name}{len(self.keepers)}", self.folder, tensors=len(self.keepers) % 2 == 1,
                        **{"pause_us": 2000, **more})
        self.keepers.append(keeper)
        return keeper

    def spooled(self):
        return glob.glob(os.path.join(self.folder, "spool", "*.rec"))

    def settle(self, attnd):
        """Has a last process send what the killed ones have left, and all that live close; waits for the history."""
        last = self.trainer(attnd, count=1)
        living = [keeper for keeper in self.keepers if not keeper.ended()]
        wait_until(lambda: len(self.spooled()) <= len(living), f"the files of the dead go: {self.spooled()}", PATIENCE_S)
        for keeper in living:
            if keeper is not last:
                keeper.kill()
        wait_until(lambda: last.said()[1] >= 1, "the last one", PATIENCE_S)
        last.finish()
        closer = self.trainer(attnd, count=1)  # of what those left that were killed just now
        wait_until(lambda: len(self.spooled()) <= 1, "the files of the dead go", PATIENCE_S)
        wait_until(lambda: closer.said()[1] >= 1, "the last one", PATIENCE_S)
        closer.finish()

    def row(self, attnd):
        total = dict.fromkeys(COLUMNS, 0)
        for keeper in self.keepers:
            published, kept, dropped = keeper.said()
            there = history_of(attnd, keeper)
            missing = set(range(kept)) - set(there) if not dropped else range(max(0, kept - len(there)))
            for name, count in zip(COLUMNS, (published, kept, len(there), sum(times > 1 for times in there.values()),
                                             len(missing), keeper.refused_by_attnd(), dropped)):
                total[name] += count
        return [self.name, *total.values()]

    def done(self, attnd):
        """Windows that are flushed take a moment to get to the history."""
        deadline = time.monotonic() + 60
        row = self.row(attnd)
        while row[5] and time.monotonic() < deadline:
            time.sleep(1)
            row = self.row(attnd)
        shutil.rmtree(self.folder, ignore_errors=True)
        print(*row, sep="\t", flush=True)
        return row


def restart(attnd):
    attnd.stop(signal.SIGKILL)
    attnd.start()


def daemon(*settings, **more):
    return Attnd(*SETTINGS, *settings, **more)


def kills(count):
    """Each side so often, at random moments."""
    attnd, tally = daemon(), Tally("kills")
    living = [tally.trainer(attnd) for _ in range(4)]
    for i in range(count):
        time.sleep(tally.randomly.uniform(0.05, 0.6))
        victim = living.pop(tally.randomly.randrange(len(living)))
        victim.kill()
        living.append(tally.trainer(attnd))
        time.sleep(tally.randomly.uniform(0.05, 0.6))
        restart(attnd)
        if i % 20 == 19:
            print(f"{i + 1} kills of each side", file=sys.stderr, flush=True)
    tally.settle(attnd)
    row = tally.done(attnd)
    attnd.discard()
    return row


def network(cuts):
    """Slow, lossy, and cut again and again."""
    star = Star(1)
    here, (there,) = star.center, star.others
    with there:
        slow = next((qdisc for qdisc in QDISCS if subprocess.run(f"tc qdisc add dev eth0 root {qdisc}".split(), check=False,
                                                                 stderr=subprocess.DEVNULL).returncode == 0), None)
    print(f"network: {slow or 'not slowed: the kernel has neither netem nor tbf'}", file=sys.stderr, flush=True)
    with here:
        attnd = daemon("insecure=true", f"ingest.endpoint=tcp://{HOST}:5570", f"reliable.endpoint=tcp://{HOST}:5574")
    tally = Tally("network")
    with there:
        living = [tally.trainer(attnd, address=f"tcp://{HOST}:5570", pause_us=5000) for _ in range(2)]
    for keeper in living:
        keeper.wait_for(20)
    for i in range(cuts):
        time.sleep(tally.randomly.uniform(1, 3))
        star.pull(0)
        time.sleep(tally.randomly.uniform(0.5, 6))
        star.plug(0)
        if i == cuts // 2:
            with here:
                restart(attnd)
    for keeper in living:
        keeper.wait_for(keeper.said()[1] + 100)
    for keeper in living:
        keeper.kill()
    with there:
        subprocess.run("tc qdisc del dev eth0 root".split(), check=slow is not None)
        last = tally.trainer(attnd, count=1, address=f"tcp://{HOST}:5570")
    wait_until(lambda: len(tally.spooled()) <= 1, "the files of the dead go", PATIENCE_S)
    last.finish()
    row = tally.done(attnd)
    attnd.discard()
    return row


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    parts = {"kills": lambda: kills(count)}
    if os.geteuid() == 0:
        parts["network"] = lambda: network(max(1, count // 10))
    print("part", *COLUMNS, sep="\t", flush=True)
    rows = [parts[name]() for name in sys.argv[2:] or parts]
    bad = [row for row in rows if any(row[4:7])]
    sys.exit(f"messages are missing, twice, or refused: {bad}" if bad else 0)


if __name__ == "__main__":
    main()
