#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""bench fleet: nodes and a hub over a real nats-server, one JSON line per part.

    ATTND_BIN=build/daemon/attnd python3 tests/bench/fleet.py [PART...] [nodes=512] [layers=80] [heads=64] [seconds=30] [pairs=5]

node     processor time of an attnd that gets attention maps, as a node against without a fleet; without a server and with one
uplink   a node's outbox to a local nats-server: MB/s, processor time of attnd, and against bare messages as large
hub      parts of 64 heads that wait in the stream: how many a second the hub validates, keeps and commits, processor time
merge    one layer of 512 nodes: from the last message to the summary, MiB more than before
latency  from the last node's last row to the summary, 16 simulated nodes of 4 layers, a window a second
play     512 nodes' parts at the rate of a training: one window of 80 layers each 500 s, for `seconds`; with seconds=500 a
         whole one, until it is shown

Processor times are of all threads of the process. Parts are recorded ones: states of random softmax rows with every metric
of a row, of as many heads; simulated nodes send the same eight again and again, with numbers and positions of their own. The
node of `uplink` makes its own, of sums of rows.
"""
import itertools
import json
import os
import pathlib
import statistics
import sys
import threading
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests/fleet"), str(ROOT / "tests/e2e"), str(ROOT / "clients/python")]
import harness  # noqa: E402
import layer_state  # noqa: E402
import row_sums  # noqa: E402
from fake_node import FakeNode  # noqa: E402
from fleet import WINDOW, Hub, Node, Server, Training  # noqa: E402
from nats import when_stream_is_there  # noqa: E402

OPTIONS = {"nodes": 512, "layers": 80, "heads": 64, "seconds": 30, "pairs": 5}
LONG = ("window.timeout=1h", "window.rank_grace=0s", "history.commit=1s", "history.checkpoint=1h")
ONE_STEP = ("window.length=1", "window.every=1")
RECORDED = 8


def cpu_s(process):
    with open(f"/proc/{process.pid}/stat") as file:
        words = file.read().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(process, key="VmRSS"):
    with open(f"/proc/{process.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(key + ":")) / 1024


def wait_until(condition, what, timeout=600, pause_s=0.005):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(pause_s)
    return value


def recorded(heads, step=0, count=RECORDED):
    """States of one layer with every metric of a row, packed; 80 to 240 KiB for 64 heads."""
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        state = layer_state.LayerState(heads)
        for microbatch in range(2):
            rows = {name: rng.gamma(rng.uniform(0.3, 3), rng.uniform(0.01, 5), (1, heads, 256)) for name in layer_state.ROW_METRICS}
            values = {name: rng.gamma(2.0, 1.0, heads) for name in layer_state.MESSAGE_METRICS}
            state.add(rows, keys=256, step=step, microbatch=microbatch, rank=seed, valid=np.ones((1, 256), bool), values=values,
                      time_ns=10**18 + step, row_sum_error=1e-6)
        found.append(state.pack())
    return found


def play_bodies(node, part, layers, states, closed=True):
    """The rows of a part that closes, as bytes: a state per layer, and that it is closed."""
    for layer in range(layers):
        yield node.number(node.part(part, layer, states[layer % len(states)]))
    node.step = part
    node.messages += layers
    if closed:
        yield node.number(node.closed(part, layers))
        node.closed_before = part + 1


def simulated(nats, run, count, layers):
    return [FakeNode(None, f"node-{i:03}", run, ranks=(i,), world=count, rule=("step", 1, 1), node_id=f"{i + 1:016x}", nats=nats,
                     layers=layers) for i in range(count)]


class Beats:
    """Signs of life of simulated nodes, each every 2 s."""

    def __init__(self, nodes):
        self.nodes, self.stop = nodes, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.stop.is_set():
            for node in self.nodes:
                node.beat()
                if self.stop.wait(2 / len(self.nodes)):
                    return

    def end(self):
        self.stop.set()
        self.thread.join()


def send(nats, messages, on_their_way=64):
    """Each is (subject, data, headers)."""
    asked = []
    for message in messages:
        asked.append(nats.asks(*message))
        if len(asked) >= on_their_way:
            nats.answer(asked.pop(0))
    for one in asked:
        nats.answer(one)


def row_of(node, seq):
    """For send."""
    return node.subject, node.rows.pop(seq), node.headers(seq)


def ended(*members, servers=()):
    for one in members:
        one.discard()
    for one in servers:
        one.discard()


# -------------------------------------------------------------------------------------------------- parts

def node_part(options):
    """Maps as a training sends them; windows of 4 steps."""
    heads, length, layers, steps = 12, 256, 4, 48
    rng = np.random.default_rng(1)
    frames = [harness.softmax_maps(rng, 1, heads, length, length, causal=True) for _ in range(layers)]
    settings = ("window.length=4", "window.every=4", "plan.cost_max=0", *LONG)

    def spent(attnd):
        trainer = harness.Trainer(attnd, "bench")
        before = None
        for step in range(steps + 4):
            if step == 4:
                wait_until(lambda: attnd.stats()["processed"] >= 4 * layers, "the first messages")
                before = cpu_s(attnd.process)
            for layer in range(layers):
                trainer.attention(frames[layer], step=step, layer=layer, causal=True)
        wait_until(lambda: attnd.stats()["processed"] >= (steps + 4) * layers, "all messages")
        if getattr(attnd, "role", None) and attnd.fleet()["connected"]:
            wait_until(attnd.sent, "all parts")
        trainer.close()
        return cpu_s(attnd.process) - before

    for with_server in (False, True):
        ratios = []
        for _ in range(options["pairs"]):
            server = Server()
            if not with_server:
                server.stop()
            node, alone = Node(server, "node", *settings), harness.Attnd(*WINDOW, *settings)
            if with_server:
                wait_until(lambda: node.fleet()["connected"], "the connection")
            ratios.append(spent(node) / spent(alone))
            ended(node, alone, servers=[server])
        yield {"part": "node", "server": with_server, "ratio": round(statistics.median(ratios), 3),
               "ratios": [round(ratio, 3) for ratio in sorted(ratios)], "least": "<= 1.05"}


def uplink_part(options):
    server = Server()
    server.stop()
    node = Node(server, "node", *ONE_STEP, *LONG)
    training = Training([node], heads=options["heads"], layers=4)
    rng = np.random.default_rng(0)
    rows = [row_sums.rows_of(rng.normal(0, temperature, (1, options["heads"], 64, 256)), causal=True) for temperature in (0.5, 1, 2, 4)]
    steps = 300  # the last mark waits 0.1 s for others: long enough that it does not count
    for step in range(steps):
        for layer in range(4):
            training.trainers[0].rows(rows[layer], step=step, layer=layer)
        wait_until(lambda step=step: node.stats()["processed"] >= 4 * step, "the messages")
    wait_until(lambda: node.fleet()["rows"] >= (steps - 1) * 5, "the rows", 100)
    answer = node.fleet()
    before = cpu_s(node.process)
    server.start()
    wait_until(lambda: node.fleet()["connected"], "the connection", pause_s=0.001)
    begin = time.monotonic()
    wait_until(lambda: node.fleet()["unsent"] == 0, "all rows", pause_s=0.01)
    seconds, spent = time.monotonic() - begin, cpu_s(node.process) - before
    ended(node)
    size = answer["unsent_bytes"] // answer["unsent"]
    bare = bare_mb_per_s(server, size, answer["unsent"])
    ended(servers=[server])
    yield {"part": "uplink", "kib": round(size / 1024), "rows": answer["unsent"],
           "of_bare": round(answer["unsent_bytes"] / seconds / 1e6 / bare, 2), "bare_mb_per_s": round(bare, 1),
           "mb_per_s": round(answer["unsent_bytes"] / seconds / 1e6, 1),
           "mb_per_cpu_s": round(answer["unsent_bytes"] / spent / 1e6, 1), "least": ">= 100 MB/s"}


def bare_mb_per_s(server, size, count):
    """Messages as large to the same stream, 64 on their way."""
    nats, data = when_stream_is_there(server), bytes(size)
    begin = time.monotonic()
    send(nats, ((f"attnd.part.{'0' * 16}.{'0' * 32}", data, {"Nats-Msg-Id": f"bare:{i}"}) for i in range(count)))
    seconds = time.monotonic() - begin
    nats.close()
    return size * count / seconds / 1e6


def in_stream(options, layers):
    """A hub that has stopped, and a stream with the first part of each of its nodes, which they do not say to be closed."""
    server = Server()
    hub = Hub(server, "hub", *ONE_STEP, *LONG)
    nats = when_stream_is_there(server)
    nodes = simulated(nats, os.urandom(16), options["nodes"], layers)
    hub.stop(15)
    states = recorded(options["heads"])
    send(nats, (row_of(node, seq) for i, node in enumerate(nodes)
                for seq in play_bodies(node, 0, layers, states[i % RECORDED:] + states[:i % RECORDED], closed=False)))
    return server, hub, nats, nodes, len(states[0])


def hub_part(options):
    server, hub, nats, nodes, size = in_stream({**options, "nodes": 64}, 48)
    rows = 64 * 48
    hub.start()
    before, begin = cpu_s(hub.process), time.monotonic()
    wait_until(lambda: hub.fleet()["received"] >= rows, f"{rows} rows", pause_s=0.02)
    seconds, spent = time.monotonic() - begin, cpu_s(hub.process) - before
    nats.close()
    ended(hub, servers=[server])
    yield {"part": "hub", "kib": round(size / 1024), "rows": rows, "per_s": round(rows / seconds),
           "per_cpu_s": round(rows / spent), "least": ">= 400 a second"}


def merge_part(options):
    """All but the last node's `closed` are there."""
    server, hub, nats, nodes, size = in_stream(options, 1)
    hub.start()
    beats = Beats(nodes)
    wait_until(lambda: hub.fleet()["received"] >= len(nodes), "the parts", pause_s=0.02)
    send_closed(nodes[:-1])
    wait_until(lambda: hub.fleet()["received"] >= 2 * len(nodes) - 1, "what is closed", pause_s=0.02)
    reader = harness.Reader(hub, "summary/")
    memory = memory_mib(hub.process)
    before, begin = cpu_s(hub.process), time.monotonic()
    send_closed(nodes[-1:])
    reader.next(120)
    seconds, spent = time.monotonic() - begin, cpu_s(hub.process) - before
    beats.end()
    peak = memory_mib(hub.process, "VmHWM")
    nats.close()
    ended(hub, servers=[server])
    yield {"part": "merge", "nodes": len(nodes), "heads": options["heads"], "kib": round(size / 1024), "ms": round(1000 * seconds),
           "cpu_ms": round(1000 * spent), "mib_before": round(memory), "mib_peak": round(peak), "least": "<= 350 ms, <= 200 MB"}


def send_closed(nodes):
    send(nodes[0].nats, (row_of(node, node.number(node.closed(0, node.layers))) for node in nodes), len(nodes) + 1)


def latency_part(options):
    server = Server()
    hub = Hub(server, "hub", *ONE_STEP, *LONG)
    nats = when_stream_is_there(server)
    nodes, layers = simulated(nats, os.urandom(16), 16, 4), 4
    beats, reader = Beats(nodes), harness.Reader(hub, "summary/")
    states, found = recorded(options["heads"]), []
    for part in range(max(10, options["seconds"])):
        begin = time.monotonic()
        for node in nodes:
            send(nats, (row_of(node, seq) for seq in play_bodies(node, part, layers, states)))
        closed = time.monotonic()
        whole = set()
        while len(whole) < layers:  # one that was shown without some node comes again
            _, summary = reader.next(120)
            if summary["window"]["last"] == part and summary.get("nodes") == len(nodes):
                whole.add(summary["layer"])
        found.append(time.monotonic() - closed)
        time.sleep(max(0, begin + 1 - time.monotonic()))
    beats.end()
    nats.close()
    ended(hub, servers=[server])
    yield {"part": "latency", "nodes": 16, "layers": layers, "windows": len(found), "median_ms": round(1000 * statistics.median(found)),
           "p90_ms": round(1000 * sorted(found)[len(found) * 9 // 10]), "least": "<= 2000 ms"}


def play_part(options):
    """Rows at the rate of a training, whose nodes close each layer's part one after the other."""
    count, layers, window_s = options["nodes"], options["layers"], 500
    server = Server("max_file: 32GB")
    hub = Hub(server, "hub", *ONE_STEP, *LONG, "fleet.keep=1h", "fleet.outbox=64GiB", "fleet.stream=16GiB")
    nats = when_stream_is_there(server)
    nodes, states = simulated(nats, os.urandom(16), count, layers), recorded(options["heads"])
    rate = count * (layers + 1) / window_s
    beats, sent, asked, waiting = Beats(nodes), 0, [], []
    before, begin = cpu_s(hub.process), time.monotonic()

    rows = itertools.cycle([(node, play_bodies(node, 0, layers, states)) for node in nodes])
    while sent < count * (layers + 1) and (now := time.monotonic() - begin) < options["seconds"]:
        if now < sent / rate:
            time.sleep(0.005)
            continue
        node, bodies = next(rows)
        seq = next(bodies)
        asked.append(nats.asks(*row_of(node, seq)))
        sent += 1
        if len(asked) > 32:
            nats.answer(asked.pop(0))
        if sent % 200 == 0:
            waiting.append(hub.fleet()["waiting"])
    for one in asked:
        nats.answer(one)
    wait_until(lambda: hub.fleet()["received"] >= sent, "all rows")
    late = time.monotonic() - begin - sent / rate
    spent = cpu_s(hub.process) - before
    whole = sent == count * (layers + 1)
    if whole:
        wait_until(lambda: hub.fleet()["merged"], "the window")
    shown = time.monotonic() - begin - sent / rate if whole else None
    beats.end()
    nats.close()
    memory = memory_mib(hub.process, "VmHWM")
    ended(hub, servers=[server])
    yield {"part": "play", "nodes": count, "layers": layers, "kib": round(len(states[0]) / 1024), "rows": sent,
           "rows_per_s": round(rate, 1), "mb_per_s": round(rate * len(states[0]) / 1e6, 1), "waiting_most": max(waiting, default=0),
           "through_after_s": round(late, 2), "shown_after_s": shown and round(shown, 1),
           "cpu_share": round(spent / (sent / rate + late), 3), "mib_peak": round(memory)}


PARTS = {"node": node_part, "uplink": uplink_part, "hub": hub_part, "merge": merge_part, "latency": latency_part, "play": play_part}


def main():
    options, names = dict(OPTIONS), []
    for argument in sys.argv[1:]:
        key, _, value = argument.partition("=")
        if key not in (OPTIONS if value else PARTS):
            sys.exit(__doc__)
        if value:
            options[key] = int(value)
        else:
            names.append(key)
    for name in names or PARTS:
        try:
            for line in PARTS[name](options):
                print(json.dumps(line), flush=True)
        finally:
            while harness.Attnd.all:
                harness.Attnd.all.pop().discard()
            while Server.all:
                Server.all.pop().discard()


if __name__ == "__main__":
    main()
