# SPDX-License-Identifier: MIT
"""transformers: a callback for the Trainer of Hugging Face transformers.

    trainer = transformers.Trainer(model, arguments, callbacks=[AttndCallback(job="gpt-small")], ...)

Steps are `state.global_step` (optimizer steps, whatever the accumulation of gradients); both steps and epochs go on
where a checkpoint left off. Evaluation is not captured: Trainer runs it in eval mode. All numbers that Trainer logs are
reported (`logging_steps`): the loss, the learning rate, those of evaluations, rewards, your own.

`on_alert=attnd.stop_on("critical")` has Trainer stop after the step, `attnd.checkpoint_on("critical")` has it save a
checkpoint. `log_to="report_to"` writes into the runs that Trainer reports to (its `report_to`): W&B, TensorBoard, MLflow
and Trackio.

Trainer tells nobody when a training fails. The watch then ends with the process, with the next training, or here:

    with AttndCallback(job="gpt-small") as callback:
        transformers.Trainer(..., callbacks=[callback]).train()
"""
from __future__ import annotations

import contextlib
import importlib
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence

from transformers import TrainerCallback

import attnd

from ..results.trackers import Tracker, check_log_to
from ..sending import scalars
from .session import Session

# state.epoch is a sum of fractions.
_ROUNDING = 1e-6
_SETTINGS = ("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm",
             "optim", "per_device_train_batch_size", "gradient_accumulation_steps", "seed")


def _numbers(logs: Mapping[str, Any]) -> Dict[str, Any]:
    """The numbers among what Trainer logs, without the epoch, which is a position."""
    return {name: value for name, value in scalars.numbers(logs).items() if name != "epoch"}


def _settings(args: Any, model: Any) -> Dict[str, Any]:
    """The settings of the training, as far as Trainer says them."""
    found = {name: getattr(args, name, None) for name in _SETTINGS}
    found["precision"] = "bf16" if getattr(args, "bf16", False) else "fp16" if getattr(args, "fp16", False) else "fp32"
    found["model_type"] = getattr(getattr(model, "config", None), "model_type", None)
    return found


def _runs(args: Any, callbacks: Sequence[Any]) -> List[Tracker]:
    """The runs that `report_to` names, as `log_to` takes them. Trainer's callbacks come before the user's, so the runs have
    begun, unless the tool is switched off."""
    writer = next((one.tb_writer for one in callbacks if getattr(one, "tb_writer", None) is not None), None)
    found = list(check_log_to(writer, None))
    for name in args.report_to:
        if name in ("wandb", "mlflow", "trackio"):
            with contextlib.suppress(ValueError):  # no run of it has begun
                found += check_log_to(importlib.import_module(name), None)
    return found


def _callbacks_with(callback: TrainerCallback) -> Sequence[Any]:
    """All callbacks of the trainer that calls this one now: it hands them to none."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        callbacks = getattr(frame.f_locals.get("self"), "callbacks", None)
        if isinstance(callbacks, list) and any(one is callback for one in callbacks):
            return callbacks
        frame = frame.f_back
    return ()


class AttndCallback(TrainerCallback):
    """attnd.watch for a Trainer: AttndCallback(job="gpt-small", every=50). Also a context manager, see above."""

    def __init__(self, job: str, **options: Any):
        """`job` and `options` as for attnd.watch, whose `steps`, `first_step` and `first_epoch` come from the trainer.
        `log_to` may be "report_to" as well: the runs that the trainer reports to. ValueError and TypeError for
        a bad job name, window, `on_alert` or `log_to` and for options that attnd.watch does not have, now; nothing is raised
        later."""
        self._as_trainer = options.get("log_to") == "report_to"
        self._session = Session(job, {name: value for name, value in options.items() if name != "log_to" or not self._as_trainer})

    @property
    def watch(self) -> Optional[attnd.Watch]:
        """The attnd.Watch of the training under way."""
        return self._session.watch

    def close(self, error: Optional[BaseException] = None) -> None:
        """Ends the watch of a training that failed with `error`. Idempotent."""
        self._session.end(error)

    def __enter__(self) -> AttndCallback:
        return self

    def __exit__(self, kind: Any = None, error: Optional[BaseException] = None, *_: Any) -> None:
        self.close(error)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if args.n_gpu > 1:
            self._session.skip("torch.nn.DataParallel over several devices; start one process for each (torchrun)")
            return
        log_to = (lambda: _runs(args, _callbacks_with(self))) if self._as_trainer and state.is_world_process_zero else None
        self._session.begin(model, state.global_step, int((state.epoch or 0.0) + _ROUNDING), lambda: _settings(args, model), log_to,
                            rank=args.process_index, world=args.world_size)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._session.reached(state.global_step, save=lambda: setattr(control, "should_save", True),
                              stop=lambda: setattr(control, "should_training_stop", True))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            self._session.log(lambda: _numbers(logs or {}), state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._session.epoch_end()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._session.end()
