# SPDX-License-Identifier: MIT
"""cost: what capturing costs a training, as far as attnd can tell: the time that its own code takes from the training's
thread in a captured step, and the time of the device that it uses; against the time of a step without that. Rows whose sums
the sender thread computes take its processor time, as if it were a device.

The time of the thread and that of the device are added, though the thread launches while the device computes: the cost
is told rather too high.

Not in it: torch functions take a microsecond longer while they are looked at, and what was compiled runs eagerly.
"""
from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, TypeVar

STEPS_UNSETTLED = 3  # the first ones, which compile, allocate and import
BLOCK_STEPS = 8  # a training need not wait for its device in each step: some in succession tell the time of one
BLOCKS = 16
CAPTURES = 16
CAPTURES_MIN = 3  # until the cost is told: one of them that compiles is not their median
NEWS_FACTOR = 1.25  # a change by less is none
NEGLIGIBLE = 1e-4  # of a step
Made = TypeVar("Made")


class Measured(NamedTuple):
    """Seconds of a step in which nothing is captured, and those that a captured one takes in addition."""
    step_seconds: float
    capture_seconds: float

    @property
    def ratio(self) -> float:
        """The part of a step that capturing takes when every step is captured."""
        return self.capture_seconds / self.step_seconds


class Cost:
    """Measures one training. step_ends() and measured() are for the training's thread, spent() for any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended_at: Optional[float] = None
        self._unsettled = STEPS_UNSETTLED
        self._block: List[float] = []
        self._blocks: Deque[float] = deque(maxlen=BLOCKS)  # mean time of a step in each
        self._captures: Dict[int, List[float]] = {}  # by step, oldest first: seconds of the thread, and of the device
        self._first: Optional[int] = None  # step that was captured
        self._uses_device = False
        self._told: Optional[Measured] = None

    def spent(self, step: int, seconds: float, device: bool = False) -> None:
        """Capturing this step took so long of the training's thread, or of the device; adds up."""
        with self._lock:
            if self._first is None:
                self._first = step
            while step not in self._captures and len(self._captures) >= CAPTURES:
                del self._captures[next(iter(self._captures))]
            self._captures.setdefault(step, [0.0, 0.0])[device] += seconds
            self._uses_device = self._uses_device or device

    def of_sender(self, step: int, make: Callable[[], Made]) -> Made:
        """Calls `make` on the sender thread, whose processor time may be the training's: it counts as that of a device."""
        began = time.thread_time()
        try:
            return make()
        finally:
            self.spent(step, time.thread_time() - began, device=True)

    def step_ends(self, step: int) -> bool:
        """The training has done this step; whether there may be news."""
        now = time.perf_counter()
        began, self._ended_at = self._ended_at, now
        if began is None or self._unsettled > 0:
            self._unsettled -= began is not None
            return False
        own = self._captures.get(step)
        self._block.append(max(0.0, now - began - (0.0 if own is None else own[0])))
        if len(self._block) < BLOCK_STEPS:
            return False
        self._blocks.append(statistics.fmean(self._block))
        self._block.clear()
        return True

    def measured(self) -> Optional[Measured]:
        """The measurement so far; None: there is not enough of one. Medians, as a pause of the machine is no cost. The
        first capture, which imports and allocates, does not count, nor does one that the device may not be done with."""
        with self._lock:
            counted = [sum(seconds) for step, seconds in self._captures.items() if step != self._first]
        if self._uses_device:
            counted = counted[:-1]
        if len(counted) < CAPTURES_MIN or not self._blocks:
            return None
        step_seconds = statistics.median(self._blocks)
        return Measured(step_seconds, statistics.median_low(counted)) if step_seconds > 0 else None

    def news(self) -> Optional[Measured]:
        """The measurement so far, when it was not told yet or has changed by much since."""
        now, told = self.measured(), self._told
        if now is None or (told is not None and not _differ(now.ratio, told.ratio)):
            return None
        self._told = now
        return now


def _differ(a: float, b: float) -> bool:
    return max(a, b) > NEGLIGIBLE and not a / NEWS_FACTOR <= b <= a * NEWS_FACTOR


def percent(part: float) -> str:
    """A part as people read it: "0.3 %"."""
    number = 100 * part
    return "less than 0.1 %" if number < 0.1 else f"{number:.{0 if number >= 10 else 1}f} %"


def milliseconds(seconds: float) -> str:
    """A time as people read it: "1750 ms", "0.123 ms"."""
    number = 1e3 * seconds
    return f"{number:.0f} ms" if number >= 100 else f"{number:.3g} ms"
