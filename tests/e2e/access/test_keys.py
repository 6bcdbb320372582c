# SPDX-License-Identifier: MIT
"""Keys: who can do what over TCP, at wire level, and that attnd and the trainers live."""
import contextlib
import fcntl
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
from types import SimpleNamespace

import msgpack
import numpy as np
import zmq
from harness import ATTND, PATIENCE_S, Attnd, Reader, Trainer, attnctl, wait_log, wait_until
from keyed import SOCKETS, Keyed, Pair, give_key, write_secret
from test_service import BECOME


PROTOCOL = os.path.join(os.path.dirname(__file__), "..", "..", "..", "proto", "PROTOCOL.md")


@contextlib.contextmanager
def cut_off(reader):
    """The reader has a connection before, and none after."""
    ended = reader.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    yield
    assert ended.poll(int(1000 * PATIENCE_S)), "the connection of the reader goes on"
    reader.socket.disable_monitor()


def train(trainer, step, **keys):
    trainer.attention(np.full((1, 2, 4, 4), 0.25, np.float32), step=step, **keys)


def training(attnd, trainer):
    """The trainer, of whose job attnd knows something."""
    train(trainer, 0)
    wait_until(lambda: attnd.call("live", job=trainer.job), f"the job {trainer.job}")
    return trainer


def goes_on(attnd, trainer):
    train(trainer, 1)
    wait_until(lambda: attnd.call("live", job=trainer.job)[0]["step"] == 1, "that the victim goes on")


def test_a_key_has_no_more_room_by_naming_more_jobs():
    many, one = Pair(), Pair()
    attnd = Keyed((many, "publish", "many-*"), (one, "publish", "one"), settings=(
        "ingest.budget=16MiB", "ingest.max_message=4MiB", "workers.threads=1", "metrics.spectrum_max_size=4096",
        "metrics.spectrum_budget=0", "metrics.spectrum_effort=eigenvalues"))
    person, victim = attnd.person(many), Trainer(attnd.person(one), "one")
    trainers = [Trainer(person, f"many-{i}") for i in range(16)]
    weights = np.full((1, 4, 128, 128), 1 / 128, np.float32)
    heavy, rounds = np.random.default_rng(1).dirichlet(np.ones(900), (1, 1, 900)).astype(np.float32), iter(range(100))

    def pressed():
        """Whether more came than there is room for: what takes a second is done before where the test stands still for longer."""
        first = next(rounds)
        before = attnd.settled(134 * first)
        trainers[0].attention(heavy, step=8 * first)
        # Behind others it could take all of the budget: half of one is free for a message of any size.
        wait_until(lambda: attnd.stats()["received"] > before["received"], "the large one")
        for step in range(8 * first, 8 * first + 8):
            for trainer in trainers:
                trainer.attention(weights, step=step, layer=1)
        wait_until(lambda: attnd.stats()["received"] + attnd.stats()["in_flight"] >= before["received"] + 129, "all of the many jobs")
        for step in range(5 * first, 5 * first + 5):
            victim.attention(weights[:, :, :16, :16] * 8, step=step)
        return attnd.settled(134 * (first + 1))["dropped"].get("over_budget", 0) > before["dropped"].get("over_budget", 0) + 32
    wait_until(pressed, "more than there is room for")
    dropped = {job["job"]: job["dropped"] for job in attnd.call("jobs")}
    assert dropped["one"] == {}, dropped


def test_who_can_do_what():
    reader, publisher, planner, scoped = Pair(), Pair(), Pair(), Pair()
    attnd = Keyed((reader, "read", "*"), (publisher, "publish", "other-*"), (planner, "plan", "*"), (scoped, "read", "mine"))
    victim = training(attnd, Trainer(attnd, "mine"))

    for nobody in (attnd.person(None), attnd.person(Pair())):  # without a key, and with an unknown one
        assert nobody.refused_at() == ["ingest", "publish", "control", "tap", "reliable"]

    person = attnd.person(reader)
    assert person.refused_at() == ["ingest", "reliable"]
    assert person.call("live", job="mine") and person.error("stats") is None
    assert [person.error(method, job="mine") for method in ("plan.set", "plan.reset", "flush", "baseline")] == 4 * ["access"]

    person = attnd.person(publisher)
    assert person.refused_at() == ["publish", "tap"]
    assert person.error("ping") is None
    assert [person.error(method) for method in ("jobs", "stats", "flush")] == 3 * ["access"]
    assert person.error("live", job="other-1") == "access"
    training(attnd, Trainer(person, "other-1"))

    person = attnd.person(planner)
    assert person.refused_at() == ["ingest", "reliable"]
    assert person.call("plan.set", job="mine", every=7)["every"] == 7
    assert person.error("flush") == "access"

    person = attnd.person(scoped)  # subscribers get all jobs
    assert person.refused_at() == ["ingest", "publish", "tap", "reliable"]
    assert person.call("live", job="mine")
    assert [person.error("live", job="other-1"), person.error("jobs"),
            person.error("compare", job="mine", job_b="other-1")] == 3 * ["access"]

    goes_on(attnd, victim)


def test_nobody_speaks_for_the_job_of_another_key():
    owner, other = Pair(), Pair()
    attnd = Keyed((owner, "publish", "mine"), (other, "publish", "other-*"))
    victim = training(attnd, Trainer(attnd.person(owner), "mine"))

    forger = Trainer(attnd.person(other), "mine", run=victim.run)
    forger.event("bye")
    train(forger, 5, seq=2**62)
    forger.send(b"event/mine/", b"nonsense")
    stats = attnd.settled(4)
    assert stats["dropped"]["key"] == 2 and stats["lost"] == 0
    assert sum(stats["dropped"].values()) == 3
    row = attnd.call("jobs")[0]  # a stranger's messages are no trouble of the job
    assert (row["received"], row["processed"], row["lost"], row["dropped"]) == (1, 1, 0, {})
    assert {key["public_key"]: key["refused"] for key in attnd.call("keys")} == {
        attnd.owner.public: 0, owner.public: 0, other.public: 2}

    goes_on(attnd, victim)
    assert attnd.call("jobs")[0]["state"] == "active"


def ask(socket, method):
    """The result of a request on a connection that stays, or the error."""
    socket.send(msgpack.packb([0, 1, method, {}]))
    assert socket.poll(int(1000 * PATIENCE_S)), f"no answer to {method}"
    _, _, error, result = msgpack.unpackb(socket.recv())
    return error or result


def test_a_pattern_bounds_whatever_is_asked():
    """Each method of the protocol: about a job that the pattern has, about another, and about both at once."""
    with open(PROTOCOL, encoding="utf-8") as page:
        tables = page.read().split("\n| method | parameters | role | result |\n")[1:]
    methods = {method for table in tables for method in re.findall(r"^\| `([^`]+)` \| ", table.split("\n\n")[0], re.M)} - {"ping"}
    of_all, steers = {"jobs", "stats", "monitor", "fleet", "config", "keys"}, {"plan.set", "plan.reset", "run.set"}
    assert methods >= of_all | steers | {"runs", "history", "compare", "alerts", "live"}
    rules = {"flush", "baseline", "run.delete"}
    reader, planner = Pair(), Pair()
    attnd = Keyed((reader, "read", "mine*"), (planner, "plan", "mine*"))
    trainers = [Trainer(attnd, job) for job in ("mine", "stranger")]
    for trainer in trainers:
        train(trainer, 0)
        trainer.event("epoch_end")
        wait_until(lambda: attnd.call("runs", job=trainer.job), "the run in the history")
    for pair, refused in ((reader, of_all | steers | rules), (planner, of_all | rules)):
        person = attnd.person(pair)
        for method in sorted(methods):
            assert person.ask(method)[0] == person.ask(method, ("job", "stranger"))[0] == "access", method
            if method not in refused:
                assert person.ask(method, ("job", "mine"), ("job", "stranger"))[0] == "argument", method
            code, answer = person.ask(method, ("job", "mine"))
            assert (code == "access") == (method in refused) and b"stranger" not in answer, method
        assert person.ask("compare", ("job", "mine"), ("job_b", "stranger"))[0] == "access"


def test_a_key_that_is_taken_away_is_worth_nothing():
    reader, publisher = Pair(), Pair()
    attnd = Keyed((reader, "read", "*"), (publisher, "publish", "*"))
    trainer = training(attnd, Trainer(attnd.person(publisher), "mine"))
    person = attnd.person(reader)
    subscriber = Reader(person, "live/")
    assert subscriber.next()[1]["step"] == 0

    asker = person.context.socket(zmq.DEALER)
    asker.connect(person.endpoint("control"))
    assert ask(asker, "ping")["version"]

    with cut_off(subscriber):
        attnd.admit()
    assert person.refused_at() == list(SOCKETS)
    assert ask(asker, "ping")["code"] == "access"  # on the connection that it had
    before = attnd.stats()["received"]
    train(trainer, 1)
    stats = attnd.settled(before + 1)
    assert stats["dropped"]["key"] == 1

    mine = Reader(attnd, "live/")  # who still may can come back
    assert mine.next()[1]["step"] == 0
    attnd.admit((publisher, "publish", "*"))
    train(trainer, 2)
    assert wait_until(lambda: [one for one in [mine.next()[1]] if one["step"] == 2], "a result")


def test_a_unix_socket_beside_tcp_needs_no_key():
    attnd = Keyed()
    attnd.close()
    attnd.settings = [setting for setting in attnd.settings if not setting.startswith("control.")]
    attnd.context, tcp = zmq.Context(), attnd.endpoint
    attnd.endpoint = lambda name: f"ipc://{attnd.directory}/control" if name == "control" else tcp(name)
    Attnd.start(attnd)  # whose own questions come without a key now
    assert attnd.person(None).error("flush") is None
    assert attnd.person(None).refused_at() == ["ingest", "publish", "tap", "reliable"]


def test_what_a_key_was_refused_is_not_forgotten_with_its_line():
    publisher, other = Pair(), Pair()
    attnd = Keyed((publisher, "publish", "other-*"), (other, "publish", "*"))
    trainer = Trainer(attnd.person(publisher), "mine")

    def refused(messages):
        trainer.event("hello")
        attnd.settled(messages)
        return {key["public_key"]: key["refused"] for key in attnd.call("keys")}

    assert refused(1) == {attnd.owner.public: 0, publisher.public: 1, other.public: 0}
    attnd.admit((other, "publish", "*"), (publisher, "publish", "other-*"))
    assert refused(2) == {attnd.owner.public: 0, other.public: 0, publisher.public: 2}
    attnd.admit((other, "publish", "*"))
    assert refused(3) == {attnd.owner.public: 0, other.public: 0}
    attnd.admit((publisher, "publish", "other-*"))
    assert refused(4) == {attnd.owner.public: 0, publisher.public: 4}


def test_a_message_that_was_refused_counts_once_when_the_key_is_let_in_again():
    publisher = Pair()
    attnd = Keyed((publisher, "publish", "mine"))
    trainer = Trainer(attnd.person(publisher), "mine")
    trainer.event("hello")
    attnd.settled(1)
    attnd.admit((publisher, "publish", "other"))
    for step in range(5):
        trainer.event("log", step=step, values={"loss": 1})
    attnd.settled(6)
    attnd.admit((publisher, "publish", "mine"))
    trainer.event("log", step=5, values={"loss": 1})
    attnd.settled(7)
    job, = attnd.call("jobs")
    assert (job["received"], job["lost"], job["dropped"]) == (2, 5, {})


class Rotating(Keyed):
    """With the next key at a second address."""

    ports, next = 2 * len(SOCKETS), None

    def add_next(self):
        self.next, self.before, self.next_port = Pair(), self.server, self.port + len(SOCKETS)
        self.files.append(f"{self.files[0]}.next")
        write_secret(self.files[2], self.next)
        self.settings = [*self.settings, f"keys.next={self.files[2]}", f"keys.next_address=tcp://127.0.0.1:{self.next_port}"]

    def start(self):
        if not self.next:
            self.add_next()
        super().start()

    def at_next(self, server=None):
        """Its second address, for people who take that for its key, or the right one."""
        place = [f"tcp://127.0.0.1:{self.next_port + i}" for i in range(len(SOCKETS))]
        return SimpleNamespace(server=server or self.next, endpoint=lambda name: place[list(SOCKETS).index(name)],
                               directory=self.directory, process=self.process)

    def rotate(self):
        """The next key is the one, and its address the only one."""
        self.stop()
        self.port, self.server = self.next_port, self.next
        self.settings = [f"keys.server={self.files[2]}", f"keys.access={self.files[1]}"]
        self.settings += [f"{name}.endpoint={self.endpoint(name)}" for name in SOCKETS]
        self.context.destroy(linger=0)
        self.context = zmq.Context()
        self.start()


def test_the_next_key_is_good_beside_the_first_and_then_alone():
    nodes, reader = Pair(), Pair()
    attnd = Rotating((nodes, "publish", "*"), (reader, "read", "*"))
    old = training(attnd, Trainer(attnd.person(nodes), "old"))
    new = training(attnd, Trainer(attnd.person(nodes, attnd.at_next()), "new"))

    asker = attnd.person(reader, attnd.at_next())
    assert asker.refused_at() == ["ingest", "reliable"]
    assert attnd.person(Pair(), attnd.at_next()).refused_at() == list(SOCKETS)
    assert attnd.person(nodes, attnd.at_next(attnd.before)).refused_at() == list(SOCKETS)  # each address has one key
    subscriber = Reader(asker, "live/new/")
    assert subscriber.next()[1]["step"] == 0

    def connected_at():
        keys = attnd.call("keys")
        assert all(key["connected"] == bool(key["connected_at"]) for key in keys)
        return {key["public_key"]: key["connected_at"] for key in keys}

    wait_until(lambda: connected_at() == {attnd.owner.public: ["first"], nodes.public: ["first", "next"], reader.public: ["next"]},
               "who is at which address")
    old.close()
    wait_until(lambda: connected_at()[nodes.public] == ["next"], "that nobody is at the first one but the owner")
    with cut_off(subscriber):
        attnd.admit((nodes, "publish", "*"))
    assert asker.refused_at() == list(SOCKETS)
    assert attnd.person(attnd.owner, attnd.at_next()).refused_at() == []  # bound again at both addresses
    assert attnd.person(attnd.owner).refused_at() == []

    attnd.rotate()
    steps = itertools.count(1)  # the first ones may come before it has connected again
    wait_until(lambda: train(new, next(steps)) or attnd.call("live", job="new")[0]["step"] > 0, "that the trainer of the next key goes on")


def test_clients_of_one_key_are_connected_as_long_as_one_of_them_is():
    nodes, reader = Pair(), Pair()
    attnd = Rotating((nodes, "publish", "*"), (reader, "read", "*"))

    def connected_at(pair):
        return next(key["connected_at"] for key in attnd.call("keys") if key["public_key"] == pair.public)

    def wait_connected(pair, *addresses):
        wait_until(lambda: connected_at(pair) == list(addresses), f"that the key is connected at {addresses}")

    def ends():
        """The other ends of connections to the first publish socket that attnd has not closed."""
        rows = [line.split()[1:4] for line in open("/proc/net/tcp")][1:]
        return {there for here, there, state in rows if here.endswith(f":{attnd.port + 1:04X}") and state in ("01", "08")}

    at_first, at_next = attnd.person(reader), attnd.person(reader, attnd.at_next())
    quiet = Reader(at_first, "live/")
    wait_connected(reader, "first")
    before = ends()
    other = Reader(at_first, "live/")
    mine = ends() - before
    assert len(mine) == 1
    other.close()
    wait_until(lambda: not mine & ends(), "that attnd sees the end of the second connection")
    assert connected_at(reader) == ["first"]  # which says nothing any more
    other = Reader(at_next, "live/")
    wait_connected(reader, "first", "next")
    quiet.close()
    wait_connected(reader, "next")
    other.close()
    wait_connected(reader)

    trainer, second = Trainer(attnd.person(nodes), "one"), Trainer(attnd.person(nodes, attnd.at_next()), "two")
    train(trainer, 0)
    wait_connected(nodes, "first")
    train(second, 0)
    wait_connected(nodes, "first", "next")
    second.close()
    wait_connected(nodes, "first")
    attnd.admit((reader, "read", "*"), (nodes, "publish", "*"))  # the lines are others, the connections are not
    assert connected_at(nodes) == ["first"]
    trainer.close()
    wait_connected(nodes)


class Handed(Rotating):
    """The sockets of its first address are opened by somebody else, as by systemd."""

    def start(self):
        self.add_next()
        give_key(self.context, self.server, self.owner)
        self.held = [socket.create_server(("127.0.0.1", self.port + i)) for i in range(len(SOCKETS))]
        fds = [fcntl.fcntl(one, fcntl.F_DUPFD, 50) for one in self.held]
        arguments = [sys.executable, "-c", BECOME, ",".join(map(str, fds)), ":".join(SOCKETS), ATTND]
        for setting in (*self.settings, f"history.path={self.history_path}", "http.enabled=false"):
            arguments += ["--set", setting]
        self.log = open(os.path.join(self.directory, "log"), "a+b")
        self.process = subprocess.Popen(arguments, stderr=self.log, pass_fds=fds)
        for fd in fds:
            os.close(fd)
        assert self.call("ping")["version"]


def test_sockets_of_a_service_manager_ask_for_keys_again_and_again():
    reader = Pair()
    attnd = Handed((reader, "read", "*"))
    person = attnd.person(reader)
    subscriber = Reader(person, "live/")
    assert attnd.person(Pair()).refused_at() == list(SOCKETS)
    for _ in range(2):
        with cut_off(subscriber):
            attnd.admit()
        assert person.refused_at() == list(SOCKETS)
        subscriber.close()
        attnd.admit((reader, "read", "*"))
        subscriber = Reader(person, "live/")
        assert attnd.person(reader, attnd.at_next()).refused_at() == ["ingest", "reliable"]  # which attnd has opened


def refused_connections(attnd):
    """The log's lines of them: (public key, its count)."""
    lines = re.findall(r"event=connection_refused .*", attnd.log_text())
    return [re.search(r'public_key="?(\S*?)"? count=(\d+)', line).groups() for line in lines]


def test_refused_connections_are_counted_and_named_for_each_key():
    old, newbie = Pair(), Pair()
    attnd = Keyed()
    stranger = attnd.person(old)
    for _ in range(5):
        assert stranger.is_refused("control")
    assert attnd.person(newbie).is_refused("control")
    assert refused_connections(attnd) == [(old.public, "1"), (old.public, "2"), (old.public, "4"), (newbie.public, "1")]
    assert attnd.stats()["keys_refused"] == 6


def test_a_list_with_a_mistake_changes_nothing():
    attnd = Keyed()
    with open(attnd.files[1], "a") as file:
        file.write("nonsense\n")
    attnd.process.send_signal(signal.SIGHUP)
    wait_log(attnd, "event=access_refused", f"{attnd.files[1]}:2: public-key: 'nonsense': not a key", 'in_force="the list as it was"')
    assert attnd.call("ping")["version"]


def test_keys_that_nobody_is_asked_for_are_told():
    attnd = Keyed()
    attnd.stop()
    assert "event=keys_unused" not in attnd.log_text()
    attnd.settings = attnd.settings[:2]  # with a Unix socket in the place of each on TCP
    attnd.context, attnd.endpoint = zmq.Context(), lambda name: f"ipc://{attnd.directory}/{name}"
    Attnd.start(attnd)
    assert re.search(r"level=warning .*event=keys_unused detail=.*none of its sockets is on TCP", attnd.log_text())
    refused = attnctl(attnd, "key", "list")
    assert refused.returncode == 2 and "this attnd asks for no keys: none of its sockets is on TCP" in refused.stderr


def test_an_emptied_list_locks_everybody_out_and_is_warned_of():
    attnd = Keyed()
    open(attnd.files[1], "w").close()
    attnd.reload()
    wait_log(attnd, "access_empty", f"file={attnd.files[1]}")
    assert attnd.person(attnd.owner).is_refused("ingest")


def test_a_list_that_is_empty_at_the_start_is_warned_of(tmp_path):
    key, access, server = tmp_path / "key", tmp_path / "access", Pair()
    write_secret(key, server)
    for lines in ([], [f"{server.public} read *"]):
        access.write_text("# nobody else\n" + "\n".join(lines))
        settings = f"keys.server={key}", f"keys.access={access}", "history.enabled=false", "http.enabled=false"
        process = subprocess.Popen([ATTND, "--address", str(tmp_path), *(f"--set={setting}" for setting in settings)],
                                   stderr=subprocess.PIPE, text=True)
        log = "".join(itertools.takewhile(lambda line: "event=started" not in line, process.stderr))
        process.terminate()
        process.wait(PATIENCE_S)
        assert (f"level=warning event=access_empty file={access}" in log) == (not lines)


def refusal(*settings):
    command = [ATTND, "--address", "tcp://127.0.0.1:1", "--set", "history.enabled=false", "--set", "http.enabled=false"]
    for setting in settings:
        command += ["--set", setting]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert ended.returncode != 0
    return ended.stderr


def test_attnd_does_not_start_with_bad_keys(tmp_path):
    key, access = tmp_path / "key", tmp_path / "access"
    pair = Pair()
    key.write_text(f"# A secret key of attnd.\n{pair.secret}\n")
    access.write_text("")
    files = f"keys.server={key}", f"keys.access={access}"
    key.chmod(0o644)
    assert f"keys.server: {key}: others can read it" in refusal(*files)
    key.chmod(0o600)
    access.write_text("x read *\n")
    assert f"keys.access: {access}:1: public-key: 'x'" in refusal(*files)
    assert "keys.access: needed with keys.server" in refusal(files[0])
    assert "keys.server: needed with keys.access" in refusal(files[1])
    again = f"keys.next={key}", "keys.next_address=tcp://127.0.0.1:7"
    assert f"keys.next: '{key}': the key of keys.server" in refusal(*files, *again)
    key.write_text(f"{pair.public}\n")  # as attnctl key new prints it
    assert f"keys.server: {key}: may be a public key" in refusal(*files)
    assert "insecure: 'true': there are keys" in refusal(*files, "insecure=true")
