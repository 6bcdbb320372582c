# SPDX-License-Identifier: MIT
"""past: windows of a run that the history has and a sink has not, as the summaries they were.

So a bridge that is started late, or was away, fills in what it missed. The history keeps no drift: those windows
have none.
"""
from __future__ import annotations

import time
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from ..base import flat
from ..results.control import Control, ControlError
from .items import Run
from .selection import Selection

WRITTEN_S = 0.1  # between two looks
PAGE = 1000  # windows asked for at once: what of the past is in memory

Answers = Dict[Tuple[str, ...], Dict[str, Any]]  # by path into a summary


def summaries(control: Control, run: Run, window: str, selection: Selection, seen: Dict[str, int],
              coming: Dict[str, int]) -> Iterator[Dict[str, Any]]:
    """Summaries with the numbers of the selection, of one window after the other and in each of all layers.

    window  "1 epoch", "100 steps every 10"
    seen    layer name to the last unit of its newest window that is known: the first that is told again
    coming  layer name to the last unit of the first window that will come anyway, and with more: the first not told

    Raises what Control does.
    """
    layers = [layer for layer in _layers(control, run)
              if selection.wants_layer(flat.layer_name(layer))]
    tracks = [track for layer in layers for track in layer["tracks"] if window_text(track) == window]
    if not tracks:
        return
    start = max(min(track["first"] for track in tracks),
                min(seen.get(flat.layer_name(layer), 0) for layer in layers))
    span = PAGE * max(1, tracks[0]["every"])
    for first in range(start, max(track["last"] for track in tracks) + 1, span):
        pages = [_Page(control, run, layer, window, selection, first, first + span - 1) for layer in layers]
        for last in sorted({last for page in pages for last in page.lasts}):
            for page in pages:
                if last < coming.get(page.layer, last + 1):
                    yield from page.summary(last)


def await_written(control: Control, run: Run, window: str, coming: Dict[str, int], patience: float) -> None:
    """Waits until the history has the windows before those that will come, or `patience` seconds: it writes them a
    moment after they are published, and of one in between nobody would hear."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        kept = {flat.layer_name(layer): track["last"] + track["every"] for layer in _layers(control, run)
                for track in layer["tracks"] if window_text(track) == window}
        if all(last <= kept.get(name, 0) for name, last in coming.items()):
            return
        time.sleep(WRITTEN_S)


def _layers(control: Control, run: Run) -> Any:
    """A run's layers in the history: none for a run that has just begun."""
    try:
        return control.windows(run.job, run.run)["layers"]
    except ControlError as error:
        if error.code in ("no_history", "run_unknown"):
            return []
        raise


def window_text(window: Dict[str, Any]) -> str:
    """As the daemon writes it: '1 epoch', '100 steps every 10'. Takes unit, length and every."""
    length, every = int(window["length"]), int(window["every"])
    text = f"{length} {window['unit']}{'s' if length != 1 else ''}"
    return text if every == length else f"{text} every {every}"


class _Page:
    """The history of one layer in a range, and the summaries that follow from it."""

    def __init__(self, control: Control, run: Run, layer: Dict[str, Any], window: str, selection: Selection,
                 first: int, last: int):
        where = {key: layer[key] for key in ("stack", "layer", "site")}
        self.layer = flat.layer_name(layer)
        self._base = {"kind": "summary", "job": run.job, "run": run.run, **where}
        self._answers: Answers = {}
        self._places: Dict[Tuple[str, ...], Dict[int, int]] = {}
        statistics = sorted({"mean", *selection.statistics_asked()})
        for metric in layer["metrics"]:
            if not selection.wants_metric(metric) and not selection.wants_image(metric):
                continue
            try:
                answer = control.history(run.job, run.run, metric=metric, window=window, from_=first, to=last,
                                         statistics=statistics, **where)
            except ControlError as error:
                if error.code != "no_history":  # nothing of this metric in this range
                    raise
                continue
            if answer["heads"]:  # else of nobody
                path = ("heads", metric) if answer["heads"][0]["head"] is not None else tuple(metric.split("."))
                self._answers[path] = answer
                self._places[path] = {int(end): place for place, end in enumerate(answer["windows"]["last"])}
        self.lasts = {end for places in self._places.values() for end in places}

    def summary(self, last: int) -> List[Dict[str, Any]]:
        """The numbers of the window that ends with `last`; empty when the layer has none."""
        result: Dict[str, Any] = {}
        for path, answer in self._answers.items():
            place = self._places[path].get(last)
            if place is None:
                continue
            if not result:
                result = {**self._base, **_place(answer, place)}
            inner = result
            for key in path[:-1]:
                inner = inner.setdefault(key, {})
            numbers = ((name, column[..., place]) for name, column in answer["values"].items())
            inner[path[-1]] = {name: number if np.ndim(number) else float(number) for name, number in numbers}
        return [result] if result else []


def _place(answer: Dict[str, Any], place: int) -> Dict[str, Any]:
    windows = answer["windows"]
    window = {"unit": answer["unit"], "length": answer["length"], "every": answer["every"],
              "first": int(windows["first"][place]), "last": int(windows["last"][place]),
              "partial": bool(windows["partial"][place])}
    return {"window": window, **{key: int(windows[key][place]) for key in ("epoch", "step", "time_ns")}}
