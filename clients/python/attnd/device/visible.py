# SPDX-License-Identifier: MIT
"""visible: what a mask says of rows: masks.describe, as far as the numbers of rows depend on it.

looked_at(), or the kernel seen_keys, finds a few numbers on the device that holds the mask; known() makes the meaning of
them, there or on the host. Nobody waits for an answer.
"""
from __future__ import annotations

import copy
from typing import Callable, NamedTuple, Optional, Tuple

import torch

from .problem import Problem, slices

_ENTRIES = 1 << 20  # of a mask that are looked at, at once
_BIASES = 1 << 21  # of a bias, likewise

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
    if not cross:
        opened = _opened(extent, looked[:, 3 * queries:] > 0, position, shared)
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


def placed(p: Problem) -> Problem:
    """The problem, which knows the first key of each row where that may be another than key 0."""
    if p.first is not None or p.cross or (p.bias is None and p.documents is None):
        return p
    at = p.position(torch.arange(p.queries, device=p.q.device))
    looked = None if p.bias is None else looked_at(lambda some: _left(p, some), p.queries, p.keys)
    rows = None if p.q_len is None else torch.arange(p.queries, device=p.q.device) < p.q_len.to(p.q.device)[:, None]
    if p.documents is None:
        assert looked is not None
        first = first_of_blocks(looked, at, rows)
    else:
        first = first_of_documents(p.documents, at, p.k_len)
        if looked is not None:
            seen, begin, _ = looked[:, :3 * p.queries].long().view(-1, 3, p.queries).unbind(1)
            begin = begin if rows is None else torch.where(rows, begin, torch.full_like(begin, p.keys))
            first = _least_of_each(first, begin, p.keys) % p.keys  # of none 0
    found = copy.copy(p)
    found.first = first.int().expand(p.batch, -1).contiguous()
    return found


def _least_of_each(group: torch.Tensor, values: torch.Tensor, most: int) -> torch.Tensor:
    """The least value, 0 to `most`, of the group of each, which is a number below that: [B, n]."""
    ordered = (group * (most + 1) + values).sort(1)[0]
    of_group = torch.div(ordered, most + 1, rounding_mode="floor")
    begins = torch.nn.functional.pad(of_group[:, 1:] != of_group[:, :-1], (1, 0), value=True)
    least = torch.zeros(len(group), most + 1, dtype=ordered.dtype, device=ordered.device)
    least.scatter_(1, torch.where(begins, of_group, torch.full_like(of_group, most)), ordered - of_group * (most + 1))
    return least.gather(1, group)


def _left(p: Problem, queries: slice) -> torch.Tensor:
    """The keys that all but the window leave these queries, in some head: bool [B or 1, queries, Tk]."""
    assert p.bias is not None
    i, j = torch.arange(queries.start, queries.stop, device=p.q.device), torch.arange(p.keys, device=p.q.device)
    at, part = p.position(i)[:, None], p.bias
    if part.shape[2] > 1:
        part = part[:, :, p.number(i) if p.bias_of_all else queries]
    seen = (~p.hidden(part)).any(1).expand(-1, len(i), p.keys)
    if p.causal:
        seen = seen & (j <= at)
    if p.k_len is not None:
        seen = seen & (j < p.k_len.to(j.device)[:, None, None])
    if p.documents is not None:
        seen = seen & (p.documents[:, at[:, 0].clamp(max=p.keys - 1), None] == p.documents[:, None]) & (at < p.keys)
    return seen


@torch.no_grad()
def first_of_documents(documents: torch.Tensor, position: torch.Tensor, k_len: Optional[torch.Tensor] = None) -> torch.Tensor:
    """The first key of the document of the rows at these positions, [B, Tq], by the numbers of all keys; where it is in the padding
    behind k_len, 0."""
    keys = documents.shape[1]
    number, order = torch.sort(documents, dim=1, stable=True)
    begins = torch.nn.functional.pad(number[:, 1:] != number[:, :-1], (1, 0), value=True)
    group = torch.where(begins, torch.arange(keys, device=order.device), torch.zeros_like(order)).cummax(1)[0]
    first = torch.empty_like(order).scatter_(1, order, order.gather(1, group))
    first = torch.where(position < keys, first[:, position.clamp(max=keys - 1)], torch.zeros_like(position))
    return first if k_len is None else torch.where(first < k_len.to(first.device)[:, None], first, torch.zeros_like(first))


@torch.no_grad()
def first_of_blocks(looked: torch.Tensor, position: torch.Tensor, rows: Optional[torch.Tensor] = None) -> torch.Tensor:
    """The same, [B or 1, Tq], by the blocks that a mask leaves, which was looked at: a block begins at a key that a row begins
    with, when no row sees keys on both sides of it, and not where only rows begin that reach back as far as the farthest of
    all, as those of a band do. `rows`, bool [B, Tq]: others, as those of padding, do not count."""
    queries = len(position)
    extent = _Extent(*looked[:, :3 * queries].long().view(-1, 3, queries).unbind(1))
    keys = looked.shape[1] - 3 * queries
    counts = extent.seen > 0
    counts = counts if rows is None else counts & rows
    begin, end = (torch.where(counts, one, torch.zeros_like(one)) for one in (extent.lowest, extent.highest))
    begin, end = begin.expand_as(counts), end.expand_as(counts)
    reach = torch.where(counts, position - begin, torch.full_like(begin, -2**40))
    across = torch.zeros(len(counts), keys + 2, dtype=torch.int64, device=position.device)
    across.scatter_add_(1, begin + 1, counts.long()).scatter_add_(1, end + 1, -counts.long())
    begins = torch.zeros_like(across).scatter_add_(1, begin, (counts & (reach < reach.amax())).long())
    starts = (begins > 0) & (across.cumsum(1) == 0)
    j = torch.arange(keys + 2, device=position.device)
    return torch.where(starts, j, torch.zeros_like(j)).cummax(1)[0].gather(1, begin)


def visible_keys_of(looked: torch.Tensor, position: torch.Tensor, first: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """sums.visible_keys() of what was looked at, of queries at these positions, [B or 1, Tq] each; `first`: the first key of their
    documents."""
    seen, lowest, highest = looked[:, :3 * len(position)].view(-1, 3, len(position)).unbind(1)
    return lowest == first, seen, torch.maximum((position - lowest).abs(), (position - highest).abs()) * (seen > 0)


def _opened(extent: _Extent, present: torch.Tensor, position: torch.Tensor, shared: bool) -> torch.Tensor:
    """The rows of padding that see all keys, lest they become NaN. `present`: as of looked_at()."""
    full = extent.seen == present.shape[1]
    opened = _opened_before(extent, full, position)
    return opened if shared else opened | _opened_beside_texts(extent, full, present, position)


def _opened_before(extent: _Extent, full: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """masks._opened_before()."""
    opened = full.long().cumprod(1).bool()
    begin = opened.sum(1)
    edge = torch.where(begin > 0, position[(begin - 1).clamp(min=0)] + 1, torch.zeros_like(begin))
    beyond = (extent.seen > 0) & ~opened & ((extent.lowest < edge[:, None]) | (extent.highest > position))
    return opened & ((begin < len(position)) & ~beyond.any(1))[:, None]


def _opened_beside_texts(extent: _Extent, full: torch.Tensor, present: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """masks._opened_beside_texts()."""
    keys, real, none = present.shape[1], (extent.seen > 0) & ~full, torch.full_like(extent.lowest, -1)
    lowest, highest = (torch.where(real, one, none) for one in (extent.lowest, extent.highest))
    begun, ended = (torch.cat([none[:, :1], one.cummax(1)[0][:, :-1]], 1) for one in (lowest, highest))
    causal = (highest <= position).all(1, keepdim=True)
    count = torch.nn.functional.pad(present.long().cumsum(1), (1, 0))
    within = extent.seen == count.gather(1, highest + 1) - count.gather(1, lowest.clamp(min=0))
    of_text = (lowest > ended) | ((lowest == begun) & ((highest == ended) | causal))
    opened, has_text = full & ~present[:, position.clamp(max=keys - 1)], real.any(1, keepdim=True)
    fits = torch.where(real, within & of_text & (lowest <= position) & (position <= highest), opened | ~full) | ~has_text
    fits = fits.all(1, keepdim=True)
    several = (real & (begun >= 0) & (lowest > begun)).any(1, keepdim=True)
    opened = opened & fits & has_text & (~causal | several | (opened & (position < keys - 1)).any(1, keepdim=True))
    differ = fits.all() & (opened != opened[:1]).any()
    return opened & (several | full[:, :1] | differ)


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


@torch.no_grad()
def valid_rows(p: Problem) -> torch.Tensor:
    """The valid queries, by KERNELS.md: bool [B, H, Tq], where B and H may be 1."""
    position = torch.arange(p.queries, device=p.q.device)
    valid = torch.ones(1, 1, p.queries, dtype=torch.bool, device=p.q.device)
    if p.q_len is not None:
        valid = (position < p.q_len.to(p.q.device)[:, None])[:, None]
    if p.bias is None:
        return valid & has_keys(p, position)
    step = max(1, _BIASES // (p.batch * p.bias.shape[1] * p.keys))
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
