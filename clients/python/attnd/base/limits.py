# SPDX-License-Identifier: MIT
"""limits: the messages that the daemon takes, which it announces by subscribing (PROTOCOL.md, "What the daemon takes"):

    limits/accepts=attention,qk,weights,rows,sketch,event;header=11;max_message=268435456;max_entries=34359738368;
        max_heads=1024;weights_max_size=2048;maps=64;maps_every=1000;reliable=5574;memory=1
"""
from __future__ import annotations

import math
from typing import Any, Dict, FrozenSet, Iterable, Mapping, NamedTuple, Optional

PREFIX = b"limits/"
PREFIX_BYTES_MAX = 1024
HEADER_OLDEST = 10  # the revision of header keys that an attnd has to know: there was no release before it
KNOWN_TYPES = frozenset(("attention", "qk", "weights", "rows", "sketch", "event"))
UPDATE = ": update attnd"  # the end of a refusal that nothing else helps against


class Limits(NamedTuple):
    """The message types that are accepted, the newest revision of header keys known there, and bounds of a message: its bytes with
    topic and header, its pairs of queries and keys, the heads of its layer. `weights_max_size`: the side of the largest
    projection matrix that has a spectrum as a whole. `maps`: cells a side of maps that come with rows, 0 for none; `maps_every`:
    milliseconds between those of a layer. `reliable`: the port of the reliable lane, 0 for none on TCP; below 0: there is no such
    lane. `memory`: 1 when tensors may be in memory that is lent (sending/memory.py). `reliable_next`: the port of that lane at attnd's second address, 0 for none. The defaults
    hold for what is not said, as by a bare SUB."""
    accepts: FrozenSet[str] = KNOWN_TYPES - {"rows", "sketch"}
    header: float = HEADER_OLDEST
    max_message: float = math.inf
    max_entries: float = math.inf
    max_heads: float = math.inf
    weights_max_size: float = 2048
    maps: float = 0
    maps_every: float = 0
    reliable: float = -1
    memory: float = 0
    reliable_next: float = 0

    @property
    def rows(self) -> bool:
        """Whether messages of type rows are taken."""
        return "rows" in self.accepts

    @property
    def sketch(self) -> bool:
        """Whether messages of type sketch are taken."""
        return "sketch" in self.accepts

    def refusal(self, kind: Optional[str], nbytes: int, keys: Mapping[str, Any]) -> Optional[str]:
        """Why a message with these keys is not taken, as a clause; None: it is. `kind` None: not known yet."""
        if self.header < HEADER_OLDEST and kind != "event":
            return "the attnd that listens is too old for this client" + UPDATE
        if kind is not None and kind not in self.accepts:
            return f"the attnd that listens does not know messages of type {kind}" + UPDATE
        if nbytes > self.max_message:
            return self.too_large(nbytes)
        if not keys:
            return None
        shapes = {t["name"]: t["shape"] for t in keys.get("tensors", ())}
        shape = shapes.get("weights", shapes.get("q", (1, *shapes.get("sums", (1, 1, 1, 1))[2:3], 1, 1)))
        pairs = math.prod(shape[:3]) * int(shapes["k"][2] if "k" in shapes else shape[3])  # q's shape has no Tk
        if pairs > self.max_entries:
            return f"a message has {pairs} pairs of queries and keys, attnd takes {self.max_entries} (limits.entries)"
        heads = keys.get("heads_total", keys.get("heads", shape[1]))
        if heads > self.max_heads:
            return f"a layer has {heads} heads, attnd takes {self.max_heads} (limits.heads)"
        return None

    def too_large(self, nbytes: int) -> str:
        """The clause for a message of `nbytes` bytes."""
        return f"a message of {nbytes} bytes is larger than the {self.max_message} that attnd takes (ingest.max_message)"


def strictest(prefixes: Iterable[bytes]) -> Limits:
    """The limits that hold, given the subscriptions. A prefix with a malformed value counts for nothing."""
    said = [limits for limits in (_read(p) for p in prefixes if p.startswith(PREFIX)) if limits is not None]
    if not said:
        return Limits()
    strict = Limits(frozenset.intersection(*(limits.accepts for limits in said)),
                    *(min(numbers) for numbers in zip(*(limits[1:] for limits in said))))
    return strict._replace(maps_every=max(limits.maps_every for limits in said))


def _read(prefix: bytes) -> Optional[Limits]:
    if len(prefix) > PREFIX_BYTES_MAX:
        return None
    values: Dict[str, Any] = {}
    try:
        for setting in filter(None, prefix[len(PREFIX):].decode("ascii").split(";")):
            key, equals, value = setting.partition("=")
            if not equals:
                return None
            if key == "accepts":
                values[key] = KNOWN_TYPES.intersection(value.split(","))
            elif key in Limits._fields:
                values[key] = _number(value)
    except ValueError:
        return None
    return Limits(**values)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise ValueError(text)
    return int(text)
