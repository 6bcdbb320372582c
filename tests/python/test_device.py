# SPDX-License-Identifier: MIT
"""attnd.device: the reference against float64 numpy, its arguments, and what it holds."""
import itertools
import math
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd  # noqa: E402
from attnd.device import reference, visible, weights  # noqa: E402
from conftest import PACKAGE  # noqa: E402
from attnd.base.masks import describe  # noqa: E402
from attnd.capture.padding import valid_queries  # noqa: E402
from attnd.device.problem import Problem  # noqa: E402
from attnd.sending.devices import DTYPE_NAMES  # noqa: E402
from attnd.sending.rows import Rows  # noqa: E402
from finished import finish  # noqa: E402
from device_grid import formulas, MASKS, NO_TOKENS, SHAPES, VALUES, agree, agree_of_message, make, message, problems, truth  # noqa: E402


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("mask", MASKS)
def test_the_reference_agrees_with_numpy(mask, values):
    for shape, dtype in problems(mask, values):
        q, k, words = make(mask, values, shape, dtype)
        agree(attnd.device.row_statistics(q, k, backend="reference", **words), q, k, words)


@pytest.mark.parametrize("mask", ["causal offset", "causal documents lengths", "hidden bool lengths", "cross lengths"])
def test_chunks_of_samples_keys_heads_and_queries_give_the_same(mask, monkeypatch):
    q, k, words = make(mask, "plain", (3, 4, 2, 30, 40, 16), "f64")
    whole = attnd.device.row_statistics(q, k, backend="reference", **words)
    monkeypatch.setattr(reference, "_ENTRIES", 300)
    monkeypatch.setattr(reference, "_NUMBERS", 400)
    for name, value in attnd.device.row_statistics(q, k, backend="reference", **words).items():
        torch.testing.assert_close(value, whole[name], equal_nan=True)


def test_a_sample_of_rows_has_the_numbers_of_these_rows():
    for mask in ("causal", "window", "causal documents lengths", "bias", "causal hidden", "sinks softcap bias causal window offset lengths"):
        q, k, words = make(mask, "plain", (2, 4, 2, 35, 35, 16), "f64")
        if "offset" in mask:
            words["q_offset"] = 0
        whole = attnd.device.row_statistics(q, k, **words)
        for first, stride in ((0, 2), (3, 5), (30, 40)):
            some = dict(words, q_offset=first, q_stride=stride)
            if "bias" in words and words["bias"].shape[-2] > 1:
                some["bias"] = words["bias"][..., first::stride, :]
            if "q_len" in words:
                some["q_len"] = [max(0, -((first - n) // stride)) for n in words["q_len"]]
            found = attnd.device.row_statistics(q[:, :, first::stride], k, **some)
            by_rows = ("first_token", "entropy_sans_first") if "bias" in words else ()  # a mask's blocks are those of the rows there are
            for name, value in ((name, value) for name, value in found.items() if name not in by_rows):
                torch.testing.assert_close(value, whole[name][:, :, first::stride], equal_nan=True, msg=lambda m: f"{mask} {name}: {m}")
    with pytest.raises(ValueError, match="q_stride = 0: must be an integer, 1 to"):
        attnd.device.row_statistics(q, k, q_stride=0)


def test_texts_that_a_mask_keeps_apart_have_the_numbers_of_documents():
    q, k, _ = make("causal", "plain", (2, 4, 2, 24, 24, 16), "f64")
    text, j = torch.arange(24).expand(2, -1) // torch.tensor([[7], [10]]), torch.arange(24)
    for more in ({"causal": True}, {}, {"causal": True, "window": 5}):
        by_text = attnd.device.row_statistics(q, k, documents=text, **more)
        by_mask = attnd.device.row_statistics(q, k, bias=(text[:, :, None] == text[:, None])[:, None], **more)
        for name, value in by_text.items():
            torch.testing.assert_close(by_mask[name], value, equal_nan=True, msg=lambda m: f"{more} {name}: {m}")
    assert torch.isnan(by_text["first_token"]).sum() == 4 * (4 + 3)  # the first tokens themselves
    band = attnd.device.row_statistics(q, k, bias=(j <= j[:, None]) & (j > j[:, None] - 5))
    assert (band["first_token"][..., 5:] == 0).all() and torch.isnan(band["first_token"]).sum() == 8


def test_padding_on_the_left_is_no_first_token():
    q, k, _ = make("causal", "plain", (1, 4, 2, 24, 24, 16), "f64")
    whole = attnd.device.row_statistics(q[:, :, 9:], k[:, :, 9:], causal=True)
    padded = attnd.device.row_statistics(q, k, causal=True, bias=(torch.arange(24) >= 9).view(1, 1, 1, 24))
    for name in ("first_token", "entropy_sans_first", "entropy"):
        torch.testing.assert_close(padded[name][:, :, 9:], whole[name], equal_nan=True, msg=lambda m: f"{name}: {m}")
    counted = [finish(attnd.device.rows(*one, causal=True, **more))["sound"].sum()
               for one, more in (((q[:, :, 9:], k[:, :, 9:]), {}), ((q, k), {"bias": (torch.arange(24) >= 9).view(1, 1, 1, 24)}))]
    assert counted[0] == counted[1] == 4 * 15


def sums_of(maps, words, sink, tokens=None):
    """The Rows of explicit weights."""
    found = weights.columns(maps, words, tokens)
    return Rows(tuple(found.of_rows), torch.stack(list(found.of_rows.values())).float().numpy(), found.places.numpy(), *maps.shape[2:],
                weights=DTYPE_NAMES[maps.dtype], learned_sink=sink)


def test_a_sink_does_not_focus_the_head_beside_it():
    q, k = torch.zeros(1, 1, 12, 8), torch.zeros(1, 1, 12, 8)
    found = attnd.device.row_statistics(q, k, sinks=torch.tensor([math.log(12 * 49)]))
    for name, value in {"sink_deficit": 0.98, "entropy_normalized": 1, "effective_keys": 12, "confidence": 1 / 12, "diagonal": 1 / 12,
                        "entropy_sans_first": 1, "tail_mass": 4 / 12}.items():
        assert found[name].numpy() == pytest.approx(np.full((1, 1, 12), value), rel=1e-6), name
    explicit = finish(sums_of(torch.full((1, 1, 2, 12), 0.02 / 12) * torch.tensor([[1.0], [0.0]]), weights.Words(), True))
    assert explicit["effective_keys"][0, 0, 0] == pytest.approx(12) and explicit["sink_deficit"][0, 0].tolist() == pytest.approx([0.98, 1])
    assert all(np.isnan(value[0, 0, 1]) for name, value in explicit.items() if name not in ("sink_deficit", "sound", "invalid", "message"))


def test_autocast_and_gradients_do_not_reach_it():
    q, k, words = make("causal", "plain", SHAPES[1], "f32")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attnd.device.row_statistics(q.requires_grad_(), k, **words)
    assert not any(value.requires_grad for value in found.values())
    agree(found, q.detach(), k, words)


BAD_ARGUMENTS = [
    ({"k": torch.zeros(1, 3, 5, 16)}, "Hk divide H"), ({"k": torch.zeros(1, 2, 5, 8)}, "B and d must be equal"),
    ({"k": torch.zeros(1, 2, 5, 16).half()}, "one of f16, bf16, f32, f64"), ({"k": torch.zeros(2, 5, 16)}, "must be [B, H, Tq, d]"),
    ({"window": -1}, "window = -1"), ({"window": 1.5}, "window = 1.5"), ({"q_offset": -1}, "q_offset = -1"),
    ({"scale": float("nan")}, "scale = nan"), ({"softcap": -1.0}, "softcap = -1.0"), ({"k_len": [6]}, "k_len = 6"),
    ({"q_len": [1, 1]}, "must be 1 integers"), ({"k_len": torch.ones(1)}, "must be 1 integers"),
    ({"bias": torch.zeros(3, 5)}, "broadcastable to (1, 4, 5, 5)"), ({"bias": torch.zeros(5, 5).int()}, "must be bool or real"),
    ({"sinks": torch.zeros(2)}, "must be (4,)"), ({"documents": torch.zeros(1, 4)}, "must be (1, 5)"),
    ({"backend": "cuda"}, "must be one of auto, reference, triton"),
    ({"q": np.zeros((1, 4, 5, 16), "f4")}, "q of type ndarray: must be a torch.Tensor"), ({"k": None}, "k of type NoneType"),
    ({"bias": [[0.0]]}, "bias of type list"), ({"sinks": 0.5}, "sinks of type float"),
    ({"documents": np.zeros((1, 5))}, "documents of type ndarray"), ({"window": (4, 0)}, "window = (4, 0): must be an integer"),
    ({"scale": "1"}, "scale = '1': must be a finite number"), ({"softcap": [1.0]}, "softcap = [1.0]"),
    ({"causal": "no"}, "causal = 'no': must be True or False"), ({"cross": 2}, "cross = 2: must be"), ({"k_len": 6}, "k_len = 6"),
    ({"k_len": "5"}, "k_len = '5'"), ({"q_len": {}}, "must be 1 integers"), ({"q_len": 2.5}, "q_len = 2.5"),
    ({"q_offset": torch.ones(2)}, "q_offset = tensor"), ({"q": torch.zeros(1, 4, 5, 16, device="meta")}, "q on device meta"),
    ({"bias": torch.zeros(5, 5, device="meta")}, "bias on device meta"),
    ({"k": torch.zeros(1, 2, 5, 16).to_sparse()}, "k is sparse"), ({"bias": torch.eye(5).to_sparse()}, "bias is sparse")]
BAD_COUNTS = [({"heads": "2"}, "heads = '2'"), ({"heads": 3}, "heads = 3: must be 4 to"), ({"sampled_of": 4}, "sampled_of = 4: must be 5 to")]


@pytest.mark.parametrize("name, wrong, said", [*(("row_statistics", *one) for one in BAD_ARGUMENTS),
                                               *(("rows", *one) for one in BAD_COUNTS)])
def test_bad_arguments_and_counts_are_named(name, wrong, said):
    right = {"q": torch.zeros(1, 4, 5, 16), "k": torch.zeros(1, 2, 5, 16)}
    with pytest.raises(ValueError, match=re.escape(said)):
        getattr(attnd.device, name)(**{**right, **wrong})


@pytest.mark.parametrize("name", ["rows", "pooled_maps", "lse_statistics"])
def test_bad_arguments_of_the_other_functions_are_named(name):
    function = getattr(attnd.device, name)
    q = torch.zeros(1, 2, 5, 8)
    more = {"lse": torch.zeros(1, 2, 5)} if name == "lse_statistics" else {}
    with pytest.raises(TypeError, match=f"^{name}\\(\\) has no argument 'casual'; did you mean 'causal'"):
        function(q, q, casual=True, **more)
    with pytest.raises(ValueError, match="q of type ndarray"):
        function(q.numpy(), q, **more)
    with pytest.raises(ValueError, match="k on device meta"):
        function(q, q.to("meta"), **more)
    if name != "rows":
        with pytest.raises(TypeError, match=f"^{name}\\(\\) has no argument 'backend'"):
            function(q, q, backend="auto", **more)
    if name == "lse_statistics":
        with pytest.raises(ValueError, match="lse of type list"):
            function(q, q, lse=[1.0])


def test_one_length_is_that_of_all_samples():
    q, k, _ = make("causal", "plain", SHAPES[1], "f32")
    whole = attnd.device.row_statistics(q, k, causal=True, k_len=[3] * len(q), q_len=[2] * len(q))
    for three in (3, np.int64(3), np.array(3)):
        for name, value in attnd.device.row_statistics(q, k, causal=np.bool_(True), k_len=three, q_len=2).items():
            assert torch.equal(value.nan_to_num(-7), whole[name].nan_to_num(-7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_tail_mass_is_below_zero(dtype):
    torch.manual_seed(1)
    q, k = torch.randn(4, 8, 64, 16, dtype=dtype), torch.randn(4, 8, 8, 16, dtype=dtype)
    tails = attnd.device.row_statistics(q, k)["tail_mass"]
    assert tails.min() == 0 and tails.max() < 1e-6


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", [(1, 2, 1, 8), (3, 4, 1, 8), (2, 2, 7, 8)])
def test_making_rows_warns_of_nothing(shape):
    q = torch.randn(shape)
    torch.set_warn_always(True)  # what was said once before, too
    try:
        assert attnd.device.rows(q, q)
    finally:
        torch.set_warn_always(False)


@pytest.mark.parametrize("default", [torch.float16, torch.bfloat16, torch.float64])
def test_the_default_dtype_does_not_reach_it(default):
    q, k, words = make("causal", "plain", SHAPES[1], "f32")
    s = 32**-0.5 * q @ k.repeat_interleave(2, 1).transpose(2, 3)
    s.masked_fill_(torch.ones(33, 33).triu(1).bool(), float("-inf"))
    lse = {"lse": s.logsumexp(-1), "max_logit": s.amax(-1)}

    def all_of_it():
        return (attnd.device.rows(q, k, **words), attnd.device.row_statistics(q, k, **words), attnd.device.lse_statistics(q, k, **lse, **words))

    expected = all_of_it()
    torch.set_default_dtype(default)
    try:
        found = all_of_it()
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found[0].sums, expected[0].sums)
    np.testing.assert_array_equal(found[0].places, expected[0].places)
    for got, want in zip(found[1:], expected[1:]):
        assert set(got) == set(want)
        for name, value in want.items():
            assert got[name].dtype == value.dtype
            torch.testing.assert_close(got[name], value, rtol=0, atol=0, equal_nan=True)


def of_precision():
    """What is set for products of f32, by settings of either kind, those apart that may not be read now."""
    cuda, cpu = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    found = []
    for read in (torch.get_float32_matmul_precision, lambda: cuda.allow_tf32, lambda: cuda.fp32_precision, lambda: cpu.fp32_precision):
        try:
            found.append(read())
        except (RuntimeError, AttributeError, AssertionError):
            found.append(None)
    return found


CHOICES = {"high": lambda: torch.set_float32_matmul_precision("high"),
           "medium": lambda: torch.set_float32_matmul_precision("medium"),
           "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
           "highest": lambda: torch.set_float32_matmul_precision("highest")}
if hasattr(torch._C, "_get_fp32_precision_getter"):
    CHOICES["fp32_precision"] = lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")


@pytest.mark.parametrize("choice", CHOICES)
def test_the_precision_of_products_is_the_highest_within_and_then_as_before(choice):
    q, k, words = make("causal", "plain", SHAPES[1], "f32")
    cpu = torch.device("cpu")
    try:
        CHOICES[choice]()
        before = of_precision()
        one, other = reference.exact(cpu), reference.exact(cpu)
        one.__enter__()
        assert of_precision()[:2] == ["highest", False]
        other.__enter__()
        one.__exit__(None, None, None)
        assert of_precision()[:2] == ["highest", False]
        other.__exit__(None, None, None)
        assert of_precision() == before
        agree(attnd.device.row_statistics(q, k, backend="reference", **words), q, k, words)
        assert of_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("mask", MASKS)
def test_the_sums_of_rows_have_the_numbers_of_rows_and_of_a_message(mask, values):
    for shape, dtype in problems(mask, values):
        q, k, words = make(mask, values, shape, dtype)
        found, of_message = message(q, k, words)
        agree(found, q, k, words, is_exact=False)
        agree_of_message(of_message, q, k, words)


@pytest.mark.parametrize("values", ["plain", "infinities"])
@pytest.mark.parametrize("mask", MASKS)
def test_rows_say_which_of_them_count(mask, values):
    for shape, dtype in problems(mask, values, ("f32",)):
        q, k, words = make(mask, values, shape, dtype)
        expected, _ = truth(q, k, words)
        found = finish(attnd.device.rows(q, k, **words), words["cross"])
        exists = np.isfinite(expected["entropy"])
        assert (found["sound"] == exists).all() and (found["invalid"] == (expected["valid"] & ~exists)).all()


def test_rows_of_a_part_of_a_layer_have_no_powers():
    q = torch.randn(1, 2, 6, 8)
    assert "power_7" in attnd.device.rows(q, q).names
    for part in ({"heads": 4}, {"sampled_of": 12}, {"q_stride": 2}):
        assert "power_3" not in attnd.device.rows(q, q, **part).names


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("sink", [False, True])
def test_the_sums_of_weights_have_the_numbers_of_these(dtype, sink):
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (2, 3, 14, 14))
    tokens = rng.integers(0, 4, (2, 14))
    allowed = np.broadcast_to(np.tril(np.ones((14, 14), bool)), (2, 14, 14)).copy()
    allowed[1, :, 0] = False  # another first key; its first row sees none
    allowed[1, 9:] = False
    e = np.exp(np.where(allowed[:, None], logits, -np.inf))
    maps = torch.as_tensor(np.nan_to_num(e / (e.sum(-1, keepdims=True) + (1 if sink else 0)))).to(dtype)
    maps[0, 1, 3, 2] = float("nan")
    maps[0, 2, 5, 1] += 0.5
    found = finish(sums_of(maps, weights.Words(mask=torch.as_tensor(allowed)), sink, torch.as_tensor(tokens)), whole=False)
    given = maps.double().numpy()
    case = SimpleNamespace(weights=given, is_self=True, causal=False, window=0, q_offset=0, q_stride=1, q_len=None, k_len=None, mask=allowed,
                           documents=None, tokens=tokens, learned_sink=sink, dtype={torch.float64: "f64", torch.float32: "f32"}.get(dtype, "bf16"),
                           dropout=False)
    with np.errstate(all="ignore"):
        sound, _, _ = formulas.judge(case, given)
        assert (found["sound"] == sound).all() and sound.sum() > 60
        for name, (value, exists) in formulas.row_values(case, given, 8).items():
            want = np.where(np.broadcast_to(exists, sound.shape) & sound & np.isfinite(value), value, np.nan)
            got = found.get(name, np.full(want.shape, np.nan))
            assert (np.isnan(got) == np.isnan(want)).all(), name
            assert np.nan_to_num(np.abs(got - want)).max() <= 1e-5, name


def test_auto_is_the_reference_on_the_cpu_and_triton_says_why_it_cannot():
    q = torch.zeros(1, 1, 4, 16)
    assert torch.isfinite(attnd.device.row_statistics(q, q)["tail_mass"]).all()
    with pytest.raises(ValueError, match="backend = 'triton': (the package triton|tensors on the CPU)"):
        attnd.device.row_statistics(q, q, backend="triton")
    with pytest.raises(ValueError, match="f64 is not computed"):
        attnd.device.row_statistics(q.double(), q.double(), backend="triton")


# ------------------------------------------------------------------------------------------ the lse of other kernels


def lse_of(q, k, words):
    """What a kernel returns: (lse, largest logit), f64 [B, H, Tq]; -inf where a query sees no key."""
    expected, _ = truth(q, k, {**words, "sinks": None})
    with np.errstate(divide="ignore", invalid="ignore"):
        lse = expected["max_logit"] - np.log(expected["confidence"])
    return torch.as_tensor(np.where(np.isnan(lse) & ~expected["valid"], -np.inf, lse)), torch.as_tensor(expected["max_logit"])


@pytest.mark.parametrize("values", ["plain", "offset_200", "sink", "infinities"])
@pytest.mark.parametrize("mask", MASKS)
def test_what_follows_from_an_lse_agrees_with_numpy(mask, values):
    for shape, dtype in problems(mask, values):
        q, k, words = make(mask, values, shape, dtype)
        lse, largest = lse_of(q, k, words)
        found = attnd.device.lse_statistics(q, k, lse, max_logit=largest, **words)
        near = [] if words["cross"] else ["previous_token", "diagonal", "next_token"]
        assert set(found) == {"local_mass", "first_token", "max_logit", "confidence", *near,
                              *(["sink_deficit"] if "sinks" in words else [])}
        absent = [name for name in NO_TOKENS if name not in found]
        whole = {**{name: torch.full(q.shape[:3], float("nan")) for name in absent}, **found}
        agree(whole, q, k, words, without=absent)


def test_without_the_largest_logit_there_is_no_confidence():
    q, k, words = make("causal", "plain", SHAPES[1], "f32")
    found = attnd.device.lse_statistics(q, k, lse_of(q, k, words)[0].float(), **words)
    assert set(found) == {"local_mass", "first_token", "previous_token", "diagonal", "next_token"}


@pytest.mark.parametrize("wrong, said", [
    (lambda lse: lse / np.log(2), "it looks as if it were to base 2: multiply it by ln 2"),
    (lambda lse: lse + np.log(2), "off, by up to 0.693"), (lambda lse: lse - np.log(2), "as if ln 2 had been subtracted"),
    (lambda lse: lse + 0.1, "off, by up to 0.1 "), (lambda lse: torch.full_like(lse, float("nan")), "off, by up to inf"),
    (lambda lse: lse.flip(1), "lse: "), (lambda lse: lse[:1], "lse torch.float64 (1, 4, 33) on cpu: must be real, (2, 4, 33)")])
def test_a_wrong_lse_is_refused_with_how_far_it_is_off(wrong, said):
    q, k, words = make("causal", "plain", SHAPES[1], "f32")
    lse, _ = lse_of(q, k, words)
    with pytest.raises(ValueError, match=re.escape(said)):
        attnd.device.lse_statistics(q, k, wrong(lse), **words)


def test_an_lse_of_other_arguments_is_refused():
    q, k, words = make("sinks causal", "plain", SHAPES[1], "f32")
    lse, largest = lse_of(q, k, words)
    unscaled = lse_of(q * q.shape[3]**0.5, k, words)[0]
    for given, said in ((torch.logaddexp(lse, words["sinks"][:, None]), "as if it counted the learned sinks"),
                        (unscaled, "as if the scale were missing"), (lse_of(q, k, {**words, "causal": False})[0], "lse: ")):
        with pytest.raises(ValueError, match=said):
            attnd.device.lse_statistics(q, k, given, **words)
    with pytest.raises(ValueError, match=r"max_logit: (\d+) of \1 rows that were computed again are off, by up to 1 "):
        attnd.device.lse_statistics(q, k, lse, max_logit=largest + 1, **words)


MEASURED = """
import pathlib, re
import torch
import attnd
torch.set_num_threads(1)
def peak():  # not ru_maxrss, which begins with that of the process that started this one
    return int(re.search("VmHWM:(.*)kB", pathlib.Path("/proc/self/status").read_text()).group(1))
q, k = torch.randn(2, 1, 1, 8192, 128)
for function, dtype, causal in ((attnd.device.rows, torch.float, True), (attnd.device.row_statistics, torch.bfloat16, False)):
    q, k = q.to(dtype), k.to(dtype)
    function(q[:, :, :64], k[:, :, :64], causal=True)
    before = peak()
    assert function(q, k, causal=causal)
    print(peak() - before)
"""


def test_no_map_is_held_at_8192():
    """A map of a head in f32 is 256 MiB, of bf16 128. malloc keeps nothing large that was freed."""
    run = subprocess.run([sys.executable, "-c", MEASURED], cwd=PACKAGE, capture_output=True, text=True, timeout=300, check=True,
                         env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    more = [int(line) for line in run.stdout.split()]
    assert 0 < more[0] < 64 << 10 and 0 <= more[1] < 64 << 10, f"{run.stdout} KiB"


def some_maps(rng, length):
    """What may be attended to [B, T, T], as models say it: causal, banded, padded on the right or left, with holes."""
    i, j = np.arange(length)[:, None], np.arange(length)[None]
    base = (i >= 0) & (j >= 0), j <= i, (j <= i) & (j > i - 3), abs(i - j) < 3
    lengths = rng.integers(0, length + 1, 2)[:, None]
    inside, before = np.arange(length) < lengths, np.arange(length) >= lengths
    for one in base:
        yield np.stack([one, one])
        yield one & inside[:, None]
        yield one & inside[:, None] & inside[:, :, None]
        yield one & before[:, None]
        yield (one & before[:, None]) | ~before[:, :, None]
        yield one & (rng.random((2, length, length)) < 0.7)
        yield one & (rng.random((2, 1, length)) < 0.7)
    number = np.sort(rng.integers(0, 3, (2, length)))
    apart = number[:, :, None] == number[:, None]
    for texts in (np.ones_like(apart), apart, apart | (j < 1) | (i < 1), np.stack([i // 4 >= j // 4] * 2)):
        for present, one in itertools.product((inside, before), base[:2]):
            seen = texts & one & present[:, None] & present[:, :, None]
            yield seen | ~seen.any(2, keepdims=True)
            yield (texts & one & present[:, None]) | (i == length - 1)


def test_a_mask_means_on_its_device_what_it_means_on_the_host(monkeypatch):
    monkeypatch.setattr(visible, "_ENTRIES", 30)
    rng, length, compared = np.random.default_rng(1), 12, 0
    for (stride, first), cross, shared in itertools.product([(1, 0), (2, 1), (3, 0), (5, 4)] * 3, (False, True), (False, True)):
        for allowed in some_maps(rng, length):
            part = allowed[:, first::stride]
            queries = part.shape[1]
            said = describe(part, first, stride, length, not cross, shared)
            if said.q_offset != first:  # one of a cache, or of other keys
                continue
            tensor = torch.from_numpy(part)
            looked = visible.looked_at(lambda some: tensor[:, some], queries, length)
            found = visible.known(looked, first + torch.arange(queries) * stride, first + queries * stride, length, cross, shared)
            assert (found.valid.numpy() == valid_queries(said, (2, queries))).all()
            end = np.minimum(length if said.k_len is None else said.k_len,
                             first + (queries if said.q_len is None else said.q_len) * stride)
            assert cross or (found.end.numpy() == end).all()
            compared += 1
    assert compared > 1900
