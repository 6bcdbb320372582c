# SPDX-License-Identifier: MIT
"""The fixtures of the fleet's tests."""
import importlib.util
import os
import subprocess
import sys

import pytest

E2E = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e")
sys.path[:0] = [os.path.dirname(os.path.abspath(__file__)), E2E, os.path.join(E2E, "access")]
from fake_node import FakeNode  # noqa: E402
from fleet import NATS_SERVER, Server  # noqa: E402
from harness import ATTND  # noqa: E402

_spec = importlib.util.spec_from_file_location("e2e_conftest", os.path.join(E2E, "conftest.py"))
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
nothing_left_behind, state_of_its_own = _module.nothing_left_behind, _module.state_of_its_own


@pytest.fixture
def server():
    """A nats-server with JetStream and a store of its own."""
    if NATS_SERVER is None:
        pytest.skip("there is no nats-server")
    if "libnats" not in subprocess.run(["ldd", ATTND], capture_output=True, text=True, check=True).stdout:
        pytest.skip("this attnd was built without libnats")
    one = Server()
    yield one
    while Server.all:
        Server.all.pop().discard()


@pytest.fixture(autouse=True)
def no_fake_node_left():
    yield
    while FakeNode.all:
        FakeNode.all.pop().close()
