# SPDX-License-Identifier: MIT
"""memory: lends attnd the memory that tensors are copied to, so that they need not travel (PROTOCOL.md, "The same-host
lane").

A buffer is a sealed memfd, mapped here and there. The copy that is made of a tensor anyway goes straight into one, a
short frame names it, and attnd says when it has read it:

    lent ── FREE ──► free ── room() ──► held ── named ──► away ── FREE, and let go of here ──► free

A tensor for which there is no room is copied to memory of our own and sent as a frame; the next turn of the sender's
thread lends as much more. So nothing ever waits here. All buffers belong to one connection. When that ends they are
forgotten, and their memory is freed with the last array in it.
"""
from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket as unix
import struct
import sys
import threading
import time
import weakref
from collections import deque
from typing import Any, Deque, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import zmq

from ..base import address

_HERE = hasattr(os, "memfd_create")  # on Linux
_FUTURE_WRITE = 0x10  # F_SEAL_FUTURE_WRITE of Linux 5.1: pages stay, and only mappings made before can be written to
TENSOR_MIN = 65537  # bytes; smaller ones travel
_GREETING = struct.Struct("<8sIIQ16s")
_RECORD = struct.Struct("<II")
_REFERENCE = struct.Struct("<16sIIQQ")
_LEND, _TAKE_BACK, _FREE, _REFUSED = 1, 2, 3, 4
_ROUND = 1 << 16  # sizes of buffers
_SLACK = 4  # a buffer is for tensors down to this part of it
_RETRY_S = 1.0  # after a connection that ended
_REFUSED_S = 10.0  # after memory that was not taken
_BUFFERS_MAX = 128  # of one connection
# No attnd says more between two looks: a buffer has two answers at most, to its loan and to its last name. Whoever does is
# none, and must not hold up the training.
_RECORDS_MAX = 2 * _BUFFERS_MAX
_WAIT_S = 0.001  # of one thread for the other


class _Buffer:
    """`away`: attnd has it. `held`: until no array here is in it any more."""
    __slots__ = ("number", "map", "nbytes", "address", "away", "held")

    def __init__(self, number: int, mapped: mmap.mmap, nbytes: int):
        self.number, self.map, self.nbytes = number, mapped, nbytes
        self.address = int(np.frombuffer(mapped, np.uint8).__array_interface__["data"][0])
        self.away = True  # until attnd says that it has taken it
        self.held: Optional["weakref.ref[np.ndarray]"] = None


class Lender:
    """The buffers of one sender, at most `bytes_max` of them. room() is for any thread, the rest for the sender's."""

    def __init__(self, bytes_max: int):
        self._bytes_max = bytes_max
        self.messages = 0  # that were sent with a tensor in a buffer
        self._retry_at = 0.0
        self._endpoint: Optional[str] = None
        self._registered = -1  # the descriptor that is polled
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._socket: Optional[unix.socket] = None
        self._token: Optional[bytes] = None  # once attnd has greeted
        self._missed: Deque[int] = deque(maxlen=_BUFFERS_MAX)  # sizes for which there was no buffer
        self._gone: List[Any] = []  # buffers of the last connection: to give their memory back takes 0.1 s for 256 MiB
        self._forget()

    def _forget(self) -> None:
        self._buffers: Dict[int, _Buffer] = {}
        self._by_address: Dict[int, _Buffer] = {}
        self._free: List[_Buffer] = []  # the longest unused first
        self._let_go: Deque[_Buffer] = deque()  # appended to by whoever frees an array: without the lock
        self._nbytes = 0
        self._count_max = self._room_max = 0
        self._grow_at = 0.0

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether nobody else is at the buffers. Neither thread waits for the other: a handler of a signal, which has interrupted
        room(), may wait for the sender's."""
        taken = self._lock.acquire(timeout=_WAIT_S)
        try:
            yield taken
        finally:
            if taken:
                self._lock.release()

    # ------------------------------------------------------------------------------------------- any thread

    def room(self, nbytes: int) -> Optional[np.ndarray]:
        """So many bytes to copy a tensor to; None: there are none, or somebody else is at the buffers."""
        if nbytes < TENSOR_MIN or nbytes > self._bytes_max:
            return None
        with self._locked() as taken:
            if not taken:
                return None
            buffer = self._fitting(nbytes)
            if buffer is None:
                self._hear()
                buffer = self._fitting(nbytes)
            if buffer is None:
                self._missed.append(nbytes)
                return None
            self._free.remove(buffer)
            whole = np.frombuffer(buffer.map, np.uint8)
            let_go = self._let_go
            buffer.held = weakref.ref(whole, lambda _: let_go.append(buffer))
        return whole[:nbytes]

    def _fitting(self, nbytes: int) -> Optional[_Buffer]:
        """A free buffer that is large enough, and not much too large: the smallest, and of those the one that was used
        last, whose pages may still be in a cache. The caller holds the lock."""
        while self._let_go:
            buffer = self._let_go.popleft()
            buffer.held = None
            self._put_back(buffer)
        fitting = [one for one in reversed(self._free) if nbytes <= one.nbytes <= _SLACK * nbytes + _ROUND]
        return min(fitting, key=lambda one: one.nbytes, default=None)

    def _put_back(self, buffer: _Buffer) -> None:
        if not buffer.away and buffer.held is None and self._buffers.get(buffer.number) is buffer:
            self._free.append(buffer)

    def _hear(self) -> None:
        """Takes in what attnd has said. The caller holds the lock."""
        heard = 0
        while self._socket is not None:
            try:
                said = self._socket.recv(_GREETING.size)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if self._token is None and len(said) == _GREETING.size:
                magic, version, count, most, self._token = _GREETING.unpack(said)
                self._count_max = min(count, _BUFFERS_MAX)
                self._room_max = min(most, self._bytes_max)
                if magic != b"attndmem" or version != 1:
                    self._end()
            elif self._token is not None and len(said) == _RECORD.size and heard < _RECORDS_MAX:
                heard += 1
                self._take_in(*_RECORD.unpack(said))
            else:
                self._end()

    def _take_in(self, kind: int, number: int) -> None:
        buffer = self._buffers.get(number)
        if buffer is None or not buffer.away:
            return
        if kind == _FREE:
            buffer.away = False
            self._put_back(buffer)
        elif kind == _REFUSED:
            self._drop(buffer)
            self._grow_at = time.monotonic() + _REFUSED_S

    def _drop(self, buffer: _Buffer) -> None:
        del self._buffers[buffer.number], self._by_address[buffer.address]
        self._nbytes -= buffer.nbytes

    def _end(self) -> None:
        """The connection is over. The caller holds the lock."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._token = None
        self._retry_at = time.monotonic() + _RETRY_S
        self._gone = [self._buffers, self._by_address, self._free, self._let_go]
        self._forget()

    # ---------------------------------------------------------------------------------- the sender's thread

    def tend(self, endpoint: Optional[str], known: bool) -> None:
        """Connects to the attnd at this endpoint, if it is one that takes memory (`known`), and lends it what there was
        no room for."""
        with self._locked() as taken:
            if not taken:
                return
            if self._socket is not None and (not known or endpoint != self._endpoint):
                self._end()
            self._hear()
            missed, connected, greeted = list(self._missed), self._socket is not None, self._token is not None
            gone, self._gone = self._gone, []
            if greeted:
                self._missed.clear()
        del gone  # here nobody waits for it
        if missed and known and not connected and endpoint is not None and time.monotonic() >= self._retry_at:
            self._connect(endpoint)
        for nbytes in missed if greeted else ():
            self._lend(-(-nbytes // _ROUND) * _ROUND)

    def _connect(self, endpoint: str) -> None:
        self._retry_at = time.monotonic() + _RETRY_S
        path = address.memory_path(endpoint)
        if path is None or not _HERE:
            return
        try:
            connection = unix.socket(unix.AF_UNIX, unix.SOCK_SEQPACKET)
        except OSError:
            return
        connection.setblocking(False)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            return
        with self._locked() as taken:
            if taken:
                self._socket, self._endpoint = connection, endpoint
                return
        connection.close()

    def _lend(self, nbytes: int) -> None:
        with self._locked() as taken:
            if not taken or self._token is None or time.monotonic() < self._grow_at or not self._make_place(nbytes):
                return
            number = next(n for n in range(self._count_max) if n not in self._buffers)
        try:
            fd = os.memfd_create("attnd", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        except OSError:
            self._grow_at = time.monotonic() + _REFUSED_S
            return
        try:
            os.posix_fallocate(fd, 0, nbytes)  # here, and not page by page while the training copies
            buffer = _Buffer(number, _mapped(fd, nbytes), nbytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | _FUTURE_WRITE)
            with self._locked() as taken:
                if taken and self._socket is not None:
                    unix.send_fds(self._socket, [_RECORD.pack(_LEND, number)], [fd])
                    self._buffers[number] = self._by_address[buffer.address] = buffer
                    self._nbytes += nbytes
        except (OSError, ValueError):
            self._grow_at = time.monotonic() + _REFUSED_S
        finally:
            os.close(fd)

    def _make_place(self, nbytes: int) -> bool:
        """Takes free buffers back until there is place for one of this size; whether there is. The caller holds the
        lock."""
        assert self._socket is not None
        while self._nbytes + nbytes > self._room_max or len(self._buffers) >= self._count_max:
            if not self._free or nbytes > self._room_max:
                return False
            buffer = self._free.pop(0)
            try:
                self._socket.send(_RECORD.pack(_TAKE_BACK, buffer.number))
            except OSError:
                self._end()
                return False
            self._drop(buffer)
        return True

    @property
    def changed(self) -> bool:
        """Whether register() would add another connection than the last time."""
        connection = self._socket
        return (-1 if connection is None else connection.fileno()) != self._registered

    def register(self, poller: "zmq.Poller") -> None:
        """Has the end of the connection noticed, and nothing else."""
        connection = self._socket
        self._registered = -1 if connection is None else connection.fileno()
        if self._registered >= 0:
            poller.register(self._registered, zmq.POLLERR)

    def name(self, frames: Sequence[np.ndarray]) -> List[Tuple[Optional[_Buffer], Optional[bytes]]]:
        """For each frame the buffer that it is in and the frame that names it, or None twice: it travels itself. To be sent now:
        attnd has the buffers until it says that they are free, which may be before the call that sends returns."""
        found: List[Tuple[Optional[_Buffer], Optional[bytes]]] = []
        if all(frame.nbytes < TENSOR_MIN for frame in frames):
            return [(None, None)] * len(frames)
        with self._locked() as taken:
            if not taken:
                return [(None, None)] * len(frames)
            self._hear()  # that attnd has gone: then nothing is named any more
            for frame in frames:
                buffer = self._by_address.get(frame.__array_interface__["data"][0]) if frame.nbytes >= TENSOR_MIN else None
                if buffer is None or buffer.away or not frame.flags.c_contiguous or self._token is None:
                    found.append((None, None))
                else:
                    found.append((buffer, _REFERENCE.pack(self._token, buffer.number, 0, 0, frame.nbytes)))
            for buffer, _ in found:
                if buffer is not None:
                    buffer.away = True
        return found

    def sent(self, named: Sequence[Tuple[Optional[_Buffer], Optional[bytes]]]) -> None:
        """These were."""
        self.messages += any(buffer is not None for buffer, _ in named)

    def not_sent(self, named: Sequence[Tuple[Optional[_Buffer], Optional[bytes]]]) -> None:
        """These were not: attnd knows nothing of it, and the buffers are ours."""
        for buffer, _ in named:
            if buffer is not None:
                buffer.away = False

    def close(self) -> None:
        """Ends the connection. Idempotent."""
        with self._locked() as taken:
            if not taken:
                return
            self._end()
            self._retry_at = float("inf")
            gone, self._gone = self._gone, []
        del gone

    def make_inert(self) -> None:
        """In a forked child: lets go of the parent's connection, which then ends with the parent."""
        connection = self._socket
        self._reset()
        self._retry_at = float("inf")
        if connection is not None:
            connection.close()


def _mapped(fd: int, nbytes: int) -> mmap.mmap:
    """Python before 3.13 keeps a descriptor of its own with each mapping."""
    without: Dict[str, Any] = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    return mmap.mmap(fd, nbytes, **without)


# ------------------------------------------------------------------------------------- where copies are made

_current = threading.local()


class lending:
    """Copies that this thread makes meanwhile go into the lender's buffers as far as there is room()."""
    __slots__ = ("_lender", "_before")

    def __init__(self, lender: Optional[Lender]):
        self._lender = lender

    def __enter__(self) -> None:
        self._before = getattr(_current, "lender", None)
        _current.lender = self._lender

    def __exit__(self, *exc: Any) -> None:
        _current.lender = self._before


def room(nbytes: int) -> Optional[np.ndarray]:
    """So many bytes in a buffer of the lender in force, or None."""
    lender = getattr(_current, "lender", None)
    return None if lender is None else lender.room(nbytes)
