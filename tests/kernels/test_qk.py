# SPDX-License-Identifier: MIT
"""Tier `qk` against numpy: logits, softmax and every number in float64 from the definitions, for a grid of
shapes, dtypes, masks and hostile vectors, and every instruction set that this machine can run. What follows
from the weights is formulas.py's, as it is for the attention tier: that is how both are the same.

Tolerances. `scalar` is f64 and held to 1e-12, with what exp makes of the rounding of a logit. The others take
products in f32: a logit is off by up to about delta = LOGIT * lambda, lambda = scale max |q| |k|, since that is
what the rounding errors of a sum of products q_c k_c are in proportion to, whatever is left of the sum. That
moves a weight by the factor e^delta and an entropy by at most 2 delta (H + 1), and comes on top of the 1e-5 for
sums of weights and the 1e-4 nats of every kernel. dL/dA = dO V^T is such a product too: sums of |A dL/dA| may be
off by LOGIT of the sum of A |dO| |v| more, and norms of R_h A V by their share of |R_h| sum A |v|. QK_CLI names the
executable."""

import itertools
import os
import zlib
from dataclasses import dataclass

import numpy as np
import pytest

import formulas
from cases import MASKS, STRIDED, Case, random_tokens, set_mask, title
from driver import (DTYPES, EPS, SHARE, case_arguments, check_no_spectrum, check_ranks, close, decode, encode,
                    instruction_sets, numbers_of, run_json, write)
from formulas import NATS, length

CLI = os.environ.get("QK_CLI", "")
LOGIT = 2.0**-21
LAMBDA_MAX = 2.0**15  # beyond, rows go through the reference
SETS = ("entries", "logits", "cosine", "q_norm", "k_norm", "output_norm", "norm_weighted_entropy", "write_norm",
        "residual_share")
ROWS = [name for name in formulas.ROW_METRICS if name not in ("sink_deficit", "max_logit")]


@dataclass
class Qk:
    """One message: vectors in float64 as the kernels see them, after rounding to their dtypes."""

    case: Case
    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dtypes: tuple
    scale: float
    softcap: float
    core: bool = True
    dout: np.ndarray = None
    wo_r: np.ndarray = None
    x_norm: np.ndarray = None


# the definitions


def logits_of(m):
    group = m.q.shape[1] // m.k.shape[1]
    k = np.repeat(m.k, group, axis=1)
    with np.errstate(all="ignore"):
        product = np.einsum("bhid,bhjd->bhij", m.q, k)
        s = m.scale * product
        return (m.softcap * np.tanh(s / m.softcap) if m.softcap > 0 else s), product, k


def softmax(s, seen):
    """Weights at seen keys, 0 elsewhere; and which rows are sound."""
    s = np.where(seen, s, -np.inf)
    with np.errstate(all="ignore"):
        largest = s.max(-1, keepdims=True)
        sound = ~np.isnan(s).any(-1) & ~(s == np.inf).any(-1) & np.isfinite(largest[..., 0])
        e = np.exp(s - np.where(np.isfinite(largest), largest, 0))
        return np.where(seen, e / e.sum(-1, keepdims=True), 0), sound


def cosines(m, product, k):
    with np.errstate(all="ignore"):
        return product / length(m.q)[..., None] / length(k)[:, :, None, :]


def gradient_score(m, a, sound):
    """sum |A dL/dA| of each head over its sound rows, dL/dA = dO V^T; and by how much f32 may be off."""
    v = np.repeat(m.v, m.q.shape[1] // m.v.shape[1], axis=1)
    with np.errstate(all="ignore"):
        product = np.abs(a * np.einsum("bhid,bhjd->bhij", m.dout, v))
        size = a * length(m.dout)[..., None] * length(v)[:, :, None, :]
        kept = np.isfinite(product) & sound[..., None]
        return np.where(kept, product, 0).sum((0, 2, 3)), LOGIT * np.where(kept, size, 0).sum((0, 2, 3))


def summary(x):
    x = x[np.isfinite(x)]
    if x.size == 0:
        return [0] + [np.nan] * 4
    with np.errstate(over="ignore"):
        return [x.size, x.mean(), x.std(ddof=1) if x.size > 1 else np.nan, x.min(), x.max()]


def truth(m):
    """Everything, and by how much the logits of an f32 product may be off."""
    case = m.case
    seen, query = formulas.visible(case)
    s, product, k = logits_of(m)
    a, sound = softmax(s, seen[:, None])
    queries = np.broadcast_to(query[:, None], sound.shape)
    sound = sound & queries
    with np.errstate(all="ignore"):
        q_norm, k_norm = length(m.q), length(k)
        usual = k_norm[np.isfinite(k_norm)]
        reach = abs(m.scale) * q_norm * (usual.max() if usual.size else 0)
    reach = reach[sound & (reach <= LAMBDA_MAX)]
    per_head = {name: [] for name in SETS}
    k_len = formulas.lengths(case)[1]
    inside = np.arange(case.weights.shape[3]) < k_len[:, None]
    cosine = cosines(m, product, k)
    found = {} if m.v is None else formulas.outputs(a, m.v, m.wo_r, m.x_norm, seen, sound)
    for h in range(a.shape[1]):
        pick = seen & sound[:, h][..., None]
        per_head["entries"].append(summary(a[:, h][pick]))
        per_head["logits"].append(summary(s[:, h][pick]))
        per_head["cosine"].append(summary(cosine[:, h][pick]))
        per_head["q_norm"].append(summary(q_norm[:, h][query]))
        per_head["k_norm"].append(summary(k_norm[:, h][inside]))
        for name, (values, there, _) in found.items():
            per_head[name].append(summary(np.broadcast_to(values, a.shape[:3])[:, h][there[:, h]]))
    rows = formulas.row_values(case, np.where(sound[..., None], a, 0), case.local_window)
    with np.errstate(invalid="ignore"):
        rows["max_logit"] = np.where(seen[:, None], s, -np.inf).max(-1), True
    size_of = {name: np.where(there, size, 0).max((0, 2)) for name, (_, there, size) in found.items() if name in SETS[7:]}
    return dict(gradient=None if m.dout is None else gradient_score(m, a, sound), size_of=size_of, a=a, s=s, sound=sound,
                queries=queries, rows=rows, sets=per_head, delta=LOGIT * (reach.max() if reach.size else 0))


# running the C code

TENSORS = ("q", "k", "v", "dout", "wo_r", "x_norm")


def arguments(m, folder, cuts):
    case = m.case
    b, h, tq, d = m.q.shape
    yield f"shape={b},{h},{tq},{m.k.shape[2]}"
    yield f"dims={m.k.shape[1]},{d},{m.v.shape[3] if m.v is not None else 0},{0 if m.wo_r is None else m.wo_r.shape[1]}"
    yield "dtypes=" + ",".join(m.dtypes)
    for name, x, dtype in zip(TENSORS, (getattr(m, name) for name in TENSORS), (*m.dtypes, "f32", "f32")):
        if x is not None:
            yield write(folder, name, encode(x, dtype))
    yield f"core={int(m.core)}"
    yield f"scale={float(m.scale)!r}"
    yield f"softcap={float(m.softcap)!r}"
    yield from case_arguments(case, folder, cuts, ("causal", "window", "q_offset", "q_stride", "local_window", "offset"))


def run_cli(m, folder, cuts=(), isas=None, **more):
    extra = [f"{name}={value}" for name, value in more.items()]
    args = [CLI, *arguments(m, folder, cuts), *extra, "isa=" + ",".join(isas or instruction_sets(CLI))]
    return run_json(args)


# comparing


def tolerance_of(isa, name, delta, largest_entropy):
    if isa == "scalar":
        return 1e-11
    if name in NATS or name == "norm_weighted_entropy":
        return 1e-4 + 2 * delta * (largest_entropy + 1)
    return 1e-5 + 2 * delta


def check_rows(isa, got, t, sound, nats):
    for name in [*ROWS, "max_logit"]:
        values, exists = t["rows"][name]
        exists = np.broadcast_to(exists, sound.shape) & sound
        for h, (dist, counted) in enumerate(got["rows_of"][name]):
            sample = values[:, h][exists[:, h]]
            assert dist[0] == counted == sample.size, f"{isa} {name}: {dist[0]} rows, want {sample.size}"
            scale = max(1, np.abs(sample).max()) if sample.size else 1
            tolerance = tolerance_of(isa, name, t["delta"], nats)
            if name == "max_logit":
                scale = max(scale, t["delta"] / LOGIT)
                tolerance = min(tolerance, 1e-5)
            want = summary(sample)
            close(f"{isa} {name}", [dist[1], *dist[3:5]], [want[1], *want[3:]], tolerance, scale)
            close(f"{isa} {name}", got["values"][name][h], want[1], tolerance, scale)
    assert all(dist[0] == 0 for dist, _ in got["rows_of"]["sink_deficit"])


def check_sets(isa, got, t, sets, nats):
    for h, moments in enumerate(got["moments_of"]):
        for name, one in zip(SETS, moments):
            if not sets[name]:
                assert one[0] == 0
                continue
            want = sets[name][h]
            assert one[0] == want[0], f"{isa} {name}: {one[0]} values, want {want[0]}"
            spread = np.nanmax(np.abs(want[3:])) if want[0] else 1
            tolerance = tolerance_of(isa, name, t["delta"], nats)
            scale = max(spread, 1e-300)
            if name == "norm_weighted_entropy":
                scale = max(1, spread)
            if name in t["size_of"]:
                scale = max(t["size_of"][name][h], 1e-300)
            if name == "logits":  # relative to the products' size
                scale, tolerance = max(scale, t["delta"] / LOGIT), min(tolerance, 1e-5)
            if name == "cosine":
                scale, tolerance = 1, min(tolerance, 1e-5)
            close(f"{isa} {name}", [one[1], *one[3:5]], [want[1], *want[3:]], tolerance, scale)
            std = max(tolerance, 1e-3 if isa != "scalar" else 1e-6)
            close(f"{isa} {name} std", one[2], want[2], std, scale)


def check_gradient(isa, got, t):
    if t["gradient"] is None:
        assert got == [0] * len(got)
        return
    for one, want, slack in zip(got, *t["gradient"]):
        slack = 0 if isa == "scalar" else slack
        close(f"{isa} gradient", one, want, tolerance_of(isa, "gradient", t["delta"], 0) + slack / max(want, 1e-300), 0)


def check(m, t, results):
    sound, invalid = t["sound"], t["queries"] & ~t["sound"]
    entropy = t["rows"]["entropy"][0][sound]
    nats = entropy.max() if entropy.size else 0
    for got in results:
        isa = got["isa"]
        assert (got["rows"], got["invalid_rows"]) == (sound.sum(), invalid.sum()), isa
        close(f"{isa} row_sum_error", got["row_sum_error"], 0 if sound.any() else np.nan, 1e-300)
        if not m.core:
            assert all(one[0] == 0 for moments in got["moments_of"] for one in moments)
            assert all(dist[0] == 0 for dists in got["rows_of"].values() for dist, _ in dists)
            continue
        check_rows(isa, got, t, sound, nats)
        check_sets(isa, got, t, t["sets"], nats)
        check_gradient(isa, got["gradient"], t)
        want = formulas.head_values(m.case, t["a"], sound)["locality"]
        close(f"{isa} locality", got["values"]["locality"], want, tolerance_of(isa, "locality", t["delta"], nats))
        largest = [max(abs(one[3]), abs(one[4])) if one[0] else np.nan for one in t["sets"]["logits"]]
        close(f"{isa} max_abs_logit", got["values"]["max_abs_logit"], largest, 1e-5,
              max(1, t["delta"] / LOGIT))


# the messages


def plain(rng, m):
    """Normal vectors, as they are."""


def sharp(rng, m):
    m.scale *= 12


def zeros(rng, m):
    """All logits 0: uniform rows; zero vectors have no cosine."""
    m.q[:] = 0


def some_zero_keys(rng, m):
    m.k[rng.random(m.k.shape[:3]) < 0.3] = 0
    m.q[rng.random(m.q.shape[:3]) < 0.1] = 0


def same_keys(rng, m):
    m.k[:] = m.k[:, :, :1]


def sink(rng, m):
    """A key 0 that everybody looks at."""
    m.q[..., 0] = np.abs(m.q[..., 0]) + 3
    m.k[:, :, 0] = 0
    m.k[:, :, 0, 0] = 4 / m.scale


def offset_logits(rng, m):
    """Large logits with little between them."""
    m.q[..., 0], m.k[..., 0] = 8, 8 / m.scale / 2


def rising(rng, m):
    """Every tile has a new maximum."""
    m.q[..., 0] = 1
    m.k[..., 0] = np.arange(m.k.shape[2]) / m.scale / 8


def huge(rng, m):
    top = {"f16": 65504.0, "bf16": 1e38, "f32": 1e38, "f64": 1e200}
    m.q = np.sign(m.q) * top[m.dtypes[0]] * (0.5 + rng.random(m.q.shape) / 2)
    m.k = np.sign(m.k) * top[m.dtypes[1]] * (0.5 + rng.random(m.k.shape) / 2)


def huge_rows(rng, m):
    m.q[rng.random(m.q.shape[:3]) < 0.2] *= 60000
    m.k[rng.random(m.k.shape[:3]) < 0.05] *= 1000


def tiny(rng, m):
    m.q *= {"f16": 2.0**-20, "bf16": 2.0**-100, "f32": 2.0**-120, "f64": 2.0**-300}[m.dtypes[0]]


def nan_queries(rng, m):
    m.q[rng.random(m.q.shape) < 0.02] = np.nan


def nan_keys(rng, m):
    m.k[rng.random(m.k.shape) < 0.3 / m.k.shape[2]] = np.nan


def infinite(rng, m):
    m.k[rng.random(m.k.shape) < 0.5 / m.k.shape[2]] = np.inf
    m.k[rng.random(m.k.shape) < 0.5 / m.k.shape[2]] = -np.inf
    m.q = np.abs(m.q)


def lost_values(rng, m):
    if m.v is not None:
        m.v[rng.random(m.v.shape) < 0.2 / m.v.shape[2]] = np.nan
        m.v[rng.random(m.v.shape) < 0.2 / m.v.shape[2]] = np.inf


def odd_values(rng, m):
    if m.v is not None:
        m.v[rng.random(m.v.shape[:3]) < 0.2] = 0
        m.v[rng.random(m.v.shape[:3]) < 0.1] *= 30000


def no_scale(rng, m):
    m.scale = rng.choice([0.0, -0.3])


KINDS = {f.__name__: f for f in (plain, sharp, zeros, some_zero_keys, same_keys, sink, offset_logits, rising, huge,
                                 huge_rows, tiny, nan_queries, nan_keys, infinite, lost_values, odd_values,
                                 no_scale)}
SHAPES = [(1, 1, 1, 1), (2, 2, 2, 2), (1, 4, 3, 3), (1, 2, 5, 1), (2, 1, 1, 5), (2, 4, 17, 17), (1, 2, 33, 33),
          (1, 2, 9, 40), (1, 2, 40, 9), (1, 6, 65, 65), (2, 2, 131, 131), (1, 1, 3, 1100), (1, 2, 70, 600),
          (1, 1, 200, 530)]
HEAD_DIMS = [1, 3, 16, 64, 20]


def draw(rng, shape, dtype):
    return decode(encode(rng.normal(size=shape), dtype), dtype)


def build(shape, dtype, mask, kind):
    rng = np.random.default_rng(zlib.crc32(repr((shape, dtype, mask, kind)).encode()))
    b, h, tq, tk = shape
    square = tq == tk or "offset" in mask
    case = Case(np.zeros(shape), "f64", is_self=square and rng.random() < 0.9)
    set_mask(case, mask, rng)
    if rng.random() < 0.6:
        case.tokens = random_tokens(b, tk, rng)
    case.local_window = int(rng.choice([0, 1, 3, 8, 10**6]))
    case.offset = int(rng.choice([0, 0, 1, 4, 6]))
    cuts = rng.integers(0, tq + 1, rng.integers(1, 4))
    case.cuts = sorted(int(c) for c in cuts)
    kv = int(rng.choice([n for n in range(1, h + 1) if h % n == 0]))
    d, dv = int(rng.choice(HEAD_DIMS)), int(rng.choice(HEAD_DIMS))
    dtypes = (dtype,) * 4 if rng.random() < 0.8 else tuple(rng.choice(DTYPES, 4))
    q, k = draw(rng, (b, h, tq, d), dtypes[0]), draw(rng, (b, kv, tk, d), dtypes[1])
    v = draw(rng, (b, kv, tk, dv), dtypes[2]) if rng.random() < 0.6 else None
    softcap = float(rng.choice([0, 0, 0, 5.0, 50.0]))
    m = Qk(case, q, k, v, dtypes, 1 / np.sqrt(d), softcap, rng.random() < 0.95)
    KINDS[kind](rng, m)
    if m.v is not None and m.core:
        add_output(rng, m)
    for name, dtype in zip(TENSORS, (*dtypes, "f32", "f32")):
        x = getattr(m, name)
        if x is not None:
            setattr(m, name, decode(encode(x, dtype), dtype))
    return m


def add_output(rng, m):
    """What the output is judged by, at times of a size that f32 or its squares cannot hold, or not finite."""
    b, h, tq, _ = m.q.shape
    dv = m.v.shape[3]
    far = 2.0**10 if m.dtypes[3] == "f16" else 2.0**70
    if rng.random() < 0.8:
        m.dout = rng.normal(size=(b, h, tq, dv)) * rng.choice([1, 1, far, 1 / far])
        m.dout[rng.random((b, h, tq)) < 0.1] *= rng.choice([0, far, 1 / far])
        m.dout[rng.random(m.dout.shape) < 0.02] = rng.choice([np.nan, np.inf, 0, 0])
    if rng.random() < 0.8:
        m.wo_r = rng.normal(size=(h, int(rng.integers(1, dv + 1)), dv)) * rng.choice([1, 1, 2.0**80, 2.0**-80])
        m.wo_r[rng.random(h) < 0.1] *= rng.choice([0, 2.0**20])
        m.wo_r[rng.random(m.wo_r.shape) < 0.1 / m.wo_r[0].size] = rng.choice([np.nan, np.inf])
    if m.wo_r is not None and rng.random() < 0.8:
        m.x_norm = 10 ** rng.uniform(-3, 3, size=(b, tq))
        m.x_norm[rng.random((b, tq)) < 0.1] = rng.choice([0, np.nan, np.inf, -1])


def grid():
    """Every shape with every dtype and mask, kinds in turn; then every kind with every dtype and mask."""
    kinds = list(KINDS)
    cells = []
    for turn, (shape, dtype, mask) in enumerate(itertools.product(SHAPES, DTYPES, MASKS)):
        cells.append((shape, dtype, mask, kinds[turn % len(kinds)]))
    for turn, (kind, mask) in enumerate(itertools.product(kinds, MASKS), len(cells)):
        cells.append((SHAPES[turn % len(SHAPES)], DTYPES[turn % 4], mask, kind))
    kinds.remove("huge_rows")  # f64 may or may not hold what a sink of e^700 leaves
    for turn, (shape, mask) in enumerate(itertools.product(SHAPES, STRIDED), len(cells)):
        cells.append((shape, DTYPES[turn % 4], mask, kinds[turn % len(kinds)]))
    return list(dict.fromkeys(cells))[:: max(1, round(1 / SHARE))]


@pytest.mark.parametrize("cell", grid(), ids=title)
def test_case(cell, tmp_path):
    m = build(*cell)
    t = truth(m)
    check(m, t, run_cli(m, tmp_path))
    check(m, t, run_cli(m, tmp_path, m.case.cuts))


@pytest.mark.parametrize("cell", grid()[::9], ids=title)
def test_weights(cell, tmp_path):
    m = build(*cell)
    t = truth(m)
    begin = m.q.shape[2] // 3
    got = run_cli(m, tmp_path, isas=["scalar"], weights=1)[0]["weights"]
    got = np.reshape(np.array(got, float), t["a"][:, :, begin:].shape)
    seen, query = formulas.visible(m.case)
    seen = (seen & query[..., None])[:, None, begin:]
    unsound = seen & ~t["sound"][:, :, begin:, None]
    assert np.isnan(got[unsound]).all() and (got[~np.broadcast_to(seen, got.shape)] == 0).all()
    some = seen & ~unsound
    close("weights weights", got[some], t["a"][:, :, begin:][some], 1e-5 + 2 * t["delta"])


@pytest.mark.parametrize("logit", (20, 150, 600))
def test_a_sink_leaves_the_rest_its_digits(logit, tmp_path):
    """Key 0 holds 1 - e^-logit of every row; the entropy of the rest is what it is without it."""
    rng = np.random.default_rng(5)
    case = Case(np.zeros((1, 1, 300, 300)), "f64", causal=True)
    q, k = rng.normal(size=(1, 1, 300, 16)), rng.normal(size=(1, 1, 300, 16))
    q[..., 0], k[..., 0] = 1, 0
    k[:, :, 0] = 0
    k[:, :, 0, 0] = 4 * logit
    m = Qk(case, *(decode(encode(x, "f32"), "f32") for x in (q, k)), None, ("f32",) * 4, 0.25, 0.0)
    t = truth(m)
    assert np.median(t["a"][0, 0, 2:, 0]) > 1 - 1e-5
    check(m, t, run_cli(m, tmp_path))


def test_equal_logits_give_a_uniform_row(tmp_path):
    case = Case(np.zeros((1, 1, 700, 700)), "f64", causal=True)
    ones = np.ones((1, 1, 700, 8))
    m = Qk(case, ones, ones * 3, ones, ("f32",) * 4, 0.5, 0.0)
    for got in run_cli(m, tmp_path):
        value = got["values"]
        assert abs(value["entropy_normalized"][0] - 1) < 1e-6
        assert got["rows_of"]["entropy_normalized"][0][0][2] < 1e-6
        # one weight of 1 in row 0, 1/n in the others: no spread within a row
        want = np.concatenate([np.full(n, 1 / n) for n in range(1, 701)]).std(ddof=1)
        assert abs(value["std"][0] / want - 1) < 1e-5
        assert abs(value["norm_weighted_entropy"][0] - value["entropy"][0]) < 1e-5


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 4, 40, 40), (1, 2, 7, 50), (1, 2, 50, 7), (1, 2, 260, 300)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_spectrum(shape, dtype, tmp_path):
    m = build(shape, dtype, "lengths" if shape[0] > 1 else "full", "plain")
    m.softcap = 0.0
    got = run_cli(m, tmp_path, isas=["scalar"], spectrum=1)[0]["spectra"]
    q_len, k_len = formulas.lengths(m.case)
    _, product, _ = logits_of(m)
    eps = max(EPS[m.dtypes[0]], EPS[m.dtypes[1]])
    for h, one in enumerate(got):
        check_spectrum(one, m.scale * product[-1, h, : q_len[-1], : k_len[-1]], m.q.shape[3], eps)


def check_spectrum(got, x, d, eps):
    norm, stable, condition, rank, effective, entropy, nuclear = numbers_of(got)
    if x.size == 0 or not np.isfinite(x).all():
        check_no_spectrum(got)
        return
    s = np.linalg.svd(x, compute_uv=False)[: min(*x.shape, d)]
    want = np.full(16, np.nan)
    want[: min(16, s.size)] = s[:16]
    close("spectrum values", got["singular_values"], want, 1e-11, s[0])
    close("spectrum sums", [norm, stable, nuclear], [s[0], (s**2).sum() / s[0] ** 2, s.sum()], 1e-10)
    p = s[s > 0] / s.sum()
    close("spectrum entropy", entropy, np.exp(-formulas.plogp(p).sum()), 1e-9)
    check_ranks(s, rank, effective, condition, s[0] * max(x.shape) * eps)
    if rank == s.size:
        close("spectrum condition", condition, np.log10(s[0] / s[-1]), 1e-6)
