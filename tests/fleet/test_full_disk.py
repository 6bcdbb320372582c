# SPDX-License-Identifier: MIT
"""A server whose disk is full, and a node."""
import os
import subprocess

import merging
import pytest
from fleet import Hub, Node, Server, Training, whole_now
from harness import wait_until
from person import ATTNCTL
from test_faults import train


@pytest.fixture
def disk(tmp_path):
    """The place of a file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], check=False).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_full_disk_of_the_server(server, disk):
    """JetStream ends itself when it cannot write; training and windows do not notice, and all of it comes later."""
    full = Server(directory=str(disk))
    hub = Hub(full, "hub")
    nodes = [Node(full, f"node-{i}") for i in range(2)]
    training = Training([nodes[0], nodes[1]], layers=8, heads=48)
    training.steps(4)
    whole_now(hub, nodes, training)
    training.steps(30)
    wait_until(lambda: all(merging.count_of(node.history_path) >= 8 * 16 for node in nodes), "windows of the nodes")
    wait_until(lambda: any(node.fleet()["unsent"] for node in nodes), "parts that the server does not take")
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    full.stop()
    full.start()
    train(training, hub, nodes)
    full.stop()


def test_a_full_disk_of_a_node_is_told_by_the_hub(server, disk):
    hub, node = Hub(server, "hub"), Node(server, "one", f"history.path={disk}/history.db")
    training = Training([node], layers=4, heads=48)
    wait_until(lambda: training.steps(2) or "history_trouble" in node.log_text(), "a full disk")
    said = "its history cannot be written: database or disk is full"
    hub.says(lambda answer: training.steps(1) or  # there may be room for some more
             [(one["state"], one["trouble"]) for one in answer["nodes"]] == [("trouble", said)], "the trouble")
    told = subprocess.run([ATTNCTL, "--address", hub.directory, "fleet"], capture_output=True, text=True, check=False)
    assert told.returncode == 1 and f"one is in trouble: {said}" in told.stdout
    training.steps(20, 0.05)
    assert node.log_text().count("history_trouble") - node.log_text().count("history_recovered") in (0, 1)  # once each time
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    hub.says(lambda answer: (answer["nodes"][0]["state"], answer["nodes"][0]["trouble"]) == ("ok", None), "that it is over")
    node.stop()
