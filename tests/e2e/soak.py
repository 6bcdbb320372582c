# SPDX-License-Identifier: MIT
"""A soak: trainers that come, go, fork ranks and die, subscribers that never read, HTTP clients that listen, ask, stall and
vanish, flushes and questions, for minutes.

    ATTND_BIN=build/daemon/attnd python3 tests/e2e/soak.py [MINUTES]

Every 15 seconds the identity received = processed + dropped (+ in flight) is checked and a JSON line printed; at the end memory
must be flat: its median over the last quarter of the time may not be above that of the second quarter by more than 5 %. (It swings
with what is in flight; a leak raises the middle.)
"""
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time

import numpy as np
from harness import Attnd, Reader, Trainer, softmax_maps

REPORT_S = 15


class Job:
    """One trainer in this process, publishing random layers for a few epochs."""

    def __init__(self, attnd, rng, randomly):
        self.rng, self.randomly = rng, randomly
        self.run = os.urandom(16)
        world = randomly.choice([1, 1, 2])
        name = f"job{randomly.randrange(12)}"
        self.ranks = [Trainer(attnd, name, rank, world, self.run) for rank in range(world)]
        self.layers, self.heads = randomly.randrange(1, 5), randomly.randrange(1, 9)
        self.epochs, self.epoch, self.step = randomly.randrange(1, 6), 0, 0
        self.length = randomly.choice([1, 7, 16, 33, 64])

    def advance(self):
        """A step of every rank. False when the job is over."""
        for trainer in self.ranks:
            for layer in range(self.layers):
                weights = softmax_maps(self.rng, 1, self.heads, self.length, self.length)
                trainer.attention(weights, layer=layer, epoch=self.epoch, step=self.step)
        self.step += 1
        if self.step % 10 == 0:
            for trainer in self.ranks:
                trainer.event("epoch_end", epoch=self.epoch)
            self.epoch += 1
        return self.epoch < self.epochs

    def leave(self):
        for trainer in self.ranks:
            if self.randomly.random() < 0.7:
                trainer.event("bye", epoch=self.epoch)
            trainer.close()


def deaf_subscriber(attnd):
    """A process that subscribes to everything and never reads."""
    code = ("import sys, time, zmq; s = zmq.Context().socket(zmq.SUB); s.rcvhwm = 1; s.subscribe(b''); "
            "s.connect(sys.argv[1]); time.sleep(10000)")
    return subprocess.Popen([sys.executable, "-c", code, attnd.endpoint("publish")])


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
    samples.append(attnd.rss_kb())
    print(json.dumps(dict(soak_s=round(time.monotonic() - started), rss_kb=samples[-1], received=stats["received"],
                          processed=stats["processed"], dropped=stats["dropped"], lost=stats["lost"],
                          summaries=stats["summaries"], jobs=stats["jobs"])), flush=True)


def stir(attnd, jobs, rng, randomly):
    """One turn of everything that can happen."""
    while len(jobs) < 4:
        jobs.append(Job(attnd, rng, randomly))
    for job in list(jobs):
        if not job.advance() or randomly.random() < 0.005:
            job.leave()
            jobs.remove(job)
    if randomly.random() < 0.02:
        attnd.call("flush")
    if randomly.random() < 0.02:
        Reader(attnd, "summary/", "live/").close()


def soak(minutes):
    attnd = Attnd("limits.jobs=8", "limits.idle=5s", "window.timeout=2s", "window.rank_grace=1s",
                  "window.length=3", "log.level=error", "publish.send_queue=50", "http.enabled=true",
                  "http.endpoint=tcp://127.0.0.1:*")
    port = int(attnd.call("config")["http.endpoint"].rsplit(":", 1)[1])
    visitors, answered = [], [0]
    rng, randomly = np.random.default_rng(1), random.Random(1)
    deaf = deaf_subscriber(attnd)
    jobs, samples = [], []
    started = report = time.monotonic()
    while time.monotonic() - started < 60 * minutes:
        stir(attnd, jobs, rng, randomly)
        receive_visitors(port, visitors, randomly, answered)
        if time.monotonic() > report:
            check(attnd, started, samples)
            report += REPORT_S
    deaf.send_signal(signal.SIGKILL)
    deaf.wait()
    for job in jobs:
        job.leave()
    for visitor in visitors:
        visitor.socket.close()
    attnd.settled(0)
    attnd.close()
    quarter = max(1, len(samples) // 4)
    early, late = statistics.median(samples[quarter:2 * quarter]), statistics.median(samples[-quarter:])
    print(json.dumps(dict(early_rss_kb=early, late_rss_kb=late, http_bytes=answered[0], flat=late <= 1.05 * early)))
    assert answered[0] > 0, "no HTTP client was answered"
    return 0 if late <= 1.05 * early else 1


if __name__ == "__main__":
    sys.exit(soak(float(sys.argv[1]) if len(sys.argv) > 1 else 10))
