# SPDX-License-Identifier: MIT
"""labels: the texts of a sample's tokens, for people to look at.

The caller's function is called on the sender thread, once for each forward and input that is captured. A failure there
costs only the labels.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..base import wire
from ..base.plan import Samples
from ..sending.devices import HostCopy

Texts = Callable[[List[int]], Any]


def check_labels(given: Any) -> Optional[Texts]:
    """Makes of what watch() was given a function from a list of token numbers to as many texts: that itself, or the text of
    each number, as a sequence or mapping; None for None. ValueError for something else."""
    if given is None or callable(given):
        return given  # type: ignore[no-any-return]
    if isinstance(given, (Sequence, Mapping)) and not isinstance(given, (str, bytes)):
        of_number = given if isinstance(given, Mapping) else dict(enumerate(given))
        return lambda numbers: [of_number.get(number, str(number)) for number in numbers]  # as what stands for padding may have none
    raise ValueError(f"labels: must be a function of token numbers, or the text of each, not {given!r:.60}")


class Labels:
    """The texts of tokens, by a function of check_labels(). `failed` is told when it fails."""

    def __init__(self, texts: Texts, failed: Callable[[str], None]):
        self._texts = texts
        self._failed = failed

    def of(self, tokens: HostCopy, sample: int) -> Optional[List[str]]:
        """The texts of a sample of [B, T], or None. On the sender thread."""
        try:
            numbers = [int(number) for number in tokens.numpy()[sample]]
            texts = [_text(text) for text in self._texts(numbers)]
            if len(texts) != len(numbers):
                raise ValueError(f"labels: {len(texts)} texts of {len(numbers)} tokens")
            return texts
        except Exception:
            self._failed("the tokens could not be labelled")
            return None


class ForwardLabels:
    """The labels of one forward. `tokens` gives what a stack reads, and is asked now."""

    def __init__(self, labels: Labels, tokens: Callable[[str], Optional[HostCopy]]):
        self._labels = labels
        self._tokens = {stack: tokens(stack) for stack in wire.STACKS}
        self._texts: Dict[Tuple[int, int], Optional[List[str]]] = {}  # by the tokens that they are of, and the sample

    def of(self, layer: wire.Layer, keys: int, samples: Samples) -> Optional[List[str]]:
        """The texts of so many keys of the first of these samples; None when they are not the tokens. The keys of cross attention
        are the encoder's."""
        return self._texts_of("encoder" if layer[2] == "cross" else layer[0], keys, samples)

    def of_queries(self, layer: wire.Layer, queries: int, rows: Sequence[int], samples: Samples) -> Optional[List[str]]:
        """The texts of these rows of so many queries of cross attention; None when they are not the tokens."""
        texts = self._texts_of(layer[0], queries, samples)
        return None if texts is None else [texts[row] for row in rows]

    def _texts_of(self, stack: str, count: int, samples: Samples) -> Optional[List[str]]:
        tokens = self._tokens[stack]
        if tokens is None or tokens.shape[1] != count:
            return None
        sample = 0 if tokens.shape[0] == 1 else samples.rows.start
        if tokens.shape[0] not in (1, samples.of):  # of a batch that is folded
            return None
        if (id(tokens), sample) not in self._texts:
            self._texts[id(tokens), sample] = self._labels.of(tokens, sample)
        return self._texts[id(tokens), sample]


def _text(text: Any) -> str:
    """As it can travel: valid UTF-8."""
    raw = text if isinstance(text, bytes) else str(text).encode("utf-8", "replace")
    return raw.decode("utf-8", "replace")
