# SPDX-License-Identifier: MIT
"""zoo_projections_transformers: projections of models of Hugging Face transformers, among them those whose matrices are
fused: GPT-2 (transposed), GPT-NeoX and BLOOM (head by head), Phi-3 (with fewer heads of keys), ModernBERT."""
from __future__ import annotations

from typing import Any, Callable, Dict, List

import torch
import transformers
from torch import nn
from zoo import HEADS, LENGTH, WIDTH, WORDS
from zoo_architectures import DECODER, TOWER, architecture_kinds, architecture
from zoo_projections import Found, Matrices, Projected, numbers, of_linears
from zoo_transformers import KV_HEADS, SPECIAL, transformers_kind

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
    """Models that are in no other zoo; their attention is looked at elsewhere."""
    tower = {**TOWER, "vocab_size": WORDS}
    bloom = transformers.BloomConfig(vocab_size=WORDS, hidden_size=WIDTH, n_layer=2, n_head=HEADS, use_cache=False)
    modern = transformers.ModernBertConfig(max_position_embeddings=LENGTH, cls_token_id=1, sep_token_id=2,
                                           **tower, **SPECIAL)
    return [
        Projected(architecture("gpt-neox", transformers.GPTNeoXForCausalLM, lambda: transformers.GPTNeoXConfig(
            max_position_embeddings=LENGTH, use_cache=False, **tower), ("sdpa",))[0],
            of_decoder(lambda m: m.gpt_neox.layers,
                       lambda x: by_head(x.attention.query_key_value.weight, x.attention.dense.weight))),
        Projected(architecture("bloom", transformers.BloomForCausalLM, lambda: bloom, ("eager",))[0], of_decoder(
            lambda m: m.transformer.h,
            lambda x: by_head(x.self_attention.query_key_value.weight, x.self_attention.dense.weight))),
        Projected(architecture("phi3", transformers.Phi3ForCausalLM, lambda: transformers.Phi3Config(
            num_hidden_layers=2, **DECODER), ("sdpa",))[0], of_decoder(
                lambda m: m.model.layers,
                lambda x: in_turn(x.self_attn.qkv_proj.weight, x.self_attn.o_proj.weight, KV_HEADS))),
        Projected(architecture("modernbert", transformers.ModernBertForMaskedLM, lambda: modern, ("sdpa",))[0], of_decoder(
            lambda m: m.model.layers, lambda x: in_turn(x.attn.Wqkv.weight, x.attn.Wo.weight), "encoder"))]


def of_latent(model: nn.Module) -> Found:
    """W_v of both factors and the norm's scale, and W_o, of DeepSeek-V3."""
    found: Found = {}
    for i, layer in enumerate(model.model.layers):
        it = layer.self_attn
        b = it.kv_b_proj.weight.view(HEADS, -1, it.kv_lora_rank)[:, it.qk_nope_head_dim:].reshape(-1, it.kv_lora_rank)
        v = (b * it.kv_a_layernorm.weight) @ it.kv_a_proj_with_mqa.weight[:it.kv_lora_rank]
        found[("decoder", i, "self")] = {"wv": v.detach().double().numpy(), "wo": it.o_proj.weight.detach().double().numpy()}
    return found


def of_gated(model: nn.Module) -> Found:
    """Of the last layer of Qwen3-Next, whose q_proj has the query of each head and then its gate."""
    it = model.model.layers[3].self_attn
    q = it.q_proj.weight.view(HEADS, 2, it.head_dim, -1)[:, 0].reshape(HEADS * it.head_dim, -1)
    return {("decoder", 3, "self"): numbers(q, it.k_proj.weight, it.v_proj.weight, it.o_proj.weight)}


def partly_sent() -> Dict[str, Projected]:
    """Models some of whose matrices have to be made, and the names of those that are not sent."""
    experts = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
    latent = {"kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12, "first_k_dense_replace": 2}
    linear = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
    return {
        "latent": Projected(architecture("deepseek", transformers.DeepseekV3ForCausalLM, lambda: transformers.DeepseekV3Config(
            num_hidden_layers=2, q_lora_rank=16, n_routed_experts=4, n_group=2, topk_group=1, **latent, **experts,
            **{**DECODER, "num_key_value_heads": HEADS}), ("sdpa",))[0], of_latent),
        **{how: Projected(architecture("qwen3-next", transformers.Qwen3NextForCausalLM, lambda: transformers.Qwen3NextConfig(
            num_hidden_layers=4, head_dim=8, num_experts=4, shared_expert_intermediate_size=16, **linear, **experts, **DECODER),
            (how,))[0], of_gated) for how in ("sdpa", "eager")}}


def transformers_projected() -> List[Projected]:
    """All of them."""
    gpt2 = of_decoder(lambda m: m.transformer.h, lambda x: in_turn(x.attn.c_attn.weight.T, x.attn.c_proj.weight.T))
    llama = of_decoder(lambda m: m.model.layers, of_llama)
    moe = next(kind for kind in architecture_kinds() if kind.name == "mixtral-sdpa")
    return [*(Projected(transformers_kind("gpt2", how), gpt2) for how in ("eager", "sdpa")),
            *(Projected(transformers_kind("llama", how), llama) for how in ("eager", "sdpa")),
            Projected(moe, llama), Projected(transformers_kind("bert", "sdpa"), of_bert),
            Projected(transformers_kind("bart", "sdpa"), of_bart), Projected(transformers_kind("t5", "eager"), of_t5),
            *fused_kinds()]
