# SPDX-License-Identifier: MIT
"""data: the inputs of figures. Maps are the attention of one layer, a Timeline is one metric of a run over time.

Every kind takes plain arrays too (numpy, torch, anything that numpy understands), with the fields of Maps as keywords:
plots.heads(weights, causal=True, key_tokens=words).
"""
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from .scale import Array, finite
from .names import PlotError

Texts = Optional[Sequence[Optional[str]]]

SHOWN, MASKED, PADDED = 0, 1, 2  # the class of a cell


@dataclass
class Maps:
    """The attention of one layer: weights from 0 to 1, NaN for no number."""

    weights: Any  # [heads, rows, columns], or [rows, columns], or [batch, heads, rows, columns]; rows are queries
    name: str = ""  # "decoder.3.self"
    key_tokens: Texts = None  # texts of the keys; None, or None in it: its position is shown
    query_tokens: Texts = None  # texts of the queries; None: in self-attention the same
    causal: bool = False  # keys behind a query are masked
    q_offset: int = 0  # position of the first query
    queries: Optional[int] = None  # tokens that the rows stand for, more of them when the map is pooled
    keys: Optional[int] = None
    padding: Union[str, None, Tuple[int, int]] = "auto"  # first (query, key) of it; "auto": the last ones of weight 0
    mask: Any = None  # bool [rows, columns]: True is masked
    step: Optional[int] = None  # for the title
    sample: Optional[int] = None  # of the batch, for the title
    head: Optional[int] = None  # which one weights of [rows, columns] are of
    heads: Optional[int] = None  # or how many they are the mean of

    @property
    def is_self(self) -> bool:
        """True when queries and keys are the same tokens, by the name, or by the shape without one."""
        if self.name:
            return self.name.endswith(".self")
        return self.queries == self.keys

    @property
    def layer(self) -> str:
        """The number in the name, or ""."""
        return next((part for part in self.name.split(".") if part.isdigit()), "")

    @property
    def count(self) -> int:
        return int(self.weights.shape[0])

    @property
    def shape(self) -> Tuple[int, int]:
        return int(self.weights.shape[1]), int(self.weights.shape[2])

    @property
    def is_whole(self) -> bool:
        return self.shape == (self.queries, self.keys)

    def details(self) -> str:
        """The end of a title: ', sample 1, step 1200, pooled to 128 x 128'."""
        sample = f", sample {self.sample}" if self.sample is not None else ""
        step = f", step {self.step}" if self.step is not None else ""
        pooled = "" if self.is_whole else f", pooled to {self.shape[0]} x {self.shape[1]}"
        return sample + step + pooled

    def head_text(self, head: Optional[int]) -> str:
        """'head 2', 'mean of 12 heads'."""
        head = self.head if head is None else head
        if head is not None:
            return f"head {head}"
        heads = self.heads or self.count
        return f"mean of {heads} head{'s' * (heads != 1)}"

    def map(self, head: Optional[int] = None) -> Array:
        """A head's map, or the mean over the heads: float32 [rows, columns]."""
        if head is None or self.count == 1 and self.head == head:
            return np.asarray(self.weights.mean(0, dtype=np.float64) if self.count > 1 else self.weights[0], np.float32)
        if not 0 <= head < self.count:
            raise PlotError(f"there is no head {head}: they are 0 to {self.count - 1}")
        return np.asarray(self.weights[head])

    def tokens(self) -> Tuple[Texts, Texts]:
        """Texts of keys and of queries; cells of pooled maps have none, because they stand for several tokens."""
        rows, columns = self.shape
        keys = self.key_tokens if columns == self.keys else None
        queries = self.query_tokens
        if queries is None and self.is_self and self.q_offset == 0 and self.queries == self.keys:
            queries = self.key_tokens
        return keys, queries if rows == self.queries else None

    def classes(self, values: Array) -> Array:
        """u8 [rows, columns]: SHOWN, MASKED or PADDED for each cell of a map of this layer."""
        rows, columns = self.shape
        queries, keys = int(self.queries or rows), int(self.keys or columns)
        classes = np.zeros((rows, columns), np.uint8)
        first_key = np.arange(columns) * keys // columns
        first_query = np.arange(rows) * queries // rows
        if self.causal:
            last_query = (np.arange(rows) + 1) * queries // rows - 1 + self.q_offset
            classes[first_key[None, :] > last_query[:, None]] = MASKED
        if self.mask is not None:
            classes[self.mask] = MASKED
        padded = _find_padding(self, values) if self.padding == "auto" else self.padding
        if padded is not None:
            classes[first_query >= padded[0]] = PADDED  # type: ignore[operator]
            classes[:, first_key >= padded[1]] = PADDED  # type: ignore[operator]
        return classes


def _find_padding(maps: Maps, values: Array) -> Optional[Tuple[int, int]]:
    """Finds the last queries and keys whose weights are all 0, if both exist; in self-attention they are the same
    tokens. A map that is all 0 has no padding."""
    rows, columns = values.shape
    if values[-1].any() or values[:, -1].any():
        return None
    some = values != 0  # as NaN is
    used_rows, used_columns = np.flatnonzero(some.any(1)), np.flatnonzero(some.any(0))
    if not used_rows.size:
        return None
    ends = used_rows[-1] + 1, used_columns[-1] + 1
    if maps.is_self and rows == columns:
        ends = max(ends), max(ends)
    return int(ends[0] * int(maps.queries or rows) // rows), int(ends[1] * int(maps.keys or columns) // columns)


def _edges(size: int, most: int) -> Array:
    return np.arange(min(size, most)) * size // min(size, most)


def pool(values: Array, classes: Array, rows: int, columns: int) -> Tuple[Array, Array]:
    """Pools a map to at most `rows` x `columns` cells, cut as the engine cuts maps. A cell becomes the mean of its
    shown finite cells, NaN without any; it is masked or padding when all of its cells are."""
    down, across = _edges(values.shape[0], rows), _edges(values.shape[1], columns)

    def total(x: Array) -> Array:
        return np.asarray(np.add.reduceat(np.add.reduceat(x, down, 0, dtype=np.float64), across, 1))

    shown = classes == SHOWN
    if shown.all() and finite(values) is values:
        sizes = np.diff(np.append(down, values.shape[0]))[:, None] * np.diff(np.append(across, values.shape[1]))
        return (total(values) / sizes).astype(np.float32), np.zeros(sizes.shape, np.uint8)
    good = shown & np.isfinite(values)
    count = total(good)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (total(np.where(good, values, 0)) / count).astype(np.float32)
    pooled = np.where(total(shown) > 0, SHOWN, np.where(total(classes == PADDED) > 0, PADDED, MASKED))
    return means, pooled.astype(np.uint8)


def _array(data: Any) -> Array:
    """A numpy array; tensors may be on any device and of any type."""
    if hasattr(data, "detach"):
        data = data.detach().cpu().float().numpy()
    try:
        array = np.asarray(data)
    except ValueError:
        raise PlotError("maps are arrays of numbers, and the parts of these differ in shape") from None
    if array.dtype.kind not in "fiub":
        raise PlotError(f"maps are numbers, not {type(data).__name__ if array.dtype == object else array.dtype}")
    return array


def take(data: Any, sample: Optional[int] = None, **about: Any) -> Maps:
    """Makes Maps of the argument of a kind, with weights of float32 [heads, rows, columns]. `about` are fields of
    Maps; None leaves a field as it is."""
    given = {name: value for name, value in about.items() if value is not None}
    unknown = set(given) - {field.name for field in dataclasses.fields(Maps)}
    if unknown:
        valid = ", ".join(field.name for field in dataclasses.fields(Maps)[1:])
        raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r} (about maps there are {valid})")
    maps = dataclasses.replace(data, **given) if isinstance(data, Maps) else Maps(data, **given)
    weights = _array(maps.weights)
    if weights.ndim == 2:
        weights = weights[None]
    elif weights.ndim == 4:
        if not 0 <= (sample or 0) < weights.shape[0]:
            raise PlotError(f"there is no sample {sample}: they are 0 to {weights.shape[0] - 1}")
        weights = weights[sample or 0]
        maps = dataclasses.replace(maps, sample=sample if sample is not None else maps.sample)
    elif sample not in (None, 0, maps.sample):
        raise PlotError(f"there is no sample {sample}: these maps have only one")
    if weights.ndim > 4:
        first = ", ".join("0" * (weights.ndim - 3))
        raise PlotError("maps are [heads, queries, keys] or [batch, heads, queries, keys], not of the shape "
                        f"{list(weights.shape)}; choose a layer, a sample or a window by the axes before the last three: array[{first}]")
    if weights.ndim != 3 or 0 in weights.shape:
        raise PlotError(f"maps are [heads, queries, keys], not of the shape {list(weights.shape)}")
    weights = weights if weights.dtype == np.float32 else weights.astype(np.float32)
    maps = dataclasses.replace(maps, weights=weights, queries=maps.queries or weights.shape[1],
                               keys=maps.keys or weights.shape[2])
    if maps.mask is not None:
        mask = np.asarray(_array(maps.mask), bool)
        try:
            maps = dataclasses.replace(maps, mask=np.broadcast_to(mask, maps.shape))
        except ValueError:
            raise PlotError(f"mask: its shape is {list(mask.shape)}, and that of a map {list(maps.shape)}") from None
    for what, texts, count in (("key_tokens", maps.key_tokens, maps.keys),
                               ("query_tokens", maps.query_tokens, maps.queries)):
        if texts is not None and len(texts) != count:
            raise PlotError(f"{what}: {len(texts)} texts of {count} tokens")
    return maps


def take_all(data: Any, sample: Optional[int] = None, **about: Any) -> List[Maps]:
    """Makes Maps of several layers: a list of arguments of take(), a mapping from names to them, or an array whose
    first dimension is the layer."""
    if isinstance(data, Mapping):
        return [take(one, sample, **{**about, "name": name}) for name, one in data.items()]
    if not hasattr(data, "__iter__"):
        raise PlotError(f"layers are a list of maps, or a mapping from names to them, not {type(data).__name__}")
    layers = list(data)
    if not layers:
        raise PlotError("there are no layers")
    names: List[Any] = [{} if isinstance(one, Maps) else {"name": f"layer.{index}"} for index, one in enumerate(layers)]
    return [take(one, sample, **{**name, **about}) for one, name in zip(layers, names)]


ALERT_STATES = ("firing", "resolved", "firing_at_end")


@dataclass
class Timeline:
    """One metric of the heads of a run over its windows."""

    metric: str  # "entropy_normalized"
    steps: Any  # int [windows], ascending: the last step of each
    mean: Any  # float64 [rows, windows], in the metric's unit, or NaN
    rows: Sequence[Tuple[str, int]]  # ("decoder.3.self", head), head -1 for the whole layer; layer by layer
    low: Any = None  # float64 [rows, windows]: the range of a window's values, as `band` says
    high: Any = None
    band: str = "percentiles"  # low and high are the 10th and 90th; "std": mean -+ one standard deviation
    alerts: Sequence[Tuple[int, str]] = ()  # (step, one of ALERT_STATES)
    job: str = ""

    def __post_init__(self) -> None:
        self.steps = np.asarray(_array(self.steps), np.int64)
        self.mean = np.asarray(_array(self.mean), np.float64)
        self.low, self.high = (None if edge is None else np.asarray(_array(edge), np.float64)
                               for edge in (self.low, self.high))
        shape = (len(self.rows), len(self.steps))
        if any(edge is not None and edge.shape != shape for edge in (self.mean, self.low, self.high)):
            raise PlotError(f"a timeline of {shape[0]} rows and {shape[1]} windows has arrays of another shape")
        if any(state not in ALERT_STATES for _, state in self.alerts):
            raise PlotError(f"an alert of a timeline is (step, state) (valid: {', '.join(ALERT_STATES)})")

    def layers(self) -> Dict[str, slice]:
        found: Dict[str, slice] = {}
        for index, (name, _) in enumerate(self.rows):
            found[name] = slice(found[name].start if name in found else index, index + 1)
        return found
