# SPDX-License-Identifier: MIT
"""ranks: which process of how many this is, the name that all of them have for this start of the job, and which of a layer's
heads this one computes, when ranks share them out and nobody has said so:

    DTensors            queries, keys and values sharded along their heads: the mesh tells which part this is. Along the
                        sequence no rank has a whole row of weights, so there is nothing to capture
    weights             a parameter of the module sharded along its rows (ColwiseParallel): its heads are sharded alike,
                        although queries and keys are plain tensors
    plain tensors       fewer heads than the module says it has, while its weights make no more, or each over more positions
                        than the module was given (Ulysses): which ones they are is not known
"""
from __future__ import annotations

import hashlib
import os
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import torch

from . import wire
from .forms.seen import Queries, Seen, Share, heads_of, queries_of
from .judge import head_count
from .once import log

RUN_WAIT_S = 10.0  # how long a rank waits for rank 0 to name the run


def _distributed() -> Any:
    """torch.distributed if it is initialised, else None."""
    distributed = getattr(torch, "distributed", None)
    usable = distributed is not None and distributed.is_available() and distributed.is_initialized()
    return distributed if usable else None


def rank_and_world(rank: Optional[int], world: Optional[int]) -> Tuple[int, int]:
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


def default_store() -> Any:
    """The store of torch.distributed, which all its ranks reach. LookupError when that is not initialised."""
    distributed = _distributed()
    if distributed is None:
        raise LookupError("torch.distributed is not initialised")
    return distributed.distributed_c10d._get_default_store()


_RUN_KEY = "attnd/run"
_runs_shared = 0  # by this process; every rank counts the same


def shared_run(rank: int, world: int) -> Optional[bytes]:
    """One run id for all ranks, or None for a random one when there is only this process, and `ATTND_RUN` does not name it.

    Else rank 0 draws it and leaves it in torch.distributed's store, where the others fetch it within RUN_WAIT_S; no collective
    call, so a job in which not every rank watches is not stopped. Without a store it is what all ranks of one launch, and no
    others, have in common.
    """
    global _runs_shared
    name = os.environ.get("ATTND_RUN")
    if world == 1 and not name:
        return None
    _runs_shared += 1
    if name:
        return hashlib.md5(f"{name}/{_runs_shared}".encode()).digest()
    try:
        return _run_from_store(rank)
    except Exception:
        return hashlib.md5("/".join([*_launch(world), str(_runs_shared)]).encode()).digest()


def _run_from_store(rank: int) -> bytes:
    from datetime import timedelta
    store, key = default_store(), f"{_RUN_KEY}/{_runs_shared}"
    if rank == 0:
        store.set(key, os.urandom(wire.RUN_BYTES).hex())
    store.wait([key], timedelta(seconds=RUN_WAIT_S))
    return bytes.fromhex(store.get(key).decode())


def _launch(world: int) -> List[str]:
    """An identifier of this launch, the same in all its ranks.

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


# -------------------------------------------------------------------------------------- heads

HEADS = 3  # the axis of q, k and v, from behind


def share_of_heads(q: Any, k: Any, v: Any) -> Optional[Share]:
    """The share that DTensors have; None when these are none, or no rank has whole rows of whole heads."""
    placements = getattr(q, "placements", None)
    if placements is None or any(getattr(one, "placements", None) != placements for one in (k, v)):
        return None
    share = Share()
    for count, index, placement in _spread(q):
        if placement.is_replicate():
            continue
        if not placement.is_shard():
            return None
        behind = q.dim() - placement.dim % q.dim()
        if behind == HEADS:
            if any(one.shape[-HEADS] % (share.of * count) for one in (q, k)):
                return None
            share = Share(share.number * count + index, share.of * count)
        elif behind < HEADS:
            return None
    return share


def share_of_weights(modules: Sequence[torch.nn.Module]) -> Share:
    """The share that the weights of an attention make; `modules`: those that run, the innermost last."""
    for weight in _weights_of(modules):
        for count, index, placement in _spread(weight):
            if placement.is_shard(0):
                return Share(index, count)
    return Share()


def why_unknown(seen: Seen, modules: Sequence[torch.nn.Module], given: Any) -> Optional[str]:
    """Why it is not known which heads these are, for people; None: they are all heads of the layer. `given`: the first
    argument of the innermost module."""
    heads, count = heads_of(seen), next(filter(None, map(head_count, reversed(modules[-2:]))), None)
    if count is None or heads >= count or count % heads:
        return None
    told = f"computes {heads} of its {count} heads on each rank"
    length = queries_of(seen)[1]
    if isinstance(given, torch.Tensor) and given.dim() == 3 and length in (size * (count // heads) for size in given.shape[:2]):
        return told
    if isinstance(seen, Queries) and isinstance(given, torch.Tensor) and given.dim() > 1:
        width, features = int(seen.q.shape[3]), int(given.shape[-1])
        # As many as a projection from or to the model's features has, however its axes lie.
        columns = {weight.numel() // features for weight in _weights_of(modules) if weight.numel() % features == 0}
        if columns & {heads * width, 3 * heads * width} and not columns & {count * width, 3 * count * width}:
            return told
    return None


def _weights_of(modules: Sequence[torch.nn.Module]) -> Iterator[torch.Tensor]:
    """Weights of the innermost module that has some. FSDP has shared out again what modules in it hold, which have run."""
    module = next((one for one in reversed(modules) if any(weight.dim() > 1 for weight in one.parameters())), None)
    for part in module.modules() if module is not None else ():
        if part is module or not any(kind.__name__ == "FSDPModule" for kind in type(part).__mro__):
            yield from (weight for weight in part.parameters(recurse=False) if weight.dim() > 1)


def _spread(tensor: Any) -> Iterator[Tuple[int, int, Any]]:
    """(ranks, which of them this is, placement) for each axis of the mesh of a DTensor that has several ranks."""
    mesh: Any = getattr(tensor, "device_mesh", None)
    place = None if mesh is None else mesh.get_coordinate()
    if place is not None:
        for axis, placement in enumerate(tensor.placements):
            if mesh.size(axis) > 1:
                yield mesh.size(axis), place[axis], placement
