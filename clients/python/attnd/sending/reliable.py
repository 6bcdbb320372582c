# SPDX-License-Identifier: MIT
"""reliable: the lane that loses nothing (PROTOCOL.md, "The reliable lane"): a DEALER beside the XPUB of a sender.

A message is kept, in memory or in a spool (spool.py), until attnd has said that it is in the history. attnd says how many
bytes it takes; what it has not acknowledged when a connection ends is sent again, in its order and by its id, over the
next one. A message that finds no room waits in the sender's queue as long as answers come; else it is refused, and counted
by the sender.

While attnd is away, the sender goes on as if it were there with what went this way before: see Sender.is_away.

All on the sender thread, but for what says that any may call it.
"""
from __future__ import annotations

import itertools
import math
import os
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

import msgpack
import zmq

from ..base.address import SOCKETS
from ..base.once import Once, log
from ..base.wire import printable
from ..connection import keys as keyring
from ..connection.link import has_message
from .spool import Place, Spool, Unreadable, is_passing
from .turn import Turn

DEFAULT_BYTES = 64 << 20
EVENT_BYTES = 1 << 20  # beyond the bound, for events alone
JOIN_S = 5.0  # messages wait so long for the first answer, and then go as they would without the lane
WAIT_S = 5.0  # since the last answer, messages wait so long for room
AGAIN_S, AGAIN_MAX_S = 0.1, 2.0  # between the end of a connection and the next one
LEFT_BYTES = 16 << 20  # of what others have left, at a time
ANSWER_BYTES_MAX = 16 << 20
ANSWERS_AT_ONCE = 1024
_connections = itertools.count()
REASON_MAX = 200  # characters of what attnd says for people
CHARGE_MIN = 4096  # a message takes so much of the credit at least
NO_ROOM = {"job_limit": "limits.jobs", "run_limit": "limits.runs"}  # may be taken later: the reason, and attnd's setting
JOIN = bytes(8)
NEVER_MS = 1 << 29  # as in link.py


class Wish(NamedTuple):
    """The messages that go by the lane, as the job asks for it.

    asked       None: rows and events; True: tensors, too; False: nothing
    is_probe    tensors, too, but those without room go as they would without the lane
    bound       bytes that may be kept
    directory   of the spool; None: they are kept in memory
    """
    asked: Optional[bool] = None
    is_probe: bool = False
    bound: int = DEFAULT_BYTES
    directory: Optional[str] = None

    def takes(self, kind: Optional[str]) -> bool:
        """Whether messages of this type go by the lane when there is one. Any thread."""
        if self.asked is not None:
            return self.asked
        return self.is_probe or kind in ("rows", "event")


def endpoint_of(ingest: Optional[str], port: float, next_port: float = 0) -> Optional[str]:
    """Where the lane of the daemon at this endpoint is, when it has announced the port, and another one for its second address;
    None: it has none there."""
    if ingest is None or port < 0:
        return None
    if ingest.startswith("ipc://"):
        return f"{os.path.dirname(ingest)}/reliable"
    host, colon, own = ingest.rpartition(":")
    if next_port and own == str(int(next_port) - SOCKETS.index("reliable")):
        port = next_port
    return f"{host}:{int(port)}" if port and colon and ingest.startswith("tcp://") else None


class Entry:
    """A message that is kept: its frames, or their place in a file. `payload`: bytes of tensors. `topic`: None when another
    process has left it. `counted`: among what was published. `went`: by a connection that has ended, so attnd may have it.
    `repeated`: attnd has said so."""
    __slots__ = ("number", "nbytes", "kept", "topic", "payload", "counted", "went", "repeated")

    def __init__(self, number: int, nbytes: int, kept: Union[Place, Tuple[Any, ...]], topic: Optional[bytes], payload: int,
                 counted: bool):
        self.number, self.nbytes, self.kept, self.topic, self.payload = number, nbytes, kept, topic, payload
        self.counted, self.went, self.repeated = counted, False, False

    def frames(self) -> Sequence[Any]:
        """OSError when they cannot be read."""
        return self.kept.segment.read(self.kept.found) if isinstance(self.kept, Place) else self.kept


class Answer(NamedTuple):
    """One of attnd's. repeated: of those that are acknowledged; again: it has lost a message; waits: why it acknowledges nothing
    more now."""
    credit: int
    acknowledged: List[int]
    repeated: List[int]
    refused: List[Tuple[int, str]]
    again: bool
    waits: str


class Lane:
    """The messages that are kept, and their way to attnd.

    settled   is called with messages of the publisher's own that were acknowledged or refused
    lost      with one of those that the disk has lost
    denied    when attnd refuses a message because of its key
    turn      that of the sender thread: when it is over, what is left is for the next one
    """

    def __init__(self, job: str, wish: Wish, settled: Callable[[List[Entry]], None], lost: Callable[[Entry], None],
                 denied: Callable[[], None], turn: Turn):
        self.wish = wish
        self._turn = turn
        self._job = job
        self._settled, self._lost, self._denied = settled, lost, denied
        self.joined = False  # attnd has answered, once
        self.refused: Dict[str, int] = {}  # by reason; replaced as a whole
        self.full = False  # the newest found no room, and nothing was acknowledged since
        self._waits = False  # attnd cannot write its history, and has acknowledged nothing since
        self.is_awaited = False  # the next message waits for room, and nothing was acknowledged since
        self._answered_at = 0.0  # or began to be waited for
        self.unacknowledged = self.spooled = 0  # messages: the publisher's own, that are counted; those in files
        self.tensors = 0  # the publisher's own messages with tensors
        self._is_shared = False  # another process has our run and rank
        self._in_doubt = 0  # messages that attnd had: ours, or another process's, should one come to light
        self.leaves_left = False  # the end came before all that others had left was acknowledged
        self._number = 0
        self._bytes = self._left_bytes = 0  # that are kept: the publisher's own; what others have left, and was looked at
        self._own: Deque[Entry] = deque()  # to be sent; before those that others have left
        self._left: Deque[Entry] = deque()
        self._sent: Dict[int, Entry] = {}  # and not acknowledged
        self._spool: Optional[Spool] = None
        self._warn = Once(job).warn
        self._socket: Optional["zmq.Socket[Any]"] = None
        self._monitor: Optional["zmq.Socket[Any]"] = None
        self.changed = False  # the sockets are others than those that were registered
        self._context: Optional["zmq.Context[Any]"] = None
        self._keys: Optional[keyring.Keys] = None
        self._endpoint: Optional[str] = None
        self._announced_at = 0.0
        self._again_at = math.inf
        self._pause_s = AGAIN_S
        self._first_credit: Optional[int] = None  # of this connection
        self._credit = 0

    # ---------------------------------------------------------------------------------- where attnd is

    def announce(self, endpoint: Optional[str], context: "zmq.Context[Any]", keys: Optional[keyring.Keys]) -> None:
        """attnd is there, and its lane at this endpoint; None: it has none, or attnd has gone."""
        if self.wish.asked is False or endpoint == self._endpoint:
            return
        self._disconnect()
        self._endpoint, self._context, self._keys = endpoint, context, keys
        self._again_at, self._pause_s = math.inf, AGAIN_S
        if endpoint is not None:
            self._announced_at = self._answered_at = time.monotonic()
            self._connect()

    @property
    def is_joining(self) -> bool:
        """Whether the first answer may come at any moment."""
        return not self.joined and self._endpoint is not None and time.monotonic() < self._announced_at + JOIN_S

    @property
    def is_announced(self) -> bool:
        """Whether attnd is there with its lane. Any thread."""
        return self._endpoint is not None

    def _connect(self) -> None:
        assert self._context is not None and self._endpoint is not None
        self._again_at = math.inf
        self._first_credit, self._credit, self.changed = None, 0, True
        # A name of its own each time: that of the connection before may be in use for a moment longer.
        name = f"inproc://attnd-lane-{next(_connections)}"
        try:
            self._socket = socket = self._context.socket(zmq.DEALER)
            for option, value in ((zmq.RCVHWM, 0), (zmq.SNDHWM, 0), (zmq.LINGER, 0), (zmq.MAXMSGSIZE, ANSWER_BYTES_MAX),
                                  (zmq.HEARTBEAT_IVL, 1000), (zmq.HEARTBEAT_TIMEOUT, 3000), (zmq.RECONNECT_IVL, NEVER_MS)):
                socket.setsockopt(option, value)
            socket.monitor(name, zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED)
            self._monitor = self._context.socket(zmq.PAIR)
            self._monitor.connect(name)
            keyring.give(socket, self._keys, self._endpoint)
            socket.connect(self._endpoint)
            socket.send(JOIN, zmq.DONTWAIT)
        except zmq.ZMQError:
            self._retry()

    def _disconnect(self) -> None:
        """Has all that was sent, and is not acknowledged, sent again."""
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(linger=0)
            self.changed = True
        if self._monitor is not None:
            self._monitor.close(linger=0)
        self._socket = self._monitor = None
        self._first_credit = None
        for entry in reversed(list(self._sent.values())):
            entry.went = True
            (self._left if entry.topic is None else self._own).appendleft(entry)
        self._sent.clear()

    def _retry(self) -> None:
        self._disconnect()
        self._again_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, AGAIN_MAX_S)

    def register(self, poller: "zmq.Poller") -> None:
        """Has its sockets polled."""
        for socket in (self._socket, self._monitor):
            if socket is not None:
                poller.register(socket, zmq.POLLIN)
        self.changed = False

    def idle_s(self) -> Optional[float]:
        """Seconds until tend() has something to do by itself; None: until a poll wakes."""
        return None if self._again_at == math.inf else max(0.0, self._again_at - time.monotonic())

    def tend(self) -> None:
        """Takes in what attnd says, and sends what it has room for. Does not block."""
        if time.monotonic() >= self._again_at:
            self._connect()
        if self._socket is None or self._monitor is None:
            return
        if not self._take_answers(self._socket) or has_message(self._monitor):
            self._retry()
        self._send()

    # ---------------------------------------------------------------------------------------- answers

    def _take_answers(self, socket: "zmq.Socket[Any]") -> bool:
        """False: one is lost, as there was no memory for it here, or for a message there. Nobody says it on this connection."""
        settled: List[Entry] = []
        taken = True
        for _ in range(ANSWERS_AT_ONCE):
            if not has_message(socket):
                break
            try:
                answer = _read_answer(socket.recv_multipart(zmq.DONTWAIT))
            except MemoryError:
                answer, taken = None, False
            if answer is not None:
                settled += self._take_answer(answer)
                if answer.again or any(reason in NO_ROOM for _, reason in answer.refused):
                    self._pause_s, taken = AGAIN_MAX_S, False
            if self._turn.is_over:
                break
        if settled:
            self.full = self.is_awaited = False
            self._answered_at = time.monotonic()
            self._settled([entry for entry in settled if entry.topic is not None])
        return taken

    def _take_answer(self, answer: Answer) -> List[Entry]:
        credit, acknowledged, repeated, refused, _, why = answer
        self._credit += credit
        if self._first_credit is None and credit > 0:
            self._first_credit = credit
            self._pause_s = AGAIN_S
            self.joined = True
            self._answered_at = time.monotonic()  # what waits for room is owed as long anew
            self._look_for_left()
        for number in repeated:
            self._heed_repeated(number)
        settled = [self._sent.pop(number) for number in acknowledged if number in self._sent]
        settled += [self._sent.pop(number) for number, reason in refused if self._is_refused(number, reason)]
        for entry in settled:
            self._let_go(entry)
        if acknowledged and self._waits:
            self._waits = False
            log.warning("job %s: attnd writes its history again: the messages that waited are acknowledged", self._job)
        elif why and not self._waits:
            self._waits = True
            log.warning("job %s: attnd cannot write its history (%s): it acknowledges nothing, and messages wait here until it "
                        "can; training goes on", self._job, why)
        return settled

    def _heed_repeated(self, number: int) -> None:
        """attnd had a message with the number of this one: another process's, unless this one may have been there before. Once
        another process has shown, all such count as its own: rather too many than one that is lost and not counted."""
        entry = self._sent.get(number)
        if entry is None or entry.topic is None or entry.repeated:
            return
        entry.repeated = True  # it counts once, however often that is said
        self._in_doubt += 1
        self._is_shared = self._is_shared or not entry.went
        if not self._is_shared:
            return
        self._count_refused("repeated", self._in_doubt)
        self._in_doubt = 0
        self._warn("repeated", "attnd has a message of another process with the same run and rank in the place of one of ours, which it "
                   "does not take. Further ones are only counted, as refused_by_reason. Remedy: a new run for each launch: "
                   "another run= or ATTND_RUN, or neither")

    def _count_refused(self, reason: str, count: int = 1) -> None:
        self.refused = {**self.refused, reason: self.refused.get(reason, 0) + count}

    def _is_refused(self, number: int, reason: str) -> bool:
        """Whether that is for good: else it stays in its file, or is sent again over the next connection."""
        entry = self._sent.get(number)
        if entry is None:
            return False
        if entry.topic is None and (reason == keyring.REFUSED or reason in NO_ROOM):
            self._leave(entry, reason)
            return False
        if reason in NO_ROOM:
            self._warn(reason, "attnd has no room for this job (%s; see %s in its config): messages are kept, and sent again until "
                       "it has; beyond reliable_bytes they are dropped and counted. Remedy: end what need not run, or a larger %s",
                       reason, NO_ROOM[reason], NO_ROOM[reason])
            return False
        self._count_refused(reason)
        if reason == keyring.REFUSED:
            self._denied()
        else:
            why = ": its window was closed already" if reason == "late" else ""
            self._warn("refused", "attnd refuses a message (reason: %s%s), which is not sent again. Further ones are only counted, "
                       "as refused_by_reason", reason, why)
        return True

    def _leave(self, refused: Entry, reason: str) -> None:
        """Leaves all that a process has left where it is: attnd does not take this message of it from us."""
        assert isinstance(refused.kept, Place) and self._spool is not None
        name, job = refused.kept.segment.name, _job_of(refused)
        if reason == keyring.REFUSED and self._keys is not None:
            why = f"its access list (keys.access) does not let the key {self._keys.public.decode()} publish that job"
        else:
            why = reason
        self._warn(f"leave {job}", "attnd refuses messages of job %s, which another process left in %s: %s. They stay there, for a "
                   "process of that job", job, self.wish.directory, why)
        for entry in [entry for entry in (*self._left, *self._sent.values()) if _is_of(entry, name)]:
            self.spooled -= 1
            self._left_bytes -= entry.nbytes
            self._sent.pop(entry.number, None)
        self._left = deque(entry for entry in self._left if not _is_of(entry, name))
        self._spool.leave(name)

    def _let_go(self, entry: Entry, lost: bool = False) -> None:
        if isinstance(entry.kept, Place):
            self.spooled -= 1
            if self._spool is not None and not (lost and entry.topic is None):  # what others left is not ours to lose
                self._spool.release(entry.kept)
        if entry.topic is not None:
            self._bytes -= entry.nbytes
            self.tensors -= entry.payload > 0
        else:
            self._left_bytes -= entry.nbytes
        self.unacknowledged -= entry.counted

    # ---------------------------------------------------------------------------------------- sending

    def _send(self) -> None:
        """Sends as much as attnd has room for; and one message, however large, when it has taken all that was sent before."""
        while self._socket is not None and self._first_credit is not None:
            queue = self._own or self._left
            if not queue:
                if self._take_left():
                    continue
                return
            entry = queue[0]
            charge = max(entry.nbytes, CHARGE_MIN)
            if charge > self._credit and self._credit < self._first_credit:
                return
            try:
                frames = entry.frames()
            except OSError as error:
                if is_passing(error):
                    self._retry()
                    return
                queue.popleft()
                self._warn("read", "the spool %s cannot be read (%s)", self.wish.directory, error)
                self._let_go(entry, lost=True)
                if entry.topic is not None:
                    self._lost(entry)
                continue
            try:
                self._socket.send_multipart([entry.number.to_bytes(8, "little"), *frames], zmq.DONTWAIT, copy=False)
            except zmq.ZMQError:
                self._retry()
                return
            queue.popleft()
            self._sent[entry.number] = entry
            self._credit -= charge
            if self._turn.is_over:
                return

    # ---------------------------------------------------------------------------------------- keeping

    def has_room(self, nbytes: int) -> bool:
        """Whether `nbytes` more bytes may be kept."""
        return self._bytes + nbytes <= self.wish.bound

    def must_wait(self, nbytes: int) -> bool:
        """Whether a message of `nbytes` bytes has no room, but will soon: attnd is there and answers."""
        self.is_awaited = (self._endpoint is not None and not self.has_room(nbytes) and nbytes <= self.wish.bound and
                           time.monotonic() < self._answered_at + WAIT_S)
        return self.is_awaited

    def keep(self, topic: bytes, header: bytes, frames: Sequence[Any], is_event: bool, counted: bool) -> bool:
        """Keeps a message until it is acknowledged. False: there is no room for it."""
        payload = sum(frame.nbytes for frame in frames)
        nbytes = len(topic) + len(header) + payload
        if nbytes > self.wish.bound + (EVENT_BYTES if is_event else 0):
            self._warn("large", "a message has %d bytes, which is more than may ever wait for attnd (reliable_bytes, %d): it is "
                       "dropped and counted, and so is all that follows like it. Remedy: a larger reliable_bytes, fewer query rows "
                       "(rows=) or samples (samples=), or tensors without acknowledgement (reliable=None)", nbytes,
                       self.wish.bound)
            return False
        if not self.has_room(nbytes - EVENT_BYTES if is_event else nbytes):
            self.full = True
            self._warn("full", "attnd has not acknowledged %d bytes, which is as much as may wait for it (reliable_bytes): what "
                       "follows is dropped and counted until it has. Remedy: a larger reliable_bytes, fewer query rows (rows=) or "
                       "samples (samples=), or tensors without acknowledgement (reliable=None)", self._bytes)
            return False
        self._number += 1
        if not self._bytes:
            self._answered_at = time.monotonic()
        kept = self._written((topic, header, *frames))
        self._own.append(Entry(self._number, nbytes, kept, topic, payload, counted))
        self._bytes += nbytes
        self.unacknowledged += counted
        self.tensors += payload > 0
        self.spooled += isinstance(kept, Place)
        return True

    def _written(self, frames: Tuple[Any, ...]) -> Union[Place, Tuple[Any, ...]]:
        """Where they are in the spool; themselves when there is none, or they cannot be written."""
        try:
            spool = self._open_spool()
            return frames if spool is None else spool.append(frames)
        except OSError as error:
            self._warn("write", "the spool %s cannot be written (%s): what cannot is kept in memory, and lost if this process is "
                       "killed", self.wish.directory, error.strerror or error)
        return frames

    def _open_spool(self) -> Optional[Spool]:
        """None: there is none, or it cannot be used."""
        if self._spool is None and self.wish.directory is not None:
            try:
                self._spool = Spool(self.wish.directory)
            except OSError as error:
                self._warn("open", "the spool %s cannot be used (%s): messages are kept in memory, and lost if this process is "
                           "killed", self.wish.directory, error.strerror or error)
        return self._spool

    def _look_for_left(self) -> None:
        """Takes over what processes that were killed have left."""
        try:
            spool = self._open_spool()
            if spool is not None:
                spool.look()
        except OSError as error:
            self._warn("look", "the spool %s cannot be read (%s)", self.wish.directory, error.strerror or error)

    def _take_left(self) -> bool:
        """Has the next file of those sent; whether there may be more."""
        if self._spool is None or self._left_bytes >= LEFT_BYTES:
            return False
        try:
            orphan = self._spool.next_orphan()
        except OSError as error:
            self._warn("look", "the spool %s cannot be read (%s)", self.wish.directory, error.strerror or error)
            return False
        except Unreadable as error:
            log.warning("job %s: %s: left where it is", self._job, error)
            return True
        if orphan is None:
            return False
        if orphan.flaw:
            log.warning("job %s: %s, which a process left behind, is not whole: %s; the %d messages before that are sent",
                        self._job, orphan.segment.path, orphan.flaw, len(orphan.messages))
        for found in orphan.messages:
            self._number += 1
            self._left.append(Entry(self._number, sum(found.sizes), Place(orphan.segment, found), None, 0, False))
            self._left_bytes += sum(found.sizes)
        self.spooled += len(orphan.messages)
        if orphan.messages:
            job = _job_of(self._left[-1])
            self._warn(f"take {job}", "messages of job %s, which another process left in %s, are sent now", job, self.wish.directory)
        return True

    # ------------------------------------------------------------------------------------------- ends

    @property
    def is_dispensable(self) -> bool:
        """Whether the end of the process costs no tensor that is kept."""
        return not any(entry.payload and not isinstance(entry.kept, Place) for entry in (*self._own, *self._sent.values()))

    def close(self) -> List[Entry]:
        """Disconnects. Returns what was kept in memory, and is no more; the rest stays in the spool."""
        self._disconnect()
        self._endpoint, self._again_at = None, math.inf
        in_memory = [entry for entry in self._own if not isinstance(entry.kept, Place)]
        self.unacknowledged -= sum(entry.counted for entry in in_memory)
        if self._spool is not None:
            self.leaves_left = bool(self._left) or self._spool.has_orphans
            self._spool.close()
            self._spool = None
        self._own.clear()
        self._left.clear()
        return in_memory

    def forget(self) -> None:
        """In a forked child."""
        if self._spool is not None:
            self._spool.forget()


def _is_of(entry: Entry, name: str) -> bool:
    """Whether the process with this name in the spool has left it."""
    return entry.topic is None and isinstance(entry.kept, Place) and entry.kept.segment.name == name


def _job_of(entry: Entry) -> str:
    """As its topic says it."""
    try:
        return bytes(entry.frames()[0]).decode().split("/")[1]
    except (OSError, UnicodeDecodeError, IndexError):
        return "?"


def _read_answer(frames: Sequence[bytes]) -> Optional[Answer]:
    """None: it is no answer."""
    try:
        answer = msgpack.unpackb(frames[0], raw=False) if len(frames) == 1 else None
        if not isinstance(answer, dict):
            return None
        credit, refused = answer.get("credit", 0), [(number, printable(str(reason)[:REASON_MAX])) for number, reason in answer.get("refused", ())]
        acknowledged, repeated, why = list(answer.get("ack", ())), list(answer.get("repeated", ())), answer.get("waits", "")
        numbers = (credit, *acknowledged, *repeated, *(number for number, _ in refused))
        if all(type(number) is int for number in numbers) and credit >= 0:
            return Answer(credit, acknowledged, repeated, refused, answer.get("again") is True,
                          printable(why[:REASON_MAX]) if isinstance(why, str) else "")
    except MemoryError:
        raise
    except Exception:  # whoever sends such a thing is not attnd
        pass
    return None
