#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""prune_heads: the heads that attnd says matter least to the loss cost it less than others when they are cut off.

    attnd &
    python3 prune_heads.py

Trains the decoder of collapse.py, 4 layers of 4 heads, on text. attnd computes from the gradients that
`attnd.watch(..., gradients=True)` sends how much the loss depends on each head: `importance_gradient` (Michel et al.
2019, "Are sixteen heads really better than one?"), here the mean of the last epochs. Then, without further training, a
third of the heads is masked (what they write is 0): those of the lowest importance, of the highest, and at random.

Prints a table: what is masked, the loss on text that the model has not seen, in nats per character, and what the mask
costs. `importance`, which needs no gradients, is the score by entropy and variance. Same seed, same losses.
"""
from __future__ import annotations

import argparse
import itertools
import pathlib
import random
import statistics
import sys
import time
from typing import Any, List, Sequence, Tuple

import numpy as np
import torch
from torch.nn import functional

HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import attnd
from collapse import HEADS, LAYERS, TEXT_SIZE, WIDTH, Decoder, batches, numbered_text

EPOCH = 50  # steps
LAST_EPOCHS = 4  # whose importance counts
EVERY = 5  # steps from capture to capture
THIRD = LAYERS * HEADS // 3
DRAWS = 20  # random thirds
HELD_OUT, HELD_OUT_BATCHES = TEXT_SIZE // 10, 8  # characters at the end of the text; batches of them
WAIT_S = 60.0

Head = Tuple[int, int]  # layer, number
Batches = Sequence[Tuple[torch.Tensor, torch.Tensor]]


def train(watch: attnd.Watch, model: Decoder, stream: torch.Tensor, epochs: int, seed: int) -> None:
    """Trains; the two lines about attnd are those that end a step and an epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95))
    for step, (tokens, targets) in zip(range(1, epochs * EPOCH + 1), batches(stream, seed)):
        loss = functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        watch.step()
        if step % EPOCH == 0:
            watch.epoch_end()


def scores(control: attnd.Control, watch: attnd.Watch, metric: str, epochs: int) -> np.ndarray:
    """float64 [layers, heads]: the mean over the last epochs, once attnd has them."""
    found: List[np.ndarray] = []
    until = time.monotonic() + WAIT_S
    while len(found) < LAYERS:
        layer = len(found)
        try:
            past = control.history(watch.publisher.job, watch.publisher.run, layer=layer, metric=metric, limit=LAST_EPOCHS)
            if past["windows"]["last"][-1] == epochs - 1:
                found.append(past["values"]["mean"].mean(1))
                continue
        except attnd.ControlError:  # there is nothing yet
            pass
        if time.monotonic() > until:
            raise SystemExit(f"attnd has no {metric} of layer {layer} and epoch {epochs - 1} after {WAIT_S:.0f} s")
        time.sleep(0.1)
    return np.stack(found)


def in_order(of: np.ndarray) -> List[Head]:
    """All heads, the least important one first."""
    return [(int(head) // HEADS, int(head) % HEADS) for head in of.ravel().argsort(kind="stable")]


@torch.no_grad()
def loss_without(model: Decoder, masked: Sequence[Head], held_out: Batches) -> float:
    """Nats per character when nothing of what the masked heads write reaches the stream."""
    def mask(layer: int) -> Any:
        keep = torch.ones(HEADS, WIDTH // HEADS)
        keep[[head for where, head in masked if where == layer]] = 0.0
        return lambda _, inputs: (inputs[0] * keep.flatten(),)

    hooks = [block.attention.output.register_forward_pre_hook(mask(layer)) for layer, block in enumerate(model.blocks)]
    try:
        losses = [functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()) for tokens, targets in held_out]
        return torch.stack(losses).mean().item()
    finally:
        for hook in hooks:
            hook.remove()


def main() -> int:
    """Trains under attnd, masks, and prints what each mask costs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--epochs", type=int, default=12, help=f"of {EPOCH} steps")
    add("--seed", type=int, default=1)
    add("--job", default="prune", help="name at attnd")
    add("--address", help="which attnd: a directory of sockets or tcp://host:port; default: the one on this machine")
    a = parser.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(1)
    text, vocabulary = numbered_text()
    seen, unseen = text[:-HELD_OUT], text[-HELD_OUT:]
    model = Decoder(vocabulary)
    with attnd.Control(address=a.address) as control:
        control.ping()  # without attnd there is nothing to see: it says so before the training, not after
        with attnd.watch(model, job=a.job, address=a.address, steps="manual", every=EVERY, samples=0, gradients=True,
                         weights_every=0, linger=WAIT_S) as watch:
            train(watch, model, seen, a.epochs, a.seed)
        by_gradient, by_entropy = (in_order(scores(control, watch, metric, a.epochs))
                                   for metric in ("importance_gradient", "importance"))
    held_out = list(itertools.islice(batches(unseen, a.seed), HELD_OUT_BATCHES))
    whole = loss_without(model, [], held_out)

    def show(what: str, loss: float) -> None:
        print(f"{what:<44} {loss:.4f} {loss - whole:+.4f}")

    draw = random.Random(a.seed)
    at_random = [loss_without(model, draw.sample(by_gradient, THIRD), held_out) for _ in range(DRAWS)]
    lowest = loss_without(model, by_gradient[:THIRD], held_out)
    show("nothing", whole)
    show(f"{THIRD} of the lowest importance_gradient", lowest)
    show(f"{THIRD} at random, the median of {DRAWS} draws", statistics.median(at_random))
    show(f"{THIRD} of the highest importance_gradient", loss_without(model, by_gradient[-THIRD:], held_out))
    show(f"{THIRD} of the lowest importance", loss_without(model, by_entropy[:THIRD], held_out))
    print(f"{sum(loss > lowest for loss in at_random)} of {DRAWS} random draws cost more than the lowest importance_gradient")
    return 0


if __name__ == "__main__":
    sys.exit(main())
