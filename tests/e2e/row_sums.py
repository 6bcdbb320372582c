# SPDX-License-Identifier: MIT
"""row_sums: the sums of rows (PROTOCOL.md, type rows) in numpy, made of logits that a test has chosen, or of the entropies that
its rows shall have."""
import numpy as np

from attnd.sending.rows import Rows

POWERS = ("square", "power_3", "power_4", "power_5", "power_6", "power_7")


def rows_of(logits, causal=False, queries=None, valid=True, local_window=8, maps=None):
    """Rows of logits [B, H, R, Tk]; -inf: a key that is not visible, key 0 in all heads or in none. Row i stands at position i.
    `queries`: of the attention, if these are a sample; then what needs all rows is left out."""
    logits = np.asarray(logits, dtype=np.float64)
    count, keys = logits.shape[2:]
    p, j = np.arange(count)[:, None], np.arange(keys)
    if causal:
        logits = np.where(j <= p, logits, -np.inf)
    there = np.isfinite(logits)
    others = np.where(j == 0, -np.inf, logits)
    gap = np.broadcast_to(abs(p - j), logits.shape)
    with np.errstate(invalid="ignore"):
        largest = others.max(-1)
        s = np.where(there & (j > 0), others - largest[..., None], -np.inf)
    e = np.exp(s)
    best = -np.sort(-e, -1)[..., :8]
    finite = there.sum(-1)
    shift = np.where(finite > 0, np.where(there, logits, 0).sum(-1) / np.maximum(finite, 1), 0)
    off = np.where(there, logits - shift[..., None], 0)
    found = {
        "largest": largest, "total": e.sum(-1), "weighted": np.where(e > 0, e * np.maximum(s, -1e3), 0).sum(-1),
        "distance": (e * gap).sum(-1), "first": logits[..., 0], "seen": finite, "farthest": np.where(there, gap, 0).max(-1),
        "finite": finite, "shift": shift, "logits": off.sum(-1), "logit_squares": (off**2).sum(-1),
        "smallest": np.where(there, logits, np.inf).min(-1), "top": best.sum(-1),
        "eighth": best[..., 7] if best.shape[-1] == 8 else np.zeros(largest.shape), "local": (e * (gap <= local_window)).sum(-1)}
    for name, step in (("previous", -1), ("own", 0), ("next", 1)):
        at = np.clip(p + step, 0, keys - 1)
        there_is = (p + step > 0) & (p + step < keys)  # nor does key 0 count, which stands apart
        found[name] = np.where(there_is, np.take_along_axis(others, np.broadcast_to(at, (*others.shape[:3], 1)), -1), -np.inf)[..., 0]
    for n, name in enumerate(POWERS if queries is None else POWERS[:1]):
        found[name] = (e**(n + 2)).sum(-1)
    return Rows(tuple(found), np.stack([np.broadcast_to(one, largest.shape) for one in found.values()]).astype(np.float32),
                places_of(count, keys, there[:, 0, :, 0], valid), queries or count, keys, causal, local_window=local_window, maps=maps)


def of_weights(weights, **said):
    """Rows of the softmax that gives these weights."""
    with np.errstate(divide="ignore"):
        return rows_of(np.log(weights), **said)


def of_explicit(weights, local_window=8):
    """Rows of explicit weights [B, H, T, T], causal."""
    count = weights.shape[2]
    p, j = np.arange(count)[:, None], np.arange(count)
    odd = ~np.isfinite(weights).all(-1)
    with np.errstate(divide="ignore"):
        made = rows_of(np.log(np.where((j <= p) & ~odd[..., None], weights, 0)), local_window=local_window)
    there = {name: n for n, name in enumerate(made.names) if name not in (
        "seen", "farthest", "finite", "shift", "logits", "logit_squares", "smallest", *POWERS[1:])}
    sums = made.sums[list(there.values())]
    sums[0][odd] = np.nan
    places = places_of(count, count, True)
    places[4], places[5] = np.arange(1, count + 1), np.arange(count)  # seen, farthest
    return Rows(tuple(there), sums, places, count, count, True, weights="f32", local_window=local_window)


def of_entropies(entropy, keys, max_logit=0.0, queries=None, invalid=None, causal=False, more=None, **said):
    """Rows [B, H, R] with these entropies, of as many equal weights as that takes, which may be no whole number. `invalid`: which
    have a logit that is no number; `more`: other sums, by name."""
    entropy = np.asarray(entropy, dtype=np.float64)
    count = entropy.shape[2]
    largest = np.where(np.zeros(entropy.shape, bool) if invalid is None else invalid, np.nan, max_logit)
    found = {"largest": largest, "total": np.exp(entropy), "weighted": 0.0, "distance": 0.0, "first": -np.inf, **(more or {})}
    return Rows(tuple(found), np.stack([np.broadcast_to(one, entropy.shape) for one in found.values()]).astype(np.float32),
                places_of(count, keys, False), queries or count, keys, causal, **said)


def places_of(count, keys, with_first, valid=True):
    """Of the first rows of a text. `with_first`: whether key 0 is visible, in all heads alike; `valid`: which are no padding."""
    p = np.arange(count)
    columns = (p, keys, 0, with_first, keys, np.maximum(p, keys - 1 - p), valid, 0)
    batch = max(len(one) if np.ndim(one) == 2 else 1 for one in columns)
    return np.stack([np.broadcast_to(one, (batch, count)).astype(np.int32) for one in columns])
