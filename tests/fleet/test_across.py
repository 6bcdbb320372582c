# SPDX-License-Identifier: MIT
"""Machines, each a network namespace: four ranks on four, each with a node of its own, and a fifth with the server and the hub,
where the hub says what one attnd says that got all ranks; and cables that are pulled."""
import os
import time

import merging
import numpy as np
import pytest
from fleet import WINDOW, Hub, Node, Server, Training, in_order, wait_ended, whole, whole_now
from harness import Attnd, softmax_maps, wait_until
from machines import NoNetwork, Star
from nats import Nats

HEADS, LAYERS, STEPS = 4, 2, 8
SETTINGS = ("window.also=[4 steps every 2]", "workers.isa=scalar")


@pytest.fixture
def star(server):
    """A server in the center of four machines."""
    try:
        star = Star(4)
    except NoNetwork as error:
        pytest.skip(str(error))
    server.discard()
    with star.center:
        star.server = Server(host="0.0.0.0")
    star.url = [f"nats://10.78.{i}.1:{star.server.port}" for i in range(4)]
    yield star
    star.close()


def exact_maps(rng):
    """Weights that are multiples of 2^-20, and whose rows sum to 1 exactly."""
    weights = np.round(softmax_maps(rng, 2, HEADS, 10, 10, True, np.float64) * 2**20) / 2**20
    largest = weights.argmax(-1)[..., None]
    rest = 1 - weights.sum(-1, keepdims=True)
    np.put_along_axis(weights, largest, np.take_along_axis(weights, largest, -1) + rest, -1)
    return weights


def play(trainings, step):
    for layer in range(LAYERS):
        for rank in range(4):
            weights = exact_maps(np.random.default_rng((step, layer, rank)))
            for training in trainings:
                training.trainers[rank].attention(weights, step=step, layer=layer, causal=True, time_ns=10**18 + 8 * step + rank)


def test_four_ranks_on_four_machines_are_one_training(star):
    hub = Hub(star.server, "hub", *SETTINGS, url=star.url[0], machine=star.center)
    alone = Attnd(*WINDOW, *SETTINGS)
    nodes = [Node(star.server, f"node-{i}", *SETTINGS, url=star.url[i], machine=machine) for i, machine in enumerate(star.others)]
    run = os.urandom(16)
    training, together = Training(nodes, run=run), Training([alone] * 4, run=run)
    for step in range(STEPS):
        play((training, together), step)
        if step == 3:  # a cable is pulled
            star.pull(2)
        if step == 5:
            star.plug(2)
    for one in (training, together):
        one.step = STEPS
    training.finish(hub)
    together.bye()
    wait_ended(alone, together)
    whole(hub, nodes)
    wait_until(lambda: merging.count_of(alone.history_path) == merging.count_of(hub.history_path), "as many windows")
    assert merging.same_numbers(hub.history_path, alone.history_path) == []
    compare_answers(hub, alone)
    assert len(in_order(nodes)) == 4


def compare_answers(hub, alone):
    """Counts, extremes and quantiles are those of one attnd, bit for bit; means within rounding."""
    for window in ("2 steps", "4 steps every 2"):
        for layer in range(LAYERS):
            one, two = (attnd.call("summary", job="job", layer=layer, window=window) for attnd in (hub, alone))
            one, two = ([s for s in found if s["layer"] == layer][0] for found in (one, two))
            for key in ("window", "ranks", "messages", "rows"):
                assert one[key] == two[key], key
            for name, statistics in two["heads"].items():
                if name == "pattern":
                    assert one["heads"][name] == statistics
                    continue
                for statistic in statistics:
                    exact = statistic in ("count", "min", "max", "p10", "p50", "p90", "p99")
                    a, b = ([[math_nan(x) for x in s["heads"][name][statistic]] for s in (one, two)])
                    assert np.array_equal(a, b, equal_nan=True) if exact else np.allclose(a, b, rtol=1e-10, equal_nan=True), name


def math_nan(x):
    return np.nan if x is None else x


def test_cables_that_are_pulled(star):
    """A hub's, for longer than the stream keeps; and a node's. Nothing is refused meanwhile: packets only vanish. FLEET_LONG=1:
    until the hub's connection counts as dead, and for 20 s."""
    small = "fleet.stream=1MiB"
    hub = Hub(star.server, "hub", small, url=star.url[0], machine=star.others[0])
    nodes = [Node(star.server, f"node-{i}", small, url=star.url[i], machine=star.others[i]) for i in (1, 2)]
    training = Training([nodes[0], nodes[1]], layers=8, heads=48)
    training.steps(4)
    whole_now(hub, nodes, training)
    star.pull(0)
    star.pull(1)
    began = time.monotonic()
    training.steps(40)
    wait_until(lambda: nodes[1].sent() and nodes[1].fleet()["sent"] > 160, "all parts of the node that is not cut off")
    with star.center:
        client = Nats(star.server)
    assert client.stream()["state"]["first_seq"] > 20, "nothing went from the stream"
    client.close()
    assert not nodes[0].sent()
    if "FLEET_LONG" in os.environ:
        time.sleep(max(0, 20 - (time.monotonic() - began)))
    star.plug(1)
    if "FLEET_LONG" in os.environ:
        wait_until(lambda: not hub.fleet()["connected"], "the end of its connection")
    star.plug(0)
    training.steps(4)
    training.finish(hub)
    whole(hub, nodes)
    assert sum(node.fleet()["resent"] for node in nodes) > 0
