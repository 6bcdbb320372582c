#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes lane/: what trainers send on the reliable lane, and what they should not: steps of fuzz_lane.c."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "lane"
GOLDEN = HERE.parent.parent / "golden"
SECOND, SHUT = 8, 16


def message(number, size=2, how=0):
    return bytes([0 | how, number, size])


def raw(*frames, how=0):
    """The first two frames have at most 255 bytes."""
    said = b"".join(bytes([len(frame)]) + frame for frame in frames[:2])
    return bytes([1 | how, len(frames) - 1]) + said + b"".join(struct.pack("<H", len(frame)) + frame for frame in frames[2:])


def settle(code=0, how=0):
    return bytes([4 | how, code])


def number(value):
    return struct.pack("<Q", value)


JOIN, FREE, RETRY, SPEAK = (bytes([step]) for step in (2, 3, 5, 6))
EVENT = (b"event/gpt-small/", (GOLDEN / "bye.msgpack").read_bytes())
TENSOR = (b"tensor/gpt-small/decoder/5/self/", (GOLDEN / "attention.msgpack").read_bytes(), bytes(64))
FILES = {
    "nothing": b"",
    "good": JOIN + SPEAK + message(1) + FREE + SPEAK + settle() + SPEAK,
    "two": JOIN + bytes([2 | SECOND]) + message(1) + message(1, how=SECOND) + SPEAK + FREE * 2 + settle() * 2 + SPEAK,
    "event": JOIN + raw(number(7), *EVENT) + settle() + FREE,
    "tensor": JOIN + raw(number(7), *TENSOR[:1], TENSOR[1][:2000], TENSOR[2]) + settle(4) + SPEAK,
    "no_join": message(1) + settle() + SPEAK,
    "joins": JOIN * 10 + SPEAK + message(3) + JOIN * 3 + SPEAK,
    "over_credit": JOIN + SPEAK + message(1, 100) + message(2, 100) + SPEAK + FREE + message(3, 100) + SPEAK,
    "large": JOIN + message(1, 255) + message(2) + FREE + SPEAK,
    "quarters": JOIN + message(1, 32) * 5 + FREE * 3 + SPEAK + settle() * 3 + SPEAK,
    "shut": JOIN + message(1, how=SHUT) + message(2, how=SHUT) + message(3) + RETRY + FREE + settle(),
    "shut_two": message(1, how=SHUT) + message(1, how=SHUT | SECOND) + bytes([5 | SHUT]) + RETRY,
    "again": message(1) * 2 + settle(2) + settle(3) + SPEAK,
    "duplicate": message(1) + message(1) + settle(5) + settle() + SPEAK,
    "id_zero": raw(number(0), b"t", b"h") + message(0),
    "id_short": raw(b"1234567", b"t", b"h") + raw(b"", b"t") + raw(b"123456789"),
    "id_alone": raw(number(5)) + raw(number(2**64 - 1)),
    "empty": raw(number(1), b"") + raw(number(2), b"", b"", b"") + raw(b""),
    "frames": raw(number(1), *[b"f"] * 7),
    "many": JOIN + message(1, 0) * 16 + SPEAK + FREE * 8 + settle() * 8 + SPEAK + message(2, 0) * 8,
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (HERE / name).write_bytes(content)
