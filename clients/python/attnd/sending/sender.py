# SPDX-License-Identifier: MIT
"""sender: one thread that owns the XPUB socket, behind the bounded queue that the training puts messages into (sending/outbox.py).

Everything that can wait happens here: take subscriptions, send the head of the queue, or wait

    idle:  poll(XPUB, bell of the queue), no timeout; without a daemon it looks for one about once a second (connection/link.py)
    full:  the same with a growing pause of 1 to 50 ms, and to 1 s once the daemon counts as stalled; XPUB claims to be writable even
           when its pipe is full, so POLLOUT cannot tell when to go on
    long:  a rest after some ms of work (sending/turn.py), unless the job ends or waits for what is queued

Events tell how many tensors of all topics were dropped; when nothing else is to be said, a hello does, within TELL_AFTER_S. When
nothing was sent for BEAT_S, a short hello says that the process is `alive`, whatever its training does.

A daemon that hangs is noticed by its pings, which end; an older one sends none. So a pipe that takes nothing for
STALLED_AFTER_S makes `stalled` true, and whoever asks spares itself the capture.

`hello` is kept and said again to every new subscriber of the events: a daemon that restarts learns the model's layers.

A daemon that has the reliable lane gets some messages that way instead (sending/reliable.py): at the head of the queue they are
kept there, and they are queued until they are acknowledged. The lanes have a seq each. While such a daemon is away, its
subscriptions hold on for what went by the lane before. sending/presence.py tells people whether it is there.
"""
from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any, ContextManager, Dict, List, NamedTuple, Optional, Set, Tuple

import zmq
import zmq.utils.garbage  # its exit handler must be registered before ours: see _live

from ..base import limits, wire
from ..base.exits import closed_at_exit
from ..base.once import Once, log
from ..connection.link import Link, has_message, milliseconds
from .memory import Lender
from .outbox import Later as Later, Message as Message, NotYet as NotYet, Outbox
from .presence import Presence
from .reliable import Lane, Wish, endpoint_of
from .turn import Turn

SUBSCRIPTION_BYTES_MAX = 4096  # larger than any: a plan has 1024
SUBSCRIPTIONS_MAX = 4096  # a daemon has some hundred; what is beyond them is not wanted
SUBSCRIPTIONS_AT_ONCE = 1024  # so that a flood of them cannot hold up sending
FAREWELL_S = 0.1  # how long the connection outlives what was sent last
PARTING = 0.25  # the part of the linger time, its end, in which no message is made any more, so that the events get through
PAUSE_MIN_S, PAUSE_MAX_S = 0.001, 0.050
PAUSE_STALLED_S = 1.0  # each attempt takes the training's lock of the interpreter for a moment
STALLED_AFTER_S = 3.0
BEAT_S = 10.0  # a process that has sent nothing for so long says that it is there
TELL_AFTER_S = 5.0  # how often what was dropped is told when nothing else is
AFTER_MAX = 4000  # topics that an event names


class Identity(NamedTuple):
    """The publisher's identity; the same in every header. `run` is 16 bytes."""
    job: str
    run: bytes
    rank: int
    world: int


class Sender:
    """The thread and its socket. Every method without a _ may be called from any thread; none blocks unless it says so."""

    def __init__(self, identity: Identity, endpoint: Optional[str], address: Any, queue_bytes: int, linger_s: float,
                 high_water: int, reliable: Wish):
        self.identity = identity
        self.prefixes: Tuple[bytes, ...] = ()  # what is wanted; replaced as a whole, never changed
        self._heard: Tuple[bytes, ...] = ()  # what is subscribed: the same, but while attnd is away
        self._reliable = reliable
        self._event_topic = wire.event_topic(identity.job)
        self._tensor_prefix = f"tensor/{identity.job}/".encode("ascii")
        self.linger_s = linger_s
        self.outbox = Outbox(identity.job, queue_bytes, self._uses_lane)
        self.memory = Lender(queue_bytes)  # where tensors are copied to that attnd reads in place
        self._pid = os.getpid()
        self._turn = Turn()
        self._reset_lane()
        self.stalled = False  # as Publisher.stalled
        self._blocked_since: Optional[float] = None
        self._hello: Optional[Message] = None
        self._hello_due = False
        self._deadline: Optional[float] = None  # set by close(): when to stop trying
        self._is_over = False  # the thread takes the lock no more
        self._dropped_open = 0  # tensors that were dropped before that
        self._sent_at = time.monotonic()  # anything
        self._told_at = -TELL_AFTER_S  # when an event last told what was dropped
        self._once = Once(identity.job)
        self.is_wrong = False  # as Publisher.is_wrong
        self.link = Link(zmq.XPUB, "ingest", endpoint, address, lambda socket: _set_options(socket, high_water),
                          on_wrong=self._tell_wrong)
        self.outbox.open_bell()
        self._socket = self.link.socket
        self.presence = Presence(identity.job, self.link, self.outbox, reliable, lambda: self._lane, self._relies)
        self._thread = threading.Thread(target=self._run, name="attnd-sender", daemon=True)
        _live.add(self)
        self._thread.start()

    def _reset_lane(self) -> None:
        self._lane = Lane(self.identity.job, self._reliable, self.outbox.acknowledged, self.outbox.lost,
                          lambda: self.presence.take_denial(), self._turn)
        self.is_away = False  # attnd has gone, and what went by the reliable lane before is kept for it
        self._by_lane: Set[bytes] = set()  # topics of messages that went by it
        self._moved: Dict[bytes, None] = {}  # topics of those that did not, since an event named them
        self._seq: Dict[bytes, int] = {}  # of each lane its own
        self._lane_seq: Dict[bytes, int] = {}
        self._lane_newest = b""  # topic of the tensors that were kept last

    # ------------------------------------------------------------------ called by the training thread

    def wanted(self, topic: bytes, kind: Optional[str] = None) -> bool:
        """Whether somebody is subscribed to the topic; while attnd is away, whether messages of it are kept: those of this
        type, or, without one, those that it had."""
        return topic.startswith(self.prefixes) and (not self.is_away or self._lane_takes(topic, kind))

    @property
    def listened_to(self) -> bool:
        """As Publisher.listened_to."""
        return self.has_subscriber() or self.is_away and self._relies()

    def has_subscriber(self) -> bool:
        """Whether tensors of this job are subscribed to."""
        return self._has_tensors(self._heard)

    def wait_for_subscriber(self, timeout_s: float) -> bool:
        """Blocks until tensors of this job are subscribed to, or somebody else was found where attnd was named, at most
        `timeout_s`; whether they are."""
        with self.outbox.changed:
            return self.outbox.changed.wait_for(lambda: self.has_subscriber() or self.is_wrong or not self.outbox.is_open,
                                                max(0.0, timeout_s)) and self.has_subscriber()

    def _tell_wrong(self, why: str) -> None:
        """On a thread of the link."""
        log.warning("job %s: %s; training goes on, and nothing of it is captured", self.identity.job, why)
        with self.outbox.changed:
            self.is_wrong = True
            self.outbox.changed.notify_all()

    def stats(self) -> Dict[str, Any]:
        """Counters of messages and bytes; see Publisher.stats."""
        return {**self.outbox.stats(), "lent": self.memory.messages, "subscribed": self.has_subscriber(),
                "unacknowledged": self._lane.unacknowledged, "spooled": self._lane.spooled,
                "refused_by_reason": dict(self._lane.refused)}

    def close(self) -> None:
        """Queues `bye`, sends what is queued for at most the linger time, and ends the thread.

        Blocks for the linger time plus half a second at most. May be called again, and in a forked child,
        where it does nothing.
        """
        if os.getpid() != self._pid:
            return
        with self.outbox.changed:
            if self._deadline is None:
                self._deadline = time.monotonic() + self.linger_s
                self._dropped_open = self.outbox.dropped_tensors
                self.outbox.say_bye()
        if threading.current_thread() is not self._thread:
            until = time.monotonic() + self.linger_s + 0.5
            with self.outbox.changed:  # waiting gives the lock back, even if a handler of a signal has interrupted who holds it
                self.outbox.changed.wait_for(lambda: self._is_over, self.linger_s + 0.5)
            self._thread.join(max(0.0, until - time.monotonic()) if self._is_over else 0.0)

    def make_inert(self) -> None:
        """In a forked child: drop everything without touching the parent's socket."""
        self.prefixes = self._heard = ()
        self._lane.forget()
        _orphans.extend((self.link, self._lane))
        self.outbox.reset()
        self.outbox.is_open = False
        self._reset_lane()
        self.memory.make_inert()

    # ------------------------------------------------------------------------------------- which lane

    def _has_tensors(self, prefixes: Tuple[bytes, ...]) -> bool:
        mine = self._tensor_prefix
        return any(p.startswith(mine) or mine.startswith(p) for p in prefixes)

    def _lane_takes(self, topic: bytes, kind: Optional[str]) -> bool:
        """Whether a message of this type goes by the reliable lane when it is there; without one, whether one of its topic
        did."""
        return self._reliable.takes(kind) if kind is not None else topic in self._by_lane

    def _uses_lane(self, topic: bytes, kind: Optional[str]) -> bool:
        """Whether it goes by the reliable lane now."""
        return self._lane.joined and (self.is_away or self._lane.is_announced) and self._lane_takes(topic, kind)

    def _relies(self) -> bool:
        """Whether more than events went by the reliable lane."""
        return any(topic != self._event_topic for topic in tuple(self._by_lane))

    def _awaits(self) -> bool:
        """Whether the end is to wait for acknowledgements: not while nobody is there to give any of what is in the spool, or of
        mere events."""
        return self._lane.unacknowledged > 0 and not (self.is_away and self._lane.is_dispensable)

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
            self._turn.begin()
            self.link.tend()
            sent, full = self._flush()
            self._lane.tend()
            with self.outbox.changed:
                deadline = self._deadline
                if deadline is not None and (self.outbox.is_empty and not self._awaits() or time.monotonic() >= deadline):
                    return
            self._judge_stall(full and not sent and not self._lane.is_joining and not self._lane.is_awaited)
            self.presence.tend(deadline is not None)
            longest_s = PAUSE_STALLED_S if self.stalled else PAUSE_MAX_S
            pause_s = min(2 * pause_s, longest_s) if full and not sent else PAUSE_MIN_S
            if self._lane.changed or self.memory.changed:
                poller = self._poller()
            if self._turn.is_over and deadline is None and not self.outbox.is_waited_for:
                time.sleep(self._turn.rest_s)
            if deadline is not None:  # the pause ends with it
                pause_s = min(pause_s, max(PAUSE_MIN_S, deadline - time.monotonic()))
            poller.poll(0 if self._turn.is_over else milliseconds(pause_s if full else self._idle_s()))
            self.outbox.answer_bell()

    def _poller(self) -> "zmq.Poller":
        poller = zmq.Poller()
        self.link.register(poller)
        self._lane.register(poller)
        self.memory.register(poller)
        poller.register(self.outbox.bell, zmq.POLLIN)
        return poller

    def _idle_s(self) -> Optional[float]:
        """Seconds until there is something to do by itself; None: until a poll wakes."""
        ends_in = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        return min((at for at in (self.link.idle_s(), self._lane.idle_s(), self._tell_in_s(), self._beat_in_s(), ends_in,
                                  self.presence.idle_s(self._deadline is not None)) if at is not None), default=None)

    def _tell_in_s(self) -> Optional[float]:
        """Seconds until it has to tell what was dropped; None: there is nothing to tell."""
        if not self.outbox.untold or self.is_away or not self.wanted(self._event_topic):
            return None
        return max(0.0, self._told_at + TELL_AFTER_S - time.monotonic())

    def _beat_in_s(self) -> Optional[float]:
        """Seconds until it has to say that it is there; None: nobody is to be told."""
        if self._hello is None or self.is_away or self._deadline is not None or not self.wanted(self._event_topic):
            return None
        return max(0.0, self._sent_at + BEAT_S - time.monotonic())

    def _due_hello(self) -> Optional[Message]:
        """The event to send before anything else."""
        if self._tell_in_s() == 0:
            hello = self._hello or Message(self._event_topic, "event", {"event": "hello"}, 0, 0, (), 0)
            epoch, step = self.outbox.position
            return hello._replace(epoch=epoch, step=step)
        if not self._hello_due and self._beat_in_s() == 0:
            return Message(self._event_topic, "event", {"event": "hello", "alive": True}, *self.outbox.position, (), 0)
        return self._hello if self._hello_due else None

    def _judge_stall(self, blocked: bool) -> None:
        now = time.monotonic()
        if not blocked:
            self._blocked_since = None
        elif self._blocked_since is None:
            self._blocked_since = now
        self.stalled = (self._blocked_since is not None and now - self._blocked_since >= STALLED_AFTER_S) or (
            self.is_away and self._lane.full)
        if self.stalled and not self.is_away:
            self.presence.tell_stalled()

    def _flush(self) -> Tuple[int, bool]:
        """Sends from the head until the queue is empty, the pipe full, the turn over or the time of close(): (messages sent,
        pipe full)."""
        sent = 0
        while not self._is_late():  # messages that are slow to make would else outlive close()
            self._take_subscriptions()
            if self._blocked_since is None:  # else it would lend what nobody takes
                self.memory.tend(self.link.endpoint, self.outbox.limits.memory >= 1)
            hello = self._due_hello()
            if hello is not None and not self._send(hello, False):
                return sent, True
            self._hello_due = False
            head = self.outbox.head()
            if head is None:
                return sent, False
            with _relaxed():
                message = self._made(head) if isinstance(head, Later) else head
                del head  # the last of what it was made of
            if message is not None:
                if not self._send_queued(message):
                    return sent, True
                sent += 1
            if self._turn.is_over:
                break
        return sent, False

    def _send_queued(self, message: Message) -> bool:
        """_send() of the head of the queue. No message ends the publishing: one that cannot be sent is dropped."""
        try:
            return self._send(message, True)
        except Exception:
            if self.outbox.head() is not message:  # it has gone on, and is counted
                raise
            self._once.warn("sent", "a message could not be sent; further failures are only counted", exc_info=True)
            self.outbox.done(message, False, is_dropped=True)
            return True

    def _is_late(self, early_s: float = 0.0) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline - early_s

    def _made(self, head: Later) -> Optional[Message]:
        """Makes the message at the head, and puts it there; None when it was dropped, and is gone, instead."""
        message = None
        try:
            if self.wanted(head.topic, head.kind) and not self._is_late(PARTING * self.linger_s):
                message = head.make()
        except Exception:
            self._once.warn("made", "a message could not be made; further failures are only counted", exc_info=True)
        return self.outbox.replace(head, message)

    def _send(self, message: Message, queued: bool, may_keep: bool = True) -> bool:
        """Sends, or drops for lack of a subscriber. False: the pipe is full, try again later.

        `queued` is false for a repeated hello, which is not part of the counts. With `may_keep` false it does not go by the
        reliable lane.
        """
        if queued and message.keys.get("event") == "hello":
            self._hello = message
        if not self.wanted(message.topic, message.kind):
            if queued:
                self.outbox.done(message, False)
            return True
        if self._lane.is_joining and self._reliable.takes(message.kind):
            return False
        by_lane = may_keep and self._uses_lane(message.topic, message.kind) and not (
            self._reliable.is_probe and message.kind not in ("rows", "event") and not self._lane.has_room(message.nbytes))
        # The first message of a run says by what it is cut into windows, whichever lane it is on: that hello goes by both.
        # Not so a later one to the same attnd while all else is reliable: lost with a connection, it would count as a loss.
        if by_lane and not message.keys.keys().isdisjoint(("own_window", "own_every")) \
                and (not queued or self._seq.keys() != {message.topic}) and not self._send(message, False, may_keep=False):
            return False
        self._sent_at = time.monotonic()
        seqs, drops = (self._lane_seq, self.outbox.lane_drops) if by_lane else (self._seq, self.outbox.drops)
        with self.outbox.changed:
            seq, dropped = seqs.get(message.topic, 0), drops.get(message.topic, 0)
            total = self.outbox.dropped_tensors
        header = wire.common_keys(message.kind, *self.identity, seq=seq, dropped=dropped,
                                  time_ns=time.time_ns(), epoch=message.epoch, step=message.step)
        if by_lane:
            header["reliable"] = True
        elif self._lane.tensors and message.kind != "event":
            header["after"] = wire.after([self._lane_newest], self._lane_seq)
        header.update(wire.event_keys(message.keys, total) if message.kind == "event" else message.keys)
        named: List[bytes] = []
        if by_lane and header.get("event") in ("epoch_end", "bye"):  # which are not to overtake tensors; others may
            named = list(self._moved)[:AFTER_MAX]
            if named:
                header["after"] = wire.after(named, self._seq)
        packed = wire.pack_header(header)
        nbytes = len(message.topic) + len(packed) + message.nbytes
        if nbytes > self.outbox.limits.max_message:
            self._drop(message, queued, too_large=True)
            self.outbox.warn_large(self.outbox.limits.too_large(nbytes))
            return True
        if by_lane:
            return self._keep(message, header, packed, named, queued)
        if not self.outbox.may_hand_over(message.nbytes):
            return False
        lent = self.memory.name(message.frames)
        try:
            # Made before anything is sent: an error here must not leave half a message in the socket.
            parts: List[Any] = [message.topic, packed,
                                *(name or self.outbox.hand_over(frame) for (_, name), frame in zip(lent, message.frames))]
            self._socket.send_multipart(parts, zmq.DONTWAIT, copy=False)
        except BaseException as error:
            self.memory.not_sent(lent)
            if isinstance(error, zmq.Again):
                return False
            raise
        self.memory.sent(lent)
        self._seq[message.topic] = seq + 1
        if message.kind == "event":
            self._has_told(total)
        else:
            self._moved[message.topic] = None
        if queued:
            self.outbox.done(message, True)
        return True

    def _has_told(self, total: int) -> None:
        """An event tells of so many tensors that were dropped."""
        self._told_at = time.monotonic()
        self.outbox.told(total)

    def _drop(self, message: Message, queued: bool, too_large: bool) -> None:
        """`queued` as for _send()."""
        if queued:
            self.outbox.done(message, False, is_dropped=True, too_large=too_large)
        else:
            self._told_at = time.monotonic()  # not at once again

    def _keep(self, message: Message, header: Dict[str, Any], packed: bytes, named: List[bytes], queued: bool) -> bool:
        """As _send(), by the reliable lane: until it is acknowledged. `named`: the topics that the header names."""
        is_event = message.kind == "event"
        if not is_event and self._lane.must_wait(len(message.topic) + len(packed) + message.nbytes):
            return False
        if not self._lane.keep(message.topic, packed, message.frames, is_event, queued):
            self._drop(message, queued, too_large=False)
            return True
        self._lane_seq[message.topic] = header["seq"] + 1
        self._lane_newest = self._lane_newest if is_event else message.topic
        self._by_lane.add(message.topic)
        for topic in named:
            del self._moved[topic]
        if is_event:
            self._has_told(header.get("dropped_total", 0))
        if queued:
            self.outbox.take_off(message)
        self._lane.tend()
        return True

    def _take_subscriptions(self) -> None:
        changed = False
        prefixes = set(self._heard)
        for _ in range(SUBSCRIPTIONS_AT_ONCE):
            if not has_message(self._socket):
                break
            frame = self._socket.recv(zmq.DONTWAIT)
            self.link.heard = True
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
        """They have changed. A daemon with the lane that is away, or is back and has not said all, is taken to want what it
        wanted."""
        said = limits.strictest(heard)
        self._lane.announce(endpoint_of(self.link.endpoint, said.reliable, said.reliable_next), self.link.context, self.link.keys)
        away = self._lane.joined and not (self._has_tensors(heard) and self._event_topic.startswith(heard))
        with self.outbox.changed:
            self.is_away, self._heard = away, heard
            if not away:
                self.prefixes, self.outbox.limits = heard, said
            self.outbox.changed.notify_all()
        self.presence.notice(heard, self.has_subscriber())

    def _shut(self) -> None:
        with self.outbox.changed:
            heard = self.has_subscriber() or self.is_away
            self.outbox.shut()
            deadline = self._deadline
            lost = self.outbox.dropped_tensors - self._dropped_open if heard and deadline is not None else 0
        kept = self._lane.close()  # which may wait for a disk
        with self.outbox.changed:
            self._is_over = True
            late, had = self.outbox.drop_kept(kept, self.is_away)
            self.prefixes = self._heard = ()
            self.outbox.changed.notify_all()
        if lost:
            log.warning("job %s: %d messages were not ready within %.3g s of the end (linger) and are dropped", self.identity.job,
                        lost, self.linger_s)
        if late:
            log.warning("job %s: attnd did not acknowledge %d messages within %.3g s of the end (linger): they count as dropped, "
                        "though it has been sent %d of them and may have them", self.identity.job, late, self.linger_s, had)
        if self._lane.unacknowledged:
            log.warning("job %s: %d messages that attnd has not acknowledged are kept in %s: the next process with this spool "
                        "sends them", self.identity.job, self._lane.unacknowledged, self._reliable.directory)
        if self._lane.leaves_left:
            log.warning("job %s: messages that other processes left in %s are still there: the next process with this spool sends "
                        "them", self.identity.job, self._reliable.directory)
        left_s = 0.0 if deadline is None else max(0.0, deadline - time.monotonic())
        # A peer whose queue is full stops reading, and what it has not read is gone when the connection ends.
        time.sleep(min(left_s, FAREWELL_S))
        self.link.close(linger_ms=int(left_s * 1000))
        self.memory.close()


def _relaxed() -> ContextManager[None]:
    """See devices.relaxed(). Where that was not imported, no tensor was on a device."""
    devices = sys.modules.get(f"{__package__}.devices")
    return contextlib.nullcontext() if devices is None else devices.relaxed()


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
_live = closed_at_exit()  # made after pyzmq's own handler, which forgets the buffers that are still in flight
_orphans: List[Any] = []


def _after_fork_in_child() -> None:
    for sender in list(_live):
        sender.make_inert()


os.register_at_fork(after_in_child=_after_fork_in_child)
