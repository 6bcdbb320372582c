#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes spool/: segments of a spool, good ones and ones that are bad in one way each, each with the byte that
fuzz_spool.c wants before it."""
import pathlib

import make_recordings as made

HERE = pathlib.Path(__file__).parent / "spool"
PLAIN, SEALED, BY_DIRECTORY = 0, 1, 254
LARGEST = [b"t", b"h", *(bytes([number]) * number for number in range(16))]
FILES = {
    "nothing": (BY_DIRECTORY, b""),
    "begun": (BY_DIRECTORY, made.header()[:20]),
    "no_messages": (BY_DIRECTORY, made.header()),
    "good": (BY_DIRECTORY, made.header() + made.record(made.EVENT) + made.record(made.TENSOR)),
    "sealed": (SEALED, bytes(b"\x89attnd\r\n\x01" + bytes(23)) + made.record(made.EVENT)),
    "largest": (BY_DIRECTORY, made.header() + made.record(LARGEST)),
    "too_many": (BY_DIRECTORY, made.header() + made.record([*LARGEST, b"x"])),
    "one_frame": (PLAIN, made.header() + made.record([b"x"])),
    "packed": (BY_DIRECTORY, made.header() + made.record(made.TENSOR, packed=True)),
    "cut": (BY_DIRECTORY, (made.header() + made.record(made.EVENT) + made.record(made.TENSOR))[:-1]),
    "damaged": (BY_DIRECTORY, made.header() + made.record(made.EVENT) + made.record(made.TENSOR)[:-1] + b"\x01"),
    "zeros": (PLAIN, made.header() + made.record(made.EVENT) + bytes(100)),
    "sum_wraps": (SEALED, made.header() + made.record(made.EVENT, sizes=[2**64 - 1, 12])),
    "stored_huge": (SEALED, made.header() + made.record(made.EVENT, stored=2**63)),
    "newer": (BY_DIRECTORY, made.header(version=2) + made.record(made.EVENT)),
    "other": (BY_DIRECTORY, b"\x93NUMPY\x01\x00" + bytes(40)),
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, (how, content) in FILES.items():
        (HERE / name).write_bytes(bytes([how]) + content)
