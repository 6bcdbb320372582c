#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes corpus/: small inputs that were chosen to be bad in one way each. Beside the golden files they are what the
replay tests run, and what the fuzzers start from."""
import pathlib

import msgpack

HERE = pathlib.Path(__file__).parent / "corpus"
GOLDEN = HERE.parent.parent / "golden"


def changed(name, **keys):
    content = msgpack.unpackb((GOLDEN / f"{name}.msgpack").read_bytes())
    return msgpack.packb(content | keys, unicode_errors="surrogateescape")


def weights(*shape, dtype="f32", name="weights"):
    return {"name": name, "dtype": dtype, "shape": list(shape)}


OUTPUT = [weights(2, 4, 8, 3, name="q"), weights(2, 2, 8, 3, name="k"), weights(2, 2, 8, 5, name="v"),
          weights(2, 4, 8, 5, name="dout", dtype="bf16"), weights(4, 3, 5, name="wo_r"), weights(2, 8, name="x_norm")]
attention = (GOLDEN / "attention.msgpack").read_bytes()
FILES = {
    "empty_map": b"\x80",
    "nil": b"\xc0",
    "never_used_byte": b"\xc1",
    "array32_max": b"\xdd\xff\xff\xff\xff",
    "map32_2_16": b"\xdf\x00\x01\x00\x00",
    "str32_max": b"\xdb\xff\xff\xff\xff",
    "nested_counts": b"\xdd\x00\x00\x04\x00" * 31,
    "deep_arrays": b"\x91" * 20,
    "deep_maps": b"\x81\xa1v" * 20,
    "depth_8": b"\x91" * 7 + b"\x90",
    "trailing": attention + b"\xc0",
    "ext": msgpack.packb({"v": 1, "x": msgpack.ExtType(5, b"abc")}),
    "duplicate": b"\x8d" + (GOLDEN / "bye.msgpack").read_bytes()[1:] + b"\xa4step\x01",
    "keys_not_strings": msgpack.packb({1: 2, -3: 4, None: 5, True: 6}, use_bin_type=True),
    "version_2": changed("attention", v=2),
    "type_qk": changed("attention", type="qk"),
    "qk_without_keys": changed("qk", tensors=[weights(2, 4, 8, 16, name="q")]),
    "qk_gqa": changed("qk", tensors=[weights(1, 4, 2, 2, name="q"), weights(1, 3, 2, 2, name="k")]),
    "qk_dims": changed("qk", tensors=[weights(1, 4, 2, 2, name="q"), weights(1, 2, 2, 3, name="k")]),
    "qk_scale_nan": changed("qk", scale=float("nan")),
    "qk_scale_integer": changed("qk", scale=1, softcap=30),
    "qk_softcap_negative": changed("qk", softcap=-1.0),
    "qk_offset_end": changed("qk", q_offset=2**32 - 1),
    "qk_documents": changed("qk_full", q_offset=4),
    "qk_dout": changed("qk", tensors=OUTPUT),
    "qk_dout_without_v": changed("qk", tensors=OUTPUT[:2] + OUTPUT[3:4]),
    "qk_dout_shape": changed("qk", tensors=OUTPUT[:3] + [weights(2, 4, 8, 4, name="dout")]),
    "qk_wo_r_tall": changed("qk", tensors=OUTPUT[:3] + [weights(4, 6, 5, name="wo_r")]),
    "qk_wo_r_dtype": changed("qk", tensors=OUTPUT[:3] + [weights(4, 5, 5, name="wo_r", dtype="f64")]),
    "qk_x_norm_alone": changed("qk", tensors=OUTPUT[:3] + OUTPUT[5:]),
    "values_beside_weights": changed("attention_output"),
    "values_of_other_heads": changed("attention_output", tensors=[weights(2, 4, 3, 6), weights(2, 3, 6, 5, name="v")]),
    "values_need_weights": changed("attention_output", tensors=OUTPUT[2:3] + OUTPUT[4:]),
    "qk_max_offset": changed("qk", q_offset=2**32 - 9),
    "documents_cross": changed("attention_documents", site="cross"),
    "rows_documents": changed("attention_rows", q_offset=5),
    "rows_offset_end": changed("attention", q_offset=2**32 - 8),
    "rows_stride_zero": changed("attention", q_stride=0),
    "rows_stride_end": changed("attention_sample", q_stride=2**31 - 1),
    "rows_stride_max": changed("attention", q_stride=2**29),
    "rows_stride_documents": changed("attention_rows", q_stride=3),
    "microbatch_text": changed("attention", microbatch="1"),
    "microbatch_large": changed("attention", microbatch=2**32),
    "module_control": changed("attention", module="blocks.0\x1b[2J"),
    "module_long": changed("qk", module="m" * 257),
    "module_cut": changed("weights", module="blocks.é".encode()[:-1].decode(errors="surrogateescape")),
    "module_layers": changed("hello_modules", layers=[
        {"stack": "encoder", "layer": i, "site": "self", "heads": 1, "module": "é" * (128 + i // 3)} for i in range(4)]),
    "module_list": changed("hello_modules", layers=[
        {"stack": "encoder", "layer": 0, "site": "self", "heads": 1, "module": ["blocks", 0]}]),
    "weights_head_dim": changed("weights", head_dim=9),
    "weights_head_dim_max": changed("weights_slice", heads=2**20, heads_total=2**20, head_dim=2**31 - 1),
    "weights_gqa": changed("weights", kv_heads=3),
    "weights_part_beyond": changed("weights_part", parts={"wq": [32, 24, 21, 0], "wo": [24, 32, 0, 16]}),
    "weights_part_large": changed("weights_part", parts={"wq": [32, 2**31 - 1, 20, 2**31 - 25], "wo": [2**31 - 1, 32, 0, 16]}),
    "weights_none": changed("weights", tensors=[]),
    "weights_of_attention": changed("weights", tensors=[weights(1, 4, 8, 8)]),
    "weights_only_wo": changed("weights", tensors=[weights(1, 32, name="wo")]),
    "type_unknown": changed("attention", type="sums"),
    "sketch_keys_alone": changed("sketch", tensors=[weights(2, 64, name="wk"), weights(2, 64, name="wv")], stored=["f32", "f64"],
                                 frozen=[], head_offset=0, heads_total=8),
    "sketch_keys_slice": changed("sketch", tensors=[weights(2, 64, name="wk")], stored=["f32"], frozen=[], head_offset=2),
    "sketch_held_alone": changed("sketch", tensors=[weights(2, 64, name="held", dtype="u8")], stored=[]),
    "sketch_places": changed("sketch", tensors=[weights(2, 65, name="wq")], stored=["f32"]),
    "sketch_stored": changed("sketch", stored=["bf16", "i32", "f32"]),
    "sketch_frozen": changed("sketch", frozen=["wq", "wv"]),
    "sketch_key_heads": changed("sketch", head_offset=1),
    "sketch_large": changed("sketch", tensors=[weights(2**31 - 1, 64, name="wo")], stored=["f16"], frozen=[]),
    "type_rows": changed("attention", type="rows"),
    "sums_unknown": changed("rows", sums=["largest", "total", "weighted", "distance", "first", "", "apart", "locals"]),
    "sums_twice": changed("rows", sums=["largest", "total", "weighted", "distance", "first", "", "apart", "total"]),
    "sums_missing": changed("rows", sums=["largest", "total", "weighted", "distance", "", "", "apart", "local"]),
    "sums_few": changed("rows_weights", sums=["largest", "total", "weighted", "distance"]),
    "sums_queries": changed("rows", queries=1),
    "sums_queries_most": changed("rows", queries=2**31 - 1),
    "sums_keys": changed("rows", keys=7),
    "sums_keys_most": changed("rows_weights", keys=2**31 - 1),
    "sums_weights": changed("rows_weights", weights="i32"),
    "sums_maps": changed("rows", first_query=2),
    "sums_maps_keys": changed("rows", map_keys=2**31 - 1),
    "sums_maps_default": changed("rows", map_queries=0),
    "sums_heads": changed("rows", heads_total=7),
    "sums_lengths": changed("rows", k_len=[7, 0]),
    "sums_of_none": changed("rows", tensors=[weights(8, 2, 4, 2, name="sums")]),
    "sums_places": changed("rows", tensors=[weights(8, 2, 4, 2, name="sums"), weights(8, 3, 2, name="places", dtype="i32")]),
    "sums_key_heads": changed("rows", tensors=[weights(8, 2, 4, 2, name="sums"), weights(8, 1, 2, name="places", dtype="i32"),
                                               weights(2, 3, 6, name="key_lengths")]),
    "job_slash": changed("attention", job="a/b"),
    "job_long": changed("attention", job="j" * 129),
    "rank_world": changed("attention", rank=3, world=3),
    "dims_zero": changed("attention", tensors=[weights(1, 0, 1, 1)]),
    "dims_overflow": changed("attention", tensors=[weights(2**63, 2**63, 2, 1)]),
    "dims_large": changed("attention", tensors=[weights(2**31, 1, 1, 1)]),
    "dims_rank": changed("attention", tensors=[weights(1, 1, 1)]),
    "dtype": changed("attention", tensors=[weights(1, 1, 1, 1, dtype="i32")]),
    "tensor_twice": changed("attention", tensors=[weights(1, 1, 1, 1)] * 2),
    "no_weights": changed("attention", tensors=[]),
    "lengths": changed("attention", q_len=[8, 9], k_len=[0, 0]),
    "lengths_all": changed("attention", q_len=[8, 0], k_len=[0, 8]),
    "slice": changed("attention", head_offset=2**20, heads_total=2**20),
    "layers_bad": changed("hello", layers=[{"stack": "encoder", "layer": 1}]),
    "log_nan": changed("log", values={"loss": float("nan")}),
    "log_infinite": changed("log", values={"loss": float("inf"), "nll": -float("inf")}),
    "log_empty": changed("log", values={}),
    "log_many": changed("log", values={f"n{i}": i for i in range(33)}),
    "log_name_long": changed("log", values={"n" * 65: 1}),
    "log_name_control": changed("log", values={"loss\x1b[2J": 1}),
    "log_nested": changed("log", values={"loss": {"loss": 1}}),
    "log_twice": (GOLDEN / "log.msgpack").read_bytes().partition(b"\xa6values")[0] + b"\xa6values\x82\xa1l\x01\xa1l\x02",
    "settings_many": changed("hello", settings={f"s{i}": i for i in range(65)}),
    "settings_text_long": changed("hello", settings={"s": "t" * 257}),
    "settings_nested": changed("hello", settings={"s": ["t"]}),
    "cost_zero": changed("hello_cost", step_seconds=0),
    "cost_negative": changed("hello_cost", capture_seconds=-1e-9),
    "cost_infinite": changed("hello_cost", step_seconds=float("inf")),
    "cost_alone": changed("hello", capture_seconds=1),
    "cost_every": changed("hello_cost", own_every=10**9 + 1),
    "window_none": changed("hello_window", own_window={"unit": "step", "length": 0}),
    "window_long": changed("hello_window", own_window={"unit": "epoch", "length": 10**6 + 1}),
    "window_unit": changed("hello_window", own_window={"unit": "auto", "length": 1}),
    "window_text": changed("hello_window", own_window="200 steps"),
    "after_odd": changed("epoch_end_reliable", after=[1, 0, 0]),
    "after_stack": changed("epoch_end_reliable", after=[2, 0, 0, 1]),
    "after_negative": changed("epoch_end_reliable", after=[1, 0, 0, -1]),
    "after_many": changed("epoch_end_reliable", after=4000 * [1, 65535, 1, 2**62]),
    "after_too_many": changed("epoch_end_reliable", after=4001 * [0]),
    "reliable_rows": changed("rows", reliable=True),
    "reliable_number": changed("bye", reliable=1),
    "bad_utf8": b"\x93\xa4\xff\xfe\xc3\x28\xa3\xed\xa0\x80\xa2\xe2\x82",
    "nul_in_key": b"\x82\xa2a\x00\xa3b\x00c\xa0\x01",
    "numbers": b"\x97\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xca\x7f\x80\x00\x00\xcf" + b"\xff" * 8 + b"\xd3\x80"
               + b"\x00" * 7 + b"\xd0\x80\xc2\xc3",
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (HERE / f"{name}.msgpack").write_bytes(content)
