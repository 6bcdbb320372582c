# SPDX-License-Identifier: MIT
"""tensorboard: event files under DIRECTORY/<job>/<first 8 digits of the run>, one directory per run.

The directory also has attnd-bridge.json, which says what has been forwarded.
"""
from __future__ import annotations

import os
from typing import Any, Dict, Optional

from .items import Item, Ledger, Note, Picture, Run, Scalars
from .sink import MissingPackage, Sink, need, read_ledger, write_ledger

LEDGER = "attnd-bridge.json"


class TensorBoardSink(Sink):
    """directory  where TensorBoard is pointed to
    writer     instead of it: a SummaryWriter of yours, which every run goes to and which stays open; what it got
               is then remembered only as long as this sink lives

    MissingPackage when neither torch.utils.tensorboard nor tensorboardX can be imported, or Pillow cannot.
    """

    kind = "tensorboard"

    def __init__(self, directory: Optional[str] = None, writer: Any = None):
        if (directory is None) == (writer is None):
            raise ValueError("TensorBoardSink: give a directory or a writer")
        self._directory = directory
        self._make = _summary_writer() if writer is None else None
        need("PIL", "pillow", "the tensorboard bridge")
        self._given = writer
        super().__init__()
        self._writers: Dict[Run, Any] = {}

    def path(self, run: Run) -> str:
        """The run's directory."""
        return os.path.join(self._directory or "", run.job, run.short)

    def recall(self, run: Run) -> Ledger:
        return super().recall(run) if self._make is None else read_ledger(os.path.join(self.path(run), LEDGER))

    def begin(self, run: Run) -> None:
        self._writers[run] = self._given if self._make is None else self._make(self.path(run))

    def write(self, item: Item) -> None:
        writer = self._writers[item.run]
        when = {"global_step": item.step, "walltime": item.time_s}
        if isinstance(item, Scalars):
            for name, value in item.values.items():
                writer.add_scalar(name, value, **when)
        elif isinstance(item, Picture):
            writer.add_image(item.name, item.pixels, dataformats="HWC", **when)
        elif isinstance(item, Note):
            writer.add_text(item.name, item.text, **when)

    def commit(self, run: Run, ledger: Ledger) -> None:
        self._writers[run].flush()
        if self._make is not None:
            write_ledger(os.path.join(self.path(run), LEDGER), ledger)

    def end(self, run: Run, final: bool) -> None:
        writer = self._writers.pop(run)
        if self._make is not None:
            writer.close()


def _summary_writer() -> Any:
    """torch's, else tensorboardX's."""
    for module in ("torch.utils.tensorboard", "tensorboardX"):
        try:
            return need(module, "", "").SummaryWriter
        except MissingPackage:
            continue
    raise MissingPackage("the tensorboard bridge needs tensorboard beside torch, or tensorboardX: pip install "
                         "tensorboard or tensorboardX")
