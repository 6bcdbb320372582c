# SPDX-License-Identifier: MIT
"""gradients: the gradients that backward brings, for the attentions that were captured in the forward before it.

    explicit softmax    dL/dA: autograd calls a hook on the weights
    fused attention     dL/dO: it calls one on the output; attnd multiplies it with the values. Where a bias makes the
                        weights travel instead, the sender thread does

A call whose output needs a gradient waits for it. Meanwhile its queries, keys, values or weights are held by reference:
autograd keeps the same tensors for backward, so nothing more is retained. They are copied together with the gradient,
within backward. Where autograd keeps something else (activation checkpointing, offloading: torch's hooks of saved
tensors), the part that the plan takes is copied in the forward instead.

The older, reentrant checkpointing runs a block without gradients first: then the forward that backward repeats has the
hook, and the first one is published. Where several forwards wait for that at once, they go without.

A call goes without a gradient when backward has not come by the end of the step, or once its graph is gone: that is
looked for when the next forward begins. The gradient is what autograd has, scaled as the loss is: attnd divides by the
norm over the heads, in which a scale cancels, and dividing f16 here would lose what the scale is there to keep.
"""
from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from ..base import wire
from ..base.once import Once
from ..base.torch_state import is_graph_captured, outside_modes, saves_elsewhere
from ..forms.seen import Output, Queries, Seen
from ..sending.contents import Captured, Maker
from ..sending.devices import HostCopy
from ..sending.publisher import Publisher
from .calls import Cut, Part
from .cost import Cost


class Gradients:
    """The calls of one watch that wait. `layer_of`: the layer at a path, when it is to be sent; `failed` logs the current
    exception; `cost` is told the time of hooks."""

    def __init__(self, publisher: Publisher, layer_of: Callable[[str], Optional[wire.Layer]],
                 failed: Callable[[str], None], cost: Cost):
        self.not_finite = 0  # messages that went without, because theirs was not
        self._publisher = publisher
        self._layer_of = layer_of
        self._failed = failed
        self.cost = cost
        self._waiting: Dict[int, _Call] = {}
        self._unrepeated: Dict[str, List[_Call]] = {}  # of those, by path, which backward has to repeat
        self._copied_bytes = 0  # that wait and are no references
        self._tell = Once(publisher.job).warn

    def awaited(self, path: str, seen: Seen, is_repeated: bool) -> Optional[Output]:
        """The output of a call, when backward may bring a gradient of it. `is_repeated`: backward may repeat it first."""
        output = seen.output
        if output is None or not (output.tensor.requires_grad or is_repeated) or type(output.tensor) is not torch.Tensor:
            return None
        if not isinstance(seen, Queries):
            return output
        if output.dropped:
            self._tell("dropout", "%s drops weights within its kernel, so it has no importance_gradient, nor have others "
                       "like it: set the dropout of attention to 0, or compute the weights explicitly", path or "the model")
        return output if not output.dropped and seen.v is not None else None

    def wait(self, path: str, found: Sequence[Part], output: Output, epoch: int, step: int) -> Sequence[Part]:
        """Lets the parts of a call wait. Returns the others: there is no gradient of a sample of rows, and there may be
        no room for copies."""
        cuts: List[Cut] = []
        others: List[Part] = []
        copied, by_reference = 0, output.tensor.requires_grad and not saves_elsewhere()
        for part in found:
            nbytes = 0 if by_reference and part.kept else part.nbytes
            if part.whole and part.nbytes <= self._publisher.message_bytes and (
                    nbytes == 0 or self._copied_bytes + copied + nbytes <= self._publisher.queue_bytes):
                copied += nbytes
                cuts.append(part.copy(waits=True, held=not nbytes))
            else:
                others.append(part)
        if cuts:
            call = _Call(path, cuts, copied, output.arrange, epoch, step)
            self._waiting[id(call)] = call
            self._copied_bytes += copied
            if output.tensor.requires_grad:
                self._hook(output.tensor, call)
            else:
                self._unrepeated.setdefault(path, []).append(call)
        return others

    def awaits(self, path: str) -> bool:
        """Whether calls of the module at `path`, or of those in it, wait to be repeated."""
        return any(path in ("", name) or name.startswith((path + ".", path + "#")) for name in self._unrepeated)

    def repeated(self, path: str, output: Optional[Output]) -> None:
        """Backward repeats a call."""
        calls = self._unrepeated.get(path, ())
        if len(calls) == 1 and output is not None and output.tensor.requires_grad:
            self._hook(output.tensor, calls[0])
            del self._unrepeated[path]

    def came(self, call: "_Call", gradient: Optional[torch.Tensor]) -> None:
        """The call waits no longer. Runs within backward too, and never raises."""
        if self._waiting.pop(id(call), None) is None:  # a second backward of one graph
            return
        self._copied_bytes -= call.copied_bytes
        cuts, call.cuts = () if is_graph_captured() else call.cuts, ()  # the graph may live on
        try:
            with torch.no_grad(), outside_modes():
                layer = self._layer_of(call.path)
                whole = None if gradient is None else call.arrange(gradient.detach())
                for cut in cuts:
                    if layer is not None:
                        self._send(call, cut, None if whole is None else whole[cut.part], layer)
        except Exception:
            self._failed(f"the attention of {call.path or 'the model'} could not be sent with its gradient")
        if not self._waiting:
            self._publisher.hurry()

    def settle(self, before: Optional[int] = 0) -> None:
        """Sends what waits in vain: calls whose graph is gone, and those of the steps before this one; None: of all."""
        for call in list(self._waiting.values()):
            if before is None or call.step < before or call.hook() is None:
                self.came(call, None)
        for path, calls in list(self._unrepeated.items()):
            calls[:] = [call for call in calls if id(call) in self._waiting]
            if not calls:
                del self._unrepeated[path]

    def _hook(self, tensor: torch.Tensor, call: "_Call") -> None:
        hook = _Hook(self, call)
        call.hook = weakref.ref(hook)
        tensor.register_hook(hook)  # type: ignore[no-untyped-call]

    def _send(self, call: "_Call", cut: Cut, gradient: Optional[torch.Tensor], layer: wire.Layer) -> None:
        nbytes = 0 if gradient is None else gradient.numel() * gradient.element_size()
        if cut.nbytes + nbytes > self._publisher.message_bytes:
            gradient, nbytes = None, 0
        self._publisher.publish_later(layer, call.epoch, call.step, cut.nbytes + nbytes,
                                      lambda: self._maker(cut, gradient, layer, call.step))

    def _maker(self, cut: Cut, gradient: Optional[torch.Tensor], layer: wire.Layer, step: int) -> Maker:
        """Copies what was held, and the gradient; returns what makes the message, on the sender thread."""
        cut.take()
        copied = None if gradient is None else HostCopy(gradient)

        def make() -> Optional[Captured]:
            is_finite = copied is not None and copied.is_finite()
            if copied is not None and not is_finite:
                self.not_finite += 1
                self._tell("finite", "the gradient of %s at step %d is not finite: the message goes without, as others "
                           "will; stats() counts them", ".".join(map(str, layer)), step)
            return cut.make(layer, copied if is_finite else None)

        return make


@dataclass(eq=False)
class _Call:
    """One that waits. It does not keep the graph that calls its hook."""
    path: str
    cuts: Sequence[Cut]
    copied_bytes: int
    arrange: Callable[[torch.Tensor], torch.Tensor]
    epoch: int
    step: int
    hook: Callable[[], Any] = lambda: True  # None once it is gone


class _Hook:
    """Belongs to the graph, and ends with it."""

    def __init__(self, gradients: Gradients, call: _Call):
        self._gradients = gradients
        self._call = call

    def __call__(self, gradient: torch.Tensor) -> None:
        began = time.perf_counter()
        self._gradients.came(self._call, gradient)
        self._gradients.cost.spent(self._call.step, time.perf_counter() - began)
