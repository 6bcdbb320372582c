# SPDX-License-Identifier: MIT
"""bands: the keys that a query sees, in the words of fused kernels: a number of them before it and after it, in its own sequence."""
from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import torch

from . import mods
from .seen import Queries

Pair = Tuple[torch.Tensor, torch.Tensor]


class Band(NamedTuple):
    """Where queries stand and what they see: keys from `left` before to `right` after, None: all.

    starts   where the sequences of queries and of keys begin, and the last one ends: [n + 1] each; None: one sequence
    lengths  of these sequences, [n] each, where something that is no token stands behind some
    aligned  'first' or 'last': which query of a sequence stands at that key of it
    slopes   [H] or [sequences, H]: a bias falls by that much per key of distance
    """
    left: Optional[int]
    right: Optional[int]
    starts: Optional[Pair] = None
    aligned: str = "last"
    slopes: Optional[torch.Tensor] = None
    lengths: Optional[Pair] = None


def queries_of(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: Optional[float], band: Band,
               softcap: float = 0.0) -> Queries:
    """A call with q [B, H, Tq, d], k and v [B, Hkv, Tk, d]. The common bands have words, others are a mask."""
    queries, keys = int(q.shape[2]), int(k.shape[2])
    offset = 0 if band.aligned == "first" else keys - queries
    causal, window = band.right == 0, 0 if band.left is None else band.left + 1
    seen = Queries(q, k, None, causal, scale, window, softcap, offset, v=v)
    plain = (causal or band.left == band.right) and band.slopes is None and band.lengths is None
    if band.starts is not None:
        same = queries == keys  # the sender thread checks a causal call, which nobody waits for
        alike = same and (causal or band.starts[0] is band.starts[1])
        plain = plain and (alike or band.left is band.right is None)
        seen = seen._replace(documents=numbers_of(band.starts, queries, keys), ends=ends_of(band.starts),
                             offset=offset if same else 0)
    if plain:
        return seen
    heads, device = 1 if band.slopes is None else 4 * int(q.shape[1]), q.device
    return Queries(q, k, None, False, scale, 0, softcap, max(0, offset), late_nbytes=heads, v=v,
                   late_mask=lambda part: _mask(band, mods.where(part, keys, device), queries))


def numbers_of(starts: Pair, queries: int, keys: int) -> Pair:
    """([1, Tq], [1, Tk]): the numbers of the sequences that queries and keys are of; one tensor where they begin alike."""
    of_queries = _numbers(starts[0], queries)[None]
    return of_queries, of_queries if starts[0] is starts[1] and queries == keys else _numbers(starts[1], keys)[None]


def ends_of(starts: Pair) -> Pair:
    """Where the last sequences end: [1] each."""
    return starts[0][-1:], starts[1][-1:]


def _numbers(begin: torch.Tensor, length: int) -> torch.Tensor:
    """[T]: the number of the sequence that each position is of; behind the last one it is their count."""
    positions = torch.arange(length, device=begin.device, dtype=begin.dtype)
    return torch.searchsorted(begin[1:].contiguous(), positions, right=True)


def _mask(band: Band, at: mods.Where, queries: int) -> torch.Tensor:
    """The mask of what is allowed, bool [1, 1, rows, Tk]; with slopes the bias, [B or 1, H, rows, Tk]."""
    keys = len(at.keys)
    allowed = torch.ones(len(at.queries), keys, dtype=torch.bool, device=at.keys.device)
    if band.starts is None:
        own = None
        position = at.queries + (0 if band.aligned == "first" else keys - queries)
    else:
        begin, keys_begin = (start.long() for start in band.starts)
        last = len(begin) - 2
        own, of_keys = _numbers(begin, queries)[at.queries], _numbers(keys_begin, keys)
        allowed &= (own[:, None] == of_keys[None]) & (of_keys <= last)[None]
        own, of_keys = own.clamp(max=last), of_keys.clamp(max=last)
        edges = (begin[:-1], keys_begin[:-1]) if band.aligned == "first" else (begin[1:], keys_begin[1:])
        if band.lengths is not None:
            ends = begin[:-1] + band.lengths[0], keys_begin[:-1] + band.lengths[1]
            edges = edges if band.aligned == "first" else ends
            allowed &= (at.queries < ends[0][own])[:, None] & (at.keys < ends[1][of_keys])[None]
        position = at.queries - edges[0][own] + edges[1][own]
    if band.right is not None:
        allowed &= at.keys <= position[:, None] + band.right
    if band.left is not None:
        allowed &= at.keys >= position[:, None] - band.left
    if band.slopes is None:
        return allowed[None, None]
    slopes = band.slopes.detach().float()
    if slopes.dim() == 1:
        slopes = slopes[at.heads][None, :, None, None]
    elif own is None:
        slopes = slopes[at.samples][:, at.heads, None, None]
    else:  # of the sequence that each query is of
        slopes = slopes[own][:, at.heads].transpose(0, 1)[None, :, :, None]
    return (-slopes * (at.keys - position[:, None]).abs()).masked_fill_(~allowed, -torch.inf)
