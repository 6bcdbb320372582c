# SPDX-License-Identifier: MIT
"""weights: the sums of rows of a map of weights that exists anyway, as that of an explicit softmax, some rows at a time.

attnd judges whether they are distributions (workers/KERNELS.md). Shapes do not depend on what the tensors hold, so that nothing
waits for their device.
"""
from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch

from .sums import LOCAL_WINDOW, wide
from .visible import first_of_blocks, looked_at

_ENTRIES = 1 << 20  # weights that are looked at, at once, but for those of one row
_TOP = 8


class Words(NamedTuple):
    """The words of the wire for what may be attended to and is no padding; all of them hold together."""
    causal: bool = False
    window: int = 0
    q_offset: int = 0
    q_stride: int = 1
    q_len: Optional[torch.Tensor] = None
    k_len: Optional[torch.Tensor] = None
    mask: Optional[torch.Tensor] = None  # bool [B, Tq, Tk]
    cross: bool = False
    valid: Optional[torch.Tensor] = None  # bool [B, Tq]: which queries are no padding, where that is known already
    end: Optional[torch.Tensor] = None  # [B], with it: the position after the last one
    first: Optional[torch.Tensor] = None  # [B, Tq] the first key of each row's document; None: by the mask


class Columns(NamedTuple):
    """The sums of each row of PROTOCOL.md, type rows, name to [B, H, Tq], and its places, i32 [8, B, Tq]."""
    of_rows: Dict[str, torch.Tensor]
    places: torch.Tensor


@torch.no_grad()
def columns(weights: torch.Tensor, words: Words, tokens: Optional[torch.Tensor] = None, local_window: int = LOCAL_WINDOW) -> Columns:
    """Sums of weights [B, H, Tq, Tk]. `tokens`: integers [B, Tk], which `induction` and `duplicate_token` need."""
    heads, queries, keys = weights.shape[1:]
    step = max(1, _ENTRIES // (heads * keys))
    if words.first is None:
        words = words._replace(first=_first_keys(words, len(weights), queries, keys, weights.device))
    found: List[List[Columns]] = []
    for sample in range(len(weights)):
        q_len, k_len, mask, valid, end, first = (None if one is None else one[sample] for one in (
            words.q_len, words.k_len, words.mask, words.valid, words.end, words.first))
        one = words._replace(q_len=q_len, k_len=k_len, mask=mask, valid=valid, end=end, first=first)
        known = None if tokens is None or words.cross else tokens[sample]
        found.append([_some(weights[sample, :, begin:begin + step], begin, one, known, local_window, queries) for begin in range(0, queries, step)])
    names = found[0][0].of_rows
    return Columns({name: torch.stack([torch.cat([part.of_rows[name] for part in parts], 1) for parts in found]) for name in names},
                   torch.stack([torch.cat([part.places for part in parts], 1) for parts in found], 1))


def _some(weights: torch.Tensor, begin: int, words: Words, tokens: Optional[torch.Tensor], local_window: int, queries: int) -> Columns:
    """The sums of some rows [H, rows, Tk] of a sample."""
    count, keys, device = weights.shape[1], weights.shape[2], weights.device
    query, j = torch.arange(begin, begin + count, device=device), torch.arange(keys, device=device)
    p = words.q_offset + query * words.q_stride
    seen, valid = _visible(words, query, p, j)
    given = weights.to(wide(device))
    a = torch.where(seen, given, torch.zeros_like(given))
    length, known_queries = (torch.full((), most, device=device) if given_length is None else given_length
                             for given_length, most in ((words.k_len, keys), (words.q_len, queries)))
    end = torch.minimum(length, words.q_offset + known_queries * words.q_stride) if words.end is None else words.end
    gap = (p[:, None] - j).abs()
    distance = gap.to(a.dtype)
    first = torch.zeros_like(p) if words.first is None else words.first[query].long()
    with_first = _at(seen[None], first)[0]
    none = torch.full((), -math.inf, dtype=a.dtype, device=device)
    others = seen & (j != first[:, None])
    largest = torch.where(others, a, none).amax(-1)
    is_odd = ~torch.isfinite(a).all(-1) | (a < _below(weights.dtype)).any(-1)
    unit = torch.where(largest > 0, largest, torch.ones_like(largest))
    rest = torch.where(others, a, torch.zeros_like(a)).clamp(min=0) / unit[..., None]
    found = {
        "largest": torch.log(largest.clamp(min=0)).masked_fill(is_odd, math.nan), "total": rest.sum(-1), "weighted": torch.xlogy(rest, rest).sum(-1),
        "distance": (rest * distance).sum(-1), "first": torch.where(with_first, torch.log(_at(a, first).clamp(min=0)), none), "square": (rest * rest).sum(-1),
        "local": (rest * (gap <= local_window)).sum(-1)}
    top = rest.topk(min(_TOP, keys), sorted=False)[0]
    found["top"], found["eighth"] = top.sum(-1), top.amin(-1) if keys >= _TOP else torch.zeros_like(largest)
    for name, step in (("previous", -1), ("own", 0), ("next", 1)):
        there = (p + step >= 0) & (p + step < keys)
        found[name] = torch.where(there & _at(others[None], p + step)[0], torch.log(_at(rest, p + step) * unit), none)
    occurrence = torch.zeros_like(p)
    if tokens is not None:
        earlier = (tokens == tokens[p.clamp(max=keys - 1)][:, None]) & (j < p[:, None])
        follows = torch.nn.functional.pad(earlier[:, :-1], (1, 0))
        found["duplicate"], found["induction"] = (rest * earlier).sum(-1), (rest * follows).sum(-1)
        known = (p < length) & earlier.any(-1)
        occurrence = known.long() + 2 * _at(earlier[None], first)[0].long() + 4 * _at(follows[None], first)[0].long()
    farthest = (gap * seen).amax(-1)
    places = torch.stack([one.expand_as(p).int() for one in (p, end, first, with_first, seen.sum(-1), farthest, valid, occurrence)])
    return Columns(found, places)


def _first_keys(words: Words, batch: int, queries: int, keys: int, device: torch.device) -> Optional[torch.Tensor]:
    """The first keys of all rows by their mask; None: key 0."""
    if words.cross or words.mask is None:
        return None
    query, j = torch.arange(queries, device=device), torch.arange(keys, device=device)
    mask, p = words.mask, words.q_offset + query * words.q_stride

    def left(some: slice) -> torch.Tensor:
        seen = mask[:, some] & (j <= p[some, None]) if words.causal else mask[:, some]
        return seen if words.k_len is None else seen & (j < words.k_len[:, None, None])

    rows = None if words.q_len is None else query < words.q_len[:, None]
    return first_of_blocks(looked_at(left, queries, keys), p, rows).expand(batch, -1)


def _visible(words: Words, query: torch.Tensor, p: torch.Tensor, j: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """Which keys these rows see, bool [rows, Tk], and which of them are no padding."""
    seen = torch.ones(len(p), len(j), dtype=torch.bool, device=p.device)
    valid = torch.ones_like(p, dtype=torch.bool)
    if words.mask is not None:
        seen = words.mask[query]
        valid = seen.any(-1)
    if words.causal:
        seen = seen & (j <= p[:, None])
    if words.window:
        seen = seen & (j > p[:, None] - words.window)
    if words.k_len is not None:
        seen = seen & (j < words.k_len)
    if words.valid is not None:
        return seen, words.valid[query]
    return seen, valid if words.q_len is None else valid & (query < words.q_len)


def _below(dtype: torch.dtype) -> float:
    """The least number that a weight of 0 may be rounded to."""
    return -1e-3 if dtype in (torch.float16, torch.bfloat16) else -1e-6


def _at(a: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The weight of each row at a key of its own; of none, any number."""
    return a.gather(-1, key.clamp(0, a.shape[-1] - 1).expand(a.shape[0], -1)[..., None])[..., 0]
