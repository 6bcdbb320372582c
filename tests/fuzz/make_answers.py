#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes answers/: what attnd may answer on the reliable lane, and what it may not: steps of fuzz_answers.c."""
import pathlib
import struct

import msgpack

HERE = pathlib.Path(__file__).parent / "answers"


def publish(event=False, tensors=(), topic=1, header=1):
    return bytes([0, event | len(tensors) << 1 | (topic - 1) << 3 | (header - 1) << 6, *tensors])


def answer(acks=(), refused=(), repeated=()):
    return bytes([1, len(acks) | len(refused) << 3 | len(repeated) << 6, *acks, *refused, *repeated])


def raw(data):
    return bytes([2]) + struct.pack("<H", len(data)) + data


def said(**answered):
    return raw(msgpack.packb(answered))


def pieces(*acks):
    """Two to four frames."""
    return bytes([4, len(acks) - 2, *acks])


SILENCE = bytes([5])


def credit(count=65536):
    return bytes([3]) + struct.pack("<I", count)


TWO = publish() + publish(True)
FILES = {
    "nothing": b"",
    "good": credit() + TWO + answer([1, 2]),
    "said": said(credit=65536) + TWO + said(credit=4096, ack=[1], refused=[[2, "topic"]]),
    "twice": credit() + TWO + answer([1, 1]) + answer([1], [1]),
    "not_sent": TWO + answer([1, 2]) + credit(),
    "not_known": credit() + TWO + answer([0, 3, 255], [4]),
    "later": publish() + credit() + publish() + answer([1]) + answer([2, 1]),
    "little": credit(1) + publish(tensors=(255, 255)) + publish() + answer([1]) + credit(4096) + credit(70000),
    "no_room": publish(tensors=(255, 255, 255)) * 3 + publish(True) + credit() + answer([1, 2]) + publish(tensors=(255, 255, 255)),
    "credit_none": credit(0) + publish() + credit(2**32 - 1) + credit(2**31 - 1) * 3,
    "credit_wrong": said(credit=-1) + said(credit="x") + said(credit=2**63) + said(credit=1.5) + said(credit=None) + publish(),
    "wrong": credit() + TWO + said(ack=1) + said(ack=[-1, "1", None, [1], 1.0]) + said(refused=[1, [1], [1, "x", 2], ["1", "x"]]),
    "twice_a_key": credit() + TWO + raw(b"\x82\xa3ack\x91\x01\xa3ack\x91\x02"),
    "other_keys": credit() + TWO + said(news=[1], ack=[2]),
    "no_map": raw(msgpack.packb([1])) + raw(b"") + raw(b"\xc1") + raw(b"\x81") + raw(b"\xdf\xff\xff\xff\xff"),
    "trailing": credit() + TWO + raw(msgpack.packb(dict(ack=[1])) + b"\x00"),
    "reason_key": credit() + TWO + said(refused=[[1, "key"]]) + said(refused=[[2, "k" * 99]]),
    "reason_of_none": credit() + TWO + said(refused=[[9, "key"]]) + said(refused=[["1", "key"]]),
    "reason_wrong": credit() + TWO + said(refused=[[1, 5]]) + said(refused=[[2, b"\xff"]]),
    "repeated": credit() + TWO + publish() + answer([1], (), [1, 1]) + answer((), (), [2]) + said(ack=[2, 3], repeated=[3]),
    "repeated_wrong": credit() + TWO + said(repeated=1) + said(repeated=[9, -1, "1", None, [1]], ack=[1]) + said(repeated={2: 2}),
    "pieces": credit() + TWO + pieces(1, 2) + pieces(2, 1, 1) + pieces(1, 2, 1, 2) + answer([1]) + pieces(2, 2) + answer([2]),
    "silence": publish(tensors=(255, 255, 255)) + SILENCE + publish(tensors=(255, 255, 255)) + credit() +
               publish(tensors=(255, 255, 255)) + SILENCE + answer([1]) + publish(tensors=(255, 255, 255)) * 2,
    "many": credit() + publish() * 20 + answer([20, 19, 18, 1, 2, 3, 4]) + answer(range(5, 12)),
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (HERE / name).write_bytes(content)
