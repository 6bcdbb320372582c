# SPDX-License-Identifier: MIT
"""forwards: what a spy (spy.py) tells of the forwards of a watched model, made into messages.

An attention is named when the first forward that showed it has ended (names.py); until then what was copied of it waits here.
Nothing here raises: our own errors are logged once and swallowed.
"""
from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import os
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch

from ..base import torch_state, wire
from ..base.once import log
from ..base.paths import call_name, module_at
from ..base.plan import Folds, Plan, Samples
from ..forms import look
from ..forms.alike import Alike, Tensors, tensors_of
from ..forms.judge import Judge
from ..forms.seen import (NotCaptured, Queries, Seen, Share, heads_of, keys_of, may_be_masked, placements_of, queries_of,
                          sees_ahead, tells_padding)
from ..forms.shares import Shares, ShareUnknown
from ..forms.sources import may_read_other, reads_other
from ..forms.spy import Entered, Spy
from ..forms.standing import Standing
from ..model.labels import Labels, Texts
from ..model.layers import Shown, says_site
from ..model.names import Names
from ..model.notices import Notices
from ..model.tokens import Tokens
from ..sending.publisher import Maker, Publisher
from ..sending.sender import NotYet
from .calls import NOTHING, Context, Cut, Part, Repeated, looker_for_padding, parts, repeated
from .cost import Cost
from .gradients import Gradients
from .origins import Origins
from .padding import DecoderPadding
from .projections import Projections
from .residual import Residual
from .sketch import Sketches

SMALL_MAX = 64  # parts that were copied in a forward and are not published yet
CALLS_PER_FORWARD = 256  # of one module; what it attends beyond, as a recurrent one does, is not captured

_here = threading.local()


def probed() -> Optional["Forwards"]:
    """The forwards in which a probe runs in this thread now."""
    return getattr(_here, "probed", None)


class _Small(NamedTuple):
    """A small part of a call, of a named layer, that is not published yet."""
    path: str
    layer: wire.NamedLayer
    part: Repeated
    copied: Sequence[torch.Tensor]

    @property
    def nbytes(self) -> int:
        """The bytes of its copy."""
        return self.part.nbytes or self.part.taken.nbytes


class Forwards:
    """The forwards of one watched model. Told and asked from the training thread.

    own_plan      what the training asked for; the rest is the daemon's
    evaluation    forwards without gradients count as well
    tokens        as of tokens.py; values, gradients: they travel with queries, keys and weights
    compiled      what is compiled is seen as it is
    """

    def __init__(self, root: torch.nn.Module, publisher: Publisher, own_plan: Dict[str, Any], share: Share, names: Names,
                 position: Tuple[int, int], evaluation: bool, tokens: Optional[bool], values: bool, gradients: bool,
                 texts: Optional[Texts], patterns: Mapping[str, Sequence[str]], compiled: bool):
        self._root = root
        self._publisher = publisher
        self._own_plan = own_plan
        self._shares = Shares(root, share, publisher.world)
        self.names = names
        self.epoch, self.step = position  # of what is captured next
        self._evaluation = evaluation
        self.sends_values = values  # whether saw() wants to know what weights are multiplied with
        self._passes: Dict[str, int] = {}  # of each attention in this step: forwards that showed it
        self._pending: List[Tuple[str, Part]] = []  # paths without a name yet, and their parts, copied
        self._pending_bytes = 0
        # By what is alike, stack and microbatch, in the forward that runs: the plan, and the parts that it takes of each such call.
        self._repeated: Dict[Tuple[int, str, int], Tuple[Plan, List[Repeated]]] = {}
        self._small: List[_Small] = []  # not published yet
        self._unnamed: Dict[str, int] = {}  # paths and heads, in order; 0: not known to be attention yet
        self._unplaced: Dict[str, str] = {}  # paths of which nothing tells what they attend to, and why
        self._apart: Dict[str, str] = {}  # paths without a name yet whose rows or keys are no positions, and why
        self._trains = False  # the forward that runs began with gradients, and it is known when backward repeats it
        self._padding = DecoderPadding()
        self._pid = os.getpid()
        self.is_closed = False
        self.tells_calls = False  # somebody tells notices of the calls of the model itself
        self.said_at = time.monotonic()  # when a hello was said last
        self.judge = Judge(**patterns, given=names.given, site=names.site_of, counts_heads=share.of == 1)
        self.spy = Spy(root, self, self.judge, compiled)
        self.notices = Notices(root, publisher, self.spy, names, self.say_hello)
        self.cost = Cost()
        self.origins = Origins(publisher, self.cost, values)
        self.gradients = Gradients(publisher, self.taken, self.notices.failed, self.cost) if gradients else None
        self.projections: Optional[Projections] = None  # which are published
        self.sketches: Optional[Sketches] = None  # of the layers that a step captured
        self._captured: Dict[str, Share] = {}  # their paths, in this step, and which heads these were
        self.residual: Optional[Residual] = None  # adds the residual stream to what is captured
        labels = None if texts is None else Labels(texts, self.notices.failed)
        self.tokens = Tokens(root, self.spy, lambda: publisher.is_local if tokens is None else tokens, labels, tokens is not False)

    @property
    def plan(self) -> Plan:
        """The plan that holds: what the daemon says, and what the training asked for."""
        return self._publisher.plan_with(self._own_plan)

    def say_hello(self) -> None:
        """Announces the attentions seen so far, and what else a hello says."""
        self.said_at = time.monotonic()
        self._publisher.hello(self.names.described(), self.epoch, self.step)

    def place(self, epoch: int, step: int) -> None:
        """Says where the training is, for what is captured next."""
        if self._captured and self.sketches is not None:
            self._sketch(self.sketches)
        self.epoch, self.step, self._passes = epoch, step, {}
        if self.residual is not None:
            self.residual.step_ends()

    def _note_captured(self, path: str, share: Share) -> None:
        """This part of the heads of an attention is captured in this step."""
        if self.sketches is not None and "#" not in path:
            self._captured[path] = share

    def _sketch(self, sketches: Sketches) -> None:
        """A step that was captured is over."""
        captured, self._captured = self._captured, {}
        began = time.perf_counter()
        try:
            layers = {path: (layer, share) for path, share in captured.items() if (layer := self.names.layers.get(path)) is not None}
            with torch_state.outside_modes():
                sketches.step_ends(layers, self.epoch, self.step)
        except Exception:
            self.notices.failed("weights of what was captured could not be read")
        self.cost.spent(self.step, time.perf_counter() - began)

    def judge_as(self, other: "Forwards") -> None:
        """From now on what is attention for the other is for these."""
        self.judge = self.spy.judge = other.judge

    @contextlib.contextmanager
    def probing(self) -> Iterator[None]:
        """A probe runs meanwhile, in this thread."""
        _here.probed = self
        try:
            yield
        finally:
            _here.probed = None

    def arm(self) -> None:
        """Begins to follow forwards."""
        began = time.perf_counter()
        self.tokens.install(self._root)
        self.spy.install()
        self.spy.seconds += time.perf_counter() - began

    def disarm(self) -> None:
        """Follows them no more."""
        began = time.perf_counter()
        self.spy.remove()
        self.tokens.remove()
        self.spy.seconds += time.perf_counter() - began

    # ------------------------------------------------------------------------------ told by the spy

    def begins(self, module: torch.nn.Module) -> bool:
        """A forward begins, of the model or of a part of it; whether it is to be followed."""
        if self.is_closed or os.getpid() != self._pid:
            return False
        probing = probed()
        self._trains = probing is None and torch.is_grad_enabled() and torch_state.graph_task_id is not None
        if probing is not None:  # what a probe runs is no step of the training
            return probing is self
        begins = self.is_training()
        if begins and self.gradients is not None:
            self.gradients.settle()
        self.notices.forward_begins(begins)
        return begins

    def is_training(self) -> bool:
        """Whether the forward that runs counts."""
        return self._evaluation or torch.is_grad_enabled() or torch_state.is_checkpointed()

    @property
    def is_settled(self) -> bool:
        """Whether nothing that is captured asks for modules that do not attend."""
        return self.gradients is None and self.residual is None and (self.projections is None or self.projections.is_settled)

    def only_looks(self) -> None:
        """The code that runs is compiled, and no hook may be in it."""
        self.tokens.remove()
        outside = look.outside(self._root)
        if outside is not None:
            self.tokens.install(outside)

    def calls_compiled(self, args: Any, kwargs: Any) -> None:
        """A forward of what is compiled begins with these arguments, for which it is too late to have a hook."""
        with torch_state.outside_modes():
            self.tokens.take(args, kwargs)

    def passes_over(self) -> None:
        """A part of the model runs by itself, which this torch cannot tell from a repeated forward. With steps="manual" nobody
        says whether the model itself was called before."""
        self.notices.part_uncalled(tells=self.tells_calls)

    def saw(self, path: str, call: int, seen: Seen) -> Optional[Share]:
        """The module at `path` did this; `call` counts its attention calls of this forward. Calls without a name yet are kept
        until the forward ends. Returns the share of the layer's heads, once saw_alike() may be told of such calls."""
        try:
            if call >= CALLS_PER_FORWARD:
                self.notices.many(path, CALLS_PER_FORWARD)
                return None
            path = call_name(path, call)
            placements = placements_of(seen)
            if placements is not None:
                self._unnamed.pop(path, None)
                self.notices.spread(path, placements)
                return None
            share = self._shares.of(path, seen, self.spy.entered)
            layer = self.names.layers.get(path)
            if layer is None:
                if not self.names.knows(path) and path not in self._unplaced:
                    self._note_shown(path, seen, self.spy.entered)
                if path in self._unplaced:
                    self._unnamed.pop(path, None)
                    self.notices.unplaced(path, self._unplaced[path])
                    return None
                if may_be_masked(seen):
                    self.notices.unclear(path)
            self._take(path, layer, seen, share)
            return None if layer is None else share
        except ShareUnknown as why:
            self.notices.unreadable(path, str(why), "Say which: tensor_parallel=(index, size)")
        except Exception:
            self.notices.failed(f"the attention of {path or 'the model'} could not be captured")
        return None

    def saw_alike(self, path: str, call: int, alike: Alike, tensors: Tensors) -> None:
        """As saw(), of a call that differs from one of the same number there in nothing but numbers, those of these tensors."""
        try:
            path = call_name(path, call)
            layer, microbatch = self.names.layers.get(path), self._passes.get(path, 0)
            known = None if layer is None else self._repeated.get((id(alike), layer.stack, microbatch))
            if layer is None or known is None:
                self._take(path, layer, alike.seen._replace(**tensors), alike.share, alike)
                return
            self._passes[path] = microbatch + 1
            plan, found = known
            if plan.takes_layer(layer) and self._publisher.wanted(*layer):
                self._note_captured(path, alike.share)
                self._take_repeated(path, layer, found, tensors)
        except Exception:
            self.notices.failed(f"the attention of {path or 'the model'} could not be captured")

    def _take_repeated(self, path: str, layer: wire.NamedLayer, found: Sequence[Repeated], tensors: Tensors) -> None:
        for part in found:
            if part.chosen is not None:
                self._small.append(_Small(path, layer, part, part.copied(tensors)))
            else:
                self._publish_small()
                self._publish_cut(path, layer, part.taken.nbytes, functools.partial(part.cut, tensors))
        if len(self._small) >= SMALL_MAX:
            self._publish_small()

    def _publish_small(self) -> None:
        """Publishes small parts of calls: all together, which takes less time than each in the midst of the model."""
        found, self._small = self._small, []
        for kind, some in itertools.groupby(found, lambda small: small.part.kind):
            those = list(some)
            self._publisher.publish_made([small.nbytes for small in those], functools.partial(_made, those), self.epoch, self.step, kind,
                                         more=True)

    def _take(self, path: str, layer: Optional[wire.NamedLayer], seen: Seen, share: Share, alike: Optional[Alike] = None) -> None:
        """Captures the parts of a call that the plan takes. `alike`: what others of the forward may be as well."""
        plan = self.plan
        if seen.v is not None and not self.sends_values:
            seen = seen._replace(v=None)
        place = layer or self.names.place_of(path, self._unnamed)
        microbatch = self._passes.get(path, 0)
        self._passes[path] = microbatch + 1
        size = queries_of(seen)
        samples = self._samples(path, seen, plan, microbatch, *size)
        self._note_padding(place, seen, plan, samples)
        stack = self.names.stack_of(path)
        if stack == "encoder":
            self.tokens.encoder_attends(size[1])
        if layer is not None and not (plan.takes_layer(layer) and self._publisher.wanted(*layer)):
            return
        self._note_captured(path, share)
        context = Context(microbatch, self.tokens.sent(stack, *size), self.tokens.labelled,
                          beside=self.sends_values, samples=samples, numbers=self.tokens.there(stack, *size))
        if place[0] == "decoder" and place[2] == "cross":
            context = context._replace(present=self._padding.of(size, samples))
        plan, context = self.origins.of(path, seen, plan, self.epoch, self.step, place[2] == "cross", context)
        if layer is None:
            self._unnamed[path] = heads_of(seen) * share.of
        if self.projections is not None and path not in self.projections.settled:
            self.projections.note(path, seen)
            self.spy.follows = self.projections.entered if self.projections.follows else None
        if self.residual is not None:
            seen = self.residual.added(path, seen, self.spy.entered, place[2] == "self")
        output = None
        if self.gradients is not None:
            output = self.gradients.awaited(path, seen, is_repeated=self._trains and not self.spy.records)
        seen = seen if seen.output is None else seen._replace(output=None)  # what is kept of it must not keep the graph
        if alike is not None and layer is not None and context.sums is None and not self.names.crosses:
            again = repeated(seen, plan, self.step, share, context)
            self._repeated[id(alike), layer.stack, microbatch] = plan, again
            self._take_repeated(path, layer, again, tensors_of(seen))
            return
        found: Sequence[Part] = parts(seen, plan, self.step, share, context)
        if self.gradients is not None and output is not None:
            found = self.gradients.wait(path, found, output, self.epoch, self.step)
        for part in found:
            if layer is not None:
                self._publish(path, layer, part)
            else:
                self._keep(path, part)

    def _samples(self, path: str, seen: Seen, plan: Plan, microbatch: int, batch: int, queries: int) -> Samples:
        """The samples that the plan takes of the attention at `path` in this forward."""
        if plan.samples == 0:
            return Samples(slice(0, batch, 1), batch, batch)
        folds, logits = self.tokens.batches.folds(path, batch, self.tokens.sizes, seen), 0
        if folds.each > 1:
            logits = heads_of(seen) * queries * keys_of(seen)
            if folds.apart == 0 and batch > folds.each:
                self.notices.folded(path, batch, batch // folds.each)
        return plan.take((self._publisher.run, self.step, microbatch), batch, folds, logits)

    def _note_padding(self, place: wire.Layer, seen: Seen, plan: Plan, samples: Samples) -> None:
        """A self-attention of the decoder may tell which queries of a cross-attention are padding."""
        if place[0] != "decoder" or place[2] != "self" or not tells_padding(seen):
            return
        if self.names.layers and not any(plan.takes_layer(cross) for cross in self.names.crosses):
            return
        try:
            self._padding.tell(queries_of(seen), lambda: looker_for_padding(
                seen, samples, self.origins.is_of_device(seen, plan)))
        except Exception:
            self.notices.failed("which queries of cross-attention are padding could not be read")

    def expects(self, path: str, call: int, seen: Seen, entered: Sequence[Entered]) -> None:
        """The same may be told later in this forward, or may not, by the modules that run now, the innermost last. Layers are named in
        the order in which they run. May be told again, when more is known."""
        path = call_name(path, call)
        if path in self.names.layers:
            return
        if self.names.given_to(path) is None:
            self._unplaced.pop(path, None)
            self._note_shown(path, seen, entered)
        self._unnamed.setdefault(path, 0)
        if self.names.stack_of(path) == "encoder":
            self.tokens.encoder_attends()

    def _note_shown(self, path: str, seen: Seen, running: Sequence[Entered]) -> None:
        """Keeps what an attention without a name shows of itself, which its name is made by."""
        cross: Optional[bool] = None
        try:
            queries, keys = queries_of(seen)[1], keys_of(seen)
            modules = [entered for entered in running[-3:] if next(entered.module.parameters(), None) is not None]
            for entered in reversed(modules[-2:]):  # what computes the attention may be a module of its own, without parameters
                if cross is None:
                    cross = reads_other(entered.inputs, seen, {**vars(entered.module), **entered.module._buffers})
                    if cross is False and queries != keys and "cross" in type(entered.module).__name__.lower():
                        cross = True  # a class token that reads all tokens of the same tensor
            if cross is None and 1 < queries != keys and self.spy.is_looking:  # compiled code shows no inputs of modules
                module: Any = module_at(self._root, path.partition("#")[0])
                cross = may_read_other(inspect.signature(module.forward).parameters)
            standing, ahead = Standing() if cross else self.judge.standing(path, seen), sees_ahead(seen)
            apart, offset = standing.apart, standing.offset
            if not cross and apart is None and offset is None and queries > keys and not _says_positions(seen):
                apart = "it has fewer keys than queries"
            if apart is not None:
                self._apart[path] = apart
            if ahead is None and (apart is not None or (offset is not None and offset < keys - queries)):
                ahead = True  # as a class token that reads all
            self.names.note(path, Shown(cross, ahead, apart is not None))
        except NotCaptured as why:
            if not says_site(path):
                self._unplaced[path] = str(why)
        except Exception:
            self.notices.failed(f"{path or 'the model'} could not be looked at for its name")

    def leaves_out(self, path: str, call: int, seen: Seen) -> None:
        """It did this, and the user wants nothing of it; a softmax may be no attention. The decoder does not read what its encoder
        does, captured or not."""
        try:
            if self.names.stack_of(call_name(path, call)) == "encoder":
                self.tokens.encoder_attends(queries_of(seen)[1])
        except Exception:
            self.notices.failed(f"what {path or 'the model'} reads could not be told")

    def awaits(self, path: str) -> bool:
        """Backward repeats the module at `path`, which ran without gradients before; whether that is to be followed."""
        return self.gradients is not None and self.gradients.awaits(path)

    def saw_again(self, path: str, call: int, seen: Seen) -> None:
        """The same that saw() was told then, with gradients now."""
        if self.gradients is not None:
            self.gradients.repeated(call_name(path, call), seen.output)

    def ends(self, unseen: Optional[Sequence[str]]) -> None:
        """The forward is done: names what is new, and publishes it. `unseen`: paths of modules that look like attention and showed
        none; None: it broke off, and nothing follows from what was not seen."""
        try:
            self._publish_small()
            pending, self._pending, self._repeated = self._pending, [], {}
            self._pending_bytes = 0
            news = self.judge.news()
            unnamed = [(path, heads) for path, heads in self._unnamed.items() if heads and not self.judge.refuses(path)]
            self._unnamed, self._unplaced = {}, {}
            for path in [path for path, _ in unnamed if path in self._apart]:
                self.notices.apart(path, self._apart[path])
            self._apart = {}
            if unnamed and self.names.add(unnamed):
                self._publisher.hello(self.names.described(), self.epoch, self.step)
            for path, part in pending:
                layer = self.taken(path)
                if layer is not None:
                    self._publish(path, layer, part)
            for told in news:
                log.warning("job %s: %s", self._publisher.job, told)
            if unseen is not None:
                self.notices.forward_ends([path for path in unseen if not self.judge.excludes(path)])
        except Exception:
            self.notices.failed("a forward could not be captured")
        finally:
            self.tokens.forget()
            self._padding.forget()
            if self.projections is not None:
                self.projections.forward_ends()
                self.spy.follows = None
            self._publisher.hurry()  # not before: now a backward follows, which needs no Python

    def taken(self, path: str) -> Optional[wire.NamedLayer]:
        """The layer at `path`, if it has a name, and somebody wants it."""
        layer = self.names.layers.get(path)
        return layer if layer is not None and self.plan.takes_layer(layer) and self._publisher.wanted(*layer) else None

    def _publish(self, path: str, layer: wire.Layer, part: Part) -> None:
        self._publish_small()  # which were before
        self._publish_cut(path, layer, part.nbytes, part.copy, part.kind)

    def _publish_cut(self, path: str, layer: wire.Layer, nbytes: int, copy: Callable[[], Cut], kind: Optional[str] = None) -> None:
        step, cost = self.step, self.cost

        def prepare() -> Maker:
            make: Maker = functools.partial(copy().make, layer)
            return make if kind != "rows" else lambda: cost.of_sender(step, make)

        try:
            self._publisher.publish_later(layer, self.epoch, step, nbytes, prepare, kind)
        except Exception:
            self.notices.failed(f"the attention of {path or 'the model'} could not be captured")

    def _keep(self, path: str, part: Part) -> None:
        """Copies what has no name yet, as much as the queue may hold; the rest is counted when it has one."""
        copied = NOTHING
        if self._pending_bytes + part.nbytes <= self._publisher.queue_bytes and \
                (part.kind == "rows" or part.nbytes <= self._publisher.message_bytes):
            self._pending_bytes += part.nbytes
            try:
                copied = part.copy()
            except NotYet:
                return
            except Exception:
                self.notices.failed(f"the attention of {path or 'the model'} could not be captured")
        self._pending.append((path, part._replace(copy=lambda: copied)))

    def cannot_read(self, path: str, why: str) -> None:
        """It did something of which nothing can be copied."""
        self._unnamed.pop(path, None)
        self.notices.unreadable(path, why)

    # ------------------------------------------------------------------------------ asked by manual.py

    def running(self) -> Optional[str]:
        """The path of the module whose forward runs now, when that is followed; it publishes by hand."""
        self.spy.told()
        return self.spy.current_path

    def counts(self) -> bool:
        """Whether what runs now in this thread, though it is not followed, is training: not a validation, not a
        forward that a backward pass repeats, not the probe of another watch."""
        return torch_state.is_no_repetition() and self.begins(self._root)

    def tokens_of(self, stack: str, samples: int, queries: int) -> Any:
        """The token numbers that travel with an attention of the forward that runs, integers [B, T]; None: none."""
        copy = self.tokens.sent(stack, samples, queries)
        return None if copy is None else copy.ids

    def wants(self, layer: wire.Layer) -> bool:
        """Whether this attention, which is computed now, is to be published at this step."""
        plan = self.plan
        wanted = plan.takes_step(self.step) and plan.takes_layer(layer) and self._publisher.wanted(*layer)
        if layer[0] == "encoder" and not wanted:
            self.tokens.encoder_attends()
        return wanted

    def samples_by_hand(self, layer: wire.Layer, batch: int) -> Samples:
        """The samples that the plan takes of this attention, which is computed now."""
        said = f"by hand {layer}"
        number = self._passes[said] = self._passes.get(said, -1) + 1
        return self.plan.take((self._publisher.run, self.step, number), batch, Folds(), 0)

    def name(self, path: str) -> wire.NamedLayer:
        """The layer that the module at `path` is."""
        if path not in self.names.layers:
            self.names.add([(path, 1)])
        return self.names.layers[path]


def _made(found: Sequence[_Small]) -> Iterator[Tuple[wire.Layer, int, Maker]]:
    """The messages of small parts."""
    for small in found:
        yield small.layer, small.nbytes, functools.partial(small.part.made, small.copied, small.layer)


def _says_positions(seen: Seen) -> bool:
    """Whether the call itself says where its queries stand."""
    return isinstance(seen, Queries) and (seen.causal or bool(seen.window) or seen.documents is not None)
