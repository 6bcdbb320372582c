# SPDX-License-Identifier: MIT
"""charts: a figure of lines, bands and bars over one pair of axes, with a legend below, laid out by layout.py."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence, Set, Tuple

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import NullLocator

from . import labels, layout as layouts
from .output import Figure
from .panels import Look, axes_of, draw_title, legend_lines, place_axes, place_legend
from .scale import Array
from .names import NothingToDraw
from .style import ALERT, AXIS, CYCLE, GRID, INCH, LINE, NAME, REST, WIDTH_ONE
from . import style

_SAMPLE, _LEGEND_LINE = 12.0, 10.0
_FAINT, _DASHES = 0.22, (0, (3, 2))  # bands, alerts


@dataclass
class Line:
    """A line; a y that is not finite leaves a gap."""

    x: Any
    y: Any
    color: Any
    width: float = 1.2
    dots: bool = False
    name: str = ""  # in the legend
    alpha: Optional[float] = None


@dataclass
class Band:
    x: Any
    low: Any
    high: Any
    color: Any
    name: str = ""


@dataclass
class Bars:
    """Bars over the cells of an axis, the marked ones in colour."""

    values: Array
    marked: Set[int]
    name: str  # of the marked ones, in the legend
    axis: labels.CellAxis


@dataclass
class Chart:
    """The content of a figure."""

    title: str
    x_title: str
    y_title: str
    lines: List[Line] = field(default_factory=list)
    bands: List[Band] = field(default_factory=list)
    bars: Optional[Bars] = None
    alerts: Sequence[Tuple[float, str]] = ()  # (x, state)
    from_zero: bool = False
    powers: bool = False  # y is logarithmic; values of 0 and below are left out
    x: labels.Axis = field(init=False)
    y: labels.Axis = field(init=False)

    def shown(self, y: Any) -> Array:
        y = np.asarray(y, np.float64)
        return np.where(np.isfinite(y) & ((y > 0) | (not self.powers)), y, np.nan)

    def limits(self, look: Look) -> Tuple[Tuple[float, float], Tuple[float, float]]:
        """The limits of x and y. They keep numbers that are almost alike close to each other."""
        ys = [self.shown(line.y) for line in self.lines]
        ys += [self.shown(y) for band in self.bands for y in (band.low, band.high)]
        ys += [self.shown(self.bars.values)] if self.bars else []
        flat = np.concatenate([y[~np.isnan(y)] for y in ys] or [np.zeros(0)])
        if not flat.size:
            raise NothingToDraw("there is nothing to draw: no value is a number")
        low, high = float(flat.min()), float(flat.max())
        if self.powers:
            times = 2.5 if high < 2.5 * low else 1.3
            low, high = max(low / times, high * times * 1e-8), high * times
        else:
            room = 0.05 * (high - low) or max(abs(low) * 0.1, 0.05)
            low, high = 0.0 if self.from_zero and low >= 0 else low - room, high + room
        low = look.vmin if look.vmin is not None and (look.vmin > 0 or not self.powers) else low
        high = look.vmax if look.vmax is not None else high
        high = high if high > low else low + max(abs(low), 1.0)
        if self.bars:
            return self.bars.axis.span, (low, high)
        x = np.concatenate([np.asarray(line.x, np.float64) for line in self.lines])
        left, right = float(x.min()), float(x.max())
        return (left, right) if right > left else (left - 0.5, right + 0.5), (low, high)

    def handles(self) -> List[Any]:
        """The entries of the legend."""
        found: List[Any] = [Line2D([], [], color=line.color, linewidth=max(1, line.width), label=line.name)
                            for line in self.lines if line.name]
        found += [Patch(facecolor=band.color, alpha=_FAINT, linewidth=0, label=band.name)
                  for band in self.bands if band.name]
        if self.bars and self.bars.name:
            found.append(Patch(facecolor=CYCLE[0], linewidth=0, label=self.bars.name))
        if self.alerts:
            found.append(Line2D([], [], color=ALERT, linewidth=1, linestyle=_DASHES, label="alert (faint: resolved)"))
        if any(state == "firing_at_end" for _, state in self.alerts):
            found.append(Line2D([], [], color=ALERT, linewidth=1, label="alert firing at end"))
        return found


def draw(chart: Chart, look: Look) -> Any:
    with style.context(look.font):
        limits, handles = chart.limits(look), chart.handles()
        chart.x = chart.bars.axis if chart.bars else labels.NumberAxis(chart.x_title, *limits[0])
        chart.y = labels.NumberAxis(chart.y_title, *limits[1], powers=chart.powers)
        if look.ax is not None:
            return _draw_into(chart, look, limits)
        page = look.page(WIDTH_ONE, chart.title)
        lines, across = legend_lines([handle.get_label() for handle in handles], page.width, _SAMPLE)
        frame = layouts.Frame([chart], 1, True, True, [], "", lines * _LEGEND_LINE + 3 if lines else 0.0, is_chart=True)
        layout = layouts.arrange(frame, page, "for a chart")
        figure = Figure(figsize=(page.width / INCH, (page.height or float(np.ceil(layout.height - 0.01))) / INCH))
        box = layout.boxes[0]
        ax = place_axes(figure, box)
        _draw_values(ax, chart, limits, box[2])
        _draw_axes(ax, chart, layout.x[0], layout.y[0], box[2:], layout.titles)
        draw_title(figure, page)
        if handles and layout.has_legend:
            place_legend(figure, handles, across, _SAMPLE)
        return figure


def _draw_into(chart: Chart, look: Look, limits: Any) -> Any:
    ax = axes_of(look.ax, 1)[0]
    box = ax.get_window_extent()
    wide, high = (side * INCH / ax.figure.dpi for side in (box.width, box.height))
    _draw_values(ax, chart, limits, wide)
    x, y = labels.plan(chart.x, True, wide, 0.25 * wide), labels.plan(chart.y, False, high, 0.25 * wide)
    _draw_axes(ax, chart, x, y, (wide, high), (x.title, y.title))
    title = chart.title if look.title is None else look.title
    ax.set_title(labels.clean(title) if title else "")
    if chart.handles():
        ax.legend(handles=chart.handles())
    return ax.figure


def _draw_values(ax: Any, chart: Chart, limits: Any, wide: float) -> None:
    if chart.powers:
        ax.set_yscale("log")
    ax.set_xlim(*limits[0])
    ax.set_ylim(*limits[1])
    for band in chart.bands:
        low, high = chart.shown(band.low), chart.shown(band.high)
        ax.fill_between(band.x, low, high, where=np.isfinite(low) & np.isfinite(high), color=band.color, alpha=_FAINT,
                        linewidth=0)
    if chart.bars:
        _draw_bars(ax, chart, chart.bars, wide)
    for x, state in chart.alerts:
        ax.axvline(x, color=ALERT, alpha=0.38 if state == "resolved" else 1.0, linewidth=1,
                   linestyle="-" if state == "firing_at_end" else _DASHES)
    for line in chart.lines:
        y = chart.shown(line.y)
        alone = ~np.isnan(y) & np.isnan(np.append(y[1:], np.nan)) & np.isnan(np.append(np.nan, y[:-1]))
        ax.plot(line.x, y, color=line.color, linewidth=line.width, alpha=line.alpha, marker="o", markeredgewidth=0,
                markersize=2.6 if line.dots else 2.0, markevery=None if line.dots else alone)


def _draw_bars(ax: Any, chart: Chart, bars: Bars, wide: float) -> None:
    """Draws a bar per key. Bars that would touch become one area, with marked bars wide enough to be seen."""
    low, high = bars.axis.span
    step = (high - low) / len(bars.values)
    middles = np.array([bars.axis.middle(cell) for cell in range(len(bars.values))])
    heights = np.nan_to_num(chart.shown(bars.values))
    points = wide / len(bars.values)
    marked = np.array(sorted(bars.marked), int)
    if points > 3:
        colours = [CYCLE[0] if cell in bars.marked else REST for cell in range(len(heights))]
        ax.bar(middles, heights, 0.8 * step, color=colours)
        return
    ax.stairs(heights, low + step * np.arange(len(heights) + 1), fill=True, color=REST)
    ax.bar(middles[marked], heights[marked], max(1.0, 1.5 / points) * step, color=CYCLE[0])


def _draw_axes(ax: Any, chart: Chart, x: labels.AxisPlan, y: labels.AxisPlan, lengths: Sequence[float],
               titles: Sequence[str]) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.yaxis.set_minor_locator(NullLocator())
    ax.grid(axis="y", color=GRID, linewidth=0.5)
    ax.tick_params(axis="both", color=AXIS, width=LINE)
    labels.draw(ax, chart.x, x, True, lengths[0])
    labels.draw(ax, chart.y, y, False, lengths[1])
    ax.set_xlabel(titles[0], fontsize=NAME)
    ax.set_ylabel(titles[1], fontsize=NAME)
