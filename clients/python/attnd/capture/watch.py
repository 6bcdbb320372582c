# SPDX-License-Identifier: MIT
"""watch: the watch of a PyTorch model that trains. attach.py makes it, by the arguments of `attnd.watch`.

Between captured steps next to nothing of attnd is in the model's way: a forward hook of the whole model, which counts,
but no wrapper, no hook of a layer, no mode. At the end of each step it is decided whether the next one is captured:
somebody is subscribed, and the plan says so. Then a spy (spy.py) is installed for that one step. It copies what the
plan wants (calls.py); the sender thread does the rest.

A step ends with `w.step()`, or with the step() of an optimizer that holds parameters of the model, which is noticed by
itself (torch 2). When neither is seen in the first 64 forwards, every forward of the model in training counts as one
from then on, which is said once; so it is in torch 1.13, and without gradients (`evaluation=True`), until `w.step()` is
called. An optimizer's step() that is compiled, or is part of a training step that is compiled as a whole, is not noticed
(nor are the forwards in the latter): those trainings call `w.step()`.

A forward counts when gradients are on; others (validation, generation, rollouts) only with `evaluation=True`. Code here
must not hurt the training: our own errors are logged once and swallowed.

Captured steps of compiled models run eagerly, so they differ from the others by rounding; without torch.compile a
captured step computes the same bits.
"""
from __future__ import annotations

import functools
import inspect
import os
import threading
import time
import weakref
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from ..base import torch_state, wire
from ..base.once import log
from ..base.paths import call_name, module_at
from ..base.plan import Plan
from ..forms import look
from ..forms.judge import Judge
from ..forms.seen import (Queries, Seen, Share, heads_of, keys_of, may_read_other, placements_of, queries_of, reads_other,
                          sees_ahead, tells_padding)
from ..forms.shares import Shares, ShareUnknown
from ..forms.spy import Spy
from ..model.hooks import ForwardHook, Hook, OptimizerHook, register_optimizer_hook, remove_all
from ..model.induction import InductionInputs
from ..model.labels import Labels, Texts
from ..model.layers import Shown
from ..model.names import Names
from ..model.notices import Notices
from ..model.tokens import Tokens
from ..results.alerts import Alerts, StopTraining
from ..sending.publisher import Maker, Publisher
from ..sending.sender import NotYet
from ..sending.tensors import fit_32_bits
from .calls import NOTHING, Context, Part, looker_for_padding, parts
from .cost import Cost, milliseconds, percent
from .gradients import Gradients
from .origins import Origins
from .padding import DecoderPadding
from .probe import Probe, run_quietly
from .projections import Projections
from .residual import Residual
from .start import Starter

FORWARDS_PER_STEP = 64  # without the end of a step in so many forwards, forwards are steps
FORWARDS_UNTOLD = 4  # captured of those, while nobody has said yet when a step ends
CALLS_PER_FORWARD = 256  # of one module; what it attends beyond, as a recurrent one does, is not captured
ALIVE_EVERY_S = 30.0  # how often a training that goes on says so when it has nothing else to say

_open: List["weakref.ref[Watch]"] = []  # the innermost last; who keeps them is their model
_here = threading.local()


def _probing() -> Optional["Watch"]:
    """The watch whose probe runs in this thread now."""
    return getattr(_here, "probing", None)


class Watch:
    """A watched model. Made by watch(); used from the training thread."""

    def __init__(self, root: torch.nn.Module, publisher: Publisher, own_publisher: bool, own_plan: Dict[str, Any],
                 share: Share, names: Names, position: Tuple[int, int], evaluation: bool, tokens: Optional[bool],
                 values: bool, gradients: bool, texts: Optional[Texts], patterns: Mapping[str, Sequence[str]],
                 starter: Optional[Starter] = None, looks: bool = False):
        self.publisher = publisher
        self._starter = starter
        if starter is not None:
            weakref.finalize(self, starter.close).atexit = False
        self._root = root
        self._own_publisher = own_publisher
        self._own_plan = own_plan
        self._shares = Shares(root, share, publisher.world)
        self._names = names
        self._epoch, self._step = position
        self._first_step = self._step
        self.tells_unsent = False  # the end says that attnd was not there
        self._evaluation = evaluation
        self._stepped = False  # somebody has said when a step ends
        self._explicit = False  # that is step()
        self._forwards = 0
        self._passes: Dict[str, int] = {}  # of each attention in this step: forwards that showed it
        self._pending: List[Tuple[str, Part]] = []  # paths without a name yet, and their parts, copied
        self._pending_bytes = 0
        self._unnamed: Dict[str, int] = {}  # paths and heads, in order; 0: not known to be attention yet
        self._given_up_at: Optional[int] = None  # the newest step whose attentions are counted as dropped
        self._trains = False  # the forward that runs began with gradients, and it is known when backward repeats it
        self._padding = DecoderPadding()
        self._told_untold = False
        self._closed = False
        self._alive_at = time.monotonic()
        self._pid = os.getpid()
        self._handles: List[Any] = []
        self._probe: Optional[Probe] = None
        self.projections: Optional[Projections] = None  # which are published
        self._alerts: Optional[Alerts] = None
        self.residual: Optional[Residual] = None  # adds the residual stream to what is captured
        self.sends_residual: Optional[Mapping[str, str]] = None  # and how projections are called
        self.judge = Judge(**patterns, given=names.given, site=names.site_of, counts_heads=share.of == 1)
        self._spy = Spy(root, self, self.judge, looks)
        self._notices = Notices(root, publisher, self._spy, names, self._say_hello)
        self._looks = looks
        if looks:
            look.prepare(root)
        self.cost = Cost()
        self._origins = Origins(publisher, self.cost, values)
        self._told_cost = False
        self.sends_tokens, self.sends_values = tokens, values
        self._gradients = Gradients(publisher, self._taken, self.failed, self.cost) if gradients else None
        labels = None if texts is None else Labels(texts, self.failed)
        self._tokens = Tokens(root, self._spy, lambda: publisher.is_local if tokens is None else tokens, labels)
        publisher.hello([])

    @property
    def layers(self) -> List[wire.NamedLayer]:
        """The attentions seen so far as (stack, layer, site), in the order in which they run; `module` of each is the
        path of its module, "text_model.encoder.layers.3.self_attn". A module that attends several times in a forward
        has several, "blocks.0", "blocks.0#1", ..."""
        return list(self._names.layers.values())

    @property
    def epoch(self) -> int:
        """The epoch that messages carry, counted by epoch_end()."""
        return self._epoch

    @property
    def current_step(self) -> int:
        """The step that messages carry, counted over all epochs."""
        return self._step

    def step(self) -> None:
        """One training step is done. From the first call on, only these calls count."""
        if not self._explicit:  # the optimizer may have told of this very step
            self._explicit, self._stepped, self._forwards = True, False, 0
            remove_all(self._handles)
        self.optimizer_stepped()

    def epoch_end(self) -> None:
        """One epoch is done: tells the daemon, and counts on."""
        if self._closed:
            return
        if self.projections is not None:
            self._guarded(self.projections.epoch_ends, self._wanted_layers, *self._position)
        try:
            self.publisher.epoch_end(self._epoch, self._step)
        except Exception:
            self.failed("the end of an epoch could not be published")
        self._epoch += 1

    def log(self, values: Optional[Mapping[str, Any]] = None, *, step: Optional[int] = None, **more: Any) -> None:
        """Reports numbers of the training, which are drawn beside those of attention: log(loss=loss, lr=3e-4), or
        log({"loss": loss}). `step` is that of the training, default current_step. A tensor of one number is not waited
        for; what is no number is told once. See Publisher.log."""
        if self._closed or torch_state.is_graph_captured():
            return
        try:
            with torch_state.outside_modes():
                self.publisher.log({**(values or {}), **more}, self._epoch, self._step if step is None else step)
        except Exception:
            self.failed("what was logged could not be reported")

    def probe(self, *args: Any, **kwargs: Any) -> None:
        """Runs model(*args, **kwargs) once, now, in eval mode, without gradients and with the random numbers of the
        training left alone, and publishes what is seen as it does in training, under the job's own name. Ranks of
        a sharded model have to call it together."""
        if self._closed:
            return
        if _probing() is not None:  # by a hook of the model itself
            return
        installed, seconds = self._spy.installed, self._spy.seconds
        _here.probing = self
        try:
            if not installed:
                self._arm()
            run_quietly(self._root, args, kwargs)
        except Exception:
            self.failed("the probe could not be run")
        finally:
            _here.probing = None
            if not installed:
                self._disarm()
            self._spy.seconds = seconds  # the rest is no cost of a step

    def judge_as(self, other: "Watch") -> None:
        """From now on what is attention for the other is for this one."""
        self.judge = self._spy.judge = other.judge

    def place(self, epoch: int, step: int) -> None:
        """Says where the training is, for what is captured next."""
        self._epoch, self._step, self._passes = epoch, step, {}
        if self.residual is not None:
            self.residual.step_ends()

    def stats(self) -> Dict[str, Any]:
        """The publisher's counters; see Publisher.stats. With gradients=True also `gradients_not_finite`: messages that
        went without a gradient, because theirs was not finite."""
        stats = self.publisher.stats()
        return stats if self._gradients is None else {**stats, "gradients_not_finite": self._gradients.not_finite}

    def close(self) -> None:
        """Takes everything out of the model and, unless the publisher was given, closes it (bounded by its linger
        time). Idempotent."""
        if self._closed:
            return
        self._guarded(self._notices.end, self._step > self._first_step)
        if self.tells_unsent and self._step > self._first_step:
            self._guarded(self._tell_unsent)
        self._closed = True
        self._disarm()
        if self._looks:
            look.retire(self._root)
        if self._gradients is not None:
            self._gradients.settle(None)
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
            self.publisher.close()
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

    def __exit__(self, *exc: Any) -> None:
        self.close()

    # --------------------------------------------------------------------------------- when a step ends

    def open(self) -> None:
        """Begins; called once, by attnd.watch. Whoever watches the same model for the same job again, as a cell of a
        notebook that is run again does, closes the earlier one."""
        for earlier in list(_kept_by(self._root)):
            if earlier.publisher.job == self.publisher.job and earlier._own_publisher and self._own_publisher:
                earlier.close()
        _kept_by(self._root, also=self)
        _open.append(weakref.ref(self))
        weakref.finalize(self, remove_all, self._handles).atexit = False
        self.rearm()

    def follow_steps(self, optimizer: Any, steps: str) -> None:
        """Notices by itself when a step ends; called once, by attnd.watch."""
        if steps == "manual":
            return
        self._handles.append(self._root.register_forward_hook(ForwardHook(self)))
        if optimizer is not None and hasattr(optimizer, "register_step_post_hook"):
            self._handles.append(optimizer.register_step_post_hook(OptimizerHook(self, None)))
        elif optimizer is None and register_optimizer_hook is not None:
            self._handles.append(register_optimizer_hook(OptimizerHook(self, self._root)))

    def follow_probe(self, inputs: Any, every: int, watch: "Watch") -> None:
        """Runs a probe at regular steps, whose attention `watch` publishes; called once, by attnd.watch."""
        watch.judge_as(self)
        self._probe = Probe(self._root, inputs, every, self, watch)
        if isinstance(inputs, InductionInputs):
            self._tokens.inputs = inputs

    def follow_alerts(self, alerts: Optional[Alerts]) -> None:
        """Tells the training of alerts, and its own run of windows; called once, by attnd.watch."""
        self._alerts = alerts
        if alerts is not None:
            weakref.finalize(self, alerts.close).atexit = False
            alerts.run_log.follow(weakref.WeakMethod(self.log))

    def forward_done(self, module: torch.nn.Module) -> None:
        """The model's forward is done: the end of a step, when nobody else says where steps end."""
        self._notices.model_called()
        if self._closed or self._stepped or _probing() is not None or not self._is_training() or torch_state.is_graph_captured():
            return
        forwards_are_steps = register_optimizer_hook is None or not torch.is_grad_enabled()
        self._forwards += not forwards_are_steps
        if self._forwards == FORWARDS_PER_STEP + 1 and not self._told_untold:
            self._told_untold = True
            log.warning("job %s: no step of an optimizer was seen in %d forwards, so each counts as a step; call "
                        "step() of what attnd.watch returned at the end of each", self.publisher.job, FORWARDS_PER_STEP)
        if forwards_are_steps or self._forwards > FORWARDS_PER_STEP:
            self._advance(before_backward=True)
            if self._alerts is not None:
                self._guarded(self._alerts.run_log.write)
                self._alerts.step_is_unknown()
        else:
            self._guarded(self.rearm)  # a daemon may have come since the first one

    def optimizer_stepped(self) -> None:
        """An optimizer of the model has stepped, or step() was called."""
        if self._closed or torch_state.is_graph_captured():  # a step that is captured is not computed
            return
        if not self._stepped:
            self._stepped = True
            self._forwards = 0
            self._step = self._first_step  # whatever the forwards of the first step had counted
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
        if self._spy.seconds > 0:
            self._note_spent(self._step)
        if self.cost.step_ends(self._step):
            self._guarded(self._tell_cost)
        if self._gradients is not None:
            self._gradients.settle(self._step if before_backward else None)
        if self.residual is not None:
            self.residual.step_ends()
        installed = self._spy.installed
        if installed:
            self._spy.settle_shown()
            if self._spy.is_in_doubt:
                self._disarm()
        self._step += 1
        self._passes = {}
        if installed or self._notices.is_followed:
            self._guarded(self._notices.step_ends, installed)
        if self._probe is not None:
            with torch_state.outside_modes():
                self._probe.after_step(self._step)
        if self.projections is not None:
            self._guarded(self.projections.step_ends, self._wanted_layers, *self._position)
        if time.monotonic() - self._alive_at >= ALIVE_EVERY_S:
            self._guarded(self._say_hello)
        self._guarded(self.rearm)

    def _guarded(self, what: Callable[..., None], *args: Any) -> None:
        try:
            with torch_state.outside_modes():
                what(*args)
        except Exception:
            self.failed("a step could not be watched")

    def rearm(self) -> None:
        """Installs or removes the spy, by whether the step that begins now is to be captured."""
        wanted = not self._closed and self.plan.takes_step(self._step) \
            and not FORWARDS_UNTOLD <= self._forwards <= FORWARDS_PER_STEP \
            and self.publisher.listened_to and not self._gives_up()
        if wanted and not self._spy.installed:
            self._arm()
        elif not wanted and self._spy.installed:
            self._disarm()  # which takes some time
            self._note_spent(max(self._first_step, self._step - 1))

    def _arm(self) -> None:
        began = time.perf_counter()
        self._tokens.install(self._root)
        self._spy.install()
        self._spy.seconds += time.perf_counter() - began

    def _disarm(self) -> None:
        began = time.perf_counter()
        self._spy.remove()
        self._tokens.remove()
        self._spy.seconds += time.perf_counter() - began

    def _note_spent(self, step: int) -> None:
        """Counts the time that the spy took since the last call to this step."""
        self.cost.spent(step, self._spy.seconds)
        self._spy.seconds = 0.0

    def _tell_cost(self) -> None:
        """Says what capturing costs, when that is news."""
        news, every = self.cost.news(), self.plan.every
        if news is None:
            return
        self.publisher.tell(**news._asdict())
        self._say_hello()
        if every and not self._told_cost:
            self._told_cost = True
            log.info("job %s: capture: %s of step time (every %d: %s beside a step of %s)", self.publisher.job,
                     percent(news.ratio / every), every, milliseconds(news.capture_seconds), milliseconds(news.step_seconds))

    def _gives_up(self) -> bool:
        """Whether the daemon takes nothing any more: then what would be captured is counted as dropped, once a step."""
        if not self.publisher.stalled:
            return False
        if self._given_up_at != self._step:
            self._given_up_at = self._step
            for layer in self._names.layers.values():
                if self.plan.takes_layer(layer) and self.publisher.wanted(*layer):
                    self.publisher.give_up(*layer)
        return True

    @property
    def _position(self) -> Tuple[int, int]:
        """The epoch, and the step that was done last."""
        return self._epoch, max(self._first_step, self._step - 1)

    def _wanted_layers(self) -> Dict[str, wire.NamedLayer]:
        """The layers that the plan takes of those seen so far, by path, when it takes any step."""
        return {path: layer for path, layer in self._names.layers.items() if self.plan.every and self._taken(path)}

    def _say_hello(self) -> None:
        self._alive_at = time.monotonic()
        self.publisher.hello(self._names.described(), self._epoch, self._step)

    # ------------------------------------------------------ what the spy sees; none of these raises

    def begins(self, module: torch.nn.Module) -> bool:
        """A forward begins, of the model or of a part of it; whether it is to be followed."""
        if self._closed or os.getpid() != self._pid:
            return False
        probing = _probing()
        self._trains = probing is None and torch.is_grad_enabled() and torch_state.graph_task_id is not None
        if probing is not None:  # what a probe runs is no step of the training
            return probing is self
        begins = self._is_training()
        if begins and self._gradients is not None:
            self._gradients.settle()
        self._notices.forward_begins(begins)
        return begins

    def _is_training(self) -> bool:
        """Whether the forward that runs counts."""
        return self._evaluation or torch.is_grad_enabled() or torch_state.is_checkpointed()

    def only_looks(self) -> None:
        """The code that runs is compiled, and no hook may be in it."""
        self._tokens.remove()
        outside = look.outside(self._root)
        if outside is not None:
            self._tokens.install(outside)

    def calls_compiled(self, args: Any, kwargs: Any) -> None:
        """A forward of what is compiled begins with these arguments, for which it is too late to have a hook."""
        with torch_state.outside_modes():
            self._tokens.take(args, kwargs)

    def passes_over(self) -> None:
        """A part of the model runs by itself, which this torch cannot tell from a repeated forward. With steps="manual" nobody
        says whether the model itself was called before."""
        self._notices.part_uncalled(tells=bool(self._handles))

    def saw(self, path: str, call: int, seen: Seen) -> None:
        """The module at `path` did this; `call` counts its attention calls of this forward. Calls without a name yet are kept
        until the forward ends."""
        try:
            if call >= CALLS_PER_FORWARD:
                self._notices.many(path, CALLS_PER_FORWARD)
                return
            path = call_name(path, call)
            placements = placements_of(seen)
            if placements is not None:
                self._unnamed.pop(path, None)
                self._notices.spread(path, placements)
                return
            share = self._shares.of(path, seen, self._spy.entered)
            layer = self._names.layers.get(path)
            plan = self.plan
            if seen.v is not None and not (self.sends_values if isinstance(seen, Queries) else self.wants_values):
                seen = seen._replace(v=None)
            if layer is None:
                self._note_shown(path, seen)
            place = layer or self._names.place_of(path, self._unnamed)
            self._note_padding(place, seen, plan)
            stack = self._names.stack_of(path)
            if stack == "encoder":
                self._tokens.encoder_attends(queries_of(seen)[1])
            if layer is not None and not (plan.takes_layer(layer) and self.publisher.wanted(*layer)):
                return
            microbatch = self._passes.get(path, 0)
            self._passes[path] = microbatch + 1
            context = Context(microbatch, self._tokens.sent(stack, *queries_of(seen)), self._tokens.labelled,
                              beside=self.wants_values)
            if place[0] == "decoder" and place[2] == "cross":
                context = context._replace(present=self._padding.of(queries_of(seen)))
            origin, plan = self._origins.of(path, seen, plan, self._epoch, self._step, place[2] == "cross", context)
            context = context if origin is None else context._replace(state=origin)
            if layer is None:
                self._unnamed[path] = heads_of(seen) * share.of
                if self.projections is not None:
                    self.projections.note(path, seen)
            if self.residual is not None:
                seen = self.residual.added(path, seen, self._spy.entered, place[2] == "self")
            output = None
            if self._gradients is not None:
                output = self._gradients.awaited(path, seen, is_repeated=self._trains and not self._spy.records)
            seen = seen if seen.output is None else seen._replace(output=None)  # what is kept of it must not keep the graph
            found: Sequence[Part] = parts(seen, plan, self._step, share, context, self.publisher.strides)
            if self._gradients is not None and output is not None:
                found = self._gradients.wait(path, found, output, self._epoch, self._step)
            for part in found:
                if layer is not None:
                    self._publish(path, layer, part)
                else:
                    self._keep(path, part)
        except ShareUnknown as why:
            self._notices.unreadable(path, str(why), "Say which: tensor_parallel=(index, size)")
        except Exception:
            self.failed(f"the attention of {path or 'the model'} could not be captured")

    def _note_padding(self, place: wire.Layer, seen: Seen, plan: Plan) -> None:
        """A self-attention of the decoder may tell which queries of a cross-attention are padding."""
        if place[0] != "decoder" or place[2] != "self" or not tells_padding(seen):
            return
        if self._names.layers and not any(plan.takes_layer(cross) for cross in self._names.crosses):
            return
        try:
            self._padding.tell(queries_of(seen), lambda: looker_for_padding(
                seen, plan.samples, self._origins.is_of_device(seen, plan)))
        except Exception:
            self.failed("which queries of cross-attention are padding could not be read")

    @property
    def wants_values(self) -> bool:
        """Whether saw() wants to know what weights are multiplied with."""
        return self.sends_values and self.publisher.takes_values

    def expects(self, path: str, call: int, seen: Seen) -> None:
        """The same may be told later in this forward, or may not. Layers are named in the order in which they run."""
        if call_name(path, call) in self._names.layers:
            return
        self._note_shown(call_name(path, call), seen)
        self._unnamed.setdefault(call_name(path, call), 0)
        if self._names.stack_of(call_name(path, call)) == "encoder":
            self._tokens.encoder_attends()

    def _note_shown(self, path: str, seen: Seen) -> None:
        """Keeps what an attention without a name shows of itself, which its name is made by."""
        if self._names.knows(path):
            return
        cross: Optional[bool] = None
        try:
            queries, keys = queries_of(seen)[1], keys_of(seen)
            for entered in reversed(self._spy.entered[-2:]):  # the kernel may be a module of its own, which has no parameters
                if cross is None and next(entered.module.parameters(), None) is not None:
                    cross = reads_other(entered.inputs, queries, keys)
            ahead = sees_ahead(seen)
            if cross is None and 1 < queries != keys and self._spy.is_looking:  # compiled code shows no inputs of modules
                module: Any = module_at(self._root, path.partition("#")[0])
                cross = may_read_other(inspect.signature(module.forward).parameters)
            self._names.note(path, Shown(cross, ahead))
        except Exception:
            self.failed(f"{path or 'the model'} could not be looked at for its name")

    def leaves_out(self, path: str, call: int, seen: Seen) -> None:
        """It did this, and the user wants nothing of it; a softmax may be no attention. The decoder does not read what its encoder
        does, captured or not."""
        try:
            if self._names.stack_of(call_name(path, call)) == "encoder":
                self._tokens.encoder_attends(queries_of(seen)[1])
        except Exception:
            self.failed(f"what {path or 'the model'} reads could not be told")

    def awaits(self, path: str) -> bool:
        """Backward repeats the module at `path`, which ran without gradients before; whether that is to be followed."""
        return self._gradients is not None and self._gradients.awaits(path)

    def saw_again(self, path: str, call: int, seen: Seen) -> None:
        """The same that saw() was told then, with gradients now."""
        if self._gradients is not None:
            self._gradients.repeated(call_name(path, call), seen.output)

    def ends(self, unseen: Optional[Sequence[str]]) -> None:
        """The forward is done: names what is new, and publishes it. `unseen`: paths of modules that look like attention and showed
        none; None: it broke off, and nothing follows from what was not seen."""
        try:
            pending, self._pending = self._pending, []
            self._pending_bytes = 0
            news = self.judge.news()
            unnamed = [(path, heads) for path, heads in self._unnamed.items() if heads and not self.judge.refuses(path)]
            self._unnamed = {}
            if unnamed and self._names.add(unnamed):
                self.publisher.hello(self._names.described(), self._epoch, self._step)
            for path, part in pending:
                layer = self._taken(path)
                if layer is not None:
                    self._publish(path, layer, part)
            for told in news:
                log.warning("job %s: %s", self.publisher.job, told)
            if unseen is not None:
                self._notices.forward_ends([path for path in unseen if not self.judge.excludes(path)])
        except Exception:
            self.failed("a forward could not be captured")
        finally:
            self._tokens.forget()
            self._padding.forget()
            self.publisher.hurry()  # not before: now a backward follows, which needs no Python

    def failed(self, what: str) -> None:
        """Logs with the current exception, the first time only."""
        self._notices.failed(what)

    def _taken(self, path: str) -> Optional[wire.NamedLayer]:
        """The layer at `path`, if it has a name, and somebody wants it."""
        layer = self._names.layers.get(path)
        return layer if layer is not None and self.plan.takes_layer(layer) and self.publisher.wanted(*layer) else None

    def _publish(self, path: str, layer: wire.Layer, part: Part) -> None:
        step, cost = self._step, self.cost

        def prepare() -> Maker:
            make: Maker = functools.partial(part.copy().make, layer)
            return make if part.kind != "state" else lambda: cost.of_sender(step, make)

        try:
            self.publisher.publish_later(layer, self._epoch, step, part.nbytes, prepare, part.kind)
        except Exception:
            self.failed(f"the attention of {path or 'the model'} could not be captured")

    def _keep(self, path: str, part: Part) -> None:
        """Copies what has no name yet, as much as the queue may hold; the rest is counted when it has one."""
        copied = NOTHING
        if self._pending_bytes + part.nbytes <= self.publisher.queue_bytes and \
                (part.kind == "state" or part.nbytes <= self.publisher.message_bytes):
            self._pending_bytes += part.nbytes
            try:
                copied = part.copy()
            except NotYet:
                return
            except Exception:
                self.failed(f"the attention of {path or 'the model'} could not be captured")
        self._pending.append((path, part._replace(copy=lambda: copied)))

    def cannot_read(self, path: str, why: str) -> None:
        """It did something of which nothing can be copied."""
        self._unnamed.pop(path, None)
        self._notices.unreadable(path, why)

    # ------------------------------------------------------------------------------------ for manual.py

    def running(self) -> Optional[str]:
        """The path of the module whose forward runs now, when that is followed; it publishes by hand."""
        self._spy.told()
        return self._spy.current_path

    def counts(self) -> bool:
        """Whether what runs now in this thread, though it is not followed, is training: not a validation, not a
        forward that a backward pass repeats, not the probe of another watch."""
        return torch_state.is_no_repetition() and self.begins(self._root)

    def tokens(self, stack: str, samples: int, queries: int) -> Any:
        """The token numbers that travel with an attention of the forward that runs, integers [B, T]; None: none."""
        copy = self._tokens.sent(stack, samples, queries)
        if copy is None:
            return None
        return copy.numpy() if fit_32_bits(copy.numpy()) else None

    def wants(self, layer: wire.Layer) -> bool:
        """Whether this attention, which is computed now, is to be published at this step."""
        plan = self.plan
        wanted = plan.takes_step(self._step) and plan.takes_layer(layer) and self.publisher.wanted(*layer)
        if layer[0] == "encoder" and not wanted:
            self._tokens.encoder_attends()
        return wanted

    @property
    def plan(self) -> Plan:
        """The plan that holds: what the daemon says, and what watch() was asked for."""
        return self.publisher.plan_with(self._own_plan)

    def name(self, path: str) -> wire.NamedLayer:
        """The layer that the module at `path` is."""
        if path not in self._names.layers:
            self._names.add([(path, 1)])
        return self._names.layers[path]


def innermost() -> Optional[Watch]:
    """The watch that was opened last and is still open."""
    return next((it for it in (reference() for reference in reversed(_open)) if it is not None), None)


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
