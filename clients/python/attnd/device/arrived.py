# SPDX-License-Identifier: MIT
"""arrived: what was computed for a capture, made into the sums of rows on the host (sending/rows.py), by the sender thread."""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch

from ..sending.rows import PLACES, Rows
from . import launch, pooled, reference
from .parcel import ALL, Key
from .problem import Problem, norms
from .problem import Rows as RowNumbers
from .sums import COLUMNS, FEW_COLUMNS, LOCAL_WINDOW, POWERS, TOKEN_COLUMNS, visible_keys
from .visible import Known, first_of_blocks, first_of_documents, known, placed, visible_keys_of

BY_MASK = ("with_first", "seen", "farthest")  # columns that are places where heads do not differ
CHECKED = ("entropy", "confidence", "local_mass", "mean_distance", "first_token", "max_logit")


@dataclass(frozen=True)
class Said:
    """Makes the meaning of mask and padding of what was found of them, there or on the host: `looked` of the mask, `tokens`,
    how many positions documents have, `present` of the rows. The queries are `count`, every `stride`th, or `rows` of them, and
    end before position `after`."""
    first: int
    after: int
    keys: int
    count: int
    causal: bool
    cross: bool
    shared: bool
    rows: Optional[np.ndarray] = field(default=None, compare=False)
    stride: int = 1

    def __call__(self, facts: Dict[str, torch.Tensor]) -> Known:
        device = next(iter(facts.values())).device
        at = torch.arange(self.count, device=device) * self.stride if self.rows is None else torch.from_numpy(self.rows)
        causal = torch.full((), self.causal, device=device)
        if "tokens" in facts:
            end = facts["tokens"].long()
            found = Known(at[None] < end[:, None], end, causal, end)
        else:
            end = torch.full((1,), min(self.keys, self.after), device=device)
            found = Known(at[None] < self.after, end, causal, torch.full_like(end, self.keys))
        if "looked" in facts:
            found = known(facts["looked"], self.first + at, self.after, self.keys, self.cross, self.shared)
        return found._replace(valid=found.valid & facts["present"]) if "present" in facts else found


class Again(NamedTuple):
    """Rows of a head of a sample that were computed again: f64 [2, metrics, rows], their numbers, and how far products in f32
    may put a logit of the row off: 2^-21 of the lengths of its vectors."""
    sample: int
    head: int
    rows: Sequence[int]
    numbers: torch.Tensor


class Placed(NamedTuple):
    """Where rows stand: PLACES, int32 [8, B or 1, R]; how many keys of each sample are no padding, [B or 1], None: all; whether
    the mask is a causal bound, None: there is none."""
    places: np.ndarray
    keys: Optional[np.ndarray]
    causal: Optional[bool]


class Computed(NamedTuple):
    """A capture that was launched: tensors on the device by their block of heads and name; the problems of the blocks, without tensors;
    what makes the meaning of mask and padding, if there is either; the rows that were taken; and what computed them.

    names     of the columns of the rows; of the kernels those that they leave
    again     of the block that has them, and which that is
    queries   of the call
    packs     it has documents
    weights   the dtype of explicit weights, of which these are
    """
    tensors: Dict[Key, torch.Tensor]
    problems: List[Problem]
    names: Tuple[str, ...]
    said: Optional[Said]
    rows: Optional[np.ndarray]
    backend: Optional[str]
    again: Optional[Tuple[int, Again]]
    queries: int
    powers: bool
    packs: bool
    causal: bool
    q_offset: int
    weights: Optional[str] = None
    sink: bool = False


def arrived(made: Computed, here: Dict[Key, np.ndarray], last: Deque[Any]) -> Tuple[Optional[np.ndarray], Rows]:
    """The rows that were computed again, f64 [3, CHECKED, rows]: as found, as expected, and how far off they may be, if there are
    any; and all. `last`: where the rows of the captures before this one stand, which most layers of a forward share."""
    facts = {name: torch.from_numpy(one) for (block, name), one in here.items() if block == ALL}
    if made.weights is not None:
        sums = here[0, "rows"].copy()
        assert made.said is not None
        placed = Placed(here[0, "places"].copy(), None, bool(facts["causal"]))
        keys, lengths = made.said.keys, None
    else:
        parts = [_of_block(made, p, number, here) for number, p in enumerate(made.problems)]
        sums = np.concatenate([one for one, _ in parts], 2) if len(parts) > 1 or not parts[0][0].flags.owndata else parts[0][0]
        placed = _placed(made, facts, here.get((0, "places")), last)
        keys, lengths = made.problems[0].keys, _key_lengths(made, [one for _, one in parts], placed.keys)
    found = Rows(made.names, sums, placed.places, made.queries, keys, made.causal if placed.causal is None else placed.causal, lengths,
                 _joined(here, "sinks", 0), made.weights, made.sink, LOCAL_WINDOW, _maps(made, here, keys))
    if made.again is None:
        return None, found
    number, again = made.again
    first_head = sum(p.heads for p in made.problems[:number])
    numbers = _checked(found, again.sample, first_head + again.head, again.rows)
    return np.concatenate([numbers[None], here[number, "again"]]), found


def _of_block(made: Computed, p: Problem, number: int, here: Dict[Key, np.ndarray]) -> Tuple[np.ndarray, np.ndarray]:
    """The columns of a block of heads, and the lengths of its keys."""
    if made.backend != "triton":
        return here[number, "rows"], here[number, "k"]
    shape = (p.batch, p.heads, p.queries)
    of_sums, of_few, of_keys = launch.parts_on_host(p, made.powers, here[number, "left"])
    of_tokens = [here[number, "of tokens"]] if (number, "of tokens") in here else []
    return np.concatenate([*_sent(of_sums.reshape(-1, *shape), made.names), of_few.reshape(-1, *shape), *of_tokens]), of_keys


def _sent(sums: np.ndarray, names: Sequence[str]) -> Tuple[np.ndarray, np.ndarray]:
    """The columns of row_sums without those that are not sent, in two pieces."""
    return sums[:names.index(COLUMNS[8])], sums[8:]


def _key_lengths(made: Computed, parts: List[np.ndarray], keys: Optional[np.ndarray]) -> np.ndarray:
    """The lengths of the keys of all key heads, of each head where blocks differ in how many read one; NaN for padding."""
    found = parts[0].astype(np.float32)
    if len(parts) > 1:
        differ = len({p.group for p in made.problems}) > 1
        found = np.concatenate([np.repeat(one, p.group, 1) if differ else one for one, p in zip(parts, made.problems)], 1)
    if keys is not None:
        found = np.where(np.arange(found.shape[2]) < keys[:, None, None], found, np.float32(math.nan))
    return found


def _joined(here: Dict[Key, np.ndarray], name: str, axis: int) -> Optional[np.ndarray]:
    """The tensors of all blocks, if they have such."""
    found = [one for (_, its), one in here.items() if its == name]
    return np.concatenate(found, axis) if found else None


def _maps(made: Computed, here: Dict[Key, np.ndarray], keys: int) -> Any:
    values, extent = _joined(here, "maps", 0), here.get((0, "extent"))
    if values is None:
        return None
    shown = torch.tensor([0, made.queries, 0, keys], device="cpu") if extent is None else torch.from_numpy(extent)
    return pooled.Pooled(torch.from_numpy(values), shown, made.queries, keys, made.q_offset, 0).read()


def _placed(made: Computed, facts: Dict[str, torch.Tensor], of_rows: Optional[np.ndarray], last: Deque[Any]) -> Placed:
    """`of_rows`: [3, B, R], with_first, seen and farthest, where the backend finds them."""
    p, said = made.problems[0], made.said
    rows = None if made.rows is None else made.rows.tobytes()
    key = (said, rows, None if of_rows is None else of_rows.tobytes(), [(name, one.numpy().tobytes()) for name, one in facts.items()])
    for alike, before, kept in last:
        if alike is p.alike and before == key:
            found: Placed = kept
            return found
    if made.rows is not None:
        p = p.like(None, None, None, None, RowNumbers(torch.from_numpy(made.rows), made.rows))
    found = _find_places(made, p, facts, of_rows)
    last.append((p.alike, key, found))
    return found


def _find_places(made: Computed, p: Problem, facts: Dict[str, torch.Tensor], of_rows: Optional[np.ndarray]) -> Placed:
    meaning = None if made.said is None else made.said(facts)
    at = p.position(torch.arange(p.queries, device="cpu"))
    ends, valid = torch.full((1,), min(p.keys, p.end(p.queries)), device="cpu"), torch.ones(1, len(at), dtype=torch.bool, device="cpu")
    if meaning is not None:
        ends, valid = torch.minimum(ends, meaning.end), meaning.valid
    first = facts["first"].long() if "first" in facts else torch.zeros(1, len(at), dtype=torch.int64, device="cpu")
    if "looked" in facts:
        if not p.cross:
            first = first_of_blocks(facts["looked"], at, valid)
        about = visible_keys_of(facts["looked"], at, first)
    elif of_rows is not None:
        about = tuple(torch.from_numpy(of_rows))
    elif made.packs:
        first = torch.full_like(first, -1)  # as the kernel tells, as well as the others
        about = (torch.zeros_like(first),) * 3
    else:
        about = visible_keys(at[None], p.keys, p.causal, p.window)
    columns = dict(zip(PLACES, (at, ends[:, None], first, *about, valid, facts.get("occurrence", torch.zeros_like(at)))))
    batch = max(one.shape[0] if one.dim() == 2 else 1 for one in columns.values())
    places = np.stack([np.broadcast_to(one.numpy(), (batch, len(at))).astype(np.int32) for one in columns.values()])
    return Placed(places, None if meaning is None else meaning.keys.numpy().copy(), None if meaning is None else bool(meaning.causal))


def names_of_kernel(p: Problem, powers: bool, tokens: bool = False) -> Tuple[str, ...]:
    """The names of the columns that are sent of those that launch.launched() leaves, and with `tokens` launch.of_tokens(): `apart`,
    `seen` and `farthest` are missing where places say it."""
    key = "names", powers, tokens
    if key not in p.alike:
        said = 3 if p.cross or (p.bias is None and p.documents is None) else 2 if p.bias is not None else 0
        p.alike[key] = (*COLUMNS[:8 - said], *COLUMNS[8:], *(POWERS if powers else ()), *FEW_COLUMNS, *(TOKEN_COLUMNS if tokens else ()))
    found: Tuple[str, ...] = p.alike[key]
    return found


def occurrences(tokens: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """`occurrence` of PLACES of the queries at these positions, where key 0 stands apart, i32 [B, Tq]: by integers [B, Tk], on their
    device."""
    first = first_of_documents(tokens, position)
    return ((first < position).int() + 2 * ((first == 0) & (position > 0)).int())


def _checked(found: Rows, sample: int, head: int, rows: Sequence[int]) -> np.ndarray:
    """CHECKED of some rows of a head, f64 [CHECKED, rows]; NaN where a row has no such number."""
    column = {name: found.sums[n, sample, head, list(rows)].astype(np.float64) for n, name in enumerate(found.names)}
    places = dict(zip(PLACES, found.places[:, sample % found.places.shape[1]][:, list(rows)].astype(np.float64)))
    apart = column.get("apart", places["first"])
    aside = np.where(apart < 0, -1 - apart, apart)
    first_key = np.where(places["first"] < 0, aside - (apart < 0), places["first"])
    with np.errstate(all="ignore"):
        top = np.maximum(column["largest"], column["first"])
        share, one = np.exp(column["largest"] - top), np.exp(column["first"] - top)
        z = share * column["total"] + one
        unit, first, p = share / z, one / z, places["position"]
        fall, fall_first = (np.maximum(x - top, -1e3) for x in (column["largest"], column["first"]))
        entropy = np.log(z) - unit * column["weighted"] - unit * column["total"] * fall - first * fall_first
        gap = np.abs(p - aside)
        numbers = (entropy, np.maximum(share, one) / z, unit * column["local"] + np.where(gap <= found.local_window, first, 0),
                   unit * column["distance"] + first * gap, np.where(p > first_key, np.where(aside == first_key, first, 0), np.nan), top)
    return np.where(np.isfinite(top), np.stack(numbers), np.nan)


# ----------------------------------------------------------------------------- of a problem that is there, which is waited for

def of_reference(problem: Problem, whole: bool, queries: int, valid: torch.Tensor) -> Rows:
    """The sums of a problem, by the reference. `whole`: it has all rows of all heads of a layer; `queries` of the attention; `valid`,
    bool [B or 1, Tq]: which are no padding."""
    p = placed(problem)
    columns = {name: one.cpu() for name, one in reference.columns(p, True, whole).items()}
    about = [columns[name][:, 0] for name in BY_MASK]
    if not _differs_by_head(p):
        columns = {name: one for name, one in columns.items() if name not in BY_MASK}
    return _of_problem(p, tuple(columns), torch.stack(list(columns.values())).float().numpy(), norms(p.k).float().cpu(), queries, valid, about)


def of_kernels(problem: Problem, whole: bool, queries: int, valid: torch.Tensor) -> Rows:
    """The same by the kernels."""
    p = placed(problem)
    of_sums, of_few, of_keys = launch.parts_on_host(p, whole, launch.launched(p, whole).cpu().numpy())
    of_sums, of_few = (one.reshape(-1, p.batch, p.heads, p.queries) for one in (of_sums, of_few))
    names = names_of_kernel(p, whole)
    if p.bias is None and p.documents is None:
        sums = np.concatenate([*_sent(of_sums, names), of_few])
    else:
        has_apart = not p.cross
        seen_first = of_sums[5] == (0 if p.first is None else p.first[:, None].cpu().numpy()) if has_apart else of_sums[5] > 0
        sums = np.concatenate([of_sums[:5 + has_apart], of_sums[6:], of_few, seen_first[None].astype(np.float32)])
        names = (*COLUMNS[:5 + has_apart], *COLUMNS[6:], *(POWERS if whole else ()), *FEW_COLUMNS, "with_first")
    ends = torch.full((p.batch, 1), p.keys, device="cpu") if p.k_len is None else p.k_len.cpu().long()[:, None]
    about = visible_keys(p.position(torch.arange(p.queries, device="cpu")).expand(p.batch, -1), ends, p.causal, p.window)
    return _of_problem(p, names, sums, torch.from_numpy(of_keys.copy()), queries, valid, about)


def _differs_by_head(p: Problem) -> bool:
    return p.bias is not None and p.bias.shape[1] > 1


def _of_problem(p: Problem, names: Tuple[str, ...], sums: np.ndarray, lengths: torch.Tensor, queries: int, valid: torch.Tensor,
                about: Sequence[torch.Tensor]) -> Rows:
    at = p.position(torch.arange(p.queries, device="cpu"))
    ends = torch.full((p.batch, 1), p.keys, device="cpu")
    if p.k_len is not None:
        ends = p.k_len.cpu().long()[:, None]
        lengths = lengths.masked_fill((torch.arange(p.keys, device="cpu") >= ends)[:, None], math.nan)
    positions = torch.minimum(ends, torch.as_tensor(p.end(p.queries if p.q_len is None else p.q_len.cpu().long()[:, None]), device="cpu"))
    first = torch.zeros_like(at) if p.first is None else p.first.cpu()
    columns = (at, positions, first, *about, valid.cpu(), torch.zeros_like(at))
    places = np.stack([np.broadcast_to(one.numpy(), (p.batch, p.queries)).astype(np.int32) for one in columns])
    return Rows(names, sums, places, queries, p.keys, p.causal, lengths.numpy(), None if p.sinks is None else p.sinks.float().cpu().numpy(),
                local_window=p.local_window)
