# SPDX-License-Identifier: MIT
"""The capture plan: what a trainer sees of it at wire level, how it changes while the job runs, and that nothing of
it disturbs what is received."""
import fnmatch
import os
import re
import signal
import threading
import time

import pytest
import zmq
from harness import PATIENCE_S, Attnd, Reader, Trainer, attnctl, softmax_maps, wait_log, wait_until

from attnd import Control, ControlError
from attnd.base.plan import choose

DEFAULT = b"plan/999999/*/every=50;layers=*;heads=*;samples=1;rows=0;tier=auto"
EVERYTHING = {b"tensor/", b"event/"}


class Listener(Trainer):
    """A trainer that keeps every notice of subscriptions, in order."""

    def __init__(self, *args, **kwargs):
        self.notices = []
        super().__init__(*args, **kwargs)

    def wait_subscribed(self):
        wait_until(lambda: self.listen() and EVERYTHING <= self.prefixes, "the subscriptions")

    def listen(self):
        """Takes the notices that are here; returns all so far."""
        while self.socket.poll(0):
            frame = self.socket.recv()
            self.notices.append((frame[:1] == b"\x01", frame[1:]))
            (self.prefixes.add if frame[:1] == b"\x01" else self.prefixes.discard)(frame[1:])
        return self.notices

    def plans(self):
        self.listen()
        return sorted((int(order), pattern, settings) for order, pattern, settings in
                      (p.decode().split("/")[1:] for p in self.prefixes if p.startswith(b"plan/")))

    def wait_plans(self, *plans):
        wait_until(lambda: self.plans() == sorted(plans), f"{plans} (now {self.plans()})")

    def in_force(self):
        """(every, layers) of the plan that holds for this job, by the rules of the contract."""
        holding = []
        for order, pattern, settings in self.plans():
            keys = dict(pair.split("=", 1) for pair in settings.split(";"))
            if fnmatch.fnmatchcase(self.job, pattern):
                every = int(keys["every"])
                holding.append((order, every == 0, every, settings, keys["layers"]))
        return min(holding)[2], min(holding)[4]


def plan(order, pattern, every=50, layers="*", heads="*", samples=1, rows=0, tier="auto"):
    return order, pattern, f"every={every};layers={layers};heads={heads};samples={samples};rows={rows};tier={tier}"


THE_DEFAULT = plan(999999, "*")


def listened(*settings, config=None):
    attnd = Attnd(*settings, config=config)
    return attnd, Listener(attnd, "gpt-small")


def refused(attnd, method, **params):
    """What is said of a request that is refused as having a wrong argument."""
    with Control(attnd.endpoint("control")) as control, pytest.raises(ControlError) as error:
        control.call(method, params)
    assert error.value.code == "argument"
    return str(error.value)


def test_the_default_plan_is_there_before_what_is_asked_for():
    attnd, trainer = listened()
    limits = next(prefix for prefix in trainer.prefixes if prefix.startswith(b"limits/"))
    assert trainer.prefixes == {DEFAULT, limits} | EVERYTHING
    said = [prefix for added, prefix in trainer.notices]
    assert said.index(limits) < said.index(b"tensor/") and said.index(DEFAULT) < said.index(b"tensor/")
    assert trainer.in_force() == (50, "*")


def test_the_settings_of_the_default():
    _, trainer = listened("plan.every=7", "plan.layers=decoder.*.self encoder.0.cross", "plan.heads=0-3,7", "plan.samples=0",
                          "plan.rows=64", "plan.tier=rows")
    trainer.wait_plans(plan(999999, "*", 7, "decoder.*.self encoder.0.cross", "0-3,7", 0, 64, "rows"))


def test_a_plan_changes_while_the_job_is_connected():
    attnd, trainer = listened()
    answer = attnd.call("plan.set", job="gpt-*", every=10, layers="decoder.*")
    assert answer == dict(job="gpt-*", pattern="gpt-*", **{"from": "set"}, every=10, layers="decoder.*", heads="*",
                          samples=1, rows=0, tier="auto", note=None, cost=None)
    trainer.wait_plans(plan(0, "gpt-*", 10, "decoder.*"), THE_DEFAULT)
    attnd.call("plan.set", job="gpt-small", every="2")
    trainer.wait_plans(plan(0, "gpt-small", 2, "decoder.*"), plan(1, "gpt-*", 10, "decoder.*"), THE_DEFAULT)
    assert trainer.in_force() == (2, "decoder.*")
    assert attnd.call("plan.reset", job="gpt-small")["pattern"] == "gpt-*"
    trainer.wait_plans(plan(0, "gpt-*", 10, "decoder.*"), THE_DEFAULT)
    attnd.call("plan.reset", job="gpt-*")
    trainer.wait_plans(THE_DEFAULT)


def test_a_plan_for_some_layers_leaves_a_job_its_own_every():
    attnd, trainer = listened()
    trainer.event("hello")
    attnd.settled(1)
    assert attnd.call("plan.set", job="gpt-small", layers="decoder.0.self")["every"] == 50, "it has none"
    attnd.call("plan.reset", job="gpt-small")
    trainer.event("hello", own_every=3)
    attnd.settled(2)
    assert attnd.call("plan.set", job="gpt-small", layers="decoder.0.self")["every"] == 3
    assert attnd.call("plan.set", job="gpt-small", every=9, rows=4)["every"] == 9
    assert attnd.call("plan.set", job="gpt-small", rows=8)["every"] == 9
    assert attnd.call("plan.set", job="gpt-*", layers="decoder.0.self")["every"] == 50, "of a pattern"


def test_a_plan_that_takes_nothing_of_an_active_job_says_so():
    attnd, trainer = listened()
    trainer.event("hello", layers=[dict(stack="decoder", layer=layer, site="self", heads=4 + 4 * layer) for layer in range(2)])
    attnd.settled(1)
    for keys, note in ((dict(heads="99,8-9"), "the layers have 8 heads, none of heads=99,8-9"), (dict(heads="99,7"), None),
                       (dict(heads="4", layers="decoder.0.*"), "the layers have 4 heads, none of heads=4"),
                       (dict(layers="encoder.*"), "the job has none of layers=encoder.*")):
        expected = note and "nothing is captured: " + note
        assert attnd.call("plan.set", job="gpt-small", **keys)["note"] == expected
        assert attnd.call("plan.get", job="gpt-small")["note"] == expected
    assert attnd.call("plan.set", job="gpt-*", heads="99")["note"] is None, "it may be of others"
    assert attnd.call("plan.set", job="other", heads="99")["note"] is None, "nothing is known of it"
    trainer.event("bye")
    attnd.settled(2)
    assert attnd.call("plan.get", job="gpt-small")["note"] is None, "the next run may have others"


def test_the_new_plan_comes_before_the_old_one_goes():
    attnd, trainer = listened()
    attnd.call("plan.set", job="gpt-small", every=10)
    trainer.wait_plans(plan(0, "gpt-small", 10), THE_DEFAULT)
    trainer.notices.clear()
    attnd.call("plan.set", job="gpt-small", every=20)
    trainer.wait_plans(plan(0, "gpt-small", 20), THE_DEFAULT)
    text = b"plan/0/gpt-small/every=%d;layers=*;heads=*;samples=1;rows=0;tier=auto"
    assert trainer.notices == [(True, text % 20), (False, text % 10)]


def test_whatever_is_changed_some_plan_holds_at_any_moment(rng):
    """Of every state that a trainer sees on the way, the plan is one that was in force before or after."""
    attnd, trainer = listened()
    allowed = {50}
    for _ in range(60):
        pattern = str(rng.choice(["gpt-*", "gpt-small", "*", "gpt-[a-z]*"]))
        if rng.random() < 0.7:
            attnd.call("plan.set", job=pattern, every=int(rng.integers(0, 1000)))
        else:
            try:
                attnd.call("plan.reset", job=pattern)
            except RuntimeError as error:
                assert str(error) == "argument"
        allowed.add(attnd.call("plan.get", job="gpt-small")["every"])
    final = sorted((i, p["pattern"]) if p["from"] == "set" else (999999, "*")
                   for i, p in enumerate(attnd.call("plan.get")))
    wait_until(lambda: [p[:2] for p in trainer.plans()] == final, "the last plans")
    notices, trainer.prefixes = trainer.notices, set()
    for added, prefix in notices:
        (trainer.prefixes.add if added else trainer.prefixes.discard)(prefix)
        if EVERYTHING <= trainer.prefixes:
            assert trainer.in_force()[0] in allowed
    assert len(notices) > 60


def test_patterns_of_the_config_are_in_its_order():
    attnd, trainer = listened(config="plan: {samples: 2}\n"
                              "jobs:\n"
                              "  'gpt-*': {plan.every: 10, spectrum: false}\n"
                              "  'bert': {spectrum: false}\n"
                              "  '*': {plan.layers: 'decoder.*', plan.heads: '0-3,7'}\n")
    trainer.wait_plans(plan(64, "gpt-*", 10, samples=2), plan(65, "*", layers="decoder.*", heads="0-3,7", samples=2),
                       plan(999999, "*", samples=2))
    assert [(p["pattern"], p["from"]) for p in attnd.call("plan.get")] == [
        ("gpt-*", "config"), ("*", "config"), ("*", "default")]
    assert attnd.call("plan.get", job="gpt-small")["from"] == "config"
    assert attnd.call("plan.get", job="bert")["layers"] == "decoder.*"
    assert attnd.call("config")["jobs.gpt-*.plan.every"] == "10"


def test_a_hangup_reads_the_file_again():
    attnd, trainer = listened(config="plan: {every: 10}\n")
    attnd.call("plan.set", job="bert", every=3)
    trainer.wait_plans(plan(0, "bert", 3), plan(999999, "*", 10))
    attnd.rewrite("plan: {every: 20}\njobs: {'gpt-*': {plan.rows: 8}}\nlog: {level: debug}\nmetrics: {top_pairs: 3}\n")
    trainer.wait_plans(plan(0, "bert", 3), plan(64, "gpt-*", 20, rows=8), plan(999999, "*", 20))
    wait_log(attnd, "event=config_read plans=3")
    assert re.findall("event=config_needs_restart key=(.*)", attnd.log_text()) == ["metrics.top_pairs", "log.level"]
    config = attnd.call("config")
    assert config["plan.every"] == "20" and config["jobs.gpt-*.plan.rows"] == "8"
    assert config["metrics.top_pairs"] == "10" and config["log.level"] == "info"  # in force


def test_a_file_with_a_mistake_changes_nothing():
    attnd, trainer = listened(config="plan: {every: 10}\n")
    attnd.rewrite("plan:\n  every: 20\n  heads: 3-1\n")
    wait_log(attnd, "event=config_refused", "attnd.yaml:3: plan.heads: '3-1': not a list of heads")
    wait_until(lambda: attnd.stats()["config_refused"], "the refusal is told")
    attnd.rewrite("window: {length: 100, every: 1}\nplan: {every: 20}\n")
    wait_log(attnd, "event=config_refused", "window.every")
    os.unlink(os.path.join(attnd.directory, "attnd.yaml"))
    attnd.process.send_signal(signal.SIGHUP)
    wait_log(attnd, "event=config_refused", "cannot read it: No such file")
    os.mkfifo(os.path.join(attnd.directory, "attnd.yaml"))
    attnd.process.send_signal(signal.SIGHUP)
    wait_log(attnd, "event=config_refused", "not a file that can be read again")
    assert attnd.call("plan.get", job="gpt-small")["every"] == 10
    assert trainer.plans() == [plan(999999, "*", 10)]
    os.unlink(os.path.join(attnd.directory, "attnd.yaml"))
    attnd.rewrite("plan: {every: 30}\n")
    trainer.wait_plans(plan(999999, "*", 30))


def test_command_line_settings_still_win_after_a_hangup():
    attnd, trainer = listened("plan.samples=4", config="plan: {every: 10, samples: 2}\n")
    attnd.rewrite("plan: {every: 20, samples: 3}\n")
    trainer.wait_plans(plan(999999, "*", 20, samples=4))


def test_without_a_file_a_hangup_is_a_clean_stop(attnd):
    assert attnd.stop(signal.SIGHUP) == 0
    assert "stopping signal=SIGHUP" in attnd.log_text() and "event=stopped" in attnd.log_text()


def test_after_a_restart_the_config_holds():
    attnd, trainer = listened("plan.every=10")
    attnd.call("plan.set", job="gpt-small", every=3)
    trainer.wait_plans(plan(0, "gpt-small", 3), plan(999999, "*", 10))
    assert attnd.stop() == 0
    wait_until(lambda: trainer.plans() == [], "no plan while there is no daemon")
    attnd.start()
    trainer.wait_plans(plan(999999, "*", 10))
    assert EVERYTHING <= trainer.prefixes


@pytest.mark.parametrize("method, params, message", [
    ("plan.set", {"job": "gpt", "every": -1}, "plan.every: '-1': not a whole number (valid: 0 to 1000000000)"),
    ("plan.set", {"job": "gpt", "every": 1.5}, "plan.every: neither a whole number nor a text"),
    ("plan.set", {"job": "gpt", "heads": [1, 2]}, "plan.heads: neither a whole number nor a text"),
    ("plan.set", {"job": "gpt", "layers": "decoder.*;every=1"}, "not patterns of layers"),
    ("plan.set", {"job": "gpt", "layers": "*" * 5000}, "plan.layers: neither"),
    ("plan.set", {"job": "gpt", "step": 1}, "this method has no parameter 'step'"),
    ("plan.set", {"job": "a/b", "every": 1}, "job: not a name or pattern"),
    ("plan.set", {"job": "a" * 129, "every": 1}, "job: not a name or pattern"),
    ("plan.set", {"every": 1}, "job: not a name or pattern"),
    ("plan.set", {"job": 3}, "job: not a name or pattern"),
    ("plan.get", {"job": "gpt-*"}, "job: not the name of one"),
    ("plan.reset", {"job": "gpt"}, "no plan was set for 'gpt'"),
    ("plan.reset", {"job": "*"}, "no plan was set for '*'"),
    ("plan.reset", {}, "job: not a name or pattern"),
])
def test_bad_requests_say_what_is_wrong_and_change_nothing(attnd, method, params, message):
    assert message in refused(attnd, method, **params)
    assert [p["from"] for p in attnd.call("plan.get")] == ["default"]


def test_one_more_than_64_is_refused(attnd):
    trainer = Listener(attnd, "job7")
    for i in range(64):
        attnd.call("plan.set", job=f"job{i}", every=i)
    assert "64 plans" in refused(attnd, "plan.set", job="more", every=1)
    attnd.call("plan.set", job="job7", every=700)
    wait_until(lambda: len(trainer.plans()) == 65 and trainer.in_force() == (700, "*"), "all plans")


def test_the_longest_plan_reaches_the_trainer(attnd):
    trainer = Listener(attnd, "a" * 128)
    trainer.socket.setsockopt(zmq.MAXMSGSIZE, 1024)  # for connections from now on
    pattern, layers = "[a-z]*" + "a" * 122, " ".join(["decoder.[0-9]*.self"] * 25)
    heads = ",".join(["0-99"] * 51)
    attnd.call("plan.set", job=pattern, every=10**9, layers=layers, heads=heads, samples=10**9, rows=10**9)
    expected = plan(0, pattern, 10**9, layers, heads, 10**9, 10**9)
    trainer.wait_plans(expected, THE_DEFAULT)
    second = Listener(attnd, "b")
    second.wait_plans(expected, THE_DEFAULT)
    assert trainer.in_force()[0] == 10**9
    understood = choose(trainer.prefixes, "a" * 128)  # as trainers in Python do
    assert (understood.every, understood.samples, understood.rows) == (10**9, 10**9, 10**9)


def test_plans_that_change_all_the_time_disturb_nothing(attnd, rng):
    """A flood of messages on one side, of plans on the other: every message is received, every plan arrives."""
    trainer, weights = Listener(attnd, "gpt-small"), softmax_maps(rng, 1, 2, 8, 8)
    reader = Reader(attnd, "summary/")
    done = threading.Event()
    changes = []

    def change():
        with_its_own = Attnd.__new__(Attnd)
        with_its_own.__dict__ = dict(attnd.__dict__, context=zmq.Context())
        while not done.is_set():
            with_its_own.call("plan.set", job="gpt-*", every=1 + len(changes))
            changes.append(1)
        with_its_own.context.destroy(linger=0)

    thread = threading.Thread(target=change)
    thread.start()
    count = 0
    deadline = time.monotonic() + PATIENCE_S
    while count < 3000 or (len(changes) < 50 and time.monotonic() < deadline):
        trainer.attention(weights, step=count)
        trainer.listen()
        count += 1
        if count > 3000:  # only plans are missing, and attnd may be slow
            time.sleep(0.01)
    done.set()
    thread.join()
    trainer.event("epoch_end", step=count)
    stats = attnd.settled(count + 1)
    assert len(changes) >= 50
    assert stats["received"] == count + 1 and stats["lost"] == 0
    assert set(stats["dropped"]) <= {"over_budget"}  # nothing holds the flood up, so it may be too much
    _, summary = reader.next()
    assert summary["messages"] == stats["processed"] - 1 and summary["lost"] == 0
    trainer.wait_plans(plan(0, "gpt-*", len(changes)), THE_DEFAULT)


def test_over_the_budget_plans_arrive(rng):
    """A plan that asks for less is what one wants then."""
    attnd, trainer = listened("ingest.budget=8MiB", "ingest.max_message=4MiB", "workers.threads=1",
                              "metrics.spectrum_budget=0")
    weights = softmax_maps(rng, 1, 4, 256, 256)
    sent = 40
    for step in range(sent):
        trainer.attention(weights, step=step)
    wait_until(lambda: attnd.stats()["dropped"].get("over_budget", 0) > 0, "a message that does not fit")
    attnd.call("plan.set", job="gpt-small", every=0)
    trainer.wait_plans(plan(0, "gpt-small", 0), THE_DEFAULT)
    attnd.settled(sent)


# ---------------------------------------------------------------------------------------------- clients

def said_of_plans(attnd, *arguments):
    """The exit status of attnctl plan, and what it says."""
    done = attnctl(attnd, "plan", *arguments)
    return done.returncode, done.stdout or done.stderr


def test_attnctl_shows_sets_and_resets():
    attnd, trainer = listened()
    settings = ("every=10", "layers=decoder.*.self encoder.*", "heads=0-3,7", "tier=rows")
    assert said_of_plans(attnd, "set", "gpt-*", *settings) == (
        0, "JOBS   EVERY  LAYERS                    HEADS  SAMPLES  ROWS  TIER  FROM\n"
           "gpt-*  10     decoder.*.self encoder.*  0-3,7  1        all   rows  set\n")
    trainer.wait_plans(plan(0, "gpt-*", 10, "decoder.*.self encoder.*", "0-3,7", tier="rows"), THE_DEFAULT)
    assert said_of_plans(attnd, "set", "gpt-small", "every=0", "samples=0")[0] == 0
    assert said_of_plans(attnd, "get") == (
        0, "JOBS       EVERY  LAYERS                    HEADS  SAMPLES  ROWS  TIER  FROM\n"
           "gpt-small  never  decoder.*.self encoder.*  0-3,7  all      all   rows  set\n"
           "gpt-*      10     decoder.*.self encoder.*  0-3,7  1        all   rows  set\n"
           "*          50     *                         *      1        all   auto  default\n")
    assert said_of_plans(attnd, "reset", "gpt-small")[0] == 0
    assert said_of_plans(attnd, "get", "gpt-small")[1].endswith(
        "\ngpt-*  10     decoder.*.self encoder.*  0-3,7  1        all   rows  set\n")
    assert said_of_plans(attnd, "reset", "gpt-small") == (2, "attnctl: no plan was set for 'gpt-small'\n")
    assert said_of_plans(attnd, "set", "gpt-small", "every=x") == (
        2, "attnctl: plan.every: 'x': not a whole number (valid: 0 to 1000000000)\n")


def test_python_shows_sets_and_resets():
    attnd, trainer = listened()
    with Control(attnd.endpoint("control")) as control:
        assert control.plan("gpt-small")["from"] == "default"
        assert control.set_plan("gpt-*", every=10, layers="decoder.*", heads=3)["heads"] == "3"
        trainer.wait_plans(plan(0, "gpt-*", 10, "decoder.*", "3"), THE_DEFAULT)
        assert [p["pattern"] for p in control.plan()] == ["gpt-*", "*"]
        with pytest.raises(ControlError, match="plan.samples: '-1'") as error:
            control.set_plan("gpt-*", samples=-1)
        assert error.value.code == "argument"
        assert control.reset_plan("gpt-*")["from"] == "default"
    trainer.wait_plans(THE_DEFAULT)
