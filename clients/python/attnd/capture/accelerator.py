# SPDX-License-Identifier: MIT
"""accelerator: tier `rows` of tensors on an accelerator: the sums of their rows are computed there, beside the training.

    training's thread   launches two kernels on the training's own stream, right behind the attention (device/launch.py), and
                        a copy of what they leave into pinned memory: 96 bytes a row (116 of all rows, 8 more with tokens), 4 a key. Nothing is
                        captured until a thread has compiled the kernels. Without Triton, and of weights, PyTorch computes the
                        sums, which are copied
    sender thread       waits for the copy, finds out where the rows stand (device/arrived.py), and sends both: attnd makes numbers of them

Queries, keys and weights are read before the model does anything else with them, so nothing of the model is held or copied.
Nothing that is launched asks a device for an answer, so nobody waits. A capture of `ROWS_MAX` rows holds 59 MiB meanwhile.
Without memory a capture is dropped, and so are the next ones.

Self-check: of the first captures, and then of each in its turn, some rows are computed again, in the plain way. Where they
differ the rows are not sent, and the next backend takes over: triton, reference, and at last none, which leaves tier raw. So
they do where logits of hundreds give weight to keys that a mask of -100 hides, which the backends leave out.
"""
from __future__ import annotations

import collections
import contextlib
import functools
import math
import random
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from ..base.hidden import WEIGHT_LEFT, hidden_at
from ..base.masks import IGNORED_AT
from ..base.once import log
from ..base.plan import strata
from ..device import launch, pooled, reference, weights
from ..device.arrived import BY_MASK, CHECKED, Again, Computed, Said, arrived, names_of_kernel, occurrences
from ..device.parcel import ALL, Key, Parcel, clock_of, module_of
from ..device.problem import Problem, Rows, norms
from ..device.sums import only, wide
from ..device.visible import Allowed, first_of_blocks, first_of_documents, known, looked_at, visible_keys_of
from ..forms.seen import visible_keys
from ..sending import rows as sending
from ..sending.devices import DTYPE_NAMES
from ..sending.sender import NotYet
from .cost import Cost

ROWS_MAX = 1 << 18  # of a capture, over samples and heads
MADE_MAX = 1 << 22  # logits, over samples and heads, of a capture that makes something of each that differs by head
MADE_WHOLE_MAX = 1 << 24  # where it takes all rows
MASK_BYTES_MAX = 32 << 20  # of a mask that is made for the capture
REFERENCE_LOGITS_MAX = 1 << 24  # of a call, with masked ones
_ENTRIES = 1 << 20  # logits that are looked at, at once
_COPIED = 16 << 20  # bytes of queries and keys in another precision, at once, but for those of one head
REST_AFTER_OUT_OF_MEMORY = 256  # captures
CHECKED_FIRST = 3  # captures
CHECKED_EVERY = 16  # steps, each layer
_CHECKED_ROWS, _CHECKED_PIECES = 4, 16  # pieces of at least 512 keys
_CHECKED_TO = 5e-3  # relative to what is above 1
_ROUNDINGS = 4  # beside that, times the rounding of a logit: the weights of a row are off by about as much
_BACKENDS = ("triton", "reference")
_KINDS_WITHOUT = ("cpu", "meta", "mps")  # devices whose sums the sender thread computes
_ALIKE_MAX = 256  # kinds of calls that are remembered
_PLACED_MAX = 4  # kinds of layers whose rows' places are remembered, of up to 1.5 MB
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
    numbers     integers [B, Tk] of the tokens of the keys, of self-attention without a mask and documents
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
    numbers: Optional[torch.Tensor] = None


class OfWeights(NamedTuple):
    """Weights and logits [B, H, Tq, Tk]. `sink`: what rows lack of 1 is of learned sinks; the queries are every
    `stride`th, from position `first` on; `hidden` as of forms.seen.Weights; the rest as above."""
    weights: torch.Tensor
    logits: torch.Tensor
    sink: bool
    first: int
    stride: int
    cross: bool
    present: Optional[torch.Tensor] = None
    shared: bool = False
    hidden: Optional[torch.Tensor] = None


Asked = Union[OfQueries, OfWeights]
Wait = Callable[[], Optional[sending.Rows]]  # None when they are not to be used


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
        self._occurred: Optional[Tuple[Any, torch.Tensor]] = None
        self._alike: Dict[Any, Any] = {}  # what was found out of calls whose tensors alone are others
        self._placed: Deque[Any] = collections.deque(maxlen=_PLACED_MAX)  # for arrived()

    def rows(self, forward: Tuple[int, int], queries: int, rows: int, device: torch.device) -> Rows:
        """random_rows(), the same for all layers of a forward, by step and microbatch, that are computed on one stream."""
        key = forward, queries, rows, clock_of(device).stream()
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
        return self._is_able(q, precision, documents)

    def _is_able(self, q: torch.Tensor, precision: torch.dtype, documents: Optional[torch.Tensor]) -> bool:
        """Whether the kernel computes this."""
        if "triton" not in self._trusted:
            return False
        key = q.device, q.shape[3], precision, None if documents is None else documents.dtype
        if key not in self._alike:
            self._alike[key] = launch.unable(q.device, precision, q.shape[3], documents) is None
        return bool(self._alike[key])

    def launch(self, asked: Asked, step: int, side: int = 0) -> "Wait":
        """Launches the computation; what is returned waits for the sums. `side`: cells of the maps of the first sample, 0
        for none. Raises NotYet until the kernels are there; and MemoryError without memory, and for a while after that: asking for some
        that is not there makes torch give back what it keeps for the training, which takes its time."""
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
        clock = clock_of(device)
        stream = clock.stream()
        began = clock.event(stream)
        if isinstance(asked, OfQueries):
            found = self._queries(asked, checked, side)
        else:
            with reference.exact(device):
                found = _weights(asked, side)
        parcel = Parcel(clock, stream, found.tensors)
        self._captures += 1
        self._of_step += 1
        found = found._replace(tensors={})

        def wait() -> Optional[sending.Rows]:
            check, made = parcel.take(lambda here: arrived(found, here, self._placed))
            self._cost.spent(step, clock.seconds(began, parcel.ended), device=True)
            clock.events += began, parcel.ended
            agrees = check is None or found.backend is None or self._agrees(found.backend, check, device)
            return made if agrees else None

        return wait

    def _takes_check(self, step: int) -> bool:
        """Whether this capture is checked: the first ones, then one in CHECKED_EVERY, another one of its step each time."""
        if step != self._step:
            self._step, self._steps, self._of_step = step, self._steps + 1, 0
        return self._captures < CHECKED_FIRST or (self._steps + self._of_step) % CHECKED_EVERY == 0

    def _queries(self, asked: OfQueries, checked: bool, side: int = 0) -> Computed:
        device, heads = asked.q.device, asked.q.shape[1]
        tensors: Dict[Key, torch.Tensor] = {}
        problems: List[Problem] = []
        names: Tuple[str, ...] = ()
        backend, awaited, again = "reference", False, None
        head = _chosen.randrange(heads) if checked else -1
        said, facts = _said(asked)
        with reference.exact(device) if checked or side else _NOTHING:
            for some, problem in _problems(asked, self._alike):
                number = len(problems)
                if self._is_able(asked.q, asked.precision, asked.documents):
                    backend = "triton"
                    mask = None if number else asked.mask
                    awaited |= not self._tried(problem, launch.is_ready, asked.whole, mask, side, said is not None, asked.numbers)
                if awaited:
                    raise NotYet("the kernels are not there yet")
                by_kernel = backend == "triton"
                if asked.mask is not None:
                    hides_at = _hides_at(asked, functools.partial(self._tried, problem, launch.hides_at) if by_kernel else None)
                    if hides_at is not None:
                        problem.hides_at = hides_at
                    if not number:
                        facts["looked"] = self._tried(problem, launch.looked_at, asked.mask) if by_kernel else _looked_at(asked, hides_at)
                if not number and (checked or not by_kernel):  # else the kernel finds them
                    facts.update(_first_keys(asked, problem, facts.get("looked")))
                problem.first = facts.get("first")
                if by_kernel:
                    names = names_of_kernel(problem, asked.whole, asked.numbers is not None)
                    left = self._tried(problem, launch.launched, asked.whole)
                    tensors[number, "left"] = left
                    if asked.numbers is not None:
                        facts["occurrence"] = self._occurrences(asked.numbers, problem)
                        tensors[number, "of tokens"] = self._tried(problem, launch.of_tokens, asked.whole, asked.numbers, left)
                else:
                    left, (names, block) = None, _by_reference(problem)
                    tensors.update(((number, name), one) for name, one in block.items())
                if some.start <= head < some.stop:
                    again = number, _again(problem, head - some.start)
                    tensors[number, "again"] = again[1].numbers
                    again = number, again[1]._replace(numbers=torch.empty(0, device="cpu"))
                if problem.sinks is not None:
                    tensors[number, "sinks"] = problem.sinks
                if side and asked.rows is None:
                    tensors.update(((number, name), one) for name, one in _maps(problem, left, side, asked.whole, said, facts).items())
                problems.append(problem.like(None, None, None, None, None))
                del problem  # copies for the next one take the place of its own
        for name, one in facts.items():
            tensors[ALL, name] = one
        return Computed(tensors, problems, names, said, None if asked.rows is None else asked.rows.here, backend, again, int(asked.q.shape[2]),
                        asked.whole, asked.documents is not None, asked.causal, asked.first)

    def _occurrences(self, numbers: torch.Tensor, problem: Problem) -> torch.Tensor:
        """occurrences(), once for the layers of a forward that take the same rows."""
        key, last = (problem.rows, numbers.data_ptr(), numbers.shape), self._occurred
        if last is None or problem.rows is None or last[0][0] is not problem.rows or last[0][1:] != key[1:]:
            at = problem.position(torch.arange(problem.queries, device=numbers.device))
            last = self._occurred = key, occurrences(numbers, at)
        return last[1]

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
        self._distrust(backend, f"what it computes on {device} is wrong: {CHECKED[metric]} of a row is "
                                f"{found[metric, row]:.6g}, and {expected[metric, row]:.6g} when it is computed in the plain way. The rows are not sent")
        return False

    def _distrust(self, backend: str, why: str) -> None:
        if backend in self._trusted:
            self._trusted.remove(backend)
            following = f"The backend {self._trusted[0]!r} takes over" if self._trusted else "From now on tier raw travels"
            log.warning("job %s: the backend %r is not used again: %s. %s", self._job, backend, why, following)


def _is_lack_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def computes(device: torch.device) -> bool:
    """Whether the sums of rows are computed on this kind of device."""
    return device.type not in _KINDS_WITHOUT and hasattr(module_of(device), "Stream")


# ------------------------------------------------------------------------------------------ from queries and keys

def _heads_at_once(asked: OfQueries) -> int:
    """How many heads make a block, by what is copied to the precision of the kernel and by what is launched at once."""
    batch, _, _, width = asked.q.shape
    tokens = sum(one.shape[2] // group for one, group in ((asked.q, 1), (asked.k, asked.group))
                 if one.dtype != asked.precision)
    copied = batch * tokens * width * torch.finfo(asked.precision).bits // 8
    return max(1, min(_COPIED // max(1, copied), launch.SLICE_HEADS // batch))


def _slices(asked: OfQueries, most: int) -> Sequence[slice]:
    """Cuts the heads into blocks of at most `most` that read all of some key heads, or one of them."""
    heads, group, found, begin = asked.q.shape[1], asked.group, [], 0
    while begin < heads:
        to_edge = group - (asked.first_head + begin) % group
        count = most // group * group if to_edge == group and most >= group else min(most, to_edge)
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


def _hides_at(asked: OfQueries, find: Optional[Callable[[torch.Tensor], torch.Tensor]]) -> Optional[torch.Tensor]:
    """Problem.hides_at of all heads; None where nothing is added. `find`: finds it of the rows that are taken, else it is of all."""
    mask, rows = asked.mask, asked.rows
    if mask is None or mask.dtype == torch.bool or asked.replaces:
        return None
    return hidden_at(mask, find, None if find is None or rows is None else rows.here.tobytes())


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


def _said(asked: OfQueries) -> Tuple[Optional[Said], Dict[str, torch.Tensor]]:
    """Makes the meaning of mask and padding, None: there is neither; and the facts of them that are known already."""
    queries, keys, rows = asked.q.shape[2], asked.k.shape[2], asked.rows
    facts = {} if asked.tokens is None else {"tokens": asked.tokens}
    if asked.present is not None:
        facts["present"] = asked.present if rows is None else asked.present[:, rows.there]
    if asked.mask is None and not facts:
        return None, facts
    return Said(asked.first, asked.first + queries, keys, queries, asked.causal, asked.cross, asked.shared,
                None if rows is None else rows.here), facts


def _first_keys(asked: OfQueries, p: Problem, looked: Optional[torch.Tensor]) -> Dict[str, torch.Tensor]:
    """The first key of the document of each row, if it may be another than key 0."""
    if asked.cross or (looked is None and asked.documents is None):
        return {}
    at = p.position(torch.arange(p.queries, device=p.q.device))
    if looked is not None:
        found = first_of_blocks(looked, at, known(looked, at, asked.first + asked.q.shape[2], p.keys, False, asked.shared).valid)
    else:
        assert asked.documents is not None
        found = first_of_documents(asked.documents, at)
    return {"first": found.int().expand(p.batch, -1).contiguous()}


def _looked_at(asked: OfQueries, hides_at: Optional[torch.Tensor]) -> torch.Tensor:
    """The mask, by PyTorch."""
    mask, keys, rows = asked.mask, asked.k.shape[2], asked.rows
    assert mask is not None
    some = torch.arange(asked.q.shape[2], device=mask.device) if rows is None else rows.there
    mask = mask if mask.shape[2] in (1, len(some)) else mask.index_select(2, some)
    return looked_at(_allowed(mask, hides_at, keys, asked.causal, asked.window, some, asked.first), len(some), keys)


def _allowed(mask: torch.Tensor, hides_at: Optional[torch.Tensor], keys: int, causal: bool, window: int, rows: torch.Tensor, first: int = 0) -> Allowed:
    """The keys that a mask of the queries `rows` and the words beside it leave to some of these; to some head, where heads
    differ. `hides_at`: as of a Problem; None: IGNORED_AT."""
    least = IGNORED_AT if hides_at is None else hides_at
    j = torch.arange(keys, device=mask.device)

    def allowed(some: slice) -> torch.Tensor:
        mine = rows[some]
        part = mask[:, :, some] if mask.shape[2] > 1 else mask
        seen = part if part.dtype == torch.bool else ~(part <= least)
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
    allowed = _allowed(mask, None if mask.dtype == torch.bool else hidden_at(mask), len(rows), causal, window, rows)
    return known(looked_at(allowed, len(rows), len(rows)), rows, len(rows), len(rows), False).valid


def _again(p: Problem, head: int) -> Again:
    """Some rows of the head, of some sample, others each time."""
    f64 = wide(p.q.device)
    sample = _chosen.randrange(p.batch)
    at = _chosen.sample(range(p.queries), min(_CHECKED_ROWS, p.queries))
    j = torch.arange(p.keys, device=p.q.device)
    position = torch.stack([torch.full_like(j[0], p.position(i)) for i in at])[:, None]
    q, k = torch.stack([p.q[sample, head, p.number(i)] for i in at]).to(f64), p.k[sample, head // p.group]
    s = torch.cat([q @ some.to(f64).t() for some in torch.split(k, max(512, -(-p.keys // _CHECKED_PIECES)))], 1) * p.scale
    rounding = q.norm(dim=1) * norms(k[None, None]).amax() * (abs(p.scale) * 2.0**-21)
    s = torch.tanh(s / p.softcap) * p.softcap if p.softcap else s
    seen, left = torch.ones_like(s, dtype=torch.bool), torch.zeros_like(s, dtype=torch.bool)
    if p.bias is not None:
        bias = p.bias.expand(p.batch, p.heads, -1, -1)[sample, head]
        bias = torch.stack([bias[(p.number(i) if p.bias_of_all else i) % len(bias)] for i in at])
        seen = ~p.hidden(bias).expand(seen.shape)
        left = left if bias.dtype == torch.bool else ~seen & (bias > IGNORED_AT)
        s = s if bias.dtype == torch.bool else bias.to(f64) if p.replaces else s + bias
    band = torch.ones_like(seen)
    if p.causal:
        band = band & (j <= position)
    if p.window:
        band = band & (j > position - p.window)
    if p.documents is not None:
        band = band & (p.documents[sample][position.clamp(max=p.keys - 1)] == p.documents[sample]) & (position < p.keys)
    seen, left = seen & band, left & band
    weight = (torch.softmax(s.masked_fill(~(seen | left), -math.inf), 1) * left).sum(1, keepdim=True)
    seen = seen | (left & (weight > WEIGHT_LEFT) & seen.any(1, keepdim=True))
    logits = torch.where(seen, s, torch.full_like(s, -math.inf))
    a = torch.softmax(logits, 1)  # sinks have no part in what is compared
    distance = (position - j).abs()
    first = torch.zeros_like(position) if p.first is None else torch.stack([p.first[sample, i] for i in at])[:, None].long()
    top = logits.amax(1)
    numbers = (-torch.xlogy(a, a).sum(1), a.amax(1), (a * (distance <= p.local_window)).sum(1), (a * distance).sum(1),
               only(a.gather(1, first)[:, 0], position[:, 0] > first[:, 0]), top)
    expected = torch.stack([only(one, torch.isfinite(top)) for one in numbers])
    return Again(sample, head, at, torch.stack([expected, rounding.expand_as(expected)]))


def _by_reference(problem: Problem) -> Tuple[Tuple[str, ...], Dict[str, torch.Tensor]]:
    """Launches the reference: the names of its columns, and its tensors. Sums over logits, and powers, would cost as many launches
    again: there are none, nor the numbers of a message that need them."""
    found = reference.columns(problem, False, False)
    of_places = [found.pop(name)[:, 0] for name in BY_MASK]
    block = {"k": norms(problem.k).float()}
    if problem.bias is None and problem.documents is not None:  # else the mask, or the bounds, say it
        block["places"] = torch.stack(of_places).float()
    return tuple(found), {"rows": torch.stack(list(found.values())).float(), **block}


# --------------------------------------------------------------------------------------------------- from weights

def _weights(asked: OfWeights, side: int = 0) -> Computed:
    weights_of, logits, hidden = asked.weights, asked.logits, asked.hidden
    batch, heads, queries, keys = weights_of.shape
    step = max(1, _ENTRIES // (batch * heads * keys))
    some = [slice(begin, begin + step) for begin in range(0, queries, step)]
    mask = torch.cat([visible_keys(weights_of[:, :, rows], logits[:, :, rows], None if hidden is None else hidden[:, :, rows])
                      for rows in some], 1)
    facts = {"looked": looked_at(lambda some: mask[:, some], queries, keys), **({} if asked.present is None else {"present": asked.present})}
    after = asked.first + queries * asked.stride
    said = Said(asked.first, after, keys, queries, False, asked.cross, asked.shared, None, asked.stride)
    meaning = said(facts)
    words = weights.Words(q_offset=asked.first, q_stride=asked.stride, mask=mask, cross=asked.cross, valid=meaning.valid,
                          end=meaning.end)
    if not asked.cross:
        at = asked.first + torch.arange(queries, device=mask.device) * asked.stride
        words = words._replace(first=first_of_blocks(facts["looked"], at, meaning.valid).expand(batch, -1))
    found = weights.columns(weights_of, words)
    tensors = {(0, "rows"): torch.stack(list(found.of_rows.values())).float(), (0, "places"): found.places}
    if side and asked.stride == 1:
        tensors.update({(0, name): one for name, one in _of_pooled(pooled.of_weights(weights_of, words, 0, side)).items()})
    tensors[ALL, "causal"] = meaning.causal
    return Computed(tensors, [], tuple(found.of_rows), said, None, None, None, queries, False, False, False, asked.first,
                    DTYPE_NAMES[weights_of.dtype], asked.sink)


def _maps(p: Problem, left: Optional[torch.Tensor], side: int, whole: bool, said: Optional[Said],
          facts: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
    """Maps of a block of heads of all rows, by what the kernels left if they ran, and, if there is padding, where that of their sample ends."""
    valid, shown = None if said is None else said(facts).valid, None
    if left is None:
        return _of_pooled(pooled.of_queries(p, 0, side, None, valid))
    if valid is not None:
        first, end = (torch.full_like(valid[0], number, dtype=torch.int64) for number in (0, p.keys))
        if "looked" in facts:
            _, first, last = facts["looked"][0, :3 * p.queries].long().view(3, -1)
            end = last + 1
        shown = pooled.part_of(valid[0], valid[0], first, end, p.keys)
    values = launch.maps(p, launch.parts_of(p, whole, left)[1], side, shown)
    return {"maps": values, **({} if shown is None else {"extent": shown.extent})}


def _of_pooled(found: pooled.Pooled) -> Dict[str, torch.Tensor]:
    return {"maps": found.values, "extent": found.extent}
