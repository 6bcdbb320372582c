# SPDX-License-Identifier: MIT
"""listener: who listens where attnd was looked for, when nothing comes from there.

ZeroMQ connects again and again to whatever listens at a port, and never says what it is. So the port is asked: a ZMTP
peer names the type of its socket when it is greeted, which tells attnd's sockets apart, and a server of HTTP
answers a request. The same questions and sentences as clients/c/src/listener.h.
"""
from __future__ import annotations

import contextlib
import os
import re
import socket as unix
import stat
import threading
from typing import Any, List, Optional

from ..base.address import SOCKETS

CONNECT_S, ANSWER_S = 0.5, 0.3  # of a local network; what takes longer is not known
WAIT_S = 2.0  # for all questions, and for the name of a host
_TYPES = {"ingest": "SUB", "publish": "XPUB", "control": "ROUTER", "tap": "XPUB", "reliable": "ROUTER"}
_GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(48)
_READY = re.compile(rb"\xff.{8}\x7f.{54}.{2,9}\x05READY.*?\x0bSocket-Type\0\0\0.([A-Z]+)", re.DOTALL)
_REQUEST = b"GET /api/v1/ HTTP/1.0\r\nHost: localhost\r\n\r\n"
_PAGE = b'{"error":{"code":'  # attnd's answer to it, whoever asks


def wrong(which: str, endpoint: Optional[str], address: Any) -> Optional[str]:
    """Says what is wrong with the name of one of attnd's sockets, and what to name instead, as a sentence; None: nothing,
    or nobody listens there. Waits for answers, 2 s at most."""
    found: List[Optional[str]] = []

    def look() -> None:
        found.append(_wrong_endpoint(which, endpoint) if endpoint is not None else _wrong_address(which, os.fspath(address)))

    thread = threading.Thread(target=look, name="attnd-listener", daemon=True)
    thread.start()
    thread.join(WAIT_S)
    return found[0] if found else None


def _wrong_endpoint(which: str, endpoint: str) -> Optional[str]:
    found = ask(endpoint)
    if found in (None, _TYPES[which]):
        return None
    theirs = " or ".join(name for name, kind in _TYPES.items() if kind == found)
    if not theirs:
        return f"{endpoint} is {_described(str(found))}"
    return f"{endpoint} is attnd's {theirs} socket, by its type, but the {which} socket is wanted: name attnd by its address"


def _wrong_address(which: str, address: str) -> Optional[str]:
    if not address.startswith("tcp://"):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.stat(address).st_mode):
                return f"{address} is one socket: the address is its directory, {os.path.dirname(address)}"
        return None
    host, _, digits = address.rpartition(":")
    port = int(digits)
    found = ask(address)
    if found == _TYPES["ingest"]:
        own = f"{host}:{port + SOCKETS.index(which)}"
        there = ask(own)
        if there == _TYPES[which]:
            return None
        what = "nobody listens at" if there is None else f"{_described(there)} is at"
        return f"attnd takes messages at {address}, but {what} {own}, its {which} port: is that set, or blocked?"
    for offset, name in enumerate(SOCKETS):
        if offset and found == _TYPES[name] and port > offset and ask(f"{host}:{port - offset}") == _TYPES["ingest"]:
            return f"{address} is attnd's {name} port: its address is {host}:{port - offset}"
    if found is None:
        return None
    if found in _TYPES.values():
        return f"{address} is a socket such as attnd's, but not its ingest socket, whose address names attnd"
    return f"{address} is {_described(found)}"


def _described(found: str) -> str:
    """Describes what ask() found, when it is none of attnd's sockets."""
    if found == "page":
        return ("attnd's page, for browsers; attnd's address has another port, by default 5570, and is not needed on attnd's "
                "machine")
    if found.isupper():
        return f"a ZeroMQ socket of type {found}, not attnd"
    return {"http": "a server of HTTP, not attnd", "": "somebody who is silent, not attnd"}.get(found, f"not attnd: {found}")


def ask(endpoint: str) -> Optional[str]:
    """Finds who listens at a tcp:// or ipc:// endpoint: the type of a ZeroMQ socket ("XPUB"), "page" (attnd's), "http",
    "it says '...'", or "" for somebody who is silent; None: nobody, or it cannot be known."""
    try:
        said = _said(endpoint, _GREETING)
        ready = _READY.match(said)
        if ready:
            return ready[1].decode("ascii")
        if not said and endpoint.startswith("tcp://"):
            said = _said(endpoint, _REQUEST)
    except (OSError, ValueError):
        return None
    if said.startswith(b"HTTP/"):
        return "page" if _PAGE in said else "http"
    line = said.split(b"\n")[0][:40].decode("ascii", "replace").strip()
    return "it says '{}'".format("".join(char if " " <= char <= "~" else "?" for char in line)) if said else ""


def mechanism(endpoint: str) -> Optional[str]:
    """"CURVE": keys are asked for; "NULL": they are not; None: it is not TCP, or nobody with ZeroMQ listens there."""
    try:
        said = _said(endpoint, _GREETING[:12]) if endpoint.startswith("tcp://") else b""  # says no mechanism yet
    except (OSError, ValueError):
        return None
    return said[12:32].rstrip(b"\0").decode("ascii", "replace") if len(said) >= 64 and said[0] == 0xFF else None


def _said(endpoint: str, question: bytes) -> bytes:
    """The answer. OSError when nobody is there, ValueError for another transport."""
    answer = b""
    with _connect(endpoint) as connection:
        connection.settimeout(ANSWER_S)
        connection.sendall(question)
        with contextlib.suppress(OSError):  # silence, or it has hung up
            while len(answer) < 4096 and not _READY.match(answer):
                part = connection.recv(4096)
                if not part:
                    break
                answer += part
    return answer


def _connect(endpoint: str) -> unix.socket:
    transport, _, place = endpoint.partition("://")
    if transport == "tcp":
        host, _, port = place.rpartition(":")
        return unix.create_connection((host.strip("[]"), int(port)), CONNECT_S)
    if transport != "ipc":
        raise ValueError(endpoint)
    connection = unix.socket(unix.AF_UNIX)
    try:
        connection.settimeout(CONNECT_S)
        connection.connect(place)
    except OSError:
        connection.close()
        raise
    return connection
