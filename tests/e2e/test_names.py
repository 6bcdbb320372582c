# SPDX-License-Identifier: MIT
"""How attnd is named: by one variable and one argument for all clients; and whoever names another of its ports, or
somebody else's, is told who listens there."""
import http.server
import inspect
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import zmq
from harness import ATTNCTL, ATTND, PATIENCE_S, Attnd, free_ports, wait_until

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "clients" / "python"
import attnd
from attnd import plots
from attnd.bridge import Bridge, JsonLinesSink, cli as bridge
from attnd.connection import link
from attnd.notebook import live_plot
from attnd.plots.read import SourceError
from attnd.sending.presence import TO_START

TRAIN = os.environ.get("ATTN_TRAIN", "build/clients/c/train")
SOCKETS = ("ingest", "publish", "control", "tap")


class OverTcp(Attnd):
    """A daemon at five ports in a row, and a page at the sixth."""

    def __init__(self):
        self.first = free_ports(6)
        super().__init__()

    def endpoint(self, name):
        return f"tcp://127.0.0.1:{self.first + SOCKETS.index(name)}"

    def start(self):
        command = [ATTND, "--address", self.endpoint("ingest"), "--set", "insecure=true", "--set", "history.enabled=false",
                   "--set", f"http.endpoint=tcp://127.0.0.1:{self.first + 5}"]
        self.log = open(os.path.join(self.directory, "log"), "a+b")
        self.process = subprocess.Popen(command, stderr=self.log)
        assert self.call("ping")["version"]


@pytest.fixture
def daemon():
    return OverTcp()


class Strangers:
    """Servers that are no attnd: of HTTP, one that speaks first, one that is silent, and a ZeroMQ socket."""

    def __init__(self):
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.plain = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        threading.Thread(target=self._greet, daemon=True).start()
        self.context = zmq.Context()
        self.pull = self.context.socket(zmq.PULL)
        ports = [self.http.server_port, *(one.getsockname()[1] for one in self.plain),
                 self.pull.bind_to_random_port("tcp://127.0.0.1")]
        self.addresses = dict(zip(("http", "greets", "silent", "pull"), (f"tcp://127.0.0.1:{port}" for port in ports)))

    def _greet(self):
        while True:
            try:
                connection, _ = self.plain[0].accept()
            except OSError:
                return
            connection.sendall(b"SSH-2.0-Nobody\r\n")
            connection.close()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        for one in self.plain:
            one.close()
        self.context.destroy(linger=0)


@pytest.fixture(scope="module")
def strangers():
    made = Strangers()
    yield made
    made.close()


def said_of(name, daemon, strangers):
    """(the address, the sentence about it) of a name."""
    right = daemon.endpoint("ingest")
    if name in SOCKETS:
        address = daemon.endpoint(name)
        return address, f"{address} is attnd's {name} port: its address is {right}"
    if name == "page":
        address = f"tcp://127.0.0.1:{daemon.first + 5}"
        return address, (f"{address} is attnd's page, for browsers; attnd's address has another port, by default 5570, and is "
                         "not needed on attnd's machine")
    address = strangers.addresses[name]
    return address, {"http": f"{address} is a server of HTTP, not attnd", "greets": f"{address} is not attnd: it says "
                     "'SSH-2.0-Nobody'", "silent": f"{address} is somebody who is silent, not attnd",
                     "pull": f"{address} is a ZeroMQ socket of type PULL, not attnd"}[name]


NAMES = ["publish", "control", "tap", "page", "http", "greets", "silent", "pull"]


@pytest.mark.parametrize("name", NAMES)
def test_whoever_names_a_wrong_port_is_told_who_listens_there(name, daemon, strangers, monkeypatch, caplog, capsys,
                                                                  tmp_path):
    monkeypatch.setattr(link, "ASK_AFTER_S", 0.2)
    monkeypatch.setattr(link.listener, "WAIT_S", PATIENCE_S)
    if name != "silent":  # who stands still for a while is not
        monkeypatch.setattr(link.listener, "CONNECT_S", PATIENCE_S)
        monkeypatch.setattr(link.listener, "ANSWER_S", 2.5)
    address, sentence = said_of(name, daemon, strangers)
    with caplog.at_level(logging.WARNING, "attnd"), attnd.Publisher("job", address=address, linger=0), \
            attnd.Subscriber(address=address):
        wait_until(lambda: len(caplog.messages) >= 2, "both warnings")
    assert sorted(caplog.messages) == [f"job job: {sentence}; training goes on, and nothing of it is captured",
                                       f"nothing can be received: {sentence}"]
    assert said_by_control(address=address).endswith(f": {sentence}")
    assert bridge.main(["jsonl", "--address", address, "--timeout", "0.1"]) == 3
    assert sentence in capsys.readouterr().err
    commands = ("ping",), ("tail",), ("record", "job", tmp_path / "job.rec")
    for command in commands if name == "publish" else commands[:1]:  # they ask in the same way
        is_told(3, f"attnctl: {sentence}\n", ATTNCTL, *command, "--timeout", "0.1", "--address", address)
    is_told(0, f"train: no attnd yet, training begins without: {sentence}\n", TRAIN, "--address", address, "1", "1")


def said_by_control(*place, timeout=0.1, **named):
    """The sentence of a client that has no answer."""
    with attnd.Control(*place, timeout=timeout, **named) as control, pytest.raises((TimeoutError, ConnectionError)) as error:
        control.ping()
    return str(error.value)


def is_told(status, sentence, *command):
    """Asks again where somebody stood still for longer than a listener is given to answer."""
    def told():
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        return (done.returncode, done.stderr) == (status, sentence)

    wait_until(told, f"{command} to say {sentence!r}")


def test_a_wrong_socket_is_told_by_its_type(daemon, monkeypatch):
    for limit in ("WAIT_S", "CONNECT_S", "ANSWER_S"):
        monkeypatch.setattr(link.listener, limit, PATIENCE_S)
    tap = daemon.endpoint("tap")
    sentence = (f"{tap} is attnd's publish or tap socket, by its type, but the control socket is wanted: name attnd by its "
                "address")
    assert said_by_control(tap) == f"{tap}: no answer to ping within 0.1 s: {sentence}"
    is_told(3, f"attnctl: {sentence}\n", ATTNCTL, "ping", "--timeout", "0.1", "--endpoint", tap)


def test_a_socket_in_place_of_its_directory_is_told():
    found = Attnd()
    address = f"{found.directory}/control"
    sentence = f"{address} is one socket: the address is its directory, {found.directory}"
    assert said_by_control(address=address).endswith(sentence)
    is_told(3, f"attnctl: {sentence}\n", ATTNCTL, "ping", "--timeout", "0.1", "--address", address)


@pytest.mark.parametrize("runs", [True, False])
def test_an_ingest_socket_that_is_not_in_the_directory_is_told(tmp_path, caplog, runs):
    torch = pytest.importorskip("torch")
    (tmp_path / "other").mkdir()
    found = Attnd(f"ingest.endpoint=ipc://{tmp_path}/other/ingest")
    if not runs:
        found.stop()
    sentence = (f"attnd is in {found.directory}, but its ingest socket is elsewhere: name it by its endpoint, or leave ingest.endpoint "
                "out of attnd's config") if runs else (
                    f"no attnd listens at {found.directory}/ingest: is it running, and with this address? Its log says where its "
                    "sockets are")
    with attnd.watch(torch.nn.TransformerEncoderLayer(8, 2, 16), "job", address=found.directory, wait=0.05):
        assert caplog.messages == [f"job job: nobody takes tensors yet ({sentence}); training goes on, and is captured once attnd listens "
                                   f"there. {TO_START}"]
    is_told(0, f"train: no attnd yet, training begins without: {sentence}\n", TRAIN, "--address", found.directory, "1", "1")
    found.discard()


def test_the_right_address_is_not_judged_and_an_absent_attnd_not_blamed(daemon, monkeypatch, caplog):
    monkeypatch.setattr(link, "ASK_AFTER_S", 0.05)
    nobody = f"tcp://127.0.0.1:{free_ports(5)}"
    asked = []
    monkeypatch.setattr(link.listener, "wrong", lambda *name: asked.append(name[2]) and None)
    with attnd.Publisher("job", address=daemon.endpoint("ingest")) as publisher, \
            attnd.Subscriber(address=nobody):
        assert publisher.wait_for_subscriber(PATIENCE_S)
        wait_until(lambda: asked.count(nobody) >= 3, "it is asked again and again, ever more rarely")
    monkeypatch.undo()
    said = said_by_control(address=nobody, timeout=0.05)
    assert said.endswith(": no answer to ping within 0.05 s") and not caplog.messages


# ------------------------------------------------------------------------------------------------ one variable

def program(*command):
    """Says on, and returns, what it says."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=2 * PATIENCE_S,
                          env={**os.environ, "PYTHONPATH": str(PACKAGE), "ATTND_PYTHON": sys.executable})
    print(done.stdout, done.stderr)
    return done.stderr


def watched():
    torch = pytest.importorskip("torch")
    attnd.watch(torch.nn.MultiheadAttention(8, 2), job="named").close()


CLIENTS = {
    "Publisher": lambda: attnd.Publisher("named"),
    "watch": watched,
    "Subscriber": attnd.Subscriber,
    "Control": attnd.Control,
    "live_plot": lambda: live_plot("named"),
    "Bridge": lambda: Bridge(JsonLinesSink()),
    "bridge": lambda: program(sys.executable, "-m", "attnd.bridge", "jsonl"),
    "attnctl": lambda: program(ATTNCTL, "ping"),
    "attnctl bridge": lambda: program(ATTNCTL, "bridge", "jsonl"),
    "attnctl show": lambda: program(ATTNCTL, "show", "job"),
    "plots.Source": lambda: plots.Source("job"),
    "plots.timeline": lambda: plots.timeline("job"),
    "attnd": lambda: program(ATTND),
    "libattn": lambda: program(TRAIN, "1", "1"),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_reads_the_one_variable(client, monkeypatch, capfd, caplog):
    """Whoever reads a mistake there says so."""
    if client == "live_plot":
        pytest.importorskip("matplotlib")
    monkeypatch.setenv("ATTND_ADDRESS", "localhost:5570")
    monkeypatch.setenv("ATTND_ATTNCTL", os.path.abspath(ATTNCTL))
    raised = ""
    try:
        CLIENTS[client]()
    except (ValueError, SourceError) as error:
        raised = str(error)
    said = "\n".join([raised, *caplog.messages, *capfd.readouterr()])
    assert ("train: no publisher: is $ATTND_ADDRESS an address?" if client == "libattn" else
            "'localhost:5570': write tcp://localhost:5570") in said


@pytest.mark.parametrize("function", [attnd.Publisher, attnd.watch, attnd.Subscriber, attnd.Control, live_plot, Bridge])
def test_every_client_has_an_argument_of_the_same_name(function):
    assert inspect.signature(function).parameters["address"].default is None


@pytest.mark.parametrize("command", [[ATTNCTL, "ping"], [sys.executable, "-m", "attnd.bridge", "jsonl"]])
def test_the_former_variable_is_not_passed_over_in_silence(command, monkeypatch):
    monkeypatch.setenv("ATTND_ENDPOINT", "ipc:///nowhere")
    monkeypatch.delenv("ATTND_ADDRESS", raising=False)
    assert "ATTND_ENDPOINT is not read: name attnd in ATTND_ADDRESS" in program(*command)
