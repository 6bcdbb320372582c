# SPDX-License-Identifier: MIT
"""Nodes, a hub and a nats-server, of which some are killed, stand still or lose what they had: the hub's history is the merge
of the nodes' histories, or the hub says of what it is not."""
import contextlib
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess

import merging
import pytest
from fleet import Hub, Node, Training, in_order, wait_ended, whole, whole_now
from harness import wait_log, wait_until
from nats import Nats

PAUSE_S = 0.01


@pytest.fixture
def fleet(server):
    """A hub, two nodes, and a training with two ranks on the first and one on the second."""
    hub = Hub(server, "hub")
    nodes = [Node(server, f"node-{i}") for i in range(2)]
    return hub, nodes, Training([nodes[0], nodes[0], nodes[1]])


def train(training, hub, nodes, steps=4):
    training.steps(steps, PAUSE_S)
    training.finish(hub)
    whole(hub, nodes)


def test_a_hub_has_what_its_nodes_have(fleet):
    hub, nodes, training = fleet
    train(training, hub, nodes, 20)
    assert merging.count_of(hub.history_path) == 20
    assert not any(window.partial for window in merging.windows_of(hub.history_path).values())


def test_windows_that_overlap_and_several_rules(server):
    rules = ("window.length=6", "window.every=4", "window.also=[3 steps, 2 epochs, 10 steps every 1]")
    hub, nodes = Hub(server, "hub", *rules), [Node(server, f"node-{i}", *rules) for i in range(2)]
    training = Training([nodes[0], nodes[1]], layers=1)
    for epoch in range(4):
        training.steps(7, PAUSE_S, epoch=epoch)
        for trainer in training.trainers:
            trainer.event("epoch_end", epoch=epoch, step=training.step - 1)
    training.finish(hub)
    whole(hub, nodes)
    tracks = {key[5:8] for key in merging.windows_of(hub.history_path)}
    assert tracks == {(1, 6, 4), (1, 3, 3), (0, 2, 2), (1, 10, 1)}


def test_without_a_server_training_goes_on(server, fleet):
    """Nodes close their windows; the rest comes when there is a server, which may be one without what the first had."""
    hub, nodes, training = fleet
    training.steps(4)
    server.stop()
    training.steps(10)
    wait_until(lambda: all(merging.count_of(node.history_path) >= 2 * 6 for node in nodes), "windows of the nodes")
    answers = [node.fleet() for node in nodes]
    assert all(not answer["connected"] and answer["error"] and answer["unsent"] > 0 for answer in answers), answers
    server.lose_everything()
    server.start()
    train(training, hub, nodes)


def test_a_server_that_stands_still(server, fleet):
    """Connections stay, nothing is acknowledged."""
    hub, nodes, training = fleet
    training.steps(4)
    server.process.send_signal(signal.SIGSTOP)
    training.steps(8)
    wait_until(lambda: all(merging.count_of(node.history_path) >= 2 * 5 for node in nodes), "windows of the nodes")
    wait_until(lambda: all(node.fleet()["error"] for node in nodes), "that nothing is acknowledged")
    server.process.send_signal(signal.SIGCONT)
    train(training, hub, nodes)


def test_everything_is_lost_but_the_nodes(server, fleet):
    """The server's store, and the hub's history: the nodes send all of it again."""
    hub, nodes, training = fleet
    training.steps(10)
    for one in (hub, server):
        one.stop()
        one.lose_everything()
        one.start()
    train(training, hub, nodes)
    assert sum(node.fleet()["resent"] for node in nodes) > 0


def test_a_server_that_lost_messages_and_knows_how_far_the_hub_was(server, fleet, tmp_path):
    """As a kill leaves it, without what was not on its disk: the hub does not wait until as many have come again."""
    hub, nodes, training = fleet
    training.steps(4)
    whole_now(hub, nodes, training)
    server.stop(signal.SIGTERM)
    messages = next(pathlib.Path(server.store).rglob("msgs"))
    shutil.copytree(messages, tmp_path / "older")
    server.start()
    training.steps(40)
    whole_now(hub, nodes, training)
    server.stop(signal.SIGTERM)
    shutil.rmtree(messages)
    shutil.copytree(tmp_path / "older", messages)
    server.start()
    training.steps(4)
    wait_log(hub, "fleet_consumer_beyond")
    train(training, hub, nodes)


def test_a_hub_that_lost_its_parts(fleet):
    """Windows that are in its history stay; late parts need what was before them, which it asks for."""
    hub, nodes, training = fleet
    training.steps(10)
    whole_now(hub, nodes, training)
    hub.stop()
    hub.lose_everything(history=False)
    hub.start()
    train(training, hub, nodes)


def test_a_hub_whose_history_is_restored(fleet, tmp_path):
    """An older state of it, and not of its parts: the windows since then are merged once more."""
    hub, nodes, training = fleet
    training.steps(4)
    whole_now(hub, nodes, training)
    hub.stop(signal.SIGTERM)
    shutil.copy(hub.history_path, tmp_path / "older")
    hub.start()
    training.steps(6)
    whole_now(hub, nodes, training)
    hub.stop(signal.SIGTERM)
    shutil.copy(tmp_path / "older", hub.history_path)
    with contextlib.closing(sqlite3.connect(hub.parts_path, isolation_level=None)) as parts:  # what is new is merged anyway
        parts.execute("UPDATE merged SET stored = stored - 3600 * (1 + part)")  # what was merged last is merged again anyhow
    hub.start()
    train(training, hub, nodes)


def test_two_hubs_at_once(server, fleet):
    hub, nodes, training = fleet
    second = Hub(server, "second")
    training.steps(6, PAUSE_S)
    second.again()
    train(training, hub, nodes, 6)
    wait_ended(second, training)
    whole(second, nodes)
    assert merging.same_bytes(hub.history_path, second.history_path) == []


def test_a_node_that_is_copied(server):
    """With its history, and so its id: the copy is refused, and says so; the hub has the first one's parts only."""
    hub, node = Hub(server, "hub"), Node(server, "node")
    training = Training([node])
    training.steps(6)
    whole_now(hub, [node], training)
    copy = Node(server, "copy")
    copy.stop(signal.SIGTERM)
    node.stop(signal.SIGTERM)
    wait_until(lambda: hub.node("node")["state"] == "ended", "its end")
    for end in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            os.unlink(copy.history_path + end)
    subprocess.run(["cp", node.history_path, copy.history_path], check=True)
    node.start()
    training.rejoin(node)
    wait_until(lambda: node.fleet()["connected"] and hub.node("node")["state"] == "ok", "the node")
    copy.start()
    other = Training([copy], job="other")
    other.steps(6)
    wait_until(lambda: copy.fleet()["refused"], "that the copy is refused")
    assert not node.fleet()["refused"]
    wait_until(lambda: "another attnd has its id, copy on" in (hub.node("node")["trouble"] or ""), "that the hub says so")
    assert hub.node("node")["state"] == "trouble"
    train(training, hub, [node])
    assert "other" not in {key[0] for key in merging.windows_of(hub.history_path)}


def test_large_parts_come_in_pieces(server):
    """Larger than the server's max_payload."""
    server.stop()
    server.write("max_payload: 4096")
    server.start()
    hub, nodes = Hub(server, "hub"), [Node(server, f"node-{i}") for i in range(2)]
    training = Training([nodes[0], nodes[1]], layers=2, heads=48)
    train(training, hub, nodes, 8)
    client = Nats(server)
    assert any("Attnd-Piece" in client.message(seq)[0] for seq in range(1, 10))
    client.close()


def test_a_clean_stop_sends_the_rest(server, fleet):
    """A node that ends takes its leave; windows do not wait for it."""
    hub, nodes, training = fleet
    training.steps(6)
    training.bye()
    assert nodes[1].stop(signal.SIGTERM) == 0
    wait_until(lambda: hub.node("node-1")["state"] == "ended", f"its end ({hub.fleet()})")
    nodes[1].start()
    whole(hub, nodes)
    assert in_order(nodes)
