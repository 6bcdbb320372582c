# SPDX-License-Identifier: MIT
"""frames: results as a tidy pandas DataFrame, a row per number.

    attnd.frame(attnd.Control().summary("gpt-small"))                       # what the daemon says now
    attnd.frame(attnd.Control().history("gpt-small", metric="entropy"))     # how it went
    means = table[table.statistic == "mean"].pivot(index="step", columns=["layer", "head"], values="value")
"""
from __future__ import annotations

from collections.abc import Iterable as IterableABC
from typing import Any, Dict, Iterable, Iterator, List, Tuple, Union

import numpy as np

from ..base import flat, wire

COLUMNS = ("kind", "job", "run", "epoch", "step", "time", "stack", "layer", "site", "head", "metric", "statistic",
           "value", "unit", "first", "last", "partial")
_CATEGORIES = ("kind", "job", "run", "stack", "site", "metric", "statistic", "unit")

Result = Dict[str, Any]
_Block = Tuple[int, Dict[str, Any]]  # rows, and for each column an array of that length or one value for all


def frame(results: Union[Result, Iterable[Result]]) -> Any:
    """A pandas DataFrame of COLUMNS from summaries, live results and answers of Control.history, one or many.

    head                        NA for what the layer has as a whole (sink_rate, aggregate.*)
    statistic                   mean, std, ..., drift.shift, drift.js, ...; `value` in live results
    value                       float64; NaN where there is no number
    time                        when the newest message was captured, UTC
    unit, first, last, partial  the window; NA in live results

    Names repeat a great deal: they are categories. Other results (alerts, jobs) are passed over. ImportError when
    pandas is missing, TypeError for what is no result.
    """
    pandas = need_pandas()
    if isinstance(results, dict):
        results = (results,)
    if not isinstance(results, IterableABC):
        raise TypeError(f"attnd.frame takes results or an iterable of them, not {type(results).__name__}")
    blocks = [block for result in results for block in _blocks(result)]
    return pandas.DataFrame({name: _typed(pandas, name, blocks) for name in COLUMNS})


def need_pandas() -> Any:
    """The module; ImportError that says what to do."""
    try:
        import pandas  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("attnd.frame needs pandas: pip install pandas") from error
    return pandas


def _blocks(result: Result) -> Iterator[_Block]:
    if not isinstance(result, dict):
        raise TypeError(f"attnd.frame takes results, not {type(result).__name__}")
    if "windows" in result and "values" in result:
        yield from _of_history(result)
    elif result.get("kind") in ("summary", "live"):
        yield from _of_result(result)
    elif "kind" not in result:
        raise TypeError("attnd.frame takes summaries, live results and answers of Control.history, and no other dict")


def _of_result(result: Result) -> Iterator[_Block]:
    window = result.get("window") or {}
    common = {**{key: result.get(key) for key in ("kind", "job", "run", "epoch", "step", "stack", "layer", "site")},
              "time": result.get("time_ns"), **{key: window.get(key) for key in ("unit", "first", "last", "partial")}}
    for metric, statistic, value in flat.numbers(wire.with_arrays(result)):
        heads = np.arange(len(value)) if isinstance(value, np.ndarray) else None
        yield (1 if heads is None else len(heads)), {**common, "metric": metric, "statistic": statistic, "value": value,
                                                     "head": heads}


def _of_history(answer: Result) -> Iterator[_Block]:
    windows = answer["windows"]
    steps = {"time": windows["time_ns"], **{key: windows[key] for key in ("epoch", "step", "first", "last", "partial")}}
    common = {"kind": "history", "metric": answer["metric"], "unit": answer["unit"],
              **{key: answer[key] for key in ("job", "run")}, **steps}
    for statistic, values in answer["values"].items():
        for head, column in zip(answer["heads"], np.atleast_2d(np.asarray(values, np.float64))):
            yield len(column), {**common, "statistic": statistic, "value": column,
                                **{key: head[key] for key in ("stack", "layer", "site", "head")}}


def _typed(pandas: Any, name: str, blocks: List[_Block]) -> Any:
    """All blocks' values of a column. Whole numbers stay whole: they never are floats on the way."""
    if name in _CATEGORIES:
        return pandas.Categorical(_joined(name, blocks, object, None))
    if name == "value":
        return _joined(name, blocks, np.float64, np.nan)
    values = _joined(name, blocks, bool if name == "partial" else np.int64, 0)
    none = np.repeat([columns[name] is None for _, columns in blocks], [rows for rows, _ in blocks]).astype(bool)
    if name == "partial":
        return pandas.arrays.BooleanArray(values, none)
    if name == "time":
        return pandas.Series(pandas.to_datetime(values, unit="ns", utc=True)).where(~none)
    return pandas.arrays.IntegerArray(values, none)


def _joined(name: str, blocks: List[_Block], dtype: Any, none: Any) -> Any:
    parts = [np.empty(0, dtype)]
    for rows, columns in blocks:
        part = np.empty(rows, dtype)
        part[:] = none if columns[name] is None else columns[name]
        parts.append(part)
    return np.concatenate(parts)
