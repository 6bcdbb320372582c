# SPDX-License-Identifier: MIT
"""standing: where the queries of a self-attention stand among its keys, or why neither rows nor keys are positions.

Autograd has noted how queries and keys were made. Marks of all queries and of all keys of one head are sent back, through views,
layers and operations by element, until both arrive at one result, or at layers that read data: query i stands at key j when both are
of one row there. Where that is i plus one number for all, the number is where query 0 stands. Keys that are strided, permuted or picked
have other numbers; those that a layer, a convolution or a pool makes of several positions each arrive nowhere. Nothing of the model
is computed again.
"""
from __future__ import annotations

import math
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch

from ..base.torch_state import saves_elsewhere
from . import graph
from .graph import is_weight, operation, shape_of
from .lead import BY_ELEMENT, through_view
from .seen import Queries, Seen, Weights, keys_of, queries_of
from .sources import product_before, sides_of

STEPS_MAX = 48  # operations of each side that marks are sent through
_NEAR = 24  # operations in which others than views are looked for, where there are as many queries as keys

_MIXED, _POOLED, _PICKED, _LEARNED, _UNKNOWN = "are each made of several positions", "are pooled", "were picked", "are learned", ""


class Standing(NamedTuple):
    """Facts about the rows of an attention.

    offset  the key at whose position query 0 stands; None: nothing tells
    apart   why its rows and keys are no positions of one sequence, for people; None: they are
    heads   how many heads are beside one another in the rows of one
    """
    offset: Optional[int] = None
    apart: Optional[str] = None
    heads: int = 1


def find(seen: Seen) -> Optional[Standing]:
    """By what autograd has noted; None: it has not."""
    queries, keys = queries_of(seen)[1], keys_of(seen)
    edges = sides_of(seen)
    if edges is None:  # a softmax of no keys, as of a router that is included, or nothing was recorded
        is_of_none = isinstance(seen, Weights) and seen.logits.grad_fn is not None and product_before(seen.logits) is None
        return Standing(0) if is_of_none else None
    if queries == keys and not any(_may_order(node) for node, _ in edges):
        return Standing(0)
    sides = _of_call(seen, queries, keys) if isinstance(seen, Queries) else _of_product(seen.logits, queries, keys)
    return None if sides is None else _meet(_Way(sides[0]), _Way(sides[1]), queries, keys)


def _may_order(node: Any) -> bool:
    """Whether what is near it may put positions in another order."""
    nodes = [node]
    for node in nodes:  # grows
        if operation(node) in _ORDERING:
            return True
        if len(nodes) < _NEAR:
            nodes.extend(before for before, _ in node.next_functions if before is not None)
    return False


class _Marked(NamedTuple):
    """Marks in the `number`-th result of an operation: the places of positions, counted from 1."""
    node: Any
    number: int
    marks: torch.Tensor


def _of_call(seen: Queries, queries: int, keys: int) -> Optional[Sequence[_Marked]]:
    sides = [_marked(one, count) for one, count in ((seen.q, queries), (seen.k, keys))]
    return [side for side in sides if side is not None] if None not in sides else None


def _marked(tensor: torch.Tensor, count: int) -> Optional[_Marked]:
    """The rows of the first head of [B, H, T, d]; of a view that was made without autograd, in its base."""
    whole = tensor if tensor.grad_fn is not None or tensor._base is None else tensor._base
    if type(tensor) is not torch.Tensor or whole.grad_fn is None or not tensor.numel():
        return None
    marks = torch.empty_strided(whole.size(), whole.stride(), dtype=torch.int32, device=whole.device).zero_()
    view = marks if whole is tensor else marks.as_strided(tensor.size(), tensor.stride(), tensor.storage_offset() - whole.storage_offset())
    view[0, 0, :, 0] = torch.arange(1, count + 1, device=whole.device)
    return _Marked(whole.grad_fn, whole.output_nr, marks)


def _of_product(logits: torch.Tensor, queries: int, keys: int) -> Optional[Sequence[_Marked]]:
    """The rows of the first of the matrices [N, Tq, d] and the columns of those [N, d, Tk] whose product the logits were."""
    node, found, counts = product_before(logits), [], []
    for operand, (before, at) in enumerate(() if node is None else node.next_functions[-2:]):
        size = None if before is None else _size(node, operand, before, at)
        if size is None or len(size) != 3 or not size[0]:
            return None
        marks = torch.zeros(size, dtype=torch.int32, device=logits.device)
        marks.select(2 - operand, 0)[0] = torch.arange(1, size[1 + operand] + 1)
        found.append(_Marked(before, at, marks))
        counts.append(size[1 + operand])
    if counts == [keys, queries] and queries != keys:
        found.reverse()
    return found if sorted(counts) == sorted((queries, keys)) else None


def _size(node: Any, operand: int, before: Any, at: int) -> Optional[Tuple[int, ...]]:
    """The shape of an operand of a product, the first or the second."""
    known = shape_of(before, at)
    if known is not None:
        return known
    for name in (("self", "mat1", "batch1", "input"), ("mat2", "batch2", "weight"))[operand]:
        for told in (f"_saved_{name}_sym_sizes", f"_saved_{name}_sizes"):
            if hasattr(type(node), told):
                return tuple(getattr(node, told))
        if hasattr(type(node), f"_saved_{name}") and not saves_elsewhere():
            kept = getattr(node, f"_saved_{name}")
            return None if kept is None else tuple(kept.shape)
    return None


# ------------------------------------------------------------------------------------------- where marks come from

class _Way:
    """The results that marks were sent back to, and what they ended at."""

    def __init__(self, start: _Marked):
        self.waiting = [start]
        self.rows: Dict[Any, List[int]] = {}  # by result: the row of each position there; -1: it is not there
        self.ends: Set[str] = set()
        self.heads = 1  # in one row of a layer
        self._count = int(start.marks.max())

    def step(self) -> Any:
        """Goes on by one operation; the result that it was, if positions are rows there."""
        one = self.waiting.pop(0)
        at, name = (one.node, one.number), operation(one.node)
        if at in self.rows or not one.marks.any():
            return None
        if hasattr(one.node, "variable"):
            self.ends.add(_LEARNED)
            return None
        try:
            parts = through_view(*one)
            if parts is None:
                at = self._through(at, name, one.marks)
            elif name in ("Cat", "Stack"):
                self._note(at, one.marks, -1)
            self.waiting += [_Marked(*part) for part in parts or ()]
        except RuntimeError:  # marks of another shape, as torch 1.13 does not tell it, or no memory for them
            self.ends.add(_UNKNOWN)
        return at

    def _through(self, at: Any, name: str, marks: torch.Tensor) -> Any:
        """Through what is no view; the result that rows are noted of."""
        node = at[0]
        if name in _PRODUCTS:
            return self._through_product(at, name, marks)
        self._note(at, marks, 1 if name in _BY_CHANNEL else -1)
        if name in _BY_ELEMENT:
            befores = node.next_functions[:1] if "Norm" in name else node.next_functions
            for before, number in befores:
                known = None if before is None else before.variable.shape if hasattr(before, "variable") else shape_of(before, number)
                if before is not None and (known is None or tuple(known) == tuple(marks.shape)):
                    self.waiting.append(_Marked(before, number, marks))
            if befores[0][0] is None or (name in ("Add", "Sub") and any(before is None for before, _ in befores)):
                self.ends.add(_UNKNOWN)
        elif name in _PICKING:
            self._through_pick(node, name, marks)
        elif name == "Convolution":
            self._through_convolution(node, marks)
        else:
            self.ends.add(_POOLED if _is_pool(node, name) else _UNKNOWN)
        return at

    def _note(self, at: Any, marks: torch.Tensor, channels: int) -> None:
        """Keeps the rows of marks, all axes but that one, if each mark has a row of its own."""
        places = marks.nonzero()
        rows = torch.zeros(len(places), dtype=torch.int64, device=marks.device)
        for axis, size in enumerate(marks.shape):
            if axis != channels % marks.dim():
                rows = rows * size + places[:, axis]
        found = dict(zip((marks[marks != 0] - 1).tolist(), rows.tolist()))
        if len(set(found.values())) == len(found) == len(places):
            self.rows[at] = [found.get(position, -1) for position in range(self._count)]

    def _through_product(self, at: Any, name: str, marks: torch.Tensor) -> Any:
        """Through a layer, or what a matrix of weights does to rows or columns. Where a layer reads data, which autograd does not
        know, the number of its rows stands for it."""
        node = at[0]
        operands = node.next_functions[:2] if name == "Linear" else node.next_functions[-2:]
        fixed = [before is None or is_weight(before) for before, _ in operands]
        if all(fixed):  # a layer reads data, or what is learned
            fixed = [operands[1][0] is None, operands[1][0] is not None]
        if fixed[0] == fixed[1] or (name != "Linear" and marks.dim() != 2 + (name in ("Bmm", "Baddbmm"))):
            self.ends.add(_UNKNOWN)
            return at
        own = fixed.index(False)
        across = -1 - own  # the axis that the weights made anew
        several = (marks != 0).sum(across)
        rows, most = int((several > 0).sum()), int(several.max())
        if most > 1:
            self.heads = most if own == 0 and rows > 1 and rows * most == self._count else 1
            self.ends.add(_MIXED)
            return at
        before, number = operands[own]
        at = ("data", several.numel()) if before is None else at
        self._note(at, marks, across)
        size = None if before is None else _size(node, own, before, number)
        if size is None:
            self.ends.add(_UNKNOWN)
            return at
        of_input = torch.zeros(size, dtype=marks.dtype, device=marks.device)
        of_input.select(across, 0).copy_(marks.amax(across))
        self.waiting.append(_Marked(before, number, of_input))
        return at

    def _through_pick(self, node: Any, name: str, marks: torch.Tensor) -> None:
        """Through what picks by number, or repeats. Marks of one place are none."""
        before, number = node.next_functions[0]
        if before is None or saves_elsewhere():
            given = None if before is None else shape_of(before, number)
            self.ends.add(_PICKED if given is not None and math.prod(given) > marks.numel() else _UNKNOWN)
            return
        if name == "Index":
            back = torch.zeros(tuple(getattr(node, "_saved_self_sym_sizes", None) or node._saved_self_sizes), dtype=marks.dtype, device=marks.device)
            back[tuple(slice(None) if one is None else one for one in node._saved_indices)] = marks
        else:
            back = node(marks)
            back = back[0] if isinstance(back, tuple) else back
        if back.numel() > marks.numel():
            self.ends.add(_PICKED)
        if int((back != 0).sum()) == int((marks != 0).sum()):
            self.waiting.append(_Marked(before, number, back))

    def _through_convolution(self, node: Any, marks: torch.Tensor) -> None:
        """Through one that has as many places in front of it as behind."""
        before, number = node.next_functions[0]
        size = None if before is None else _size(node, 0, before, number)
        if any(step > 1 for step in node._saved_stride):
            self.ends.add(_POOLED)
        elif before is None or size is None or tuple(size[2:]) != tuple(marks.shape[2:]) or int((marks != 0).sum(1).max()) > 1:
            self.ends.add(_UNKNOWN)
        else:
            of_input = torch.zeros(size, dtype=marks.dtype, device=marks.device)
            of_input[:, 0] = marks.amax(1)
            self.waiting.append(_Marked(before, number, of_input))


def _meet(of_queries: _Way, of_keys: _Way, queries: int, keys: int) -> Standing:
    """The facts once the ways of both have met, or are at their ends."""
    for _ in range(STEPS_MAX):
        for own, other in ((of_queries, of_keys), (of_keys, of_queries)):
            at = own.step() if own.waiting else None
            if at in own.rows and at in other.rows:
                found = _compared(of_queries.rows[at], of_keys.rows[at])
                if found is not None:
                    return found
        if of_queries.heads > 1:
            return Standing(heads=of_queries.heads)
    for name, way in (("keys", of_keys), ("queries", of_queries)) if _MIXED not in of_queries.ends else ():  # heads, as if they were positions
        made = _LEARNED if way.ends == {_LEARNED} else next((one for one in (_MIXED, _POOLED, _PICKED) if one in way.ends), None)
        if made is not None and (queries != keys or made in (_LEARNED, _MIXED)):
            return Standing(apart=f"its {name} {made}")
    return Standing()


def _compared(rows: Sequence[int], rows_of_keys: Sequence[int]) -> Optional[Standing]:
    """By the rows of one result that queries and keys are of; None: they have none in common, or queries are of others as well."""
    if -1 in rows:
        return None
    key = {row: position for position, row in enumerate(rows_of_keys) if row >= 0}
    offsets = {key[row] - position for position, row in enumerate(rows) if row in key}
    if len(offsets) == 1 and min(offsets) >= 0:
        return Standing(offsets.pop())
    return Standing(apart="its keys are not the positions of its queries, in their order") if offsets else None


def _is_pool(node: Any, name: str) -> bool:
    """Whether it makes fewer positions of many. The means of norms keep their axis."""
    return bool(_POOLS.search(name)) or (name in ("Mean", "Sum", "Amax", "Max") and getattr(node, "_saved_keepdim", True) is False)


_POOLS = re.compile(r"Pool|Upsample|Im2Col|^Unfold")
_ORDERING = graph.MOVING | graph.PICKING | graph.PUTTING
_PICKING = graph.PICKING | {"Repeat"}
_PRODUCTS = graph.PRODUCTS | graph.LAYERS - {"Convolution"}
_BY_CHANNEL = {"Convolution", "NativeBatchNorm", "CudnnBatchNorm", "NativeGroupNorm"}
_BY_ELEMENT = BY_ELEMENT | graph.CURVING | {"Relu", "Gelu", "Silu", "NativeBatchNorm", "CudnnBatchNorm"}
