# SPDX-License-Identifier: MIT
"""Three servers that keep the stream together: the one that leads it is killed, loses its store, stands still, is cut off, or
its disk is full.

NATS_SERVER=PATH tries another nats-server than that of the distribution."""
import contextlib
import os
import signal
import subprocess

import pytest
from fleet import Cluster, Hub, Node, Training, whole, whole_now
from harness import wait_until
from machines import NoNetwork, Star
from nats import Nats

PATIENCE_S = 60
THREE = "fleet.replicas=3"


class Fleet:
    """A cluster, a hub, two nodes and their training; `bad`: the server that leads the stream, to which something happens."""

    def __init__(self, **keys):
        self.cluster = Cluster(**keys)
        wait_until(lambda: can_keep(self.cluster), "the cluster", PATIENCE_S)
        self.hub = Hub(self.cluster, "hub", THREE)
        self.nodes = [Node(self.cluster, f"node-{i}", THREE) for i in range(2)]
        self.training = Training(self.nodes, layers=4, heads=12)
        self.training.steps(6, 0.02)
        wait_until(lambda: all(node.sent() and node.fleet()["sent"] for node in self.nodes), "the first parts", PATIENCE_S)
        self.bad = leader(self.cluster)
        self.training.steps(4, 0.01)

    def go_on(self, again):
        """Some steps until again(), which mends the leader, and some after it."""
        self.training.steps(10, 0.05)
        again()
        self.training.steps(4, 0.02)
        whole_now(self.hub, self.nodes, self.training)

    def end(self):
        self.training.finish(self.hub)
        whole(self.hub, self.nodes)


def can_keep(cluster, stream="probe"):
    """Whether the three have found each other, and each has all of a stream."""
    client = Nats(cluster.servers[0], patience_s=1)
    try:
        with contextlib.suppress(RuntimeError):
            client.stream("CREATE", {"name": "probe", "subjects": ["probe"], "num_replicas": 3, "storage": "file"}, "probe")
        return [one["current"] for one in client.stream(name=stream)["cluster"]["replicas"]] == [True] * 2
    except (OSError, RuntimeError):
        return False
    finally:
        client.close()


def leader(cluster, but=None):
    """The server that leads the stream, as any that lives says, `but` excepted."""
    def ask():
        for server in cluster.servers:
            if server.process.poll() is None and server is not but:
                client = Nats(server, patience_s=2)
                try:
                    found = client.stream()["cluster"].get("leader")
                    if found and (not but or found != but.name):
                        return cluster.of(found)
                except RuntimeError:
                    pass
                finally:
                    client.close()
        return None
    return wait_until(ask, "a leader", PATIENCE_S)


def test_a_leader_that_is_killed_stands_still_and_loses_everything(server):
    server.discard()
    fleet = Fleet()
    for what in ("killed", "stalled", "lost"):
        wait_until(lambda: can_keep(fleet.cluster, "attnd-parts"), f"all to be there before one is {what}", PATIENCE_S)
        bad = leader(fleet.cluster)
        if what == "stalled":
            bad.process.send_signal(signal.SIGSTOP)
        else:
            bad.stop()
        if what == "lost":
            bad.lose_everything()
        fleet.go_on(bad.start if what != "stalled" else lambda bad=bad: bad.process.send_signal(signal.SIGCONT))
    fleet.end()
    assert os.path.isdir(bad.store)


def test_a_leader_that_is_cut_off(server):
    """Its cable is pulled until the others have chosen another one: who talked to it waits for answers that do not come."""
    server.discard()
    try:
        star = Star(3)
        star.forward()
    except (NoNetwork, OSError) as error:
        pytest.skip(str(error))
    with star.center:
        fleet = Fleet(at=[(other, f"10.78.{i}.2", None) for i, other in enumerate(star.others)])
        cut = fleet.cluster.servers.index(fleet.bad)

        def again():
            assert leader(fleet.cluster, but=fleet.bad) is not fleet.bad
            star.plug(cut)
        star.pull(cut)
        fleet.go_on(again)
        fleet.end()
    star.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_leader_whose_disk_is_full(server, tmp_path):
    server.discard()
    places = [tmp_path / f"disk-{i}" for i in range(3)]
    mounted = []
    try:
        for place in places:
            place.mkdir()
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", place], check=False).returncode != 0:
                pytest.skip("no file system can be mounted here")
            mounted.append(place)
        fleet = Fleet(at=[(contextlib.nullcontext(), "127.0.0.1", str(place)) for place in places])
        ballast = os.path.join(fleet.bad.directory, "ballast")
        with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        fleet.training.steps(40)

        def again():
            assert os.statvfs(fleet.bad.directory).f_bavail < 8, "it is full"
            os.unlink(ballast)
            fleet.bad.stop()
            fleet.bad.start()
        fleet.go_on(again)
        fleet.end()
        for one in fleet.cluster.servers:
            one.stop()
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", place], check=True)
