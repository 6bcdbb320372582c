#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""save_figures: a training loop that saves one figure per layer every few epochs, by attnd.plots. No attnd runs.

    python3 save_figures.py figures                  # figures/epoch-010/heads-decoder.0.self.png, ...
    python3 save_figures.py figures --every 5 --ending pdf

A small decoder learns to repeat the first half of a sequence, for which some head has to look back by half its length:
the figures show when it begins to.
"""
from __future__ import annotations

import argparse
import pathlib
import sys
from typing import List, Tuple

import torch
from attnd import plots
from torch import nn
from torch.nn import functional

LAYERS, HEADS, WIDTH, HALF, SYMBOLS, BATCH = 2, 4, 64, 8, 12, 32
LEARNING_RATE = 1e-3
LETTERS = "abcdefghijkl"  # the symbols, as figures name them


class Block(nn.Module):
    """Attention that keeps its weights, then a feed-forward net."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        length = x.shape[1]
        later = torch.triu(torch.ones(length, length, dtype=torch.bool), diagonal=1)
        y = self.norms[0](x)
        y, weights = self.attention(y, y, y, attn_mask=later, average_attn_weights=False)
        x = x + y
        return x + self.feed_forward(self.norms[1](x)), weights


class Decoder(nn.Module):
    """i64 [B,T] -> logits [B,T,symbols], and the attention weights [B,H,T,T] of each layer."""

    def __init__(self) -> None:
        super().__init__()
        self.symbol = nn.Embedding(SYMBOLS, WIDTH)
        self.position = nn.Embedding(2 * HALF, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.output = nn.Linear(WIDTH, SYMBOLS)

    def forward(self, tokens: torch.Tensor) -> Tuple[torch.Tensor, List[torch.Tensor]]:
        x = self.symbol(tokens) + self.position(torch.arange(tokens.shape[1]))
        maps = []
        for block in self.blocks:
            x, weights = block(x)
            maps.append(weights)
        return self.output(x), maps


def batch() -> torch.Tensor:
    """i64 [B, 2 * HALF]: the second half is the first one again."""
    half = torch.randint(SYMBOLS, (BATCH, HALF))
    return torch.cat([half, half], dim=1)


def train_epoch(model: Decoder, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """The last step's loss, over what can be known: the second half."""
    loss = torch.zeros(())
    for _ in range(steps):
        tokens = batch()
        logits, _ = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits[:, HALF - 1:].flatten(0, 1), tokens[:, HALF:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def save_figures(maps: List[torch.Tensor], tokens: torch.Tensor, folder: pathlib.Path, ending: str) -> None:
    """One figure per layer with all its heads."""
    layers = {f"decoder.{layer}.self": weights[0] for layer, weights in enumerate(maps)}
    plots.save(folder / f"heads-{{layer}}.{ending}", "heads", layers, every_layer=True, causal=True,
               key_tokens=[LETTERS[symbol] for symbol in tokens.tolist()])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("folder", type=pathlib.Path, help="where the figures go, in a folder per epoch")
    add("--epochs", type=int, default=30)
    add("--steps-per-epoch", type=int, default=4)
    add("--every", type=int, default=10, metavar="N", help="save figures every N epochs")
    add("--ending", choices=("png", "svg", "pdf"), default="png")
    add("--seed", type=int, default=1)
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(1)
    model = Decoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    shown = batch()[:1, :-1]  # the same sequence in all figures
    for epoch in range(1, a.epochs + 1):
        loss = train_epoch(model, optimizer, a.steps_per_epoch)
        if epoch % a.every:
            continue
        with torch.no_grad():
            _, maps = model(shown)
        folder = a.folder / f"epoch-{epoch:03}"
        save_figures(maps, shown[0], folder, a.ending)
        print(f"epoch {epoch}: loss {loss:.3f}, {LAYERS} figures in {folder}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
