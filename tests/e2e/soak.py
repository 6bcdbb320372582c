# SPDX-License-Identifier: MIT
"""A soak: crowds of trainers that come, go, fork ranks and die, subscribers that never read, HTTP clients that listen, ask,
stall and vanish, flushes and questions, keys that rotate, for minutes, over TCP with keys. An eighth of the time on attnd
itself is killed and comes back.

    ATTND_BIN=build/daemon/attnd python3 tests/e2e/soak.py [MINUTES] [--rate TIMES]

The normal rate is 250 messages a second. Every 15 seconds the identity received = processed + dropped (+ in flight) is checked
and a JSON line printed; at the end the history must be sound, and memory flat: its median over the last quarter of the time
may not be above that of the second quarter by more than 5 %. (It swings with what is in flight; a leak raises the middle.) The
slope is that of a straight line through the samples after the second quarter has begun.
"""
import argparse
import json
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import zmq

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "access"))
from harness import Reader, Trainer, softmax_maps  # noqa: E402
from keyed import Keyed, Pair, Somebody, give_key  # noqa: E402

REPORT_S, ROTATE_S = 15, 20
NORMAL_RATE, CROWDS, JOBS = 250, 2, 4  # messages a second; trainers' processes, and jobs of each
# So low that all of them are reached in the first quarter.
LIMITS = ("limits.jobs=8", "limits.runs=4", "limits.idle=5s", "limits.state_memory=64MiB", "window.timeout=2s",
          "window.rank_grace=1s", "window.length=3", "maps.memory=16MiB", "publish.send_queue=50",
          "ingest.max_message=1MiB", "ingest.budget=32MiB", "history.max_size=64MiB", "http.enabled=true",
          "http.endpoint=tcp://127.0.0.1:*", "publish.budget=16MiB")


class Job:
    """One trainer in this process, publishing random layers for a few epochs."""

    def __init__(self, attnd, maps, randomly):
        self.maps, self.randomly = maps, randomly
        self.run = os.urandom(16)
        world = randomly.choice([1, 1, 2])
        name = f"job{randomly.randrange(12)}"
        self.ranks = [Trainer(attnd, name, rank, world, self.run) for rank in range(world)]
        self.layers, self.weights = randomly.randrange(1, 5), randomly.choice(maps)
        self.epochs, self.epoch, self.step = randomly.randrange(1, 6), 0, 0

    def advance(self):
        """A step of every rank: how many messages that were."""
        for trainer in self.ranks:
            for layer in range(self.layers):
                trainer.attention(self.weights, layer=layer, epoch=self.epoch, step=self.step)
        self.step += 1
        if self.step % 10 == 0:
            for trainer in self.ranks:
                trainer.event("epoch_end", epoch=self.epoch)
            self.epoch += 1
        return len(self.ranks) * self.layers

    def has_ended(self):
        return self.epoch == self.epochs or self.randomly.random() < 0.005

    def leave(self):
        for trainer in self.ranks:
            if self.randomly.random() < 0.7:
                trainer.event("bye", epoch=self.epoch)
            trainer.close()


def crowd_main(rate):
    """Jobs until the soak has ended, at a rate of messages; where attnd is, and with which key, comes from standard input."""
    about = json.loads(sys.stdin.readline())
    attnd = SimpleNamespace(context=give_key(zmq.Context(), SimpleNamespace(public=about["server"]),
                                             SimpleNamespace(**about["pair"])), endpoint=about["endpoints"].get)
    rng, randomly = np.random.default_rng(about["seed"]), random.Random(about["seed"])
    maps = [softmax_maps(rng, 1, randomly.randrange(1, 9), length, length) for length in (1, 7, 16, 33, 64) for _ in range(4)]
    jobs, sent, started, parent = [], 0, time.monotonic(), os.getppid()
    while os.getppid() == parent:
        while len(jobs) < JOBS:
            jobs.append(Job(attnd, maps, randomly))
        for job in list(jobs):
            sent += job.advance()
            if job.has_ended():
                job.leave()
                jobs.remove(job)
        time.sleep(max(0, started + sent / rate - time.monotonic()))
    return 0


class Crowd:
    """A process of trainers with a key of its own."""

    def __init__(self, attnd, pair, rate, seed):
        self.pair = pair
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__), "--crowd", "--rate", str(rate)],
                                        stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        about = dict(server=attnd.server.public, pair=vars(pair), seed=seed, endpoints={"ingest": attnd.endpoint("ingest")})
        self.process.stdin.write(json.dumps(about) + "\n")
        self.process.stdin.flush()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


class Crowds:
    """All of them. One that has given up, because attnd was away, is replaced."""

    def __init__(self, attnd, rate, randomly):
        self.attnd, self.rate, self.randomly = attnd, rate / CROWDS, randomly
        pairs = [Pair() for _ in range(CROWDS)]
        self.tell(pairs)
        self.list = [self.make(pair) for pair in pairs]
        self.killed = self.rotated = 0

    def make(self, pair):
        return Crowd(self.attnd, pair, self.rate, self.randomly.randrange(1 << 30))

    def tell(self, pairs):
        self.attnd.write(*((pair, "publish", "job*") for pair in pairs))
        self.attnd.reload()

    def stir(self):
        for index, crowd in enumerate(self.list):
            if self.randomly.random() < 0.0002:
                self.killed += 1
                crowd.process.kill()
            if crowd.process.poll() is not None:
                crowd.kill()
                self.list[index] = self.make(crowd.pair)

    def rotate(self):
        """One gets another key; the old one is taken away while it is in use, and refused from then on."""
        old, pair = self.list[self.rotated % CROWDS], Pair()
        others = [crowd.pair for crowd in self.list if crowd is not old]
        self.tell([*others, pair])
        self.list[self.rotated % CROWDS] = self.make(pair)
        old.kill()
        stranger = Somebody(self.attnd, old.pair)
        assert stranger.is_refused("ingest"), "a key that was taken away"
        stranger.context.destroy(linger=0)
        self.rotated += 1

    def leave(self):
        for crowd in self.list:
            crowd.kill()


def deaf_subscriber(attnd):
    """A process that subscribes to everything and never reads."""
    code = ("import sys, time, zmq; s = zmq.Context().socket(zmq.SUB); s.rcvhwm = 1; s.subscribe(b''); "
            "s.curve_serverkey, s.curve_publickey, s.curve_secretkey = (k.encode() for k in sys.stdin.readline().split()); "
            "s.connect(sys.argv[1]); time.sleep(10000)")
    deaf = subprocess.Popen([sys.executable, "-c", code, attnd.endpoint("publish")], stdin=subprocess.PIPE, text=True)
    deaf.stdin.write(f"{attnd.server.public} {attnd.owner.public} {attnd.owner.secret}\n")
    deaf.stdin.flush()
    return deaf


class Visitor:
    """One HTTP connection. It asks something, or half of something, and then reads it, or little of it, or nothing."""

    PATHS = ["/", "/metrics", "/api/v1/jobs", "/api/v1/stats", "/api/v1/alerts", "/api/v1/openapi.json", "/assets/main.js",
             "/api/v1/live?job=job1", "/api/v1/summary?job=job2", "/api/v1/grid?job=job3", "/api/v1/maps?job=job4",
             "/api/v1/rollout?job=job5", "/api/v1/history?job=job6", "/api/v1/compare?job=job7", "/healthz", "/readyz",
             "/../etc/passwd", "/api/v1/history?job=%00&limit=x"]

    def __init__(self, port, randomly):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.greedy = randomly.random() < 0.7
        path = "/api/v1/events" if randomly.random() < 0.3 else randomly.choice(self.PATHS)
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        self.socket.send(request[:randomly.randrange(len(request))] if randomly.random() < 0.1 else request)
        self.received = 0

    def read(self):
        """False when the connection is over."""
        try:
            data = self.socket.recv(1 << 20 if self.greedy else 100)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        self.received += len(data)
        return bool(data)


def receive_visitors(port, visitors, randomly, answered):
    """A few come, a few go, the others read. Counts in `answered` the bytes they got."""
    while len(visitors) < 60 and randomly.random() < 0.7:
        visitors.append(Visitor(port, randomly))
    for visitor in list(visitors):
        if not visitor.read() or randomly.random() < 0.01:
            answered[0] += visitor.received
            visitor.socket.close()
            visitors.remove(visitor)


def check(attnd, started, samples):
    stats = attnd.stats()
    used = stats["processed"] + sum(stats["dropped"].values()) + stats["in_flight"]
    assert stats["received"] == used, stats
    samples.append((time.monotonic() - started, attnd.rss_kb()))
    print(json.dumps(dict(soak_s=round(samples[-1][0]), rss_kb=samples[-1][1], received=stats["received"],
                          processed=stats["processed"], dropped=stats["dropped"], lost=stats["lost"],
                          summaries=stats["summaries"], jobs=stats["jobs"], stored=stats["stored"],
                          store_dropped=stats["store_dropped"], keys_refused=stats["keys_refused"])), flush=True)


def check_history(attnd):
    with sqlite3.connect(attnd.history_path) as db:
        assert db.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
        return db.execute("SELECT count(*) FROM windows").fetchone()[0]


def http_port(attnd):
    return int(attnd.call("config")["http.endpoint"].rsplit(":", 1)[1])


class SoakedAttnd(Keyed):
    """One whose limits are reached."""

    def start(self):
        self.settings = tuple(dict.fromkeys((*self.settings, *LIMITS)))
        super().start()


def soak(minutes, rate):
    attnd = SoakedAttnd()
    port, visitors, answered = http_port(attnd), [], [0]
    randomly = random.Random(1)
    deaf = deaf_subscriber(attnd)
    crowds = Crowds(attnd, rate * NORMAL_RATE, randomly)
    started = time.monotonic()
    samples, kill_at, report, rotate = [], started + 60 * minutes / 8, started + REPORT_S, started + ROTATE_S
    while time.monotonic() - started < 60 * minutes:
        time.sleep(0.005)
        crowds.stir()
        receive_visitors(port, visitors, randomly, answered)
        if randomly.random() < 0.002:
            attnd.call("flush")
        if randomly.random() < 0.002:
            Reader(attnd, "summary/", "live/").close()
        now = time.monotonic()
        if now > rotate:
            crowds.rotate()
            rotate += ROTATE_S
        if now > report:
            check(attnd, started, samples)
            report += REPORT_S
        if kill_at and now > kill_at:
            attnd.process.kill()
            attnd.process.wait()
            attnd.start()
            port, kill_at = http_port(attnd), None
            print(json.dumps(dict(soak_s=round(now - started), killed=True, windows=check_history(attnd))), flush=True)
    deaf.kill()
    deaf.wait()
    crowds.leave()
    for visitor in visitors:
        visitor.socket.close()
    attnd.settled(0)
    code = attnd.stop()
    windows = check_history(attnd)
    attnd.discard()
    assert code == 0, code
    return report_end(samples, answered[0], windows, crowds)


def report_end(samples, http_bytes, windows, crowds):
    quarter = max(1, len(samples) // 4)
    early, late = (statistics.median(rss for _, rss in part) for part in (samples[quarter:2 * quarter], samples[-quarter:]))
    times, sizes = np.array(samples[quarter:]).T
    flat = late <= 1.05 * early
    print(json.dumps(dict(early_rss_kb=early, late_rss_kb=late, slope_kb_per_minute=round(60 * np.polyfit(times, sizes, 1)[0], 1),
                          http_bytes=http_bytes, windows=windows, crowds_killed=crowds.killed, keys_rotated=crowds.rotated,
                          flat=flat)))
    assert http_bytes > 0, "no HTTP client was answered"
    return 0 if flat else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float, nargs="?", default=10)
    parser.add_argument("--rate", type=float, default=1, help="times the normal rate")
    parser.add_argument("--crowd", action="store_true", help="a process of trainers, at this many messages a second")
    arguments = parser.parse_args()
    return crowd_main(arguments.rate) if arguments.crowd else soak(arguments.minutes, arguments.rate)


if __name__ == "__main__":
    sys.exit(main())
