# SPDX-License-Identifier: MIT
"""zoo_projections_transformers: the same of models of Hugging Face transformers, among them those whose matrices are
fused: GPT-2 (transposed), GPT-NeoX and BLOOM (head by head), Phi-3 (with fewer heads of keys), ModernBERT."""
from __future__ import annotations

from typing import Any, Callable, List

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
