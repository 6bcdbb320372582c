# SPDX-License-Identifier: MIT
"""trackio: a Trackio run per attnd run, named after it, so that it is resumed; the calls are those of W&B.

The axis is the run's own step: Trackio takes steps in any order. The ledger of what was forwarded is beside its
data, in $TRACKIO_DIR/attnd-<project>-<run>.json.
"""
from __future__ import annotations

import contextvars
import inspect
from typing import Any, Dict, Optional

from .items import Item, Run
from .sink import MissingPackage, need
from .wandb import EPOCH, RunSink


class TrackioSink(RunSink):
    """project  default "attnd"
    space    the Hugging Face Space to log to; default $TRACKIO_SPACE_ID, else files in $TRACKIO_DIR
    run      instead of these: a run of yours, which every attnd run goes to and which stays open; what it got is then
             remembered only as long as this sink lives

    MissingPackage when trackio cannot be imported or cannot resume a run.
    """

    kind = "trackio"

    def __init__(self, project: str = "attnd", space: Optional[str] = None, run: Any = None):
        trackio = need("trackio", "trackio", "the trackio bridge")
        self._parameters = inspect.signature(trackio.init).parameters
        if not {"resume", "group"} <= set(self._parameters):
            raise MissingPackage(f"the trackio bridge needs a trackio that resumes runs, this is {trackio.__version__}: "
                                 "pip install -U trackio")
        self._space = space
        super().__init__(trackio, project, str(need("trackio.utils", "trackio", "the trackio bridge").TRACKIO_DIR), run)

    def _init(self, run: Run) -> Any:
        # Trackio's numbers of the machine are left out, as far as it takes such an option. It has one current run, which it
        # finishes when it begins another: in a context of its own there is none.
        quiet = {name: False for name in ("embed", "auto_log_gpu", "auto_log_cpu") if name in self._parameters}
        return contextvars.Context().run(
            self._module.init, project=self._project, name=f"{run.job}-{run.short}", group=run.job, space_id=self._space,
            config={"attnd": {"job": run.job, "run": run.run}}, resume="allow", **quiet)

    def _log(self, item: Item, values: Dict[str, Any]) -> None:
        self._runs[item.run].log({**values, EPOCH: item.epoch}, step=item.step)
