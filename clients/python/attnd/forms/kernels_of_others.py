# SPDX-License-Identifier: MIT
"""kernels_of_others: direct calls of flash_attn, xFormers, TransformerEngine and torch's varlen_attn, recognised by the
function and read by its signature.

The tensors of the first two are laid out [B, T, H, d], and packed sequences [T, H, d] begin where `cu_seqlens` says; these
travel as documents. A causal call of flash_attn aligns the last query with the last key, one of xFormers the first ones
unless its mask says otherwise. Functions of transformers that call them are read by interface.py, which knows more.
"""
from __future__ import annotations

import functools
import inspect
import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional, Tuple

import torch

from . import transformer_engine
from .bands import Band, Pair, queries_of
from .detours import Detour, Original
from .seen import NotCaptured, Output, Queries

if TYPE_CHECKING:
    from .lookout import Lookout

Given = Mapping[str, Any]
Reader = Callable[[Given], Queries]
MATERIALIZED = 1 << 26  # numbers of a mask of xFormers that has no words here
# Arguments that change the weights and are not read here.
_UNKNOWN = ("qv", "attention_chunk", "block_table", "page_table", "seqused_q", "seqused_k", "s_aux", "learnable_sink",
            "sink", "score_mod", "mask_mod")


@functools.lru_cache(maxsize=1)
def _imported(count: int, newest: Optional[str]) -> List[str]:
    """The modules of these packages among the `count` that are imported, of which `newest` was the last."""
    return [name for name in list(sys.modules) if name in _READERS or name.endswith(_FLASH_NAME)]


def observe(lookout: Callable[[], "Lookout"]) -> List[Detour]:
    """Makes calls of what is imported of them take detours."""
    found: Dict[FunctionType, Reader] = {}
    for name in _imported(len(sys.modules), next(reversed(sys.modules), None)):
        for path, read in _READERS.get(name, _FLASH).items():
            function: Any = sys.modules.get(name)
            for part in path.split("."):
                function = getattr(function, part, None)
            function = getattr(function, "_init_fn", function)  # of an operator of torch.library.custom_op
            if isinstance(function, FunctionType):
                found[function] = read
    return [_observed(lookout, function, read) for function, read in found.items()]


def _observed(lookout: Callable[[], "Lookout"], function: FunctionType, read: Reader) -> Detour:
    code = inspect.unwrap(function).__code__
    names = code.co_varnames[:code.co_argcount]
    output = transformer_engine.output if read is transformer_engine.read else _output

    def call(original: Original, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        here = lookout()
        if here.within:
            return original(*args, **kwargs)
        given = {**dict(zip(names, args)), **kwargs}
        return here.instead(lambda: original(*args, **kwargs),
                            lambda result: read(given)._replace(output=output(result, given)))

    return Detour(function, call)


def _output(result: Any, given: Given) -> Output:
    """[B, T, H, d], packed [T, H, d] of flash_attn and varlen_attn; of xFormers also [B, T, d] and [B, T, G, H, d]."""
    made = result[0] if isinstance(result, tuple) else result
    packed = not given.keys().isdisjoint(("cu_seqlens_q", "cu_seqlens", "cu_seq_q"))

    def arrange(gradient: torch.Tensor) -> torch.Tensor:
        if gradient.dim() == 3:
            gradient = gradient[None] if packed else gradient.unsqueeze(2)
        return (gradient.flatten(2, 3) if gradient.dim() == 5 else gradient).transpose(1, 2)

    return Output(made, arrange, bool(given.get("dropout_p") or given.get("p")))


# ------------------------------------------------------------------------------------------ flash_attn

def _flash(given: Given, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *,
           starts: Optional[Pair] = None) -> Queries:
    """[B, T, H, d] each; packed [T, H, d]."""
    for name in _UNKNOWN:
        value = given.get(name)
        if isinstance(value, torch.Tensor) or value:
            raise NotCaptured(f"calls flash_attn with {name}")
    if starts is not None:
        q, k, v = q[None], k[None], v[None]
    left, right = (None if size is None or size < 0 else int(size) for size in given.get("window_size") or (-1, -1))
    band = Band(left, 0 if given.get("causal") else right, starts, slopes=given.get("alibi_slopes"))
    return queries_of(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), given.get("softmax_scale"), band,
                      float(given.get("softcap") or 0.0))


def _flash_qkvpacked(given: Given) -> Queries:
    qkv = given["qkv"]
    if qkv.dim() != 5:
        raise NotCaptured(f"calls flash_attn with queries, keys and values in one tensor of {qkv.dim()} axes")
    return _flash(given, *qkv.unbind(2))


def _flash_varlen(given: Given, *tensors: torch.Tensor) -> Queries:
    return _flash(given, *tensors, starts=(given["cu_seqlens_q"], given["cu_seqlens_k"]))


def _flash_part(given: Given) -> Queries:
    """A function that flash_attn's public ones call. Packages that gather a softmax from several calls use it directly."""
    raise NotCaptured("calls _flash_attn_forward of flash_attn by itself, as ring attention does: a call has some of the keys "
                      "only, others are on other ranks")


# ----------------------------------------------------------------------------------- torch's varlen_attn

# Arguments of the operator that it calls, by the names of the function's own where it has them.
VARLEN_ARGUMENTS = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "is_causal", "scale", "window_size",
                    "enable_gqa", "seqused_k", "block_table", "num_splits")


def varlen(given: Given) -> Queries:
    """[T, H, d] each, packed. The window says what is causal; an argument did in torch 2.10."""
    for name in ("block_table", "seqused_k"):
        if given.get(name) is not None:
            raise NotCaptured(f"calls varlen_attn with {name}")
    left, right = (None if size < 0 else int(size) for size in given.get("window_size") or (-1, -1))
    q, k, v = (given[name][None].transpose(1, 2) for name in ("query", "key", "value"))
    band = Band(left, 0 if given.get("is_causal") else right, (given["cu_seq_q"], given["cu_seq_k"]))
    return queries_of(q, k, v, given.get("scale"), band)


# -------------------------------------------------------------------------------------------- xFormers

def _xformers(given: Given) -> Queries:
    """[B, T, H, d], [B, T, d] of one head, or [B, T, G, H, d] where the H heads of a group share keys."""
    q, k, v, bias = given["query"], given["key"], given["value"], given.get("attn_bias")
    if q.dim() == 3:
        q, k, v = (tensor.unsqueeze(2) for tensor in (q, k, v))
        bias = bias.unsqueeze(1) if isinstance(bias, torch.Tensor) else bias
    elif q.dim() == 5:
        shared = all(tensor.shape[3] == 1 or tensor.stride(3) == 0 for tensor in (k, v))
        k, v = (tensor[:, :, :, 0] if shared else tensor.flatten(2, 3) for tensor in (k, v))
        q = q.flatten(2, 3)
        bias = bias.flatten(1, 2) if isinstance(bias, torch.Tensor) and bias.dim() == 5 else bias
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    scale = given.get("scale")
    if bias is None or isinstance(bias, torch.Tensor):
        return Queries(q, k, bias, scale=scale, v=v)
    band = _band_of(bias, q.device)
    if band is not None:
        return queries_of(q, k, v, scale, band)
    if q.shape[2] * k.shape[2] > MATERIALIZED:
        raise NotCaptured(f"has a mask of xFormers ({type(bias).__name__}) for {q.shape[2]} queries")
    shape = (1, q.shape[1] if "Bias" in type(bias).__name__ else 1, q.shape[2], k.shape[2])
    return Queries(q, k, bias.materialize(shape, torch.float32, q.device), scale=scale, v=v)


def _band_of(bias: Any, device: torch.device) -> Optional[Band]:
    """The band that a mask of xFormers means; None when it has no words here."""
    name = type(bias).__name__
    if name == "LocalAttentionFromBottomRightMask":
        return Band(bias.window_left, bias.window_right)
    if name not in _BANDS:
        return None
    right, aligned = _BANDS[name]
    if not name.startswith("BlockDiagonal"):
        return Band(None, right, None, aligned)
    begin = _start_of(bias.q_seqinfo).to(device)
    keys_begin = begin if bias.k_seqinfo is bias.q_seqinfo else _start_of(bias.k_seqinfo).to(device)
    return Band(None, right, (begin, keys_begin), aligned)


def _start_of(info: Any) -> torch.Tensor:
    start = info.seqstart if hasattr(info, "seqstart") else info.cu_seqlen  # as it was called before 0.0.17
    assert isinstance(start, torch.Tensor)
    return start


_BANDS: Dict[str, Tuple[Optional[int], str]] = {
    "LowerTriangularMask": (0, "first"), "LowerTriangularFromBottomRightMask": (0, "last"),
    "BlockDiagonalMask": (None, "first"), "BlockDiagonalCausalMask": (0, "first"),
    "BlockDiagonalCausalFromBottomRightMask": (0, "last")}
_FLASH: Dict[str, Reader] = {
    "flash_attn_func": lambda given: _flash(given, given["q"], given["k"], given["v"]),
    "flash_attn_qkvpacked_func": _flash_qkvpacked,
    "flash_attn_kvpacked_func": lambda given: _flash(given, given["q"], *given["kv"].unbind(2)),
    "flash_attn_varlen_func": lambda given: _flash_varlen(given, given["q"], given["k"], given["v"]),
    "flash_attn_varlen_qkvpacked_func": lambda given: _flash(given, *given["qkv"].unbind(1), starts=(given["cu_seqlens"],) * 2),
    "flash_attn_varlen_kvpacked_func": lambda given: _flash_varlen(given, given["q"], *given["kv"].unbind(1)),
    "_flash_attn_forward": _flash_part, "_flash_attn_varlen_forward": _flash_part}
_XFORMERS: Dict[str, Reader] = dict.fromkeys(
    ("memory_efficient_attention", "memory_efficient_attention_forward",
     "memory_efficient_attention_forward_requires_grad"), _xformers)
# The module of flash_attn 2 and 3 that defines the functions, in whatever package: flash_attn, flash_attn_3,
# flashattn_hopper, one of the hub of Hugging Face, or none.
_FLASH_NAME = "flash_attn_interface"
# Version 4 of flash_attn, xFormers, torch's own, TransformerEngine: the modules, and where the functions are in them.
_READERS: Dict[str, Dict[str, Reader]] = {
    "flash_attn.cute.interface": _FLASH, "xformers.ops.fmha": _XFORMERS, "torch.nn.attention.varlen": {"varlen_attn": varlen},
    "transformer_engine.pytorch": {"DotProductAttention.forward": transformer_engine.read}}
