# SPDX-License-Identifier: MIT
"""state: row metrics reduced to moments and histograms where they are.

A record per metric and head travels, and the buckets in use; the rows do not. The table of bounds is that of
layer_state, rounded down to f32: a value in f32 is at most a bound exactly when it is at most that.
"""
from __future__ import annotations

from typing import Dict, List, Mapping, Tuple

import numpy as np
import torch

from ..layer_state import KEY_MAX, STEP, Reduced
from .problem import Problem
from .sums import wide

_LOWEST, _HIGHEST = 2.0**-40, 2.0**40
_ENTRIES = 1 << 21  # of a bias that are looked at, at once
_VALUES = 1 << 18  # that are reduced at once, but for those of one metric of one head
_HISTOGRAMS = 192  # that are made at once


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
        _bounds[device] = torch.as_tensor(_rounded_down(STEP), device=device)
    return _bounds[device]


def _rounded_down(bounds: np.ndarray) -> np.ndarray:
    near = bounds.astype(np.float32)
    return np.where(near > bounds, np.nextafter(near, np.float32(0)), near)


@torch.no_grad()
def reduce_rows(rows: Mapping[str, torch.Tensor]) -> Dict[str, Reduced]:
    """layer_state.reduce_rows of metrics [B, H, Tq], on their device, several at a time where they are small."""
    if not rows:
        return {}
    batch, heads, queries = next(iter(rows.values())).shape
    names, step = list(rows), min(_VALUES // (batch * queries), _HISTOGRAMS)
    several = max(1, step // heads)
    found: Dict[str, Reduced] = {}
    for begin in range(0, len(names), several):
        group = names[begin:begin + several]
        parts = [_reduce_heads([rows[name][:, h:h + max(1, step)] for name in group]) for h in range(0, heads, max(1, step))]
        moments, counts = (np.concatenate(part, -2) for part in zip(*parts))
        found.update((name, trimmed(*one)) for name, *one in zip(group, moments, counts))
    return found


def trimmed(moments: np.ndarray, counts: np.ndarray) -> Reduced:
    """Moments [H, 5] and the counts of all keys [H, 2 KEY_MAX + 1] without the keys at either end that no head has."""
    n, mean, m2, low, high = moments.T
    used = np.flatnonzero(counts.any(0))
    begin, end = (int(used[0]), int(used[-1]) + 1) if used.size else (0, 0)
    return Reduced(n.astype(np.int64), mean, m2, low, high, begin - KEY_MAX, counts[:, begin:end])


def _reduce_heads(several: List[torch.Tensor]) -> Tuple[np.ndarray, np.ndarray]:
    """n, mean, m2, lowest and highest as f64 [M, H, 5], and counts of all keys [M, H, 2 KEY_MAX + 1], on the host, of
    tensors [B, H, Tq]."""
    heads = several[0].shape[1]
    values = torch.cat([one.transpose(0, 1).reshape(heads, -1) for one in several])
    exists = torch.isfinite(values)
    filled = torch.where(exists, values, torch.zeros_like(values))
    moments = torch.stack(moments_of(values, exists, filled), 1)
    width = 2 * KEY_MAX + 1
    counts = torch.zeros(len(values), width, dtype=torch.int32, device=values.device)
    counts.scatter_add_(1, bucket_keys(filled) + KEY_MAX, exists.int())
    used = counts.nonzero()
    place, number = used.cpu().numpy(), counts[used[:, 0], used[:, 1]].cpu().numpy()
    dense = np.zeros((len(values), width), dtype=np.int64)
    dense[place[:, 0], place[:, 1]] = number
    return moments.cpu().double().numpy().reshape(-1, heads, 5), dense.reshape(-1, heads, width)


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
