# SPDX-License-Identifier: MIT
"""What `attnd.watch(gradients=True)` adds: `importance_gradient`, equal to that of autograd through an attention that is
computed step by step in float64."""
import contextlib

import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from explicit import calls_of, importance  # noqa: E402
from session import Session, of_attention, report, snapshot, train  # noqa: E402
from attnd.base.plan import Folds, Plan  # noqa: E402
from test_models_untouched import losses_and_weights  # noqa: E402
from zoo import (HEADS, CheckpointedBlock, ReentrantBlock, decoder_kind, eager, fused,  # noqa: E402
                 multihead_kind, transformer_kind)

pytest_plugins = ("one_daemon",)
HAS_FUSED = hasattr(torch.nn.functional, "scaled_dot_product_attention")
EAGER = decoder_kind("eager", eager)
KINDS = [EAGER, transformer_kind(), transformer_kind("nn.Transformer-seq-first", batch_first=False),
         multihead_kind("nn.MultiheadAttention-weights", need_weights=True),
         multihead_kind("nn.MultiheadAttention-no-weights", need_weights=False)]
if HAS_FUSED:
    FUSED = decoder_kind("sdpa", fused)
    KINDS.append(FUSED)
try:
    from zoo_transformers import transformers_kind
    KINDS += [transformers_kind(name, implementation, batch) for name, batch in
              (("gpt2", ""), ("gpt2", "-right-padded"), ("llama", ""), ("bert", "-right-padded"), ("bart", ""), ("t5", ""))
              for implementation in ("eager", "sdpa")]
except ImportError:
    transformers_kind = None
ONE_OF_EACH = [EAGER] + ([FUSED] if HAS_FUSED else [])

needs_torch2 = pytest.mark.skipif(not hasattr(torch, "compiler"), reason="of torch 2")


class Watched:
    """A watch of everything, and the gradients of weights that its messages say."""

    def __init__(self, daemon, model, **options):
        self.sent, self.session = [], Session(daemon)
        self.watch = self.session.watch(model, gradients=True, on_publish=of_attention(self.sent.append), **options)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.session.__exit__()
        self.layers = [tuple(layer) for layer in self.watch.layers]

    def gradients(self):
        """{(step, microbatch): {layer: f64 [B, H, Tq, Tk], or None when a message has none}}"""
        said = {}
        for message in (message for message in self.sent if message.kind != "event"):
            keys, tensors = message.keys, tensors_of(message)
            of_step = said.setdefault((message.step, keys.get("microbatch", 0)), dict.fromkeys(self.layers))
            layer = keys["stack"], keys["layer"], keys["site"]
            assert of_step[layer] is None  # one message of each
            if "dout" in tensors:
                v = tensors["v"].repeat_interleave(tensors["q"].shape[1] // tensors["v"].shape[1], 1)
                of_step[layer] = tensors["dout"] @ v.mT
            else:
                of_step[layer] = tensors.get("grad")
        return said

    def published(self, step=0):
        """{layer: importance_gradient of each head} of a step, as attnd publishes it."""
        summaries = self.session.summaries()
        return {layer: np.array(summaries[step, layer]["heads"]["importance_gradient"]["mean"], float)
                for layer in self.layers}


def tensors_of(message):
    """{name: f64} of a message; bf16 travels as int16."""
    found = {}
    for described, frame in zip(message.keys["tensors"], message.frames):
        tensor = torch.from_numpy(frame.reshape(described["shape"]).copy())
        found[described["name"]] = (tensor.view(torch.bfloat16) if described["dtype"] == "bf16" else tensor).double()
    return found


def taken(watched, calls, samples):
    """The samples of the first step that the plan takes."""
    count = calls[0].weights.shape[:-2].numel() // HEADS
    return Plan(samples=samples).take((watched.watch.publisher.run, 0, 0), count, Folds(), 0).rows


def worst(name, got, calls, samples=slice(None)):
    """The largest difference of an importance from that in float64, by the gradients that travelled."""
    errors = []
    for gradient, call in zip(got.values(), calls):
        weights = call.weights.detach().view(-1, HEADS, *call.weights.shape[-2:])[samples]
        products = (weights * gradient).abs().sum((0, 2, 3))
        errors.append(np.abs((products / products.norm()).numpy() - importance(call, samples)).max())
    report.append((f"{name} gradients", len(errors), float(np.max(errors))))
    return np.max(errors)


@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_importance_is_that_of_autograd_in_float64(stepwise, kind, samples):
    """The model's own arithmetic is in float32, backward through all its layers; attnd's kernels promise 1e-5."""
    model = kind.build()
    with Watched(stepwise, model, samples=samples) as watched:
        (_, (batch,), state), = train(model, kind, 1)
    calls = calls_of(kind, state, batch)
    rows = taken(watched, calls, samples)
    assert worst(kind.name, watched.gradients()[0, 0], calls, rows) < 2e-6
    errors = [np.abs(numbers - importance(call, rows)).max() for numbers, call in zip(watched.published().values(), calls)]
    report.append((f"{kind.name} importance_gradient", len(errors), float(np.max(errors))))
    assert np.max(errors) < 1e-5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_losses_and_weights_have_the_same_bits(stepwise, kind):
    expected_losses, expected_weights = losses_and_weights(kind, kind.build())
    model = kind.build()
    with Watched(stepwise, model, every=2, residual=True):
        losses, weights = losses_and_weights(kind, model)
    assert torch.equal(losses, expected_losses)
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


def as_it_is(model):
    return model


def checkpointed(model, block=CheckpointedBlock):
    for one in model.blocks:
        one.__class__ = block
    return model


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend="aot_eager")


@contextlib.contextmanager
def one_rank():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


WAYS = {  # what is made of the model, microbatches, what the training is within, and the largest error
    "accumulated": (as_it_is, 3, contextlib.nullcontext, 2e-6),
    "autocast": (as_it_is, 1, lambda: torch.autocast("cpu", torch.bfloat16), 5e-2),  # 8 bits, through three layers and back
    "checkpointed": (checkpointed, 2, contextlib.nullcontext, 2e-6),
    "reentrant": (lambda model: checkpointed(model, ReentrantBlock), 2, contextlib.nullcontext, 2e-6),
    "compiled": (compiled, 1, contextlib.nullcontext, 2e-6),
    "ddp": (lambda model: torch.nn.parallel.DistributedDataParallel(model), 1, one_rank, 2e-6)}


@needs_torch2
@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("kind", ONE_OF_EACH, ids=lambda kind: kind.name)
def test_in_every_way_of_training_each_microbatch_has_its_own(stepwise, kind, name):
    made, microbatches, around, error = WAYS[name]
    with around():
        model = made(kind.build())
        with Watched(stepwise, model) as watched:
            (_, batches, state), = train(model, kind, 1, microbatches)
    state = {key.replace("module.", "", 1): value for key, value in state.items()}
    got = watched.gradients()
    assert sorted(got) == [(0, m) for m in range(microbatches)]
    for m, batch in enumerate(batches):
        assert worst(f"{kind.name}-{name}", got[0, m], calls_of(kind, state, batch)) < error


@needs_torch2
@pytest.mark.parametrize("kind", ONE_OF_EACH, ids=lambda kind: kind.name)
def test_a_scaled_loss_has_the_same_importance(stepwise, kind):
    """torch's own scaler; the first step overflows, and goes without."""
    model = kind.build()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**100, backoff_factor=2.0**-84)
    optimizer, states = torch.optim.SGD(model.parameters(), lr=0.1), []
    with Watched(stepwise, model) as watched:
        for step in range(2):
            states.append(snapshot(model))
            loss = kind.loss(model, kind.batch(step))
            scaler.scale(loss * 1e30 if step == 0 else loss).backward()
            scaler.step(optimizer)
            scaler.update()
            watched.watch.step()  # of the first one the scaler makes none
            optimizer.zero_grad()
    got = watched.gradients()
    assert all(gradient is None for gradient in got[0, 0].values())
    assert watched.watch.stats()["gradients_not_finite"] == 3
    assert worst(f"{kind.name}-scaled", got[1, 0], calls_of(kind, states[1], kind.batch(1))) < 2e-6
