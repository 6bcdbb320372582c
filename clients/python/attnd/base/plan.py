# SPDX-License-Identifier: MIT
"""plan: the daemon's capture plan, which it announces by subscribing.

A SUB can tell an XPUB nothing but prefixes. So besides `tensor/` a daemon subscribes to prefixes that no message
has (PROTOCOL.md):

    plan/<order>/<pattern>/<settings>        plan/0/gpt-*/every=10;layers=decoder.*.self;samples=2

The plan of the lowest order whose pattern matches the job holds, alone. The daemon's default has the highest order, and
the one before it where the daemon makes it rarer for a job; before these stands what the job's own code says
(`choose`).
"""
from __future__ import annotations

import functools
import hashlib
import itertools
import math
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from .once import log
from .wire import Layer

PREFIX = b"plan/"
PREFIX_BYTES_MAX = 1024  # of a whole one
DEFAULT_ORDER = 999999
LENGTHENED_ORDER = DEFAULT_ORDER - 1  # the default, less often, as it would cost this job too much
NUMBER_MAX = 10**9
TIERS = ("auto", "raw", "rows")
FOLDED_MAX = 1 << 22  # logits, over heads, of a capture that takes several rows of a sample

_random = np.random.default_rng()  # not the training's


class Folds(NamedTuple):
    """How an attention's batch holds that of the model: `each` rows are of every sample, as windows, frames or the rows of a
    picture are. `apart`: rows from one of a sample to its next; 0: it is not known which rows are of one sample."""
    each: int = 1
    apart: int = 1


class Samples(NamedTuple):
    """The rows that are taken of an attention's batch, of how many, and how many these are: as some() makes it."""
    rows: slice
    of: int
    taken: int

    def header(self) -> Dict[str, Any]:
        """As a header says it; nothing when all are taken."""
        if self.taken == self.of:
            return {}
        return {"sample": self.rows.start, "sample_stride": self.rows.step if self.taken > 1 else 1, "batch": self.of}


ALL = Samples(slice(0, 0, 1), 0, 0)  # of whatever batch


def some(rows: range, of: int) -> Samples:
    """These rows of a batch."""
    return Samples(slice(rows.start, rows.stop, rows.step), of, len(rows))


@dataclass(frozen=True)
class Plan:
    """The parts to capture.

    every    every n-th step; 0: none
    layers   patterns of stack.layer.site ("decoder.*.self"), of which one has to match
    heads    (first, last) of each range of heads, both included; None: all
    samples  n of a batch, others at each forward; 0: all
    rows     at most n query rows of a call, others at each captured step, evenly spaced, or on an accelerator one of each
             stratum; 0: all, or what the client likes on an accelerator
    tier     what travels: 'rows', the sums of the rows of an attention; 'raw', its queries and keys, or weights; 'auto': the
             client decides
    """
    every: int = 1
    layers: Tuple[str, ...] = ("*",)
    heads: Optional[Tuple[Tuple[int, int], ...]] = None
    samples: int = 0
    rows: int = 0
    tier: str = "auto"

    def takes_step(self, step: int) -> bool:
        """Whether this step is captured."""
        return self.every > 0 and step % self.every == 0

    def takes_layer(self, layer: Layer) -> bool:
        """Whether this attention of the model is captured."""
        if self.layers == ("*",):
            return True
        name = f"{layer[0]}.{layer[1]}.{layer[2]}"
        return any(fnmatchcase(name, pattern) for pattern in self.layers)

    def head_ranges(self, heads: int) -> List[Tuple[int, int]]:
        """The heads to take of `heads`, as ascending (first, end) with end excluded; neighbours are joined."""
        if self.heads is None:
            return [(0, heads)]
        ranges: List[Tuple[int, int]] = []
        for first, last in sorted(self.heads):
            end = min(last + 1, heads)
            if first >= end:
                continue
            if ranges and first <= ranges[-1][1]:
                ranges[-1] = ranges[-1][0], max(end, ranges[-1][1])
            else:
                ranges.append((first, end))
        return ranges

    def take(self, forward: Sequence[Any], batch: int, folds: Folds, logits: int) -> Samples:
        """The rows of an attention's batch to take: of each of so many samples, evenly spaced from a drawn one on, all rows. Where
        these have more than FOLDED_MAX logits, of which each has `logits`, evenly spaced ones of them; and where it is not known
        which rows are of one sample, of the whole batch. `forward`: run, step and microbatch, by which all layers and ranks, and
        a forward that is repeated, have the same samples."""
        if self.samples == 0:
            return some(range(batch), batch)
        of = batch // folds.each
        count = min(self.samples, of)
        if folds.each == 1:
            apart = of // count
            first = drawn(of - (count - 1) * apart, *forward)
            return some(range(first, first + (count - 1) * apart + 1, apart), batch)
        if of > 1 and folds.apart == 0:
            rows = range(batch)
        elif folds.apart == 1:
            first = drawn(of - count + 1, *forward)
            rows = range(first * folds.each, (first + count) * folds.each)
        else:  # the same samples of each fold: as many as divide it
            apart = next(n for n in range(-(-of // count), of + 1) if of % n == 0)
            rows = range(drawn(apart, *forward), batch, apart)
        every = -(-len(rows) // max(count, FOLDED_MAX // max(1, logits)))
        return some(rows[drawn(every, *forward, batch)::every], batch)

    def row_slice(self, step: int, queries: int) -> slice:
        """The query rows to take at this step: every n-th, from another one on each time, until each row has had
        its turn."""
        if self.rows == 0 or queries <= self.rows:
            return slice(0, queries, 1)
        turns = -(-queries // self.rows)
        return slice(step // max(1, self.every) * _turn(turns) % turns, queries, turns)


@functools.lru_cache(64)  # all layers ask alike
def drawn(below: int, *of: Any) -> int:
    """A number from 0 up to `below`, of what it is drawn of alone: no generator of the training moves."""
    digest = hashlib.blake2b(repr((*of, below)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % max(1, below)


def strata(queries: int, rows: int) -> np.ndarray:
    """Numbers of queries in rising order, i64: `rows` strata of equal length begin at a random query and go round, and one
    random query is taken of each. So each query has the same chance, whatever repeats along the sequence."""
    edges = np.arange(rows + 1) * queries // rows
    found: np.ndarray = np.sort((_random.integers(edges[:-1], edges[1:]) + _random.integers(queries)) % queries)
    return found


@functools.lru_cache(64)
def _turn(n: int) -> int:
    """The number next to the golden section of n that has no divisor in common with it; of two as near the larger. Its
    multiples modulo n are all of 0 to n - 1, and any few in succession lie apart."""
    middle = (n * 618034 + 500000) // 1000000
    near = (number for away in itertools.count() for number in (middle + away, middle - away))
    return next(number for number in near if math.gcd(number, n) == 1)


EVERYTHING = Plan()


def choose(prefixes: Iterable[bytes], job: str, own: Optional[Mapping[str, Any]] = None) -> Plan:
    """The plan that holds for a job, given what is subscribed to and what the job's own code asks for.

    `own`: some of every, samples, rows and tier. A plan that was made for the job goes before it, the daemon's default
    does not; a plan whose tier is 'auto' leaves that to the code.
    """
    order, _, _, plan = next(iter(_matching(prefixes, job)), (DEFAULT_ORDER, 0, b"", EVERYTHING))
    if not own:
        return plan
    if order >= LENGTHENED_ORDER:
        return replace(plan, **own)
    return replace(plan, tier=own.get("tier", "auto")) if plan.tier == "auto" else plan


def lengthened(prefixes: Iterable[bytes], job: str) -> Optional[Tuple[int, int]]:
    """(every, that of the default) where the daemon made its default rarer for the job, and this holds; else None."""
    found = _matching(prefixes, job)
    if len(found) < 2 or (found[0][0], found[-1][0]) != (LENGTHENED_ORDER, DEFAULT_ORDER):
        return None
    return found[0][3].every, found[-1][3].every


def _matching(prefixes: Iterable[bytes], job: str) -> List[Tuple[int, int, bytes, Plan]]:
    """The plans for a job, in the order of precedence."""
    found = (_read(prefix, job) for prefix in prefixes if prefix.startswith(PREFIX))
    return sorted((entry for entry in found if entry), key=lambda entry: entry[:3])


_PREFIX = re.compile(rb"plan/(\d{1,6})/([^/]{1,128})/([ -~]*)\Z")


def _read(prefix: bytes, job: str) -> Optional[Tuple[int, int, bytes, Plan]]:
    """(order, steps between captures, prefix, plan), in the order of precedence, of a plan for the job; else None."""
    match = _PREFIX.match(prefix) if len(prefix) <= PREFIX_BYTES_MAX else None
    if match is None:
        _warn_malformed(prefix)
        return None
    if not fnmatchcase(job, match[2].decode("ascii", "replace")):
        return None
    try:
        plan = _parse(match[3].decode("ascii"))
    except ValueError:
        _warn_malformed(prefix)
        return None
    return int(match[1]), plan.every or NUMBER_MAX + 1, prefix, plan


def _parse(settings: str) -> Plan:
    """Settings as text; unknown keys are skipped. ValueError when a value is malformed."""
    values: Dict[str, Any] = {}
    for setting in filter(None, settings.split(";")):
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(setting)
        if key in _READERS:
            values[key] = _READERS[key](value)
    return Plan(**values)


def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,10}", text) or int(text) > NUMBER_MAX:
        raise ValueError(text)
    return int(text)


def _patterns(text: str) -> Tuple[str, ...]:
    patterns = tuple(text.split())
    if not patterns:
        raise ValueError(text)
    return patterns


def _heads(text: str) -> Optional[Tuple[Tuple[int, int], ...]]:
    if text == "*":
        return None
    parts = [part.partition("-") for part in text.split(",")]
    ranges = tuple((_number(first), _number(last if dash else first)) for first, dash, last in parts)
    if any(first > last for first, last in ranges):
        raise ValueError(text)
    return ranges


_READERS: Dict[str, Callable[[str], Any]] = {
    "every": _number, "layers": _patterns, "heads": _heads, "samples": _number, "rows": _number,
    "tier": lambda text: text if text in TIERS else "auto"}  # one of a later attnd is as good as none

_warned: Sequence[bytes] = ()


def _warn_malformed(prefix: bytes) -> None:
    """Says once what a daemon said wrong."""
    global _warned
    if prefix not in _warned and len(_warned) < 16:
        _warned = (*_warned, prefix)
        log.warning("a capture plan that is none was ignored: %r", prefix[:200])
