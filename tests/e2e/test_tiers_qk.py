# SPDX-License-Identifier: MIT
"""Every number of the tiers qk and weights through the daemon, against the reference and numpy, and tier against tier on the
same data; numbers that are not finite, in all tiers."""
import itertools
import math

import numpy as np
import pytest
from harness import SANITIZED, Attnd, Reader, Trainer, as_f64, observed, ranks_of, wait_until
from tiers import (ALL_ON, EVERYTHING, LENGTH, MASKS, QK_MASKS, ROUND, Masks, assert_plain, differences, header_of,
                   logits_of, next_by_layer, of_head, of_window, send_qk, softmax, tensors_of, vectors, vectors_of,
                   visible, wrong)

import reference


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
        kept = wait_until(lambda: attnd.call("history", job="job", layer=0, metric=metric), "the window in the history")
        np.testing.assert_allclose(np.ravel(kept["values"]["mean"]), numbers, rtol=2e-5, err_msg=metric)
    attnd.settled(3 - bool(m.offset))


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
    matrices = projections(rng, dtype)
    sizes = {name: list(matrix.shape) for name, matrix in matrices.items()}
    given = dict(heads=4, kv_heads=2, head_dim=HEAD_DIM)
    reader, ranks = Reader(attnd, "live/"), ranks_of(attnd, 3)
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
