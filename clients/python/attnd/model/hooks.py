# SPDX-License-Identifier: MIT
"""hooks: the hooks on a watched model and its optimizer."""
from __future__ import annotations

import contextlib
import sys
import weakref
from typing import Any, Callable, List, Mapping, Optional

import torch

from ..base.torch_state import is_compiling, outside_modes, unseen_by_modes

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


def remove_all(handles: List[Any]) -> None:
    while handles:
        handles.pop().remove()


class ForwardHook(Hook):
    def __call__(self, module: torch.nn.Module, *args: Any) -> None:
        if is_compiling():
            return
        owner = self.owner()
        if owner is not None:
            owner.forward_done()


class TokensHook(Hook):
    def __call__(self, module: torch.nn.Module, args: Any, kwargs: Optional[Mapping[str, Any]] = None) -> None:
        if is_compiling():
            return
        owner = self.owner()
        if owner is not None and unseen_by_modes():
            try:
                if kwargs is None:  # torch 1.13 hands none on: whoever calls the hook has them
                    kwargs = sys._getframe(1).f_locals.get("kwargs")
                with outside_modes():
                    owner.take(args, kwargs or {})
            except Exception:
                owner.forget()  # the attention is published without them


class OptimizerHook(Hook):
    """After each step of an optimizer; with `root`, of any that holds parameters of it."""

    def __init__(self, owner: Any, root: Optional[torch.nn.Module]):
        super().__init__(owner)
        self._root = None if root is None else weakref.ref(root)
        self._judged: "weakref.WeakKeyDictionary[Any, bool]" = weakref.WeakKeyDictionary()
        self._leader: Any = None

    def __call__(self, optimizer: Any, *args: Any) -> None:
        owner = self.owner()
        if owner is not None and not is_compiling() and self._counts(optimizer):
            owner.optimizer_stepped()

    def _counts(self, optimizer: Any) -> bool:
        """Whether steps of the optimizer count: the first of a model that steps does, as long as it lives."""
        if self._root is None:
            return True
        if optimizer not in self._judged:
            # By the parameters of now: what distributes a model may have replaced those that it was watched with.
            root = self._root()
            parameters = {id(p) for p in root.parameters()} if root is not None else set()
            self._judged[optimizer] = any(id(p) in parameters for group in optimizer.param_groups for p in group["params"])
        if not self._judged[optimizer]:
            return False
        leader = self._leader() if self._leader is not None else None
        if leader is None:
            self._leader, leader = weakref.ref(optimizer), optimizer
        return leader is optimizer


register_optimizer_hook: Optional[Callable[..., Any]] = getattr(
    sys.modules["torch.optim.optimizer"], "register_optimizer_step_post_hook", None)
