# SPDX-License-Identifier: MIT
"""Models that are watched, and what their messages mean."""
import numpy as np
import pytest
import torch

MHA = torch.nn.MultiheadAttention
D, H = 8, 2
X = torch.rand(3, 5, D)
DTYPES = {"f32": np.float32, "f64": np.float64, "f16": np.float16, "u8": np.uint8, "bf16": np.int16, "i32": np.int32}
TORCH_2 = hasattr(torch, "compiler")  # whose optimizers tell of steps
needs_step_hooks = pytest.mark.skipif(not TORCH_2, reason="torch 1.13 does not tell of steps")


class Model(torch.nn.Module):
    """One attention; forward passes everything on."""

    def __init__(self, **options):
        super().__init__()
        self.attn = MHA(D, H, **{"batch_first": True, **options})

    def forward(self, *args, **kwargs):
        return self.attn(*args, **kwargs)


class Recorder:
    """Wraps MHA.forward and keeps (query, need_weights, average_attn_weights) of every call."""

    def __init__(self, module):
        self.calls, self.original = [], module.forward

    def __call__(self, query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, average_attn_weights=True):
        self.calls.append((query, need_weights, average_attn_weights))
        return self.original(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights)


def tensors_of(message):
    """{name: array} of a message."""
    _, header, frames = message
    return {t["name"]: np.frombuffer(frame, DTYPES[t["dtype"]]).reshape(t["shape"])
            for t, frame in zip(header["tensors"], frames)}


def shape_of(message):
    """[B, H, Tq, Tk]"""
    shapes = [t["shape"] for t in message[1]["tensors"]]
    return shapes[0] if message[1]["type"] == "attention" else [*shapes[0][:3], shapes[1][2]]


def weights_of(message):
    """The weights that a message has, or that follow from its queries and keys: torch 2 publishes those when nobody
    asks the attention for its weights."""
    tensors = tensors_of(message)
    if "weights" in tensors:
        return tensors["weights"]
    logits = np.einsum("bhid,bhjd->bhij", tensors["q"], tensors["k"]) * message[1]["scale"]
    logits = np.where(visible(message)[:, None], logits, -np.inf)
    with np.errstate(invalid="ignore"):
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)


def visible(message):
    """bool [B, Tq, Tk] by the wire's rules."""
    header, mask = message[1], tensors_of(message).get("mask")
    batch, _, queries, keys = shape_of(message)
    i, j = np.ogrid[:queries, :keys]
    allowed = np.ones((batch, queries, keys), dtype=bool)
    if header.get("causal"):
        allowed &= j <= i
    if header.get("k_len"):
        allowed &= j < np.array(header["k_len"])[:, None, None]
    return allowed if mask is None else allowed & (mask == 1)


def next_tensors(daemon):
    """The next message that is no event."""
    while (message := daemon.next())[1]["type"] == "event":
        pass
    return message


def steps_of(messages):
    return [header["step"] for _, header, _ in messages]


def tensor_headers(messages):
    return [header for _, header, _ in messages if header["type"] != "event"]


def same(a, b):
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-6)
