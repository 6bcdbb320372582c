# SPDX-License-Identifier: MIT
"""added: what the mask of a fused call hides and adds, and the weights that come of both; on the sender thread, in numpy."""
from __future__ import annotations

import math
from typing import NamedTuple, Optional, Tuple

import numpy as np
import torch

from ..base.hidden import WEIGHT_LEFT, hidden_at
from ..base.masks import IGNORED_AT
from ..sending.devices import HostCopy


class Added(NamedTuple):
    """The meaning of a mask, each to broadcast to [B, H, Tq, Tk]; one head when all heads agree.

    allowed  bool
    bias     what is added; None: nothing, where the mask only allows and ignores
    left     bool: the keys that a step of finite values hides; None: there are none
    """
    allowed: np.ndarray
    bias: Optional[np.ndarray] = None
    left: Optional[np.ndarray] = None


def read(mask: Optional[HostCopy], shape: Tuple[int, int, int, int]) -> Added:
    """The meaning of a mask of a call of this shape."""
    if mask is None:
        return Added(np.ones((1, 1, 1, 1), dtype=bool))
    is_bool = mask.dtype == torch.bool
    values = mask.numpy() if is_bool else mask.floats()
    least = IGNORED_AT if is_bool else float(hidden_at(mask.tensor()))
    allowed = values if is_bool else values > least
    bias = values if not is_bool and bool(((values != 0) & allowed).any()) else None
    left = (values > IGNORED_AT) & ~allowed if least > IGNORED_AT else None
    if allowed.shape[1] > 1 and bool((allowed == allowed[:, :1]).all()):
        allowed = allowed[:, :1]
    return Added(np.broadcast_to(allowed, (shape[0], allowed.shape[1], *shape[2:])), bias, left)


def with_weight(added: Added, mask: HostCopy, band: np.ndarray, q: np.ndarray, k: np.ndarray, scale: float, softcap: float) -> Added:
    """The same where logits of hundreds give hidden keys weight, as a step of -100 leaves them some: rows of which that is so see
    these keys, which then are biased. `band`: bool, to broadcast to [B, H, Tq, Tk], of what is visible but for the mask."""
    if added.left is None:
        return added
    values, nats = mask.floats(), math.log(k.shape[2] / WEIGHT_LEFT)
    longest = np.linalg.norm(k, axis=-1).max(-1).repeat(q.shape[1] // k.shape[1], axis=1)
    reach = np.linalg.norm(q, axis=-1) * longest[..., None] * abs(scale)
    reach = np.minimum(reach, softcap) if softcap else reach
    shown, hidden = (np.where(some & band, values, -np.inf).max(-1) for some in (added.allowed, added.left))
    if not (np.isfinite(shown) & (hidden + reach > shown - reach - nats)).any():
        return added
    weights = softmax(logits(q, k, scale, softcap), (added.allowed | added.left) & band, values)
    rows = (np.isfinite(shown) & ((weights * added.left).sum(-1) > WEIGHT_LEFT)).any(1)[:, None, :, None]
    return Added(added.allowed | (added.left & rows), values, None) if rows.any() else added


def logits(q: np.ndarray, k: np.ndarray, scale: float, softcap: float) -> np.ndarray:
    """[B, H, Tq, Tk] of q [B, H, Tq, d] and k [B, Hkv, Tk, d]."""
    product = q @ np.repeat(k, q.shape[1] // k.shape[1], axis=1).swapaxes(2, 3) * scale
    return np.asarray(softcap * np.tanh(product / softcap) if softcap else product)


def softmax(of: np.ndarray, allowed: np.ndarray, bias: Optional[np.ndarray]) -> np.ndarray:
    """Weights of the logits of what is allowed; a row that may attend to nothing is 0."""
    if bias is not None:
        of = of + np.where(bias > IGNORED_AT, bias, 0)
    of = np.where(allowed, of, -np.inf)
    top = of.max(axis=-1, keepdims=True)
    weights = np.exp(of - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis=-1, keepdims=True)
    return np.asarray(weights / np.where(total > 0, total, 1))
