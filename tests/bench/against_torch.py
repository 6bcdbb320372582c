# SPDX-License-Identifier: MIT
"""bench against_torch: the benches `core` and `qk` against PyTorch eager and the same list of numbers.

    against_torch.py core PATH/TO/core [pairs=5] [heads=12] [keys=512]
    against_torch.py qk PATH/TO/qk [pairs=3] [heads=16] [keys=2048] [dim=64]

core: f32 weights [1, heads, keys, keys] without a mask, the core group and the sum, mean and max maps; PyTorch has means
only where attnd has distributions. qk: causal f32 [1, heads, keys, dim], softmax(Q K^T) and the metrics of tier `qk`. One
thread each, processor time of the thread. Each pair is one run of PyTorch and one of the C bench, which checks nothing but
speed: that the numbers are right is the business of tests/kernels. Prints one JSON line with the medians and the median
ratio; exits 0 without a figure where PyTorch is missing."""

import json
import statistics
import subprocess
import sys
import time

try:
    import torch
except ImportError:
    print("skipped: no PyTorch in this Python", file=sys.stderr)
    sys.exit(0)


def map_statistics(a):
    return a.mean(), a.amax(), a.amin(), a.std()


def core_metrics(a, distance, local, largest):
    """What a careful user would write: everything once, nothing twice."""
    t = a.shape[-1]
    sums = a.sum(-1)
    plogp = torch.xlogy(a, a)
    total = plogp.sum(-1)
    entropy = -total
    first = a[:, :, 0]
    rest = sums - first
    sans = torch.log(rest) - (total - plogp[:, :, 0]) / rest
    log_n = torch.log(torch.tensor(float(t)))
    mean_distance = (a * distance).sum(-1)
    previous, following = a.diagonal(-1, -2, -1), a.diagonal(1, -2, -1)
    summed = a.sum(0)
    return {
        "row_sum_error": (sums - 1).abs().amax(),
        "entropy": entropy.mean(-1),
        "entropy_normalized": (entropy / log_n).mean(-1),
        "effective_keys": entropy.exp().mean(-1),
        "confidence": a.amax(-1).mean(-1),
        "diagonal": a.diagonal(0, -2, -1).mean(-1),
        "local_mass": (a * local).sum(-1).mean(-1),
        "mean_distance": mean_distance.mean(-1),
        "mean_distance_normalized": (mean_distance / largest).mean(-1),
        "previous_token": previous.mean(-1),
        "next_token": following.mean(-1),
        "first_token": first[:, 1:].mean(-1),
        "entropy_sans_first": (sans / torch.log(torch.tensor(t - 1.0))).mean(-1),
        "tail_mass": (1 - a.topk(8, -1).values.sum(-1)).mean(-1),
        "locality": (previous.sum(-1) + following.sum(-1)) / (2 * (t - 1)),
        "mean": a.mean((-1, -2)), "min": a.amin((-1, -2)), "max": a.amax((-1, -2)),
        "std": a.std((-1, -2)),
        "aggregate": torch.stack(map_statistics(summed) + map_statistics(summed / a.shape[0]) + map_statistics(a.amax(0))),
    }


def core_input(generator, position, distance, heads, keys):
    a = torch.softmax(2 * torch.randn(heads, keys, keys, generator=generator), -1)
    return a, distance, (distance <= 8).float(), distance.amax(-1)


def qk_metrics(q, k, seen, distance, n):
    """The same, of queries and keys."""
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


def qk_input(generator, position, distance, heads, keys, dim):
    q, k = (torch.randn(heads, keys, dim, generator=generator) for _ in range(2))
    return q, k, position[None, :] <= position[:, None], distance, (position + 1).float()


def time_torch(made, metrics, heads, keys, **more):
    position = torch.arange(keys)
    distance = (position[:, None] - position[None, :]).abs().float()
    given = made(torch.Generator().manual_seed(1), position, distance, heads, keys, **more)
    begin = time.thread_time()
    with torch.no_grad():
        result = metrics(*given)
    seconds = time.thread_time() - begin
    assert all(torch.isfinite(value).all() for value in result.values())
    return seconds


def ran(*args):
    return json.loads(subprocess.run(args, capture_output=True, text=True, check=True).stdout)


def time_core(bench, heads, keys):
    line = ran(bench, "--cpu-time", "--dtype", "f32", "--pairs", "9", "--shape", f"1,{heads},{keys},{keys}")
    return {"seconds": heads * keys / line["rows_s"], "isa": line["isa"], "shape": [1, heads, keys, keys]}


def time_qk(bench, heads, keys, dim):
    return ran(bench, f"heads={heads}", f"keys={keys}", f"dim={dim}", "runs=5")


# By name: the input of PyTorch, its metrics, the C bench, the options, and the digits of seconds.
BENCHES = {
    "core": (core_input, core_metrics, time_core, {"pairs": 5, "heads": 12, "keys": 512}, (5, 6)),
    "qk": (qk_input, qk_metrics, time_qk, {"pairs": 3, "heads": 16, "keys": 2048, "dim": 64}, (4, 5)),
}


def main():
    name, bench = sys.argv[1:3]
    made, metrics, time_ours, options, digits = BENCHES[name]
    options.update((key, int(value)) for key, value in (arg.split("=") for arg in sys.argv[3:]))
    pairs = options.pop("pairs")
    torch.set_num_threads(1)
    time_torch(made, metrics, **{**options, "heads": 1, "keys": 256})
    theirs, ours = [], []
    for _ in range(pairs):
        theirs.append(time_torch(made, metrics, **options))
        ours.append(time_ours(bench, **options))
    line = {"bench": f"{name}_torch", "torch": torch.__version__, "isa": ours[0]["isa"], "shape": ours[0]["shape"],
            "pairs": pairs, "torch_seconds": round(statistics.median(theirs), digits[0]),
            "seconds": round(statistics.median(one["seconds"] for one in ours), digits[1]),
            "ratio": round(statistics.median(t / o["seconds"] for t, o in zip(theirs, ours)), 1)}
    if name == "qk":
        line["product_share"] = statistics.median(one["product_share"] for one in ours)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
