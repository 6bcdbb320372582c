# SPDX-License-Identifier: MIT
"""Which rank is the odd one out, asked of a hub: the ranks of all nodes, each with its node, as one attnd has them."""
import signal
import subprocess

import numpy as np
import pytest
from fleet import WINDOW, Hub, Node, Training, publish, whole
from harness import ATTNCTL, PATIENCE_S, Attnd, wait_until
from row_sums import of_entropies

ODD = 4  # of six ranks, on the second of three nodes


def test_a_hub_names_the_odd_rank_and_its_node(server):
    hub, alone = Hub(server, "hub", "window.rank_grace=30s"), Attnd(*WINDOW)
    nodes = [Node(server, f"gpu{index}") for index in range(3)]
    wait_until(lambda: len(hub.fleet()["nodes"]) == 3, "the nodes")
    run = b"r" * 16
    trainings = [Training([nodes[0], nodes[0], nodes[1], nodes[2], nodes[1], nodes[2]], run=run), Training([alone] * 6, run=run)]
    rng = np.random.default_rng(3)
    for step in range(4):
        for rank in range(6):
            values = rng.uniform(2.0, 2.05, (1, 3, 8)) - 1.5 * (rank == ODD)
            for training in trainings:
                publish(training.trainers[rank], of_entropies(values, keys=16), 0, step, 0)
        for training in trainings:
            training.step = step + 1
    trainings[0].finish(hub)
    for trainer in trainings[1].trainers:
        trainer.event("bye", step=4)
    wait_until(lambda: not hub.call("ranks", job="job", last=1)["partial"], "the first window at the hub")
    wait_until(lambda: alone.call("ranks", job="job", last=1), "the first window")
    ours, theirs = hub.call("ranks", job="job", last=1), alone.call("ranks", job="job", last=1)
    assert [(one["rank"], one["node"]) for one in ours["ranks"]] == [
        (0, "gpu0"), (1, "gpu0"), (2, "gpu1"), (3, "gpu2"), (4, "gpu1"), (5, "gpu2")]
    assert ours["odd"] == theirs["odd"] == [ODD] and (ours["first"], ours["last"], ours["partial"]) == (0, 1, False)
    for key in ("mean", "distance", "rows"):
        np.testing.assert_allclose([one[key] for one in ours["ranks"]], [one[key] for one in theirs["ranks"]], rtol=1e-12)
    wait_until(lambda: (hub.fleet()["runs"][0]["compared"] or {}).get("last") == 3, "the second window, compared")
    compared = hub.fleet()["runs"][0]["compared"]
    assert (compared["first"], compared["layers"], compared["count"]) == (2, 1, 1)
    odd = compared["odd"][0]
    wanted = dict(rank=ODD, node="gpu1", layers=1, windows=2, stack="decoder", layer=0, site="self")
    assert {key: odd[key] for key in wanted} == wanted and odd["distance"] == hub.call("ranks", job="job")["ranks"][ODD]["distance"]
    said = subprocess.run([ATTNCTL, "ranks", "job", "--address", hub.directory], capture_output=True, text=True, timeout=PATIENCE_S)
    assert said.returncode == 1 and "! 4   gpu1" in said.stdout, said
    for one in (*nodes, hub, alone):
        one.close()


@pytest.mark.parametrize("announced, length, restarted", [
    (dict(own_every=1), 16, False), (dict(own_window={"unit": "step", "length": 10}), 10, True)], ids=["every", "window"])
def test_nodes_and_hub_cut_a_run_alike_by_what_its_ranks_announce(server, announced, length, restarted):
    """Also a hub that was started again since."""
    unit = ("window.unit=auto", "window.length=1", "window.every=1")
    hub, nodes = Hub(server, "hub", *unit), [Node(server, f"gpu{index}", *unit) for index in range(2)]
    training = Training(nodes)
    for trainer in training.trainers:
        trainer.event("hello", **announced)
    training.steps(length + 4)
    wait_until(lambda: hub.call("summary", job="job"), "the first window at the hub")
    if restarted:
        hub.again(signal.SIGTERM)
    training.steps(15)
    training.finish(hub)
    whole(hub, nodes)
    tracks = hub.call("windows", job="job")["layers"][0]["tracks"]
    assert sorted((one["unit"], one["length"], one["windows"]) for one in tracks) == [("epoch", 1, 1), ("step", length, 3)]
    assert [one["window"]["last"] for one in hub.call("summary", job="job")] == 2 * [3 * length - 1]
    assert hub.fleet()["windows_unknown"] == 0
    for one in (*nodes, hub):
        one.close()
