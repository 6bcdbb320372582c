# SPDX-License-Identifier: MIT
"""long_step ENDPOINT: one step at T = 8192, unwatched and then watched as tier rows; prints by how many KiB the watch
raised this process's peak of memory."""
import pathlib
import re
import sys

import attnd
import torch
from torch import nn

LENGTH, HEADS, WIDTH = 8192, 1, 64


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * HEADS * WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, HEADS, WIDTH)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def peak_kib():
    """So far. Not ru_maxrss, which begins with that of the process that started this one."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text()).group(1))


def step(model):
    model(torch.randn(1, LENGTH, WIDTH)).square().mean().backward()


torch.set_num_threads(1)
torch.manual_seed(1)
model = Attention()
step(model)
before = peak_kib()
with attnd.watch(model, job="long", endpoint=sys.argv[1], every=1, tier="rows", wait=60.0, linger=60.0) as watch:
    step(model)
print(peak_kib() - before)
assert watch.stats()["dropped"] == 0
