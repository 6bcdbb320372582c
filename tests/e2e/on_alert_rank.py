# SPDX-License-Identifier: MIT
"""on_alert_rank: one rank of a training by DDP over gloo, as `python on_alert_rank.py KEY=VALUE...`, which attnd.watch has
call a function with alerts. It is started by test_on_alert.py, and leaves what happened in a file of JSON.

In `folder` the file `sharpen` makes its attention look at single keys, which is even before, and `end` ends it. After
MORE_STEPS sharp steps it leaves `went-on` there. A training whose rank has stopped alone does not end: the other one
waits for it in backward.
"""
import json
import os
import sys
import threading

import torch
import torch.distributed as dist

import attnd
import attnd.alerts

MORE_STEPS = 100


class Model(torch.nn.Module):
    """Explicit attention over 8 positions."""

    def __init__(self):
        super().__init__()
        self.sharpness = 0.0
        self.values = torch.nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = (part.view(2, 8, 2, 4).transpose(1, 2) for part in (x, x, self.values(x)))
        return (torch.softmax(self.sharpness * q @ k.transpose(2, 3), -1) @ v).transpose(1, 2).reshape(2, 8, 8)


def told_all(*paths):
    """Which of these files rank 0 sees, on all ranks alike."""
    there = torch.tensor([float(os.path.exists(path)) for path in paths])
    dist.broadcast(there, 0)
    return [bool(one) for one in there]


def train(rank, folder, how, **options):
    model = Model()
    distributed = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    told, step = [], 0
    stop = attnd.stop_on("critical")

    def f(alert):
        told.append([step, alert["rule"], threading.current_thread() is threading.main_thread()])
        if how != "one asks" or rank == 1:
            stop(alert)

    if how != "one watches" or rank == 0:
        options["on_alert"] = f
    if how == "one is silent" and rank == 1:
        attnd.alerts._Ranks.look = lambda self, waiting: []
    attnd.alerts.GIVE_UP_S = 2.0 if how == "one is silent" else 60.0
    stopped, sharp_steps = None, 0
    try:
        with attnd.watch(model, "stops", every=1, samples=0, tier="raw", steps="manual", wait=20 if rank == 0 else 0, **options) as w:
            while True:
                sharp, ended = told_all(f"{folder}/sharpen", f"{folder}/end")
                if ended:
                    break
                model.sharpness = 100.0 if sharp else 0.0
                distributed(torch.randn(2, 8, 8)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                step += 1
                w.step()
                sharp_steps += sharp
                if sharp_steps == MORE_STEPS:
                    open(f"{folder}/went-on", "w").close()
    except attnd.StopTraining as why:
        stopped = str(why)
    with open(f"{folder}/{rank}.json", "w") as file:
        json.dump({"stopped": stopped, "step": step, "told": told,
                   "threads": [thread.name for thread in threading.enumerate()]}, file)


def main(rank, world, store, **options):
    """Joins the others at a store over TCP."""
    rank, world = int(rank), int(world)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{store}", rank=rank, world_size=world)
    train(rank, **options)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
