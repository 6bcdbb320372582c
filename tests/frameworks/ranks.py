# SPDX-License-Identifier: MIT
"""ranks: programs that are one rank of a job each, as `python PROGRAM KEY=VALUE...`."""
from __future__ import annotations

import contextlib
import subprocess
import sys
from typing import Any, Callable, List, Tuple

import torch
import torch.distributed as dist


def run(program: str, folder: Any, world: int = 2, **options: Any) -> Tuple[List[Any], str]:
    """What each rank made of these options, and what the first one said. `folder` is made; all of them have to end well."""
    folder.mkdir()
    said = [folder / f"{rank}.log" for rank in range(world)]
    common = {"world": world, "folder": folder, **options}
    with contextlib.ExitStack() as logs:
        ranks = [subprocess.Popen([sys.executable, "-X", "faulthandler", program, f"rank={rank}",
                                   *(f"{name}={value}" for name, value in common.items())],
                                  stdout=logs.enter_context(said[rank].open("wb")), stderr=subprocess.STDOUT)
                 for rank in range(world)]
    try:
        assert [rank.wait(600) for rank in ranks] == [0] * world, "\n".join(each.read_text()[-3000:] for each in said)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    return [torch.load(folder / str(rank)) for rank in range(world)], said[0].read_text()


def main(work: Callable[..., Any]) -> Any:
    """In such a program: joins the other ranks, and leaves to the test what `work` makes of its rank, the world and the options."""
    options: Any = dict(argument.split("=", 1) for argument in sys.argv[1:])
    rank, world, folder = int(options.pop("rank")), int(options.pop("world")), options.pop("folder")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    try:
        made = work(rank, world, **options)
        torch.save(made, f"{folder}/{rank}")
        dist.barrier()  # nobody closes connections before all are done
    finally:
        dist.destroy_process_group()
    return made
