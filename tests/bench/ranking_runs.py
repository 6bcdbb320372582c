# SPDX-License-Identifier: MIT
"""ranking_runs: the trainings of bench ranking: small decoders that collapse, and their twins that do not.

A training keeps what its attention computed in float64 from its own queries and keys, by nothing of attnd: the mean
of `entropy_normalized` over the rows of every head and step. PyTorch 1.13 and 2: with the latter attention is
F.scaled_dot_product_attention, so that attnd gets queries and keys, with the former a softmax, so that it gets weights.

Emulated f16 (`half`) rounds queries, keys and their products as eager attention does on an accelerator, before they are
scaled, so that they overflow beyond 65504; a step whose gradients are not finite is skipped, as by a GradScaler.
"""
import math
import pathlib
import random
import sys
from typing import Any, Callable, Dict, Iterator, NamedTuple, Tuple

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python" / "examples"))

import collapse_text  # noqa: E402

CONTEXT, BATCH, SYMBOLS, TEXT_SIZE = 32, 8, 24, 300_000
BETAS = 0.9, 0.999
FUSED = hasattr(functional, "scaled_dot_product_attention")

Batches = Iterator[Tuple[torch.Tensor, torch.Tensor]]


class Shape(NamedTuple):
    """Of a decoder."""
    layers: int
    heads: int
    width: int


class Recipe(NamedTuple):
    """How a decoder is trained: AdamW at `lr`, reached after `warm_up` steps. `corrected`: with Adam's bias correction,
    which BERT's own optimizer lacked: steps are up to 7 times as long then, most so the tenth."""
    lr: float
    warm_up: int
    corrected: bool = True
    half: bool = False

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        rate = self.lr * min(1, (step + 1) / max(1, self.warm_up))
        if not self.corrected:
            rate *= (1 - BETAS[0]**(step + 1)) / math.sqrt(1 - BETAS[1]**(step + 1))
        return rate


class Attention(nn.Module):
    """Causal self-attention; `seen` is [B,H,T,d], queries and keys of the last forward."""

    def __init__(self, shape: Shape, half: bool):
        super().__init__()
        self.heads, self.half_precision = shape.heads, half
        self.project = nn.Linear(shape.width, 3 * shape.width)
        self.output = nn.Linear(shape.width, shape.width)
        self.seen: Tuple[torch.Tensor, torch.Tensor]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,T,width] to the same."""
        q, k, v = self.project(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.half_precision:
            q, k = q.half().float(), k.half().float()
        self.seen = q.detach(), k.detach()
        if FUSED and not self.half_precision:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            products = q @ k.transpose(-1, -2)
            if self.half_precision:
                products = products.half().float()
            y = (products * q.shape[-1]**-0.5).masked_fill(later(x.shape[1]), -math.inf).softmax(-1) @ v
        return self.output(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a feed-forward net, with LayerNorm before each, or after each and the stream's addition."""

    def __init__(self, shape: Shape, norm: str, half: bool):
        super().__init__()
        self.before = norm == "pre-LN"
        self.norms = nn.ModuleList(nn.LayerNorm(shape.width) for _ in range(2))
        self.attention = Attention(shape, half)
        self.feed_forward = nn.Sequential(
            nn.Linear(shape.width, 4 * shape.width), nn.GELU(), nn.Linear(4 * shape.width, shape.width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B,T,width] to the same."""
        for norm, part in zip(self.norms, (self.attention, self.feed_forward)):
            x = x + part(norm(x)) if self.before else norm(x + part(x))
        return x


class Decoder(nn.Module):
    """Token numbers [B,T] to logits [B,T,symbols]."""

    def __init__(self, shape: Shape, norm: str, symbols: int, half: bool):
        super().__init__()
        self.symbol = nn.Embedding(symbols, shape.width)
        self.position = nn.Embedding(CONTEXT, shape.width)
        self.blocks = nn.ModuleList(Block(shape, norm, half) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.output = nn.Linear(shape.width, symbols)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """See the class."""
        x = self.symbol(tokens) + self.position.weight
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))  # type: ignore[no-any-return]


def later(length: int) -> torch.Tensor:
    """True where a key comes after the query."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def entropy_normalized(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """[H], float64: the mean over batch and rows; the first row has one key, and no such number. NaN with NaN rows."""
    q, k = q.double(), k.double()
    weights = (q @ k.transpose(-1, -2) * q.shape[-1]**-0.5).masked_fill(later(q.shape[-2]), -math.inf).softmax(-1)
    entropy = -torch.where(weights == 0, weights, weights * weights.log()).sum(-1)[..., 1:]
    possible = torch.arange(2, q.shape[-2] + 1, dtype=torch.float64).log()
    return (entropy / possible).mean((0, 2))


def text(seed: int) -> Tuple[int, Batches]:
    """Made-up prose, code and numbers: how many characters there are, and batches of them with their successors."""
    written = collapse_text.text(TEXT_SIZE)
    number = {character: i for i, character in enumerate(sorted(set(written)))}
    stream = torch.tensor([number[character] for character in written])
    draw = random.Random(seed).random

    def batches() -> Batches:
        while True:
            begins = [int(draw() * (len(stream) - CONTEXT - 1)) for _ in range(BATCH)]
            chunk = torch.stack([stream[i:i + CONTEXT + 1] for i in begins])
            yield chunk[:, :-1], chunk[:, 1:]
    return len(number), batches()


def copies(seed: int) -> Tuple[int, Batches]:
    """Random symbols that are said twice: half of them can be told from a look back. As `text`."""
    generator = torch.Generator().manual_seed(seed)

    def batches() -> Batches:
        while True:
            half = torch.randint(SYMBOLS, (BATCH, CONTEXT // 2), generator=generator)
            chunk = torch.cat([half, half, half[:, :1]], 1)
            yield chunk[:, :-1], chunk[:, 1:]
    return SYMBOLS, batches()


TASKS: Dict[str, Callable[[int], Tuple[int, Batches]]] = {"text": text, "copies": copies}


class Training:
    """A model and its recipe; step() trains it. `losses` and `entropies`, [layers, heads], of each step; and how many
    steps were `skipped`."""

    def __init__(self, shape: Shape, norm: str, task: str, seed: int, recipe: Recipe, steps: int):
        torch.manual_seed(seed)
        self.recipe, self.steps = recipe, steps
        symbols, self._batches = TASKS[task](seed)
        self.model = Decoder(shape, norm, symbols, recipe.half)
        self._optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=recipe.lr, betas=BETAS)
        self.skipped = 0
        self.losses: "list[float]" = []
        self.entropies: "list[torch.Tensor]" = []

    def step(self) -> None:
        """One step; without a change of the model when its gradients are not finite."""
        tokens, targets = next(self._batches)
        for group in self._optimizer.param_groups:
            group["lr"] = self.recipe.rate(len(self.losses))
        loss = functional.cross_entropy(self.model(tokens).flatten(0, 1), targets.flatten())
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if all(bool(parameter.grad.isfinite().all()) for parameter in self.model.parameters()):
            self._optimizer.step()
        else:
            self.skipped += 1
        self.losses.append(loss.item())
        self.entropies.append(torch.stack([entropy_normalized(*block.attention.seen) for block in self.model.blocks]))

    def windows(self, length: int) -> torch.Tensor:
        """The entropies as [windows, layers, heads], means over `length` steps each."""
        return torch.stack(self.entropies).unflatten(0, (-1, length)).mean(1)
