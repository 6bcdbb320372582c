# SPDX-License-Identifier: MIT
"""address: one text that names an attnd and its sockets, and where to look when there is none.

An address is a directory ("/run/user/1000/attnd"), in which the Unix sockets `ingest`, `publish`, `control`,
`tap` and `reliable` lie, or "tcp://host:port", from which the other ports follow: publish is port + 1, control + 2,
tap + 3, reliable + 4. The same rule as proto/address.h, by the same table of tests.
"""
from __future__ import annotations

import errno
import os
import re
import socket as unix
import stat
from typing import Any, List, Optional

SOCKETS = ("ingest", "publish", "control", "tap", "reliable")
SERVICE = "/run/attnd"
NOBODY = "inproc://attnd-nobody"  # an endpoint at which nobody will ever be
_PATH_MAX = 107  # of a Unix socket
_DIRECTORY_MAX = _PATH_MAX - len("/reliable")  # for all sockets, so that a directory works as a whole or not at all
_PORT_MAX = 65535 - len(SOCKETS) + 1
_TCP = re.compile(r"(tcp://.+):([0-9]+)\Z", re.DOTALL)


class AddressError(ValueError):
    """It names no daemon; the text says what to write instead."""


def endpoint(address: Any, socket: str) -> str:
    """The ZeroMQ endpoint of one of SOCKETS: "ipc:///run/attnd/ingest", "tcp://host:5572"; AddressError."""
    try:
        text = os.fspath(address)
    except TypeError:
        text = address
    if not isinstance(text, str):
        raise AddressError(f"address {address!r}: must be a text")
    if text.startswith("/"):
        directory = text.rstrip("/") or "/"
        if len(os.fsencode(directory)) > _DIRECTORY_MAX:
            raise AddressError(f"'{text[:200]}': too long: a directory of sockets has at most {_DIRECTORY_MAX} bytes")
        _need_unix_sockets()
        return f"ipc://{directory}/{socket}"
    if text.startswith("tcp://"):
        match = _TCP.match(text)
        port = int(match[2]) if match else 0
        if match is None or not 1 <= port <= _PORT_MAX:
            raise AddressError(f"'{text}': not tcp://host:port with a port from 1 to {_PORT_MAX}")
        return f"{match[1]}:{port + SOCKETS.index(socket)}"
    if "://" in text:
        raise AddressError(f"'{text}': an address is a directory or tcp://host:port (one socket is named by an endpoint)")
    if ":" in text:
        raise AddressError(f"'{text}': write tcp://{text}")
    raise AddressError(f"'{text}': a directory is written in full, from /")


def is_here(endpoint_found: str) -> bool:
    """Whether it is reached without a network."""
    return endpoint_found.startswith("ipc://") or re.match(r"tcp://(127\.|localhost:|\[::1\]:)", endpoint_found) is not None


def _need_unix_sockets() -> None:
    if not hasattr(unix, "AF_UNIX"):
        raise AddressError("there are no Unix sockets here: name address=tcp://host:port")


def named(socket: str, endpoint_given: Optional[str], address: Any) -> Optional[str]:
    """The endpoint that the caller or $ATTND_ADDRESS names; None: nobody is named, see find(). AddressError."""
    if endpoint_given is not None and address is not None:
        raise AddressError("endpoint and address: give one of them")
    if endpoint_given is not None:
        return endpoint_given
    address = address or os.environ.get("ATTND_ADDRESS")
    if address:
        return endpoint(address, socket)
    _need_unix_sockets()
    return None


def memory_path(ingest: str) -> Optional[str]:
    """The socket beside the one of an endpoint, ipc://DIRECTORY/ingest, over which memory is lent; beside one of another
    name it is NAME.memory. None: there is none."""
    head, _, name = ingest.rpartition("/")
    path = (head + "/memory" if name == "ingest" else ingest + ".memory")[len("ipc://"):]
    return path if ingest.startswith("ipc:///") and name and len(os.fsencode(path)) <= _PATH_MAX else None


# ------------------------------------------------------------------------------------------- looking

def places(uid: int, runtime_dir: Optional[str]) -> List[str]:
    """Directories in which an attnd of this user, or the service, may listen, in the order of looking. cron, sbatch and
    `docker exec` lack XDG_RUNTIME_DIR."""
    *first, last = own_places(uid, runtime_dir)
    return list(dict.fromkeys((*first, f"/run/user/{uid}/attnd", last, SERVICE)))


def own_places(uid: int, runtime_dir: Optional[str]) -> List[str]:
    """Directories that an attnd of this user makes when nobody names another: the first of them that can be made."""
    return [*([f"{runtime_dir}/attnd"] if runtime_dir and runtime_dir.startswith("/") else []), f"/tmp/attnd-{uid}"]


def distrust(directory: str, uid: int) -> Optional[str]:
    """Why sockets there may not be believed to be attnd's: "" when there is no such directory, None when they may.

    The directory is no link, `uid` or root owns it, and nobody else can write to it. /run/attnd may have any owner:
    only root can have made it."""
    try:
        status = os.lstat(directory)
    except OSError as error:
        return "" if error.errno == errno.ENOENT else f"{directory}: {error.strerror}"
    is_service = directory == SERVICE
    if not stat.S_ISDIR(status.st_mode):
        return f"{directory}: not a directory"
    if not is_service and status.st_uid not in (uid, 0):
        return f"{directory}: belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWOTH if is_service else stat.S_IWGRP | stat.S_IWOTH):
        return f"{directory}: others can write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def find(socket: str) -> Optional[str]:
    """The endpoint in the first place that is trusted and where this socket accepts a connection; None: nobody is there.
    Does not block; where there is no such file, a place costs about a microsecond."""
    uid = os.geteuid()
    for directory in places(uid, os.environ.get("XDG_RUNTIME_DIR")):
        path = f"{directory}/{socket}"
        if os.access(path, os.F_OK) and distrust(directory, uid) is None and knock(directory, socket) is None:
            return f"ipc://{path}"
    return None


def why_nobody(socket: str) -> str:
    """A sentence that names the places in which find() found nobody."""
    uid = os.geteuid()
    tried = places(uid, os.environ.get("XDG_RUNTIME_DIR"))
    reasons = [distrust(directory, uid) or knock(directory, socket) for directory in tried]
    return "; ".join([f"no attnd answers in {', '.join(tried)}", *(reason for reason in reasons if reason)])


def why_not_there(socket: str, endpoint: str) -> Optional[str]:
    """A sentence when nobody listens at this endpoint, which is a Unix socket; else None. Does not block."""
    directory, _, name = endpoint[len("ipc://"):].rpartition("/")
    if not endpoint.startswith("ipc:///") or knock(directory, name) != "":
        return None
    if any(knock(directory, other) is None for other in SOCKETS):
        return (f"attnd is in {directory}, but its {socket} socket is elsewhere: name it by its endpoint, or leave "
                f"{socket}.endpoint out of attnd's config")
    return (f"no attnd listens at {directory}/{name}: is it running, and with this address? Its log says where its sockets "
            "are")


def knock(directory: str, socket: str) -> Optional[str]:
    """Why nobody is there: "" when nobody listens, None when somebody does. Does not block. The connection is closed at
    once, which ZeroMQ takes for a peer that changed its mind."""
    path = f"{directory}/{socket}"
    if len(os.fsencode(directory)) > _DIRECTORY_MAX:
        return f"'{directory[:200]}': too long: a directory of sockets has at most {_DIRECTORY_MAX} bytes"
    try:
        with unix.socket(unix.AF_UNIX, unix.SOCK_STREAM) as knock:
            knock.setblocking(False)
            error = knock.connect_ex(path)
    except OSError as failed:  # no descriptor is left: the next look may find one
        return f"{directory}: {failed.strerror}"
    if error in (errno.ENOENT, errno.ECONNREFUSED):
        return ""
    return None if error in (0, errno.EAGAIN) else f"{directory}: {os.strerror(error)}"
