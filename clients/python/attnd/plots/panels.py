# SPDX-License-Identifier: MIT
"""panels: a figure of one or more maps side by side, with axes, colour bars and a legend of cells without a colour."""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.patches import Patch, Rectangle

from . import labels, layout as layouts, scale
from .cells import BAR_GAP, BAR_WIDE, Bar, CellImage, bar_place
from .data import MASKED, PADDED, SHOWN
from .output import Figure
from .scale import Array
from .names import PlotError
from .style import HATCH, INCH, MARGIN, NAME, SOFT, TICK, WIDTH_ONE, WIDTH_TWO, colormap, ink_on, shorten, width
from . import style

_NUMBER_CELL = 15.0  # points of a cell that a number fits into
_SWATCH, _LEGEND_LINE = 7.0, 10.0


@dataclass
class Look:
    """The look of a figure: the keywords that every kind takes."""

    ax: Any = None  # axes to draw into, several for kinds with several panels; None: a new figure
    cmap: Any = "viridis"
    vmin: Optional[float] = None
    vmax: Optional[float] = None
    title: Optional[str] = None  # "" is no title; None describes the figure
    size: Any = None  # inches: a width, or (width, height)
    font: Optional[str] = None  # names with commas
    columns: Optional[int] = None  # of panels

    @staticmethod
    def split(options: Dict[str, Any]) -> "Tuple[Look, Dict[str, Any]]":
        """The look, and the other options. Raises PlotError for options that contradict."""
        names = {entry.name for entry in dataclasses.fields(Look)}
        look = Look(**{name: options[name] for name in options if name in names})
        if look.vmin is not None and look.vmax is not None and look.vmin >= look.vmax:
            raise PlotError("vmin must be less than vmax")
        colormap(look.cmap)
        return look, {name: value for name, value in options.items() if name not in names}

    def page(self, inches: float, title: str) -> layouts.Page:
        wide, high = (self.size if isinstance(self.size, Sequence) else (self.size, None))
        given = title if self.title is None else self.title
        return layouts.Page((wide or inches) * INCH, (high or 0) * INCH, labels.clean(given) if given else "")


@dataclass
class Panel:
    """A map with its axes."""

    values: Array  # float32 [rows, columns]
    classes: Array  # u8, of data.py
    x: labels.CellAxis
    y: labels.CellAxis
    title: str = ""
    dividers: Sequence[int] = field(default=())  # rows with a line above

    def __post_init__(self) -> None:
        """`shown` are the values that are neither masked nor padding, `finite` the finite ones of them."""
        self.shown = np.asarray(self.values[self.classes == SHOWN]) if self.classes.any() else self.values.reshape(-1)
        self.finite = scale.finite(self.shown)

    def extent(self) -> Tuple[float, float, float, float]:
        (left, right), (top, bottom) = self.x.span, self.y.span
        return left, right, bottom, top


@dataclass
class Panels:
    """The panels of a figure, and what they share."""

    items: List[Panel]
    title: str
    bar_title: str = "attention weight"
    inches: float = 0.0  # wide; 0: by whether there are several
    shared: bool = True  # all panels have one range, one bar, and the axes of the first
    stretch: bool = False  # cells fill the width; otherwise they are square
    numbers: bool = False  # values are written into cells that are large enough
    columns: Optional[int] = None

    def ranges(self, look: Look) -> List[scale.Range]:
        """One range, or one for each panel."""
        joint = scale.range_of([panel.finite for panel in self.items], look.vmin, look.vmax,
                               "the maps" if len(self.items) > 1 else "the map")
        if self.shared:
            return [joint]
        low = -np.inf if look.vmin is None else look.vmin
        return [scale.range_of([part], look.vmin, look.vmax) if part.max(initial=-np.inf) > low else joint
                for part in (panel.finite for panel in self.items)]


def draw(panels: Panels, look: Look) -> Any:
    with style.context(look.font):
        ranges = panels.ranges(look)
        if look.ax is not None:
            return _draw_into(panels, look, ranges)
        page = look.page(panels.inches or (WIDTH_ONE if len(panels.items) == 1 else WIDTH_TWO), panels.title)
        columns = min(panels.columns or look.columns or layouts.choose_columns(len(panels.items), page), len(panels.items))
        entries = _entries(panels.items)
        lines, across = legend_lines([text for text, *_ in entries], page.width, _SWATCH)
        frame = layouts.Frame(panels.items, columns, panels.shared, panels.stretch, ranges, panels.bar_title,
                              3 + lines * _LEGEND_LINE if lines else 0.0)
        what = f"for {len(panels.items)} panel{'s' * (len(panels.items) != 1)}"
        layout = layouts.arrange(frame, page, what)
        height = page.height or float(np.ceil(layout.height - 0.01))
        figure = Figure(figsize=(layout.width / INCH, height / INCH))
        _draw_all(figure, panels, look, ranges, frame, layout)
        draw_title(figure, page)
        if entries:
            handles = [Patch(label=text, linewidth=0.3, **look_) for text, look_ in entries]
            place_legend(figure, handles, across, _SWATCH, handleheight=_SWATCH / TICK)
        return figure


def place_axes(figure: Any, box: Tuple[float, float, float, float]) -> Any:
    """Adds axes in a box of points; its y goes down from the top."""
    wide, high = figure.get_size_inches() * INCH
    left, top, width_, height = box
    return figure.add_axes([left / wide, 1 - (top + height) / high, width_ / wide, height / high])


def draw_title(figure: Any, page: layouts.Page) -> None:
    lines = page.title_lines()
    if lines:
        high = figure.get_size_inches()[1] * INCH
        title = figure.suptitle("\n".join(lines), x=0.5, y=1 - (MARGIN - 1) / high, va="top", linespacing=1.15)
        title.set_gid("title")


def _draw_all(figure: Any, panels: Panels, look: Look, ranges: Sequence[scale.Range], frame: layouts.Frame,
              layout: layouts.Layout) -> None:
    norm = Normalize(ranges[0].low, ranges[0].high)
    count, columns = len(panels.items), frame.columns
    for index, (panel, box) in enumerate(zip(panels.items, layout.boxes)):
        ax = place_axes(figure, box)
        range_ = ranges[0 if panels.shared else index]
        image = draw_map(ax, panel, look, norm if panels.shared else Normalize(range_.low, range_.high), index)
        lowest, leftmost = not panels.shared or index + columns >= count, not panels.shared or index % columns == 0
        _draw_axes(ax, panel, layout.x[index] if lowest else None, layout.y[index] if leftmost else None, box[2:])
        if panels.numbers:
            _draw_numbers(ax, panel, image, box[2:])
        _draw_panel_title(ax, panel, frame, layout, index)
        if not panels.shared or count == 1:
            ax.set_xlabel(layout.x[index].title if layout.titles[0] else "")
            ax.set_ylabel(layout.y[index].title if layout.titles[1] else "")
        if not panels.shared or index == 0:
            left, top, wide, high = layout.outline() if panels.shared else box
            below, length = bar_place(range_, high)
            bar = place_axes(figure, (left + wide + BAR_GAP, top + high - below - length, BAR_WIDE, length))
            Bar(bar, image, range_, frame.bar_title_of(index) if layout.titles[2] else "", length, index)
    if panels.shared and count > 1:
        _draw_joint_titles(figure, layout)


def draw_map(ax: Any, panel: Panel, look: Look, norm: Any, index: int) -> CellImage:
    """Draws the cells of a panel, without its axes."""
    image = CellImage(ax, panel.values, panel.classes, panel.extent(), cmap=colormap(look.cmap), norm=norm)
    image.set_gid(f"map-{index}")
    if panel.finite.size < panel.shown.size:
        ax.add_patch(Rectangle((0, 0), 1, 1, transform=ax.transAxes, facecolor="white", edgecolor=HATCH, hatch="//////",
                               linewidth=0, zorder=-1, gid=f"hatch-{index}"))
    ax.add_image(image)
    left, right, bottom, top = panel.extent()
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    for row in panel.dividers:
        ax.axhline(panel.y.middle(row) - 0.5, color="white", linewidth=1.2)
    return image


def _draw_axes(ax: Any, panel: Panel, x: Optional[labels.AxisPlan], y: Optional[labels.AxisPlan],
               lengths: Tuple[float, float]) -> None:
    for axis, plan, across, length in ((panel.x, x, True, lengths[0]), (panel.y, y, False, lengths[1])):
        labels.draw(ax, axis, plan if plan is not None else labels.AxisPlan(""), across, length)


def _draw_numbers(ax: Any, panel: Panel, image: CellImage, lengths: Tuple[float, float]) -> None:
    rows, columns = panel.values.shape
    if min(lengths[0] / columns, lengths[1] / rows) < _NUMBER_CELL:
        return
    for (row, column), value in np.ndenumerate(panel.values):
        if np.isfinite(value):
            ax.text(panel.x.middle(column), panel.y.middle(row), f"{value:.2f}", ha="center", va="center_baseline",
                    fontsize=TICK - 0.5, color=ink_on(image.to_rgba(value)))


def _draw_panel_title(ax: Any, panel: Panel, frame: layouts.Frame, layout: layouts.Layout, index: int) -> None:
    """Writes a title over the map's width and the room on both sides; 'head 12' becomes '12' before it is cut."""
    wide, column = layout.boxes[index][2], index % frame.columns
    beside = max(0.0, layout.beside - 3)
    if not frame.shared:
        beside = 2 * min(MARGIN + layout.side[column], max(0.0, layout.beside - 4))
    words, _, number = panel.title.rpartition(" ")
    text = number if words and number.isdigit() and width(panel.title, NAME) > wide + beside else panel.title
    if text:
        ax.set_title(shorten(text, NAME, wide + beside))


def _draw_joint_titles(figure: Any, layout: layouts.Layout) -> None:
    left, top, wide, high = layout.outline()
    width_, height = figure.get_size_inches() * INCH
    figure.supxlabel(layout.titles[0], x=(left + wide / 2) / width_, va="center", fontsize=NAME,
                     y=1 - (top + high + layout.ticks_below + 4 + NAME / 2) / height)
    figure.supylabel(layout.titles[1], x=(left - layout.ticks_left[0] - 4 - NAME / 2) / width_, ha="center",
                     fontsize=NAME, y=1 - (top + high / 2) / height)


# ------------------------------------------------------------------------------------------------ axes of the user's

def axes_of(ax: Any, count: int) -> List[Any]:
    """The axes of the user as a list, one for each panel."""
    axes = list(np.atleast_1d(np.asarray(ax, dtype=object)).reshape(-1))
    other = next((one for one in axes if not isinstance(one, Axes)), None)
    if other is not None:
        raise PlotError(f"ax: Axes of matplotlib, one for each panel, not {type(other).__name__}")
    if len(axes) < count:
        raise PlotError(f"ax: {len(axes)} axes for {count} panels")
    return axes


def _draw_into(panels: Panels, look: Look, ranges: Sequence[scale.Range]) -> Any:
    axes = axes_of(look.ax, len(panels.items))
    joint = Normalize(ranges[0].low, ranges[0].high)
    for index, (ax, panel) in enumerate(zip(axes, panels.items)):
        range_ = ranges[0 if panels.shared else index]
        image = draw_map(ax, panel, look, joint if panels.shared else Normalize(range_.low, range_.high), index)
        if not panels.stretch and layouts.SHAPE_LEAST <= panel.x.total / panel.y.total <= layouts.SHAPE_MOST:
            ax.set_aspect("equal")
            ax.apply_aspect()
        box = ax.get_window_extent()
        lengths = box.width * INCH / ax.figure.dpi, box.height * INCH / ax.figure.dpi
        x, y = (labels.plan(axis, across, length, 60.0)
                for axis, across, length in ((panel.x, True, lengths[0]), (panel.y, False, lengths[1])))
        _draw_axes(ax, panel, x, y, lengths)
        if panels.numbers:
            _draw_numbers(ax, panel, image, lengths)
        ax.set_xlabel(x.title, fontsize=NAME)
        ax.set_ylabel(y.title, fontsize=NAME)
        title = panel.title or panels.title if look.title is None else look.title
        ax.set_title(labels.clean(title) if title else "")
        below, length = bar_place(range_, lengths[1])
        bar = ax.inset_axes([1 + BAR_GAP / lengths[0], below / lengths[1], BAR_WIDE / lengths[0], length / lengths[1]])
        Bar(bar, image, range_, panels.bar_title, length, index)
    return axes[0].figure


# ------------------------------------------------------------------------------------------------ the legend

def _entries(items: Sequence[Panel]) -> List[Tuple[str, Dict[str, Any]]]:
    """The legend of cells without a colour: text, and the look of a swatch."""
    odd = [panel.shown[~np.isfinite(panel.shown)] for panel in items if panel.finite.size < panel.shown.size]
    hatched = {"facecolor": "white", "hatch": "//////", "edgecolor": HATCH}
    counts = (("not a number", sum(int(np.isnan(part).sum()) for part in odd)),
              ("infinite", sum(int(np.isinf(part).sum()) for part in odd)))
    entries: List[Tuple[str, Dict[str, Any]]] = [
        (f"{what}: {count} cell{'s' * (count != 1)}", hatched) for what, count in counts if count]
    for kind, text, colour in ((MASKED, "masked (causal)", style.MASKED), (PADDED, "padding", style.PADDED)):
        if any((panel.classes == kind).any() for panel in items):
            entries.append((text, {"facecolor": colour, "edgecolor": SOFT}))
    return entries


def legend_lines(texts: Sequence[str], page_width: float, sample: float) -> Tuple[int, int]:
    """Lines and columns that entries of a legend take."""
    room = page_width - 2 * MARGIN
    for columns in range(len(texts), 0, -1):
        rows = -(-len(texts) // columns)
        widest = [max(sample + 4 + min(width(text, TICK), room) for text in part)
                  for part in np.array_split(np.array(texts, dtype=object), columns)]
        if columns == 1 or sum(widest) + 10 * (columns - 1) <= room:
            return rows, columns
    return 0, 0


def place_legend(figure: Any, handles: Sequence[Any], columns: int, sample: float, **more: Any) -> None:
    """Draws a legend at the lower left of a figure."""
    wide, high = figure.get_size_inches() * INCH
    for handle in handles:
        handle.set_label(shorten(handle.get_label(), TICK, wide - 2 * MARGIN - sample - 4))
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(MARGIN / wide, MARGIN / high), borderaxespad=0,
                  borderpad=0, ncols=columns, handlelength=sample / TICK, handletextpad=4 / TICK,
                  columnspacing=10 / TICK, labelspacing=0.3, **more)
