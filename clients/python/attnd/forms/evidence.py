# SPDX-License-Identifier: MIT
"""evidence: what becomes of the result of a softmax, and where its input came from.

The weights of an attention are next multiplied with values of the same keys, which each sample has of its own:
[B, H, Tq, Tk] with [B, H or 1, Tk, d]. A Trail follows a result through the torch functions of a forward, by the
identity of tensors, until such a product. A tensor made of it by dropout, a cast, another shape or order of axes, or a factor for each
head, and a slice of it (without sinks), also by numbers in a row, is followed as well. So is one whose numbers are others, as heads
were mixed or a mask came after the softmax: if that meets the values, the softmax is not what the model attends by. An operation by
element is compared with what it was given, in each forward that is captured, as a mask may hide nothing today. Until then the trail
keeps what it follows alive, and copies nothing. The values are those of whose axes the product is certain.
"""
from __future__ import annotations

import math
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch.nn import functional

from . import graph
from .graph import back, edge_of, operation, place, through
from .lead import Lead, find
from .seen import Weights

FOLLOWED_MAX = 64  # tensors of one trail
NODES_MAX = 64  # of what autograd has noted, from one tensor back

OWN, SHARED, MIXED, SOME, CHAINED, CHANGED = "own", "shared", "mixed", "some", "chained", "changed"
Order = Tuple[int, ...]


class Findings(NamedTuple):
    """The facts about a softmax when its judgement is due.

    product      OWN: multiplied with values of its keys that each sample has; SHARED: with what all samples share;
                 MIXED: with what each query has of its own; SOME: as OWN, but of some of its columns only; CHAINED: with
                 nothing but what is made of it; CHANGED: what is multiplied has other numbers; None: not multiplied in sight
    first, covered   of which columns that have values, and of how many
    changed      the function that made other numbers of it
    zeros        rows of the values in front and behind that were concatenated to them as zeros
    queries      the axis of the queries, where the product tells
    selected     its largest values were looked for
    heads_first  the values' heads are the first axis; None: they do not tell
    linear       its input is the output of a layer for certain, and no product of queries and keys
    lead         where the heads are in the first axes, by how the values were made, for as many as the module says
    """
    product: Optional[str]
    first: int
    covered: int
    changed: Optional[str]
    zeros: Tuple[int, int]
    queries: Optional[int]
    selected: bool
    heads_first: Optional[bool]
    linear: bool
    lead: Callable[[Optional[int]], Optional[Lead]] = lambda heads: None


class Trail:
    """One softmax that is followed. `result`: the very tensor that the model got; `settle` is called with this trail
    when its judgement is due."""

    def __init__(self, seen: Weights, result: torch.Tensor, owner: Any, settle: Callable[[Trail], None]):
        self.seen = seen
        self.owner = owner
        self.settle = settle
        self._result = result
        self._version = _version(result)
        self.values: Optional[torch.Tensor] = None  # [B or 1, Hkv, Tk, dv], in the order of the weights' axes
        self._keys: Dict[int, Tuple[torch.Tensor, int]] = {id(result): (result, int(result.shape[-1]))}
        self._orders: Dict[int, Optional[Order]] = {id(result): None if result.dim() != 4 else (0, 1, 2, 3)}
        self._turned: Set[int] = set()  # of those, which have their axes in another order
        self._product: Optional[str] = None
        self._chained: Set[int] = set()  # of those, products of the result with what is made of it
        self._changed: Dict[int, str] = {}  # of those, whose numbers are others, and the function that made them
        self._unchanged: Dict[int, torch.Tensor] = {}  # of those: the same before operations by element
        self._firsts: Dict[int, Optional[int]] = {id(result): 0}  # of those: the column that is their first; None: not certain
        self._covered: List[Tuple[int, int]] = []  # columns that were multiplied: from, to
        self._zeros = (0, 0)
        self.compares = False  # what met the values was compared with the result
        self._queries: Optional[int] = None
        self._selected = False
        self._heads_first: Optional[bool] = None
        self._lead: Callable[[Optional[int]], Optional[Lead]] = lambda heads: None

    @property
    def is_changed(self) -> bool:
        """Whether other numbers than those of the result meet the values."""
        return self._product == CHANGED

    @property
    def altered(self) -> bool:
        """Whether the model has written to the result since."""
        return _version(self._result) != self._version

    def findings(self) -> Findings:
        """The findings so far."""
        lost = self._product is None or len(self._keys) == FOLLOWED_MAX
        product = CHAINED if self._chained and lost else self._product
        first, last = self._span()
        changed = next(iter(self._changed.values()), None)
        return Findings(product, first, last - first, changed, self._zeros, self._queries, self._selected, self._heads_first,
                        _is_of_layer(self.seen.logits), self._lead)

    def after(self, function: Any, args: Any, operands: Sequence[torch.Tensor], made: Any) -> bool:
        """The model has called a torch function, which made this; whether the trail is at its end."""
        own = next((x for x in operands if id(x) in self._keys), None)
        if own is None:
            return False
        keys, name = self._keys[id(own)][1], getattr(function, "__name__", "")
        multiplies = function is torch.einsum or function in _PRODUCTS or function is functional.linear
        product = None
        if multiplies and any(x is not own and id(x) in self._keys for x in operands):
            self._follow(made, own, name, None, chained=True)
            return False
        if multiplies and id(own) in self._chained:
            return False  # no weights any more
        if function is torch.einsum:
            product = self._of_einsum(args, own, keys)
        elif function is functional.linear:
            is_last = id(own) not in self._turned or (self._orders[id(own)] or (None,))[-1] == 3  # the axis of the keys, for certain
            product = SHARED if own is operands[0] and own.shape[-1] == keys and is_last else None
        elif function in _PRODUCTS:
            left, right = (operands[i] for i in _PRODUCTS[function])
            product = self._of_product(left, right, own, keys)
        if product is None:
            self._becomes(name, args, operands, own, made)
        elif id(own) in self._changed:
            self._product, self._changed = CHANGED, {0: self._changed[id(own)]}
        else:
            self._product = product
        return product is not None and (product not in (OWN, SOME) or self._is_whole())

    def _becomes(self, name: str, args: Any, operands: Sequence[torch.Tensor], own: torch.Tensor, made: Any) -> None:
        """Follows what a function that multiplies nothing has made of `own`."""
        if name in _SELECTING and not (name == "max" and torch.is_tensor(made)):
            self._selected = True
        elif name in _SAME or (name in _PICKING and made.shape[-1:] != own.shape[-1:]) \
                or (id(own) not in self._unchanged and _is_factor(name, own, operands)):
            for part in (made,) if isinstance(made, torch.Tensor) else made if name in _SPLITTING else ():
                if name in _PARTING or name in _PICKING or part.numel() == own.numel() or name.startswith("expand"):
                    first = 0 if part.numel() == own.numel() else _first_column(own, part, operands)
                    self._follow(part, own, name, name if first is None and place(part) != place(own) else None, first=first)
        elif args and args[0] is own and (made is own or name == "__setitem__"):
            self._changed.update((one, name) for one in self._keys)
        elif isinstance(made, torch.Tensor) and made.is_floating_point() and made.shape == own.shape and made is not own \
                and (id(own) not in self._changed or id(own) in self._unchanged):
            before = self._unchanged.get(id(own), own)  # of a dropout by hand: before the first of several operations
            is_same = _is_same(made, before)
            self.compares = self.compares or is_same
            self._follow(made, before, name, None if is_same else name)
            if not is_same:
                self._unchanged[id(made)] = before
        elif isinstance(made, torch.Tensor) and _has_axes(made.shape, self._result.shape[-2:]) and not (
                made.dim() == own.dim() and any(before == 1 < after for before, after in zip(own.shape, made.shape))):
            self._follow(made, own, name, name)

    def _follow(self, made: torch.Tensor, own: torch.Tensor, name: str, changed: Optional[str], chained: bool = False,
                first: Optional[int] = 0) -> None:
        """`made` is made of `own`, whose columns it has from `first` on, by the function of this name; `changed`: by which its numbers
        are others."""
        if len(self._keys) == FOLLOWED_MAX or not made.dim() or made is own:
            return
        turns, at = name in _TURNING, id(made)
        as_many = made.numel() == own.numel() and not chained
        self._keys[at] = made, self._keys[id(own)][1] if as_many else int(made.shape[-1])
        self._orders[at] = None if chained or changed else _order(self._orders[id(own)], own, made, turns)
        before = self._firsts[id(own)]
        self._firsts[at] = None if before is None or first is None else before + first
        if chained or turns or id(own) in self._turned:
            self._turned.add(at)
        if chained or id(own) in self._chained:
            self._chained.add(at)
        if changed or id(own) in self._changed:
            self._changed[at] = self._changed.get(id(own), changed or "")

    def _covers(self, own: torch.Tensor, keys: int) -> str:
        """The kind of a product with values of these columns, those before counted."""
        first, columns = self._firsts[id(own)], int(self._result.shape[-1])
        first = columns - keys if first is None else first
        self._covered.append((first, first + keys))
        self.values = None  # what several products have makes no tensor
        first, last = self._span()
        return OWN if last - first >= columns - 1 else SOME

    def _span(self) -> Tuple[int, int]:
        """The columns that have values: from, to. Others may be between them, as far as is known."""
        return min((first for first, _ in self._covered), default=0), max((last for _, last in self._covered), default=0)

    def _is_whole(self) -> bool:
        """Whether no more columns are to meet values."""
        first, last = self._span()
        return last - first >= int(self.seen.weights.shape[-1]) - sum(self.seen.sinks)

    def _of_product(self, left: torch.Tensor, right: torch.Tensor, own: torch.Tensor, keys: int) -> Optional[str]:
        """The kind of a matrix product; None when it does not sum over the keys."""
        values, axis, mine, theirs = (right, -1, "qk", "kd") if left is own else (left, -2, "kq", "dk")
        if own.dim() < 2 or own.shape[axis] != keys:
            return None
        if own.shape[-3 - axis] == 1 and int(self.seen.weights.shape[2]) > 1:
            return MIXED
        mine, theirs = ("ABCDEFGH"[10 - one.dim():] + axes for one, axes in ((own, mine), (values, theirs)))
        kind = self._of_values(mine, theirs, "k", own, values)
        self.values = self.values if left is own else None
        return kind

    def _note_lead(self, own: torch.Tensor, values: torch.Tensor, axes: Sequence[int]) -> None:
        """The values, whose axes these are as [..., Tk, d], with -1 for one that they have not, belong to these weights."""
        rows, sizes = self._rows(own), self._result.shape[:-2]
        if rows is None or len(axes) != own.dim():
            return
        for axis, place in enumerate(axes[:-2]):
            rows = rows.narrow(axis, 0, 1) if place < 0 or values.shape[place] == 1 else rows
        for axis in reversed([axis for axis, place in enumerate(axes) if place < 0]):
            rows = rows.squeeze(axis)
        rows, axes = rows, [place for place in axes if place >= 0]
        self._lead = lambda heads: find(values, axes, rows, sizes, heads)

    def _rows(self, own: torch.Tensor) -> Optional[torch.Tensor]:
        """The number of each leading element of weights [..., Tq, Tk] or [..., Tk, Tq] among those of the result; None: not certain."""
        result, count, size = self._result, math.prod(self._result.shape[:-2]), math.prod(self._result.shape[-2:])
        if math.prod(own.shape[:-2]) != count or not count:
            return None
        rows = torch.arange(count).reshape(own.shape[:-2])
        if id(own) not in self._turned:
            return rows
        if own.numel() != result.numel() or not result.is_contiguous() or any(stride % size for stride in own.stride()[:-2]) \
                or (own.is_contiguous() and own.data_ptr() != result.data_ptr()):
            return None
        return torch.as_strided(torch.arange(count), own.shape[:-2], [stride // size for stride in own.stride()[:-2]])

    def _find_values(self, own: torch.Tensor, values: torch.Tensor) -> None:
        """`values`, [..., Tk, dv], are what the weights `own`, whose axes are not known, were multiplied with."""
        batch, heads, queries = (int(size) for size in self.seen.weights.shape[:3])
        before = [int(size) for size in values.shape[:-2]]
        if id(own) in self._turned or own.shape[-2] != queries or math.prod(own.shape[:-2]) != batch * heads:
            return
        if before[0] == batch and (len(before) == 2 or (len(before) == 3 and before[2] == 1)) and heads % before[1] == 0:
            self.values = values if len(before) == 2 else values.squeeze(2)
        elif math.prod(before) == batch * heads:
            self.values = values.reshape(batch, heads, *values.shape[-2:])

    def _of_einsum(self, args: Any, own: torch.Tensor, keys: int) -> Optional[str]:
        if not args or not isinstance(args[0], str):
            return None
        named, _, made = args[0].replace(" ", "").partition("->")
        letters = named.split(",")
        operands = list(tensors_in(args[1:]))
        if len(letters) != len(operands):
            return None
        at = next(i for i, operand in enumerate(operands) if operand is own)
        mine = letters[at]
        key = next((x for x in reversed(mine.replace(".", "")) if x not in made and _size(mine, own, x) == keys), None)
        if key is None or (key != mine[-1] and id(own) not in self._turned):
            return None
        for i, values in enumerate(operands):
            if i != at and key in letters[i]:
                return self._of_values(mine, letters[i], key, own, values)
        return None

    def _of_values(self, mine: str, theirs: str, key: str, own: torch.Tensor, values: torch.Tensor) -> str:
        """The kind of an einsum of weights and values, by the names of their axes: the values have all but the queries."""
        absent = [x for x in mine.replace(".", "") if x != key and x not in theirs]
        query = next((x for x in reversed(mine.replace(".", "")) if x != key), "")
        if len(absent) == 1 and absent[0] != mine[0]:
            query = absent[0]
        if query in theirs and int(self.seen.weights.shape[2]) > 1:
            return MIXED
        if "..." in mine:
            shared = "..." not in theirs or _is_shared(values, 0)
        else:
            at = theirs.find(mine[0])
            is_whole = own.dim() == values.dim() == 2 and self._result.shape[:-2].numel() == 1  # of one sample and one head
            shared = _is_shared(values, max(at, 0)) or (not is_whole and (at < 0 or (values.shape[at] == 1 and own.shape[0] > 1)))
        if shared:
            return SHARED
        keys = int(own.shape[mine.index(key) - len(mine)])
        kind, order = self._covers(own, keys), self._orders[id(own)]
        if order is not None and len(mine) == 4 and absent == [query]:
            self._queries = order[mine.index(query)]
            axes = [theirs.find(x) for x in (*sorted(set(mine) - {query, key}, key=lambda x: order[mine.index(x)]), key)]
            if len(theirs) == 4:
                axes.append(6 - sum(axes))  # the features
                self._heads_first = _heads_first(values.permute(axes))
                self.values = values.permute(axes) if len(self._covered) == 1 else None
        elif len(self._covered) == 1 and theirs[:-1] == mine[:-2] + key:
            self._find_values(own, values)
        if keys == self._result.shape[-1]:
            self._zeros = _zero_rows(values.movedim(theirs.index(key) - (len(theirs) if "." in theirs[:theirs.index(key)] else 0), -2),
                                     values)
        features = [at for at, x in enumerate(theirs) if x not in mine]
        if "." not in mine + theirs and {query, key} == set(mine[-2:]) and len(features) == 1:
            self._note_lead(own, values, (*(theirs.find(x) for x in mine[:-2]), theirs.index(key), features[0]))
        return kind


def tensors_in(given: Any) -> Iterator[torch.Tensor]:
    """The tensors among arguments, and in lists of them."""
    for value in given:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (inner for inner in value if isinstance(inner, torch.Tensor))


def _zero_rows(values: torch.Tensor, made: torch.Tensor) -> Tuple[int, int]:
    """How many rows of values [..., Tk, d] in front and behind are zeros that something constant was concatenated for, as autograd
    has noted of how these were made."""
    nodes = (node for node, _ in back([edge_of(made)], NODES_MAX, through(_PASSED_ON - graph.JOINING)))
    for node in (node for node in nodes if operation(node) in graph.JOINING):
        befores = [None if operation(node) == "ConstantPadNd" else one for one, _ in node.next_functions]
        rows: List[bool] = (values.detach() != 0).any(-1).flatten(0, -2).any(0).tolist()
        front, behind = (next((at for at, row in enumerate(some) if row), 0) for some in (rows, rows[::-1]))
        return front if befores[0] is None else 0, behind if befores[-1] is None else 0
    return 0, 0


def _is_factor(name: str, own: torch.Tensor, operands: Sequence[torch.Tensor]) -> bool:
    """Whether a product is with a factor for each head at most, as a mask of heads is: rows stay what they are to each other."""
    return name in _FACTORS and all(x is own or x.numel() == 1 or (x.dim() == own.dim() and x.shape[-2:].numel() == 1)
                                    for x in operands)


def _is_same(made: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether weights have the same numbers, but for rows that are 0 now; or as after a dropout: 0, or larger by one factor."""
    bound, same = max(1e-5, 2 * torch.finfo(own.dtype).eps), []
    if not own.numel():
        return True
    for after, before in zip(*(tensor.detach().chunk(8, max(own.dim() - 2, 0)) for tensor in (made, own))):  # as little beside them as that
        kept = after != 0
        factor = torch.where(kept, after / before, torch.full_like(after, torch.nan)).float()
        least, most = (torch.nan_to_num(factor, fill).aminmax() for fill in (torch.inf, -torch.inf))
        is_dropout = (least.min > 1.001) & (most.max - least.min < 1e-3 * most.max)
        same.append((((after - before).abs() <= bound) | before.isnan() | ~kept.any(-1, keepdim=True)).all() | is_dropout)
    return bool(torch.stack(same).all())


def _has_axes(sizes: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether these sizes have those of queries and of keys, or both in one axis."""
    left = list(sizes)
    for size in wanted:
        if size not in left:
            return math.prod(wanted) in sizes
        left.remove(size)
    return True


def _first_column(own: torch.Tensor, made: torch.Tensor, operands: Sequence[torch.Tensor]) -> Optional[int]:
    """The column that a part of a tensor begins with; None: not certain. Columns that were picked by their numbers have to be in a row,
    and their numbers on no device, which would be waited for."""
    if made.shape[-1:] == own.shape[-1:]:
        return 0
    if place(made) == place(own):
        is_certain = made.dim() == own.dim() > 1 and own.stride(-1) == 1 and own.stride(-2) >= own.shape[-1]
        return int(made.storage_offset() - own.storage_offset()) % int(own.stride(-2)) if is_certain else None
    picked = [one.nonzero()[:, 0] if one.dtype == torch.bool else one for one in operands if one is not own and one.device.type == "cpu"]
    if len(picked) != 1 or made.shape[:-1] != own.shape[:-1] or not picked[0].numel():
        return None
    first = int(picked[0].flatten()[0])
    in_a_row = torch.arange(first, first + made.shape[-1], dtype=picked[0].dtype).expand_as(picked[0])
    return first if first >= 0 and torch.equal(picked[0], in_a_row) else None


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else int(tensor._version)


def _size(letters: str, tensor: torch.Tensor, letter: str) -> int:
    """The size of the axis of that name."""
    at = letters.find(letter)
    return int(tensor.shape[at if "." not in letters[:at] else at - len(letters)])


def _is_shared(values: torch.Tensor, axis: int) -> bool:
    """Whether all samples, which are this axis, have the same: a parameter, or one that is expanded."""
    if isinstance(values, torch.nn.Parameter) or isinstance(values._base, torch.nn.Parameter):
        return True
    return bool(values.shape[axis] > 1 and values.stride(axis) == 0)


def _order(before: Optional[Order], own: torch.Tensor, made: torch.Tensor, turns: bool) -> Optional[Order]:
    """Which axes of the result those of a tensor are, that was made of one whose are known; None where that is not certain."""
    if before is None or made.dim() != 4:
        return None
    if not turns:
        return before if made.shape[:-1] == own.shape[:-1] else None
    axes = list(zip(own.shape, own.stride()))
    turned = list(zip(made.shape, made.stride()))
    return tuple(before[axes.index(axis)] for axis in turned) if len(set(axes)) == 4 and set(axes) == set(turned) else None


def _heads_first(values: torch.Tensor) -> Optional[bool]:
    """Which of the first two axes of values [., ., Tk, d] are the heads: the one whose neighbours are d apart in a
    projection [.., H * d] that was cut into heads."""
    if values.stride(3) != 1 or min(values.shape) < 2:
        return None
    beside = [stride == values.shape[3] for stride in values.stride()[:2]]
    return beside[0] if beside[0] != beside[1] else None


# ------------------------------------------------------------------------------------------ where it comes from

def _is_of_layer(logits: torch.Tensor) -> bool:
    """Whether these are the output of a linear layer or the like, by what autograd has noted of them, and of nothing else."""
    names = {operation(node) for node, _ in back([edge_of(logits)], NODES_MAX, through(_PASSED_ON))}
    return names <= _PASSED_ON | _OF_LAYER and bool(names & _OF_LAYER)


_OF_LAYER = graph.LAYERS | graph.NORMING | {"Embedding", "Cdist", "EuclideanDist", "AccumulateGrad"}
_PASSED_ON = graph.SHAPING | graph.COPYING | graph.REPEATING | graph.SCALING | graph.ADDING | graph.CURVING | {"Sum"}

_PRODUCTS: Dict[Any, Tuple[int, int]] = {
    torch.matmul: (0, 1), torch.Tensor.matmul: (0, 1), torch.Tensor.__matmul__: (0, 1),
    torch.Tensor.__rmatmul__: (1, 0),
    torch.bmm: (0, 1), torch.Tensor.bmm: (0, 1), torch.mm: (0, 1), torch.Tensor.mm: (0, 1),
    torch.baddbmm: (1, 2), torch.Tensor.baddbmm: (1, 2)}
_SELECTING = {"topk", "argmax", "argsort", "sort", "multinomial", "max"}  # max: along an axis
_TURNING = {"transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "__get__"}
_SPLITTING = {"chunk", "split", "split_with_sizes", "tensor_split", "unbind"}
_PARTING = {"__getitem__", "narrow", "select", *_SPLITTING}  # make parts of a tensor
_PICKING = {"index_select", "gather", "take_along_dim"}  # and __getitem__: by numbers
_SAME = {*_TURNING, *_PARTING, "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "expand",
         "expand_as", "contiguous", "clone", "detach", "to", "type", "type_as", "float", "half", "bfloat16", "double", "cuda", "cpu",
         "dropout", "dropout_", "alpha_dropout", "feature_dropout", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d",
         "requires_grad_", "ravel", "adjoint", "broadcast_to"}
_FACTORS = {"mul", "multiply", "__mul__", "__rmul__", "div", "divide", "true_divide", "__truediv__", "mul_", "div_", "__imul__",
            "__itruediv__"}
