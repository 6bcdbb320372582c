# SPDX-License-Identifier: MIT
"""terms: what was added to logits on their way from the product of queries and keys to their softmax.

A softmax shows logits and mask in one. A bias, a mask of -100 and a saturated head look alike there, so the functions that make
its argument are followed from the product on, by the identity of tensors: what is added (add, sub, baddbmm), and what takes the
place of logits (masked_fill, where, an assignment). Casts, scales and changes of shape and of order are gone along with. When the
softmax has come, base/hidden.py decides which keys a term hides. A function that is not known here ends a way: of such a softmax
only what is at or below IGNORED_AT is hidden. A way keeps what is added alive, and copies nothing.
"""
from __future__ import annotations

import functools
import math
import weakref
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch.nn import functional

from ..base.hidden import STEP, hidden_at
from ..base.masks import IGNORED_AT

_WAYS_MAX = 256  # tensors that are followed at a time


class _Term(NamedTuple):
    """One that was added to logits of this shape, which has been changed since by views alone.

    tensor  broadcasts to the shape; times `scale` it is what was added. Bool: where `value` took the logits' place
    """
    tensor: torch.Tensor
    shape: Tuple[int, ...]
    scale: float = 1.0
    value: Any = None


# A reference to a tensor that logits have become, its terms, and which module ran, as in Terms, when it was made.
_Way = Tuple[Any, Tuple[_Term, ...], int]


class Terms:
    """The ways of the forward that one thread follows."""

    def __init__(self) -> None:
        self.ways: Dict[int, _Way] = {}  # by id
        self.here = 0  # which module runs; 0: it does not matter
        self.crosses = False  # what was made in one module has been looked at in another one, in this forward

    def clear(self) -> None:
        """The forward is over."""
        self.ways.clear()
        self.here, self.crosses = 0, False

    def concerns(self, function: Any, args: Sequence[Any]) -> bool:
        """Whether the model calls one of FOLLOWED with what is followed, or begins a way."""
        if function in BEGIN:
            return True
        ways = self.ways
        for one in args[0] if args and FOLLOWED[function] == _JOINED else args:
            if id(one) in ways:
                return True
        return False

    def goes_on(self, function: Any, args: Sequence[Any], made: Any) -> bool:
        """Notes what one of FOLLOWED has made as logits to which nothing was added; False: more has to be known."""
        kind = FOLLOWED[function]
        if kind == _PRODUCT:
            if isinstance(made, torch.Tensor) and made.dim() > 2 and made.is_floating_point():
                self._put(made, ())
            return True
        if kind not in _KEEP or not args or not isinstance(made, torch.Tensor) or self.of(args[0]) != ():
            return False
        self._put(made, () if kind != _ALIKE or made.numel() == args[0].numel() else None)
        return True

    def after(self, function: Any, args: Sequence[Any], kwargs: Any, made: Any) -> None:
        """The model has called one of FOLLOWED, which made this."""
        kind = FOLLOWED[function]
        if kind == _PRODUCT_AND_SUM:
            self._product(args, kwargs, made)
        elif kind == _SET:
            self._put(args[0], self._set(args))
        elif isinstance(made, torch.Tensor):
            self._put(made, _STEPS[kind](self, function, args, kwargs, made))

    def of(self, logits: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        """The terms of these; None: they have not been followed."""
        ref, terms, here = self.ways.get(id(logits), _NO_WAY)
        if ref() is not logits:
            return None
        self.crosses = self.crosses or here != self.here
        return terms

    def _put(self, made: torch.Tensor, terms: Optional[Tuple[_Term, ...]]) -> None:
        key = id(made)
        if terms is None:
            self.ways.pop(key, None)
            return
        if len(self.ways) >= _WAYS_MAX:
            self.ways.clear()
        self.ways[key] = weakref.ref(made, functools.partial(self._gone, key)), terms, self.here

    def _gone(self, key: int, ref: Any) -> None:
        if self.ways.get(key, _NO_WAY)[0] is ref:
            del self.ways[key]

    def _of(self, value: Any) -> Optional[Tuple[_Term, ...]]:
        return self.of(value) if isinstance(value, torch.Tensor) else None

    # ------------------------------------------------------------------------------------ one function each

    def _product(self, args: Sequence[Any], kwargs: Any, made: Any) -> None:
        if not isinstance(made, torch.Tensor) or made.dim() < 3 or not made.is_floating_point():
            return
        terms: Tuple[_Term, ...] = ()
        if kwargs.get("beta", 1) != 0:
            given = args[0] if args else kwargs.get("input")
            before = self._of(given)
            terms = before if before is not None else _added(given, float(kwargs.get("beta", 1)), made)
        self._put(made, terms)

    def _sum(self, function: Any, args: Sequence[Any], kwargs: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        name = _plain(function)
        left, right = args[0], args[1] if len(args) > 1 else kwargs.get("other")
        of_left, of_right = self._of(left), self._of(right)
        if (of_left is None) is (of_right is None):
            same = of_left is not None and left.shape == right.shape and not name.endswith("sub")
            return of_left + of_right if same and of_left is not None and of_right is not None else None
        sign = float(kwargs.get("alpha", 1)) * (-1 if name == "sub" else 1)
        if name == "rsub" or (name == "sub" and of_left is None):
            return None  # logits are subtracted
        terms, other = (of_left, right) if of_left is not None else (of_right, left)
        assert terms is not None
        if tuple(made.shape) != tuple((left if of_left is not None else right).shape):
            return None
        return terms + _added(other, sign, made)

    def _scaled(self, function: Any, args: Sequence[Any], kwargs: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        own, other = args[0], args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("value"))
        terms = self._of(own)
        if terms is None and "div" not in _plain(function):
            terms, other = self._of(other), own
        if not terms:
            return terms
        if isinstance(other, torch.Tensor):
            other = float(other) if other.numel() == 1 and other.device.type == "cpu" else None
        if not isinstance(other, (int, float)) or not other > 0:
            return None
        factor = 1 / other if "div" in _plain(function) else other
        return tuple(term._replace(scale=term.scale * factor, value=None if term.value is None else term.value * factor) for term in terms)

    def _filled(self, function: Any, args: Sequence[Any], kwargs: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        mask = args[1] if len(args) > 1 else kwargs.get("mask")
        value = args[2] if len(args) > 2 else kwargs.get("value")
        return self._instead(args[0], mask, value, made)

    def _chosen(self, function: Any, args: Sequence[Any], kwargs: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        if isinstance(args[0], torch.Tensor) and args[0].dtype != torch.bool:  # x.where(mask, other)
            args = (args[1], args[0], *args[2:])
        own = args[1] if len(args) > 1 else kwargs.get("input", kwargs.get("self"))
        other, mask = args[2] if len(args) > 2 else kwargs.get("other"), args[0] if args else kwargs.get("condition")
        if isinstance(mask, torch.Tensor) and self._of(own) is None and self._of(other) is not None:
            return self._instead(other, mask, own, made)
        return self._instead(own, None if not isinstance(mask, torch.Tensor) else ~mask.bool(), other, made)

    def _set(self, args: Sequence[Any]) -> Optional[Tuple[_Term, ...]]:
        own, where, value = args
        if self._of(own) is None:
            return None
        if isinstance(where, torch.Tensor) and where.dtype == torch.bool and where.dim() <= own.dim():
            mask = where.reshape(*where.shape, *(1,) * (own.dim() - where.dim()))
        else:
            mask = torch.zeros(own.shape, dtype=torch.bool, device=own.device)
            mask[where] = True
        return self._instead(own, mask, value, own)

    def _instead(self, own: Any, mask: Any, value: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        """A value has taken the place of some logits."""
        terms = self._of(own)
        if terms is None or not isinstance(mask, torch.Tensor) or made.shape != own.shape:
            return None
        mask = mask.bool()
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            return None if self._of(value) is not None else terms + _added(torch.where(mask, value, torch.zeros_like(value)), 1.0, made)
        return terms + (_Term(_padded(mask, made.dim()), tuple(made.shape), 1.0, value),)

    def _alike(self, function: Any, args: Sequence[Any], kwargs: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        """As many numbers in the same order."""
        terms = self._of(args[0]) if args else None
        return terms if terms is None or made.numel() == args[0].numel() else None

    def _bent(self, function: Any, args: Sequence[Any], kwargs: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        """Logits still, to which nothing has been added."""
        return () if args and self._of(args[0]) == () else None

    def _moved(self, function: Any, args: Sequence[Any], kwargs: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        """Other axes, or a part."""
        terms = self._of(args[0]) if args else None
        if not terms:
            return terms
        shape, cuts = tuple(args[0].shape), _plain(function) in ("getitem", "narrow")
        own = [_viewed(term.tensor, term.shape, shape) for term in terms]
        return tuple(term._replace(tensor=function(tensor.expand(*shape) if cuts else tensor, *args[1:], **kwargs), shape=tuple(made.shape))
                     for term, tensor in zip(terms, own))

    def _joined(self, function: Any, args: Sequence[Any], kwargs: Any, made: torch.Tensor) -> Optional[Tuple[_Term, ...]]:
        """Beside logits there are others along the last axis, as learned sinks are."""
        given, axis = args[0], args[1] if len(args) > 1 else kwargs.get("dim", 0)
        if not isinstance(given, (list, tuple)) or all(self._of(one) is None for one in given):
            return None
        if axis not in (-1, made.dim() - 1):
            return () if not any(self._of(one) for one in given) else None
        found: List[_Term] = []
        begin = 0
        for one in given:
            end = begin + int(one.shape[-1])
            for term in self._of(one) or ():
                tensor = _viewed(term.tensor, term.shape, tuple(one.shape))
                tensor = functional.pad(tensor.expand(*tensor.shape[:-1], end - begin), (begin, int(made.shape[-1]) - end))
                found.append(term._replace(tensor=tensor, shape=tuple(made.shape)))
            begin = end
        return tuple(found)


def hidden_by(terms: Sequence[_Term], shape: Tuple[int, ...]) -> Optional[torch.Tensor]:
    """The keys that terms hide of logits of this shape, [B, H, Tq, Tk], bool, expanded to it; None: none but those of logits at or
    below IGNORED_AT."""
    found: Optional[torch.Tensor] = None
    for term in terms:
        tensor = _viewed(term.tensor, term.shape, shape)
        if term.value is None:
            least = hidden_at(tensor * term.scale) if term.scale != 1.0 else hidden_at(tensor)
            if tensor.device.type == "cpu" and float(least) <= IGNORED_AT:
                continue
            hides = tensor * term.scale <= least
        elif isinstance(term.value, torch.Tensor):
            hides = tensor & (term.value.reshape(()) <= -STEP)
        elif IGNORED_AT < term.value <= -STEP:
            hides = tensor
        else:
            continue
        found = hides if found is None else found | hides
    return None if found is None else found.expand(*shape)


def are_shared(terms: Sequence[_Term]) -> bool:
    """Whether some of these terms differ by query, and all samples have the same."""
    return any(term.tensor.shape[-2] > 1 for term in terms) and all(len(term.tensor) < term.shape[0] for term in terms)


def differing_by_head(terms: Sequence[_Term], shape: Tuple[int, ...]) -> Sequence[torch.Tensor]:
    """The numbers among these terms that differ by head, as they broadcast to logits of this shape, [B, H, Tq, Tk]."""
    found = [_viewed(term.tensor, term.shape, shape) * term.scale for term in terms if term.value is None]
    return [one for one in found if one.shape[1] > 1]


def _added(other: Any, scale: float, made: torch.Tensor) -> Tuple[_Term, ...]:
    """The term that is added; none where it is the same for all keys of a row."""
    if not isinstance(other, torch.Tensor) or other.dim() == 0 or (other.shape[-1] == 1 and made.shape[-1] > 1):
        return ()
    tensor = _padded(other, made.dim())
    return (_Term(tensor.to(made.dtype) if not tensor.is_floating_point() else tensor, tuple(made.shape), scale),)


def term_of(mask: torch.Tensor, shape: Tuple[int, ...]) -> _Term:
    """The term of a mask of numbers that is added to logits of this shape."""
    return _Term(_padded(mask, len(shape)), shape)


def _padded(tensor: torch.Tensor, axes: int) -> torch.Tensor:
    return tensor[(None,) * (axes - tensor.dim())]


def _viewed(tensor: torch.Tensor, before: Tuple[int, ...], after: Tuple[int, ...]) -> torch.Tensor:
    """A tensor that broadcasts to a shape, as one that broadcasts to another shape of as many numbers: axes that stay are left as
    they are, and of those that are joined or parted only what has to be is written out."""
    i = j = 0
    sizes: List[int] = []
    while before != after and (i < len(before) or j < len(after)):
        first, begin = i, j
        old, new = before[i] if i < len(before) else 1, after[j] if j < len(after) else 1
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while old != new:
            if old < new:
                old, i = old * before[i], i + 1
            else:
                new, j = new * after[j], j + 1
        behind, at = len(before) - i, len(sizes)
        is_one = math.prod(tensor.shape[at:tensor.dim() - behind]) == 1
        if not is_one:
            tensor = tensor.expand(*tensor.shape[:at], *before[first:i], *tensor.shape[tensor.dim() - behind:])
        group = [1] * (j - begin) if is_one else list(after[begin:j])
        tensor = tensor.reshape(*tensor.shape[:at], *group, *tensor.shape[tensor.dim() - behind:])
        sizes += group
    return tensor


def _plain(function: Any) -> str:
    """The name of a function, without what says that it is of an operator, or in place."""
    name: str = getattr(function, "__name__", "").strip("_")
    return name[1:] if name in ("iadd", "isub", "imul", "itruediv", "radd", "rmul") else {"subtract": "sub"}.get(name, name)


_PRODUCT, _PRODUCT_AND_SUM, _SET = "product", "baddbmm", "set"
_ALIKE, _JOINED = "alike", "joined"
_KEEP = (_ALIKE, "scaled", "bent", "moved")
_NO_WAY: _Way = (object, (), 0)  # to no tensor that there is
_STEPS: Dict[str, Callable[..., Optional[Tuple[_Term, ...]]]] = {
    "sum": Terms._sum, "scaled": Terms._scaled, "filled": Terms._filled, "chosen": Terms._chosen, "alike": Terms._alike,
    "bent": Terms._bent, "moved": Terms._moved, "joined": Terms._joined}
_NAMES = {
    _PRODUCT: ("matmul", "__matmul__", "__rmatmul__", "bmm", "einsum"), _PRODUCT_AND_SUM: ("baddbmm", "baddbmm_"), _SET: ("__setitem__",),
    "sum": ("add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "__isub__", "rsub", "subtract"),
    "scaled": ("mul", "mul_", "__mul__", "__rmul__", "__imul__", "multiply", "div", "div_", "__div__", "__truediv__", "__itruediv__",
               "true_divide", "divide"),
    "filled": ("masked_fill", "masked_fill_"), "chosen": ("where",),
    "alike": ("to", "float", "double", "half", "bfloat16", "type", "type_as", "clone", "contiguous", "detach", "view", "reshape", "view_as",
              "reshape_as", "flatten", "unflatten", "squeeze", "unsqueeze", "clamp", "clamp_min", "nan_to_num"),
    "bent": ("tanh", "tanh_", "relu", "leaky_relu", "softplus", "gather", "take_along_dim", "index_select", "pad", "roll", "flip"),
    "moved": ("transpose", "permute", "swapaxes", "swapdims", "movedim", "moveaxis", "__getitem__", "narrow"),
    "joined": ("cat", "concat", "concatenate")}
FOLLOWED: Dict[Any, str] = {
    getattr(owner, name): kind for kind, names in _NAMES.items() for name in names
    for owner in (torch, torch.Tensor, functional) if hasattr(owner, name)}
BEGIN = {function for function, kind in FOLLOWED.items() if kind in (_PRODUCT, _PRODUCT_AND_SUM)}
