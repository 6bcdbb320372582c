# SPDX-License-Identifier: MIT
"""states: tier `state`, the numbers of a captured attention instead of its tensors (calls.py decides which).

    on the CPU          queries, keys or weights are copied as for the other tiers, and the sender thread computes the
                        state from them and the same words: what is visible, and what is padding
    on an accelerator   the numbers are computed there (accelerator.py), and packed in a process beside (device/finisher.py)
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch

from ..base import wire
from ..base.masks import IGNORED_AT, Visibility
from ..device import pooled, reference, weights
from ..device.arrived import Arrived
from ..device.entries import Entries
from ..device.problem import Problem
from ..device.sums import only
from ..sending import tensors
from ..sending.contents import Captured, add_maps
from ..sending.head_maps import HeadMaps
from ..sending.layer_state import LayerState
from .accelerator import Accelerator
from .padding import valid_queries


class Origin(NamedTuple):
    """The capture that a state is of, how many buckets its histograms have, and how many cells a side the maps of its first
    sample that go along; 0: none do. `computer`: computes on the tensors' accelerator what then is one of `cross`-attention
    or not; None: the sender thread does, on the CPU."""
    epoch: int
    step: int
    rank: int
    buckets: int
    maps: int = 0
    computer: Optional[Accelerator] = None
    cross: bool = False


class Heads(NamedTuple):
    """Which of the layer's heads it is about: `count` of them, from `first` on."""
    first: int
    total: int


class Measured(NamedTuple):
    """The numbers that were computed: row metrics [B, H, Tq]; `valid` bool [B, Tq]: queries that are no padding; numbers [H]."""
    rows: Dict[str, torch.Tensor]
    valid: np.ndarray
    keys: int
    values: Dict[str, torch.Tensor]
    row_sum_error: float
    maps: Optional[HeadMaps]


def of_queries(q: torch.Tensor, k: torch.Tensor, visibility: Visibility, stride: int, *, scale: float, softcap: float,
               cross: bool, whole: bool, documents: Optional[np.ndarray] = None,
               bias: Optional[np.ndarray] = None, side: int = 0) -> Measured:
    """The numbers of queries [B, H, Tq, d] and keys. `bias`: says what is visible instead of the mask, and what is
    added; `whole`: all rows of all heads of the layer; `side`: cells of the maps of the first sample, 0 for none."""
    exact = torch.promote_types(q.dtype, k.dtype)
    given = visibility.mask if bias is None else bias
    problem = Problem(
        q.to(exact), k.to(exact), scale, visibility.causal, visibility.q_offset, visibility.window,
        _list(visibility.k_len), _list(visibility.q_len),
        None if given is None else torch.from_numpy(np.array(given[:, None] if bias is None else given)),
        softcap, None, None if documents is None else torch.from_numpy(np.array(documents)), cross, q_stride=stride)
    if bias is not None:  # what it hides is -inf
        problem = problem.like(problem.q, problem.k, problem.bias, problem.documents, None, None, torch.full((), IGNORED_AT))
    valid = valid_queries(visibility, (problem.batch, problem.queries))
    counts = torch.from_numpy(valid)[:, None]
    entries = Entries(problem, whole, counts)
    rows = reference.rows(problem, entries)
    sound = torch.isfinite(rows["entropy"]) & counts
    if bias is not None:  # which leaves padding its keys
        rows = {name: only(values, counts) for name, values in rows.items()}
    values = entries.values(problem, rows)
    maps = pooled.of_queries(problem, 0, side, _words(visibility, stride, cross)).read() if side and stride == 1 else None
    return Measured(rows, valid, problem.keys, values, 0.0 if sound.any() else math.nan, maps)


def of_weights(given: torch.Tensor, visibility: Visibility, stride: int, *, cross: bool, sink: bool,
               tokens: Optional[np.ndarray] = None, side: int = 0) -> Measured:
    """The numbers of weights [B, H, Tq, Tk]. `sink`: a learned one has taken its share; `tokens`: integers [B, Tk]; `side`
    as for queries."""
    words = _words(visibility, stride, cross)
    judged = weights.rows(given, words, sink, None if tokens is None else torch.from_numpy(np.array(tokens)))
    maps = pooled.of_weights(given, words, 0, side).read() if side and stride == 1 else None
    return Measured(judged.rows, judged.valid.numpy(), int(given.shape[3]), {}, float(judged.row_sum_error), maps)


def captured(measured: Measured, origin: Origin, microbatch: int, heads: Heads, causal: bool, queries: int) -> Captured:
    """The message; `queries` of the call, of which some may be measured."""
    state = LayerState(heads.total, origin.buckets)
    kept = {name: values for name, values in measured.rows.items() if name == "entropy" or torch.isfinite(values).any()}
    values = {name: one for name, one in measured.values.items() if torch.isfinite(one).any()}
    state.add(kept, keys=measured.keys, valid=measured.valid, values=values, row_sum_error=measured.row_sum_error,
              epoch=origin.epoch, step=origin.step, microbatch=microbatch, rank=origin.rank, causal=causal,
              head_offset=heads.first, sampled_of=queries)
    return message(state.pack(), origin, heads, measured.maps)


class Packed(NamedTuple):
    """A state as bytes, the shape of what it is of, and maps."""
    data: bytes
    shape: Tuple[int, int, int, int]
    maps: Optional[HeadMaps]


def packed(numbers: Arrived, origin: Origin, microbatch: int, heads: Heads, causal: bool, queries: int) -> Packed:
    """The state of numbers that an accelerator computed; `causal` as the call said, if no mask does; `queries` as above."""
    state = LayerState(heads.total, origin.buckets)
    kept = {name: one for name, one in numbers.rows.items() if name == "entropy" or one.n.any()}
    values = {name: one for name, one in numbers.values.items() if np.isfinite(one).any()}
    state.add_reduced(kept, shape=numbers.shape, sound=numbers.sound, invalid=numbers.invalid, values=values,
                      epoch=origin.epoch, step=origin.step, microbatch=microbatch, rank=origin.rank,
                      causal=causal if numbers.causal is None else numbers.causal,
                      row_sum_error=numbers.row_sum_error, head_offset=heads.first, sampled_of=queries)
    return Packed(state.pack(), numbers.shape, numbers.maps)


def message(data: bytes, origin: Origin, heads: Heads, maps: Optional[HeadMaps]) -> Captured:
    frames = tensors.Frames()
    frames.add_owned("state", "u8", np.frombuffer(data, dtype=np.uint8))
    if maps is not None:
        maps = maps._replace(head_offset=heads.first)
    shown = add_maps(frames, maps, heads.total, True)
    return Captured("state", frames, lambda where: wire.state_keys(where, frames.described, heads=heads.total,
                                                                   first=(origin.epoch, origin.step), maps=shown))


def _words(visibility: Visibility, stride: int, cross: bool) -> weights.Words:
    q_len, k_len = (None if one is None else torch.from_numpy(np.asarray(one, dtype=np.int64))
                    for one in (visibility.q_len, visibility.k_len))
    mask = None if visibility.mask is None else torch.from_numpy(np.array(visibility.mask, dtype=bool))
    return weights.Words(visibility.causal, visibility.window, visibility.q_offset, stride, q_len, k_len, mask, cross)


def _list(lengths: Any) -> Optional[List[int]]:
    return None if lengths is None else [int(n) for n in lengths]
