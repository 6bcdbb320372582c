#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""collapse: a training run whose attention collapses when the learning rate is too high, watched by attnd.

    attnd --set window.unit=step --set window.length=5 --set window.every=5 &
    python3 collapse.py --lr 3e-2      # entropy falls from 0.98 to 0.1 within 25 steps, logits grow beyond 1000
    python3 collapse.py --lr 1e-3      # the same run at a sane learning rate: no alert

A decoder with pre-LayerNorm of its own making: 4 layers of 4 heads, width 96, 64 characters, AdamW. attnd.watch would
see the softmax of its attention by itself; this shows how to publish by hand: queries and keys (`--tier qk`), from
which attnd computes weights and logits, the weights (`--tier attention`), or the statistics of the rows, computed here
(`--tier rows`).

Prints one JSON object per line: {"step", "loss"} for each step, {"seen_at_step", "alert"} for each alert as it
comes, and at the end {"published", "dropped"}. Same seed, same losses, whether attnd listens or not.
"""
from __future__ import annotations

import argparse
import json
import math
import pathlib
import random
import sys
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from torch import nn
from torch.nn import functional

HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import attnd
import collapse_text

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 96, 64, 16
TEXT_SIZE = 300_000
SUBSCRIBER_WAIT_S, DRAIN_WAIT_S = 5.0, 30.0


class Attention(nn.Module):
    """Causal self-attention. `seen` is what it did last: queries, keys [B,H,T,d] and weights [B,H,T,T]."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)
        self.seen: Tuple[torch.Tensor, ...] = ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        q, k, v = self.project(x).view(batch, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1]**-0.5).masked_fill(later, -math.inf).softmax(-1)
        self.seen = q.detach(), k.detach(), weights.detach()
        return self.output((weights @ v).transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """Attention, then a feed-forward net; each reads a normalised copy and adds to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.attention = Attention()
        self.feed_forward = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.feed_forward(self.norms[1](x))


class Decoder(nn.Module):
    """i64 [B,T] -> logits [B,T,vocabulary]."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.character = nn.Embedding(vocabulary, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, vocabulary)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.tokens = tokens  # with these attnd tells heads that do induction from heads that collapse
        x = self.character(tokens) + self.position(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.output(self.norm(x))


def numbered_text() -> Tuple[torch.Tensor, int]:
    """The text as numbers of characters, and how many different ones there are."""
    text = collapse_text.text(TEXT_SIZE)
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([number[character] for character in text]), len(number)


def batches(stream: torch.Tensor, seed: int) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
    """Windows of the text and the same one character later, i64 [B,T] each, without end."""
    draw = random.Random(seed).random
    while True:
        begins = [int(draw() * (len(stream) - CONTEXT - 1)) for _ in range(BATCH)]
        yield tuple(torch.stack([stream[i + shift:i + shift + CONTEXT] for i in begins]) for shift in (0, 1))


def train(lr: float, steps: int, seed: int) -> Iterator[Tuple[int, float, Decoder]]:
    """Trains, yielding after each step its number, its loss in nats per character, and the model."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    stream, vocabulary = numbered_text()
    model = Decoder(vocabulary)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    for step, (tokens, targets) in zip(range(steps), batches(stream, seed)):
        loss = functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step, loss.item(), model


def publish(publisher: attnd.Publisher, model: Decoder, step: int, tier: str) -> None:
    """Publishes what every layer did in this step."""
    for layer, block in enumerate(model.blocks):
        q, k, weights = block.attention.seen
        where: Dict[str, Any] = {"stack": "decoder", "layer": layer, "step": step, "causal": True}
        if tier == "qk":
            publisher.publish_qk(q, k, tokens=model.tokens, **where)
        elif tier == "rows":
            publisher.publish_rows(attnd.device.rows(q, k, causal=True), stack="decoder", layer=layer, step=step)
        else:
            publisher.publish_attention(weights, tokens=model.tokens, **where)
    publisher.drain(DRAIN_WAIT_S)  # every step counts here: wait rather than drop


def show(**line: Any) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(line), flush=True)


def show_alerts(alerts: attnd.Subscriber, run: str, step: int) -> None:
    """Prints what has come in about this run."""
    while (alert := alerts.next(0)) is not None:
        if alert["run"] == run:
            shown = {key: alert.get(key) for key in ("rule", "severity", "state", "layer", "head", "value", "message")}
            show(seen_at_step=step, alert=shown)


def parse_arguments(words: Optional[List[str]] = None) -> argparse.Namespace:
    """The command line; bad values end the program with status 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--lr", type=float, default=3e-2, help="learning rate: 3e-2 collapses, 1e-3 does not")
    add("--steps", type=int, default=150)
    add("--seed", type=int, default=1)
    add("--tier", choices=("qk", "attention", "rows"), default="qk", help="what is published")
    add("--job", default="collapse", help="name at attnd")
    add("--address", help="which attnd: a directory of sockets or tcp://host:port; default: the one on this machine")
    add("--endpoint", help="exactly the socket where it takes tensors, instead of an address")
    add("--alerts", metavar="ENDPOINT", help="exactly the socket where it publishes")
    arguments = parser.parse_args(words)
    if not 0 < arguments.lr < math.inf or arguments.steps < 1:
        parser.error("--lr and --steps: more than 0")
    return arguments


def main() -> int:
    """Trains, publishes, and prints what comes back."""
    a = parse_arguments()
    with attnd.Subscriber(a.alerts, (f"alert/{a.job}/",), address=None if a.alerts else a.address) as alerts, \
            attnd.Publisher(a.job, a.endpoint, address=a.address) as publisher:
        if not publisher.wait_for_subscriber(SUBSCRIBER_WAIT_S):
            print(f"attnd does not listen ({publisher.where}): training goes on, unwatched", file=sys.stderr)
        publisher.hello([("decoder", layer, "self", HEADS) for layer in range(LAYERS)])
        for step, loss, model in train(a.lr, a.steps, a.seed):
            publish(publisher, model, step, a.tier)
            show(step=step, loss=loss)
            show_alerts(alerts, publisher.run, step)
        publisher.epoch_end(0, a.steps - 1)
        stats = publisher.stats()
    show(published=stats["published"], dropped=stats["dropped"] + stats["skipped"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
