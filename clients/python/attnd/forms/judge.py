# SPDX-License-Identifier: MIT
"""judge: whether a softmax over [B, H, Tq, Tk] is one of attention.

Routers, codebooks, mixtures and softmaxes over features have such results too. By what is found about one (evidence.py)
in the first forward that is captured:

    multiplied with values that each sample has        attention, when Tq = Tk, or the path says cross, or the path or
                                                       class says attention and its input is no layer's output
    with what all samples share, or each query has     none: a codebook, a mixture
    not multiplied in sight                            attention, when path or class says so, Tq = Tk or cross, its
                                                       input is no layer's output, and nobody looks for its largest

A verdict holds for good, by module and call, so that layers do not come and go. `include` and a module's very path in
`layers` of watch() go before all that, `exclude` before those.

Attention in parts (windows, blocks, landmarks) has no map of all queries and keys: nothing of a module is captured, included
or not, when one of its softmaxes is seen to be a part.

Weights may be laid out [H, B, Tq, Tk]: so they are when the values were cut into heads that way, or when the module
states as many heads as its first axis has, and not as many as its second. They are [B, Tq, H, Tk] when the product with the
values says so, or the module's number of heads does.
"""
from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple, TypeVar

import torch

from .evidence import CHAINED, CHANGED, MIXED, OWN, SHARED, SOME, Findings
from .lead import TOKENS, Lead, Leads, has_heads_in_rows, has_in_rows
from .seen import NotCaptured, Queries, Seen, Weights, keys_of, queries_of
from .standing import Standing, find

HEAD_COUNTS = ("num_heads", "n_heads", "n_head", "num_attention_heads", "nhead", "heads")
_SHORT_COUNTS = ("h", "nheads", "num_head")  # of what is called an attention
SAYS_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
SIGMOID = "sigmoid attention: no softmax, its weights sum to no 1"
_Some = TypeVar("_Some", Queries, Weights)
_REMEDY = "A softmax over [B, H, Tq, Tk] is captured"
_LINEAR = re.compile(r"(Linear|Lightning|Delta|Performer|Rwkv|RWKV\d?|GLA)\w*Att\w*$|DeltaNet$|Performer$|Retention$|(^|\.)linear_attn$")
_STATE_SPACE = re.compile(r"Mamba\d?(Mixer|Layer)?$|SSM$|(^|[a-z])S4D?$|(^|[a-z])S6$|(Rglru|RGLRU)$|(^|\.)mamba\d?$")


class Verdict(NamedTuple):
    """Decided about one softmax. `heads`: stated by its module; `heads_first`: told by the values; `queries`: their axis; `lead`: where
    the heads are, if not in one of two axes of their own."""
    attention: bool
    heads: Optional[int] = None
    heads_first: Optional[bool] = None
    queries: int = 2
    lead: Optional[Lead] = None
    sinks: Tuple[int, int] = (0, 0)  # columns in front and behind that no value belongs to

    def holds(self, seen: Weights) -> bool:
        """Whether it tells where the heads are in this one."""
        return not self.attention or self.lead is None or self.lead.fits(_sizes(seen))


class _Refused(NamedTuple):
    """A softmax that is not captured. `remedy`: how it would be, with the pattern of its path in place of {}."""
    path: str
    kind: str
    reason: str
    remedy: str = ""


class Judge:
    """Judges the modules of one watched model. `include`, `exclude`: patterns; `given`: paths that the user has named
    layers; `site`: that of a path; `counts_heads`: whether the modules state as many heads as this process has."""

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = (), given: Iterable[str] = (),
                 site: Callable[[str], str] = lambda path: "self", counts_heads: bool = True):
        self._include, self._exclude = tuple(include), tuple(exclude)
        self._given = set(given)
        self._site = site
        self._counts_heads = counts_heads
        self._verdicts: Dict[str, Verdict] = {}
        self._leads = Leads()
        self._standings: Dict[Tuple[str, bool], Standing] = {}  # by path and call, and whether there are as many queries as keys
        self._excluded: Dict[str, bool] = {}
        self._shapes: Dict[str, Tuple[int, int]] = {}  # of calls whose layout nothing tells: the first two axes
        self._news: List[str] = []
        self._told: Set[str] = set()  # patterns and paths
        self._refused: Dict[str, List[_Refused]] = {}  # by pattern
        self._others: Dict[str, str] = {}  # by path
        self._beyond: Dict[str, _Refused] = {}  # by path: modules that show a softmax over more axes

    def excludes(self, path: str) -> bool:
        """Whether nothing that this module or call does is captured."""
        if not self._exclude:
            return False
        if path not in self._excluded:
            self._excluded[path] = _matches(self._exclude, path)
        return self._excluded[path]

    def known(self, path: str) -> Optional[Verdict]:
        """The verdict about a call's softmax, if there is one yet."""
        return self._verdicts.get(path)

    def refuses(self, path: str) -> bool:
        """Whether a call's softmax was judged to be no attention."""
        verdict = self._verdicts.get(path)
        return verdict is not None and not verdict.attention

    def arranged(self, path: str, seen: Queries, modules: Sequence[torch.nn.Module], batches: Sequence[int]) -> Queries:
        """[B, H, T, d], however scaled_dot_product_attention was called; see lead.Leads. With where its queries stand."""
        heads = self._heads(modules) or _heads_by_width(modules[-1:], seen)
        standing = self.standing(path, seen)
        if standing.heads > 1:
            raise NotCaptured(has_in_rows(heads or standing.heads * int(seen.k.shape[1]), seen.q.shape, seen.k.shape))
        if seen.called is None or (standing.apart and seen.called[0].dim() == 4):
            return self._placed(path, seen)._replace(called=None)
        return self._placed(path, self._leads.arranged(path, seen, heads, batches))

    def standing(self, path: str, seen: Seen) -> Standing:
        """Where the queries of an attention stand among its keys, by what autograd noted of a call that it recorded."""
        key = (path, queries_of(seen)[1] == keys_of(seen))
        if key not in self._standings:
            found = find(seen)
            if found is None:
                return Standing()
            self._standings[key] = found
        return self._standings[key]

    def _placed(self, path: str, seen: _Some) -> _Some:
        """With the keys that are behind those of its queries, where these are not the last ones."""
        offset, before = self.standing(path, seen).offset, keys_of(seen) - queries_of(seen)[1]
        return seen if seen.extra or before < 1 or offset in (None, before) else seen._replace(extra=before - (offset or 0))

    def decide(self, path: str, seen: Weights, modules: Sequence[torch.nn.Module], found: Findings) -> Verdict:
        """Judges a call's softmax for good. `modules`: those that run, the innermost last."""
        sinks = self._sinks(path, seen, found)
        if any(sinks):
            seen, found = seen.of_keys(*sinks), found if found.product != SOME else found._replace(product=OWN)
        heads, shape = self._heads(modules), list(seen.weights.shape)
        queries = 2 if seen.merged else self._axis_of_queries(shape, int(shape[3]), heads, found)
        plain, kind = path.partition("#")[0], type(modules[-1]).__name__
        refused, lead = None, None
        if found.product == CHANGED:
            refused = _Refused(plain, kind, f"its result {shape} is not what is multiplied with the values: {found.changed} comes between",
                               "attnd.publish_attention publishes what is")
        elif self.standing(path, seen).heads > 1 or (not seen.merged and has_heads_in_rows(heads, shape[1], shape[2], shape[3])):
            count = heads or self.standing(path, seen).heads * shape[1]
            refused = _Refused(plain, kind, f"several of the {count} heads of its module are in the rows of one of its result {shape}",
                               _REMEDY)
        elif queries is None:
            refused = _Refused(plain, kind, f"nothing tells the heads of its result {shape} from its queries",
                               "Let the module say num_heads")
        else:
            part = self._part(path, _moved(seen, queries), queries, found)
            if part is not None:
                refused = _Refused(plain, kind, f"it is a part of an attention: its result {shape} {part}")
                self._beyond[plain] = refused
            elif path not in self._given and not _matches(self._include, path):
                reason = self._against(path, _moved(seen, queries), modules, found)
                other = other_attention(plain, modules[-1])
                if reason and other:
                    refused = _Refused(plain, kind, f"its name says {other.partition(':')[0]}, which has no weights for queries and keys",
                                       "If the name is wrong, pass include={} to attnd.watch")
                elif reason:
                    refused = _Refused(plain, kind, reason, "If it is attention, pass include={} to attnd.watch")
                if refused is not None and seen.merged and heads is None:
                    self._verdicts[path] = Verdict(False)  # as most of such shapes are: nothing is to be said
                    return self._verdicts[path]
            if refused is None:
                if self.standing(path, seen).apart and not seen.merged:  # values that are made of several positions tell no heads
                    found = found._replace(lead=lambda heads: None)
                lead, why = self._lead(seen, heads, queries, found)
                if why is not None:
                    refused = _Refused(plain, kind, why, _REMEDY if heads is not None or not _is_recorded(seen) else
                                       f"Let the module say how many heads, as module.num_heads = 8 does. {_REMEDY}")
        verdict = self._verdicts[path] = Verdict(refused is None, heads, found.heads_first, 2 if queries is None else queries, lead,
                                                sinks)
        if refused is not None:
            self._refuse(refused)
        return verdict

    def _sinks(self, path: str, seen: Weights, found: Findings) -> Tuple[int, int]:
        """How many columns in front and behind are no keys: no value belongs to them, or a constant zero does. Where there are as many
        queries as columns, all are of keys: some were left out."""
        queries, columns = int(seen.weights.shape[found.queries or 2]), int(seen.weights.shape[3])
        cross = self._site(path) == "cross"
        if found.product in (OWN, SOME) and found.covered < columns and (
                cross or found.covered == queries or (columns - found.covered == 1 and queries != columns)):
            return found.first, columns - found.first - found.covered
        return found.zeros if any(found.zeros) and (cross or queries != columns) else seen.sinks

    def _lead(self, seen: Weights, heads: Optional[int], queries: int, found: Findings) -> Tuple[Optional[Lead], Optional[str]]:
        """Where the heads are, unless one of two axes is theirs alone; and why it is not known."""
        sizes, lead = _sizes(seen), found.lead(heads) if queries == 2 and found.heads_first is None else None
        shape = [*sizes, *seen.weights.shape[2:]]
        if lead is TOKENS:
            return None, f"its result {shape} is of heads at each position by itself, as if they were positions"
        alone = lead is not None and lead.first is None and lead.heads > 1
        if not seen.merged and (lead is None or lead.heads == 1 or alone):
            if lead is not None and alone:
                return lead if lead.axis == 0 else None, None
            contradicts = heads is not None and heads not in sizes and sizes[0] % heads == 0 and sizes[1] % heads != 0 != heads % sizes[1]
            return None, f"its module says {heads} heads, which are no axis of its result {shape}" if contradicts else None
        if lead is not None:
            differs = heads is not None and lead.heads != heads
            return lead, f"its module says {heads} heads, and the values of its result {shape} have {lead.heads}" if differs else None
        if heads in (1, sizes[0]):
            return Lead(heads or 1, 0), None
        return None, f"nothing tells heads from samples in the first axis of its result {shape}"

    def shows_other(self, path: str, module: torch.nn.Module, shape: Sequence[int]) -> None:
        """The module at `path` computed a softmax of this shape: over more than four axes a part of an attention, when it shows other
        softmaxes too."""
        self._others.setdefault(path, f"{list(shape)} in {path or 'the model'} ({type(module).__name__})")
        if len(shape) > 4:
            self._beyond.setdefault(path, _Refused(path, type(module).__name__, "it is a part of an attention: another softmax of "
                                                                                f"this module has {len(shape)} axes"))

    def others(self) -> List[str]:
        """The softmaxes over other axes than the four of an attention, by module."""
        return list(self._others.values())

    def _refuse(self, refused: _Refused) -> None:
        pattern = re.sub(r"(?<![^.])\d+(?![^.])", "*", refused.path)
        if pattern not in self._told:
            self._refused.setdefault(pattern, []).append(refused)

    def ordered(self, path: str, verdict: Verdict, seen: Weights) -> Weights:
        """[B, H, Tq, Tk], however it is laid out."""
        seen = self._placed(path, seen.of_keys(*verdict.sinks))
        if verdict.lead is not None:
            return _in_lead(seen, verdict.lead)
        seen = _moved(seen, verdict.queries)
        first, second = (int(size) for size in seen.weights.shape[:2])
        swapped = verdict.heads_first
        if swapped is None and verdict.heads is not None:
            swapped = first == verdict.heads != second
        elif swapped is None:
            before = self._shapes.setdefault(path, (first, second))
            if before[0] == first and before[1] != second and path not in self._told:
                self._told.add(path)
                shape = list(seen.weights.shape)
                self._news.append(
                    f"the weights of {path or 'the model'} were {[*before, *shape[2:]]} and are {shape}: captured as "
                    f"{second} heads now. If the first axis is the heads, let the module say so: num_heads = {first}")
        if not swapped:
            return seen
        return seen.with_axes(lambda one: one.transpose(0, 1))._replace(v=None if seen.v is None else seen.v.transpose(0, 1))

    @property
    def has_told(self) -> bool:
        """Whether it has said of any softmax that it is not captured, and why."""
        return bool(self._told)

    def news(self) -> List[str]:
        """Tells what is new since, once: for all modules of one place in the model together."""
        for name, verdict in self._verdicts.items() if self._beyond else ():
            refused_by = self._beyond.get(name.partition("#")[0])
            if verdict.attention and refused_by is not None:
                self._verdicts[name] = Verdict(False)
                self._refuse(refused_by)
        if not self._refused and not self._news:
            return []
        refused, self._refused = self._refused, {}
        news, self._news = self._news, []
        self._told.update(refused)
        return news + [_told(pattern, found) for pattern, found in refused.items()]

    def _axis_of_queries(self, shape: Sequence[int], keys: int, heads: Optional[int], found: Findings) -> Optional[int]:
        """2, of [B, H, Tq, Tk] or [H, B, Tq, Tk], or 1, of [B, Tq, H, Tk]; None: nothing tells."""
        first, second, third = shape[:3]
        if found.queries is not None:
            return found.queries
        if third == keys or second == heads:
            return 2
        if third == heads:
            return 1 if first != heads else None
        return 2 if first == heads or second != keys else None

    def _part(self, path: str, seen: Weights, axis: int, found: Findings) -> Optional[str]:
        """Why it is a part of an attention only; None: it may be a whole one."""
        queries, columns = int(seen.weights.shape[2]), int(seen.weights.shape[3])
        if found.product == CHAINED:
            return "is multiplied with nothing but what is made of it"
        if queries == columns or self._site(path) == "cross":
            return None
        if found.product == SOME:
            return f"is multiplied with values of {found.covered} of its {columns} columns"
        if found.product is None and axis != 2:
            return f"has {queries} queries and {columns} columns, which are not all keys"
        return None

    def _against(self, path: str, seen: Weights, modules: Sequence[torch.nn.Module], found: Findings) -> Optional[str]:
        """Why it is no attention; None: it is one."""
        queries, keys = int(seen.weights.shape[2]), int(seen.weights.shape[3])
        shape = list(seen.weights.shape)
        square, cross = queries == keys, self._site(path) == "cross"
        named, own = _is_named(path, modules), found.product in (OWN, SOME)
        if found.product == SHARED:
            return f"its result {shape} is multiplied with what all samples share, as a codebook is"
        if found.product == MIXED:
            return f"its result {shape} is multiplied with values that each row has of its own, as in a mixture"
        if own and (square or ((cross or named) and not found.linear)):
            return None
        if own:
            return f"its {queries} rows and {keys} columns are not the queries and keys of self-attention"
        if named and (square or cross) and not found.linear and not found.selected:
            return None
        return f"its result {shape} is not multiplied with values [.., {keys}, d] of each sample"

    def _heads(self, modules: Sequence[torch.nn.Module]) -> Optional[int]:
        """Stated by the module, or by the one that it is a part of."""
        counts = (head_count(module) for module in reversed(modules[-2:])) if self._counts_heads else ()
        return next((count for count in counts if count is not None), None)


def other_attention(path: str, module: torch.nn.Module) -> Optional[str]:
    """The kind of a module without weights, by its class or the end of its path; None: nothing says that it is one."""
    kinds = ((_LINEAR, "linear attention: no softmax, no weights"), (_STATE_SPACE, "a state space model: no softmax, no weights"))
    return next((kind for pattern, kind in kinds if pattern.search(type(module).__name__) or pattern.search(path)), None)


def head_count(module: Any) -> Optional[int]:
    """Stated by a module, or else by its config, as its number of heads."""
    short = _SHORT_COUNTS if SAYS_ATTENTION.search(type(module).__name__) else ()
    is_plain = getattr(type(module), "__getattr__", None) is torch.nn.Module.__getattr__  # which is slow to say that there is none
    for owner, names in ((module, (*HEAD_COUNTS, *short)), (getattr(module, "config", None), HEAD_COUNTS)):
        for name in names:
            if is_plain and owner is module and name not in vars(module) and not hasattr(type(module), name):
                continue
            count = getattr(owner, name, None)
            if isinstance(count, int) and count > 0:
                return count
    return None


def _heads_by_width(modules: Sequence[torch.nn.Module], seen: Queries) -> Optional[int]:
    """The heads of a module that states none, where there are several times as many queries as keys, and a projection of it is as many
    times as wide as the heads of keys; None: nothing tells."""
    (queries, width), keys, groups = seen.q.shape[2:], int(seen.k.shape[2]), int(seen.k.shape[1])
    times, wide = queries // keys if keys else 0, groups * width
    sizes = [parameter.shape for module in modules for parameter in module.parameters() if parameter.dim() == 2]
    if times < 2 or queries % keys or any(size[1] == wide for size in sizes):
        return None
    return times * groups if any(size[0] in (times * wide, (times + 2) * wide) for size in sizes) else None


def _is_named(path: str, modules: Sequence[torch.nn.Module]) -> bool:
    """Whether the module, or the one that a mere nn.Softmax is a part of, is called an attention."""
    parent = modules[-2:-1] if not any(True for _ in modules[-1].parameters()) else ()
    names = [*path.split(".")[-1 - len(parent):], *(type(module).__name__ for module in (modules[-1], *parent))]
    return any(SAYS_ATTENTION.search(name) for name in names)


def _is_recorded(seen: Weights) -> bool:
    """Whether autograd has noted how the softmax was made."""
    return seen.output is not None and seen.output.tensor.grad_fn is not None


def _sizes(seen: Weights) -> Tuple[int, ...]:
    """The sizes of the axes before queries and keys, as they were in the model."""
    return tuple(seen.weights.shape[:1 if seen.merged else 2])


def _in_lead(seen: Weights, lead: Lead) -> Weights:
    """With the heads, which are there, as the second axis."""
    sizes = _sizes(seen)

    def arranged(tensor: torch.Tensor) -> torch.Tensor:
        return lead.arranged(tensor.reshape(*sizes, *tensor.shape[2:]))

    v = None if seen.v is None or seen.v.shape[:2] != seen.weights.shape[:2] else arranged(seen.v)
    return seen.with_axes(arranged)._replace(v=v, merged=False)


def _moved(seen: Weights, queries: int) -> Weights:
    """With that axis as the third."""
    return seen if queries == 2 else seen.with_axes(lambda one: one.movedim(queries, 2))


def _told(pattern: str, found: Sequence[_Refused]) -> str:
    first = next((one for one in found if not one.remedy), found[0])  # a part says more than what it is a part of
    others = len({other.path for other in found}) - 1
    more = f", and {others} more like it" if others else ""
    wanted = pattern if others else first.path
    remedy = first.remedy.format(repr(wanted)) + "; " if first.remedy else ""
    return (f"the softmax of {first.path or 'the model'} ({first.kind}{more}) is not captured, as {first.reason}. "
            f"{remedy}exclude={wanted!r} silences this")


def _matches(patterns: Sequence[str], path: str) -> bool:
    """Whether one names the call, its module, or one that this is a part of."""
    plain = path.partition("#")[0]
    parts = plain.split(".")
    names = {path, *(".".join(parts[:count]) for count in range(1, len(parts) + 1))}
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
