# SPDX-License-Identifier: MIT
"""zoo_transformers: the models of Hugging Face transformers, small and with random weights.

Weights of the reference are what a second model of the same state, in float64 and with eager attention, returns as its
attentions. Logits, which it does not return, follow from what its projections gave; that both agree is checked.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
import transformers
from expected import Attended, Layer
from torch import nn
from zoo import (BATCH, HEADS, LENGTH, SOURCE_LENGTH, SOURCE_LENGTHS, WIDTH, WORDS, Batch, Kind, References, generator,
                 in_float64, products, right_padding, seeded, softmax, split, triangle)

transformers.logging.set_verbosity_error()

KV_HEADS = 2
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def config_of(name: str, dropout: float = 0.0, **more: Any) -> Any:
    """The config of a small one."""
    if name == "gpt2":
        return transformers.GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=WIDTH, n_layer=3, n_head=HEADS,
                                       resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, use_cache=False,
                                       bos_token_id=1, eos_token_id=2, **more)
    if name == "llama":
        return transformers.LlamaConfig(vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=64, use_cache=False,
                                        num_hidden_layers=3, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
                                        max_position_embeddings=64, attention_dropout=dropout, **SPECIAL, **more)
    if name == "bert":
        return transformers.BertConfig(vocab_size=WORDS, hidden_size=WIDTH, num_hidden_layers=2,
                                       num_attention_heads=HEADS, intermediate_size=64, max_position_embeddings=LENGTH,
                                       hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, **more)
    if name == "bart":
        return transformers.BartConfig(vocab_size=WORDS, d_model=WIDTH, encoder_layers=2, decoder_layers=2,
                                       encoder_attention_heads=HEADS, decoder_attention_heads=HEADS,
                                       encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=LENGTH,
                                       dropout=dropout, attention_dropout=dropout, use_cache=False,
                                       decoder_start_token_id=2, forced_eos_token_id=None, **SPECIAL, **more)
    return transformers.T5Config(vocab_size=WORDS, d_model=WIDTH, d_kv=8, d_ff=64, num_layers=2, num_heads=HEADS,
                                 dropout_rate=dropout, use_cache=False, relative_attention_num_buckets=8,
                                 relative_attention_max_distance=16, decoder_start_token_id=0, pad_token_id=0,
                                 eos_token_id=2, **more)


CLASSES: Dict[str, Any] = {
    "gpt2": transformers.GPT2LMHeadModel, "llama": transformers.LlamaForCausalLM,
    "bert": transformers.BertForMaskedLM, "bart": transformers.BartForConditionalGeneration,
    "t5": transformers.T5ForConditionalGeneration}


def builder(name: str, implementation: str, **options: Any) -> Callable[[], nn.Module]:
    """Makes the model with the given attention implementation, in training mode."""
    def build() -> nn.Module:
        return CLASSES[name](config_of(name, attn_implementation=implementation, **options)).train()

    return seeded(build)


def own_kernel(module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
               attention_mask: Optional[torch.Tensor], scaling: float, position_bias: Optional[torch.Tensor] = None,
               **kwargs: Any) -> Tuple[torch.Tensor, None]:
    """An attention function as users register them, of nothing that tells of attention by itself."""
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    logits = query @ key.mT * scaling + (0 if position_bias is None else position_bias)
    if attention_mask is None and module.is_causal:
        attention_mask = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask, -1e9)
    weights = (logits - logits.amax(-1, keepdim=True)).exp()
    return (weights / weights.sum(-1, keepdim=True) @ value).transpose(1, 2).contiguous(), None


transformers.AttentionInterface.register("own-kernel", own_kernel)
transformers.AttentionMaskInterface.register("own-kernel", transformers.masking_utils.sdpa_mask)


# ------------------------------------------------------------------------------------------------- batches

def plain_batch(step: int) -> Batch:
    """Tokens [B, T], all of them there."""
    tokens = torch.randint(3, WORDS, (BATCH, LENGTH), generator=generator(step))
    return {"input_ids": tokens, "labels": tokens}


def padded_batch(step: int, left: bool = False) -> Batch:
    """Tokens [B, T] of different lengths. `left`: padding is before the text."""
    there = right_padding()
    mask = torch.from_numpy(there[:, ::-1].copy() if left else there).long()
    batch = plain_batch(step)
    return {"input_ids": batch["input_ids"] * mask, "attention_mask": mask,
            "labels": batch["labels"].masked_fill(mask == 0, -100)}


def source_batch(step: int) -> Batch:
    """Padded sources [B, 20] and targets [B, 24]."""
    g = generator(step)
    mask = torch.from_numpy(right_padding(SOURCE_LENGTHS, SOURCE_LENGTH)).long()
    return {"input_ids": torch.randint(3, WORDS, (BATCH, SOURCE_LENGTH), generator=g) * mask, "attention_mask": mask,
            "labels": torch.randint(3, WORDS, (BATCH, LENGTH), generator=g)}


def model_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """As the model computes it."""
    return model(**batch).loss


# -------------------------------------------------------------------------------------------------- logits

def rotated(x: np.ndarray, theta: float = 10000.0) -> np.ndarray:
    """Rotary position encoding of [B, H, T, d]: the halves of a vector are the two parts of complex numbers."""
    length, half = x.shape[-2], x.shape[-1] // 2
    angle = np.arange(length)[:, None] * theta**(-np.arange(half) / half)[None, :]
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], -1)


def projected(name: str, model: nn.Module) -> Callable[[], Dict[Layer, np.ndarray]]:
    """Records a forward; then gives the logits, without the mask, of each layer."""
    made: Dict[Layer, Dict[str, torch.Tensor]] = {layer: {} for layer in attentions(name, model)}
    paths = PROJECTIONS[name][:1 if name == "gpt2" else 2]  # of queries, then of keys
    for layer, module in attentions(name, model).items():
        for path in paths:
            module.get_submodule(path).register_forward_hook(
                lambda m, args, output, layer=layer, path=path: made[layer].update({path: output}))
    return lambda: {layer: logits_of(name, [parts[path] for path in paths]) for layer, parts in made.items()}


def logits_of(name: str, parts: List[torch.Tensor]) -> np.ndarray:
    """[B, H, Tq, Tk] of what one layer's projections gave."""
    q, k = parts[0].chunk(3, -1)[:2] if name == "gpt2" else parts
    queries, keys = split(q, HEADS), split(k, KV_HEADS if name == "llama" else HEADS)
    if name == "llama":
        queries, keys = rotated(queries), rotated(keys)
    return products(queries, keys, 1.0 if name == "t5" else None)


# Names in an attention of queries, keys, values and outputs; GPT-2 has the first three in one.
PROJECTIONS = {"gpt2": ("c_attn", "c_proj"), "llama": ("q_proj", "k_proj", "v_proj", "o_proj"),
               "bert": ("self.query", "self.key", "self.value", "output.dense"),
               "bart": ("q_proj", "k_proj", "v_proj", "out_proj"), "t5": ("q", "k", "v", "o")}


def attentions(name: str, model: nn.Module) -> Dict[Layer, nn.Module]:
    """{layer: its attention}, in the words of the summaries."""
    if name in ("gpt2", "llama", "bert"):
        layers = {"gpt2": "transformer.h", "llama": "model.layers", "bert": "bert.encoder.layer"}[name]
        path = {"gpt2": "attn", "llama": "self_attn", "bert": "attention"}[name]
        stack = "encoder" if name == "bert" else "decoder"
        return {(stack, i, "self"): layer.get_submodule(path) for i, layer in enumerate(model.get_submodule(layers))}
    found: Dict[Layer, nn.Module] = {}
    for stack in ("encoder", "decoder"):
        layers, paths = (f"{stack}.block", ("layer.0.SelfAttention", "layer.1.EncDecAttention")) if name == "t5" else \
            (f"model.{stack}.layers", ("self_attn", "encoder_attn"))
        for i, layer in enumerate(model.get_submodule(layers)):
            for site, path in zip(("self",) if stack == "encoder" else ("self", "cross"), paths):
                found[(stack, i, site)] = layer.get_submodule(path)
    return found


# ---------------------------------------------------------------------------------------------- references

def of_two_stacks(output: Any, *_: Any) -> Dict[Layer, torch.Tensor]:
    """{layer: the weights} that an eager encoder with a decoder returned."""
    lists = {("encoder", "self"): output.encoder_attentions, ("decoder", "self"): output.decoder_attentions,
             ("decoder", "cross"): output.cross_attentions}
    return {(stack, i, site): weights for (stack, site), several in lists.items() for i, weights in enumerate(several)}


def reference(name: str, state: Dict[str, torch.Tensor], batch: Batch) -> References:
    """What the attentions of a model of this state do on a batch."""
    model = in_float64(builder(name, "eager"), state)
    if "attention_mask" in batch and not batch["attention_mask"][:, 0].all():
        model.float()  # rows that see nothing become NaN in float64: the softmax narrows what masks them to -inf
    logits_when_done = projected(name, model)
    with torch.no_grad():
        output = model(**batch, output_attentions=True)
    if name in ("bart", "t5"):
        returned = of_two_stacks(output)
    else:
        returned = {("encoder" if name == "bert" else "decoder", i, "self"): x for i, x in enumerate(output.attentions)}
    weights = {layer: x.detach().double().numpy() for layer, x in returned.items()}
    logits = logits_when_done()
    if name == "t5":
        logits = {layer: x + t5_bias(model, layer, x.shape) for layer, x in logits.items()}
    assert logits.keys() == weights.keys()
    mask = batch.get("attention_mask")
    return {layer: checked(described(weights[layer], logits[layer], layer, mask)) for layer in weights}


def t5_bias(model: nn.Module, layer: Layer, shape: Tuple[int, ...]) -> np.ndarray:
    """[H, Tq, Tk] that T5 adds to the logits of self-attention: that of the stack's first layer."""
    stack, _, site = layer
    if site == "cross":
        return np.zeros(shape[1:])
    module = getattr(model, stack).block[0].layer[0].SelfAttention
    return module.compute_bias(*shape[-2:])[0].detach().numpy()


def described(weights: np.ndarray, logits: np.ndarray, layer: Layer, mask: Optional[torch.Tensor]) -> Attended:
    """With the mask that the batch implies. Padding on the left is told by a mask, on the right by lengths."""
    stack, _, site = layer
    causal = (stack, site) == ("decoder", "self")
    translator = weights.shape[-1] == SOURCE_LENGTH or weights.shape[-2] != weights.shape[-1]
    if mask is None or (causal and mask.shape[1] != weights.shape[-1]) or (translator and causal):
        return Attended(weights, logits, site, causal)
    there = mask.bool().numpy()
    lengths = there.sum(1)
    if (there == right_padding(tuple(lengths), there.shape[1])).all():
        return Attended(weights, logits, site, causal, lengths.tolist() if site == "self" else None, lengths.tolist())
    return Attended(weights, logits, site, causal, mask=there[:, :, None] & there[:, None, :])


def checked(attended: Attended) -> Attended:
    """Whose weights are the softmax of its logits, where queries are valid."""
    keys = attended.weights.shape[-1]
    seen = np.ones(attended.weights[:, 0].shape, bool)
    valid = np.ones(seen.shape[:2], bool)
    if attended.causal:
        seen &= triangle(*seen.shape[1:])
    if attended.k_len is not None:
        seen &= right_padding(tuple(attended.k_len), keys)[:, None, :]
    if attended.q_len is not None:
        valid = right_padding(tuple(attended.q_len), seen.shape[1])
    if attended.mask is not None:
        seen &= attended.mask
        valid = attended.mask.any(-1)
    again = softmax(attended.logits, seen[:, None])
    # Softmax and rotations are in float32 whatever the model is.
    assert np.abs(again - attended.weights).max(axis=(1, 3))[valid].max() < 1e-5
    return attended


BATCHES: Dict[str, Dict[str, Callable[[int], Batch]]] = {
    "gpt2": {"": plain_batch, "-right-padded": padded_batch, "-left-padded": lambda step: padded_batch(step, left=True)},
    "llama": {"": plain_batch, "-left-padded": lambda step: padded_batch(step, left=True)},
    "bert": {"": plain_batch, "-right-padded": padded_batch},
    "bart": {"": source_batch},
    "t5": {"": source_batch},
}


def transformers_kind(name: str, implementation: str, batch: str = "", **options: Any) -> Kind:
    """A model of transformers. Where nothing but logits and a mask make its weights, both travel as tier qk."""
    eager = implementation == "eager"
    tiers = ("qk", "attention") if eager or name == "t5" else ("qk",)
    return Kind(f"{name}{batch}-{implementation}", builder(name, implementation, **options), BATCHES[name][batch],
                model_loss, lambda state, given: reference(name, state, given), tiers)


def transformers_kinds() -> List[Kind]:
    """Every model, eager and fused, with and without padding; and by a kernel that is seen as it is called only."""
    return [transformers_kind(name, implementation, batch) for name, batches in BATCHES.items()
            for batch in batches for implementation in ("eager", "sdpa", "own-kernel")]
