# SPDX-License-Identifier: MIT
"""attnd.plots: figures of attention as they go into a paper, on matplotlib.

    from attnd import plots
    figure = plots.heads(weights, name="decoder.3.self", causal=True, key_tokens=words)  # numpy or torch, [heads, T, T]
    figure.savefig("heads.pdf")                                                          # or show it in a notebook
    plots.save("figures/", "heatmap", {"decoder.0.self": a, "decoder.1.self": b}, every_layer=True, every_head=True)

Each kind is one function. heatmap, heads, layers, flow, aggregate, rollout, similarity, spectrum and tokens draw maps,
and take the fields of Maps: `name`, `key_tokens`, `causal`, `mask`, ...; entropy and series draw a Timeline. All of
them take `ax`, `cmap`, `vmin`, `vmax`, `title`, `size` and `font`, and return a Figure. They do not use pyplot and
change nothing of a session. `attnctl plot` is this package on a command line.
"""
from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "heatmap": "maps", "heads": "maps", "layers": "maps", "flow": "maps", "aggregate": "maps", "rollout": "maps",
    "similarity": "maps", "spectrum": "curves", "tokens": "curves", "entropy": "curves", "series": "curves",
    "Maps": "data", "Timeline": "data", "Source": "read", "timeline": "read",
    "Figure": "output", "Receipt": "output", "Progress": "output", "render": "output", "save": "output",
    "write": "output",
    "PlotError": "names", "NothingToDraw": "names", "NotWhole": "names", "AllBelow": "names", "NoQuery": "names",
    "TooSmall": "names",
}
KINDS = tuple(name for name, home in _HOME.items() if home in ("maps", "curves"))
__all__ = [*_HOME, "KINDS", "draw"]


def draw(kind: str, data: Any, **options: Any) -> Any:
    """Draws a kind by its name; flow takes {"encoder": maps, "decoder": ..., "cross": ...}."""
    function = getattr(import_module("." + _HOME[kind], __name__), kind)
    return function(**data, **options) if kind == "flow" and isinstance(data, dict) else function(data, **options)


def __getattr__(name: str) -> Any:
    """Imports a name, and matplotlib with it, when it is first used."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("." + _HOME[name], __name__), name)
    globals()[name] = value
    return value
