# SPDX-License-Identifier: MIT
"""compiling: ways in which models are compiled, and what torch has compiled."""
from __future__ import annotations

from typing import Any, Iterator, Tuple

import pytest
import torch
from torch._dynamo.utils import counters


def whole(model: torch.nn.Module, **options: Any) -> Any:
    """As one graph."""
    return torch.compile(model, fullgraph=True, **options)


def regional(model: Any, **options: Any) -> Any:
    """Each block, as torchtitan does: they share code."""
    for block in model.blocks:
        block.compile(fullgraph=True, **options)
    return model


def forget() -> None:
    """What is compiled."""
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture(autouse=True)
def from_anew() -> Iterator[None]:
    """For modules that import it: nothing is compiled yet."""
    forget()
    yield
    forget()


def compilations() -> Tuple[int, int]:
    """How many graphs there are, and breaks in them."""
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
