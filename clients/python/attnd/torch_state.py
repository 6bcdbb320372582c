# SPDX-License-Identifier: MIT
"""torch_state: the current state of torch, as far as its version shows it."""
from __future__ import annotations

import contextlib
import inspect
import sys
from typing import Any, Callable, Iterable, Iterator, Optional

import torch

is_compiling: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)
# The number of the backward pass that runs in this thread, -1 when none does; None: torch 1.13 cannot tell.
graph_task_id: Optional[Callable[[], int]] = getattr(torch._C, "_current_graph_task_id", None)


def is_no_repetition() -> bool:
    """Whether no backward pass runs in this thread; torch 1.13 cannot tell."""
    return graph_task_id is None or graph_task_id() == -1


def compiled_flex(root: torch.nn.Module) -> Optional[bool]:
    """Whether the model, or code next to it that uses flex attention, may be compiled; None while nothing is."""
    flex = getattr(sys.modules.get("torch.nn.attention.flex_attention"), "flex_attention", None)
    if flex is None or "torch._dynamo" not in sys.modules:
        return None
    if any(getattr(getattr(module, "config", None), "_attn_implementation", None) == "flex_attention"
           or _has_flex(vars(module).values(), flex) for module in root.modules()):
        return True
    forwards = [inspect.unwrap(kind.forward) for kind in {type(module) for module in root.modules()}]
    return any(_calls_flex(forward, flex) for forward in forwards)


def _calls_flex(forward: Any, flex: Any) -> bool:
    """By what a forward calls, and by what it or a function next to it may: the names of its module."""
    code = getattr(forward, "__code__", None)
    return code is not None and (any("flex_attention" in name for name in code.co_names)
                                 or _has_flex(getattr(forward, "__globals__", {}).values(), flex)
                                 or _has_flex(_enclosed(forward), flex))


def _enclosed(function: Any) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # it is empty
            yield cell.cell_contents


def _has_flex(values: Iterable[Any], flex: Any) -> bool:
    """Whether a compiled flex attention is among the values."""
    return any(callable(value) and getattr(value, "_torchdynamo_orig_callable", None) is flex
               for value in list(values) if not isinstance(value, (type, torch.nn.Module)))
