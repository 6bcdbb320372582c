# SPDX-License-Identifier: MIT
"""The values of projection matrices that travel with each capture: which they are, of which matrix, and what is told of those
that have none."""
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.capture import sketch
from attnd.capture.matrix import Matrix
from attnd.capture.shards import Shard
from conftest import FakeDaemon, wait_until
from sketched import expected
from test_projections import D, READ, Attention, Conv1D, H, Model, T, attn, heads, separate, simple, train
from torch import nn

SIDE = D // H
TAKES = b"limits/accepts=attention,qk,weights,sketch,event;header=11"


@pytest.fixture
def watched():
    opened = []

    def watch(model=None, takes=TAKES, every=1, **options):
        messages, model, daemon = [], model or Model(simple), FakeDaemon(topics=(b"", takes))
        it = attnd.watch(model, job="job", endpoint=daemon.endpoint, every=every, steps="manual", wait=0,
                         on_publish=messages.append, **options)
        daemon.attach(it.publisher)
        wait_until(lambda: daemon.serve() or it.publisher.limits.sketch == (b"sketch" in takes), "the limits arrive")
        it.rearm()
        it.messages, it.model = messages, model
        opened.append(it)
        return it

    yield watch
    for it in opened:
        it.close()


def sketches(it, layer=0):
    """[(step, keys, {name: values})] of a layer."""
    assert it.publisher.drain(60)
    return [(m.step, m.keys, dict(zip((t["name"] for t in m.keys["tensors"]), m.frames)))
            for m in it.messages if m.kind == "sketch" and m.keys["layer"] == layer]


def assert_values(found, path="blocks.0.attn", kv_heads=H, stored=("wq", "wk", "wv", "wo"), **matrices):
    assert list(found) == [name for name in ("wq", "wk", "wv", "wo") if name in matrices]
    for name, matrix in matrices.items():
        np.testing.assert_array_equal(found[name], expected(path, name, matrix, kv_heads if name in ("wk", "wv") else H, name in stored),
                                      err_msg=name)


def of_four(module):
    return dict(zip(("wq", "wk", "wv", "wo"), (module.q_proj.weight, module.k_proj.weight, module.v_proj.weight, module.o_proj.weight)))


def test_values_are_those_after_the_step_that_was_captured(watched):
    it = watched()
    optimizer = torch.optim.SGD(it.model.parameters(), lr=0.1)
    wanted = []
    for _ in range(6):
        it.model(torch.rand(1, T, D)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        it.step()
        wanted.append({name: one.detach().clone() for name, one in of_four(attn(it.model)).items()})
    found = sketches(it)
    assert [step for step, *_ in found] == list(range(6)) and len(sketches(it, 1)) == 6
    for (_, keys, values), matrices in zip(found, wanted):
        assert_values(values, **matrices)
        assert keys["stored"] == ["f32"] * 4 and keys["module"] == "blocks.0.attn" and not keys.keys() & {"frozen", "head_offset", "heads_total"}
    assert not np.array_equal(found[0][2]["wq"], found[1][2]["wq"])


@pytest.mark.skipif(not hasattr(nn.functional, "scaled_dot_product_attention"), reason="torch has no scaled_dot_product_attention")
def test_calls_like_one_before_have_a_sketch_as_well(watched):
    class Fused(Attention):
        def forward(self, x):
            return nn.functional.scaled_dot_product_attention(*self.split(self, x)).transpose(1, 2).flatten(2)

    it = watched(Model(lambda: Fused({name: (D, D) for name in READ}, separate(*READ[:3]))))
    full = []
    for _ in range(6):
        full.append(it.forwards.spy.is_full)
        it.model(torch.rand(1, T, D)).square().sum().backward()
        it.step()
    assert full == [True, *[False] * 5]
    assert all([step for step, *_ in sketches(it, layer)] == list(range(6)) for layer in (0, 1))


@pytest.mark.parametrize("is_view", [False, True])
def test_a_parameter_whose_memory_is_away_is_not_read(watched, caplog, is_view):
    """As while it is offloaded, or shared out. A view of what is gone still has an address."""
    it = watched()
    caplog.set_level("INFO", "attnd")
    if is_view:
        attn(it.model).q_proj.weight = nn.Parameter(torch.rand(D + 4, D)[4:])
    of = (lambda one: one.untyped_storage()) if hasattr(torch.Tensor, "untyped_storage") else (lambda one: one.storage().untyped())
    for step in range(4):
        it.model(torch.rand(1, T, D)).square().sum().backward()
        storage = of(attn(it.model).q_proj.weight)
        size = storage.nbytes()
        if step == 2:
            kept = attn(it.model).q_proj.weight.detach().clone()
            storage.resize_(0)
        it.step()
        if step == 2:
            storage.resize_(size)
            attn(it.model).q_proj.weight.data.copy_(kept)
    assert [step for step, *_ in sketches(it)] == [0, 1, 3] and [step for step, *_ in sketches(it, 1)] == [0, 1, 2, 3]
    assert "taken the memory of a parameter away" in caplog.text
    assert_values(sketches(it)[-1][2], **of_four(attn(it.model)))


@pytest.mark.parametrize("change", ["transposed", "pruned"])
def test_a_parameter_whose_numbers_lie_otherwise_is_looked_at_anew(watched, change):
    """With the same memory, or with fewer numbers: then other layers have sketches all the same."""
    it = watched()
    for step in range(8):
        it.model(torch.rand(1, T, D)).square().sum().backward()
        if step == 5:
            module = attn(it.model)
            for one in (module.q_proj, module.k_proj, module.v_proj):
                one.weight.data = one.weight.data.t() if change == "transposed" else one.weight.data[:D // 2]
                one.weight.grad = None
            if change == "pruned":
                module.o_proj.weight.data, module.o_proj.weight.grad = module.o_proj.weight.data[:, :D // 2], None
        it.step()
        if step == 5 and change == "pruned":
            break
    assert [step for step, *_ in sketches(it, 1)] == list(range(6 if change == "pruned" else 8))
    if change == "transposed":
        assert_values(sketches(it)[-1][2], **of_four(attn(it.model)))


def in_one(blocks):
    def split(self, x):
        found = self.qkv(x)
        if blocks:
            return [heads(part) for part in found.chunk(3, -1)]
        return found.unflatten(-1, (H, 3, SIDE)).permute(3, 0, 2, 1, 4) if hasattr(found, "unflatten") else None
    return split


def test_keys_and_values_of_fewer_heads(watched):
    names = {"q_proj": (D, D), "k_proj": (D // 2, D), "v_proj": (D // 2, D), "o_proj": (D, D)}
    it = watched(Model(lambda: Attention(names, separate(*READ, H // 2), H // 2)))
    train(it)
    assert_values(sketches(it)[0][2], kv_heads=H // 2, **of_four(attn(it.model)))


@pytest.mark.parametrize("order", ["wqkv", "wqkv_by_head"])
def test_matrices_in_one(order, watched):
    it = watched(Model(lambda: Attention({"qkv": (3 * D, D), "o_proj": (D, D)}, in_one(order == "wqkv"))), projections={order: "qkv"})
    train(it)
    whole = attn(it.model).qkv.weight
    q, k, v = whole.chunk(3) if order == "wqkv" else whole.view(H, 3, SIDE, D).permute(1, 0, 2, 3).reshape(3, D, D)
    assert_values(sketches(it)[0][2], wq=q, wk=k, wv=v, wo=attn(it.model).o_proj.weight)


def test_a_matrix_that_is_stored_the_other_way_round(watched):
    def make():
        it = Attention({"o_proj": (D, D)}, in_one(True))
        it.qkv = Conv1D(3 * D, D)
        return it
    it = watched(Model(make), projections={"wqkv": "qkv"})
    train(it)
    q, k, v = attn(it.model).qkv.weight.t().chunk(3)
    assert_values(sketches(it)[0][2], stored=("wo",), wq=q, wk=k, wv=v, wo=attn(it.model).o_proj.weight)


class LoraLinear(nn.Module):
    """As peft has it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(D, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, D, bias=False)})
        self.scaling, self.active_adapters, self.merged, self.disable_adapters = {"default": 0.5}, ["default"], False, False

    def forward(self, x):
        return self.base_layer(x) + 0.5 * self.lora_B["default"](self.lora_A["default"](x))


def test_what_an_adapter_adds_is_in_the_values_from_the_step_on_that_has_it(watched):
    it = watched()
    train(it, 3)
    it.model.requires_grad_(False)
    base = attn(it.model).q_proj
    attn(it.model).q_proj = lora = LoraLinear(base)
    train(it, 2)
    found = sketches(it)
    np.testing.assert_array_equal(found[2][2]["wq"], expected("blocks.0.attn", "wq", base.weight, H))
    whole = base.weight + 0.5 * lora.lora_B["default"].weight @ lora.lora_A["default"].weight
    for _, keys, values in found[3:]:
        np.testing.assert_allclose(values["wq"], expected("blocks.0.attn", "wq", whole, H), rtol=1e-6, atol=1e-7)
        assert keys["frozen"] == ["wk", "wv", "wo"]
    assert "frozen" not in found[2][1]


@pytest.mark.parametrize("change", ["its numbers", "its memory", "its storage", "the parameter", "the module"])
def test_a_matrix_that_others_took_the_place_of(change, watched):
    it = watched()
    train(it, 3)
    module, new = attn(it.model).k_proj, torch.randn(D, D)
    if change == "its numbers":
        module.weight.data.copy_(new)
    elif change == "its memory":
        module.weight.data = new
    elif change == "its storage":  # as FSDP does
        storage = module.weight.data.storage()
        storage.resize_(0)
        storage.resize_(D * D)
        module.weight.data.copy_(new)
    elif change == "the parameter":
        module.weight = nn.Parameter(new)
    else:
        attn(it.model).k_proj = nn.Linear(D, D, bias=False)
    train(it)
    assert_values(sketches(it)[3][2], **of_four(attn(it.model)))


def test_the_dtype_of_the_parameter_is_said(watched):
    model = Model(simple)
    attn(model).o_proj.to(torch.bfloat16)
    attn(model).v_proj.double()
    attn(model).o_proj.forward = lambda x: x
    attn(model).v_proj.forward = lambda x: x @ attn(model).v_proj.weight.float().t()
    it = watched(model)
    train(it)
    _, keys, values = sketches(it)[0]
    assert keys["stored"] == [{"wq": "f32", "wk": "f32", "wv": "f64", "wo": "bf16"}[name] for name in values]
    assert_values(values, **{name: one for name, one in of_four(attn(model)).items() if name in values})


def test_numbers_that_are_none_travel_as_they_are(watched):
    it = watched()
    with torch.no_grad():
        attn(it.model).q_proj.weight.fill_(torch.nan)
        attn(it.model).k_proj.weight.fill_(torch.inf)
    train(it)
    values = sketches(it)[0][2]
    assert np.isnan(values["wq"]).all() and np.isposinf(values["wk"]).all() and np.isfinite(values["wo"]).all()


def test_a_slice_of_the_heads_says_which(watched):
    it = watched(tensor_parallel=(1, 2))
    train(it)
    keys = sketches(it)[0][1]
    assert (keys["head_offset"], keys["heads_total"]) == (H, 2 * H)


def test_only_captured_steps_of_an_attnd_that_takes_them_have_one(watched):
    it = watched(every=2)
    train(it, 5)
    assert [step for step, *_ in sketches(it)] == [0, 2, 4]
    for options in ({"takes": b"limits/accepts=attention,qk,weights,event;header=11"}, {"weights_every": 0}):
        it = watched(**options)
        train(it, 3)
        assert not sketches(it) and it.messages


def test_what_has_none_is_told_once_and_the_rest_travels(watched, caplog):
    model = Model(simple)
    torch.nn.utils.weight_norm(attn(model).q_proj)
    with caplog.at_level(logging.INFO):
        it = watched(model)
        train(it, 3)
        assert_values(sketches(it)[0][2], **{name: one for name, one in of_four(attn(model)).items() if name != "wq"})
    told = [record.getMessage() for record in caplog.records if "sketch" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("job job: there is no sketch of W_q of blocks.0.attn: ")


def test_a_failure_is_told_and_nothing_is_raised(watched, monkeypatch, caplog):
    it = watched()
    monkeypatch.setattr(sketch._Plan, "take", lambda self: 1 / 0)
    train(it, 3)
    assert len([one for one in caplog.records if "weights of what was captured could not be read" in one.getMessage()]) == 1
    assert not sketches(it) and [m for m in it.messages if m.kind == "qk" or m.kind == "attention"]


def test_a_rank_sends_what_it_holds_of_a_matrix_that_is_cut_by_rows():
    """Of FSDP2; test_ranks.py has the real thing."""
    whole = torch.randn(D, D)
    row, column = (np.arange(D).repeat(D), np.tile(np.arange(D), D))
    for transposed in (False, True):
        for first, count in ((0, 6), (6, 6), (12, 4), (16, 0)):
            local = whole[first:first + count]
            matrix = Matrix(local, transposed, shard=Shard((D, D), first, 6, True, 1))
            place, held = matrix.place_of(row, column)
            logical = whole.t() if transposed else whole
            there = (column if transposed else row)
            np.testing.assert_array_equal(held, (there >= first) & (there < first + count))
            np.testing.assert_array_equal(local.flatten()[place[held]], logical[row[held], column[held]])
