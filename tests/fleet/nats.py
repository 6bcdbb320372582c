# SPDX-License-Identifier: MIT
"""nats: a client of NATS by its text protocol over one socket: publishes with headers, listens, asks JetStream."""
import base64
import contextlib
import json
import os
import socket
import threading
import time

PATIENCE_S = 30.0
HEADERS = b"NATS/1.0\r\n"


class Nats:
    """One connection; a thread reads."""

    def __init__(self, server, patience_s=PATIENCE_S):
        self.patience_s = patience_s
        self.socket = socket.create_connection((server.host, server.port), PATIENCE_S)
        self.socket.settimeout(None)
        self.reader = self.socket.makefile("rb", 1 << 20)
        self.info = json.loads(self.reader.readline().split(b" ", 1)[1])
        self.lock, self.heard = threading.Lock(), threading.Condition()
        self.waiting, self.listeners, self.pongs = {}, {}, 0
        self.inbox, self.asked = "_INBOX." + os.urandom(8).hex(), 0
        self.send(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"test"}\r\n')
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        self.send(f"SUB {self.inbox}.* 1\r\n".encode())
        self.flush()

    def send(self, data):
        with self.lock:
            self.socket.sendall(data)

    def close(self):
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join(PATIENCE_S)
        self.socket.close()

    def flush(self):
        """Until the server has read everything."""
        with self.heard:
            want = self.pongs + 1
        self.send(b"PING\r\n")
        with self.heard:
            assert self.heard.wait_for(lambda: self.pongs >= want, PATIENCE_S), "no PONG"

    def publish(self, subject, data, headers=None, reply=""):
        if headers is None:
            self.send(b"PUB %s %s%d\r\n%s\r\n" % (subject.encode(), reply.encode() + b" " if reply else b"", len(data), data))
            return
        head = HEADERS + b"".join(f"{key}: {value}\r\n".encode() for key, value in headers.items()) + b"\r\n"
        self.send(b"HPUB %s %s%d %d\r\n%s%s\r\n" % (subject.encode(), reply.encode() + b" " if reply else b"", len(head),
                                                   len(head) + len(data), head, data))

    def subscribe(self, subject, heard):
        """heard(subject, data) on the reader's thread."""
        number = 2 + len(self.listeners)
        self.listeners[number] = heard
        self.send(f"SUB {subject} {number}\r\n".encode())
        self.flush()

    def ask(self, subject, data=b"", headers=None):
        """The answer, as JSON."""
        return self.answer(self.asks(subject, data, headers))

    def asks(self, subject, data=b"", headers=None):
        """Asks; the answer is for answer()."""
        with self.heard:
            self.asked += 1
            mine = f"{self.inbox}.{self.asked}"
            self.waiting[mine] = None
        self.publish(subject, data, headers, mine)
        return mine

    def answer(self, mine):
        with self.heard:
            if not self.heard.wait_for(lambda: self.waiting[mine] is not None, self.patience_s):
                raise RuntimeError("no answer")
            data = self.waiting.pop(mine)
        found = json.loads(data) if data else {"error": {"description": "nobody answers"}}
        if "error" in found:
            raise RuntimeError(found["error"]["description"])
        return found

    def stream(self, what="INFO", request=None, name="attnd-parts"):
        """One question about the stream: INFO, PURGE, DELETE, MSG.DELETE, MSG.GET, CREATE."""
        return self.ask(f"$JS.API.STREAM.{what}.{name}", json.dumps(request).encode() if request else b"")

    def message(self, seq):
        """(headers, data) of a message of the stream."""
        found = self.stream("MSG.GET", {"seq": seq})["message"]
        lines = base64.b64decode(found.get("hdrs", "")).decode().split("\r\n")[1:]
        return dict(line.split(": ", 1) for line in lines if line), base64.b64decode(found.get("data", ""))

    def _read(self):
        with contextlib.suppress(OSError, ValueError, IndexError):
            while True:
                words = self.reader.readline().split()
                if words[0] in (b"MSG", b"HMSG"):
                    data = self.reader.read(int(words[-1]) + 2)[:-2]
                    self._take(words[1].decode(), int(words[2]), data[int(words[-2]) if words[0] == b"HMSG" else 0:])
                elif words[0] == b"PING":
                    self.send(b"PONG\r\n")
                elif words[0] == b"PONG":
                    with self.heard:
                        self.pongs += 1
                        self.heard.notify_all()

    def _take(self, subject, number, data):
        if number != 1:
            self.listeners[number](subject, data)
            return
        with self.heard:
            if subject in self.waiting:
                self.waiting[subject] = data
                self.heard.notify_all()


def when_stream_is_there(server):
    """A connection, once somebody has made the stream."""
    client, deadline = Nats(server), time.monotonic() + PATIENCE_S
    while True:
        try:
            client.stream()
            return client
        except RuntimeError:
            assert time.monotonic() < deadline, "nobody makes the stream"
            time.sleep(0.05)
