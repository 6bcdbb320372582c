# SPDX-License-Identifier: MIT
"""The kernels against numpy: every metric of workers/KERNELS.md computed a second time, in float64, whole
arrays at once, from the formulas and not from the C code.

Each case is one message (shape, dtype, mask, distribution), run twice: as one block, and cut at random rows.
Both must agree with numpy, and with each other bit for bit in counts and histograms.

Tolerances (relative, over max(1, |truth|) where the number is not a weight): the project promises 1e-5 for
sums of weights and 1e-4 nats for entropy; the f64 reference is held to TIGHT (it reaches about 1e-15). Singular values to SVD * s1.
KERNEL_CLI names the executable; KERNEL_CASES=0.1 runs a tenth of the cases."""

import json
import os
import subprocess
import zlib
from dataclasses import dataclass, field

import numpy as np
import pytest

CLI = os.environ.get("KERNEL_CLI", "")
SHARE = float(os.environ.get("KERNEL_CASES", "1"))
TIGHT = 1e-13
SVD = 1e-13
UNTOUCHED = -12345.0
QUANTILES = [0, 0.01, 0.25, 0.5, 0.9, 0.99, 1]
BUCKET_HALF = 2 ** (1 / 64) * (1 + 1e-9)
ROW_METRICS = ["entropy", "entropy_normalized", "confidence", "diagonal", "mean_distance", "first_token"]
MOMENTS = ["mean", "min", "max", "std", "variance"]
EPS = {"f32": 2.0**-23, "f64": 2.0**-52, "f16": 2.0**-10, "bf16": 2.0**-7}
NARROW = ("f16", "bf16")


@dataclass
class Case:
    """One message. `weights` is float64, before it is rounded to `dtype`."""

    weights: np.ndarray
    dtype: str = "f32"
    is_self: bool = True
    causal: bool = False
    window: int = 0
    q_len: list = None
    k_len: list = None
    mask: np.ndarray = None
    dropout: bool = False
    learned_sink: bool = False
    top_pairs: int = 10
    offset: int = 0
    groups: str = "cip"
    spectrum: bool = False
    cuts: list = field(default_factory=list)


# dtypes


def encode(x, dtype):
    if dtype in ("f32", "f64", "f16"):
        with np.errstate(over="ignore"):
            return x.astype({"f32": "<f4", "f64": "<f8", "f16": "<f2"}[dtype])
    with np.errstate(over="ignore"):
        bits = x.astype("<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype("<u2")


def decode(raw, dtype):
    if dtype == "bf16":
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return (raw.astype("<u4") << 16).view("<f4").astype(np.float64)
    return raw.astype(np.float64)


# running the C code


def csv(values):
    return ",".join(str(int(v)) for v in values)


def run_cli(case, folder, cuts):
    path = os.path.join(folder, "weights")
    encode(case.weights, case.dtype).tofile(path)
    args = [CLI, f"weights={path}", f"dtype={case.dtype}", f"shape={csv(case.weights.shape)}"]
    for name, value in (("self", case.is_self), ("causal", case.causal), ("window", case.window),
                        ("dropout", case.dropout), ("learned_sink", case.learned_sink),
                        ("top_pairs", case.top_pairs), ("offset", case.offset),
                        ("spectrum", case.spectrum)):
        args.append(f"{name}={int(value)}")
    args.append(f"groups={case.groups}")
    for name, value in (("q_len", case.q_len), ("k_len", case.k_len), ("cuts", cuts)):
        if value is not None and len(value) > 0:
            args.append(f"{name}={csv(value)}")
    if case.mask is not None:
        mask_path = os.path.join(folder, "mask")
        case.mask.astype(np.uint8).tofile(mask_path)
        args.append(f"mask={mask_path}")
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(args)}\n{done.stderr}"
    return json.loads(done.stdout)


# the truth


def visible(case):
    """[B, Tq, Tk]: key j counts for query i; and [B, Tq]: query i counts."""
    batch, _, queries, keys = case.weights.shape
    q_len = np.array(case.q_len if case.q_len else [queries] * batch)
    k_len = np.array(case.k_len if case.k_len else [keys] * batch)
    i = np.arange(queries)[None, :, None]
    j = np.arange(keys)[None, None, :]
    seen = (j < k_len[:, None, None]) & (i >= 0)
    if case.causal:
        seen &= j <= i
    if case.window:
        seen &= j > i - case.window
    if case.mask is not None:
        seen &= case.mask == 1
    query = np.arange(queries)[None, :] < q_len[:, None]
    if case.mask is not None:
        query = query & (case.mask == 1).any(-1)
    return seen, query, q_len, k_len


def judge(case, a, seen, query):
    """[B, H, Tq] soundness, and the largest finite |sum - 1|."""
    seen4, query3 = seen[:, None], np.broadcast_to(query[:, None], a.shape[:3])
    counted = np.where(seen4, a, 0.0)
    bad = ~np.isfinite(counted) | (counted < (-1e-3 if case.dtype in NARROW else -1e-6))
    with np.errstate(invalid="ignore", over="ignore"):
        error = counted.sum(-1) - 1
    tolerance = 2e-2 if case.dtype in NARROW else 1e-3
    some = np.broadcast_to(seen4.any(-1), a.shape[:3])
    sound = query3 & some & ~bad.any(-1)
    with np.errstate(invalid="ignore"):
        if not case.dropout:
            sound &= (error <= tolerance) if case.learned_sink else (np.abs(error) <= tolerance)
    near = query3 & some & np.isfinite(error)
    assert not (np.abs(np.abs(error[near]) - tolerance) < 1e-9).any(), "the case is a coin toss"
    return sound, query3, (np.abs(error[near]).max() if near.any() else np.nan)


def row_values(case, a, seen):
    """name -> ([B, H, Tq] values, [B or 1, 1, Tq] where they exist)."""
    w = np.where(seen[:, None], a, 0.0)
    queries, keys = a.shape[2:]
    n = seen.sum(-1)[:, None]
    i, j = np.arange(queries), np.arange(keys)
    with np.errstate(all="ignore"):
        entropy = -np.where(w > 0, w * np.log(w), 0).sum(-1)
        normalized = entropy / np.log(n)
        distance = (w * np.abs(i[:, None] - j[None, :])).sum(-1)
    always = np.ones((1, 1, queries), bool)
    diagonal = np.zeros(a.shape[:3])
    size = min(queries, keys)
    diagonal[:, :, :size] = np.diagonal(w, axis1=2, axis2=3)
    return {
        "entropy": (entropy, always),
        "entropy_normalized": (normalized, n >= 2),
        "confidence": (np.where(seen[:, None], a, -np.inf).max(-1), always),
        "diagonal": (diagonal, always & (i < keys) & case.is_self),
        "mean_distance": (distance, always),
        "first_token": (w[..., 0], always & (i >= 1)),
    }


def locality(case, a, seen, sound, q_len):
    """Per head: the weights next to the diagonal of sound rows, over their number."""
    batch, heads, queries, keys = a.shape
    w = np.where(seen[:, None], a, 0.0)
    i, j = np.arange(queries)[:, None], np.arange(keys)[None, :]
    neighbour = (np.abs(i - j) == 1)[None] & ((j < i) | (j < q_len[:, None, None]))
    chosen = neighbour[:, None] & sound[..., None]
    result = np.full(heads, np.nan)
    for h in range(heads):
        if case.is_self and chosen[:, h].any():
            result[h] = w[:, h][chosen[:, h]].mean()
    return result


def scores(a):
    """(V + E) / 2 per head, before the softmax over heads."""
    batch, heads, _, keys = a.shape
    result = np.full(heads, np.nan)
    for h in range(heads):
        v, e = [], []
        for b in range(batch):
            rows = a[b, h][np.isfinite(a[b, h]).all(-1)]
            if rows.size < 2:
                continue
            p = np.exp(rows - rows.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            e.append(-(p * np.log(p + 1e-8)).sum())
            v.append(rows.var(ddof=1))
        if v:
            result[h] = (np.mean(v) + np.mean(e)) / 2
    return result


def softmax(x):
    good = np.isfinite(x)
    result = np.full(x.shape, np.nan)
    if good.any():
        e = np.exp(x[good] - x[good].max())
        result[good] = e / e.sum()
    return result


def maps(a):
    """sum, mean, max over heads, [B, Tq, Tk]; heads added in order, so that ties are the same ties."""
    with np.errstate(all="ignore"):
        total = np.zeros((a.shape[0],) + a.shape[2:])
        for h in range(a.shape[1]):
            total = total + a[:, h]
        return total, total / a.shape[1], a.max(1)


def statistics(x):
    x = x[np.isfinite(x)]
    if x.size == 0:
        return [np.nan] * 4
    return [x.mean(), x.max(), x.min(), x.std(ddof=1) if x.size > 1 else np.nan]


def top_pairs(mean_map, k):
    finite = np.isfinite(mean_map)
    total = np.zeros(mean_map.shape[1:])
    for b in range(mean_map.shape[0]):
        total = total + np.where(finite[b], mean_map[b], 0)
    pairs = []
    for i, j in zip(*np.nonzero(finite.any(0))):
        pairs.append((-(total[i, j] / finite[:, i, j].sum()), int(i), int(j)))
    return [(i, j, -w) for w, i, j in sorted(pairs)[:k]]


# comparing


worst = {}


def close(family, got, want, tolerance=TIGHT, scale=None):
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert (np.isnan(got) == np.isnan(want)).all(), f"{family}: got {got}, want {want}"
    some = ~np.isnan(want)
    if not some.any():
        return
    base = np.maximum(np.abs(want[some]), max(1e-300, 1 if scale is None else scale))
    error = (np.abs(got[some] - want[some]) / base).max()
    worst[family] = max(worst.get(family, 0), error)
    assert error <= tolerance, f"{family}: got {got}, want {want}, error {error:.3g}"


def check_quantiles(name, got, sample):
    ordered = np.sort(sample)
    for q, value in zip(QUANTILES, got):
        if not sample.size:
            assert np.isnan(value)
            continue
        want = ordered[max(int(np.ceil(q * sample.size)), 1) - 1]
        low, high = sorted((want / BUCKET_HALF, want * BUCKET_HALF))
        slack = 1e-12 + 2.0**-40
        assert low - slack <= value <= high + slack, f"{name} q={q}: got {value}, want {want}"


def check_row_metric(name, dists, values, exists, sound, got_mean):
    for h, dist in enumerate(dists):
        chosen = sound[:, h] & np.broadcast_to(exists[:, 0], sound[:, h].shape)
        sample = values[:, h][chosen]
        assert dist["n"] == sample.size, f"{name}: {dist['n']} rows, want {sample.size}"
        assert sum(count for _, count in dist["hist"]) == sample.size
        keys = [key for key, _ in dist["hist"]]
        assert keys == sorted(set(keys))
        mean, variance, low, high = dist["moments"]
        scale = max(1, np.abs(sample).max()) if sample.size else 1
        close(name, mean, sample.mean() if sample.size else np.nan, scale=scale)
        close(name, got_mean[h], mean)
        close(name + " variance", variance, sample.var(ddof=1) if sample.size > 1 else np.nan,
              scale=scale**2)
        if sample.size:
            close(name, [low, high], [sample.min(), sample.max()], scale=scale)
        check_quantiles(name, dist["quantiles"], sample)


def check_moments(got, a, seen, sound):
    for h in range(a.shape[1]):
        x = a[:, h][seen & sound[:, h][..., None]]
        if x.size == 0:
            want = [np.nan] * 5
        else:
            several = x.size > 1
            want = [x.mean(), x.min(), x.max(), x.std(ddof=1) if several else np.nan,
                    x.var(ddof=1) if several else np.nan]
        scale = np.abs(x).max() if x.size else 1
        for name, value in zip(MOMENTS, want):
            base = {"min": 1e-300, "max": 1e-300, "variance": scale**2}.get(name, scale)
            # a std is half as exact as a variance is when the variance is nearly 0
            close(name, got[name][h], value, TIGHT if name != "std" else 1e-9, scale=base or 1)


def check_core(case, got, a):
    seen, query, q_len, _ = visible(case)
    sound, query3, error = judge(case, a, seen, query)
    assert got["rows"] == sound.sum()
    assert got["invalid_rows"] == (query3 & ~sound).sum()
    close("row_sum_error", got["row_sum_error"], error)
    if "c" not in case.groups:
        assert set(sum((got["values"][m] for m in ROW_METRICS + MOMENTS), [])) == {UNTOUCHED}
        assert np.isnan(got["aggregate"]).all()
        return
    for name, (values, exists) in row_values(case, a, seen).items():
        check_row_metric(name, got["dists"][name], values, exists, sound, got["values"][name])
    check_moments(got["values"], a, seen, sound)
    close("locality", got["values"]["locality"], locality(case, a, seen, sound, q_len))
    for stats, one in zip(got["aggregate"], maps(a)):
        want = statistics(one)
        finite = one[np.isfinite(one)]
        close("aggregate", stats[:3], want[:3], scale=np.abs(finite).max() if finite.size else 1)
        close("aggregate std", stats[3], want[3], 1e-9, scale=np.abs(finite).max() if finite.size else 1)


def check_importance(case, got, a):
    values = got["values"]["importance"]
    if "i" not in case.groups:
        assert set(values) == {UNTOUCHED}
        return
    want = scores(a)
    size = np.abs(want[np.isfinite(want)]).max() if np.isfinite(want).any() else 1
    close("importance", values, softmax(want), min(1, 1e-12 * max(1, size)))


def check_pairs(case, got, a):
    want = top_pairs(maps(a)[1], case.top_pairs) if "p" in case.groups else []
    assert [(q, k) for q, k, _ in got["pairs"]] == [(i, j) for i, j, _ in want]
    close("pairs", [w for _, _, w in got["pairs"]], [w for _, _, w in want])


def check_spectrum(got, rectangle, dtype):
    norm, condition, rank, effective = got["numbers"]
    if rectangle.size == 0 or not np.isfinite(rectangle).all():
        assert np.isnan(got["numbers"]).all() and np.isnan(got["values"]).all()
        return
    s = np.linalg.svd(rectangle, compute_uv=False)
    want = np.full(16, np.nan)
    want[: min(16, s.size)] = s[:16]
    close("singular values", got["values"], want, SVD, scale=s[0] or 1)
    assert norm == got["values"][0]
    bound = s[0] * max(rectangle.shape) * EPS[dtype]
    assert (s > bound * 1.5).sum() <= rank <= (s > bound / 1.5).sum()
    assert (s > 0.01 * s[0] * (1 + 1e-9)).sum() <= effective <= (s > 0.01 * s[0] * (1 - 1e-9)).sum()
    assert np.isnan(condition) == (rank < s.size)
    if rank == s.size:
        close("condition number", condition, np.log10(s[0] / s[-1]), 1e-12 + 1e-13 * s[0] / s[-1])


def check_spectra(case, got, a):
    _, _, q_len, k_len = visible(case)
    spectra = iter(got["spectra"])
    for b in range(a.shape[0]):
        for h in range(a.shape[1]):
            check_spectrum(next(spectra), a[b, h, : q_len[b], : k_len[b]], case.dtype)


def same_after_cutting(whole, cut):
    """Counts, extremes and histograms bit for bit; the rest was compared with numpy."""
    for key in ("rows", "invalid_rows", "pairs"):
        assert whole[key] == cut[key]
    for name in ROW_METRICS:
        for one, other in zip(whole["dists"][name], cut["dists"][name]):
            assert one["n"] == other["n"] and one["hist"] == other["hist"]
            if one["n"]:
                assert one["moments"][2:] == other["moments"][2:]
                assert one["quantiles"] == other["quantiles"]


def check(case, folder):
    a = decode(encode(case.weights, case.dtype), case.dtype)
    results = [run_cli(case, folder, cuts) for cuts in ([], case.cuts)]
    for got in results:
        check_core(case, got, a)
        check_importance(case, got, a)
        check_pairs(case, got, a)
        if case.spectrum:
            check_spectra(case, got, a)
    same_after_cutting(*results)


# the cases

SHAPES = [(1, 1, 1, 1), (2, 3, 1, 1), (1, 1, 2, 2), (1, 2, 3, 3), (2, 1, 1, 5), (1, 2, 5, 1), (1, 3, 7, 7),
          (2, 2, 8, 8), (3, 2, 17, 17), (1, 12, 33, 33), (2, 3, 6, 11), (2, 3, 11, 6), (1, 4, 65, 65),
          (4, 1, 31, 31), (1, 2, 96, 96)]
DTYPES = ["f32", "f64", "f16", "bf16"]
MASKS = ["full", "causal", "lengths", "causal lengths", "window", "causal window", "explicit",
         "causal lengths window explicit", "nothing"]


def set_mask(case, kind, rng):
    batch, _, queries, keys = case.weights.shape
    case.causal = "causal" in kind
    if "lengths" in kind:
        case.k_len = [int(n) for n in rng.integers(0, keys + 1, batch)]
        case.q_len = case.k_len if queries == keys else [int(n) for n in rng.integers(0, queries + 1, batch)]
    if "window" in kind:
        case.window = int(rng.integers(1, keys + 2))
    if "explicit" in kind:
        case.mask = (rng.random((batch, queries, keys)) < 0.6).astype(np.uint8)
        case.mask[rng.random(case.mask.shape) < 0.02] = 7  # neither 0 nor 1: excluded
        case.mask[rng.random((batch, queries)) < 0.1] = 0  # a row without keys is padding
    if kind == "nothing":
        case.k_len = [0] * batch


def random_rows(case, rng, sharpness):
    """Softmax rows over the visible keys, zero elsewhere."""
    seen = visible(case)[0][:, None]
    logits = np.where(seen, rng.normal(0, sharpness, case.weights.shape), -np.inf)
    with np.errstate(invalid="ignore"):
        e = np.exp(logits - np.where(seen.any(-1, keepdims=True), logits.max(-1, keepdims=True), 0))
        return np.where(seen, e / e.sum(-1, keepdims=True), 0.0)


def some_rows(case, rng, share=0.3):
    return rng.random(case.weights.shape[:3]) < share


def plain(case, rng):
    return random_rows(case, rng, 1.5)


def sharp(case, rng):
    return random_rows(case, rng, 40)


def uniform(case, rng):
    return random_rows(case, rng, 0)


def one_hot(case, rng):
    x = random_rows(case, rng, 1)
    return (x == x.max(-1, keepdims=True)) * (x > 0).astype(float)


def previous(case, rng):
    queries, keys = case.weights.shape[2:]
    return np.broadcast_to(np.eye(queries, keys, -1) + np.eye(queries, keys) * (np.arange(queries) == 0)[:, None],
                           case.weights.shape).copy()


def tied(case, rng):
    """Few distinct weights, exact in every dtype: top_pairs is all ties."""
    return rng.integers(0, 3, case.weights.shape) * 0.25


def denormal(case, rng):
    tiny = {"f32": 2.0**-149, "f64": 2.0**-1074, "f16": 2.0**-24, "bf16": 2.0**-133}[case.dtype]
    x = one_hot(case, rng)
    return np.where(x == 0, tiny * rng.integers(0, 5, x.shape), x)


def nan_rows(case, rng):
    x = plain(case, rng)
    x[some_rows(case, rng)] = np.nan
    return x


def nan_entries(case, rng):
    x = plain(case, rng)
    x[rng.random(x.shape) < 0.01] = np.nan
    return x


def infinities(case, rng):
    x = plain(case, rng)
    x[rng.random(x.shape) < 0.01] = np.inf
    x[rng.random(x.shape) < 0.01] = -np.inf
    return x


def wrong_sums(case, rng):
    factors = np.array([1, 1.0009, 0.9991, 1.0011, 0.9989, 1.018, 0.982, 1.022, 0.978, 0.5, 2, 0])
    return plain(case, rng) * rng.choice(factors, case.weights.shape[:3])[..., None]


def negative(case, rng):
    x = plain(case, rng)
    hit = rng.random(x.shape) < 0.02
    return np.where(hit, rng.choice([-5e-7, -2e-6, -5e-4, -2e-3, -0.1], x.shape), x)


def huge(case, rng):
    top = {"f32": 1e30, "f64": 1e60, "f16": 6e4, "bf16": 1e30}[case.dtype]
    x = plain(case, rng)
    return np.where(rng.random(x.shape) < 0.01, top * rng.random(x.shape), x)


def padded_with(value):
    """The rows of padded queries, and the keys nobody may see, hold what some backends leave there."""

    def fill(case, rng):
        seen, query, _, _ = visible(case)
        x = plain(case, rng)
        junk = 1 / x.shape[-1] if value == "uniform" else value
        return np.where((seen & query[..., None])[:, None], x, junk)

    return fill


def dropped(case, rng):
    case.dropout = True
    x = plain(case, rng)
    return np.where(rng.random(x.shape) < 0.1, 0, x / 0.9)


def sink(case, rng):
    case.learned_sink = True
    return plain(case, rng) * rng.choice([1, 0.7, 0.1, 1.0005, 1.3], case.weights.shape[:3])[..., None]


DISTRIBUTIONS = {
    "plain": plain, "sharp": sharp, "uniform": uniform, "one_hot": one_hot, "previous": previous,
    "tied": tied, "denormal": denormal, "nan_rows": nan_rows, "nan_entries": nan_entries,
    "infinities": infinities, "wrong_sums": wrong_sums, "negative": negative, "huge": huge,
    "padded_nan": padded_with(np.nan), "padded_zero": padded_with(0.0), "padded_inf": padded_with(np.inf),
    "padded_uniform": padded_with("uniform"), "dropout": dropped, "learned_sink": sink,
}


def build(shape, dtype, mask, distribution):
    rng = np.random.default_rng(zlib.crc32(repr((shape, dtype, mask, distribution)).encode()))
    case = Case(np.zeros(shape), dtype, is_self=shape[2] == shape[3] and rng.random() < 0.9)
    set_mask(case, mask, rng)
    case.weights = DISTRIBUTIONS[distribution](case, rng)
    case.top_pairs = int(rng.choice([1, 3, 10, 100]))
    case.offset = int(rng.integers(0, 8))
    case.groups = str(rng.choice(["cip", "cip", "cip", "c", "i", "p", ""]))
    case.spectrum = rng.random() < 0.5
    cuts = rng.integers(0, shape[2] + 1, rng.integers(1, 6))
    case.cuts = sorted(int(c) for c in cuts)
    return case


def grid():
    """Every shape with every dtype and mask, distributions in turn; then every distribution with every
    dtype and mask, shapes in turn."""
    names = list(DISTRIBUTIONS)
    cells, turn = [], 0
    for shape in SHAPES:
        for dtype in DTYPES:
            for mask in MASKS:
                cells.append((shape, dtype, mask, names[turn % len(names)]))
                turn += 1
    for name in names:
        for dtype in DTYPES:
            for mask in MASKS:
                cells.append((SHAPES[turn % len(SHAPES)], dtype, mask, name))
                turn += 1
    cells = list(dict.fromkeys(cells))
    return cells[:: max(1, round(1 / SHARE))]


def title(cell):
    shape, dtype, mask, name = cell
    return f"{name}-{mask.replace(' ', '+')}-{dtype}-{'x'.join(map(str, shape))}"


@pytest.mark.parametrize("cell", grid(), ids=title)
def test_case(cell, tmp_path):
    check(build(*cell), tmp_path)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_all_half_codes_load_exactly(dtype, tmp_path):
    codes = np.arange(65536, dtype="<u2")
    codes.tofile(tmp_path / "codes")
    args = [CLI, f"weights={tmp_path / 'codes'}", f"dtype={dtype}", "shape=1,1,256,256", "groups=", "dump=1"]
    got = json.loads(subprocess.run(args, capture_output=True, text=True, check=True).stdout)["weights"]
    want = decode(codes.view("<f2") if dtype == "f16" else codes, dtype)
    np.testing.assert_array_equal(np.ravel(got), want)
    assert (np.signbit(np.ravel(got)) == np.signbit(want))[~np.isnan(want)].all()


@pytest.fixture(scope="module", autouse=True)
def report_worst_errors():
    yield
    if os.environ.get("KERNEL_REPORT"):
        for family, error in sorted(worst.items()):
            print(f"\n{family:28} {error:.2e}", end="")
