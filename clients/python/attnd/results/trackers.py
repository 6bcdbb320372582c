# SPDX-License-Identifier: MIT
"""trackers: the run that a training already has in W&B, TensorBoard, MLflow or Trackio, `attnd.watch(..., log_to=X)`.

A tracker writes the few numbers of a window (digest.py) into that run, and hears which numbers the training logs there.
Everything here is for the training's thread, as those tools are not made for several. An exception of a tool is told once,
and that tool gets nothing more.

W&B has one row at a time, and what comes for a row that is done is dropped. So a window goes into the row that the training
writes next (`commit=False`), with `attnd/step` to draw it over. A second one waits for the row after that. At the end of the
watch each that waits gets a row of its own, or, where the training numbers its rows itself, the newest takes the one place.
MLflow writes in a thread of its own (`synchronous=False`), as its server may be slow.
"""
from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, Optional, Sequence, Tuple, Type

from ..base.once import log
from ..sending import scalars
from .digest import Line

PREFIX = "attnd/"
WAITING_MAX = 100  # windows that a tool has not taken yet; older ones make room
Hear = Callable[[Mapping[str, Any]], None]  # told the numbers that the training logs


class Tracker:
    """A run in one tool, or whatever writes to it: `target`. Exceptions of the tool go through."""

    kind = ""  # for people
    reports = True  # whether the numbers that the training logs there are reported: trainers do it themselves

    def __init__(self, target: Any):
        self.target = target
        self._undo: List[Callable[[], None]] = []

    @classmethod
    def of(cls, given: Any) -> Optional["Tracker"]:
        """The tracker of an object of this kind; None: it is of another. ValueError when no run has begun."""
        raise NotImplementedError

    def begin(self) -> None:
        """Prepares the run."""

    def write(self, line: Line) -> bool:
        """Writes the numbers of a window; False: not now."""
        raise NotImplementedError

    def flush(self) -> None:
        """Has everything written to its files."""

    def write_last(self, lines: Sequence[Line]) -> None:
        """Writes windows that could not be written until now, when nothing more of attnd comes."""

    def say(self, name: str, text: str, step: int) -> None:
        """Writes a text where this tool has a place for one."""
        raise NotImplementedError

    def settings(self) -> Mapping[str, Any]:
        """The settings that the run was started with, as far as the tool knows them."""
        return {}

    def follow(self, hear: Hear) -> None:
        """From now on `hear` is called with the numbers that the training logs, on whatever thread does."""

    def unfollow(self) -> None:
        """Leaves the tool as it was. Idempotent."""
        while self._undo:
            self._undo.pop()()

    def _after(self, owner: Any, name: str, then: Callable[..., None]) -> None:
        """Calls `then` with the arguments of each call of a function of the tool, after it has returned."""
        function, own = getattr(owner, name), name in vars(owner)

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            try:
                then(*args, **kwargs)
            except Exception:  # the call was right, and so is the training
                log.debug("%s of %s could not be followed", name, self.kind, exc_info=True)
            return result

        def undo() -> None:
            if vars(owner).get(name) is called:  # else somebody else follows as well
                if own:
                    setattr(owner, name, function)
                else:
                    delattr(owner, name)

        setattr(owner, name, called)
        self._undo.append(undo)


class TensorBoard(Tracker):
    """A SummaryWriter, of torch.utils.tensorboard or tensorboardX."""

    kind = "TensorBoard"

    @classmethod
    def of(cls, given: Any) -> Optional[Tracker]:
        return cls(given) if _has(given, "add_scalar", "add_text") else None

    def write(self, line: Line) -> bool:
        for name, value in line.values.items():
            self.target.add_scalar(PREFIX + name, value, global_step=line.step, walltime=line.time_s)
        return True

    def flush(self) -> None:
        self.target.flush()

    def say(self, name: str, text: str, step: int) -> None:
        self.target.add_text(PREFIX + name, text, global_step=step)

    def follow(self, hear: Hear) -> None:
        self._after(self.target, "add_scalar", lambda tag, scalar_value, *_, **more: hear({tag: scalar_value}))


class Wandb(Tracker):
    """A run of W&B, or the module of which one has begun."""

    kind = "W&B"
    _STEP = PREFIX + "step"

    def __init__(self, target: Any):
        super().__init__(target)
        self._row: Optional[int] = None  # that the training writes, where it says which
        self._is_taken = False  # a window is in it

    @classmethod
    def of(cls, given: Any) -> Optional[Tracker]:
        if not _has(given, "log", "define_metric"):
            return None
        run = given.run if hasattr(given, "init") else given
        if run is None:
            raise ValueError("log_to: W&B has no run yet: call wandb.init() before attnd.watch")
        return cls(run)

    def begin(self) -> None:
        self.target.define_metric(self._STEP, hidden=True)
        self.target.define_metric(PREFIX + "*", step_metric=self._STEP)
        self._follow(None)

    def write(self, line: Line) -> bool:
        if self._is_taken:
            return False
        self.target.log({**{PREFIX + name: value for name, value in line.values.items()}, self._STEP: line.step}, commit=False)
        self._is_taken = True
        return True

    def write_last(self, lines: Sequence[Line]) -> None:
        for line in lines if self._row is None else lines[-1:]:
            if self._row is None:  # rows are counted: one more does no harm
                self.target.log({}, commit=True)
            self._is_taken = False
            self.write(line)

    def say(self, name: str, text: str, step: int) -> None:
        self.target.config.update({PREFIX + name: text}, allow_val_change=True)

    def settings(self) -> Mapping[str, Any]:
        return _own(self.target.config)

    def follow(self, hear: Hear) -> None:
        self.unfollow()
        self._follow(hear)

    def _follow(self, hear: Optional[Hear]) -> None:
        """Notices when a row is done as well. wandb.log is a function of its own."""
        import wandb

        def logged(data: Mapping[str, Any], step: Optional[int] = None, commit: Optional[bool] = None, *_: Any, **more: Any) -> None:
            if self._STEP in data:  # by attnd
                return
            if commit or (commit is None and step is None) or (step is not None and step != self._row):
                self._is_taken = False
            self._row = step if step is not None else self._row
            if hear is not None:
                hear(data)

        is_global = getattr(wandb, "run", None) is self.target and getattr(wandb.log, "__self__", None) is self.target
        self._after(self.target, "log", logged)
        if is_global:
            self._after(wandb, "log", logged)


class Mlflow(Tracker):
    """A run of MLflow, or the module of which one is active."""

    kind = "MLflow"

    def __init__(self, target: Any):
        super().__init__(target)
        import mlflow
        self._mlflow: Any = mlflow
        self._client = mlflow.MlflowClient()
        self._texts: Dict[str, str] = {}

    @classmethod
    def of(cls, given: Any) -> Optional[Tracker]:
        if _has(given, "log_metrics", "active_run"):
            given = given.active_run()
            if given is None:
                raise ValueError("log_to: MLflow has no active run yet: call mlflow.start_run() before attnd.watch")
        return cls(given) if hasattr(getattr(given, "info", None), "run_id") else None

    def write(self, line: Line) -> bool:
        metrics = [self._mlflow.entities.Metric(PREFIX + name, value, int(1000 * line.time_s), line.step)
                   for name, value in line.values.items()]
        self._client.log_batch(self.target.info.run_id, metrics=metrics, synchronous=False)
        return True

    def say(self, name: str, text: str, step: int) -> None:
        """MLflow's threads write tags in any order, so one that changes is written at the end; the page does not."""
        self._texts[name] = text
        if name == "page":
            self._write_tags({name: text})

    def flush(self) -> None:
        if self._texts:
            self._write_tags(self._texts)

    def _write_tags(self, texts: Mapping[str, str]) -> None:
        tags = [self._mlflow.entities.RunTag(PREFIX + name, text) for name, text in texts.items()]
        self._client.log_batch(self.target.info.run_id, tags=tags, synchronous=False)

    def settings(self) -> Mapping[str, Any]:
        return dict(self._client.get_run(self.target.info.run_id).data.params)

    def follow(self, hear: Hear) -> None:
        self._after(self._mlflow, "log_metric", lambda key, value, *_, **more: hear({key: value}))
        self._after(self._mlflow, "log_metrics", lambda metrics, *_, **more: hear(metrics))


class Trackio(Tracker):
    """A run of Trackio, or the module of which one has begun."""

    kind = "Trackio"

    @classmethod
    def of(cls, given: Any) -> Optional[Tracker]:
        if getattr(given, "__name__", None) == "trackio":
            given = given.context_vars.current_run.get()
            if given is None:
                raise ValueError("log_to: Trackio has no run yet: call trackio.init() before attnd.watch")
        return cls(given) if _has(given, "log", "finish") and hasattr(given, "project") else None

    def write(self, line: Line) -> bool:
        texts = {PREFIX + name: text for name, text in line.texts.items()}
        if any(self.target.config.get(name) != text for name, text in texts.items()):
            self.target.config.update(texts)
            for row in list(getattr(self.target, "_queued_logs", ())):  # of several that wait Trackio takes the first one's
                row["config"] = None
            self.target._config_logged = False  # else it goes with a run's first row only
        # A step that is given moves the counter of those that are not, which are the training's.
        counted = getattr(self.target, "_next_step", None)
        self.target.log({PREFIX + name: value for name, value in line.values.items()}, step=line.step)
        if counted is not None:
            self.target._next_step = counted
        return True

    def say(self, name: str, text: str, step: int) -> None:
        """Goes with the row of its window: see write()."""

    def settings(self) -> Mapping[str, Any]:
        return _own(self.target.config)

    def follow(self, hear: Hear) -> None:
        self._after(self.target, "log", lambda metrics, *_, **more: hear(metrics))


KINDS: Tuple[Type[Tracker], ...] = (TensorBoard, Wandb, Mlflow, Trackio)


def _own(config: Any) -> Mapping[str, Any]:
    """A run's config without the names of the tool and of attnd."""
    return {name: value for name, value in dict(config).items() if not name.startswith(("_", PREFIX))}


def _has(given: Any, *functions: str) -> bool:
    return all(callable(getattr(given, name, None)) for name in functions)


def check_log_to(given: Any, endpoint: Optional[str]) -> Tuple[Tracker, ...]:
    """The trackers of `log_to`, given as one object or several. TypeError for an object of another kind, ValueError when
    no run of its tool has begun."""
    several = given if isinstance(given, (tuple, list)) else () if given is None else (given,)
    if several and endpoint is not None:
        raise ValueError("log_to: needs address=, not endpoint=: windows come from another socket of attnd")
    trackers: List[Tracker] = []
    for each in several:
        tracker = each if isinstance(each, Tracker) else next(filter(None, (kind.of(each) for kind in KINDS)), None)
        if tracker is None:
            raise TypeError(f"log_to = {each!r:.80}: must be a run of W&B (wandb.run), a SummaryWriter of TensorBoard, mlflow or a "
                            "run of it, or trackio or a run of it; or a list of them; in AttndCallback of transformers also "
                            "\"report_to\"")
        trackers.append(tracker)
    return tuple(trackers)


class RunLog:
    """The lines that wait for the trackers of one training. put() is for any thread, the rest is the training's."""

    def __init__(self, job: str, trackers: Sequence[Tracker]):
        self._job = job
        self._waiting: Dict[Tracker, Deque[Line]] = {tracker: deque(maxlen=WAITING_MAX) for tracker in trackers}
        self._thread = threading.current_thread()
        self._said: Dict[Tuple[Tracker, str], str] = {}
        for tracker in trackers:
            self._try(tracker, tracker.begin)

    def settings(self) -> Dict[str, Any]:
        """The settings that the runs were started with, as far as their tools know them."""
        found: Dict[str, Any] = {}
        for tracker in list(self._waiting):
            self._try(tracker, lambda: found.update(tracker.settings()))
        return found

    def follow(self, report: "weakref.WeakMethod[Callable[..., None]]") -> None:
        """From now on `report` is called with the numbers that the training logs there."""
        def hear(values: Mapping[str, Any]) -> None:
            own = {name: value for name, value in scalars.numbers(values).items() if not name.startswith(PREFIX)}
            call = report()
            if own and call is not None and threading.current_thread() is self._thread:
                call(own)

        for tracker in list(self._waiting):
            if tracker.reports:
                self._try(tracker, lambda: tracker.follow(hear))

    @property
    def is_over(self) -> bool:
        """Whether every tool has failed."""
        return not self._waiting

    def put(self, line: Line) -> None:
        """Has a window written when the training is between two steps."""
        for waiting in list(self._waiting.values()):
            waiting.append(line)

    def write(self, last: bool = False) -> None:
        """Writes what is there; `last`: nothing more will be. Raises nothing."""
        for tracker, waiting in list(self._waiting.items()):
            if waiting:
                self._try(tracker, lambda: self._write(tracker, waiting))
            if last:
                self._try(tracker, lambda: self._write_last(tracker, waiting))

    def _write(self, tracker: Tracker, waiting: Deque[Line]) -> None:
        while waiting and tracker.write(waiting[0]):
            self._say(tracker, waiting.popleft())

    def _say(self, tracker: Tracker, line: Line) -> None:
        """Writes the texts that are new."""
        for name, text in line.texts.items():
            if self._said.get((tracker, name)) != text:
                self._said[tracker, name] = text
                tracker.say(name, text, line.step)

    def _write_last(self, tracker: Tracker, waiting: Deque[Line]) -> None:
        if waiting:
            tracker.write_last(list(waiting))
            self._say(tracker, waiting[-1])
        tracker.flush()

    def close(self) -> None:
        """Leaves the tools as they were. Idempotent."""
        for tracker in self._waiting:
            tracker.unfollow()

    def _try(self, tracker: Tracker, do: Callable[[], object]) -> None:
        try:
            do()
        except Exception:
            self._waiting.pop(tracker, None)
            tracker.unfollow()
            log.warning("job %s: log_to: %s takes nothing more of attnd, since it failed; training goes on", self._job, tracker.kind,
                        exc_info=True)
