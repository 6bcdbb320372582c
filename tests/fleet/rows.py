# SPDX-License-Identifier: MIT
"""rows: what a node has in its outbox, what of it is in the stream, and a hub's voice."""
import contextlib
import sqlite3

import msgpack
from fleet import Training
from harness import wait_until
from nats import Nats, when_stream_is_there


def outbox(node):
    """{seq: body} as the node's history has it."""
    with contextlib.closing(sqlite3.connect(f"file:{node.history_path}?mode=ro", uri=True)) as db:
        return {seq: msgpack.unpackb(body) for seq, body in db.execute("SELECT seq, body FROM outbox_bodies")}


def stream(server, id=None):
    """({(seq, time): body}, rows that are gone) of the stream, pieces put together."""
    client, bodies, pieces, gone = when_stream_is_there(server), {}, {}, []
    with contextlib.closing(client):
        state = client.stream()["state"]
        for number in range(state["first_seq"], state["last_seq"] + 1):
            headers, data = client.message(number)
            if "Attnd-Skipped" in headers:
                continue
            if "Attnd-Gone" in headers:
                assert data == b""
                gone.append(tuple(map(int, headers["Attnd-Gone"].split("-"))))
                continue
            node, seq, piece, time_ = headers["Nats-Msg-Id"].split(":")
            if id is None or node == id:
                assert headers["Attnd-Seq"] == seq
                said, _, count = headers.get("Attnd-Piece", "1/1").partition("/")
                assert said == piece
                # No two servers cut a row in as many pieces, elsewhere.
                assert not count or said == count or len(data).bit_count() == 1
                pieces.setdefault((int(seq), int(time_)), {})[int(piece)] = (int(count), data)
    for key, found in pieces.items():
        if len(found) == found[1][0]:
            bodies[key] = msgpack.unpackb(b"".join(found[i][1] for i in sorted(found)))
    return bodies, gone


def all_sent(server, node, count=1):
    """Each row of the outbox, at least `count`, is in the stream, and no number was given to two."""
    wait_until(lambda: node.sent() and node.fleet()["rows"] >= count, f"all is sent ({node.fleet()})")
    rows, (bodies, _) = outbox(node), stream(server, node.fleet()["id"])
    for (seq, _), body in bodies.items():
        assert rows.get(seq, body) == body, seq
    assert set(rows) == {seq for seq, _ in bodies} & set(rows)
    return rows


def rank_two(node, steps=12, **keys):
    training = Training([node] * 2, **keys)
    training.steps(steps)
    return training


@contextlib.contextmanager
def asking(server, node):
    """A hub's voice: say(**keys)."""
    client, beats = Nats(server), []
    node_id = node.fleet()["id"]
    client.subscribe(f"attnd.node.{node_id}", lambda subject, data: beats.append(msgpack.unpackb(data)))
    wait_until(lambda: beats, "a sign of life")

    def say(first=0, last=0, refused="", pause=True):
        client.publish(f"attnd.ask.{node_id}", msgpack.packb(
            {"v": 1, "hub": "test", "instance": beats[-1]["instance"], "from": first, "to": last, "refused": refused,
             "pause": pause}))
        client.flush()
    try:
        yield say, beats
    finally:
        client.close()
