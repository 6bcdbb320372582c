# SPDX-License-Identifier: MIT
"""outbox: the queue between the training and the sender thread, its bounds, and the counts of what becomes of each message.

The training only ever takes a lock for a few instructions: it reserves bytes, copies, appends, and writes one byte to a pipe.

    training thread                    sender thread
    reserve -> copy -> put ── queue ──► head -> (made, when its turn comes) -> done, or taken off and acknowledged later

Drop points, each counted per topic and told to attnd in the topic's next header: the message is larger than attnd takes
(limits.py), the queue is over its bytes (newest dropped), the copy failed, nobody is subscribed any more when the message's turn
comes, the queue is not empty when close() runs out of time.

Events travel in the same queue, so they never overtake a tensor, and take no bytes, so they are never dropped for lack of room.

Identity that holds at any moment: published = sent + dropped + skipped + queued.
"""
from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np
import zmq

from ..base import endings, exits, limits, wire
from ..base.once import Once
from .reliable import Entry

REMEDIES = ("Remedy: fewer query rows (rows=512 of attnd.watch, or now: attnctl plan set %s rows=512; or still fewer; "
            "what is published by hand is cut by hand), fewer samples (samples=1), or a fused kernel, of which queries "
            "and keys are sent instead of weights")
SENT_PART = 4  # of the queue's bytes: ZeroMQ holds no more of them, or one message
PATIENT_PART = 4  # messages wait for the last of their forward while they fill no more than this part of the queue
SMALL = 4096  # bytes that are copied sooner than handed over
NO_KEYS: Mapping[str, Any] = {}
TOPIC_BYTES = 256  # no topic is longer


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


class Many(NamedTuple):
    """This number of messages, which have these bytes in all, and are made into several when it is their turn."""
    messages: Callable[[], List[Later]]
    number: int
    nbytes: int


class Outbox:
    """The queue of one job. Every method may be called from any thread; none blocks unless it says so.

    bytes_max      of payload that may wait here
    goes_by_lane   tells whether a message of this topic and type goes by the reliable lane now, whose drops are its own;
                   called with the lock held
    """

    def __init__(self, job: str, bytes_max: int, goes_by_lane: Callable[[bytes, Optional[str]], bool]):
        self._job = job
        self._event_topic = wire.event_topic(job)
        self._bytes_max = bytes_max
        self._goes_by_lane = goes_by_lane
        self._once = Once(job)
        self.limits = limits.Limits()  # what the daemon takes; replaced as a whole
        self.bell = self._rope = -1  # the former can be read from when the sender thread has something to do
        self.reset()

    def open_bell(self) -> None:
        """Makes the bell, before the sender thread begins."""
        self.bell, self._rope = os.pipe()
        os.set_blocking(self.bell, False)
        os.set_blocking(self._rope, False)

    def reset(self) -> None:
        """Empties it, without a look at the lock: in a forked child somebody may hold it for ever."""
        # Guards what is below. One that the same thread may take again: what it does here may be interrupted by a handler of
        # a signal, or by a finalizer, that publishes or closes. Methods for the training take the lock itself, which costs less than
        # by way of the condition.
        self._lock = threading.RLock()
        self.changed = threading.Condition(self._lock)
        self._queue: Deque[Union[Message, Later, Many]] = deque()
        self._queued_bytes = 0  # reserved ones included
        self._held_bytes = 0  # those that ZeroMQ has, but for
        self._moves: Deque[int] = deque()  # what it was given and has let go of since: without the lock, as the latter is
        self.count = {"published": 0, "sent": 0, "dropped": 0, "skipped": 0, "sent_bytes": 0, "too_large": 0}
        self.position = (0, 0)  # epoch and step of the newest message
        self.last_done: Optional[Tuple[int, int]] = None  # of the last step that was done, captured or not; None: not told
        self._pending = 0  # published, and neither sent, dropped nor skipped yet
        self.drops: Dict[bytes, int] = {}  # by topic
        self.lane_drops: Dict[bytes, int] = {}
        self.dropped_tensors = 0  # of all topics but that of events
        self.untold = False  # no event has told the newest of them
        self._is_rung = False
        self._waiting = 0  # threads in drain()
        self.is_open = True
        self.failure: Optional[endings.Failure] = None  # why the training ended, for `bye`

    # ------------------------------------------------------------------ called by the training thread

    def skip(self) -> None:
        """Counts a message that nobody wanted."""
        with self._lock:
            self.count["published"] += 1
            self.count["skipped"] += 1

    def drop(self, topic: bytes, kind: Optional[str] = None) -> None:
        """Counts a message that was not even captured, because the daemon is stalled."""
        with self._lock:
            self.count["published"] += 1
            self._count_drop(topic, kind)

    def reserve(self, topic: bytes, nbytes: int, kind: Optional[str] = None, keys: Mapping[str, Any] = NO_KEYS,
                travels: Optional[int] = None) -> bool:
        """Takes `nbytes` of the queue before they are copied. False: the message was counted as dropped.

        `kind` and `keys` as far as they are known; `travels`: how many bytes of the message are known, if not all. After True
        comes exactly one put() or cancel().
        """
        refusal = self.limits.refusal(kind, (nbytes if travels is None else travels) + len(topic), keys)
        with self._lock:
            self.count["published"] += 1
            if not self.is_open:
                self.count["skipped"] += 1
                return False
            if refusal is None and not (nbytes and self._is_full(nbytes)):
                self._queued_bytes += nbytes
                self._pending += 1
                return True
            self._count_drop(topic, kind, too_large=refusal is not None)
        if refusal is not None:
            self.warn_large(refusal)
        else:
            self._once.warn("full", "a message of %d bytes was dropped: the queue of %d bytes is full, more is captured than "
                            f"attnd takes. Further drops are only counted. {REMEDIES}", nbytes, self._bytes_max, self._job)
        return False

    def warn_large(self, refusal: str) -> None:
        """A message is larger than attnd takes, or attnd is too old for it."""
        remedy = "" if refusal.endswith(limits.UPDATE) else f". {REMEDIES}; or larger limits in attnd's config" % self._job
        self._once.warn("large", "%s: dropped, and so is all that follows like it%s", refusal, remedy)

    def cancel(self, topic: bytes, nbytes: int, is_lost: bool = True) -> None:
        """Gives a reservation back and counts the message as dropped, or as skipped."""
        with self._lock:
            self._queued_bytes -= nbytes
            self._pending -= 1
            if is_lost:
                self._count_drop(topic)
            else:
                self.count["skipped"] += 1
            self.changed.notify_all()

    def put(self, message: Union[Message, Later], more: bool = False) -> None:
        """Queues a message whose bytes were reserved. The queue owns its arrays from here on.

        `more` says that others follow, and hurry() after the last: until then the thread need not wake up, which would
        take the interpreter's lock from the trainer again and again. It does when the queue gets fuller.
        """
        with self._lock:
            if not self.is_open:
                self._queued_bytes -= message.nbytes
                self._pending -= 1
                self._count_drop(message.topic)
                return
            self._queue.append(message)
            if message.topic != self._event_topic or not isinstance(message, Later) and \
                    message.keys.get("event") not in ("hello", "log"):
                self.position = (message.epoch, message.step)
            self._ring_unless(more)

    def put_many(self, many: Many, largest: int, epoch: int, step: int, kind: str, more: bool = False) -> bool:
        """As reserve() and put() of each, of at most `largest` bytes. False: nothing was done, as not all may find room."""
        with self._lock:
            if not self.is_open or self._is_full(many.nbytes) or self.limits.refusal(kind, largest + TOPIC_BYTES, NO_KEYS) is not None:
                return False
            self.count["published"] += many.number
            self._queued_bytes += many.nbytes
            self._pending += many.number
            self._queue.append(many)
            self.position = (epoch, step)
            self._ring_unless(more)
            return True

    def hurry(self) -> None:
        """Asks for what is queued to be sent now."""
        with self._lock:
            if self._queue:
                self._ring_once()

    def drain(self, timeout_s: float) -> bool:
        """As Publisher.drain. Blocks."""
        self.hurry()
        with self.changed:
            self._waiting += 1
            try:
                return self.changed.wait_for(lambda: self._pending == 0, max(0.0, timeout_s))
            finally:
                self._waiting -= 1

    @property
    def queued_bytes(self) -> int:
        """Payload bytes that wait."""
        with self.changed:
            return self._queued_bytes

    def stats(self) -> Dict[str, Any]:
        """Its part of Publisher.stats."""
        with self.changed:
            dropped = {topic.decode(): self.drops.get(topic, 0) + self.lane_drops.get(topic, 0)
                       for topic in (*self.drops, *self.lane_drops)}
            return {**self.count, "queued": self._pending, "queued_bytes": self._queued_bytes, "dropped_by_topic": dropped}

    # ---------------------------------------------------------------------------- on the sender thread

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for all of it."""
        return self._waiting > 0

    def head(self) -> Union[None, Message, Later]:
        """The message whose turn it is; None: the queue is empty."""
        with self.changed:
            return self._head()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits. The caller holds the lock."""
        return not self._queue

    def replace(self, head: Later, message: Optional[Message]) -> Optional[Message]:
        """Puts what was made in the place of the head; None when it was dropped, and is gone, instead: nothing was made, or what was
        is too large, or finds no room."""
        refusal = None if message is None else self.limits.refusal(message.kind, message.nbytes, message.keys)
        with self.changed:
            if not self._queue or self._queue[0] is not head:  # shut meanwhile
                return None
            grown = message.nbytes - head.nbytes if message is not None else 0
            if message is not None and refusal is None and not (grown > 0 and self._is_full(grown)):
                self._queued_bytes += grown
                self._queue[0] = message
                return message
            self._queue.popleft()
            self._queued_bytes -= head.nbytes
            self._pending -= 1
            self._count_drop(head.topic, head.kind, too_large=refusal is not None)
            self.changed.notify_all()
        if refusal is not None:
            self.warn_large(refusal)
        return None

    def take_off(self, message: Message) -> None:
        """Off the queue, and still pending: until it is acknowledged()."""
        with self.changed:
            self._take_off(message)

    def done(self, message: Message, is_sent: bool, is_dropped: bool = False, too_large: bool = False) -> None:
        """Takes the head off the queue: sent, or unwanted, or dropped for a reason of its own.

        An unwanted tensor had been captured for a subscriber who left: dropped. An unwanted event is
        skipped; a daemon that is not there misses nothing.
        """
        with self.changed:
            self._take_off(message)
            self._pending -= 1
            if is_sent:
                self.count["sent"] += 1
                self.count["sent_bytes"] += 0 if message.kind == "event" else message.nbytes
            elif message.kind == "event" and not is_dropped:
                self.count["skipped"] += 1
            else:
                self._count_drop(message.topic, message.kind, too_large)

    def acknowledged(self, entries: List[Entry]) -> None:
        """Messages that were kept by the reliable lane are."""
        with self.changed:
            for entry in entries:
                self.count["sent"] += entry.counted
                self.count["sent_bytes"] += entry.payload if entry.counted else 0
                self._pending -= entry.counted
            self.changed.notify_all()

    def lost(self, entry: Entry) -> None:
        """A message that was kept is no more."""
        if entry.counted and entry.topic is not None:
            with self.changed:
                self._pending -= 1
                self._count_drop(entry.topic, "event" if entry.topic == self._event_topic else None)
                self.changed.notify_all()

    def told(self, total: int) -> None:
        """An event tells that `total` tensors were dropped."""
        with self.changed:
            self.untold = self.dropped_tensors != total

    def hand_over(self, frame: np.ndarray) -> Union[bytes, zmq.Frame]:
        """A tensor for ZeroMQ, which counts among what it holds until it is freed; a small one as a copy."""
        if frame.nbytes <= SMALL:
            return frame.tobytes()
        view = frame.view()
        self._moves.append(view.nbytes)
        weakref.finalize(view, self._moves.append, -view.nbytes).atexit = False
        return zmq.Frame(view, copy=False)

    def may_hand_over(self, nbytes: int) -> bool:
        """Whether ZeroMQ may have these bytes more."""
        with self.changed:
            held = self._held()
        return not held or held + nbytes <= self._bytes_max // SENT_PART

    def answer_bell(self) -> None:
        """The thread is awake."""
        try:
            os.read(self.bell, 4096)
        except BlockingIOError:
            pass
        # After the read, which would else swallow the byte of a put() in between: that one believes a wake-up is
        # under way, nobody ever writes again, and the sender waits for ever.
        with self.changed:
            self._is_rung = False

    # ------------------------------------------------------------------------------------ at the end

    def say_bye(self) -> None:
        """Queues `bye`, unless it is shut. The caller holds the lock."""
        if self.is_open:
            self.count["published"] += 1
            self._pending += 1
            failure = self.failure or (endings.failure_of(endings.uncaught()) if exits.is_exit else None)
            self._queue.append(Message(self._event_topic, "event", wire.bye_keys(failure), *(self.last_done or self.position), (), 0))
        self._ring()

    def shut(self) -> None:
        """Drops what is queued, and takes nothing more. The caller holds the lock."""
        self.is_open = False
        while (message := self._head()) is not None:
            self._queue.popleft()
            self._count_drop(message.topic)
            self._pending -= 1
            self._queued_bytes -= message.nbytes
        rope, self._rope = self._rope, -1
        os.close(rope)
        os.close(self.bell)

    def drop_kept(self, kept: List[Entry], is_away: bool) -> Tuple[int, int]:
        """Messages that the reliable lane kept in memory end with it: how many are dropped, and how many of those attnd may have. A
        daemon that is not there misses no event. The caller holds the lock."""
        late = had = 0
        for entry in kept:
            self._pending -= entry.counted
            if is_away and not entry.payload:
                self.count["skipped"] += entry.counted
            elif entry.counted and entry.topic is not None:
                late += 1
                had += entry.went
                self._count_drop(entry.topic, "rows" if entry.payload else "event")
        return late, had

    # ------------------------------------------------------------------- inner workings, with the lock held

    def _is_full(self, nbytes: int) -> bool:
        return self._queued_bytes + self._held() + nbytes > self._bytes_max

    def _held(self) -> int:
        """Bytes of tensors that ZeroMQ holds."""
        with contextlib.suppress(IndexError):  # a handler of a signal may take some of them, too
            while True:
                moved = self._moves.popleft()
                self._held_bytes += moved
        return self._held_bytes

    def _head(self) -> Union[None, Message, Later]:
        """The head of the queue, of several the first."""
        head = self._queue[0] if self._queue else None
        if not isinstance(head, Many):
            return head
        self._queue.popleft()
        self._queue.extendleft(reversed(head.messages()))
        return self._head()

    def _take_off(self, message: Message) -> None:
        if self._queue and self._queue[0] is message:
            self._queue.popleft()
        self._queued_bytes -= message.nbytes
        self.changed.notify_all()

    def _count_drop(self, topic: bytes, kind: Optional[str] = None, too_large: bool = False) -> None:
        self.count["dropped"] += 1
        self.count["too_large"] += too_large
        counts = self.lane_drops if self._goes_by_lane(topic, kind) else self.drops
        counts[topic] = counts.get(topic, 0) + 1
        if topic == self._event_topic:
            return
        self.dropped_tensors += 1
        if not self.untold:
            self.untold = True
            self._ring_once()

    def _ring_unless(self, more: bool) -> None:
        if not more or self._queued_bytes * PATIENT_PART > self._bytes_max:
            self._ring_once()

    def _ring_once(self) -> None:
        """Wakes the thread, unless a wake-up is under way."""
        if not self._is_rung:
            self._is_rung = True
            self._ring()

    def _ring(self) -> None:
        """With the lock held, the pipe cannot be closed, and its number reused, meanwhile."""
        if self.is_open:
            try:
                os.write(self._rope, b"!")
            except OSError:  # full, and a wake-up is under way; or a handler of a signal has closed it meanwhile
                pass
