# SPDX-License-Identifier: MIT
"""Every number of the attention tier a second time, in float64 from the formulas of workers/KERNELS.md and not from the C code:
those of rows and of heads as clients/python/examples/reference_*.py have them, here of cases and in numpy; and what only
tests of kernels ask for.

`case` is a message (cases.py); `a` its weights [B, H, Tq, Tk] as the kernels see them, after rounding to
the dtype that was sent. p = q_offset + i * q_stride is where query i stands."""

import pathlib
import sys

import numpy as np
import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python" / "examples"))
import reference_heads as heads  # noqa: E402
import reference_rows as rows  # noqa: E402
import reference_spectrum as spectra  # noqa: E402,F401

MOMENTS = ["mean", "min", "max", "std", "variance"]
# row metrics, in the order of proto/metric.def
ROW_METRICS = [*rows.ROW_METRICS, "max_logit"]
# those that are as exact as logarithms are
NATS = ("entropy", "entropy_normalized", "effective_keys", "entropy_sans_first")
# by queries and keys only
QK_METRICS = ["max_abs_logit", "mean_logit", "std_logit", "qk_cosine", "qk_cosine_max", "q_norm", "k_norm",
              "output_norm", "norm_weighted_entropy", "write_norm", "residual_share"]


def attention(case, a):
    """The message as the reference takes it."""
    mask, documents, tokens = (None if x is None else torch.from_numpy(x) for x in (case.mask, case.documents, case.tokens))
    return rows.Attention(torch.from_numpy(np.ascontiguousarray(a, dtype=np.float64)), case.dtype, "self" if case.is_self else "cross",
                          bool(case.causal), case.window, case.q_offset, case.q_len, case.k_len, mask, documents, tokens,
                          dropout=case.dropout, learned_sink=case.learned_sink, q_stride=case.q_stride,
                          first=getattr(case, "first", None))


def lengths(case):
    """q_len and k_len, each [B]."""
    return tuple(x.numpy() for x in rows.lengths(attention(case, case.weights)))


def places(case):
    """p as a column, j as a row."""
    return rows.places(attention(case, case.weights)).numpy()[:, None], np.arange(case.weights.shape[3])[None, :]


def visible(case):
    """[B, Tq, Tk]: key j counts for query i; and [B, Tq]: query i counts."""
    queries, seen = rows.visible(attention(case, case.weights))
    return seen[:, 0].numpy(), queries[:, 0].numpy()


def shown(case):
    """[B, Tq, Tk]: the entries that are no padding, of pairs and of maps to look at."""
    return rows.shown(attention(case, case.weights))[:, 0].numpy()


class TossUp(Exception):
    """A row so near the tolerance that rounding decides about it."""


def judge(case, a, margin=1e-9):
    """[B, H, Tq] soundness, the valid queries, and the largest finite |sum - 1|."""
    judged = rows.judge(attention(case, a))
    queries = judged.queries.expand(judged.sound.shape).numpy()
    error = np.abs(judged.sums.numpy() - 1)
    near = error[queries & judged.seen.any(-1).numpy() & np.isfinite(error)]
    if not case.dropout and (np.abs(near - rows.SUM_TOLERANCE[case.dtype]) < margin).any():
        raise TossUp
    return judged.sound.numpy(), queries, near.max() if near.size else np.nan


def plogp(x):
    return np.where(x > 0, x * np.log(np.where(x > 0, x, 1)), 0)


def row_values(case, a, local_window):
    """name -> ([B, H, Tq] values, where they exist)."""
    message = attention(case, a)
    found = {name: tuple(x.numpy() for x in column)
             for name, column in rows.row_columns(message, rows.judge(message), local_window).items()}
    return {**{name: found[name] for name in rows.ROW_METRICS}, "max_logit": (found["entropy"][0], False)}


def head_values(case, a, sound):
    """name -> [H]: MOMENTS and locality of the rows that are `sound`."""
    message = attention(case, a)
    judged = rows.judge(message)._replace(sound=torch.from_numpy(np.ascontiguousarray(sound)))
    beside = {name: rows.of_heads(judged, *column) for name, column in rows.neighbours(message, judged).items()}
    return {**heads.entry_metrics(message.weights, judged), "locality": heads.locality(beside)}


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


def importance(a):
    """[H], and the scores (V + E) / 2 before the softmax over heads."""
    scores = heads.importance_scores(torch.from_numpy(np.ascontiguousarray(a, dtype=np.float64)))
    return heads.importance(scores), scores


def maps(a):
    """sum, mean, max over heads, [B, Tq, Tk]; heads added in order, so that ties are the same ties."""
    with np.errstate(all="ignore"):
        total = np.zeros((a.shape[0],) + a.shape[2:])
        for h in range(a.shape[1]):
            total = total + a[:, h]
        return total, total / a.shape[1], a.max(1)


def statistics(x):
    """mean, max, min, std of the finite entries."""
    return list(heads.statistics(torch.from_numpy(x[np.isfinite(x)])).values())


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
    return [tuple(pair.values()) for pair in heads.top_pairs(torch.from_numpy(average), k)]


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
