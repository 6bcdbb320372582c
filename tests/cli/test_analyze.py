# SPDX-License-Identifier: MIT
"""attnctl analyze as a user sees it: files that numpy and others write, what it says about them, and what it says
when it cannot. Numbers are compared with numbers_f64.py; the tolerances are those of workers/KERNELS.md for the
fast kernels: 1e-5 relative for sums, 1e-4 nats for entropies."""
import json
import os
import pathlib
import resource
import struct
import subprocess
import zipfile

import numpy as np
import pytest

import numbers_f64 as f64

ATTNCTL = os.environ["ATTNCTL"]
ENTROPIES = ("entropy", "entropy_normalized", "effective_keys", "entropy_sans_first")
B, H, T = 2, 4, 24


def run(*arguments, cwd=None):
    return subprocess.run([ATTNCTL, "analyze", *map(str, arguments)], capture_output=True, text=True, timeout=120,
                          cwd=cwd)


def no_such_number(text):
    raise AssertionError(f"{text} in the JSON")


def analyze(*arguments):
    """The layers."""
    done = run(*arguments, "--json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    answer = json.loads(done.stdout, parse_constant=no_such_number)
    assert set(answer) == {"schema", "layers"} and answer["schema"] == "attnd.analysis/1"
    return answer["layers"]


def refuse(*arguments, cwd=None):
    """The sentence on standard error, which is all there is."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode == 2 and done.stdout == "", done
    assert done.stderr.startswith("attnctl: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr[len("attnctl: "):-1]


def attend(seed, valid=None, shape=(B, H, T, T), sharpness=2.0):
    """Maps whose rows sum to 1 over the valid keys."""
    logits = sharpness * np.random.default_rng(seed).normal(size=shape)
    valid = np.ones(shape[:1] + shape[2:], bool) if valid is None else valid
    return f64.softmax(logits, valid[:, None])


def close(got, expected, name="", rtol=1e-5):
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        assert (g is None) == (e is None), (name, got, expected)
        bound = 1e-4 if name in ENTROPIES else 1e-7
        assert g is None or g == pytest.approx(e, rel=rtol, abs=bound), (name, got, expected)


def check_rows(layer, a, valid, positions=None):
    """The layer's row metrics, moments and counts against numpy."""
    for name, expected in {**f64.row_means(a, valid, positions), **f64.moments(a, valid)}.items():
        close(layer["heads"][name], expected, name, rtol=1e-4 if name in ("std", "variance") else 1e-5)
    assert layer["rows"] == a.shape[1] * int(valid.any(-1).sum())
    assert layer["invalid_rows"] == 0


def bf16(a):
    """float32 rounded to nearest bfloat16: its bytes, and its value."""
    bits = np.asarray(a, "<f4").view("<u4").astype("<u8")
    top = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return top, (top.astype("<u4") << 16).view("<f4")


def write_safetensors(path, arrays):
    """{name: (dtype, array)}; BF16 takes its raw u2."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in arrays.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def good(tmp_path):
    np.savez(tmp_path / "good.npz", arr_0=attend(26))
    return tmp_path / "good.npz"


# numbers


def test_every_group_of_a_causal_layer(tmp_path):
    valid = f64.valid_keys((B, H, T, T), causal=True)
    a = attend(1, valid).astype("<f4")
    np.savez(tmp_path / "x.npz", **{"decoder.3.self": a})
    weights = [0.5, 0.25, 0.125, 0.125]
    layer, = analyze(tmp_path / "x.npz", "--causal", "--head-weights", "0.5,0.25,0.125,0.125", "--top-pairs", 7)
    a = a.astype("f8")
    assert (layer["stack"], layer["layer"], layer["site"], layer["tier"]) == ("decoder", 3, "self", "attention")
    assert layer["shape"] == [B, H, T, T] and layer["causal"] is True
    assert layer["row_sum_error"] == pytest.approx(np.abs(a.sum(-1) - 1).max(), abs=1e-7)
    check_rows(layer, a, valid)
    close(layer["heads"]["importance"], f64.importance(a), "importance")
    for name, expected in f64.aggregate(a, weights).items():
        assert set(layer["aggregate"][name]) == {"mean", "max", "min", "std"}
        for stat, value in expected.items():
            assert layer["aggregate"][name][stat] == pytest.approx(value, rel=1e-5, abs=1e-7), (name, stat)
    pairs = [(p["query"], p["key"], p["weight"]) for p in layer["top_pairs"]]
    expected = f64.top_pairs(a, 7)
    assert [p[:2] for p in pairs] == [p[:2] for p in expected]
    close([p[2] for p in pairs], [p[2] for p in expected])
    assert np.allclose(layer["head_js"], f64.head_js(a, valid), atol=1e-5)
    assert np.allclose(layer["head_similarity"], f64.head_similarity(a, valid), atol=1e-5)
    assert layer["sink_rate"] == np.mean(np.array(layer["heads"]["first_token"]) > 0.3)
    assert len(layer["heads"]["pattern"]) == H
    spectrum = f64.spectrum(a[0], 2.0**-23)
    for name in ("spectral_norm", "stable_rank", "nuclear_norm", "effective_rank_entropy", "effective_rank", "rank"):
        close(layer["spectrum"][name], spectrum[name], name, rtol=1e-3)
    assert np.allclose(layer["spectrum"]["singular_values"], spectrum["singular_values"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["lengths", "q_k_lengths", "mask", "flat_mask", "window", "documents", "left_padding"])
def test_what_rows_may_attend_to(tmp_path, kind):
    shape = (B, H, T, T)
    random = np.random.default_rng(7)
    arrays, options, limits = {}, [], {}
    if kind == "lengths":
        limits = {"q_len": [T, 9], "k_len": [T, 9]}
        options = ["--lengths", f"{T},9"]
    elif kind == "q_k_lengths":
        limits = {"q_len": [5, T], "k_len": [11, 9]}
        options = ["--q-lengths", f"5,{T}", "--lengths", "11,9"]
    elif kind == "mask":
        limits = {"mask": random.random((B, T, T)) < 0.7}
        arrays["decoder.0.self.mask"] = limits["mask"]
    elif kind == "flat_mask":
        limits = {"mask": random.random((T, T)) < 0.7, "causal": True}
        arrays["mask"], options = limits["mask"].astype("i8"), ["--causal"]
    elif kind == "window":
        limits, options = {"causal": True, "window": 5}, ["--causal", "--window", "5"]
    elif kind == "documents":
        limits = {"causal": True, "documents": np.sort(random.integers(0, 4, (B, T)))}
        arrays["decoder.0.self.documents"], options = limits["documents"], ["--causal"]
    elif kind == "left_padding":
        limits = {"mask": np.broadcast_to(np.arange(T) >= 6, (B, 1, T)) & (np.arange(T) >= 6)[None, :, None]}
        arrays["decoder.0.self.mask"] = limits["mask"][:, None]
    valid = f64.valid_keys(shape, **limits)
    a = attend(2, valid)
    a[~np.broadcast_to(valid[:, None], shape)] = np.nan if kind == "lengths" else 0
    np.savez_compressed(tmp_path / "x.npz", **{"decoder.0.self": a, **arrays})
    layer, = analyze(tmp_path / "x.npz", *options, "--groups", "core")
    positions = np.minimum(limits.get("q_len", [T, T]), limits.get("k_len", [T, T]))
    check_rows(layer, np.nan_to_num(a), valid, positions)


@pytest.mark.parametrize("site", ["self", "cross"])
@pytest.mark.parametrize("name", ["mask", "attention_mask"])
def test_a_mask_of_tokens_and_padding(tmp_path, site, name):
    """Left padding, as Hugging Face's tokenizers do for generation, and a hole."""
    tokens = np.array([[1] * T, [0] * 5 + [1] * 7 + [0] + [1] * (T - 13)])
    valid = np.broadcast_to(tokens[:, None, :], (B, T, T)).astype(bool)
    if site == "self":
        valid = valid & (tokens[:, :, None] == 1) & np.tri(T, dtype=bool)
    a = attend(34, valid)
    np.savez(tmp_path / "x.npz", **{f"decoder.0.{site}": a, f"decoder.0.{site}.{name}": tokens})
    layer, = analyze(tmp_path / "x.npz", "--groups", "core", *["--causal"] * (site == "self"))
    assert layer["rows"] == H * int(valid.any(-1).sum()) and layer["invalid_rows"] == 0
    if site == "self":
        check_rows(layer, a, valid)
    close(layer["heads"]["confidence"], f64.row_means(a, valid, None)["confidence"])
    close(layer["heads"]["entropy"], f64.row_means(a, valid, None)["entropy"], "entropy")


def test_hugging_faces_names_are_of_all_layers(tmp_path):
    ids = np.array([[5, 6, 5, 6], [7, 7, 7, 0], [1, 2, 3, 4], [9, 9, 0, 0]])
    attention_mask = (ids > 0).astype("i8")  # 4 samples of 4 tokens: by its shape it might be [Tq,Tk]
    valid = (attention_mask[:, None, :] & attention_mask[:, :, None]).astype(bool)
    a = attend(35, valid, shape=(4, 1, 4, 4))
    np.savez(tmp_path / "x.npz", a, a, attention_mask=attention_mask, input_ids=ids)
    np.savez(tmp_path / "y.npz", a, a, **{"decoder.0.self.mask": valid, "decoder.1.self.mask": valid, "tokens": ids})
    layers = analyze(tmp_path / "x.npz")
    assert layers == analyze(tmp_path / "y.npz")
    for layer in layers:
        assert layer["rows"] == 4 + 3 + 4 + 2 and layer["heads"]["duplicate_token"][0] is not None
        check_rows(layer, a, valid)
    np.savez(tmp_path / "x.npz", attend(42), attention_mask=np.ones((B, T), int))
    np.savez(tmp_path / "y.npz", attend(42))
    assert analyze(tmp_path / "x.npz") == analyze(tmp_path / "y.npz")
    np.savez(tmp_path / "z.npz", a, mask=attention_mask)  # this one is [Tq,Tk]
    assert analyze(tmp_path / "z.npz", "--dropout")[0]["rows"] == 4 * 4


def test_padding_of_queries_that_are_behind_the_first_key(tmp_path):
    """With a cache: query i stands at position q_offset + i."""
    valid = np.tri(2, 6, 4, dtype=bool)[None] & np.array([1, 1, 0, 1, 0, 1], bool)
    valid[0, 0] = False  # query 0 is key 4: padding
    a = attend(36, valid, shape=(1, 2, 2, 6))
    np.savez(tmp_path / "x.npz", a, attention_mask=np.array([[1, 1, 0, 1, 0, 1]]))
    layer, = analyze(tmp_path / "x.npz", "--causal", "--q-offset", 4, "--groups", "core")
    assert layer["rows"] == 2 and layer["invalid_rows"] == 0
    close(layer["heads"]["confidence"], a[0, :, 1].max(-1))


def test_lengths_have_one_number_per_sample_and_layers_their_own_mask(tmp_path):
    valid = f64.valid_keys((B, H, T, T), mask=np.tri(T, T, 3, bool))
    other = f64.valid_keys((B, H, T, T), mask=np.tri(T, T, -1, bool))
    np.savez(tmp_path / "x.npz", attentions_0=attend(3, valid), attentions_1=attend(4, other),
             mask=np.tri(T, T, 3, bool), **{"decoder.1.self.mask": np.tri(T, T, -1, bool)})
    first, second = analyze(tmp_path / "x.npz", "--groups", "core")
    check_rows(first, attend(3, valid), valid)
    check_rows(second, attend(4, other), other)


def test_dtypes(tmp_path):
    a = attend(5)
    raw, value = bf16(a)
    np.savez(tmp_path / "x.npz", arr_0=a.astype("f4"), arr_1=a, arr_2=a.astype("f2"), arr_3=raw.view("V2"))
    write_safetensors(tmp_path / "y.safetensors", {"attentions.4": ("F32", a.astype("f4")), "attentions.5": ("F64", a),
                                                   "attentions.6": ("F16", a.astype("f2")), "attentions.7": ("BF16", raw)})
    layers = analyze(tmp_path / "y.safetensors", tmp_path / "x.npz", "--groups", "core")
    sent = [a.astype("f4"), a, a.astype("f2"), value] * 2
    valid = f64.valid_keys(a.shape)
    assert [layer["layer"] for layer in layers] == list(range(8))
    for layer, array in zip(layers, sent):
        check_rows(layer, array.astype("f8"), valid)


@pytest.mark.parametrize("layout", ["C", "F", "transposed"])
def test_npy_in_any_order_of_its_axes(tmp_path, layout):
    a = attend(6, shape=(3, 2, 7, 7))
    stored = {"C": a, "F": np.asfortranarray(a), "transposed": np.ascontiguousarray(a.T).T}[layout]
    np.save(tmp_path / "encoder.2.self.npy", stored)
    layer, = analyze(tmp_path / "encoder.2.self.npy", "--groups", "core")
    assert layer["shape"] == [3, 2, 7, 7] and layer["stack"] == "encoder"
    check_rows(layer, a, f64.valid_keys(a.shape))


def test_three_axes_are_a_batch_of_one(tmp_path):
    a = attend(8)
    np.save(tmp_path / "decoder.0.self.npy", a[0])
    layer, = analyze(tmp_path / "decoder.0.self.npy", "--groups", "core")
    assert layer["shape"] == [1, H, T, T]
    check_rows(layer, a[:1], f64.valid_keys((1, H, T, T)))


def test_layers_are_in_order(tmp_path):
    a = attend(9, shape=(1, 1, 4, 4))
    names = ["decoder.10.self", "encoder.1.self", "decoder.2.cross", "decoder.2.self", "encoder.0.self"]
    np.savez(tmp_path / "x.npz", **{name: a for name in names})
    layers = analyze(tmp_path / "x.npz")
    assert [f"{x['stack']}.{x['layer']}.{x['site']}" for x in layers] == [
        "encoder.0.self", "encoder.1.self", "decoder.2.self", "decoder.2.cross", "decoder.10.self"]


def test_causal_is_of_the_decoders_self_attention(tmp_path):
    a = attend(9, shape=(1, 1, 4, 4))
    np.savez(tmp_path / "x.npz", **{name: a for name in ["encoder.0.self", "decoder.0.self", "decoder.0.cross"]})
    assert [layer["causal"] for layer in analyze(tmp_path / "x.npz", "--causal")] == [False, True, False]
    np.savez(tmp_path / "y.npz", **{"encoder.0.self": a})
    assert [layer["causal"] for layer in analyze(tmp_path / "y.npz", "--causal")] == [True]


def test_cross_attention_has_no_diagonal(tmp_path):
    a = attend(10, shape=(B, H, 5, 9))
    np.savez(tmp_path / "x.npz", cross_attentions_0=a)
    layer, = analyze(tmp_path / "x.npz")
    assert layer["site"] == "cross" and layer["shape"] == [B, H, 5, 9]
    assert all(value is None for value in layer["heads"]["diagonal"])
    close(layer["heads"]["confidence"], a.max(-1).mean((0, 2)))


def test_what_is_shared_is_not_of_cross_attention(tmp_path):
    a, mask = attend(10, shape=(1, 1, 4, 4)), np.tri(4, dtype=bool)
    np.savez(tmp_path / "x.npz", **{"decoder.0.self": np.tri(4)[None, None] / 4, "decoder.0.cross": a, "mask": mask})
    own, cross = analyze(tmp_path / "x.npz", "--learned-sink")
    assert own["heads"]["mean"] == [0.25] and cross["heads"]["mean"] == [pytest.approx(0.25)]


def test_induction_needs_tokens(tmp_path):
    tokens = np.array([[1, 2, 3, 1, 2, 3]], "<u2")
    a = np.zeros((1, 1, 6, 6))
    a[0, 0, [0, 1, 2], 0] = 1
    a[0, 0, [3, 4, 5], [1, 2, 3]] = 1  # behind the earlier occurrence
    np.savez(tmp_path / "x.npz", arr_0=a, tokens=tokens)
    layer, = analyze(tmp_path / "x.npz", "--causal")
    assert layer["heads"]["induction"] == [1.0] and layer["heads"]["duplicate_token"] == [0.0]
    np.savez(tmp_path / "y.npz", arr_0=a)
    layer, = analyze(tmp_path / "y.npz", "--causal")
    assert layer["heads"].get("induction") in (None, [None])


def test_importance_by_gradients(tmp_path):
    a, grad = attend(11), np.random.default_rng(12).normal(size=(B, H, T, T))
    np.savez(tmp_path / "x.npz", **{"decoder.0.self": a, "decoder.0.self.grad": grad})
    layer, = analyze(tmp_path / "x.npz")
    score = np.abs(a * grad).sum((0, 2, 3))
    close(layer["heads"]["importance_gradient"], score / np.linalg.norm(score))


@pytest.mark.parametrize("dtype", ["<f8", "<f4"])
def test_what_the_output_is_judged_by(tmp_path, dtype):
    """Beside weights, and beside queries and keys, whose gradient is that of the output."""
    random = np.random.default_rng(14)
    q, k, v, dout = (random.normal(size=(B, heads, T, d)).astype(dtype) for heads, d in ((H, 8), (2, 8), (2, 5), (H, 5)))
    wo_r, x_norm = random.normal(size=(H, 3, 5)).astype(dtype), np.abs(random.normal(size=(B, T))).astype(dtype)
    a = f64.softmax(np.einsum("bhid,bhjd->bhij", q, np.repeat(k, 2, 1)).astype(float) / np.sqrt(8), np.ones((T, T), bool))
    beside = {"v": v, "wo_r": wo_r, "x_norm": x_norm}
    np.savez(tmp_path / "x.npz", **{"decoder.0.self": a.astype(dtype), "decoder.1.self.q": q, "decoder.1.self.k": k,
                                    "decoder.1.self.dout": dout,
                                    **{f"decoder.{i}.self.{name}": x for name, x in beside.items() for i in (0, 1)}})
    weights, qk = (layer["heads"] for layer in analyze(tmp_path / "x.npz"))
    values = np.repeat(v, 2, 1).astype(float)
    written = np.linalg.norm(np.einsum("hrd,bhid->bhir", wo_r, a @ values), axis=-1)
    share = a * np.linalg.norm(values, axis=-1)[:, :, None]
    share = share / share.sum(-1, keepdims=True)
    score = np.abs(a * np.einsum("bhid,bhjd->bhij", dout, values)).sum((0, 2, 3))
    for heads in (weights, qk):
        close(heads["output_norm"], np.linalg.norm(a @ values, axis=-1).mean((0, 2)))
        close(heads["write_norm"], written.mean((0, 2)))
        close(heads["residual_share"], (written / x_norm[:, None]).mean((0, 2)))
        assert heads["norm_weighted_entropy"] == pytest.approx(-(share * np.log(share)).sum(-1).mean((0, 2)), abs=1e-4)
    close(qk["importance_gradient"], score / np.linalg.norm(score))
    assert weights.get("importance_gradient") is None


def test_queries_and_keys_give_what_their_weights_give(tmp_path):
    random = np.random.default_rng(13)
    q, k, v = random.normal(size=(B, H, T, 8)), random.normal(size=(B, 2, T, 8)), random.normal(size=(B, 2, T, 8))
    valid = f64.valid_keys((B, H, T, T), causal=True)
    a = f64.softmax(np.einsum("bhid,bhjd->bhij", q, np.repeat(k, 2, 1)) / np.sqrt(8), valid[:, None])
    arrays = {"decoder.0.self.q": q, "decoder.0.self.k": k, "decoder.0.self.v": v, "decoder.0.self": a}
    np.savez(tmp_path / "x.npz", **arrays)
    weights, qk = analyze(tmp_path / "x.npz", "--causal")
    assert (weights["tier"], qk["tier"], qk["shape"]) == ("attention", "qk", [B, H, T, T])
    check_rows(qk, a, valid)
    check_rows(weights, a, valid)
    logits = np.where(valid[:, None], np.einsum("bhid,bhjd->bhij", q, np.repeat(k, 2, 1)) / np.sqrt(8), -np.inf)
    close(qk["heads"]["max_logit"], logits.max(-1).mean((0, 2)))
    output = np.linalg.norm(np.einsum("bhij,bhjd->bhid", a, np.repeat(v, 2, 1)), axis=-1)
    close(qk["heads"]["output_norm"], output.mean((0, 2)))
    close(qk["heads"]["q_norm"], np.linalg.norm(q, axis=-1).mean((0, 2)))
    close(weights["heads"]["output_norm"], output.mean((0, 2)))  # the values are beside either
    scaled, = analyze(tmp_path / "x.npz", "--causal", "--scale", 0.125, "--ignore", "decoder.0.self")
    close(scaled["heads"]["max_logit"], (logits * np.sqrt(8) / 8).max(-1).mean((0, 2)))


def test_projections(tmp_path):
    random = np.random.default_rng(14)
    wq, wk, wv, wo = (random.normal(size=s).astype("<f4") for s in ((32, 24), (16, 24), (16, 24), (24, 32)))
    write_safetensors(tmp_path / "x.safetensors", {"l.0.q.weight": ("F32", wq), "l.0.k.weight": ("F32", wk),
                                                   "l.0.v.weight": ("F32", wv), "l.0.o.weight": ("F32", wo),
                                                   "embeddings": ("F32", wq)})
    names = [option for part in "qkvo" for option in ("--name", f"l.{{layer}}.{part}.weight=weights.{{layer}}.w{part}")]
    layer, = analyze(tmp_path / "x.safetensors", "--heads", 4, *names, "--ignore", "embed*")
    assert layer["tier"] == "weights" and layer["shape"] is None
    assert list(layer["weights"]) == ["wq", "wk", "wv", "wo", "wq_wk", "wv_wo"]
    for name, matrix in (("wq", wq), ("wk", wk), ("wo", wo)):
        assert layer["weights"][name]["whole"]["spectral_norm"] == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-4)
    heads = layer["weights"]["wq"]["heads"]["spectral_norm"]
    close(heads, [np.linalg.norm(wq[8 * h:8 * h + 8], 2) for h in range(4)], rtol=1e-4)
    circuit = [np.linalg.norm(wo[:, 8 * h:8 * h + 8] @ wv[8 * (h // 2):8 * (h // 2) + 8], 2) for h in range(4)]
    close(layer["weights"]["wv_wo"]["heads"]["spectral_norm"], circuit, rtol=1e-4)


def test_groups_that_are_off_leave_nothing(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=attend(15))
    layer, = analyze(tmp_path / "x.npz", "--groups", "core")
    for key in ("top_pairs", "head_similarity", "head_js", "redundant_pairs", "spectrum"):
        assert key not in layer
    assert "importance" not in layer["heads"] and "entropy" in layer["heads"]
    layer, = analyze(tmp_path / "x.npz", "--groups", "pairs", "--head-pairs", "--top-pairs", 3)
    assert len(layer["top_pairs"]) == 3 and [len(p) for p in layer["head_top_pairs"]] == [3] * H
    layer, = analyze(tmp_path / "x.npz", "--groups", "none")
    assert layer["rows"] == B * H * T


def test_threads_and_instruction_sets_agree(tmp_path):
    a = attend(16, shape=(2, 3, 96, 96)).astype("<f4")
    np.savez(tmp_path / "x.npz", arr_0=a)
    one, two, scalar = (analyze(tmp_path / "x.npz", *options)[0]
                        for options in (["--threads", 1], ["--threads", 2], ["--threads", 2, "--isa", "scalar"]))
    assert one == two
    for name, values in scalar["heads"].items():
        if name != "pattern":
            close(values, one["heads"][name], name, rtol=1e-4)


def test_unsound_rows_are_counted_and_numbers_that_do_not_exist_are_null(tmp_path):
    a = attend(17)
    a[0, 0, 3] = np.nan
    a[0, 1, 4, 5] = np.inf
    a[1, 2, 6, 7] = -0.5
    a[1, 3] *= 1.1
    np.savez(tmp_path / "x.npz", arr_0=a, arr_1=np.full((1, 1, 4, 4), np.nan))
    first, second = analyze(tmp_path / "x.npz")
    assert first["invalid_rows"] == 3 + T and first["rows"] == B * H * T - 3 - T
    assert first["row_sum_error"] >= 0.0999
    assert second["rows"] == 0 and second["invalid_rows"] == 4 and second["row_sum_error"] is None
    assert second["heads"]["entropy"] == [None] and second["heads"]["pattern"] == [None]
    assert second["spectrum"]["spectral_norm"] == [None]


def test_eigenvalues_of_large_maps_are_for_who_asks(tmp_path):
    np.savez(tmp_path / "x.npz", attend(41, shape=(1, 1, 160, 160)))
    values = [analyze(tmp_path / "x.npz", "--groups", "spectrum", *options)[0]["spectrum"]
              for options in ([], ["--spectrum", "full"], ["--spectrum", "eigenvalues"])]
    moduli = np.sort(np.abs(np.linalg.eigvals(attend(41, shape=(1, 1, 160, 160))[0, 0])))
    assert values[0] == values[1] and values[0]["eigenvalue_2"] == [None] and values[0]["rank"] == [160]
    close(values[2]["eigenvalue_2"], moduli[-2:-1], rtol=1e-3)


def test_the_smallest_map(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=np.ones((1, 1, 1, 1), "<f4"))
    layer, = analyze(tmp_path / "x.npz", "--causal")
    assert layer["heads"]["entropy"] == [pytest.approx(0, abs=1e-4)] and layer["heads"]["entropy_normalized"] == [None]
    assert layer["heads"]["std"] == [None] and layer["spectrum"]["spectral_norm"] == [pytest.approx(1)]


def test_dropout_and_learned_sink_are_believed(tmp_path):
    a = attend(18)
    np.savez(tmp_path / "x.npz", arr_0=a * 0.8)
    assert analyze(tmp_path / "x.npz")[0]["rows"] == 0
    assert analyze(tmp_path / "x.npz", "--dropout")[0]["invalid_rows"] == 0
    layer, = analyze(tmp_path / "x.npz", "--learned-sink")
    assert layer["invalid_rows"] == 0
    close(layer["heads"]["sink_deficit"], [0.2] * H)


# what is empty


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (2, 0, 3, 3), (2, 2, 0, 3), (2, 2, 3, 0), (0, 0, 0, 0)])
def test_an_empty_map_is_refused(tmp_path, shape):
    np.savez(tmp_path / "x.npz", **{"decoder.0.self": np.zeros(shape), "decoder.1.self": attend(33)})
    assert refuse(tmp_path / "x.npz") == (
        f"decoder.0.self is empty: its shape is {list(shape)}; --ignore leaves arrays out")
    assert analyze(tmp_path / "x.npz", "--ignore", "decoder.0.*")[0]["rows"] == B * H * T


# statistics


def test_statistics_are_over_all_entries_as_sent(tmp_path):
    random = np.random.default_rng(19)
    maps = {"encoder.1.self": attend(20).astype("<f4"), "encoder.0.self": attend(21), "decoder.0.cross": attend(22),
            "decoder.0.self": attend(23)[0].astype("<f2"), "decoder.5.self": 1e3 + 1e-6 * random.random((1, 1, 64, 64))}
    maps["encoder.0.self"][0, 0, 0, :2] = np.nan, np.inf
    np.savez(tmp_path / "x.npz", **maps)
    done = run(tmp_path / "x.npz", "--statistics", "--causal")
    assert done.returncode == 0 and done.stderr == ""
    answer = json.loads(done.stdout, parse_constant=no_such_number)
    assert list(answer) == ["encoder", "decoder"]
    assert [(x["layer"], x["type"]) for x in answer["decoder"]] == [
        (0, "self_attention"), (0, "cross_attention"), (5, "self_attention")]
    expected = [maps[name] for name in sorted(maps) if name.startswith("encoder")]
    expected += [maps["decoder.0.self"], maps["decoder.0.cross"], maps["decoder.5.self"]]
    for layer, a in zip(answer["encoder"] + answer["decoder"], expected):
        x = a.astype("f8")[np.isfinite(a)]
        assert list(layer) == ["layer", "type", "mean", "std", "min", "max", "shape"]
        assert layer["shape"] == list(a.shape)
        assert layer["mean"] == pytest.approx(x.mean(), rel=1e-14) and layer["std"] == pytest.approx(x.std(ddof=1), rel=1e-9)
        assert (layer["min"], layer["max"]) == (x.min(), x.max())


def test_statistics_have_no_more_digits_than_they_need(tmp_path):
    a = np.full((1, 1, 2, 2), 0.1)
    a[0, 0, 0] = 1 / 3, 1e-300
    np.savez(tmp_path / "x.npz", a, attend(40))
    numbers = []
    json.loads(run(tmp_path / "x.npz", "--statistics").stdout, parse_float=numbers.append)
    assert len(numbers) == 8 and {"0.3333333333333333", "1e-300"} <= set(numbers)
    assert all(len(number) <= len(repr(float(number))) for number in numbers)


def test_statistics_of_nothing_are_null(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=np.full((1, 1, 2, 2), np.nan), arr_1=np.ones((1, 1, 1, 1)))
    first, second = json.loads(run(tmp_path / "x.npz", "--statistics").stdout)["decoder"]
    assert [first[key] for key in ("mean", "std", "min", "max")] == [None] * 4
    assert (second["mean"], second["std"]) == (1.0, None)


def test_statistics_need_weights(tmp_path):
    np.savez(tmp_path / "x.npz", **{"decoder.0.self.q": np.ones((1, 2, 3, 4)), "decoder.0.self.k": np.ones((1, 2, 3, 4))})
    assert refuse(tmp_path / "x.npz", "--statistics").startswith("--statistics is of attention weights")


# the table


def test_the_table_fits_80_columns(tmp_path):
    np.savez(tmp_path / "x.npz", **{"decoder.0.self": np.tril(attend(24)), "decoder.0.self.q": np.ones((1, 12, 9, 4)),
                                    "decoder.0.self.k": np.ones((1, 12, 9, 4)), "weights.1.wq": np.eye(8)})
    done = run(tmp_path / "x.npz", "--heads", 2, "--causal")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("decoder.0.self  attention  [2, 4, 24, 24]  causal")
    assert lines[1] == "183 of 192 rows left out: not finite, negative, or the sum is off (by up to 1)"
    assert lines[2] == "the sums over visible keys are not 1: is this causal?"
    assert lines[3].split()[:3] == ["HEAD", "ENTROPY", "KEYS"]
    assert [line.split()[0] for line in lines[4:8]] == ["0", "1", "2", "3"]
    assert "decoder.1.self  weights" in lines
    assert max(map(len, lines)) <= 80


def test_the_table_says_why_rows_were_left_out_and_never_nan(tmp_path):
    negative = attend(37)
    negative[0, 0, 0, :2] += -0.5, 0.5
    np.savez(tmp_path / "x.npz", np.full((1, 1, 4, 4), np.nan), attend(38) * 0.8, negative)
    text = run(tmp_path / "x.npz").stdout
    first, second, third = text.split("\n\n")
    assert first.splitlines()[1:] == ["4 of 4 rows left out: not finite, or negative"]
    assert second.splitlines()[1:3] == [
        "192 of 192 rows left out: not finite, negative, or the sum is off (by up to 0.2)",
        "the sums over visible keys are not 1: --dropout? --learned-sink? a mask?"]
    assert third.splitlines()[1] == "1 of 192 rows left out: not finite, or negative"
    assert third.splitlines()[2].startswith("HEAD ") and "nan" not in text


def test_the_table_names_heads_that_are_alike(tmp_path):
    a = attend(39, shape=(B, 6, T, T))
    np.savez(tmp_path / "x.npz", a, np.concatenate([a, a[:, ::-1]], 1))
    js = f64.head_js(a, f64.valid_keys(a.shape))
    nearest = sorted((js[i, j], i, j) for i in range(6) for j in range(i))[:5]
    text = run(tmp_path / "x.npz", "--groups", "similarity").stdout
    first, second = text.split("\n\n")
    assert first.splitlines()[-1] == "most alike  " + "  ".join(f"h{j}~h{i} {d:.4f}" for d, i, j in nearest)
    assert second.splitlines()[-1].startswith("redundant  h") and second.endswith("  and 1 more\n")
    same = second.splitlines()[-1].removeprefix("redundant  ").removesuffix("  and 1 more").split("  ")
    assert set(same) < {f"h{h}=h{11 - h} 0.0000" for h in range(6)} and len(same) == 5
    assert "alike" not in run(tmp_path / "x.npz", "--groups", "core").stdout


def test_the_table_of_a_matrix_that_is_short_of_rank(tmp_path):
    np.savez(tmp_path / "x.npz", **{"weights.0.wq": np.ones((8, 8)), "weights.0.wk": np.eye(8),
                                    "weights.0.wv": np.full((8, 8), np.nan)})
    lines = [line.split() for line in run(tmp_path / "x.npz", "--heads", 2).stdout.splitlines()]
    assert lines[2] == ["wq", "8.000", "1.000", "1.000", "inf", "1.000"]
    assert lines[3] == ["wk", "1.000", "8.000", "8.000", "0.000", "0.000"]
    assert lines[4] == ["wv", "-", "-", "-", "-", "-"]


def test_the_command_may_stand_behind_options(tmp_path):
    np.savez(tmp_path / "x.npz", arr_0=attend(25))
    done = subprocess.run([ATTNCTL, "--json", "analyze", "--causal", str(tmp_path / "x.npz")], capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["layers"][0]["causal"] is True


def test_help_shows_names_formats_and_examples():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("<stack>.<layer>.<site>", ".safetensors", "--name", "weights.<layer>.wq", "np.savez", "examples:"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    listed = subprocess.run([ATTNCTL, "--help"], capture_output=True, text=True)
    assert "analyze" in listed.stdout


# what the exit status says


def run_within(megabytes, *arguments):
    """With no more address space than that."""
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run([ATTNCTL, *map(str, arguments)], capture_output=True, text=True, preexec_fn=limit,
                          env=environment, timeout=120)


def test_a_shortage_of_memory_is_no_mistake_of_the_user(tmp_path):
    if run_within(400, "--version").returncode != 0:
        pytest.skip("the program does not start with 400 MB (a sanitizer's does not)")
    np.savez_compressed(tmp_path / "reader.npz", arr_0=np.zeros((1, 8, 4096, 4096), "<f4"))
    np.savez(tmp_path / "engine.npz", arr_0=np.ones((1, 20000, 1, 1), "<f4"))
    for name, says in (("reader", "out of memory: arr_0 takes 536870912 bytes"), ("engine", "out of memory")):
        done = run_within(400, "analyze", tmp_path / f"{name}.npz")
        assert (done.returncode, done.stdout) == (1, "") and done.stderr.endswith(f"{says}\n"), done


def test_output_that_cannot_be_written(good):
    for options in ([], ["--json"], ["--statistics"], ["--help"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run([ATTNCTL, "analyze", good, *options], stdout=full, stderr=subprocess.PIPE, text=True)
        assert (done.returncode, done.stderr) == (1, "attnctl: cannot write the output\n")


# what cannot be followed


@pytest.mark.parametrize("option, text, says", [
    ("lengths", "3,x", "valid: numbers such as 12,9,16, one per sample"),
    ("lengths", "3,", "valid: numbers such as 12,9,16, one per sample"),
    ("lengths", "-3,4", "valid: numbers such as 12,9,16, one per sample"),
    ("lengths", "99999999999,4", "valid: numbers such as 12,9,16, one per sample"),
    ("head-weights", "1,nan,1,1", "valid: numbers such as 0.5,0.25,0.25, one per head"),
    ("window", "0", "valid: 1 to 2147483647"),
    ("window", "1.5", "valid: 1 to 2147483647"),
    ("top-pairs", "101", "valid: 1 to 100"),
    ("scale", "inf", "valid: a number from -1e+30 to 1e+30"),
    ("softcap", "-1", "valid: a number from 0 to 1e+30"),
    ("groups", "core,spectra", "valid: core, importance, pairs, similarity, spectrum, all, none, with commas"),
    ("spectrum", "half", "valid: full, eigenvalues, leading, norm"),
    ("stack", "both", "valid: encoder, decoder"),
    ("threads", "0", "valid: 1 to 256"),
    ("name", "probs", "not PATTERN=TARGET, such as 'h.{layer}.attn=decoder.{layer}.self'"),
])
def test_bad_values_are_named(good, option, text, says):
    reason = f"not accepted ({says})" if says.startswith("valid: ") else says
    assert refuse(good, f"--{option}", text) == f"--{option}: '{text}': {reason}"


def test_bad_command_lines(good):
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "attnctl: FILE is missing; usage: attnctl analyze FILE... [OPTIONS]\n")
    assert refuse(good, "--cuasal") == "no option --cuasal: did you mean --causal? (see attnctl analyze --help)"
    assert refuse(good, "--frobnicate") == "no option --frobnicate (see attnctl analyze --help)"
    assert refuse(good, "--lengths") == "--lengths needs a value (see attnctl analyze --help)"
    assert refuse(good, "--lengths", "3") == "decoder.0.self: --lengths: 1 numbers for 2 samples"
    assert refuse(good, "--lengths", "3,25") == "decoder.0.self: --lengths: 25 is more than the 24 queries"
    assert refuse(good, "--k-lengths", "3,25") == "decoder.0.self: --k-lengths: 25 is more than the 24 keys"
    assert refuse(good, "--head-weights", "1,2") == "decoder.0.self: --head-weights: not one number per head"


def test_standard_input_is_a_file(good):
    with open(good, "rb") as file:
        done = subprocess.run(f"cat | {ATTNCTL} analyze - --json", shell=True, stdin=file, capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout)["layers"] == analyze(good)


def test_files_that_cannot_be_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "empty.npy").touch()
    assert refuse("none.npz", cwd=tmp_path) == "none.npz: No such file or directory"
    assert refuse(".", cwd=tmp_path) == ".: is a directory"
    assert refuse("pipe.npy", cwd=tmp_path) == "pipe.npy: is not a regular file"
    assert refuse("empty.npy", cwd=tmp_path) == "empty.npy: the file is empty"
    if os.geteuid() != 0:
        (tmp_path / "secret.npy").touch(0)
        assert refuse("secret.npy", cwd=tmp_path) == "secret.npy: Permission denied"


@pytest.mark.parametrize("writer", ["npy", "npz", "npz_compressed", "safetensors"])
def test_a_file_cut_short_or_damaged_anywhere_is_refused_or_right(tmp_path, writer):
    a = attend(27, shape=(1, 2, 6, 6))
    path = tmp_path / {"npy": "decoder.0.self.npy", "safetensors": "x.safetensors"}.get(writer, "x.npz")
    if writer == "npy":
        np.save(path, a)
    elif writer == "safetensors":
        write_safetensors(path, {"decoder.0.self": ("F64", a)})
    else:
        {"npz": np.savez, "npz_compressed": np.savez_compressed}[writer](path, arr_0=a)
    whole = path.read_bytes()
    assert run(path).returncode == 0
    for cut in [*range(0, len(whole), max(1, len(whole) // 25)), len(whole) - 1]:
        path.write_bytes(whole[:cut])
        refuse(path)
    for at in range(0, min(len(whole), 120), 5):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xA5]) + whole[at + 1:])
        done = run(path)
        assert done.returncode in (0, 2) and (done.returncode == 0 or done.stdout == ""), (at, done)
    path.write_bytes(whole + b"\0")
    if not writer.startswith("npz"):  # a zip archive may have a comment behind it
        refuse(path)


@pytest.mark.parametrize("side, name", [(4, "arr_1.npy"), (64, "arr_1")])  # read with its header, and read apart
def test_damage_in_the_last_layer_leaves_no_result_of_the_first(tmp_path, side, name):
    last = np.full((1, 1, side, side), 1 / side)
    np.savez(tmp_path / "x.npz", arr_0=attend(28), arr_1=last)
    content = (tmp_path / "x.npz").read_bytes()
    assert content.count(last.tobytes()) == 1
    (tmp_path / "x.npz").write_bytes(content.replace(last.tobytes(), last.tobytes()[:-1] + b"\x3e"))
    assert refuse("x.npz", cwd=tmp_path) == f"x.npz: {name}: corrupt: CRC error"
    assert refuse("x.npz", "--json", cwd=tmp_path) == f"x.npz: {name}: corrupt: CRC error"


def test_files_that_are_something_else(tmp_path):
    (tmp_path / "notes.txt").write_text("attention is all you need\n")
    assert refuse("notes.txt", cwd=tmp_path) == "notes.txt: not a .npy, .npz or .safetensors file"
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    assert refuse("model.pt", cwd=tmp_path).startswith("model.pt: its entry archive/data.pkl is not a .npy array")
    np.savez(tmp_path / "nothing.npz")
    assert refuse("nothing.npz", cwd=tmp_path) == "there is no attention in what was given"


def write_bomb(path, declared, content):
    """A .npz whose directory says that its entry has `declared` bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", content)
    packed = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = packed.index(signature) + at
        packed[place:place + 4] = struct.pack("<I", declared)
    path.write_bytes(bytes(packed))


def test_zip_bombs(tmp_path):
    def npy(shape):
        return np.lib.format.magic(1, 0) + struct.pack("<H", len(text := repr(
            {"descr": "<f4", "fortran_order": False, "shape": shape}))) + text.encode()
    header = npy((1, 4, 10000, 20000))
    write_bomb(tmp_path / "claims.npz", len(header) + 3200000000, header + bytes(1000))
    assert "cannot be packed into" in refuse("claims.npz", cwd=tmp_path)
    small = npy((1, 1, 2, 2))
    write_bomb(tmp_path / "unpacks.npz", len(small) + 16, small + bytes(10_000_000))
    assert refuse("unpacks.npz", cwd=tmp_path).startswith("unpacks.npz: arr_0: corrupt: ")
    write_bomb(tmp_path / "disagrees.npz", len(small) + 17, small + bytes(17))
    assert "the array takes" in refuse("disagrees.npz", cwd=tmp_path)


def test_instruction_sets_that_are_not_here_are_answered_with_those_that_are(good):
    says = refuse(good, "--isa", "sse9")
    assert says.startswith("--isa: 'sse9': not accepted (valid: auto, scalar, portable")
    for isa in says[says.index("valid: ") + 7:-1].split(", "):
        assert len(analyze(good, "--isa", isa, "--groups", "core")) == 1


def test_patterns_that_are_about_no_array(good):
    assert refuse(good, "--name", "blocks.{layer}.p=decoder.{layer}.self") == (
        "--name: blocks.{layer}.p=decoder.{layer}.self: no array has a name like blocks.{layer}.p")
    assert refuse(good, "--ignore", "embed*") == "--ignore: embed*: no array has a name like that"
    assert len(analyze(good, "--name", "arr_{}=encoder.{}.self", "--ignore", "arr*", "--groups", "core")) == 1


def test_hints_are_about_what_the_array_may_be(tmp_path):
    a = attend(29, shape=(1, 1, 4, 4))

    def says(name, array):
        np.savez(tmp_path / "x.npz", **{"arr_0": a, name: array})
        return refuse("x.npz", cwd=tmp_path)
    assert "; to map it: --name 'decoder_attention_mask=mask' (see" in says("decoder_attention_mask", np.ones((1, 4), int))
    assert "'encoder_attention_mask=decoder.0.cross.mask'" in says("encoder_attention_mask", np.ones((1, 4), int))
    assert "--name 'decoder_input_ids=tokens'" in says("decoder_input_ids", np.ones((1, 4), int))
    assert "'l.{layer}.mask=decoder.{layer}.self.mask'" in says("l.3.mask", np.ones((4, 4), int))
    assert "'masked.{layer}=decoder.{layer}.self'" in says("masked.3", a)
    assert "; to leave it out: --ignore 'labels' (see" in says("labels", np.ones((1, 4), int))
    assert "--name 'run20240101.{layer}=decoder.{layer}.self'" in says("run20240101.3", a)


def test_names_that_have_no_place(tmp_path):
    a = attend(29, shape=(1, 1, 4, 4))
    np.savez(tmp_path / "x.npz", **{"blocks.7.probs": a})
    assert refuse("x.npz", cwd=tmp_path) == (
        "x.npz: cannot place array 'blocks.7.probs': names are <encoder|decoder>.<layer>.<self|cross>[.q|.k|.v|.mask|...], "
        "weights.<layer>.wq, attentions.<layer>, arr_<layer>; to map it: "
        "--name 'blocks.{layer}.probs=decoder.{layer}.self' (see --help)")
    layer, = analyze(tmp_path / "x.npz", "--name", "blocks.{layer}.probs=encoder.{layer}.self")
    assert (layer["stack"], layer["layer"]) == ("encoder", 7)
    np.save(tmp_path / "probs.npy", a)
    np.save(tmp_path / "more.npy", a)
    assert "--name 'probs=decoder.0.self'" in refuse("probs.npy", "more.npy", cwd=tmp_path)
    assert len(analyze(tmp_path / "probs.npy", "--name", "probs=decoder.0.self")) == 1
    np.savez(tmp_path / "y.npz", **{"bad\x1b[31m": a})
    assert "'bad?[31m'" in refuse("y.npz", cwd=tmp_path)


@pytest.mark.parametrize("axes", [4, 3, 2])
def test_a_map_that_is_alone_needs_no_name(axes, tmp_path):
    a = attend(31, shape=(1, 1, 4, 4))
    np.save(tmp_path / "decoder.0.self.npy", a)
    np.save(tmp_path / "my attention.npy", a.reshape(a.shape[4 - axes:]))
    assert analyze(tmp_path / "my attention.npy") == analyze(tmp_path / "decoder.0.self.npy")
    np.save(tmp_path / "mask.npy", np.ones((1, 4), bool))
    layer, = analyze(tmp_path / "my attention.npy", tmp_path / "mask.npy", "--stack", "encoder")
    assert (layer["stack"], layer["layer"], layer["site"]) == ("encoder", 0, "self")
    assert "cannot place array 'my attention'" in refuse("my attention.npy", "decoder.0.self.npy", cwd=tmp_path)
    for other in (a[0, 0, 0], a.astype(int), a[None]):
        np.save(tmp_path / "other.npy", other)
        assert "cannot place array 'other'" in refuse("other.npy", cwd=tmp_path)


@pytest.mark.parametrize("shape", [(1, 1_000_000, 1, 0), (65537, 1, 1)])
def test_more_heads_than_there_can_be(shape, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
    assert refuse("x.npy", "--json", cwd=tmp_path) == (
        f"x.npy: x: has {shape[-3]} heads, and at most 65536 can be read")


def test_the_same_place_twice(tmp_path):
    a = attend(30, shape=(1, 1, 4, 4))
    np.savez(tmp_path / "x.npz", arr_0=a)
    np.save(tmp_path / "decoder.0.self.npy", a)
    assert refuse("x.npz", "decoder.0.self.npy", cwd=tmp_path).startswith("decoder.0.self is there twice: ")
    assert refuse("x.npz", "x.npz", cwd=tmp_path).startswith("decoder.0.self is there twice: arr_0 in x.npz, ")


def test_dtypes_that_cannot_be_read(tmp_path):
    for array, text in ((np.zeros((1, 1, 2, 2), ">f4"), ">f4"), (np.zeros((1, 1, 2, 2), complex), "<c16"),
                        (np.array([None]), "|O"), (np.zeros(2, [("a", "f4")]), "a record")):
        np.savez(tmp_path / "x.npz", arr_0=array)
        assert refuse("x.npz", cwd=tmp_path) == (
            f"x.npz: arr_0: dtype {text} cannot be read (known: f32, f64, f16, bf16, bool and integers, little-endian)")
    np.savez(tmp_path / "x.npz", arr_0=np.zeros((1, 1, 2, 2), int))
    assert refuse("x.npz", cwd=tmp_path) == "x.npz: arr_0: its dtype is <i8, not f32, f64, f16 or bf16"


def test_shapes_that_do_not_fit(tmp_path):
    a = attend(31)
    q = np.ones((B, H, T, 8))

    def says(**arrays):
        np.savez(tmp_path / "x.npz", **{f"decoder.0.self.{name}": array for name, array in arrays.items()})
        return refuse("x.npz", cwd=tmp_path)
    assert says(weights=a[0, 0, 0]).endswith("decoder.0.self.weights: its shape is [24], not [B,H,Tq,Tk], [H,Tq,Tk] or [Tq,Tk]")
    assert says(weights=a[None]).endswith("its shape is [1, 2, 4, 24, 24], not [B,H,Tq,Tk], [H,Tq,Tk] or [Tq,Tk]")
    assert says(weights=a, mask=np.ones((T, 9), bool)).endswith(
        "decoder.0.self.mask: its shape is [24, 9], not [B,Tq,Tk] = [2, 24, 24], [Tq,Tk] or [B,Tk]")
    assert says(weights=a, mask=np.ones((3, T, T), bool)).endswith("not [B,Tq,Tk] = [2, 24, 24], [Tq,Tk] or [B,Tk]")
    assert says(weights=a, mask=np.ones((B, H, T, T), bool)).endswith("not [B,Tq,Tk] = [2, 24, 24], [Tq,Tk] or [B,Tk]")
    assert says(weights=a, mask=np.full((B, T), 2)).endswith("decoder.0.self.mask: there is a 2 in it, not 0 or 1")
    assert says(weights=a, mask=np.ones((T, T))).endswith("its dtype is <f8, not bool or an integer")
    assert says(weights=a, mask=np.full((T, T), 2)).endswith("decoder.0.self.mask: there is a 2 in it, not 0 or 1")
    assert says(weights=a, tokens=np.zeros(T, int)).endswith("its shape is [24], not [B,Tk] = [2, 24]")
    assert says(weights=a, tokens=np.full((B, T), 2**40)).endswith("there is a 1099511627776 in it, not a 32-bit number")
    assert says(weights=a, grad=a[:1]).endswith("decoder.0.self.grad: its shape is [1, 4, 24, 24], not that of the weights")
    assert says(grad=a) == "decoder.0.self: there is .grad but no attention weights"
    assert says(mask=np.ones((T, T), bool)) == "decoder.0.self: there are neither attention weights nor .q and .k"
    assert says(q=q) == "decoder.0.self: there is .q but no .k"
    assert says(k=q) == "decoder.0.self: there is .k but no .q"
    assert says(v=q) == "decoder.0.self: there are neither attention weights nor .q and .k"
    assert says(wq=np.eye(8), v=q) == "decoder.0.self: there are neither attention weights nor .q and .k"
    assert says(weights=a, dout=q) == "decoder.0.self: there is .dout but no .q and .k"
    assert says(q=q, k=q, dout=q) == "decoder.0.self: there is .dout but no .v"
    assert says(weights=a, wo_r=np.ones((H, 8, 8))) == "decoder.0.self: there is .wo_r but no .v"
    assert says(weights=a, v=q, x_norm=np.ones((B, T))) == "decoder.0.self: there is .x_norm but no .wo_r"
    assert says(weights=a, v=q[:, :3]).endswith(
        "not of the B and Tk of the weights, and a number of heads that divides theirs")
    assert says(q=q, k=q, v=q, dout=q[..., :7]).endswith("not of the B, H and T of .q and the d of .v")
    for wrong in (np.ones((H, 9, 8)), np.ones((H, 0, 8)), np.ones((2, 8, 8)), np.ones((H, 8, 7)), np.ones((1, H, 8))):
        assert says(weights=a, v=q, wo_r=wrong).endswith("not [H,r,d] of the d of .v, r at most that")
    assert says(weights=a, v=q, wo_r=np.ones((H, 8, 8)), x_norm=np.ones((B, 9))).endswith("not [B,Tq]")
    assert says(weights=a, v=q, wo_r=np.ones((H, 8, 8), int)).endswith("its dtype is <i8, not f32, f64, f16 or bf16")
    assert says(q=q, k=q[..., :4]).endswith("decoder.0.self.k: its shape is [2, 4, 24, 4], not of the same B and d as .q")
    assert says(q=q[..., :0], k=q[..., :0]).endswith("its shape is [2, 4, 24, 0], not of a d of at least 1")
    assert says(q=q, k=q, v=q[..., :0]).endswith("its shape is [2, 4, 24, 0], not of a d of at least 1")
    assert says(q=q, k=q[:, :0]).endswith("not of a number of heads that divides those of .q")
    assert says(wq=np.ones((0, 8))).endswith("its shape is [0, 8], not [out,in], neither of them 0")
    assert says(q=q, k=q[:, :3]).endswith("not of a number of heads that divides those of .q")
    assert says(q=q, k=q, v=q[:, :, :9]).endswith("not of the same B, H and T as .k")
    assert says(wq=np.eye(8)) == (
        "decoder.0.self: wq, wk, wv, wo do not say how many heads they have: give --heads N")
    np.savez(tmp_path / "y.npz", **{"weights.0.wq": np.ones((8, 8)), "weights.0.wk": np.ones((6, 8))})
    assert refuse("y.npz", "--heads", 3, cwd=tmp_path) == (
        "decoder.0.self: the projections do not fit 3 heads, 3 key and value heads, 2 rows per head: wq [8, 8] wk [6, 8]")
    np.savez(tmp_path / "y.npz", **{"decoder.0.cross": a, "decoder.0.cross.documents": np.zeros((B, T), int)})
    assert refuse("y.npz", cwd=tmp_path) == "decoder.0.cross: documents are a matter of self-attention"
    np.savez(tmp_path / "y.npz", **{"decoder.0.cross": a})
    assert refuse("y.npz", "--causal", cwd=tmp_path) == "--causal: there is no self-attention that it is about"
    np.savez(tmp_path / "y.npz", **{"decoder.0.cross": a, "encoder.0.self": a})
    assert refuse("y.npz", "--window", 3, cwd=tmp_path) == "--window: there is no self-attention that it is about"
    np.savez(tmp_path / "y.npz", **{"decoder.0.cross": a, "mask": np.ones((T, T), bool)})
    assert refuse("y.npz", cwd=tmp_path) == "y.npz: mask: there is no self-attention it belongs to"
