# SPDX-License-Identifier: MIT
"""ranks: which process of how many this is, and the name that all of them have for this start of the job."""
from __future__ import annotations

import hashlib
import os
from typing import Any, List, Optional, Tuple

import torch

from . import wire
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
