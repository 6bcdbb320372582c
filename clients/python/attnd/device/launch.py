# SPDX-License-Identifier: MIT
"""launch: row metrics by the Triton kernel, in slices of heads so that its sums stay small."""
from __future__ import annotations

import contextlib
import math
import os
import threading
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from ..base.hidden import GAP, STEP, STEPS_MAX
from ..base.local import version_order
from ..base.masks import IGNORED_AT
from ..sending.devices import relaxed
from ..sending.head_maps import cells
from .pooled import Shown
from .problem import Problem, inverse, norms, slices
from .sums import ROW_METRICS, Place, Sums, finish, visible_keys
from .visible import placed

WIDTH_MAX = 256
_SUMS, _SUMS_WITH_POWERS, _FEW = 18, 23, 6  # numbers that the kernels leave of a row: sums.COLUMNS
_OF_WEIGHTS = 8  # how many of these Sums are made of
_SLICE_ROWS = 1 << 16  # rows whose sums are held at once: 7 MiB, and what finishing them takes
SLICE_HEADS = 65535  # over samples, of a launch: the most blocks that CUDA has along the second axis of a grid
_MARKS = 1 << 14  # values of a mask that are told apart
_NOTHING = contextlib.nullcontext()
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def unable(device: torch.device, dtype: torch.dtype, width: int, documents: Optional[torch.Tensor] = None) -> Optional[str]:
    """Why the kernel cannot compute queries of this dtype and width, with such documents, here; None when it can."""
    if dtype == torch.float64:
        return "f64 is not computed"
    if width > WIDTH_MAX:
        return f"a head dimension of {width} is above {WIDTH_MAX}"
    if documents is not None and documents.dtype not in _INTEGERS:
        return f"documents of {documents.dtype} are not read"
    interpreted = _interpreted()
    if interpreted is None:
        return "the package triton 3.3 or later is not installed"
    if interpreted:
        return None
    if device.type == "cpu":
        return "tensors on the CPU need TRITON_INTERPRET=1"
    try:
        from triton.runtime import driver
        driver.active.get_current_device()
    except Exception as error:  # each backend of triton raises its own
        return f"triton has no driver: {error}"
    return None


def version() -> str:
    """Triton's; empty: there is none."""
    try:
        import triton
    except ImportError:
        return ""
    return str(triton.__version__)


def _interpreted() -> Optional[bool]:
    """Whether Triton's interpreter runs its kernels, on any device; None: there is no Triton, or one that is too old."""
    numbers = version_order(version())
    if numbers < (3, 4):  # its settings are in the environment
        return os.environ.get("TRITON_INTERPRET") == "1" if numbers >= (3, 3) else None
    from triton import knobs
    return bool(knobs.runtime.interpret)


class Swept(NamedTuple):
    """Numbers that the kernels leave of some heads, counted over all samples: f32 [numbers, heads, Tq]."""
    sums: torch.Tensor  # those of kernel.row_sums
    few: torch.Tensor  # those of kernel.few_keys


@torch.no_grad()
def rows(problem: Problem) -> Dict[str, torch.Tensor]:
    """The row metrics, name to f32 [B, H, Tq]."""
    p = problem if problem.bias is None else placed(problem)
    flat, shape = (p.batch * p.heads, p.queries), (p.batch, p.heads, p.queries)
    found: Dict[str, torch.Tensor] = {}
    inverse_k = inverse(norms(p.k), math.nan)
    for some in slices(flat[0], min(SLICE_HEADS, _SLICE_ROWS // p.queries)):
        for name, value in _metrics(p, some, swept(p, some, inverse_k)).items():
            if name not in found:
                found[name] = torch.empty(flat, dtype=torch.float32, device=p.q.device)
            found[name][some] = value
    return {name: found[name].view(shape) if name in found else p.nothing() for name in ROW_METRICS}


def _metrics(p: Problem, some: slice, left: Swept) -> Dict[str, torch.Tensor]:
    """The row metrics that these heads have, f32 [heads, Tq]."""
    device = left.sums.device
    shape = left.sums.shape[1:]
    place = p.position(torch.arange(p.queries, device=device))[None]
    q_len, k_len = (None if n is None else n.to(device) for n in (p.q_len, p.k_len))
    ends = torch.full((p.batch,), p.keys, device=device) if k_len is None else k_len.long()
    known = torch.full((p.batch,), p.end(p.queries), device=device) if q_len is None else p.end(q_len)
    ends, positions = (n.repeat_interleave(p.heads)[some, None] for n in (ends, torch.minimum(ends, known)))
    largest, total, weighted, distance, first, with_first, count, farthest = left.sums[:_OF_WEIGHTS].unbind()
    top, eighth, local, *near = left.few.unbind()
    first_key: Union[int, torch.Tensor] = 0
    aside: Optional[torch.Tensor] = None
    if _has_first_keys(p):
        aside = torch.where(with_first < 0, -1 - with_first, with_first).long()
        first_key = aside - (with_first < 0).long() if p.first is None else p.first.repeat_interleave(p.heads, 0)[some].long()
        with_first = (aside == first_key).float()
    if p.bias is None and p.documents is None:
        with_first, count, farthest = visible_keys(place.expand(shape), ends, p.causal, p.window)
    previous, own, following = (torch.where(s > -math.inf, torch.exp(s - largest), torch.zeros_like(s))
                                for s in near)
    sums = Sums(largest, total, weighted, distance, local, previous, own, following, first, with_first > 0, count, farthest, top, eighth)
    sinks = None if p.sinks is None else p.sinks.repeat(p.batch)[some, None]
    return finish(sums, Place(place, positions, first_key, aside), sinks, p.cross, p.local_window)


def swept(p: Problem, some: slice, inverse_k: torch.Tensor) -> Swept:
    """Launches both kernels for some heads, counted over all samples. `inverse_k`: 1 / the lengths of the keys, or NaN."""
    left = Swept(*(torch.empty((numbers, some.stop - some.start, p.queries), dtype=torch.float32, device=p.q.device)
                   for numbers in numbers_of(False)))
    tensors, (_, sums, few) = _tensors(p), _calls(p, some, False)
    with _current(p.q.device):
        sums.launch(*tensors, inverse_k, left.sums)
        few.launch(*tensors, left.few)
    return left


def launched(p: Problem, powers: bool) -> torch.Tensor:
    """The same for all heads, and the lengths of the keys, in one piece of memory, which parts_of() takes apart."""
    room, left, of_keys = parts_of(p, powers)
    inverse_k = torch.empty_like(of_keys)
    tensors, (lengths, sums, few) = _tensors(p), _calls(p, slice(0, p.batch * p.heads), powers)
    with _current(p.q.device):
        lengths.launch(p.k, of_keys, inverse_k)
        sums.launch(*tensors, inverse_k, left.sums)
        few.launch(*tensors, left.few)
    return room


def of_tokens(p: Problem, powers: bool, tokens: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """The sums over the keys that have the query's token, and over those that follow one, f32 [2, B, H, Tq], of a problem without bias
    and documents, of what launched() left."""
    found = torch.empty(2, p.batch, p.heads, p.queries, dtype=torch.float32, device=p.q.device)
    with _current(p.q.device):
        _token_call(p, powers, tokens).launch(*_tensors(p), tokens, parts_of(p, powers, room)[1].sums, found)
    return found


def _token_call(p: Problem, powers: bool, tokens: torch.Tensor) -> _Call:
    """The launch of token_keys."""
    from . import kernel

    key, (_, sums, few) = ("tokens", tokens.stride()), _calls(p, slice(0, p.batch * p.heads), powers)
    if key not in p.alike:
        how = {name: one for name, one in few.how.items() if name != "FIRST"}
        p.alike[key] = _Call(kernel.token_keys, few.grid, (*sums.numbers, *tokens.stride()), how, (*sums.fixed, *tokens.stride()))
    found: _Call = p.alike[key]
    return found


def parts_of(p: Problem, powers: bool, room: Optional[torch.Tensor] = None) -> Tuple[torch.Tensor, Swept, torch.Tensor]:
    """One piece of memory for all that the kernels leave of a problem, or this one; its parts: the numbers of both kernels,
    without dimensions, and the lengths of the keys, [B, Hk, Tk]."""
    if ("sizes", powers) not in p.alike:
        sums, few = (numbers * p.batch * p.heads * p.queries for numbers in numbers_of(powers))
        p.alike["sizes", powers] = sums, -sums % 4, few, p.batch * p.key_heads * p.keys  # pointers are multiples of 16 bytes
    if room is None:
        room = torch.empty(sum(p.alike["sizes", powers]), dtype=torch.float32, device=p.q.device)
    of_sums, _, of_few, of_keys = room.split_with_sizes(p.alike["sizes", powers])
    return room, Swept(of_sums, of_few), of_keys.view(p.batch, p.key_heads, p.keys)


def parts_on_host(p: Problem, powers: bool, room: np.ndarray) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The parts of parts_of(), of its memory on the host."""
    sums, gap, few, _ = p.alike["sizes", powers]
    begin, end = sums + gap, sums + gap + few
    return room[:sums], room[begin:end], room[end:].reshape(p.batch, p.key_heads, p.keys)


def numbers_of(powers: bool) -> Tuple[int, int]:
    """How many numbers of a row both kernels leave."""
    return _SUMS_WITH_POWERS if powers else _SUMS, _FEW


class _Call(NamedTuple):
    """How a kernel is launched for problems that are alike: with tensors, and with these numbers. `fixed`: those of them that
    do not vary."""
    kernel: Any
    grid: Tuple[int, int]
    numbers: Tuple[Any, ...]
    how: Dict[str, Any]
    fixed: Tuple[int, ...]

    def launch(self, *tensors: torch.Tensor) -> None:
        """Triton looks at each argument to find what it has compiled for them."""
        self.kernel[self.grid](*tensors, *self.numbers, **self.how)


def _tensors(p: Problem) -> Tuple[torch.Tensor, ...]:
    """The tensors that both kernels read; q is in the place of what there is not."""
    q, bias = p.q, p.bias
    return (q, p.k, q if bias is None else _bits(bias), q if p.documents is None else p.documents,
            q if p.q_len is None else p.q_len.to(q.device), q if p.k_len is None else p.k_len.to(q.device), q if p.rows is None else p.rows.there,
            p.hides_at if _kind(p) == 1 else q)


def _has_first_keys(p: Problem) -> bool:
    return not p.cross and (p.bias is not None or p.documents is not None)


def _bits(bias: torch.Tensor) -> torch.Tensor:
    return bias.view(torch.uint8) if bias.dtype == torch.bool else bias


def _calls(p: Problem, some: slice, powers: bool) -> Tuple[_Call, _Call, _Call]:
    """The launches of key_lengths, row_sums and few_keys."""
    key = some.start, some.stop, powers
    known: Optional[Tuple[_Call, _Call, _Call]] = p.alike.get(key)
    if known is not None:
        return known
    from . import kernel

    _, _, bias, documents, *_ = _tensors(p)
    kind, bias_strides = _kind(p), _strides(bias)
    heads = some.stop - some.start
    numbers = (some.start, p.heads, p.group, p.queries, p.keys, p.width, p.scale, p.softcap, p.q_offset, p.q_stride, p.window)
    strides = (*p.q.stride(), *p.k.stride(), *bias_strides, documents.stride(0), documents.stride(1))
    how = {"CAUSAL": p.causal, "WINDOW": p.window > 0, "SOFTCAP": p.softcap > 0, "BIAS": kind,
           "DOCUMENTS": p.documents is not None, "SAMPLED": p.rows is not None, "BIAS_OF_ALL": p.bias_of_all, "Q_LEN": p.q_len is not None,
           "K_LEN": p.k_len is not None, "WIDEN": bool(_interpreted()), "enable_fp_fusion": True}
    local_window = min(p.local_window, p.end(p.queries) + p.keys)
    fixed = (p.heads, p.group, p.width, p.q_stride, local_window, *strides)
    out_stride = heads * p.queries

    def call(one: Any, tile: Dict[str, int], own: Tuple[int, ...], **words: Any) -> _Call:
        return _Call(one, (-(-p.queries // tile["ROWS"]), heads), (out_stride, *numbers, *own, *strides),
                     {**words, **how, **tile}, fixed)

    keys, of_keys = 64, (p.key_heads, p.keys, p.width, *p.k.stride())
    lengths = _Call(kernel.key_lengths, (-(-p.keys // keys), p.batch * p.key_heads), of_keys,
                    {"KEYS": keys, "WIDTH": 1 << (p.width - 1).bit_length(), "num_warps": 4}, (p.key_heads, p.width, *p.k.stride()))
    of_sums, of_few = _tiles(p)
    first = _has_first_keys(p)
    made = (lengths, call(kernel.row_sums, of_sums, (), POWERS=powers, FIRST=first),
            call(kernel.few_keys, of_few, (local_window,), FIRST=first))
    p.alike[key] = made
    return made


def _tiles(p: Problem) -> Tuple[Dict[str, int], Dict[str, int]]:
    """For which row_sums and few_keys are compiled: rows, keys and warps of a program, and the two pieces of a head's channels,
    WIDTH and REST, of which the second is 0 where all are multiplied at once. Registers and shared memory suffice for these
    from sm_80 to sm_120 (tests/frameworks/test_device_code.py)."""
    whole = max(16, 1 << (p.width - 1).bit_length())
    half = whole // 2
    rest = max(16, 1 << (p.width - half - 1).bit_length())
    uneven = p.width > 128 and half + rest < whole  # 192 is 128 and 64

    def tile(rows: int, keys: int, warps: int, in_two: bool) -> Dict[str, int]:
        width = (half, rest) if in_two else (whole, 0)
        return {"ROWS": rows, "KEYS": keys, "num_warps": warps,
                "WIDTH": width[0], "REST": width[1], "NARROW": p.width < sum(width)}

    if p.q.dtype == torch.float32:
        return (tile(32, 32, 8, uneven),) * 2
    if p.bias is not None or p.documents is not None:
        return (tile(32, 32, 4, False),) * 2
    return tile(64, 64, 4, half >= 16), tile(64, 32, 4, uneven) if p.width > 128 else tile(64, 64, 8, False)


def _kind(p: Problem) -> int:
    return 0 if p.bias is None else 2 if p.bias.dtype == torch.bool else 3 if p.replaces else 1


def _strides(bias: torch.Tensor) -> Tuple[int, ...]:
    return tuple(0 if n == 1 else stride for n, stride in zip(bias.shape, bias.stride()))


def looked_at(p: Problem, mask: torch.Tensor) -> torch.Tensor:
    """visible.looked_at() of the mask of all heads, of which the problem has some."""
    found = torch.zeros(mask.shape[0], 3 * p.queries + p.keys, dtype=torch.float32, device=p.q.device)
    with _current(p.q.device):
        _look(p, mask).launch(_bits(mask), *_tensors(p)[6:], found)
    return found


def hides_at(p: Problem, mask: torch.Tensor) -> torch.Tensor:
    """Problem.hides_at by the mask of all heads, of which the problem has some, and by the rows that are taken."""
    marks, found = torch.zeros(_MARKS, dtype=torch.uint8, device=p.q.device), torch.empty((), dtype=torch.float32, device=p.q.device)
    mark, decide = _marks(p, mask)
    with _current(p.q.device):
        mark.launch(mask, p.q if p.rows is None else p.rows.there, marks)
        decide.launch(marks, found)
    return found


def _marks(p: Problem, mask: torch.Tensor) -> Tuple[_Call, _Call]:
    """The launches of mark_values and step_of_values."""
    from . import kernel

    rows, numbers = 32, (mask.shape[1], p.queries, p.keys, *_strides(mask))
    how = {"SAMPLED": p.rows is not None, "BIAS_OF_ALL": p.bias_of_all, "LOWEST": IGNORED_AT, "ROWS": rows, "KEYS": 64, "num_warps": 4}
    return (_Call(kernel.mark_values, (-(-p.queries // rows) if mask.shape[2] > 1 else 1, mask.shape[0] * mask.shape[1]), numbers, how, numbers),
            _Call(kernel.step_of_values, (1, 1), (), {"LOWEST": IGNORED_AT, "STEP": int(STEP), "STEPS_MAX": STEPS_MAX, "GAP": int(GAP),
                                                      "COUNT": _MARKS, "num_warps": 16}, ()))


def _look(p: Problem, mask: torch.Tensor) -> _Call:
    from . import kernel

    rows, numbers = 32, (mask.shape[1], p.queries, p.keys, p.q_offset, p.window, *_strides(mask))
    how = {"CAUSAL": p.causal, "WINDOW": p.window > 0, "BIAS": _kind(p), "SAMPLED": p.rows is not None,
           "BIAS_OF_ALL": p.bias_of_all, "ROWS": rows, "KEYS": 64, "num_warps": 4}
    return _Call(kernel.seen_keys, (-(-p.queries // rows), mask.shape[0]), numbers, how, numbers)


def maps(p: Problem, left: Swept, side: int, shown: Optional[Shown]) -> torch.Tensor:
    """The values of pooled.Pooled of the first sample, of what the kernels left of all rows. `shown`: the part; None: all."""
    q, found = p.q, torch.empty(p.heads, *cells(p.queries, p.keys, side), dtype=torch.float16, device=p.q.device)
    with _current(q.device):
        _cells(p, side, shown is not None).launch(
            *_tensors(p)[:4], _tensors(p)[7], left.sums, q if p.sinks is None else p.sinks, q if shown is None else shown.queries.view(torch.uint8),
            q if shown is None else shown.extent, found)
    return found


def _cells(p: Problem, side: int, is_part: bool) -> _Call:
    from . import kernel

    (_, sums, few), (rows, columns) = _calls(p, slice(0, p.batch * p.heads), True), cells(p.queries, p.keys, side)
    return _Call(kernel.map_cells, (rows * columns, p.heads), (rows, columns, *sums.numbers),
                 {**{name: one for name, one in few.how.items() if name != "FIRST"}, "SINKS": p.sinks is not None, "PART": is_part}, ())


def _current(device: torch.device) -> Any:
    """Makes the device the current one, on which Triton launches."""
    is_other = device.type == "cuda" and device.index != torch.cuda.current_device()
    return torch.cuda.device(device) if is_other else _NOTHING


_compiled: Dict[Any, Union[bool, str]] = {}  # False: about to be; a text: why not


def is_ready(p: Problem, powers: bool, mask: Optional[torch.Tensor], side: int, is_part: bool, tokens: Optional[torch.Tensor] = None) -> bool:
    """Whether the kernels for such a problem are compiled, also for looked_at(), if there is a mask, for maps(), unless `side` is 0,
    and for of_tokens(), if there are some. The first time a thread begins to, which takes it some seconds; RuntimeError says what it failed with."""
    wanted = powers, None if mask is None else _size_seen(mask.shape[1]), side, is_part, _seen_of(tokens)
    if ("ready", wanted) in p.alike or _interpreted():
        return True
    (lengths, sums, few), tensors = _calls(p, slice(0, p.batch * p.heads), powers), _tensors(p)
    sees = [(one.dtype, _is_aligned(one)) for one in tensors]  # kernel.py has the numbers that it does not look at
    key = (p.q.device, wanted, *sees, *(_size_seen(n) for n in (*sums.fixed, *lengths.fixed)),
           *sums.how.items(), *lengths.how.items())
    found = _compiled.get(key)
    if found is None:
        _compiled[key] = False
        given = tuple(one.dtype if aligned else _Misaligned(one.dtype) for one, (_, aligned) in zip(tensors, sees))
        f32 = torch.float32
        calls: List[Tuple[_Call, Tuple[Any, ...]]] = [
            (lengths, (given[1], f32, f32)), (sums, (*given, f32, f32)), (few, (*given, f32))]
        if mask is not None:
            calls.append((_look(p, mask), (given[2], *given[6:], f32)))
            if _kind(p) == 1:
                mark, decide = _marks(p, mask)
                calls += (mark, (given[2], given[6], torch.uint8)), (decide, (torch.uint8, f32))
        if tokens is not None:
            kind = tokens.dtype if _is_aligned(tokens) else _Misaligned(tokens.dtype)
            calls.append((_token_call(p, powers, tokens), (*given, kind, f32, f32)))
        if side:
            part = (torch.uint8, torch.int64) if is_part else (given[0], given[0])
            calls.append((_cells(p, side, is_part), (*given[:4], given[7], f32, given[0] if p.sinks is None else f32, *part, torch.float16)))
        # The end of the process waits for the compiler, which may not be interrupted.
        threading.Thread(target=_compile, args=(key, p.q.device, calls), name="attnd compiles").start()
    if isinstance(found, str):
        raise RuntimeError(found)
    if found:
        p.alike["ready", wanted] = True
    return bool(found)


def _size_seen(number: int) -> Tuple[bool, bool, bool]:
    """The facts of a number that Triton compiles for."""
    return number == 1, number % 16 == 0, number >= 2**31


def _seen_of(tokens: Optional[torch.Tensor]) -> Any:
    return None if tokens is None else (tokens.dtype, _is_aligned(tokens), *(_size_seen(n) for n in tokens.stride()))


def _is_aligned(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "meta" or tensor.data_ptr() % 16 == 0


class _Misaligned:
    """Stands in for a tensor that does not begin at a multiple of 16 bytes; a dtype is Triton's word for one that does."""

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype

    def data_ptr(self) -> int:
        return 8

    def ptr_range(self) -> int:
        return 0


def _compile(key: Any, device: torch.device, calls: Sequence[Tuple[_Call, Tuple[Any, ...]]]) -> None:
    try:
        with relaxed(), _current(device):
            for call, tensors in calls:
                made = call.kernel.warmup(*tensors, *call.numbers, grid=call.grid, **call.how)
                getattr(made, "run", None)  # brings it to the device, and makes what launches it
        _compiled[key] = True
    except Exception as error:
        _compiled[key] = str(error)
