# SPDX-License-Identifier: MIT
"""reference_compare: the numbers that came back against those of the reference, and how far apart they may be.

The kernels compute in single precision inside a row and in double precision across rows. Against float64, sums of
weights are right within 1e-5, relative, and entropies within 1e-4 nats. The first singular value is right within
1e-4, the others within 1e-3, or within 1e-5 of the first where they are below a hundredth of it. Quantiles come from a
histogram whose buckets are 2.2 % wide, or wider where values spread so far that this takes too many.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

RELATIVE, ENTROPY_ABSOLUTE, SPECTRUM_RELATIVE = 1e-5, 1e-4, 1e-3
FLOOR = 1e-8
QUANTILES = ("p10", "p50", "p90", "p99")
ENTROPIES = ("entropy", "entropy_normalized", "entropy_sans_first", "head_js")
DEFICITS = ("row_sum_error", "tail_mass", "sink_deficit")  # differences from 1


class Tolerance(NamedTuple):
    """The tolerance of a number: relative to it, plus absolute."""
    relative: float = RELATIVE
    absolute: float = FLOOR


TOLERANCES = {
    **dict.fromkeys(ENTROPIES, Tolerance(RELATIVE, ENTROPY_ABSOLUTE)),
    "effective_keys": Tolerance(ENTROPY_ABSOLUTE, FLOOR),  # exp of an entropy
    **dict.fromkeys(DEFICITS, Tolerance(RELATIVE, RELATIVE)),
    "head_similarity": Tolerance(RELATIVE, RELATIVE),
    "sink_rate": Tolerance(0, FLOOR),
    "spectral_norm": Tolerance(1e-4, FLOOR),
    "stable_rank": Tolerance(1e-4, FLOOR),
    "nuclear_norm": Tolerance(SPECTRUM_RELATIVE, FLOOR),
    "effective_rank_entropy": Tolerance(SPECTRUM_RELATIVE, FLOOR),
    "condition_number": Tolerance(RELATIVE, 1e-3),          # a logarithm
    "eigenvalue_2": Tolerance(SPECTRUM_RELATIVE, 1e-4),
    "low_rank_error": Tolerance(SPECTRUM_RELATIVE, 1e-4),
    "singular_values": Tolerance(SPECTRUM_RELATIVE, FLOOR),
    "rank": Tolerance(0, FLOOR),
    "effective_rank": Tolerance(0, FLOOR),
}
TOLERANCES.update({f"qk_{name}": TOLERANCES[name] for name in (
    "spectral_norm", "condition_number", "rank", "effective_rank", "effective_rank_entropy", "stable_rank",
    "nuclear_norm", "singular_values")})


class Deviation(NamedTuple):
    """One compared number: what came, what it should be, and the error in units of the tolerance."""
    name: str
    stat: str
    got: float
    want: float
    share: float  # <= 1 is fine

    @property
    def ok(self) -> bool:
        """Whether the number is right."""
        return self.share <= 1

    @property
    def text(self) -> str:
        """The mistakes, for people."""
        if self.name == "pattern":
            return f"{self.name}: {self.stat}"
        return f"{self.name} {self.stat}: got {self.got:.9g}, should be {self.want:.9g}"

    @property
    def error(self) -> float:
        """The error: in nats for entropies and weight for differences from 1 (not their quantiles), relative to the
        right number for all others."""
        if math.isnan(self.got) or math.isnan(self.want):
            return self.share
        as_it_is = self.name in ENTROPIES + DEFICITS and self.stat not in QUANTILES
        scale = 1.0 if as_it_is else max(abs(self.want), FLOOR)
        return abs(self.got - self.want) / scale


def compare(summary: Dict[str, Any], want: Dict[str, Any]) -> List[Deviation]:
    """Every number of `want` (from pool) against the summary; what the summary lacks counts as wrong."""
    found: List[Deviation] = []
    for name in ("messages", "rows", "invalid_rows"):
        found.append(_deviation(name, "", summary.get(name), want[name], 0, 0))
    found.append(_deviation("row_sum_error", "", summary.get("row_sum_error"), want["row_sum_error"],
                            *TOLERANCES["row_sum_error"]))
    slack = want["slack"]
    for group in ("heads", "spectrum"):
        for metric, stats in want[group].items():
            if metric != "pattern":
                found += _compare_stats(metric, (summary.get(group) or {}).get(metric), stats, slack.get(metric, 0.0))
    found += _compare_stats("sink_rate", summary.get("sink_rate"), want["sink_rate"], slack["sink_rate"])
    for name, stats in want["aggregate"].items():
        for stat, numbers in stats.items():
            got = ((summary.get("aggregate") or {}).get(name) or {}).get(stat)
            found += _compare_stats(f"aggregate.{name}.{stat}", got, numbers, slack.get(f"aggregate.{name}", 0.0))
    return found + _compare_newest(summary, want)


def _compare_newest(summary: Dict[str, Any], want: Dict[str, Any]) -> List[Deviation]:
    """The parts of a summary from the newest message only."""
    pattern = (summary.get("heads") or {}).get("pattern") or {}
    found = _compare_patterns(pattern.get("last"), want["patterns"])
    slack = float(want["slack"].get("top_pairs", 0.0))
    found += _compare_pairs("top_pairs", summary.get("top_pairs"), want["top_pairs"], want["pair_map"], slack)
    if "head_top_pairs" in want:
        got = summary.get("head_top_pairs") or [None] * len(want["head_top_pairs"])
        for pairs, right, truth in zip(got, want["head_top_pairs"], want["head_maps"]):
            found += _compare_pairs("head_top_pairs", pairs, right, truth, slack)
    if "similarity" in want:
        found += _compare_similarity(summary.get("similarity") or {}, want["similarity"])
    return found


# ----------------------------------------------------------------------------------------- statistics

def _compare_stats(metric: str, got: Optional[Dict[str, Any]], want: Dict[str, Any], slack: Any) -> List[Deviation]:
    """A metric none of whose heads has a value may be left out of the summary."""
    if got is None and not np.any(want["count"]):
        return []
    result = []
    for stat in [name for name in want if name not in ("width", "small")]:
        numbers = np.asarray(want[stat], dtype=np.float64)
        column = np.asarray(_padded((got or {}).get(stat), numbers.shape, stat), dtype=np.float64)
        relative, absolute = tolerance_of(metric, stat)
        if stat in QUANTILES:
            relative, absolute = want["width"], np.maximum(absolute, want["small"])
        relative = np.broadcast_to(relative, numbers.shape)
        allowed = np.broadcast_to(absolute + _extra(metric, stat, want, slack), numbers.shape)
        result += [_deviation(metric, stat, *four)
                   for four in zip(column.flat, numbers.flat, relative.flat, allowed.flat)]
    return result


def _padded(column: Any, shape: Sequence[int], stat: str) -> np.ndarray:
    """A column as an array of that shape. Lists of singular values end early: short ones are filled up; all others of
    another shape count as missing."""
    wide = np.full(shape, 0.0 if stat == "count" else math.nan)
    if len(shape) == 2 and isinstance(column, (list, np.ndarray)) and len(column) == shape[0]:
        for h, row in enumerate(column):
            if len(row) <= shape[1]:
                wide[h, :len(row)] = row
        return wide
    column = np.asarray(column, dtype=np.float64)
    return column if column.shape == tuple(shape) else np.full(shape, math.nan)


def tolerance_of(metric: str, stat: str) -> Tolerance:
    """How far a statistic of a metric may be off, before what _extra adds; quantiles: besides their buckets' width."""
    if stat == "count":
        return Tolerance(0, 0)
    return TOLERANCES.get(metric, Tolerance())


def _extra(metric: str, stat: str, want: Dict[str, Any], slack: Any) -> Any:
    """The allowance besides the tolerance. `slack`: for values that may be off for reasons of their own. A
    standard deviation is as wrong as the values are, however small it is. Small singular values: relative to the
    largest."""
    slack = np.asarray(slack, dtype=np.float64)
    if stat == "count":
        return np.where(np.isinf(slack), math.inf, 0.0)
    if metric.endswith("singular_values"):
        first = np.asarray(want["max"], dtype=np.float64)[:, :1]
        return slack + np.where(np.asarray(want["max"]) < 0.01 * first, RELATIVE * first, 0.0)
    if stat == "std":
        largest = np.fmax(np.abs(want["min"]), np.abs(want["max"]))
        return 2 * slack + tolerance_of(metric, "max").relative * largest
    return slack


def _deviation(name: str, stat: str, got: Any, want: float, relative: float, absolute: float) -> Deviation:
    got = math.nan if got is None else float(got)
    if math.isinf(absolute):
        return Deviation(name, stat, got, want, 0.0)
    if math.isnan(got) or math.isnan(want):
        return Deviation(name, stat, got, want, 0.0 if math.isnan(got) and math.isnan(want) else math.inf)
    error, allowed = abs(got - want), relative * abs(want) + absolute
    return Deviation(name, stat, got, want, 0.0 if error == 0 else error / allowed if allowed else math.inf)


# --------------------------------------------------------------------------- patterns, pairs, similarity

def _compare_patterns(got: Any, allowed: Sequence[set]) -> List[Deviation]:
    if not isinstance(got, (list, np.ndarray)) or len(got) != len(allowed):
        return [Deviation("pattern", f"{len(allowed)} are missing", math.nan, math.nan, math.inf)]
    got = [name if isinstance(name, str) else None for name in got]
    return [Deviation("pattern", f"{name} where it should be {' or '.join(sorted(map(str, names)))}", math.nan,
                      math.nan, 0.0 if name in names else math.inf) for name, names in zip(got, allowed)]


def _compare_pairs(name: str, got: Any, expected: Sequence[Dict[str, Any]], truth: Any,
                   slack: float) -> List[Deviation]:
    """Weights in order; and what is said of each pair is true, and no pair comes twice. Pairs as close as the
    tolerance may swap."""
    if not isinstance(got, list) or len(got) != len(expected):
        return [Deviation(name, "", math.nan, float(len(expected)), math.inf)]
    places = {(pair["query"], pair["key"]) for pair in got}
    result = [_deviation(name, "places", len(places), len(expected), 0, 0)]
    for pair, right in zip(got, expected):
        here = _entry(truth, pair["query"], pair["key"])
        result += [_deviation(name, "weight", pair["weight"], weight, RELATIVE, FLOOR + slack)
                   for weight in (right["weight"], here)]
    return result


def _entry(matrix: Any, row: int, column: int) -> float:
    """NaN outside the matrix."""
    inside = 0 <= row < matrix.shape[0] and 0 <= column < matrix.shape[1]
    return float(matrix[row, column]) if inside else math.nan


def _compare_similarity(got: Dict[str, Any], want: Dict[str, Any]) -> List[Deviation]:
    result = []
    for name in ("head_similarity", "head_js"):
        right = want[name]
        matrix = np.asarray(got.get(name, np.full(right.shape, None)), dtype=np.float64)
        matrix = matrix if matrix.shape == right.shape else np.full(right.shape, math.nan)
        tolerance = TOLERANCES[name]
        result += [_deviation(name, "", g, w, *tolerance) for g, w in zip(matrix.flat, right.flat)]
    pairs = got.get("redundant_pairs")
    result.append(_deviation("redundant_pairs", "total", got.get("redundant_total"), want["redundant_total"], 0, 0))
    if not isinstance(pairs, list) or len(pairs) != len(want["redundant_pairs"]):
        return result + [Deviation("redundant_pairs", "", math.nan, float(len(want["redundant_pairs"])), math.inf)]
    different = {tuple(pair["heads"]) for pair in pairs if pair["heads"][0] < pair["heads"][1]}
    result.append(_deviation("redundant_pairs", "heads", len(different), len(pairs), 0, 0))
    for pair, right in zip(pairs, want["redundant_pairs"]):
        here = _entry(want["head_js"], *pair["heads"])
        result += [_deviation("redundant_pairs", "js", pair["js"], w, RELATIVE, ENTROPY_ABSOLUTE)
                   for w in (right["js"], here)]
    return result


def worst(deviations: Sequence[Deviation]) -> Dict[str, Deviation]:
    """The worst deviation per metric, in the order they were compared; all quantiles, which come from a
    histogram, as one metric, and the statistics of the maps as one per map."""
    result: Dict[str, Deviation] = {}
    for d in deviations:
        name = d.name.rsplit(".", 1)[0] if d.name.startswith("aggregate.") else d.name
        name = "quantiles" if d.stat in QUANTILES else name
        if name not in result or d.share > result[name].share:
            result[name] = d
    return result
