# SPDX-License-Identifier: MIT
"""wire: the messages between a training job, the daemon and its readers. No sockets, no threads.

Trainer to daemon, ZeroMQ multipart:

    frame 0   topic    tensor/<job>/<stack>/<layer>/<site>/   or   event/<job>/
    frame 1   header   MessagePack map, string keys, at most 64 KiB
    frame 2.. one raw tensor each, little-endian, C-contiguous, in the header's order

Daemon to readers: topic, and one MessagePack map (`decode_result`).
"""
from __future__ import annotations

import hashlib
import operator
import re
import unicodedata
from typing import Any, Callable, Container, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import msgpack
import numpy as np

VERSION = 1
HEADER_BYTES_MAX = 65536
HEADER_ELEMENTS_MAX = 16384
RESULT_BYTES_MAX = 64 << 20
RUN_BYTES = 16
LAYER_MAX = 65535
WORLD_MAX = 1048576
HEADS_MAX = 1048576
HELLO_LAYERS_MAX = 4096
WINDOW_UNITS_MAX = 1000000
MODULE_MAX = 256

STACKS = ("encoder", "decoder")
SITES = ("self", "cross")

# Bytes of one element of every dtype that travels.
DTYPE_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "f64": 8, "u8": 1, "i32": 4}
WEIGHT_DTYPES = ("f32", "f64", "f16", "bf16")

Layer = Tuple[str, int, str]


class _Place(NamedTuple):
    stack: str
    layer: int
    site: str


class NamedLayer(_Place):
    """(stack, layer, site), and `module`: the path of the module that attends there, None when it is not known.

    Equal to the plain tuple of the three, and unpacked like it: `module` is no part of which layer it is.
    """
    module: Optional[str] = None

    def __new__(cls, stack: str, layer: int, site: str, module: Optional[str] = None) -> "NamedLayer":
        made = super().__new__(cls, stack, layer, site)
        made.module = module
        return made

    def __repr__(self) -> str:
        return f"{tuple(self)!r}" if self.module is None else f"<{'.'.join(map(str, self))}: {self.module}>"


_WINDOW = re.compile(r"(?:([1-9][0-9]{0,6}) )?(epoch|step|second)s?")
_JOB, _NOT_OF_JOB = re.compile(r"[A-Za-z0-9._-]{1,128}\Z"), re.compile(r"[^A-Za-z0-9._-]+")


# -------------------------------------------------------------------------------- names and topics

def check_job(job: str) -> str:
    """Returns `job` if it is 1..128 of [A-Za-z0-9._-]; ValueError otherwise."""
    if not isinstance(job, str) or not _JOB.match(job):
        raise ValueError(f"job name {job!r}: must be 1 to 128 of A-Z a-z 0-9 . _ -")
    return job


def job_name(name: str) -> str:
    """The name of a job for a name that a person gave it, such as "org/model lr=3e-4": each row of characters beside
    [A-Za-z0-9._-] becomes "-", and 8 hex digits of a hash of the given name follow, so that two names never become one.
    ValueError for "", and for what is too long."""
    if not isinstance(name, str) or not 0 < len(name) <= 128 or _JOB.match(name):
        return check_job(name)
    given = unicodedata.normalize("NFC", name)
    told_apart = hashlib.blake2b(given.encode(errors="surrogatepass"), digest_size=4).hexdigest()
    return "-".join(filter(None, (_NOT_OF_JOB.sub("-", given).strip("-")[:128 - 1 - len(told_apart)], told_apart)))


def check_layer(stack: str, layer: int, site: str) -> Layer:
    """Returns (stack, layer, site) if it names an attention of a model; ValueError otherwise."""
    if stack not in STACKS:
        raise ValueError(f"stack {stack!r}: must be one of {', '.join(STACKS)}")
    if site not in SITES:
        raise ValueError(f"site {site!r}: must be one of {', '.join(SITES)}")
    return stack, check_int("layer", layer, LAYER_MAX), site


def check_int(name: str, value: Any, maximum: int = 2**64 - 1, minimum: int = 0) -> int:
    """Returns `value` as an int in [minimum, maximum]; ValueError naming it otherwise."""
    try:
        number = int(value.__index__())
    except (AttributeError, TypeError):  # the latter of an array or tensor of several
        raise ValueError(f"{name} = {value!r:.80}: must be an integer") from None
    if not minimum <= number <= maximum:
        raise ValueError(f"{name} = {number}: must be {minimum} to {maximum}")
    return number


def check_module(module: Any) -> Optional[str]:
    """Returns `module` if a header can carry it as a module's path, or it is None; ValueError otherwise."""
    if module is not None and (not isinstance(module, str) or clean_module(module) != module):
        raise ValueError(f"module {module!r:.80}: must be 1 to {MODULE_MAX} bytes of printable text")
    return module


def printable(text: str) -> str:
    """'?' for what is no printable character, which a terminal may take for an order."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def clean_module(path: str) -> Optional[str]:
    """A module's path as a header can carry it: '?' for what is no printable character, and of a long path its end,
    after '...'. None for the model itself, which has no path."""
    text = printable(path)
    if len(text.encode()) > MODULE_MAX:
        text = "..." + text.encode()[3 - MODULE_MAX:].decode(errors="ignore")
    return text or None


def tensor_topic(job: str, stack: str, layer: int, site: str) -> bytes:
    """b"tensor/<job>/<stack>/<layer>/<site>/"; the arguments are taken as checked."""
    return f"tensor/{job}/{stack}/{layer}/{site}/".encode("ascii")


def after(topics: Iterable[bytes], seqs: Mapping[bytes, int]) -> List[int]:
    """Messages of the other lane that one comes after: [stack, layer, site, seq, ...], as numbers, of topics of tensors."""
    said = []
    for topic in topics:
        _, _, stack, layer, site, _ = topic.decode("ascii").split("/")
        said += [STACKS.index(stack), int(layer), SITES.index(site), seqs[topic]]
    return said


def event_topic(job: str) -> bytes:
    """b"event/<job>/"; the argument is taken as checked."""
    return f"event/{job}/".encode("ascii")


# ------------------------------------------------------------------------------------------ header

def pack_header(header: Dict[str, Any]) -> bytes:
    """The header as MessagePack: binary for `run`, text for every other string. Keys in dict order. Half a surrogate pair
    is sent as "?", an integer of whatever kind as such."""
    packed: bytes = msgpack.packb(header, use_bin_type=True, unicode_errors="replace", default=operator.index)
    return packed


def common_keys(kind: str, job: str, run: bytes, rank: int, world: int, seq: int, dropped: int,
                time_ns: int, epoch: int, step: int) -> Dict[str, Any]:
    """The keys every message has. `run` is 16 bytes, `time_ns` nanoseconds since 1970."""
    return {"v": VERSION, "type": kind, "job": job, "run": run, "rank": rank, "world": world,
            "seq": seq, "dropped": dropped, "time_ns": time_ns, "epoch": epoch, "step": step}


Described = Sequence[Tuple[str, str, Sequence[int]]]


def attention_keys(layer: Layer, tensors: Described, **rows: Any) -> Dict[str, Any]:
    """The keys an attention message adds. `tensors` is (name, dtype, shape) in the order of the frames, weights
    first; `rows` as in _row_keys.

    Optional keys that say nothing (False, 0, None) are left out: that is their default on the wire.
    """
    return {**_layer_keys(layer, tensors), **_row_keys(_shape_of(tensors, "weights")[1], **rows), **_module_keys(layer)}


def qk_keys(layer: Layer, tensors: Described, *, scale: float, softcap: float = 0.0, **rows: Any) -> Dict[str, Any]:
    """The keys a qk message adds; `tensors` and `rows` as for attention."""
    keys = _layer_keys(layer, tensors)
    keys["scale"] = float(scale)
    if softcap:
        keys["softcap"] = float(softcap)
    return {**keys, **_row_keys(_shape_of(tensors, "q")[1], **rows), **_module_keys(layer)}


def weights_keys(layer: Layer, tensors: Described, *, heads: int, head_dim: int, kv_heads: Optional[int] = None,
                 heads_total: Optional[int] = None, parts: Optional[Mapping[str, Sequence[int]]] = None) -> Dict[str, Any]:
    """The keys a weights message adds; `tensors` as for attention, of wq, wk, wv, wo any. `parts`: the tensors are parts
    of these matrices, name to [out, in, row, column]: the size of each, and where its tensor begins in it."""
    keys = {"heads": heads, "kv_heads": None if kv_heads == heads else kv_heads, "head_dim": head_dim,
            "parts": None if parts is None else {name: [int(x) for x in place] for name, place in parts.items()},
            "heads_total": None if heads_total == heads else heads_total}
    return {**_layer_keys(layer, tensors), **_said(keys), **_module_keys(layer)}


def sketch_keys(layer: Layer, tensors: Described, *, stored: Sequence[str], frozen: Sequence[str], head_offset: Optional[int] = None,
                heads_total: Optional[int] = None) -> Dict[str, Any]:
    """The keys that a sketch adds; `tensors` as for attention, of wq, wk, wv, wo any. `stored`: the dtypes of their parameters;
    `frozen`: the names of those that need no gradient."""
    keys = {"stored": list(stored), "frozen": list(frozen) or None, "head_offset": head_offset or None, "heads_total": heads_total}
    return {**_layer_keys(layer, tensors), **_said(keys), **_module_keys(layer)}


def rows_keys(layer: Layer, tensors: Described, *, columns: Sequence[str], queries: int, keys: int, weights: Optional[str] = None,
              local_window: int = 8, microbatch: int = 0, maps: Optional[Mapping[str, Any]] = None, **rows: Any) -> Dict[str, Any]:
    """The keys that a message of rows adds; `columns` are the names of its sums, `queries` and `keys` how many the attention has,
    `weights` the dtype of explicit weights, `maps` what is said of its maps when they are among the tensors; `tensors` and `rows`
    as for attention."""
    own = {"sums": list(columns), "queries": queries, "keys": keys, "weights": weights, "local_window": None if local_window == 8 else local_window}
    return {**_layer_keys(layer, tensors), **_said(own), **_row_keys(_shape_of(tensors, "sums")[2], **rows), **(maps or {}),
            **_said({"microbatch": microbatch or None}), **_module_keys(layer)}


def _layer_keys(layer: Layer, tensors: Described) -> Dict[str, Any]:
    return {"stack": layer[0], "layer": layer[1], "site": layer[2],
            "tensors": [{"name": n, "dtype": d, "shape": [int(x) for x in s]} for n, d, s in tensors]}


def _module_keys(layer: Layer) -> Dict[str, Any]:
    """The path of the layer's module, when it is known; the last key of a header."""
    module = layer.module if isinstance(layer, NamedLayer) else None
    return {} if module is None else {"module": module}


def _shape_of(tensors: Described, name: str) -> Sequence[int]:
    return next(shape for tensor, _, shape in tensors if tensor == name)


def _row_keys(heads: int, *, causal: bool = False, window: int = 0, q_offset: int = 0, q_stride: int = 1,
              microbatch: int = 0, q_len: Optional[Iterable[int]] = None, k_len: Optional[Iterable[int]] = None,
              head_offset: Optional[int] = None, heads_total: Optional[int] = None, dropout: bool = False, learned_sink: bool = False,
              labels: Optional[Sequence[str]] = None, q_labels: Optional[Sequence[str]] = None, sample: int = 0,
              sample_stride: int = 1, batch: Optional[int] = None) -> Dict[str, Any]:
    """The keys that rows may attend to, the slice of the layer's heads in a message of `heads` heads, and the samples of how
    many it has."""
    if head_offset is not None or heads_total is not None:
        head_offset = head_offset or 0
        heads_total = heads_total if heads_total is not None else int(heads) + head_offset
    return _said({
        "q_offset": q_offset or None, "q_stride": q_stride if q_stride > 1 else None, "microbatch": microbatch or None,
        "causal": bool(causal) or None, "window": window or None, "q_len": None if q_len is None else [int(x) for x in q_len],
        "k_len": None if k_len is None else [int(x) for x in k_len], "head_offset": head_offset, "heads_total": heads_total,
        "dropout": bool(dropout) or None, "learned_sink": bool(learned_sink) or None, "labels": None if labels is None else list(labels),
        "q_labels": None if q_labels is None else list(q_labels), "sample": sample or None,
        "sample_stride": sample_stride if sample_stride > 1 else None, "batch": batch})


def _said(keys: Dict[str, Any]) -> Dict[str, Any]:
    """The keys that say something."""
    return {name: value for name, value in keys.items() if value is not None}


def event_keys(keys: Dict[str, Any], dropped_total: int) -> Dict[str, Any]:
    """The keys of an event, and how many tensor messages were dropped so far: left out when none were."""
    return {"event": keys["event"], "dropped_total": dropped_total, **keys} if dropped_total else keys


def bye_keys(failure: Optional[Dict[str, str]]) -> Dict[str, Any]:
    """The keys of a `bye`; `failure`: the exception that ended the rank, as endings.failure_of() says it."""
    return {"event": "bye", **({"failure": failure} if failure else {})}


def log_keys(values: Dict[str, Optional[float]]) -> Dict[str, Any]:
    """The keys of a `log`: names to numbers, None for what was not finite."""
    return {"event": "log", "values": values}


def check_window(window: Any) -> Optional[Dict[str, Any]]:
    """The `own_window` of a hello, from "epoch", "200 steps" or a number of steps; None: none. ValueError for all else."""
    if window is None:
        return None
    said = _WINDOW.fullmatch(window) if isinstance(window, str) else None
    unit, length = (said[2], int(said[1] or 1)) if said else ("step", window)
    if isinstance(length, bool) or not isinstance(length, int) or not 1 <= length <= WINDOW_UNITS_MAX:
        raise ValueError(f"window = {window!r:.80}: must be 'epoch', '200 steps', '30 seconds' or the like, or a number of "
                         f"steps, 1 to {WINDOW_UNITS_MAX}")
    return {"unit": unit, "length": length}


def hello_keys(layers: Sequence[Tuple[Layer, int]], client: str, settings: Optional[Dict[str, Any]] = None,
               cost: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
    """The keys of a `hello`: `layers` with their heads, `client` names the library, `settings` of the training. `cost` of
    capturing: step_seconds, capture_seconds and, as far as the job's own code asks for them, own_every and own_window."""
    return {"event": "hello",
            "layers": [{"stack": layer[0], "layer": layer[1], "site": layer[2], "heads": heads, **_module_keys(layer)}
                       for layer, heads in layers],
            "client": client, **({"settings": settings} if settings else {}), **(cost or {})}


# ----------------------------------------------------------------------------------------- results
# Where a result keeps its numbers; what is outside (shape, window, ...) stays as it came.
_NUMERIC = ("heads", "sink_rate", "aggregate", "spectrum", "similarity", "weights", "drift")
_LARGE = (*_NUMERIC, "top_pairs", "head_top_pairs")


def decode_result(payload: bytes) -> Dict[str, Any]:
    """One result of the daemon as a plain dict. The result owns its memory.

    Under `heads`, `aggregate`, `spectrum`, `similarity`, `weights` and `drift` a list of numbers becomes a
    float64 array (nil is NaN) of shape [heads]; `count` becomes int64. Singular values are [heads, values],
    short heads padded with NaN (`count`: 0); correlations and similarities [heads, heads]. A single nil there
    becomes NaN. Everything else stays as decoded (str, int, float, bool, None, list, dict), patterns too: a
    list of names. ValueError when the payload is not a MessagePack map.
    """
    try:
        result = msgpack.unpackb(payload, raw=False, strict_map_key=True, max_bin_len=RESULT_BYTES_MAX,
                                 max_str_len=RESULT_BYTES_MAX, max_array_len=1 << 22, max_map_len=1 << 16,
                                 ext_hook=_refuse_ext)
    except Exception as error:  # msgpack raises a dozen kinds; to the caller they are one
        raise ValueError(f"not a result: {error}") from error
    if not isinstance(result, dict):
        raise ValueError("not a result: not a map")
    return with_arrays(result)


def decode_heads(payload: bytes, metrics: Container[str]) -> Dict[str, Any]:
    """As decode_result() but for the numbers, of which it has those of these metrics under `heads` alone: that takes a tenth
    of the time."""
    try:
        unpacker = msgpack.Unpacker(raw=False, strict_map_key=True, max_buffer_size=RESULT_BYTES_MAX, ext_hook=_refuse_ext)
        unpacker.feed(payload)
        return with_arrays(_map_of(unpacker, lambda key: key not in _LARGE, heads=lambda metric: metric in metrics))
    except Exception as error:
        raise ValueError(f"not a result: {error}") from error


def _map_of(unpacker: Any, wanted: Callable[[str], bool], **within: Callable[[str], bool]) -> Dict[str, Any]:
    """The map that comes next, with the wanted keys; of the maps named by `within` with theirs."""
    found: Dict[str, Any] = {}
    for _ in range(unpacker.read_map_header()):
        key = unpacker.unpack()
        if key in within:
            found[key] = _map_of(unpacker, within[key])
        elif wanted(key):
            found[key] = unpacker.unpack()
        else:
            unpacker.skip()
    return found


def with_arrays(result: Dict[str, Any]) -> Dict[str, Any]:
    """A copy of a result, as Control.summary() answers, with arrays as decode_result() makes them."""
    return {key: _to_arrays(value, key) if key in _NUMERIC and isinstance(value, dict) else value
            for key, value in result.items()}


def _refuse_ext(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code}")


def _to_arrays(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {k: v if k == "pattern" else _to_arrays(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return _array(value, key)
    return float("nan") if value is None else value


def _array(values: List[Any], key: str) -> Any:
    """A list of numbers and nils as [n], a list of such lists as [n, longest], padded; anything else as it is."""
    nested = bool(values) and isinstance(values[0], list)
    rows = values if nested else [values]
    if not all(isinstance(row, list) and all(x is None or isinstance(x, (int, float)) for x in row)
               for row in rows):
        return values
    counts = key == "count" and not any(x is None for row in rows for x in row)
    width = max(len(row) for row in rows)
    array = np.full((len(rows), width), 0 if counts else np.nan, dtype=np.int64 if counts else np.float64)
    for i, row in enumerate(rows):
        array[i, :len(row)] = row if counts else [np.nan if x is None else x for x in row]
    return array if nested else array[0]
