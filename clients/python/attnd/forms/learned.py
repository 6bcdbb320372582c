# SPDX-License-Identifier: MIT
"""learned: which modules attend, as captures have shown, so that a later capture need follow no other module.

    full     every module is followed, every function of torch is looked at     --(nothing odd)---------->  narrow
    narrow   attending modules, others of the same classes, the modules around  --(odd, or FULL_EVERY)--->  full
             these, and where forwards begin; functions of torch within attending modules alone

A model that attends by an explicit softmax stays with full captures: what is added before the softmax, and what the result
meets, may be computed anywhere. A capture is odd when a forward shows what was not learned: an attention of another module
or form, no attention of an attending module, a module of a class that had not run or that attends elsewhere; or when a
forward begins elsewhere, shows no attention at all, or breaks off.
"""
from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence, Set, Tuple, Type

import torch

from ..base.torch_state import compiles_itself

if TYPE_CHECKING:
    from .spy import Entered

FULL_EVERY = 16  # captures, of which one is full
BEGINS, ATTENDS, MAY_ATTEND = 1, 2, 4  # bits of a followed module; MAY_ATTEND: the module, or another one of the class, attends

_Link = Tuple["weakref.ref[torch.nn.Module]", int, str, "weakref.ref[torch.nn.Module]"]  # a module, the number of parts, a name, a part


class Learned:
    """The modules of one model. Asked from the training thread."""

    def __init__(self) -> None:
        self.quiet: Set[Type[torch.nn.Module]] = set()  # classes that ran in the last full capture without attending
        self._followed: Dict[int, int] = {}  # bits by id, or 0
        self._links: List[_Link] = []  # from the model to each followed module
        self._left = 0  # narrow captures until the next full one
        self._is_odd = self._has_ended = False  # the capture is odd; a forward has ended in it

    def begins(self) -> None:
        """A full capture begins."""
        self.quiet, self._followed, self._links, self._left, self._is_odd, self._has_ended = set(), {}, [], 0, False, False

    def ran(self, module: torch.nn.Module) -> None:
        """A module runs within a forward that a full capture follows."""
        self.quiet.add(type(module))

    def attended(self, entered: Sequence["Entered"]) -> None:
        """The innermost of the running modules computed an attention by one function."""
        for one, does in ((entered[0], BEGINS), *((one, 0) for one in entered[-3:-1]), (entered[-1], ATTENDS | MAY_ATTEND)):
            self._followed[id(one.module)] = self._followed.get(id(one.module), 0) | does

    def odd(self) -> None:
        """The capture shows what a narrow one would not show, or what was not learned."""
        self._is_odd = True

    def forward_ends(self, whole: bool) -> None:
        """A forward that was followed is over. `whole`: the forward ran to its end."""
        self._has_ended, self._is_odd = True, self._is_odd or not whole

    def ends(self, root: torch.nn.Module) -> None:
        """A full capture ends."""
        modules = list(root.named_modules()) if self._has_ended and self._followed and not self._is_odd else []
        if not modules or any(compiles_itself(module) for _, module in modules):
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
                    if part is None:  # the model names its modules in its own way
                        return
                    links[id(holder), name] = weakref.ref(holder), len(holder._modules), name, weakref.ref(part)
                    holder = part
        self._links, self._left = list(links.values()), FULL_EVERY - 1

    @property
    def suffices(self) -> bool:
        """Whether the capture that begins may be a narrow one."""
        return self._left > 0 and not self._is_odd

    def narrow(self) -> Optional[Mapping[int, int]]:
        """The bits of each module that a narrow capture follows, by id; None: the model has other modules now."""
        for holder, count, name, part in self._links:
            held, module = holder(), part()
            if held is None or module is None or held._modules.get(name) is not module or len(held._modules) != count:
                return None
        self._left -= 1
        return self._followed
