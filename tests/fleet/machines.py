# SPDX-License-Identifier: MIT
"""machines: network namespaces with cables between them."""
import os

from test_nodes import Node as Machine


class NoNetwork(Exception):
    pass


class Star:
    """`count` machines, and one in the center with a cable to each: it is 10.78.I.1 there, and the other 10.78.I.2."""

    def __init__(self, count):
        if os.geteuid() != 0:
            raise NoNetwork("only root can make networks")
        try:
            self.center, *self.others = (Machine() for _ in range(count + 1))
        except OSError as error:
            raise NoNetwork(f"no network can be made here: {error}") from error
        for i, other in enumerate(self.others):
            made = self.center.ip(f"link add name eth{i} type veth peer name eth0 netns /proc/self/fd/{other.network}",
                                  pass_fds=[other.network])
            if made.returncode != 0:
                raise NoNetwork(f"no cable can be made here: {made.stderr}")
            for machine, name, address in ((self.center, f"eth{i}", 1), (other, "eth0", 2)):
                assert machine.ip(f"address add 10.78.{i}.{address}/24 dev {name}").returncode == 0
                assert machine.ip(f"link set {name} up").returncode == 0
            assert other.ip(f"route add default via 10.78.{i}.1").returncode == 0

    def forward(self):
        """The center lets the others talk to each other."""
        with self.center, open("/proc/sys/net/ipv4/ip_forward", "w") as file:
            file.write("1")

    def pull(self, i):
        """The cable of a machine: connections hang, nothing is refused."""
        assert self.others[i].ip("link set eth0 down").returncode == 0

    def plug(self, i):
        assert self.others[i].ip("link set eth0 up").returncode == 0
        assert self.others[i].ip(f"route replace default via 10.78.{i}.1").returncode == 0

    def close(self):
        for machine in (self.center, *self.others):
            os.close(machine.network)
