# SPDX-License-Identifier: MIT
"""zoo_architectures: more models of Hugging Face transformers than zoo_transformers has, small and with random weights.

Weights of the reference are the attentions that a second model of the same state returns, in float64 and eager. What
may be attended to is what has a weight there.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
import transformers
from expected import Attended, Layer
from torch import nn
from zoo import BATCH, HEADS, LENGTH, WIDTH, WORDS, Batch, Kind, References, generator, in_float64, seeded
from zoo_transformers import KV_HEADS, SPECIAL, model_loss, plain_batch

WINDOW = 6  # keys a query sees, where windows slide
IMAGE = 16  # pixels of a side, in patches of 4
DECODER = {"vocab_size": WORDS, "hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": HEADS,
           "num_key_value_heads": KV_HEADS, "max_position_embeddings": 64, "use_cache": False, **SPECIAL}
TOWER = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": HEADS}
KINDS_OF_LAYERS = ["sliding_attention", "full_attention"]

Attentions = Callable[[Any], Dict[Layer, torch.Tensor]]


def of_one_stack(output: Any, stack: str = "decoder") -> Dict[Layer, torch.Tensor]:
    """{layer: weights} of a model of one stack, whose paths do not say which."""
    return {(stack, i, "self"): weights for i, weights in enumerate(output.attentions)}


def of_encoder(output: Any) -> Dict[Layer, torch.Tensor]:
    """The same of one without a causal mask."""
    return of_one_stack(output, "encoder")


def of_two_towers(output: Any) -> Dict[Layer, torch.Tensor]:
    """Of CLIP, whose two encoders are numbered in the order in which they run: images first."""
    both = (*output.vision_model_output.attentions, *output.text_model_output.attentions)
    return {("encoder", i, "self"): weights for i, weights in enumerate(both)}


def image_batch(step: int) -> Batch:
    """Images and their classes."""
    g = generator(step)
    return {"pixel_values": torch.randn(BATCH, 3, IMAGE, IMAGE, generator=g),
            "labels": torch.randint(2, (BATCH,), generator=g)}


def pair_batch(step: int) -> Batch:
    """Texts, which end with the largest token number, and images."""
    tokens = torch.randint(3, WORDS - 1, (BATCH, LENGTH), generator=generator(step))
    tokens[:, -1] = WORDS - 1
    return {"input_ids": tokens, "pixel_values": image_batch(step)["pixel_values"]}


def pair_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """How well texts and images find each other."""
    return model(**batch, return_loss=True).loss  # type: ignore[no-any-return]


def reference(build: Callable[[], nn.Module], attentions: Attentions, state: Dict[str, torch.Tensor],
              batch: Batch) -> References:
    """What the attentions of a model of this state do on a batch."""
    model = in_float64(build, state)
    given = {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}
    with torch.no_grad():
        found = attentions(model(**given, output_attentions=True))
    return {layer: attended(layer, weights.double().numpy()) for layer, weights in found.items()}


def attended(layer: Layer, weights: np.ndarray) -> Attended:
    """Of what is seen by those that have a weight, of all heads."""
    seen = (weights > 0).any(1)
    sink = bool(np.abs(weights.sum(-1) - 1).max() > 1e-3)
    return Attended(weights, None, layer[2], mask=None if seen.all() else seen, learned_sink=sink)


def architecture(name: str, kind: Any, config: Callable[[], Any], implementations: Tuple[str, ...],
                 attentions: Attentions = of_one_stack, batch: Callable[[int], Batch] = plain_batch,
                 loss: Callable[[nn.Module, Batch], torch.Tensor] = model_loss) -> List[Kind]:
    """One for each implementation of its attention."""
    def builder(implementation: str) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            made = config()
            made._attn_implementation = implementation
            made._experts_implementation = "eager"  # the grouped product of experts knows no float64
            return kind(made).train()  # type: ignore[no-any-return]

        return seeded(build)

    return [Kind(f"{name}-{implementation}", builder(implementation), batch, loss,
                 lambda state, given: reference(builder("eager"), attentions, state, given),
                 ("attention",) if implementation == "eager" else ("qk",)) for implementation in implementations]


def architecture_kinds() -> List[Kind]:
    """Windows, windows in some of the layers, softcap, sinks, experts, images, and images beside texts."""
    both = ("eager", "sdpa")
    return [
        *architecture("mistral-window", transformers.MistralForCausalLM, lambda: transformers.MistralConfig(
            num_hidden_layers=2, sliding_window=WINDOW, **DECODER), both),
        *architecture("gemma2-softcap", transformers.Gemma2ForCausalLM, lambda: transformers.Gemma2Config(
            num_hidden_layers=2, sliding_window=WINDOW, head_dim=8, layer_types=KINDS_OF_LAYERS,
            attn_logit_softcapping=2.0, **DECODER), ("eager",)),
        *architecture("gemma3-mixed", transformers.Gemma3ForCausalLM, lambda: transformers.Gemma3TextConfig(
            num_hidden_layers=2, sliding_window=WINDOW, head_dim=8, layer_types=KINDS_OF_LAYERS, **DECODER), both),
        *architecture("mixtral", transformers.MixtralForCausalLM, lambda: transformers.MixtralConfig(
            num_hidden_layers=2, num_local_experts=4, num_experts_per_tok=2, **DECODER), both),
        *architecture("gpt-oss-sinks", transformers.GptOssForCausalLM, lambda: transformers.GptOssConfig(
            num_hidden_layers=2, sliding_window=WINDOW, head_dim=8, layer_types=KINDS_OF_LAYERS, num_local_experts=4,
            num_experts_per_tok=2, **DECODER), ("eager",)),
        *architecture("vit", transformers.ViTForImageClassification, lambda: transformers.ViTConfig(
            image_size=IMAGE, patch_size=4, num_labels=2, **TOWER), both, of_encoder, image_batch),
        *architecture("clip", transformers.CLIPModel, lambda: transformers.CLIPConfig(
            text_config={**TOWER, "vocab_size": WORDS, "max_position_embeddings": LENGTH, "eos_token_id": WORDS - 1,
                         "bos_token_id": 1, "pad_token_id": 0},
            vision_config={**TOWER, "image_size": IMAGE, "patch_size": 4}, projection_dim=16), both, of_two_towers,
            pair_batch, pair_loss)]
