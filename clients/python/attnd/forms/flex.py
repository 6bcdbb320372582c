# SPDX-License-Identifier: MIT
"""flex: the calls of torch's flex_attention, compiled or not.

Compiled code runs eagerly while a step is captured, but flex attention must not: without its kernel it makes the logits
of all samples and heads, and on the CPU or for a learned bias something else than the compiled one. So the call takes a
detour (detours.py), in which it runs as it would without attnd: by the very function that the model has compiled, or
uncompiled as torch does that. Within a model that is compiled as a whole there is no such function: there flex
attention is compiled by itself where its logits are large, and runs as a part of eager code where they are not.

The arguments tell what the kernel did; mask_mod and score_mod are evaluated for what is captured (mods.py).
"""
from __future__ import annotations

import sys
from types import FunctionType
from typing import TYPE_CHECKING, Any, Callable, ContextManager, Dict, Mapping, Optional, Tuple

import torch

from ..base.once import log
from . import mods
from .detours import Detour, Original
from .seen import Output, Queries

if TYPE_CHECKING:
    from .lookout import Lookout

MODULE = "torch.nn.attention.flex_attention"
LOGITS_BYTES = 16 << 20  # of one call: what may run eagerly although the model is compiled
_NAMES = ("query", "key", "value", "score_mod", "block_mask", "scale")
# Arguments of the operator in graphs that torch compiles. Its block_mask is a tuple: two lengths (left out here), the blocks of
# keys by query block and their inverse, the two sizes of a block, mask_mod.
OPERATOR_ARGUMENTS = ("query", "key", "value", "score_mod", "block_mask", "scale", "kernel_options", "of_score_mod", "of_mask_mod")


def observe(lookout: Callable[[], "Lookout"], as_ever: Callable[[], ContextManager[Any]]) -> Optional[Detour]:
    """Makes calls of flex attention take a detour; None when it is not imported. `as_ever` gives torch's compiler the
    stance that the model would run with."""
    function = getattr(sys.modules.get(MODULE), "flex_attention", None)
    if not isinstance(function, FunctionType):
        return None

    def attend(original: Original, args: Tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        given = {**dict(zip(_NAMES, args)), **kwargs}
        here, sinks = lookout(), lookout().sinks
        try:
            runner, own = _as_compiled(original, sys._getframe(3), given)
        except Exception:
            _tell_uncompiled()
            runner, own = original, False

        def run() -> Any:
            with as_ever():
                try:
                    return runner(*args, **kwargs)
                except Exception:
                    if not own:
                        raise
                    _tell_uncompiled()
                return original(*args, **kwargs)

        return here.instead(run, lambda result: _queries(given, runner is not original, sinks)._replace(
            output=Output(result[0] if isinstance(result, tuple) else result, lambda gradient: gradient)))

    return Detour(function, attend)


def _as_compiled(original: Original, caller: Any, given: Mapping[str, Any]) -> Tuple[Original, bool]:
    """The function that runs when the model calls flex attention and no stance makes that eager, and whether it is
    compiled here. `caller` is the frame that calls."""
    frame, direct = caller, True
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith("eval_frame.py") and "self" in code.co_freevars:
            context = frame.f_locals["self"]
            if type(context).__name__ != "OptimizeContext":
                return original, False  # it is told not to compile
            return (context(original), False) if direct else (_within_compiled(original, given), True)
        direct = direct and code.co_filename.endswith("external_utils.py")  # torch's own, between the two
        frame = frame.f_back
    return original, False


def _within_compiled(original: Original, given: Mapping[str, Any]) -> Original:
    """The function that runs in a model that is compiled as a whole."""
    q, k = given["query"], given["key"]
    nbytes = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * 4
    backend = "inductor" if nbytes > LOGITS_BYTES or _has_own_blocks(given.get("block_mask")) else "eager"
    if (backend, original.__code__) not in _compiled:
        _compiled[backend, original.__code__] = torch.compile(original, backend=backend)
    return _compiled[backend, original.__code__]


_compiled: Dict[Any, Original] = {}


def _tell_uncompiled() -> None:
    global _told
    if not _told:
        _told = True
        log.warning("flex attention could not be compiled by itself for a captured step, and ran eagerly",
                    exc_info=True)


_told = False


def _has_own_blocks(block_mask: Any) -> bool:
    """Whether blocks say more than the mask_mod, which eager code alone looks at."""
    noop = getattr(sys.modules[MODULE], "noop_mask", None)
    return block_mask is not None and block_mask.mask_mod is noop


def of_operator(given: Mapping[str, Any]) -> Queries:
    """The meaning of the operator. Its functions take the tensors that they enclose as arguments."""
    module, blocks = sys.modules[MODULE], given["block_mask"]
    score_mod, mask_mod = _closed(given["score_mod"], given["of_score_mod"]), _closed(blocks[-1], given["of_mask_mod"])
    block_mask = module.BlockMask.from_kv_blocks(*blocks[:4], BLOCK_SIZE=blocks[-3:-1], mask_mod=mask_mod, compute_q_blocks=False,
                                                 seq_lengths=(given["query"].shape[2], given["key"].shape[2]))
    return _queries({**given, "score_mod": score_mod, "block_mask": block_mask}, True, None)


def _closed(function: Callable[..., torch.Tensor], enclosed: Tuple[Any, ...]) -> Callable[..., torch.Tensor]:
    return lambda *numbers: function(*numbers, *enclosed)


def _queries(given: Mapping[str, Any], compiled: bool, sinks: Optional[torch.Tensor]) -> Queries:
    q, k, score_mod = given["query"], given["key"], given.get("score_mod")
    mask_mod = _mask_mod(given.get("block_mask"), compiled)
    # Newer versions of torch have autocast lower what it gets.
    kernels = getattr(torch.ops.higher_order.flex_attention, "py_kernels", {})
    lowered = any(str(name).endswith("Autocast" + q.device.type.upper()) for name in kernels)
    seen = Queries(q, k, scale=given.get("scale"), lowered=lowered, v=given["value"])
    if score_mod is not None and mods.is_identity(score_mod, q.device):
        score_mod = None
    if score_mod is not None or sinks is not None:
        return seen._replace(score_mod=mods.ScoreMod(score_mod or _identity, mask_mod, sinks))
    if mask_mod is None:
        return seen
    return seen._replace(late_mask=mods.LateMask(mask_mod, int(k.shape[2]), q.device))


def _identity(score: torch.Tensor, *numbers: torch.Tensor) -> torch.Tensor:
    return score


def _mask_mod(block_mask: Any, compiled: bool) -> Optional[mods.MaskMod]:
    """The mask_mod of a BlockMask in the kernel; None when it hides nothing. Compiled code visits the blocks alone."""
    if block_mask is None:
        return None
    module = sys.modules[MODULE]
    whole = max(block_mask.BLOCK_SIZE) >= getattr(module, "_LARGE_SPARSE_BLOCK_SIZE", 1 << 30)
    if not compiled or whole:
        return None if _has_own_blocks(block_mask) else block_mask.mask_mod
    return mods.within_blocks(block_mask.mask_mod, block_mask.to_dense().bool(), block_mask.BLOCK_SIZE)
