# SPDX-License-Identifier: MIT
"""lightning: a callback for Lightning, under either of its names.

    trainer = lightning.Trainer(callbacks=[AttndCallback(job="gpt-small")])

What is watched is the LightningModule. Steps are `trainer.global_step` (optimizer steps, whatever the accumulation of
gradients), epochs `trainer.current_epoch`; both go on where a checkpoint left off. Validation is not captured:
Lightning runs it in eval mode.
"""
from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Optional, Tuple

import attnd

from .session import Session


def _callback_classes() -> Tuple[Any, ...]:
    """Callback of `lightning` and of `pytorch_lightning`, whichever are installed: their trainers accept their own
    only, and there is no telling which one will be used."""
    found = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            found.append(importlib.import_module(name).Callback)
        except ImportError:
            pass
    if not found:
        raise ImportError("attnd.integrations.lightning needs lightning or pytorch_lightning")
    return tuple(found)


if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    Callback = type("Callback", _callback_classes(), {})


class AttndCallback(Callback):
    """attnd.watch for a Lightning trainer: AttndCallback(job="gpt-small", every=50)."""

    def __init__(self, job: str, **options: Any):
        """`job` and `options` as for attnd.watch, whose `steps`, `first_step` and `first_epoch` come from the trainer.
        ValueError for a bad job name, now; nothing is raised later."""
        super().__init__()
        self._session = Session(job, options)

    @property
    def watch(self) -> Optional[attnd.Watch]:
        """The attnd.Watch of the training under way."""
        return self._session.watch

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._session.begin(pl_module, trainer.global_step, trainer.current_epoch,
                            rank=trainer.global_rank, world=trainer.world_size)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._session.reached(trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._session.epoch_end()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._session.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._session.end()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._session.end()
