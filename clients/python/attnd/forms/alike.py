# SPDX-License-Identifier: MIT
"""alike: calls of attention that differ in nothing but numbers, so that what was found out of one holds for all."""
from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Optional

import torch

from ..base.torch_state import is_graph_captured, why_unreadable
from .seen import NO_TENSOR, Queries, Seen, Share, Weights, lowered_dtype

Tensors = Dict[str, Any]  # fields of Queries, or of Weights, that hold the numbers of a call


class Alike(NamedTuple):
    """Calls that differ in nothing but numbers: by which all are known, what they are but for their tensors, and the share of the
    layer's heads. Calls of several modules that are the same have one."""
    known_by: Any
    seen: Seen
    share: Share


def tensors_of(seen: Seen) -> Tensors:
    """The tensors that calls like one differ in."""
    if isinstance(seen, Weights):
        return {"weights": seen.weights, "logits": seen.logits, "hidden": seen.hidden}
    return {"q": seen.q, "k": seen.k}


def alike_of(seen: Queries, share: Share, args: Any, kwargs: Any) -> Optional[Alike]:
    """The calls like one of F.scaled_dot_product_attention with these arguments; None: the function was given something else than
    queries and keys as they are, or a mask."""
    by = known_by(args, kwargs)
    if by is None or seen.mask is not None or not all(_are_same(*pair) for pair in zip((seen.q, seen.k), args)):
        return None
    return Alike(by, seen._replace(q=NO_TENSOR, k=NO_TENSOR, v=None, output=None, called=None), share)


def softmax_alike(seen: Weights, ordered: Weights, share: Share) -> Optional[Alike]:
    """The calls like a softmax; None: it has to be arranged, so that `ordered` is another one."""
    by = softmax_known_by(seen.weights, seen.logits, seen.is_known, lambda: seen.shared) if ordered is seen else None
    if by is None:
        return None
    return Alike(by, seen._replace(weights=NO_TENSOR, logits=NO_TENSOR, v=None, output=None, hidden=None, biases=()), share)


def softmax_known_by(weights: torch.Tensor, logits: torch.Tensor, is_known: bool, are_shared: Callable[[], bool]) -> Any:
    """All that the meaning of a softmax depends on, but for its module, and for what hides keys; None: it is of another kind of tensor.
    `is_known`: as of Weights; `are_shared`: its masks, by all samples."""
    if type(logits) is not torch.Tensor or not _is_plain(weights):
        return None
    return weights.shape, weights.stride(), weights.dtype, logits.dtype, weights.device, weights.requires_grad, is_known, are_shared()


def known_by(args: Any, kwargs: Any) -> Any:
    """All that the meaning of a call of F.scaled_dot_product_attention without a mask depends on, but for its module; None: it has
    one, or is called in another way."""
    if len(args) != 3 or kwargs.get("attn_mask") is not None:
        return None
    q, k, v = args
    if not type(k) is type(v) is torch.Tensor or not _is_plain(q):
        return None
    return (q.shape, q.stride(), q.dtype, k.shape, k.stride(), k.dtype, v.shape, q.device, kwargs.get("is_causal"), kwargs.get("scale"),
            kwargs.get("enable_gqa"), lowered_dtype(q, True))


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the numbers of a tensor can be copied, as they are."""
    return type(tensor) is torch.Tensor and tensor.layout is torch.strided and not tensor.is_nested and why_unreadable(tensor) is None \
        and not (tensor.is_cuda and is_graph_captured())


def _are_same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two views are of the same numbers in the same places: an axis of one has any stride."""
    return a.shape == b.shape and a.data_ptr() == b.data_ptr() and all(
        of_a == of_b for size, of_a, of_b in zip(a.shape, a.stride(), b.stride()) if size > 1)
