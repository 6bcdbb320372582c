# SPDX-License-Identifier: MIT
"""Some of the conversations of edge.py, which go wrong somewhere: attnd stays, and what others send comes through."""
import ctypes.util

import pytest
from edge import hold
from harness import SANITIZED


def test_peers_that_speak_zmtp_badly():
    hold(500 if SANITIZED else 3000)


@pytest.mark.skipif(not ctypes.util.find_library("sodium"), reason="the handshake with keys is made with libsodium")
def test_strangers_and_guests_who_speak_zmtp_with_keys_badly():
    hold(40 if SANITIZED else 200, keys=True)
