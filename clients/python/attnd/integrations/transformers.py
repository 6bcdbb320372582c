# SPDX-License-Identifier: MIT
"""transformers: a callback for the Trainer of Hugging Face transformers.

    trainer = transformers.Trainer(model, arguments, callbacks=[AttndCallback(job="gpt-small")], ...)

Steps are `state.global_step` (optimizer steps, whatever the accumulation of gradients); both steps and epochs go on
where a checkpoint left off. Evaluation is not captured: Trainer runs it in eval mode.

Trainer tells nobody when a training fails. The watch then ends with the process, with the next training, or here:

    with AttndCallback(job="gpt-small") as callback:
        transformers.Trainer(..., callbacks=[callback]).train()
"""
from __future__ import annotations

from typing import Any, Optional

from transformers import TrainerCallback

import attnd

from .session import Session

# state.epoch is a sum of fractions.
_ROUNDING = 1e-6


class AttndCallback(TrainerCallback):
    """attnd.watch for a Trainer: AttndCallback(job="gpt-small", every=50). Also a context manager, see above."""

    def __init__(self, job: str, **options: Any):
        """`job` and `options` as for attnd.watch, whose `steps`, `first_step` and `first_epoch` come from the trainer.
        ValueError for a bad job name, now; nothing is raised later."""
        self._session = Session(job, options)

    @property
    def watch(self) -> Optional[attnd.Watch]:
        """The attnd.Watch of the training under way."""
        return self._session.watch

    def close(self) -> None:
        """Ends the watch of a training that failed. Idempotent."""
        self._session.end()

    def __enter__(self) -> AttndCallback:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if args.n_gpu > 1:
            self._session.skip("torch.nn.DataParallel over several devices; start one process for each (torchrun)")
            return
        self._session.begin(model, state.global_step, int((state.epoch or 0.0) + _ROUNDING),
                            rank=args.process_index, world=args.world_size)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._session.reached(state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._session.epoch_end()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._session.end()
