#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes checkpoint/sketch*: what is kept of a run whose layers have sketches, with an open capture and without one,
and ones that contradict themselves. Layers are those of checkpoint/about."""
import pathlib
import struct

import msgpack

HERE = pathlib.Path(__file__).parent / "checkpoint"
SETS = ("first", "newest", "changed", "open")


def values(heads, step, held=2**64 - 1):
    return b"".join(struct.pack("<3Q64f", step, held, 0, *(head + place / 64 for place in range(64))) for head in range(heads))


def matrix(count, changed=True, opened=True, **keys):
    sets = dict(first=values(count, 1), newest=values(count, 3), changed=values(count, 2) if changed else None,
                open=values(count, 4, 5) if opened else None)
    return dict(heads=count, stored=2, here=opened, frozen=False, **sets) | keys


def sketch(matrices, is_open=True, captures=4, seen=(4, 3)):
    return dict(capture=struct.pack("<5Q", 0, 4, 1, 1, 0), is_open=is_open, captures=captures, ranks=len(seen),
                seen=struct.pack(f"<{len(seen)}Q", *seen)) | matrices


def kept(key, value):
    packed = msgpack.packb(value)
    return bytes([len(key)]) + key.encode() + len(packed).to_bytes(2, "little") + packed


FILES = {
    "sketch": sketch({"wq": matrix(2), "wk": matrix(1, changed=False)}),
    "sketch_finished": sketch({"wv": matrix(1, opened=False), "wo": matrix(2, opened=False)}, is_open=False),
    "sketch_short": sketch({"wq": matrix(2, heads=3)}),
    "sketch_bare": sketch({"wq": matrix(1, first=None, newest=None)}),
    "sketch_ranks": sketch({}, captures=2**62, seen=(2**64 - 1, 0)),
}

if __name__ == "__main__":
    for name, content in FILES.items():
        (HERE / name).write_bytes((HERE / "about").read_bytes() + kept("sketch/2", content))
