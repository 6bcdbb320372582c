# SPDX-License-Identifier: MIT
"""learned: which modules captures of a model have shown to attend, so that a later capture need follow no others.

    full     every module is followed, every function of torch is looked at     --(nothing odd, all whole)-->  narrow
    narrow   modules that attend, others of their classes, those around         --(odd, or FULL_EVERY)------>  full
             them, and where forwards begin; functions of torch while one of the former runs

A model whose attention is computed by an explicit softmax stays with full captures: what is added before the softmax, and
what its result meets, may be computed anywhere. A capture is odd when it shows what was not learned: an attention of
another module or form, none of a module that attends, a module of a class that had not run or that attends elsewhere, a
forward that begins elsewhere, that shows no attention or breaks off.
"""
from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Type

import torch

if TYPE_CHECKING:
    from .spy import Entered

FULL_EVERY = 16  # captures, of which one is full
BEGINS, ATTENDS, MAY_ATTEND = 1, 2, 4  # what a module that is followed does; MAY_ATTEND: it is, or is of the class of, one that attends

# A module, how many parts it has, the name of one, and that one.
_Link = Tuple["weakref.ref[torch.nn.Module]", int, str, "weakref.ref[torch.nn.Module]"]


class Learned:
    """The modules of one model. Asked from the training thread."""

    def __init__(self) -> None:
        self.quiet: Set[Type[torch.nn.Module]] = set()  # the classes that ran in the last full capture, and of which none attends
        self._followed: Dict[int, int] = {}  # by id: what it does, or 0
        self._links: List[_Link] = []  # from the model to each of these
        self._left = 0  # narrow captures until the next full one
        self._is_odd = self._is_whole = False

    def begins(self) -> None:
        """A full capture begins."""
        self.quiet, self._followed, self._links, self._left, self._is_odd, self._is_whole = set(), {}, [], 0, False, False

    def ran(self, module: torch.nn.Module) -> None:
        """A module runs within a forward that a full capture follows."""
        self.quiet.add(type(module))

    def attended(self, entered: Sequence["Entered"]) -> None:
        """The innermost of these modules, which run, computed an attention by one function."""
        for one, does in ((entered[0], BEGINS), *((one, 0) for one in entered[-3:-1]), (entered[-1], ATTENDS | MAY_ATTEND)):
            self._followed[id(one.module)] = self._followed.get(id(one.module), 0) | does

    def odd(self) -> None:
        """The capture shows what a narrow one would not, or what was not learned."""
        self._is_odd = True

    def forward_ends(self, whole: bool) -> None:
        """A forward that was followed is over. `whole`: it ran to its end."""
        self._is_whole, self._is_odd = True, self._is_odd or not whole

    def ends(self, root: torch.nn.Module) -> None:
        """A full capture ends."""
        if self._is_odd or not self._is_whole or not self._followed:
            return
        modules = list(root.named_modules())
        if any(getattr(module, "_compiled_call_impl", None) is not None for _, module in modules):
            return
        self._followed = {id(module): self._followed[id(module)] for _, module in modules if id(module) in self._followed}
        classes = {type(module) for _, module in modules if self._followed.get(id(module), 0) & ATTENDS}
        self.quiet -= classes
        links: Dict[Tuple[int, str], _Link] = {}
        for path, module in modules:
            may_attend = type(module) in classes
            if may_attend:
                self._followed[id(module)] = self._followed.get(id(module), 0) | MAY_ATTEND
            if id(module) in self._followed and path:
                holder = root
                for name in path.split("."):
                    if may_attend:
                        self._followed.setdefault(id(holder), 0)
                    part = holder._modules.get(name)
                    if part is None:  # it names its modules in its own way
                        return
                    links[id(holder), name] = weakref.ref(holder), len(holder._modules), name, weakref.ref(part)
                    holder = part
        self._links, self._left = list(links.values()), FULL_EVERY - 1

    @property
    def suffices(self) -> bool:
        """Whether the capture that begins may be a narrow one."""
        return self._left > 0 and not self._is_odd

    def narrow(self) -> Optional[Mapping[int, int]]:
        """By id, what each module does that such a capture is to follow; None: the model has other modules now."""
        for holder, count, name, part in self._links:
            held, module = holder(), part()
            if held is None or module is None or held._modules.get(name) is not module or len(held._modules) != count:
                return None
        self._left -= 1
        self._is_whole = False
        return self._followed
