# SPDX-License-Identifier: MIT
"""Matrices of modules that are around a Linear, or whose weight is made: those that act, or a sentence."""
import functools
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from attnd.capture import projections
from attnd.capture.applied import Refused
from attnd.capture.matrix import matrix_at
from test_projections import Model, attn, simple, train, trained, watched  # noqa: F401
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune

D = 16


class Around(nn.Module):
    """LoRA by hand; `then` is what it does to the sum."""

    def __init__(self, name="base", then=lambda x, training: x):
        super().__init__()
        self.name, self.then = name, then
        setattr(self, name, nn.Linear(D, D).requires_grad_(False))
        self.down, self.up, self.dropout = nn.Linear(D, 2, bias=False), nn.Linear(2, D, bias=False), nn.Dropout(0.5)

    def forward(self, x):
        return self.then(getattr(self, self.name)(x) + self.up(self.down(self.dropout(x))), self.training)


class OfParameters(nn.Linear):
    """As loralib has it."""

    def __init__(self):
        super().__init__(D, D)
        self.lora_A, self.lora_B = nn.Parameter(torch.rand(2, D)), nn.Parameter(torch.rand(D, 2))

    def forward(self, x):
        dropped = functional.dropout(x, 0.5, self.training)
        return functional.linear(x, self.weight, self.bias) + dropped @ self.lora_A.T @ self.lora_B.T


class Standardised(nn.Linear):
    def forward(self, x):
        return functional.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Scaled(nn.Module):
    """As IA3 has it."""

    def __init__(self):
        super().__init__()
        self.original, self.scale = nn.Linear(D, D), nn.Parameter(torch.rand(D))

    def forward(self, x):
        return self.original(x) * self.scale


def with_forward(make):
    """A Linear whose forward another one takes the place of."""
    linear, other = nn.Linear(D, D), nn.Linear(D, D, bias=False)
    linear.forward = make(linear, other, linear.forward)
    return linear


class Beside(nn.Module):
    """As sd-scripts has LoRA: its forward takes the place of that of the Linear, which it is no module of."""

    def __init__(self, other, before):
        super().__init__()
        self.other, self.org_forward = other, before

    def forward(self, x):
        return self.org_forward(x) + self.other(x)


def stepped(linear, name):
    """The weight was made before the parameters changed."""
    linear(torch.rand(1, D))
    with torch.no_grad():
        getattr(linear, name).mul_(2).add_(torch.rand(D, 1))
    return linear


MADE = {
    "around base": Around, "around linear": lambda: Around("linear"), "of parameters": OfParameters,
    "standardised": lambda: Standardised(D, D),
    "scaled": Scaled, "two in turn": lambda: nn.Sequential(nn.Linear(D, 4), nn.Linear(4, D)),
    "dropout behind": lambda: nn.Sequential(nn.Linear(D, D), nn.Dropout(0.5)),
    "in double": lambda: Around().double(),
    "a closure": lambda: with_forward(lambda linear, other, before: lambda x: before(x) + other(x)),
    "a method": lambda: with_forward(
        lambda linear, other, before: types.MethodType(lambda self, x: x @ self.weight.T * 3, linear)),
    "another's method": lambda: with_forward(lambda linear, other, before: Beside(other, before).forward),
    "a partial": lambda: with_forward(
        lambda linear, other, before: functools.partial(lambda one, x: before(x) + one(x), other)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(D, D)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(D, D)),
    "old weight norm": lambda: stepped(nn.utils.weight_norm(nn.Linear(D, D)), "weight_g"),
    "old spectral norm": lambda: stepped(nn.utils.spectral_norm(nn.Linear(D, D)), "weight_orig"),
    "pruned": lambda: stepped(prune.l1_unstructured(nn.Linear(D, D), "weight", 0.5), "weight_orig")}


def read(module):
    """The matrix of it, where an attention has it as q_proj."""
    holder = nn.Module()
    holder.q_proj = module
    found = matrix_at(projections.modules_of(holder), "", "q_proj")
    return None if found is None else found.copy()()[1]


@pytest.mark.parametrize("name", MADE)
def test_the_matrix_is_that_by_which_the_module_multiplies(name):
    module = MADE[name]()
    got = read(module)
    module.eval()
    dtype = next(module.parameters()).dtype
    with torch.no_grad():
        made = module(torch.eye(D, dtype=dtype)[None])[0] - module(torch.zeros(1, 1, D, dtype=dtype))[0]
    np.testing.assert_allclose(got, made.T.numpy(), atol=2e-6)


@pytest.mark.parametrize("name", MADE)
def test_the_module_of_the_training_is_left_alone(name):
    module, fired = MADE[name](), []
    for part in module.modules():
        part.register_forward_hook(lambda *a: fired.append(a))
        part.register_buffer("count", torch.zeros(1))
        part.register_forward_pre_hook(lambda part, args: part.count.add_(1))
    before, drawn = {key: value.clone() for key, value in module.state_dict().items()}, torch.get_rng_state()
    read(module)
    assert not fired and module.training and torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


class Counts(nn.Module):
    """It writes to what it holds."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls, self.kept = nn.Linear(D, D), 0, []
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        self.calls += 1
        self.kept.append(x)
        return self.linear(x)


def test_what_a_forward_writes_is_written_to_the_copy():
    module = Counts()
    np.testing.assert_array_equal(read(module), module.linear.weight.detach().numpy())
    assert (module.calls, module.kept, module.seen.item()) == (0, [], 0)


class Mixes(nn.Module):
    """One matrix in each batch, another in each."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(D, D)

    def forward(self, x):
        return self.linear(x) * x.mean()


@pytest.mark.parametrize("make, said", [
    (lambda: Around(then=lambda x, training: x.relu()),
     r"q_proj \(Around of test_applied around base \(Linear\)\) is no product with one matrix"),
    (lambda: nn.Sequential(nn.Linear(D, D), nn.GELU()), "around 0 .Linear.. is no product with one matrix"),
    (Mixes, "is no product with one matrix"),
    (lambda: Around(then=lambda x, training: functional.dropout(x, 0.5, True)),
     "cannot be applied by itself .RuntimeError: it draws random numbers"),
    (lambda: Around(then=lambda x, training: x + None), "cannot be applied by itself .TypeError"),
    (lambda: Around(then=lambda x, training: x[..., :4]), r"the matrix of q_proj .* is \[4, 16\] and not \[16, 16\]"),
    (lambda: nn.Conv1d(D, D, 3), "q_proj is a convolution over several places"),
    (lambda: with_forward(lambda linear, other, before: functools.partial(
        lambda many, x: before(x), [nn.Linear(700, 700) for _ in range(3)])), "q_proj .* refers to more than itself")],
    ids=["bent", "an activation", "differs by batch", "random", "fails", "narrower", "a wide convolution", "too much"])
def test_what_is_no_one_matrix_is_refused_with_its_reason(make, said):
    module = make()
    drawn = torch.get_rng_state()
    with pytest.raises(Refused, match=said):
        read(module)
    assert torch.equal(drawn, torch.get_rng_state())


def test_a_convolution_over_one_place_is_a_matrix_and_others_are_none():
    conv = nn.Conv2d(D, D, 1)
    np.testing.assert_array_equal(read(conv), conv.weight.detach().flatten(1).numpy())
    for other in (nn.Identity(), nn.LayerNorm(D), nn.Embedding(D, D), nn.ModuleList([nn.Linear(D, D)])):
        assert read(other) is None


def test_a_parametrised_parameter_is_what_its_parametrisation_gives():
    class Half(nn.Module):
        def forward(self, weight):
            return weight / 2

    attention = nn.MultiheadAttention(D, 4)
    nn.utils.parametrize.register_parametrization(attention, "in_proj_weight", Half())
    found = matrix_at(projections.modules_of(attention), "", "in_proj_weight")
    np.testing.assert_array_equal(found.copy()()[1], attention.in_proj_weight.detach().numpy())


@pytest.mark.parametrize("then, said", [
    (lambda x, training: x.relu(),
     "job job: W_q of blocks.0.attn (Attention) is not published: q_proj (Around of test_applied around base (Linear)) is no "
     "product with one matrix. attnd.publish_weights takes a matrix of yours; projections={'wq': 'NAME'} tells another module"),
    (None, None)])
def test_a_matrix_that_cannot_be_made_is_told_and_the_others_are_sent(watched, caplog, then, said):  # noqa: F811
    model = Model(simple)
    for block in model.blocks:
        block["attn"].q_proj = Around() if then is None else Around(then=then)
    it = watched(model)
    found = trained(it, 2)
    assert [set(matrices) for *_, matrices in found] == [{"wk", "wv", "wo"} | ({"wq"} if then is None else set())] * 4
    assert caplog.messages == ([] if said is None else [said])
    assert sum(message.kind == "qk" or message.kind == "attention" for message in it.messages) == 4


def test_losses_and_weights_have_the_same_bits_with_and_without_a_watch(watched):  # noqa: F811
    def run(watch):
        torch.manual_seed(0)
        model = Model(simple)
        for block in model.blocks:
            block["attn"].q_proj, block["attn"].v_proj = Around(), parametrizations.spectral_norm(nn.Linear(D, D))
        it = watched(model, values=True) if watch else None
        optimizer = torch.optim.SGD([one for one in model.parameters() if one.requires_grad], 0.1)
        for _ in range(4):
            optimizer.zero_grad()
            model(torch.rand(1, 6, D)).square().mean().backward()
            optimizer.step()
            if it is not None:
                it.step()
                it.epoch_end()
        return [*model.state_dict().values(), torch.rand(4)]

    assert all(torch.equal(*pair) for pair in zip(run(True), run(False)))


def test_an_adapter_that_is_put_on_and_taken_off_is_told_apart_in_each_epoch(watched):  # noqa: F811
    it = watched()
    plain = attn(it.model).q_proj
    for put_on in (False, True, False):
        attn(it.model).q_proj = Around() if put_on else plain
        if put_on:
            attn(it.model).q_proj.base = plain
        train(it)
        it.epoch_end()
    assert it.publisher.drain(60)
    first = [dict(zip((t["name"] for t in m.keys["tensors"]), m.frames))["wq"] for m in it.messages
             if m.kind == "weights" and m.keys["layer"] == 0]
    np.testing.assert_array_equal(first[0], first[2])
    assert np.abs(first[0] - first[1]).max() > 1e-3
