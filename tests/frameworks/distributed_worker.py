# SPDX-License-Identifier: MIT
"""distributed_worker: one rank (ranks.py) that trains a decoder by hand-written fused attention, watched."""
from types import SimpleNamespace

import ranks
import torch
import torch.distributed as dist
from session import PATIENCE_S, attnd, snapshot, tier_options
from zoo import decoder_kind, fused, next_token_loss

STEPS = 3
KIND = decoder_kind("ranks", fused)


def half_of_the_heads(q, k, v, dropout=0.0):
    """Computes this rank's share of the heads; the others come from the others."""
    from torch.distributed.nn.functional import all_gather
    mine = [part.chunk(dist.get_world_size(), 1)[dist.get_rank()].contiguous() for part in (q, k, v)]
    return torch.cat(all_gather(fused(*mine, dropout)), 1)


def batch_of(step, rank, world):
    """Every rank has its own."""
    return KIND.batch(step * world + rank)


def wrapped(model, how):
    """The model as it is distributed."""
    if how == "heads":
        for block in model.blocks:
            block.attn.attend = half_of_the_heads
        return model
    if how == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    from torch.distributed.fsdp import fully_shard
    mesh = dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def whole_state(model):
    """The state, of parts that are spread over ranks the whole."""
    state = {name.removeprefix("module."): value for name, value in snapshot(model).items()}
    return {name: value.full_tensor() if hasattr(value, "full_tensor") else value for name, value in state.items()}


def train_rank(rank, world, how, tier, endpoint, job):
    """The states that three steps met, which are an epoch; the publisher's counters; messages with matrices."""
    options = tier_options(tier, SimpleNamespace(setattr=setattr))
    model = wrapped(KIND.build(), how)
    share = (rank, world) if how == "heads" else None
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0 if share else 0.02)  # whose gradients are not put together
    states, kinds = [], []
    with attnd.watch(model, job=job, endpoint=endpoint, every=1, samples=0, wait=PATIENCE_S,
                     weights_every=0 if share else 1, tensor_parallel=share, **options,
                     on_publish=lambda message: kinds.append(message.kind)) as watch:
        assert watch.publisher.wait_for_subscriber(PATIENCE_S)
        for step in range(STEPS):
            states.append(whole_state(model))
            next_token_loss(model, batch_of(step, *((0, 1) if share else (rank, world)))).backward()
            optimizer.step()
            optimizer.zero_grad()
        watch.epoch_end()
        dist.barrier()  # nobody says bye before all have trained
    return states, watch.stats(), kinds.count("weights")


if __name__ == "__main__":
    ranks.main(train_rank)
