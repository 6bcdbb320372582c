#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes arrays/: small array files, good ones and ones that are bad in one way each: what the replay test of
fuzz_arrays runs, and what the fuzzer starts from."""
import io
import json
import pathlib
import struct
import zipfile

import numpy as np

HERE = pathlib.Path(__file__).parent / "arrays"


def npy(array, **kwargs):
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **kwargs)
    return out.getvalue()


def npy_header(text, version=1):
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text.encode()


def npz(entries, method=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return out.getvalue()


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def flip(content, needle, replacement):
    assert needle in content
    return content.replace(needle, replacement)


maps = np.arange(2 * 3 * 3, dtype="<f4").reshape(2, 3, 3)
deflated = npz({"arr_0.npy": npy(np.zeros((40, 40), "<f4"))}, zipfile.ZIP_DEFLATED)
FILES = {
    "plain.npy": npy(maps),
    "fortran.npy": npy(np.asfortranarray(maps)),
    "version_2.npy": npy(maps, version=(2, 0)),
    "version_3.npy": npy(maps, version=(3, 0)),
    "version_9.npy": flip(npy(maps), b"NUMPY\x01", b"NUMPY\x09"),
    "scalar.npy": npy(np.float64(3.5)),
    "empty_axis.npy": npy(np.zeros((2, 0, 3))),
    "big_endian.npy": npy(maps.astype(">f4")),
    "objects.npy": npy(np.array([None, "x"], object)),
    "record.npy": npy(np.zeros(2, [("a", "<f4"), ("b", "|u1", (2,))])),
    "short.npy": npy(maps)[:-1],
    "long.npy": npy(maps) + b"\0",
    "huge.npy": npy_header("{'descr': '<f8', 'fortran_order': True, 'shape': (4294967296, 4294967296, 8)}"),
    "huge_header.npy": b"\x93NUMPY\x02\0\xff\xff\xff\xff{'descr'",
    "no_dictionary.npy": npy_header("('descr', '<f4')"),
    "open_string.npy": npy_header("{'descr': '<f4"),
    "open_list.npy": npy_header("{'descr': [('a', '<f4'"),
    "stored.npz": npz({"decoder.0.self.npy": npy(maps), "mask.npy": npy(np.ones((3, 3), bool))}),
    "deflated.npz": deflated,
    "empty.npz": npz({}),
    "not_npy.npz": npz({"data.pkl": b"\x80\x02."}),
    "short_entry.npz": npz({"x.npy": npy(maps)[:-4]}),
    "bad_header.npz": npz({"x.npy": b"\x93NUMPY"}),
    "bad_checksum.npz": flip(npz({"x.npy": npy(maps)}), np.float32(7).tobytes(), np.float32(9).tobytes()),
    "bad_deflate.npz": deflated[:120] + bytes(16) + deflated[136:],
    "bzip.npz": npz({"x.npy": npy(maps)}, zipfile.ZIP_BZIP2),
    "one.safetensors": safetensors({"decoder.0.self": tensor("F32", [2, 3, 3], 0, 72)}, maps.tobytes()),
    "many.safetensors": safetensors({"__metadata__": {"format": "pt"}, "a": tensor("BF16", [2], 4, 8),
                                     "b": tensor("F8_E4M3", [4], 0, 4), "c": tensor("BOOL", [], 8, 9)}, bytes(9)),
    "overlap.safetensors": safetensors({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, bytes(6)),
    "hole.safetensors": safetensors({"a": tensor("U8", [4], 4, 8)}, bytes(8)),
    "beyond.safetensors": safetensors({"a": tensor("U8", [4], 0, 4)}, bytes(3)),
    "negative.safetensors": safetensors({"a": tensor("U8", [-4], 0, 4)}, bytes(4)),
    "overflow.safetensors": safetensors({"a": tensor("I64", [2**62, 2**62], 0, 0)}),
    "deep.safetensors": safetensors(b'{"a":' + b"[" * 100),
    "not_object.safetensors": safetensors([1, 2]),
    "long_header.safetensors": struct.pack("<Q", 2**63) + b"{}",
    "nothing.safetensors": safetensors({}),
}

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (HERE / name).write_bytes(content)
