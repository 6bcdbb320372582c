#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""train_ranks: several processes train one small transformer on source text; each tells the attnd of its machine.

    python3 -m torch.distributed.run --standalone --nproc_per_node 3 train_ranks.py
    srun python3 train_ranks.py                   # Slurm: the launcher's environment names the ranks
    python3 train_ranks.py --odd 2                # rank 2 reads one line over and over, as from a broken file

The only lines about attnd are those with `attnd` and `watch`. Rank 0 prints the loss of each epoch.
"""
from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import sys
from typing import List, Optional

import torch
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import attnd
import chars_data
from chars_model import DecoderOnly

LEARNING_RATE = 3e-3
# Slurm's names for what torch.distributed reads.
SLURM = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}


def parse_arguments(words: Optional[List[str]] = None) -> argparse.Namespace:
    """The command line; bad values end the program with status 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--job", help="name at attnd", default="chars-ranks")
    add("--epochs", type=int, default=3)
    add("--steps-per-epoch", type=int, default=20)
    add("--every", type=int, default=2, metavar="N", help="publish every N-th step")
    add("--layers", type=int, default=2)
    add("--heads", type=int, default=4)
    add("--width", type=int, default=64, help="of the model; a multiple of --heads")
    add("--context", type=int, default=48, help="characters of a line")
    add("--batch", type=int, default=8, help="lines of each rank in a step")
    add("--odd", type=int, default=-1, metavar="RANK", help="this rank reads one line over and over; -1: none does")
    add("--text", type=pathlib.Path, default=HERE.parents[3], metavar="DIRECTORY", help="where to read source from")
    return parser.parse_args(words)


def join() -> int:
    """Makes this process one of the ranks; its number."""
    for name, slurm in SLURM.items():
        if name not in os.environ and slurm in os.environ:
            os.environ[name] = os.environ[slurm]
    distributed.init_process_group("gloo")
    return distributed.get_rank()


def train(a: argparse.Namespace, rank: int) -> None:
    """Trains; the ranks have one model, and different text."""
    torch.manual_seed(1)
    torch.set_num_threads(1)
    corpus = chars_data.load(a.text, a.context)
    model = DistributedDataParallel(DecoderOnly(corpus.vocabulary, a.context, a.width, a.heads, a.layers, 0.0))
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    if rank == a.odd:
        corpus = corpus._replace(lines=[corpus.lines[0][:8]] * len(corpus.lines))
    batches = chars_data.batches(corpus, "continue", a.batch, a.context, seed=rank)
    with attnd.watch(model, job=a.job, every=a.every, samples=0, wait=5.0) as watch:
        for epoch in range(a.epochs):
            total = 0.0
            for batch in itertools.islice(batches, a.steps_per_epoch):
                logits = model(batch.inputs)
                loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
                optimizer.zero_grad()
                loss.backward()
                if rank == 0:  # one loss for the run
                    watch.log(loss=loss)
                optimizer.step()
                watch.step()
                total += loss.item()
            watch.epoch_end()
            if rank == 0:
                print(f"epoch {epoch}  loss {total / a.steps_per_epoch:.3f} nats/character", flush=True)


def main() -> int:
    """Runs one rank; the exit status."""
    arguments = parse_arguments()
    try:
        train(arguments, join())
        distributed.destroy_process_group()
        return 0
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
