# SPDX-License-Identifier: MIT
"""maps: figures of attention maps: one map, all heads of a layer, one site across layers, the three sites of a layer,
all heads in one map, rollout, and similarity of heads.

Every kind takes Maps or arrays (data.py), the fields of Maps as keywords, and those of panels.Look: ax, cmap, vmin,
vmax, title, size, font, columns. Each returns a matplotlib Figure.
"""
from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from . import derive
from .data import Maps, take, take_all
from .labels import CellAxis
from .panels import Look, Panel, Panels, draw
from .scale import Array, finite
from .names import NothingToDraw, NotWhole, PlotError
from .style import WIDTH_TWO


def panel_of(maps: Maps, values: Array, title: str = "", x: str = "key", y: str = "query") -> Panel:
    rows, columns = maps.shape
    keys, queries = maps.tokens()
    return Panel(values, maps.classes(values),
                 CellAxis(f"{x} position", columns, int(maps.keys or columns), texts=_none(keys),
                          text_title=f"{x} token"),
                 CellAxis(f"{y} position", rows, int(maps.queries or rows), maps.q_offset, texts=_none(queries),
                          text_title=f"{y} token"), title)


def _none(texts: Any) -> Any:
    return texts if texts is not None and any(text is not None for text in texts) else None


def _title(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def heatmap(maps: Any, *, head: Optional[int] = None, sample: Optional[int] = None, **options: Any) -> Any:
    """Draws one map: of a head, or the mean of all heads."""
    look, about = Look.split(options)
    layer = take(maps, sample, **about)
    title = _title(layer.name, layer.head_text(head)) + layer.details()
    return draw(Panels([panel_of(layer, layer.map(head))], title), look)


def heads(maps: Any, *, sample: Optional[int] = None, **options: Any) -> Any:
    """Draws all heads of a layer side by side, in one range of colours."""
    look, about = Look.split(options)
    layer = take(maps, sample, **about)
    items = [panel_of(layer, layer.weights[head], f"head {head}") for head in range(layer.count)]
    return draw(Panels(items, (layer.name or "all heads") + layer.details()), look)


def _alike(panels: Sequence[Panel]) -> bool:
    """True when all panels have the same labels at their axes."""
    def said(panel: Panel) -> Any:
        return [(axis.span, list(axis.texts) if axis.texts is not None else None) for axis in (panel.x, panel.y)]
    return all(said(panel) == said(panels[0]) for panel in panels)


def layers(maps: Any, *, head: Optional[int] = None, sample: Optional[int] = None, **options: Any) -> Any:
    """Draws one site across the layers: a list of layers, {name: layer}, or [layers, heads, queries, keys]."""
    look, about = Look.split(options)
    all_ = take_all(maps, sample, **about)
    items = [panel_of(layer, layer.map(head), f"layer {layer.layer or index}") for index, layer in enumerate(all_)]
    parts = all_[0].name.split(".")
    site = f"{parts[0]}.{parts[-1]} attention" if len(parts) == 3 else "attention"
    title = _title(site, all_[-1].head_text(head)) + all_[-1].details()
    return draw(Panels(items, title, shared=_alike(items)), look)


_FLOWS = (("encoder self-attention", "encoder", "encoder"), ("decoder self-attention", "decoder", "decoder"),
          ("cross-attention", "encoder", "decoder"))


def flow(encoder: Any = None, decoder: Any = None, cross: Any = None, *, head: Optional[int] = None,
         sample: Optional[int] = None, **options: Any) -> Any:
    """Draws encoder self, decoder self and cross attention of a layer, each in its own range."""
    look, about = Look.split(options)
    sites = [(take(given, sample, **about), words) for given, words in zip((encoder, decoder, cross), _FLOWS)
             if given is not None]
    if not sites:
        raise PlotError("flow of what? give encoder, decoder or cross")
    items = [panel_of(layer, layer.map(head), title, x, y) for layer, (title, x, y) in sites]
    first = sites[0][0]
    number = f"layer {first.layer}" if first.layer else ""
    title = _title(number, first.head_text(head)) + first.details()
    return draw(Panels(items, title, shared=False), look)


def aggregate(maps: Any, *, head_weights: Optional[Sequence[float]] = None, importance: Any = None,
              sample: Optional[int] = None, **options: Any) -> Any:
    """Draws the heads of a layer in one map: sum, mean, max, the sum weighted by `head_weights`, and by `importance`,
    float [heads], which is worked out unless it is given. Pooled maps have no max and no importance."""
    look, about = Look.split(options)
    layer = take(maps, sample, **about)
    weights = np.asarray(layer.weights)
    _check_some([layer])
    total = weights.sum(0, dtype=np.float64)
    ways: List[Tuple[str, Array]] = [("sum", total), ("mean", total / layer.count)]
    if layer.is_whole:
        ways.append(("max", weights.max(0)))
    if head_weights is not None:
        ways.append(("weighted", derive.weighted(weights, _check_weights(head_weights, layer.count))))
    if layer.is_whole:
        shares = derive.importance(weights) if importance is None else np.asarray(importance, np.float64)
        ways.append(("by importance", derive.weighted(weights, _check_weights(shares, layer.count, "importance"))))
    items = [panel_of(layer, way.astype(np.float32), name) for name, way in ways]
    columns = look.columns or (3 if len(items) > 4 else 2)
    title = _title(layer.name, f"{layer.count} heads in one map") + layer.details()
    return draw(Panels(items, title, "", WIDTH_TWO if columns > 2 else 5.0, shared=False, columns=columns), look)


def _check_some(layers_: Sequence[Maps]) -> None:
    """Sums and products of maps without a number would be figures of numbers."""
    if not any(finite(np.asarray(layer.weights)).size for layer in layers_):
        raise NothingToDraw("there is nothing to draw: no entry of the maps is a number")


def _check_weights(weights: Any, heads_: int, what: str = "head_weights") -> Array:
    if len(weights) != heads_:
        raise PlotError(f"{what}: {len(weights)} of them, but {heads_} heads")
    return np.asarray(weights, np.float64)


def rollout(maps: Any, *, sample: Optional[int] = None, matrix: Any = None, **options: Any) -> Any:
    """Draws attention rollout (Abnar and Zuidema 2020) over the layers of a stack, first to last: the share of each
    input position in each output position. `matrix`, float [n, n], is worked out unless it is given."""
    look, about = Look.split(options)
    all_ = take_all(maps, sample, **about)
    last = all_[-1]
    if len({layer.shape for layer in all_}) > 1:
        number = next(layer.layer for layer in all_ if layer.shape != all_[0].shape)
        raise NotWhole(f"rollout needs maps of one size, and layer {number} has another")
    if last.shape[0] != last.shape[1]:
        raise NotWhole(f"rollout needs square maps, and these are {all_[0].queries} x {all_[0].keys}")
    if matrix is None:
        _check_some(all_)
    values = derive.rollout([(layer.map(), int(layer.keys or 0)) for layer in all_]) if matrix is None else matrix
    stack = last.name.split(".")[0] if last.name.count(".") == 2 else ""
    title = _title(stack, f"rollout through {len(all_)} layer{'s' * (len(all_) != 1)}") + last.details()
    panel = panel_of(last, np.asarray(values, np.float32), x="input", y="output")
    return draw(Panels([panel], title, "attention rollout"), look)


def similarity(maps: Any, *, js: bool = False, matrix: Any = None, sample: Optional[int] = None, **options: Any) -> Any:
    """Draws the similarity of a layer's heads: the cosine of their maps, or with `js` the Jensen-Shannon divergence of
    their rows in nats. `matrix`, float [heads, heads], is worked out unless it is given."""
    look, about = Look.split(options)
    layer = take(maps, sample, **about)
    if matrix is None and not layer.is_whole:
        raise NotWhole(pooled_text("similarity", layer))
    if matrix is None:
        masked = layer.classes(layer.map()) if layer.causal or layer.mask is not None else None
        matrix = (derive.jensen_shannon if js else derive.cosine)(layer.weights, masked)
    values = np.asarray(matrix, np.float32)
    if not np.isfinite(values).any():
        raise NothingToDraw("there is nothing to draw: no row of the maps sums to 1")
    axis = CellAxis("head", len(values), len(values))
    panel = Panel(values, np.zeros(values.shape, np.uint8), axis, axis)
    title = _title(layer.name, "similarity of heads") + layer.details()
    bar = "Jensen-Shannon divergence (nats)" if js else "cosine similarity"
    return draw(Panels([panel], title, bar, numbers=True), look)


def pooled_text(what: str, layer: Maps) -> str:
    most = max(int(layer.queries or 0), int(layer.keys or 0))
    rows, columns = layer.shape
    return (f"{what} needs whole maps, and attnd keeps these pooled to {rows} x {columns}: raise maps.size to {most} "
            f"or more, or draw from a file or a recording")
