# SPDX-License-Identifier: MIT
"""rows: the sums that one pass over the keys of each attention row leaves (PROTOCOL.md, type rows), from which attnd has the
numbers: 60 to 116 bytes a row, whatever its length. attnd.device.rows() makes them."""
from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional, Tuple

import numpy as np

from ..base import wire
from . import tensors
from .contents import Captured, add_maps, check_heads
from .head_maps import HeadMaps

PLACES = ("position", "positions", "first", "with_first", "seen", "farthest", "valid", "occurrence")


class Rows(NamedTuple):
    """The sums of some rows of an attention, in numpy.

    names         of the columns; "": one that is not looked at
    sums          f32 [columns, B, H, R]
    places        int32 [8, B or 1, R], PLACES of each row
    queries, keys of the attention: R of the queries were taken
    key_lengths   f32 [B, Hk, Tk], NaN for padding; head h reads key head h / (H / Hk)
    sinks         f32 [H] learned logits
    weights       the dtype of explicit weights whose sums these are; None: they are of logits
    local_window  of the column `local`
    maps          of the heads of one sample, to look at
    """
    names: Tuple[str, ...]
    sums: np.ndarray
    places: np.ndarray
    queries: int
    keys: int
    causal: bool = False
    key_lengths: Optional[np.ndarray] = None
    sinks: Optional[np.ndarray] = None
    weights: Optional[str] = None
    learned_sink: bool = False
    local_window: int = 8
    maps: Optional[HeadMaps] = None

    def copy(self) -> "Rows":
        """The same in arrays of its own."""
        lengths, sinks = (None if one is None else np.array(one) for one in (self.key_lengths, self.sinks))
        return self._replace(sums=np.array(self.sums), places=np.array(self.places), key_lengths=lengths, sinks=sinks)

    def message(self, head_offset: Optional[int], heads_total: Optional[int], has_maps: bool = True, **words: Any) -> Captured:
        """The parts of a message; ValueError when they do not fit. `words`: of wire.rows_keys()."""
        heads = self._checked()
        check_heads(head_offset, heads_total, heads)
        frames = tensors.Frames()
        frames.add_owned("sums", "f32", self.sums)
        frames.add_owned("places", "i32", self.places)
        for name, one in (("key_lengths", self.key_lengths), ("sinks", self.sinks)):
            if one is not None:
                frames.add_owned(name, "f32", np.ascontiguousarray(one, dtype=np.float32))
        maps = self.maps
        shown = add_maps(frames, maps, has_maps)
        if maps is not None and (len(maps.values), *maps.sent()) != (heads, self.queries, self.keys):
            raise ValueError(f"maps of {(len(maps.values), *maps.sent())} heads, queries and keys: must be of "
                             f"{(heads, self.queries, self.keys)}, as the rows are")
        said: Dict[str, Any] = {
            "columns": self.names, "queries": self.queries, "keys": self.keys, "causal": self.causal, "weights": self.weights,
            "learned_sink": self.learned_sink, "local_window": self.local_window, "head_offset": head_offset, "heads_total": heads_total}
        return Captured("rows", frames, lambda where: wire.rows_keys(where, frames.described, maps=shown, **said, **words))

    def _checked(self) -> int:
        """How many heads these are of. ValueError when they do not fit each other."""
        shape, columns = np.shape(self.sums), len(self.names)
        if not isinstance(self.sums, np.ndarray) or self.sums.dtype != np.float32 or 0 in shape or len(shape) != 4 \
                or shape[0] != columns:
            raise ValueError(f"sums {shape}: must be float32 [{columns}, B, H, R], in numpy")
        _, batch, heads, rows = shape
        if not isinstance(self.places, np.ndarray) or self.places.dtype != np.int32 \
                or self.places.shape not in ((len(PLACES), 1, rows), (len(PLACES), batch, rows)):
            raise ValueError(f"places {np.shape(self.places)}: must be int32 {[len(PLACES), batch, rows]}, in numpy")
        wire.check_int("queries", self.queries, 2**31 - 1, rows)
        keys = wire.check_int("keys", self.keys, 2**31 - 1, 1)
        lengths = () if self.key_lengths is None else np.shape(self.key_lengths)
        if self.key_lengths is not None and (len(lengths) != 3 or lengths[::2] != (batch, keys) or not lengths[1] or heads % lengths[1]):
            raise ValueError(f"key_lengths {lengths}: must be {[batch, 'Hk', keys]}, and Hk divide {heads}")
        if self.sinks is not None and np.shape(self.sinks) != (heads,):
            raise ValueError(f"sinks {np.shape(self.sinks)}: must be {heads} numbers")
        return int(heads)
