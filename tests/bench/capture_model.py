# SPDX-License-Identifier: MIT
"""capture_model: the training that bench capture watches: a decoder of the shape of GPT-2, written by hand, with
F.scaled_dot_product_attention, on random tokens. `tiny` is for a processor, `gpt2` for an accelerator."""
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional


class Shape(NamedTuple):
    """layers, heads and width of the decoder, vocabulary, tokens per sample, samples per batch."""
    layers: int
    heads: int
    width: int
    words: int
    tokens: int
    batch: int


SHAPES = {"tiny": Shape(4, 4, 256, 1024, 256, 2), "gpt2": Shape(12, 12, 768, 50304, 1024, 8)}


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool) -> torch.Tensor:
    """Causal attention by PyTorch's kernel, which torch 1.13 has not."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


def explicit(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool) -> torch.Tensor:
    """Causal attention that computes its weights."""
    later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).triu(1)
    return (q @ k.transpose(2, 3) * q.shape[3]**-0.5).masked_fill(later, -torch.inf).softmax(-1) @ v


class Attention(nn.Module):
    attend = staticmethod(fused)

    def __init__(self, shape: Shape):
        super().__init__()
        self.heads = shape.heads
        self.qkv = nn.Linear(shape.width, 3 * shape.width)
        self.out = nn.Linear(shape.width, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, width] to the same."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        attended = self.attend(q, k, v, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attn = Attention(shape)
        self.mlp = nn.Sequential(nn.Linear(shape.width, 4 * shape.width), nn.GELU(), nn.Linear(4 * shape.width, shape.width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, width] to the same."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.words = nn.Embedding(shape.words, shape.width)
        self.places = nn.Embedding(shape.tokens, shape.width)
        self.blocks = nn.ModuleList([Block(shape) for _ in range(shape.layers)])
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Token numbers [B, T] to logits [B, T, words]."""
        x = self.words(tokens) + self.places.weight[:tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.words.weight)


class Training:
    """Model, optimizer and one batch; step() trains on it. On an accelerator in bf16 by autocast."""

    def __init__(self, shape: Shape, device: str, compiled: bool):
        torch.manual_seed(1)
        self.device = torch.device(device)
        self.model = Decoder(shape).to(self.device)
        self.run: Any = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-4)
        self.batch = torch.randint(shape.words, (shape.batch, shape.tokens + 1), device=self.device)

    def step(self) -> None:
        """One step of training."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu"):
            logits = self.run(self.batch[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), self.batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def finish(self) -> None:
        """Waits until the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
