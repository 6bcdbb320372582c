# SPDX-License-Identifier: MIT
"""names: the names of the attentions of one model, (stack, layer, site), by the paths of their modules."""
from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

import torch

from ..base import torch_state, wire
from ..base.paths import clean_path
from .layers import Shown, guess_layer, name_layers


def check_names(root: torch.nn.Module, layers: Optional[Mapping[str, Sequence[Any]]], stack: Optional[str]) -> None:
    """ValueError for names that no attention of the model can have."""
    if stack is not None:
        wire.check_layer(stack, 0, "self")
    paths = {clean_path(path) for path, _ in root.named_modules()}
    if layers is not None and not isinstance(layers, Mapping):
        raise ValueError(f"layers: must map module paths to (stack, layer, site), not be a {type(layers).__name__}")
    given = {path: _layer_of(path, layer) for path, layer in (layers or {}).items()}
    for path in given:
        if path.partition("#")[0] not in paths:
            near = [known for known in sorted(paths - {""}) if "att" in known.lower()] or sorted(paths - {""})
            raise ValueError(f"layers: no module at {path!r}; there are: {', '.join(near[:12])}")
    if len(set(given.values())) != len(given):
        raise ValueError("layers: the same layer is named twice")


def _layer_of(path: str, layer: Any) -> wire.Layer:
    if not isinstance(layer, (tuple, list)) or len(layer) != 3:
        raise ValueError(f"layers: {path!r}: {layer!r} is not (stack, layer, site), as in ('decoder', 3, 'self')")
    return wire.check_layer(*layer)


class Names:
    """The names of attentions by module path, in the order in which they were first seen."""

    def __init__(self, given: Mapping[str, Sequence[Any]], stack: Optional[str]):
        self.given = {path: wire.check_layer(*layer) for path, layer in given.items()}
        self._stack = stack
        self._shown: Dict[str, Shown] = {}  # of those without a name
        self.layers: Dict[str, wire.NamedLayer] = {}
        self.crosses: List[wire.NamedLayer] = []  # those of cross-attention
        self._heads: Dict[str, int] = {}
        self._holders: Dict[str, str] = {}  # the attention that has a given name, by the path that it was given for

    def given_to(self, path: str) -> Optional[wire.Layer]:
        """The name that was given to an attention, or to a module around it, of whose attentions the first seen has it."""
        around = self._given_at(path)
        return None if around is None else self.given[around]

    def _given_at(self, path: str) -> Optional[str]:
        around: Optional[str] = path if self.given else None
        while around is not None and (around not in self.given or self._holders.get(around, path) != path):
            around = around.partition("#")[0].rpartition(".")[0] if around else None
        return around

    def knows(self, path: str) -> bool:
        """Whether nothing has to be noted of it. A name that was given for it, or around it, is its own until add()."""
        around = self._given_at(path)
        if around is not None:
            self._holders.setdefault(around, path)
        return path in self.layers or path in self._shown or around is not None

    def note(self, path: str, shown: Shown) -> None:
        """Notes what an attention shows, for its name. A tensor in it is read when it gets that."""
        self._shown[path] = shown

    def add(self, found: Sequence[Tuple[str, int]]) -> bool:
        """Names new ones, given with their heads; what has a name keeps it. Whether there were any."""
        new = {path: heads for path, heads in found if path not in self.layers}
        self._heads.update(new)
        paths = [*self.layers, *new]
        kept: Dict[str, wire.Layer] = {**self.layers}
        self._holders = {around: path for around, path in self._holders.items() if path in self.layers}
        for path in sorted(new, key=lambda path: path not in self.given):  # before those within it
            around = self._given_at(path)
            if around is not None:
                self._holders[around], kept[path] = path, self.given[around]
        reserved = [layer for path, layer in self.given.items() if path not in self._holders]
        with torch_state.outside_modes():  # waits for the device, once: a mask on it that a layer's first call had is read
            shown = {path: one._replace(ahead=None if one.ahead is None else bool(one.ahead)) for path, one in self._shown.items()}
        self._shown = {}
        self.layers = {path: wire.NamedLayer(*layer, wire.clean_module(path))
                       for path, layer in name_layers(paths, kept, self._stack, reserved, shown).items()}
        self.crosses = [layer for layer in self.layers.values() if layer[2] == "cross"]
        return bool(new)

    def stack_of(self, path: str) -> str:
        """The stack that the attention at `path` is of; it may have no name yet."""
        known = self.layers.get(path) or self.given_to(path)
        return known[0] if known is not None else self._stack or guess_layer(path)[0]

    def place_of(self, path: str, others: Iterable[str]) -> wire.Layer:
        """The layer that a path without a name yet will be, as far as it and the others seen tell."""
        given = self.given_to(path)
        if given is not None:
            return given
        stack, layer, site = guess_layer(path, tuple(others), self._shown.get(path, Shown()))
        return self._stack or stack, layer, site

    def site_of(self, path: str) -> str:
        """The site of the attention at `path`, as far as the path tells."""
        return (self.given_to(path) or guess_layer(path))[2]

    def described(self) -> List[Tuple[Any, ...]]:
        """The contents of a hello: (stack, layer, site, heads, module) of each."""
        return [(*layer, self._heads[path], layer.module) for path, layer in self.layers.items()]
