# SPDX-License-Identifier: MIT
"""Which layers of models of transformers, timm and diffusers `attnd.watch` captures, how it names them, and their numbers:
every metric of every head equals that of float64 weights. `ATTND_UPDATE_DOCS=1` with all of these tests writes the table of
the site's page."""
import os
import re
from pathlib import Path

import pytest

transformers = pytest.importorskip("transformers")
import torch  # noqa: E402
from expected import Tolerance  # noqa: E402
from session import Session, assert_right, expected_of, report, train  # noqa: E402
from zoo_images import has  # noqa: E402
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


def assert_trained_right(stepwise, kind, tier, tolerance=Tolerance(), steps=1):
    """All of a model's layers; how many there are, and the largest error."""
    model = kind.build()
    with Session(stepwise) as session:
        session.watch(model, tier=tier)
        trained = list(train(model, kind, steps))
    assert_right(f"{kind.name}, {tier}", session.summaries(), expected_of(kind, trained),
                 ("state",) if tier == "state" else kind.tiers, tolerance)
    return report[-1][1:]


@pytest.mark.parametrize("name", MODELS)
def test_layers_and_numbers_of_a_model_are_right(stepwise, caplog, found, name):
    found[name] = {how: assert_trained_right(stepwise, kind, "raw", OWN_ROUNDING.get(name, Tolerance()))
                   for how, kind in kinds_of(name).items()}
    assert "hybrid" in MODELS[name].special or not [record for record in caplog.records if record.name == "attnd"]


@pytest.mark.parametrize("name", IN_TWO_TIERS)
def test_a_model_is_right_in_tier_state_too(stepwise, name):
    for kind in kinds_of(name).values():
        assert_trained_right(stepwise, kind, "state", steps=2)


def test_the_page_has_each_model():
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]*) \| \d+ \| (\S+) \| (\S+) \|$", PAGE.read_text(), re.M)
    assert [(name, form, special.strip()) for name, form, special, _, _ in rows] == [(name, row.form, row.special) for name, row in MODELS.items()]
    for name, _, _, *errors in rows:
        there = {how: float(error) for how, error in zip(("eager", "sdpa"), errors) if error != "-"}
        assert max(there.values()) < 1e-4 and implementations_of(name) in ((), tuple(there))


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
    said = [record.getMessage() for record in caplog.records if record.name == "attnd" and "is a part of an attention" in record.getMessage()]
    assert len(said) == 1 and "encoder.layer.0.attention.self" in said[0] and reason in said[0] and "include=" not in said[0]


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
TEXT = {**TINY, "vocab_size": 64, "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
IMAGE = {**TINY, "image_size": 16, "patch_size": 4}
UNET = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (32, 64), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 16, "attention_head_dim": 8, "norm_num_groups": 8}
DIT = {"num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "num_layers": 2, "sample_size": 8, "patch_size": 2,
       "num_embeds_ada_norm": 10, "norm_num_groups": 8}


def of_transformers(name, softmax=False, **config):
    """A model with random weights."""
    made = getattr(transformers, f"{name}Config")(**config)
    made._attn_implementation = "eager" if softmax else "sdpa"
    return getattr(transformers, f"{name}Model")(made)


def image(side=16, channels=3):
    return torch.randn(2, channels, side, side)


def tokens():
    return torch.randint(3, 62, (2, 12))


def unet(context, softmax=False):
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.UNet2DConditionModel(**UNET)
    if softmax:
        model.set_attn_processor(diffusers.models.attention_processor.AttnProcessor())
    return model, lambda: model(image(8, 4), 3, torch.randn(2, context, 16)).sample


def dit():
    model = pytest.importorskip("diffusers").DiTTransformer2DModel(**DIT)
    return model, lambda: model(image(8, 4), timestep=torch.tensor([1, 2]), class_labels=torch.tensor([1, 2])).sample


def timm_vit(softmax=False):
    if not has("timm"):
        pytest.skip("timm is not installed")
    import timm
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=4)
    for block in model.blocks:
        block.attn.fused_attn = not softmax
    return model, lambda: model(image(32))


def reads(model, *given, output="last_hidden_state", **named):
    return model, lambda: model(*given, **named)[output]


def siglip():
    return reads(of_transformers("Siglip", text_config=TEXT, vision_config=IMAGE), tokens(), image(), output="logits_per_text")


def segformer():
    return reads(of_transformers("Segformer", hidden_sizes=[16, 32], depths=[1, 1], num_encoder_blocks=2, num_attention_heads=[2, 4], sr_ratios=[4, 2],
                                 patch_sizes=[3, 3], strides=[2, 2], mlp_ratios=[2, 2]), image(32))


def both(stack, path, count=2):
    return [f"{stack} {i} self {path.format(i)}" for i in range(count)]


PLACES = ("down_blocks.0.attentions.0", "mid_block.attentions.0", "up_blocks.1.attentions.0", "up_blocks.1.attentions.1")
OF_UNET = [f"decoder {i} {site} {place}.transformer_blocks.0.{attn}"
           for i, place in enumerate(PLACES) for site, attn in (("self", "attn1"), ("cross", "attn2"))]
NAMES = {
    "unet": (lambda: unet(7), OF_UNET), "unet, as long a text": (lambda: unet(64), OF_UNET), "unet by softmax": (lambda: unet(7, True), OF_UNET),
    "dit": (dit, both("encoder", "transformer_blocks.{}.attn1")),
    "timm": (timm_vit, both("encoder", "blocks.{}.attn")), "timm by softmax": (lambda: timm_vit(True), both("encoder", "blocks.{}.attn")),
    "vit": (lambda: reads(of_transformers("ViT", **IMAGE), image()), both("encoder", "layers.{}.attention")),
    "modernbert": (lambda: reads(of_transformers("ModernBert", local_attention=4, cls_token_id=1, sep_token_id=2, **TEXT), tokens()),
                   both("encoder", "layers.{}.attn")),
    "modernbert by softmax": (lambda: reads(of_transformers("ModernBert", True, local_attention=4, cls_token_id=1, sep_token_id=2, **TEXT), tokens()),
                              both("encoder", "layers.{}.attn")),
    "distilbert": (lambda: reads(of_transformers("DistilBert", vocab_size=64, dim=32, n_layers=2, n_heads=4, hidden_dim=64), tokens(),
                                 attention_mask=torch.arange(12) < torch.tensor([[12], [7]])), both("encoder", "transformer.layer.{}.attention")),
    "segformer": (segformer, both("encoder", "stages.{}.blocks.0.attention")),
    "two towers": (siglip, [*both("encoder", "vision_model.encoder.layers.{}.self_attn"), "decoder 0 cross vision_model.head.attention",
                            "encoder 2 self text_model.encoder.layers.0.self_attn", "encoder 3 self text_model.encoder.layers.1.self_attn"]),
    "llama": (lambda: reads(of_transformers("Llama", True, **TEXT), tokens()), both("decoder", "layers.{}.self_attn")),
    "gpt2": (lambda: reads(of_transformers("GPT2", vocab_size=64, n_positions=16, n_embd=32, n_layer=2, n_head=4), tokens()),
             both("decoder", "h.{}.attn"))}


@pytest.mark.parametrize("name", NAMES)
def test_layers_are_called_what_a_person_expects(stepwise, name):
    build, expected = NAMES[name]
    model, forward = build()
    model.train()
    with Session(stepwise) as session:
        watch = session.watch(model, steps="manual", weights_every=0)
        forward().sum().backward()
        watch.step()
        assert [f"{layer[0]} {layer[1]} {layer[2]} {layer.module}" for layer in watch.layers] == expected


OF_HYBRID = {**TINY, "num_hidden_layers": 4, "vocab_size": 64, "num_key_value_heads": 2}
LINEAR, STATE_SPACE = "linear attention", "a state space model"
OTHERS = {
    "Mamba": ({"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, [], "layers.0.mixer (MambaMixer", STATE_SPACE),
    "Jamba": ({**OF_HYBRID, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 4, "mamba_dt_rank": 4},
              [1, 3], "layers.0.mamba (JambaMambaMixer", STATE_SPACE),
    "Qwen3Next": ({**OF_HYBRID, "head_dim": 8, "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8,
                   "linear_value_head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                   "shared_expert_intermediate_size": 16}, [3], "layers.0.linear_attn (Qwen3NextGatedDeltaNet", LINEAR),
    "Rwkv": ({"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "context_length": 16}, [],
             "blocks.0.attention (RwkvSelfAttention", LINEAR)}


@pytest.mark.parametrize("name", OTHERS)
def test_what_has_no_weights_is_named_and_the_rest_is_captured(stepwise, caplog, name):
    config, captured, module, kind = OTHERS[name]
    model = of_transformers(name, True, **config).train()
    with Session(stepwise) as session:
        watch = session.watch(model, steps="manual", weights_every=0)
        for _ in range(2):
            model(tokens()).last_hidden_state.sum().backward()
            watch.step()
        assert [layer[1] for layer in watch.layers] == captured
        assert watch.publisher._settings["attnd.not_captured"].startswith(f"{module.split()[0]}: {kind}")
    message, = (record.getMessage() for record in caplog.records if record.name == "attnd")
    assert f"{module}, and " in message and f") is {kind}: no softmax, no weights: not captured" in message
