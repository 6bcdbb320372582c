# SPDX-License-Identifier: MIT
"""Several jobs, runs and ranks at once."""
import itertools
import multiprocessing
import os
import re
import sqlite3
import sys

import numpy as np
import pytest
import zmq
from harness import SANITIZED, Attnd, Reader, Trainer, attnctl, elsewhere, observed, ranks_of, softmax_maps, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "clients", "python"))
from layer_state import LayerState  # noqa: E402

ROW_METRICS = ["entropy", "entropy_normalized", "confidence", "diagonal", "mean_distance", "first_token"]


def collect(reader, count):
    return dict(reader.next() for _ in range(count))


def test_three_jobs_at_once_do_not_mix(attnd, rng):
    reader = Reader(attnd, "summary/")
    trainers = [Trainer(attnd, f"job{i}") for i in range(3)]
    for step in range(20):
        for i, trainer in enumerate(trainers):
            for layer in range(2):
                trainer.attention(softmax_maps(rng, 1, i + 1, 8, 8), layer=layer, step=step)
    for trainer in trainers:
        trainer.event("epoch_end", epoch=0)
    summaries = collect(reader, 6)
    for i in range(3):
        for layer in range(2):
            summary = summaries[f"summary/job{i}/decoder/{layer}/self/"]
            assert summary["messages"] == 20
            assert summary["heads"]["entropy"]["count"] == [20 * 8] * (i + 1)
    attnd.settled(3 * 41)


def test_two_ranks_equal_one_rank_with_both_batches(attnd, rng):
    reader = Reader(attnd, "summary/")
    batches = [[softmax_maps(rng, 2, 3, 12, 12, causal=True) for _ in range(5)] for _ in range(2)]
    ranks = ranks_of(attnd, 2, "two")
    single = Trainer(attnd, "one")
    for step in range(5):
        for rank in range(2):
            ranks[rank].attention(batches[rank][step], step=step, causal=True)
        both = np.concatenate([batches[0][step], batches[1][step]])
        single.attention(both, step=step, causal=True)
    for trainer in ranks + [single]:
        trainer.event("epoch_end", epoch=0)
    summaries = collect(reader, 2)
    two, one = summaries["summary/two/decoder/0/self/"], summaries["summary/one/decoder/0/self/"]
    assert (two["ranks"], one["ranks"]) == (2, 1) and two["rows"] == one["rows"]
    for name in ROW_METRICS:
        for exact in ("count", "min", "max", "p10", "p50", "p90", "p99"):
            assert two["heads"][name][exact] == one["heads"][name][exact], (name, exact)
        for stat in ("mean", "std"):
            np.testing.assert_allclose(two["heads"][name][stat], one["heads"][name][stat], rtol=1e-12)


def entropies(weights):
    """[B, H, Tq] of weights [B, H, Tq, Tk], as the rows of f32 that were sent."""
    weights = weights.astype(np.float64)
    return -np.where(weights > 0, weights * np.log(np.where(weights > 0, weights, 1)), 0).sum(-1)


def distances(means):
    """PROTOCOL.md, section 4, of means [ranks, heads], NaN where a rank has no such head."""
    squares = np.full(means.shape, np.nan)
    for h in range(means.shape[1]):
        mine = ~np.isnan(means[:, h])
        if mine.sum() >= 3:
            median = np.median(means[mine, h])
            spread = 1.4826 * (1 + 6 / mine.sum()) * np.median(abs(means[mine, h] - median))
            squares[mine, h] = ((means[mine, h] - median) / max(spread, 0.02 * abs(median), 0.001)) ** 2
    return [np.sqrt(np.nanmean(row)) if np.isfinite(row).any() else None for row in squares]


def by_rank(attnd, trainers, windows=1, **where):
    """The answer of `ranks` when all have ended, and the history has that number of windows of the layer."""
    for trainer in trainers:
        trainer.event("bye")
    wait_until(lambda: attnd.call("windows", job=trainers[0].job)["layers"][0]["tracks"][0]["windows"] >= windows, "the windows")
    return attnd.call("ranks", job=trainers[0].job, **where)


def assert_by_rank(answer, means, odd, rows=None):
    assert [one["rank"] for one in answer["ranks"]] == list(range(len(means))) and answer["metric"] == "entropy"
    got = np.array([one["mean"] for one in answer["ranks"]], float)
    np.testing.assert_allclose(got, means, rtol=1e-5)  # a row is computed in f32
    want = distances(got)
    for one, distance in zip(answer["ranks"], want):
        assert one["odd"] == (one["rank"] in odd) and (one["distance"] is None) == (distance is None)
        assert distance is None or abs(one["distance"] - distance) <= 1e-9 * max(1, distance)
        assert rows is None or one["rows"] == rows
    assert answer["odd"] == odd and not answer["more"]


def test_by_rank_each_head_has_its_mean_entropy_and_the_odd_one_shows(attnd, rng):
    trainers = ranks_of(attnd, 5)
    sent = [[softmax_maps(rng, 2, 4, 24, 24, causal=True) for _ in range(4)] for _ in trainers]
    for step in range(4):
        sent[3][step][:, 1] = np.eye(24, dtype=np.float32)  # one head of one rank has collapsed
        for trainer, weights in zip(trainers, sent):
            trainer.attention(weights[step], step=step, causal=True)
    answer = by_rank(attnd, trainers, last=0)
    means = [np.mean([entropies(weights).mean((0, 2)) for weights in steps], axis=0) for steps in sent]
    assert_by_rank(answer, means, [3], rows=4 * 4 * 48)
    assert {one["node"] for one in answer["ranks"]} == {None}
    shown = attnctl(attnd, "ranks", "job", "--head", 1)
    lines = [line.split() for line in shown.stdout.splitlines()]
    assert shown.returncode == 1 and lines[0][:2] == ["job,", "decoder.0.self,"]
    assert lines[6][:4] == ["!", "3", "-", "0.0000"] and lines[6][5:8] == ["h1:", "0.0000,", "others"]
    assert [line[0] for line in lines[3:8]] == ["0", "1", "2", "!", "4"]
    assert (answer["layer"], answer["heads"], answer["unit"], answer["last"]) == (0, 4, "epoch", 0)


def test_a_rank_that_attends_otherwise_fires_and_equal_ones_do_not(rng):
    """Four ranks of a job of its own data each; from step 12 on those of rank 2 are sharper in one of two jobs."""
    attnd = Attnd("window.unit=step", "window.length=4", "window.every=4", "window.rank_grace=60s", "metrics.spectrum=false")
    for job, sick in (("well", 1), ("odd", 2)):
        ranks = ranks_of(attnd, 4, job)
        for step in range(40):
            for rank, trainer in enumerate(ranks):
                maps = softmax_maps(rng, 2, 3, 12, 12)
                if rank == 2 and step >= 12:
                    maps = maps ** sick / (maps ** sick).sum(-1, keepdims=True)
                trainer.attention(maps, step=step)
        for rank in ranks:
            rank.event("bye")
    wait_until(lambda: all(one["state"] == "ended" for one in attnd.call("jobs")) and len(attnd.call("jobs")) == 2, "the ends")
    well, odd = attnd.call("verdict", job="well"), attnd.call("verdict", job="odd")
    assert well["alerts"] == [] and "rank_odd" not in well["checks"]["unjudged"]
    alert, = odd["alerts"]
    assert (alert["rule"], alert["layer"], alert["head"], alert["since"][1]) == ("rank_odd", 0, None, 15)
    assert "(rank 2) is " in alert["message"] and alert["value"] > 5


def test_the_ranks_of_a_window_are_those_of_its_parts(rng):
    attnd = Attnd("window.unit=step", "window.length=4", "window.every=2")
    trainers = ranks_of(attnd, 3)
    sent = [[softmax_maps(rng, 1, 2, 16, 16) for _ in range(8)] for _ in trainers]
    for step in range(8):
        for trainer, weights in zip(trainers, sent):
            trainer.attention(weights[step], step=step)
    answer = by_rank(attnd, trainers, windows=3, last=5)
    assert (answer["first"], answer["last"], answer["partial"]) == (2, 5, False)
    assert_by_rank(answer, [np.mean([entropies(one).mean((0, 2)) for one in steps[2:6]], axis=0) for steps in sent], [])


def test_equal_ranks_are_never_odd_and_two_cannot_be_told(attnd, rng):
    same = softmax_maps(rng, 1, 3, 8, 8)
    for job, world in (("same", 4), ("two", 2), ("one", 1)):
        trainers = ranks_of(attnd, world, job)
        for trainer in trainers:
            trainer.attention(same if job == "same" else softmax_maps(rng, 1, 3, 8, 8))
        answer = by_rank(attnd, trainers)
        assert answer["odd"] == [] and len(answer["ranks"]) == world
        assert {one["distance"] for one in answer["ranks"]} == {0.0 if job == "same" else None}


def test_ranks_of_slices_have_their_heads_alone(attnd, rng):
    trainers = ranks_of(attnd, 4)
    means = np.full((4, 4), np.nan)
    for rank, trainer in enumerate(trainers):
        weights, first = softmax_maps(rng, 1, 2, 8, 8), 2 * (rank == 3)
        means[rank, first:first + 2] = entropies(weights).mean((0, 2))
        trainer.attention(weights, head_offset=first, heads_total=4)
    answer = by_rank(attnd, trainers)
    assert answer["ranks"][3]["mean"][:2] == [None, None] and answer["ranks"][3]["distance"] is None
    assert_by_rank(answer, means, answer["odd"])


def test_a_question_by_rank_is_refused_with_its_reason(attnd, rng):
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4))
    by_rank(attnd, [trainer])
    for code, where in (("argument", dict(metric="max_logit")), ("no_history", dict(last=7)), ("argument", dict(head=0)),
                        ("no_history", dict(layer=3)), ("no_history", dict(window="7 steps"))):
        with pytest.raises(RuntimeError, match=code):
            attnd.call("ranks", job="job", **where)


PARTS = """CREATE TABLE nodes(node_id INTEGER PRIMARY KEY, node BLOB UNIQUE, name TEXT);
CREATE TABLE runs(run_id INTEGER PRIMARY KEY, job TEXT, run BLOB, UNIQUE(job, run));
CREATE TABLE tracks(track_id INTEGER PRIMARY KEY, unit INTEGER, length INTEGER, every INTEGER);
CREATE TABLE parts(part_id INTEGER PRIMARY KEY, run_id, track_id, part, layer, node_id, seq, stored, bytes, state BLOB,
                   UNIQUE(run_id, track_id, part, layer, node_id));
INSERT INTO tracks VALUES(1, 1, 4, 2); INSERT INTO runs VALUES(1, 'other', x'00'), (2, 'job', CAST('rrrrrrrrrrrrrrrr' AS BLOB));
"""


def test_on_a_hub_ranks_are_named_by_node(rng):
    attnd = Attnd("window.unit=step", "window.length=4", "window.every=2")
    trainer = Trainer(attnd, "job", run=b"r" * 16)
    for step in range(4):
        trainer.attention(softmax_maps(rng, 1, 2, 8, 8), layer=5, step=step)
    by_rank(attnd, [trainer])
    means = np.zeros((70, 2))
    with sqlite3.connect(attnd.history_path + ".parts") as parts:
        parts.executescript(PARTS)
        for node in range(70):
            parts.execute("INSERT INTO nodes VALUES(?, ?, ?)", (node, bytes([node]) * 8, f"gpu{node}" if node else None))
            for part in (0, 1, 2):  # the last is of another window
                values = rng.uniform(1.0, 1.05, (1, 2, 6)) + (node == 31)
                means[node] += values.mean((0, 2)) / 2 * (part < 2)
                state = LayerState(2)
                state.add({"entropy": values}, keys=8, step=2 * part, rank=node)
                row = (part, 5 << 2 | 2, node, state.pack())
                parts.execute("INSERT INTO parts VALUES(NULL, 2, 1, ?, ?, ?, 1, 0, 0, ?)", row)
        parts.execute("UPDATE parts SET state = x'90' WHERE node_id = 9")
    parts.close()
    answer = attnd.call("ranks", job="job", layer=5, last=3)
    assert [one["rank"] for one in answer["ranks"]] == [rank for rank in range(70) if rank != 9] and answer["odd"] == [31]
    assert [one["node"] for one in answer["ranks"]][:3] == [16 * "0", "gpu1", "gpu2"]
    np.testing.assert_allclose([one["mean"] for one in answer["ranks"]], np.delete(means, 9, 0), rtol=1e-12)
    with open(attnd.history_path + ".parts", "wb") as file:
        file.write(b"no database" * 1000)
    answer = attnd.call("ranks", job="job", layer=5, last=3)
    assert [(one["rank"], one["node"]) for one in answer["ranks"]] == [(0, None)]


def test_a_run_that_ends_again_and_again_does_not_fill_the_log(attnd):
    trainer = Trainer(attnd, "gpt")
    for state in 9 * ("active", "ended"):
        trainer.event("bye" if state == "ended" else "hello")
        wait_until(lambda: [job["state"] for job in attnd.call("jobs")] == [state], state)
    assert re.findall(r"event=run_ended job=gpt .*count=(\d+)", attnd.log_text()) == ["1", "2", "4", "8"]


def test_runs_of_one_name_that_go_on_side_by_side_keep_their_last_values(attnd, rng):
    runs = [bytes([number]) * 16 for number in (1, 2)]
    trainers = [Trainer(attnd, "gpt", run=run) for run in runs]
    reader = Reader(attnd, "summary/gpt/")
    for count, trainer in enumerate(trainers, 1):
        trainer.event("hello")
        wait_until(lambda: len(attnd.call("jobs")) == count, "the run, the newest then")
    for epoch in range(2):
        for trainer in trainers:
            trainer.attention(softmax_maps(rng, 1, 2, 6, 6), epoch=epoch, step=epoch)
        for trainer in reversed(trainers):  # the older run's window is published last
            trainer.event("epoch_end", epoch=epoch, step=epoch)
            reader.next()
    for run in runs:
        for method in ("summary", "live"):
            value, = attnd.call(method, job="gpt", run=run.hex())
            assert (value["run"], value["epoch"]) == (run.hex(), 1)
    assert attnd.call("summary", job="gpt")[0]["run"] == attnd.call("jobs")[0]["run"] == runs[1].hex()
    late = Reader(attnd, "summary/gpt/")
    assert late.next()[1]["run"] == runs[0].hex() and late.silent(), "a topic has one last value"


def test_a_job_that_makes_room_takes_no_value_of_a_job_whose_name_begins_alike(rng):
    attnd = Attnd("limits.jobs=2")
    gone, stays = Trainer(attnd, "gpt"), Trainer(attnd, "gpt-2")
    for trainer in (gone, stays):
        trainer.attention(softmax_maps(rng, 1, 2, 4, 4))
        trainer.event("epoch_end", epoch=0)
    gone.event("bye")
    wait_until(lambda: {job["job"]: job["state"] for job in attnd.call("jobs")} == {"gpt": "ended", "gpt-2": "active"}, "the end")
    Trainer(attnd, "third").attention(softmax_maps(rng, 1, 2, 4, 4))
    wait_until(lambda: {job["job"] for job in attnd.call("jobs")} == {"gpt-2", "third"}, "the third job in the place of the first")
    assert attnd.call("summary", job="gpt-2")[0]["run"] == stays.run.hex()


def train_without_end(attnd):
    attnd.context = zmq.Context()
    trainer, weights = Trainer(attnd, "killed"), softmax_maps(np.random.default_rng(1), 1, 2, 16, 16)
    for step in itertools.count():
        trainer.attention(weights, step=step)


def test_a_killed_trainer_leaves_a_partial_window_and_a_healthy_daemon(rng):
    attnd = Attnd("limits.idle=4s", "window.timeout=1s")
    reader = Reader(attnd, "summary/")
    trainer = multiprocessing.get_context("fork").Process(target=train_without_end, args=(attnd,))
    trainer.start()
    wait_until(lambda: attnd.stats()["received"] >= 20, "20 messages")
    trainer.kill()
    trainer.join()
    messages = 0
    while messages < 20:  # it was shown before where the trainer stood still
        topic, summary = reader.next()
        assert topic.startswith("summary/killed/") and summary["window"]["partial"]
        messages = summary["messages"]
    wait_until(lambda: attnd.call("jobs")[0]["state"] == "idle", "the job to be idle")
    other = Trainer(attnd, "other")
    other.attention(softmax_maps(rng, 1, 1, 4, 4))
    other.event("epoch_end", epoch=0)
    while topic != "summary/other/decoder/0/self/" or summary["window"]["partial"]:
        topic, summary = reader.next()
    attnd.settled(22)


def test_losses_of_a_layer_show_with_its_next_message(rng):
    _, reader, trainer = observed()
    weights = softmax_maps(rng, 1, 1, 4, 4)
    trainer.attention(weights, layer=1, epoch=0)
    trainer.attention(weights, layer=0, epoch=0)
    trainer.event("epoch_end", epoch=0)
    for _ in range(2):
        reader.next()
    trainer.attention(weights, layer=1, epoch=0, seq=4)  # 3 lost, and late
    trainer.attention(weights, layer=0, epoch=1)
    trainer.event("epoch_end", epoch=1)
    assert reader.next()[1]["layer"] == 0
    trainer.attention(weights, layer=1, epoch=2, seq=5)
    trainer.event("epoch_end", epoch=2)
    _, summary = reader.next()
    assert (summary["layer"], summary["lost"], summary["dropped"]) == (1, 3, {"late": 1})


def test_a_window_that_attnd_joined_late_is_partial(rng):
    _, reader, trainer = observed()
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4), epoch=7, seq=70)
    trainer.event("epoch_end", epoch=7)
    trainer.attention(softmax_maps(rng, 1, 1, 4, 4), epoch=8, seq=71)
    trainer.event("epoch_end", epoch=8)
    assert [reader.next()[1]["window"]["partial"] for _ in range(2)] == [True, False]


def large_qk(rng, sanitized=1024):
    """Queries and keys with seconds of work in a few MiB; fewer of them for an attnd that is slow."""
    length = sanitized if SANITIZED else 6144
    return (rng.normal(size=(1, 16, length, 16)).astype(np.float16),
            rng.normal(size=(1, 1, length, 16)).astype(np.float16))


def test_large_messages_of_one_job_do_not_delay_another(rng):
    """Five small messages, one after the other, come through before the first of two large ones has been computed;
    and it makes no difference to the large ones' numbers."""
    attnd = Attnd("metrics.spectrum=false", "workers.threads=2")
    q, k = large_qk(rng, sanitized=2560)
    results = Reader(attnd, "live/")
    large, small = Trainer(attnd, "large"), Trainer(attnd, "small")
    large.qk(q, k, scale=0.25, step=0)
    _, alone = results.next(timeout=300)

    def small_ones_come_first(turn):
        """Not where this test stands still for as long as large ones take: then it is tried again."""
        for step in (1, 2):
            large.qk(q, k, scale=0.25, step=2 * turn + step)
        wait_until(lambda: attnd.stats()["received"] == 7 * turn + 3, "two large messages at work")
        came = []
        for step in range(5):
            small.attention(softmax_maps(rng, 1, 2, 16, 16), step=5 * turn + step)
            came.append(results.next(timeout=300))
            while not came[-1][0].startswith("live/small/"):
                came.append(results.next(timeout=300))
        while len(came) < 7:
            came.append(results.next(timeout=300))
        for topic, live in came:
            if topic.startswith("live/large/"):
                assert live["rows"] == alone["rows"] and live["heads"] == alone["heads"]
        return all(topic.startswith("live/small/") for topic, _ in came[:5])

    turn = 0
    while not small_ones_come_first(turn):
        turn += 1
        assert turn < 5, "a large message came before a small one each time"
    attnd.settled(7 * turn + 8)


def test_a_job_that_fills_the_budget_leaves_room_for_another(rng):
    attnd = Attnd("metrics.spectrum=false", "ingest.budget=32MiB", "ingest.max_message=16MiB",
                  "workers.threads=1")
    q, k = large_qk(rng)
    results = Reader(attnd, "live/small/")
    large = Trainer(attnd, "large")
    for step in range(30):  # three times the budget, a second of work each
        large.qk(q, k, scale=0.25, step=step)
    wait_until(lambda: attnd.stats()["received"] == 30, "all of them")
    elsewhere(attnd, lambda attnd: Trainer(attnd, "small").attention(softmax_maps(rng, 1, 1, 4, 4)))
    assert results.next()[1]["job"] == "small"
    attnd.discard()


def test_a_process_has_no_more_room_by_naming_more_jobs(rng):
    attnd = Attnd("ingest.budget=16MiB", "ingest.max_message=4MiB", "workers.threads=1", "metrics.spectrum_max_size=4096",
                  "metrics.spectrum_budget=0", "metrics.spectrum_effort=eigenvalues")
    trainers = [Trainer(attnd, f"many-{i}") for i in range(16)]
    weights = np.full((1, 4, 128, 128), 1 / 128, np.float32)
    trainers[0].attention(softmax_maps(rng, 1, 1, 900, 900))  # takes seconds
    for step in range(8):
        for trainer in trainers:
            trainer.attention(weights, step=step, layer=1)
    wait_until(lambda: attnd.stats()["received"] + attnd.stats()["in_flight"] >= 129, "all of the many jobs")

    def train(attnd):
        one = Trainer(attnd, "one")
        for step in range(5):
            one.attention(weights[:, :, :16, :16] * 8, step=step)
    elsewhere(attnd, train)
    stats = attnd.settled(134)
    dropped = {job["job"]: job["dropped"] for job in attnd.call("jobs")}
    assert dropped.pop("one") == {} and stats["dropped"]["over_budget"] > 32


def test_messages_of_a_job_stay_in_their_order_whoever_pays_for_them(rng):
    """They are a process's for as long as their connection tells whose they are."""
    attnd = Attnd("limits.runs=100")
    weights = softmax_maps(rng, 1, 1, 4, 4)
    one = Trainer(attnd, "one")
    for life in range(40):
        for step in range(10):
            one.attention(weights, step=10 * life + step)
        other = Trainer(attnd, "other")
        for step in range(17):
            other.attention(weights, step=step)
        del other
        stats = attnd.settled(27 * (life + 1))
    assert (stats["dropped"], stats["lost"]) == ({}, 0)
