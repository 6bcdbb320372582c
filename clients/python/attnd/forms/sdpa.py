# SPDX-License-Identifier: MIT
"""sdpa: what a call of F.scaled_dot_product_attention means."""
from __future__ import annotations

from typing import Any, List, Mapping, Optional, Sequence

import torch

from .seen import NotCaptured, Output, Queries
from .shares import share_of_heads

ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")

def of_call(args: Sequence[Any], kwargs: Mapping[str, Any], result: torch.Tensor) -> Queries:
    """By what the function was called with, and returned."""
    return queries_of({**dict(zip(ARGUMENTS, args)), **kwargs}, result)


def queries_of(given: Mapping[str, Any], result: Optional[torch.Tensor] = None) -> Queries:
    """By its arguments, and its result where that is known, as [B, H, T, d]."""
    q, k, v, mask = given["query"], given["key"], given["value"], given.get("attn_mask")
    if getattr(q, "is_nested", False):
        raise NotCaptured("computes with nested tensors")
    shared = mask is not None and mask.dim() > 1 and mask.shape[-2] > 1 and (mask.dim() < 4 or mask.shape[0] < q.shape[0])
    share = share_of_heads(q, k, v)
    if share is None and hasattr(q, "placements"):
        return Queries(q, k)  # whose placements say why it is not captured
    called = [_local(q), _local(k), _local(v), None if mask is None else _local(mask)]
    q, k, v, mask = _four_axes(called)
    assert q is not None and k is not None
    output = None if result is None else Output(result, _in_four_axes, bool(given.get("dropout_p")))
    return Queries(q, k, mask, bool(given.get("is_causal")), given.get("scale"), v=v, output=output, share=share,
                   shared=shared, called=called)


def unpacked(seen: Queries, asked: Optional[Sequence[int]]) -> Queries:
    """With the heads that an attention function of transformers was asked for, by the shape of its queries: for a single query it
    makes those that read the same keys queries of one head."""
    if asked is None or asked[2] != 1 or tuple(seen.q.shape) != (asked[0], seen.k.shape[1], asked[1] // seen.k.shape[1], asked[3]):
        return seen
    mask, output = seen.mask, seen.output
    if mask is not None and mask.shape[1] > 1:
        mask = mask.reshape(mask.shape[0], asked[1], 1, -1)
    if output is not None:
        arrange = output.arrange
        output = output._replace(arrange=lambda gradient: arrange(gradient).reshape(asked[0], asked[1], 1, -1))
    return seen._replace(q=seen.q.reshape(*asked), mask=mask, output=output)


def _local(tensor: Any) -> torch.Tensor:
    """This process's part of a distributed tensor."""
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    assert isinstance(local, torch.Tensor)
    return local


def _four_axes(given: Sequence[Optional[torch.Tensor]]) -> List[Optional[torch.Tensor]]:
    """Queries [..., H, T, d], keys, values and mask as torch broadcasts them, as [B, H, T, d]: axes that are missing are the
    leading ones, and all before the heads are samples. [B, T, d] are samples of one head."""
    axes = max(tensor.dim() for tensor in given if tensor is not None)
    if axes == 3:
        return [None if tensor is None else _padded(tensor, 3).unsqueeze(1) for tensor in given]
    padded = [None if tensor is None else _padded(tensor, max(axes, 4)) for tensor in given]
    if axes <= 4:
        return padded
    leading = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
        *(tensor.shape[:-3] for tensor in padded if tensor is not None))
    return [None if tensor is None else tensor.expand(*leading, *tensor.shape[-3:]).flatten(0, -4) for tensor in padded]


def _in_four_axes(tensor: torch.Tensor) -> torch.Tensor:
    """One that nothing is to be broadcast with."""
    made = _four_axes([tensor])[0]
    assert made is not None
    return made


def _padded(tensor: torch.Tensor, axes: int) -> torch.Tensor:
    return tensor.reshape((1,) * (axes - tensor.dim()) + tuple(tensor.shape))
