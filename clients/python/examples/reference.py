# SPDX-License-Identifier: MIT
"""reference: every published number, computed from the weights by its formula, in float64 with torch.

Independent of the daemon: no code is shared with it, and nothing here is fast. `measure` takes one message as
it was published, `pool` the messages of a window, `compare` a pool and the summary that came back.

Rows. Query i of sample b is valid when i < q_len[b] and the mask, if any, leaves it some key; it sees key j when j < k_len[b], and j <= i if causal, and
j > i - window if there is one, and mask[b,i,j] = 1 if there is one. A row is sound when it sees a key, its
weights are finite and not negative beyond rounding, and sum to 1 within the tolerance of the dtype (after dropout
the sum is not checked; with a learned sink it may be less).
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch

ROW_METRICS = ("entropy", "entropy_normalized", "confidence", "diagonal", "mean_distance", "first_token")
MESSAGE_METRICS = ("mean", "min", "max", "std", "variance", "locality", "importance")
SPECTRUM_METRICS = ("spectral_norm", "condition_number", "rank", "effective_rank")
MAPS = ("sum", "mean", "max")
MAP_STATS = ("mean", "max", "min", "std")
SINGULAR_VALUES = 16
TOP_PAIRS = 10
EPS = {"f32": 2.0**-23, "f64": 2.0**-52, "f16": 2.0**-10, "bf16": 2.0**-7}
SUM_TOLERANCE = {"f32": 1e-3, "f64": 1e-3, "f16": 2e-2, "bf16": 2e-2}
NEGATIVE_BOUND = {"f32": -1e-6, "f64": -1e-6, "f16": -1e-3, "bf16": -1e-3}


class Attention(NamedTuple):
    """One message: weights f64 [B,H,Tq,Tk], the dtype they were sent in, and what the header said."""
    weights: torch.Tensor
    dtype: str = "f32"
    site: str = "self"
    causal: bool = False
    window: int = 0
    q_len: Optional[Sequence[int]] = None
    k_len: Optional[Sequence[int]] = None
    mask: Optional[torch.Tensor] = None
    dropout: bool = False
    learned_sink: bool = False


class Measured(NamedTuple):
    """One message's numbers."""
    rows: Dict[str, List[np.ndarray]]  # row metric -> one array of row values per head
    values: Dict[str, np.ndarray]      # message and spectrum metrics -> [heads], NaN = does not exist
    singular_values: np.ndarray        # [heads, 16]
    aggregate: Dict[str, Dict[str, float]]
    pair_map: torch.Tensor             # [Tq, Tk] head-mean map averaged over samples
    sound: int
    unsound: int
    row_sum_error: float


def from_message(message: Any) -> Attention:
    """An Attention from an attnd.sender.Message: the very arrays that travelled."""
    keys = message.keys
    described = keys["tensors"]
    raw = np.array(message.frames[0])
    if described[0]["dtype"] == "bf16":
        weights = torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16)
    else:
        weights = torch.from_numpy(raw)
    mask = torch.from_numpy(np.array(message.frames[1])) if len(described) > 1 else None
    options = {k: keys[k] for k in ("site", "causal", "window", "q_len", "k_len", "dropout", "learned_sink")
               if k in keys}
    return Attention(weights.double(), described[0]["dtype"], mask=mask, **options)


# ------------------------------------------------------------------------------------------- one message

def measure(a: Attention) -> Measured:
    """Every number of one message."""
    queries, seen = _valid(a)
    A = torch.where(seen, a.weights, torch.zeros((), dtype=torch.float64))  # [B,H,Tq,Tk], excluded keys 0
    sums, sound = _soundness(a, A, seen, queries)
    n = seen.sum(-1).expand(sound.shape)
    rows = _row_metrics(a, A, n, sound)
    values = {**_entry_metrics(a.weights, seen, sound), "locality": _locality(a, A, sound),
              "importance": _importance(a.weights)}
    spectrum, singular_values = _spectrum(a)
    judged = queries.expand(sound.shape)
    errors = (sums - 1).abs()[judged & (n > 0) & torch.isfinite(sums)]
    return Measured(rows, {**values, **spectrum}, singular_values, _aggregate(a.weights),
                    _pair_map(a.weights), int(sound.sum()), int((judged & ~sound).sum()),
                    float(errors.max()) if len(errors) else math.nan)


def _valid(a: Attention):
    """(valid queries [B,1,Tq], visible keys [B,1,Tq,Tk])."""
    B, _, Tq, Tk = a.weights.shape
    i, j = torch.arange(Tq)[:, None], torch.arange(Tk)[None, :]
    q_len = torch.as_tensor(list(a.q_len) if a.q_len is not None else [Tq] * B)[:, None]
    k_len = torch.as_tensor(list(a.k_len) if a.k_len is not None else [Tk] * B)[:, None, None]
    seen = (j < k_len).expand(B, Tq, Tk)
    if a.causal:
        seen = seen & (j <= i)
    if a.window:
        seen = seen & (j > i - a.window)
    if a.mask is not None:
        seen = seen & (a.mask == 1)
    query = (torch.arange(Tq)[None, :] < q_len).expand(B, Tq)
    if a.mask is not None:
        query = query & (a.mask == 1).any(-1)
    return query[:, None], seen[:, None]


def _soundness(a: Attention, A: torch.Tensor, seen: torch.Tensor, queries: torch.Tensor):
    """(row sums [B,H,Tq], sound rows [B,H,Tq])."""
    sums = A.sum(-1)
    good = torch.isfinite(A).all(-1) & (A >= NEGATIVE_BOUND[a.dtype]).all(-1) & seen.any(-1) & queries
    if a.learned_sink:
        good &= sums <= 1 + SUM_TOLERANCE[a.dtype]
    elif not a.dropout:
        good &= (sums - 1).abs() <= SUM_TOLERANCE[a.dtype]
    return sums, good


def _row_metrics(a: Attention, A: torch.Tensor, n: torch.Tensor,
                 sound: torch.Tensor) -> Dict[str, List[np.ndarray]]:
    _, H, Tq, Tk = A.shape
    i, j = torch.arange(Tq), torch.arange(Tk)
    entropy = -torch.where(A > 0, A * torch.where(A > 0, A, torch.ones_like(A)).log(), torch.zeros_like(A)).sum(-1)
    distance = (i[:, None] - j[None, :]).abs().double()
    not_first = sound & (i >= 1)
    values = {
        "entropy": (entropy, sound),
        "entropy_normalized": (entropy / n.double().log(), sound & (n >= 2)),
        "confidence": (A.max(-1).values, sound),
        "mean_distance": ((A * distance).sum(-1), sound),
        "first_token": (A[..., 0], not_first)}
    if a.site == "self":
        square = min(Tq, Tk)
        diagonal = torch.zeros(A.shape[:-1], dtype=torch.float64)
        diagonal[..., :square] = torch.diagonal(A, dim1=-2, dim2=-1)
        values["diagonal"] = (diagonal, sound & (i < Tk))
    none = (torch.zeros(A.shape[:-1]), torch.zeros(A.shape[:-1], dtype=torch.bool))
    return {name: [v[:, h][ok[:, h]].numpy() for h in range(H)]
            for name in ROW_METRICS for v, ok in [values.get(name, none)]}


def _entry_metrics(weights: torch.Tensor, seen: torch.Tensor, sound: torch.Tensor) -> Dict[str, np.ndarray]:
    """mean, min, max, std, variance over the visible entries of sound rows, per head."""
    counted = seen & sound[..., None]
    result = {name: [] for name in ("mean", "min", "max", "std", "variance")}
    for h in range(weights.shape[1]):
        entries = weights[:, h][counted[:, h]]
        result["mean"].append(float(entries.mean()) if len(entries) else math.nan)
        result["min"].append(float(entries.min()) if len(entries) else math.nan)
        result["max"].append(float(entries.max()) if len(entries) else math.nan)
        variance = float(entries.var(unbiased=True)) if len(entries) > 1 else math.nan
        result["variance"].append(variance)
        result["std"].append(math.sqrt(variance))
    return {name: np.array(values) for name, values in result.items()}


def _locality(a: Attention, A: torch.Tensor, sound: torch.Tensor) -> np.ndarray:
    """Mean of A[i,i-1] (i >= 1) and A[i,i+1] (i + 1 a position of the sample) over sound rows, per head."""
    B, H, Tq, Tk = A.shape
    if a.site != "self":
        return np.full(H, math.nan)
    q_len = torch.as_tensor(list(a.q_len) if a.q_len is not None else [Tq] * B)
    total, count = torch.zeros(H, dtype=torch.float64), torch.zeros(H)
    for i in range(Tq):
        for j in (i - 1, i + 1):
            if 0 <= j < Tk:
                counted = sound[:, :, i] & ((j < i) | (j < q_len))[:, None]  # [B,H]
                total += torch.where(counted, A[:, :, i, j], torch.zeros((), dtype=torch.float64)).sum(0)
                count += counted.sum(0)
    return (total / count).numpy()


def _importance(weights: torch.Tensor) -> np.ndarray:
    """softmax over heads of (variance + entropy) / 2, over all entries as sent; rows with a non-finite entry are
    left out."""
    B, H = weights.shape[:2]
    V, E = torch.full((B, H), math.nan).double(), torch.zeros(B, H).double()
    for b in range(B):
        for h in range(H):
            rows = weights[b, h][torch.isfinite(weights[b, h]).all(-1)]
            P = rows.softmax(-1)
            E[b, h] = -(P * (P + 1e-8).log()).sum()
            V[b, h] = rows.var(unbiased=True) if rows.numel() > 1 else math.nan
    score = (_mean_where_finite(V) + _mean_where_finite(torch.where(torch.isnan(V), V, E))) / 2
    score = torch.where(torch.isnan(score), torch.full_like(score, -math.inf), score)
    return score.softmax(0).numpy()


def _mean_where_finite(x: torch.Tensor) -> torch.Tensor:
    """Mean over dimension 0 of the finite entries."""
    ok = torch.isfinite(x)
    return torch.where(ok, x, torch.zeros_like(x)).sum(0) / ok.sum(0)


def _aggregate(weights: torch.Tensor) -> Dict[str, Dict[str, float]]:
    """mean, max, min, std of the across-head maps over all entries as sent, pooled over samples."""
    maps = {"sum": weights.sum(1), "mean": weights.mean(1), "max": weights.max(1).values}
    result = {}
    for name, entries in maps.items():
        finite = entries[torch.isfinite(entries)]
        if len(finite) == 0:
            result[name] = dict.fromkeys(MAP_STATS, math.nan)
            continue
        result[name] = {"mean": float(finite.mean()), "max": float(finite.max()), "min": float(finite.min()),
                        "std": float(finite.std(unbiased=True)) if len(finite) > 1 else math.nan}
    return result


def _pair_map(weights: torch.Tensor) -> torch.Tensor:
    """The head-mean map [Tq,Tk], averaged over the samples in which an entry is finite."""
    return _mean_where_finite(weights.mean(1))


def top_pairs(pair_map: torch.Tensor, k: int = TOP_PAIRS) -> List[Dict[str, Any]]:
    """The k largest entries; ties by lower query, then lower key."""
    Tq, Tk = pair_map.shape
    entries = [(-float(pair_map[i, j]), i, j) for i in range(Tq) for j in range(Tk)
               if math.isfinite(pair_map[i, j])]
    return [{"query": i, "key": j, "weight": -w} for w, i, j in sorted(entries)[:k]]


def _spectrum(a: Attention):
    """Singular values of sample 0's valid rectangle, and what follows from them: ({metric: [heads]},
    [heads, 16])."""
    _, H, Tq, Tk = a.weights.shape
    m = a.q_len[0] if a.q_len is not None else Tq
    n = a.k_len[0] if a.k_len is not None else Tk
    values = np.full((H, SINGULAR_VALUES), math.nan)
    result = {name: np.full(H, math.nan) for name in SPECTRUM_METRICS}
    for h in range(H):
        rectangle = a.weights[0, h, :m, :n]
        if rectangle.numel() == 0 or not torch.isfinite(rectangle).all():
            continue
        s = torch.linalg.svdvals(rectangle).numpy()
        values[h, :len(s)] = s[:SINGULAR_VALUES]
        rank = int((s > s[0] * max(m, n) * EPS[a.dtype]).sum())
        result["spectral_norm"][h] = s[0]
        result["rank"][h] = rank
        result["effective_rank"][h] = int((s > 0.01 * s[0]).sum())
        if rank == len(s):
            result["condition_number"][h] = math.log10(s[0] / s[-1])
    return result, values


# --------------------------------------------------------------------------------------------- a window

def pool(messages: Sequence[Measured]) -> Dict[str, Any]:
    """The summary of a window: as the daemon's map, `messages` in the order of their steps."""
    heads = len(messages[0].values["mean"])
    newest = messages[-1]
    stats: Dict[str, Any] = {}
    for name in ROW_METRICS:
        last = [_mean(rows) for rows in newest.rows[name]]
        stats[name] = _columns([describe(np.concatenate([m.rows[name][h] for m in messages]), last[h])
                                for h in range(heads)])
    for name in MESSAGE_METRICS + SPECTRUM_METRICS:
        stats[name] = _columns([describe(np.array([m.values[name][h] for m in messages]), newest.values[name][h])
                                for h in range(heads)])
    aggregate = {name: {stat: describe(np.array([m.aggregate[name][stat] for m in messages]),
                                       newest.aggregate[name][stat]) for stat in MAP_STATS} for name in MAPS}
    values = np.stack([m.singular_values for m in messages])  # [messages, heads, 16]
    singular = [_columns([describe(values[:, h, k], newest.singular_values[h, k]) for k in range(SINGULAR_VALUES)])
                for h in range(heads)]
    errors = [m.row_sum_error for m in messages if not math.isnan(m.row_sum_error)]
    return {"heads": {name: stats[name] for name in ROW_METRICS + MESSAGE_METRICS},
            "spectrum": {**{name: stats[name] for name in SPECTRUM_METRICS},
                         "singular_values": {stat: np.stack([s[stat] for s in singular])
                                             for stat in ("mean", "std", "min", "max", "last", "count")}},
            "aggregate": aggregate, "top_pairs": top_pairs(newest.pair_map), "pair_map": newest.pair_map,
            "messages": len(messages), "rows": sum(m.sound for m in messages),
            "invalid_rows": sum(m.unsound for m in messages), "row_sum_error": max(errors) if errors else math.nan}


def describe(values: np.ndarray, last: float) -> Dict[str, float]:
    """mean, std, min, max, p50, p90, p99, last, count of the finite values; p is the order statistic ceil(q n)."""
    x = np.sort(values[np.isfinite(values)])
    n = len(x)
    if n == 0:
        return {**dict.fromkeys(("mean", "std", "min", "max", "p50", "p90", "p99", "last"), math.nan), "count": 0}
    rank = {f"p{q}": x[max(0, -(-q * n // 100) - 1)] for q in (50, 90, 99)}
    return {"mean": x.mean(), "std": x.std(ddof=1) if n > 1 else math.nan, "min": x[0], "max": x[-1], **rank,
            "last": last, "count": n}


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if len(x) else math.nan


def _columns(stats: Sequence[Dict[str, float]]) -> Dict[str, np.ndarray]:
    return {key: np.array([s[key] for s in stats]) for key in stats[0]}


# ------------------------------------------------------------------------------------------- comparing

# Tolerances against float64: sums of weights 1e-5 relative, entropies 1e-4 nats absolute. Quantiles come from a
# histogram whose buckets are 2.2 % wide; what is below 2^-40 counts as 0.
RELATIVE, ENTROPY_ABSOLUTE, QUANTILE_RELATIVE, FLOOR = 1e-5, 1e-4, 2.0**(1 / 32) - 1, 1e-8


QUANTILES = ("p50", "p90", "p99")


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
    def error(self) -> float:
        """What is off: nats for entropies (not their quantiles), relative to the right number for all others."""
        if math.isnan(self.got) or math.isnan(self.want):
            return self.share
        in_nats = self.name.startswith("entropy") and self.stat not in QUANTILES
        scale = 1.0 if in_nats else max(abs(self.want), FLOOR)
        return abs(self.got - self.want) / scale


def compare(summary: Dict[str, Any], want: Dict[str, Any]) -> List[Deviation]:
    """Every number of `want` (from pool) against the summary; what the summary lacks counts as wrong."""
    found: List[Deviation] = []
    for name in ("messages", "rows", "invalid_rows"):
        found.append(_deviation(name, "", summary.get(name), want[name], 0, 0))
    found.append(_deviation("row_sum_error", "", summary.get("row_sum_error"), want["row_sum_error"], 0, 1e-6))
    for group in ("heads", "spectrum"):
        for metric, stats in want[group].items():
            found += _compare_stats(metric, (summary.get(group) or {}).get(metric), stats)
    for name, stats in want["aggregate"].items():
        for stat, numbers in stats.items():
            got = ((summary.get("aggregate") or {}).get(name) or {}).get(stat)
            found += _compare_stats(f"aggregate.{name}.{stat}", got, numbers)
    return found + _compare_pairs(summary.get("top_pairs"), want)


def _compare_stats(metric: str, got: Optional[Dict[str, Any]], want: Dict[str, Any]) -> List[Deviation]:
    """A metric none of whose heads has a value may be left out of the summary."""
    if got is None and not np.any(want["count"]):
        return []
    result = []
    for stat, numbers in want.items():
        numbers = np.asarray(numbers, dtype=np.float64)
        column = np.asarray((got or {}).get(stat, np.full(numbers.shape, None)), dtype=np.float64)
        if column.shape != numbers.shape:
            column = _widen(column, numbers.shape, 0.0 if stat == "count" else math.nan)
        relative, absolute = _tolerance(metric, stat)
        if metric == "singular_values" and stat != "count":
            absolute = RELATIVE * np.nanmax(want["max"])
        result += [_deviation(metric, stat, g, w, relative, absolute) for g, w in zip(column.flat, numbers.flat)]
    return result


def _widen(column: np.ndarray, shape: Sequence[int], fill: float) -> np.ndarray:
    """Short lists of singular values end early."""
    wide = np.full(shape, fill)
    if column.ndim == wide.ndim and all(c <= w for c, w in zip(column.shape, shape)):
        wide[tuple(slice(c) for c in column.shape)] = column
    return wide


def _tolerance(metric: str, stat: str):
    """(relative, absolute)."""
    if stat == "count":
        return 0.0, 0.0
    absolute = ENTROPY_ABSOLUTE if metric.startswith("entropy") else FLOOR
    return (QUANTILE_RELATIVE if stat in QUANTILES else RELATIVE), absolute


def _deviation(name: str, stat: str, got: Any, want: float, relative: float, absolute: float) -> Deviation:
    got = math.nan if got is None else float(got)
    if math.isnan(got) or math.isnan(want):
        return Deviation(name, stat, got, want, 0.0 if math.isnan(got) and math.isnan(want) else math.inf)
    error, allowed = abs(got - want), relative * abs(want) + absolute
    return Deviation(name, stat, got, want, 0.0 if error == 0 else error / allowed if allowed else math.inf)


def _compare_pairs(got: Any, want: Dict[str, Any]) -> List[Deviation]:
    """Weights in order; and what is said of each pair is true. Pairs as close as the tolerance may swap."""
    expected = want["top_pairs"]
    if not isinstance(got, list) or len(got) != len(expected):
        return [Deviation("top_pairs", "", math.nan, float(len(expected)), math.inf)]
    result = []
    for pair, right in zip(got, expected):
        truth = float(want["pair_map"][pair["query"], pair["key"]])
        result.append(_deviation("top_pairs", "", pair["weight"], right["weight"], RELATIVE, FLOOR))
        result.append(_deviation("top_pairs", "", pair["weight"], truth, RELATIVE, FLOOR))
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
