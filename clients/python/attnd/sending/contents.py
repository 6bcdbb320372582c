# SPDX-License-Identifier: MIT
"""contents: what goes into a message, checked against each other: shapes, lengths, labels, maps. ValueError says what does not fit."""
from __future__ import annotations

import math
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..base import wire
from . import tensors
from .head_maps import HeadMaps

HEADER_SLACK_BYTES = 1536  # all keys of a header but the lengths and the labels


class Captured(NamedTuple):
    """The parts of a message: `keys` gives the header's own keys, for the layer that it is about."""
    kind: str
    frames: tensors.Frames
    keys: Callable[[wire.Layer], Dict[str, Any]]


Maker = Callable[[], Optional[Captured]]


def fits_header(keys: Dict[str, Any]) -> bool:
    """Whether these keys, and those of every message, are small enough for a header."""
    return len(wire.pack_header(keys)) <= wire.HEADER_BYTES_MAX - HEADER_SLACK_BYTES


def check_real(name: str, value: Any, minimum: float = -math.inf) -> float:
    """The finite number that it is, at least `minimum`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} = {value!r}: must be a number") from None
    if not math.isfinite(number) or number < minimum:
        raise ValueError(f"{name} = {number}: must be finite" + (f" and at least {minimum:g}" if minimum == 0 else ""))
    return number


def check_rows(shape: Sequence[int], causal: bool, window: int, q_len: Any, k_len: Any, head_offset: Optional[int],
               heads_total: Optional[int]) -> Dict[str, Any]:
    """The keys about rows of a message of `shape` [B, H, Tq, Tk], for wire."""
    q_len = tensors.check_lengths("q_len", q_len, shape[0], shape[2])
    k_len = tensors.check_lengths("k_len", k_len, shape[0], shape[3])
    lengths = sum(len(x) for x in (q_len, k_len) if x is not None)  # in the header: 5 bytes and one element each
    fitting = min((wire.HEADER_BYTES_MAX - HEADER_SLACK_BYTES) // 5, wire.HEADER_ELEMENTS_MAX - 200)
    if lengths > fitting:
        raise ValueError(f"{lengths} lengths: at most {fitting} fit into a header; publish smaller batches")
    window = wire.check_int("window", window, 2**31 - 1)
    check_heads(head_offset, heads_total, shape[1])
    return {"causal": bool(causal), "window": window, "q_len": q_len, "k_len": k_len, "head_offset": head_offset,
            "heads_total": heads_total}


def add_row_tensors(frames: tensors.Frames, shape: Tuple[int, int, int], site: str, last: int, mask: Any,
                    tokens: Any, documents: Any) -> None:
    """Adds what may go with a message of `shape` [B, Tq, Tk] whose last query is at position `last`."""
    batch, queries, keys = shape
    frames.add_mask(mask, batch, queries, keys)
    frames.add_ids("tokens", tokens, batch, keys)
    if documents is not None and (site != "self" or last >= keys):
        raise ValueError("documents: need site 'self' and a key at every query's position")
    frames.add_ids("documents", documents, batch, keys)


def add_keys(frames: tensors.Frames, k: Any, v: Any, queries: Tuple[int, int, int]) -> int:
    """Adds k and v, which must fit q's (B, H, d); returns Tk."""
    batch, heads, width = queries
    shape = frames.add("k", k, ("batch", "key heads", "keys", "head_dim"))
    if shape[0] != batch or shape[3] != width:
        raise ValueError(f"k of shape {shape}: batch and head_dim must be those of q, {batch} and {width}")
    if heads % shape[1]:
        raise ValueError(f"k of shape {shape}: {shape[1]} key heads must divide {heads} heads")
    if v is not None and frames.add("v", v, ("batch", "key heads", "keys", "value_dim"))[:3] != shape[:3]:
        raise ValueError(f"v: batch, key heads and keys must be those of k, {shape[:3]}")
    return shape[2]


def add_output(frames: tensors.Frames, shape: Tuple[int, int, int], dout: Any, wo_r: Any,
               x_norm: Any) -> None:
    """Checks and adds what belongs to the output of a message of `shape` [B, H, Tq]."""
    batch, heads, queries = shape
    value = next((size for name, _, size in frames.described if name == "v"), None)
    for name, given, needed, there in (("dout", dout, "v", value), ("wo_r", wo_r, "v", value),
                                       ("x_norm", x_norm, "wo_r", wo_r)):
        if given is not None and there is None:
            raise ValueError(f"{name}: needs {needed}")
    width = value[3] if value else 0
    if dout is not None and frames.add("dout", dout, ("batch", "heads", "queries", "value_dim")) != (*shape, width):
        raise ValueError(f"dout: must be [batch, heads, queries, value_dim] = {(*shape, width)}")
    if wo_r is not None:
        size = frames.add_f32("wo_r", wo_r, ("heads", "r", "value_dim"))
        if (size[0], size[2]) != (heads, width) or size[1] > width:
            raise ValueError(f"wo_r of shape {size}: must be [heads, r, value_dim] = [{heads}, at most {width}, {width}]")
    if x_norm is not None and frames.add_f32("x_norm", x_norm, ("batch", "queries")) != (batch, queries):
        raise ValueError(f"x_norm: must be [batch, queries] = {(batch, queries)}")


def check_heads(offset: Optional[int], total: Optional[int], heads: int) -> None:
    """A slice of the heads of a layer."""
    first = wire.check_int("head_offset", offset or 0, 2**31 - 1)
    if total is not None and first + heads > wire.check_int("heads_total", total, 2**31 - 1, 1):
        raise ValueError(f"heads {first} to {first + heads - 1}: beyond heads_total = {total}")


def add_maps(frames: tensors.Frames, maps: Optional[HeadMaps], wanted: bool) -> Dict[str, Any]:
    """Adds the maps of a layer's heads, if they are wanted; returns what the header says of them. ValueError
    when they do not fit, wanted or not."""
    if maps is None:
        return {}
    if not isinstance(maps, HeadMaps):
        raise ValueError(f"maps of type {type(maps).__name__}: must be HeadMaps, as attnd.device.pooled_maps() returns")
    maps.check()
    if not wanted:
        return {}
    labels, q_labels = fitting_labels(maps.labels, maps.q_labels, (1, len(maps.values), *maps.sent()))
    frames.add_owned("maps", "f16", np.array(maps.values, dtype="<f2", order="C", copy=True))
    texts = {"labels": labels, "q_labels": q_labels}
    return {**maps.keys_of_header(), **{name: list(said) for name, said in texts.items() if said is not None}}


Texts = Optional[Sequence[str]]


def fitting_labels(labels: Texts, q_labels: Texts, shape: Sequence[int]) -> Tuple[Texts, Texts]:
    """The labels of keys and of queries if they are one text each and small enough to travel, else None or ValueError;
    those of the keys go first."""
    room = wire.HEADER_BYTES_MAX - HEADER_SLACK_BYTES - 10 * shape[0]
    fitting: List[Texts] = []
    for name, what, count, texts in (("labels", "key", shape[3], labels), ("q_labels", "query", shape[2], q_labels)):
        given = None if texts is None else list(texts) if isinstance(texts, Iterable) else []
        if given is not None:
            if len(given) != count or not all(isinstance(text, str) for text in given):
                raise ValueError(f"{name}: must be {count} strings, one per {what}")
            size = sum(len(text.encode("utf-8", "replace")) + 5 for text in given)
            if size > room or len(given) > 4096:
                given = None
            else:
                room -= size
        fitting.append(given)
    return fitting[0], fitting[1]
