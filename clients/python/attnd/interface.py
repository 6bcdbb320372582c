# SPDX-License-Identifier: MIT
"""interface: the attention functions of Hugging Face transformers that are kernels of their own.

Its models look an attention function up by name and call it with queries and keys after the position encoding,
[B, H, T, d]. What `eager` and `sdpa` do is seen anyway (spy.py); for the others (flash attention, flex attention,
what users register) the call itself is looked at.
"""
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Callable, Optional

import torch

from .calls import Queries

if TYPE_CHECKING:
    from .spy import Lookout


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
        result = function(module, query, key, value, attention_mask, *args, **kwargs)
        if here.count == before:
            here.tell(lambda: _queries(module, query, key, attention_mask, kwargs))
        return result

    return call


def _queries(module: Any, query: torch.Tensor, key: torch.Tensor, mask: Any, options: Any) -> Queries:
    causal = options.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    causal = bool(causal) and query.shape[2] > 1
    if mask is not None and not isinstance(mask, torch.Tensor):
        mask, causal = _dense(mask, query.shape[2], key.shape[2], query.device), False
    elif mask is not None and mask.dim() == 2:  # [B, Tk]: padding
        mask = mask.bool()[:, None, None, :]
    elif mask is not None:
        causal = False
    if options.get("position_bias") is not None:
        mask = _with_bias(options["position_bias"], mask)
    if options.get("s_aux") is not None:
        raise TypeError("learned sinks are not captured")
    return Queries(query, key, mask, causal, options.get("scaling"), int(options.get("sliding_window") or 0),
                   float(options.get("softcap") or 0.0))


def _with_bias(bias: torch.Tensor, mask: Optional[torch.Tensor]) -> torch.Tensor:
    """What is added to the logits, of a bias [1, H, Tq, Tk] and a mask that allows, or is added itself."""
    if mask is None:
        return bias
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def _dense(block_mask: Any, queries: int, keys: int, device: Optional[torch.device]) -> torch.Tensor:
    """A flex attention mask of the first sample as bool [1, 1, Tq, Tk]."""
    from torch.nn.attention.flex_attention import create_mask
    return create_mask(block_mask.mask_mod, 1, 1, queries, keys, device=str(device))
