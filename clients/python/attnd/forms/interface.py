# SPDX-License-Identifier: MIT
"""interface: the attention functions of Hugging Face transformers that are kernels of their own.

Its models look an attention function up by name and call it with queries and keys after the position encoding,
[B, H, T, d]. `spy.py` sees `eager` and `sdpa` anyway; for the others (flash attention, flex attention,
what users register) the call itself is looked at.
"""
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable, Dict, Optional

import torch

from . import bands, mods
from .seen import NotCaptured, Output, Queries

if TYPE_CHECKING:
    from .lookout import Lookout


def observe(lookout: Callable[[], "Lookout"]) -> Any:
    """Makes the lookups of transformers give observed functions until forget(result); None when it is not there.
    `lookout` gives the one of the thread that calls."""
    owner: Any = getattr(sys.modules.get("transformers.modeling_utils"), "AttentionInterface", None)
    if owner is None:
        return None
    own = owner.__dict__.get("__getitem__")

    def lookup(mapping: Any, name: str) -> Any:
        found = own(mapping, name) if own is not None else super(owner, mapping).__getitem__(name)
        return _observed(lookout, found)

    owner.__getitem__ = lookup
    return owner, own


def forget(observed: Any) -> None:
    """Undoes observe()."""
    if observed is None:
        return
    owner, own = observed
    if own is None:
        del owner.__getitem__
    else:
        owner.__getitem__ = own


def _observed(lookout: Callable[[], "Lookout"], function: Callable[..., Any]) -> Callable[..., Any]:
    def call(module: Any, query: Any, key: Any, value: Any, attention_mask: Any = None, *args: Any,
             **kwargs: Any) -> Any:
        here = lookout()
        before = here.count
        with here.inside_interface(kwargs.get("s_aux"), query):
            result = function(module, query, key, value, attention_mask, *args, **kwargs)
        if here.count == before:
            here.tell(lambda: _queries(module, query, key, value, attention_mask, kwargs)._replace(
                output=Output(result[0], lambda gradient: gradient.transpose(1, 2), bool(kwargs.get("dropout")))))
        return result

    return call


def _queries(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any,
             options: Any) -> Queries:
    """The meaning of the call. A mask of all queries says everything; else the last query stands at the last key, as
    flash attention has it."""
    if options.get("s_aux") is not None:
        raise NotCaptured("has learned sinks")
    queries, keys, device, causal = query.shape[2], key.shape[2], query.device, options.get("is_causal")
    causal = bool(getattr(module, "is_causal", True) if causal is None else causal)
    seen = Queries(query, key, scale=options.get("scaling"), softcap=float(options.get("softcap") or 0.0),
                   v=value)
    if mask is not None and not isinstance(mask, torch.Tensor):
        seen = seen._replace(late_mask=mods.LateMask(mask.mask_mod, keys, device))
    elif mask is not None and mask.dim() != 2:
        seen = seen._replace(mask=mask)
    else:
        seen = seen._replace(
            mask=None if mask is None else mask.bool()[:, None, None, :],  # [B, Tk]: padding
            causal=causal and queries > 1, window=int(options.get("sliding_window") or 0),
            offset=keys - queries, **(_packed(query, key, options) if mask is None else {}))
    if options.get("position_bias") is not None:
        everything = [slice(0, int(count)) for count in query.shape[:3]]
        own = seen.mask if seen.late_mask is None else seen.late_mask(everything)
        seen = seen._replace(mask=_with_bias(options["position_bias"], own), late_mask=None)
    return seen


def _packed(query: torch.Tensor, key: torch.Tensor, options: Any) -> Dict[str, Any]:
    """`documents` and `ends` of Queries: flash attention is told where each document of a packed sequence begins, or finds
    position 0 there. Empty when nothing is packed."""
    begin, keys_begin, positions = (options.get(name) for name in ("cu_seq_lens_q", "cu_seq_lens_k", "position_ids"))
    if begin is not None or keys_begin is not None:
        if begin is None or keys_begin is None or query.shape[0] != 1 or key.shape[0] != 1:
            raise NotCaptured("is told where packed sequences begin, but not of queries and keys, or of more than one sample")
        starts = begin, keys_begin
        return {"documents": bands.numbers_of(starts, query.shape[2], key.shape[2]), "ends": bands.ends_of(starts)}
    if positions is None or tuple(positions.shape) != (1, query.shape[2]) or query.shape[0] != 1 \
            or query.shape[2] != key.shape[2]:
        return {}
    numbers = (positions == 0).cumsum(-1)
    return {"documents": (numbers, numbers)}


def _with_bias(bias: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
    """Joins a bias [1, H, Tq, Tk] and a mask that allows, or is added itself: what is added to the logits."""
    if mask is None:
        return bias
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask
