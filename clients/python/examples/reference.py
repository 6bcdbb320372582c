# SPDX-License-Identifier: MIT
"""reference: every published number, computed by its formula from what was published, in float64 with torch.

Independent of the daemon: no code is shared with it, and nothing here is fast. `measure` takes one message as
it was published, `pool` the messages of a window, `compare` a pool and the summary that came back. The formulas are in
reference_rows (one row), reference_heads (across heads), reference_spectrum and reference_qk (queries and keys instead
of weights); tolerances in reference_compare.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch

import reference_heads as heads
import reference_qk as qk
from reference_compare import Deviation, compare, worst
from reference_heads import MAP_STATS, top_pairs
from reference_rows import LOCAL_WINDOW, ROW_METRICS, Attention, judge, row_metrics, shown
from reference_spectrum import QK_SPECTRUM_METRICS, SPECTRUM_METRICS, VECTOR_WIDTH, Spectra, spectra

__all__ = ["Attention", "Deviation", "Measured", "Settings", "compare", "describe", "from_message", "measure", "pool",
           "top_pairs", "worst"]

BUCKETS, BUCKETS_RESERVE = 48, 4  # the default of window.buckets
ENTROPY_SLACK, WEIGHT_SLACK = 1e-4, 1e-5  # of what patterns and sinks are judged by


class Settings(NamedTuple):
    """The settings of attnd that affect the numbers, with their defaults."""
    local_window: int = LOCAL_WINDOW
    similarity: bool = False
    redundant_js: float = 0.05
    head_pairs: bool = False
    head_weights: Optional[Sequence[float]] = None


class Measured(NamedTuple):
    """One message's numbers."""
    rows: Dict[str, List[np.ndarray]]  # row metric -> one array of row values per head
    values: Dict[str, np.ndarray]      # message and spectrum metrics -> [heads], NaN = does not exist
    vectors: Dict[str, np.ndarray]     # [heads, VECTOR_WIDTH]
    patterns: List[set]                # the names each head may have
    sink_rate: float
    aggregate: Dict[str, Dict[str, float]]
    pair_map: torch.Tensor             # [Tq, Tk] head-mean map averaged over samples
    head_maps: Optional[torch.Tensor]  # [heads, Tq, Tk] each head's, when asked for
    similarity: Optional[Dict[str, Any]]
    slack: Dict[str, np.ndarray]       # name -> how far the value may be off for reasons of its own
    sound: int
    unsound: int
    row_sum_error: float


def from_message(message: Any) -> Attention:
    """An Attention from an attnd.sending.sender.Message: the very arrays that travelled. ValueError for a sample of rows."""
    keys = message.keys
    if keys.get("q_stride", 1) > 1:
        raise ValueError("a sample of rows is not verified: capture all rows (attnctl plan set JOB rows=0)")
    tensors = {t["name"]: _tensor(frame, t["dtype"]) for t, frame in zip(keys["tensors"], message.frames)}
    dtype = keys["tensors"][0]["dtype"]
    rows = {k: keys[k] for k in ("site", "causal", "window", "q_offset", "q_len", "k_len", "dropout",
                                 "learned_sink") if k in keys}
    rows.update({name: tensors[name] for name in ("mask", "documents", "tokens") if name in tensors})
    if "q" in tensors:
        return qk.attention(tensors, dtype, keys["scale"], keys.get("softcap", 0.0), **rows)
    grad = tensors["grad"].double() if "grad" in tensors else None
    return Attention(tensors["weights"].double(), dtype, grad=grad, values=qk.values_of(tensors, "weights"), **rows)


def _tensor(frame: Any, dtype: str) -> torch.Tensor:
    raw = np.array(frame)
    return torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16) if dtype == "bf16" else torch.from_numpy(raw)


# ------------------------------------------------------------------------------------------- one message

def measure(a: Attention, settings: Settings = Settings()) -> Measured:
    """Every number of one message."""
    judged = judge(a)
    error = 2 * qk.delta_of(a)
    rows = row_metrics(a, judged, settings.local_window)
    means = {name: [_mean(x) for x in rows[name]] for name in ROW_METRICS}
    scores = heads.importance_scores(a.weights)
    importance = heads.importance(scores)
    values = {**heads.entry_metrics(a.weights, judged), "locality": heads.locality(rows), "importance": importance,
              "importance_gradient": heads.importance_gradient(a, judged)}
    pairs = torch.where(shown(a), a.weights, torch.full_like(a.weights, math.nan))
    aggregate = heads.aggregates(a.weights, settings.head_weights, importance)
    spectrum, slack = spectra(a, error), {}
    if a.qk is not None:
        rows, values = {**rows, **qk.row_metrics(a, judged)}, {**values, **qk.metrics(a, judged)}
        slack = qk.slack(a, rows, values, aggregate, spectrum)
        spectrum = Spectra(*({**one, **other} for one, other in zip(spectrum, qk.spectra(a))))
    if a.qk is not None or a.values is not None:
        values = {**values, **qk.outputs(a, judged)}
        slack = {**slack, **qk.outputs_slack(a, rows)}
    share = heads.importance_slack(scores, error)
    slack = {**slack, **spectrum.slack, "importance": importance * share,
             "sink_rate": _sink_slack(means["first_token"], error),
             "aggregate.importance": np.array((share + error) * max(map(abs, aggregate["importance"].values())))}
    counted = judged.queries.expand(judged.sound.shape)
    errors = (judged.sums - 1).abs()[counted & judged.seen.any(-1) & torch.isfinite(judged.sums)]
    nats = ENTROPY_SLACK + float(np.max(slack.get("entropy", 0.0)))
    return Measured(
        rows, {**values, **spectrum.values}, spectrum.vectors,
        [heads.patterns({name: means[name][h] for name in ROW_METRICS}, nats, WEIGHT_SLACK + error)
         for h in range(a.weights.shape[1])], heads.sink_rate(means["first_token"]),
        aggregate, heads.mean_where_finite(pairs.mean(1)),
        heads.mean_where_finite(pairs) if settings.head_pairs else None,
        heads.similarity(a, judged, settings.redundant_js) if settings.similarity else None,
        {name: np.asarray(value) for name, value in slack.items()},
        int(judged.sound.sum()), int((counted & ~judged.sound).sum()),
        float(errors.max()) if len(errors) else math.nan)


def _sink_slack(first_token: Sequence[float], error: float) -> np.ndarray:
    """How far the rate may be off: heads near the bound may be counted either way."""
    near = WEIGHT_SLACK + error
    low, high = (heads.sink_rate(first_token, slack) for slack in (near, -near))
    return np.array(0.0 if math.isnan(low) else high - low)


def _mean(x: np.ndarray) -> float:
    return float(x.mean()) if len(x) else math.nan


# --------------------------------------------------------------------------------------------- a window

def pool(messages: Sequence[Measured]) -> Dict[str, Any]:
    """The summary of a window: as the daemon's map, `messages` in the order of their steps. Beyond that map:
    pair_map and head_maps, `patterns` (the names each head may have) and `slack`."""
    count = len(messages[0].patterns)
    newest = messages[-1]
    row_names, names, spectral, vectors = _names(newest)
    stats: Dict[str, Any] = {}
    for name in row_names:
        stats[name] = _columns([describe(np.concatenate([m.rows[name][h] for m in messages]),
                                         _mean(newest.rows[name][h])) for h in range(count)])
    for name in names + spectral:
        stats[name] = _columns([describe(np.array([m.values[name][h] for m in messages]), newest.values[name][h])
                                for h in range(count)])
    errors = [m.row_sum_error for m in messages if not math.isnan(m.row_sum_error)]
    window = {
        "heads": {**{name: stats[name] for name in row_names + names},
                  "pattern": {"last": [sorted(names, key=str)[0] for names in newest.patterns]}},
        "sink_rate": describe(np.array([m.sink_rate for m in messages]), newest.sink_rate),
        "spectrum": {**{name: stats[name] for name in spectral},
                     **{name: _pool_vectors(messages, name) for name in vectors}},
        "aggregate": {name: {stat: describe(np.array([m.aggregate[name][stat] for m in messages]),
                                            newest.aggregate[name][stat]) for stat in MAP_STATS}
                      for name in newest.aggregate},
        "top_pairs": top_pairs(newest.pair_map), "pair_map": newest.pair_map, "patterns": newest.patterns,
        "slack": {name: np.max([np.nan_to_num(m.slack[name], nan=0.0, posinf=math.inf) for m in messages], 0)
                  for name in newest.slack},
        "messages": len(messages), "rows": sum(m.sound for m in messages),
        "invalid_rows": sum(m.unsound for m in messages), "row_sum_error": max(errors) if errors else math.nan}
    if newest.head_maps is not None:
        window["head_maps"] = newest.head_maps
        window["head_top_pairs"] = [top_pairs(head) for head in newest.head_maps]
    if newest.similarity is not None:
        window["similarity"] = newest.similarity
    return window


def _names(measured: Measured) -> List[Sequence[str]]:
    """The metrics that there are, in the order of a summary: of rows, of messages, of spectra, and their lists."""
    spectra_of = SPECTRUM_METRICS + QK_SPECTRUM_METRICS
    known = (ROW_METRICS + qk.QK_ROW_METRICS, [name for name in measured.values if name not in spectra_of], spectra_of,
             tuple(VECTOR_WIDTH))
    there = {*measured.rows, *measured.values, *measured.vectors}
    return [tuple(name for name in names if name in there) for names in known]


def _pool_vectors(messages: Sequence[Measured], name: str) -> Dict[str, np.ndarray]:
    """Statistics of lists of numbers, [heads, width] each; quantiles are not kept."""
    values = np.stack([m.vectors[name] for m in messages])  # [messages, heads, width]
    _, count, width = values.shape
    found = [_columns([describe(values[:, h, k], values[-1, h, k]) for k in range(width)]) for h in range(count)]
    return {stat: np.stack([f[stat] for f in found]) for stat in ("mean", "std", "min", "max", "last", "count")}


def describe(values: np.ndarray, last: float) -> Dict[str, float]:
    """mean, std, min, max, p10, p50, p90, p99, last, count of the finite values; p is the order statistic ceil(q n), which
    is known up to the relative `width` of the histogram's buckets, or up to `small`, whichever is more."""
    x = np.sort(values[np.isfinite(values)])
    n = len(x)
    if n == 0:
        return {**dict.fromkeys(("mean", "std", "min", "max", "p10", "p50", "p90", "p99", "last", "width"), math.nan),
                "count": 0, "small": 0.0}
    rank = {f"p{q}": x[max(0, -(-q * n // 100) - 1)] for q in (10, 50, 90, 99)}
    return {"mean": x.mean(), "std": x.std(ddof=1) if n > 1 else math.nan, "min": x[0], "max": x[-1], **rank,
            "last": last, "count": n, **_resolution(x)}


def _resolution(x: np.ndarray) -> Dict[str, float]:
    """Buckets of 2^(1/32), 1/16, 1/8, 1/4: the first of which at most window.buckets are used, or the last, where what
    is far below the largest counts as zero. Values beside a bound may be counted on either side of it: a few buckets
    are kept in reserve."""
    magnitude = np.abs(x)
    signed = np.sign(x) * (magnitude >= 2.0**-40)
    for step in (1 / 32, 1 / 16, 1 / 8):
        with np.errstate(divide="ignore"):
            index = np.where(signed == 0, 0, np.ceil(np.log2(magnitude) / step))
        if len(np.unique(np.stack([signed, index]), axis=1).T) <= BUCKETS - BUCKETS_RESERVE:
            return {"width": 2.0**step - 1, "small": 0.0}
    return {"width": 2.0**0.25 - 1, "small": 2.0**-11.5 * float(magnitude.max())}


def _columns(stats: Sequence[Dict[str, float]]) -> Dict[str, np.ndarray]:
    return {key: np.array([s[key] for s in stats]) for key in stats[0]}
