# SPDX-License-Identifier: MIT
"""exits: what is still open at the end of the program is closed then, before modules that were imported earlier end."""
from __future__ import annotations

import atexit
import weakref
from typing import Any


is_exit = False  # the program ends


def closed_at_exit() -> "weakref.WeakSet[Any]":
    """A set whose members are closed at the end of the program; of several sets the last one first."""
    live: "weakref.WeakSet[Any]" = weakref.WeakSet()

    def close_all() -> None:
        global is_exit
        is_exit = True
        for each in list(live):
            each.close()

    atexit.register(close_all)
    return live
