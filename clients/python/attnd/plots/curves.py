# SPDX-License-Identifier: MIT
"""curves: figures of metrics over time, of singular values, and of the attention of one query."""
from __future__ import annotations

from typing import Any, List, Optional, Tuple

import numpy as np

from ..base.metrics import UNITS
from . import charts, derive, scale
from .charts import Band, Bars, Chart, Line
from .data import Maps, Timeline, take
from .labels import CellAxis, clean
from .maps import panel_of, pooled_text
from .panels import Look, Panel, Panels, draw as draw_panels
from .scale import Array
from .names import NoQuery, NothingToDraw, NotWhole
from .style import WIDTH_TWO, colors

BANDS_MOST = 3  # more layers have no bands
HEADS_MOST = 64  # more heads have no lines of their own
NAMED_MOST = 8
MARKED = 3  # bars in colour
TEXTS_MOST = 120  # more keys are labelled with positions
TEXTS_SURE = 24  # bars that each have their text at the axis; of more the legend has those of the marked bars


def axis_title(metric: str) -> str:
    """'mean distance (tokens)'"""
    unit = UNITS.get(metric)
    return metric.replace("_", " ") + (f" ({unit})" if unit else "")


def _take_timeline(timeline: Any, options: Any) -> Tuple[Look, Timeline]:
    look, more = Look.split(options)
    if more:
        raise TypeError(f"unexpected keyword argument {sorted(more)[0]!r}")
    if not isinstance(timeline, Timeline):
        raise TypeError("a Timeline is drawn, made of arrays or by attnd.plots.timeline()")
    return look, timeline


def entropy(timeline: Timeline, **options: Any) -> Any:
    """Draws a metric of every head over time: a row per head, layer below layer, a column per window."""
    look, data = _take_timeline(timeline, options)
    rows, columns = data.mean.shape
    both = len({name.rpartition(".")[2] for name, _ in data.rows}) > 1
    texts: List[Optional[str]] = [None] * rows
    dividers = []
    for name, part in data.layers().items():
        texts[part.start + (part.stop - part.start) // 2] = name if both else name.rpartition(".")[0] or name
        dividers += [part.start] if part.start else []
    every = max(1, -(-8 * len(data.layers()) // int(0.45 * (look.page(WIDTH_TWO, "").width))))
    named = [row for row, text in enumerate(texts) if text is not None]
    for row in set(named) - set(named[::every]):
        texts[row] = None
    panel = Panel(data.mean.astype(np.float32), np.zeros((rows, columns), np.uint8),
                  CellAxis("step", columns, columns, numbers=data.steps),
                  CellAxis("layer (head 0 at the top)", rows, rows, texts=texts, all=True), dividers=dividers)
    title = ", ".join(part for part in (data.job, "heads over time") if part)
    return draw_panels(Panels([panel], title, axis_title(data.metric), WIDTH_TWO, stretch=True), look)


def series(timeline: Timeline, **options: Any) -> Any:
    """Draws a metric over time. The line of a layer is the median over its heads, with a band from their 10th to their
    90th percentile; a single layer has thin lines of its heads too. The line of a single head is the mean over the
    window, with the band of the timeline. Alerts are upright lines, dashed where one fires or is resolved, solid
    where the run ends with it."""
    look, data = _take_timeline(timeline, options)
    layers = data.layers()
    chart = Chart(", ".join(part for part in (data.job, data.metric) if part), "step", axis_title(data.metric),
                  alerts=[(float(min(step, data.steps[-1]) if state == "firing_at_end" else step), state)
                          for step, state in data.alerts])
    for index, ((name, part), color) in enumerate(zip(layers.items(), colors(len(layers), look.cmap, NAMED_MOST))):
        single = part.stop - part.start == 1
        low, middle, high = scale.percentiles(data.mean[part], (0.1, 0.5, 0.9))
        band = "10th to 90th percentile of heads"
        if single:
            middle = data.mean[part.start]
            low, high = (middle * np.nan if edge is None else edge[part.start] for edge in (data.low, data.high))
            band = "10th to 90th percentile" if data.band == "percentiles" else "one standard deviation"
        if len(layers) == 1 and not single and part.stop - part.start <= HEADS_MOST:
            chart.lines += [Line(data.steps, row, "#808080", 0.4, alpha=0.5) for row in data.mean[part]]
        if len(layers) <= BANDS_MOST and np.isfinite(low).any():
            chart.bands.append(Band(data.steps, low, high, color, band if index == 0 else ""))
        head = data.rows[part.start][1]
        if single:
            name += f", head {head}" if head >= 0 else ""
        elif len(layers) <= BANDS_MOST:
            name += ", median of heads"
        named = len(layers) <= NAMED_MOST or index in (0, len(layers) - 1)
        chart.lines.append(Line(data.steps, middle, color, name=name if named else ""))
    return charts.draw(chart, look)


def spectrum(maps: Any, *, values: Any = None, sample: Optional[int] = None, **options: Any) -> Any:
    """Draws the singular values of each head's map, largest first, at most 16. `values`, float [heads, n], are worked
    out unless they are given. More than 8 heads are thin lines in the colours of their order, with their median."""
    look, about = Look.split(options)
    layer = take(maps, sample, **about)
    if values is None and not layer.is_whole:
        raise NotWhole(pooled_text("the spectrum", layer))
    table = derive.singular_values(layer.weights) if values is None else np.asarray(values, np.float64)
    whole = min(layer.shape)
    table = table[:, :min(derive.SINGULAR_VALUES, whole)]
    heads, shown = table.shape
    index = "index" if shown == whole else f"index, of the {shown} largest of {whole}"
    title = ", ".join(part for part in (layer.name, "singular values of the heads' maps") if part) + layer.details()
    chart = Chart(title, index, "singular value", powers=True)
    x, many = np.arange(1, shown + 1), heads > NAMED_MOST
    for head, color in enumerate(colors(heads, look.cmap, NAMED_MOST)):
        name = f"head {head}" if not many or head == 0 else f"to head {head}, in order" if head == heads - 1 else ""
        chart.lines.append(Line(x, table[head], color, 0.4 if many else 0.9, not many, name))
    if many:
        chart.lines.append(Line(x, scale.percentiles(table, (0.5,))[0], "#000000", 1.4, True, "median of the heads"))
    return charts.draw(chart, look)


# ------------------------------------------------------------------------------------------------ one query

def _find_query(layer: Maps, values: Array, query: Optional[int]) -> Tuple[int, int]:
    """The query and its row: the given one, or the last that attends to something, which excludes padding."""
    queries, rows = int(layer.queries or 0), len(values)
    if query is not None and not 0 <= query < queries:
        raise NoQuery(f"there is no query {query}: they are 0 to {queries - 1}")
    if query is None:
        attended = np.flatnonzero((np.nan_to_num(values, posinf=0.0) > 0).any(1))
        row = int(attended[-1]) if attended.size else rows - 1
        query = (row + 1) * queries // rows - 1
    else:
        row = ((query + 1) * rows - 1) // queries
    numbers = values[row][np.isfinite(values[row])]
    if numbers.size and not numbers.any():
        raise NothingToDraw(f"there is nothing to draw: query {query} attends to nothing (all 0: padding?)")
    return query, row


def _quoted(text: Optional[str]) -> str:
    return f" “{clean(text)}”" if text is not None else ""


def tokens(maps: Any, *, query: Optional[int] = None, head: Optional[int] = None, sample: Optional[int] = None,
           **options: Any) -> Any:
    """Draws the attention of one query: a bar per key, the three largest in colour. `query` is an index from 0; None
    is the last query that attends to something."""
    look, about = Look.split(options)
    layer = take(maps, sample, **about)
    values = layer.map(head)
    query, row = _find_query(layer, values, query)
    bars = values[row]
    axis = panel_of(layer, values).x
    good = [cell for cell in np.argsort(-np.nan_to_num(bars), kind="stable")[:MARKED] if bars[cell] > 0]
    marked = sorted(int(cell) for cell in good)
    texts, name = axis.texts, ""
    if axis.count > TEXTS_MOST:
        axis.texts = None
    if len(marked) == MARKED:
        name = "the three largest"
        if axis.texts is None or axis.count > TEXTS_SURE:
            words = [_quoted(texts[cell]) if texts is not None else "" for cell in marked]
            name += ": " + ", ".join(f"{cell * axis.total // axis.count}{text}" for cell, text in zip(marked, words))
    query_texts = layer.tokens()[1]
    what = f"query {query}{_quoted(query_texts[row] if query_texts is not None else None)}"
    title = ", ".join(part for part in (layer.name, layer.head_text(head), what) if part) + layer.details()
    return charts.draw(Chart(title, axis.title, "attention weight", from_zero=True,
                             bars=Bars(bars, set(marked), name, axis)), look)
