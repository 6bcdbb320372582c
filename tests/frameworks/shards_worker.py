# SPDX-License-Identifier: MIT
"""shards_worker: one rank (ranks.py) of a model that FSDP2 shares out."""
import os

import ranks
import torch
import torch.distributed as dist
from session import PATIENCE_S, attnd
from torch import nn
from torch.nn import functional as F
from zoo import HEADS, seeded

WIDTH, WORDS, LENGTH, STEPS = 4 * HEADS, 11, 6, 2  # of an epoch


class Conv1D(nn.Module):
    """A Linear with its weight transposed, as GPT-2's."""

    def __init__(self, out, inner):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inner, out))

    def forward(self, x):
        return x @ self.weight


class Fused(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def heads(self, x):
        return [part.transpose(1, 2) for part in self.qkv(x).view(*x.shape[:2], 3, HEADS, -1).unbind(2)]

    def forward(self, x):
        attended = F.scaled_dot_product_attention(*self.heads(x), is_causal=True)
        return x + self.out(attended.transpose(1, 2).reshape(x.shape))


class OneKey(Fused):
    """All heads read one key head: its matrices have fewer rows than three ranks can share."""

    def __init__(self):
        nn.Module.__init__(self)
        self.q_proj, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k_proj, self.v_proj = nn.Linear(WIDTH, WIDTH // HEADS), nn.Linear(WIDTH, WIDTH // HEADS)

    def heads(self, x):
        q = self.q_proj(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2)
        return [q, *(proj(x)[:, None].expand_as(q) for proj in (self.k_proj, self.v_proj))]


class Transposed(Fused):
    def __init__(self):
        nn.Module.__init__(self)
        self.c_attn, self.out = Conv1D(3 * WIDTH, WIDTH), Conv1D(WIDTH, WIDTH)

    def qkv(self, x):
        return self.c_attn(x)


class Lora(nn.Module):
    """A Linear with an adapter, as peft makes it."""
    merged = disable_adapters = False
    active_adapters, scaling = ("a",), {"a": 1.0}

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"a": nn.Linear(WIDTH, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"a": nn.Linear(2, WIDTH, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["a"](self.lora_A["a"](x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList([Fused(), OneKey(), Transposed()])
        self.head = nn.Linear(WIDTH, WORDS)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def matrices(state):
    """W_q, W_k, W_v and W_o of each layer, by hand, from the weights of the whole model."""
    fused, last = state["blocks.0.qkv.weight"].chunk(3), state["blocks.2.c_attn.weight"].T.chunk(3)
    separate = [state[f"blocks.1.{name}_proj.weight"] for name in "qkv"]
    found = [[*fused, state["blocks.0.out.weight"]], [*separate, state["blocks.1.out.weight"]],
             [*last, state["blocks.2.out.weight"].T]]
    return [{name: matrix.double().numpy() for name, matrix in zip(("wq", "wk", "wv", "wo"), layer)} for layer in found]


def shared_out(model, how):
    """fully_shard of each block; replicated over two groups of ranks; some of it not; but for an adapter."""
    from torch.distributed.fsdp import fully_shard
    world = dist.get_world_size()
    mesh = dist.device_mesh.init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("twice", "once")) \
        if how == "twice" else dist.device_mesh.init_device_mesh("cpu", (world,))
    kept = {model.blocks[0].out.weight, model.blocks[0].out.bias} if how == "some" else set()
    if how == "lora":
        out = model.blocks[0].out = Lora(model.blocks[0].out)
        kept = {*out.lora_A.parameters(), *out.lora_B.parameters()}
    for block in model.blocks:
        fully_shard(block, mesh=mesh, ignored_params=kept)
    return fully_shard(model, mesh=mesh, ignored_params=kept)


def train_rank(rank, world, how, dtype, endpoint, job, epochs="1", weights_every="", queue_bytes=str(1 << 28)):
    """Losses, weights as a whole, and the publisher's counters. `weights_every`: of each rank, "-" where nobody watches."""
    model = shared_out(seeded(Model)().to(getattr(torch, dtype)), how)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02, foreach=False)
    own = weights_every.split(",")[rank] if weights_every else ""
    watch = None if own == "-" else attnd.watch(
        model, job=job, endpoint=endpoint, every=1, samples=1, wait=PATIENCE_S, rank=rank,
        weights_every=int(own) if own else None, queue_bytes=int(queue_bytes))
    if watch is not None and int(queue_bytes) < 1 << 14:
        watch.forwards.sketches = None  # those of a step are more than the queue holds
    losses = []
    for epoch in range(int(epochs)):
        for step in range(STEPS):
            tokens = torch.randint(WORDS, (2, LENGTH), generator=torch.Generator().manual_seed(100 * rank + step))
            loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(-1, 1).flatten())
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
        if watch is not None:
            watch.epoch_end()
    if watch is not None:
        watch.publisher.drain(PATIENCE_S)
    dist.barrier()  # nobody says bye before all have trained
    if watch is not None:
        watch.close()
    state = {name: value.full_tensor() if hasattr(value, "full_tensor") else value
             for name, value in model.state_dict().items()}
    return losses, state, None if watch is None else watch.stats()


if __name__ == "__main__":
    if ranks.main(train_rank)[2] is None:
        os._exit(0)  # attnd is not in it, and threads of PyTorch's gloo abort now and then at the interpreter's end
