# SPDX-License-Identifier: MIT
"""What was recorded is what came, and replaying it gives the same summaries, byte for byte."""
import json
import os
import re
import signal
import subprocess
import tempfile

import msgpack
import numpy as np
import pytest
import zmq

from harness import PATIENCE_S, Attnd, Reader, Trainer, softmax_maps, wait_until

ATTNCTL = os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")
# Nothing that depends on how busy the machine is.
STEADY = ("metrics.spectrum_budget=0", "history.enabled=false")


def attnctl(*arguments, attnd=None):
    environment = dict(os.environ, ATTND_ENDPOINT=attnd.endpoint("control") if attnd else "ipc:///nobody")
    return subprocess.run([ATTNCTL, *map(str, arguments)], capture_output=True, text=True, env=environment,
                          timeout=4 * PATIENCE_S)


class Recorder:
    """attnctl record in the background, from the moment that it hears."""

    def __init__(self, attnd, job, path, *options):
        environment = dict(os.environ, ATTND_ENDPOINT=attnd.endpoint("control"))
        self.process = subprocess.Popen([ATTNCTL, "record", job, str(path), *map(str, options)], text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        self.started = self.process.stderr.readline()
        assert self.started == f"attnctl: recording {job} to {path}; Ctrl-C ends\n"

    def end(self, sig=None):
        if sig:
            self.process.send_signal(sig)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


class Tap:
    """A recorder of our own, which sees frames."""

    def __init__(self, attnd, job):
        self.socket = attnd.context.socket(zmq.SUB)
        self.socket.linger = 0
        self.socket.rcvhwm = 0
        self.socket.connect(attnd.endpoint("tap"))
        self.socket.subscribe(f"tap/{job}/".encode())
        greeting = self.next()
        assert len(greeting) == 2
        self.first = greeting[1]["n"]

    def next(self):
        assert self.socket.poll(int(1000 * PATIENCE_S)), "nothing came from the tap"
        frames = self.socket.recv_multipart()
        return [frames[0], msgpack.unpackb(frames[1]), *frames[2:]]

    def silent(self):
        return not self.socket.poll(100)


def publish_run(attnd, rng, job="gpt", ranks=2, epochs=3, slowly=False):
    """Random messages of several ranks, layers and tiers, which begin and end as a run does; `slowly` waits for attnd
    after each step. Returns how many."""
    run = rng.bytes(16)
    trainers = [Trainer(attnd, job, rank, ranks, run) for rank in range(ranks)]
    sent = 0
    for trainer in trainers:
        trainer.event("hello", client="test")
        sent += 1
    for epoch in range(epochs):
        for step in range(3 * epoch, 3 * epoch + 3):
            for trainer in trainers:
                place = dict(epoch=epoch, step=step)
                trainer.attention(softmax_maps(rng, 2, 3, 7, 7, causal=True), causal=True, layer=0, **place)
                trainer.attention(softmax_maps(rng, 1, 2, 5, 9), layer=0, site="cross", **place)
                q, k = rng.normal(size=(2, 1, 4, 6, 8)).astype(np.float32)
                trainer.qk(q, k[:, :2], scale=0.35, causal=True, layer=1, **place)
                trainer.projections(wq=rng.normal(size=(8, 12)).astype(np.float32), heads=2, head_dim=4, layer=2, **place)
                sent += 4
            if slowly:
                attnd.settled(sent)
        for trainer in trainers:
            trainer.event("epoch_end", epoch=epoch, step=3 * epoch + 2)
            sent += 1
    for trainer in trainers:
        trainer.event("bye", epoch=epochs - 1, step=3 * epochs - 1)
        sent += 1
    attnd.settled(sent)
    return sent


def collect_summaries(attnd, reader):
    """Every summary that was published, as bytes."""
    expected = attnd.stats()["summaries"]
    summaries = []
    while len(summaries) < expected:
        assert reader.socket.poll(int(1000 * PATIENCE_S)), f"{len(summaries)} of {expected} summaries"
        topic, body = reader.socket.recv_multipart()
        if body[-1:] == b"\xc2":  # not a snapshot
            summaries.append((topic, body))
    return summaries


@pytest.fixture(params=["fast", "slow"])
def recorded(tmp_path, rng, request):
    """A recording of a run with byes, its number of messages and its summaries."""
    attnd = Attnd(*STEADY)
    reader = Reader(attnd, "summary/")
    path = tmp_path / "run.rec"
    recorder = Recorder(attnd, "gpt", path, "--until-end")
    messages = publish_run(attnd, rng, slowly=request.param == "slow")
    code, out, err = recorder.end()
    assert (code, err) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(path))}: {messages} messages of gpt, .* in .*, 0 lost\n", out)
    summaries = collect_summaries(attnd, reader)
    assert summaries
    attnd.close()
    return path, messages, summaries


def test_replaying_gives_the_same_summaries_byte_for_byte(recorded):
    path, messages, summaries = recorded
    fresh = Attnd(*STEADY)
    reader = Reader(fresh, "summary/")
    result = attnctl("replay", path, attnd=fresh)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(rf"{re.escape(str(path))}: {messages} messages sent, .*; attnd processed {messages}, dropped 0\n",
                        result.stdout)
    assert collect_summaries(fresh, reader) == summaries
    fresh.close()


def test_a_run_that_is_known_already_is_refused_and_said_to_be(recorded):
    path, messages, _ = recorded
    fresh = Attnd(*STEADY)
    assert attnctl("replay", path, attnd=fresh).returncode == 0
    again = attnctl("replay", path, attnd=fresh)
    assert again.returncode == 1
    assert f"attnd processed 0, dropped {messages}: " in again.stdout
    assert again.stdout.endswith("attnd had these runs already: restart it, or replay to another one\n")
    fresh.close()


def test_the_tap_passes_on_every_frame_as_it_came(attnd, rng):
    trainer = Trainer(attnd, "gpt")
    tap, other = Tap(attnd, "gpt"), Tap(attnd, "other")
    sent = [trainer.attention_frames(softmax_maps(rng, 1, 2, 40, 40), epoch=0, step=step) for step in range(5)]
    for frames in sent:
        trainer.send(*frames)
    for n, frames in enumerate(sent):
        topic, map_, *got = tap.next()
        assert topic == b"tap/gpt/" and got == frames
        assert (map_["v"], map_["n"], map_["dropped"]) == (1, n, 0)
        assert abs(map_["received_ns"] / 1e9 - __import__("time").time()) < 60
    assert tap.silent() and other.silent()
    assert attnd.settled(5)["tapped"] == 5


def test_what_nobody_listens_to_is_not_tapped(attnd, rng):
    trainer = Trainer(attnd, "gpt")
    other = Tap(attnd, "other")
    trainer.attention(softmax_maps(rng, 1, 2, 8, 8))
    assert attnd.settled(1)["tapped"] == 0
    other.socket.close()
