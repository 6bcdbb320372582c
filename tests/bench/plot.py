#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""plot: how long attnctl plot takes for figures of 512 x 512 maps, and matplotlib alone for the same, on one core.

    ATTNCTL_BIN=build/clients/cli/attnctl python3 tests/bench/plot.py [--repeat N]

One JSON object per line: what, who, seconds and processor seconds (of the fastest run each), figures, bytes. Where
others use the machine too, processor seconds are the ones to compare. attnctl's are those of the whole program, from
its start to its end, with Python and matplotlib in it. matplotlib's are without its start and imports, which the line
`import` has; it draws with imshow(interpolation="nearest"), axes, a colour bar and a title, at the same size in pixels.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import numpy as np  # noqa: E402

ATTNCTL = os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")
HEADS, LAYERS, T = 12, 12, 512


def attend(seed):
    """Heads that look near themselves, at the first token, and about."""
    rng = np.random.default_rng(seed)
    at = np.arange(T)
    logits = 1.5 * rng.normal(size=(1, HEADS, T, T)).astype(np.float32)
    for head in range(HEADS):
        logits[0, head] -= np.abs(at[:, None] - at[None]) / (4.0 * (1 + head))
        logits[0, head, :, 0] += head % 3
    logits = np.where(np.tril(np.ones((T, T), bool)), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def report(what, who, times, figures, paths):
    size = sum(path.stat().st_size for path in paths)
    print(json.dumps({"what": what, "who": who, "seconds": round(times[0], 4), "cpu_seconds": round(times[1], 4),
                      "figures": figures, "bytes": size}), flush=True)


def cpu_time():
    """Of this program and those that it waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def fastest(repeat, work):
    """Seconds, and processor seconds."""
    times = []
    for _ in range(repeat):
        begin, cpu = time.perf_counter(), cpu_time()
        work()
        times.append((time.perf_counter() - begin, cpu_time() - cpu))
    return tuple(min(column) for column in zip(*times))


def call(*words):
    subprocess.run([ATTNCTL, "plot", *map(str, words)], check=True, env={"ATTND_PYTHON": sys.executable, **os.environ})


def time_attnctl(file, folder, repeat):
    one, grid, many = folder / "one.png", folder / "grid.png", folder / "many"
    seconds = fastest(repeat, lambda: call("heatmap", file, "--layer", "0", "--head", "3", "-o", one))
    report("heatmap", "attnctl", seconds, 1, [one])
    seconds = fastest(repeat, lambda: call("heads", file, "--layer", "0", "-o", grid))
    report("heads", "attnctl", seconds, 1, [grid])
    every = ("--every-layer", "--every-head")
    seconds = fastest(max(1, repeat // 3), lambda: call("heatmap", file, *every, "-o", f"{many}/"))
    report("heatmaps", "attnctl", seconds, LAYERS * HEADS, list(many.iterdir()))


def draw_one(pyplot, weights, title, path):
    figure, axes = pyplot.subplots(figsize=(3.3, 2.84), dpi=300)
    image = axes.imshow(weights, interpolation="nearest", cmap="viridis", vmin=0)
    axes.set(title=title, xlabel="key position", ylabel="query position")
    figure.colorbar(image, label="attention weight")
    figure.savefig(path)
    pyplot.close(figure)


def draw_grid(pyplot, weights, path):
    figure, axes = pyplot.subplots(3, 4, figsize=(6.9, 5.3), dpi=300, sharex=True, sharey=True)
    for head, one in enumerate(axes.flat):
        image = one.imshow(weights[head], interpolation="nearest", cmap="viridis", vmin=0, vmax=1)
        one.set_title(f"head {head}")
    figure.supxlabel("key position")
    figure.supylabel("query position")
    figure.colorbar(image, ax=axes, label="attention weight")
    figure.savefig(path)
    pyplot.close(figure)


def time_matplotlib(maps, folder, repeat):
    begin, cpu = time.perf_counter(), cpu_time()
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot
    report("import", "matplotlib", (time.perf_counter() - begin, cpu_time() - cpu), 0, [])
    pyplot.rcParams["font.size"] = 7
    one, grid = folder / "their-one.png", folder / "their-grid.png"
    draw_one(pyplot, maps[0][0, 3], "warm", one)
    report("heatmap", "matplotlib", fastest(repeat, lambda: draw_one(pyplot, maps[0][0, 3], "head 3", one)), 1, [one])
    report("heads", "matplotlib", fastest(repeat, lambda: draw_grid(pyplot, maps[0][0], grid)), 1, [grid])
    paths = [folder / f"their-{layer}-{head}.png" for layer in range(LAYERS) for head in range(HEADS)]

    def draw_all():
        for i, path in enumerate(paths):
            draw_one(pyplot, maps[i // HEADS][0, i % HEADS], path.stem, path)

    report("heatmaps", "matplotlib", fastest(1, draw_all), len(paths), paths)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--repeat", type=int, default=7)
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    maps = [attend(layer) for layer in range(LAYERS)]
    with tempfile.TemporaryDirectory(prefix="attnd-plot-") as folder:
        file = pathlib.Path(folder) / "maps.npz"
        np.savez(file, *maps)
        time_attnctl(file, pathlib.Path(folder), arguments.repeat)
        time_matplotlib(maps, pathlib.Path(folder), arguments.repeat)


if __name__ == "__main__":
    main()
