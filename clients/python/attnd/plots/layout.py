# SPDX-License-Identifier: MIT
"""layout: the places of a figure's panels.

The width is given. Texts and bars beside the maps are measured, the maps get the rest, and the height follows from
their shape. When the height is given too, the maps are as large as both allow and stand in the middle. The room that
texts at an axis need depends on its length, and its length on that room: the length is guessed, then worked out.
Without room, titles of axes, the legend of a chart and then ticks are left out; then arrange() raises TooSmall. A chart is a
figure of one panel that has no bar.
Lengths are points; y goes down from the top of the figure.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, List, Optional, Sequence, Tuple

from . import labels, scale
from .cells import bar_room
from .names import TooSmall
from .style import INCH, MARGIN, NAME, TITLE, shorten, width

GAP = 7.0  # between panels
CHART_RIGHT = 6.0  # beside a chart, where others have their bars
SHAPE_LEAST, SHAPE_MOST, STRETCHED = 0.4, 5.0, 1.6  # width by height of maps, and of stretched ones
TEXT_SHARE = 0.2  # of the width: the longest text at an axis
LEAST, LEAST_TICKS, THIN = 12.0, 24.0, 3.0  # of a map's longer side, with ticks at it, and of its shorter side
LOWERED, HEIGHT_MOST = 28.0, 9 * INCH  # maps become this low before a figure is higher than a page
PANEL_LEAST, AROUND = 62.0, 36.0
OVERHANG = 8.0  # by which a title may be longer than its axis
COLUMNS_MOST = 64


@dataclass(frozen=True)
class Page:
    """The size, with height 0 when it follows, and the title."""

    width: float
    height: float = 0.0
    title: str = ""

    def title_lines(self) -> List[str]:
        """A long title breaks at a comma, or at a blank; longer lines are cut."""
        room = self.width - 2 * MARGIN
        if not self.title:
            return []
        if width(self.title, TITLE) <= room:
            return [self.title]
        blanks = [at for at, char in enumerate(self.title) if char == " " and width(self.title[:at], TITLE) <= room]
        commas = [at for at in blanks if at and self.title[at - 1] == ","]
        at = (commas or blanks or [0])[-1]
        lines = [self.title[:at], self.title[at + 1:]] if at else [self.title]
        return [shorten(line, TITLE, room) for line in lines]

    def title_room(self) -> float:
        lines = len(self.title_lines())
        return TITLE + 5 + (lines - 1) * (TITLE + 2) if lines else 0.0


@dataclass(frozen=True)
class Frame:
    panels: Sequence[Any]  # Panel, or one Chart, with axes x and y
    columns: int
    shared: bool  # all panels have one range, one bar, and the axes of the first
    stretch: bool  # cells fill the width; otherwise they are square
    ranges: Sequence[scale.Range]  # one for each bar
    bar_title: str
    legend: float  # room below the panels
    bare_titles: bool = False
    bare: bool = False
    is_chart: bool = False

    @property
    def rows(self) -> int:
        return -(-len(self.panels) // self.columns)

    def shape_of(self, index: int) -> float:
        x, y = self.panels[index].x, self.panels[index].y
        return STRETCHED if self.stretch else min(SHAPE_MOST, max(SHAPE_LEAST, x.total / y.total))

    def bar_title_of(self, index: int) -> str:
        """Bars of several maps mean the same; only the last column names it."""
        last = self.shared or index % self.columns == self.columns - 1 or index + 1 == len(self.panels)
        return self.bar_title if last and not self.bare_titles else ""


@dataclass
class Layout:
    width: float
    height: float
    boxes: List[Tuple[float, float, float, float]]  # left, top, width, height
    x: List[labels.AxisPlan]
    y: List[labels.AxisPlan]
    titles: Tuple[str, str, str]  # of x, y and bars, where there is room for them
    ticks_below: float
    ticks_left: List[float]  # of each column
    beside: float
    fits: bool = True
    side: List[float] = field(default_factory=list)
    has_legend: bool = True

    def outline(self) -> Tuple[float, float, float, float]:
        left, top = self.boxes[0][:2]
        return (left, top, max(box[0] + box[2] for box in self.boxes) - left,
                max(box[1] + box[3] for box in self.boxes) - top)


def choose_columns(count: int, page: Page) -> int:
    """With a height, panels become as large as possible. Otherwise the figure is a little wider than high, with few
    empty places in the last row: 12 are 3 rows of 4, 10 are 2 of 5, 64 are 8 of 8. A few stand in one row."""
    if page.height:
        wide, high = page.width - AROUND, page.height - AROUND
        return max(range(1, min(count, COLUMNS_MOST) + 1), key=lambda n: (min(wide / n, high / -(-count // n)), -n))
    most = max(1, int(page.width / PANEL_LEAST))
    if count <= most and count <= 5:
        return count
    wanted = min(most, math.sqrt(count * 1.4))
    return min(range(1, min(most, COLUMNS_MOST) + 1),
               key=lambda n: (-(-count // n) * n - count + 0.9 * abs(n - wanted), n))


def _lay_out(frame: Frame, page: Page) -> Layout:
    count, columns = len(frame.panels), frame.columns
    shapes = [max(frame.shape_of(i) for i in range(c, count, columns)) for c in range(columns)]
    guess = (0.7 if frame.shared else 0.5) * page.width / sum(shapes)
    if page.height:
        guess = min(guess, 0.7 * page.height / frame.rows)
    text_max = TEXT_SHARE * page.width / (1 if frame.shared else math.sqrt(columns))
    title = 0.0 if frame.bare_titles else NAME + 4
    titled = 3.0 if frame.is_chart else NAME + 4 if any(panel.title for panel in frame.panels) else 0.0
    x = y = [labels.AxisPlan("")] * count
    left, below, between, wanted = [0.0] * columns, 0.0, 0.0, guess

    def plan(high: float, shapes_: Sequence[float], again: bool) -> None:
        """The axes of maps that are so high; `again` keeps whether they have texts."""
        nonlocal x, y
        x = [labels.plan(panel.x, True, high * shape, text_max, frame.bare, before.named if again else None)
             for panel, shape, before in zip(frame.panels, shapes_, x)]
        y = [labels.plan(panel.y, False, high, text_max, frame.bare, before.named if again else None)
             for panel, before in zip(frame.panels, y)]

    own = [frame.shape_of(i) for i in range(count)]
    for again in (False, True, True):  # the room of texts only grows: the last pass fits
        plan(guess, own, again)
        below = max(below, *(one.room for one in x))
        left = [max(left[c], *(one.room for one in y[c::columns])) for c in range(columns)]
        between = GAP + titled + (0 if frame.shared else below + title)
        bar = guess * frame.rows + between * (frame.rows - 1) if frame.shared else guess
        rooms = [bar_room(range_, frame.bar_title_of(i), bar) for i, range_ in enumerate(frame.ranges)]
        last = max((room for i, room in enumerate(rooms) if frame.shared or i % columns == columns - 1 or i + 1 == count),
                   default=CHART_RIGHT)
        others = [room for i, room in enumerate(rooms) if i % columns < columns - 1]
        inner = max(others, default=0.0) if not frame.shared else 0.0
        side = [room + title for room in (left[:1] if frame.shared else left)]
        beside = GAP + inner
        wanted = (page.width - 2 * MARGIN - sum(side) - last - (columns - 1) * beside) / sum(shapes)
        guess = max(THIN, wanted)
    top = MARGIN + page.title_room() + titled
    around = top + below + title + MARGIN + frame.legend + (frame.rows - 1) * between
    height, start, high = page.height or around + guess * frame.rows, MARGIN + side[0], guess
    if page.height:
        high = max(THIN, (page.height - around) / frame.rows)
        if frame.stretch:
            shapes[0] *= guess / high
        elif guess > high:
            start += (guess - high) * sum(shapes) / 2
        else:
            top += (high - guess) * frame.rows / 2
            high = guess
    drawn = shapes[:1] * count if frame.stretch else own
    plan(high, drawn, True)
    boxes = []
    for i in range(count):
        row, column = divmod(i, columns)
        before = sum(shapes[c] * high + beside + (0 if frame.shared else side[c + 1]) for c in range(column))
        boxes.append((start + before, top + row * (high + between), high * drawn[i], high))
    sides = [(min(wanted, high) * shape, min(wanted, high)) for shape in own]
    least, thin = LEAST if frame.bare else LEAST_TICKS, LEAST_TICKS if frame.is_chart else THIN
    if frame.is_chart:
        sides = [box[2:] for box in boxes]
    fits = (all(max(one) >= least and min(one) >= thin for one in sides)
            and (not page.height or around + high * frame.rows <= page.height + 0.01))
    titles = ("", "", "") if frame.bare_titles else (x[0].title, y[0].title, frame.bar_title)
    return Layout(page.width, height, boxes, x, y, titles, below, left, beside, fits, side)


def _lowered(frame: Frame, page: Page) -> Layout:
    """Makes maps smaller when many rows would be higher than a page and no height is given."""
    layout = _lay_out(frame, page)
    if page.height or layout.height <= HEIGHT_MOST:
        return layout
    maps = frame.rows * layout.boxes[0][3]
    given = max(HEIGHT_MOST, layout.height - maps + frame.rows * LOWERED)
    return _lay_out(frame, replace(page, height=given)) if given < layout.height else layout


def arrange(frame: Frame, page: Page, what: str) -> Layout:
    """Lays panels out, or raises TooSmall."""
    bare = replace(frame, bare_titles=True, legend=0.0 if frame.is_chart else frame.legend)
    for one in (frame, replace(frame, bare_titles=True), bare, replace(bare, bare=True)):
        layout = _lowered(one, page)
        if layout.fits:
            layout.has_legend = one.legend > 0
            _, _, wide, high = layout.outline() if frame.shared else min(layout.boxes, key=lambda box: box[2])
            x, y, bar = (title if width(title, NAME) <= side + OVERHANG else ""  # without those that are longer than their axis
                         for title, side in zip(layout.titles, (wide, high, high)))
            layout.titles = x, y, bar
            return layout
    raise TooSmall((page.width / INCH, page.height / INCH or None), what)
