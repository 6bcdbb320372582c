# SPDX-License-Identifier: MIT
"""visible: what a mask says of rows: masks.describe, as far as the numbers of rows depend on it.

looked_at(), or the kernel seen_keys, finds a few numbers on the device that holds the mask; known() makes the meaning of
them, there or on the host. Nobody waits for an answer.
"""
from __future__ import annotations

from typing import Callable, NamedTuple, Tuple

import torch

from .problem import Problem, slices

_ENTRIES = 1 << 20  # of a mask that are looked at, at once

Allowed = Callable[[slice], torch.Tensor]  # of some of the queries: bool [B or 1, queries, Tk]


class Known(NamedTuple):
    """`valid`, bool [B or 1, Tq]: which queries are no padding; `end` [B or 1]: the position after the last one; `causal`,
    bool: all is said by a causal bound, perhaps a window, and lengths; `keys` [B or 1]: how many keys are no padding, by
    these."""
    valid: torch.Tensor
    end: torch.Tensor
    causal: torch.Tensor
    keys: torch.Tensor


class _Extent(NamedTuple):
    """How many keys each row sees, the first and the last of them: [B or 1, Tq]; Tk and -1 when it sees none."""
    seen: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor


@torch.no_grad()
def looked_at(allowed: Allowed, queries: int, keys: int) -> torch.Tensor:
    """f32 [B or 1, 3 Tq + Tk]: of each query how many keys it sees, the first and the last of them, Tk and -1 when it sees none;
    and of each key whether some query sees it that does not see all."""
    parts, there = [], []
    for some in slices(queries, _ENTRIES // keys):
        seen = allowed(some)
        j, count = torch.arange(keys, device=seen.device), seen.sum(2)
        parts.append(torch.stack([count, torch.where(seen, j, torch.full_like(j, keys)).amin(2),
                                  torch.where(seen, j, torch.full_like(j, -1)).amax(2)], 1))
        there.append((seen & (count < keys)[..., None]).any(1))
    return torch.cat([torch.cat(parts, 2).flatten(1), torch.stack(there).any(0)], 1).float()


@torch.no_grad()
def known(looked: torch.Tensor, position: torch.Tensor, after: int, keys: int, cross: bool, shared: bool = False) -> Known:
    """The meaning of what was looked at, of queries at these positions, [Tq], of a layer whose queries end before `after`;
    unless `cross`, there is a key for each query. `shared`: by one mask for all samples."""
    queries, device = len(position), position.device
    extent = _Extent(*looked[:, :3 * queries].long().view(-1, 3, queries).unbind(1))
    opened = torch.zeros_like(extent.seen, dtype=torch.bool)
    if not cross:
        opened = _opened(extent, position, keys)
        empty = (torch.zeros_like(extent.seen), torch.full_like(extent.lowest, keys), torch.full_like(extent.highest, -1))
        extent = _Extent(*(torch.where(opened, none, some) for none, some in zip(empty, extent)))
    valid = extent.seen > 0
    if not (cross or shared):
        present = (looked[:, 3 * queries:] > 0) | (extent.seen == keys).any(1, keepdim=True)
        before, of_keys = torch.nn.functional.pad(present.long().cumsum(1), (1, 0)), torch.zeros_like(valid[:, :1])
        for low, high, exists in _bases(extent, position, keys):
            within = (extent.lowest >= low) & (extent.highest <= high) & (extent.seen == before[:, high + 1] - before[:, low])
            of_keys = of_keys | ((~valid | within).all(1, keepdim=True) & exists)
        valid = valid & (present[:, position.clamp(max=keys - 1)] | ~of_keys)
    end = torch.full((len(valid),), min(keys, after), device=device)
    is_simple = torch.zeros((), dtype=torch.bool, device=device)
    found = Known(valid, end, is_simple, torch.full_like(end, keys))
    for number, (low, high, exists) in enumerate(_bases(extent, position, keys)):
        fits, inside, ends, length = _simple(extent, low, high, position, after, keys, cross or shared)
        simple = Known(inside, ends, torch.full_like(is_simple, number > 0), length)
        found = Known(*(torch.where(fits & exists & ~is_simple, new, old) for new, old in zip(simple, found)))
        is_simple = is_simple | (fits & exists)
    return found


def visible_keys_of(looked: torch.Tensor, p: Problem) -> torch.Tensor:
    """sums.visible_keys() of all heads of a problem: [3, B H, Tq]."""
    seen, lowest, highest = looked[:, :3 * p.queries].view(-1, 3, p.queries).unbind(1)
    place = p.position(torch.arange(p.queries, device=looked.device))
    farthest = torch.maximum((place - lowest).abs(), (place - highest).abs()) * (seen > 0)
    found = torch.stack([(lowest == 0).to(seen.dtype), seen, farthest])[:, :, None]
    return found.expand(-1, p.batch, p.heads, -1).flatten(1, 2)


def _opened(extent: _Extent, position: torch.Tensor, keys: int) -> torch.Tensor:
    """The rows of left padding that see all keys, lest they become NaN."""
    opened = (extent.seen == keys).long().cumprod(1).bool()
    begin = opened.sum(1)
    edge = torch.where(begin > 0, position[(begin - 1).clamp(min=0)] + 1, torch.zeros_like(begin))
    beyond = (extent.seen > 0) & ~opened & ((extent.lowest < edge[:, None]) | (extent.highest > position))
    return opened & ((begin < len(position)) & ~beyond.any(1))[:, None]


def _bases(extent: _Extent, position: torch.Tensor, keys: int) -> Tuple[Tuple[torch.Tensor, ...], ...]:
    """The maps that could be below the padding, by the first and last key of each row: everything, the triangle, a band;
    and whether there is such a one."""
    zero, last, always = torch.zeros_like(position), position.clamp(max=keys - 1), torch.ones_like(position[0], dtype=torch.bool)
    window = extent.seen.amax()
    return ((zero, torch.full_like(position, keys - 1), always), (zero, last, always),
            ((position - window + 1).clamp(min=0), last, (window > 0) & (window < keys)))


def _simple(extent: _Extent, low: torch.Tensor, high: torch.Tensor, position: torch.Tensor, after: int, keys: int,
            cross: bool) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whether the map is that of a base and lengths alone, and Known.valid, end and keys by these."""
    queries = len(low)
    exact = _is(extent, low, high.expand_as(extent.seen)).all(1)
    length = torch.where(exact, torch.full_like(exact, keys, dtype=torch.int64), extent.highest.amax(1) + 1)
    rows = torch.full_like(length, queries)
    if not cross:
        rows = (position < length[:, None]).sum(1)
    rows = torch.where(exact.all(), torch.full_like(rows, queries), rows)
    inside = torch.arange(queries, device=low.device) < rows[:, None]
    fits = (_is(extent, low, torch.minimum(high, length[:, None] - 1)) | ~inside).all()
    return fits, inside, length.clamp(max=after), length


def _is(extent: _Extent, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Which rows see the keys from `low` to `high`, and no others."""
    count = (high - low + 1).clamp(min=0)
    return (extent.seen == count) & ((count == 0) | ((extent.lowest == low) & (extent.highest == high)))
