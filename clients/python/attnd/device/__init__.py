# SPDX-License-Identifier: MIT
"""attnd.device: the numbers of attention computed where the queries and keys are, without the map of weights.

    numbers = attnd.device.row_statistics(q, k, causal=True)
    numbers["entropy"]             # float32 [B, H, Tq], NaN where a row has no such number
    rows = attnd.device.rows(q, k, causal=True)         # sums, from which attnd has the numbers
    maps = attnd.device.pooled_maps(q, k, causal=True)  # to look at
    publisher.publish_rows(rows._replace(maps=maps), stack="decoder", layer=0, step=step)

Definitions are those of workers/KERNELS.md; importing this needs PyTorch 1.13 or later.
"""
from __future__ import annotations

import inspect
from typing import Any, Callable, Dict, Optional

import torch

from ..base.arguments import check_options
from ..base.wire import HEADS_MAX, check_int
from ..sending.head_maps import SIDE_MAX, HeadMaps
from ..sending.rows import Rows
from . import foreign, launch, pooled, reference
from .arrived import of_kernels, of_reference
from .problem import POSITION_MAX, Problem, check_tensors
from .visible import valid_rows

__all__ = ["BACKENDS", "Rows", "lse_statistics", "pooled_maps", "row_statistics", "rows"]

BACKENDS = ("auto", "reference", "triton")


def row_statistics(q: torch.Tensor, k: torch.Tensor, *, scale: Optional[float] = None, causal: bool = False,
                   q_offset: int = 0, window: Optional[int] = None, k_len: Any = None, q_len: Any = None,
                   bias: Optional[torch.Tensor] = None, softcap: Optional[float] = None,
                   sinks: Optional[torch.Tensor] = None, backend: str = "auto",
                   documents: Optional[torch.Tensor] = None, cross: bool = False,
                   local_window: int = 8, q_stride: int = 1) -> Dict[str, torch.Tensor]:
    """Every row metric of softmax(scale Q K^T) that needs no token numbers: name to float32 [B, H, Tq], on q's device.

    q             [B, H, Tq, d] f16, bf16, f32 or f64 (f64 is computed in f64, all else in f32), any strides
    k             [B, Hk, Tk, d] of q's dtype and device; Hk divides H, head h reads key head h / (H / Hk)
    scale         of Q K^T; 1 / sqrt(d) by default
    causal        query i, which stands at position p = q_offset + i q_stride of the keys, sees keys j <= p
    q_offset      keys before query 0 (a key cache)
    window        w > 0: keys j > p - w
    k_len, q_len  [B] integers, a sequence or a tensor, or one for all: how many keys and queries of each sample are no
                  padding
    bias          broadcastable to [B, H, Tq, Tk]. Bool: True may attend. Else added to the logits; what is at or below
                  -9000 hides its key, and what is 50 or more below all other values of the bias in all heads, as
                  everywhere in this client
    softcap       c > 0: logits S become c tanh(S / c), before the bias
    sinks         [H] learned logits that take part in each row's softmax and in nothing else
    backend       "reference" is chunked PyTorch, for any device; "triton" is a kernel, in f32, for a head dimension of at
                  most 256, on a GPU or, with TRITON_INTERPRET=1, on the CPU.
                  "auto" is triton where a GPU's driver is and the kernel can, else the reference
    documents     [B, Tk] integers; a query sees keys of its own document. Self-attention only
    cross         keys belong to another sequence: there is no diagonal, previous_token or next_token
    local_window  of local_mass; the daemon's metrics.local_window
    q_stride      above 1: the queries are a sample, every n-th of them

    A number that does not exist is NaN: of padding, of a row with a NaN or +infinity among its logits or without a
    finite one, and where KERNELS.md says so (sink_deficit without sinks). max_logit is of the logits with their bias.
    It takes memory for its results (15 float32 per row at most) and never more than 64 MiB beside them, up to 500,000
    keys. Tensors of lengths on another device than the CPU are read by the reference, which waits for that device.

    ValueError for bad arguments, and for backend="triton" where it cannot compute them.
    """
    problem = _problem(q, k, scale=scale, causal=causal, q_offset=q_offset, window=window, k_len=k_len, q_len=q_len,
                       bias=bias, softcap=softcap, sinks=sinks, documents=documents, cross=cross,
                       local_window=local_window, q_stride=q_stride)
    return _rows_of(backend, problem)(problem)


def lse_statistics(q: torch.Tensor, k: torch.Tensor, lse: torch.Tensor, *, max_logit: Optional[torch.Tensor] = None,
                   **asked: Any) -> Dict[str, torch.Tensor]:
    """The row metrics that follow from the log-sum-exp of another kernel, without a pass over all keys: name to float32
    [B, H, Tq], as row_statistics has them, and no other names.

    lse        real [B, H, Tq]: the natural logarithm of the sum of exp(logit) over the keys that a query sees, without
               learned sinks; not finite where it sees none
    max_logit  [B, H, Tq]: the largest of these logits

    The rest as for row_statistics, but for `backend`. There are local_mass, first_token, and unless `cross`
    previous_token, diagonal and next_token; with `max_logit` max_logit and confidence, with `sinks` sink_deficit.
    cuDNN, Transformer Engine and FlexAttention (`AuxRequest(lse=True, max_scores=True)`) return such numbers. Up to
    eight rows of each head of a sample are computed again by PyTorch, others each time, and this waits for the device.

    ValueError as for row_statistics, and with how far off they are when these rows disagree: by more than 0.001, or
    0.02 of f16 and bf16, beside what the rounding of long queries and keys explains.
    """
    check_options(lse_statistics, asked, _ASKED)
    return foreign.rows(_problem(q, k, lse, max_logit, **asked), lse, max_logit)


def rows(q: torch.Tensor, k: torch.Tensor, *, backend: str = "auto", heads: Optional[int] = None, sampled_of: Optional[int] = None,
         **asked: Any) -> Rows:
    """The sums of the rows of an attention, on the host, which waits for them: from these attnd has the same numbers as from the queries
    and keys (PROTOCOL.md, type rows), but for maps and what goes across heads. Publisher.publish_rows() takes them.

    heads        of the layer, when q has a slice of them; those of q by default
    sampled_of   how many queries the attention has, when q has a sample of them

    The rest as for row_statistics, ValueError as well.
    """
    check_options(rows, asked, _ASKED)
    problem = _problem(q, k, **asked)
    count = problem.queries if sampled_of is None else check_int("sampled_of", sampled_of, POSITION_MAX, problem.queries)
    total = problem.heads if heads is None else check_int("heads", heads, HEADS_MAX, problem.heads)
    whole = total == problem.heads and count == problem.queries and problem.q_stride == 1
    is_few = problem.batch * problem.heads <= launch.SLICE_HEADS
    made = of_kernels if _rows_of(backend, problem) is launch.rows and is_few else of_reference
    return made(problem, whole, count, valid_rows(problem).any(1))


def pooled_maps(q: torch.Tensor, k: torch.Tensor, *, sample: int = 0, side: int = SIDE_MAX,
                **asked: Any) -> HeadMaps:
    """The map of each head of one sample in at most side x side cells, each the mean over its queries and keys, for
    people to look at: Rows.maps. Without padding, and in half precision.

    sample       of the batch
    side         cells, 64 at most; Publisher.maps_side says how many attnd wants

    The rest as for row_statistics: chunked PyTorch, in no more than 64 MiB up to 100,000 keys. The host waits for it. A
    bias says what is padding by what it hides from all heads.
    ValueError as for row_statistics, for a sample that is not there, and for a sample of the rows.
    """
    check_options(pooled_maps, asked, _ASKED)
    problem = _problem(q, k, **asked)
    if problem.q_stride > 1:
        raise ValueError("a sample of the rows has no map")
    sample, side = check_int("sample", sample, problem.batch - 1), check_int("side", side, SIDE_MAX, 1)
    return pooled.of_queries(problem, sample, side).read()


_ASKED = tuple(inspect.signature(Problem).parameters)[2:]  # what these functions pass on


def _problem(q: torch.Tensor, k: torch.Tensor, lse: Optional[torch.Tensor] = None,
             max_logit: Optional[torch.Tensor] = None, **asked: Any) -> Problem:
    """The problem; ValueError also for tensors whose numbers cannot be read."""
    check_tensors(**{name: one for name, one in (("lse", lse), ("max_logit", max_logit)) if one is not None})
    for name, one in {"q": q, "k": k, "lse": lse, "max_logit": max_logit, **asked}.items():
        if isinstance(one, torch.Tensor) and one.is_meta:
            raise ValueError(f"{name} on device meta: has no numbers; give a tensor that has")
        if isinstance(one, torch.Tensor) and (one.layout != torch.strided or one.is_nested):
            raise ValueError(f"{name} is sparse or nested: must be a dense tensor, such as one of to_dense()")
    return Problem(q, k, **asked)


def _rows_of(backend: str, problem: Problem) -> Callable[..., Dict[str, torch.Tensor]]:
    """The function that computes it."""
    if backend not in BACKENDS:
        raise ValueError(f"backend = {backend!r}: must be one of {', '.join(BACKENDS)}")
    if backend == "reference" or (backend == "auto" and problem.q.device.type == "cpu"):
        return reference.rows
    why = launch.unable(problem.q.device, problem.q.dtype, problem.width, problem.documents)
    if backend == "triton" and why:
        raise ValueError(f"backend = 'triton': {why}")
    return reference.rows if why else launch.rows
