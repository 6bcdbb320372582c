# SPDX-License-Identifier: MIT
"""head_maps: pooled maps of a layer's heads, for people to look at, which a message of type `rows` may bring."""
from __future__ import annotations

import time
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from ..base import wire

SIDE_MAX = 64  # cells
WEIGHTS_MAX = 1 << 34  # of all maps that are made at one step: of 8 layers of 32 heads, 8192 queries and keys
N_MAX = 1 << 30  # captured steps


class HeadMaps(NamedTuple):
    """Maps of the heads of one sample, each cell the mean over its queries and keys as KERNELS.md, "The maps of the
    heads", has it: of T queries (keys) in min(T, n) rows (columns), for one n of at most 64.

    values       float16 [heads, rows, columns], numpy; NaN where there is no number
    queries, keys             that they are of, without padding
    first_query, first_key    of the sample; what is before them is padding
    queries_sent, keys_sent   of the sample, with padding; by default none comes after the others
    q_offset     position of the sample's first query, padding or not
    sample, batch             its number in the batch, and of how many; 0: not said
    labels, q_labels          texts of all keys, and of the queries of cross-attention, of the sample if `batch` is said, else
                              when `sample` is 0
    """
    values: np.ndarray
    queries: int
    keys: int
    first_query: int = 0
    first_key: int = 0
    queries_sent: Optional[int] = None
    keys_sent: Optional[int] = None
    q_offset: int = 0
    sample: int = 0
    labels: Optional[Sequence[str]] = None
    q_labels: Optional[Sequence[str]] = None
    batch: int = 0

    def sent(self) -> Tuple[int, int]:
        """Queries and keys of the sample, with padding."""
        return (self.first_query + self.queries if self.queries_sent is None else self.queries_sent,
                self.first_key + self.keys if self.keys_sent is None else self.keys_sent)

    def check(self) -> None:
        """ValueError unless they fit each other."""
        if not isinstance(self.values, np.ndarray):
            raise ValueError(f"maps: values of type {type(self.values).__name__}: must be a numpy array")
        shape = self.values.shape
        if self.values.dtype != np.float16 or len(shape) != 3 or 0 in shape or max(shape[1:]) > SIDE_MAX:
            raise ValueError(f"maps of {self.values.dtype} {shape}: must be float16 [heads, rows, columns], at most "
                             f"{SIDE_MAX} rows and columns")
        for name in ("first_query", "first_key", "sample", "batch"):
            wire.check_int(name, getattr(self, name), 2**31 - 1)
        for name in ("queries", "keys"):
            wire.check_int(name, getattr(self, name), 2**31 - 1, 1)
        if shape[1:] != cells(self.queries, self.keys, max(shape[1:])):
            raise ValueError(f"maps of {shape[1]} x {shape[2]} cells: not what {self.queries} queries and {self.keys} keys "
                             "are pooled to")
        queries, keys = self.sent()
        wire.check_int("queries_sent", queries, 2**31 - 1, self.first_query + self.queries)
        wire.check_int("keys_sent", keys, 2**31 - 1, self.first_key + self.keys)
        wire.check_int("q_offset", self.q_offset, 2**32 - 1 - queries)

    def keys_of_header(self) -> Dict[str, Any]:
        """The header's keys about them, labels apart; 0 is left out."""
        said = {"q_offset": self.q_offset, "map_queries": self.queries, "map_keys": self.keys,
                "first_query": self.first_query, "first_key": self.first_key, "sample": self.sample, "batch": self.batch}
        return {name: int(number) for name, number in said.items() if number}


def cells(queries: int, keys: int, side: int) -> Tuple[int, int]:
    """Rows and columns of a map in at most `side` cells a side."""
    return min(queries, side), min(keys, side)


class Turns:
    """Which captures make maps: of each layer those of every n-th captured step, all layers at one step if that is not too
    much, so that they belong together.

    The ranks of tensor parallelism each send a slice of a layer's heads, and attnd joins slices of one step alone. So no
    clock decides whether a step's maps are made, but its number, the plan's `every` and shapes, which all ranks have
    alike. The clock decides n alone: the power of two of captured steps that take as long as attnd says, measured over
    many of them, changed only when it is well off. Ranks seldom differ in it, and where they do, the steps of the larger
    n are among those of the smaller, so that all meet there.

    Any thread, one at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._step: Optional[Tuple[int, int]] = None
        self._begun = 0.0
        self._step_seconds: Optional[float] = None  # smoothed
        self._n = 1
        self._last: Dict[Any, int] = {}  # of each layer: the captured step, counted, whose maps were last made
        self._seen: Set[Any] = set()  # layers, in this step
        self._group = 0  # of the layer at hand: those of WEIGHTS_MAX together, in the order in which they run
        self._weights = 0  # of the group, so far
        self._groups = 1  # of them all, or the next power of two
        self._taken: Optional[int] = None  # the group whose turn this step is

    def take(self, layer: Any, epoch: int, step: int, interval: int, every: float, weights: int) -> bool:
        """Whether it is the turn of this capture, of maps that have `weights` weights before they are pooled. A step of
        `interval` is captured; the maps of a layer shall be at least `every` seconds apart."""
        if (epoch, step) != self._step:
            self._begin((epoch, step), max(1, interval), every)
        if layer in self._seen:
            return False
        self._seen.add(layer)
        if self._weights and self._weights + weights > WEIGHTS_MAX:
            self._group, self._weights = self._group + 1, 0
        self._weights += weights
        captured, n = step // max(1, interval), max(self._n, self._groups)
        last = self._last.get(layer)
        if last is not None and (last - self._group) // n == (captured - self._group) // n:
            return False
        if self._taken is None:
            self._taken = self._group
        if self._taken == self._group:
            self._last[layer] = captured
        return self._taken == self._group

    def _begin(self, position: Tuple[int, int], interval: int, every: float) -> None:
        now = self._clock()
        if self._step is not None and position[1] > self._step[1]:
            seconds = (now - self._begun) / (position[1] - self._step[1])
            known = self._step_seconds
            self._step_seconds = seconds if known is None else known + (min(seconds, 2 * known) - known) / 8
        self._groups = 1 << self._group.bit_length()
        self._step, self._begun, self._seen = position, now, set()
        self._group, self._weights, self._taken = 0, 0, None
        if self._step_seconds is not None:
            captured_seconds = interval * self._step_seconds
            while self._n * captured_seconds < 1.1 * every and self._n < N_MAX:
                self._n *= 2
            while self._n > 1 and self._n / 2 * captured_seconds >= 1.5 * every:
                self._n //= 2
