# SPDX-License-Identifier: MIT
"""jsonl: a line of JSON per window of a layer and per alert, on stdout or appended to a file.

    {"kind":"values","job":..,"run":..,"where":"decoder.3.self","epoch":..,"step":..,"time_ns":..,"position":[..],
     "window":{..},"values":{"attn/decoder.3.self/entropy/head_0":1.25,..}}
    {"kind":"alert","rule":..,..}      the daemon's map, with the text as `message`

Pictures are left out: their numbers are there. A file is its own memory: lines that it has are not written again.
"""
from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO, Dict, Optional

from .items import Item, Ledger, Note, Run, Scalars
from .sink import Sink, SinkGone


class JsonLinesSink(Sink):
    """path  a file that is appended to; one that ends in a torn line, of a bridge that was killed, loses that line; default:
          stdout

    OSError when the file cannot be opened, ValueError when it has lines that are not of this sink.
    """

    kind = "jsonl"

    def __init__(self, path: Optional[str] = None):
        super().__init__(None if path is None else _read(path))
        self._path = path
        self._stream: BinaryIO = sys.stdout.buffer if path is None else open(path, "ab")

    def write(self, item: Item) -> None:
        line = _line(item)
        if line is None:
            return
        try:
            self._stream.write(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")
        except BrokenPipeError:
            raise self._gone() from None

    def commit(self, run: Run, ledger: Ledger) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise self._gone() from None
        if self._path is not None:
            os.fsync(self._stream.fileno())

    def _gone(self) -> SinkGone:
        """Sends what is left in the stream's buffer nowhere, so that the end of the program does not fail on it."""
        if self._path is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)
        return SinkGone("nobody reads any more")

    def close(self) -> None:
        if self._path is not None:
            self._stream.close()


def _line(item: Item) -> Optional[Dict[str, Any]]:
    if isinstance(item, Scalars):
        return {"kind": "values", "job": item.run.job, "run": item.run.run, "where": item.where, "epoch": item.epoch,
                "step": item.step, "time_ns": item.time_ns, "position": list(item.position), **item.about,
                "values": item.values}
    if isinstance(item, Note):
        return {key: value for key, value in item.result.items() if key not in ("topic", "snapshot")}
    return None


def _read(path: str) -> Dict[Run, Ledger]:
    """The items in a file; cuts off a last line that is not whole. Reads line by line: files grow large."""
    ledgers: Dict[Run, Ledger] = {}
    whole = 0
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    whole += len(line)
                    _remember(ledgers, line, f"{path}:{number}")
    except FileNotFoundError:
        return ledgers
    os.truncate(path, whole)
    return ledgers


def _remember(ledgers: Dict[Run, Ledger], line: bytes, place: str) -> None:
    try:
        value = json.loads(line)
        run = Run(str(value["job"]), str(value["run"]))
        where = value["where"] if value["kind"] == "values" else "alert"
        position = tuple(value.get("position", ()))
        base = (run, where, position, value["epoch"], value["step"], value["time_ns"])
        item: Item = Scalars(*base, {}, {}) if value["kind"] == "values" else Note(*base, "", "", value)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{place}: not a line of this bridge ({error}); give another file") from None
    ledgers.setdefault(run, Ledger()).mark(item)
