# SPDX-License-Identifier: MIT
"""sources: whether an attention reads keys of the sequence that its queries are of, or of another one, told by the inputs of
its module: how long they are, what they are called, and in a forward that autograd records, which of them queries and keys
are made of. Three tensors that are made of one, as views or by a norm each, are one source. Beside the inputs stand the tensors that are
stored on the module, where keys are made of them."""
from __future__ import annotations

import re
from typing import Any, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import torch

from ..base.torch_state import outside_modes
from .graph import PRODUCTS, Edge, back, edge_of, is_weight, operation, place, shape_of
from .seen import NotCaptured, Queries, Seen, keys_of, queries_of, sees_ahead

_NO_KEYS = re.compile(r"mask|pos|bias|residual|rope|rotary|freq|(^|_)(cos|sin)(_|$)")  # names of inputs that are no sequence
_OF_QUERIES = re.compile(r"(^|_)(q|query|queries|tgt|latents?)(_|$)")  # of the one that queries are made of
_OF_KEYS = re.compile(r"encoder|context|memory|(^|_)(keys?|k|kv|source|src|other|cond)(_|$)")  # of those of another sequence
_OF_EITHER = re.compile(r"(^|_)(keys?|k|kv)(_|$)")  # of them those that self-attention is given as well
_PRODUCTS = PRODUCTS | {"Mm"}  # operations that are one of queries and keys
_JOINS = re.compile(r"Bmm|Baddbmm|^Mm|ScaledDot|Att|mha|MHA|Checkpoint|Compiled")  # and that may join two sequences
_ONE_LENGTH = "is given {} and {} of one length, and nothing tells whether they are of one sequence"
_WITHIN = 256  # nodes of a module between its inputs and its queries or keys
_BEFORE = 24  # nodes before an input, between it and what else is made of the same


class _Input(NamedTuple):
    name: str
    value: torch.Tensor

    def has(self, count: int) -> bool:
        """Whether it has so many positions."""
        return count in self.value.shape[:-1]


def reads_other(inputs: Mapping[str, Any], seen: Seen, stored: Mapping[str, Any] = {}) -> Optional[bool]:
    """Whether the keys of an attention are of another of these inputs of its module, by name, than the queries, or of what is `stored`
    on the module, by name, as a memory that was set before. None: it has no such inputs. NotCaptured: nothing tells."""
    queries, keys = queries_of(seen)[1], keys_of(seen)
    tensors = _floating(inputs)
    given = [one for one in tensors if one.value.dim() == 3] or [one for one in tensors if one.value.dim() == 2]
    if not given:
        return None
    given = [one for one in given if not _NO_KEYS.search(one.name)] or given
    called = [one for one in given if _OF_QUERIES.search(one.name) and one.has(queries)]
    sized = [one for one in given if queries != keys and one.has(queries) and not one.has(keys)]
    own = [*called, *sized, *(one for one in given if not may_read_other([one.name])), *given][0]
    beside = [one for one in given if not _is_same(one.value, own.value)]
    others = [one for one in beside if not _NO_KEYS.search(one.name) and (one.has(keys) or (
        may_read_other([one.name]) and any(one.has(keys - added) for added in (1, 2))))]  # as nn.MultiheadAttention does
    if not others:  # latents read what they are put behind, too
        along = next((axis for axis in (1, 0) if own.value.shape[axis] == queries), 0)
        if called and queries != keys and any(one.value.shape[along] == keys - queries for one in beside):
            return True
        held = [one for one in (*tensors, *_floating(stored)) if not _NO_KEYS.search(one.name)]
        others = _held_others(given, own, [one for one in held if all(not _is_same(one.value, other.value) for other in given)], seen)
        given = [*given, *others]
    if not others:
        return False
    says_so = may_read_other(one.name for one in others)
    if says_so and queries != keys and not any(one.has(queries) for one in others):
        return True
    is_one = _are_of_one(given, own, others, seen)
    if is_one is not None or queries != keys:
        return not is_one
    with torch.no_grad(), outside_modes():
        ahead = sees_ahead(seen)
        if not says_so or all(_are_equal(one.value, own.value) for one in others) or not (ahead is None or bool(ahead)):
            return False
    if all(_OF_EITHER.search(one.name) for one in others if may_read_other([one.name])):
        raise NotCaptured(_ONE_LENGTH.format(own.name, others[0].name))
    return True


def _floating(named: Mapping[str, Any]) -> List[_Input]:
    return [_Input(name, value) for name, value in named.items() if isinstance(value, torch.Tensor) and value.is_floating_point()]


def may_read_other(names: Iterable[str]) -> bool:
    """Whether one of these names of inputs says that keys come by it."""
    return any(_OF_KEYS.search(name) and not _NO_KEYS.search(name) for name in names)


def _is_same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether these are one tensor, or two views of it that have the same elements."""
    return one is other or (place(one) == place(other) != 0 and one.storage_offset() == other.storage_offset()
                            and sorted(zip(one.shape, one.stride())) == sorted(zip(other.shape, other.stride())))


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether both have the same numbers, but for what all samples, or all positions, have alike, as positions that were added. Waits
    for the device."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    with torch.no_grad(), outside_modes():
        if torch.equal(one, other):
            return True
        bound = 4 * torch.finfo(one.dtype).eps * max(one.abs().max(), other.abs().max())
        (apart, own) = ([(some.amax(axis) - some.amin(axis)).max() for axis in range(one.dim() - 1)] for some in (one - other, one))
        return any(bool(differs <= bound < varies) for differs, varies in zip(apart, own))


# ------------------------------------------------------------------------------------ by what autograd records

def _held_others(given: Sequence[_Input], own: _Input, held: Sequence[_Input], seen: Seen) -> List[_Input]:
    """The tensors beside what a module is given that its keys are made of. NotCaptured: nothing tells."""
    sides, fits = sides_of(seen), [one for one in held if one.has(keys_of(seen))]
    of_queries, of_keys = ((_made_of(side, [*given, *held]) for side in sides) if sides else ([], []))
    if of_keys:
        return [one for one in held if any(one is other for other in of_keys)]
    if not sides or not of_queries:
        fits = [one for one in fits if may_read_other([one.name]) and not _OF_EITHER.search(one.name)]
        if fits and own.has(keys_of(seen)):
            raise NotCaptured(f"is given {own.name} and holds {fits[0].name} of one length, and nothing tells which its keys are of")
        return fits
    before, of_own = (set(_back_from(edge, _WITHIN)) for edge in (sides[1], edge_of(own.value)))
    if before & of_own or not any(_takes_data(node) for node, _ in before):
        return []
    fits = [one for one in fits if _is_data(one.value)]
    if not fits:
        raise NotCaptured(f"reads keys that are not made of {own.name}, and nothing tells whether they are of the same sequence")
    return fits


def _are_of_one(given: Sequence[_Input], own: _Input, others: Sequence[_Input], seen: Seen) -> Optional[bool]:
    """Whether queries and keys are made of the same one of these, or of two that are made of the same. None: nothing tells."""
    sides = sides_of(seen)
    if sides is None:
        return None
    of_queries, of_keys = (_made_of(side, given) for side in sides)
    if not (of_queries or of_keys):
        of_queries, of_keys = ([one for one in side if _is_data(one.value)] for side in ([own], others))
    elif not (of_queries and of_keys):  # the other side is of data that does not show
        hidden = [one for one in given if _is_data(one.value) and all(one is not other for other in of_queries + of_keys)]
        of_queries, of_keys = of_queries or hidden, of_keys or hidden
    pairs = [(one.value, other.value) for one in of_queries for other in of_keys]
    if not pairs or any(_are_alike(*pair) for pair in pairs):
        return True if pairs else None
    # Nothing tells what was done with data. Keys and values are alike, or else all three may be copies, with dropout each; and one
    # sample alone does not show what was added to it.
    kinds: List[torch.Tensor] = []
    for one in given:
        if not any(_are_alike(one.value, other) for other in kinds):
            kinds.append(one.value)
    is_alone = any(1 in one.shape[:2] and one.shape == other.shape and _is_data(one) and _is_data(other) for one, other in pairs)
    if is_alone and not may_read_other(one.name for one in others):
        raise NotCaptured(_ONE_LENGTH.format(own.name, others[0].name))
    are_of_data = all(_is_data(one) or any(_takes_data(node) for node, _ in _back_from(edge_of(one), _BEFORE)) for one in sum(pairs, ()))
    return None if is_alone or (len(kinds) > 2 and are_of_data) else False


def _are_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether both are made of one, position by position."""
    if _is_same(one, other):
        return True
    (of_one, data_of_one), (of_other, data_of_other) = _before(one), _before(other)
    return bool(of_one & of_other or data_of_one & data_of_other) or _are_equal(one, other)


def _is_data(tensor: torch.Tensor) -> bool:
    """Whether autograd knows of nothing that it was made of."""
    return edge_of(tensor)[0] is None


def _takes_data(node: Any) -> bool:
    """Whether it takes nothing that autograd records, but parameters."""
    before = [parent for parent, _ in node.next_functions]
    return None in before and all(parent is None or is_weight(parent) for parent in before)


def sides_of(seen: Seen) -> Optional[Sequence[Edge]]:
    """The results that queries and keys are; None: autograd has not recorded both."""
    if isinstance(seen, Queries):
        sides: Sequence[Edge] = (edge_of(seen.q), edge_of(seen.k))
    else:
        product = product_before(seen.logits)
        sides = () if product is None else product.next_functions[-2:]
    return None if not sides or any(node is None for node, _ in sides) else sides


def product_before(logits: torch.Tensor) -> Any:
    """The operation that multiplied queries and keys to logits; None: autograd has not recorded it."""
    return next((node for node, _ in _back_from(edge_of(logits), _WITHIN) if operation(node) in _PRODUCTS
                 and sum(not is_weight(parent) for parent, _ in node.next_functions) > 1), None)


def _back_from(start: Edge, most: int, ends: Mapping[Edge, _Input] = {}) -> Iterator[Edge]:
    """The results that one is made of, the nearest first, up to these ends, to parameters, and to what joins sequences."""
    def before(edge: Edge) -> Sequence[Edge]:
        found = [one for one in edge[0].next_functions if one[0] is not None and (one in ends or not is_weight(one[0]))]
        return () if edge in ends or (len(found) > 1 and _JOINS.search(operation(edge[0]))) else found

    return back([start], most, before)


def _made_of(start: Edge, given: Sequence[_Input]) -> List[_Input]:
    """The inputs that a result is made of, told by the results that they are, or, of data, by what is kept for backward."""
    found, made = [], {edge_of(tensor): one for one in given for tensor in (one.value, one.value._base)
                       if tensor is not None and not _is_data(tensor)}
    for edge in _back_from(start, _WITHIN, made):
        if edge in made:
            found.append(made[edge])
        else:
            kept = _kept_by(edge[0])
            found += [one for one in given if place(one.value) in kept]
    return found


def _kept_by(node: Any) -> Set[int]:
    """The places of data that a node takes and keeps for backward, as they are: nothing is unpacked, which activation
    checkpointing would take for backward. Older versions of torch do not show them."""
    places = set()
    if any(parent is None for parent, _ in node.next_functions):
        for name in dir(node):
            saved = getattr(node, name) if name.startswith("_raw_saved_") else None
            kept = getattr(saved, "data", None) if getattr(saved, "unpack_hook", saved) is None else None
            if isinstance(kept, torch.Tensor) and not kept.requires_grad:
                places.add(place(kept))
    return places - {0}


def _before(tensor: torch.Tensor) -> Tuple[Set[Edge], Set[int]]:
    """Results that it is made of and that have as many positions, and the places of data."""
    edges = list(_back_from(edge_of(tensor), _BEFORE))
    data = [{place(tensor)} - {0} if _is_data(tensor) else set()] + [_kept_by(node) for node, _ in edges if _takes_data(node)]
    return {edge for edge in edges if {*tensor.shape[:-1]} <= {*(shape_of(*edge) or tensor.shape)}}, set().union(*data)
