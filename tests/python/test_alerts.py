# SPDX-License-Identifier: MIT
"""Ranks agree on the step at whose end all of them act, whatever comes between: looks and steps in any order, ranks that
leave, and rounds that are called off. Windows of a run are told once each, from the summaries of their layers in any order."""
import random
import threading

import numpy as np
import pytest

from attnd.results import alerts, digest

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


def test_a_rank_is_held_at_its_fence_no_longer_than_it_gives_up(patient):
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
    assert run.ranks[0].look([{"rule": "a"}]) == [] and run.ranks[0].step_ends() is None
    run.ranks[0].leave()
    assert not caplog.records


def test_a_rank_alone_with_it_is_told_once(caplog):
    only = alerts._Ranks("job", Store(), "key", 0, 2)
    for _ in range(3):
        assert only.look([{"rule": "a"}]) == [] and only.step_ends() is None
    assert caplog.messages == [
        "job job: on_alert is not called: not all of 2 ranks watch with it, and one must not act alone"]


RUN = "0" * 32


def summary(layer, last, entropy=(1.0, 1.0), partial=False, unit="step", run=RUN, **more):
    return {"kind": "summary", "run": run, "stack": "decoder", "layer": layer, "site": "self", "step": last, "time_ns": last * 10**9,
            "window": {"unit": unit, "first": last - 9, "last": last, "length": 10, "every": 10, "partial": partial},
            "heads": {"entropy": {"mean": np.array(entropy)}}, **more}


def job(*layers, state="active"):
    return {"kind": "job", "run": RUN, "state": state, "layers": [{"stack": "decoder", "layer": layer, "site": "self", "heads": 2}
                                                                 for layer in layers]}


class Told:
    """The windows that are told, in order."""

    def __init__(self, *results):
        self.windows, self.lines = digest.Windows(RUN), []
        self.take(*results)

    def take(self, *results):
        for result in results:
            self.lines += self.windows.take(result)
        return self

    @property
    def lowest(self):
        return {line.step: line.values["lowest_entropy"] for line in self.lines}


def test_a_window_is_told_when_its_last_layer_has_come_with_the_lowest_head():
    told = Told(job(0, 1), summary(1, 9, (0.5, 0.25), heads={"entropy": {"mean": np.array([0.5, 0.25])},
                                                            "max_logit": {"max": np.array([3.0, np.nan])}}))
    assert not told.lines
    line, = told.take(summary(0, 9, (np.nan, 0.75))).lines
    assert line.values == {"lowest_entropy": 0.25, "lowest_entropy_layer": 1, "lowest_entropy_head": 1, "max_logit": 3.0}
    assert (line.step, line.time_s, line.texts) == (9, 9.0, {"lowest_entropy": "head 1 of decoder.1.self"})


def test_a_window_waits_for_the_layers_of_the_one_before():
    told = Told(job(0), summary(0, 9), summary(1, 9, (0.5, 0.5)), summary(0, 19))
    assert list(told.lowest) == [9]
    assert told.take(summary(1, 19, (0.5, 0.5))).lowest == {9: 1.0, 19: 0.5}


def test_a_layer_that_has_gone_is_waited_for_until_the_next_window_or_for_a_while(monkeypatch):
    told = Told(job(0, 1), summary(0, 9), summary(1, 9), summary(0, 19))
    assert list(told.lowest) == [9]
    assert list(told.take(summary(0, 29)).lowest) == [9, 19, 29]  # it has all that 19 had
    told.take(summary(0, 39), summary(1, 49))
    assert list(told.lowest) == [9, 19, 29, 39] and not list(told.windows.look())
    monkeypatch.setattr(digest, "QUIET_S", -1.0)
    assert [line.step for line in told.windows.look()] == [49]


def test_what_was_cut_short_is_told_when_the_run_ends_and_only_then():
    told = Told(job(0, 1), summary(0, 5, (0.1, 0.1), True), summary(1, 5, (0.1, 0.1), True), summary(0, 9), summary(1, 9))
    assert told.lowest == {9: 1.0}
    told.take(summary(0, 12, (0.3, 0.3), True), summary(0, 12, (0.4, 0.4), True), summary(1, 12, (0.5, 0.5), True))
    assert list(told.lowest) == [9] and not told.windows.ended
    assert told.take(job(0, 1, state="ended")).lowest == {9: 1.0, 12: 0.4} and told.windows.ended


def test_other_runs_other_tracks_and_windows_that_come_again_are_nothing():
    told = Told(job(0), summary(0, 9, run="1" * 32), summary(0, 9, track=1), summary(0, 9), summary(0, 9, (0.1, 0.1)), summary(0, 4))
    assert told.lowest == {9: 1.0}


def test_windows_of_another_kind_begin_anew():
    told = Told(job(0), summary(0, 99), summary(0, 1, unit="epoch"))
    assert [line.step for line in told.lines] == [99, 1]
