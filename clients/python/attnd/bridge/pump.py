# SPDX-License-Identifier: MIT
"""pump: reads what the daemon publishes, makes items of it and hands them to the sinks' threads.

Two places decide what is new: Subscriber skips snapshots of what this bridge has had, a sink's ledger whatever an
earlier bridge has written. So nothing here needs to know why something comes again: a restart of the bridge, of the
daemon, of both.
"""
from __future__ import annotations

import logging
import re
import threading
import time
from collections import OrderedDict, deque
from fnmatch import fnmatchcase
from typing import Any, Callable, Deque, Dict, Iterable, List, Optional, Sequence, Set, Union

from ..base import endings, flat, wire
from ..base.once import log
from ..results.control import Control, ControlError
from ..results.past import LIMIT_MAX
from ..results.subscriber import Subscriber
from . import past
from .items import End, Item, Note, Run, Scalars
from .pictures import Pictures
from .selection import Selection
from .sink import Sink
from .worker import QUEUE_ITEMS, Worker

IDLE_S = 0.3  # after so much silence a picture does not wait for further layers; how soon a stop is noticed
ANSWER_S = 3.0  # for the daemon's answers, and the sinks' to what they have
PATIENCE_S = 30.0  # that the past waits for a sink to catch up
HIGH_WATER = 20000  # results that may wait while the past is told
RUNS_KNOWN_MAX = 1024
_NOT_OF_THIS_PROTOCOL = (LookupError, TypeError, ValueError, AttributeError)  # what comes of reading such a thing


class Bridge:
    """Forwards what the daemon finds out to one sink or several.

        with attnd.bridge.Bridge(TensorBoardSink("runs")):      # a thread beside the training
            train()
        attnd.bridge.Bridge(TensorBoardSink("runs")).run()      # or here, until it is interrupted

    address    the daemon: a directory or "tcp://host:port" (see address.py); default $ATTND_ADDRESS, else the one that
               answers on this machine, now or later
    endpoint   exactly the socket where it publishes, instead of an address
    control    exactly the one where it answers, "" for that of the address: asked for the past; None:
               nobody is
    jobs       names, or patterns as a shell matches file names ("run-*"); () = all
    topics     instead of jobs: prefixes as for Subscriber
    selection  what goes
    window     "1 epoch", "100 steps every 10": the windows that go; default: the daemon's primary ones
    live       forward the numbers of single messages too, as `<metric>.live`
    past       tell a sink first what of a run it has not and the history has
    queue_items  per sink, results that may wait for it; when there are more they are dropped and counted

    Sinks belong to the bridge, and close() closes them. A sink that fails or hangs stops no other: it is said once, and
    counted. ValueError for bad arguments. Threads: any for stats() and close(), else one.
    """

    def __init__(self, sinks: Union[Sink, Sequence[Sink]], endpoint: Optional[str] = None, *,
                 address: Any = None, control: Optional[str] = "", jobs: Sequence[str] = (),
                 topics: Optional[Sequence[str]] = None, selection: Optional[Selection] = None,
                 window: Optional[str] = None, live: bool = False, past: bool = True, queue_items: int = QUEUE_ITEMS):
        jobs = (jobs,) if isinstance(jobs, str) else tuple(jobs)
        sinks = (sinks,) if isinstance(sinks, Sink) else tuple(sinks)
        if not sinks:
            raise ValueError("a bridge needs a sink")
        self._jobs = jobs
        self._selection = selection or Selection()
        self._subscriber = Subscriber(endpoint, topics or _topics(jobs, live), high_water=HIGH_WATER,
                                      address=None if endpoint else address)
        self._control = None if control is None else Control(control or None, ANSWER_S,
                                                             address=None if control else address)
        self._window = checked_window(window)
        self._past = past
        self._pictures = Pictures(self._selection)
        self._known: "OrderedDict[Run, None]" = OrderedDict()
        self._ahead: Deque[Dict[str, Any]] = deque()  # read, not yet taken
        self._current: Optional[Dict[str, Any]] = None
        self._cut_short: Set[Run] = set()  # stopped in their past: what is newer would leave a hole for good
        self._alive: Set[Run] = set()
        self._began_ns = time.time_ns()
        self._ended = 0
        self._received = 0
        self._stop = threading.Event()
        self._done = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._takers: Dict[str, Callable[[Run, Dict[str, Any]], None]] = {
            "summary": self._summary, "live": self._live, "alert": self._alert, "job": self._job}
        self._workers = [Worker(sink, queue_items) for sink in sinks]

    # ------------------------------------------------------------------------------------ its life

    def start(self) -> "Bridge":
        """Runs in a thread until close()."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run_beside, name="attnd-bridge", daemon=True)
            self._thread.start()
        return self

    def _run_beside(self) -> None:
        try:
            self.run()
        except Exception:
            log.warning("the bridge ended: nothing is forwarded any more", exc_info=True)

    def run(self, until_end: bool = False) -> None:
        """Runs here: until stop(), until every sink is gone, or with `until_end` until the runs that it saw going on
        have ended. Then what has come is told; close() remains to be called."""
        if until_end:
            self._ask_alive()
        try:
            while not (self._stop.is_set() or all(worker.gone for worker in self._workers)):
                self._step(IDLE_S)
                if until_end and self._ended and not self._alive:
                    break
            deadline = time.monotonic() + ANSWER_S
            while time.monotonic() < deadline and self._step(0.05):
                pass
        finally:
            self._done.set()

    def _ask_alive(self) -> None:
        """The runs that go on now. Their ends come by subscription, if they come before their maps do."""
        try:
            jobs: List[Dict[str, Any]] = self._control.jobs() if self._control is not None else []
            self._alive.update(Run(str(job["job"]), str(job["run"])) for job in jobs
                               if job["state"] not in endings.OVER and self._wants(str(job["job"])))
        except (ControlError, TimeoutError, ConnectionError, *_NOT_OF_THIS_PROTOCOL) as error:
            log.warning("the daemon does not say which runs go on: %s", error)

    def stop(self) -> None:
        """Makes run() return soon. From any thread, and from a signal handler."""
        self._stop.set()

    def close(self, timeout: float = 10.0) -> None:
        """Ends: what has come is written and flushed, for at most `timeout` seconds; what is left then is dropped and
        counted. Idempotent."""
        deadline = time.monotonic() + timeout
        self.stop()
        if self._thread is not None:
            self._done.wait(timeout)
        for worker in self._workers:
            worker.begin_close()
        for worker in self._workers:
            worker.finish_close(deadline)
        if self._thread is None or self._done.is_set():
            self._subscriber.close()
            if self._control is not None:
                self._control.close()

    def __enter__(self) -> "Bridge":
        return self.start()

    def __exit__(self, *exc: Any) -> None:
        self.close()

    def wait(self, timeout: float) -> bool:
        """Waits until the runs that went on beside the bridge have ended and what came of them is with the sinks; False
        when that takes longer than `timeout` seconds. Then close() writes it."""
        deadline = time.monotonic() + timeout
        while not (self._ended and not self._alive):
            if time.monotonic() >= deadline or self._done.wait(0.05):
                return bool(self._ended and not self._alive)
        return True

    def stats(self) -> Dict[str, Any]:
        """`received` results, `malformed` messages, and per sink (`tensorboard`, a second one `tensorboard.2`) items
        `written`, `skipped`, `failed`, `dropped`, `waiting`: an item is a layer's window, a picture or an alert."""
        told: Dict[str, Any] = {"received": self._received, "malformed": self._subscriber.malformed}
        for worker in self._workers:
            name, number = worker.sink.kind, 2
            while name in told:
                name, number = f"{worker.sink.kind}.{number}", number + 1
            told[name] = worker.stats()
        return told

    # ------------------------------------------------------------------------------------- results

    def _step(self, timeout: float) -> bool:
        """Takes one result; False when none came."""
        result = self._ahead.popleft() if self._ahead else self._subscriber.next(timeout)
        self._current = result
        if result is None:
            self._offer(self._pictures.flush())
            return False
        self._received += 1
        try:
            self._take(result)
        except _NOT_OF_THIS_PROTOCOL as error:
            if not self._subscriber.malformed:
                log.warning("a result cannot be forwarded: %r; further ones are only counted", error)
            self._subscriber.malformed += 1
        return True

    def _wants(self, job: str) -> bool:
        return not self._jobs or any(fnmatchcase(job, pattern) for pattern in self._jobs)

    def _take(self, result: Dict[str, Any]) -> None:
        run = Run(str(result["job"]), str(result["run"]))
        wire.check_job(run.job)
        if not self._wants(run.job):
            return
        if run.run.strip("0123456789abcdef"):
            raise ValueError(f"run {run.run!r}")
        self._meet(run)
        if run in self._cut_short:
            return
        taker = self._takers.get(result["kind"])
        if taker is not None:
            taker(run, result)

    def _summary(self, run: Run, summary: Dict[str, Any], patience: float = 0.0) -> None:
        layer, window = flat.layer_name(summary), summary["window"]
        text = past.window_text(window)
        if "track" in summary if self._window is None else text != self._window:  # the primary windows have none
            return
        if not self._selection.wants_layer(layer) or not self._selection.wants_window(window):
            return
        position = (int(window["last"]), int(summary["step"]), int(not window["partial"]))
        self._offer((Scalars(run, f"{layer} {text}", position, summary["epoch"], summary["step"], summary["time_ns"],
                             self._selection.values(summary), {"window": window}),), patience)
        self._offer(self._pictures.add(run, summary, position), patience)

    def _live(self, run: Run, live: Dict[str, Any]) -> None:
        layer, rank = flat.layer_name(live), int(live["rank"])
        if self._selection.wants_layer(layer):
            position = (int(live["step"]), int(live["time_ns"]))
            self._offer((Scalars(run, f"{layer} live {rank}", position, live["epoch"], live["step"], live["time_ns"],
                                 self._selection.values(live), {"rank": rank}),))

    def _alert(self, run: Run, alert: Dict[str, Any], patience: float = 0.0) -> None:
        text = f"{alert['severity']}, {alert['state'].replace('_', ' ')}: {alert['message']}"
        self._offer((Note(run, "alert", (), alert["epoch"], alert["step"], alert["time_ns"],
                          f"attn/alerts/{alert['rule']}", text, alert),), patience)

    def _job(self, run: Run, job: Dict[str, Any]) -> None:
        if job["state"] not in endings.OVER:
            self._alive.add(run)
            return
        self._offer(self._pictures.flush(run))
        self._pictures.forget(run)
        self._offer((End(run, "", (), job["epoch"], job["step"], job["time_ns"]),))
        if job["time_ns"] >= self._began_ns:  # it went on beside this bridge, also when only its end was heard
            self._alive.add(run)
        self._over(run)

    def _over(self, run: Run) -> None:
        if run in self._alive:
            self._alive.discard(run)
            self._ended += 1

    def _offer(self, items: Iterable[Item], patience: float = 0.0) -> None:
        for item in items:
            for worker in self._workers:
                worker.offer(item, patience)

    # ------------------------------------------------------------------------ what the daemon answers

    def _meet(self, run: Run) -> None:
        """Tells the past of a run before the first thing that comes of it."""
        if run in self._known:
            return
        if len(self._known) >= RUNS_KNOWN_MAX:
            # The run met first of those that have ended; when none has, the first of all, which counts as ended.
            oldest = next((known for known in self._known if known not in self._alive), next(iter(self._known)))
            del self._known[oldest]
            self._over(oldest)
        self._known[run] = None
        if not self._past or self._control is None:
            return
        try:
            self._tell_past(run, self._control)
        except (ControlError, TimeoutError, ConnectionError, *_NOT_OF_THIS_PROTOCOL) as error:
            off = isinstance(error, ControlError) and error.code in ("history_off", "no_history", "run_unknown")
            log.log(logging.DEBUG if off else logging.WARNING, "the past of run %s of %s cannot be told: %s: %s",
                    run.short, run.job, type(error).__name__, error)

    def _tell_past(self, run: Run, control: Control) -> None:
        window = self._window
        if window is None:  # the windows that rules judge, if it has any yet
            try:
                window = past.window_text(control.summary(run.job, run=run.run)[0]["window"])
            except ControlError as error:
                if error.code != "no_summary":
                    raise
        if window is not None:
            coming = self._coming(run, window)
            past.await_written(control, run, window, coming, ANSWER_S)
            for summary in past.summaries(control, run, window, self._selection, self._seen(run, window), coming):
                if self._stop.is_set():
                    self._cut_short.add(run)
                    return
                self._summary(run, summary, PATIENCE_S)
        alerts: List[Dict[str, Any]] = control.alerts(run.job, run.run, limit=LIMIT_MAX)["alerts"] or []
        for alert in reversed(alerts):
            self._alert(run, alert, PATIENCE_S)

    def _coming(self, run: Run, window: str) -> Dict[str, int]:
        """By layer, the last unit of the first window that the subscription brings: what has come is read ahead."""
        while len(self._ahead) < HIGH_WATER:
            result = self._subscriber.next(IDLE_S)
            if result is None:
                break
            self._ahead.append(result)
        first: Dict[str, int] = {}
        for result in ([self._current] if self._current else []) + list(self._ahead):
            if result.get("kind") == "summary" and result.get("run") == run.run and result.get("job") == run.job:
                if past.window_text(result["window"]) == window:
                    first.setdefault(flat.layer_name(result), int(result["window"]["last"]))
        return first

    def _seen(self, run: Run, window: str) -> Dict[str, int]:
        """By layer, the last unit of the newest window that every sink has."""
        ledgers = [worker.recall(run, ANSWER_S) for worker in self._workers if not worker.gone]
        wheres = [{} if ledger is None else ledger.positions for ledger in ledgers]
        common = set.intersection(*(set(where) for where in wheres)) if wheres else set()
        suffix = f" {window}"
        return {where[:-len(suffix)]: min(positions[where][0] for positions in wheres)
                for where in common if where.endswith(suffix)}


def _topics(jobs: Sequence[str], live: bool) -> Sequence[str]:
    """Prefixes to subscribe to: for a pattern those of all jobs that begin as it does. ValueError for what no job can match."""
    kinds = ("job", "summary", "alert", *(("live",) if live else ()))
    for job in jobs:
        wire.check_job(re.sub(r"[*?]|\[[^]]*\]", "x", job))
    begins = [re.split(r"[*?[]", f"{job}/")[0] for job in jobs]
    return [f"{kind}/{begin}" for kind in kinds for begin in begins] or [f"{kind}/" for kind in kinds]


def checked_window(text: Optional[str]) -> Optional[str]:
    """The same in the daemon's words; ValueError when it is no window."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+)\s+(epoch|step|second)s?(?:\s+every\s+(\d+))?\s*", text)
    if not found:
        raise ValueError(f"window {text!r}: must be such as '1 epoch' or '100 steps every 10'")
    length = int(found[1])
    return past.window_text({"unit": found[2], "length": length, "every": int(found[3] or length)})
