# SPDX-License-Identifier: MIT
"""expected: what a summary must say, from attention weights in float64.

The formulas are those of the kernel tests (tests/kernels/formulas.py): whole arrays at once, no code of the
daemon or the client. Compared are every metric of rows, per head: mean, min, max, std and count; and the mean over
messages of the numbers that one has of each head, as far as they follow from weights and logits.

Tolerance. Between the weights here and those that attnd measured stand two roundings. The kernels promise 1e-5 of
sums of weights and 1e-4 nats (workers/KERNELS.md). The model's own arithmetic in float32 moves a logit by about
sqrt(width) * 2^-24 of its size per layer, here below 1e-5, and a weight by that share of itself. Hence twice what the
kernels promise. What is measured in tokens or logits is relative to its own size; a logit near 1 may be what is left of
terms of several times its size (those of T5 are not scaled down), whose roundings it keeps.
"""
from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "kernels"))
import formulas  # noqa: E402

LOCAL_WINDOW = 8  # the daemon's default
STATISTICS = {"mean": np.mean, "min": np.min, "max": np.max, "std": lambda x: x.std(ddof=1), "count": len}

Layer = Tuple[str, int, str]


@dataclass(frozen=True)
class Tolerance:
    """Of weights (relative to what is above 1), of entropies in nats, and of logits (relative)."""
    sums: float = 2e-5
    nats: float = 2e-4
    logits: float = 5e-5

    def of(self, metric: str) -> float:
        """How far a value of this metric may be off, relative to the larger of 1 and itself."""
        return self.nats if metric in formulas.NATS else self.logits if metric.endswith("_logit") else self.sums


@dataclass
class Attended:
    """What one attention of the model did in one forward.

    weights   f64 [B, H, Tq, Tk], rows of valid queries sum to 1
    logits    f64 of the same shape, scaled; None when nobody has them
    site      'self' or 'cross'
    causal, q_len, k_len, mask   what may be attended to, in the words of the wire; they hold together
    learned_sink   rows sum to less than 1
    tokens    int [B, Tk], the numbers that its keys are of; None: nobody says
    """
    weights: np.ndarray
    logits: Optional[np.ndarray] = None
    site: str = "self"
    causal: bool = False
    q_len: Optional[Sequence[int]] = None
    k_len: Optional[Sequence[int]] = None
    mask: Optional[np.ndarray] = None
    learned_sink: bool = False
    tokens: Optional[np.ndarray] = None
    documents: Optional[np.ndarray] = None
    samples: Optional[slice] = None

    def of(self, samples: slice) -> "Attended":
        """The attention of these samples of the batch."""
        parts = {name: getattr(self, name) for name in ("weights", "logits", "q_len", "k_len", "mask", "tokens", "documents")}
        return replace(self, samples=samples, **{name: part[samples] for name, part in parts.items() if part is not None})


def case_of(attended: Attended) -> SimpleNamespace:
    """As formulas wants it."""
    return SimpleNamespace(weights=attended.weights, dtype="f64", is_self=attended.site == "self", q_offset=0,
                           q_stride=1, window=0, causal=attended.causal, q_len=attended.q_len, k_len=attended.k_len,
                           mask=attended.mask, documents=attended.documents, tokens=attended.tokens, dropout=False,
                           learned_sink=attended.learned_sink)


def rows_of(attended: Attended) -> Dict[str, List[np.ndarray]]:
    """{metric: the values of its rows, per head}."""
    case = case_of(attended)
    weights = attended.weights
    seen, query = formulas.visible(case)
    sound, _, _ = formulas.judge(case, weights)
    assert (sound.any(1) == query).all(), "a reference must be sound"
    values = formulas.row_values(case, weights, LOCAL_WINDOW)
    values["max_logit"] = _largest_logits(attended, seen)
    heads = range(weights.shape[1])
    taken = {name: np.broadcast_to(exists, sound.shape) & sound for name, (_, exists) in values.items()}
    return {name: [value[:, h][taken[name][:, h]] for h in heads] for name, (value, _) in values.items()
            if taken[name].any()}


def _largest_logits(attended: Attended, seen: np.ndarray) -> Tuple[np.ndarray, Any]:
    if attended.logits is None:
        return np.zeros(attended.weights.shape[:3]), False
    return np.where(seen[:, None], attended.logits, -np.inf).max(-1), True


def message_of(attended: Attended) -> Dict[str, np.ndarray]:
    """{metric: its value of this message, per head}."""
    case, weights = case_of(attended), attended.weights
    seen, query = formulas.visible(case)
    sound, _, _ = formulas.judge(case, weights)
    heads = range(weights.shape[1])
    found = formulas.head_values(case, weights, sound)
    found["importance"] = formulas.importance(np.where(query[:, None, :, None], weights, 0))[0]
    if attended.logits is not None:
        logits = [attended.logits[:, h][seen & sound[:, h][..., None]] for h in heads]
        found["max_abs_logit"] = np.array([np.abs(one).max() for one in logits])
        found["mean_logit"] = np.array([one.mean() for one in logits])
        found["std_logit"] = np.array([one.std(ddof=1) for one in logits])
    return found


def pooled(several: Sequence[Attended]) -> Dict[str, List[np.ndarray]]:
    """The rows of several messages of one window."""
    each = [rows_of(attended) for attended in several]
    return {name: [np.concatenate(parts) for parts in zip(*(rows[name] for rows in each))] for name in each[0]}


def differences(summary: Dict[str, Any], several: Sequence[Attended],
                tolerance: Tolerance = Tolerance()) -> Tuple[List[str], float]:
    """(what is wrong, as text; the largest error, relative to the larger of 1 and the value)."""
    want, got = pooled(several), summary["heads"]
    wrong, worst = _metrics_missing(want, got, summary["tier"]), 0.0
    for metric in sorted(want.keys() & got.keys()):
        for name, statistic in STATISTICS.items():
            expected = np.array([statistic(rows) if len(rows) > (name == "std") else np.nan for rows in want[metric]])
            found = np.array([np.nan if x is None else x for x in got[metric][name]], float)
            errors = _relative(expected, found)
            worst = max(worst, float(errors.max()))
            bound = tolerance.of(metric) if name != "count" else 0
            wrong += [f"{metric}.{name}[{h}]: {found[h]!r}, expected {expected[h]!r}"
                      for h in np.flatnonzero(errors > bound)]
    each = [message_of(attended) for attended in several]
    given = {"importance"} if summary["tier"] == "attention" else set()  # weights come with those of padding
    for metric in sorted(each[0].keys() & got.keys() - given):
        expected = np.mean([one[metric] for one in each], 0)
        found = np.array([np.nan if x is None else x for x in got[metric]["mean"]], float)
        errors = _relative(expected, found)
        worst = max(worst, float(errors.max()))
        wrong += [f"{metric} of a message[{h}]: {found[h]!r}, expected {expected[h]!r}"
                  for h in np.flatnonzero(errors > tolerance.of(metric))]
    return wrong, worst


def _metrics_missing(want: Dict[str, Any], got: Dict[str, Any], tier: str) -> List[str]:
    """Metrics that ought to be there. Only queries and keys tell of logits; rows need not know token numbers."""
    optional = {"qk": (), "rows": ("max_logit", "induction", "duplicate_token")}.get(tier, ("max_logit",))
    needed = want.keys() - optional
    return [f"{name} is missing" for name in sorted(needed - got.keys())]


def _relative(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Errors relative to the larger of 1 and the value; infinite where one exists and the other does not."""
    if expected.shape != found.shape:
        return np.full(max(len(expected), len(found)), np.inf)[:len(expected)]
    errors = np.abs(expected - found) / np.maximum(1, np.abs(expected))
    errors[np.isnan(expected) & np.isnan(found)] = 0
    return np.where(np.isnan(errors), np.inf, errors)
