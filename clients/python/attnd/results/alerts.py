# SPDX-License-Identifier: MIT
"""alerts: functions of the training that are called with the alerts of its run, `attnd.watch(..., on_alert=f)`, and the
windows of its run for the user's own (trackers.py), `attnd.watch(..., log_to=X)`.

A thread looks for alerts every LOOK_EVERY_S. Now and then it asks which ones fire, as one may have been told while attnd
was not connected to. The training's thread calls f between steps, with what has been heard by then, and never waits for
attnd. Windows are heard by the same thread, and written by the training's, of rank 0 alone, so that ranks agree about alerts
only.

Several ranks act at the end of one step, or none of them does: a rank that stops alone leaves the others in a collective
call. They agree through the store of torch.distributed, which has nothing to do with attnd: a rank that hears nothing
acts as the others do. Round n of that, on the threads that look:

    a rank that has an alert, or whose f has raised StopTraining, leaves it in the store; the first one's is taken
    each rank that finds it there sets a fence some steps ahead of it, leaves that in the store, and counts itself
    the rank that completes the count leaves the farthest fence there: all ranks act at the end of that step

No rank passes its fence before it knows the step, so none is beyond it. Fences are farther ahead than three looks take,
so that nobody arrives at one early but where the thread of another rank does not get on. A rank of which nothing is
heard for GIVE_UP_S has the round called off: whoever calls it off makes the count one that nobody can complete, so
either all ranks learn of a step, or none. Then all of them go on, and no further round begins. A rank that is held at
its fence waits for threads of others alone, never for their steps.

Two cases are left. A rank has set its fence, and then the store answers the others but not that rank, for longer than
it waits: it goes on when they act. Ranks that do not take the same steps act at the same number of them.

Decided against: an all_reduce at each step. It costs every step, on a GPU it waits for the device, and where ranks take
unequal numbers of steps it meets another collective call and hangs, whether or not there is ever an alert. A step that
attnd names is unknown to a rank that attnd does not reach.
"""
from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import threading
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Sequence, Tuple

import zmq

from ..base import wire
from ..base.address import AddressError
from ..base.local import page_of
from ..base.exits import closed_at_exit
from ..base.once import Once, log
from ..sending.publisher import Publisher
from .control import Control, ControlError
from .digest import METRICS, Line, Windows
from .subscriber import Subscriber
from .trackers import RunLog, Tracker

SEVERITIES = ("info", "warning", "critical")
LOOK_EVERY_S = 0.5
LOOK_AGAIN_S = 0.05  # while ranks agree
MANY_RANKS = 256  # with more of them each looks more rarely, as all ask one store
ASK_EVERY_S = 20.0
ANSWER_S = 0.5
GIVE_UP_S = 30.0
CLOSE_S = 2.0
END_S = 2.0  # for the windows that end with a run
WAITING_MAX = 100  # alerts; further ones are not heard
KNOWN_MAX = 1000  # alerts that are known when they come again
_CALLED_OFF = 1 << 32  # added to a count, which is of ranks
_NEVER = "never"  # in place of a step

Alert = Dict[str, Any]
Act = Callable[[Alert], None]


class StopTraining(Exception):
    """Raised by a function of `on_alert`: training stops, at the end of one step on all ranks. No other exception of it
    reaches the training. The text says why."""

    ends_well = True  # the run has ended, and not failed: base/endings.py


class CheckpointOn:
    """See checkpoint_on()."""

    def __init__(self, severity: str, save: Optional[Act]):
        if save is not None and not callable(save):
            raise ValueError(f"save = {save!r:.80}: must be a function of an alert")
        self.severity, self.save = severity, save
        self._severities = _from(severity)

    def __call__(self, alert: Alert) -> None:
        if self.save is not None and alert["state"] == "firing" and alert["severity"] in self._severities:
            self.save(alert)


def stop_on(severity: str) -> Act:
    """A function for `on_alert` that raises StopTraining when an alert begins to fire that is at least so severe: "info",
    "warning" or "critical", else ValueError. The callbacks for trainers have their trainer stop."""
    return functools.partial(_stop, _from(severity))  # which may be sent to another process


def _stop(severities: Sequence[str], alert: Alert) -> None:
    if alert["state"] == "firing" and alert["severity"] in severities:
        raise StopTraining(f"{alert['rule']}: {alert['message']}")


def checkpoint_on(severity: str, save: Optional[Act] = None) -> Act:
    """A function for `on_alert` that calls `save` with an alert that begins to fire and is at least so severe. Without
    `save` the callbacks for trainers have their trainer save a checkpoint. ValueError for what is no severity."""
    return CheckpointOn(severity, save)


def _from(severity: str) -> Tuple[str, ...]:
    """This severity and those that are worse."""
    if severity not in SEVERITIES:
        raise ValueError(f"severity = {severity!r:.80}: must be {', '.join(SEVERITIES[:-1])} or {SEVERITIES[-1]}")
    return SEVERITIES[SEVERITIES.index(severity):]


def check_acts(given: Any, endpoint: Optional[str]) -> Tuple[Act, ...]:
    """The functions of `on_alert`, given as one or several, in order. ValueError when they are none, or cannot be called."""
    acts = tuple(given) if isinstance(given, (tuple, list)) else () if given is None else (given,)
    for act in acts:
        if act is stop_on or act is checkpoint_on:
            raise ValueError(f"on_alert = {act.__name__}: must say from which severity on, as {act.__name__}(\"critical\")")
        if not callable(act):
            raise ValueError(f"on_alert = {act!r:.80}: must be a function of an alert, or a list of them")
        if isinstance(act, CheckpointOn) and act.save is None:
            raise ValueError(f"on_alert: checkpoint_on({act.severity!r}) needs a function that saves, where no trainer does")
    if acts and endpoint is not None:
        raise ValueError("on_alert: needs address=, not endpoint=: alerts come from another socket of attnd")
    return acts


class _Heard(Subscriber):
    """Decodes no more numbers of a window than are told of it: the training waits while Python decodes."""

    _decode = staticmethod(lambda payload: wire.decode_heads(payload, METRICS))


class Alerts:
    """Calls the functions with each alert of a run, an `alert` of PROTOCOL.md as a dict, and writes its windows to a log.

    Everything up to close() is the training thread's; nothing here raises but StopTraining.
    """

    def __init__(self, acts: Sequence[Act], publisher: Publisher, address: Any, ranks: Optional[_Ranks] = None,
                 trackers: Sequence[Tracker] = ()):
        self._acts = acts
        self.run_log = RunLog(publisher.job, trackers)  # the user's own run; without trackers it takes nothing
        self._windows = Windows(publisher.run)
        self._ended = threading.Event()  # nothing more of the run comes
        self._cost: Optional[float] = None
        self._page: Optional[str] = None
        self._job, self._run_id = publisher.job, publisher.run
        self._address = address
        self._waiting: Deque[Alert] = deque()  # those that were heard, in order
        self._known: Dict[str, None] = {}  # of which f was told, or will be, the last ones
        self._once = Once(publisher.job)
        self._pid = os.getpid()
        self._closed = threading.Event()
        self._ranks = ranks
        _live.add(self)
        self._thread = threading.Thread(target=self._run, name="attnd-alerts", daemon=True)
        self._thread.start()

    def step_ends(self) -> None:
        """The training has ended a step: calls the functions, if there is something to be told. StopTraining."""
        if self._ranks is None:
            due = {"alerts": [self._waiting.popleft() for _ in range(len(self._waiting))]} if self._waiting else None
        else:
            due = self._ranks.step_ends()
        if due is None:
            return
        stop = StopTraining(due["stop"]) if "stop" in due else None
        for alert in due.get("alerts", ()):
            stop = self._call(alert) or stop
        if stop is not None and self._ranks is not None and "stop" not in due:
            self._ranks.stop_wanted = str(stop)  # the others may think otherwise
        elif stop is not None:
            raise stop

    def step_is_unknown(self) -> None:
        """Forwards count as steps, so it is not known when the training is between two."""
        if self._waiting:
            self._once.warn("steps", "on_alert is not called, since nobody says where a step ends: call step() of what attnd.watch "
                            "returned at the end of each")

    def _call(self, alert: Alert) -> Optional[StopTraining]:
        stop = None
        for act in self._acts:
            try:
                act(alert)
            except StopTraining as wanted:
                stop = stop or wanted
            except Exception:
                self._once.warn("failed", "a function of on_alert failed; training goes on, further failures are not logged",
                                exc_info=True)
        return stop

    def act_no_more(self) -> None:
        """Calls no function from now on; windows are written as before."""
        self._acts = ()

    def await_end(self) -> None:
        """The run has ended, and attnd was told: waits, 2 s at most, for the windows that end with it."""
        if self._windows.heard and not self.run_log.is_over and not self._closed.is_set():
            self._ended.wait(END_S)

    def close(self) -> None:
        """Calls nothing from now on. Waits 2 s at most; idempotent."""
        if os.getpid() != self._pid:  # forked: there is no such thread, and its locks may be taken
            return
        self._closed.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(CLOSE_S)
        self.run_log.close()

    # ------------------------------------------------------------------------------------ on its thread

    def _run(self) -> None:
        subscriber: Optional[Subscriber] = None
        hears, pause_s, ask_at = True, 0.0, time.monotonic() + ASK_EVERY_S
        many = 1.0 if self._ranks is None else max(1.0, self._ranks.world / MANY_RANKS)
        while not self._closed.wait(pause_s * many):
            try:
                if hears and subscriber is None:
                    subscriber = _Heard(topics=self._topics(), address=self._address)
                if hears and subscriber is not None:
                    self._listen(subscriber)
                    if self._acts and time.monotonic() >= ask_at:
                        self._ask()
                        ask_at = time.monotonic() + ASK_EVERY_S * many
            except AddressError:  # watch() has told that; other ranks may have a better one
                hears = False
            except Exception:
                hears = False
                log.warning("job %s: nothing is heard of attnd any more; training goes on", self._job, exc_info=True)
            if not self._acts and self._ranks is not None:
                self._ranks.leave()
                self._ranks = None
            pause_s = LOOK_AGAIN_S if self._ranks is not None and self._agree(self._ranks) else LOOK_EVERY_S
        if self._ranks is not None:
            self._ranks.leave()
        if subscriber is not None:
            subscriber.close()

    def _topics(self) -> List[str]:
        kinds = (("alert",) if self._acts else ()) + (() if self.run_log.is_over else ("job", "summary"))
        return [f"{kind}/{self._job}/" for kind in kinds]

    def _listen(self, subscriber: Subscriber) -> None:
        lines: List[Line] = []
        while len(self._waiting) < WAITING_MAX:
            result = subscriber.next(0.0)
            if result is None:
                break
            if result["kind"] == "alert" and self._acts:
                self._hear({name: value for name, value in result.items() if name not in ("snapshot", "topic")})
            else:
                lines += self._windows.take(result)
        lines += self._windows.look()
        if lines:
            self._add_facts(lines)
            for line in lines:
                self.run_log.put(line)
        if self._windows.ended:
            self._ended.set()

    def _add_facts(self, lines: Sequence[Line]) -> None:
        """Adds what attnd answers about the run, if it does."""
        firing: Optional[List[Alert]] = None
        with contextlib.suppress(OSError, ControlError, zmq.ZMQError, KeyError):
            with Control(timeout=ANSWER_S, address=self._address) as control:
                firing = control.alerts(self._job, self._run_id, limit=1)["firing"]
                cost = control.plan(self._job)["cost"]
                self._cost = self._cost if cost is None else cost["part"]  # None once the run has ended
                page = None if control.directory is None else page_of(control.directory)
                self._page = self._page if page is None else f"{page}#/overview?job={self._job}&run={self._run_id}"
        for line in lines:
            if firing is not None:
                line.values["failed_checks"] = sum(alert["since"][1] <= line.step for alert in firing)
            if self._cost is not None:
                line.values["capture_cost"] = self._cost
            if self._page is not None:
                line.texts["page"] = self._page

    def _ask(self) -> None:
        try:
            with Control(timeout=ANSWER_S, address=self._address) as control:
                firing = control.alerts(self._job, self._run_id, limit=1)["firing"]  # one of those that the history has
        except (OSError, ControlError, zmq.ZMQError):
            return
        for alert in firing[:WAITING_MAX - len(self._waiting)]:
            self._hear(alert)

    def _hear(self, alert: Alert) -> None:
        if alert["run"] == self._run_id and _which(alert) not in self._known:
            self._learn(alert)
            self._waiting.append(json.loads(json.dumps(alert)))  # as other ranks get it, by the store

    def _learn(self, alert: Alert) -> None:
        self._known[_which(alert)] = None
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def _agree(self, ranks: _Ranks) -> bool:
        """One look at what other ranks say; whether an agreement is under way."""
        taken = ranks.look(list(self._waiting))
        if taken:
            for alert in taken:
                self._learn(alert)
            told = {_which(alert) for alert in taken}
            self._waiting = deque(alert for alert in self._waiting if _which(alert) not in told)
        return ranks.is_agreeing


def _which(alert: Alert) -> str:
    """Tells it from other alerts of a run, whoever says it and however often."""
    return json.dumps([alert.get(key) for key in ("rule", "state", "stack", "layer", "site", "head", "since")])


class _Ranks:
    """Has all ranks act at the end of one step; see the top. step_ends() is the training thread's, and may wait up to
    GIVE_UP_S + CLOSE_S while ranks agree; everything else is the other thread's, and may take as long as the store does.

    Steps are counted here: from the watch on, and so alike on all ranks, whatever they call their steps.
    """

    def __init__(self, job: str, store: Any, key: str, rank: int, world: int):
        self._job = job
        self._store = store
        self._key = key
        self._rank, self.world = rank, world
        self._changed = threading.Condition()  # guards what is below
        self._ended = 0  # steps
        self._fence: Optional[int] = None  # while ranks agree, and until they act
        self._step: Optional[int] = None  # at whose end they act
        self._round = 0
        self._agreed: Dict[str, Any] = {}
        self._over = False  # nobody agrees any more
        self._looked_at = 0  # steps that had ended at the last look
        self._since = 0.0
        self._once = Once(job)
        self.stop_wanted: Optional[str] = None
        store.add(f"{key}/here", 1)

    def step_ends(self) -> Optional[Dict[str, Any]]:
        """Counts the step, and returns what all ranks do now: `alerts`, to be told, or `stop`, why; None: nothing."""
        with self._changed:
            self._ended += 1
            if self._fence is None:
                return None
            if self._step is None and self._ended >= self._fence:
                if not self._changed.wait_for(lambda: self._step is not None or self._over, GIVE_UP_S + CLOSE_S):
                    self._over = True  # the store does not answer
            if self._over or self._step is None or self._ended < self._step:
                return None
            agreed, self._agreed = self._agreed, {}
            self._fence = self._step = None
            self._round += 1
        if "stop" in agreed:
            self.stop_wanted = None
        return agreed

    @property
    def is_agreeing(self) -> bool:
        """Whether others wait for what comes of a round."""
        return self._fence is not None and self._step is None and not self._over

    def look(self, waiting: List[Alert]) -> List[Alert]:
        """One look at the store, with the alerts that wait here; returns those that ranks have begun to agree about."""
        try:
            return self._look(waiting)
        except Exception as error:
            if not self.is_agreeing or time.monotonic() > self._since + GIVE_UP_S:
                self._end("the store of torch.distributed does not answer", logging.INFO, error)  # it has ended, mostly
            return []

    def _look(self, waiting: List[Alert]) -> List[Alert]:
        with self._changed:
            name, is_idle, ended = f"{self._key}/{self._round}", self._fence is None, self._ended
        before, self._looked_at = self._looked_at, ended
        taken: List[Alert] = []
        if self._over or not (is_idle or self.is_agreeing):
            return taken
        if is_idle:
            if not self._has(f"{name}/what") and not self._propose(name, waiting):
                return taken
            agreed = json.loads(self._get(f"{name}/what"))
            taken = agreed.get("alerts", taken)
            self._since = time.monotonic()
            with self._changed:
                self._agreed, self._fence = agreed, self._ended + 2 + 3 * (ended - before)
                fence = self._fence
            self._put(f"{name}/fence/{self._rank}", fence)
            if self._store.add(f"{name}/count", 1) == self.world:
                self._put(f"{name}/step", max(int(self._get(f"{name}/fence/{rank}")) for rank in range(self.world)))
        if self._has(f"{name}/step"):
            step = self._get(f"{name}/step")
            if step == _NEVER:
                self._end("a rank has not been heard of", logging.WARNING)
                return taken
            with self._changed:
                self._step = int(step)
                self._changed.notify_all()
        elif not self._are_here() or time.monotonic() > self._since + GIVE_UP_S:
            count = self._store.add(f"{name}/count", _CALLED_OFF)
            if count % _CALLED_OFF < self.world:  # else the step is about to be there
                self._put(f"{name}/step", _NEVER)
        return taken

    def _propose(self, name: str, waiting: List[Alert]) -> bool:
        """Begins a round, if there is something to agree about and nobody else has begun one."""
        what = {"stop": self.stop_wanted} if self.stop_wanted is not None else {"alerts": waiting} if waiting else None
        if what is None:
            return False
        if not self._are_here():
            self._once.warn("ranks", "on_alert is not called: not all of %d ranks watch with it, and one must not act alone",
                            self.world)
            return False
        if self._store.add(f"{name}/first", 1) != 1:
            return False
        self._put(f"{name}/what", json.dumps(what))
        return True

    def _end(self, why: str, level: int, error: Optional[Exception] = None) -> None:
        """No further agreement; one that has a step stands."""
        with self._changed:
            if self._step is not None or self._over:
                return
            self._over = True
            self._changed.notify_all()
        log.log(level, "job %s: on_alert is not called any more, since %s; training goes on%s", self._job, why,
                f" ({error})" if error is not None else "")

    def leave(self) -> None:
        """This rank takes part no more: nobody begins a round, or waits for it in one."""
        if not self._over:  # else it is over for all, or the store has ended
            with contextlib.suppress(Exception):
                self._store.add(f"{self._key}/here", -1)
        with self._changed:
            self._over = self._over or self._step is None
            self._changed.notify_all()

    def _are_here(self) -> bool:
        return bool(self._store.add(f"{self._key}/here", 0) == self.world)

    def _put(self, name: str, value: Any) -> None:
        self._store.set(name, str(value))
        self._store.add(f"{name}/there", 1)

    def _has(self, name: str) -> bool:
        """Whether it was put there. torch 1.13 can only ask for what counts."""
        check = getattr(self._store, "check", None)
        return bool(check([f"{name}/there"]) if check is not None else self._store.add(f"{name}/there", 0) > 0)

    def _get(self, name: str) -> str:
        """Reads it, which was put there."""
        return str(self._store.get(name).decode())


_agreements = 0  # by this process; every rank counts the same


def alerts_for(acts: Sequence[Act], publisher: Publisher, address: Any, trackers: Sequence[Tracker] = ()) -> Optional[Alerts]:
    """Makes what calls these functions and writes to these trackers; None: there are none of either for this rank. Functions
    of several ranks that cannot agree are left out, which is told."""
    global _agreements
    if not acts and not trackers:
        return None
    from ..base.ranks import default_store, rank_and_world
    rank, world = (publisher.rank, publisher.world) if publisher.world > 1 else rank_and_world(None, None)
    trackers = trackers if rank == 0 else ()
    if world == 1 or not acts:
        return Alerts(acts, publisher, address, trackers=trackers) if acts or trackers else None
    _agreements += 1
    try:
        store = default_store()
        with contextlib.suppress(Exception):  # torch before 2.8 has none: then a training that waits at the store holds it
            store = store.clone()
        ranks = _Ranks(publisher.job, store, f"attnd/{publisher.run}/{_agreements}", rank, world)
    except Exception as error:
        log.warning("job %s: on_alert is not called: %d ranks cannot agree on a step (%s). Initialise torch.distributed "
                    "before attnd.watch", publisher.job, world, error)
        return Alerts((), publisher, address, trackers=trackers) if trackers else None
    return Alerts(acts, publisher, address, ranks, trackers)


_live = closed_at_exit()  # no thread may be within the store, which is C++, when the interpreter ends
