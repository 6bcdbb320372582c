# SPDX-License-Identifier: MIT
"""values=True: what weights are multiplied with goes along with them, however the model says so."""
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from conftest import samples_of
from test_calls import random
from test_gradients import needs_sdpa, watched  # noqa: F401
from test_judge import OF_QUERIES_FIRST, QueriesFirst
from test_residual import assert_writes
from watching import tensors_of

B, H, T, D = 2, 4, 6, 3
DROP = torch.nn.functional.dropout


def flat(x):
    return x.flatten(0, 1)


# How weights [B, H, T, T] meet values [B, H or fewer, T, D].
PRODUCTS = {
    "@": lambda a, v: a @ v,
    "matmul": torch.matmul,
    "after dropout": lambda a, v: DROP(a, 0.5) @ v,
    "cast": lambda a, v: a.double().float() @ v,
    "bmm": lambda a, v: torch.bmm(flat(a), flat(v)).view(B, H, T, -1),
    "einsum": lambda a, v: torch.einsum("bhqk,bhkd->bhqd", a, v),
    "einsum of [B, T, H, D]": lambda a, v: torch.einsum("bhij,bjhd->bhid", a, v.transpose(1, 2)),
    "one head for all": lambda a, v: a @ v[:, :1],
    "axes swapped twice": lambda a, v: (a.permute(0, 2, 1, 3).transpose(1, 2) @ v),
    "heads in groups": lambda a, v: (a.view(B, 2, 2, T, T) @ v[:, :2, None]).view(B, H, T, -1),
}
VALUES = {"one head for all": 1, "heads in groups": 2}


class Attention(torch.nn.Module):
    def __init__(self, product, keep=False):
        super().__init__()
        self.qkv, self.product, self.keep = torch.nn.Linear(H * D, 3 * H * D), product, keep
        self.out_proj = torch.nn.Linear(H * D, H * D)

    def forward(self, x):
        q, k, v = (part.view(B, T, H, D).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        self.v = v
        weights = (q @ k.transpose(2, 3)).softmax(-1)
        if self.keep:
            weights = weights.detach().mul_(0.5)  # in place: what was captured is not there any more
        return self.out_proj(self.product(weights, v).transpose(1, 2).flatten(2))


class Model(torch.nn.Module):
    def __init__(self, *args):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.ModuleDict({"attn": Attention(*args)}) for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = block["attn"](x)
        return x


def x(seed=0):
    return random(B, T, H * D, seed=seed)


@pytest.mark.parametrize("name", PRODUCTS)
def test_the_values_go_along_in_every_forward(watched, name):  # noqa: F811
    """In the first one the softmax is judged by the product, in later ones it is known before."""
    it = watched(Model(PRODUCTS[name]), gradients=False, values=True, steps="manual")
    for step in range(2):
        it.model(x(step))
        it.step()
        found = [tensors_of(message) for message in it.sent()]
        assert [set(tensors) for tensors in found] == 2 * [{"weights", "v"}]
        for block, tensors in zip(it.model.blocks, found):
            want = block["attn"].v.detach()[:, :VALUES.get(name, H)]
            np.testing.assert_array_equal(tensors["v"], want.numpy())


@pytest.mark.parametrize("name", ["einsum", "transposed", "permuted after dropout"])
def test_of_queries_before_heads_all_goes_along_in_one_order(watched, name):  # noqa: F811
    """[B, H, T, T], and [B, H, T, d]."""
    layer = QueriesFirst(OF_QUERIES_FIRST[name])
    it = watched(layer, values=True, steps="manual")
    for _ in range(2):
        layer(random(2, 6, 32)).sum().backward()
        (message,), turned = it.sent(), lambda tensor: tensor.detach().transpose(1, 2).numpy()
        sent = tensors_of(message)
        assert set(sent) == {"weights", "v", "grad"}
        for name, tensor in (("weights", layer.weights), ("v", layer.v), ("grad", layer.weights.grad)):
            np.testing.assert_array_equal(sent[name], turned(tensor))


def test_where_the_values_are_not_certain_weights_go_alone(watched):  # noqa: F811
    """As on the left of what was turned for it."""
    it = watched(Model(lambda a, v: (v.mT @ a.mT).mT), gradients=False, values=True)
    it.model(x())
    assert it.names() == 2 * [{"weights"}]


@pytest.mark.parametrize("plan, samples", [({"samples": 1}, 1), ({"rows": 3}, B)])
def test_what_heads_write_goes_along_with_weights(watched, plan, samples):  # noqa: F811
    it = watched(Model(PRODUCTS["@"]), gradients=False, residual=True, **plan)
    it.model(x())
    sent = it.sent()
    found = [tensors_of(message) for message in sent]
    assert [set(tensors) for tensors in found] == 2 * [{"weights", "v", "wo_r"}]  # this block gets no stream of its own
    for block, tensors, (_, header, _) in zip(it.model.blocks, found, sent):
        assert len(tensors["v"]) == samples
        np.testing.assert_array_equal(tensors["v"], block["attn"].v.detach()[samples_of(header, B)].numpy())
        assert_writes(tensors["wo_r"], block["attn"].out_proj.weight)


@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention_that_computes_its_weights_has_values(watched, batch_first):  # noqa: F811
    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.self_attn = torch.nn.MultiheadAttention(H * D, H, batch_first=batch_first)

        def forward(self, x):
            return self.self_attn(x, x, x, need_weights=True)[0]

    model = torch.nn.Sequential(Block())
    it = watched(model, gradients=False, residual=True)
    given = x() if batch_first else x().transpose(0, 1)
    model(given)
    message, = it.sent()
    tensors, own = tensors_of(message), model[0].self_attn
    assert set(tensors) == {"weights", "v", "wo_r", "x_norm"}
    v = torch.nn.functional.linear(x(), own.in_proj_weight[2 * H * D:], own.in_proj_bias[2 * H * D:])
    np.testing.assert_allclose(tensors["v"], v.detach().view(B, T, H, D).transpose(1, 2).numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(tensors["x_norm"], x().norm(dim=-1).numpy(), rtol=1e-6)


def test_weights_that_are_written_to_are_captured_before_that(watched):  # noqa: F811
    """From the second forward on."""
    it = watched(Model(PRODUCTS["@"], True), gradients=False, values=True, steps="manual")
    it.model(x())
    it.step()
    it.sent()
    it.model(x(1))
    it.step()
    found = [tensors_of(message) for message in it.sent()]
    assert [set(tensors) for tensors in found] == 2 * [{"weights"}]
    assert all(np.allclose(tensors["weights"].sum(-1), 1) for tensors in found)


@needs_sdpa
def test_a_bias_that_makes_weights_of_queries_and_keys_keeps_the_values(watched):  # noqa: F811
    class Biased(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = torch.nn.Linear(H * D, 3 * H * D)

        def forward(self, x):
            q, k, self.v = (part.view(B, T, H, D).transpose(1, 2) for part in self.attn(x).chunk(3, -1))
            bias = torch.arange(T, dtype=torch.float32).repeat(H, T, 1)
            return torch.nn.functional.scaled_dot_product_attention(q, k, self.v, attn_mask=bias)

    model = torch.nn.Sequential(Biased())
    it = watched(model, gradients=False, values=True)
    model(x())
    message, = it.sent()
    tensors = tensors_of(message)
    assert set(tensors) == {"weights", "v"}
    np.testing.assert_array_equal(tensors["v"], model[0].v.detach().numpy())
