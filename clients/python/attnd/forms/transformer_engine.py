# SPDX-License-Identifier: MIT
"""transformer_engine: a call of TransformerEngine's DotProductAttention, whichever of its kernels it takes (cuDNN, flash_attn,
its own), read by its documentation of versions 1.8 to 2.12. Megatron core attends by it.

The module was made with a layout, a kind of mask and a window, which hold unless the call names others. A mask is true where
nothing may be attended to. With FP8 attention the numbers are those of queries and keys before they are quantized.
"""
from __future__ import annotations

from typing import Any, List, Mapping, Optional

import torch

from .bands import Band, queries_of
from .seen import NotCaptured, Output, Queries

# Arguments that change the weights and are not read here.
_UNKNOWN = ("inference_params", "score_mod", "g", "beta")


def read(given: Mapping[str, Any]) -> Queries:
    """The meaning of the call."""
    module = given["self"]
    for name in _UNKNOWN:
        if given.get(name) is not None:
            raise NotCaptured(f"calls TransformerEngine with {name}")
    softmax, groups = getattr(module, "softmax_type", "vanilla"), getattr(module, "cp_group", None)
    if softmax != "vanilla":
        raise NotCaptured(f"has the softmax {softmax!r} of TransformerEngine")
    if any(group.size() > 1 for group in (groups if isinstance(groups, list) else [groups]) if group is not None):
        raise NotCaptured("is context parallel: each rank has queries and keys of its own part of the sequence only")
    layout = given.get("qkv_format") or module.qkv_format
    q, k, v = (_arranged(tensor, layout) for tensor in _tensors(given))
    kind = (given.get("attn_mask_type") or module.attn_mask_type).replace(",", "_")
    band = _band(given, module, kind, layout)
    mask = None if layout == "thd" else _mask(given, kind, k)
    bias = given.get("core_attention_bias_type") or "no_bias"
    if bias == "alibi" and given.get("alibi_slopes") is not None:
        band = band._replace(slopes=given["alibi_slopes"])
    elif bias == "post_scale_bias" and mask is None:
        mask = given["core_attention_bias"]
    elif bias != "no_bias":
        raise NotCaptured(f"calls TransformerEngine with a bias ({bias}) and slopes or a mask that do not go with it here")
    seen = queries_of(q, k, v, _scale(module), band)
    if mask is not None and seen.late_mask is not None:
        raise NotCaptured(f"calls TransformerEngine with a mask ({kind}) and a window of {band.left} before, {band.right} behind")
    return seen if mask is None else seen._replace(mask=mask)


def output(result: Any, given: Mapping[str, Any]) -> Output:
    """[T, B, H * dv], [B, T, H * dv] or packed [T, H * dv]."""
    module, made = given["self"], result[0] if isinstance(result, tuple) else result
    layout, heads = given.get("qkv_format") or module.qkv_format, int(_tensors(given)[0].shape[-2])
    return Output(made, lambda gradient: _arranged(gradient.reshape(*gradient.shape[:-1], heads, -1), layout),
                  bool(module.training and getattr(module, "attention_dropout", 0.0)))


def _tensors(given: Mapping[str, Any]) -> List[torch.Tensor]:
    """Queries, keys and values, which may come in one or two tensors."""
    axis = given.get("qkv_interleave_dim") or -3
    if given.get("qkv_layer") is not None:
        return list(given["qkv_layer"].unbind(axis))
    if given.get("kv_layer") is not None:
        return [given["query_layer"], *given["kv_layer"].unbind(axis)]
    return [given["query_layer"], given["key_layer"], given["value_layer"]]


def _arranged(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """[B, H, T, d]."""
    return {"sbhd": lambda: tensor.permute(1, 2, 0, 3), "bshd": lambda: tensor.transpose(1, 2),
            "thd": lambda: tensor.transpose(0, 1)[None]}[layout]()


def _scale(module: Any) -> Optional[float]:
    """Its kernels were made with one."""
    return next((float(kernel.softmax_scale) for kernel in module.children() if hasattr(kernel, "softmax_scale")), None)


def _band(given: Mapping[str, Any], module: Any, kind: str, layout: str) -> Band:
    left, right = given.get("window_size") or getattr(module, "window_size", None) or (-1, -1)
    if "causal" in kind:
        right = 0
    elif (left, right) == (-1, 0):  # of a module that was made causal, and is called as one that is not
        right = -1
    own = given.get("bottom_right_diagonal")
    own = getattr(module, "bottom_right_diagonal", None) if own is None else own
    at_last = "bottom_right" in kind or ("causal" not in kind and own is not False)
    starts: Any = None
    lengths: Any = None
    if layout == "thd":
        starts = given.get("cu_seqlens_q"), given.get("cu_seqlens_kv")
        if starts[0] is None or starts[1] is None:
            raise NotCaptured("calls TransformerEngine with packed sequences, and not where they begin")
        padded = given.get("cu_seqlens_q_padded"), given.get("cu_seqlens_kv_padded")
        apart = [begin if one is None else one for one, begin in zip(padded, starts)]
        if any(one is not begin for one, begin in zip(apart, starts)):
            starts, lengths = (apart[0], apart[1]), (starts[0].diff(), starts[1].diff())
    elif "padding" in kind and at_last and module.attention_type == "cross" and (left, right) != (-1, -1):
        raise NotCaptured(f"calls TransformerEngine with the mask {kind} between sequences of other lengths")
    return Band(None if left < 0 else int(left), None if right < 0 else int(right), starts, "last" if at_last else "first",
                lengths=lengths)


def _mask(given: Mapping[str, Any], kind: str, k: torch.Tensor) -> Optional[torch.Tensor]:
    """True where a key may be attended to: of all queries, or [B, 1, 1, Tk] of keys that are no padding."""
    mask: Any = given.get("attention_mask")
    lengths: Optional[torch.Tensor] = given.get("cu_seqlens_kv")
    if kind == "arbitrary":
        return None if mask is None else ~mask
    if "padding" not in kind:
        return None
    if lengths is not None:
        return (torch.arange(k.shape[2], device=k.device)[None] < lengths.diff()[:, None])[:, None, None]
    of_keys: Optional[torch.Tensor] = mask[-1] if isinstance(mask, tuple) else mask
    return None if of_keys is None else ~of_keys
