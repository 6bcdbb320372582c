# SPDX-License-Identifier: MIT
"""accelerator: tier `state` of tensors on an accelerator: their numbers are computed there, beside the training.

    training's thread   launches two kernels on the training's own stream, right behind the attention (device/launch.py), and
                        a copy of what they leave into pinned memory: 96 bytes a row (116 of all rows), 4 a key. Nothing is
                        captured until a thread has compiled the kernels. Without Triton, and of weights, PyTorch computes the
                        metrics, which are copied
    sender thread       waits for the copy
    a process beside    finishes the metrics, reduces them and packs the state (device/finisher.py), which the sender thread sends

Queries, keys and weights are read before the model does anything else with them, so nothing of the model is held or copied.
Nothing that is launched asks a device for an answer, so nobody waits. A capture of `ROWS_MAX` rows holds 59 MiB meanwhile.
Without memory a capture is dropped, and so are the next ones.

Self-check: of the first captures, and then of each in its turn, some rows are computed again, in the plain way. Where they
differ the state is not sent, and the next backend takes over: triton, reference, and at last none, which leaves tier raw.

Streams and events are those of the device's own module (torch.get_device_module, as torch.accelerator's are; torch.cuda in
older versions). On the CPU, which has them by name, the same lines run in the tests.
"""
from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from .cost import Cost
from .device import finisher, launch, pooled, reference, state, weights
from .device.entries import Entries, norms, values_of
from .device.problem import Problem, Rows, read
from .device.sums import wide
from .device.visible import Allowed, Known, known, looked_at, visible_keys_of
from .head_maps import HeadMaps
from .layer_state import Reduced
from .masks import IGNORED_AT
from .plan import strata
from .sender import NotYet

log = logging.getLogger("attnd")

ROWS_MAX = 1 << 18  # of a capture, over samples and heads
MASK_BYTES_MAX = 32 << 20  # of a mask that is made for the capture
REFERENCE_LOGITS_MAX = 1 << 24  # of a call, with masked ones
_ENTRIES = 1 << 20  # logits that are looked at, at once
_COPIED = 16 << 20  # bytes of queries and keys in another precision, at once, but for those of one head
_WEIGHTS_ROWS = 1 << 17  # in the same way
REST_AFTER_OUT_OF_MEMORY = 256  # captures
CHECKED_FIRST = 3  # captures
CHECKED_EVERY = 16  # steps, each layer
_CHECKED_ROWS = 4
_CHECKED = ("entropy", "confidence", "local_mass", "mean_distance", "first_token", "max_logit")
_CHECKED_TO = 5e-3  # relative to what is above 1
_ROUNDINGS = 4  # beside that, times the rounding of a logit: the weights of a row are off by about as much
_BACKENDS = ("triton", "reference")
_KINDS_WITHOUT = ("cpu", "meta", "mps")  # devices whose states the sender thread computes
_ROOM_KEPT_MAX = 4 << 20  # bytes of pinned memory that are kept for the next capture: those of all rows take more
_AWAITED = "the kernels, or the process that finishes what they leave, are not there yet"
_ALIKE_MAX = 256  # kinds of calls that are remembered
_NOTHING = contextlib.nullcontext()
_chosen = random.Random()  # not the training's


def random_rows(queries: int, rows: int, device: torch.device) -> Rows:
    """The numbers of some queries, one of each stratum, on their way to the device."""
    here = strata(queries, rows)
    there = torch.from_numpy(here)
    return Rows(there.pin_memory().to(device, non_blocking=True) if computes(device) else there.to(device), here)


class OfQueries(NamedTuple):
    """Queries [B, H, Tq, d] and keys [B, Hk, Tk, d]; head h reads key head (first_head + h) // group.

    precision   what the kernel of the model gets
    mask        bool or added, four dimensions, each 1 or full, the third of all queries or of the rows that are taken; None:
                `causal`, `window` and `documents` say all
    first       position of query 0
    rows        those that are taken; None: all
    present     bool [B, Tq]: which queries are no padding, beside what the mask says
    whole       all rows of all heads of the layer are taken
    shared      the mask is one for all samples: it tells of no padding
    tokens      [1]: how many positions the documents have; behind them is padding. None: all
    replaces    the mask is what takes the place of the logits
    sinks       f32 [H]: learned logits that take part in each softmax, and in nothing else
    """
    q: torch.Tensor
    k: torch.Tensor
    first_head: int
    group: int
    precision: torch.dtype
    scale: float
    softcap: float
    causal: bool
    window: int
    mask: Optional[torch.Tensor]
    documents: Optional[torch.Tensor]
    first: int
    cross: bool
    rows: Optional[Rows] = None
    present: Optional[torch.Tensor] = None
    whole: bool = False
    shared: bool = False
    tokens: Optional[torch.Tensor] = None
    replaces: bool = False
    sinks: Optional[torch.Tensor] = None


class OfWeights(NamedTuple):
    """Weights and logits [B, H, Tq, Tk]. `sink`: there is one more key, which is a learned sink; the queries are every
    `stride`th, from position `first` on; the rest as above."""
    weights: torch.Tensor
    logits: torch.Tensor
    sink: bool
    first: int
    stride: int
    cross: bool
    present: Optional[torch.Tensor] = None
    shared: bool = False


Asked = Union[OfQueries, OfWeights]


class Arrived(NamedTuple):
    """The numbers of a capture: rows that have numbers and valid ones that have none, of each head; `causal` by its mask,
    None: it has none; `values` [H] of a message."""
    rows: Dict[str, Reduced]
    shape: Tuple[int, int, int, int]
    sound: np.ndarray
    invalid: np.ndarray
    row_sum_error: float
    maps: Optional[HeadMaps]
    causal: Optional[bool]
    values: Dict[str, np.ndarray]


Then = Callable[[Arrived], Any]  # can be pickled
Wait = Callable[..., Any]  # wait(then): then(the numbers), which may be called in another process; None when they are not to be used


def _unchanged(numbers: Arrived) -> Arrived:
    return numbers


class Accelerator:
    """Computes for one watch. launch() is for the training's thread, what it returns for the sender's."""

    def __init__(self, job: str, cost: Cost):
        self._job = job
        self._cost = cost
        self._trusted = list(_BACKENDS)
        self._captures = 0
        self._step, self._steps, self._of_step = -1, 0, 0  # the step of the last capture, steps, and captures of that one
        self._resting = 0  # captures that are not tried, for lack of memory
        self._rows: Optional[Tuple[Any, Rows]] = None
        self._alike: Dict[Any, Any] = {}  # what was found out of calls whose tensors alone are others

    def rows(self, forward: Tuple[int, int], queries: int, rows: int, device: torch.device) -> Rows:
        """random_rows(), the same for all layers of a forward, by step and microbatch, that are computed on one stream."""
        key = forward, queries, rows, _clock(device).stream()
        if self._rows is None or self._rows[0] != key:
            self._rows = key, random_rows(queries, rows, device)
        return self._rows[1]

    @property
    def is_trusted(self) -> bool:
        """Whether some backend is left."""
        return bool(self._trusted)

    def is_fast_for(self, logits: float, q: torch.Tensor, precision: torch.dtype, documents: Optional[torch.Tensor]) -> bool:
        """Whether this number of logits takes the training's thread no more than some milliseconds to launch: without the
        kernel each chunk of them is launched by itself. The rest as of OfQueries."""
        if "reference" in self._trusted and logits <= REFERENCE_LOGITS_MAX:
            return True
        if "triton" not in self._trusted:
            return False
        key = q.device, q.shape[3], precision, None if documents is None else documents.dtype
        if key not in self._alike:
            row = torch.empty(1, 1, 1, q.shape[3], dtype=precision, device=q.device)
            alike = Problem(row, row, documents=None if documents is None else documents.new_empty(1, 1))
            self._alike[key] = launch.unable(alike) is None
        return bool(self._alike[key])

    def launch(self, asked: Asked, step: int, side: int = 0) -> "Wait":
        """Launches the computation; what is returned waits for the numbers. `side`: cells of the maps of the first sample, 0
        for none. Raises NotYet until the kernels, and the process that finishes, are there; and MemoryError without memory, and
        for a while after that: asking for some that is not there makes torch give back what it keeps for the training, which
        takes its time."""
        if self._resting > 0:
            self._resting -= 1
            raise MemoryError("the device was out of memory not long ago")
        try:
            with torch.no_grad() if torch.is_grad_enabled() else _NOTHING:
                return self._launched(asked, step, side)
        except Exception as error:
            if _is_lack_of_memory(error):
                self._resting = REST_AFTER_OUT_OF_MEMORY
            raise

    def _launched(self, asked: Asked, step: int, side: int) -> "Wait":
        checked = self._takes_check(step)
        device = asked[0].device
        clock = _clock(device)
        stream = clock.stream()
        is_awaited = clock.finishes_beside and not finisher.shared().is_ready
        began = clock.event(stream)
        if isinstance(asked, OfQueries):
            computed = self._queries(asked, checked, side, is_awaited)
        elif is_awaited:
            raise NotYet(_AWAITED)
        else:
            with reference.exact(device):
                computed = _weights(asked, side)
        parcel = _Parcel(clock, stream, computed.tensors)
        self._captures += 1
        self._of_step += 1
        computed = computed._replace(tensors={})

        def wait(then: Then = _unchanged) -> Any:
            finishes: Callable[..., Any] = finisher.shared().run if clock.finishes_beside else _finish_here
            check, made = parcel.take(lambda data: finishes(_finish, computed, parcel.about, then, data=data))
            self._cost.spent(step, clock.seconds(began, parcel.ended), device=True)
            clock.events += began, parcel.ended
            agrees = check is None or computed.backend is None or self._agrees(computed.backend, check, device)
            return made if agrees else None

        return wait

    def _takes_check(self, step: int) -> bool:
        """Whether this capture is checked: the first ones, then one in CHECKED_EVERY, another one of its step each time."""
        if step != self._step:
            self._step, self._steps, self._of_step = step, self._steps + 1, 0
        return self._captures < CHECKED_FIRST or (self._steps + self._of_step) % CHECKED_EVERY == 0

    def _queries(self, asked: OfQueries, checked: bool, side: int = 0, is_awaited: bool = False) -> "_Computed":
        device, (batch, heads, queries, _) = asked.q.device, asked.q.shape
        blocks: List[_Block] = []
        backend = "reference"
        head = _chosen.randrange(heads) if checked else -1
        said, facts = _said(asked)
        with reference.exact(device) if checked or side else _NOTHING:
            for some, problem in _problems(asked, self._alike):
                if "able" not in problem.alike:
                    problem.alike["able"] = launch.unable(problem) is None
                if "triton" in self._trusted and problem.alike["able"]:
                    backend = "triton"
                    of_bias, is_part = 0 if asked.mask is None or blocks else asked.mask.shape[1], said is not None
                    is_awaited |= not self._tried(problem, launch.is_ready, asked.whole, of_bias, side, is_part)
                if is_awaited:
                    raise NotYet(_AWAITED)
                again = _again(problem, head - some.start) if some.start <= head < some.stop else None
                block = self._tried(problem, _by_kernel, asked.whole, again) if backend == "triton" else _by_reference(problem, again)
                if asked.mask is not None and not blocks:
                    by_kernel = backend == "triton"
                    facts["looked"] = self._tried(problem, launch.looked_at, asked.mask.shape[1]) if by_kernel else _looked_at(asked)
                if side and asked.rows is None:
                    block.tensors.update(_maps(problem, block, side, asked.whole, said, facts))
                blocks.append(block)
        shape = batch, heads, queries if asked.rows is None else len(asked.rows.here), asked.k.shape[2]
        return _Computed({**facts, **_numbered(blocks)}, [block.finish for block in blocks], said, shape, backend, asked.first,
                         asked.whole and backend == "triton")

    def _tried(self, problem: Problem, launches: Callable[..., Any], *how: Any) -> Any:
        """Tries kernels. One that fails would fail again, after as many seconds of compiling: it is left for good."""
        try:
            return launches(problem, *how)
        except Exception as error:
            if not _is_lack_of_memory(error):
                self._distrust("triton", f"the kernel does not run on {problem.q.device}: {error}")
            raise

    def _agrees(self, backend: str, check: np.ndarray, device: torch.device) -> bool:
        """Whether rows that were computed again are the same; else the backend is not used again, which is said."""
        found, expected, rounding = check
        with np.errstate(invalid="ignore"):
            right = np.abs(found - expected) <= (_CHECKED_TO + _ROUNDINGS * rounding) * np.maximum(1, np.abs(expected))
        right |= ~np.isfinite(found) & ~np.isfinite(expected)
        if right.all():
            return True
        metric, row = np.argwhere(~right)[0]
        self._distrust(backend, f"what it computes on {device} is wrong: {_CHECKED[metric]} of a row is {found[metric, row]:.6g}, "
                                f"and {expected[metric, row]:.6g} when it is computed in the plain way. The state is not sent")
        return False

    def _distrust(self, backend: str, why: str) -> None:
        if backend in self._trusted:
            self._trusted.remove(backend)
            following = f"The backend {self._trusted[0]!r} takes over" if self._trusted else "From now on tier raw travels"
            log.warning("job %s: the backend %r is not used again: %s. %s", self._job, backend, why, following)


_Numbers = Tuple[Dict[str, torch.Tensor], Dict[str, torch.Tensor]]
_Finish = Callable[[Dict[str, torch.Tensor], Optional[Known]], _Numbers]


class _Block(NamedTuple):
    """Some heads: what travels, and what makes of it, on the host, the metrics of rows, [B, H, Tq] each, and what else there
    is, whose second dimension is heads."""
    tensors: Dict[str, torch.Tensor]
    finish: _Finish


@dataclass(frozen=True)
class _Said:
    """Makes the meaning of mask and padding of what was found of them, there or on the host: `looked` of the mask, `tokens` as of
    OfQueries, `present` of the rows. The queries are `count`, every `stride`th, or `rows` of them, and end before position
    `after`."""
    first: int
    after: int
    keys: int
    count: int
    causal: bool
    cross: bool
    shared: bool
    rows: Optional[np.ndarray] = None
    stride: int = 1

    def __call__(self, facts: Dict[str, torch.Tensor]) -> Known:
        device = next(iter(facts.values())).device
        at = torch.arange(self.count, device=device) * self.stride if self.rows is None else torch.from_numpy(self.rows)
        end = facts["tokens"].long() if "tokens" in facts else torch.full((1,), min(self.keys, self.after), device=device)
        found = Known(at[None] < (end[:, None] if "tokens" in facts else self.after), end, torch.full((), self.causal, device=device),
                      end if "tokens" in facts else torch.full_like(end, self.keys))
        if "looked" in facts:
            found = known(facts["looked"], self.first + at, self.after, self.keys, self.cross, self.shared)
        return found._replace(valid=found.valid & facts["present"]) if "present" in facts else found


class _Computed(NamedTuple):
    """Tensors on the device, those of each block by its number, what finishes these, what makes the meaning of the others, if there
    is mask or padding, and what computed them. All but the tensors can be pickled."""
    tensors: Dict[str, torch.Tensor]
    finish: Sequence[_Finish]
    said: Optional[_Said]
    shape: Tuple[int, int, int, int]
    backend: Optional[str]
    q_offset: int
    whole: bool


def _numbered(blocks: Sequence[_Block]) -> Dict[str, torch.Tensor]:
    return {f"{number}.{name}": one for number, block in enumerate(blocks) for name, one in block.tensors.items()}


def _finish(computed: _Computed, about: "_About", then: Then, data: Any) -> Tuple[Optional[np.ndarray], Any]:
    """Finishes what has arrived on the host: the rows that were computed again, if there are any, and then(the numbers)."""
    arrays = _unpacked(about, data)
    rows, part = _on_host(computed, {name: _here(one) for name, one in arrays.items()})
    return part.get("check"), then(_arrived(rows, part, computed))


def _finish_here(finish: Callable[..., Any], *given: Any, data: Any) -> Any:
    return finish(*given, data)


def _on_host(computed: _Computed, here: Dict[str, torch.Tensor]) -> Tuple[Dict[str, Reduced], Dict[str, np.ndarray]]:
    """Rows and what else there is, of what has arrived on the host."""
    meaning, found = None if computed.said is None else computed.said(here), []
    for number, finish in enumerate(computed.finish):
        mine = {name.partition(".")[2] or name: one for name, one in here.items() if name.startswith(f"{number}.") or name == "looked"}
        rows, part = finish(mine, meaning)
        part.update({name: mine[name] for name in ("maps", "extent") if name in mine})
        found.append((rows, part))
    rows = {name: torch.cat([some[name] for some, _ in found], 1) for name in found[0][0]}
    parts = [part for _, part in found]
    names = dict.fromkeys(name for part in parts for name in part)
    joined = {name: torch.cat([part[name] for part in parts if name in part], 1).numpy() for name in names}
    if meaning is not None:
        joined["causal"] = meaning.causal.numpy()
    return state.reduce_rows(rows), joined


def _is_lack_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def computes(device: torch.device) -> bool:
    """Whether states are computed on this kind of device."""
    return device.type not in _KINDS_WITHOUT and hasattr(_module(device), "Stream")


def _module(device: torch.device) -> Any:
    """torch.cuda or such."""
    get: Callable[[str], Any] = getattr(torch, "get_device_module", lambda kind: getattr(torch, kind, None))
    return get(device.type)


# ------------------------------------------------------------------------------------------ from queries and keys

def _heads_at_once(asked: OfQueries) -> int:
    """How many heads make a block, by what is copied to the precision of the kernel and by what is launched at once."""
    batch, _, _, width = asked.q.shape
    tokens = sum(one.shape[2] for one in (asked.q, asked.k) if one.dtype != asked.precision)
    copied = batch * tokens * width * torch.finfo(asked.precision).bits // 8
    return max(1, min(_COPIED // max(1, copied), launch.SLICE_HEADS // batch))


def _slices(asked: OfQueries, most: int) -> Sequence[slice]:
    """Cuts the heads into blocks of at most `most` that read all of some key heads, or one of them."""
    heads, group, found, begin = asked.q.shape[1], asked.group, [], 0
    while begin < heads:
        to_edge = group - (asked.first_head + begin) % group
        count = min(most, to_edge)
        if to_edge == group and most >= group:
            count = most // group * group
        if begin + count > heads:
            count = heads - begin if heads - begin < group else (heads - begin) // group * group
        found.append(slice(begin, begin + count))
        begin += count
    return found


def _problems(asked: OfQueries, alike: Dict[Any, Any]) -> Iterator[Tuple[slice, Problem]]:
    """Each block of heads, and its problem. `alike`: problems without tensors, by all that calls with others have in common."""
    q, k, rows = asked.q, asked.k, asked.rows
    key = (_looks(q), _looks(k), asked[2:9], asked.replaces, asked.sinks is None, None if rows is None else (len(rows.here), rows.there.data_ptr() % 16), asked.first,
           asked.cross, _looks(asked.mask), _looks(asked.documents))
    if key not in alike:
        if len(alike) >= _ALIKE_MAX:
            alike.clear()
        alike[key] = [(some, _problem(asked, some).like(None, None, None, None, None))
                      for some in _slices(asked, _heads_at_once(asked))]
    for some, one in alike[key]:
        yield some, one.like(*_tensors_of(asked, some), rows, None if asked.sinks is None else asked.sinks[some])


def _looks(tensor: Optional[torch.Tensor]) -> Any:
    """All that a problem is told by of a tensor, but for its numbers."""
    return None if tensor is None else (tensor.device, tensor.dtype, tensor.shape, tensor.stride(), tensor.data_ptr() % 16)


def _tensors_of(asked: OfQueries, some: slice) -> Tuple[Any, Any, Any, Any]:
    """Queries, keys, mask and documents of some heads, in the precision of the kernel."""
    q, k, mask = asked.q, asked.k, asked.mask
    if some.stop - some.start < q.shape[1]:
        q, mask = q[:, some], mask if mask is None or mask.shape[1] == 1 else mask[:, some]
    first, last = (asked.first_head + some.start) // asked.group, (asked.first_head + some.stop - 1) // asked.group
    k = k if last - first + 1 == k.shape[1] else k[:, first:last + 1]
    return (q if q.dtype == asked.precision else q.to(asked.precision), k if k.dtype == asked.precision else k.to(asked.precision),
            mask, asked.documents)


def _problem(asked: OfQueries, some: slice) -> Problem:
    q, k, mask, documents = _tensors_of(asked, some)
    rows = asked.rows
    found = Problem(q, k, asked.scale, asked.causal, asked.first, asked.window, None, None, mask if rows is None else None,
                    asked.softcap, None, documents, asked.cross)
    found.replaces = asked.replaces
    return found if rows is None else found.sampled(rows, mask)


def _said(asked: OfQueries) -> Tuple[Optional[_Said], Dict[str, torch.Tensor]]:
    """Makes the meaning of mask and padding, None: there is neither; and the facts of them that are known already."""
    queries, keys, rows = asked.q.shape[2], asked.k.shape[2], asked.rows
    facts = {} if asked.tokens is None else {"tokens": asked.tokens}
    if asked.present is not None:
        facts["present"] = asked.present if rows is None else asked.present[:, rows.there]
    if asked.mask is None and not facts:
        return None, facts
    return _Said(asked.first, asked.first + queries, keys, queries, asked.causal, asked.cross, asked.shared,
                 None if rows is None else rows.here), facts


def _looked_at(asked: OfQueries) -> torch.Tensor:
    """The mask, by PyTorch."""
    mask, keys, rows = asked.mask, asked.k.shape[2], asked.rows
    assert mask is not None
    some = torch.arange(asked.q.shape[2], device=mask.device) if rows is None else rows.there
    mask = mask if mask.shape[2] in (1, len(some)) else mask.index_select(2, some)
    return looked_at(_allowed(mask, keys, asked.causal, asked.window, some, asked.first), len(some), keys)


def _allowed(mask: torch.Tensor, keys: int, causal: bool, window: int, rows: torch.Tensor, first: int = 0) -> Allowed:
    """The keys that a mask of the queries `rows` and the words beside it leave to some of these; to some head, where heads
    differ."""
    j = torch.arange(keys, device=mask.device)

    def allowed(some: slice) -> torch.Tensor:
        mine = rows[some]
        part = mask[:, :, some] if mask.shape[2] > 1 else mask
        seen = part if part.dtype == torch.bool else ~(part <= IGNORED_AT)
        p = first + mine[:, None]
        seen = seen.any(1).expand(-1, len(mine), keys)
        if causal:
            seen = seen & (j <= p)
        return seen & (j > p - window) if window else seen

    return allowed


@torch.no_grad()
def valid_of(mask: torch.Tensor, causal: bool, window: int) -> torch.Tensor:
    """Which queries of self-attention are no padding, bool [B or 1, T], by a mask [B or 1, H or 1, T, T]: on its device and
    in the training's stream, which waits for nothing."""
    rows = torch.arange(mask.shape[2], device=mask.device)
    return known(looked_at(_allowed(mask, len(rows), causal, window, rows), len(rows), len(rows)), rows, len(rows), len(rows), False).valid


def _left(rows: Dict[str, torch.Tensor], problem: Problem,
          meaning: Optional[Known]) -> Tuple[Dict[str, torch.Tensor], Dict[str, torch.Tensor]]:
    """The numbers without those of padding; and how many rows have some and how many valid ones have none."""
    sound = torch.isfinite(rows["entropy"])
    rows = {name: values for name, values in rows.items() if any(values.stride())}  # the others: no row has one
    if meaning is None:
        return rows, {"sound": sound.sum((0, 2)), "invalid": (~sound).sum((0, 2))}
    valid = meaning.valid[:, None]
    sound = sound & valid
    p = problem.position(torch.arange(problem.queries, device=valid.device))
    for name, step in (("previous_token", -1), ("diagonal", 0), ("next_token", 1)):
        if name in rows:
            rows[name] = _only(rows[name], p + step < meaning.end[:, None, None])
    return {name: _only(values, valid) for name, values in rows.items()}, {
        "sound": sound.sum((0, 2)), "invalid": (valid & ~sound).sum((0, 2))}


def _only(values: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    return torch.where(there, values, torch.full_like(values, math.nan))


class _Again(NamedTuple):
    """Rows of a head of a sample that were computed again: f64 [2, metrics, rows], their numbers, and how far products in f32
    may put a logit of the row off: 2^-21 of the lengths of its vectors."""
    sample: int
    head: int
    rows: Sequence[int]
    numbers: torch.Tensor

    def beside(self, rows: Dict[str, torch.Tensor]) -> torch.Tensor:
        """The same after what was found: f64 [3, metrics, rows]."""
        found = torch.stack([torch.stack([rows[name][self.sample, self.head, i] for i in self.rows]) for name in _CHECKED])
        return torch.cat([found[None].to(self.numbers.dtype), self.numbers])


def _again(p: Problem, head: int) -> _Again:
    """Some rows of the head, of some sample, others each time."""
    f64 = wide(p.q.device)
    sample = _chosen.randrange(p.batch)
    at = _chosen.sample(range(p.queries), min(_CHECKED_ROWS, p.queries))
    j = torch.arange(p.keys, device=p.q.device)
    position = torch.stack([torch.full_like(j[0], p.position(i)) for i in at])[:, None]
    q, k = torch.stack([p.q[sample, head, p.number(i)] for i in at]).to(f64), p.k[sample, head // p.group].to(f64)
    s = q @ k.t() * p.scale
    rounding = q.norm(dim=1) * k.norm(dim=1).amax() * (abs(p.scale) * 2.0**-21)
    s = torch.tanh(s / p.softcap) * p.softcap if p.softcap else s
    seen = torch.ones_like(s, dtype=torch.bool)
    if p.bias is not None:
        bias = p.bias.expand(p.batch, p.heads, -1, -1)[sample, head]
        bias = torch.stack([bias[(p.number(i) if p.bias_of_all else i) % len(bias)] for i in at])
        seen = ~p.hidden(bias).expand(seen.shape)
        s = s if bias.dtype == torch.bool else bias.to(f64) if p.replaces else s + bias
    if p.causal:
        seen = seen & (j <= position)
    if p.window:
        seen = seen & (j > position - p.window)
    if p.documents is not None:
        seen = seen & (p.documents[sample][position.clamp(max=p.keys - 1)] == p.documents[sample]) & (position < p.keys)
    logits = torch.where(seen, s, torch.full_like(s, -math.inf))
    a = torch.softmax(logits if p.sinks is None else torch.cat([logits, p.sinks[head].to(f64).expand(len(at), 1)], 1), 1)[:, :p.keys]
    distance = (position - j).abs()
    top = logits.amax(1)
    numbers = (-torch.xlogy(a, a).sum(1), a.amax(1), (a * (distance <= p.local_window)).sum(1), (a * distance).sum(1),
               _only(a[:, 0], position[:, 0] >= 1), top)
    expected = torch.stack([_only(one, torch.isfinite(top)) for one in numbers])
    return _Again(sample, head, at, torch.stack([expected, rounding.expand_as(expected)]))


@dataclass(frozen=True)
class _Left:
    """Finishes, on the host, what was computed of a problem, which Problem.on_host() and the numbers of its rows tell: by the
    reference these metrics, without `names` the sums that the kernels leave."""
    problem: bytes
    rows: Optional[np.ndarray]
    again: Optional[_Again]
    whole: bool = False
    names: Tuple[str, ...] = ()

    def __call__(self, here: Dict[str, torch.Tensor], meaning: Optional[Known]) -> _Numbers:
        p = read(self.problem, self.rows)
        p = p.like(p.q, p.k, p.bias, p.documents, p.rows, here.get("sinks"))
        if self.names:
            entries, there = _entries(p, self.whole, meaning, (here["q"], here["k"]))
            rows = launch.whole(p, dict(zip(self.names, here["rows"])))
        else:
            _, flat, of_keys = launch.parts_of(p, self.whole, here["left"])
            left = launch.Swept(*(one.view(-1, p.batch * p.heads, p.queries) for one in flat))
            if p.bias is not None and p.bias.shape[1] > 1:  # keys are visible that some head sees
                left.sums[launch.VISIBLE] = visible_keys_of(here["looked"], p)
            entries, there = _entries(p, self.whole, meaning, (launch.lengths_of_queries(p, left), of_keys))
            rows = launch.rows(p, entries, left)
        return _finished(p, rows, entries, meaning, there, self.again, here)


def _by_kernel(problem: Problem, whole: bool, again: Optional[_Again]) -> _Block:
    """Launches the kernels."""
    room, left, of_keys = launch.parts_of(problem, whole)
    launch.swept(problem, slice(0, problem.batch * problem.heads), launch.lengths_of_keys(problem, of_keys), whole, left)
    return _block({"left": room}, problem, again, whole)


def _by_reference(problem: Problem, again: Optional[_Again]) -> _Block:
    """Launches the reference. Sums over weights and logits would cost half as many launches again: only the numbers of a
    message that need none exist."""
    found = {name: values for name, values in reference.rows(problem).items() if any(values.stride())}  # the others: no row has one
    tensors = {"rows": torch.stack(list(found.values())), "q": norms(problem.taken().q), "k": norms(problem.k)}
    return _block(tensors, problem, again, False, tuple(found))


def _block(tensors: Dict[str, torch.Tensor], p: Problem, again: Optional[_Again], *how: Any) -> _Block:
    """With the rows that were computed again, whose numbers travel, too, as sinks do."""
    if p.sinks is not None:
        tensors["sinks"] = p.sinks
    if again is not None:
        tensors["again"], again = again.numbers, again._replace(numbers=torch.empty(0, device="cpu"))
    return _Block(tensors, _Left(p.on_host(), None if p.rows is None else p.rows.here, again, *how))


def _entries(problem: Problem, whole: bool, meaning: Optional[Known],
             lengths: Tuple[torch.Tensor, torch.Tensor]) -> Tuple[Entries, Optional[torch.Tensor]]:
    """Entries of the valid queries, and which keys are no padding; None: all. `lengths` of queries and keys."""
    if meaning is None:
        return Entries(problem, whole, torch.ones(1, 1, 1, dtype=torch.bool, device="cpu"), lengths), None
    there = torch.arange(problem.keys, device="cpu") < meaning.keys[:, None, None]
    return Entries(problem, whole, meaning.valid[:, None], lengths), there


def _finished(problem: Problem, rows: Dict[str, torch.Tensor], entries: Entries, meaning: Optional[Known],
              there: Optional[torch.Tensor], again: Optional[_Again],
              here: Dict[str, torch.Tensor]) -> Tuple[Dict[str, torch.Tensor], Dict[str, torch.Tensor]]:
    beside = None if again is None else again._replace(numbers=here["again"]).beside(rows)
    rows, counts = _left(rows, problem, meaning)
    part = {name: one[None] for name, one in counts.items()}
    for name, one in zip(("totals", "extremes"), entries.left(problem, rows, there)):
        part[name] = one.transpose(1, 2)
    return rows, part if beside is None else {**part, "check": beside}


# --------------------------------------------------------------------------------------------------- from weights

def _weights(asked: OfWeights, side: int = 0) -> _Computed:
    weights_of, logits = (one[..., :-1] if asked.sink else one for one in (asked.weights, asked.logits))
    batch, heads, queries, keys = weights_of.shape
    device = logits.device
    step = max(1, _ENTRIES // (batch * heads * keys))
    mask = torch.cat([~(logits[:, :, begin:begin + step] <= IGNORED_AT).all(1) for begin in range(0, queries, step)], 1)
    facts = {"looked": looked_at(lambda some: mask[:, some], queries, keys), **({} if asked.present is None else {"present": asked.present})}
    said = _Said(asked.first, asked.first + queries * asked.stride, keys, queries, False, asked.cross, asked.shared, None, asked.stride)
    meaning = said(facts)
    words = weights.Words(q_offset=asked.first, q_stride=asked.stride, mask=mask, cross=asked.cross, valid=meaning.valid,
                          end=meaning.end)
    step, blocks = max(1, _WEIGHTS_ROWS // (batch * queries)), []
    for begin in range(0, heads, step):
        judged = weights.rows(weights_of[:, begin:begin + step], words, asked.sink)
        block = _by_weights({name: values.float() for name, values in judged.rows.items()}, judged.row_sum_error)
        if side and asked.stride == 1:
            block.tensors.update(_of_pooled(pooled.of_weights(weights_of[:, begin:begin + step], words, 0, side)))
        blocks.append(block)
    return _Computed({**facts, **_numbered(blocks)}, [block.finish for block in blocks], said, (batch, heads, queries, keys), None, asked.first, False)


@dataclass(frozen=True)
class _WeightsLeft:
    """The metrics that were computed of weights."""
    names: Tuple[str, ...]

    def __call__(self, here: Dict[str, torch.Tensor], meaning: Optional[Known]) -> _Numbers:
        assert meaning is not None
        found = dict(zip(self.names, here["rows"]))
        sound = torch.isfinite(found["entropy"])
        return found, {"sound": sound.sum((0, 2))[None], "invalid": (meaning.valid[:, None] & ~sound).sum((0, 2))[None],
                       "row_sum_error": here["error"].view(1, 1)}


def _by_weights(rows: Dict[str, torch.Tensor], row_sum_error: torch.Tensor) -> _Block:
    return _Block({"rows": torch.stack(list(rows.values())), "error": row_sum_error}, _WeightsLeft(tuple(rows)))


# ------------------------------------------------------------------------------------------ their way to the host

def _maps(p: Problem, block: _Block, side: int, whole: bool, said: Optional[_Said],
          facts: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """Maps of a block of heads of all rows, and, if there is padding, where that of their sample ends."""
    valid, shown = None if said is None else said(facts).valid, None
    if "left" not in block.tensors:
        return _of_pooled(pooled.of_queries(p, 0, side, None, valid))
    if valid is not None:
        first, end = (torch.full_like(valid[0], number, dtype=torch.int64) for number in (0, p.keys))
        if "looked" in facts:
            _, first, last = facts["looked"][0, :3 * p.queries].long().view(3, -1)
            end = last + 1
        shown = pooled.part_of(valid[0], valid[0], first, end, p.keys)
    values = launch.maps(p, launch.parts_of(p, whole, block.tensors["left"])[1], side, shown)
    return {"maps": values[None], **({} if shown is None else {"extent": shown.extent[None, :, None]})}


def _of_pooled(found: pooled.Pooled) -> Dict[str, torch.Tensor]:
    return {"maps": found.values[None], "extent": found.extent[None, :, None]}


def _here(array: np.ndarray) -> torch.Tensor:
    """On the host, whatever device is the default."""
    return torch.tensor(array, device="cpu")


def _arrived(rows: Dict[str, Reduced], arrays: Dict[str, np.ndarray], computed: _Computed) -> Arrived:
    maps = None
    if "maps" in arrays:
        extent = arrays["extent"][0, :4, 0] if "extent" in arrays else np.array([0, computed.shape[2], 0, computed.shape[3]])
        maps = pooled.Pooled(_here(arrays["maps"][0]), _here(extent), *computed.shape[2:], computed.q_offset,
                             0).read()
    sound = arrays["sound"][0]
    error = float(np.fmax.reduce(arrays["row_sum_error"], None)) if "row_sum_error" in arrays else 0.0 if sound.any() else math.nan
    causal = bool(arrays["causal"]) if "causal" in arrays else None
    values = {}
    if "totals" in arrays:
        totals, extremes = (_here(arrays[name]).transpose(1, 2) for name in ("totals", "extremes"))
        values = {name: one.numpy() for name, one in values_of(totals, extremes, *computed.shape[2:], computed.whole).items()}
    return Arrived(rows, computed.shape, sound, arrays["invalid"][0], error, maps, causal, values)


def _packed(tensors: Dict[str, torch.Tensor]) -> torch.Tensor:
    """The bytes of all, one after another."""
    parts = [one.reshape(-1).view(torch.uint8) for one in tensors.values()]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


_About = Sequence[Tuple[str, Tuple[int, ...], int, str]]  # name, shape, bytes of an element, dtype of each tensor


class _Parcel:
    """Tensors on their way to the host, in one piece of pinned memory."""

    def __init__(self, clock: "_Clock", stream: Any, tensors: Dict[str, torch.Tensor]):
        self.about: _About = [(name, tuple(one.shape), one.element_size(), str(one.dtype).rpartition(".")[2])
                              for name, one in tensors.items()]
        packed = _packed(tensors)
        self._nbytes = packed.numel()
        bits = (self._nbytes - 1).bit_length()
        self._rooms = clock.rooms[bits]
        try:
            self._room = self._rooms.pop()
        except IndexError:
            self._room = torch.empty(1 << bits, dtype=torch.uint8, device="cpu", pin_memory=clock.pins)
        self._room[:self._nbytes].copy_(packed, non_blocking=True)
        self.ended = clock.event(stream)

    def take(self, read: Callable[[np.ndarray], Any]) -> Any:
        """read(their bytes), which waits until they are there. Once."""
        self.ended.synchronize()
        try:
            return read(np.asarray(self._room.numpy())[:self._nbytes])
        finally:
            if self._room.numel() <= _ROOM_KEPT_MAX:
                self._rooms.append(self._room)


def _unpacked(about: _About, data: Any) -> Dict[str, np.ndarray]:
    begin, found = 0, {}
    for name, shape, size, dtype in about:
        end = begin + size * math.prod(shape)
        found[name] = np.frombuffer(bytes(data[begin:end]), dtype=dtype).reshape(shape)
        begin = end
    return found


class _Clock:
    """Moments of the stream that a device works through at the time."""

    def __init__(self, device: torch.device):
        self.module = _module(device)
        self.pins = self.finishes_beside = device.type != "cpu"
        self._index = (device,) if self.pins else ()
        # Pinned memory by the bits of its size, which is kept unless it is large: torch may ask the device about memory that
        # was freed, which a CUDA graph that the training captures would not bear.
        self.rooms: Dict[int, List[torch.Tensor]] = defaultdict(list)
        self.events: List[Any] = []  # which nobody waits for any more

    def event(self, stream: Any) -> Any:
        """This moment; who waits for it sleeps."""
        try:
            event = self.events.pop()
        except IndexError:
            event = self.module.Event(**({"enable_timing": True} if self.pins else {}),
                                      **({"blocking": True} if self.module is getattr(torch, "cuda", None) else {}))
        event.record(stream)
        return event

    def stream(self) -> Any:
        """The one of the training at the moment."""
        return self.module.current_stream(*self._index)

    def seconds(self, began: Any, ended: Any) -> float:
        """The time between two moments."""
        return float(began.elapsed_time(ended)) / 1e3 if hasattr(began, "elapsed_time") else 0.0


_clocks: Dict[torch.device, _Clock] = {}


def _clock(device: torch.device) -> _Clock:
    if device not in _clocks:
        _clocks[device] = _Clock(device)
    return _clocks[device]
