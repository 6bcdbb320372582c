# SPDX-License-Identifier: MIT
"""pooled: the maps of the heads of one sample in few cells, as workers/KERNELS.md, "The maps of the heads", has them.

Some rows of some heads are there at a time. Their weights are added up by key into columns of cells and by query into
rows, both as products with matrices of zeros and ones. Where padding begins and ends, and so which cell a weight is in,
is worked out where the masks are: shapes do not depend on what they hold, and nothing waits for their device. A map of
fewer queries or keys than cells fills a corner of its result, which Pooled.read() cuts out.
"""
from __future__ import annotations

import math
from typing import Callable, NamedTuple, Optional, Tuple

import torch

from ..sending.devices import working_dtype
from ..sending.head_maps import HeadMaps, SIDE_MAX, cells
from . import reference
from .problem import Problem, slices
from .sums import only, wide
from .weights import Words

_ENTRIES = 1 << 20  # weights that are held at once on the CPU
_ENTRIES_DEVICE = 1 << 22  # elsewhere, where each call costs more
_ROWS = 512  # of a head at once: what causal bound and window leave out goes by these
_KEYS = 1 << 15  # that are added up at once


class Pooled(NamedTuple):
    """Maps on the device that made them: values f16 [H, rows, columns], and extent [4]: the first query that is no padding,
    how many follow up to the last, then both numbers of the keys."""
    values: torch.Tensor
    extent: torch.Tensor
    queries: int  # with padding
    keys: int
    q_offset: int
    sample: int

    def read(self) -> HeadMaps:
        """The maps, on the host, which waits for them."""
        first_query, queries, first_key, keys = self.extent.tolist()
        rows, columns = cells(queries, keys, max(self.values.shape[1:]))
        return HeadMaps(self.values[:, :rows, :columns].cpu().numpy(), queries, keys, first_query, first_key, self.queries,
                        self.keys, self.q_offset, self.sample)


class Shown(NamedTuple):
    """The part of a sample that is no padding: Pooled.extent, and which queries are none, bool [Tq]."""
    extent: torch.Tensor
    queries: torch.Tensor


@torch.no_grad()
def of_queries(p: Problem, sample: int = 0, side: int = SIDE_MAX, words: Optional[Words] = None,
               valid: Optional[torch.Tensor] = None) -> Pooled:
    """The maps of a problem whose queries are no sample of a layer's rows. `words` say what is padding, instead of what
    the problem's bias hides from all heads; `valid`, bool [B or 1, Tq], which queries are none, where that is known."""
    shown = _shown_of(p, sample, valid) if words is None else _shown_by(words, sample, p.queries, p.keys, p.documents, p.q.device)
    working = working_dtype(p.q)
    cut = _Cut(shown.extent, p.queries, p.keys, side, working)
    entries = (_ENTRIES if p.q.device.type == "cpu" else _ENTRIES_DEVICE) // (2 if working == torch.float64 else 1)
    room = torch.empty(max(entries, p.keys), dtype=working, device=p.q.device)
    sums = torch.zeros(p.key_heads, p.group, *cut.shape, dtype=working, device=p.q.device)
    counts = torch.zeros(p.key_heads, p.group, cut.shape[0], 1, dtype=working, device=p.q.device)
    k_len = None if p.k_len is None else p.k_len[sample].to(p.q.device)
    with reference.exact(p.q.device):
        for queries in slices(p.queries, min(_ROWS, entries // p.keys)):
            keys = reference.seen_keys(p, queries, p.keys)
            if keys.start >= keys.stop:
                continue
            most = entries // ((queries.stop - queries.start) * (keys.stop - keys.start))
            rows = cut.rows(queries) * shown.queries[queries]
            for key_heads, group in reference.head_slices(p.key_heads, p.group, most):
                chunk = reference.Chunk(slice(sample, sample + 1), key_heads, group, queries, keys)
                part, sound = _softmax_in_cells(p, chunk, k_len, room, cut)
                sums[key_heads, group] += rows @ part
                counts[key_heads, group] += rows @ sound[..., None].to(working)
    return Pooled(cut.means(sums.flatten(0, 1), counts.flatten(0, 1) * cut.keys_of_columns()), shown.extent, p.queries,
                  p.keys, p.q_offset, sample)


@torch.no_grad()
def of_weights(weights: torch.Tensor, words: Words, sample: int = 0, side: int = SIDE_MAX) -> Pooled:
    """The maps of weights [B, H, Tq, Tk], as they are; what is not finite is left out."""
    heads, queries, keys = weights.shape[1:]
    shown = _shown_by(words, sample, queries, keys, None, weights.device)
    working = wide(weights.device) if weights.dtype == torch.float64 else torch.float32
    cut = _Cut(shown.extent, queries, keys, side, working)
    entries = _ENTRIES if weights.device.type == "cpu" else _ENTRIES_DEVICE
    sums = torch.zeros(heads, *cut.shape, dtype=working, device=weights.device)
    counts = torch.zeros_like(sums)
    for some in slices(queries, min(_ROWS, entries // keys)):
        rows = cut.rows(some) * shown.queries[some]
        for mine in slices(heads, entries // ((some.stop - some.start) * keys)):
            part = weights[sample, mine, some].to(working)
            finite = torch.isfinite(part)
            sums[mine] += rows @ cut.add_keys(torch.where(finite, part, torch.zeros_like(part)), 0)
            counts[mine] += rows @ cut.add_keys(finite.to(working), 0)
    return Pooled(cut.means(sums, counts), shown.extent, queries, keys, words.q_offset, sample)


def _softmax_in_cells(p: Problem, chunk: reference.Chunk, k_len: Optional[torch.Tensor], room: torch.Tensor,
                      cut: "_Cut") -> Tuple[torch.Tensor, torch.Tensor]:
    """The weights of a chunk of one sample added up into columns of cells, 0 for rows that have none; and which rows have
    some."""
    s, _, j, _ = reference.masked_logits(p, chunk, room)
    if k_len is not None:
        s.masked_fill_(j >= k_len, -math.inf)
    largest = s.amax(-1)
    sound = torch.isfinite(largest)
    shift = torch.where(sound, largest, torch.zeros_like(largest))
    if p.sinks is not None:
        sink = p.sinks.view(p.key_heads, p.group, 1)[chunk.key_heads, chunk.group].to(s.dtype)
        shift = torch.maximum(shift, sink)
    e = s.sub_(shift[..., None]).exp_()
    total = e.sum(-1)
    if p.sinks is not None:
        total = total + torch.exp(sink - shift)
    part = cut.add_keys(e, chunk.keys.start) / total[..., None]
    return torch.where(sound[..., None], part, torch.zeros_like(part))[0], sound[0]


class _Cut:
    """Cells of a map: `shape` of them at most; query i, and key j, of the sample are in one of those that the extent makes
    of n, or in none."""

    def __init__(self, extent: torch.Tensor, queries: int, keys: int, side: int, working: torch.dtype):
        self.shape = cells(queries, keys, side)
        self._row = _cell_of(extent[0], extent[1], queries, self.shape[0])
        self._column = _cell_of(extent[2], extent[3], keys, self.shape[1])
        self._working = working

    def rows(self, queries: slice) -> torch.Tensor:
        """[rows, queries]: 1 where a query is in a row of cells."""
        return self._ones(self._row[queries], self.shape[0]).t()

    def add_keys(self, weights: torch.Tensor, begin: int) -> torch.Tensor:
        """[..., keys from `begin` on] as sums by column."""
        total = weights.new_zeros((*weights.shape[:-1], self.shape[1]))
        for some in slices(weights.shape[-1], _KEYS):
            column = self._column[begin + some.start:begin + some.stop]
            total += weights[..., some] @ self._ones(column, self.shape[1])
        return total

    def keys_of_columns(self) -> torch.Tensor:
        """How many keys each column has."""
        return (self._column[:, None] == torch.arange(self.shape[1], device=self._column.device)).sum(0)

    def means(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """f16, NaN where nothing was counted."""
        return only(sums / counts, counts > 0).half()

    def _ones(self, cell: torch.Tensor, count: int) -> torch.Tensor:
        return (cell[:, None] == torch.arange(count, device=cell.device)).to(self._working)


def _cell_of(first: torch.Tensor, length: torch.Tensor, total: int, side: int) -> torch.Tensor:
    """[total]: the cell of each position, where `length` of them are shown in at most `side` cells; -1 elsewhere."""
    i = torch.arange(total, device=first.device) - first
    n = length.clamp(max=side)
    cell = torch.div((i + 1) * n - 1, length, rounding_mode="floor")
    return torch.where((i >= 0) & (i < length), cell, torch.full_like(cell, -1))


def _shown_of(p: Problem, sample: int, valid: Optional[torch.Tensor]) -> Shown:
    """By the words of a problem; a bias hides what it hides from all heads."""
    bias = None if p.bias is None else p.bias[sample if p.bias.shape[0] > 1 else 0]

    def left(queries: slice) -> torch.Tensor:
        assert bias is not None
        part = bias[:, queries] if bias.shape[1] > 1 else bias
        return (~p.hidden(part)).any(0).expand(queries.stop - queries.start, p.keys)

    width = 1 if bias is None else bias.shape[0]
    return _shown(p.queries, p.keys, p.q_offset, _of(p.q_len, sample), _of(p.k_len, sample), None if bias is None else left, width,
                  None if p.documents is None else p.documents[sample], p.cross, p.q.device, _of(valid, sample))


def _shown_by(words: Words, sample: int, queries: int, keys: int, documents: Optional[torch.Tensor],
              device: torch.device) -> Shown:
    """By the words of the wire."""
    mask = None if words.mask is None else words.mask[sample]
    return _shown(queries, keys, words.q_offset, _of(words.q_len, sample), _of(words.k_len, sample),
                  None if mask is None else lambda some: mask[some], 1, None if documents is None else documents[sample],
                  words.cross, device, _of(words.valid, sample))


def _of(lengths: Optional[torch.Tensor], sample: int) -> Optional[torch.Tensor]:
    return None if lengths is None else lengths[sample if len(lengths) > 1 else 0]


def _shown(queries: int, keys: int, q_offset: int, q_len: Optional[torch.Tensor], k_len: Optional[torch.Tensor],
           left: Optional[Callable[[slice], torch.Tensor]], width: int, documents: Optional[torch.Tensor], cross: bool,
           device: torch.device, known: Optional[torch.Tensor]) -> Shown:
    """attention_extent of workers/base/attention.h. `left`: bool [rows, keys], which keys a mask leaves to some queries;
    `width`: how much is looked at for each of these; `known`: which queries are no padding, instead of what the rest says."""
    i = torch.arange(queries, device=device)
    q_end, k_end = (torch.full((), most, device=device) if length is None else length.to(device).clamp(max=most)
                    for length, most in ((q_len, queries), (k_len, keys)))
    valid, first, end = i < q_end, torch.zeros_like(i), k_end.expand(queries)
    if left is not None or documents is not None:
        has, first, end = _left(queries, keys, q_offset, k_end, left, width, documents, device)
        valid = valid & has
    if not cross:  # a query at the position of a padding key is padding too
        inside = q_offset + q_end - 1 < keys
        q_end = torch.where(inside, torch.minimum(q_end, (k_end - q_offset).clamp(min=0)), q_end)
    valid = valid if known is None else known
    return part_of(valid, valid & (i < q_end) if known is None else known, first, end, keys)


def part_of(valid: torch.Tensor, there: torch.Tensor, first: torch.Tensor, end: torch.Tensor, keys: int) -> Shown:
    """The queries that are `valid` from the first to the last that is `there`, and the keys from the `first` of one of these up to
    the `end` of one; [Tq] each."""
    queries = len(there)
    i = torch.arange(queries, device=there.device)
    begin, stop = torch.where(there, i, queries).amin(), torch.where(there, i + 1, 0).amax()
    within = (i >= begin) & (i < stop)
    key, key_end = torch.where(within, first, keys).amin(), torch.where(within, end, 0).amax()
    empty = (begin >= stop) | (key >= key_end)
    extent = [torch.where(empty, torch.full_like(here, whole), here)
              for here, whole in ((begin, 0), (stop - begin, queries), (key, 0), (key_end - key, keys))]
    return Shown(torch.stack(extent), valid & (within | empty))


def _left(queries: int, keys: int, q_offset: int, k_end: torch.Tensor, left: Optional[Callable[[slice], torch.Tensor]],
          width: int, documents: Optional[torch.Tensor], device: torch.device) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """[Tq] each: whether mask and documents leave a query some key; and where the keys before k_end that the mask leaves
    it begin and end."""
    j = torch.arange(keys, device=device)
    parts = []
    for some in slices(queries, _ENTRIES // (keys * width)):
        free = torch.ones(some.stop - some.start, keys, dtype=torch.bool, device=device) if left is None else left(some)
        allowed = free
        if documents is not None:
            place = q_offset + torch.arange(some.start, some.stop, device=device)
            own = documents[place.clamp(max=keys - 1)]
            allowed = free & (own[:, None] == documents) & (place < keys)[:, None]
        free = free & (j < k_end)
        parts.append((allowed.any(1), torch.where(free, j, keys).amin(1), torch.where(free, j + 1, 0).amax(1)))
    has, first, end = (torch.cat(one) for one in zip(*parts))
    if left is None:
        return has, torch.zeros_like(first), k_end.expand(queries)
    return has, first, end
