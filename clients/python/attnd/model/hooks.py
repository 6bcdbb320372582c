# SPDX-License-Identifier: MIT
"""hooks: the hooks on a watched model and its optimizer."""
from __future__ import annotations

import itertools
import sys
import weakref
from typing import Any, Callable, List, Mapping, Optional

import torch

from ..base.hook import Hook
from ..base.torch_state import is_compiling, outside_modes, unseen_by_modes


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


class _Stepper:
    """An optimizer that steps: whether it holds parameters of the model, the newest step that it was a part of, whether it has
    ended one, and one of its gradients as it was then."""
    __slots__ = ("holds", "step", "has_ended", "parameter", "gradient", "version", "_groups")

    def __init__(self) -> None:
        self.holds = self.has_ended = False
        self.step = self.version = 0
        self.parameter = self.gradient = _NOTHING
        self._groups: List[Any] = []

    def judge(self, optimizer: Any, root: Optional[torch.nn.Module]) -> bool:
        """Sets `holds`, anew when its groups are others than before."""
        groups = [(len(group["params"]), *map(id, itertools.islice(group["params"], 1))) for group in optimizer.param_groups]
        if groups != self._groups and root is not None:
            # By the parameters of now: what distributes a model may have replaced those that it was watched with.
            parameters = {id(p) for p in root.parameters()}
            self.holds = any(id(p) in parameters for group in optimizer.param_groups for p in group["params"])
        self._groups = groups
        return self.holds

    def find_gradient(self, optimizer: Any) -> Any:
        """A gradient of it; None: it has none."""
        parameter = next((p for group in optimizer.param_groups for p in group["params"] if p.grad is not None), None)
        self.parameter = _NOTHING if parameter is None else weakref.ref(parameter)
        return None if parameter is None else parameter.grad


class OptimizerHook(Hook):
    """After each step() of an optimizer: tells the owner when a step of the training ends. With `root` that is the first
    step() of an optimizer that holds parameters of it, after a forward that trains; further ones before the next such
    forward are of the same step. Not each forward is seen: compiled code has no hooks, and the parts of a model may be called
    alone. Then a step ends with a step() of an optimizer that was a part of the last one, and has other gradients now, which
    does not show either where CUDA graphs are replayed."""

    def __init__(self, owner: Any, root: Optional[torch.nn.Module]):
        super().__init__(owner)
        self._root = None if root is None else weakref.ref(root)
        self._steppers: "weakref.WeakKeyDictionary[Any, _Stepper]" = weakref.WeakKeyDictionary()
        self._steps = self._turns = 0  # that ended; of them those of an optimizer whose turn it is again

    def __call__(self, optimizer: Any, *args: Any) -> None:
        owner = self.owner()
        if owner is None or is_compiling():
            return
        try:
            ends = self._root is None or self._ends(owner, optimizer)
        except Exception:  # its groups are of another kind
            owner.failed("whether an optimizer ended a step could not be told; step() of what attnd.watch returned tells it")
            return
        if ends:
            owner.optimizer_stepped()

    def _ends(self, owner: Any, optimizer: Any) -> bool:
        stepper = self._steppers.get(optimizer)
        if stepper is None:
            stepper = self._steppers[optimizer] = _Stepper()
        if not stepper.holds and (self._root is None or not stepper.judge(optimizer, self._root())):
            return False
        parameter = stepper.parameter()
        gradient = parameter.grad if parameter is not None else None
        if gradient is None:
            gradient = stepper.find_gradient(optimizer)
        has_news = gradient is not None and (
            owner.is_blind or gradient is not stepper.gradient() or gradient._version != stepper.version)
        if has_news:
            stepper.gradient, stepper.version = weakref.ref(gradient), gradient._version
        is_again = stepper.step == self._steps
        ends: bool = owner.uncounted > 0 or (has_news and is_again)
        if ends:
            self._turns += stepper.has_ended and not is_again
            if self._turns == TURNS_UNTOLD:
                owner.optimizers_alternate()
            self._steps += 1
            stepper.has_ended = True
        stepper.step = self._steps
        return ends


_NOTHING: Callable[[], Any] = lambda: None
TURNS_UNTOLD = 2  # an optimizer takes up again what another one did meanwhile: the first time it may have skipped a step
register_optimizer_hook: Optional[Callable[..., Any]] = getattr(
    sys.modules["torch.optim.optimizer"], "register_optimizer_step_post_hook", None)
