# SPDX-License-Identifier: MIT
"""layers: which attention of the model a module is, judged by its path.

    stack   the last path component with 'encoder' or 'decoder' in it decides; without one: decoder
    layer   the last number in the path; 0 without one
    site    'cross' after that number (anywhere, without one): cross; 'multihead_attn' next to another
            attention of the same parent, as in torch's TransformerDecoderLayer: cross; otherwise self

    encoder.layers.3.self_attn       encoder 3 self
    decoder.layers.0.multihead_attn  decoder 0 cross
    blocks.5.attn                    decoder 5 self

When two modules of one stack and site get the same number, all modules of that stack and site are numbered
0, 1, ... in the model's order instead. What the user names by path is kept as named.
"""
from __future__ import annotations

import re
from typing import Dict, List, Mapping, Optional, Sequence

from .wire import LAYER_MAX, Layer, check_layer


def name_layers(paths: Sequence[str], named: Optional[Mapping[str, Sequence]] = None,
                stack: Optional[str] = None) -> Dict[str, Layer]:
    """{path: (stack, layer, site)} for the module paths, in their order; no two are equal.

    `named` overrides single paths, `stack` the stack of all others. ValueError when `named` has an unknown
    path, a bad layer, or the same layer twice.
    """
    fixed = {path: check_layer(*layer) for path, layer in (named or {}).items()}
    unknown = [path for path in fixed if path not in paths]
    if unknown:
        raise ValueError(f"layers: no attention module at {unknown[0]!r}; there are: {', '.join(paths)}")
    if len(set(fixed.values())) != len(fixed):
        raise ValueError("layers: the same layer is named twice")
    guessed = {path: guess_layer(path, paths) for path in paths if path not in fixed}
    if stack is not None:
        check_layer(stack, 0, "self")
        guessed = {path: (stack, layer, site) for path, (_, layer, site) in guessed.items()}
    resolved = {**fixed, **_without_collisions(guessed, set(fixed.values()))}
    return {path: resolved[path] for path in paths}


def guess_layer(path: str, paths: Sequence[str] = ()) -> Layer:
    """(stack, layer, site) of one path; `paths` are those of all attention modules of the model."""
    parts = path.lower().split(".")
    numbered = [i for i, part in enumerate(parts) if re.search(r"\d+$", part)]
    number = int(re.search(r"\d+$", parts[numbered[-1]]).group()) if numbered else 0
    tail = parts[numbered[-1] + 1:] if numbered and numbered[-1] + 1 < len(parts) else parts
    return _stack(parts), min(number, LAYER_MAX), _site(path, tail, paths)


def _stack(parts: Sequence[str]) -> str:
    for part in reversed(parts):
        at = {name: part.rfind(name) for name in ("encoder", "decoder")}
        if max(at.values()) >= 0:
            return max(at, key=at.get)
    return "decoder"


def _site(path: str, tail: Sequence[str], paths: Sequence[str]) -> str:
    if any("cross" in part for part in tail):
        return "cross"
    parent, _, leaf = path.rpartition(".")
    siblings = [other for other in paths if other != path and other.rpartition(".")[0] == parent]
    return "cross" if "multihead_attn" in leaf.lower() and siblings else "self"


def _without_collisions(guessed: Dict[str, Layer], taken: set) -> Dict[str, Layer]:
    groups: Dict[tuple, List[str]] = {}
    for path, (stack, _, site) in guessed.items():
        groups.setdefault((stack, site), []).append(path)
    result = {}
    for (stack, site), members in groups.items():
        layers = [guessed[path] for path in members]
        if len(set(layers)) < len(layers) or taken & set(layers):
            free = (n for n in range(LAYER_MAX + 1) if (stack, n, site) not in taken)
            layers = [(stack, next(free), site) for _ in members]
        result.update(zip(members, layers))
    return result
