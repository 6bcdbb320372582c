# SPDX-License-Identifier: MIT
"""problem: what is asked for, checked once, in the form that both backends read."""
from __future__ import annotations

import copy
import math
from typing import Any, Dict, Iterable, Iterator, NamedTuple, Optional

import numpy as np
import torch

from ..base.hidden import hidden_at
from ..base.masks import IGNORED_AT
from ..sending.devices import working_dtype

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
POSITION_MAX = 2**31 - 1
_VECTORS = 1 << 20  # numbers of queries or keys that are looked at, at once, on the CPU, where they are converted before


class Rows(NamedTuple):
    """Numbers of some queries in rising order, i64, the same on the device and on the host."""
    there: torch.Tensor
    here: np.ndarray


class Problem:
    """The arguments of `row_statistics`, whose words these are. `bias` has four dimensions, each full or 1; `group` is
    how many heads read a key head. ValueError when they do not fit each other."""

    def __init__(self, q: torch.Tensor, k: torch.Tensor, scale: Optional[float] = None, causal: bool = False,
                 q_offset: int = 0, window: Optional[int] = None, k_len: Any = None, q_len: Any = None,
                 bias: Optional[torch.Tensor] = None, softcap: Optional[float] = None,
                 sinks: Optional[torch.Tensor] = None, documents: Optional[torch.Tensor] = None, cross: bool = False,
                 local_window: int = 8, q_stride: int = 1):
        check_tensors(q=q, k=k)
        if q.dim() != 4 or k.dim() != 4 or 0 in q.shape or 0 in k.shape:
            raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}: must be [B, H, Tq, d] and [B, Hk, Tk, d]")
        if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or q.shape[1] % k.shape[1]:
            raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}: B and d must be equal, and Hk divide H")
        if q.dtype not in DTYPES or k.dtype != q.dtype or k.device != q.device:
            raise ValueError(f"q {q.dtype} on {q.device}, k {k.dtype} on {k.device}: must be of one device and one of "
                             "f16, bf16, f32, f64")
        self.q, self.k = q.detach(), k.detach()
        self.batch, self.heads, self.queries, self.width = q.shape
        self.key_heads, self.keys = k.shape[1:3]
        self.group = self.heads // self.key_heads
        self.scale = _real("scale", self.width**-0.5 if scale is None else scale)
        self.causal = _flag("causal", causal)
        self.q_stride = _count("q_stride", q_stride, POSITION_MAX // self.queries, 1)
        self.q_offset = _count("q_offset", q_offset, POSITION_MAX - self.queries * self.q_stride)
        self.window = _count("window", 0 if window is None else window, POSITION_MAX)
        self.local_window = _count("local_window", local_window, POSITION_MAX)
        self.softcap = _real("softcap", 0.0 if softcap is None else softcap, 0.0)
        self.k_len = _lengths("k_len", k_len, self.batch, self.keys)
        self.q_len = _lengths("q_len", q_len, self.batch, self.queries)
        self.bias = self._fitted(bias)
        self.sinks = _tensor("sinks", sinks, (self.heads,), q.device)
        documents = _tensor("documents", documents, (self.batch, self.keys), q.device)
        self.documents = None if cross else documents
        self.cross = _flag("cross", cross)
        self.rows: Optional[Rows] = None
        self.first: Optional[torch.Tensor] = None  # visible.first_keys(), i32 [B, Tq], where that is known; None: key 0
        self.replaces = False  # the bias is what takes the place of the logits
        self._hides_at: Optional[torch.Tensor] = None
        self._end = self.position(self.queries)
        self.alike: Dict[Any, Any] = {}  # what was found out of problems whose tensors alone are others

    def _fitted(self, bias: Optional[torch.Tensor]) -> Optional[torch.Tensor]:
        full = (self.batch, self.heads, self.queries, self.keys)
        if bias is None:
            return None
        check_tensors(bias=bias)
        if bias.dim() > 4 or bias.device != self.q.device or not (bias.dtype == torch.bool or bias.is_floating_point()):
            raise ValueError(f"bias {bias.dtype} {tuple(bias.shape)} on {bias.device}: must be bool or real, "
                             f"broadcastable to {full}, on {self.q.device}")
        bias = bias.detach()[(None,) * (4 - bias.dim())]
        if any(one not in (1, all_of_it) for one, all_of_it in zip(bias.shape, full)):
            raise ValueError(f"bias {tuple(bias.shape)}: must be broadcastable to {full}")
        return bias

    def sampled(self, rows: Rows, bias: Optional[torch.Tensor]) -> "Problem":
        """The same with these queries alone; the bias has these or all. `q` still has all; `q_len` has to be unknown."""
        found = copy.copy(self)
        found.rows, found.queries, found.alike = rows, len(rows.here), {}
        found.bias, found._hides_at = (self if bias is not None and bias.shape[2] == self.queries else found)._fitted(bias), None
        return found

    @property
    def bias_of_all(self) -> bool:
        """Whether the bias has all queries, and not `rows` alone."""
        return self.rows is not None and self.bias is not None and self.bias.shape[2] not in (1, self.queries)

    def like(self, q: Any, k: Any, bias: Any, documents: Any, rows: Optional[Rows], sinks: Any = None,
             hides_at: Optional[torch.Tensor] = None, first: Optional[torch.Tensor] = None) -> "Problem":
        """The same with other tensors of the same kind; None where it has none. `hides_at`: where that is known of the bias."""
        found: Problem = object.__new__(Problem)
        found.__dict__.update(self.__dict__)
        found.q, found.k, found.bias, found.documents, found.rows, found.sinks, found.first = q, k, bias, documents, rows, sinks, first
        found._hides_at = hides_at
        return found

    def taken(self) -> "Problem":
        """The same with a `q` and a bias that have no other queries, for what does not look at `rows`."""
        if self.rows is None:
            return self
        found = copy.copy(self)
        found.q = self.q.index_select(2, self.rows.there)
        if self.bias is not None and self.bias_of_all:
            found._hides_at = None if self.bias.dtype == torch.bool else self.hides_at
            found.bias = self.bias.index_select(2, self.rows.there)
        return found

    def number(self, query: Any) -> Any:
        """The number among all queries of a query, or of each of some."""
        if self.rows is None:
            return query
        if not isinstance(query, torch.Tensor):
            return int(self.rows.here[query])
        return (torch.from_numpy(self.rows.here) if query.device.type == "cpu" else self.rows.there)[query]

    def position(self, query: Any) -> Any:
        """Where a query, or each of some, stands among the keys."""
        return self.q_offset + self.number(query) * self.q_stride

    def end(self, queries: Any) -> Any:
        """The position after the first `queries` queries, a number or several; of a sample the position after all queries."""
        return self.q_offset + queries * self.q_stride if self.rows is None else self._end

    @property
    def hides_at(self) -> torch.Tensor:
        """f32 []: what is at or below it in the bias, which is of numbers, hides its key."""
        if self._hides_at is None:
            assert self.bias is not None
            self._hides_at = torch.full((), IGNORED_AT, device=self.bias.device) if self.replaces else hidden_at(self.bias)
        return self._hides_at

    @hides_at.setter
    def hides_at(self, value: torch.Tensor) -> None:
        self._hides_at = value

    def hidden(self, bias: torch.Tensor) -> torch.Tensor:
        """Which entries of a part of the bias hide their key."""
        return ~bias if bias.dtype == torch.bool else bias <= self.hides_at

    def nothing(self) -> torch.Tensor:
        """The numbers that no row has: NaN [B, H, Tq], one number in memory."""
        nan = torch.full((), math.nan, dtype=torch.float32, device=self.q.device)
        return nan.expand(self.batch, self.heads, self.queries)


def slices(count: int, step: int) -> Iterator[slice]:
    """Slices of at most `step`, one at least, that together are slice(0, count)."""
    step = max(1, step)
    return (slice(begin, min(begin + step, count)) for begin in range(0, count, step))


def norms(vectors: torch.Tensor) -> torch.Tensor:
    """[B, H, T], f64 of f64, else f32."""
    working = working_dtype(vectors)
    if vectors.device.type != "cpu":
        return torch.linalg.vector_norm(vectors, dim=-1, dtype=working)  # type: ignore[no-any-return]
    found = torch.empty(vectors.shape[:3], dtype=working, device=vectors.device)
    for some in slices(vectors.shape[2], _VECTORS // (vectors.shape[0] * vectors.shape[1] * vectors.shape[3])):
        torch.linalg.vector_norm(vectors[:, :, some], dim=-1, dtype=working, out=found[:, :, some])
    return found


def inverse(lengths: torch.Tensor, none: float = 0.0) -> torch.Tensor:
    """1 / x, and `none` of zero and of what is not finite."""
    found = lengths.reciprocal()
    return found.masked_fill_(~((found > 0) & (found < math.inf)), none)


def check_tensors(**given: Any) -> None:
    """ValueError for what is no tensor."""
    for name, one in given.items():
        if not isinstance(one, torch.Tensor):
            raise ValueError(f"{name} of type {type(one).__name__}: must be a torch.Tensor")


def _count(name: str, value: Any, maximum: int, minimum: int = 0) -> int:
    try:
        number = None if isinstance(value, (bool, str)) else int(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor of several
        number = None
    if number is None or number != value or not minimum <= number <= maximum:
        raise ValueError(f"{name} = {value!r:.80}: must be an integer, {minimum} to {maximum}")
    return number


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} = {value!r:.80}: must be True or False")
    return bool(value)


def _real(name: str, value: Any, minimum: float = -math.inf) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not math.isfinite(number) or number < minimum:
        raise ValueError(f"{name} = {value!r:.80}: must be a finite number" + (", 0 or more" if minimum == 0 else ""))
    return number


def _lengths(name: str, lengths: Any, batch: int, most: int) -> Optional[torch.Tensor]:
    """Integers [B], where they are; those given as a sequence, or as one for all samples, are judged, and a tensor's are
    clamped unread, lest this waits for its device."""
    if lengths is None:
        return None
    if isinstance(lengths, torch.Tensor):
        found = lengths.detach().clamp(0, most)
    else:
        given = lengths.tolist() if isinstance(lengths, np.ndarray) else lengths
        several = given if isinstance(given, Iterable) else [given] * batch
        found = torch.as_tensor([_count(name, one, most) for one in several], device="cpu")
    if tuple(found.shape) != (batch,) or found.dtype.is_floating_point:
        raise ValueError(f"{name} {found.dtype} {tuple(found.shape)}: must be {batch} integers")
    return found


def _tensor(name: str, value: Optional[torch.Tensor], shape: Any, device: torch.device) -> Optional[torch.Tensor]:
    if value is None:
        return None
    check_tensors(**{name: value})
    if tuple(value.shape) != shape or value.device != device:
        raise ValueError(f"{name} {tuple(value.shape)} on {value.device}: must be {shape} on {device}")
    return value.detach()
