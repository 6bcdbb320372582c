# SPDX-License-Identifier: MIT
"""What the kernel tests have in common: dtypes as bytes, and running a command line of this folder."""

import json
import os
import subprocess

import numpy as np

DTYPES = ["f32", "f64", "f16", "bf16"]
# Precision of the arithmetic, which is f32 for the narrow ones.
EPS = {"f32": 2.0**-23, "f64": 2.0**-52, "f16": 2.0**-23, "bf16": 2.0**-23}
# The part of the cases that is run.
SHARE = float(os.environ.get("KERNEL_CASES", "0.1"))


def encode(x, dtype):
    """float64 as the little-endian numbers of a message; bf16 rounds to nearest even."""
    with np.errstate(over="ignore"):
        if dtype != "bf16":
            return x.astype({"f32": "<f4", "f64": "<f8", "f16": "<f2"}[dtype])
        bits = x.astype("<f4").view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype("<u2")


def decode(raw, dtype):
    if dtype == "bf16":
        with np.errstate(invalid="ignore"):  # signalling NaNs
            return (raw.astype("<u4") << 16).view("<f4").astype(np.float64)
    return raw.astype(np.float64)


def csv(values):
    return ",".join(str(int(v)) for v in values)


def write(folder, name, array):
    """Writes the array to a file of that name; the argument that says so."""
    path = os.path.join(folder, name)
    np.ascontiguousarray(array).tofile(path)
    return f"{name}={path}"


def run_json(args):
    done = subprocess.run(args, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(args)}\n{done.stderr}"
    return json.loads(done.stdout)


def instruction_sets(cli):
    """Of this machine, the scalar reference first; KERNEL_ISA chooses some of them."""
    if not cli:
        return ["scalar"]
    known = subprocess.run([cli, "isa=list"], capture_output=True, text=True, check=True).stdout.split()
    asked = os.environ.get("KERNEL_ISA")
    return [name for name in known if asked is None or name in asked.split(",")]
