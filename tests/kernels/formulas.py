# SPDX-License-Identifier: MIT
"""Every number of the attention tier a second time: float64 numpy, whole arrays at once, written from the
formulas of workers/KERNELS.md and not from the C code.

`case` is a message (cases.py); `a` its weights [B, H, Tq, Tk] as the kernels see them, after rounding to
the dtype that was sent. p = q_offset + i * q_stride is where query i stands."""

import numpy as np

NARROW = ("f16", "bf16")
MOMENTS = ["mean", "min", "max", "std", "variance"]
# row metrics, in the order of proto/metric.def
ROW_METRICS = ["entropy", "entropy_normalized", "effective_keys", "confidence", "diagonal", "local_mass",
               "mean_distance", "mean_distance_normalized", "previous_token", "next_token", "first_token",
               "entropy_sans_first", "tail_mass", "induction", "duplicate_token", "sink_deficit", "max_logit"]
# by queries and keys only
QK_METRICS = ["max_abs_logit", "mean_logit", "std_logit", "qk_cosine", "qk_cosine_max", "q_norm", "k_norm",
              "output_norm", "norm_weighted_entropy", "write_norm", "residual_share"]


def lengths(case):
    """q_len, k_len, and how many positions a query may be a neighbour of, each [B]."""
    batch, _, queries, keys = case.weights.shape
    q_len = np.array(case.q_len if case.q_len else [queries] * batch)
    k_len = np.array(case.k_len if case.k_len else [keys] * batch)
    return q_len, k_len, np.minimum(k_len, case.q_offset + q_len * case.q_stride)


def places(case):
    """p as a column, j as a row."""
    queries, keys = case.weights.shape[2:]
    return case.q_offset + np.arange(queries)[:, None] * case.q_stride, np.arange(keys)[None, :]


def allowed(case):
    """[B, Tq, Tk]: what the tensors leave, before lengths, causal bound and window."""
    batch, _, queries, keys = case.weights.shape
    free = np.ones((batch, queries, keys), bool)
    if case.mask is not None:
        free &= case.mask == 1
    if case.documents is not None and case.is_self:
        p = places(case)[0][:, 0]
        own = case.documents[:, np.minimum(p, keys - 1)]
        free &= (own[:, :, None] == case.documents[:, None, :]) & (p < keys)[None, :, None]
    return free


def visible(case):
    """[B, Tq, Tk]: key j counts for query i; and [B, Tq]: query i counts."""
    q_len, k_len, _ = lengths(case)
    p, j = places(case)
    free = allowed(case)
    seen = free & (j < k_len[:, None, None])
    if case.causal:
        seen &= j <= p
    if case.window:
        seen &= j > p - case.window
    query = np.arange(free.shape[1])[None, :] < q_len[:, None]
    return seen, query & free.any(-1)


def shown(case, seen_query):
    """[B, Tq, Tk]: the entries that are no padding, of pairs and of maps to look at; `seen_query`: which queries
    count."""
    batch, _, queries, keys = case.weights.shape
    q_len = case.q_len if case.q_len is not None else [queries] * batch
    k_len = case.k_len if case.k_len is not None else [keys] * batch
    place = case.q_offset + np.arange(queries) * getattr(case, "q_stride", 1)
    result = np.zeros((batch, queries, keys), bool)
    for b in range(batch):
        end = q_len[b]
        while case.is_self and end > 0 and k_len[b] <= place[end - 1] < keys:
            end -= 1
        valid = np.flatnonzero(seen_query[b, :end])
        if not valid.size:
            continue
        some = np.arange(keys) < k_len[b]
        if case.mask is not None:
            some &= (case.mask[b, valid[0]:valid[-1] + 1] == 1).any(0)
        if some.any():
            some[np.flatnonzero(some)[0]:np.flatnonzero(some)[-1] + 1] = True
        result[b, valid] = some
    return result


class TossUp(Exception):
    """A row so near the tolerance that rounding decides about it."""


def judge(case, a, seen, query, margin=1e-9):
    """[B, H, Tq] soundness, the valid queries, and the largest finite |sum - 1|."""
    seen4, query3 = seen[:, None], np.broadcast_to(query[:, None], a.shape[:3])
    counted = np.where(seen4, a, 0.0)
    bad = ~np.isfinite(counted) | (counted < (-1e-3 if case.dtype in NARROW else -1e-6))
    with np.errstate(invalid="ignore", over="ignore"):
        error = counted.sum(-1) - 1
    tolerance = 2e-2 if case.dtype in NARROW else 1e-3
    some = np.broadcast_to(seen4.any(-1), a.shape[:3])
    sound = query3 & some & ~bad.any(-1)
    with np.errstate(invalid="ignore"):
        if not case.dropout:
            sound &= (error <= tolerance) if case.learned_sink else (np.abs(error) <= tolerance)
    near = query3 & some & np.isfinite(error)
    if not case.dropout and (np.abs(np.abs(error[near]) - tolerance) < margin).any():
        raise TossUp
    return sound, query3, (np.abs(error[near]).max() if near.any() else np.nan)


def plogp(x):
    return np.where(x > 0, x * np.log(np.where(x > 0, x, 1)), 0)


def along(w, p, offset, positions):
    """A[i, p + offset] and where p + offset is a position of the sample."""
    keys = w.shape[-1]
    j = p[:, 0] + offset
    picked = w[:, :, np.arange(w.shape[2]), np.clip(j, 0, keys - 1)]
    return picked, ((j >= 0) & (j < positions[:, None]))[:, None]


def earlier_occurrences(case):
    """[B, Tq, Tk]: j < p, and the tokens at j and p are the same."""
    _, k_len, _ = lengths(case)
    p, j = places(case)
    own = case.tokens[:, np.minimum(p[:, 0], case.tokens.shape[1] - 1)]
    same = own[:, :, None] == case.tokens[:, None, :]
    return same & (j < p) & (p < k_len[:, None, None])


def token_values(case, w):
    if case.tokens is None or not case.is_self:
        return {name: (np.zeros(w.shape[:3]), False) for name in ("induction", "duplicate_token")}
    at = earlier_occurrences(case)[:, None]
    some = at.any(-1)
    with np.errstate(invalid="ignore"):
        after, on = (w[..., 1:] * at[..., :-1]).sum(-1), (w * at).sum(-1)
    return {"induction": (after, some), "duplicate_token": (on, some)}


def sans_first(w, seen):
    """Entropy of the row without key 0, renormalised, over the log of the number of its keys."""
    n = seen.sum(-1)[:, None]
    rest = np.where(np.arange(w.shape[-1]) > 0, w, 0)
    total = rest.sum(-1)
    left = n - seen[:, None, :, 0]
    with np.errstate(all="ignore"):
        value = -plogp(rest / total[..., None]).sum(-1) / np.log(left)
    return value, (n >= 3) & (total > 0)


def row_values(case, a, seen, local_window):
    """name -> ([B, H, Tq] values, where they exist)."""
    w = np.where(seen[:, None], a, 0.0)
    n = seen.sum(-1)[:, None]
    p, j = places(case)
    distance = np.abs(p - j)
    positions = lengths(case)[2]
    with np.errstate(all="ignore"):
        entropy = -plogp(w).sum(-1)
        mean_distance = (w * distance).sum(-1)
        farthest = np.where(seen, distance, 0).max(-1)[:, None]
        values = {
            "entropy": (entropy, True),
            "entropy_normalized": (entropy / np.log(n), n >= 2),
            "effective_keys": (np.exp(entropy), True),
            "confidence": (np.where(seen[:, None], a, -np.inf).max(-1), True),
            "local_mass": (np.where(distance <= local_window, w, 0).sum(-1), True),
            "mean_distance": (mean_distance, True),
            "mean_distance_normalized": (mean_distance / farthest, farthest > 0),
            "first_token": (w[..., 0], (p[:, 0] >= 1)),
            "entropy_sans_first": sans_first(w, seen),
            "tail_mass": (1 - largest(np.where(seen[:, None], a, -np.inf), 8), True),
            "sink_deficit": (1 - w.sum(-1), case.learned_sink),
            "max_logit": (entropy, False),
        }
    for name, offset in (("previous_token", -1), ("diagonal", 0), ("next_token", 1)):
        value, exists = along(w, p, offset, positions)
        values[name] = value, exists & case.is_self
    values.update(token_values(case, w))
    return {name: values[name] for name in ROW_METRICS}


def largest(x, count):
    """The sum of the largest `count` along the last axis; -inf is nothing."""
    top = -np.sort(-x, -1)[..., :count]
    return np.where(top == -np.inf, 0, top).sum(-1)


def head_moments(a, seen, sound, h):
    """MOMENTS of one head, and the largest |A| among them."""
    x = a[:, h][seen & sound[:, h][..., None]]
    if x.size == 0:
        return [np.nan] * 5, 1
    several = x.size > 1
    return [x.mean(), x.min(), x.max(), x.std(ddof=1) if several else np.nan,
            x.var(ddof=1) if several else np.nan], np.abs(x).max()


def locality(case, a, seen, sound):
    """Per head: the weights next to the diagonal of sound rows, over their number."""
    w = np.where(seen[:, None], a, 0.0)
    p, j = places(case)
    positions = lengths(case)[2]
    neighbour = (np.abs(p - j) == 1) & (j < positions[:, None, None])
    chosen = neighbour[:, None] & sound[..., None]
    result = np.full(a.shape[1], np.nan)
    for h in range(a.shape[1]):
        if case.is_self and chosen[:, h].any():
            result[h] = w[:, h][chosen[:, h]].mean()
    return result


def length(x):
    """l2 norm along the last axis; no square overflows."""
    with np.errstate(all="ignore"):
        unit = np.abs(x).max(-1, keepdims=True)
        unit = np.where((unit > 0) & np.isfinite(unit), unit, 1)
        return unit[..., 0] * np.linalg.norm(x / unit, axis=-1)


def outputs(a, v, wo_r, x_norm, seen, sound):
    """name -> [B, H, Tq] of |A V|, the entropy of |A v_j|, |R_h A V| and its share of |x|; where they exist; and the sizes
    that their errors are measured by. The last two need `wo_r` and `x_norm`, which may be None."""
    heads = a.shape[1]
    v = np.repeat(v, heads // v.shape[1], axis=1)
    w = np.where(seen[:, None] & sound[..., None], np.where(np.isfinite(a), a, 0), 0)
    with np.errstate(all="ignore"):
        there = sound & ~(seen[:, None] & ~np.isfinite(v).all(-1)[:, :, None, :]).any(-1)
        v = np.where(np.isfinite(v), v, 0)
        output = np.einsum("bhij,bhjd->bhid", w, v)
        share = np.maximum(w, 0) * length(v)[:, :, None, :]
        total = share.sum(-1)
        entropy = -plogp(share / total[..., None]).sum(-1)
        size = (np.abs(w) * length(v)[:, :, None, :]).sum(-1)
        norm = length(output)
        there &= np.isfinite(norm)
        found = {"output_norm": (norm, there, size),
                 "norm_weighted_entropy": (entropy, there & (total > 0) & np.isfinite(total), np.ones_like(size))}
        if wo_r is not None:
            there = there & np.isfinite(wo_r).all((1, 2))[:, None]
            r = np.where(np.isfinite(wo_r), wo_r, 0)
            written = length(np.einsum("hrd,bhid->bhir", r, output))
            reach = size * length(r.reshape(heads, -1))[:, None]
            there = there & np.isfinite(written)
            found["write_norm"] = written, there, reach
            if x_norm is not None:
                x = np.where((x_norm > 0) & np.isfinite(x_norm), x_norm, np.nan)[:, None]
                found["residual_share"] = written / x, there & np.isfinite(written / x), reach / x
    return found


def scores(a):
    """(V + E) / 2 per head, before the softmax over heads."""
    batch, heads, _, _ = a.shape
    result = np.full(heads, np.nan)
    for h in range(heads):
        v, e = [], []
        for b in range(batch):
            rows = a[b, h][np.isfinite(a[b, h]).all(-1)]
            if rows.size < 2:
                continue
            p = np.exp(rows - rows.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            e.append(-(p * np.log(p + 1e-8)).sum())
            v.append(rows.var(ddof=1))
        if v:
            result[h] = (np.mean(v) + np.mean(e)) / 2
    return result


def softmax(x):
    good = np.isfinite(x)
    result = np.full(x.shape, np.nan)
    if good.any():
        e = np.exp(x[good] - x[good].max())
        result[good] = e / e.sum()
    return result


def maps(a):
    """sum, mean, max over heads, [B, Tq, Tk]; heads added in order, so that ties are the same ties."""
    with np.errstate(all="ignore"):
        total = np.zeros((a.shape[0],) + a.shape[2:])
        for h in range(a.shape[1]):
            total = total + a[:, h]
        return total, total / a.shape[1], a.max(1)


def statistics(x):
    x = x[np.isfinite(x)]
    if x.size == 0:
        return [np.nan] * 4
    return [x.mean(), x.max(), x.min(), x.std(ddof=1) if x.size > 1 else np.nan]


def average_of_samples(mean_map):
    """[Tq, Tk]: over the samples where an entry is finite; NaN where it is nowhere."""
    finite = np.isfinite(mean_map)
    total = np.zeros(mean_map.shape[1:])
    for b in range(mean_map.shape[0]):
        total = total + np.where(finite[b], mean_map[b], 0)
    with np.errstate(invalid="ignore"):
        return total / finite.sum(0)


def pooled(mean_map, most=128):
    """The finite entries of [B, Tq, Tk] averaged in cells, and the largest magnitude in each; NaN without any."""
    def edges(size):
        return [r * size // min(size, most) for r in range(min(size, most))]

    def in_cells(x, how):
        return how.reduceat(how.reduceat(x, edges(x.shape[0]), 0), edges(x.shape[1]), 1)

    finite = np.isfinite(mean_map)
    entries = np.where(finite, mean_map, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        means = in_cells(entries.sum(0), np.add) / in_cells(finite.sum(0), np.add)
    return means, in_cells(np.abs(entries).max(0), np.maximum)


def top_pairs(average, k):
    pairs = [(-average[i, j], int(i), int(j)) for i, j in zip(*np.nonzero(np.isfinite(average)))]
    return [(i, j, -w) for w, i, j in sorted(pairs)[:k]]


def pattern(value):
    """The name of what a head does, by its numbers; NaN decides nothing."""
    if np.isnan(value["entropy"]):
        return "none"
    if value["entropy_normalized"] >= 0.95:
        return "uniform"
    kinds = ["previous_token", "next_token", "diagonal", "first_token", "induction", "duplicate_token"]
    strong = [(-value[k], place, k) for place, k in enumerate(kinds) if value[k] >= 0.5]
    if strong:
        return min(strong)[2]
    if value["local_mass"] >= 0.75 and value["mean_distance_normalized"] <= 0.25:
        return "local"
    return "long_range" if value["mean_distance_normalized"] >= 0.6 else "mixed"


def sink_rate(first_token):
    known = first_token[~np.isnan(first_token)]
    return (known > 0.3).mean() if known.size else np.nan
