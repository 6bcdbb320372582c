# SPDX-License-Identifier: MIT
"""Every number of every tier, through the daemon: against the float64 reference of the Python example, against
numpy, and tier against tier on the same data."""
import collections
import itertools
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from harness import SANITIZED, ATTND, DTYPE_NAME, Attnd, Reader, Trainer, as_bf16, as_f64, wait_until

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
sys.path[:0] = [os.path.join(ROOT, "clients", "python"), os.path.join(ROOT, "clients", "python", "examples")]
torch = pytest.importorskip("torch")
sys.path.append(os.path.join(ROOT, "tests", "kernels"))
import formulas  # noqa: E402
import reference  # noqa: E402
import reference_compare  # noqa: E402
import reference_qk  # noqa: E402
from cases import Case  # noqa: E402

HEADS, LENGTH = 3, 12
HEAD_WEIGHTS = [0.5, -1.0, 2.0]
ALL_ON = ("metrics.spectrum_budget=0", "metrics.similarity=true", "metrics.head_pairs=true",
          "metrics.head_weights=0.5,-1,2")
EVERYTHING = reference.Settings(similarity=True, head_pairs=True, head_weights=HEAD_WEIGHTS)
ROUND = {"f32": lambda x: x.astype(np.float32), "f64": lambda x: x.astype(np.float64),
         "f16": lambda x: x.astype(np.float16), "bf16": as_bf16}
ISAS = ("scalar", "portable", "avx2", "avx512")

Masks = collections.namedtuple("Masks", "causal window q_len k_len mask documents site offset",
                               defaults=(False, 0, None, None, None, None, "self", 0))


def explicit_mask():
    """Holes here and there, and two queries on the left that are padding."""
    mask = np.random.default_rng(3).integers(0, 2, (2, LENGTH, LENGTH), np.uint8)
    mask[:, np.arange(LENGTH), np.arange(LENGTH)] = 1
    mask[1, :2] = 0
    return mask


DOCUMENTS = np.repeat([[1, 1, 7], [4, 5, 5]], LENGTH // 3, axis=1).astype(np.int32)
MASKS = {
    "none": Masks(),
    "causal": Masks(causal=True),
    "lengths": Masks(q_len=[12, 7], k_len=[12, 7]),
    "causal-lengths": Masks(causal=True, q_len=[9, 12], k_len=[9, 12]),
    "window": Masks(causal=True, window=4),
    "mask": Masks(mask=explicit_mask()),
    "documents": Masks(causal=True, documents=DOCUMENTS),
    "documents-lengths-window": Masks(documents=DOCUMENTS, q_len=[12, 11], k_len=[12, 11], window=5),
    "cross": Masks(site="cross", q_len=[12, 5], k_len=[8, 12]),
}


def visible(m, queries=LENGTH, keys=LENGTH):
    """[2,Tq,Tk]: what a row may attend to."""
    p, j = m.offset + np.arange(queries)[:, None], np.arange(keys)[None, :]
    seen = np.ones((2, queries, keys), bool)
    if m.causal:
        seen &= j <= p
    if m.window:
        seen &= j > p - m.window
    if m.k_len:
        seen &= j < np.array(m.k_len)[:, None, None]
    if m.mask is not None:
        seen &= m.mask == 1
    if m.documents is not None:
        seen &= m.documents[:, p[:, 0], None] == m.documents[:, None, :]
    return seen


def random_logits(rng):
    """[2,H,T,T]: a head that is nearly uniform, one in between, and a sharp one."""
    return rng.normal(size=(2, HEADS, LENGTH, LENGTH)) * np.array([0.1, 1.5, 4])[:, None, None]


def softmax(logits, seen):
    """Weights [B,H,Tq,Tk] over the visible keys; rows that see none are NaN, as they arrive in practice."""
    logits = np.where(seen[:, None], logits, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)


def header_of(m):
    """The header's keys; the mask tensors are arguments of their own."""
    keys = dict(causal=m.causal, window=m.window, q_len=m.q_len, k_len=m.k_len, site=m.site)
    return {k: v for k, v in keys.items() if v}


def tensors_of(m):
    return dict(mask=m.mask, documents=m.documents)


def attention_of(sent, m, tokens=None, grad=None, **flags):
    """What the reference takes, from the arrays that were sent."""
    as_torch = {name: torch.from_numpy(array) for name, array in
                dict(mask=m.mask, documents=m.documents, tokens=tokens, grad=grad).items() if array is not None}
    return reference.Attention(torch.from_numpy(as_f64(sent)), DTYPE_NAME[str(sent.dtype)], **header_of(m), **as_torch,
                               **flags)


def news(reader):
    """The next (topic, result) that is no snapshot: those come some time after a subscription."""
    return next((topic, result) for topic, result in iter(reader.next, None) if not result["snapshot"])


def of_window(reader, trainer, **keys):
    """Ends the epoch and takes the summary of it."""
    trainer.event("epoch_end", **keys)
    topic, summary = news(reader)
    assert topic.startswith("summary/")
    return summary


def next_by_layer(reader, count):
    """Results of different layers, which are finished in any order."""
    return sorted((news(reader)[1] for _ in range(count)), key=lambda result: result["layer"])


def wrong(summary, measured):
    """The numbers that are not right, as text."""
    found = reference.compare(summary, reference.pool(measured))
    assert len(found) > 1000
    return [d.text for d in found if not d.ok]


# ------------------------------------------------------------------------------------- tier attention

@pytest.mark.parametrize("name, dtype", [*((name, "f32") for name in MASKS), ("causal", "f64"), ("causal-lengths", "f16"),
                                         ("documents", "bf16")])
def test_every_number_of_attention_is_right(rng, name, dtype):
    attnd, m = Attnd(*ALL_ON), MASKS[name]
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    measured = []
    for step in range(2):
        weights = ROUND[dtype](softmax(random_logits(rng), visible(m)))
        tokens = rng.integers(0, 4, (2, LENGTH)).astype(np.int32)
        grad = rng.normal(size=weights.shape)
        trainer.attention(weights, step=step, tokens=tokens, grad=grad, **tensors_of(m), **header_of(m))
        measured.append(reference.measure(attention_of(weights, m, tokens, grad), EVERYTHING))
    summary = of_window(reader, trainer)
    assert summary["tier"] == "attention" and summary["rows"] > 0
    assert wrong(summary, measured) == []
    attnd.settled(3)


@pytest.mark.parametrize("reason", ["dropout", "learned_sink", "unsound"])
def test_rows_that_do_not_sum_to_one(rng, reason):
    attnd, m, flags = Attnd(*ALL_ON), MASKS["causal"], {} if reason == "unsound" else {reason: True}
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    weights = softmax(random_logits(rng), visible(m))
    if reason == "dropout":
        weights *= rng.integers(0, 2, weights.shape) * 2
    elif reason == "learned_sink":
        weights *= rng.uniform(0.2, 1, weights.shape[:3] + (1,))
    else:
        weights[rng.random(weights.shape) < 0.01] = np.nan
        weights[0, 0, 3] *= 1.1
        weights[1, 2, 5, 0] = -0.5
    weights = weights.astype(np.float32)
    trainer.attention(weights, **header_of(m), **flags)
    summary = of_window(reader, trainer)
    assert wrong(summary, [reference.measure(attention_of(weights, m, **flags), EVERYTHING)]) == []
    assert (summary["invalid_rows"] > 0) == (reason == "unsound")


def test_long_rows_and_many_heads(rng):
    """Past the sizes of tiles and vectors, and cut into several blocks."""
    _, reader, trainer = observed("metrics.spectrum_budget=0", "workers.block_entries=20000", "metrics.spectrum_max_size=1024")
    weights = softmax(rng.normal(0, 2, (1, 5, 131, 259)), np.ones((1, 131, 259), bool)).astype(np.float32)
    trainer.attention(weights, site="cross")
    summary = of_window(reader, trainer)
    assert wrong(summary, [reference.measure(attention_of(weights, Masks(site="cross")))]) == []


def test_patterns_of_heads_that_do_one_thing(attnd):
    """One head each: previous token, next token, itself, first token, everything alike, far away."""
    eye = np.eye(16)
    far = np.roll(eye, 8, 1)
    maps = [np.roll(eye, -1, 1), np.roll(eye, 1, 1), eye, np.tile(eye[0], (16, 1)), np.full((16, 16), 1 / 16), far]
    reader, trainer = Reader(attnd, "live/", "summary/"), Trainer(attnd, "job")
    trainer.attention(np.stack(maps)[None])
    _, live = reader.next()
    names = ["previous_token", "next_token", "diagonal", "first_token", "uniform", "long_range"]
    assert live["heads"]["pattern"] == names and live["sink_rate"] == pytest.approx(1 / 6)
    trainer.event("epoch_end")
    _, summary = reader.next()
    assert summary["heads"]["pattern"] == {"last": names} and summary["sink_rate"]["last"] == pytest.approx(1 / 6)


def test_slices_of_the_heads_have_row_metrics_and_nothing_across_heads(rng):
    attnd, m = Attnd("metrics.similarity=true", "metrics.head_pairs=true"), MASKS["causal"]
    reader = Reader(attnd, "summary/")
    ranks = [Trainer(attnd, "job", rank, world=HEADS, run=b"r" * 16) for rank in range(HEADS)]
    weights = softmax(random_logits(rng), visible(m))
    for rank, trainer in enumerate(ranks):
        trainer.attention(weights[:, rank:rank + 1].copy(), head_offset=rank, heads_total=HEADS, **header_of(m))
    for trainer in ranks:
        trainer.event("epoch_end")
    _, summary = reader.next()
    want = reference.pool([reference.measure(attention_of(weights, m))])
    assert summary["rows"] == want["rows"] and "importance" not in summary["heads"]
    assert differences(summary, want) == []
    assert not {"aggregate", "top_pairs", "head_top_pairs", "similarity"} & set(summary)


# ------------------------------------------------------------------------------------- blocks of rows

def case_of(sent, m, tokens):
    return Case(as_f64(sent), DTYPE_NAME[str(sent.dtype)], is_self=m.site == "self", causal=m.causal, window=m.window,
                q_len=m.q_len, k_len=m.k_len, mask=m.mask, documents=m.documents, tokens=tokens)


def block_keys(m, rows):
    """The header's keys and tensors of these rows."""
    q_len = m.q_len and [len(range(n)[rows]) for n in m.q_len]
    mask = m.mask if m.mask is None else m.mask[:, rows].copy()
    stride = {"q_stride": rows.step} if rows.step else {}
    return dict(header_of(m._replace(q_len=q_len)), q_offset=rows.start, mask=mask, documents=m.documents, **stride)


def means_of_rows(case, rows, query_ends):
    """metric -> [H], float64: means over the sound ones of these rows of the whole map."""
    seen, query = formulas.visible(case)
    sound, _, _ = formulas.judge(case, case.weights, seen, query)
    p = np.arange(sound.shape[2])
    inside = sound & np.isin(p, p[rows])
    found = {"rows": int(inside.sum())}
    for name, (values, exists) in formulas.row_values(case, case.weights, seen, 8).items():
        counted = inside & np.broadcast_to(exists, sound.shape)
        if name == "next_token" and not rows.step:  # the query after the block's last one is not known to be one
            counted &= (p + 1 < np.minimum(query_ends, rows.stop)[:, None])[:, None]
        found[name] = [values[:, h][counted[:, h]].mean() if counted[:, h].any() else np.nan
                       for h in range(sound.shape[1])]
    return found


@pytest.mark.parametrize("isa", ("scalar", "auto"))
def test_some_rows_give_what_these_rows_of_the_whole_map_give(rng, isa):
    """Every row metric of every block or sample against float64 numpy on the whole map: previous_token, diagonal,
    distances, causal bound, window, documents and tokens count from where the rows stand."""
    _, reader, trainer = observed(f"workers.isa={isa}", "metrics.spectrum=false", topic="live/")
    relative, absolute = (1e-11, 1e-11) if isa == "scalar" else (1e-5, 1e-4)
    for layer, (name, m) in enumerate(MASKS.items()):
        weights = softmax(random_logits(rng), visible(m)).astype(np.float32)
        tokens = rng.integers(0, 4, (2, LENGTH)).astype(np.int32)
        case = case_of(weights, m, tokens)
        cuts = [0, *sorted(rng.choice(np.arange(1, LENGTH), 4, replace=False).tolist()), LENGTH]
        seen_metrics = set()
        for step, rows in enumerate([*map(slice, cuts, cuts[1:]), *(slice(first, LENGTH, 3) for first in range(3))]):
            part = weights[:, :, rows].copy()
            trainer.attention(part, tokens=tokens, layer=layer, step=step, microbatch=step, **block_keys(m, rows))
            _, live = reader.next()
            want = means_of_rows(case, rows, np.array(m.q_len or [LENGTH] * 2))
            assert live["shape"] == list(part.shape) and live["rows"] == want.pop("rows")
            for metric, numbers_wanted in want.items():
                if metric in live["heads"]:
                    got = numbers(live["heads"][metric])
                    np.testing.assert_allclose(got, numbers_wanted, relative, absolute, err_msg=f"{name} {metric} {rows}")
                    seen_metrics |= {metric} if np.isfinite(got).any() else set()
                else:
                    assert np.isnan(numbers_wanted).all(), metric
        of_self = {"diagonal", "previous_token", "duplicate_token"} if m.site == "self" else set()
        assert {"entropy", "mean_distance", "first_token", "local_mass"} | of_self <= seen_metrics


# -------------------------------------------------------------------------------------------- tier qk

Vectors = collections.namedtuple("Vectors", "q k v scale softcap")


def vectors(rng, dtype="f32", softcap=0.0, heads=4, kv_heads=2, queries=LENGTH):
    """Queries of 4 heads that share 2 key heads, of unequal lengths."""
    def make(*shape):
        return ROUND[dtype](rng.normal(size=shape) * rng.uniform(0.5, 2, shape[:-1] + (1,)))

    return Vectors(make(2, heads, queries, 8), make(2, kv_heads, LENGTH, 8), make(2, kv_heads, LENGTH, 5), 0.4, softcap)


def of_head(keys, heads):
    """Keys or values [B,Hkv,Tk,d] as each head reads them, f64."""
    keys = as_f64(keys)
    return np.repeat(keys, heads // keys.shape[1], axis=1)


def logits_of(x):
    """[B,H,Tq,Tk] scaled and capped."""
    q = as_f64(x.q)
    logits = x.scale * q @ of_head(x.k, q.shape[1]).swapaxes(-1, -2)
    return x.softcap * np.tanh(logits / x.softcap) if x.softcap else logits


def send_qk(trainer, x, m, **keys):
    extra = dict(softcap=x.softcap) if x.softcap else {}
    trainer.qk(x.q, x.k, x.v, scale=x.scale, q_offset=m.offset, **extra, **tensors_of(m), **header_of(m), **keys)


def numbers(column):
    """A column of a result as flat f64, null as NaN."""
    return np.ravel(np.array(column, dtype=np.float64))


def differences(got, want):
    """What two summaries say differently of metrics that both have, beyond the tolerances of the kernels."""
    found = []
    width = 2.1 * max(got["quantile_error"], want.get("quantile_error", 0))  # a value may fall into the next bucket
    got, want = got["heads"], want["heads"]
    for metric in sorted(set(got) & set(want) - {"pattern"}):
        largest = np.nanmax(np.abs(np.concatenate([numbers(want[metric][s]) for s in ("min", "max")])), initial=0)
        for stat in [name for name in want[metric] if name not in ("width", "small")]:
            tolerance = reference_compare.tolerance_of(metric, stat)
            relative = width if stat in reference_compare.QUANTILES else tolerance.relative
            absolute = tolerance.absolute + (0 if stat == "count" else 1e-5 * largest)
            for g, w in zip(numbers(got[metric][stat]), numbers(want[metric][stat])):
                if not (math.isnan(g) and math.isnan(w)) and not abs(g - w) <= relative * abs(w) + absolute:
                    found.append(f"{metric} {stat}: {g} {w}")
    return found + ([] if got["pattern"] == want["pattern"] else [f"{got['pattern']} {want['pattern']}"])


QK_MASKS = {**MASKS, "offset": Masks(causal=True, offset=5), "cross-causal": Masks(site="cross", causal=True)}


@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_queries_and_keys_give_what_their_attention_gives(rng, softcap):
    """Every number that both tiers have without a map, of the same data. With an offset the attention is that of the
    whole square, whose earlier queries a mask makes padding."""
    attnd = Attnd("metrics.qk_maps_max_size=0")
    reader = Reader(attnd, "summary/")
    for name, m in QK_MASKS.items():
        queries = LENGTH - m.offset
        tokens = rng.integers(0, 4, (2, LENGTH)).astype(np.int32)
        trainer = Trainer(attnd, name)
        for step in range(2):
            x = vectors(rng, softcap=softcap, queries=queries)
            weights = softmax(logits_of(x), visible(m, queries))
            as_sent, square = dict(**tensors_of(m), **header_of(m)), weights
            if m.offset:
                mask = np.zeros((2, LENGTH, LENGTH), np.uint8)
                mask[:, m.offset:] = 1
                square = np.zeros((2, 4, LENGTH, LENGTH))
                square[:, :, m.offset:] = weights
                as_sent = dict(mask=mask, causal=m.causal)
            trainer.attention(square, layer=0, step=step, tokens=tokens, **as_sent)
            send_qk(trainer, x, m, layer=1, step=step, tokens=tokens)
        trainer.event("epoch_end")
        of_map, of_qk = next_by_layer(reader, 2)
        assert (of_map["tier"], of_qk["tier"]) == ("attention", "qk")
        assert (of_map["rows"], of_map["invalid_rows"]) == (of_qk["rows"], of_qk["invalid_rows"])
        shared = set(of_map["heads"]) & set(of_qk["heads"])
        assert set(reference.ROW_METRICS) | {"mean", "std", "min", "max", "variance", "locality", "pattern"} <= shared
        assert differences(of_qk, of_map) == [], name
        assert of_qk["sink_rate"] == pytest.approx(of_map["sink_rate"])
        assert not {"aggregate", "top_pairs"} & set(of_qk) and "importance" not in of_qk["heads"]
    attnd.settled(5 * len(QK_MASKS))


@pytest.mark.parametrize("name", ["causal", "causal-lengths", "offset", "documents"])
def test_what_the_output_is_judged_by(attnd, rng, name):
    """importance_gradient from dO as from dL/dA = dO V^T, and what heads write; in summaries and the answer of `live`."""
    m = QK_MASKS[name]
    x = vectors(rng, queries=LENGTH - m.offset)
    B, H, Tq, _ = x.q.shape
    v, seen = of_head(x.v, H), visible(m, Tq)
    queries = (np.arange(Tq) < np.array(m.q_len or [Tq] * B)[:, None]) & seen.any(-1)
    weights = np.where(queries[:, None, :, None] & seen[:, None], softmax(logits_of(x), seen), 0)
    dout, grown = rng.normal(size=(B, H, Tq, v.shape[3])), rng.normal(size=(B, Tq))
    factors = np.linalg.qr(rng.normal(size=(H, 24, v.shape[3])))[1]
    score = np.abs(weights * np.einsum("bhid,bhjd->bhij", dout, v)).sum((0, 2, 3))
    written = np.linalg.norm(np.einsum("hrd,bhid->bhir", factors, weights @ v), axis=-1)
    share = written / np.abs(grown)[:, None]
    want = {"importance_gradient": score / np.linalg.norm(score),
            "write_norm": [written[:, h][queries].mean() for h in range(H)],
            "residual_share": [share[:, h][queries].mean() for h in range(H)]}
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    send_qk(trainer, x, m, dout=dout, wo_r=factors.astype(np.float32), x_norm=np.abs(grown).astype(np.float32))
    if not m.offset:
        trainer.attention(weights, grad=np.einsum("bhid,bhjd->bhij", dout, v), layer=1, **tensors_of(m), **header_of(m))
        trainer.attention(weights, v=x.v, wo_r=factors.astype(np.float32), x_norm=np.abs(grown).astype(np.float32), layer=2,
                          **tensors_of(m), **header_of(m))
    attnd.settled(1 if m.offset else 3)
    live = [answer["heads"] for answer in attnd.call("live", job="job")]
    for metric, numbers in want.items():
        np.testing.assert_allclose(live[0][metric], numbers, rtol=2e-5, err_msg=metric)
    if not m.offset:
        np.testing.assert_allclose(live[1]["importance_gradient"], want["importance_gradient"], rtol=2e-5)
        assert not {"output_norm", "write_norm", "residual_share"} & set(live[1])
        for metric in ("output_norm", "norm_weighted_entropy", "write_norm", "residual_share"):
            np.testing.assert_allclose(live[2][metric], live[0][metric], rtol=2e-5, atol=1e-4, err_msg=metric)
    trainer.event("epoch_end")
    heads = reader.next()[1]["heads"]
    for metric, numbers in want.items():
        np.testing.assert_allclose(heads[metric]["mean"], numbers, rtol=2e-5, err_msg=metric)
        kept = wait_until(lambda: kept_of(attnd, metric), "the window in the history")
        np.testing.assert_allclose(np.ravel(kept["values"]["mean"]), numbers, rtol=2e-5, err_msg=metric)
    attnd.settled(3 - bool(m.offset))


def kept_of(attnd, metric):
    """What the history has of layer 0, or None."""
    try:
        return attnd.call("history", job="job", layer=0, metric=metric)
    except RuntimeError as error:
        assert str(error) in ("no_history", "job_unknown", "run_unknown")
        return None


def test_a_sample_or_a_slice_has_no_gradient_score(attnd, rng):
    x = vectors(rng)
    dout, factors = np.ones(x.q.shape[:3] + x.v.shape[3:]), np.ones((4, 2, x.v.shape[3]), np.float32)
    trainer = Trainer(attnd, "job")
    for layer, more in enumerate((dict(q_stride=2), dict(head_offset=0, heads_total=8), {})):
        send_qk(trainer, x, MASKS["none"], layer=layer, dout=dout, wo_r=factors, **more)
    attnd.settled(3)
    answers = [answer["heads"] for answer in attnd.call("live", job="job")]
    assert ["importance_gradient" in heads for heads in answers] == [False, False, True]
    assert all(None not in heads["write_norm"][:4] and "residual_share" not in heads for heads in answers)


def test_the_largest_logit_of_every_row_is_pooled(attnd, rng):
    m, reader, trainer = MASKS["causal"], Reader(attnd, "summary/"), Trainer(attnd, "job")
    rows = []
    for step in range(3):
        x = vectors(rng)
        send_qk(trainer, x, m, step=step)
        rows.append(np.where(visible(m)[:, None], logits_of(x), -np.inf).max(-1).transpose(1, 0, 2).reshape(4, -1))
    stats = of_window(reader, trainer)["heads"]["max_logit"]
    rows = np.concatenate(rows, 1)
    assert stats["count"] == [rows.shape[1]] * 4
    wanted = {"mean": rows.mean(1), "std": rows.std(1, ddof=1), "max": rows.max(1), "min": rows.min(1)}
    for stat, want in wanted.items():
        np.testing.assert_allclose(stats[stat], want, rtol=1e-5, atol=1e-5)


def test_without_values_there_is_no_output(attnd, rng):
    x = vectors(rng)._replace(v=None)
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "job")
    send_qk(trainer, x, MASKS["causal"])
    heads = reader.next()[1]["heads"]
    assert heads["max_logit"][0] is not None
    for name in ("output_norm", "norm_weighted_entropy"):
        assert heads.get(name, [None] * 4) == [None] * 4


def spectrum_numbers(s, eps, largest_side):
    """What follows from singular values; those that exist."""
    s = np.asarray(s)
    share = s[s > 0] / s.sum()
    return {"spectral_norm": s[0], "stable_rank": (s**2).sum() / s[0]**2, "nuclear_norm": s.sum(),
            "effective_rank": (s > 0.01 * s[0]).sum(), "rank": (s > s[0] * largest_side * eps).sum(),
            "effective_rank_entropy": np.exp(-(share * np.log(share)).sum()),
            "condition_number": np.log10(s[0] / s[-1])}


def vectors_of(x, m, tokens=None, **output):
    """What the reference takes, from the arrays that were sent."""
    as_torch = {name: torch.from_numpy(array) for name, array in
                dict(mask=m.mask, documents=m.documents, tokens=tokens).items() if array is not None}
    sent = {name: torch.from_numpy(as_f64(array)) for name, array in
            dict(q=x.q, k=x.k, v=x.v, **output).items()}
    return reference_qk.attention(sent, DTYPE_NAME[str(x.q.dtype)], x.scale, x.softcap, q_offset=m.offset,
                                  **header_of(m), **as_torch)


@pytest.mark.parametrize("name, dtype, softcap", [
    *((name, "f32", 0.0) for name in QK_MASKS), ("causal-lengths", "f32", 1.5), ("causal", "f64", 0.0),
    ("causal", "f16", 1.5), ("lengths", "bf16", 0.0)])
def test_every_number_of_queries_and_keys_is_right(rng, name, dtype, softcap):
    """With everything that needs their map, which is made by default."""
    attnd, m = Attnd(*ALL_ON), QK_MASKS[name]
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    x = vectors(rng, dtype, softcap, queries=LENGTH - m.offset)
    tokens = rng.integers(0, 4, (2, LENGTH)).astype(np.int32)
    output = dict(dout=ROUND[dtype](rng.normal(size=x.q.shape[:3] + x.v.shape[3:])),
                  wo_r=rng.normal(size=(4, 3, x.v.shape[3])).astype(np.float32),
                  x_norm=rng.integers(0, 5, (2, x.q.shape[2])).astype(np.float32))
    send_qk(trainer, x, m, tokens=tokens, **output)
    measured = [reference.measure(vectors_of(x, m, tokens, **output), EVERYTHING)]
    summary = of_window(reader, trainer)
    assert summary["tier"] == "qk" and {"aggregate", "top_pairs", "head_top_pairs", "similarity"} <= set(summary)
    assert wrong(summary, measured) == []


@pytest.mark.parametrize("budget, maps", [("32MiB", False), ("512MiB", True)])
def test_a_batch_whose_maps_take_too_much_memory_is_measured_without_them(rng, budget, maps):
    attnd, reader, trainer = observed(f"ingest.budget={budget}", "ingest.max_message=16MiB", topic="live/")
    q = rng.normal(size=(16, 8, 128, 8)).astype(np.float32)  # maps of 8 MiB
    trainer.qk(q, q, scale=0.3)
    live = reader.next()[1]
    assert ("aggregate" in live) == maps and live["rows"] == 16 * 8 * 128
    attnd.settled(1)


def test_one_sample_larger_than_the_bound_has_no_maps(rng):
    _, reader, trainer = observed(f"metrics.qk_maps_max_size={LENGTH - 1}", topic="live/")
    send_qk(trainer, vectors(rng), MASKS["none"])
    live = reader.next()[1]
    assert "aggregate" not in live and live["heads"]["entropy"][0] > 0


# --------------------------------------------------------------------------------------- tier weights

MODEL, HEAD_DIM = 8, 2


def projections(rng, dtype="f32"):
    """W_q, W_o of 4 heads, W_k, W_v of 2 key heads: square where all heads are together."""
    def make(*shape):
        return ROUND[dtype](rng.normal(size=shape))

    return dict(wq=make(8, MODEL), wk=make(4, MODEL), wv=make(4, MODEL), wo=make(MODEL, 8))


def slices(name, matrix):
    """The heads' parts of a matrix, f64."""
    matrix = as_f64(matrix)
    parts = matrix.shape[1 if name == "wo" else 0] // HEAD_DIM
    return np.split(matrix, parts, axis=1 if name == "wo" else 0)


def circuits(matrices):
    """Per head what it compares, W_q^T W_k, and what it writes, W_o W_v; four heads, two key heads."""
    parts = {name: slices(name, matrix) for name, matrix in matrices.items()}
    return {"wq_wk": [parts["wq"][h].T @ parts["wk"][h // 2] for h in range(4)],
            "wv_wo": [parts["wo"][h] @ parts["wv"][h // 2] for h in range(4)]}


def assert_spectrum(got, matrix, count, eps=2.0**-23):
    """`got` maps names to numbers; `count` singular values are not 0."""
    s = np.linalg.svd(matrix, compute_uv=False)[:count]
    np.testing.assert_allclose(got["singular_values"], s[:16], rtol=1e-3, atol=1e-5 * s[0])
    for name, want in spectrum_numbers(s, eps, max(matrix.shape)).items():
        assert got[name] == pytest.approx(want, rel=1e-3, abs=1e-3 if name == "condition_number" else 1e-8), name


def head_of(columns, h):
    return {name: column[h] for name, column in columns.items()}


@pytest.mark.parametrize("dtype", ("f32", "bf16") if SANITIZED else ROUND)
def test_projection_matrices_against_numpy(attnd, rng, dtype):
    matrices = projections(rng, dtype)
    reader, trainer = Reader(attnd, "live/", "summary/"), Trainer(attnd, "job")
    trainer.projections(**matrices, heads=4, kv_heads=2, head_dim=HEAD_DIM)
    live = reader.next()[1]
    assert (live["kind"], live["tier"], live["shape"]) == ("live", "weights", None)
    trainer.event("epoch_end")
    summary = reader.next()[1]
    assert summary["kind"] == "summary" and summary["weights"] == live["weights"]
    eps = 2.0**-52 if dtype == "f64" else 2.0**-23
    for name, matrix in matrices.items():
        got, exact = live["weights"][name], as_f64(matrix)
        assert_spectrum(got["whole"], exact, min(exact.shape), eps)
        moduli = np.abs(np.linalg.eigvals(exact)) if exact.shape[0] == exact.shape[1] else None
        for key, want in (("eigenvalue_min", np.min), ("eigenvalue_max", np.max)):
            expected = None if moduli is None else pytest.approx(want(moduli), rel=1e-6)
            assert got["whole"][key] == expected, (name, key)
        parts = slices(name, matrix)
        for h, part in enumerate(parts):
            assert_spectrum(head_of(got["heads"], h), part, HEAD_DIM, eps)
        flat = np.array([part.ravel() for part in parts])
        cosines = flat @ flat.T / np.outer(*[np.linalg.norm(flat, axis=1)] * 2)
        np.testing.assert_allclose(got["head_correlation"], cosines, atol=1e-6)
        assert got["head_correlation_mean"] == pytest.approx(cosines[np.triu_indices(len(parts), 1)].mean(), abs=1e-6)
    for name, products in circuits(matrices).items():
        for h, product in enumerate(products):
            assert_spectrum(head_of(live["weights"][name]["heads"], h), product, HEAD_DIM, eps)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_matrices_in_parts_are_those_of_the_whole(attnd, rng, dtype):
    """Three ranks: rows of all but W_o, of which they have columns; of W_k the last has none."""
    matrices, run = projections(rng, dtype), rng.bytes(16)
    sizes = {name: list(matrix.shape) for name, matrix in matrices.items()}
    given = dict(heads=4, kv_heads=2, head_dim=HEAD_DIM)
    reader, ranks = Reader(attnd, "live/"), [Trainer(attnd, "job", rank, 3, run) for rank in range(3)]
    for (first, last), (kv_first, kv_last), rank in zip([(0, 3), (3, 6), (6, 8)], [(0, 2), (2, 4), (4, 4)], ranks):
        parts = {name: matrix[kv_first:kv_last] for name, matrix in matrices.items() if name in ("wk", "wv")}
        parts = {name: part for name, part in parts.items() if len(part)}
        parts.update(wq=matrices["wq"][first:last], wo=np.ascontiguousarray(matrices["wo"][:, first:last]))
        begins = {"wq": [first, 0], "wk": [kv_first % 4, 0], "wv": [kv_first % 4, 0], "wo": [0, first]}
        rank.projections(**parts, **given, parts={name: sizes[name] + begins[name] for name in sizes})
    together = reader.next()[1]
    ranks[0].projections(**matrices, **given, step=1)
    whole = reader.next()[1]
    assert (together["step"], whole["step"]) == (0, 1) and together["weights"] == whole["weights"]
    stats = attnd.settled(4)
    assert (stats["processed"], stats["dropped"]) == (4, {})


def test_parts_that_do_not_become_whole_are_counted(attnd, rng):
    wq, run = projections(rng)["wq"], rng.bytes(16)
    first, second = (Trainer(attnd, "job", rank, 2, run) for rank in range(2))

    def send(trainer, step, begin):
        trainer.projections(wq=wq[begin:begin + 4], heads=4, head_dim=HEAD_DIM, parts={"wq": [8, MODEL, begin, 0]}, step=step)

    send(first, 0, 0)
    send(first, 1, 0)
    wait_until(lambda: attnd.stats()["received"] == 2, "the parts of the first rank")
    send(second, 1, 4)
    send(second, 2, 4)
    first.event("bye", step=2)
    second.event("bye", step=2)
    stats = attnd.settled(6)
    assert stats["dropped"] == {"incomplete": 2} and stats["received"] == stats["processed"] + 2
    (job,) = attnd.call("jobs")
    assert (job["dropped"], job["received"], job["processed"]) == ({"incomplete": 2}, 6, 4)


def test_some_matrices_only(attnd, rng):
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "job")
    trainer.projections(wq=projections(rng)["wq"], heads=4, kv_heads=2, head_dim=HEAD_DIM)
    assert set(reader.next()[1]["weights"]) == {"wq"}


def test_projections_and_attention_of_one_layer_share_a_window(attnd, rng):
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    trainer.attention(softmax(rng.normal(size=(2, 4, 6, 6)), np.ones((2, 6, 6), bool)))
    trainer.projections(**projections(rng), heads=4, kv_heads=2, head_dim=HEAD_DIM, step=1)
    summary = of_window(reader, trainer)
    assert summary["messages"] == 2 and summary["heads"]["entropy"]["count"] == [12] * 4
    assert summary["tier"] == "attention" and set(summary["weights"]) == {"wq", "wk", "wv", "wo", "wq_wk", "wv_wo"}


def test_the_newest_of_attention_and_of_projections_both_stay(attnd, rng):
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "job")
    given = dict(**projections(rng), heads=4, kv_heads=2, head_dim=HEAD_DIM)

    def newest(**where):
        return [(live["tier"], live["step"]) for live in attnd.call("live", job="job", **where)]

    trainer.projections(**given)
    reader.next()
    assert newest() == newest(tier="weights") == [("weights", 0)]  # the layer has no others
    weights = softmax(rng.normal(size=(2, 4, 6, 6)), np.ones((2, 6, 6), bool))
    trainer.attention(weights, step=1)
    reader.next()
    assert (newest(), newest(tier="weights")) == ([("attention", 1)], [("weights", 0)])
    trainer.projections(**given, step=2)
    reader.next()
    assert (newest(), newest(tier="weights")) == ([("attention", 1)], [("weights", 2)])
    late = Reader(attnd, "live/")
    assert sorted((late.next()[1]["tier"], late.next()[1]["tier"])) == ["attention", "weights"]
    Trainer(attnd, "job").attention(weights, step=3)  # of another run
    wait_until(lambda: newest() == [("attention", 3)], "the other run")
    assert newest(run=trainer.run.hex()) == [("attention", 1)]
    assert newest(run=trainer.run.hex(), tier="weights") == [("weights", 2)]
    with pytest.raises(RuntimeError, match="argument"):
        newest(tier="qk")


def test_a_matrix_with_a_nan_has_no_numbers_and_the_others_have(attnd, rng):
    matrices = projections(rng)
    matrices["wk"][1, 1] = np.nan
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "job")
    trainer.projections(**matrices, heads=4, kv_heads=2, head_dim=HEAD_DIM)
    weights = reader.next()[1]["weights"]
    assert weights["wk"]["whole"]["spectral_norm"] is None and weights["wk"]["whole"]["singular_values"] == []
    assert weights["wq_wk"]["heads"]["spectral_norm"] == [None] * 4
    assert_spectrum(weights["wq"]["whole"], as_f64(matrices["wq"]), 8)
    assert_plain(weights)


# ---------------------------------------------------------------------------- what is switched on and off

# group -> keys of a result: (place, name)
GROUP_KEYS = {
    "core": {("heads", "entropy"), ("heads", "pattern"), ("heads", "variance"), ("aggregate", "sum")},
    "importance": {("heads", "importance"), ("aggregate", "importance")},
    "pairs": {(None, "top_pairs")},
    "spectrum": {(None, "spectrum")},
    "similarity": {(None, "similarity")},
}


def groups_in(result):
    """The groups whose keys are all there; a group must be there or gone as a whole."""
    there = set()
    for group, keys in GROUP_KEYS.items():
        found = {name in (result if place is None else result.get(place, {})) for place, name in keys}
        if group == "importance" and "core" not in there:
            found = {"importance" in result["heads"]}  # its map is one of core's
        assert len(found) == 1, (group, result)
        there |= {group} if found.pop() else set()
    return there


def one_message(attnd, job, rng):
    """A live result and a summary of one random message."""
    reader, trainer = Reader(attnd, f"live/{job}/", f"summary/{job}/"), Trainer(attnd, job)
    trainer.attention(softmax(rng.normal(size=(2, HEADS, 8, 8)), np.ones((2, 8, 8), bool)))
    live = news(reader)[1]
    return live, of_window(reader, trainer)


def test_a_group_can_be_switched(rng):
    default = set(GROUP_KEYS) - {"similarity"}
    attnd = Attnd("metrics.pairs=false", "metrics.similarity=true")
    assert [groups_in(result) for result in one_message(attnd, "job", rng)] == [set(GROUP_KEYS) - {"pairs"}] * 2
    attnd.close()
    attnd = Attnd(config="jobs:\n" + "".join(f"  {group}: {{{group}: {str(group not in default).lower()}}}\n" for group in GROUP_KEYS))
    for group in GROUP_KEYS:
        assert [groups_in(result) for result in one_message(attnd, group, rng)] == [default ^ {group}] * 2


def test_jobs_have_groups_of_their_own(rng):
    attnd = Attnd(config="""
metrics: {pairs: false}
jobs:
  'quiet-*': {spectrum: false, importance: false}
  '*-curious': {similarity: true, pairs: true, head_pairs: true, top_pairs: 3}
""")
    usual = one_message(attnd, "plain", rng)
    assert [groups_in(result) for result in usual] == [{"core", "importance", "spectrum"}] * 2
    assert [groups_in(result) for result in one_message(attnd, "quiet-curious", rng)] == [{"core"}] * 2
    curious = one_message(attnd, "very-curious", rng)
    assert [groups_in(result) for result in curious] == [set(GROUP_KEYS)] * 2
    assert all(len(r["top_pairs"]) == 3 and [len(p) for p in r["head_top_pairs"]] == [3] * HEADS for r in curious)
    again = one_message(attnd, "plain-too", rng)
    assert [groups_in(result) for result in again] == [{"core", "importance", "spectrum"}] * 2


def test_the_local_window_is_that_of_the_config(rng):
    _, reader, trainer = observed("metrics.local_window=2", topic="live/")
    trainer.attention(np.full((1, 1, 9, 9), 1 / 9))
    keys = [3, 4, 5, 5, 5, 5, 5, 4, 3]
    assert reader.next()[1]["heads"]["local_mass"] == pytest.approx([np.mean(keys) / 9])


# -------------------------------------------------------------------------------- the spectrum's budget

SIZE, MANY = 160, 6


def big_maps(rng):
    return softmax(rng.normal(size=(1, MANY, SIZE, SIZE)), np.ones((1, SIZE, SIZE), bool)).astype(np.float32)


def test_under_a_budget_heads_take_turns_and_rows_are_never_late(rng):
    """A budget that one head uses up: every message has all row metrics, and within some messages every head had
    its turn."""
    _, reader, trainer = observed("metrics.spectrum_budget=1ms", "workers.threads=1", topic="live/")
    covered, partly = np.zeros(MANY, int), 0
    for step in range(8 * MANY):
        trainer.attention(big_maps(rng), step=step)
        live = reader.next()[1]
        assert None not in live["heads"]["entropy"] and live["rows"] == MANY * SIZE
        has = np.array([x is not None for x in live["spectrum"]["spectral_norm"]])
        assert has.any(), "somebody has a turn with every message"
        partly += not has.all()
        covered += has
        if (covered > 1).all():
            break
    assert (covered > 1).all() and partly > 0, covered
    assert max(covered) <= 2 * min(covered) + 1, "turns are fair"


def test_turns_go_on_across_other_tiers_and_slices(rng):
    """Neither a message without spectra nor another rank's slice sends a layer back to its first head."""
    attnd = Attnd("metrics.spectrum_budget=1ms", "workers.threads=1")
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "whole")
    ranks = [Trainer(attnd, "sliced", rank=rank, world=2) for rank in range(2)]
    whole, sliced = np.zeros(MANY, int), np.zeros(MANY, int)
    wq = np.eye(4, dtype=np.float32).repeat(MANY, 0)
    for step in range(4 * MANY):
        trainer.projections(wq=wq, heads=MANY, head_dim=4, step=step)
        trainer.attention(big_maps(rng), step=step)
        for rank, at in enumerate((0, MANY // 2)):
            ranks[rank].attention(big_maps(rng)[:, at:at + MANY // 2], head_offset=at, heads_total=MANY, step=step)
        for _ in range(4):
            live = reader.next()[1]
            if "spectrum" in live:
                has = [x is not None for x in live["spectrum"]["spectral_norm"]]
                (whole if live["job"] == "whole" else sliced)[has] += 1
        if whole.all() and sliced.all():
            break
    assert whole.all() and sliced.all(), (whole, sliced)


def test_the_last_spectrum_of_a_head_stays_until_its_next_turn(rng):
    attnd = Attnd("metrics.spectrum_budget=1ms", "workers.threads=1")
    live, summaries, trainer = Reader(attnd, "live/"), Reader(attnd, "summary/"), Trainer(attnd, "job")
    for step in range(2 * MANY):
        trainer.attention(big_maps(rng), step=step)
        live.next()
    norm = of_window(summaries, trainer)["spectrum"]["spectral_norm"]
    assert [x is not None for x in norm["last"]] == [count > 0 for count in norm["count"]]
    assert sum(count > 0 for count in norm["count"]) > 1


def test_without_a_budget_every_head_has_everything_every_time(rng):
    _, reader, trainer = observed("metrics.spectrum_budget=0", "metrics.spectrum_effort=eigenvalues", "workers.threads=2")
    for step in range(4):
        trainer.attention(big_maps(rng), step=step)
    spectrum = of_window(reader, trainer)["spectrum"]
    for name in ("spectral_norm", "effective_rank_entropy", "eigenvalue_2", "rank"):
        assert spectrum[name]["count"] == [4] * MANY
    assert spectrum["singular_values"]["count"] == [[4] * 16] * MANY


@pytest.mark.parametrize("effort, missing", [("norm", {"singular_values", "rank", "eigenvalue_2"}),
                                             ("leading", {"rank", "eigenvalue_2"}), ("full", {"eigenvalue_2"}),
                                             ("eigenvalues", set())])
def test_the_effort_says_which_numbers_there_are(rng, effort, missing):
    _, reader, trainer = observed("metrics.spectrum_budget=0", f"metrics.spectrum_effort={effort}", topic="live/")
    weights = big_maps(rng)
    trainer.attention(weights)
    spectrum = reader.next()[1]["spectrum"]
    s = np.linalg.svd(as_f64(weights)[0], compute_uv=False)
    np.testing.assert_allclose(spectrum["spectral_norm"], s[:, 0], rtol=1e-4)
    np.testing.assert_allclose(spectrum["stable_rank"], (s**2).sum(1) / s[:, 0]**2, rtol=1e-4)
    empty = {name for name in ("singular_values", "rank", "eigenvalue_2")
             if all(x is None or x == [] for x in spectrum.get(name, []))}
    assert empty == missing
    if effort != "norm":
        np.testing.assert_allclose(spectrum["singular_values"], s[:, :16], rtol=1e-3)


# -------------------------------------------------------------------------------------------- hostile

def assert_plain(result):
    """Every number is finite or null: it can be written as JSON."""
    json.dumps({k: v for k, v in result.items() if not isinstance(v, bytes)}, allow_nan=False)


def test_queries_and_keys_that_are_not_finite(attnd, rng):
    reader, trainer = Reader(attnd, "live/", "summary/"), Trainer(attnd, "job")
    fills = [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0.0]
    for fill in fills:
        for where in ("q", "k", "v"):
            x = vectors(rng)
            getattr(x, where)[0, 0, 3] = fill
            send_qk(trainer, x, MASKS["causal"])
    trainer.event("epoch_end")
    for _ in range(len(fills) * 3 + 1):
        _, result = reader.next()
        assert_plain(result)
        assert result["rows"] + result["invalid_rows"] == 2 * 4 * LENGTH * result.get("messages", 1)
    attnd.settled(len(fills) * 3 + 1)


def test_a_nan_costs_the_rows_that_see_it_and_no_others(attnd, rng):
    x = vectors(rng)
    x.k[0, 1, 8, 2] = np.nan  # read by heads 2 and 3 of sample 0, queries 8 to 11
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "job")
    send_qk(trainer, x, MASKS["causal"])
    _, live = reader.next()
    assert live["invalid_rows"] == 2 * 4 and live["rows"] == 2 * 4 * LENGTH - 8
    finite = x._replace(k=np.nan_to_num(x.k))
    rows = softmax(logits_of(finite), visible(MASKS["causal"]))
    kept = np.concatenate([rows[0, 3, :8, 0], rows[1, 3, :, 0]])[[i for i in range(20) if i not in (0, 8)]]
    assert live["heads"]["first_token"][3] == pytest.approx(kept.mean(), rel=1e-5)


@pytest.mark.parametrize("kind", ["attention", "qk"])
def test_messages_in_which_no_row_counts(attnd, rng, kind):
    reader, trainer = Reader(attnd, "live/", "summary/"), Trainer(attnd, "job")
    nothing = [Masks(mask=np.zeros((2, LENGTH, LENGTH), np.uint8)), Masks(q_len=[0, 0], k_len=[0, 0]),
               Masks(q_len=[LENGTH] * 2, k_len=[0, 0])]
    for m in nothing:
        if kind == "qk":
            send_qk(trainer, vectors(rng), m)
        else:
            trainer.attention(np.full((2, 4, LENGTH, LENGTH), np.nan, np.float32), **tensors_of(m), **header_of(m))
    trainer.event("epoch_end")
    for _ in range(len(nothing) + 1):
        _, result = reader.next()
        assert_plain(result)
        assert result["rows"] == 0
        pattern = result["heads"]["pattern"]
        assert (pattern if result["kind"] == "live" else pattern["last"]) == [None] * 4
        entropy = result["heads"]["entropy"]
        assert (entropy if result["kind"] == "live" else entropy["mean"]) == [None] * 4
    attnd.settled(len(nothing) + 1)


@pytest.mark.parametrize("heads, length", [(1, 1), (1, 5), (4, 1)])
def test_the_smallest_messages(heads, length):
    attnd, reader, trainer = observed("metrics.spectrum_budget=0", topic="live/")
    weights = np.full((1, heads, length, length), 1 / length, np.float32)
    trainer.attention(weights, layer=0)
    ones = np.ones((1, heads, length, 1), np.float32)
    trainer.qk(ones, ones, ones, scale=1.0, layer=1)
    of_map, of_qk = next_by_layer(reader, 2)
    for live in (of_map, of_qk):
        assert_plain(live)
        assert live["heads"]["confidence"] == pytest.approx([1 / length] * heads)
        assert live["heads"]["entropy"] == pytest.approx([math.log(length)] * heads, abs=1e-6)
        if length == 1:
            assert live["heads"]["entropy_normalized"] == live["heads"]["first_token"] == [None] * heads
    assert of_map["spectrum"]["spectral_norm"] == pytest.approx([1] * heads)
    assert of_qk["heads"]["max_logit"] == [1] * heads
    attnd.settled(2)


def test_projections_keep_nobody_waiting(rng):
    """Their spectra take long; rows that come later are measured meanwhile."""
    _, reader, trainer = observed("workers.threads=2", topic="live/")
    wq = rng.normal(size=(320, 320)).astype(np.float32)
    for layer in range(3):
        trainer.projections(wq=wq, wk=wq, wv=wq, heads=8, head_dim=40, layer=layer)
    trainer.attention(np.full((1, 2, 16, 16), 1 / 16, np.float32), layer=9)
    layers = [reader.next()[1]["layer"] for _ in range(4)]
    assert layers.index(9) <= 1, "at most the first one may have been done already"


def test_projections_without_spectra(rng):
    _, reader, trainer = observed("metrics.spectrum=false", topic="live/")
    trainer.projections(wq=rng.normal(size=(8, 8)), heads=2, head_dim=4)
    wq = reader.next()[1]["weights"]["wq"]
    assert wq["head_correlation"][0][0] == pytest.approx(1)
    assert wq["whole"]["spectral_norm"] is None and wq["heads"]["spectral_norm"] == [None, None]


def test_logits_at_the_edge_of_f16(attnd):
    """The largest f16 as queries, keys and logits: no row is lost, and a row that is all on one key is that."""
    edge = np.float16(65504)
    q = np.zeros((1, 1, 4, 2), np.float16)
    k = np.zeros((1, 1, 4, 2), np.float16)
    q[..., 0], k[0, 0, :, 0] = 1, [edge, -edge, 0, edge / 2]
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "job")
    trainer.qk(q, k, k, scale=1.0, layer=0)
    trainer.qk(q * edge, k, k, scale=1.0, layer=1)
    for live in next_by_layer(reader, 2):
        largest = 65504.0 if live["layer"] == 0 else 65504.0**2
        assert_plain(live)
        assert (live["rows"], live["invalid_rows"]) == (4, 0)
        assert live["heads"]["max_logit"] == pytest.approx([largest]) and live["heads"]["confidence"] == [1]
        assert live["heads"]["max_abs_logit"] == pytest.approx([largest]) and live["heads"]["entropy"] == [0]
        assert live["heads"]["first_token"] == [1]


def test_attention_at_the_edges_of_its_dtypes(attnd):
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "job")
    edges = {"f16": [65504, 6e-8, -65504, np.inf], "bf16": [3e38, 1e-40, -3e38, np.nan],
             "f32": [3e38, 1e-45, -3e38, np.inf], "f64": [1e308, 5e-324, -1e308, np.nan]}
    for dtype, values in edges.items():
        for value, flags in itertools.product(values, (dict(), dict(dropout=True), dict(learned_sink=True))):
            with np.errstate(over="ignore"):
                trainer.attention(ROUND[dtype](np.full((1, 2, 3, 3), value)), **flags)
            _, live = reader.next()
            assert_plain(live)
            assert live["rows"] + live["invalid_rows"] == 6
    attnd.settled(sum(map(len, edges.values())) * 3)


def test_counters_hold_over_all_tiers(rng):
    attnd = Attnd("limits.heads=8")
    trainer = Trainer(attnd, "job")
    weights = softmax(rng.normal(size=(2, 4, 6, 6)), np.ones((2, 6, 6), bool))
    for step in range(20):
        trainer.attention(weights, layer=0, step=step)
        send_qk(trainer, vectors(rng), MASKS["causal"], layer=1, step=step)
        trainer.projections(**projections(rng), heads=4, kv_heads=2, head_dim=HEAD_DIM, layer=2, step=step)
    send_qk(trainer, vectors(rng, heads=16), MASKS["causal"], layer=3)
    trainer.qk(*vectors(rng)[:3], layer=4)  # no scale
    stats = attnd.settled(62)
    assert stats["processed"] == 60 and stats["dropped"] == {"heads_limit": 1, "key_missing": 1}


# ------------------------------------------------------------------------------------- instruction sets

def isa_is_there(isa, directory):
    """Whether this machine has it: the daemon does not start with what it does not have."""
    words = [ATTND, "--address", directory, "--set", f"workers.isa={isa}", "--set", f"history.path={directory}/history.db"]
    with subprocess.Popen([*words, "--set", "http.enabled=false"], stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: process.poll() is not None or os.path.exists(f"{directory}/control"), "a start, or a refusal")
        there = process.poll() is None
        process.kill()
    return there


@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_gives_the_same_numbers(rng, tmp_path, isa):
    if not isa_is_there(isa, tmp_path):
        pytest.skip(f"this machine has no {isa}")
    attnd = Attnd(*ALL_ON, f"workers.isa={isa}", "workers.block_entries=4096")
    assert attnd.call("config")["workers.isa"] == isa
    reader, trainer = Reader(attnd, "summary/"), Trainer(attnd, "job")
    m, expected = MASKS["causal-lengths"], []
    for layer, dtype in enumerate(ROUND):
        weights = ROUND[dtype](softmax(random_logits(rng), visible(m)))
        trainer.attention(weights, layer=layer, **header_of(m))
        expected.append(reference.measure(attention_of(weights, m), EVERYTHING))
    x = vectors(rng, softcap=2.0)
    send_qk(trainer, x, m, layer=8)
    expected.append(reference.measure(vectors_of(x, m), EVERYTHING))
    trainer.event("epoch_end")
    summaries = next_by_layer(reader, len(expected))
    assert [wrong(summary, [measured]) for summary, measured in zip(summaries, expected)] == [[]] * len(expected)


def test_an_instruction_set_that_is_none_is_refused(tmp_path):
    assert not isa_is_there("mmx", tmp_path) and isa_is_there("auto", tmp_path)
