#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""induction_heads: induction heads emerge in a small model, attnd finds them, and the loss bends as they do.

    attnd --set window.unit=step --set window.length=10 --set window.every=10 &
    python3 induction_heads.py --figure induction.png

A model of nothing but attention, 2 layers of 4 heads, learns to go on with random symbols that repeat with a period of
10 to 32. Only an induction head can: it attends to the symbol after the earlier copy, which a head of the layer before
has told it of. `attnd.watch(..., probe="induction")` asks after every 10th step whether there is one.

Prints one JSON object per line: {"step", "loss"} for each step, {"head", "since", "score"} for each head whose role is
`induction` in the end, and since which step it has been, and {"loss_fell_most_at"}. Same seed, same losses.
"""
from __future__ import annotations

import argparse
import json
import math
import pathlib
import sys
import time
from typing import Any, Dict, Iterator, List

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import attnd

LAYERS, HEADS, WIDTH, SYMBOLS, CONTEXT, BATCH = 2, 4, 64, 64, 64, 32
PERIODS = range(10, 33)
EVERY = 10  # steps from probe to probe
SMOOTHED_OVER = 20  # steps
WAIT_S = 60.0
COLORS = ("#1f6fb4", "#d1495b", "#2a9d60", "#8057b8")  # of the heads of the second layer


class Attention(nn.Module):
    """Causal self-attention, added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.project, self.output = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, _ = x.shape
        q, k, v = self.project(self.norm(x)).view(batch, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1]**-0.5).masked_fill(later, -math.inf).softmax(-1)
        return x + self.output((weights @ v).transpose(1, 2).reshape(batch, length, WIDTH))


class Decoder(nn.Module):
    """i64 [B,T] -> logits [B,T,symbols]."""

    def __init__(self) -> None:
        super().__init__()
        self.symbol, self.position = nn.Embedding(SYMBOLS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.ModuleList(Attention() for _ in range(LAYERS))
        self.norm, self.output = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, SYMBOLS, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.symbol(tokens) + self.position(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.output(self.norm(x))


def batch_of_repetitions() -> torch.Tensor:
    """i64 [B,T]: each row repeats random symbols, with a period of its own."""
    periods = torch.randint(PERIODS.start, PERIODS.stop, (BATCH,)).tolist()
    return torch.stack([torch.randint(SYMBOLS, (period,)).repeat(CONTEXT // period + 1)[:CONTEXT] for period in periods])


def train(watch: attnd.Watch, model: Decoder, steps: int, lr: float) -> Iterator[float]:
    """Trains, yielding the loss of each step, in nats per symbol."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98))
    for _ in range(steps):
        tokens = batch_of_repetitions()
        loss = functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        watch.log(loss=loss)
        optimizer.step()
        watch.step()
        yield loss.item()


def run_of_probe(control: attnd.Control, job: str, began_ns: int) -> str:
    """Waits until the history has all of what was probed since."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        for run in control.runs(job):
            if run["first_ns"] >= began_ns and run["state"] in ("ended", "failed"):
                return str(run["run"])
        time.sleep(0.05)
    raise SystemExit(f"induction_heads: the history of attnd has no run of {job} that has ended")


def fell_most_at(losses: List[float]) -> int:
    """The step at which the loss, smoothed, falls fastest."""
    means = [sum(losses[at - SMOOTHED_OVER:at]) / SMOOTHED_OVER for at in range(SMOOTHED_OVER, len(losses) + 1)]
    falls = [means[at] - means[at + SMOOTHED_OVER] for at in range(len(means) - SMOOTHED_OVER)]
    return falls.index(max(falls)) + SMOOTHED_OVER


def draw(path: str, losses: List[float], scores: List[Dict[str, Any]], since: List[int]) -> None:
    """The loss over the scores of all heads, which come as histories of the layers."""
    from attnd import plots
    figure = plots.Figure(figsize=(5.5, 4.2), layout="constrained")
    top, below = figure.subplots(2, 1, sharex=True)
    top.plot(losses, color="#404040", linewidth=0.8)
    top.set_ylabel("loss [nats]")
    for layer, history in enumerate(scores):
        for head, course in enumerate(history["values"]["mean"]):
            color = COLORS[head] if layer else "#b0b0b0"
            below.plot(history["windows"]["step"], course, color=color, linewidth=1.2,
                       label=f"layer {layer}" + (f", head {head}" if layer else ""))
    for axes in (top, below):
        if since:
            axes.axvspan(min(since), max(since), color="#ffe08a", alpha=0.5, linewidth=0)
            axes.axvline(min(since), color="#c08a00", linewidth=0.8)
    below.axhline(0.5, color="#808080", linewidth=0.6, linestyle=":")
    below.set(xlabel="step", ylabel="induction", ylim=(0, 1))
    handles, labels = below.get_legend_handles_labels()
    first = {label: handle for handle, label in zip(handles, labels)}
    below.legend(first.values(), first.keys(), fontsize=7, loc="upper left", frameon=False)
    figure.savefig(path, dpi=144)


def show(**line: Any) -> None:
    """One JSON object on a line of its own."""
    print(json.dumps(line), flush=True)


def main() -> int:
    """Trains under attnd, and says what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--steps", type=int, default=600)
    add("--lr", type=float, default=3e-3, help="learning rate")
    add("--seed", type=int, default=1)
    add("--job", default="induction", help="name at attnd; that of the probe has .probe behind it")
    add("--address", help="which attnd: a directory of sockets or tcp://host:port; default: the one on this machine")
    add("--figure", metavar="FILE", help="draws the loss over the scores of all heads: .png, .svg or .pdf")
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(1)
    model = Decoder()
    losses: List[float] = []
    began_ns, probe = time.time_ns(), f"{a.job}.probe"
    with attnd.watch(model, job=a.job, address=a.address, steps="manual", probe="induction", probe_every=EVERY,
                     linger=WAIT_S) as watch:
        for step, loss in enumerate(train(watch, model, a.steps, a.lr)):
            losses.append(loss)
            show(step=step, loss=loss)
    with attnd.Control(address=a.address) as control:
        run = run_of_probe(control, probe, began_ns)
        heads = [head for head in control.roles(probe, run) if head["role"] == "induction" and head["emerged"]]
        scores = [control.history(probe, run, layer=layer, metric="induction", statistics=["mean"]) for layer in range(LAYERS)]
    for head in heads:
        show(head=f"decoder.{head['layer']}.self.h{head['head']}", since=head["emerged"]["step"],
             score=head["evidence"][0]["value"])
    if not heads:
        print("no head became an induction head within the run; are the windows of attnd, by default epochs, as short as the "
              "first lines of this file say?", file=sys.stderr)
    show(loss_fell_most_at=fell_most_at(losses))
    if a.figure:
        draw(a.figure, losses, scores, [head["emerged"]["step"] for head in heads])
    return 0


if __name__ == "__main__":
    sys.exit(main())
