# SPDX-License-Identifier: MIT
"""weights: row metrics of a map of weights that exists anyway, as that of an explicit softmax, some rows at a time.

Nothing is renormalised but rows beside a learned sink, as in workers/KERNELS.md: a row whose sum is off is not sound, and has
no numbers. Shapes do not depend on what the tensors hold, so that nothing waits for their device.
"""
from __future__ import annotations

import math
from typing import Dict, List, NamedTuple, Optional, Tuple

import torch

from .sums import Place, Sums, Weights, only, wide
from .sums import numbers as numbers_of
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


class Judged(NamedTuple):
    """The numbers of rows [B, H, Tq], NaN where there is none, and which of the queries [B, Tq] are no padding."""
    rows: Dict[str, torch.Tensor]
    valid: torch.Tensor
    row_sum_error: torch.Tensor


@torch.no_grad()
def rows(weights: torch.Tensor, words: Words, learned_sink: bool = False, tokens: Optional[torch.Tensor] = None,
         local_window: int = 8) -> Judged:
    """Every row metric of weights [B, H, Tq, Tk], logits apart. `learned_sink`: rows may sum to less than 1; `tokens`:
    integers [B, Tk], which `induction` and `duplicate_token` need."""
    heads, queries, keys = weights.shape[1:]
    step = max(1, _ENTRIES // (heads * keys))
    if words.first is None:
        words = words._replace(first=_first_keys(words, len(weights), queries, keys, weights.device))
    found: List[List[Judged]] = []
    for sample in range(len(weights)):
        q_len, k_len, mask, valid, end, first = (None if one is None else one[sample] for one in (
            words.q_len, words.k_len, words.mask, words.valid, words.end, words.first))
        one = words._replace(q_len=q_len, k_len=k_len, mask=mask, valid=valid, end=end, first=first)
        known = None if tokens is None or words.cross else tokens[sample]
        found.append([_some(weights[sample, :, begin:begin + step], begin, one, learned_sink, known, local_window, queries)
                      for begin in range(0, queries, step)])
    names = found[0][0].rows
    worst = torch.stack([part.row_sum_error for parts in found for part in parts]).amax()
    return Judged({name: torch.stack([torch.cat([part.rows[name] for part in parts], 1) for parts in found])
                   for name in names},
                  torch.stack([torch.cat([part.valid for part in parts]) for parts in found]),
                  only(worst, worst >= 0))


def _some(weights: torch.Tensor, begin: int, words: Words, learned_sink: bool, tokens: Optional[torch.Tensor],
          local_window: int, queries: int) -> Judged:
    """The numbers of some rows [H, rows, Tk] of a sample."""
    count, keys, device = weights.shape[1], weights.shape[2], weights.device
    query, j = torch.arange(begin, begin + count, device=device), torch.arange(keys, device=device)
    p = words.q_offset + query * words.q_stride
    seen, valid = _visible(words, query, p, j)
    n = seen.sum(-1)
    given = weights.to(wide(device))
    a = torch.where(seen, given, torch.zeros_like(given))
    total = a.sum(-1)
    sound, error = _judge(a, total, valid & (n > 0), weights.dtype, learned_sink)
    length, known_queries = (torch.full((), most, device=device) if given_length is None else given_length
                             for given_length, most in ((words.k_len, keys), (words.q_len, queries)))
    end = torch.minimum(length, words.q_offset + known_queries * words.q_stride) if words.end is None else words.end
    gap = (p[:, None] - j).abs()
    distance = gap.to(a.dtype)
    has_keys = torch.ones_like(sound)
    if learned_sink:  # a row that it has taken all of has no other numbers
        has_keys = total > 0
        a = a / total[..., None]
    first_key = torch.zeros_like(p) if words.first is None else words.first[query].long()
    first = _at(a, first_key)
    rest = a.masked_fill(j == first_key[:, None], 0)
    mass, nats = rest.sum(-1), _nats(rest)
    previous, own, following = (_at(rest, p + step) for step in (-1, 0, 1))
    local = (rest * (gap <= local_window)).sum(-1)
    none = torch.zeros_like(mass)
    sums = Sums(none, mass, -nats, None, (rest * distance).sum(-1), local, previous, own, following, none, _at(seen[None], first_key)[0], n,
                (distance * seen).amax(-1))
    largest = torch.where(seen, a, torch.full_like(a, -math.inf)).amax(-1)
    whole = Weights(first, largest, nats + _nats(first[..., None]), nats / mass + torch.log(mass), mass > 0,
                    (sums.distance, local, previous, own, following))
    numbers = numbers_of(sums, whole, Place(p, end, first_key), words.cross, local_window)
    always = torch.ones_like(n, dtype=torch.bool)
    numbers["tail_mass"] = 1 - a.topk(min(_TOP, keys), sorted=False)[0].sum(-1), always
    if tokens is not None:
        earlier = (tokens == tokens[p.clamp(max=keys - 1)][:, None]) & (j < p[:, None])
        known = (p < length) & earlier.any(-1)
        numbers["duplicate_token"] = (a * earlier).sum(-1), known
        numbers["induction"] = (a[..., 1:] * earlier[:, :-1]).sum(-1), known
    numbers = {name: (value, exists & has_keys) for name, (value, exists) in numbers.items()}
    if learned_sink:
        numbers["sink_deficit"] = 1 - total, always
    return Judged({name: only(value, sound & exists & torch.isfinite(value))
                   for name, (value, exists) in numbers.items()}, valid, error)


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


def _judge(a: torch.Tensor, total: torch.Tensor, counts: torch.Tensor, dtype: torch.dtype,
           learned_sink: bool) -> Tuple[torch.Tensor, torch.Tensor]:
    """Which of the rows that count are distributions, bool [H, rows], and how far sums are off 1 at most; -1 when none
    is finite."""
    sum_off, below = (2e-2, -1e-3) if dtype in (torch.float16, torch.bfloat16) else (1e-3, -1e-6)
    off = total - 1
    sound = counts & torch.isfinite(a).all(-1) & (a >= below).all(-1)
    sound = sound & ((off if learned_sink else off.abs()) <= sum_off)
    return sound, torch.where(counts & torch.isfinite(off), off.abs(), torch.full_like(off, -1.0)).amax()


def _nats(a: torch.Tensor) -> torch.Tensor:
    positive = a.clamp(min=0)
    return -torch.xlogy(positive, positive).sum(-1)


def _at(a: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The weight of each row at a key of its own; of none, any number."""
    return a.gather(-1, key.clamp(0, a.shape[-1] - 1).expand(a.shape[0], -1)[..., None])[..., 0]
