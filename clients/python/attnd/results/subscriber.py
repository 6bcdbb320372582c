# SPDX-License-Identifier: MIT
"""subscriber: reads what the daemon publishes.

    for summary in attnd.Subscriber(topics=("summary/gpt-small/",)):
        print(summary["stack"], summary["layer"], summary["heads"]["entropy"]["mean"])
"""
from __future__ import annotations

import time
import weakref
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import zmq

from ..base import wire
from ..base.once import log
from ..connection.drain import Drain
from ..connection.link import Link, milliseconds

DEFAULT_HIGH_WATER = 1000


class Subscriber:
    """An iterator over the daemon's results, each a plain dict (see wire.decode_result) with its `topic` added.

    topics    prefixes: "summary/", "live/<job>/", "summary/<job>/decoder/5/self/", "alert/", "job/"
    timeout   seconds of silence after which iteration ends; None: it never does
    address   the daemon: a directory or "tcp://host:port" (see address.py); default $ATTND_ADDRESS, else the one that
              answers on this machine, now or later
    endpoint  exactly this socket of it, instead of an address
    high_water  results that may wait to be taken; further ones are dropped, and counted in `dropped`

    A result about a layer has `stack`, `layer` and `site`, and under `module` the path of the module that attends there,
    when the trainer says it: attnd.watch does.

    On subscription the daemon sends the last value of every matching topic, with `snapshot` true. A snapshot
    that says nothing new about its topic (same run, same window or step) is skipped. One thread at a time;
    fork: do not use the parent's in the child. ValueError for a bad address, endpoint or topic.
    """

    _decode: Callable[[bytes], Dict[str, Any]] = staticmethod(wire.decode_result)

    def __init__(self, endpoint: Optional[str] = None, topics: Union[str, Sequence[str]] = ("summary/",),
                 timeout: Optional[float] = None, high_water: int = DEFAULT_HIGH_WATER, *, address: Any = None):
        topics = (topics,) if isinstance(topics, str) else tuple(topics)
        if not all(isinstance(topic, str) and topic.isascii() for topic in topics):
            raise ValueError(f"topics {topics!r}: must be ASCII texts")
        self._timeout = timeout
        self._known: Dict[str, Tuple[Any, ...]] = {}  # by topic: what the newest result was about
        self.malformed = 0  # messages that were not results
        self._drain = Drain(Link(zmq.SUB, "publish", endpoint, address, lambda socket: _set_options(socket, topics),
                                 on_wrong=lambda why: log.warning("nothing can be received: %s", why),
                                 on_keys=lambda sentence: log.warning("%s", sentence)), high_water)
        self._socket = self._drain.socket
        # Holds the socket: collected in a cycle with its context it could make the context wait for ever.
        self._finalizer = weakref.finalize(self, self._drain.close)

    @property
    def dropped(self) -> int:
        """Results that came while `high_water` others waited to be taken, and were thrown away."""
        return self._drain.dropped

    def next(self, timeout: Optional[float] = None) -> Optional[Dict[str, Any]]:
        """The next result, or None when none came within `timeout` seconds (None: wait for ever)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._socket.poll(milliseconds(left)):
                return None
            result = self._take(self._socket.recv_multipart())
            if result is not None:
                return result

    def _take(self, frames: Sequence[bytes]) -> Optional[Dict[str, Any]]:
        """The result of one message, or None when it is malformed or a snapshot of what is known."""
        try:
            topic, payload = frames
            name = topic.decode("ascii")
            result = self._decode(payload)
        except ValueError as error:
            if not self.malformed:
                log.warning("a message that is no result was skipped: %s; further ones are only counted", wire.printable(str(error)))
            self.malformed += 1
            return None
        subject = _subject(result)
        if result.get("snapshot") and self._known.get(name) == subject:
            return None
        self._known[name] = subject
        result["topic"] = name
        return result

    def __iter__(self) -> Iterator[Dict[str, Any]]:
        while not self._socket.closed:
            result = self.next(self._timeout)
            if result is None:
                return
            yield result

    def frame(self, count: Optional[int] = None, timeout: float = 1.0) -> Any:
        """The next results as a tidy DataFrame (see frames.frame): `count` of them, fewer when none comes for
        `timeout` seconds; without `count` all until then. ImportError when pandas is missing: nothing is read then."""
        from .frames import frame, need_pandas

        need_pandas()
        results: List[Dict[str, Any]] = []
        while count is None or len(results) < count:
            result = self.next(timeout)
            if result is None:
                break
            results.append(result)
        return frame(results)

    def close(self) -> None:
        """Disconnects. Idempotent."""
        self._finalizer()

    def __enter__(self) -> "Subscriber":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _subject(result: Dict[str, Any]) -> Tuple[Any, ...]:
    """The subject of a result: equal for two copies of one value."""
    window = result.get("window")
    if isinstance(window, dict):
        return result.get("run"), window.get("unit"), window.get("first"), window.get("last")
    if result.get("kind") == "alert":  # several in one window
        return tuple(result.get(key) for key in ("run", "epoch", "step", "rule", "state", "stack", "layer", "site",
                                                 "head"))
    return (result.get("run"), result.get("epoch"), result.get("step"), result.get("rank"),
            result.get("time_ns"))


def _set_options(socket: "zmq.Socket[Any]", topics: Sequence[str]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, wire.RESULT_BYTES_MAX)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 2)
    for topic in topics:
        socket.setsockopt(zmq.SUBSCRIBE, topic.encode("ascii"))
