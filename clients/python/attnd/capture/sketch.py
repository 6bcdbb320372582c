# SPDX-License-Identifier: MIT
"""sketch: W_q, W_k, W_v and W_o of the captured layers at PLACES places of each head, after each captured step.

They tell, without a matrix, what does not move, was replaced, is zero or not finite, and ranks whose weights differ
(PROTOCOL.md, type `sketch`). The matrices are those that projections.py finds, with what LoRA adds to them, read from the
model's own parameters where they lie. In memory of this process the bits are gathered as they are, and the rest is left to the
sender's thread; on a device numbers are gathered once a matrix, and copied once a step.

Places are drawn from the path of the module and the name of the matrix, within a head's own part, in runs of 16 where sides
allow it: all heads of a layer have the same, and so have all ranks and resumed runs. A rank sends what it holds, its heads or the rows that
FSDP2 gave it, and attnd joins them. A matrix that is a product of two (latent attention), has to be applied to be known, or
is not here as a whole and nobody says which part is (FSDP1, ZeRO-3), has none, which is told once, as info.
"""
from __future__ import annotations

import ctypes
import functools
import hashlib
import itertools
import operator
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
import torch

from ..base import wire
from ..base.once import log
from ..forms.seen import Share
from ..sending import tensors
from ..sending.contents import Captured, Maker
from ..sending.devices import DTYPE_NAMES, HostCopy
from ..sending.publisher import Publisher
from .applied import Refused, failure
from .matrix import Matrix, Modules, adapters_of, is_held
from .projections import GIVEN, TOLD, Layer, Projections, around, modules_of

PLACES = 64  # PROTOCOL.md
RUNS = 16, 8, 4, 2, 1  # places that lie side by side: a line of the cache, which comes from memory as a whole
LOOKED_EVERY = 64  # captured steps after which the matrices are looked for again, beside the 1st, 2nd, 4th, ...
_Link = Tuple[Dict[str, Any], str, Any]
_DTYPE, _NEEDS_GRADIENT, _SHAPE = map(operator.attrgetter, ("dtype", "requires_grad", "shape"))
Captures = Mapping[str, Tuple[wire.Layer, Share]]  # what was captured in a step, by path


class _Read(NamedTuple):
    """A matrix that is read, which may be several in one.

    names   of these, and how many rows of PLACES values each has, in the order of the values
    row     of each value in the matrix [out, in], and its column
    place   where that is in the tensor of this rank, row by row; 0 where it is not there
    run     the same in runs of `each`
    held    whether it is there; None: all are
    there   these four but the last as tensors, by device
    """
    matrix: Matrix
    names: Sequence[Tuple[str, int]]
    row: np.ndarray
    column: np.ndarray
    place: np.ndarray
    run: np.ndarray
    each: int
    held: Optional[np.ndarray]
    there: Dict[torch.device, List[torch.Tensor]]

    @property
    def source(self) -> torch.Tensor:
        """The tensor that alone has the values; an empty one: there is none, or it is of a kind of its own."""
        one = self.matrix.tensor
        is_plain = type(one) in (torch.Tensor, torch.nn.Parameter) and one.layout == torch.strided
        return one if is_plain and not self.matrix.added and self.matrix.whole is None else torch.empty(0)

    def memory(self) -> Optional[np.ndarray]:
        """Where the values are, as [n, each] integers of their size; None: not in memory of this process, or they are computed.
        numpy() would tell it, too, but then nobody can resize the storage; this says nothing to the tensor, which may let go of it."""
        one = self.source
        if one.device.type != "cpu" or not one.is_contiguous() or not one.numel():
            return None
        size = one.element_size()
        memory: Any = (ctypes.c_char * (size * one.numel())).from_address(one.data_ptr())
        return np.frombuffer(memory, np.dtype(f"i{size}")).reshape(-1, self.each)

    def values(self) -> torch.Tensor:
        """f32 [n], where the matrix is."""
        local = self.matrix.here()
        if not local.numel():
            return torch.zeros(len(self.place), device=local.device)
        if local.device not in self.there:
            self.there[local.device] = [torch.from_numpy(one).to(local.device) for one in (self.row, self.column, self.place, self.run)]
        row, column, place, run = self.there[local.device]
        if local.is_contiguous():
            found = local.view(-1, self.each).index_select(0, run).view(-1).float()
        else:
            found = torch.take(local, place).float()
        for scale, b, a in self.matrix.added:
            found = found + scale * (b[row].float() * a[:, column].t().float()).sum(1)
        return found

    def split(self, values: np.ndarray) -> Iterator[Tuple[str, np.ndarray]]:
        """(name, [rows, PLACES]) of each of `names`."""
        begin = 0
        for name, rows in self.names:
            yield name, values[begin:begin + rows * PLACES].reshape(rows, PLACES)
            begin += rows * PLACES


class _Taken:
    """Values of a step, by the number of the read: `bits` as they are stored, or, for `copied` ones, the device that f32 values were
    on, and from which number of its copy on they are. `dtypes`, `trained`: of what the matrix is trained by.
    `free` gets the former when all messages are made."""

    def __init__(self, bits: List[np.ndarray], dtypes: List[torch.dtype], trained: List[bool], free: List[List[np.ndarray]]):
        self.bits = bits
        self.free = free
        self.dtypes = dtypes
        self.trained = trained
        self.copied: Dict[int, Tuple[torch.device, int]] = {}
        self.copies: Dict[torch.device, HostCopy] = {}

    def floats(self, at: int, count: int) -> np.ndarray:
        """Values of a read, f32 [count], not in `bits`; on the sender thread."""
        if at in self.copied:
            device, begin = self.copied[at]
            return self.copies[device].numpy()[begin:begin + count]
        return np.asarray(torch.from_numpy(self.bits[at]).view(-1).view(self.dtypes[at]).to(torch.float32, copy=True).numpy())


class _Known(NamedTuple):
    """A layer that was looked for. `links`: where the modules and parameters are that make it, which others may take the place of;
    None: a parameter is nowhere. `shapes`: of the parameters. `adapters`: modules with some, and their state."""
    reads: Sequence[_Read]
    links: Optional[Sequence[_Link]]
    shapes: Sequence[torch.Size] = ()
    adapters: Sequence[Tuple[torch.nn.Module, Any]] = ()


class _Away(Exception):
    """The memory of parameters of these layers is not there for now."""

    def __init__(self, paths: Sequence[str]):
        super().__init__("somebody has taken the memory of a parameter away for now")
        self.paths = paths


class _Plan:
    """All that is read after a step that captured these layers, by path; made once for as long as they are the same."""

    def __init__(self, known: Mapping[str, _Known]):
        self.known = known
        self.reads: List[_Read] = []
        self.layers: List[Tuple[str, slice, int]] = []  # path, which of the reads, and how many bytes
        for path, one in known.items():
            if one.reads:
                self.layers.append((path, slice(len(self.reads), len(self.reads) + len(one.reads)),
                                    4 * sum(len(read.place) for read in one.reads)))
                self.reads += one.reads
        self.sizes = [nbytes for _, _, nbytes in self.layers]
        self._sources = [read.source for read in self.reads]
        self._runs = [read.run for read in self.reads]
        self._seen: List[Any] = []  # of these when they had this memory
        self._memories: List[np.ndarray] = []
        self._others: List[int] = []  # numbers of reads that have none
        self._free: List[List[np.ndarray]] = []  # what bits were in, of messages that are made
        self._is_lost = any(one.links is None for one in known.values())
        links = [link for one in known.values() for link in one.links or ()]
        self._holders, self._names = [holder for holder, _, _ in links], [name for _, name, _ in links]
        self._ones = [one for _, _, one in links]
        self._parameters = [one for read in self.reads for one in read.matrix.sources]
        self._shapes = [shape for one in known.values() for shape in one.shapes]
        self._adapters = [of for one in known.values() for of in one.adapters]

    def is_current(self) -> bool:
        """Whether modules and parameters are those that were found, and as they were but for numbers."""
        return not self._is_lost and all(map(operator.is_, map(dict.get, self._holders, self._names), self._ones)) \
            and list(map(_SHAPE, self._parameters)) == self._shapes \
            and all(adapters_of(module) == state for module, state in self._adapters)

    def take(self) -> _Taken:
        """The values now. _Away."""
        sources = self._sources
        dtypes = list(map(_DTYPE, sources))
        seen = [*map(torch.Tensor.data_ptr, sources), *map(torch.Tensor.stride, sources), *map(torch.Tensor.numel, sources), *dtypes]
        if seen != self._seen:
            self._look()
            self._seen = seen
        bits = self._free.pop() if self._free else [np.empty((len(run), *memory.shape[1:]), memory.dtype)
                                                    for memory, run in zip(self._memories, self._runs)]
        for memory, run, out in zip(self._memories, self._runs, bits):
            memory.take(run, 0, out, "clip")  # else `out` is written to by way of another array
        taken = _Taken(bits, dtypes, list(map(_NEEDS_GRADIENT, sources)), self._free)
        if self._others:
            with torch.no_grad():
                self._take_others(taken)
        return taken

    def _look(self) -> None:
        """Finds out where the values are. _Away."""
        away = [path for path, of, _ in self.layers if not all(map(is_held, self._sources[of]))]
        if away:
            raise _Away(away)
        found = [read.memory() for read in self.reads]
        self._others = [at for at, memory in enumerate(found) if memory is None]
        self._memories = [_NONE if memory is None else memory for memory in found]
        self._runs = [read.run if memory is not None else _NO_RUNS for read, memory in zip(self.reads, found)]
        self._free = []

    def _take_others(self, taken: _Taken) -> None:
        """The values that are not in memory of this process as they are."""
        found: Dict[torch.device, List[torch.Tensor]] = {}
        for at in self._others:
            read = self.reads[at]
            values = read.values()
            before = found.setdefault(values.device, [])
            taken.copied[at] = values.device, sum(map(len, before))
            before.append(values)
            taken.trained[at] = read.matrix.is_trained
            taken.dtypes[at] = (read.matrix.added[0][1] if read.matrix.added else read.matrix.tensor).dtype
        taken.copies.update((device, HostCopy(torch.cat(values))) for device, values in found.items())

    def messages(self, taken: _Taken, captures: Captures) -> Iterator[Tuple[wire.Layer, int, Maker]]:
        """(layer, bytes, what makes the message) of each layer; on the sender thread."""
        made = itertools.count(1)

        def make(of: slice, share: Share) -> Captured:
            message = _message(self.reads, of, taken, share)
            if next(made) == len(self.layers):
                taken.free.append(taken.bits)
            return message

        for path, of, nbytes in self.layers:
            layer, share = captures[path]
            yield layer, nbytes, functools.partial(make, of, share)


_NONE, _NO_RUNS = np.empty((1, 1), np.int8), np.empty(0, np.int64)


class Sketches:
    """Makes those of one watch, from the training thread. `projections`: finds the matrices."""

    def __init__(self, root: torch.nn.Module, publisher: Publisher, projections: Projections):
        self._root = root
        self._publisher = publisher
        self._projections = projections
        self._plan = _Plan({})  # of the step that was captured last
        self._captured = 0  # steps
        self._told: List[str] = []

    def step_ends(self, captures: Captures, epoch: int, step: int) -> None:
        """A captured step is over."""
        if not self._publisher.limits.sketch:  # an attnd from before there were sketches
            return
        plan = self._planned(captures)
        try:
            taken = plan.take()
        except _Away as away:
            self._tell(away.paths[0], "W_q, W_k, W_v and W_o", f"{away}")
            plan = _Plan({path: one for path, one in plan.known.items() if path not in away.paths})
            taken = plan.take()
        self._publisher.publish_made(plan.sizes, functools.partial(plan.messages, taken, captures), epoch, step, "sketch")

    def _planned(self, captures: Captures) -> _Plan:
        plan, n = self._plan, self._captured
        self._captured = n = n + 1
        is_due = n % LOOKED_EVERY == 0 or n < LOOKED_EVERY and n & (n - 1) == 0
        if is_due or plan.known.keys() != captures.keys() or not plan.is_current():
            with torch.no_grad():
                plan = self._plan = _Plan(self._found({} if is_due else plan.known, captures))
        return plan

    def _found(self, known: Mapping[str, _Known], captures: Captures) -> Dict[str, _Known]:
        """All layers, those that are not known or no more as they were found now."""
        found: Dict[str, _Known] = {}
        modules: Optional[Modules] = None
        for path in captures:
            last = known.get(path)
            if last is None or not _Plan({path: last}).is_current():
                modules = modules_of(self._root) if modules is None else modules
                last = self._find(modules, path)
            found[path] = last
        return found

    def _find(self, modules: Modules, path: str) -> _Known:
        try:
            layer = self._projections.layer_at(modules, path)
        except Refused as why:
            self._tell(path, "W_q, W_k, W_v and W_o", str(why))
            return _Known((), ())
        except Exception as error:
            log.debug("job %s: a sketch of %s", self._publisher.job, path, exc_info=True)
            self._tell(path, "W_q, W_k, W_v and W_o", f"reading them failed ({failure(error)})")
            return _Known((), ())
        for names, reason in layer.unsent:
            self._tell(path, names, reason)
        reads = []
        for name in (name for name in GIVEN if name in layer.matrices):
            matrix = layer.matrices[name]
            if matrix.applied is not None or matrix.latent is not None:
                self._tell(path, TOLD[name], "it is a product of two" if matrix.latent is not None else
                           f"{matrix.applied.what} has to be applied to tell it" if matrix.applied is not None else "")
            else:
                reads.append(_read(path, layer, name))
        sources = [one for read in reads for one in read.matrix.sources]
        links, adapters = _links(modules, path, sources)
        return _Known(reads, links, [one.shape for one in sources], adapters)

    def _tell(self, path: str, names: str, why: str) -> None:
        if names not in self._told:
            self._told.append(names)
            log.info("job %s: there is no sketch of %s of %s: %s", self._publisher.job, names, path or "the model", why)


def _message(reads: Sequence[_Read], of: slice, taken: _Taken, share: Share) -> Captured:
    """The parts of a message of these reads; on the sender thread."""
    frames, found = tensors.Frames(), {}
    held: Dict[str, np.ndarray] = {}
    for at in range(of.start, of.stop):
        read = reads[at]
        for name, values in read.split(taken.floats(at, len(read.place))):
            found[name] = values, DTYPE_NAMES[taken.dtypes[at]], taken.trained[at]
        held.update(read.split(np.ones(len(read.place), np.uint8) if read.held is None else read.held.astype(np.uint8)))
    names = [name for name in GIVEN if name in found]
    for name in names:
        frames.add_owned(name, "f32", found[name][0])
    if any(read.held is not None for read in reads[of]):
        frames.add_owned("held", "u8", np.concatenate([held[name] for name in names]))
    heads = next(len(found[name][0]) for name in ("wq", "wo", *names) if name in found)
    slice_of = {"head_offset": share.number * heads, "heads_total": share.of * heads} if share.of > 1 else {}
    return Captured("sketch", frames, lambda layer: wire.sketch_keys(
        layer, frames.described, stored=[found[name][1] for name in names], frozen=[name for name in names if not found[name][2]],
        **slice_of))


# ------------------------------------------------------------------------------------------- where values are

def places(path: str, name: str, rows: int, columns: int, each: int) -> Tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the places in the [rows, columns] numbers of a head as they are stored, int64 [PLACES] each: runs of
    `each`, which divides `columns`."""
    drawn = np.frombuffer(hashlib.shake_128(f"{path}\0{name}".encode()).digest(8 * (PLACES // each)), "<u8")
    at = (drawn % np.uint64(rows * columns // each)).astype(np.int64) * each
    return np.repeat(at // columns, each), (at[:, None] % columns + np.arange(each)).ravel()


def _read(path: str, layer: Layer, name: str) -> _Read:
    """All that is read of one matrix of the layer."""
    matrix, d = layer.matrices[name], layer.head_dim
    each = next(n for n in RUNS if matrix.stored_columns % n == 0 and d % n == 0)
    names: List[Tuple[str, int]] = []
    rows, columns = [], []
    for part, own in layer.rows_of(name):
        of_heads, of_others = (matrix.shape[1], matrix.shape[0]) if part == "wo" else (len(own), matrix.shape[1])
        heads = of_heads // d
        if (part == "wo") == matrix.transposed:  # a head has rows of what is stored
            within, other = places(path, part, d, of_others, each)
        else:
            other, within = places(path, part, of_others, d, each)
        mine, other = (np.arange(heads)[:, None] * d + within).ravel(), np.tile(other, heads)
        rows.append(other if part == "wo" else own[mine])
        columns.append(mine if part == "wo" else other)
        names.append((part, heads))
    row, column = np.concatenate(rows), np.concatenate(columns)
    place, held = matrix.place_of(row, column)
    return _Read(matrix, names, row, column, place, place[::each] // each, each, held, {})


def _links(modules: Modules, path: str, sources: Sequence[torch.Tensor]
           ) -> Tuple[Optional[Sequence[_Link]], Sequence[Tuple[torch.nn.Module, Any]]]:
    """As _Known: where these parameters are in their modules, and these in the modules around them, up to the block."""
    top, wanted = around(path)[-1], {id(one) for one in sources}
    found: List[_Link] = []
    adapters: Dict[int, Tuple[torch.nn.Module, Any]] = {}
    for name, module in modules.items():
        keys = [key for key, one in module._parameters.items() if id(one) in wanted]
        if not keys or not (top in ("", name) or name.startswith(f"{top}.")):
            continue
        found += [(module._parameters, key, module._parameters[key]) for key in keys]
        while name and name != top:
            outer, _, last = name.rpartition(".")
            inner: Any = modules[outer]._modules if outer in modules else {}
            if inner.get(last) is modules[name]:  # else a wrapper is between
                found.append((inner, last, modules[name]))
            name = outer
            state = adapters_of(modules[name]) if name in modules else None
            if state is not None:
                adapters[id(modules[name])] = modules[name], state
    once = {(id(held), key): (held, key, one) for held, key, one in found}
    is_whole = wanted <= {id(one) for _, _, one in found}
    return tuple(once.values()) if is_whole else None, tuple(adapters.values())
