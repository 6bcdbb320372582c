# SPDX-License-Identifier: MIT
"""probe: a fixed small batch that is run now and then, so that drift is the model's and not the data's.

A probe runs in eval mode, without gradients, and leaves the random numbers of the training as they were: the training
computes what it would have computed without it. Its attention is published as the job "<job>.probe", whose summaries
are apart from those of the training.

With random tokens that come twice (`repeated_tokens`) a probe tells induction heads: what they attend to is the token
after the earlier copy (Olsson et al. 2022, "In-context Learning and Induction Heads").
"""
from __future__ import annotations

import contextlib
import hashlib
import logging
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Optional, Sequence, Tuple

import torch

if TYPE_CHECKING:
    from .capture import Watch
    from .publisher import Publisher

log = logging.getLogger("attnd")


def repeated_tokens(vocabulary: int, length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """int64 [batch, 2 * length]: random tokens below `vocabulary`, and the same ones again."""
    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(vocabulary, (batch, length), generator=generator)
    return torch.cat([once, once], dim=1)


def run_quietly(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """model(*args, **kwargs) in eval mode, without gradients, with everything as it was afterwards."""
    with _eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=_devices(model)):
        model(*args, **kwargs)


@contextlib.contextmanager
def _eval_mode(model: torch.nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _devices(model: torch.nn.Module) -> Sequence[int]:
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


class Probe:
    """Runs the inputs through the model after every `every` steps, and publishes by a watch of its own.

    Not while nobody is subscribed to it; but with more than one rank always, as a sharded model takes all of them,
    whatever each of them knows of subscriptions.

    inputs   a tensor, or a tuple or dict of them: the model's arguments; kept, and brought to the model's device
    """

    def __init__(self, model: torch.nn.Module, inputs: Any, every: int, training: "Watch",
                 endpoint: Optional[str], address: Any):
        self._every = every
        self._model = model
        self._args, self._kwargs = _arguments(inputs)
        self._training = training
        self._watch = _watch_probe(model, training, endpoint, address)

    def after_step(self, step: int) -> None:
        """A step of the training is done, and the next one is `step`."""
        publisher = self._watch.publisher
        if step % self._every or (publisher.world == 1 and not publisher.listened_to):
            return
        self._watch.place(self._training.epoch, step)
        device = next((p.device for p in self._model.parameters()), torch.device("cpu"))
        args = [_to(value, device) for value in self._args]
        self._watch.probe(*args, **{name: _to(value, device) for name, value in self._kwargs.items()})

    @property
    def publisher(self) -> "Publisher":
        """Whom its attention goes to."""
        return self._watch.publisher

    def close(self) -> None:
        """Ends its watch."""
        self._watch.close()


def _watch_probe(model: torch.nn.Module, training: "Watch", endpoint: Optional[str], address: Any) -> "Watch":
    from .capture import watch
    publisher = training.publisher
    it = watch(model, f"{publisher.job}.probe", endpoint, address=address, every=1, samples=0, steps="manual", wait=0, tokens=training.sends_tokens,
               rank=publisher.rank, world=publisher.world, run=_run_of_probe(publisher.run), passive=True,
               values=training.sends_values)
    it.judge_as(training)
    return it


def _run_of_probe(run: str) -> bytes:
    """A run of its own, the same on all ranks: bridges and histories tell runs apart by their digits."""
    return hashlib.md5(f"{run}/probe".encode()).digest()


def _arguments(inputs: Any) -> Tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)), {}


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
