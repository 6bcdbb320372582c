#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the corpus of fuzz_store: damages to a history's file, by what they hit."""

import pathlib
import random
import struct

PAGE = 8192


def damage(at, data):
    return struct.pack("<I", at)[:3] + bytes([len(data)]) + data


def main():
    folder = pathlib.Path(__file__).parent / "store"
    folder.mkdir(exist_ok=True)
    draw = random.Random(4)
    noise = lambda count: bytes(draw.randrange(256) for _ in range(count))
    cases = {
        "nothing": b"",
        "magic": damage(0, b"no database"),
        "page_size": damage(16, b"\x00\x01"),
        "page_count": damage(28, b"\xff\xff\xff\xff"),
        "freelist": damage(32, b"\x00\x00\x00\x02\x00\x00\x00\x10"),
        "user_version": damage(60, b"\x00\x00\x00\x00"),
        "schema_text": damage(PAGE - 60, noise(10)),
        "schema_cells": damage(100, noise(10)),
        "pointer_map": damage(PAGE, noise(10)),
    }
    for page in (2, 3, 6, 9, 14, 20):
        cases[f"page_{page:02}_head"] = damage(page * PAGE, noise(8))
    cases["everywhere"] = b"".join(damage(draw.randrange(40 * PAGE), noise(2)) for _ in range(5))
    for name, data in cases.items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
