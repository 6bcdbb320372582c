# SPDX-License-Identifier: MIT
"""tiers: attention and queries and keys under every mask, and how results compare with the float64 reference of the Python
example and with each other."""
import collections
import json
import math
import os
import sys

import numpy as np
import pytest
from harness import DTYPE_NAME, as_bf16, as_f64

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
sys.path[:0] = [os.path.join(ROOT, "clients", "python"), os.path.join(ROOT, "clients", "python", "examples")]
torch = pytest.importorskip("torch")
sys.path.append(os.path.join(ROOT, "tests", "kernels"))
import reference  # noqa: E402
import reference_compare  # noqa: E402
import reference_qk  # noqa: E402

HEADS, LENGTH = 3, 12
HEAD_WEIGHTS = [0.5, -1.0, 2.0]
ALL_ON = ("metrics.spectrum_budget=0", "metrics.similarity=true", "metrics.head_pairs=true",
          "metrics.head_weights=0.5,-1,2")
EVERYTHING = reference.Settings(similarity=True, head_pairs=True, head_weights=HEAD_WEIGHTS)
ROUND = {"f32": lambda x: x.astype(np.float32), "f64": lambda x: x.astype(np.float64),
         "f16": lambda x: x.astype(np.float16), "bf16": as_bf16}

Masks = collections.namedtuple("Masks", "causal window q_len k_len mask documents site offset",
                               defaults=(False, 0, None, None, None, None, "self", 0))


def explicit_mask():
    """Holes here and there, and two queries on the left that are padding."""
    mask = np.random.default_rng(3).integers(0, 2, (2, LENGTH, LENGTH), np.uint8)
    mask[:, np.arange(LENGTH), np.arange(LENGTH)] = 1
    mask[1, :2] = 0
    return mask


DOCUMENTS = np.repeat([[1, 1, 7], [4, 5, 5]], LENGTH // 3, axis=1).astype(np.int32)
MASKS = {
    "none": Masks(),
    "causal": Masks(causal=True),
    "lengths": Masks(q_len=[12, 7], k_len=[12, 7]),
    "causal-lengths": Masks(causal=True, q_len=[9, 12], k_len=[9, 12]),
    "window": Masks(causal=True, window=4),
    "mask": Masks(mask=explicit_mask()),
    "documents": Masks(causal=True, documents=DOCUMENTS),
    "documents-lengths-window": Masks(documents=DOCUMENTS, q_len=[12, 11], k_len=[12, 11], window=5),
    "cross": Masks(site="cross", q_len=[12, 5], k_len=[8, 12]),
}
QK_MASKS = {**MASKS, "offset": Masks(causal=True, offset=5), "cross-causal": Masks(site="cross", causal=True)}


def visible(m, queries=LENGTH, keys=LENGTH):
    """[2,Tq,Tk]: what a row may attend to."""
    p, j = m.offset + np.arange(queries)[:, None], np.arange(keys)[None, :]
    seen = np.ones((2, queries, keys), bool)
    if m.causal:
        seen &= j <= p
    if m.window:
        seen &= j > p - m.window
    if m.k_len:
        seen &= j < np.array(m.k_len)[:, None, None]
    if m.mask is not None:
        seen &= m.mask == 1
    if m.documents is not None:
        seen &= m.documents[:, p[:, 0], None] == m.documents[:, None, :]
    return seen


def random_logits(rng):
    """[2,H,T,T]: a head that is nearly uniform, one in between, and a sharp one."""
    return rng.normal(size=(2, HEADS, LENGTH, LENGTH)) * np.array([0.1, 1.5, 4])[:, None, None]


def softmax(logits, seen):
    """Weights [B,H,Tq,Tk] over the visible keys; rows that see none are NaN, as they arrive in practice."""
    logits = np.where(seen[:, None], logits, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)


def header_of(m):
    """The header's keys; the mask tensors are arguments of their own."""
    keys = dict(causal=m.causal, window=m.window, q_len=m.q_len, k_len=m.k_len, site=m.site)
    return {k: v for k, v in keys.items() if v}


def tensors_of(m):
    return dict(mask=m.mask, documents=m.documents)


def attention_of(sent, m, tokens=None, grad=None, **flags):
    """What the reference takes, from the arrays that were sent."""
    as_torch = {name: torch.from_numpy(array) for name, array in
                dict(mask=m.mask, documents=m.documents, tokens=tokens, grad=grad).items() if array is not None}
    return reference.Attention(torch.from_numpy(as_f64(sent)), DTYPE_NAME[str(sent.dtype)], **header_of(m), **as_torch,
                               **flags)


def news(reader):
    """The next (topic, result) that is no snapshot: those come some time after a subscription."""
    return next((topic, result) for topic, result in iter(reader.next, None) if not result["snapshot"])


def of_window(reader, trainer, **keys):
    """Ends the epoch and takes the summary of it."""
    trainer.event("epoch_end", **keys)
    topic, summary = news(reader)
    assert topic.startswith("summary/")
    return summary


def next_by_layer(reader, count):
    """Results of different layers, which are finished in any order."""
    return sorted((news(reader)[1] for _ in range(count)), key=lambda result: result["layer"])


def wrong(summary, measured):
    """The numbers that are not right, as text."""
    found = reference.compare(summary, reference.pool(measured))
    assert len(found) > 1000
    return [d.text for d in found if not d.ok]


Vectors = collections.namedtuple("Vectors", "q k v scale softcap")


def vectors(rng, dtype="f32", softcap=0.0, heads=4, kv_heads=2, queries=LENGTH):
    """Queries of 4 heads that share 2 key heads, of unequal lengths."""
    def make(*shape):
        return ROUND[dtype](rng.normal(size=shape) * rng.uniform(0.5, 2, shape[:-1] + (1,)))

    return Vectors(make(2, heads, queries, 8), make(2, kv_heads, LENGTH, 8), make(2, kv_heads, LENGTH, 5), 0.4, softcap)


def of_head(keys, heads):
    """Keys or values [B,Hkv,Tk,d] as each head reads them, f64."""
    keys = as_f64(keys)
    return np.repeat(keys, heads // keys.shape[1], axis=1)


def logits_of(x):
    """[B,H,Tq,Tk] scaled and capped."""
    q = as_f64(x.q)
    logits = x.scale * q @ of_head(x.k, q.shape[1]).swapaxes(-1, -2)
    return x.softcap * np.tanh(logits / x.softcap) if x.softcap else logits


def send_qk(trainer, x, m, **keys):
    extra = dict(softcap=x.softcap) if x.softcap else {}
    trainer.qk(x.q, x.k, x.v, scale=x.scale, q_offset=m.offset, **extra, **tensors_of(m), **header_of(m), **keys)


def vectors_of(x, m, tokens=None, **output):
    """What the reference takes, from the arrays that were sent."""
    as_torch = {name: torch.from_numpy(array) for name, array in
                dict(mask=m.mask, documents=m.documents, tokens=tokens).items() if array is not None}
    sent = {name: torch.from_numpy(as_f64(array)) for name, array in
            dict(q=x.q, k=x.k, v=x.v, **output).items()}
    return reference_qk.attention(sent, DTYPE_NAME[str(x.q.dtype)], x.scale, x.softcap, q_offset=m.offset,
                                  **header_of(m), **as_torch)


def numbers(column):
    """A column of a result as flat f64, null as NaN."""
    return np.ravel(np.array(column, dtype=np.float64))


def differences(got, want):
    """What two summaries say differently of metrics that both have, beyond the tolerances of the kernels."""
    found = []
    width = 2.1 * max(got["quantile_error"], want.get("quantile_error", 0))  # a value may fall into the next bucket
    got, want = got["heads"], want["heads"]
    for metric in sorted(set(got) & set(want) - {"pattern"}):
        largest = np.nanmax(np.abs(np.concatenate([numbers(want[metric][s]) for s in ("min", "max")])), initial=0)
        for stat in [name for name in want[metric] if name not in ("width", "small")]:
            tolerance = reference_compare.tolerance_of(metric, stat)
            relative = width if stat in reference_compare.QUANTILES else tolerance.relative
            absolute = tolerance.absolute + (0 if stat == "count" else 1e-5 * largest)
            for g, w in zip(numbers(got[metric][stat]), numbers(want[metric][stat])):
                if not (math.isnan(g) and math.isnan(w)) and not abs(g - w) <= relative * abs(w) + absolute:
                    found.append(f"{metric} {stat}: {g} {w}")
    return found + ([] if got["pattern"] == want["pattern"] else [f"{got['pattern']} {want['pattern']}"])


def assert_plain(result):
    """Every number is finite or null: it can be written as JSON."""
    json.dumps({k: v for k, v in result.items() if not isinstance(v, bytes)}, allow_nan=False)
