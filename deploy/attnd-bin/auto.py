# SPDX-License-Identifier: MIT
"""A training in PyTorch that starts its attnd itself, or does without; deploy/attnd-bin/auto runs it.

Usage: auto.py JOB        "without": attnd is not even imported
"""
import sys
import time

import torch
from torch import nn

STEPS = 150


def train(model, stepped):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        tokens = torch.randint(64, (8, 32))
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.roll(1, 1).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stepped()


def main(job):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    block = nn.TransformerEncoderLayer(64, nhead=4, dim_feedforward=128, batch_first=True)
    model = nn.Sequential(nn.Embedding(64, 64), nn.TransformerEncoder(block, num_layers=2), nn.Linear(64, 64))
    begin = time.perf_counter()
    if job == "without":
        train(model, lambda: None)
    else:
        import attnd
        with attnd.watch(model, job, start="auto", every=10) as watch:
            began = time.perf_counter() - begin
            begin = time.perf_counter()
            train(model, watch.step)
        print(f"attached in {began:.2f} s, ", end="")
    print(f"{STEPS} steps in {time.perf_counter() - begin:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1])
