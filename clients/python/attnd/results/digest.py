# SPDX-License-Identifier: MIT
"""digest: the few numbers by which a window of a whole run is told, from the summaries of its layers.

    lowest_entropy          the lowest mean entropy of a head, in nats; lowest_entropy_layer and _head: whose
    max_logit               the largest logit of all heads
    failed_checks           alerts that fire
    capture_cost            part of step time that capturing takes, of the rank that pays most

A window is complete when it has all layers that the one before had, or the first one all that the job has; when a later
one begins; or when nothing has come for QUIET_S. Layers that come later are left out.
"""
from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Dict, Iterator, Optional, Set, Tuple

import numpy as np

from ..base import endings, flat

METRICS = ("entropy", "max_logit")  # that it needs of each head
QUIET_S = 5.0


@dataclass
class Line:
    """The numbers of one window, with the step and the time of its newest message."""
    step: int = 0
    time_s: float = 0.0  # since 1970
    values: Dict[str, float] = field(default_factory=dict)
    texts: Dict[str, str] = field(default_factory=dict)


class _Window:
    def __init__(self, last: int):
        self.last = last
        self.line = Line()
        self.layers: Set[str] = set()

    def add(self, summary: Dict[str, Any]) -> None:
        name, heads, values = flat.layer_name(summary), summary.get("heads", {}), self.line.values
        self.layers.add(name)
        self.line.step = max(self.line.step, int(summary["step"]))
        self.line.time_s = max(self.line.time_s, summary["time_ns"] / 1e9)
        entropy = heads["entropy"]["mean"] if "entropy" in heads else np.array([])
        if np.isfinite(entropy).any() and np.nanmin(entropy) < values.get("lowest_entropy", np.inf):
            head = int(np.nanargmin(entropy))
            values.update(lowest_entropy=float(entropy[head]), lowest_entropy_layer=summary["layer"], lowest_entropy_head=head)
            self.line.texts["lowest_entropy"] = f"head {head} of {name}"
        logits = heads["max_logit"]["max"] if "max_logit" in heads else np.array([])
        if np.isfinite(logits).any():
            values["max_logit"] = max(float(np.nanmax(logits)), values.get("max_logit", -np.inf))


class Windows:
    """Makes lines of the results about one run, the `summary` of its primary windows and its `job`, as they come."""

    def __init__(self, run: str):
        self._run = run
        self._kind: Optional[Tuple[Any, ...]] = None
        self._told = -1  # the last unit of the newest window that was
        self._open: Optional[_Window] = None
        self._partial: Optional[_Window] = None  # which goes on, unless the run ends
        self._layers: Set[str] = set()  # of a window that is complete
        self._at = 0.0
        self.heard = False  # anything of the run
        self.ended = False

    def take(self, result: Dict[str, Any]) -> Iterator[Line]:
        """Takes one result; the lines that are complete by it."""
        if result.get("run") != self._run:
            return
        self.heard = True
        if result["kind"] == "job":
            yield from self._job(result)
        elif result["kind"] == "summary" and "track" not in result:
            yield from self._summary(result)

    def look(self) -> Iterator[Line]:
        """Nothing more is there now."""
        if self._open is not None and time.monotonic() - self._at > QUIET_S:
            yield from self._finish()

    def _job(self, job: Dict[str, Any]) -> Iterator[Line]:
        if self._told < 0:
            self._layers = {flat.layer_name(layer) for layer in job.get("layers") or ()}
        self.ended = job["state"] in endings.OVER
        if self.ended:
            yield from self._finish()
            self._open, self._partial = self._partial, None
            yield from self._finish()

    def _summary(self, summary: Dict[str, Any]) -> Iterator[Line]:
        window = summary["window"]
        kind, last = tuple(window[key] for key in ("unit", "length", "every")), int(window["last"])
        if kind != self._kind:
            yield from self._finish()
            self._kind, self._told, self._partial = kind, -1, None
        if last <= self._told:
            self._layers.add(flat.layer_name(summary))  # the next window waits for it
            return
        if window["partial"]:
            if self._partial is None or self._partial.last != last or flat.layer_name(summary) in self._partial.layers:
                self._partial = _Window(last)
            self._partial.add(summary)
            return
        if self._open is not None and last > self._open.last:
            yield from self._finish()
        if self._open is None:
            self._open = _Window(last)
        if last == self._open.last:
            self._open.add(summary)
            self._at = time.monotonic()
            if self._layers and self._open.layers >= self._layers:
                yield from self._finish()

    def _finish(self) -> Iterator[Line]:
        done, self._open = self._open, None
        if done is not None and done.last > self._told:
            self._told, self._layers = done.last, done.layers
            yield done.line
