# SPDX-License-Identifier: MIT
"""The capture plan, as a daemon says it by what it subscribes to."""
import logging

import numpy as np
import pytest

import attnd
from attnd.base import plan as plan_module
from attnd.base.plan import EVERYTHING, Plan, choose
from conftest import ROOT, FakeDaemon

DEFAULT = b"plan/999999/*/every=50;layers=*;heads=*;samples=1;rows=0"
RARER = b"plan/999998/job/every=%d;layers=*;heads=*;samples=1;rows=0"
TIERS = (b"raw", "rows", "raw"), (b"auto", "rows", "rows"), (b"rows", "raw", "rows")  # a plan's, the code's, which holds


@pytest.mark.parametrize("prefixes, own, plan", [
    ([b"tensor/", b"event/"], {}, EVERYTHING), ([b"tensor/"], {"every": 7}, Plan(every=7)),
    # the code's own words go before the default and after a plan for the job
    ([DEFAULT], {}, Plan(every=50, samples=1)), ([DEFAULT], {"every": 7, "rows": 64}, Plan(every=7, samples=1, rows=64)),
    ([DEFAULT, b"plan/3/job/every=5"], {"every": 7}, Plan(every=5)),
    # a default that was made rarer for the job is a default
    ([DEFAULT, RARER % 200], {}, Plan(every=200, samples=1)), ([DEFAULT, RARER % 200], {"every": 7}, Plan(every=7, samples=1)),
    ([DEFAULT, RARER % 200], {"samples": 4}, Plan(every=200, samples=4)),
    ([DEFAULT, RARER % 200, b"plan/64/*/every=5"], {}, Plan(every=5)),
    # a tier that a plan leaves open is the code's own
    ([b"plan/3/job/every=5;tier=rows"], {}, Plan(every=5, tier="rows")),
    ([b"plan/3/job/every=5;tier=later"], {}, Plan(every=5)),
    ([b"plan/3/job/every=5"], {"every": 7, "tier": "rows"}, Plan(every=5, tier="rows")),
    *(([DEFAULT, b"plan/3/job/every=5;tier=" + said], {"tier": own}, Plan(every=5, tier=tier)) for said, own, tier in TIERS),
    *(([DEFAULT + b";tier=" + said], {"tier": own}, Plan(every=50, samples=1, tier=own)) for said, own, _ in TIERS),
    # of equal order the denser one holds, and none comes last
    ([b"plan/1/*/every=20", b"plan/1/*/every=5"], {}, Plan(every=5)),
    ([b"plan/1/*/every=0", b"plan/1/*/every=500"], {}, Plan(every=500)),
    ([b"plan/0/*/every=3;colour=red;samples=2"], {}, Plan(every=3, samples=2))])  # unknown keys are skipped
def test_which_plan_holds(prefixes, own, plan):
    assert choose(prefixes, "job", own) == plan


@pytest.mark.parametrize("job, plan", [("gpt-a", Plan(every=3)), ("gpt-c", Plan(every=2, samples=4)), ("bert", Plan(every=9)),
                                       ("t5", Plan(every=50, samples=1))])
def test_the_lowest_order_that_matches_holds_alone(job, plan):
    prefixes = [DEFAULT, b"plan/2/gpt-*/every=2;samples=4", b"plan/1/gpt-[ab]/every=3", b"plan/0/bert/every=9"]
    assert choose(prefixes, job) == plan


def test_a_rarer_default_is_told_once_a_change(caplog):
    with attnd.Publisher("job", FakeDaemon().endpoint) as publisher, caplog.at_level(logging.INFO, "attnd"):
        def planned(*prefixes, own={}):
            publisher._sender.prefixes = tuple(prefixes)
            assert publisher.plan_with(own)
            told = list(caplog.messages)
            caplog.clear()
            return told

        assert planned(DEFAULT) == [] and planned(DEFAULT, RARER % 3200, own={"every": 7}) == []
        said, = planned(DEFAULT, RARER % 3200)
        assert "attnd captures one step in 3200 instead of one in 50, so that" in said
        assert planned(b"", DEFAULT, RARER % 3200) == [] and planned(DEFAULT, RARER % 3200, own={"samples": 4}) == []
        assert planned(DEFAULT, RARER % 3200, b"plan/64/*/every=5") == []
        said, = planned(DEFAULT, RARER % 100)
        assert "one step in 100 instead of one in 50" in said


@pytest.mark.parametrize("settings", [b"every=-1", b"every=x", b"every=", b"heads=3-1", b"heads=", b"heads=a",
                                      b"layers=", b"samples=99999999999", b"every", b"every=1;heads=1,,2"])
def test_a_malformed_plan_is_ignored_as_a_whole_and_said_once(settings, caplog):
    for _ in range(3):
        assert choose([b"plan/0/*/samples=3;" + settings], "job") == EVERYTHING
    assert len(caplog.records) <= 1


def test_a_plan_has_at_most_1024_bytes(caplog):
    longest = b"plan/0/*/every=3;layers=".ljust(1024, b"*")
    assert choose([longest], "job").every == 3
    assert choose([longest + b"*"], "job") == EVERYTHING
    assert len(caplog.records) == 1 and "ignored" in caplog.text


def test_steps_and_layers():
    plan = Plan(every=3, layers=("decoder.[01].self", "encoder.*.*"))
    assert [step for step in range(8) if plan.takes_step(step)] == [0, 3, 6]
    assert not any(Plan(every=0).takes_step(step) for step in range(3))
    assert plan.takes_layer(("decoder", 1, "self")) and plan.takes_layer(("encoder", 9, "self"))
    assert not plan.takes_layer(("decoder", 1, "cross")) and not plan.takes_layer(("decoder", 11, "self"))


@pytest.mark.parametrize("heads,total,ranges", [
    (None, 4, [(0, 4)]), (((0, 3), (7, 7)), 12, [(0, 4), (7, 8)]), (((7, 7), (0, 3)), 6, [(0, 4)]),
    (((0, 1), (2, 3)), 8, [(0, 4)]), (((5, 9),), 4, []), (((2, 99),), 4, [(2, 4)])])
def test_ranges_of_heads(heads, total, ranges):
    assert Plan(heads=heads).head_ranges(total) == ranges


def test_rows_are_those_of_the_golden_table():
    """Which libattn is held to as well."""
    lines = (ROOT / "tests/golden/rows.txt").read_text().splitlines()
    table = [[int(word) for word in line.split()] for line in lines if not line.startswith("#")]
    assert len(table) > 40
    for rows, every, step, queries, first, stride, count in table:
        taken = Plan(every=every, rows=rows).row_slice(step, queries)
        assert (taken.start, taken.step, len(range(queries)[taken])) == (first, stride, count)


@pytest.mark.parametrize("rows, queries", [(1, 1), (1, 7), (4, 10), (4, 12), (5, 4), (3, 64), (100, 1000), (7, 1001)])
def test_every_row_has_its_turn_once(rows, queries):
    plan, turns = Plan(every=10, rows=rows), -(-queries // rows)
    taken = [range(queries)[plan.row_slice(10 * k, queries)] for k in range(turns)]
    assert all(1 <= len(one) <= rows for one in taken)
    assert sorted(row for one in taken for row in one) == list(range(queries))
    assert range(queries)[plan.row_slice(10 * turns, queries)] == taken[0]


def test_any_few_turns_in_succession_lie_apart():
    """Of 16 turns, any window of 4 has a row in each third of them."""
    first = [Plan(rows=64).row_slice(step, 1024).start for step in range(32)]
    for begin in range(28):
        window = sorted(first[begin:begin + 4])
        gaps = [b - a for a, b in zip(window, window[1:] + [window[0] + 16])]
        assert max(gaps) <= 6, window


def test_a_publisher_follows_what_is_subscribed():
    fake = FakeDaemon(topics=(b"tensor/", DEFAULT))
    with attnd.Publisher("job", fake.endpoint) as publisher:
        assert publisher.plan == EVERYTHING
        fake.attach(publisher)
        assert publisher.plan == Plan(every=50, samples=1)
        assert publisher.wanted("decoder", 0, "self") and publisher.wanted("decoder", 0, "self", step=50)
        assert not publisher.wanted("decoder", 0, "self", step=49)


def test_each_query_has_the_same_chance_and_each_stratum_one_row(monkeypatch):
    monkeypatch.setattr(plan_module, "_random", np.random.default_rng(7))
    queries, rows, draws = 101, 16, 20000
    counts, widest = np.zeros(queries), 0
    for _ in range(draws):
        found = plan_module.strata(queries, rows)
        assert len(set(found.tolist())) == rows and (np.diff(found) > 0).all() and 0 <= found[0] and found[-1] < queries
        counts[found] += 1
        widest = max(widest, np.diff(found, append=found[0] + queries).max())
    expected = draws * rows / queries
    assert np.abs(counts - expected).max() < 5 * expected**0.5
    assert widest <= 2 * -(-queries // rows) - 1


@pytest.mark.parametrize("period", [1, 7, 32, 64, 333])
def test_the_mean_of_some_rows_is_near_that_of_all_whatever_repeats(period, monkeypatch):
    """32 queries to a stratum: a stride of 32 would always meet the same place of a document of 32 or 64 tokens."""
    monkeypatch.setattr(plan_module, "_random", np.random.default_rng(period))
    queries, rows, draws, outside = 8192, 256, 2000, 0
    entropy = np.log1p(np.arange(queries) % period) + 0.1 * np.random.default_rng(1).normal(size=queries)
    means = np.empty(draws)
    for draw in range(draws):
        taken = entropy[plan_module.strata(queries, rows)]
        means[draw] = taken.mean()
        outside += abs(means[draw] - entropy.mean()) > 3 * taken.std(ddof=1) / rows**0.5
    assert outside <= draws // 100
    assert abs(means.mean() - entropy.mean()) < 4 * means.std() / draws**0.5
