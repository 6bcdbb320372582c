# SPDX-License-Identifier: MIT
"""style: sizes, colours, fonts and colour maps of all figures, and the width of a text.

Figures have a style of their own: rcParams of the user neither change a figure nor are changed by one. Lengths are
points (1/72 inch).
"""
from __future__ import annotations

import functools
import warnings
from typing import Any, Iterator, Optional, Sequence, Tuple, Union
from contextlib import contextmanager

import matplotlib
import matplotlib.style
from matplotlib import font_manager
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import Colormap

from .names import COLORMAPS, PlotError

INCH = 72.0
# Sizes are made for a column of 3.3 in, where nobody scales a figure down.
WIDTH_ONE, WIDTH_TWO = 3.3, 6.9  # inches
TITLE, NAME, TICK = 8.0, 7.5, 6.5  # text of the figure's title, of axes and panels, at ticks
LINE_TICK = 8.0  # from line to line at ticks
MARGIN = 4.0
TICK_LONG, TICK_GAP = 2.5, 2.0
LINE = 0.6

TEXT, AXIS, SOFT, GRID = "#1a1a1a", "#333333", "#666666", "#e3e3e3"
MASKED, PADDED, HATCH = "#f1f1f1", "#dde3eb", "#9a9a9a"
ALERT, REST = "#c0392b", "#a9bcd0"
# Eight colours of Okabe and Ito (2008) that colour-blind people can tell apart.
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")

RC = {
    "axes.edgecolor": AXIS, "axes.labelcolor": TEXT, "axes.labelpad": 3.0, "axes.labelsize": NAME,
    "axes.linewidth": LINE, "axes.titlepad": 3.0, "axes.titlesize": NAME, "figure.dpi": 160.0,
    "figure.titlesize": TITLE, "font.size": NAME,
    "hatch.color": HATCH, "hatch.linewidth": 0.5, "image.composite_image": False, "legend.fontsize": TICK,
    "legend.frameon": False, "pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "attnd",
    "text.color": TEXT, "text.parse_math": False, "xtick.color": AXIS, "ytick.color": AXIS, "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT, "xtick.labelsize": TICK, "ytick.labelsize": TICK, "xtick.major.size": TICK_LONG,
    "ytick.major.size": TICK_LONG, "xtick.major.width": LINE, "ytick.major.width": LINE, "xtick.major.pad": TICK_GAP,
    "ytick.major.pad": TICK_GAP, "xtick.minor.visible": False, "ytick.minor.visible": False,
}

# Fonts for scripts that DejaVu Sans lacks; the first installed one of each line is used.
_FALLBACK = (
    ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK TC", "Noto Sans SC", "Source Han Sans SC",
     "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "AR PL UMing CN", "PingFang SC",
     "Hiragino Sans", "Microsoft YaHei", "IPAGothic", "Unifont"),
    ("Noto Sans CJK KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo"),
    ("Noto Sans Devanagari", "Lohit Devanagari", "Mangal"), ("Noto Sans Thai", "Loma", "Tahoma"),
    ("Noto Emoji", "Symbola", "Segoe UI Symbol", "Segoe UI Emoji", "Apple Symbols"),
)
_GENERIC = {"sans-serif": "DejaVu Sans", "sans": "DejaVu Sans", "system-ui": "DejaVu Sans", "cursive": "DejaVu Sans",
            "serif": "DejaVu Serif", "monospace": "DejaVu Sans Mono", "mono": "DejaVu Sans Mono"}


# ------------------------------------------------------------------------------------------------ fonts and style

@functools.lru_cache(maxsize=None)
def _installed() -> "dict[str, str]":
    return {font.name.lower(): font.name for font in font_manager.fontManager.ttflist}


@functools.lru_cache(maxsize=None)
def families(font: Optional[str] = None) -> Tuple[str, ...]:
    """The families that texts use, glyph by glyph: `font` (names with commas), DejaVu Sans, installed ones for other
    scripts."""
    asked = [_GENERIC.get(name.strip().lower(), name.strip()) for name in (font or "sans-serif").split(",")]
    names = [_installed()[name.lower()] for name in asked if name.lower() in _installed()] + ["DejaVu Sans"]
    for script in _FALLBACK:
        names += [name for name in script if name.lower() in _installed()][:1]
    return tuple(dict.fromkeys(names))


def font_instead(font: str) -> Optional[str]:
    """The family that is used because none of `font` (names with commas) is installed; None when one is."""
    asked = [name.strip().lower() for name in font.split(",")]
    there = any(name in _installed() or name in _GENERIC for name in asked)
    return None if there else families(font)[0]


@contextmanager
def context(font: Optional[str] = None) -> Iterator[None]:
    """Sets this style over matplotlib's defaults, and mutes warnings about glyphs that no font has: they become
    boxes."""
    with warnings.catch_warnings(), matplotlib.style.context(["default", {**RC, "font.family": list(families(font))}]):
        warnings.filterwarnings("ignore", message=r"Glyph \d+.*missing from", category=UserWarning)
        warnings.filterwarnings("ignore", message=r"Matplotlib currently does not support .* natively")
        yield


_MEASURE = 10  # hinting rounds to pixels: tenths of a point


@functools.lru_cache(maxsize=1)
def _renderer() -> Any:
    renderer: Any = RendererAgg
    return renderer(1, 1, INCH * _MEASURE)


@functools.lru_cache(maxsize=65536)
def _width(text: str, size: float, names: Tuple[str, ...]) -> float:
    properties = font_manager.FontProperties(family=list(names), size=size)
    return float(_renderer().get_text_width_height_descent(text, properties, ismath=False)[0]) / _MEASURE


def width(text: str, size: float) -> float:
    """The width of a text in points, in the font of the context."""
    return _width(text, size, tuple(matplotlib.rcParams["font.family"])) if text else 0.0


def shorten(text: str, size: float, room: float) -> str:
    """The text, or its first letters that fit, at least one, and an ellipsis."""
    if width(text, size) <= room:
        return text
    low, high = 1, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if width(text[:middle] + "…", size) <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…" if low < len(text) else text


# ------------------------------------------------------------------------------------------------ colours

def colormap(name: Union[str, Colormap]) -> Colormap:
    """A colour map of matplotlib by its name. Raises PlotError for an unknown one."""
    if isinstance(name, Colormap):
        return name
    try:
        return matplotlib.colormaps[name]
    except KeyError:
        valid = ", ".join(COLORMAPS)
        raise PlotError(f"there is no colour map {name!r} (valid: {valid}; or one of them and _r)") from None


def colors(count: int, cmap: Union[str, Colormap], named: int = 8) -> Sequence[Any]:
    """Colours for lines: distinct ones, or steps along a colour map for more than `named`."""
    if count <= named:
        return [CYCLE[index % len(CYCLE)] for index in range(count)]
    return [colormap(cmap)((20 + 200 * index // (count - 1)) / 255) for index in range(count)]


def ink_on(color: Any) -> str:
    """Black on light colours, white on dark ones; `color` is RGB(A) in [0, 1]."""
    light = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return TEXT if light > 140 / 255 else "#ffffff"
