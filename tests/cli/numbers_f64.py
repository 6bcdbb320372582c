# SPDX-License-Identifier: MIT
"""The numbers of one layer in float64 numpy, straight from the formulas of workers/KERNELS.md, for the tests of
attnctl analyze. Not the whole list, which tests/kernels has: enough to see that files, names, masks and options
reach the engine as they should."""
import numpy as np


def valid_keys(shape, causal=False, window=0, q_len=None, k_len=None, mask=None, documents=None, q_offset=0):
    """[B, Tq, Tk]: whether key j takes part in row i; rows of queries that are padding are empty."""
    batch, _, queries, keys = shape
    i = np.arange(queries)[:, None] + q_offset
    j = np.arange(keys)[None, :]
    valid = np.ones((batch, queries, keys), bool)
    if causal:
        valid &= j <= i
    if window:
        valid &= j > i - window
    if k_len is not None:
        valid &= j < np.asarray(k_len)[:, None, None]
    if q_len is not None:
        valid &= (i - q_offset) < np.asarray(q_len)[:, None, None]
    if mask is not None:
        valid &= np.asarray(mask, bool)
    if documents is not None:
        valid &= documents[:, :, None] == documents[:, None, :]
    return valid


def softmax(logits, valid):
    logits = np.where(valid, logits, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
    return np.where(valid, np.nan_to_num(weights), 0)


def row_means(a, valid, positions=None):
    """{name: [H]} of row metrics of self-attention at offset 0. Rows without a valid key do not count. Neighbours
    are looked for among the first `positions` of each sample: those that are both a query and a key."""
    batch, heads, queries, keys = a.shape
    positions = [keys] * batch if positions is None else positions
    names = ("entropy", "entropy_normalized", "effective_keys", "confidence", "mean_distance", "previous_token",
             "first_token", "diagonal", "tail_mass", "local_mass", "entropy_sans_first")
    rows = {name: [[] for _ in range(heads)] for name in names}
    for b, h, i in np.ndindex(batch, heads, queries):
        v = valid[b, i]
        w = np.where(v, a[b, h, i], 0)
        n = v.sum()
        if n == 0:
            continue
        put = {name: rows[name][h].append for name in names}
        p = w[w > 0]
        entropy = -(p * np.log(p)).sum()
        put["entropy"](entropy)
        put["effective_keys"](np.exp(entropy))
        if n >= 2:
            put["entropy_normalized"](entropy / np.log(n))
        put["confidence"](w.max())
        distance = np.abs(i - np.arange(keys))
        put["mean_distance"]((w * distance).sum())
        put["local_mass"](w[distance <= 8].sum())
        put["tail_mass"](1 - np.sort(w)[-8:].sum())
        if i < positions[b]:
            put["diagonal"](w[i])
        if i >= 1:
            put["first_token"](w[0])
        if 1 <= i <= positions[b]:
            put["previous_token"](w[i - 1])
        rest = np.where(np.arange(keys) > 0, w, 0)
        if n >= 3 and rest.sum() > 0:
            p = rest[rest > 0] / rest.sum()
            put["entropy_sans_first"](-(p * np.log(p)).sum() / np.log(n - v[0]))
    return {name: [np.mean(r) if r else None for r in lists] for name, lists in rows.items()}


def moments(a, valid):
    """{name: [H]} over the valid entries."""
    out = {"mean": [], "min": [], "max": [], "std": [], "variance": []}
    for h in range(a.shape[1]):
        x = a[:, h][valid]
        for name, value in zip(out, (x.mean(), x.min(), x.max(), x.std(ddof=1), x.var(ddof=1))):
            out[name].append(value)
    return out


def importance(a):
    p = np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    entropy = -(p * np.log(p + 1e-8)).sum((2, 3)).mean(0)
    variance = a.reshape(a.shape[0], a.shape[1], -1).var(-1, ddof=1).mean(0)
    score = (variance + entropy) / 2
    score = np.exp(score - score.max())
    return score / score.sum()


def aggregate(a, weights=None):
    maps = {"sum": a.sum(1), "mean": a.mean(1), "max": a.max(1)}
    if weights is not None:
        maps["weighted"] = np.einsum("h,bhij->bij", np.asarray(weights), a)
    maps["importance"] = np.einsum("h,bhij->bij", importance(a), a)
    return {name: {"mean": m.mean(), "max": m.max(), "min": m.min(), "std": m.std(ddof=1)} for name, m in maps.items()}


def top_pairs(a, count):
    """[(query, key, weight)] of the map averaged over heads and samples."""
    mean = a.mean((0, 1))
    order = sorted(np.ndindex(mean.shape), key=lambda at: (-mean[at], at))[:count]
    return [(i, j, mean[i, j]) for i, j in order]


def js(p, q):
    def entropy(x):
        x = x[x > 0]
        return -(x * np.log(x)).sum()
    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def head_js(a, valid):
    heads = a.shape[1]
    out = np.zeros((heads, heads))
    rows = [(b, i) for b, i in np.ndindex(a.shape[0], a.shape[2]) if valid[b, i].any()]
    for g, h in np.ndindex(heads, heads):
        out[g, h] = np.mean([js(np.where(valid[b, i], a[b, g, i], 0), np.where(valid[b, i], a[b, h, i], 0))
                             for b, i in rows])
    return out


def head_similarity(a, valid):
    flat = np.where(valid[:, None], a, 0).transpose(1, 0, 2, 3).reshape(a.shape[1], -1)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    return flat @ flat.T


def spectrum(a, eps):
    """Of one sample's maps [H, Tq, Tk]: {name: [H]}."""
    out = {"spectral_norm": [], "effective_rank": [], "stable_rank": [], "nuclear_norm": [], "rank": [],
           "effective_rank_entropy": [], "singular_values": []}
    for m in a:
        s = np.linalg.svd(m, compute_uv=False)
        p = s[s > 0] / s.sum()
        out["spectral_norm"].append(s[0])
        out["effective_rank"].append((s > 0.01 * s[0]).sum())
        out["stable_rank"].append((s**2).sum() / s[0] ** 2)
        out["nuclear_norm"].append(s.sum())
        out["rank"].append((s > s[0] * max(m.shape) * eps).sum())
        out["effective_rank_entropy"].append(np.exp(-(p * np.log(p)).sum()))
        out["singular_values"].append(list(s[:16]))
    return out
