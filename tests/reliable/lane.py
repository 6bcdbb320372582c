# SPDX-License-Identifier: MIT
"""A trainer on the reliable lane at wire level: a DEALER that keeps what is not answered, and sends it again."""
import contextlib
import struct
import time

import msgpack
import numpy as np
import zmq

from harness import PATIENCE_S, Trainer, softmax_maps, wait_until

NEVER = -1


class Lane(Trainer):
    """What it sends goes by the reliable lane; `attnd` may be another one each time that it joins."""

    def __init__(self, attnd, job, rank=0, world=1, run=None, join=True):
        super().__init__(attnd, job, rank=rank, world=world, run=run)
        self.attnd, self.rng = attnd, np.random.default_rng(20260)
        self.dealer, self.next_id, self.credit, self.full = None, 1, 0, 0
        self.unanswered, self.acknowledged, self.refused, self.waits = {}, [], {}, []
        if join:
            self.join()

    def join(self):
        """A new connection: everything that is not answered goes again, with its id."""
        if self.dealer:
            self.dealer.close(linger=0)
        self.dealer = self.attnd.context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 0), (zmq.RECONNECT_IVL, NEVER)):
            self.dealer.setsockopt(option, value)
        self.dealer.connect(self.attnd.endpoint("reliable"))
        self.credit, self.again = 0, False
        self.dealer.send(struct.pack("<Q", 0))
        self.full = wait_until(lambda: self.hear() and self.credit, "credit")
        for number, frames in list(self.unanswered.items()):
            self._put(number, frames)

    def hear(self, seconds=0.0):
        """Takes in what attnd has said; at least one answer, if it comes within so long. Always true."""
        if seconds:
            self.dealer.poll(int(1000 * seconds))
        while self.dealer.poll(0):
            answer = msgpack.unpackb(self.dealer.recv())
            self.credit += answer.get("credit", 0)
            self.again = self.again or "again" in answer
            self.waits += [answer["waits"]] if "waits" in answer else []
            for number in answer.get("ack", []):
                self.acknowledged.append(number)
                self.unanswered.pop(number, None)
            for number, reason in answer.get("refused", []):
                self.refused[number] = reason
                self.unanswered.pop(number, None)
        return True

    def _put(self, number, frames):
        """Without a connection it waits for the next join: what ZeroMQ itself sends to the next attnd would come there before
        everything that is not answered."""
        size = max(sum(map(len, frames)), 4096)
        deadline = time.monotonic() + PATIENCE_S
        while self.credit < min(size, self.full):
            if not self.dealer.poll(0, zmq.POLLOUT):
                return
            assert time.monotonic() < deadline, "no credit came"
            self.hear(0.05)
        self.credit -= size
        with contextlib.suppress(zmq.Again):
            self.dealer.send_multipart([struct.pack("<Q", number), *frames], zmq.DONTWAIT)

    def put(self, *frames):
        """By the lane, within the credit. Returns the message's id."""
        number, self.next_id = self.next_id, self.next_id + 1
        self.unanswered[number] = frames
        self._put(number, frames)
        return number

    def send(self, *frames):
        header = msgpack.unpackb(frames[1])
        return self.put(frames[0], msgpack.packb({"reliable": True, **header}), *frames[2:])

    def common(self, topic, kind, epoch, step, **keys):
        """Its sequences are those of the lane."""
        return super().common((topic, "reliable"), kind, epoch, step, **keys)

    def steps(self, steps):
        """A small map at each of these steps."""
        for step in steps:
            self.attention(softmax_maps(self.rng, 1, 2, 8, 8), step=step)

    def send_again(self, messages):
        """All of these by a new connection, as if no answer had come."""
        self.unanswered = dict(messages)
        self.join()
        self.settled()

    def settled(self):
        """Everything is answered, by a new connection where attnd asks for that."""
        def done():
            if self.hear() and self.again:
                self.join()
            return not self.unanswered
        wait_until(done, "answers")
