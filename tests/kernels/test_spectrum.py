# SPDX-License-Identifier: MIT
"""Spectra in float64: every number of the section Spectrum of workers/KERNELS.md, from singular values of numpy and by the
formulas of clients/python/examples/reference_spectrum.py, against the scalar code and every effort, over maps that are hard in
different ways.

KERNELS.md promises, with the reasons: the scalar code 1e-13 of s1; spectral_norm and stable_rank 1e-4; leading
values 1e-3, or 5e-5 s1 where that is more; all values max(m, n) 2^-24 s1. Counts may differ by the values that lie
within the error of the bound they are compared with.
SPECTRUM_CLI names the executable."""

import os

import numpy as np
import pytest

from driver import EPS, SPECTRUM, decode, encode, run_json
from formulas import spectra

CLI = os.environ.get("SPECTRUM_CLI", "")
NUMBERS = [*SPECTRUM, "eigenvalue_2"]
NORM = ["spectral_norm", "stable_rank"]


# maps


def softmax(x):
    x = np.exp(x - x.max(1, keepdims=True))
    return x / x.sum(1, keepdims=True)


def with_values(rng, rows, columns, s):
    """A matrix with these singular values."""
    u = np.linalg.qr(rng.standard_normal((rows, len(s))))[0]
    v = np.linalg.qr(rng.standard_normal((columns, len(s))))[0]
    return (u * s) @ v.T


def square_maps(rng, n):
    g = rng.standard_normal((n, n))
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    below = np.tril(np.ones((n, n))) > 0
    q, k = rng.standard_normal((2, n, 16))
    one_hot = np.zeros((n, n))
    one_hot[:, n // 3] = 1
    yield "softmax", softmax(g)
    yield "flat", softmax(0.05 * g)
    yield "sharp", softmax(5 * g)
    yield "sharper", softmax(40 * g)
    yield "of queries and keys", softmax(q @ k.T / 4)
    yield "causal", softmax(np.where(below, g, -np.inf))
    yield "causal and sharp", softmax(np.where(below, 6 * g, -np.inf))
    yield "window", softmax(np.where(below & (distance < 8), g, -np.inf))
    yield "anti-causal", softmax(np.where(below.T, g, -np.inf))
    yield "local", softmax(-distance / 3 + 0.1 * g)
    yield "smooth", softmax(-((distance / 60) ** 2))
    yield "sink", softmax(g + np.where(np.arange(n) == 0, 9, 0))
    yield "nearly the identity", softmax(g + 18 * np.eye(n))
    yield "half an identity", softmax(g + np.log(n) * np.eye(n) * rng.random(n) * 2)
    yield "uniform", np.full((n, n), 1 / n)
    yield "identity", np.eye(n)
    yield "permutation", np.eye(n)[rng.permutation(n)]
    yield "previous token", np.vstack([np.eye(n)[:1], np.eye(n)[:-1]])
    yield "next token", np.vstack([np.eye(n)[1:], np.eye(n)[-1:]])
    yield "cycle", np.roll(np.eye(n), 1, axis=1)
    yield "one key", one_hot
    yield "few kinds of rows", softmax(3 * rng.standard_normal((5, n)))[rng.integers(0, 5, n)]
    for copies in (2, 4):
        b = softmax(2 * rng.standard_normal((n // copies, n // copies)))
        yield f"{copies} equal documents", np.kron(np.eye(copies), b)
    yield "a spike in the bulk", softmax(g) + 1.5 * np.outer(np.eye(n)[5], np.eye(n)[9])
    yield "documents", np.kron(np.eye(5), np.full((n // 5, n // 5), 5 / n))


def made(rng, rows, columns):
    n = min(rows, columns)
    yield "decades", with_values(rng, rows, columns, 10.0 ** -np.linspace(0, 6, n))
    yield "steep", with_values(rng, rows, columns, 10.0 ** -np.linspace(0, 40, n))
    yield "clustered", with_values(rng, rows, columns, 1 - 1e-4 * np.arange(n) / n)
    yield "clusters", with_values(rng, rows, columns, np.repeat([1, 0.5, 0.2, 0.01], [3, 20, 20, n - 43]))
    yield "short rank", with_values(rng, rows, columns, np.linspace(1, 0.1, 20))
    yield "orthogonal", with_values(rng, rows, columns, np.ones(n))
    yield "gap at 17", with_values(rng, rows, columns, np.repeat([1, 1e-3], [17, n - 17]))
    yield "normal", rng.standard_normal((rows, columns))
    yield "softmax", softmax(rng.standard_normal((rows, columns)))


def spectrum(folder, maps, dtype, stride=None):
    """What the C code says of the maps, and the maps as it saw them."""
    rows, columns = maps[0].shape
    raw = [encode(m, dtype) for m in maps]
    sent = raw
    if stride:
        sent = [np.concatenate([m, np.full((rows, stride - columns), 0x7FC0, m.dtype)], 1) for m in raw]
    path = os.path.join(folder, "maps")
    np.stack(sent).tofile(path)
    args = [CLI, path, dtype, str(rows), str(columns)] + ([str(stride)] if stride else [])
    return run_json(args), [decode(m, dtype) for m in raw]


# the formulas


def truth(a, eps):
    s = np.linalg.svd(a, compute_uv=False)
    found = spectra.of_values(s, a.shape, eps)
    want = {**dict.fromkeys(NUMBERS, np.nan), **found.numbers}
    want.update(singular_values=found.singular_values, low_rank_error=found.low_rank_error)
    if a.shape[0] == a.shape[1] > 1:
        want["eigenvalue_2"] = np.sort(np.abs(np.linalg.eigvals(a)))[-2]
    return want, s


def close(got, want, tolerance, what):
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert (np.isnan(got) == np.isnan(want)).all(), f"{what}: {got}, want {want}"
    wrong = ~np.isnan(want) & ~(np.abs(got - want) <= tolerance)
    assert not wrong.any(), f"{what}: {got[wrong]}, want {want[wrong]}, off by {np.abs(got - want)[wrong]}"


def count_close(got, s, bound, error, what):
    """A number of values above the bound, each of which is known up to `error`."""
    low, high = np.sum(s > bound + error), np.sum(s > bound - error)
    assert low <= got <= high, f"{what}: {got}, want {low} to {high}"


def check_norm(got, want, what):
    close(got["spectral_norm"], want["spectral_norm"], 1e-4 * want["spectral_norm"], what + " s1")
    close(got["stable_rank"], want["stable_rank"], 2e-4 * np.abs(want["stable_rank"]), what + " stable rank")


def check_leading(got, want, what):
    check_norm(got, want, what)
    s = want["singular_values"]
    close(got["singular_values"], s, np.maximum(1e-3 * np.abs(s), 5e-5 * s[0]), what + " values")
    close(got["low_rank_error"], want["low_rank_error"], 3e-3, what + " low rank error")


def check_full(got, want, s, shape, eps, error, what):
    first = s[0]
    check_norm(got, want, what)
    close(got["singular_values"], want["singular_values"], error * first, what + " values")
    close(got["low_rank_error"], want["low_rank_error"], error * np.sqrt(len(s)), what + " low rank error")
    count_close(got["effective_rank"], s, 0.01 * first, error * first, what + " effective rank")
    count_close(got["rank"], s, first * max(shape) * eps, error * first, what + " rank")
    close(got["nuclear_norm"], s.sum(), error * len(s) * first, what + " nuclear norm")
    # d exp(H) is about exp(H) ln(n) of the relative change of the sum
    entropy = want["effective_rank_entropy"]
    close(got["effective_rank_entropy"], entropy, entropy * error * len(s) * first / max(s.sum(), 1e-300) * 10,
          what + " entropy")
    if got["rank"] == len(s) and want["rank"] == len(s):
        relative = error * first / s[-1]
        close(got["condition_number"], want["condition_number"], relative / np.log(10) + 1e-12, what + " condition")
    else:
        assert np.isnan(got["condition_number"]) == (got["rank"] < len(s))


def check_eigenvalue(got, a, want, what):
    """Eigenvalues move by more than the rounding where the map is not normal: numpy's own differ by as much
    when the map is transposed."""
    if np.isnan(want):
        assert np.isnan(got)
        return
    if (np.triu(a, 1) == 0).all() or (np.tril(a, -1) == 0).all():
        want = np.sort(np.abs(np.diag(a)))[-2]
    other = np.sort(np.abs(np.linalg.eigvals(a.T)))[-2]
    close(got, want, 1e-9 * max(1, np.abs(a).max()) + 3 * abs(want - other), what + " eigenvalue")


def check(got, a, dtype, what):
    want, s = truth(a, EPS[dtype])
    check_full(got["ref"], want, s, a.shape, EPS[dtype], 1e-13, what + ": ref")
    check_norm(got["norm"], want, what + ": norm")
    check_leading(got["leading"], want, what + ": leading")
    error = 1e-13 if dtype == "f64" or min(a.shape) <= 128 else max(a.shape) * 2.0**-24
    check_full(got["full"], want, s, a.shape, EPS[dtype], error, what + ": full")
    check_eigenvalue(got["full"]["eigenvalue_2"], a, want["eigenvalue_2"], what)
    for effort, names in (("norm", NORM), ("leading", NORM)):
        left_out = [got[effort][name] for name in NUMBERS if name not in names]
        assert np.isnan(left_out).all()
    assert np.isnan(got["norm"]["singular_values"] + got["norm"]["low_rank_error"]).all()


def run(folder, named, dtype, stride=None):
    names, maps = zip(*named)
    results, seen = spectrum(folder, maps, dtype, stride)
    for name, got, a in zip(names, results, seen):
        check(got, a, dtype, f"{name} {a.shape} {dtype}")


@pytest.mark.parametrize("n, dtype", [(20, "f32"), (20, "f64"), (20, "f16"), (20, "bf16"), (140, "f32"), (140, "f64")])
def test_square_maps(tmp_path, n, dtype):
    run(tmp_path, list(square_maps(np.random.default_rng(n), n)), dtype)


def test_a_large_map(tmp_path):
    run(tmp_path, list(square_maps(np.random.default_rng(7), 520))[:1], "f32")


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("shape", [(129, 129), (130, 130), (150, 401), (401, 150), (192, 192), (144, 160), (60, 300)])
def test_made_matrices(tmp_path, shape, dtype):
    run(tmp_path, list(made(np.random.default_rng(sum(shape)), *shape)), dtype)


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "f64"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5), (131, 135)])
def test_padding_is_not_read(tmp_path, shape, dtype):
    rng = np.random.default_rng(3)
    run(tmp_path, [("padded", softmax(rng.standard_normal(shape)))] * 2, dtype, stride=shape[1] + 3)


@pytest.mark.parametrize("seed, shape, scale, dtype", [
    *((n, (n, n), scale, "f64") for scale in (1e-300, 1e-150, 1e150, 1e300) for n in (5, 140)),
    *((1, (150, 140), scale, "f32") for scale in (1e-37, 1e-20, 1e20, 1e36))])
def test_scale(tmp_path, seed, shape, scale, dtype):
    run(tmp_path, [("scaled", scale * np.random.default_rng(seed).standard_normal(shape))], dtype)


def test_the_tiniest(tmp_path):
    """Denormals alone: what the entries are worth relative to each other counts."""
    rng = np.random.default_rng(2)
    run(tmp_path, [("denormal", np.float32(1e-45) * rng.integers(0, 2000, (140, 140)))], "f32")


@pytest.mark.parametrize("n", [3, 200])
def test_zero(tmp_path, n):
    run(tmp_path, [("zero", np.zeros((n, n)))], "f32")


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, bad, dtype):
    for n in (4, 140):
        a = np.full((n, n), 1 / n)
        a[n - 1, n // 2] = bad
        got = spectrum(tmp_path, [a], dtype)[0][0]
        for numbers in got.values():
            assert np.isnan([numbers[name] for name in NUMBERS]).all()
            assert np.isnan(numbers["singular_values"] + numbers["low_rank_error"]).all()


def test_row_stochastic_bounds(tmp_path):
    """1 <= s1 <= sqrt(T)."""
    maps = [m for _, m in square_maps(np.random.default_rng(1), 160) if np.allclose(m.sum(1), 1)]
    for got in spectrum(tmp_path, maps, "f32")[0]:
        for numbers in got.values():
            assert 1 - 1e-4 <= numbers["spectral_norm"] <= np.sqrt(160) * (1 + 1e-4)
