# SPDX-License-Identifier: MIT
"""heatmap: a number of each head of each layer as a picture: layers down, heads across.

    title                      what, and at which step
    decoder.0.self  ▇▇▇▇▇▇  █  the scale beside it, its ends named
    decoder.1.self  ▇▇▇▇▇▇  █
                    0    5     heads

Cells are squares as large as the model allows. Where rows are too low for text only some are named. A layer with fewer
heads than others ends early; a head without a number is grey.
"""
from __future__ import annotations

import struct
import zlib
from typing import Any, List, Mapping, Tuple

import numpy as np
import numpy.typing as npt

from . import font, palette

INK = (38, 38, 46)
FAINT = (120, 120, 130)
PAPER = (255, 255, 255)
MARGIN = 16
GAP = 12  # between the parts
SECTION = 8  # between stacks and sites
BAR = 14  # width of the scale
TEXT = 2  # size of the letters: dots per dot
_LINE = font.HEIGHT * TEXT
_AREA = 560  # pixels that the cells together aim at, in each direction
_CELL_MIN, _CELL_MAX = 3, 40
SIDE_MAX = 8192  # cells of more heads or layers are cut off here, and the title says so

# Numbers whose range is known are shown on it, so that pictures of different steps compare.
_UNIT = frozenset(("entropy_normalized", "confidence", "diagonal", "local_mass", "mean_distance_normalized",
                   "previous_token", "next_token", "first_token", "entropy_sans_first", "tail_mass", "induction",
                   "duplicate_token", "sink_deficit", "locality", "importance_gradient"))

Image = npt.NDArray[Any]
Rows = List[Tuple[str, Image]]


def scale_of(metric: str, values: Image) -> Tuple[float, float]:
    """(low, high) that the colours stand for: 0 to 1 where that is the metric's range, else what the values span."""
    finite = values[np.isfinite(values)]
    if metric in _UNIT or not finite.size:
        return 0.0, 1.0
    return float(finite.min()), float(finite.max())


def render(metric: str, layers: Mapping[str, Image], step: int) -> Image:
    """uint8 [height, width, 3]. `layers`: names such as 'decoder.3.self' to float [heads]; drawn in model order.
    ValueError without a layer."""
    if not layers:
        raise ValueError("a heat map needs a layer")
    rows = sorted(layers.items(), key=lambda row: model_order(row[0]))
    heads = max(len(values) for _, values in rows)
    cell = max(_CELL_MIN, min(_CELL_MAX, _AREA // heads, _AREA // len(rows)))
    shown, heads_shown = rows[:SIDE_MAX // cell], min(heads, SIDE_MAX // cell)
    low, high = scale_of(metric, np.concatenate([values for _, values in rows]))
    body = _beside(_names(shown, cell), _cells(shown, heads_shown, cell, low, high), GAP // 2)
    left = max(font.width(name, TEXT) for name, _ in shown) + GAP // 2
    body = _under(body, _head_numbers(heads_shown, cell, left, body.shape[1]))
    whole = _beside(body, _bar(low, high, body.shape[0] - _LINE - GAP // 2), 2 * GAP)
    cut = "" if (len(shown), heads_shown) == (len(rows), heads) else f" (of {len(rows)} layers, {heads} heads)"
    return _framed(_under(_title(metric, f"step {step}{cut}"), whole, GAP))


def png(pixels: Image) -> bytes:
    """A PNG of uint8 [height, width, 3]."""
    height, width = pixels.shape[:2]
    lines = np.zeros((height, 1 + 3 * width), np.uint8)  # each line begins with its filter: 0, none
    lines[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)) +
            _chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# ------------------------------------------------------------------------------------------- the parts

def model_order(name: str) -> Tuple[bool, str, str, int]:
    """Encoder before decoder, self before cross, then by number."""
    stack, number, site = name.split(".")
    return stack != "encoder", stack, {"self": "0", "cross": "1"}.get(site, site), int(number)


def _paper(height: int, width: int) -> Image:
    return np.full((height, width, 3), PAPER, np.uint8)


def _ink(image: Image, dots: Image, top: int, left: int, colour: Tuple[int, int, int] = INK) -> None:
    """Prints the dots; what lies outside is cut off."""
    top, left = max(0, top), max(0, left)
    field = image[top:top + dots.shape[0], left:left + dots.shape[1]]
    field[dots[:field.shape[0], :field.shape[1]]] = colour


def _tops(rows: Rows, cell: int) -> List[int]:
    """The upper edge of each row; a gap where stack or site change."""
    tops, y = [], 0
    for place, (name, _) in enumerate(rows):
        if place and model_order(name)[:3] != model_order(rows[place - 1][0])[:3]:
            y += SECTION
        tops.append(y)
        y += cell
    return tops


def _names(rows: Rows, cell: int) -> Image:
    """The layers' names, right-aligned; with low rows every 2nd, 5th, ... of a section."""
    tops = _tops(rows, cell)
    each = _round_up(_LINE / cell)
    image = _paper(max(tops[-1] + cell, _LINE), max(font.width(name, TEXT) for name, _ in rows))
    free = 0
    for (name, _), top in zip(rows, tops):
        at = max(0, top + (cell - 7 * TEXT) // 2)
        if at >= free and at + 7 * TEXT <= image.shape[0] + TEXT and int(name.split(".")[1]) % each == 0:
            _ink(image, font.draw(name, TEXT), at, image.shape[1] - font.width(name, TEXT))
            free = at + 7 * TEXT
    return image


def _cells(rows: Rows, heads: int, cell: int, low: float, high: float) -> Image:
    tops = _tops(rows, cell)
    image = _paper(tops[-1] + cell, heads * cell)
    line = 1 if cell >= 6 else 0
    for (_, values), top in zip(rows, tops):
        colours = palette.colours(values[:heads], low, high).repeat(cell, 0)
        image[top:top + cell, :len(colours)] = colours
        if line:
            image[top + cell - line:top + cell] = PAPER
    if line:
        image[:, cell - 1::cell] = PAPER
    return image


def _head_numbers(heads: int, cell: int, left: int, width: int) -> Image:
    """Numbers under the columns, as many as fit, and what they are."""
    each = _round_up((font.width(str(heads - 1), TEXT) + 2 * TEXT) / cell)
    image = _paper(_LINE, width)
    for head in range(0, heads, each):
        text = str(head)
        middle = left + head * cell + cell // 2
        _ink(image, font.draw(text, TEXT), 0, middle - font.width(text, TEXT) // 2, FAINT)
    _ink(image, font.draw("head", TEXT), 0, left - GAP - font.width("head", TEXT), FAINT)
    return image


def _round_up(share: float) -> int:
    """The next of 1, 2, 5, 10, 20, ..."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= share:
                return factor * power
        power *= 10


def _bar(low: float, high: float, height: int) -> Image:
    """The scale: high on top, its ends and middle named."""
    height = max(height, 3 * _LINE)
    labels = [_short(value) for value in (high, (low + high) / 2, low)]
    image = _paper(height, BAR + GAP // 2 + max(font.width(label, TEXT) for label in labels))
    values = np.linspace(1.0, 0.0, height) if high > low else np.full(height, 0.5)
    image[:, :BAR] = palette.colours(values, 0.0, 1.0)[:, None]
    places = (0, (height - 7 * TEXT) // 2, height - 7 * TEXT)
    for label, top in zip(labels, places) if high > low else ((labels[1], places[1]),):
        _ink(image, font.draw(label, TEXT), top, BAR + GAP // 2)
    return image


def _short(value: float) -> str:
    """Three digits: enough to read colours by."""
    return f"{value:.3g}"


def _title(metric: str, when: str) -> Image:
    image = _paper(_LINE, font.width(metric, TEXT) + 2 * GAP + font.width(when, TEXT))
    _ink(image, font.draw(metric, TEXT), 0, 0)
    _ink(image, font.draw(when, TEXT), 0, font.width(metric, TEXT) + 2 * GAP, FAINT)
    return image


def _beside(left: Image, right: Image, gap: int) -> Image:
    image = _paper(max(left.shape[0], right.shape[0]), left.shape[1] + gap + right.shape[1])
    image[:left.shape[0], :left.shape[1]] = left
    image[:right.shape[0], left.shape[1] + gap:] = right
    return image


def _under(above: Image, below: Image, gap: int = GAP // 2) -> Image:
    image = _paper(above.shape[0] + gap + below.shape[0], max(above.shape[1], below.shape[1]))
    image[:above.shape[0], :above.shape[1]] = above
    image[above.shape[0] + gap:, :below.shape[1]] = below
    return image


def _framed(image: Image) -> Image:
    framed = _paper(image.shape[0] + 2 * MARGIN, image.shape[1] + 2 * MARGIN)
    framed[MARGIN:-MARGIN, MARGIN:-MARGIN] = image
    return framed
