# SPDX-License-Identifier: MIT
"""What was published can be asked for later: by the wire, by attnctl, and after a restart."""
import csv
import io
import itertools
import json
import os
import re
import resource
import sqlite3

import harness
import numpy as np
import pytest
from harness import Attnd, Reader, Trainer, softmax_maps, wait_log, wait_until

EPOCHS = 5


def attnctl(attnd, *words):
    done = harness.attnctl(attnd, *words, LC_ALL="C.UTF-8")
    return done.returncode, done.stdout, done.stderr


def train(attnd, job="gpt", sharp=1.0, run=None, epochs=EPOCHS, heads=4):
    """A run of two layers, one message per epoch; returns its number once all of it has arrived."""
    rng = np.random.default_rng(7)
    trainer = Trainer(attnd, job, run=run)
    before = attnd.stats()["received"]
    for epoch in range(epochs):
        for layer in range(2):
            weights = softmax_maps(rng, 2, heads, 16, 16).astype(np.float64)
            if layer == 1:
                weights = weights**sharp
                weights /= weights.sum(-1, keepdims=True)
            trainer.attention(weights.astype(np.float32), epoch=epoch, step=epoch * 10, layer=layer)
        trainer.event("epoch_end", epoch=epoch, step=epoch * 10)
    trainer.event("bye", epoch=epochs - 1)
    attnd.settled(before + 3 * epochs + 1)
    return trainer.run.hex()


def kept(attnd, job, windows, **where):
    """The answer of the history once it has that number of windows of the layer."""
    def ask():
        answer = attnd.call("history", job=job, **where)
        return len(answer["windows"]["last"]) >= windows and answer
    return wait_until(ask, f"{windows} windows of {job}")


@pytest.fixture
def summaries(attnd):
    """The newest summary per epoch of a run that has ended, and its number."""
    reader = Reader(attnd, "summary/gpt/decoder/1/self/")
    run = train(attnd)
    found = {}
    while len(found) < EPOCHS:
        _, summary = reader.next()
        found[summary["window"]["last"]] = summary
    return found, run


def test_the_history_is_what_was_published(attnd, summaries):
    found, run = summaries
    for metric in ("entropy_normalized", "mean_distance", "variance"):
        answer = kept(attnd, "gpt", EPOCHS, layer=1, metric=metric)
        assert answer["run"] == run and answer["unit"] == "epoch" and not answer["more"]
        assert [head["head"] for head in answer["heads"]] == [0, 1, 2, 3]
        assert answer["windows"]["last"] == list(range(EPOCHS))
        assert answer["windows"]["step"] == [10 * epoch for epoch in range(EPOCHS)]
        for epoch, summary in found.items():
            for statistic, heads in summary["heads"][metric].items():
                assert [values[epoch] for values in answer["values"][statistic]] == heads


    history = attnd.stats()["history"]
    assert history["path"].endswith("/history.db") and history["reason"] is None and history["size"] > 4096
    assert attnd.stop() == 0
    attnd.start()
    assert attnd.call("history", job="gpt", layer=1, metric="variance") == answer, "after a restart"
    assert [run["state"] for run in attnd.call("runs", job="gpt")["runs"]] == ["ended"]


def test_a_limit_of_file_sizes_is_a_full_disk_and_no_end():
    limit = 512 << 10
    attnd = Attnd("window.unit=step", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    trainer, weights, steps = Trainer(attnd, "gpt"), np.full((1, 8, 16, 16), 1 / 16, np.float32), itertools.count()

    def told():
        for _ in range(20):
            trainer.attention(weights, step=next(steps))
        return attnd.stats()["history"]["reason"]

    assert wait_until(told, "the limit")
    assert attnd.process.poll() is None


def test_a_grid_has_the_numbers_of_the_histories(attnd):
    train(attnd, epochs=9)
    kept(attnd, "gpt", 9, layer=1)
    for metric, statistic in (("entropy_normalized", "mean"), ("first_token", "p90"), ("variance", "count")):
        grid = attnd.call("grid", job="gpt", metric=metric, statistic=statistic)
        assert (grid["metric"], grid["statistic"], grid["total"]) == (metric, statistic, 9)
        assert [layer["layer"] for layer in grid["layers"]] == [0, 1]
        for layer in grid["layers"]:
            history = attnd.call("history", job="gpt", metric=metric, layer=layer["layer"], statistics=[statistic])
            assert layer["values"] == history["values"][statistic] and layer["heads"] == 4
            for name in ("first", "last", "epoch", "step", "partial"):  # time_ns is of the first layer's message
                assert grid["windows"][name] == history["windows"][name]


def test_a_grid_of_fewer_points_begins_and_ends_where_the_run_does(attnd):
    train(attnd, epochs=9)
    kept(attnd, "gpt", 9, layer=1)
    whole = attnd.call("grid", job="gpt")
    few = attnd.call("grid", job="gpt", points=3)
    assert few["windows"]["last"] == [0, 4, 8] and few["total"] == 9
    for all_heads, chosen in zip(whole["layers"], few["layers"]):
        assert chosen["values"] == [[head[0], head[4], head[8]] for head in all_heads["values"]]
    packed = attnd.call("grid", job="gpt", points=3, packed=True)
    assert np.frombuffer(packed["windows"]["last"], "<u8").tolist() == [0, 4, 8]
    values = np.frombuffer(packed["layers"][1]["values"], "<f4").reshape(4, 3)
    np.testing.assert_array_equal(values, np.float32(few["layers"][1]["values"]))
    part = attnd.call("grid", job="gpt", **{"from": 2, "to": 5}, layer=1)
    assert part["windows"]["last"] == [2, 3, 4, 5] and [layer["layer"] for layer in part["layers"]] == [1]


def test_layers_of_a_grid_may_have_different_windows(attnd):
    """Of two layers that send in turns each has its windows, and the other nothing there."""
    rng, trainer = np.random.default_rng(3), Trainer(attnd, "gpt")
    for epoch in range(6):
        trainer.one_epoch(softmax_maps(rng, 1, 2, 8, 8), epoch, layer=epoch % 2)
    trainer.event("bye", epoch=5)
    kept(attnd, "gpt", 3, layer=0)
    kept(attnd, "gpt", 3, layer=1)
    grid = attnd.call("grid", job="gpt")
    assert grid["windows"]["last"] == [0, 1, 2, 3, 4, 5]
    for layer in grid["layers"]:
        for head in layer["values"]:
            assert [value is not None for value in head] == [epoch % 2 == layer["layer"] for epoch in range(6)]


def test_a_grid_of_what_is_not_there_says_so(attnd):
    train(attnd)
    kept(attnd, "gpt", EPOCHS, layer=1)
    for params, code in ((dict(job="nobody"), "job_unknown"), (dict(job="gpt", run="ff" * 16), "run_unknown"),
                         (dict(job="gpt", metric="max_logit"), "no_history"), (dict(job="gpt", **{"from": 99}), "no_history"),
                         (dict(job="gpt", points=1), "argument"), (dict(job="gpt", points=10001), "argument"),
                         (dict(job="gpt", statistic="p95"), "argument"), (dict(job="gpt", statistics=["mean"]), "argument"),
                         (dict(), "argument")):
        with pytest.raises(RuntimeError, match=code):
            attnd.call("grid", **params)
    of_layer = attnd.call("grid", job="gpt", metric="sink_rate")
    assert [layer["heads"] for layer in of_layer["layers"]] == [1, 1]


def test_the_last_live_values_can_be_asked_for(attnd):
    train(attnd)
    lives = attnd.call("live", job="gpt")
    assert sorted((live["layer"], live["epoch"]) for live in lives) == [(0, EPOCHS - 1), (1, EPOCHS - 1)]
    (one,) = attnd.call("live", job="gpt", layer=1, stack="decoder", site="self")
    assert one in lives and one["kind"] == "live" and len(one["heads"]["entropy"]) == 4
    with pytest.raises(RuntimeError, match="no_summary") as refused:
        attnd.call("live", job="gpt", layer=7)
    assert refused.value.sentence == "nothing has been published of such a layer; the run has decoder.0.self, decoder.1.self"
    with pytest.raises(RuntimeError, match="run_unknown") as refused:
        attnd.call("summary", job="gpt", run="0" * 32)
    assert refused.value.sentence == "no such run of this job in memory; the history may have it: see runs"
    with pytest.raises(RuntimeError, match="argument"):
        attnd.call("live", job="gpt", window=0)


def test_maps_are_distributions_over_keys(attnd, summaries):
    kept(attnd, "gpt", EPOCHS)
    answer = attnd.call("map", job="gpt", layer=1)
    values = np.array(answer["values"])
    assert values.shape == (answer["rows"], answer["columns"]) == (16, 16)
    assert np.allclose(values.sum(-1), 1, atol=0.01)
    packed = attnd.call("map", job="gpt", layer=1, packed=True)["values"]
    assert np.array_equal(np.frombuffer(packed, "<f2").reshape(16, 16).astype(float), values)


def cells(map_, side):
    """Means over the cells of a map of at most `side` a side."""
    def bounds(length):
        n = min(length, side)
        return [slice(r * length // n, (r + 1) * length // n) for r in range(n)]
    return np.array([[map_[rows, columns].mean() for columns in bounds(map_.shape[1])] for rows in bounds(map_.shape[0])])


@pytest.mark.parametrize("heads, side", [(5, 32), (200, 12), (600, 8)])
def test_windows_keep_a_small_map_of_each_head(attnd, rng, heads, side):
    trainer, sent = Trainer(attnd, "gpt"), []
    for epoch in range(3):
        sent.append(softmax_maps(rng, 2, heads, 40, 36))
        trainer.one_epoch(sent[-1], epoch)
    kept(attnd, "gpt", 2)
    answer = wait_until(lambda: attnd.call("map", job="gpt", kind="heads", last=1), "the maps of the second window")
    assert (answer["queries"], answer["keys"], answer["rows"], answer["columns"]) == (40, 36, side, side)
    assert answer["heads"] == list(range(heads)) and (answer["first"], answer["last"]) == (1, 1)
    values = np.array(answer["values"])
    for head in (0, heads - 1):
        np.testing.assert_allclose(values[head], cells(sent[1][0, head].astype(float), side), rtol=1e-3, atol=1e-6)
    packed = attnd.call("map", job="gpt", kind="heads", last=1, packed=True)["values"]
    assert np.array_equal(np.frombuffer(packed, "<f2").reshape(values.shape).astype(float), values)
    assert "heads" not in attnd.call("map", job="gpt", kind="mean", last=1)


def test_maps_of_heads_are_not_kept_where_nobody_wants_them():
    daemon = Attnd("history.head_maps=0")
    train(daemon, heads=2)
    kept(daemon, "gpt", EPOCHS)
    with pytest.raises(RuntimeError, match="no_history"):
        daemon.call("map", job="gpt", kind="heads")
    assert daemon.call("map", job="gpt", kind="mean")


def test_a_run_is_no_different_from_itself_and_differs_where_it_was_changed(attnd):
    a, b = train(attnd, run=b"a" * 16), train(attnd, sharp=3.0, run=b"b" * 16)
    wait_until(lambda: len(attnd.call("runs", job="gpt")["runs"]) == 2, "two runs")
    kept(attnd, "gpt", EPOCHS, run=a)
    kept(attnd, "gpt", EPOCHS, run=b)
    same = attnd.call("compare", job="gpt", run=a, run_b=a)
    assert len(same["heads"]) == 8 and all(head["distance"] == 0 for head in same["heads"])
    heads = attnd.call("compare", job="gpt", run=a, run_b=b)["heads"]
    assert [head["layer"] for head in heads] == [1] * 4 + [0] * 4
    assert heads[3]["distance"] > 0.01 and heads[4]["distance"] == 0
    assert heads[0]["metrics"]["entropy"]["delta"] < 0
    code, out, _ = attnctl(attnd, "compare", f"gpt/{a[:4]}", f"gpt/{b[:4]}", "--count", "2")
    assert code == 0 and out.count("decoder.1.self.h") == 2 and "there are more heads" in out


def test_an_export_has_every_number(attnd, summaries):
    found, run = summaries
    kept(attnd, "gpt", EPOCHS)
    kept(attnd, "gpt", EPOCHS, layer=1)
    code, out, err = attnctl(attnd, "export", "gpt", "--csv", "--metric", "entropy", "--metric", "variance")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and not err and len(rows) == 2 * 2 * 4 * EPOCHS
    for row in rows:
        if row["layer"] == "1":
            summary = found[int(row["last_unit"])]["heads"][row["metric"]]
            assert row["run"] == run and float(row["p90"]) == summary["p90"][int(row["head"])]
    code, out, err = attnctl(attnd, "export", "gpt", "--json", "--layer", "1", "--head", "2")
    lines = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "") and {line["head"] for line in lines} == {2}
    assert {"entropy", "importance", "effective_keys"} <= {line["metric"] for line in lines}


def test_attnctl_shows_a_head_window_by_window(attnd, summaries):
    kept(attnd, "gpt", EPOCHS, layer=1)
    code, out, err = attnctl(attnd, "history", "gpt", "--layer", "1", "--head", "2", "--metric", "entropy")
    assert (code, err) == (0, "")
    assert f"gpt, run {summaries[1][:8]}, decoder.1.self.h2\nentropy, per 1 epoch\n\nEPOCH  STEP" in out
    assert len(out.splitlines()) == 4 + EPOCHS + 2 and out.splitlines()[-1].startswith("P10, P50 and P90 are within 1.1 %")
    code, out, err = attnctl(attnd, "history", "gpt", "--run", "zz")
    assert code == 2 and "--run: 'zz': not accepted" in err
    code, out, err = attnctl(attnd, "history", "nobody")
    assert (code, out, err) == (1, "", "attnctl: no such job: 'nobody' (see attnctl jobs)\n")


def test_means_of_sampled_rows_have_a_standard_error_in_the_past(attnd, rng):
    """Every fourth query of 16; of the other job all."""
    for job, stride in (("sampled", 4), ("whole", 1)):
        trainer = Trainer(attnd, job)
        for epoch in range(3):
            weights = softmax_maps(rng, 2, 2, 16, 16)
            trainer.one_epoch(np.ascontiguousarray(weights[:, :, ::stride]), epoch, q_stride=stride)
        trainer.event("bye", epoch=2)
    for _ in range(2):
        found, whole = kept(attnd, "sampled", 3, metric="entropy"), kept(attnd, "whole", 3, metric="entropy")
        assert (found["rows"], found["rows_of"], whole["rows"]) == (2 * 2 * 4, 2 * 2 * 16, 2 * 2 * 16) and "rows_of" not in whole
        values = found["values"]
        assert set(values["count"][0]) == {2 * 4}
        cells = [f"{values['mean'][h][w]:.4f} ± {values['std'][h][w] / np.sqrt(8):.2g}" for w in range(3) for h in range(2)]
        code, out, err = attnctl(attnd, "history", "sampled", "--metric", "entropy")
        assert (code, err) == (0, "") and re.findall(r"\S+ ± \S+", out.split("EPOCH")[1]) == cells
        assert "of the rows taken: 16 of about 64 in the newest window, over all heads; ±: standard error, at most\n\nEPOCH" in out
        code, out, err = attnctl(attnd, "history", "whole", "--metric", "entropy")
        assert (code, err) == (0, "") and "±" not in out and "rows" not in out
        assert attnd.stop() == 0
        attnd.start()


def test_a_difference_between_runs_of_sampled_rows_has_a_standard_error(attnd, rng):
    """Every fourth query of 16; of the job `whole` all."""
    for job, stride in (("a", 4), ("b", 4), ("whole", 1)):
        trainer = Trainer(attnd, job)
        for epoch in range(3):
            trainer.one_epoch(np.ascontiguousarray(softmax_maps(rng, 2, 2, 16, 16)[:, :, ::stride]), epoch, q_stride=stride)
        trainer.event("bye", epoch=2)
    values = {job: kept(attnd, job, 3, metric="entropy")["values"] for job in ("a", "b", "whole")}

    def squared(job, head):
        means, stds, counts = (np.array(values[job][name][head]) for name in ("mean", "std", "count"))
        between = counts * (means - np.average(means, weights=counts)) ** 2
        return (((counts - 1) * stds ** 2 + between).sum() / (counts.sum() - 1)) / counts.sum()

    for one, other, sampled in (("a", "b", "ab"), ("a", "whole", "a"), ("whole", "b", "b")):
        found = attnd.call("compare", job=one, job_b=other, metric="entropy")
        for side, job in (("a", one), ("b", other)):
            assert found[side]["rows"] == 3 * 2 * 2 * (4 if job in sampled else 16) and found[side].get("rows_of", 0) == (192 if job in sampled else 0)
        for head in found["heads"]:
            expected = np.sqrt(sum(squared(job, head["head"]) for job in sampled))
            assert head["metrics"]["entropy"]["delta_error"] == pytest.approx(expected, rel=1e-9)
        first = found["heads"][0]["metrics"]["entropy"]
        code, out, err = attnctl(attnd, "compare", one, other, "--metric", "entropy")
        assert (code, err) == (0, "") and f"{first['delta']:.4g} ± {first['delta_error']:.2g}\n" in out
        assert "of the rows taken; ±: standard error of B - A, at most" in out
    whole = attnd.call("compare", job="whole", job_b="whole")
    assert "rows_of" not in whole["a"] and all("delta_error" not in one for head in whole["heads"] for one in head["metrics"].values())


def test_a_job_without_a_window_has_no_history_yet(attnd):
    trainer = Trainer(attnd, "young")
    trainer.attention(softmax_maps(np.random.default_rng(1), 1, 2, 4, 4))
    wait_until(lambda: attnd.call("jobs"), "the job")
    with pytest.raises(RuntimeError, match="no_history"):
        attnd.call("history", job="young")
    with pytest.raises(RuntimeError, match="job_unknown"):
        attnd.call("history", job="old")


def test_alerts_name_what_is_firing_now_and_what_came_before():
    attnd = Attnd(config="rules: {sharp: {metric: entropy_normalized, each: head, below: 0.9, for: 1, severity: critical}}\n")
    rng, trainer = np.random.default_rng(3), Trainer(attnd, "gpt")
    weights = softmax_maps(rng, 2, 4, 16, 16).astype(np.float64) ** 12
    weights = (weights / weights.sum(-1, keepdims=True)).astype(np.float32)
    for epoch in range(2):
        trainer.one_epoch(weights, epoch)
    firing = wait_until(lambda: attnd.call("alerts", job="gpt", rule="sharp")["firing"], "alerts")
    assert sorted(alert["head"] for alert in firing) == [0, 1, 2, 3]
    past = wait_until(lambda: attnd.call("alerts", rule="sharp", state="firing")["alerts"], "alerts in the history")
    assert sorted(alert["head"] for alert in past) == [0, 1, 2, 3]
    assert [alert["since"] for alert in past] == [alert["since"] for alert in firing]
    code, out, _ = attnctl(attnd, "alerts", "gpt")
    assert code == 1 and re.search(r"critical +[0-9a-f]{8} +sharp +decoder\.0\.self\.h2", out)
    trainer.event("bye", epoch=1)
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "ended", "the end")
    code, out, _ = attnctl(attnd, "alerts", "gpt")
    assert code == 1 and len(re.findall(rf"{trainer.run.hex()[:8]} +sharp .* firing at end ", out)) == 4
    assert len(re.findall(r"below 0\.9 for 2 captures, when the run ended\n", out)) == 4
    wait_until(lambda: len(attnd.call("alerts", rule="sharp", state="firing_at_end")["alerts"]) == 4, "the end in the history")
    code, out, _ = attnctl(attnd, "alerts", "gpt", "--all")
    assert code == 1 and len(re.findall(r" sharp .* firing at end ", out)) == len(re.findall(" sharp ", out)) == 4, "each once"


def summary_of(reader, run, last):
    """The final summary of an epoch."""
    return next(summary for _, summary in iter(reader.next, None) if (summary["run"], summary["window"]["last"]) == (run, last))


def means(attnd, run, windows):
    """Of the heads' entropies, of the first windows: [heads, windows]."""
    answer = kept(attnd, "gpt", windows, run=run, layer=0, metric="entropy", statistics=["mean"])
    return np.array(answer["values"]["mean"])[:, :windows]


def test_a_run_can_be_compared_with_another_one_or_with_a_window_of_its_own():
    attnd, rng = Attnd("drift.windows=2"), np.random.default_rng(3)
    old = train(attnd, run=b"o" * 16)
    trainer = Trainer(attnd, "gpt", run=b"n" * 16)
    new = trainer.run.hex()
    reader = Reader(attnd, "summary/gpt/decoder/0/self/")

    def drifts_from(number, baseline):
        """By the change of the mean of the heads' entropies in this epoch, which is sent."""
        trainer.one_epoch(softmax_maps(rng, 2, 4, 16, 16), number)
        now = kept(attnd, "gpt", number + 1, run=new, layer=0, metric="entropy")["values"]["mean"]
        delta = summary_of(reader, new, number)["drift"]["entropy"]["delta"]
        return np.allclose(delta, np.array(now)[:, number] - baseline)

    for number in range(4):
        trainer.one_epoch(softmax_maps(rng, 2, 4, 16, 16), number)
    own = means(attnd, new, 4)
    assert drifts_from(4, own[:, :2].mean(-1))
    assert attnd.call("baseline", job="gpt", run="6e", to=old) == {"run": new, "pinned": 1, "missing": 0}
    assert drifts_from(5, means(attnd, old, 2).mean(-1))
    assert attnd.call("baseline", job="gpt", to={"last": 3})["pinned"] == 1
    assert drifts_from(6, own[:, 3])
    with pytest.raises(RuntimeError, match="no_history"):
        attnd.call("baseline", job="gpt", to={"last": 77})
    for wrong in ("now", {"first": 1}, 3):
        with pytest.raises(RuntimeError, match="argument"):
            attnd.call("baseline", job="gpt", to=wrong)


def test_a_comparison_names_the_run_that_has_no_window_yet():
    attnd = Attnd("history.commit=50ms")
    run = train(attnd, run=b"o" * 16)
    kept(attnd, "gpt", 1)
    begun, over = [Trainer(attnd, job, run=job.encode().ljust(16, b"x")) for job in ("begun", "also")]
    for trainer in begun, over:
        trainer.event("hello")
    wait_until(lambda: len(attnd.call("runs")["runs"]) == 3, "the runs")

    def said(a, b):
        with pytest.raises(RuntimeError, match="no_history") as refused:
            attnd.call("compare", job=a, job_b=b)
        return refused.value.sentence

    nothing = "run 62656775 of begun has no window in the history yet"
    assert said("gpt", "begun") == said("begun", "gpt") == f"{nothing}: it comes when the first one closes"
    assert said("begun", "also") == f"{nothing}, nor has the other: it comes when the first one closes"
    over.event("bye")
    wait_until(lambda: "ended" in attnd.call("runs", job="also")["runs"][0]["state"], "its end")
    assert said("gpt", "also").endswith(" of also has no window in the history: it has ended")
    with pytest.raises(RuntimeError, match="no_history") as refused:
        attnd.call("compare", job="gpt", job_b="gpt", window="100 steps")
    assert refused.value.sentence.startswith(f"run {run[:8]} of gpt: decoder.0.self has no windows of 100 steps; it has those of ")


def test_a_job_that_the_history_has_not_heard_of_has_no_window_yet():
    attnd = Attnd("history.commit=1min")
    Trainer(attnd, "gpt").event("hello")
    attnd.settled(1)
    for words in ("history", "gpt"), ("export", "gpt", "--csv"):
        code, _, err = attnctl(attnd, *words)
        assert (code, err) == (1, "attnctl: gpt has no window in the history yet: it comes soon after the first one closes\n")
    assert attnd.call("alerts", job="gpt")["alerts"] == [], "there is a history"


def test_the_config_can_name_the_run_to_compare_with():
    old = (b"o" * 16).hex()
    attnd = Attnd("drift.windows=2", f"drift.baseline={old}")
    train(attnd, run=b"o" * 16)
    before = means(attnd, old, 2).mean(-1)
    reader = Reader(attnd, "summary/gpt/decoder/0/self/")
    trainer, weights = Trainer(attnd, "gpt", run=b"n" * 16), softmax_maps(np.random.default_rng(5), 2, 4, 16, 16)
    epochs = itertools.count()

    def is_compared():
        """Its own first windows are all alike; the other run's are not."""
        number = next(epochs)
        trainer.one_epoch(weights, number)
        summary = summary_of(reader, trainer.run.hex(), number)
        if "entropy" not in summary.get("drift", {}):
            return False
        delta = np.array(summary["drift"]["entropy"]["delta"])
        return np.allclose(delta, np.array(summary["heads"]["entropy"]["mean"]) - before) and np.abs(delta).max() > 1e-6
    wait_until(is_compared, "the baseline")


def test_without_a_history_what_is_asked_of_it_says_so():
    attnd = Attnd("history.enabled=false")
    train(attnd)
    wait_until(lambda: attnd.call("jobs"), "the job")
    with pytest.raises(RuntimeError, match="history_off"):
        attnd.call("history", job="gpt")
    answer = attnd.call("alerts")
    assert answer["alerts"] is None and not answer["more"]
    assert attnd.stats()["history"]["path"] is None
    code, out, err = attnctl(attnd, "history", "gpt")
    assert code == 1 and "history.enabled" in err


def test_a_run_that_comes_back_with_fewer_heads_can_be_compared():
    attnd = Attnd("metrics.spectrum=false")
    run = bytes(range(16))
    train(attnd, run=run, heads=8)
    assert attnd.stop() == 0
    attnd.start()
    train(attnd, run=run, heads=2, epochs=2)
    train(attnd, job="other", heads=2)
    wait_until(lambda: len(attnd.call("runs")["runs"]) == 2, "both runs")
    answer = attnd.call("compare", job="gpt", job_b="other")
    assert {head["head"] for head in answer["heads"]} == {0, 1}


def test_what_a_damaged_database_says_breaks_nothing():
    attnd = Attnd()
    train(attnd)
    assert attnd.stop() == 0
    with sqlite3.connect(attnd.history_path) as database:
        database.execute("UPDATE runs SET state = 1000000")
        database.execute("UPDATE layers SET stack = 77, site = 1000000, heads = 4000000000")
    attnd.start()
    for method in "runs", "windows", "history", "compare", "alerts":
        try:
            attnd.call(method, job="gpt")
        except RuntimeError:
            pass  # refused
    assert attnd.call("ping")


PAGE = 8192
SCHEMA_PAGES = 40  # the page of the schema, and the first one of each table and index


def rows_of(path, table):
    """By their keys, but for which chunk a window is in."""
    with sqlite3.connect(path) as database:
        columns = [column for _, column, *_ in database.execute(f"PRAGMA table_info({table})") if column != "chunk_id"]
        return {row[0]: row[1:] for row in database.execute(f"SELECT rowid, {', '.join(columns)} FROM {table}")}


def rows_without(path, table, lost):
    """How many rows of a table are found without these pages: those of its other leaves below other pages."""
    with sqlite3.connect(path) as database:
        pages = database.execute("SELECT path, pageno - 1, pagetype, ncell FROM dbstat WHERE name = ?", (table,)).fetchall()
    gone = [place for place, page, _, _ in pages if page in lost]
    return sum(rows for place, page, kind, rows in pages
               if kind == "leaf" and not any(place.startswith(above) for above in gone))


def overwrite(path, rng, pages):
    with open(path, "r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(rng.bytes(PAGE))


def ask_everything(attnd):
    """How many questions about the run were answered, and how many not."""
    answered = 0
    questions = [("runs", {}), ("alerts", {"job": "gpt"})]
    for layer in range(2):
        questions += [("windows", {"job": "gpt", "stack": "decoder", "layer": layer})]
        questions += [("history", {"job": "gpt", "stack": "decoder", "layer": layer, "head": head}) for head in range(4)]
    for method, keys in questions:
        try:
            attnd.call(method, **keys)
            answered += 1
        except RuntimeError as error:
            assert str(error) == "history_off" or "store_format" in str(error)
    return answered, len(questions) - answered


def test_a_repair_that_cannot_be_made_is_told_and_made_at_the_next_start():
    attnd = Attnd()
    in_the_way = f"{attnd.history_path}.repaired"
    train(attnd, epochs=100)
    kept(attnd, "gpt", 100, stack="decoder", layer=1)
    assert attnd.stop() == 0
    with sqlite3.connect(attnd.history_path) as database:
        page, = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'chunks'").fetchone()
    overwrite(attnd.history_path, np.random.default_rng(0), [page - 1])
    os.mkdir(in_the_way)
    attnd.start()
    assert ask_everything(attnd)[1]
    wait_log(attnd, "event=history_not_repaired", "reason=")
    assert "the history is damaged: questions that meet the damage fail" in attnctl(attnd, "jobs")[1]
    assert attnd.stop() == 0
    os.rmdir(in_the_way)
    attnd.start()
    assert attnd.stats()["store_replaced"] == 1 and attnd.stats()["store_unreadable"] == 0
    for layer in range(2):  # their states are still there, and make a chunk anew
        assert len(kept(attnd, "gpt", 100, stack="decoder", layer=layer)["windows"]["last"]) == 100
    assert "damaged" not in attnctl(attnd, "jobs")[1]


@pytest.mark.parametrize("seed, without_first_page", [(0, False), (1, False), (2, True)])
def test_a_damaged_history_is_repaired_and_what_is_lost_is_counted(seed, without_first_page):
    rng, epochs, tables = np.random.default_rng(seed), 400, ("windows", "chunks", "series", "states", "layers", "alerts")
    attnd = Attnd()
    train(attnd, epochs=epochs)
    for layer in range(2):
        kept(attnd, "gpt", epochs, stack="decoder", layer=layer)
    assert attnd.stop() == 0
    before = {table: rows_of(attnd.history_path, table) for table in tables}
    pages = os.path.getsize(attnd.history_path) // PAGE
    lost = rng.choice(np.arange(SCHEMA_PAGES, pages), 100, replace=False)
    found = rows_without(attnd.history_path, "windows", lost)
    overwrite(attnd.history_path, rng, lost)
    if without_first_page:
        overwrite(attnd.history_path, rng, [0])

    attnd.start()
    wait_until(lambda: ask_everything(attnd)[1] == 0 and attnd.stats()["store_replaced"] == 1, "the repair")
    stats = attnd.stats()
    assert stats["history"]["damaged"] is None and stats["store_replaced"] == 1
    assert attnd.log_text().count("event=history_damaged") == (not without_first_page)
    assert attnd.log_text().count("event=history_repaired") == 1
    train(attnd, "new")
    assert len(kept(attnd, "new", EPOCHS)["windows"]["last"]) == EPOCHS
    assert attnd.stop() == 0

    after = {table: rows_of(attnd.history_path, table) for table in tables}
    windows = {key: row for key, row in after["windows"].items() if row[1] in before["layers"]}
    assert windows.items() <= before["windows"].items()
    assert len(windows) + stats["store_unreadable"] == len(before["windows"])
    assert 2 * len(windows) > found
    assert before["layers"].items() <= after["layers"].items()
    attnd.start()
    assert ask_everything(attnd)[1] == 0
    assert attnd.log_text().count("event=history_repaired") == 1 and attnd.stats()["store_replaced"] == 0
