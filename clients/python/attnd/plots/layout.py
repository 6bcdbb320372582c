# SPDX-License-Identifier: MIT
"""layout: where the panels of a figure stand.

The width is given. What stands beside the maps is measured, the maps get the rest, and the height follows from their
shape, unless it is given too: then the maps are as large as both allow, and stand in the middle. What the texts at the axes
need depends on how long the axes are, which depends on the room that texts need: the length is first guessed, then worked
out. Where there is no room, titles of axes and then ticks are left out; then TooSmall is raised, with a size that is enough.
Lengths are points; y goes down from the top of the figure.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Callable, List, Optional, Sequence, Tuple

from . import labels, scale
from .cells import bar_room
from .style import INCH, MARGIN, NAME, TITLE, TooSmall, shorten, width

GAP = 7.0  # between panels
SHAPE_LEAST, SHAPE_MOST, STRETCHED = 0.4, 5.0, 1.6  # width by height of maps, and of what is stretched
TEXT_SHARE = 0.2  # of the width: the longest text at an axis
LEAST, LEAST_TICKS, THIN = 12.0, 24.0, 3.0  # of a map's longer side, with ticks at it, and of its shorter side
LOWERED, HEIGHT_MOST = 28.0, 9 * INCH  # a figure becomes higher than a page only for maps that would be lower
PANEL_LEAST, AROUND = 62.0, 36.0
OVERHANG = 8.0  # an axis' title may be so much longer than what it stands beside
COLUMNS_MOST = 64


@dataclass(frozen=True)
class Page:
    """The size that was asked for, 0 for a height that follows; and the title."""

    width: float
    height: float = 0.0
    title: str = ""

    def title_lines(self) -> List[str]:
        """A long title breaks at a comma, or at a blank; what is too long even so is cut."""
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


def grow(page: Page, fits: Callable[[Page], bool]) -> Tuple[float, Optional[float]]:
    """Inches that are enough: wider first, then higher, by tenths."""
    def tenths(points: float) -> int:
        return math.ceil(points / INCH * 10 - 1e-6)

    def least(low: int, fits_: Callable[[int], bool]) -> int:
        if fits_(low):
            return low
        step = 1
        while low + step < 2000 and not fits_(low + step):
            low, step = low + step, 2 * step
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits_(middle) else (middle, high)
        return high

    wide = least(tenths(page.width), lambda n: fits(Page(n * INCH / 10, 0.0, page.title)))
    high = page.height and least(tenths(page.height), lambda n: fits(Page(wide * INCH / 10, n * INCH / 10, page.title)))
    return wide / 10, high / 10 or None


@dataclass
class PanelShape:
    """What the layout knows of a panel."""

    x: labels.CellAxis
    y: labels.CellAxis
    titled: bool

    @property
    def shape(self) -> float:
        return min(SHAPE_MOST, max(SHAPE_LEAST, self.x.total / self.y.total))


@dataclass(frozen=True)
class Frame:
    """What there is to lay out."""

    panels: Sequence[PanelShape]
    columns: int
    shared: bool  # one range, one bar, the axes of the first for all
    stretch: bool  # cells fill the width; otherwise they are square
    ranges: Sequence[scale.Range]  # of the bars: one, or one a panel
    bar_title: str
    legend: float  # room below
    bare_titles: bool = False
    bare: bool = False

    @property
    def rows(self) -> int:
        return -(-len(self.panels) // self.columns)

    def shape_of(self, index: int) -> float:
        return STRETCHED if self.stretch else self.panels[index].shape

    def bar_title_of(self, index: int) -> str:
        """Bars of several maps mean the same: those of the last column say what."""
        last = self.shared or index % self.columns == self.columns - 1 or index + 1 == len(self.panels)
        return self.bar_title if last and not self.bare_titles else ""


@dataclass
class Layout:
    """Where everything is."""

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

    def outline(self) -> Tuple[float, float, float, float]:
        left, top = self.boxes[0][:2]
        return (left, top, max(box[0] + box[2] for box in self.boxes) - left,
                max(box[1] + box[3] for box in self.boxes) - top)


def choose_columns(count: int, page: Page) -> int:
    """With a height: those with which panels are largest. Otherwise a little wider than high, with few places empty in the
    last row: 12 are 3 rows of 4, 10 are 2 of 5, 64 are 8 of 8. A few stand in one row."""
    if page.height:
        wide, high = page.width - AROUND, page.height - AROUND
        return max(range(1, min(count, COLUMNS_MOST) + 1), key=lambda n: (min(wide / n, high / -(-count // n)), -n))
    most = max(1, int(page.width / PANEL_LEAST))
    if count <= most and count <= 5:
        return count
    wanted = min(most, math.sqrt(count * 1.4))
    return min(range(1, min(most, COLUMNS_MOST) + 1), key=lambda n: (-(-count // n) * n - count + 0.9 * abs(n - wanted), n))


def _lay_out(frame: Frame, page: Page) -> Layout:
    count, columns = len(frame.panels), frame.columns
    shapes = [max(frame.shape_of(i) for i in range(c, count, columns)) for c in range(columns)]
    guess = (0.7 if frame.shared else 0.5) * page.width / sum(shapes)
    if page.height:
        guess = min(guess, 0.7 * page.height / frame.rows)
    text_max = TEXT_SHARE * page.width / (1 if frame.shared else math.sqrt(columns))
    title = 0.0 if frame.bare_titles else NAME + 4
    titled = NAME + 4 if any(panel.titled for panel in frame.panels) else 0.0
    x: List[Optional[labels.AxisPlan]] = [None] * count
    y: List[Optional[labels.AxisPlan]] = [None] * count
    left, below, between, wanted = [0.0] * columns, 0.0, 0.0, guess
    for _ in range(3):  # the room that texts need only grows, so that the passes end where everything fits
        for i, panel in enumerate(frame.panels):
            before_x, before_y = x[i], y[i]
            x[i] = labels.plan(panel.x, True, guess * frame.shape_of(i), text_max, frame.bare, before_x.named if before_x else None)
            y[i] = labels.plan(panel.y, False, guess, text_max, frame.bare, before_y.named if before_y else None)
            left[i % columns], below = max(left[i % columns], y[i].room), max(below, x[i].room)  # type: ignore[union-attr]
        between = GAP + titled + (0 if frame.shared else below + title)
        bar = guess * frame.rows + between * (frame.rows - 1) if frame.shared else guess
        rooms = [bar_room(range_, frame.bar_title_of(i), bar) for i, range_ in enumerate(frame.ranges)]
        last = max(room for i, room in enumerate(rooms) if frame.shared or i % columns == columns - 1 or i + 1 == count)
        inner = max((room for i, room in enumerate(rooms) if not frame.shared and i % columns < columns - 1), default=0.0)
        side = [room + title for room in (left[:1] if frame.shared else left)]
        beside = GAP + (0 if frame.shared else inner)
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
    boxes = []
    for i in range(count):
        row, column = divmod(i, columns)
        before = sum(shapes[c] * high + beside + (0 if frame.shared else side[c + 1]) for c in range(column))
        shape = shapes[0] if frame.stretch else frame.shape_of(i)
        boxes.append((start + before, top + row * (high + between), high * shape, high))
        if page.height:  # which may have made them smaller
            x[i] = labels.plan(frame.panels[i].x, True, high * shape, text_max, frame.bare, x[i].named)  # type: ignore[union-attr]
            y[i] = labels.plan(frame.panels[i].y, False, high, text_max, frame.bare, y[i].named)  # type: ignore[union-attr]
    sides = [(min(wanted, high) * frame.shape_of(i), min(wanted, high)) for i in range(count)]
    least = LEAST if frame.bare else LEAST_TICKS
    fits = (all(max(one) >= least and min(one) >= THIN for one in sides)
            and (not page.height or around + high * frame.rows <= page.height + 0.01))
    titles = ("", "", "") if frame.bare_titles else (x[0].title, y[0].title, frame.bar_title)  # type: ignore[union-attr]
    return Layout(page.width, height, boxes, x, y, titles, below, left, beside, fits, side)  # type: ignore[arg-type]


def _lowered(frame: Frame, page: Page) -> Layout:
    """Many rows may make more than a page, where no height is given: smaller maps."""
    layout = _lay_out(frame, page)
    if page.height or layout.height <= HEIGHT_MOST:
        return layout
    maps = frame.rows * layout.boxes[0][3]
    given = max(HEIGHT_MOST, layout.height - maps + frame.rows * LOWERED)
    return _lay_out(frame, replace(page, height=given)) if given < layout.height else layout


def _shed_long(frame: Frame, layout: Layout) -> Layout:
    """Takes away titles that are longer than what they stand beside."""
    box = layout.outline() if frame.shared else min(layout.boxes, key=lambda box: box[2])
    room = (box[2], box[3], box[3])
    layout.titles = tuple(title if width(title, NAME) <= side + OVERHANG else ""  # type: ignore[assignment]
                          for title, side in zip(layout.titles, room))
    return layout


def arrange(frame: Frame, page: Page, what: str, columns: Callable[[Page], int]) -> Layout:
    """Lays it out, or raises TooSmall; `columns` is what a page of another size would have."""
    for titles, ticks in ((False, False), (True, False), (True, True)):
        layout = _lowered(replace(frame, bare_titles=titles, bare=ticks), page)
        if layout.fits:
            return _shed_long(frame, layout)
    bare = replace(frame, bare_titles=True, bare=True)
    least = grow(page, lambda larger: _lowered(replace(bare, columns=columns(larger)), larger).fits)
    raise TooSmall((page.width / INCH, page.height / INCH or None), least, what)
