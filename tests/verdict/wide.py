# SPDX-License-Identifier: MIT
"""Wide models, which nobody trains here: publishes maps and matrices as they would, some with a fault, and judges what
attnd says, as runs.py does.

    wide.py [--attnd build/daemon/attnd] [--seeds FIRST-LAST] [--sizes 24x16,80x64] [--kinds KIND,...]

Each head learns one pattern of its own (previous token, itself, first token, delimiters, nearby, content, nearly
uniform) at a pace and to a strength of its own, with noise in each step. Windows are WINDOW steps. Exit status 1:
something is green or false, or not all are right. Needs numpy, pyzmq and msgpack; torch for runs.py, which it uses.
"""
import argparse
import json
import random
import sys

import runs  # noqa: I001 (its paths come first)
import harness
import numpy as np
from faults import KINDS, Fault
from harness import Trainer, wait_until

WINDOW, STEPS, T, DIM = 4, 48, 12, 2
PATTERNS = 7
PUBLISHED = ("collapse", "uniform", "dead_output", "not_a_number", "future", "twins", "sink_takeover", "never_learned")


def patterns(rng: np.random.Generator) -> np.ndarray:
    """Logits [PATTERNS, T, T] of each pattern at strength 1."""
    at, key = np.indices((T, T))
    return np.stack([key == at - 1, key == at, key == 0, key % 4 == 1, -abs(at - key) / 4, rng.normal(size=(T, T)),
                     0.2 * rng.normal(size=(T, T))]).astype(float)


class Wide:
    """A model of [layers] x [heads]; what it sends of each step."""

    def __init__(self, layers: int, heads: int, fault: "Fault | None", kind: str, seed: int):
        self.rng, self.layers, self.heads, self.fault, self.kind = np.random.default_rng(seed), layers, heads, fault, kind
        self.patterns = patterns(self.rng)
        self.of_head = self.rng.integers(0, PATTERNS, (layers, heads))
        self.strength = self.rng.uniform(3, 7, (layers, heads))
        self.pace = self.rng.uniform(4, 12, (layers, heads))
        self.matrices = {name: self.rng.normal(size=(layers, heads * DIM, heads * DIM)).astype(np.float32)
                         for name in ("wq", "wk", "wv", "wo")}

    def is_sick(self, layer: int, step: int) -> bool:
        return self.fault is not None and step >= self.fault.begin and self.fault.place in (layer, -1)

    def weights(self, layer: int, step: int) -> np.ndarray:
        """[1, heads, T, T]"""
        strength = (self.strength[layer] * (1 - np.exp(-step / self.pace[layer])))[:, None, None]
        logits = self.patterns[self.of_head[layer]] * strength + 0.2 * self.rng.normal(size=(self.heads, T, T))
        ahead, some = np.arange(T)[None] > np.arange(T)[:, None], slice(None)
        if self.is_sick(layer, step):
            some = slice(None) if self.fault.head < 0 else self.fault.head
            if self.kind in ("uniform", "never_learned"):
                logits[some] = 0
            elif self.kind == "not_a_number":
                logits[some] = np.nan
            elif self.kind == "collapse":
                key = np.minimum(1 + self.rng.integers(0, T, T) % np.maximum(np.arange(T), 1), np.arange(T))
                logits[:, np.arange(T), key] += 40  # any but the first, which would be a sink
            elif self.kind == "sink_takeover":
                logits[..., 0] += 4.0 * (step - self.fault.begin + 1)
            ahead = ahead & (self.kind != "future")
        logits = np.where(ahead, -np.inf, logits)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)[None]

    def projections(self, layer: int, step: int) -> dict:
        """W_q, W_k, W_v, W_o of a layer."""
        made = {name: of[layer].copy() for name, of in self.matrices.items()}
        if self.is_sick(layer, step) and self.kind == "dead_output":
            made["wo"][:, self.fault.head * DIM:(self.fault.head + 1) * DIM] *= 1e-3
        if self.is_sick(layer, step) and self.kind == "twins":
            for name in ("wq", "wk", "wv"):
                one, other = (slice(head * DIM, (head + 1) * DIM) for head in (self.fault.head, self.fault.mate))
                made[name][other] = made[name][one]
        return made


def plant(kind: str, layers: int, heads: int, seed: int) -> "Fault | None":
    """A fault of this kind at a random place; None: of a healthy run."""
    if kind == "healthy":
        return None
    chosen, how = random.Random(f"{kind} {layers} {seed}"), KINDS[kind]
    place = -1 if how.everywhere and kind == "sink_takeover" else chosen.randrange(1, layers)
    head = chosen.randrange(heads) if how.of_head else -1
    begin = 0 if how.from_start else chosen.randrange(STEPS // 2 - WINDOW, STEPS // 2)
    return Fault(how.check, place, head, begin, (head + 1) % heads if how.multihead else -1)


def publish(attnd: object, job: str, model: Wide) -> None:
    trainer, sent = Trainer(attnd, job), 0
    for step in range(STEPS):
        for layer in range(model.layers):
            trainer.attention(model.weights(layer, step), layer=layer, step=step, causal=model.kind != "future" or layer == 0)
            if step % WINDOW == 0:
                trainer.projections(layer=layer, step=step, heads=model.heads, kv_heads=model.heads, head_dim=DIM,
                                    **model.projections(layer, step))
                sent += 1
        sent += model.layers
        wait_until(lambda: attnd.stats()["in_flight"] < 200, "attnd to keep up")
    trainer.event("bye", step=STEPS - 1)
    wait_until(lambda: sum(one["received"] for one in attnd.call("jobs") if one["job"] == job) == sent + 1, "all of it")
    dropped = [one["dropped"] for one in attnd.call("jobs") if one["job"] == job]
    assert not any(dropped), dropped
    trainer.close()


def run(daemon: runs.Daemon, attnd: object, kind: str, size: str, seed: int) -> dict:
    """The line of a run."""
    layers, heads = map(int, size.split("x"))
    fault, job = plant(kind, layers, heads, seed), f"{kind}.{size}.{seed}"
    publish(attnd, job, Wide(layers, heads, fault, kind, seed))
    place = ("decoder", fault.place, "self") if fault is not None and fault.place >= 0 else None
    return runs.judge({"job": job, "kind": kind, "rate": 0, "fault": fault, "place": place, "loss": 0, "alerts": daemon.alerts(job)})


def main() -> None:
    parser = argparse.ArgumentParser(description="Publishes wide models, some with a fault, and judges what attnd says of them.")
    parser.add_argument("--attnd", default=str(runs.ROOT / "build/daemon/attnd"))
    parser.add_argument("--seeds", default="101-105", metavar="FIRST-LAST")
    parser.add_argument("--sizes", default="24x16,80x64")
    parser.add_argument("--kinds", default=",".join(["healthy", *PUBLISHED]))
    options = parser.parse_args()
    harness.ATTND, runs.WINDOW = options.attnd, WINDOW
    attnd = harness.Attnd(*runs.SETTINGS[1:], "window.unit=step", f"window.length={WINDOW}", f"window.every={WINDOW}")
    first, last = (int(x) for x in options.seeds.split("-"))
    lines = []
    try:
        for seed in range(first, last + 1):
            for size in options.sizes.split(","):
                for kind in options.kinds.split(","):
                    lines.append(run(runs.Daemon(attnd), attnd, kind, size, seed))
                    print(json.dumps(lines[-1]), flush=True)
    finally:
        attnd.close()
    print("\n".join(runs.table(lines)))
    sick = [line for line in lines if line["kind"] != "healthy"]
    sys.exit(any(line["false"] for line in lines) or any(line["green"] or not line["right"] for line in sick))


if __name__ == "__main__":
    main()
