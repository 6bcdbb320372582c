# SPDX-License-Identifier: MIT
"""compact: rows reduced to moments and histograms of a fixed size, so that nobody waits for their device.

state.reduce_rows asks the device which buckets are in use, and that answer has to be waited for. Here each histogram is
halved as layer_state does it, until at most `buckets` are in use, and written to as many places; the rest is empty.
"""
from __future__ import annotations

from typing import NamedTuple, Tuple

import numpy as np
import torch

from ..layer_state import HALVINGS_MAX, KEY_MAX, SPAN, Reduced, key_max
from .state import HISTOGRAMS, bucket_keys, moments_of, trimmed

_VALUES = 1 << 19  # that are reduced at once, but for those of one metric of one head
_USED_MOST = 2 * SPAN + 1  # buckets that are in use after all halvings, whatever the values


class Compact(NamedTuple):
    """For each metric and head: n, mean, sum of squares, lowest and highest; how often the histogram was halved, the keys
    in use then, 0 beyond, and their counts, 0 beyond."""
    moments: torch.Tensor  # f64 [M, H, 5]
    halvings: torch.Tensor  # int16 [M, H]
    keys: torch.Tensor  # int16 [M, H, places]
    counts: torch.Tensor  # int32 [M, H, places]


def places(buckets: int) -> int:
    """How many keys a histogram has room for."""
    return max(buckets, _USED_MOST)


@torch.no_grad()
def compact(values: torch.Tensor, buckets: int) -> Compact:
    """Reduces f32 values [M, H, rows]; those that are not finite do not exist."""
    metrics, heads, rows = values.shape
    flat = values.reshape(metrics * heads, rows)
    step = max(1, min(_VALUES // rows, HISTOGRAMS))
    parts = [_compact(flat[begin:begin + step], buckets) for begin in range(0, len(flat), step)]
    return Compact(*(torch.cat(column).view(metrics, heads, *column[0].shape[1:]) for column in zip(*parts)))


def _compact(values: torch.Tensor, buckets: int) -> Tuple[torch.Tensor, ...]:
    """The same of [N, rows]."""
    exists = torch.isfinite(values)
    filled = torch.where(exists, values, torch.zeros_like(values))
    full = torch.zeros(len(values), 2 * KEY_MAX + 1, dtype=torch.int32, device=values.device)
    full.scatter_add_(1, bucket_keys(filled) + KEY_MAX, exists.int())
    place = torch.arange(-KEY_MAX, KEY_MAX + 1, device=values.device)
    halvings = torch.full((len(values), 1), HALVINGS_MAX, device=values.device)
    for more in range(HALVINGS_MAX - 1, -1, -1):  # the fewest that do are found last
        counts = full
        if more:
            counts = torch.zeros(len(values), 2 * key_max(more) + 1, dtype=torch.int32, device=values.device)
            counts.index_add_(1, _halved(place, torch.full_like(place, more)) + key_max(more), full)
        fits = (counts > 0).sum(1, keepdim=True) <= buckets
        halvings = torch.where(fits, torch.full_like(halvings, more), halvings)
    counts = torch.zeros_like(full).scatter_add_(1, _halved(place, halvings) + KEY_MAX, full)
    keys, kept = _listed(_cut(counts, place, halvings), place, places(buckets))
    return torch.stack(moments_of(values, exists, filled), 1), halvings[:, 0].short(), keys, kept


def _halved(keys: torch.Tensor, halvings: torch.Tensor) -> torch.Tensor:
    """Keys at full resolution as those after so many halvings, int64: layer_state.halve."""
    half = KEY_MAX // 2
    coarse = (torch.full_like(halvings, half) >> halvings) + 1 - ((half + 1 - keys.abs()) >> halvings)
    return torch.where(keys == 0, torch.zeros_like(coarse), torch.sign(keys) * coarse)


def _cut(counts: torch.Tensor, place: torch.Tensor, halvings: torch.Tensor) -> torch.Tensor:
    """With the keys far below the largest counted as zero, after all halvings."""
    size = place.abs()
    largest = torch.where(counts > 0, size, torch.zeros_like(size)).amax(1, keepdim=True)
    small = (size <= largest - SPAN) & (halvings == HALVINGS_MAX)
    kept = torch.where(small, torch.zeros_like(counts), counts)
    kept[:, KEY_MAX] += torch.where(small, counts, torch.zeros_like(counts)).sum(1, dtype=counts.dtype)
    return kept


def _listed(counts: torch.Tensor, place: torch.Tensor, room: int) -> Tuple[torch.Tensor, torch.Tensor]:
    """The keys in use, ascending, and their counts, [N, room] each; those without room are lost."""
    used = counts > 0
    at = torch.where(used, used.cumsum(1) - 1, torch.full((), room, device=counts.device)).clamp(max=room)
    keys, kept = (torch.zeros(len(counts), room + 1, dtype=one.dtype, device=counts.device).scatter_(1, at, one)[:, :room]
                  for one in (place.short().expand(counts.shape), counts))
    return keys, kept


def unpacked(moments: np.ndarray, halvings: np.ndarray, keys: np.ndarray, counts: np.ndarray) -> Reduced:
    """The meaning of the arrays of one metric, on the host."""
    heads = len(moments)
    shift = halvings.astype(np.int64)[:, None]
    half = KEY_MAX // 2
    size = np.abs(keys.astype(np.int64))
    largest = ((size - 1 - (half >> shift)) << shift) + half + 1  # of those that are halved to it
    whole = np.where(keys == 0, 0, np.sign(keys) * largest)
    dense = np.zeros((heads, 2 * KEY_MAX + 1), dtype=np.int64)
    np.add.at(dense, (np.arange(heads)[:, None], whole + KEY_MAX), counts)
    return trimmed(moments, dense, halvings.astype(np.int64))
