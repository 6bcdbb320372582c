# SPDX-License-Identifier: MIT
"""Memory that is lent, against an attnd that says what it is told to."""
import socket
import struct

import pytest

from attnd.sending import memory

NBYTES = 1 << 20
LEND, FREE = 1, 3

pytestmark = pytest.mark.skipif(not memory._HERE, reason="there is no such memory here")


class Taker:
    """attnd's end of the connection."""

    def __init__(self, directory):
        self.endpoint = f"ipc://{directory}/ingest"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(f"{directory}/memory")
        self.listener.listen(1)
        self.listener.settimeout(60)

    def take_lent(self, lender):
        """An array in a buffer that attnd has been lent and has taken, and its number."""
        assert lender.room(NBYTES) is None
        lender.tend(self.endpoint, True)
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(60)
        self.connection.send(struct.pack("<8sIIQ16s", b"attndmem", 1, 8, 8 * NBYTES, bytes(16)))
        lender.tend(self.endpoint, True)
        kind, number = struct.unpack("<II", self.connection.recv(8))
        assert kind == LEND
        self.say_free(number)
        return lender.room(NBYTES), number

    def say_free(self, number):
        self.connection.send(struct.pack("<II", FREE, number))


@pytest.fixture
def lender():
    one = memory.Lender(8 * NBYTES)
    yield one
    one.close()


def test_free_is_heard_from_the_name_on(lender, tmp_path):
    """attnd may have read a message before the call that sends it has returned."""
    taker = Taker(tmp_path)
    array, number = taker.take_lent(lender)
    named = lender.name([array])
    assert named[0][1] is not None
    taker.say_free(number)
    assert lender.room(NBYTES) is None  # hears it, while this one is still held
    lender.sent(named)
    place = array.__array_interface__["data"][0]
    del array
    again = lender.room(NBYTES)
    assert again is not None and again.__array_interface__["data"][0] == place


def test_what_is_named_is_attnds_until_it_says_otherwise(lender, tmp_path):
    taker = Taker(tmp_path)
    array, number = taker.take_lent(lender)
    lender.sent(lender.name([array]))
    del array
    assert lender.room(NBYTES) is None
    taker.say_free(number)
    assert lender.room(NBYTES) is not None


def test_what_was_not_sent_is_ours(lender, tmp_path):
    taker = Taker(tmp_path)
    array, _ = taker.take_lent(lender)
    lender.not_sent(lender.name([array]))
    del array
    assert lender.room(NBYTES) is not None


def test_a_flood_ends_the_connection(lender, tmp_path):
    """Whoever says more than an attnd can is left, and so cannot hold up the training."""
    taker = Taker(tmp_path)
    array, number = taker.take_lent(lender)
    taker.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    taker.connection.setblocking(False)
    for _ in range(2 * 128):
        taker.say_free(number)
    assert lender.room(NBYTES) is None
    lender.sent(lender.name([array]))
    taker.say_free(number)
    del array
    array = lender.room(NBYTES)
    assert array is not None  # the connection is what it was
    for _ in range(2 * 128 + 1):
        taker.say_free(number)
    assert lender.room(NBYTES) is None
    assert lender.name([array]) == [(None, None)]
    with pytest.raises(OSError):
        taker.say_free(number)
    array[:] = 1  # whoever holds it may use it on


def test_nobody_waits_for_memory_that_is_given_back(lender, tmp_path):
    taker = Taker(tmp_path)
    array, _ = taker.take_lent(lender)
    with lender._lock:  # as the other thread has it
        assert lender.room(NBYTES) is None and lender.name([array]) == [(None, None)]
        lender.tend(taker.endpoint, True)
        lender.close()
    taker.connection.close()
    assert lender.room(NBYTES) is None and lender._gone, "the buffers of the connection are kept for the sender's thread"
    lender.tend(None, False)
    assert not lender._gone and array.nbytes == NBYTES
