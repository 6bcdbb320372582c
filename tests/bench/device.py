# SPDX-License-Identifier: MIT
"""bench device: attnd.device.row_statistics against PyTorch on the same queries and keys, in the same run.

    device.py [pairs=5] [batch=1] [heads=16] [keys=2048] [dim=64] [causal=0] [device=cpu] [dtype=f32]

On the CPU one thread, its processor time: the reference against eager softmax(Q K^T). On another device, elapsed time
of the reference and of the Triton kernel against the forward of scaled_dot_product_attention, the kernel's largest
difference from the reference, and the largest memory beside queries and keys. Prints one JSON line: medians, ratios
of the medians of pairs."""
import json
import math
import pathlib
import statistics
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "clients" / "python"))
import attnd  # noqa: E402

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def clocked(call, on_cpu):
    """Seconds: processor time of this thread, or elapsed until the device is done."""
    if on_cpu:
        begin = time.thread_time()
        call()
        return time.thread_time() - begin
    torch.cuda.synchronize()
    begin = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - begin


def difference(found, expected):
    """The largest, relative to max(1, |value|); infinite where a value exists that the other has not."""
    errors = []
    for name, value in found.items():
        exists = ~expected[name].isnan()
        if not torch.equal(exists, ~value.isnan()):
            return math.inf
        errors.append(((value - expected[name]).abs() / expected[name].abs().clamp(min=1))[exists])
    return float(torch.cat(errors).max())


def main():
    options = {"pairs": "5", "batch": "1", "heads": "16", "keys": "2048", "dim": "64", "causal": "0", "device": "cpu", "dtype": "f32"}
    options.update(argument.split("=") for argument in sys.argv[1:])
    pairs, batch, heads, keys, dim, causal = (int(options[name]) for name in ("pairs", "batch", "heads", "keys", "dim", "causal"))
    on_cpu = options["device"] == "cpu"
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    q, k = (torch.randn(batch, heads, keys, dim, generator=generator).to(options["device"], DTYPES[options["dtype"]])
            for _ in range(2))

    def measure(backend):
        return lambda: attnd.device.row_statistics(q, k, causal=bool(causal), backend=backend)

    calls = {"reference": measure("reference")}
    if on_cpu:
        base = "eager"
        calls[base] = lambda: torch.softmax(q @ k.transpose(-1, -2), -1)
    else:
        base = "flash"
        calls[base] = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, k, is_causal=bool(causal))
        calls["triton"] = measure("triton")
    for call in calls.values():
        call()
    seconds = {name: [] for name in calls}
    for _ in range(pairs):
        for name, call in calls.items():
            seconds[name].append(clocked(call, on_cpu))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    line = {"bench": "device", "torch": torch.__version__, "device": options["device"], "dtype": options["dtype"],
            "shape": [batch, heads, keys, dim], "causal": bool(causal), "pairs": pairs,
            "seconds": {name: round(value, 6) for name, value in medians.items()},
            "ratio": {name: round(value / medians[base], 2) for name, value in medians.items() if name != base}}
    if not on_cpu:
        line["difference"] = difference(calls["triton"](), calls["reference"]())
        for name in ("reference", "triton"):
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            calls[name]()
            line[f"{name}_mib"] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
