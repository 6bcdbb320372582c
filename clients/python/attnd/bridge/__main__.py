# SPDX-License-Identifier: MIT
"""python -m attnd.bridge: see cli."""
from __future__ import annotations

import sys


def run() -> int:
    """The exit status; 2 without the packages that all of attnd needs."""
    try:
        from .cli import main
    except ModuleNotFoundError as error:
        print(f"attnd.bridge: {sys.executable} has no {error.name}: pip install numpy pyzmq msgpack, or take another "
              "Python (ATTND_PYTHON for attnctl bridge)", file=sys.stderr)
        return 2
    return main()


sys.exit(run())
