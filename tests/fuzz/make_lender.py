#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes lender/: what attnd says on the same-host lane, and what it does not, while a client lends: steps of
fuzz_lender.c."""
import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "lender"
LENDS, TAKES_BACK, FREE, REFUSED = 1, 2, 3, 4


def step(number, how=0):
    return bytes([number + 8 * how])


def take(place=0, size=0):
    return step(0, place + 4 * size)


def give(place=0):
    return step(1, place)


def name(place=0, sent=True):
    return step(2, place if sent else 24 + place)


def record(kind, buffer=0):
    return step(4, kind) + bytes([buffer])


def greet(buffers=8, quarters=64, how=0):
    return step(5) + bytes([how, buffers, quarters])


def raw(data):
    return step(6) + bytes([len(data)]) + data


TEND, AWAY, LEAVE = step(3), step(3, 24), step(7)
LENT = take() + TEND + greet() + record(FREE)
FILES = {
    "nothing": b"",
    "good": LENT + take() + name() + give() + record(FREE) + take() + name() + give() + AWAY,
    "not_free": LENT + take() + name() + give() + take() + TEND + record(FREE, 1) + take() + name(),
    "not_sent": LENT + take() + name(sent=False) + give() + take() + name(),
    "free_early": LENT + take() + name() + record(FREE) + take(1) + give() + take(1) + name(1),
    "not_lent": LENT + record(FREE, 7) + record(FREE, 200) + record(REFUSED, 9) + take() + name(),
    "refused": take() + TEND + greet() + record(REFUSED) + take() + TEND + take(),
    "refused_held": LENT + take() + name() + record(REFUSED) + take(1) + give() + take() + name(),
    "two": take() + take(1) + TEND + greet() + record(FREE) + record(FREE, 1) + take() + take(1) + name() + name(1) + record(FREE) * 2,
    "no_room": take() + take(1, 7) + take(2, 7) + TEND + greet(2, 16) + record(FREE) + record(FREE, 1) + take() + take(1, 7),
    "taken_back": LENT + take(0, 7) + take(1, 7) + TEND + record(FREE, 1) + take(0, 7) + take(1, 6) + TEND,
    "one_buffer": take() + take(1) + TEND + greet(1) + record(FREE),
    "no_buffers": take() + TEND + greet(0) + take(),
    "no_bytes": take() + TEND + greet(8, 0) + take(),
    "many": take() + TEND + greet(255, 255, 32) + record(FREE) + take(),
    "version": take() + TEND + greet(how=128) + take(),
    "magic": take() + TEND + greet(how=64) + take(),
    "greets_twice": LENT + greet() + take() + name(),
    "record_first": take() + TEND + record(FREE) + greet() + take(),
    "kinds": LENT + record(0) + record(LENDS) + record(TAKES_BACK) + record(5) + take() + name(),
    "hangs_up": LENT + take() + LEAVE + name() + give() + take() + TEND,
    "hangs_up_away": LENT + take() + name() + LEAVE + give() + TEND,
    "hangs_up_first": take() + TEND + LEAVE + TEND + take(),
    "short": LENT + raw(b"abc") + take() + name(),
    "empty": LENT + raw(b"") + take(),
    "long": LENT + raw(bytes(41)) + take(),
    "greeting_raw": take() + TEND + raw(b"attndmem" + struct.pack("<IIQ16s", 1, 8, 1 << 20, bytes(16))) + take() + TEND,
    "away": LENT + take() + AWAY + name() + give() + TEND,
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for title, content in FILES.items():
        (HERE / title).write_bytes(content)
