# SPDX-License-Identifier: MIT
"""bench compiled: what attnd.watch costs a model that torch.compile made, in time and memory of a step.

    compiled.py [--attnd build/daemon/attnd] [--steps 30] [--rounds 5]

    unwatched   nobody watches
    empty       attnd::look is in the code, and no step is captured
    look        each step is captured, by attnd::look
    eager       each step is captured, and runs eagerly for that: compiled="eager"

Each way runs in a process of its own, the four in turns, `--rounds` times; 12 layers of width 256, 4 heads, T = 256, 2 samples, one thread.
`step_ms`: the median of its steps by the clock of the training's thread; `ratio`: to the unwatched process of the same round, the
median of rounds, the lowest and the highest. `peak_mb`: what the process has at most in a step, above what it has
between steps. `compiled`: graphs, and graph breaks. One JSON line each. Needs torch 2.13 or later.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
from typing import Any, Dict, List

HERE = pathlib.Path(__file__).resolve().parent
WAYS = {"unwatched": None, "empty": {"every": 10**6, "first_step": 1}, "look": {"every": 1}, "eager": {"every": 1, "compiled": "eager"}}
WARM = 5  # steps that are not counted: the first ones compile


def run(way: str, attnd_program: str, steps: int) -> Dict[str, Any]:
    """One process."""
    import contextlib
    import time

    import torch
    sys.path[:0] = [str(HERE), str(HERE.parents[1] / "clients" / "python")]
    import attnd
    from capture import Daemon, resident
    from capture_model import Shape, Training
    from reliable import resident as most_mib
    from torch._dynamo.utils import counters
    torch.set_num_threads(1)
    training = Training(Shape(12, 4, 256, 1024, 256, 2), "cpu", True)
    options, times, peaks = WAYS[way], [], []
    with contextlib.ExitStack() as stack:
        if options is not None:
            daemon = stack.enter_context(contextlib.closing(Daemon(attnd_program)))
            watch = stack.enter_context(attnd.watch(training.model, "bench", daemon.endpoint, wait=10.0, linger=0.1, **options))
        for step in range(WARM + steps):
            before = resident()
            most_mib()  # forgets what was before
            began = time.thread_time()
            training.step()
            times.append(time.thread_time() - began)
            peaks.append(most_mib() * 2**20 - before)
        messages = watch.stats()["published"] if options is not None else 0
    return {"step_ms": 1e3 * statistics.median(times[WARM:]), "peak_mb": statistics.median(peaks[WARM:]) / 1e6,
            "messages": messages, "compiled": [counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())]}


def main() -> None:
    parser = argparse.ArgumentParser(description="What attnd.watch costs a compiled model.")
    parser.add_argument("--attnd", default=str(HERE.parents[1] / "build" / "daemon" / "attnd"))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one, options.attnd, options.steps)))
        return
    found: Dict[str, List[Dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(options.rounds):
        for way, lines in found.items():
            made = subprocess.run([sys.executable, __file__, "--one", way, "--attnd", options.attnd, "--steps", str(options.steps)],
                                  stdout=subprocess.PIPE, text=True, check=True)
            lines.append(json.loads(made.stdout.splitlines()[-1]))
    for way, lines in found.items():
        ratios = [line["step_ms"] / alone["step_ms"] for line, alone in zip(lines, found["unwatched"])]
        print(json.dumps({"way": way, "step_ms": round(statistics.median(line["step_ms"] for line in lines), 2),
                          "ratio": [round(one, 3) for one in (statistics.median(ratios), min(ratios), max(ratios))],
                          "peak_mb": round(statistics.median(line["peak_mb"] for line in lines), 1),
                          "messages": lines[-1]["messages"], "compiled": lines[-1]["compiled"]}), flush=True)


if __name__ == "__main__":
    main()
