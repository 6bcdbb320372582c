# SPDX-License-Identifier: MIT
"""What the tests of frameworks share: a real daemon, and what it has to say about a job."""
import collections
import os
import pathlib
import sys
import tempfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "python"
sys.path[:0] = [str(PACKAGE), str(ROOT / "tests" / "e2e")]
# Nothing here is to be fetched from anywhere.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false")
# Trackio reads its folder when it is imported; the user's own is left alone.
TRACKIO = tempfile.TemporaryDirectory(prefix="trackio-")
os.environ["TRACKIO_DIR"] = TRACKIO.name

import attnd as client  # noqa: E402
from attnd.bridge import pump  # noqa: E402
from attnd.results import alerts  # noqa: E402
from harness import PATIENCE_S, Attnd, wait_until  # noqa: E402

client.Publisher.__init__.__kwdefaults__["linger"] = PATIENCE_S  # what is sent last is waited for on a busy machine too


@pytest.fixture(autouse=True)
def drawn_alike():
    """Random numbers of PyTorch are the same in a test whatever ran before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(1)


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    while Attnd.all:
        Attnd.all.pop().discard()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Threads beside a training wait for attnd as long as tests do."""
    for module, name in ((alerts, "ANSWER_S"), (alerts, "CLOSE_S"), (alerts, "END_S"), (pump, "ANSWER_S")):
        monkeypatch.setattr(module, name, PATIENCE_S)


@pytest.fixture
def daemon(tmp_path, monkeypatch):
    """A daemon with defaults; it must stop cleanly."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    started = Attnd()
    yield started
    started.close()


@pytest.fixture
def critical():
    """A daemon that finds every attention critical, from the first step on; it must stop cleanly."""
    rules = "rules: {seen: {metric: confidence, each: layer, above: 0, severity: critical}}\n"
    started = Attnd("window.unit=step", "window.rank_grace=1s", config=rules)
    yield started
    started.close()


@pytest.fixture
def results(daemon):
    """What the daemon publishes from now on."""
    with Results(daemon) as opened:
        yield opened


def logged(daemon, job):
    """{name: {step: value}} of what the newest run of a job has logged, once it is stored, and the run's settings."""
    def runs():
        return [run for run in daemon.call("runs", job=job)["runs"] if run["state"] == "ended"]
    wait_until(runs, "the end of the run in the history")
    series = daemon.call("log", job=job)["series"]
    return {one["name"]: dict(zip(one["step"], one["value"])) for one in series}, runs()[0]["settings"]


class Results:
    """Collects what the daemon publishes about a job; complete once `wait_ended` has returned."""

    def __init__(self, daemon):
        self.daemon = daemon
        before = daemon.stats()["subscriptions"]
        topics = ("live/", "summary/", "job/")
        self.subscriber = client.Subscriber(daemon.endpoint("publish"), topics, high_water=100000)
        wait_until(lambda: daemon.stats()["subscriptions"] >= before + len(topics), "the subscription")
        self.live, self.summaries, self.jobs = [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.subscriber.close()

    def wait_ended(self, runs=1):
        """Until `runs` runs have said that they ended, which is the last that is published of each. Nothing may
        have been lost or refused on the way."""
        wait_until(lambda: self._read() or len(self.ended()) >= runs, f"the end of a run; {self.daemon.describe()}")
        stats = self.daemon.settled(0)
        assert (stats["lost"], stats["source_dropped"], stats["dropped"]) == (0, 0, {})

    def ended(self):
        """The runs that have ended."""
        return {job["run"] for job in self.jobs if job["state"] in ("ended", "failed")}

    def _read(self):
        kinds = {"live": self.live, "summary": self.summaries, "job": self.jobs}
        while True:
            result = self.subscriber.next(0)
            if result is None:
                return
            if result["kind"] == "job" or not result["snapshot"]:  # the daemon may say again what is known
                kinds[result["kind"]].append(result)

    def steps(self):
        """{layer: [(epoch, step) of each message about attention, as they came]}"""
        found = collections.defaultdict(list)
        for result in self.live:
            if result["tier"] not in ("weights", "sketch"):
                found[layer_of(result)].append((result["epoch"], result["step"]))
        return dict(found)

    def windows(self):
        """{layer: {epoch: its summary}}"""
        found = collections.defaultdict(dict)
        for result in self.summaries:
            found[layer_of(result)][result["window"]["last"]] = result
        return dict(found)


def layer_of(result):
    return result["stack"], result["layer"], result["site"]
