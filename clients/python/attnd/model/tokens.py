# SPDX-License-Identifier: MIT
"""tokens: the token numbers that a model is given.

Whoever watches says whether they travel: `tokens=True` always, False never. None, the default, means that they do when
attnd is reached through a Unix socket, so that they stay on the machine. That is asked for each message, as the attnd
that is found may be another one later.
"""
from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, TypeVar

import torch

from ..base.torch_state import is_graph_captured
from ..forms.spy import Spy
from ..sending.devices import HostCopy
from .folds import Batches
from .hooks import TokensHook
from .induction import InductionInputs, Named
from .labels import ForwardLabels, Labels


_T = TypeVar("_T")


class Tokens:
    """The token numbers of the model's input: of the integer tensors [B, T] among its arguments, also in one that is a
    dict, `input_ids`, else the first one that is not called something else. `decoder_input_ids` or `tgt` are those of
    the decoder; those that an encoder has read are not, though its texts may be as long. Also the sizes that the model's
    batch may have.

    Its hook is in the model only while forwards are followed, and what it copies is kept for one forward."""

    def __init__(self, root: torch.nn.Module, spy: Spy, travel: Callable[[], bool], labels: Optional[Labels], read: bool):
        self._spy = spy
        self._travel = travel
        self._read = read  # tokens are read on their device
        self._labels = labels
        self._handle: Any = None
        self._copies: Dict[str, HostCopy] = {}  # by stack; "": of the model
        self._given: Dict[str, torch.Tensor] = {}  # likewise
        self.batches = Batches(root)
        self._sizes: Set[int] = set()
        self._encoded = False  # an encoder has read the tokens of the model
        self._labelled: Optional[ForwardLabels] = None  # texts of the forward that runs
        self._names = _parameter_names(root)
        self._two_stacks = bool(getattr(getattr(root, "config", None), "is_encoder_decoder", False))
        self.inputs: Optional[InductionInputs] = None  # takes its form from the inputs of the model

    def install(self, module: torch.nn.Module) -> None:
        """Begins to look at what forwards are given, of the model or of what torch.compile made of it."""
        options: Dict[str, bool] = {"with_kwargs": True} if hasattr(torch, "compiler") else {}
        self._handle = module.register_forward_pre_hook(TokensHook(self), **options)

    def take(self, args: Sequence[Any], kwargs: "Mapping[str, Any]") -> None:
        """A forward begins with these arguments."""
        self._spy.settle_shown()
        if self._spy.current_path is None and not self._spy.is_looking:  # this forward is not followed; another thread may follow one
            return
        if is_graph_captured():
            return
        self.forget()
        self._sizes = self.batches.sizes(args, kwargs)
        travel = self._travel()
        if not (travel or self._labels or self.inputs or self._read):
            return
        names = [*self._names, *[""] * len(args)]
        given: List[Named] = []
        for name, value in (*zip(names, args), *kwargs.items()):
            inner = [(str(key), one) for key, one in value.items()] if isinstance(value, Mapping) else [(name, value)]
            given += [Named(called, one) for called, one in inner if _like_tokens(called, one)]
        given.sort(key=lambda entry: entry.name != "input_ids")
        if self.inputs is not None:
            self.inputs.look(args, given, any(_OF_DECODER.match(entry.name) for entry in given))
        for name, value in given:
            stack = "decoder" if _OF_DECODER.match(name) else ""
            if stack not in self._given:
                self._given[stack] = value.detach()
                if travel or self._labels:
                    self._copies[stack] = HostCopy(value)

    def sent(self, stack: str, samples: int, queries: int) -> Optional[HostCopy]:
        """The tokens that travel with an attention of this size in the forward that runs; None: none."""
        tokens = self.of(stack)
        if tokens is None or tokens.shape[1] != queries:
            return None
        return tokens if self._travel() and tokens.shape[0] == samples else None

    def there(self, stack: str, samples: int, queries: int) -> Optional[torch.Tensor]:
        """The tokens of an attention of this size, integers [B, T] where they are; None: none."""
        tokens = self._of(self._given, stack) if self._read else None
        return tokens if tokens is not None and tokens.shape == (samples, queries) else None

    @property
    def sizes(self) -> Set[int]:
        """The sizes that the model's batch may have; of a part of it that runs by itself, by what that was given."""
        if not self._sizes and self._spy.entered:
            outermost = self._spy.entered[0]
            self._sizes = self.batches.sizes(outermost.args, outermost.frame.f_locals.get("kwargs") or {})
        return self._sizes

    def encoder_attends(self, queries: Optional[int] = None) -> None:
        """An encoder attends in the forward that runs, captured or not; `queries` None: how many is not known."""
        read = self._given.get("")
        if read is not None and queries in (None, read.shape[1]):
            self._encoded = True

    def of(self, stack: str) -> Optional[HostCopy]:
        """The tokens that the stack reads in the forward that runs; None when they are not known."""
        return self._of(self._copies, stack)

    def _of(self, those: Dict[str, _T], stack: str) -> Optional[_T]:
        if stack == "decoder" and ("decoder" in those or self._encoded or self._two_stacks):
            return those.get("decoder")
        return those.get("")

    @property
    def labelled(self) -> Optional[ForwardLabels]:
        """The texts of those of the forward that runs; None when there are no labels."""
        if self._labelled is None and self._labels is not None:
            self._labelled = ForwardLabels(self._labels, self.of)
        return self._labelled

    def forget(self) -> None:
        """The forward is done."""
        self._copies, self._given, self._labelled, self._encoded, self._sizes = {}, {}, None, False, set()
        if self.inputs is not None:
            self.inputs.done()

    def remove(self) -> None:
        """Takes its hook out of the model."""
        if self._handle is not None:
            self._handle.remove()
        self._handle = None
        self.forget()


_OF_DECODER = re.compile(r"decoder_|tgt")
_NO_TOKENS = re.compile(r"mask|type|position|(^|_)pos(_|$)|label|target|segment|padding|length|(^|_)lens?(_|$)|cache|index|embed")


def _like_tokens(name: str, value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 2 and value.dtype in (torch.int64, torch.int32) \
        and not _NO_TOKENS.search(name)


def _parameter_names(root: torch.nn.Module) -> List[str]:
    """The names of what the model's forward takes by position, as far as they are told."""
    try:
        parameters = inspect.signature(root.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
