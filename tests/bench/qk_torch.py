# SPDX-License-Identifier: MIT
"""bench qk_torch: tier `qk` against PyTorch eager, softmax(Q K^T) and the same list of metrics.

    qk_torch.py PATH/TO/qk [pairs=3] [heads=16] [keys=2048] [dim=64]

One thread each, processor time of the thread, causal f32 [1, heads, keys, dim]. Each pair is one run of PyTorch
and one of the C bench, which checks nothing but speed: that the numbers are right is tests/kernels/test_qk.py.
Prints one JSON line with the medians and the median ratio."""

import json
import statistics
import subprocess
import sys
import time

import torch


def metrics(q, k, seen, distance, n):
    """What a careful user would write: everything once, nothing twice."""
    scale = q.shape[-1] ** -0.5
    heads, t, _ = q.shape
    product = q @ k.transpose(-1, -2)
    s = (product * scale).masked_fill(~seen, float("-inf"))
    a = torch.softmax(s, -1)
    plogp = torch.xlogy(a, a)
    entropy = -plogp.sum(-1)
    mean_distance = (a * distance).sum(-1)
    first = a[:, :, 0]
    rest = 1 - first
    sans = (torch.log(rest) - (plogp.sum(-1) - plogp[:, :, 0]) / rest) / torch.log(n - 1)
    diagonal = a.diagonal(0, -2, -1)
    previous = a.diagonal(-1, -2, -1)
    entries, logits = a[:, seen], s[:, seen]
    q_norm, k_norm = q.norm(dim=-1), k.norm(dim=-1)
    cosine = (product / q_norm[:, :, None] / k_norm[:, None, :])[:, seen]
    return {
        "entropy": entropy.mean(-1),
        "entropy_normalized": (entropy[:, 1:] / torch.log(n[1:])).mean(-1),
        "effective_keys": entropy.exp().mean(-1),
        "confidence": a.amax(-1).mean(-1),
        "diagonal": diagonal.mean(-1),
        "local_mass": (a * (distance <= 8)).sum(-1).mean(-1),
        "mean_distance": mean_distance.mean(-1),
        "mean_distance_normalized": (mean_distance[:, 1:] / (n[1:] - 1)).mean(-1),
        "previous_token": previous.mean(-1),
        "next_token": a.diagonal(1, -2, -1).mean(-1),
        "first_token": first[:, 1:].mean(-1),
        "entropy_sans_first": sans[:, 2:].mean(-1),
        "tail_mass": (1 - a.topk(8, -1).values.sum(-1)).mean(-1),
        "max_logit": s.amax(-1).mean(-1),
        "mean": entries.mean(-1), "min": entries.amin(-1), "max": entries.amax(-1), "std": entries.std(-1),
        "locality": (previous.sum(-1) + a.diagonal(1, -2, -1).sum(-1)) / (2 * (t - 1)),
        "max_abs_logit": logits.abs().amax(-1), "mean_logit": logits.mean(-1), "std_logit": logits.std(-1),
        "qk_cosine": cosine.mean(-1), "qk_cosine_max": cosine.amax(-1),
        "q_norm": q_norm.mean(-1), "k_norm": k_norm.mean(-1),
    }


def time_torch(heads, keys, dim):
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(heads, keys, dim, generator=generator) for _ in range(2))
    position = torch.arange(keys)
    distance = (position[:, None] - position[None, :]).abs().float()
    seen = position[None, :] <= position[:, None]
    n = (position + 1).float()
    begin = time.thread_time()
    with torch.no_grad():
        result = metrics(q, k, seen, distance, n)
    seconds = time.thread_time() - begin
    assert all(torch.isfinite(value).all() for value in result.values())
    return seconds


def time_ours(bench, heads, keys, dim):
    args = [bench, f"heads={heads}", f"keys={keys}", f"dim={dim}", "runs=5"]
    return json.loads(subprocess.run(args, capture_output=True, text=True, check=True).stdout)


def main():
    bench = sys.argv[1]
    options = {"pairs": 3, "heads": 16, "keys": 2048, "dim": 64}
    options.update((key, int(value)) for key, value in (arg.split("=") for arg in sys.argv[2:]))
    pairs = options.pop("pairs")
    torch.set_num_threads(1)
    time_torch(1, 256, options["dim"])
    theirs, ours = [], []
    for _ in range(pairs):
        theirs.append(time_torch(**options))
        ours.append(time_ours(bench, **options))
    print(json.dumps({
        "bench": "qk_torch", "torch": torch.__version__, "isa": ours[0]["isa"], "shape": ours[0]["shape"],
        "pairs": pairs, "torch_seconds": round(statistics.median(theirs), 4),
        "seconds": round(statistics.median(one["seconds"] for one in ours), 5),
        "product_share": statistics.median(one["product_share"] for one in ours),
        "ratio": round(statistics.median(t / o["seconds"] for t, o in zip(theirs, ours)), 1)}))


if __name__ == "__main__":
    main()
