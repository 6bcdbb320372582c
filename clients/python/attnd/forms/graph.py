# SPDX-License-Identifier: MIT
"""graph: how autograd has noted that a tensor was made: which operations, by their kind, of which shapes, of which parameters.

An edge is an operation and the number of one of its results. Nothing of the model is computed again, and nothing is unpacked.
"""
from __future__ import annotations

import re
from collections import deque
from typing import Any, Callable, Container, Iterable, Iterator, Optional, Sequence, Tuple

import torch

Edge = Tuple[Any, int]


# Operations by what happens to the elements.
RESHAPING = frozenset("View UnsafeView Reshape ReshapeAlias Unsqueeze Squeeze".split())  # the elements stay in order
TURNING = frozenset("T Transpose Permute".split())
PARTING = frozenset("Slice Select Split SplitWithSizes UnsafeSplit UnsafeSplitWithSizes Unbind AsStrided".split())
COPYING = frozenset("Alias Clone ToCopy Copy".split())
JOINING = frozenset("Cat Stack ConstantPadNd".split())
MOVING = frozenset("Flip Roll".split())
PICKING = frozenset("Index IndexSelect Gather MaskedSelect Take".split())
PUTTING = frozenset("IndexPut IndexPutImpl IndexAdd IndexCopy IndexFill Scatter ScatterAdd ScatterReduce Sort".split())
REPEATING = frozenset("Expand Repeat RepeatInterleave".split())
SCALING = frozenset("Mul Div Neg NativeDropout FusedDropout MaskedFill Where".split())  # element by element
ADDING = frozenset("Add Sub Rsub".split())
CURVING = frozenset("Pow Sqrt Tanh Clamp".split())
NORMING = frozenset("NativeLayerNorm NativeGroupNorm FusedRmsNorm".split())
PRODUCTS = frozenset("Bmm Baddbmm".split())
LAYERS = frozenset("Addmm Mm Linear Convolution".split())
SHAPING = RESHAPING | TURNING | PARTING | JOINING | MOVING


def operation(node: Any) -> str:
    """The name of an operation of torch, as View; that of a function in Python ends with Backward."""
    name = type(node).__name__
    return name if name.endswith("Backward") else name.partition("Backward")[0]


def edge_of(tensor: torch.Tensor) -> Edge:
    """The edge of a tensor; a view that was made without autograd has the edge of the base."""
    tensor = tensor if tensor.grad_fn is not None or tensor._base is None else tensor._base
    return tensor.grad_fn, tensor.output_nr


def place(tensor: torch.Tensor) -> int:
    """The address of a tensor's elements; 0: not known."""
    try:
        storage = tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()  # type: ignore[no-untyped-call]
        return int(storage.data_ptr())
    except (NotImplementedError, RuntimeError):
        return 0


def shape_of(node: Any, number: int) -> Optional[Tuple[int, ...]]:
    """The shape of a result of an operation; None: torch 1.13 does not tell."""
    return tuple(node._input_metadata[number].shape) if hasattr(node, "_input_metadata") else None


def results_of(node: Any) -> int:
    """The number of results of an operation."""
    if hasattr(node, "_input_metadata"):
        return len(node._input_metadata)
    try:
        node(*[None] * 65536)  # torch 1.13 tells the number when given too many
    except TypeError as told:
        return int((re.search(r"expected (\d+)", str(told)) or [0, 1])[1])
    return 1


def back(starts: Iterable[Edge], most: int, before: Callable[[Edge], Iterable[Edge]]) -> Iterator[Edge]:
    """The edges that `starts` are made of, the nearest first, at most `most`. `before`: the edges behind an edge."""
    waiting = deque(one for one in starts if one[0] is not None)
    met = set(waiting)
    while waiting and most > 0:
        edge, most = waiting.popleft(), most - 1
        yield edge
        new = [one for one in before(edge) if one[0] is not None and one not in met]
        met.update(new)
        waiting.extend(new)


def through(names: Container[str]) -> Callable[[Edge], Sequence[Edge]]:
    """For back(): all edges behind operations of these names."""
    return lambda edge: edge[0].next_functions if operation(edge[0]) in names else ()


def is_weight(node: Any) -> bool:
    """Whether an operation gives a parameter, or a view or a copy of a parameter."""
    while node is not None and not hasattr(node, "variable"):
        if len(node.next_functions) != 1 or operation(node) not in RESHAPING | TURNING | PARTING | COPYING | REPEATING:
            return False
        node = node.next_functions[0][0]
    return node is not None
