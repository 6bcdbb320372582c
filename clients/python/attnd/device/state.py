# SPDX-License-Identifier: MIT
"""state: row metrics reduced to moments and histograms where they are.

A record per metric and head travels, and the buckets in use; the rows do not. The table of bounds is that of
layer_state, rounded down to f32: a value in f32 is at most a bound exactly when it is at most that.
"""
from __future__ import annotations

from typing import Dict, List, Mapping, Sequence

import numpy as np
import torch

from ..sending.layer_state import KEY_MAX, STEP, Reduced
from .problem import Problem
from .sums import wide

_LOWEST, _HIGHEST = 2.0**-40, 2.0**40
_ENTRIES = 1 << 21  # of a bias that are looked at, at once
_VALUES = 1 << 18  # that are reduced at once, but for those of one metric of one head
_HISTOGRAMS = 1024  # that are made at once, of at most 20 KiB each


def bucket_keys(values: torch.Tensor) -> torch.Tensor:
    """The histogram key of finite f32 values, as layer_state.bucket_keys has it: int64."""
    bounds = prepared_bounds(values.device)
    fraction, exponent = torch.frexp(values.abs().clamp(_LOWEST, _HIGHEST))
    keys = (exponent.long() + 39) * 32 + torch.searchsorted(bounds, (2 * fraction).contiguous()) + 1
    return torch.where(values.abs() < _LOWEST, torch.zeros_like(keys), torch.where(values < 0, -keys, keys))


_bounds: Dict[torch.device, torch.Tensor] = {}


def prepared_bounds(device: torch.device) -> torch.Tensor:
    """The bounds on a device; the first time they are brought there, which is waited for."""
    if device not in _bounds:
        near = STEP.astype(np.float32)
        _bounds[device] = torch.as_tensor(np.where(near > STEP, np.nextafter(near, np.float32(0)), near), device=device)
    return _bounds[device]


@torch.no_grad()
def reduce_rows(rows: Mapping[str, torch.Tensor]) -> Dict[str, Reduced]:
    """layer_state.reduce_rows of metrics [B, H, Tq], on their device, several at a time where they are small."""
    if not rows:
        return {}
    batch, heads, queries = next(iter(rows.values())).shape
    names, step = list(rows), min(_VALUES // (batch * queries), _HISTOGRAMS)
    several, step = max(1, step // heads), max(1, step)
    found: Dict[str, Reduced] = {}
    for begin in range(0, len(names), several):
        group = names[begin:begin + several]
        parts = [_reduce_heads([rows[name][:, h:h + step] for name in group]) for h in range(0, heads, step)]
        found.update((name, one[0] if len(one) == 1 else _joined(one)) for name, one in zip(group, zip(*parts)))
    return found


def _joined(parts: Sequence[Reduced]) -> Reduced:
    """The heads of all, one after another."""
    first, end = min(one.first for one in parts), max(one.first + one.counts.shape[1] for one in parts)
    counts = [np.pad(one.counts, ((0, 0), (one.first - first, end - one.first - one.counts.shape[1]))) for one in parts]
    n, mean, m2, low, high = (np.concatenate(column) for column in zip(*(one[:5] for one in parts)))
    return Reduced(n, mean, m2, low, high, first, np.concatenate(counts))


def _reduce_heads(several: Sequence[torch.Tensor]) -> List[Reduced]:
    """Reduces each of these metrics [B, H, Tq], all at once."""
    heads, device = several[0].shape[1], several[0].device
    values = torch.cat([one.transpose(0, 1).reshape(heads, -1) for one in several])
    exists = torch.isfinite(values)
    filled = torch.where(exists, values, torch.zeros_like(values))
    moments = torch.stack(moments_of(values, exists, filled)).cpu().double().numpy().reshape(5, len(several), heads)
    keys, there = (one.view(len(several), heads, -1) for one in (bucket_keys(filled), exists))
    none = torch.full_like(keys, KEY_MAX)
    first, last = torch.stack([torch.where(there, keys, none).amin((1, 2)), torch.where(there, keys, -none).amax((1, 2))]).cpu().numpy()
    width = np.where(moments[0].any(1), last - first + 1, 0)
    ends = np.cumsum(heads * width)
    begin, width_there = torch.from_numpy(np.stack([ends - heads * width - first, width])).to(device)[:, :, None, None]
    at = begin + torch.arange(heads, device=device)[:, None] * width_there + keys
    nowhere = torch.full_like(at, int(ends[-1]))
    counts = torch.zeros(int(ends[-1]) + 1, dtype=torch.int32, device=device)
    counts.scatter_add_(0, torch.where(there, at, nowhere).view(-1), there.view(-1).int())
    of_each = np.split(counts.cpu().numpy().astype(np.int64), ends)
    return [Reduced(n.astype(np.int64), mean, m2, low, high, int(begins) if size else -KEY_MAX, found.reshape(heads, size))
            for n, mean, m2, low, high, begins, size, found in zip(*moments, first, width, of_each)]


def moments_of(values: torch.Tensor, exists: torch.Tensor, filled: torch.Tensor) -> List[torch.Tensor]:
    """n, mean, sum of squares, lowest and highest of each row of f32 values, of which some exist; `filled`: 0 for the
    others."""
    precise = filled.to(wide(values.device))
    n = exists.sum(1)
    mean = precise.sum(1) / n.clamp(min=1)
    m2 = torch.where(exists, (precise - mean[:, None]) ** 2, torch.zeros_like(precise)).sum(1)
    low = torch.where(exists, values, torch.full_like(values, float("inf"))).amin(1).to(mean.dtype)
    high = torch.where(exists, values, torch.full_like(values, float("-inf"))).amax(1).to(mean.dtype)
    same = low == high
    return [n.to(mean.dtype), torch.where(same, low, mean), torch.where(same, torch.zeros_like(m2), m2), low, high]


@torch.no_grad()
def valid_rows(p: Problem) -> torch.Tensor:
    """The valid queries, by KERNELS.md: bool [B, H, Tq], where B and H may be 1."""
    position = torch.arange(p.queries, device=p.q.device)
    valid = torch.ones(1, 1, p.queries, dtype=torch.bool, device=p.q.device)
    if p.q_len is not None:
        valid = (position < p.q_len.to(p.q.device)[:, None])[:, None]
    if p.bias is None:
        return valid & has_keys(p, position)
    step = max(1, _ENTRIES // (p.batch * p.bias.shape[1] * p.keys))
    return valid & torch.cat([has_keys(p, some) for some in torch.split(position, step)], -1)


def has_keys(p: Problem, queries: torch.Tensor) -> torch.Tensor:
    """Which of these queries the bias and the documents leave some key, broadcastable to [B, H, queries]."""
    some = torch.ones(len(queries), 1, dtype=torch.bool, device=queries.device)
    if p.documents is not None:
        place = p.position(queries)
        own = p.documents[:, place.clamp(max=p.keys - 1)]
        some = (place < p.keys)[:, None]
        if p.bias is not None:
            some = some & (own[:, None, :, None] == p.documents[:, None, None, :])
    if p.bias is not None:
        part = p.bias[:, :, queries] if p.bias.shape[2] > 1 else p.bias
        some = some & ~p.hidden(part)
    return some.any(-1)
