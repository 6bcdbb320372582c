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
from inspect import CO_VARARGS, CO_VARKEYWORDS
from types import CodeType, FunctionType
from typing import Any, Callable, Dict, Mapping, Tuple

Original = Callable[..., Any]
# Gets the function as it is without the detour, and what the caller passes; returns what the caller gets.
Observer = Callable[[Original, Tuple[Any, ...], Mapping[str, Any]], Any]


class Detour:
    """Leads all calls of one function to an observer, from now until end(). Whoever asks for its parameters meanwhile is told
    the same ones: packages look at them to find out which version they have."""

    def __init__(self, function: FunctionType, observe: Observer) -> None:
        self._function = function
        self._own = function.__code__
        original = FunctionType(self._own, function.__globals__, function.__name__, function.__defaults__,
                                function.__closure__)
        original.__kwdefaults__ = function.__kwdefaults__
        function.__code__ = _code(self._own, lambda args, kwargs: observe(original, args, kwargs))

    def end(self) -> None:
        """The function is as it was. Calls that run now end as they began."""
        self._function.__code__ = self._own


def _code(own: CodeType, leads_to: Callable[..., Any]) -> CodeType:
    """Code that has the parameters of a function's own and calls what it leads to."""
    count = own.co_argcount + own.co_kwonlyargcount + bool(own.co_flags & CO_VARARGS) + bool(own.co_flags & CO_VARKEYWORDS)
    code = _template(own.co_freevars, own.co_varnames[:count], own.co_posonlyargcount, own.co_argcount, own.co_kwonlyargcount,
                     own.co_flags)
    return code.replace(co_consts=tuple(leads_to if one == _PLACE else one for one in code.co_consts))


@functools.lru_cache(None)
def _template(enclosed: Tuple[str, ...], names: Tuple[str, ...], only_by_position: int, by_position: int, only_by_name: int,
              flags: int) -> CodeType:
    """Python requires as many enclosed variables as the function has."""
    given, named, rest = names[:by_position], names[by_position:by_position + only_by_name], list(names[by_position + only_by_name:])
    more = [rest.pop(0)] if flags & CO_VARARGS else []
    parameters = [*given[:only_by_position], *["/"] * bool(only_by_position), *given[only_by_position:],
                  *(["*" + more[0]] if more else ["*"] * bool(named)), *named, *("**" + name for name in rest)]
    args = "".join(f"{name}, " for name in (*given, *("*" + name for name in more)))
    kwargs = "".join(f"{name!r}: {name}, " for name in named) + "".join("**" + name for name in rest)
    made: Dict[str, Any] = {}
    exec(f"def make({', '.join(enclosed)}):\n"
         f"    def detour({', '.join(parameters)}):\n"
         f"        if False: {', '.join(enclosed) or 'pass'}\n"
         f"        _leads_to = {_PLACE!r}\n"
         f"        return _leads_to(({args}), {{{kwargs}}})\n"
         "    return detour\n", made)
    code: CodeType = made["make"](*enclosed).__code__
    return code


_PLACE = "where the detour leads to"
