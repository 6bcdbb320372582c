# SPDX-License-Identifier: MIT
"""Heads that lie elsewhere than in the second axis: in the batch, before it, beside windows. They are found, or told."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attnd.forms import lead
from attnd.forms.lead import Leads
from attnd.forms.seen import NotCaptured, Queries
from test_judge import Model, watched  # noqa: F401
from test_spy import needs_sdpa
from torch.nn import functional
from watching import weights_of

B, H, T, D = 3, 4, 6, 8


def by_head(x):
    """[B, T, H * d] as [B, H, T, d]."""
    return x.unflatten(-1, (-1, D)).transpose(1, 2)


# How a projection [B, T, H * d] is cut, and how the result is put together.
LAYOUTS = {
    "[B, H, T, d]": (by_head, lambda y, b: y.transpose(1, 2).flatten(2)),
    "[B, H, T, d], a copy": (lambda x: by_head(x).contiguous(), lambda y, b: y.transpose(1, 2).flatten(2)),
    "[B * H, T, d]": (lambda x: by_head(x).flatten(0, 1), lambda y, b: y.unflatten(0, (b, -1)).transpose(1, 2).flatten(2)),
    "[B * H, T, d] of [T, B, D]": (
        lambda x: x.transpose(0, 1).contiguous().view(x.shape[1], -1, D).transpose(0, 1),
        lambda y, b: y.transpose(0, 1).reshape(y.shape[1], b, -1).transpose(0, 1)),
    "[H * B, T, d] by cat of split": (lambda x: torch.cat(x.split(D, 2), 0), lambda y, b: torch.cat(y.split(b, 0), 2)),
    "[H * B, T, d] by cat of chunk": (lambda x: torch.cat(x.chunk(x.shape[2] // D, -1)), lambda y, b: torch.cat(y.split(b, 0), 2)),
    "[H, B, T, d] by stack": (lambda x: torch.stack(x.split(D, 2)), lambda y, b: torch.cat(y.unbind(), 2)),
    "[H, B, T, d]": (lambda x: x.unflatten(-1, (-1, D)).permute(2, 0, 1, 3), lambda y, b: y.permute(1, 2, 0, 3).flatten(2)),
    "[H * B, T, d] by permute": (
        lambda x: x.unflatten(-1, (-1, D)).permute(2, 0, 1, 3).flatten(0, 1),
        lambda y, b: y.unflatten(0, (-1, b)).permute(1, 2, 0, 3).flatten(2)),
    "[B * H, windows, w, d]": (
        lambda x: by_head(x).flatten(0, 1).unflatten(1, (-1, 2)),
        lambda y, b: y.flatten(1, 2).unflatten(0, (b, -1)).transpose(1, 2).flatten(2))}
WINDOWS = {"[B, H, windows, w, d]": (lambda x: by_head(x).unflatten(2, (-1, 2)), lambda y, b: y.flatten(2, 3).transpose(1, 2).flatten(2)),
           "[B, windows, H, w, d]": (lambda x: x.unflatten(1, (-1, 2)).unflatten(-1, (-1, D)).transpose(2, 3),
                                     lambda y, b: y.transpose(2, 3).flatten(1, 2).flatten(2))}


class Attention(torch.nn.Module):
    """`cut` and `join` of a layout; `says`: its number of heads; `values`: what becomes of projected keys and values."""

    def __init__(self, cut, join, says=None, fused=False, values=lambda x: x):
        super().__init__()
        self.cut, self.join, self.fused, self.values = cut, join, fused, values
        self.qkv, self.proj = torch.nn.Linear(H * D, 3 * H * D), torch.nn.Linear(H * D, H * D)
        if says:
            self.num_heads = says

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        k, v = map(self.values, (k, v))
        self.projected = q.detach().numpy(), k.detach().numpy()
        q, k, v = map(self.cut, (q, k, v))
        if self.fused:
            return self.proj(self.join(functional.scaled_dot_product_attention(q, k, v), len(x)))
        return self.proj(self.join(torch.softmax(q @ k.transpose(-1, -2) / D**0.5, -1) @ v, len(x)))

    def weights(self, width):
        """[B, H, T, T], or those of windows."""
        q, k = (one.reshape(-1, width, H, D).swapaxes(1, 2) for one in self.projected)
        weights = np.exp(q @ k.swapaxes(2, 3) / D**0.5)
        return weights / weights.sum(-1, keepdims=True)


def run(daemon, it, model, batch=B):
    """The messages of two steps."""
    for _ in range(2):
        model(torch.randn(batch, T, H * D)).sum().backward()
        it.step()
    return [message for message in daemon.captured(it) if message[1]["type"] != "event"]


def assert_right(sent, attention, width=T):
    assert len(sent) == 2
    np.testing.assert_allclose(weights_of(sent[1]), attention.weights(width), atol=1e-5)


fused_or_not = pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_sdpa)], ids=["softmax", "fused"])


@pytest.mark.parametrize("says", [None, H], ids=["unsaid", "said"])
@pytest.mark.parametrize("batch", [1, B, H], ids=["one sample", "samples", "as many samples as heads"])
@fused_or_not
@pytest.mark.parametrize("name", LAYOUTS)
def test_heads_are_found_wherever_they_are(daemon, watched, caplog, name, fused, batch, says):  # noqa: F811
    model = Model(Attention(*LAYOUTS[name], says, fused))
    sent = run(daemon, watched(model), model, batch)
    assert_right(sent, model.layers[0], 2 if "windows" in name else T)
    assert not caplog.records


def learned(*sizes):
    return torch.nn.Parameter(torch.ones(sizes))


REPEATED = {
    "a factor of channels": lambda x: learned(H * D).view(1, 1, -1) * x,
    "a bias of positions": lambda x: learned(T, H * D).view(1, T, -1) + x,
    "a gate of samples": lambda x: x.mean((1, 2)).view(-1, 1, 1) * x,
    "a mixture": lambda x: (lambda parts: parts[0] * x + parts[1] * x)(learned(2).softmax(0))}


@pytest.mark.skipif(not hasattr(torch, "compiler"), reason="before version 2 autograd does not tell shapes")
@pytest.mark.parametrize("name", ["[B, H, T, d], a copy", "[B * H, T, d]"])
@pytest.mark.parametrize("values", REPEATED.values(), ids=REPEATED)
@fused_or_not
def test_factors_and_biases_that_come_first_hide_no_heads(daemon, watched, caplog, name, fused, values):  # noqa: F811
    model = Model(Attention(*LAYOUTS[name], None, fused, values))
    assert_right(run(daemon, watched(model), model), model.layers[0])
    assert not caplog.records


@needs_sdpa
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_beside_heads_are_samples(daemon, watched, caplog, name):  # noqa: F811
    model = Model(Attention(*WINDOWS[name], fused=True))
    assert_right(run(daemon, watched(model), model), model.layers[0], 2)
    assert not caplog.records


@fused_or_not
@pytest.mark.parametrize("name", ["[B * H, T, d]", "[H * B, T, d] by cat of split"])
def test_one_head_of_keys_and_values_is_not_taken_for_samples(daemon, watched, name, fused):  # noqa: F811
    model = Model(Attention(*LAYOUTS[name], H, fused, lambda x: x[..., None, :D].expand(*x.shape[:2], H, D).flatten(2)))
    assert_right(run(daemon, watched(model), model), model.layers[0])


@fused_or_not
def test_where_the_order_of_heads_and_samples_is_not_known_it_is_told(daemon, watched, caplog, fused):  # noqa: F811
    """As without gradients. One sample has no order."""
    model = Model(Attention(*LAYOUTS["[B * H, T, d]"], H, fused))
    model.requires_grad_(False)
    it = watched(model, evaluation=True)
    for batch in (1, B, B):
        model(torch.randn(batch, T, H * D))
        it.step()
    sent = [message for message in daemon.captured(it) if message[1]["type"] != "event"]
    told, = caplog.messages
    assert len(sent) == 1 and weights_of(sent[0]).shape == (1, H, T, T)
    assert "layers.0" in told and "nothing tells heads from samples in the first axis" in told and "[B, H, T" in told


def test_that_nothing_tells_is_sought_once_for_calls_of_one_shape(monkeypatch):
    leads, sought = Leads(), []
    monkeypatch.setattr(lead, "find", lambda values, *_: sought.append(values))
    for samples, requires_grad in ((3, False), (3, False), (3, False), (2, False), (2, True), (2, True)):
        q = torch.rand(samples * H, T, D, requires_grad=requires_grad) * 1
        with pytest.raises(NotCaptured, match=f"has queries \\[{samples * H}, .*nothing tells heads from samples"):
            leads.arranged("attn", Queries(q, q, called=(q, q, q, None)), H, [samples])
    assert len(sought) == 3 * 2  # by values and by queries


@needs_sdpa
def test_as_many_positions_as_samples_and_heads_are_not_taken_for_samples(daemon, watched, caplog):  # noqa: F811
    model = Model(Attention(*LAYOUTS["[B * H, T, d]"], None, True))
    model.requires_grad_(False)
    it = watched(model, evaluation=True)
    model(torch.randn(B, B * H, H * D))
    it.step()
    assert daemon.captured(it) == [] and "nothing tells heads from samples in the first axis" in caplog.text


def test_a_count_of_heads_suffices_where_it_is_asked_for(daemon, watched, caplog):  # noqa: F811
    """One head of keys and values for all tells no number of heads."""
    made = LAYOUTS["[B * H, T, d]"]
    model = Model(Attention(*made, values=lambda x: x[..., None, :D].expand(*x.shape[:2], H, D).flatten(2)))
    it = watched(model)
    model(torch.randn(B, T, H * D)).sum().backward()
    it.step()
    assert daemon.captured(it) == []
    told, = caplog.messages
    assert "layers.0 (Attention) is not captured, as nothing tells heads from samples in the first axis of its result [12, 6, 6]. " \
        "Let the module say how many heads, as module.num_heads = 8 does." in told
    model.layers[0].num_heads = H
    assert_right(run(daemon, watched(model), model), model.layers[0])


@needs_sdpa
@pytest.mark.parametrize("tokens", [T, H])
def test_heads_and_positions_that_are_swapped_are_told(daemon, watched, caplog, tokens):  # noqa: F811
    model = Model(Attention(lambda x: x.unflatten(-1, (H, D)), lambda y, b: y.flatten(2), H, True))
    it = watched(model)
    model(torch.randn(B, tokens, H * D)).sum().backward()
    it.step()
    assert len(daemon.captured(it)) == 0 and len(caplog.messages) == 1
    assert f"its queries [3, {tokens}, 4, 8] are [B, T, H, d]" in caplog.text and "transpose(1, 2)" in caplog.text


@fused_or_not
def test_a_count_of_heads_that_contradicts_the_projections_is_told(daemon, watched, caplog, fused):  # noqa: F811
    model = Model(Attention(*LAYOUTS["[B * H, T, d]"], 2, fused))
    assert run(daemon, watched(model), model) == [] and len(caplog.messages) == 1
    assert "layers.0" in caplog.text and "says 2" in caplog.text and "4" in caplog.text


class Grouped(torch.nn.Module):
    """The query heads of each key head are beside one another in its rows."""

    def __init__(self, groups, fused):
        super().__init__()
        self.num_heads, self.groups, self.fused = H, groups, fused
        self.q, self.kv = torch.nn.Linear(H * D, H * D), torch.nn.Linear(H * D, 2 * groups * D)

    def forward(self, x):
        q = self.q(x).view(*x.shape[:2], self.groups, -1, D).permute(0, 2, 3, 1, 4).flatten(2, 3)
        k, v = (by_head(one) for one in self.kv(x).chunk(2, -1))
        if self.fused:
            return functional.scaled_dot_product_attention(q, k, v).flatten(1)
        return ((q @ k.transpose(2, 3) / D**0.5).softmax(-1) @ v).flatten(1)


@pytest.mark.parametrize("groups", [1, 2])
@fused_or_not
def test_heads_in_the_rows_of_their_group_are_told(daemon, watched, caplog, groups, fused):  # noqa: F811
    model = Model(Grouped(groups, fused))
    it = watched(model)
    model(torch.randn(B, T, H * D)).sum().backward()
    it.step()
    told, = caplog.messages
    assert daemon.captured(it) == [] and "layers.0" in told and "several of " in told and "4 heads" in told and "[B, H, T" in told


def test_looking_for_heads_changes_no_bit_of_the_training(watched):  # noqa: F811
    def trained_weights(is_watched):
        torch.manual_seed(3)
        model = Model(*(Attention(*LAYOUTS[name]) for name in LAYOUTS if "windows" not in name))
        it = watched(model) if is_watched else None
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(B, T, H * D)).square().mean().backward()
            optimizer.step()
            it.step() if it else None
        return torch.cat([one.detach().flatten() for one in model.parameters()])

    assert torch.equal(trained_weights(False), trained_weights(True))
