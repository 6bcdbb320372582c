# SPDX-License-Identifier: MIT
"""reference_spectrum: singular values of one head's map, and what follows from them.

Counts of values above a threshold are given with a slack: how many values are so near the threshold that they may be
counted either way.
"""
from __future__ import annotations

import math
from typing import Dict, NamedTuple, Tuple

import numpy as np
import torch

from reference_rows import EPS, Attention, lengths

SPECTRUM_METRICS = ("spectral_norm", "condition_number", "rank", "effective_rank", "effective_rank_entropy",
                    "stable_rank", "nuclear_norm", "eigenvalue_2")
QK_SPECTRUM_METRICS = tuple(f"qk_{name}" for name in SPECTRUM_METRICS if name != "eigenvalue_2")
SINGULAR_VALUES = 16
LOW_RANKS = (1, 2, 4, 8, 16)
VECTOR_WIDTH = {"singular_values": SINGULAR_VALUES, "low_rank_error": len(LOW_RANKS),
                "qk_singular_values": SINGULAR_VALUES}
NEAR = 1e-3  # of a threshold, relative


class Spectra(NamedTuple):
    """The spectra of all heads."""
    values: Dict[str, np.ndarray]   # [heads], NaN = does not exist
    vectors: Dict[str, np.ndarray]  # [heads, VECTOR_WIDTH]
    slack: Dict[str, np.ndarray]    # [heads] how far a value may be off for being near a threshold


class Spectrum(NamedTuple):
    """The spectrum of one matrix. Missing numbers are not in the dicts."""
    numbers: Dict[str, float]
    singular_values: np.ndarray  # [SINGULAR_VALUES], NaN = there is none
    low_rank_error: np.ndarray   # [LOW_RANKS]
    slack: Dict[str, float]


def spectra(a: Attention, error: float = 0.0) -> Spectra:
    """The spectra of the valid rectangle of sample 0; nothing where that is empty or not finite. `error`: how far weights
    may be off, relative to them."""
    H = a.weights.shape[1]
    m, n = (int(length[0]) for length in lengths(a))
    names = ("rank", "effective_rank", "condition_number")
    vectors = ("singular_values", "low_rank_error")
    result = Spectra({name: np.full(H, math.nan) for name in SPECTRUM_METRICS},
                     {name: np.full((H, VECTOR_WIDTH[name]), math.nan) for name in vectors},
                     {name: np.zeros(H) for name in names})
    off = largest_share(a.weights, error)
    for h in range(H):
        map_ = a.weights[0, h, :m, :n]
        if map_.numel() and torch.isfinite(map_).all():
            found = of_values(torch.linalg.svdvals(map_).numpy(), (m, n), EPS[a.dtype], float(off[h]))
            for name, number in {**found.numbers, "eigenvalue_2": _eigenvalue_2(map_)}.items():
                result.values[name][h] = number
            for name in names:
                result.slack[name][h] = found.slack[name]
            result.vectors["singular_values"][h] = found.singular_values
            result.vectors["low_rank_error"][h] = found.low_rank_error
    return result


def largest_share(weights: torch.Tensor, error: float) -> np.ndarray:
    """[heads] What a singular value of sample 0 may be off when each weight may by `error` of itself, and by the
    rounding to single precision."""
    return np.nan_to_num((error + 2.0**-24) * weights[0].flatten(1).norm(dim=1).numpy()) if error else np.zeros(
        weights.shape[1])


def of_values(s: np.ndarray, shape: Tuple[int, int], eps: float, off: float = 0.0) -> Spectrum:
    """The numbers that follow from the singular values of a matrix of this shape, each right within `off`."""
    values, errors = np.full(SINGULAR_VALUES, math.nan), np.full(len(LOW_RANKS), math.nan)
    values[:len(s)] = s[:SINGULAR_VALUES]
    numbers = {"spectral_norm": s[0], "nuclear_norm": s.sum()}
    slack = {"condition_number": 0.0}
    thresholds = {"rank": s[0] * max(shape) * eps, "effective_rank": 0.01 * s[0]}
    for name, threshold in thresholds.items():
        numbers[name] = int((s > threshold).sum())
        slack[name] = int((np.abs(s - threshold) <= NEAR * threshold + off).sum()) if s[0] > 0 else 0
    if numbers["rank"] == len(s):
        numbers["condition_number"] = math.log10(s[0] / s[-1])
        slack["condition_number"] = math.inf if off >= s[-1] else -math.log10(1 - off / s[-1])
    if slack["rank"]:  # whether there is one is a matter of rounding
        slack["condition_number"] = math.inf
    if s[0] > 0:
        share, squares = s[s > 0] / s.sum(), (s / s[0])**2
        numbers["effective_rank_entropy"] = math.exp(-(share * np.log(share)).sum())
        numbers["stable_rank"] = squares.sum()
        errors[:] = [math.sqrt(squares[k:].sum() / squares.sum()) for k in LOW_RANKS]
    return Spectrum(numbers, values, errors, slack)


def _eigenvalue_2(map_: torch.Tensor) -> float:
    """The second largest modulus; those of a triangular map are its diagonal, whatever else it holds."""
    if map_.shape[0] != map_.shape[1] or len(map_) < 2:
        return math.nan
    triangular = not (map_.triu(1) != 0).any() or not (map_.tril(-1) != 0).any()
    values = map_.diagonal() if triangular else torch.linalg.eigvals(map_)
    return float(values.abs().sort(descending=True).values[1])
