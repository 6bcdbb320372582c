# SPDX-License-Identifier: MIT
"""chars_report: the output of the trainer, 80 columns wide, plain when nobody looks at a terminal."""
from __future__ import annotations

import math
import sys
import textwrap
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import reference

Layer = Tuple[str, int, str]
LABEL_WIDTH, CELL_WIDTH, WIDTH = 18, 7, 80
SHADES = " ▁▂▃▄▅▆▇█"


def layer_name(layer: Layer) -> str:
    """stack.layer.site"""
    return ".".join(map(str, layer))


def fancy() -> bool:
    """Whether the output is a terminal that shows block characters."""
    return sys.stdout.isatty() and (sys.stdout.encoding or "").lower().startswith("utf")


def entropy_table(summaries: Mapping[Layer, Dict[str, Any]]) -> List[str]:
    """Lines: one row per layer, one column per head, the window's mean of entropy_normalized."""
    rows = {layer: summary.get("heads", {}).get("entropy_normalized", {}).get("mean", [])
            for layer, summary in summaries.items()}
    heads = max((len(row) for row in rows.values()), default=0)
    per_line = (WIDTH - LABEL_WIDTH) // CELL_WIDTH
    lines = []
    for first in range(0, heads, per_line):
        shown = range(first, min(first + per_line, heads))
        lines.append("entropy / ln n".ljust(LABEL_WIDTH) + "".join(f"h{h}".rjust(CELL_WIDTH) for h in shown))
        for layer, row in rows.items():
            cells = "".join(_cell(row[h]) for h in shown if h < len(row))
            lines.append(layer_name(layer).ljust(LABEL_WIDTH) + cells)
    return lines


def _cell(value: float) -> str:
    """A number of 0..1, with a bar on a terminal."""
    if math.isnan(value):
        return "-".rjust(CELL_WIDTH)
    bar = SHADES[round(min(max(value, 0.0), 1.0) * (len(SHADES) - 1))] if fancy() else ""
    return f"{value:.2f}{' ' + bar if bar else ''}".rjust(CELL_WIDTH)


def verification(layer: Layer, found: Sequence[reference.Deviation]) -> List[str]:
    """Lines: how many numbers were compared, the worst deviation per metric, and what is wrong."""
    wrong = [d for d in found if not d.ok]
    verdict = "all right" if not wrong else f"{len(wrong)} WRONG"
    lines = [f"{layer_name(layer):<{LABEL_WIDTH}}{len(found):>6} numbers compared, {verdict}"]
    worst = ", ".join(f"{name}\xa0{d.error:.1g}" for name, d in reference.worst(found).items())  # one word each to textwrap
    lines += [line.replace("\xa0", " ") for line in textwrap.wrap(
        f"worst: {worst}", WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)]
    lines += [f"  wrong: {d.text}" for d in wrong[:8]]
    return lines
