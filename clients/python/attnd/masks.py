# SPDX-License-Identifier: MIT
"""masks: what torch.nn.MultiheadAttention was told about masking, in the words of the wire.

torch:  attn_mask [Tq,S] or [B*H,Tq,S], key_padding_mask [B,S]; bool or byte: true = ignore; float: added to
        the logits.
wire:   causal (j <= i), window (j > i - window), q_len, k_len (right padding), mask u8 [B,Tq,Tk]
        (1 = may attend); all of them hold together.

Decisions: a float at or below -1e4 ignores the key, whatever larger value is a bias (exp(-1e4) is 0 in every
dtype). Where the heads of a layer have different masks, a key that any head may see counts as visible: rows stay
sound, and `n` in the normalised entropy is the union's. Keys that the module appends itself (bias_k,
add_zero_attn) are always visible.
"""
from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np

IGNORED_AT = -1e4


class Visibility(NamedTuple):
    """Keyword arguments of Publisher.publish_attention; None and False say nothing."""
    causal: bool = False
    window: int = 0
    q_len: Optional[np.ndarray] = None
    k_len: Optional[np.ndarray] = None
    mask: Optional[np.ndarray] = None


def visible(mask: Optional[np.ndarray]) -> Optional[np.ndarray]:
    """A torch mask of any dtype as bool with True = may attend; None stays None, and so does one that
    ignores nothing."""
    if mask is None:
        return None
    seen = mask > IGNORED_AT if mask.dtype.kind == "f" else mask == 0
    return None if seen.all() else seen


def describe(attn_mask: Optional[np.ndarray], key_padding_mask: Optional[np.ndarray], batch: int, heads: int,
             queries: int, keys: int, self_attention: bool) -> Visibility:
    """What the rows of weights [batch, heads, queries, keys] may attend to.

    The masks come as torch got them (as numpy arrays); `keys` counts appended ones too. ValueError when a
    mask's shape fits neither torch's rules nor the weights.
    """
    allowed = _append_keys(_per_sample(visible(attn_mask), batch, heads), keys)
    present = _append_keys(_padding(visible(key_padding_mask), batch), keys)
    _check_shapes(allowed, present, batch, queries, keys)
    causal, window, allowed = _split_causal(allowed)
    k_len, present = _split_right_padding(present)
    q_len = np.minimum(k_len, queries) if k_len is not None and self_attention else None
    if allowed is None and present is None:
        return Visibility(causal, window, q_len, k_len, None)
    mask = np.ones((batch, queries, keys), dtype=bool)
    if allowed is not None:
        mask &= allowed
    if present is not None:
        mask &= present[:, None, :]
        if self_attention:  # a padded key is a padded query too
            mask &= present[:, :queries, None]
    return Visibility(causal, window, q_len, k_len, mask)


def describe_causal(attn_mask: np.ndarray) -> Tuple[bool, int]:
    """(causal, window) of one [Tq,S] mask; (False, 0) when it is anything else."""
    allowed = visible(attn_mask)
    return (False, 0) if allowed is None else _split_causal(allowed)[:2]


def _per_sample(allowed: Optional[np.ndarray], batch: int, heads: int) -> Optional[np.ndarray]:
    """[Tq,S] if all samples agree, else [B,Tq,S]: the union over the heads."""
    if allowed is None or allowed.ndim == 2:
        return allowed
    if allowed.shape[0] == 1:
        return allowed[0]
    if allowed.shape[0] != batch * heads:
        raise ValueError(f"attn_mask of shape {allowed.shape} for {batch} samples of {heads} heads")
    allowed = allowed.reshape(batch, heads, *allowed.shape[1:]).any(axis=1)
    return allowed[0] if (allowed == allowed[:1]).all() else allowed


def _padding(present: Optional[np.ndarray], batch: int) -> Optional[np.ndarray]:
    """[B,S]; an unbatched mask is [S]."""
    return present[None, :] if present is not None and present.ndim == 1 and batch == 1 else present


def _append_keys(seen: Optional[np.ndarray], keys: int) -> Optional[np.ndarray]:
    """Adds visible keys at the end until there are `keys`."""
    if seen is None or seen.shape[-1] >= keys:
        return seen
    return np.concatenate([seen, np.ones((*seen.shape[:-1], keys - seen.shape[-1]), dtype=bool)], axis=-1)


def _check_shapes(allowed: Optional[np.ndarray], present: Optional[np.ndarray], batch: int, queries: int,
                  keys: int) -> None:
    if allowed is not None and allowed.shape not in ((queries, keys), (batch, queries, keys)):
        raise ValueError(f"attn_mask of shape {allowed.shape} for {queries} queries and {keys} keys")
    if present is not None and present.shape != (batch, keys):
        raise ValueError(f"key_padding_mask of shape {present.shape} for {batch} samples of {keys} keys")


def _split_causal(allowed: Optional[np.ndarray]):
    """(causal, window, what is left to say): a causal triangle or band needs no mask."""
    if allowed is None or allowed.ndim != 2:
        return False, 0, allowed
    query, key = np.ogrid[:allowed.shape[0], :allowed.shape[1]]
    if np.array_equal(allowed, key <= query):
        return True, 0, None
    window = int(allowed.sum(axis=1).max())
    if window and np.array_equal(allowed, (key <= query) & (key > query - window)):
        return True, window, None
    return False, 0, allowed


def _split_right_padding(present: Optional[np.ndarray]):
    """(k_len, what is left to say)."""
    if present is None:
        return None, None
    lengths = present.sum(axis=1).astype(np.int32)
    if np.array_equal(present, np.arange(present.shape[1])[None, :] < lengths[:, None]):
        return lengths, None
    return None, present
