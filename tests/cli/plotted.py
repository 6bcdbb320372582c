# SPDX-License-Identifier: MIT
"""attnctl plot, what it draws, and what there is to draw: maps of two layers, and the history of a run."""
import json

import numpy as np
import pytest
from figures import Svg
from invoke import ATTNCTL, attend, sentence
from warm import Warm

B, H, T, S = 2, 4, 12, 8
MAPS = ("heatmap", "heads", "layers", "flow", "aggregate", "rollout", "similarity", "spectrum", "tokens")
PAST = ("entropy", "series")

run = Warm(ATTNCTL).plot


def plot(*words, **more):
    done = run(*words, **more)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


def file_of(source):
    """Maps are written into one."""
    if not isinstance(source, np.ndarray):
        return source
    np.save("decoder.0.self.npy", source)
    return "decoder.0.self.npy"


def drawn(kind, source, *options):
    """The figure of a file, or of maps."""
    plot(kind, file_of(source), *options, "-o", "a.svg")
    return Svg("a.svg")


def refuse(code, kind, source, *options):
    return sentence(run(kind, file_of(source), *options), code)


def maps_of(seed, queries, keys, causal=False):
    return attend(seed, np.tri(queries, keys, dtype=bool) if causal else True, (B, H, queries, keys)).astype(np.float32)


LAYERS = {"encoder.0.self": (S, S, False), "decoder.0.self": (T, T, True), "decoder.0.cross": (T, S, False),
          "encoder.1.self": (S, S, False), "decoder.1.self": (T, T, True), "decoder.1.cross": (T, S, False)}


@pytest.fixture(scope="module")
def maps():
    return {name: maps_of(seed, *shape) for seed, (name, shape) in enumerate(LAYERS.items())}


@pytest.fixture(scope="module")
def file(maps, tmp_path_factory):
    path = tmp_path_factory.mktemp("plot") / "maps.npz"
    np.savez(path, **maps)
    return path


def history_rows():
    """A run of two layers with three heads over ten windows, as attnctl export --json has it."""
    for layer in range(2):
        for head in range(3):
            for window in range(10):
                yield dict(job="gpt", run="ab" * 16, unit="step", length=5, every=5, first_unit=5 * window,
                           last_unit=5 * window + 4, epoch=0, step=5 * window + 4, time_ns=1, partial=False,
                           stack="decoder", layer=layer, site="self", head=head, metric="entropy_normalized",
                           mean=None if (layer, head, window) == (1, 2, 3) else (1 + head) / 4 * 0.95 ** window,
                           std=0.1, min=0, max=1, p10=0.1 + head / 20, p50=0.5, p90=0.8 + head / 20, p99=1, last=0.5,
                           count=10)


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    """Beside it is the same as CSV."""
    path, rows = tmp_path_factory.mktemp("history") / "run.jsonl", list(history_rows())
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = [rows[0], *(("" if value is None else str(value) for value in row.values()) for row in rows)]
    path.with_suffix(".csv").write_text("".join(",".join(line) + "\n" for line in lines))
    return path
