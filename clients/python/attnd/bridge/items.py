# SPDX-License-Identifier: MIT
"""items: the items for a sink, and a record of those already written.

Everything has a place on the run's own axis: its step, and the time its data were captured. The bridge's clock appears
nowhere.
"""
from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy.typing as npt

Position = Tuple[int, ...]

NOTES_KEPT = 64  # alerts remembered per run: on a restart only the newest comes again


class Run(NamedTuple):
    """One start of a job: what gets a run directory, a W&B run or an MLflow run of its own."""
    job: str
    run: str  # 32 hex digits

    @property
    def short(self) -> str:
        """As attnctl shows it."""
        return self.run[:8]


@dataclass(frozen=True)
class Item:
    """The fields of all items. `where` and `position` say whether it is new: positions of one `where` only grow."""
    run: Run
    where: str
    position: Position
    epoch: int
    step: int
    time_ns: int  # since 1970, of the newest message it is about

    @property
    def time_s(self) -> float:
        return self.time_ns / 1e9


@dataclass(frozen=True)
class Scalars(Item):
    """One window of one layer, or one live result: name to finite number."""
    values: Dict[str, float]
    about: Dict[str, Any]  # layer, and window or rank: for people


@dataclass(frozen=True)
class Picture(Item):
    """A metric of all layers and heads as a heat map."""
    name: str
    pixels: npt.NDArray[Any]  # uint8 [height, width, 3]


@dataclass(frozen=True)
class Note(Item):
    """An alert. `result` is the daemon's map."""
    name: str
    text: str
    result: Dict[str, Any]


@dataclass(frozen=True)
class End(Item):
    """The run has ended; what comes of it later opens it again."""


@dataclass
class Ledger:
    """The items of one run that a sink has. Not thread-safe: it belongs to the sink's thread."""
    positions: Dict[str, Position] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)
    written: int = 0  # items

    def is_new(self, item: Item) -> bool:
        if isinstance(item, Note):
            return _digest(item) not in self.notes
        return item.position > self.positions.get(item.where, ())

    def mark(self, item: Item) -> None:
        self.written += 1
        if isinstance(item, Note):
            self.notes = [*self.notes, _digest(item)][-NOTES_KEPT:]
        elif item.position > self.positions.get(item.where, ()):
            self.positions[item.where] = item.position

    def as_json(self) -> Dict[str, Any]:
        return {"positions": {where: list(position) for where, position in self.positions.items()},
                "notes": self.notes, "written": self.written}

    @classmethod
    def of_json(cls, value: Any) -> "Ledger":
        """ValueError when `value` is not what as_json() made."""
        try:
            positions = {str(where): tuple(int(x) for x in position)
                         for where, position in value["positions"].items()}
            return cls(positions, [str(note) for note in value["notes"]], int(value.get("written", 0)))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a ledger: {error!r}") from None


def _digest(note: Note) -> str:
    keys = ("epoch", "step", "rule", "state", "metric", "stack", "layer", "site", "head")
    return hashlib.sha256(repr([note.result.get(key) for key in keys]).encode()).hexdigest()[:12]
