# SPDX-License-Identifier: MIT
"""foreign: the row metrics that follow from the log-sum-exp of somebody else's kernel, without a pass over all keys.

A weight is exp(logit - lse), so that the weights of single keys and of those near by cost a product each. The lse is
not believed unseen: kernels differ in its base, its scale and what they count in, and one was off by ln 2 without a
word (pytorch #181645). A few rows of one sample, other ones each time, are computed again before.
"""
from __future__ import annotations

import copy
import math
import random
from typing import Dict, Iterator, List, Optional, Tuple

import torch

from ..sending.devices import working_dtype
from . import reference
from .problem import Problem, norms, slices
from .reference import Chunk
from .sums import only, visible_keys, wide
from .visible import placed, valid_rows

_CHECKED = 8  # rows of each head that are computed again
_OFF = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-2}  # that an lse may be
_ROUNDING = 2.0**-20  # of scale |q| |k|, in an f32 product on either side
_chosen = random.Random()  # not the training's


@torch.no_grad()
def rows(p: Problem, lse: torch.Tensor, max_logit: Optional[torch.Tensor]) -> Dict[str, torch.Tensor]:
    """name -> f32 [B, H, Tq] of what follows from them; ValueError when they are not those of the problem."""
    given = {"lse": lse, "max_logit": max_logit}
    for name, tensor in given.items():
        if tensor is not None and (tuple(tensor.shape) != (p.batch, p.heads, p.queries) or tensor.device != p.q.device
                                   or not tensor.is_floating_point()):
            raise ValueError(f"{name} {tensor.dtype} {tuple(tensor.shape)} on {tensor.device}: must be real, "
                             f"{(p.batch, p.heads, p.queries)}, on {p.q.device}")
    _check(p, given)
    p = placed(p)
    shape = (p.batch, p.key_heads, p.group, p.queries)
    f64 = wide(p.q.device)
    z = lse.detach().to(f64)
    z = only(z, _rows_with_keys(p) & torch.isfinite(lse)).view(shape)
    names = ["local_mass", "first_token"] + ([] if p.cross else ["previous_token", "diagonal", "next_token"])
    found = {name: torch.full(shape, math.nan, dtype=torch.float32, device=p.q.device) for name in names}
    with reference.exact(p.q.device):
        for chunk, positions in _bands(p):
            for name, value in _near(p, chunk, positions, z[chunk.rows]).items():
                found[name][chunk.rows] = value
    result = {name: value.view(p.batch, p.heads, p.queries) for name, value in found.items()}
    z = z.view(p.batch, p.heads, p.queries)
    if max_logit is not None:
        largest = max_logit.detach().to(f64)
        result["max_logit"] = torch.where(torch.isnan(z), z, largest).float()
        result["confidence"] = torch.exp(largest - z).float()
    if p.sinks is not None:
        result["sink_deficit"] = torch.sigmoid(p.sinks.to(f64)[:, None] - z).float()
    return result


def _rows_with_keys(p: Problem) -> torch.Tensor:
    """Which rows are valid and see a key, broadcastable to [B, H, Tq]. Whether a bias or documents leave one that causal
    bound and window do not is for the lse to say: it is -infinity then."""
    device = p.q.device
    k_len = torch.full((p.batch,), p.keys, device=device) if p.k_len is None else p.k_len.to(device)
    place = p.position(torch.arange(p.queries, device=device)).expand(p.batch, -1)
    return valid_rows(p) & (visible_keys(place, k_len[:, None], p.causal, p.window)[1] > 0)[:, None]


def _bands(p: Problem) -> Iterator[Tuple[Chunk, int]]:
    """The keys near each row, a few rows of some heads at a time, and how many positions the sample has; first
    keys are among them only where they are near."""
    reach = max(p.local_window, 1)
    for sample, (q_len, k_len) in enumerate(reference.lengths(p)):
        for queries in slices(q_len, 128 // p.q_stride):
            end = min(k_len, p.position(queries.stop - 1) + reach + 1)
            keys = slice(min(max(0, p.position(queries.start) - reach), end), end)
            most = (1 << 20) // ((queries.stop - queries.start) * max(keys.stop - keys.start, p.width))
            for key_heads, group in reference.head_slices(p.key_heads, p.group, most):
                yield Chunk(slice(sample, sample + 1), key_heads, group, queries, keys), min(k_len, p.position(q_len))


def _near(p: Problem, chunk: Chunk, positions: int, z: torch.Tensor) -> Dict[str, torch.Tensor]:
    """The numbers of a chunk, of the weights of its keys and of the first ones."""
    place = p.position(torch.arange(chunk.queries.start, chunk.queries.stop, device=z.device))
    begin, width = chunk.keys.start, chunk.keys.stop - chunk.keys.start
    room = torch.empty(z.numel() * max(1, width), dtype=working_dtype(p.q), device=z.device)
    first_key = torch.zeros_like(place) if p.first is None else p.first[chunk.samples.start, chunk.queries].long()
    logit = torch.zeros_like(z)
    for key in sorted(set(first_key.tolist())):
        of_key = reference.masked_logits(p, chunk._replace(keys=slice(key, key + 1)), room)[0][..., 0].to(z.dtype)
        logit = torch.where(first_key == key, of_key, logit)
    found = {"first_token": only(torch.exp(logit - z), place > first_key)}
    a = torch.zeros(*z.shape, 1, dtype=z.dtype, device=z.device)
    if width:
        a = torch.exp(reference.masked_logits(p, chunk, room)[0].to(z.dtype) - z[..., None])
    gap = (place[:, None] - torch.arange(begin, begin + a.shape[-1], device=z.device)).abs()
    found["local_mass"] = (a * (gap <= p.local_window)).sum(-1) + 0 * z
    if not p.cross:
        for name, step in (("previous_token", -1), ("diagonal", 0), ("next_token", 1)):
            there = (place + step >= 0) & (place + step < positions)
            found[name] = only(reference.at(a, place + step - begin) + 0 * z, there)
    return {name: value.float() for name, value in found.items()}


# ------------------------------------------------------------------------------------------ whether to believe it


def _check(p: Problem, given: Dict[str, Optional[torch.Tensor]]) -> None:
    """Compares a few rows with plain PyTorch. ValueError with how far they are off, and what that looks like."""
    lengths = list(reference.lengths(p))
    some = [sample for sample, (q_len, k_len) in enumerate(lengths) if q_len and k_len]
    if not some:
        return
    sample = _chosen.choice(some)
    q_len = lengths[sample][0]
    stride = -(-q_len // _CHECKED)
    queries = slice(_chosen.randrange(min(stride, q_len)), q_len, stride)
    part = _part(p, sample, queries)
    expected = _expected(part)
    size = abs(part.scale) * _longest(part.q) * _longest(part.k)
    allowed = _OFF[p.q.dtype] + min(_ROUNDING * size, 1.0)
    for name, tensor in given.items():
        if tensor is None:
            continue
        want = expected[name]
        got = tensor[sample:sample + 1, :, queries].to(want.dtype)
        off = torch.where(torch.isfinite(want), (got - want).abs(), torch.zeros_like(want))
        off = torch.where(torch.isnan(off), torch.full_like(off, math.inf), off)
        if bool((off > allowed).any()):
            raise ValueError(_sentence(name, part, p.sinks, sample, queries, got, want, off, allowed))


def _longest(vectors: torch.Tensor) -> float:
    """The largest norm of vectors [1, H, T, d], those that are not finite apart."""
    return float(norms(vectors).nan_to_num(posinf=0.0).amax())


def _part(p: Problem, sample: int, queries: slice) -> Problem:
    """The problem of these rows of a sample, without its sinks: they are in no lse."""
    one = slice(sample, sample + 1)
    bias = p.bias
    if bias is not None:
        bias = bias[one] if bias.shape[0] > 1 else bias
        bias = bias[:, :, queries] if bias.shape[2] > 1 else bias
    part = Problem(p.q[one, :, queries], p.k[one], p.scale, p.causal, p.position(queries.start), p.window,
                   None if p.k_len is None else p.k_len[one], None, bias, p.softcap, None,
                   None if p.documents is None else p.documents[one], p.cross, p.local_window,
                   p.q_stride * queries.step)
    return part if bias is None or bias.dtype == torch.bool else part.like(part.q, part.k, bias, part.documents, None, None, p.hides_at)


def _expected(part: Problem) -> Dict[str, torch.Tensor]:
    """lse and largest logit of each row by the reference, NaN where there is none."""
    numbers = reference.rows(part)
    largest = numbers["max_logit"].to(wide(part.q.device))
    return {"lse": largest - torch.log(numbers["confidence"].to(largest.dtype)), "max_logit": largest}


def _sentence(name: str, part: Problem, sinks: Optional[torch.Tensor], sample: int, queries: slice, got: torch.Tensor,
              want: torch.Tensor, off: torch.Tensor, allowed: float) -> str:
    worst = int(off.argmax())
    head, row = worst // off.shape[2], queries.start + worst % off.shape[2] * queries.step
    known = torch.isfinite(want)
    wrong = int((off > allowed).sum())
    looks = ""
    for what, other in _mistakes(part, sinks, want, name):
        if torch.isfinite(got[known]).all() and float((got - other)[known].abs().max()) <= max(allowed, 1e-2):
            looks = f"; it looks as if {what}"
            break
    return (f"{name}: {wrong} of {int(known.sum())} rows that were computed again are off, by up to {float(off.max()):.3g} "
            f"(sample {sample}, head {head}, query {row}: {float(got.flatten()[worst]):.6g} instead of "
            f"{float(want.flatten()[worst]):.6g}){looks}")


def _mistakes(part: Problem, sinks: Optional[torch.Tensor], want: torch.Tensor, name: str) -> List[Tuple[str, torch.Tensor]]:
    """The same by kernels that count otherwise, with what they do."""
    log_2 = math.log(2)
    found = [("it were to base 2: multiply it by ln 2", want / log_2),
             ("it had been multiplied by ln 2 once too often", want * log_2),
             ("ln 2 had been added", want + log_2), ("ln 2 had been subtracted", want - log_2)]
    if sinks is not None:
        found.append(("it counted the learned sinks", torch.logaddexp(want, sinks.to(want.dtype)[:, None])))
    if part.scale != 1:
        unscaled = copy.copy(part)
        unscaled.scale = 1.0
        found.append(("the scale were missing", _expected(unscaled)[name]))
    return found
