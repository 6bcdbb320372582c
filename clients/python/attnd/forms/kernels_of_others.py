# SPDX-License-Identifier: MIT
"""kernels_of_others: direct calls of flash_attn and xFormers, recognised by the function and read by its signature.

Their tensors are laid out [B, T, H, d], and packed sequences [T, H, d] begin where `cu_seqlens` says; these travel as
documents. A causal call of flash_attn aligns the last query with the last key, one of xFormers the first ones unless
its mask says otherwise. Functions of transformers that call them are read by interface.py, which knows more.
"""
from __future__ import annotations

import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import torch

from ..calls import Output, Queries
from . import mods
from .detours import Detour, Original

if TYPE_CHECKING:
    from ..spy import Lookout

Given = Mapping[str, Any]
Reader = Callable[[Given], Queries]
MATERIALIZED = 1 << 26  # numbers of a mask of xFormers that has no words here
# Arguments that change the weights and are not read here.
_UNKNOWN = ("qv", "attention_chunk", "block_table", "page_table", "seqused_q", "seqused_k", "s_aux", "learnable_sink",
            "sink", "score_mod", "mask_mod")


def observe(lookout: Callable[[], "Lookout"]) -> List[Detour]:
    """Makes calls of what is imported of them take detours."""
    found: Dict[FunctionType, Reader] = {}
    for name in _READERS.keys() & sys.modules.keys():
        for function_name, read in _READERS[name].items():
            function = getattr(sys.modules[name], function_name, None)
            if isinstance(function, FunctionType):
                found[function] = read
    return [_observed(lookout, function, read) for function, read in found.items()]


def _observed(lookout: Callable[[], "Lookout"], function: FunctionType, read: Reader) -> Detour:
    names = function.__code__.co_varnames[:function.__code__.co_argcount]

    def call(original: Original, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        here = lookout()
        if here.within:
            return original(*args, **kwargs)
        given = {**dict(zip(names, args)), **kwargs}
        return here.instead(lambda: original(*args, **kwargs),
                            lambda result: read(given)._replace(output=_output(result, given)))

    return Detour(function, call)


def _output(result: Any, given: Given) -> Output:
    """[B, T, H, d], packed [T, H, d] of flash_attn; of xFormers also [B, T, d] and [B, T, G, H, d]."""
    made, packed = result[0] if isinstance(result, tuple) else result, "cu_seqlens_q" in given or "cu_seqlens" in given

    def arrange(gradient: torch.Tensor) -> torch.Tensor:
        if gradient.dim() == 3:
            gradient = gradient[None] if packed else gradient.unsqueeze(2)
        return (gradient.flatten(2, 3) if gradient.dim() == 5 else gradient).transpose(1, 2)

    return Output(made, arrange, bool(given.get("dropout_p") or given.get("p")))


# ------------------------------------------------------------------------------------------ visibility

class _Band(NamedTuple):
    """Where queries stand and what they see: keys from `left` before to `right` after, None: all.

    starts   where the sequences of queries and of keys begin, and the last one ends: [n + 1] each; None: one sequence
    aligned  'first' or 'last': which query of a sequence stands at that key of it
    slopes   [H] or [sequences, H]: a bias falls by that much per key of distance
    """
    left: Optional[int]
    right: Optional[int]
    starts: Optional[Tuple[torch.Tensor, torch.Tensor]] = None
    aligned: str = "last"
    slopes: Optional[torch.Tensor] = None


def _seen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: Optional[float], band: _Band,
          softcap: float = 0.0) -> Queries:
    """q [B, H, Tq, d], k and v [B, Hkv, Tk, d] of a call. The common bands have words, others are a mask."""
    queries, keys = int(q.shape[2]), int(k.shape[2])
    offset = 0 if band.aligned == "first" else keys - queries
    causal, window = band.right == 0, 0 if band.left is None else band.left + 1
    seen = Queries(q, k, None, causal, scale, window, softcap, offset, v=v)
    plain = causal or band.left == band.right
    if band.starts is not None:
        numbers = _numbers(band.starts[0], queries), _numbers(band.starts[1], keys)
        same = queries == keys  # the sender thread checks it, which nobody waits for
        plain = plain and (same or band.left is band.right is None)
        seen = seen._replace(documents=(numbers[0][None], numbers[1][None]), offset=offset if same else 0)
    if band.slopes is None and plain:
        return seen
    heads = 1 if band.slopes is None else 4 * int(q.shape[1])
    return Queries(q, k, None, False, scale, 0, softcap, max(0, offset), late_nbytes=heads, v=v,
                   late_mask=lambda part: _mask(band, mods.where(part, keys, q.device), queries))


def _mask(band: _Band, at: mods.Where, queries: int) -> torch.Tensor:
    """The mask of what is allowed, bool [1, 1, rows, Tk]; with slopes the bias, [B or 1, H, rows, Tk]."""
    keys = len(at.keys)
    allowed = torch.ones(len(at.queries), keys, dtype=torch.bool, device=at.keys.device)
    if band.starts is None:
        own = None
        position = at.queries + (0 if band.aligned == "first" else keys - queries)
    else:
        begin, keys_begin = (start.long() for start in band.starts)
        own = _numbers(begin, queries)[at.queries].clamp(max=len(begin) - 2)
        allowed &= own[:, None] == _numbers(keys_begin, keys)[None]
        edge = 0 if band.aligned == "first" else 1
        position = at.queries - begin[own + edge] + keys_begin[own + edge]
    ahead = at.keys[None] - position[:, None]
    if band.right is not None:
        allowed &= ahead <= band.right
    if band.left is not None:
        allowed &= ahead >= -band.left
    if band.slopes is None:
        return allowed[None, None]
    slopes = band.slopes.detach().float()
    if slopes.dim() == 1:
        slopes = slopes[at.heads][None, :, None, None]
    elif own is None:
        slopes = slopes[at.samples][:, at.heads, None, None]
    else:  # of the sequence that each query is of
        slopes = slopes[own][:, at.heads].transpose(0, 1)[None, :, :, None]
    return (-slopes * ahead.abs()).masked_fill(~allowed, -torch.inf)


def _numbers(begin: torch.Tensor, length: int) -> torch.Tensor:
    """[T]: the number of the sequence that each position is of."""
    positions = torch.arange(length, device=begin.device, dtype=begin.dtype)
    return torch.searchsorted(begin[1:].contiguous(), positions, right=True)


# ------------------------------------------------------------------------------------------ flash_attn

def _flash(given: Given, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *,
           starts: Optional[Tuple[torch.Tensor, torch.Tensor]] = None) -> Queries:
    """[B, T, H, d] each; packed [T, H, d]."""
    for name in _UNKNOWN:
        value = given.get(name)
        if isinstance(value, torch.Tensor) or value:
            raise TypeError(f"a call of flash_attn with {name} is not captured")
    if starts is not None:
        q, k, v = q[None], k[None], v[None]
    left, right = (None if size is None or size < 0 else int(size) for size in given.get("window_size") or (-1, -1))
    band = _Band(left, 0 if given.get("causal") else right, starts, slopes=given.get("alibi_slopes"))
    return _seen(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), given.get("softmax_scale"), band,
                 float(given.get("softcap") or 0.0))


def _starts(given: Given) -> Tuple[torch.Tensor, torch.Tensor]:
    return given["cu_seqlens_q"], given["cu_seqlens_k"]


def _flash_func(given: Given) -> Queries:
    return _flash(given, given["q"], given["k"], given["v"])


def _flash_qkvpacked(given: Given) -> Queries:
    qkv = given["qkv"]
    if qkv.dim() != 5:
        raise TypeError("packed queries, keys and values of this shape are not captured")
    return _flash(given, *qkv.unbind(2))


def _flash_kvpacked(given: Given) -> Queries:
    return _flash(given, given["q"], *given["kv"].unbind(2))


def _flash_varlen(given: Given) -> Queries:
    return _flash(given, given["q"], given["k"], given["v"], starts=_starts(given))


def _flash_varlen_qkvpacked(given: Given) -> Queries:
    return _flash(given, *given["qkv"].unbind(1), starts=(given["cu_seqlens"], given["cu_seqlens"]))


def _flash_varlen_kvpacked(given: Given) -> Queries:
    return _flash(given, given["q"], *given["kv"].unbind(1), starts=_starts(given))


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
        return _seen(q, k, v, scale, band)
    if q.shape[2] * k.shape[2] > MATERIALIZED:
        raise TypeError(f"a mask of xFormers ({type(bias).__name__}) for {q.shape[2]} queries is not captured")
    shape = (1, q.shape[1] if "Bias" in type(bias).__name__ else 1, q.shape[2], k.shape[2])
    return Queries(q, k, bias.materialize(shape, torch.float32, q.device), scale=scale, v=v)


def _band_of(bias: Any, device: torch.device) -> Optional[_Band]:
    """The band that a mask of xFormers means; None when it has no words here."""
    name = type(bias).__name__
    if name == "LocalAttentionFromBottomRightMask":
        return _Band(bias.window_left, bias.window_right)
    if name not in _BANDS:
        return None
    right, aligned = _BANDS[name]
    if not name.startswith("BlockDiagonal"):
        return _Band(None, right, None, aligned)
    begin = _start_of(bias.q_seqinfo).to(device)
    keys_begin = begin if bias.k_seqinfo is bias.q_seqinfo else _start_of(bias.k_seqinfo).to(device)
    return _Band(None, right, (begin, keys_begin), aligned)


def _start_of(info: Any) -> torch.Tensor:
    start = info.seqstart if hasattr(info, "seqstart") else info.cu_seqlen  # as it was called before 0.0.17
    assert isinstance(start, torch.Tensor)
    return start


_BANDS: Dict[str, Tuple[Optional[int], str]] = {
    "LowerTriangularMask": (0, "first"), "LowerTriangularFromBottomRightMask": (0, "last"),
    "BlockDiagonalMask": (None, "first"), "BlockDiagonalCausalMask": (0, "first"),
    "BlockDiagonalCausalFromBottomRightMask": (0, "last")}
_FLASH: Dict[str, Reader] = {
    "flash_attn_func": _flash_func, "flash_attn_qkvpacked_func": _flash_qkvpacked,
    "flash_attn_kvpacked_func": _flash_kvpacked, "flash_attn_varlen_func": _flash_varlen,
    "flash_attn_varlen_qkvpacked_func": _flash_varlen_qkvpacked,
    "flash_attn_varlen_kvpacked_func": _flash_varlen_kvpacked}
_XFORMERS: Dict[str, Reader] = dict.fromkeys(
    ("memory_efficient_attention", "memory_efficient_attention_forward",
     "memory_efficient_attention_forward_requires_grad"), _xformers)
# flash_attn 2, its versions 3 and 4, xFormers: the modules that define the functions.
_READERS: Dict[str, Dict[str, Reader]] = {
    "flash_attn.flash_attn_interface": _FLASH, "flash_attn_interface": _FLASH, "flash_attn.cute.interface": _FLASH,
    "xformers.ops.fmha": _XFORMERS}
