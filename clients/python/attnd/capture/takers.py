# SPDX-License-Identifier: MIT
"""takers: the modules that take what an attention gives, told by the graph that autograd has of the first forward that shows it.

A module takes it when the way back from its first input leads to the output of the attention through what only moves, scales,
gates or norms numbers, and through no layer and no residual. So a gate that is computed of the layer's input beside the
attention takes nothing, and neither does a layer behind a residual. Without gradients nothing tells.
"""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Set

import torch

SOUGHT_MAX = 4  # attentions whose takers are awaited at a time
NODES_MAX = 128  # of the graph, looked at for one module
_THROUGH = {"View", "UnsafeView", "Reshape", "ReshapeAlias", "Transpose", "T", "Permute", "Unsqueeze", "Squeeze", "Clone",
            "ToCopy", "Copy", "CopySlices", "Expand", "Slice", "Select", "Split", "SplitWithSizes", "Unbind", "Cat", "Stack",
            "Alias", "AsStrided", "Mul", "Div", "NativeDropout", "FusedDropout", "MaskedFill", "Where", "Index",
            "IndexSelect", "Roll", "Flip", "Bmm", "NativeLayerNorm", "NativeGroupNorm", "RmsNorm", "FusedRmsNorm", "Repeat",
            "Sum"}


class Takers:
    """Follows the forward that runs. Every method is called from the training."""

    def __init__(self) -> None:
        self._sought: Dict[str, Any] = {}  # nodes of outputs, by path of the attention
        self._found: Dict[str, List[str]] = {}
        self.settled: Set[str] = set()  # paths of which a whole forward was followed

    def seek(self, path: str, output: Optional[torch.Tensor]) -> None:
        """The attention at `path` gives this."""
        node = getattr(output, "grad_fn", None)
        if node is not None and path not in self._found:
            self._sought[path], self._found[path] = node, []
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
        nodes = [first.grad_fn] if isinstance(first, torch.Tensor) and first.grad_fn is not None else []
        known = {id(node) for node in nodes}
        for node in nodes:  # grows
            attention = next((one for one, output in self._sought.items() if output is node), None)
            if attention is not None:
                self._found[attention].append(path)
            elif type(node).__name__.partition("Backward")[0] in _THROUGH and len(nodes) < NODES_MAX:
                before = [one for one, _ in node.next_functions if one is not None and id(one) not in known]
                known.update(map(id, before))
                nodes.extend(before)

    def forward_ends(self) -> None:
        """Nothing more takes anything; the graph is not held on to."""
        self.settled.update(self._sought)
        self._sought = {}

    def of(self, path: str) -> Optional[List[str]]:
        """Paths of the modules that take what the attention at `path` gives, the outer before the inner; None: nothing tells."""
        return self._found.get(path)
