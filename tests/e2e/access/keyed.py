# SPDX-License-Identifier: MIT
"""keyed: an attnd on TCP that asks for keys, and people who come to it with one, or without."""
import os
import signal

import msgpack
import zmq

from harness import PATIENCE_S, Attnd, free_ports, wait_until

REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
SOCKETS = {"ingest": zmq.XPUB, "publish": zmq.SUB, "control": zmq.DEALER, "tap": zmq.SUB, "reliable": zmq.DEALER}


class Pair:
    def __init__(self):
        public, secret = zmq.curve_keypair()
        self.public, self.secret = public.decode(), secret.decode()


class Keyed(Attnd):
    """An attnd on TCP whose access list has the lines of these roles: (pair, role, pattern)."""

    host, ports = "127.0.0.1", len(SOCKETS)

    def __init__(self, *lines, settings=(), config=None):
        self.server, self.owner, self.people = Pair(), Pair(), []
        self.port = free_ports(self.ports)
        self.files = [f"/tmp/attnd-keys-{os.getpid()}-{self.port}.{end}" for end in ("key", "access")]
        write_secret(self.files[0], self.server)
        self.write(*lines)
        keys = [f"keys.server={self.files[0]}", f"keys.access={self.files[1]}"]
        ports = [f"{name}.endpoint={self.endpoint(name)}" for name in SOCKETS]
        super().__init__(*keys, *ports, *settings, config=config)

    def endpoint(self, name):
        return f"tcp://{self.host}:{self.port + list(SOCKETS).index(name)}"

    def write(self, *lines):
        """The list: the owner, who may do everything, and these."""
        lines = [(self.owner, "admin", "*"), *lines]
        with open(self.files[1], "w") as file:
            file.write("".join(f"{pair.public}  {role}  {pattern}  # test\n" for pair, role, pattern in lines))

    def admit(self, *lines):
        """Writes the list, which is then in force."""
        self.write(*lines)
        self.reload()

    def person(self, pair, place=None):
        """Somebody with this key, or None, at an address of it; gone with this attnd."""
        self.people.append(Somebody(place or self, pair))
        return self.people[-1]

    def reload(self):
        before = self.log_text().count("keys_read")
        self.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.log_text().count("keys_read") > before, "keys_read in the log")

    def start(self):
        give_key(self.context, self.server, self.owner)
        super().start()

    def discard(self):
        for person in self.people:
            person.context.destroy(linger=0)
        super().discard()
        for path in self.files:
            os.unlink(path)


def write_secret(path, pair):
    with open(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"# A secret key of attnd.\n{pair.secret}\n")


def give_key(context, server, pair):
    """Sockets that are made from now on come with this key."""
    context.setsockopt(zmq.CURVE_SERVERKEY, server.public.encode())
    context.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
    context.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
    return context


class Somebody(Attnd):
    """Somebody else's view of a running attnd: with a key, or None."""

    def __init__(self, attnd, pair):
        self.attnd, self.endpoint, self.directory = attnd, attnd.endpoint, attnd.directory
        self.context = give_key(zmq.Context(), attnd.server, pair) if pair else zmq.Context()
        self.process, self.request_id = attnd.process, 0

    def is_refused(self, name):
        """Whether attnd turns this person away at a socket; waits until it has done one or the other."""
        socket = self.context.socket(SOCKETS[name])
        socket.linger = 0
        monitor = socket.get_monitor_socket(REFUSED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        socket.connect(self.endpoint(name))
        assert monitor.poll(int(1000 * PATIENCE_S)), f"no handshake at {name}: {self.log_text()}"
        event = int.from_bytes(monitor.recv_multipart()[0][:2], "little")
        socket.disable_monitor()
        monitor.close()
        socket.close()
        return event != zmq.EVENT_HANDSHAKE_SUCCEEDED

    def refused_at(self):
        return [name for name in SOCKETS if self.is_refused(name)]

    def error(self, method, **params):
        """The code that a request is refused with; None: it is not."""
        try:
            self.call(method, **params)
        except RuntimeError as error:
            return str(error)
        return None

    def ask(self, method, *params):
        """A request whose parameters may come twice. Returns the code that it is refused with, or None, and the answer's bytes."""
        socket = self.context.socket(zmq.DEALER)
        socket.linger = 0
        packer = msgpack.Packer()
        socket.connect(self.endpoint("control"))
        socket.send(packer.pack_array_header(4) + b"".join(map(packer.pack, (0, 1, method))) + packer.pack_map_pairs(params))
        assert socket.poll(int(1000 * PATIENCE_S)), f"no answer to {method}:\n{self.log_text()}"
        answer = socket.recv()
        socket.close()
        error = msgpack.unpackb(answer, strict_map_key=False)[2]
        return error and error["code"], answer
