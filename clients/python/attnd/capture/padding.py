# SPDX-License-Identifier: MIT
"""padding: which queries of a cross-attention are padding.

The masks of a cross-attention tell of its keys alone. Its queries are the decoder's positions, and what is known of
these is what the decoder's own self-attention was given, earlier in the same forward:

    known      a self-attention of the decoder over as many samples and positions had a mask: a position whose key no
               query may see is padding, and so is the query there (masks.py). Left out or not by the plan, it was seen
    not known  no such self-attention came before, or its kernel was given no mask but a causal one, as models are that
               are called without a mask of the decoder's padding. Then nothing is sent: that a token number stands for
               padding is a guess

The first such self-attention of a forward counts, and its mask alone is kept. The training thread copies it when the
first cross-attention follows, once for all of them; the sender thread works out what it says.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Tuple, Union

import numpy as np

from ..base.masks import Visibility
from ..base.plan import Samples


class Present:
    """Which positions of the decoder are no padding, of `samples`. `find` gives them as bool [B, T], and is called once, on the
    sender thread; `nbytes`: of the copies that it holds; `valid`: the same as a tensor on an accelerator, if it has been
    worked out there, [B or 1, T]."""

    def __init__(self, nbytes: int, samples: Samples, find: Callable[[], np.ndarray], valid: Any = None):
        self.nbytes = nbytes
        self._samples = samples
        self._valid = valid
        self._find: Optional[Callable[[], np.ndarray]] = find
        self._found: Any = None

    def at(self, positions: np.ndarray, samples: Samples) -> np.ndarray:
        """bool [B, rows]: of the queries of these samples at these positions."""
        if self._find is not None:
            self._found, self._find = self._find(), None
        return np.asarray(self._found[self._where(samples)][:, positions])

    def valid(self, samples: Samples) -> Any:
        """The tensor on an accelerator, of these samples [B, T]; None: there is none."""
        if self._valid is None:
            return None
        return self._valid.expand(samples.taken, -1) if self._valid.shape[0] == 1 else self._valid[self._where(samples)]

    def has(self, samples: Samples) -> bool:
        """Whether it is of these samples, too."""
        mine = range(self._samples.of)[self._samples.rows]
        return samples.of == self._samples.of and all(row in mine for row in range(samples.of)[samples.rows])

    def _where(self, samples: Samples) -> slice:
        mine, wanted = range(self._samples.of)[self._samples.rows], range(samples.of)[samples.rows]
        return slice(mine.index(wanted[0]), mine.index(wanted[-1]) + 1, max(1, wanted.step // mine.step))


Look = Callable[[], Optional[Present]]


class DecoderPadding:
    """The padding that the forward that runs has told so far."""

    def __init__(self) -> None:
        self._told: Dict[Tuple[int, int], Union[Look, Optional[Present]]] = {}  # by samples and positions

    def tell(self, size: Tuple[int, int], prepare: Callable[[], Optional[Look]]) -> None:
        """A self-attention of the decoder was computed over `size`: samples, positions. `prepare` returns
        the function that finds the padding when a cross-attention of this forward asks; None: there is no mask."""
        if size not in self._told:
            look = prepare()
            if look is not None:
                self._told[size] = look

    def of(self, size: Tuple[int, int], samples: Samples) -> Optional[Present]:
        """The padding of a cross-attention of this size, samples and queries, of which these are taken; None: it is not known."""
        told = self._told.get(size)
        if callable(told):
            told = self._told[size] = told()
        return told if told is not None and told.has(samples) else None

    def forget(self) -> None:
        """The forward is done."""
        self._told = {}


def valid_queries(visibility: Visibility, shape: Tuple[int, int]) -> np.ndarray:
    """bool [B, Tq]: the queries of self-attention that are no padding."""
    valid = np.ones(shape, dtype=bool)
    if visibility.q_len is not None:
        valid &= np.arange(shape[1]) < visibility.q_len[:, None]
    if visibility.mask is not None:
        valid &= np.asarray(visibility.mask.any(axis=2))
    return valid


def with_queries(visibility: Visibility, valid: np.ndarray, keys: int) -> Visibility:
    """The visibility of these queries, bool [B, rows], alone: by a length, else by the mask, which leaves the others none."""
    if valid.all():
        return visibility
    lengths = valid.sum(axis=1).astype(np.int32)
    if (valid == (np.arange(valid.shape[1]) < lengths[:, None])).all():
        return visibility._replace(q_len=lengths)
    mask = np.ones((*valid.shape, keys), dtype=bool) if visibility.mask is None else visibility.mask
    return visibility._replace(mask=np.asarray(mask & valid[:, :, None]))
