# SPDX-License-Identifier: MIT
"""pictures: collects the layers of a window until a heat map of all of them can be drawn.

A picture is drawn when a later window begins, or when nothing has come for a moment; when a straggler comes after that it is
drawn once more.
"""
from __future__ import annotations

from collections import OrderedDict
from typing import Any, Dict, Iterator, Optional

import numpy as np
import numpy.typing as npt

from ..base import flat
from ..base.once import log
from . import heatmap
from .items import Picture, Position, Run
from .selection import Selection

RUNS_MAX = 64  # with an open window; the stalest makes room, drawn


class _Window:
    """The received parts of a run's newest window."""

    def __init__(self, window: Dict[str, Any]):
        self.last = int(window["last"])
        self.metrics: Dict[str, Dict[str, npt.NDArray[Any]]] = {}
        self.position: Position = ()
        self.epoch = self.step = self.time_ns = 0
        self.changed = False

    def add(self, layer: str, summary: Dict[str, Any], position: Position, selection: Selection) -> None:
        for metric, means in selection.image_means(summary):
            self.metrics.setdefault(metric, {})[layer] = means
        self.position = max(self.position, position)
        self.epoch, self.step = max((self.epoch, self.step), (summary["epoch"], summary["step"]))
        self.time_ns = max(self.time_ns, summary["time_ns"])
        self.changed = True

    def draw(self, run: Run) -> Iterator[Picture]:
        self.changed = False
        for metric, layers in self.metrics.items():
            if not any(np.isfinite(means).any() for means in layers.values()):
                continue
            # A layer more makes another picture of it: the position says how many it shows.
            yield Picture(run, f"heatmap.{metric}", (*self.position, len(layers)), self.epoch, self.step, self.time_ns,
                          f"attn/heatmap/{metric}", heatmap.render(metric, layers, self.step))


class Pictures:
    """Yields pictures as summaries come. One thread."""

    def __init__(self, selection: Selection):
        self._selection = selection
        self._open: "OrderedDict[Run, _Window]" = OrderedDict()
        self._draws = bool(selection.images) and heatmap.can_draw()
        if selection.images and not self._draws:
            log.warning("there are no heat maps: matplotlib is missing (pip install matplotlib)")

    def add(self, run: Run, summary: Dict[str, Any], position: Position) -> Iterator[Picture]:
        """Takes the summary of a layer; the windows of a layer come in order."""
        if not self._draws or not self._selection.has_picture(summary["window"]):
            return
        window = self._open.get(run)
        last = int(summary["window"]["last"])
        if window is not None and last < window.last:
            return  # a straggler of a window whose picture is out
        if window is None or last > window.last:
            yield from self._finish(run)
            window = self._open[run] = _Window(summary["window"])
        window.add(flat.layer_name(summary), summary, position, self._selection)
        self._open.move_to_end(run)
        if len(self._open) > RUNS_MAX:
            yield from self._finish(next(iter(self._open)))

    def flush(self, run: Optional[Run] = None) -> Iterator[Picture]:
        """Draws what waits, of one run or of all; they stay open for stragglers."""
        for each in [run] if run is not None else list(self._open):
            window = self._open.get(each)
            if window is not None and window.changed:
                yield from window.draw(each)

    def forget(self, run: Run) -> None:
        self._open.pop(run, None)

    def _finish(self, run: Run) -> Iterator[Picture]:
        yield from self.flush(run)
        self._open.pop(run, None)
