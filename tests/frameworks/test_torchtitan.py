# SPDX-License-Identifier: MIT
"""The debug model of torchtitan 0.2, compiled and checkpointed by torchtitan's own functions: twenty steps, every layer,
beside its own modules in float64."""
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchtitan.models.llama3.model.model")  # later ones need CUDA
from compiling import compilations, forget, from_anew  # noqa: E402, F401
from expected import Attended  # noqa: E402
from session import Session, assert_right  # noqa: E402
from test_models_untouched import HAS_HEADERS  # noqa: E402
from torchtitan.config.job_config import ActivationCheckpoint, Compile  # noqa: E402
from torchtitan.distributed.activation_checkpoint import apply_ac  # noqa: E402
from torchtitan.models.llama3 import Transformer, llama3_args  # noqa: E402
from torchtitan.models.llama3.infra import parallelize  # noqa: E402
from torchtitan.models.llama3.model import model as llama3  # noqa: E402

pytest_plugins = ("one_daemon",)
pytestmark = pytest.mark.skipif(not HAS_HEADERS, reason="inductor needs the headers of PyTorch")
STEPS, EVERY, TOKENS = 20, 5, 64


def build():
    torch.manual_seed(1)
    model = Transformer(replace(llama3_args["debugmodel"], max_seq_len=TOKENS))
    model.init_weights()
    return model


def batch(step):
    tokens = torch.randint(0, 2048, (2, TOKENS + 1), generator=torch.Generator().manual_seed(step))
    return tokens[:, :-1], tokens[:, 1:]


def train(model, before_step):
    """Compiled from now on. Returns the losses."""
    parallelize.apply_compile(model, Compile(enable=True))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=8e-4), []
    for step in range(STEPS):
        before_step(step)
        tokens, targets = batch(step)
        loss = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def rotated_in_float64(queries, keys, freqs_cis, positions=None):
    """The formula of apply_rotary_emb, which rounds to float32."""
    turn = freqs_cis[:queries.shape[1], None].to(torch.complex128)
    return tuple(torch.view_as_real(torch.view_as_complex(one.unflatten(-1, (-1, 2))) * turn).flatten(3)
                 for one in (queries, keys))


def attended(model, tokens, patch):
    """{(stack, layer, site): what a plain copy of the model in float64 attends to}."""
    plain, found = build(), {}
    plain.load_state_dict({name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", ""): value
                           for name, value in model.state_dict().items()})

    def see(layer):
        def hook(_, given, __):
            queries, keys = given[:2]
            logits = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
            hidden = torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1)
            logits = logits.masked_fill(hidden, -np.inf)
            found["decoder", layer, "self"] = [Attended(logits.softmax(-1).numpy(), logits.numpy(), causal=True)]
        return hook

    with torch.no_grad(), patch.context() as context:
        context.setattr(llama3, "apply_rotary_emb", rotated_in_float64)
        for name, block in plain.double().layers.items():
            block.attention.inner_attention.register_forward_hook(see(int(name)))
        plain(tokens)
    return found


CHECKPOINTS = {"none": None, "operators": ActivationCheckpoint(mode="selective", selective_ac_option="op")}


def checkpointed(name):
    model = build()
    if CHECKPOINTS[name]:
        apply_ac(model, CHECKPOINTS[name], model_compile_enabled=True, op_sac_save_list=parallelize._op_sac_save_list)
    return model


@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
def test_the_debug_model_is_captured_as_it_is_compiled(stepwise, checkpoints, monkeypatch):
    unwatched = train(checkpointed(checkpoints), lambda step: None)
    graphs = compilations()
    forget()
    expected = {}

    def before_step(step):
        if step % EVERY == 0:
            layers = attended(model, batch(step)[0], monkeypatch)
            expected.update({(step, layer): found for layer, found in layers.items()})

    with Session(stepwise) as session:
        model = checkpointed(checkpoints)
        watch = session.watch(model, every=EVERY)
        assert train(model, before_step) == unwatched
        names = [layer.module for layer in watch.layers]
    assert names == [f"layers.{layer}.attention.inner_attention" for layer in range(6)]
    assert compilations() == graphs and not graphs[1]
    assert_right(f"torchtitan, checkpoints: {checkpoints}", session.summaries(), expected, ("qk",))
