# SPDX-License-Identifier: MIT
"""rows: tier `rows`, the sums of the rows of a captured attention instead of its tensors (calls.py decides which).

    on the CPU          queries, keys or weights are copied as for the other tiers, and the sender thread computes the
                        sums from them and the same words: what is visible, and what is padding
    on an accelerator   the sums are computed there (accelerator.py), and copied
"""
from __future__ import annotations

from typing import Any, List, NamedTuple, Optional

import numpy as np
import torch

from ..base.masks import IGNORED_AT, Visibility
from ..device import pooled, weights
from ..device.arrived import of_reference
from ..device.problem import Problem
from ..device.sums import LOCAL_WINDOW
from ..sending.devices import DTYPE_NAMES
from ..sending.rows import Rows
from .accelerator import Accelerator
from .padding import valid_queries


class Origin(NamedTuple):
    """The step of a capture whose rows' sums travel, and how many cells a side the maps of its first sample have that go along; 0: none
    do. `computer`: computes on the tensors' accelerator what then is one of `cross`-attention or not; None: the sender thread does, on
    the CPU."""
    step: int
    maps: int = 0
    computer: Optional[Accelerator] = None
    cross: bool = False


def of_queries(q: torch.Tensor, k: torch.Tensor, visibility: Visibility, stride: int, *, scale: float, softcap: float,
               cross: bool, whole: bool, queries: int, documents: Optional[np.ndarray] = None,
               bias: Optional[np.ndarray] = None, side: int = 0) -> Rows:
    """The sums of queries [B, H, Tq, d] and keys, of a call of `queries` queries. `bias`: says what is visible instead of the mask, and
    what is added; `whole`: all rows of all heads of the layer; `side`: cells of the maps of the first sample, 0 for none."""
    exact = torch.promote_types(q.dtype, k.dtype)
    given = visibility.mask if bias is None else bias
    problem = Problem(
        q.to(exact), k.to(exact), scale, visibility.causal, visibility.q_offset, visibility.window,
        _list(visibility.k_len), _list(visibility.q_len),
        None if given is None else torch.from_numpy(np.array(given[:, None] if bias is None else given)),
        softcap, None, None if documents is None else torch.from_numpy(np.array(documents)), cross, q_stride=stride)
    if bias is not None:  # what it hides is -inf
        problem = problem.like(problem.q, problem.k, problem.bias, problem.documents, None, None, torch.full((), IGNORED_AT))
    found = of_reference(problem, whole, queries, torch.from_numpy(valid_queries(visibility, (problem.batch, problem.queries))))
    if side and stride == 1:
        found = found._replace(maps=pooled.of_queries(problem, 0, side, _words(visibility, stride, cross)).read())
    return found


def of_weights(given: torch.Tensor, visibility: Visibility, stride: int, *, cross: bool, sink: bool, queries: int,
               tokens: Optional[np.ndarray] = None, side: int = 0) -> Rows:
    """The sums of weights [B, H, Tq, Tk]. `sink`: a learned one has taken its share; `tokens`: integers [B, Tk]; the rest
    as for queries."""
    words = _words(visibility, stride, cross)
    found = weights.columns(given, words, None if tokens is None else torch.from_numpy(np.array(tokens)))
    maps = pooled.of_weights(given, words, 0, side).read() if side and stride == 1 else None
    return Rows(tuple(found.of_rows), torch.stack(list(found.of_rows.values())).float().numpy(), found.places.numpy(), queries, int(given.shape[3]),
                visibility.causal, None, None, DTYPE_NAMES[given.dtype], sink, LOCAL_WINDOW, maps)


def _words(visibility: Visibility, stride: int, cross: bool) -> weights.Words:
    q_len, k_len = (None if one is None else torch.from_numpy(np.asarray(one, dtype=np.int64))
                    for one in (visibility.q_len, visibility.k_len))
    mask = None if visibility.mask is None else torch.from_numpy(np.array(visibility.mask, dtype=bool))
    return weights.Words(visibility.causal, visibility.window, visibility.q_offset, stride, q_len, k_len, mask, cross)


def _list(lengths: Any) -> Optional[List[int]]:
    return None if lengths is None else [int(n) for n in lengths]
