# SPDX-License-Identifier: MIT
"""sums: what one pass over a row's keys leaves, and the row metrics in closed form from it.

Key 0 is in no sum: a sink that holds nearly everything would drown the rest, whose entropy `entropy_sans_first` is. It
is put back here, in f64 where the device has it. `e` is exp(s - largest), s a logit.
"""
from __future__ import annotations

import math
from typing import Dict, NamedTuple, Optional, Tuple, Union

import torch

ROW_METRICS = ("entropy", "entropy_normalized", "effective_keys", "confidence", "diagonal", "local_mass",
               "mean_distance", "mean_distance_normalized", "previous_token", "next_token", "first_token",
               "entropy_sans_first", "tail_mass", "sink_deficit", "max_logit")


class Sums(NamedTuple):
    """Tensors of one shape, the last dimension being queries: of a row's visible keys without key 0."""
    largest: torch.Tensor  # logit; -inf without any, NaN or +inf when the row is not sound
    total: torch.Tensor  # sum of e
    weighted: torch.Tensor  # sum of e (s - largest)
    distance: torch.Tensor  # sum of e |p - j|
    local: torch.Tensor  # sum of e where |p - j| <= local_window
    previous: torch.Tensor  # e at p - 1, 0 where that is not visible or key 0
    own: torch.Tensor  # at p
    next: torch.Tensor  # at p + 1
    first: torch.Tensor  # the logit of key 0, -inf when it is not visible
    with_first: torch.Tensor  # bool: key 0 is visible
    seen: torch.Tensor  # how many keys are visible, with key 0
    farthest: torch.Tensor  # largest |p - j| of these
    top: Optional[torch.Tensor] = None  # sum of the 8 largest e
    eighth: Optional[torch.Tensor] = None  # the smallest of these, 0 when there are fewer


class Place(NamedTuple):
    """Where the rows stand, broadcastable to the sums."""
    position: torch.Tensor  # p
    positions: Union[int, torch.Tensor]  # how many there are: P of KERNELS.md


def wide(device: torch.device) -> torch.dtype:
    """f64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def finish(sums: Sums, place: Place, sinks: Optional[torch.Tensor], cross: bool,
           local_window: int) -> Dict[str, torch.Tensor]:
    """name -> f32 of the sums' shape, NaN where there is none; a metric that no row has is left out. `sinks`: logits,
    broadcastable to the sums."""
    f64 = wide(sums.largest.device)
    largest, first = sums.largest.to(f64), sums.first.to(f64)
    top = torch.maximum(largest, first)
    sound = torch.isfinite(top)
    sink = torch.full_like(top, -math.inf) if sinks is None else sinks.to(f64).expand_as(top)
    shift = torch.where(sound, torch.maximum(top, sink), torch.zeros_like(top))
    share, one = torch.exp(largest - shift), torch.exp(first - shift)
    total, weighted = sums.total.to(f64), sums.weighted.to(f64)
    zero = torch.zeros_like(top)

    def scaled(part: torch.Tensor) -> torch.Tensor:
        return torch.where(share > 0, share * part.to(f64), zero)

    rest = scaled(total)
    mass = rest + one
    z = mass + torch.exp(sink - shift)
    logs = (scaled(weighted) + torch.where(share > 0, rest * (largest - shift), zero)
            + torch.where(one > 0, one * (first - shift), zero))
    entropy = ((mass * torch.log(z) - logs) / z).clamp(min=0)
    n, p = sums.seen.to(f64), place.position
    mean_distance = (scaled(sums.distance) + one * p) / z
    left = n - sums.with_first.to(f64)
    sans_first = (torch.log(total) - weighted / total).clamp(min=0) / torch.log(left)
    found = {
        "entropy": entropy,
        "entropy_normalized": _where(n >= 2, entropy / torch.log(n)),
        "effective_keys": torch.exp(entropy),
        "confidence": torch.maximum(scaled(torch.ones_like(total)), one) / z,
        "local_mass": (scaled(sums.local) + torch.where(p <= local_window, one, zero)) / z,
        "mean_distance": mean_distance,
        "mean_distance_normalized": _where(sums.farthest > 0, mean_distance / sums.farthest.to(f64)),
        "first_token": _where(p >= 1, one / z),
        "entropy_sans_first": _where((n >= 3) & (rest > 0), sans_first),
        "max_logit": top,
    }
    if not cross:
        for name, e, step in (("previous_token", sums.previous, -1), ("diagonal", sums.own, 0),
                              ("next_token", sums.next, 1)):
            there = (p + step >= 0) & (p + step < place.positions)
            found[name] = _where(there, (scaled(e) + torch.where(p + step == 0, one, zero)) / z)
    if sums.top is not None and sums.eighth is not None:
        largest_8 = scaled(sums.top) + one - torch.minimum(scaled(sums.eighth), one)
        found["tail_mass"] = 1 - largest_8 / z
    if sinks is not None:
        found["sink_deficit"] = 1 - mass / z
    finite = ((name, _where(sound, value)) for name, value in found.items())
    return {name: _where(torch.isfinite(value), value).float() for name, value in finite}


def visible_keys(place: torch.Tensor, k_len: Union[int, torch.Tensor], causal: bool,
                 window: int) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums.with_first, seen and farthest of rows at these positions, where causal bound, window and length are all
    that hides keys. A k_len that is a tensor is broadcastable."""
    last = torch.full_like(place, k_len - 1) if isinstance(k_len, int) else (k_len - 1).expand_as(place)
    last = torch.minimum(last, place) if causal else last
    begin = (place - window + 1).clamp(min=0) if window else torch.zeros_like(place)
    count = (last - begin + 1).clamp(min=0)
    return (begin == 0) & (count > 0), count, torch.maximum((place - begin).abs(), (place - last).abs())


def _where(condition: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.where(condition, value, torch.full_like(value, math.nan))
