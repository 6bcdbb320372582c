# SPDX-License-Identifier: MIT
"""Faults that are planted in a training: each is in force from its step on, in the head or layer that it names.

A fault's `before(training, step)` is called before each step from `begin` on, and changes the model or the optimizer.
"""
import math
import random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch

from models import Attention, Model


LEARNED = 0.08  # of 1 - normalized entropy: untrained heads have 0.03


class Fault(NamedTuple):
    """What is wrong, and where: attention number `place` of Model.attentions(), -1 = all; head -1 = all of them."""
    check: str
    place: int
    head: int
    begin: int
    mate: int = -1  # the other twin

    @property
    def heads(self) -> Tuple[int, ...]:
        """The heads that may be named."""
        return (self.head,) if self.mate < 0 else (self.head, self.mate)


def factor(attention: Attention, head: int, value: float) -> None:
    """Multiplies the queries of one head, -1 = of all, from now on."""
    made = torch.ones(1, attention.heads, 1, 1) if attention.q_factor is None else attention.q_factor.clone()
    made[:, slice(None) if head < 0 else head] = value
    attention.q_factor = made


def saturated(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    factor(model.attentions()[fault.place][3], fault.head, 50.0)


def sharpening(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    factor(model.attentions()[fault.place][3], fault.head, min(1.3 ** age, 100.0))


def uniform(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    factor(model.attentions()[fault.place][3], fault.head, 0.0)


def dead_output(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    attention = model.attentions()[fault.place][3]
    attention.o_proj.weight.data[:, fault.head * attention.dim:(fault.head + 1) * attention.dim] = 0


def dead_layer(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    model.attentions()[fault.place][3].o_proj.weight.data.zero_()
    model.attentions()[fault.place][3].o_proj.weight.requires_grad_(False)


def collapse(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    if age == 0:
        for group in optimizer.param_groups:
            group["lr"] *= 30


def not_a_number(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    if age == 0:
        factor(model.attentions()[fault.place][3], fault.head, math.nan)
    elif age == 1:
        factor(model.attentions()[fault.place][3], fault.head, 1.0)


def logits(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    model.attentions()[fault.place][3].shared = 4.0 * min(age, 100)


def future(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    model.attentions()[fault.place][3].causal = False


def twins(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    attention = model.attentions()[fault.place][3]
    dim, one, other = attention.dim, fault.head, fault.mate
    for name in ("q_proj", "k_proj", "v_proj"):
        weight = getattr(attention, name).weight.data
        weight[other * dim:(other + 1) * dim] = weight[one * dim:(one + 1) * dim]


def sink_takeover(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    for _, _, _, attention in model.attentions():
        attention.sink = min(age, 40) * 2.0


def never_learned(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    attention = model.attentions()[fault.place][3]
    attention.q_proj.weight.data *= 0.05 if age == 0 else 1.0
    attention.q_proj.weight.requires_grad_(False)
    attention.k_proj.weight.requires_grad_(False)


def left_out(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    """The optimizer has not got the queries of a layer."""
    weight = model.attentions()[fault.place][3].q_proj.weight
    for group in optimizer.param_groups:
        group["params"] = [one for one in group["params"] if one is not weight]


def still(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    """No gradient arrives at the queries of a head; weight decay goes on."""
    attention = model.attentions()[fault.place][3]
    if age == 0:
        rows = torch.ones_like(attention.q_proj.weight)
        rows[fault.head * attention.dim:(fault.head + 1) * attention.dim] = 0
        attention.q_proj.weight.register_hook(lambda gradient: gradient * rows)


def replaced(model: Model, optimizer: Any, fault: Fault, age: int) -> None:
    """Queries and output of a head are drawn anew."""
    attention = model.attentions()[fault.place][3]
    where = slice(fault.head * attention.dim, (fault.head + 1) * attention.dim)
    for one in (attention.q_proj.weight.data[where], attention.o_proj.weight.data[:, where]) if age == 0 else ():
        one.copy_(torch.randn(one.shape) * one.std())


class Kind(NamedTuple):
    """How a fault is planted: of a head or of a layer, from the first step or later, and in which tasks."""
    before: Callable[[Model, Any, Fault, int], None]
    check: str
    of_head: bool = True
    from_start: bool = False
    everywhere: bool = False
    decoders: bool = False
    multihead: bool = False
    unbounded: bool = False  # QK-norm prevents it
    learned: bool = False  # in heads that have learned something
    hurts: bool = False  # it is a fault only where the loss rises
    logits: bool = False  # seen by them alone: by what torch 1 has, attention in parts, they are not captured


KINDS: Dict[str, Kind] = {
    "saturated": Kind(saturated, "head_saturated", logits=True),
    "sharpening": Kind(sharpening, "head_saturated", logits=True),
    "uniform": Kind(uniform, "head_uniform", learned=True),
    "dead_output": Kind(dead_output, "head_silent"),
    "collapse": Kind(collapse, "entropy_collapse", of_head=False, everywhere=True, unbounded=True, hurts=True),
    "not_a_number": Kind(not_a_number, "first_invalid"),
    "logits": Kind(logits, "max_logit_growth", of_head=False, logits=True),
    "future": Kind(future, "looks_ahead", of_head=False, decoders=True),
    "twins": Kind(twins, "head_twins", multihead=True),
    "sink_takeover": Kind(sink_takeover, "sink_takeover", of_head=False, everywhere=True),
    "never_learned": Kind(never_learned, "never_learned", of_head=False, from_start=True, unbounded=True),
    "dead_layer": Kind(dead_layer, "head_silent", of_head=False, from_start=True),
    "left_out": Kind(left_out, "weights_still", of_head=False, from_start=True),
    "still": Kind(still, "weights_still", from_start=True),
    "replaced": Kind(replaced, "weights_replaced"),
    "saturated_layer": Kind(saturated, "entropy_collapse", of_head=False, logits=True),
}


def plant(kind: str, model: Model, steps: int, seed: int) -> Optional[Fault]:
    """A fault of this kind at a random place; None when the model has no such place."""
    chosen, how = random.Random(f"{kind} {seed}"), KINDS[kind]
    places = [i for i, (stack, layer, site, attention) in enumerate(model.attentions())
              if not (how.from_start and layer == 0) and (not how.decoders or (stack == "decoder" and site == "self"))
              and (not how.multihead or attention.heads == attention.kv_heads)]
    if not places or (how.decoders and len(places) < 2) or (how.unbounded and model.shape.qk_norm):
        return None
    place = -1 if how.everywhere else chosen.choice(places)
    head = chosen.randrange(model.shape.heads) if how.of_head else -1
    begin = 0 if how.from_start else chosen.randrange(int(steps * 0.45), int(steps * 0.65))
    return Fault(how.check, place, head, begin, (head + 1) % model.shape.heads if how.multihead else -1)


@torch.no_grad()
def moved(fault: Fault, model: Model, step: int, seed: int) -> Optional[Fault]:
    """The same in a head that has learned something by now; None when none has."""
    heads = [(place, head) for place, attention in enumerate(attentions_of(model, step))
             for head, focus in enumerate(attention) if focus > LEARNED]
    if not heads:
        return None
    place, head = random.Random(seed).choice(heads)
    return fault._replace(place=place, head=head)


def attentions_of(model: Model, step: int) -> List[List[float]]:
    """1 - normalized entropy of each head of each attention, over the queries that see all keys of their sample."""
    for _, _, _, attention in model.attentions():
        attention.seen = []
    model(step)
    found = []
    for _, _, _, attention in model.attentions():
        q, k = attention.seen
        weights = torch.softmax(q[:, :, -1:] @ k.transpose(-2, -1) / math.sqrt(attention.dim), -1)
        entropy = -torch.xlogy(weights, weights).sum(-1).mean((0, 2))
        found.append((1 - entropy / math.log(k.shape[2])).tolist())
        attention.seen = None
    return found
