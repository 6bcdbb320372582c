# SPDX-License-Identifier: MIT
"""The cost of capturing: told by trainers, bounded by making the default plan rarer, and shown."""
import logging
import os
import time

import pytest
from harness import Attnd, wait_until
from test_plan import THE_DEFAULT, Listener, plan, said_of_plans

torch = pytest.importorskip("torch")
import attnd as package  # noqa: E402

JOB = "gpt-small"


@pytest.fixture
def daemon():
    return Attnd("plan.cost_max=0.01")


def tell(trainer, capture_seconds, step_seconds=0.5, **keys):
    trainer.event("hello", step_seconds=step_seconds, capture_seconds=capture_seconds, **keys)


def test_the_rank_that_pays_most_decides_for_all_until_the_run_ends(daemon):
    fast = Listener(daemon, JOB, rank=0, world=2)
    slow = Listener(daemon, JOB, rank=1, world=2, run=fast.run)
    tell(fast, 0.01)
    tell(slow, 1.0)
    for trainer in fast, slow:
        trainer.wait_plans(plan(999998, JOB, 200), THE_DEFAULT)
        assert trainer.in_force() == (200, "*")
    found = daemon.call("plan.get", job=JOB)
    assert (found["pattern"], found["from"], found["every"]) == (JOB, "cost", 200)
    assert found["cost"] == {
        "part": 0.01, "max": 0.01, "every": 200, "instead_of": 50, "step_seconds": 0.5, "capture_seconds": 1.0,
        "message": "capture: 1.0 % of step time: every 200 instead of 50, so that it costs at most 1 %"}
    assert daemon.call("plan.get")[0]["cost"] == found["cost"]
    assert said_of_plans(daemon, "get", JOB) == (
        0, "JOBS       EVERY  LAYERS  HEADS  SAMPLES  ROWS  TIER  FROM\n"
           "gpt-small  200    *       *      1        all   auto  cost\n"
           "capture: 1.0 % of step time: every 200 instead of 50, so that it costs at most 1 %\n")
    fast.event("bye")
    slow.event("bye")
    fast.wait_plans(THE_DEFAULT)
    assert daemon.call("plan.get", job=JOB)["cost"] is None


def test_a_plan_that_is_set_for_a_job_begins_without_the_lengthening(daemon):
    trainer = Listener(daemon, JOB)
    tell(trainer, 1.0)
    trainer.wait_plans(plan(999998, JOB, 200), THE_DEFAULT)
    found = daemon.call("plan.set", job=JOB, samples=2)
    assert (found["every"], found["samples"], found["from"]) == (50, 2, "set")
    daemon.call("plan.reset", job=JOB)
    assert daemon.call("plan.get", job=JOB)["every"] == 200


def test_what_is_within_the_bound_is_only_shown(daemon):
    trainer = Listener(daemon, JOB)
    tell(trainer, 0.075)
    wait_until(lambda: daemon.call("plan.get", job=JOB)["cost"], "the cost")
    cost = daemon.call("plan.get", job=JOB)["cost"]
    assert cost["message"] == "capture: 0.3 % of step time" and cost["instead_of"] is None
    assert trainer.plans() == [THE_DEFAULT]
    assert daemon.call("plan.get", job="other")["cost"] is None


def test_what_somebody_asked_for_stays_and_is_shown(daemon):
    own, planned = Listener(daemon, JOB), Listener(daemon, "planned")
    daemon.call("plan.set", job="planned", every=5)
    tell(own, 0.1, own_every=1)
    tell(planned, 0.1)
    asked = "more than 1 % (plan.cost_max): every {} was asked for"
    for job, part, every in ((JOB, "20", 1), ("planned", "4.0", 5)):
        wait_until(lambda: daemon.call("plan.get", job=job)["cost"], "the cost")
        assert daemon.call("plan.get", job=job)["cost"]["message"] == f"capture: {part} % of step time, {asked.format(every)}"
    third = Listener(daemon, "third")
    tell(third, 10.0)
    third.wait_plans(plan(999998, "third", 3200), plan(0, "planned", 5), THE_DEFAULT)


def test_a_new_config_counts():
    daemon = Attnd(config="plan: {cost_max: 0.5, every: 2}\n")
    trainer = Listener(daemon, JOB)
    tell(trainer, 1.5)
    trainer.wait_plans(plan(999998, JOB, 8), plan(999999, "*", 2))
    daemon.rewrite("plan: {cost_max: 0.25, every: 3}\n")
    trainer.wait_plans(plan(999998, JOB, 12), plan(999999, "*", 3))
    daemon.rewrite("plan: {cost_max: 0.25, every: 3}\njobs: {'gpt-*': {plan.cost_max: 0}}\n")
    trainer.wait_plans(plan(999999, "*", 3))


SLOW = 40  # steps of both ranks, of this machine now: so long a capture of the slow one takes, pauses of the test apart


class Rank:
    """One of two processes of a training, of which each computes half of the heads; steps are driven by the test."""

    step_seconds = 0.001  # of both, the last time that nothing was captured

    def __init__(self, daemon, rank, run, **options):
        self.model = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.captured = []
        self.publisher = package.Publisher(JOB, daemon.endpoint("ingest"), rank, 2, run=run,
                                           on_publish=lambda message: self.captured.append(message.step))
        self.watch = package.watch(self.model, JOB, publisher=self.publisher, steps="manual", stack="encoder",
                                   tensor_parallel=(rank, 2), weights_every=0, wait=60, **options)
        publish = self.publisher.publish_later
        self.publisher.publish_later = lambda *args: (time.sleep(rank * SLOW * Rank.step_seconds), publish(*args))[1]

    def step(self):
        x = torch.rand(1, 4, 8)
        self.model(x, x, x)[0].sum().backward()
        self.watch.step()


@pytest.fixture
def start():
    opened = []

    def start(daemon, **options):
        run = os.urandom(16)
        opened.extend(Rank(daemon, rank, run, **options) for rank in range(2))
        return opened

    yield start
    for rank in opened:
        rank.watch.close()
        rank.publisher.close()


def train(ranks, until, what):
    """Steps of both, in turns, until that is so."""
    def steps():
        for _ in range(10):
            captured, began = [rank.watch.plan.takes_step(rank.watch.current_step) for rank in ranks], time.monotonic()
            for rank in ranks:
                rank.step()
            if not any(captured):
                Rank.step_seconds = time.monotonic() - began
        return until()

    wait_until(steps, what)


def rarer(ranks):
    """The `every` that holds for all ranks, when it is the same, and not the default's."""
    every = {rank.watch.plan.every for rank in ranks}
    return every.pop() if len(every) == 1 and every != {2} else None


def test_one_slow_rank_makes_captures_rarer_for_both_and_slices_match(start, caplog):
    daemon = Attnd("plan.cost_max=0.5", "plan.every=2")
    ranks = start(daemon)
    with caplog.at_level(logging.INFO, logger="attnd"):
        train(ranks, lambda: rarer(ranks), "a rarer plan")
    assert [record.getMessage().split(" (")[0] for record in caplog.records if "% of step time" in record.getMessage()]
    every, matched = 0, []

    def matches():
        """Three captures of both under one and the same plan: it may change again while the first ones are measured."""
        nonlocal every
        if rarer(ranks) != every:
            every = rarer(ranks)
            for rank in ranks:
                rank.publisher.drain()
                rank.captured.clear()
        matched[:] = [sorted(set(rank.captured)) for rank in ranks]
        return every and min(map(len, matched)) >= 3

    train(ranks, matches, "captures under the rarer plan")
    assert matched[0][:3] == matched[1][:3] and all(step % every == 0 for step in matched[0])
    assert every % 2 == 0 and every > 2

    def follow():
        """Both have the plan of which attnd says that it is rarer; the next one may still be on its way to them."""
        cost = daemon.call("plan.get", job=JOB)["cost"]
        return cost and cost["instead_of"] == 2 and cost["every"] == rarer(ranks)

    def entropies():
        daemon.call("flush")
        means = daemon.call("summary", job=JOB, stack="encoder", layer=0, site="self")[0]["heads"]["entropy"]["mean"]
        return means if len(means) == 4 and None not in means else None

    train(ranks, follow, "the plan that attnd tells")
    wait_until(entropies, "the heads of both")
    daemon.restart()
    train(ranks, follow, "what captures cost, told again to the new attnd")


def test_a_job_that_asks_for_every_step_keeps_it(start):
    daemon = Attnd("plan.cost_max=0.0001")
    ranks = start(daemon, every=1)
    train(ranks, lambda: daemon.call("plan.get", job=JOB)["cost"], "the cost")
    cost = daemon.call("plan.get", job=JOB)["cost"]
    assert (cost["every"], cost["instead_of"]) == (1, None)
    assert cost["message"].endswith(" of step time, more than 0.01 % (plan.cost_max): every 1 was asked for")
    assert rarer(ranks) == 1 and [entry["from"] for entry in daemon.call("plan.get")] == ["default"]
