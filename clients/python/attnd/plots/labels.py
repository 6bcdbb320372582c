# SPDX-License-Identifier: MIT
"""labels: the axis of a matrix: a tick in the middle of a cell, with its number or its token's text; and that of a chart, with
round numbers.

Texts that are a little too large for their cells become smaller. Where cells are much too small some texts are left
out, and where most would be, positions replace them.
"""
from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
from matplotlib.ticker import FixedFormatter, FixedLocator
from matplotlib.transforms import ScaledTranslation

from . import scale
from .style import INCH, LINE_TICK, TICK, TICK_GAP, TICK_LONG, shorten, width

THINNED_MOST = 3  # where only every 4th text or fewer would have room, positions are shown
LINE_SMALL = 5.2  # from text to text in the smallest readable size

_INVISIBLE = re.compile("[\0-\x1f\x7f-\x9f\xad\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufffe\uffff]")
_SIGNS = {"\n": "↵", "\t": "⇥"}


def clean(text: str) -> str:
    """A token's text with signs for line ends, tabs, blanks alone, invisible characters, and an empty text."""
    if not text.strip(" "):
        return "␣" * len(text) or "∅"
    return "".join(_SIGNS.get(char, "·") if _INVISIBLE.match(char) else "\ufffd" if "\ud800" <= char <= "\udfff" else char
                   for char in text)


@dataclass
class CellAxis:
    """The numbers or texts of cells, from left to right or from top to bottom."""

    title: str
    count: int  # cells
    total: int  # tokens that they stand for, more than cells when the map is pooled
    first: int = 0  # number of the first cell
    numbers: Optional[Sequence[int]] = None  # [count] numbers of the cells, ascending; None: consecutive
    texts: Optional[Sequence[Optional[str]]] = None  # [count] replace numbers; a None is left out
    text_title: str = ""  # the title when texts are shown
    all: bool = False  # every text is shown, without ticks

    @property
    def span(self) -> Tuple[float, float]:
        """The ends of the axis: in tokens, or in cells when there are `numbers`."""
        if self.numbers is not None:
            return -0.5, self.count - 0.5
        return self.first - 0.5, self.first + self.total - 0.5

    def place(self, number: float) -> float:
        """The place of a number on the axis, between the middles of the cells around it."""
        if self.numbers is None:
            return number
        return float(np.interp(number, self.numbers, np.arange(self.count)))

    def middle(self, cell: int) -> float:
        low, high = self.span
        return low + (cell + 0.5) / self.count * (high - low)


@dataclass
class NumberAxis:
    """Numbers from `low` to `high`: steps from left to right, values from bottom to top, which may be logarithmic."""

    title: str
    low: float
    high: float
    powers: bool = False
    all: bool = False  # as for cells

    @property
    def span(self) -> Tuple[float, float]:
        return self.low, self.high

    def ticks(self, across: bool, length: float) -> Tuple[List[float], List[str]]:
        """The round numbers at it, when it has this length."""
        if across:
            numbers = scale.ticks(self.low, self.high, min(10, int(length / 34)), 1)
            return numbers, scale.texts(numbers)
        down = int(max(0.0, length) / 16)
        if self.powers:
            numbers = scale.powers(self.low, self.high, 8)
            numbers = scale.thin(numbers, int(0.9 * down)) if len(numbers) > 0.9 * down else numbers
            if len(numbers) >= 2:
                return numbers, scale.power_texts(numbers)
        numbers = scale.ticks(self.low, self.high, min(8, down))
        return numbers, scale.texts(numbers)


Axis = Union[CellAxis, NumberAxis]


@dataclass
class AxisPlan:
    """The labels of an axis of a given length."""

    title: str
    named: bool = False  # labels are texts
    size: float = TICK
    room: float = 0.0  # points that ticks and texts need beside the box
    labels: List[Tuple[float, str]] = field(default_factory=list)  # place on the axis, text
    upright: Sequence[bool] = ()  # for each label

    def __bool__(self) -> bool:
        return bool(self.labels)


def plan(axis: Axis, across: bool, length: float, text_max: float, bare: bool = False,
         named: Optional[bool] = None) -> AxisPlan:
    """Chooses the labels for a box of `length` points. `named` repeats the decision of an earlier plan."""
    if bare:
        return AxisPlan("")
    result = AxisPlan(axis.title, room=TICK_LONG + TICK_GAP)
    if isinstance(axis, NumberAxis):
        _put_numbers(result, across, *axis.ticks(across, length))
        return result
    step, every = length / axis.count, 1
    if axis.texts is not None and not axis.all:
        if LINE_SMALL <= step < LINE_TICK:
            result.size = TICK * step / LINE_TICK
        elif step < LINE_SMALL:
            every = math.ceil(LINE_TICK / max(step, 0.01))
    result.named = named if named is not None else axis.texts is not None and every <= THINNED_MOST
    if result.named:
        _plan_texts(axis, result, across, length, text_max, every)
    else:
        result.size = TICK
        _plan_numbers(axis, result, across, length)
    return result


def _plan_numbers(axis: CellAxis, result: AxisPlan, across: bool, length: float) -> None:
    first = axis.numbers[0] if axis.numbers is not None else axis.first
    last = axis.numbers[-1] if axis.numbers is not None else axis.first + axis.total - 1
    room = 9 + 0.64 * TICK * len(str(int(last))) if across else 12
    most = length / room
    numbers = scale.ticks(first, max(last, first + 0.5), min(9, int(most)), 1)
    if len(numbers) > most + 1:
        numbers = scale.thin(numbers, 1 + int(most))
    _put_numbers(result, across, [axis.place(number) for number in numbers], scale.texts(numbers))


def _put_numbers(result: AxisPlan, across: bool, places: Sequence[float], texts: Sequence[str]) -> None:
    result.labels = list(zip(places, texts))
    result.room += TICK if across else max((width(text, TICK) for text in texts), default=0.0)


def _plan_texts(axis: CellAxis, result: AxisPlan, across: bool, length: float, text_max: float, every: int) -> None:
    assert axis.texts is not None
    texts = [(cell, axis.texts[cell]) for cell in range(0, axis.count, every)]
    result.labels = [(axis.middle(cell), shorten(clean(text), result.size, text_max)) for cell, text in texts if text is not None]
    wide = [width(text, result.size) for _, text in result.labels]
    result.upright = [across and not axis.all and one + (3 if len(text) > 1 else 0.5) > length / axis.count * every
                      for one, (_, text) in zip(wide, result.labels)]
    if sum(result.upright) > len(wide) / 4:
        result.upright = [True] * len(wide)
    result.room += max((one if upright or not across else TICK for one, upright in zip(wide, result.upright)),
                       default=0.0)
    if axis.text_title and axis.title:
        result.title = axis.text_title


def draw(ax: Any, axis: Axis, plan_: AxisPlan, across: bool, length: float) -> None:
    """Draws ticks and texts below the axes, or to the left of them."""
    to = ax.xaxis if across else ax.yaxis
    to.set_major_locator(FixedLocator([at for at, _ in plan_.labels]))
    to.set_major_formatter(FixedFormatter([text for _, text in plan_.labels]))
    bare = not plan_.labels or axis.all
    length_, pad = (0.0, TICK_GAP + TICK_LONG) if bare else (TICK_LONG, TICK_GAP)
    to.set_tick_params(length=length_, pad=pad, labelsize=plan_.size)
    low, high = axis.span
    uprights = plan_.upright or [False] * len(plan_.labels)
    for (at, text), upright, label in zip(plan_.labels, uprights, to.get_ticklabels()):
        label.set_parse_math(False)
        if not across:
            label.set_va("center_baseline" if plan_.named else "center")
        elif upright:
            label.set_rotation(90)
        elif not plan_.named and isinstance(axis, CellAxis):
            place, wide = (at - low) / (high - low) * length, width(text, TICK)
            over = max(-wide / 2, min(length + 1.5 - wide / 2, place)) - place
            if over:  # it would run into that of the next box
                label.set_transform(label.get_transform() + ScaledTranslation(over / INCH, 0, ax.figure.dpi_scale_trans))
