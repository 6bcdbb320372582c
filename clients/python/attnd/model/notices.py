# SPDX-License-Identifier: MIT
"""notices: what a watch says once, in warnings: what of the model is not captured, and why. attnd hears of it as well,
and `python -m attnd` finds it there."""
from __future__ import annotations

import sys
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from ..base import torch_state
from ..base.once import Once, log
from ..base.paths import module_at
from ..forms.spy import Spy
from ..sending.publisher import Publisher
from .names import Names

STEPS_UNCALLED = 3  # captured ones without a forward of the model, until that is told
PARTS_UNCALLED = 64  # forwards of parts of it alone that cannot be followed, until that is told


class Notices:
    """The notices of one watch. `say_hello` sends attnd the layers, with what was told."""

    def __init__(self, root: torch.nn.Module, publisher: Publisher, spy: Spy, names: Names, say_hello: Callable[[], None]):
        self._root, self._publisher, self._spy, self._names, self._say_hello = root, publisher, spy, names, say_hello
        self._once = Once(publisher.job)
        self._told = False  # what is not captured, and why
        self.is_called = False  # a forward of the model was done, or one of a part that is followed began
        self._begun = self._evaluated = False  # a forward was followed; one was left out as a validation
        self._steps_uncalled = self._parts_uncalled = 0
        self._unseen: Dict[str, None] = {}  # paths of attentions in this step that showed none, in order
        self.is_followed = False  # a forward of this step was

    def failed(self, what: str) -> None:
        """Logs with the current exception, the first time only."""
        why = sys.exc_info()[1]
        self._once.warn("failed", "%s: %s: %s. The training goes on, and so does the capture of all else; further failures are not "
                        "logged", what, type(why).__name__, why, exc_info=True)

    @property
    def has_failed(self) -> bool:
        return "failed" in self._once

    # ---------------------------------------------------------------------------- of one attention

    def many(self, path: str, most: int) -> None:
        """A module attends more than `most` times in a forward."""
        self._once.warn("many", "%s attends more than %d times in a forward; the rest is not captured", path or "the model", most)

    def folded(self, path: str, batch: int, of: int) -> None:
        """It is not known which rows of an attention's batch are of one of the model's samples."""
        self._once.warn("folded", "the attention of %s has %d rows in its batch, where the model has %d samples, and nothing tells "
                        "which rows are of one sample: evenly spaced rows of all are captured, here and in others like it. It is "
                        "told in forwards with gradients that are not compiled (compiled=\"eager\"); samples=0 captures all rows",
                        path or "the model", batch, of)

    def spread(self, path: str, placements: Sequence[Any]) -> None:
        """The queries of an attention are spread over ranks."""
        along = any(getattr(one, "dim", None) in (2, -2) for one in placements)
        self._uncaptured("spread", path, f"its queries are a DTensor, {', '.join(map(str, placements))}" + (
            ", spread over ranks along the sequence (context parallelism): none of them has a whole row. "
            "attnd.publish_qk takes a rank's queries with all keys" if along else
            "; what to_local() makes of it is captured"))

    def unreadable(self, path: str, why: str, what_helps: str = "") -> None:
        """An attention cannot be captured."""
        self._uncaptured("unreadable", path, f"it {why}{'. ' + what_helps if what_helps else ''}")

    def unplaced(self, path: str, why: str) -> None:
        """Nothing tells whether an attention reads its own sequence or another one."""
        self._uncaptured("unplaced", path, f"it {why}. Say which, by layers={{{path!r}: ('decoder', 0, 'cross')}} or 'self'")

    def apart(self, path: str, why: str) -> None:
        """The rows or the keys of a self-attention are no positions."""
        self._once.warn("apart", "row i of the attention of %s is not key i, as %s. It, and others like it, are captured as cross-attention: "
                        "their rows, without diagonal, neighbours and induction, while distances go by the numbers of rows and keys. "
                        "layers={%r: ('encoder', 0, 'self')} says that key i is position i", path or "the model", why, path)

    def unclear(self, path: str) -> None:
        """Something was added to the logits of an attention that is not known, or not told from a bias, and may be a mask."""
        self._once.warn("unclear", "%s adds to its logits what cannot be told from a bias, and some keys are 50 or more below others in all heads. "
                        "A mask there, and in others like it, hides only keys whose logits it makes -9000 or less: let it say "
                        "-inf, or torch.finfo(dtype).min", path or "the model")

    def _uncaptured(self, about: str, path: str, why: str) -> None:
        if about in self._once:
            return
        self._told = True
        self._once.warn(about, "the attention of %s is not captured, nor is that of others like it: %s", path or "the model", why)
        self._publisher.tell_uncaptured(f"{path or 'the model'}: {why}")
        self._say_hello()

    # ------------------------------------------------------------------------------ of forwards and steps

    def forward_begins(self, counts: bool) -> None:
        """A forward that is followed. `counts`: it is no validation."""
        self.is_called = self.is_called or counts
        self._begun, self._evaluated = self._begun or counts, self._evaluated or not counts

    def forward_ends(self, unseen: Sequence[str]) -> None:
        """A forward was followed to its end. `unseen`: paths of attentions in it that showed none."""
        self._unseen.update(dict.fromkeys(unseen))
        self.is_followed = True

    def part_uncalled(self, tells: bool) -> None:
        """A part of the model was called alone, and cannot be followed. `tells`: it is known whether the model itself was."""
        self._parts_uncalled += 1
        if tells and self._parts_uncalled >= PARTS_UNCALLED:
            self._tell_uncalled()

    def step_ends(self, captured: bool) -> None:
        """A step is done that was to be captured, or of which a forward was followed."""
        self._steps_uncalled += captured
        if self._steps_uncalled >= STEPS_UNCALLED:
            self._tell_uncalled()
        self._tell_unseen()

    def no_step(self, forwards: int, therefore: str) -> None:
        """No step of the training ended in these forwards."""
        self._once.warn("steps", "no step of an optimizer was seen in %d forwards, %s; call step() of what attnd.watch returned "
                                 "at the end of each", forwards, therefore)

    def alternate(self) -> None:
        """Several optimizers of the model step in turn, after forwards of their own."""
        self._once.warn("turns", "optimizers of the model step in turn, each after a forward of its own, so each ends a step; where "
                                 "they make one together, call step() of what attnd.watch returned at its end")

    def end(self, stepped: bool) -> None:
        """Nothing is captured any more. `stepped`: the training has ended a step."""
        self._tell_unseen()
        if self._evaluated and not self._begun and not stepped and not self._told and not self.has_failed:
            log.warning("job %s: nothing was captured: the model ran only without gradients, which is taken for validation or "
                        "generation. watch(..., evaluation=True) captures that as well", self._publisher.job)

    def _tell_unseen(self) -> None:
        """Judged by a whole step, as its parts may be run one by one."""
        if not self.is_followed:
            return
        unseen, self._unseen, self.is_followed = list(self._unseen), {}, False
        if self._told or self.has_failed or ((self._names.layers or self._spy.was_told) and not unseen):
            return
        self._told = True
        kinds: Dict[Optional[str], List[str]] = {}
        for path in unseen:
            kinds.setdefault(self._spy.kind_of(path), []).append(path)
        unseen = kinds.pop(None, [])
        for kind, paths in kinds.items():
            log.warning("job %s: %s is %s: not captured", self._publisher.job, self._listed(paths), kind)
        if kinds:
            self._publisher.tell_uncaptured("; ".join(f"{paths[0] or 'the model'}: {kind}" for kind, paths in kinds.items()))
            self._say_hello()
        if unseen:
            log.warning("job %s: what %s does cannot be seen: not scaled_dot_product_attention, multi_head_attention_forward or "
                        "a softmax over [B, H, Tq, Tk]%s. Publish its queries and keys with attnd.publish_qk.",
                        self._publisher.job, self._listed(unseen), self._softmaxes())
        elif not kinds and not (self._spy.judge is not None and self._spy.judge.has_told):
            log.warning("job %s: no attention was seen in a forward of the model%s; attnd.publish_qk and "
                        "attnd.publish_attention publish what is computed by other means", self._publisher.job, self._softmaxes())

    def _softmaxes(self) -> str:
        """The softmaxes that were seen, and are none of attention by their shape."""
        found = [] if self._spy.judge is None else self._spy.judge.others()
        return f", but softmaxes over {', '.join(found[:3])}{' and more' if len(found) > 3 else ''}" if found else ""

    def _listed(self, paths: Sequence[str]) -> str:
        """The first module, and how many there are beside it."""
        more = f", and {len(paths) - 1} more module{'s' * (len(paths) > 2)}" if len(paths) > 1 else ""
        return f"{paths[0] or 'the model'} ({type(module_at(self._root, paths[0])).__name__}{more})"

    def _tell_uncalled(self) -> None:
        """The model itself is never called, or its compiled code shows nothing."""
        looking = self._spy.is_looking
        if self._told or self.has_failed or (self._names.layers if looking else self.is_called):
            return
        self._told = True
        if looking:
            log.warning("job %s: nothing is captured: the compiled code of %s shows no attention. It is seen where attnd.watch came "
                        "before the first forward and inductor compiled it; attnd.watch(..., compiled=\"eager\") runs captured "
                        "steps eagerly instead", self._publisher.job, type(self._root).__name__)
            return
        log.warning("job %s: nothing is captured: the watched %s is not called itself, model(...), in steps that are to be "
                    "captured, or only without gradients (evaluation=True)%s. Watch the module that is called%s",
                    self._publisher.job, type(self._root).__name__,
                    ", or it is compiled: then this needs torch 2.6 or newer" if torch_state.compiled_is_unseen else "",
                    "; before torch 2 its parts cannot be followed alone" if self._parts_uncalled else "")
