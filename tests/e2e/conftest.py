# SPDX-License-Identifier: MIT
import os
import shutil
import signal
import sys
import tempfile

import numpy as np
import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "clients", "python")]
sys.path += [os.path.join(HERE, "..", folder) for folder in ("kernels", "python", "cli")]
from harness import ATTND, Attnd  # noqa: E402
from person import Person  # noqa: E402
from web import Web  # noqa: E402

CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    while Attnd.all:
        Attnd.all.pop().discard()


@pytest.fixture(autouse=True)
def every_attnd_stops_cleanly(nothing_left_behind, state_of_its_own):
    """Those that a test has neither stopped nor seen the end of."""
    yield
    for daemon in Attnd.all:
        if daemon.process and daemon.process.returncode is None:
            daemon.process.send_signal(signal.SIGCONT)  # a test may have stopped it
            daemon.close()
        assert not daemon.process or -daemon.process.returncode not in CRASHES, daemon.log_text()


@pytest.fixture(autouse=True)
def state_of_its_own(tmp_path, monkeypatch):
    """A daemon that is not told where its history and its sockets are has them here, and not where the user's are."""
    runtime = tempfile.mkdtemp(prefix="attnd-")  # a socket's path is short
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.delenv("ATTND_ADDRESS", raising=False)
    yield
    shutil.rmtree(runtime, ignore_errors=True)


@pytest.fixture
def attnd():
    """A daemon with defaults; it must stop cleanly, also in suites that have only this of here."""
    daemon = Attnd()
    yield daemon
    daemon.close()


@pytest.fixture
def web():
    """A daemon with HTTP, whose stream has all live results."""
    return Web("http.live_interval=0s", "http.heartbeat=200ms")


@pytest.fixture(scope="module")
def attnd_web():
    """One for tests that leave no trace in it."""
    daemon = Web("http.timeout=5s")
    Attnd.all.remove(daemon)  # it outlives a test
    yield daemon
    daemon.close()
    daemon.discard()


@pytest.fixture
def attnd_by(tmp_path, monkeypatch):
    """Has attnd started by a shell command, in which $ATTND is the program with its arguments."""
    def started_by(command):
        program = tmp_path / "attnd-by"
        program.write_text("#!/bin/sh\nexec " + command.replace("$ATTND", f'{ATTND} "$@"') + "\n")
        program.chmod(0o755)
        monkeypatch.setattr("harness.ATTND", str(program))
    return started_by


@pytest.fixture
def person():
    someone = Person()
    yield someone
    someone.leave()


@pytest.fixture
def rng():
    return np.random.default_rng(20260)
