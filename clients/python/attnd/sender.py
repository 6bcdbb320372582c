# SPDX-License-Identifier: MIT
"""sender: one thread that owns the XPUB socket, and the bounded queue in front of it.

The training thread only ever takes a lock for a few instructions: it reserves bytes, copies, appends, and
writes one byte to a pipe. Everything that can wait happens here.

    training thread                    sender thread
    reserve -> copy -> put ── queue ──► take subscriptions, send the head, or wait
                                        idle:  poll(XPUB, wake pipe), no timeout; without a daemon it looks for
                                               one about once a second (link.py)
                                        full:  the same with a growing pause of 1 to 50 ms, and to 1 s once
                                               the daemon counts as stalled; XPUB claims to
                                               be writable even when its pipe is full, so POLLOUT cannot
                                               tell when to go on
    Drop points, each counted per topic and told to the daemon in the topic's next header:
        the message is larger than the daemon takes (limits.py), the queue is over its bytes (newest
        dropped), the copy failed, nobody is subscribed any more when the message's turn comes, the queue
        is not empty when close() runs out of time.
    Events tell the total of all topics; when nothing else is to be said, a hello does, within TELL_AFTER_S.

A daemon that hangs is noticed by its pings, which end; an older one sends none. So a pipe that takes nothing for
STALLED_AFTER_S makes `stalled` true, and whoever asks spares itself the capture.

Events travel in the same queue, so they never overtake a tensor, and take no bytes, so they are never
dropped for lack of room. `hello` is kept and said again to every new subscriber of the events: a daemon that
restarts learns the model's layers.

A daemon that has the reliable lane gets some messages that way instead (reliable.py): at the head of the queue they are
kept there, and they are queued until they are acknowledged. The lanes have a seq each. While such a daemon is away, its
subscriptions hold on for what went by the lane before.

Identity that holds at any moment: published = sent + dropped + skipped + queued.
"""
from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Set, Tuple, Union

import numpy as np
import zmq
import zmq.utils.garbage  # its exit handler must be registered before ours: see _close_all

from . import address as addresses, limits, wire
from .connection import keys as keyring
from .connection.link import Link, milliseconds
from .lane.reliable import Entry, Lane, Wish, endpoint_of
from .memory import Lender

log = logging.getLogger("attnd")

SUBSCRIPTION_BYTES_MAX = 4096  # larger than any: a plan has 1024
SUBSCRIPTIONS_MAX = 4096  # a daemon has some hundred; what is beyond them is not wanted
SUBSCRIPTIONS_AT_ONCE = 1024  # so that a flood of them cannot hold up sending
FAREWELL_S = 0.1  # how long the connection outlives what was sent last
PARTING = 0.25  # the part of the linger time, its end, in which no message is made any more, so that the events get through
PAUSE_MIN_S, PAUSE_MAX_S = 0.001, 0.050
PAUSE_STALLED_S = 1.0  # each attempt takes the training's lock of the interpreter for a moment
STALLED_AFTER_S = 3.0
TELL_AFTER_S = 5.0  # how often what was dropped is told when nothing else is
SETTLED_AFTER_S = 5.0  # the subscriptions of somebody without the lane, after an attnd that had it
AFTER_MAX = 4000  # topics that an event names
GONE_AFTER_S = 5.0  # without a subscriber; a daemon that is back sooner was only restarted
REMEDIES = ("Remedy: fewer query rows (rows=512 of attnd.watch, or now: attnctl plan set %s rows=512; or still fewer; "
            "what is published by hand is cut by hand), fewer samples (samples=1), or a fused kernel, of which queries "
            "and keys are sent instead of weights")
REMOTE = "See whether attnd runs there, and whether the network and the firewalls let it through"
SENT_PART = 4  # of the queue's bytes: ZeroMQ holds no more of them, or one message
PATIENT_PART = 4  # messages wait for the last of their forward while they fill no more than this part of the queue


NO_KEYS: Mapping[str, Any] = {}


class NotYet(Exception):
    """There is nothing to send of this yet, which is no loss."""


class Message(NamedTuple):
    """A queued message: the header without seq, dropped and time, and the payload.

    `frames` are read-only arrays that belong to the queue and are handed to ZeroMQ without a copy.
    """
    topic: bytes
    kind: str
    keys: Dict[str, Any]
    epoch: int
    step: int
    frames: Tuple[np.ndarray, ...]
    nbytes: int


class Later(NamedTuple):
    """A message that is made when its turn comes, on the sender thread: the trainer waits neither for a device nor
    for the description of a mask. `make` gives the message, or None when there is nothing to send after all;
    `nbytes` were reserved for it; `kind`, if it is known."""
    topic: bytes
    epoch: int
    step: int
    nbytes: int
    make: Callable[[], Optional[Message]]
    kind: Optional[str] = None


class Identity(NamedTuple):
    """The publisher's identity; the same in every header. `run` is 16 bytes."""
    job: str
    run: bytes
    rank: int
    world: int


class Sender:
    """Queue and thread. Every method may be called from any thread; none blocks unless it says so."""

    def __init__(self, identity: Identity, endpoint: Optional[str], address: Any, queue_bytes: int, linger_s: float,
                 high_water: int, reliable: Wish):
        self.identity = identity
        self.prefixes: Tuple[bytes, ...] = ()  # what is wanted; replaced as a whole, never changed
        self._heard: Tuple[bytes, ...] = ()  # what is subscribed: the same, but while attnd is away
        self._reliable = reliable
        self._event_topic = wire.event_topic(identity.job)
        self._tensor_prefix = f"tensor/{identity.job}/".encode("ascii")
        self._queue_bytes = queue_bytes
        self._linger_s = linger_s
        self.memory = Lender(queue_bytes)  # where tensors are copied to that attnd reads in place
        self._pid = os.getpid()
        self._reset_queue()
        self.stalled = False  # as Publisher.stalled
        self._blocked_since: Optional[float] = None
        self._hello: Optional[Message] = None
        self._hello_due = False
        self._deadline: Optional[float] = None  # set by close(): when to stop trying
        self._dropped_open = 0  # tensors that were dropped before that
        self._warned_drop = False
        self._warned_stalled = False
        self._warned_old = False
        self._warned_denied = False
        self._hope: Optional[Tuple[float, int, bool]] = None  # see _look_whether_admitted
        self._warned_large = False
        self._warned_made = False
        self.limits = limits.VERSION_1  # what the daemon takes; replaced as a whole
        self._told_at = -TELL_AFTER_S  # when an event last told what was dropped
        self._home: Optional[str] = None  # where the daemon is, or was last
        self._left_at: Optional[float] = None  # since when nobody subscribes to anything
        self._told_gone = False
        self._count_before: Dict[str, int] = {}  # it left
        self._settled_at: Optional[float] = None  # when the subscriptions of one that is back are taken for all
        self._say_next: Optional[Callable[[], str]] = None
        self.is_wrong = False  # as Publisher.is_wrong
        self._link = Link(zmq.XPUB, "ingest", endpoint, address, lambda socket: _set_options(socket, high_water),
                          on_wrong=self._tell_wrong)
        self._socket = self._link.socket
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._thread = threading.Thread(target=self._run, name="attnd-sender", daemon=True)
        _live.add(self)
        self._thread.start()

    def _reset_queue(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._queue: Deque[Union[Message, Later]] = deque()
        self._queued_bytes = 0  # reserved ones included
        self._held_bytes = 0  # those that ZeroMQ has, but for
        self._moves: Deque[int] = deque()  # what it was given and has let go of since: without the lock, as the latter is
        self._count = {"published": 0, "sent": 0, "dropped": 0, "skipped": 0, "sent_bytes": 0, "too_large": 0}
        self._position = (0, 0)  # epoch and step of the newest message
        self._pending = 0  # published, and neither sent, dropped nor skipped yet
        self._lane = Lane(self.identity.job, self._reliable, self._acknowledged, self._lost,
                          self._take_denial)
        self._away = False
        self._by_lane: Set[bytes] = set()  # topics of messages that went by it
        self._moved: Dict[bytes, None] = {}  # topics of those that did not, since an event named them
        self._seq: Dict[bytes, int] = {}  # of each lane its own
        self._lane_seq: Dict[bytes, int] = {}
        self._lane_newest = b""  # topic of the tensors that were kept last
        self._dropped: Dict[bytes, int] = {}
        self._lane_dropped: Dict[bytes, int] = {}
        self._dropped_tensors = 0  # of all topics but that of events
        self._untold = False  # no event has told the newest of them
        self._wake_sent = False
        self._open = True

    # ------------------------------------------------------------------ called by the training thread

    def wanted(self, topic: bytes, kind: Optional[str] = None) -> bool:
        """Whether somebody is subscribed to the topic; while attnd is away, whether messages of it are kept: those of this
        type, or, without one, those that it had."""
        return topic.startswith(self.prefixes) and (not self._away or self._lane_takes(topic, kind))

    @property
    def is_away(self) -> bool:
        """Whether attnd has gone, and what went by the reliable lane before is kept for it."""
        return self._away

    @property
    def listened_to(self) -> bool:
        """As Publisher.listened_to."""
        return self.has_subscriber() or self._away and self._relies()

    def _relies(self) -> bool:
        """Whether more than events went by the reliable lane."""
        return any(topic != self._event_topic for topic in tuple(self._by_lane))

    def skip(self) -> None:
        """Counts a message that nobody wanted."""
        with self._changed:
            self._count["published"] += 1
            self._count["skipped"] += 1

    def drop(self, topic: bytes, kind: Optional[str] = None) -> None:
        """Counts a message that was not even captured, because the daemon is stalled."""
        with self._changed:
            self._count["published"] += 1
            self._count_drop(topic, kind)

    def reserve(self, topic: bytes, nbytes: int, kind: Optional[str] = None, keys: Mapping[str, Any] = NO_KEYS,
                travels: Optional[int] = None) -> bool:
        """Takes `nbytes` of the queue before they are copied. False: the message was counted as dropped.

        `kind` and `keys` as far as they are known; `travels`: how many bytes of the message are known, if not all. After True
        comes exactly one put() or cancel().
        """
        refusal = self.limits.refusal(kind, (nbytes if travels is None else travels) + len(topic), keys)
        with self._changed:
            self._count["published"] += 1
            if not self._open:
                self._count["skipped"] += 1
                return False
            full = refusal is None and nbytes and self._queued_bytes + self._held() + nbytes > self._queue_bytes
            if refusal is None and not full:
                self._queued_bytes += nbytes
                self._pending += 1
                return True
            self._count_drop(topic, kind, too_large=not full)
            warn = bool(full) and not self._warned_drop
            self._warned_drop = self._warned_drop or warn
        if refusal is not None:
            self._warn_large(refusal)
        elif warn:
            log.warning("job %s: a message of %d bytes was dropped: the queue of %d bytes is full, more is captured than "
                        f"attnd takes. Further drops are only counted. {REMEDIES}", self.identity.job, nbytes,
                        self._queue_bytes, self.identity.job)
        return False

    def _warn_large(self, refusal: str) -> None:
        if not self._warned_large:
            self._warned_large = True
            log.warning(f"job %s: %s: dropped, and so is all that follows like it. {REMEDIES}; or larger limits in "
                        "attnd's config", self.identity.job, refusal, self.identity.job)

    def cancel(self, topic: bytes, nbytes: int, is_lost: bool = True) -> None:
        """Gives a reservation back and counts the message as dropped, or as skipped."""
        with self._changed:
            self._queued_bytes -= nbytes
            self._pending -= 1
            if is_lost:
                self._count_drop(topic)
            else:
                self._count["skipped"] += 1
            self._changed.notify_all()

    def put(self, message: Union[Message, Later], more: bool = False) -> None:
        """Queues a message whose bytes were reserved. The queue owns its arrays from here on.

        `more` says that others follow, and hurry() after the last: until then the thread need not wake up, which would
        take the interpreter's lock from the trainer again and again. It does when the queue gets fuller.
        """
        with self._changed:
            if not self._open:
                self._queued_bytes -= message.nbytes
                self._pending -= 1
                self._count_drop(message.topic)
                return
            self._queue.append(message)
            if message.topic != self._event_topic or not isinstance(message, Later) and \
                    message.keys.get("event") not in ("hello", "log"):
                self._position = (message.epoch, message.step)
            if not more or self._queued_bytes * PATIENT_PART > self._queue_bytes:
                self._wake_once()

    def hurry(self) -> None:
        """Asks for what is queued to be sent now."""
        with self._changed:
            if self._queue:
                self._wake_once()

    @property
    def where(self) -> str:
        """As Publisher.where."""
        return self._link.where

    @property
    def is_local(self) -> bool:
        """As Publisher.is_local."""
        return (self._link.endpoint or "").startswith("ipc://")

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Blocks until tensors of this job are subscribed to, or somebody else was found where attnd was named, at most
        `timeout_s`; whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self.has_subscriber() or self.is_wrong or not self._open,
                                          max(0.0, timeout_s)) and self.has_subscriber()

    def _tell_wrong(self, why: str) -> None:
        """On a thread of the link."""
        log.warning("job %s: %s; training goes on, and nothing of it is captured", self.identity.job, why)
        with self._changed:
            self.is_wrong = True
            self._changed.notify_all()

    def tell_absences(self, say_next: Callable[[], str]) -> None:
        """As Publisher.tell_absences."""
        self._say_next = say_next

    def drain(self, timeout_s: float) -> bool:
        """As Publisher.drain."""
        self.hurry()
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, max(0.0, timeout_s))

    @property
    def queued_bytes(self) -> int:
        """Payload bytes that wait."""
        with self._changed:
            return self._queued_bytes

    def stats(self) -> Dict[str, Any]:
        """Counters of messages and bytes; see Publisher.stats."""
        with self._changed:
            dropped = {topic: self._dropped.get(topic, 0) + self._lane_dropped.get(topic, 0)
                       for topic in (*self._dropped, *self._lane_dropped)}
            return {**self._count, "lent": self.memory.messages, "queued": self._pending, "queued_bytes": self._queued_bytes,
                    "subscribed": self.has_subscriber(),
                    "dropped_by_topic": {topic.decode(): n for topic, n in dropped.items()},
                    "unacknowledged": self._lane.unacknowledged, "spooled": self._lane.spooled,
                    "refused_by_reason": dict(self._lane.refused)}

    def close(self) -> None:
        """Queues `bye`, sends what is queued for at most the linger time, and ends the thread.

        Blocks for the linger time plus half a second at most. May be called again, and in a forked child,
        where it does nothing.
        """
        if os.getpid() != self._pid:
            return
        with self._changed:
            if self._deadline is None:
                self._deadline = time.monotonic() + self._linger_s
                self._dropped_open = self._dropped_tensors
                if self._open:
                    self._count["published"] += 1
                    self._pending += 1
                    self._queue.append(Message(self._event_topic, "event", {"event": "bye"},
                                               *self._position, (), 0))
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join(self._linger_s + 0.5)

    # ----------------------------------------------------------------------------------- inner workings

    def has_subscriber(self) -> bool:
        """Whether tensors of this job are subscribed to."""
        return self._has_tensors(self._heard)

    def _has_tensors(self, prefixes: Tuple[bytes, ...]) -> bool:
        mine = self._tensor_prefix
        return any(p.startswith(mine) or mine.startswith(p) for p in prefixes)

    def _lane_takes(self, topic: bytes, kind: Optional[str]) -> bool:
        """Whether a message of this type goes by the reliable lane when it is there; without one, whether one of its topic
        did."""
        return self._reliable.takes(kind) if kind is not None else topic in self._by_lane

    def _uses_lane(self, topic: bytes, kind: Optional[str]) -> bool:
        """Whether it goes by the reliable lane now."""
        return self._lane.joined and (self._away or self._lane.is_announced) and self._lane_takes(topic, kind)

    def _count_drop(self, topic: bytes, kind: Optional[str] = None, too_large: bool = False) -> None:
        """The caller holds the lock."""
        self._count["dropped"] += 1
        self._count["too_large"] += too_large
        counts = self._lane_dropped if self._uses_lane(topic, kind) else self._dropped
        counts[topic] = counts.get(topic, 0) + 1
        if topic == self._event_topic:
            return
        self._dropped_tensors += 1
        if not self._untold:
            self._untold = True
            if self.limits.header >= 2:
                self._wake_once()

    def _wake_once(self) -> None:
        """Unless a wake-up is under way. The caller holds the lock."""
        if not self._wake_sent:
            self._wake_sent = True
            self._wake()

    def _wake(self) -> None:
        """The caller holds the lock, so that the pipe cannot be closed, and its number reused, meanwhile."""
        if self._open:
            try:
                os.write(self._wake_write, b"!")
            except BlockingIOError:  # full: a wake-up is under way
                pass

    def make_inert(self) -> None:
        """In a forked child: drop everything without touching the parent's socket."""
        self.prefixes = self._heard = ()
        self._lane.forget()
        _orphans.extend((self._link, self._lane))
        self._reset_queue()
        self._open = False
        self.memory.make_inert()

    # ---------------------------------------------------------------------------- on the sender thread

    def _run(self) -> None:
        try:
            self._loop()
        except Exception:
            log.warning("job %s: publishing stopped", self.identity.job, exc_info=True)
        finally:
            self._shut()

    def _loop(self) -> None:
        poller = self._poller()
        pause_s = PAUSE_MIN_S
        while True:
            self._link.tend()
            if self._settled_at is not None and time.monotonic() >= self._settled_at:
                self._follow_subscriptions(self._heard)
            sent, full = self._flush()
            self._lane.tend()
            with self._changed:
                deadline = self._deadline
                if deadline is not None and (not self._queue and not self._awaits() or time.monotonic() >= deadline):
                    return
            self._judge_stall(full and not sent and not self._lane.is_joining and not self._lane.is_awaited)
            if self._gone_in_s() == 0:
                self._tell_gone()
            if self._hope is not None and time.monotonic() >= self._hope[0]:
                self._look_whether_admitted(*self._hope)
            longest_s = PAUSE_STALLED_S if self.stalled else PAUSE_MAX_S
            pause_s = min(2 * pause_s, longest_s) if full and not sent else PAUSE_MIN_S
            if self._lane.changed or self.memory.changed:
                poller = self._poller()
            poller.poll(milliseconds(_until(deadline, pause_s) if full else self._idle_s()))
            self._clear_wake()

    def _poller(self) -> "zmq.Poller":
        poller = zmq.Poller()
        self._link.register(poller)
        self._lane.register(poller)
        self.memory.register(poller)
        poller.register(self._wake_read, zmq.POLLIN)
        return poller

    def _idle_s(self) -> Optional[float]:
        """Seconds until there is something to do by itself; None: until a poll wakes."""
        now = time.monotonic()
        hope_at = None if self._hope is None else self._hope[0]
        timers = (None if at is None else max(0.0, at - now) for at in (self._settled_at, self._deadline, hope_at))
        return min((at for at in (self._link.idle_s(), self._lane.idle_s(), self._tell_in_s(), self._gone_in_s(), *timers)
                    if at is not None), default=None)

    def _awaits(self) -> bool:
        """Whether the end is to wait for acknowledgements: not while nobody is there to give any of what is in the spool, or of
        mere events."""
        return self._lane.unacknowledged > 0 and not (self._away and self._lane.is_dispensable)

    def _gone_in_s(self) -> Optional[float]:
        """Seconds until it has to tell that the daemon has gone; None: it has not, or that is told, or the job ends."""
        if self._left_at is None or self._told_gone or self._say_next is None or self._deadline is not None:
            return None
        return max(0.0, self._left_at + GONE_AFTER_S - time.monotonic())

    def _tell_gone(self) -> None:
        assert self._say_next is not None
        self._told_gone = True
        what = "what goes by the reliable lane is kept for it, and nothing else is" if self._relies() else "nothing is"
        then = self._say_next() if addresses.is_here(str(self._home)) else REMOTE
        log.warning("job %s: attnd at %s has gone, or does not answer: %s captured until it is back; training goes "
                    "on. %s", self.identity.job, self._home, what, then)

    def _notice_who_is_there(self) -> None:
        """Subscriptions have changed."""
        if self.has_subscriber():
            self._home = self._link.endpoint
            if self._told_gone and self._left_at is not None:
                log.warning("job %s: attnd is back, at %s%s", self.identity.job, self._home,
                            self._say_missed(time.monotonic() - self._left_at))
            self._left_at, self._told_gone = None, False
            self._tell_old()
            if self._is_denied():
                self._tell_denied()
            elif self._warned_denied and self._hope is None:  # attnd has read its list again, or was started again
                self._begin_to_hope()
        elif not self._heard and self._home is not None and self._left_at is None:
            self._left_at, self._count_before = time.monotonic(), dict(self._count)

    def _tell_old(self) -> None:
        """That what the job asked for cannot be had, as attnd has no reliable lane."""
        wish = self._reliable
        if self._warned_old or not self._event_topic.startswith(self._heard) or self.limits.reliable >= 0 or not (
                wish.asked or wish.directory is not None):
            return
        self._warned_old = True
        log.warning("job %s: attnd at %s has no reliable lane (it is an older version): messages go "
                    "without acknowledgement, and nothing is kept for it", self.identity.job, self._home)

    def _is_denied(self) -> bool:
        """Whether attnd says by its subscriptions that it refuses this job."""
        return self._link.keys is not None and keyring.refusal_of(self.identity.job, self._link.keys) in self._heard

    def _begin_to_hope(self, refused: int = 0) -> None:
        """Some of what is to come counts as sent, as it is refused."""
        self._hope = time.monotonic() + TELL_AFTER_S, self._count["sent"] + refused, False

    def _take_denial(self) -> None:
        """An answer of the lane, which may be a late one, of before attnd read its list again: then it puts hope off."""
        is_late = self._hope is not None and not self._is_denied()
        self._tell_denied()
        if is_late:
            self._begin_to_hope(refused=1)

    def _tell_denied(self) -> None:
        """That the messages are refused, because the key may not publish this job."""
        self._hope = None
        if not self._warned_denied and self._link.keys is not None:
            self._warned_denied = True
            log.warning("job %s: %s; training goes on, and attnd gets nothing of it. Further refusals are only counted",
                        self.identity.job, keyring.denied(self.identity.job, self._link.endpoint, self._link.keys))

    def _look_whether_admitted(self, at: float, sent: int, is_judged: bool) -> None:
        """Tells that messages are taken again: `is_judged`, some were sent when this was looked at last, and none was refused
        since. `sent` messages were when that began."""
        self._hope = at + TELL_AFTER_S, sent, self._count["sent"] > sent
        if is_judged and self.has_subscriber():
            self._hope, self._warned_denied = None, False
            log.warning("job %s: attnd at %s takes the messages of job %s again: what follows is captured", self.identity.job,
                        self._home, self.identity.job)

    def _say_missed(self, away_s: float) -> str:
        if not self._relies():
            return f": what follows is captured, {away_s:.0f} s were not"
        counts = [("kept for it, and sent now", self._lane.unacknowledged)]
        for name, what in (("skipped", "not captured"), ("dropped", "dropped")):
            count = self._count[name] - self._count_before[name]
            counts += [(what, count)] if count else []
        return f", after {away_s:.0f} s; messages " + "; ".join(f"{what}: {count}" for what, count in counts)

    def _tell_in_s(self) -> Optional[float]:
        """Seconds until it has to tell what was dropped; None: there is nothing to tell."""
        with self._changed:
            untold = self._untold
        if not untold or self.limits.header < 2 or self._away or not self.wanted(self._event_topic):
            return None
        return max(0.0, self._told_at + TELL_AFTER_S - time.monotonic())

    def _due_hello(self) -> Optional[Message]:
        """The event to send before anything else."""
        if self._tell_in_s() == 0:
            hello = self._hello or Message(self._event_topic, "event", {"event": "hello"}, 0, 0, (), 0)
            with self._changed:
                return hello._replace(epoch=self._position[0], step=self._position[1])
        return self._hello if self._hello_due else None

    def _judge_stall(self, blocked: bool) -> None:
        now = time.monotonic()
        if not blocked:
            self._blocked_since = None
        elif self._blocked_since is None:
            self._blocked_since = now
        self.stalled = (self._blocked_since is not None and now - self._blocked_since >= STALLED_AFTER_S) or (
            self._away and self._lane.full)
        if self.stalled and not self._away and not self._warned_stalled:
            self._warned_stalled = True
            log.warning("job %s: attnd at %s is stopped, or too busy: it takes nothing, and tensors are dropped and counted until "
                        "it does; training goes on. Further times are not told", self.identity.job, self._home)

    def _clear_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        # After the read, which would else swallow the byte of a put() in between: that one believes a wake-up is
        # under way, nobody ever writes again, and the sender waits for ever.
        with self._changed:
            self._wake_sent = False

    def _flush(self) -> Tuple[int, bool]:
        """Sends from the head until the queue is empty, the pipe full or the time of close() over: (messages sent,
        pipe full)."""
        sent = 0
        while not self._is_late():  # messages that are slow to make would else outlive close()
            self._take_subscriptions()
            if self._blocked_since is None:  # else it would lend what nobody takes
                self.memory.tend(self._link.endpoint, self.limits.memory >= 1)
            hello = self._due_hello()
            if hello is not None and not self._send(hello, False):
                return sent, True
            self._hello_due = False
            with self._changed:
                if not self._queue:
                    return sent, False
                head = self._queue[0]
            message = self._made(head) if isinstance(head, Later) else head
            if message is None:
                continue
            if not self._send(message, True):
                return sent, True
            sent += 1
        return sent, False

    def _is_late(self, early_s: float = 0.0) -> bool:
        with self._changed:
            return self._deadline is not None and time.monotonic() >= self._deadline - early_s

    def _made(self, head: Later) -> Optional[Message]:
        """Makes the message at the head, and puts it there; None when it was dropped, and is gone, instead."""
        message = None
        try:
            if self.wanted(head.topic, head.kind) and not self._is_late(PARTING * self._linger_s):
                message = head.make()
        except Exception:
            if not self._warned_made:
                self._warned_made = True
                log.warning("job %s: a message could not be made; further failures are only counted",
                            self.identity.job, exc_info=True)
        with self._changed:
            if not self._queue or self._queue[0] is not head:  # shut meanwhile
                return None
            grown = message.nbytes - head.nbytes if message is not None else 0
            refusal = None if message is None else self.limits.refusal(message.kind, message.nbytes, message.keys)
            if message is not None and refusal is None and not (
                    grown > 0 and self._queued_bytes + self._held() + grown > self._queue_bytes):
                self._queued_bytes += grown
                self._queue[0] = message
                return message
            self._queue.popleft()
            self._queued_bytes -= head.nbytes
            self._pending -= 1
            self._count_drop(head.topic, head.kind, too_large=refusal is not None)
            self._changed.notify_all()
        if refusal is not None:
            self._warn_large(refusal)
        return None

    def _send(self, message: Message, queued: bool, may_keep: bool = True) -> bool:
        """Sends, or drops for lack of a subscriber. False: the pipe is full, try again later.

        `queued` is false for a repeated hello, which is not part of the counts. With `may_keep` false it does not go by the
        reliable lane.
        """
        if queued and message.keys.get("event") == "hello":
            self._hello = message
        unknown = message.keys.get("event") == "log" and self.limits.header < limits.LOG
        if unknown or not self.wanted(message.topic, message.kind):
            if queued:
                self._done(message, None)
            return True
        if self._lane.is_joining and self._reliable.takes(message.kind):
            return False
        by_lane = may_keep and self._uses_lane(message.topic, message.kind) and not (
            self._reliable.is_probe and message.kind not in ("state", "event") and not self._lane.has_room(message.nbytes))
        # The first message of a run says by what it is cut into windows, whichever lane it is on: that hello goes by both.
        if by_lane and not message.keys.keys().isdisjoint(("own_window", "own_every")) \
                and not self._send(message, False, may_keep=False):
            return False
        seqs, drops = (self._lane_seq, self._lane_dropped) if by_lane else (self._seq, self._dropped)
        with self._changed:
            seq, dropped = seqs.get(message.topic, 0), drops.get(message.topic, 0)
            total = self._dropped_tensors if self.limits.header >= 2 else 0
        header = wire.common_keys(message.kind, *self.identity, seq=seq, dropped=dropped,
                                  time_ns=time.time_ns(), epoch=message.epoch, step=message.step)
        if by_lane:
            header["reliable"] = True
        elif self._lane.tensors and message.kind != "event":
            header["after"] = wire.after([self._lane_newest], self._lane_seq)
        header.update(wire.event_keys(message.keys, total) if message.kind == "event" else message.keys)
        if by_lane:
            return self._keep(message, header, queued)
        packed = wire.pack_header(header)
        nbytes = len(message.topic) + len(packed) + message.nbytes
        if nbytes > self.limits.max_message:
            if queued:
                self._done(message, None, is_dropped=True, too_large=True)
            else:
                self._told_at = time.monotonic()  # not at once again
            self._warn_large(self.limits.too_large(nbytes))
            return True
        with self._changed:
            held = self._held()
        if held and held + message.nbytes > self._queue_bytes // SENT_PART:
            return False
        named = self.memory.name(message.frames)
        # Made before anything is sent: an error here must not leave half a message in the socket.
        parts: List[Any] = [message.topic, packed,
                            *(name or self._given(frame) for (_, name), frame in zip(named, message.frames))]
        try:
            self._socket.send_multipart(parts, zmq.DONTWAIT, copy=False)
        except zmq.Again:
            self.memory.not_sent(named)
            return False
        self.memory.sent(named)
        self._seq[message.topic] = seq + 1
        if message.kind == "event":
            self._has_told(total)
        else:
            self._moved[message.topic] = None
        if queued:
            self._done(message, seq)
        return True

    def _given(self, frame: np.ndarray) -> zmq.Frame:
        """A tensor for ZeroMQ, which counts among what it holds until it is freed."""
        view = frame.view()
        self._moves.append(view.nbytes)
        weakref.finalize(view, self._moves.append, -view.nbytes).atexit = False
        return zmq.Frame(view, copy=False)

    def _held(self) -> int:
        """Bytes of tensors that ZeroMQ holds. The caller holds the lock."""
        while self._moves:
            self._held_bytes += self._moves.popleft()
        return self._held_bytes

    def _has_told(self, total: int) -> None:
        """An event tells of so many tensors that were dropped."""
        self._told_at = time.monotonic()
        with self._changed:
            self._untold = self._dropped_tensors != total

    def _keep(self, message: Message, header: Dict[str, Any], queued: bool) -> bool:
        """As _send(), by the reliable lane: until it is acknowledged."""
        named: List[bytes] = []
        if header.get("event") in ("epoch_end", "bye"):  # which are not to overtake tensors; others may
            named = list(self._moved)[:AFTER_MAX]
            if named:
                header["after"] = wire.after(named, self._seq)
        packed = wire.pack_header(header)
        nbytes = len(message.topic) + len(packed) + message.nbytes
        is_event, too_large = message.kind == "event", nbytes > self.limits.max_message
        if not is_event and not too_large and self._lane.must_wait(nbytes):
            return False
        if too_large or not self._lane.keep(message.topic, packed, message.frames, is_event, queued):
            if queued:
                self._done(message, None, is_dropped=True, too_large=too_large)
            else:
                self._told_at = time.monotonic()  # not at once again
            if too_large:
                self._warn_large(self.limits.too_large(nbytes))
            return True
        self._lane_seq[message.topic] = header["seq"] + 1
        self._lane_newest = self._lane_newest if is_event else message.topic
        self._by_lane.add(message.topic)
        for topic in named:
            del self._moved[topic]
        if is_event:
            self._has_told(header.get("dropped_total", 0))
        if queued:
            with self._changed:
                self._take_off(message)
        self._lane.tend()
        return True

    def _acknowledged(self, entries: List[Entry]) -> None:
        """Messages that were kept are."""
        with self._changed:
            for entry in entries:
                self._count["sent"] += entry.counted
                self._count["sent_bytes"] += entry.payload if entry.counted else 0
                self._pending -= entry.counted
            self._changed.notify_all()

    def _lost(self, entry: Entry) -> None:
        """A message that was kept is no more."""
        if entry.counted and entry.topic is not None:
            with self._changed:
                self._pending -= 1
                self._count_drop(entry.topic, "event" if entry.topic == self._event_topic else None)
                self._changed.notify_all()

    def _take_off(self, message: Message) -> None:
        """Off the queue; the caller holds the lock."""
        if self._queue and self._queue[0] is message:
            self._queue.popleft()
        self._queued_bytes -= message.nbytes
        self._changed.notify_all()

    def _done(self, message: Message, seq: Optional[int], is_dropped: bool = False, too_large: bool = False) -> None:
        """Takes the head off the queue: sent with `seq`, or unwanted, or dropped for a reason of its own (None).

        An unwanted tensor had been captured for a subscriber who left: dropped. An unwanted event is
        skipped; a daemon that is not there misses nothing.
        """
        with self._changed:
            self._take_off(message)
            self._pending -= 1
            if seq is not None:
                self._count["sent"] += 1
                self._count["sent_bytes"] += 0 if message.kind == "event" else message.nbytes
            elif message.kind == "event" and not is_dropped:
                self._count["skipped"] += 1
            else:
                self._count_drop(message.topic, message.kind, too_large)
            self._changed.notify_all()

    def _take_subscriptions(self) -> None:
        changed = False
        prefixes = set(self._heard)
        for _ in range(SUBSCRIPTIONS_AT_ONCE):
            if not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                break
            frame = self._socket.recv(zmq.DONTWAIT)
            self._link.heard = True
            if frame[:1] == b"\x01" and len(prefixes) < SUBSCRIPTIONS_MAX:
                prefixes.add(frame[1:])
                if self._hello is not None and self._event_topic.startswith(frame[1:]):
                    self._hello_due = True
            elif frame[:1] == b"\x00":
                prefixes.discard(frame[1:])
            changed = True
        if changed:
            self._follow_subscriptions(tuple(sorted(prefixes)))

    def _follow_subscriptions(self, heard: Tuple[bytes, ...]) -> None:
        """They have changed, or have not for some time. A daemon with the lane that is away, or is back and has not said all, is
        taken to want what it wanted."""
        now = time.monotonic()
        said = limits.strictest(heard)
        self._lane.announce(endpoint_of(self._link.endpoint, said.reliable, said.reliable_next), self._link.context, self._link.keys)
        is_whole = self._has_tensors(heard) and self._event_topic.startswith(heard)
        away = self._lane.joined and not is_whole and not (self._settled_at is not None and now >= self._settled_at)
        if not away or not heard or said.reliable >= 0:  # attnd will say the rest
            self._settled_at = None
        elif self._settled_at is None:
            self._settled_at = now + SETTLED_AFTER_S
        with self._changed:
            self._away, self._heard = away, heard
            if not away:
                self.prefixes, self.limits = heard, said
            self._changed.notify_all()
        self._notice_who_is_there()

    def _shut(self) -> None:
        with self._changed:
            self._open = False
            heard = self.has_subscriber() or self._away
            for message in self._queue:
                self._count_drop(message.topic)
                self._pending -= 1
                self._queued_bytes -= message.nbytes
            self._queue.clear()
            deadline = self._deadline
            lost = self._dropped_tensors - self._dropped_open if heard and deadline is not None else 0
            late, had = self._end_lane()
            self.prefixes = self._heard = ()
            os.close(self._wake_write)
            os.close(self._wake_read)
            self._changed.notify_all()
        if lost:
            log.warning("job %s: %d messages were not ready within %.3g s of the end (linger) and are dropped", self.identity.job,
                        lost, self._linger_s)
        if late:
            log.warning("job %s: attnd did not acknowledge %d messages within %.3g s of the end (linger): they count as dropped, "
                        "though it has been sent %d of them and may have them", self.identity.job, late, self._linger_s, had)
        if self._lane.unacknowledged:
            log.warning("job %s: %d messages that attnd has not acknowledged are kept in %s: the next process with this spool "
                        "sends them", self.identity.job, self._lane.unacknowledged, self._reliable.directory)
        if self._lane.leaves_left:
            log.warning("job %s: messages that other processes left in %s are still there: the next process with this spool sends "
                        "them", self.identity.job, self._reliable.directory)
        left_s = 0.0 if deadline is None else max(0.0, deadline - time.monotonic())
        # A peer whose queue is full stops reading, and what it has not read is gone when the connection ends.
        time.sleep(min(left_s, FAREWELL_S))
        self._link.close(linger_ms=int(left_s * 1000))
        self.memory.close()

    def _end_lane(self) -> Tuple[int, int]:
        """How many messages are dropped with it, and how many of those attnd may have; a daemon that is not there misses no
        event. The caller holds the lock."""
        late = had = 0
        for entry in self._lane.close():
            self._pending -= entry.counted
            if self._away and not entry.payload:
                self._count["skipped"] += entry.counted
            elif entry.counted and entry.topic is not None:
                late += 1
                had += entry.went
                self._count_drop(entry.topic, "state" if entry.payload else "event")
        return late, had


def _until(deadline: Optional[float], pause_s: float) -> float:
    """A pause that ends with the deadline, when there is one."""
    return pause_s if deadline is None else min(pause_s, max(PAUSE_MIN_S, deadline - time.monotonic()))


def _set_options(socket: "zmq.Socket[Any]", high_water: int) -> None:
    socket.setsockopt(zmq.IMMEDIATE, 1)  # else the pipe, and its subscriptions, outlive the daemon
    socket.setsockopt(zmq.XPUB_NODROP, 1)  # a full pipe is EAGAIN instead of a silent loss
    socket.setsockopt(zmq.SNDHWM, high_water)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, SUBSCRIPTION_BYTES_MAX)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2000)


# Forking: the child has the parent's memory but not its threads. Every sender in it goes quiet, and its
# sockets are kept referenced so that no destructor of the child touches the parent's connections.
_live: "weakref.WeakSet[Sender]" = weakref.WeakSet()
_orphans: List[Any] = []


def _after_fork_in_child() -> None:
    for sender in list(_live):
        sender.make_inert()


os.register_at_fork(after_in_child=_after_fork_in_child)


# Registered after pyzmq's own handler, hence run before it: that one forgets the buffers that are still in flight.
def _close_all() -> None:
    for sender in list(_live):
        sender.close()


atexit.register(_close_all)
