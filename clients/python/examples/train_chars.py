#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""train_chars: trains a small transformer on source text while attnd watches its attention.

    attnd &
    python3 train_chars.py                        # restore damaged lines: encoder, decoder, cross attention
    python3 train_chars.py --model decoder-only   # continue text: causal self-attention
    python3 train_chars.py --verify               # and check every number that comes back

After each epoch it prints the loss and the entropy of every head, as attnd computed them over it (window.unit=auto or
epoch). With --verify it computes every published number itself, in float64, from the very tensors it published, and
compares: attention weights with torch 1, and with torch 2, whose torch.nn.MultiheadAttention never has them, queries
and keys. For that attnd needs `--set metrics.spectrum_budget=0`: under a time budget not every message has the spectra
of all heads.

Exit status: 0 when a summary of every layer came for each epoch (and with --verify all numbers are right), else 1.
"""
from __future__ import annotations

import argparse
import itertools
import os
import pathlib
import sys
import time
from typing import Any, Dict, List, Optional, Tuple

import torch
from torch.nn import functional

HERE = pathlib.Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import attnd
import chars_data
import chars_report
import reference
from chars_model import MODELS, TASKS

SUBSCRIBER_WAIT_S = 5.0
SUMMARY_WAIT_S = 30.0
DRAIN_WAIT_S = 30.0
LEARNING_RATE = 3e-3

Layer = Tuple[str, int, str]


def parse_arguments(words: Optional[List[str]] = None) -> argparse.Namespace:
    """The command line; bad values end the program with status 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--model", choices=list(MODELS), default="encoder-decoder", help="what to train")
    add("--job", help="name at attnd (default: chars-<model>)", default=argparse.SUPPRESS)
    add("--epochs", type=_positive, default=4)
    add("--steps-per-epoch", type=_positive, default=40)
    add("--every", type=_positive, default=1, metavar="N", help="publish every N-th step")
    add("--layers", type=_positive, default=2, help="per stack")
    add("--heads", type=_positive, default=4)
    add("--width", type=_positive, default=64, help="of the model; a multiple of --heads")
    add("--context", type=_positive, default=48, help="longest line, in characters")
    add("--batch", type=_positive, default=16)
    add("--dropout", type=float, default=0.0)
    add("--seed", type=int, default=1)
    add("--text", type=pathlib.Path, default=HERE.parents[3], metavar="DIRECTORY",
        help="where to read source from")
    add("--address", help="which attnd: a directory of sockets or tcp://host:port; default: the one on this machine")
    add("--endpoint", help="exactly the socket where it takes tensors, instead of an address")
    add("--summaries", metavar="ENDPOINT", help="exactly the socket where it publishes")
    add("--wait", type=float, default=SUMMARY_WAIT_S, metavar="SECONDS", help="for the summaries of an epoch")
    add("--verify", action="store_true", help="check every number that comes back")
    arguments = parser.parse_args(words)
    if arguments.width % arguments.heads:
        parser.error(f"--width {arguments.width} is not a multiple of --heads {arguments.heads}")
    if not 0 <= arguments.dropout < 1:
        parser.error("--dropout: 0 to less than 1")
    if arguments.context < 9:
        parser.error("--context: at least 9, the lines that are used have 8 characters or more")
    arguments.job = getattr(arguments, "job", f"chars-{arguments.model}")
    return arguments


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


class Verifier:
    """Measures every message as it is published, and compares summaries with that."""

    def __init__(self) -> None:
        self.measured: Dict[Layer, List[Tuple[int, reference.Measured]]] = {}  # (epoch, numbers)
        self.matrices: Dict[Layer, List[int]] = {}  # the epochs of messages with projection matrices
        self.wrong = 0

    def take(self, message: Any) -> None:
        """Called by the publisher with each message; projection matrices are counted, not compared."""
        keys = message.keys
        layer = (keys["stack"], keys["layer"], keys["site"])
        if message.kind == "weights":
            self.matrices.setdefault(layer, []).append(message.epoch)
            return
        measured = reference.measure(reference.from_message(message))
        self.measured.setdefault(layer, []).append((message.epoch, measured))

    def check(self, layer: Layer, summary: Dict[str, Any]) -> None:
        """Compares one summary with the messages of its window, and prints the outcome."""
        first, last = summary["window"]["first"], summary["window"]["last"]
        messages = [m for epoch, m in self.measured.get(layer, []) if first <= epoch <= last]
        if not messages:
            print(f"{chars_report.layer_name(layer)}: a summary of nothing that was published")
            self.wrong += 1
            return
        expected = reference.pool(messages)
        expected["messages"] += sum(first <= epoch <= last for epoch in self.matrices.get(layer, []))
        found = reference.compare(summary, expected)
        self.wrong += sum(not deviation.ok for deviation in found)
        print("\n".join(chars_report.verification(layer, found)))


class Trainer:
    """One training job. The only lines about attnd are in run() and report()."""

    def __init__(self, arguments: argparse.Namespace):
        torch.manual_seed(arguments.seed)
        torch.set_num_threads(1)
        self.arguments = arguments
        self.corpus = corpus = chars_data.load(arguments.text, arguments.context)
        self.model = MODELS[arguments.model](corpus.vocabulary, arguments.context + 1, arguments.width,
                                             arguments.heads, arguments.layers, arguments.dropout)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LEARNING_RATE)
        self.batches = chars_data.batches(corpus, TASKS[arguments.model], arguments.batch, arguments.context,
                                          arguments.seed)
        self.verifier = Verifier() if arguments.verify else None
        self.complete_epochs = 0
        print(f"{arguments.model} of {sum(p.numel() for p in self.model.parameters())} parameters, "
              f"{len(corpus.lines)} lines of {arguments.text}, torch {torch.__version__}")

    def run(self) -> bool:
        """Trains; whether all summaries came, and in verify mode were right."""
        a = self.arguments
        # Said here, `every` and `samples` go before the daemon's default plan: one sample of every 50th step.
        summaries = attnd.Subscriber(a.summaries, (f"summary/{a.job}/",), address=None if a.summaries else a.address)
        with summaries as self.results, attnd.watch(
                self.model, job=a.job, address=a.address, endpoint=a.endpoint, every=a.every, samples=0,
                wait=SUBSCRIBER_WAIT_S, labels=self.corpus.texts,
                on_publish=self.verifier.take if self.verifier else None) as self.watch:
            if not self.watch.stats()["subscribed"]:
                print(f"attnd does not listen ({self.watch.publisher.where}): training goes on, without numbers")
            for epoch in range(a.epochs):
                loss = self.train_epoch()
                self.watch.epoch_end()
                self.report(epoch, loss)
        self.report_end()
        return self.complete_epochs == a.epochs and not (self.verifier and self.verifier.wrong)

    def train_epoch(self) -> float:
        """Mean loss per character, in nats."""
        self.model.train()
        total = 0.0
        for batch in itertools.islice(self.batches, self.arguments.steps_per_epoch):
            logits = self.model(*batch.given)
            loss = functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(),
                                            ignore_index=chars_data.PAD)
            self.optimizer.zero_grad()
            loss.backward()
            self.watch.log(loss=loss)
            self.optimizer.step()
            self.watch.step()
            total += loss.item()
            if self.verifier:
                self.watch.publisher.drain(DRAIN_WAIT_S)  # every message counts: wait rather than drop
        return total / self.arguments.steps_per_epoch

    # -------------------------------------------------------------------------------------- reporting

    def report(self, epoch: int, loss: float) -> None:
        """Prints the epoch's loss and what attnd says about it."""
        print(f"\nepoch {epoch}  loss {loss:.4f} nats/character")
        if not self.watch.stats()["subscribed"]:
            print("no summaries: attnd is not there")
            return
        begin = time.monotonic()
        summaries = self.collect(epoch)
        missing = [layer for layer in self.watch.layers if layer not in summaries]
        print("\n".join(chars_report.entropy_table(summaries)))
        if missing:
            names = ", ".join(map(chars_report.layer_name, missing))
            print(f"MISSING after {time.monotonic() - begin:.0f} s: no summary of {names}")
            return
        self.complete_epochs += 1
        if self.verifier:
            for layer in self.watch.layers:
                self.verifier.check(layer, summaries[layer])

    def collect(self, epoch: int) -> Dict[Layer, Dict[str, Any]]:
        """The summaries of one epoch, by layer in the model's order; waits a bounded time for all of them."""
        found: Dict[Layer, Dict[str, Any]] = {}
        deadline = time.monotonic() + self.arguments.wait
        while len(found) < len(self.watch.layers):
            summary = self.results.next(max(0.0, deadline - time.monotonic()))
            if summary is None:
                break
            window = summary["window"]
            if summary["run"] == self.watch.publisher.run and (window["unit"], window["last"]) == ("epoch", epoch):
                found[summary["stack"], summary["layer"], summary["site"]] = summary
        return {layer: found[layer] for layer in self.watch.layers if layer in found}

    def report_end(self) -> None:
        """Prints what was lost, and where to look next."""
        stats = self.watch.stats()
        print(f"\npublished {stats['published']}, dropped {stats['dropped']}, skipped {stats['skipped']} "
              f"({stats['sent_bytes'] / 2**20:.1f} MiB sent)")
        if self.verifier:
            if stats["dropped"]:
                print("messages were dropped: the numbers cannot agree")
            print("verified: all numbers are right" if not self.verifier.wrong and self.complete_epochs
                  else f"NOT verified: {self.verifier.wrong} numbers are wrong")
        job = self.arguments.job
        print(f"look further: attnctl summary {job}\n"
              f"              attnctl tail summary/{job}/\n"
              "              attnctl stats")


def main() -> int:
    """Runs the trainer; the exit status."""
    try:
        return 0 if Trainer(parse_arguments()).run() else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
