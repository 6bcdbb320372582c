# SPDX-License-Identifier: MIT
"""capture: `attnd.watch`, which attaches to a PyTorch model in one line.

    with attnd.watch(model, job="gpt-small"):
        train()

Every torch.nn.MultiheadAttention of the model gets its `forward` wrapped, as an instance attribute, and gets it
back on close. A call of the wrapped forward goes straight to the original, with the caller's own arguments,
unless all of this holds: the module is training, the step is sampled, somebody is subscribed to this very
layer, the daemon is not stalled, and the call is not a recomputation (activation checkpointing), not being
compiled, traced or run in a forked child. Only then the original is asked for the weights of every head; they
are published, and the caller gets what it asked for.

What runs here must not hurt the training: our own errors are logged once and swallowed. If the original raises
while asked for weights, it is asked again with the caller's arguments, so that what is raised is the user's own.

Steps. With `w.step()` after each optimizer step the job says what a step is. Until its first call every forward
of the watched model in training mode counts as one.

What differs while a layer is captured: torch computes the weights explicitly instead of by a fused kernel, so
values agree to rounding; with dropout on an accelerator another random mask may be drawn.
Not captured: modules that compute attention by other means (F.scaled_dot_product_attention, flash attention),
torch.compile'd code, torch.nn.DataParallel over several devices.
"""
from __future__ import annotations

import copy
import hashlib
import inspect
import logging
import os
import types
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import torch

from . import masks, wire
from .layers import name_layers
from .publisher import DEFAULT_QUEUE_BYTES, Publisher

log = logging.getLogger("attnd")

RUN_WAIT_S = 10.0  # how long a rank waits for rank 0 to name the run


def watch(model: "torch.nn.Module", job: str, endpoint: str = wire.INGEST_ENDPOINT, *, every: int = 1,
          stack: Optional[str] = None, layers: Optional[Mapping[str, Sequence]] = None,
          rank: Optional[int] = None, world: Optional[int] = None, wait: float = 2.0,
          queue_bytes: int = DEFAULT_QUEUE_BYTES, run: Optional[Any] = None,
          publisher: Optional[Publisher] = None, **options: Any) -> "Watch":
    """Captures and publishes the attention of `model` while it trains, until the result is closed.

    model        any torch.nn.Module; its torch.nn.MultiheadAttention modules are watched
    job          the job's name: 1 to 128 of A-Z a-z 0-9 . _ -
    endpoint     where the daemon listens
    every        publish every n-th step only, n >= 1
    stack        'encoder' or 'decoder' for all layers, when their paths do not tell
    layers       {module path: (stack, layer, site)} for those that should be named otherwise; see layers.py
    rank, world  default: torch.distributed if initialised, else the environment's RANK and WORLD_SIZE
    wait         seconds to wait, once and now, for the daemon's subscription; without one the job just goes on
    queue_bytes, run, options   as for Publisher
    publisher    use this one instead of an own; it stays open on close

    Returns a context manager with step(), epoch_end(), stats() and close(). ValueError for bad arguments, now;
    nothing is raised later.
    """
    every = wire.check_int("every", every, minimum=1)
    modules = _attention_modules(model)
    names = name_layers(list(modules), layers, stack)
    own = publisher is None
    if own:
        rank, world = _rank_and_world(rank, world)
        publisher = Publisher(job, endpoint, rank, world, queue_bytes,
                              run=run if run is not None else _shared_run(rank, world), **options)
    elif publisher.job != job:
        raise ValueError(f"job {job!r}: the given publisher is of job {publisher.job!r}")
    if wait > 0:
        publisher.wait_for_subscriber(wait)
    publisher.hello([(*names[path], module.num_heads) for path, module in modules.items()])
    return Watch(model, {names[path]: module for path, module in modules.items()}, publisher, own, every)


class Watch:
    """A watched model. Made by watch(); used from the training thread."""

    def __init__(self, model: "torch.nn.Module", modules: Dict[wire.Layer, "torch.nn.Module"],
                 publisher: Publisher, own_publisher: bool, every: int):
        self.publisher = publisher
        self._own_publisher = own_publisher
        self._every = every
        self._epoch = 0
        self._step = 0
        self._explicit_steps = False
        self._forwards = 0
        self.depth = 0  # of the watched model's forward calls under way
        self._closed = False
        self._warned = False
        self._wrappers: List[_Wrapper] = [
            _AttentionWrapper(module, self, layer) for layer, module in modules.items()]
        # Last, so that a model that is itself an attention counts its steps before it captures.
        self._wrappers.append(_RootWrapper(model, self))

    @property
    def layers(self) -> List[wire.Layer]:
        """The watched layers as (stack, layer, site), in the model's order."""
        return [w.layer for w in self._wrappers if isinstance(w, _AttentionWrapper)]

    @property
    def epoch(self) -> int:
        """The epoch that messages carry, counted from 0 by epoch_end()."""
        return self._epoch

    @property
    def current_step(self) -> int:
        """The step that messages carry, counted from 0 over all epochs."""
        return self._step

    def step(self) -> None:
        """One training step is done. From the first call on, only these calls count."""
        if not self._explicit_steps:
            self._explicit_steps = True
            self._step = 0  # whatever the forwards of the first step had counted
        self._step += 1

    def epoch_end(self) -> None:
        """One epoch is done: tells the daemon, and counts on."""
        if self._closed:
            return
        try:
            self.publisher.epoch_end(self._epoch, self._step)
        except Exception:
            self.warn("the end of an epoch could not be published")
        self._epoch += 1

    def stats(self) -> Dict[str, Any]:
        """The publisher's counters; see Publisher.stats."""
        return self.publisher.stats()

    def close(self) -> None:
        """Gives every module its own forward back and, unless the publisher was given, closes it (bounded by
        its linger time). Idempotent."""
        if self._closed:
            return
        self._closed = True
        for wrapper in reversed(self._wrappers):
            wrapper.remove()
        if self._own_publisher:
            self.publisher.close()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    # Called by the wrappers.

    def begin_forward(self) -> None:
        """The watched model's forward begins, in training mode."""
        if self._closed:
            return
        if not self._explicit_steps:
            self._step = self._forwards
        self._forwards += 1

    def samples(self, layer: wire.Layer) -> bool:
        """Whether this call of the layer is to be captured."""
        return (not self._closed and self._step % self._every == 0 and self.publisher.wanted(*layer)
                and not self._recomputing() and not self.publisher.give_up(*layer))

    def _recomputing(self) -> bool:
        """Whether a backward pass runs this call again (activation checkpointing)."""
        if _graph_task_id is not None:
            return _graph_task_id() != -1
        # torch 1.13 cannot tell: there, what runs outside the model's forward is taken as repeated.
        return self._forwards > 0 and self.depth == 0

    def publish(self, layer: wire.Layer, module: "torch.nn.Module", weights: "torch.Tensor",
                seen: masks.Visibility) -> None:
        """Publishes weights [B,H,Tq,Tk] of one call."""
        self.publisher.publish_attention(
            weights, stack=layer[0], layer=layer[1], site=layer[2], epoch=self._epoch, step=self._step,
            dropout=bool(module.dropout > 0), **seen._asdict())

    def warn(self, what: str) -> None:
        """Logs with the current exception, the first time only."""
        if not self._warned:
            self._warned = True
            log.warning("job %s: %s; training goes on, further failures are not logged", self.publisher.job,
                        what, exc_info=True)


# ---------------------------------------------------------------------------------------- the wrappers

class _Wrapper:
    """Stands in for module.forward. A copy or pickle of the module gets the module's own forward, not ours:
    it must neither run with the original's parameters nor carry our sockets."""

    def __init__(self, module: "torch.nn.Module", owner: Watch):
        self.module = module
        self.owner = owner
        self.had_own = "forward" in module.__dict__  # somebody wrapped it before us
        self.original: Callable = module.forward
        module.__dict__["forward"] = self

    def remove(self) -> None:
        """Undoes the constructor. If somebody wrapped us since, we stay, and only pass calls on."""
        if self.module.__dict__.get("forward") is not self:
            return
        if self.had_own:
            self.module.__dict__["forward"] = self.original
        else:
            del self.module.__dict__["forward"]

    def __deepcopy__(self, memo: Dict[int, Any]) -> Any:
        copied = memo.get(id(self.module))
        if copied is None or self.had_own:
            return copy.deepcopy(self.original, memo)
        return types.MethodType(type(copied).forward, copied)

    def __reduce__(self) -> Tuple[Any, ...]:
        if self.had_own:
            return _same, (self.original,)
        return getattr, (self.module, "forward")  # looked up before the copy has any attribute of its own


def _same(value: Any) -> Any:
    return value


class _RootWrapper(_Wrapper):
    """Counts the forwards of the watched model."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _compiling() or not self.module.training:
            return self.original(*args, **kwargs)
        if self.owner.depth == 0:
            self.owner.begin_forward()
        self.owner.depth += 1
        try:
            return self.original(*args, **kwargs)
        finally:
            self.owner.depth -= 1


class _AttentionWrapper(_Wrapper):
    """Captures the calls of one torch.nn.MultiheadAttention."""

    def __init__(self, module: "torch.nn.Module", owner: Watch, layer: wire.Layer):
        self.layer = layer
        self.signature = inspect.signature(module.forward)
        super().__init__(module, owner)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _compiling() or not self.module.training:
            return self.original(*args, **kwargs)
        call = self._prepare(args, kwargs)
        if call is None:
            return self.original(*args, **kwargs)
        try:
            output, weights = self.original(*call.asking.args, **call.asking.kwargs)
            requested = _as_requested(call, weights)
        except Exception:
            result = self.original(*args, **kwargs)  # raises again if it was the user's own
            self.owner.warn("a layer's weights could not be had")
            return result
        self._publish(call, weights)
        return output, requested

    def _prepare(self, args: tuple, kwargs: Dict[str, Any]) -> Optional["_Call"]:
        """The call with the weights of every head asked for, or None to leave it alone."""
        try:
            return self._ask(args, kwargs) if self.owner.samples(self.layer) else None
        except Exception:
            self.owner.warn("a layer could not be watched")
            return None

    def _ask(self, args: tuple, kwargs: Dict[str, Any]) -> Optional["_Call"]:
        try:
            asking = self.signature.bind(*args, **kwargs)
        except TypeError:  # the call does not fit; the original says so better
            return None
        asking.apply_defaults()
        given = dict(asking.arguments)
        if getattr(given["query"], "is_nested", False) or _trusts_a_wrong_hint(given):
            return None
        asking.arguments.update(need_weights=True, average_attn_weights=False)
        return _Call(given, asking)

    def _publish(self, call: "_Call", weights: "torch.Tensor") -> None:
        try:
            with torch.no_grad():
                heads = weights.detach()
                if heads.dim() == 3:
                    heads = heads.unsqueeze(0)
                seen = masks.describe(_to_numpy(call.given.get("attn_mask")),
                                      _to_numpy(call.given.get("key_padding_mask")), *heads.shape,
                                      self_attention=self.layer[2] == "self")
                self.owner.publish(self.layer, self.module, heads, seen)
        except Exception:
            self.owner.warn("a layer's weights could not be published")


class _Call:
    """One captured call: the arguments as given (with defaults), and as we ask."""
    __slots__ = ("given", "asking")

    def __init__(self, given: Dict[str, Any], asking: inspect.BoundArguments):
        self.given = given
        self.asking = asking


def _as_requested(call: _Call, weights: "torch.Tensor") -> Optional["torch.Tensor"]:
    """The second result that the caller would have got; `weights` is [B,H,Tq,Tk], or [H,Tq,Tk] unbatched."""
    if not call.given["need_weights"]:
        return None
    return weights.mean(dim=-3) if call.given["average_attn_weights"] else weights


def _trusts_a_wrong_hint(given: Dict[str, Any]) -> bool:
    """Whether torch would skip attn_mask for the causal kernel although it is another mask: asked for weights,
    it would use the mask, and the caller would get something else."""
    mask = given.get("attn_mask")
    if not given.get("is_causal") or mask is None:
        return False
    return masks.describe_causal(_to_numpy(mask)) != (True, 0)


def _to_numpy(mask: Optional["torch.Tensor"]) -> Any:
    if mask is None:
        return None
    mask = mask.detach()
    return (mask.float() if mask.is_floating_point() else mask).cpu().numpy()


# ------------------------------------------------------------------------------------ about the process

def _attention_modules(model: "torch.nn.Module") -> Dict[str, "torch.nn.Module"]:
    """{path: module} of the attention modules that can be asked for weights, in the model's order."""
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model: must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.nn.DataParallel) and len(model.device_ids) > 1:
        log.warning("torch.nn.DataParallel over several devices is not watched: use DistributedDataParallel")
        return {}
    found = {path: module for path, module in model.named_modules()
             if isinstance(module, torch.nn.MultiheadAttention)}
    asked = {"query", "need_weights", "average_attn_weights"}
    found = {path: module for path, module in found.items()
             if asked <= set(inspect.signature(module.forward).parameters)}
    if not found:
        log.warning("the model has no torch.nn.MultiheadAttention to watch")
    return found


_is_compiling: Optional[Callable[[], bool]] = getattr(getattr(torch, "compiler", None), "is_compiling", None)
_graph_task_id: Optional[Callable[[], int]] = getattr(torch._C, "_current_graph_task_id", None)


def _compiling() -> bool:
    """Whether the code is being compiled or traced rather than run."""
    if _is_compiling is not None and _is_compiling():
        return True
    return torch.jit.is_scripting() or torch.jit.is_tracing()


def _distributed() -> Any:
    """torch.distributed if it is initialised, else None."""
    distributed = getattr(torch, "distributed", None)
    usable = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if usable else None


def _rank_and_world(rank: Optional[int], world: Optional[int]) -> Tuple[int, int]:
    distributed = _distributed()
    if distributed is not None:
        guess = distributed.get_rank(), distributed.get_world_size()
    else:
        guess = _env_int("RANK", 0), _env_int("WORLD_SIZE", 1)
    rank = guess[0] if rank is None else rank
    world = max(guess[1], rank + 1) if world is None else world
    return rank, world


def _env_int(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError:
        return default


_RUN_KEY = "attnd/run"
_runs_shared = 0  # by this process; every rank counts the same


def _shared_run(rank: int, world: int) -> Optional[bytes]:
    """One run id for all ranks, or None for a random one when there is only this process.

    Rank 0 draws it and leaves it in torch.distributed's store, where the others fetch it within RUN_WAIT_S;
    no collective call, so a job in which not every rank watches is not stopped. Without a store `ATTND_RUN` names
    the run, else what all ranks of one launch, and no others, have in common.
    """
    global _runs_shared
    if world == 1:
        return None
    _runs_shared += 1
    if os.environ.get("ATTND_RUN"):
        return hashlib.md5(f"{os.environ['ATTND_RUN']}/{_runs_shared}".encode()).digest()
    try:
        return _run_from_store(rank)
    except Exception:
        return hashlib.md5("/".join([*_launch(world), str(_runs_shared)]).encode()).digest()


def _run_from_store(rank: int) -> bytes:
    from datetime import timedelta
    distributed = _distributed()
    if distributed is None:
        raise LookupError("torch.distributed is not initialised")
    store, key = distributed.distributed_c10d._get_default_store(), f"{_RUN_KEY}/{_runs_shared}"
    if rank == 0:
        store.set(key, os.urandom(wire.RUN_BYTES).hex())
    store.wait([key], timedelta(seconds=RUN_WAIT_S))
    return bytes.fromhex(store.get(key).decode())


def _launch(world: int) -> List[str]:
    """What tells this launch from others, and is the same in all its ranks.

    The launcher's variables are often the same every time. Slurm numbers its steps; on one machine the launcher's
    process tells (a script around each rank must `exec`, else it is the parent). Otherwise nothing else is
    common, and a repeated launch goes on the old run.
    """
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "SLURM_JOB_ID", "SLURM_STEP_ID",
             "SLURM_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    parts = [os.environ.get(name, "") for name in names]
    if os.environ.get("SLURM_STEP_ID"):
        return parts
    if _env_int("LOCAL_WORLD_SIZE", 0) == world:
        return [*parts, _parent()]
    log.warning("several ranks, and neither torch.distributed is initialised nor ATTND_RUN set: set ATTND_RUN to "
                "something new for each launch, or initialise the process group before attnd.watch")
    return parts


def _parent() -> str:
    """The launcher's process: its number and when it started, since numbers come round again."""
    parent = os.getppid()
    try:
        with open(f"/proc/{parent}/stat", encoding="ascii", errors="replace") as stat:
            return f"{parent}/{stat.read().rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return str(parent)
