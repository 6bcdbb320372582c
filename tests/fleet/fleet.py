# SPDX-License-Identifier: MIT
"""fleet: nats-server, nodes and hubs as processes, and a training whose ranks publish to nodes."""
import contextlib
import functools
import glob
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

import merging
import msgpack
import numpy as np
from harness import PATIENCE_S, Attnd, Trainer, free_ports, wait_until

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "clients", "python"))
import row_sums  # noqa: E402
from layer_state import LayerState  # noqa: E402

NATS_SERVER = os.environ.get("NATS_SERVER") or shutil.which(
    "nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
WINDOW = ("window.unit=step", "window.length=2", "window.every=2", "window.timeout=3s", "window.rank_grace=300ms",
          "metrics.spectrum=false", "maps.enabled=false", "history.commit=50ms", "history.checkpoint=200ms", "workers.threads=1")
ENDED = "ended"


class Server:
    """A nats-server on a port of its own. `config`: further lines of its file."""

    all = []

    def __init__(self, config="", host="127.0.0.1", directory=None, port=None, name="test"):
        self.directory = directory or tempfile.mkdtemp(prefix="nats-")
        self.store = os.path.join(self.directory, "store")
        self.host, self.port, self.name = host, port or free_ports(1), name
        self.path = os.path.join(self.directory, "nats.conf")
        self.process = None
        self.write(config)
        Server.all.append(self)
        self.start()

    @property
    def url(self):
        return f"nats://{self.host}:{self.port}"

    def write(self, config):
        jetstream = f'jetstream {{ store_dir: "{self.store}"' + ("" if "max_file" in config else ", max_file: 8GB") + "\n"
        with open(self.path, "w") as file:
            lines = config.splitlines()
            file.write(f'listen: "{self.host}:{self.port}"\nserver_name: "{self.name}"\n{jetstream}')
            file.write("".join(f"  {line}\n" for line in lines if line.startswith("max_file")) + "}\n")
            file.write("".join(f"{line}\n" for line in lines if not line.startswith("max_file")))

    def start(self):
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self.process = subprocess.Popen([NATS_SERVER, "-c", self.path], stdout=log, stderr=log)
        wait_until(self.answers, f"nats-server:\n{self.log_text()}")

    def answers(self):
        assert self.process.poll() is None, self.log_text()
        try:
            with socket.create_connection((self.host, self.port), 1) as one:
                return one.recv(4) == b"INFO"
        except OSError:
            return False

    def log_text(self):
        with open(os.path.join(self.directory, "log"), errors="replace") as log:
            return log.read()

    def stop(self, sig=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(sig)
            self.process.wait(PATIENCE_S)

    def lose_everything(self):
        """It has stopped: the next one begins with an empty store."""
        shutil.rmtree(self.store, ignore_errors=True)

    def discard(self):
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class Cluster:
    """Three servers that keep a stream together. `at`: for each a context in which it starts, its address, and its directory."""

    def __init__(self, at=((contextlib.nullcontext(), "127.0.0.1", None),) * 3):
        first, self.at, self.servers = free_ports(6), at, []
        routes = ", ".join(f'"nats://{host}:{first + 3 + i}"' for i, (_, host, _) in enumerate(at))
        for i, (place, host, directory) in enumerate(at):
            config = f'cluster {{ name: "c", listen: "{host}:{first + 3 + i}", routes: [{routes}] }}'
            with place:
                self.servers.append(Server(config, host, directory, first + i, f"s{i}"))
        self.url = ",".join(server.url for server in self.servers)

    def of(self, name):
        return next(server for server in self.servers if server.name == name)


class Member(Attnd):
    """A node or a hub. `machine`: a context in which it starts."""

    role = None

    def __init__(self, server, name, *settings, url=None, machine=None, **keys):
        self.name, self.machine = name, machine or contextlib.nullcontext()
        super().__init__(*WINDOW, f"fleet.role={self.role}", f"fleet.url={url or server.url}", f"fleet.name={name}", *settings,
                         **keys)

    def start(self):
        with self.machine:
            super().start()

    def fleet(self):
        return self.call("fleet")

    def again(self, sig=signal.SIGKILL):
        """Ends and starts."""
        self.stop(sig)
        self.start()


class Node(Member):
    role = "node"

    def sent(self):
        """Whether a server has taken everything that there is."""
        answer = self.fleet()
        return answer["connected"] and answer["unsent"] == 0


MISSING = """
SELECT job, run, unit, length, every, part, missing
FROM merged JOIN runs USING (run_id) JOIN tracks USING (track_id) WHERE missing IS NOT NULL"""
FLOORS = "SELECT job, run, unit, length, every, part FROM floors JOIN runs USING (run_id) JOIN tracks USING (track_id)"


class Hub(Member):
    role = "hub"

    def start(self):
        super().start()
        wait_until(lambda: "nodes" in self.fleet(), "what it says of nodes")

    @property
    def parts_path(self):
        return self.history_path + ".parts"

    def says(self, condition, what):
        """Waits until condition(answer of the method fleet) holds; it is made up twice a second."""
        try:
            wait_until(lambda: condition(self.fleet()), what)
        except AssertionError as error:
            raise AssertionError(f"{what}: {self.fleet()}") from error

    def lose_everything(self, history=True):
        """It has stopped: the next one knows nothing. Without its history: of parts only."""
        for path in glob.glob(self.history_path + "*"):
            if history or ".parts" in path:
                os.unlink(path)

    def node(self, name):
        """What it says of a node."""
        for one in self.fleet()["nodes"]:
            if one["name"] == name:
                return one
        raise LookupError(name)

    def missing(self):
        """missing(key) for merging.wrong, as its file of parts has it now: of windows whose parts are too old it is not known."""
        with contextlib.closing(sqlite3.connect(f"file:{self.parts_path}?mode=ro", uri=True, timeout=30)) as database:
            found = {(job, run, unit, length, every, (part + 1) * math.gcd(length, every) - 1):
                     {one["name"] for one in msgpack.unpackb(missing)}
                     for job, run, unit, length, every, part, missing in database.execute(MISSING)}
            floors = {tuple(key): part * math.gcd(*key[3:]) for *key, part in database.execute(FLOORS)}

        def names(key):
            *_, length, _, last = key
            return None if last - length + 1 < floors.get(key[:2] + key[5:-1], 0) else found.get(key[:2] + key[5:], set())
        return names


def as_bytes(run):
    return bytes.fromhex(run) if isinstance(run, str) else bytes(run)


def in_order(nodes):
    """{name: history} of nodes in the order of their ids, in which a hub merges."""
    return {node.name: node.history_path for node in sorted(nodes, key=lambda node: node.fleet()["id"])}


class Training:
    """A run whose rank r publishes to the node ranks[r]: rows of `layers` layers, the same for the same arguments, and for
    layers with one between them, as it takes long to make them."""

    def __init__(self, ranks, job="job", run=None, layers=2, heads=3, world=None, seed=0, first_rank=0):
        self.job, self.run, self.layers, self.heads, self.seed = job, run or os.urandom(16), layers, heads, seed
        self.world = world or len(ranks)
        self.trainers = [Trainer(node, job, first_rank + rank, self.world, self.run) for rank, node in enumerate(ranks)]
        self.ranks, self.nodes = ranks, list(dict.fromkeys(ranks))
        self.step = 0

    def rejoin(self, node):
        """The node was started again: its ranks connect to it, and go on with their numbers."""
        for i, at in enumerate(self.ranks):
            if at is node:
                before = self.trainers[i]
                self.trainers[i] = Trainer(node, self.job, before.rank, self.world, self.run)
                self.trainers[i].sequence = before.sequence
                before.close()

    def one_step(self, epoch=0, skip=()):
        for trainer in self.trainers:
            if trainer.rank not in skip:
                for layer in range(self.layers):
                    publish(trainer, rows_of(self.heads, trainer.rank, self.step, layer % 2, self.seed), epoch, self.step, layer)
        self.step += 1

    def steps(self, count, pause_s=0.0, **keys):
        for _ in range(count):
            self.one_step(**keys)
            time.sleep(pause_s)

    def bye(self):
        for trainer in self.trainers:
            trainer.event("bye", step=self.step)
        for node in self.nodes:
            wait_ended(node, self)

    def finish(self, hub):
        """Ends it, and waits until the hub has ended it, too."""
        self.bye()
        for node in self.nodes:
            wait_until(node.sent, f"all parts of {node.name} ({node.fleet()})")
        wait_ended(hub, self)


def state_of(heads, rank, step, layer, seed=0, rows=4, epoch=0, buckets=48, into=None):
    """A state with one capture, or one capture more; the same for the same arguments. Masses are multiples of 2^-20: any order
    of adding has the same sum."""
    rng = np.random.default_rng((seed, rank, step, layer))
    values = {name: np.round(rng.gamma(1.0, scale, (1, heads, rows)) * 2**20) / 2**20
              for name, scale in (("entropy", 2.0), ("confidence", 0.2), ("first_token", 0.3), ("mean_distance", 5.0))}
    state = into or LayerState(heads, buckets)
    state.add(values, keys=8, epoch=epoch, step=step, rank=rank, time_ns=1700000000_000000000 + step * 10**9 + rank,
              valid=np.ones((1, rows), bool), row_sum_error=2.0**-30 * (1 + rank), sampled_of=rows * (1 + step % 3))
    return state


@functools.lru_cache(maxsize=16)
def rows_of(heads, rank, step, layer, seed, rows=4):
    """What a rank sends of a layer, the same for the same arguments: some of the rows of its queries, the sums that every row has."""
    rng = np.random.default_rng((seed, rank, step, layer))
    sums = row_sums.rows_of(rng.normal(0, rng.uniform(0.5, 4.0), (1, heads, rows, 8)), queries=rows * (1 + step % 3))
    return sums._replace(names=sums.names[:5], sums=sums.sums[:5])


def publish(trainer, rows, epoch, step, layer):
    trainer.rows(rows, epoch=epoch, step=step, layer=layer, time_ns=1700000000_000000000 + step * 10**9 + trainer.rank)


def wait_ended(attnd, training):
    """A node that was killed has its place taken by the next one after 10 s at the hub, which then asks for the rest."""
    try:
        wait_until(lambda: state_of_run(attnd, training) == ENDED, "the end of the run", 2 * PATIENCE_S)
    except AssertionError as error:
        raise AssertionError(f"the end of the run: {attnd.call('fleet')}\n{attnd.log_text()[-2000:]}") from error


def state_of_run(attnd, training):
    for run in attnd.call("runs", job=training.job)["runs"]:
        if as_bytes(run["run"]) == training.run:
            return run["state"]
    raise LookupError(training.run.hex())


def whole_now(hub, nodes, training):
    """whole(), of what the training must have closed by now, all of which is sent: the first step after a window closes it."""
    count = training.layers * ((training.step - 1) // 2)
    wait_until(lambda: all(merging.count_of(node.history_path) >= count for node in nodes), f"{count} windows of each node")
    whole(hub, nodes, goes_on=True)
    assert merging.count_of(hub.history_path) >= count
    wait_until(lambda: all(node.sent() for node in nodes), "all parts are sent")


def wait_right(wrong, what, about):
    """Waits until wrong() has no sentences; says them otherwise, and what about() is."""
    seen = []

    def done():
        seen[:] = wrong()
        return not seen
    try:
        wait_until(done, what)
    except AssertionError as error:
        raise AssertionError("\n".join([*seen[:20], *map(str, about())])) from error


def whole(hub, nodes, goes_on=False):
    """Waits until the hub's history is the merge of the nodes', each window, none partial; says what is not. `goes_on`: the
    training does."""
    paths = in_order(nodes)
    wait_right(lambda: merging.wrong(hub.history_path, paths, goes_on=goes_on), "the hub's history is the merge of the nodes'",
               lambda: [one.fleet() for one in (hub, *nodes)])


def some(hub, nodes):
    """The same, where the hub may say what it lacks."""
    paths = in_order(nodes)
    wait_right(lambda: merging.wrong(hub.history_path, paths, hub.missing()),
               "the hub's history is the merge of the nodes', or it says of what it is not", lambda: [hub.fleet()])
