# SPDX-License-Identifier: MIT
"""keys: comes to an attnd on TCP with the keys of this client, and says why it is not let in.

ATTND_KEY is the file of the client's secret key (attnctl key new), or that key itself, ATTND_SERVER_KEY attnd's public
one. The same rules and sentences as proto/key.h and clients/c/src/keys.h.
"""
from __future__ import annotations

import contextlib
import os
import stat
import struct
import time
from typing import Any, List, NamedTuple, Optional

import zmq
from zmq.utils import z85

from ..base.address import AddressError, endpoint as address_of_socket
from . import listener

LENGTH = 40
TRY_S = 1.0
SPARE = 16  # descriptors
_TITLE = "# A secret key of attnd"  # how the file of one begins
_KINDS = {"ingest": zmq.PUB, "publish": zmq.SUB, "control": zmq.DEALER, "tap": zmq.SUB, "reliable": zmq.DEALER}
_SUCCEEDED, _NO_DETAIL, _AUTH, _CLOSED = 0x1000, 0x0800, 0x4000, 0x0080  # events of a monitor
REFUSED = "key"  # the reason of a message whose key may not publish its job


class Keys(NamedTuple):
    secret: bytes
    public: bytes
    server: bytes


def of_environment() -> Optional[Keys]:
    """The client's keys; None: it has none. AddressError when they are none, or only one is set."""
    own, server = os.environ.get("ATTND_KEY", ""), os.environ.get("ATTND_SERVER_KEY", "")
    if not own and not server:
        return None
    if not server:
        raise AddressError("ATTND_SERVER_KEY: not set; it is attnd's public key, beside ATTND_KEY")
    if not own:
        raise AddressError("ATTND_KEY: not set; it is the file of this client's key, beside ATTND_SERVER_KEY")
    if not is_text(server):
        raise AddressError("ATTND_SERVER_KEY: not a public key of 40 characters")
    secret = (own if is_text(own) and not os.path.exists(own) else read(own)).encode()
    return Keys(secret, zmq.curve_public(secret), server.encode())


def is_text(text: str) -> bool:
    """Whether it is a key: 40 characters of Z85 that stand for 32 bytes."""
    try:
        return len(text) == LENGTH and len(z85.decode(text)) == 32
    except (KeyError, ValueError, struct.error):
        return False


def read(path: str) -> str:
    """The secret key in a file that nobody else can read; AddressError."""
    try:
        with open(path, "rb") as file:
            status, text = os.fstat(file.fileno()), file.read(4096)
    except OSError as error:
        raise AddressError(f"{path}: {error.strerror}") from None
    handed_over = status.st_uid == 0 and os.geteuid() != 0  # by a service manager, to a group
    if status.st_mode & (stat.S_IRWXO | (stat.S_IWGRP if handed_over else stat.S_IRWXG)):
        raise AddressError(f"{path}: others can read it, so it is no secret (chmod 600; better, make a new one)")
    lines = [line for line in text.decode("ascii", "replace").splitlines() if line and not line.startswith("#")]
    if len(lines) > 1:
        raise AddressError(f"{path}: has more than one line that is no comment: a secret key is one, of 40 characters")
    if not lines or not is_text(lines[0]):
        raise AddressError(f"{path}: has no line with a secret key of 40 characters (attnctl key new makes such a file)")
    if not text.startswith(_TITLE.encode()):
        raise AddressError(f"{path}: may be a public key: a file of a secret one begins with '{_TITLE}' (attnctl key new makes such "
                           "a file)")
    return lines[0]


def give(socket: "zmq.Socket[Any]", keys: Optional[Keys], endpoint: str) -> None:
    """Before it connects to the endpoint: over TCP it comes with the keys."""
    if keys is not None and endpoint.startswith("tcp://"):
        socket.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)


def denied(job: str, endpoint: Optional[str], keys: Keys) -> str:
    """Says that attnd lets the key in, but not as a publisher of this job, and what mends it."""
    public = keys.public.decode()
    return (f"attnd at {endpoint} refuses the messages of job {job}: its access list (keys.access) does not let the key {public} "
            f"publish this job. Remedy: the line '{public}  publish  {job}' in that list, and SIGHUP for attnd")


def refusal_of(job: str, keys: Keys) -> bytes:
    """The prefix that attnd subscribes to when it refuses the messages of this job that come with these keys."""
    return b"refused/" + keys.public + b"/" + job.encode("ascii")


def wrong(which: str, endpoint: Optional[str], keys: Optional[Keys]) -> Optional[str]:
    """Tries the keys at one of attnd's sockets, for a second at most: why it does not let this client in, as a sentence;
    "" when it does; None when that is not known."""
    mechanism = None if endpoint is None else listener.mechanism(endpoint)
    if mechanism == "NULL" and keys is not None:
        return f"attnd at {endpoint} has no keys: unset ATTND_KEY and ATTND_SERVER_KEY"
    if mechanism != "CURVE":
        return None
    if keys is None:
        return (f"attnd at {endpoint} asks for keys: set ATTND_KEY, the file of this client's, and ATTND_SERVER_KEY, attnd's "
                "public one")
    event, is_listed = _shake_hands(which, str(endpoint), keys), False
    if event == _AUTH and which == "ingest":  # attnd's control socket, which every listed key may use, may be where its address has it
        with contextlib.suppress(AddressError):
            is_listed = _shake_hands("control", address_of_socket(endpoint, "control"), keys) == _SUCCEEDED
    if is_listed:
        return (f"attnd at {endpoint} does not let this client publish: by keys.access its public key {keys.public.decode()} has "
                "no role publish. Remedy: a line with that role for it, and SIGHUP for attnd")
    if event == _AUTH:
        role = {"control": "", "ingest": " (publish)", "reliable": " (publish)"}.get(which, " (read, with the pattern *)")
        return (f"attnd at {endpoint} does not let this client in: keys.access has no line for its public key "
                f"{keys.public.decode()} with a role for the {which} socket{role}")
    if event == _NO_DETAIL:
        return (f"attnd at {endpoint} has another key than ATTND_SERVER_KEY. Remedy: the public half of the key that attnd has now "
                "(attnctl key show FILE, of its keys.server)")
    return "" if event == _SUCCEEDED else None


def new_context() -> "zmq.Context[Any]":
    """OSError when fewer descriptors are left than libzmq's threads and sockets need."""
    spare: List[int] = []
    try:
        while len(spare) < SPARE:
            spare.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for file in spare:
            os.close(file)
    return zmq.Context()


def _shake_hands(which: str, endpoint: str, keys: Keys) -> int:
    """The event that ends a handshake; 0 when there was none. One that says no more than that the peer hung up counts only
    if the next ones, as ZeroMQ tries again, say no more."""
    last = 0
    try:
        context = new_context()
    except OSError:
        return last
    try:
        socket = context.socket(_KINDS[which])
        socket.setsockopt(zmq.LINGER, 0)
        monitor = socket.get_monitor_socket(_SUCCEEDED | _AUTH | _NO_DETAIL | _CLOSED)
        give(socket, keys, endpoint)
        socket.connect(endpoint)
        deadline = time.monotonic() + TRY_S
        while monitor.poll(max(0, int(1000 * (deadline - time.monotonic())))):
            last, _ = struct.unpack("=HI", monitor.recv_multipart()[0])
            if last != _NO_DETAIL:
                break
    except zmq.ZMQError:
        pass
    finally:
        context.destroy(linger=0)
    return last
