# SPDX-License-Identifier: MIT
"""sink: where items go. One thread uses a sink, from its first call to close()."""
from __future__ import annotations

import json
import os
from typing import Any, Dict, Optional

from .items import Item, Ledger, Run


class SinkGone(Exception):
    """Nothing can be written here any more, and nobody needs to be told: the reader of a pipe has left."""


class MissingPackage(ImportError):
    """A sink's package is not there. Its text says what to install."""


class Sink:
    """The base of all sinks. Any method may raise any Exception: that costs the item, which is counted, and no more.

    A sink remembers what it has of each run (its ledger) where its data are, so that a bridge that is started again
    goes on where it stopped: whoever deletes the data deletes the memory with them.
    """

    kind = ""  # names it in messages

    def __init__(self, ledgers: Optional[Dict[Run, Ledger]] = None):
        self._ledgers: Dict[Run, Ledger] = {} if ledgers is None else ledgers

    def recall(self, run: Run) -> Ledger:
        """The sink's record of a run; empty when it has none. Changes nothing. Here: what it got as long as it lives."""
        return self._ledgers.setdefault(run, Ledger())

    def begin(self, run: Run) -> None:
        """Begins a run, or goes on with it, after recall() and before its first write; again after end()."""

    def write(self, item: Item) -> None:
        """Scalars, Picture or Note of a run that is open. May keep it until commit()."""
        raise NotImplementedError

    def commit(self, run: Run, ledger: Ledger) -> None:
        """Makes safe what was written of the run, and then the ledger, before it returns."""
        raise NotImplementedError

    def end(self, run: Run, final: bool) -> None:
        """The run is not written to for now; `final`: it has ended. Always after commit(), which may have failed."""

    def finish(self, run: Run) -> None:
        """A run has ended that is not open; after recall(), which found something of it. May come more than once."""

    def close(self) -> None:
        """After end() of every run. Called once."""


def read_ledger(path: str) -> Ledger:
    """The ledger in a file that write_ledger() made; empty when there is none. ValueError when it is something else."""
    try:
        with open(path, encoding="utf-8") as file:
            return Ledger.of_json(json.load(file))
    except FileNotFoundError:
        return Ledger()
    except ValueError as error:
        raise ValueError(f"{path}: {error}; remove it to have everything forwarded again") from None


def write_ledger(path: str, ledger: Ledger) -> None:
    """Whole or not at all. OSError when it cannot be written."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    beside = f"{path}.new"
    with open(beside, "w", encoding="utf-8") as file:
        json.dump(ledger.as_json(), file, separators=(",", ":"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def need(module: str, install: str, why: str) -> Any:
    """The module, or MissingPackage."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as cause:
        raise MissingPackage(f"{why} needs {module.split('.')[0]}: pip install {install}") from cause
