# SPDX-License-Identifier: MIT
"""Every command of attnctl's table against a real attnd: its examples work, --json is JSON, and readers may leave."""
import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from harness import PATIENCE_S, Attnd, Trainer, softmax_maps, wait_until

ATTNCTL = str(Path(os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")).resolve())
PYTHON_PACKAGE = str(Path(__file__).resolve().parents[2] / "clients/python")


def shell(line, attnd, directory):
    environment = {**os.environ, "PATH": f"{Path(ATTNCTL).parent}:{os.environ['PATH']}", "PYTHONPATH": PYTHON_PACKAGE,
                   "ATTND_ADDRESS": attnd.directory, "ATTND_PYTHON": sys.executable}
    return subprocess.run(["bash", "-c", line], cwd=directory, env=environment, capture_output=True, text=True,
                          timeout=2 * PATIENCE_S)


def help_of(name):
    return subprocess.run([ATTNCTL, "help", name], capture_output=True, text=True, check=True).stdout


def commands():
    said = subprocess.run([ATTNCTL, "__complete", ""], capture_output=True, text=True, check=True).stdout
    return [line.split("\t")[0] for line in said.splitlines()]


def examples_of(name):
    block = help_of(name).rpartition("\nexample")[2].split("\n\n")[0]
    return [line.strip() for line in block.splitlines()[1:]]


class Run:
    """An attnd with the history of two runs of gpt-small, a third one that goes on, and the files of the examples."""

    def __init__(self, directory):
        rng = np.random.default_rng(3)
        self.directory = directory
        self.attnd = Attnd(f"history.path={directory}/history.db")
        Attnd.all.remove(self.attnd)  # it is not one test's
        self.trainers = []
        for run in ("3fa9" + 28 * "0", "7c01" + 28 * "0"):
            self.publish(rng, bytes.fromhex(run), range(3), bye=True)
        self.trainer = self.publish(rng, bytes.fromhex("9d00" + 28 * "0"), range(3), bye=False)
        self.attnd.settled(3 * (1 + 3 * 5) + 2)
        wait_until(lambda: all(len(self.layers(run)) == 4 for run in ("3fa9", "7c01", "9d00")), "three runs in the history")
        np.savez(directory / "maps.npz", **{"decoder.0.self": softmax_maps(rng, 2, 2, 128, 128, causal=True),
                                            "decoder.3.self": softmax_maps(rng, 2, 4, 128, 128, causal=True)})
        np.save(directory / "probs.npy", softmax_maps(rng, 1, 2, 8, 8))
        (directory / "rules.yaml").write_text("rules: []\n")
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.go_on, args=(rng,))

    def layers(self, run):
        try:
            return self.attnd.call("windows", job="gpt-small", run=run)["layers"]
        except RuntimeError:
            return []

    def publish(self, rng, run, epochs, bye):
        trainer = Trainer(self.attnd, "gpt-small", run=run)
        self.trainers.append(trainer)  # one that is let go of closes its socket
        trainer.event("hello")
        for epoch in epochs:
            for layer in range(4):
                trainer.send(*trainer.attention_frames(softmax_maps(rng, 1, 4, 12, 12), layer=layer, epoch=epoch, step=epoch))
            trainer.event("epoch_end", epoch=epoch, step=epoch)
        if bye:
            trainer.event("bye", epoch=epochs[-1], step=epochs[-1])
        return trainer

    def go_on(self, rng):
        for step in range(3, 100000):
            if self.stopped.wait(0.02):
                return
            self.trainer.send(*self.trainer.attention_frames(softmax_maps(rng, 1, 4, 12, 12), epoch=3, step=step))

    def close(self):
        self.stopped.set()
        if self.thread.is_alive():
            self.thread.join()
        self.attnd.close()


@pytest.fixture(scope="module")
def going_on(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("run"))
    done = shell("attnctl record gpt-small run.rec --seconds 0.1", run.attnd, run.directory)
    assert (run.directory / "run.rec").exists(), done.stderr
    wait_until(lambda: len(run.attnd.call("runs")["runs"]) == 3, "three runs in the history")
    run.thread.start()
    yield run
    run.close()


# Options that end an example that goes on until Ctrl-C.
ENDINGS = {"tail": "--count 2", "record": "--count 3 --force"}
# Files that an example makes only where there are none.
MAKES = {"key": "trainer.key"}


def read_json(text):
    try:
        return [json.loads(text)]
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines()]


# A bridge goes on until Ctrl-C: test_bridge.py has its --json.
@pytest.mark.parametrize("name", [name for name in commands() if name != "bridge" and
                                  re.search(r"^  --json\b", help_of(name), re.M)])
def test_json_is_what_every_command_speaks(going_on, name):
    line = shlex.join(shlex.split(examples_of(name)[0].partition(" > ")[0])) + " " + ENDINGS.get(name, "")
    for written in (f"{line} --json", line.replace("attnctl ", "attnctl --json ", 1)):
        (going_on.directory / MAKES.get(name, "none")).unlink(missing_ok=True)
        done = shell(written, going_on.attnd, going_on.directory)
        assert done.returncode in (0, 1), (written, done.stderr)
        assert read_json(done.stdout), written


@pytest.mark.parametrize("name", ["jobs", "summary", "history", "compare", "export", "runs", "alerts", "stats", "fleet", "ping",
                                  "config", "flush", "plan", "analyze"])
def test_the_examples_work(going_on, name):
    for example in examples_of(name):
        done = shell(example, going_on.attnd, going_on.directory)
        drift = "--drift" in example and "no baseline" in done.stderr
        assert done.returncode == 0 or drift, (example, done.stderr)


def test_a_reader_may_leave(going_on):
    """Also when nothing more comes that it could leave at: summaries come with epochs, and this one goes on."""
    for line in ("tail summary/", "tail live/", "export gpt-small --csv", "config"):
        begun = time.monotonic()
        done = shell(f"attnctl {line} | head -c 20 >/dev/null; echo ${{PIPESTATUS[0]}}", going_on.attnd, going_on.directory)
        assert (done.stdout, done.stderr) == ("0\n", ""), line
        assert time.monotonic() - begun < PATIENCE_S, line


def test_what_cannot_be_written_ends_it(going_on):
    for line in ("tail live/", "export gpt-small --csv", "jobs --json"):
        done = shell(f"attnctl {line} >/dev/full", going_on.attnd, going_on.directory)
        assert (done.returncode, done.stderr) == (1, "attnctl: cannot write the output\n"), line
