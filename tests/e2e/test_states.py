# SPDX-License-Identifier: MIT
"""Messages of type `state` through a real attnd: what a training computes itself is what attnd computes of the same maps,
counts and histograms bit for bit; what was not computed is absent; and what is no state is refused and counted.
"""
from types import SimpleNamespace

import msgpack
import numpy as np
import pytest
from harness import Attnd, Trainer, softmax_maps, wait_until

import formulas

from attnd import Publisher
from attnd.sending.layer_state import LayerState

BATCH, HEADS, T, STEPS, MICROBATCHES, WINDOW = 2, 4, 12, 8, 2, 4
SETTINGS = ("window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}", "workers.isa=scalar",
            "metrics.spectrum=false", "maps.enabled=false", "history.commit=100ms", "window.also=[2 steps]")
NOT_HERE = {"max_logit", "sink_deficit", "induction", "duplicate_token"}


def exact_maps(rng):
    """Weights whose sums are exact in any order: a mass of 1 - 2^-53 and one of 1 are in different buckets."""
    weights = np.round(softmax_maps(rng, BATCH, HEADS, T, T, True, np.float64) * 2**20) / 2**20
    largest = weights.argmax(-1)[..., None]
    rest = 1 - weights.sum(-1, keepdims=True)
    np.put_along_axis(weights, largest, np.take_along_axis(weights, largest, -1) + rest, -1)
    return weights


def maps_of(rng):
    """{(step, microbatch): weights in f64}, causal, of many temperatures, with rows that are no distribution."""
    maps = {(step, m): exact_maps(rng) for step in range(STEPS) for m in range(MICROBATCHES)}
    maps[3, 1][0, 2, 5] *= 1.5
    maps[4, 0][1, 0, 7] = np.nan
    return maps


def rows_of(weights):
    """What a kernel would say: row metrics [B, H, T], NaN where there is none, and the valid queries."""
    case = SimpleNamespace(weights=weights, dtype="f64", is_self=True, window=0, q_offset=0, q_stride=1, mask=None,
                           documents=None, tokens=None, dropout=False, learned_sink=False, causal=True, q_len=None,
                           k_len=None)
    query, (sound, _, error) = formulas.visible(case)[1], formulas.judge(case, weights)
    values = formulas.row_values(case, weights, 8)
    return {name: np.where(sound & np.broadcast_to(exists, sound.shape), value, np.nan)
            for name, (value, exists) in values.items() if name not in NOT_HERE}, query, float(error)


def add(state, weights, step, microbatch, rank=0):
    rows, query, error = rows_of(weights)
    state.add(rows, keys=T, step=step, microbatch=microbatch, rank=rank, causal=True, valid=query, row_sum_error=error)


def windows_of(attnd, job):
    def both():
        found = attnd.call("windows", job=job)["layers"]
        tracks = {(track["length"], track["windows"]) for track in found[0]["tracks"]} if found else set()
        return tracks >= {(WINDOW, STEPS // WINDOW), (2, STEPS // 2)}
    wait_until(both, f"the windows of {job}")


def test_states_say_what_the_maps_of_the_same_steps_say(rng):
    attnd = Attnd(*SETTINGS)
    maps = maps_of(rng)
    sent = 0
    raw = Trainer(attnd, "maps")
    for (step, microbatch), weights in maps.items():
        raw.attention(weights, step=step, causal=True, microbatch=microbatch)
        sent += 1
    raw.event("bye", step=STEPS)
    with Publisher("states", endpoint=attnd.endpoint("ingest")) as publisher:
        assert publisher.wait_for_subscriber(60)
        assert publisher.buckets == 48
        for begin in range(0, STEPS, 2):  # two steps of two microbatches each in one message
            state = LayerState(HEADS, publisher.buckets)
            for key in [(begin + 1, 1), (begin, 0), (begin + 1, 0), (begin, 1)]:
                add(state, maps[key], *key)
            assert publisher.publish_state(state, stack="decoder", layer=0)
    for job in ("maps", "states"):
        windows_of(attnd, job)
    stats = attnd.settled(sent + STEPS // 2 + 2)  # and two byes
    assert stats["dropped"] == {}
    for length in (WINDOW, 2):
        window = f"{length} steps"
        one, = attnd.call("summary", job="maps", window=window)
        two, = attnd.call("summary", job="states", window=window)
        for key in ("rows", "invalid_rows", "messages", "ranks", "step", "epoch", "shape", "causal", "lost", "dropped",
                    "local_window"):
            assert one[key] == two[key], key
        assert (one["tier"], two["tier"]) == ("attention", "state")
        assert one["row_sum_error"] == pytest.approx(two["row_sum_error"], rel=1e-9)
        assert one["heads"]["pattern"] == two["heads"]["pattern"]
        assert one["sink_rate"] == two["sink_rate"]
        compare_rows(attnd, one["heads"], two["heads"], window)
        assert set(one["heads"]) - set(two["heads"]) - NOT_HERE == {"mean", "min", "max", "std", "variance", "locality", "importance"}
        assert "aggregate" in one and "aggregate" not in two and "top_pairs" not in two
    live, = attnd.call("live", job="states")
    expected, = attnd.call("live", job="maps")
    assert live["tier"] == "state" and live["step"] == STEPS - 1 and live["heads"]["pattern"] == expected["heads"]["pattern"]
    assert np.allclose(live["heads"]["entropy"], expected["heads"]["entropy"], rtol=1e-9)
    assert attnd.stop() == 0


def compare_rows(attnd, one, two, window):
    """Histograms are the same, bit for bit: their divergence is 0, and all that is read off them is the same."""
    heads = attnd.call("compare", job="maps", job_b="states", window=window)["heads"]
    assert len(heads) == HEADS
    for head in heads:
        assert set(head["metrics"]) == set(two) - {"pattern"}
        assert all(metric["js"] == 0 for metric in head["metrics"].values()), head
    for name in set(two) - {"pattern"}:
        assert one[name]["count"] == two[name]["count"], name
        for statistic in ("mean", "std", "min", "max", "last", "p10", "p50", "p90", "p99"):
            a, b = (np.array(each[name][statistic], dtype=float) for each in (one, two))
            assert np.allclose(a, b, rtol=1e-9, atol=1e-9), (name, statistic, a, b)


def frames_of(trainer, state, step=0, heads=HEADS, **keys):
    about = {"heads": heads, "first_epoch": 0, "first_step": step, **keys}
    return trainer.tensor_frames("state", {"state": np.frombuffer(state, dtype=np.uint8)}, step=step, **about)


def some_state(step=0, heads=HEADS, **changes):
    state = LayerState(heads)
    state.add({"entropy": np.ones((1, heads, 3))}, keys=3, step=step, time_ns=1)
    return msgpack.packb({**msgpack.unpackb(state.pack()), **changes})


def test_what_is_no_state_is_refused_and_counted():
    attnd = Attnd(*SETTINGS)
    trainer = Trainer(attnd, "hostile")
    good = some_state()
    for state in (b"\xc0", good[:-1], some_state(v=3), some_state(rows=1), some_state(lost=1), some_state(messages=0),
                  some_state(rows=2**41), some_state(newest=None),
                  some_state(dropped={"late": 1}), some_state(**{f"x{i}": 0 for i in range(1000)}),
                  some_state(row_sum_error=float("inf")), some_state(row_sum_error=float("nan")), some_state(buckets=96)):
        trainer.send(*frames_of(trainer, state))
    for frames in (frames_of(trainer, some_state(heads=3)), frames_of(trainer, good, step=1),
                   frames_of(trainer, some_state(step=1))):
        trainer.send(*frames)
    trainer.send(*frames_of(trainer, some_state(step=9), step=9, first_step=3))  # in two windows of either length
    trainer.send(*frames_of(trainer, some_state(step=10), step=10, first_step=9))  # in two windows of 2 steps alone
    trainer.send(*frames_of(trainer, good, first_step=1))
    stats = attnd.settled(19)
    assert stats["dropped"] == {"state": 13, "state_mismatch": 3, "state_span": 1, "key_range": 1}
    assert stats["processed"] == 1
    attnd.call("flush")
    summary, = attnd.call("summary", job="hostile")
    assert (summary["messages"], summary["rows"], summary["step"]) == (1, 3 * HEADS, 10)
    assert attnd.stop() == 0


def test_a_state_waits_for_its_turn_behind_maps_that_are_computed(rng):
    attnd = Attnd(*SETTINGS, "workers.threads=1")
    trainer = Trainer(attnd, "mixed")
    for step in range(4):
        trainer.attention(softmax_maps(rng, 4, HEADS, 256, 256), step=step)
        trainer.send(*frames_of(trainer, some_state(step=step), step=step))
    stats = attnd.settled(8)
    assert stats["dropped"] == {} and stats["processed"] == 8
    attnd.call("flush")
    summary, = attnd.call("summary", job="mixed")
    assert summary["messages"] == 8 and summary["lost"] == 0
    assert summary["heads"]["entropy"]["count"] == [4 * (4 * 256 + 3)] * HEADS
    assert summary["heads"]["confidence"]["count"] == [4 * 4 * 256] * HEADS
    assert attnd.stop() == 0


def test_states_are_there_after_a_restart():
    attnd = Attnd(*SETTINGS)
    trainer = Trainer(attnd, "kept")
    trainer.send(*frames_of(trainer, some_state(step=1), step=1))
    attnd.settled(1)
    assert attnd.stop() == 0
    attnd.start()
    attnd.call("flush")
    summary, = attnd.call("summary", job="kept")
    assert (summary["messages"], summary["rows"], summary["ranks"], summary["tier"]) == (1, 3 * HEADS, 1, "state")
    assert attnd.stop() == 0
