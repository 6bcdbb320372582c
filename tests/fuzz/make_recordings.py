#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes recordings/: small recordings, good ones and ones that are bad in one way each: what the replay test of
fuzz_recording runs, and what the fuzzer starts from. Checksums are right unless they are what is bad: a fuzzer does
not find them by itself."""
import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).parent / "recordings"


def header(version=1, flags=0, created=1700000000000000000):
    fields = b"\x89attnd\r\n" + struct.pack("<IIQI", version, flags, created, 0)
    return fields + struct.pack("<I", zlib.crc32(fields))


def record(frames, packed=False, payload=None, sizes=None, count=None, stored=None, flags=None, received=5):
    content = b"".join(frames)
    payload = (zlib.compress(content, 1) if packed else content) if payload is None else payload
    sizes = [len(frame) for frame in frames] if sizes is None else sizes
    body = struct.pack(f"<{len(sizes)}Q", *sizes) + payload
    fields = struct.pack("<IQQII", zlib.crc32(body), len(body) if stored is None else stored, received,
                         int(packed) if flags is None else flags, len(sizes) if count is None else count)
    return struct.pack("<I", zlib.crc32(fields)) + fields + body


EVENT = [b"event/gpt/", b"\x80"]
TENSOR = [b"tensor/gpt/decoder/0/self/", b"\x81\xa1v\x01", bytes(64), b""]
FILES = {
    "empty": header(),
    "good": header() + record(EVENT) + record(TENSOR),
    "packed": header() + record(TENSOR, packed=True) + record(EVENT),
    "newer": header(version=2) + record(EVENT),
    "flags": header(flags=1) + record(EVENT),
    "other": b"\x93NUMPY\x01\x00" + bytes(40),
    "no_frames": header() + record([], payload=b"x"),
    "many_frames": header() + record([b"x"] * 64),
    "too_many_frames": header() + record([b"x"] * 65),
    "count_huge": header() + record(EVENT, count=2**32 - 1),
    "unknown_flag": header() + record(EVENT, flags=4),
    "sum_wraps": header() + record(EVENT, sizes=[2**64 - 1, 12]),
    "sum_short": header() + record(EVENT, sizes=[10, 0]),
    "stored_huge": header() + record(EVENT, stored=2**63),
    "stored_small": header() + record(EVENT, stored=8),
    "bomb": header() + record([b"x"], packed=True, sizes=[2**34]),
    "stream_short": header() + record(TENSOR, packed=True, payload=zlib.compress(b"".join(TENSOR))[:-4]),
    "stream_long": header() + record(TENSOR, packed=True, payload=zlib.compress(b"".join(TENSOR)) + b"x"),
    "stream_more": header() + record([b"x" * 100], packed=True, sizes=[99]),
    "no_stream": header() + record(EVENT, packed=True, payload=b"\xff" * 20),
    "damaged": header() + record(EVENT) + record(TENSOR)[:-1] + b"\x01" + record(EVENT),
    "zeros": header() + record(EVENT) + bytes(100),
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (HERE / f"{name}.rec").write_bytes(content)
