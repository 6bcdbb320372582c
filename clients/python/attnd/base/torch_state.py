# SPDX-License-Identifier: MIT
"""torch_state: the current state of torch, as far as its version shows it."""
from __future__ import annotations

import contextlib
import sys
import warnings
from typing import Any, Callable, ContextManager, Optional

import torch
from torch.utils import _python_dispatch

is_compiling: Callable[[], bool] = getattr(getattr(torch, "compiler", None), "is_compiling", lambda: False)
# The number of the backward pass that runs in this thread, -1 when none does; None: torch 1.13 cannot tell.
graph_task_id: Optional[Callable[[], int]] = getattr(torch._C, "_current_graph_task_id", None)
# Compiled code stays so in captured steps, and nothing of it is seen: torch 2.0 to 2.5.
compiled_is_unseen: bool = hasattr(torch, "compile") and not hasattr(getattr(torch, "compiler", None), "set_stance")


record: Callable[[bool], Any] = torch._C._set_grad_enabled  # whether autograd does, from now on in this thread


def is_no_repetition() -> bool:
    """Whether no backward pass runs in this thread; torch 1.13 cannot tell."""
    return graph_task_id is None or graph_task_id() == -1


def saves_elsewhere() -> bool:
    """Whether something takes what autograd keeps for backward, as activation checkpointing does."""
    if _saving is not None:
        return _saving(False) is not None
    frame: Any = sys._getframe(1)  # torch 1.13 tells by the frame that does it alone
    while frame is not None and frame.f_code.co_name != "_checkpoint_without_reentrant":
        frame = frame.f_back
    return frame is not None


_saving: Optional[Callable[[bool], Any]] = getattr(getattr(torch._C, "_autograd", None),
                                                   "_top_saved_tensors_default_hooks", None)
_OF_GLOBAL_HOOKS = r"Using `torch.compile\(module\)` when there are global hooks"


def allow_global_hooks() -> None:
    """Lets torch not warn of the hooks: they are there only while nothing compiled runs, and are meant to see what runs
    instead. Not again while that holds: each new filter makes Python forget which warnings it has shown."""
    if not any(getattr(message, "pattern", None) == _OF_GLOBAL_HOOKS for _, message, *_ in warnings.filters):
        warnings.filterwarnings("ignore", message=_OF_GLOBAL_HOOKS)


def outside_modes() -> ContextManager[Any]:
    """Within it, tensors are computed with outside the dispatch modes of the model. Selective activation checkpointing
    counts the operations that its mode sees, and one of ours would shift that count."""
    return _disable_modes() if _disable_modes is not None and _count_modes() > 0 else _NOTHING


def unseen_by_modes() -> bool:
    """Whether computing with tensors now is seen by no mode of the model, within outside_modes(). Older versions of torch
    cannot disable a mode."""
    return _disable_modes is not None or _count_modes() == 0


def are_modes_there() -> bool:
    """Whether the model computes under a mode now, which would see what is done with its tensors."""
    return _count_modes() > 0 or has_function_modes()


def has_function_modes(*but: type) -> bool:
    """Whether a mode sees functions of torch now, but for those of these classes, and that of a default device, which looks at what
    makes tensors alone."""
    return any(not isinstance(torch._C._get_function_stack_at(at), (*but, *_of_devices)) for at in range(_count_function_modes()))


def compiles_itself(module: torch.nn.Module) -> bool:
    """Whether Module.compile() was called on a module."""
    return getattr(module, "_compiled_call_impl", None) is not None


def has_compiled() -> bool:
    """Whether Dynamo has compiled anything in this process."""
    utils: Any = sys.modules.get("torch._dynamo.utils")
    return utils is not None and bool(utils.counters["frames"])


def is_graph_captured() -> bool:
    """Whether this thread captures a CUDA graph: what is copied or launched meanwhile would become a part of it."""
    return bool(torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
                and torch.cuda.is_current_stream_capturing())


def is_checkpointed() -> bool:
    """Whether the older, reentrant activation checkpointing runs this: without gradients now, with them in backward."""
    own: Any = getattr(sys.modules.get("torch.utils.checkpoint"), "CheckpointFunction", None)
    frame: Any = sys._getframe(1) if own is not None else None
    while frame is not None and frame.f_code is not own.forward.__code__:
        frame = frame.f_back
    return frame is not None


def why_unreadable(tensor: torch.Tensor) -> Optional[str]:
    """Why a tensor has no numbers of its own to copy, for people; None: it has. The numbers within a transform of torch.func are
    gone when that ends, and another kind of tensor may have none."""
    if _transform() is not None:
        return "runs within torch.vmap or another transform of torch.func"
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) and not hasattr(tensor, "placements"):
        return f"computes with {type(tensor).__name__}, a kind of tensor that is not read"
    return "computes with meta tensors, which have no numbers" if tensor.is_meta else None


# The innermost transform of torch.func that runs in this thread, None when none does.
_transform: Callable[[], Any] = getattr(getattr(torch._C, "_functorch", None), "peek_interpreter_stack", lambda: None)
_count_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 0)
_of_devices = [mode for mode in [getattr(getattr(torch.utils, "_device", None), "DeviceContext", None)] if mode is not None]
_count_function_modes: Callable[[], int] = getattr(torch._C, "_len_torch_function_stack", lambda: 0)
_disable_modes: Optional[Callable[[], ContextManager[Any]]] = getattr(_python_dispatch, "_disable_current_modes", None)
_NOTHING: ContextManager[Any] = contextlib.nullcontext()
