# SPDX-License-Identifier: MIT
"""What the kernel tests have in common: dtypes as bytes, running a command line of this folder, and comparing numbers.

KERNEL_CASES=1 runs all cases, not only a tenth; KERNEL_REPORT=1 prints the largest error of each kind, as a share of its
tolerance."""

import json
import os
import subprocess

import numpy as np

DTYPES = ["f32", "f64", "f16", "bf16"]
# Precision of the arithmetic, which is f32 for the narrow ones.
EPS = {"f32": 2.0**-23, "f64": 2.0**-52, "f16": 2.0**-23, "bf16": 2.0**-23}
# The part of the cases that is run.
SHARE = float(os.environ.get("KERNEL_CASES", "0.1"))


def encode(x, dtype):
    """float64 as the little-endian numbers of a message; bf16 rounds to nearest even."""
    with np.errstate(over="ignore"):
        if dtype != "bf16":
            return x.astype({"f32": "<f4", "f64": "<f8", "f16": "<f2"}[dtype])
        bits = x.astype("<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype("<u2")


def decode(raw, dtype):
    if dtype == "bf16":
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return (raw.astype("<u4") << 16).view("<f4").astype(np.float64)
    return raw.astype(np.float64)


def csv(values):
    return ",".join(str(int(v)) for v in values)


def write(folder, name, array):
    """Writes the array to a file of that name; the argument that says so."""
    path = os.path.join(folder, name)
    np.ascontiguousarray(array).tofile(path)
    return f"{name}={path}"


def case_arguments(case, folder, cuts, names):
    """The keys of a case (cases.py): `names`, which are flags and numbers, and what else there is of it."""
    for name in names:
        yield f"{name}={int(getattr(case, name))}"
    yield f"self={int(case.is_self)}"
    for name, value in (("q_len", case.q_len), ("k_len", case.k_len), ("cuts", cuts)):
        if value is not None and len(value) > 0:
            yield f"{name}={csv(value)}"
    for name, value, dtype in (("mask", case.mask, "u1"), ("documents", case.documents, "<i4"),
                               ("tokens", case.tokens, "<i4")):
        if value is not None:
            yield write(folder, name, value.astype(dtype))


def run_json(args):
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(args)}\n{done.stderr}"
    return json.loads(done.stdout)


def instruction_sets(cli):
    """Of this machine, the scalar reference first; KERNEL_ISA chooses some of them."""
    if not cli:
        return ["scalar"]
    known = subprocess.run([cli, "isa=list"], capture_output=True, text=True, check=True).stdout.split()
    asked = os.environ.get("KERNEL_ISA")
    return [name for name in known if asked is None or name in asked.split(",")]


worst = {}  # family -> its largest error, as a share of its tolerance


def close(family, got, want, tolerance, scale=1.0):
    """Errors are relative to the larger of `scale` and the number itself."""
    got, want = np.asarray(got, float), np.asarray(want, float)
    assert (np.isnan(got) == np.isnan(want)).all(), f"{family}: got {got}, want {want}"
    some = ~np.isnan(want)
    if not some.any():
        return
    base = np.maximum(np.abs(want), np.maximum(scale, 1e-300))[some]
    with np.errstate(invalid="ignore"):
        error = np.where(got[some] == want[some], 0, np.abs(got[some] - want[some]) / base).max()
    assert error <= tolerance, f"{family}: got {got}, want {want}, error {error:.3g} > {tolerance:.3g}"
    worst[family] = max(worst.get(family, 0), error / tolerance if error else 0)


# The numbers of a spectrum that json_spectrum of cli.c prints, and of which one that is not finite has none.
SPECTRUM = ["spectral_norm", "stable_rank", "condition_number", "rank", "effective_rank", "effective_rank_entropy",
            "nuclear_norm"]


def numbers_of(spectrum):
    return [spectrum[name] for name in SPECTRUM]


def check_no_spectrum(got):
    assert np.isnan(numbers_of(got)).all() and np.isnan(got["singular_values"]).all()


def check_ranks(s, rank, effective, condition, bound, margin=1e-9):
    """The numbers of singular values `s` above `bound` and above 1 % of the largest; a rank that is short has no condition."""
    assert (s > bound * 1.5).sum() <= rank <= (s > bound / 1.5).sum(), f"rank {rank}, {s}, {bound}"
    assert (s > 0.01 * s[0] * (1 + margin)).sum() <= effective <= (s > 0.01 * s[0] * (1 - margin)).sum()
    assert np.isnan(condition) == (rank < s.size)
