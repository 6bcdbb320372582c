# SPDX-License-Identifier: MIT
"""Messages of type `rows` through a real attnd: sums that a training computes of its rows give what attnd computes of the same
maps, windows, counts and histograms; what was not sent is absent; and what cannot be is refused and counted.
"""
import numpy as np
import pytest
from harness import Attnd, Trainer, softmax_maps, wait_until
from row_sums import of_entropies, of_explicit, of_weights

from attnd import Publisher

BATCH, HEADS, T, STEPS, MICROBATCHES, WINDOW = 2, 4, 12, 8, 2, 4
SETTINGS = ("window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}", "workers.isa=scalar",
            "metrics.spectrum=false", "maps.enabled=false", "history.commit=100ms", "window.also=[2 steps]")
OF_LOGITS = {"max_logit", "max_abs_logit", "mean_logit", "std_logit"}
NOT_HERE = {"sink_deficit", "induction", "duplicate_token"}
AT_A_BOUND = {"local_mass"}  # all weights together are 1, or 1 + 2^-53, which is another bucket


def maps_of(rng):
    """{(step, microbatch): weights in f64}, causal, of many temperatures, with rows that are no distribution."""
    maps = {(step, m): softmax_maps(rng, BATCH, HEADS, T, T, True, np.float64) for step in range(STEPS) for m in range(MICROBATCHES)}
    maps[3, 1][0, 2, 5] = np.nan
    maps[4, 0][1, 0, 7] = np.nan
    return maps


def sums_of(weights):
    """As a kernel would leave them of their logits."""
    wrong = np.isnan(weights).any(-1)
    rows = of_weights(np.where(wrong[..., None], 1.0, weights), causal=True)
    rows.sums[0][wrong] = np.nan  # largest
    return rows


def windows_of(attnd, job):
    def both():
        found = attnd.call("windows", job=job)["layers"]
        tracks = {(track["length"], track["windows"]) for track in found[0]["tracks"]} if found else set()
        return tracks >= {(WINDOW, STEPS // WINDOW), (2, STEPS // 2)}
    wait_until(both, f"the windows of {job}")


def test_rows_say_what_the_maps_of_the_same_steps_say(rng):
    attnd = Attnd(*SETTINGS)
    maps = maps_of(rng)
    raw = Trainer(attnd, "maps")
    for (step, microbatch), weights in maps.items():
        raw.attention(weights, step=step, causal=True, microbatch=microbatch)
    raw.event("bye", step=STEPS)
    with Publisher("rows", endpoint=attnd.endpoint("ingest")) as publisher:
        assert publisher.wait_for_subscriber(60)
        for (step, microbatch), weights in maps.items():
            assert publisher.publish_rows(sums_of(weights), stack="decoder", layer=0, step=step, microbatch=microbatch)
    for job in ("maps", "rows"):
        windows_of(attnd, job)
    stats = attnd.settled(2 * len(maps) + 2)  # and two byes
    assert stats["dropped"] == {}
    for length in (WINDOW, 2):
        window = f"{length} steps"
        one, = attnd.call("summary", job="maps", window=window)
        two, = attnd.call("summary", job="rows", window=window)
        for key in ("rows", "invalid_rows", "messages", "ranks", "step", "epoch", "shape", "causal", "lost", "dropped",
                    "local_window"):
            assert one[key] == two[key], key
        assert (one["tier"], two["tier"]) == ("attention", "rows")
        assert one["heads"].pop("pattern") == two["heads"].pop("pattern")
        rates = [{name: number and round(number, 9) for name, number in each["sink_rate"].items()} for each in (one, two)]
        assert rates[0] == rates[1]
        compare_rows(attnd, one["heads"], two["heads"], window)
        assert "aggregate" in one and "aggregate" not in two and "top_pairs" not in two
    assert attnd.call("summary", job="rows", window=f"{WINDOW} steps")[0]["invalid_rows"] == 1
    live, = attnd.call("live", job="rows")
    expected, = attnd.call("live", job="maps")
    assert live["tier"] == "rows" and live["step"] == STEPS - 1 and live["heads"]["pattern"] == expected["heads"]["pattern"]
    assert np.allclose(live["heads"]["entropy"], expected["heads"]["entropy"], rtol=1e-5)
    assert attnd.stop() == 0


def compare_rows(attnd, one, two, window):
    """Histograms have the same buckets; numbers are as near as sums in f32 are."""
    assert set(two) - set(one) == OF_LOGITS and set(one) - set(two) == NOT_HERE
    heads = attnd.call("compare", job="maps", job_b="rows", window=window)["heads"]
    assert len(heads) == HEADS
    for head in heads:
        assert {"entropy", "entropy_normalized", "tail_mass", "first_token", "mean_distance"} < set(head["metrics"]) < set(two)
        apart = {name: metric["js"] for name, metric in head["metrics"].items() if metric["js"]}
        assert set(apart) <= AT_A_BOUND, apart
    for name in set(two) - OF_LOGITS:
        assert one[name]["count"] == two[name]["count"], name
        for statistic in ("mean", "std", "min", "max", "last", "p10", "p50", "p90", "p99"):
            if statistic in one[name]:
                a, b = (np.array(each[name][statistic], dtype=float) for each in (one, two))
                bucket = 2**(1 / 16) if name in AT_A_BOUND and statistic[0] == "p" else 1
                assert np.allclose(a, b, rtol=1e-5 + bucket - 1, atol=2e-5), (name, statistic, a, b)


def test_sums_of_weights_say_what_the_map_says(rng):
    """Also of rows that are no distribution."""
    attnd = Attnd(*SETTINGS)
    raw, sums = Trainer(attnd, "maps"), Trainer(attnd, "rows")
    for step in range(STEPS):
        weights = softmax_maps(rng, BATCH, HEADS, T, T, True, np.float32)
        if step == STEPS - 1:
            weights[0, 2, 5] *= 1.5
            weights[1, 0, 7, 2] = np.nan
        raw.attention(weights, step=step, causal=True)
        sums.rows(of_explicit(weights), step=step)
    for trainer in raw, sums:
        trainer.event("bye", step=STEPS)
    assert attnd.settled(2 * STEPS + 2)["dropped"] == {}
    for job in ("maps", "rows"):
        windows_of(attnd, job)
    one, = attnd.call("summary", job="maps")
    two, = attnd.call("summary", job="rows")
    assert (one["invalid_rows"], one["rows"]) == (two["invalid_rows"], two["rows"]) and one["invalid_rows"] == 2
    assert one["row_sum_error"] == pytest.approx(0.5) and two["row_sum_error"] == pytest.approx(one["row_sum_error"], rel=1e-6)
    assert one["heads"]["pattern"] == two["heads"]["pattern"] and one["sink_rate"] == two["sink_rate"]
    assert not {"importance", "min", *OF_LOGITS} & set(two["heads"]), "whose sums were not sent"
    assert {"entropy", "local_mass", "tail_mass", "previous_token", "diagonal"} < set(two["heads"])
    for name in set(two["heads"]) - {"pattern"}:
        assert one["heads"][name]["count"] == two["heads"][name]["count"], name
        for statistic in ("mean", "std", "min", "max", "last"):
            a, b = (np.array(each["heads"][name][statistic], dtype=float) for each in (one, two))
            assert np.allclose(a, b, rtol=1e-5, atol=2e-5), (name, statistic, a, b)
    assert attnd.stop() == 0


def changed(rows, **sums):
    """The rows, with another number in each of these sums of one row."""
    made = rows.sums.copy()
    for name, number in sums.items():
        made[rows.names.index(name), 0, 1, 3] = number
    return rows._replace(sums=made)


def with_place(rows, place, number):
    places = rows.places.copy()
    places[place, 0, 3] = number
    return rows._replace(places=places)


def test_rows_that_cannot_be_are_refused_and_counted(rng):
    attnd = Attnd(*SETTINGS)
    trainer = Trainer(attnd, "hostile")
    good = of_weights(softmax_maps(rng, 1, HEADS, T, T, True, np.float64), causal=True)
    of_a_row = [changed(good, **sums) for sums in (
        {"total": np.nan}, {"total": 0.5}, {"total": 2.0 * T}, {"weighted": 1.0}, {"weighted": -1.0 * T}, {"distance": -1.0},
        {"local": -1.0}, {"top": -1.0}, {"square": np.inf}, {"seen": T + 1}, {"seen": 1.5}, {"finite": -1}, {"own": 1000.0})]
    of_places = [with_place(good, *one) for one in ((0, -1), (2, T), (3, 2), (4, -1), (5, -1), (6, 2), (7, 8))]
    for rows in of_a_row + of_places:
        trainer.rows(rows)
    trainer.rows(good._replace(names=("unknown", *good.names[1:])))
    trainer.rows(good._replace(names=("largest", "largest", *good.names[2:])))
    trainer.rows(good._replace(names=("", *good.names[1:])))
    trainer.rows(good._replace(names=good.names[1:]))
    trainer.rows(good._replace(queries=T - 1))
    trainer.rows(good, step=3)
    stats = attnd.settled(len(of_a_row) + len(of_places) + 6)
    assert stats["dropped"] == {"rows": len(of_a_row) + len(of_places), "sums": 3, "shape": 1, "key_range": 1}
    assert stats["processed"] == 1
    attnd.call("flush")
    summary, = attnd.call("summary", job="hostile")
    assert (summary["messages"], summary["rows"], summary["step"]) == (1, T * HEADS, 3)
    assert attnd.stop() == 0


def test_rows_wait_for_their_turn_behind_maps_that_are_computed(rng):
    attnd = Attnd(*SETTINGS, "workers.threads=1")
    trainer = Trainer(attnd, "mixed")
    for step in range(4):
        trainer.attention(softmax_maps(rng, 4, HEADS, 256, 256), step=step)
        trainer.rows(of_entropies(np.ones((1, HEADS, 3)), keys=8), step=step)
    stats = attnd.settled(8)
    assert stats["dropped"] == {} and stats["processed"] == 8
    attnd.call("flush")
    summary, = attnd.call("summary", job="mixed")
    assert summary["messages"] == 8 and summary["lost"] == 0
    assert summary["heads"]["entropy"]["count"] == [4 * (4 * 256 + 3)] * HEADS
    assert summary["heads"]["tail_mass"]["count"] == [4 * 4 * 256] * HEADS
    assert attnd.stop() == 0


def test_rows_are_there_after_a_restart():
    attnd = Attnd(*SETTINGS)
    trainer = Trainer(attnd, "kept")
    trainer.rows(of_entropies(np.ones((1, HEADS, 3)), keys=8, queries=9), step=1)
    attnd.settled(1)
    assert attnd.stop() == 0
    attnd.start()
    attnd.call("flush")
    summary, = attnd.call("summary", job="kept")
    assert [summary[key] for key in ("messages", "rows", "rows_of", "ranks", "tier")] == [1, 3 * HEADS, 9 * HEADS, 1, "rows"]
    assert summary["heads"]["entropy"]["mean"] == pytest.approx([1.0] * HEADS, abs=1e-6)
    assert attnd.stop() == 0
