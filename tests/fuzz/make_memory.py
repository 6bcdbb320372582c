#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes memory/: what the replay test of fuzz_memory does, and what the fuzzer starts from: each step of it alone, good
and bad in one way each."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "memory"
FIRST, SECOND = 0, 8
NONE, SEALED, UNSEALED, OTHER, THREE = 0, 1 << 5, 2 << 5, 3 << 5, 1 << 7


def packet(data, descriptor=NONE, by=FIRST):
    return bytes([0 | by, len(data) | descriptor]) + data


def record(kind, buffer, by=FIRST):
    return bytes([1 | by, kind, buffer])


def message(*references, by=FIRST):
    return bytes([2 | by, len(references) - 1]) + b"".join(references)


def reference(buffer=0, offset=0, size=70000, how=0):
    return struct.pack("<BBII", how, buffer, offset, size)


FREE, LEAVE, READ = bytes([3]), bytes([4]), bytes([5])
LEND = record(1, 0)
FILES = {
    "nothing": b"",
    "good": LEND + message(reference()) + READ + FREE * 4 + READ + message(reference(offset=64)),
    "three": LEND + record(1, 1) + message(reference(), reference(1), reference(0, 70016)),
    "busy": LEND + message(reference()) + message(reference()),
    "taken_back": LEND + message(reference()) + record(2, 0) + FREE * 4,
    "lent_again": LEND + message(reference()) + record(2, 0) + LEND + message(reference()),
    "twice": LEND + LEND,
    "left": LEND + message(reference()) + LEAVE + message(reference()),
    "left_late": LEND + LEAVE + message(reference()),
    "of_others": LEND + record(1, 1, SECOND) + message(reference(1)),
    "guessed": LEND + message(reference(how=128)),
    "two_peers": LEND + record(1, 0, SECOND) + message(reference()) + message(reference(), by=SECOND),
    "not_aligned": LEND + message(reference(offset=32)),
    "too_far": LEND + message(reference(offset=196608)),
    "too_long": LEND + message(reference(size=196609)),
    "whole": LEND + message(reference(size=196608)),
    "small": LEND + message(reference(size=65536)),
    "wraps": LEND + message(reference(offset=64, size=63, how=4)),
    "offset_huge": LEND + message(reference(offset=1, how=2)),
    "reserved": LEND + message(reference(how=1)),
    "room": b"".join(record(1, buffer) for buffer in range(6)) + b"".join(record(1, i, SECOND) for i in range(6)),
    "number": record(1, 128),
    "kinds": record(3, 0),
    "refused": record(4, 0),
    "not_lent": record(2, 9),
    "short": packet(b"abc"),
    "long": packet(bytes(9)),
    "empty": packet(b""),
    "unsealed": packet(struct.pack("<II", 1, 0), UNSEALED),
    "device": packet(struct.pack("<II", 1, 0), OTHER),
    "none": packet(struct.pack("<II", 1, 0)),
    "sealed": packet(struct.pack("<II", 1, 0), SEALED),
    "back_with": LEND + packet(struct.pack("<II", 2, 0), SEALED),
    "three_descriptors": packet(struct.pack("<II", 1, 0), SEALED | THREE),
    "short_with": packet(b"a", SEALED),
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (HERE / name).write_bytes(content)
