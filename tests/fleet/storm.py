#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Three nodes, two hubs and a nats-server, to which bad things happen at random; then the hubs' histories are compared with the
merge of the nodes', window by window. As root each is on a machine of its own (a network namespace), whose cable is pulled; with
a C compiler the clocks of nodes and hubs jump.

Usage: ATTND_BIN=build/daemon/attnd tests/fleet/storm.py MINUTES [SEED]

Each row of the table is a run of some ten seconds: how often something was killed, stood still or lost what it had; windows
that were compared, how many the hubs call partial, and how many are wrong, of which there must be none. Exits with 1 if there
are any. Whoever is killed or loses something is drawn at random, and so is when.
"""
import contextlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "e2e"), str(HERE.parent / "e2e" / "access")]
import merging  # noqa: E402
from fleet import ENDED, Hub, Node, Server, Training, in_order, state_of_run  # noqa: E402
from harness import Attnd, wait_until  # noqa: E402
from machines import NoNetwork, Star  # noqa: E402
from nats import Nats  # noqa: E402

PATIENCE_S = 120
YEAR_S = 365 * 86400


class Clocks:
    """Clocks that a file each sets wrong (wrong_clock.c)."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="clocks-")
        self.library = os.path.join(self.directory, "wrong_clock.so")
        done = subprocess.run(["cc", "-shared", "-fPIC", "-o", self.library, HERE / "wrong_clock.c"], check=False)
        self.there = done.returncode == 0
        self.seconds = {}

    def of(self, name):
        return os.path.join(self.directory, name)

    def set(self, name, seconds):
        self.seconds[name] = seconds
        with open(self.of(name), "r+b" if os.path.exists(self.of(name)) else "wb") as file:
            file.write(struct.pack("=q", seconds))

    def running(self, name):
        """For subprocess: the program has this clock."""
        def prepare():
            os.environ.update(LD_PRELOAD=self.library, WRONG_CLOCK=self.of(name))
        self.set(name, 0)
        return prepare if self.there else None


class Storm:
    def __init__(self, seed):
        self.random, self.counts = random.Random(seed), {}
        names = ["node_killed", "hub_killed", "server_killed", "node_stopped", "server_stalled", "server_away", "store_lost",
                 "stream_lost", "hub_lost", "parts_lost", "node_restored", "hub_restored"]
        self.clocks, self.kept = Clocks(), {}
        try:
            self.star = Star(5)
            names.append("cable_pulled")
            self.star.center.__enter__()  # this program is there, and so is the server, whenever it starts
            self.server = Server(host="0.0.0.0")
        except NoNetwork as error:
            print(error)
            self.star, self.server = None, Server()
        if self.clocks.there:
            names.append("clock_set")
        self.hubs = [self.member(Hub, f"hub-{i}", i) for i in range(2)]
        self.nodes = [self.member(Node, f"node-{i}", 2 + i) for i in range(3)]
        self.things = {name: getattr(self, name) for name in names}

    def member(self, kind, name, place):
        keys = {"preexec_fn": self.clocks.running(name)}
        if self.star:
            keys.update(url=f"nats://10.78.{place}.1:{self.server.port}", machine=self.star.others[place])
        return kind(self.server, name, **keys)

    def restart_node(self, sig):
        node = self.random.choice(self.nodes)
        node.again(sig)
        self.training.rejoin(node)

    def node_killed(self):
        self.restart_node(signal.SIGKILL)

    def node_stopped(self):
        self.restart_node(signal.SIGTERM)

    def hub_killed(self):
        self.random.choice(self.hubs).again()

    def server_killed(self):
        self.server.stop()
        self.server.start()

    def server_stalled(self):
        self.server.process.send_signal(signal.SIGSTOP)
        self.training.steps(self.random.randrange(8), 0.2)
        self.server.process.send_signal(signal.SIGCONT)

    def server_away(self):
        self.server.stop()
        self.training.steps(self.random.randrange(12), 0.2)
        self.server.start()

    def store_lost(self):
        self.server.stop()
        self.server.lose_everything()
        self.server.start()
        self.bereft.update(hub.name for hub in self.hubs)

    def stream_lost(self):
        """A part of it, as by a crash of the server's machine."""
        client = Nats(self.server)
        try:
            state = client.stream()["state"]
            client.stream("PURGE", {"seq": self.random.randint(state["first_seq"], state["last_seq"] + 1)})
            self.bereft.update(hub.name for hub in self.hubs)
        except RuntimeError:  # there is none yet
            pass
        client.close()

    def cable_pulled(self):
        place = self.random.randrange(5)
        self.star.pull(place)
        self.training.steps(self.random.randrange(1, 12), 0.2)
        self.star.plug(place)

    def clock_set(self):
        """Of a node or a hub; by a little, by days, by years."""
        one = self.random.choice([*self.hubs, *self.nodes])
        self.clocks.set(one.name, self.random.choice([0, 0, 30, -30, 86400, -86400, 2 * YEAR_S, -2 * YEAR_S]))

    def is_behind_its_numbers(self, one):
        """Its clock is: numbers that the hubs know would come again after an older history (FLEET.md)."""
        with contextlib.closing(sqlite3.connect(one.history_path)) as history:
            newest = history.execute("SELECT seq FROM sqlite_sequence WHERE name = 'outbox'").fetchone()
        return newest and newest[0] >= time.time_ns() + self.clocks.seconds[one.name] * 10**9

    def restored(self, one):
        """It gets the history back that it had after an earlier clean end; where there is none, that of now is kept for it."""
        one.stop(signal.SIGTERM)
        directory = tempfile.mkdtemp(prefix="kept-", dir=self.clocks.directory)
        shutil.copy(one.history_path, directory)
        found = None if self.is_behind_its_numbers(one) else self.kept.pop(one.name, None)
        if found:
            os.replace(found, one.history_path)
            self.replaced.setdefault(one.name, []).append(directory + "/history.db")
        else:
            self.kept[one.name] = directory + "/history.db"
        one.start()

    def node_restored(self):
        node = self.random.choice(self.nodes)
        self.restored(node)
        self.training.rejoin(node)

    def hub_restored(self):
        self.restored(self.random.choice(self.hubs))

    def hub_lost(self, history=True):
        hub = self.random.choice(self.hubs)
        hub.stop()
        hub.lose_everything(history)
        hub.start()
        self.bereft.add(hub.name)

    def parts_lost(self):
        self.hub_lost(history=False)

    def one_run(self, number, seconds):
        """Returns its row of the table, and sentences that say what is wrong."""
        self.counts, self.replaced = dict.fromkeys(self.things, 0), {}
        self.bereft = set()  # hubs that may never get what a life of a node had sent that was lost by restoring an older one
        ranks = self.random.choices(self.nodes, k=self.random.randrange(3, 7))
        ranks[:3] = self.nodes
        self.training = Training(ranks, job=f"job-{number}", seed=number)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.training.steps(self.random.randrange(1, 6), self.random.uniform(0, 0.1))
            thing = self.random.choice(list(self.things))
            self.counts[thing] += 1
            self.things[thing]()
            assert all(one.process.poll() is None for one in (*self.hubs, *self.nodes)), "one has ended"
        self.training.steps(4, 0.05)
        self.training.bye()
        paths, job, wrong = in_order(self.nodes), self.training.job, []

        def is_right():
            wrong[:] = [f"{hub.name}: {text}" for hub in self.hubs
                        for text in merging.wrong(hub.history_path, paths, hub.missing(), job, self.replaced, hub.name in self.bereft)]
            if not wrong and any(state_of_run(hub, self.training) != ENDED for hub in self.hubs):
                wrong.append("the run has not ended at the hubs")
            return not wrong
        try:
            wait_until(is_right, "the hubs", PATIENCE_S)
        except AssertionError:
            pass
        windows = [merging.windows_of(hub.history_path, job) for hub in self.hubs]
        same = sum(one.data == windows[1][key].data for key, one in windows[0].items() if key in windows[1])
        for trainer in self.training.trainers:
            trainer.close()
        row = [*self.counts.values(), len(windows[0]), sum(one.partial for one in windows[0].values()), same, len(wrong)]
        return row, wrong[:]


def main():
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 1
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int.from_bytes(os.urandom(4), "little")
    storm, bad, number, total = Storm(seed), [], 0, None
    print("seed", seed, flush=True)
    print("run", *storm.things, "windows", "partial", "same_bytes", "wrong", sep="\t", flush=True)
    end = time.monotonic() + 60 * minutes
    try:
        while not bad and (time.monotonic() < end or number == 0):
            row, bad = storm.one_run(number, min(10, 30 * minutes))
            total = [a + b for a, b in zip(total or [0] * len(row), row)]
            print(number, *row, sep="\t", flush=True)
            number += 1
        print("all", *total, sep="\t", flush=True)
    finally:
        if not bad:
            while Attnd.all:
                Attnd.all.pop().discard()
            storm.server.discard()
            shutil.rmtree(storm.clocks.directory)
    if bad:
        print(*bad[:50], sep="\n")
        for one in (*storm.hubs, *storm.nodes):
            print(one.name, one.directory, one.fleet())
            one.stop()
        storm.server.stop()
        sys.exit(f"{len(bad)} sentences about what is wrong; seed {seed}")


if __name__ == "__main__":
    main()
