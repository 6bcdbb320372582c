# SPDX-License-Identifier: MIT
"""applied: the matrix that a module multiplies by, where that is no tensor of it: adapters, parametrisations, layers by hand.

The training thread copies the tensors of the module as they are. The sender thread builds the module anew around the copies,
in eval mode and without hooks (those of torch.nn.utils are kept, as they make the weight), and lets it

    tell its weight       a layer of torch whose weight is parametrised, or made by such a hook
    multiply the identity anything else; further inputs, apart, show whether it is linear, and the same in each batch

The module of the training is not called, so its buffers, hooks and random numbers are left alone. The copy computes in f32 or
f64, without autocast, and may neither draw random numbers nor speak to other ranks: an operation that would is refused before
it runs. A module that is no product with one matrix, or that fails, is Refused.
"""
from __future__ import annotations

import functools
import types
from collections import OrderedDict
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..sending.devices import HostCopy

TOLERANCE = 1e-5  # of the largest possible sum: thirty times above rounding in f32
COPIED_MAX = 16  # times the numbers of the matrix: a module with more refers to more than itself
COPIED_MIN = 1 << 20  # numbers that any may have
OF_TORCH = (torch.nn.Linear.forward, torch.nn.Conv1d.forward, torch.nn.Conv2d.forward)


class Refused(Exception):
    """The matrices of a layer cannot be published: `kind` of reason, of which each is told once, and the reason."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind


def is_of_torch(module: torch.nn.Module) -> bool:
    """Whether its forward is the product with its weight and nothing else, whatever made that. accelerate keeps it aside."""
    return ("forward" not in vars(module) or "_old_forward" in vars(module)) and type(module).forward in OF_TORCH


def described(module: torch.nn.Module) -> str:
    """A module in words: its class, and what it is around."""
    inner = next(((name, part) for name, part in module.named_modules() if part is not module and is_of_torch(part)), None)
    return f"{type(module).__name__} of {type(module).__module__}" + (
        "" if inner is None else f" around {inner[0]} ({type(inner[1]).__name__})")


def failure(error: Exception) -> str:
    """An exception, in a line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


class Applied:
    """The matrix [rows, columns] of a module that is called `name`; `merged`: of that part of what peft's adapter of a
    multi-head attention is around, when it has merged itself into it, as it does in each forward."""

    def __init__(self, name: str, module: torch.nn.Module, rows: int, columns: int, merged: Optional[str] = None):
        self.what, self._module, self._shape, self._merged = f"{name} ({described(module)})", module, (rows, columns), merged

    @property
    def is_alone(self) -> bool:
        """Whether it has a weight, at most a bias, and no further parameter."""
        names = {name for name, _ in self._module.named_parameters()}
        return "weight" in names and names <= {"weight", "bias"}

    @property
    def weight(self) -> Optional[torch.Tensor]:
        """Its weight, where that alone is its matrix."""
        weight = None if self._merged is not None else self._module._parameters.get("weight")
        return weight.detach() if self.is_alone and weight is not None and tuple(weight.shape) == self._shape else None

    def tensors(self) -> List[torch.Tensor]:
        """Its parameters and buffers."""
        return [*self._module.parameters(), *self._module.buffers()]

    def copy(self) -> Callable[[], np.ndarray]:
        """Copies its tensors now; what is returned computes the matrix, f32 or f64. Both may be Refused."""
        left = [max(COPIED_MIN, COPIED_MAX * self._shape[0] * self._shape[1])]

        def host(tensor: torch.Tensor) -> HostCopy:
            left[0] -= tensor.numel()
            if left[0] < 0:
                raise Refused("applied", f"{self.what} refers to more than itself")
            return HostCopy(tensor)

        copied, alone = _rebuilt(self._module, host, {}), self.is_alone

        def finish() -> np.ndarray:
            try:
                with torch.no_grad(), _Alone():  # type: ignore[no-untyped-call]
                    return np.asarray(self._matrix(copied, alone).numpy())
            except Refused:
                raise
            except Exception as error:
                raise Refused("applied", f"{self.what} cannot be applied by itself ({failure(error)})") from None

        return finish

    def _matrix(self, copied: Any, alone: bool) -> torch.Tensor:
        """The matrix of what was copied."""
        dtypes: Set[torch.dtype] = set()
        _rebuilt(copied, lambda one: dtypes.add(one.dtype), {})
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32

        def number(copy: HostCopy) -> torch.Tensor:
            tensor = copy.tensor()
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        module, (rows, columns) = _rebuilt(copied, number, {}), self._shape
        for part in module.modules():
            own = part._parameters
            own.update({key: torch.nn.Parameter(torch.zeros_like(one) if key == "bias" else one, requires_grad=False)
                        for key, one in own.items() if one is not None and one.is_floating_point()})
        if is_parametrisation(module):
            return self._fitting(module())
        if self._merged is not None:
            adapter: Any = module
            adapter.merge(adapter_names=[one for one in adapter.active_adapters if one in adapter.lora_A])
            part = getattr(adapter.base_layer, self._merged)
            return self._fitting(part if isinstance(part, torch.Tensor) else part.get_base_layer().weight)
        if is_of_torch(module):
            _make_weights(module, ())
            return self._fitting(module.weight.flatten(1))
        others = torch.stack([torch.zeros(columns), torch.arange(columns).sin(), -3 * torch.arange(columns).cos()]).to(dtype)
        if alone and module.weight.dim() == 2:
            try:
                if _agrees(module.weight, others, _called(module, others)):
                    return self._fitting(module.weight)
            except Exception:  # it needs an accelerator, or other ranks: nothing but its weight can be in its product
                return self._fitting(module.weight)
        made = _called(module, torch.cat((others[:1], torch.eye(columns, dtype=dtype))))
        matrix = (made[1:] - made[0]).T
        if not _agrees(matrix, others, _called(module, others)):
            raise Refused("applied", f"{self.what} is no product with one matrix")
        return self._fitting(matrix)

    def _fitting(self, matrix: torch.Tensor) -> torch.Tensor:
        if tuple(matrix.shape) != self._shape:
            raise Refused("applied", f"the matrix of {self.what} is {list(matrix.shape)} and not {list(self._shape)}")
        return matrix.detach()


def is_parametrisation(module: torch.nn.Module) -> bool:
    """Whether it gives a parameter of another module, as torch.nn.utils.parametrize has it."""
    return type(module).__name__ == "ParametrizationList"


def _called(module: torch.nn.Module, given: torch.Tensor) -> torch.Tensor:
    """The outputs [n, rows] of inputs [n, columns], which go as one sample."""
    made: Any = module(given[None])
    made = made[0] if isinstance(made, tuple) else made
    if not isinstance(made, torch.Tensor) or made.dim() != 3 or made.shape[:2] != (1, len(given)):
        raise ValueError(f"it gives {list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__}")
    return made[0]


def _agrees(matrix: torch.Tensor, given: torch.Tensor, made: torch.Tensor) -> bool:
    """Whether these are the products with the matrix, beside the first, which is a bias."""
    most = given.abs() @ matrix.abs().T + made[0].abs()
    return bool(((made - made[0] - given @ matrix.T).abs() <= TOLERANCE * most).all())


class _Alone(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Within it nothing draws random numbers, and nothing waits for other ranks."""

    def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "c10d" in str(function).partition(".")[0]:
            raise RuntimeError("it speaks to other ranks")
        if _RANDOM is not None and _RANDOM in getattr(function, "tags", ()):
            raise RuntimeError("it draws random numbers")
        return function(*args, **(kwargs or {}))


_RANDOM = getattr(getattr(torch, "Tag", None), "nondeterministic_seeded", None)


# --------------------------------------------------------------------------------------- building it anew

def _rebuilt(value: Any, leaf: Callable[[Any], Any], memo: Dict[int, Tuple[Any, Any]]) -> Any:
    """The same with other tensors: modules, what is bound to them, and containers are built anew, the rest is shared.
    `memo`: by identity of what has been built, itself and what was made of it."""
    if id(value) in memo:
        return memo[id(value)][1]
    again = functools.partial(_rebuilt, leaf=leaf, memo=memo)
    made = value
    if isinstance(value, (torch.Tensor, HostCopy)):
        made = leaf(value)
    elif isinstance(value, torch.nn.Module):
        return _rebuilt_module(value, leaf, memo)
    elif type(value) in (list, tuple, set):
        made = type(value)(again(one) for one in value)
    elif type(value) in (dict, OrderedDict):
        made = type(value)((key, again(one)) for key, one in value.items())
    elif isinstance(value, types.MethodType) and isinstance(value.__self__, torch.nn.Module):
        made = types.MethodType(value.__func__, again(value.__self__))
    elif isinstance(value, functools.partial):
        made = functools.partial(again(value.func), *map(again, value.args), **again(value.keywords))
    memo[id(value)] = value, made
    return made


def _rebuilt_module(module: torch.nn.Module, leaf: Callable[[Any], Any], memo: Dict[int, Tuple[Any, Any]]) -> torch.nn.Module:
    if isinstance(module, torch.jit.ScriptModule):
        raise Refused("applied", "it is compiled by torch.jit")
    made: torch.nn.Module = object.__new__(type(module))
    memo[id(module)] = module, made
    own = vars(made)
    for key, value in vars(module).items():
        if key == "_forward_pre_hooks":
            own[key] = OrderedDict((number, hook) for number, hook in value.items()
                                   if type(hook).__module__.startswith("torch.nn.utils."))
        elif "hooks" in key:
            own[key] = OrderedDict()
        elif key == "forward":
            own[key] = _rebuilt_function(vars(module).get("_old_forward", value), leaf, memo)
        else:
            own[key] = False if key == "training" else _rebuilt(value, leaf, memo)
    own["_compiled_call_impl"] = functools.partial(_call, made)  # beside the hooks of all modules
    return made


def _rebuilt_function(function: Any, leaf: Callable[[Any], Any], memo: Dict[int, Tuple[Any, Any]]) -> Any:
    """A forward that took the place of that of its class; with a function goes what it closes over."""
    if not isinstance(function, types.FunctionType) or not function.__closure__:
        return _rebuilt(function, leaf, memo)
    cells = tuple(types.CellType(_rebuilt_function(cell.cell_contents, leaf, memo)) for cell in function.__closure__)
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _make_weights(module: torch.nn.Module, args: Tuple[Any, ...]) -> None:
    """Runs the hooks of torch.nn.utils, which make weights of what is trained."""
    for hook in module._forward_pre_hooks.values():
        hook(module, args)


def _call(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
    _make_weights(module, args)
    return module.forward(*args, **kwargs)
