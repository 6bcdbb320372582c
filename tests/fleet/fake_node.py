# SPDX-License-Identifier: MIT
"""fake_node: a node in Python that says what a test wants it to say (proto/FLEET.md)."""
import math
import os
import threading
import time

import merging
import msgpack
from fleet import state_of, wait_right
from nats import when_stream_is_there

BEAT_S = 0.5


class FakeNode:
    """Its signs of life go out by themselves, unless it is given a connection. `clock_s`: how far its clock is ahead."""

    all = []

    def __init__(self, server, name, run, ranks=(0,), world=1, job="job", rule=("step", 2, 2), node_id=None, clock_s=0, layers=2,
                 heads=3, instance=None, nats=None):
        self.name, self.job, self.run, self.ranks, self.world, self.rule = name, job, run, list(ranks), world, rule
        self.id, self.instance = node_id or os.urandom(8).hex(), instance or os.urandom(8)
        self.clock_s, self.layers, self.heads = clock_s, layers, heads
        self.seq, self.taken, self.rows = 0, None, {}
        self.next_part, self.closed_before, self.step, self.messages = 0, 0, 0, 0
        self.unsent = self.outbox_lost = 0
        self.alive, self.ended, self.asked, self.silent_ns = True, False, [], 0
        self.version, self.answering, self.times = "0.1.0", True, 0
        self.nats = nats or when_stream_is_there(server)
        if nats is None:
            self.nats.subscribe(f"attnd.ask.{self.id}", self._hear)
            self.stop = threading.Event()
            self.thread = threading.Thread(target=self._beat_on, daemon=True)
            self.thread.start()
            FakeNode.all.append(self)

    # ---------------------------------------------------------------------------------------- signs of life

    def _beat_on(self):
        while not self.stop.is_set():
            if self.alive:
                try:
                    self.beat()
                except OSError:
                    pass
            self.stop.wait(BEAT_S)

    def beat(self, **keys):
        runs = [] if self.ended else [[self.run, self.silent_ns, self.world, len(self.ranks)]]
        taken = self.seq if self.taken is None else self.taken
        self.nats.publish(f"attnd.node.{self.id}", msgpack.packb({
            "v": 1, "instance": self.instance, "name": self.name, "host": "fake", "version": self.version, "newest": self.seq,
            "taken": taken, "rows": len(self.rows), "bytes": sum(map(len, list(self.rows.values()))), "unsent": self.unsent,
            "unsent_bytes": 100 * self.unsent, "outbox_lost": self.outbox_lost, "time_ns": self.now(), "stopping": False,
            "runs": runs, **keys}))

    def _hear(self, _, data):
        """A question: what is in the outbox comes again, of the rest it says that it is gone."""
        ask = msgpack.unpackb(data)
        self.asked.append(ask)
        if not ask["from"] or ask["instance"] != self.instance or not self.answering:
            return
        self.times += 1
        there = [seq for seq in sorted(self.rows) if ask["from"] <= seq <= ask["to"]]
        for seq in there:
            self.nats.publish(self.subject, self.rows[seq], self.headers(seq, self.times))
        for before, after in zip([ask["from"] - 1, *there], [*there, ask["to"] + 1]):
            if after - before > 1:
                self.nats.publish(self.subject, b"", {**self.headers(before + 1, self.times),
                                                      "Attnd-Gone": f"{before + 1}-{after - 1}"})

    def now(self):
        return time.time_ns() + int(self.clock_s * 1e9)

    def close(self, says_so=False):
        self.stop.set()
        self.thread.join()
        if says_so:
            self.beat(stopping=True)
            self.nats.flush()
        self.nats.close()

    # ------------------------------------------------------------------------------------------------ bodies

    def progress(self, **keys):
        return {"world": self.world, "ranks": self.ranks, "epoch": 0, "step": self.step, "time_ns": self.now(),
                "received": self.messages, "processed": self.messages, "lost": 0, "dropped": {}, **keys}

    def common(self, kind, **keys):
        return {"v": 1, "kind": kind, "job": self.job, "run": self.run, **keys}

    def rule_of(self, part):
        unit, length, every = self.rule
        return {"unit": unit, "length": length, "every": every, "part": part}

    def part(self, part, layer, state, **keys):
        """The body of a layer's part. `state`: packed."""
        return self.common("part", **{**self.rule_of(part), "stack": "decoder", "layer": layer, "site": "self", "state": state,
                                      **keys})

    def closed(self, part, layers, **keys):
        return self.common("closed", **{**self.rule_of(part), "layers": layers, "next_before": self.closed_before, "complete_from": 0,
                                        "cut": False, **self.progress(), **keys})

    def run_body(self, state="active", **keys):
        return self.common("run", **{"state": state, "points": [], **self.progress(), **keys})

    def states(self, part, layer, **keys):
        """The state of a layer in a part: of all ranks that are here."""
        unit = math.gcd(*self.rule[1:])
        total = None
        for step in range(part * unit, (part + 1) * unit):
            for rank in self.ranks:
                total = state_of(self.heads, rank, step, layer, into=total, **keys)
        return total.pack()

    def close_part(self, part, **keys):
        """The rows of a part that closes: a state per layer, and that it is closed."""
        bodies = [self.part(part, layer, self.states(part, layer, **keys)) for layer in range(self.layers)]
        unit = math.gcd(*self.rule[1:])
        self.step = (part + 1) * unit - 1
        self.messages += self.layers * len(self.ranks) * unit
        bodies.append(self.closed(part, self.layers))
        self.next_part = self.closed_before = part + 1
        return [self.number(body) for body in bodies]

    def number(self, body):
        """Puts a body into the outbox; its seq."""
        self.seq += 1
        self.rows[self.seq] = msgpack.packb(body)
        return self.seq

    # ------------------------------------------------------------------------------------------------ sending

    def headers(self, seq, time_=0, piece="1/1", **keys):
        number = piece.split("/")[0]
        said = {"Nats-Msg-Id": f"{self.id}:{seq}:{number}:{time_}", "Attnd-Seq": seq, "Attnd-Instance": self.instance.hex()}
        if piece != "1/1":
            said["Attnd-Piece"] = piece
        return {key: value for key, value in {**said, **{name.replace("_", "-"): value for name, value in keys.items()}}.items()
                if value is not None}

    @property
    def subject(self):
        return f"attnd.part.{self.id}.{self.run.hex()}"

    def send(self, *seqs, data=None, time_=0, **headers):
        """Rows of the outbox, each taken by the server."""
        asked = [self.nats.asks(self.subject, self.rows[seq] if data is None else data, self.headers(seq, time_, **headers))
                 for seq in seqs]
        return [self.nats.answer(one) for one in asked]

    def send_pieces(self, seq, count, order=None):
        data = self.rows[seq]
        size = -(-len(data) // count)
        for i in order or range(count):
            self.nats.answer(self.nats.asks(self.subject, data[i * size:(i + 1) * size],
                                            self.headers(seq, piece=f"{i + 1}/{count}")))

    def gone(self, first, last, time_=1):
        self.nats.answer(self.nats.asks(self.subject, b"", {**self.headers(first, time_), "Attnd-Gone": f"{first}-{last}"}))

    def end(self):
        self.send(self.number(self.run_body("ended")))
        self.ended = True

    def play(self, parts, **keys):
        """Closes and sends the next `parts`."""
        for part in range(self.next_part, self.next_part + parts):
            self.send(*self.close_part(part, **keys))


def parts_of(nodes):
    """{(layer, last): [packed state of each node]} of all parts in the outboxes, which a hub with the rule `length` = `every`
    must have merged."""
    newest, found = {}, {}
    for node in sorted(nodes, key=lambda node: node.id):
        for data in node.rows.values():  # in the order of their numbers
            body = msgpack.unpackb(data)
            if body["kind"] == "part":
                newest[body["layer"], (body["part"] + 1) * body["length"] - 1, node.id] = body["state"]
    for (layer, last, _), state in newest.items():
        found.setdefault((layer, last), []).append(state)
    return found


def differences(hub, nodes):
    """Sentences: where the windows of the hub's history are not the merge of what these nodes have."""
    want = parts_of(nodes)
    have = {(key[3], key[8]): window for key, window in merging.windows_of(hub.history_path).items()
            if key[:2] == (nodes[0].job, nodes[0].run)}
    found = [f"layer {layer}, last {last}: on one side only" for layer, last in sorted(set(want) ^ set(have))]
    if found:
        return found
    for key in sorted(want):
        if have[key].data is None or not have[key].final:
            found.append(f"{key}: no final state")
        else:
            found += [f"{key}: {one}" for one in merging.not_merged(have[key].data, *want[key])]
    return found


def wait_merged(hub, nodes):
    """Until the hub has what these nodes have, and says that nothing is missing."""
    wait_right(lambda: differences(hub, nodes), "the merge", lambda: (hub.fleet(), hub.log_text()[-3000:]))


def play_merged(hub, nodes, parts=1):
    """Has each node send its next parts, and waits until they are merged."""
    for node in nodes:
        node.play(parts)
    wait_merged(hub, nodes)
