# SPDX-License-Identifier: MIT
"""lead: where the heads are in the leading axes of queries, values or weights [..., T, d]: in the batch, before it, beside windows.

Autograd has noted how a tensor was made. Marks that stand in it at the first positions of each head are sent back through views,
slices, concatenations and the like, up to the layer that projected them: there marks of one sample stand in one row, and marks of
different heads in different channels. Nothing of the model is computed again, and nothing is left behind.
"""
from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch

from . import graph
from .graph import operation, shape_of
from .seen import NotCaptured, Queries

STEPS_MAX = 2048  # nodes that marks are sent through
ROWS_MAX = 65536  # heads of samples that are told apart


class Lead(NamedTuple):
    """The heads are in this axis, counted from the front: `heads` are all of it, or its slower part (`first`) or its faster one beside
    samples. `first` is None where nothing is beside them. TOKENS: they are where the positions should be."""
    heads: int
    axis: int
    first: Optional[bool] = None

    def fits(self, sizes: Sequence[int]) -> bool:
        """Whether leading axes of these sizes may have them so."""
        size = sizes[self.axis] if self.axis < len(sizes) else 0
        return self.heads == 1 or size == self.heads or (self.first is not None and size % self.heads == 0)

    def arranged(self, tensor: torch.Tensor) -> torch.Tensor:
        """[samples, H, T, d] of one [..., T, d] that fits; what else is in the leading axes are samples."""
        sizes, tail = tensor.shape[:-2], tensor.shape[-2:]
        if self.heads == 1:
            return tensor.reshape(-1, 1, *tail)
        inner = math.prod(sizes[self.axis + 1:]) * (sizes[self.axis] // self.heads if self.first else 1)
        split = tensor.reshape(-1, self.heads, inner, *tail).transpose(1, 2)
        return split.reshape(-1, self.heads, *tail)


TOKENS = Lead(0, -1)


def of_tensor(values: torch.Tensor, heads: Optional[int]) -> Optional[Lead]:
    """The leading axes of one [..., T, d]."""
    sizes = values.shape[:-2]
    return find(values, tuple(range(values.dim())), torch.arange(sizes.numel()).reshape(sizes), sizes, heads)


def find(values: torch.Tensor, axes: Sequence[int], rows: torch.Tensor, sizes: Sequence[int], heads: Optional[int]) -> Optional[Lead]:
    """Where the heads are in leading axes of these sizes, by how the values were made that belong to them; None: nothing tells.
    `axes`: those of `values` as [..., T, d]; `rows`: the element of the leading axes, counted in one row, of each one of the values';
    `heads`: as many as the module says."""
    if type(values) is not torch.Tensor or values.grad_fn is None or not values.numel() or rows.numel() > ROWS_MAX:
        return None
    of, positions = math.prod(sizes), int(values.shape[axes[-2]])
    rows = rows.to(values.device, torch.int32) + 1
    for first, second in ((0, 1), (-1, -2)):  # a sink or a cache may stand in front
        marks = torch.zeros(values.shape, dtype=torch.int32, device=values.device)
        arranged = marks.permute(tuple(axes))
        if positions > 1:
            arranged[..., second, 0] = rows + of
        arranged[..., first, 0] = rows
        found: Dict[int, _Place] = {}
        try:
            _send_back(values.grad_fn, int(values.output_nr), marks, found, [STEPS_MAX])
        except RuntimeError:  # too deep, or by an operation that repeats what it was given, without a shape
            return None
        firsts = {at: place for at, place in found.items() if at < of}
        if firsts:
            seconds = [found.get(at + of) for at in firsts]
            if all(one is not None and one.row == place.row for one, place in zip(seconds, firsts.values())):
                return TOKENS if len({(place.row, place.channel) for place in found.values()}) == len(found) else None
            return _by_places(firsts, sizes, heads)
    return None


def has_heads_in_rows(heads: Optional[int], groups: int, queries: int, keys: int) -> bool:
    """Whether the heads that share a key head are beside one another along the axis of the queries."""
    return heads is not None and keys > 1 and heads > groups and heads % groups == 0 and queries == heads // groups * keys


def has_in_rows(heads: Optional[int], queries: Sequence[int], keys: Sequence[int]) -> str:
    """Why queries of this shape with several heads in the rows of one are not captured."""
    return f"has queries {list(queries)} and keys {list(keys)}, with several of its {heads} heads in the rows of one. {REMEDY}"


REMEDY = "Call it with [B, H, T, d], as torch names the axes"


class Leads:
    """Where the heads are in the calls of one model, as far as they are not where torch names them. A finding holds for good, a
    refusal for calls of one shape."""

    def __init__(self) -> None:
        self._found: Dict[str, Optional[Lead]] = {}  # by path and call; None: where torch names them
        self._refused: Dict[str, Tuple[Any, str]] = {}  # by path and call: what it was, and why nothing tells

    def arranged(self, path: str, seen: Queries, heads: Optional[int], batches: Sequence[int]) -> Queries:
        """As [B, H, T, d], however it was called; NotCaptured: nothing tells how. `heads`: as the module says; `batches`: the first
        sizes of what the module was given, one of which counts its samples; none: not known."""
        called, seen = seen.called, seen._replace(called=None)
        if called is None or called[0].dim() < 3 or seen.share is not None:
            return seen
        q = called[0]
        sizes = tuple(q.shape[:-2])
        if len(sizes) == 2 and has_heads_in_rows(heads, sizes[1], int(q.shape[2]), int(called[1].shape[-2])):
            raise NotCaptured(has_in_rows(heads, q.shape, called[1].shape))
        if len(sizes) == 2 and (heads == sizes[1] not in (sizes[0], q.shape[2]) or all(map(_is_usual, called[:3]))):
            return seen
        lead = self._found.get(path)
        if path not in self._found or (lead is not None and not lead.fits(sizes)):
            what = sizes, heads, [one.grad_fn is None for one in called[:3]]
            if self._refused.get(path, (None, ""))[0] == what:
                raise NotCaptured(self._refused[path][1])
            try:
                lead = self._found[path] = _lead_of(called, sizes, heads, batches)
            except NotCaptured as why:
                self._refused[path] = what, str(why)
                raise
        return seen if lead is None else _in_lead(seen, called, sizes, lead)


def _lead_of(called: Sequence[Any], sizes: Sequence[int], heads: Optional[int], batches: Sequence[int]) -> Optional[Lead]:
    """Where the heads are; None: where torch names them."""
    made = (of_tensor(one, heads) for one in (called[2], called[0]) if tuple(one.shape[:-2]) == tuple(sizes))
    lead = next((one for one in made if one is not None), None)
    shape = list(called[0].shape)
    if lead is TOKENS:
        raise NotCaptured(f"attends over its heads, at each position by itself: its queries {shape} are [B, T, H, d], where "
                          "scaled_dot_product_attention takes [B, H, T, d]. Call it with transpose(1, 2) of all three")
    if lead is not None and lead.heads > 1:
        if len(sizes) == 2 and (lead.axis, lead.first) == (1, None):
            return None
        if heads not in (None, lead.heads):
            raise NotCaptured(f"has {lead.heads} heads in its queries {shape}, while its module says {heads}")
        return lead
    if len(sizes) == 1:
        counts = list(batches)
        if called[0].shape[-2] in counts:  # it counts the positions
            counts.remove(called[0].shape[-2])
        is_one = heads == 1 or (heads is None and (lead is not None or not batches or sizes[0] in counts))
        if not is_one and heads != sizes[0]:
            raise NotCaptured(f"has queries {shape}, and nothing tells heads from samples in the first axis. {REMEDY}")
        return None if is_one else Lead(sizes[0], 0)
    if len(sizes) == 2 and (heads is None or (sizes[0] in batches and heads % sizes[1] == 0) or not (
            heads in (sizes[0], called[0].shape[2]) or (sizes[0] % heads == 0 and sizes[1] % heads != 0 != heads % sizes[1]))):
        return None
    axes = [axis for axis, size in enumerate(sizes) if size == heads]
    if len(axes) != 1 or len(sizes) == 2:
        raise NotCaptured(f"has queries {shape}, and nothing tells which axis is the heads. {REMEDY}")
    return Lead(sizes[axes[0]], axes[0])


def _is_usual(tensor: torch.Tensor) -> bool:
    """Whether it is [B, H, T, d] for certain: the axis of the heads is beside the features, and no copy has put them in order."""
    strides, sizes = tensor.stride(), tensor.shape
    beside = [axis for axis in range(3) if strides[axis] == sizes[3] and sizes[axis] > 1]
    return strides[3] == 1 and beside == [1]


def _in_lead(seen: Queries, called: Sequence[Any], sizes: Sequence[int], lead: Lead) -> Queries:
    """[B, H, T, d] of a call that has its heads there."""
    q, k, v, mask = (None if one is None else one[(None,) * (len(sizes) + 2 - one.dim())] for one in called)
    assert q is not None and k is not None and v is not None
    if any(own not in (1, size) for one in (k, v) for own, size in zip(one.shape, sizes)):
        raise NotCaptured(f"has queries {list(q.shape)} and keys {list(k.shape)} whose heads do not fit together. {REMEDY}")
    if mask is not None:
        mask = mask.flatten(0, -4) if mask.shape[:-2].numel() == 1 else lead.arranged(mask.expand(*sizes, *mask.shape[-2:]))
    k, v = (lead.arranged(one.expand(*sizes, *one.shape[-2:])) for one in (k, v))
    output = None if seen.output is None else seen.output._replace(arrange=lead.arranged)
    return seen._replace(q=lead.arranged(q), k=k, v=v, mask=mask, output=output)


# ------------------------------------------------------------------------------------------ how it was made

class _Place(NamedTuple):
    """The row and the channel of a projection where a mark has arrived; `sure`: it is one for certain."""
    row: Tuple[int, ...]
    channel: Tuple[int, int]
    sure: bool


def _by_places(found: Dict[int, _Place], sizes: Sequence[int], heads: Optional[int]) -> Optional[Lead]:
    """The only reading of the leading axes by which all heads of a sample, and nothing else, are of one row."""
    of, samples = math.prod(sizes), len({place.row for place in found.values()})
    if of % samples or (len(found) < of and heads != of // samples):
        return None
    heads = of // samples
    if heads == 1:
        return Lead(1, 0) if all(place.sure for place in found.values()) else None
    for axis, size in enumerate(sizes):
        for first in (None,) if size == heads else (False, True) if size % heads == 0 else ():
            inner = math.prod(sizes[axis + 1:]) * (size // heads if first else 1)
            by_sample: Dict[int, Any] = {}
            by_head: Dict[int, Any] = {}
            agree = all(by_sample.setdefault(at // (inner * heads) * inner + at % inner, place.row) == place.row
                        and by_head.setdefault(at // inner % heads, place.channel) == place.channel for at, place in found.items())
            if agree and len(by_sample) == samples and len(by_sample) * len(by_head) == len(found) \
                    and (len(found) < of or len(set(by_head.values())) == heads):
                return Lead(heads, axis, first)
    return None


def _send_back(node: Any, number: int, marks: torch.Tensor, found: Dict[int, _Place], left: List[int]) -> bool:
    """Sends marks in the `number`-th result of an operation back to where its inputs were made; whether any arrived."""
    left[0] -= 1
    if left[0] < 0:
        return False
    name = operation(node)
    befores: Sequence[graph.Edge] = node.next_functions
    parts = through_view(node, number, marks)
    if parts is not None:
        return any([_send_back(before, at, part, found, left) for before, at, part in parts])
    if name in BY_ELEMENT:  # to those that are not repeated along an axis, as factors and biases are
        return any(_send_back(before, at, marks, found, left) for before, at in befores if before is not None
                   and shape_of(before, at) in (None, tuple(marks.shape)))
    deeper: Dict[int, _Place] = {}
    if name in _OF_INPUT and _goes_through(node, name, befores, marks, deeper, left):
        found.update(deeper)
        return True
    return _arrive(name, marks, found)


def through_view(node: Any, number: int, marks: torch.Tensor) -> Optional[List[Tuple[Any, int, torch.Tensor]]]:
    """Where marks in the `number`-th result of a view or the like come from, as operations, numbers of results and marks; None: the
    operation is no such one."""
    befores: Sequence[graph.Edge] = node.next_functions
    if operation(node) == "Expand":
        back: Any = _unexpanded(node, marks)
    elif operation(node) in graph.SHAPING:
        given: List[Optional[torch.Tensor]] = [None] * graph.results_of(node)
        given[number] = marks
        back = node(*given)
    else:
        return None
    return [(before, at, part) for (before, at), part in zip(befores, back if isinstance(back, tuple) else (back,))
            if before is not None and part is not None]


def _goes_through(node: Any, name: str, befores: Sequence[graph.Edge], marks: torch.Tensor, found: Dict[int, _Place],
                  left: List[int]) -> bool:
    """Whether a layer that projects each head by itself got them cut out of channels: marks are sent back to its input."""
    before, at = befores[_OF_INPUT[name][0]]
    sizes = next((size for size in (getattr(node, one, None) for one in _OF_INPUT[name][1]) if size is not None), None)
    if before is None or sizes is None or marks[:, 1:].any():
        return False
    of_input = torch.zeros(tuple(sizes), dtype=marks.dtype, device=marks.device)
    of_input[:, 0] = marks[:, 0]
    return _send_back(before, at, of_input, found, left) and len({place.channel for place in found.values()}) > 1


def _unexpanded(node: Any, marks: torch.Tensor) -> torch.Tensor:
    """The marks in the first of the copies along each axis."""
    sizes = getattr(node, "_saved_self_sym_sizes", None) or node._saved_self_sizes
    marks = marks[(0,) * (marks.dim() - len(sizes))]
    for axis, size in enumerate(sizes):
        marks = marks.narrow(axis, 0, 1) if size == 1 else marks
    return marks


def _arrive(name: str, marks: torch.Tensor, found: Dict[int, _Place]) -> bool:
    """Notes where the marks are in the result of what is no view."""
    channels = 1 if name == "Convolution" else marks.dim() - 1
    sure = name in graph.LAYERS or (name == "Bmm" and marks.shape[0] == 1)
    number, places = len(found), marks.nonzero().tolist()
    for place, mark in zip(places, marks[marks != 0].tolist()):
        channel = place.pop(channels)
        found.setdefault(mark - 1, _Place(tuple(place), (number, channel), sure))
    return bool(places)


BY_ELEMENT = graph.SCALING | graph.ADDING | graph.COPYING | graph.NORMING
_OF_INPUT = {"Addmm": (1, ("_saved_mat1_sym_sizes", "_saved_mat1_sizes")), "Mm": (0, ("_saved_self_sym_sizes", "_saved_self_sizes"))}
