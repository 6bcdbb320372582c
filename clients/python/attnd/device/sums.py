# SPDX-License-Identifier: MIT
"""sums: what one pass over a row's keys leaves, and the row metrics in closed form from it.

The first key of a row's document, or the first that it sees, is in no sum: a sink that holds nearly everything would drown the rest, whose entropy
`entropy_sans_first` is. It is put back here, in f64 where the device has it. `e` is exp(s - largest), s a logit. Learned
sinks are in none of these numbers but `sink_deficit`.
"""
from __future__ import annotations

import math
from typing import Dict, NamedTuple, Optional, Sequence, Tuple, Union

import torch

from ..base import metrics

ROW_METRICS = tuple(name for name in metrics.ROW_METRICS if name not in ("induction", "duplicate_token"))  # of no tokens
LOCAL_WINDOW = 8  # positions; what is sent says it
_NOTHING_BELOW = -1e3  # exp of it is 0 in f64

# The sums that travel of a row, in the order in which the kernels leave them (PROTOCOL.md, type rows); powers where all rows of all
# heads are taken.
POWERS = ("power_3", "power_4", "power_5", "power_6", "power_7")
COLUMNS = ("largest", "total", "weighted", "distance", "first", "apart", "seen", "farthest", "finite", "shift", "logits", "logit_squares",
           "smallest", "cosines", "cosine_count", "cosine_max", "query_length", "square")
TOKEN_COLUMNS = ("duplicate", "induction")
FEW_COLUMNS = ("top", "eighth", "local", "previous", "own", "next")
EMPTY = {"largest": -math.inf, "first": -math.inf, "smallest": math.inf, "cosine_max": -math.inf, "previous": -math.inf, "own": -math.inf,
         "next": -math.inf}  # of a row that sees no key; all others are 0


def only(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """NaN elsewhere."""
    return torch.where(there, values, torch.full_like(values, math.nan))


class Sums(NamedTuple):
    """Tensors of one shape, the last dimension being queries: of a row's visible keys without its first key."""
    largest: torch.Tensor  # logit; -inf without any, NaN or +inf when the row is not sound
    total: torch.Tensor  # sum of e
    weighted: torch.Tensor  # sum of e (s - largest)
    distance: torch.Tensor  # sum of e |p - j|
    local: torch.Tensor  # sum of e where |p - j| <= local_window
    previous: torch.Tensor  # e at p - 1, 0 where that is not visible or the first key
    own: torch.Tensor  # at p
    next: torch.Tensor  # at p + 1
    first: torch.Tensor  # the logit of the first key, -inf when it is not visible
    with_first: torch.Tensor  # bool: the first key is visible
    seen: torch.Tensor  # how many keys are visible, with the first
    farthest: torch.Tensor  # largest |p - j| of these
    top: Optional[torch.Tensor] = None  # sum of the 8 largest e
    eighth: Optional[torch.Tensor] = None  # the smallest of these, 0 when there are fewer


class Place(NamedTuple):
    """Where the rows stand, broadcastable to the sums."""
    position: torch.Tensor  # p
    positions: Union[int, torch.Tensor]  # how many there are: P of KERNELS.md
    first: Union[int, torch.Tensor] = 0  # the first key of the row's document, visible or not
    aside: Optional[torch.Tensor] = None  # the key that is in no sum, when it may be another


class Weights(NamedTuple):
    """Sums over the weights of a row, f64 where the device has it."""
    first: torch.Tensor  # the weight of the first key
    largest: torch.Tensor
    entropy: torch.Tensor
    sans_first: torch.Tensor  # the entropy of the others, made a distribution
    has_others: torch.Tensor  # bool: these have some weight
    parts: Sequence[torch.Tensor]  # Sums.distance to Sums.next, multiplied


def wide(device: torch.device) -> torch.dtype:
    """f64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def finish(sums: Sums, place: Place, sinks: Optional[torch.Tensor], cross: bool,
           local_window: int) -> Dict[str, torch.Tensor]:
    """name -> f32 of the sums' shape, NaN where there is none; a metric that no row has is left out. `sinks`: logits,
    broadcastable to the sums."""
    f64 = wide(sums.largest.device)
    floats = [sums.largest, sums.first, sums.total, sums.weighted, sums.distance, sums.local, sums.previous, sums.own, sums.next]
    has_top = sums.top is not None and sums.eighth is not None
    stacked = torch.stack(floats + [one for one in (sums.top, sums.eighth) if one is not None]).to(f64)
    top = stacked[:2].amax(0)
    sound = torch.isfinite(top)
    shift = torch.where(sound, top, torch.zeros_like(top))
    down = stacked[:2] - shift
    (share, one), (fall, fall_first) = torch.exp(down), down.clamp(min=_NOTHING_BELOW)
    total, weighted = stacked[2:4]
    z = torch.addcmul(one, share, total)
    log_z = torch.log(z)
    unit = share / z
    parts = stacked[2:] * unit
    rest, weights, distance, local, previous, own, following = parts[:7]
    first = one / z
    entropy = (log_z - weights - rest * fall - first * fall_first).clamp(min=0)
    sans_first = (torch.log(total) - weighted / total).clamp(min=0)
    weights_of = Weights(first, torch.maximum(share, one) / z, entropy, sans_first, rest > 0, parts[2:7])
    found = numbers(sums, weights_of, place, cross, local_window)
    found["max_logit"] = top, sound
    if has_top:
        found["tail_mass"] = (1 - parts[7] - first + torch.minimum(parts[8], first)).clamp(min=0), sound
    if sinks is not None:
        found["sink_deficit"] = torch.sigmoid(sinks.to(f64) - shift - log_z), sound
    shape = top.shape
    values = torch.stack([value.expand(shape) for value, _ in found.values()]).float()
    exists = torch.stack([there.expand(shape) for _, there in found.values()]) & sound & torch.isfinite(values)
    return dict(zip(found, values.masked_fill_(~exists, math.nan)))


def numbers(sums: Sums, weights: Weights, place: Place, cross: bool,
            local_window: int) -> Dict[str, Tuple[torch.Tensor, torch.Tensor]]:
    """name -> the values of sound rows, and which of them have one; all but what is told from the largest weights, from
    logits, from a sink and from tokens."""
    n, p, first = sums.seen.to(weights.first.dtype), place.position, weights.first
    aside = place.first if place.aside is None else place.aside
    gap = (p - aside).abs()
    at_first, sans_first, has_others = first, weights.sans_first, weights.has_others
    if place.aside is not None:
        is_first = place.aside == place.first
        at_first, sans_first = torch.where(is_first, first, torch.zeros_like(first)), torch.where(is_first, sans_first, weights.entropy)
        has_others = has_others | ~is_first
    distance, local, previous, own, following = weights.parts
    always, zero = sums.seen > 0, torch.zeros_like(first)
    mean_distance = distance + first * gap
    found = {
        "entropy": (weights.entropy, always),
        "entropy_normalized": (weights.entropy / torch.log(n), n >= 2),
        "effective_keys": (torch.exp(weights.entropy), always),
        "confidence": (weights.largest, always),
        "local_mass": (local + torch.where(gap <= local_window, first, zero), always),
        "mean_distance": (mean_distance, always),
        "mean_distance_normalized": (mean_distance / sums.farthest.to(n.dtype), sums.farthest > 0),
        "first_token": (at_first, p > place.first),
        "entropy_sans_first": (sans_first / torch.log(n - sums.with_first.to(n.dtype)), (n >= 3) & has_others),
    }
    if not cross:
        for name, weight, step in (("previous_token", previous, -1), ("diagonal", own, 0), ("next_token", following, 1)):
            at = p + step
            found[name] = weight + torch.where(at == aside, first, zero), (at >= 0) & (at < place.positions)
    return found


def visible_keys(place: torch.Tensor, k_len: Union[int, torch.Tensor], causal: bool,
                 window: int) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums.with_first, seen and farthest of rows at these positions, where causal bound, window and length are all
    that hides keys. A k_len that is a tensor is broadcastable."""
    last = torch.full_like(place, k_len - 1) if isinstance(k_len, int) else (k_len - 1).expand_as(place)
    last = torch.minimum(last, place) if causal else last
    begin = (place - window + 1).clamp(min=0) if window else torch.zeros_like(place)
    count = (last - begin + 1).clamp(min=0)
    return (begin == 0) & (count > 0), count, torch.maximum((place - begin).abs(), (place - last).abs())

