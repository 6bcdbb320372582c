# SPDX-License-Identifier: MIT
"""layers: which attention of the model a module is, judged by its path, and where that says nothing by its first call.

    stack   the last path component with 'encoder' or 'decoder' in it decides; without one: encoder, where queries of
            self-attention see later keys, in all layers whose paths differ by numbers alone, and no cross-attention is beside
            it, as in a decoder's block; else decoder
    layer   the last number in the path (of `block.3.layer.1`, as T5 has it, the first; of `block.3.attn2` the 3); 0 without one
    site    'cross' after that number (anywhere, without one), or 'encoder_attn', 'encdec', 'enc_dec', 'src_attn': cross;
            'multihead_attn' next to another attention of the same parent, as in torch's TransformerDecoderLayer: cross;
            'self' in the last component: self; else cross, where the keys are of another input of the module than the queries
            (forms.sources.reads_other); else self. A sign of cross says nothing about the stack. Self-attention whose rows or
            keys are no positions (forms/standing.py) has site cross, however it is called

    encoder.layers.3.self_attn       encoder 3 self
    decoder.layers.0.multihead_attn  decoder 0 cross
    decoder.layers.0.encoder_attn    decoder 0 cross
    blocks.5.attn                    decoder 5 self when it is causal, else encoder 5 self
    transformer_blocks.0.attn2       decoder 0 cross, in a UNet that is given texts

When two of one stack and site get the same number, all of that stack and site are numbered 0, 1, ... in the order in
which they run instead. Names that the user gives by path stay, and so do those that are there already. The path may be of a
module around an attention: the first one in it has the name.

A module that attends several times in one forward has several: "blocks.0", "blocks.0#1", ...
"""
from __future__ import annotations

import re
from collections import Counter
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..base.wire import LAYER_MAX, Layer


class Shown(NamedTuple):
    """Facts of a call; None: nothing tells. `cross`: keys and values are of another input than the queries. `ahead`: queries
    see keys behind their own, a bool, or until it is read a tensor of one. `apart`: rows or keys are no positions of one sequence."""
    cross: Optional[bool] = None
    ahead: Any = None
    apart: bool = False


def name_layers(paths: Sequence[str], named: Optional[Mapping[str, Layer]] = None,
                stack: Optional[str] = None, reserved: Sequence[Layer] = (),
                shown: Optional[Mapping[str, Shown]] = None) -> Dict[str, Layer]:
    """{path: (stack, layer, site)} for the module paths, in their order; no two are equal.

    `named` overrides single paths, `stack` the stack of all others; `reserved` are given to none; `shown`: by path, what calls
    showed. The arguments are taken as checked: see names.check_names().
    """
    fixed = named or {}
    parents = _parents(paths)
    guessed = {path: _guess(path, parents, (shown or {}).get(path, Shown())) for path in paths if path not in fixed}
    if stack is not None:
        guessed = {path: (stack, layer, site) for path, (_, layer, site) in guessed.items()}
    decided = {**fixed, **_with_stacks(guessed, shown or {}, fixed)}
    resolved = {**fixed, **_without_collisions({path: decided[path] for path in guessed}, {*fixed.values(), *reserved})}
    return {path: resolved[path] for path in paths}


def guess_layer(path: str, paths: Sequence[str] = (), shown: Shown = Shown()) -> Layer:
    """(stack, layer, site) of one path; `paths` are those of all attention modules of the model."""
    stack, layer, site = _guess(path, _parents((path, *paths)), shown)
    return stack or "decoder", layer, site


def says_site(path: str) -> bool:
    """Whether the path alone says what its attention reads."""
    return guess_layer(path)[2] == "cross" or "self" in path.lower().rpartition(".")[2]


def _parents(paths: Iterable[str]) -> "Counter[str]":
    """How many attention modules each parent has."""
    return Counter(path.rpartition(".")[0] for path in {path.partition("#")[0] for path in paths})


_Guess = Tuple[Optional[str], int, str]  # a layer whose stack may not be known


def _guess(path: str, parents: Mapping[str, int], shown: Shown) -> _Guess:
    path = path.partition("#")[0]
    parts = _SUBLAYER.sub(r"\1", path.lower()).split(".")
    numbered = [(i, match) for i, match in enumerate(re.search(r"\d+$", part) for part in parts) if match]
    if len(numbered) > 1 and not parts[-1].isdigit():
        numbered = [each for each in numbered if each[0] < len(parts) - 1]
    last, number = (numbered[-1][0], int(numbered[-1][1].group())) if numbered else (-1, 0)
    tail = parts[last + 1:] or parts
    return _stack(parts), min(number, LAYER_MAX), _site(path, tail, parents, shown)


def _with_stacks(guessed: Mapping[str, _Guess], shown: Mapping[str, Shown], fixed: Mapping[str, Layer]) -> Dict[str, Layer]:
    """With a stack for those that have none by their paths: one for all whose paths differ by numbers alone."""
    alone = {path for path, one in shown.items() if one.apart}  # no cross-attention but by name
    beside_cross = {path.rpartition(".")[0] for path, (_, _, site) in (*guessed.items(), *fixed.items()) if site == "cross" and path not in alone}
    sees_ahead: Dict[str, List[Optional[bool]]] = {}
    known = {_kind(path): stack for path, (stack, _, site) in fixed.items() if site == "self"}
    for path, (_, _, site) in guessed.items():
        ahead = shown.get(path, Shown()).ahead and (site == "self" or path in alone) and path.rpartition(".")[0] not in beside_cross
        sees_ahead.setdefault(_kind(path), []).append(ahead)

    def stack_of(path: str) -> str:
        found = {ahead for ahead in sees_ahead[_kind(path)] if ahead is not None}
        return known.get(_kind(path)) or ("encoder" if found == {True} else "decoder")

    return {path: (stack or stack_of(path), layer, site) for path, (stack, layer, site) in guessed.items()}


def _kind(path: str) -> str:
    """The path without its numbers, and without that of a call."""
    return re.sub(r"\d+", "*", path.partition("#")[0])


_SUBLAYER = re.compile(r"(\bblocks?\.\d+)\.layer\.\d+")
_OF_ENCODER = re.compile(r"encoder_?att|enc_?dec|enc_att|src_att")
_CROSS = re.compile(rf"cross|{_OF_ENCODER.pattern}")


def _stack(parts: Sequence[str]) -> Optional[str]:
    for part in (part for part in reversed(parts) if not _OF_ENCODER.search(part)):
        at = {name: part.rfind(name) for name in ("encoder", "decoder")}
        if max(at.values()) >= 0:
            return max(at, key=lambda name: at[name])
    return None


def _site(path: str, tail: Sequence[str], parents: Mapping[str, int], shown: Shown) -> str:
    if any(_CROSS.search(part) for part in tail):
        return "cross"
    leaf = path.lower().rpartition(".")[2]
    if shown.apart:
        return "cross"
    if "multihead_attn" in leaf and parents[path.rpartition(".")[0]] > 1:
        return "cross"
    return "cross" if shown.cross and "self" not in leaf else "self"


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
