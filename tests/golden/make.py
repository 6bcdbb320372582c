#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the golden files: <name>.msgpack (the bytes) and <name>.json (what they say, binaries as hex).

They were written once. Version 1 of the protocol is what they hold, so an encoder that disagrees with them
is wrong: run this only to add files, metrics to those that hold every metric, or statistics to summaries. Keys stand in the order of proto/PROTOCOL.md; integers have their
smallest width and real numbers are float64, which is what msgpack.packb does by itself.
"""
import json
import pathlib
import re
import sys

import msgpack
import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "tests" / "e2e"), str(HERE.parents[1] / "clients" / "python")]
from layer_state import LayerState  # noqa: E402

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

attention_documents = common("attention", seq=0, epoch=0, step=1) | layer("decoder", 0, "self") | {
    "tensors": [tensor("weights", "f16", 1, 2, 6, 6), tensor("documents", "i32", 1, 6)], "causal": True}

# Samples 1, 3 and 5 of a batch of eight.
attention_batch = common("attention", seq=5, epoch=0, step=50) | layer("decoder", 1, "self") | {
    "tensors": [tensor("weights", "f32", 3, 2, 6, 6)], "sample": 1, "sample_stride": 2, "batch": 8}

# Rows 3 and 4 of six, of the second forward of a step.
attention_rows = common("attention", seq=3, epoch=0, step=50) | layer("decoder", 1, "self") | {
    "tensors": [tensor("weights", "f32", 1, 2, 2, 6), tensor("documents", "i32", 1, 6)], "q_offset": 3,
    "causal": True, "microbatch": 1}

# Beyond ASCII, and a call after the first of one module.
attention_module = common("attention", seq=0, epoch=0, step=50) | layer("encoder", 3, "self") | {
    "tensors": [tensor("weights", "f32", 1, 2, 2, 2)], "module": "modèle.vision_model.encoder.layers.3.self_attn#1"}

# Rows 1, 4 and 7 of eight.
attention_sample = common("attention", seq=4, epoch=0, step=100) | layer("decoder", 1, "self") | {
    "tensors": [tensor("weights", "f32", 1, 2, 3, 8)], "q_offset": 1, "q_stride": 3, "causal": True}

# With values, which two heads share.
attention_output = common("attention", seq=11, epoch=3, step=1203) | layer("decoder", 5, "self") | {
    "tensors": [tensor("weights", "bf16", 2, 4, 3, 6), tensor("v", "f16", 2, 2, 6, 5), tensor("wo_r", "f32", 4, 2, 5),
                tensor("x_norm", "f32", 2, 3)], "q_offset": 3, "causal": True}

# Grouped queries: four heads read two key heads.
qk = common("qk", seq=8, epoch=3, step=1200) | layer("decoder", 5, "self") | {
    "tensors": [tensor("q", "bf16", 2, 4, 8, 16), tensor("k", "bf16", 2, 2, 8, 16)], "scale": 0.25, "causal": True}

qk_full = common("qk", seq=9, epoch=3, step=1201, rank=1, world=2) | layer("decoder", 5, "self") | {
    "tensors": [tensor("documents", "i32", 2, 6), tensor("v", "f16", 2, 1, 6, 5), tensor("q", "f32", 2, 3, 3, 4),
                tensor("k", "f64", 2, 1, 6, 4), tensor("mask", "u8", 2, 3, 6), tensor("tokens", "i32", 2, 6)],
    "scale": 0.5, "softcap": 50.0, "q_offset": 3, "causal": True, "window": 4, "q_len": [3, 2], "k_len": [6, 5],
    "head_offset": 3, "heads_total": 6}

# With what the output is judged by.
qk_output = common("qk", seq=10, epoch=3, step=1202) | layer("decoder", 5, "self") | {
    "tensors": [tensor("q", "f32", 2, 4, 3, 4), tensor("k", "f32", 2, 2, 6, 4), tensor("v", "f16", 2, 2, 6, 5),
                tensor("dout", "bf16", 2, 4, 3, 5), tensor("wo_r", "f32", 4, 2, 5), tensor("x_norm", "f32", 2, 3)],
    "scale": 0.5, "q_offset": 3, "causal": True}

weights = common("weights", seq=0, epoch=3, step=1250) | layer("decoder", 5, "self") | {
    "tensors": [tensor("wq", "f32", 32, 24), tensor("wk", "f32", 16, 24), tensor("wv", "f32", 16, 24),
                tensor("wo", "f32", 24, 32)], "heads": 4, "kv_heads": 2, "head_dim": 8}

weights_slice = common("weights", seq=1, epoch=3, step=1250) | layer("encoder", 0, "cross") | {
    "tensors": [tensor("wo", "bf16", 7, 6)], "heads": 2, "head_dim": 3, "heads_total": 4}

# Matrices that are spread over two ranks: the second one's part, with nothing of W_k.
weights_part = common("weights", seq=2, epoch=3, step=1250, rank=1, world=2) | layer("decoder", 5, "self") | {
    "tensors": [tensor("wq", "f32", 12, 24), tensor("wo", "bf16", 24, 16)], "heads": 4, "kv_heads": 2, "head_dim": 8,
    "parts": {"wq": [32, 24, 20, 0], "wk": [16, 24, 0, 0], "wo": [24, 32, 0, 16]}}

epoch_end = common("event", seq=2, epoch=3, step=1250) | {"event": "epoch_end"}
bye = common("event", seq=3, epoch=3, step=1250) | {"event": "bye"}
bye_dropped = common("event", seq=4, epoch=3, step=1250) | {"event": "bye", "dropped_total": 300}
hello = common("event", seq=0, epoch=0, step=0) | {
    "event": "hello",
    "layers": [layer("decoder", 0, "self") | {"heads": 4}, layer("decoder", 0, "cross") | {"heads": 8}],
    "client": "libattn/0.1.0"}

hello_modules = hello | {"layers": [layer("encoder", 0, "self") | {"heads": 4, "module": "text.blocks.0.attn"},
                                    layer("encoder", 1, "self") | {"heads": 4},
                                    layer("encoder", 2, "self") | {"heads": 2, "module": "vision.blocks.0.attn"}]}

hello_settings = hello | {"settings": {"learning_rate": 0.0003, "warmup_steps": 100, "fp16": True, "model_type": "gpt2"}}

# As told after the first captured steps, by a job that asks for a capture every 20 steps.
hello_cost = hello | {"step_seconds": 0.25, "capture_seconds": 0.0625, "own_every": 20}

# Windows of 200 steps, as the job's own code asks for.
hello_window = hello | {"own_window": {"unit": "step", "length": 200}}

# The gradient's norm was not finite.
log = common("event", seq=5, epoch=3, step=1250) | {
    "event": "log", "values": {"loss": 2.5, "learning_rate": 0.0003, "tokens": 4096, "grad_norm": None}}

# On the reliable lane, after what went by the other one: two layers.
epoch_end_reliable = common("event", seq=6, epoch=3, step=1250) | {
    "reliable": True, "event": "epoch_end", "after": [1, 5, 0, 9, 0, 65535, 1, 2**40]}
# The answer of attnd: more credit, three messages acknowledged, the last of which is repeated, one refused.
lane_answer = {"credit": 1048576, "ack": [1, 2, 300], "refused": [[4, "key"]], "repeated": [300]}

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
    return {"mean": base, "std": base / 2, "min": base - 1, "max": base + 1, "p10": base - 0.5, "p50": base, "p90": base + 0.5,
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

# Every number there is; head 1 has none. The metric names are those of proto/metric.def.
METRICS = re.findall(r'^METRIC\(\w+, "([\w.]+)", (\w+), (\w+),', (HERE.parent.parent / "proto" / "metric.def").read_text(),
                     re.M)
SINGULAR = [[1.0, 0.5, 0.25], []]
SIMILARITY = {"head_similarity": [[1.0, 0.5], [0.5, 1.0]], "head_js": [[0.0, 0.03125], [0.03125, 0.0]],
              "redundant_pairs": [{"heads": [0, 1], "js": 0.03125}], "redundant_total": 7}
HEAD_PAIRS = [PAIRS, [{"query": 1, "key": 1, "weight": 1.0}]]


def metrics(spectrum, of):
    return {name: of(i) for i, (name, kind, group) in enumerate(METRICS)
            if (group == "SPECTRUM" and kind != "MATRIX") == spectrum}


def numbers():
    def of(i):
        return [float(i), None]
    return {
        "heads": metrics(False, of) | {"pattern": ["induction", None]},
        "local_window": 8, "sink_rate": 0.5,
        "aggregate": {name: {"mean": i + 0.5, "max": i + 1.0, "min": i + 0.0, "std": i + 0.25}
                      for i, name in enumerate(["sum", "mean", "max", "weighted", "importance"])},
        "spectrum": metrics(True, of) | {
            "singular_values": SINGULAR, "low_rank_error": [[0.5, 0.25, 0.125, 0.0625, None], [None] * 5],
            "qk_singular_values": SINGULAR},
        "top_pairs": PAIRS, "head_top_pairs": HEAD_PAIRS}


FIELDS = ["spectral_norm", "condition_number", "rank", "effective_rank", "effective_rank_entropy", "stable_rank",
          "nuclear_norm"]


def spectrum_at(base):
    values = dict(zip(FIELDS, [base, None, base + 1, base + 2, base + 3, base + 4, base + 5]))
    return values | {"singular_values": [base, base / 2]}


def projection(whole, eigenvalues, heads, correlation, mean):
    return {"whole": spectrum_at(whole) | dict(zip(["eigenvalue_min", "eigenvalue_max"], eigenvalues)),
            "heads": columns([spectrum_at(h) for h in heads]),
            "head_correlation": correlation, "head_correlation_mean": mean}


WEIGHTS = {"wq": projection(6.0, [0.5, 1.5], [1.0, 2.0], [[1.0, 0.25], [0.25, 1.0]], 0.25),
           "wk": projection(7.0, [None, None], [3.0], [[1.0]], None),
           "wq_wk": {"heads": columns([spectrum_at(4.0), spectrum_at(5.0)])}}
OF_WEIGHTS = {"tier": "weights", "shape": None, "causal": False, "rows": 0, "invalid_rows": 0, "row_sum_error": None}

live_full = layer_result("live") | {"tier": "qk", "rank": 1} | numbers() | {
    "similarity": SIMILARITY, "snapshot": False}
live_weights = layer_result("live") | OF_WEIGHTS | {"rank": 0, "heads": {}, "weights": WEIGHTS, "snapshot": False}


def layer_of(kind):
    """The keys about a layer alone."""
    return {key: value for key, value in layer_result(kind).items() if key not in result(kind)}


analysis_layer = layer_of("live") | numbers() | SIMILARITY
analysis_weights = layer_of("live") | OF_WEIGHTS | {"stack": None, "site": None, "heads": {}, "weights": WEIGHTS}

NOTHING = {"mean": 0.0, "std": 0.0, "min": 0.0, "max": 0.0, "last": 0.0, "count": 0}


def without_percentiles(stats):
    return {key: stats[key] for key in NOTHING}


def of_both_heads(i):
    return columns([statistics(float(i), 30), statistics(i + 1.0, 28)])


def drifts():
    """Row metrics have histograms to compare; head 1 was never seen in the baseline."""
    return {name: {"delta": [i / 4, None], "shift": [i / 2 - 8, None]} | ({"js": [i / 64, None]} if kind == "ROW" else {}) |
            {"change": [float(i), None]} for i, (name, kind, _) in enumerate(METRICS)}


summary_full = layer_result("summary") | {
    "window": {"unit": "step", "first": 0, "last": 0, "length": 1, "every": 1, "partial": True},
    "ranks": 0, "messages": 0, "lost": 0, "dropped": {},
    "heads": metrics(False, of_both_heads) | {"pattern": {"last": ["induction", None]}},
    "quantile_error": 0.03125, "local_window": 8, "sink_rate": statistics(0.5, 300),
    "aggregate": {"weighted": {stat: statistics(float(s), 300) for s, stat in enumerate(["mean", "max", "min", "std"])}},
    "spectrum": metrics(True, of_both_heads) | {
        "low_rank_error": {key: [[without_percentiles(statistics(1.0, 3))[key]] + [NOTHING[key]] * 4, [NOTHING[key]] * 5]
                           for key in NOTHING},
        "qk_singular_values": {key: [[without_percentiles(statistics(2.0, 3))[key]], []] for key in NOTHING}},
    "drift": drifts(),
    "top_pairs": PAIRS, "head_top_pairs": HEAD_PAIRS, "similarity": SIMILARITY, "weights": WEIGHTS,
    "snapshot": False}

job = result("job") | {
    "state": "active", "heard_ns": 1790000000000000123, "world": 2, "ranks": 1,
    "layers": [layer("encoder", 0, "self") | {"heads": 8}, layer("decoder", 11, "cross") | {"heads": 16}],
    "received": 1000, "processed": 990, "lost": 5, "dropped": {"late": 10},
    "snapshot": False}

alert = result("alert") | {
    "rule": "entropy_collapse", "severity": "critical", "state": "firing", "metric": "entropy_normalized"
} | layer("decoder", 5, "self") | {
    "head": 3, "value": 0.0625, "bound": 0.125, "since": [1050, 1100],
    "message": "entropy_normalized of decoder.5.self head 3 is 0.0625, below 0.125 for 2 windows",
    "snapshot": False}

log_result = result("log") | {"values": {"loss": 2.5, "tokens": 4096, "grad_norm": None}, "snapshot": False}

alert_run = result("alert") | {
    "rule": "silence", "severity": "warning", "state": "resolved", "metric": "silence", "stack": None, "layer": None,
    "site": None, "head": None, "value": None, "bound": 60.0, "since": [None, 70000],
    "message": "the run has ended", "snapshot": False}


# ---- the state of a layer: two forwards of a step on rank 9, the second with two of the three heads. Numbers are such
# that their sums are exact, in whatever order ----

NAN = float("nan")


def layer_state_of():
    state = LayerState(3, buckets=48)
    rows = {"entropy": [[1.5, 2.5], [0.25, 0.25], [NAN, NAN]],
            "confidence": [[0.5, 0.25], [1.0, 1.0], [NAN, NAN]],
            "first_token": [[NAN, 0.5], [NAN, 0.125], [NAN, NAN]],
            "max_logit": [[-3.0, 2.0**41], [2.0**-41, 96.0], [NAN, NAN]]}
    state.add({name: np.array([values]) for name, values in rows.items()}, keys=2, epoch=3, step=1200, rank=9,
              time_ns=TIME_NS, causal=True, valid=np.ones((1, 2), dtype=bool), row_sum_error=2.0**-20,
              values={"importance": np.array([0.5, 0.25, 0.25]), "q_norm": np.array([4.0, NAN, 0.1])})
    state.add({"entropy": np.array([[[1.5, 3.5], [300.0, 2.25]]]), "confidence": np.array([[[0.5, NAN], [1.0, 1.0]]])},
              keys=2, epoch=3, step=1200, microbatch=1, rank=9, time_ns=TIME_NS + 1, causal=True)
    return state


live_sketch = layer_result("live") | OF_WEIGHTS | {"tier": "sketch", "rank": 0, "heads": {}, "sketch": {
    "step": 1200, "stored": ["bf16"], "wk": {"moved": [0.25, None], "cosine": [0.5, None], "hash": ["0123456789abcdef"] * 2,
                                             "flags": [0, 9]}}, "snapshot": False}

layer_state = msgpack.unpackb(layer_state_of().pack()) | {"tier": "rows"}


# Two of the four rows of a call with a cache, of the second sample's batch too; and what explicit weights leave.
rows = common("rows", seq=4, epoch=3, step=1200, rank=1, world=8) | layer("decoder", 5, "self") | {
    "tensors": [tensor("sums", "f32", 8, 2, 4, 2), tensor("places", "i32", 8, 1, 2), tensor("key_lengths", "f32", 2, 2, 6),
                tensor("sinks", "f32", 4), tensor("maps", "f16", 4, 3, 4)],
    "sums": ["largest", "total", "weighted", "distance", "first", "", "apart", "local"], "queries": 4, "keys": 6,
    "local_window": 4, "q_offset": 2, "causal": True, "k_len": [6, 5], "head_offset": 4, "heads_total": 8,
    "map_queries": 3, "map_keys": 4, "first_query": 1, "first_key": 2, "sample": 1, "batch": 8, "microbatch": 1, "module": "blocks.5.attn"}

rows_weights = common("rows", seq=5, epoch=3, step=1200) | layer("decoder", 5, "cross") | {
    "tensors": [tensor("sums", "f32", 5, 1, 3, 2), tensor("places", "i32", 8, 1, 2)],
    "sums": ["largest", "total", "weighted", "distance", "first"], "queries": 2, "keys": 6, "weights": "bf16", "dropout": True}

# A slice of the heads, of which another rank has some places.
sketch = common("sketch", seq=6, epoch=3, step=1204, rank=1, world=2) | layer("decoder", 5, "self") | {
    "tensors": [tensor("wq", "f32", 2, 64), tensor("wk", "f32", 1, 64), tensor("wo", "f32", 2, 64), tensor("held", "u8", 5, 64)],
    "stored": ["bf16", "bf16", "f32"], "frozen": ["wk"], "head_offset": 2, "heads_total": 4, "module": "blocks.5.attn"}


def readable(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: readable(one) for key, one in value.items()}
    if isinstance(value, list):
        return [readable(one) for one in value]
    return value


NAMES = ["attention", "attention_full", "attention_unknown_keys", "attention_documents", "attention_rows",
         "attention_module", "attention_sample", "attention_batch", "attention_output", "qk", "qk_full", "qk_output", "weights",
         "weights_slice", "weights_part", "epoch_end", "bye",
         "bye_dropped", "hello", "hello_modules", "hello_settings", "hello_cost", "hello_window", "log", "epoch_end_reliable", "lane_answer", "log_result", "live", "live_bare", "summary", "job", "alert", "alert_run", "live_full",
         "live_weights", "summary_full", "analysis_layer", "analysis_weights", "layer_state", "rows", "rows_weights", "sketch", "live_sketch"]

if __name__ == "__main__":
    for name in NAMES:
        content = globals()[name]
        (HERE / f"{name}.msgpack").write_bytes(msgpack.packb(content, use_bin_type=True))
        (HERE / f"{name}.json").write_text(json.dumps(readable(content), indent=2) + "\n")
