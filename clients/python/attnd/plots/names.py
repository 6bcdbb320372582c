# SPDX-License-Identifier: MIT
"""names: the formats, colour maps and limits that both the command and the figures know, and what is raised. Without
matplotlib: attnctl plot refuses a bad value before it loads it."""
from typing import Optional, Tuple

FORMATS = ("png", "svg", "pdf")
COLORMAPS = ("viridis", "cividis", "plasma", "inferno", "magma", "hot", "cool", "gray", "RdBu")
PIXELS_MAX = 400e6  # of a PNG


class PlotError(ValueError):
    """A wrong request; the text is a sentence for people."""


class NothingToDraw(PlotError):
    """No value is a number, or the query attends to nothing."""


class NotWhole(PlotError):
    """The kind needs whole or square maps, and these are not."""


class NoQuery(PlotError):
    """There is no query of this number."""


class AllBelow(PlotError):
    """vmin is above all values."""


class TooSmall(PlotError):
    """The figure has no room in `size`, (width, height or None) in inches."""

    def __init__(self, size: Tuple[float, Optional[float]], what: str):
        super().__init__(f"{'x'.join(f'{side:g}' for side in size if side)}: too small {what}: give it more inches")
        self.size = size
