#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""make_control: writes the corpus of fuzz_control: requests of every method, and broken ones.

usage: make_control.py FOLDER
"""
import pathlib
import sys

import msgpack

RUN = "01" + 30 * "0"
LAYER = dict(job="gpt", stack="decoder", layer=1, site="self")
REQUESTS = [
    ("ping", {}), ("jobs", {}), ("stats", {}), ("monitor", {}), ("fleet", {}), ("config", {}), ("flush", {}),
    ("flush", {"job": "gpt"}),
    ("summary", {}), ("summary", {**LAYER, "run": RUN[:4], "head": 1}), ("live", {"job": "gpt"}), ("live", LAYER),
    ("maps", {**LAYER, "packed": True}), ("maps", {**LAYER, "head": 0, "kind": "mean"}), ("rollout", {"job": "gpt", "packed": True}),
    ("alerts", {}), ("alerts", {"job": "gpt", "since": 1, "limit": 3}), ("baseline", {"job": "gpt", "run": RUN}),
    ("plan.get", {}), ("plan.get", {"job": "gpt"}), ("plan.reset", {"job": "gpt"}),
    ("plan.set", {"job": "gpt-*", "every": 3, "layers": "decoder.0-1.self", "heads": "0-3,7", "samples": 1, "rows": 8, "tier": "rows"}),
    ("runs", {}), ("runs", {"job": "g*", "limit": 2}), ("windows", {**LAYER, "unit": "step", "length": 2, "every": 2}), ("layers", {"job": "gpt"}),
    ("history", {**LAYER, "metric": "entropy", "head": 0, "from": 1, "to": 9, "limit": 5, "packed": True, "statistics": ["mean", "max"]}),
    ("grid", {**LAYER, "metric": "entropy", "points": 4}), ("map", {**LAYER, "window": 3, "kind": "mean", "packed": True}),
    ("compare", {"a": {"job": "gpt"}, "b": {"job": "gpt", "run": RUN}}), ("compare", {"job": "gpt", "other": "gpt"}),
    ("export", {}), ("unknown", {}), ("ping", None), ("jobs", [1]), ("summary", {"job": 5}), ("history", {"job": "\0"}),
]
STRANGE = [b"", b"\xc1", b"\x94", b"\xdd\xff\xff\xff\xff", 40 * b"\x91", msgpack.packb([1, 2, None, None]), msgpack.packb([0, -1, "ping", {}]),
           msgpack.packb([0, 2**64 - 1, "ping", {}]), msgpack.packb([0, 1, b"ping", {}]), msgpack.packb([0, 1, 300 * "p", {}]),
           msgpack.packb([0, 1, "ping", {}, 5])]


def main(folder):
    texts = [msgpack.packb([0, number, method, params]) for number, (method, params) in enumerate(REQUESTS)] + STRANGE
    for number, text in enumerate(texts):
        (pathlib.Path(folder) / f"{number:03}").write_bytes(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
