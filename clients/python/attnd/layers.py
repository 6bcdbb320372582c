# SPDX-License-Identifier: MIT
"""layers: which attention of the model a module is, judged by its path.

    stack   the last path component with 'encoder' or 'decoder' in it decides; without one: decoder
    layer   the last number in the path (of `block.3.layer.1`, as T5 has it, the first); 0 without one
    site    'cross' after that number (anywhere, without one), or 'encoder_attn', 'encdec', 'enc_dec', 'src_attn': cross;
            'multihead_attn' next to another attention of the same parent, as in torch's TransformerDecoderLayer: cross;
            otherwise self. A sign of cross says nothing about the stack

    encoder.layers.3.self_attn       encoder 3 self
    decoder.layers.0.multihead_attn  decoder 0 cross
    decoder.layers.0.encoder_attn    decoder 0 cross
    blocks.5.attn                    decoder 5 self

When two of one stack and site get the same number, all of that stack and site are numbered 0, 1, ... in the order in
which they run instead. Names that the user gives by path stay, and so do those that are there already.

A module that attends several times in one forward has several: "blocks.0", "blocks.0#1", ...
"""
from __future__ import annotations

import re
from collections import Counter
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from .wire import LAYER_MAX, Layer, check_layer


def name_layers(paths: Sequence[str], named: Optional[Mapping[str, Sequence[Any]]] = None,
                stack: Optional[str] = None, reserved: Sequence[Layer] = ()) -> Dict[str, Layer]:
    """{path: (stack, layer, site)} for the module paths, in their order; no two are equal.

    `named` overrides single paths, `stack` the stack of all others; `reserved` are given to none. ValueError
    when `named` has an unknown path, a bad layer, or the same layer twice.
    """
    fixed = {path: check_layer(*layer) for path, layer in (named or {}).items()}
    known = set(paths)
    unknown = [path for path in fixed if path not in known]
    if unknown:
        raise ValueError(f"layers: no attention module at {unknown[0]!r}; there are: {', '.join(paths)}")
    if len(set(fixed.values())) != len(fixed):
        raise ValueError("layers: the same layer is named twice")
    parents = Counter(path.rpartition(".")[0] for path in {path.partition("#")[0] for path in paths})
    guessed = {path: _guess(path, parents) for path in paths if path not in fixed}
    if stack is not None:
        check_layer(stack, 0, "self")
        guessed = {path: (stack, layer, site) for path, (_, layer, site) in guessed.items()}
    resolved = {**fixed, **_without_collisions(guessed, {*fixed.values(), *reserved})}
    return {path: resolved[path] for path in paths}


def guess_layer(path: str, paths: Sequence[str] = ()) -> Layer:
    """(stack, layer, site) of one path; `paths` are those of all attention modules of the model."""
    plain = {other.partition("#")[0] for other in (path, *paths)}
    return _guess(path, Counter(other.rpartition(".")[0] for other in plain))


def _guess(path: str, parents: Mapping[str, int]) -> Layer:
    """`parents`: how many attention modules each parent has."""
    path = path.partition("#")[0]
    parts = _SUBLAYER.sub(r"\1", path.lower()).split(".")
    numbered = [(i, match) for i, match in enumerate(re.search(r"\d+$", part) for part in parts) if match]
    last, number = (numbered[-1][0], int(numbered[-1][1].group())) if numbered else (-1, 0)
    tail = parts[last + 1:] or parts
    return _stack(parts), min(number, LAYER_MAX), _site(path, tail, parents)


_SUBLAYER = re.compile(r"(\bblocks?\.\d+)\.layer\.\d+")
_OF_ENCODER = re.compile(r"encoder_?att|enc_?dec|enc_att|src_att")
_CROSS = re.compile(rf"cross|{_OF_ENCODER.pattern}")


def _stack(parts: Sequence[str]) -> str:
    for part in (part for part in reversed(parts) if not _OF_ENCODER.search(part)):
        at = {name: part.rfind(name) for name in ("encoder", "decoder")}
        if max(at.values()) >= 0:
            return max(at, key=lambda name: at[name])
    return "decoder"


def _site(path: str, tail: Sequence[str], parents: Mapping[str, int]) -> str:
    if any(_CROSS.search(part) for part in tail):
        return "cross"
    parent, _, leaf = path.rpartition(".")
    return "cross" if "multihead_attn" in leaf.lower() and parents[parent] > 1 else "self"


def _without_collisions(guessed: Dict[str, Layer], taken: Set[Layer]) -> Dict[str, Layer]:
    groups: Dict[Tuple[str, str], List[str]] = {}
    for path, (stack, _, site) in guessed.items():
        groups.setdefault((stack, site), []).append(path)
    result: Dict[str, Layer] = {}
    for (stack, site), members in groups.items():
        layers = [guessed[path] for path in members]
        if len(set(layers)) < len(layers) or taken & set(layers):
            free = (n for n in range(LAYER_MAX + 1) if (stack, n, site) not in taken)
            layers = [(stack, next(free), site) for _ in members]
        result.update(zip(members, layers))
    return result
