# SPDX-License-Identifier: MIT
import os
import shutil
import sys
import tempfile

import numpy as np
import pytest

sys.path.insert(0, os.path.dirname(__file__))
from harness import Attnd  # noqa: E402
from person import Person  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    while Attnd.all:
        Attnd.all.pop().discard()


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
    """A daemon with defaults; it must stop cleanly."""
    daemon = Attnd()
    yield daemon
    daemon.close()


@pytest.fixture
def person():
    someone = Person()
    yield someone
    someone.leave()


@pytest.fixture
def rng():
    return np.random.default_rng(20260)
