# SPDX-License-Identifier: MIT
"""ZMTP by hand, over Unix sockets and TCP: peers that do what no ZeroMQ would."""
import contextlib
import os
import socket
import struct
import urllib.parse

MORE, LONG, COMMAND = 1, 2, 4


def greeting(version=(3, 0), mechanism=b"NULL"):
    return b"\xff" + bytes(7) + b"\x01\x7f" + bytes(version) + mechanism.ljust(20, b"\0") + bytes(32)


def frame(body, flags=0):
    if len(body) > 255 or flags & LONG:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack("BB", flags, len(body)) + body


def command(name, body=b""):
    return frame(bytes([len(name)]) + name + body, COMMAND)


def ready(socket_type, name=b""):
    named = b"\x08Identity" + struct.pack(">I", len(name)) + name if name else b""
    return command(b"READY", b"\x0bSocket-Type" + struct.pack(">I", len(socket_type)) + socket_type + named)


def opening(socket_type, name=b""):
    """The bytes of a peer of this type, which may name itself, until it may send."""
    return greeting() + ready(socket_type, name)


PING = command(b"PING", b"\0\0" + b"context")


def subscription(prefix):
    return frame(b"\x01" + prefix)


def address_of(endpoint):
    url = urllib.parse.urlsplit(endpoint)
    return (socket.AF_UNIX, url.path) if url.scheme == "ipc" else (socket.AF_INET, (url.hostname, url.port))


def connect(endpoint, timeout=60):
    family, address = address_of(endpoint)
    peer = socket.socket(family, socket.SOCK_STREAM)
    peer.connect(address)  # waits while the backlog is full, which it would not do with a timeout
    peer.settimeout(timeout)
    return peer


def listen(endpoint, timeout=60):
    """Stands in the place of attnd."""
    family, address = address_of(endpoint)
    if family == socket.AF_UNIX:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(address)
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.settimeout(timeout)
    listener.bind(address)
    listener.listen(1000)
    return listener


def receive(peer, count):
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            raise ConnectionError("the other side has closed")
        data += part
    return data


def introduce(peer, socket_type, name=b""):
    """Says the opening, and waits for that of the other side: what comes next is read as messages."""
    peer.sendall(opening(socket_type, name))
    receive(peer, 64)
    _, size = receive(peer, 2)
    assert receive(peer, size)[:6] == b"\x05READY"
    return peer


def say(peer, data, reset=False):
    """Sends all and closes without having read anything; whether the other side took it all."""
    try:
        if reset:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.sendall(data)
        return True
    except OSError:  # it has hung up
        return False
    finally:
        peer.close()
