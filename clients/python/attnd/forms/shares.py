# SPDX-License-Identifier: MIT
"""shares: which of a layer's heads this rank computes, when ranks share them out and nobody has said so:

    DTensors            queries, keys and values sharded along their heads: the mesh tells which part this is. Along the
                        sequence no rank has a whole row of weights, so there is nothing to capture
    weights             a parameter of the module sharded along its rows (ColwiseParallel): its heads are sharded alike,
                        although queries and keys are plain tensors
    plain tensors       fewer heads than the module says it has, while its weights make no more, or each over more positions
                        than the module was given (Ulysses): which ones they are is not known
"""
from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional, Sequence, Tuple, Union

import torch

from ..base.paths import clean_path
from .judge import head_count
from .seen import Queries, Seen, Share, heads_of, queries_of

if TYPE_CHECKING:
    from .spy import Entered

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


class ShareUnknown(Exception):
    """It is not known which heads this rank computes, and why."""


class Shares:
    """The shares of the attentions of one model. `told`: by the user, or all heads; `world`: the ranks of the job."""

    def __init__(self, root: torch.nn.Module, told: Share, world: int):
        self._root = root
        self._told = told
        self._world = world
        self._found: Dict[str, Union[Share, str]] = {}  # by path, for good: the share, or why it is not known

    def of(self, path: str, seen: Seen, entered: Sequence["Entered"]) -> Share:
        """The share of a call at `path`; `entered`: the modules that run, the innermost last. ShareUnknown: why not."""
        own = seen.share if isinstance(seen, Queries) else None
        if self._told.of > 1:
            return self._told
        if own is not None or self._world == 1:
            return own or self._told
        if path not in self._found:
            self._found[path] = self._look(path, seen, entered)
        found = self._found[path]
        if isinstance(found, str):
            raise ShareUnknown(found)  # a new one: each keeps the frames that it has gone through
        return found

    def _look(self, path: str, seen: Seen, entered: Sequence["Entered"]) -> Union[Share, str]:
        modules = [one.module for one in entered] or [
            module for name, module in self._root.named_modules()  # the one at the path, after those that it is in
            if f"{path.partition('#')[0]}.".startswith(f"{clean_path(name)}." if name else "")]
        share = _share_of_weights(modules)
        why = _why_unknown(seen, modules, entered[-1].first if entered else None) if share == Share() else None
        return share if why is None else why


def _share_of_weights(modules: Sequence[torch.nn.Module]) -> Share:
    """The share that the weights of an attention make; `modules`: those that run, the innermost last."""
    for weight in _weights_of(modules):
        for count, index, placement in _spread(weight):
            if placement.is_shard(0):
                return Share(index, count)
    return Share()


def _why_unknown(seen: Seen, modules: Sequence[torch.nn.Module], given: Any) -> Optional[str]:
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
