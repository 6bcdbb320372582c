# SPDX-License-Identifier: MIT
"""arguments: those of attnd.watch and others that need a look."""
from __future__ import annotations

import difflib
import inspect
from fnmatch import fnmatchcase
from typing import Any, Callable, Mapping, Sequence, Tuple

from .once import log

OF_PUBLISHER = ("linger", "high_water", "on_publish", "reliable", "reliable_bytes", "spool")  # what watch() passes on as it is


def check_options(function: Callable[..., Any], options: Mapping[str, Any],
                  passed_on: Sequence[str] = OF_PUBLISHER) -> None:
    """TypeError for what the function was given besides its named arguments, and is not passed on."""
    known = [*inspect.signature(function).parameters, *passed_on]
    for name in options:
        if name not in passed_on:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{function.__name__}() has no argument {name!r}{hint}")


def check_flags(choices: Sequence[Any], **flags: Any) -> None:
    """ValueError for a flag that is none of the choices: a text that says "no" must not count as yes."""
    for name, value in flags.items():
        if not any(value is choice for choice in choices):
            *others, last = map(str, choices)
            raise ValueError(f"{name} = {value!r:.80}: must be {', '.join(others)} or {last}")


def check_patterns(name: str, given: Any) -> Tuple[str, ...]:
    """Patterns of module paths, as they were given: one, or several. ValueError when they are none."""
    several = (given,) if isinstance(given, str) else () if given is None else given
    if not isinstance(several, (tuple, list, set, frozenset)) or not all(isinstance(each, str) for each in several):
        raise ValueError(f"{name} = {given!r}: must be a pattern of module paths, as 'blocks.*.router', or a list of "
                         "them")
    return tuple(several)


def tell_unmatched(job: str, patterns: Mapping[str, Sequence[str]], paths: Sequence[str]) -> None:
    """Says which patterns no module has, each with the path that is nearest to it."""
    for name, several in patterns.items():
        for pattern in several:
            plain = pattern.partition("#")[0]
            if not any(fnmatchcase(path, plain) for path in paths):
                near = (difflib.get_close_matches(plain, [path for path in paths if path], 1, 0.0) or [""])[0]
                log.warning("job %s: %s=%r matches no module of the model%s", job, name, pattern,
                            f"; the nearest path is {near!r}" if near else "")
