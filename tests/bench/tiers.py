#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench tiers: processor time of attnd for a captured layer, sent as its state and as queries and keys.

    ATTND_BIN=build/daemon/attnd python3 tests/bench/tiers.py [layers=32] [steps=40] [queries=3] [heads=32] [keys=4096]
                                                              [dim=128] [SECTION.KEY=VALUE...]

The same f32 queries and keys, causal, [1, heads, keys, dim], by a real attnd on ipc sockets, with its own settings but those
that are given: `steps` captured steps of `layers` states, which attnd.device.layer_state makes beforehand (three, and each
layer has one of them), and `queries` layers by publish_qk. A first step and a first layer are not counted. Prints one JSON
line. Needs torch; the queries and keys of a layer of the default take 128 MiB, and some minutes.
"""
import json
import os
import pathlib
import sys
import tempfile

import msgpack
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/e2e"), str(ROOT / "clients/python")]
import attnd  # noqa: E402
import harness  # noqa: E402

KINDS = 3  # of layers


def processor_seconds(daemon):
    """What its threads have run."""
    total = 0
    for task in os.listdir(f"/proc/{daemon.process.pid}/task"):
        with open(f"/proc/{daemon.process.pid}/task/{task}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def of_step(state, step):
    """The same state as of another step."""
    document = msgpack.unpackb(state, strict_map_key=False)
    document["newest"][1] = step
    return msgpack.packb(document)


class Bench:
    """A daemon, and a training of one rank that sends a message and waits until attnd has taken it."""

    def __init__(self, settings):
        self.folder = tempfile.TemporaryDirectory(prefix="attnd-bench-")
        self.daemon = harness.Attnd(*settings, directory=self.folder.name)
        self.publisher = attnd.Publisher("bench", endpoint=self.daemon.endpoint("ingest"), queue_bytes=1 << 30)
        assert self.publisher.wait_for_subscriber(60)
        self.sent = 0

    def seconds(self, publish, count):
        """Processor time of attnd for publish(0), publish(1), ..., each of which queues messages and says how many."""
        begin = processor_seconds(self.daemon)
        for i in range(count):
            self.sent += publish(i)
            self.daemon.settled(self.sent)
        return processor_seconds(self.daemon) - begin

    def close(self):
        stats = self.daemon.settled(self.sent)
        assert not any(stats["dropped"].values()), stats["dropped"]
        self.publisher.close()
        self.daemon.close()
        self.folder.cleanup()


def main():
    options = {"layers": 32, "steps": 40, "queries": 3, "heads": 32, "keys": 4096, "dim": 128}
    settings = []
    for argument in sys.argv[1:]:
        name, value = argument.split("=", 1)
        if name in options:
            options[name] = int(value)
        else:
            settings.append(argument)
    shape = [1, options["heads"], options["keys"], options["dim"]]
    generator = torch.Generator().manual_seed(1)
    vectors = [[torch.randn(shape, generator=generator) for _ in range(2)] for _ in range(KINDS)]
    states = [attnd.device.layer_state(q, k, causal=True) for q, k in vectors]
    bench = Bench(settings)

    def publish_queries(i):
        q, k = vectors[i % KINDS]
        assert bench.publisher.publish_qk(q, k, stack="decoder", layer=0, step=i, causal=True)
        return 1

    def publish_states(i):
        packed = [of_step(state, i) for state in states]
        for layer in range(options["layers"]):
            assert bench.publisher.publish_state(packed[layer % KINDS], stack="decoder", layer=1 + layer)
        return options["layers"]

    bench.seconds(publish_queries, 1)
    queries = bench.seconds(lambda i: publish_queries(i + 1), options["queries"]) / options["queries"]
    bench.seconds(publish_states, 1)
    step = bench.seconds(lambda i: publish_states(i + 1), options["steps"]) / options["steps"]
    bench.close()
    layer = step / options["layers"]
    print(json.dumps({"bench": "tiers", "shape": shape, "layers": options["layers"], "settings": settings,
                      "state_bytes": max(map(len, states)), "state_ms_per_step": round(1e3 * step, 2),
                      "state_ms_per_layer": round(1e3 * layer, 3), "qk_ms_per_layer": round(1e3 * queries, 1),
                      "ratio": round(queries / layer, 1)}))


if __name__ == "__main__":
    main()
