# SPDX-License-Identifier: MIT
"""reference_heads: the pattern name of a head, and every number of a layer across its heads.

Maps and importance take all entries as they were sent, pairs those that are no padding; similarity and the gradient
score take visible keys of sound rows only.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np
import torch

from reference_rows import Attention, Rows

MAP_STATS = ("mean", "max", "min", "std")
TOP_PAIRS = 10
REDUNDANT_PAIRS = 100
SINK = 0.3
IMPORTANCE_SCORE = 2e-6  # how far a score may be off, relative to the largest of the layer


# ------------------------------------------------------------------------------------------- entries

def entry_metrics(weights: torch.Tensor, rows: Rows) -> Dict[str, np.ndarray]:
    """mean, min, max, std, variance over the visible entries of sound rows, per head."""
    counted = rows.seen & rows.sound[..., None]
    heads = [statistics(weights[:, h][counted[:, h]]) for h in range(weights.shape[1])]
    result = {name: np.array([head[name] for head in heads]) for name in MAP_STATS}
    return {**result, "variance": result["std"]**2}


def locality(rows: Dict[str, List[np.ndarray]]) -> np.ndarray:
    """Mean of all weights on a neighbour of the query, per head."""
    both = [np.concatenate(pair) for pair in zip(rows["previous_token"], rows["next_token"])]
    return np.array([x.mean() if len(x) else math.nan for x in both])


# ---------------------------------------------------------------------------------------- importance

def importance_scores(weights: torch.Tensor) -> np.ndarray:
    """(variance + entropy) / 2 per head, NaN for a head that has none. The entropy is that of a second softmax,
    over the weights; rows with a non-finite entry are left out."""
    B, H = weights.shape[:2]
    V, E = torch.full((B, H), math.nan).double(), torch.zeros(B, H).double()
    for b in range(B):
        for h in range(H):
            kept = weights[b, h][torch.isfinite(weights[b, h]).all(-1)]
            P = kept.softmax(-1)
            E[b, h] = -(P * (P + 1e-8).log()).sum()
            V[b, h] = kept.var(unbiased=True) if kept.numel() > 1 else math.nan
    return ((mean_where_finite(V) + mean_where_finite(torch.where(torch.isnan(V), V, E))) / 2).numpy()


def importance(scores: np.ndarray) -> np.ndarray:
    """Softmax over the heads that have a score; NaN for the others."""
    known = np.isfinite(scores)
    result = np.full(scores.shape, math.nan)
    if known.any():
        powers = np.exp(scores[known] - scores[known].max())
        result[known] = powers / powers.sum()
    return result


def importance_slack(scores: np.ndarray, error: float = 0.0) -> float:
    """How far an importance may be off, relative to itself, when weights may be by `error`: scores grow with the map,
    and what is a small share of a score is a larger one of its exponential."""
    known = scores[np.isfinite(scores)]
    return math.expm1(2 * (IMPORTANCE_SCORE + error) * float(np.abs(known).max())) if len(known) else 0.0


def gradient_scores(a: Attention, rows: Rows) -> np.ndarray:
    """sum |A dL/dA| per head over visible keys of sound rows."""
    products = (a.weights * a.grad).abs()
    counted = rows.seen & rows.sound[..., None] & torch.isfinite(products)
    return torch.where(counted, products, torch.zeros_like(products)).sum((0, 2, 3)).numpy()


def importance_gradient(a: Attention, rows: Rows) -> np.ndarray:
    """The scores as a vector of length 1 over the heads."""
    if a.grad is None:
        return np.full(a.weights.shape[1], math.nan)
    score = gradient_scores(a, rows)
    norm = math.sqrt(float((score**2).sum()))
    return score / norm if 0 < norm < math.inf else np.full(score.shape, math.nan)


# ---------------------------------------------------------------------------------------------- maps

def aggregates(weights: torch.Tensor, given: Optional[Sequence[float]],
               important: np.ndarray) -> Dict[str, Dict[str, float]]:
    """mean, max, min, std of the across-head maps over all entries as sent, pooled over samples."""
    maps = {"sum": weights.sum(1), "mean": weights.mean(1), "max": weights.max(1).values,
            "importance": weighted_map(weights, important)}
    if given is not None and len(given) == weights.shape[1]:
        maps["weighted"] = weighted_map(weights, np.asarray(given, dtype=np.float64))
    return {name: statistics(entries[torch.isfinite(entries)]) for name, entries in maps.items()}


def weighted_map(weights: torch.Tensor, factors: np.ndarray) -> torch.Tensor:
    """sum_h w_h A_h; a head of weight 0 or none takes no part. All NaN when no head does."""
    chosen = [h for h, w in enumerate(factors) if w and math.isfinite(w)]
    if not chosen:
        return torch.full(weights[:, 0].shape, math.nan).double()
    return sum(float(factors[h]) * weights[:, h] for h in chosen)


def statistics(entries: torch.Tensor) -> Dict[str, float]:
    if len(entries) == 0:
        return dict.fromkeys(MAP_STATS, math.nan)
    return {"mean": float(entries.mean()), "max": float(entries.max()), "min": float(entries.min()),
            "std": float(entries.std(unbiased=True)) if len(entries) > 1 else math.nan}


def mean_where_finite(x: torch.Tensor) -> torch.Tensor:
    """Mean over dimension 0 of the finite entries."""
    ok = torch.isfinite(x)
    return torch.where(ok, x, torch.zeros_like(x)).sum(0) / ok.sum(0)


def top_pairs(pair_map: torch.Tensor, k: int = TOP_PAIRS) -> List[Dict[str, Any]]:
    """The k largest entries; ties by lower query, then lower key."""
    Tk = pair_map.shape[1]
    finite = torch.isfinite(pair_map)
    flat = torch.where(finite, pair_map, torch.full_like(pair_map, -torch.inf)).flatten().numpy()
    order = np.argsort(-flat, kind="stable")[:min(k, int(finite.sum()))]
    return [{"query": int(e) // Tk, "key": int(e) % Tk, "weight": float(flat[e])} for e in order]


# ------------------------------------------------------------------------------------------ similarity

def similarity(a: Attention, rows: Rows, bound: float) -> Dict[str, Any]:
    """Cosine and Jensen-Shannon divergence of every two heads, over the rows that are sound in both."""
    H = a.weights.shape[1]
    cosine, js = np.full((H, H), math.nan), np.full((H, H), math.nan)
    for g in range(H):
        for h in range(H):
            both = rows.sound[:, g] & rows.sound[:, h]
            P, Q = rows.A[:, g][both], rows.A[:, h][both]
            norm = float(P.norm() * Q.norm())
            cosine[g, h] = float((P * Q).sum()) / norm if norm > 0 else math.nan
            js[g, h] = _mean_divergence(P, Q, a.dropout or a.learned_sink)
    pairs = sorted((js[g, h], g, h) for g in range(H) for h in range(g + 1, H) if js[g, h] < bound)
    return {"head_similarity": cosine, "head_js": js, "redundant_total": len(pairs),
            "redundant_pairs": [{"heads": [g, h], "js": value} for value, g, h in pairs[:REDUNDANT_PAIRS]]}


def _mean_divergence(P: torch.Tensor, Q: torch.Tensor, divided: bool) -> float:
    """Mean over rows of the Jensen-Shannon divergence, at most ln 2. `divided`: rows, after dropout or beside a learned
    sink, are made distributions first; one that has nothing left is left out."""
    P, Q = P.clamp(min=0), Q.clamp(min=0)
    if divided:
        kept = (P.sum(-1) > 0) & (Q.sum(-1) > 0)
        P, Q = P[kept] / P[kept].sum(-1, keepdim=True), Q[kept] / Q[kept].sum(-1, keepdim=True)
    if len(P) == 0:
        return math.nan
    log_m = (P + Q).log() - math.log(2)  # half of the smallest number would be 0
    def towards(X: torch.Tensor) -> torch.Tensor:
        return torch.where(X > 0, X * (X.log() - log_m), torch.zeros_like(X)).sum(-1)
    return float(((towards(P) + towards(Q)) / 2).clamp(0, math.log(2)).mean())


# ------------------------------------------------------------------------------------ patterns, sinks

def sink_rate(first_token: Sequence[float], slack: float = 0.0) -> float:
    """Share of the heads that have a first_token above SINK + slack, among those that have one."""
    known = [value for value in first_token if not math.isnan(value)]
    return sum(value > SINK + slack for value in known) / len(known) if known else math.nan


FOCUS = ("previous_token", "next_token", "diagonal", "first_token", "induction", "duplicate_token")


def patterns(value: Dict[str, float], nats: float, weight: float) -> Set[Optional[str]]:
    """The names that a head with these numbers may have, when entropies are right within `nats` and weights within
    `weight`: one, unless a number is that close to a threshold, or two to each other."""
    if math.isnan(value["entropy"]):
        return {None}
    names: Set[Optional[str]] = set()
    if value["entropy_normalized"] >= 0.95 - nats:
        names.add("uniform")
    if value["entropy_normalized"] >= 0.95 + nats:
        return names
    focus = {kind: value[kind] for kind in FOCUS if value[kind] >= 0.5 - weight}
    names.update(kind for kind in focus if focus[kind] >= max(focus.values()) - 2 * weight)
    if focus and max(focus.values()) >= 0.5 + weight:
        return names
    return names | _ranges(value["local_mass"], value["mean_distance_normalized"], weight)


def _ranges(local: float, distance: float, weight: float) -> Set[Optional[str]]:
    names: Set[Optional[str]] = set()
    if local >= 0.75 - weight and distance <= 0.25 + weight:
        names.add("local")
    if local >= 0.75 + weight and distance <= 0.25 - weight:
        return names
    if distance >= 0.6 - weight:
        names.add("long_range")
    if not distance >= 0.6 + weight:
        names.add("mixed")
    return names
