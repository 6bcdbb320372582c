# SPDX-License-Identifier: MIT
"""The fixtures of the end-to-end tests."""
import importlib.util
import os
import sys

import pytest

E2E = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e")
sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), E2E, os.path.join(E2E, "access")]
from harness import Attnd  # noqa: E402
from keeper import Keeper  # noqa: E402

_spec = importlib.util.spec_from_file_location("e2e_conftest", os.path.join(E2E, "conftest.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
attnd, rng = _module.attnd, _module.rng
nothing_left_behind, state_of_its_own = _module.nothing_left_behind, _module.state_of_its_own


@pytest.fixture
def start():
    """start(*settings): a daemon, or one of another kind, that must stop cleanly at the end, whoever is connected to it."""
    daemons = []

    def one(*settings, kind=Attnd, **keys):
        daemons.append(kind(*settings, **keys))
        return daemons[-1]
    yield one
    for daemon in daemons:
        daemon.close()


@pytest.fixture(autouse=True)
def no_trainer_left_behind():
    """One of a test that has failed would publish for half an hour."""
    yield
    while Keeper.all:
        Keeper.all.pop().kill()
