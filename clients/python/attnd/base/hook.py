# SPDX-License-Identifier: MIT
"""hook: what hangs on a module of the model or on an optimizer."""
from __future__ import annotations

import collections
import contextlib
import weakref
from typing import Any, Dict, List, Sequence

import torch
from torch.utils.hooks import RemovableHandle

ALWAYS: Dict[str, bool] = {"always_call": True} if hasattr(torch, "compiler") else {}  # of hooks after a forward, also of one that raises
# Stands in a copy or pickle of a watched model where the model has a hook of ours: takes anything and does nothing, and
# is no part of attnd, so that a saved model can be loaded without it.
_no_hook = contextlib.nullcontext().__exit__


class Hook:
    """A hook that does not follow into copies of what it hangs on, and does not keep the watch alive."""

    def __init__(self, owner: Any):
        self.owner = weakref.ref(owner)

    def __deepcopy__(self, memo: Any) -> Any:
        return _no_hook

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


class ModuleHooks:
    """The handle of two hooks on each of some modules: `enter` before the forward, ahead of hooks of others, and `leave` after the
    forward. The constructor writes into the dictionaries of torch.nn.Module, which takes a fraction of the time that
    register_forward_pre_hook and register_forward_hook take."""

    def __init__(self, modules: Sequence[torch.nn.Module], enter: Hook, leave: Hook):
        self._id = RemovableHandle(collections.OrderedDict()).id  # torch gives each id once
        self._entries: List[Any] = []  # dictionaries with that id
        for module in modules:
            before: Any = module._forward_pre_hooks
            after: Any = module._forward_hooks
            before[self._id], after[self._id] = enter, leave
            before.move_to_end(self._id, last=False)
            self._entries += before, after
            if ALWAYS:
                module._forward_hooks_always_called[self._id] = True
                self._entries.append(module._forward_hooks_always_called)

    def remove(self) -> None:
        """Removes the hooks."""
        for hooks in self._entries:
            hooks.pop(self._id, None)
