# SPDX-License-Identifier: MIT
"""session: the common part of the callbacks: one watch per training, which counts as the trainer does.

The trainer's own numbers are the truth: it says which step and epoch it has reached, and the watch is brought there.
So a training that goes on from a checkpoint goes on counting, and messages carry the numbers of the trainer's logs.
"""
from __future__ import annotations

import contextlib
import inspect
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import attnd

from ..attach import watch
from ..base import wire
from ..base.arguments import check_options
from ..base.once import log
from ..model.induction import NoInduction
from ..results.alerts import Alert, CheckpointOn, StopTraining, check_acts
from ..results.trackers import Tracker, check_log_to
from ..sending.publisher import named_job

# The callback says itself what a step is and where the training stands.
_OURS = ("steps", "first_step", "first_epoch")


class Session:
    """The watch of one trainer, from begin() to end(), and again from the next begin().

    Called from the training thread. Only the constructor raises: ValueError and TypeError for a bad job name, window,
    on_alert or log_to, and for options that attnd.watch does not have or that are not the caller's. Any other failure is
    logged once, and the training continues without it.
    """

    def __init__(self, job: str, options: Dict[str, Any]):
        self.watch: Optional[attnd.Watch] = None
        self._job = named_job(job)
        self._options = options
        self._warned = False
        self._save: Optional[Callable[[], object]] = None  # has the trainer save a checkpoint, now
        self._stop: Optional[Callable[[], object]] = None  # has it stop
        for name in _OURS:
            if name in options:
                raise TypeError(f"{name}: the callback takes it from the trainer")
        known = inspect.signature(watch).parameters
        check_options(watch, {name: value for name, value in options.items() if name not in known})
        wire.check_window(options.get("window"))
        check_acts(self._acts(), options.get("endpoint"))
        with contextlib.suppress(ValueError):  # a run that the trainer begins later
            check_log_to(options.get("log_to"), options.get("endpoint"))

    def begin(self, model: Any, step: int, epoch: int, settings: Callable[[], Dict[str, Any]] = dict,
              log_to: Optional[Callable[[], List[Any]]] = None, **found: Any) -> None:
        """A training begins at `step` and `epoch`, both from 0. `found`: options of attnd.watch that the trainer
        knows, unless the user said otherwise; `settings` gives those of the training, and `log_to` the runs that the
        trainer reports to, where the user asked for that. It closes one that was open."""
        self.end()
        self._warned = False
        known: Dict[str, Any] = {}
        self._try("what the training was started with could not be read", lambda: known.update(settings()))
        self._warned = False
        trackers: List[Tracker] = []
        self._try("the trainer's own runs could not be found", lambda: trackers.extend(self._trackers(log_to)))
        self._warned = False
        self._try("the model could not be watched", lambda: self._open(model, step, epoch, known, found, trackers))

    def _open(self, model: Any, step: int, epoch: int, known: Dict[str, Any], found: Dict[str, Any],
              trackers: Sequence[Tracker]) -> None:
        settings = {**known, **(self._options.get("settings") or {})}
        options = {**found, **self._options, "settings": settings, "steps": "manual", "first_step": step, "first_epoch": epoch,
                   "on_alert": self._acts(), "log_to": trackers}
        try:
            self.watch = attnd.watch(model, self._job, **options)
        except NoInduction as refused:
            log.warning("job %s: %s; everything else is watched", self._job, refused)
            self.watch = attnd.watch(model, self._job, **{**options, "probe": None})

    def reached(self, step: int, save: Optional[Callable[[], object]] = None,
                stop: Optional[Callable[[], object]] = None) -> None:
        """So many optimizer steps are done, those before a checkpoint included. `save` has the trainer save a checkpoint,
        and `stop` has it end the training: functions of on_alert may ask for that."""
        self._save, self._stop = save, stop
        self._try("a step could not be counted", lambda: self._count(step))
        self._save = self._stop = None

    def _count(self, step: int) -> None:
        if self.watch is not None:
            for _ in range(step - self.watch.current_step):
                try:
                    self.watch.step()
                except StopTraining as why:
                    log.warning("job %s: training stops after step %d: %s", self._job, step, why)
                    if self._stop is not None:
                        self._stop()

    def _trackers(self, log_to: Optional[Callable[[], List[Any]]]) -> Sequence[Tracker]:
        """The trackers of log_to; the trainer's numbers are reported by its callback, not by them."""
        trackers = check_log_to(self._options.get("log_to") if log_to is None else log_to(), self._options.get("endpoint"))
        for tracker in trackers:
            tracker.reports = False
        return trackers

    def _acts(self) -> Any:
        """on_alert as it was given; checkpoints that nobody else saves are the trainer's."""
        given = self._options.get("on_alert")
        if given is None:
            return None
        method = weakref.WeakMethod(self._checkpoint)  # a training that failed is not kept by the thread that hears alerts

        def save(alert: Alert) -> None:
            checkpoint = method()
            if checkpoint is not None:
                checkpoint(alert)

        return [CheckpointOn(act.severity, save) if isinstance(act, CheckpointOn) and act.save is None else act
                for act in (given if isinstance(given, (tuple, list)) else [given])]

    def _checkpoint(self, alert: Alert) -> None:
        save, self._save = self._save, None  # one for all alerts of a step
        if save is not None:
            log.warning("job %s: the trainer saves a checkpoint: %s: %s", self._job, alert["rule"], alert["message"])
            save()

    def log(self, values: Callable[[], Mapping[str, Any]], step: int) -> None:
        """Reports what `values` gives, at so many optimizer steps."""
        watch = self.watch
        if watch is not None:
            self._try("what the trainer logs could not be reported", lambda: watch.log(values(), step=step))

    def epoch_end(self) -> None:
        """An epoch is done."""
        self._try("an epoch could not be ended", self.watch.epoch_end if self.watch else None)

    def end(self, error: Optional[BaseException] = None) -> None:
        """The training is over, or has failed with `error`. Idempotent."""
        ended, self.watch = self.watch, None
        self._try("the watch could not be closed", (lambda: ended.close(error)) if ended else None)

    def skip(self, why: str) -> None:
        """This training is not watched; says so."""
        log.warning("job %s: not watched: %s", self._job, why)

    def _try(self, what: str, do: Optional[Callable[[], None]]) -> None:
        try:
            if do is not None:
                do()
        except Exception:
            if not self._warned:
                self._warned = True
                log.warning("job %s: %s; training goes on, further failures are not logged", self._job, what,
                            exc_info=True)

    def __getstate__(self) -> Dict[str, Any]:
        """Copied or sent to another process a session is one that has not begun: sockets cannot go along."""
        return {**self.__dict__, "watch": None, "_save": None, "_stop": None}
