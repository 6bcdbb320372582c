# SPDX-License-Identifier: MIT
"""derive: numbers that figures need and nobody has worked out yet, in numpy, for one sample. They are the engine's own;
workers/KERNELS.md has the formulas. Figures take numbers of the engine instead when they are given. Weights are [heads,
queries, keys]; values that are not finite are left out as the engine leaves them out.
"""
from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

import numpy as np

from .scale import Array

SINGULAR_VALUES = 16  # listed for each head
_SUM_ERROR = 2e-2  # sound rows sum to 1 within this, the bound of the engine for 16-bit weights


def importance(weights: Array) -> Array:
    """float64 [heads], sum 1: softmax over the heads of (variance of the weights + entropy of a second softmax over the
    rows) / 2."""
    scores = np.full(len(weights), np.nan)
    for head, map_ in enumerate(weights):
        rows = map_[np.isfinite(map_).all(-1)].astype(np.float64)
        if rows.size >= 2:
            share = np.exp(rows - rows.max(-1, keepdims=True))
            share /= share.sum(-1, keepdims=True)
            scores[head] = (rows.var(ddof=1) - (share * np.log(share + 1e-8)).sum()) / 2
    good = np.isfinite(scores)
    if good.any():
        scores[good] = np.exp(scores[good] - scores[good].max())
        scores[good] /= scores[good].sum()
    return scores


def weighted(weights: Array, by: Any) -> Array:
    """sum_h by[h] A_h, float64 [queries, keys]; a head of weight 0 or NaN takes no part."""
    result = np.zeros(weights.shape[1:])
    for map_, share in zip(weights, by):
        if np.isfinite(share) and share != 0:
            result += float(share) * map_
    return result


def rollout(maps: Sequence[Tuple[Array, int]]) -> Array:
    """R_l = norm(0.5 (A_l + I)) R_{l-1} with R_0 = I, float64 [n, n], of (mean map, keys) layer by layer. A cell of a
    pooled map counts once for each key in it. A row that is not finite becomes that of I."""
    n = len(maps[0][0])
    result = identity = np.eye(n)
    for map_, keys in maps:
        inside = np.diff(np.arange(n + 1) * keys // n)
        step = 0.5 * (map_.astype(np.float64) * inside + identity)
        total = step.sum(-1, keepdims=True)
        sound = np.isfinite(total) & (total > 0)
        result = np.where(sound, np.where(sound, step, 0) / np.where(sound, total, 1), identity) @ result
    return result


def _rows(weights: Array, classes: Optional[Array]) -> Tuple[Array, Array]:
    """Weights at valid keys as float64, and the sound rows as bool [heads, queries]."""
    valid = np.ones(weights.shape[1:], bool) if classes is None else classes == 0
    seen = np.where(valid, weights, 0).astype(np.float64)
    finite = np.asarray(np.isfinite(seen).all(-1))
    seen = np.where(finite[..., None], seen, 0)
    return seen, finite & valid.any(-1) & (seen.min(-1) >= -1e-3) & (np.abs(seen.sum(-1) - 1) <= _SUM_ERROR)


def cosine(weights: Array, classes: Optional[Array] = None) -> Array:
    """float64 [heads, heads]: the cosine of the maps of two heads, over the rows that are sound in both."""
    seen, sound = _rows(weights, classes)
    rows = np.where(sound[..., None], seen, 0).reshape(len(seen), -1)
    dots = rows @ rows.T
    squares = np.einsum("hqk,hqk->hq", seen, seen)
    both = np.where(sound, squares, 0) @ sound.T.astype(np.float64)  # [g, h]: |g|^2 where h is sound, too
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = np.clip(dots / np.sqrt(both * both.T), -1, 1)
    np.fill_diagonal(result, np.where(np.isfinite(np.diag(result)), 1, np.nan))
    return result


def jensen_shannon(weights: Array, classes: Optional[Array] = None) -> Array:
    """float64 [heads, heads], nats: the mean divergence of the rows that are sound in both heads."""
    seen, sound = _rows(weights, classes)
    seen = np.maximum(seen, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(seen > 0, seen * np.log(seen), 0).sum(-1)  # [heads, queries]
        result = np.full((len(seen), len(seen)), np.nan)
        for g, first in enumerate(seen):
            for h in range(g, len(seen)):
                both = sound[g] & sound[h]
                if both.any():
                    total = first[both] + seen[h][both]
                    mixed = np.where(total > 0, total * (np.log(total) - np.log(2)), 0).sum(-1)
                    rows = np.clip((parts[g][both] + parts[h][both] - mixed) / 2, 0, np.log(2))
                    result[g, h] = result[h, g] = 0.0 if g == h else rows.mean()
    return result


def singular_values(weights: Array) -> Array:
    """float64 [heads, n], descending: the first of each head's; NaN of a head that is not finite."""
    most = min(SINGULAR_VALUES, *weights.shape[1:])
    result = np.full((len(weights), most), np.nan)
    for head, map_ in enumerate(weights):
        if np.isfinite(map_).all():
            result[head] = np.linalg.svd(map_.astype(np.float64), compute_uv=False)[:most]
    return result
