# SPDX-License-Identifier: MIT
"""The projection matrices that `attnd.watch` finds in each kind of model, and what attnd makes of them: equal to float64
numpy from the model's own matrices, taken by hand."""
import pytest

pytest.importorskip("torch")
import numpy as np  # noqa: E402
import torch  # noqa: E402
from session import Attnd, Reader, attnd  # noqa: E402
from zoo_projections import by_eager, errors, handmade  # noqa: E402

KINDS = handmade()
try:
    from zoo_projections_transformers import partly_sent, transformers_projected
    KINDS += transformers_projected()
except ImportError:
    pass

TOLERANCE = 1e-9  # of what KERNELS.md promises; matrices this small are decomposed in float64


@pytest.fixture(scope="module")
def daemon():
    """One for all tests; at the end, with `pytest -s`: how far off the numbers were."""
    started, report = Attnd("history.enabled=false", "alerts.enabled=false"), []
    Attnd.all.remove(started)
    started.report = report
    yield started
    started.close()
    for name, layers, worst in report:
        print(f"{name:<28} {layers:>2} layers, " + ", ".join(f"{key} {error:.0e}" for key, error in worst.items()))


def trained(daemon, projected, job, model=None, **options):
    """A model after one step of training, and {layer: what attnd says about its matrices}."""
    model = projected.kind.build() if model is None else model
    reader = Reader(daemon, f"live/{job}/")
    with attnd.watch(model, job=job, endpoint=daemon.endpoint("ingest"), every=1, samples=1, wait=60.0,
                     steps="manual", **{**projected.options, **options}) as w:
        projected.kind.loss(model, projected.kind.batch(0)).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
        w.step()
        w.epoch_end()
        layers = len(w.layers)
    found = {}
    while len(found) < layers:
        live = reader.next()[1]
        if live["tier"] == "weights":
            found[(live["stack"], live["layer"], live["site"])] = live["weights"]
    reader.close()
    return model, found


@pytest.mark.parametrize("projected", KINDS, ids=lambda projected: projected.name)
def test_spectra_and_circuits_are_those_of_the_model(daemon, projected):
    model, found = trained(daemon, projected, f"of.{projected.name}")
    matrices, worst = projected.matrices(model), {}
    assert set(found) == set(matrices)
    for layer, weights in found.items():
        for key, error in errors(matrices[layer], weights).items():
            worst[key] = np.maximum(worst.get(key, 0.0), error)
    daemon.report.append((projected.name, len(found), worst))
    assert {key: error for key, error in worst.items() if not error <= TOLERANCE} == {}


def test_an_order_that_is_not_certain_is_not_guessed(daemon, caplog):
    projected = by_eager("unsaid")
    model = projected.kind.build()
    with attnd.watch(model, job="unsaid", endpoint=daemon.endpoint("ingest"), every=1, wait=60.0, steps="manual") as w:
        projected.kind.loss(model, projected.kind.batch(0)).backward()
        w.step()
        w.epoch_end()
        assert w.stats()["published"] <= 2 + 3 + 1  # hellos, the attention of three layers, the end of the epoch
    told = [record.message for record in caplog.records]
    assert told == ["job unsaid: W_q, W_k, W_v and W_o of blocks.0.attn (Attention, and 2 more layers) are not published: "
                    "qkv has them in one, in an order that is not certain. projections={'wqkv': 'qkv'} says: all queries, "
                    "then keys, then values; 'wqkv_by_head': head by head"]


@pytest.mark.parametrize("name,targets", [("gpt2-sdpa", ["c_attn"]), ("llama-sdpa", ["q_proj", "v_proj", "o_proj"])])
def test_adapters_of_peft_are_merged_without_touching_the_model(daemon, name, targets):
    peft = pytest.importorskip("peft")
    projected = next(each for each in KINDS if each.name == name)
    model = peft.get_peft_model(projected.kind.build(), peft.LoraConfig(
        r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False, fan_in_fan_out=name.startswith("gpt2")))
    _, found = trained(daemon, projected, f"lora.{name}", model)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    merged = projected.matrices(model.merge_and_unload())
    assert set(found) == set(merged) and any("lora_A" in key for key in state)
    assert all(error < 1e-4 for layer, weights in found.items() for error in errors(merged[layer], weights).values())


@pytest.mark.parametrize("name", ["latent", "sdpa", "eager"])
def test_latent_and_gated_matrices_are_made_and_what_is_not_sent_is_said_once(daemon, caplog, name):
    pytest.importorskip("transformers")
    projected = partly_sent()[name]
    model, found = trained(daemon, projected, f"partly.{name}")
    matrices = projected.matrices(model)
    assert set(found) == set(matrices)
    for layer, weights in found.items():
        assert set(matrices[layer]) == {part for part in ("wq", "wk", "wv", "wo") if part in weights}
        assert all(error < 1e-4 for error in errors(matrices[layer], weights).values())
    told = [record.message for record in caplog.records if "not published" in record.message]
    assert len(told) == (name == "latent")
    if told:
        assert told[0].startswith("job partly.latent: W_q and W_k of layers.0.self_attn (DeepseekV3Attention, and 1 more layer) are not published")
