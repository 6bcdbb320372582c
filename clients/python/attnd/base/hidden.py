# SPDX-License-Identifier: MIT
"""hidden: the value at or below which a mask that is added to logits hides its key.

exp(-9e3) is 0 in every dtype, so such a value always hides. Masks also say -100, or -1000, and a bias may be added to them. A mask
is told from a bias by a step: its values lie together at the top, below them there is a gap, and what is below the gap is at least
50 below. Biases that go by distance or by head (ALiBi, relative positions) have no gap, or many, and hide nothing, however far down
they reach. A mask that has one value alone, of -50 or below, hides all keys. A key is hidden that is so in all heads. Logits of
hundreds give hidden keys weight all the same: a row sees them where that is more than WEIGHT_LEFT in some head.
"""
from __future__ import annotations

import math
import weakref
from typing import Any, Callable, Dict, Optional, Tuple

import torch

from .masks import IGNORED_AT

STEP = 50.0  # exp(-50) is below what any dtype of weights can add to 1
GAP = STEP / 2  # a bias that is added to a mask makes it narrower
WEIGHT_LEFT = 1e-7  # of a row, on hidden keys
STEPS_MAX = 3  # two masks that are added have two; a bias that has more is none
_PARTS = 4  # of 1, to which values are rounded
_ENTRIES = 1 << 18  # of a mask that are looked at
_KNOWN_MAX = 8
_known: Dict[Any, Tuple[Any, torch.Tensor]] = {}  # of the masks that were looked at last, as layers share them


def hidden_at(mask: torch.Tensor, find: Optional[Callable[[torch.Tensor], torch.Tensor]] = None, part: Any = None) -> torch.Tensor:
    """The value, f32 [], of a mask [.., H or 1, Tq, Tk] of numbers, on its device; nobody waits for it there. A part of the
    rows of a large mask is looked at, of all samples and heads. `find`: finds it in another way, of this `part` of the mask."""
    find = _found if find is None else find
    if mask.is_inference() or mask.device.type == "meta":
        return find(mask)
    root = mask if mask._base is None else mask._base
    key = id(root), mask._version, mask.data_ptr(), mask.shape, mask.stride(), mask.dtype, part
    of, value = _known.get(key, (None, None))
    if value is None or of is None or of() is not root:
        value = find(mask)
        if len(_known) >= _KNOWN_MAX:
            _known.clear()
        _known[key] = weakref.ref(root), value
    return value


def hides_by_head(mask: torch.Tensor) -> bool:
    """Whether a mask of numbers has a step in what its heads have in common, which a bias that differs by head reaches below. Waits
    for the device."""
    return mask.dim() > 2 and mask.shape[-3] > 1 and float(hidden_at(mask)) <= IGNORED_AT < float(hidden_at(mask.amax(-3, keepdim=True)))


def _found(mask: torch.Tensor) -> torch.Tensor:
    some = _some(mask.detach())
    always = torch.full((), IGNORED_AT, dtype=torch.float32, device=mask.device)
    values = some.flatten().float()
    values = torch.where((values > IGNORED_AT) & (values < math.inf), values, torch.full_like(values, -math.inf))
    values = _rounded(values) if mask.device.type == "cpu" else values.sort()[0]
    if values.numel() == 0:
        return always
    number = torch.arange(1, values.numel(), device=mask.device)
    begins = (values[1:] - values[:-1] >= GAP) & (values[:-1] > -math.inf)
    begins = torch.where(begins, number, torch.zeros_like(number))  # the numbers of values above a gap
    lowest = (values == -math.inf).sum().clamp(max=values.numel() - 1)
    top = begins.amax() if len(begins) else lowest
    second = torch.maximum(torch.where(begins < top, begins, torch.zeros_like(begins)).amax(), lowest) if len(begins) else lowest
    least, down, up, under, high = values[torch.stack([lowest, (top - 1).clamp(min=0), top, second, torch.full_like(top, values.numel() - 1)])]
    step, count = torch.maximum(high - down, up - under), (begins > 0).sum()
    middle = (up + down) / 2
    is_step = (count >= 1) & (count <= STEPS_MAX) & (step >= STEP)
    found = torch.where((least == high) & (high <= -STEP), high, torch.where(is_step, middle, always))
    return torch.where(high > -math.inf, found, always)


def _some(mask: torch.Tensor) -> torch.Tensor:
    """The part that is looked at: a view, without what is there several times."""
    for axis, stride in enumerate(mask.stride()):
        mask = mask.narrow(axis, 0, 1) if stride == 0 and mask.shape[axis] > 1 else mask
    for axis in range(-2, 0):
        if mask.dim() >= -axis and mask.numel() > _ENTRIES:
            size = mask.shape[axis]
            wanted = max(1, size * _ENTRIES // mask.numel())
            every = -(-size // wanted)
            rows = slice((every - 1) // 2, None, every)
            mask = mask[..., rows, :] if axis == -2 else mask[..., rows]
    return mask


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """The values that are there besides -inf, in rising order, rounded down where there are several: sorting them takes a CPU much longer."""
    values = values[values > -math.inf]
    if values.numel() == 0 or bool(values.amax() - values.amin() < STEP):
        return values[:0] if values.numel() == 0 or bool(values.amin() < values.amax()) else values[:1]
    return torch.bincount(((values.clamp(max=-IGNORED_AT) - IGNORED_AT) * _PARTS).long()).nonzero()[:, 0] / _PARTS + IGNORED_AT
