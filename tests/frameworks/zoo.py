# SPDX-License-Identifier: MIT
"""zoo: small models with random weights, and what their attentions do, computed independently in float64.

A reference is a second model of the same kind and weights, in float64, that nobody watches: what goes into its
attentions is recorded, and logits and weights follow from it by the definition. Here are models written by hand and
torch's own; those of transformers are in zoo_transformers.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from expected import Attended, Layer
from torch import nn
from torch.utils.checkpoint import checkpoint

try:
    from torch.nn.functional import scaled_dot_product_attention
except ImportError:  # torch 1.13
    scaled_dot_product_attention = None

BATCH, LENGTH, WIDTH, HEADS, WORDS = 3, 24, 32, 4, 50
LENGTHS = (24, 17, 9)  # of the samples, where there is padding

Batch = Dict[str, torch.Tensor]
References = Dict[Layer, Attended]


@dataclass
class Kind:
    """A kind of model.

    build       a new one, the same weights every time
    batch       the inputs of a step
    loss        a scalar from the model and a batch
    reference   what the attentions of a model with the given state do on a batch
    tiers       as what its attention may travel
    """
    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[int], Batch]
    loss: Callable[[nn.Module, Batch], torch.Tensor]
    reference: Callable[[Dict[str, torch.Tensor], Batch], References]
    tiers: Tuple[str, ...] = ("qk",)


def seeded(build: Callable[[], nn.Module], seed: int = 5) -> Callable[[], nn.Module]:
    """`build`, from a seed of its own; weights larger than usual, so that heads are not all alike."""
    def make() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = build()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() > 1:
                        parameter.normal_(0, 0.25)
        return model

    return make


def generator(step: int) -> torch.Generator:
    """For the batch of a step."""
    return torch.Generator().manual_seed(1000 + step)


def in_float64(build: Callable[[], nn.Module], state: Dict[str, torch.Tensor]) -> nn.Module:
    """A second model, of the given weights."""
    model = build()
    model.load_state_dict(state)
    return model.double()


def doubled(batch: Batch) -> Batch:
    """Numbers in float64; token numbers and masks as they are."""
    return {name: x.double() if x.is_floating_point() else x for name, x in batch.items()}


def softmax(logits: np.ndarray, seen: Optional[np.ndarray]) -> np.ndarray:
    """[B, H, Tq, Tk] over what is seen, [B or 1, 1, Tq or 1, Tk]; rows that see nothing are 0."""
    if seen is not None:
        logits = np.where(seen, logits, -np.inf)
    most = logits.max(-1, keepdims=True)
    exps = np.exp(logits - np.where(np.isfinite(most), most, 0))
    total = exps.sum(-1, keepdims=True)
    return exps / np.where(total > 0, total, 1)


def split(x: torch.Tensor, heads: int) -> np.ndarray:
    """[B, T, H * d] as [B, H, T, d]."""
    batch, length, width = x.shape
    return x.detach().double().view(batch, length, heads, width // heads).transpose(1, 2).numpy()


def products(q: np.ndarray, k: np.ndarray, scale: Optional[float] = None) -> np.ndarray:
    """Logits of q [B, H, Tq, d] and k [B, Hkv, Tk, d]; key heads are shared by neighbours."""
    k = np.repeat(k, q.shape[1] // k.shape[1], axis=1)
    return q @ k.swapaxes(-1, -2) * (q.shape[-1]**-0.5 if scale is None else scale)


def triangle(queries: int, keys: Optional[int] = None) -> np.ndarray:
    """bool [Tq, Tk]: key j is not after query i."""
    return np.tri(queries, keys or queries, dtype=bool)


def right_padding(lengths: Tuple[int, ...] = LENGTHS, length: int = LENGTH) -> np.ndarray:
    """bool [B, T]: true where there is something."""
    return np.arange(length)[None, :] < np.array(lengths)[:, None]


# ------------------------------------------------------------------------------------------ written by hand

def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """By the name of its module, as most code does."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)


def fused_imported(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """By a name that was bound before anybody could replace the function."""
    return scaled_dot_product_attention(q, k, v, None, dropout, True)


def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """softmax(q k^T), step by step."""
    return F.dropout(causal_logits(q, k).softmax(-1), dropout) @ v


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, dropout: float = 0.0) -> torch.Tensor:
    """Without any function that tells of attention; says itself what it did."""
    import attnd
    weights = causal_logits(q, k).exp()
    weights = weights / weights.sum(-1, keepdim=True)
    attnd.publish_attention(weights, causal=True)
    return F.dropout(weights, dropout) @ v


def causal_logits(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """[B, H, T, T], -inf where a key is after the query."""
    later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    return (q @ k.transpose(-1, -2) * q.shape[-1]**-0.5).masked_fill(later, -torch.inf)


Attend = Callable[..., torch.Tensor]


class Attention(nn.Module):
    """One projection for queries, keys and values."""

    def __init__(self, attend: Attend, dropout: float = 0.0):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.attend, self.dropout = attend, dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.view(*x.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = self.attend(q, k, v, self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to what came in."""

    def __init__(self, attend: Attend, dropout: float):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(WIDTH), Attention(attend, dropout)
        self.mlp = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(),
                                 nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(dropout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm(x))
        return x + self.mlp(x)


class CheckpointedBlock(Block):
    """Is run again in the backward pass."""
    reentrant = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=self.reentrant)


class ReentrantBlock(CheckpointedBlock):
    """The older way, whose first run has no gradients."""
    reentrant = True


class Decoder(nn.Module):
    """A language model of few words."""

    def __init__(self, attend: Attend = fused, layers: int = 3, dropout: float = 0.0):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(Block(attend, dropout) for _ in range(layers))
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places.weight[:tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def token_batch(step: int) -> Batch:
    """{"tokens": [B, T]}."""
    return {"tokens": torch.randint(WORDS, (BATCH, LENGTH), generator=generator(step))}


def next_token_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross entropy of each token given those before it."""
    tokens = batch["tokens"]
    logits = model(tokens)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def decoder_reference(model: nn.Module, batch: Batch) -> References:
    """Of a Decoder of any number of layers, as it is."""
    made: List[torch.Tensor] = []
    for block in model.blocks:
        block.attn.qkv.register_forward_hook(lambda module, args, output: made.append(output))
    model(batch["tokens"])
    return {("decoder", i, "self"): causal_attended(*(split(part, HEADS) for part in qkv.chunk(3, -1)[:2]))
            for i, qkv in enumerate(made)}


def causal_attended(q: np.ndarray, k: np.ndarray, scale: Optional[float] = None) -> Attended:
    """Causal self-attention of queries [B, H, T, d] and keys."""
    logits = products(q, k, scale)
    return Attended(softmax(logits, triangle(*logits.shape[-2:])), logits, causal=True)


def decoder_kind(name: str, attend: Attend, tiers: Tuple[str, ...] = ("qk",), **options: Any) -> Kind:
    """A Decoder whose attention is computed by `attend`. All of them give the same, so the reference is eager."""
    build = seeded(lambda: Decoder(attend, **options))
    plain = seeded(lambda: Decoder(eager, **{**options, "dropout": 0.0}))
    return Kind(name, build, token_batch, next_token_loss,
                lambda state, batch: decoder_reference(in_float64(plain, state), batch), tiers)


# ------------------------------------------------------------------------------------------- torch's own

def recorded(module: nn.MultiheadAttention) -> List[Tuple[torch.Tensor, torch.Tensor]]:
    """(query, key), each [B, T, D], of the calls that will come."""
    calls: List[Tuple[torch.Tensor, torch.Tensor]] = []
    original = module.forward

    def forward(query: torch.Tensor, key: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        calls.append((query, key) if module.batch_first else (query.transpose(0, 1), key.transpose(0, 1)))
        return original(query, key, *args, **kwargs)

    module.forward = forward  # type: ignore[method-assign]
    return calls


def multihead_logits(module: nn.MultiheadAttention, query: torch.Tensor, key: torch.Tensor) -> np.ndarray:
    """[B, H, Tq, Tk] by the module's weights."""
    if module.in_proj_weight is None:
        wq, wk = module.q_proj_weight, module.k_proj_weight
    else:
        wq, wk, _ = module.in_proj_weight.chunk(3)
    bq, bk, _ = module.in_proj_bias.chunk(3)
    return products(split(F.linear(query, wq, bq), module.num_heads), split(F.linear(key, wk, bk), module.num_heads))


SOURCE_LENGTH = 20
SOURCE_LENGTHS = (20, 13, 6)


class Translator(nn.Module):
    """nn.Transformer, from tokens to tokens, with padding on both sides and a causal target."""

    def __init__(self, dropout: float = 0.0, batch_first: bool = True):
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.core = nn.Transformer(WIDTH, HEADS, 2, 2, 2 * WIDTH, dropout=dropout, batch_first=batch_first)
        self.head = nn.Linear(WIDTH, WORDS)
        self.batch_first = batch_first

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens) + self.places.weight[:tokens.shape[1]]
        return x if self.batch_first else x.transpose(0, 1)

    def forward(self, source: torch.Tensor, target: torch.Tensor, source_padding: torch.Tensor,
                target_padding: torch.Tensor) -> torch.Tensor:
        later = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        x = self.core(self.embed(source), self.embed(target), tgt_mask=later, src_key_padding_mask=source_padding,
                      memory_key_padding_mask=source_padding, tgt_key_padding_mask=target_padding)
        return self.head(x if self.batch_first else x.transpose(0, 1))


def translation_batch(step: int) -> Batch:
    """Sources [B, 20] and targets [B, 24] with their padding, true where there is nothing."""
    g = generator(step)
    return {"source": torch.randint(WORDS, (BATCH, SOURCE_LENGTH), generator=g),
            "target": torch.randint(WORDS, (BATCH, LENGTH), generator=g),
            "source_padding": torch.from_numpy(~right_padding(SOURCE_LENGTHS, SOURCE_LENGTH)),
            "target_padding": torch.from_numpy(~right_padding())}


def translation_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross entropy of the target's tokens, each given those before it."""
    logits, target = model(**batch), batch["target"]
    there = ~batch["target_padding"][:, 1:]
    return F.cross_entropy(logits[:, :-1][there].float(), target[:, 1:][there])


def translator_attentions(model: nn.Module) -> Dict[Layer, nn.MultiheadAttention]:
    """{layer: its attention} of a Translator."""
    found = {("encoder", i, "self"): layer.self_attn for i, layer in enumerate(model.core.encoder.layers)}
    for i, layer in enumerate(model.core.decoder.layers):
        found[("decoder", i, "self")], found[("decoder", i, "cross")] = layer.self_attn, layer.multihead_attn
    return found


def translation_reference(model: nn.Module, batch: Batch) -> References:
    """Of a Translator, as it is."""
    modules = translator_attentions(model)
    calls = {layer: recorded(module) for layer, module in modules.items()}
    model(**batch)
    return {layer: padded_attended(multihead_logits(modules[layer], *calls[layer][0]), layer,
                                   SOURCE_LENGTHS if layer != ("decoder", layer[1], "self") else LENGTHS, LENGTHS)
            for layer in modules}


def padded_attended(logits: np.ndarray, layer: Layer, k_len: Tuple[int, ...],
                    crossing: Optional[Tuple[int, ...]] = None) -> Attended:
    """Attention over right-padded keys. What is padding asks nothing; a decoder's self-attention is causal.
    `crossing`: the queries' lengths in cross-attention, where they are known."""
    stack, _, site = layer
    queries, keys = logits.shape[-2:]
    causal = (stack, site) == ("decoder", "self")
    seen = right_padding(k_len, keys)[:, None, None, :] & (triangle(queries) if causal else True)
    return Attended(softmax(logits, seen), logits, site, causal, k_len if site == "self" else crossing, k_len)


def transformer_kind(name: str = "nn.Transformer", **options: Any) -> Kind:
    """torch.nn.Transformer."""
    build = seeded(lambda: Translator(**options))
    plain = seeded(lambda: Translator(**{**options, "dropout": 0.0}))
    return Kind(name, build, translation_batch, translation_loss,
                lambda state, batch: translation_reference(in_float64(plain, state), batch), ("qk", "attention"))


class Multihead(nn.Module):
    """nn.MultiheadAttention called directly: self and cross, with keys and values of other widths."""

    def __init__(self, need_weights: bool, batch_first: bool = True):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first)
        self.cross_attn = nn.MultiheadAttention(WIDTH, HEADS, kdim=20, vdim=12, batch_first=batch_first)
        self.asked = {} if need_weights else {"need_weights": False}
        self.batch_first = batch_first

    def forward(self, x: torch.Tensor, keys: torch.Tensor, values: torch.Tensor,
                keys_padding: torch.Tensor) -> torch.Tensor:
        if not self.batch_first:
            x, keys, values = (part.transpose(0, 1) for part in (x, keys, values))
        y, weights = self.self_attn(x, x, x, **self.asked)
        z, _ = self.cross_attn(x + y, keys, values, key_padding_mask=keys_padding, **self.asked)
        assert (weights is None) == bool(self.asked) and (weights is None or weights.dim() == 3)
        return z


def multihead_batch(step: int) -> Batch:
    """x [B, 24, 32], keys [B, 20, 20], values [B, 20, 12]; keys are padded."""
    g = generator(step)
    return {"x": torch.randn(BATCH, LENGTH, WIDTH, generator=g),
            "keys": torch.randn(BATCH, SOURCE_LENGTH, 20, generator=g),
            "values": torch.randn(BATCH, SOURCE_LENGTH, 12, generator=g),
            "keys_padding": torch.from_numpy(~right_padding(SOURCE_LENGTHS, SOURCE_LENGTH))}


def multihead_reference(model: nn.Module, batch: Batch) -> References:
    """Of a Multihead, as it is."""
    calls = recorded(model.self_attn), recorded(model.cross_attn)
    model(**doubled(batch))
    inner, outer = (multihead_logits(module, *call[0])
                    for module, call in zip((model.self_attn, model.cross_attn), calls))
    return {("decoder", 0, "self"): Attended(softmax(inner, None), inner),
            ("decoder", 0, "cross"): padded_attended(outer, ("decoder", 0, "cross"), SOURCE_LENGTHS)}


def multihead_kind(name: str, **options: Any) -> Kind:
    """torch.nn.MultiheadAttention."""
    build = seeded(lambda: Multihead(**options))
    return Kind(name, build, multihead_batch, lambda model, batch: model(**batch).square().mean(),
                lambda state, batch: multihead_reference(in_float64(build, state), batch), ("qk", "attention"))


def handmade_kinds() -> List[Kind]:
    """All kinds of this file that this torch can have."""
    kinds = [
        decoder_kind("eager", eager, ("attention",)),
        decoder_kind("published-by-hand", by_hand, ("attention",)),
        transformer_kind(),
        transformer_kind("nn.Transformer-seq-first", batch_first=False),
        multihead_kind("nn.MultiheadAttention-weights", need_weights=True),
        multihead_kind("nn.MultiheadAttention-no-weights", need_weights=False),
        multihead_kind("nn.MultiheadAttention-seq-first", need_weights=False, batch_first=False),
    ]
    if scaled_dot_product_attention is not None:
        kinds += [decoder_kind("sdpa", fused), decoder_kind("sdpa-imported", fused_imported)]
    return kinds
