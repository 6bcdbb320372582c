# SPDX-License-Identifier: MIT
"""attnd under a service manager: what it tells it, and sockets that it is handed. No systemd is needed."""
import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import harness
import pytest
from harness import PATIENCE_S, Attnd, Trainer, softmax_maps, wait_until

WATCHDOG_S = 0.8


class Manager:
    """The socket that a service manager listens on, and what it has heard."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.heard = []

    def listen(self):
        while True:
            try:
                datagram = self.socket.recv(4096, socket.MSG_DONTWAIT).decode()
            except BlockingIOError:
                return self.heard
            self.heard.append(dict(line.split("=", 1) for line in datagram.split("\n")))

    def values(self, key):
        return [said[key] for said in self.listen() if key in said]

    def wait(self, key, times=1):
        return wait_until(lambda: len(self.values(key)) >= times and self.values(key), f"{times} {key}")


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path, monkeypatch):
    name = f"@attnd-{os.getpid()}-notify" if request.param == "abstract" else f"{tmp_path}/notify"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    return Manager(name)


@pytest.fixture
def watching(tmp_path, monkeypatch):
    """A manager with a watchdog."""
    monkeypatch.setenv("WATCHDOG_USEC", str(int(WATCHDOG_S * 1e6)))
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
    return Manager(f"{tmp_path}/notify")


def test_it_says_that_it_is_ready_and_that_it_stops(manager):
    attnd = Attnd()
    manager.wait("READY")
    assert manager.heard[0] == {"READY": "1"}  # and nothing before
    harness.wait_log(attnd, "event=history_open")
    harness.wait_log(attnd, "event=started")
    assert manager.wait("STATUS")[0] == "waiting for jobs"
    assert not manager.values("WATCHDOG")  # nobody asked for it
    attnd.close()
    manager.wait("STOPPING")
    assert manager.values("READY") == ["1"]
    assert min(int(us) for us in manager.wait("EXTEND_TIMEOUT_USEC")) > 1e6


def test_a_start_that_fails_never_says_ready(manager):
    result = subprocess.run([harness.ATTND, "--set", "history.enabled=false", "--set", "http.endpoint=tcp://192.0.2.1:5580"], capture_output=True,
                            timeout=PATIENCE_S)
    assert result.returncode == 1
    assert not manager.values("READY")


def test_a_reload_is_told_with_its_time(manager):
    attnd = Attnd(config="plan: {every: 5}\n")
    manager.wait("READY")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    attnd.process.send_signal(signal.SIGHUP)
    manager.wait("READY", times=2)
    said = [d for d in manager.heard if "RELOADING" in d or "READY" in d]
    assert [list(d)[0] for d in said] == ["READY", "RELOADING", "READY"]
    assert before <= int(said[1]["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_programs_it_starts_do_not_hear_of_it(watching, tmp_path, rng):
    """A command of alerts could otherwise speak for attnd."""
    script = tmp_path / "said"
    script.write_text(f"#!/bin/sh\nenv > {tmp_path}/env.new && mv {tmp_path}/env.new {tmp_path}/env\ncat >/dev/null\n")
    script.chmod(0o755)
    rules = "rules: {any: {metric: confidence, each: head, above: 0}}\n"
    attnd = Attnd(f"alerts.command={script}", "window.unit=step", config=rules)
    trainer = Trainer(attnd, "job")
    weights = softmax_maps(rng, 1, 2, 8, 8)
    for step in range(4):
        trainer.attention(weights, step=step)
    wait_until(lambda: (tmp_path / "env").exists(), "the command")
    text = (tmp_path / "env").read_text()
    assert "NOTIFY_SOCKET" not in text and "WATCHDOG_USEC" not in text and "PATH=" in text


# Watchdog

def test_an_idle_attnd_is_alive(watching):
    attnd = Attnd()
    watching.wait("WATCHDOG", times=4)


def test_a_busy_attnd_is_alive_and_says_how_busy(watching, rng):
    attnd = Attnd("window.unit=step")
    trainer = Trainer(attnd, "job")
    weights = softmax_maps(rng, 1, 2, 16, 16)
    before = len(watching.wait("WATCHDOG"))
    for step in range(20):
        trainer.attention(weights, step=step)
    attnd.settled(20)
    watching.wait("WATCHDOG", times=before + 2)
    status = wait_until(lambda: [s for s in watching.values("STATUS") if "20 received, 0 dropped" in s], "the status")
    assert re.fullmatch(r"\d+\.\d messages/s, \d+\.\d MB/s; 20 received, 0 dropped", status[0])


@pytest.mark.parametrize("point", ["loop:12", "ingest:3", "store:2"])  # the loop answers for some seconds first
def test_a_thread_that_stands_still_makes_the_watchdog_fall_silent(watching, monkeypatch, rng, point):
    monkeypatch.setenv("ATTND_STALL_AT", point)
    thread = point.split(":")[0]
    attnd = Attnd("history.checkpoint=100ms", "history.commit=10ms")
    watching.wait("READY")
    watching.wait("WATCHDOG")
    if thread == "store":  # it has something to write
        trainer = Trainer(attnd, "job")
        trainer.attention(softmax_maps(rng, 1, 2, 8, 8))
    if thread == "loop":
        wait_until(lambda: silent(watching, 2 * WATCHDOG_S), "silence")
    else:
        wait_until(lambda: f"event=thread_late thread={thread}" in attnd.log_text(), "the late thread")
        watching.listen()  # on a busy machine it may have been late once before it stood still
        wait_until(lambda: silent(watching, 2 * WATCHDOG_S), "silence")
        assert attnd.call("ping")  # the others go on
    attnd.stop(signal.SIGKILL)


def silent(manager, seconds):
    before = len(manager.values("WATCHDOG"))
    time.sleep(seconds)
    return len(manager.values("WATCHDOG")) == before


# Socket activation

# Puts the descriptors of its arguments from 3 on, and becomes attnd.
BECOME = """
import os, sys
fds = [int(fd) for fd in sys.argv[1].split(",")]
for i, fd in enumerate(fds):
    os.dup2(fd, 3 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(fds)), LISTEN_FDNAMES=sys.argv[2])
os.execv(sys.argv[3], sys.argv[3:])
"""


class Sockets:
    """Listening sockets that outlive attnd."""

    def __init__(self, directory):
        self.directory, self.held = directory, {}
        for name in ("ingest", "publish", "control", "tap", "reliable"):
            self.held[name] = socket.socket(socket.AF_UNIX)
            self.held[name].bind(f"{directory}/{name}")
        self.held["http"] = socket.create_server(("127.0.0.1", 0))
        for held in self.held.values():
            held.listen(64)
        self.port = self.held["http"].getsockname()[1]

    def arguments(self):
        """High numbers, which are in nobody's way."""
        self.fds = [fcntl.fcntl(held, fcntl.F_DUPFD, 50) for held in self.held.values()]
        return [sys.executable, "-c", BECOME, ",".join(map(str, self.fds)), ":".join(self.held)]

    def close(self):
        for held in self.held.values():
            held.close()


class Activated(Attnd):
    """attnd with sockets that were opened for it, told of others, which it must not bind."""

    def __init__(self, sockets):
        self.sockets = sockets
        super().__init__(directory=sockets.directory)

    def start(self):
        arguments = self.sockets.arguments() + [harness.ATTND, "--set", f"history.path={self.history_path}"]
        for port, name in enumerate(self.sockets.held, start=1):
            arguments += ["--set", f"{name}.endpoint=tcp://192.0.2.1:{port}"]
        arguments += ["--set", "insecure=true"]
        self.log = open(os.path.join(self.directory, "log"), "a+b")
        self.process = subprocess.Popen(arguments, stderr=self.log, pass_fds=self.sockets.fds)
        for fd in self.sockets.fds:
            os.close(fd)
        assert self.call("ping")["version"]


@pytest.fixture
def sockets():
    made = Sockets(tempfile.mkdtemp(prefix="attnd-"))
    yield made
    made.close()


def test_sockets_that_are_handed_over_are_served(sockets, rng):
    attnd = Activated(sockets)
    harness.wait_log(attnd, f"http=tcp://127.0.0.1:{sockets.port}")
    harness.wait_log(attnd, f"ingest=ipc://{attnd.directory}/ingest")
    reader = harness.Reader(attnd, "live/")
    trainer = Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 2, 8, 8))
    assert reader.next()[0].startswith("live/job/")
    with urllib.request.urlopen(f"http://127.0.0.1:{sockets.port}/healthz", timeout=PATIENCE_S) as answer:
        assert answer.read() == b"ok\n"
    reader.close()
    trainer.close()
    attnd.close()
    assert os.path.exists(f"{attnd.directory}/ingest")  # not attnd's to remove


def test_a_restart_refuses_nobody(sockets):
    """They stay open meanwhile, so who connects waits instead of failing."""
    attnd = Activated(sockets)
    assert attnd.stop() == 0
    with socket.create_connection(("127.0.0.1", sockets.port), timeout=PATIENCE_S) as early:
        early.sendall(b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        attnd.start()
        assert early.recv(100).startswith(b"HTTP/1.")
