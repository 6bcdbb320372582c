# SPDX-License-Identifier: MIT
"""lookout: sees the functions that are attention in one thread, while a forward is followed there, and tells the spies (spy.py).

    a TorchFunctionMode     sees torch functions wherever they are called from. These are attention:
                            F.scaled_dot_product_attention, F.multi_head_attention_forward, a softmax over the last axis of
                            [B, H, Tq, Tk]
    a stance                torch.compile'd code runs eagerly meanwhile, and is left as it is compiled
    forms/interface.py      attention functions of Hugging Face transformers that are none of the above
    forms/flex.py, forms/kernels_of_others.py   detours of flex attention, flash_attn and xFormers

The model computes by the very calls that it makes, with its own arguments; they are looked at afterwards. The results of softmaxes
are followed until it is certain whether they are attention (evidence.py).
"""
from __future__ import annotations

import contextlib
import functools
import pkgutil
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Optional, Sequence

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..base.torch_state import compiled_is_unseen, has_function_modes, is_graph_captured, outside_modes, record, unseen_by_modes
from . import flex, interface, kernels_of_others, sdpa
from .alike import known_by, softmax_known_by
from .detours import Detour
from .evidence import Trail, tensors_in
from .judge import SAYS_ATTENTION, head_count
from .seen import NotCaptured, Output, Queries, Seen, Weights
from .terms import BEGIN, FOLLOWED, Terms, are_shared, differing_by_head, hidden_by, term_of

if TYPE_CHECKING:
    from .spy import Spy

TRAILS_MAX = 256  # softmaxes that are followed at a time


class Lookout:
    """Sees the functions that are attention in one thread, for all spies that follow a forward there now."""

    def __init__(self) -> None:
        self.spies: List[Spy] = []
        self.count = 0  # attentions seen so far
        self.heads: Optional[int] = None  # of the F.multi_head_attention_forward that runs now
        self.trails: List[Trail] = []  # of softmaxes that are not judged yet
        self.terms = Terms()  # of what may become the argument of a softmax
        self.sinks: Optional[torch.Tensor] = None  # of the function of transformers that runs now
        self.asked: Optional[Sequence[int]] = None  # the shape of the queries that it was given
        self.within = 0  # functions of transformers that run now
        self.records = True  # autograd does, what is looked at
        self.is_full = True  # the capture is, of one of the spies
        self.given: Any = None  # arguments of the F.scaled_dot_product_attention that is told of
        self.is_by_mode = False  # a mode alone sees what is looked at
        self._is_named = False  # what runs was looked up in torch.nn.functional
        self._stands_in = False  # a function of ours stands there while a forward is followed
        self._mode: Optional[_Mode] = None
        self._stuck: List[_Mode] = []  # shut ones that were not on top when they were to leave
        self._paused: List[Any] = []
        self._looking = _Looking(self)

    def add(self, spy: Spy) -> None:
        """The spy's forward begins."""
        self.spies.append(spy)
        if len(self.spies) == 1:
            _interface.enter()
            self._stands_in = not compiled_is_unseen and not has_function_modes()  # else Dynamo might compile what calls it
            if self._stands_in:
                _fused.enter()
        self.see()

    def remove(self, spy: Spy) -> None:
        """The spy's forward is over."""
        if spy in self.spies:
            self.spies.remove(spy)
            if not self.spies:
                self.terms.clear()
                if self._stands_in:
                    _fused.leave()
                _interface.leave()
        self.resume(spy)

    def pause(self, spy: Any) -> None:
        """Nothing is to be seen, for the sake of this one, until resume()."""
        self._paused.append(spy)
        self.see()

    def resume(self, spy: Any) -> None:
        """Undoes pause(), if there was one."""
        if spy in self._paused:
            self._paused.remove(spy)
        self.see()

    def see(self) -> None:
        """Puts the mode there, or takes it away. One that is not on top, as while it handles a call, is shut meanwhile: what is
        put on top of modes of the model would be taken for these when they end."""
        self.is_full = wanted = False
        for spy in self.spies:
            self.is_full, wanted = self.is_full or spy.is_full, wanted or spy.is_awake
        if not wanted:
            self.terms.clear()  # a full capture has shown that nothing of them is looked at outside
        wanted = wanted and not self._paused
        if self._stuck:
            self.sweep()
        if self._mode is not None:
            self._mode.is_open = wanted
            if not wanted and self._mode.leave():
                self._mode = None
            elif not self.spies:
                self._stuck.append(self._mode)
                self._mode = None
        elif wanted:
            self._mode = _Mode(self)
            self._mode.__enter__()  # type: ignore[no-untyped-call]

    def sweep(self) -> None:
        """Takes away modes that could not leave, if they can now."""
        while self._stuck and self._stuck[-1].leave():
            self._stuck.pop()

    def named(self, args: Any, kwargs: Any) -> Any:
        """Calls F.scaled_dot_product_attention, which was looked up by its name, and tells what it did, unless the mode does."""
        if not self.spies or self._paused or self._is_named:
            return _sdpa(*args, **kwargs)
        self._is_named = True
        try:
            if self._mode is not None and self._mode.is_open:
                return _sdpa(*args, **kwargs)
            spy, began = self.spies[0], time.perf_counter()
            alike = spy.alike(known_by, args, kwargs) if len(self.spies) == 1 else None
            spy.seconds += time.perf_counter() - began
            if alike is None:
                return self.look(_sdpa, args, kwargs)
            result = _sdpa(*args, **kwargs)
            self.count, self.records, began = self.count + 1, torch.is_grad_enabled(), time.perf_counter()
            record(False)
            try:
                spy.sees_alike(*alike, {"q": args[0], "k": args[1]})
            finally:
                record(self.records)
                spy.seconds += time.perf_counter() - began
            return result
        finally:
            self._is_named = False

    def by_mode(self, function: Any, args: Any, kwargs: Any) -> Any:
        """The mode has seen a call of a torch function."""
        self.is_by_mode = not self._is_named
        try:
            return self.look(function, args, kwargs)
        finally:
            self.is_by_mode = False

    def look(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Calls a torch function as the model did, and tells what it did."""
        if function is _mha_forward:
            with self._inside(args, kwargs):
                return function(*args, **kwargs)
        result = function(*args, **kwargs)
        if self.trails and function is not _sdpa:
            self.follow(function, args, kwargs, result)
        if function is _sdpa:
            self.given = args, kwargs
            self.tell(lambda: sdpa.unpacked(sdpa.of_call(args, kwargs, result), self.asked))
            self.given = None
        elif function in _SIGMOIDS:
            if isinstance(result, torch.Tensor) and result.dim() > 2 and result.shape[-1] == result.shape[-2]:
                for spy in list(self.spies):
                    spy.sees_sigmoid()
        elif isinstance(result, torch.Tensor) and result.dim() > 4:
            for spy in list(self.spies) if _is_over_last(args, kwargs) else ():
                spy.sees_other(result)
        elif not self._takes_alike(args, kwargs, result):
            if isinstance(result, torch.Tensor) and result.dim() == 3 and _is_over_last(args, kwargs):
                for spy in list(self.spies):
                    spy.sees_other(result)
            module = self._module()
            self.terms.here = id(module) if self.is_full else 0
            self.tell(lambda: _softmax(args, kwargs, result, module, None, self.terms), result)
        return result

    def _takes_alike(self, args: Any, kwargs: Any, result: Any) -> bool:
        """Whether a softmax is like one before, of which a narrow capture need know no more, and is told of so."""
        if self.is_full or len(self.spies) != 1 or not _is_over_last(args, kwargs):
            return False
        (spy,), logits, began = self.spies, _logits(args, kwargs), time.perf_counter()
        added = self.terms.of(logits)
        found = spy.alike(softmax_known_by, result, logits, added is not None, lambda: are_shared(added or ()))
        spy.seconds += time.perf_counter() - began
        if found is None:
            return False
        self.count, self.records = self.count + 1, torch.is_grad_enabled()
        with self._looking:
            hidden = hidden_by(added, tuple(logits.shape)) if added else None
            spy.sees_alike(*found, {"weights": result, "logits": logits, "hidden": hidden})
        return True

    def instead(self, run: Callable[[], Any], look: Callable[[Any], Optional[Seen]]) -> Any:
        """Runs a kernel, of which nothing inside is to be seen, and tells what it did, by its result."""
        if not self.spies or self._paused:
            return run()
        self.pause(run)
        try:
            result = run()
            if not any(spy.told_here for spy in self.spies):
                self.tell(lambda: look(result))
        finally:
            self.resume(run)
        return result

    def tell(self, look: Callable[[], Optional[Seen]], result: Optional[torch.Tensor] = None) -> None:
        """Tells all spies what `look` finds, as Spy.sees has it. Nothing of it is for autograd: activation
        checkpointing counts what is kept for backward, and the forward that it repeats would keep less."""
        self.records = torch.is_grad_enabled()
        with self._looking:
            if not unseen_by_modes():
                raise NotCaptured("runs under a TorchDispatchMode, which this version of torch cannot leave out")
            if is_graph_captured():  # within a forward that began before
                raise NotCaptured("runs in a part of the model that is captured as a CUDA graph")
            seen = look()
            if seen is not None:
                self.count += 1
                for spy in list(self.spies):
                    spy.sees(seen, result)

    def begin_trail(self, trail: Trail) -> None:
        """Follows one more result; the oldest is judged by what is known, where there are many."""
        if len(self.trails) == TRAILS_MAX:
            oldest = self.trails.pop(0)
            oldest.settle(oldest)
        self.trails.append(trail)

    def note(self, function: Any, args: Any, kwargs: Any, made: Any) -> None:
        """The model called one of FOLLOWED, which concerns terms, and made that."""
        terms = self.terms
        try:
            terms.here = id(self._module()) if self.is_full else 0
            if not terms.goes_on(function, args, made) and not is_graph_captured() and unseen_by_modes():
                with self._looking:
                    terms.after(function, args, kwargs, made)
        except Exception:  # called in a way that is not known
            terms.clear()

    def follow(self, function: Any, args: Any, kwargs: Any, made: Any) -> None:
        """The model called this function, which made that, while there are trails."""
        if is_graph_captured() or not unseen_by_modes():
            return
        self.records = torch.is_grad_enabled()
        with self._looking:
            try:
                operands = list(tensors_in((*args, *kwargs.values())))
                for trail in [trail for trail in self.trails if trail.after(function, args, operands, made)]:
                    self.trails.remove(trail)
                    trail.settle(trail)
            except Exception:
                self.trails.clear()
                raise

    def end_trails(self, spy: Spy, whole: bool) -> None:
        """The spy's forward is over; see Spy._finish."""
        if not self.trails:
            return
        ended = [trail for trail in self.trails if trail.owner is spy]
        self.trails[:] = [trail for trail in self.trails if trail.owner is not spy]
        with torch.no_grad(), outside_modes():
            for trail in ended if whole else ():
                trail.settle(trail)

    def _module(self) -> Optional[torch.nn.Module]:
        for spy in self.spies:
            module = spy.current_module
            if module is not None:
                return module
        return None

    @contextlib.contextmanager
    def inside_interface(self, sinks: Optional[torch.Tensor], query: Optional[torch.Tensor] = None) -> Iterator[None]:
        """Within an attention function of transformers, which may call kernels of others."""
        own, self.sinks, asked, self.asked = self.sinks, sinks, self.asked, None if query is None else query.shape
        self.within += 1
        try:
            yield
        finally:
            self.within -= 1
            self.sinks, self.asked = own, asked

    @contextlib.contextmanager
    def _inside(self, args: Any, kwargs: Any) -> Iterator[None]:
        """Within F.multi_head_attention_forward, which the mode sees from outside only."""
        self.heads = int(args[4] if len(args) > 4 else kwargs["num_heads"])
        for one in (_of_mha, _fused):
            one.enter()
        try:
            yield
        finally:
            for one in (_of_mha, _fused):
                one.leave()
            self.heads = None


class _Looking:
    """Looks at what the model does: nothing of it is for autograd or for modes, and all spies know how long it took."""

    def __init__(self, lookout: Lookout) -> None:
        self._lookout = lookout
        self._began: List[Any] = []  # one may begin within another

    def __enter__(self) -> None:
        modes = outside_modes()
        self._began.append((time.perf_counter(), list(self._lookout.spies), modes, torch.is_grad_enabled()))
        record(False)
        modes.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        began, spies, modes, recorded = self._began.pop()
        modes.__exit__(None, None, None)
        record(recorded)
        for spy in spies:
            if isinstance(error, NotCaptured):
                spy.cannot_see(str(error))
            elif isinstance(error, Exception):
                spy.watcher.notices.failed(f"the attention of {spy.current_path or 'the model'} could not be captured")
            spy.seconds += time.perf_counter() - began
        return isinstance(error, Exception)


_here = threading.local()


def lookout_here() -> Lookout:
    """That of this thread."""
    found: Optional[Lookout] = getattr(_here, "lookout", None)
    if found is None:
        found = _here.lookout = Lookout()
    return found


class _Shared:
    """Something that is in place in all threads while at least one needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def enter(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self.place()

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self.take_away()

    def place(self) -> None:
        raise NotImplementedError

    def take_away(self) -> None:
        raise NotImplementedError


class _Interface(_Shared):
    """The attention functions of transformers are observed, and the kernels of other packages."""
    _observed: Any = None
    _kernels: Sequence[Detour] = ()

    def place(self) -> None:
        self._observed = interface.observe(lookout_here)
        self._kernels = kernels_of_others.observe(lookout_here)

    def take_away(self) -> None:
        observed, self._observed = self._observed, None
        interface.forget(observed)
        for kernel in self._kernels:
            kernel.end()
        self._kernels = ()


class _Stance(_Shared):
    """Compiled code runs eagerly, flex attention as ever. Whoever is the last to need it restores what was before the
    first: watches may end in any order, and while flex attention runs in another thread."""
    _set: Any = None
    _flex: Optional[Detour] = None
    _lifted = 0  # calls of flex attention that run now

    @property
    def is_there(self) -> bool:
        """Whether this torch has stances."""
        return _set_stance is not None

    def place(self) -> None:
        if _set_stance is None:
            return
        self._settle()
        self._flex = flex.observe(lookout_here, self._as_ever)

    def take_away(self) -> None:
        if self._flex is not None:
            self._flex.end()
            self._flex = None
        self._settle()

    @contextlib.contextmanager
    def _as_ever(self) -> Iterator[None]:
        """The stance is what it was, in all threads, as torch has one for all."""
        self._lift(1)
        try:
            yield
        finally:
            self._lift(-1)

    def _lift(self, count: int) -> None:
        with self._lock, contextlib.suppress(RuntimeError):  # torch refuses within what is being compiled
            self._lifted += count
            self._settle()

    def _settle(self) -> None:
        """Sets the stance, or undoes that. Called locked."""
        wanted = self._users > 0 and self._lifted == 0
        if wanted and self._set is None and _set_stance is not None:
            self._set = _set_stance("force_eager")
        elif not wanted and self._set is not None:
            self._set.__exit__(None, None, None)
            self._set = None


class _StandIn(_Shared):
    """Models, and F.multi_head_attention_forward, look up in torch.nn.functional what they compute attention by: a function of ours
    stands there meanwhile. Calls from elsewhere pass through it."""

    def __init__(self, name: str, call: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()
        self._name, self._call = name, call
        self._lifted = 0  # calls that run while the function of torch is in its place
        self.own: Any = getattr(functional, name, None)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self.own, args, kwargs)

    def __reduce__(self) -> Any:  # of a copy, or a pickle, of what has looked it up
        return pkgutil.resolve_name, (f"torch.nn.functional:{self._name}",)

    def place(self) -> None:
        if hasattr(functional, self._name):
            self.own = getattr(functional, self._name)
            functools.update_wrapper(self, self.own)
            setattr(functional, self._name, self)

    def take_away(self) -> None:
        if getattr(functional, self._name, None) is self:  # else somebody has put another one there
            setattr(functional, self._name, self.own)

    @contextlib.contextmanager
    def lifted(self) -> Iterator[None]:
        """The function of torch is in its place, in all threads: what a mode or a kind of tensor compares it with."""
        with self._lock:
            self._lifted += 1
            self.take_away()
        try:
            yield
        finally:
            with self._lock:
                self._lifted -= 1
                if self._users > 0 and self._lifted == 0 and getattr(functional, self._name) is self.own:
                    setattr(functional, self._name, self)


def _of_softmax(own: Any, args: Any, kwargs: Any) -> Any:
    """F.softmax within F.multi_head_attention_forward."""
    weights, here = own(*args, **kwargs), lookout_here()
    if here.heads is not None:
        inside = sys._getframe(2)
        here.tell(lambda: _marked(_with_values(_softmax(args, kwargs, weights, None, here.heads), inside.f_locals.get("v")), inside))
    return weights


def _of_fused(own: Any, args: Any, kwargs: Any) -> Any:
    """F.scaled_dot_product_attention, wherever it is looked up."""
    here = lookout_here()
    if here.heads is None and own is _sdpa:
        if _is_plain(args) and not has_function_modes(_Mode):
            return here.named(args, kwargs)
        with _fused.lifted():  # as somebody may change the call, a mode is what sees it
            return own(*args, **kwargs)
    output = own(*args, **kwargs)
    if here.heads is not None:
        inside = sys._getframe(2)
        here.tell(lambda: _marked(sdpa.of_call(args, kwargs, output), inside))
    return output


def _is_plain(args: Any) -> bool:
    """Whether the queries, keys and values are of no kind of their own."""
    return len(args) > 2 and type(args[0]) is type(args[1]) is type(args[2]) is torch.Tensor


_interface = _Interface()
stance = _Stance()
_of_mha = _StandIn("softmax", _of_softmax)  # within F.multi_head_attention_forward alone
_fused = _StandIn("scaled_dot_product_attention", _of_fused)


class _Mode(TorchFunctionMode):
    """Hands the functions that are attention to the lookout; runs all others."""

    def __init__(self, lookout: Lookout) -> None:
        super().__init__()
        self._lookout = lookout
        self._trails, self._terms, self._ways = lookout.trails, lookout.terms, lookout.terms.ways  # asked for at every function
        self.is_open = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _LOOKED_AT and self.is_open:
            return self._lookout.by_mode(func.own if isinstance(func, _StandIn) else func, args, kwargs)
        made = func(*args, **kwargs)
        if func in (FOLLOWED if self._ways else BEGIN) and self.is_open and self._terms.concerns(func, args):
            self._lookout.note(func, args, kwargs, made)
        if self._trails and self.is_open:
            self._lookout.follow(func, args, kwargs, made)
        return made

    def leave(self) -> bool:
        """Leaves the stack of modes; False: another one is on top, or it handles a call, and it stays."""
        count = torch._C._len_torch_function_stack()
        if count == 0 or torch._C._get_function_stack_at(count - 1) is not self:
            return False
        self.__exit__(None, None, None)
        return True


def _logits(args: Any, kwargs: Any) -> Any:
    return args[0] if args else kwargs.get("input", kwargs.get("self"))


def _is_over_last(args: Any, kwargs: Any) -> bool:
    """Whether a softmax of real numbers is over the last axis."""
    logits, axis = _logits(args, kwargs), kwargs.get("dim", args[1] if len(args) > 1 else None)
    return isinstance(axis, int) and axis in (-1, logits.dim() - 1) and bool(logits.is_floating_point())


def _softmax(args: Any, kwargs: Any, weights: torch.Tensor, module: Optional[torch.nn.Module],
             heads: Optional[int] = None, terms: Optional[Terms] = None) -> Optional[Weights]:
    """The weights that a softmax of attention may show: of [B, H, Tq, Tk], or [B * H, Tq, Tk] with this many heads, or of
    [N, T, T], in an attention [N, Tq, Tk], whose heads are to be found. `terms`: those that were followed."""
    if not _is_over_last(args, kwargs):
        return None
    logits = _logits(args, kwargs)
    added = None if terms is None else terms.of(logits)
    result, shape, merged = weights, tuple(logits.shape), False
    if logits.dim() == 3 and shape[0] > 0:
        merged = heads is None
        if merged and not SAYS_ATTENTION.search(type(module).__name__) and not 1 < shape[1] == shape[2] and head_count(module) is None:
            return None
        shape = (-1, heads or 1, *logits.shape[1:])
        logits, weights = logits.reshape(shape), weights.reshape(shape)
    if logits.dim() != 4:
        return None
    return Weights(weights, logits, output=Output(result, lambda gradient: gradient.reshape(shape)), shared=are_shared(added or ()),
                   sinks=(0, int(getattr(module, "sinks", None) is not None)), merged=merged,
                   hidden=hidden_by(added or (), tuple(logits.shape)), is_known=added is not None,
                   biases=differing_by_head(added or (), tuple(logits.shape)))


def _marked(seen: Optional[Seen], inside: Any) -> Optional[Seen]:
    """With whether F.multi_head_attention_forward, in this frame, was given one mask [Tq, Tk] for all samples, and no padding, and
    how many keys it has put behind those that it was given."""
    given = inside.f_locals
    mask, padding = given.get("attn_mask"), given.get("key_padding_mask")
    shared = mask is not None and padding is None and (mask.dim() == 2 or mask.shape[0] == 1)
    extra = (given.get("bias_k") is not None) + bool(given.get("add_zero_attn"))
    if isinstance(seen, Weights):  # whose logits are of [B * H, Tq, Tk], as the mask is now
        (batch, heads), axes = seen.logits.shape[:2], tuple(seen.logits.shape)
        hidden = None if mask is None else hidden_by((term_of(mask, (batch * heads, *axes[2:])),), axes)
        return seen._replace(hidden=hidden, is_known=True, shared=shared, extra=extra)
    # It has arranged the axes itself.
    return None if seen is None else seen._replace(called=None, shared=shared, extra=extra)


def _with_values(seen: Optional[Weights], v: Any) -> Optional[Weights]:
    """With the values [B * H, Tk, dv] that F.multi_head_attention_forward multiplies them with next."""
    if seen is None or not isinstance(v, torch.Tensor) or v.dim() != 3 or v.shape[0] != seen.weights.shape[0] * seen.weights.shape[1]:
        return seen
    return seen._replace(v=v.reshape(*seen.weights.shape[:2], *v.shape[1:]))


_set_stance: Optional[Callable[..., Any]] = getattr(getattr(torch, "compiler", None), "set_stance", None)
_sdpa: Any = getattr(functional, "scaled_dot_product_attention", None)
_mha_forward: Any = functional.multi_head_attention_forward
_SIGMOIDS = {torch.sigmoid, torch.Tensor.sigmoid, torch.special.expit, functional.sigmoid}
_LOOKED_AT = {*_SIGMOIDS, _sdpa, _mha_forward, functional.softmax, torch.softmax, torch.Tensor.softmax, torch.special.softmax,
              _of_mha} - {None}
