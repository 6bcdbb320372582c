# SPDX-License-Identifier: MIT
"""watch: the watch of a PyTorch model that trains. attach.py makes it, by the arguments of `attnd.watch`.

Between captured steps next to nothing of attnd is in the model's way: a forward hook of the whole model, which counts,
but no wrapper, no hook of a layer, no mode. At the end of each step it is decided whether the next one is captured:
somebody is subscribed, and the plan says so. Then a spy (spy.py) is installed for that one step. It copies what the
plan wants (calls.py); the sender thread does the rest.

A step ends with `w.step()`, or with the first step() of an optimizer that holds parameters of the model after a forward of
it, which is noticed by itself (torch 2). When neither is seen in the first 64 forwards, every forward of the model in
training counts as one from then on, which is said once, at the end where there are fewer; so it is in torch 1.13, and
without gradients (`evaluation=True`), until `w.step()` is called. An optimizer that is none of torch's is not noticed, nor is
a step() that is compiled, or is part of a training step that is compiled as a whole (nor are the forwards in the latter):
those trainings call `w.step()`.

A forward counts when gradients are on; others (validation, generation, rollouts) only with `evaluation=True`. Code here
must not hurt the training: our own errors are logged once and swallowed.

Captured steps of compiled models run eagerly, so they differ from the others by rounding; without torch.compile a
captured step computes the same bits.
"""
from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import torch

from ..base import torch_state, wire
from ..base.hook import Hook
from ..base.once import log
from ..base.plan import Plan
from ..forms import look
from ..model.hooks import ForwardHook, OptimizerHook, register_optimizer_hook, remove_all
from ..model.induction import InductionInputs
from ..results.alerts import Alerts, StopTraining
from ..sending.publisher import Publisher
from .cost import milliseconds, percent
from .forwards import Forwards, probed
from .probe import Probe, run_quietly
from .start import Starter

FORWARDS_PER_STEP = 64  # after this number of forwards without the end of a step each forward counts as one
FORWARDS_UNTOLD = 4  # of these forwards are captured, while nobody has said yet when a step ends
ALIVE_EVERY_S = 30.0  # how often a training that goes on says so when it has nothing else to say

_follows_threads = False
_open: List["weakref.ref[Watch]"] = []  # the innermost last; who keeps them is their model


class Watch:
    """A watched model. Made by watch(); used from the training thread."""

    def __init__(self, root: torch.nn.Module, publisher: Publisher, own_publisher: bool, forwards: Forwards,
                 starter: Optional[Starter] = None, compiled: bool = False):
        self.publisher = publisher
        self.forwards = forwards
        self.cost, self._notices = forwards.cost, forwards.notices
        self._root = root
        self._own_publisher = own_publisher
        self._starter = starter
        if starter is not None:
            weakref.finalize(self, starter.close).atexit = False
        self._handled = id(sys.exc_info()[1])  # by whoever began to watch: it ends no training of this watch
        self._thread = threading.get_ident()  # that trains
        self._first_step = forwards.step
        self.tells_unsent = False  # the end says that attnd was not there
        self._stepped = False  # somebody has said when a step ends
        self._explicit = False  # that is step()
        self.uncounted = 0  # forwards that train since a step ended
        self._usual = 2  # the most forwards of a step so far
        self.is_blind = True  # no forward of the model was seen, or the last one was made a CUDA graph
        self._given_up_at: Optional[int] = None  # the newest step whose attentions are counted as dropped
        self._told_cost = False
        self._handles: List[Any] = []
        self._probe: Optional[Probe] = None
        self._alerts: Optional[Alerts] = None
        self._looks = compiled
        if compiled:
            look.prepare(root)
        publisher.hello([])

    @property
    def layers(self) -> List[wire.NamedLayer]:
        """The attentions seen so far as (stack, layer, site), in the order in which they run; `module` of each is the
        path of its module, "text_model.encoder.layers.3.self_attn". A module that attends several times in a forward
        has several, "blocks.0", "blocks.0#1", ..."""
        return list(self.forwards.names.layers.values())

    @property
    def epoch(self) -> int:
        """The epoch that messages carry, counted by epoch_end()."""
        return self.forwards.epoch

    @property
    def current_step(self) -> int:
        """The step that messages carry, counted over all epochs."""
        return self.forwards.step

    def step(self) -> None:
        """One training step is done. From the first call on, only these calls count."""
        if not self._explicit:  # the optimizer may have told of this very step
            self._explicit, self._stepped, self.uncounted = True, False, 0
            remove_all(self._handles)
            self.forwards.tells_calls = False
        self.optimizer_stepped()

    def epoch_end(self) -> None:
        """One epoch is done: tells the daemon, and counts on."""
        if self.forwards.is_closed:
            return
        if self.forwards.projections is not None:
            self._guarded(self.forwards.projections.epoch_ends, self._wanted_layers, *self._position)
        try:
            self.publisher.epoch_end(self.forwards.epoch, self.forwards.step)
        except Exception:
            self.failed("the end of an epoch could not be published")
        self.forwards.epoch += 1

    def log(self, values: Optional[Mapping[str, Any]] = None, *, step: Optional[int] = None, **more: Any) -> None:
        """Reports numbers of the training, which are drawn beside those of attention: log(loss=loss, lr=3e-4), or
        log({"loss": loss}). `step` is that of the training, default current_step. A tensor of one number is not waited
        for; what is no number is told once. See Publisher.log."""
        if self.forwards.is_closed or torch_state.is_graph_captured():
            return
        try:
            with torch_state.outside_modes():
                self.publisher.log({**(values or {}), **more}, self.forwards.epoch, self.forwards.step if step is None else step)
        except Exception:
            self.failed("what was logged could not be reported")

    def probe(self, *args: Any, **kwargs: Any) -> None:
        """Runs model(*args, **kwargs) once, now, in eval mode, without gradients and with the random numbers of the
        training left alone, and publishes what is seen as it does in training, under the job's own name. Ranks of
        a sharded model have to call it together."""
        if self.forwards.is_closed:
            return
        if probed() is not None:  # by a hook of the model itself
            return
        installed, seconds = self.forwards.spy.installed, self.forwards.spy.seconds
        try:
            if not installed:
                self.forwards.arm()
            with self.forwards.probing():
                run_quietly(self._root, args, kwargs)
        except Exception:
            self.failed("the probe could not be run")
        finally:
            if not installed:
                self.forwards.disarm()
            self.forwards.spy.seconds = seconds  # the rest is no cost of a step

    def stats(self) -> Dict[str, Any]:
        """The publisher's counters; see Publisher.stats. With gradients=True also `gradients_not_finite`: messages that
        went without a gradient, because theirs was not finite."""
        stats = self.publisher.stats()
        return stats if self.forwards.gradients is None else {**stats, "gradients_not_finite": self.forwards.gradients.not_finite}

    def close(self, error: Optional[BaseException] = None) -> None:
        """Takes everything out of the model and, unless the publisher was given, closes it (bounded by its linger
        time). `error`: the exception that ended the training, which attnd shows then; by default the one that is being
        handled, as in `finally`, if it was raised while the model was watched. Idempotent."""
        if self.forwards.is_closed:
            return
        handled = sys.exc_info()[1]
        if error is None and id(handled) != self._handled:
            error = handled
        self._guarded(self._notices.end, self.forwards.step > self._first_step)
        if not self._stepped and 1 < self.uncounted <= FORWARDS_PER_STEP:
            self._notices.no_step(self.uncounted, "so all are of one step")
        elif self._stepped and self.uncounted > 4 * self._usual:
            self._tell_no_step()
        if self.tells_unsent and self.forwards.step > self._first_step:
            self._guarded(self._tell_unsent)
        self.forwards.is_closed = True
        self.forwards.disarm()
        if self._looks:
            look.retire(self._root)
        if self.forwards.gradients is not None:
            self.forwards.gradients.settle(None)
        remove_all(self._handles)
        if self._probe is not None:
            self._probe.close()
        if self._alerts is not None:
            if self._alerts.run_log.is_over:
                self._alerts.close()
            else:
                self._alerts.act_no_more()
        _open[:] = [reference for reference in _open if reference() not in (self, None)]
        _kept_by(self._root, without=self)
        if self._starter is not None:
            self._starter.close()
        if self._own_publisher:
            self.publisher.close(error)
        if self._alerts is not None:
            if self._own_publisher:
                self._alerts.await_end()
            self._alerts.run_log.write(last=True)
            self._alerts.close()

    def _tell_unsent(self) -> None:
        """The training is over, and attnd was never there, which nothing has told."""
        if not self.publisher.was_heard and (self._starter is None or not self._starter.has_failed):
            log.warning("job %s: nothing was sent: no attnd took it (%s). %s", self.publisher.job, self.publisher.where,
                        self.publisher.what_helps)

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, kind: Any = None, error: Optional[BaseException] = None, *_: Any) -> None:
        self.close(error)

    # --------------------------------------------------------------------------------- when a step ends

    def open(self) -> None:
        """Begins; called once, by attnd.watch. Whoever watches the same model for the same job again, as a cell of a
        notebook that is run again does, closes the earlier one."""
        for earlier in list(_kept_by(self._root)):
            if earlier.publisher.job == self.publisher.job and earlier._own_publisher and self._own_publisher:
                earlier.close()
        _kept_by(self._root, also=self)
        _open.append(weakref.ref(self))
        _follow_threads()
        weakref.finalize(self, remove_all, self._handles).atexit = False
        self.rearm()

    def follow_steps(self, optimizer: Any, steps: str, called: torch.nn.Module) -> None:
        """Notices by itself when a step ends; called once, by attnd.watch. `called`: the model, or what is called in its place."""
        if steps == "manual":
            return
        self._handles.append(called.register_forward_hook(ForwardHook(self)))
        self.forwards.tells_calls = True
        if optimizer is not None and hasattr(optimizer, "register_step_post_hook"):
            self._handles.append(optimizer.register_step_post_hook(OptimizerHook(self, None)))
        elif optimizer is None and register_optimizer_hook is not None:
            self._handles.append(register_optimizer_hook(OptimizerHook(self, self._root)))

    def follow_probe(self, inputs: Any, every: int, watch: "Watch") -> None:
        """Runs a probe at regular steps, whose attention `watch` publishes; called once, by attnd.watch."""
        watch.forwards.judge_as(self.forwards)
        self._probe = Probe(self._root, inputs, every, self, watch)
        if isinstance(inputs, InductionInputs):
            self.forwards.tokens.inputs = inputs

    def follow_alerts(self, alerts: Optional[Alerts]) -> None:
        """Tells the training of alerts, and its own run of windows; called once, by attnd.watch."""
        self._alerts = alerts
        if alerts is not None:
            weakref.finalize(self, alerts.close).atexit = False
            alerts.run_log.follow(weakref.WeakMethod(self.log))

    def forward_done(self) -> None:
        """The model's forward is done: the end of a step, when nobody else says where steps end."""
        self._notices.is_called = True
        self.is_blind = torch_state.is_graph_captured()
        if self._stepped:
            if torch.is_grad_enabled() and (self._root.training or not self.uncounted):  # no validation that forgot no_grad()
                self.uncounted += 1
                if self.uncounted > max(FORWARDS_PER_STEP, 4 * self._usual):
                    self._tell_no_step()
            return
        if self.forwards.is_closed or probed() is not None or not self.forwards.is_training() \
                or self.is_blind:
            return
        forwards_are_steps = register_optimizer_hook is None or not torch.is_grad_enabled()
        self.uncounted += not forwards_are_steps
        if self.uncounted == FORWARDS_PER_STEP + 1:
            self._notices.no_step(FORWARDS_PER_STEP, "so each counts as a step")
        if forwards_are_steps or self.uncounted > FORWARDS_PER_STEP:
            self._advance(before_backward=True)
            if self._alerts is not None:
                self._guarded(self._alerts.run_log.write)
                self._alerts.step_is_unknown()
        else:
            self._guarded(self.rearm)  # a daemon may have come since the first one

    def optimizers_alternate(self) -> None:
        """Optimizers of the model end steps in turn."""
        self._notices.alternate()

    def _tell_no_step(self) -> None:
        """Steps have ended, and end no more."""
        self._notices.no_step(self.uncounted, f"after step {self.forwards.step - 1}: all are of one step")

    def optimizer_stepped(self) -> None:
        """An optimizer of the model has stepped, or step() was called."""
        self._thread = threading.get_ident()
        if self.forwards.is_closed or torch_state.is_graph_captured():  # a step that is captured is not computed
            return
        if not self._stepped:
            self._stepped = True
            self.forwards.step = self._first_step  # whatever the forwards of the first step had counted
        self._usual, self.uncounted = max(self._usual, self.uncounted), 0
        self._advance()
        if self._alerts is not None:
            self._guarded(self._alerts.run_log.write)
            try:
                self._alerts.step_ends()
            except StopTraining:
                raise
            except Exception:
                self.failed("the training could not be told of alerts")

    def _advance(self, before_backward: bool = False) -> None:
        if self.forwards.spy.seconds > 0:
            self._note_spent(self.forwards.step)
        if self.cost.step_ends(self.forwards.step):
            self._guarded(self._tell_cost)
        if self.forwards.gradients is not None:
            self.forwards.gradients.settle(self.forwards.step if before_backward else None)
        installed = goes_on = self.forwards.spy.installed
        if installed:
            self.forwards.spy.settle()  # a forward that was interrupted is of this step
            self.forwards.spy.settle_shown()
            if self.forwards.spy.is_in_doubt:
                self.forwards.disarm()
                goes_on = False
        self.forwards.place(self.forwards.epoch, self.forwards.step + 1)
        self.publisher.step_done(self.forwards.epoch, self.forwards.step - 1)
        if installed or self._notices.is_followed:
            self._guarded(self._notices.step_ends, installed)
        if self._probe is not None:
            with torch_state.outside_modes():
                self._probe.after_step(self.forwards.step)
        if self.forwards.projections is not None:
            self._guarded(self.forwards.projections.step_ends, self._wanted_layers, *self._position)
        if time.monotonic() - self.forwards.said_at >= ALIVE_EVERY_S:
            self._guarded(self.forwards.say_hello)
        self._guarded(self.rearm)
        if goes_on and self.forwards.spy.installed:
            self._guarded(self.forwards.spy.goes_on)

    def _guarded(self, what: Callable[..., None], *args: Any) -> None:
        try:
            with torch_state.outside_modes():
                what(*args)
        except Exception:
            self.failed("a step could not be watched")

    def rearm(self) -> None:
        """Installs or removes the spy, by whether the step that begins now is to be captured."""
        wanted = not self.forwards.is_closed and self.plan.takes_step(self.forwards.step) \
            and (self._stepped or not FORWARDS_UNTOLD <= self.uncounted <= FORWARDS_PER_STEP) \
            and self.publisher.listened_to and not self._gives_up()
        if wanted and not self.forwards.spy.installed:
            self.forwards.arm()
        elif not wanted and self.forwards.spy.installed:
            self.forwards.disarm()  # which takes some time
            self._note_spent(max(self._first_step, self.forwards.step - 1))

    def _note_spent(self, step: int) -> None:
        """Counts the time that the spy took since the last call to this step."""
        self.cost.spent(step, self.forwards.spy.seconds)
        self.forwards.spy.seconds = 0.0

    def _tell_cost(self) -> None:
        """Says what capturing costs, when that is news."""
        news, every = self.cost.news(), self.plan.every
        if news is None:
            return
        self.publisher.tell(**news._asdict())
        self.forwards.say_hello()
        if every and not self._told_cost:
            self._told_cost = True
            log.info("job %s: capture: %s of step time (every %d: %s beside a step of %s)", self.publisher.job,
                     percent(news.ratio / every), every, milliseconds(news.capture_seconds), milliseconds(news.step_seconds))

    def _gives_up(self) -> bool:
        """Whether the daemon takes nothing any more: then what would be captured is counted as dropped, once a step."""
        if not self.publisher.stalled:
            return False
        if self._given_up_at != self.forwards.step:
            self._given_up_at = self.forwards.step
            for layer in self.forwards.names.layers.values():
                if self.plan.takes_layer(layer) and self.publisher.wanted(*layer):
                    self.publisher.give_up(*layer)
        return True

    @property
    def _position(self) -> Tuple[int, int]:
        """The epoch, and the step that was done last."""
        return self.forwards.epoch, max(self._first_step, self.forwards.step - 1)

    def _wanted_layers(self) -> Dict[str, wire.NamedLayer]:
        """The layers that the plan takes of those seen so far, by path, when it takes any step."""
        return {path: layer for path, layer in self.forwards.names.layers.items() if self.plan.every and self.forwards.taken(path)}

    @property
    def plan(self) -> Plan:
        """The plan that holds: what the daemon says, and what watch() was asked for."""
        return self.forwards.plan

    def failed(self, what: str) -> None:
        """Logs with the current exception, the first time only."""
        self._notices.failed(what)


def innermost() -> Optional[Watch]:
    """The watch that was opened last and is still open."""
    return next((it for it in (reference() for reference in reversed(_open)) if it is not None), None)


def _follow_threads() -> None:
    """From now on an exception that ends a thread ends the watches of the training on it; the hook that was there is called
    as before."""
    global _follows_threads
    if _follows_threads:
        return
    _follows_threads, before = True, threading.excepthook

    def ended(args: Any) -> None:
        for watch in [reference() for reference in list(_open)]:
            if watch is not None and args.thread is not None and watch._thread == args.thread.ident:
                with contextlib.suppress(Exception):
                    watch.close(args.exc_value)
        before(args)

    threading.excepthook = ended


class _Keeper(Hook):
    """Hangs on a model and keeps its watches, which nobody else may hold: they live as long as it does."""

    def __init__(self, watches: List[Watch]):
        self.watches = watches


def _kept_by(root: torch.nn.Module, also: Optional[Watch] = None, without: Optional[Watch] = None) -> List[Watch]:
    """The watches that a model keeps, when one is added or taken away."""
    keeper = vars(root).get("_watched_by")
    watches = keeper.watches if isinstance(keeper, _Keeper) else []  # a copy of a watched model keeps none
    watches = [watch for watch in watches if watch is not without] + [watch for watch in (also,) if watch is not None]
    if watches:
        vars(root)["_watched_by"] = _Keeper(watches)
    else:
        vars(root).pop("_watched_by", None)
    return watches
