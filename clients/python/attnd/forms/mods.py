# SPDX-License-Identifier: MIT
"""mods: the functions that flex attention is given, evaluated for the part of a call that is captured.

mask_mod    (b, h, i, j) -> whether query i of head h may attend to key j
score_mod   (score, b, h, i, j) -> what takes the place of the logit; -inf hides the key, as does a step (base/hidden.py)

Both are functions of single numbers; torch.vmap makes them functions of many, as in torch's own flex attention. Rows
are evaluated in chunks of at most `ELEMENTS` logits. Everything here runs on the training thread, because the functions
may read tensors that change after the forward.

A score_mod that only hides keys, the same ones from all heads, leaves the logits to be what queries and keys tell: the
attention travels as these and a mask. For all others the weights are computed here. Finding out which one it is takes
an answer from the device, and is done once for each function; whether that still holds is checked where nobody waits,
on the sender thread.
"""
from __future__ import annotations

import contextlib
import functools
from typing import Any, Callable, ContextManager, Dict, Iterator, NamedTuple, Optional, Sequence, Set, Tuple, Union

import torch
from torch.overrides import TorchFunctionMode

from ..base.hidden import hidden_at
from ..base.masks import IGNORED_AT
from ..sending.devices import working_dtype

ELEMENTS = 1 << 22
_LOOKED_AT = 4  # rows of a chunk, to tell which values hide keys
_HEADS = 8  # of which keys are hidden at a time

MaskMod = Callable[..., torch.Tensor]
Cut = Union[slice, torch.Tensor]  # some of an axis


class Where(NamedTuple):
    """The numbers of samples, heads, queries and keys: int64 vectors."""
    samples: torch.Tensor
    heads: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor


def where(part: Sequence[Cut], keys: int, device: torch.device) -> Where:
    """The positions of a part of a call."""
    samples, heads, queries = (cut if isinstance(cut, torch.Tensor) else
                               torch.arange(cut.start, cut.stop, cut.step or 1, device=device) for cut in part)
    return Where(samples, heads, queries, torch.arange(keys, device=device))


def visible(mask_mod: MaskMod, at: Where) -> torch.Tensor:
    """bool [samples, heads, queries, keys] of what may be attended to; one sample or head when all are the same to the
    mask."""
    at = _needed(mask_mod, at)
    count, keys = len(at.samples) * len(at.heads), len(at.keys)
    with _evaluating(at.keys.device):
        made = [_mapped(mask_mod, at._replace(queries=rows)).bool()
                for rows in torch.split(at.queries, max(1, ELEMENTS // (count * keys)))]
    return torch.cat(made, dim=2) if len(made) > 1 else made[0].contiguous()


class LateMask:
    """The mask of a mask_mod: that of a part (samples, heads, rows) of a call, once it is known which one."""

    def __init__(self, mask_mod: MaskMod, keys: int, device: torch.device) -> None:
        self._mask_mod, self._keys, self._device = mask_mod, keys, device

    def __call__(self, part: Sequence[Cut]) -> torch.Tensor:
        return visible(self._mask_mod, where(part, self._keys, self._device))

    def differs_by_head(self) -> bool:
        """Whether it asks which head it is, of two or more."""
        return len(_needed(self._mask_mod, where((slice(0, 1), slice(0, 2), slice(0, 1)), 1, self._device)).heads) > 1


class ScoreMod:
    """A score_mod with the mask_mod of the same call, and learned sinks [H] whose exponents are part of every sum."""

    def __init__(self, score_mod: Callable[..., torch.Tensor], mask_mod: Optional[MaskMod] = None,
                 sinks: Optional[torch.Tensor] = None) -> None:
        self.score_mod = score_mod
        self.mask_mod = mask_mod
        self.sinks = sinks
        self._key = _identity_of(score_mod)

    def biased(self, q: torch.Tensor, k: torch.Tensor, scale: float, at: Where) -> bool:
        """Whether the weights are more than queries, keys and one mask for all heads tell. q [B,H,Tq,d] and
        k [B,Hkv,Tk,d] are cut like `at`."""
        if self.sinks is not None:
            return True
        if self._key not in _biased:
            _biased[self._key] = any(bool(_says_more(scores, changed))
                                     for _, _, scores, changed in self._chunks(q, k, scale, at))
        return _biased[self._key]

    def now_biased(self) -> None:
        """The function has begun to be so, as one with a learned bias that was 0."""
        _biased[self._key] = True

    def hidden(self, q: torch.Tensor, k: torch.Tensor, scale: float, at: Where) -> Tuple[torch.Tensor, torch.Tensor]:
        """(bool [B, 1, Tq, Tk]: what may be attended to; bool: whether the function is biased all the same)."""
        allowed = torch.empty(len(q), 1, q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
        more = torch.zeros((), dtype=torch.bool, device=q.device)
        for sample, rows, scores, changed in self._chunks(q, k, scale, at):
            allowed[sample, 0, rows] = _shown(scores, changed)[0]
            more = more | _says_more(scores, changed)
        return allowed, more

    def weights(self, q: torch.Tensor, k: torch.Tensor, scale: float,
                at: Where) -> Tuple[torch.Tensor, torch.Tensor]:
        """(weights, logits), each [B, H, Tq, Tk], with one more key when there are sinks: the sink."""
        logits = self.logits(q, k, scale, at, self.sinks is not None)
        if self.sinks is not None:
            logits[..., -1] = self.sinks.detach()[at.heads][:, None]
        weights = torch.empty_like(logits)
        for sample in range(len(q)):
            weights[sample] = _softmax(logits[sample])
        return weights, logits

    def logits(self, q: torch.Tensor, k: torch.Tensor, scale: float, at: Where, more: int = 0) -> torch.Tensor:
        """The numbers in the place of the logits, [B, H, Tq, Tk], -inf where a key is hidden; with room for some `more` keys."""
        found = None
        for sample, rows, _, changed in self._chunks(q, k, scale, at):
            if found is None:
                if len(q) == 1 and rows.stop == q.shape[2] and more == 0 and changed.is_contiguous():
                    return changed[None]
                found = torch.empty((*q.shape[:3], k.shape[2] + more), dtype=working_dtype(q), device=q.device)
            found[sample, :, rows, :k.shape[2]] = changed
        assert found is not None
        return found

    def _chunks(self, q: torch.Tensor, k: torch.Tensor, scale: float,
                at: Where) -> Iterator[Tuple[int, slice, torch.Tensor, torch.Tensor]]:
        """(sample, rows, logits [H, rows, Tk], what the functions make of them), in the precision of torch's own."""
        queries, precision = q.shape[2], working_dtype(q)
        count = max(1, ELEMENTS // (q.shape[1] * k.shape[2]))
        for sample in range(len(q)):
            keys = k[sample].detach()
            keys = keys if queries <= count else keys.to(precision)  # once for all chunks
            for first in range(0, queries, count):
                rows = slice(first, min(first + count, queries))
                here = Where(at.samples[sample], at.heads, at.queries[rows], at.keys)
                with _evaluating(q.device):
                    scores = _products(q[sample, :, rows].detach(), keys, precision).mul_(scale)
                    changed = _mapped(self.score_mod, here, scores)[0].to(precision)
                    if self.mask_mod is not None:
                        allowed = _mapped(self.mask_mod, _needed(self.mask_mod, here))[0].bool()
                        changed = changed.masked_fill(~allowed, -torch.inf)
                if changed is not scores:
                    changed = changed if self.mask_mod is not None else changed.clone()  # what it gives may be of others
                    every = -(-scores.shape[1] // _LOOKED_AT)
                    least = hidden_at(changed[:, ::every] - scores[:, ::every])
                    for some in range(0, len(scores), _HEADS):  # in parts: a third tensor of that size is not held
                        part = changed[some:some + _HEADS]
                        part.masked_fill_(part - scores[some:some + _HEADS] <= least, -torch.inf)
                yield sample, rows, scores, changed


def is_identity(score_mod: Callable[..., Any], device: torch.device) -> bool:
    """Whether a score_mod returns what it is given, as that of transformers does. It cannot tell one number from
    another in Python, so one call shows it."""
    score, number = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    try:
        with torch.no_grad():
            return score_mod(score, number, number, number, number) is score and score._version == 0
    except Exception:  # what is wrong with it shows where it is evaluated
        return False


def within_blocks(mask_mod: MaskMod, blocks: torch.Tensor, size: Sequence[int]) -> MaskMod:
    """A mask_mod that sees only the blocks, bool [B or 1, H or 1, rows, columns], which compiled code looks at."""
    def both(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        sample, head = (n if count > 1 else torch.zeros_like(i) for n, count in zip((b, h), blocks.shape))
        return mask_mod(b, h, i, j) & blocks[sample, head, i // size[0], j // size[1]]

    return both


_biased: Dict[Any, bool] = {}


def _identity_of(function: Callable[..., Any]) -> Any:
    """The same for functions that do the same, as those that each layer or forward makes anew: their code, and the
    plain values that it encloses."""
    code = getattr(function, "__code__", None)
    if code is None:
        return type(function)
    enclosed = []
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # it is empty
            value = cell.cell_contents
            enclosed.append(value if isinstance(value, (int, float, str, type(None))) else type(value))
    return code, tuple(enclosed)


def _products(q: torch.Tensor, k: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """[H, rows, Tk] of queries [H, rows, d] and keys [Hk, Tk, d], which are copied to the precision a few heads at once."""
    grouped = q.to(precision).reshape(len(k), -1, q.shape[2])
    found = torch.empty((*grouped.shape[:2], k.shape[1]), dtype=precision, device=q.device)
    heads = len(k) if k.dtype == precision else max(1, ELEMENTS // (2 * k[0].numel()))
    for queries, keys, products in zip(*(torch.split(one, heads) for one in (grouped, k, found))):
        torch.matmul(queries, keys.to(precision).transpose(1, 2), out=products)
    return found.view(len(q), -1, k.shape[1])


def _says_more(scores: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """Whether a visible logit differs from that of queries and keys, or heads see different keys."""
    allowed = _shown(scores, changed)
    other = allowed & (changed != scores) & (scores == scores)
    return other.any() | (allowed != allowed[:1]).any()


def _shown(scores: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    """Which logits were not made to be ignored; those of a model that diverges may be as small by themselves."""
    return ~((changed <= IGNORED_AT) & (changed != scores))


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    """Weights; a row that may attend to nothing is 0."""
    return torch.where((logits > IGNORED_AT).any(-1, keepdim=True), torch.softmax(logits, -1), 0.0)


def _needed(mask_mod: MaskMod, at: Where) -> Where:
    """With one sample and one head where the mask does not ask which one it is."""
    first = [n.reshape(-1)[0] for n in at]
    with _evaluating(at.keys.device), _Uses(first[:2]) as uses:
        mask_mod(*first)
    samples, heads = (n if id(one) in uses.used else one for n, one in zip(at[:2], first))
    return at._replace(samples=samples.reshape(-1), heads=heads.reshape(-1))


class _Uses(TorchFunctionMode):
    """Notes which of some tensors a function of torch is called with."""

    def __init__(self, watched: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._watched = {id(one) for one in watched}
        self.used: Set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._note((args, kwargs))
        return func(*args, **(kwargs or {}))

    def _note(self, given: Any) -> None:
        if isinstance(given, (tuple, list)):
            for one in given:
                self._note(one)
        elif isinstance(given, dict):
            self._note(list(given.values()))
        elif id(given) in self._watched:
            self.used.add(id(given))


def _mapped(function: Callable[..., torch.Tensor], at: Where, scores: Optional[torch.Tensor] = None) -> torch.Tensor:
    """[samples, heads, queries, keys] of what a function says of all numbers; `scores`: [heads, queries, keys] of one
    sample."""
    given: Tuple[torch.Tensor, ...] = at
    if scores is None:
        for axis in (3, 2, 1, 0):
            function = torch.vmap(function, in_dims=tuple(0 if i == axis else None for i in range(4)))
        return function(*given)
    for axis in (3, 2, 1):
        function = torch.vmap(function, in_dims=(0, *(0 if i == axis else None for i in range(4))))
    return function(scores, *given)[None]


@contextlib.contextmanager
def _evaluating(device: torch.device) -> Iterator[None]:
    """As torch evaluates such functions: a tensor may be indexed by a number that is a tensor; nothing is lowered."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _indexing()():
        yield


@functools.lru_cache(None)
def _indexing() -> Callable[[], ContextManager[Any]]:
    try:
        from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex
    except ImportError:
        return contextlib.nullcontext
    return TransformGetItemToIndex
