# SPDX-License-Identifier: MIT
"""Calls of TransformerEngine's DotProductAttention, through a stand-in: the package needs a GPU. The stand-in has the
parameters of the real one (versions 1.8 to 2.12, by their documentation) and computes something else. The meaning of a
call is written here a second time, sample by sample and query by query, from that documentation."""
import functools
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attnd.base.plan import EVERYTHING, Plan
from test_calls import random
from test_kernels_of_others import alibi, attention, band, check, watched

B, T, H, HKV, D = 3, 9, 4, 2, 8
LENGTHS, KEY_LENGTHS = [9, 5, 2], [7, 9, 4]


def not_for_dynamo(function):
    """As the package decorates its forward: all arguments pass through."""
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


class Kernel(torch.nn.Module):
    def __init__(self, softmax_scale):
        super().__init__()
        self.softmax_scale = softmax_scale


class DotProductAttention(torch.nn.Module):
    def __init__(self, qkv_format="sbhd", attn_mask_type="causal", window_size=None, softmax_scale=None, softmax_type="vanilla",
                 attention_type="self", attention_dropout=0.0, cp_group=None, bottom_right_diagonal=None):
        super().__init__()
        self.qkv_format, self.attn_mask_type, self.window_size = qkv_format, attn_mask_type, window_size
        self.softmax_type, self.attention_type, self.attention_dropout = softmax_type, attention_type, attention_dropout
        self.cp_group, self.bottom_right_diagonal = cp_group, bottom_right_diagonal
        self.fused_attention = Kernel(D**-0.5 if softmax_scale is None else softmax_scale)

    @not_for_dynamo
    def forward(self, query_layer=None, key_layer=None, value_layer=None, attention_mask=None, qkv_format=None, cu_seqlens_q=None,
                cu_seqlens_kv=None, cu_seqlens_q_padded=None, cu_seqlens_kv_padded=None, max_seqlen_q=None, max_seqlen_kv=None,
                attn_mask_type=None, window_size=None, bottom_right_diagonal=None, checkpoint_core_attention=False,
                core_attention_bias_type="no_bias", core_attention_bias=None, alibi_slopes=None, fast_zero_fill=True,
                inference_params=None, pad_between_seqs=None, fp8_output=False, num_splits=1, score_mod=None, qkv_layer=None,
                kv_layer=None, qkv_interleave_dim=-3, g=None, beta=None):
        if qkv_layer is not None:
            query_layer, key_layer, value_layer = qkv_layer.unbind(qkv_interleave_dim)
        if kv_layer is not None:
            key_layer, value_layer = kv_layer.unbind(qkv_interleave_dim)
        given, layout = (query_layer, key_layer, value_layer), qkv_format or self.qkv_format
        q, k, v = (one.transpose(0, 1) if layout == "sbhd" else one if layout == "bshd" else one[None] for one in given)
        made = attention(q, k, v).flatten(2)
        return made.transpose(0, 1) if layout == "sbhd" else made if layout == "bshd" else made[0]


class OfMegatron(DotProductAttention):
    def forward(self, query, key, value, attention_mask, attn_mask_type):
        return super().forward(query, key, value, attention_mask, attn_mask_type=attn_mask_type)


@pytest.fixture(autouse=True)
def package(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", types.ModuleType("transformer_engine.pytorch"))
    sys.modules["transformer_engine.pytorch"].DotProductAttention = DotProductAttention
    code = DotProductAttention.forward.__code__
    yield
    assert DotProductAttention.forward.__code__ is code


def called(attn, *args, **kwargs):
    """The watcher of a call of it as the part `attn` of a model."""
    model = torch.nn.Module()
    model.attn = attn
    model.forward = lambda *args, **kwargs: model.attn(*args, **kwargs)
    return watched(model, *args, **kwargs)


def seen_of(attn, *args, **kwargs):
    watcher = called(attn, *args, **kwargs)
    (path, seen), = watcher.seen
    assert path == "attn" and not watcher.unread
    return seen


def given(layout, queries=T, keys=T):
    """(what the call gets, q [B, T, H, d], k)."""
    q, k = random(B, queries, H, D), random(B, keys, HKV, D, seed=1)
    return [x.transpose(0, 1) if layout == "sbhd" else x for x in (q, k, k)], q, k


def cumulated(lengths):
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def padding(lengths, total):
    """bool [B, 1, 1, T], true where nothing is."""
    return torch.from_numpy(np.arange(total)[None] >= np.array(lengths)[:, None])[:, None, None]


@pytest.mark.parametrize("layout", ["sbhd", "bshd"])
@pytest.mark.parametrize("kind, window, aligned", [
    ("no_mask", None, (-1, -1)), ("causal", None, (-1, 0)), ("causal", (3, 0), (3, 0)), ("no_mask", (2, 2), (2, 2)),
    ("no_mask", (3, 1), (3, 1)), ("causal_bottom_right", None, (-1, 0))])
def test_masks_and_windows_of_whole_sequences(layout, kind, window, aligned):
    args, q, k = given(layout)
    attn = DotProductAttention(layout, kind, window, softmax_scale=0.3)
    check(seen_of(attn, *args), q, k, band(T, T, *aligned), scale=0.3)


@pytest.mark.parametrize("kind, aligned", [("causal", "first"), ("causal_bottom_right", "last")])
def test_a_causal_mask_begins_at_the_first_or_ends_at_the_last_key(kind, aligned):
    args, q, k = given("bshd", 4, T)
    attn = DotProductAttention("bshd", kind, attention_type="cross")
    check(seen_of(attn, *args), q, k, band(4, T, -1, 0, aligned))


@pytest.mark.parametrize("kind, window", [("no_mask", None), ("padding", (-1, 0)), ("arbitrary", None)])
def test_a_module_that_was_made_causal_may_be_called_as_one_that_is_not(kind, window):
    """It was made with the window (-1, 0), as the package sets it then."""
    args, q, k = given("bshd")
    seen = seen_of(DotProductAttention("bshd", "causal", (-1, 0)), *args, attn_mask_type=kind, window_size=window)
    check(seen, q, k, band(T, T))


def test_what_the_call_says_is_meant_and_megatron_says_it():
    args, q, k = given("sbhd")
    check(seen_of(DotProductAttention("bshd", "no_mask"), *args, qkv_format="sbhd", attn_mask_type="causal", window_size=(2, 0)),
          q, k, band(T, T, 2, 0))
    check(seen_of(OfMegatron("sbhd", "no_mask"), *args, None, "causal"), q, k, band(T, T, -1, 0))


@pytest.mark.parametrize("layout", ["sbhd", "bshd"])
@pytest.mark.parametrize("kind", ["padding", "padding_causal", "causal,padding"])
@pytest.mark.parametrize("says", ["mask", "lengths"])
def test_padding_hides_keys_and_their_queries(layout, kind, says):
    args, q, k = given(layout)
    told = {"attention_mask": padding(LENGTHS, T)} if says == "mask" else \
        {"cu_seqlens_q": cumulated(LENGTHS), "cu_seqlens_kv": cumulated(LENGTHS)}
    seen = seen_of(DotProductAttention(layout, kind), *args, **told)
    allowed = ~padding(LENGTHS, T).numpy() & band(T, T, -1, 0 if "causal" in kind else -1)
    check(seen, q, k, allowed & ~padding(LENGTHS, T).transpose(2, 3).numpy())


def test_padding_of_a_cross_attention_is_that_of_its_keys():
    args, q, k = given("bshd", 4, T)
    attn = DotProductAttention("bshd", "padding", attention_type="cross")
    seen = seen_of(attn, *args, attention_mask=(padding([4, 3, 2], 4), padding(KEY_LENGTHS, T)))
    check(seen, q, k, ~padding(KEY_LENGTHS, T).numpy())


def test_an_arbitrary_mask_is_true_where_nothing_may_be_attended_to():
    args, q, k = given("bshd")
    hidden = torch.rand(B, 1, T, T, generator=torch.Generator().manual_seed(3)) < 0.5
    hidden[..., 0] = False
    check(seen_of(DotProductAttention("bshd", "arbitrary"), *args, attention_mask=hidden), q, k, ~hidden.numpy())


@pytest.mark.parametrize("plan", [EVERYTHING, Plan(samples=1, rows=3)], ids=["all", "part"])
def test_slopes_and_a_bias_are_added(plan):
    args, q, k = given("bshd")
    slopes, bias = random(H).abs(), random(1, H, T, T, seed=5)
    seen = seen_of(DotProductAttention("bshd", "causal"), *args, core_attention_bias_type="alibi", alibi_slopes=slopes)
    check(seen, q, k, band(T, T, -1, 0), plan=plan, bias=alibi(slopes, T, T))
    seen = seen_of(DotProductAttention("bshd", "causal"), *args, core_attention_bias_type="post_scale_bias",
                   core_attention_bias=bias)
    check(seen, q, k, band(T, T, -1, 0), plan=plan, bias=bias.numpy())


def packed(lengths, key_lengths, starts, key_starts, left, right, aligned):
    """bool [sum, sum] of sequences that begin there; what stands behind them sees nothing and is not seen."""
    allowed = np.zeros((starts[-1], key_starts[-1]), bool)
    for n, (rows, keys) in enumerate(zip(lengths, key_lengths)):
        allowed[starts[n]:starts[n] + rows, key_starts[n]:key_starts[n] + keys] = band(rows, keys, left, right, aligned)
    return allowed


@pytest.mark.parametrize("kind, window", [("padding", (-1, -1)), ("padding_causal", (-1, 0)), ("padding_causal", (3, 0)),
                                          ("padding_causal_bottom_right", (-1, 0)), ("padding", (1, 2))])
@pytest.mark.parametrize("is_cross", [False, True])
@pytest.mark.parametrize("behind", [None, 2], ids=["close", "apart"])
def test_packed_sequences_are_documents(kind, window, is_cross, behind):
    key_lengths = KEY_LENGTHS if is_cross else LENGTHS
    starts, key_starts = (np.cumsum([0, *(n + (behind or 0) for n in lengths)]) for lengths in (LENGTHS, key_lengths))
    q, k = random(int(starts[-1]), H, D), random(int(key_starts[-1]), HKV, D, seed=1)
    told = {"cu_seqlens_q": cumulated(LENGTHS), "cu_seqlens_kv": cumulated(key_lengths)}
    if behind is not None:
        told.update(cu_seqlens_q_padded=torch.from_numpy(starts).int(), cu_seqlens_kv_padded=torch.from_numpy(key_starts).int())
    attn = DotProductAttention("thd", kind, attention_type="cross" if is_cross else "self")
    seen = seen_of(attn, q, k, k, window_size=window, **told)
    aligned = "first" if kind == "padding_causal" else "last"
    check(seen, q, k, packed(LENGTHS, key_lengths, starts, key_starts, *window, aligned))


def test_only_the_queries_may_say_where_they_are_apart():
    starts, told = np.cumsum([0, *(n + 2 for n in LENGTHS)]), cumulated(LENGTHS)
    q, k = random(int(starts[-1]), H, D), random(int(told[-1]), HKV, D, seed=1)
    attn = DotProductAttention("thd", "padding", attention_type="cross")
    seen = seen_of(attn, q, k, k, cu_seqlens_q=told, cu_seqlens_kv=told, cu_seqlens_q_padded=torch.from_numpy(starts).int(),
                   cu_seqlens_kv_padded=None)
    check(seen, q, k, packed(LENGTHS, LENGTHS, starts, told.tolist(), -1, -1, "last"))


def test_queries_keys_and_values_may_come_in_one_tensor_or_two():
    q = random(B, T, H, D)
    attn = DotProductAttention("bshd", "causal")
    for told in ({"qkv_layer": torch.stack([q, q, q], 2)}, {"qkv_layer": torch.stack([q, q, q], 3), "qkv_interleave_dim": -2},
                 {"query_layer": q, "kv_layer": torch.stack([q, q], 2)}):
        check(seen_of(attn, **told), q, q, band(T, T, -1, 0))


@pytest.mark.parametrize("layout", ["sbhd", "bshd"])
def test_values_and_the_output_are_laid_out_as_those_of_others(layout):
    args, _, k = given(layout)
    attn = DotProductAttention(layout, "causal", attention_dropout=0.1)
    seen = seen_of(attn, *args)
    assert torch.equal(seen.v, k.transpose(1, 2)) and seen.output.dropped and not seen_of(attn.eval(), *args).output.dropped
    whole = attention(*(x.transpose(0, 1) if layout == "sbhd" else x for x in args)).transpose(1, 2)
    assert torch.equal(seen.output.arrange(seen.output.tensor), whole)


class Group:
    def __init__(self, size):
        self.size = lambda: size


@pytest.mark.parametrize("made, told, why", [
    ({"softmax_type": "learnable"}, {}, "has the softmax 'learnable' of TransformerEngine"),
    ({"cp_group": Group(2)}, {}, "is context parallel"), ({"cp_group": [Group(1), Group(2)]}, {}, "is context parallel"),
    ({}, {"inference_params": object()}, "with inference_params"), ({}, {"g": torch.ones(1)}, "with g"),
    ({}, {"core_attention_bias_type": "pre_scale_bias", "core_attention_bias": torch.ones(1)}, "with a bias (pre_scale_bias)"),
    ({}, {"core_attention_bias_type": "alibi"}, "with a bias (alibi)"),
    ({"attention_type": "cross"}, {"attn_mask_type": "padding_causal_bottom_right"}, "with the mask padding_causal_bottom_right"),
    ({}, {"qkv_format": "thd"}, "and not where they begin"),
    ({}, {"attn_mask_type": "arbitrary", "attention_mask": torch.zeros(1, 1, T, T, dtype=torch.bool), "window_size": (3, 1)},
     "with a mask (arbitrary) and a window")])
def test_what_is_not_understood_is_said_by_name(made, told, why):
    args = [one[0] if "qkv_format" in told else one for one in given("bshd")[0]]
    watcher = called(DotProductAttention("bshd", "causal", **made), *args, **told)
    (path, said), = watcher.unread
    assert path == "attn" and why in said and watcher.seen == []


def test_a_group_of_one_rank_is_no_context_parallelism():
    args, q, k = given("bshd")
    check(seen_of(DotProductAttention("bshd", "causal", cp_group=Group(1)), *args), q, k, band(T, T, -1, 0))
