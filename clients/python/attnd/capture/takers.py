# SPDX-License-Identifier: MIT
"""takers: the modules that take what an attention gives, told by the graph that autograd has of the first forward that shows it.

A module takes it when the way back from its first input leads to the output of the attention through what only moves, scales,
gates or norms numbers, through the product with the values where the attention gives weights, and through no layer and no residual.
A product with a parameter, as of 3-D weights by bmm, is a layer. So a gate that is computed of the layer's input beside the
attention takes nothing, and neither does a layer behind a residual. Without gradients nothing tells.
"""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

import torch

from ..forms.graph import (COPYING, NORMING, PICKING, PRODUCTS, REPEATING, SCALING, SHAPING, Edge, back, edge_of, is_weight,
                           operation, through)

SOUGHT_MAX = 4  # attentions whose takers are awaited at a time
NODES_MAX = 128  # of the graph, looked at for one module
_THROUGH = through(SHAPING | COPYING | REPEATING | SCALING | NORMING | PICKING | {"Sum", "CopySlices"})


class Takers:
    """Follows the forward that runs. Every method is called from the training."""

    def __init__(self) -> None:
        self._sought: Dict[str, Tuple[Any, bool]] = {}  # by path of the attention: the node of its output, and whether that is weights
        self._found: Dict[str, List[str]] = {}
        self.settled: Set[str] = set()  # paths of which a whole forward was followed

    def seek(self, path: str, output: Optional[torch.Tensor], is_weights: bool) -> None:
        """The attention at `path` gives this: its weights, or what these make of the values."""
        node = getattr(output, "grad_fn", None)
        if node is not None and path not in self._found:
            self._sought[path], self._found[path] = (node, is_weights), []
            if len(self._sought) > SOUGHT_MAX:
                oldest = next(iter(self._sought))
                del self._sought[oldest]
                if self._found[oldest]:
                    self.settled.add(oldest)
                else:  # a later forward may tell
                    del self._found[oldest]

    @property
    def is_seeking(self) -> bool:
        """Whether entered() is to be told."""
        return bool(self._sought)

    def entered(self, path: str, first: Any) -> None:
        """The module at `path` begins with this input."""
        def before(edge: Edge) -> Sequence[Edge]:
            return () if any(edge[0] is node for node, _ in self._sought.values()) else _THROUGH(edge)

        if isinstance(first, torch.Tensor):
            nodes = [node for node, _ in back([edge_of(first)], NODES_MAX, before)]
            products = [node.next_functions[-2:] for node in nodes if operation(node) in PRODUCTS]
            operands = [edge for pair in products for edge in pair if not any(is_weight(node) for node, _ in pair)]
            factors = [node for node, _ in back(operands, NODES_MAX, before)]
            for attention, (node, is_weights) in self._sought.items():
                if node in nodes or (is_weights and node in factors):
                    self._found[attention].append(path)

    def forward_ends(self) -> None:
        """Nothing more takes anything; the graph is not held on to."""
        self.settled.update(self._sought)
        self._sought = {}

    def of(self, path: str) -> Optional[List[str]]:
        """Paths of the modules that take what the attention at `path` gives, the outer before the inner; None: nothing tells."""
        return self._found.get(path)
