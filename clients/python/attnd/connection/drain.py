# SPDX-License-Identifier: MIT
"""drain: a thread that reads a reader's link all the time, and passes its messages on.

A receive queue without a limit (link.py says why it has none) must always be read, but who uses the messages may take
its time. So the thread hands them over through a queue within the process, which has a limit: no connection ends there.
"""
from __future__ import annotations

import os
import threading
from typing import Any, List

import zmq

from .link import Link, has_message, milliseconds

MESSAGES_AT_ONCE = 256  # taken in between two looks at whether to stop
QUEUE = "inproc://attnd-drain"  # in the link's context


class Drain:
    """Receive from `socket`. The link, whose socket has subscribed, is the thread's from here on; close() closes it.
    About `messages` are kept; further ones are dropped and counted."""

    def __init__(self, link: Link, messages: int):
        self.dropped = 0
        self._link = link
        self._pid = os.getpid()
        self._inner, self.socket = (link.context.socket(zmq.PAIR) for _ in range(2))
        for end in (self._inner, self.socket):
            end.set_hwm((messages + 1) // 2)
            end.setsockopt(zmq.LINGER, 0)
        self._inner.bind(QUEUE)
        self.socket.connect(QUEUE)
        self._thread = threading.Thread(target=self._run, name="attnd-drain", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._inner, zmq.POLLIN)
        self._link.register(poller)
        ready: List[Any] = []
        while all(end is not self._inner for end, _ in ready):
            self._link.tend()
            ready = poller.poll(milliseconds(self._link.idle_s()))
            for _ in range(MESSAGES_AT_ONCE):
                if not has_message(self._link.socket):
                    break
                self._link.heard = True
                self._pass_on(self._link.socket.recv_multipart(zmq.DONTWAIT))
        self._inner.close()
        self.socket.close()
        self._link.close()

    def _pass_on(self, frames: List[bytes]) -> None:
        try:
            self._inner.send_multipart(frames, zmq.DONTWAIT)
        except zmq.Again:
            self.dropped += 1

    def close(self) -> None:
        """Disconnects. Idempotent; in a forked child, which has no such thread, it does nothing."""
        if os.getpid() != self._pid or self.socket.closed:
            return
        self.socket.send(b"")
        if threading.current_thread() is not self._thread:  # which may collect the garbage
            self._thread.join()
