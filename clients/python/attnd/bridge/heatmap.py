# SPDX-License-Identifier: MIT
"""heatmap: a number of each head of each layer as a picture: layers down, heads across, drawn by attnd.plots.

A layer with fewer heads than others ends early; a head without a number is hatched. matplotlib is loaded with the first
picture.
"""
from __future__ import annotations

import importlib.util
import io
from typing import Any, Mapping, Tuple

import numpy as np
import numpy.typing as npt

from ..base.metrics import SHARES

# Numbers whose range is known are shown on it, so that pictures of different steps compare; not those near one of its ends.
_UNIT = SHARES - {"mean", "min", "max", "importance"}
_WIDTH, _ROW, _AROUND, _LOW, _HIGH = 7.0, 0.22, 1.0, 2.4, 9.0  # inches
_DPI = 110

Image = npt.NDArray[Any]


def can_draw() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def scale_of(metric: str, values: Image) -> Tuple[float, float]:
    """(low, high) that the colours stand for: 0 to 1 where that is the metric's range, else what the values span."""
    finite = values[np.isfinite(values)]
    if metric in _UNIT or not finite.size:
        return 0.0, 1.0
    return float(finite.min()), float(finite.max())


def model_order(name: str) -> Tuple[bool, str, str, int]:
    """Encoder before decoder, self before cross, then by number."""
    stack, number, site = name.split(".")
    return stack != "encoder", stack, {"self": "0", "cross": "1"}.get(site, site), int(number)


def draw(metric: str, layers: Mapping[str, Image], title: str, ax: Any = None) -> Any:
    """A Figure, or what is drawn into `ax`. `layers`: names such as 'decoder.3.self' to float [heads]; drawn in model order.
    ValueError without a layer, or without a number."""
    from ..plots.curves import axis_title
    from ..plots.data import PADDED
    from ..plots.labels import CellAxis
    from ..plots.panels import Look, Panel, Panels, draw as draw_panels

    if not layers:
        raise ValueError("a heat map needs a layer")
    rows = sorted(layers.items(), key=lambda row: model_order(row[0]))
    heads = max(len(values) for _, values in rows)
    table = np.full((len(rows), heads), np.nan, np.float32)
    classes = np.full(table.shape, PADDED, np.uint8)
    for place, (_, values) in enumerate(rows):
        table[place, :len(values)], classes[place, :len(values)] = values, 0
    names = [name for name, _ in rows]
    sections = [place for place in range(1, len(names)) if model_order(names[place])[:3] != model_order(names[place - 1])[:3]]
    panel = Panel(table, classes, CellAxis("head", heads, heads), CellAxis("layer", len(rows), len(rows), texts=names),
                  dividers=sections)
    low, high = scale_of(metric, table)
    height = min(_HIGH, max(_LOW, _AROUND + _ROW * len(rows)))
    return draw_panels(Panels([panel], title, axis_title(metric), _WIDTH, stretch=True),
                       Look(ax=ax, vmin=low, vmax=high if high > low else None, size=(_WIDTH, height)))


def render(metric: str, layers: Mapping[str, Image], step: int) -> Image:
    """uint8 [height, width, 3]; as draw()."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = draw(metric, layers, f"{metric}, step {step}")
    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def png(pixels: Image) -> bytes:
    """A PNG of uint8 [height, width, 3]."""
    from PIL import Image as Images

    file = io.BytesIO()
    Images.fromarray(np.ascontiguousarray(pixels)).save(file, "png")
    return file.getvalue()
