# SPDX-License-Identifier: MIT
"""Nodes, a hub and a nats-server that are killed, at random and at named points: what is in the nodes' histories afterwards is
at the hub, each part once."""
import contextlib
import random

import pytest
from fleet import Hub, Node, Training, whole, whole_now
from harness import PATIENCE_S, wait_until
from nats import Nats
from test_faults import PAUSE_S, fleet, train

__all__ = ["fleet"]


@pytest.mark.parametrize("who", ["hub", "server"])
def test_kills_at_random(server, fleet, who):
    hub, nodes, training = fleet
    rng = random.Random(who)
    for _ in range(2):
        training.steps(rng.randrange(2, 6), PAUSE_S)
        if who == "hub":
            hub.again()
        else:
            server.stop()
            training.steps(rng.randrange(4), PAUSE_S)
            server.start()
    train(training, hub, nodes)


NODE_POINTS = ["window_submitted", "store_before_commit", "store_after_commit", "uplink_published", "uplink_acknowledged",
               "outbox_taken"]


def test_nodes_killed_at_named_points(server, monkeypatch):
    """Each at another one."""
    hub, nodes = Hub(server, "hub"), [Node(server, "other")]
    for point in NODE_POINTS:
        monkeypatch.setenv("ATTND_CRASH_AT", f"{point}:4")
        nodes.append(Node(server, point))
        monkeypatch.delenv("ATTND_CRASH_AT")
    training = Training(nodes, layers=1)

    def all_killed():
        living = [node.name for node in nodes[1:] if node.process.poll() is None]
        if living:
            training.steps(1)
        return not living
    wait_until(all_killed, "the end of each")
    for node in nodes[1:]:
        assert node.process.returncode == -9, node.name
        node.start()
        training.rejoin(node)
    training.steps(4, PAUSE_S)
    training.finish(hub)
    whole(hub, nodes)


@pytest.mark.parametrize("point", ["outbox_again", "outbox_pruned"])
def test_a_node_killed_while_rows_come_again_or_go(server, monkeypatch, point):
    """As a hub without anything asks for them, or there are too many."""
    monkeypatch.setenv("ATTND_CRASH_AT", point)
    hub, node = Hub(server, "hub"), Node(server, "one", f"fleet.outbox={'1MiB' if point == 'outbox_pruned' else '1GiB'}")
    monkeypatch.delenv("ATTND_CRASH_AT")
    training = Training([node], layers=8, heads=64)
    training.steps(24, PAUSE_S)
    if point == "outbox_again":
        whole_now(hub, [node], training)
        hub.stop()
        hub.lose_everything()
        with contextlib.closing(Nats(server)) as client:
            client.stream("PURGE")
        hub.start()
    assert node.process.wait(PATIENCE_S) == -9
    node.start()
    training.rejoin(node)
    training.steps(4, PAUSE_S)
    training.finish(hub)
    whole(hub, [node])
    wait_until(lambda: node.fleet()["bytes"] <= (2**20 if point == "outbox_pruned" else 2**30), "the bound")
    assert node.fleet()["outbox_lost"] == 0
