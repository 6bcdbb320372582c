# SPDX-License-Identifier: MIT
"""What `attnd.watch(values=True)` adds: the numbers of a head's output, equal to those of an attention that is computed
step by step in float64."""
import pytest

torch = pytest.importorskip("torch")
import numpy as np  # noqa: E402
from explicit import calls_of, residual_numbers, streams_of, values_numbers  # noqa: E402
from session import Session, expected_of, report, train  # noqa: E402
from zoo import decoder_kind, eager, fused, multihead_kind, transformer_kind  # noqa: E402

pytest_plugins = ("one_daemon",)
HAS_FUSED = hasattr(torch.nn.functional, "scaled_dot_product_attention")
METRICS = ("output_norm", "norm_weighted_entropy")
EXPLICIT = [decoder_kind("eager", eager), multihead_kind("nn.MultiheadAttention", need_weights=True)]
KINDS = [decoder_kind("sdpa", fused), transformer_kind(), transformer_kind("nn.Transformer-seq-first", batch_first=False),
         multihead_kind("nn.MultiheadAttention-no-weights", need_weights=False)]
try:
    from zoo_transformers import transformers_kind
    KINDS += [transformers_kind(name, "sdpa", batch) for name, batch in
              (("gpt2", ""), ("gpt2", "-right-padded"), ("llama", ""), ("llama", "-left-padded"), ("bert", "-right-padded"),
               ("bart", ""))]
    EXPLICIT += [transformers_kind(name, "eager", batch) for name, batch in
                 (("gpt2", ""), ("gpt2", "-right-padded"), ("llama", ""), ("llama", "-left-padded"), ("bert", "-right-padded"),
                  ("t5", ""), ("bart", ""))]
    OWN_KERNEL = [transformers_kind(name, "own-kernel") for name in ("gpt2", "llama")]
except ImportError:
    OWN_KERNEL = []
KINDS = [*(KINDS if HAS_FUSED else ()), *EXPLICIT]


@pytest.mark.parametrize("samples", [0, 1])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_numbers_of_outputs_are_right(stepwise, kind, samples):
    """Errors are those of float32: 24 bits of sums of some dozen terms, twice; the entropies of the kernels' tests."""
    model = kind.build()
    with Session(stepwise) as session:
        watch = session.watch(model, samples=samples, values=True)
        trained = list(train(model, kind, 1))
        layers = list(watch.layers)
    summaries, expected = session.summaries(), expected_of(kind, trained, samples, watch.publisher.run)
    (_, (batch,), state), = trained
    worst = 0.0
    for layer, call in zip(layers, calls_of(kind, state, batch)):
        attended, = expected[0, tuple(layer)]
        for name, want in values_numbers(call, attended).items():
            found = summaries[0, tuple(layer)]["heads"][name]["mean"]
            worst = float(np.maximum(worst, (np.abs(found - want) / np.maximum(1, want)).max()))
    report.append((f"{kind.name} values", len(layers), worst))
    assert worst < 1e-5


OUTPUTS = {"sdpa": ".out", "eager": ".out", "t5": ".o", "gpt2": ".c_proj", "llama": ".o_proj", "bert": ".output.dense"}  # else .out_proj


def output_weight(kind, state, path):
    """W_o [out, H * dv] of an attention."""
    name = next((suffix for start, suffix in OUTPUTS.items() if kind.name.startswith(start)), ".out_proj")
    weight = state[f"{path[:-5] if name == '.output.dense' else path}{name}.weight"].double().numpy()
    return weight.T if name == ".c_proj" else weight


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "Multihead" not in kind.name], ids=lambda kind: kind.name)
def test_what_heads_write_to_the_residual_stream_is_right(stepwise, kind):
    """R is made in f32, by a QR of some dozen columns. A cross-attention has no share."""
    model = kind.build()
    with Session(stepwise) as session:
        watch = session.watch(model, samples=2, residual=True)
        trained = list(train(model, kind, 2))
        layers = list(watch.layers)
    summaries, expected = session.summaries(), expected_of(kind, trained, 2, watch.publisher.run)
    worst = 0.0
    for step, (batch,), state in trained:
        streams = streams_of(kind, state, batch, [layer.module for layer in layers])
        for layer, call in zip(layers, calls_of(kind, state, batch)):
            attended, = expected[step, tuple(layer)]
            is_self = layer[2] == "self"
            got = summaries[step, tuple(layer)]["heads"]
            want = residual_numbers(call, attended, output_weight(kind, state, layer.module),
                                    streams[layer.module] if is_self else None)
            for name, numbers in want.items():
                found = np.array(got[name]["mean"], float)
                worst = float(np.maximum(worst, (np.abs(found - numbers) / np.maximum(1, numbers)).max()))
            assert is_self or np.isnan(np.array(got.get("residual_share", {}).get("mean", [None]), float)).all()
    report.append((f"{kind.name} residual", 2 * len(layers), worst))
    assert worst < 1e-5


@pytest.mark.parametrize("kind", OWN_KERNEL, ids=lambda kind: kind.name)
def test_a_kernel_that_is_called_by_transformers_has_values_too(stepwise, kind):
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model, values=True)
        list(train(model, kind, 1))
    assert all(np.isfinite(summary["heads"][name]["mean"]).all()
               for summary in session.summaries().values() for name in METRICS)


@pytest.mark.parametrize("kind", [KINDS[0], EXPLICIT[0]], ids=lambda kind: kind.name)
def test_without_being_asked_for_values_do_not_travel(stepwise, kind):
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model)
        list(train(model, kind, 1))
    numbers = [summary["heads"].get(name, {}).get("mean") for summary in session.summaries().values() for name in METRICS]
    assert numbers and all(number is None or np.isnan(np.array(number, float)).all() for number in numbers)
