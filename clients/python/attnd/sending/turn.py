# SPDX-License-Identifier: MIT
"""turn: how long the sender thread works before the training has the interpreter to itself for as long.

Each operation of the training gives the interpreter's lock away, and gets it back from a thread that works in Python after
sys.getswitchinterval(), 5 ms: beside a second of such work a step that has some hundred operations takes a second more. So what
has gathered while attnd was away is not worked off at a stretch.
"""
from __future__ import annotations

import time

WORK_S = 0.005  # of processor time: waiting for the lock, a device or a process is no work
REST_MAX_S = 0.1


class Turn:
    """That of the thread which calls begin(); the others are for the same thread."""

    def __init__(self) -> None:
        self._began = 0.0

    def begin(self) -> None:
        """Nothing was done in it yet."""
        self._began = time.thread_time()

    @property
    def is_over(self) -> bool:
        """Whether it is time to rest."""
        return self._worked_s() >= WORK_S

    @property
    def rest_s(self) -> float:
        """The seconds to rest: as many as it has worked, and no more than anybody should wait for the next message."""
        return min(self._worked_s(), REST_MAX_S)

    def _worked_s(self) -> float:
        return time.thread_time() - self._began
