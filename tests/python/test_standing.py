# SPDX-License-Identifier: MIT
"""Keys that are no positions, queries that stand elsewhere than at the end of their keys, and heads in the rows of one."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_judge import Model, heads_of, watched  # noqa: F401
from test_spy import needs_sdpa
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from watching import weights_of

B, H, T, D = 2, 2, 16, 4
C = H * D
fused_or_not = pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_sdpa)], ids=["softmax", "fused"])


class Attention(nn.Module):
    """`keys`, `queries`: give what these are made of, by the module and its input; `of_heads`: what projected keys and values become."""

    def __init__(self, keys=None, queries=None, of_heads=None, fused=False):
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(C, C), nn.Linear(C, 2 * C), nn.Linear(C, C)
        self.keys, self.queries, self.of_heads, self.fused = keys, queries, of_heads, fused
        self.sr, self.norm, self.shorter = nn.Conv2d(C, C, 2, 2), nn.LayerNorm(C), nn.Linear(T, 5)
        self.mix, self.merge = nn.Parameter(torch.randn(T, 5)), nn.Linear(2 * C, C)
        self.latents, self.depthwise = nn.Parameter(torch.randn(1, 3, C)), nn.Conv1d(C, C, 3, padding=1, groups=C)

    def forward(self, x):
        of_keys = x if self.keys is None else self.keys(self, x)
        q = self.q(x if self.queries is None else self.queries(self, x))
        q, k, v = map(lambda one: heads_of(one, H), (q, *self.kv(of_keys).chunk(2, -1)))
        if self.of_heads is not None:
            k, v = (self.of_heads(self, one) for one in (k, v))
        self.seen = q.detach().double(), k.detach().double()
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-1, -2) / D**0.5).softmax(-1) @ v
        return x + self.proj(y.transpose(1, 2).flatten(2)).mean(1, keepdim=True)


def assert_exact(sent, attention):
    q, k = attention.seen
    np.testing.assert_allclose(weights_of(sent), (q @ k.transpose(-1, -2) / D**0.5).softmax(-1), atol=1e-6)


def run(daemon, it, model):
    """The messages of a step."""
    model(torch.randn(B, T, C)).sum().backward()
    it.step()
    return [message for message in daemon.captured(it) if message[1]["type"] != "event"]


def grid(x):
    return x.transpose(1, 2).unflatten(2, (4, 4))


def picked(m, x):
    rows = x.detach().sum(-1).topk(5, 1)[1]
    return x.gather(1, rows[..., None].expand(-1, -1, C))


KEYS = {
    "PVT's convolution": lambda m, x: m.norm(m.sr(grid(x)).flatten(2).transpose(1, 2)),
    "an average pool": lambda m, x: functional.avg_pool2d(grid(x), 2).flatten(2).transpose(1, 2),
    "an adaptive pool": lambda m, x: functional.adaptive_avg_pool1d(x.transpose(1, 2), 5).transpose(1, 2),
    "means of blocks": lambda m, x: x.unflatten(1, (4, 4)).mean(2),
    "Linformer's layer": lambda m, x: m.shorter(x.transpose(1, 2)).transpose(1, 2),
    "Linformer's matrix": lambda m, x: torch.einsum("bnd,nk->bkd", x, m.mix),
    "a matrix in front": lambda m, x: m.mix.t() @ x,
    "neighbours merged": lambda m, x: m.merge(x.reshape(B, T // 2, 2 * C)),
    "strides": lambda m, x: x[:, ::2],
    "the largest": picked,
    "an index": lambda m, x: x[:, torch.tensor([3, 9, 4, 1])],
    "another order": lambda m, x: x[:, torch.randperm(T, generator=torch.Generator().manual_seed(1))],
    "turned round": lambda m, x: x.flip(1)}
OF_HEADS = {
    "strides": lambda m, k: k[:, :, ::2],
    "a pool": lambda m, k: functional.avg_pool1d(k.transpose(2, 3).flatten(1, 2), 2).unflatten(1, (H, D)).transpose(2, 3),
    "Linformer's": lambda m, k: torch.einsum("bhnd,nk->bhkd", k, m.mix)}


@fused_or_not
@pytest.mark.parametrize("name", [*KEYS, *(f"{name}, of heads" for name in OF_HEADS)])
def test_keys_that_are_no_positions_have_rows_alone_which_is_told(daemon, watched, caplog, name, fused):  # noqa: F811
    made = {"of_heads": OF_HEADS[name[:-10]]} if name.endswith(", of heads") else {"keys": KEYS[name]}
    model = Model(nn.LayerNorm(C), Attention(**made, fused=fused))
    it = watched(model)
    sent, = run(daemon, it, model)
    assert_exact(sent, model.layers[1])
    assert it.layers == [("encoder", 1, "cross")]
    told, = caplog.messages
    assert "row i of the attention of layers.1 is not key i" in told


def test_keys_of_data_that_are_no_positions_are_told_too(daemon, watched, caplog):  # noqa: F811
    model = Model(Attention(of_heads=OF_HEADS["strides"]))
    it = watched(model)
    run(daemon, it, model)
    assert it.layers == [("encoder", 0, "cross")] and len(caplog.messages) == 1


def test_a_name_says_that_they_are_positions(daemon, watched, caplog):  # noqa: F811
    model = Model(Attention(KEYS["strides"]))
    it = watched(model, layers={"layers.0": ("encoder", 0, "self")})
    run(daemon, it, model)
    assert it.layers == [("encoder", 0, "self")] and not caplog.records


def test_without_gradients_fewer_keys_than_queries_are_no_positions(daemon, watched, caplog):  # noqa: F811
    model = Model(Attention(KEYS["an average pool"])).requires_grad_(False)
    it = watched(model, evaluation=True)
    model(torch.randn(B, T, C))
    it.step()
    assert it.layers == [("encoder", 0, "cross")] and "it has fewer keys than queries" in caplog.text


CACHES = {
    "of constants": (lambda m, k: torch.cat([torch.ones(B, H, 7, D), k], 2), 7),
    "of what was learned": (lambda m, k: torch.cat([heads_of(m.latents, H).expand(B, -1, -1, -1), k], 2), 3),
    "a slice of a larger one": (lambda m, k: torch.zeros(B, H, 40, D).index_copy(2, torch.arange(9, 9 + T), k)[:, :, :9 + T], 9),
    "in front of a convolution": (lambda m, k: torch.cat([torch.ones(B, H, 7, D), heads_of(m.depthwise(
        k.transpose(1, 2).flatten(2).transpose(1, 2)).transpose(1, 2), H)], 2), 7)}


@fused_or_not
@pytest.mark.parametrize("name", CACHES)
def test_keys_of_a_cache_remain_positions(daemon, watched, caplog, name, fused):  # noqa: F811
    of_heads, before = CACHES[name]
    model = Model(nn.LayerNorm(C), Attention(of_heads=of_heads, fused=fused))
    it = watched(model)
    sent, = run(daemon, it, model)
    assert_exact(sent, model.layers[1])
    assert [layer[2] for layer in it.layers] == ["self"] and sent[1]["q_offset"] == before and not caplog.records


@pytest.mark.parametrize("name", ["the largest", "an index", "another order", "PVT's convolution"])
def test_looking_under_checkpointing_changes_nothing(watched, name):  # noqa: F811
    """What autograd keeps is not unpacked, as that would run the forward again."""
    def trained(is_watched):
        torch.manual_seed(2)
        attention, runs = Attention(KEYS[name]), []
        model = Model(nn.LayerNorm(C), attention)
        it = watched(model) if is_watched else None
        attention.register_forward_pre_hook(lambda *_: runs.append(torch.is_grad_enabled()))
        x = model.layers[0](torch.randn(B, T, C))
        model.forward = lambda x: checkpoint(attention, x, use_reentrant=False)
        model(x).square().sum().backward()
        if it:
            it.step()
        return runs, [one.grad for one in attention.parameters() if one.grad is not None]

    (runs, gradients), (watched_runs, watched_gradients) = trained(False), trained(True)
    assert runs == watched_runs and all(map(torch.equal, gradients, watched_gradients))


# ------------------------------------------------------------------------------------- where queries stand

FRONT = {
    "a class token": (None, lambda m, x: x[:, :1], 0),
    "a class token by its number": (None, lambda m, x: x[:, 0].unsqueeze(1), 0),
    "some in the middle": (None, lambda m, x: x[:, 3:6], 3),
    "a class token before normed ones": (lambda m, x: m.norm(x), lambda m, x: m.norm(x)[:, :1], 0),
    "the last one": (None, lambda m, x: x[:, -1:], T - 1),
    "all, of which the first are keys": (lambda m, x: x[:, :5], None, 0)}


@fused_or_not
@pytest.mark.parametrize("name", FRONT)
def test_queries_stand_where_they_were_sliced(daemon, watched, caplog, name, fused):  # noqa: F811
    keys, queries, offset = FRONT[name]
    model = Model(nn.LayerNorm(C), Attention(keys, queries, fused=fused))
    it = watched(model)
    sent, = run(daemon, it, model)
    assert_exact(sent, model.layers[1])
    assert [layer[2] for layer in it.layers] == ["self"] and (sent[1].get("q_offset") or 0) == offset and not caplog.records
    assert keys is not None or it.layers[0][0] == ("decoder" if offset == T - 1 else "encoder")  # it sees the later ones


@fused_or_not
def test_a_class_token_that_is_put_in_front_stands_there(daemon, watched, fused):  # noqa: F811
    """As CaiT has it."""
    def with_class(m, x):
        m.both = torch.cat([m.latents[:, :1].expand(B, -1, -1), x], 1)
        return m.both

    model = Model(nn.LayerNorm(C), Attention(with_class, lambda m, x: m.both[:, :1], fused=fused))
    it = watched(model)
    sent, = run(daemon, it, model)
    assert it.layers == [("encoder", 1, "self")] and not sent[1].get("q_offset")


LEARNED = {"several": lambda m, x: m.latents.expand(B, -1, -1), "one": lambda m, x: m.latents[:, :1].expand(B, -1, -1),
           "normed": lambda m, x: m.norm(m.latents.repeat(B, 1, 1))}


@fused_or_not
@pytest.mark.parametrize("name", LEARNED)
def test_learned_queries_have_no_positions(daemon, watched, caplog, name, fused):  # noqa: F811
    model = Model(nn.LayerNorm(C), Attention(None, LEARNED[name], fused=fused))
    it = watched(model)
    sent, = run(daemon, it, model)
    assert_exact(sent, model.layers[1])
    assert it.layers[0][2] == "cross" and "its queries are learned" in caplog.text


# --------------------------------------------------------------------------------------------- heads in rows

def grouped(q, by_head):
    """Queries [B, T, H * d] of one head of keys, as rows [B, 1, H * T, d] or [B, 1, T * H, d]."""
    q = q.unflatten(-1, (4, D))
    return (q.transpose(1, 2) if by_head else q).flatten(1, 2).unsqueeze(1)


class GroupedAttention(nn.Module):
    """Four heads of queries read one of keys; nothing says how many they are."""

    def __init__(self, by_head, fused, wide=24):
        super().__init__()
        self.q, self.k, self.v, self.proj = nn.Linear(wide, 4 * D), nn.Linear(wide, D), nn.Linear(wide, D), nn.Linear(4 * D, wide)
        self.by_head, self.fused = by_head, fused

    def forward(self, x):
        q, k, v = grouped(self.q(x), self.by_head), self.k(x).unsqueeze(1), self.v(x).unsqueeze(1)
        y = functional.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v
        y = y.unflatten(2, (4, -1) if self.by_head else (-1, 4))
        return x + self.proj((y.squeeze(1).transpose(1, 2) if self.by_head else y.squeeze(1)).flatten(2))


@fused_or_not
@pytest.mark.parametrize("by_head", [True, False], ids=["by head", "by position"])
def test_heads_in_the_rows_of_one_are_told_whatever_the_module_says(daemon, watched, caplog, by_head, fused):  # noqa: F811
    model = Model(GroupedAttention(by_head, fused))
    it = watched(model)
    model(torch.randn(B, T, 24)).sum().backward()
    it.step()
    assert not daemon.captured(it) and not it.layers
    assert any("layers.0" in told and "heads" in told and "in the rows of one" in told for told in caplog.messages)


@needs_sdpa
def test_without_gradients_the_width_of_the_projection_tells_heads_in_rows(daemon, watched, caplog):  # noqa: F811
    model = Model(GroupedAttention(True, True)).requires_grad_(False)
    it = watched(model, evaluation=True)
    model(torch.randn(B, T, 24))
    it.step()
    assert not daemon.captured(it) and any("in the rows of one" in told for told in caplog.messages)
