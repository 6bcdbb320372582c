# SPDX-License-Identifier: MIT
"""shards: the rows of a matrix that this rank has, of one that FSDP2 shares out (a DTensor), without a collective call.

torch cuts dimension 0 into chunks of ceil(rows / ranks) rows; the last ranks may have fewer, or none. The first of the
ranks that have the same rows sends them. attnd puts the rows together.
"""
from __future__ import annotations

from typing import Any, Iterable, Iterator, NamedTuple, Tuple

import numpy as np
import torch


class Shard(NamedTuple):
    """A part of a matrix of `shape`: its rows from `first` on, as the matrix is stored. `most`: rows that a rank has at
    most. `sent`: whether this rank sends it. `identity` is equal for parts of one matrix only."""
    shape: Tuple[int, int]
    first: int
    most: int
    sent: bool
    identity: int


def is_sharded(weight: Any) -> bool:
    """Whether it is a DTensor, of which this rank may have a part."""
    return "DTensor" in type(weight).__name__


def shard_of(weight: Any) -> Tuple[torch.Tensor, Shard]:
    """The rows that this rank has of a DTensor. ValueError when it is not cut by rows, as a clause."""
    spread = [i for i, placement in enumerate(weight.placements) if type(placement).__name__ == "Shard" and placement.dim == 0]
    others = [i for i in range(len(weight.placements)) if i not in spread]
    if weight.dim() != 2 or len(spread) > 1 or not all(type(weight.placements[i]).__name__ == "Replicate" for i in others):
        raise ValueError(f"is sharded in another way than by rows ({', '.join(map(str, weight.placements))})")
    with torch.no_grad():
        local = weight.to_local()
    rows, columns = (int(n) for n in weight.shape)
    ranks = weight.device_mesh.size(spread[0]) if spread else 1
    most = -(-rows // ranks)
    place = weight.device_mesh.get_coordinate()
    if place is None:
        return local, Shard((rows, columns), 0, most, False, id(weight))
    first = min(rows, most * place[spread[0]]) if spread else 0
    here = min(most, rows - first)
    if local.numel() != here * columns:
        raise ValueError(f"is sharded in uneven rows, of which this process has {local.numel() // columns}")
    return local, Shard((rows, columns), first, most, here > 0 and all(place[i] == 0 for i in others), id(weight))


def blocks(whole: Iterable[Tuple[str, np.ndarray]], array: np.ndarray, at: Tuple[int, int]
           ) -> Iterator[Tuple[str, Tuple[int, int], np.ndarray]]:
    """(name, row and column where it begins, numbers) of what a block of a matrix has of others that the matrix consists
    of: `whole` gives the name of each, and the rows in the matrix that are its own, ascending. The block begins `at`."""
    for name, rows in whole:
        here = (rows >= at[0]) & (rows < at[0] + len(array))
        if here.any():
            yield name, (int(np.argmax(here)), at[1]), array[rows[here] - at[0]]
