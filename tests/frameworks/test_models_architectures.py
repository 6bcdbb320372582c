# SPDX-License-Identifier: MIT
"""Which layers of models of transformers, timm and diffusers `attnd.watch` captures, how it names them, and their numbers:
every metric of every head equals that of float64 weights. `ATTND_UPDATE_DOCS=1` with all of these tests writes the table of
the site's page."""
import os
import re
from pathlib import Path

import numpy as np
import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402
from expected import Tolerance  # noqa: E402
from session import Session, assert_captured, report, said  # noqa: E402
from zoo_models import MODELS, implementations_of, model_kind  # noqa: E402

pytest_plugins = ("one_daemon",)
PAGE = Path(__file__).parents[2] / "deploy/site/pages/models.md"
OWN_ROUNDING = {"ConvBert": Tolerance(1e-4)}  # of its convolutions, in float32
IN_TWO_TIERS = ("Mistral", "Gemma2", "Gemma3Text", "Mixtral", "GptOss", "ViT", "CLIP")


@pytest.fixture(scope="module")
def found():
    """{model: {implementation: (layers, largest error)}}, which become the table of the page when they are asked for."""
    rows = {}
    yield rows
    if os.environ.get("ATTND_UPDATE_DOCS") and len(rows) == len(MODELS):
        head = PAGE.read_text().partition("| model |")[0]
        lines = [f"| {name} | {MODELS[name].form} | {MODELS[name].special} | {next(iter(one.values()))[0]} | "
                 f"{' | '.join(f'{one[how][1]:.0e}' if how in one else '-' for how in ('eager', 'sdpa'))} |" for name, one in rows.items()]
        PAGE.write_text("\n".join([head + "| model | form | special | layers | eager | sdpa |", "|---|---|---|---|---|---|", *lines, ""]))


def kinds_of(name):
    """{implementation: a model with it}"""
    kinds = {how: model_kind(name, how) for how in implementations_of(name)}
    return kinds or pytest.skip(f"there is no {name} here")


def both(stack, path):
    """The two layers of a stack."""
    return [f"{stack} {i} self {path.format(i)}" for i in range(2)]


PLACES = ("down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1")
NAMES = {
    "UNet (diffusers)": [f"decoder {i} {site} {place}.transformer_blocks.0.{attn}"
                         for i, place in enumerate(PLACES) for site, attn in (("self", "attn1"), ("cross", "attn2"))],
    "DiT (diffusers)": both("encoder", "transformer_blocks.{}.attn1"), "ViT (timm)": both("encoder", "blocks.{}.attn"),
    "ViT": both("encoder", "layers.{}.attention"), "ModernBert": both("encoder", "layers.{}.attn"),
    "DistilBert": both("encoder", "transformer.layer.{}.attention"), "Llama": both("decoder", "layers.{}.self_attn"),
    "GPT2": both("decoder", "h.{}.attn")}


def names_of(watch):
    return [f"{layer[0]} {layer[1]} {layer[2]} {layer.module}" for layer in watch.layers]


@pytest.mark.parametrize("name", MODELS)
def test_layers_and_numbers_of_a_model_are_right(stepwise, caplog, found, name):
    found[name] = {}
    for how, kind in kinds_of(name).items():
        watch = assert_captured(stepwise, kind, steps=1, tolerance=OWN_ROUNDING.get(name, Tolerance()), tier="raw")
        found[name][how] = report[-1][1:]
        assert name not in NAMES or names_of(watch) == NAMES[name]
    assert "hybrid" in MODELS[name].special or not said(caplog)


@pytest.mark.parametrize("name", IN_TWO_TIERS)
def test_a_model_is_right_in_tier_rows_too(stepwise, name):
    for kind in kinds_of(name).values():
        assert_captured(stepwise, kind, tiers=("rows",), tier="rows")


def test_the_page_has_each_model():
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*) \| \d+ \| (\S+) \| (\S+) \|$", PAGE.read_text(), re.M)
    assert [(name, form, special.strip()) for name, form, special, _, _ in rows] == [(name, row.form, row.special) for name, row in MODELS.items()]
    for name, _, _, *errors in rows:
        there = {how: float(error) for how, error in zip(("eager", "sdpa"), errors) if error != "-"}
        assert all(error < 1e-4 for error in there.values()) and implementations_of(name) in ((), tuple(there))


SMALL = {"vocab_size": 80, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32,
         "max_position_embeddings": 80}
IN_PARTS = {"Longformer": ({"attention_window": 8}, "24 queries and 9 columns", None),
            "Longformer with global tokens": ({"attention_window": 8}, "values of 1 of its 10 columns", 1),
            "BigBird": ({"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}, "another softmax of this module has 5 axes", None),
            "Nystromformer": ({"segment_means_seq_len": 64, "num_landmarks": 8}, "multiplied with nothing but what is made of it", None)}


@pytest.mark.parametrize("include", [None, "encoder.layer.*.attention.self"])
@pytest.mark.parametrize("name", IN_PARTS)
def test_attention_in_parts_is_refused_as_a_whole_with_the_reason(stepwise, caplog, name, include):
    options, reason, seen_by_all = IN_PARTS[name]
    config = getattr(transformers, name.split()[0] + "Config")(**SMALL, **options)
    model = getattr(transformers, name.split()[0] + "Model")(config).train()
    tokens = torch.randint(80, (2, 24 if "Longformer" in name else 64))
    given = {} if seen_by_all is None else {"global_attention_mask": torch.arange(24).expand(2, -1) < seen_by_all}
    with Session(stepwise) as session:
        watch = session.watch(model, include=include, steps="manual")
        for _ in range(2):
            model(tokens, **given)[0].sum().backward()
            watch.step()
        assert watch.layers == []
    message, = (text for text in said(caplog) if "is a part of an attention" in text)
    assert "encoder.layer.0.attention.self" in message and reason in message and "include=" not in message


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
TEXT = {**TINY, "vocab_size": 64, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def of_transformers(name, **config):
    """A model with random weights."""
    return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**config)).train()


def image(side=16):
    return torch.randn(2, 3, side, side)


def tokens():
    return torch.randint(3, 62, (2, 12))


def unet():
    """Its text is as long as its image."""
    kind = kinds_of("UNet (diffusers)")["sdpa"]
    model, batch = kind.build(), kind.batch(0)
    batch["texts"] = torch.randn(len(batch["texts"]), 64, batch["texts"].shape[2])
    return model, lambda: kind.loss(model, batch)


def siglip():
    model = of_transformers("Siglip", text_config=TEXT, vision_config={**TINY, "image_size": 16, "patch_size": 4})
    return model, lambda: model(tokens(), image()).logits_per_text


def segformer():
    model = of_transformers("Segformer", hidden_sizes=[16, 32], depths=[1, 1], num_encoder_blocks=2, sr_ratios=[4, 2],
                            num_attention_heads=[2, 4], patch_sizes=[3, 3], strides=[2, 2], mlp_ratios=[2, 2])
    return model, lambda: model(image(32)).last_hidden_state


@pytest.mark.parametrize("build, expected", [
    (unet, NAMES["UNet (diffusers)"]), (segformer, [name.replace("self", "cross") for name in both("encoder", "stages.{}.blocks.0.attention")]),
    (siglip, [*both("encoder", "vision_model.encoder.layers.{}.self_attn"), "decoder 0 cross vision_model.head.attention",
              *(f"encoder {2 + i} self text_model.encoder.layers.{i}.self_attn" for i in range(2))])])
def test_layers_are_called_what_a_person_expects(stepwise, build, expected):
    model, forward = build()
    with Session(stepwise) as session:
        watch = session.watch(model, steps="manual", weights_every=0)
        forward().sum().backward()
        watch.step()
    assert names_of(watch) == expected


LINEAR, STATE_SPACE = "linear attention", "a state space model"
ONLY_OF = {"Mamba": {"state_size": 4}, "Rwkv": {"context_length": 16}}
OTHERS = {  # which layers are captured, and what is said of another one
    "Mamba": ([], "layers.0.mixer (MambaMixer", STATE_SPACE),
    "Jamba": ([1, 3], "layers.0.mamba (JambaMambaMixer", STATE_SPACE),
    "Qwen3Next": ([3], "layers.0.linear_attn (Qwen3NextGatedDeltaNet", LINEAR),
    "Rwkv": ([], "blocks.0.attention (RwkvSelfAttention", LINEAR)}


@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_weights_is_named_and_the_rest_is_captured(stepwise, caplog, name):
    captured, module, kind = OTHERS[name]
    model = model_kind(name, "eager").build() if name in MODELS else of_transformers(
        name, vocab_size=64, hidden_size=32, num_hidden_layers=2, **ONLY_OF[name])
    with Session(stepwise) as session:
        watch = session.watch(model, steps="manual", weights_every=0)
        for _ in range(2):
            model(torch.randint(3, 50, (2, 12))).last_hidden_state.sum().backward()
            watch.step()
        assert [layer[1] for layer in watch.layers] == captured
        assert watch.publisher._settings["attnd.not_captured"].startswith(f"{module.split()[0]}: {kind}")
    message, = said(caplog)
    assert f"{module}, and " in message and f") is {kind}: no softmax, no weights: not captured" in message


FOLDED = {
    "Swin": (dict(patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 4], window_size=4, drop_path_rate=0.0), (3, 32, 32)),
    "Timesformer": (dict(patch_size=8, num_frames=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=32, hidden_dropout_prob=0.0), (4, 3, 32, 32))}


@pytest.mark.parametrize("how", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FOLDED)
def test_a_sample_of_a_picture_is_all_its_windows_or_frames(stepwise, name, how):
    """The entropies of each layer are those of one picture alone, the same in all layers, another one later."""
    options, shape = FOLDED[name]
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(image_size=32, **options))
    model.set_attn_implementation(how)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(20 if parameter.dim() == 2 else 1)
    pixels, alone = torch.randn(5, *shape), []
    for picture in [*pixels[:, None], pixels]:
        with Session(stepwise) as session:
            session.watch(model, samples=1)
            for _ in range(1 if len(picture) == 1 else 6):
                model(picture).last_hidden_state.sum().backward()
                session.watches[0].step()
        alone.append(session.summaries())
    of_all, chosen = alone.pop(), set()
    for (step, layer), summary in of_all.items():
        found = summary["heads"]["entropy"]["mean"]
        near = [n for n in range(5) if np.allclose(found, alone[n][0, layer]["heads"]["entropy"]["mean"], atol=1e-5)]
        chosen.update((step, n) for n in near)
        assert len(near) == 1, (step, layer)
    assert len(chosen) == len({step for step, _ in of_all}) == 6 and len({n for _, n in chosen}) > 1
