# SPDX-License-Identifier: MIT
"""manual: publishing by hand, from within a model that is watched.

    class MyAttention(nn.Module):
        def forward(self, x):
            ...
            attnd.publish_qk(q, k, causal=True)      # q [B, H, T, d], k [B, Hkv, T, d]

Each function goes to the watch that was opened last and is still open, at its epoch and step, when its plan takes the
step and the layer and somebody is subscribed, with as many samples as the plan says, others each time, but the first ones
where it brings their labels; otherwise, and without a watch, it does nothing, cheaply. So it does in forwards that watch() does not count: a validation, and what activation
checkpointing runs again. Nothing is raised into the training: what is wrong with the arguments is logged once. True
when a message was queued.

`stack`, `layer` and `site` default to the name of the module whose forward is running (layers.py); that is known while
the watch follows it, which is when a step is captured. Everything else is as for the methods of Publisher.
"""
from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Tuple

from .base import torch_state, wire
from .base.plan import some
from .capture.watch import Watch, innermost
from .sending.publisher import Publisher


def publish_attention(weights: Any, *, stack: Optional[str] = None, layer: Optional[int] = None, site: str = "self",
                      **options: Any) -> bool:
    """Publishes attention weights [B, H, Tq, Tk]; see the module and Publisher.publish_attention."""
    return _publish(Publisher.publish_attention, stack, layer, site, weights, **options)


def publish_qk(q: Any, k: Any, v: Any = None, *, stack: Optional[str] = None, layer: Optional[int] = None,
               site: str = "self", **options: Any) -> bool:
    """Publishes queries [B, H, Tq, d] and keys [B, Hkv, Tk, d]; see the module and Publisher.publish_qk."""
    return _publish(Publisher.publish_qk, stack, layer, site, q, k, v, **options)


def publish_weights(*, stack: Optional[str] = None, layer: Optional[int] = None, site: str = "self",
                    **options: Any) -> bool:
    """Publishes projection matrices; see the module and Publisher.publish_weights."""
    return _publish(Publisher.publish_weights, stack, layer, site, **options)


def _publish(method: Callable[..., bool], stack: Optional[str], layer: Optional[int], site: str, *tensors: Any,
             **options: Any) -> bool:
    watch = innermost()
    if watch is None or torch_state.is_graph_captured() or not torch_state.unseen_by_modes():
        return False
    try:
        with torch_state.outside_modes():
            where = _where(watch, stack, layer, site)
            if where is None or not watch.forwards.wants(where):
                return False
            if tensors:
                options.setdefault("tokens", _tokens(watch, where, tensors))
                tensors, options = _taken(watch, where, tensors, options)
            options.setdefault("module", where.module)
            return method(watch.publisher, *tensors, stack=where[0], layer=where[1], site=where[2], epoch=watch.epoch,
                          step=watch.current_step, **options)
    except Exception:
        watch.failed("what was published by hand could not be")
        return False


def _where(watch: Watch, stack: Optional[str], layer: Optional[int], site: str) -> Optional[wire.NamedLayer]:
    """The layer that is meant; None when it is not known, or when the forward that runs does not count."""
    path = watch.forwards.running()
    if path is None and not watch.forwards.counts():
        return None
    if layer is not None:
        return wire.NamedLayer(*wire.check_layer(stack or "decoder", layer, site), wire.clean_module(path or ""))
    return None if path is None else watch.forwards.name(path)


def _tokens(watch: Watch, where: wire.NamedLayer, tensors: Tuple[Any, ...]) -> Any:
    """The tokens of the forward that runs, where they are the keys of the attention; else None. `tensors` are its
    weights, or queries, keys and values."""
    shapes = [tuple(getattr(tensor, "shape", ())) for tensor in tensors if tensor is not None]
    if where[2] != "self" or len(shapes[0]) != 4 or shapes[0][2] != (shapes[1][2] if len(shapes) > 1 else shapes[0][3]):
        return None
    return watch.forwards.tokens_of(where[0], shapes[0][0], shapes[0][2])


PER_SAMPLE = ("q_len", "k_len", "mask", "grad", "tokens", "documents", "v", "dout", "x_norm")


def _taken(watch: Watch, where: wire.NamedLayer, tensors: Tuple[Any, ...], options: Dict[str, Any]
           ) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    """Tensors and options cut to the samples of the plan."""
    count, batch = watch.plan.samples, len(tensors[0])
    if not 0 < count < batch:
        return tensors, options
    first_ones = some(range(count), batch)
    samples = first_ones if options.get("labels") or options.get("q_labels") else watch.forwards.samples_by_hand(where, batch)
    cut = {name: value[samples.rows] if name in PER_SAMPLE and value is not None else value
           for name, value in options.items()}
    return tuple(tensor[samples.rows] if hasattr(tensor, "shape") else tensor for tensor in tensors), {**cut, "samples": samples}
