# SPDX-License-Identifier: MIT
"""layer_state: the statistics of one layer as the bytes that attnds send each other, for tests."""
from __future__ import annotations

import math
import time
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import msgpack
import numpy as np

from attnd.base.metrics import MESSAGE_METRICS, ROW_METRICS
from attnd.base.wire import HEADS_MAX, WORLD_MAX, check_int
from attnd.sending.tensors import is_torch

VERSION = 2
BUCKETS = 48  # window.buckets of a daemon that was not asked

# By their slots.
METRICS = ROW_METRICS + MESSAGE_METRICS
_SLOT = {name: slot for slot, name in enumerate(METRICS)}
_AGGREGATES = 5  # maps over heads, none of which is here; the sink rate comes after their four numbers each
_SINK = 0.3
_VALUE_MOST = 1e300  # sums of larger values are not numbers

# Buckets: 2^(u/32) < x <= 2^((u+1)/32), counted from 2^-40 to 2^40, on either side of zero.
_BOUNDS = 1280
KEY_MAX = 2 * _BOUNDS + 1
HALVINGS_MAX, SPAN = 3, 47  # of a histogram; keys further below the largest count as zero after all halvings
_COUNT_MAX = 0xFFFFFFFF
_NONE = np.zeros(0, dtype=np.int32)
HEADS_AT_ONCE = 1024
# 2^(m/32), correctly rounded: the 53 bits of each, in units of 2^-52.
STEP = np.array([
    0x10000000000000, 0x1059b0d3158574, 0x10b5586cf9890f, 0x111301d0125b51, 0x1172b83c7d517b, 0x11d4873168b9aa,
    0x12387a6e756238, 0x129e9df51fdee1, 0x1306fe0a31b715, 0x1371a7373aa9cb, 0x13dea64c123422, 0x144e086061892d,
    0x14bfdad5362a27, 0x15342b569d4f82, 0x15ab07dd485429, 0x16247eb03a5585, 0x16a09e667f3bcd, 0x171f75e8ec5f74,
    0x17a11473eb0187, 0x182589994cce13, 0x18ace5422aa0db, 0x193737b0cdc5e5, 0x19c49182a3f090, 0x1a5503b23e255d,
    0x1ae89f995ad3ad, 0x1b7f76f2fb5e47, 0x1c199bdd85529c, 0x1cb720dcef9069, 0x1d5818dcfba487, 0x1dfc97337b9b5f,
    0x1ea4afa2a490da, 0x1f50765b6e4540, 0x20000000000000], dtype=np.uint64).astype(np.float64) * 2.0**-52


def bucket_keys(values: Any) -> np.ndarray:
    """The histogram key of each finite value, at full resolution: -2561 to 2561, 0 for what is below 2^-40."""
    values = np.asarray(values, dtype=np.float64)
    magnitude = np.clip(np.abs(values), 2.0**-40, 2.0**40)
    fraction, exponent = np.frexp(magnitude)  # 0.5 <= fraction < 1
    keys = (exponent.astype(np.int64) + 39) * 32 + np.searchsorted(STEP, 2 * fraction, side="left") + 1
    return np.where(np.abs(values) < 2.0**-40, 0, np.where(values < 0, -keys, keys))


class _Counts(NamedTuple):
    """Counts of the keys from `first` on, a row per head."""
    first: int
    counts: np.ndarray

    def plus(self, other: "_Counts") -> "_Counts":
        first = min(self.first, other.first)
        end = max(self.first + self.counts.shape[1], other.first + other.counts.shape[1])
        total = np.zeros((len(self.counts), end - first), dtype=np.int64)
        for one in (self, other):
            total[:, one.first - first:one.first - first + one.counts.shape[1]] += one.counts
        return _Counts(first, total)


class Reduced(NamedTuple):
    """The rows of one metric of one capture, as what they add: arrays with one number per head."""
    n: np.ndarray  # rows that have the metric
    mean: np.ndarray  # f64; 0 without rows
    m2: np.ndarray  # sum of (x - mean)^2
    low: np.ndarray  # inf without rows
    high: np.ndarray  # -inf without rows
    first: int  # the key of the first column of
    counts: np.ndarray  # [heads, keys]: rows by bucket_keys()


def reduce_rows(values: np.ndarray) -> Reduced:
    """Reduces values [heads, rows]; those that are not finite, or beyond 1e300, do not exist."""
    exists = np.abs(values) <= _VALUE_MOST
    n = exists.sum(axis=1)
    mean = np.where(n > 0, np.where(exists, values, 0.0).sum(axis=1) / np.maximum(n, 1), 0.0)
    m2 = np.where(exists, (values - mean[:, None])**2, 0.0).sum(axis=1)
    low = np.where(exists, values, np.inf).min(axis=1, initial=np.inf)
    high = np.where(exists, values, -np.inf).max(axis=1, initial=-np.inf)
    same = low == high  # a sum rounds: the mean of equal values is that value
    mean, m2 = np.where(same, low, mean), np.where(same, 0.0, m2)
    keys = bucket_keys(values[exists])
    heads, first = len(values), int(keys.min(initial=KEY_MAX))
    width = max(0, int(keys.max(initial=-KEY_MAX)) - first + 1)
    counts = np.bincount(np.nonzero(exists)[0] * width + (keys - first), minlength=heads * width)
    return Reduced(n, mean, m2, low, high, first, counts.reshape(heads, width))


class _Numbers:
    """The statistics of one metric of all heads."""

    def __init__(self, heads: int) -> None:
        self.n = np.zeros(heads, dtype=np.int64)
        self.mean, self.m2 = np.zeros(heads), np.zeros(heads)
        self.min, self.max = np.full(heads, np.inf), np.full(heads, -np.inf)
        self.last = np.full(heads, np.nan)
        self.counts: Optional[_Counts] = None

    def add(self, rows: Reduced, mine: slice) -> np.ndarray:
        """Adds rows of some heads; returns their means, NaN without rows."""
        some = rows.n > 0
        n, mean, m2 = self.n[mine], self.mean[mine], self.m2[mine]
        delta, share = np.where(n > 0, rows.mean - mean, 0.0), rows.n / np.maximum(n + rows.n, 1)
        first = (n == 0) & some
        self.m2[mine] = np.where(first, rows.m2, m2 + np.where(some, rows.m2 + delta * delta * n * share, 0.0))
        self.mean[mine] = np.where(first, rows.mean, mean + np.where(some, delta * share, 0.0))
        self.n[mine] = n + rows.n
        self.min[mine], self.max[mine] = np.minimum(self.min[mine], rows.low), np.maximum(self.max[mine], rows.high)
        if rows.counts.shape[1]:
            counts = rows.counts
            if len(counts) < len(self.n):
                counts = np.zeros((len(self.n), rows.counts.shape[1]), dtype=np.int64)
                counts[mine] = rows.counts
            added = _Counts(rows.first, counts)
            self.counts = added if self.counts is None else self.counts.plus(added)
        return np.where(some, rows.mean, np.nan)


class LayerState:
    """The statistics of one layer over some captures: steps, microbatches, or parts of their rows.

    `heads` are all heads of the layer; a rank that has a slice of them adds its own. All captures of one state must
    belong to the same window of the daemon: its summaries cannot take them apart.
    """

    def __init__(self, heads: int, buckets: int = BUCKETS) -> None:
        self._heads = heads = check_int("heads", heads, HEADS_MAX, 1)
        self._buckets = check_int("buckets", buckets, 2 * KEY_MAX + 1, 1)
        self._numbers: Dict[str, _Numbers] = {}
        self._sink = _Numbers(1)
        self._newest: List[Optional[Tuple[int, int, int, int]]] = [None] * heads
        self._first: Optional[Tuple[int, int]] = None
        self._about: Dict[str, Any] = {}
        self._ranks: Set[int] = set()
        self._rows = self._rows_of = self._messages = 0
        self._invalid = np.zeros(heads, dtype=np.int64)
        self._row_sum_error = math.nan

    @property
    def heads(self) -> int:
        """The heads of the layer."""
        return self._heads

    @property
    def newest(self) -> Tuple[int, int, int, int]:
        """(epoch, step, microbatch, rank) of the newest capture. ValueError when there is none."""
        found = max((one for one in self._newest if one is not None), default=None)
        if found is None:
            raise ValueError("a state without a capture")
        return found

    @property
    def first(self) -> Tuple[int, int]:
        """(epoch, step) of the oldest capture. ValueError when there is none."""
        if self._first is None:
            raise ValueError("a state without a capture")
        return self._first

    def add(self, rows: Mapping[str, Any], *, keys: int, epoch: int = 0, step: int = 0, microbatch: int = 0,
            rank: int = 0, time_ns: Optional[int] = None, causal: bool = False, local_window: int = 8, valid: Any = None,
            values: Optional[Mapping[str, Any]] = None, row_sum_error: float = math.nan, head_offset: int = 0,
            sampled_of: Optional[int] = None) -> None:
        """Adds one capture: `rows` maps the names of row metrics to arrays [B, H, Tq], NaN where a row has no such
        number; a metric that is not in it is absent.

        keys          of a row, Tk
        time_ns       when, in nanoseconds since 1970; default: now
        valid         [B, Tq] or [B, H, Tq]: queries that are no padding; each without any number is an invalid row.
                      Left out: rows without any number are padding
        values        names of metrics of a message to arrays [H], such as `mean` and `importance`
        local_window  of `local_mass`
        head_offset   the first of the layer's heads that the arrays are of
        sampled_of    how many queries there were, when the arrays have a sample of them; left out: they have all

        Arrays may be numpy's or torch's, of any floating type. ValueError for names and shapes that do not fit.
        """
        arrays = {name: _rows_of(name, array) for name, array in rows.items()}
        shapes = {array.shape for array in arrays.values()}
        if len(shapes) != 1:
            raise ValueError(f"rows: {'no metric' if not shapes else 'metrics of several shapes'}")
        shape = shapes.pop()
        sound = np.zeros(shape, dtype=bool)
        for array in arrays.values():
            sound |= np.abs(array) <= _VALUE_MOST
        invalid = np.zeros(shape, dtype=bool)
        if valid is not None:
            mask = np.asarray(_plain(valid), dtype=bool)
            invalid[:] = (mask[:, None] if mask.ndim == 2 else mask) & ~sound
        self.add_reduced(
            {name: reduce_rows(array.transpose(1, 0, 2).reshape(shape[1], -1)) for name, array in arrays.items()},
            shape=(*shape, keys), sound=sound.sum(axis=(0, 2)), invalid=invalid.sum(axis=(0, 2)), epoch=epoch,
            step=step, microbatch=microbatch, rank=rank, time_ns=time_ns, causal=causal, local_window=local_window,
            values=values, row_sum_error=row_sum_error, head_offset=head_offset, sampled_of=sampled_of)

    def add_reduced(self, rows: Mapping[str, Reduced], *, shape: Tuple[int, int, int, int], sound: np.ndarray,
                    invalid: np.ndarray, epoch: int = 0, step: int = 0, microbatch: int = 0, rank: int = 0,
                    time_ns: Optional[int] = None, causal: bool = False, local_window: int = 8,
                    values: Optional[Mapping[str, Any]] = None, row_sum_error: float = math.nan,
                    head_offset: int = 0, sampled_of: Optional[int] = None) -> None:
        """Adds rows that were reduced elsewhere, such as on the device that made them.

        shape           [B, H, Tq, Tk] of the capture
        sound, invalid  [H]: how many rows of each head have a number, and how many valid queries have none
        """
        batch, heads, queries, keys = shape
        if 0 in (batch, heads, queries) or check_int("head_offset", head_offset) + heads > self._heads:
            raise ValueError(f"rows of shape {(batch, heads, queries)} from head {head_offset} on: the layer has {self._heads} heads")
        ones = {name: _values_of(name, array, heads) for name, array in (values or {}).items()}
        position = (check_int("epoch", epoch), check_int("step", step), check_int("microbatch", microbatch),
                    check_int("rank", rank, WORLD_MAX - 1))
        keys, local_window = check_int("keys", keys), check_int("local_window", local_window)
        time_ns = check_int("time_ns", time.time_ns() if time_ns is None else time_ns)
        mine = slice(head_offset, head_offset + heads)
        newest = [self._newest[h] is None or position >= self._newest[h]  # type: ignore[operator]
                  for h in range(mine.start, mine.stop)]
        before = max((one for one in self._newest if one is not None), default=None)
        is_newest = before is None or position >= before
        for numbers in self._numbers.values():  # a capture without a number is the newest all the same
            numbers.last[mine] = np.where(newest, np.nan, numbers.last[mine])
        means = {name: self._add(name, reduced, mine, newest) for name, reduced in rows.items()}
        for name, array in ones.items():
            self._add(name, reduce_rows(array[:, None]), mine, newest)
        self._add_sink_rate(means.get("first_token") if heads == self._heads else None, is_newest)
        self._rows += int(sound.sum())
        self._rows_of += round(int(sound.sum()) * max(queries, sampled_of or 0) / queries)
        self._invalid[mine] += invalid
        self._row_sum_error = float(np.fmax(self._row_sum_error, row_sum_error))
        self._messages += 1
        self._ranks.add(position[3])
        self._first = min(self._first or position[:2], position[:2])
        for h in range(mine.start, mine.stop):
            if newest[h - mine.start]:
                self._newest[h] = position
        if is_newest:
            self._about = {"time_ns": time_ns, "shape": [batch, heads, queries, keys], "causal": bool(causal),
                           "tier": "rows", "local_window": local_window}

    def _add(self, name: str, rows: Reduced, mine: slice, newest: List[bool]) -> np.ndarray:
        numbers = self._numbers.setdefault(name, _Numbers(self._heads))
        means = numbers.add(rows, mine)
        numbers.last[mine] = np.where(newest, means, numbers.last[mine])
        return means

    def _add_sink_rate(self, means: Optional[np.ndarray], is_newest: bool) -> None:
        """The share of sinks among the heads, from their means of first_token."""
        rate = math.nan
        if means is not None and np.isfinite(means).any():
            rate = np.count_nonzero(means > _SINK) / np.count_nonzero(np.isfinite(means))
        mean = self._sink.add(reduce_rows(np.array([[rate]])), slice(0, 1))
        if is_newest:
            self._sink.last = mean

    def pack(self) -> bytes:
        """The state as bytes. ValueError when nothing was added."""
        newest = self.newest
        invalid = int(self._invalid.sum())
        on = max(_SLOT[name] for name in self._numbers) + 1
        first_rank, ranks = _rank_bits(self._ranks)
        whole = all(one == newest for one in self._newest)
        slots = sorted(((_SLOT[name], numbers) for name, numbers in self._numbers.items()), key=lambda one: one[0])
        state: Dict[str, Any] = {
            "v": VERSION, "buckets": self._buckets, "newest": list(newest), **self._about,
            "rows": self._rows, "invalid_rows": invalid,
            "row_sum_error": self._row_sum_error if abs(self._row_sum_error) <= _VALUE_MOST else None,
            "messages": self._messages, "rank_first": first_rank, "ranks": ranks,
            "lost": 0, "source": 0, "dropped": {}, "detail": None, "weights": None, "weights_newest": None,
            "metrics": [name if name in self._numbers else None for name in METRICS[:on]],
            "vectors": [], "aggregates": [None] * _AGGREGATES,
            "heads": _sets(slots, self._buckets),
            "heads_newest": None if whole else [None if one is None else list(one) for one in self._newest],
            "patterns": [None] * self._heads,
            "across": _sets([(4 * _AGGREGATES, self._sink)], self._buckets)[0]}
        if invalid:
            state["heads_invalid_rows"] = self._invalid.tolist()
        if self._rows_of > self._rows:
            state["rows_of"] = self._rows_of
        return msgpack.packb(state, use_bin_type=True)  # type: ignore[no-any-return]


class Packed(NamedTuple):
    """A state as bytes, and what a message says of it."""
    data: bytes
    heads: int
    epoch: int
    step: int


def read_packed(data: bytes) -> Packed:
    """The bytes of pack() with what they say of themselves; ValueError when they are no state with a capture."""
    try:
        state = msgpack.unpackb(data, raw=False, strict_map_key=True)
        epoch, step, _, _ = (int(number) for number in state["newest"])
        return Packed(data, len(state["heads"]), epoch, step)
    except Exception as error:  # msgpack raises a dozen kinds; to the caller they are one
        raise ValueError(f"no state of a layer: {error}") from error


def _plain(array: Any) -> Any:
    return array.detach().cpu().double().numpy() if is_torch(array) else array


def _rows_of(name: str, array: Any) -> np.ndarray:
    if name not in ROW_METRICS:
        raise ValueError(f"rows: {name!r} is no metric of a row")
    plain = np.asarray(_plain(array), dtype=np.float64)
    if plain.ndim != 3:
        raise ValueError(f"rows: {name!r} of shape {plain.shape}: must be [B, H, Tq]")
    return plain


def _values_of(name: str, array: Any, heads: int) -> np.ndarray:
    one = np.asarray(_plain(array), dtype=np.float64)
    if name not in MESSAGE_METRICS or one.shape != (heads,):
        raise ValueError(f"values: {name!r} of shape {one.shape}: no metric of a message, or not of {heads} heads")
    return one


def _rank_bits(ranks: Set[int]) -> Tuple[int, bytes]:
    first = min(ranks) // 8 * 8
    bits = sum(1 << rank - first for rank in ranks)
    return first, bits.to_bytes((max(ranks) - first) // 8 + 1, "little")


# ------------------------------------------------------------------------------------------ bytes of one head


def _sets(several: Sequence[Tuple[int, _Numbers]], buckets: int) -> List[bytes]:
    """For each head a mask of the slots in use, and their records. `several`: the slots in their order, with the numbers of all
    heads; empty for a head that has none. Nothing is done record by record: of many heads that took twice as long, most of it with
    the interpreter's lock held."""
    heads = len(several[0][1].n)
    n, *reals, last = (np.concatenate([getattr(one, name) for _, one in several]) for name in ("n", "mean", "m2", "min", "max", "last"))
    some = n > 0
    mean, m2, low, high = (np.where(some, one, 0.0) for one in reals)
    bits_of_mean = mean.view(np.int64)
    same = (m2 == 0) & (low.view(np.int64) == bits_of_mean) & (bits_of_mean == high.view(np.int64))
    mean32, range32, last32 = _are_f32(mean), _are_f32(low) & _are_f32(high), _are_f32(last)
    kind = np.where(np.isnan(last), 0, np.where(some & (last.view(np.int64) == bits_of_mean), 1, np.where(last32, 2, 3)))
    size = (n >= 1 << 8).astype(np.int64) + (n >= 1 << 16) + (n >= 1 << 32)
    spread = np.flatnonzero(~same)
    at_once = max(1, HEADS_AT_ONCE // heads)  # metrics: numbers of more do not fit into a processor's cache
    histograms, lengths = (np.concatenate(parts) for parts in zip(*(
        _histograms([one for _, one in several[at:at + at_once]], ~same[at * heads:(at + at_once) * heads], buckets)
        for at in range(0, len(several), at_once))))
    is_long = lengths > 255
    flags = same + 2 * mean32 + 4 * range32 + 8 * kind + 32 * size
    flags[spread] += 128 * is_long

    is_there = some | np.isfinite(last)
    fields = [(is_there, flags, "u1", 1)]
    fields += [(is_there & (size == k), n, "<u8", 1 << k) for k in range(4)]
    for which, of, short in ((some, mean, mean32), (~same, m2, None), (~same, low, range32), (~same, high, range32),
                             (kind >= 2, last, last32)):
        fields += [(which & short, of, "<f4", 4)] if short is not None else []
        fields += [(which if short is None else which & ~short, of, "<f8", 8)]
    fields = [field for field in fields if field[0].any()]
    widths = [width * which for which, _, _, width in fields]
    tail = np.zeros(len(n), dtype=np.int64)
    tail[spread] = 1 + is_long + lengths
    of_record = (sum(widths) + tail).reshape(-1, heads)
    of_head = of_record.sum(axis=0)
    of_head += 16 * (of_head > 0)
    ends = np.cumsum(of_head)
    place = (ends - of_head + 16 + np.cumsum(of_record, axis=0) - of_record).ravel()

    out = np.zeros(int(ends[-1]), dtype=np.uint8)
    masks = np.zeros((heads, 16), dtype=np.uint8)
    for (slot, _), used in zip(several, is_there.reshape(-1, heads)):
        masks[:, slot // 8] |= used.astype(np.uint8) << slot % 8
    used = of_head > 0
    _put(out, (ends - of_head)[used], masks[used])
    for (which, values, dtype, width), taken in zip(fields, widths):
        _put(out, place[which], values[which].astype(dtype).view(np.uint8).reshape(-1, np.dtype(dtype).itemsize)[:, :width])
        place += taken
    place = place[spread]
    _put(out, place, lengths[:, None] & 255)
    _put(out, place[is_long] + 1, lengths[is_long, None] >> 8)
    out[np.repeat(place + 1 + is_long - np.cumsum(lengths) + lengths, lengths) + np.arange(len(histograms))] = histograms
    data = out.tobytes()
    return [data[end - length:end] for end, length in zip(ends.tolist(), of_head.tolist())]


def _put(out: np.ndarray, places: np.ndarray, rows: np.ndarray) -> None:
    """Writes a row of bytes at each place."""
    out[places[:, None] + np.arange(rows.shape[1])] = rows


def _are_f32(x: np.ndarray) -> np.ndarray:
    """Which are finite numbers of f32."""
    with np.errstate(over="ignore", invalid="ignore"):
        found: np.ndarray = np.isfinite(x) & (np.abs(x) <= 3.4028234663852886e38) & (x.astype(np.float32) == x)
    return found


def _halve(keys: np.ndarray, halvings: int) -> np.ndarray:
    """Keys at full resolution as those after `halvings` halvings."""
    size = np.abs(keys)
    coarse = -(-(size - 1 - _BOUNDS) >> halvings) + (_BOUNDS >> halvings) + 1
    return np.where(keys == 0, 0, np.sign(keys) * coarse)


def key_max(halvings: int) -> int:
    """The largest key after `halvings` halvings."""
    return -(-_BOUNDS >> halvings) + (_BOUNDS >> halvings) + 1


def _histograms(several: Sequence[_Numbers], of: np.ndarray, buckets: int) -> Tuple[np.ndarray, np.ndarray]:
    """The histograms of these of all heads, in their order: halved until at most `buckets` are used; as _written() returns them."""
    many, number = int(of.sum()), np.cumsum(of) - 1
    owners, columns, found, at = [_NONE], [_NONE], [_NONE.astype(np.int64)], 0
    for one in several:
        mine, at = slice(at, at + len(one.n)), at + len(one.n)
        if one.counts is None:
            continue
        used = (one.counts.counts != 0) & of[mine, None]
        where, width = np.flatnonzero(used), used.shape[1]
        rows = np.repeat(np.arange(len(used)), used.sum(axis=1))
        owners.append(number[mine][rows].astype(np.int32))
        columns.append((where - rows * width + one.counts.first).astype(np.int32))
        found.append(one.counts.counts.ravel()[where])
    owner, keys, counts = np.concatenate(owners), np.concatenate(columns), np.concatenate(found)
    halvings, coarse = np.zeros(many, dtype=np.int32), keys.copy()
    for n in range(1, HALVINGS_MAX + 1):
        over = (halvings == n - 1) & (np.bincount(owner[_starts(owner, coarse)], minlength=many) > buckets)
        if not over.any():
            break
        halvings[over] = n
        chosen = np.flatnonzero(over[owner])
        coarse[chosen] = _halve(keys[chosen], n)
    if (halvings == HALVINGS_MAX).any():
        begin, cut = np.flatnonzero(_starts(owner)), np.zeros(many, dtype=np.int32)
        cut[owner[begin]] = np.maximum(np.maximum.reduceat(np.abs(coarse), begin) - SPAN, 0)
        coarse = np.where((halvings[owner] == HALVINGS_MAX) & (np.abs(coarse) <= cut[owner]), 0, coarse)
    at_new = np.flatnonzero(_starts(owner, coarse))
    total = np.minimum(np.add.reduceat(counts, at_new), _COUNT_MAX) if at_new.size else counts
    owner = owner[at_new]
    index = coarse[at_new] + np.array([key_max(n) for n in range(HALVINGS_MAX + 1)], dtype=np.int32)[halvings[owner]]
    return _written(owner, index, total, halvings)


def _starts(*sorted_by: np.ndarray) -> np.ndarray:
    """Where one of these differs from the one before it."""
    found = np.ones(len(sorted_by[0]), dtype=bool)
    found[1:] = False
    for one in sorted_by:
        found[1:] |= one[1:] != one[:-1]
    return found


def _written(owner: np.ndarray, index: np.ndarray, total: np.ndarray, halvings: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Histograms by these buckets, sorted, of each owner: the number of halvings, and each block of eight buckets with how many
    blocks before it are left out, how many bytes a count has, which of its buckets are used, and their counts. Returns the bytes of
    all, and how many each has."""
    block = index >> 3
    is_first = _starts(owner, block)
    begin = np.flatnonzero(is_first)
    own = owner[begin]
    of_block = np.cumsum(is_first) - 1
    most = np.maximum.reduceat(total, begin) if begin.size else begin
    width = 1 + (most >= 1 << 8).astype(np.int64) + (most >= 1 << 16) + (most >= 1 << 24)
    mask = np.add.reduceat(1 << (index & 7), begin) if begin.size else begin
    skipped = block[begin]
    skipped[1:] -= np.where(own[1:] == own[:-1], block[begin][:-1] + 1, 0)
    is_far = (skipped >= 48).astype(np.int64)
    length = 2 + is_far + width * np.diff(np.append(begin, len(index)))
    lengths = 1 + np.bincount(own, length, len(halvings)).astype(np.int64)
    ends = np.cumsum(lengths)
    out = np.zeros(int(ends[-1]) if ends.size else 0, dtype=np.uint8)
    out[ends - lengths] = halvings
    place = np.cumsum(length) - length + own + 1  # behind one byte of each owner
    out[place] = np.where(is_far == 1, (48 | skipped >> 8) << 2 | width - 1, skipped << 2 | width - 1)
    out[place[is_far == 1] + 1] = skipped[is_far == 1] & 255
    out[place + 1 + is_far] = mask
    at = (place + 2 + is_far)[of_block] + width[of_block] * (np.arange(len(index)) - begin[of_block])
    for n in range(4):
        wide = np.flatnonzero(width[of_block] > n)
        if not wide.size:
            break
        out[at[wide] + n] = total[wide] >> 8 * n & 255
    return out, lengths
