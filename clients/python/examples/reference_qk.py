# SPDX-License-Identifier: MIT
"""reference_qk: attention that was sent as queries and keys: the weights they stand for, in float64, the numbers that
only such a message has, and how far all of its numbers may be off; and the numbers of values, beside weights, too.

    S = scale Q K^T, with a softcap c > 0 S = c tanh(S / c);  A = softmax of S over the visible keys

From the weights on everything is as if they had been sent themselves, which is what attnd does with maps up to
metrics.qk_maps_max_size. Rows of queries that do not count are 0.

The daemon multiplies in single precision: a logit may be off by `delta = 2^-21 scale max|q| max|k|`. That moves a
weight by the factor e^delta, and an entropy by 2 delta (H + 1).
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

import numpy as np
import torch

from reference_rows import EPS, Attention, Rows, lengths, visible
from reference_spectrum import QK_SPECTRUM_METRICS, SINGULAR_VALUES, Spectra, largest_share, of_values

LOGIT = 1e-5  # of a logit or a cosine
QK_ROW_METRICS = ("max_logit",)
VALUE_METRICS = ("output_norm", "norm_weighted_entropy", "write_norm", "residual_share")
QK_METRICS = ("max_abs_logit", "mean_logit", "std_logit", "qk_cosine", "qk_cosine_max", "q_norm", "k_norm",
              *VALUE_METRICS)


class Vectors(NamedTuple):
    """The vectors as sent, f64: q [B,H,Tq,d] and k [B,H,Tk,d] as each head reads it, and the logits."""
    q: torch.Tensor
    k: torch.Tensor
    scale: float
    logits: torch.Tensor  # [B,H,Tq,Tk]
    eps: float            # of the dtype that was sent
    dout: Optional[torch.Tensor] = None    # [B,H,Tq,dv] gradient of the loss by A V


class Values(NamedTuple):
    """The values as sent, f64, as each head reads them."""
    v: torch.Tensor                        # [B,H,Tk,dv]
    wo_r: Optional[torch.Tensor] = None    # [H,r,dv] R of the QR of each head's slice of W_o
    x_norm: Optional[torch.Tensor] = None  # [B,Tq] norms of the layer's input


def attention(tensors: Mapping[str, torch.Tensor], dtype: str, scale: float, softcap: float = 0.0,
              **rows: Any) -> Attention:
    """The attention of q [B,H,Tq,d] and k [B,Hkv,Tk,d]; `rows`: what else an Attention has."""
    q = tensors["q"].double()
    k = _of_heads(tensors["k"].double(), q.shape[1])
    logits = scale * q @ k.transpose(-1, -2)
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    values, dout = values_of(tensors, "q"), tensors["dout"].double() if "dout" in tensors else None
    a = Attention(logits, "f32", grad=None if dout is None else dout @ values.v.transpose(-1, -2),
                  qk=Vectors(q, k, scale, logits, EPS[dtype], dout), values=values, **rows)
    return a._replace(weights=_softmax(a))


def values_of(tensors: Mapping[str, torch.Tensor], beside: str) -> Optional[Values]:
    """The values of a message, if there are any; `beside`: a tensor of it that has all heads."""
    if "v" not in tensors:
        return None
    wo_r, x_norm = (tensors[name].double() if name in tensors else None for name in ("wo_r", "x_norm"))
    return Values(_of_heads(tensors["v"].double(), tensors[beside].shape[1]), wo_r, x_norm)


def _of_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.repeat_interleave(heads // x.shape[1], dim=1)


def _softmax(a: Attention) -> torch.Tensor:
    """Over visible keys; 0 elsewhere, and in rows that see none or whose query does not count."""
    queries, seen = visible(a)
    weights = a.weights.masked_fill(~seen, -math.inf).softmax(-1)
    kept = seen.any(-1) & queries
    return torch.where(kept[..., None] & seen, weights, torch.zeros((), dtype=torch.float64))


# ---------------------------------------------------------------------------------- what only qk has

def row_metrics(a: Attention, rows: Rows) -> Dict[str, List[np.ndarray]]:
    """Row metric -> one array of row values per head."""
    largest = a.qk.logits.masked_fill(~rows.seen, -math.inf).amax(-1)
    return {"max_logit": [largest[:, h][rows.sound[:, h]].numpy() for h in range(largest.shape[1])]}


def metrics(a: Attention, rows: Rows) -> Dict[str, np.ndarray]:
    """name -> [heads], of queries and keys."""
    x, entries = a.qk, rows.seen & rows.sound[..., None] & torch.isfinite(a.qk.logits)
    q_norm, k_norm = x.q.norm(dim=-1), x.k.norm(dim=-1)
    cosine = x.q @ x.k.transpose(-1, -2) / (q_norm[..., None] * k_norm[:, :, None])
    logits, cosines = _of_each_head(x.logits, entries), _of_each_head(cosine, entries & torch.isfinite(cosine))
    keys = torch.arange(x.k.shape[2]) < lengths(a)[1][:, None, None]
    return {"max_abs_logit": _each(logits, lambda s: s.abs().max()), "mean_logit": _each(logits, torch.mean),
            "std_logit": _each(logits, torch.std, 2), "qk_cosine": _each(cosines, torch.mean),
            "qk_cosine_max": _each(cosines, torch.max),
            "q_norm": _each(_of_each_head(q_norm, rows.queries), torch.mean),
            "k_norm": _each(_of_each_head(k_norm, keys), torch.mean)}


def outputs(a: Attention, rows: Rows) -> Dict[str, np.ndarray]:
    """name -> [heads] of the numbers of values, NaN without."""
    none = np.full(a.weights.shape[1], math.nan)
    if a.values is None:
        return dict.fromkeys(VALUE_METRICS, none)
    output = (rows.A @ a.values.v).norm(dim=-1)
    shares = rows.A.clamp(min=0) * a.values.v.norm(dim=-1)[:, :, None]
    total = shares.sum(-1, keepdim=True)
    entropy = torch.special.entr(shares / total).sum(-1)
    return {"output_norm": _each(_of_each_head(output, rows.sound), torch.mean),
            "norm_weighted_entropy": _each(_of_each_head(entropy, rows.sound & (total[..., 0] > 0)), torch.mean),
            "write_norm": none, "residual_share": none, **_writes(a, rows)}


def _writes(a: Attention, rows: Rows) -> Dict[str, np.ndarray]:
    """The norms that heads write to the residual stream, |R_h A V|, and its share of the stream that they read."""
    x = a.values
    if x.wo_r is None:
        return {}
    written = ((rows.A @ x.v) @ x.wo_r.transpose(-1, -2)).norm(dim=-1)
    found = {"write_norm": _each(_of_each_head(written, rows.sound), torch.mean)}
    if x.x_norm is not None:
        divides = ((x.x_norm > 0) & torch.isfinite(x.x_norm))[:, None]
        found["residual_share"] = _each(_of_each_head(written / x.x_norm[:, None], rows.sound & divides), torch.mean)
    return found


def _of_each_head(x: torch.Tensor, chosen: torch.Tensor) -> List[torch.Tensor]:
    chosen = chosen.expand(x.shape)
    return [x[:, h][chosen[:, h]] for h in range(x.shape[1])]


def _each(values: List[torch.Tensor], what: Any, least: int = 1) -> np.ndarray:
    return np.array([float(what(x)) if len(x) >= least else math.nan for x in values])


def spectra(a: Attention) -> Spectra:
    """The spectra of scale Q K^T of sample 0 over its valid queries and keys, unmasked and without softcap."""
    m, n = (int(length[0]) for length in lengths(a))
    products = a.qk.scale * a.qk.q[0, :, :m] @ a.qk.k[0, :, :n].transpose(-1, -2)
    kept = min(m, n, a.qk.q.shape[3])
    found = [of_values(torch.linalg.svdvals(product).numpy()[:kept], (m, n), a.qk.eps) if product.numel() and
             torch.isfinite(product).all() else None for product in products]
    names = [name[len("qk_"):] for name in QK_SPECTRUM_METRICS]
    values = {f"qk_{name}": np.array([math.nan if f is None else f.numbers.get(name, math.nan) for f in found])
              for name in names}
    slack = {f"qk_{name}": np.array([0.0 if f is None else f.slack.get(name, 0.0) for f in found]) for name in names}
    vectors = np.full((len(found), SINGULAR_VALUES), math.nan)
    for row, f in zip(vectors, found):
        if f is not None:
            row[:] = f.singular_values
    return Spectra(values, {"qk_singular_values": vectors}, slack)


# --------------------------------------------------------------------------------- how far it may be off

def largest_logit(a: Attention) -> float:
    """The bound that no logit exceeds: scale max|q| max|k|; 0 for weights that were sent themselves."""
    return 0.0 if a.qk is None else a.qk.scale * float(a.qk.q.norm(dim=-1).max() * a.qk.k.norm(dim=-1).max())


def delta_of(a: Attention) -> float:
    """How far a logit may be off; 0 for weights that were sent themselves."""
    return 2.0**-21 * largest_logit(a)


def slack(a: Attention, rows: Mapping[str, List[np.ndarray]], values: Mapping[str, np.ndarray],
          aggregate: Mapping[str, Mapping[str, float]], spectrum: Spectra) -> Dict[str, Any]:
    """name -> how far its numbers may be off besides the tolerance, in all or per head."""
    delta, heads = delta_of(a), a.weights.shape[1]
    nats = max((float(x.max()) for x in rows["entropy"] if len(x)), default=0.0)
    result: Dict[str, Any] = {name: 2 * delta * np.array([np.abs(x).max(initial=0) for x in of_head])
                              for name, of_head in rows.items()}
    result["effective_keys"] = result["effective_keys"] * (nats + 1)
    result.update(dict.fromkeys(("entropy", "entropy_normalized", "entropy_sans_first"), 2 * delta * (nats + 1)))
    result["tail_mass"] = 2 * delta
    result.update({name: 2 * delta * np.abs(x) for name, x in values.items()})
    result["std"] = (1e-5 + 2 * delta) * values["max"]
    result["variance"] = 2 * result["std"] * values["std"]
    logit = LOGIT * max(1.0, largest_logit(a))
    result.update(dict.fromkeys(("max_logit", "max_abs_logit", "mean_logit", "std_logit"), logit))
    result.update(dict.fromkeys(("qk_cosine", "qk_cosine_max"), LOGIT))
    if a.qk.dout is not None:  # of the sum of A |dO| |v|, for each head and for the norm over them
        sizes = a.weights * a.qk.dout.norm(dim=-1)[..., None] * a.values.v.norm(dim=-1)[:, :, None]
        scores = (a.weights * a.grad).abs()
        off = 2.0**-21 * sizes.nansum((0, 2, 3)) / scores.nansum((0, 2, 3)).norm()
        result["importance_gradient"] = 4 * delta * values["importance_gradient"] + off.numpy() + float(off.norm())
    result.update({f"aggregate.{name}": 2 * delta * max(map(abs, stats.values()))
                   for name, stats in aggregate.items()})
    result["top_pairs"] = 2 * delta
    return {**result, **_spectrum_slack(a, spectrum, np.zeros(heads))}


def outputs_slack(a: Attention, rows: Mapping[str, List[np.ndarray]]) -> Dict[str, Any]:
    """name -> how far the numbers of values may be off besides the tolerance, in all or per head."""
    delta, x = delta_of(a), a.values
    nats = max((float(x.max()) for x in rows["entropy"] if len(x)), default=0.0)
    result: Dict[str, Any] = {"norm_weighted_entropy": 1e-4 + 2 * delta * (nats + 1)}
    if x is not None:
        shares = (a.weights.abs() * x.v.norm(dim=-1)[:, :, None]).sum(-1)
        sizes = {"output_norm": shares}
        if x.wo_r is not None:
            sizes["write_norm"] = x.wo_r.flatten(1).norm(dim=1)[:, None] * shares
        if x.x_norm is not None:
            sizes["residual_share"] = sizes["write_norm"] / x.x_norm[:, None]
        for name, size in sizes.items():
            result[name] = (1e-5 + 2 * delta) * size.masked_fill(~torch.isfinite(size), 0).amax((0, 2)).numpy()
    return result


def _spectrum_slack(a: Attention, spectrum: Spectra, none: np.ndarray) -> Dict[str, Any]:
    """A singular value is off by at most the Frobenius norm of what the map is off."""
    error, values = largest_share(a.weights, 2 * delta_of(a)), spectrum.values
    share = np.nan_to_num(error / values["spectral_norm"])
    rank = np.nan_to_num(values["rank"])
    entropy = share * np.sqrt(rank + 1) * np.nan_to_num(values["effective_rank_entropy"])
    return {"spectral_norm": error, "nuclear_norm": error * np.sqrt(rank + 1),
            "stable_rank": 2 * share * np.nan_to_num(values["stable_rank"]), "low_rank_error": 2 * share[:, None],
            "effective_rank_entropy": entropy + none, "singular_values": error[:, None]}
