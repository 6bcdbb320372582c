# SPDX-License-Identifier: MIT
"""scalars: the numbers that a training reports itself, such as its loss, and what it was started with.

Whatever is given, nothing is raised: the training comes first. A number on a device is copied there and read by the
sender thread, so that the training does not wait for it.
"""
from __future__ import annotations

import math
from typing import Any, Callable, Dict, Iterator, Mapping, Optional

from ..base.wire import printable

VALUES_MAX = 32  # of one message
SETTINGS_MAX = 64
NAME_BYTES_MAX = 64
TEXT_BYTES_MAX = 256
NOT_CAPTURED = "attnd.not_captured"  # the setting by which watch() says which attention is not captured, and why
LOG_BYTES = 2048  # of a message in the queue, about

Values = Dict[str, Any]  # floats, None for what is not finite, and HostCopy of what is on a device
Refuse = Callable[[Any, str], None]  # told a name and why its value is not reported


def taken(values: Mapping[Any, Any], refuse: Refuse) -> Values:
    """The values as they are now: what the training does to its tensors next does no harm."""
    found: Values = {}
    try:
        items = list(values.items())
    except Exception:  # objects of others
        refuse(values, f"{type(values).__name__} is no mapping of names to numbers")
        return found
    for name, value in items:
        if not isinstance(name, str) or _text(name, NAME_BYTES_MAX) != name or not name:
            refuse(name, f"a name is 1 to {NAME_BYTES_MAX} bytes of printable text")
            continue
        try:
            found[name] = _number(value)
        except Exception:  # objects of others
            refuse(name, f"{type(value).__name__} is no single number")
    return found


def ready(values: Values, refuse: Refuse) -> Dict[str, Optional[float]]:
    """The numbers; waits for those on a device."""
    found: Dict[str, Optional[float]] = {}
    for name, value in values.items():
        try:
            found[name] = value if value is None or isinstance(value, float) else _finite(value.floats().item())
        except Exception:
            refuse(name, "it could not be read")
    return found


def is_ready(values: Values) -> bool:
    """Whether ready() has nothing to wait for."""
    return all(value is None or isinstance(value, float) for value in values.values())


def messages(values: Values) -> Iterator[Values]:
    """The values in parts of what one message may have."""
    names = list(values)
    for first in range(0, len(names), VALUES_MAX):
        yield {name: values[name] for name in names[first:first + VALUES_MAX]}


def numbers(given: Mapping[Any, Any]) -> Values:
    """The values among these that are single numbers, by names that can be reported."""
    return {name: value for name, value in given.items() if isinstance(name, str) and 0 < len(name.encode()) <= NAME_BYTES_MAX
            and not isinstance(value, (bool, str)) and (isinstance(value, (int, float)) or getattr(value, "shape", None) == ())}


def settings(given: Mapping[Any, Any]) -> Dict[str, Any]:
    """Keeps of them what a `hello` can carry: numbers, booleans and texts as they are, anything else as text; None is left
    out, and so is what is beyond the 64th."""
    found: Dict[str, Any] = {}
    for name, value in given.items():
        key = _text(str(_setting(name)), NAME_BYTES_MAX)
        if key and value is not None and len(found) < SETTINGS_MAX:
            found[key] = _setting(value)
    return found


def _setting(value: Any) -> Any:
    try:
        if getattr(value, "shape", None) == ():  # a number of numpy or torch
            value = value.item()
        if isinstance(value, bool):
            return value
        if isinstance(value, (int, float)):
            number = float(value) if abs(value) < 2**1023 else math.nan
            if math.isfinite(number):
                return int(value) if isinstance(value, int) and abs(value) < 2**53 else number
        return _text(str(getattr(value, "value", value)), TEXT_BYTES_MAX)  # an enum says its value
    except Exception:  # objects of others
        return type(value).__name__


def _number(value: Any) -> Any:
    if isinstance(value, (str, bytes)):  # which float() would read
        raise TypeError("text")
    if not hasattr(value, "detach"):
        return _finite(float(value.item() if hasattr(value, "item") else value))
    if value.numel() != 1:
        raise ValueError("several numbers")
    if value.device.type == "cpu":
        return _finite(float(value.detach()))
    from .devices import HostCopy
    return HostCopy(value)


def _finite(number: float) -> Optional[float]:
    return number if math.isfinite(number) else None


def _text(text: str, bytes_max: int) -> str:
    """'?' for what is no printable character, and no more than `bytes_max` bytes."""
    return printable(text).encode(errors="replace")[:bytes_max].decode(errors="ignore")
