# SPDX-License-Identifier: MIT
"""residual=True: R of each head's slice of W_o and the norms of the stream go along with values, where they are known."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import attnd
from attnd.base.plan import Plan, some
from attnd.capture.calls import Context, parts
from attnd.capture.matrix import Matrix
from attnd.capture.residual import Factor
from attnd.forms.seen import Queries, Share
from conftest import FakeDaemon, warnings
from test_calls import LAYER, messages, random
from test_gradients import NEWEST, SDPA, needs_sdpa, watched  # noqa: F401
from watching import tensors_of

B, T, H, D, WIDTH = 2, 6, 2, 4, 8


class Attention(torch.nn.Module):
    """Fused, with one projection in, and W_o by that name."""

    def __init__(self, out="out_proj"):
        super().__init__()
        self.qkv = torch.nn.Linear(WIDTH, 3 * H * D)
        setattr(self, out, torch.nn.Linear(H * D, WIDTH))
        self.out = out

    def split(self, x):
        return self.qkv(x).chunk(3, -1)

    def forward(self, x):
        q, k, v = (part.view(*x.shape[:2], H, D).transpose(1, 2) for part in self.split(x))
        return getattr(self, self.out)(SDPA(q, k, v).transpose(1, 2).flatten(2))


class Block(torch.nn.Module):
    def __init__(self, attention):
        super().__init__()
        self.norm, self.attn = torch.nn.LayerNorm(WIDTH), attention

    def forward(self, x, scale=1.0):
        return x + self.attn(self.norm(x)) * scale


class Model(torch.nn.Module):
    def __init__(self, attention=None, named=False):
        super().__init__()
        self.blocks, self.named = torch.nn.ModuleList([Block(attention or Attention())]), named

    @property
    def attn(self):
        return self.blocks[0].attn

    def forward(self, x):
        return self.blocks[0](x=x) if self.named else self.blocks[0](x)


def x(seed=0):
    return random(B, T, WIDTH, seed=seed)


@pytest.fixture
def residual(watched):  # noqa: F811
    """residual(model, ...): a watch as of test_gradients, by default without gradients."""
    if SDPA is None:
        pytest.skip("torch has no scaled_dot_product_attention")
    return lambda model=None, **options: watched(model or Model(), **{"gradients": False, "residual": True, **options})


def one(it):
    message, = it.sent()
    return tensors_of(message)


def captured(it, given=None):
    """The tensors of one forward."""
    it.model(x() if given is None else given)
    return one(it)


def assert_writes(wo_r, wo):
    """R of each head makes of a vector one as long as W_o does."""
    assert wo_r.shape[0] * wo_r.shape[2] == wo.shape[1]
    for head, r in enumerate(wo_r):
        u = np.random.default_rng(head).standard_normal(r.shape[1])
        part = wo.detach().double().numpy()[:, head * len(u):(head + 1) * len(u)]
        assert np.linalg.norm(r @ u) == pytest.approx(np.linalg.norm(part @ u), rel=1e-6), head


@pytest.mark.parametrize("plan, samples, rows", [({}, B, slice(None)), ({"samples": 1}, 1, slice(None)),
                                                 ({"rows": 3}, B, slice(0, None, 2))])
def test_what_a_head_writes_follows_from_the_message(residual, plan, samples, rows):
    it = residual(**plan)
    tensors = captured(it)
    assert tensors["wo_r"].shape == (H, D, D) and tensors["x_norm"].shape == tensors["q"].shape[::2][:1] + tensors["q"].shape[2:3]
    assert_writes(tensors["wo_r"], it.model.attn.out_proj.weight)
    whole = x().norm(dim=-1)[:, rows].numpy()
    assert len(tensors["x_norm"]) == samples and all(np.isclose(whole, one, rtol=1e-6).all(1).any() for one in tensors["x_norm"])


def test_it_goes_along_with_gradients_and_is_of_the_weights_before_the_step(residual):
    it = residual(gradients=True, steps="manual")
    optimizer = torch.optim.SGD(it.model.parameters(), lr=1.0)
    found = []
    for step in range(2):
        before = it.model.attn.out_proj.weight.detach().clone()
        it.model(x(step)).square().sum().backward()
        optimizer.step()
        it.step()
        tensors = one(it)
        assert {"dout", "wo_r", "x_norm", "v"} < set(tensors)
        found.append(float(np.linalg.norm(tensors["wo_r"])) - float(before.norm()))
    assert np.abs(found).max() < 1e-5


@needs_sdpa
def test_a_probe_has_them_of_the_weights_that_it_runs_with():
    fake, model, found = FakeDaemon(topics=(b"", NEWEST)), Model(Attention("mixer")), []
    with attnd.watch(model, job="job", endpoint=fake.endpoint, residual=True, steps="manual", projections={"wo": "mixer"},
                     weights_every=0, probe=x(), probe_every=1) as it:
        fake.attach(it._probe._watch.publisher)
        for _ in range(2):
            with torch.no_grad():
                model.attn.mixer.weight *= 3
            it.step()
            while not (message := fake.next())[0].startswith("tensor/job.probe/"):
                pass
            tensors = tensors_of(message)
            np.testing.assert_allclose(tensors["x_norm"], x().norm(dim=-1).numpy(), rtol=1e-6)
            found.append((np.linalg.norm(tensors["wo_r"]), model.attn.mixer.weight.detach().norm().item()))
    assert found == [pytest.approx(pair[::-1], rel=1e-5) for pair in found]


def test_what_is_not_found_is_left_out_and_told_once(residual, caplog):
    it = residual(Model(Attention("mixer")), steps="manual", weights_every=0)
    for step in range(2):
        it.model(x(step))
        it.step()
    assert it.names() == 2 * [{"q", "k", "v"}]
    said, = warnings(caplog)
    assert "what the heads of blocks.0.attn write is not known" in said
    assert said.endswith("projections={'wo': 'NAME'} tells its name; residual=False silences this")
    assert {"wo_r", "x_norm"} < set(captured(residual(Model(Attention("mixer")), projections={"wo": "mixer"})))


class Separate(Attention):
    """Its queries, keys and values are of these names."""

    def __init__(self, q, k, v):
        super().__init__()
        del self.qkv
        self.names = q, k, v
        for name in self.names:
            setattr(self, name, torch.nn.Linear(WIDTH, H * D))

    def split(self, x):
        return [getattr(self, name)(x) for name in self.names]


class Apart(Attention):
    """Its queries and keys do not lie within one tensor: their order is not certain."""

    def split(self, x):
        return [part.clone() for part in super().split(x)]


def parametrised():
    attention = Separate("q_proj", "k_proj", "v_proj")
    torch.nn.utils.parametrizations.weight_norm(attention.q_proj)
    return attention


@pytest.mark.parametrize("made", [parametrised, Apart, lambda: Separate("a", "b", "c"), lambda: Separate("q_proj", "b", "c")],
                         ids=["parametrised", "uncertain order", "other names", "without readers"])
def test_the_output_is_found_whatever_the_queries_are_made_by(residual, caplog, made):
    it = residual(Model(made()), weights_every=0)
    made = captured(it)["wo_r"]
    assert np.linalg.norm(made) == pytest.approx(float(it.model.attn.out_proj.weight.detach().norm()), rel=1e-5)
    assert warnings(caplog) == []


def test_an_output_that_is_told_and_does_not_fit_is_told(residual, caplog):
    model = Model()
    model.attn.other = torch.nn.Linear(2 * WIDTH, WIDTH)
    assert set(captured(residual(model, projections={"wo": "other"}))) == {"q", "k", "v"}
    assert any("wo [8, 16] does not fit 2 heads of 4 dimensions" in text for text in caplog.messages)


@pytest.mark.parametrize("batch_first", [None, False, True])
def test_as_many_samples_as_queries_are_not_taken_for_each_other(residual, batch_first):
    model, square = Model(), random(T, T, WIDTH)
    if batch_first is not None:
        model.attn.batch_first = batch_first
    tensors = captured(residual(model), square)
    assert ("x_norm" in tensors, "wo_r" in tensors) == (batch_first is True, True)
    if batch_first:
        np.testing.assert_allclose(tensors["x_norm"], square.norm(dim=-1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("batch_first", [False, True])
def test_the_order_of_the_blocks_of_torch_is_known(residual, batch_first):
    layer = torch.nn.TransformerEncoderLayer(WIDTH, H, WIDTH, dropout=0.0, batch_first=batch_first)
    square = random(T, T, WIDTH)
    found = captured(residual(torch.nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)), square)["x_norm"]
    np.testing.assert_allclose(found, (square if batch_first else square.transpose(0, 1)).norm(dim=-1).numpy(), rtol=1e-6)


def test_a_block_that_is_called_by_names_has_the_same_stream(residual, caplog):
    found = captured(residual(Model(named=True)))["x_norm"]
    np.testing.assert_allclose(found, x().norm(dim=-1).numpy(), rtol=1e-6)
    assert not caplog.records


def test_a_stream_that_is_not_known_is_told_once(residual, caplog):
    class Twofold(Block):
        def forward(self, both):
            return super().forward(both[0])

    model = Model()
    model.blocks = torch.nn.ModuleList([Twofold(Attention())])
    model.forward = lambda given: model.blocks[0]((given, None))
    it = residual(model)
    model(x())
    it.step()
    model(x())
    assert all("x_norm" not in names for names in it.names())
    assert caplog.messages == [
        "job job: residual_share of blocks.0.attn is left out: the first argument of the block around it is no tensor [B, T, "
        "width], or its order is not certain"]


def test_a_range_of_heads_has_its_own_part():
    q, whole = random(B, 4, T, D), np.arange(4 * D * D, dtype=np.float32).reshape(4, D, D)
    seen = Queries(q, q, v=q, wo_r=lambda: whole, x=x())
    (keys, tensors), = messages(seen, Plan(heads=((1, 2),), samples=1))
    np.testing.assert_array_equal(tensors["wo_r"], whole[1:3])
    assert keys["head_offset"] == 1 and tensors["x_norm"].shape == (1, T)
    part, = parts(seen, Plan(heads=((1, 2),)), 0, Share(), Context(samples=some(range(1, 2), B)))
    assert part.nbytes == sum(array.nbytes for array in tensors.values())
    assert part.copy().make(LAYER).kind == "qk"


@pytest.mark.parametrize("dtype, kind", [(torch.float32, "f32"), (torch.float16, "f16"), (torch.bfloat16, "bf16"), (torch.float64, "f64")])
def test_the_factor_of_any_dtype_is_that_of_its_numbers(dtype, kind):
    wo = random(5, 3 * D).to(dtype)
    copied = Matrix(wo).copy(floats=True)
    np.testing.assert_array_equal(copied()[1], wo.to(torch.float64 if kind == "f64" else torch.float32).numpy())
    factor = Factor(copied, 3, 3 * D)
    gram = wo.double().view(5, 3, D).transpose(0, 1)
    made = torch.from_numpy(factor()).double()
    assert made.shape == (3, D, D) and factor.width == D and factor() is factor()
    np.testing.assert_allclose(made.mT @ made, gram.mT @ gram, atol=2e-5)
