# SPDX-License-Identifier: MIT
"""publisher: publishes the attention of a training job. Never blocks, never raises at runtime.

Bad arguments raise ValueError at once, whether or not anybody listens, so that they are found on the
first try. Everything else (no daemon, a slow daemon, no memory) is counted, not raised.
"""
from __future__ import annotations

import os
import weakref
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np

from ..base import wire
from ..base.endings import failure_of
from ..base.limits import Limits
from ..base.once import Once, log
from ..base.plan import EVERYTHING, Plan, Samples, choose, lengthened
from . import memory, scalars, tensors
from .contents import (Captured, Maker as Maker, add_keys, add_maps, add_output, add_row_tensors, check_heads, check_real,
                       check_rows, fits_header, fitting_labels)
from .head_maps import HeadMaps
from .outbox import Later, Many, Message, NotYet
from .reliable import DEFAULT_BYTES, Wish
from .rows import Rows
from .sender import Identity, Sender

DEFAULT_QUEUE_BYTES = 256 << 20
DEFAULT_LINGER_S = 2.0
DEFAULT_HIGH_WATER = 8


_MAP = ("batch", "heads", "queries", "keys")


class _Where(NamedTuple):
    """Which attention, and when."""
    topic: bytes
    layer: wire.Layer
    epoch: int
    step: int


class Publisher:
    """Publishes the attention of one rank of one training job.

    job          1 to 128 of A-Z a-z 0-9 . _ -; other characters become "-", which is logged
    address      the daemon: a directory or "tcp://host:port" (see address.py); default $ATTND_ADDRESS, else the one that
                 answers on this machine, now or later
    endpoint     exactly this socket of it, instead of an address
    rank, world  this process and how many there are; 0 <= rank < world
    queue_bytes  payload bytes that may wait here; above it the newest message is dropped and counted. ZeroMQ holds up to
                 `high_water` messages of them, and a quarter of these bytes or one message
    run          16 bytes naming this start of the job, the same on every rank; random by default
    linger       seconds that close() and the end of the program may spend on sending what is queued
    reliable     which messages attnd acknowledges when they are in its history, and are kept until then: None: rows and
                 events; True: all; False: none. An attnd without the reliable lane acknowledges none. While attnd is
                 away, after it was there once, what goes by this lane is kept
    reliable_bytes   that may be kept; above it messages wait in the queue while attnd answers, and else the newest is dropped
                 and counted
    spool        directory in which they are kept, so that the next process with the same one sends what this one could
                 not; default $ATTND_SPOOL, else they are kept in memory. One for each attnd
    on_publish   called on the publishing thread with each queued `sender.Message`, for tests and
                 verification; its arrays are the ones that travel, and read-only

    Threads: any. Fork: the child's copy is inert. Use as a context manager, or call close(); the end of
    the program closes what is still open, within `linger`. ValueError for bad arguments.
    """

    def __init__(self, job: str, endpoint: Optional[str] = None, rank: int = 0, world: int = 1,
                 queue_bytes: int = DEFAULT_QUEUE_BYTES, *, run: Optional[Union[bytes, str]] = None,
                 linger: float = DEFAULT_LINGER_S, high_water: int = DEFAULT_HIGH_WATER, address: Any = None,
                 on_publish: Optional[Callable[[Message], None]] = None, reliable: Union[None, bool, Wish] = None,
                 reliable_bytes: int = DEFAULT_BYTES, spool: Any = None):
        job = named_job(job)
        world = wire.check_int("world", world, wire.WORLD_MAX, 1)
        rank = wire.check_int("rank", rank, world - 1)
        queue_bytes = wire.check_int("queue_bytes", queue_bytes, minimum=1)
        high_water = wire.check_int("high_water", high_water, 1000, 1)
        if not 0 <= linger <= 3600:
            raise ValueError(f"linger = {linger}: must be 0 to 3600 seconds")
        self._identity = Identity(job, _check_run(run), rank, world)
        self._on_publish = on_publish
        self._queue_bytes = queue_bytes
        self._topics: Dict[wire.Layer, bytes] = {}
        self._event_topic = wire.event_topic(job)
        self._step = 0
        self._settings: Dict[str, Any] = {}
        self._cost: Dict[str, Any] = {}
        self._once = Once(job)
        self._lengthened: Optional[Tuple[int, int]] = None  # what was told of the plan last
        self._planned: Tuple[Tuple[bytes, ...], Dict[str, Any], Plan] = ((), {}, EVERYTHING)
        self.reliable = _wish(reliable, reliable_bytes, spool)  # what goes by the reliable lane
        self._sender = Sender(self._identity, endpoint, address, queue_bytes, linger, high_water, self.reliable)
        self._outbox = self._sender.outbox
        self._finalizer = weakref.finalize(self, Sender.close, self._sender)
        self._finalizer.atexit = False  # sender closes what is open then, in the right order

    # ---------------------------------------------------------------------------------------- identity

    @property
    def job(self) -> str:
        """The job's name."""
        return self._identity.job

    @property
    def run(self) -> str:
        """This run, as 32 lower-case hex digits: the `run` of every result about it."""
        return self._identity.run.hex()

    @property
    def rank(self) -> int:
        """This process's rank."""
        return self._identity.rank

    @property
    def world(self) -> int:
        """How many ranks there are."""
        return self._identity.world

    @property
    def linger(self) -> float:
        """Seconds that close() may spend on sending what is queued."""
        return self._sender.linger_s

    # ---------------------------------------------------------------------------------------- capturing

    def wanted(self, stack: str, layer: int, site: str, step: Optional[int] = None) -> bool:
        """Whether somebody is subscribed to this attention: False means that capturing it is wasted. With `step`,
        the capture plan is asked too.

        Cheap enough to ask on every call. ValueError when the three do not name an attention.
        """
        if not self._sender.wanted(self._topic(stack, layer, site)):
            return False
        if step is None:
            return True
        plan = self.plan
        return plan.takes_step(step) and plan.takes_layer((stack, layer, site))

    @property
    def plan(self) -> Plan:
        """The plan of the daemon for this job; everything, when it has not said or there is none."""
        return self.plan_with({})

    def plan_with(self, own: Dict[str, Any]) -> Plan:
        """The plan, when the job's own code asks for `own`: some of every, samples, rows and tier."""
        prefixes = self._sender.prefixes
        if prefixes is not self._planned[0] or own != self._planned[1]:
            self._planned = prefixes, dict(own), choose(prefixes, self.job, own)
            found = lengthened(prefixes, self.job) if "every" not in own else None
            if found is not None and found != self._lengthened:
                log.info("job %s: attnd captures one step in %d instead of one in %d, so that capturing takes no more than "
                         "plan.cost_max of step time", self.job, *found)
                self._lengthened = found
        return self._planned[2]

    @property
    def queue_bytes(self) -> int:
        """Payload bytes that may wait."""
        return self._queue_bytes

    @property
    def message_bytes(self) -> float:
        """Payload bytes of the largest message that is worth copying."""
        return min(self._queue_bytes, self.limits.max_message)

    def has_room(self, nbytes: int) -> bool:
        """Whether so many bytes more fill no more than half of the queue, or nothing else is in it."""
        queued = self._outbox.queued_bytes
        return queued == 0 or 2 * (queued + nbytes) <= self._queue_bytes

    @property
    def limits(self) -> Limits:
        """The messages that those who listen take."""
        return self._outbox.limits

    @property
    def maps_side(self) -> int:
        """Cells a side of the maps that those who listen want with rows; 0: none."""
        return int(self.limits.maps)

    @property
    def maps_every(self) -> float:
        """The shortest interval between the maps of a layer, in seconds."""
        return self.limits.maps_every / 1000

    @property
    def stalled(self) -> bool:
        """Whether the daemon has taken nothing for some seconds."""
        return self._sender.stalled

    @property
    def where(self) -> str:
        """The daemon's endpoint ("at ipc:///run/attnd/ingest"), or why there is none."""
        return self._sender.link.where

    @property
    def is_wrong(self) -> bool:
        """Whether a warning has told that the address is somebody else's, or attnd does not let this client in."""
        return self._sender.is_wrong

    @property
    def was_heard(self) -> bool:
        """Whether tensors of this job were subscribed to at any time, or a warning has told why they cannot be."""
        return self._sender.presence.was_there or self.is_wrong

    @property
    def is_local(self) -> bool:
        """Whether the daemon is reached through a Unix socket, on this machine."""
        return (self._sender.link.endpoint or "").startswith("ipc://")

    @property
    def what_helps(self) -> str:
        """A sentence for those whose daemon is not there."""
        return self._sender.presence.what_helps

    @property
    def listened_to(self) -> bool:
        """Whether tensors of this job are subscribed to now, or attnd is away and what went by the reliable lane is kept for
        it."""
        return self._sender.listened_to

    def give_up(self, stack: str, layer: int, site: str, kind: Optional[str] = None) -> bool:
        """Whether the daemon has taken nothing for some seconds; if so, a message of this attention, and of this type, is
        counted as dropped, or as skipped when nobody wants it, so that the caller need not capture it. ValueError as for
        wanted()."""
        topic = self._topic(stack, layer, site)
        stalled = self._sender.stalled
        if stalled and self._sender.wanted(topic, kind):
            self._outbox.drop(topic, kind)
        elif stalled:
            self._outbox.skip()
        return stalled

    def publish_attention(self, weights: Any, *, stack: str, layer: int, site: str = "self", epoch: int = 0,
                          step: int = 0, causal: bool = False, window: int = 0, q_len: Any = None,
                          k_len: Any = None, mask: Any = None, dropout: bool = False,
                          learned_sink: bool = False, head_offset: Optional[int] = None,
                          heads_total: Optional[int] = None, labels: Optional[Sequence[str]] = None,
                          dtype: Optional[str] = None, grad: Any = None, tokens: Any = None,
                          documents: Any = None, module: Optional[str] = None,
                          q_labels: Optional[Sequence[str]] = None, v: Any = None, wo_r: Any = None,
                          x_norm: Any = None, samples: Optional[Samples] = None) -> bool:
        """Publishes the attention weights of one layer in one step; True when they were queued.

        weights       [B, H, Tq, Tk] f32, f64, f16 or bf16, numpy or torch; copied once, here; rows sum to 1
        stack, layer, site   'encoder' or 'decoder', 0 to 65535, 'self' or 'cross'
        epoch, step   counted from 0
        causal        key j is visible to query i when j <= i
        window        keys a query may look back (with itself); 0 = all
        q_len, k_len  [B] valid queries and keys per sample: padding on the right
        mask          [B, Tq, Tk] nonzero = may attend, for what the others cannot say
        dropout       the weights are after dropout
        learned_sink  rows may sum to less than 1
        head_offset, heads_total   when this is a slice of the layer's heads (tensor parallel)
        labels        token texts of the first sample's keys; left out when the header gets too large
        q_labels      those of its queries, for cross-attention
        dtype         'bf16' when a numpy array of 16-bit integers holds bf16 bits
        grad          [B, H, Tq, Tk] gradient of the loss by the weights
        tokens        [B, Tk] integers: token numbers
        documents     [B, Tk] integers: which document of a packed sequence; site 'self' only
        module        path of the module that attends, "vision_model.encoder.layers.3.self_attn": results repeat it
        v             [B, Hkv, Tk, dv] values, with which attnd has numbers of the output; Hkv divides H, head h reads
                      head h / (H / Hkv) of them
        wo_r, x_norm  as for publish_qk
        samples       of which batch these are, and which of it (base/plan.py); by default they are all of it

        False, and no work, when nobody is subscribed (counted as skipped), or when it is larger than attnd
        takes, the queue is full or there is no memory for the copy (counted as dropped). ValueError for arguments that contradict
        this; never another exception.
        """
        where = self._where(stack, layer, site, epoch, step, module)
        frames = tensors.Frames()
        shape = frames.add("weights", weights, _MAP, dtype)
        if grad is not None and frames.add("grad", grad, _MAP) != shape:
            raise ValueError(f"grad: must have the shape of weights, {shape}")
        batch, heads, queries, keys = shape
        if v is not None:
            size = frames.add("v", v, ("batch", "key heads", "keys", "value_dim"))
            if (size[0], size[2]) != (batch, keys) or heads % size[1]:
                raise ValueError(f"v of shape {size}: must be [{batch}, key heads, {keys}, value_dim], and key heads divide "
                                 f"{heads}")
        add_output(frames, (batch, heads, queries), None, wo_r, x_norm)
        rows = check_rows((batch, heads, queries, keys), causal, window, q_len, k_len, head_offset, heads_total)
        labels, q_labels = fitting_labels(labels, q_labels, shape)
        add_row_tensors(frames, (batch, queries, keys), site, queries - 1, mask, tokens, documents)
        return self._publish("attention", where, frames, lambda: wire.attention_keys(
            where.layer, frames.described, dropout=bool(dropout), learned_sink=bool(learned_sink), labels=labels,
            q_labels=q_labels, **rows, **({} if samples is None else samples.header())))

    def publish_qk(self, q: Any, k: Any, v: Any = None, *, stack: str, layer: int, site: str = "self",
                   epoch: int = 0, step: int = 0, scale: Optional[float] = None, softcap: float = 0.0,
                   q_offset: int = 0, q_stride: int = 1, causal: bool = False, window: int = 0, q_len: Any = None,
                   k_len: Any = None, mask: Any = None, head_offset: Optional[int] = None,
                   heads_total: Optional[int] = None, labels: Optional[Sequence[str]] = None, tokens: Any = None,
                   documents: Any = None, module: Optional[str] = None,
                   q_labels: Optional[Sequence[str]] = None, dout: Any = None, wo_r: Any = None,
                   x_norm: Any = None, samples: Optional[Samples] = None) -> bool:
        """Publishes a layer's queries and keys, from which attnd computes the weights; True when queued.

        q             [B, H, Tq, d] f32, f64, f16 or bf16, numpy or torch, after the position encoding
        k             [B, Hkv, Tk, d]; Hkv divides H, head h reads key head h / (H / Hkv)
        v             [B, Hkv, Tk, dv]; with it, numbers of the output
        scale         of Q K^T; 1 / sqrt(d) by default
        softcap       c > 0: logits S become c tanh(S / c)
        q_offset      position of query 0 among the keys' positions, with a key cache
        q_stride      query i is at position q_offset + i * q_stride. Above 1 the rows are a sample, which has numbers
                      of rows only, no maps
        dout          [B, H, Tq, dv] gradient of the loss by the heads' outputs, before the output projection; needs v
        wo_r          [H, r, dv] R of the QR of each head's slice of the output projection, r <= dv; needs v
        x_norm        [B, Tq] norms of the layer's input, the residual stream; needs wo_r

        The rest, what is returned and what is raised as for publish_attention.
        """
        where = self._where(stack, layer, site, epoch, step, module)
        frames = tensors.Frames()
        batch, heads, queries, width = frames.add("q", q, ("batch", "heads", "queries", "head_dim"))
        keys = add_keys(frames, k, v, (batch, heads, width))
        add_output(frames, (batch, heads, queries), dout, wo_r, x_norm)
        scale = width**-0.5 if scale is None else check_real("scale", scale)
        softcap = check_real("softcap", softcap, 0.0)
        q_offset = wire.check_int("q_offset", q_offset, 2**32 - 1 - queries)
        q_stride = wire.check_int("q_stride", q_stride, (2**32 - 2 - q_offset) // max(1, queries - 1), 1)
        rows = check_rows((batch, heads, queries, keys), causal, window, q_len, k_len, head_offset, heads_total)
        labels, q_labels = fitting_labels(labels, q_labels, (batch, heads, queries, keys))
        add_row_tensors(frames, (batch, queries, keys), site, q_offset + (queries - 1) * q_stride, mask, tokens,
                         documents)
        return self._publish("qk", where, frames, lambda: wire.qk_keys(
            where.layer, frames.described, scale=scale, softcap=softcap, q_offset=q_offset,
            q_stride=q_stride, labels=labels, q_labels=q_labels, **rows, **({} if samples is None else samples.header())))

    def publish_weights(self, *, heads: int, head_dim: int, stack: str, layer: int, site: str = "self", epoch: int = 0,
                        step: int = 0, kv_heads: Optional[int] = None, heads_total: Optional[int] = None,
                        wq: Any = None, wk: Any = None, wv: Any = None, wo: Any = None,
                        module: Optional[str] = None) -> bool:
        """Publishes a layer's projection matrices; True when they were queued.

        wq            [heads * head_dim, in] f32, f64, f16 or bf16, numpy or torch: as nn.Linear.weight
        wk, wv        [kv_heads * head_dim, in]
        wo            [out, heads * head_dim]; of the four at least one
        kv_heads      of keys and values; divides heads, which it is by default
        heads_total   when this rank has a slice of the layer's heads

        The rest, what is returned and what is raised as for publish_attention.
        """
        where = self._where(stack, layer, site, epoch, step, module)
        heads = wire.check_int("heads", heads, wire.HEADS_MAX, 1)
        kv_heads = wire.check_int("kv_heads", heads if kv_heads is None else kv_heads, heads, 1)
        head_dim = wire.check_int("head_dim", head_dim, 2**31 - 1, 1)
        if heads % kv_heads:
            raise ValueError(f"kv_heads = {kv_heads}: must divide heads = {heads}")
        check_heads(None, heads_total, heads)
        frames = tensors.Frames()
        for name, matrix, side, width in (("wq", wq, 0, heads), ("wk", wk, 0, kv_heads), ("wv", wv, 0, kv_heads),
                                          ("wo", wo, 1, heads)):
            if matrix is not None and frames.add(name, matrix, ("out", "in"))[side] != width * head_dim:
                raise ValueError(f"{name} of shape {tuple(matrix.shape)}: {'in' if side else 'out'} must be "
                                 f"{width} * {head_dim} = {width * head_dim}")
        if not frames.described:
            raise ValueError("at least one of wq, wk, wv, wo must be given")
        return self._publish("weights", where, frames, lambda: wire.weights_keys(
            where.layer, frames.described, heads=heads, head_dim=head_dim, kv_heads=kv_heads,
            heads_total=heads_total))

    def publish_rows(self, rows: Rows, *, stack: str, layer: int, site: str = "self", epoch: int = 0, step: int = 0, microbatch: int = 0,
                     head_offset: Optional[int] = None, heads_total: Optional[int] = None, module: Optional[str] = None) -> bool:
        """Publishes the sums of a layer's rows that were computed here, from which attnd has the numbers; True when they were queued.

        rows         as attnd.device.rows() returns; their maps are left out where `maps_side` is 0
        head_offset, heads_total  when they are of a slice of the layer's heads

        The rest, what is returned and what is raised as for publish_attention.
        """
        where = self._where(stack, layer, site, epoch, step, module)
        if not isinstance(rows, Rows):
            raise ValueError(f"rows of type {type(rows).__name__}: must be Rows, as attnd.device.rows() returns")
        made = rows.copy().message(head_offset, heads_total, self.maps_side > 0, microbatch=wire.check_int("microbatch", microbatch))
        return self._publish("rows", where, made.frames, lambda: made.keys(where.layer))

    def publish_later(self, layer: wire.Layer, epoch: int, step: int, nbytes: int, copy: Callable[[], "Maker"],
                      kind: Optional[str] = None) -> bool:
        """Queues a message that is made on the publishing thread when its turn comes; True when queued.

        nbytes   what it holds on to until then, reserved now; when the message is larger there has to be room
        kind     its type, when that is known; rows are smaller than what they are made of
        copy     is called now, when there is room, and returns what makes the message then, or None for none (counted
                 as dropped, like one that raises)

        NotYet of `copy` is counted as skipped; another exception is counted as dropped, and raised. For capture/forwards.py, which
        calls hurry() after the last of a forward. The arguments are taken as checked.
        """
        topic = self._topic(*layer)
        self._step = step
        if self._sender.is_away and not self._sender.wanted(topic, kind):
            self._outbox.skip()
            return False
        if not self._outbox.reserve(topic, nbytes, kind, travels=0 if kind == "rows" else nbytes):
            return False
        try:
            with memory.lending(self._sender.memory if kind != "rows" else None):
                make = copy()
        except NotYet:
            self._outbox.cancel(topic, nbytes, is_lost=False)
            return False
        except BaseException:
            self._outbox.cancel(topic, nbytes)
            raise
        self._outbox.put(self._later(topic, layer, epoch, step, nbytes, make, kind), more=True)
        return True

    def publish_made(self, sizes: Sequence[int], messages: Callable[[], Iterable[Tuple[wire.Layer, int, Maker]]], epoch: int,
                     step: int, kind: str, more: bool = False) -> None:
        """As publish_later() of several messages, of `sizes`, whose numbers are copied already, and hurry(), unless `more` follow.
        `messages` gives (layer, nbytes, make) of each, in this order, as a rule on the publishing thread."""
        def later() -> List[Later]:
            return [self._later(self._topic(*layer), layer, epoch, step, nbytes, make, kind) for layer, nbytes, make in messages()]

        self._step = step
        if not sizes:
            return
        many = Many(later, len(sizes), sum(sizes))
        if self._sender.is_away or not self._outbox.put_many(many, max(sizes), epoch, step, kind, more):
            for message in later():
                if self._sender.is_away and not self._sender.wanted(message.topic, kind):
                    self._outbox.skip()
                elif self._outbox.reserve(message.topic, message.nbytes, kind):
                    self._outbox.put(message, more=True)
            if not more:
                self._outbox.hurry()

    def hurry(self) -> None:
        """Sends what publish_later() has queued."""
        self._outbox.hurry()

    def _later(self, topic: bytes, layer: wire.Layer, epoch: int, step: int, nbytes: int, make: Maker, kind: Optional[str]) -> Later:
        return Later(topic, epoch, step, nbytes, lambda: self._finish(topic, layer, epoch, step, make()), kind)

    def _finish(self, topic: bytes, layer: wire.Layer, epoch: int, step: int, captured: Optional["Captured"]) -> Optional[Message]:
        if captured is None:
            return None
        frames = captured.frames.copies()
        keys = captured.keys(layer)
        message = Message(topic, captured.kind, keys, epoch, step, frames, sum(frame.nbytes for frame in frames))
        if self._on_publish is not None:
            self._on_publish(message)
        return message

    def _where(self, stack: str, layer: int, site: str, epoch: int, step: int, module: Optional[str]) -> "_Where":
        topic = self._topic(stack, layer, site)
        return _Where(topic, wire.NamedLayer(stack, int(layer), site, wire.check_module(module)),
                      wire.check_int("epoch", epoch), wire.check_int("step", step))

    def _publish(self, kind: str, where: "_Where", frames: tensors.Frames,
                 make_keys: Callable[[], Dict[str, Any]]) -> bool:
        """Everything is checked: skips, or reserves, copies and queues. Failures here are counted and logged once."""
        self._step = where.step
        if not self._sender.wanted(where.topic, kind):
            self._outbox.skip()
            return False
        keys = make_keys()
        if not self._outbox.reserve(where.topic, frames.nbytes, kind, keys):
            return False
        try:
            with memory.lending(self._sender.memory):
                copies = frames.copies()
            message = Message(where.topic, kind, keys, where.epoch, where.step, copies, frames.nbytes)
            if self._on_publish is not None:
                self._on_publish(message)
        except BaseException as error:
            self._outbox.cancel(where.topic, frames.nbytes)
            if not isinstance(error, Exception):  # as KeyboardInterrupt is
                raise
            self._once.warn("failed", "a message could not be captured; further failures are only counted", exc_info=True)
            return False
        self._outbox.put(message)
        return True

    # ------------------------------------------------------------------------------------------- events

    def hello(self, layers: Sequence[Sequence[Any]], epoch: int = 0, step: int = 0) -> None:
        """Announces the model: `layers` is a list of (stack, layer, site, heads), or of (stack, layer, site, heads,
        module) where the path of the module that attends is known.

        Said now, and again to every daemon that subscribes later. May be said again, as a sign of life.
        ValueError for a bad layer.
        """
        if len(layers) > wire.HELLO_LAYERS_MAX:
            raise ValueError(f"hello: {len(layers)} layers, at most {wire.HELLO_LAYERS_MAX}")
        if any(not 4 <= len(entry) <= 5 for entry in layers):
            raise ValueError("hello: a layer is (stack, layer, site, heads), or (stack, layer, site, heads, module)")
        checked = [(wire.NamedLayer(*wire.check_layer(*entry[:3]), wire.check_module((*entry[4:], None)[0])),
                    wire.check_int("heads", entry[3], 65535, 1)) for entry in layers]
        from .. import __version__
        keys = wire.hello_keys(checked, f"attnd-python/{__version__}", self._settings, self._cost)
        if not fits_header(keys):  # messages say the modules as well
            keys = wire.hello_keys([(wire.NamedLayer(*layer), heads) for layer, heads in checked], keys["client"],
                                   self._settings, self._cost)
        if not fits_header(keys):
            log.warning("job %s: too many layers for one hello; announced without them", self.job)
            keys["layers"] = []
        self._event(keys, wire.check_int("epoch", epoch), wire.check_int("step", step))

    def epoch_end(self, epoch: int, step: Optional[int] = None) -> None:
        """Tells that this rank has published everything of `epoch`. `step` defaults to the last one."""
        epoch = wire.check_int("epoch", epoch)
        step = self._step if step is None else wire.check_int("step", step)
        self._event({"event": "epoch_end"}, epoch, step)

    def log(self, values: Optional[Mapping[str, Any]] = None, epoch: int = 0, step: Optional[int] = None, **more: Any) -> bool:
        """Reports numbers of the training, such as its loss: log(loss=loss) or log({"loss": loss}); True when they were
        queued. `step` defaults to the last one.

        values   names of 1 to 64 bytes to numbers, or tensors of one number: one on a device is read later, by the
                 publishing thread. The first that is neither is told in a warning; NaN and infinities are kept as such

        False, and no work, when nobody is subscribed (counted as skipped).
        ValueError for a bad epoch or step; never another exception.
        """
        epoch = wire.check_int("epoch", epoch)
        step = self._step if step is None else wire.check_int("step", step)
        if not self._sender.wanted(self._event_topic, "event"):
            self._outbox.skip()
            return False
        queued = True
        named: Any = {} if values is None and more else values  # None alone is refused as what is no mapping
        taken = {**scalars.taken(named, self._refuse_value), **scalars.taken(more, self._refuse_value)}
        for part in scalars.messages(taken):
            if not self._outbox.reserve(self._event_topic, scalars.LOG_BYTES, "event"):
                queued = False
            else:
                self._outbox.put(self._log_message(part, epoch, step))
        return queued

    def _log_message(self, values: scalars.Values, epoch: int, step: int) -> Union[Message, Later]:
        def made(numbers: Dict[str, Optional[float]]) -> Message:
            return Message(self._event_topic, "event", wire.log_keys(numbers), epoch, step, (), scalars.LOG_BYTES)

        def late() -> Optional[Message]:
            numbers = scalars.ready(values, self._refuse_value)
            return made(numbers) if numbers else None

        return made(values) if scalars.is_ready(values) else Later(self._event_topic, epoch, step, scalars.LOG_BYTES,
                                                                   late, "event")

    def _refuse_value(self, name: Any, why: str) -> None:
        self._once.warn("log", "log: %.80r is not reported: %s; what else is no number is not told", name, why)

    def describe(self, settings: Mapping[str, Any]) -> None:
        """Says what the training was started with, in every hello() that follows: numbers, booleans and texts, at most
        64. ValueError when it is no mapping."""
        if not isinstance(settings, Mapping):
            raise ValueError(f"settings of type {type(settings).__name__}: must be a mapping")
        self._settings = scalars.settings(settings)

    def tell_uncaptured(self, what: str) -> None:
        """Says in every hello() that follows, as one more setting, which attention is not captured, and why; the first
        that is told stays. For model/notices.py."""
        self._settings = scalars.settings({scalars.NOT_CAPTURED: what, **self._settings})

    def tell(self, **facts: Any) -> None:
        """Says in every hello() that follows, as far as it was given: `own_every`, the job's own code asks for every n-th
        step, which attnd then leaves as it is; `own_window` of wire.check_window, it asks for these windows, and the first
        of a run decides; a step in which nothing is captured takes `step_seconds`, a captured one `capture_seconds` more.
        For capture/watch.py; the arguments are taken as checked."""
        self._cost.update(facts)

    def step_done(self, epoch: int, step: int) -> None:
        """This step is done, captured or not: the last one is told by `bye`. For capture/watch.py."""
        self._outbox.last_done = (epoch, step)

    def bye(self) -> None:
        """Tells that this rank publishes nothing more. close() does it by itself."""
        self.close()

    def _event(self, keys: Dict[str, Any], epoch: int, step: int = 0) -> None:
        message = Message(self._event_topic, "event", keys, epoch, step, (), 0)
        if self._outbox.reserve(self._event_topic, 0, "event"):
            self._outbox.put(message)

    # ---------------------------------------------------------------------------------------- lifecycle

    def wait_for_subscriber(self, timeout: float = 2.0) -> bool:
        """Blocks until tensors of this job are subscribed to, at most `timeout` seconds; whether they are. Ends at once when
        they cannot be: is_wrong."""
        return self._sender.wait_for_subscriber(timeout)

    def tell_absences(self, say_next: Callable[[], str]) -> None:
        """From now on a warning tells when attnd has gone for some seconds, and another when it is back. The first ends
        with the sentence that `say_next` returns, on the publishing thread: what happens next, or is to be done."""
        self._sender.presence.say_next = say_next

    def drain(self, timeout: float = 10.0) -> bool:
        """Blocks until everything queued is in ZeroMQ's hands, and what goes by the reliable lane is acknowledged, at most
        `timeout` seconds; whether it is."""
        return self._outbox.drain(timeout)

    def stats(self) -> Dict[str, Any]:
        """Counters since the start, in messages unless named otherwise.

        published = sent + dropped + skipped + queued. `skipped`: nobody was subscribed. `sent_bytes` and
        `queued_bytes` count payload; `subscribed` tells whether anybody listens now; `dropped_by_topic`
        maps a topic to its share of `dropped`; `too_large`, of `dropped`: what attnd does not take; `lent`, of
        `sent`: those with tensors that attnd read in place, on this machine. By the reliable lane a
        message is queued until it is acknowledged: `unacknowledged` of them left the queue; `refused_by_reason`: those that
        attnd refused, which count as sent; `spooled`: messages in files, with those that other processes left.
        """
        return self._sender.stats()

    def close(self, error: Optional[BaseException] = None) -> None:
        """Says bye, sends what is queued within `linger` seconds, waits for its acknowledgements as long, and disconnects.
        `error`: the exception that ended the training: attnd then shows the run as failed. Idempotent."""
        self._outbox.failure = failure_of(error)
        self._finalizer()

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, kind: Any = None, error: Optional[BaseException] = None, *_: Any) -> None:
        self.close(error)

    # ------------------------------------------------------------------------------------------ helpers

    def _topic(self, stack: str, layer: int, site: str) -> bytes:
        key = (stack, layer, site)
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = wire.tensor_topic(self.job, *wire.check_layer(stack, layer, site))
        return topic


def _wish(asked: Union[None, bool, Wish], bound: Any, spool: Any) -> Wish:
    if isinstance(asked, Wish):
        return asked
    if asked is not None and not isinstance(asked, bool):
        raise ValueError(f"reliable = {asked!r:.80}: must be True, False or None")
    spool = os.environ.get("ATTND_SPOOL") if spool is None else spool
    try:
        directory = os.fspath(spool) if spool else None
    except TypeError:
        raise ValueError(f"spool = {spool!r:.80}: must be a directory") from None
    return Wish(asked, False, wire.check_int("reliable_bytes", bound, minimum=1),
                directory if directory is None else os.path.abspath(os.fsdecode(directory)))


def named_job(name: str) -> str:
    """wire.job_name, which tells when the job is named otherwise than asked."""
    job = wire.job_name(name)
    if job != name:
        log.warning("job %r is named %s here: names have A-Z a-z 0-9 . _ -, and the end tells it from names like it", name, job)
    return job


def _check_run(run: Optional[Union[bytes, str]]) -> bytes:
    if run is None:
        return os.urandom(wire.RUN_BYTES)
    try:
        raw = bytes.fromhex(run) if isinstance(run, str) else bytes(run)
    except (ValueError, TypeError):
        raw = b""
    if len(raw) != wire.RUN_BYTES:
        raise ValueError(f"run {run!r}: must be {wire.RUN_BYTES} bytes, or as many hex pairs")
    return raw
