# SPDX-License-Identifier: MIT
"""A stream and an outbox that are too small: the hub asks again, or says of what it is not whole."""
import os

import merging
from fake_node import FakeNode, play_merged, wait_merged
from fleet import Hub, Node, Training, some, whole_now
from harness import wait_until
from nats import Nats
from test_faults import train


def test_away_for_longer_than_the_stream_keeps(server):
    """The stream has room for 1 MiB; the hub asks for what went from it."""
    small = "fleet.stream=1MiB"
    hub = Hub(server, "hub", small)
    nodes = [Node(server, f"node-{i}", small) for i in range(2)]
    training = Training([nodes[0], nodes[1]], layers=8, heads=48)
    training.steps(4)
    whole_now(hub, nodes, training)
    hub.stop()
    training.steps(20)
    wait_until(lambda: all(node.sent() and node.fleet()["sent"] > 90 for node in nodes), "all parts are sent")
    client = Nats(server)
    assert client.stream()["state"]["first_seq"] > 20, "nothing went from the stream"
    client.close()
    hub.start()
    train(training, hub, nodes)
    assert sum(node.fleet()["resent"] for node in nodes) > 0


def test_an_outbox_that_is_full(server):
    """Without a server for too long: the oldest parts go, are counted, and the hub says which windows lack them."""
    small = "fleet.outbox=1MiB"
    hub = Hub(server, "hub")
    nodes = [Node(server, "large"), Node(server, "small", small)]
    training = Training([nodes[0], nodes[1]], layers=4, heads=48)
    training.steps(4)
    whole_now(hub, nodes, training)
    server.stop()
    training.steps(80)
    wait_until(lambda: nodes[1].fleet()["outbox_lost"] > 0, f"losses ({nodes[1].fleet()})")
    wait_until(lambda: nodes[1].fleet()["bytes"] <= 1 << 20, "an outbox within its bound")
    assert nodes[0].fleet()["outbox_lost"] == 0
    server.start()
    training.steps(4)
    training.finish(hub)
    some(hub, nodes)
    lost = [key for key, window in merging.windows_of(hub.history_path).items() if window.partial]
    assert lost and all(hub.missing()(key) == {"small"} for key in lost)
    assert hub.node("small")["outbox_lost"] == nodes[1].fleet()["outbox_lost"] > 0
    hub.again()
    hub.says(lambda said: said["runs"][0]["partial_windows"] == len({key[-1] for key in lost}) > 16, "how many windows lack parts")
    listed = hub.fleet()["runs"][0]["partial"]
    assert len(listed) == 16 and {one["missing"][0]["name"] for one in listed} == {"small"}, listed


def test_more_runs_than_the_answer_has_room_for(server):
    """Active ones are listed before others, and the rest is counted; a run that comes after them all is merged as ever."""
    hub = Hub(server, "hub", "limits.jobs=16", "limits.runs=100")
    node, late = FakeNode(server, "many", number_of(0), layers=1), FakeNode(server, "late", os.urandom(16))
    for number in range(1100):
        node.run, node.job = number_of(number), f"job-{number % 15}"
        node.send(node.number(node.run_body("ended" if number else "active")))
    hub.says(lambda said: [run["state"] for run in said["runs"]].count("active") == 1 and said["runs_more"] == 76, "1100 runs")
    listed = [int(run["run"], 16) for run in hub.fleet()["runs"]]
    assert listed == [*range(1099, 76, -1), 0]
    play_merged(hub, [late], 2)
    node.close()
    late.close()


def number_of(number):
    return number.to_bytes(16, "big")
