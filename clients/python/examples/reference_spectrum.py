# SPDX-License-Identifier: MIT
"""reference_spectrum: singular values of one head's map, and what follows from them.

Counts of values above a threshold are given with a slack: how many values are so near the threshold that they may be
counted either way.
"""
from __future__ import annotations

import math
from typing import Dict, NamedTuple

import numpy as np
import torch

from reference_rows import EPS, Attention, lengths

SPECTRUM_METRICS = ("spectral_norm", "condition_number", "rank", "effective_rank", "effective_rank_entropy",
                    "stable_rank", "nuclear_norm", "eigenvalue_2")
SINGULAR_VALUES = 16
LOW_RANKS = (1, 2, 4, 8, 16)
VECTOR_WIDTH = {"singular_values": SINGULAR_VALUES, "low_rank_error": len(LOW_RANKS)}
NEAR = 1e-3  # of a threshold, relative


class Spectra(NamedTuple):
    """Of all heads."""
    values: Dict[str, np.ndarray]   # [heads], NaN = does not exist
    vectors: Dict[str, np.ndarray]  # [heads, VECTOR_WIDTH]
    slack: Dict[str, np.ndarray]    # [heads] how far a value may be off for being near a threshold


def spectra(a: Attention) -> Spectra:
    """Of the valid rectangle of sample 0, as sent; nothing where that is empty or not finite."""
    H = a.weights.shape[1]
    m, n = (int(length[0]) for length in lengths(a))
    result = Spectra({name: np.full(H, math.nan) for name in SPECTRUM_METRICS},
                     {name: np.full((H, width), math.nan) for name, width in VECTOR_WIDTH.items()},
                     {name: np.zeros(H) for name in ("rank", "effective_rank", "condition_number")})
    for h in range(H):
        rectangle = a.weights[0, h, :m, :n]
        if rectangle.numel() and torch.isfinite(rectangle).all():
            _fill(result, h, rectangle, EPS[a.dtype])
    return result


def _fill(result: Spectra, h: int, map_: torch.Tensor, eps: float) -> None:
    s = torch.linalg.svdvals(map_).numpy()
    result.vectors["singular_values"][h, :len(s)] = s[:SINGULAR_VALUES]
    numbers = {"spectral_norm": s[0], "nuclear_norm": s.sum(), "eigenvalue_2": _eigenvalue_2(map_)}
    thresholds = {"rank": s[0] * max(map_.shape) * eps, "effective_rank": 0.01 * s[0]}
    for name, threshold in thresholds.items():
        numbers[name] = int((s > threshold).sum())
        result.slack[name][h] = int((np.abs(s - threshold) <= NEAR * threshold).sum()) if s[0] > 0 else 0
    if numbers["rank"] == len(s):
        numbers["condition_number"] = math.log10(s[0] / s[-1])
    if result.slack["rank"][h]:  # whether there is one is a matter of rounding
        result.slack["condition_number"][h] = math.inf
    if s[0] > 0:
        share, squares = s[s > 0] / s.sum(), (s / s[0])**2
        numbers["effective_rank_entropy"] = math.exp(-(share * np.log(share)).sum())
        numbers["stable_rank"] = squares.sum()
        result.vectors["low_rank_error"][h] = [math.sqrt(squares[k:].sum() / squares.sum()) for k in LOW_RANKS]
    for name, number in numbers.items():
        result.values[name][h] = number


def _eigenvalue_2(map_: torch.Tensor) -> float:
    """The second largest modulus; those of a triangular map are its diagonal, whatever else it holds."""
    if map_.shape[0] != map_.shape[1] or len(map_) < 2:
        return math.nan
    triangular = not (map_.triu(1) != 0).any() or not (map_.tril(-1) != 0).any()
    values = map_.diagonal() if triangular else torch.linalg.eigvals(map_)
    return float(values.abs().sort(descending=True).values[1])
