# SPDX-License-Identifier: MIT
"""alike: calls of attention that differ in nothing but numbers, so that what was found out of one holds for all."""
from __future__ import annotations

from typing import Any, NamedTuple, Optional

import torch

from .seen import NO_TENSOR, Queries, Share, lowered_dtype


class Alike(NamedTuple):
    """Calls that differ in nothing but numbers: by which all are known, what they are but for queries and keys, and the share of the
    layer's heads. Calls of several modules that are the same have one."""
    known_by: Any
    seen: Queries
    share: Share


def alike_of(seen: Queries, share: Share, args: Any, kwargs: Any) -> Optional[Alike]:
    """The calls like one of F.scaled_dot_product_attention with these arguments; None: the function was given something else than
    queries and keys as they are, or a mask."""
    by = known_by(args, kwargs)
    if by is None or seen.mask is not None or not all(_are_same(*pair) for pair in zip((seen.q, seen.k), args)):
        return None
    return Alike(by, seen._replace(q=NO_TENSOR, k=NO_TENSOR, v=None, output=None, called=None), share)


def known_by(args: Any, kwargs: Any) -> Any:
    """All that the meaning of a call of F.scaled_dot_product_attention without a mask depends on, but for its module; None: it has
    one, or is called in another way."""
    if len(args) != 3 or kwargs.get("attn_mask") is not None:
        return None
    q, k, v = args
    if not type(q) is type(k) is type(v) is torch.Tensor or q.layout is not torch.strided or q.is_nested:
        return None
    return (q.shape, q.stride(), q.dtype, k.shape, k.stride(), k.dtype, v.shape, q.device, kwargs.get("is_causal"), kwargs.get("scale"),
            kwargs.get("enable_gqa"), lowered_dtype(q, True))


def _are_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two views are of the same numbers in the same places: an axis of one has any stride."""
    return a.shape == b.shape and a.data_ptr() == b.data_ptr() and all(
        of_a == of_b for size, of_a, of_b in zip(a.shape, a.stride(), b.stride()) if size > 1)
