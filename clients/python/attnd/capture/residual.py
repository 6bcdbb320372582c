# SPDX-License-Identifier: MIT
"""residual: what a head writes to the residual stream, and the stream that its layer reads.

    wo_r     [H, r, dv]: R of the QR of W_o's columns of each head, so that abs(R u) = abs(W_o,h u). W_o is found as
             projections.py has it, and copied once a step; the sender thread makes the QR
    x_norm   [B, Tq]: norms of what the layer gets: the first argument [B, Tq, width] of the block that a
             self-attention is in (the nearest module around it with a number). A cross-attention reads the stream
             later in its block, where no module gets it, so it has none. Where B = Tq the shape does not tell samples
             from queries: it is taken of blocks of torch and transformers, and of attentions that say batch_first

Both are for attention that travels with values. Each is left out where it is not found; the first that is not is
told. Nothing here loses a message: what fails is told once, and the message goes without them.
"""
from __future__ import annotations

import re
from typing import TYPE_CHECKING, Callable, Dict, Mapping, Optional, Sequence, Tuple

import numpy as np
import torch

from ..base.once import Once
from ..forms.seen import Seen, heads_of, queries_of
from ..sending.publisher import Publisher
from .applied import Refused
from .projections import find_output, modules_of

if TYPE_CHECKING:
    from ..forms.spy import Entered


class Residual:
    """Finds them for the captured calls of one watch, from the training thread. `given`: as projections= has it."""

    def __init__(self, root: torch.nn.Module, publisher: Publisher, given: Mapping[str, str]):
        self._root = root
        self._publisher = publisher
        self._given = given
        self._modules: Dict[str, torch.nn.Module] = {}
        self._factors: Dict[str, Optional[Factor]] = {}  # of this step, by path
        self._once = Once(publisher.job)

    def step_ends(self) -> None:
        """The optimizer has changed the weights."""
        self._modules, self._factors = {}, {}

    def added(self, path: str, seen: Seen, entered: Sequence[Entered], is_self: bool) -> Seen:
        """The call at `path` with them. `entered`: the modules that run, the innermost last."""
        if seen.v is None:
            return seen
        path = path.partition("#")[0]
        try:
            if path not in self._factors:
                self._factors[path] = self._factor(path, heads_of(seen), int(seen.v.shape[3]))
            factor = self._factors[path]
            if factor is None or factor.width != int(seen.v.shape[3]):
                return seen
            stream = _stream(queries_of(seen), entered) if is_self else None
            if is_self and stream is None:
                self._once.warn("stream", "residual_share of %s is left out: the first argument of the block around it is no tensor "
                                "[B, T, width], or its order is not certain", path or "the model")
            return seen._replace(wo_r=factor, x=stream)
        except Exception as error:  # as tensors of torch.func.grad do, which have no memory
            self._factors[path] = None
            self._once.warn("failed", "what the heads of %s write is left out, as it could not be read (%s: %s); residual=False "
                            "silences this", path or "the model", type(error).__name__, error)
            return seen

    def _factor(self, path: str, heads: int, width: int) -> Optional["Factor"]:
        self._modules = self._modules or modules_of(self._root)
        try:
            matrix = find_output(self._modules, path, heads, width, self._given)
            if not self._publisher.has_room(matrix.nbytes):
                return None
            return Factor(matrix.copy(floats=True), heads, matrix.shape[1])
        except Refused as refused:
            self._once.warn("refused", "what the heads of %s write is not known, as W_o is not: %s; residual=False silences this",
                            path or "the model", refused)
            return None


class Factor:
    """W_o of a layer in one step, copied; what it gives, on the sender thread, is R of the QR of each head's columns: f32
    [H, r, dv]. `columns`: of all heads."""

    def __init__(self, copied: Callable[[], Tuple[str, np.ndarray]], heads: int, columns: int):
        self.width = columns // heads
        self._heads = heads
        self._copied: Optional[Callable[[], Tuple[str, np.ndarray]]] = copied
        self._made: Optional[np.ndarray] = None

    def __call__(self) -> np.ndarray:
        if self._made is None and self._copied is not None:
            _, whole = self._copied()
            by_head = torch.from_numpy(np.ascontiguousarray(whole)).view(len(whole), self._heads, self.width).transpose(0, 1)
            self._made, self._copied = np.asarray(torch.linalg.qr(by_head, mode="r")[1].float().numpy()), None
        assert self._made is not None
        return self._made


def _stream(size: Tuple[int, int], entered: Sequence["Entered"]) -> Optional[torch.Tensor]:
    """[B, Tq, width]: what the block of the attention that runs was called with; `size`: its samples and queries."""
    *around, attention = entered
    block = next((module for module in reversed(around) if re.search(r"\d$", module.path)), None)
    if block is None or re.search(r"\d$", attention.path) or not isinstance(block.first, torch.Tensor):
        return None
    given = block.first.detach()
    if given.dim() != 3 or not given.is_floating_point():
        return None
    given = given.transpose(0, 1) if getattr(attention.module, "batch_first", True) is False else given
    if size[0] == size[1] > 1 and not _order_is_known(block, attention):
        return None
    return given if tuple(given.shape[:2]) == size else None


def _order_is_known(block: "Entered", attention: "Entered") -> bool:
    """Whether samples come first where `_stream` says so, without a look at the shape. batch_first=False is the default,
    so a block by hand may well transpose."""
    forward = str(getattr(type(block.module).forward, "__module__", ""))
    return getattr(attention.module, "batch_first", None) is True or \
        forward.startswith(("torch.nn.modules.transformer", "transformers."))
