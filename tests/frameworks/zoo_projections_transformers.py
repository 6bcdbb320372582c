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
from zoo_transformers import KV_HEADS, transformers_kind

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


def of_llama(layer: Any) -> Matrices:
    it = layer.self_attn
    return of_linears(it.q_proj, it.k_proj, it.v_proj, it.o_proj)


def of_bert(model: nn.Module) -> Found:
    return {("encoder", i, "self"): of_linears(x.attention.self.query, x.attention.self.key, x.attention.self.value,
                                               x.attention.output.dense)
            for i, x in enumerate(model.bert.encoder.layer)}


def of_t5(model: nn.Module) -> Found:
    found: Found = {}
    for stack in ("encoder", "decoder"):
        for i, block in enumerate(getattr(model, stack).block):
            sites = {"self": block.layer[0].SelfAttention}
            if stack == "decoder":
                sites["cross"] = block.layer[1].EncDecAttention
            found.update({(stack, i, site): of_linears(x.q, x.k, x.v, x.o) for site, x in sites.items()})
    return found


def of_bart(model: nn.Module) -> Found:
    found: Found = {}
    for stack in ("encoder", "decoder"):
        for i, layer in enumerate(getattr(model.model, stack).layers):
            sites = {"self": layer.self_attn, **({"cross": layer.encoder_attn} if stack == "decoder" else {})}
            found.update({(stack, i, site): of_linears(x.q_proj, x.k_proj, x.v_proj, x.out_proj)
                          for site, x in sites.items()})
    return found


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
    llama = of_decoder(lambda m: m.model.layers, of_llama)
    return [*(Projected(transformers_kind("gpt2", how), gpt2) for how in ("eager", "sdpa")),
            *(Projected(transformers_kind("llama", how), llama) for how in ("eager", "sdpa")),
            Projected(model_kind("Mixtral", "sdpa"), of_decoder(lambda m: m.layers, of_llama)),
            Projected(transformers_kind("bert", "sdpa"), of_bert),
            Projected(transformers_kind("bart", "sdpa"), of_bart), Projected(transformers_kind("t5", "eager"), of_t5),
            *fused_kinds()]
