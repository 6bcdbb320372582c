#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""embed: makes a C file of the page's files, compressed, for daemon/http/asset.h.

usage: embed.py OUTPUT FILE...      (this file and other Python among them are left out)

A module that index.html or start.js names becomes one script with all that it imports: the browser asks once. The
style, the icon and the script of the first paint stand in index.html itself, which so needs no further file to be
painted; the page's policy names style and script by their hashes (asset_policy_*). The same files give the same bytes:
nothing of the time or the place is in them.
"""
import base64
import gzip
import hashlib
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "python" / "attnd" / "notebook"))

from bundle import bundle  # noqa: E402

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
         ".svg": "image/svg+xml", ".png": "image/png"}
ROW = 20
STYLE = '<link rel="stylesheet" href="/assets/style.css">'
ICON = '<img src="/assets/icon.svg" alt="" width="22" height="22">'
SCRIPT = '<script src="/assets/start.js"></script>'


def array(name, data):
    rows = (", ".join(map(str, data[i:i + ROW])) for i in range(0, len(data), ROW))
    return f"static const unsigned char {name}[] = {{\n" + ",\n".join(rows) + "};\n"


def scripts(modules):
    """The modules that index.html and start.js name, each with all that it imports; together they use those that are
    given."""
    naming = "".join((HERE / name).read_text(encoding="utf-8") for name in ("index.html", "start.js"))
    texts = {name: bundle(HERE, name) for name in sorted(set(re.findall(r'"/assets/(\w+\.js)"', naming)))}
    used = {f"{name}.js" for text in texts.values() for name in re.findall(r"^\$modules\.(\w+) = ", text, re.MULTILINE)}
    for names, why in ((used - modules, "is not listed"), (modules - used, "is not used by the page")):
        if names:
            sys.exit(f"embed: {min(names)} {why}: mend the list in clients/web/meson.build")
    return {name: text.encode() for name, text in texts.items()}


def inlined(contents):
    """Puts the icon, the style and the first script into index.html, and takes the latter two out of the files. Returns
    their hashes, as a Content-Security-Policy has them."""
    index, hashes = contents["index.html"].decode(), {}
    if index.count(ICON) != 1:
        raise SystemExit(f"embed: index.html must have this once: {ICON}")
    index = index.replace(ICON, contents["icon.svg"].decode().strip().replace("<svg", '<svg aria-hidden="true" width="22" height="22"', 1))
    for name, link, tag in (("style.css", STYLE, "style"), ("start.js", SCRIPT, "script")):
        text = contents.pop(name).decode()
        if index.count(link) != 1 or f"</{tag}" in text:
            sys.exit(f"embed: {name} cannot stand in index.html, which must have once: {link}")
        index = index.replace(link, f"<{tag}>{text}</{tag}>")
        hashes[tag] = "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
    contents["index.html"] = index.encode()
    return hashes


def main(output, *files):
    paths = [pathlib.Path(file) for file in files if not file.endswith(".py")]
    modules = {path.name for path in paths if path.suffix == ".js" and path.resolve().parent == HERE}
    contents = {path.name: path.read_bytes() for path in paths if path.name not in modules}
    contents.update(scripts(modules))
    hashes = inlined(contents)
    arrays, entries = [], []
    for i, (name, content) in enumerate(contents.items()):
        packed = gzip.compress(content, 9, mtime=0)
        arrays.append(array(f"file_{i}", packed))
        entries.append(f'    {{"{name}", "{TYPES[pathlib.Path(name).suffix]}", "\\"{hashlib.sha256(content).hexdigest()[:16]}\\"", '
                       f"file_{i}, {len(packed)}, {len(content)}}},\n")
    pathlib.Path(output).write_text('#include "daemon/http/asset.h"\n\n' + "\n".join(arrays) +
                                    "\nconst struct asset assets[] = {\n" + "".join(entries) + "};\n"
                                    "const size_t asset_count = sizeof assets / sizeof assets[0];\n" +
                                    "".join(f'const char asset_policy_{tag}[] = "{text}";\n' for tag, text in hashes.items()))


if __name__ == "__main__":
    main(*sys.argv[1:])
