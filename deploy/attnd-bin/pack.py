#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Packs the wheel attnd-bin from what deploy/wheel put together, and prints its path; and beside it the source archive
that says why where no wheel fits (refuse.py).

Usage: pack.py --version VERSION --tag PLATFORM --readme FILE TREE OUTPUT

TREE has the folders scripts, data (share/man and so on) and licenses. Packing twice gives the same bytes twice: the
order is by name, and the time $SOURCE_DATE_EPOCH.
"""
import argparse
import base64
import gzip
import hashlib
import io
import os
import tarfile
import time
import zipfile
from pathlib import Path

METADATA = """\
Metadata-Version: 2.1
Name: attnd-bin
Version: {version}
Summary: The daemon attnd and its command line attnctl, as programs for Linux
License: MIT, and the licences of the libraries in it (.dist-info/licenses)
Classifier: License :: OSI Approved :: MIT License
Classifier: Operating System :: POSIX :: Linux
Classifier: Programming Language :: C
Requires-Python: >=3.9
Description-Content-Type: text/markdown

{readme}"""

WHEEL = """\
Wheel-Version: 1.0
Generator: attnd deploy/wheel
Root-Is-Purelib: false
Tag: py3-none-{tag}
"""


PYPROJECT = """\
[build-system]
requires = []
build-backend = "refuse"
backend-path = ["."]
"""


class Archive:
    """A zip file, and the lines of its RECORD."""

    def __init__(self, path, epoch):
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9)
        self.time = time.gmtime(max(epoch, 315532800))[:6]  # a zip file's time begins in 1980
        self.record = []

    def add(self, name, content, mode=0o644):
        entry = zipfile.ZipInfo(name, self.time)
        entry.external_attr = (0o100000 | mode) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        self.zip.writestr(entry, content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        self.record.append(f"{name},sha256={digest},{len(content)}")

    def add_tree(self, folder, prefix, mode=0o644):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            self.add(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes(), mode)

    def close(self, info):
        name = f"{info}/RECORD"
        self.add(name, "".join(f"{line}\n" for line in [*self.record, f"{name},,"]).encode())
        self.zip.close()


def pack(options):
    stem = f"attnd_bin-{options.version}"
    path = options.output / f"{stem}-py3-none-{options.tag}.whl"
    unfinished = path.with_suffix(".part")
    info = f"{stem}.dist-info"
    archive = Archive(unfinished, int(os.environ["SOURCE_DATE_EPOCH"]))
    archive.add_tree(options.tree / "scripts", f"{stem}.data/scripts", 0o755)
    archive.add_tree(options.tree / "data", f"{stem}.data/data")
    archive.add_tree(options.tree / "licenses", f"{info}/licenses")
    metadata = METADATA.format(version=options.version, readme=options.readme.read_text())
    archive.add(f"{info}/METADATA", metadata.encode())
    archive.add(f"{info}/WHEEL", WHEEL.format(tag=options.tag).encode())
    archive.close(info)
    unfinished.replace(path)
    return path


def pack_refusal(options):
    stem = f"attnd_bin-{options.version}"
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    contents = {"PKG-INFO": METADATA.format(version=options.version, readme=options.readme.read_text()),
                "pyproject.toml": PYPROJECT, "refuse.py": Path(__file__).with_name("refuse.py").read_text()}
    with gzip.GzipFile(options.output / f"{stem}.tar.gz", "wb", mtime=epoch) as file, \
            tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in contents.items():
            entry = tarfile.TarInfo(f"{stem}/{name}")
            entry.mtime, entry.size, entry.mode = epoch, len(text.encode()), 0o644
            archive.addfile(entry, io.BytesIO(text.encode()))


def main():
    parser = argparse.ArgumentParser()
    for name in ("--version", "--tag"):
        parser.add_argument(name, required=True)
    parser.add_argument("--readme", required=True, type=Path)
    parser.add_argument("tree", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    pack_refusal(options)
    print(pack(options))


if __name__ == "__main__":
    main()
