# SPDX-License-Identifier: MIT
"""bench core_torch: the core group and the sum, mean and max maps against PyTorch eager and the same list of numbers.

    core_torch.py PATH/TO/core [pairs=5] [heads=12] [keys=512]

One thread each, processor time of the thread, f32 [1, heads, keys, keys] without a mask. Each pair is one run of PyTorch and
one of the C bench, which checks nothing but speed: that the numbers are right is the business of tests/kernels. PyTorch has
means only where attnd has distributions. Prints one JSON line; exits 0 without a figure where PyTorch is missing."""

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


def metrics(a, distance, local, largest):
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


def time_torch(heads, keys):
    generator = torch.Generator().manual_seed(1)
    a = torch.softmax(2 * torch.randn(heads, keys, keys, generator=generator), -1)
    position = torch.arange(keys)
    distance = (position[:, None] - position[None, :]).abs().float()
    local, largest = (distance <= 8).float(), distance.amax(-1)
    begin = time.thread_time()
    with torch.no_grad():
        result = metrics(a, distance, local, largest)
    seconds = time.thread_time() - begin
    assert all(torch.isfinite(value).all() for value in result.values())
    return seconds


def time_ours(bench, heads, keys):
    args = [bench, "--cpu-time", "--dtype", "f32", "--pairs", "9", "--shape", f"1,{heads},{keys},{keys}"]
    line = json.loads(subprocess.run(args, capture_output=True, text=True, check=True).stdout)
    return heads * keys / line["rows_s"], line["isa"]


def main():
    bench = sys.argv[1]
    options = {"pairs": 5, "heads": 12, "keys": 512}
    options.update((key, int(value)) for key, value in (arg.split("=") for arg in sys.argv[2:]))
    pairs = options.pop("pairs")
    torch.set_num_threads(1)
    time_torch(1, 256)
    theirs, ours = [], []
    for _ in range(pairs):
        theirs.append(time_torch(**options))
        ours.append(time_ours(bench, **options))
    print(json.dumps({
        "bench": "core_torch", "torch": torch.__version__, "isa": ours[0][1],
        "shape": [1, options["heads"], options["keys"], options["keys"]], "pairs": pairs,
        "torch_seconds": round(statistics.median(theirs), 5),
        "seconds": round(statistics.median(seconds for seconds, _ in ours), 6),
        "ratio": round(statistics.median(t / o for t, (o, _) in zip(theirs, ours)), 1)}))


if __name__ == "__main__":
    main()
