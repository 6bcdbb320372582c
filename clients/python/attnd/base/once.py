# SPDX-License-Identifier: MIT
"""once: warnings about a job that are told the first time only."""
from __future__ import annotations

import logging
from typing import Any, Dict

log = logging.getLogger("attnd")


class Once:
    """The warnings of one job. Any thread."""

    def __init__(self, job: str):
        self._job = job
        self._told: Dict[str, object] = {}

    def warn(self, about: str, text: str, *values: Any, exc_info: bool = False) -> None:
        """Warns, unless that about the same was told before. `values` take the places of `text`, as logging has it."""
        mark = object()
        if self._told.setdefault(about, mark) is mark:  # one step, so that of two threads one tells
            log.warning(f"job %s: {text}", self._job, *values, exc_info=exc_info)

    def again(self, about: str) -> None:
        """The next warning about this is told."""
        self._told.pop(about, None)

    def __contains__(self, about: str) -> bool:
        """Whether one about this was told."""
        return about in self._told
