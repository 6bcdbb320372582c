# SPDX-License-Identifier: MIT
"""Messages of type `rows`: what sums over rows say is what the queries and keys say that they are of, in `live`, in
summaries and over ranks; and what is refused."""
import msgpack
import numpy as np
import pytest
from harness import Attnd, Reader, Trainer, as_f64, observed, ranks_of, wait_until

B, H, KV, T, D, LOCAL = 2, 4, 2, 40, 8, 8
REQUIRED = ["largest", "total", "weighted", "distance", "first"]
ALL = REQUIRED + ["finite", "shift", "logits", "logit_squares", "smallest", "cosines", "cosine_count", "cosine_max",
                  "query_length", "square", "power_3", "power_4", "power_5", "power_6", "power_7", "top", "eighth", "local",
                  "previous", "own", "next", "duplicate", "induction"]
PLACES = ["position", "positions", "first", "with_first", "seen", "farthest", "valid", "occurrence"]
SCALE = D**-0.5
# Row metrics have the tolerance of sums or of entropies (KERNELS.md), and so have those of a message.
NATS = ("entropy", "entropy_normalized", "entropy_sans_first", "effective_keys")

OF_MESSAGES = ("mean", "min", "max", "std", "variance", "locality", "max_abs_logit", "mean_logit", "std_logit", "qk_cosine",
               "qk_cosine_max", "q_norm", "k_norm", "importance")


def vectors(rng, heads=H, batch=B):
    return [rng.normal(size=(batch, n, T, D)).astype(np.float32) for n in (heads, KV)]


def columns(q, k, tokens=None, names=ALL, queries=None):
    """Causal self-attention: sums [S, B, H, R] and places [8, 1, R] in f32 and i32, of these queries."""
    rows = np.arange(T) if queries is None else np.asarray(queries)
    batch, heads = q.shape[:2]
    seen = np.arange(T) <= rows[:, None]
    key = np.repeat(as_f64(k), heads // k.shape[1], 1)
    product = as_f64(q)[:, :, rows] @ key.swapaxes(2, 3)
    s = SCALE * product
    lengths = np.linalg.norm(as_f64(q)[:, :, rows], axis=-1), np.linalg.norm(key, axis=-1)
    rest = seen & (np.arange(T) > 0)
    largest = np.where(rest, s, -np.inf).max(-1, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        below = np.where(rest, s - largest[..., None], -np.inf)
    e = np.exp(below)
    gap = np.abs(rows[:, None] - np.arange(T))
    top = np.sort(e, -1)[..., :-9:-1]

    def near(step):
        at = rows + step
        there = (at > 0) & (at < T) & (step <= 0)
        return np.where(there, np.take_along_axis(s, np.broadcast_to(at.clip(0, T - 1)[:, None], s.shape[:-1] + (1,)), -1)[..., 0],
                        -np.inf)

    cosine = product / lengths[1][:, :, None]
    shift = s[..., 0]
    off = np.where(seen, s - shift.astype(np.float32)[..., None], 0)
    found = dict(
        largest=largest, total=e.sum(-1), weighted=np.where(e > 0, e * np.where(e > 0, below, 0), 0).sum(-1),
        distance=(e * gap).sum(-1), first=s[..., 0], finite=seen.sum(-1), shift=shift, logits=off.sum(-1),
        logit_squares=(off**2).sum(-1), smallest=np.where(seen, s, np.inf).min(-1), cosines=np.where(seen, cosine, 0).sum(-1),
        cosine_count=seen.sum(-1), cosine_max=np.where(seen, cosine, -np.inf).max(-1), query_length=lengths[0],
        top=top.sum(-1), eighth=top[..., -1], local=(e * (gap <= LOCAL)).sum(-1), previous=near(-1), own=near(0), next=near(1),
        **{f"power_{n}": (e**n).sum(-1) for n in range(3, 8)}, square=(e**2).sum(-1))
    occurrence = np.zeros(len(rows), np.int32)
    if tokens is not None:
        same = (tokens[rows][:, None] == tokens) & (np.arange(T) < rows[:, None])
        behind = np.concatenate([np.zeros((len(rows), 1), bool), same[:, :-1]], 1)
        found.update(duplicate=(e * same).sum(-1), induction=(e * behind).sum(-1))
        occurrence = same.any(-1) * 1 + (same.any(-1) & same[:, 0]) * 2 + (same.any(-1) & behind[:, 0]) * 4
    else:
        found.update(duplicate=0 * e.sum(-1), induction=0 * e.sum(-1))
    places = dict(position=rows, positions=0 * rows + T, first=0 * rows, with_first=0 * rows + 1, seen=rows + 1, farthest=rows,
                  valid=0 * rows + 1, occurrence=occurrence)
    sums = np.stack([np.broadcast_to(found[name], (batch, heads, len(rows))) for name in names]).astype(np.float32)
    return sums, np.stack([places[name] for name in PLACES])[:, None].astype(np.int32)


def send(trainer, q, k, tokens=None, names=ALL, some=None, change=None, **keys):
    """The rows of a call as sums; change(sums, places) may spoil them. The header's keys may be given."""
    sums, places = columns(q, k, tokens, names, some)
    if change:
        change(sums, places)
    lengths = np.linalg.norm(as_f64(k), axis=-1).astype(np.float32)
    header = {"sums": list(names), "queries": T, "keys": T, "causal": True, **keys}
    trainer.send(*trainer.tensor_frames("rows", dict(sums=sums, places=places, key_lengths=lengths), **header))


def send_qk(trainer, q, k, tokens=None, **keys):
    trainer.qk(q, k, tokens=None if tokens is None else np.broadcast_to(tokens, (len(q), T)).astype(np.int32).copy(),
               scale=SCALE, causal=True, **keys)


def assert_alike(got, want, skip=()):
    """Every number of heads that there is."""
    for name, numbers in want["heads"].items():
        values = numbers.get("mean", numbers) if isinstance(numbers, dict) else numbers
        if name in skip or all(one is None for one in values):
            continue
        mine = got["heads"][name]
        if name == "pattern":
            assert mine == numbers
        elif isinstance(numbers, dict):  # of a summary
            for statistic in set(numbers) - set(skip):
                assert_close(name, statistic, mine[statistic], numbers[statistic])
        else:
            assert_close(name, "", mine, numbers)


def assert_close(name, statistic, got, want):
    got, want = (np.array(values, float) for values in (got, want))
    quantile = statistic.startswith("q") or statistic in ("p50", "p90", "p99", "median")
    error = 0.05 if quantile else 2e-3 if name == "std" or statistic == "std" else 2e-4 if name in NATS else 2e-5
    assert np.array_equal(np.isnan(got), np.isnan(want)), (name, statistic, got, want)
    there = ~np.isnan(want)
    assert np.all(np.abs(got - want)[there] <= error * np.maximum(1, np.abs(want[there]))), (name, statistic, got, want)


def test_sums_say_what_queries_and_keys_say(rng):
    attnd = Attnd("metrics.qk_maps_max_size=64")
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    tokens = rng.integers(0, 6, T)
    for step in range(3):
        q, k = vectors(rng)
        send_qk(trainer, q, k, tokens, layer=0, step=step)
        send(trainer, q, k, tokens, layer=1, step=step)
    trainer.event("epoch_end")
    attnd.settled(7)
    live = {answer["layer"]: answer for answer in attnd.call("live", job="job")}
    assert live[1]["tier"] == "rows" and live[1]["shape"] == [B, H, T, T] and live[1]["causal"]
    assert (live[1]["rows"], live[1]["invalid_rows"], live[1]["row_sum_error"]) == (B * H * T, 0, 0)
    assert live[1]["heads"]["importance"] == pytest.approx(live[0]["heads"]["importance"], abs=1e-5)
    assert live[1]["local_window"] == live[0]["local_window"]
    assert_alike(live[1], live[0])
    assert not {"aggregate", "top_pairs", "similarity", "spectrum"} & set(live[1])
    found = {}
    while len(found) < 2:
        one = reader.next()[1]
        found[one["layer"]] = one
    assert found[1]["tier"] == "rows" and found[1]["messages"] == 3
    assert (found[1]["rows"], found[1].get("rows_of")) == (found[0]["rows"], found[0].get("rows_of"))
    assert_alike(found[1], found[0])
    assert found[1]["sink_rate"] == pytest.approx(found[0]["sink_rate"])


def test_some_rows_tell_of_how_many_they_are(attnd, rng):
    trainer = Trainer(attnd, "job")
    q, k = vectors(rng)
    some = np.arange(1, T, 4)
    send(trainer, q, k, some=some, names=REQUIRED + ["previous"])
    attnd.settled(1)
    live, = attnd.call("live", job="job")
    assert live["rows"] == B * H * len(some) and live["rows_of"] == B * H * T and live["shape"] == [B, H, len(some), T]
    assert "importance" not in live["heads"] and "mean_logit" not in live["heads"] and "std" not in live["heads"]
    assert live["heads"]["previous_token"][0] > 0 and "local_mass" not in live["heads"]


def test_two_ranks_are_one(rng):
    """Ranks with the heads' halves, and with other samples, merge to what one rank with all says."""
    attnd, reader, _ = observed()
    q, k = vectors(rng, heads=2 * H, batch=4)
    whole = Trainer(attnd, "whole")
    send(whole, q, k)
    whole.event("epoch_end")
    want = reader.next()[1]
    for job, parts in (("samples", [(slice(0, 2), slice(None)), (slice(2, 4), slice(None))]),
                       ("heads", [(slice(None), slice(0, H)), (slice(None), slice(H, 2 * H))])):
        ranks = ranks_of(attnd, 2, job)
        for trainer, (samples, heads) in zip(ranks, parts):
            keys = {} if job == "samples" else {"head_offset": heads.start, "heads_total": 2 * H}
            share = slice(None) if job == "samples" else slice(heads.start // H, heads.stop // H)
            send(trainer, q[samples, heads], k[samples, share], **keys)
            trainer.event("epoch_end")
        got = reader.next()[1]
        assert got["rows"] == want["rows"] and got["ranks"] == 2
        # Numbers of messages are pooled by messages; the last one is of some of the rows.
        assert_alike(got, want, skip=("last", "pattern", *OF_MESSAGES))


def spoil(column, value, row=3):
    def change(sums, places):
        sums[ALL.index(column), 0, 1, row] = value
    return change


def displace(place, value, row=3):
    def change(sums, places):
        places[PLACES.index(place), 0, row] = value
    return change


def test_what_cannot_be_is_refused_and_counted(rng):
    attnd = Attnd()
    trainer = Trainer(attnd, "job")
    q, k = vectors(rng)
    spoils = [spoil("total", -1), spoil("total", np.nan), spoil("total", 1e9), spoil("weighted", 1), spoil("distance", -1),
              spoil("square", 100), spoil("finite", 1.5), spoil("finite", T + 1), spoil("top", np.inf), spoil("own", 1e9),
              displace("position", -1), displace("first", T), displace("seen", T + 1), displace("valid", 7),
              displace("occurrence", 8), displace("farthest", -5)]
    for step, change in enumerate(spoils):
        send(trainer, q, k, step=step, change=change)
    headers = [("sums", dict(sums=ALL[:-1] + ["total"])), ("sums", dict(sums=["", *ALL[1:]])), ("sums", dict(sums=ALL[:-1] + ["totals"])),
               ("shape", dict(sums=ALL[:-1])), ("key_range", dict(queries=T - 1)), ("shape", dict(keys=T + 1)), ("key_type", dict(sums="total")),
               ("key_missing", None), ("key_range", dict(weights="i32")), ("lengths", dict(k_len=[T + 1, 1]))]
    for step, (_, keys) in enumerate(headers, len(spoils)):
        if keys is None:
            sums, places = columns(q, k)
            trainer.send(*trainer.tensor_frames("rows", dict(sums=sums, places=places), sums=ALL, keys=T, step=step))
        else:
            send(trainer, q, k, step=step, **keys)
    step = len(spoils) + len(headers)
    topic, header, sums, places = trainer.tensor_frames("rows", dict(zip(("sums", "places"), columns(q, k))), sums=ALL, queries=T,
                                                        keys=T, step=step)
    trainer.send(topic, header, sums[:-4], places)
    send(trainer, q, k, step=step + 1, change=spoil("largest", np.nan))  # one row that is not sound
    stats = attnd.settled(step + 2)
    want = {"rows": len(spoils), "size_mismatch": 1}
    for reason, _ in headers:
        want[reason] = want.get(reason, 0) + 1
    assert {reason: n for reason, n in stats["dropped"].items() if n} == want
    assert stats["received"] == stats["processed"] + sum(stats["dropped"].values())
    live, = attnd.call("live", job="job")
    assert (live["rows"], live["invalid_rows"]) == (B * H * T - 1, 1)


def test_explicit_weights_and_sinks(attnd, rng):
    """Weights that lack a tenth are sound beside a learned sink alone, and a sink's logit says the same as such weights."""
    q, k = vectors(rng)
    trainer = Trainer(attnd, "job")
    sums, places = columns(q, k)
    z = np.logaddexp(sums[0].astype(float) + np.log(np.where(sums[1] > 0, sums[1], 1)), sums[4].astype(float))
    z = np.where(sums[1] > 0, z, sums[4])
    for layer, (lacking, keys) in enumerate([(0, {}), (0.1, {}), (0.1, {"learned_sink": True}), (0.1, {"dropout": True})]):
        of_weights = sums.copy()
        for name in ("largest", "first", "smallest", "previous", "own", "next"):
            of_weights[ALL.index(name)] += (np.log(1 - lacking) - z).astype(np.float32)
        trainer.send(*trainer.tensor_frames("rows", dict(sums=of_weights, places=places), layer=layer, sums=ALL, queries=T, keys=T,
                                            weights="f32", **keys))
    send(trainer, q, k, layer=4)
    sinks = np.full(H, 2, np.float32)
    trainer.send(*trainer.tensor_frames("rows", dict(sums=sums, places=places, sinks=sinks), layer=5, sums=ALL, queries=T, keys=T))
    attnd.settled(6)
    whole, unsound, beside, dropped, logits, sunk = attnd.call("live", job="job")
    assert (whole["invalid_rows"], unsound["invalid_rows"], beside["invalid_rows"]) == (0, B * H * T, 0)
    assert unsound["row_sum_error"] == pytest.approx(0.1, abs=1e-6)
    for name in ("entropy", "confidence", "mean_distance", "tail_mass"):
        for one in (whole, beside, sunk):
            np.testing.assert_allclose(one["heads"][name], logits["heads"][name], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(beside["heads"]["sink_deficit"], [0.1] * H, atol=1e-6)
    np.testing.assert_allclose(beside["heads"]["mean"], 0.9 * np.array(logits["heads"]["mean"]), rtol=1e-5)
    np.testing.assert_allclose(sunk["heads"]["sink_deficit"], (1 / (1 + np.exp(z - 2))).mean((0, 2)), rtol=1e-5)
    assert "max_logit" not in whole["heads"] and "sink_deficit" not in logits["heads"]
    assert dropped["heads"]["confidence"][0] == pytest.approx(0.9 * logits["heads"]["confidence"][0], rel=1e-5)


def test_maps_come_beside_sums(rng):
    attnd = Attnd("maps.size=16")
    trainer = Trainer(attnd, "job")
    q, k = vectors(rng)
    sums, places = columns(q, k)
    maps = rng.random((H, 16, 16)).astype(np.float16)
    trainer.send(*trainer.tensor_frames("rows", dict(sums=sums, places=places, maps=maps), sums=ALL, queries=T, keys=T, causal=True,
                                        sample=1, batch=4, labels=[str(i) for i in range(T)]))
    attnd.settled(1)
    found = wait_until(lambda: attnd.call("maps", job="job", layer=0, stack="decoder", site="self", packed=True), "maps")
    assert found["tier"] == "rows" and found["sample"] == 1 and (found["queries"], found["keys"]) == (T, T)
    np.testing.assert_allclose(np.frombuffer(found["values"], "<f4").reshape(H, 16, 16), maps, atol=1e-3)


def test_a_record_of_rows_is_read_again(attnd, rng):
    """The header is as any other: what is not known is skipped."""
    trainer = Trainer(attnd, "job")
    q, k = vectors(rng)
    send(trainer, q, k, smell=msgpack.packb([1]))
    attnd.settled(1)
    assert attnd.call("live", job="job")[0]["tier"] == "rows"
