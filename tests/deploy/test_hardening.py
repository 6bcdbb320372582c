# SPDX-License-Identifier: MIT
"""The compiler and the linker harden the binaries against those who would take them over."""
import os
import re
import subprocess
from pathlib import Path

import pytest

LIBRARY = Path(os.environ["ATTND_BUILD"]) / "clients/c/libattn.so"
PROGRAMS = [Path(os.environ["ATTND_BIN"]), Path(os.environ["ATTNCTL_BIN"])]


def readelf(option, path):
    return subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True, check=True, timeout=60).stdout


def missing(path):
    """The measures that a binary lacks."""
    segments, dynamic = readelf("-l", path), readelf("-d", path)
    imported = set(re.findall(r" UND (\w+)", readelf("--dyn-syms", path)))
    stack = re.search(r"^ +GNU_STACK .* (R\S*) +0x\w+$", segments, re.M)
    has = {
        "position independent": re.search(r"Type: +DYN ", readelf("-h", path)),
        "bound at start": "BIND_NOW" in dynamic,
        "read-only relocations": re.search(r"^ +GNU_RELRO ", segments, re.M),
        "no executable stack": stack and "E" not in stack.group(1),
        "nothing writable and executable": not re.search(r"^ +LOAD .* RWE ", segments, re.M),
        "stack protector": "__stack_chk_fail" in imported,
        "checked functions": any(re.fullmatch(r"__(?!stack)\w+_chk", name) for name in imported),
    }
    return sorted(measure for measure, there in has.items() if not there)


@pytest.mark.parametrize("path", [*PROGRAMS, LIBRARY], ids=lambda path: path.name)
def test_a_binary_is_hardened(path):
    assert missing(path) == []


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)
def test_a_program_is_placed_anywhere(path):
    """A shared object that has an interpreter is a program."""
    assert "Flags: NOW PIE" in readelf("-d", path) and "INTERP" in readelf("-l", path)


def test_attnctl_is_a_client():
    needed = readelf("-d", PROGRAMS[1])
    assert [name for name in ("sqlite3", "curl", "microhttpd", "uv", "yaml") if f"[lib{name}" in needed] == []


def test_a_binary_that_is_not_is_noticed(tmp_path):
    source = tmp_path / "bare.c"
    source.write_text('#include <stdio.h>\nint main(void) { return puts("bare") < 0; }\n')
    subprocess.run(["cc", "-no-pie", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-Wl,-z,lazy,-z,norelro,-z,execstack", source,
                    "-o", tmp_path / "bare"], check=True, capture_output=True, timeout=60)
    assert missing(tmp_path / "bare") == ["bound at start", "checked functions", "no executable stack", "position independent",
                                          "read-only relocations", "stack protector"]
