# SPDX-License-Identifier: MIT
"""Judges what pip would install: pip_plan.py REPORT MEGABYTES, a report of `pip install --dry-run --report`.

Exit status 0 when there is nothing made for CUDA in it and at most the given number of million bytes is to be downloaded (files
of this machine are not); else 1, and why is said in one line.
"""
import json
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

CUDA = re.compile(r"(nvidia|cuda|cupy|pytorch-triton)(-|$)")
TIMEOUT_S = 30


def certificates():
    """Trust the hosts that pip is told to trust."""
    return ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)


def size_of(package):
    """(name, bytes to download); bytes is None when nobody tells."""
    name, url = package["metadata"]["name"], package["download_info"]["url"]
    if not url.startswith("http"):
        return name, 0
    try:
        request = urllib.request.Request(url.split("#")[0], method="HEAD")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=certificates()) as answer:
            return name, int(answer.headers["Content-Length"])
    except (OSError, TypeError, ValueError):
        return name, None


def judge(packages, megabytes):
    """Why these are not to be installed, or None."""
    for_cuda = sorted(name for name in (package["metadata"]["name"].lower() for package in packages)
                      if CUDA.match(name))
    if for_cuda:
        more = f" and {len(for_cuda) - 1} more" if len(for_cuda) > 1 else ""
        return f"the index has a CUDA build ({for_cuda[0]}{more}); set pip up for one with CPU builds"
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(size_of, packages))
    unknown = [name for name, size in sizes if size is None]
    if unknown:
        return f"the index does not tell how large {', '.join(unknown[:3])} is"
    total = sum(size for _, size in sizes) / 1e6
    if total > megabytes:
        return f"{total:.0f} million bytes to download, more than {megabytes} (ATTND_FRAMEWORKS_MB)"
    return None


def main():
    with open(sys.argv[1], encoding="utf-8") as report:
        why = judge(json.load(report)["install"], int(sys.argv[2]))
    if why:
        sys.exit(why)


if __name__ == "__main__":
    main()
