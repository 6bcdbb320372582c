# SPDX-License-Identifier: MIT
"""spool: files of messages that attnd has not acknowledged yet, in a directory that several processes may share.

A process has a name of 16 random digits in it, and

    NAME.lock           which it has locked (flock) as long as it lives
    NAME-00000001.rec   its messages, in segments that are appended to: each is a recording (proto/recording.h)

A segment goes when all of its messages are acknowledged. Whose lock is free was killed: another process takes its files
over, sends what is in them, and deletes them; what attnd does not take of this process stays there. However many there are, few files are open: the locks of NAMES_MAX others, our
own, and the segment that is appended to. Nothing is synced to the disk: what was written outlives the process, not
the machine. One thread.
"""
from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import time
import zlib
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

MAGIC = b"\x89attnd\r\n"
VERSION = 1
SEGMENT_BYTES = 4 << 20  # then another one begins
MESSAGE_MAX = 1 << 30  # bytes; a file is read as a whole, and what is larger than its last message can make it is not ours
FRAMES_MAX = 64
NAMES_MAX = 16  # of others, at a time: each is a descriptor of the trainer
_NAME_DIGITS = 16
_FILE = struct.Struct("<8sIIQI")  # and a CRC-32
_RECORD = struct.Struct("<IQQII")  # after its CRC-32
HEADER_BYTES = _FILE.size + 4
RECORD_BYTES = _RECORD.size + 4
_SEGMENT = re.compile(r"([0-9a-f]{16})-([0-9]{8})\.rec\Z")
_LOCK = re.compile(r"([0-9a-f]{16})\.lock\Z")
OF_OTHERS = "it belongs to another user, or others can write to it: chmod 700 it, or name a directory of your own"


class Unreadable(Exception):
    """A file that is no segment, or one of a later version; the text says which."""


class Found(NamedTuple):
    """A message in a segment: where its frames begin, and their sizes."""
    at: int
    sizes: Tuple[int, ...]


class Place(NamedTuple):
    """A message in a file that is open."""
    segment: "Segment"
    found: Found


class Segment:
    """A file, open (`fd`) while it is appended to. `held`: how many of its messages are not acknowledged."""

    def __init__(self, path: str, fd: int, size: int):
        self.path, self.fd, self.size = path, fd, size
        self.held = 0

    @property
    def name(self) -> str:
        """The name of its owner."""
        return _name_of(self.path)

    def read(self, found: Found) -> List[bytes]:
        """The frames; OSError."""
        fd = self.fd if self.fd >= 0 else _opened(self.path)
        frames: List[bytes] = []
        try:
            with _memory_as_error():
                data, at = _read(fd, found.at, sum(found.sizes)), 0
                for size in found.sizes:
                    frames.append(data[at:at + size])
                    at += size
        finally:
            if fd != self.fd:
                os.close(fd)
        return frames

    def delete(self) -> None:
        """The file is gone then, whatever fails."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.forget()

    def forget(self) -> None:
        """Closes it, and leaves it where it is."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)  # it may be a pipe


def is_of_others(status: os.stat_result) -> bool:
    """Whether others may have put something into this file or directory, which would be sent in our name."""
    return status.st_uid != os.geteuid() or bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def _size_of(fd: int) -> int:
    """Unreadable when nobody has written such a file: a stranger may have put it there."""
    status = os.fstat(fd)
    if is_of_others(status):
        raise Unreadable("it belongs to another user, or others can write to it")
    if not stat.S_ISREG(status.st_mode) or status.st_size > SEGMENT_BYTES + 8 * FRAMES_MAX + RECORD_BYTES + MESSAGE_MAX:
        raise Unreadable("no file of attnd's spool")
    return status.st_size


def _read(fd: int, at: int, count: int) -> bytes:
    pieces = []
    while count > 0:
        piece = os.pread(fd, count, at)
        if not piece:
            raise OSError(0, "a file of the spool became shorter")
        pieces.append(piece)
        at, count = at + len(piece), count - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


# ------------------------------------------------------------------------------------------------ bytes

def file_header(now_ns: int) -> bytes:
    """The bytes that a segment begins with."""
    fields = _FILE.pack(MAGIC, VERSION, 0, now_ns, 0)
    return fields + struct.pack("<I", zlib.crc32(fields))


def record_head(frames: Sequence[Any], now_ns: int) -> bytes:
    """The bytes before the frames of a message."""
    sizes = struct.pack(f"<{len(frames)}Q", *(memoryview(frame).nbytes for frame in frames))
    crc, stored = zlib.crc32(sizes), len(sizes)
    for frame in frames:
        view = memoryview(frame)
        crc, stored = zlib.crc32(view, crc), stored + view.nbytes
    fields = _RECORD.pack(crc, stored, now_ns, 0, len(frames))
    return struct.pack("<I", zlib.crc32(fields)) + fields + sizes


def messages_in(data: bytes) -> Tuple[List[Found], str]:
    """The messages of a segment, and why it ends before its end, as a clause; "": it does not. Unreadable."""
    if len(data) < HEADER_BYTES:
        return [], "its begin was not written" if data else ""
    magic, version = struct.unpack_from("<8sI", data)
    if magic != MAGIC:
        raise Unreadable("no file of attnd's spool")
    if version != VERSION:
        raise Unreadable("of a later version of attnd")
    if zlib.crc32(data[:_FILE.size]) != int.from_bytes(data[_FILE.size:HEADER_BYTES], "little"):
        return [], "its begin is damaged"
    found: List[Found] = []
    view, at = memoryview(data), HEADER_BYTES
    while at < len(data):
        if len(data) - at < RECORD_BYTES:
            return found, "its last message was not written whole"
        crc, stored, _, flags, count = _RECORD.unpack_from(data, at + 4)
        if zlib.crc32(view[at + 4:at + RECORD_BYTES]) != int.from_bytes(data[at:at + 4], "little") or flags or not (
                1 < count <= FRAMES_MAX) or stored < 8 * count:
            return found, f"{len(data) - at} bytes of it are damaged"
        begin = at + RECORD_BYTES
        if stored > len(data) - begin:
            return found, "its last message was not written whole"
        sizes = struct.unpack_from(f"<{count}Q", data, begin)
        if sum(sizes) != stored - 8 * count or zlib.crc32(view[begin:begin + stored]) != crc:
            return found, f"{len(data) - at} bytes of it are damaged"
        found.append(Found(begin + 8 * count, sizes))
        at = begin + stored
    return found, ""


# ------------------------------------------------------------------------------------------------ files

class Orphan(NamedTuple):
    """A segment that another process has left: the file, and its messages. `flaw`: what could not be read, as a clause."""
    segment: Segment
    messages: List[Found]
    flaw: str


class Spool:
    """The files of this process, and those that it takes over. OSError when the directory cannot be used, or is not ours."""

    def __init__(self, directory: str, segment_bytes: int = SEGMENT_BYTES, now_ns: Callable[[], int] = time.time_ns):
        self.directory = os.path.abspath(directory)
        self._segment_bytes = segment_bytes
        self._now_ns = now_ns
        self._number = 0
        self._open: Set[Segment] = set()
        self._current: Optional[Segment] = None
        self._locks: Dict[str, int] = {}
        self._left: List[str] = []  # segments of others that are ours now, the next one last
        self._passed: Set[str] = set()  # names that are not taken again: one cannot be read, or they are not ours to send
        self._more = False  # names that were not looked at
        os.makedirs(directory, 0o700, exist_ok=True)
        if is_of_others(os.stat(directory)):
            raise OSError(errno.EPERM, OF_OTHERS)
        self._name = os.urandom(8).hex()
        if not self._take(self._name):
            raise OSError(0, "a lock is held by nobody")

    def _take(self, name: str) -> bool:
        """Locks a name; whether that worked."""
        path = os.path.join(self.directory, f"{name}.lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_ino == os.stat(path).st_ino:  # else its owner has just removed it
                self._locks[name] = fd
                return True
        os.close(fd)
        return False

    def _let_go(self, name: str) -> None:
        """Gives up a name without files that can be read."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.directory, f"{name}.lock"))
        os.close(self._locks.pop(name))

    def _let_go_of_empty(self, name: str) -> None:
        """As _let_go(), if it is another's and that was the last of its files."""
        if name != self._name and not any(f"/{name}-" in path for path in (*self._left, *(s.path for s in self._open))):
            self._let_go(name)

    # -------------------------------------------------------------------------------------------- writing

    def append(self, frames: Sequence[Any]) -> Place:
        """Writes a message behind the others. OSError: it is as if nothing had been written."""
        sizes = tuple(memoryview(frame).nbytes for frame in frames)
        if sum(sizes) > MESSAGE_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        segment = self._current if self._current is not None else self._begin()
        now_ns = self._now_ns()
        head = record_head(frames, now_ns)
        try:
            os.lseek(segment.fd, segment.size, os.SEEK_SET)
            _write(segment.fd, [head, *frames])
        except OSError:
            self._cut(segment)
            raise
        place = Place(segment, Found(segment.size + len(head), sizes))
        segment.size += len(head) + sum(sizes)
        segment.held += 1
        if segment.size >= self._segment_bytes:
            self._current = None
            segment.forget()
        return place

    def _begin(self) -> Segment:
        self._number += 1
        path = os.path.join(self.directory, f"{self._name}-{self._number:08d}.rec")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        segment = Segment(path, fd, 0)
        try:
            _write(fd, [file_header(self._now_ns())])
        except OSError:
            segment.delete()
            raise
        segment.size = HEADER_BYTES
        self._open.add(segment)
        self._current = segment
        return segment

    def _cut(self, segment: Segment) -> None:
        """Takes away what was written of a message. If that fails, the segment has ended."""
        try:
            os.ftruncate(segment.fd, segment.size)
        except OSError:
            self._current = None
            segment.forget()
            self._settle(segment)

    def leave(self, name: str) -> None:
        """Leaves all files of another's name where they are, to whoever comes next."""
        self._passed.add(name)
        self._left = [path for path in self._left if _name_of(path) != name]
        for segment in [segment for segment in self._open if segment.name == name]:
            self._open.discard(segment)
            segment.forget()
        os.close(self._locks.pop(name))

    def release(self, place: Place) -> None:
        """A message is acknowledged."""
        place.segment.held -= 1
        self._settle(place.segment)

    def _settle(self, segment: Segment) -> None:
        if segment.held or segment not in self._open:
            return
        if segment is self._current:  # is used again
            try:
                os.ftruncate(segment.fd, HEADER_BYTES)
                segment.size = HEADER_BYTES
                return
            except OSError:
                self._current = None
        self._open.discard(segment)
        segment.delete()
        self._let_go_of_empty(segment.name)

    # ----------------------------------------------------------------------------------------- the others'

    def look(self) -> None:
        """Takes over what processes that have ended left in the directory, of NAMES_MAX of them at a time: next_orphan() looks
        again. OSError."""
        self._more = False
        names: Set[str] = set()
        for entry in os.listdir(self.directory):
            match = _SEGMENT.match(entry) or _LOCK.match(entry)
            if match is not None:
                names.add(match[1])
        for name in sorted(names):
            if name in self._locks or name in self._passed:
                continue
            if len(self._locks) > NAMES_MAX:
                self._more = True
                return
            try:
                taken = self._take(name)
            except OSError as error:  # no file of ours
                if is_passing(error):
                    raise
                continue
            if taken:  # until then its owner may have changed what is there
                paths = [os.path.join(self.directory, entry) for entry in sorted(os.listdir(self.directory))
                         if entry.startswith(f"{name}-") and _SEGMENT.match(entry)]
                self._left[:0] = reversed(paths)
                if not paths:
                    self._let_go(name)

    @property
    def has_orphans(self) -> bool:
        """Whether next_orphan() has some left."""
        return bool(self._left) or self._more

    def next_orphan(self) -> Optional[Orphan]:
        """The next segment that was taken over, as far as it can be read; one without messages is deleted. None: there is
        none. Unreadable: this one is left where it is. OSError: there is none for now."""
        if not self._left and self._more and len(self._locks) <= NAMES_MAX // 2:
            self.look()
        if not self._left:
            return None
        path = self._left.pop()
        try:
            fd = _opened(path)
            try:
                segment = Segment(path, -1, _size_of(fd))
                with _memory_as_error():
                    messages, flaw = messages_in(_read(fd, 0, segment.size))
            finally:
                os.close(fd)
        except (Unreadable, OSError) as error:
            if is_passing(error):
                self._left.append(path)
                raise
            self._passed.add(_name_of(path))
            self._let_go_of_empty(_name_of(path))
            raise Unreadable(f"{path}: {error}") from None
        segment.held = len(messages)
        self._open.add(segment)
        self._settle(segment)
        return Orphan(segment, messages, flaw)

    # ----------------------------------------------------------------------------------------------- ends

    def close(self) -> None:
        """Leaves what is not acknowledged to whoever comes next."""
        for segment in list(self._open):
            if segment.held:
                segment.forget()
            else:
                segment.delete()
        self._open.clear()
        self._current = None
        try:
            left = {entry[:_NAME_DIGITS] for entry in os.listdir(self.directory) if _SEGMENT.match(entry)}
        except OSError:
            left = set(self._locks)
        for name in list(self._locks):
            if name in left:
                os.close(self._locks.pop(name))
            else:
                self._let_go(name)

    def forget(self) -> None:
        """In a forked child: the files are the parent's, and so are the locks, which would outlive it here."""
        for segment in self._open:
            segment.forget()
        for fd in self._locks.values():
            os.close(fd)
        self._open.clear()
        self._locks.clear()


def is_passing(error: Exception) -> bool:
    """Whether it says nothing about the file: the process has too much open, or the machine; or there is no memory."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@contextlib.contextmanager
def _memory_as_error() -> Iterator[None]:
    """That there is none, as the kernel says it."""
    try:
        yield
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from None


def _name_of(path: str) -> str:
    return os.path.basename(path)[:_NAME_DIGITS]


def _write(fd: int, buffers: Sequence[Any]) -> None:
    rest = [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
    while rest:
        count = os.writev(fd, rest)
        while rest and count >= rest[0].nbytes:
            count -= rest.pop(0).nbytes
        if rest and count:
            rest[0] = rest[0][count:]
