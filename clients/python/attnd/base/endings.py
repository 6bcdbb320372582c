# SPDX-License-Identifier: MIT
"""endings: the exception that ends a training, in the words that its `bye` carries.

Nobody's sys.excepthook is replaced: the interpreter itself notes the exception that ends the program (sys.last_value)
before it calls that hook, and functions of atexit come after. In an interactive session the same variable has the
exception of some earlier cell, which has ended nothing.
"""
from __future__ import annotations

import os
import sys
from typing import Dict, Optional

OVER = ("ended", "failed")  # states of a run of which nothing more is to come
TYPE_BYTES, TEXT_BYTES = 128, 256
Failure = Dict[str, str]


def failure_of(error: Optional[BaseException]) -> Optional[Failure]:
    """The `failure` of a bye: type, first line and place of the exception. None for what is no failure: nothing, an
    interruption from the keyboard, an exit with status 0, and an exception whose class says `ends_well`."""
    if error is None or isinstance(error, (KeyboardInterrupt, GeneratorExit)) or getattr(error, "ends_well", False):
        return None
    if isinstance(error, SystemExit) and error.code in (None, 0, False):
        return None
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # of somebody else's class
        lines = []
    return {"type": _plain(type(error).__name__, TYPE_BYTES) or "Exception", "message": _plain(lines[0] if lines else "", TEXT_BYTES),
            "where": _plain(_place(error), TEXT_BYTES)}


def uncaught() -> Optional[BaseException]:
    """At the end of the program: the exception that ended it, if one did."""
    if is_interactive():
        return None
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return error if isinstance(error, BaseException) else None


def is_interactive() -> bool:
    """Whether somebody types: after an exception this process goes on."""
    ipython = sys.modules.get("IPython")
    return hasattr(sys, "ps1") or bool(sys.flags.interactive) or (ipython is not None and ipython.get_ipython() is not None)


def _place(error: BaseException) -> str:
    """"train.py:31: main", the last line of the traceback without directories."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    if at is None:
        return ""
    code = at.tb_frame.f_code
    return f"{os.path.basename(code.co_filename)}:{at.tb_lineno}: {code.co_name}"


def _plain(text: str, most: int) -> str:
    """Without control characters, in at most so many bytes of UTF-8."""
    shown = "".join("?" if ord(char) < 0x20 or 0x7f <= ord(char) <= 0x9f else char for char in text)
    return shown.encode("utf-8", "replace")[:most].decode("utf-8", "ignore")
