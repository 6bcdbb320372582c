# SPDX-License-Identifier: MIT
"""zoo_models: models of Hugging Face transformers, a row each, small and with random weights; zoo_images has those of timm
and diffusers.

Weights of the reference are the attentions that a second model of the same state returns, in float64 and eager. What
may be attended to is what has a weight there. Left out are models whose returned attentions are none of one softmax
(SqueezeBert: logits; WavLM: means over heads; Funnel: pooled queries), and DiffLlama, which attends twice by one map.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple, Union

import numpy as np
import torch
import transformers
from expected import Attended, Layer
from torch import nn
from zoo import (BATCH, HEADS, LENGTH, SOURCE_LENGTH, WIDTH, WORDS, Batch, Kind, References, doubled, generator, in_float64,
                 seeded)
from zoo_images import PICTURES, Picture
from zoo_transformers import KV_HEADS, SPECIAL, of_two_stacks

WINDOW = 6  # keys a query sees, where windows slide
IMAGE = 16  # pixels of a side, in patches of 4
TOWER = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": HEADS}
TEXT = {**TOWER, "vocab_size": WORDS, "max_position_embeddings": 64, **SPECIAL}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "attention_dropout": 0.0, "dropout": 0.0}
OF_GPT2 = {"n_embd": WIDTH, "n_layer": 2, "n_head": HEADS, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
           "attn_pdrop": 0.0}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 12,
          "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
          "first_k_dense_replace": 1, "num_key_value_heads": HEADS}
EXPERT_GROUPS = {name: LATENT[name] for name in ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_group",
                                                "topk_group", "first_k_dense_replace")}
MAMBA = {"num_hidden_layers": 4, "mamba_d_state": 8}
TWO_STACKS = {"d_model": WIDTH, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
              "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "activation_dropout": 0.0, "encoder_layerdrop": 0.0,
              "decoder_layerdrop": 0.0, "decoder_start_token_id": 2}
SPEECH = {**TOWER, "conv_dim": (16, 16), "conv_stride": (4, 2), "conv_kernel": (8, 4), "num_feat_extract_layers": 2,
          "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0, "layerdrop": 0.0,
          "hidden_dropout": 0.0, "feat_proj_dropout": 0.0, "activation_dropout": 0.0}


class Form(NamedTuple):
    """How a family of models is made, fed and read."""
    defaults: Dict[str, Any]
    batch: Callable[[int], Batch]
    weights: Callable[[Any, Sequence[int]], Dict[Layer, torch.Tensor]]


def words(step: int, length: int = LENGTH) -> torch.Tensor:
    """Tokens [B, length]."""
    return torch.randint(3, WORDS, (BATCH, length), generator=generator(step))


def in_order(stack: str) -> Callable[[Any, Sequence[int]], Dict[Layer, torch.Tensor]]:
    """The attentions of one stack, of which only some layers have one."""
    def weights(output: Any, layers: Sequence[int]) -> Dict[Layer, torch.Tensor]:
        found = [one for one in output.attentions if one is not None]
        return dict(zip([(stack, i, "self") for i in layers or range(len(found))], found))

    return weights


def of_two_towers(output: Any, layers: Sequence[int]) -> Dict[Layer, torch.Tensor]:
    """The attentions of CLIP, whose two encoders are numbered in the order in which they run: images first."""
    both = (*output.vision_model_output.attentions, *output.text_model_output.attentions)
    return {("encoder", i, "self"): weights for i, weights in enumerate(both)}


def pairs(step: int) -> Batch:
    """Texts, which end with the largest token number, and images."""
    tokens = words(step)
    tokens[:, -1] = WORDS - 1
    return {"input_ids": tokens, "pixel_values": pixels(step)}


def pixels(step: int) -> torch.Tensor:
    """Images [B, 3, IMAGE, IMAGE]."""
    return torch.randn(BATCH, 3, IMAGE, IMAGE, generator=generator(step))


FORMS = {
    "decoder": Form({**TEXT, **NO_DROPOUT, "num_key_value_heads": KV_HEADS, "use_cache": False}, lambda step: {"input_ids": words(step)}, in_order("decoder")),
    "encoder": Form({**TEXT, **NO_DROPOUT},
                    lambda step: {"input_ids": words(step)}, in_order("encoder")),
    "two stacks": Form({**SPECIAL, **NO_DROPOUT, **TWO_STACKS, "vocab_size": WORDS, "max_position_embeddings": 64, "use_cache": False},
                       lambda step: {"input_ids": words(step, SOURCE_LENGTH), "decoder_input_ids": words(step)}, of_two_stacks),
    "image": Form({**TOWER, **NO_DROPOUT, "image_size": IMAGE, "patch_size": 4}, lambda step: {"pixel_values": pixels(step)},
                  in_order("encoder")),
    "two towers": Form({"text_config": {**TEXT, "max_position_embeddings": LENGTH, "eos_token_id": WORDS - 1},
                        "vision_config": {**TOWER, "image_size": IMAGE, "patch_size": 4}, "projection_dim": 16}, pairs, of_two_towers),
    "speech": Form({**SPEECH, **NO_DROPOUT}, lambda step: {"input_values": torch.randn(BATCH, 200, generator=generator(step))},
                   in_order("encoder")),
    "sound": Form({**TOWER, **NO_DROPOUT, "patch_size": 4, "frequency_stride": 4, "time_stride": 4, "max_length": 24, "num_mel_bins": 16},
                  lambda step: {"input_values": torch.randn(BATCH, 24, 16, generator=generator(step))}, in_order("encoder")),
    "moving images": Form({**TOWER, **NO_DROPOUT, "image_size": IMAGE, "patch_size": 4, "num_frames": 4, "tubelet_size": 2},
                          lambda step: {"pixel_values": torch.randn(BATCH, 4, 3, IMAGE, IMAGE, generator=generator(step))}, in_order("encoder")),
    "speech, two stacks": Form({**SPECIAL, **NO_DROPOUT, **TWO_STACKS, "vocab_size": WORDS, "num_mel_bins": 8, "max_source_positions": 12,
                                "max_target_positions": 64, "use_cache": False},
                               lambda step: {"input_features": torch.randn(BATCH, 8, 24, generator=generator(step)),
                                             "decoder_input_ids": words(step)}, of_two_stacks),
}


class Row(NamedTuple):
    """A model: its form, what is special about its attention, what its config has beyond that of the form (None: not even
    that), which layers attend, where not all do, and whether its other implementations leave something out."""
    form: str
    special: str = ""
    config: Dict[str, Any] = {}
    layers: Sequence[int] = ()
    eager_only: bool = False


def rows_of(form: str) -> Callable[..., Row]:
    """Makes the rows of models of a form."""
    return lambda special="", layers=(), eager_only=False, **config: Row(form, special, config, layers, eager_only)


decoder, encoder, image, two_stacks, speech = map(rows_of, ("decoder", "encoder", "image", "two stacks", "speech"))
SLIDES = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
OF_T5 = {"d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": HEADS, "dropout_rate": 0.0, "decoder_start_token_id": 0}
MODELS: Dict[str, Union[Row, Picture]] = {
    "Apertus": decoder("QK-norm"),
    "Arcee": decoder(),
    "Bamba": decoder("hybrid with Mamba 2", (1, 3), **MAMBA, attn_layer_indices=[1, 3], mamba_n_heads=8, mamba_d_head=8),
    "BitNet": decoder(),
    "Bloom": decoder("ALiBi", n_layer=2, n_head=HEADS, hidden_dropout=0.0),
    "CodeGen": decoder(**OF_GPT2, n_ctx=64, rotary_dim=4),
    "Cohere": decoder(),
    "Cohere2": decoder("windows", **SLIDES),
    "DeepseekV2": decoder("latent", **LATENT, topk_method="greedy", norm_topk_prob=False),
    "DeepseekV3": decoder("latent", **LATENT),
    "Doge": decoder("learned mask"),
    "Dots1": decoder("experts", head_dim=8, n_shared_experts=1, **EXPERT_GROUPS),
    "Ernie4_5": decoder(head_dim=8),
    "Exaone4": decoder("windows", **SLIDES),
    "Falcon": decoder(hidden_dropout=0.0),
    "FlexOlmo": decoder("experts", **EXPERTS),
    "GPT2": decoder(**OF_GPT2),
    "GPTBigCode": decoder("one key head", **OF_GPT2),
    "GPTJ": decoder(**OF_GPT2, rotary_dim=4),
    "GPTNeo": decoder("windows", num_layers=2, num_heads=HEADS, attention_types=[[["global", "local"], 1]], window_size=WINDOW,
                      embed_dropout=0.0, resid_dropout=0.0),
    "GPTNeoX": decoder(hidden_dropout=0.0),
    "Gemma": decoder(head_dim=8),
    "Gemma2": decoder("windows, softcap", head_dim=8, attn_logit_softcapping=2.0, eager_only=True, **SLIDES),
    "Gemma3Text": decoder("windows, QK-norm", head_dim=8, **SLIDES),
    "Glm": decoder(head_dim=8),
    "Glm4": decoder(head_dim=8),
    "GptOss": decoder("windows, learned sinks", head_dim=8, num_local_experts=2, num_experts_per_tok=2, **SLIDES),
    "Granite": decoder(),
    "GraniteMoe": decoder("experts", num_local_experts=4, num_experts_per_tok=2),
    "Helium": decoder(head_dim=8),
    "HunYuanDenseV1": decoder("QK-norm", head_dim=8),
    "Jamba": decoder("hybrid with Mamba", (1, 3), **MAMBA, attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_dt_rank=4),
    "Lfm2": decoder("hybrid with convolutions", (1,), layer_types=["conv", "full_attention"]),
    "Llama": decoder(),
    "Llama4Text": decoder("chunks", head_dim=8, num_local_experts=4, attention_chunk_size=WINDOW, intermediate_size_mlp=64),
    "MiniMax": decoder("hybrid with linear attention", (0,), num_local_experts=4, head_dim=8,
                       layer_types=["full_attention", "linear_attention"]),
    "Mistral": decoder("windows", sliding_window=WINDOW),
    "Mixtral": decoder("experts", num_local_experts=4, num_experts_per_tok=2),
    "Mpt": decoder("ALiBi", d_model=WIDTH, n_heads=HEADS, n_layers=2, max_seq_len=64),
    "Nemotron": decoder(),
    "OPT": decoder(ffn_dim=64, word_embed_proj_dim=WIDTH),
    "Olmo": decoder(),
    "Olmo2": decoder("QK-norm"),
    "Olmo3": decoder("windows", **SLIDES),
    "Olmoe": decoder("experts", num_experts=4, num_experts_per_tok=2),
    "Persimmon": decoder(hidden_dropout=0.0),
    "Phi": decoder(resid_pdrop=0.0),
    "Phi3": decoder(),
    "Phimoe": decoder("experts", num_local_experts=4, router_jitter_noise=0.0, input_jitter_noise=0.0),
    "Qwen2": decoder(),
    "Qwen2Moe": decoder("experts", **EXPERTS, shared_expert_intermediate_size=16),
    "Qwen3": decoder("QK-norm", head_dim=8),
    "Qwen3Moe": decoder("experts, QK-norm", head_dim=8, **EXPERTS),
    "Qwen3Next": decoder("hybrid with linear attention", (3,), num_hidden_layers=4, head_dim=8, linear_num_value_heads=4,
                         linear_num_key_heads=2, linear_key_head_dim=8, linear_value_head_dim=8, **EXPERTS,
                         shared_expert_intermediate_size=16),
    "SmolLM3": decoder(),
    "StableLm": decoder(),
    "Starcoder2": decoder(residual_dropout=0.0, embedding_dropout=0.0),
    "Albert": encoder(embedding_size=16),
    "Bert": encoder(),
    "Camembert": encoder(),
    "ConvBert": encoder("beside convolutions"),
    "Data2VecText": encoder(),
    "Deberta": encoder("positions in the logits", relative_attention=True, pos_att_type=["p2c", "c2p"]),
    "DebertaV2": encoder("positions in the logits", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    "DistilBert": encoder(dim=WIDTH, n_layers=2, n_heads=HEADS, hidden_dim=64),
    "Electra": encoder(embedding_size=WIDTH),
    "Ernie": encoder(),
    "Esm": encoder("proteins", position_embedding_type="rotary", mask_token_id=5, token_dropout=False),
    "EuroBert": encoder(),
    "IBert": encoder(),
    "JinaEmbeddingsV3": encoder("retrieval"),
    "LayoutLM": encoder(),
    "MPNet": encoder("biases of positions"),
    "MegatronBert": encoder(),
    "ModernBert": encoder("windows", local_attention=2 * WINDOW, global_attn_every_n_layers=2, cls_token_id=1, sep_token_id=2,
                          embedding_dropout=0.0, mlp_dropout=0.0),
    "NomicBert": encoder("retrieval"),
    "RemBert": encoder(),
    "RoFormer": encoder(),
    "Roberta": encoder(),
    "XLMRoberta": encoder(),
    "XLMRobertaXL": encoder(),
    "Bart": two_stacks(),
    "BlenderbotSmall": two_stacks(),
    "M2M100": two_stacks(),
    "MBart": two_stacks(),
    "MT5": two_stacks("biases of positions", **OF_T5),
    "Marian": two_stacks(),
    "Mvp": two_stacks(),
    "PLBart": two_stacks(),
    "Pegasus": two_stacks(),
    "T5": two_stacks("biases of positions", **OF_T5),
    "UMT5": two_stacks("biases of positions", **OF_T5),
    "Beit": image("biases of positions"),
    "DINOv3ViT": image(drop_path_rate=0.0, pos_embed_rescale=1.0),
    "DPT": image(),
    "DeiT": image(),
    "Dinov2": image(mlp_ratio=2, drop_path_rate=0.0),
    "Dinov2WithRegisters": image("registers", mlp_ratio=2),
    "IJepa": image(),
    "Swin": image("windows", num_attention_heads=None, hidden_size=None, embed_dim=8, depths=[1, 1], num_heads=[2, 4], window_size=2,
                  drop_path_rate=0.0),
    "ViT": image(),
    "ViTMSN": image(),
    "Yolos": image(image_size=[IMAGE, IMAGE]),
    **PICTURES,
    "VideoMAE": Row("moving images"),
    "CLIP": Row("two towers", "retrieval"),
    "AST": Row("sound"),
    "Data2VecAudio": speech(conv_pos_kernel_size=3),
    "Hubert": speech(),
    "SEW": speech(squeeze_factor=1),
    "UniSpeech": speech(),
    "UniSpeechSat": speech(),
    "Wav2Vec2": speech(),
    "Wav2Vec2Conformer": speech("beside convolutions", conformer_conv_dropout=0.0, conv_depthwise_kernel_size=3),
    "Whisper": Row("speech, two stacks"),
}


def reference(build: Callable[[], nn.Module], row: Row, state: Dict[str, torch.Tensor], batch: Batch) -> References:
    """The attentions of a model of this state on a batch."""
    model = in_float64(build, state)
    with torch.no_grad():
        found = FORMS[row.form].weights(model(**doubled(batch), output_attentions=True), row.layers)
    return {layer: attended(layer, weights.double().numpy()) for layer, weights in found.items()}


def attended(layer: Layer, weights: np.ndarray) -> Attended:
    """By weights: what is seen are keys that have a weight, of all heads."""
    seen = (weights > 0).any(1)
    sink = bool(np.abs(weights.sum(-1) - 1).max() > 1e-3)
    return Attended(weights, None, layer[2], mask=None if seen.all() else seen, learned_sink=sink)


def loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """How well each vector that comes out tells its place, by its largest number."""
    vectors = model(**batch)[0].flatten(0, -2)
    return nn.functional.cross_entropy(vectors, torch.arange(len(vectors)) % vectors.shape[-1])


def implementations_of(name: str) -> Tuple[str, ...]:
    """The implementations of its attention that a model has, and that compute the same; none: this release lacks the model."""
    if name in PICTURES:
        return PICTURES[name].implementations
    if not hasattr(transformers, f"{name}Model"):
        return ()
    both = getattr(transformers, f"{name}Model")._supports_sdpa and not MODELS[name].eager_only
    return ("eager", "sdpa") if both else ("eager",)


def model_kind(name: str, implementation: str) -> Kind:
    """A model that is to be trained."""
    if name in PICTURES:
        return PICTURES[name].kind(name, implementation)
    row = MODELS[name]
    given = {key: value for key, value in {**FORMS[row.form].defaults, **row.config}.items() if value is not None}

    def builder(implementation: str) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            config = getattr(transformers, f"{name}Config")(**given)
            config._attn_implementation = implementation
            config._experts_implementation = "eager"  # the grouped product of experts knows no float64
            return getattr(transformers, f"{name}Model")(config).train()  # type: ignore[no-any-return]

        return seeded(build)

    return Kind(f"{name}-{implementation}", builder(implementation), FORMS[row.form].batch, loss,
                lambda state, batch: reference(builder("eager"), row, state, batch), ("qk", "attention"))
