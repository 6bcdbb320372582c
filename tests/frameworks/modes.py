# SPDX-License-Identifier: MIT
"""modes: one small training in each of the ways in which people run theirs, and what it computes bit by bit.

As a program it is one rank (ranks.py) of all ways that need some."""
import contextlib
import functools

import pytest
import ranks
import torch
from session import PATIENCE_S, attnd, of_attention, tier_options
from torch import nn
from torch.nn import functional as F

if hasattr(torch, "func"):
    from torch.distributed import fsdp

WIDTH, HEADS, WORDS, LENGTH, LAYERS, STEPS = 48, 4, 19, 12, 2, 20
CAPTURES = {"raw": {"tier": "raw"}, "rows": {"tier": "rows"}, "values": {"values": True}, "gradients": {"gradients": True},
            "residual": {"residual": True}, **({"accelerator": {"rows": 5}} if hasattr(torch.cpu, "Stream") else {})}


def steps_of(capture):
    return 50 if capture == "accelerator" else STEPS


def options_of(capture, patch):
    """Of attnd.watch; `accelerator`: as there, on the CPU."""
    return {**CAPTURES[capture], **(tier_options(capture, patch) if capture == "accelerator" else {})}


class Block(nn.Module):
    """Its feed-forward is as wide as the model, so that all products have one shape."""

    def __init__(self):
        super().__init__()
        self.attn = Attention()
        self.up, self.down = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        x = x + self.attn(F.layer_norm(x, [WIDTH]))
        return x + self.down(F.gelu(self.up(F.layer_norm(x, [WIDTH]))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(-3, -2) for part in (self.q, self.k, self.v))
        return self.out(attend(q, k, v).transpose(-3, -2).flatten(-2))


def attend(q, k, v):
    """Causal. torch 1.13 has no call for it."""
    if hasattr(F, "scaled_dot_product_attention"):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    later = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).triu(1)
    return (q @ k.transpose(-2, -1) * q.shape[-1]**-0.5).masked_fill(later, -torch.inf).softmax(-1) @ v


class Model(nn.Module):
    """`around` runs a block, by checkpointing or plainly."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.around = lambda block, x: block(x)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = self.around(block, x)
        return self.head(x)


def checkpointed(**options):
    return lambda block, x: torch.utils.checkpoint.checkpoint(block, x, **options)


def every_second_product():
    """As torchtitan's policy: of the products, every second one is saved, by a count of those that the mode sees."""
    from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
    seen = {False: 0, True: 0}

    def policy(context, operation, *args, **kwargs):
        if operation is not torch.ops.aten.mm.default:
            return CheckpointPolicy.PREFER_RECOMPUTE
        seen[context.is_recompute] += 1
        return CheckpointPolicy.MUST_SAVE if seen[context.is_recompute] % 2 else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)


def offloaded(block, x):
    with torch.autograd.graph.save_on_cpu():
        return block(x)


AROUND = {"checkpointing": checkpointed(use_reentrant=False), "reentrant checkpointing": checkpointed(use_reentrant=True),
          "selective checkpointing": checkpointed(use_reentrant=False, context_fn=every_second_product), "offloading": offloaded}
LACKING = {  # in older torch
    "selective checkpointing": not hasattr(torch.utils.checkpoint, "create_selective_checkpoint_contexts"),
    **{mode: not hasattr(torch, "func") for mode in ("vmap", "FSDP1", "FSDP2")}}
ALONE = [mode for mode in ("eager", *AROUND, "accumulation", "autocast", "vmap", "double backward") if not LACKING.get(mode)]
RANKED = [mode for mode in ("DDP", "FSDP1", "FSDP2") if not LACKING.get(mode)]
UNSEEN = ("vmap",)  # nothing is captured, which is said


def loss_of(model, tokens):
    return F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def backward(model, mode, tokens):
    """One microbatch; its loss."""
    with contextlib.ExitStack() as around:
        if mode == "autocast":
            around.enter_context(torch.autocast("cpu", torch.bfloat16))
        if mode == "double backward" and hasattr(torch.nn, "attention"):
            around.enter_context(torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH))
        if mode == "vmap":
            loss = torch.func.vmap(lambda one: loss_of(model, one[None]))(tokens).mean()
        else:
            loss = loss_of(model, tokens)
        if mode == "double backward":
            slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            loss = loss + sum(slope.square().sum() for slope in slopes)
    loss.backward()
    return loss.detach()


def build(mode, distribute=lambda model: model):
    torch.manual_seed(5)
    model = Model()
    model.around = AROUND.get(mode, model.around)
    return distribute(model)


def train(model, mode, steps=STEPS, rank=0):
    """Losses, gradients of all steps and weights of a training."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    met = []
    for step in range(steps):
        for part in range(2 if mode == "accumulation" else 1):
            generator = torch.Generator().manual_seed(1000 * rank + 10 * step + part)
            met.append(backward(model, mode, torch.randint(WORDS, (3, LENGTH), generator=generator)))
        met += [whole(weight.grad).clone() for weight in model.parameters() if weight.grad is not None]  # FSDP1 leaves some empty
        optimizer.step()
        optimizer.zero_grad()
    return met + [whole(weight).detach().clone() for weight in model.parameters()]


def whole(tensor):
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def same_bits(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """A mode of the user, which notes every operation."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def distributed(mode, model):
    import torch.distributed as dist
    if mode == "DDP":
        return nn.parallel.DistributedDataParallel(model)
    if mode == "FSDP1":
        wrap = functools.partial(fsdp.FullyShardedDataParallel, device_id=torch.device("cpu"), use_orig_params=True)
        model.blocks = nn.ModuleList(map(wrap, model.blocks))
        return wrap(model)
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fsdp.fully_shard(block, mesh=mesh)
    return fsdp.fully_shard(model, mesh=mesh)


def train_rank(rank, world, endpoint):
    """{(mode, capture): (whether a watched training had the same bits, the kinds of its messages)}"""
    found, patch = {}, pytest.MonkeyPatch()
    for mode in RANKED:
        make = functools.partial(build, mode, functools.partial(distributed, mode))
        alone = {steps: train(make(), mode, steps, rank) for steps in {steps_of(capture) for capture in CAPTURES}}
        for capture in CAPTURES:
            model, kinds, options = make(), [], options_of(capture, patch)
            with attnd.watch(model, job=f"{mode}-{capture}".replace(" ", "-"), endpoint=endpoint, every=1, wait=PATIENCE_S,
                             weights_every=0, on_publish=of_attention(lambda message: kinds.append(message.kind)), **options):
                met = train(model, mode, steps_of(capture), rank)
                torch.distributed.barrier()
            patch.undo()
            found[mode, capture] = same_bits(met, alone[steps_of(capture)]), kinds
    return found


if __name__ == "__main__":
    ranks.main(train_rank)
