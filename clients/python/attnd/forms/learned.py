# SPDX-License-Identifier: MIT
"""learned: which modules attend, as captures have shown, so that a later capture need follow no other module.

    full     hooks of all modules, every function of torch is looked at                  --(nothing odd)---------->  narrow
    narrow   hooks of attending modules, of others of the same classes, of where         --(odd, or FULL_EVERY)--->  full
             forwards begin, and of what has not run; functions of torch are looked at
             within modules whose attention has not come by name; what else runs when an
             attention is seen, the frames of Python tell

A model that attends by an explicit softmax is followed narrowly once the softmaxes have been judged, where queries and keys meet,
and all that is added to their product, in the very module of the softmax. It stays with full captures where the results of
softmaxes are followed in each, as for values. So does a model whose encoder layers of torch attend, which take their fast path only
without hooks. A capture is odd when a forward shows what was not learned: an attention of another module or form, no attention of an
attending module, a module of a class that had not run; or when a forward begins elsewhere, shows no attention at all, or
breaks off. A model that has other modules than a full capture has shown is learned anew. After an odd narrow capture so many full ones
on end show what holds, twice as many each time, until narrow ones have gone well: a model whose forms take turns shows all of them.
"""
from __future__ import annotations

import itertools
import operator
import weakref
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Type

import torch

from ..base.torch_state import compiles_itself

if TYPE_CHECKING:
    from .spy import Entered

FULL_EVERY = 16  # captures, of which one is full
# Bits of a followed module. MAY_ATTEND: the module, or another one of the class, attends; BY_MODE: in a way that is seen by a
# mode alone; NEW: its class has not run.
BEGINS, ATTENDS, MAY_ATTEND, BY_MODE, NEW = 1, 2, 4, 8, 16

_NO_FORWARD = torch.nn.Module.forward  # of containers
_MODULES = operator.attrgetter("_modules")


class Learned:
    """The modules of one model. Asked from the training thread."""

    def __init__(self) -> None:
        self._doubts = 0  # full captures on end that are learned from together; 0: one
        self._due = 0  # of these, those that are to come
        self._is_narrow = self._is_odd = False
        self._by_mode: "weakref.WeakSet[torch.nn.Module]" = weakref.WeakSet()  # which have ever attended in a way that a mode alone sees
        self.begins()

    def begins(self) -> None:
        """A full capture begins."""
        if self._is_narrow:
            self._doubts = min(2 * self._doubts or 1, FULL_EVERY) if self._is_odd else 0
        if self._is_narrow or self._due == 0:
            self._ran: Set[Type[torch.nn.Module]] = set()  # classes
            self._followed: Dict[int, int] = {}  # bits by id, or 0
            self._due, self._is_odd = max(1, self._doubts), False
        self._due -= 1
        self._modules: List["weakref.ref[torch.nn.Module]"] = []  # which are followed
        self._holders: List["weakref.ref[torch.nn.Module]"] = []  # of parts
        self._counts: List[int] = []  # of each, how many
        self._parts: List["weakref.ref[torch.nn.Module]"] = []  # of all
        self._left = 0  # narrow captures until the next full one
        self._is_narrow = self._has_ended = False  # a forward has ended in the capture

    def ran(self, module: torch.nn.Module) -> None:
        """A module runs within a forward that a full capture follows."""
        self._ran.add(type(module))

    def attended(self, entered: Sequence["Entered"], by_name: bool) -> None:
        """The innermost of the running modules computed an attention by one function. `by_name`: which was looked up in
        torch.nn.functional."""
        if not by_name:
            self._by_mode.add(entered[-1].module)
        for one, does in (entered[0], BEGINS), (entered[-1], ATTENDS | MAY_ATTEND | (BY_MODE if entered[-1].module in self._by_mode else 0)):
            self._followed[id(one.module)] = self._followed.get(id(one.module), 0) | does

    def odd(self) -> None:
        """The capture shows what a narrow one would not show, or what was not learned."""
        self._is_odd = True

    def forward_ends(self, whole: bool) -> None:
        """A forward that was followed is over. `whole`: the forward ran to its end."""
        self._has_ended, self._is_odd = True, self._is_odd or not whole

    def ends(self, root: torch.nn.Module) -> None:
        """A full capture ends."""
        if self._due or self._left or not self._has_ended or not self._followed or self._is_odd:
            return
        modules = list(root.modules())
        attending: Dict[Type[torch.nn.Module], int] = {}
        for module in modules:
            does = self._followed.get(id(module), 0)
            if does & ATTENDS:
                attending[type(module)] = attending.get(type(module), MAY_ATTEND) | (does & BY_MODE)
        followed: Dict[int, int] = {}
        for module in modules:
            does = self._followed.get(id(module), 0) | attending.get(type(module), 0)
            if type(module) not in self._ran and id(module) not in self._followed and type(module).forward is not _NO_FORWARD:
                does |= NEW
            if does:
                followed[id(module)] = does
            if compiles_itself(module) or isinstance(module, torch.nn.TransformerEncoderLayer):
                return
        self._followed, self._left = followed, FULL_EVERY - 1
        holders = [module for module in modules if module._modules]
        self._holders = list(map(weakref.ref, holders))
        self._counts, parts = _parts(holders)
        self._parts = list(map(weakref.ref, parts))
        self._modules = [weakref.ref(module) for module in modules if id(module) in followed]

    @property
    def suffices(self) -> bool:
        """Whether the capture that begins may be a narrow one: nothing was odd, and the model has the modules that it had."""
        if self._left == 0 or self._is_odd:
            return False
        holders = _alive(self._holders)
        if len(holders) < len(self._holders) or any(map(compiles_itself, holders)):
            return False
        counts, parts = _parts(holders)
        return counts == self._counts and len(parts) == len(self._parts) and all(map(operator.is_, parts, (one() for one in self._parts)))

    def narrow(self) -> Mapping[int, int]:
        """A narrow capture begins: the bits of each module that is followed, by id."""
        self._left, self._is_narrow = self._left - 1, True
        return self._followed

    def modules(self) -> List[torch.nn.Module]:
        """The modules that a narrow capture follows."""
        return _alive(self._modules)


def _alive(refs: Sequence["weakref.ref[torch.nn.Module]"]) -> List[torch.nn.Module]:
    """The modules that still exist."""
    return [module for module in (ref() for ref in refs) if module is not None]


def _parts(holders: Sequence[torch.nn.Module]) -> Tuple[List[int], List[torch.nn.Module]]:
    """How many parts each module has, and those of all."""
    named = list(map(_MODULES, holders))
    return list(map(len, named)), [part for part in itertools.chain.from_iterable(map(dict.values, named)) if part is not None]
