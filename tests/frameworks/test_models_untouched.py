# SPDX-License-Identifier: MIT
"""A watched training is the same training: losses and weights of 20 steps have the same bits."""
import pathlib

import pytest

torch = pytest.importorskip("torch")
from session import Session, of_attention, snapshot, tier_options  # noqa: E402
from zoo import decoder_kind, eager, fused, multihead_kind, transformer_kind  # noqa: E402

pytest_plugins = ("one_daemon",)
STEPS = 20
KINDS = [transformer_kind("nn.Transformer", dropout=0.1), decoder_kind("eager", eager, dropout=0.1),
         multihead_kind("nn.MultiheadAttention", need_weights=True),
         multihead_kind("nn.MultiheadAttention-no-weights", need_weights=False)]
if hasattr(torch.nn.functional, "scaled_dot_product_attention"):
    KINDS.append(decoder_kind("sdpa", fused, dropout=0.1))
try:
    from zoo_transformers import transformers_kind
    KINDS += [transformers_kind("gpt2", implementation, dropout=0.1) for implementation in ("eager", "sdpa")]
except ImportError:
    transformers_kind = None


def losses_and_weights(kind, model):
    """Of 20 steps of training; the random numbers of dropout are the same every time."""
    torch.manual_seed(11)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(STEPS):
        loss = kind.loss(model, kind.batch(step))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses), snapshot(model)


@pytest.fixture(scope="module")
def unwatched():
    """{kind: its losses and weights} without anybody watching."""
    return {kind.name: losses_and_weights(kind, kind.build()) for kind in KINDS}


OPTIONS = {"every-step": {"every": 1}, "every-10th": {"every": 10}, "parts-of-every-step": {"every": 1, "samples": 1, "rows": 7},
           "rows-of-every-step": {"every": 1, "tier": "rows"}}
if hasattr(torch.cpu, "Stream"):
    OPTIONS["rows-as-on-an-accelerator"] = {"every": 1, "tier": "accelerator"}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_losses_and_weights_have_the_same_bits(stepwise, unwatched, kind, options, monkeypatch):
    model, name, options = kind.build(), options, OPTIONS[options]
    options = {**options, **tier_options(options["tier"], monkeypatch)} if "tier" in options else options
    options = {name: value for name, value in options.items() if value != "accelerator"}
    with Session(stepwise) as session:
        kinds = []
        watch = session.watch(model, on_publish=of_attention(lambda message: kinds.append(message.kind)), **options)
        losses, weights = losses_and_weights(kind, model)
    expected_losses, expected_weights = unwatched[kind.name]
    assert torch.equal(losses, expected_losses)
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)
    captured = STEPS // options["every"]
    assert len(kinds) == len(watch.layers) * captured and ("rows" in kinds) == ("rows" in name), set(kinds)


# Inductor compiles with PyTorch's headers, which Debian has in libtorch-dev.
HAS_HEADERS = any((place / "include/ATen").is_dir() for place in (pathlib.Path(torch.__file__).parent, pathlib.Path("/usr")))
COMPILER = "inductor" if HAS_HEADERS else "aot_eager"
COMPILED = [(COMPILER, decoder_kind("sdpa", fused, layers=1))] if hasattr(torch, "compiler") else []
if transformers_kind is not None:
    COMPILED.append(("aot_eager", transformers_kind("gpt2", "sdpa")))


def gradients(kind, compiled, state, step):
    """(loss, gradients) of one step from a given state."""
    compiled._orig_mod.load_state_dict(state)
    compiled.zero_grad()
    loss = kind.loss(compiled, kind.batch(step))
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in compiled.parameters()]


def largest_difference(one, other):
    """Relative to the largest gradient, or the loss."""
    pairs = [(one[0], other[0]), *zip(one[1], other[1])]
    scale = max(float(x.abs().max()) for x in other[1])
    return float(torch.tensor([float((x - y).abs().max()) / (float(y.abs()) if y.dim() == 0 else scale) for x, y in pairs]).max())


@pytest.mark.parametrize("backend, kind", COMPILED, ids=lambda x: getattr(x, "name", x))
def test_compiled_steps_that_are_not_captured_have_the_same_bits(stepwise, backend, kind):
    """Captured ones run eagerly, whose sums are in another order: they agree to rounding."""
    torch._dynamo.reset()
    steps, every = 8, 4
    compiled = torch.compile(kind.build(), backend=backend)
    states = [{name: value + 0.01 * step * torch.sign(value) for name, value in snapshot(compiled).items()}
              for step in range(steps)]
    unwatched = [gradients(kind, compiled, state, step) for step, state in enumerate(states)]
    with Session(stepwise) as session:
        watch = session.watch(compiled, every=every, steps="manual", compiled="eager")
        watched = []
        for step, state in enumerate(states):
            watched.append(gradients(kind, compiled, state, step))
            watch.step()
    differences = [largest_difference(one, other) for one, other in zip(watched, unwatched)]
    print(f"\n{kind.name} by {backend}: captured steps, which are eager, differ by "
          + ", ".join(f"{x:.1e}" for x in differences[::every]))
    assert [x for step, x in enumerate(differences) if step % every] == [0.0] * (steps - steps // every)
    assert all(x < 1e-5 for x in differences[::every])  # some roundings of 2^-24 in each sum of 32 to 64
    assert {step for step, _ in session.summaries()} == {0, 4}


class FrozenBelow(torch.nn.Module):
    """A frozen encoder, in eval mode, below a head that is trained: of two layers that take torch's fast path."""

    def __init__(self):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2).requires_grad_(False)
        self.head = torch.nn.Linear(32, 1)

    def train(self, mode=True):
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x, padding):
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))


def frozen_below_losses(model):
    """Of 6 steps with padded samples: the fast path gives 0 at padded positions, the other one does not."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(6):
        padding = torch.arange(10)[None] >= torch.tensor([10, 5, 7])[:, None]
        loss = (model(torch.randn(3, 10, 32, generator=generator), padding) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def test_what_takes_the_fast_path_of_torch_keeps_taking_it(stepwise, caplog):
    def build():
        torch.manual_seed(0)
        return FrozenBelow().train()

    expected, model = frozen_below_losses(build()), build()
    slow = build()
    slow.encoder.layers[0].self_attn.in_proj_weight.requires_grad_(True)
    assert not torch.equal(frozen_below_losses(slow)[:1], expected[:1])  # it is another result
    with Session(stepwise) as session:
        session.watch(model, every=2)
        assert torch.equal(frozen_below_losses(model), expected)
    said = [record.getMessage() for record in caplog.records if record.name.startswith("attnd")]
    assert len(said) == 1 and "encoder (TransformerEncoder) takes the fast path" in said[0], said
    assert session.summaries() == {}


def test_without_training_the_fast_path_is_left_so_that_it_is_captured(stepwise):
    torch.manual_seed(0)
    model, x = FrozenBelow().eval(), torch.randn(3, 10, 32)
    with Session(stepwise) as session, torch.no_grad():
        watch = session.watch(model, evaluation=True)
        model(x, torch.zeros(3, 10, dtype=torch.bool))
        assert len(watch.layers) == 2
