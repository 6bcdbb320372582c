# SPDX-License-Identifier: MIT
"""forms.seen: one call of an attention as it was seen, queries and keys or weights, and what can be told by it alone: its
sizes, whether it can be copied, whether it looks ahead."""
from __future__ import annotations

from typing import Any, Callable, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from ..base.hidden import STEP, WEIGHT_LEFT, hidden_at, hides_by_head
from ..base.masks import IGNORED_AT
from ..base.torch_state import why_unreadable
from ..sending.devices import DTYPE_NAMES, working_dtype
from . import mods

_LOOKED_AHEAD = 32  # queries of which a late mask is evaluated, to tell whether they see later keys


class NotCaptured(Exception):
    """Nothing of a call is captured. The text is a predicate, for people: what the attention does."""


class Output(NamedTuple):
    """The output that the model got of an attention, for who waits for its gradient.

    tensor   the very tensor
    arrange  makes a gradient of it one [B, H, Tq, dv] of a fused call, [B, H, Tq, Tk] of weights
    dropped  the kernel has dropped weights at random, so that the gradient is none of those that travel
    """
    tensor: torch.Tensor
    arrange: Callable[[torch.Tensor], torch.Tensor]
    dropped: bool = False


class Share(NamedTuple):
    """Which of the layer's heads the tensors have: the `number`-th of `of` equal shares."""
    number: int = 0
    of: int = 1


NO_TENSOR = torch.empty(0)  # in the place of one that is not kept


class Queries(NamedTuple):
    """The arguments of a fused attention call.

    q       [B or 1, H or 1, Tq, d]
    k       [B or 1, Hkv, Tk, d], Hkv divides H
    mask    broadcasts to [B, H, Tq, Tk]: bool, true = may attend, or added to the logits; None
    causal  key j is visible to query i when j <= i + offset
    scale   of the product; None: 1 / sqrt(d)
    window  keys a query may look back, and ahead when it is not causal, its own counted; 0 = all
    softcap as on the wire
    offset  where query 0 stands among the keys; negative when there are more queries
    documents  numbers of queries [1, Tq] and of keys [1, Tk] of a packed sequence: a query sees those of its own number
    ends    of documents: how many queries and how many keys they have, [1] each; behind them is padding
    late_mask  instead of a mask: gives that of a part (samples, heads, rows), once it is known which one is wanted
    late_nbytes  the bytes of such a mask per sample, query and key
    score_mod  of flex attention: gives what takes the place of the logits
    lowered  autocast lowers q and k on their way into the kernel
    v       [B or 1, Hkv, Tk, dv]: the values, where they are known and wanted
    wo_r    gives [H, r, dv] f32 on the sender thread: residual.py
    x       [B, Tq, width]: the residual stream that the layer reads
    share   of the layer's heads that these are, where DTensors tell
    shared  the mask is one for all samples, and not of keys alone: it tells of no padding
    called  queries, keys, values and mask with the axes that they were given in, which may be in another order; None: they are not
    extra   how many keys are behind those of the sequence, as learned ones are
    """
    q: torch.Tensor
    k: torch.Tensor
    mask: Optional[torch.Tensor] = None
    causal: bool = False
    scale: Optional[float] = None
    window: int = 0
    softcap: float = 0.0
    offset: int = 0
    documents: Optional[Tuple[torch.Tensor, torch.Tensor]] = None
    ends: Optional[Tuple[torch.Tensor, torch.Tensor]] = None
    late_mask: Optional[Callable[[Sequence[mods.Cut]], torch.Tensor]] = None
    late_nbytes: int = 1
    score_mod: Optional[mods.ScoreMod] = None
    lowered: bool = True
    v: Optional[torch.Tensor] = None
    output: Optional[Output] = None
    wo_r: Optional[Callable[[], np.ndarray]] = None
    x: Optional[torch.Tensor] = None
    share: Optional[Share] = None
    shared: bool = False
    called: Optional[Sequence[Any]] = None
    extra: int = 0


class Weights(NamedTuple):
    """The result of an explicit softmax: weights [B, H, Tq, Tk], before dropout, of logits of the same shape.

    sink   rows sum to less than 1: the rest is of learned sinks, whose columns are not here
    hidden  bool [B, H, Tq, Tk]: the keys that are hidden by what was added to the logits; None: no others than those of logits
            below IGNORED_AT
    is_known  it is known what was added
    biases  those numbers that differ by head, as they broadcast to the logits
    v      [B or 1, Hkv, Tk, dv]: the values that the keys have, where they are known and wanted; Hkv divides H
    wo_r, x, shared, extra  as of Queries
    sinks  columns in front of and behind those of keys that are sinks, as the module says; they are here still
    merged  they were [N, Tq, Tk], and are [N, 1, Tq, Tk]: heads may be among the N
    """
    weights: torch.Tensor
    logits: torch.Tensor
    sink: bool = False
    output: Optional[Output] = None
    v: Optional[torch.Tensor] = None
    wo_r: Optional[Callable[[], np.ndarray]] = None
    x: Optional[torch.Tensor] = None
    shared: bool = False
    extra: int = 0
    hidden: Optional[torch.Tensor] = None
    is_known: bool = True
    biases: Sequence[torch.Tensor] = ()
    sinks: Tuple[int, int] = (0, 0)
    merged: bool = False

    def of_keys(self, before: int, behind: int) -> Weights:
        """Without the columns of sinks at both ends."""
        if not before + behind:
            return self
        v, first, count = self.v, before, int(self.weights.shape[3]) - before - behind
        if v is not None and v.shape[2] != count:
            v = v.narrow(2, first, count) if v.shape[2] == self.weights.shape[3] else None
        return self.with_axes(lambda one: one.narrow(-1, first, count))._replace(sink=True, v=v, sinks=(0, 0))

    def with_axes(self, arranged: Callable[[torch.Tensor], torch.Tensor]) -> Weights:
        """With all that has the axes of the weights, gradients too, arranged alike."""
        output, hidden = self.output, None if self.hidden is None else arranged(self.hidden)
        if output is not None:
            arrange = output.arrange
            output = output._replace(arrange=lambda gradient: arranged(arrange(gradient)))
        return self._replace(weights=arranged(self.weights), logits=arranged(self.logits), output=output, hidden=hidden)


Seen = Union[Queries, Weights]


def shape_of(seen: Seen) -> Sequence[int]:
    """[B, H, Tq, ..]."""
    if not isinstance(seen, Queries):
        return seen.weights.shape
    shape = seen.q.shape
    return shape if shape[0] != 1 != shape[1] or (seen.mask is None and seen.k.shape[:2] == shape[:2]) else broadcast(seen).q.shape


def heads_of(seen: Seen) -> int:
    """H."""
    return int(shape_of(seen)[1])


def queries_of(seen: Seen) -> Tuple[int, int]:
    """(samples, queries)."""
    shape = shape_of(seen)
    return int(shape[0]), int(shape[2])


def keys_of(seen: Seen) -> int:
    """Tk."""
    return int(seen.k.shape[2] if isinstance(seen, Queries) else seen.weights.shape[3])


def keys_before(seen: Seen) -> int:
    """How many keys are before those of the queries in self-attention, where no mask says so: those of a cache."""
    return max(0, keys_of(seen) - seen.extra - queries_of(seen)[1])


def device_of(seen: Seen) -> torch.device:
    """Where its tensors are."""
    return (seen.q if isinstance(seen, Queries) else seen.weights).device


def precision_of(seen: Queries) -> torch.dtype:
    """The dtype that the kernel of the model gets."""
    return lowered_dtype(seen.q, seen.lowered) or torch.promote_types(seen.q.dtype, seen.k.dtype)


def unreadable(seen: Seen) -> Optional[str]:
    """Why nothing of the call can be copied, for people; None: it can."""
    tensors_of = (seen.q, seen.k) if isinstance(seen, Queries) else (seen.weights, seen.logits)
    strange = next((one.dtype for one in tensors_of if one.dtype not in DTYPE_NAMES), None)
    scales = ", whose scales are elsewhere" if "float8" in str(strange) else ""
    return next(filter(None, map(why_unreadable, tensors_of)),
                None if strange is None else f"computes with {str(strange).partition('.')[2]}{scales}")


def placements_of(seen: Seen) -> Optional[Sequence[Any]]:
    """How a DTensor is spread over ranks; None: these are tensors of this rank."""
    return getattr(seen.q if isinstance(seen, Queries) else seen.weights, "placements", None)


def sees_ahead(seen: Seen) -> Union[None, bool, torch.Tensor]:
    """Whether queries see keys behind their own: each sees the next, but for one in 16, as at the end of a document. A mask
    tells it on its device, bool []. None: nothing tells, as with one query."""
    queries, keys, mask = queries_of(seen)[1], keys_of(seen), None
    least: Union[float, torch.Tensor] = IGNORED_AT
    if isinstance(seen, Weights):
        mask = seen.logits.detach() if seen.hidden is None else ~seen.hidden & (seen.logits > IGNORED_AT)
    elif seen.causal:
        return False
    elif seen.mask is not None:
        mask = seen.mask.detach()
        least = IGNORED_AT if mask.dtype == torch.bool else hidden_at(mask)
    elif seen.late_mask is not None and queries == keys:
        mask = seen.late_mask((slice(0, 1), slice(0, 1), slice(0, min(queries, _LOOKED_AHEAD))))
    elif seen.score_mod is not None:
        return None
    if queries < 2 or keys < 2 or (queries > keys and mask is not None):
        return None
    if mask is None or mask.dim() < 2 or 1 in mask.shape[-2:]:  # of keys alone
        return True
    mask = mask[..., :keys] if mask.dtype == torch.bool else mask[..., :keys] > least
    ahead: Any = True
    for first in {0, keys - queries}:  # further keys, as nn.MultiheadAttention may add, are behind the queries' own, or before
        own, following = (mask.diagonal(first + beside, -2, -1) for beside in (0, 1))
        count = min(own.shape[-1] - 1, following.shape[-1])  # of a part of the rows `following` has one more
        own, following = own[..., 1:count + 1], following[..., :count]
        ahead = ((own & ~following).sum() * 16 <= own.sum()) & ahead
    return ahead  # type: ignore[no-any-return]


def visible_keys(weights: torch.Tensor, logits: torch.Tensor, hidden: Optional[torch.Tensor]) -> torch.Tensor:
    """bool [B, Tq, Tk] of weights, logits and what is hidden of them, as Weights has it: all heads say what is visible. NaN hides
    nothing: it is an error. A row that has other keys, and to whose hidden ones logits of hundreds give weight, sees these."""
    visible = ~(logits <= IGNORED_AT).all(dim=1)
    if hidden is None:
        return visible
    left = visible & hidden.all(dim=1)
    seen = visible & ~left
    weight = torch.where(left[:, None], weights, torch.zeros_like(weights)).sum(-1, dtype=working_dtype(weights)).amax(1)
    return seen | (left & ((weight > WEIGHT_LEFT) & seen.any(-1))[..., None])


def may_be_masked(seen: Seen) -> bool:
    """Whether something may hide keys that is not known: a mask and a bias that differs by head in one tensor, or, where it is not
    known what was added, all heads have the same keys far below the largest logit of their rows. Waits for the device."""
    biases = seen.biases if isinstance(seen, Weights) else () if seen.mask is None or seen.mask.dtype == torch.bool else (seen.mask,)
    if any(map(hides_by_head, biases)):
        return True
    if not isinstance(seen, Weights) or seen.is_known:
        return False
    logits = seen.logits.detach()
    far = (logits <= logits.amax(-1, keepdim=True) - STEP) & (logits > IGNORED_AT)
    return bool(far.all(dim=1).any())


def makes_by_head(seen: Seen) -> bool:
    """Whether a capture has to make something of each logit that differs by head: a score, a bias or a mask."""
    if isinstance(seen, Weights) or seen.late_mask is None:
        return isinstance(seen, Queries) and seen.score_mod is not None
    mask = seen.late_mask
    return seen.late_nbytes > 1 or (isinstance(mask, mods.LateMask) and heads_of(seen) > 1 and mask.differs_by_head())


def tells_padding(seen: Seen) -> bool:
    """Whether a self-attention is over a whole sequence, so that its mask says which positions are padding."""
    if seen.shared:
        return False
    tensor = seen.q if isinstance(seen, Queries) else seen.weights
    return int(tensor.shape[2]) == keys_of(seen) - seen.extra > 0


def values_fit(v: Optional[torch.Tensor], batch: int, heads: int, keys: int) -> bool:
    """Whether a message with this number of samples, heads and keys may have these values."""
    return v is not None and v.dim() == 4 and v.dtype in DTYPE_NAMES and v.shape[0] in (1, batch) and v.shape[3] > 0 \
        and v.shape[1] > 0 and heads % v.shape[1] == 0 and v.shape[2] == keys


def broadcast(seen: Queries) -> Queries:
    """With the queries of all samples and heads, where torch would broadcast them. ValueError when it would not. Values
    that fit no message with these keys are left out."""
    q, k = seen.q, seen.k
    (of_q, q_heads), (of_k, k_heads) = q.shape[:2], k.shape[:2]
    of_mask, mask_heads = (1, 1) if seen.mask is None else ((1, 1) + tuple(seen.mask.shape[:-2]))[-2:]
    batch = of_q if of_q != 1 else of_k if of_k != 1 else of_mask
    heads = q_heads if q_heads != 1 else k_heads if k_heads != 1 else mask_heads
    if not {of_q, of_k, of_mask} <= {1, batch} or mask_heads not in (1, heads) or (k_heads and heads % k_heads):
        raise ValueError(f"queries {list(q.shape)}, keys {list(k.shape)} and a mask of {[of_mask, mask_heads]} samples and heads "
                         "do not fit together")
    is_whole = (of_q, q_heads) == (batch, heads)
    if seen.v is None or values_fit(seen.v, batch, heads, int(k.shape[2])):
        return seen if is_whole else seen._replace(q=q.expand(batch, heads, -1, -1))
    return seen._replace(q=q if is_whole else q.expand(batch, heads, -1, -1), v=None)


def lowered_dtype(tensor: torch.Tensor, lowered: bool) -> Optional[torch.dtype]:
    """As what the fused kernel gets it, when that is something else: under autocast f32 is lowered first."""
    return autocast_dtype(tensor.device.type) if lowered and tensor.dtype == torch.float32 else None


def autocast_dtype(kind: str) -> Optional[torch.dtype]:
    """The dtype that autocast lowers to on this kind of device; None when it is off."""
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == "cuda":
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if kind == "cpu" and torch.is_autocast_cpu_enabled() else None
