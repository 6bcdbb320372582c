# SPDX-License-Identifier: MIT
"""Small transformers with something to learn, and places to plant faults at.

Every attention is an Attention: it multiplies queries by `q_factor`, and does what else faults.py asks of it. Without a
fault it is the usual one.
"""
import math
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import nn
from torch.nn import functional as F

WIDTH, HEADS, LENGTH, VOCABULARY, BATCH = 64, 4, 24, 32, 16
DELIMITER = 0


class Attention(nn.Module):
    """Attention of `heads` heads of queries over `kv_heads` of keys and values; x and memory: [B, T, width]."""

    def __init__(self, width: int, heads: int, kv_heads: int, causal: bool, qk_norm: bool, rotary: bool):
        super().__init__()
        self.heads, self.kv_heads, self.causal, self.dim, self.rotary = heads, kv_heads, causal, width // heads, rotary
        self.q_proj = nn.Linear(width, heads * self.dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(heads * self.dim, width, bias=False)
        self.q_norm = nn.LayerNorm(self.dim) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(self.dim) if qk_norm else nn.Identity()
        self.q_factor: Optional[torch.Tensor] = None  # broadcasts to [B, heads, T, dim]
        self.seen: Optional[List[torch.Tensor]] = None  # the newest queries and keys, where somebody asks
        self.shared = 0.0  # added to the logits of each key alike
        self.sink = 0.0  # added to the logits of the first key, in units of what its head's queries have in common

    def _split(self, x: torch.Tensor, heads: int) -> torch.Tensor:
        return x.view(x.shape[0], x.shape[1], heads, self.dim).transpose(1, 2)

    def forward(self, x: torch.Tensor, memory: Optional[torch.Tensor] = None) -> torch.Tensor:
        source = x if memory is None else memory
        q = self.q_norm(self._split(self.q_proj(x), self.heads))
        k = self.k_norm(self._split(self.k_proj(source), self.kv_heads))
        v = self._split(self.v_proj(source), self.kv_heads)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, 1) for t in (k, v))
        if self.rotary:
            q, k = rotated(q), rotated(k)
        if self.seen is not None:
            self.seen = [q, k]
        if self.q_factor is not None:
            q = q * self.q_factor
        if self.shared:
            one = math.sqrt(self.shared / math.sqrt(self.dim))
            q, k = (x - x.mean(-1, keepdim=True) + one for x in (q, k))
        if self.sink:
            common = torch.ones_like(k[:, :, :1])
            q, k = q - q.mean(-1, keepdim=True) + 1, torch.cat([k[:, :, :1] + self.sink / math.sqrt(self.dim) * common, k[:, :, 1:]], 2)
        out = attend(q, k, v, self.causal)
        return self.o_proj(out.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))


def rotated(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021) of heads [B, H, T, dim]."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[2])[:, None] * 10000.0 ** (-torch.arange(half) / half)
    one, other = x[..., :half], x[..., half:]
    return torch.cat([one * angles.cos() - other * angles.sin(), one * angles.sin() + other * angles.cos()], -1)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    """Scaled dot-product attention, fused where this torch has that; heads, [B, H, T, dim]."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    if causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    return torch.softmax(logits, -1) @ v


class Block(nn.Module):
    """Attention, attention over `memory` if `cross`, and a feed-forward layer; each pre-LN or post-LN."""

    def __init__(self, shape: "Shape", causal: bool, cross: bool):
        super().__init__()
        self.post = shape.post
        self.self_attn = Attention(shape.width, shape.heads, shape.kv_heads or shape.heads, causal, shape.qk_norm, shape.rotary)
        self.cross_attn = Attention(shape.width, shape.heads, shape.heads, False, shape.qk_norm, False) if cross else None
        self.ff = nn.Sequential(nn.Linear(shape.width, 4 * shape.width), nn.GELU(), nn.Linear(4 * shape.width, shape.width))
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(3))

    def _add(self, index: int, x: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        norm = self.norms[index]
        return norm(x + change(x)) if self.post else x + change(norm(x))

    def forward(self, x: torch.Tensor, memory: Optional[torch.Tensor] = None) -> torch.Tensor:
        x = self._add(0, x, self.self_attn)
        if self.cross_attn is not None:
            cross = self.cross_attn
            x = self._add(1, x, lambda y: cross(y, memory))
        return self._add(2, x, self.ff)


class Shape(NamedTuple):
    """Which transformer it is."""
    layers: int = 2
    width: int = WIDTH
    heads: int = HEADS
    kv_heads: int = 0  # 0: as many as heads
    post: bool = False
    qk_norm: bool = False
    rotary: bool = False  # else places are learned


class Stack(nn.Module):
    """Embeddings and blocks; tokens [B, T] or vectors [B, T, width]."""

    def __init__(self, shape: Shape, causal: bool, cross: bool = False):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, shape.width)
        self.place = None if shape.rotary else nn.Embedding(2 * LENGTH, shape.width)
        self.layers = nn.ModuleList(Block(shape, causal, cross) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        for table in filter(None, (self.embed, self.place)):
            nn.init.normal_(table.weight, std=0.3)

    def forward(self, x: torch.Tensor, memory: Optional[torch.Tensor] = None) -> torch.Tensor:
        h = self.embed(x) if x.dtype == torch.long else x
        if self.place is not None:
            h = h + self.place(torch.arange(x.shape[1]))
        for layer in self.layers:
            h = layer(h, memory)
        return self.norm(h)


class Model(nn.Module):
    """An encoder, a decoder, or both; loss(step) trains it on batch `step` of its task."""

    def __init__(self, shape: Shape, task: str, seed: int):
        super().__init__()
        self.shape, self.task, self.seed = shape, task, seed
        if task in ("encode", "translate", "see"):
            self.encoder = Stack(shape, causal=False)
        if task in ("decode", "repeat", "translate"):
            self.decoder = Stack(shape, causal=True, cross=task == "translate")
        self.head = nn.Linear(shape.width, VOCABULARY)
        self.patch = nn.Linear(16, shape.width) if task == "see" else None
        self.chain = torch.softmax(4.0 * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)), -1)

    def attentions(self) -> List[Tuple[str, int, str, Attention]]:
        """(stack, layer, site, attention), in the order of the forward pass."""
        found = []
        for stack in ("encoder", "decoder"):
            for index, block in enumerate(getattr(self, stack).layers if hasattr(self, stack) else []):
                found.append((stack, index, "self", block.self_attn))
                if block.cross_attn is not None:
                    found.append((stack, index, "cross", block.cross_attn))
        return found

    def forward(self, step: int) -> torch.Tensor:
        """The mean loss on batch `step`."""
        made = torch.Generator().manual_seed(self.seed * 1000003 + step)
        return TASKS[self.task](self, made)


def sentences(model: Model, made: torch.Generator) -> torch.Tensor:
    """Tokens [B, T]: half of the batch repeats random tokens, half is words of a chain with delimiters between them."""
    half = LENGTH // 2
    again = torch.randint(1, VOCABULARY, (BATCH // 2, half), generator=made).repeat(1, 2)
    words = torch.randint(1, VOCABULARY, (BATCH // 2, LENGTH), generator=made)
    for t in range(1, LENGTH):
        words[:, t] = torch.multinomial(model.chain[words[:, t - 1]], 1, generator=made)[:, 0]
    words[torch.rand(words.shape, generator=made) < 0.15] = DELIMITER
    return torch.cat([again, words])


def decode(model: Model, made: torch.Generator) -> torch.Tensor:
    """The next token."""
    tokens = sentences(model, made)
    return F.cross_entropy(model.head(model.decoder(tokens))[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def repeat(model: Model, made: torch.Generator) -> torch.Tensor:
    """The next token of random ones that come twice, which heads of induction alone can tell."""
    tokens = torch.randint(1, VOCABULARY, (BATCH, LENGTH // 2), generator=made).repeat(1, 2)
    return F.cross_entropy(model.head(model.decoder(tokens))[:, LENGTH // 2:-1].flatten(0, 1), tokens[:, LENGTH // 2 + 1:].flatten())


def encode(model: Model, made: torch.Generator) -> torch.Tensor:
    """Tokens that are hidden, a sixth of them."""
    tokens = sentences(model, made)
    hidden = torch.rand(tokens.shape, generator=made) < 1 / 6
    return F.cross_entropy(model.head(model.encoder(tokens.masked_fill(hidden, DELIMITER)))[hidden], tokens[hidden])


def translate(model: Model, made: torch.Generator) -> torch.Tensor:
    """The source backwards, each token by a table."""
    tokens = sentences(model, made)
    target = (tokens.flip(1) * 7 + 3) % VOCABULARY
    out = model.decoder(torch.roll(target, 1, 1), model.encoder(tokens))
    return F.cross_entropy(model.head(out).flatten(0, 1), target.flatten())


def see(model: Model, made: torch.Generator) -> torch.Tensor:
    """Which of the patterns a picture of patches shows, and where it begins."""
    kinds = torch.randint(0, VOCABULARY, (BATCH,), generator=made)
    patterns = torch.randn(VOCABULARY, 4, 16, generator=torch.Generator().manual_seed(model.seed))
    place = torch.randint(0, LENGTH - 4, (BATCH,), generator=made)
    picture = 0.5 * torch.randn(BATCH, LENGTH, 16, generator=made)
    for i in range(BATCH):
        picture[i, place[i]:place[i] + 4] += patterns[kinds[i]]
    return F.cross_entropy(model.head(model.encoder(model.patch(picture)).mean(1)), kinds)


TASKS: Dict[str, Callable[[Model, torch.Generator], torch.Tensor]] = {
    "decode": decode, "repeat": repeat, "encode": encode, "translate": translate, "see": see}

ARCHITECTURES: Dict[str, Tuple[Shape, str]] = {
    "pre-LN": (Shape(), "decode"),
    "post-LN": (Shape(layers=3, post=True), "decode"),
    "QK-norm": (Shape(layers=3, qk_norm=True), "decode"),
    "GQA": (Shape(heads=8, kv_heads=2), "decode"),
    "encoder": (Shape(layers=3), "encode"),
    "encoder-decoder": (Shape(), "translate"),
    "ViT": (Shape(layers=4), "see"),
    "induction": (Shape(rotary=True), "repeat"),
    "wide": (Shape(layers=24, width=128, heads=16), "decode"),
}
