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


@pytest.fixture
def attnd():
    """A daemon with defaults; it must stop cleanly."""
    daemon = Attnd()
    yield daemon
    daemon.close()


@pytest.fixture
def rng():
    return np.random.default_rng(20260)
