# SPDX-License-Identifier: MIT
"""The oracle itself: the histories of two attnds that had some ranks each merge to that of one attnd that had all."""
import math
import os

import merging
import numpy as np
import pytest
from fleet import WINDOW, Training
from harness import Attnd, softmax_maps, wait_until


def wait_for_windows(attnd, count):
    wait_until(lambda: sum(one.final for one in merging.windows_of(attnd.history_path).values()) >= count, f"{count} windows")


def test_two_histories_merge_to_that_of_one_attnd():
    settings = (*WINDOW, "window.also=[6 steps every 3]", "window.buckets=12")
    alone, first, second = (Attnd(*settings) for _ in range(3))
    run = os.urandom(16)
    together = Training([alone] * 4, run=run)
    apart = Training([first, first, second, second], run=run)
    for training in (together, apart):
        training.steps(12)
        for trainer in training.trainers:
            trainer.event("bye", step=12)
    for attnd in (alone, first, second):
        wait_for_windows(attnd, 2 * (6 + 4))
    ours, theirs = merging.windows_of(alone.history_path), [merging.windows_of(one.history_path) for one in (first, second)]
    assert len(ours) == 2 * (6 + 4)
    for key, found in merging.union(theirs).items():
        assert len(found) == 2, merging.told(key)
        assert merging.differences(ours[key].state, merging.merged_all([one.state for one in found])) == []
    nodes = {"first": first.history_path, "second": second.history_path}
    assert merging.wrong(alone.history_path, nodes) == []
    said = merging.wrong(first.history_path, nodes)
    assert any("messages: 4 instead of 8" in one for one in said), said[:3]
    assert merging.wrong(first.history_path, nodes, lambda key: ["second"])[0].endswith("are missing, and it is not partial")


def test_the_oracle_reads_all_that_maps_give(rng=np.random.default_rng(7)):
    """Maps have more metrics than states, some of them across heads."""
    alone, first, second = (Attnd(*WINDOW, "workers.isa=scalar") for _ in range(3))
    run = os.urandom(16)
    groups = [Training([alone] * 2, run=run), Training([first, second], run=run)]
    for step in range(4):
        for rank in range(2):
            maps = softmax_maps(rng, 2, 3, 6, 6, causal=True, dtype=np.float64)
            maps[0, 1, 2] = np.nan
            for group in groups:
                group.trainers[rank].attention(maps, step=step, causal=True, time_ns=10**18 + 2 * step + rank)
    for group in groups:
        for trainer in group.trainers:
            trainer.event("bye", step=4)
    for attnd in (alone, first, second):
        wait_for_windows(attnd, 2)
    assert merging.wrong(alone.history_path, {"first": first.history_path, "second": second.history_path}) == []


@pytest.mark.parametrize("halvings", range(4))
def test_keys_are_halved_as_values_are(halvings):
    rng = np.random.default_rng(halvings)
    for value in rng.lognormal(0, 8, 200) * rng.choice([-1, 1], 200):
        key = merging.coarser(merging.key_of(value), halvings)
        u = abs(key) - (merging.BOUNDS >> halvings) - 1
        width = 2**halvings / 32
        assert 2.0**((u - 1) * width) * (1 - 1e-12) < abs(value) <= 2.0**(u * width) * (1 + 1e-12)
        assert math.copysign(1, key) == math.copysign(1, value)
        for more in range(halvings, 4):
            assert merging.halved((halvings, {key: 3}), more)[1] == {merging.coarser(merging.key_of(value), more): 3}

