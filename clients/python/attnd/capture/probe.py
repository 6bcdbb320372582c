# SPDX-License-Identifier: MIT
"""probe: a fixed small batch that is run now and then, so that drift is the model's and not the data's.

A probe runs in eval mode, without gradients, and leaves the random numbers of the training as they were: the training
computes what it would have computed without it. Its attention is published as the job "<job>.probe", whose summaries
are apart from those of the training.

With random tokens that come twice (induction.py) a probe tells induction heads: what they attend to is the token after
the earlier copy (Olsson et al. 2022, "In-context Learning and Induction Heads").
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

import torch

from ..model.induction import Call, InductionInputs

if TYPE_CHECKING:
    from .watch import Watch


def run_quietly(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """model(*args, **kwargs) in eval mode, without gradients, with everything as it was afterwards."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            model(*args, **kwargs)
    finally:
        for module in training:
            module.training = True


class Probe:
    """Runs the inputs through the model after every `every` steps of `training`, and publishes by `watch`.

    Not while nobody is subscribed to it; but with more than one rank always, as a sharded model takes all of them,
    whatever each of them knows of subscriptions.

    inputs   a tensor, or a tuple or dict of them: the model's arguments; kept, and brought to the model's device. Or
             those of induction.py, whose tokens always travel, as they are nobody's
    """

    def __init__(self, model: torch.nn.Module, inputs: Any, every: int, training: "Watch", watch: "Watch"):
        self._every = every
        self._model = model
        self._inputs = inputs if isinstance(inputs, InductionInputs) else None
        self._call: Optional[Call] = None
        if isinstance(inputs, Mapping):
            self._call = (), inputs
        elif self._inputs is None:
            self._call = (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}
        self._training = training
        if self._inputs is not None and training.publisher.world > 1:
            self._inputs.make_on_all_ranks()
        self._watch = watch

    def after_step(self, step: int) -> None:
        """A step of the training is done, and the next one is `step`."""
        publisher = self._watch.publisher
        if step % self._every or (publisher.world == 1 and not publisher.listened_to):
            return
        if self._call is None and self._inputs is not None:
            self._call = self._inputs.take()
        if self._call is None:
            return
        self._watch.forwards.place(self._training.epoch, step)
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        args, kwargs = _to(self._call, device)
        self._watch.probe(*args, **kwargs)

    def close(self) -> None:
        """Ends its watch."""
        self._watch.close()


def _to(value: Any, device: torch.device) -> Any:
    """The same on a device, and what is in it."""
    if type(value) in (tuple, list):
        return type(value)(_to(inner, device) for inner in value)
    if isinstance(value, dict):
        return {name: _to(inner, device) for name, inner in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value
