# SPDX-License-Identifier: MIT
"""past: answers of the history as numpy arrays.

Numbers travel packed, 8 bytes each, little-endian; long histories in pages.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, Optional

LIMIT_MAX = 200000  # windows, runs, alerts of one answer
_UNITS = ("first", "last", "epoch", "step", "time_ns")


def given(**params: Any) -> Dict[str, Any]:
    """The parameters that are not None. `from_` is `from` on the wire; a keyword of Python cannot be."""
    return {name.rstrip("_"): value for name, value in params.items() if value is not None}


def unpack(answer: Dict[str, Any]) -> Dict[str, Any]:
    """An answer of `history` with its columns as arrays of their own."""
    import numpy as np

    windows, values = answer["windows"], answer["values"]
    for name in _UNITS:
        windows[name] = np.frombuffer(windows[name], "<u8").astype(np.uint64)
    windows["partial"] = np.array(windows["partial"], bool)
    for name, column in values.items():
        if isinstance(column, list):  # one per head
            values[name] = np.array([np.frombuffer(head, "<f8") for head in column], np.float64)
        else:
            values[name] = np.frombuffer(column, "<f8").astype(np.float64)
    return answer


def collect(ask: Callable[..., Dict[str, Any]], start: int) -> Dict[str, Any]:
    """All pages from unit `start` on, as one answer. `ask` takes the parameters of a page."""
    import numpy as np

    pages = [unpack(ask(**{"from": start, "limit": LIMIT_MAX, "packed": True}))]
    while pages[-1]["more"]:
        start = int(pages[-1]["windows"]["last"][-1]) + 1
        pages.append(unpack(ask(**{"from": start, "limit": LIMIT_MAX, "packed": True, "run": pages[0]["run"],
                                   "metric": pages[0]["metric"]})))
    whole = pages[-1]
    for part in ("windows", "values"):
        for name in whole[part]:
            whole[part][name] = np.concatenate([page[part][name] for page in pages], axis=-1)
    return whole


def unpack_map(answer: Dict[str, Any]) -> Any:
    """An answer of `map` as an array [rows, columns]."""
    import numpy as np

    return np.frombuffer(answer["values"], "<f2").reshape(answer["rows"], answer["columns"]).astype(np.float32)


def unpack_maps(answer: Dict[str, Any], maps: Optional[int]) -> Dict[str, Any]:
    """An answer of `maps` or `rollout` with its values as an array [maps, rows, columns], or [rows, columns] for None."""
    import numpy as np

    shape = (answer["rows"], answer["columns"])
    values = np.frombuffer(answer["values"], "<f4").astype(np.float32)
    answer["values"] = values.reshape(shape if maps is None else (maps, *shape))
    return answer
