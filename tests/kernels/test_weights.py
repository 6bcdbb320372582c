# SPDX-License-Identifier: MIT
"""The tier `weights` computed a second time in float64 numpy: the products W_q,h^T W_k,h and W_o,h W_v,h are
written out in full and decomposed, where the C code works on R factors.

Singular values are held to VALUES of the largest one where they exceed 1e-3 of it and to FLOOR otherwise (the spectrum module's own tests hold it
tighter). WEIGHTS_CLI names the executable."""

import os
import zlib

import numpy as np
import pytest

from driver import DTYPES, EPS, check_no_spectrum, check_ranks, close, decode, encode, numbers_of, run_json

CLI = os.environ.get("WEIGHTS_CLI", "")
VALUES, TIGHT = 1e-4, 1e-9
LOW_RANK = [1, 2, 4, 8, 16]


def run_cli(shape, matrices, dtypes, folder, offset=0):
    heads, kv_heads, head_dim = shape
    args = [CLI, f"heads={heads}", f"kv_heads={kv_heads}", f"head_dim={head_dim}", f"offset={offset}"]
    for name, x in matrices.items():
        encode(x, dtypes[name]).tofile(folder / name)
        args.append(f"{name}={folder / name}:{dtypes[name]}:{x.shape[0]}:{x.shape[1]}")
    return run_json(args)


def padded(values, n):
    return np.concatenate([values[:n], np.full(max(0, n - len(values)), np.nan)])


def check_spectrum(what, got, x, epsilon, size=None, count=None):
    """`x` in full; `count` values can differ from 0 (the rank that the factors allow), the rank's bound is for
    a matrix whose longer side is `size`."""
    if not np.isfinite(x).all():
        check_no_spectrum(got)
        return
    s = np.linalg.svd(x, compute_uv=False)[: count or min(x.shape)]
    norm, stable, condition, rank, effective, entropy, nuclear = numbers_of(got)
    close(what, got["singular_values"], padded(s, 16), VALUES, s[0])
    close(what, norm, s[0], VALUES, s[0])
    if s[0] == 0:
        assert rank == 0
        return
    close(what, stable, (s**2).sum() / s[0] ** 2, VALUES, (s**2).sum() / s[0] ** 2)
    close(what, nuclear, s.sum(), 1e-3, s.sum())
    p = s[s > 0] / s.sum()
    close(what, entropy, np.exp(-(p * np.log(p)).sum()), 1e-2, entropy)
    check_ranks(s, rank, effective, condition, s[0] * (size or max(x.shape)) * epsilon, margin=1e-3)
    if rank == len(s):
        close(what, condition, np.log10(s[0] / s[-1]), 1e-2)
    tail = np.sqrt(np.maximum((s**2).sum() - np.cumsum(s**2), 0) / (s**2).sum())
    wanted = [tail[k - 1] if k <= len(s) else np.nan for k in LOW_RANK]
    got_tail = np.array(got["low_rank_error"], float)
    some = ~np.isnan(np.array(wanted))
    close(what, got_tail[some], np.array(wanted)[some], 1e-3)


def slices_of(name, x, count, head_dim):
    if name == "wo":
        return [x[:, h * head_dim : (h + 1) * head_dim] for h in range(count)]
    return [x[h * head_dim : (h + 1) * head_dim] for h in range(count)]


def check_projection(name, got, x, shape, dtype):
    heads, kv_heads, head_dim = shape
    count = kv_heads if name in ("wk", "wv") else heads
    assert got["slices"] == count
    check_spectrum(name, got["whole"], x, EPS[dtype])
    if not np.isfinite(x).all():
        assert np.isnan(got["correlation"]).all() and np.isnan(got["more"]).all()
        for one in got["head"]:
            check_no_spectrum(one)
        return
    slices = slices_of(name, x, count, head_dim)
    for h, one in enumerate(slices):
        check_spectrum(f"{name} head {h}", got["head"][h], one, EPS[dtype])
    flat = np.array([one.ravel() for one in slices])
    with np.errstate(all="ignore"):
        unit = flat / np.sqrt((flat**2).sum(1, keepdims=True))
    correlation = unit @ unit.T
    close(name, np.reshape(got["correlation"], (count, count)), correlation, TIGHT)
    pairs = correlation[np.triu_indices(count, 1)]
    pairs = pairs[~np.isnan(pairs)]
    mean, low, high = got["more"]
    close(name, mean, pairs.mean() if pairs.size else np.nan, TIGHT)
    if x.shape[0] != x.shape[1]:
        assert np.isnan([low, high]).all()
        return
    modulus = np.abs(np.linalg.eigvals(x))
    close(name, high, modulus.max(), TIGHT, np.abs(x).max() * len(x))
    # eigenvalues of a defective matrix are exact to a root of eps only
    close(name, low, modulus.min(), 1e-6, np.abs(x).max() * len(x))


def check_circuits(got, matrices, shape, dtypes):
    heads, kv_heads, head_dim = shape
    group = heads // kv_heads
    for name, left, right in (("wq_wk", "wq", "wk"), ("wv_wo", "wo", "wv")):
        assert (name in got) == (left in matrices and right in matrices)
        if name not in got:
            continue
        assert len(got[name]) == heads
        epsilon = max(EPS[dtypes[left]], EPS[dtypes[right]])
        whole = np.isfinite(matrices[left]).all() and np.isfinite(matrices[right]).all()
        x = slices_of(left, matrices[left], heads, head_dim)
        y = slices_of(right, matrices[right], kv_heads, head_dim)
        for h in range(heads):
            if not whole:
                check_no_spectrum(got[name][h])
                continue
            product = x[h].T @ y[h // group] if name == "wq_wk" else x[h] @ y[h // group]
            check_spectrum(f"{name} head {h}", got[name][h], product, epsilon, count=min(head_dim, *product.shape))


def check(shape, matrices, dtypes, folder, offset=0):
    got = run_cli(shape, matrices, dtypes, folder, offset)
    matrices = {name: decode(encode(x, dtypes[name]), dtypes[name]) for name, x in matrices.items()}
    assert got["heads"] == shape[0]
    for name in ("wq", "wk", "wv", "wo"):
        assert (name in got) == (name in matrices)
        if name in got:
            check_projection(name, got[name], matrices[name], shape, dtypes[name])
    check_circuits(got, matrices, shape, dtypes)


# the cases

SHAPES = [  # heads, kv_heads, head_dim, in of q, in of k and v, out of o
    (1, 1, 1, 1, 1, 1), (2, 2, 1, 2, 2, 2), (1, 1, 4, 4, 4, 4), (4, 4, 8, 32, 32, 32), (4, 2, 8, 32, 32, 32),
    (6, 1, 5, 30, 30, 30), (4, 4, 8, 20, 20, 20), (3, 3, 16, 7, 7, 7), (4, 2, 6, 24, 17, 11), (8, 4, 16, 64, 64, 64),
    (12, 12, 4, 48, 48, 48),
]


def normal(rng, shape):
    return rng.normal(0, 1 / np.sqrt(shape[1]), shape)


def low_rank(rng, shape):
    return np.outer(rng.normal(0, 1, shape[0]), rng.normal(0, 1, shape[1])) + 1e-3 * normal(rng, shape)


def graded(rng, shape):
    return normal(rng, shape) * 10.0 ** rng.uniform(-2, 0, shape[0])[:, None]


def zero_head(rng, shape):
    x = normal(rng, shape)
    x[: max(1, shape[0] // 4)] = 0
    return x


def identity(rng, shape):
    return np.eye(*shape)


def identical(rng, shape):
    """Every head is the same head, whatever their number up to 12."""
    return np.tile(rng.normal(0, 1, (1, 1)), shape)


def not_finite(rng, shape):
    x = normal(rng, shape)
    x[tuple(rng.integers(0, n) for n in shape)] = rng.choice([np.nan, np.inf])
    return x


FILLS = {"normal": normal, "low_rank": low_rank, "graded": graded, "zero_head": zero_head, "identity": identity,
         "identical": identical, "not_finite": not_finite}
SENT = [("wq", "wk", "wv", "wo"), ("wq", "wk"), ("wv", "wo"), ("wo",), ("wk",), ("wq", "wv")]


def cases():
    turn = 0
    for fill in FILLS:
        for shape in SHAPES:
            for dtype in DTYPES:
                yield fill, shape, dtype, SENT[turn % len(SENT)] if turn % 3 == 0 else SENT[0]
                turn += 1


@pytest.mark.parametrize("fill,shape,dtype,sent", list(cases()))
def test_case(fill, shape, dtype, sent, tmp_path):
    rng = np.random.default_rng(zlib.crc32(repr((fill, shape, dtype, sent)).encode()))
    heads, kv_heads, head_dim, in_q, in_kv, out = shape
    sizes = {"wq": (heads * head_dim, in_q), "wk": (kv_heads * head_dim, in_kv), "wv": (kv_heads * head_dim, in_kv),
             "wo": (out, heads * head_dim)}
    matrices = {name: FILLS[fill](rng, sizes[name]) for name in sent}
    dtypes = {name: dtype if rng.random() < 0.7 else str(rng.choice(DTYPES)) for name in sent}
    check((heads, kv_heads, head_dim), matrices, dtypes, tmp_path, int(rng.integers(0, 8)))


def refused(shape, sizes, folder):
    matrices = {name: np.ones(size) for name, size in sizes.items()}
    return "error" in run_cli(shape, matrices, dict.fromkeys(sizes, "f32"), folder)


@pytest.mark.parametrize("shape,sizes", [
    ((2, 2, 4), {}),
    ((2, 2, 4), {"wq": (9, 8)}),
    ((2, 1, 4), {"wk": (8, 8)}),
    ((2, 1, 4), {"wv": (8, 8)}),
    ((2, 2, 4), {"wo": (8, 9)}),
    ((3, 2, 4), {"wq": (12, 8)}),
    ((2, 2, 4), {"wk": (8, 8), "wv": (8, 7)}),
    ((0, 1, 4), {"wq": (8, 8)}),
    ((2, 0, 4), {"wq": (8, 8)}),
    ((2, 2, 0), {"wq": (8, 8)}),
])
def test_shapes_that_do_not_fit_are_refused(shape, sizes, tmp_path):
    assert refused(shape, sizes, tmp_path)


def test_a_rotation_has_eigenvalues_of_modulus_one(tmp_path):
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(0, 1, (12, 12)))
    got = run_cli((3, 3, 4), {"wq": q}, {"wq": "f64"}, tmp_path)["wq"]
    close("eigenvalues", got["more"][1:], [1, 1], 1e-12)
    close("condition", got["whole"]["condition_number"], 0, 1e-4)
    assert got["whole"]["rank"] == 12


def test_bf16_parameters_have_a_rank(tmp_path):
    """With the eps of bf16 the bound of a matrix of 256 columns would be twice its norm."""
    x = np.random.default_rng(2).normal(0, 1, (256, 256))
    got = run_cli((4, 4, 64), {"wq": x}, {"wq": "bf16"}, tmp_path)["wq"]
    assert got["whole"]["rank"] > 250
