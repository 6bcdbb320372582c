# SPDX-License-Identifier: MIT
"""detours: sees the calls of a Python function, from wherever they come.

Models bind the kernels of other packages when they are imported (`from flash_attn import flash_attn_func`), into
modules, attributes and closures. A stand-in in the package's own module would not be called. So the function itself
gets other code while a step is captured: all references to it lead to the observer, nothing is searched for, and other
steps run the code that they always ran. That code has the observer as a constant of its own: a thread that has just
begun it finds the observer there, whoever ends the detour meanwhile.
"""
from __future__ import annotations

import functools
from types import CodeType, FunctionType
from typing import Any, Callable, Dict, Mapping, Tuple

Original = Callable[..., Any]
# Gets the function as it is without the detour, and what the caller passes; returns what the caller gets.
Observer = Callable[[Original, Tuple[Any, ...], Mapping[str, Any]], Any]


class Detour:
    """Leads all calls of one function to an observer, from now until end()."""

    def __init__(self, function: FunctionType, observe: Observer) -> None:
        self._function = function
        self._own = function.__code__
        original = FunctionType(self._own, function.__globals__, function.__name__, function.__defaults__,
                                function.__closure__)
        original.__kwdefaults__ = function.__kwdefaults__
        function.__code__ = _code(self._own.co_freevars, lambda args, kwargs: observe(original, args, kwargs))

    def end(self) -> None:
        """The function is as it was. Calls that run now end as they began."""
        self._function.__code__ = self._own


def _code(enclosed: Tuple[str, ...], leads_to: Callable[..., Any]) -> CodeType:
    """Code that calls what it leads to. Python requires as many enclosed variables as the function has."""
    code = _template(enclosed)
    return code.replace(co_consts=tuple(leads_to if one == _PLACE else one for one in code.co_consts))


@functools.lru_cache(None)
def _template(enclosed: Tuple[str, ...]) -> CodeType:
    uses = f"if False: {', '.join(enclosed)}" if enclosed else "pass"
    made: Dict[str, Any] = {}
    exec(f"def make({', '.join(enclosed)}):\n"
         "    def detour(*args, **kwargs):\n"
         f"        {uses}\n"
         f"        there = {_PLACE!r}\n"
         "        return there(args, kwargs)\n"
         "    return detour\n", made)
    code: CodeType = made["make"](*enclosed).__code__
    return code


_PLACE = "where the detour leads to"
