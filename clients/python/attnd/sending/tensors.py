# SPDX-License-Identifier: MIT
"""tensors: numpy arrays and torch tensors as the raw little-endian bytes that travel.

torch is looked up only if the caller has imported it; its bf16, which numpy lacks, travels as the bits
of an int16.
"""
from __future__ import annotations

import math
import sys
from typing import Any, Callable, List, Optional, Sequence, Tuple

import numpy as np

from ..base.wire import DTYPE_BYTES, WEIGHT_DTYPES
from . import memory

_NUMPY_NAME = {"float32": "f32", "float64": "f64", "float16": "f16"}
_TORCH_NAME = {"torch.float32": "f32", "torch.float64": "f64", "torch.float16": "f16",
               "torch.bfloat16": "bf16"}


def is_torch(array: Any) -> bool:
    """Whether `array` is a torch tensor. Does not import torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def describe(name: str, array: Any, axes: Sequence[str],
             dtype: Optional[str] = None) -> Tuple[Tuple[int, ...], str, int]:
    """(shape, dtype name, bytes) of a tensor of real numbers with these axes; nothing is copied.

    `dtype="bf16"` says that a numpy array of 16-bit integers holds bf16 bits. ValueError when the array has
    other axes, an empty dimension, or holds something else than f32 f64 f16 bf16.
    """
    if not is_torch(array) and not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: must be a numpy array or torch tensor, not {type(array).__name__}")
    kind = _dtype_name(name, array, dtype)
    shape = tuple(int(n) for n in array.shape)
    if len(shape) != len(axes) or 0 in shape:
        raise ValueError(f"{name} of shape {shape}: must be [{', '.join(axes)}], none of them 0")
    if max(shape) >= 2**31:
        raise ValueError(f"{name} of shape {shape}: a dimension is too large")
    return shape, kind, DTYPE_BYTES[kind] * math.prod(shape)


class Frames:
    """The tensors of one message: described when they are added, copied when it is captured."""

    def __init__(self) -> None:
        self.described: List[Tuple[str, str, Sequence[int]]] = []
        self.nbytes = 0
        self._copies: List[Callable[[], np.ndarray]] = []

    def add(self, name: str, array: Any, axes: Sequence[str], dtype: Optional[str] = None) -> Tuple[int, ...]:
        """A tensor of real numbers, as for describe(); returns its shape."""
        shape, kind, nbytes = describe(name, array, axes, dtype)
        self._append((name, kind, shape), nbytes, lambda: copy_weights(array))
        return shape

    def add_f32(self, name: str, array: Any, axes: Sequence[str]) -> Tuple[int, ...]:
        """A small tensor of real numbers that travels as f32; returns its shape."""
        shape, _, _ = describe(name, array, axes)
        self._append((name, "f32", shape), 4 * math.prod(shape), lambda: _freeze(np.array(
            array.detach().cpu().float().numpy() if is_torch(array) else array, dtype="<f4", order="C", copy=True)))
        return shape

    def add_mask(self, mask: Any, batch: int, queries: int, keys: int) -> None:
        """A mask, nonzero = may attend, which travels as u8; or None: no mask. ValueError on another shape."""
        if mask is not None:
            mask, want = _array(mask), (batch, queries, keys)
            if tuple(mask.shape) != want:
                raise ValueError(f"mask of shape {tuple(mask.shape)}: must be [batch, queries, keys] = {want}")
            self._append(("mask", "u8", want), math.prod(want), lambda: _freeze(_on_host(mask != 0).astype(np.uint8, order="C")))

    def add_ids(self, name: str, ids: Any, batch: int, keys: int) -> None:
        """Integers per key, which travel as i32; or None: none. ValueError on another shape, or beyond 32 bits: that of those
        on an accelerator is told when they are copied."""
        if ids is not None:
            ids, want = _array(ids), (batch, keys)
            if tuple(ids.shape) != want or not _are_integers(ids):
                raise ValueError(f"{name} of shape {tuple(ids.shape)}, {ids.dtype}: must be integers [batch, keys] = {want}")
            if not is_torch(ids) or ids.device.type == "cpu":
                _check_32_bits(name, _on_host(ids))
            self._append((name, "i32", want), 4 * math.prod(want), lambda: _freeze(
                _check_32_bits(name, _on_host(ids)).astype("<i4", order="C")))

    def add_owned(self, name: str, kind: str, array: np.ndarray) -> None:
        """An array that nobody else writes to, as it travels: of dtype `kind`, bf16 as int16 bits."""
        array = _freeze(np.ascontiguousarray(array))
        self._append((name, kind, array.shape), array.nbytes, lambda: array)

    def _append(self, described: Tuple[str, str, Sequence[int]], nbytes: int, copy: Callable[[], np.ndarray]) -> None:
        self.described.append(described)
        self.nbytes += nbytes
        self._copies.append(copy)

    def copies(self) -> Tuple[np.ndarray, ...]:
        """The tensors to send, in the order of `described`."""
        return tuple(copy() for copy in self._copies)


def _dtype_name(what: str, array: Any, dtype: Optional[str]) -> str:
    name = _TORCH_NAME.get(str(array.dtype)) if is_torch(array) else _NUMPY_NAME.get(array.dtype.name)
    if dtype is None or dtype == name:
        if name is None:
            raise ValueError(f"{what} of dtype {array.dtype}: must be one of {', '.join(WEIGHT_DTYPES)}")
        return name
    if dtype == "bf16" and not is_torch(array) and array.dtype.name in ("int16", "uint16"):
        return dtype
    raise ValueError(f"{what} of dtype {array.dtype} cannot be read as {dtype!r}")


def copy_weights(weights: Any) -> np.ndarray:
    """A read-only C-contiguous little-endian copy that belongs to the caller; bf16 as int16 bits.

    A tensor on an accelerator is brought over by `.cpu()`, which waits for the device.
    """
    if is_torch(weights):
        return _freeze(_copy_torch(weights))
    return _freeze(_copy_numpy(weights, weights.dtype.newbyteorder("<")))


def _copy_numpy(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Where attnd reads it, if that is in force and there is room."""
    place = memory.room(array.nbytes)
    if place is None:
        return np.array(array, dtype=dtype, order="C", copy=True)
    copy: np.ndarray = place.view(dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


def _copy_torch(tensor: Any) -> np.ndarray:
    torch = sys.modules["torch"]
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    if tensor.device.type != "cpu":
        return np.ascontiguousarray(tensor.cpu().numpy())  # .cpu() made the copy
    array = tensor.numpy()
    return _copy_numpy(array, array.dtype)


def _array(given: Any) -> Any:
    """Where it is, on a device or not; a list as an array."""
    return given if is_torch(given) or isinstance(given, np.ndarray) else np.asarray(given)


def _are_integers(array: Any) -> bool:
    if is_torch(array):
        return not (array.is_floating_point() or array.is_complex() or str(array.dtype) == "torch.bool")
    return array.dtype.kind in "iu"


def _check_32_bits(name: str, ids: np.ndarray) -> np.ndarray:
    if not fit_32_bits(ids):
        raise ValueError(f"{name}: must fit 32 bits")
    return ids


def fit_32_bits(ids: np.ndarray) -> bool:
    """Whether the integers can travel as i32: larger ones are no token numbers."""
    return bool(ids.size == 0 or (ids.min() >= -2**31 and ids.max() < 2**31))


def check_lengths(name: str, lengths: Any, batch: int, limit: int) -> Optional[np.ndarray]:
    """Valid lengths per sample as i32 [batch], or None for None; ValueError unless 0 <= each <= limit."""
    if lengths is None:
        return None
    array = _on_host(lengths)
    if array.shape != (batch,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: must be {batch} integers, one per sample")
    if array.min() < 0 or array.max() > limit:
        raise ValueError(f"{name}: each must be 0 to {limit}")
    return array.astype(np.int32)


def _on_host(array: Any) -> np.ndarray:
    """ValueError for a tensor that has no numbers that numpy knows."""
    try:
        return np.asarray(array.detach().cpu().numpy() if is_torch(array) else array)
    except (TypeError, RuntimeError) as error:
        raise ValueError(str(error)) from None


def _freeze(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
