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


# ------------------------------------------------------------------------------------------ adapters of peft

SEVERAL = {"target_modules": ["q_proj", "v_proj"]}
ADAPTERS = {
    "LoraConfig": {"r": 2, "lora_dropout": 0.2}, "dora": {"r": 2, "use_dora": True},
    "AdaLoraConfig": {"init_r": 4, "target_r": 2, "total_step": 100},
    "VeraConfig": {"r": 4}, "IA3Config": {"feedforward_modules": ["v_proj"]}, "LoHaConfig": {"r": 2}, "LoKrConfig": {"r": 2},
    "OFTConfig": {"oft_block_size": 8}, "BOFTConfig": {"boft_block_size": 4}, "HRAConfig": {"r": 4},
    "FourierFTConfig": {"n_frequency": 50},
    "VBLoRAConfig": {"r": 4, "num_vectors": 20, "vector_length": 8}, "RandLoraConfig": {"r": 4}, "MissConfig": {"r": 4},
    "C3AConfig": {"block_size": 8}, "parameters": {"r": 2, "target_modules": ["v_proj"], "target_parameters": ["q_proj.weight"]}}


def adapted(name, seed=0):
    """A Llama of two layers with this adapter, after three steps."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    kind = getattr(peft, name, peft.LoraConfig)
    torch.manual_seed(seed)
    model = peft.get_peft_model(transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=20, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, attention_bias=True)),
        kind(**{**SEVERAL, **ADAPTERS[name]}))
    return model, peft


def steps(model, count=3, each=lambda: None):
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], 5e-2)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        given = torch.randint(0, 20, (2, 8))
        losses.append(model(input_ids=given, labels=given).loss)
        losses[-1].backward()
        optimizer.step()
        each()
    return losses


def assert_acts(model, case):
    """Both matrices are those by which the modules multiply."""
    from attnd.capture import projections
    from attnd.capture.matrix import matrix_at
    modules = projections.modules_of(model)
    path = next(one for one in modules if one.endswith("layers.1.self_attn"))
    for name in SEVERAL["target_modules"]:
        got = matrix_at(modules, path, name).copy()()[1]
        module, training = modules[f"{path}.{name}"], model.training
        model.eval()
        with torch.no_grad():
            want = (module(torch.eye(32)[None])[0] - module(torch.zeros(1, 1, 32))[0]).T.numpy()
        model.train(training)
        assert abs(got - want).max() < 1e-5, (case, name)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_matrix_of_an_adapter_is_the_one_that_acts(name):
    model, _ = adapted(name)
    steps(model)
    state, drawn = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    assert_acts(model, "trained")
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    with model.disable_adapter():
        assert_acts(model, "disabled")
    if name != "parameters":
        model.merge_adapter()
        assert_acts(model, "merged")
        model.unmerge_adapter()
    assert_acts(model, "unmerged")


@pytest.mark.parametrize("name", ["LoraConfig", "LoHaConfig", "IA3Config"])
def test_the_matrix_of_several_adapters_is_that_of_those_that_are_active(name):
    model, peft = adapted(name)
    kind = getattr(peft, name)
    model.add_adapter("second", kind(**{**SEVERAL, **ADAPTERS[name]}))
    for active in ("default", "second", ["default", "second"]):
        model.base_model.set_adapter(active)
        steps(model, 2)
        assert_acts(model, active)


def test_what_is_said_of_an_adapted_matrix_is_of_the_one_that_acts(daemon):
    model, _ = adapted("VeraConfig")
    reader, job = Reader(daemon, "live/vera/"), "vera"
    with attnd.watch(model, job=job, endpoint=daemon.endpoint("ingest"), every=1, wait=60.0, steps="manual") as w:
        steps(model, each=w.step)
        w.epoch_end()
        found = {}
        while len(found) < 2:
            live = reader.next()[1]
            if live["tier"] == "weights":
                found[live["layer"]] = live["weights"]["wq"]["whole"]["spectral_norm"]
    reader.close()
    model.merge_adapter()
    for layer, block in enumerate(model.base_model.model.model.layers):
        want = torch.linalg.matrix_norm(block.self_attn.q_proj.base_layer.weight.double(), 2).item()
        assert found[layer] == pytest.approx(want, rel=1e-5)


def test_the_matrices_of_an_adapted_multi_head_attention_are_those_of_its_forward():
    from attnd.capture import projections
    from attnd.capture.matrix import matrix_at
    peft, seen = pytest.importorskip("peft"), {}
    inner = torch.nn.ModuleDict({"attn": torch.nn.MultiheadAttention(16, 4)})
    inner.forward = lambda x: inner["attn"](x, x, x)
    model = peft.get_peft_model(inner, peft.LoraConfig(r=2, target_modules=["attn"], init_lora_weights=False))
    path, attention = next((path, one) for path, one in projections.modules_of(model).items()
                           if type(one) is torch.nn.MultiheadAttention)
    attention.register_forward_pre_hook(lambda one, args: seen.update(
        in_proj_weight=one.in_proj_weight.detach().clone(), out_proj=one.out_proj.weight.detach().clone()))
    inner(torch.rand(3, 1, 16))
    for name, want in seen.items():
        got = matrix_at(projections.modules_of(model), path, name).copy()()[1]
        assert abs(got - want.numpy()).max() < 1e-6


@pytest.mark.parametrize("name", ["LoraConfig", "VeraConfig", "BOFTConfig"])
def test_an_adapted_training_has_the_same_bits_with_and_without_a_watch(daemon, name):
    def run(watched):
        model, _ = adapted(name)
        if not watched:
            return [*steps(model), *model.state_dict().values()]
        with attnd.watch(model, job=f"bits.{name}", endpoint=daemon.endpoint("ingest"), every=1, wait=60.0, steps="manual",
                         weights_every=1) as w:
            return [*steps(model, each=lambda: (w.step(), w.epoch_end())), *model.state_dict().values()]

    assert all(torch.equal(*pair) for pair in zip(run(True), run(False)))


@pytest.mark.parametrize("missing", ["k_proj", "v_proj"])
def test_a_layer_without_one_of_its_matrices_is_taken(daemon, missing, caplog):
    """attnd has the numbers of those that are sent."""
    projected = next((each for each in KINDS if each.name == "llama-sdpa"), None)
    if projected is None:
        pytest.skip("needs transformers")
    model = projected.kind.build()
    for module in model.modules():
        if hasattr(module, missing):
            setattr(module, missing, torch.nn.Sequential(getattr(module, missing), torch.nn.LeakyReLU(0.9)))
    _, found = trained(daemon, projected, f"without.{missing}", model)
    assert {"wq", "wo"} <= set(next(iter(found.values()))) and f"w{missing[0]}" not in next(iter(found.values()))
    assert any(f"W_{missing[0]}" in record.message and missing in record.message for record in caplog.records)
