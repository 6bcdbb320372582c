# SPDX-License-Identifier: MIT
"""Direct calls of flash_attn and xFormers, through stand-ins: the packages need a GPU.

The stand-ins have the signatures of the real functions (flash_attn 2.8, its version 3, xFormers 0.0.30, by their
documentation) and compute in plain torch. What a call means is written here a second time, query by query, from that
documentation, and the weights of every message are compared with float64."""
import contextlib
import inspect
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attnd.base.plan import EVERYTHING, Plan
from attnd.forms import kernels_of_others
from attnd.forms.detours import Detour
from attnd.forms.lookout import lookout_here
from attnd.forms.seen import Queries
from attnd.forms.spy import Spy
from test_calls import messages, random, truth, visible, weights_of
from test_spy import Watcher, modes

B, H, D = 2, 4, 8
BEGIN, KEYS_BEGIN = [0, 3, 4, 9], [0, 5, 7, 13]  # three packed sequences of queries, and of keys
PACKED = pytest.mark.parametrize("begin, keys_begin", [(BEGIN, BEGIN), (BEGIN, KEYS_BEGIN)], ids=["self", "cross"])


# ---------------------------------------------------------------------------------------------- stand-ins

def attention(q, k, v):
    """Something that softmax and a product make of [B, T, H, d]: what is seen must not come from here."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    return (torch.softmax(q @ k.transpose(2, 3), -1) @ v).transpose(1, 2)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                    alibi_slopes=None, deterministic=False, return_attn_probs=False):
    return attention(q, k, v)


def flash_attn_qkvpacked_func(qkv, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                              alibi_slopes=None, deterministic=False, return_attn_probs=False):
    return attention(*qkv.unbind(2))


def flash_attn_kvpacked_func(q, kv, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                             alibi_slopes=None, deterministic=False, return_attn_probs=False):
    return attention(q, *kv.unbind(2))


def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                           softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None,
                           deterministic=False, return_attn_probs=False, block_table=None):
    return attention(q[None], k[None], v[None])[0]


def flash_attn_varlen_qkvpacked_func(qkv, cu_seqlens, max_seqlen, dropout_p=0.0, softmax_scale=None, causal=False,
                                     window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False,
                                     return_attn_probs=False):
    return attention(*qkv[None].unbind(2))[0]


def flash_attn_varlen_kvpacked_func(q, kv, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
                                    softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                                    alibi_slopes=None, deterministic=False, return_attn_probs=False):
    return attention(q[None], *kv[None].unbind(2))[0]


def flash_attn_3_func(q, k, v, softmax_scale=None, causal=False, qv=None, q_descale=None, k_descale=None,
                      v_descale=None, window_size=(-1, -1), attention_chunk=0, softcap=0.0, num_splits=1, pack_gqa=None,
                      deterministic=False, sm_margin=0, return_attn_probs=False):
    return attention(q, k, v)


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None, output_dtype=None):
    if query.dim() != 4:
        return value
    return attention(query, key, value)


LowerTriangularMask = type("LowerTriangularMask", (), {})
LowerTriangularFromBottomRightMask = type("LowerTriangularFromBottomRightMask", (LowerTriangularMask,), {})


class LocalAttentionFromBottomRightMask:
    def __init__(self, window_left, window_right):
        self.window_left, self.window_right = window_left, window_right


class SequenceInfo:
    def __init__(self, begin):
        self.seqstart, self.seqstart_py = torch.tensor(begin, dtype=torch.int32), begin


class BlockDiagonalMask:
    def __init__(self, begin, keys_begin):
        self.q_seqinfo = SequenceInfo(begin)
        self.k_seqinfo = self.q_seqinfo if keys_begin is begin else SequenceInfo(keys_begin)


BlockDiagonalCausalMask = type("BlockDiagonalCausalMask", (BlockDiagonalMask,), {})
BlockDiagonalCausalFromBottomRightMask = type("BlockDiagonalCausalFromBottomRightMask", (BlockDiagonalCausalMask,), {})


class SomeOtherMask:
    """One that has no words here: hides a third of the keys from each query."""

    def materialize(self, shape, dtype=torch.float32, device="cpu"):
        hidden = torch.from_numpy(~third(*shape[-2:]))
        return torch.zeros(shape, dtype=dtype, device=device).masked_fill(hidden, -np.inf)


def third(queries, keys):
    """What SomeOtherMask leaves."""
    return (np.arange(queries)[:, None] + np.arange(keys)[None]) % 3 != 0


STAND_INS = {
    "flash_attn.flash_attn_interface": [
        flash_attn_func, flash_attn_qkvpacked_func, flash_attn_kvpacked_func, flash_attn_varlen_func,
        flash_attn_varlen_qkvpacked_func, flash_attn_varlen_kvpacked_func],
    "xformers.ops.fmha": [memory_efficient_attention]}


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    """They are imported. The package flash_attn gives the same functions as its module."""
    for name, functions in STAND_INS.items():
        module = types.ModuleType(name)
        for function in functions:
            setattr(module, function.__name__, function)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, name.partition(".")[0], module)
    third = types.ModuleType("flash_attn_interface")
    third.flash_attn_func = flash_attn_3_func
    monkeypatch.setitem(sys.modules, "flash_attn_interface", third)
    codes = {function: function.__code__ for functions in STAND_INS.values() for function in functions}
    names = set(globals())
    yield
    assert all(function.__code__ is code for function, code in codes.items()) and set(globals()) == names


def test_a_detour_has_the_parameters_of_the_function():
    def kernel(a, b, /, c, d=4, *e, f, g=8, **h):
        return a, b, c, d, e, f, g, h

    def enclosing(x=1, *, y):
        return kernel, x, y

    def plain():
        return 5

    calls = [(kernel, (1, 2, 3, 5, 6, 7), {"f": 1, "j": 2}), (enclosing, (), {"y": 2}), (plain, (), {})]
    for function, args, kwargs in calls:
        signature, expected = inspect.signature(function), function(*args, **kwargs)
        detour = Detour(function, lambda original, args, kwargs: ("seen", original(*args, **kwargs)))
        assert inspect.signature(function) == signature
        assert function(*args, **kwargs) == ("seen", expected)
        detour.end()


def test_who_has_begun_a_call_arrives_although_the_detour_ends():
    factor = 3

    def scaled(x, more=1):
        return factor * x + more

    detour = Detour(scaled, lambda original, args, kwargs: -original(*args, **kwargs))
    begun = types.FunctionType(scaled.__code__, scaled.__globals__, "begun", None, scaled.__closure__)
    assert scaled(2) == -7
    detour.end()  # by another thread
    assert scaled(2, more=2) == 8 and begun(2, more=2) == -8


def test_functions_of_one_name_have_a_detour_each():
    def decorated(factor):
        def kernel(x):
            return factor * x
        return kernel

    kernels = [decorated(2), decorated(3)]
    detours = [Detour(kernel, lambda original, args, kwargs: -original(*args, **kwargs)) for kernel in kernels]
    assert [kernel(1) for kernel in kernels] == [-2, -3]
    for detour in detours:
        detour.end()
    assert [kernel(1) for kernel in kernels] == [2, 3]


class Calls(torch.nn.Module):
    """Calls a kernel that it has bound long ago."""

    def __init__(self, kernel):
        super().__init__()
        self.attn = torch.nn.Module()
        self.attn.forward = kernel

    def forward(self, *args, **kwargs):
        return self.attn(*args, **kwargs)


@contextlib.contextmanager
def spied(model):
    """The spy of a model, for as long as this lasts."""
    spy = Spy(model, Watcher())
    spy.install()
    try:
        yield spy
    finally:
        spy.remove()


def watched(model, *args, **kwargs):
    """The watcher of one call of a model's `attn`, whose result is that of a call without attnd."""
    with spied(model) as spy:
        result = model(*args, **kwargs)
    assert torch.equal(result, model(*args, **kwargs)) and not spy.watcher.failures, spy.watcher.failures
    return spy.watcher


def seen_of(kernel, *args, **kwargs):
    """What is seen of one call."""
    (path, seen), = watched(Calls(kernel), *args, **kwargs).seen
    assert path == "attn" and isinstance(seen, Queries)
    return seen


def check(seen, q, k, allowed, plan=EVERYTHING, is_cross=None, **more):
    """The messages of what was seen say these weights: q [B, T, H, d] or packed [T, H, d], allowed [Tq, Tk] or more axes.
    `is_cross`: by default where there are more or fewer queries than keys."""
    q, k = ((x if x.dim() == 4 else x[None]).transpose(1, 2) for x in (q, k))
    is_cross = q.shape[2] != k.shape[2] if is_cross is None else is_cross
    message, = messages(seen, plan, layer=("decoder", 0, "cross" if is_cross else "self"))
    part = slice(0, plan.samples or len(q)), slice(None), plan.row_slice(0, q.shape[2])
    allowed = np.broadcast_to(allowed, (len(q), 1, q.shape[2], k.shape[2]))
    expected = truth(q, k, allowed, **more)[part]
    counted = visible(message).any(-1)
    if "q_len" in message[0]:
        counted &= np.arange(counted.shape[1]) < np.array(message[0]["q_len"])[:, None]
    assert (counted == allowed[part][:, 0].any(-1)).all()
    sees = allowed[part].any(-1)[..., None]
    np.testing.assert_allclose(weights_of(message) * sees, expected, atol=3e-6)


def starts(*begins):
    """As `cu_seqlens` says where packed sequences begin."""
    return [torch.tensor(begin, dtype=torch.int32) for begin in begins]


def band(queries, keys, left=-1, right=-1, aligned="last"):
    """bool [queries, keys], as the documentation of flash_attn says it, one by one."""
    allowed = np.zeros((queries, keys), bool)
    for i in range(queries):
        stands = i + (keys - queries if aligned == "last" else 0)
        for j in range(keys):
            allowed[i, j] = (left < 0 or j >= stands - left) and (right < 0 or j <= stands + right)
    return allowed


def packed(begin, keys_begin, left=-1, right=-1, aligned="last"):
    """bool [queries, keys] of packed sequences."""
    allowed = np.zeros((begin[-1], keys_begin[-1]), bool)
    for a, b, c, d in zip(begin, begin[1:], keys_begin, keys_begin[1:]):
        allowed[a:b, c:d] = band(b - a, d - c, left, right, aligned)
    return allowed


def alibi(slopes, queries, keys):
    """[B or 1, H, queries, keys] that is added."""
    distance = abs(np.arange(queries)[:, None] + keys - queries - np.arange(keys)[None])
    slopes = slopes.numpy()
    return -(slopes[None] if slopes.ndim == 1 else slopes)[:, :, None, None] * distance


# ---------------------------------------------------------------------------------------------- flash_attn

FORMS = {"all": {}, "causal": {"causal": True}, "window": {"causal": True, "window_size": (2, 0)},
         "causal within a wide window": {"causal": True, "window_size": (2, 5)}, "right": {"window_size": (-1, 1)},
         "both sides": {"window_size": (2, 2)}, "more on the left": {"window_size": (3, 1)},
         "left": {"window_size": (2, -1)}}


def band_of(form):
    left, right = form.get("window_size", (-1, -1))
    return left, 0 if form.get("causal") else right


@pytest.mark.parametrize("lengths", [(9, 9), (4, 9), (9, 4)])
@pytest.mark.parametrize("form", FORMS)
def test_flash_attention_is_captured_with_its_window_at_the_last_key(form, lengths):
    q, k = random(B, lengths[0], H, D), random(B, lengths[1], 2, D, seed=1)
    seen = seen_of(flash_attn_func, q, k, k, softmax_scale=0.3, **FORMS[form])
    check(seen, q, k, band(*lengths, *band_of(FORMS[form])), scale=0.3)


@pytest.mark.parametrize("kernel, given", [
    (flash_attn_qkvpacked_func, lambda q, k: ((torch.stack([q, k, k], 2), 0.0, 0.3, True), {})),
    (flash_attn_kvpacked_func, lambda q, k: ((q, torch.stack([k, k], 2)), {"causal": True, "softmax_scale": 0.3})),
    (flash_attn_func, lambda q, k: ((), {"v": k, "k": k, "q": q, "causal": True, "softmax_scale": 0.3})),
    (flash_attn_3_func, lambda q, k: ((q, k, k, 0.3, True), {}))], ids=["qkv", "kv", "keywords", "third"])
def test_all_ways_to_pass_them_are_the_same(kernel, given):
    q, k = random(B, 6, H, D), random(B, 6, H, D, seed=1)
    args, kwargs = given(q, k)
    seen = seen_of(kernel, *args, **kwargs)
    assert seen.causal and seen.mask is seen.late_mask is None
    check(seen, q, k, band(6, 6, -1, 0), scale=0.3)


@pytest.mark.parametrize("form", FORMS)
@PACKED
def test_packed_sequences_are_documents(form, begin, keys_begin):
    q, k = random(begin[-1], H, D), random(keys_begin[-1], H, D, seed=1)
    seen = seen_of(flash_attn_varlen_func, q, k, k, *starts(begin, keys_begin), 5, 6, **FORMS[form])
    check(seen, q, k, packed(begin, keys_begin, *band_of(FORMS[form])))


@pytest.mark.parametrize("form", [form for form in FORMS if "causal" not in FORMS[form]])  # which the sender thread refuses
def test_queries_and_keys_may_be_packed_in_other_ways_of_one_length(form):
    q, k, keys_begin = random(9, H, D), random(9, H, D, seed=1), [0, 4, 6, 9]
    seen = seen_of(flash_attn_varlen_func, q, k, k, *starts(BEGIN, keys_begin), 5, 6, **FORMS[form])
    check(seen, q, k, packed(BEGIN, keys_begin, *band_of(FORMS[form])), is_cross=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("slopes", [None, random(H).abs()], ids=["plain", "slopes"])
@pytest.mark.parametrize("plan", [EVERYTHING, Plan(rows=4)], ids=["all", "part"])
def test_what_stands_behind_the_last_sequence_is_padding(form, slopes, plan):
    q, (begin,) = random(12, H, D), starts([*BEGIN, BEGIN[-1]])
    seen = seen_of(flash_attn_varlen_func, q, q, q, begin, begin, 5, 6, alibi_slopes=slopes, **FORMS[form])
    allowed = np.zeros((12, 12), bool)
    allowed[:9, :9] = packed(BEGIN, BEGIN, *band_of(FORMS[form]))
    bias = np.zeros((1, H, 12, 12))
    for a, b in zip(BEGIN, BEGIN[1:]):
        bias[0, :, a:b, a:b] = 0 if slopes is None else alibi(slopes, b - a, b - a)[0]
    check(seen, q, q, allowed, plan, bias=bias)


def test_packed_sequences_in_one_tensor():
    q, k, (begin,) = random(9, H, D), random(9, H, D, seed=1), starts(BEGIN)
    for seen in (seen_of(flash_attn_varlen_qkvpacked_func, torch.stack([q, k, k], 1), begin, 5, causal=True),
                 seen_of(flash_attn_varlen_kvpacked_func, q, torch.stack([k, k], 1), begin, begin, 5, 5, causal=True)):
        assert seen.documents is not None and seen.late_mask is None
        check(seen, q, k, packed(BEGIN, BEGIN, -1, 0))


@pytest.mark.parametrize("slopes", [random(H).abs(), random(B, H).abs()], ids=["heads", "samples"])
@pytest.mark.parametrize("plan", [EVERYTHING, Plan(samples=1, rows=3)], ids=["all", "part"])
def test_slopes_are_a_bias(slopes, plan):
    q, k = random(B, 6, H, D), random(B, 8, H, D, seed=1)
    seen = seen_of(flash_attn_func, q, k, k, causal=True, alibi_slopes=slopes, softcap=2.0)
    check(seen, q, k, band(6, 8, -1, 0), plan, bias=alibi(slopes, 6, 8), softcap=2.0)


def test_slopes_of_packed_sequences_are_those_of_the_sequence():
    q, k, slopes = random(9, H, D), random(13, H, D, seed=1), random(3, H).abs()
    seen = seen_of(flash_attn_varlen_func, q, k, k, *starts(BEGIN, KEYS_BEGIN), 5, 6, alibi_slopes=slopes)
    bias = np.zeros((1, H, 9, 13))
    for n, (a, b, c, d) in enumerate(zip(BEGIN, BEGIN[1:], KEYS_BEGIN, KEYS_BEGIN[1:])):
        bias[0, :, a:b, c:d] = alibi(slopes[n], b - a, d - c)[0]
    check(seen, q, k, packed(BEGIN, KEYS_BEGIN), bias=bias)


# ------------------------------------------------------------------------------------------------ xFormers

@pytest.mark.parametrize("lengths", [(9, 9), (4, 9)])
@pytest.mark.parametrize("mask, allowed", [
    (None, band), (LowerTriangularMask(), lambda q, k: band(q, k, -1, 0, "first")),
    (LowerTriangularFromBottomRightMask(), lambda q, k: band(q, k, -1, 0)),
    (LocalAttentionFromBottomRightMask(2, 1), lambda q, k: band(q, k, 2, 1)), (SomeOtherMask(), third)],
    ids=["none", "causal", "from bottom right", "local", "other"])
def test_xformers_is_captured_with_its_mask(mask, allowed, lengths):
    q, k = random(B, lengths[0], H, D), random(B, lengths[1], H, D, seed=1)
    check(seen_of(memory_efficient_attention, q, k, k, attn_bias=mask, scale=0.3), q, k, allowed(*lengths), scale=0.3)


@pytest.mark.parametrize("kind, aligned, right", [
    (BlockDiagonalMask, "first", -1), (BlockDiagonalCausalMask, "first", 0),
    (BlockDiagonalCausalFromBottomRightMask, "last", 0)])
@PACKED
def test_blocks_of_xformers_are_documents(kind, aligned, right, begin, keys_begin):
    q, k = random(1, begin[-1], H, D), random(1, keys_begin[-1], H, D, seed=1)
    seen = seen_of(memory_efficient_attention, q, k, k, kind(begin, keys_begin))
    check(seen, q, k, packed(begin, keys_begin, -1, right, aligned))


def test_a_bias_of_xformers_is_a_bias():
    q, k, bias = random(B, 5, H, D), random(B, 5, H, D, seed=1), random(B, H, 5, 5, seed=2)
    check(seen_of(memory_efficient_attention, q, k, k, bias), q, k, True, bias=bias.numpy())


def test_groups_of_heads_share_keys_and_three_axes_are_one_head():
    q, k = random(B, 5, 2, 3, D), random(B, 5, 2, 1, D, seed=1)
    seen = seen_of(memory_efficient_attention, q, k.expand(-1, -1, -1, 3, -1), k)
    assert seen.k.shape == (B, 2, 5, D)
    check(seen, q.flatten(2, 3), k[:, :, :, 0], True)
    q, k, bias = random(B, 5, D), random(B, 5, D, seed=1), random(B, 5, 5, seed=2)
    check(seen_of(memory_efficient_attention, q, k, k, bias), q[:, :, None], k[:, :, None], True, bias=bias[:, None].numpy())


# ------------------------------------------------------------------------------------------- around a call


def said_of(kernel, *args, **kwargs):
    """Why nothing is captured of one call, which runs."""
    watcher = watched(Calls(kernel), *args, **kwargs)
    (path, why), = watcher.unread
    assert path == "attn" and watcher.seen == []
    return why


def test_what_is_not_understood_is_said_with_the_path_and_runs():
    q, (begin,) = random(5, H, D), starts([0, 5])
    assert said_of(flash_attn_varlen_func, q, q, q, begin, begin, 5, 5,
                   block_table=torch.zeros(1, 1, dtype=torch.int32)) == "calls flash_attn with block_table"
    q = random(B, 5, H, D)
    assert said_of(flash_attn_3_func, q, q, q, qv=q) == "calls flash_attn with qv"


def test_a_module_is_looked_at_again_after_a_call_that_was_not_understood():
    chunks, q = iter((0, 2, 0)), random(B, 5, H, D)
    with spied(Calls(lambda q: flash_attn_3_func(q, q, q, attention_chunk=next(chunks)))) as spy:
        for _ in range(3):
            spy.root(q)
    assert len(spy.watcher.seen) == 2 and spy.watcher.unread == [("attn", "calls flash_attn with attention_chunk")]


@pytest.mark.skipif(not hasattr(torch, "float8_e4m3fn"), reason="this torch has no fp8")
def test_fp8_is_said_by_name():
    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, q_descale=None, k_descale=None):
        return attention(*(x.float() for x in (q, k, v)))

    sys.modules["flash_attn_interface"].flash_attn_func = flash_attn_func
    q, scales = random(B, 5, H, D).to(torch.float8_e4m3fn), torch.ones(B, H)
    assert said_of(flash_attn_func, q, q, q, q_descale=scales, k_descale=scales) == \
        "computes with float8_e4m3fn, whose scales are elsewhere"


@pytest.mark.parametrize("name", ["flash_attn_3.flash_attn_interface", "flashattn_hopper.flash_attn_interface",
                                  "flash_attn3_a1b2c3.flash_attn_interface"])
def test_version_3_is_seen_by_whatever_name_it_is_installed(name, monkeypatch):
    def flash_attn_func(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1)):
        return attention(q, k, v)

    monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[name].flash_attn_func = flash_attn_func
    q = random(B, 5, H, D)
    check(seen_of(flash_attn_func, q, q, q, causal=True), q, q, band(5, 5, -1, 0))


def _flash_attn_forward(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout_p: float, softmax_scale: float, causal: bool,
                        window_size_left: int = -1, window_size_right: int = -1) -> torch.Tensor:
    return attention(q * softmax_scale, k, v)


@pytest.mark.parametrize("is_operator", [False, True])
def test_ring_attention_is_said_by_name_and_finds_the_parameters_that_it_looks_for(is_operator):
    """Its package asks for the parameters of flash_attn's own function each time, and passes them all. That is an operator
    since torch 2.4."""
    kernel = _flash_attn_forward
    if is_operator and not hasattr(torch.library, "custom_op"):
        pytest.skip("this torch has no custom_op")
    if is_operator:
        kernel = torch.library.custom_op("attnd_test::flash_attn_forward", _flash_attn_forward, mutates_args=())
    sys.modules["flash_attn.flash_attn_interface"]._flash_attn_forward = kernel

    def ring(q, k, v):
        parts = []
        for part in k.chunk(2, 1):
            spec = inspect.getfullargspec(getattr(kernel, "_init_fn", kernel))
            given = dict(zip(spec.args, (None,) * (len(spec.args) - len(spec.defaults)) + spec.defaults))
            given.update(q=q, k=part, v=part, dropout_p=0.0, softmax_scale=0.5, causal=False)
            parts.append(kernel(**given))
        return sum(parts)
    q = random(B, 4, H, D)
    with spied(Calls(ring)) as spy:
        result, watcher = spy.root(q, q, q), spy.watcher
    assert torch.equal(result, ring(q, q, q)) and watcher.seen == watcher.failures == [] and modes() == 0
    assert {path for path, _ in watcher.unread} == {"attn"}
    assert all("_flash_attn_forward of flash_attn by itself, as ring attention does" in why for _, why in watcher.unread)


def test_a_kernel_within_a_kernel_is_one():
    """What the functions of flash_attn call themselves is no ring."""
    def _flash_attn_forward(q, k, v):
        return attention(q, k, v)

    def flash_attn_func(q, k, v, softmax_scale=None, causal=False):
        return _flash_attn_forward(q, k, v)

    module = sys.modules["flash_attn.flash_attn_interface"]
    module._flash_attn_forward, module.flash_attn_func = _flash_attn_forward, flash_attn_func
    q = random(B, 5, H, D)
    check(seen_of(flash_attn_func, q, q, q), q, q, True)


@pytest.mark.parametrize("window, more", [((-1, -1), {}), ((-1, 0), {}), ((3, 0), {"scale": 0.3}), ((2, 2), {}), ((3, 1), {})])
@PACKED
def test_varlen_attn_of_torch_is_read_by_its_window(window, more, begin, keys_begin):
    q, k = random(begin[-1], H, D), random(keys_begin[-1], 2, D, seed=1)
    at, keys_at = starts(begin, keys_begin)
    seen = kernels_of_others.varlen({"query": q, "key": k, "value": k, "cu_seq_q": at, "cu_seq_k": keys_at,
                                     "window_size": window, **more})
    check(seen, q, k, packed(begin, keys_begin, *window), **more)


@pytest.mark.skipif(not hasattr(torch._C, "_len_torch_function_stack"), reason="modes of torch 1.13 are no stack")
def test_a_mode_of_the_model_around_a_kernel_is_its_own():
    class Counting(torch.overrides.TorchFunctionMode):
        count = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Counting.count += 1
            return func(*args, **(kwargs or {}))

    def within(q):
        with Counting():
            made = flash_attn_func(q, q, q)
            count = Counting.count
            made = flash_attn_func(made, q, q)
        assert Counting.count > count and modes() == before
        return made

    q, before = random(B, 5, H, D), 1
    with spied(Calls(within)) as spy:
        result = spy.root(q)
    before = 0
    assert torch.equal(result, within(q)) and modes() == 0
    assert [path for path, _ in spy.watcher.seen] == ["attn"] * 2 and not spy.watcher.failures


@pytest.mark.skipif(not hasattr(torch.device, "__enter__"), reason="a device is no mode in torch 1.13")
def test_a_mode_that_hooks_of_the_model_put_around_its_forward_leaves_none_of_ours():
    device, q, model = torch.device("cpu"), random(B, 5, H, D), Calls(flash_attn_func)
    model.register_forward_pre_hook(lambda module, args: device.__enter__() and None)
    model.register_forward_hook(lambda module, args, output: device.__exit__(None, None, None))
    for _ in range(3):
        with spied(model) as spy:
            model(q, q, q)
        assert modes() == 0 and len(spy.watcher.seen) == 1


def test_an_exception_of_a_kernel_is_that_of_the_model():
    with spied(Calls(flash_attn_func)) as spy, pytest.raises(RuntimeError, match="Expected size"):
        spy.root(random(1, 4, H, D), random(1, 4, H, 3), random(1, 4, H, 3))
    assert spy.watcher.seen == spy.watcher.failures == []


def test_a_function_of_transformers_says_what_its_kernel_did():
    def through_interface(*args):
        with lookout_here().inside_interface(None):
            return flash_attn_func(*args)

    q = random(B, 5, H, D)
    with spied(Calls(through_interface)) as spy:
        with_it = spy.root(q, q, q)
    assert torch.equal(with_it, flash_attn_func(q, q, q))
    assert all(not isinstance(seen, Queries) for _, seen in spy.watcher.seen)


ONE_SEQUENCE = torch.tensor([0, 5])


@pytest.mark.parametrize("kernel, given", [
    (flash_attn_func, lambda q, k, v: (q, k, v)),
    (flash_attn_qkvpacked_func, lambda q, k, v: (torch.stack([q, k, v], 2),)),
    (flash_attn_kvpacked_func, lambda q, k, v: (q, torch.stack([k, v], 2))),
    (flash_attn_varlen_func, lambda q, k, v: (q[0], k[0], v[0], ONE_SEQUENCE, ONE_SEQUENCE, 5, 5)),
    (flash_attn_varlen_qkvpacked_func, lambda q, k, v: (torch.stack([q, k, v], 2)[0], ONE_SEQUENCE, 5)),
    (flash_attn_varlen_kvpacked_func,
     lambda q, k, v: (q[0], torch.stack([k, v], 2)[0], ONE_SEQUENCE, ONE_SEQUENCE, 5, 5)),
    (memory_efficient_attention, lambda q, k, v: (q, k, v)),
    (memory_efficient_attention, lambda q, k, v: (q[:, :, 0], k[:, :, 0], v[:, :, 0])),
    (memory_efficient_attention, lambda q, k, v: tuple(x.unflatten(2, (2, 2)) for x in (q, k, v))),
    (memory_efficient_attention, lambda q, k, v: (
        q.unflatten(2, (2, 2)), *(x[:, :, :2, None].expand(-1, -1, -1, 2, -1) for x in (k, v))))])
def test_the_values_of_a_kernel_are_those_that_it_is_given(kernel, given):
    q, k, v = (random(1, 5, H, D, seed=seed) for seed in range(3))
    seen = seen_of(kernel, *given(q, k, v))
    assert torch.equal(seen.v, v.transpose(1, 2)[:, :seen.k.shape[1]])
    assert torch.equal(seen.k, k.transpose(1, 2)[:, :seen.v.shape[1]])
    made = seen.output.tensor  # as a gradient of it is laid out
    assert torch.equal(made, kernel(*given(q, k, v))) and not seen.output.dropped
    if kernel is not memory_efficient_attention or made.dim() == 4:
        assert torch.equal(seen.output.arrange(made), attention(q, k, v).transpose(1, 2))
    assert seen.output.arrange(made).shape == (*seen.q.shape[:3], D)


@pytest.mark.parametrize("kernel, option", [(flash_attn_func, "dropout_p"), (memory_efficient_attention, "p")])
def test_dropout_of_a_kernel_is_seen(kernel, option):
    q = random(1, 5, H, D)
    assert seen_of(kernel, q, q, q, **{option: 0.1}).output.dropped


def test_what_is_published_by_hand_is_not_captured_twice():
    def publishes(*args):
        spy.told()  # as attnd.publish_qk does
        return flash_attn_func(*args)

    q = random(B, 5, H, D)
    with spied(Calls(publishes)) as spy:
        spy.root(q, q, q)
    assert spy.watcher.seen == spy.watcher.failures == []


def test_functions_with_enclosed_variables_and_defaults_are_seen_too(monkeypatch):
    def made(scaled, *, offset=0):
        def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, *, twice=2):
            return attention(q * scaled, k, v) * twice + offset
        return flash_attn_func

    kernel, q = made(0.5), random(B, 5, H, D)
    monkeypatch.setattr(sys.modules["flash_attn.flash_attn_interface"], "flash_attn_func", kernel)
    check(seen_of(kernel, q, q, q, softmax_scale=0.2), q, q, True, scale=0.2)
