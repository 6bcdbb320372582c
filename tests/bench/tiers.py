#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench tiers: processor time of attnd for a captured layer, sent as sums of its rows and as queries and keys.

    ATTND_BIN=build/daemon/attnd python3 tests/bench/tiers.py [layers=32] [steps=40] [queries=3] [heads=32] [rows=256]
                                                              [keys=4096] [dim=128] [whole=1] [SECTION.KEY=VALUE...]

A causal layer of `heads` heads and `keys` keys, of whose queries `rows` are taken, evenly spaced, by a real attnd on ipc
sockets, with its own settings but those that are given: `steps` captured steps of `layers` messages of type `rows`, made by
numpy of random logits, without what importance needs, or with whole=1 as if they were all rows; and `queries` layers of type
`qk`, f32 queries of these rows and all keys, of `dim` numbers. A first step and a first layer are not counted. Prints one
JSON line.
"""
import json
import os
import pathlib
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "clients/python")]
import harness  # noqa: E402

KINDS = 3  # of layers


def processor_seconds(daemon):
    """What its threads have run."""
    total = 0
    for task in os.listdir(f"/proc/{daemon.process.pid}/task"):
        with open(f"/proc/{daemon.process.pid}/task/{task}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


SUMS = ("largest", "total", "weighted", "distance", "first", "finite", "shift", "logits", "logit_squares", "smallest", "cosines",
        "cosine_count", "cosine_max", "query_length", "square", "top", "eighth", "local", "previous", "own", "next")
POWERS = tuple(f"power_{n}" for n in range(3, 8))


def sums_of(heads, rows, keys, whole, generator):
    """Sums [S, 1, H, R] and places [8, 1, R] of a layer's rows: causal, logits of a normal distribution, key 0 apart."""
    p = keys // rows * (1 + np.arange(rows)) - 1
    sums = np.zeros((len(SUMS + POWERS * whole), 1, heads, rows), np.float32)
    for h in range(heads):
        for i, at in enumerate(p):
            s = generator.normal(size=at + 1)
            rest, gap = s[1:], at - np.arange(1, at + 1)
            below = rest - rest.max(initial=-np.inf)
            e, top = np.exp(below), np.sort(np.exp(below))[-8:]
            near = [s[at - 1] if at > 1 else -np.inf, s[at] if at > 0 else -np.inf, -np.inf]
            sums[:, 0, h, i] = (rest.max(initial=-np.inf), e.sum(), (e * below).sum(), (e * gap).sum(), s[0], at + 1, s[0],
                                (s - s[0]).sum(), ((s - s[0])**2).sum(), s.min(), s.sum(), at + 1, s.max(), 10, (e**2).sum(),
                                top.sum(), top[0] if len(top) == 8 else 0, e[gap <= 8].sum(), *near,
                                *((e**n).sum() for n in range(3, 8) if whole))
    even = np.ones(rows)
    return sums, np.stack([p, keys * even, 0 * even, even, p + 1, p, even, 0 * even])[:, None].astype(np.int32)


class Bench:
    """A daemon, and a training of one rank that sends messages and waits until attnd has taken them."""

    def __init__(self, settings):
        self.folder = tempfile.TemporaryDirectory(prefix="attnd-bench-")
        self.daemon = harness.Attnd(*settings, directory=self.folder.name)
        self.trainer, self.sent = harness.Trainer(self.daemon, "bench"), 0

    def seconds(self, send, count):
        """Processor time of attnd for send(1), ..., send(count), each of which sends messages and says how many; after send(0)."""
        begin = 0.0
        for i in range(count + 1):
            if i == 1:
                begin = processor_seconds(self.daemon)
            self.sent += send(i)
            self.daemon.settled(self.sent)
        return processor_seconds(self.daemon) - begin

    def close(self):
        stats = self.daemon.settled(self.sent)
        assert not any(stats["dropped"].values()), stats["dropped"]
        self.daemon.close()
        self.folder.cleanup()


def main():
    options = {"layers": 32, "steps": 40, "queries": 3, "heads": 32, "rows": 256, "keys": 4096, "dim": 128, "whole": 0}
    settings = []
    for argument in sys.argv[1:]:
        name, value = argument.split("=", 1)
        if name in options:
            options[name] = int(value)
        else:
            settings.append(argument)
    heads, rows, keys, whole = options["heads"], options["rows"], options["keys"], bool(options["whole"])
    generator, stride = np.random.default_rng(1), keys // rows
    kinds = [sums_of(heads, rows, keys, whole, generator) for _ in range(KINDS)]
    lengths = np.full((1, heads, keys), 10, np.float32)
    header = {"sums": [*SUMS, *POWERS * whole], "queries": rows if whole else keys, "keys": keys, "causal": True}
    bench = Bench(settings)

    def send_rows(step):
        for layer in range(options["layers"]):
            sums, places = kinds[layer % KINDS]
            bench.trainer.send(*bench.trainer.tensor_frames("rows", {"sums": sums, "places": places, "key_lengths": lengths},
                                                            layer=layer, step=step, **header))
        return options["layers"]

    def send_queries(step):
        q, k = (generator.normal(size=(1, heads, count, options["dim"])).astype(np.float32) for count in (rows, keys))
        bench.trainer.qk(q, k, layer=options["layers"], step=step, scale=options["dim"]**-0.5, causal=True, q_offset=stride - 1,
                         **({"q_stride": stride} if stride > 1 else {}))
        return 1

    layer = bench.seconds(send_rows, options["steps"]) / options["steps"] / options["layers"]
    queries = bench.seconds(send_queries, options["queries"]) / options["queries"] if options["queries"] else None
    bench.close()
    of_queries = {} if queries is None else {"qk_ms_per_layer": round(1e3 * queries, 1), "ratio": round(queries / layer, 1)}
    print(json.dumps({"bench": "tiers", "rows": rows, "heads": heads, "keys": keys, "dim": options["dim"], "whole": whole,
                      "layers": options["layers"], "settings": settings,
                      "bytes": kinds[0][0].nbytes + kinds[0][1].nbytes + lengths.nbytes,
                      "rows_ms_per_step": round(1e3 * layer * options["layers"], 2), "rows_ms_per_layer": round(1e3 * layer, 3),
                      **of_queries}))


if __name__ == "__main__":
    main()
