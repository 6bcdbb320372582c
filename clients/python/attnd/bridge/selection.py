# SPDX-License-Identifier: MIT
"""selection: which numbers are forwarded, and what they are called.

    attn/decoder.3.self/entropy/head_05            the window's mean
    attn/decoder.3.self/entropy.p90/head_05        another statistic
    attn/decoder.3.self/entropy.drift.shift/head_05    against the baseline
    attn/decoder.3.self/entropy.live/head_05       of single messages of rank 0, when they are forwarded
    attn/decoder.3.self/entropy.live.rank1/head_05
    attn/decoder.3.self/entropy/heads_mean         over the heads that have the number: also heads_min, heads_max
    attn/decoder.3.self/sink_rate                  of the layer as a whole
    attn/heatmap/entropy_normalized                a picture: layers down, heads across

A model has layers x heads x metrics x statistics series, so the default is a few of each.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Dict, Iterator, Sequence, Tuple

import numpy as np

from ..base import flat

METRICS = ("entropy", "entropy_normalized", "confidence", "first_token", "local_mass", "effective_rank", "max_logit",
           "sink_rate", "aggregate.mean.std")
STATISTICS = ("mean", "drift.shift")
IMAGES = ("entropy_normalized", "confidence", "first_token")
_KNOWN = ("mean", "std", "min", "max", "p10", "p50", "p90", "p99", "last", "count", "drift.delta", "drift.shift", "drift.js",
          "drift.change")
_DENSE_IMAGES = 100  # windows per doubling that get a picture: see has_picture


@dataclass(frozen=True)
class Selection:
    """Patterns as a shell matches file names.

    metrics     of `entropy`, `sink_rate`, `aggregate.mean.std`, ...: attnctl summary shows what there is
    statistics  of mean, std, min, max, p10, p50, p90, p99, last, count, drift.delta, drift.shift, drift.js, drift.change
    layers      of `decoder.3.self`
    images      metrics that get heat maps of their means; () = none
    every       every n-th window

    ValueError for a statistic that does not exist and for `every` below 1.
    """
    metrics: Sequence[str] = METRICS
    statistics: Sequence[str] = STATISTICS
    layers: Sequence[str] = ("*",)
    images: Sequence[str] = IMAGES
    every: int = 1
    _matches: Dict[Tuple[int, str], bool] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("metrics", "statistics", "layers", "images"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, str) else tuple(value))
        for pattern in self.statistics:
            if not any(fnmatchcase(known, pattern) for known in _KNOWN):
                raise ValueError(f"statistic {pattern!r}: must be of {', '.join(_KNOWN)}")
        if self.every < 1:
            raise ValueError(f"every = {self.every}: must be 1 or more")

    def wants_layer(self, name: str) -> bool:
        return self._match(self.layers, name)

    def wants_metric(self, name: str) -> bool:
        return self._match(self.metrics, name)

    def wants_statistic(self, name: str) -> bool:
        return self._match(self.statistics, name)

    def wants_image(self, metric: str) -> bool:
        return self._match(self.images, metric)

    def wants_window(self, window: Dict[str, Any]) -> bool:
        """Every n-th, by its place in the run: the same ones for every layer and after a restart."""
        return _number(window) % self.every == 0

    def has_picture(self, window: Dict[str, Any]) -> bool:
        """All of a run's first windows, later every 2nd, 4th, ...: a run of any length has a few hundred pictures."""
        number = _number(window) // self.every
        octave = max(0, (number // _DENSE_IMAGES).bit_length() - 1)
        return number % (1 << octave) == 0

    def statistics_asked(self) -> Tuple[str, ...]:
        """The selected numbers that the history keeps: drift is not among them."""
        return tuple(name for name in _KNOWN if "." not in name and self.wants_statistic(name))

    def values(self, result: Dict[str, Any]) -> Dict[str, float]:
        """Name to number of a summary or live result; what does not exist is left out."""
        found: Dict[str, float] = {}
        prefix = f"attn/{flat.layer_name(result)}/"
        of_rank = f".rank{result['rank']}" if result.get("rank") else ""
        for metric, statistic, value in flat.numbers(result):
            live = statistic == flat.VALUE
            if self.wants_metric(metric) and (live or self.wants_statistic(statistic)):
                suffix = f".live{of_rank}" if live else "" if statistic == "mean" else f".{statistic}"
                found.update(_named(f"{prefix}{metric}{suffix}", value))
        return found

    def image_means(self, summary: Dict[str, Any]) -> Iterator[Tuple[str, Any]]:
        """(metric, float64 [heads]) of the metrics that get pictures."""
        for metric, statistic, value in flat.numbers(summary):
            if statistic == "mean" and isinstance(value, np.ndarray) and self.wants_image(metric):
                yield metric, value

    def _match(self, patterns: Sequence[str], name: str) -> bool:
        key = (id(patterns), name)
        if key not in self._matches:
            if len(self._matches) >= 10000:  # names come from outside
                self._matches.clear()
            self._matches[key] = any(fnmatchcase(name, pattern) for pattern in patterns)
        return self._matches[key]


def _named(name: str, value: Any) -> Iterator[Tuple[str, float]]:
    if not isinstance(value, np.ndarray):
        if math.isfinite(value):
            yield name, float(value)
        return
    digits = len(str(len(value) - 1))
    finite = np.isfinite(value)
    for head in np.flatnonzero(finite):
        yield f"{name}/head_{head:0{digits}d}", float(value[head])
    if finite.any():
        there = value[finite]
        yield f"{name}/heads_mean", float(there.mean())
        yield f"{name}/heads_min", float(there.min())
        yield f"{name}/heads_max", float(there.max())


def _number(window: Dict[str, Any]) -> int:
    """Which of its run's windows it is, from 0."""
    return int(window["last"]) // max(1, int(window["every"]))
