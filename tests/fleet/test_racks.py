# SPDX-License-Identifier: MIT
"""Racks: a server of its own for each, as a leaf node of one for all, whose stream takes from theirs. The hub of a rack has its
nodes, the hub of all has all: parts go on, never sums."""
import socket

import pytest
from fleet import Hub, Node, Server, Training, whole, whole_now


class LeafServer(Server):
    """With a domain of JetStream."""

    def __init__(self, domain, config):
        self.domain = domain
        super().__init__(config)

    def write(self, config):
        with open(self.path, "w") as file:
            file.write(f'listen: "{self.host}:{self.port}"\nserver_name: "{self.domain}"\n'
                       f'jetstream {{ store_dir: "{self.store}", max_file: 16GB, domain: {self.domain} }}\n{config}\n')


@pytest.fixture
def racks(server):
    """The server of all and those of two racks."""
    server.stop()
    with socket.socket() as one:  # free_ports would name the one that the first server is about to take
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    top = LeafServer("top", f"leafnodes {{ listen: 127.0.0.1:{port} }}")
    return top, [LeafServer(name, f'leafnodes {{ remotes: [{{ urls: ["nats-leaf://127.0.0.1:{port}"], '
                                  'deny_exports: ["attnd.part.>"] }] }') for name in ("rack-0", "rack-1")]


def test_a_hub_over_racks_has_all_parts(racks):
    top, servers = racks
    nodes = [Node(servers[i // 2], f"node-{i}") for i in range(4)]
    hubs = [Hub(server, f"hub-{server.domain}", "window.rank_grace=0s") for server in servers]
    over = Hub(top, "over", "fleet.domains=rack-0 rack-1")
    training = Training(nodes, layers=1)
    training.steps(8)
    whole_now(over, nodes, training)
    servers[1].stop()  # the others go on; what it missed comes later
    training.steps(8)
    over.says(lambda answer: any(run["partial"] for run in answer["runs"]), "windows without a rack")
    servers[1].start()
    training.steps(4)
    training.finish(over)
    whole(over, nodes)
    for i, hub in enumerate(hubs):
        whole(hub, nodes[2 * i:2 * i + 2])
    assert len(over.fleet()["nodes"]) == 4 and all(len(hub.fleet()["nodes"]) == 2 for hub in hubs)


def test_a_hub_over_racks_that_lost_everything_is_rebuilt(racks):
    """It asks the nodes, through the leaf nodes' connections."""
    top, servers = racks
    nodes = [Node(server, server.domain) for server in servers]
    over = Hub(top, "over", "fleet.domains=rack-0 rack-1")
    training = Training(nodes, layers=1)
    training.steps(8)
    whole_now(over, nodes, training)
    over.stop()
    over.lose_everything()
    for one in (top, *servers):
        one.stop()
        one.lose_everything()
        one.start()
    over.start()
    training.steps(4)
    training.finish(over)
    whole(over, nodes)
