# SPDX-License-Identifier: MIT
"""torch_state: the current state of torch, as far as its version shows it."""
from __future__ import annotations

import warnings
from typing import Any, Callable, Optional

import torch

is_compiling: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)
# The number of the backward pass that runs in this thread, -1 when none does; None: torch 1.13 cannot tell.
graph_task_id: Optional[Callable[[], int]] = getattr(torch._C, "_current_graph_task_id", None)
# Compiled code stays so in captured steps, and nothing of it is seen: torch 2.0 to 2.5.
compiled_is_unseen: bool = hasattr(torch, "compile") and not hasattr(getattr(torch, "compiler", None), "set_stance")


def is_no_repetition() -> bool:
    """Whether no backward pass runs in this thread; torch 1.13 cannot tell."""
    return graph_task_id is None or graph_task_id() == -1


def saves_elsewhere() -> bool:
    """Whether something takes what autograd keeps for backward, as activation checkpointing does."""
    return _saving is not None and _saving(False) is not None


_saving: Optional[Callable[[bool], Any]] = getattr(getattr(torch._C, "_autograd", None),
                                                   "_top_saved_tensors_default_hooks", None)
_OF_GLOBAL_HOOKS = r"Using `torch.compile\(module\)` when there are global hooks"


def allow_global_hooks() -> None:
    """Lets torch not warn of the hooks: they are there only while nothing compiled runs, and are meant to see what runs
    instead. Not again while that holds: each new filter makes Python forget which warnings it has shown."""
    if not any(getattr(message, "pattern", None) == _OF_GLOBAL_HOOKS for _, message, *_ in warnings.filters):
        warnings.filterwarnings("ignore", message=_OF_GLOBAL_HOOKS)


def has_numbers(tensor: torch.Tensor) -> bool:
    """Whether there is something to copy: no meta tensor, and none within torch.vmap, which is gone when that ends."""
    if tensor.is_meta:
        return False
    while _functorch is not None and _functorch.is_functorch_wrapped_tensor(tensor):
        if _functorch.is_batchedtensor(tensor):
            return False
        tensor = _functorch.get_unwrapped(tensor)
    return True


_functorch = getattr(torch._C, "_functorch", None) if hasattr(torch, "func") else None
