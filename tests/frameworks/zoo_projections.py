# SPDX-License-Identifier: MIT
"""zoo_projections: where the models of the zoo have W_q, W_k, W_v and W_o, said by hand, model by model; and what
attnd has to say about them, in float64 numpy from the definitions, with the circuits written out in full."""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import torch
from expected import Layer
from torch import nn
from zoo import HEADS, Kind, decoder_kind, eager, handmade_kinds, scaled_dot_product_attention, translator_attentions

Matrices = Dict[str, np.ndarray]
Found = Dict[Layer, Matrices]


@dataclass
class Projected:
    """A kind of model, where its matrices are, and the arguments of watch that it needs; of T5 and Llama's kind the
    heads of keys are told by their shapes."""
    kind: Kind
    matrices: Callable[[nn.Module], Found]
    options: Dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.kind.name


def numbers(*tensors: torch.Tensor) -> Matrices:
    """Of wq, wk, wv and wo, [out, in] each."""
    return {name: tensor.detach().double().numpy() for name, tensor in zip(("wq", "wk", "wv", "wo"), tensors)}


def of_linears(*linears: nn.Module) -> Matrices:
    return numbers(*(linear.weight for linear in linears))


def of_multihead(module: nn.MultiheadAttention) -> Matrices:
    if module.in_proj_weight is not None:
        return numbers(*module.in_proj_weight.chunk(3), module.out_proj.weight)
    return numbers(module.q_proj_weight, module.k_proj_weight, module.v_proj_weight, module.out_proj.weight)


def of_translator(model: nn.Module) -> Found:
    """torch.nn.Transformer."""
    return {layer: of_multihead(module) for layer, module in translator_attentions(model).items()}


def of_blocks(model: nn.Module) -> Found:
    """A hand-written decoder, whose one projection has queries, keys and values in turn."""
    return {("decoder", i, "self"): numbers(*block.attn.qkv.weight.chunk(3), block.attn.out.weight)
            for i, block in enumerate(model.blocks)}


def handmade() -> List[Projected]:
    """All that this torch can have. The order of the rows of `qkv` is known by a fused kernel's queries and keys; an
    explicit softmax does not show them."""
    kinds = {kind.name: kind for kind in handmade_kinds()}
    told = {"projections": {"wqkv": "qkv", "wo": "out"}}
    found = [Projected(kinds["nn.Transformer"], of_translator), Projected(kinds["eager"], of_blocks, told)]
    if scaled_dot_product_attention is not None:
        found.append(Projected(kinds["sdpa"], of_blocks))
    return found


# ------------------------------------------------------------------------------------------ what attnd says

def slices(name: str, matrix: np.ndarray, heads: int) -> List[np.ndarray]:
    """The part of each head; of W_o columns."""
    return np.split(matrix, heads, axis=1 if name == "wo" else 0)


def spectrum(matrix: np.ndarray, count: int) -> Dict[str, Any]:
    s = np.linalg.svd(matrix, compute_uv=False)[:count]
    whole = s[-1] > s[0] * max(matrix.shape) * 2.0**-23  # else its rank is short
    return {"spectral_norm": s[0], "nuclear_norm": s.sum(), "stable_rank": (s**2).sum() / s[0]**2,
            "condition_number": np.log10(s[0] / s[-1]) if whole else np.nan, "singular_values": s[:16],
            "effective_rank_entropy": np.exp(-(s / s.sum() * np.log(s / s.sum())).sum())}


def expected(matrices: Matrices) -> Iterator[Tuple[str, Any]]:
    """(path in the map `weights`, value)."""
    d = (matrices["wq"].shape[0] if "wq" in matrices else matrices["wo"].shape[1]) // HEADS
    heads = {name: matrix.shape[name == "wo"] // d for name, matrix in matrices.items()}
    parts = {name: slices(name, matrix, heads[name]) for name, matrix in matrices.items()}
    for name, matrix in matrices.items():
        yield from ((f"{name}/whole/{key}", value) for key, value in spectrum(matrix, min(matrix.shape)).items())
        flat = np.array([part.ravel() for part in parts[name]])
        lengths = np.linalg.norm(flat, axis=1)
        yield f"{name}/head_correlation", flat @ flat.T / np.outer(lengths, lengths)
        yield from of_heads(name, [spectrum(part, d) for part in parts[name]])
    group = HEADS // heads["wv"]
    if "wq" in matrices:
        yield from of_heads("wq_wk", [spectrum(parts["wq"][h].T @ parts["wk"][h // group], d) for h in range(HEADS)])
    yield from of_heads("wv_wo", [spectrum(parts["wo"][h] @ parts["wv"][h // group], d) for h in range(HEADS)])


def of_heads(name: str, heads: List[Dict[str, Any]]) -> Iterator[Tuple[str, Any]]:
    for key in heads[0]:
        yield f"{name}/heads/{key}", np.array([head[key] for head in heads])


def errors(matrices: Matrices, weights: Dict[str, Any]) -> Dict[str, float]:
    """{what: the largest error, or NaN}, of what attnd says under `weights`: of singular values and norms by the largest one, of
    cosines as they are, of others by themselves."""
    found: Dict[str, float] = {}
    for path, want in expected(matrices):
        name, *keys = path.split("/")
        got: Any = weights[name]
        for key in keys:
            got = got[key]
        wanted, numbers = np.asarray(want), np.asarray(got, float)
        scale = 1.0 if path.endswith("correlation") else np.abs(wanted).max() if "singular" in path else np.abs(wanted)
        error = np.where(np.isnan(wanted) & np.isnan(numbers), 0, np.abs(numbers - wanted) / scale).max()
        found[keys[-1]] = float(np.maximum(found.get(keys[-1], 0.0), error))
    return found


def by_eager(name: str) -> Projected:
    """A decoder with an explicit softmax and nothing said about its rows."""
    return Projected(decoder_kind(name, eager, ("attention",)), of_blocks)
