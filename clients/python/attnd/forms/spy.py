# SPDX-License-Identifier: MIT
"""spy: sees every attention of a model while it is installed, and changes nothing.

Installed only for the steps that are captured (`Spy.install`, `Spy.remove`), it consists of

    hooks of modules        which module runs now: the name of what is seen
    lookout.py              while a module of the watched model runs: what sees the functions that are attention
    learned.py              which modules need be followed, once captures have shown what attends
    forms/look.py           operators in code that is compiled after watch(). Where a model has any, or is about to, these
                            are all that sees it: hooks and modes would have it compiled again

Whether a softmax is one of attention is judged once (judge.py), in the first forward that shows it, at the latest when that ends.

Two things in torch look at what is installed, and would compute something else. Modules of torch that would take their
fast path, in a forward that is trained with, run without the mode and are not seen. Compiled code that does not tell what it
does runs eagerly, which agrees with it to rounding. While a CUDA graph is captured nothing is seen.
A forward that activation checkpointing repeats runs within backward, where nothing is seen but the attentions whose
gradients are awaited.

One forward of a model is followed at a time, in the thread that began it; others of it run unseen meanwhile. Several
models may be followed in several threads. Failures in here are reported to the watcher and never to the model.
"""
from __future__ import annotations

import contextlib
import inspect
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..base.hook import ALWAYS, Hook, ModuleHooks
from ..base.once import log
from ..base.paths import call_name, module_paths
from ..base.torch_state import (allow_global_hooks, are_modes_there, compiles_itself, graph_task_id, has_compiled,
                                has_function_modes, is_compiling, is_graph_captured, outside_modes)
from . import flex, look
from .alike import Alike, Tensors, alike_of, softmax_alike
from .evidence import Trail
from .judge import SAYS_ATTENTION, SIGMOID, Judge, other_attention
from .learned import ATTENDS, BEGINS, BY_MODE, MAY_ATTEND, NEW, Learned
from .lookout import Lookout, lookout_here, stance
from .seen import NotCaptured, Queries, Seen, Share, Weights, unreadable

if TYPE_CHECKING:
    from ..capture.forwards import Forwards


class Entered(NamedTuple):
    """A module that runs, its path, the Python frame that runs it, and its positional arguments."""
    module: torch.nn.Module
    path: str
    frame: Any
    args: Sequence[Any]

    @property
    def first(self) -> Any:
        """Its first argument, by position or by name; None: it has none. torch tells hooks of all modules no names, but
        the frame has them."""
        return self.args[0] if self.args else next(iter(self.inputs.values()), None)

    @property
    def inputs(self) -> Dict[str, Any]:
        """Its arguments by name, in the order of its forward."""
        names = list(inspect.signature(self.module.forward).parameters)
        given = {**dict(zip(names, self.args)), **(self.frame.f_locals.get("kwargs") or {})}
        return {name: given[name] for name in sorted(given, key=lambda name: names.index(name) if name in names else len(names))}


class _EnterHook(Hook):
    def __call__(self, module: torch.nn.Module, args: Any) -> None:
        owner = self.owner()
        if owner is not None:
            owner.enter(module, args, sys._getframe(1))


class _LeaveHook(Hook):
    def __call__(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        owner = self.owner()
        if owner is not None:
            owner.leave(module, output)


class Spy:
    """Follows the forwards of one model, and tells the watcher of its attentions. Every method is called from the training.
    `judge`: of its softmaxes; without one all are taken for attention."""

    def __init__(self, root: torch.nn.Module, watcher: "Forwards", judge: Optional[Judge] = None, looks: bool = False):
        self.root = root
        self.watcher = watcher
        self.judge = judge
        self._may_look = looks  # into compiled code
        self.is_looking = False  # only what is compiled is followed now
        self._is_bounded = False  # settle_shown() is called before each compiled forward
        self._shown: Optional[Set[Tuple[int, str]]] = None  # sites and paths in the compiled forward that runs
        self._paths: Dict[int, str] = {}
        self._learned = Learned()
        self._narrow: Optional[Mapping[int, int]] = None  # by id, what each followed module does; None: all are followed
        self.is_awake = True  # functions of torch are looked at by a mode
        self._handles: List[Any] = []
        self._hooked: Optional[Mapping[int, int]] = None  # `_narrow`, as it was when the handles were made
        self._eager = False  # compiled code runs eagerly because of this one, too
        self._thread = 0  # of the forward that is followed
        self._lookout: Optional[Lookout] = None  # of that thread
        self._leaving = False  # removed by another thread meanwhile
        self._stack: List[Entered] = []
        self._calls: Dict[str, int] = {}
        self._passed: Dict[str, int] = {}  # of these, softmaxes of which a narrow capture knows too little
        self._alike: Dict[Tuple[str, int], Alike] = {}  # by path and call
        self._known: Set[str] = set()  # softmaxes of which a full capture has shown what was added
        self._entered: Dict[str, torch.nn.Module] = {}  # by path, in this forward: those that have a hook
        self._told: Set[str] = set()  # paths of modules that publish by hand, or are passed over
        self._missed: Set[str] = set()  # of those of which something was told as missing
        self._unread: Set[str] = set()  # of those that made a call of which nothing is captured
        self._sigmoids: Set[str] = set()  # of those that computed a sigmoid over [.., T, T]
        self._written: Set[str] = set()  # calls whose weights the model writes to before they meet the values
        self._compared: Set[str] = set()  # calls of which another function gave the same numbers, and may give others tomorrow
        self._altered = False  # the model wrote to weights before they were known to be such
        self._trains = True  # what this forward computes is trained with
        self._again = False  # it is repeated by backward
        self._fast: Optional[torch.nn.Module] = None  # takes its fast path now, and is passed over
        self.follows: Optional[Callable[[str, Any], None]] = None  # is told of modules that begin, and of their first input
        self.seconds = 0.0  # that the hooks took, and what is told from within the mode

    @property
    def is_full(self) -> bool:
        """Whether this capture follows all modules."""
        return self._narrow is None

    @property
    def is_in_doubt(self) -> bool:
        """Whether the next capture is to be made in the other way: in compiled code, or in what runs eagerly."""
        if self.is_looking:
            return not self._may_look or look.shows_nothing(self.root)
        return self.installed and self._is_compiled(self.root)

    @property
    def installed(self) -> bool:
        """Whether forwards are followed now."""
        return bool(self._handles) or self.is_looking

    def install(self) -> None:
        """Begins to follow forwards."""
        self._leaving = False
        if self._may_look:
            allow_global_hooks()  # torch.compile may be called after this
        self._choose()
        if self._narrow is None and self._is_compiled(self.root):
            self._begin_looking()
            return
        self._hook()
        self._force_eager()

    def _choose(self) -> None:
        """Whether the capture that begins is a full one."""
        if not (has_compiled() or compiles_itself(self.root)) and self.watcher.is_settled and self._learned.suffices:
            self._narrow, self.is_awake = self._learned.narrow(), False
        else:
            self._widen()

    def _hook(self) -> None:
        """Hooks are where the capture needs them."""
        if self._handles and self._hooked is self._narrow:
            return
        self._unhook()
        enter, leave, self._hooked = _EnterHook(self), _LeaveHook(self), self._narrow
        if self._narrow is None:
            self._handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, **ALWAYS)]
            return
        self._handles = [ModuleHooks(self._learned.modules(), enter, leave)]

    def _unhook(self) -> None:
        while self._handles:
            self._handles.pop().remove()

    def goes_on(self) -> None:
        """A captured step is over, and the next one is captured as well."""
        if self._handles and not self._stack:
            self._settle_learned()
            self._choose()
            self._hook()

    def _settle_learned(self) -> None:
        if self._narrow is None:
            self._learned.ends(self.root)

    def _widen(self) -> None:
        """The capture is a full one."""
        self._narrow, self.is_awake, self._alike = None, True, {}
        self._paths = module_paths(self.root)
        self._learned.begins()

    def _is_compiled(self, module: torch.nn.Module) -> bool:
        """Whether a module that runs is compiled, or a part of it is, so that this model is to be left so."""
        look.note(module)
        return self._may_look and (self._narrow is None or has_compiled()) and look.is_prepared() and look.sees(module) \
            and not look.shows_nothing(self.root)

    def _begin_looking(self) -> None:
        """Compiled code tells what it does; nothing else is there that it would have to be compiled again for."""
        self._take_away()
        self._learned.odd()
        self._paths = module_paths(self.root)  # it may have been wrapped since
        look.place_pass()
        self.is_looking, self._is_bounded = True, look.outside(self.root) is not None
        self.watcher.only_looks()
        look.listen(self)

    def looks(self, site: look.Site, given: Mapping[str, Any]) -> None:
        """An attention is about to be computed with these arguments. The second time that one is shown another forward has begun.
        Never raises."""
        began = time.perf_counter()
        try:
            path = self._path_of(site)
            if path is None or is_graph_captured() or (self._shown is not None and self._elsewhere()):
                return
            with torch.no_grad(), outside_modes():
                again = not self._is_bounded and (site.number, path) in (self._shown or ())
                if self._shown is None or again or site.trains != self._trains:
                    self.settle_shown()
                    with torch.set_grad_enabled(site.trains):
                        if not self.watcher.begins(self.root):
                            return
                    self._shown, self._calls, self._trains, self._thread = set(), {}, site.trains, threading.get_ident()
                self._shown.add((site.number, path))
                seen = site.read(given)
                if seen.lowered:
                    v = site.cast(seen.v) if seen.v is not None and self.watcher.sends_values else None
                    seen = seen._replace(q=site.cast(seen.q), k=site.cast(seen.k), v=v, lowered=False)
                self._saw(path, seen)
        except NotCaptured as why:
            self._cannot_read(path or "", str(why))
        except Exception:
            self.watcher.notices.failed("an attention in compiled code could not be captured")
        finally:
            self.seconds += time.perf_counter() - began

    def _path_of(self, site: look.Site) -> Optional[str]:
        """The path of its module; None: it is not of this model, or of a forward that runs in another one's turn."""
        for module in look.running_modules():
            with contextlib.suppress(AttributeError):
                path = self._paths.get(id(module.get_submodule(site.path)))
                if path is not None:
                    return path
        return None

    def settle_shown(self) -> None:
        """All that a compiled forward shows, if one was followed, has been shown: another one begins, or the step ends."""
        if self._shown is not None:
            self._shown = None
            self._entered = {self._paths[id(module)]: module for module in self.root.modules() if id(module) in self._paths}
            shown = self._unread.union(self._calls)
            attending = {type(self._entered[path]) for path in self._calls if path in self._entered}
            others: List[str] = []
            unseen: List[str] = []
            for path in self._unseen():
                (unseen if self.kind_of(path) is None else others).append(path)
            unseen = unseen or [path for path, module in self._entered.items()
                                if type(module) in attending and path not in shown]
            if unseen:
                self._may_look = False
                log.info("%s (%s) shows nothing in compiled code: captured steps run eagerly from now on", unseen[0],
                         type(self._entered[unseen[0]]).__name__)
            self.watcher.ends(others or None)

    def _force_eager(self) -> None:
        """Once something may have been compiled."""
        if not self._eager and stance.is_there and ("torch._dynamo" in sys.modules
                                                            or flex.MODULE in sys.modules):
            allow_global_hooks()
            self._eager = True
            stance.enter()

    def remove(self) -> None:
        """Undoes install(), in the middle of a forward too; in that of another thread, when it is done."""
        if self._elsewhere():
            self._leaving = True
            return
        if self.is_looking:
            look.forget(self)
            self.is_looking = False
            self.settle_shown()
        self._take_away()
        if self._stack:
            self._finish()
        self._settle_learned()
        lookout_here().sweep()

    def _take_away(self) -> None:
        self._unhook()
        if self._eager:
            self._eager = False
            stance.leave()

    def sees(self, seen: Seen, result: Optional[torch.Tensor] = None) -> None:
        """An attention was computed by the module that runs now; with `result`: a softmax, which may be something
        else."""
        if not self._stack or threading.get_ident() != self._thread:
            return
        runs, within = _runs(self._stack[-1].frame)
        if not runs:
            return
        if self._narrow is not None:
            self._sees_narrowly(self._narrow, seen, result)
            return
        if result is None and within:
            self._learned.odd()  # by a module that is none of the model's
        elif result is None and not self._again:
            self._learned.attended(self._stack, self._lookout is not None and not self._lookout.is_by_mode)
        self._saw(self._stack[-1].path, seen, result)

    def _sees_narrowly(self, narrow: Mapping[int, int], seen: Seen, result: Optional[torch.Tensor]) -> None:
        """As sees(), where few modules have hooks: the frames tell which ones run."""
        running = self.entered
        if running[-1].module is not next(_module_calls()).f_locals["self"] or not narrow.get(id(running[-1].module), 0) & MAY_ATTEND:
            self._learned.odd()
            return
        hooked, self._stack = self._stack, list(running)
        try:
            self._saw(running[-1].path, seen, result)
        finally:
            self._stack = hooked

    def _saw(self, path: str, seen: Seen, result: Optional[torch.Tensor] = None) -> None:
        why = unreadable(seen)
        if why is not None:
            self._cannot_read(path, why)
            return
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if self._again:
            self.watcher.saw_again(path, call, seen)
        elif self.judge is None:
            self.watcher.saw(path, call, seen)
        elif self.judge.excludes(call_name(path, call)):
            self.watcher.leaves_out(path, call, seen)
        elif result is not None and isinstance(seen, Weights):
            self._judged(self.judge, path, call, seen, result)
        else:
            try:
                if isinstance(seen, Queries):
                    seen = self.judge.arranged(call_name(path, call), seen, self._modules_at(path), self._batches())
            except NotCaptured as strange:
                self._cannot_read(path, str(strange))
                return
            share = self.watcher.saw(path, call, seen)
            if share is not None and isinstance(seen, Queries) and self._lookout is not None and self._lookout.given is not None:
                self._note_alike(path, call, alike_of(seen, share, *self._lookout.given))

    def _note_alike(self, path: str, call: int, found: Optional[Alike]) -> None:
        """Calls like this one are known from now on."""
        if found is not None:
            self._alike[path, call] = next((one for one in self._alike.values() if one == found), found)

    def alike(self, known_by: Callable[..., Any], *call: Any) -> Optional[Tuple[str, Alike]]:
        """The path of the module that runs now, and the call before that this call of it is alike, if a narrow capture may take it so.
        `known_by`: tells what this `call` is known by. Never raises."""
        try:
            if self._narrow is None or self._again or not self._stack or self.watcher.sends_values or are_modes_there():
                return None
            innermost = next(_module_calls())
            path = self._paths[id(innermost.f_locals["self"])]
            number = self._calls.get(path, 0)
            found = self._alike.get((path, number))
            if found is None or self.judge is None or self.judge.refuses(call_name(path, number)) \
                    or found.known_by != known_by(*call) or not _runs(self._stack[0].frame)[0]:
                return None
            return path, found
        except (KeyError, StopIteration):  # a module of somebody else, or none
            return None
        except Exception:
            self.watcher.notices.failed("an attention could not be followed")
            return None

    def sees_alike(self, path: str, alike: Alike, tensors: Tensors) -> None:
        """The module at `path` made that call, of these tensors. Never raises."""
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        self.watcher.saw_alike(path, call, alike, tensors)

    def _modules_at(self, path: str) -> List[torch.nn.Module]:
        """The module at `path`, which computes an attention now, after the one that it is a part of."""
        return [entered.module for entered in self._stack[-2:]] or [
            module for name, module in ((self._paths.get(id(module)), module) for module in self.root.modules()) if name == path]

    def _batches(self) -> Sequence[int]:
        """Sizes one of which counts the samples that the innermost module was given; none: it is not known."""
        given = self._stack[-1].first if self._stack else None
        return tuple(given.shape[:2]) if isinstance(given, torch.Tensor) and given.dim() > 2 else ()

    def _judged(self, judge: Judge, path: str, call: int, seen: Weights, result: torch.Tensor) -> None:
        """Tells of a softmax when it is attention, as soon as that is known."""
        modules, name = [entered.module for entered in self._stack[-2:]], call_name(path, call)
        verdict = judge.known(name)
        if verdict is not None and not verdict.holds(seen):
            verdict = None
        follows = (self.watcher.sends_values and name not in self._written) or name in self._compared
        if self._narrow is not None and (verdict is None or (name in self._known and not seen.is_known)):
            self._learned.odd()
            self._passed[path] = self._passed.get(path, 0) + 1
            return
        if verdict is not None and verdict.attention and self._narrow is None:
            if follows or self._lookout is None or self._lookout.terms.crosses:
                self._learned.odd()
            else:
                self._learned.attended(self._stack, False)
                (self._known.add if seen.is_known else self._known.discard)(name)
        if verdict is not None and not (verdict.attention and follows):
            if verdict.attention:
                ordered = judge.ordered(name, verdict, seen)
                share = self.watcher.saw(path, call, ordered)
                if share is not None:
                    self._note_alike(path, call, softmax_alike(seen, ordered, share))
            return

        def settle(trail: Trail) -> None:
            decided = verdict if verdict is not None and not trail.is_changed else judge.decide(name, seen, modules, trail.findings())
            if trail.compares:
                self._compared.add(name)
            if decided.attention:
                self._learned.odd()
            if decided.attention and trail.altered:
                self._altered = True  # from the next forward on it is captured before that
                self._written.add(name)
            elif decided.attention:
                ordered = judge.ordered(name, decided, seen._replace(v=trail.values))
                if any(decided.sinks) and decided.sinks != seen.sinks:
                    self.watcher.expects(path, call, ordered, entered)
                self.watcher.saw(path, call, ordered)

        entered = list(self._stack[-2:])
        self.watcher.expects(path, call, seen.of_keys(*seen.sinks), entered)
        if self._lookout is not None:
            self._lookout.begin_trail(Trail(seen, result, self, settle))

    def sees_other(self, result: torch.Tensor) -> None:
        """A softmax over other axes than the four of an attention was computed."""
        if self.judge is not None and self.current_module is not None and not self._again:
            self.judge.shows_other(self._stack[-1].path, self._stack[-1].module, result.shape)

    def sees_sigmoid(self) -> None:
        """The module that runs now computed a sigmoid over [.., T, T]."""
        if self.current_path is not None:
            self._sigmoids.add(self.current_path)

    def kind_of(self, path: str) -> Optional[str]:
        """The kind of the module at `path`, which showed no attention; None: nothing tells."""
        module = self._entered.get(path)
        other = None if module is None else other_attention(path, module)
        return SIGMOID if other is None and any(f"{one}.".startswith(f"{path}.") for one in self._sigmoids) else other

    def cannot_see(self, why: str) -> None:
        """The module that runs now computed an attention of which nothing is captured."""
        if self.current_path is not None:
            self._cannot_read(self.current_path, why)

    def _cannot_read(self, path: str, why: str) -> None:
        self._unread.add(path)
        self._learned.odd()
        self.watcher.cannot_read(path, why)

    @property
    def current_path(self) -> Optional[str]:
        """The path of the module that runs now, in this thread."""
        running = self.entered if threading.get_ident() == self._thread else ()
        return running[-1].path if running else None

    @property
    def current_module(self) -> Optional[torch.nn.Module]:
        """The module that runs now, in this thread."""
        if threading.get_ident() != self._thread or not self._stack:
            return None
        if self._narrow is not None:
            for frame in _module_calls(self._stack[0].frame):
                module: torch.nn.Module = frame.f_locals["self"]
                if id(module) in self._paths:
                    return module
        return self._stack[-1].module if self._narrow is None else self._stack[0].module

    @property
    def entered(self) -> Sequence[Entered]:
        """The modules that run, the innermost last."""
        if self._narrow is None or not self._stack:
            return self._stack
        frames = [frame for frame in _module_calls(self._stack[0].frame) if id(frame.f_locals["self"]) in self._paths]
        return [self._stack[0], *(Entered(frame.f_locals["self"], self._paths[id(frame.f_locals["self"])], frame, frame.f_locals[_ARGS])
                                  for frame in reversed(frames))]

    # -------------------------------------------------------------------------------- hooks of modules

    def enter(self, module: torch.nn.Module, args: Any, frame: Any) -> None:
        """A module begins to run, in this frame of `_call_impl`, with these positional arguments."""
        if self._ignores(module):
            return
        began, narrow = time.perf_counter(), self._narrow
        try:
            if narrow is not None and self._stack:
                self.settle()
            if narrow is not None and self._stack and not narrow[id(module)] & NEW and threading.get_ident() == self._thread:
                within = Entered(module, self._paths[id(module)], frame, args)
                self._entered[within.path] = module
                if narrow[id(module)] & BY_MODE:
                    self._force_eager()
                    self._stack.append(within)
                    self._wake()
                    self._pass_over(*within[:2], args)
                return
            is_ours = module is self.root or "_orig_mod" in module._modules and any(one is self.root for one in module.modules())
            if not self._stack and is_ours and self._is_compiled(module):
                self._begin_looking()
                self.watcher.calls_compiled(args, frame.f_locals.get("kwargs") or {})
                return
            self._force_eager()
            self.settle()
            path = self._paths.get(id(module))
            if self._elsewhere():
                return
            if self._stack and self._narrow is None:
                self._learned.ran(module)
            if path is None:
                return
            if self._narrow is not None and self._narrow[id(module)] & NEW:
                self._learned.odd()
            elif self._stack or self._begin(module, path, frame):
                self._stack.append(Entered(module, path, frame, args))
                self._entered[path] = module
                self._wake()
                self._pass_over(module, path, args)
                if self.follows is not None:
                    self.follows(path, self._stack[-1].first)
        except Exception:
            self.watcher.notices.failed("a forward could not be followed")
        finally:
            self.seconds += time.perf_counter() - began

    def _ignores(self, module: torch.nn.Module) -> bool:
        """Whether a module that has a hook is not followed, as what is compiled, and a replica of a followed module."""
        return is_compiling() or (self._narrow is not None and id(module) not in self._narrow)

    def _wake(self) -> None:
        """A mode is there in full captures, else while a module runs whose attention needs one."""
        narrow = self._narrow
        is_awake = narrow is None
        if narrow is not None:
            for one in self._stack:
                is_awake = is_awake or narrow[id(one.module)] & BY_MODE > 0
        if is_awake != self.is_awake:
            self.is_awake = is_awake
            if self._lookout is not None:
                self._lookout.see()

    def _begin(self, module: torch.nn.Module, path: str, frame: Any) -> bool:
        if torch.jit.is_scripting() or torch.jit.is_tracing() or is_graph_captured():  # type: ignore
            return False
        # Torch 1.13 cannot tell a repeated forward: there only those of the whole model count.
        self._again = graph_task_id() != -1 if graph_task_id is not None else path != ""
        if self._again and graph_task_id is None:
            if torch.is_grad_enabled():
                self.watcher.passes_over()
            return False
        if not (self.watcher.awaits(path) if self._again else self.watcher.begins(module)):
            return False
        self._trains = path != "" or torch.is_grad_enabled()
        if self._narrow is not None and not self._begins_well(module, frame):
            return False
        # A mode is what keeps torch from its fast path, and what sees functions where a mode of somebody else sees them.
        if self._narrow is not None and (not self._trains or has_function_modes()):
            self._widen()
            self._hook()
        self._thread = threading.get_ident()
        self._calls, self._passed, self._entered = {}, {}, {}
        self._lookout = lookout_here()
        self._lookout.add(self)
        return True

    def _begins_well(self, module: torch.nn.Module, frame: Any) -> bool:
        """Whether a narrow capture may follow a forward that begins here: no other module of the model has called this one."""
        around = []
        while frame is not None:
            if frame.f_code is _CALL and frame.f_locals["self"] is not module:
                around.append(frame.f_locals["self"])
            frame = frame.f_back
        is_known = self._narrow is not None and bool(self._narrow[id(module)] & BEGINS)
        if not is_known or any("_orig_mod" in one._modules for one in around):  # or what compiles the model has called it
            self._learned.odd()
        return is_known or not any(id(one) in self._paths for one in around)

    def _pass_over(self, module: torch.nn.Module, path: str, args: Any) -> None:
        """Takes the mode away while a module runs that would compute something else with it."""
        if self._fast is not None or not self._trains or self._lookout is None or not _takes_fast_path(module, args):
            return
        self._fast = module
        self._learned.odd()
        self._lookout.pause(self)
        if path not in self._told:
            self._told.add(path)
            log.warning("%s (%s) takes the fast path of torch in a forward that is trained with, as it is in eval mode "
                        "and needs no gradient: what it attends to is not captured", path or "the model",
                        type(module).__name__)

    def _elsewhere(self) -> bool:
        """Whether a forward is followed in another thread, which is alive."""
        return (bool(self._stack) or self._shown is not None) and threading.get_ident() != self._thread \
            and any(thread.ident == self._thread for thread in threading.enumerate())

    def leave(self, module: torch.nn.Module, output: Any) -> None:
        """A module is done; `output`: None, if there is none, or it broke off."""
        if self._ignores(module):
            return
        began = time.perf_counter()
        try:
            if not self._stack or threading.get_ident() != self._thread:
                return
            if self._stack[-1].module is module or any(entered.module is module for entered in reversed(self._stack)):
                while self._pop() is not module:
                    pass
                if not self._stack:
                    self._finish(whole=output is not None or sys.exc_info()[1] is None)
        except Exception:
            self.watcher.notices.failed("a forward could not be followed")
        finally:
            self.seconds += time.perf_counter() - began

    def _pop(self) -> torch.nn.Module:
        """The module that runs now is done."""
        module = self._stack.pop().module
        if module is self._fast:
            self._fast = None
            if self._lookout is not None:
                self._lookout.resume(self)
        if self._stack:
            self._wake()
        return module

    def settle(self) -> None:
        """Ends what died without a word: torch tells of no KeyboardInterrupt, and before torch 2 of no exception."""
        if not self._stack or threading.get_ident() != self._thread or _runs(self._stack[-1].frame)[0]:
            return
        while self._stack and not _runs(self._stack[-1].frame)[0]:
            self._pop()
        if not self._stack:
            self._finish()

    def _finish(self, whole: bool = False) -> None:
        """The forward is over. `whole`: it ran to its end, so what was not seen of a softmax is not there."""
        self._stack, self._fast, self.is_awake = [], None, self._narrow is None
        if self._lookout is not None:
            self._lookout.end_trails(self, whole)
            self._lookout.remove(self)
        if self._leaving:
            self.remove()
        if not self._again:
            self._learned.forward_ends(whole)
            narrow = self._narrow
            missing = [] if narrow is None else [path for path, module in self._entered.items()
                                                 if narrow[id(module)] & ATTENDS and self._calls.get(path, 0) == self._passed.get(path, 0)]
            if missing or narrow is not None and not self._calls:
                self._learned.odd()
            if missing and whole and missing[0] not in self._missed:
                self._missed.add(missing[0])
                log.info("%s (%s) showed no attention in a captured step, as it had before: what it attended to in another way is not "
                         "sent. Everything is looked at in the next capture", missing[0], type(self._entered[missing[0]]).__name__)
            self.watcher.ends(None if not whole else self._unseen() if narrow is None else [])

    @property
    def was_told(self) -> bool:
        """Whether any module publishes by hand, was said to be passed over, or is captured from the next forward on."""
        return bool(self._told or self._unread) or self._altered

    @property
    def records(self) -> bool:
        """Whether autograd records what the model computes now."""
        return self._lookout is None or self._lookout.records

    @property
    def told_here(self) -> bool:
        """Whether the module that runs now publishes by hand."""
        return self.current_path in self._told

    def told(self) -> None:
        """The module that runs now publishes what it does by hand."""
        if self.current_path is not None:
            self._told.add(self.current_path)
            self._learned.odd()

    def _unseen(self) -> List[str]:
        """Modules that were run and look like attention, with none seen or told in or below them."""
        known = self._told.union(self._unread, self._calls)
        return [path for path, module in sorted(self._entered.items(), key=lambda entry: entry[0])
                if path not in known and (SAYS_ATTENTION.search(type(module).__name__) or other_attention(path, module))
                and any(True for _ in module.parameters())
                and not any(seen.startswith(path + ".") or path.startswith(seen + ".") for seen in known)]


def _takes_fast_path(module: torch.nn.Module, args: Any) -> bool:
    """Whether a module of torch may compute its attention by one fused kernel, which it does only while no mode is
    there. With padding what that gives is not what the other path gives. Never False by mistake."""
    if module.training or not isinstance(module, _FAST_CLASSES) or not _fast_path_enabled():
        return False
    layer = module.layers[0] if isinstance(module, torch.nn.TransformerEncoder) and len(module.layers) else module
    attention = getattr(layer, "self_attn", layer)
    if not getattr(attention, "batch_first", True) or not getattr(attention, "_qkv_same_embed_dim", True):
        return False
    needed = torch.is_grad_enabled() and (any(parameter.requires_grad for parameter in attention.parameters())
                                          or any(getattr(given, "requires_grad", False) for given in args[:1]))
    return not needed


def _runs(frame: Any) -> Tuple[bool, bool]:
    """Whether a Python frame of this thread still runs, and whether the frame has called a further module, which runs now. The answer
    is nearly always a few frames away."""
    caller: Any = sys._getframe(1)
    within = False
    while caller is not None and caller is not frame:
        within = within or caller.f_code is _CALL
        caller = caller.f_back
    return caller is not None, within


def _module_calls(until: Any = None) -> Iterator[Any]:
    """The frames of this thread in which modules are called, the innermost first, as far as a frame around them."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame is not until:
        if frame.f_code is _CALL:
            yield frame
        frame = frame.f_back


_CALL = torch.nn.Module._call_impl.__code__
_ARGS = _CALL.co_varnames[_CALL.co_argcount + _CALL.co_kwonlyargcount]  # as positional arguments are called there
_FAST_CLASSES = (torch.nn.TransformerEncoder, torch.nn.TransformerEncoderLayer, torch.nn.MultiheadAttention)
_fast_path_enabled: Callable[[], bool] = getattr(getattr(torch.backends, "mha", None), "get_fastpath_enabled",
                                                 lambda: True)
