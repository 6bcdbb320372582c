# SPDX-License-Identifier: MIT
"""web: an attnd with HTTP, and clients of its API and its event stream."""
import http.client
import json
import re
import socket

from harness import PATIENCE_S, Attnd, Trainer, softmax_maps

HTTP = ("http.enabled=true", "http.endpoint=tcp://127.0.0.1:*")


class Web(Attnd):
    """A daemon with HTTP on a free port."""

    def __init__(self, *settings, **keys):
        self.trainers = []
        super().__init__(*HTTP, *settings, **keys)

    @property
    def port(self):
        return int(self.call("config")["http.endpoint"].rsplit(":", 1)[1])

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)

    def get(self, path, method="GET", body=None, **headers):
        connection = self.connect()
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def json(self, path, status=200):
        response, body = self.get(path)
        assert response.status == status, body
        assert response.headers["Content-Type"] == "application/json"
        return json.loads(body)


    def metric(self, name):
        text = self.get("/metrics")[1].decode()
        return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.M).group(1))

    def by_hand(self, sent=b"", receives=None):
        """A socket on which these bytes have been sent; `receives` bounds what its kernel takes of the answers."""
        client = socket.socket()
        client.settimeout(PATIENCE_S)
        if receives:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        client.connect(("127.0.0.1", self.port))
        client.sendall(sent)
        return client


def request(path):
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Stream:
    """A client of the event stream that reads as events are asked for."""

    def __init__(self, web, query="", **headers):
        self.connection = web.connect()
        self.connection.request("GET", "/api/v1/events" + query,
                                headers={name.replace("_", "-"): value for name, value in headers.items()})
        self.response = self.connection.getresponse()
        assert self.response.status == 200

    def next(self):
        """The next event: its id, its name, its data. None at the end of the stream."""
        event = {}
        for line in self.response:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if not name and event.get("data"):
                return event["id"], event["event"], json.loads(event["data"])
            event[name] = value
        return None

    def until(self, kind):
        """The first event of this kind from here on."""
        while True:
            event = self.next()
            assert event, "the stream ended"
            if event[1] == kind:
                return event

    def close(self):
        self.connection.close()


def write_tokens(path, *lines):
    """The file of http.token_file, which nobody else may read."""
    path.touch(mode=0o600)
    path.write_text("".join(f"{line}\n" for line in lines))


def train(daemon, rng, steps=4, job="job", layers=2, first=0):
    trainer = Trainer(daemon, job)
    daemon.trainers.append(trainer)  # one that is let go of closes its socket
    for step in range(first, first + steps):
        for layer in range(layers):
            trainer.attention(softmax_maps(rng, 1, 3, 8, 8), layer=layer, step=step)
    return trainer
