# SPDX-License-Identifier: MIT
"""folds: how the attention's batch holds the samples of the model's, where windows, frames or rows of a picture are put there.

The model's batch is what its inputs have first. An attention whose batch is a multiple of that has as many rows of each
sample. Whether these lie beside one another, "(b n)", or a batch apart, "(n b)", is read from what autograd keeps of the
views between, back to tensors whose first axis alone is as long as the model's batch: those next to the attention must
agree. Without that, as in code that records no gradients or is compiled, it is not known.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch

from ..base.plan import Folds
from ..forms import graph
from ..forms.seen import Seen, Weights

NODES_MAX = 256  # of a graph, from an attention back
TOLD = 4  # tensors on that way that tell, which have to agree
DEPTH_MAX = 3  # of lists and maps in a model's arguments


class Batches:
    """The folds of the attentions of one model. Asked from the training thread."""

    def __init__(self, root: torch.nn.Module) -> None:
        self._takes_second = any(isinstance(module, torch.nn.MultiheadAttention) and not getattr(module, "batch_first", False)
                                 for module in root.modules())
        self._apart: Dict[Tuple[str, int, int], int] = {}

    def sizes(self, args: Iterable[Any], kwargs: "Mapping[str, Any]") -> Set[int]:
        """The sizes that the batch may have by these arguments of the model."""
        tensors: List[torch.Tensor] = []
        found: Set[int] = set()
        for value in (*args, *kwargs.values()):
            tensors += _tensors_in(value, found)
        shapes = [tensor.shape for tensor in tensors if tensor.dim() > 1] or [tensor.shape for tensor in tensors if tensor.dim()]
        found.update(int(shape[0]) for shape in shapes)
        if self._takes_second:  # of [T, B] and [T, B, width], which modules of torch take that say nothing of it
            found.update(int(shape[1]) for shape in shapes if len(shape) in (2, 3))
        return found - {0}

    def folds(self, path: str, batch: int, sizes: Set[int], seen: Seen) -> Folds:
        """The folds of an attention with a batch of so many rows."""
        of = {size for size in sizes if batch % size == 0}
        if batch in of or not of:
            return Folds()
        of = of - {1} or of
        size = min(of)
        if size == 1 or len(of) > 1:
            return Folds(batch // size, 0)
        key = path, batch, size
        if key not in self._apart:
            start = _start(seen, batch)
            apart = 0 if start is None else _apart(start, batch, size)
            if not apart and (start is None or start.grad_fn is None):
                return Folds(batch // size, 0)  # a later forward may tell
            self._apart[key] = apart
        return Folds(batch // size, self._apart[key])


def _tensors_in(value: Any, lengths: Set[int], depth: int = DEPTH_MAX) -> List[torch.Tensor]:
    """The tensors of an argument; `lengths` gains those of lists of tensors, which may be one for each sample."""
    if isinstance(value, torch.Tensor):
        return [value]
    if depth == 0 or not isinstance(value, (Mapping, list, tuple)):
        return []
    inner = list(value.values()) if isinstance(value, Mapping) else list(value)
    if inner and not isinstance(value, Mapping) and isinstance(inner[0], torch.Tensor):
        lengths.add(len(inner))
    return [tensor for one in inner for tensor in _tensors_in(one, lengths, depth - 1)]


# ------------------------------------------------------------------------------------- by what autograd keeps

class _Atom(NamedTuple):
    """A factor of an axis; `is_batch`: it counts the samples."""
    size: int
    is_batch: bool = False


_Axes = List[List[_Atom]]  # of each axis its factors, the outermost first
_MIXING = graph.PICKING | graph.PUTTING | {"Flip", "Repeat", "RepeatInterleave", "Stack"}  # may put samples in another order


class _Unknown(Exception):
    """The views do not tell."""


def _start(seen: Seen, batch: int) -> Optional[torch.Tensor]:
    """A tensor of the model whose outermost axes are the attention's batch."""
    if seen.output is None:
        return seen.weights if isinstance(seen, Weights) else seen.q
    tensor = seen.output.tensor
    try:
        arranged = seen.output.arrange(torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))
    except Exception:  # it reads numbers
        return None
    strides = [stride for stride, length in zip(arranged.stride(), arranged.shape) if length > 1]
    return tensor if arranged.shape[0] == batch and strides[0] == max(strides) else None


def _apart(start: torch.Tensor, batch: int, size: int) -> int:
    """Rows of the attention's batch from one of a sample to its next; 0: not known."""
    node, shape, told, found = start.grad_fn, tuple(start.shape), 0, set()
    steps: List[Tuple[Any, Tuple[int, ...]]] = []
    while told < TOLD:
        try:
            if shape[0] == size and size not in shape[1:]:
                told += 1
                found.add(_told(steps, shape, size, (batch, start.numel() // batch)))
        except (_Unknown, IndexError):
            pass
        try:
            if node is None or len(steps) == NODES_MAX:
                break
            steps.append((node, shape))
            node, shape = _source(node, shape)
        except (_Unknown, RuntimeError):
            break
    return found.pop() if len(found) == 1 else 0


def _told(steps: Sequence[Tuple[Any, Tuple[int, ...]]], shape: Sequence[int], size: int, of: Tuple[int, int]) -> int:
    """The same by a tensor whose first axis are the samples, and by the steps, the last one first, that made another of it. `of`:
    the attention's batch, and all else of that."""
    axes = [[_Atom(length, axis == 0)] for axis, length in enumerate(shape)]
    for node, made in reversed(steps):
        axes = _after(node, axes, made)
    first = [atom for atom in _regrouped([atom for axis in axes for atom in axis], of)[0] if atom.size > 1]
    if sum(atom.is_batch for atom in first) != 1 or not (first[0].is_batch or first[-1].is_batch):
        raise _Unknown
    return 1 if first[0].is_batch else size


def _source(node: Any, shape: Sequence[int]) -> Tuple[Any, Tuple[int, ...]]:
    """Which node made what this one made its result of, and of which shape: of several the first that is as long along the first axis."""
    befores = [one for one in node.next_functions if one[0] is not None and one[0].next_functions]
    if graph.operation(node) == "Addmm":
        befores = [node.next_functions[1]]
    sources = [(before, graph.shape_of(before, number)) for before, number in befores]
    if len(sources) > 1:
        sources = [source for source in sources if source[1] and len(source[1]) == len(shape) and source[1][0] == shape[0]]
    if not sources or sources[0][1] is None:
        raise _Unknown
    return sources[0][0], sources[0][1]


def _after(node: Any, axes: _Axes, shape: Sequence[int]) -> _Axes:
    """The axes of the result of a node, `shape`, which those of its source become."""
    name = graph.operation(node)
    if name in _MIXING or not type(node).__name__[-1].isdigit():  # or a function in Python, of any name
        raise _Unknown
    if name in graph.RESHAPING:
        return _regrouped([atom for axis in axes for atom in axis], shape)
    if name == "Permute":
        return [axes[_signed(axis)] for axis in node._saved_dims]
    if name == "Transpose":
        first, second = (_signed(axis) % len(axes) for axis in (node._saved_dim0, node._saved_dim1))
        axes = list(axes)
        axes[first], axes[second] = axes[second], axes[first]
        return axes
    if name == "T":
        return axes[::-1]
    if name in ("Unbind", "Select"):
        axis = _signed(node._saved_dim) % len(axes)
        if any(atom.is_batch for atom in axes[axis]):
            raise _Unknown
        return [*axes[:axis], *axes[axis + 1:]]
    if name == "Roll" and any(atom.is_batch for axis in node._saved_dims for atom in axes[_signed(axis)]):
        raise _Unknown
    if len(axes) != len(shape):
        raise _Unknown
    # Axes that are as long remain what they are; the samples are along one of these.
    found = [axis if math.prod(atom.size for atom in axis) == length else [_Atom(length)] for axis, length in zip(axes, shape)]
    if not any(atom.is_batch for axis in found for atom in axis):
        raise _Unknown
    return found


def _regrouped(atoms: Sequence[_Atom], shape: Sequence[int]) -> _Axes:
    """The factors of a view's axes. No axis divides the samples."""
    joined: List[_Atom] = []
    for atom in atoms:
        if joined and not (atom.is_batch or joined[-1].is_batch):
            joined[-1] = _Atom(joined[-1].size * atom.size)
        else:
            joined.append(atom)
    left, found = joined[::-1], []
    for length in shape:
        axis: List[_Atom] = []
        missing = length
        while missing > 1:
            atom = left.pop()
            if atom.size > 1 and missing % atom.size:
                common = math.gcd(missing, atom.size)
                if atom.is_batch or common == 1 or common != missing:
                    raise _Unknown
                left.append(_Atom(atom.size // common))
                atom = _Atom(common)
            axis.append(atom)
            missing //= atom.size
        found.append(axis)
    return found


def _signed(axis: int) -> int:
    """As it was given: what autograd keeps has no sign."""
    return axis - (1 << 64) if axis >= 1 << 63 else axis
