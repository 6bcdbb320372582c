# SPDX-License-Identifier: MIT
"""projections: W_q, W_k, W_v and W_o of the layers of a watched model, found by name and published now and then.

They are looked for in the module that attends, then in those around it, up to its block (the nearest with a number):

    separate   q_proj k_proj v_proj, and the names in SEPARATE; the output by a name in OUT, or BERT's output.dense
    in one     qkv and the names in FUSED, when the order of its rows is certain: by the name (in_proj_weight, GPT-2's
               c_attn, which is transposed), by the class of the module (BY_CLASS), or by where queries and keys of
               the first captured forward lie within one tensor. It is never guessed
    latent     DeepSeek's (LATENT): W_o, and W_v as kv_b diag(norm) kv_a, without what the norm divides each token by. W_q and
               W_k have heads of another dimension than these, and no message has two: they are not sent, which is said
    gated      a q_proj of queries and a gate, by the class of the module (GATED_BY_HEAD): W_q alone; of another class the
               order is not certain, and W_q is not sent, which is said
    told       projections={"wq": "to_q", ...}, names as above; what it does not name is looked for all the same

The heads are those that were captured, and all shapes have to agree with them. LoRA: base + scale B A, put together on
the sender thread. A matrix that is quantised or parametrised is not there in words that attnd understands: its layer is
skipped, and a warning says so, once for each kind of reason.

The first rank publishes, of what it holds. Matrices that FSDP2 shares out are published by all, each the rows that it
has (shards.py). Their rows have to be of one step on all ranks, and nobody asks the others: so the layers of a time
are sent in their order, at the end of each step as many as fill a part of the queue that all ranks reckon alike,
whether or not a rank's queue has that room then. attnd drops, and counts, parts that do not become whole.

Nothing here is a collective call, so ranks may differ in what they publish, and whether. All matrices are sent each
time: a tensor's `_version` does not count what is written through `.data`, so it cannot tell that one has not changed.

The training thread clones the matrices (on CUDA as devices.py has it); splitting, transposing and LoRA's product are
left to the sender thread. Queued matrices fill half of the queue at most, unless one layer is larger: whole layers that
find no room wait for the ends of the next steps.
"""
from __future__ import annotations

import functools
import re
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch

from ..base import wire
from ..base.once import log
from ..base.paths import clean_path
from ..forms.seen import Queries, Seen, heads_of
from ..sending import tensors
from ..sending.contents import Captured, Maker
from ..sending.devices import DTYPE_NAMES, HostCopy
from ..sending.publisher import Publisher
from .shards import Shard, blocks, is_sharded, shard_of

SHARDS_PART = 4  # the part of the queue that shards fill at the end of a step
STEPS_WITHOUT_EPOCH = 1000  # an epoch of a run that has ended none
FIRST_STEPS = 100  # the first time comes no later, so that a run is judged by its matrices early

SEPARATE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"), ("to_q", "to_k", "to_v"),
            ("wq", "wk", "wv"), ("w_q", "w_k", "w_v"), ("W_q", "W_k", "W_v"), ("Wq", "Wk", "Wv"), ("q_lin", "k_lin", "v_lin"),
            ("query_proj", "key_proj", "value_proj"), ("q_proj_weight", "k_proj_weight", "v_proj_weight"))
FUSED = ("in_proj_weight", "c_attn", "qkv", "qkv_proj", "to_qkv", "Wqkv", "W_pack", "in_proj", "query_key_value")
OUT = ("out_proj", "o_proj", "o", "c_proj", "proj", "to_out", "to_out.0", "wo", "w_o", "W_o", "Wo", "out_lin", "out", "dense",
       "output.dense")

# The orders of the rows of a fused matrix: those of all queries, then keys, then values; or of each key head its queries,
# its key and its value.
BLOCKS, BY_HEAD = "wqkv", "wqkv_by_head"
BY_NAME = {"in_proj_weight": BLOCKS, "c_attn": BLOCKS}
BY_CLASS = {"GPTNeoXAttention": BY_HEAD, "BloomAttention": BY_HEAD, "PersimmonAttention": BY_HEAD,
            "Phi3Attention": BLOCKS, "ModernBertAttention": BLOCKS, "MptAttention": BLOCKS}
GATED_BY_HEAD = re.compile(r"Qwen3Next|Qwen3_5")  # of each head its query, then its gate
LATENT = (("kv_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm"), ("wkv_b", "wkv_a", "kv_norm"))  # of values, what they read, its norm
READ = ("wq", "wk", "wv")
GIVEN = (*READ, "wo", BLOCKS, BY_HEAD)  # the names in projections=


class Refused(Exception):
    """The matrices of a layer cannot be published: `kind` of reason, of which each is told once, and the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


class _Attends(NamedTuple):
    """Facts of the first captured call of a layer: its heads, head_dim, and the order of the rows of a fused matrix."""
    heads: int
    head_dim: Optional[int]
    order: Optional[str]


class _Matrix(NamedTuple):
    """A matrix of the model, [out, in] or `transposed`, and what LoRA adds to it: scale B A of each.

    shard    the tensor is a part of the matrix
    rows     (each, first, count): in every `each` rows of the tensor, the matrix has the `count` rows from `first` on
    latent   (scale or None, factor): the matrix is tensor diag(scale) factor, of whose rows as many count as the tensor has
             columns
    """
    tensor: torch.Tensor
    transposed: bool = False
    added: Tuple[Tuple[float, torch.Tensor, torch.Tensor], ...] = ()
    shard: Optional[Shard] = None
    rows: Optional[Tuple[int, int, int]] = None
    latent: Optional[Tuple[Optional[torch.Tensor], torch.Tensor]] = None

    @property
    def shape(self) -> Tuple[int, int]:
        rows, columns = self.shard.shape if self.shard is not None else (int(n) for n in self.tensor.shape)
        rows, columns = (columns, rows) if self.transposed else (rows, columns)
        if self.rows is not None:
            rows = rows // self.rows[0] * self.rows[2]
        return rows, columns if self.latent is None else int(self.latent[1].shape[1])

    @property
    def at(self) -> Tuple[int, int]:
        """The row and column of the whole where the tensor begins."""
        first = self.shard.first if self.shard is not None else 0
        return (0, first) if self.transposed else (first, 0)

    def is_sent(self, by_first: bool) -> bool:
        """Whether this rank sends it, as a part; `by_first`: it is the rank that sends what all have."""
        return by_first if self.shard is None else self.shard.sent

    @property
    def nbytes(self) -> int:
        sources = [self.tensor, *(tensor for _, *pair in self.added for tensor in pair),
                   *(tensor for tensor in self.latent or () if tensor is not None)]
        return sum(tensor.numel() * tensor.element_size() for tensor in sources)

    @property
    def places(self) -> Tuple[int, ...]:
        """Where its numbers lie."""
        if self.shard is not None:
            return (self.shard.identity,)
        return (self.tensor.data_ptr(), *(tensor.data_ptr() for _, *pair in self.added for tensor in pair))

    def copy(self, floats: bool = False) -> Callable[[], Tuple[str, np.ndarray]]:
        """Copies it now; what is returned gives dtype and numbers, [out, in]. `floats`: f16 and bf16 as f32."""
        whole = HostCopy(self.tensor)
        added = [(scale, HostCopy(b), HostCopy(a)) for scale, b, a in self.added]
        latent = None if self.latent is None else [None if one is None else HostCopy(one) for one in self.latent]

        def finish() -> Tuple[str, np.ndarray]:
            kind, array = ("f32", whole.floats()) if added or floats or latent else (whole.dtype_name, whole.numpy())
            array = array.T if self.transposed else array
            for scale, b, a in added:
                array = array + np.float32(scale) * (b.floats() @ a.floats())
            if self.rows is not None:
                each, first, count = self.rows
                array = array.reshape(-1, each, array.shape[1])[:, first:first + count].reshape(-1, array.shape[1])
            if latent is not None and latent[1] is not None:
                scaled = array if latent[0] is None else array * latent[0].floats()
                array = scaled @ latent[1].floats()[:array.shape[1]]
            return ("f64" if array.dtype == np.float64 else kind), array

        return finish


class _Layer(NamedTuple):
    """The matrices of a layer by their names of GIVEN, and what its heads are. `unsent`: the names of others, and why these are
    not sent."""
    matrices: Mapping[str, _Matrix]
    heads: int
    kv_heads: int
    head_dim: int
    unsent: Optional[Tuple[str, str]] = None

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices.values())

    @property
    def is_spread(self) -> bool:
        """Whether ranks have parts of it."""
        return any(matrix.shard is not None for matrix in self.matrices.values())

    @property
    def most_bytes(self) -> int:
        """Bytes of the largest part that a rank has of it: the same on all."""
        return sum(matrix.tensor.element_size() * (matrix.shape[0] * matrix.shape[1] if matrix.shard is None
                                                   else matrix.shard.most * matrix.shard.shape[1])
                   for matrix in self.matrices.values())

    def sent(self, by_first: bool) -> "_Layer":
        """The matrices of which this rank sends parts. `by_first` as for is_sent."""
        return self._replace(matrices={name: matrix for name, matrix in self.matrices.items() if matrix.is_sent(by_first)})

    @property
    def size(self) -> int:
        """The largest side of what is sent."""
        sides = [self.heads * self.head_dim]
        for name, matrix in self.matrices.items():
            sides += matrix.shape[1:] if name in (BLOCKS, BY_HEAD) else matrix.shape
        return max(sides)

    def copy(self, ranks: int) -> Maker:
        """Copies them now; what is returned makes the message. `ranks` as for Projections."""
        copies = {name: matrix.copy() for name, matrix in self.matrices.items()}

        def make() -> Captured:
            arrays: Dict[str, Tuple[str, np.ndarray]] = {}
            for name, finish in copies.items():
                kind, array = finish()
                parts = self._split(name, array) if name in (BLOCKS, BY_HEAD) else {name: array}
                arrays.update((part, (kind, numbers)) for part, numbers in parts.items())
            return self._message(arrays, ranks)

        return make

    def copy_parts(self, ranks: int, by_first: bool) -> Maker:
        """Copies what this rank has of a layer that is spread."""
        places = {part: [*shape, 0, 0] for part, shape in self._parts()}
        copies = [(name, matrix.at, matrix.copy()) for name, matrix in self.sent(by_first).matrices.items()]

        def make() -> Captured:
            found: Dict[str, Tuple[str, np.ndarray]] = {}
            for name, at, finish in copies:
                kind, array = finish()
                for part, place, numbers in blocks(self._rows(name), array, at):
                    found[part] = kind, numbers
                    places[part][2:] = place
            return self._message(found, ranks, places)

        return make

    def _message(self, arrays: Mapping[str, Tuple[str, np.ndarray]], ranks: int,
                 parts: Optional[Mapping[str, List[int]]] = None) -> Captured:
        frames = tensors.Frames()
        for name in (name for name in GIVEN if name in arrays):
            frames.add_owned(name, *arrays[name])
        return Captured("weights", frames, lambda where: wire.weights_keys(
            where, frames.described, heads=self.heads, head_dim=self.head_dim, kv_heads=self.kv_heads,
            heads_total=self.heads * ranks, parts=parts))

    def _parts(self) -> List[Tuple[str, Tuple[int, int]]]:
        """wq, wk, wv and wo, those that there are, and how large they are."""
        found = [(part, (len(rows), matrix.shape[1])) for name, matrix in self.matrices.items()
                 for part, rows in self._rows(name)]
        return sorted(found, key=lambda each: GIVEN.index(each[0]))

    def _rows(self, name: str) -> List[Tuple[str, np.ndarray]]:
        """The matrices that this one consists of, and the rows of each."""
        rows = np.arange(self.matrices[name].shape[0])
        if name not in (BLOCKS, BY_HEAD):
            return [(name, rows)]
        return [(part, own[:, 0]) for part, own in self._split(name, rows[:, None]).items()]

    def _split(self, order: str, fused: np.ndarray) -> Dict[str, np.ndarray]:
        d, group, width = self.head_dim, self.heads // self.kv_heads, fused.shape[1]
        if order == BLOCKS:
            q, k, v = np.split(fused, (self.heads * d, (self.heads + self.kv_heads) * d))
        else:
            by_head = fused.reshape(self.kv_heads, group + 2, d, width)
            q, k, v = (part.reshape(-1, width) for part in (by_head[:, :group], by_head[:, group], by_head[:, group + 1]))
        return {"wq": q, "wk": k, "wv": v}


Modules = Mapping[str, torch.nn.Module]  # by path
Layers = Callable[[], Mapping[str, wire.Layer]]  # gives layers by the path of their module


class Projections:
    """Finds the matrices of a model, and publishes them. Used by a watch, from the training thread.

    every   epochs from one time to the next; None: each, when they are no larger than attnd makes whole spectra of
    given   names of the matrices, as projections= has them
    ranks   how many ranks the heads of a layer are split over; this one publishes its own

    The publisher's first rank publishes what it has; the others, parts of what they share out.
    """

    def __init__(self, root: torch.nn.Module, publisher: Publisher, every: Optional[int], given: Mapping[str, str],
                 ranks: int = 1):
        self._root = root
        self._publisher = publisher
        self._every = every
        self._given = given
        self._ranks = ranks
        self._first = publisher.rank == 0
        self._attends: Dict[str, _Attends] = {}
        self._waiting: Dict[str, wire.Layer] = {}  # by path, in order
        self._needs = 0  # bytes of the first of them
        self._spread = False  # one of them is shared out: its step is due
        self._sent: Dict[Any, str] = {}  # paths by where their matrices lie, of this time
        self._epochs = False  # one has ended
        self._begun = False  # the first time has come
        self._refused: Dict[str, List[Tuple[str, str]]] = {}  # paths and reasons, by kind
        self._told: List[str] = []

    def note(self, path: str, seen: Seen) -> None:
        """An attention was seen for the first time."""
        heads = heads_of(seen)
        self._attends[path] = _Attends(heads, int(seen.q.shape[3]), _order_of(seen)) if isinstance(seen, Queries) \
            else _Attends(heads, None, None)

    def epoch_ends(self, layers: Layers, epoch: int, step: int) -> None:
        """The epoch is over, of which `step` was the last; `layers` gives those that are wanted."""
        self._epochs = True
        if (epoch + 1) % (self._every or 1) == 0:
            self._begin(layers(), epoch, step)

    def step_ends(self, layers: Layers, epoch: int, step: int) -> None:
        """A step is over: layers that wait may have room, and a training without epochs goes by its steps."""
        steps = STEPS_WITHOUT_EPOCH * (self._every or 1) if self._begun else FIRST_STEPS
        if (not self._epochs or not self._begun) and (step + 1) % steps == 0:
            self._begin(layers(), epoch, step)
        elif self._waiting and (self._spread or self._publisher.has_room(self._needs)):
            self._send(epoch, step)

    def _begin(self, layers: Mapping[str, wire.Layer], epoch: int, step: int) -> None:
        first = [path for path in self._waiting if path in layers]
        self._waiting = {path: layers[path] for path in (*first, *layers) if path in self._attends and "#" not in path}
        self._sent = {}
        self._begun = self._begun or bool(self._waiting)
        self._send(epoch, step)

    def _send(self, epoch: int, step: int) -> None:
        """Queues those that wait, as far as there is room; shards as far as they have their turn."""
        modules = modules_of(self._root) if self._waiting else {}
        waiting, self._waiting = self._waiting, {}
        self._spread, self._needs, shards = False, 0, 0
        for path, layer in waiting.items():
            if self._spread:
                self._waiting[path] = layer
                continue
            found = self._found(modules, path)
            if found is None or (self._every is None and found.size > self._publisher.limits.weights_max_size):
                continue
            if found.is_spread:
                shards += found.most_bytes
                if found.most_bytes < shards and shards * SHARDS_PART > self._publisher.queue_bytes:
                    self._spread = True
                    self._waiting[path] = layer
                else:
                    self._queue(layer, epoch, step, found.sent(self._first).nbytes,
                                functools.partial(found.copy_parts, self._ranks, self._first))
            elif self._first and (self._needs or not self._publisher.has_room(found.nbytes)):
                self._needs = self._needs or found.nbytes
                self._waiting[path] = layer
            elif self._first:
                self._queue(layer, epoch, step, found.nbytes, functools.partial(found.copy, self._ranks))
        self._publisher.hurry()
        self._tell(modules)

    def _queue(self, layer: wire.Layer, epoch: int, step: int, nbytes: int, copy: Callable[[], Maker]) -> None:
        if nbytes and not self._publisher.give_up(*layer[:3], kind="weights"):  # no bytes: another rank has all
            self._publisher.publish_later(layer, epoch, step, nbytes, copy, "weights")

    def _found(self, modules: Modules, path: str) -> Optional[_Layer]:
        """The matrices of a layer; None: they cannot be published."""
        try:
            found = _find(modules, path, self._attends[path], self._given)
            places = tuple((name, found.matrices[name].places) for name in GIVEN if name in found.matrices)
            other = self._sent.setdefault(places, path)
            if other != path:
                raise Refused("tied", f"they are those of {other}, of which they are published")
            if found.unsent is not None:
                self._refused.setdefault(found.unsent[0], []).append((path, found.unsent[1]))
            return found
        except Refused as refused:
            self._refused.setdefault(refused.kind, []).append((path, str(refused)))
            return None

    def _tell(self, modules: Modules) -> None:
        refused, self._refused = self._refused, {}
        for kind, found in refused.items():
            if self._first and kind not in self._told:
                self._told.append(kind)
                path, reason = found[0]
                names = kind if kind.startswith("W_") else "W_q, W_k, W_v and W_o"
                more = f", and {len(found) - 1} more layer{'s' * (len(found) > 2)}" if len(found) > 1 else ""
                log.warning("job %s: %s of %s (%s%s) %s not published: %s", self._publisher.job, names, path or "the model",
                            type(modules.get(path)).__name__, more, "are" if " and " in names else "is", reason)


def check_projections(given: Any, root: torch.nn.Module) -> Mapping[str, str]:
    """The argument `projections` of watch(); ValueError when it names nothing that the model has."""
    if given is None:
        return {}
    if not isinstance(given, Mapping) or not set(given) <= set(GIVEN) or \
            not all(isinstance(name, str) and name for name in given.values()):
        raise ValueError(f"projections = {given!r}: must map some of {', '.join(GIVEN)} to names of modules or parameters "
                         "within the attention, as {'wq': 'to_q', 'wo': 'to_out.0'}")
    orders = [name for name in (BLOCKS, BY_HEAD) if name in given]
    if len(orders) > 1 or orders and set(READ) & set(given):
        raise ValueError(f"projections = {given!r}: {BLOCKS} and {BY_HEAD} are each W_q, W_k and W_v in one, so one of "
                         "them goes with wo alone")
    known = [*modules_of(root), *(clean_path(path) for path, _ in root.named_parameters())]
    for name in given.values():
        if not any(path == name or path.endswith(f".{name}") for path in known):
            raise ValueError(f"projections: no module or parameter of the model is called {name!r}")
    return dict(given)


# ------------------------------------------------------------------------------------------- finding them

def find_output(modules: Modules, path: str, heads: int, width: int, given: Mapping[str, str]) -> _Matrix:
    """W_o of the attention at `path`, whose heads have outputs of `width` numbers. It is looked for alone, so W_q,
    W_k and W_v may be what cannot be published, or have other names. Refused."""
    for holder in _around(path):
        if "wo" in given:
            found = _matrix_at(modules, holder, given["wo"])
            if found is not None and found.shape[1] != heads * width:
                raise Refused("shapes", f"wo {list(found.shape)} does not fit {heads} heads of {width} dimensions")
        else:
            reader = _reader(modules, holder, given)
            found = None
            if reader is not None or holder == path:
                found = _output(modules, holder, _readable(modules, holder, reader), lambda columns: columns == heads * width,
                                around=reader is not None)
            if found is None and reader is not None:
                break
        if found is not None and found.shard is not None:
            raise Refused("sharded", f"{given.get('wo', 'the output projection')} is sharded (DTensor), and no rank has all "
                          "of it")
        if found is not None:
            return found
    raise Refused("names", f"it has none of {given.get('wo') or ', '.join(OUT)} that fits {heads} heads of {width} dimensions. "
                  "projections={'wo': 'NAME'} tells its name")


def _reader(modules: Modules, holder: str, given: Mapping[str, str]) -> Optional[str]:
    """The name of what makes queries in `holder`; None: there is no such thing. It need not be what can be published."""
    told = [(given[name],) for name in ("wq", BLOCKS, BY_HEAD) if name in given]
    for names in told or (*SEPARATE, *((name,) for name in FUSED)):
        if all(_at(modules, holder, name) is not None for name in names):
            return names[0]
    return None


def _readable(modules: Modules, holder: str, reader: Optional[str]) -> Optional[_Matrix]:
    """The matrix of that name; None: it is none that can be read."""
    try:
        return None if reader is None else _matrix_at(modules, holder, reader)
    except Refused:
        return None


def _output(modules: Modules, holder: str, read: Optional[_Matrix], fits: Callable[[int], bool], around: bool = True
            ) -> Optional[_Matrix]:
    """W_o by a name in OUT, whose columns fit, and which leads back to where `read` reads from, when that is known; `around`:
    or BERT's, in the module around. Refused."""
    for place, name in [(holder, name) for name in OUT] + [(holder.rpartition(".")[0], "output.dense")] * around:
        matrix = _matrix_at(modules, place, name)
        if matrix is not None and fits(matrix.shape[1]) and (read is None or matrix.shape[0] == read.shape[1]):
            return matrix
    return None


def modules_of(root: torch.nn.Module) -> Dict[str, torch.nn.Module]:
    """By path, one that is in several places under each."""
    return {clean_path(path): module for path, module in root.named_modules(remove_duplicate=False)}


def _find(modules: Modules, path: str, attends: _Attends, given: Mapping[str, str]) -> _Layer:
    """The matrices of the attention at `path`. Refused."""
    found: Dict[str, _Matrix] = {}
    wanted = () if BLOCKS in given or BY_HEAD in given else tuple(name for name in READ if name not in given)
    automatic = [*(" ".join(names) for names in SEPARATE), *FUSED] if wanted else []
    unsent: Optional[Tuple[str, str]] = None
    for holder in _around(path):
        latent = None if given or found else _latent(modules, holder, attends)
        if latent is not None:
            return latent
        told = {name: _matrix_at(modules, holder, given[name]) for name in given if name not in found}
        here = {name: matrix for name, matrix in told.items() if matrix is not None}
        if wanted:
            read = _separate(modules, holder, wanted) or (_fused(modules, holder, attends) if wanted == READ else {})
            wanted = () if read else wanted
            if "wq" in read:
                read, unsent = _without_gate(modules[holder], read, attends)
            here.update(read)
        found.update(here)
        first = next((found[name] for name in ("wq", BLOCKS, BY_HEAD, "wk", "wv") if name in found), None)
        if here and first is not None and "wo" not in {**given, **found}:
            inner = first.shape[0] if "wq" in found else None
            out = _output(modules, holder, first, lambda columns: columns % attends.heads == 0 and inner in (None, columns))
            found.update({} if out is None else {"wo": out})
    if not found:
        looked_at = ", ".join((*given.values(), *automatic))
        raise Refused("names", f"it has none of {looked_at}. projections={{'wq': 'NAME', 'wk': 'NAME', 'wv': 'NAME', 'wo': "
                      "'NAME'} tells their names within an attention, weights_every=0 silences this")
    return _checked(found, attends)._replace(unsent=unsent)


def _latent(modules: Modules, holder: str, attends: _Attends) -> Optional[_Layer]:
    """W_v and W_o of multi-head latent attention; None: it is none. Refused."""
    heads = attends.heads
    for names in LATENT:
        b, a = (_matrix_at(modules, holder, name) for name in names[:2])
        norm: Any = getattr(modules.get(f"{holder}.{names[2]}".lstrip(".")), "weight", None)
        if b is None or a is None or b.shard is not None or a.shard is not None or a.shape[0] < b.shape[1] or b.shape[0] % heads:
            continue
        each = b.shape[0] // heads
        out = _output(modules, holder, a, lambda columns: columns % heads == 0 and columns // heads < each, around=False)
        if out is None:
            continue
        if a.added:
            raise Refused("parametrised", f"LoRA adds to {names[1]}, the first of two factors")
        d = out.shape[1] // heads
        v = b._replace(rows=(each, each - d, d), latent=(None if norm is None else norm.detach(), a.tensor))
        return _checked({"wv": v, "wo": out}, attends._replace(head_dim=d))._replace(unsent=(
            "W_q and W_k", f"the heads that they make are of another dimension than those of values, which are of {d}; of this latent "
            "attention W_v (both factors multiplied, without what the norm between them divides by) and W_o are"))
    return None


def _without_gate(module: torch.nn.Module, read: Dict[str, _Matrix],
                  attends: _Attends) -> Tuple[Dict[str, _Matrix], Optional[Tuple[str, str]]]:
    """W_q without the gate that it has for each query, and what cannot be sent, with the reason."""
    stated: Any = getattr(module, "head_dim", None)
    d, wq = attends.head_dim or (stated if isinstance(stated, int) else 0), read["wq"]
    if not d or wq.shape[0] != 2 * attends.heads * d:
        return read, None
    if GATED_BY_HEAD.match(type(module).__name__) and wq.shard is None:
        return {**read, "wq": wq._replace(rows=(2 * d, 0, d))}, None
    return {name: matrix for name, matrix in read.items() if name != "wq"}, (
        "W_q", "its matrix has twice the rows of its heads, as with a gate, in an order that is not certain, or in parts")


def _around(path: str) -> List[str]:
    """The path and those of the modules around it, up to the first with a number, which is a block."""
    found = [path]
    while path and not re.search(r"\d$", path):
        path = path.rpartition(".")[0]
        found.append(path)
    return found


def _separate(modules: Modules, holder: str, wanted: Tuple[str, ...]) -> Dict[str, _Matrix]:
    for names in SEPARATE:
        told = {key: _matrix_at(modules, holder, name) for key, name in zip(READ, names) if key in wanted}
        found = {key: matrix for key, matrix in told.items() if matrix is not None}
        if len(found) == len(wanted):
            return found
    return {}


def _fused(modules: Modules, holder: str, attends: _Attends) -> Dict[str, _Matrix]:
    for name in FUSED:
        matrix = _matrix_at(modules, holder, name)
        if matrix is None:
            continue
        module = modules[holder]
        order = BY_NAME.get(name) or BY_CLASS.get(type(module).__name__) or attends.order
        if hasattr(module, "q_attn") or hasattr(module, "multi_query") and name == "c_attn":
            order = None  # queries of their own, or GPTBigCode's order
        if order is None:
            raise Refused("order", f"{name} has them in one, in an order that is not certain. projections={{'{BLOCKS}': "
                          f"'{name}'}} says: all queries, then keys, then values; '{BY_HEAD}': head by head")
        return {order: matrix}
    return {}


def _checked(found: Mapping[str, _Matrix], attends: _Attends) -> _Layer:
    """With its heads. Refused when shapes do not agree with them."""
    heads, order = attends.heads, next((name for name in (BLOCKS, BY_HEAD) if name in found), None)
    shapes = {name: matrix.shape for name, matrix in found.items()}
    rows = {name: shape[name == "wo"] for name, shape in shapes.items()}  # of W_o the columns are the heads'
    inner = rows.get("wq", rows.get("wo", heads * (attends.head_dim or 0)))
    head_dim = inner // heads
    if head_dim == 0:
        raise Refused("heads", f"the dimension of its {heads} heads is not known")
    keys = (rows[order] - inner) // 2 if order is not None else rows.get("wk", rows.get("wv", inner))
    kv_heads = max(1, keys // head_dim)
    expected = {"wq": heads, "wo": heads, "wk": kv_heads, "wv": kv_heads, order: heads + 2 * kv_heads}
    inputs = {shapes[name][1] for name in ("wk", "wv") if name in shapes}
    if heads % kv_heads or attends.head_dim not in (None, head_dim) or len(inputs) > 1 or \
            any(rows[name] != expected[name] * head_dim for name in rows):
        raise Refused("shapes", " and ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
                      + f" do not fit {heads} heads of {attends.head_dim or head_dim} dimensions")
    return _Layer(found, heads, kv_heads, head_dim)


def _order_of(seen: Queries) -> Optional[str]:
    """The order of the rows of the fused matrix that queries and keys were made by, when they are views of its product
    and so lie in one tensor; None: they do not."""
    q, k = seen.q, seen.k
    heads, d = int(q.shape[1]), int(q.shape[3])
    if heads < 2 or k.shape[1] != heads or q.stride() != k.stride() or q.stride(3) != 1 or _storage(q).data_ptr() != _storage(k).data_ptr():
        return None
    row, apart = 3 * heads * d, k.storage_offset() - q.storage_offset()
    if q.storage_offset() % row or row not in (q.stride(0), q.stride(2)) or q.stride(2) % row:
        return None
    return {(d, heads * d): BLOCKS, (3 * d, d): BY_HEAD}.get((int(q.stride(1)), int(apart)))


# --------------------------------------------------------------------------------------- one of them

def _matrix_at(modules: Modules, holder: str, name: str) -> Optional[_Matrix]:
    """The matrix that a module or parameter of `holder` is; None: there is no such thing. Refused."""
    found = _at(modules, holder, name)
    if isinstance(found, torch.nn.Module):
        return _matrix_of(name, found)
    return None if found is None else _held(name, found)


def _at(modules: Modules, holder: str, name: str) -> Union[None, torch.nn.Module, torch.Tensor]:
    """The module or parameter of `holder` that has this name, be it a matrix or not; None: there is none."""
    module = modules.get(f"{holder}.{name}".lstrip("."))
    *inner, last = name.split(".")
    owner = modules.get(".".join(filter(None, (holder, *inner))))
    return module if module is not None or owner is None else owner._parameters.get(last)


def _matrix_of(name: str, module: torch.nn.Module) -> Optional[_Matrix]:
    base: Any = getattr(module, "base_layer", None)
    if isinstance(base, torch.nn.Module) and hasattr(module, "lora_A"):
        matrix = _matrix_of(name, base)
        added = () if matrix is None else _lora(name, module)
        if added and matrix is not None and matrix.shard is not None:
            raise Refused("sharded", f"{name} is sharded (DTensor), and what LoRA adds to it is not")
        return None if matrix is None else matrix._replace(added=added)
    if hasattr(module, "parametrizations"):
        raise Refused("parametrised", f"{name} is parametrised (torch.nn.utils.parametrize)")
    weight: Any = getattr(module, "weight", None)
    if weight is None:
        packed = next((part for part in ("qweight", "W_q") if hasattr(module, part)), None)
        if packed is not None:
            raise Refused("quantised", f"{name} is quantised ({type(module).__name__})")
        return None
    matrix = _held(name, weight)
    declared = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if None not in declared and matrix.shape != declared:
        raise Refused("sharded", f"this process has a part of {name} alone")
    return matrix._replace(transposed=type(module).__name__ == "Conv1D")


def _lora(name: str, module: Any) -> Tuple[Tuple[float, torch.Tensor, torch.Tensor], ...]:
    """The addends of LoRA in a forward, as peft has it."""
    if module.merged or module.disable_adapters:
        return ()
    active = [adapter for adapter in module.active_adapters if adapter in module.lora_A]
    if any(adapter in getattr(module, "lora_variant", ()) or getattr(module, "use_dora", {}).get(adapter)
           for adapter in active):
        raise Refused("parametrised", f"{name} has a variant of LoRA that does more than add B A")
    return tuple((float(module.scaling[adapter]), _plain(name, module.lora_B[adapter].weight),
                  _plain(name, module.lora_A[adapter].weight)) for adapter in active)


def _held(name: str, weight: Any) -> _Matrix:
    """The matrix, or the rows of it that are shared out to this process. Refused."""
    if not is_sharded(weight):
        return _Matrix(_plain(name, weight))
    try:
        local, shard = shard_of(weight)
    except ValueError as why:
        raise Refused("sharded", f"{name} {why}") from None
    if local.dtype not in DTYPE_NAMES:
        raise Refused("quantised", f"{name} is quantised ({local.dtype})")
    if shard.sent and (local.device.type == "meta" or not _is_held(local)):
        raise Refused("sharded", f"this process has no part of {name} now, as it should")
    return _Matrix(local.detach(), shard=shard)


def _plain(name: str, weight: Any) -> torch.Tensor:
    """The tensor, when its numbers are all here as they are. Refused."""
    if is_sharded(weight):
        raise Refused("sharded", f"{name} is sharded (DTensor), and no rank has all of it")
    if not isinstance(weight, torch.Tensor) or type(weight) not in (torch.Tensor, torch.nn.Parameter) or \
            weight.dtype not in DTYPE_NAMES:
        what = getattr(weight, "dtype", None) or type(weight).__name__
        raise Refused("quantised", f"{name} is quantised ({type(weight).__name__}, {what})")
    if weight.dim() != 2 or weight.numel() == 0 or weight.device.type == "meta" or not _is_held(weight):
        raise Refused("sharded", f"this process has no matrix {name} now: it is sharded (FSDP, ZeRO), or none")
    return weight.detach()


def _storage(tensor: Any) -> Any:
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()  # torch 1.13


def _is_held(tensor: torch.Tensor) -> bool:
    """Whether its memory is there: FSDP frees that of views and leaves them."""
    storage = _storage(tensor)
    last = tensor.storage_offset() + sum((int(n) - 1) * step for n, step in zip(tensor.shape, tensor.stride()))
    return bool(storage.nbytes() >= (last + 1) * tensor.element_size())
