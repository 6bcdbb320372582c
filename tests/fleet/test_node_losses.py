# SPDX-License-Identifier: MIT
"""A node alone with its servers: the rows of its outbox are in the stream, whatever ends or is lost on the way."""
import contextlib
import os
import shutil
import signal
import sqlite3
from types import SimpleNamespace

import merging
import msgpack
import pytest
from fake_node import wait_merged
from fleet import Hub, Node, Training
from harness import wait_until
from rows import all_sent, asking, outbox, rank_two, stream

JUMP = 2**20


def test_a_server_that_was_killed_gets_the_rest(server):
    node = Node(server, "one")
    training = Training([node] * 2)
    for _ in range(3):
        training.steps(4)
        server.stop(signal.SIGKILL)
        training.steps(4)
        server.start()
    training.bye()
    assert len(all_sent(server, node, 37)) == 37


def test_a_stream_that_is_lost_is_made_again_and_what_it_had_is_sent_when_a_hub_asks(server):
    node = Node(server, "one")
    training = rank_two(node, 8)  # a part is closed by the first step after it
    assert len(all_sent(server, node, 9)) == 9
    server.stop()
    server.lose_everything()
    server.start()
    training.steps(4)
    training.bye()
    wait_until(lambda: node.fleet()["rows"] == 19 and node.sent(), f"all is sent ({node.fleet()})")
    assert {seq for seq, _ in stream(server)[0]} == set(range(10, 20))
    with asking(server, node) as (say, beats):
        assert beats[-1]["taken"] == beats[-1]["newest"] == 19
        say(1, 9)
        wait_until(lambda: len(stream(server)[0]) == 19, "the first nine")
    assert {key for key in stream(server)[0] if key[0] < 10} == {(seq, 1) for seq in range(1, 10)}
    wait_until(node.sent, "all is sent")
    assert node.fleet()["resent"] >= 9


def test_rows_that_are_not_there_any_more_are_said_to_be_gone(server):
    node = Node(server, "one")
    rank_two(node).bye()
    all_sent(server, node, 19)
    node.stop(signal.SIGTERM)
    with contextlib.closing(sqlite3.connect(node.history_path)) as db:
        db.executescript("DELETE FROM outbox WHERE seq IN (1, 2, 7); DELETE FROM outbox_bodies WHERE seq IN (1, 2, 7)")
    node.start()
    with asking(server, node) as (say, _):
        say(1, 8)
        wait_until(lambda: stream(server)[1] == [(1, 2), (7, 7)], "two holes")
        say(18, 500)
        wait_until(lambda: (19, 1) in stream(server)[0], "the last row")
    assert sorted(seq for seq, time_ in stream(server)[0] if time_ == 1) == [3, 4, 5, 6, 8, 18, 19]


POINTS = ("store_begin:5", "store_before_commit:5", "store_after_commit:5", "outbox_taken:2", "outbox_taken:4", "uplink_published:1",
          "uplink_published:8", "uplink_acknowledged:2")


def test_kills_lose_nothing_and_give_no_number_twice(server, monkeypatch):
    """Of nodes, each at another point."""
    trainings, before = [], {}
    for point in POINTS:
        monkeypatch.setenv("ATTND_CRASH_AT", point)
        trainings.append(Training([Node(server, point)] * 2))
        monkeypatch.delenv("ATTND_CRASH_AT")

    def all_killed():
        living = [training for training in trainings if training.nodes[0].process.poll() is None]
        for training in living:
            training.steps(2)
        return not living
    wait_until(all_killed, "the end of each")
    for training in trainings:
        (node,) = training.nodes
        assert node.process.returncode == -signal.SIGKILL, node.name
        before[node] = outbox(node)
        for trainer in training.trainers:
            trainer.wait_forgotten()
        node.start()
        for trainer in training.trainers:
            trainer.wait_subscribed()
        training.steps(4)
    for training in trainings:
        training.bye()
    for node, rows in before.items():
        nothing_lost(server, node, rows)


def nothing_lost(server, node, before):
    """Of what was in its outbox before it was killed, and of what came then, to which it gave greater numbers."""
    rows = all_sent(server, node)
    assert set(before) <= set(rows) and all(rows[seq] == before[seq] for seq in before)
    later = set(rows) - set(before)
    assert later and min(later) > max(before, default=0) + JUMP
    newest = {}
    for seq, body in sorted(rows.items()):
        if body["kind"] == "part":
            newest[body["part"], body["layer"]] = body["state"]
    windows = merging.windows_of(node.history_path)
    assert len(windows) == len(newest)
    ordered = sorted(windows.items(), key=lambda item: (item[0][-1], item[0][2:5]))
    for (_, window), (_, state) in zip(ordered, sorted(newest.items())):
        assert merging.differences(merging.read_state(state), window.state) == []


def test_a_history_that_is_replaced_is_another_node(server):
    node = Node(server, "one")
    training = rank_two(node, 4)
    all_sent(server, node, 3)
    first = node.fleet()["id"]
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(node.history_path + suffix)
    training.steps(4)
    wait_until(lambda: node.fleet()["id"] not in ("", first), "another node")
    training.steps(4)
    training.bye()
    rows = all_sent(server, node)
    assert min(rows) == 1
    closed = [body for body in rows.values() if body["kind"] == "closed"]
    assert closed[-1]["complete_from"] >= 1  # parts before it were lost with the file


def test_a_history_that_is_restored_from_a_backup_gives_no_number_twice(server, tmp_path):
    """It says of the same parts something else, and that is the truth now."""
    hub, node = Hub(server, "hub"), Node(server, "one")
    training = Training([node], run=bytes(16))
    training.steps(5)
    all_sent(server, node, 6)
    one = SimpleNamespace(id=node.fleet()["id"], job="job", run=training.run)
    node.stop(signal.SIGTERM)
    backup = shutil.copy(node.history_path, tmp_path)
    sent = {}
    for life in (1, 2):
        shutil.copy(backup, node.history_path)
        node.start()
        training.rejoin(node)
        training.step, training.seed = 4, life
        training.steps(7 - 2 * life)
        sent[life] = all_sent(server, node, 15 - 3 * life)
        node.stop(signal.SIGTERM)
    old, new = (set(rows) for rows in sent.values())
    assert len(old & new) == 6 and max(old) < min(new - old)
    one.rows = {seq: msgpack.packb(body) for rows in sent.values() for seq, body in sorted(rows.items())}
    wait_merged(hub, [one])
    hub.says(lambda answer: (answer["gone"], answer["nodes"][0]["lacking"]) == (0, 0), "that it lacks nothing")


def kept_and_said(node, most_bytes):
    """Its outbox, once that has no more bytes, and the node's answer, half a second old at most, says so."""
    said, rows = node.fleet(), outbox(node)
    return rows if said["bytes"] <= most_bytes and said["rows"] == len(rows) else None


def test_an_outbox_that_is_full_loses_the_oldest_and_counts_them(server):
    server.stop()
    node = Node(server, "one", "fleet.outbox=1MiB")
    training = Training([node], layers=8, heads=64)
    while node.fleet()["outbox_lost"] == 0:
        training.steps(2)
    training.bye()
    wait_until(lambda: outbox(node)[max(outbox(node))]["kind"] == "run", "that the end of the run is stored, the last of its rows")
    rows = wait_until(lambda: kept_and_said(node, 2**20), "room")
    lost = node.fleet()["outbox_lost"]
    assert min(rows) == lost + 1 and sorted(rows) == list(range(lost + 1, max(rows) + 1))
    server.start()
    assert all_sent(server, node) == rows
    with asking(server, node) as (say, beats):
        assert beats[-1]["outbox_lost"] == lost
        say(1, max(rows))
        wait_until(lambda: stream(server)[1] == [(1, lost)], "what fell out")
