# SPDX-License-Identifier: MIT
"""masks: which keys each query may attend to, in the words of the wire.

wire:   causal (j <= p), window (j > p - window), q_len, k_len (right padding), mask u8 [B,Tq,Tk] (1 = may attend);
        all of them hold together. p = q_offset + i * q_stride is where query i stands among the keys.

Models say in many ways which keys are visible: it is one map. Most maps are a causal triangle or band, or right padding,
or both, and are told in a few bytes; what is left over travels as a mask.

Decisions: an additive mask at or below -9e3 ignores the key, whatever larger value is a bias: exp(-9e3) is 0 in every
dtype, and the common -1e4 is -9984 in bf16, or has a logit added to it. Libraries let fully masked rows (padding) see
everything lest they become NaN. Such rows are taken as the padding they are when no other row sees their keys, and they
are the first ones of an otherwise causal map, or those before a text or behind several (packed) ones, causal or not, in a
mask that samples do not share. Behind one text they may as well be a target that sees its context, which does not see the
target: they are padding where samples differ in them.

Padding of self-attention: a key that no query of a sample may see, with the query at its position, when that is what the
mask is: a mask of keys, the same for all queries, below everything, a causal triangle or a band. It may hide keys on both
sides, as where prompts are padded on the left and what was generated on the right. A mask that all samples share is the
model's own and tells of no padding (test points see the training points alone); in one of another kind (top-k, a strictly
causal one) each query that sees some key counts.

Self-attention of fewer queries than keys has a cache of keys, or learned ones: its queries are the last ones, unless the mask
says otherwise, as where it hides the end of a cache that is not full, is a triangle from key 0 on, or where only the first keys
can be theirs. Padding is judged by the keys up to that of the last query.
"""
from __future__ import annotations

from typing import NamedTuple, Optional, Tuple

import numpy as np

IGNORED_AT = -9e3


class Visibility(NamedTuple):
    """Keyword arguments of the row keys of a message; None, 0 and False say nothing."""
    causal: bool = False
    window: int = 0
    q_offset: int = 0
    q_len: Optional[np.ndarray] = None
    k_len: Optional[np.ndarray] = None
    mask: Optional[np.ndarray] = None


def describe(allowed: np.ndarray, first: int = 0, stride: int = 1, total: Optional[int] = None,
             self_attention: bool = True, shared: bool = False, extra: int = 0) -> Visibility:
    """The meaning of `allowed`, bool [B, Tq, Tk]. `shared`: by one mask for all samples.

    first, stride  the rows are every `stride`-th query from `first` on
    total          how many queries there are; None: these are all
    extra          how many keys are behind those of the sequence, as learned ones are
    """
    queries, keys = allowed.shape[1:]
    total = queries if total is None else total
    behind, end = first + keys - extra - total, total
    padded = self_attention and total <= keys - extra
    if padded and total < keys - extra:
        behind = _behind(allowed[:, :, :keys - extra], first, stride, total)
        first, end = behind, min(total + behind - first, keys)
    position = first + np.arange(queries) * stride
    if padded:
        allowed = _without_opened_rows(allowed, position, shared)
    padded = padded and not shared and total > 1
    for offset in dict.fromkeys((first, behind)):
        found = _simple(allowed, offset, stride, padded) if offset >= 0 else None
        if found is not None:
            return found
    if padded:
        own = allowed[:, :, :end]  # without learned keys, and without the rest of a cache
        present = np.asarray(own.any(axis=1))
        empty, of_keys = ~own.any(axis=2), np.zeros(len(allowed), dtype=bool)
        for _, _, base in _bases(own, position[:, None], np.arange(end)[None, :]):
            of_keys |= (empty | (own == (base & present[:, None])).all(axis=2)).all(axis=1)
        allowed = np.asarray(allowed & (present[:, np.minimum(position, end - 1)] | ~of_keys[:, None])[:, :, None])
    return Visibility(q_offset=first, mask=allowed)


def _behind(allowed: np.ndarray, first: int, stride: int, total: int) -> int:
    """Where the first of these rows stands, of fewer queries than keys: at the last key that it sees, where the next row sees that
    many more and none sees beyond its own; else all queries end where what is seen does, or, where samples end apart, with the keys;
    and where only the first keys can be theirs, they are: keys were put behind them."""
    seen, present = (np.asarray(allowed.any(axis=axis)) for axis in (0, 1))
    key, number = np.arange(seen.shape[1]), np.arange(len(seen))
    ends = np.where(seen.any(axis=1), len(key) - seen[:, ::-1].argmax(axis=1), 0)
    for row in np.flatnonzero(np.diff(ends) == stride)[::-1][:1]:
        begin = int(ends[row]) - 1 - int(row) * stride
        beyond = seen & (key > begin + number[:, None] * stride)
        if begin >= 0 and not beyond[~seen.all(axis=1)].any():
            return begin
    filled = int(ends.max(initial=0))
    of_samples = (len(key) - present[:, ::-1].argmax(axis=1))[present.any(axis=1)]
    if total > 1 and (filled < total or (of_samples != filled).any()):
        filled = len(key)

    def stand(before: int) -> bool:
        """Whether queries see their own keys behind so many others, and texts have no gap there."""
        own, at = np.pad(present[:, before:before + total], ((0, 0), (1, 0))), before + first + number * stride
        return bool((own[:, 1:] > own[:, :-1]).sum(axis=1).max() < 2 and not (present[:, at] & ~allowed[:, number, at]).any())

    return first if not stand(len(key) - total) and stand(0) else max(filled - total, 0) + first


def _without_opened_rows(allowed: np.ndarray, position: np.ndarray, shared: bool) -> np.ndarray:
    """Rows of padding that see all keys: emptied."""
    full = np.asarray(allowed.all(axis=2))
    if full.all() or not full.any():
        return allowed
    opened = _opened_before(allowed, full, position)
    if not shared:
        opened |= _opened_beside_texts(allowed, full, position)
    return np.asarray(allowed & ~opened[:, :, None])


def _opened_before(allowed: np.ndarray, full: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Left padding of a causal map: the first rows of a sample whose other rows see neither the keys at those positions nor any
    that are later than themselves."""
    keys = np.arange(allowed.shape[2])
    opened = np.cumprod(full, axis=1).astype(bool)  # [B, Tq]
    begin = opened.sum(axis=1)
    edge = np.where(begin > 0, position[begin - 1] + 1, 0)
    hidden = (keys < edge[:, None])[:, None, :] | (keys > position[:, None])
    padded = (begin < len(position)) & ~(allowed & hidden & ~opened[:, :, None]).any(axis=(1, 2))
    return np.asarray(opened & padded[:, None])


def _opened_beside_texts(allowed: np.ndarray, full: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Rows whose key no row sees that does not see all, where the other rows are those of texts: they see all keys of their own, or
    those up to their own. Such rows are padding where the first row is one, and behind several texts; behind one they may be a target,
    which all samples have. The last row of a causal text sees all as it is."""
    keys = allowed.shape[2]
    some = allowed & ~full[:, :, None]
    present, real, none = some.any(axis=1), some.any(axis=2), np.full((len(allowed), 1), -1)
    lowest = np.where(real, some.argmax(axis=2), -1)
    highest = np.where(real, keys - 1 - some[:, :, ::-1].argmax(axis=2), -1)
    begun, ended = (np.concatenate([none, np.maximum.accumulate(one, axis=1)[:, :-1]], axis=1) for one in (lowest, highest))
    causal = (highest <= position).all(axis=1, keepdims=True)
    count = np.concatenate([none + 1, present.cumsum(axis=1)], axis=1)
    within = some.sum(axis=2) == np.take_along_axis(count, highest + 1, 1) - np.take_along_axis(count, np.maximum(lowest, 0), 1)
    of_text = (lowest > ended) | ((lowest == begun) & ((highest == ended) | causal))
    opened, has_text = full & ~present[:, np.minimum(position, keys - 1)], real.any(axis=1, keepdims=True)
    fits = np.where(real, within & of_text & (lowest <= position) & (position <= highest), opened | ~full) | ~has_text
    fits = fits.all(axis=1, keepdims=True)
    several = (real & (begun >= 0) & (lowest > begun)).any(axis=1, keepdims=True)
    opened &= fits & has_text & (~causal | several | (opened & (position < keys - 1)).any(axis=1, keepdims=True))
    differ = fits.all() and (opened != opened[:1]).any()
    return np.asarray(opened & (several | full[:, :1] | differ))


def _simple(allowed: np.ndarray, offset: int, stride: int, padded_queries: bool) -> Optional[Visibility]:
    """The map by causal, window and lengths alone, with query 0 at `offset`; None when that cannot say it."""
    batch, queries, keys = allowed.shape
    position, key = np.arange(queries)[:, None] * stride + offset, np.arange(keys)[None, :]
    for causal, window, base in _bases(allowed, position, key):
        if (allowed == base).all():
            return Visibility(causal, window, offset)
        lengths = (keys - np.asarray(allowed.any(axis=1))[:, ::-1].argmax(axis=1)).astype(np.int32)
        lengths[~allowed.any(axis=(1, 2))] = 0
        lengths[(allowed == base).all(axis=(1, 2))] = keys  # of a sample of rows, the last may see less
        q_len = np.clip(-((offset - lengths) // stride), 0, queries).astype(np.int32) if padded_queries else None
        rows = np.ones((batch, queries), dtype=bool) if q_len is None else np.arange(queries) < q_len[:, None]
        expected = base & (key < lengths[:, None, None])
        if (allowed == expected)[rows].all():
            return Visibility(causal, window, offset, q_len, lengths)
    return None


def _bases(allowed: np.ndarray, position: np.ndarray, key: np.ndarray) -> Tuple[Tuple[bool, int, np.ndarray], ...]:
    """The maps that could be below the padding: (causal, window, map [Tq, Tk]), everything, the triangle, a band."""
    everything = np.ones((position.shape[0], key.shape[1]), dtype=bool)
    triangle = key <= position
    window = int(allowed.sum(axis=2).max(initial=0))
    if window == 0 or window >= key.shape[1]:
        return (False, 0, everything), (True, 0, triangle)
    return (False, 0, everything), (True, 0, triangle), (True, window, triangle & (key > position - window))
