# SPDX-License-Identifier: MIT
"""look: the attentions of compiled code, seen while it stays compiled.

A pass of Inductor puts the operator `attnd::look` before each F.scaled_dot_product_attention, flex_attention and varlen_attn
of a graph that is compiled after attnd.watch(). It returns at once unless a step is captured. Torch is told that it has an
effect, so that nothing drops it though it returns nothing, and recomputation for backward leaves it out. It is given the
tensors of the call; the rest of the call, and the functions of flex attention as torch traced them, are kept with its site.

Layers may share compiled code, so the layer is found when it runs: the path of the module within what is compiled is in the
graph, and the module that is compiled is in a Python frame below.

A graph that is to be replayed as a CUDA graph, or run by C++, gets none: Python would not run then. Nor does what torch.cond
and the like take, nor a compiled function that is given modules, nor flex attention that is compiled by itself: its detour
(flex.py) sees that.
"""
from __future__ import annotations

import importlib.util
import re
import sys
import weakref
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import torch
from torch.nn import functional

from ..base.local import version_order
from ..base.once import log
from ..base.torch_state import compiles_itself, is_no_repetition
from . import flex, kernels_of_others, sdpa
from .seen import Queries, autocast_dtype

if TYPE_CHECKING:
    from .spy import Spy

CONFIG = "torch._inductor.config"
_sdpa: Any = getattr(functional, "scaled_dot_product_attention", None)


class _Form(NamedTuple):
    """An attention in graphs: the names of its arguments, and its meaning by those. `own_file`: of the Python function whose
    calls take a detour where it is compiled by itself."""
    arguments: Sequence[str]
    read: Callable[[Mapping[str, Any]], Queries]
    own_file: str = ""

    def is_alone(self, node: Any) -> bool:
        """Whether the graph is of that function: the first line of the stack is in there."""
        lines = [line for line in (node.meta.get("stack_trace") or "").splitlines() if line.lstrip().startswith("File ")]
        return bool(self.own_file) and bool(lines) and self.own_file in lines[0]


# By what a node of a graph calls; torch's own function has no name that is as plain.
_FORMS: Dict[str, _Form] = {
    str(_sdpa): _Form(sdpa.ARGUMENTS, sdpa.queries_of),
    "flex_attention": _Form(flex.OPERATOR_ARGUMENTS, flex.of_operator, "/nn/attention/flex_attention.py"),
    "torch_attn._varlen_attn": _Form(kernels_of_others.VARLEN_ARGUMENTS, kernels_of_others.varlen, "/nn/attention/varlen.py")}


class _Tensor:
    """Stands for one of the tensors that the operator is given. No tuple, which is searched for more of them."""

    def __init__(self, number: int) -> None:
        self.number = number


class Site(NamedTuple):
    """An attention in a graph.

    number   no two of a process have the same
    path     of its module from the one that is compiled
    trains   autograd records there
    lowered  what autocast makes of f32 there
    given    the arguments by name, with a _Tensor for each tensor
    read     what they mean
    """
    number: int
    path: str
    trains: bool
    lowered: Optional[torch.dtype]
    given: Mapping[str, Any]
    read: Callable[[Mapping[str, Any]], Queries]

    def cast(self, tensor: torch.Tensor) -> torch.Tensor:
        """As autocast makes it there."""
        return tensor if self.lowered is None or tensor.dtype != torch.float32 else tensor.to(self.lowered)


_onlookers: List["Spy"] = []
_sites: List[Site] = []
_modules: "weakref.WeakSet[torch.nn.Module]" = weakref.WeakSet()  # compiled with such an operator within, and those that attend there
_without: "weakref.WeakSet[torch.nn.Module]" = weakref.WeakSet()  # compiled, and nothing in it has one
_blind: "weakref.WeakSet[torch.nn.Module]" = weakref.WeakSet()  # compiled, and an attention in it could have none
_watched: "weakref.WeakKeyDictionary[torch.nn.Module, int]" = weakref.WeakKeyDictionary()  # models, and by how many watches
_outer: "weakref.WeakKeyDictionary[torch.nn.Module, Any]" = weakref.WeakKeyDictionary()  # what torch.compile made of a module
_state: Dict[str, Any] = {"library": None, "keys": None, "has_effect": False, "failed": False, "told": False}
_CALLS = ("_call_impl", "_wrapped_call_impl")  # of Module
_UNREAD = ("dropout_p", "enable_gqa", "max_q", "max_k", "num_splits", "kernel_options")


def prepare(root: torch.nn.Module) -> None:
    """From now on what Inductor compiles of this model has these operators, if this torch can have them. It is not imported for
    that."""
    _watched[root] = _watched.get(root, 0) + 1
    if _state["library"] is not None or _state["failed"] or not _is_supported():
        return
    try:
        # Compiled code calls operators with nearly all keys of the dispatcher excluded; vmap, which mods.py needs, has one.
        with torch.inference_mode(False), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            _state["keys"] = torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set()
        _state["library"] = _library()
    except Exception:
        _fail()
        return
    if CONFIG in sys.modules:
        place_pass()
    else:
        sys.meta_path.insert(0, _AfterImport())


def retire(root: torch.nn.Module) -> None:
    """Undoes prepare() for what is compiled from now on."""
    _watched[root] = _watched.get(root, 0) - 1
    if _watched[root] <= 0:
        del _watched[root]


def is_prepared() -> bool:
    """Whether what is compiled now has such operators."""
    return _state["library"] is not None and not _state["failed"]


def sees(module: torch.nn.Module) -> bool:
    """Whether Inductor compiles it, or a part of it."""
    if "torch._dynamo" not in sys.modules:
        return False
    return any(one in _modules or any(_is_by_inductor(vars(one).get(name)) for name in ("dynamo_ctx", "_compiled_call_impl"))
               for one in module.modules())


def shows_nothing(root: torch.nn.Module) -> bool:
    """Whether parts of the model are compiled in whose code an attention has no operator, or nothing is that could have one: its
    attention is computed by other means, or elsewhere."""
    modules = set(root.modules())
    return not modules.isdisjoint(_blind) or (not modules.isdisjoint(_without) and modules.isdisjoint(_modules))


def _is_by_inductor(compiled: Any) -> bool:
    """Whether this, an OptimizedModule's context or what Module.compile() made, has Inductor as its backend. No public name of
    torch tells; where the private ones change it is False, and captured steps run eagerly."""
    if compiled is None:
        return False
    cells = dict(zip(getattr(getattr(compiled, "__code__", None), "co_freevars", ()), getattr(compiled, "__closure__", None) or ()))
    backend: Any = cells["callback"].cell_contents if "callback" in cells else getattr(compiled, "callback", None)
    while hasattr(backend, "_torchdynamo_orig_backend"):
        backend = backend._torchdynamo_orig_backend
    return bool(getattr(backend, "compiler_name", "") == "inductor")


def note(module: torch.nn.Module) -> torch.nn.Module:
    """The module that this compiles, if torch.compile made it; else itself."""
    inner: torch.nn.Module = getattr(module, "_orig_mod", module)
    if inner is not module:
        _outer[inner] = weakref.ref(module)
    return inner


def outside(root: torch.nn.Module) -> Optional[torch.nn.Module]:
    """The module whose hooks run when the model is called, and are no part of compiled code; None: there is none."""
    for inner, outer in list(_outer.items()):
        if any(module is root for module in inner.modules()):
            found: Optional[torch.nn.Module] = outer()
            return found
    return None if root in _modules or compiles_itself(root) else root


def listen(onlooker: "Spy") -> None:
    _onlookers.append(onlooker)


def forget(onlooker: "Spy") -> None:
    if onlooker in _onlookers:
        _onlookers.remove(onlooker)


def running_modules() -> Iterator[torch.nn.Module]:
    """The modules whose methods run in this thread, by their Python frames, the innermost first."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _CALLS:  # of other frames f_locals would keep the user's tensors alive
            found = frame.f_locals.get("self")
            if isinstance(found, torch.nn.Module) and not isinstance(found, torch.fx.GraphModule):
                yield note(found)
        frame = frame.f_back


def _is_supported() -> bool:
    """Torch 2.13 and later; older ones have not been tried."""
    return version_order(torch.__version__) >= (2, 13)


def _library() -> Any:
    make: Any = torch.library.Library
    library = make("attnd", "FRAGMENT")
    library.define("look(int site, Tensor[] tensors, float? scale) -> ()", tags=(torch.Tag.flexible_layout,))
    library.impl("look", _look, "CompositeExplicitAutograd")
    library.impl("look", lambda *arguments: None, "Meta")
    return library


def _look(number: int, tensors: Sequence[torch.Tensor], scale: Optional[float]) -> None:
    if _onlookers and number < len(_sites) and is_no_repetition():
        site = _sites[number]
        given = torch.fx.node.map_aggregate({**site.given, "scale": scale}, lambda one: tensors[one.number]
                                            if isinstance(one, _Tensor) else one)
        with torch._C._ForceDispatchKeyGuard(*_state["keys"]):
            for onlooker in list(_onlookers):
                onlooker.looks(site, given)


class _AfterImport:
    """Places the pass when the settings of Inductor are imported."""
    is_asking = False

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != CONFIG or self.is_asking:
            return None
        self.is_asking = True
        spec = importlib.util.find_spec(name)
        self.is_asking = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def executed(module: Any) -> None:
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                place_pass()

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


def place_pass() -> None:
    """Puts the pass after the one that is there, unless that is it: settings of Inductor are a thread's own, and the user's to
    change. It runs before Inductor looks for the graph in its caches, as it numbers the operators of this process."""
    try:
        from torch._inductor import config, custom_graph_pass
        given: Any = config.pre_grad_custom_pass
        if getattr(given, "is_look_pass", False):
            return
        before = list(given) if isinstance(given, (list, tuple)) else [] if given is None else [given]

        class LookPass(custom_graph_pass.CustomGraphPass):
            is_look_pass = True

            def __call__(self, graph: Any) -> None:
                for one in before:
                    one(graph)
                try:
                    if _is_whole():
                        _put(graph, not (config.triton.cudagraphs or config.cpp_wrapper), [])
                except Exception:
                    log.warning("an attention in compiled code cannot be seen", exc_info=True)

            def uuid(self) -> Any:
                return ("attnd", *(one.uuid() if hasattr(one, "uuid") else id(one) for one in before))

        if not _state["has_effect"]:
            _state["has_effect"] = True
            from torch._higher_order_ops import effects
            effects._register_effectful_op(torch.ops.attnd.look.default, effects._EffectType.ORDERED)
        config.pre_grad_pass_timing = "early"
        config.pre_grad_custom_pass = LookPass()
    except Exception:
        _fail()


def _fail() -> None:
    _state["failed"] = True
    log.warning("attentions in compiled code cannot be seen there; it runs eagerly in captured steps", exc_info=True)


def _is_whole() -> bool:
    """Whether this is no part of another graph: Inductor runs its passes over those first."""
    frame: Any = sys._getframe(1)
    count = 0
    while frame is not None:
        count += frame.f_code.co_name == "_recursive_pre_grad_passes"
        frame = frame.f_back
    return count <= 1


def _put(graph: Any, is_run_by_python: bool, autocasts: List[Any]) -> None:
    """Puts an operator before each attention of a graph, and of what it checkpoints. Other functions that take graphs, such as
    torch.cond, have no place for an effect in them. `autocasts`: of the graph around this one."""
    running = list(running_modules())
    if not _is_watched(running):
        return
    if running and running[0] not in _modules:
        _without.add(running[0])
    autocasts = list(autocasts)
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        name = getattr(node.target, "__name__", "")
        if name == "_enter_autocast":
            autocasts.append(node.args)
        elif name == "_exit_autocast" and autocasts:
            autocasts.pop()
        elif name == "tag_activation_checkpoint":
            body = getattr(graph.owning_module, str(node.args[0].target))
            _put(body.graph, is_run_by_python, autocasts)
            body.recompile()
        form = _FORMS.get(str(node.target).replace(".default", ""))
        if form is None or form.is_alone(node):
            continue
        if is_run_by_python:
            if not _put_before(graph, node, form, autocasts) and running:
                _blind.add(running[0])
                log.info("an attention in the compiled code of %s cannot be shown: captured steps run eagerly", type(running[0]).__name__)
        elif not _state["told"]:
            _state["told"] = True
            log.warning("compiled code that is replayed as a CUDA graph (mode=\"reduce-overhead\"), or that C++ runs, shows none of its "
                        "attentions: captured steps run it eagerly")


def _is_watched(running: Sequence[torch.nn.Module]) -> bool:
    """Whether one of these is a part of a model that is watched, or has it as a part."""
    roots = set(_watched)
    return not {one for root in roots for one in root.modules()}.isdisjoint(running) or any(
        not roots.isdisjoint(one.modules()) for one in running)


def _put_before(graph: Any, node: Any, form: _Form, autocasts: List[Any]) -> bool:
    """False: it could not be."""
    from torch._subclasses.fake_tensor import FakeTensor
    given = {**dict(zip(form.arguments, node.args)), **node.kwargs}
    if "block_mask" in given:
        given["block_mask"] = given["block_mask"][2:]  # without the lengths, which may change
    scale = given.pop("scale", None)
    tensors: List[Any] = []
    strange: List[Any] = []

    def stands_for(one: Any) -> Any:
        """A function that was traced is kept, and the place of a tensor; a number that changes from call to call is not."""
        function = getattr(graph.owning_module, str(one.target), None) if one.op == "get_attr" else None
        if isinstance(function, torch.nn.Module):
            return function
        value = one.meta.get("example_value")
        if type(value) is not FakeTensor:
            strange.append(value)
            return None
        if one not in tensors:
            tensors.append(one)
        return _Tensor(tensors.index(one))

    kept = {name: torch.fx.map_arg(value, stands_for) for name, value in given.items() if name not in _UNREAD}
    if strange:
        return False  # a number that changes; a DTensor has no rule for the operator, nor has a nested tensor
    stack = list((node.meta.get("nn_module_stack") or {}).items())
    if stack and not _is_of_running(stack[0]):
        return False  # a function is compiled that is given modules, others each time
    module = int(stack[-1][0].partition("@")[0]) if stack else 0
    compiled, owner, path = next(((above, one, path) for above in running_modules() for path, one in above.named_modules()
                                  if id(one) == (module or id(above))), (None, None, ""))
    if compiled is None or owner is None:
        return False
    lowered = _lowered_by(autocasts, tensors[0].meta["example_value"].device.type)
    site = Site(len(_sites), path, torch.is_grad_enabled(), lowered, kept, form.read)
    _sites.append(site)
    _modules.update((compiled, owner))
    _without.discard(compiled)
    with graph.inserting_before(node):
        graph.call_function(torch.ops.attnd.look.default, (site.number, tensors, scale))
    return True


def _is_of_running(entry: Any) -> bool:
    """Whether the outermost module of a node's stack is one that runs, or is found in one by the first parameter of its forward."""
    number, (source, _) = entry
    root = re.match(r"L\['(\w+)'\]", source)
    for one in running_modules():
        code = getattr(getattr(one.forward, "__func__", one.forward), "__code__", None)
        first = code.co_varnames[0] if code is not None and code.co_argcount else "self"
        if id(one) == int(number.partition("@")[0]) or (root is not None and root[1] in ("self", first)):
            return True
    return False


def _lowered_by(autocasts: List[Any], device: str) -> Optional[torch.dtype]:
    """The type that autocast gives f32 there: the innermost one of the graph, or the one around it."""
    for kind, dtype, enabled, _ in reversed(autocasts):
        if kind == device:
            return (dtype or torch.get_autocast_dtype(device)) if enabled else None
    return autocast_dtype(device)
