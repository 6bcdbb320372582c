# SPDX-License-Identifier: MIT
import os
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.dirname(__file__))
from harness import Attnd  # noqa: E402


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    while Attnd.all:
        Attnd.all.pop().discard()


@pytest.fixture(autouse=True)
def state_of_its_own(tmp_path, monkeypatch):
    """A daemon that is not told where its history is keeps it here, and not in the user's home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def attnd():
    """A daemon with defaults; it must stop cleanly."""
    daemon = Attnd()
    yield daemon
    daemon.close()


@pytest.fixture
def rng():
    return np.random.default_rng(20260)
