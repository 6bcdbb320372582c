# SPDX-License-Identifier: MIT
"""ranking_trouble: the trouble score of heads, written down a second time, from its definition in PROTOCOL.md.

Reads summaries and the rules in force, as the daemon gives them, and judges window by window, so that bench ranking can
compare what the daemon says. Rules about the run count there, and are left out here: no default rule about the run
judges a metric of heads.
"""
import collections
import math
import pathlib
import re
from typing import Any, Deque, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

SEVERITY = {"info": 1, "warning": 2, "critical": 3}
HELD, SLOPED, SLOPED_LEAST, AHEAD, MOST = 3, 5, 3, 10, 0.99
RATES = "falls_by", "rises_by", "grows_by"
DRIFT = "delta", "shift", "abs_shift", "js"
METRIC_DEF = pathlib.Path(__file__).resolve().parents[2] / "proto" / "metric.def"
METRIC_ROW = re.compile(r'METRIC\(\w+, "([\w.]+)", \w+, \w+, "[^"]*", ([^,]+), ([^,]+), \w+, ([^,]+),')


def metric_table() -> Dict[str, Tuple[float, float, float]]:
    """The smallest and the largest value of each metric, and its resolution."""
    rows = METRIC_ROW.findall(METRIC_DEF.read_text(encoding="utf-8"))
    return {name: (float(low), float(high), float(resolution))
            for name, low, high, resolution in rows}


class Limits(NamedTuple):
    """What a rule compares, turned so that more is worse; `resolution` of it."""
    sign: float
    clear: float
    bound: float
    end: float
    resolution: float

    def level(self, x: float) -> float:
        """0 at `clear`, 1 at `bound`, to 2 at the end of the range or in infinity."""
        y = self.sign * x
        if y <= self.bound:
            return max(0.0, (y - self.clear) / (self.bound - self.clear)) if y > self.clear else 0.0
        beyond, room = y - self.bound, self.end - self.bound
        if math.isfinite(room):
            return 1 + min(1, beyond / room)
        return 1 + beyond / (beyond + ((self.bound - self.clear) or self.resolution)) if math.isfinite(beyond) else 2.0


class Cell:
    """A rule's state for one head or layer: what was compared, newest last, and whether it fires."""

    def __init__(self, rule: Mapping[str, Any]):
        self.rule = rule
        self.values: Deque[float] = collections.deque(maxlen=rule["within"])
        self.compared: Deque[float] = collections.deque(maxlen=SLOPED)
        self.held, self.firing, self.armed = 0, False, not rule["after_clear"]

    def push(self, value: float) -> None:
        """One more window; without a value nothing changes."""
        if math.isnan(value):
            return
        x = value
        if self.rule["condition"] in RATES:
            then = self.values[0] if len(self.values) == self.rule["within"] else math.nan
            self.values.append(value)
            x = {"falls_by": then - value, "rises_by": value - then,
                 "grows_by": value / then if then > 0 else math.nan}[self.rule["condition"]]
        if math.isnan(x):
            return
        self.compared.append(x)
        sign = -1 if self.rule["condition"] == "below" else 1
        if sign * x > sign * self.rule["bound"]:
            self.held += self.armed
            self.firing = self.firing or self.held >= self.rule["for"]
            return
        self.held = 0
        if sign * x <= sign * self.rule["clear"]:
            self.armed, self.firing = True, False


class Judge:
    """Scores of a job's heads, by the rules in force: what the control method `rules` answers."""

    def __init__(self, rules: Sequence[Mapping[str, Any]]):
        self.metrics = metric_table()
        self.rules = [rule for rule in rules if rule["metric"] in self.metrics and rule["each"] != "run"]
        self._cells: Dict[Any, Cell] = {}

    def window(self, summary: Mapping[str, Any]) -> List[float]:
        """The scores of a layer's heads; its windows come in order."""
        layer = tuple(summary[key] for key in ("stack", "layer", "site"))
        scores = [0.0] * summary["shape"][1]
        for number, rule in enumerate(self.rules):
            values = self._values(rule, summary)
            fires = False
            if values is not None and rule["each"] == "layer":
                cell = self._cells.setdefault((number, layer), Cell(rule))
                cell.push(together(rule, values))
                fires = cell.firing
            for head in range(len(scores) if values is not None else 0):
                cell = self._cells.setdefault((number, layer, head), Cell(rule))
                cell.push(values[head])  # type: ignore[index]
                scores[head] = max(scores[head], score(rule, cell, self._limits(rule, summary["shape"][3]), fires))
        return scores

    def _values(self, rule: Mapping[str, Any], summary: Mapping[str, Any]) -> Optional[List[float]]:
        """Of each head; None where the summary has none."""
        metric, statistic = rule["metric"], rule["statistic"]
        if statistic in DRIFT:
            found = summary.get("drift", {}).get(metric)
            name = "shift" if statistic == "abs_shift" else statistic
            turned = abs if statistic == "abs_shift" else float
            return None if found is None else [turned(float(x)) for x in found[name]]
        stats = summary["heads"].get(metric, summary.get("spectrum", {}).get(metric))
        if stats is None:
            return None
        values = [float(x) if count else math.nan for x, count in zip(stats[statistic], stats["count"])]
        return [x / summary["shape"][3] for x in values] if rule["per_key"] else values

    def _limits(self, rule: Mapping[str, Any], keys: int) -> Limits:
        low, high, resolution = self.metrics[rule["metric"]]
        if rule["per_key"]:
            low, high, resolution = 0.0, 1.0, resolution / keys
        if rule["statistic"] in ("shift", "abs_shift"):
            unit = max(resolution, 0.05 * (high - low)) if math.isfinite(high - low) else 0.0
            high = (high - low) / unit if unit else math.inf
            low, resolution = (0.0 if rule["statistic"] == "abs_shift" else -high), 1.0
        elif rule["statistic"] == "js":
            low, high, resolution = 0.0, math.log(2), 0.01
        elif rule["statistic"] == "delta":
            low, high = low - high, high - low
        elif rule["statistic"] == "std":
            low, high = 0.0, high - low
        sign = -1 if rule["condition"] == "below" else 1
        end = {"below": -low, "above": high, "grows_by": math.inf}.get(rule["condition"], high - low)
        resolution = 0.1 if rule["condition"] == "grows_by" else resolution
        return Limits(sign, sign * rule["clear"], sign * rule["bound"], end, resolution)


def together(rule: Mapping[str, Any], values: Sequence[float]) -> float:
    """The value of a layer: the mean of its heads, their largest max or smallest min."""
    there = [x for x in values if not math.isnan(x)]
    if not there:
        return math.nan
    return {"min": min, "max": max}.get(rule["statistic"], lambda xs: math.fsum(xs) / len(xs))(there)


def slope(values: Sequence[float]) -> float:
    """Per window, by least squares."""
    middle = (len(values) - 1) / 2
    return (sum((i - middle) * x for i, x in enumerate(values)) / sum((i - middle)**2 for i in range(len(values))))


def score(rule: Mapping[str, Any], cell: Cell, limits: Limits, fires: bool) -> float:
    """Of one head by one rule, which fires for its layer or not."""
    if not cell.armed or not cell.compared:
        return 0.0
    newest = list(cell.compared)[-HELD:]
    held = min(limits.level(x) for x in newest)
    outside = [limits.sign * x > limits.bound for x in newest]
    if cell.firing if rule["each"] == "head" else fires and outside[-1]:
        return SEVERITY[rule["severity"]] + min(MOST, max(0.0, held - 1))
    if rule["each"] != "head" and all(outside):
        return 0.5 + 0.5 * min(MOST, held - 1)
    approach = min(1.0, limits.level(cell.compared[-1]))
    way = limits.bound - limits.sign * cell.compared[-1]
    if len(cell.compared) >= SLOPED_LEAST and way >= 0:
        speed = limits.sign * slope(list(cell.compared))
        if speed * (len(cell.compared) - 1) > limits.resolution:
            approach = max(approach, 1 - way / speed / AHEAD)
    return 0.5 * min(MOST, approach)
