# SPDX-License-Identifier: MIT
"""devices: tensors on their way from where the model computes to the host, without the training waiting.

A copy is taken at once, in the stream of the training, so that what the model does next to its tensor does no
harm. On CUDA it then travels on a stream of its own into pinned memory; who asks for the numbers (the sender
thread) waits for it there, asleep. Other accelerators bring it over when it is asked for. On the CPU the copy is all.

While the training captures a CUDA graph, CUDA by default refuses calls of all threads that might disturb it, such as to wait
for an event, and the capture is lost. The sender thread, and the one that compiles, make theirs in relaxed(): they have no
part in the graph. Without CUDA's driver (ROCm) they do not.
"""
from __future__ import annotations

import contextlib
import ctypes
import functools
from typing import Any, Iterator, Optional

import numpy as np
import torch

from . import memory, tensors

DTYPE_NAMES = {torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16"}
_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_RELAXED


@functools.lru_cache(None)
def _exchange_mode() -> Any:
    """The driver's cuThreadExchangeStreamCaptureMode, which torch has no name for in Python; None: there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode
    except (OSError, AttributeError):
        return None


@contextlib.contextmanager
def relaxed() -> Iterator[None]:
    """Within it calls of CUDA do no harm to a graph that another thread captures meanwhile."""
    exchange = _exchange_mode() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    mode = ctypes.c_int(_RELAXED)
    if exchange is None or exchange(ctypes.byref(mode)) != 0:
        yield
        return
    try:
        yield
    finally:
        exchange(ctypes.byref(mode))


def _copied(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A copy, on the same device; on a CPU in memory that attnd reads, where that is in force and there is room."""
    plain = tensor.device.type == "cpu" and type(tensor) is torch.Tensor and tensor.layout == torch.strided
    place = memory.room(tensor.numel() * torch.finfo(dtype).bits // 8) if plain and dtype.is_floating_point else None
    if place is not None:
        return torch.frombuffer(place, dtype=dtype).view(tensor.shape).copy_(tensor)
    return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)


def working_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The precision in which numbers like these are computed with: f64 or f32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


class HostCopy:
    """A copy of a tensor, C-contiguous, and of another dtype when one is given. `nbytes` is its size, whether or not it
    has arrived."""

    def __init__(self, tensor: torch.Tensor, dtype: Optional[torch.dtype] = None):
        self._keep(_copied(tensor.detach(), tensor.dtype if dtype is None else dtype))

    @classmethod
    def of(cls, copy: torch.Tensor) -> "HostCopy":
        """One that was copied already, C-contiguous, and is nobody else's."""
        made = cls.__new__(cls)
        made._keep(copy)
        return made

    def _keep(self, copy: torch.Tensor) -> None:
        self.shape = tuple(copy.shape)
        self.dtype = copy.dtype
        self.nbytes = copy.numel() * copy.element_size()
        self._arrived: Any = None
        self._tensor = self._send(copy) if copy.device.type == "cuda" else copy

    def _send(self, source: torch.Tensor) -> torch.Tensor:
        stream = _side_stream(source.device)
        host = torch.empty(source.shape, dtype=source.dtype, device="cpu", pin_memory=True)
        stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(stream):
            host.copy_(source, non_blocking=True)
            self._arrived = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            self._arrived.record(stream)
        source.record_stream(stream)  # its memory is not used again before it has gone
        return host

    @property
    def dtype_name(self) -> str:
        """The dtype as it travels: f32, f64, f16 or bf16."""
        return DTYPE_NAMES[self.dtype]

    def tensor(self) -> torch.Tensor:
        """The numbers, on the CPU; waits until they have arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor.cpu()

    def numpy(self) -> np.ndarray:
        """The numbers, bf16 as the bits of int16; waits until they have arrived."""
        tensor = self.tensor()
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.int16)
        return np.asarray(tensor.numpy())

    @functools.cached_property
    def ids(self) -> Optional[np.ndarray]:
        """Integers, i32; None: some do not fit. Waits as well."""
        numbers = self.numpy()
        return numbers.astype(np.int32) if tensors.fit_32_bits(numbers) else None

    def floats(self) -> np.ndarray:
        """The numbers as f32 or f64; waits as well."""
        tensor = self.tensor()
        return np.asarray((tensor if tensor.dtype == torch.float64 else tensor.float()).numpy())

    def is_finite(self) -> bool:
        """Whether all numbers are, as is their sum; waits as well."""
        return bool(self.tensor().sum(dtype=working_dtype(self._tensor)).isfinite())


class HeldCopy(HostCopy):
    """A copy of a tensor that is kept by reference until take()."""

    def __init__(self, tensor: torch.Tensor, dtype: Optional[torch.dtype] = None):
        self.dtype = tensor.dtype if dtype is None else dtype
        self.shape = tuple(tensor.shape)
        self.nbytes = tensor.numel() * torch.empty(0, dtype=self.dtype).element_size()
        self._held: Any = (tensor.detach(), tensor._version)

    def take(self) -> None:
        """Copies it. RuntimeError when somebody has written to it since."""
        (tensor, version), self._held = self._held, None
        if tensor._version != version:
            raise RuntimeError("the model wrote to what it attends with before backward")
        super().__init__(tensor, self.dtype)


@functools.lru_cache(None)
def _side_stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
