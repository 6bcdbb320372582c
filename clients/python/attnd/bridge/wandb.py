# SPDX-License-Identifier: MIT
"""wandb: a Weights & Biases run per attnd run, whose id is the attnd run's digits, so that it is resumed.

Numbers are logged with `attnd/step`, the run's own step, which W&B is told to draw them over: its own counter would
drop whatever comes for an earlier step. DIRECTORY/wandb/attnd-<project>-<run>.json says what has been forwarded.
"""
from __future__ import annotations

import os
from typing import Any, Dict, Optional

from ..base.local import version_order
from .items import Item, Ledger, Note, Picture, Run, Scalars
from .sink import MissingPackage, Sink, need, read_ledger, write_ledger

STEP = "attnd/step"
EPOCH = "attnd/epoch"
_LEVELS = {"info": "INFO", "warning": "WARN", "critical": "ERROR"}


class RunSink(Sink):
    """A run of the `module` per attnd run, by the calls that W&B and Trackio have in common.

    directory  where the ledgers are, DIRECTORY/attnd-<project>-<run>.json
    run        instead of runs of its own: the caller's
    """

    def __init__(self, module: Any, project: str, directory: str, run: Any):
        self._module, self._project, self._ledgers_at = module, project, directory
        self._given = run
        self._runs: Dict[Run, Any] = {}
        self._lines: Dict[Run, int] = {}  # written, of runs of our own
        super().__init__()

    def recall(self, run: Run) -> Ledger:
        if self._given is not None:
            return super().recall(run)
        ledger = read_ledger(self._ledger_path(run))
        self._lines[run] = ledger.written
        return ledger

    def begin(self, run: Run) -> None:
        self._runs[run] = self._given if self._given is not None else self._init(run)

    def _init(self, run: Run) -> Any:
        """The module's run, begun or resumed."""
        raise NotImplementedError

    def write(self, item: Item) -> None:
        if isinstance(item, Scalars):
            self._log(item, dict(item.values))
        elif isinstance(item, Picture):
            self._log(item, {item.name: self._module.Image(item.pixels, caption=f"step {item.step}")})
        elif isinstance(item, Note):
            self._log(item, {item.name: item.text})
            if item.result.get("state") == "firing":
                level = getattr(self._module.AlertLevel, _LEVELS.get(str(item.result.get("severity")), "WARN"))
                self._runs[item.run].alert(title=f"{item.run.job}: {item.result.get('rule')}", text=item.text, level=level)

    def _log(self, item: Item, values: Dict[str, Any]) -> None:
        """Logs at the item's step."""
        raise NotImplementedError

    def commit(self, run: Run, ledger: Ledger) -> None:
        # A process or thread of the module's writes what log() hands it; there is nothing to wait for but the end of the run.
        if self._given is None:
            write_ledger(self._ledger_path(run), ledger)

    def end(self, run: Run, final: bool) -> None:
        logged = self._runs.pop(run)
        if self._given is None:
            logged.finish()

    def _ledger_path(self, run: Run) -> str:
        return os.path.join(self._ledgers_at, f"attnd-{self._project}-{run.run}.json")


class WandbSink(RunSink):
    """project    default "attnd"
    entity     team or user
    directory  where W&B keeps its files; default $WANDB_DIR, else the current directory
    mode       "online", "offline", "disabled"; default $WANDB_MODE
    run        instead of all these: a run of yours, which every attnd run goes to and which stays open; what it got
               is then remembered only as long as this sink lives

    MissingPackage when wandb cannot be imported or is older than 0.20: several runs at once are younger.
    """

    kind = "wandb"

    def __init__(self, project: str = "attnd", entity: Optional[str] = None, directory: Optional[str] = None,
                 mode: Optional[str] = None, run: Any = None):
        wandb = need("wandb", "'wandb>=0.20'", "the wandb bridge")
        if version_order(wandb.__version__) < (0, 20):
            raise MissingPackage(f"the wandb bridge needs wandb 0.20 or newer, this is {wandb.__version__}: "
                                 "pip install -U wandb")
        self._entity, self._mode = entity, mode
        self._directory = directory or os.environ.get("WANDB_DIR") or "."
        super().__init__(wandb, project, os.path.join(self._directory, "wandb"), run)

    def begin(self, run: Run) -> None:
        super().begin(run)
        self._runs[run].define_metric(STEP, hidden=True)
        self._runs[run].define_metric("attn/*", step_metric=STEP)

    def _init(self, run: Run) -> Any:
        os.makedirs(self._directory, exist_ok=True)
        return self._module.init(
            project=self._project, entity=self._entity, dir=self._directory, mode=self._mode, id=run.run,
            name=f"{run.job}-{run.short}", group=run.job, resume="allow", reinit="create_new",
            config={"attnd": {"job": run.job, "run": run.run}},
            settings=self._module.Settings(console="off", silent=True, x_disable_stats=True, disable_git=True))

    def _log(self, item: Item, values: Dict[str, Any]) -> None:
        """A line of W&B's. Offline nobody tells W&B how many lines an earlier bridge has written."""
        logged = self._runs[item.run]
        number = None
        if self._given is None and logged.offline:
            number = self._lines[item.run]
            self._lines[item.run] = number + 1
        logged.log({**values, STEP: item.step, EPOCH: item.epoch}, step=number)
