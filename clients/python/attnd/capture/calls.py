# SPDX-License-Identifier: MIT
"""calls: one call of an attention, as it was seen, made into a message.

    on the training thread   the samples, heads and rows of the plan are cut out and copied (devices.py)
    on the sender thread     masks are put into words (masks.py), and the message is put together

Queries and keys travel as tier `qk` when a mask, in the wire's words, is all that was added to their product. A bias
that differs by key (ALiBi, relative positions) or by head has no words there: then the weights are computed here,
in f32 on the sender thread, and travel as tier `attention`. With tier `rows` the sums of their rows travel (rows.py).
"""
from __future__ import annotations

import functools
import math
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type

import numpy as np
import torch

from ..base import wire
from ..base.masks import Visibility, describe
from ..base.plan import ALL, Plan, Samples, some
from ..forms import mods
from ..forms.alike import Tensors
from ..forms.seen import (NO_TENSOR, Queries, Seen, Share, Weights, broadcast, heads_of, keys_before, keys_of, lowered_dtype,
                          precision_of, queries_of, shape_of, values_fit, visible_keys)
from ..model.labels import ForwardLabels
from ..sending import tensors
from ..sending.contents import Captured, fitting_labels
from ..sending.devices import DTYPE_NAMES, HeldCopy, HostCopy, working_dtype
from ..sending.head_maps import HeadMaps
from ..sending.memory import TENSOR_MIN
from ..sending.rows import Rows
from . import added
from . import rows as of_rows
from .accelerator import MASK_BYTES_MAX, Asked, OfQueries, OfWeights, valid_of
from .padding import Present, valid_queries, with_queries


class Context(NamedTuple):
    """The facts in a message besides the attention itself. `tokens`: HostCopy [B, Tk] of the forward's input; `labels`:
    the texts of its samples; `present`: which queries of a cross-attention are no padding; `beside`: attnd takes values
    beside weights; `sums`: what is sent is the sums of rows, of this capture; `samples`: those that are taken; `numbers`:
    the tokens where they are, integers [B, T]."""
    microbatch: int = 0
    tokens: Optional[HostCopy] = None
    labels: Optional[ForwardLabels] = None
    present: Optional[Present] = None
    beside: bool = False
    sums: Optional[of_rows.Origin] = None
    samples: Samples = ALL
    numbers: Optional[torch.Tensor] = None


class Cut(NamedTuple):
    """A part of a call, copied: `nbytes`, and how it becomes a message of a layer, with the copy of its gradient if
    there is one.

    part   the samples, heads and rows
    held   of the copies, those that are references until take()
    """
    nbytes: int
    make: Callable[..., Optional[Captured]]
    part: Tuple[slice, slice, slice]
    held: Sequence[HeldCopy] = ()

    def take(self) -> None:
        """Copies what was held."""
        for copy in self.held:
            copy.take()


NOTHING = Cut(0, lambda layer: None, (slice(0), slice(0), slice(0)))  # of what could not be copied, and is counted as dropped


class Part(NamedTuple):
    """A part of a call that the plan takes.

    nbytes   of its copy, at most
    copy     copies it; `waits`: so that its gradient may follow; `held`: the tensors of the model are held until then
    whole    all rows of its heads are in it
    kept     what is large of it are tensors of the model
    kind     of the message, when that is known: 'rows'
    """
    nbytes: int
    copy: Callable[..., Cut]
    whole: bool = True
    kept: bool = True
    kind: Optional[str] = None


class _Form(NamedTuple):
    """The fields of Queries that are no tensors."""
    scale: float
    causal: bool
    window: int
    softcap: float
    offset: int
    shared: bool = False
    extra: int = 0


class _Values(NamedTuple):
    """The values, and what goes along with them, copied."""
    v: HostCopy
    wo_r: Optional[Callable[[], np.ndarray]] = None
    x_norm: Optional[HostCopy] = None

    def copies(self) -> List[HostCopy]:
        return [self.v] if self.x_norm is None else [self.v, self.x_norm]

    def add(self, frames: tensors.Frames) -> None:
        frames.add_owned("v", self.v.dtype_name, self.v.numpy())
        if self.wo_r is not None:
            frames.add_owned("wo_r", "f32", self.wo_r())
            if self.x_norm is not None:
                frames.add_owned("x_norm", "f32", self.x_norm.numpy())


class _Parts(NamedTuple):
    """The tensors of Queries, copied; documents of all queries and keys, and their ends, where these are known."""
    q: HostCopy
    k: HostCopy
    values: Optional[_Values]
    mask: Optional[HostCopy]
    documents: Sequence[HostCopy]


class _Rows(NamedTuple):
    """The part of a call: which heads of how many of the layer, which rows of how many queries."""
    head_offset: int
    heads_total: int
    first: int
    stride: int
    total: int

    def positions(self, queries: int) -> np.ndarray:
        """Which queries of the call the `queries` rows are."""
        return self.first + np.arange(queries) * self.stride


class _Taken(NamedTuple):
    """A part that the plan wants: where it is, its rows, and the bytes of its copy, at most."""
    part: Tuple[slice, slice, slice]
    rows: _Rows
    context: Context
    nbytes: int


def parts(seen: Seen, plan: Plan, step: int, share: Share, context: Context) -> List[Part]:
    """The parts of a call that the plan wants, by range of heads; none when the call is empty or has no numbers.
    Nothing is copied yet. ValueError when its queries and keys do not fit together."""
    seen = broadcast(seen) if isinstance(seen, Queries) else _fitting(seen)
    return [Part(nbytes, functools.partial(_cut, seen, part, rows, full), rows.stride == 1,
                 isinstance(seen, Weights) or seen.score_mod is None, None if context.sums is None else "rows")
            for part, rows, full, nbytes in _taken(seen, plan, step, share, context)]


def _taken(seen: Seen, plan: Plan, step: int, share: Share, context: Context) -> Iterator[_Taken]:
    whole = seen.q if isinstance(seen, Queries) else seen.weights
    keys = int(seen.k.shape[2] if isinstance(seen, Queries) else seen.weights.shape[3])
    if whole.numel() == 0 or keys == 0 or whole.dtype not in DTYPE_NAMES:
        return
    batch, heads, queries = whole.shape[:3]
    if context.samples is ALL:
        context = context._replace(samples=some(range(batch), batch))
    wanted = plan.row_slice(step, queries)
    offset, total = share.number * heads, share.of * heads
    for low, high in plan.head_ranges(total):
        low, high = max(low - offset, 0), min(high - offset, heads)
        if low < high:
            rows = _Rows(offset + low, total, wanted.start, wanted.step, queries)
            part = (context.samples.rows, slice(low, high), wanted)
            nbytes = _device_nbytes(seen, part) if _computer(context) is not None else \
                _nbytes(seen, part) + (context.present.nbytes if context.present is not None else 0)
            yield _Taken(part, rows, context, nbytes)


def logits_of(seen: Seen, plan: Plan, samples: int) -> int:
    """How many logits the part of a call has that a plan takes, of so many samples."""
    heads, queries = shape_of(seen)[1:3]
    return samples * heads * min(queries, plan.rows or queries) * keys_of(seen)


def looker_for_padding(seen: Seen, samples: Samples, on_device: bool = False) -> Optional[Callable[[], Optional[Present]]]:
    """The function that finds which positions of a self-attention are no padding, of these samples, by the mask; None: there is no
    mask. The function holds the mask until it is called, and neither queries nor keys, and evaluates no late mask of more than
    MASK_BYTES_MAX pairs. `on_device`: as a tensor there, too."""
    batch, queries, keys = samples.taken, queries_of(seen)[1], keys_of(seen)
    part = (samples.rows, slice(None), slice(None))
    rows = _Rows(0, 1, 0, 1, queries)
    layer = ("decoder", 0, "self")
    if isinstance(seen, Weights):
        visible = _visible_of(seen, part)
        copy = HostCopy(visible)
        found = Present(copy.nbytes, samples, lambda: valid_queries(describe(copy.numpy(), extra=seen.extra), (batch, queries)),
                        valid_of(visible[:, None], False, 0) if on_device and not seen.extra else None)
        return lambda: found
    given, late = seen.mask, seen.late_mask
    if given is None and late is None:
        return None
    form = _Form(1.0, seen.causal, seen.window, seen.softcap, seen.offset, extra=seen.extra)

    def look() -> Optional[Present]:
        mask = given
        if late is not None:
            mask = late((*part[:1], slice(0, 1), slice(0, queries))) if batch * queries**2 <= MASK_BYTES_MAX else None
        if mask is None:
            return None
        own = _part_of_mask(mask, part)
        copy = HostCopy(own)

        def find() -> np.ndarray:
            some = np.asarray(added.read(copy, (batch, 1, queries, keys)).allowed.any(axis=1, keepdims=True))
            whole = _visible(some, form, rows, None, (batch, 1, queries, keys))[:, 0]
            return valid_queries(_described(whole, form, rows, layer), (batch, queries))

        if not on_device or form.offset or form.extra or (form.window and not form.causal):
            return Present(copy.nbytes, samples, find)
        return Present(copy.nbytes, samples, find, valid_of(own.expand(-1, -1, queries, queries), form.causal, form.window))

    return look


def _sizes(part: Tuple[slice, slice, slice]) -> Tuple[int, int, int]:
    """How many samples, heads and rows a part has."""
    samples, heads, rows = part
    count = len(range(samples.start, samples.stop, samples.step or 1))
    return count, heads.stop - heads.start, len(range(rows.start, rows.stop, rows.step or 1))


def _nbytes(seen: Seen, part: Tuple[slice, slice, slice]) -> int:
    """The bytes of the copy of a part; less when autocast lowers it."""
    samples, count, rows = _sizes(part)
    heads = part[1]
    if isinstance(seen, Weights):
        keys = int(seen.weights.shape[3])
        return samples * rows * keys * (count * seen.weights.element_size() + 1) + _values_nbytes(seen, samples, heads, rows)
    q, k = seen.q, seen.k
    nbytes = _values_nbytes(seen, samples, heads, rows)
    if seen.score_mod is not None and seen.score_mod.biased(*_given(seen, part)):
        return nbytes + samples * rows * int(k.shape[2]) * (count * (8 if q.dtype == torch.float64 else 4) + 1)
    nbytes += samples * (count * rows * int(q.shape[3]) * q.element_size()
                         + len(_key_heads(seen, k, heads)) * int(k.shape[2] * k.shape[3]) * k.element_size())
    if seen.mask is not None:
        sizes = [*[1] * 4, *seen.mask.shape][-4:]
        cut_to = [wanted if size > 1 else 1 for wanted, size in zip((samples, count, rows), sizes)]
        nbytes += math.prod(cut_to) * int(sizes[3]) * seen.mask.element_size()
    elif seen.late_mask is not None or seen.score_mod is not None:
        nbytes += samples * rows * int(k.shape[2]) * seen.late_nbytes
    return nbytes + sum(int(one.numel() * one.element_size()) for one in (*(seen.documents or ()), *(seen.ends or ())))


def _values_nbytes(seen: Seen, samples: int, heads: slice, rows: int) -> int:
    """The bytes of the values, and of what goes along with them."""
    if seen.v is None:
        return 0
    keys, width = (int(size) for size in seen.v.shape[2:])
    nbytes = samples * len(_key_heads(seen, seen.v, heads)) * keys * width * seen.v.element_size()
    return nbytes + (0 if seen.x is None else 4 * samples * rows) \
        + (0 if seen.wo_r is None else 4 * (heads.stop - heads.start) * width**2)


class Repeated(NamedTuple):
    """A part of a call, of which others of the forward differ in numbers alone.

    seen    without its tensors
    chosen  the samples, where these are all that is cut of small tensors on a CPU; None: it is cut as ever
    nbytes  of its tensors with all samples, where these are so few that all are copied; 0: they are more
    """
    taken: _Taken
    seen: Seen
    chosen: Optional[torch.Tensor]
    nbytes: int

    def cut(self, tensors: Tensors) -> Cut:
        """The same part of another call."""
        return _cut(self.seen._replace(**tensors), self.taken.part, self.taken.rows, self.taken.context)

    @property
    def kind(self) -> str:
        """The type of its message."""
        return "qk" if isinstance(self.seen, Queries) else "attention"

    def copied(self, tensors: Tensors) -> Sequence[torch.Tensor]:
        """The tensors of another call where these are small, copied: the samples, or all where those are few."""
        assert self.chosen is not None
        return [one.detach().clone() if self.nbytes else one.detach().index_select(0, self.chosen)
                for one in tensors.values() if one is not None]

    def made(self, tensors: Sequence[torch.Tensor], layer: wire.Layer) -> Optional[Captured]:
        """The message of what was copied."""
        part, rows, context, _ = self.taken
        first, second, *hidden = [one[part[0]].contiguous() for one in tensors] if self.nbytes else tensors
        if isinstance(self.seen, Queries):
            copied = _Parts(HostCopy.of(first), HostCopy.of(second), None, None, ())
            return _finish_queries(copied, _form_of(self.seen), rows, context, layer)
        said, visible = (self.seen.sink, self.seen.shared, self.seen.extra), visible_keys(first, second, hidden[0] if hidden else None)
        return _finish_weights(HostCopy.of(first), HostCopy.of(visible), said, rows, context, layer)


def repeated(seen: Seen, plan: Plan, step: int, share: Share, context: Context) -> List[Repeated]:
    """As parts(), of a call that has nothing but queries and keys, or weights and logits: the parts of all calls like it."""
    (batch, heads, queries), is_small, bare = seen[0].shape[:3], seen[0].device.type == "cpu", seen
    nbytes = sum(one.numel() * one.element_size() for one in seen[:2])
    if isinstance(seen, Queries):
        is_small = is_small and lowered_dtype(seen.q, seen.lowered) is None and seen.k.shape[0] == batch
        bare, seen = seen._replace(q=NO_TENSOR, k=NO_TENSOR, scale=_scale(seen)), broadcast(seen)
    else:
        bare = seen._replace(weights=NO_TENSOR, logits=NO_TENSOR, hidden=None)
    found = []
    for taken in _taken(seen, plan, step, share, context):
        chosen, (samples, *rest) = None, taken.part
        if is_small and taken.nbytes < TENSOR_MIN and rest == [slice(0, heads), slice(0, queries, 1)]:
            chosen = torch.arange(*samples.indices(batch), device="cpu")
        found.append(Repeated(taken, bare, chosen, nbytes if nbytes < TENSOR_MIN else 0))
    return found


def _cut(seen: Seen, part: Tuple[slice, slice, slice], rows: _Rows, context: Context,
         waits: bool = False, held: bool = False) -> Cut:
    if _computer(context) is not None:
        return _cut_on_device(seen, part, rows, context)
    copy = HeldCopy if held else HostCopy
    if isinstance(seen, Weights):
        return _cut_weights(seen, part, rows, context, copy)
    if seen.score_mod is None:
        mask = None if seen.mask is None else _part_of_mask(seen.mask, part)
        return _cut_queries(seen, part, mask if seen.late_mask is None else seen.late_mask(part), rows, context, copy)
    given, mod = _given(seen, part), seen.score_mod
    if mod.biased(*given):
        weights = Weights(*mod.weights(*given)).of_keys(0, int(mod.sinks is not None))
        values = _copied_values(seen, part, HostCopy, None) if waits or context.beside else None
        everything = (slice(None), slice(None), slice(None))
        return _cut_weights(weights, everything, rows, context, HostCopy, values)._replace(part=part)
    mask, biased = mod.hidden(*given)
    cut, flag = _cut_queries(seen, part, mask, rows, context, copy), HostCopy(biased)
    return cut._replace(make=lambda layer, gradient=None: mod.now_biased() if flag.numpy() else cut.make(layer, gradient))


def _given(seen: Queries, part: Tuple[slice, slice, mods.Cut]) -> Tuple[torch.Tensor, torch.Tensor, float, mods.Where]:
    """The arguments of flex attention's kernel for a part."""
    q, k = seen.q.detach()[part], _of_heads(seen, seen.k.detach(), *part[:2])
    return (q.to(lowered_dtype(q, seen.lowered) or q.dtype), k.to(lowered_dtype(k, seen.lowered) or k.dtype), _scale(seen),
            mods.where(part, int(k.shape[2]), q.device))


# ----------------------------------------------------------------------------------- on an accelerator

ROW_BYTES = 124  # that travel to the host, at most


def _device_nbytes(seen: Seen, part: Tuple[slice, slice, slice]) -> int:
    """About how many bytes travel of a part: of its rows, and of all keys."""
    samples, heads, rows = _sizes(part)
    keys = int(seen.k.shape[1] * seen.k.shape[2]) if isinstance(seen, Queries) else 0
    return samples * (ROW_BYTES * heads * rows + 4 * keys)


def _computer(context: Context) -> Any:
    return None if context.sums is None else context.sums.computer


def beyond_device(seen: Seen, plan: Plan, cross: bool, context: Context) -> Optional[str]:
    """Why an accelerator does not compute the sums of a call, which then travels as another tier; None when it does."""
    if isinstance(seen, Weights):
        queries, keys, offset, masked = int(seen.weights.shape[2]), int(seen.weights.shape[3]), 0, True
        if logits_of(seen, plan, context.samples.taken) > MASK_BYTES_MAX * heads_of(seen):
            return "a map that is too large"
    else:
        queries, keys, offset = int(seen.q.shape[2]), int(seen.k.shape[2]), seen.offset
        masked = seen.mask is not None or seen.late_mask is not None or seen.score_mod is not None
        if offset < 0 or (seen.window and not seen.causal):
            return "a window to both sides, or fewer keys than queries"
        if seen.documents is not None and (masked or cross or offset or seen.documents[0].shape != seen.documents[1].shape):
            return "documents of another kind"
        if seen.late_mask is not None and logits_of(seen, plan, context.samples.taken) > MASK_BYTES_MAX * heads_of(seen):
            return "a mask that is too large"
    if masked and not cross and queries + offset != keys:
        return "a mask with a cache"
    return "padding of cross-attention" if cross and context.present is not None and context.present.valid(context.samples) is None else None


def _cut_on_device(seen: Seen, part: Tuple[slice, slice, slice], rows: _Rows, context: Context) -> Cut:
    """Launches the computation of the sums."""
    origin, (samples, heads, queries) = context.sums, part
    assert origin is not None and origin.computer is not None
    causal, differ = False, None
    present = context.present.valid(context.samples) if origin.cross and context.present is not None else None
    if isinstance(seen, Weights):
        asked: Asked = OfWeights(seen.weights.detach()[part], seen.logits.detach()[part], seen.sink, rows.first, rows.stride,
                                 origin.cross, None if present is None else present[:, queries], seen.shared,
                                 None if seen.hidden is None else seen.hidden[part])
    else:
        q, k = seen.q.detach(), seen.k.detach().expand(seen.q.shape[0], -1, -1, -1)
        count = _sizes(part)[2]
        some = None if count == rows.total else origin.computer.rows((origin.step, context.microbatch), rows.total, count, q.device)
        taken = (samples, heads, queries if some is None else some.there)
        mask, mod = None, seen.score_mod
        if mod is not None:
            mask = mod.logits(*_given(seen, taken))
        elif seen.late_mask is not None:
            mask = seen.late_mask(taken)
        elif seen.mask is not None:  # which has its rows where it is
            mask = _part_of_mask(seen.mask, (samples, heads, queries if some is None else slice(None)))
        banded, before, causal = seen.causal or seen.window > 0 or mask is not None, max(seen.offset, 0), seen.causal
        if not banded:
            before = 0 if origin.cross or seen.documents is not None else keys_before(seen)
        documents = None if seen.documents is None else seen.documents[0].expand(q.shape[0], -1)[samples]
        if seen.documents is not None and seen.documents[0] is not seen.documents[1]:
            differ = HostCopy((seen.documents[0] != seen.documents[1]).any())
        whole = some is None and heads.stop - heads.start == rows.heads_total
        asked = OfQueries(
            q[samples, heads], k[samples], heads.start, int(q.shape[1]) // int(k.shape[1]), precision_of(seen), _scale(seen),
            seen.softcap, seen.causal, seen.window, mask, documents, before, origin.cross, some, present, whole,
            seen.shared, None if seen.ends is None else seen.ends[0], mod is not None,
            None if mod is None or mod.sinks is None else mod.sinks.detach()[heads].float(), _numbers_of(seen, mask, samples, context))
    wait = origin.computer.launch(asked, origin.step, origin.maps)

    def make(layer: wire.Layer, gradient: Optional[HostCopy] = None) -> Optional[Captured]:
        found = wait()
        if differ is not None and differ.numpy():
            raise ValueError("packed queries of keys that are packed in another way are not captured on an accelerator")
        if found is None or (layer[2] == "cross") != origin.cross:
            return None
        return _captured_rows(found._replace(queries=rows.total), rows, context, layer)

    return Cut(_device_nbytes(seen, part), make, part)


def _numbers_of(seen: Queries, mask: Optional[torch.Tensor], samples: slice, context: Context) -> Optional[torch.Tensor]:
    """The tokens of the keys, where they and the queries are on one device, and nothing but words hides keys."""
    tokens, origin = context.numbers, context.sums
    if tokens is None or origin is None or origin.cross or mask is not None or seen.documents is not None \
            or tokens.device != seen.k.device or tokens.shape[1] != seen.k.shape[2]:
        return None
    return tokens[samples]


# ------------------------------------------------------------------------------------------- tier qk

def _cut_queries(seen: Queries, part: Tuple[slice, slice, slice], given_mask: Optional[torch.Tensor], rows: _Rows,
                 context: Context, copy: Type[HostCopy]) -> Cut:
    samples, heads, queries = part
    # Detached, else each cut is one more node of the graph.
    q = copy(seen.q.detach()[samples, heads, queries], lowered_dtype(seen.q, seen.lowered))
    k = copy(_of_heads(seen, seen.k.detach(), samples, heads), lowered_dtype(seen.k, seen.lowered))
    values = _copied_values(seen, part, copy, None if seen.v is None else lowered_dtype(seen.v, seen.lowered))
    mask = None if given_mask is None else HostCopy(given_mask)
    documents = [HostCopy(one) for one in (*(seen.documents or ()), *(seen.ends or ()))]
    copies = [one for one in (q, k, *(values.copies() if values else ()), mask, *documents) if one is not None]
    return Cut(sum(one.nbytes for one in copies),
               functools.partial(_finish_queries, _Parts(q, k, values, mask, documents), _form_of(seen), rows, context), part,
               [one for one in copies if isinstance(one, HeldCopy)])


def _copied_values(seen: Seen, part: Tuple[slice, slice, slice], copy: Type[HostCopy],
                   lowered: Optional[torch.dtype]) -> Optional[_Values]:
    samples, heads, queries = part
    if seen.v is None:
        return None
    wo_r = seen.wo_r
    return _Values(copy(_of_heads(seen, seen.v.detach(), samples, heads), lowered),
                   None if wo_r is None else lambda: wo_r()[heads],
                   None if seen.x is None else HostCopy(
                       seen.x.detach()[samples, queries].to(working_dtype(seen.x)).norm(dim=-1), torch.float32))


def _form_of(seen: Queries) -> _Form:
    return _Form(_scale(seen), seen.causal, seen.window, seen.softcap, seen.offset, seen.shared, seen.extra)


def _scale(seen: Queries) -> float:
    return float(seen.q.shape[3]**-0.5 if seen.scale is None else seen.scale)


def _fitting(seen: Weights) -> Weights:
    """Without values that fit no message with these weights."""
    batch, heads, _, keys = (int(size) for size in seen.weights.shape)
    return seen if values_fit(seen.v, batch, heads, keys) else seen._replace(v=None)


def _key_heads(seen: Seen, shared: torch.Tensor, heads: slice) -> Sequence[int]:
    """The heads of keys or values that these heads read: a range of them; or one for each when that is cut, or when
    keys and values differ in how many they have."""
    group = max(1, heads_of(seen) // int(shared.shape[1]))
    alike = isinstance(seen, Weights) or seen.v is None or seen.v.shape[1] == seen.k.shape[1]
    if alike and heads.start % group == 0 and heads.stop % group == 0:
        return range(heads.start // group, heads.stop // group)
    return [head // group for head in range(heads.start, heads.stop)]


def _of_heads(seen: Seen, shared: torch.Tensor, samples: slice, heads: slice) -> torch.Tensor:
    """The keys or values of these samples and heads."""
    wanted, batch = _key_heads(seen, shared, heads), queries_of(seen)[0]
    cut = (shared if shared.shape[0] == batch else shared.expand(batch, -1, -1, -1))[samples]
    if isinstance(wanted, range):
        return cut if len(wanted) == shared.shape[1] else cut[:, wanted.start:wanted.stop]
    return cut[:, torch.tensor(wanted, device=cut.device)]


def _part_of_mask(mask: torch.Tensor, part: Sequence[mods.Cut]) -> torch.Tensor:
    """The part of a mask [b, h, q, Tk] whose first three axes may be 1, or missing."""
    mask = mask.reshape((1,) * (4 - mask.dim()) + tuple(mask.shape))
    return mask[tuple(cut if size > 1 else slice(None) for cut, size in zip(part, mask.shape))]


def _finish_queries(parts: _Parts, form: _Form, rows: _Rows, context: Context, layer: wire.Layer,
                    gradient: Optional[HostCopy] = None) -> Optional[Captured]:
    q, k = parts.q, parts.k
    batch, heads, queries, keys = *q.shape[:3], k.shape[2]
    shape = batch, heads, queries, keys
    documents = _read_documents(parts.documents, form.causal)
    plain = _said_plainly(parts, form, rows, documents, layer)
    if plain is not None:
        ids = None if documents is None else np.broadcast_to(np.maximum(documents[1], 0), (batch, keys))
        return _message_of_queries(parts, form, rows, context, layer, plain, ids, gradient)
    found = added.read(parts.mask, shape)
    if found.left is not None and parts.mask is not None:
        others = _visible(np.ones((1, 1, 1, 1), dtype=bool), form, rows, documents, (batch, 1, queries, keys))
        found = added.with_weight(found, parts.mask, others, q.floats(), k.floats(), form.scale, form.softcap)
    allowed, bias = found.allowed, found.bias
    if bias is None and allowed.shape[1] == 1:
        visible = _visible(allowed, form, rows, documents, (batch, 1, queries, keys))[:, 0]
        return _message_of_queries(parts, form, rows, context, layer, _described(visible, form, rows, layer), None, gradient)
    unbanded, allowed = allowed, _visible(allowed, form, rows, documents, shape)
    visibility = _described(np.asarray(allowed.any(axis=1)), form, rows, layer)
    if context.sums is not None and bias is not None and unbanded.shape[1] == 1:
        hidden = unbanded if _has_band(visibility, form, rows) and documents is None else allowed
        return _rows_of_queries(parts, form, rows, context, layer, visibility, bias=np.where(hidden, bias, -np.inf))
    valid = valid_queries(visibility, (batch, queries))[:, None, :, None]  # padding has rows of zeros, as in tier qk
    weights = added.softmax(added.logits(q.floats(), k.floats(), form.scale, form.softcap), allowed & valid, bias)
    if context.sums is not None:
        return _rows_of_weights(torch.from_numpy(weights), visibility, False, rows, context, layer)
    frames = tensors.Frames()
    frames.add_owned("weights", "f64" if weights.dtype == np.float64 else "f32", weights)
    _add_beside(frames, parts.values, gradient, context)
    return _captured("attention", frames, visibility, rows, context, layer, {})


def _message_of_queries(parts: _Parts, form: _Form, rows: _Rows, context: Context, layer: wire.Layer, visibility: Visibility,
                        documents: Optional[np.ndarray], gradient: Optional[HostCopy]) -> Captured:
    """Tier qk, or rows of it."""
    if context.sums is not None:
        return _rows_of_queries(parts, form, rows, context, layer, visibility, documents=documents)
    frames = tensors.Frames()
    frames.add_owned("q", parts.q.dtype_name, parts.q.numpy())
    frames.add_owned("k", parts.k.dtype_name, parts.k.numpy())
    if parts.values is not None:
        parts.values.add(frames)
        if gradient is not None:
            frames.add_owned("dout", gradient.dtype_name, gradient.numpy())
    frames.add_ids("documents", documents, parts.q.shape[0], parts.k.shape[2])
    return _captured("qk", frames, visibility, rows, context, layer, {"scale": form.scale, "softcap": form.softcap})


def _rows_of_queries(parts: _Parts, form: _Form, rows: _Rows, context: Context, layer: wire.Layer, visibility: Visibility,
                     **says: Any) -> Captured:
    """Tier rows; `says`: documents or bias."""
    assert context.sums is not None
    heads, queries = parts.q.shape[1:3]
    visibility = _of_present(visibility, context, rows, layer, queries, parts.k.shape[2])
    whole = heads == rows.heads_total and rows.stride == 1
    found = of_rows.of_queries(parts.q.tensor(), parts.k.tensor(), visibility, rows.stride, scale=form.scale, softcap=form.softcap,
                               cross=layer[2] == "cross", whole=whole, queries=rows.total, side=context.sums.maps, **says)
    return _captured_rows(found, rows, context, layer)


_Documents = Optional[Tuple[np.ndarray, np.ndarray]]  # of queries [1, Tq] and of keys [1, Tk]


def _read_documents(documents: Sequence[HostCopy], causal: bool) -> _Documents:
    """The numbers, -1 behind the last document; None when all are one. ValueError when queries and keys are of other
    lengths, and causal: then each document would have an offset of its own."""
    if not documents:
        return None
    of_queries, of_keys, *ends = (copy.numpy() for copy in documents)
    if ends:
        of_queries, of_keys = (np.where(np.arange(one.shape[1]) < end, one, -1) for one, end in zip((of_queries, of_keys), ends))
    if (of_queries == of_queries[:, :1]).all() and (of_keys == of_queries[:, :1]).all():
        return None
    if causal and not np.array_equal(of_queries, of_keys):
        raise ValueError("causal attention of packed queries to keys that are packed in another way is not captured")
    return of_queries, of_keys


def _has_band(visibility: Visibility, form: _Form, rows: _Rows) -> bool:
    """Whether a description has the causal bound and the window of the call."""
    return (visibility.causal, visibility.window) == (form.causal, form.window) and \
        visibility.q_offset == rows.first + (form.offset if form.causal else 0) and (form.causal or not form.window)


def _visible(allowed: np.ndarray, form: _Form, rows: _Rows, documents: _Documents,
             shape: Tuple[int, int, int, int]) -> np.ndarray:
    """bool [B, H, Tq, Tk] of everything that says what is visible together."""
    query = rows.positions(shape[2])
    allowed = allowed & _band(form, query, shape[3])
    if documents is not None:  # a query sees the keys of its own
        own = documents[0][:, query, None]
        allowed = allowed & ((own == documents[1][:, None]) & (own >= 0))[:, None]
    return np.broadcast_to(allowed, shape)


def _said_plainly(parts: _Parts, form: _Form, rows: _Rows, documents: _Documents,
                  layer: wire.Layer) -> Optional[Visibility]:
    """The visible keys, where the call states them in words; None where it does not."""
    cached = max(0, parts.k.shape[2] - form.extra - rows.total) if layer[2] == "self" and documents is None else 0
    offset = rows.first + (form.offset if form.causal or form.window else cached)
    if parts.mask is not None or (form.window and not form.causal) or offset < 0:
        return None
    if documents is not None and not (layer[2] == "self" and offset == rows.first
                                         and np.array_equal(documents[0], documents[1])):
        return None
    if documents is not None and (documents[1] < 0).any():  # behind the last one is padding
        length = (documents[1] >= 0).sum(axis=1).astype(np.int32)
        rows_in = np.clip(-((rows.first - length) // rows.stride), 0, parts.q.shape[2]).astype(np.int32)
        return Visibility(form.causal, form.window, offset, rows_in, length)
    return Visibility(form.causal, form.window, offset)


def _described(allowed: np.ndarray, form: _Form, rows: _Rows, layer: wire.Layer) -> Visibility:
    before = max(form.offset, 0)
    return describe(allowed, rows.first + before, rows.stride, rows.total + before, layer[2] == "self", form.shared,
                    form.extra)


def _band(form: _Form, query: np.ndarray, keys: int) -> np.ndarray:
    """bool [Tq, Tk]: what `causal` and `window` leave visible to these queries."""
    position, key = query[:, None] + form.offset, np.arange(keys)[None, :]
    band = np.ones((len(query), keys), dtype=bool)
    if form.causal:
        band &= key <= position
    if form.window:
        band &= (key > position - form.window) & (key < position + form.window)
    return band


def _add_beside(frames: tensors.Frames, values: Optional[_Values], gradient: Optional[HostCopy],
                context: Context) -> None:
    """Adds to weights that were computed here what goes along with them: dL/dA, of the gradient of the output and the
    values, and these themselves."""
    if values is None:
        return
    if gradient is not None:
        product = added.logits(gradient.floats(), values.v.floats(), 1.0, 0.0)
        frames.add_owned("grad", "f64" if product.dtype == np.float64 else "f32", product)
    if context.beside:
        values.add(frames)


# ------------------------------------------------------------------------------------- tier attention

def _cut_weights(seen: Weights, part: Tuple[slice, slice, slice], rows: _Rows, context: Context, copy: Type[HostCopy],
                 of_output: Optional[_Values] = None) -> Cut:
    """`of_output`: the values, when a gradient is of the output."""
    copied, allowed = copy(seen.weights.detach()[part]), HostCopy(_visible_of(seen, part))
    beside = _copied_values(seen, part, copy, None)
    copies = [copied, allowed, *(values for some in (of_output, beside) if some is not None for values in some.copies())]
    return Cut(sum(one.nbytes for one in copies),
               functools.partial(_finish_weights, copied, allowed, (seen.sink, seen.shared, seen.extra), rows, context,
                                 of_output=of_output, beside=beside),
               part, [one for one in copies if isinstance(one, HeldCopy)])


def _visible_of(seen: Weights, part: Tuple[slice, slice, slice]) -> torch.Tensor:
    """bool [B, Tq, Tk]: all heads say what is visible, whichever of them travel."""
    some = part[0], slice(None), part[2]
    return visible_keys(seen.weights.detach()[some], seen.logits.detach()[some], None if seen.hidden is None else seen.hidden[some])


def _finish_weights(weights: HostCopy, visible: HostCopy, said: Tuple[bool, bool, int], rows: _Rows, context: Context,
                    layer: wire.Layer, gradient: Optional[HostCopy] = None, of_output: Optional[_Values] = None,
                    beside: Optional[_Values] = None) -> Optional[Captured]:
    """`said`: sink, shared and extra, as Weights has them."""
    sink, shared, extra = said
    visibility = describe(visible.numpy(), rows.first, rows.stride, rows.total, layer[2] == "self", shared, extra)
    if context.sums is not None:
        return _rows_of_weights(weights.tensor(), visibility, sink, rows, context, layer)
    frames = tensors.Frames()
    frames.add_owned("weights", weights.dtype_name, weights.numpy())
    _add_beside(frames, of_output, gradient, context)
    if gradient is not None and of_output is None:
        frames.add_owned("grad", gradient.dtype_name, gradient.numpy())
    if beside is not None:
        beside.add(frames)
    return _captured("attention", frames, visibility, rows, context, layer, {"learned_sink": sink})


def _rows_of_weights(weights: torch.Tensor, visibility: Visibility, sink: bool, rows: _Rows, context: Context,
                     layer: wire.Layer) -> Captured:
    assert context.sums is not None
    queries, keys = weights.shape[2:]
    visibility = _of_present(visibility, context, rows, layer, queries, keys)
    found = of_rows.of_weights(weights, visibility, rows.stride, cross=layer[2] == "cross", sink=sink, queries=rows.total,
                               tokens=_tokens_of(context, layer, keys), side=context.sums.maps)
    return _captured_rows(found, rows, context, layer)


def _captured_rows(found: Rows, rows: _Rows, context: Context, layer: wire.Layer) -> Captured:
    if found.maps is not None:
        found = found._replace(maps=_labelled(found.maps, context, layer, rows, found.queries, found.keys))
    return found.message(rows.head_offset, rows.heads_total, microbatch=context.microbatch, **context.samples.header())


# ----------------------------------------------------------------------------------------- the header

def _of_present(visibility: Visibility, context: Context, rows: _Rows, layer: wire.Layer, queries: int, keys: int) -> Visibility:
    """With what is known of the queries of a cross-attention."""
    if layer[2] != "cross" or context.present is None:
        return visibility
    return with_queries(visibility, context.present.at(rows.positions(queries), context.samples), keys)


def _tokens_of(context: Context, layer: wire.Layer, keys: int) -> Optional[np.ndarray]:
    """The token numbers of the keys, i32, where they are known."""
    if context.tokens is None or layer[2] != "self" or context.tokens.shape[1] != keys or context.tokens.ids is None:
        return None
    found: np.ndarray = context.tokens.ids[context.samples.rows]
    return found


def _labelled(maps: HeadMaps, context: Context, layer: wire.Layer, rows: _Rows, queries: int, keys: int) -> HeadMaps:
    """With the texts of what they are of."""
    labels, q_labels = _texts_of(context, layer, rows, queries, keys)
    return maps._replace(labels=labels, q_labels=q_labels, sample=context.samples.rows.start, batch=context.samples.of)


def _texts_of(context: Context, layer: wire.Layer, rows: _Rows, queries: int,
              keys: int) -> Tuple[Optional[List[str]], Optional[List[str]]]:
    """The labels of the keys, and of the queries of a cross-attention."""
    if context.labels is None:
        return None, None
    labels = context.labels.of(layer, keys, context.samples)
    if layer[2] != "cross" or rows.stride > 1:
        return labels, None
    return labels, context.labels.of_queries(layer, rows.total, rows.positions(queries).tolist(), context.samples)


def _captured(kind: str, frames: tensors.Frames, visibility: Visibility, rows: _Rows, context: Context,
              layer: wire.Layer, extra: Dict[str, Any]) -> Captured:
    described = {name: shape for name, _, shape in frames.described}
    batch, heads, queries = described["q" if kind == "qk" else "weights"][:3]
    keys = described["k"][2] if kind == "qk" else described["weights"][3]
    visibility = _of_present(visibility, context, rows, layer, queries, keys)
    frames.add_mask(visibility.mask, batch, queries, keys)
    tokens = _tokens_of(context, layer, keys)
    if tokens is not None:
        frames.add_owned("tokens", "i32", tokens)
    texts, q_texts = fitting_labels(*_texts_of(context, layer, rows, queries, keys), (batch, heads, queries, keys))
    sliced = (rows.head_offset, heads) != (0, rows.heads_total)
    row_keys: Dict[str, Any] = {
        "causal": visibility.causal, "window": visibility.window, "q_offset": visibility.q_offset,
        "q_stride": rows.stride, "q_len": visibility.q_len, "k_len": visibility.k_len, "microbatch": context.microbatch,
        "labels": texts, "q_labels": q_texts,
        "head_offset": rows.head_offset if sliced else None, "heads_total": rows.heads_total if sliced else None,
        **context.samples.header()}
    make: Callable[..., Dict[str, Any]] = wire.qk_keys if kind == "qk" else wire.attention_keys
    return Captured(kind, frames, lambda where: make(where, frames.described, **extra, **row_keys))
