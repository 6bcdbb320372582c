# SPDX-License-Identifier: MIT
"""attnd.watch(..., on_alert=f): a training that acts on what attnd finds, alone and in several ranks.

one_rank() is one rank of a training by DDP over gloo, in a process of its own, forked off one that has loaded PyTorch. Its
attention is even until in `folder` the file `sharpen` makes it look at single keys, and `end` ends it. After MORE_STEPS
sharp steps it leaves `went-on` there. A training whose rank has stopped alone does not end: the other one waits for it in
backward.
"""
import faulthandler
import json
import logging
import multiprocessing
import os
import pathlib
import re
import tempfile
import threading

import pytest
from harness import PATIENCE_S, Attnd, free_ports, wait_until

torch = pytest.importorskip("torch")
ROOT = pathlib.Path(__file__).resolve().parents[2]
import torch.distributed as dist  # noqa: E402

import attnd as client  # noqa: E402
from attnd.model import hooks  # noqa: E402
from attnd.results import alerts

MORE_STEPS = 100
OTHERS = re.findall(r"^RULE\((\w+)", (ROOT / "config" / "rules.def").read_text(), re.M)
RULES = "".join(["rules:\n", *(f"  {name}: {{enabled: false}}\n" for name in OTHERS),
                 "  sharp: {metric: confidence, each: layer, above: 0.9, severity: critical}\n"])


class Model(torch.nn.Module):
    """Explicit attention over 8 positions."""

    def __init__(self):
        super().__init__()
        self.sharpness = 0.0
        self.values = torch.nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = (part.view(2, 8, 2, 4).transpose(1, 2) for part in (x, x, self.values(x)))
        return (torch.softmax(self.sharpness * q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).reshape(2, 8, 8)


@pytest.fixture
def judging():
    """An attnd whose windows are steps, and which finds sharp attention critical."""
    return Attnd("window.unit=step", "window.rank_grace=0", config=RULES)


class Training:
    """A training in this process; `watch` has all that watch() returns."""

    def __init__(self, daemon, **options):
        self.model = Model()
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)
        self.watch = client.watch(self.model, "alone", address=daemon.directory, every=1, samples=0, tier="raw",
                                  wait=PATIENCE_S, **{"steps": "manual", **options})
        self.within = False  # a step is under way
        if options.get("on_alert"):
            wait_until(lambda: daemon.stats()["subscriptions"], "somebody who hears alerts")

    def step(self):
        self.within = True
        self.model(torch.randn(2, 8, 8)).sum().backward()
        self.optimizer.step()
        self.within = False
        self.watch.step()

    def until(self, done, what):
        def one_more():
            self.step()
            return done()
        wait_until(one_more, what)


def threads():
    return [thread.name for thread in threading.enumerate() if thread.name in ("attnd-alerts", "attnd-drain")]


def test_it_is_called_with_alerts_on_the_trainings_thread_between_steps(judging):
    told = []
    training = Training(judging, on_alert=lambda alert: told.append((alert, threading.current_thread(), training.within)))
    with training.watch:
        for _ in range(10):
            training.step()
        training.model.sharpness = 100.0
        training.until(lambda: told, "the alert")
        training.model.sharpness = 0.0
        training.until(lambda: told[-1][0]["state"] == "resolved", "its end")
    assert all(thread is threading.main_thread() and not within for _, thread, within in told)
    fired = told[0][0]
    assert (fired["job"], fired["run"], fired["state"], fired["severity"]) == ("alone", training.watch.publisher.run, "firing",
                                                                             "critical")
    assert fired["since"][1] >= 10 and "confidence of encoder.0.self" in fired["message"]
    assert not threads()


def test_nothing_of_it_is_there_when_it_is_not_used(judging):
    with Training(judging).watch as watch:
        assert not threads() and watch._alerts is None
    assert judging.stats()["subscriptions"] == 0


def test_stop_training_reaches_the_loop_after_all_functions_were_called(judging):
    saved = []
    training = Training(judging, on_alert=[client.stop_on("critical"), client.checkpoint_on("critical", saved.append)])
    with pytest.raises(client.StopTraining, match="^sharp: .*confidence of encoder.0.self"), training.watch:
        training.model.sharpness = 100.0
        training.until(lambda: False, "the end")
    assert [alert["rule"] for alert in saved] == ["sharp"]


def test_any_other_exception_is_logged_once_and_training_goes_on(judging, caplog):
    called = []

    def fails(alert):
        called.append(alert)
        raise RuntimeError("the user's own mistake")

    training = Training(judging, on_alert=fails)
    with training.watch, caplog.at_level(logging.WARNING, "attnd"):
        for sharpness in (100.0, 0.0, 100.0):
            training.model.sharpness, before = sharpness, len(called)
            training.until(lambda: len(called) > before, "a call")
    said = [record for record in caplog.records if "on_alert failed" in record.getMessage()]
    assert len(said) == 1 and "the user's own mistake" in str(said[0].exc_info[1])


def test_training_goes_on_when_attnd_has_gone(judging):
    training = Training(judging, on_alert=client.stop_on("info"))
    with training.watch:
        judging.stop()
        training.model.sharpness = 100.0
        for _ in range(100):
            training.step()
        judging.start()  # to be stopped cleanly


def test_an_alert_that_was_told_while_attnd_was_not_connected_to_is_heard(judging, monkeypatch):
    monkeypatch.setattr(alerts, "ASK_EVERY_S", 1.0)
    monkeypatch.setattr(alerts.Alerts, "_listen", lambda self, subscriber: None)
    told, asked, ask = [], [], alerts.Alerts._ask
    monkeypatch.setattr(alerts.Alerts, "_ask", lambda self: (ask(self), asked.append(self)))
    training = Training(judging, on_alert=told.append)
    with training.watch:
        training.model.sharpness = 100.0
        training.until(lambda: told, "the answer")
        before = len(asked)
        training.until(lambda: len(asked) > before + 1, "more questions")
    assert [(alert["rule"], alert["state"]) for alert in told] == [("sharp", "firing")]


def test_training_hears_alerts_of_an_attnd_that_came_back(judging):
    training = Training(judging, on_alert=client.stop_on("critical"))
    with training.watch, pytest.raises(client.StopTraining, match="^sharp: "):
        judging.stop()
        training.step()
        judging.start()
        wait_until(lambda: judging.stats()["subscriptions"], "somebody who hears alerts")
        training.model.sharpness = 100.0
        training.until(lambda: False, "the end")


@pytest.mark.skipif(hooks.register_optimizer_hook is None, reason="this torch says nothing of an optimizer's steps")
def test_stop_training_comes_out_of_the_optimizers_step(judging):
    training = Training(judging, on_alert=client.stop_on("critical"), steps="auto")
    training.watch.step = lambda: None
    with training.watch, pytest.raises(client.StopTraining):
        training.model.sharpness = 100.0
        training.until(lambda: False, "the end")
    assert training.within


def test_it_is_not_called_in_the_middle_of_a_step_and_says_so(judging, caplog):
    told = []
    training = Training(judging, on_alert=told.append, steps="auto")

    def said():
        training.model(torch.randn(2, 8, 8)).sum().backward()
        return [record for record in caplog.records if "nobody says where a step ends" in record.getMessage()]

    with training.watch, caplog.at_level(logging.WARNING, "attnd"):
        training.model.sharpness = 100.0
        assert len(wait_until(said, "a warning")) == 1 and not told
        training.watch.step()
    assert told


@pytest.mark.parametrize("options, message", [
    ({"on_alert": 3}, "on_alert = 3: must be a function of an alert"),
    ({"on_alert": [print, "stop"]}, "on_alert = 'stop': must be a function"),
    ({"on_alert": print, "endpoint": "ipc:///nowhere/ingest"}, "on_alert: needs address="),
    ({"on_alert": client.checkpoint_on("critical")}, r"checkpoint_on\('critical'\) needs a function that saves"),
])
def test_mistakes_are_told_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        client.watch(Model(), "alone", wait=0, **options)


@pytest.mark.parametrize("make", [client.stop_on, client.checkpoint_on])
def test_a_severity_is_one_of_three(make):
    with pytest.raises(ValueError, match="severity = 'bad': must be info, warning or critical"):
        make("bad")


@pytest.mark.parametrize("severity, states, acts", [("warning", "firing", True), ("critical", "firing", True), ("info", "firing", False),
                                                    ("critical", "resolved", False), ("critical", "firing_at_end", False)])
def test_what_is_severe_enough_and_begins_counts(severity, states, acts):
    alert, saved = {"rule": "r", "message": "m", "severity": severity, "state": states}, []
    client.checkpoint_on("warning", saved.append)(alert)
    assert saved == ([alert] if acts else [])


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torch", "torch.distributed", "numpy", "zmq", "msgpack", "pytest"])


class Ranks:
    """Two ranks in processes of their own, which train until `end`, or until they stop. A context manager."""

    def __init__(self, daemon, folder, how, *addresses):
        self.daemon, self.folder = daemon, folder
        self.said = [folder / f"{rank}.stderr" for rank in range(2)]
        for said in self.said:
            said.touch()
        store = free_ports(1)
        self.processes = [FORKS.Process(target=one_rank, args=(rank, 2, store), kwargs=dict(
            how=how, folder=str(folder), address=(addresses or [daemon.directory] * 2)[rank])) for rank in range(2)]
        for rank in self.processes:
            rank.start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        for rank in self.processes:
            rank.kill()
            rank.join()

    def text(self):
        return "\n".join(each.read_text(errors="replace") for each in self.said)

    def sharpen(self, hearing=2):
        """Sharpens once `hearing` ranks hear alerts."""
        wait_until(lambda: self.daemon.stats()["subscriptions"] >= hearing, "ranks that hear alerts")
        (self.folder / "sharpen").touch()

    def ended(self):
        """What each rank has left."""
        for rank in self.processes:
            rank.join(2 * PATIENCE_S)
        assert [rank.exitcode for rank in self.processes] == [0, 0], self.text()
        return [json.loads((self.folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("how", ["all hear", "one hears nothing", "one asks"])
def test_ranks_stop_at_the_end_of_one_step(judging, tmp_path, how):
    with tempfile.TemporaryDirectory() as nobody:
        addresses = [judging.directory, nobody] if how == "one hears nothing" else []
        with Ranks(judging, tmp_path, how, *addresses) as ranks:
            ranks.sharpen(1 if addresses else 2)
            first, second = ranks.ended()
    assert (first["step"], first["stopped"], first["told"]) == (second["step"], second["stopped"], second["told"])
    assert first["stopped"].startswith("sharp: ")
    assert [(rule, is_main) for _, rule, is_main in first["told"]] == [("sharp", True)]
    assert "attnd-alerts" not in first["threads"] + second["threads"]


@pytest.mark.parametrize("how, hearing, sentence", [
    ("one watches", 1, "not all of 2 ranks watch with it, and one must not act alone"),
    ("one is silent", 2, "on_alert is not called any more, since a rank has not been heard of; training goes on")])
def test_ranks_that_cannot_agree_go_on_and_say_so(judging, tmp_path, how, hearing, sentence):
    with Ranks(judging, tmp_path, how) as ranks:
        ranks.sharpen(hearing)
        wait_until(lambda: sentence in ranks.text() and (tmp_path / "went-on").exists(), "a warning, and more steps")
        (tmp_path / "end").touch()
        both = ranks.ended()
    assert [(each["stopped"], each["told"]) for each in both] == [(None, [])] * 2
    assert ranks.text().count(sentence) == 1


def test_ranks_go_on_when_attnd_has_gone(judging, tmp_path):
    with Ranks(judging, tmp_path, "all hear") as ranks:
        wait_until(lambda: judging.stats()["subscriptions"] >= 2, "ranks that hear alerts")
        judging.stop()
        (tmp_path / "sharpen").touch()
        wait_until((tmp_path / "went-on").exists, "more steps")
        (tmp_path / "end").touch()
        assert [(each["stopped"], each["told"]) for each in ranks.ended()] == [(None, [])] * 2
    judging.start()  # to be stopped cleanly


# ------------------------------------------------------------------------------------------- one rank

def told_all(*paths):
    """Which of these files rank 0 sees, on all ranks alike."""
    there = torch.tensor([float(os.path.exists(path)) for path in paths])
    dist.broadcast(there, 0)
    return [bool(one) for one in there]


def train(rank, folder, how, **options):
    model = Model()
    distributed = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    told, step = [], 0
    stop = client.stop_on("critical")

    def f(alert):
        told.append([step, alert["rule"], threading.current_thread() is threading.main_thread()])
        if how != "one asks" or rank == 1:
            stop(alert)

    if how != "one watches" or rank == 0:
        options["on_alert"] = f
    if how == "one is silent" and rank == 1:
        alerts._Ranks.look = lambda self, waiting: []
    alerts.GIVE_UP_S = 2.0 if how == "one is silent" else 60.0
    stopped, sharp_steps = None, 0
    try:
        with client.watch(model, "stops", every=1, samples=0, tier="raw", steps="manual", wait=20 if rank == 0 else 0, **options) as w:
            while True:
                sharp, ended = told_all(f"{folder}/sharpen", f"{folder}/end")
                if ended:
                    break
                model.sharpness = 100.0 if sharp else 0.0
                distributed(torch.randn(2, 8, 8)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                w.step()
                sharp_steps += sharp
                if sharp_steps == MORE_STEPS:
                    open(f"{folder}/went-on", "w").close()
    except client.StopTraining as why:
        stopped = str(why)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump({"stopped": stopped, "step": step, "told": told,
                   "threads": [thread.name for thread in threading.enumerate()]}, file)


def one_rank(rank, world, store, folder, **options):
    """Joins the others at a store over TCP, and trains."""
    said = os.open(f"{folder}/{rank}.stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 2)
    faulthandler.enable()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{store}", rank=rank, world_size=world)
    train(rank, folder, **options)
    dist.destroy_process_group()
