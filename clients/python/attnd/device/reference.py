# SPDX-License-Identifier: MIT
"""reference: row metrics by PyTorch alone, a few rows of a few heads at a time, or some samples whole.

All of a row's logits are at hand, so nothing is rescaled. Keys that no row of a chunk may see (beyond the causal bound,
the window or the lengths) are not computed. Fused passes would be faster; they are the kernel's.
"""
from __future__ import annotations

import contextlib
import math
import threading
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch

from ..sending.devices import working_dtype
from .problem import Problem, inverse, norms, slices
from .sums import EMPTY, POWERS, ROW_METRICS, Place, Sums, finish, visible_keys
from .visible import placed

_ENTRIES = 1 << 20  # logits of a chunk on the CPU
_ENTRIES_DEVICE = 1 << 21  # elsewhere, where each call costs more
_NUMBERS = 1 << 20  # of queries, or of keys, that are copied at once
_CHUNK_ROWS = 1 << 15
_ROWS = 128  # of a head in a chunk: what causal bound, windows and local mass leave out goes by these
_FLOOR = -1e4  # exp of it is 0 in f32 and f64
_TOP = 8
_SORTED = 256  # keys at most: more are cut down first
_MERGE = ((0, 4), (1, 5), (2, 6), (3, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 1), (2, 3), (4, 5), (6, 7))
_OF_WEIGHTS = ("largest", "total", "weighted", "distance", "first", "with_first", "seen", "farthest", "square", "top", "eighth", "local",
               "previous", "own", "next")
_OF_LOGITS = ("finite", "shift", "logits", "logit_squares", "smallest", "cosines", "cosine_count", "cosine_max")
_SORT = ((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6), *_MERGE[:4], (2, 4), (3, 5),
         (1, 2), (3, 4), (5, 6))  # Batcher 1968


class Chunk(NamedTuple):
    """The part of a problem whose logits are held at once: slices of samples, of key heads, of heads of each, of queries,
    of keys. `lengths` [2, samples]: how many queries and keys are no padding, when samples differ in that."""
    samples: slice
    key_heads: slice
    group: slice
    queries: slice
    keys: slice
    lengths: Optional[torch.Tensor] = None

    @property
    def rows(self) -> Tuple[slice, slice, slice, slice]:
        """Where its rows are in [B, Hk, H / Hk, Tq]."""
        return self.samples, self.key_heads, self.group, self.queries

    @property
    def shape(self) -> Tuple[int, ...]:
        """That of its logits."""
        return tuple(some.stop - some.start for some in (*self.rows, self.keys))


class Logits(NamedTuple):
    """Sums over the finite logits at a row's visible keys, the first key as well, and over cosines where no vector is zero. Those
    of a row may all be far from 0 and near each other: f32 has their sums, and of squares, about a shift."""
    finite: torch.Tensor
    shift: torch.Tensor  # one of them
    total: torch.Tensor  # of logit - shift
    squares: torch.Tensor  # of the same
    lowest: torch.Tensor  # inf without any
    cosines: torch.Tensor
    cosine_count: torch.Tensor
    cosine_max: torch.Tensor  # -inf without any


@torch.no_grad()
def rows(problem: Problem) -> Dict[str, torch.Tensor]:
    """The row metrics, name to f32 [B, H, Tq]."""
    problem = placed(problem).taken()
    q = problem.q
    shape = (problem.batch, problem.key_heads, problem.group, problem.queries)
    sinks = None if problem.sinks is None else problem.sinks.view(shape[1:3])
    found: Dict[str, torch.Tensor] = {}
    with exact(q.device):
        for chunk, place, sums, _, _ in _chunks(problem, False):
            sink = None if sinks is None else sinks[chunk.key_heads, chunk.group, None]
            for name, value in finish(sums, place, sink, problem.cross, problem.local_window).items():
                if name not in found:
                    found[name] = torch.full(shape, math.nan, dtype=torch.float32, device=q.device)
                found[name][chunk.rows] = value
    flat = (problem.batch, problem.heads, problem.queries)
    return {name: found[name].view(flat) if name in found else problem.nothing() for name in ROW_METRICS}


@torch.no_grad()
def columns(problem: Problem, of_logits: bool, powers: bool) -> Dict[str, torch.Tensor]:
    """The sums of each row of PROTOCOL.md, type rows: name to [B, H, Tq]. Sums over logits and cosines with `of_logits`, and powers for
    importance, cost as many passes again."""
    problem = placed(problem).taken()
    shape = (problem.batch, problem.key_heads, problem.group, problem.queries)
    lengths = norms(problem.q)
    of_q = lengths.view(shape)
    names = (*_OF_WEIGHTS, *(_OF_LOGITS if of_logits else ()), *(POWERS if powers else ()))
    found = {name: torch.full(shape, EMPTY.get(name, 0.0), dtype=working_dtype(problem.q), device=problem.q.device) for name in names}
    with exact(problem.q.device):
        for chunk, _, sums, logits, buffers in _chunks(problem, of_logits):
            e, spare = (buffer[:math.prod(chunk.shape)].view(chunk.shape) for buffer in buffers[1:])
            largest = torch.where(sums.first < math.inf, sums.largest, torch.full_like(sums.largest, math.nan))
            near = {name: torch.log(one) + sums.largest for name, one in (("previous", sums.previous), ("own", sums.own), ("next", sums.next))}
            numbers: Dict[str, Any] = {"largest": largest, "total": sums.total, "weighted": sums.weighted, "distance": sums.distance, "first": sums.first,
                       "with_first": sums.with_first, "seen": sums.seen, "farthest": sums.farthest, "top": sums.top, "eighth": sums.eighth,
                       "local": sums.local, "square": torch.mul(e, e, out=spare).sum(-1), **near}
            for name in POWERS if powers else ():
                numbers[name] = spare.mul_(e).sum(-1)
            if logits is not None:
                length = of_q[chunk.rows]
                numbers.update({"finite": logits.finite, "shift": logits.shift, "logits": logits.total, "logit_squares": logits.squares,
                                "smallest": logits.lowest, "cosines": logits.cosines * length, "cosine_count": logits.cosine_count,
                                "cosine_max": logits.cosine_max * length})
            for name, value in numbers.items():
                found[name][chunk.rows] = value
    flat = (problem.batch, problem.heads, problem.queries)
    return {**{name: value.view(flat) for name, value in found.items()}, "query_length": lengths}


@contextlib.contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Neither autocast of what is computed here, nor products of f32 in TF32 or bf16. A training's choice of these holds
    for all threads, so the first to come here changes it and the last to go puts it back: products that other threads
    launch meanwhile are exact, too. Nothing waits for the device, which is told with each product how to compute it."""
    try:
        autocast: Any = torch.autocast(device.type, enabled=False)
    except RuntimeError:  # there is none for this device
        autocast = contextlib.nullcontext()
    with _lock:
        if not _within:
            _within.append(_highest())
        _within.append(_kept)
    try:
        with autocast:
            yield
    finally:
        with _lock:
            _within.pop()
            if len(_within) == 1:
                _within.pop()()


def _kept() -> None:
    """Puts back what was left as it was."""


def _highest() -> Callable[[], None]:
    """Makes the precision the highest; what puts back what it was. From torch 2.9 on there are settings of two kinds, and
    reading one of those that were not used for it is an error."""
    matmul = torch.backends.cuda.matmul
    try:
        was = torch.get_float32_matmul_precision()
        if was == "highest":
            return _kept
        cpu = getattr(torch.backends.mkldnn, "matmul", None)  # it may have been left out of what was chosen
        cpu_was = getattr(cpu, "fp32_precision", None)
        torch.set_float32_matmul_precision("highest")

        def put_back() -> None:
            torch.set_float32_matmul_precision(was)
            if cpu is not None:
                cpu.fp32_precision = cpu_was

        return put_back
    except RuntimeError:
        pass
    name, none = "allow_tf32", False  # type: str, Any
    try:
        had = matmul.allow_tf32
    except RuntimeError:
        name, none = "fp32_precision", "ieee"
        had = matmul.fp32_precision
    setattr(matmul, name, none)
    return lambda: setattr(matmul, name, had)


_lock = threading.Lock()
_within: List[Callable[[], None]] = []  # puts back the precision of products of f32, then one for each who is within


def _of_logits(p: Problem, chunk: Chunk, s: torch.Tensor, spare: torch.Tensor, lengths_of: Tuple[torch.Tensor, torch.Tensor]) -> Logits:
    """The sums over the logits of a chunk, hidden ones being -inf; those of rows that are not sound are any."""
    inverse_q = lengths_of[0].view(p.batch, p.key_heads, p.group, -1)[chunk.rows][..., None]
    inverse_k = lengths_of[1][chunk.samples, chunk.key_heads, None, None, chunk.keys]
    some = _uneven_keys(s, inverse_q, inverse_k)
    whole = s.shape[-1] - (some.stop - some.start)
    known, hidden = spare.copy_(s), s[..., some] == -math.inf
    known[..., some].masked_fill_(hidden, math.inf)
    lowest, count = known.amin(-1), whole + (~hidden).sum(-1)
    known[..., some].masked_fill_(hidden, 0)
    shift = known.sum(-1) / count.clamp(min=1)
    known.sub_(shift[..., None])[..., some].masked_fill_(hidden, 0)
    total, squares = known.sum(-1), known.mul_(known).sum(-1)

    cosines = _cosines(p, chunk, s, spare, inverse_q, inverse_k)
    hidden |= (inverse_q == 0) | (inverse_k[..., some] == 0)
    cosines[..., some].masked_fill_(hidden, -math.inf)
    highest, cosine_count = cosines.amax(-1), whole + (~hidden).sum(-1)
    cosines[..., some].masked_fill_(hidden, 0)
    return Logits(count, shift, total, squares, lowest, cosines.sum(-1), cosine_count, highest)


def _uneven_keys(s: torch.Tensor, inverse_q: torch.Tensor, inverse_k: torch.Tensor) -> slice:
    """The keys besides which all queries see all keys, and none of their vectors is zero: few by a causal bound. All where
    asking would take waiting."""
    if s.device.type != "cpu" or not (inverse_q.all() and inverse_k.all()):
        return slice(0, s.shape[-1])
    uneven = torch.isfinite(s.flatten(0, -2).amin(0)).logical_not_().nonzero()
    return slice(int(uneven[0]), int(uneven[-1]) + 1) if len(uneven) else slice(0, 0)


def _cosines(p: Problem, chunk: Chunk, s: torch.Tensor, spare: torch.Tensor, inverse_q: torch.Tensor,
             inverse_k: torch.Tensor) -> torch.Tensor:
    """The cosines of queries and keys, in `spare`: from the logits where these are products, any where they are hidden."""
    if not p.softcap and (p.bias is None or p.bias.dtype == torch.bool) and 1e-6 < abs(p.scale) < 1e6:
        return torch.mul(s, inverse_q / p.scale, out=spare).mul_(inverse_k)
    _products(p, chunk, _by_key_heads(p)[chunk.rows].to(s.dtype), spare)
    return spare.mul_(inverse_q).mul_(inverse_k)


def _chunks(p: Problem, with_logits: bool) -> Iterator[Tuple[Chunk, Place, Sums, Optional[Logits], torch.Tensor]]:
    lengths_of = (inverse(norms(p.q)), inverse(norms(p.k))) if with_logits else None
    working = working_dtype(p.q)
    entries = (_ENTRIES if p.q.device.type == "cpu" else _ENTRIES_DEVICE) // (2 if working == torch.float64 else 1)
    buffers = torch.empty((3, max(entries, p.keys)), dtype=working, device=p.q.device)
    several = max(1, min(entries // p.keys, _NUMBERS // p.width, _ROWS))
    for samples, ends in _samples(p, entries, min(several, p.queries)):
        q_len, k_len = (max(some) for some in zip(*ends))
        uneven = torch.tensor(list(zip(*ends)), device=p.q.device) if len(set(ends)) > 1 else None
        positions = torch.tensor([min(k, p.end(q)) for q, k in ends], device=p.q.device)[:, None, None, None]
        for queries in slices(q_len, several):
            keys = seen_keys(p, queries, k_len)
            if keys.start >= keys.stop:
                continue
            count = len(ends) * (queries.stop - queries.start)
            most = min(entries // (count * (keys.stop - keys.start)), _NUMBERS // (count * p.width),
                       _CHUNK_ROWS // count)
            for key_heads, group in head_slices(p.key_heads, p.group, most):
                chunk = Chunk(samples, key_heads, group, queries, keys, uneven)
                yield (chunk, *_measure(p, chunk, positions, buffers, lengths_of), buffers)


def _samples(p: Problem, entries: int, rows: int) -> Iterator[Tuple[slice, List[Tuple[int, int]]]]:
    """As many samples at a time as fit a chunk with `rows` rows of all heads, and how many queries and keys each has."""
    ends = list(lengths(p))
    most = min(entries // (p.heads * rows * p.keys), _NUMBERS // (p.heads * max(rows, p.keys) * p.width),
               _CHUNK_ROWS // (p.heads * rows))
    for samples in slices(p.batch, most):
        yield samples, ends[samples]


def lengths(p: Problem) -> Iterator[Tuple[int, int]]:
    """How many queries and keys of each sample are no padding."""
    return zip(*([most] * p.batch if given is None else [int(n) for n in given.tolist()]
                 for given, most in ((p.q_len, p.queries), (p.k_len, p.keys))))


def seen_keys(p: Problem, queries: slice, k_len: int) -> slice:
    """The keys that some of these queries may see by causal bound, window and length."""
    end = min(k_len, p.position(queries.stop - 1) + 1) if p.causal else k_len
    return slice(max(0, p.position(queries.start) - p.window + 1) if p.window else 0, end)


def head_slices(key_heads: int, group: int, most: int) -> Iterator[Tuple[slice, slice]]:
    """Cuts [key heads, heads of each] into blocks of at most `most` heads."""
    return ((some, of_each) for some in slices(key_heads, most // group) for of_each in slices(group, most))


def _measure(p: Problem, chunk: Chunk, positions: torch.Tensor, buffers: torch.Tensor,
             lengths_of: Optional[Tuple[torch.Tensor, torch.Tensor]]) -> Tuple[Place, Sums, Optional[Logits]]:
    """The sums of a chunk, [samples, key heads, heads of each, queries] each."""
    begin, shape = chunk.keys.start, chunk.shape
    e, spare = (buffer[:math.prod(shape)].view(shape) for buffer in buffers[1:])
    s, place, j, seen = masked_logits(p, chunk, buffers[0])
    of_logits = None if lengths_of is None else _of_logits(p, chunk, s, spare, lengths_of)

    first_key = 0 if p.first is None else p.first[chunk.samples, None, None, chunk.queries]
    first = torch.full_like(s[..., 0], -math.inf)
    if p.first is not None:
        index = (first_key - begin).clamp(0, shape[-1] - 1).long().expand(s.shape[:-1])[..., None]
        kept = s.gather(-1, index)
        here = index[..., 0] == first_key - begin
        first = torch.where(here, kept[..., 0], first)
        s.scatter_(-1, index, kept.masked_fill(here[..., None], -math.inf))
    elif begin == 0:
        first.copy_(s[..., 0])
        s[..., 0] = -math.inf
    largest = s.amax(-1)
    s.sub_(torch.where(torch.isfinite(largest), largest, torch.zeros_like(largest))[..., None]).clamp_(min=_FLOOR)
    torch.exp(s, out=e)
    weighted = torch.mul(e, s, out=spare).sum(-1)
    distance = ((place - begin).to(e.dtype)[:, None] - (j - begin).to(e.dtype)).abs_()
    distances = torch.mul(e, distance, out=spare).sum(-1)
    near = slice(*(min(max(0, edge - begin), shape[-1]) for edge in (
        p.position(chunk.queries.start) - p.local_window, p.position(chunk.queries.stop - 1) + 1 + p.local_window)))
    local = torch.mul(e[..., near], (distance[:, near] <= p.local_window).to(e.dtype), out=spare[..., near]).sum(-1)
    with_first, seen_keys, reach = _counted(p, chunk, seen, place, distance, spare)
    previous, own, following = (at(e, place + step - begin) for step in (-1, 0, 1))
    top, eighth = _largest(e)
    return Place(place, positions, first_key), Sums(largest, e.sum(-1), weighted, distances, local, previous, own, following, first,
                                         with_first, seen_keys, reach, top, eighth), of_logits


def _by_key_heads(p: Problem) -> torch.Tensor:
    """The queries as [B, Hk, H / Hk, Tq, d]."""
    return _split(p.q, 1, p.key_heads, p.group)


def masked_logits(p: Problem, chunk: Chunk, room: torch.Tensor
                  ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor, Optional[torch.Tensor]]:
    """The logits of a chunk in `room`, -inf where a query does not see the key; the positions of its queries and of its keys;
    and what _hide() returns."""
    s = room[:math.prod(chunk.shape)].view(chunk.shape)
    _logits(p, chunk, s)
    place = p.position(torch.arange(chunk.queries.start, chunk.queries.stop, device=s.device))
    j = torch.arange(chunk.keys.start, chunk.keys.stop, device=s.device)
    return s, place, j, _hide(p, chunk, s, place, j)


def _logits(p: Problem, chunk: Chunk, s: torch.Tensor) -> None:
    """Writes the logits of a chunk, masks apart, to s."""
    if p.replaces and p.bias is not None:
        s.copy_(_bias_part(p, p.bias, chunk))
        return
    _products(p, chunk, _by_key_heads(p)[chunk.rows].to(s.dtype) * p.scale, s)
    if p.softcap:
        s.div_(p.softcap).tanh_().mul_(p.softcap)
    if p.bias is not None and p.bias.dtype != torch.bool:
        s.add_(_bias_part(p, p.bias, chunk))


def _products(p: Problem, chunk: Chunk, q: torch.Tensor, s: torch.Tensor) -> None:
    """Writes q K^T of a chunk to s; copies of keys are never more than _NUMBERS."""
    q, flat = q.flatten(2, 3).flatten(0, 1), s.flatten(2, 3).flatten(0, 1)
    k = p.k[chunk.samples, chunk.key_heads, chunk.keys].flatten(0, 1)
    for some in slices(k.shape[0], _NUMBERS // (k.shape[1] * p.width)):
        if k.shape[1] <= _NUMBERS // p.width:
            torch.bmm(q[some], k[some].to(s.dtype).transpose(1, 2), out=flat[some])
            continue
        for j in slices(k.shape[1], _NUMBERS // p.width):
            torch.mm(q[some.start], k[some.start, j].to(s.dtype).t(), out=flat[some.start, :, j])


def _bias_part(p: Problem, bias: torch.Tensor, chunk: Chunk) -> torch.Tensor:
    """[samples, key heads, heads of each, queries, keys] of a chunk, each dimension full or 1."""
    part = _split(bias, 1, *((p.key_heads, p.group) if bias.shape[1] > 1 else (1, 1)))
    for dimension, taken in enumerate((*chunk.rows, chunk.keys)):
        if part.shape[dimension] > 1:
            part = part.narrow(dimension, taken.start, taken.stop - taken.start)
    return part


def _hide(p: Problem, chunk: Chunk, s: torch.Tensor, place: torch.Tensor, j: torch.Tensor) -> Optional[torch.Tensor]:
    """Makes the logits of keys that a query does not see -inf. Returns which it sees, broadcastable to s, when a bias,
    documents or the lengths of samples have a say in that."""
    unseen: Optional[torch.Tensor] = None
    if p.bias is not None:
        unseen = p.hidden(_bias_part(p, p.bias, chunk)).expand(-1, -1, -1, len(place), len(j))
    if p.documents is not None:
        document = p.documents[chunk.samples, None, None]
        own = document[..., place.clamp(max=p.keys - 1), None]
        other = (own != document[..., None, chunk.keys]) | (place >= p.keys)[:, None]
        unseen = other if unseen is None else unseen | other
    if chunk.lengths is not None:
        q_len, k_len = chunk.lengths[..., None, None, None, None]
        padding = (place[:, None] >= p.end(q_len)) | (j >= k_len)
        unseen = padding if unseen is None else unseen | padding
    base, begin, last = chunk.keys.start, p.position(chunk.queries.start), p.position(chunk.queries.stop - 1)
    if unseen is not None:
        if p.causal:
            unseen = unseen | (j > place[:, None])
        if p.window:
            unseen = unseen | (j <= place[:, None] - p.window)
        s.masked_fill_(unseen, -math.inf)
        return ~unseen
    if p.causal:
        late = slice(max(0, begin + 1 - base), len(j))
        s[..., late].masked_fill_(j[late] > place[:, None], -math.inf)
    if p.window:
        early = slice(0, max(0, last + 1 - p.window - base))
        s[..., early].masked_fill_(j[early] <= place[:, None] - p.window, -math.inf)
    return None


def _counted(p: Problem, chunk: Chunk, seen: Optional[torch.Tensor], place: torch.Tensor, distance: torch.Tensor,
             spare: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whether the first key is visible, how many keys are, and the largest distance of these."""
    if seen is not None:
        room = spare.flatten()[:seen.numel()].view(seen.shape)
        farthest = torch.mul(distance, seen, out=room).amax(-1)
        if p.first is None:
            return at(seen, torch.full_like(place, -chunk.keys.start)), seen.sum(-1), farthest
        column = p.first[chunk.samples, None, None, chunk.queries].long() - chunk.keys.start
        return at(seen.expand(len(column), *seen.shape[1:]), column), seen.sum(-1), farthest
    return visible_keys(place, chunk.keys.stop, p.causal, p.window)


def _split(tensor: torch.Tensor, dimension: int, outer: int, inner: int) -> torch.Tensor:
    """Makes two dimensions of one, without a copy whatever the strides."""
    return tensor.view(*tensor.shape[:dimension], outer, inner, *tensor.shape[dimension + 1:])


def at(e: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
    """e of every query at a key of its own, 0 where the chunk has no such key."""
    there = (column >= 0) & (column < e.shape[-1])
    index = torch.where(there, column, torch.zeros_like(column))[..., None].expand(*e.shape[:-1], 1)
    return e.gather(-1, index)[..., 0] * there


def _largest(e: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
    """The sum of the 8 largest of each row, and the eighth. Every one of them is in one of the 8 lanes with the largest
    maxima, a lane being every n-th key."""
    found = e.flatten(0, -2)
    keys = found.shape[1]
    if keys > _SORTED:
        lanes = 1 << (_TOP * keys).bit_length() // 2  # about sqrt(8 keys): lanes and what is in 8 of them are as many
        depth = keys // lanes
        whole = _split(found[:, :depth * lanes], 1, depth, lanes)
        best = whole.amax(1).topk(_TOP, sorted=False)[1]
        chosen = whole.gather(2, best[:, None].expand(-1, depth, _TOP)).flatten(1)
        found = torch.cat([chosen, found[:, depth * lanes:]], 1)
    top = _sorted(found) if e.device.type == "cpu" else _topmost(found)
    return top.sum(0).view(e.shape[:-1]), top[-1].view(e.shape[:-1])


def _topmost(found: torch.Tensor) -> torch.Tensor:
    """The 8 largest of each row [rows, keys], 0 where there are fewer, as [8, rows]."""
    rows, keys = found.shape
    top = found.new_zeros((_TOP, rows))
    top[:min(_TOP, keys)] = found.topk(min(_TOP, keys))[0].t()
    return top


def _sorted(found: torch.Tensor) -> torch.Tensor:
    """The same by elementwise maxima and minima of all rows, since on the CPU sorting a short row by itself takes longer than
    its exponentials."""
    rows, keys = found.shape
    lists = 1 << (-(-keys // _TOP) - 1).bit_length()
    padded = found.new_zeros((_TOP * lists, rows))
    padded[:keys] = found.t()
    place = list(padded.view(_TOP, lists, rows))
    exchanges: Sequence[Tuple[int, int]] = _SORT
    while True:
        for i, j in exchanges:
            place[i], place[j] = torch.maximum(place[i], place[j]), torch.minimum(place[i], place[j])
        if lists == 1:
            return torch.stack([one[0] for one in place])
        lists //= 2  # the larger of one list's nth and the other's nth from below are the 8 largest of both
        place = [torch.maximum(place[n][:lists], place[-1 - n][lists:]) for n in range(_TOP)]
        exchanges = _MERGE
