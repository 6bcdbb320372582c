# SPDX-License-Identifier: MIT
"""parcel: what was launched for a capture, on its way to the host.

Streams and events are those of the device's own module (torch.get_device_module, as torch.accelerator's are; torch.cuda in
older versions). On the CPU, which has them by name, the same lines run in the tests.
"""
from __future__ import annotations

import functools
import math
from collections import defaultdict
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch

_ROOM_KEPT_MAX = 4 << 20  # bytes of pinned memory that are kept for the next capture: those of all rows take more
Key = Tuple[int, str]  # the block of heads and the name of a tensor
ALL = -1  # the block of what is of all blocks


def packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bytes of all, one after another."""
    parts = [one.reshape(-1).view(torch.uint8) for one in tensors]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class Parcel:
    """Tensors on their way to the host, in one piece of pinned memory."""

    def __init__(self, clock: "Clock", stream: Any, tensors: Dict[Key, torch.Tensor]):
        self._about = [(key, tuple(one.shape), one.element_size(), str(one.dtype).rpartition(".")[2]) for key, one in tensors.items()]
        sent = packed(list(tensors.values()))
        self._nbytes = sent.numel()
        bits = (self._nbytes - 1).bit_length()
        self._rooms = clock.rooms[bits]
        try:
            self._room = self._rooms.pop()
        except IndexError:
            room = torch.empty(1 << bits, dtype=torch.uint8, device="cpu", pin_memory=clock.pins)
            self._room = room, room.numpy()
        self._room[0][:self._nbytes].copy_(sent, non_blocking=True)
        self.ended = clock.event(stream)

    def take(self, read: Callable[[Dict[Key, np.ndarray]], Any]) -> Any:
        """read(the tensors as arrays, which are there until it returns); waits until they have arrived. Once."""
        self.ended.synchronize()
        try:
            begin, found, data = 0, {}, self._room[1]
            for key, shape, size, dtype in self._about:
                end = begin + size * math.prod(shape)
                one = data[begin:end] if begin % size == 0 else data[begin:end].copy()  # torch takes none that is not aligned
                found[key] = one.view(dtype).reshape(shape)
                begin = end
            return read(found)
        finally:
            if self._room[1].nbytes <= _ROOM_KEPT_MAX:
                self._rooms.append(self._room)


def module_of(device: torch.device) -> Any:
    """torch.cuda or such."""
    get: Callable[[str], Any] = getattr(torch, "get_device_module", lambda kind: getattr(torch, kind, None))
    return get(device.type)


class Clock:
    """Moments of the stream that a device works through at the time."""

    def __init__(self, device: torch.device):
        self.pins = device.type != "cpu"
        self._module, self._index = module_of(device), (device,) if self.pins else ()
        # Pinned memory by the bits of its size, which is kept unless it is large: torch may ask the device about memory that
        # was freed, which a CUDA graph that the training captures would not bear. And as arrays: to make one of what is in no cache
        # takes the sender 50 us.
        self.rooms: Dict[int, List[Tuple[torch.Tensor, np.ndarray]]] = defaultdict(list)
        self.events: List[Any] = []  # which nobody waits for any more

    def event(self, stream: Any) -> Any:
        """This moment; who waits for it sleeps."""
        try:
            event = self.events.pop()
        except IndexError:
            event = self._module.Event(**({"enable_timing": True} if self.pins else {}),
                                       **({"blocking": True} if self._module is getattr(torch, "cuda", None) else {}))
        event.record(stream)
        return event

    def stream(self) -> Any:
        """The one of the training at the moment."""
        return self._module.current_stream(*self._index)

    def seconds(self, began: Any, ended: Any) -> float:
        """The time between two moments."""
        return float(began.elapsed_time(ended)) / 1e3 if hasattr(began, "elapsed_time") else 0.0


@functools.lru_cache(None)
def clock_of(device: torch.device) -> Clock:
    """That of a device."""
    return Clock(device)
