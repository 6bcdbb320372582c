#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""edge: conversations with the sockets of a real attnd that begin as ZMTP and go wrong somewhere: greeting, handshake without
and with keys, commands, messages in parts, records of lent memory.

    ATTND_BIN=build/daemon/attnd python3 tests/e2e/edge.py [COUNT] [--seed N] [--first N] [--keys]

Conversation N of a seed is always the same: with --first N and a COUNT of 1 it is held alone. After each thousand a healthy
trainer's messages must all have come, none lost, and the identity holds; at the end memory is what it was.
"""
import argparse
import array
import ctypes
import ctypes.util
import fcntl
import json
import os
import random
import socket
import struct
import sys
import time

import msgpack
import numpy as np
import zmtp
import zmq
from zmq.utils import z85

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.append(os.path.join(HERE, "access"))
from harness import Attnd, Trainer, softmax_maps, wait_until  # noqa: E402
from keyed import Keyed, Pair  # noqa: E402

GOLDEN = os.path.join(HERE, "..", "golden")
CHECK_EVERY = 1000
GROWN_KB = 128 * 1024
HANDSHAKE_S = 0.2  # how long a peer waits for the next step
TYPES = [b"PUB", b"XPUB", b"SUB", b"XSUB", b"DEALER", b"ROUTER", b"REQ", b"REP", b"PAIR", b"PUSH", b"NOSUCH", b""]
OWN_TYPES = {"ingest": b"XPUB", "publish": b"SUB", "control": b"DEALER", "tap": b"SUB", "reliable": b"DEALER"}
METHODS = ["ping", "stats", "jobs", "config", "summary", "maps", "history", "windows", "plan.set", "plan.get", "flush", "x"]


# ------------------------------------------------------------------------------------------------ what is said

class Speech:
    """Pieces of ZMTP by chance: mostly sound ones."""

    def __init__(self, randomly):
        self.randomly = randomly

    def some(self, *choices):
        return self.randomly.choice(choices)

    def noise(self, most):
        return self.randomly.randbytes(self.randomly.randrange(most + 1))

    def greeting(self, mechanism):
        if self.randomly.random() < 0.9:
            return zmtp.greeting(mechanism=mechanism)
        return zmtp.greeting(version=self.some((3, 1), (2, 0), (1, 0), (255, 255)), mechanism=self.some(b"NULL", b"CURVE", b"PLAIN", b"GSSAPI", b"X" * 20))

    def properties(self, socket_type):
        pairs = [(b"Socket-Type", socket_type)]
        if self.randomly.random() < 0.5:
            pairs.append((b"Identity", self.noise(300)))
        if self.randomly.random() < 0.1:
            pairs.append((self.noise(255)[:255] or b"x", self.noise(1000)))
        return b"".join(bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in pairs)

    def socket_type(self, name):
        return OWN_TYPES.get(name, b"PUB") if self.randomly.random() < 0.9 else self.randomly.choice(TYPES)

    def body(self, name):
        return {"ingest": self.published, "publish": self.subscription, "tap": self.subscription, "control": self.request,
                "reliable": self.lent}[name]()

    def golden(self):
        with open(os.path.join(GOLDEN, self.randomly.choice(HEADERS)), "rb") as file:
            return file.read()

    def published(self):
        topic = self.some(b"tensor/gpt-small/decoder/5/self/", b"event/gpt-small/", b"tensor/x/decoder/0/self/", b"event/x/", b"tensor/")
        return [topic, self.golden(), *(self.noise(2000) for _ in range(self.randomly.randrange(4)))]

    def lent(self):
        number = struct.pack("<Q", self.some(0, 1, 2, 7, 2**64 - 1))
        return [number] if self.randomly.random() < 0.3 else [number, *self.published()]

    def subscription(self):
        prefix = self.some(b"", b"summary/", b"live/", b"job/", b"tap/gpt-small/", b"tap/", b"alert/x/", self.noise(300))
        return [bytes([self.some(0, 1, 1, 1, 2)]) + prefix]

    def request(self):
        params = {self.some("job", "layer", "x"): self.some("gpt-small", 0, None, [], "y" * 300)}
        whole = msgpack.packb([0, self.randomly.randrange(1 << 32), self.randomly.choice(METHODS), params])
        return [self.some(whole, whole, whole[:-1], self.noise(100))]

    def frames(self, parts):
        return b"".join(zmtp.frame(part, (zmtp.MORE if index < len(parts) - 1 else 0) | (zmtp.LONG if self.randomly.random() < 0.1 else 0))
                        for index, part in enumerate(parts))

    def command(self):
        name = self.some(b"PING", b"PING", b"PONG", b"SUBSCRIBE", b"CANCEL", b"ERROR", b"READY", b"HELLO", b"MESSAGE", b"", b"X" * 255)
        body = self.some(b"", b"\0\0", b"\xff\xffcontext", b"\0\x01" + self.noise(16), self.noise(300))
        return zmtp.command(name, body)

    def traffic(self, name):
        """Messages and commands, in frames."""
        for _ in range(self.randomly.randrange(1, 12)):
            kind = self.randomly.random()
            if kind < 0.7:
                yield self.frames(self.body(name))
            elif kind < 0.9:
                yield self.command()
            else:
                yield self.some(zmtp.frame(b"", zmtp.MORE), struct.pack(">BQ", 2, self.some(2**63, 2**64 - 1, 2**31, 300)), b"\xf8",
                                zmtp.frame(self.noise(20), self.randomly.randrange(256)), b"\x04\0")

    def spoil(self, data):
        """Bytes that changed on the way."""
        data = bytearray(data)
        for _ in range(self.some(0, 0, 1, 1, 2, 8)):
            at = self.randomly.randrange(len(data) + 1)
            kind = self.randomly.randrange(5)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << self.randomly.randrange(8)
            elif kind == 1 and at < len(data):
                data[at] = self.some(0, 1, 127, 128, 255)
            elif kind == 2:
                data[at:at] = self.noise(8)
            elif kind == 3:
                del data[at:at + self.randomly.randrange(1, 16)]
            else:
                data[at:at] = data[self.randomly.randrange(len(data) + 1):][:64]
        return bytes(data)

    def rarely_spoil(self, data):
        return self.spoil(data) if self.randomly.random() < 0.15 else data


HEADERS = sorted(name for name in os.listdir(GOLDEN) if name.endswith(".msgpack"))


# ------------------------------------------------------------------------------------------------ keys

class Curve:
    """The client's half of a handshake with keys, and its messages."""

    def __init__(self, server, pair):
        self.sodium = ctypes.CDLL(ctypes.util.find_library("sodium"))
        self.server, self.public, self.secret = z85.decode(server.encode()), z85.decode(pair.public), z85.decode(pair.secret)
        self.own = Pair()
        self.own_public, self.own_secret = z85.decode(self.own.public), z85.decode(self.own.secret)
        self.nonce = 0

    def box(self, text, nonce, public, secret):
        sealed = ctypes.create_string_buffer(len(text) + 16)
        assert self.sodium.crypto_box_easy(sealed, text, ctypes.c_ulonglong(len(text)), nonce, public, secret) == 0
        return sealed.raw

    def open(self, sealed, nonce, public, secret):
        text = ctypes.create_string_buffer(len(sealed) - 16)
        assert self.sodium.crypto_box_open_easy(text, sealed, ctypes.c_ulonglong(len(sealed)), nonce, public, secret) == 0
        return text.raw

    def short_nonce(self):
        self.nonce += 1
        return struct.pack(">Q", self.nonce)

    def hello(self):
        nonce = self.short_nonce()
        signature = self.box(bytes(64), b"CurveZMQHELLO---" + nonce, self.server, self.own_secret)
        return zmtp.command(b"HELLO", b"\x01\0" + bytes(72) + self.own_public + nonce + signature)

    def initiate(self, welcome, properties):
        opened = self.open(welcome[24:], b"WELCOME-" + welcome[8:24], self.server, self.own_secret)
        self.server_own, cookie = opened[:32], opened[32:]
        vouch_nonce, nonce = bytes(range(16)), self.short_nonce()
        vouch = self.box(self.own_public + self.server, b"VOUCH---" + vouch_nonce, self.server_own, self.secret)
        sealed = self.box(self.public + vouch_nonce + vouch + properties, b"CurveZMQINITIATE" + nonce, self.server_own, self.own_secret)
        return zmtp.command(b"INITIATE", cookie + nonce + sealed)

    def message(self, flags, body):
        nonce = self.short_nonce()
        return zmtp.frame(b"\x07MESSAGE" + nonce + self.box(bytes([flags]) + body, b"CurveZMQMESSAGEC" + nonce, self.server_own, self.own_secret))


def receive_frame(peer):
    flags, size = zmtp.receive(peer, 2)
    if flags & zmtp.LONG:
        size = struct.unpack(">Q", bytes([size]) + zmtp.receive(peer, 7))[0]
    return zmtp.receive(peer, min(size, 1 << 16))


def speak_with_keys(peer, speech, name, server, pair):
    """As far as attnd listens; to a spoilt handshake it says nothing, and waits."""
    curve = Curve(server, pair)
    peer.settimeout(HANDSHAKE_S)
    peer.sendall(speech.greeting(b"CURVE"))
    zmtp.receive(peer, 64)
    peer.sendall(speech.rarely_spoil(curve.hello()))
    welcome = receive_frame(peer)
    if len(welcome) != 168:
        return
    peer.sendall(speech.rarely_spoil(curve.initiate(welcome, speech.properties(speech.socket_type(name)))))
    receive_frame(peer)
    for _ in range(speech.randomly.randrange(1, 6)):
        parts = speech.body(name)
        for index, part in enumerate(parts):
            sealed = curve.message(index < len(parts) - 1 or speech.some(0, 0, 0, 2, 255), part)
            peer.sendall(speech.rarely_spoil(sealed))
        if speech.randomly.random() < 0.3:
            peer.sendall(curve.message(4, b"\x04PING\0\0x"))


# ------------------------------------------------------------------------------------------------ conversations

def lend(path, randomly):
    """Records on the socket of lent memory, with descriptors that are sound, unsealed, or none at all."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(60)
        peer.connect(path)
        for _ in range(randomly.randrange(1, 8)):
            record = struct.pack("<II", randomly.choice([1, 1, 1, 2, 3, 0, 2**32 - 1]), randomly.choice([0, 1, 127, 128, 2**32 - 1]))
            record = randomly.choice([record, record, record, record[:5], record + b"x", randomly.randbytes(8)])
            files = [sealed_file(randomly) for _ in range(randomly.choice([0, 1, 1, 1, 2]))]
            try:
                peer.sendmsg([record], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else [])
            finally:
                for file in files:
                    os.close(file)


def sealed_file(randomly):
    file = os.memfd_create("edge", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    nbytes = randomly.choice([0, 4096, 65600, 1 << 20])
    os.ftruncate(file, nbytes)
    if nbytes and randomly.randrange(4):
        os.posix_fallocate(file, 0, nbytes)
    # SEAL, SHRINK, GROW, WRITE, FUTURE_WRITE
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, randomly.choice([0, 0x1, 0x7, 0xF, 0x17, 0x17, 0x17]))
    return file


def converse(attnd, number, seed, names, stranger):
    """One conversation; that attnd hangs up is its right."""
    randomly = random.Random(f"{seed} {number}")
    speech, name = Speech(randomly), randomly.choice(names)
    if name == "memory":
        try:
            lend(os.path.join(attnd.directory, "memory"), randomly)
        except OSError:
            pass
        return
    peer = zmtp.connect(attnd.endpoint(name))
    try:
        if stranger and randomly.random() < 0.5:
            speak_with_keys(peer, speech, name, attnd.server.public, randomly.choice([stranger, attnd.guest]))
        else:
            opening = speech.greeting(b"NULL") + zmtp.command(b"READY", speech.properties(speech.socket_type(name)))
            if randomly.random() < 0.5:  # as a peer that waits for what it is told
                zmtp.introduce(peer, speech.socket_type(name))
                opening = b""
            data = speech.spoil(opening + b"".join(speech.traffic(name)))
            if randomly.random() < 0.1:
                data = data[:randomly.randrange(len(data) + 1)]
            for piece in pieces(data, randomly):
                peer.sendall(piece)
        if randomly.random() < 0.1:
            peer.shutdown(socket.SHUT_WR)
    except (OSError, AssertionError):
        pass
    zmtp.say(peer, b"", reset=randomly.random() < 0.3)


def pieces(data, randomly):
    if randomly.random() < 0.8:
        return [data]
    cuts = sorted(randomly.randrange(len(data) + 1) for _ in range(3))
    return [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)])]


class Witness:
    """A trainer whose messages come through, whatever happens beside it."""

    def __init__(self, attnd):
        self.attnd, self.step = attnd, 0
        self.trainer = Trainer(attnd, "healthy")
        self.weights = softmax_maps(np.random.default_rng(1), 1, 2, 8, 8)

    def go_on(self):
        self.step += 1
        self.trainer.attention(self.weights, step=self.step)

    def check(self):
        attnd = self.attnd
        assert attnd.process.poll() is None, f"attnd has ended with {attnd.process.returncode}:\n{attnd.log_text()}"

        def come():
            job = [job for job in attnd.call("jobs") if job["job"] == "healthy"][0]
            return job["processed"] == self.step and job

        job = wait_until(lambda: come() if self.step else {"lost": 0, "dropped": {}}, "the healthy job's messages", 120)
        assert job["lost"] == 0 and not job["dropped"], job

        def identity():
            stats = attnd.stats()
            return stats["received"] == stats["processed"] + sum(stats["dropped"].values()) + stats["in_flight"] and stats

        return wait_until(identity, "the identity", 120)


class KeyedEdge(Keyed):
    """Strangers may come, and a guest may publish."""

    def __init__(self):
        self.guest = Pair()
        super().__init__((self.guest, "publish", "gpt-small"))


def hold(count, seed=1, first=1, keys=False, progress=lambda **_: None):
    """All conversations. Raises with the number of the one after which something was wrong, or those before it."""
    attnd = KeyedEdge() if keys else Attnd("log.level=error")
    names = list(OWN_TYPES)[:4] if keys else [*OWN_TYPES, "memory"]
    stranger, witness, started, last = Pair() if keys else None, Witness(attnd), time.monotonic(), first
    before = attnd.rss_kb()
    for number in range(first, first + count):
        try:
            converse(attnd, number, seed, names, stranger)
            if number % 20 == 0:
                witness.go_on()
            if (number - first) % CHECK_EVERY == CHECK_EVERY - 1 or number == first + count - 1:
                stats = witness.check()
                progress(conversations=number - first + 1, seconds=round(time.monotonic() - started), rss_kb=attnd.rss_kb(),
                         received=stats["received"], requests=stats["requests"], subscriptions=stats["subscriptions"],
                         keys_refused=stats["keys_refused"])
                last = number
        except Exception as error:
            raise AssertionError(f"seed {seed}, conversation {last} to {number}: {error}\n{attnd.log_text()[-4000:]}") from error
    wait_until(lambda: attnd.rss_kb() < before + GROWN_KB, "the memory to come back", 120)
    attnd.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, nargs="?", default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--keys", action="store_true", help="TCP with keys: strangers, and a guest who may publish")
    arguments = parser.parse_args()

    def progress(**numbers):
        if numbers["conversations"] % 10_000 == 0 or numbers["conversations"] == arguments.count:
            print(json.dumps(dict(seed=arguments.seed, keys=arguments.keys, **numbers)), flush=True)

    hold(arguments.count, arguments.seed, arguments.first, arguments.keys, progress)
    return 0


if __name__ == "__main__":
    sys.exit(main())
