# SPDX-License-Identifier: MIT
"""explicit: what autograd says of the attentions of a model, in float64.

A second model of the same weights, which nobody watches, runs with an attention that is computed step by step in place
of torch's own; autograd keeps the gradients of its weights.
"""
from __future__ import annotations

import re
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple
from unittest.mock import patch

import numpy as np
import torch
from expected import Attended, case_of, formulas
from torch.nn import functional
from zoo import HEADS, Batch, Kind, doubled, in_float64


class Call(NamedTuple):
    """One attention: weights [B, H, Tq, Tk] or [B * H, Tq, Tk], whose gradient autograd keeps, and what they are multiplied
    with: values [B, H, Tk, dv] or [B * H, Tk, dv]."""
    weights: torch.Tensor
    values: Optional[torch.Tensor]

    def by_head(self) -> Tuple[np.ndarray, np.ndarray]:
        """Both as [B, H, ...]."""
        assert self.values is not None
        weights, values = (x.detach().reshape(-1, HEADS, *x.shape[-2:]).numpy() for x in self)
        return weights, values


def seen_by_some(logits: torch.Tensor, dtype: Optional[torch.dtype] = None) -> torch.Tensor:
    """Rows that see nothing, as padding on the left, look at all keys alike: NaN would spread to all rows of the next
    layer."""
    return logits.masked_fill(logits.to(dtype or logits.dtype).isneginf().all(-1, keepdim=True), 0)


@contextmanager
def recording() -> Iterator[List[Call]]:
    """The attentions that are computed within, in their order."""
    calls: List[Call] = []
    softmax_of = {owner: owner.softmax for owner in (functional, torch, torch.Tensor)}

    def keep(weights: torch.Tensor, values: Optional[torch.Tensor] = None) -> torch.Tensor:
        if weights.requires_grad:
            weights.retain_grad()
        calls.append(Call(weights, values))
        return weights

    def attend(query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
               scale: Optional[float] = None, enable_gqa: bool = False) -> torch.Tensor:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        logits = query @ key.mT * (query.shape[-1]**-0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
        return keep(softmax_of[torch.Tensor](seen_by_some(logits), -1), value) @ value

    def softmax(owner: Any) -> Any:  # that of functional calls that of Tensor: the result is kept once
        def call(logits: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            made = softmax_of[owner](seen_by_some(logits, kwargs.get("dtype")), *args, **kwargs)
            return made if calls and made is calls[-1].weights else keep(made)

        return call

    def product(multiply: Any) -> Any:
        def call(left: Any, right: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
            last = calls[-1] if calls else None
            if last is not None and last.values is None and left.numel() == last.weights.numel() \
                    and torch.allclose(left.double().reshape(-1), last.weights.double().reshape(-1), 0, 0, equal_nan=True):
                calls[-1] = last._replace(values=right)
            return multiply(left, right, *args, **kwargs)

        return call

    patches = [patch.object(owner, "softmax", softmax(owner)) for owner in softmax_of]
    patches += [patch.object(owner, name, product(getattr(owner, name))) for owner, name in (
        (torch, "matmul"), (torch, "bmm"), (torch.Tensor, "matmul"), (torch.Tensor, "__matmul__"))]
    patches.append(patch.object(functional, "scaled_dot_product_attention", attend, create=True))
    for one in patches:
        one.start()
    try:
        yield calls
    finally:
        for one in patches:
            one.stop()


def calls_of(kind: Kind, state: Dict[str, torch.Tensor], batch: Batch) -> List[Call]:
    """The attentions of one forward, in the order in which they run; backward has run."""
    model = in_float64(kind.build, state)
    with recording() as calls:
        kind.loss(model, doubled(batch)).backward()
    return calls


def values_numbers(call: Call, attended: Attended) -> Dict[str, np.ndarray]:
    """{metric of values: one number per head} of one message."""
    weights, values = (x[attended.samples or slice(None)] for x in call.by_head())
    _, query = formulas.visible(case_of(attended))
    valid = np.broadcast_to(query, (len(weights), weights.shape[2]))
    values = np.broadcast_to(values, (len(weights), *values.shape[1:]))
    mass = weights * np.linalg.norm(values, axis=-1)[:, :, None]
    share = mass / mass.sum(-1, keepdims=True)
    entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(-1)
    norm = np.linalg.norm(weights @ values, axis=-1)
    return {name: np.array([rows[:, head][valid].mean() for head in range(weights.shape[1])])
            for name, rows in (("output_norm", norm), ("norm_weighted_entropy", entropy))}


def block_of(path: str) -> str:
    """The path of the block that an attention is in: up to the last number."""
    return path[:max(at.end() for at in re.finditer(r"\.\d+(?=\.)", path))]


def streams_of(kind: Kind, state: Dict[str, torch.Tensor], batch: Batch, paths: Sequence[str]) -> Dict[str, np.ndarray]:
    """{path of an attention: [B, T, width] that its block is called with}."""
    model, found = in_float64(kind.build, state), {}
    for path in paths:
        model.get_submodule(block_of(path)).register_forward_pre_hook(
            lambda module, args, path=path: found.update({path: args[0].detach().numpy()}))
    with recording():
        kind.loss(model, doubled(batch))
    return {path: x.swapaxes(0, 1) if "seq-first" in kind.name else x for path, x in found.items()}


def residual_numbers(call: Call, attended: Attended, wo: np.ndarray, x: Optional[np.ndarray]) -> Dict[str, np.ndarray]:
    """{metric of what is written to the residual stream: one number per head} of one message. `wo` [out, H * dv]."""
    weights, values = (x[attended.samples or slice(None)] for x in call.by_head())
    _, query = formulas.visible(case_of(attended))
    valid = np.broadcast_to(query, (len(weights), weights.shape[2]))
    by_head = wo.reshape(len(wo), weights.shape[1], -1).swapaxes(0, 1)
    written = np.linalg.norm(weights @ values @ by_head.swapaxes(1, 2), axis=-1)
    numbers = {"write_norm": written}
    if x is not None:
        numbers["residual_share"] = written / np.linalg.norm(x[attended.samples or slice(None)], axis=-1)[:, None]
    return {name: np.array([rows[:, head][valid].mean() for head in range(weights.shape[1])])
            for name, rows in numbers.items()}


def importance(call: Call, samples: slice = slice(None)) -> np.ndarray:
    """importance_gradient of one message: of each head the sum of |A dL/dA|, divided by the norm over the heads."""
    assert call.weights.grad is not None
    products = (call.weights.detach() * call.weights.grad).abs()
    products = products.view(-1, HEADS, *products.shape[-2:])[samples].sum((0, 2, 3))
    return np.asarray(products / products.norm())
