# SPDX-License-Identifier: MIT
"""arrived: what was launched for a capture, on its way to the host, and the numbers that are made of it there.

All but the tensors can be pickled, for the process beside the training (finisher.py).

Streams and events are those of the device's own module (torch.get_device_module, as torch.accelerator's are; torch.cuda in
older versions). On the CPU, which has them by name, the same lines run in the tests.
"""
from __future__ import annotations

import functools
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..sending.head_maps import HeadMaps
from ..sending.layer_state import Reduced
from . import launch, pooled, state
from .entries import Entries, values_of
from .problem import Problem, read
from .sums import only
from .visible import Known, first_of_blocks, known, visible_keys_of

CHECKED = ("entropy", "confidence", "local_mass", "mean_distance", "first_token", "max_logit")
_ROOM_KEPT_MAX = 4 << 20  # bytes of pinned memory that are kept for the next capture: those of all rows take more
ALL = -1  # the block of what is of all blocks


class Arrived(NamedTuple):
    """The numbers of a capture: rows that have numbers and valid ones that have none, of each head; `causal` by its mask,
    None: it has none; `values` [H] of a message."""
    rows: Dict[str, Reduced]
    shape: Tuple[int, int, int, int]
    sound: np.ndarray
    invalid: np.ndarray
    row_sum_error: float
    maps: Optional[HeadMaps]
    causal: Optional[bool]
    values: Dict[str, np.ndarray]


Numbers = Tuple[Dict[str, torch.Tensor], Dict[str, torch.Tensor]]
Then = Callable[[Arrived], Any]  # can be pickled


class Block(NamedTuple):
    """Some heads: what travels, and what makes of it, on the host, the metrics of rows, [B, H, Tq] each, and what else there
    is, whose second dimension is heads."""
    tensors: Dict[str, torch.Tensor]
    finish: Callable[[Dict[str, torch.Tensor], Optional[Known]], Numbers]


@dataclass(frozen=True)
class Said:
    """Makes the meaning of mask and padding of what was found of them, there or on the host: `looked` of the mask, `tokens`,
    how many positions documents have, `present` of the rows. The queries are `count`, every `stride`th, or `rows` of them, and
    end before position `after`."""
    first: int
    after: int
    keys: int
    count: int
    causal: bool
    cross: bool
    shared: bool
    rows: Optional[np.ndarray] = None
    stride: int = 1

    def __call__(self, facts: Dict[str, torch.Tensor]) -> Known:
        device = next(iter(facts.values())).device
        at = torch.arange(self.count, device=device) * self.stride if self.rows is None else torch.from_numpy(self.rows)
        causal = torch.full((), self.causal, device=device)
        if "tokens" in facts:
            end = facts["tokens"].long()
            found = Known(at[None] < end[:, None], end, causal, end)
        else:
            end = torch.full((1,), min(self.keys, self.after), device=device)
            found = Known(at[None] < self.after, end, causal, torch.full_like(end, self.keys))
        if "looked" in facts:
            found = known(facts["looked"], self.first + at, self.after, self.keys, self.cross, self.shared)
        return found._replace(valid=found.valid & facts["present"]) if "present" in facts else found


class Computed(NamedTuple):
    """Tensors on the device by their block and name, what finishes those of each block, what makes the meaning of the others,
    if there is mask or padding, and what computed them."""
    tensors: Dict[Tuple[int, str], torch.Tensor]
    finish: Sequence[Callable[..., Numbers]]
    said: Optional[Said]
    shape: Tuple[int, int, int, int]
    backend: Optional[str]
    q_offset: int
    whole: bool


def computed(facts: Dict[str, torch.Tensor], blocks: Sequence[Block], *about: Any) -> Computed:
    """All that was computed; `about`: the other fields."""
    numbered = [(ALL, facts), *((number, block.tensors) for number, block in enumerate(blocks))]
    return Computed({(number, name): one for number, several in numbered for name, one in several.items()},
                    [block.finish for block in blocks], *about)


def finish(launched: Computed, about: "About", then: Then, data: Any) -> Tuple[Optional[np.ndarray], Any]:
    """Finishes what has arrived on the host: the rows that were computed again, if there are any, and then(the numbers)."""
    check, numbers = finished(launched, _unpacked(about, data))
    return check, then(numbers)


def finished(launched: Computed, here: Dict[Tuple[int, str], torch.Tensor]) -> Tuple[Optional[np.ndarray], Arrived]:
    """As finish(), of tensors that are on the host."""
    of_all, *blocks = ({name: one for (block, name), one in here.items() if block == number}
                       for number in range(ALL, len(launched.finish)))
    shape = launched.shape
    meaning = None if launched.said is None else launched.said(of_all)
    found = [finish({**block, **of_all}, meaning) for finish, block in zip(launched.finish, blocks)]
    parts = [{**part, **{name: block[name] for name in ("maps", "extent") if name in block}}
             for (_, part), block in zip(found, blocks)]
    names = dict.fromkeys(name for one in parts for name in one)
    part = {name: torch.cat([one[name] for one in parts if name in one], 1) for name in names}
    maps, values, sound = None, {}, part["sound"][0].numpy()
    if "maps" in part:
        extent = part["extent"][0, :4, 0] if "extent" in part else torch.tensor([0, shape[2], 0, shape[3]], device="cpu")
        maps = pooled.Pooled(part["maps"][0], extent, *shape[2:], launched.q_offset, 0).read()
    if "totals" in part:
        totals, extremes = (part[name].transpose(1, 2) for name in ("totals", "extremes"))
        values = {name: one.numpy() for name, one in values_of(totals, extremes, *shape[2:], launched.whole).items()}
    error = 0.0 if sound.any() else math.nan
    if "row_sum_error" in part:
        error = float(part["row_sum_error"])
    rows = state.reduce_rows({name: torch.cat([some[name] for some, _ in found], 1) for name in found[0][0]})
    return part["check"].numpy() if "check" in part else None, Arrived(
        rows, shape, sound, part["invalid"][0].numpy(), error, maps, None if meaning is None else bool(meaning.causal), values)


class Again(NamedTuple):
    """Rows of a head of a sample that were computed again: f64 [2, metrics, rows], their numbers, and how far products in f32
    may put a logit of the row off: 2^-21 of the lengths of its vectors."""
    sample: int
    head: int
    rows: Sequence[int]
    numbers: torch.Tensor

    def beside(self, rows: Dict[str, torch.Tensor], numbers: torch.Tensor) -> torch.Tensor:
        """The same, which have arrived, after what was found: f64 [3, metrics, rows]."""
        found = torch.stack([torch.stack([rows[name][self.sample, self.head, i] for i in self.rows]) for name in CHECKED])
        return torch.cat([found[None].to(numbers.dtype), numbers])


@dataclass(frozen=True)
class Left:
    """Finishes, on the host, what was computed of a problem, which Problem.on_host() and the numbers of its rows tell: by the
    reference these metrics, without `names` the sums that the kernels leave."""
    problem: bytes
    rows: Optional[np.ndarray]
    again: Optional[Again]
    whole: bool = False
    names: Tuple[str, ...] = ()

    def __call__(self, here: Dict[str, torch.Tensor], meaning: Optional[Known]) -> Numbers:
        p = read(self.problem, self.rows)
        p = p.like(p.q, p.k, p.bias, p.documents, p.rows, here.get("sinks"), first=here.get("first") if self.names else None)
        if self.names:
            found = launch.whole(p, dict(zip(self.names, here["rows"])))
            return self.numbers(p, (here["q"], here["k"]), lambda entries: found, here, meaning)
        _, flat, of_keys = launch.parts_of(p, self.whole, here["left"])
        left = launch.Swept(*(one.view(-1, p.batch * p.heads, p.queries) for one in flat))
        visible: Optional[torch.Tensor] = None
        if p.bias is not None:  # keys are visible that some head sees
            if not p.cross:
                at = p.position(torch.arange(p.queries, device="cpu"))
                p.first = first_of_blocks(here["looked"], at, None if meaning is None else meaning.valid).expand(p.batch, -1)
            visible = visible_keys_of(here["looked"], p)
            if p.cross:
                left.sums[launch.VISIBLE] = visible
        lengths = launch.lengths_of_queries(p, left), of_keys
        return self.numbers(p, lengths, lambda entries: launch.rows(p, entries, left, visible), here, meaning)

    def numbers(self, p: Problem, lengths: Tuple[torch.Tensor, torch.Tensor],
                rows_of: Callable[[Entries], Dict[str, torch.Tensor]], here: Dict[str, torch.Tensor],
                meaning: Optional[Known]) -> Numbers:
        """The numbers of rows without those of padding, how many have some and how many valid ones have none, and what there
        is for those of a message. `lengths` of queries and keys; rows_of() adds to entries."""
        valid, keys_there = torch.ones(1, 1, 1, dtype=torch.bool, device="cpu"), None
        if meaning is not None:
            valid, keys_there = meaning.valid[:, None], torch.arange(p.keys, device="cpu") < meaning.keys[:, None, None]
        entries = Entries(p, self.whole, valid, lengths)
        rows = rows_of(entries)
        part = {} if self.again is None else {"check": self.again.beside(rows, here["again"])}
        rows = {name: values for name, values in rows.items() if any(values.stride())}  # the others: no row has one
        sound = torch.isfinite(rows["entropy"]) & valid
        if meaning is not None:
            at = p.position(torch.arange(p.queries, device="cpu"))
            for name, step in (("previous_token", -1), ("diagonal", 0), ("next_token", 1)):
                if name in rows:
                    rows[name] = only(rows[name], at + step < meaning.end[:, None, None])
            rows = {name: only(values, valid) for name, values in rows.items()}
        totals, extremes = entries.left(p, rows, keys_there)
        return rows, {**part, "sound": sound.sum((0, 2))[None], "invalid": (valid & ~sound).sum((0, 2))[None],
                      "totals": totals.transpose(1, 2), "extremes": extremes.transpose(1, 2)}


def weights_left(names: Sequence[str], here: Dict[str, torch.Tensor], meaning: Known) -> Numbers:
    """The numbers of explicit weights, of which these metrics were computed."""
    found = dict(zip(names, here["rows"]))
    sound = torch.isfinite(found["entropy"]) | torch.isfinite(found.get("sink_deficit", found["entropy"]))
    return found, {"sound": sound.sum((0, 2))[None], "invalid": (meaning.valid[:, None] & ~sound).sum((0, 2))[None],
                   "row_sum_error": here["error"].view(1, 1)}


# ------------------------------------------------------------------------------------------ their way to the host

About = Sequence[Tuple[Tuple[int, str], Tuple[int, ...], int, str]]  # key, shape, bytes of an element, dtype of each tensor


def packed(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The bytes of all, one after another."""
    parts = [one.reshape(-1).view(torch.uint8) for one in tensors]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _unpacked(about: About, data: Any) -> Dict[Tuple[int, str], torch.Tensor]:
    begin, found = 0, {}
    for key, shape, size, dtype in about:
        end = begin + size * math.prod(shape)
        found[key] = torch.tensor(np.frombuffer(bytes(data[begin:end]), dtype=dtype).reshape(shape), device="cpu")
        begin = end
    return found


class Parcel:
    """Tensors on their way to the host, in one piece of pinned memory."""

    def __init__(self, clock: "Clock", stream: Any, tensors: Dict[Tuple[int, str], torch.Tensor]):
        self.about: About = [(key, tuple(one.shape), one.element_size(), str(one.dtype).rpartition(".")[2])
                             for key, one in tensors.items()]
        sent = packed(list(tensors.values()))
        self._nbytes = sent.numel()
        bits = (self._nbytes - 1).bit_length()
        self._rooms = clock.rooms[bits]
        try:
            self._room = self._rooms.pop()
        except IndexError:
            self._room = torch.empty(1 << bits, dtype=torch.uint8, device="cpu", pin_memory=clock.pins)
        self._room[:self._nbytes].copy_(sent, non_blocking=True)
        self.ended = clock.event(stream)

    def take(self, read: Callable[[np.ndarray], Any]) -> Any:
        """read(their bytes), which waits until they are there. Once."""
        self.ended.synchronize()
        try:
            return read(np.asarray(self._room.numpy())[:self._nbytes])
        finally:
            if self._room.numel() <= _ROOM_KEPT_MAX:
                self._rooms.append(self._room)


def module_of(device: torch.device) -> Any:
    """torch.cuda or such."""
    get: Callable[[str], Any] = getattr(torch, "get_device_module", lambda kind: getattr(torch, kind, None))
    return get(device.type)


class Clock:
    """Moments of the stream that a device works through at the time."""

    def __init__(self, device: torch.device):
        self.pins = self.finishes_beside = device.type != "cpu"
        self._module, self._index = module_of(device), (device,) if self.pins else ()
        # Pinned memory by the bits of its size, which is kept unless it is large: torch may ask the device about memory that
        # was freed, which a CUDA graph that the training captures would not bear.
        self.rooms: Dict[int, List[torch.Tensor]] = defaultdict(list)
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
