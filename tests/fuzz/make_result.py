# SPDX-License-Identifier: MIT
"""Writes the seeds of fuzz_result: answers with packed columns, as `history` and `map` give them."""
import os
import struct

import msgpack

HERE = os.path.join(os.path.dirname(__file__), "result")
UNITS = ("first", "last", "epoch", "step", "time_ns")
STATISTICS = ("mean", "std", "min", "max", "p10", "p50", "p90", "p99", "last", "count")


def column(windows, kind):
    return struct.pack(f"<{windows}{kind}", *range(windows))


def write(name, value):
    with open(os.path.join(HERE, name), "wb") as file:
        file.write(msgpack.packb(value))


units = dict(count=3, **{name: column(3, "Q") for name in UNITS})
write("series", dict(kind="history", job="x", step=2, heads=[0, 1], more=True, windows=units,
                     values={name: [column(3, "d"), column(3, "d")] for name in STATISTICS}))
write("one_head", dict(heads=[0], more=False, windows=units, values={name: column(3, "d") for name in STATISTICS}))
write("map", dict(kind="map", epoch=1, step=2, rows=2, columns=2, queries=2, keys=2, values=bytes(8)))
