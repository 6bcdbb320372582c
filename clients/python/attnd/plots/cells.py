# SPDX-License-Identifier: MIT
"""cells: a matrix as cells of colour, and the colour bar beside it.

A CellImage is an image of matplotlib: get_array() returns the values, set_cmap() and set_clim() work, and its bar
follows. It is drawn in another way. In PNG, maps with more cells than pixels are pooled to means instead of sampled.
In SVG and PDF cells stay whole up to CELLS_MOST a side, and are enlarged so that no viewer smooths them. Cells that
are masked, padding or no number have colours of their own and are masked in the array.
"""
from __future__ import annotations

from typing import Any, Tuple

import numpy as np
from matplotlib.colors import Normalize, to_rgba
from matplotlib.image import AxesImage
from matplotlib.patches import Polygon
from matplotlib.transforms import Affine2D

from . import scale
from .data import MASKED, PADDED, SHOWN, pool
from .scale import Array
from .style import AXIS, LINE, NAME, TICK, TICK_GAP, TICK_LONG, width
from . import style

CELLS_MOST = 2048  # of a side in SVG and PDF; larger maps are pooled
_SIDE_LEAST = 512  # pixels of a side in SVG and PDF


class CellImage(AxesImage):
    """values float [rows, columns]; classes u8 of data.py; extent (left, right, bottom, top) as for imshow."""

    def __init__(self, ax: Any, values: Array, classes: Array, extent: Tuple[float, float, float, float], **more: Any):
        super().__init__(ax, interpolation="none", origin="upper", extent=extent, **more)
        self.classes = classes
        self.set_data(np.ma.masked_where((classes != SHOWN) | ~np.isfinite(values), values))

    def colours(self, rows: int = CELLS_MOST, columns: int = CELLS_MOST) -> Array:
        """u8 [rows, columns, 4], pooled to at most this size; transparent where there is no number."""
        values: Array = np.ma.filled(np.ma.asarray(self.get_array()), np.nan)
        classes = self.classes
        if values.shape[0] > rows or values.shape[1] > columns:
            values, classes = pool(values, classes, rows, columns)
        colours = self._table()[self._places(values)]
        for kind, colour in ((MASKED, style.MASKED), (PADDED, style.PADDED)):
            colours[classes == kind] = np.round(255 * np.array(to_rgba(colour)))
        return colours

    def _table(self) -> Array:
        """u8 [N + 3, 4]: the colours, those for below and above, and a transparent one."""
        cmap = self.get_cmap()
        table = np.vstack([cmap(np.arange(cmap.N)), cmap(-1.0), cmap(2.0), np.zeros(4)])
        return np.asarray(np.round(255 * table), np.uint8)

    def _places(self, values: Array) -> Array:
        """int16 [rows, columns]: the place of each value in that table."""
        count = self.get_cmap().N
        share: Array = np.ma.filled(self.norm(np.ma.masked_invalid(values)), np.nan)
        with np.errstate(invalid="ignore"):
            places = np.where(share == 1, count - 1, np.clip(share, 0, 1) * count)
            places = np.where(share < 0, count, np.where(share > 1, count + 1, places))
        return np.where(np.isnan(share), count + 2, places).astype(np.int16)

    def make_image(self, renderer: Any, magnification: float = 1.0, unsampled: bool = False) -> Any:
        """Overrides AxesImage: returns pixels from the lower left on, their place, and their scale."""
        left, right, bottom, top = self.get_extent()
        (x0, y0), (x1, y1) = self.axes.transData.transform([(left, bottom), (right, top)])
        if unsampled:
            colours = self.colours()
            rows, columns = colours.shape[:2]
            times = max(1, -(-_SIDE_LEAST // max(rows, columns)))
            colours = colours.repeat(times, 0).repeat(times, 1)[::-1]
            size = Affine2D().scale(abs(x1 - x0) / colours.shape[1], abs(y1 - y0) / colours.shape[0])
            return _turned(colours, x1 < x0, y1 < y0), min(x0, x1), min(y0, y1), size
        clip = self.axes.bbox
        wide, from_x, to_x = _pixels(x0, x1, clip.x0, clip.x1, magnification)
        high, from_y, to_y = _pixels(y0, y1, clip.y0, clip.y1, magnification)
        if from_x >= to_x or from_y >= to_y:
            return None, 0, 0, None
        colours = _turned(self.colours(high, wide)[::-1], x1 < x0, y1 < y0)
        begin_x, begin_y = (round(min(ends) * magnification) for ends in ((x0, x1), (y0, y1)))
        columns = (np.arange(from_x, to_x) - begin_x) * colours.shape[1] // wide
        rows = (np.arange(from_y, to_y) - begin_y) * colours.shape[0] // high
        seen = np.ascontiguousarray(colours[rows][:, columns])
        return seen, from_x / magnification, from_y / magnification, Affine2D()


def _pixels(a: float, b: float, low: float, high: float, times: float) -> Tuple[int, int, int]:
    """The pixels of the whole image, and the first and the end of those inside the axes."""
    begin, end = round(min(a, b) * times), round(max(a, b) * times)
    end = max(end, begin + 1)
    return end - begin, max(begin, round(low * times)), min(end, max(round(high * times), round(low * times) + 1))


def _turned(colours: Array, across: bool, down: bool) -> Array:
    colours = colours[:, ::-1] if across else colours
    return colours[::-1] if down else colours


# ------------------------------------------------------------------------------------------------ the colour bar

BAR_GAP, BAR_WIDE = 5.0, 6.0
_EVERY, _EVERY_LEAST, _HIGH_MOST = 22.0, 9.0, 260.0  # points from number to number


def bar_ticks(low: float, high: float, height: float) -> "list[float]":
    """The numbers at a bar `height` points high."""
    most = min(8, int(min(height, _HIGH_MOST) / _EVERY))
    numbers = scale.ticks(low, high, most)
    for more in range(3, 8):
        if len(numbers) >= 3 or more * _EVERY_LEAST >= height:
            break
        numbers = scale.ticks(low, high, more)
    return scale.thin(numbers, int(height / _EVERY_LEAST))


def bar_room(range_: scale.Range, title: str, height: float) -> float:
    """The room that a bar `height` points high needs beside its map."""
    numbers = max((width(text, TICK) for text in scale.texts(bar_ticks(range_.low, range_.high, height))), default=0.0)
    return BAR_GAP + BAR_WIDE + TICK_LONG + TICK_GAP + numbers + (NAME + 4 if title else 0)


def bar_place(range_: scale.Range, length: float) -> Tuple[float, float]:
    """Start and length of the colours in a bar of `length` points; the points at its ends take the rest."""
    below, above = BAR_WIDE * range_.below, BAR_WIDE * range_.above
    return below, max(1.0, length - below - above)


class Bar:
    """The colour bar of an image, in axes of its own. It follows when the image gets other colours or limits; points
    at its ends stand for values beyond."""

    def __init__(self, ax: Any, image: CellImage, range_: scale.Range, title: str, length: float, index: int = 0):
        """`length` in points, of the axes."""
        self.ax, self.image, self.range, self._length = ax, image, range_, length
        self.cells = CellImage(ax, np.zeros((256, 1)), np.zeros((256, 1), np.uint8), (0, 1, 0, 1))
        self.cells.set_gid(f"bar-{index}")
        self.tips = [Polygon([(0, base), (0.5, tip), (1, base)], closed=True, transform=ax.transAxes, clip_on=False,
                             edgecolor=AXIS, linewidth=LINE)
                     for base, tip in ((1, 1 + BAR_WIDE / length), (0, -BAR_WIDE / length))]
        ax.add_image(self.cells)
        for tip, end in zip(self.tips, ("above", "below")):
            tip.set_gid(f"bar-{index}-{end}")
            ax.add_patch(tip)
        ax.set_xlim(0, 1)
        ax.set_xticks([])
        ax.yaxis.tick_right()
        ax.yaxis.set_label_position("right")
        ax.set_ylabel(title)
        self._show()
        ax.attnd_bar = self  # callbacks hold only weak references
        image.callbacks.connect("changed", self._follow)

    def _follow(self, image: Any) -> None:
        low, high = image.get_clim()
        values = image.get_array().compressed()
        below, above = bool(values.size and values.min() < low), bool(values.size and values.max() > high)
        self.range = scale.Range(low, high, below, above)
        self._show()

    def _show(self) -> None:
        low, high = self.range.low, self.range.high
        self.cells.set_extent((0, 1, low, high))
        self.cells.set_data((low + (np.arange(256)[::-1, None] + 0.5) / 256 * (high - low)).astype(np.float64))
        self.cells.set_norm(Normalize(low, high))
        self.cells.set_cmap(self.image.get_cmap())
        self.ax.set_ylim(low, high)
        numbers = bar_ticks(low, high, self._length)
        self.ax.set_yticks(numbers, scale.texts(numbers))
        cmap = self.image.get_cmap()
        for tip, there, colour in zip(self.tips, (self.range.above, self.range.below), (cmap(1.0), cmap(0.0))):
            tip.set_visible(there)
            tip.set_facecolor(colour)
