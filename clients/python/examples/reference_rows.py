# SPDX-License-Identifier: MIT
"""reference_rows: the keys that a row may attend to, whether it counts, and every number of a row.

Query i of sample b stands at position p = q_offset + i q_stride of the keys; the sample's own positions are those below
min(k_len[b], q_offset + q_len[b] q_stride). Key j is visible when j < k_len[b], and j <= p if causal, and j > p - window if
there is one, and mask[b,i,j] = 1 if there is one, and in self-attention documents[b,j] = documents[b,p] if there are
any. A query counts when i < q_len[b] and mask and documents together leave it some key.

A row is sound when it sees a key, its weights are finite and not negative beyond rounding, and they sum to 1 within the
tolerance of the dtype (after dropout the sum is not checked; with a learned sink it may be less). With a learned sink
every number of a row but sink_deficit is of its weights divided by their sum.
"""
from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

ROW_METRICS = ("entropy", "entropy_normalized", "effective_keys", "confidence", "diagonal", "local_mass",
               "mean_distance", "mean_distance_normalized", "previous_token", "next_token", "first_token",
               "entropy_sans_first", "tail_mass", "induction", "duplicate_token", "sink_deficit")
EPS = {"f32": 2.0**-23, "f64": 2.0**-52, "f16": 2.0**-23, "bf16": 2.0**-23}
SUM_TOLERANCE = {"f32": 1e-3, "f64": 1e-3, "f16": 2e-2, "bf16": 2e-2}
NEGATIVE_BOUND = {"f32": -1e-6, "f64": -1e-6, "f16": -1e-3, "bf16": -1e-3}
LOCAL_WINDOW = 8
HEAD_KEYS = 8  # the largest weights of a row, which are not its tail

Column = Tuple[torch.Tensor, torch.Tensor]  # values [B,H,Tq], and where there is one


class Attention(NamedTuple):
    """One message: weights f64 [B,H,Tq,Tk], the dtype they were sent in, and what the header said."""
    weights: torch.Tensor
    dtype: str = "f32"
    site: str = "self"
    causal: bool = False
    window: int = 0
    q_offset: int = 0
    q_len: Optional[Sequence[int]] = None
    k_len: Optional[Sequence[int]] = None
    mask: Optional[torch.Tensor] = None       # [B,Tq,Tk]
    documents: Optional[torch.Tensor] = None  # [B,Tk]
    tokens: Optional[torch.Tensor] = None     # [B,Tk]
    grad: Optional[torch.Tensor] = None       # f64 [B,H,Tq,Tk]
    dropout: bool = False
    learned_sink: bool = False
    q_stride: int = 1
    qk: Any = None                            # reference_qk.Vectors, when those were sent
    values: Any = None                        # reference_qk.Values, the same
    first: Optional[torch.Tensor] = None      # [B,Tq] first_keys, where a mask of other heads has a say in it


class Rows(NamedTuple):
    """The rows of a message, judged."""
    A: torch.Tensor        # [B,H,Tq,Tk], excluded keys 0
    seen: torch.Tensor     # [B,1,Tq,Tk]
    queries: torch.Tensor  # [B,1,Tq]
    sums: torch.Tensor     # [B,H,Tq]
    sound: torch.Tensor    # [B,H,Tq]


def lengths(a: Attention) -> Tuple[torch.Tensor, torch.Tensor]:
    """(q_len, k_len), [B] each."""
    B, _, Tq, Tk = a.weights.shape
    return (torch.as_tensor(list(a.q_len) if a.q_len is not None else [Tq] * B),
            torch.as_tensor(list(a.k_len) if a.k_len is not None else [Tk] * B))


def places(a: Attention) -> torch.Tensor:
    """p, [Tq]."""
    return a.q_offset + torch.arange(a.weights.shape[2]) * a.q_stride


def judge(a: Attention) -> Rows:
    """Which keys every row sees, and which rows count."""
    queries, seen = visible(a)
    A = torch.where(seen, a.weights, torch.zeros((), dtype=torch.float64))
    sums = A.sum(-1)
    sound = torch.isfinite(A).all(-1) & (A >= NEGATIVE_BOUND[a.dtype]).all(-1) & seen.any(-1) & queries
    if a.learned_sink:
        sound &= sums <= 1 + SUM_TOLERANCE[a.dtype]
    elif not a.dropout:
        sound &= (sums - 1).abs() <= SUM_TOLERANCE[a.dtype]
    return Rows(A, seen, queries, sums, sound)


def visible(a: Attention) -> Tuple[torch.Tensor, torch.Tensor]:
    """(queries that count [B,1,Tq], visible keys [B,1,Tq,Tk])."""
    B, _, Tq, Tk = a.weights.shape
    p, j = places(a)[:, None], torch.arange(Tk)[None, :]
    q_len, k_len = lengths(a)
    free, seen = _left(a)
    if a.window:
        seen = seen & (j > p - a.window)
    query = (torch.arange(Tq)[None, :] < q_len[:, None]) & free.any(-1)
    return query[:, None], seen[:, None]


def _left(a: Attention) -> Tuple[torch.Tensor, torch.Tensor]:
    """[B,Tq,Tk] each: the keys that mask and documents leave, and those that length and causal bound leave of them."""
    B, _, Tq, Tk = a.weights.shape
    p, j = places(a)[:, None], torch.arange(Tk)[None, :]
    free = torch.ones(B, Tq, Tk, dtype=torch.bool)
    if a.mask is not None:
        free = free & (a.mask == 1)
    if a.documents is not None and a.site == "self":
        own = a.documents[:, p[:, 0].clamp(max=Tk - 1)]
        free = free & (own[:, :, None] == a.documents[:, None, :]) & (p < Tk)
    seen = free & (j < lengths(a)[1][:, None, None])
    return free, seen & (j <= p) if a.causal else seen


def first_keys(a: Attention) -> torch.Tensor:
    """The first key of each row's document, [B,Tq]; 0 of a row that sees nothing, and in cross-attention.

    That of a numbered document is the first that a row of it sees. Else documents are the blocks that a mask leaves: a block
    begins at a key that a row begins with, when no row sees keys on both sides of it; but not where only rows begin that reach
    back as far as the farthest of the message, as those of a band do."""
    B, _, Tq, Tk = a.weights.shape
    found = torch.zeros(B, Tq, dtype=torch.long)
    if a.first is not None:
        return a.first
    if a.site != "self" or (a.mask is None and a.documents is None):
        return found
    seen = _left(a)[1]
    seen = seen & (torch.arange(Tq) < lengths(a)[0][:, None])[..., None]
    some, begin = seen.any(-1), seen.long().argmax(-1)
    if a.documents is not None:
        own = a.documents[:, places(a).clamp(max=Tk - 1)]
        of_same = torch.where((own[:, :, None] == own[:, None]) & some[:, None], begin[:, None], Tk).amin(-1)
        return torch.where(some, of_same, 0)
    last = Tk - 1 - seen.flip(-1).long().argmax(-1)
    reach = (places(a) - begin).masked_fill(~some, -2**40)
    farthest = reach.max()
    for b in range(B):
        rows = some[b]
        starts = {int(j) for j in begin[b][rows & (reach[b] < farthest)] if not (rows & (begin[b] < j) & (last[b] >= j)).any()}
        for i in torch.nonzero(rows)[:, 0]:
            found[b, i] = max((j for j in starts if j <= begin[b, i]), default=0)
    return found


def shown(a: Attention) -> torch.Tensor:
    """[B,1,Tq,Tk]: entries that are no padding, which pairs are looked for among: of queries and keys from the first
    to the last that exist. In self-attention a query at the place of a padding key is padding."""
    B, _, Tq, Tk = a.weights.shape
    (q_len, k_len), p, row = lengths(a), places(a), torch.arange(Tq)
    result = torch.zeros(B, 1, Tq, Tk, dtype=torch.bool)
    for b, query in enumerate(visible(a)[0][:, 0]):
        if a.site == "self":
            inside = torch.nonzero(((p < k_len[b]) | (p >= Tk)) & (row < q_len[b]))[:, 0]
            query = query & (row <= (inside[-1] if len(inside) else -1))
        queries = torch.nonzero(query)[:, 0]
        if len(queries) == 0:
            continue
        key = torch.arange(Tk) < k_len[b]
        if a.mask is not None:
            key = key & (a.mask[b, queries[0]:queries[-1] + 1] == 1).any(0)
        keys = torch.nonzero(key)[:, 0]
        if len(keys):
            result[b, 0, queries, keys[0]:keys[-1] + 1] = True
    return result


def row_metrics(a: Attention, rows: Rows, local_window: int) -> Dict[str, List[np.ndarray]]:
    """Row metric -> one array of row values per head: those of sound rows where the number exists."""
    columns = row_columns(a, rows, local_window)
    return {name: of_heads(rows, *columns[name]) for name in ROW_METRICS}


def row_columns(a: Attention, rows: Rows, local_window: int) -> Dict[str, Column]:
    """Every number of every row, sound or not."""
    sent, always = rows, torch.ones_like(rows.sound)
    rows = _among_keys(a, rows)
    columns = {**_entropies(a, rows), **_distances(a, rows, local_window), **neighbours(a, sent), **_tokens(a, rows)}
    A, visible = rows.A, rows.seen.expand(rows.A.shape)
    largest = torch.where(visible, A, torch.full_like(A, -torch.inf)).sort(-1, descending=True).values
    head = largest[..., :HEAD_KEYS]
    columns["confidence"] = largest[..., 0], always
    columns["tail_mass"] = 1 - torch.where(head > -torch.inf, head, torch.zeros_like(head)).sum(-1), always
    if a.learned_sink:  # a row that it has taken all of has nothing else
        columns = {name: (value, exists & (sent.sums > 0)) for name, (value, exists) in columns.items()}
    columns["sink_deficit"] = 1 - sent.sums, always & a.learned_sink
    return columns


def _among_keys(a: Attention, rows: Rows) -> Rows:
    """The rows, beside a learned sink with weights that sum to 1."""
    return rows._replace(A=rows.A / rows.sums[..., None]) if a.learned_sink else rows


def of_heads(rows: Rows, values: torch.Tensor, exists: torch.Tensor) -> List[np.ndarray]:
    """The values of sound rows where there are some, an array for each head."""
    chosen = rows.sound & exists & torch.isfinite(values)
    return [values[:, h][chosen[:, h]].numpy() for h in range(values.shape[1])]


def _plogp(x: torch.Tensor) -> torch.Tensor:
    """x ln x, and 0 where x <= 0."""
    positive = x > 0
    return torch.where(positive, x * torch.where(positive, x, torch.ones_like(x)).log(), torch.zeros_like(x))


def _entropies(a: Attention, rows: Rows) -> Dict[str, Column]:
    A, n = rows.A, rows.seen.sum(-1).expand(rows.sound.shape)
    entropy = -_plogp(A).sum(-1)
    first = first_keys(a)[:, None, :, None]
    rest = A.scatter(-1, first.expand(*A.shape[:-1], 1), 0.0)
    left = n - rows.seen.gather(-1, first)[..., 0].long()
    total = rest.sum(-1)
    without_first = -_plogp(rest / total[..., None]).sum(-1) / left.double().log()
    always = torch.ones_like(rows.sound)
    return {"entropy": (entropy, always), "effective_keys": (entropy.exp(), always),
            "entropy_normalized": (entropy / n.double().log(), n >= 2),
            "entropy_sans_first": (without_first, (n >= 3) & (total > 0))}


def _distances(a: Attention, rows: Rows, local_window: int) -> Dict[str, Column]:
    distance = (places(a)[:, None] - torch.arange(rows.A.shape[-1])).abs().double()
    mean = (rows.A * distance).sum(-1)
    farthest = (rows.seen * distance).amax(-1).expand(mean.shape)
    always = torch.ones_like(rows.sound)
    return {"mean_distance": (mean, always), "mean_distance_normalized": (mean / farthest, farthest > 0),
            "local_mass": ((rows.A * (distance <= local_window)).sum(-1), always)}


def neighbours(a: Attention, rows: Rows) -> Dict[str, Column]:
    """Weights on the query's own position, those next to it, and the first of its document; of rows as they were sent."""
    rows = _among_keys(a, rows)
    p, Tk = places(a), rows.A.shape[-1]
    q_len, k_len = lengths(a)
    positions = torch.minimum(k_len, a.q_offset + q_len * a.q_stride)
    first, shape = first_keys(a)[:, None], rows.sound.shape
    columns = {"first_token": (rows.A.gather(-1, first.expand(shape)[..., None])[..., 0], (p > first).expand(shape))}
    for name, offset in (("previous_token", -1), ("diagonal", 0), ("next_token", 1)):
        j = p + offset
        exists = (j >= 0) & (j < positions[:, None]) & (a.site == "self")
        at = j.clamp(0, Tk - 1)[:, None].expand(*rows.sound.shape, 1)
        columns[name] = rows.A.gather(-1, at)[..., 0], exists[:, None].expand(rows.sound.shape)
    return columns


def _tokens(a: Attention, rows: Rows) -> Dict[str, Column]:
    """Weight on the earlier occurrences of the query's token, and on what followed them."""
    shape = rows.sound.shape
    if a.tokens is None or a.site != "self":
        none = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.bool)
        return {"induction": none, "duplicate_token": none}
    Tk = rows.A.shape[-1]
    p, j = places(a)[:, None], torch.arange(Tk)[None, :]
    own = a.tokens[:, p[:, 0].clamp(max=Tk - 1)]
    earlier = (own[:, :, None] == a.tokens[:, None, :]) & (j < p) & (p < lengths(a)[1][:, None, None])
    exists = earlier.any(-1)[:, None].expand(shape)
    following = torch.zeros_like(earlier)
    following[..., 1:] = earlier[..., :-1]
    return {"induction": ((rows.A * following[:, None]).sum(-1), exists),
            "duplicate_token": ((rows.A * earlier[:, None]).sum(-1), exists)}
