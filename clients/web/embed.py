#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""embed: makes a C file of the page's files, compressed, for daemon/http/asset.h.

usage: embed.py OUTPUT FILE...      (this file among them is left out)

The same files give the same bytes: nothing of the time or the place is in them.
"""
import gzip
import hashlib
import pathlib
import sys

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml", ".png": "image/png"}
ROW = 20


def array(name, data):
    rows = (", ".join(map(str, data[i:i + ROW])) for i in range(0, len(data), ROW))
    return f"static const unsigned char {name}[] = {{\n" + ",\n".join(rows) + "};\n"


def main(output, *files):
    paths = [pathlib.Path(file) for file in files if not file.endswith(".py")]
    arrays, entries = [], []
    for i, path in enumerate(paths):
        content = path.read_bytes()
        packed = gzip.compress(content, 9, mtime=0)
        arrays.append(array(f"file_{i}", packed))
        entries.append(f'    {{"{path.name}", "{TYPES[path.suffix]}", "\\"{hashlib.sha256(content).hexdigest()[:16]}\\"", '
                       f"file_{i}, {len(packed)}, {len(content)}}},\n")
    pathlib.Path(output).write_text('#include "daemon/http/asset.h"\n\n' + "\n".join(arrays) +
                                    "\nconst struct asset assets[] = {\n" + "".join(entries) + "};\n"
                                    "const size_t asset_count = sizeof assets / sizeof assets[0];\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
