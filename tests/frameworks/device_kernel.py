# SPDX-License-Identifier: MIT
"""The Triton kernel of attnd.device against float64 numpy and the reference: on a GPU where PyTorch has one, else
interpreted on the CPU, which shows nothing about races or the rounding of tensor cores. test_device_kernel.py runs this
with TRITON_INTERPRET=1, which triton reads when it is imported. On a GPU most of the time is compiling: `-n 16` helps."""
import itertools
import pathlib
import sys
import time

import numpy as np
import pytest
import torch

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "python"))

import attnd  # noqa: E402
from attnd.base import plan  # noqa: E402
from attnd.base.hidden import hidden_at  # noqa: E402
from attnd.capture import accelerator  # noqa: E402
from attnd.capture.cost import Cost  # noqa: E402
from attnd.device import launch, pooled  # noqa: E402
from attnd.device.arrived import of_kernels  # noqa: E402
from attnd.device.problem import Problem, Rows  # noqa: E402
from attnd.sending.sender import NotYet  # noqa: E402
from device_grid import MASKS, SHAPES, VALUES, agree, agree_of_message, make, message, reference_stands_in  # noqa: E402
from finished import finish  # noqa: E402
from harness import Attnd  # noqa: E402
from test_device_states import SETTINGS, measured_twice, same_layer, same_numbers  # noqa: E402

DTYPES = ("f32", "bf16", "f16")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# The interpreter takes a thousand times as long: it has every second cell of a grid, and one shape of each.
TURNS, EVERY = ((0, 2), 1) if DEVICE == "cuda" else ((0,), 2)


def grid(values_of):
    """(mask, values) that are tried: each mask, and each kind of values."""
    return [(mask, values) for mask in MASKS for values in values_of if (MASKS.index(mask) + values_of.index(values)) % EVERY == 0]


def there(q, k, words):
    """The same on the device of the kernel."""
    return q.to(DEVICE), k.to(DEVICE), {name: one.to(DEVICE) if torch.is_tensor(one) else one for name, one in words.items()}


def rows(q, k, words, backend="triton"):
    """The row metrics, brought to the CPU."""
    q, k, words = there(q, k, words)
    return {name: one.cpu() for name, one in attnd.device.row_statistics(q, k, backend=backend, **words).items()}


@pytest.mark.parametrize("mask,values", grid(VALUES))
def test_the_kernel_agrees_with_numpy(mask, values):
    turn = MASKS.index(mask) + VALUES.index(values)
    for shape, dtype in ((SHAPES[(turn + n) % len(SHAPES)], DTYPES[(turn + n) % 3]) for n in TURNS):
        q, k, words = make(mask, values, shape, dtype)
        agree(rows(q, k, words), q, k, words)


@pytest.mark.parametrize("mask,values", grid(VALUES[::2]))
def test_its_numbers_of_a_message_agree_with_numpy(mask, values):
    turn = MASKS.index(mask) + VALUES.index(values)
    q, k, words = make(mask, values, SHAPES[turn % len(SHAPES)], DTYPES[turn % 3])
    agree_of_message(message(*there(q, k, words), of_kernels)[1], q, k, words)


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_8_largest_are_found_wherever_they_are(dtype):
    """Key j is in lane j modulo 32 (of f32) or 64: more than three of the largest in one lane, and all keys alike."""
    q, k, words = make("full", "plain", (1, 1, 1, 20, 700, 16), dtype)
    for every in (1, 32, 64, 128) if DEVICE == "cuda" else (1, 32 if dtype == "f32" else 64):
        some = torch.zeros_like(k)
        some[..., 3::every, :] = k[..., 3::every, :]
        agree(rows(q, some, words), q, some, words)
        some[..., 3::every, :] = k[..., 3:4, :]
        agree(rows(q, some, words), q, some, words)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_bias_in_the_dtype_of_the_model_hides_and_adds_what_it_says(dtype):
    q, k, _ = make("full", "plain", (1, 2, 2, 40, 40, 16), dtype)
    bias = torch.linspace(-2, 2, 1600).view(1, 1, 40, 40).to(q.dtype)
    bias[..., ::3] = torch.finfo(q.dtype).min
    found, expected = (rows(q, k, {"bias": bias}, one) for one in ("triton", "reference"))
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, atol=2e-5, rtol=2e-5, equal_nan=True, msg=name)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["key", "bias"])
def test_a_logit_that_is_no_number_is_found_wherever_it_is(wrong, where):
    """At key 0, in the first block, in one where no key is hidden, and near the diagonal."""
    q, k, _ = make("full", "plain", (1, 2, 2, 200, 200, 16), "f32")
    for at in (0, 5, 70, 150, 199)[::EVERY]:
        given, bias = k.clone(), None
        if where == "key":
            given[:, :, at] = wrong
        else:
            bias = torch.zeros(1, 1, 200, 200)
            bias[..., at] = wrong
        found, expected = (rows(q, given, {"causal": True, "bias": bias}, one) for one in ("triton", "reference"))
        for name, values in expected.items():
            torch.testing.assert_close(found[name], values, atol=2e-5, rtol=2e-5, equal_nan=True, msg=f"{name}, {at}")


@pytest.mark.parametrize("wrong", [0.0, float("-inf")])
@pytest.mark.parametrize("mask", ["causal", "full"])
def test_a_key_without_length_has_no_cosine_wherever_it_is(mask, wrong):
    """It has a logit: 0, or -inf of all rows."""
    q, k, words = make(mask, "plain", (1, 1, 1, 140, 140, 16), "f32")
    q[..., 0] = q[..., 0].abs() + 0.1
    k[:, :, [0, 5, 40, 70, 139]] = 0
    k[:, :, 40, 0] = wrong
    agree_of_message(message(*there(q, k, words), of_kernels)[1], q, k, words)


def test_a_local_window_may_be_wider_than_anything():
    q, k, _ = make("causal", "plain", (1, 2, 2, 40, 40, 16), "f32")
    found = rows(q, k, {"causal": True, "local_window": 2**31 - 1})
    torch.testing.assert_close(found["local_mass"], torch.ones(1, 2, 40))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_agrees_with_the_reference(dtype):
    for mask, shape in itertools.product(("full", "causal window offset"), ((2, 4, 2, 33, 33, 32), (1, 1, 1, 3, 200, 64))):
        q, k, words = make(mask, "plain", shape, dtype)
        expected = rows(q, k, words, "reference")
        for name, value in rows(q, k, words).items():
            torch.testing.assert_close(value, expected[name], rtol=2e-5, atol=2e-5, equal_nan=True)


def test_slices_of_heads_give_the_same(monkeypatch):
    q, k, words = make("causal window offset", "plain", (2, 4, 2, 5, 9, 16), "f32")
    monkeypatch.setattr(launch, "SLICE_HEADS", 3)
    agree(rows(q, k, words), q, k, words)


def test_strides_of_a_fused_projection_are_read_as_they_are():
    packed = torch.randn(2, 20, 3, 4, 32, generator=torch.Generator().manual_seed(1))  # [B, T, qkv, H, d]
    q, k = packed[:, :, 0].transpose(1, 2), packed[:, :, 1].transpose(1, 2)
    agree(rows(q, k, {"causal": True, "cross": False}), q, k, {"causal": True, "cross": False})


def test_a_sample_of_rows_has_the_numbers_of_these_rows():
    q, k, words = make("causal window", "plain", (2, 4, 2, 90, 90, 16), "f32")
    expected = rows(q, k, words, "reference")
    for name, value in rows(q[:, :, 1::3], k, {**words, "q_offset": 1, "q_stride": 3}).items():
        torch.testing.assert_close(value, expected[name][:, :, 1::3], rtol=2e-5, atol=2e-5, equal_nan=True)


FORMS = {"causal": {}, "cross": {"causal": False, "cross": True}, "window": {"window": 9, "softcap": 3.0, "first": 2, "keys": 130}, "long": {"first": 400, "keys": 450}, "long full": {"causal": False, "keys": 300},
         "keys without length": {"zero": slice(3, None, 50), "first": 400, "keys": 450},
         "rows": {"rows": 9}, "long rows": {"rows": 33, "first": 200, "keys": 250}, "bias of rows": {"rows": 9, "mask": torch.linspace(-2, 2, 9 * 40).view(1, 1, 9, 40)},
         "mask": {"mask": torch.arange(40) < 33}, "bias": {"mask": torch.linspace(-2, 2, 1600).view(1, 1, 40, 40)},
         "documents": {"documents": torch.arange(40).expand(2, -1) // 7},
         "logits": {"rows": 9, "mask": torch.linspace(-9, 4, 1440).view(1, 4, 9, 40), "causal": False, "replaces": True, "sinks": torch.arange(4.0)},
         "tokens": {"rows": 9, "numbers": torch.arange(80).view(2, 40) % 7}, "half": {"precision": torch.bfloat16}}


def on_device(given):
    """The same, with its tensors on the device of the kernel."""
    moved = {name: one.to(DEVICE) for name, one in given._asdict().items() if torch.is_tensor(one)}
    return given._replace(**moved, rows=given.rows and Rows(given.rows.there.to(DEVICE), given.rows.here))


def launched(given):
    """The numbers that arrive, once the kernels are compiled."""
    one = accelerator.Accelerator("job", Cost())
    while True:
        try:
            return one.launch(given, 0)()
        except NotYet:
            time.sleep(0.05)


@pytest.mark.parametrize("form", FORMS)
def test_what_the_kernels_leave_is_finished_on_the_host(form, monkeypatch):
    said = dict(FORMS[form])
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(2, heads, length, 16, generator=generator) for heads, length in ((4, 40), (2, said.pop("keys", 40))))
    k[:, :, said.pop("zero", slice(0))] = 0
    if said.get("mask") is not None and said["mask"].dim() == 1:
        said["mask"] = said["mask"].view(1, 1, 1, 40)
    if "rows" in said:
        here = plan.strata(40, said["rows"])
        said.update(rows=Rows(torch.from_numpy(here), here), whole=False)
    given = accelerator.OfQueries(q, k, 0, 2, torch.float32, 0.25, 0.0, True, 0, None, None, 0, False, whole=True)._replace(**said)
    found = launched(on_device(given))
    reference_stands_in(monkeypatch)
    expected = accelerator.Accelerator("job", Cost()).launch(given, 0)()
    assert found.names == expected.names and found.causal == expected.causal
    np.testing.assert_array_equal(found.places, expected.places)
    numbers, others = (finish(one, given.cross) for one in (found, expected))
    for name in numbers.keys() - {"message"}:
        np.testing.assert_allclose(numbers[name], others[name], rtol=2e-4, atol=2e-5, err_msg=name)
    assert numbers["message"].keys() == others["message"].keys() and ("importance" in numbers["message"]) == given.whole
    for name, value in numbers["message"].items():
        np.testing.assert_allclose(value, others["message"][name], rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("said, at_once", [({}, 2), ({"rows": 9}, 1), ({"window": 11, "softcap": 3.0}, 2), ({"causal": False}, 2),
                                           ({"precision": torch.bfloat16}, 2)], ids=str)  # heads at once
def test_tokens_tell_of_repetitions_as_f64_does(said, at_once, monkeypatch):
    """Of two samples; one token comes once alone, and key 0 again."""
    monkeypatch.setattr(accelerator, "_heads_at_once", lambda given: at_once)
    generator, said = torch.Generator().manual_seed(5), dict(said)
    precision = said.get("precision", torch.float32)
    q, k = (torch.randn(2, heads, 70, 16, generator=generator).to(precision) for heads in (2, 1))
    tokens = torch.randint(0, 20, (2, 70), generator=generator)
    tokens[:, 40] = 99
    here = plan.strata(70, said.pop("rows", 70))
    if len(here) < 70:
        said["rows"] = Rows(torch.from_numpy(here), here)
    given = accelerator.OfQueries(q, k, 0, 2, torch.float32, 0.25, 0.0, True, 0, None, None, 0, False, numbers=tokens)._replace(**said)
    found = finish(launched(on_device(given)))
    logits = torch.einsum("bhid,bhjd->bhij", q.double(), k.repeat_interleave(2, 1).double()) * 0.25
    logits = given.softcap * torch.tanh(logits / given.softcap) if given.softcap else logits
    i, j = torch.arange(70)[:, None], torch.arange(70)
    seen = (j <= i) if given.causal else torch.ones(70, 70, dtype=torch.bool)
    weights = torch.softmax(logits.masked_fill(~(seen & (j > i - given.window) if given.window else seen), -torch.inf), -1)
    earlier = (tokens[:, :, None] == tokens[:, None]) & (j < i)
    exists = earlier.any(-1)[:, None].expand(-1, 2, -1)
    for name, among in (("duplicate_token", earlier), ("induction", torch.nn.functional.pad(earlier[..., :-1], (1, 0)))):
        expected = (weights * among[:, None]).sum(-1).masked_fill(~exists, torch.nan)[:, :, here]
        np.testing.assert_allclose(found[name], expected, rtol=2e-5, atol=2e-6, err_msg=name)
        assert np.isfinite(found[name]).any() and np.isnan(found[name]).any()


@pytest.mark.parametrize("at_once", [4, 1])  # heads
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_masks_that_differ_by_head_are_read_where_they_are_and_agree_with_f64(precision, at_once, monkeypatch):
    """Keys are visible that some head sees."""
    monkeypatch.setattr(accelerator, "_heads_at_once", lambda given: at_once)
    generator, here = torch.Generator().manual_seed(3), plan.strata(40, 9)
    q, k = (torch.randn(1, heads, 40, 16, generator=generator).to(precision) for heads in (4, 2))
    mask = torch.rand(1, 4, 40, 40, generator=generator) < 0.6
    given = accelerator.OfQueries(q, k, 0, 2, precision, 0.25, 0.0, False, 0, mask, None, 0, False, Rows(torch.from_numpy(here), here))
    found = finish(launched(on_device(given)))
    logits = torch.einsum("bhid,bhjd->bhij", q.double(), k.repeat_interleave(2, 1).double()) * 0.25
    weights = torch.softmax(logits.masked_fill(~mask, -torch.inf), -1)[:, :, here]
    distance = (torch.from_numpy(here)[:, None] - torch.arange(40)).abs().double()
    seen = mask.any(1)[:, here]
    entropy, mean_distance = -torch.xlogy(weights, weights).sum(-1), (weights * distance).sum(-1)
    for name, values in {"entropy": entropy, "entropy_normalized": entropy / seen.sum(-1)[:, None].log(), "confidence": weights.amax(-1),
                         "mean_distance_normalized": mean_distance / (distance * seen).amax(-1)[:, None]}.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=2e-6, err_msg=name)


MAPPED = {"causal": {}, "one token": {"tokens": 1}, "odd": {"tokens": 37, "keys": 67, "heads": (3, 3), "first": 3}, "one key head": {"heads": (4, 1)},
          "no numbers": {"broken": True}, "half": {"precision": torch.bfloat16}, "right padding": {"mask": torch.arange(40) < 31},
          "left padding": {"mask": torch.arange(40) > 6}, "cross": {"causal": False, "cross": True, "keys": 70},
          "mask by head": {"mask": torch.arange(6400).view(1, 4, 40, 40) % 7 > 1, "causal": False},
          "logits": {"mask": torch.linspace(-9, 4, 6400).view(1, 4, 40, 40), "causal": False, "replaces": True, "sinks": torch.arange(4.0)},
          "documents": {"documents": torch.arange(40).view(1, 40) // 7, "tokens of them": torch.tensor([33])}}


@pytest.mark.parametrize("form", MAPPED)
def test_its_maps_are_those_of_the_reference_in_f64(form):
    said = dict(MAPPED[form])
    heads, tokens = said.pop("heads", (4, 2)), said.pop("tokens", 40)
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(1, count, length, 24, generator=generator)
            for count, length in zip(heads, (tokens, said.pop("keys", tokens))))
    if said.pop("broken", False):
        q[:, 0, 3], k[:, 1, 5, 0] = float("nan"), float("inf")
    if said.get("mask") is not None and said["mask"].dim() == 1:
        said["mask"] = said["mask"].view(1, 1, 1, 40)
    precision = said.pop("precision", torch.float32)
    given = accelerator.OfQueries(q.to(precision), k.to(precision), 0, heads[0] // heads[1], precision, 0.2, 0.0, True, 0, None, None, 0, False,
                                  tokens=said.pop("tokens of them", None), whole=True)._replace(**said)
    one, found = accelerator.Accelerator("job", Cost()), None
    while found is None:
        try:
            found = one.launch(on_device(given), 0, 8)().maps
        except NotYet:
            time.sleep(0.05)
    exact = given._replace(q=given.q.double(), k=given.k.double(), precision=torch.float64)
    said_of_it, facts = accelerator._said(exact)
    if given.mask is not None:
        facts["looked"] = accelerator._looked_at(exact, accelerator._hides_at(exact, None))
    valid = None if said_of_it is None else said_of_it(facts).valid
    expected = pooled.of_queries(next(accelerator._problems(exact, {}))[1], 0, 8, None, valid).read()
    assert found._replace(values=None) == expected._replace(values=None)
    np.testing.assert_allclose(found.values, expected.values, rtol=2e-3, atol=2e-5)


def test_what_the_kernel_does_not_compute_is_said():
    wide = torch.zeros(1, 1, 2, 512)
    with pytest.raises(ValueError, match="a head dimension of 512 is above 256"):
        rows(wide, wide, {})
    assert torch.isfinite(rows(wide, wide, {}, "auto")["entropy"]).all()


@pytest.mark.parametrize("dtype, values", [("f32", "plain"), ("bf16", "sink")])
def test_its_states_say_what_attnd_says_of_the_same_queries_and_keys(dtype, values):
    daemon = Attnd(*SETTINGS)
    for mask, (raw, state) in measured_twice(daemon, (values,), dtype, backend="triton", device=DEVICE).items():
        same_layer(raw, state, mask)
        same_numbers(raw, state, mask)
    daemon.close()


STEPS = {"-100": lambda d, hidden: torch.zeros_like(d).masked_fill(hidden, -100.0), "-50": lambda d, hidden: torch.zeros_like(d).masked_fill(hidden, -50.0),
         "-49": lambda d, hidden: torch.zeros_like(d).masked_fill(hidden, -49.0), "ALiBi": lambda d, hidden: -0.5 * d,
         "ALiBi below -inf": lambda d, hidden: (-0.5 * d).masked_fill(hidden, -float("inf")), "two masks": lambda d, hidden: -100.0 * (hidden.float() + (d > 30)),
         "bias and mask": lambda d, hidden: torch.sin(d) - 1000.0 * hidden, "one value": lambda d, hidden: torch.full_like(d, -100.0),
         "NaN": lambda d, hidden: torch.full_like(d, float("nan"))}


@pytest.mark.parametrize("name", STEPS)
def test_the_step_of_a_mask_is_the_one_that_pytorch_finds(name):
    """And the kernels hide what the reference hides."""
    q, k, _ = make("full", "plain", (1, 2, 2, 70, 70, 16), "f32")
    distance = (torch.arange(70)[:, None] - torch.arange(70)).abs().float()
    mask = STEPS[name](distance, torch.ones(70, 70).triu(1).bool())[None, None]
    (on_q, on_k, words), here = there(q, k, {"bias": mask}), np.arange(0, 70, 3)
    problem, expected = Problem(on_q, on_k, **words), hidden_at(mask)
    for one in (problem, problem.sampled(Rows(torch.from_numpy(here).to(DEVICE), here), words["bias"])):
        assert torch.equal(mask <= launch.hides_at(one, words["bias"]).cpu(), mask <= expected)
    by_kernel, by_reference = (rows(q, k, {"bias": mask}, one) for one in ("triton", "reference"))
    for metric, values in by_reference.items():
        torch.testing.assert_close(by_kernel[metric], values, atol=2e-5, rtol=2e-5, equal_nan=True, msg=metric)
