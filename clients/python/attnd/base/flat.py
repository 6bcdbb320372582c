# SPDX-License-Identifier: MIT
"""flat: the numbers of a result, one name each, as the history names them.

    entropy                   mean, std, ... p99, last     per head
    singular_values.1         the first of each head's list; low_rank_error.8 that of k = 8
    sink_rate                 of the layer
    aggregate.mean.std        of the layer: the map over heads, then what is said of the map
    entropy                   drift.delta, drift.shift, drift.js, drift.change

A live result has one number where a summary has statistics: its statistic is `value`.
"""
from __future__ import annotations

from typing import Any, Dict, Iterator, Tuple, Union

import numpy as np
import numpy.typing as npt

VALUE = "value"  # the statistic of a live number
_LOW_RANKS = (1, 2, 4, 8, 16)  # what low_rank_error is listed for

Numbers = Union[float, npt.NDArray[Any]]
Number = Tuple[str, str, Numbers]


def layer_name(result: Dict[str, Any]) -> str:
    """'decoder.3.self': as in plans and patterns."""
    return f"{result['stack']}.{result['layer']}.{result['site']}"


def numbers(result: Dict[str, Any]) -> Iterator[Number]:
    """(metric, statistic, value) of a decoded `summary` or `live`; the value is an array [heads], or one float for
    what the layer has as a whole. Names (`pattern`), pairs, similarities and projections are not numbers of that
    kind and are left out."""
    for part in ("heads", "spectrum"):
        for metric, value in result.get(part, {}).items():
            yield from _of_heads(metric, value)
    if "sink_rate" in result:
        yield from _statistics("sink_rate", result["sink_rate"])
    for kind, map_ in result.get("aggregate", {}).items():
        for said, value in map_.items():
            yield from _statistics(f"aggregate.{kind}.{said}", value)
    for metric, changes in result.get("drift", {}).items():
        for name, value in changes.items():
            yield metric, f"drift.{name}", value


def _of_heads(metric: str, value: Any) -> Iterator[Number]:
    for metric, statistic, array in _statistics(metric, value):
        if not isinstance(array, np.ndarray):
            continue  # the names of patterns
        if array.ndim == 1:
            yield metric, statistic, array
        else:
            for column in range(array.shape[1]):
                yield f"{metric}.{_place(metric, column)}", statistic, array[:, column]


def _place(metric: str, column: int) -> int:
    ranked = metric == "low_rank_error" and column < len(_LOW_RANKS)
    return _LOW_RANKS[column] if ranked else column + 1


def _statistics(metric: str, value: Any) -> Iterator[Number]:
    if isinstance(value, dict):
        for statistic, number in value.items():
            yield metric, statistic, number
    else:
        yield metric, VALUE, value
