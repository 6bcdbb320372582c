# SPDX-License-Identifier: MIT
"""residual=True: R of each head's slice of W_o and the norms of the stream go along with values, where they are known."""
import logging

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.calls import Context, parts
from attnd.forms.seen import Queries, Share
from attnd.plan import Plan
from attnd.projections import _Matrix
from attnd.residual import Factor
from conftest import FakeDaemon
from test_calls import LAYER, messages, random
from test_gradients import NEWEST, needs_sdpa, watched  # noqa: F401
from test_watch import tensors_of

B, T, H, D, WIDTH = 2, 6, 2, 4, 8


class Attention(torch.nn.Module):
    """Fused, with one projection in, and W_o by that name."""

    def __init__(self, out="out_proj"):
        super().__init__()
        self.qkv = torch.nn.Linear(WIDTH, 3 * H * D)
        setattr(self, out, torch.nn.Linear(H * D, WIDTH))
        self.out = out

    def forward(self, x):
        q, k, v = (part.view(*x.shape[:2], H, D).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return getattr(self, self.out)(y.transpose(1, 2).flatten(2))


class Block(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.norm, self.attn = torch.nn.LayerNorm(WIDTH), Attention(**options)

    def forward(self, x, scale=1.0):
        return x + self.attn(self.norm(x)) * scale


class Model(torch.nn.Module):
    def __init__(self, named=False, **options):
        super().__init__()
        self.blocks, self.named = torch.nn.ModuleList([Block(**options)]), named

    def forward(self, x):
        return self.blocks[0](x=x) if self.named else self.blocks[0](x)


def x(seed=0):
    return random(B, T, WIDTH, seed=seed)


def one(it):
    message, = it.sent()
    return tensors_of(message)


@needs_sdpa
@pytest.mark.parametrize("plan, samples, rows", [({}, B, slice(None)), ({"samples": 1}, 1, slice(None)),
                                                 ({"rows": 3}, B, slice(0, None, 2))])
def test_what_a_head_writes_follows_from_the_message(watched, plan, samples, rows):  # noqa: F811
    model = Model()
    it = watched(model, gradients=False, residual=True, **plan)
    model(x())
    tensors, wo = one(it), model.blocks[0].attn.out_proj.weight.detach().double().numpy()
    assert tensors["wo_r"].shape == (H, D, D) and tensors["x_norm"].shape == tensors["q"].shape[::2][:1] + tensors["q"].shape[2:3]
    for head in range(H):
        u = np.random.default_rng(head).standard_normal(D)
        assert np.linalg.norm(tensors["wo_r"][head] @ u) == pytest.approx(np.linalg.norm(wo[:, head * D:(head + 1) * D] @ u), rel=1e-6)
    np.testing.assert_allclose(tensors["x_norm"], x().norm(dim=-1)[:samples, rows].numpy(), rtol=1e-6)


@needs_sdpa
def test_it_goes_along_with_gradients_and_is_of_the_weights_before_the_step(watched):  # noqa: F811
    model = Model()
    it = watched(model, residual=True, steps="manual")
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    found = []
    for step in range(2):
        before = model.blocks[0].attn.out_proj.weight.detach().clone()
        model(x(step)).square().sum().backward()
        optimizer.step()
        it.step()
        tensors = one(it)
        assert {"dout", "wo_r", "x_norm", "v"} < set(tensors)
        found.append(float(np.linalg.norm(tensors["wo_r"])) - float(before.norm()))
    assert np.abs(found).max() < 1e-5


@needs_sdpa
def test_a_probe_has_them_of_the_weights_that_it_runs_with():
    fake, model, found = FakeDaemon(topics=(b"", NEWEST)), Model(out="mixer"), []
    with attnd.watch(model, job="job", endpoint=fake.endpoint, residual=True, steps="manual", projections={"wo": "mixer"},
                     weights_every=0, probe=x(), probe_every=1) as it:
        fake.attach(it._probe.publisher)
        for _ in range(2):
            with torch.no_grad():
                model.blocks[0].attn.mixer.weight *= 3
            it.step()
            while not (message := fake.next())[0].startswith("tensor/job.probe/"):
                pass
            tensors = tensors_of(message)
            np.testing.assert_allclose(tensors["x_norm"], x().norm(dim=-1).numpy(), rtol=1e-6)
            found.append((np.linalg.norm(tensors["wo_r"]), model.blocks[0].attn.mixer.weight.detach().norm().item()))
    assert found == [pytest.approx(pair[::-1], rel=1e-5) for pair in found]
    fake.close()


@needs_sdpa
def test_what_is_not_found_is_left_out_and_told_once(watched, caplog):  # noqa: F811
    model = Model(out="mixer")
    it = watched(model, gradients=False, residual=True, steps="manual", weights_every=0)
    for step in range(2):
        model(x(step))
        it.step()
    assert [set(tensors_of(message)) for message in it.sent()] == 2 * [{"q", "k", "v"}]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 1 and "what the heads of blocks.0.attn write is not known" in said[0]
    assert said[0].endswith("projections={'wo': 'NAME'} tells its name; residual=False silences this")
    it = watched(Model(out="mixer"), gradients=False, residual=True, projections={"wo": "mixer"})
    it._root(x())
    assert {"wo_r", "x_norm"} < set(one(it))


class Separate(Attention):
    """Its queries, keys and values are of these names."""

    def __init__(self, q, k, v):
        super().__init__()
        del self.qkv
        self.names = q, k, v
        for name in self.names:
            setattr(self, name, torch.nn.Linear(WIDTH, H * D))

    def forward(self, x):
        q, k, v = (getattr(self, name)(x).view(*x.shape[:2], H, D).transpose(1, 2) for name in self.names)
        return self.out_proj(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def parametrised(model):
    model.blocks[0].attn = Separate("q_proj", "k_proj", "v_proj")
    torch.nn.utils.parametrizations.weight_norm(model.blocks[0].attn.q_proj)


def of_uncertain_order(model):
    class Apart(Attention):
        """Its queries and keys do not lie within one tensor."""

        def forward(self, x):
            q, k, v = (part.reshape(*x.shape[:2], H, D).transpose(1, 2).clone() for part in self.qkv(x).chunk(3, -1))
            return self.out_proj(torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    model.blocks[0].attn = Apart()


def of_other_names(model):
    model.blocks[0].attn = Separate("a", "b", "c")


def without_readers(model):
    model.blocks[0].attn = Separate("q_proj", "b", "c")


@needs_sdpa
@pytest.mark.parametrize("changed", [parametrised, of_uncertain_order, of_other_names, without_readers])
def test_the_output_is_found_whatever_the_queries_are_made_by(watched, caplog, changed):  # noqa: F811
    model = Model()
    changed(model)
    it = watched(model, gradients=False, residual=True, weights_every=0)
    model(x())
    tensors, wo = one(it), model.blocks[0].attn.out_proj.weight.detach()
    assert np.linalg.norm(tensors["wo_r"]) == pytest.approx(float(wo.norm()), rel=1e-5)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@needs_sdpa
def test_an_output_that_is_told_and_does_not_fit_is_told(watched, caplog):  # noqa: F811
    model = Model()
    model.blocks[0].attn.other = torch.nn.Linear(2 * WIDTH, WIDTH)
    it = watched(model, gradients=False, residual=True, projections={"wo": "other"})
    model(x())
    assert set(one(it)) == {"q", "k", "v"}
    assert any("wo [8, 16] does not fit 2 heads of 4 dimensions" in record.getMessage() for record in caplog.records)


@needs_sdpa
def test_as_many_samples_as_queries_are_not_taken_for_each_other(watched):  # noqa: F811
    square = random(T, T, WIDTH)
    for batch_first, known in ((None, False), (False, False), (True, True)):
        model = Model()
        if batch_first is not None:
            model.blocks[0].attn.batch_first = batch_first
        it = watched(model, gradients=False, residual=True)
        model(square)
        tensors = one(it)
        assert ("x_norm" in tensors, "wo_r" in tensors) == (known, True)
    np.testing.assert_allclose(tensors["x_norm"], square.norm(dim=-1).numpy(), rtol=1e-6)


@needs_sdpa
@pytest.mark.parametrize("batch_first", [False, True])
def test_the_order_of_the_blocks_of_torch_is_known(watched, batch_first):  # noqa: F811
    layer = torch.nn.TransformerEncoderLayer(WIDTH, H, WIDTH, dropout=0.0, batch_first=batch_first)
    model, square = torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), random(T, T, WIDTH)
    it = watched(model, gradients=False, residual=True)
    model(square)
    np.testing.assert_allclose(one(it)["x_norm"], (square if batch_first else square.transpose(0, 1)).norm(dim=-1).numpy(), rtol=1e-6)


@needs_sdpa
def test_a_block_that_is_called_by_names_has_the_same_stream(watched, caplog):  # noqa: F811
    model = Model(named=True)
    it = watched(model, gradients=False, residual=True)
    model(x())
    np.testing.assert_allclose(one(it)["x_norm"], x().norm(dim=-1).numpy(), rtol=1e-6)
    assert not caplog.records


@needs_sdpa
def test_a_stream_that_is_not_known_is_told_once(watched, caplog):  # noqa: F811
    class Twofold(Block):
        def forward(self, both):
            return super().forward(both[0])

    model = Model()
    model.blocks = torch.nn.ModuleList([Twofold()])
    model.forward = lambda given: model.blocks[0]((given, None))
    it = watched(model, gradients=False, residual=True)
    model(x())
    it.step()
    model(x())
    assert all("x_norm" not in tensors_of(message) for message in it.sent())
    assert [record.getMessage() for record in caplog.records] == [
        "job job: residual_share of blocks.0.attn is left out: the first argument of the block around it is no tensor [B, T, "
        "width], or its order is not certain"]


@needs_sdpa
def test_an_older_attnd_is_sent_none(watched):  # noqa: F811
    model = Model()
    it = watched(model, limits=NEWEST.replace(b"=8", b"=5"), gradients=False, residual=True)
    model(x())
    assert set(one(it)) == {"q", "k", "v"}


def test_a_range_of_heads_has_its_own_part():
    q, whole = random(B, 4, T, D), np.arange(4 * D * D, dtype=np.float32).reshape(4, D, D)
    seen = Queries(q, q, v=q, wo_r=lambda: whole, x=x())
    (keys, tensors), = messages(seen, Plan(heads=((1, 2),), samples=1))
    np.testing.assert_array_equal(tensors["wo_r"], whole[1:3])
    assert keys["head_offset"] == 1 and tensors["x_norm"].shape == (1, T)
    part, = parts(seen, Plan(heads=((1, 2),), samples=1), 0, Share(), Context())
    assert part.nbytes == sum(array.nbytes for array in tensors.values())
    assert part.copy().make(LAYER).kind == "qk"


@pytest.mark.parametrize("dtype, kind", [(torch.float32, "f32"), (torch.float16, "f16"), (torch.bfloat16, "bf16"), (torch.float64, "f64")])
def test_the_factor_of_any_dtype_is_that_of_its_numbers(dtype, kind):
    wo = random(5, 3 * D).to(dtype)
    copied = _Matrix(wo).copy(floats=True)
    np.testing.assert_array_equal(copied()[1], wo.to(torch.float64 if kind == "f64" else torch.float32).numpy())
    factor = Factor(copied, 3, 3 * D)
    gram = wo.double().view(5, 3, D).transpose(0, 1)
    made = torch.from_numpy(factor()).double()
    assert made.shape == (3, D, D) and factor.width == D and factor() is factor()
    np.testing.assert_allclose(made.mT @ made, gram.mT @ gram, atol=2e-5)
