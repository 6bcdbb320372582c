# SPDX-License-Identifier: MIT
"""Softmaxes that are not what multiplies the values: sinks by hand are no keys, and what is changed in between is told."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_judge import Attention, Model, heads_of, trained, watched  # noqa: F401
from test_spy import needs_sdpa
from torch.nn import functional
from watching import tensors_of

B, H, T, D = 2, 4, 6, 8
SEEN = torch.ones(T, T, dtype=torch.bool).tril()


class Attends(Attention):
    """`between`: gives the output by logits and values, and what weights these have."""

    def __init__(self, between):
        super().__init__()
        self.between, self.extra = between, torch.nn.Parameter(torch.randn(1, H, 1, 1))
        self.mix, self.norm = torch.nn.Linear(H, H), torch.nn.BatchNorm2d(H)

    def attend(self, q, k, v):
        logits = (q @ k.transpose(-1, -2) / D**0.5).masked_fill(~SEEN, -torch.inf)
        self.logits, self.v = logits.detach(), v.detach()
        return self.between(self, logits, v)

    def sink(self, count=1):
        return self.extra.expand(B, H, T, count)


def zeros(v, count=1):
    return torch.zeros(*v.shape[:2], count, D)


SINKS = {
    "in front": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1)[..., 1:] @ v,
    "behind": lambda m, x, v: torch.cat([x, m.sink()], -1).softmax(-1)[..., :-1] @ v,
    "in front, after dropout": lambda m, x, v: functional.dropout(torch.cat([m.sink(), x], -1).softmax(-1), 0.1)[:, :, :, 1:] @ v,
    "by narrow": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1).narrow(-1, 1, T) @ v,
    "by split": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1).split([1, T], -1)[1] @ v,
    "by index_select": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1).index_select(-1, torch.arange(1, T + 1)) @ v,
    "by index_select, behind": lambda m, x, v: torch.index_select(torch.cat([x, m.sink()], -1).softmax(-1), 3, torch.arange(T)) @ v,
    "by index": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1)[..., torch.arange(1, T + 1)] @ v,
    "by a mask": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1)[..., torch.arange(T + 1) > 0] @ v,
    "gathered": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1).gather(-1, torch.arange(1, T + 1).expand(B, H, T, T)) @ v,
    "taken": lambda m, x, v: torch.take_along_dim(torch.cat([m.sink(), x], -1).softmax(-1), torch.arange(1, T + 1).expand(1, 1, 1, T), -1) @ v,
    "by an einsum": lambda m, x, v: torch.einsum("bhij,bhjd->bhid", torch.cat([x, m.sink()], -1).softmax(-1)[..., :-1], v),
    "several": lambda m, x, v: torch.cat([m.sink(3), x], -1).softmax(-1)[..., 3:] @ v,
    "zeros in front of the values": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1) @ torch.cat([zeros(v), v], 2),
    "zeros behind the values": lambda m, x, v: torch.cat([x, m.sink()], -1).softmax(-1) @ torch.cat([v, zeros(v)], 2),
    "padded values": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1) @ functional.pad(v, (0, 0, 1, 0)),
    "one that is 0": lambda m, x, v: functional.pad(x, (1, 0)).softmax(-1)[..., 1:] @ v}


def sink_of(name, module):
    return torch.zeros(B, H, T, 1) if name == "one that is 0" else module.extra.detach().expand(B, H, T, 3 if name == "several" else 1)


@pytest.mark.parametrize("options", [{}, {"values": True, "gradients": True}], ids=["weights", "all"])
@pytest.mark.parametrize("name", SINKS)
def test_a_column_that_no_value_belongs_to_is_a_sink(daemon, watched, caplog, name, options):  # noqa: F811
    model = Model(Attends(SINKS[name]))
    it = watched(model, **options)
    for _ in range(2):
        model(torch.randn(B, T, H * D)).sum().backward()
        it.step()
    sent = [message for message in daemon.captured(it) if message[1]["type"] == "attention"]
    module, (_, header, _) = model.layers[0], sent[1]
    want = torch.cat([module.logits, sink_of(name, module)], -1).softmax(-1)[..., :T]
    assert len(sent) == 2 and header["learned_sink"] and header["causal"] and not caplog.records
    tensors = tensors_of(sent[1])
    np.testing.assert_allclose(tensors["weights"], want.numpy(), atol=1e-6)
    if options:
        assert tensors["grad"].shape == tensors["weights"].shape
        np.testing.assert_array_equal(tensors["v"], module.v.numpy())
    assert it.layers == [("decoder", 0, "self")]


def written(weights, change):
    change(weights)
    return weights


HIDE = torch.rand(T, T, generator=torch.Generator().manual_seed(1)) < 0.3
ORDER = torch.arange(T).flip(0)
CHANGES = {
    "talking heads by einsum": lambda m, x, v: torch.einsum("bhij,gh->bgij", x.softmax(-1), m.mix.weight) @ v,
    "talking heads by Linear": lambda m, x, v: m.mix(x.softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) @ v,
    "talking heads by a convolution": lambda m, x, v: functional.conv2d(x.softmax(-1), m.mix.weight[..., None, None]) @ v,
    "talking heads by matmul": lambda m, x, v: (m.mix.weight @ x.softmax(-1).flatten(2)).unflatten(2, (T, T)) @ v,
    "re-attention": lambda m, x, v: m.norm(torch.einsum("hg,bhij->bgij", m.mix.weight, x.softmax(-1))) @ v,
    "differential": lambda m, x, v: (lambda p: (p[:, ::2] - 0.3 * p[:, 1::2]).repeat(1, 2, 1, 1))(x.softmax(-1)) @ v,
    "differential by chunk": lambda m, x, v: torch.cat(2 * [torch.sub(*x.softmax(-1).chunk(2, 1))], 1) @ v,
    "two softmaxes": lambda m, x, v: (x.softmax(-1) - 0.3 * (x * 0.5).softmax(-1)) @ v,
    "a mask by product": lambda m, x, v: (x.softmax(-1) * ~HIDE) @ v,
    "a mask that is filled": lambda m, x, v: x.softmax(-1).masked_fill(HIDE, 0) @ v,
    "a mask that is filled in place": lambda m, x, v: x.softmax(-1).clone().masked_fill_(HIDE, 0) @ v,
    "a mask by where": lambda m, x, v: torch.where(HIDE, torch.zeros(()), x.softmax(-1)) @ v,
    "a mask, renormalised": lambda m, x, v: (lambda p: p / (p.sum(-1, keepdim=True) + 1e-9))(x.softmax(-1) * ~HIDE) @ v,
    "columns set to 0": lambda m, x, v: written(x.softmax(-1).clone(), lambda p: p.__setitem__((..., 2), 0.0)) @ v,
    "a bias": lambda m, x, v: torch.einsum("bhij,bhjd->bhid", x.softmax(-1) + 0.1, v),
    "a power": lambda m, x, v: x.softmax(-1)**2 @ v,
    "columns picked out of order": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1).index_select(-1, ORDER + 1) @ v[:, :, ORDER],
    "columns picked for each query": lambda m, x, v: x.softmax(-1).gather(-1, ORDER[1:].expand(B, H, T, T - 1)) @ v[:, :, 1:],
    "columns picked by a list": lambda m, x, v: torch.cat([m.sink(), x], -1).softmax(-1)[..., [1, 2, 3, 4, 5, 6]] @ v,
    "a second softmax": lambda m, x, v: (x.softmax(-1) * 3).sigmoid() @ v}


@pytest.mark.parametrize("name", CHANGES)
def test_weights_that_are_changed_before_the_values_are_told_and_not_sent(trained, caplog, name):  # noqa: F811
    it, sent = trained(Model(Attends(CHANGES[name]), Attention()), include="layers.0")
    assert [message for message in sent if message[1]["type"] == "attention" and message[1]["layer"] != 1] == []
    assert it.layers == [("encoder", 1, "self")]
    for told in caplog.messages:
        assert "the softmax of layers.0 (Attends" in told and "is not what is multiplied with the values" in told
        assert "attnd.publish_attention publishes what is; exclude='layers.0' silences this" in told
    assert len(caplog.messages) == 1


SAME = {
    "the mask again": lambda m, x, v: x.softmax(-1).masked_fill(~SEEN, 0) @ v,
    "the mask again, as a factor": lambda m, x, v: (x.softmax(-1) * SEEN) @ v,
    "queries that are padding": lambda m, x, v: (x.softmax(-1) * torch.ones(T, 1).index_fill(0, torch.tensor([5]), 0)) @ v,
    "no NaN": lambda m, x, v: torch.nan_to_num(x.softmax(-1)) @ v,
    "renormalised": lambda m, x, v: (lambda p: p / p.sum(-1, keepdim=True))(x.softmax(-1)) @ v,
    "a head mask": lambda m, x, v: (x.softmax(-1) * torch.tensor([1.0, 0, 1, 0.5]).view(1, H, 1, 1)) @ v,
    "a number": lambda m, x, v: 0.5 * x.softmax(-1) @ v,
    "a dropout by hand": lambda m, x, v: (x.softmax(-1) * (torch.rand(B, H, T, T) < 0.8) / 0.8) @ v,
    "a dropout by hand, scaled before": lambda m, x, v: (x.softmax(-1) * ((torch.rand(B, H, T, T) < 0.8) / 0.8)) @ v,
    "a gate of the output": lambda m, x, v: (x.softmax(-1) @ v) * m.extra.sigmoid(),
    "a penalty": lambda m, x, v: (lambda p: p @ v + 0 * (p * p.clamp_min(1e-9).log()).sum())(x.softmax(-1)),
    "a penalty before": lambda m, x, v: (lambda p: 0 * (p * p.clamp_min(1e-9).log()).sum() + p @ v)(x.softmax(-1)),
    "head by head": lambda m, x, v: (lambda p: torch.stack([p[:, h] @ v[:, h] for h in range(H)], 1))(x.softmax(-1)),
    "halves of heads": lambda m, x, v: torch.cat([p @ w for p, w in zip(x.softmax(-1).chunk(2, 1), v.chunk(2, 1))], 1)}


@pytest.mark.parametrize("name", SAME)
def test_weights_that_stay_what_they_are_to_each_other_are_sent_as_ever(trained, caplog, name):  # noqa: F811
    model = Model(Attends(SAME[name]))
    _, sent = trained(model)
    sent = [message for message in sent if message[1]["type"] == "attention" and message[1]["layer"] == 0]
    np.testing.assert_allclose(tensors_of(sent[-1])["weights"], model.layers[0].logits.softmax(-1).numpy(), atol=1e-6)
    assert not caplog.records


def test_a_mask_that_hides_nothing_at_first_is_told_when_it_does(daemon, watched, caplog):  # noqa: F811
    model, mask = Model(Attends(lambda m, x, v: (x.softmax(-1) * mask) @ v)), torch.ones(T, T)
    it = watched(model)
    for _ in range(2):
        model(torch.randn(B, T, H * D)).sum().backward()
        it.step()
        mask[:, 2] = 0
    assert len([message for message in daemon.captured(it) if message[1]["type"] == "attention"]) == 1
    told, = caplog.messages
    assert "is not what is multiplied with the values: mul" in told or "__mul__" in told


# ------------------------------------------------------------------------------- rows that are no positions

PICKS = {"by index": lambda q, picked: q[torch.arange(B)[:, None, None], torch.arange(H)[None, :, None], picked],
         "gathered": lambda q, picked: q.gather(2, picked[..., None].expand(-1, -1, -1, D)),
         "selected": lambda q, picked: q.index_select(2, picked[0, 0]), "taken": lambda q, picked: torch.take_along_dim(q, picked[..., None], 2),
         "in parts": lambda q, picked: torch.cat(q.index_select(2, picked[0, 0]).split([1, 2], 2), 2)}


class PickingAttention(Attention):
    """As Informer: the queries that look at few keys attend, the others get the mean."""

    def __init__(self, pick, fused):
        super().__init__()
        self.pick, self.fused = pick, fused

    def attend(self, q, k, v):
        picked = (q @ k.transpose(-1, -2)).amax(-1).topk(3, -1)[1]
        q = self.pick(q, picked)
        y = functional.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return v.mean(2, keepdim=True).expand_as(v).scatter(2, picked[..., None].expand(-1, -1, -1, D), y)


class LateAttention(Attention):
    """The last queries, beside something that is picked."""

    def __init__(self, beside, fused):
        super().__init__()
        self.beside, self.fused, self.table = beside, fused, torch.nn.Parameter(torch.zeros(T * T, D))

    def attend(self, q, k, v):
        q = q[:, :, -3:]
        if self.beside == "channels":
            q, k = (one[..., torch.arange(D).flip(0)] for one in (q, k))
        elif self.beside == "positions":
            q = q + self.table.view(1, T * T, D)[:, torch.arange(3)]
        elif self.beside == "keys":
            k, v = (one[:, :, torch.arange(T)[:5]] for one in (k, v))
        bias = self.table[torch.arange(3 * k.shape[2])][:, 0].view(3, -1) if self.beside == "bias" else torch.zeros(3, k.shape[2])
        y = functional.scaled_dot_product_attention(q, k, v, bias) if self.fused else (q @ k.transpose(-1, -2) + bias).softmax(-1) @ v
        return functional.pad(y, (0, 0, T - 3, 0))


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="before version 2 autograd does not tell shapes")
@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_sdpa)], ids=["softmax", "fused"])
@pytest.mark.parametrize("beside", ["channels", "positions", "keys", "bias"])
def test_queries_beside_something_that_is_picked_are_captured(daemon, watched, caplog, beside, fused):  # noqa: F811
    model = Model(LateAttention(beside, fused))
    it = watched(model)
    model(torch.randn(B, T, H * D)).sum().backward()
    it.step()
    assert len(daemon.captured(it)) == len(it.layers) == 1 and not caplog.records


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_sdpa)], ids=["softmax", "fused"])
@pytest.mark.parametrize("pick", PICKS)
def test_queries_that_were_picked_have_rows_and_no_positions_which_is_told(daemon, watched, caplog, pick, fused):  # noqa: F811
    model = Model(PickingAttention(PICKS[pick], fused), Attention())
    it = watched(model)
    model(torch.randn(B, T, H * D)).sum().backward()
    it.step()
    assert len(daemon.captured(it)) == len(it.layers) and it.layers == [("encoder", 0, "cross"), ("encoder", 1, "self")]
    told, = caplog.messages
    assert "layers.0" in told and "is not key i" in told
