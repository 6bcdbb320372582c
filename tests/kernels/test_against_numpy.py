# SPDX-License-Identifier: MIT
"""The kernels against numpy: every number of the attention tier (formulas.py) for every case (cases.py), of the reference
and of an instruction set of this machine in turn.

Each case is run twice: as one block, and cut at random rows. Both must agree with numpy and with each other.

Tolerances are those of workers/KERNELS.md: the f64 reference is held to 1e-13 (it reaches about 1e-15) and to
itself bit for bit in counts and histograms; faster paths to 1e-5 for sums of weights and 1e-4 nats for
entropies. KERNEL_CLI names the executable; KERNEL_CASES=1 runs all cases with all instruction sets;
KERNEL_ISA=avx2,... some instruction sets only."""

import os
import zlib
from dataclasses import dataclass

import numpy as np
import pytest

import formulas
from cases import build, grid, title
from driver import (EPS, SHARE, case_arguments, check_no_spectrum, check_ranks, close, csv, decode, encode, instruction_sets,
                    numbers_of, run_json, write)
from formulas import MOMENTS, NATS, QK_METRICS, ROW_METRICS

CLI = os.environ.get("KERNEL_CLI", "")
UNTOUCHED = -12345.0
SPECTRUM_METRICS = ["spectral_norm", "condition_number", "rank", "effective_rank", "effective_rank_entropy",
                    "stable_rank", "nuclear_norm", "eigenvalue_2", "qk_spectral_norm", "qk_condition_number",
                    "qk_rank", "qk_effective_rank", "qk_effective_rank_entropy", "qk_stable_rank",
                    "qk_nuclear_norm"]
QUANTILES = [0, 0.01, 0.25, 0.5, 0.9, 0.99, 1]
BUCKET_HALF = 2 ** (1 / 64) * (1 + 1e-9)
SVD = 1e-13


@dataclass(frozen=True)
class Tolerance:
    """Relative to max(scale, |truth|); what the scale is depends on the number."""

    sums: float
    nats: float
    weights: float  # entries as they are
    std: float  # half as exact as a variance where the variance is nearly 0
    score: float  # of the largest importance score
    margin: float  # soundness may toss a coin this near the tolerance
    smallest: float  # what is below is as good as 0: f32 lanes end there
    exact: bool  # counts, order and histograms bit for bit

    def of(self, metric):
        return self.nats if metric in NATS else self.sums


REFERENCE = Tolerance(1e-13, 1e-13, 1e-13, 1e-9, 1e-12, 1e-9, 1e-300, True)
FAST = Tolerance(1e-5, 1e-4, 1e-6, 1e-3, 2e-6, 2e-6, 1e-32, False)


def tolerance_of(isa):
    return REFERENCE if isa == "scalar" else FAST


# running the C code


def arguments(case, folder, cuts):
    yield write(folder, "weights", encode(case.weights, case.dtype))
    yield f"dtype={case.dtype}"
    yield f"shape={csv(case.weights.shape)}"
    yield f"groups={case.groups}"
    yield from case_arguments(case, folder, cuts, ("causal", "window", "q_offset", "q_stride", "dropout", "learned_sink", "maps",
                                                   "local_window", "top_pairs", "offset", "spectrum"))


def run_cli(case, folder, cuts, isa):
    return run_json([CLI, f"isa={isa}", *arguments(case, folder, cuts)])


# comparing


def check_quantiles(name, got, sample, slack):
    """In the bucket of a value that was seen, or of one that is within the tolerance of it."""
    ordered = np.sort(sample)
    for q, value in zip(QUANTILES, got):
        if not sample.size:
            assert np.isnan(value)
            continue
        want = ordered[max(int(np.ceil(q * sample.size)), 1) - 1]
        bounds = [(want + sign * slack) * side for sign in (-1, 1) for side in (BUCKET_HALF, 1 / BUCKET_HALF)]
        assert min(bounds) - 2.0**-40 <= value <= max(bounds) + 2.0**-40, f"{name} q={q}: {value}, want {want}"


def check_row_metric(name, dists, values, exists, sound, got_mean, tolerance):
    exists = np.broadcast_to(exists, sound.shape)
    for h, dist in enumerate(dists):
        sample = values[:, h][sound[:, h] & exists[:, h]]
        assert dist["n"] == sample.size, f"{name}: {dist['n']} rows, want {sample.size}"
        assert sum(count for _, count in dist["hist"]) == sample.size
        keys = [key for key, _ in dist["hist"]]
        assert keys == sorted(set(keys))
        mean, variance, low, high = dist["moments"]
        scale = max(1, np.abs(sample).max()) if sample.size else 1
        within = tolerance.of(name)
        close(name, mean, sample.mean() if sample.size else np.nan, within, scale)
        close(name, got_mean[h], mean, 1e-13)
        close(name + " variance", variance, sample.var(ddof=1) if sample.size > 1 else np.nan, within,
              scale**2)
        if sample.size:
            close(name, [low, high], [sample.min(), sample.max()], within, scale)
        check_quantiles(name, dist["quantiles"], sample, max(within * scale, 1e-12))


def check_moments(got, truth, tolerance):
    for h in range(truth.a.shape[1]):
        want = [truth.heads[name][h] for name in MOMENTS]
        scale = np.nanmax(np.abs([*want[1:3], 0])) or 1
        mean, low, high, std, variance = (got[name][h] for name in MOMENTS)
        close("mean", mean, want[0], tolerance.sums, scale)
        close("min, max", [low, high], want[1:3], tolerance.weights, tolerance.smallest)
        close("std", std, want[3], tolerance.std, scale)
        close("variance", variance, want[4], tolerance.sums, scale**2)
        if not np.isnan(variance):
            close("std, variance", std, np.sqrt(variance), 1e-12, 0)


def check_maps(case, got, truth, tolerance):
    for stats, one in zip(got["aggregate"], truth.maps):
        want = formulas.statistics(one) if case.maps else [np.nan] * 4
        finite = one[np.isfinite(one)]
        scale = max(np.abs(finite).max(), tolerance.smallest) if finite.size else 1
        close("aggregate", stats[:3], want[:3], tolerance.sums, scale)
        close("aggregate std", stats[3], want[3], tolerance.std, scale)


def check_rows(got, truth, tolerance):
    assert got["rows"] == truth.sound.sum()
    assert got["invalid_rows"] == (truth.query & ~truth.sound).sum()
    close("row_sum_error", got["row_sum_error"], truth.error, tolerance.sums)


def check_core(case, got, truth, tolerance):
    values = got["values"]
    if "c" not in case.groups:
        for name in ROW_METRICS + MOMENTS + QK_METRICS + ["locality"]:
            assert set(values[name]) == {UNTOUCHED}
        return
    for name, (want, exists) in truth.rows.items():
        check_row_metric(name, got["dists"][name], want, exists, truth.sound, values[name], tolerance)
    check_moments(values, truth, tolerance)
    for name in sorted(set(truth.heads) - set(MOMENTS)):
        close(name, values[name], truth.heads[name], tolerance.sums)
    for name in QK_METRICS:
        assert np.isnan(values[name]).all()
    for h, name in enumerate(got["patterns"]):
        assert name == formulas.pattern({metric: values[metric][h] for metric in ROW_METRICS})
    close("sink_rate", got["sink_rate"], formulas.heads.sink_rate(values["first_token"]), 1e-15)


def check_importance(case, got, truth, tolerance):
    values = got["values"]
    if "i" not in case.groups:
        assert set(values["importance"] + values["importance_gradient"]) == {UNTOUCHED}
        return
    importance, scores = formulas.importance(truth.a)
    scores = scores[np.isfinite(scores)]
    size = max(1, np.abs(scores).max()) if scores.size else 1
    close("importance", values["importance"], importance, min(1, tolerance.score * size))
    assert np.isnan(values["importance_gradient"]).all()


def check_pairs(case, got, truth, tolerance):
    pairs = got["pairs"]
    want = formulas.top_pairs(truth.average, case.top_pairs) if "p" in case.groups else []
    close("pairs", [w for _, _, w in pairs], [w for _, _, w in want], tolerance.sums)
    assert [(-w, q, k) for q, k, w in pairs] == sorted((-w, q, k) for q, k, w in pairs)
    if tolerance.exact:
        assert [(q, k) for q, k, _ in pairs] == [(i, j) for i, j, _ in want]
    else:  # which of two entries that differ by rounding comes first is open
        assert len({(q, k) for q, k, _ in pairs}) == len(pairs)
        close("pairs", [w for _, _, w in pairs], [truth.average[q, k] for q, k, _ in pairs], tolerance.sums)


def check_pool(got, truth, tolerance):
    """Half an ulp, and what the mean itself may be off by; padding and what is not finite are left out."""
    want, scale = formulas.pooled(truth.mean_map)
    cells = np.array(got["pool"], np.uint16).view(np.float16).astype(float).reshape(want.shape)
    finite = np.isfinite(want) & (np.abs(want) < 65520)
    assert (np.isnan(cells) == np.isnan(want)).all()
    rounding = np.maximum(np.spacing(np.abs(want[finite]).astype(np.float16)).astype(float), 2.0**-24) / 2
    assert (np.abs(cells[finite] - want[finite]) <= rounding * (1 + 1e-9) + tolerance.sums * scale[finite]).all()
    assert (cells[np.abs(want) > 65536] == np.copysign(np.inf, want[np.abs(want) > 65536])).all()


def check_spectrum(got, rectangle, dtype):
    norm, _, condition, rank, effective, _, _ = numbers_of(got)
    if rectangle.size == 0 or not np.isfinite(rectangle).all():
        check_no_spectrum(got)
        return
    s = np.linalg.svd(rectangle, compute_uv=False)
    want = np.full(16, np.nan)
    want[: min(16, s.size)] = s[:16]
    close("singular values", got["singular_values"], want, SVD, s[0] or 1)
    assert norm == got["singular_values"][0]
    check_ranks(s, rank, effective, condition, s[0] * max(rectangle.shape) * EPS[dtype])
    if rank == s.size:
        close("condition number", condition, np.log10(s[0] / s[-1]), 1e-12 + 1e-13 * s[0] / s[-1])


def check_spectra(case, got, truth):
    q_len, k_len = formulas.lengths(case)
    spectra = iter(got["spectra"])
    for b in range(truth.a.shape[0]):
        for h in range(truth.a.shape[1]):
            check_spectrum(next(spectra), truth.a[b, h, : q_len[b], : k_len[b]], case.dtype)


def same_after_cutting(whole, cut, tolerance):
    """Counts, and of the reference extremes and histograms, bit for bit; the rest was compared with numpy."""
    for key in ("rows", "invalid_rows"):
        assert whole[key] == cut[key]
    assert whole["pairs"] == cut["pairs"] or not tolerance.exact
    for name in ROW_METRICS:
        for one, other in zip(whole["dists"][name], cut["dists"][name]):
            assert one["n"] == other["n"]
            if tolerance.exact and one["n"]:
                assert one["hist"] == other["hist"]
                assert one["moments"][2:] == other["moments"][2:]
                assert one["quantiles"] == other["quantiles"]


class Truth:
    """Everything that numpy says about a case."""

    def __init__(self, case):
        self.case = case
        self.a = decode(encode(case.weights, case.dtype), case.dtype)
        self.sound, self.query, self.error = formulas.judge(case, self.a)
        self.rows = formulas.row_values(case, self.a, case.local_window)
        self.heads = formulas.head_values(case, self.a, self.sound)
        self.maps = formulas.maps(self.a)
        self.mean_map = np.where(formulas.shown(case), self.maps[1], np.nan)  # without padding
        self.average = formulas.average_of_samples(self.mean_map)

    def toss_up(self, margin):
        """Whether rounding by `margin` decides about some row."""
        try:
            formulas.judge(self.case, self.a, margin)
        except formulas.TossUp:
            return True
        return False


def sets_of(cell):
    """The reference and one of the faster ones in turn: kernel_check compares all of them on random cases."""
    known = instruction_sets(CLI)
    turn = zlib.crc32(repr(cell).encode()) % max(1, len(known) - 1)
    return known if SHARE >= 1 or "KERNEL_ISA" in os.environ else known[:1] + known[1 + turn:2 + turn]


@pytest.mark.parametrize("cell", grid(), ids=title)
def test_case(cell, tmp_path):
    truth = Truth(build(*cell))
    judged = [isa for isa in sets_of(cell) if not truth.toss_up(tolerance_of(isa).margin)]
    for isa in judged:
        check_case(truth, isa, tmp_path)
    if not judged:
        pytest.skip("rounding decides whether a row is sound")


def check_case(truth, isa, folder):
    case, tolerance = truth.case, tolerance_of(isa)
    results = [run_cli(case, folder, cuts, isa) for cuts in ([], case.cuts)]
    for got in results:
        check_rows(got, truth, tolerance)
        check_core(case, got, truth, tolerance)
        check_maps(case, got, truth, tolerance)
        check_importance(case, got, truth, tolerance)
        check_pairs(case, got, truth, tolerance)
        check_pool(got, truth, tolerance)
        assert {x for name in SPECTRUM_METRICS for x in got["values"][name]} == {UNTOUCHED}
        if case.spectrum and isa == "scalar":
            check_spectra(case, got, truth)
    same_after_cutting(*results, tolerance)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_all_half_codes_load_exactly(dtype, tmp_path):
    codes = np.arange(65536, dtype="<u2")
    codes.tofile(tmp_path / "codes")
    args = [CLI, f"weights={tmp_path / 'codes'}", f"dtype={dtype}", "shape=1,1,256,256", "groups=", "dump=1"]
    got = run_json(args)["weights"]
    want = decode(codes.view("<f2") if dtype == "f16" else codes, dtype)
    np.testing.assert_array_equal(np.ravel(got), want)
    assert (np.signbit(np.ravel(got)) == np.signbit(want))[~np.isnan(want)].all()
