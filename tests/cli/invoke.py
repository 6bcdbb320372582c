# SPDX-License-Identifier: MIT
"""attnctl in a process of its own, in the test's folder (conftest.py): files to give it, and its sentence when it cannot."""
import json
import os
import pathlib
import struct
import subprocess

import numpy as np

import numbers_f64 as f64

ATTNCTL = os.path.abspath(os.environ.get("ATTNCTL") or os.environ["ATTNCTL_BIN"])


def attnctl(*words, **options):
    return subprocess.run([ATTNCTL, *map(str, words)], encoding="utf-8", timeout=120, **{"capture_output": True, **options})


def sentence(done, code=2):
    """On standard error, which is all there is."""
    assert done.returncode == code and done.stdout == "", done
    assert done.stderr.startswith("attnctl: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr[len("attnctl: "):-1]


def npz(*arrays, **named):
    np.savez("x.npz", *arrays, **named)
    return "x.npz"


def write_safetensors(path, arrays):
    """{name: (dtype, array)}; BF16 takes its raw u2."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in arrays.items():
        header[name] = {"dtype": dtype, "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + array.nbytes]}
        data += array.tobytes()
    text = json.dumps(header).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + data)


def attend(seed, valid=True, shape=(2, 4, 24, 24)):
    """Maps whose rows sum to 1 over the valid keys, [Tq,Tk] or [B,Tq,Tk]."""
    valid = np.asarray(valid)
    return f64.softmax(2 * np.random.default_rng(seed).normal(size=shape), valid[:, None] if valid.ndim == 3 else valid)
