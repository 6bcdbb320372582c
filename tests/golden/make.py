#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the golden files: <name>.msgpack (the bytes) and <name>.json (what they say, binaries as hex).

They were written once. Version 1 of the protocol is what they hold, so an encoder that disagrees with them
is wrong: run this only to add files. Keys stand in the order of proto/PROTOCOL.md; integers have their
smallest width and real numbers are float64, which is what msgpack.packb does by itself.
"""
import json
import pathlib

import msgpack

HERE = pathlib.Path(__file__).parent
RUN = bytes(range(0xA0, 0xB0))
TIME_NS = 1_700_000_000_000_000_000


def common(kind, *, seq, epoch, step, rank=0, world=1, dropped=0):
    return {"v": 1, "type": kind, "job": "gpt-small", "run": RUN, "rank": rank, "world": world, "seq": seq,
            "dropped": dropped, "time_ns": TIME_NS, "epoch": epoch, "step": step}


def tensor(name, dtype, *shape):
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def layer(stack, number, site):
    return {"stack": stack, "layer": number, "site": site}


# ---- trainer to daemon ----

attention = common("attention", seq=7, epoch=3, step=1200) | layer("decoder", 5, "self") | {
    "tensors": [tensor("weights", "f32", 2, 4, 8, 8)], "causal": True}

attention_full = common("attention", seq=2**40, epoch=3, step=70000, rank=1, world=8, dropped=300) | layer(
    "encoder", 65535, "cross") | {
        "tensors": [tensor("weights", "bf16", 2, 2, 3, 5), tensor("mask", "u8", 2, 3, 5),
                    tensor("tokens", "i32", 2, 5), tensor("grad", "f64", 2, 2, 3, 5)],
        "causal": True, "window": 128, "q_len": [3, 2], "k_len": [5, 0], "head_offset": 2, "heads_total": 4,
        "dropout": True, "learned_sink": True}

attention_unknown_keys = attention | {"labels": ["the", "cat"], "x-note": {"deep": [[1.5, None]]}}

epoch_end = common("event", seq=2, epoch=3, step=1250) | {"event": "epoch_end"}
bye = common("event", seq=3, epoch=3, step=1250) | {"event": "bye"}
hello = common("event", seq=0, epoch=0, step=0) | {
    "event": "hello",
    "layers": [layer("decoder", 0, "self") | {"heads": 4}, layer("decoder", 0, "cross") | {"heads": 8}],
    "client": "libattn/0.1.0"}

# ---- daemon to subscribers ----


def result(kind):
    return {"v": 1, "kind": kind, "job": "gpt-small", "run": RUN.hex(), "epoch": 3, "step": 1200,
            "time_ns": TIME_NS}


def layer_result(kind):
    return result(kind) | layer("decoder", 5, "self") | {
        "tier": "attention", "shape": [2, 2, 8, 8], "causal": True, "rows": 30, "invalid_rows": 2,
        "row_sum_error": 0.125}


PAIRS = [{"query": 7, "key": 0, "weight": 0.5}, {"query": 3, "key": 2, "weight": 0.25}]


def statistics(base, count):
    """The statistics of one number; the C test fills its structs by the same rule."""
    return {"mean": base, "std": base / 2, "min": base - 1, "max": base + 1, "p50": base, "p90": base + 0.5,
            "p99": base + 0.75, "last": None, "count": count}


def columns(stats, leave_out=()):
    return {key: [one[key] for one in stats] for key in stats[0] if key not in leave_out}


live = layer_result("live") | {
    "rank": 1,
    "heads": {"entropy": [0.5, 1.5], "diagonal": [None, 0.25], "importance": [0.5, 0.5]},
    "aggregate": {name: {"mean": i + 0.5, "max": i + 1.0, "min": i + 0.0, "std": i + 0.25}
                  for i, name in enumerate(["sum", "mean", "max"])},
    "spectrum": {"spectral_norm": [1.0, 1.25], "condition_number": [None, 2.0],
                 "singular_values": [[1.0, 0.5, 0.25], []]},
    "top_pairs": PAIRS,
    "snapshot": False}

live_bare = layer_result("live") | {"row_sum_error": None, "rank": 0, "heads": {}, "snapshot": False}

summary = layer_result("summary") | {
    "window": {"unit": "epoch", "first": 2, "last": 3, "length": 2, "every": 1, "partial": False},
    "ranks": 1, "messages": 300, "lost": 4, "dropped": {"late": 3, "size_mismatch": 70000},
    "heads": {"entropy": columns([statistics(2.0, 30), statistics(3.0, 28)]),
              "mean": columns([statistics(4.0, 300), statistics(5.0, 300)])},
    "aggregate": {name: {stat: statistics(i + s / 4, 300) for s, stat in enumerate(["mean", "max", "min", "std"])}
                  for i, name in enumerate(["sum", "mean", "max"])},
    "spectrum": {"rank": columns([statistics(8.0, 3), statistics(7.0, 3)]),
                 "singular_values": {key: [[statistics(2.0, 3)[key], statistics(1.0, 3)[key]],
                                           [statistics(3.0, 3)[key]]]
                                     for key in ["mean", "std", "min", "max", "last", "count"]}},
    "top_pairs": PAIRS,
    "snapshot": False}

job = result("job") | {
    "state": "active", "world": 2, "ranks": 1,
    "layers": [layer("encoder", 0, "self") | {"heads": 8}, layer("decoder", 11, "cross") | {"heads": 16}],
    "received": 1000, "processed": 990, "lost": 5, "dropped": {"late": 10},
    "snapshot": False}


def readable(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: readable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [readable(one) for one in value]
    return value


if __name__ == "__main__":
    for name in ["attention", "attention_full", "attention_unknown_keys", "epoch_end", "bye", "hello", "live",
                 "live_bare", "summary", "job"]:
        content = globals()[name]
        (HERE / f"{name}.msgpack").write_bytes(msgpack.packb(content, use_bin_type=True))
        (HERE / f"{name}.json").write_text(json.dumps(readable(content), indent=2) + "\n")
