# SPDX-License-Identifier: MIT
"""live: a plot that follows a job while it trains, in a notebook cell or a matplotlib window.

    attnd.live_plot("gpt-small")                                     # until the run ends, or the cell is interrupted
    attnd.live_plot("gpt-small", metric="confidence", layer=3)       # the heads of one layer

On the left every head of every layer as it is now, on the right how it went: one line per layer (its mean over heads,
with the range of its heads), or with `layer` one per head.
"""
from __future__ import annotations

import contextlib
import itertools
import time
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np
import numpy.typing as npt

from ..base import endings, flat, wire
from ..bridge import heatmap
from ..bridge.past import window_text
from ..bridge.pump import checked_window
from ..results.subscriber import Subscriber
from .cell import notebook_display

POINTS_MAX = 1000  # per line; of a run that is longer few of each 2 points are kept, then of each 4, ...
LAYERS_MAX = 1024
DRAW_S = 0.5  # between two drawings, at least
_POLL_S = 0.2

Array = npt.NDArray[Any]


class Course:
    """How the heads of one layer went: at most POINTS_MAX points, thinned out as the daemon thins a log.

    Each bucket of points keeps the first, the last, those with the smallest and the largest number of a head, and the
    first and the last with one that is not finite.
    """

    def __init__(self) -> None:
        self.steps: List[int] = []
        self.values: List[Array] = []  # [heads] each
        self._numbers: List[int] = []  # which point of all it is
        self._ranges: List[Tuple[float, float, bool]] = []  # the least and the largest finite number; whether all are
        self._bucket = 1  # points
        self._taken = 0

    def add(self, step: int, values: Array) -> None:
        self.steps.append(step)
        self.values.append(values)
        self._numbers.append(self._taken)
        finite = values[np.isfinite(values)]
        self._ranges.append((float(finite.min(initial=np.inf)), float(finite.max(initial=-np.inf)), len(finite) == len(values)))
        self._taken += 1
        first = len(self.steps) - 1
        while first and self._bucket_of(first - 1) == self._bucket_of(-1):
            first -= 1
        self._thin(first)
        while len(self.steps) > POINTS_MAX:
            self._bucket *= 2
            self._thin(0)

    def _bucket_of(self, place: int) -> int:
        return self._numbers[place] // self._bucket

    def _thin(self, first: int) -> None:
        """The buckets from this place on."""
        stay: List[int] = []
        for _, places in itertools.groupby(range(first, len(self.steps)), self._bucket_of):
            bucket = list(places)
            odd = [i for i in bucket if not self._ranges[i][2]]
            stay += sorted({bucket[0], bucket[-1], *odd[:1], *odd[-1:], min(bucket, key=lambda i: self._ranges[i][0]),
                            max(bucket, key=lambda i: self._ranges[i][1])})
        self.steps[first:] = [self.steps[i] for i in stay]
        self.values[first:] = [self.values[i] for i in stay]
        self._numbers[first:] = [self._numbers[i] for i in stay]
        self._ranges[first:] = [self._ranges[i] for i in stay]

    def table(self) -> Array:
        """float64 [points, heads]; what is missing is NaN."""
        heads = max((len(values) for values in self.values), default=0)
        table = np.full((len(self.values), heads), np.nan)
        for row, values in zip(table, self.values):
            row[:len(values)] = values
        return table


class LivePlot:
    """The figure of one run of a job, the newest that is heard of. One thread."""

    def __init__(self, job: str, metric: str, statistic: str, window: Optional[str], figure: Any):
        self.job, self.metric, self.statistic = job, metric, statistic
        self.figure = figure
        self._window_asked = self._window = window  # None until the run's first summary tells
        self.run: Optional[str] = None
        self.state = "waiting"
        self.courses: Dict[str, Course] = {}
        self.seen_metrics: Set[str] = set()

    def take(self, result: Dict[str, Any]) -> bool:
        """Whether the result changed what is shown."""
        if result["kind"] == "job":
            if result["state"] not in endings.OVER:
                self._turn_to(result["run"])
            if result["run"] != self.run or result["state"] == self.state:
                return False
            self.state = result["state"]
            return True
        self._turn_to(result["run"])
        if result["kind"] == "live":
            is_of_line = result["rank"] == 0  # messages of one rank make a line, as do windows of one kind
        else:
            text = window_text(result["window"])
            self._window = self._window or text
            is_of_line = text == self._window
        if not is_of_line:
            return False
        name = flat.layer_name(result)
        for metric, statistic, value in flat.numbers(result):
            self.seen_metrics.add(metric)
            if metric == self.metric and statistic in (self.statistic, flat.VALUE):
                if name in self.courses or len(self.courses) < LAYERS_MAX:
                    self.courses.setdefault(name, Course()).add(int(result["step"]), np.atleast_1d(value))
                return True
        return False

    def _turn_to(self, run: str) -> None:
        """Another run began: its predecessor's curves make room."""
        if run != self.run:
            self.run, self.state, self._window = run, "active", self._window_asked
            self.courses.clear()

    # --------------------------------------------------------------------------------------- drawing

    def draw(self) -> None:
        """Everything anew: a few milliseconds for a few thousand points."""
        self.figure.clear()
        self.figure.suptitle(self._title(), x=0.01, ha="left", fontsize=11)
        rows = sorted(self.courses.items(), key=lambda row: heatmap.model_order(row[0]))
        if not rows:
            self.figure.add_subplot().set_axis_off()  # a notebook shows no figure without axes
            self.figure.text(0.5, 0.45, self._why_empty(), ha="center", color="0.4")
            return
        now, course = self.figure.subplots(1, 2, width_ratios=(2, 3))
        layers = {name: course.values[-1] for name, course in rows}
        if any(np.isfinite(values).any() for values in layers.values()):
            heatmap.draw(self.metric, layers, "now", ax=now)
        self._draw_course(course, rows)

    def _title(self) -> str:
        run = f" · run {self.run[:8]}" if self.run else ""
        steps = [course.steps[-1] for course in self.courses.values()]
        step = f" · step {max(steps)}" if steps else ""
        return f"{self.metric} of {self.job}{run}{step} · {self.state}"

    def _why_empty(self) -> str:
        if self.seen_metrics:
            return f"there is no {self.metric}; there are {', '.join(sorted(self.seen_metrics)[:12])}, ..."
        return f"nothing has come of {self.job} yet"

    def _draw_course(self, axes: Any, rows: Sequence[Tuple[str, Course]]) -> None:
        from ..plots.style import colors

        single = len(rows) == 1
        tables = [np.ma.masked_invalid(course.table()) for _, course in rows]
        lines = [(course.steps, name, table.mean(1)) for (name, course), table in zip(rows, tables)]
        if single:
            lines = [(rows[0][1].steps, f"head {head}", values) for head, values in enumerate(tables[0].T)]
        for at, ((steps, name, values), colour) in enumerate(zip(lines, colors(len(lines), "viridis"))):
            if not single:
                axes.fill_between(steps, tables[at].min(1), tables[at].max(1), color=colour, alpha=0.10, linewidth=0)
            axes.plot(steps, values, color=colour, linewidth=1.2 if single else 1.4, label=name,
                      marker="." if len(steps) == 1 else None)  # a single point is no line
        axes.set_xlabel("step")
        title = f"heads of {rows[0][0]}" if single else "layers: mean and range of their heads"
        axes.set_title(title, loc="left", fontsize=10)
        axes.margins(x=0.01)
        if len(axes.get_lines()) <= 16:
            axes.legend(fontsize=7, ncols=2, frameon=False)


# ------------------------------------------------------------------------------------------ showing

class _Cell:
    """A figure that is updated in place where it is: in a notebook's cell, or in matplotlib's window."""

    def __init__(self, size: Tuple[float, float]):
        import matplotlib.pyplot as plt

        self._display = notebook_display()
        with plt.ioff():
            self.figure = plt.figure(figsize=size, layout="constrained")
        self._handle: Any = None
        self._plt = plt

    def show(self) -> None:
        if self._display is None:
            self.figure.canvas.draw_idle()
            if self._plt.isinteractive() or self.figure.canvas.manager is not None:
                self.figure.canvas.flush_events()
        elif self._handle is None:
            self._handle = self._display(self.figure, display_id=True)
        else:
            self._handle.update(self.figure)

    def end(self) -> None:
        """In a notebook the picture stays, and matplotlib must not show it a second time."""
        if self._display is not None:
            self._plt.close(self.figure)


def live_plot(job: str, metric: str = "entropy_normalized", *, stack: Optional[str] = None, layer: Optional[int] = None,
              site: Optional[str] = None, statistic: str = "mean", address: Any = None,
              endpoint: Optional[str] = None, window: Optional[str] = None,
              live: bool = False, seconds: Optional[float] = None, size: Tuple[float, float] = (11.0, 4.2)) -> Any:
    """Follows a job until its run ends, Ctrl-C (a notebook's stop button), or `seconds` have passed; the figure.

    stack, layer, site   narrow down what is shown
    statistic            of the windows: mean, p90, ...
    window               "1 epoch", "100 steps every 10"; default: the kind that comes first
    live                 the numbers of rank 0's single messages instead of windows
    size                 inches
    address, endpoint    as for Subscriber

    Memory is bounded: POINTS_MAX points per line, LAYERS_MAX layers. A run that has ended before is shown, and the next
    one waited for. ImportError when matplotlib is missing, ValueError for a bad job or address.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError("attnd.live_plot needs matplotlib: pip install matplotlib") from error
    job = wire.job_name(job)
    deadline = None if seconds is None else time.monotonic() + seconds
    with Subscriber(endpoint, (f"{'live' if live else 'summary'}/{job}/", f"job/{job}/"), address=address) as subscriber:
        cell = _Cell(size)
        plot = LivePlot(job, metric, statistic, checked_window(window), cell.figure)
        with contextlib.suppress(KeyboardInterrupt):
            _follow(subscriber, plot, cell, deadline, {"stack": stack, "layer": layer, "site": site})
        cell.end()
    return cell.figure


def _follow(subscriber: Subscriber, plot: LivePlot, cell: _Cell, deadline: Optional[float],
            where: Dict[str, Any]) -> None:
    due, changed, alive = 0.0, True, False
    while True:
        result = subscriber.next(_POLL_S)
        if result is not None and _is_of(result, where):
            changed |= plot.take(result)
            alive |= plot.state == "active"
        now = time.monotonic()
        over = (alive and plot.state in endings.OVER) or (deadline is not None and now >= deadline)
        if changed and (over or now >= due):
            plot.draw()
            cell.show()
            cost = time.monotonic() - now
            due, changed = now + cost + max(DRAW_S, 4 * cost), False  # most of the time is for reading
        if over:
            return


def _is_of(result: Dict[str, Any], where: Dict[str, Any]) -> bool:
    return result["kind"] == "job" or all(value is None or result[key] == value for key, value in where.items())
