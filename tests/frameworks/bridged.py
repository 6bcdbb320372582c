# SPDX-License-Identifier: MIT
"""A real job, a real daemon and a bridge that is stopped and started again in the middle: what the tests of the sinks share.

The job's weights are known, so what must arrive follows from them in float64.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "python"
sys.path[:0] = [str(PACKAGE), str(ROOT / "tests" / "e2e")]

import numpy as np  # noqa: E402
from harness import PATIENCE_S, Attnd, Reader, Trainer, softmax_maps, wait_until  # noqa: E402

BRIDGE = f"""
import sys
from attnd.bridge import cli, pump
pump.ANSWER_S = {PATIENCE_S}
sys.exit(cli.main())
"""  # python -m attnd.bridge, with patience
LAYERS, HEADS, T, STEPS = 2, 12, 8, 3  # STEPS per epoch
EPOCHS = 8
JOB = "gpt-small"
RULES = """
rules:
  flat:
    metric: entropy_normalized
    above: 0.01
"""


def entropy(weights):
    """float64 [heads]: the mean over samples and rows of -sum a ln a."""
    a = weights.astype(np.float64)
    rows = -np.sum(np.where(a > 0, a * np.log(np.where(a > 0, a, 1.0)), 0.0), -1)
    return rows.mean((0, 2))


class Training:
    """Publishes epochs of causal attention; keeps what each window's entropy must be."""

    def __init__(self, daemon, job=JOB):
        self.daemon, self.job = daemon, job
        self.rng = np.random.default_rng(7)
        self.trainer = Trainer(daemon, job)
        self.run = self.trainer.run.hex()
        self.expected = {}  # (layer, step): float64 [heads]
        layers = [dict(stack="decoder", layer=layer, site="self", heads=HEADS) for layer in range(LAYERS)]
        self.trainer.event("hello", layers=layers)

    def epochs(self, first, count):
        reader = Reader(self.daemon, f"summary/{self.job}/")
        for epoch in range(first, first + count):
            self._epoch(epoch)
            wait_until(lambda: self._is_out(reader, epoch), "the summaries")
        reader.close()

    def _epoch(self, epoch):
        parts = {layer: [] for layer in range(LAYERS)}
        for step in range(epoch * STEPS, (epoch + 1) * STEPS):
            for layer in range(LAYERS):
                weights = softmax_maps(self.rng, 2, HEADS, T, T, causal=True)
                self.trainer.attention(weights, epoch=epoch, step=step, layer=layer, causal=True)
                parts[layer].append(entropy(weights))
        for layer in range(LAYERS):
            self.expected[layer, step] = np.mean(parts[layer], 0)
        self.trainer.event("epoch_end", epoch=epoch, step=step)

    def _is_out(self, reader, epoch):
        topic, summary = reader.next()
        return topic.endswith(f"/{LAYERS - 1}/self/") and summary["window"]["last"] == epoch

    def end(self):
        self.trainer.event("bye", epoch=EPOCHS, step=EPOCHS * STEPS - 1)

    def steps(self):
        return sorted({step for _, step in self.expected})

    def values(self, layer, head):
        return [self.expected[layer, step][head] for step in self.steps()]

    def check(self, points):
        """A sink has every window of every head once, in order. `points(name)`: [(step, value)] of a series."""
        for layer in range(LAYERS):
            for head in range(HEADS):
                name = f"attn/decoder.{layer}.self/entropy/head_{head:02d}"
                found = points(name)
                assert [step for step, _ in found] == self.steps(), name
                np.testing.assert_allclose([value for _, value in found], self.values(layer, head), atol=1e-5, err_msg=name)


def start(daemon, *arguments, cwd=None):
    """A bridge as a program, once it has subscribed."""
    before = daemon.stats()["subscriptions"]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen([sys.executable, "-c", BRIDGE, *map(str, arguments), "--endpoint", daemon.endpoint("control"),
                                "--timeout", str(PATIENCE_S), "--linger", str(PATIENCE_S)],
                               cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True)

    def subscribed():
        assert process.poll() is None, process.stderr.read()
        return daemon.stats()["subscriptions"] >= before + 3

    wait_until(subscribed, "the bridge's subscriptions", 120)
    return process


def ended(process, number=None):
    """Ends the bridge by a signal, or waits; what it said. It must end with 0."""
    if number is not None:
        process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def ledger_has(path, epoch):
    """Whether a bridge's file says that all layers, and pictures if there are any, are written up to this epoch."""
    positions = json.loads(path.read_text())["positions"] if path.exists() else {}
    return len(positions) >= LAYERS and all(position[0] >= epoch for position in positions.values())


def interrupted_run(*arguments, written, cwd):
    """A run in four quarters: before any bridge; with one, which Ctrl-C ends; with none; with another one.
    `written(training, epoch)`: whether the sink has everything up to this epoch."""
    attnd = daemon()
    training = Training(attnd)
    training.epochs(0, 2)
    first = start(attnd, *arguments, cwd=cwd)
    training.epochs(2, 2)
    wait_until(lambda: written(training, 3), "the first half", 120)
    assert " 0 lost" in ended(first, signal.SIGINT)
    training.epochs(4, 2)
    second = start(attnd, *arguments, "--until-end", cwd=cwd)
    training.epochs(6, 2)
    training.end()
    assert " 0 lost" in ended(second)
    training.trainer.close()
    attnd.close()
    return training


def daemon():
    """One that has an alert to tell from the first window on."""
    return Attnd(config=RULES)
