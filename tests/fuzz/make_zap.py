#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes zap/: requests to the handler of keys, good ones and ones that are bad in one way each, as fuzz_zap.c reads them."""
import pathlib

HERE = pathlib.Path(__file__).parent / "zap"
SOCKETS = ("ingest", "reliable", "control", "publish", "tap", "none", "")
GOOD = bytes([5])
PUBLISH, READ, PLAN, ADMIN = (bytes([role]) for role in range(1, 5))


def frame(data):
    return bytes([64, len(data) - 64]) + data if len(data) > 255 else bytes([0, len(data)]) + data


def request(*frames, key=PUBLISH, **others):
    """A good one, but for the frames of these numbers."""
    said = [GOOD] * 6 + [key] + list(frames)
    for index, data in others.items():
        said[int(index[1:])] = data
    return bytes([len(said) - 1]) + b"".join(said)


FILES = {
    **{f"{role}_{name}": request(key=key, _2=frame(name.encode()))
       for role, key in (("publish", PUBLISH), ("read", READ), ("plan", PLAN), ("admin", ADMIN)) for name in SOCKETS},
    "stranger": request(key=frame(bytes(32))),
    "key_short": request(key=frame(b"k" * 31)),
    "key_long": request(key=frame(b"k" * 33)),
    "key_text": request(key=frame(b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7")),
    "key_none": request(key=frame(b"")),
    "plain": request(_5=frame(b"PLAIN")),
    "null": request(_5=frame(b"NULL")),
    "version": request(_0=frame(b"1.1")),
    "version_none": request(_0=frame(b"")),
    "id_long": request(_1=frame(b"i" * 300)),
    "id_nul": request(_1=frame(b"a\x00b")),
    "address_wrong": request(_3=frame(b"\xff\x1b[2J\n" * 50)),
    "one_frame": bytes([0]) + GOOD,
    "six_frames": bytes([5]) + GOOD * 6,
    "eight_frames": request(frame(b"more")),
    "empty_frames": bytes([6]) + frame(b"") * 7,
    "longest": bytes([9]) + frame(b"x" * 319) * 10,
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (HERE / name).write_bytes(content)
