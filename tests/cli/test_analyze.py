# SPDX-License-Identifier: MIT
"""attnctl analyze as a user sees it: files that numpy and others write, and what it says about them. Numbers are compared
with the reference (numbers_f64.py); the tolerances are those of workers/KERNELS.md for the fast kernels: 1e-5 relative for
sums, 1e-4 nats for entropies."""
import json

import numpy as np
import pytest

import numbers_f64 as f64
from invoke import attend, attnctl, npz, sentence, write_safetensors
from reference_heads import top_pairs

B, H, T = 2, 4, 24


def run(*words, **options):
    return attnctl("analyze", *words, **options)


def no_such_number(text):
    raise AssertionError(f"{text} in the JSON")


def analyze(*words):
    """The layers."""
    done = run(*words, "--json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    answer = json.loads(done.stdout, parse_constant=no_such_number)
    assert set(answer) == {"schema", "layers"} and answer["schema"] == "attnd.analysis/1"
    return answer["layers"]


def refuse(*words):
    return sentence(run(*words))


def close(got, expected, name="", rtol=1e-5):
    assert len(got) == len(expected)
    for g, e in zip(got, expected):
        assert (g is None) == (e is None), (name, got, expected)
        bound = 1e-4 if name in f64.NATS else 1e-7
        assert g is None or g == pytest.approx(e, rel=rtol, abs=bound), (name, got, expected)


MOMENTS = ("mean", "min", "max", "std", "variance")


def check_rows(layer, a, valid, **more):
    """The layer's row metrics, moments and counts against the reference."""
    found = f64.measured(a, valid, **more)
    expected = {**f64.row_means(found), **{name: found.values[name] for name in MOMENTS}}
    for name in expected:
        close(layer["heads"][name], expected[name], name, rtol=1e-4 if name in ("std", "variance") else 1e-5)
    assert layer["rows"] == a.shape[1] * int(valid.any(-1).sum())
    assert layer["invalid_rows"] == 0


def bf16(a):
    """float32 rounded to nearest bfloat16: its bytes, and its value."""
    bits = np.asarray(a, "<f4").view("<u4").astype("<u8")
    top = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return top, (top.astype("<u4") << 16).view("<f4")


# numbers


def test_every_group_of_a_causal_layer():
    valid = f64.valid_keys((B, H, T, T), causal=True)
    a = attend(1, valid).astype("<f4")
    weights = [0.5, 0.25, 0.125, 0.125]
    layer, = analyze(npz(**{"decoder.3.self": a}), "--causal", "--head-weights", "0.5,0.25,0.125,0.125", "--top-pairs", 7)
    a = a.astype("f8")
    assert (layer["stack"], layer["layer"], layer["site"], layer["tier"]) == ("decoder", 3, "self", "attention")
    assert layer["shape"] == [B, H, T, T] and layer["causal"] is True
    assert layer["row_sum_error"] == pytest.approx(np.abs(a.sum(-1) - 1).max(), abs=1e-7)
    check_rows(layer, a, valid)
    found = f64.measured(a, valid, similarity=True, head_weights=weights)
    close(layer["heads"]["importance"], found.values["importance"], "importance")
    for name, expected in found.aggregate.items():
        assert set(layer["aggregate"][name]) == {"mean", "max", "min", "std"}
        for stat, value in expected.items():
            assert layer["aggregate"][name][stat] == pytest.approx(value, rel=1e-5, abs=1e-7), (name, stat)
    pairs = [(p["query"], p["key"], p["weight"]) for p in layer["top_pairs"]]
    expected = [tuple(pair.values()) for pair in top_pairs(found.pair_map, 7)]
    assert [p[:2] for p in pairs] == [p[:2] for p in expected]
    close([p[2] for p in pairs], [p[2] for p in expected])
    for name in ("head_js", "head_similarity"):
        assert np.allclose(layer[name], found.similarity[name], atol=1e-5)
    assert layer["sink_rate"] == np.mean(np.array(layer["heads"]["first_token"]) > 0.3)
    assert len(layer["heads"]["pattern"]) == H
    for name in ("spectral_norm", "stable_rank", "nuclear_norm", "effective_rank_entropy", "effective_rank", "rank"):
        close(layer["spectrum"][name], found.values[name], name, rtol=1e-3)
    assert np.allclose(layer["spectrum"]["singular_values"], found.vectors["singular_values"], rtol=1e-3, atol=1e-5)


RANDOM = np.random.default_rng(7)
SOME, DOCUMENTS = RANDOM.random((B, T, T)) < 0.7, np.sort(RANDOM.integers(0, 4, (B, T)))
PADDED = np.broadcast_to(np.arange(T) >= 6, (B, 1, T)) & (np.arange(T) >= 6)[None, :, None]


@pytest.mark.parametrize("limits, arrays, options", [
    pytest.param(dict(q_len=[T, 9], k_len=[T, 9]), {}, ["--lengths", f"{T},9"], id="lengths"),
    pytest.param(dict(q_len=[5, T], k_len=[11, 9]), {}, ["--q-lengths", f"5,{T}", "--lengths", "11,9"], id="q_k_lengths"),
    pytest.param(dict(mask=SOME), {"decoder.0.self.mask": SOME}, [], id="mask"),
    pytest.param(dict(mask=SOME[0], causal=True), {"mask": SOME[0].astype("i8")}, ["--causal"], id="flat_mask"),
    pytest.param(dict(causal=True, window=5), {}, ["--causal", "--window", "5"], id="window"),
    pytest.param(dict(causal=True, documents=DOCUMENTS), {"decoder.0.self.documents": DOCUMENTS}, ["--causal"],
                 id="documents"),
    pytest.param(dict(mask=PADDED), {"decoder.0.self.mask": PADDED[:, None]}, [], id="left_padding"),
])
def test_what_rows_may_attend_to(limits, arrays, options):
    shape = (B, H, T, T)
    valid = f64.valid_keys(shape, **limits)
    a = attend(2, valid)
    a[~np.broadcast_to(valid[:, None], shape)] = np.nan if "--lengths" in options[:1] else 0
    np.savez_compressed("x.npz", **{"decoder.0.self": a, **arrays})
    layer, = analyze("x.npz", *options, "--groups", "core")
    check_rows(layer, np.nan_to_num(a), valid, q_len=limits.get("q_len"), k_len=limits.get("k_len"))


@pytest.mark.parametrize("site", ["self", "cross"])
@pytest.mark.parametrize("name", ["mask", "attention_mask"])
def test_a_mask_of_tokens_and_padding(site, name):
    """Left padding, as Hugging Face's tokenizers do for generation, and a hole."""
    tokens = np.array([[1] * T, [0] * 5 + [1] * 7 + [0] + [1] * (T - 13)])
    valid = np.broadcast_to(tokens[:, None, :], (B, T, T)).astype(bool)
    if site == "self":
        valid = valid & (tokens[:, :, None] == 1) & np.tri(T, dtype=bool)
    a = attend(34, valid)
    file = npz(**{f"decoder.0.{site}": a, f"decoder.0.{site}.{name}": tokens})
    layer, = analyze(file, "--groups", "core", *["--causal"] * (site == "self"))
    assert layer["rows"] == H * int(valid.any(-1).sum()) and layer["invalid_rows"] == 0
    if site == "self":
        check_rows(layer, a, valid)
    for name in ("confidence", "entropy"):
        close(layer["heads"][name], f64.row_means(f64.measured(a, valid))[name], name)


def test_hugging_faces_names_are_of_all_layers():
    ids = np.array([[5, 6, 5, 6], [7, 7, 7, 0], [1, 2, 3, 4], [9, 9, 0, 0]])
    attention_mask = (ids > 0).astype("i8")  # 4 samples of 4 tokens: by its shape it might be [Tq,Tk]
    valid = (attention_mask[:, None, :] & attention_mask[:, :, None]).astype(bool)
    a = attend(35, valid, shape=(4, 1, 4, 4))
    layers = analyze(npz(a, a, attention_mask=attention_mask, input_ids=ids))
    assert layers == analyze(npz(a, a, **{"decoder.0.self.mask": valid, "decoder.1.self.mask": valid, "tokens": ids}))
    for layer in layers:
        assert layer["rows"] == 4 + 3 + 4 + 2 and layer["heads"]["duplicate_token"][0] is not None
        check_rows(layer, a, valid, tokens=ids)
    assert analyze(npz(attend(42), attention_mask=np.ones((B, T), int))) == analyze(npz(attend(42)))
    assert analyze(npz(a, mask=attention_mask), "--dropout")[0]["rows"] == 4 * 4, "this one is [Tq,Tk]"


@pytest.mark.parametrize("queries, options, first", [(1, (), 5), (3, (), 3), (3, ("--causal",), 3), (1, ("--q-offset", 0), 0), (1, ("--q-offset", 2), 2)])
def test_fewer_queries_than_keys_are_the_last_ones(queries, options, first):
    """As saved of generate(): [B,H,1,n] of its last token, or a chunk of a prompt."""
    valid = np.tri(queries, 6, first, dtype=bool) if "--causal" in options else np.ones((queries, 6), bool)
    a = attend(44, valid, shape=(1, 2, queries, 6))
    layer, = analyze(npz(a), "--groups", "core", *options)
    rows, position = np.arange(queries), first + np.arange(queries)
    away = np.abs(position[:, None] - np.arange(6))
    close(layer["heads"]["mean_distance"], (a[0] * away).sum(-1).mean(-1))
    close(layer["heads"]["diagonal"], a[0][:, rows, position].mean(-1))
    behind = position > 0
    close(layer["heads"].get("previous_token", [None] * 2), a[0][:, rows[behind], position[behind] - 1].mean(-1) if behind.any() else [None] * 2)


def test_queries_of_cross_attention_have_no_place_among_its_keys():
    one, = analyze(npz(**{"decoder.0.cross": attend(45, shape=(1, 2, 2, 6))}), "--groups", "core")
    assert one["heads"]["diagonal"] == one["heads"]["previous_token"] == [None, None]


def test_padding_of_queries_that_are_behind_the_first_key():
    """With a cache: query i stands at position q_offset + i."""
    valid = np.tri(2, 6, 4, dtype=bool)[None] & np.array([1, 1, 0, 1, 0, 1], bool)
    valid[0, 0] = False  # query 0 is key 4: padding
    a = attend(36, valid, shape=(1, 2, 2, 6))
    layer, = analyze(npz(a, attention_mask=np.array([[1, 1, 0, 1, 0, 1]])), "--causal", "--q-offset", 4, "--groups", "core")
    assert layer["rows"] == 2 and layer["invalid_rows"] == 0
    close(layer["heads"]["confidence"], a[0, :, 1].max(-1))


def test_lengths_have_one_number_per_sample_and_layers_their_own_mask():
    valid = f64.valid_keys((B, H, T, T), mask=np.tri(T, T, 3, bool))
    other = f64.valid_keys((B, H, T, T), mask=np.tri(T, T, -1, bool))
    file = npz(attentions_0=attend(3, valid), attentions_1=attend(4, other), mask=np.tri(T, T, 3, bool),
               **{"decoder.1.self.mask": np.tri(T, T, -1, bool)})
    first, second = analyze(file, "--groups", "core")
    check_rows(first, attend(3, valid), valid)
    check_rows(second, attend(4, other), other)


def test_dtypes():
    a = attend(5)
    raw, value = bf16(a)
    file = npz(a.astype("f4"), a, a.astype("f2"), raw.view("V2"))
    write_safetensors("y.safetensors", {"attentions.4": ("F32", a.astype("f4")), "attentions.5": ("F64", a),
                                                   "attentions.6": ("F16", a.astype("f2")), "attentions.7": ("BF16", raw)})
    layers = analyze("y.safetensors", file, "--groups", "core")
    sent = [a.astype("f4"), a, a.astype("f2"), value] * 2
    valid = f64.valid_keys(a.shape)
    assert [layer["layer"] for layer in layers] == list(range(8))
    for layer, array in zip(layers, sent):
        check_rows(layer, array.astype("f8"), valid)


@pytest.mark.parametrize("layout", ["C", "F", "transposed"])
def test_npy_in_any_order_of_its_axes(layout):
    a = attend(6, shape=(3, 2, 7, 7))
    stored = {"C": a, "F": np.asfortranarray(a), "transposed": np.ascontiguousarray(a.T).T}[layout]
    np.save("encoder.2.self.npy", stored)
    layer, = analyze("encoder.2.self.npy", "--groups", "core")
    assert layer["shape"] == [3, 2, 7, 7] and layer["stack"] == "encoder"
    check_rows(layer, a, f64.valid_keys(a.shape))


def test_three_axes_are_a_batch_of_one():
    a = attend(8)
    np.save("decoder.0.self.npy", a[0])
    layer, = analyze("decoder.0.self.npy", "--groups", "core")
    assert layer["shape"] == [1, H, T, T]
    check_rows(layer, a[:1], f64.valid_keys((1, H, T, T)))


def test_layers_are_in_order():
    a = attend(9, shape=(1, 1, 4, 4))
    names = ["decoder.10.self", "encoder.1.self", "decoder.2.cross", "decoder.2.self", "encoder.0.self"]
    layers = analyze(npz(**dict.fromkeys(names, a)))
    assert [f"{x['stack']}.{x['layer']}.{x['site']}" for x in layers] == [
        "encoder.0.self", "encoder.1.self", "decoder.2.self", "decoder.2.cross", "decoder.10.self"]


def test_causal_is_of_the_decoders_self_attention():
    a = attend(9, shape=(1, 1, 4, 4))
    for names, expected in ((["encoder.0.self", "decoder.0.self", "decoder.0.cross"], [False, True, False]),
                            (["encoder.0.self"], [True])):
        assert [layer["causal"] for layer in analyze(npz(**dict.fromkeys(names, a)), "--causal")] == expected, names


def test_cross_attention_has_no_diagonal():
    a = attend(10, shape=(B, H, 5, 9))
    layer, = analyze(npz(cross_attentions_0=a))
    assert layer["site"] == "cross" and layer["shape"] == [B, H, 5, 9]
    assert all(value is None for value in layer["heads"]["diagonal"])
    close(layer["heads"]["confidence"], a.max(-1).mean((0, 2)))


def test_what_is_shared_is_not_of_cross_attention():
    a, mask = attend(10, shape=(1, 1, 4, 4)), np.tri(4, dtype=bool)
    file = npz(**{"decoder.0.self": np.tri(4)[None, None] / 4, "decoder.0.cross": a, "mask": mask})
    own, cross = analyze(file, "--learned-sink")
    assert own["heads"]["mean"] == [0.25] and cross["heads"]["mean"] == [pytest.approx(0.25)]


def test_induction_needs_tokens():
    tokens = np.array([[1, 2, 3, 1, 2, 3]], "<u2")
    a = np.zeros((1, 1, 6, 6))
    a[0, 0, [0, 1, 2], 0] = 1
    a[0, 0, [3, 4, 5], [1, 2, 3]] = 1  # behind the earlier occurrence
    layer, = analyze(npz(a, tokens=tokens), "--causal")
    assert layer["heads"]["induction"] == [1.0] and layer["heads"]["duplicate_token"] == [0.0]
    layer, = analyze(npz(a), "--causal")
    assert layer["heads"].get("induction") in (None, [None])


def test_importance_by_gradients():
    a, grad = attend(11), np.random.default_rng(12).normal(size=(B, H, T, T))
    layer, = analyze(npz(**{"decoder.0.self": a, "decoder.0.self.grad": grad}))
    score = np.abs(a * grad).sum((0, 2, 3))
    close(layer["heads"]["importance_gradient"], score / np.linalg.norm(score))


@pytest.mark.parametrize("dtype", ["<f8", "<f4"])
def test_what_the_output_is_judged_by(dtype):
    """Beside weights, and beside queries and keys, whose gradient is that of the output."""
    random = np.random.default_rng(14)
    q, k, v, dout = (random.normal(size=(B, heads, T, d)).astype(dtype) for heads, d in ((H, 8), (2, 8), (2, 5), (H, 5)))
    wo_r, x_norm = random.normal(size=(H, 3, 5)).astype(dtype), np.abs(random.normal(size=(B, T))).astype(dtype)
    a = f64.softmax(np.einsum("bhid,bhjd->bhij", q, np.repeat(k, 2, 1)).astype(float) / np.sqrt(8), np.ones((T, T), bool))
    beside = {"v": v, "wo_r": wo_r, "x_norm": x_norm}
    file = npz(**{"decoder.0.self": a.astype(dtype), "decoder.1.self.q": q, "decoder.1.self.k": k, "decoder.1.self.dout": dout,
                  **{f"decoder.{i}.self.{name}": x for name, x in beside.items() for i in (0, 1)}})
    weights, qk = (layer["heads"] for layer in analyze(file))
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


def test_queries_and_keys_give_what_their_weights_give():
    random = np.random.default_rng(13)
    q, k, v = random.normal(size=(B, H, T, 8)), random.normal(size=(B, 2, T, 8)), random.normal(size=(B, 2, T, 8))
    valid = f64.valid_keys((B, H, T, T), causal=True)
    a = f64.softmax(np.einsum("bhid,bhjd->bhij", q, np.repeat(k, 2, 1)) / np.sqrt(8), valid[:, None])
    file = npz(**{"decoder.0.self.q": q, "decoder.0.self.k": k, "decoder.0.self.v": v, "decoder.0.self": a})
    weights, qk = analyze(file, "--causal")
    assert (weights["tier"], qk["tier"], qk["shape"]) == ("attention", "qk", [B, H, T, T])
    check_rows(qk, a, valid)
    check_rows(weights, a, valid)
    logits = np.where(valid[:, None], np.einsum("bhid,bhjd->bhij", q, np.repeat(k, 2, 1)) / np.sqrt(8), -np.inf)
    close(qk["heads"]["max_logit"], logits.max(-1).mean((0, 2)))
    output = np.linalg.norm(np.einsum("bhij,bhjd->bhid", a, np.repeat(v, 2, 1)), axis=-1)
    close(qk["heads"]["output_norm"], output.mean((0, 2)))
    close(qk["heads"]["q_norm"], np.linalg.norm(q, axis=-1).mean((0, 2)))
    close(weights["heads"]["output_norm"], output.mean((0, 2)))  # the values are beside either
    scaled, = analyze(file, "--causal", "--scale", 0.125, "--ignore", "decoder.0.self")
    close(scaled["heads"]["max_logit"], (logits * np.sqrt(8) / 8).max(-1).mean((0, 2)))


def test_projections():
    random = np.random.default_rng(14)
    wq, wk, wv, wo = (random.normal(size=s).astype("<f4") for s in ((32, 24), (16, 24), (16, 24), (24, 32)))
    write_safetensors("x.safetensors", {"l.0.q.weight": ("F32", wq), "l.0.k.weight": ("F32", wk),
                                                   "l.0.v.weight": ("F32", wv), "l.0.o.weight": ("F32", wo),
                                                   "embeddings": ("F32", wq)})
    names = [option for part in "qkvo" for option in ("--name", f"l.{{layer}}.{part}.weight=weights.{{layer}}.w{part}")]
    layer, = analyze("x.safetensors", "--heads", 4, *names, "--ignore", "embed*")
    assert layer["tier"] == "weights" and layer["shape"] is None
    assert list(layer["weights"]) == ["wq", "wk", "wv", "wo", "wq_wk", "wv_wo"]
    for name, matrix in (("wq", wq), ("wk", wk), ("wo", wo)):
        assert layer["weights"][name]["whole"]["spectral_norm"] == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-4)
    heads = layer["weights"]["wq"]["heads"]["spectral_norm"]
    close(heads, [np.linalg.norm(wq[8 * h:8 * h + 8], 2) for h in range(4)], rtol=1e-4)
    circuit = [np.linalg.norm(wo[:, 8 * h:8 * h + 8] @ wv[8 * (h // 2):8 * (h // 2) + 8], 2) for h in range(4)]
    close(layer["weights"]["wv_wo"]["heads"]["spectral_norm"], circuit, rtol=1e-4)


def test_groups_that_are_off_leave_nothing():
    file = npz(attend(15))
    layer, = analyze(file, "--groups", "core")
    assert not {"top_pairs", "head_similarity", "head_js", "redundant_pairs", "spectrum"} & set(layer)
    assert "importance" not in layer["heads"] and "entropy" in layer["heads"]
    layer, = analyze(file, "--groups", "pairs", "--head-pairs", "--top-pairs", 3)
    assert len(layer["top_pairs"]) == 3 and [len(p) for p in layer["head_top_pairs"]] == [3] * H
    layer, = analyze(file, "--groups", "none")
    assert layer["rows"] == B * H * T


def test_threads_and_instruction_sets_agree():
    a = attend(16, shape=(2, 3, 96, 96)).astype("<f4")
    one, two, scalar = (analyze(npz(a), *options)[0]
                        for options in (["--threads", 1], ["--threads", 2], ["--threads", 2, "--isa", "scalar"]))
    assert one == two
    for name, values in scalar["heads"].items():
        if name != "pattern":
            close(values, one["heads"][name], name, rtol=1e-4)


def test_unsound_rows_are_counted_and_numbers_that_do_not_exist_are_null():
    a = attend(17)
    a[0, 0, 3] = np.nan
    a[0, 1, 4, 5] = np.inf
    a[1, 2, 6, 7] = -0.5
    a[1, 3] *= 1.1
    first, second = analyze(npz(a, np.full((1, 1, 4, 4), np.nan)))
    assert first["invalid_rows"] == 3 + T and first["rows"] == B * H * T - 3 - T
    assert first["row_sum_error"] >= 0.0999
    assert second["rows"] == 0 and second["invalid_rows"] == 4 and second["row_sum_error"] is None
    assert second["heads"]["entropy"] == [None] and second["heads"]["pattern"] == [None]
    assert second["spectrum"]["spectral_norm"] == [None]


def test_eigenvalues_of_large_maps_are_for_who_asks():
    values = [analyze(npz(attend(41, shape=(1, 1, 160, 160))), "--groups", "spectrum", *options)[0]["spectrum"]
              for options in ([], ["--spectrum", "full"], ["--spectrum", "eigenvalues"])]
    moduli = np.sort(np.abs(np.linalg.eigvals(attend(41, shape=(1, 1, 160, 160))[0, 0])))
    assert values[0] == values[1] and values[0]["eigenvalue_2"] == [None] and values[0]["rank"] == [160]
    close(values[2]["eigenvalue_2"], moduli[-2:-1], rtol=1e-3)


def test_the_smallest_map():
    layer, = analyze(npz(np.ones((1, 1, 1, 1), "<f4")), "--causal")
    assert layer["heads"]["entropy"] == [pytest.approx(0, abs=1e-4)] and layer["heads"]["entropy_normalized"] == [None]
    assert layer["heads"]["std"] == [None] and layer["spectrum"]["spectral_norm"] == [pytest.approx(1)]


def test_dropout_and_learned_sink_are_believed():
    file = npz(attend(18) * 0.8)
    assert analyze(file)[0]["rows"] == 0
    assert analyze(file, "--dropout")[0]["invalid_rows"] == 0
    layer, = analyze(file, "--learned-sink")
    assert layer["invalid_rows"] == 0
    close(layer["heads"]["sink_deficit"], [0.2] * H)


# what is empty


@pytest.mark.parametrize("shape", [(0, 2, 3, 3), (2, 0, 3, 3), (2, 2, 0, 3), (2, 2, 3, 0), (0, 0, 0, 0)])
def test_an_empty_map_is_refused(shape):
    file = npz(**{"decoder.0.self": np.zeros(shape), "decoder.1.self": attend(33)})
    assert refuse(file) == f"decoder.0.self is empty: its shape is {list(shape)}; --ignore leaves arrays out"
    assert analyze(file, "--ignore", "decoder.0.*")[0]["rows"] == B * H * T


# statistics


def test_statistics_are_over_all_entries_as_sent():
    random = np.random.default_rng(19)
    maps = {"encoder.1.self": attend(20).astype("<f4"), "encoder.0.self": attend(21), "decoder.0.cross": attend(22),
            "decoder.0.self": attend(23)[0].astype("<f2"), "decoder.5.self": 1e3 + 1e-6 * random.random((1, 1, 64, 64))}
    maps["encoder.0.self"][0, 0, 0, :2] = np.nan, np.inf
    done = run(npz(**maps), "--statistics", "--causal")
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


def test_statistics_have_no_more_digits_than_they_need():
    a = np.full((1, 1, 2, 2), 0.1)
    a[0, 0, 0] = 1 / 3, 1e-300
    numbers = []
    json.loads(run(npz(a, attend(40)), "--statistics").stdout, parse_float=numbers.append)
    assert len(numbers) == 8 and {"0.3333333333333333", "1e-300"} <= set(numbers)
    assert all(len(number) <= len(repr(float(number))) for number in numbers)


def test_statistics_of_nothing_are_null():
    file = npz(np.full((1, 1, 2, 2), np.nan), np.ones((1, 1, 1, 1)))
    first, second = json.loads(run(file, "--statistics").stdout)["decoder"]
    assert [first[key] for key in ("mean", "std", "min", "max")] == [None] * 4
    assert (second["mean"], second["std"]) == (1.0, None)


def test_statistics_need_weights():
    file = npz(**{f"decoder.0.self.{name}": np.ones((1, 2, 3, 4)) for name in "qk"})
    assert refuse(file, "--statistics").startswith("--statistics is of attention weights")


# the table


def test_the_table_fits_80_columns():
    file = npz(**{"decoder.0.self": np.tril(attend(24)), "decoder.0.self.q": np.ones((1, 12, 9, 4)),
                  "decoder.0.self.k": np.ones((1, 12, 9, 4)), "weights.1.wq": np.eye(8)})
    done = run(file, "--heads", 2, "--causal")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith("decoder.0.self  attention  [2, 4, 24, 24]  causal")
    assert lines[1] == "183 of 192 rows left out: not finite, negative, or the sum is off (by up to 1)"
    assert lines[2] == "the sums over visible keys are not 1: is this causal?"
    assert lines[3].split()[:3] == ["HEAD", "ENTROPY", "KEYS"]
    assert [line.split()[0] for line in lines[4:8]] == ["0", "1", "2", "3"]
    assert "decoder.1.self  weights" in lines
    assert max(map(len, lines)) <= 80


def test_the_table_says_why_rows_were_left_out_and_never_nan():
    negative = attend(37)
    negative[0, 0, 0, :2] += -0.5, 0.5
    text = run(npz(np.full((1, 1, 4, 4), np.nan), attend(38) * 0.8, negative)).stdout
    first, second, third = text.split("\n\n")
    assert first.splitlines()[1:] == ["4 of 4 rows left out: not finite, or negative"]
    assert second.splitlines()[1:3] == [
        "192 of 192 rows left out: not finite, negative, or the sum is off (by up to 0.2)",
        "the sums over visible keys are not 1: --dropout? --learned-sink? a mask?"]
    assert third.splitlines()[1] == "1 of 192 rows left out: not finite, or negative"
    assert third.splitlines()[2].startswith("HEAD ") and "nan" not in text


def test_the_table_names_heads_that_are_alike():
    a = attend(39, shape=(B, 6, T, T))
    file = npz(a, np.concatenate([a, a[:, ::-1]], 1))
    js = f64.measured(a, f64.valid_keys(a.shape), similarity=True).similarity["head_js"]
    nearest = sorted((js[i, j], i, j) for i in range(6) for j in range(i))[:5]
    text = run(file, "--groups", "similarity").stdout
    first, second = text.split("\n\n")
    assert first.splitlines()[-1] == "most alike  " + "  ".join(f"h{j}~h{i} {d:.4f}" for d, i, j in nearest)
    assert second.splitlines()[-1].startswith("redundant  h") and second.endswith("  and 1 more\n")
    same = second.splitlines()[-1].removeprefix("redundant  ").removesuffix("  and 1 more").split("  ")
    assert set(same) < {f"h{h}=h{11 - h} 0.0000" for h in range(6)} and len(same) == 5
    assert "alike" not in run(file, "--groups", "core").stdout


def test_the_table_of_a_matrix_that_is_short_of_rank():
    file = npz(**{"weights.0.wq": np.ones((8, 8)), "weights.0.wk": np.eye(8), "weights.0.wv": np.full((8, 8), np.nan)})
    lines = [line.split() for line in run(file, "--heads", 2).stdout.splitlines()]
    assert lines[2] == ["wq", "8.000", "1.000", "1.000", "inf", "1.000"]
    assert lines[3] == ["wk", "1.000", "8.000", "8.000", "0.000", "0.000"]
    assert lines[4] == ["wv", "-", "-", "-", "-", "-"]


def test_the_command_may_stand_behind_options():
    done = attnctl("--json", "analyze", "--causal", npz(attend(25)))
    assert done.returncode == 0 and json.loads(done.stdout)["layers"][0]["causal"] is True


def test_help_shows_names_formats_and_examples():
    done = run("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("<stack>.<layer>.<site>", ".safetensors", "--name", "weights.<layer>.wq", "np.savez", "examples:"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
