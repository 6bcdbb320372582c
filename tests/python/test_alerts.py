# SPDX-License-Identifier: MIT
"""Ranks agree on the step at whose end all of them act, whatever comes between: looks and steps in any order, ranks that
leave, and rounds that are called off."""
import logging
import random
import threading

import pytest

from attnd import alerts

WORLD = 3


class Store:
    """The store of torch.distributed. In the middle of anything that a rank asks of it, others may go on."""

    def __init__(self):
        self.values, self.meanwhile = {}, lambda: None

    def add(self, name, value):
        self.meanwhile()
        self.values[name] = self.values.get(name, 0) + value
        return self.values[name]

    def set(self, name, value):
        self.meanwhile()
        self.values[name] = value.encode()

    def get(self, name):
        self.meanwhile()
        return self.values[name]

    def check(self, names):
        self.meanwhile()
        return all(name in self.values for name in names)


class Run:
    """A training of three ranks, at most `apart` steps from each other, in an order that the seed says."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.apart = self.random.choice((1, 1, 2, 6))
        self.store = Store()
        self.ranks = [alerts._Ranks("job", self.store, "key", rank, WORLD) for rank in range(WORLD)]
        self.store.meanwhile = self.meanwhile
        self.waiting = [[] for _ in self.ranks]
        self.did = [[] for _ in self.ranks]  # (steps that had ended, what ranks agreed on) of each
        self.looking, self.left = set(), set()

    def meanwhile(self):
        if self.random.random() < 0.3:
            self.advance()

    def advance(self):
        rank = self.random.randrange(WORLD)
        if rank in self.left:
            return
        if self.random.random() < 0.5:
            self.look(rank)
        else:
            self.step(rank)

    def look(self, rank):
        if rank not in self.looking:
            self.looking.add(rank)
            for alert in self.ranks[rank].look(list(self.waiting[rank])):
                self.waiting[rank] = [one for one in self.waiting[rank] if one != alert]
            self.looking.discard(rank)

    def step(self, rank):
        """One more step, unless the rank is held at its fence or the others have to come first."""
        it = self.ranks[rank]
        others = [other._ended for number, other in enumerate(self.ranks) if number not in self.left]
        held = it._fence is not None and it._step is None and not it._over and it._ended + 1 >= it._fence
        if held or it._ended >= min(others) + self.apart:
            return
        agreed = it.step_ends()
        if agreed is not None:
            self.did[rank].append((it._ended, agreed))
            if self.random.random() < 0.3 and "stop" not in agreed:
                it.stop_wanted = "enough"

    def finish(self):
        """Whatever has begun comes to an end: the ranks go on one after the other."""
        self.store.meanwhile = lambda: None
        for _ in range(100):
            for rank in set(range(WORLD)) - self.left:
                self.look(rank)
                self.step(rank)

    def leave(self, rank):
        if rank not in self.looking:
            self.ranks[rank].leave()
            self.left.add(rank)


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr(alerts, "GIVE_UP_S", 1000.0)
    return monkeypatch


@pytest.mark.parametrize("trouble", ["none", "a rank leaves", "called off"])
def test_all_ranks_act_at_the_end_of_one_step_or_none_of_them_does(patient, trouble):
    rounds = 0
    for seed in range(400):
        patient.setattr(alerts, "GIVE_UP_S", 1000.0)
        run = Run(seed)
        at = run.random.randrange(50, 250)
        for turn in range(300):
            if run.random.random() < 0.05:
                rank = run.random.randrange(WORLD)
                run.waiting[rank].append({"rule": f"r{turn}"})
            if turn == at and trouble == "a rank leaves":
                run.leave(run.random.randrange(WORLD))
            if turn == at and trouble == "called off":
                patient.setattr(alerts, "GIVE_UP_S", -1.0)
            run.advance()
        patient.setattr(alerts, "GIVE_UP_S", 1000.0)
        run.finish()
        staying = [run.did[rank] for rank in range(WORLD) if rank not in run.left]
        rounds += len(staying[0])
        assert all(did == staying[0] for did in staying), (seed, run.did)
        for rank in run.left:
            assert run.did[rank] == staying[0][:len(run.did[rank])], (seed, run.did)
        assert not any(rank._fence is not None and rank._step is None and not rank._over for rank in run.ranks), seed
    assert rounds > 400


def test_an_alert_that_several_ranks_hear_is_told_once(patient):
    run = Run(0)
    run.waiting = [[{"rule": "a"}], [{"rule": "a"}, {"rule": "b"}], []]
    run.finish()
    told = [alert["rule"] for _, agreed in run.did[0] for alert in agreed.get("alerts", ())]
    assert sorted(told) == ["a", "b"] and run.did[0] == run.did[1] == run.did[2]


def test_a_rank_is_held_at_its_fence_no_longer_than_it_gives_up(patient, caplog):
    run = Run(0)
    run.waiting[0].append({"rule": "a"})
    run.store.meanwhile = lambda: None
    run.look(0)
    patient.setattr(alerts, "GIVE_UP_S", 0.05)
    patient.setattr(alerts, "CLOSE_S", 0.0)
    caught = []
    thread = threading.Thread(target=lambda: [caught.append(run.ranks[0].step_ends()) for _ in range(5)])
    thread.start()
    thread.join(30)
    assert not thread.is_alive() and caught == [None] * 5


def test_a_store_that_has_ended_stops_nobody(caplog):
    run = Run(0)

    def ended():
        raise RuntimeError("Connection reset by peer")

    run.store.meanwhile = ended
    with caplog.at_level(logging.WARNING, "attnd"):
        assert run.ranks[0].look([{"rule": "a"}]) == [] and run.ranks[0].step_ends() is None
        run.ranks[0].leave()
    assert not caplog.records


def test_a_rank_alone_with_it_is_told_once(caplog):
    store = Store()
    only = alerts._Ranks("job", store, "key", 0, 2)
    with caplog.at_level(logging.WARNING, "attnd"):
        for _ in range(3):
            assert only.look([{"rule": "a"}]) == [] and only.step_ends() is None
    assert [record.getMessage() for record in caplog.records] == [
        "job job: on_alert is not called: not all of 2 ranks watch with it, and one must not act alone"]
