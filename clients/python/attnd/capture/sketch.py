# SPDX-License-Identifier: MIT
"""sketch: W_q, W_k, W_v and W_o of the captured layers at PLACES places of each head, after each captured step.

They tell, without a matrix, what does not move, was replaced, is zero or not finite, and ranks whose weights differ
(PROTOCOL.md, type `sketch`). The matrices are those that projections.py finds, with what LoRA adds to them, read from the
model's own parameters where they lie: some numbers of each, gathered once a layer, copied once a step.

Places are drawn from the path of the module and the name of the matrix, within a head's own part, in runs of 8 where sides
allow it: all heads of a layer have the same, and so have all ranks and resumed runs. A rank sends what it holds, its heads or the rows that
FSDP2 gave it, and attnd joins them. A matrix that is a product of two (latent attention), has to be applied to be known, or
is not here as a whole and nobody says which part is (FSDP1, ZeRO-3), has none, which is told once, as info.
"""
from __future__ import annotations

import functools
import hashlib
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

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
from .matrix import Matrix, Modules
from .projections import GIVEN, TOLD, Layer, Projections, around, modules_of

PLACES = 64  # PROTOCOL.md
RUNS = 8, 4, 2, 1  # places that lie side by side: what is next to a number comes with it from memory
LOOKED_EVERY = 64  # captures after which the matrices of a layer are looked for again, beside its 1st, 2nd, 4th, ...
_Link = Tuple[Dict[str, Any], str, Any]
Captures = Mapping[str, Tuple[wire.Layer, Share]]  # what was captured in a step, by path


class _Read(NamedTuple):
    """Facts of a matrix that is read, which may be several in one.

    names   of these, and how many rows of PLACES values each has, in the order of the values
    row     of each value in the matrix [out, in], and its column; int64, where the matrix is
    place   where that is in the tensor of this rank, row by row; 0 where it is not there
    run     the same in runs of `each`
    held    whether it is there, bool, on the host; None: all are
    """
    matrix: Matrix
    names: Tuple[Tuple[str, int], ...]
    row: torch.Tensor
    column: torch.Tensor
    place: torch.Tensor
    run: torch.Tensor
    each: int
    held: Optional[np.ndarray]

    def values(self) -> torch.Tensor:
        """f32 [n], where the matrix is."""
        local = self.matrix.here()
        if not local.numel():
            return torch.zeros(len(self.place), device=local.device)
        if local.is_contiguous():
            found = local.view(-1, self.each).index_select(0, self.run).view(-1).float()
        else:
            found = torch.take(local, self.place).float()
        for scale, b, a in self.matrix.added:
            found = found + scale * (b[self.row].float() * a[:, self.column].t().float()).sum(1)
        return found

    def held_of(self) -> Iterator[Tuple[str, np.ndarray]]:
        """Which values of each of `names` are there, u8 [rows, PLACES]."""
        held = np.ones(len(self.place), np.uint8) if self.held is None else self.held.astype(np.uint8)
        begin = 0
        for name, rows in self.names:
            yield name, held[begin:begin + rows * PLACES].reshape(rows, PLACES)
            begin += rows * PLACES

    @property
    def stored(self) -> str:
        """The dtype of what is trained of it."""
        return DTYPE_NAMES[(self.matrix.added[0][1] if self.matrix.added else self.matrix.tensor).dtype]


class _Known(NamedTuple):
    """Facts of a layer. `links`: where the modules and parameters are that make it, which others may take the place of; None: a
    parameter is nowhere."""
    reads: Tuple[_Read, ...]
    links: Optional[Tuple[_Link, ...]]

    def is_current(self) -> bool:
        return self.links is not None and all(held.get(name) is one for held, name, one in self.links)


class Sketches:
    """Makes those of one watch, from the training thread. `projections`: finds the matrices."""

    def __init__(self, root: torch.nn.Module, publisher: Publisher, projections: Projections):
        self._root = root
        self._publisher = publisher
        self._projections = projections
        self._known: Dict[str, _Known] = {}  # of those that the last step captured
        self._captures: Dict[str, int] = {}
        self._told: List[str] = []

    def step_ends(self, captures: Captures, epoch: int, step: int) -> None:
        """A captured step is over."""
        if not self._publisher.limits.sketch:  # an attnd from before there were sketches
            return
        with torch.no_grad():
            self._known = self._of(captures)
            for layers, copy in _copied(self._known):
                begin = 0
                for path, reads in layers:
                    count = sum(len(read.place) for read in reads)
                    layer, share = captures[path]
                    make = functools.partial(_message, reads, [read.matrix.is_trained for read in reads], copy, begin, share)
                    self._publisher.publish_later(layer, epoch, step, 4 * count, _given(make), "sketch")
                    begin += count
        self._publisher.hurry()

    def _of(self, captures: Captures) -> Dict[str, _Known]:
        """All that is known of the layers, or found now."""
        found: Dict[str, _Known] = {}
        modules: Optional[Modules] = None
        for path in captures:
            count = self._captures[path] = self._captures.get(path, 0) + 1
            last = self._known.get(path)
            is_due = count & (count - 1) == 0 and count < LOOKED_EVERY or count % LOOKED_EVERY == 0
            if last is None or is_due or not last.is_current():
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
        return _Known(tuple(reads), _links(modules, path, sources))

    def _tell(self, path: str, names: str, why: str) -> None:
        if names not in self._told:
            self._told.append(names)
            log.info("job %s: there is no sketch of %s of %s: %s", self._publisher.job, names, path or "the model", why)


def _copied(known: Mapping[str, _Known]) -> Iterator[Tuple[List[Tuple[str, Tuple[_Read, ...]]], HostCopy]]:
    """The layers of each device, and their values, one after the other, on their way to the host."""
    devices: Dict[torch.device, List[Tuple[str, Tuple[_Read, ...]]]] = {}
    for path, one in known.items():
        if one.reads:
            devices.setdefault(one.reads[0].place.device, []).append((path, one.reads))
    for device, layers in devices.items():
        values = [read.values() for _, reads in layers for read in reads]
        yield layers, HostCopy(torch.cat([one if one.device == device else one.to(device) for one in values]))


def _given(make: Maker) -> Callable[[], Maker]:
    return lambda: make


def _message(reads: Tuple[_Read, ...], trained: Sequence[bool], copy: HostCopy, begin: int, share: Share) -> Captured:
    """The parts of a message of values from `begin` on; on the sender thread."""
    frames, found = tensors.Frames(), {}
    for read, is_trained in zip(reads, trained):
        for name, rows in read.names:
            end = begin + rows * PLACES
            found[name] = copy.numpy()[begin:end].reshape(rows, PLACES), read.stored, is_trained
            begin = end
    names = [name for name in GIVEN if name in found]
    for name in names:
        frames.add_owned(name, "f32", found[name][0])
    if any(read.held is not None for read in reads):
        held = {name: one for read in reads for name, one in read.held_of()}
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
    device = matrix.here().device
    there = [torch.from_numpy(one).to(device) for one in (row, column, place)]
    return _Read(matrix, tuple(names), there[0], there[1], there[2], there[2][::each] // each, each, held)


def _links(modules: Modules, path: str, sources: Sequence[torch.Tensor]) -> Optional[Tuple[_Link, ...]]:
    """Where these parameters are in their modules, and these in the modules around them, up to the block."""
    top, wanted = around(path)[-1], {id(one) for one in sources}
    found: List[_Link] = []
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
    return tuple(found) if wanted <= {id(one) for _, _, one in found} else None
