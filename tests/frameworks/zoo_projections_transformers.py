# SPDX-License-Identifier: MIT
"""zoo_projections_transformers: projections of models of Hugging Face transformers, among them those whose matrices are
fused: GPT-2 (transposed), GPT-NeoX and BLOOM (head by head), Phi-3 (with fewer heads of keys), ModernBERT."""
from __future__ import annotations

from typing import Any, Callable, Dict, List

import torch
from torch import nn
from zoo import HEADS, WIDTH
from zoo_models import model_kind
from zoo_projections import Found, Matrices, Projected, numbers, of_linears
from zoo_transformers import KV_HEADS, PROJECTIONS, attentions, transformers_kind

D = WIDTH // HEADS


def in_turn(fused: torch.Tensor, out: torch.Tensor, kv_heads: int = HEADS) -> Matrices:
    """Rows of all queries, then keys, then values."""
    return numbers(*fused.split([HEADS * D, kv_heads * D, kv_heads * D]), out)


def by_head(fused: torch.Tensor, out: torch.Tensor) -> Matrices:
    """Rows of each head's query, key and value."""
    return numbers(*(fused[[h * 3 * D + part * D + i for h in range(HEADS) for i in range(D)]] for part in range(3)), out)


def of_decoder(layers: Callable[[nn.Module], Any], matrices: Callable[[Any], Matrices],
               stack: str = "decoder") -> Callable[[nn.Module], Found]:
    """Of a model of one stack whose paths do not say which."""
    return lambda model: {(stack, i, "self"): matrices(layer) for i, layer in enumerate(layers(model))}


def of_kind(name: str) -> Callable[[nn.Module], Found]:
    """Of a model of zoo_transformers with a matrix for each."""
    return lambda model: {layer: of_parts(name, module) for layer, module in attentions(name, model).items()}


def of_parts(name: str, attention: nn.Module) -> Matrices:
    return of_linears(*(attention.get_submodule(path) for path in PROJECTIONS[name]))


def fused_kinds() -> List[Projected]:
    """Models whose queries, keys and values are made by one matrix."""
    return [
        Projected(model_kind("GPTNeoX", "sdpa"), of_decoder(lambda m: m.layers, lambda x: by_head(
            x.attention.query_key_value.weight, x.attention.dense.weight))),
        Projected(model_kind("Bloom", "eager"), of_decoder(lambda m: m.h, lambda x: by_head(
            x.self_attention.query_key_value.weight, x.self_attention.dense.weight))),
        Projected(model_kind("Phi3", "sdpa"), of_decoder(lambda m: m.layers, lambda x: in_turn(
            x.self_attn.qkv_proj.weight, x.self_attn.o_proj.weight, KV_HEADS))),
        Projected(model_kind("ModernBert", "sdpa"), of_decoder(lambda m: m.layers, lambda x: in_turn(
            x.attn.Wqkv.weight, x.attn.Wo.weight), "encoder"))]


def of_latent(model: nn.Module) -> Found:
    """W_v of both factors and the norm's scale, and W_o, of DeepSeek-V3."""
    found: Found = {}
    for i, layer in enumerate(model.layers):
        it = layer.self_attn
        b = it.kv_b_proj.weight.view(HEADS, -1, it.kv_lora_rank)[:, it.qk_nope_head_dim:].reshape(-1, it.kv_lora_rank)
        v = (b * it.kv_a_layernorm.weight) @ it.kv_a_proj_with_mqa.weight[:it.kv_lora_rank]
        found[("decoder", i, "self")] = {"wv": v.detach().double().numpy(), "wo": it.o_proj.weight.detach().double().numpy()}
    return found


def of_gated(model: nn.Module) -> Found:
    """Of the last layer of Qwen3-Next, whose q_proj has the query of each head and then its gate."""
    it = model.layers[3].self_attn
    q = it.q_proj.weight.view(HEADS, 2, it.head_dim, -1)[:, 0].reshape(HEADS * it.head_dim, -1)
    return {("decoder", 3, "self"): numbers(q, it.k_proj.weight, it.v_proj.weight, it.o_proj.weight)}


def partly_sent() -> Dict[str, Projected]:
    """Models some of whose matrices have to be made, and the names of those that are not sent."""
    return {"latent": Projected(model_kind("DeepseekV3", "sdpa"), of_latent),
            **{how: Projected(model_kind("Qwen3Next", how), of_gated) for how in ("sdpa", "eager")}}


def transformers_projected() -> List[Projected]:
    """All of them."""
    gpt2 = of_decoder(lambda m: m.transformer.h, lambda x: in_turn(x.attn.c_attn.weight.T, x.attn.c_proj.weight.T))
    separate = (("llama", "eager"), ("llama", "sdpa"), ("bert", "sdpa"), ("bart", "sdpa"), ("t5", "eager"))
    return [*(Projected(transformers_kind("gpt2", how), gpt2) for how in ("eager", "sdpa")),
            *(Projected(transformers_kind(name, how), of_kind(name)) for name, how in separate),
            Projected(model_kind("Mixtral", "sdpa"), of_decoder(lambda m: m.layers, lambda x: of_parts("llama", x.self_attn))),
            *fused_kinds()]
