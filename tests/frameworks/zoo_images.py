# SPDX-License-Identifier: MIT
"""zoo_images: models of timm and diffusers, a row each, small and with random weights.

Weights of the reference are those of a second model of the same state, in float64, by the definition (explicit.py). Rows say
which layer each of its attentions is, in their order.
"""
from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from expected import Attended, Layer
from explicit import recording
from torch import nn
from zoo import BATCH, Batch, Kind, References, doubled, generator, in_float64, seeded

SIDE = 32  # pixels of an image of timm, in patches of 8
LATENT = 8  # of one of diffusers
TEXT = (7, 16)  # tokens of a text that images are made of, and their width
_beside = os.path.join(sys.prefix, "timm")  # where deploy/frameworks has it, with its torchvision
_operators: List[Any] = []


def has(package: str) -> bool:
    """Whether it can be imported, which is made so of timm. Its torchvision may be one for another torch, whose operators
    torch does not load. timm calls none; two have to be declared."""
    if package == "timm" and not _operators and os.path.isdir(_beside):
        sys.path.append(_beside)
        declared = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _operators.append(declared)
    return importlib.util.find_spec(package) is not None


class Picture(NamedTuple):
    """A model of images: its form and what is special about its attention; the package it is from; how it is made; how it is
    given a batch; which layer each call of attention is; and how it is made to attend by a softmax, if it can."""
    form: str
    special: str
    package: str
    build: Callable[[], nn.Module]
    forward: Callable[[nn.Module, Batch], torch.Tensor]
    layers: Sequence[Layer]
    by_softmax: Optional[Callable[[nn.Module], None]] = None

    @property
    def implementations(self) -> Tuple[str, ...]:
        """Those that there are here; none: the package is missing."""
        return () if not has(self.package) else ("sdpa",) if self.by_softmax is None else ("eager", "sdpa")

    def kind(self, name: str, implementation: str) -> Kind:
        """The model as one that is to be trained."""
        def build() -> nn.Module:
            model = self.build()
            if implementation == "eager":
                self.by_softmax(model)
            return model.train()

        return Kind(f"{name}-{implementation}", seeded(build), batch, lambda model, given: loss(self.forward(model, given)),
                    lambda state, given: self._reference(state, given), ("qk", "attention"))

    def _reference(self, state: Dict[str, torch.Tensor], given: Batch) -> References:
        model = in_float64(seeded(lambda: self.build().train()), state)
        with recording() as calls, torch.no_grad():
            self.forward(model, doubled(given))
        assert len(calls) == len(self.layers), f"{len(calls)} calls of attention"
        return {layer: Attended(call.weights.numpy(), None, layer[2]) for layer, call in zip(self.layers, calls)}


def batch(step: int) -> Batch:
    """Images, latent images, texts and times."""
    source = generator(step)
    return {"images": torch.randn(BATCH, 3, SIDE, SIDE, generator=source), "latents": torch.randn(BATCH, 4, LATENT, LATENT, generator=source),
            "texts": torch.randn(BATCH, *TEXT, generator=source), "pooled": torch.randn(BATCH, TEXT[1], generator=source),
            "times": torch.randint(1, 9, (BATCH,), generator=source)}


def loss(vectors: torch.Tensor) -> torch.Tensor:
    """How far they are from being a pattern."""
    return (vectors - torch.linspace(-1, 1, vectors[0].numel()).view(vectors.shape[1:])).square().mean()


def encoder(count: int) -> List[Layer]:
    """The layers of a stack that attends to itself."""
    return [("encoder", index, "self") for index in range(count)]


def timm_row(special: str, name: str, count: int = 2, **options: Any) -> Picture:
    """A row of a model of timm."""
    def build() -> nn.Module:
        import timm
        model = timm.create_model(name, img_size=SIDE, num_classes=4, **options)
        fuse(model)
        return model  # type: ignore[no-any-return]

    def fuse(model: nn.Module, fused: bool = True) -> None:
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = fused

    def by_softmax(model: nn.Module) -> None:
        fuse(model, False)

    return Picture("image", special, "timm", build, lambda model, given: model(given["images"]), encoder(count), by_softmax)


def diffusers_row(special: str, name: str, layers: Sequence[Layer], forward: Callable[[nn.Module, Batch], Any], processor: bool = False,
                  **options: Any) -> Picture:
    """A row of a model of diffusers. `processor`: it can attend by a softmax."""
    def build() -> nn.Module:
        import diffusers
        model = getattr(diffusers, name)(**options)
        for module in model.modules():
            if hasattr(module, "dropout_prob"):  # of labels, drawn anew in each forward
                module.dropout_prob = 0.0
        return model  # type: ignore[no-any-return]

    def by_softmax(model: nn.Module) -> None:
        from diffusers.models.attention_processor import AttnProcessor
        for module in model.modules():
            if hasattr(module, "set_processor"):
                module.set_processor(AttnProcessor())

    return Picture("diffusion", special, "diffusers", build, lambda model, given: forward(model, given).sample, layers,
                   by_softmax if processor else None)


def both_sites(stack: str, count: int) -> List[Layer]:
    """The layers of a stack that attends to itself and to a text."""
    return [(stack, index, site) for index in range(count) for site in ("self", "cross")]


def flux(model: nn.Module, given: Batch) -> Any:
    """Each place of the latent images is a token."""
    tokens = given["latents"].flatten(2).transpose(1, 2)
    places = torch.cartesian_prod(torch.zeros(1), torch.arange(float(LATENT)), torch.arange(float(LATENT)))
    return model(tokens, given["texts"], given["pooled"], given["times"] / 10, places, torch.zeros(TEXT[0], 3))


def stable_audio(model: nn.Module, given: Batch) -> Any:
    """Each place of the latent images is a moment of sound."""
    from diffusers.models.embeddings import get_1d_rotary_pos_embed
    places = get_1d_rotary_pos_embed(4, LATENT**2 + 1, use_real=True, repeat_interleave_real=False)
    return model(given["latents"].flatten(2), given["times"], given["texts"], given["pooled"].unsqueeze(1), places)


OF_TRANSFORMER = {"num_layers": 2, "num_attention_heads": 4, "attention_head_dim": 8, "in_channels": 4, "sample_size": LATENT, "patch_size": 2}
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 4, "patch_size": 8}
PICTURES: Dict[str, Picture] = {
    "ViT (timm)": timm_row("", "vit_tiny_patch16_224", **VIT),
    "ViT with registers (timm)": timm_row("registers, QK-norm", "vit_tiny_patch16_224", **VIT, reg_tokens=4, qk_norm=True),
    "BEiT (timm)": timm_row("biases of positions", "beit_base_patch16_224", **VIT),
    "EVA-02 (timm)": timm_row("", "eva02_tiny_patch14_224", **VIT),
    "Swin (timm)": timm_row("windows", "swin_tiny_patch4_window7_224", embed_dim=8, depths=(1, 1), num_heads=(2, 4), window_size=4),
    "UNet (diffusers)": diffusers_row(
        "text", "UNet2DConditionModel", both_sites("decoder", 4), lambda model, given: model(given["latents"], given["times"], given["texts"]),
        True, sample_size=LATENT, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT[1], attention_head_dim=8, norm_num_groups=8),
    "DiT (diffusers)": diffusers_row(
        "", "DiTTransformer2DModel", encoder(2), lambda model, given: model(given["latents"], timestep=given["times"], class_labels=given["times"]),
        True, **OF_TRANSFORMER, num_embeds_ada_norm=10, norm_num_groups=8),
    "PixArt (diffusers)": diffusers_row(
        "text", "PixArtTransformer2DModel", both_sites("decoder", 2),
        lambda model, given: model(given["latents"], given["texts"], given["times"], {"resolution": None, "aspect_ratio": None}),
        True, **OF_TRANSFORMER, cross_attention_dim=32, caption_channels=TEXT[1], norm_num_groups=8, use_additional_conditions=False),
    "Flux (diffusers)": diffusers_row(
        "text beside the image", "FluxTransformer2DModel", encoder(2), flux, num_layers=1, num_single_layers=1, num_attention_heads=4,
        attention_head_dim=8, in_channels=4, patch_size=1, joint_attention_dim=TEXT[1], pooled_projection_dim=TEXT[1], axes_dims_rope=(2, 2, 4)),
    "Wan (diffusers)": diffusers_row(
        "text, moving images", "WanTransformer3DModel", both_sites("decoder", 2),
        lambda model, given: model(given["latents"].unsqueeze(2), given["times"], given["texts"]), num_layers=2, num_attention_heads=4,
        attention_head_dim=12, in_channels=4, out_channels=4, text_dim=TEXT[1], freq_dim=16, ffn_dim=64),
    "Stable Audio (diffusers)": diffusers_row(
        "text, sound", "StableAudioDiTModel", both_sites("decoder", 2), stable_audio, num_layers=2, num_attention_heads=4,
        num_key_value_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, sample_size=LATENT,
        cross_attention_dim=TEXT[1], cross_attention_input_dim=TEXT[1], global_states_input_dim=TEXT[1], time_proj_dim=16),
    "SD3 (diffusers)": diffusers_row(
        "text beside the image", "SD3Transformer2DModel", encoder(2),
        lambda model, given: model(given["latents"], given["texts"], given["pooled"], given["times"]), **OF_TRANSFORMER,
        joint_attention_dim=TEXT[1], caption_projection_dim=32, pooled_projection_dim=TEXT[1], pos_embed_max_size=8),
}
