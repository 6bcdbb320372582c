# SPDX-License-Identifier: MIT
"""lightning: a callback for Lightning, under either of its names.

    trainer = lightning.Trainer(callbacks=[AttndCallback(job="gpt-small")])

The LightningModule is watched. Steps are `trainer.global_step` (optimizer steps, whatever the accumulation of
gradients), epochs `trainer.current_epoch`; both go on where a checkpoint left off. Validation is not captured:
Lightning runs it in eval mode. Every `log_every_n_steps` the metrics that are losses by their name, else what
training_step returned, and the learning rate are reported.

`on_alert=attnd.stop_on("critical")` has the trainer stop after the batch, `attnd.checkpoint_on("critical")` has it save
`attnd-step-N.ckpt` in its `default_root_dir`.
"""
from __future__ import annotations

import contextlib
import importlib
import os
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional, Tuple

import attnd

from .session import Session


def _callback_classes() -> Tuple[Any, ...]:
    """Callback of `lightning` and of `pytorch_lightning`, whichever are installed: their trainers accept their own
    only, and there is no telling which one will be used."""
    found = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(name).Callback)
    if not found:
        raise ImportError("attnd.integrations.lightning needs lightning or pytorch_lightning")
    return tuple(found)


if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    Callback = type("Callback", _callback_classes(), {})

_NOT_TRAINING = ("val", "test", "eval", "predict")


def _losses(trainer: Any, validation: bool) -> Dict[str, Any]:
    """The metrics that are losses by their name, of training or of validation."""
    return {name: value for name, value in trainer.callback_metrics.items()
            if "loss" in name.lower() and name.lower().startswith(_NOT_TRAINING) == validation}


def _training(trainer: Any, module: Any, outputs: Any) -> Dict[str, Any]:
    """The losses that are logged, or the one that training_step returned, and the learning rate."""
    found = _losses(trainer, False)
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not found and loss is not None:  # of one batch, which Lightning divides by those that are accumulated
        found["loss"] = loss * trainer.accumulate_grad_batches if module.automatic_optimization else loss
    return {**found, **_learning_rate(trainer)}


def _learning_rate(trainer: Any) -> Dict[str, Any]:
    groups = trainer.optimizers[0].param_groups if trainer.optimizers else [{}]
    return {"learning_rate": groups[0]["lr"]} if "lr" in groups[0] else {}  # not every optimizer has one


def _settings(trainer: Any, module: Any) -> Dict[str, Any]:
    """The settings of the training, as far as Lightning knows them; the module's own hyperparameters first."""
    own = {name: value for name, value in dict(getattr(module, "hparams", None) or {}).items()
           if isinstance(value, (int, float, str))}
    return {**own, **_learning_rate(trainer), "model_type": type(module).__name__, "precision": trainer.precision,
            "batch_size": getattr(trainer.train_dataloader, "batch_size", None),
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val, "max_epochs": trainer.max_epochs}


class AttndCallback(Callback):
    """attnd.watch for a Lightning trainer: AttndCallback(job="gpt-small", every=50)."""

    def __init__(self, job: str, **options: Any):
        """`job` and `options` as for attnd.watch, whose `steps`, `first_step` and `first_epoch` come from the trainer.
        ValueError and TypeError for a bad job name, window, `on_alert` or `log_to` and for options that attnd.watch does
        not have, now; nothing is raised later."""
        super().__init__()
        self._session = Session(job, options)
        self._logged = 0  # the step at which the loss was last reported

    @property
    def watch(self) -> Optional[attnd.Watch]:
        """The attnd.Watch of the training under way."""
        return self._session.watch

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._session.begin(pl_module, trainer.global_step, trainer.current_epoch, rank=trainer.global_rank,
                            world=trainer.world_size, settings=lambda: _settings(trainer, pl_module))
        self._logged = trainer.global_step

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._session.reached(
            trainer.global_step, stop=lambda: setattr(trainer, "should_stop", True),
            save=lambda: trainer.save_checkpoint(os.path.join(trainer.default_root_dir, f"attnd-step-{trainer.global_step}.ckpt")))
        every = trainer.log_every_n_steps
        if trainer.is_global_zero and every and trainer.global_step // every > self._logged // every:
            self._session.log(lambda: _training(trainer, pl_module, outputs), trainer.global_step)
            self._logged = trainer.global_step

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero and not trainer.sanity_checking:
            self._session.log(lambda: _losses(trainer, True), trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._session.epoch_end()

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self._session.end()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._session.end(exception)

    teardown = on_train_end
