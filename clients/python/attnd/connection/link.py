# SPDX-License-Identifier: MIT
"""link: a ZeroMQ socket and its one daemon.

A daemon that was named is connected to once, and ZeroMQ connects again by itself. One that nobody named is looked for
(address.py), about once a second until it is found, and again when its connection has ended: then in all places, since
it may come back in another one, and a place may have become somebody else's. ZeroMQ is kept from connecting there by
itself; and, where somebody is told of keys, from giving a daemon up that has refused them: it is connected to as often
as ZeroMQ would, and while it refuses them about once a second. If one that was named says nothing, listener.py tells
who listens there instead.
"""
from __future__ import annotations

import math
import os
import sys
import threading
import time
from typing import Any, Callable, Optional

import zmq

from ..base import address as addresses
from . import keys, listener

LOOK_EVERY_S = 1.0
ASK_AFTER_S = 3.0  # who listens; then after twice as long, and so on, until that is known
TRY_KEYS_AFTER_S = 0.5  # the same with keys, which are wrong more often
SETTLE_S = 0.1  # between the end of a connection and the next look, as ZeroMQ waits: what came before the end has come by then
NEVER_MS = 1 << 29  # days; not -1: then ZeroMQ takes the connection away with all that was not read yet
MONITOR = "inproc://attnd-link"  # in this context
_POLLIN = int(zmq.POLLIN)  # with flags of the enum `&` takes 2 us, some ten times a message


def has_message(socket: "zmq.Socket[Any]") -> bool:
    """Whether one can be received."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & _POLLIN)


class Link:
    """The socket, in a context of its own. One thread at a time.

    which            its name in the address: "ingest", "publish", "control"
    endpoint         exactly this socket, or None: that of the address, or of whoever is found
    set_options      is called with the socket before anything is connected
    on_wrong         is called, on another thread and once, with a sentence when a name turns out to be somebody else's
                     while nothing was `heard`
    on_keys          with keys: is called by tend() with a sentence when attnd lets them in no more, and when it does again.
                     None: nobody is told, and ZeroMQ stops trying

    AddressError when one of them is none.
    """

    def __init__(self, kind: int, which: str, endpoint: Optional[str], address: Any,
                 set_options: Callable[["zmq.Socket[Any]"], None], look_every: float = LOOK_EVERY_S,
                 on_wrong: Optional[Callable[[str], None]] = None, on_keys: Optional[Callable[[str], None]] = None):
        self._named = addresses.named(which, endpoint, address)
        is_tcp = isinstance(self._named, str) and self._named.startswith("tcp://")
        self.keys = keys.of_environment() if is_tcp else None
        self._which = which
        self._name = endpoint, address or os.environ.get("ATTND_ADDRESS")
        self.heard = False  # whether anything came that only attnd says
        self._on_wrong = on_wrong if self._named is not None else None
        self._on_keys = on_keys if self.keys is not None else None
        self._let_in = self._was_let_in = self._refused = False  # by this connection; by any; the last thing that was told
        self._ask_after = ASK_AFTER_S if self.keys is None else TRY_KEYS_AFTER_S
        self._ask_at = time.monotonic() + self._ask_after
        self._look_every = look_every
        self._look_at = self._knock_at = 0.0  # not to be looked for, and keys not to be tried, before
        self._ended = False
        self.endpoint = self._named  # connected to, or on the way; None: nobody was found
        self.context = keys.new_context()
        self.socket = self.context.socket(kind)
        # No limit, which libzmq (4.3.4, 4.3.5) needs to be safe: whoever owns the link reads all the time.
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.monitor: Optional["zmq.Socket[Any]"] = None
        set_options(self.socket)
        if self._named is None or self._on_keys is not None:  # ZeroMQ says when a connection ends, and begins none
            self.socket.setsockopt(zmq.RECONNECT_IVL, NEVER_MS)
            self.socket.monitor(MONITOR, zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
            self.monitor = self.context.socket(zmq.PAIR)
            self.monitor.setsockopt(zmq.RCVHWM, 0)
            self.monitor.connect(MONITOR)
        if self._named is None:
            self.tend()
            return
        try:
            keys.give(self.socket, self.keys, self._named)
            self.socket.connect(self._named)
        except (zmq.ZMQError, TypeError, AttributeError) as error:
            self.close()
            raise addresses.AddressError(f"endpoint {self._named!r}: {error}") from None

    @property
    def up(self) -> bool:
        """Whether there is a connection, or an attempt at one."""
        return self.endpoint is not None and not self._ended

    @property
    def where(self) -> str:
        """The daemon's endpoint, as "at ipc://...", or why there is none."""
        if self.endpoint is None:
            return addresses.why_nobody(self._which)
        return addresses.why_not_there(self._which, self.endpoint) or f"at {self.endpoint}"

    def tend(self) -> None:
        """Takes in that the connection has ended, and looks for a daemon when that is due and nothing is left to be
        received. Does not block."""
        now = time.monotonic()
        if self._is_asking() and now >= self._ask_at:
            self._ask_after *= 2
            self._ask_at = now + self._ask_after
            threading.Thread(target=self._ask, name="attnd-ask", daemon=True).start()
        if self.monitor is None:
            return
        self._take_events(now)
        if self.up or now < self._look_at or has_message(self.socket):
            return
        if self.endpoint is not None:
            self.socket.disconnect(self.endpoint)
        if self._was_let_in and not self._let_in:
            self._tell_of_keys(now)
        self._ended = self._let_in = False
        self.endpoint = None
        self._look_at = now + (self._look_every if self._named is None or self._refused else SETTLE_S)
        found = self._named if isinstance(self._named, str) else addresses.find(self._which)
        if found is not None:
            self.socket.connect(found)
            self.endpoint = found

    def _is_asking(self) -> bool:
        return self._on_wrong is not None and not self.heard

    def _ask(self) -> None:
        why, tell = self.wrong(), self._on_wrong
        if why is not None and tell is not None and not self.heard:
            self._on_wrong = None
            if not self._let_in:
                self._refused = self._was_let_in = True  # that is told
            tell(why)

    def wrong(self) -> Optional[str]:
        """Says what is wrong with the name, as a sentence; None: nothing that could be found out. Waits for up to 2 s."""
        why = self.wrong_keys()
        return None if why == "" else why or self.wrong_name()

    def wrong_name(self) -> Optional[str]:
        """Says who listens there instead, and what to name, as a sentence; None: that is not known. Waits for up to 2 s."""
        return None if self._named is None else listener.wrong(self._which, *self._name)

    def wrong_keys(self) -> Optional[str]:
        """Says why attnd does not let this client in, as a sentence; "": it does; None: that is not known. Waits for up to
        2 s."""
        return keys.wrong(self._which, self._named, self.keys)

    def _take_events(self, now: float) -> None:
        """Events are told for one connection at a time; all but a handshake's end it."""
        assert self.monitor is not None
        while has_message(self.monitor):
            event = int.from_bytes(self.monitor.recv_multipart(zmq.DONTWAIT)[0][:2], sys.byteorder)
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._let_in = self._was_let_in = True
                self._tell_of_keys(now)
                continue
            if not self._ended:
                self._look_at = max(self._look_at, now + SETTLE_S)
            self._ended = True

    def _tell_of_keys(self, now: float) -> None:
        """Once each time: that attnd does not let the keys in, and that it does again."""
        if self._on_keys is None or self._refused != self._let_in or not self._let_in and now < self._knock_at:
            return
        self._knock_at = now + self._look_every
        why = f"attnd at {self._named} lets this client in again" if self._let_in else self.wrong_keys()
        if why:
            self._refused = not self._let_in
            self._on_keys(why)

    def idle_s(self) -> Optional[float]:
        """Seconds until tend() has something to do by itself; None: until a poll wakes."""
        timers = ([self._ask_at] if self._is_asking() else []) + ([self._look_at] if self.monitor is not None and not self.up else [])
        return max(0.0, min(timers) - time.monotonic()) if timers else None

    def wait(self, timeout: Optional[float]) -> bool:
        """Waits at most `timeout` seconds (None: for ever) for something to receive, tending itself; whether there is.
        May return early."""
        self.tend()
        idle = self.idle_s()
        if idle is not None:
            timeout = idle if timeout is None else min(timeout, idle)
        poller = zmq.Poller()
        self.register(poller)
        return any(ready is self.socket for ready, _ in poller.poll(milliseconds(timeout)))

    def register(self, poller: "zmq.Poller") -> None:
        """Has both sockets polled."""
        poller.register(self.socket, zmq.POLLIN)
        if self.monitor is not None:
            poller.register(self.monitor, zmq.POLLIN)

    def close(self, linger_ms: int = 0) -> None:
        """Disconnects; returns after the linger time at the latest. Idempotent."""
        if self.monitor is not None and not self.monitor.closed:
            self.socket.disable_monitor()
            self.monitor.close(linger=0)
        self.socket.close(linger=linger_ms)
        self.context.term()


def milliseconds(seconds: Optional[float]) -> Optional[int]:
    """For a poll, which must not wake before the time."""
    return None if seconds is None else math.ceil(1000 * max(0.0, seconds))
