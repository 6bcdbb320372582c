# SPDX-License-Identifier: MIT
"""Similarity of heads, weighted maps, the gradient score, each head's top pairs and what heads make of values,
computed a second time in float64 from the formulas of workers/KERNELS.md and not from the C code (formulas.py).

Each case is one message, run by every instruction set that is here, as one block or cut at random rows. The
scalar reference is held to TIGHT, the others to LOOSE (1e-5 of the largest value involved, 1e-5 nats); counts
and the places of the top pairs must be the same everywhere. ACROSS_CLI names the executable."""

import os
import zlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import cases
import formulas
from cases import plain, set_mask, softmax_rows, title
from driver import DTYPES, case_arguments, close, csv, decode, encode, instruction_sets, run_json, write

CLI = os.environ.get("ACROSS_CLI", "")
TIGHT, LOOSE = 1e-12, 1e-5
BOUND = 0.1


@dataclass
class Case(cases.Case):
    """`grad` is float64, as the weights are, before it is rounded to its dtype."""

    grad: np.ndarray = None
    grad_dtype: str = "f32"
    head_weights: np.ndarray = None
    v: np.ndarray = None
    v_dtype: str = "f32"
    wo_r: np.ndarray = None
    x_norm: np.ndarray = None
    limit: int = 10


# running the C code


def arguments(case, folder, cuts):
    files = {"weights": encode(case.weights, case.dtype), "head_weights": case.head_weights}
    if case.grad is not None:
        files["grad"] = encode(case.grad, case.grad_dtype)
    if case.v is not None:
        files.update(v=encode(case.v, case.v_dtype), wo_r=case.wo_r, x_norm=case.x_norm)
    args = [f"dtype={case.dtype}", f"grad_dtype={case.grad_dtype}", f"shape={csv(case.weights.shape)}"]
    for name, content in files.items():
        if content is not None:
            args.append(write(folder, name, content))
    if case.v is not None:
        args += [f"v_dtype={case.v_dtype}",
                 f"dims={csv((case.v.shape[1], case.v.shape[3], 0 if case.wo_r is None else case.wo_r.shape[1]))}"]
    numbers = ("causal", "window", "q_offset", "dropout", "learned_sink", "limit", "offset")
    return args + [f"bound={BOUND}", *case_arguments(case, folder, cuts, numbers)]


def run_cli(case, folder, isa, cuts):
    return run_json([CLI, f"isa={isa}", *arguments(case, folder, cuts)])


# the truth


def similarity(message, judged):
    """Cosine, js and rows, [H, H]."""
    has = judged.sound
    if message.dropout:
        has = has & (judged.A.clamp(min=0).sum(-1) > 0)
    counts = has.double().transpose(0, 1).flatten(1)
    found = formulas.heads.similarity(message, judged, BOUND)
    return found["head_similarity"], found["head_js"], (counts @ counts.T).numpy()


def weighted_map(case, a):
    """[mean, max, min, std], how many entries, and what their errors are measured by."""
    part = np.isfinite(case.head_weights) & (case.head_weights != 0)
    x = formulas.heads.weighted_map(formulas.attention(case, a).weights, case.head_weights).numpy()
    terms = a[:, part] * case.head_weights[part][None, :, None, None]
    terms = terms[np.isfinite(terms)]
    return formulas.statistics(x), int(np.isfinite(x).sum()), np.abs(terms).max(initial=0) * part.sum() or 1


def check_outputs(got, want, tolerance, isa):
    tight = isa == "scalar"
    for h, moments in enumerate(got):
        for name, one in zip(("output_norm", "norm_weighted_entropy", "write_norm", "residual_share"), moments):
            if name not in want:
                assert one[0] == 0
                continue
            values, there, size = (np.broadcast_to(x, want[name][1].shape)[:, h] for x in want[name])
            values, size = values[there], size[there]
            assert one[0] == values.size, f"{name} {isa}: {one[0]} values, want {values.size}"
            if not values.size:
                continue
            scale = max(size.max(), 1e-300)
            loose = 1e-4 if name == "norm_weighted_entropy" else tolerance
            close(f"{name} {isa}", [one[1], *one[3:]], [values.mean(), values.min(), values.max()],
                  tolerance if tight else loose, scale)
            if 1e-140 < scale < 1e140:  # else moments have no room for squares
                std = values.std(ddof=1) if values.size > 1 else np.nan
                close(f"{name} std {isa}", one[2], std, 1e-9 if tight else 1e-4, scale)


def head_pairs(a, unpadded, limit):
    finite = np.isfinite(a) & unpadded[:, None]
    total = np.zeros(a.shape[1:])
    for b in range(a.shape[0]):
        total = total + np.where(finite[b], a[b], 0)
    count = finite.sum(0)
    result = []
    for h in range(a.shape[1]):
        entries = [(-(total[h, i, j] / count[h, i, j]), int(i), int(j)) for i, j in zip(*np.nonzero(count[h]))]
        result.append([(i, j, -w) for w, i, j in sorted(entries)[:limit] if np.isfinite(w)])
    return result


def truth(case):
    a = decode(encode(case.weights, case.dtype), case.dtype)
    message = formulas.attention(case, a)
    judged = formulas.rows.judge(message)
    cosine, js, rows = similarity(message, judged)
    found = {"cosine": cosine, "js": js, "rows": rows, "pairs": head_pairs(a, formulas.shown(case), case.limit)}
    if case.head_weights is not None:
        found["map"], found["map_n"], found["map_scale"] = weighted_map(case, a)
    if case.grad is not None:
        grad = decode(encode(case.grad, case.grad_dtype), case.grad_dtype)
        found["score"] = formulas.heads.gradient_scores(message._replace(grad=torch.from_numpy(grad)), judged)
    if case.v is not None:
        v = decode(encode(case.v, case.v_dtype), case.v_dtype)
        wo_r, x_norm = (None if x is None else x.astype(float) for x in (case.wo_r, case.x_norm))
        found["outputs"] = formulas.outputs(a, v, wo_r, x_norm, judged.seen[:, 0].numpy(), judged.sound.numpy())
    return found


# comparing

def compare(case, got, want, isa):
    tight = isa == "scalar"
    tolerance = TIGHT if tight else LOOSE
    heads = case.weights.shape[1]
    for name in ("cosine", "js", "rows"):
        square = np.reshape(np.array(got[name], float), (heads, heads))
        np.testing.assert_array_equal(square, square.T)
        close(f"{name} {isa}", square, want[name], 0 if name == "rows" else tolerance)
    diagonal = np.diag(np.reshape(np.array(got["js"], float), (heads, heads)))
    assert np.isnan(diagonal[diagonal != 0]).all()
    if case.head_weights is not None:
        assert got["map_n"] == want["map_n"]
        # a map of denormals alone is below what f32 lanes can tell apart
        scale = want["map_scale"] if tight else max(want["map_scale"], 1e-30)
        close(f"map {isa}", got["map"][:3], want["map"][:3], tolerance, scale)
        # a std is half as exact as a variance where the variance is nearly 0
        close(f"map std {isa}", got["map"][3], want["map"][3], 1e-9 if tight else LOOSE, scale)
    if case.grad is not None:
        close(f"score {isa}", got["score"], want["score"], tolerance, want["score"])
        check_norm(got["gradient"], np.array(got["score"]))
    if tight or case.dtype != "f64":
        assert [[p[:2] for p in one] for one in got["pairs"]] == [[list(p[:2]) for p in one] for one in want["pairs"]]
    for one, other in zip(got["pairs"], want["pairs"]):
        assert len(one) == len(other)
        close("pairs", [p[2] for p in one], [p[2] for p in other], 0)
    check_redundant(got, heads)
    check_outputs(got["outputs"], want.get("outputs", {}), tolerance, isa)


def check_norm(got, score):
    norm = np.sqrt(((score / max(score.max(), 1e-300)) ** 2).sum()) * score.max()
    if np.isfinite(norm) and norm > 0:
        close("gradient", got, score / norm, TIGHT)
    else:
        assert np.isnan(got).all()


def check_redundant(got, heads):
    """Consistent with the js that was printed."""
    js = np.reshape(np.array(got["js"], float), (heads, heads))
    below = sorted((js[g, h], g, h) for g in range(heads) for h in range(g + 1, heads) if js[g, h] < BOUND)
    assert got["redundant_count"] == len(below)
    assert got["redundant"] == [[g, h] for _, g, h in below[:3]]


def check(case, folder):
    want = truth(case)
    for turn, isa in enumerate(available_isas):
        both = ([], case.cuts)
        for cuts in both if isa == "scalar" else both[(turn + case.offset) % 2 :][:1]:
            compare(case, run_cli(case, folder, isa, cuts), want, isa)


# the cases

SHAPES = [(1, 1, 1, 1), (2, 3, 1, 1), (1, 1, 2, 2), (1, 2, 3, 3), (2, 1, 1, 5), (1, 2, 5, 1), (1, 3, 7, 7),
          (2, 2, 16, 16), (3, 2, 17, 17), (1, 12, 33, 33), (2, 3, 6, 11), (2, 3, 11, 6), (1, 5, 65, 65),
          (4, 1, 31, 31), (1, 9, 9, 130), (1, 2, 96, 96), (1, 7, 3, 2300)]
MASKS = ["full", "causal", "lengths", "causal lengths offset", "window", "causal window", "explicit", "documents",
         "causal lengths window explicit", "nothing"]


def alike(noise):
    """Heads that are the same head, or nearly."""

    def fill(case, rng):
        batch, _, queries, keys = case.weights.shape
        one = rng.normal(0, 2, (batch, 1, queries, keys))
        return softmax_rows(case, one + noise * rng.normal(0, 1, case.weights.shape))

    return fill


def disjoint(case, rng):
    """Even heads look at even keys, odd ones at odd keys: js = ln 2."""
    heads, keys = case.weights.shape[1], case.weights.shape[3]
    own = (np.arange(heads)[:, None] + np.arange(keys)[None, :]) % 2 == 0
    x = plain(case, rng) * own[None, :, None, :]
    with np.errstate(all="ignore"):
        return np.nan_to_num(x / x.sum(-1, keepdims=True))


def huge(case, rng):
    top = {"f32": 3e38, "f64": 1e300, "f16": 6e4, "bf16": 3e38}[case.dtype]
    return np.where(rng.random(case.weights.shape) < 0.01, top * rng.random(case.weights.shape), plain(case, rng))


def dropped(case, rng):
    case.dropout = True
    x = plain(case, rng)
    x = np.where(rng.random(x.shape) < 0.1, 0, x / 0.9)
    x[rng.random(x.shape[:3]) < 0.1] = 0  # nothing left of the row
    return x


def dropped_huge(case, rng):
    case.dropout = True
    top = {"f32": 1e25, "f64": 1e100, "f16": 6e4, "bf16": 1e25}[case.dtype]
    return plain(case, rng) * np.where(rng.random(case.weights.shape[:3]) < 0.3, top, 1)[..., None]


USUAL = ("plain", "sharp", "uniform", "one_hot", "tied", "denormal", "nan_rows", "nan_entries", "infinities", "wrong_sums",
         "negative", "padded_nan", "padded_inf", "learned_sink")
DISTRIBUTIONS = {
    **{name: cases.DISTRIBUTIONS[name] for name in USUAL}, "identical": alike(0), "nearly": alike(1e-4),
    "similar": alike(0.1), "disjoint": disjoint, "huge": huge, "dropout": dropped, "dropped_huge": dropped_huge,
}


def set_gradient(case, rng):
    case.grad_dtype = str(rng.choice(DTYPES))
    case.grad = rng.normal(0, 1e-3, case.weights.shape)
    kind = rng.integers(0, 5)
    if kind == 0:
        case.grad[rng.random(case.grad.shape) < 0.02] = np.nan
        case.grad[rng.random(case.grad.shape) < 0.02] = np.inf
    if kind == 1:
        case.grad[:] = 0
    if kind == 2 and case.grad_dtype != "f16":
        case.grad *= 1e38


def set_head_weights(case, rng):
    heads = case.weights.shape[1]
    weights = rng.dirichlet(np.ones(heads))
    kind = rng.integers(0, 6)
    if kind == 0:
        weights[rng.random(heads) < 0.5] = 0
    if kind == 1:
        weights[rng.random(heads) < 0.5] = np.nan
    if kind == 2:
        weights = rng.normal(0, 1, heads)
    if kind == 3:
        weights *= float(rng.choice([1e-60, 1e-30, 1e30, 1e60]))
    case.head_weights = weights


def set_values(case, rng):
    batch, heads, queries, keys = case.weights.shape
    groups = [n for n in range(1, heads + 1) if heads % n == 0]
    case.v_dtype = str(rng.choice(DTYPES))
    dim = int(rng.choice([1, 3, 16, 65]))
    case.v = rng.normal(0, 1, (batch, int(rng.choice(groups)), keys, dim))
    per_key, top = case.v.shape[:3] + (1,), {"f32": 1e38, "f64": 1e300, "f16": 6e4, "bf16": 1e38}[case.v_dtype]
    kind = rng.integers(0, 8)
    if kind == 0:
        case.v[rng.random(case.v.shape) < 0.3 / keys] = np.nan
        case.v[rng.random(case.v.shape) < 0.3 / keys] = rng.choice([np.inf, -np.inf])
    if kind == 1:
        case.v[:] = 0
    if kind == 2:
        case.v *= rng.random(per_key) < 0.5
    if kind == 3:  # some so long that beside them the others vanish in f32
        case.v *= np.where(rng.random(per_key) < 0.2, top / 100, 1)
    if kind == 4:
        case.v /= top
    if kind == 5:
        case.v[:] = case.v[:, :, :1]
    if rng.random() < 0.7:
        case.wo_r = rng.normal(0, 1, (heads, int(rng.integers(1, dim + 1)), dim)).astype(np.float32)
        case.wo_r *= rng.choice([1, 1, 1e-30, 1e30], (heads, 1, 1)).astype(np.float32)
        case.wo_r[rng.random(heads) < 0.1] = np.nan
        if rng.random() < 0.7:
            case.x_norm = rng.choice([1, 2.5, 0, -1, np.nan, np.inf, 1e-20, 30], (batch, queries)).astype(np.float32)


def build(shape, dtype, mask, distribution):
    rng = np.random.default_rng(zlib.crc32(repr((shape, dtype, mask, distribution)).encode()))
    case = Case(np.zeros(shape), dtype, is_self=shape[2] == shape[3] or mask == "documents")
    set_mask(case, mask, rng)
    case.weights = DISTRIBUTIONS[distribution](case, rng)
    if rng.random() < 0.8:
        set_gradient(case, rng)
    if rng.random() < 0.9:
        set_head_weights(case, rng)
    if rng.random() < 0.8:
        set_values(case, rng)
    case.limit = int(rng.choice([1, 3, 10, 100]))
    case.offset = int(rng.integers(0, 8))
    case.cuts = sorted(int(c) for c in rng.integers(0, shape[2] + 1, rng.integers(1, 6)))
    return case


available_isas = instruction_sets(CLI)


def test_the_reference_is_there():
    assert "scalar" in available_isas


@pytest.mark.parametrize("cell", cases.grid(SHAPES, MASKS, tuple(DISTRIBUTIONS), strided=()), ids=title)
def test_case(cell, tmp_path):
    check(build(*cell), tmp_path)


def analytic(weights, folder, **more):
    case = Case(np.asarray(weights, float), "f64", **more)
    return [run_cli(case, folder, isa, []) for isa in available_isas]


def test_one_head_is_like_itself(tmp_path):
    for got in analytic(np.full((1, 1, 4, 4), 0.25), tmp_path):
        assert got["cosine"] == [1] and got["js"] == [0] and got["redundant_count"] == 0


def test_opposite_heads(tmp_path):
    one, other = np.eye(4), np.eye(4)[::-1]
    for got in analytic([[one, other]], tmp_path):
        assert abs(got["cosine"][1]) < 1e-30
        assert abs(got["js"][1] - np.log(2)) < 1e-6


def test_a_uniform_head_and_a_one_hot_head(tmp_path):
    """js of (1, 0) and (1/2, 1/2): 3/4 ln(4/3); cosine 1/sqrt(2)."""
    for got in analytic([[[[1, 0]], [[0.5, 0.5]]]], tmp_path):
        assert abs(got["js"][1] - 0.75 * np.log(4 / 3)) < 1e-6
        assert abs(got["cosine"][1] - 0.5**0.5) < 1e-6


def test_the_output_of_two_keys(tmp_path):
    """A = (1/4, 3/4) of (4, 0) and (0, 4): |A V| = |(1, 3)|, shares as the weights; R = (1, 0) of a stream of 2."""
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    for got in analytic([[[[0.25, 0.75]]]], tmp_path, v=np.array([[[[4.0, 0], [0, 4]]]]), is_self=False,
                        wo_r=np.array([[[1, 0]]], np.float32), x_norm=np.array([[2]], np.float32)):
        assert [one[0] for one in got["outputs"][0]] == [1] * 4
        assert [one[1] for one in got["outputs"][0]] == pytest.approx([10**0.5, entropy, 1, 0.5], rel=1e-6)


def test_long_rows_are_summed_piece_by_piece(tmp_path):
    """More keys than one product or one sum takes, with holes; heads that share values."""
    rng = np.random.default_rng(7)
    case = Case(np.zeros((1, 4, 40, 6000)), "bf16", is_self=False, v=rng.normal(0, 1, (1, 2, 6000, 24)), v_dtype="bf16")
    case.mask = (rng.random((1, 40, 6000)) < 0.9).astype(np.uint8)
    case.weights = plain(case, rng)
    check(case, tmp_path)
