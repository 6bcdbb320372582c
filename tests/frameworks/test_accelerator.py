# SPDX-License-Identifier: MIT
"""The code for tier `rows` on accelerators, as far as it can be tried without one: on the CPU, whose streams are names,
and on tensors that hold nothing."""
import copy
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import threading
import weakref
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not hasattr(torch.cpu, "Stream") or not hasattr(torch, "get_device_module"):
    pytest.skip("this torch has no streams of the CPU", allow_module_level=True)
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "clients" / "python"), str(ROOT / "tests" / "python")]
from attnd import device  # noqa: E402
from attnd import gpu  # noqa: E402
from attnd.base import plan  # noqa: E402
from attnd.capture import accelerator, calls, forwards, origins  # noqa: E402
from attnd.capture.accelerator import Accelerator, OfQueries, OfWeights  # noqa: E402
from attnd.capture.cost import Cost  # noqa: E402
from attnd.device import arrived, launch, parcel, pooled, reference  # noqa: E402
from attnd.device.problem import Problem, Rows  # noqa: E402
from attnd.forms import bands, mods  # noqa: E402
from attnd.forms.seen import Queries  # noqa: E402
from attnd.sending.sender import NotYet  # noqa: E402
from device_grid import can_run, launched, of_tokens, reference_stands_in  # noqa: E402
from finished import finish  # noqa: E402
from harness import wait_until  # noqa: E402
from session import Session  # noqa: E402
from zoo import decoder_kind, fused  # noqa: E402

pytest_plugins = ("one_daemon",)
B, H, HK, T, D = 2, 4, 2, 70, 16
HELD_MAX = 64 << 20
NOWHERE = torch.device("meta")  # tensors without numbers: nobody can be told any


def asked(device=torch.device("cpu"), mask=None, documents=None, **changes):
    generator = None if device.type != "cpu" else torch.Generator().manual_seed(1)
    q, k = (torch.randn(B, heads, T, D, device=device, generator=generator) for heads in (H, HK))
    return OfQueries(q, k, 0, H // HK, torch.float32, D**-0.5, 0.0, True, 0, mask, documents, 0, False)._replace(**changes)


def computer():
    return Accelerator("job", Cost())


class NoAnswers(TorchDispatchMode):
    """Refuses what waits for a device: reading numbers off it, copies between it and the host, and sizes that depend on
    what tensors hold."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "item", "equal", "bincount", "index.Tensor_bool")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        assert not any(word in name for word in self.WAITING), name
        given = {one.device.type for one in flat((args, kwargs)) if isinstance(one, torch.Tensor) and one.dim() > 0}
        result = func(*args, **(kwargs or {}))
        made = {one.device.type for one in flat(result) if isinstance(one, torch.Tensor)}
        assert len(given | made) <= 1, f"{name} from {given} to {made}"
        if "index.Tensor" in name:
            assert not any(one.dtype == torch.bool for one in flat(args[1]) if isinstance(one, torch.Tensor)), name
        return result


def flat(given):
    if isinstance(given, (tuple, list)):
        return [one for some in given for one in flat(some)]
    return flat(list(given.values())) if isinstance(given, dict) else [given]


def some_rows(queries, rows, device=torch.device("cpu")):
    here = plan.strata(queries, rows)
    return Rows(torch.from_numpy(here) if device.type == "cpu" else torch.empty(rows, dtype=torch.int64, device=device), here)


KERNELS = ("row_sums", "few_keys", "token_keys", "key_lengths", "seen_keys", "map_cells", "mark_values", "step_of_values")
FORMS = {
    "causal": lambda device: {}, "window": lambda device: {"window": 5, "softcap": 3.0, "first": 3, "k": torch.randn(B, HK, 2 * T + 3, D, device=device)},
    "mask": lambda device: {"mask": torch.ones(B, 1, 1, T, device=device, dtype=torch.bool)},
    "bias": lambda device: {"mask": torch.randn(1, H, T, T, device=device), "causal": False},
    "documents": lambda device: {"documents": torch.zeros(B, T, device=device, dtype=torch.int64)},
    "rows": lambda device: {"rows": some_rows(T, 9, device)},
    "bias of rows": lambda device: {"rows": some_rows(T, 9, device), "mask": torch.randn(B, H, 9, T, device=device)},
    "mask by head": lambda device: {"mask": torch.rand(1, H, T, T, device=device) < 0.8, "causal": False},
    "rows of a mask by head": lambda device: {"rows": some_rows(T, 9, device), "mask": torch.rand(B, H, T, T, device=device) < 0.8},
    "logits of a score_mod": lambda device: {"rows": some_rows(T, 9, device), "mask": torch.randn(B, H, 9, T, device=device), "causal": False,
                                             "replaces": True, "sinks": torch.randn(H, device=device)},
    "tokens": lambda device: {"numbers": torch.zeros(B, T, device=device, dtype=torch.int64)},
    "tokens of rows": lambda device: {"numbers": torch.zeros(B, T, device=device, dtype=torch.int32), "rows": some_rows(T, 9, device)},
    "bf16": lambda device: {"precision": torch.bfloat16}, "cross": lambda device: {"cross": True, "causal": False}}


@pytest.fixture(params=["triton", "reference"])
def on_nowhere(request, monkeypatch):
    """Launches of a backend for tensors that hold nothing; the kernels themselves, which nothing can run, are left out."""
    if request.param == "triton":
        pytest.importorskip("triton")
        grid = defaultdict(lambda: lambda *given, **how: None)
        monkeypatch.setattr(device, "kernel", SimpleNamespace(**dict.fromkeys(KERNELS, grid)), raising=False)
        can_run(monkeypatch)
    return request.param


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_is_launched_waits_for_the_device(form, on_nowhere):
    given = asked(NOWHERE, **FORMS[form](NOWHERE))
    with NoAnswers(), torch.no_grad():
        computed = computer()._queries(given, True)
    assert all(one.device == NOWHERE for one in computed.tensors.values())
    assert computed.backend == on_nowhere
    if on_nowhere == "reference":
        assert computed.tensors[0, "k"].shape == (B, HK, given.k.shape[2])


def nothing(dtype, *shape):
    return torch.empty(shape, dtype=dtype, device=NOWHERE)


# Launches, and what is special about the layer. A mask that is made for its rows, and logits of a score_mod, take what making them takes beside.
LAUNCHES = {
    "causal": (5, lambda heads, tokens: {}),
    "packed documents": (6, lambda heads, tokens: {"documents": nothing(torch.int64, 1, tokens), "tokens": nothing(torch.int32, 1)}),
    "tokens": (33, lambda heads, tokens: {"numbers": nothing(torch.int64, 1, tokens)}),  # of which 26 are once a forward
    "mask of keys": (8, lambda heads, tokens: {"mask": nothing(torch.bool, 1, 1, 1, tokens)}),
    "mask": (8, lambda heads, tokens: {"mask": nothing(torch.bool, 1, 1, tokens, tokens), "causal": False}),
    "mask by head": (8, lambda heads, tokens: {"mask": nothing(torch.bool, 1, heads, tokens, tokens), "causal": False}),
    "bias by head": (11, lambda heads, tokens: {"mask": nothing(torch.bfloat16, 1, heads, tokens, tokens), "causal": False}),
    "logits of a score_mod": (8, lambda heads, tokens: {"mask": nothing(torch.float32, 1, heads, 256, tokens), "causal": False,
                                                        "replaces": True}),
    "all rows, with maps": (6, lambda heads, tokens: {"rows": None, "whole": True}),
    "all rows under a mask, with maps": (404, lambda heads, tokens: {"rows": None, "whole": True, "causal": False,
                                                                     "mask": nothing(torch.bool, 1, 1, tokens, tokens)})}


@pytest.mark.parametrize("on_nowhere", ["triton"], indirect=True)
@pytest.mark.parametrize("heads, key_heads, tokens, width", [
    (32, 8, 2048, 128), (32, 8, 8192, 128), (32, 32, 4096, 128), (16, 16, 8192, 64), (32, 8, 32768, 128), (64, 8, 8192, 128), (8, 1, 8192, 256),
    (12, 12, 1024, 64)])
@pytest.mark.parametrize("form", LAUNCHES)
def test_a_layer_is_few_launches_and_little_memory(heads, key_heads, tokens, width, form, on_nowhere, monkeypatch):
    """With the kernels, which nothing can run here, and the copies of the rows' numbers and of what is found."""
    q, k = (torch.empty(1, n, tokens, width, device=NOWHERE, dtype=torch.bfloat16) for n in (heads, key_heads))
    given = asked(NOWHERE, q=q, k=k, group=heads // key_heads, precision=torch.bfloat16,
                  rows=some_rows(tokens, origins.ROWS_ON_DEVICE, NOWHERE))
    most, changes = LAUNCHES[form]
    given, kernels = given._replace(**changes(heads, tokens)), []
    grid = defaultdict(lambda: lambda *given, **how: kernels.append(1))
    monkeypatch.setattr(device, "kernel", SimpleNamespace(
        **dict.fromkeys(KERNELS, grid)), raising=False)
    with gpu._Launches() as launches, Held() as held, torch.no_grad():
        held.keep_out(q, k, *(one for one in (given.mask, given.documents) if one is not None))
        parcel.packed(list(computer()._queries(given, False, 64 if given.rows is None else 0).tensors.values()))
    copies = 1 + (given.rows is not None)
    assert launches.count + len(kernels) + copies <= most, (launches.count, len(kernels))
    assert held.most <= (8 << 20 if given.rows is not None else 32 * (launch._SUMS_WITH_POWERS + launch._FEW) * heads * tokens), held.most


FUSED = {  # MiB of a capture of some rows, and the call
    "causal": (8, lambda q, k: Queries(q, k, causal=True)),
    "f32 under autocast": (13, lambda q, k: Queries(q.float(), k.float(), causal=True)),
    "window to both sides": (8, lambda q, k: bands.queries_of(q, k, k, None, bands.Band(64, 32))),
    "slopes": (19, lambda q, k: bands.queries_of(q, k, k, None, bands.Band(None, 0, slopes=nothing(torch.float32, 32))))}


def rows_on_device(seen):
    """The rows that a capture takes which is not the first of its attention."""
    made = origins.Origins(SimpleNamespace(job="job"), Cost(), False)
    made._captures["layer"] = 0
    batch = len(seen.q)
    context = calls.Context(samples=plan.some(range(batch), batch))
    return made.plan_on_device("layer", seen, plan.Plan(), False, context, ("run", 1))[0].rows


@pytest.mark.parametrize("on_nowhere", ["triton"], indirect=True)
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("form", FUSED)
def test_some_rows_take_little_memory_whatever_hides_keys(form, checked, on_nowhere):
    """All that is made for a capture of a layer, with the copies for its kernel."""
    most, call = FUSED[form]
    seen = call(nothing(torch.bfloat16, 1, 32, 8192, 128), nothing(torch.bfloat16, 1, 8, 8192, 128))
    rows = rows_on_device(seen)
    assert rows == (16 if form == "slopes" else 256)
    with Held() as held, torch.no_grad():
        held.keep_out(seen.q, seen.k)
        some = some_rows(8192, rows, NOWHERE)
        mask = seen.late_mask and seen.late_mask((slice(0, 1), slice(0, 32), some.there))
        given = asked(NOWHERE, q=seen.q, k=seen.k, group=4, precision=torch.bfloat16, causal=seen.causal, mask=mask, rows=some)
        sent = parcel.packed(list(computer()._queries(given, checked).tensors.values()))
    assert held.most <= most << 20 and sent.numel() > 0, held.most / 2**20


@pytest.mark.parametrize("mask_mod, heads, rows", [
    (lambda b, h, i, j: i >= j, 32, 256), (lambda b, h, i, j: (i >= j) | (b > 0), 32, 256), (lambda b, h, i, j: i >= j + h, 32, 16),
    (lambda b, h, i, j: i >= j + h, 1, 256)])
def test_a_mask_that_differs_by_head_is_made_for_fewer_rows(mask_mod, heads, rows):
    q, k = (torch.zeros(()).expand(1, n, 8192, 64) for n in (heads, 1))
    assert rows_on_device(Queries(q, k, late_mask=mods.LateMask(mask_mod, 8192, q.device))) == rows


def test_a_score_mod_takes_three_times_its_logits_at_most():
    """Of 16 rows at T = 8192, 16 MiB each; keys are copied to f32 a few heads at a time, which are 32 MiB as a whole."""
    q, k = (torch.zeros((), dtype=torch.bfloat16).expand(1, heads, count, 128) for heads, count in ((32, 16), (8, 8192)))
    mod = mods.ScoreMod(lambda s, b, h, i, j: s - (h + 1.0) * (i - j), lambda b, h, i, j: i >= j)
    at = mods.where((slice(0, 1), slice(0, 32), slice(8176, 8192)), 8192, q.device)
    with Held() as held, torch.no_grad():
        held.keep_out(q, k)
        assert mod.logits(q, k, 0.1, at).shape == (1, 32, 16, 8192)
    assert held.most <= 50 << 20, held.most / 2**20


def test_nothing_that_is_launched_for_weights_waits():
    logits = torch.randn(B, H, T, T + 1, device=NOWHERE)
    given = OfWeights(logits.softmax(-1), logits, True, 0, 1, False)
    with NoAnswers(), torch.no_grad():
        assert accelerator._weights(given).tensors[0, "rows"].shape[1:] == (B, H, T)


def test_reading_a_number_is_refused_by_that_test():
    with NoAnswers():
        numbers = torch.empty(3, device=NOWHERE)
        for wrong in (lambda: numbers.cpu(), lambda: numbers.nonzero(), lambda: numbers[numbers > 0], lambda: numbers.sum().item(),
                      lambda: bool(numbers[0] > 0), lambda: torch.as_tensor(np.ones(3), device=NOWHERE)):
            with pytest.raises((AssertionError, RuntimeError)):
                wrong()


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are made and live, and their most."""

    def __init__(self):
        super().__init__()
        self.live, self.bytes, self.most, self.given = {}, 0, 0, set()

    def keep_out(self, *tensors):
        self.given |= {one.untyped_storage()._cdata for one in tensors}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for one in flat(result):
            if isinstance(one, torch.Tensor) and one.untyped_storage()._cdata not in self.given:
                self.count(one)
        return result

    def count(self, tensor):
        storage = tensor.untyped_storage()
        key, nbytes = storage._cdata, storage.nbytes()
        if key not in self.live:
            self.live[key] = 0
            self.bytes += nbytes
            self.most = max(self.most, self.bytes)
        self.live[key] += 1
        weakref.finalize(tensor, self.gone, key, nbytes)

    def gone(self, key, nbytes):
        self.live[key] -= 1
        if not self.live[key]:
            del self.live[key]
            self.bytes -= nbytes


@pytest.mark.parametrize("batch, heads, length, form", [(1, 4, 8192, "causal"), (1, 4, 8192, "bias"),
                                                        (8, 12, 1024, "causal"), (64, 16, 64, "mask")])
def test_what_is_held_is_little(batch, heads, length, form, on_nowhere):
    assert held_at_most(batch, heads, length, form) <= HELD_MAX


@pytest.mark.parametrize("on_nowhere", ["triton"], indirect=True)
@pytest.mark.parametrize("form", ["lowered", "raised"])
def test_copies_in_the_precision_of_the_kernel_are_little(form, on_nowhere):
    assert held_at_most(1, 32, 8192, form) <= HELD_MAX


def held_at_most(batch, heads, length, form):
    dtype = torch.float32 if form == "lowered" else torch.bfloat16
    precision = torch.float32 if form == "raised" else torch.bfloat16  # of the kernel
    q, k = (torch.empty(batch, n, length, 128, device=NOWHERE, dtype=dtype) for n in (heads, heads // 4))
    mask = {"mask": torch.empty(batch, 1, 1, length, device=NOWHERE, dtype=torch.bool),
            "bias": torch.empty(1, 1, length, length, device=NOWHERE)}.get(form)
    given = OfQueries(q, k, 0, 4, precision, 0.1, 0.0, True, 0, mask, None, 0, False)
    held = Held()
    held.keep_out(*(one for one in (q, k, mask) if one is not None))
    with held, torch.no_grad():
        computer()._queries(given, True, 64)
    return held.most


def test_what_is_held_for_weights_is_little():
    logits, map_of_all = torch.empty(1, 12, 2048, 2048, device=NOWHERE), torch.empty(1, 12, 2048, 2048, device=NOWHERE)
    held = Held()
    held.keep_out(logits, map_of_all)
    with held, torch.no_grad():
        accelerator._weights(OfWeights(map_of_all, logits, False, 0, 1, False), 64)
    assert held.most <= HELD_MAX, held.most


def reduced(rows):
    """How many rows of each head have a metric, and its mean."""
    return {name: (np.isfinite(one).sum((0, 2)).tolist(), np.nanmean(one, (0, 2)).round(5).tolist()) for name, one in finish(rows).items()
            if name not in ("message", "sound", "invalid") and np.isfinite(one).any()}


def sound(rows):
    return finish(rows)["sound"].sum((0, 2)).tolist()


def test_a_backend_that_returns_garbage_is_found_out_and_the_next_one_takes_over(monkeypatch, caplog):
    can_run(monkeypatch)
    monkeypatch.setattr(launch, "launched", lambda *given: launched(*given).mul_(1.01))
    one, given, columns = computer(), asked(), reference.columns
    with caplog.at_level(logging.WARNING):
        waiting = [one.launch(given, 0), one.launch(given, 0)]
        assert [wait() for wait in waiting] == [None, None] and one.is_trusted
        right = finish(one.launch(given, 0)())["entropy"]
        expected = reference.rows(accelerator._problem(given, slice(0, H)))
        np.testing.assert_allclose(right, expected["entropy"].double().numpy(), rtol=1e-5, atol=1e-6)
        monkeypatch.setattr(reference, "columns", lambda *given: {name: values * 2 for name, values in columns(*given).items()})
        for _ in range(accelerator.CHECKED_EVERY):
            one.launch(given, 0)()
    assert not one.is_trusted
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and "'triton' is not used again: what it computes on cpu is wrong: " in said[0] and "'reference' takes over" in said[0]
    assert "From now on tier raw travels" in said[1]


def test_the_check_agrees_with_every_form(monkeypatch):
    monkeypatch.setattr(accelerator, "CHECKED_FIRST", 10)
    for name, changes in FORMS.items():
        if name != "bf16":
            one = computer()
            for _ in range(10):
                assert one.launch(asked(**changes(torch.device("cpu"))), 0)() is not None, name


def test_a_backend_that_is_wrong_in_one_head_of_one_sample_is_found_out(monkeypatch):
    def wrong(problem, powers):
        room = launched(problem, powers)
        weighted = launch.parts_of(problem, powers, room)[1].sums.view(-1, problem.batch, problem.heads, problem.queries)[2]
        weighted[B - 1, -1, T // 2:] -= 1  # of the last head that is computed at once
        return room

    can_run(monkeypatch)
    monkeypatch.setattr(launch, "launched", wrong)
    monkeypatch.setattr(accelerator, "CHECKED_EVERY", 1)
    for most in (H, 1):  # heads at once
        monkeypatch.setattr(accelerator, "_heads_at_once", lambda given: most)
        one = computer()
        assert any(one.launch(asked(), 0)() is None for _ in range(500))  # of 500 checks 7 in 60 find it


def test_a_kernel_that_does_not_run_is_left_for_good_and_said_once(monkeypatch, caplog):
    def fails(problem, powers):
        tried.append(1)
        raise RuntimeError("PassManager::run failed")

    tried = []
    can_run(monkeypatch)
    monkeypatch.setattr(launch, "launched", fails)
    one = computer()
    with caplog.at_level(logging.WARNING):
        with pytest.raises(RuntimeError, match="PassManager"):
            one.launch(asked(), 0)
        assert [sound(one.launch(asked(), step)()) for step in (1, 2)] == [[B * T] * H] * 2
    said = [record.getMessage() for record in caplog.records]
    assert len(tried) == len(said) == 1 and "does not run on cpu: PassManager" in said[0] and "'reference' takes over" in said[0]


@pytest.mark.parametrize("at_once", [H, 1])  # heads
@pytest.mark.parametrize("form", ["mask by head", "rows of a mask by head", "bias by head"])
def test_without_the_kernel_keys_are_visible_that_some_head_sees(form, at_once, monkeypatch):
    """Where a mask or bias differs by head: against float64."""
    monkeypatch.setattr(accelerator, "_heads_at_once", lambda given: at_once)
    generator = torch.Generator().manual_seed(3)
    mask = torch.rand(1, H, T, T, generator=generator) < 0.6
    bias = torch.where(mask, torch.randn(1, H, T, T, generator=generator), -torch.inf)
    rows = some_rows(T, 9) if form.startswith("rows") else None
    given = asked(mask=bias if form.startswith("bias") else mask, rows=rows, causal=False)
    found, at = finish(computer().launch(given, 0)()), torch.arange(T) if rows is None else rows.there
    logits = torch.einsum("bhid,bhjd->bhij", given.q.double(), given.k.repeat_interleave(H // HK, 1).double()) * given.scale
    logits = (logits + bias.double() if form.startswith("bias") else logits).masked_fill(~mask, -torch.inf)
    weights, seen = torch.softmax(logits, -1)[:, :, at], mask.any(1, keepdim=True)[:, :, at].expand(B, H, -1, -1)
    distance = (at[:, None] - torch.arange(T)).abs().double()
    rest = weights[..., 1:] / weights[..., 1:].sum(-1, keepdim=True)
    for name, values in {
            "entropy": -torch.xlogy(weights, weights).sum(-1),
            "entropy_normalized": -torch.xlogy(weights, weights).sum(-1) / seen.sum(-1).log(),
            "entropy_sans_first": -torch.xlogy(rest, rest).sum(-1) / seen[..., 1:].sum(-1).log(),
            "mean_distance_normalized": (weights * distance).sum(-1) / (distance * seen).amax(-1)}.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-4, atol=2e-6, err_msg=name)


def test_large_logits_are_not_taken_for_wrong_numbers():
    """In f32 a logit of 5e4 is off by some thousandths, and so is what is made of it."""
    given = asked()
    given.q[..., 0], given.k[..., 0] = 5e4 / D**-0.5 / 100, 100
    one = computer()
    assert all(one.launch(given, step)() is not None for step in range(3)) and one.is_trusted
    computed = one._queries(given, True)
    check, _ = arrived.arrived(computed, {key: tensor.numpy() for key, tensor in computed.tensors.items()}, one._placed)
    assert one._agrees("reference", check, given.q.device)
    check[0, 0] += 1
    assert not one._agrees("reference", check, given.q.device)


def test_nothing_is_captured_while_the_kernels_are_compiled_beside_the_training(monkeypatch, caplog):
    class Kernel:
        def warmup(self, *arguments, grid, **how):
            assert not any(isinstance(one, torch.Tensor) for one in arguments) and threading.current_thread() is not here
            compiled.append((self, may_end.wait(60)))
            if fails:
                raise RuntimeError("PassManager::run failed")

    here, may_end, compiled, fails = threading.current_thread(), threading.Event(), [], []
    monkeypatch.setattr(launch, "unable", lambda *given: None)
    monkeypatch.setattr(launch, "_interpreted", lambda: False)
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(device, "kernel", SimpleNamespace(row_sums=Kernel(), few_keys=Kernel(), seen_keys=Kernel(), map_cells=Kernel(), key_lengths=Kernel()), raising=False)
    monkeypatch.setattr(launch, "launched", launched)
    one = computer()

    def is_ready(**changes):
        try:
            return one.launch(asked(**changes), 0)() is not None
        except NotYet:
            return False
    assert not is_ready() and not is_ready() and one._captures == 0
    may_end.set()
    wait_until(is_ready, "the kernels")
    longer = torch.randn(B, HK, 2 * T, D)
    assert is_ready(first=1) and is_ready(k=longer) and len(compiled) == 3  # no other kernels
    fails.append(1)
    assert not is_ready(causal=False)  # another kernel, which fails
    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="PassManager"):
        wait_until(lambda: is_ready(causal=False), "the failure")
    assert "'triton' is not used again: the kernel does not run on cpu: PassManager" in caplog.text
    assert sound(one.launch(asked(causal=False), 6)()) == [B * T] * H


def test_kernels_for_tokens_are_compiled_again_only_for_others_to_the_compiler(monkeypatch):
    class Kernel:
        def warmup(self, *arguments, grid, **how):
            compiled.append(self)

    compiled, kernels = [], {name: Kernel() for name in KERNELS}
    monkeypatch.setattr(launch, "unable", lambda *given: None)
    monkeypatch.setattr(launch, "_interpreted", lambda: False)
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(device, "kernel", SimpleNamespace(**kernels), raising=False)
    monkeypatch.setattr(launch, "launched", launched)
    monkeypatch.setattr(launch, "of_tokens", of_tokens)
    one = computer()

    def compiles(numbers):
        """Whether something is, before such tokens are captured."""
        def is_ready():
            try:
                return one.launch(given, 0)() is not None
            except NotYet:
                return False
        q, k = (torch.randn(B, heads, numbers.shape[1], D) for heads in (H, HK))
        given, before = asked(q=q, k=k, numbers=numbers), len(compiled)
        if is_ready():
            return len(compiled) > before
        wait_until(is_ready, "the kernels")
        assert compiled[before:] == [kernels[name] for name in ("key_lengths", "row_sums", "few_keys", "token_keys")]
        return True

    room = torch.zeros(B * 2 * T, dtype=torch.int64)
    first = room[:B * T].view(B, T)
    assert compiles(first)
    for length in (T + 1, T - 1, 2 * T):
        assert not compiles(room.new_zeros(B, length))
    # The room's second number is at no multiple of 16 bytes; 80 numbers from a sample to the next are a multiple of 16.
    for others in (room[1:B * T + 1].view(B, T), room.view(B, 2 * T)[:, ::2], room[:B * T].view(T, B).t(), first.int(),
                   room.new_zeros(B, 80)):
        assert compiles(others) and not compiles(others) and not compiles(first)
    assert not compiles(room.new_zeros(B, 96))


@pytest.mark.parametrize("layers", [3, 16, 32])
def test_each_layer_is_checked_in_its_turn(layers, monkeypatch):
    monkeypatch.setattr(accelerator, "CHECKED_FIRST", 0)
    one = computer()
    taken = [[one._takes_check(10 * step) for _ in range(layers)] for step in range(accelerator.CHECKED_EVERY)]
    assert np.sum(taken, 0).tolist() == [1] * layers


def test_more_logits_are_fast_only_where_the_kernel_runs(monkeypatch):
    many, q = accelerator.REFERENCE_LOGITS_MAX + 1, torch.empty(1, 1, 1, D)
    assert computer().is_fast_for(many - 1, q, torch.float32, None)
    assert not computer().is_fast_for(many, q, torch.float32, None)  # triton cannot on the CPU
    pytest.importorskip("triton", minversion="3.4")
    monkeypatch.setattr("triton.knobs.runtime.interpret", True)
    documents = torch.zeros(3, T, dtype=torch.int64)
    assert computer().is_fast_for(many, q, torch.bfloat16, None) and computer().is_fast_for(many, q, torch.float32, documents)
    assert not computer().is_fast_for(many, q, torch.float64, None)
    assert not computer().is_fast_for(many, q, torch.float32, documents.float())
    assert not computer().is_fast_for(many, torch.empty(1, 1, 1, launch.WIDTH_MAX + 1), torch.float32, None)


def test_what_the_model_does_next_changes_nothing_and_nothing_of_it_is_held():
    one, given = computer(), asked()
    expected = reduced(one.launch(given, 0)())
    wait = one.launch(given, 0)
    given.q.add_(1)
    assert reduced(wait())["confidence"] == expected["confidence"]
    wait, q = one.launch(given, 0), weakref.ref(given.q)
    del given
    assert q() is None and wait() is not None


def test_maps_go_along_when_they_are_asked_for():
    """Of the first sample, whose queries at the positions of hidden keys are padding as well."""
    valid = torch.arange(T) < torch.tensor([[50], [T]])
    given = asked(mask=valid[:, None, None])
    expected = pooled.of_queries(accelerator._problem(given, slice(0, H)), 0, 64, None, valid).read()
    for most in (H, 1):  # heads at once
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(accelerator, "_heads_at_once", lambda given: most)
            maps = computer().launch(given, 0, 64)().maps
        assert maps.keys == maps.queries == 50 and maps._replace(values=None) == expected._replace(values=None)
        np.testing.assert_array_equal(maps.values, expected.values)
    assert computer().launch(given, 0)().maps is None


def test_kernels_are_compiled_again_for_as_many_heads_as_are_another_thing_to_the_compiler(monkeypatch):
    monkeypatch.setattr(launch, "_interpreted", lambda: False)
    monkeypatch.setattr(launch, "_compiled", {})
    monkeypatch.setattr(launch, "_compile", lambda key, *given: launch._compiled.update({key: True}))
    monkeypatch.setattr(device, "kernel", SimpleNamespace(**dict.fromkeys(KERNELS)), raising=False)

    def is_new(heads, key_heads, mask=None):
        problem = Problem(torch.empty(1, heads, 64, 16), torch.empty(1, key_heads, 64, 16), 1.0, bias=mask)
        if launch.is_ready(problem, False, mask, 0, False):
            return False
        wait_until(lambda: launch.is_ready(problem, False, mask, 0, False), "the kernels")
        return True

    assert is_new(8, 2) and not is_new(8, 2) and is_new(8, 1) and is_new(32, 4) and is_new(32, 16)
    masks = [torch.ones(1, heads, 64, 64, dtype=torch.bool) for heads in (1, 8)]
    assert is_new(8, 2, masks[0]) and is_new(8, 2, masks[1]) and not is_new(8, 2, masks[0])


@pytest.fixture
def rooms(monkeypatch):
    """The memory of parcels, which is there for one test."""
    made = defaultdict(list)
    monkeypatch.setattr(parcel.clock_of(torch.device("cpu")), "rooms", made)
    return made


KEPT = {
    "sinks": lambda n: {"sinks": torch.arange(H) + n + 0.5},
    "mask": lambda n: {"mask": torch.arange(T) < torch.tensor([50 - n, T])[:, None, None, None]},
    "documents": lambda n: {"documents": (torch.arange(T) // (20 + n)).expand(B, T), "tokens": torch.tensor([50 - n])},
    "tokens of rows": lambda n: {"numbers": torch.arange(T).expand(B, T) % (3 + n), "rows": some_rows(T - 3, 9)}}


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("form", KEPT)
def test_rows_stay_as_they_are_when_a_later_capture_takes_their_room(form, by_kernel, rooms, monkeypatch):
    if by_kernel:
        reference_stands_in(monkeypatch)
    first, later = (asked(**KEPT[form](n)) for n in (0, 5))
    stay_as_they_are(first._replace(q=first.q[:, :, 3:]), later._replace(q=2 - later.q[:, :, 3:], k=2 - later.k, first=3), rooms)


def test_rows_of_weights_stay_as_they_are_when_a_later_capture_takes_their_room(rooms):
    first, later = torch.randn(2, B, H, T, T)
    stay_as_they_are(*(OfWeights(one.softmax(-1), one, True, position, 1, False) for one, position in ((first, 0), (later, 3))), rooms)


def stay_as_they_are(first, later, rooms):
    one = computer()
    made = one.launch(first, 0, 64)()
    before = copy.deepcopy(made)
    assert one.launch(later, 0, 64)() is not None
    assert [len(same) for same in rooms.values()] == [1]
    np.testing.assert_equal(made, before)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_where_padding_begins_is_remembered_when_a_later_capture_takes_the_room(dtype, rooms):
    """Counts in int64, of which long() makes no copy, as others."""
    one = computer()
    for count in (50, 40):
        lengths = one.launch(asked(tokens=torch.tensor([count], dtype=dtype)), 0)().key_lengths
        assert np.isfinite(lengths).sum(2).tolist() == [[count] * HK] * B
    assert [len(same) for same in rooms.values()] == [1]
    assert [placed.keys.tolist() for *_, placed in one._placed] == [[50], [40]]


NUMBERS = {"mean", "min", "max", "std", "variance", "locality", "max_abs_logit", "mean_logit", "std_logit", "qk_cosine",
           "qk_cosine_max", "q_norm", "k_norm"}


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"bf16"}))
@pytest.mark.parametrize("at_once", [H, 1])  # heads
def test_the_numbers_of_a_message_are_those_of_all_heads_together(form, at_once, monkeypatch):
    monkeypatch.setattr(accelerator, "_heads_at_once", lambda given: at_once)
    given = asked(**FORMS[form](torch.device("cpu")))
    problem = accelerator._problem(given, slice(0, H))
    problem.sinks = given.sinks
    queries = problem.queries if given.rows is None else T
    expected = arrived.of_reference(problem, True, queries, torch.ones(1, problem.queries, dtype=torch.bool))
    reference_stands_in(monkeypatch)
    monkeypatch.setattr(launch, "looked_at", lambda problem, mask: accelerator._looked_at(given, accelerator._hides_at(given, None)))
    for whole in (True, False):
        made = computer().launch(given._replace(whole=whole), 0)()
        values = known(finish(made, given.cross)["message"])
        wanted = expected
        if given.mask is not None:  # keys are visible that some head sees
            names = tuple("" if name in arrived.BY_MASK else name for name in expected.names)
            wanted = expected._replace(names=names, places=made.places)
        wanted = finish(wanted, given.cross)["message"]
        assert values.keys() == NUMBERS - ({"locality"} if given.cross else set()) | ({"importance"} if whole else set())
        for name, one in values.items():
            np.testing.assert_allclose(one, wanted[name], rtol=1e-5, atol=1e-7, err_msg=name)


def known(values):
    return {name: one for name, one in values.items() if np.isfinite(one).any()}


def test_without_the_kernel_numbers_that_need_sums_over_logits_or_powers_are_absent():
    names = computer().launch(asked(whole=True), 0)().names
    assert "query_length" in names and not {"finite", "cosines", "power_3"} & set(names)


def test_the_default_device_changes_nothing():
    given = asked()
    expected = computer().launch(given, 0, 64)()
    with torch.device("meta"):
        found = computer().launch(given, 0, 64)()
        problem = Problem(given.q, given.k, k_len=[T, 3], q_len=[3, T])
    assert reduced(found) == reduced(expected) and found.names == expected.names
    np.testing.assert_array_equal(found.maps.values, expected.maps.values)
    assert problem.k_len.tolist() == [T, 3] and problem.q_len.tolist() == [3, T]


def test_a_model_without_gradients_in_inference_mode_is_read():
    with torch.inference_mode():
        assert sound(computer().launch(asked(), 0)()) == [B * T] * H


@pytest.fixture
def on_accelerator(monkeypatch):
    """The CPU counts as an accelerator."""
    monkeypatch.setattr(origins, "computes", lambda device: True)


def test_without_memory_the_capture_is_dropped_and_the_training_goes_on(stepwise, on_accelerator, monkeypatch, caplog):
    def fail(*given):
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory")

    kind = decoder_kind("sdpa", fused, layers=2)
    with Session(stepwise) as session, caplog.at_level(logging.WARNING):
        model = kind.build()
        watch = session.watch(model)
        kind.loss(model, kind.batch(0)).backward()
        watch.step()
        tried = []
        monkeypatch.setattr(accelerator, "_by_reference", fail)
        monkeypatch.setattr(accelerator, "REST_AFTER_OUT_OF_MEMORY", 2)
        for step in (1, 2):
            kind.loss(model, kind.batch(step)).backward()
            watch.step()
        assert watch.stats()["dropped"] == 4 and len(tried) == 2  # of the second of four, and the third, nothing was asked
        monkeypatch.undo()
    said = [record.getMessage() for record in caplog.records if "could not be captured" in record.getMessage()]
    assert len(said) == 1


@pytest.mark.parametrize("rows, expected", [
    (None, [(1, 24), (3, 4), (3, 4), (1, 24), (3, 4)]), (0, [(3, 24)] * 5), (2, [(3, 2)] * 5)])
def test_a_capture_takes_some_rows_and_each_so_manyth_all_of_one_sample(rows, expected, stepwise, on_accelerator, monkeypatch):
    """(samples, queries) of each capture, where the plan says nothing, all or two."""
    taken, launched = [], Accelerator.launch
    monkeypatch.setattr(origins, "ROWS_ON_DEVICE", 4)
    monkeypatch.setattr(origins, "WHOLE_EVERY", 3)
    monkeypatch.setattr(Accelerator, "launch", lambda one, given, *others: taken.append(
        (given.q.shape[0], given.q.shape[2] if given.rows is None else len(given.rows.here))) or launched(one, given, *others))
    kind = decoder_kind("sdpa", fused, layers=1)
    with Session(stepwise) as session:
        model = kind.build()
        watch = session.watch(model, rows=rows, samples=0)
        for step in range(5):
            kind.loss(model, kind.batch(step)).backward()
            watch.step()
        summaries = session.summaries()
    assert taken == expected
    of = [found.get("rows_of", found["rows"]) // found["rows"] for _, found in sorted(summaries.items())]
    assert of == [24 // queries for _, queries in expected]


def test_the_device_time_of_a_capture_is_counted(monkeypatch):
    one = computer()
    monkeypatch.setattr(parcel.Clock, "seconds", lambda clock, began, ended: 0.25)
    for step in (3, 4, 5):
        one.launch(asked(), step)()
    assert one._cost._captures == {3: [0.0, 0.25], 4: [0.0, 0.25], 5: [0.0, 0.25]}


DRIVER = """
static __thread int mode;
int cuThreadExchangeStreamCaptureMode(int *wanted) { int was = mode; mode = *wanted; *wanted = was; return 0; }
int mode_of_this_thread(void) { return mode; }
"""
THREADS = """
import ctypes, threading, types
import torch
from attnd import Publisher
from attnd.sending import devices
from attnd.device import launch
from conftest import FakeDaemon, wait_until

GLOBAL, RELAXED = 0, 2
mode, found = ctypes.CDLL("libcuda.so.1").mode_of_this_thread, []
torch.cuda.is_initialized = lambda: True

class Event:
    def synchronize(self):
        found.append(mode())
    def __del__(self):
        found.append(mode())

def copied():
    copy = devices.HostCopy(torch.ones(1))
    copy._arrived = Event()
    return lambda: copy.numpy() and None

daemon = FakeDaemon()
with Publisher("job", daemon.endpoint) as publisher:
    daemon.attach(publisher)
    publisher.publish_later(("decoder", 0, "self"), 0, 0, 4, copied)
    publisher.hurry()
    wait_until(lambda: len(found) == 2, "the copy is waited for, and let go of")
assert found == [RELAXED, RELAXED], found

def compiles():
    warmup = lambda *arguments, **how: found.append(mode())
    launch._compile("key", torch.device("cpu"), [(launch._Call(types.SimpleNamespace(warmup=warmup), (1, 1), (), {}, ()), ())])
    found.append(mode())

found.clear()
thread = threading.Thread(target=compiles)
thread.start()
thread.join()
assert found == [RELAXED, GLOBAL] and launch._compiled["key"] is True, found
try:
    with devices.relaxed():
        assert mode() == RELAXED
        raise KeyError
except KeyError:
    assert mode() == GLOBAL
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_threads_of_attnd_call_cuda_in_the_mode_that_lets_captures_of_graphs_be(tmp_path):
    (tmp_path / "driver.c").write_text(DRIVER)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"], check=True)
    ran = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, timeout=300, env={
        **os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": f"{ROOT / 'clients/python'}:{ROOT / 'tests/python'}"})
    assert ran.returncode == 0, ran.stderr


def test_the_layers_of_a_forward_share_their_rows_and_no_others_do(monkeypatch):
    one, device = computer(), torch.device("cpu")
    monkeypatch.setattr(parcel.clock_of(device), "stream", lambda: 1)
    drawn = [one.rows(forward, 8192, 256, device).here.tolist() for forward in ((3, 0), (3, 0), (3, 1), (4, 0))]
    assert drawn[0] == drawn[1] and len({str(rows) for rows in drawn}) == 3
    monkeypatch.setattr(parcel.clock_of(device), "stream", lambda: 2)
    assert one.rows((4, 0), 8192, 256, device).here.tolist() != drawn[3]


# --------------------------------------------------------------------------------------- the time of the training's thread

@pytest.mark.parametrize("tokens, most", [(False, 130), (True, 142)])  # Python functions of attnd
def test_a_captured_layer_takes_few_python_calls(tokens, most, stepwise, on_accelerator, monkeypatch):
    """From the second capture of a layer on, without the kernels themselves: what depends on no number is known then."""
    calls, package = [], str(ROOT / "clients" / "python" / "attnd")

    def counted(function):
        def wrapper(*given):
            calls.append(0)

            def called(frame, event, argument):
                calls[-1] += event == "call" and frame.f_code.co_filename.startswith(package)
            sys.setprofile(called)
            try:
                return function(*given)
            finally:
                sys.setprofile(None)
        return wrapper

    launched = defaultdict(lambda: lambda *given, **how: None)
    monkeypatch.setattr(device, "kernel", SimpleNamespace(**dict.fromkeys(KERNELS, launched)), raising=False)
    monkeypatch.setattr(origins, "ROWS_ON_DEVICE", 4)
    monkeypatch.setattr(origins, "WHOLE_EVERY", 1 << 30)
    monkeypatch.setattr(Accelerator, "_takes_check", lambda *given: False)
    monkeypatch.setattr(accelerator, "arrived", lambda *given: (None, None))
    can_run(monkeypatch)
    kind = decoder_kind("sdpa", fused, layers=2)
    with Session(stepwise) as session:
        model = kind.build()
        watch = session.watch(model, tokens=tokens)
        for step in range(5):
            kind.loss(model, kind.batch(step)).backward()
            watch.step()
            if step == 0:  # its layers have no names yet
                for way in ("saw", "saw_alike"):
                    monkeypatch.setattr(forwards.Forwards, way, counted(getattr(forwards.Forwards, way)))
    assert len(calls) == 8 and max(calls[4:]) <= most, calls


def test_calls_share_what_was_found_out_only_where_all_but_numbers_is_alike():
    """Also whether tensors begin at a multiple of 16 bytes: kernels are compiled for that."""
    one, room = computer(), torch.randn(2, B * H * T * D + 1)
    aligned, other = (room[0, begin:begin + B * H * T * D].view(B, H, T, D) for begin in (0, 1))
    rows = [some_rows(T, n) for n in (9, 9, 8)]
    forms = [{"q": aligned}, {"q": other}, {"q": aligned[:, :, :-2]}, {"q": aligned, "scale": 2.0}, {"q": aligned, "window": 3},
             {"q": aligned, "rows": rows[0]}, {"q": aligned, "rows": rows[2]}, {"q": aligned, "documents": torch.zeros(B, T)},
             {"q": aligned, "documents": torch.zeros(B, T, dtype=torch.int32)}, {"q": aligned, "mask": torch.ones(1, 1, 1, T)},
             {"q": aligned, "mask": torch.ones(B, 1, 1, T)}, {"q": aligned.transpose(2, 3).contiguous().transpose(2, 3)}]
    for _ in range(2):
        found = [next(accelerator._problems(asked(**form), one._alike))[1] for form in forms]
        assert len(one._alike) == len({id(problem.alike) for problem in found}) == len(forms)
    again = next(accelerator._problems(asked(q=aligned, rows=rows[1]), one._alike))[1]
    assert again.alike is found[5].alike and again.rows is rows[1] and again.queries == 9
    assert all(problem.q is None and problem.k is None and problem.rows is None for kept in one._alike.values() for _, problem in kept)
