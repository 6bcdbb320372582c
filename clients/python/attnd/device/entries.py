# SPDX-License-Identifier: MIT
"""entries: the numbers of a message, from sums over the weights and logits of its rows.

Each row leaves a few sums, which are added up by head in f64, where the device has it. `importance` needs the sums of
e^A - 1 and of A e^A over a row's weights A: a backend that does not keep the weights takes them from power sums, since
both functions are within 3e-8 A of polynomials of degree 7 between 0 and 1.
"""
from __future__ import annotations

import math
from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..sending.devices import working_dtype
from .problem import Problem, slices
from .sums import Sums, only, wide

POWERS = 7
_VECTORS = 1 << 20  # numbers of queries or keys that are looked at, at once, on the CPU, where they are converted before


class Logits(NamedTuple):
    """Sums over the finite logits at a row's visible keys, key 0 as well, and over cosines where no vector is zero. Those
    of a row may all be far from 0 and near each other: f32 has their sums, and of squares, about a shift."""
    finite: torch.Tensor
    shift: torch.Tensor  # one of them
    total: torch.Tensor  # of logit - shift
    squares: torch.Tensor  # of the same
    lowest: torch.Tensor  # inf without any
    cosines: torch.Tensor
    cosine_count: torch.Tensor
    cosine_max: torch.Tensor  # -inf without any


class Scaled(NamedTuple):
    """A row's scale in f64: sums of e are multiplied by `unit`."""
    unit: torch.Tensor
    first: torch.Tensor  # the weight of key 0
    top: torch.Tensor  # the largest logit
    z: torch.Tensor  # ln of the sum of exp(logit)
    sound: torch.Tensor


def scaled(sums: Sums, sinks: Optional[torch.Tensor]) -> Scaled:
    """Numbers of rows that are not sound are any."""
    f64 = wide(sums.largest.device)
    largest, first = sums.largest.to(f64), sums.first.to(f64)
    top = torch.maximum(largest, first)
    sound = torch.isfinite(top)
    shift = top if sinks is None else torch.maximum(top, sinks.to(f64))
    shift = torch.where(sound, shift, torch.zeros_like(shift))
    share, one = torch.exp(largest - shift), torch.exp(first - shift)
    z = one + share * sums.total.to(f64)
    if sinks is not None:
        z = z + torch.exp(sinks.to(f64) - shift)
    return Scaled(share / z, one / z, top, shift + torch.log(z), sound)


def _fitted() -> Tuple[Tuple[float, ...], Tuple[float, ...]]:
    """Coefficients of x, x^2, ... that are e^x - 1 and x e^x between 0 and 1."""
    chebyshev = np.polynomial.Chebyshev
    return tuple(tuple(float(c) for c in chebyshev.interpolate(f, POWERS - 1, domain=[0, 1]).convert(
        kind=np.polynomial.Polynomial).coef) for f in (lambda x: np.expm1(x) / x, np.exp))  # type: ignore[return-value]


_GROWN, _TILTED = _fitted()


def from_powers(powers: Sequence[torch.Tensor], unit: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Sums of e^A - 1 and A e^A from those of e, e^2, ... e^7."""
    power = unit
    grown, tilted = torch.zeros_like(unit), torch.zeros_like(unit)
    for of_e, of_grown, of_tilted in zip(powers, _GROWN, _TILTED):
        part = of_e.to(unit.dtype) * power
        grown.add_(part, alpha=of_grown)
        tilted.add_(part, alpha=of_tilted)
        power = power * unit
    return grown, tilted


_TOTALS = ("rows", "seen", "weights", "squares", "entropy", "count", "total", "logit_squares", "cosines", "cosine_count")
_EXTREMES = ("least_weight", "lowest", "most_weight", "highest", "cosine_max")  # the first two are minima
_OTHERS = ("broken", "beside", "beside_count", "q", "q_count", "k", "k_count")


class Entries:
    """Sums and extremes over the sound rows of each sample and head. `whole`: the rows are all of a layer's, and so are
    the heads; without that there is no `importance`. `valid`: bool, broadcastable to [B, H, Tq]: no other rows count.
    `lengths`: of the queries and the keys, where they are known."""

    def __init__(self, p: Problem, whole: bool, valid: torch.Tensor, lengths: Optional[Tuple[torch.Tensor, torch.Tensor]] = None):
        f64 = wide(p.q.device)
        self._whole = whole
        self._valid = valid.expand(p.batch, p.heads, p.queries)
        self._flat_valid = self._valid.reshape(p.batch * p.heads, p.queries)
        self._totals = torch.zeros(len(_TOTALS), p.batch * p.heads, dtype=f64, device=p.q.device)
        self._broken = torch.zeros(p.batch * p.heads, dtype=torch.int64, device=p.q.device)
        self._extremes = torch.full((len(_EXTREMES), p.batch * p.heads), -math.inf, dtype=f64, device=p.q.device)
        self._extremes[:2] = math.inf
        self.norms = (norms(p.taken().q), norms(p.k)) if lengths is None else lengths

    def add(self, p: Problem, shape: Tuple[int, ...], place: Any, queries: slice, sums: Sums, row: Scaled,
            weights: Tuple[torch.Tensor, torch.Tensor], logits: Logits) -> None:
        """Adds these rows of the heads at `place` of all samples and heads in this shape; the last dimension of each tensor
        is rows. `weights`: sums of e^A - 1 and A e^A without key 0."""
        f64, keys = row.unit.dtype, p.keys
        assert sums.squares is not None
        first = row.first
        squares = row.unit**2 * sums.squares.to(f64) + first**2
        grown, tilted = weights[0] + torch.expm1(first), weights[1] + first * torch.exp(first)
        weight = row.unit * sums.total.to(f64) + first
        entropy = math.log(keys) + torch.log1p(grown / keys) - tilted / (keys + grown) - 1e-8 * keys
        count, lowest = logits.finite.to(f64), logits.lowest.to(f64)
        seen = sums.seen.expand_as(row.top).to(f64)
        least = torch.where(count < seen, torch.zeros_like(lowest), torch.exp(lowest - row.z))
        most = torch.maximum(row.unit, first)
        shift, shifted = logits.shift.to(f64), logits.total.to(f64)
        total = shifted + count * shift
        logit_squares = logits.squares.to(f64) + shift * (shifted + total)
        totals = (torch.ones_like(first), seen, weight, squares, entropy, count, total, logit_squares, logits.cosines,
                  logits.cosine_count)
        added = torch.stack([one.to(f64) for one in totals])
        these, of_each = (*place, queries), (slice(None), *place)
        valid = self._flat_valid.view(*shape, -1)[these]
        counts = row.sound & valid
        self._broken.view(shape)[place] += (valid & ~row.sound & (seen > 0)).sum(-1)
        mine = self._totals.view(-1, *shape)[of_each]
        mine += torch.where(counts, added, torch.zeros_like(added)).sum(-1)
        extremes = torch.stack([-least, -lowest, most, row.top, logits.cosine_max.to(f64)])
        extremes = torch.where(counts, extremes, torch.full_like(extremes, -math.inf)).amax(-1)
        extremes[:2].neg_()
        mine = self._extremes.view(-1, *shape)[of_each]
        mine[:2] = torch.minimum(mine[:2], extremes[:2])
        mine[2:] = torch.maximum(mine[2:], extremes[2:])

    def values(self, p: Problem, rows: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """name -> [H], NaN where there is none, by KERNELS.md."""
        found = values_of(*self.left(p, rows, _keys_there(p)), p.queries, p.keys, self._whole)
        return {name: one for name, one in found.items() if name != "locality" or not p.cross}

    def left(self, p: Problem, rows: Dict[str, torch.Tensor],
             keys_there: Optional[torch.Tensor]) -> Tuple[torch.Tensor, torch.Tensor]:
        """Sums and extremes [.., B, H] for values_of(), on the device; `keys_there`: bool [B or 1, 1, Tk]."""
        shape = (-1, p.batch, p.heads)
        beside = torch.stack([one for name, one in rows.items() if name in ("previous_token", "next_token")] or [p.nothing()])
        others = (self._broken.view(shape[1:]), *_finite(beside, None, (0, 3)), *_finite(self.norms[0], self._valid, (2,)),
                  *(one.repeat_interleave(p.group, 1) for one in _finite(self.norms[1], keys_there, (2,))))
        totals = self._totals.view(shape)
        return torch.cat([totals, torch.stack([one.to(totals.dtype) for one in others])]), self._extremes.view(shape)


def values_of(totals: torch.Tensor, extremes: torch.Tensor, queries: int, keys: int, whole: bool) -> Dict[str, torch.Tensor]:
    """name -> [H], NaN where there is none, from what Entries.left() gives of [B, H]."""
    by_sample = dict(zip((*_TOTALS, *_OTHERS), totals))
    t = {name: one.sum(0) for name, one in by_sample.items()}
    least, lowest = extremes[:2].amin(1)
    most, highest, cosine_max = extremes[2:].amax(1)
    some = t["rows"] > 0
    mean, variance = _moments(t["seen"], t["weights"], t["squares"])
    mean_logit, logit_variance = _moments(t["count"], t["total"], t["logit_squares"])
    found = {
        "mean": mean, "min": only(least, some), "max": only(most, some), "std": variance.sqrt(), "variance": variance,
        "locality": t["beside"] / t["beside_count"],
        "max_abs_logit": only(torch.maximum(lowest.abs(), highest.abs()), t["count"] > 0),
        "mean_logit": mean_logit, "std_logit": logit_variance.sqrt(),
        "qk_cosine": t["cosines"] / t["cosine_count"], "qk_cosine_max": only(cosine_max, t["cosine_count"] > 0),
        "q_norm": t["q"] / t["q_count"], "k_norm": t["k"] / t["k_count"]}
    if whole:
        found["importance"] = _importance(queries, keys, by_sample)
    return found


def _finite(numbers: torch.Tensor, there: Optional[torch.Tensor],
            dimensions: Tuple[int, ...]) -> Tuple[torch.Tensor, torch.Tensor]:
    """The sum of those that are there and finite, in f64, and how many these are."""
    counts = torch.isfinite(numbers) if there is None else torch.isfinite(numbers) & there
    total = torch.where(counts, numbers, torch.zeros_like(numbers)).sum(dimensions, dtype=wide(numbers.device))
    return total, counts.sum(dimensions)


def _moments(count: torch.Tensor, total: torch.Tensor, squares: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance."""
    mean = total / count
    return only(mean, count > 0), only(((squares - total * mean) / (count - 1)).clamp(min=0), count > 1)


def _importance(queries: int, keys: int, t: Dict[str, torch.Tensor]) -> torch.Tensor:
    """`broken` rows see keys and are not sound. The others are padding or see no key: their weights are 0."""
    empty = queries - t["rows"] - t["broken"]
    entropy = t["entropy"] - empty * math.log(1 / keys + 1e-8)
    entries = (t["rows"] + empty) * keys
    variance = (t["squares"] - t["weights"]**2 / entries) / (entries - 1)
    there = entries >= 2
    scores = torch.where(there, variance + entropy, torch.zeros_like(entropy)).sum(0) / there.sum(0) / 2
    known = torch.isfinite(scores)
    return only(torch.softmax(torch.where(known, scores, torch.full_like(scores, -math.inf)), 0), known)


def _keys_there(p: Problem) -> Optional[torch.Tensor]:
    return None if p.k_len is None else (
        torch.arange(p.keys, device=p.k.device) < p.k_len.to(p.k.device)[:, None])[:, None]


def norms(vectors: torch.Tensor) -> torch.Tensor:
    """[B, H, T], f64 of f64, else f32."""
    working = working_dtype(vectors)
    if vectors.device.type != "cpu":
        return torch.linalg.vector_norm(vectors, dim=-1, dtype=working)  # type: ignore[no-any-return]
    found = torch.empty(vectors.shape[:3], dtype=working, device=vectors.device)
    for some in slices(vectors.shape[2], _VECTORS // (vectors.shape[0] * vectors.shape[1] * vectors.shape[3])):
        torch.linalg.vector_norm(vectors[:, :, some], dim=-1, dtype=working, out=found[:, :, some])
    return found


def inverse(lengths: torch.Tensor, none: float = 0.0) -> torch.Tensor:
    """1 / x, and `none` of zero and of what is not finite."""
    found = lengths.reciprocal()
    return found.masked_fill_(~((found > 0) & (found < math.inf)), none)
