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
    taken      W_o under another name: the one matrix of its shape that takes what the attention gives (takers.py)

The heads are those that were captured, and all shapes have to agree with them. In matrix.py is what each of them may be.
One that cannot be read, or is not found beside others, is not sent; a layer of which none is sent is skipped. A warning says
so, once for each kind of reason. That no matrix takes what an attention gives is no fault: then there is no W_o.

The first rank publishes, of what it holds. Matrices that FSDP2 shares out are published by all, each the rows that it
has (shards.py). Their rows have to be of one step on all ranks, and nobody asks the others: so the layers of a time
are sent in their order, at the end of each step as many as fill a part of the queue that all ranks reckon alike,
whether or not a rank's queue has that room then. attnd drops, and counts, parts that do not become whole.

Nothing here is a collective call, so ranks may differ in what they publish, and whether. All matrices are sent each
time: a tensor's `_version` does not count what is written through `.data`, so it cannot tell that one has not changed.

The training thread clones the matrices (on CUDA as devices.py has it); splitting, transposing and the products of
adapters are left to the sender thread. Queued matrices fill half of the queue at most, unless one layer is larger:
whole layers that find no room wait for the ends of the next steps.
"""
from __future__ import annotations

import functools
import re
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..base import wire
from ..base.once import Once, log
from ..base.paths import clean_path
from ..forms.seen import Queries, Seen, Weights, heads_of
from ..sending import tensors
from ..sending.contents import Captured, Maker
from ..sending.publisher import Publisher
from .applied import Refused, failure, is_of_torch
from .matrix import Matrix, Modules, held, matrix_at, matrix_of, part_at, storage
from .shards import blocks
from .takers import Takers

SHARDS_PART = 4  # the part of the queue that shards fill at the end of a step
STEPS_WITHOUT_EPOCH = 1000  # an epoch of a run that has ended none
FIRST_STEPS = 100  # the first time comes no later, so that a run is judged by its matrices early

SEPARATE = (("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q", "k", "v"), ("to_q", "to_k", "to_v"),
            ("wq", "wk", "wv"), ("w_q", "w_k", "w_v"), ("W_q", "W_k", "W_v"), ("Wq", "Wk", "Wv"), ("q_lin", "k_lin", "v_lin"),
            ("query_proj", "key_proj", "value_proj"), ("q_linear", "k_linear", "v_linear"), ("linear_q", "linear_k", "linear_v"),
            ("queries", "keys", "values"), ("q_proj_weight", "k_proj_weight", "v_proj_weight"))
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
ABSENT = "no W_o"
NAMED_MAX = 6  # matrices of other names that are told
GIVEN = (*READ, "wo", BLOCKS, BY_HEAD)  # the names in projections=
TOLD = {"wq": "W_q", "wk": "W_k", "wv": "W_v", "wo": "W_o", BLOCKS: "W_q, W_k and W_v", BY_HEAD: "W_q, W_k and W_v"}
Copies = Dict[str, Callable[[], Tuple[str, np.ndarray]]]  # by the name of a matrix, what gives dtype and numbers
Unread = Callable[[str, Exception], None]  # is told the name of a matrix that could not be made, and why


class _Attends(NamedTuple):
    """Facts of the first captured call of a layer: its heads, head_dim, and the order of the rows of a fused matrix."""
    heads: int
    head_dim: Optional[int]
    order: Optional[str]


class Layer(NamedTuple):
    """The matrices of a layer by their names of GIVEN, and what its heads are. `unsent`: the names of others, and why these are
    not sent. `absent`: it has no W_o."""
    matrices: Mapping[str, Matrix]
    heads: int
    kv_heads: int
    head_dim: int
    unsent: Tuple[Tuple[str, str], ...] = ()
    absent: bool = False

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

    def sent(self, by_first: bool) -> "Layer":
        """The matrices of which this rank sends parts. `by_first` as for is_sent."""
        return self._replace(matrices={name: matrix for name, matrix in self.matrices.items() if matrix.is_sent(by_first)})

    @property
    def size(self) -> int:
        """The largest side of what is sent."""
        sides = [self.heads * self.head_dim]
        for name, matrix in self.matrices.items():
            sides += matrix.shape[1:] if name in (BLOCKS, BY_HEAD) else matrix.shape
        return max(sides)

    def copy(self, ranks: int, unread: Unread) -> Maker:
        """Copies them now; what is returned makes the message. `ranks` as for Projections."""
        copies = self._copies(unread)

        def make() -> Optional[Captured]:
            arrays: Dict[str, Tuple[str, np.ndarray]] = {}
            for name, (kind, array) in _made(copies, unread):
                parts = self._split(name, array) if name in (BLOCKS, BY_HEAD) else {name: array}
                arrays.update((part, (kind, numbers)) for part, numbers in parts.items())
            return self._message(arrays, ranks) if arrays else None

        return make

    def copy_parts(self, ranks: int, by_first: bool, unread: Unread) -> Maker:
        """Copies what this rank has of a layer that is spread."""
        places = {part: [*shape, 0, 0] for part, shape in self._parts()}
        sent = self.sent(by_first)
        copies = sent._copies(unread)

        def make() -> Optional[Captured]:
            found: Dict[str, Tuple[str, np.ndarray]] = {}
            for name, (kind, array) in _made(copies, unread):
                for part, place, numbers in blocks(self.rows_of(name), array, sent.matrices[name].at):
                    found[part] = kind, numbers
                    places[part][2:] = place
            return self._message(found, ranks, places) if found else None

        return make

    def _copies(self, unread: Unread) -> Copies:
        copies = {}
        for name, matrix in self.matrices.items():
            try:
                copies[name] = matrix.copy()
            except Exception as error:
                unread(name, error)
        return copies

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
                 for part, rows in self.rows_of(name)]
        return sorted(found, key=lambda each: GIVEN.index(each[0]))

    def rows_of(self, name: str) -> List[Tuple[str, np.ndarray]]:
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


Layers = Callable[[], Mapping[str, wire.Layer]]  # gives layers by the path of their module


def _made(copies: Copies, unread: Unread) -> Iterator[Tuple[str, Tuple[str, np.ndarray]]]:
    """(name, dtype and numbers) of those that can be made."""
    for name, finish in copies.items():
        try:
            made = finish()
        except Exception as error:
            unread(name, error)
            continue
        yield name, made


class Projections:
    """Finds the matrices of a model, and publishes them. Used by a watch, from the training thread.

    every   epochs from one time to the next; None: each, when they are no larger than attnd makes whole spectra of
    given   names of the matrices, as projections= has them
    sends   whether this rank does, of what it holds as a whole or in parts; else it only finds them
    ranks   how many ranks the heads of a layer are split over; this one publishes its own

    The publisher's first rank publishes what it has; the others, parts of what they share out.
    """

    def __init__(self, root: torch.nn.Module, publisher: Publisher, every: Optional[int], given: Mapping[str, str],
                 ranks: int = 1, sends: bool = True):
        self._root = root
        self._publisher = publisher
        self._every = every
        self._given = given
        self._ranks = ranks
        self._sends = sends
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
        self._once = Once(publisher.job)
        self._takers = Takers()
        self.settled = self._takers.settled  # paths of attentions of which note() has nothing more to learn

    def note(self, path: str, seen: Seen) -> None:
        """An attention was seen."""
        if self._takers.of(path) is None and seen.output is not None:
            self._takers.seek(path, seen.output.tensor, isinstance(seen, Weights))
        if path in self._attends:
            return
        heads = heads_of(seen)
        self._attends[path] = _Attends(heads, int(seen.q.shape[3]), _order_of(seen)) if isinstance(seen, Queries) \
            else _Attends(heads, None, None)

    @property
    def is_settled(self) -> bool:
        """Whether no attention that was seen has anything more to show."""
        return self.settled.issuperset(self._attends)

    @property
    def follows(self) -> bool:
        """Whether entered() is to be told of modules."""
        return self._takers.is_seeking

    def entered(self, path: str, first: Any) -> None:
        """A module of the model begins, with this first input."""
        self._takers.entered(path, first)

    def forward_ends(self) -> None:
        """The forward that was followed is over."""
        self._takers.forward_ends()

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

    def layer_at(self, modules: Modules, path: str) -> Layer:
        """The matrices of an attention that note() was told of. Refused."""
        if path.partition("#")[0] not in modules:
            raise Refused("gone", "no module is there any more: end the watch and begin another one of the model as it is now")
        return _find(modules, path, self._attends[path], self._given, self._takers_of(modules, path))

    def _begin(self, layers: Mapping[str, wire.Layer], epoch: int, step: int) -> None:
        if not self._sends:
            return
        first = [path for path in self._waiting if path in layers]
        self._waiting = {path: layers[path] for path in (*first, *layers) if path in self._attends and "#" not in path}
        self._sent = {}
        self._begun = self._begun or bool(self._waiting)
        self._send(epoch, step)

    def _send(self, epoch: int, step: int) -> None:
        """Queues those that wait, as far as there is room; shards as far as they have their turn."""
        try:
            self._send_waiting(epoch, step)
        except Exception as error:
            self._once.warn("failed", "matrices are not published: queuing them failed (%s); attention is captured all the same",
                            failure(error), exc_info=True)

    def _send_waiting(self, epoch: int, step: int) -> None:
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
                                functools.partial(found.copy_parts, self._ranks, self._first, self._unread_of(modules, path)))
            elif self._first and (self._needs or not self._publisher.has_room(found.nbytes)):
                self._needs = self._needs or found.nbytes
                self._waiting[path] = layer
            elif self._first:
                self._queue(layer, epoch, step, found.nbytes,
                            functools.partial(found.copy, self._ranks, self._unread_of(modules, path)))
        self._publisher.hurry()
        self._tell(modules)

    def _queue(self, layer: wire.Layer, epoch: int, step: int, nbytes: int, copy: Callable[[], Maker]) -> None:
        if nbytes and not self._publisher.give_up(*layer[:3], kind="weights"):  # no bytes: another rank has all
            self._publisher.publish_later(layer, epoch, step, nbytes, copy, "weights")

    def _found(self, modules: Modules, path: str) -> Optional[Layer]:
        """The matrices of a layer; None: they cannot be published."""
        try:
            found = self.layer_at(modules, path)
            places = tuple((name, found.matrices[name].places) for name in GIVEN if name in found.matrices)
            other = self._sent.setdefault(places, path)
            if other != path:
                raise Refused("tied", f"they are those of {other}, of which they are published")
            for names, why in found.unsent:
                self._refused.setdefault(names, []).append((path, why))
            if found.absent and ABSENT not in self._told:
                self._told.append(ABSENT)
                log.info("job %s: %s has no W_o: no matrix takes what it gives", self._publisher.job, path or "the model")
            return found
        except Refused as refused:
            self._refused.setdefault(refused.kind, []).append((path, str(refused)))
        except Exception as error:
            log.debug("job %s: matrices of %s", self._publisher.job, path, exc_info=True)
            self._refused.setdefault("failed", []).append((path, f"reading them failed ({failure(error)})"))
        return None

    def _takers_of(self, modules: Modules, path: str) -> Optional[List[str]]:
        """The modules that take the output of the attention at `path`; where nothing tells, as of one of its class."""
        own = self._takers.of(path)
        kind = type(modules.get(path))
        if own is None:
            like = next((one for one in self._attends if type(modules.get(one)) is kind and self._takers.of(one)), None)
            if like is not None:
                own = [path + taker[len(like):] for taker in self._takers.of(like) or () if taker.startswith(like + ".")] or None
        return own

    def _unread_of(self, modules: Modules, path: str) -> Unread:
        """Tells of a matrix of the layer at `path` that could not be made. Any thread."""
        kind = type(modules.get(path)).__name__

        def unread(name: str, error: Exception) -> None:
            why = str(error) if isinstance(error, Refused) else f"making it failed ({failure(error)})"
            self._once.warn(f"unread {name}", "%s of %s (%s) %s not published: %s. attnd.publish_weights takes a matrix of "
                            "yours; projections={'%s': 'NAME'} tells another module", TOLD[name], path or "the model", kind,
                            "are" if " and " in TOLD[name] else "is", why, name)

        return unread

    def _tell(self, modules: Modules) -> None:
        refused, self._refused = self._refused, {}
        for kind, found in refused.items():
            if self._first and kind not in self._told:
                self._told.append(kind)
                path, reason = found[0]
                names = kind if kind.startswith("W_") else "W_q, W_k, W_v and W_o"
                more = f", and {len(found) - 1} more layer{'s' * (len(found) > 2)}" if len(found) > 1 else ""
                of = "" if kind == "gone" else type(modules.get(path)).__name__
                log.warning("job %s: %s of %s (%s) %s not published: %s", self._publisher.job, names, path or "the model",
                            (of + more).lstrip(", ") or "gone", "are" if " and " in names else "is", reason)


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

def find_output(modules: Modules, path: str, heads: int, width: int, given: Mapping[str, str]) -> Matrix:
    """W_o of the attention at `path`, whose heads have outputs of `width` numbers. It is looked for alone, so W_q,
    W_k and W_v may be what cannot be published, or have other names. Refused."""
    for holder in around(path):
        if "wo" in given:
            found = matrix_at(modules, holder, given["wo"])
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
        if found is not None and found.applied is not None:
            if found.applied.weight is None:
                raise Refused("applied", f"{found.applied.what} has to be applied to tell its matrix, which is done once an epoch")
            return Matrix(found.applied.weight)
        if found is not None:
            return found
    raise Refused("names", f"it has none of {given.get('wo') or ', '.join(OUT)} that fits {heads} heads of {width} dimensions. "
                  "projections={'wo': 'NAME'} tells its name")


def _reader(modules: Modules, holder: str, given: Mapping[str, str]) -> Optional[str]:
    """The name of what makes queries in `holder`; None: there is no such thing. It need not be what can be published."""
    told = [(given[name],) for name in ("wq", BLOCKS, BY_HEAD) if name in given]
    for names in told or (*SEPARATE, *((name,) for name in FUSED)):
        if all(part_at(modules, holder, name) is not None for name in names):
            return names[0]
    return None


def _readable(modules: Modules, holder: str, reader: Optional[str]) -> Optional[Matrix]:
    """The matrix of that name; None: it is none that can be read."""
    try:
        return None if reader is None else matrix_at(modules, holder, reader)
    except Refused:
        return None


def _output(modules: Modules, holder: str, read: Optional[Matrix], fits: Callable[[int], bool], around: bool = True
            ) -> Optional[Matrix]:
    """W_o by a name in OUT, whose columns fit, and which leads back to where `read` reads from, when that is known; `around`:
    or BERT's, in the module around. Refused when one of them is what cannot be read, and no other fits."""
    refused: Optional[Refused] = None
    for place, name in [(holder, name) for name in OUT] + [(holder.rpartition(".")[0], "output.dense")] * around:
        try:
            matrix = matrix_at(modules, place, name)
        except Refused as why:
            refused = refused or why
            continue
        if matrix is not None and fits(matrix.shape[1]) and (read is None or matrix.shape[0] == read.shape[1]):
            return matrix
    if refused is not None:
        raise refused
    return None


def _taken(modules: Modules, path: str, takers: Sequence[str], fits: Callable[[Matrix], bool]) -> Optional[Matrix]:
    """The matrix that takes what the attention at `path` gives; None: there is none. Refused when there are several."""
    top, refused = around(path)[-1], None
    found: Dict[str, Matrix] = {}
    for taker in takers:
        if not f"{taker}.".startswith(f"{top}.".lstrip(".")) or any(taker.startswith(f"{one}.") for one in found):
            continue
        try:
            matrix = matrix_of(taker, modules[taker])
        except Refused as why:
            refused = why
            continue
        if matrix is not None and fits(matrix):
            found[taker] = matrix
    if len(found) > 1:
        raise Refused("names", f"{' and '.join(found)} take what it gives. projections={{'wo': 'NAME'}} tells which")
    if refused is not None and not found:
        raise refused
    return next(iter(found.values()), None)


def modules_of(root: torch.nn.Module) -> Dict[str, torch.nn.Module]:
    """By path, one that is in several places under each."""
    return {clean_path(path): module for path, module in root.named_modules(remove_duplicate=False)}


def _find(modules: Modules, path: str, attends: _Attends, given: Mapping[str, str], takers: Optional[Sequence[str]]) -> Layer:
    """The matrices of the attention at `path`. `takers`: paths of what takes its output, None: not known. Refused."""
    found: Dict[str, Matrix] = {}
    wanted = () if BLOCKS in given or BY_HEAD in given else tuple(name for name in READ if name not in given)
    unsent: List[Tuple[str, str]] = []
    reads = path  # where what reads was found
    for missing in (0, 1):
        for holder in around(path) if wanted or not missing else ():
            latent = None if given or found else _latent(modules, holder, attends)
            if latent is not None:
                return latent
            told = {name: matrix_at(modules, holder, given[name]) for name in given if name not in found}
            here = {name: matrix for name, matrix in told.items() if matrix is not None}
            if wanted:
                read = _separate(modules, holder, wanted, missing) or (
                    _fused(modules, holder, attends) if wanted == READ and not missing else {})
                unsent += [(TOLD[name], _unnamed(name)) for name in wanted if read and missing and name not in read]
                wanted = () if read else wanted
                if "wq" in read:
                    read, gated = _without_gate(modules[holder], read, attends)
                    unsent += gated
                here.update(read)
            found.update(here)
            if any(name in here for name in (*READ, BLOCKS, BY_HEAD)):
                reads = holder
    if not found:
        raise Refused("names", _none_found(modules, path, {} if wanted else given))
    unsent += [(TOLD[name], _none_found(modules, path, {name: given[name]})) for name in given if name not in found]
    unsent += [(TOLD[name], _unnamed(name)) for name in wanted]
    absent = False
    first = next((found[name] for name in ("wq", BLOCKS, BY_HEAD, "wk", "wv") if name in found), None)
    if first is not None and "wo" not in {**given, **found}:
        inner = first.shape[0] if "wq" in found else None
        try:
            out, absent = _output_of(modules, path, reads, found, first, takers,
                                     lambda columns: columns % attends.heads == 0 and inner in (None, columns))
            found.update({} if out is None else {"wo": out})
        except Refused as why:
            unsent.append(("W_o", str(why)))
    return _checked(found, attends)._replace(unsent=tuple(unsent), absent=absent)


def _output_of(modules: Modules, path: str, holder: str, found: Mapping[str, Matrix], read: Matrix,
               takers: Optional[Sequence[str]], fits: Callable[[int], bool]) -> Tuple[Optional[Matrix], bool]:
    """W_o beside what reads in `holder`, by its name or because it takes what the attention gives; and whether it is certain that
    there is none. Refused."""
    def fits_both(matrix: Matrix) -> bool:
        return fits(matrix.shape[1]) and matrix.shape[0] == read.shape[1]

    out = _output(modules, holder, read, fits) or (_taken(modules, path, takers, fits_both) if takers else None)
    if out is not None:
        return out, False
    if takers and _taken(modules, path, takers, lambda matrix: fits(matrix.shape[1])) is not None:
        raise Refused("shapes", f"{takers[0]} takes what the attention gives, but gives no {read.shape[1]} numbers, as is read")
    known = {place for matrix in found.values() for place in matrix.places}
    others = [one for one, module in modules.items() if one.startswith(f"{holder}.".lstrip(".")) and is_of_torch(module)
              and (matrix := _tried(one, module)) is not None and fits_both(matrix) and not known.intersection(matrix.places)]
    if takers is None or others:
        beside = f"{others[0]} has its shape, but nothing tells that it takes" if others else "nothing tells what takes"
        raise Refused("names", f"it has none of {', '.join(OUT)} that fits, and {beside} what the attention gives. "
                      "projections={'wo': 'NAME'} tells its name")
    return None, True


def _tried(name: str, module: torch.nn.Module) -> Optional[Matrix]:
    try:
        return matrix_of(name, module)
    except Refused:
        return None


def _unnamed(name: str) -> str:
    """Why one of W_q, W_k and W_v is not sent, whose others are."""
    known = ", ".join(names[READ.index(name)] for names in SEPARATE)
    return f"it has none of {known}. projections={{'{name}': 'NAME'}} tells its name"


def _none_found(modules: Modules, path: str, given: Mapping[str, str]) -> str:
    """Why there is no matrix at all: names that are not there, and those that are, but are no matrices or lack the others."""
    groups: List[Tuple[str, ...]] = [(name,) for name in given.values()]
    if not given:
        groups += [*SEPARATE, *((name,) for name in FUSED)]
    there = {name: part for holder in reversed(around(path)) for names in groups for name in names
             if (part := part_at(modules, holder, name)) is not None}
    lacking = ", ".join(" ".join(names) for names in groups if not there.keys() & set(names))
    others = [one[len(path):].lstrip(".") for one, module in modules.items()
              if one.startswith(f"{path}.".lstrip(".")) and is_of_torch(module)]
    said = [f"it has none of {lacking}"] * bool(lacking) + [f"its {name} is {held(part)}" for name, part in there.items()] \
        + [f"in it are {', '.join(others[:NAMED_MAX])}"] * bool(others)
    return "; ".join(said) + (". projections={'wq': 'NAME', 'wk': 'NAME', 'wv': 'NAME', 'wo': 'NAME'} tells their names within "
                              "an attention, weights_every=0 silences this")


def _latent(modules: Modules, holder: str, attends: _Attends) -> Optional[Layer]:
    """W_v and W_o of multi-head latent attention; None: it is none. Refused."""
    heads = attends.heads
    for names in LATENT:
        b, a = (matrix_at(modules, holder, name) for name in names[:2])
        norm: Any = getattr(modules.get(f"{holder}.{names[2]}".lstrip(".")), "weight", None)
        if b is None or a is None or b.shard is not None or a.shard is not None or a.shape[0] < b.shape[1] or b.shape[0] % heads:
            continue
        each = b.shape[0] // heads
        out = _output(modules, holder, a, lambda columns: columns % heads == 0 and columns // heads < each, around=False)
        if out is None:
            continue
        if a.added or a.applied is not None:
            raise Refused("parametrised", f"an adapter changes {names[1]}, the first of two factors")
        d = out.shape[1] // heads
        v = b._replace(rows=(each, each - d, d), latent=(None if norm is None else norm.detach(), a.tensor))
        return _checked({"wv": v, "wo": out}, attends._replace(head_dim=d))._replace(unsent=((
            "W_q and W_k", f"the heads that they make are of another dimension than those of values, which are of {d}; of this latent "
            "attention W_v (both factors multiplied, without what the norm between them divides by) and W_o are"),))
    return None


def _without_gate(module: torch.nn.Module, read: Dict[str, Matrix],
                  attends: _Attends) -> Tuple[Dict[str, Matrix], List[Tuple[str, str]]]:
    """W_q without the gate that it has for each query, and what cannot be sent, with the reason."""
    stated: Any = getattr(module, "head_dim", None)
    d, wq = attends.head_dim or (stated if isinstance(stated, int) else 0), read["wq"]
    if not d or wq.shape[0] != 2 * attends.heads * d:
        return read, []
    if GATED_BY_HEAD.match(type(module).__name__) and wq.shard is None:
        return {**read, "wq": wq._replace(rows=(2 * d, 0, d))}, []
    return {name: matrix for name, matrix in read.items() if name != "wq"}, [(
        "W_q", "its matrix has twice the rows of its heads, as with a gate, in an order that is not certain, or in parts")]


def around(path: str) -> List[str]:
    """The path and those of the modules around it, up to the first with a number, which is a block."""
    found = [path]
    while path and not re.search(r"\d$", path):
        path = path.rpartition(".")[0]
        found.append(path)
    return found


def _separate(modules: Modules, holder: str, wanted: Tuple[str, ...], missing: int) -> Dict[str, Matrix]:
    """The ones of `wanted` by their names of SEPARATE; this number of them may be missing, but not all."""
    for names in SEPARATE:
        told = {key: matrix_at(modules, holder, name) for key, name in zip(READ, names) if key in wanted}
        found = {key: matrix for key, matrix in told.items() if matrix is not None}
        if found and len(found) + missing == len(wanted):
            return found
    return {}


def _fused(modules: Modules, holder: str, attends: _Attends) -> Dict[str, Matrix]:
    for name in FUSED:
        matrix = matrix_at(modules, holder, name)
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


def _checked(found: Mapping[str, Matrix], attends: _Attends) -> Layer:
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
    return Layer(found, heads, kv_heads, head_dim)


def _order_of(seen: Queries) -> Optional[str]:
    """The order of the rows of the fused matrix that queries and keys were made by, when they are views of its product
    and so lie in one tensor; None: they do not."""
    q, k = seen.q, seen.k
    heads, d = int(q.shape[1]), int(q.shape[3])
    if heads < 2 or k.shape[1] != heads or q.stride() != k.stride() or q.stride(3) != 1 or storage(q).data_ptr() != storage(k).data_ptr():
        return None
    row, apart = 3 * heads * d, k.storage_offset() - q.storage_offset()
    if q.storage_offset() % row or row not in (q.stride(0), q.stride(2)) or q.stride(2) % row:
        return None
    return {(d, heads * d): BLOCKS, (3 * d, d): BY_HEAD}.get((int(q.stride(1)), int(apart)))
