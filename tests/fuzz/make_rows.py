#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes rows/: sums over rows that are sound, and some that are bad in one way each, as fuzz_rows reads them."""
import pathlib
import re
import struct

import numpy as np

HERE = pathlib.Path(__file__).parent / "rows"
SUMS = re.findall(r'^ROW_SUM\(\w+, "(\w+)"', (HERE.parents[2] / "proto/row_sum.def").read_text(), re.M)
SHARED, TWO_KEY_HEADS, SELF, WEIGHTS, DROPOUT, SINK, BF16, LENGTHS, SINKS, K_LEN, SAMPLED = (1 << i for i in range(11))
BATCH, HEADS, ROWS, KEYS = 2, 2, 3, 5


def message(flags=SHARED | SELF | LENGTHS, missing=(), logit=0.0, places=(), sums=()):
    """Even weights over keys 0 to p of rows p = 0, 1, 2; `places` and `sums` change what is named, of the second row."""
    shape = (BATCH - 1) + (HEADS // 2 - 1) * 2 + (ROWS - 1) * 4 + (KEYS - 1) * 128
    p = np.arange(ROWS)
    place = np.stack([p, p * 0 + KEYS, p * 0, p * 0 + 1, p + 1, p, p * 0 + 1, p * 0]).astype(np.int32)
    if not flags & SHARED:
        place = np.repeat(place[:, None], BATCH, 1)
    known = dict(largest=np.where(p > 0, logit, -np.inf), total=p, distance=p * (p - 1) / 2, first=p * 0 + logit, seen=p + 1, farthest=p,
                 finite=p + 1, shift=p * 0 + logit, smallest=p * 0 + logit, cosine_count=p + 1, cosine_max=p * 0 + 1, query_length=p * 0 + 1,
                 square=p, power_3=p, power_4=p, power_5=p, power_6=p, power_7=p, top=p, local=p, previous=np.where(p > 1, logit, -np.inf),
                 own=np.where(p > 0, logit, -np.inf), next=p * 0 - np.inf)
    sum_ = np.zeros((len(SUMS), BATCH, HEADS, ROWS), np.float32)
    for name, values in known.items():
        sum_[SUMS.index(name)] = values
    for row, value in places:
        place[row, ..., 1] = value
    for name, value in sums:
        sum_[SUMS.index(name), ..., 1] = value
    kv = 2 if flags & TWO_KEY_HEADS else 1
    rest = np.ones(BATCH * kv * KEYS + HEADS, np.float32)
    return struct.pack("<HHI", flags, shape, sum(1 << SUMS.index(name) for name in missing)) + bytes(
        [4, 5]) + place.tobytes() + (b"" if not flags & SHARED else bytes(4 * 8 * ROWS * (BATCH - 1))) + rest.tobytes() + sum_.tobytes()


LN_2 = 0.6931472
FILES = {
    "even": message(),
    "samples": message(SELF | TWO_KEY_HEADS | K_LEN),
    "sampled": message(SHARED | SAMPLED, missing=("apart",)),
    "sinks": message(SHARED | SELF | SINKS),
    "weights": message(SHARED | SELF | WEIGHTS, logit=-LN_2),
    "weights_dropout": message(SHARED | SELF | WEIGHTS | DROPOUT, logit=-LN_2),
    "weights_sink": message(SHARED | SELF | WEIGHTS | SINK | BF16, logit=-3),
    "all_missing": message(missing=[name for name in SUMS if name not in ("largest", "total", "weighted", "distance", "first")]),
    "huge": message(logit=3e38),
    "nan": message(sums=[("largest", np.nan)]),
    "infinite": message(sums=[("first", np.inf)]),
    "negative": message(sums=[("total", -1)]),
    "fraction": message(sums=[("finite", 1.5)]),
    "far": message(sums=[("apart", -7)]),
    "padding": message(places=[(6, 0)], sums=[("total", np.nan)]),
    "place": message(places=[(2, -1)]),
    "blind": message(places=[(4, 0)], sums=[("seen", 0)]),
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (HERE / name).write_bytes(content)
