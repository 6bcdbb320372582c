# SPDX-License-Identifier: MIT
"""The package's bytes and the golden bytes are the same bytes."""
import copy
import json
import pickle
import re

import msgpack
import numpy as np
import pytest

from attnd.base import wire
from attnd.sending.head_maps import HeadMaps
from attnd.sending.rows import PLACES
from conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"


def golden(name):
    return (GOLDEN / f"{name}.msgpack").read_bytes(), json.loads((GOLDEN / f"{name}.json").read_text())


def named(twin):
    return wire.NamedLayer(twin["stack"], twin["layer"], twin["site"], twin.get("module"))


ROWS = ("q_offset", "q_stride", "causal", "window", "q_len", "k_len", "head_offset", "heads_total", "dropout", "learned_sink", "sample", "sample_stride",
        "batch")
MAPS = ("map_queries", "map_keys", "first_query", "first_key", "sample", "batch")
KEYS = {"attention": ROWS, "qk": ("scale", "softcap", *ROWS),
        "rows": ("queries", "keys", "weights", "local_window", "microbatch", *(key for key in ROWS if key not in MAPS)),
        "weights": ("heads", "kv_heads", "head_dim", "parts", "heads_total")}


def own_keys(twin):
    """What the encoder of its type makes of a golden header."""
    if twin["type"] == "event":
        if twin["event"] == "log":
            return wire.log_keys(twin["values"])
        if twin["event"] == "hello":
            cost = {key: twin[key] for key in ("step_seconds", "capture_seconds", "own_every", "own_window") if key in twin}
            layers = [(named(x), x["heads"]) for x in twin["layers"]]
            return wire.hello_keys(layers, twin["client"], twin.get("settings"), cost=cost)
        return wire.event_keys({"event": twin["event"]}, twin.get("dropped_total", 0))
    tensors = [(t["name"], t["dtype"], t["shape"]) for t in twin["tensors"]]
    keys = {key: twin[key] for key in KEYS[twin["type"]] if key in twin}
    if twin["type"] == "rows":
        keys = {**keys, "columns": twin["sums"], "maps": {key: twin[key] for key in MAPS if key in twin}}
    return getattr(wire, f"{twin['type']}_keys")(named(twin), tensors, **keys)


@pytest.mark.parametrize("name", [
    "attention", "attention_full", "attention_documents", "attention_module", "attention_sample", "attention_batch", "qk", "qk_full", "weights",
    "weights_slice", "weights_part", "rows", "rows_weights", "epoch_end", "bye", "bye_dropped", "hello", "hello_modules", "hello_cost",
    "hello_window", "hello_settings", "log"])
def test_headers_encode_to_the_golden_bytes(name):
    payload, twin = golden(name)
    common = wire.common_keys(twin["type"], twin["job"], bytes.fromhex(twin["run"]), twin["rank"], twin["world"], twin["seq"],
                              twin["dropped"], twin["time_ns"], twin["epoch"], twin["step"])
    assert wire.pack_header({**common, **own_keys(twin)}) == payload


def test_places_are_those_of_attnd_in_its_order():
    known = re.findall(r"^    ROW_PLACE_(\w+), ", (ROOT / "proto" / "row_sum.h").read_text(), re.M)
    assert list(PLACES) == [name.lower() for name in known]


def test_maps_say_of_themselves_what_the_golden_header_says():
    maps = {key: value for key, value in golden("rows")[1].items() if key in ("q_offset", *MAPS)}
    said = HeadMaps(np.zeros((4, 3, 4), np.float16), **{key.replace("map_", ""): value for key, value in maps.items()}).keys_of_header()
    assert said == maps and list(said) == list(maps)


@pytest.mark.parametrize("window, unit, length", [
    ("epoch", "epoch", 1), ("2 epochs", "epoch", 2), ("200 steps", "step", 200), (200, "step", 200), ("30 seconds", "second", 30),
    ("1000000 steps", "step", 10**6)])
def test_a_window_is_said_in_words_or_as_steps(window, unit, length):
    assert wire.check_window(window) == {"unit": unit, "length": length}


@pytest.mark.parametrize("window", ["", "auto", "200", "0 steps", "200  steps", "epoch\n", "1000001 steps", "100 steps every 10", 0, -1,
                                    True, 1.5, 10**6 + 1, ["epoch"]])
def test_what_is_no_window_is_refused(window):
    with pytest.raises(ValueError, match="^window = .*: must be 'epoch', '200 steps', '30 seconds' or the like, or a number of steps, "
                                         "1 to 1000000$"):
        wire.check_window(window)


def test_a_named_layer_is_the_plain_tuple_to_those_who_know_no_modules():
    layer = wire.NamedLayer("encoder", 3, "self", "vision.layers.3.attn")
    assert layer == ("encoder", 3, "self") and hash(layer) == hash(("encoder", 3, "self"))
    assert {("encoder", 3, "self"): 1}[layer] == 1
    stack, number, site = layer
    assert (stack, number, site) == (layer.stack, layer.layer, layer.site) == layer[:3]
    assert pickle.loads(pickle.dumps(layer)).module == copy.deepcopy(layer).module == "vision.layers.3.attn"
    assert repr([layer]) == "[<encoder.3.self: vision.layers.3.attn>]"
    assert repr(wire.NamedLayer("encoder", 3, "self")) == "('encoder', 3, 'self')"


@pytest.mark.parametrize("path, module", [
    ("", None), ("blocks.0#1", "blocks.0#1"), ("modèle.0", "modèle.0"), ("a\x1b[2J\x9b\n\ud800", "a?[2J???"),
    ("m" * 256, "m" * 256), ("x" * 50 + "m" * 253, "..." + "m" * 253), ("é" * 200, "..." + "é" * 126)])
def test_paths_are_cleaned_for_the_header(path, module):
    assert wire.clean_module(path) == module
    assert module is None or wire.check_module(module) == module


@pytest.mark.parametrize("name", ["summary", "live", "live_bare", "job", "alert", "alert_run", "live_full",
                                  "live_weights", "summary_full"])
def test_golden_results_decode_to_their_twins(name):
    payload, twin = golden(name)
    assert_same(wire.decode_result(payload), twin)


def test_drift_is_arrays_over_the_heads():
    drift = wire.decode_result(golden("summary_full")[0])["drift"]
    assert set(drift["entropy"]) == {"delta", "shift", "js", "change"} and "js" not in drift["mean"]
    np.testing.assert_array_equal(drift["effective_keys"]["shift"], [-7.0, np.nan])
    assert drift["effective_keys"]["change"].dtype == np.float64


def assert_same(value, twin, path="result"):
    """A decoded result against its JSON twin: arrays against lists, NaN against null."""
    if isinstance(value, dict):
        assert list(value) == list(twin), path
        for key in value:
            assert_same(value[key], twin[key], f"{path}.{key}")
    elif isinstance(value, np.ndarray) and value.ndim == 2:
        assert len(value) == len(twin), path
        for i, row in enumerate(twin):
            assert_same(value[i, :len(row)], row, f"{path}[{i}]")
    elif isinstance(value, np.ndarray):
        assert value.dtype == (np.int64 if path.endswith("count") or ".count[" in path else np.float64), path
        expected = np.array([np.nan if x is None else x for x in twin], dtype=np.float64)
        np.testing.assert_array_equal(value.astype(np.float64), expected, err_msg=path)
    elif isinstance(value, float) and twin is None:
        assert np.isnan(value), path
    else:
        assert value == twin, path


def test_ragged_singular_values_are_padded_with_nan():
    result = wire.decode_result(golden("live")[0])
    values = result["spectrum"]["singular_values"]
    assert values.shape == (2, 3)
    np.testing.assert_array_equal(values[0], [1.0, 0.5, 0.25])
    assert np.isnan(values[1]).all()


def test_matrices_are_arrays_and_patterns_are_names():
    live, weights = (wire.decode_result(golden(name)[0]) for name in ("live_full", "live_weights"))
    assert live["similarity"]["head_js"].shape == (2, 2)
    assert live["similarity"]["redundant_pairs"] == [{"heads": [0, 1], "js": 0.03125}]
    assert live["heads"]["pattern"] == ["induction", None]
    assert live["spectrum"]["low_rank_error"].shape == (2, 5)
    assert weights["weights"]["wq"]["head_correlation"].shape == (2, 2)
    assert weights["weights"]["wq_wk"]["heads"]["singular_values"].shape == (2, 2)
    assert np.isnan(weights["weights"]["wk"]["head_correlation_mean"])
    nothing = wire.decode_result(msgpack.packb({"heads": {"pattern": [None, None]}}))
    assert nothing["heads"]["pattern"] == [None, None]


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x01", b"\x81\xa1a", b"\x80\x80",
                                     msgpack.packb({"a": msgpack.ExtType(5, b"x")})])
def test_what_is_no_result_is_a_value_error(payload):
    with pytest.raises(ValueError):
        wire.decode_result(payload)


@pytest.mark.parametrize("name", ["summary_full", "live_full", "alert", "job"])
def test_a_part_of_a_result_is_that_of_the_whole(name):
    payload = golden(name)[0]
    whole = wire.decode_result(payload)
    expected = {key: {"entropy": value["entropy"]} if key == "heads" else value for key, value in whole.items()
                if key == "heads" or key not in wire._LARGE}
    assert_same(wire.decode_heads(payload, ("entropy", "nothing")), expected)


@pytest.mark.parametrize("payload", [b"", b"\xc1", msgpack.packb([1]), golden("live")[0][:-3], msgpack.packb({"heads": 3})])
def test_a_part_of_what_is_no_result(payload):
    with pytest.raises(ValueError, match="^not a result"):
        wire.decode_heads(payload, ())


def test_topics():
    assert wire.tensor_topic("gpt", "decoder", 12, "self") == b"tensor/gpt/decoder/12/self/"
    assert wire.event_topic("gpt") == b"event/gpt/"


@pytest.mark.parametrize("name, job", [("org/model lr=3e-4", "org-model-lr-3e-4-7c0d3933"), ("实验一", "b77de1ec"), ("gpt_2.x-y", "gpt_2.x-y")])
def test_a_name_that_a_person_gives_becomes_that_of_a_job(name, job):
    assert wire.job_name(name) == job


def test_two_names_that_a_person_gives_never_become_one():
    names = ["实验一", "训练二", "опыт", "lr=1e+3", "lr=1e-3", "lr-1e-3", "a/b", "a b", "a//b", "a-b", "a\n", "a"]
    assert len({wire.job_name(name) for name in names}) == len(names)
    assert wire.job_name("e\u0301 1") == wire.job_name("\u00e9 1"), "the same letters"
    assert wire.check_job(wire.job_name("/" + 127 * "x")) and wire.check_job(wire.job_name("(" + 127 * "é"))


@pytest.mark.parametrize("check, about, values", [
    (wire.check_job, "job name", ["", "a/b", "a b", "x" * 129, "ä", "a\n", None]),
    (wire.job_name, "job name", ["", "x" * 129, None, 3]),
    (wire.check_module, "module", ["", "a\n", "m" * 257, 3, b"blocks.0"]),
    (lambda layer: wire.check_layer(*layer), "stack|layer|site", [
        ("middle", 0, "self"), ("decoder", -1, "self"), ("decoder", 65536, "self"), ("decoder", 0.5, "self"), ("decoder", 0, "both")]),
], ids=["jobs", "names of jobs", "modules", "layers"])
def test_what_no_header_can_carry_is_refused(check, about, values):
    for value in values:
        with pytest.raises(ValueError, match=about):
            check(value)
            pytest.fail(f"{value!r:.80} is taken")
