# SPDX-License-Identifier: MIT
"""induction: the inputs of `probe="induction"`, random tokens that come twice, made to fit the model.

A number that the embedding does not have would end a training on CUDA, so nothing is guessed. The first captured forward
of the training shows how the model is called, how long its texts are, and which embedding its tokens index. Ranks of a
sharded model have to run a probe together, and not all of them see a captured forward: with several ranks the model
itself says it, as those of Hugging Face do.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple

import torch

from ..base.hook import Hook
from ..base.once import Once
from ..base.torch_state import is_compiling
from .hooks import remove_all

LENGTH_MAX = 128  # tokens of the probe, both times together
LENGTH_MIN = 4
ASKED_MAX = 3  # times that the probe was due, until it is told that nothing is known
_REMEDY = "probe=attnd.repeated_tokens(vocabulary, length) says what to run"

Call = Tuple[Sequence[Any], "Mapping[str, Any]"]


class Named(NamedTuple):
    """Token numbers among the arguments of a forward, and what that argument is called, as far as it is known."""
    name: str
    value: torch.Tensor


def repeated_tokens(vocabulary: int, length: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    """int64 [batch, 2 * length]: random tokens below `vocabulary`, and the same ones again."""
    generator = torch.Generator().manual_seed(seed)
    once = torch.randint(vocabulary, (batch, length), generator=generator)
    return torch.cat([once, once], dim=1)


class NoInduction(ValueError):
    """The model cannot be asked for induction."""


class InductionInputs:
    """The arguments with which a model is run. NoInduction for a model that has no use for them."""

    def __init__(self, root: torch.nn.Module, job: str):
        self._what = f"probe='induction': {type(root).__name__}"
        self._once = Once(job)
        self._config = getattr(root, "config", None)
        self._embeddings = _embeddings(root)
        self._call: Optional[Call] = None
        self._handles: List[Any] = []
        self._asked = 0
        if getattr(self._config, "is_encoder_decoder", False) or \
                any(isinstance(module, torch.nn.Transformer) for module in root.modules()):
            raise NoInduction(f"{self._what} has an encoder and a decoder; induction is asked of decoders alone")
        if not self._embeddings:
            raise NoInduction(f"{self._what} has no torch.nn.Embedding that tokens are looked up in; {_REMEDY}")

    def make_on_all_ranks(self) -> None:
        """Makes them of what the model says itself. NoInduction when it does not."""
        longest = getattr(self._config, "max_position_embeddings", None)
        if len(self._embeddings) > 1 or not isinstance(longest, int):
            raise NoInduction(f"{self._what} does not say, in get_input_embeddings() and config.max_position_embeddings, what "
                              f"all ranks have to run; {_REMEDY}")
        self._make(self._embeddings[0], longest, lambda made: ((made,), {}))

    def take(self) -> Optional[Call]:
        """The arguments and keyword arguments; None: they are not known yet, or cannot be."""
        self._asked += 1
        if self._call is None and self._asked == ASKED_MAX:
            self._tell(f"no captured step has shown yet that the model is given tokens, {LENGTH_MIN} or more at once")
        return self._call

    def look(self, args: Sequence[Any], given: Sequence[Named], of_decoder: bool) -> None:
        """A forward that is followed begins, and was given these tokens, the likeliest first."""
        if self._call is not None or not given:
            return
        (name, tokens), first = given[0], args[0] if args else None
        if of_decoder:
            self._tell("the model has an encoder and a decoder")
        elif first is tokens:
            self._await(tokens, lambda made: ((made,), {}))
        elif isinstance(first, Mapping) and first.get(name) is tokens:
            self._await(tokens, lambda made: (({name: made},), {}))
        elif name:
            self._await(tokens, lambda made: ((), {name: made}))
        else:
            self._tell("tokens are not the first argument of the model")

    def done(self) -> None:
        """The forward is over."""
        if self._handles:
            self._tell("no torch.nn.Embedding of the model is indexed by its tokens")

    def _await(self, tokens: torch.Tensor, call: Any) -> None:
        """Until an embedding is given the tokens."""
        def indexed(embedding: torch.nn.Module, ids: torch.Tensor) -> None:
            if ids.numel() == tokens.numel() and torch.equal(ids.reshape(-1).to(tokens), tokens.reshape(-1)):
                self._make(embedding, int(tokens.shape[1]), call)

        remove_all(self._handles)
        self._handles = [embedding.register_forward_pre_hook(_EmbeddingHook(self, indexed)) for embedding in self._embeddings]

    def _make(self, embedding: Any, longest: int, call: Any) -> None:
        remove_all(self._handles)
        count = min(int(embedding.num_embeddings), getattr(self._config, "vocab_size", None) or embedding.num_embeddings)
        length = min(longest, LENGTH_MAX)
        if length < LENGTH_MIN:  # others may be longer
            return
        tokens = repeated_tokens(count, -(-length // 2))[:, :length]
        padding = getattr(self._config, "pad_token_id", None)
        padding = embedding.padding_idx if padding is None else padding
        if padding is not None:  # which the model may not attend to
            tokens[tokens == padding] = (padding + 1) % count
        self._call = call(tokens)

    def _tell(self, why: str) -> None:
        remove_all(self._handles)
        self._once.warn("why", "probe='induction' is not run: %s; %s", why, _REMEDY)


class _EmbeddingHook(Hook):
    def __init__(self, owner: InductionInputs, indexed: Any):
        super().__init__(owner)
        self._indexed = indexed

    def __call__(self, module: torch.nn.Module, args: Any) -> None:
        if not is_compiling() and args and isinstance(args[0], torch.Tensor):
            self._indexed(module, args[0])


def _embeddings(root: torch.nn.Module) -> List[torch.nn.Module]:
    """That of the tokens, where the model says which one it is, else all."""
    try:
        said = root.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return [module for module in root.modules() if isinstance(module, torch.nn.Embedding)]
    return [said] if isinstance(said, torch.nn.Embedding) else []
