# SPDX-License-Identifier: MIT
"""matrix: the matrix that a module or parameter of a model is, as it acts now, and its copy.

    as it is      a Linear or Conv1D, a convolution over one place, a parameter
    LoRA          base + scale B A, as peft has it, put together on the sender thread
    applied       anything else that has parameters: applied.py. Shapes are those of what it is wrapped around

A matrix that is quantised, or in another process, is Refused.
"""
from __future__ import annotations

import copy
import inspect
import re
from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch

from ..sending.devices import DTYPE_NAMES, HostCopy
from .applied import Applied, Refused, described, failure, is_of_torch, is_parametrisation
from .shards import Shard, is_sharded, shard_of

Modules = Mapping[str, torch.nn.Module]  # by path

_NORM = re.compile("(Layer|RMS|Rms|Batch|Group|Instance)Norm")
_BESIDE = re.compile(_NORM.pattern + "|Dropout")

Added = Tuple[Tuple[float, torch.Tensor, torch.Tensor], ...]


class Matrix(NamedTuple):
    """A matrix of the model, [out, in] or `transposed`, and what LoRA adds to it: scale B A of each.

    shard    the tensor is a part of the matrix
    rows     (each, first, count): in every `each` rows of the tensor, the matrix has the `count` rows from `first` on
    latent   (scale or None, factor): the matrix is tensor diag(scale) factor, of whose rows as many count as the tensor has
             columns
    applied  computes the matrix, of which the tensor has the shape alone
    whole    the DTensor of which the tensor is a part
    """
    tensor: torch.Tensor
    transposed: bool = False
    added: Added = ()
    shard: Optional[Shard] = None
    rows: Optional[Tuple[int, int, int]] = None
    latent: Optional[Tuple[Optional[torch.Tensor], torch.Tensor]] = None
    applied: Optional[Applied] = None
    whole: Any = None

    @property
    def shape(self) -> Tuple[int, int]:
        rows, columns = self.shard.shape if self.shard is not None else (int(n) for n in self.tensor.shape)
        rows, columns = (columns, rows) if self.transposed else (rows, columns)
        if self.rows is not None:
            rows = rows // self.rows[0] * self.rows[2]
        return rows, columns if self.latent is None else int(self.latent[1].shape[1])

    @property
    def at(self) -> Tuple[int, int]:
        """The row and column of the whole where the tensor begins."""
        first = self.shard.first if self.shard is not None else 0
        return (0, first) if self.transposed else (first, 0)

    def is_sent(self, by_first: bool) -> bool:
        """Whether this rank sends it, as a part; `by_first`: it is the rank that sends what all have."""
        return by_first if self.shard is None else self.shard.sent

    @property
    def nbytes(self) -> int:
        sources = [*self._sources, *(tensor for tensor in self.latent or () if tensor is not None)]
        return sum(tensor.numel() * tensor.element_size() for tensor in sources)

    @property
    def places(self) -> Tuple[int, ...]:
        """Where its numbers lie."""
        if self.shard is not None:
            return (self.shard.identity,)
        return tuple(tensor.data_ptr() for tensor in self._sources)

    @property
    def sources(self) -> Tuple[torch.Tensor, ...]:
        """The parameters that it is made of."""
        return (self.tensor if self.whole is None else self.whole, *(tensor for _, *pair in self.added for tensor in pair))

    @property
    def is_trained(self) -> bool:
        """Whether any of them needs a gradient."""
        return any(one.requires_grad for one in self.sources)

    def here(self) -> torch.Tensor:
        """The tensor as it is now."""
        if self.whole is None:
            return self.tensor
        local: torch.Tensor = self.whole.to_local()
        return local

    @property
    def stored_columns(self) -> int:
        return int(self.tensor.shape[1]) if self.shard is None else self.shard.shape[1]

    def place_of(self, row: np.ndarray, column: np.ndarray) -> Tuple[np.ndarray, Optional[np.ndarray]]:
        """Where some numbers of the matrix lie in here(), row by row, and whether they do, None: all. 0 where they do not."""
        if self.rows is not None:
            each, first, count = self.rows
            row = row // count * each + first + row % count
        if self.transposed:
            row, column = column, row
        columns = self.stored_columns
        if self.shard is None:
            return row * columns + column, None
        row = row - self.shard.first
        held = (row >= 0) & (row < self.here().numel() // columns)
        return np.where(held, row * columns + column, 0), None if held.all() else held

    @property
    def _sources(self) -> Iterator[torch.Tensor]:
        if self.applied is not None:
            return iter(self.applied.tensors())
        return iter((self.tensor, *(tensor for _, *pair in self.added for tensor in pair)))

    def copy(self, floats: bool = False) -> Callable[[], Tuple[str, np.ndarray]]:
        """Copies it now; what is returned gives dtype and numbers, [out, in]. `floats`: f16 and bf16 as f32."""
        whole = HostCopy(self.tensor) if self.applied is None else self.applied.copy()
        added = [(scale, HostCopy(b), HostCopy(a)) for scale, b, a in self.added]
        latent = None if self.latent is None else [None if one is None else HostCopy(one) for one in self.latent]

        def finish() -> Tuple[str, np.ndarray]:
            if not isinstance(whole, HostCopy):
                kind, array = "f32", whole()
            else:
                kind, array = ("f32", whole.floats()) if added or floats or latent else (whole.dtype_name, whole.numpy())
            array = array.T if self.transposed else array
            for scale, b, a in added:
                array = array + np.float32(scale) * (b.floats() @ a.floats())
            if self.rows is not None:
                each, first, count = self.rows
                array = array.reshape(-1, each, array.shape[1])[:, first:first + count].reshape(-1, array.shape[1])
            if latent is not None and latent[1] is not None:
                scaled = array if latent[0] is None else array * latent[0].floats()
                array = scaled @ latent[1].floats()[:array.shape[1]]
            return ("f64" if array.dtype == np.float64 else kind), array

        return finish


# --------------------------------------------------------------------------------------- one of them

def matrix_at(modules: Modules, holder: str, name: str) -> Optional[Matrix]:
    """The matrix that a module or parameter of `holder` is; None: there is no such thing. Refused."""
    found = part_at(modules, holder, name)
    around, _, last = holder.rpartition(".")
    wrapper: Any = modules.get(around) if last == "base_layer" else None
    if isinstance(found, torch.nn.Module):
        try:
            matrix = matrix_of(name, found)
            return matrix if matrix is None or not _merges(wrapper) else _merged(name, wrapper, matrix)
        except Refused:
            raise
        except Exception as error:
            raise Refused("failed", f"{name} ({described(found)}) could not be read ({failure(error)})") from error
    if found is None or found.dim() == 1 and found.numel():
        return None
    matrix = _own(name, found)
    return matrix if not _merges(wrapper) else _merged(name, wrapper, matrix)


def _merges(wrapper: Any) -> bool:
    """Whether it is peft's adapter of a multi-head attention, which merges itself into that for each forward."""
    return type(wrapper).__name__ == "MultiheadAttention" and hasattr(wrapper, "lora_A") \
        and not wrapper.merged and not wrapper.disable_adapters


def _merged(name: str, wrapper: torch.nn.Module, matrix: Matrix) -> Matrix:
    if matrix.shard is not None:
        raise Refused("sharded", f"{name} is sharded (DTensor), and what LoRA adds to it is not")
    for parameter in wrapper.parameters():
        _check(name, parameter)
    return Matrix(torch.empty(matrix.shape, device="meta"), applied=Applied(name, wrapper, *matrix.shape, merged=name))


def part_at(modules: Modules, holder: str, name: str) -> Union[None, torch.nn.Module, torch.Tensor]:
    """The module or parameter of `holder` that has this name, be it a matrix or not; None: there is none. Where a parameter is
    parametrised it is what gives that."""
    module = modules.get(f"{holder}.{name}".lstrip("."))
    *inner, last = name.split(".")
    owner = modules.get(".".join(filter(None, (holder, *inner))))
    if module is not None or owner is None:
        return module
    given: Any = owner._modules.get("parametrizations")
    if given is not None and last in given:
        part: torch.nn.Module = given[last]
        return part
    found = owner._parameters.get(last)
    if found is None and last.endswith("_weight"):  # peft puts tensors in the place of what it merges
        found = vars(owner).get(last)
    return found if isinstance(found, torch.Tensor) else None


def held(part: Union[torch.nn.Module, torch.Tensor]) -> str:
    """A part of an attention in words, which is not sent."""
    return described(part) if isinstance(part, torch.nn.Module) else f"a parameter {list(part.shape)}"


def matrix_of(name: str, module: torch.nn.Module) -> Optional[Matrix]:
    """The matrix that a module multiplies by; None: it is none. Refused."""
    base: Any = getattr(module, "base_layer", None)
    if isinstance(base, torch.nn.Module) and hasattr(module, "lora_A"):
        added = _lora(name, module)
        if added is not None:
            matrix = matrix_of(name, base)
            if added and matrix is not None and matrix.shard is not None:
                raise Refused("sharded", f"{name} is sharded (DTensor), and what LoRA adds to it is not")
            return None if matrix is None else matrix._replace(added=added)
    if isinstance(module, torch.nn.Sequential):
        inner = _only_matrix(module)
        if inner is not None:
            return matrix_of(f"{name}.{inner}", module.get_submodule(inner))
    is_container = type(module).forward is torch.nn.Module.forward and "forward" not in vars(module)
    if isinstance(module, torch.nn.Embedding) or is_container:
        return None
    if callable(getattr(type(module), "weight", None)) or any(
            isinstance(own.get(part), torch.Tensor) for own in (module._parameters, module._buffers, vars(module))
            for part in ("qweight", "W_q")):
        raise Refused("quantised", f"{name} is quantised ({type(module).__name__})")
    weight = module._parameters.get("weight")
    if weight is None or not (is_of_torch(module) or type(module).__name__ == "Conv1D"):
        return _applied(name, module)
    if weight.dim() > 2 and not is_sharded(weight):
        if any(n != 1 for n in weight.shape[2:]) or getattr(module, "groups", 1) != 1:
            raise Refused("convolution", f"{name} is a convolution over several places or in groups ({type(module).__name__})")
    if weight.dim() == 1 and weight.numel():
        return None
    matrix = _own(name, weight if weight.dim() < 3 else weight.flatten(1))
    declared = getattr(module, "out_features", None), getattr(module, "in_features", None)
    if None not in declared and matrix.shape != declared:
        raise Refused("sharded", f"this process has a part of {name} alone")
    return matrix._replace(transposed=type(module).__name__ == "Conv1D")


def _only_matrix(module: torch.nn.Sequential) -> Optional[str]:
    """The name of the one part that multiplies, when others have no weights but those of norms; norms stand outside of a matrix
    everywhere. None: there are several, or activations between."""
    found = [name for name, part in module._modules.items()
             if not isinstance(part, torch.nn.Identity) and not _BESIDE.search(type(part).__name__)]
    return found[0] if len(found) == 1 else None


def _applied(name: str, module: torch.nn.Module) -> Optional[Matrix]:
    """The matrix that applying it tells; None: it has nothing that multiplies, or does more, as norms do."""
    needed = [one for one in inspect.signature(module.forward).parameters.values()
              if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    norms = any(_NORM.search(type(part).__name__) for part in module.modules())
    if "weight" not in module._parameters and (len(needed) > 1 or norms):
        return None
    for parameter in module.parameters():
        _check(name, parameter)
    sides = _sides(name, module)
    if sides is None:
        return None
    return Matrix(torch.empty(sides, device="meta"), applied=Applied(name, module, *sides))


def _sides(name: str, module: torch.nn.Module) -> Optional[Tuple[int, int]]:
    """(rows, columns) of a module that says so, or is around one that does: the largest, as adapters beside it are smaller."""
    base: Any = getattr(module, "base_layer", None)
    if isinstance(base, torch.nn.Module) and not is_of_torch(module):
        matrix = matrix_of(name, base)
        return None if matrix is None else matrix.shape
    said = [(getattr(part, out, None), getattr(part, into, None)) for part in module.modules() for out, into in (
        ("out_features", "in_features"), ("out_channels", "in_channels"), ("nf", "nx"))]  # Linears, convolutions, GPT-2's Conv1D
    found = [(out, into) for out, into in said if isinstance(out, int) and isinstance(into, int)]
    if said[0] in found:
        return found[0]
    if not found:
        found = [(int(one.shape[0]), int(one.shape[1])) for one in module.parameters() if one.dim() == 2]
    return (max(rows for rows, _ in found), max(columns for _, columns in found)) if found else None


_ADAPTER_STATE = "scaling", "active_adapters", "merged", "disable_adapters"  # as peft names them


def _lora(name: str, module: Any) -> Optional[Added]:
    """The addends of LoRA in a forward, as peft has it; None: it does something else. Refused."""
    if type(module).__name__ == "ParamWrapper" or not all(hasattr(module, part) for part in ("lora_B", *_ADAPTER_STATE)):
        return None
    if module.merged or module.disable_adapters:
        return None if module.merged and module.disable_adapters else ()
    active = [adapter for adapter in module.active_adapters if adapter in module.lora_A]
    variants: Any = getattr(module, "lora_variant", {})
    if any("ALora" in str(variants.get(adapter)) for adapter in active):
        raise Refused("applied", f"{name} has an adapter that acts on some of the tokens (aLoRA), so it is no one matrix")
    pairs = [(module.lora_B[adapter], module.lora_A[adapter]) for adapter in active]
    if any(adapter in variants or getattr(module, "use_dora", {}).get(adapter) for adapter in active) or \
            not all(isinstance(part, torch.nn.Module) and is_of_torch(part) and "weight" in part._parameters for pair in pairs
                    for part in pair):
        return None
    return tuple((float(module.scaling[adapter]), _factor(name, b.weight), _factor(name, a.weight))
                 for adapter, (b, a) in zip(active, pairs))


def adapters_of(module: Any) -> Any:
    """A copy of the state that decides what adapters add to the matrix of a module; None: the module has no adapter."""
    return [copy.copy(getattr(module, name, None)) for name in _ADAPTER_STATE] if hasattr(module, "base_layer") else None


def _factor(name: str, weight: torch.Tensor) -> torch.Tensor:
    """It is a matrix, also of a convolution over one place."""
    return _plain(name, weight if weight.dim() < 3 else weight.flatten(1))


def _own(name: str, weight: Any) -> Matrix:
    """The matrix, or the rows of it that are shared out to this process. Refused."""
    if not is_sharded(weight):
        return Matrix(_plain(name, weight))
    try:
        local, shard = shard_of(weight)
    except ValueError as why:
        raise Refused("sharded", f"{name} {why}") from None
    if local.dtype not in DTYPE_NAMES:
        raise Refused("quantised", f"{name} is quantised ({local.dtype})")
    if shard.sent and (local.device.type == "meta" or not is_held(local)):
        raise Refused("sharded", f"this process has no part of {name} now, as it should")
    return Matrix(local.detach(), shard=shard, whole=weight)


def _check(name: str, weight: Any) -> None:
    """Refused, unless its numbers are all here as they are."""
    if is_sharded(weight):
        raise Refused("sharded", f"{name} is sharded (DTensor), and no rank has all of it")
    if not isinstance(weight, torch.Tensor) or type(weight) not in (torch.Tensor, torch.nn.Parameter) or \
            weight.dtype not in DTYPE_NAMES and not weight.is_complex():
        what = getattr(weight, "dtype", None) or type(weight).__name__
        raise Refused("quantised", f"{name} is quantised ({type(weight).__name__}, {what})")
    if weight.numel() == 0 or weight.device.type == "meta" or not is_held(weight):
        raise Refused("sharded", f"this process has no matrix {name} now: it is sharded (FSDP, ZeRO), or none")


def _plain(name: str, weight: Any) -> torch.Tensor:
    """The parameter, when it is a matrix. Refused."""
    _check(name, weight)
    if weight.dim() != 2 or weight.is_complex():
        raise Refused("shapes", f"{name} {list(weight.shape)} is no matrix")
    plain: torch.Tensor = weight
    return plain


def storage(tensor: Any) -> Any:
    """Its memory."""
    return tensor.untyped_storage() if hasattr(tensor, "untyped_storage") else tensor.storage()  # torch 1.13


def is_held(tensor: torch.Tensor) -> bool:
    """Whether its memory is there: FSDP frees that of views and leaves them."""
    memory = storage(tensor)
    last = tensor.storage_offset() + sum((int(n) - 1) * step for n, step in zip(tensor.shape, tensor.stride()))
    return bool(memory.nbytes() >= (last + 1) * tensor.element_size())
