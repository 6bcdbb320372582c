# SPDX-License-Identifier: MIT
"""tensors: numpy arrays and torch tensors as the raw little-endian bytes that travel.

torch is looked up only if the caller has imported it; its bf16, which numpy lacks, travels as the bits
of an int16.
"""
from __future__ import annotations

import sys
from typing import Any, Optional, Sequence, Tuple

import numpy as np

from .wire import DTYPE_BYTES, WEIGHT_DTYPES

_NUMPY_NAME = {"float32": "f32", "float64": "f64", "float16": "f16"}
_TORCH_NAME = {"torch.float32": "f32", "torch.float64": "f64", "torch.float16": "f16",
               "torch.bfloat16": "bf16"}


def is_torch(array: Any) -> bool:
    """Whether `array` is a torch tensor. Does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def describe_weights(weights: Any, dtype: Optional[str] = None) -> Tuple[Tuple[int, ...], str, int]:
    """(shape, dtype name, bytes) of attention weights [B, H, Tq, Tk]; nothing is copied.

    `dtype="bf16"` says that a numpy array of 16-bit integers holds bf16 bits. ValueError when the
    array is not 4-dimensional, has an empty dimension, or holds something else than f32 f64 f16 bf16.
    """
    if not is_torch(weights) and not isinstance(weights, np.ndarray):
        raise ValueError(f"weights: must be a numpy array or torch tensor, not {type(weights).__name__}")
    name = _dtype_name(weights, dtype)
    shape = tuple(int(n) for n in weights.shape)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"weights of shape {shape}: must be [batch, heads, queries, keys], none of them 0")
    if max(shape) >= 2**31:
        raise ValueError(f"weights of shape {shape}: a dimension is too large")
    return shape, name, DTYPE_BYTES[name] * shape[0] * shape[1] * shape[2] * shape[3]


def _dtype_name(array: Any, dtype: Optional[str]) -> str:
    name = _TORCH_NAME.get(str(array.dtype)) if is_torch(array) else _NUMPY_NAME.get(array.dtype.name)
    if dtype is None or dtype == name:
        if name is None:
            raise ValueError(f"weights of dtype {array.dtype}: must be one of {', '.join(WEIGHT_DTYPES)}")
        return name
    if dtype == "bf16" and not is_torch(array) and array.dtype.name in ("int16", "uint16"):
        return dtype
    raise ValueError(f"weights of dtype {array.dtype} cannot be read as {dtype!r}")


def copy_weights(weights: Any) -> np.ndarray:
    """A read-only C-contiguous little-endian copy that belongs to the caller; bf16 as int16 bits.

    A tensor on an accelerator is brought over by `.cpu()`, which waits for the device.
    """
    if is_torch(weights):
        return _freeze(_copy_torch(weights))
    little = weights.dtype.newbyteorder("<")
    return _freeze(np.array(weights, dtype=little, order="C", copy=True))


def _copy_torch(tensor: Any) -> np.ndarray:
    torch = sys.modules["torch"]
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    if tensor.device.type != "cpu":
        return np.ascontiguousarray(tensor.cpu().numpy())  # .cpu() made the copy
    return np.array(tensor.numpy(), order="C", copy=True)


def copy_mask(mask: Any, shape: Sequence[int]) -> np.ndarray:
    """A read-only u8 copy [B, Tq, Tk] of a mask (nonzero = may attend); ValueError on another shape."""
    if is_torch(mask):
        mask = mask.detach().cpu().numpy()
    mask = np.asarray(mask)
    want = (shape[0], shape[2], shape[3])
    if mask.shape != want:
        raise ValueError(f"mask of shape {mask.shape}: must be [batch, queries, keys] = {want}")
    return _freeze((mask != 0).astype(np.uint8, order="C"))


def check_lengths(name: str, lengths: Any, batch: int, limit: int) -> Optional[np.ndarray]:
    """Valid lengths per sample as i32 [batch], or None for None; ValueError unless 0 <= each <= limit."""
    if lengths is None:
        return None
    if is_torch(lengths):
        lengths = lengths.detach().cpu().numpy()
    array = np.asarray(lengths)
    if array.shape != (batch,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: must be {batch} integers, one per sample")
    if array.min() < 0 or array.max() > limit:
        raise ValueError(f"{name}: each must be 0 to {limit}")
    return array.astype(np.int32)


def _freeze(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
