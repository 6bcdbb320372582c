# SPDX-License-Identifier: MIT
"""attnctl plot as a user sees it: figures are read back, the colours of their cells from the pixels and their texts
from SVG, and compared with numbers that numpy works out."""
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import termios
import time

import numpy as np
import pytest

import numbers_f64 as f64
from figures import VIRIDIS, Svg, bar_table, read_png, steps_of
from warm import Warm

ATTNCTL = os.environ["ATTNCTL"]
B, H, T, S = 2, 4, 12, 8
MAPS = ("heatmap", "heads", "layers", "flow", "aggregate", "rollout", "similarity", "spectrum", "tokens")
PAST = ("entropy", "series")


WARM = Warm(ATTNCTL)


def run(*arguments, cwd=None, **more):
    return WARM.plot(*arguments, cwd=cwd, **more)


def plot(*arguments, **more):
    done = run(*arguments, **more)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done


def refuse(code, *arguments, cwd=None):
    """The sentence on standard error."""
    done = run(*arguments, cwd=cwd)
    assert done.returncode == code and done.stdout == "", done
    assert done.stderr.startswith("attnctl: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr[len("attnctl: "):-1]


def attend(seed, queries, keys, causal=False):
    logits = 2 * np.random.default_rng(seed).normal(size=(B, H, queries, keys))
    valid = np.tril(np.ones((queries, keys), bool)) if causal else np.ones((queries, keys), bool)
    return f64.softmax(logits, np.broadcast_to(valid, logits.shape)).astype(np.float32)


LAYERS = {"encoder.0.self": (S, S, False), "decoder.0.self": (T, T, True), "decoder.0.cross": (T, S, False),
          "encoder.1.self": (S, S, False), "decoder.1.self": (T, T, True), "decoder.1.cross": (T, S, False)}


@pytest.fixture(scope="module")
def maps():
    return {name: attend(seed, *shape) for seed, (name, shape) in enumerate(LAYERS.items())}


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
    path = tmp_path_factory.mktemp("history") / "run.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in history_rows()))
    return path


@pytest.fixture(scope="module")
def history_csv(tmp_path_factory):
    path = tmp_path_factory.mktemp("history") / "run.csv"
    rows = list(history_rows())
    lines = [",".join(rows[0])] + [",".join("" if value is None else str(value) for value in row.values())
                                     for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def source_of(kind, file, history):
    return history if kind in PAST else file


def expected_steps(values, low, high):
    return np.clip(np.floor(256 * (values.astype(np.float64) - low) / (high - low)), 0, 255).astype(int)


def check_map(svg, index, values, low=0.0, high=None):
    """The cells of a map are the numbers, to one of 256 steps."""
    cells = svg.maps[index][1]
    assert cells.shape[:2] == values.shape
    steps = steps_of(cells, bar_table(svg))
    assert np.abs(steps - expected_steps(values, low, values.max() if high is None else high)).max() <= 1


# Pixels


def test_cells_have_the_colours_of_their_numbers(tmp_path):
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    np.save(tmp_path / "decoder.0.self.npy", values[None, None])
    for ending in ("png", "svg"):
        plot("heatmap", tmp_path / "decoder.0.self.npy", "--dpi", 144, "-o", tmp_path / f"a.{ending}")
    pixels, dpi = read_png((tmp_path / "a.png").read_bytes())
    svg = Svg(tmp_path / "a.svg")
    (x, y, width, height), cells = svg.maps[0]
    table = bar_table(svg)
    assert all(tuple(table[step]) == color for step, color in VIRIDIS.items())
    assert dpi == pytest.approx(144, abs=0.02)
    assert pixels.shape[:2] == tuple(round(2 * side) for side in reversed(svg.size))
    for r in range(4):
        for c in range(4):
            expected = table[expected_steps(values, 0, 1)[r, c]]
            middle = pixels[int(2 * (y + (r + 0.5) * height / 4)), int(2 * (x + (c + 0.5) * width / 4))]
            assert tuple(middle[:3]) == tuple(expected) == tuple(cells[r, c, :3])
    assert tuple(pixels[0, 0, :3]) == tuple(pixels[-1, -1, :3]) == (255, 255, 255)


def test_colour_maps(file, tmp_path):
    """tests/python/test_plots.py has all of them."""
    for name, low, high in (("hot", (11, 0, 0), (255, 255, 255)), ("RdBu_r", (5, 48, 97), (103, 0, 31))):
        plot("heatmap", file, "--colormap", name, "-o", tmp_path / "a.svg")
        table = bar_table(Svg(tmp_path / "a.svg"))
        assert (tuple(table[0]), tuple(table[-1])) == (low, high)


def test_range_that_is_given(file, maps, tmp_path):
    plot("heatmap", file, "--layer", "decoder.0.cross", "--head", 1, "--vmin", 0.1, "--vmax", 0.2, "-o",
         tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    check_map(svg, 0, maps["decoder.0.cross"][0, 1], 0.1, 0.2)
    assert len(svg.tips) == 2, "values beyond both ends"


def test_large_maps_are_pooled_in_pixels_and_whole_on_paper(tmp_path):
    values = np.zeros((1, 1, 800, 800), np.float32)
    values[..., ::2] = 1
    np.save(tmp_path / "decoder.0.self.npy", values)
    plot("heatmap", tmp_path / "decoder.0.self.npy", "--dpi", 72, "--size", "3x3", "-o", tmp_path / "a.png")
    plot("heatmap", tmp_path / "decoder.0.self.npy", "--size", "3x3", "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    (x, y, width, height), cells = svg.maps[0]
    assert cells.shape[:2] == (800, 800)
    pixels, _ = read_png((tmp_path / "a.png").read_bytes())
    middle = steps_of(pixels[int(y + height / 2), int(x) + 3:int(x + width) - 3], bar_table(svg))
    assert np.all((middle > 90) & (middle < 166)), "about half of the cells of each pixel are 1"


# Kinds


@pytest.mark.parametrize("kind", ["heads", "flow", "entropy"])
def test_pixels_are_where_svg_has_its_cells(kind, file, history, tmp_path):
    """A little below and right of each cell's upper left corner, where no number is written into it."""
    causal = ["--causal"] if kind in MAPS else []
    for ending in ("png", "svg"):
        plot(kind, source_of(kind, file, history), *causal, "--dpi", 288, "-o", tmp_path / f"a.{ending}")
    pixels, _ = read_png((tmp_path / "a.png").read_bytes())
    maps = Svg(tmp_path / "a.svg").maps
    assert maps
    for (x, y, width, height), cells in maps:
        rows, columns = cells.shape[:2]
        for r, c in ((r, c) for r in range(rows) for c in range(columns) if cells[r, c, 3]):
            at = pixels[int(4 * (y + (r + 0.35) * height / rows)), int(4 * (x + (c + 0.2) * width / columns))]
            assert tuple(at[:3]) == tuple(cells[r, c, :3]), (r, c)


@pytest.mark.parametrize("kind, texts", [
    ("heatmap", ["encoder.0.self, mean of 4 heads", "key position", "query position", "attention weight", "0", "5"]),
    ("heads", ["encoder.0.self", "head 0", "head 3", "key position", "query position", "attention weight"]),
    ("layers", ["encoder.self attention, mean of 4 heads", "layer 0", "layer 1", "key position"]),
    ("flow", ["layer 0, mean of 4 heads", "encoder self-attention", "decoder self-attention", "cross-attention",
              "encoder position", "decoder position", "attention weight"]),
    ("aggregate", ["encoder.0.self, 4 heads in one map", "sum", "mean", "max", "by importance"]),
    ("rollout", ["encoder, rollout through 2 layers", "input position", "output position", "attention rollout"]),
    ("similarity", ["encoder.0.self, similarity of heads", "head", "cosine similarity", "1.00"]),
    ("spectrum", ["encoder.0.self, singular values of the heads' maps", "index", "singular value", "head 0", "head 3"]),
    ("tokens", ["encoder.0.self, mean of 4 heads, query 7", "key position", "attention weight"]),
    ("entropy", ["gpt, heads over time", "decoder.0", "decoder.1", "step", "entropy normalized",
                 "not a number: 1 cell"]),
    ("series", ["gpt, entropy_normalized", "decoder.0.self, median of heads", "10th to 90th percentile of heads",
                "step"]),
])
def test_texts(kind, texts, file, history, tmp_path):
    plot(kind, source_of(kind, file, history), "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    assert [text for text in texts if text not in svg.texts] == []
    width, height = svg.size
    for text, left, top, right, bottom in svg.boxes():
        assert left >= -1 and top >= 0 and right <= width + 1 and bottom <= height, (text, "is cut off")


def test_a_small_figure_is_refused_with_a_size_that_works(file, tmp_path):
    """tests/python/test_plots.py has more sizes and all kinds."""
    words = ["heads", file, "-o", tmp_path / "a.svg", "--size"]
    sentence, size = refuse(2, *words, "0.6x0.6").split(": at least ")
    assert sentence.startswith("--size: ") and ": too small for " in sentence
    plot(*words, size)
    assert all(min(place[2:]) >= 3 and max(place[2:]) >= 12 for place, _ in Svg(tmp_path / "a.svg").maps)


def test_heads_share_one_range(file, maps, tmp_path):
    plot("heads", file, "--layer", "decoder.1.cross", "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    assert len(svg.maps) == H and len(svg.bars) == 1
    for head in range(H):
        check_map(svg, head, maps["decoder.1.cross"][0, head], high=maps["decoder.1.cross"][0].max())


def test_layers_and_sample(file, maps, tmp_path):
    plot("layers", file, "--site", "decoder.cross", "--head", 2, "--sample", 1, "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    both = [maps[f"decoder.{layer}.cross"][1, 2] for layer in range(2)]
    for layer in range(2):
        check_map(svg, layer, both[layer], high=max(map(np.max, both)))


@pytest.mark.parametrize("site", ["cross", "decoder.cross"])
def test_a_site_is_as_much_of_its_name_as_only_one_has(site, file, maps, tmp_path):
    plot("layers", file, "--site", site, "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    both = [maps[f"decoder.{layer}.cross"][0].mean(0) for layer in range(2)]
    check_map(svg, 1, both[1], high=max(map(np.max, both)))
    plot("rollout", file, "--site", "encoder", "-o", tmp_path / "b.svg")
    assert "encoder, rollout through 2 layers" in Svg(tmp_path / "b.svg").texts


def test_flow_has_three_sites_of_their_own_range(file, maps, tmp_path):
    plot("flow", file, "--layer", 1, "--head", 0, "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    assert len(svg.bars) == 3 and svg.texts.count("attention weight") == 1
    assert all(max(place[2:]) > 90 for place, _ in svg.maps)
    for index, name in enumerate(("encoder.1.self", "decoder.1.self", "decoder.1.cross")):
        check_map(svg, index, maps[name][0, 0])


def test_aggregates(file, maps, tmp_path):
    plot("aggregate", file, "--layer", "decoder.0.cross", "--head-weights", "1,0,-1,0.5", "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    a = maps["decoder.0.cross"][0].astype(np.float64)
    second = np.exp(a) / np.exp(a).sum(-1, keepdims=True)
    score = (a.reshape(H, -1).var(1, ddof=1) - (second * np.log(second + 1e-8)).sum((1, 2))) / 2
    importance = np.exp(score - score.max())
    importance /= importance.sum()
    weighted = np.einsum("h,hij->ij", [1, 0, -1, 0.5], a)
    check_map(svg, 0, a.sum(0))
    check_map(svg, 1, a.mean(0))
    check_map(svg, 2, a.max(0))
    check_map(svg, 3, weighted, low=weighted.min())
    check_map(svg, 4, np.einsum("h,hij->ij", importance, a))


def test_rollout(file, maps, tmp_path):
    plot("rollout", file, "--site", "decoder.self", "-o", tmp_path / "a.svg")
    expected = np.eye(T)
    for layer in range(2):
        step = 0.5 * (maps[f"decoder.{layer}.self"][0].astype(np.float64).mean(0) + np.eye(T))
        expected = step / step.sum(-1, keepdims=True) @ expected
    check_map(Svg(tmp_path / "a.svg"), 0, expected)


def test_similarity(file, maps, tmp_path):
    plot("similarity", file, "--layer", "decoder.0.cross", "-o", tmp_path / "a.svg")
    flat = maps["decoder.0.cross"][0].reshape(H, -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    svg = Svg(tmp_path / "a.svg")
    check_map(svg, 0, flat @ flat.T)
    shown = sorted(text for text in svg.texts if len(text) == 4 and text[1] == ".")
    assert shown == sorted(f"{value:.2f}" for value in (flat @ flat.T).reshape(-1))
    plot("similarity", file, "--layer", "decoder.0.cross", "--js", "-o", tmp_path / "b.svg")
    assert "Jensen-Shannon divergence (nats)" in Svg(tmp_path / "b.svg").texts


def span(values):
    """From 0 at the first one to 1 at the last."""
    return (values - values[0]) / (values[-1] - values[0])


def test_spectrum(file, maps, tmp_path):
    plot("spectrum", file, "--layer", "decoder.1.cross", "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    points = svg.lines("#0072b2")[0]
    values = np.log(np.linalg.svd(maps["decoder.1.cross"][0, 0].astype(np.float64), compute_uv=False))
    heights = -points[:, 1]
    assert len(points) == S
    assert np.allclose(span(heights), span(values), atol=2e-3)


def test_the_spectrum_of_one_token(tmp_path):
    np.save(tmp_path / "decoder.0.self.npy", np.ones((1, 4, 1, 1), np.float32))
    plot("spectrum", tmp_path / "decoder.0.self.npy", "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    assert {"head 0", "head 3", "index", "1"} <= set(svg.texts) and not {"0.9", "1.1"} & set(svg.texts)


def test_tokens(file, maps, tmp_path):
    plot("tokens", file, "--layer", "decoder.0.cross", "--head", 3, "--query", 4, "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    marked, rest = svg.areas("#0072b2")[:3], svg.areas("#a9bcd0")[:S - 3]
    bars = sorted(marked + rest, key=lambda bar: bar[:, 0].min())
    heights = np.array([np.ptp(bar[:, 1]) for bar in bars])
    row = maps["decoder.0.cross"][0, 3, 4]
    assert np.allclose(heights / heights.max(), row / row.max(), atol=2e-3)
    assert [i for i, bar in enumerate(bars) if any(bar is one for one in marked)] == sorted(np.argsort(-row)[:3])


def test_the_query_of_tokens_is_none_of_padding(maps, tmp_path):
    padded = maps["encoder.0.self"].copy()
    padded[:, :, 5] = np.nan
    padded[:, :, 6:] = 0
    np.savez(tmp_path / "maps.npz", **{"encoder.0.self": padded})
    plot("tokens", tmp_path / "maps.npz", "-o", tmp_path / "a.svg")
    assert "encoder.0.self, mean of 4 heads, query 4" in Svg(tmp_path / "a.svg").texts
    assert refuse(1, "tokens", tmp_path / "maps.npz", "--query", 7, "-o", tmp_path / "b.svg") == (
        "there is nothing to draw: query 7 attends to nothing (all 0: padding?)")
    assert "no value is a number" in refuse(1, "tokens", tmp_path / "maps.npz", "--query", 5, "-o", tmp_path / "b.svg")


@pytest.mark.parametrize("kind", PAST)
def test_csv_and_json_of_export_are_alike(kind, history, history_csv, tmp_path):
    plot(kind, history, "-o", tmp_path / "a.svg")
    plot(kind, history_csv, "-o", tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_windows_from_and_to(history, tmp_path):
    plot("entropy", history, "--from", 14, "--to", 39, "--head", 1, "-o", tmp_path / "a.svg")
    assert Svg(tmp_path / "a.svg").maps[0][1].shape[:2] == (2, 6)


def test_entropy_is_a_row_per_head(history, tmp_path):
    plot("entropy", history, "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    heads = [[(1 + head) / 4 * 0.95 ** window for window in range(10)] for head in range(3)]
    values = np.array(heads + heads)
    cells = svg.maps[0][1]
    assert cells[5, 3, 3] == 0, "what is missing is left out"
    steps = steps_of(cells, bar_table(svg))
    steps[5, 3] = expected_steps(values, 0, 0.75)[5, 3]
    assert np.abs(steps - expected_steps(values, 0, 0.75)).max() <= 1


def test_series_is_the_median_in_a_band(history, tmp_path):
    plot("series", history, "--layer", 0, "--metric", "entropy_normalized", "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    heights = -max(svg.lines("#0072b2"), key=len)[:, 1]
    expected = 0.5 * 0.95 ** np.arange(10)
    assert np.allclose(span(heights), span(expected), atol=3e-3)


def band_of(svg, line):
    """The least and the largest of a band, window by window, as shares of the way from the first to the last point of
    a line."""
    band = max(svg.areas("#0072b2"), key=len)
    columns = [band[np.isclose(band[:, 0], x), 1] for x in np.unique(band[:, 0].round(3))]
    edges = [np.array([edge(column) for column in columns]) for edge in (np.min, np.max)]
    first, last = line[0], line[-1]
    return sorted(((edge - first) / (last - first) for edge in edges), key=lambda edge: edge[0])


def without_percentiles(history, path):
    rows = [json.loads(row) for row in history.read_text().splitlines()]
    path.write_text("".join(json.dumps({key: row[key] for key in row if key != "p10"}) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("percentiles", [True, False])
def test_series_of_a_head_has_the_band_of_its_windows(percentiles, history, tmp_path):
    source = history if percentiles else without_percentiles(history, tmp_path / "old.jsonl")
    plot("series", source, "--layer", "decoder.0", "--head", 1, "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    line = max(svg.lines("#0072b2"), key=len)[:, 1]
    mean = 0.5 * 0.95 ** np.arange(10)
    low, high = (np.full(10, 0.15), np.full(10, 0.85)) if percentiles else (mean - 0.1, mean + 0.1)
    wanted = sorted(((edge - mean[0]) / (mean[-1] - mean[0]) for edge in (low, high)), key=lambda edge: edge[0])
    assert np.allclose(band_of(svg, line), wanted, atol=5e-3)
    assert ("10th to 90th percentile" if percentiles else "one standard deviation") in svg.texts
    assert "decoder.0.self, head 1" in svg.texts


# Marks, texts


def test_what_is_masked_is_not_a_weight_of_zero(file, maps, tmp_path):
    plot("heatmap", file, "--layer", "decoder.0.self", "--causal", "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    cells = svg.maps[0][1]
    hidden = ~np.tril(np.ones((T, T), bool))
    assert "masked (causal)" in svg.texts
    assert np.all(cells[hidden][:, :3] == 0xF1)
    assert np.all(steps_of(cells, bar_table(svg))[~hidden] >= 0)


def test_what_is_no_number_is_hatched(tmp_path):
    weights = np.full((1, 2, 4, 4), 0.25, np.float32)
    weights[0, 0, 2] = np.nan
    weights[0, 1, 0, 0] = np.inf
    np.save(tmp_path / "decoder.0.self.npy", weights)
    plot("heads", tmp_path / "decoder.0.self.npy", "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    assert "not a number: 4 cells" in svg.texts and "infinite: 1 cell" in svg.texts
    assert np.all(svg.maps[0][1][2, :, 3] == 0) and svg.maps[1][1][0, 0, 3] == 0
    assert np.all(svg.maps[0][1][[0, 1, 3], :, 3] == 255)


def pad(weights, queries, keys):
    padded = np.zeros(weights.shape[:2] + (queries, keys), np.float32)
    padded[..., :weights.shape[2], :weights.shape[3]] = weights
    return padded


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_not_a_weight_of_zero(causal, tmp_path):
    weights = attend(5, 7, 7, causal)
    np.save(tmp_path / "decoder.0.self.npy", pad(weights, 12, 12))
    plot("heatmap", tmp_path / "decoder.0.self.npy", "--head", 0, "-o", tmp_path / "a.svg",
         *["--causal"] * causal)
    svg = Svg(tmp_path / "a.svg")
    cells = svg.maps[0][1]
    behind = np.ones((12, 12), bool)
    behind[:7, :7] = False
    assert "padding" in svg.texts and ("masked (causal)" in svg.texts) == causal
    assert np.all(cells[behind][:, :3] == (0xDD, 0xE3, 0xEB))
    shown = np.tril(np.ones((7, 7), bool)) if causal else np.ones((7, 7), bool)
    steps = steps_of(cells[:7, :7], bar_table(svg))
    assert np.abs(steps - expected_steps(weights[0, 0], 0, weights[0, 0].max()))[shown].max() <= 1


def test_vmin_above_everything(tmp_path):
    np.save(tmp_path / "decoder.0.self.npy", np.array([[[[0.25, 0.75], [0.5, 0.5]]]], np.float32))
    assert refuse(2, "heatmap", tmp_path / "decoder.0.self.npy", "--vmin", 5, "-o", tmp_path / "a.svg") == (
        "--vmin: 5: above all values, which are 0.25 to 0.75")


def test_one_token(tmp_path):
    np.save(tmp_path / "decoder.0.self.npy", np.ones((1, 2, 1, 1), np.float32))
    for kind in MAPS:
        tokens = [] if kind in ("similarity", "spectrum") else ["--tokens", "x"]
        plot(kind, tmp_path / "decoder.0.self.npy", *tokens, "-o", tmp_path / f"{kind}.svg")
        assert Svg(tmp_path / f"{kind}.svg").texts


def test_texts_of_tokens(tmp_path):
    words = ["\u05e9\u05dc\u05d5\u05dd", "<b>&\"", "bell\x07", "\u6f22\u5b57", "", "a" * 300, "e\u0301\u0301", "   "]
    np.save(tmp_path / "decoder.0.self.npy", np.full((1, 1, 8, 8), 0.125, np.float32))
    (tmp_path / "labels").write_text("\n".join(words) + "\n")
    for kind in ("heatmap", "heads", "tokens"):
        plot(kind, tmp_path / "decoder.0.self.npy", "--labels", tmp_path / "labels", "-o", tmp_path / "a.svg")
        svg = Svg(tmp_path / "a.svg")
        assert {words[0], words[1], "bell\u00b7", words[3], "\u2205", words[6], "\u2423\u2423\u2423"} <= set(svg.texts)
        assert "key token" in svg.texts and "key position" not in svg.texts
        assert any(text.startswith("aaa") and text.endswith("\u2026") and len(text) < 40 for text in svg.texts)
    plot("heatmap", tmp_path / "decoder.0.self.npy", "--title", "a\nb<c>", "-o", tmp_path / "a.svg")
    assert "a\u21b5b<c>" in Svg(tmp_path / "a.svg").texts


def test_texts_of_the_queries_of_cross_attention(file, tmp_path):
    encoder, decoder = [f"key{i}" for i in range(S)], [f"query{i}" for i in range(T)]
    (tmp_path / "queries").write_text("\n".join(decoder) + "\n")
    words = ["--tokens", " ".join(encoder), "--query-labels", tmp_path / "queries", "-o", tmp_path / "a.svg"]
    plot("heatmap", file, "--layer", "decoder.0.cross", *words)
    assert set(encoder) | set(decoder) <= set(Svg(tmp_path / "a.svg").texts)
    plot("flow", file, "--size", "20x8", *words)
    texts = Svg(tmp_path / "a.svg").texts
    assert [texts.count(text) for text in ("key3", "query3")] == [3, 3], "of the decoder's self-attention too"


def test_a_font_that_is_not_installed_is_said(file, tmp_path):
    done = run("heatmap", file, "--font", "No Such Font", "-o", tmp_path / "a.svg")
    assert done.returncode == 0 and (tmp_path / "a.svg").exists()
    assert done.stderr.startswith("attnctl: font 'No Such Font' is not installed: ")
    assert done.stderr.endswith(" is used\n")
    used = done.stderr[:-1].split(": ")[-1].removesuffix(" is used")
    for font in (used.upper(), f"No Such Font, {used}"):
        plot("heatmap", file, "--font", font, "-o", tmp_path / "a.svg")


def test_a_size_that_is_given(file, tmp_path):
    for size, shape in (("3.3x2", (200, 330)), ("2x5", (500, 200))):
        plot("heads", file, "--size", size, "--dpi", 100, "-o", tmp_path / "a.png")
        assert read_png((tmp_path / "a.png").read_bytes())[0].shape[:2] == shape


def test_a_figure_of_many_rows_fits_a_page(tmp_path):
    np.save(tmp_path / "decoder.0.self.npy", np.full((1, 24, 8, 8), 0.125, np.float32))
    plot("heads", tmp_path / "decoder.0.self.npy", "--columns", 3, "-o", tmp_path / "a.svg")
    svg = Svg(tmp_path / "a.svg")
    assert svg.size[1] == 9 * 72 and all(place[2] == place[3] for place, _ in svg.maps)


# Files


@pytest.fixture(scope="module")
def many(file, tmp_path_factory):
    """All layers and heads, on a terminal: (folder, lines of --json, what the terminal was shown)."""
    folder = tmp_path_factory.mktemp("many") / "many"
    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    done = subprocess.run([ATTNCTL, "plot", "heatmap", file, "--every-layer", "--every-head", "--json", "-o", f"{folder}/"],
                          stdout=subprocess.PIPE, stderr=other, timeout=120)
    os.close(other)
    shown = b""
    try:
        while chunk := os.read(main, 65536):
            shown += chunk
    except OSError:
        pass
    os.close(main)
    assert done.returncode == 0
    return folder, [json.loads(line) for line in done.stdout.splitlines()], shown


def test_every_layer_and_head(file, many, tmp_path):
    expected = {f"heatmap-{layer}-h{head:02}.png" for layer in LAYERS for head in range(H)}
    assert set(os.listdir(many[0])) == expected
    plot("heads", file, "--every-layer", "-o", tmp_path / "{layer}" / "a.svg")
    assert "decoder.1.cross" in Svg(tmp_path / "decoder.1.cross" / "a.svg").texts
    plot("heatmap", file, "--layer", "encoder.0", "--every-head", "-o", tmp_path / "{head}.svg")
    assert "encoder.0.self, head 3" in Svg(tmp_path / "03.svg").texts


def test_a_flow_is_of_a_number_and_not_of_one_layer(file, tmp_path):
    plot("flow", file, "--every-layer", "-o", f"{tmp_path}/many/")
    assert set(os.listdir(tmp_path / "many")) == {"flow-0.png", "flow-1.png"}
    np.save(tmp_path / "decoder.0.self.npy", np.full((1, 1, 2, 2), np.nan, np.float32))
    done = run("flow", tmp_path / "decoder.0.self.npy", "--every-layer", "-o", f"{tmp_path}/many/")
    assert done.returncode == 1 and done.stderr.startswith("attnctl: layer 0, head mean: left out: ")
    plot("flow", file, "--layer", 1, "-o", tmp_path / "{layer}.svg")
    assert "layer 1, mean of 4 heads" in Svg(tmp_path / "1.svg").texts


def test_what_was_written_as_json(file, many, history, tmp_path):
    def receipts(*arguments):
        done = run(*arguments, "--json")
        assert done.returncode == 0
        return [json.loads(line) for line in (done.stderr if "-" in arguments else done.stdout).splitlines()]
    folder, told, _ = many
    assert sorted(told, key=str) == sorted((
        {"figure": f"{folder}/heatmap-{layer}-h{head:02}.png", "kind": "heatmap", "layer": layer, "head": head}
        for layer in LAYERS for head in range(H)), key=str)
    assert all(os.path.exists(one["figure"]) for one in told)
    one, = receipts("heads", file, "--layer", "decoder.1.self", "-o", tmp_path / "a \"b\".svg")
    assert one == {"figure": str(tmp_path / "a \"b\".svg"), "kind": "heads", "layer": "decoder.1.self", "head": None}
    one, = receipts("series", history, "--head", 1, "--layer", 0, "-o", tmp_path / "a.svg")
    assert one == {"figure": str(tmp_path / "a.svg"), "kind": "series", "layer": None, "head": None}
    one, = receipts("flow", file, "--format", "svg", "-o", "-")
    assert (one["figure"], one["kind"], one["layer"]) == ("-", "flow", None)


def test_the_format_of_figures_in_a_folder(file, tmp_path):
    plot("heatmap", file, "--every-layer", "--format", "svg", "-o", f"{tmp_path}/many/")
    assert set(os.listdir(tmp_path / "many")) == {f"heatmap-{layer}.svg" for layer in LAYERS}
    plot("heatmap", file, "--format", "pdf", "-o", tmp_path / "a.pdf")
    assert refuse(2, "heatmap", file, "--format", "pdf", "-o", "a.svg", cwd=tmp_path) == (
        "--format pdf: but a.svg is to be svg")
    assert refuse(2, "heatmap", file, "--format", "jpg", "-o", "many/", cwd=tmp_path) == (
        "--format: 'jpg': not accepted (valid: png, svg, pdf)")


def test_a_map_without_a_number_does_not_stop_the_others(tmp_path):
    weights = np.full((1, 3, 4, 4), 0.25, np.float32)
    weights[0, 1] = np.nan
    np.savez(tmp_path / "maps.npz", **{"decoder.0.self": weights, "decoder.1.self": weights})
    done = run("heatmap", tmp_path / "maps.npz", "--every-layer", "--every-head", "-o", f"{tmp_path}/many/")
    why = "left out: there is nothing to draw: no entry of the map is a number"
    assert done.returncode == 1 and done.stderr.splitlines() == [
        f"attnctl: decoder.0.self, head 01: {why}", f"attnctl: decoder.1.self, head 01: {why}",
        "attnctl: 2 of 6 figures were left out"]
    assert set(os.listdir(tmp_path / "many")) == {f"heatmap-decoder.{layer}.self-h{head:02}.png"
                                                  for layer in (0, 1) for head in (0, 2)}


def test_one_of_many_is_the_same_as_alone(file, many, tmp_path):
    plot("heatmap", file, "--layer", "decoder.1.self", "--head", 2, "-o", tmp_path / "alone.png")
    assert (tmp_path / "alone.png").read_bytes() == (many[0] / "heatmap-decoder.1.self-h02.png").read_bytes()


def test_progress_is_for_terminals(many):
    """Half a second must have passed: many figures."""
    assert b" of 24" in many[2] and many[2].endswith(b"\r\x1b[K")


def test_an_interrupted_batch_leaves_whole_figures(tmp_path):
    """More figures than there is time for, also where this test stands still for a while."""
    np.savez(tmp_path / "many.npz", **{f"decoder.{layer}.self": attend(layer, T, T, True) for layer in range(200)})
    batch = subprocess.Popen([ATTNCTL, "plot", "heatmap", tmp_path / "many.npz", "--every-layer", "--every-head", "-o",
                              f"{tmp_path}/"])
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.005)
    batch.send_signal(signal.SIGINT)
    assert batch.wait(60) == -signal.SIGINT, "130, as shells count"
    for path in tmp_path.glob("*.png"):
        read_png(path.read_bytes())


def test_nothing_is_left_half_written(file, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "a.png").mkdir()
    assert "cannot write" in refuse(1, "heatmap", file, "-o", folder / "a.png")
    assert os.listdir(folder) == ["a.png"]
    assert "No such file" in refuse(1, "heatmap", file, "-o", tmp_path / "nowhere" / "a.png")
    (tmp_path / "b.png").write_bytes(b"before")
    refuse(2, "heatmap", file, "--head", 99, "-o", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == b"before"
    plot("heatmap", file, "-o", tmp_path / "b.png")
    (tmp_path / "usual").touch()
    assert (tmp_path / "b.png").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.png", "closed", "usual"]


def pipe(data, *arguments):
    """Data that a pipe holds at once."""
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    try:
        return run(*arguments, stdin=reader)
    finally:
        os.close(reader)


@pytest.mark.parametrize("ending, piped", [("npz", True), ("npy", False)])
def test_standard_input_and_output(piped, ending, tmp_path):
    weights = attend(3, T, T)
    path = tmp_path / f"decoder.0.self.{ending}"
    np.save(path, weights) if ending == "npy" else np.savez(path, **{"decoder.0.self": weights})
    plot("heads", path, "-o", tmp_path / "a.svg")
    words = ["heads", "-", "--format", "svg", "-o", "-"]
    with open(path, "rb") as file:
        done = pipe(path.read_bytes(), *words) if piped else subprocess.run([ATTNCTL, "plot", *words], stdin=file, text=True,
                                                                           capture_output=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == (tmp_path / "a.svg").read_text()


def test_an_export_from_standard_input(history, tmp_path):
    plot("series", history, "-o", tmp_path / "a.svg")
    done = pipe(history.read_bytes(), "series", "-", "--format", "svg", "-o", "-")
    assert done.returncode == 0 and done.stdout == (tmp_path / "a.svg").read_text()


def test_what_is_wrong_with_standard_input_and_output(file):
    said = pipe(b"nonsense", "heatmap", "-", "--format", "svg", "-o", "-")
    assert (said.returncode, said.stderr) == (2, "attnctl: -: not a .npy, .npz or .safetensors file\n")
    assert refuse(2, "heatmap", file, "-o", "-") == "-o -: in which format? give --format png, svg or pdf"
    assert "of many figures needs -o FOLDER/" in refuse(2, "heatmap", file, "--every-head", "--format", "png", "-o", "-")
    main, other = pty.openpty()
    for words, sentence in ((["heatmap", "-", "-o", "a.png"], b"-: standard input is a terminal: give a file or a pipe"),
                            (["heatmap", file, "--format", "png", "-o", "-"], b"-o -: png is not for a terminal")):
        done = subprocess.run([ATTNCTL, "plot", *words], stdin=other, stdout=other, stderr=subprocess.PIPE, timeout=120)
        assert done.returncode == 2 and sentence in done.stderr
    os.close(main)
    os.close(other)


def test_a_full_disk_is_said(file, tmp_path):
    (tmp_path / "full.png").symlink_to("/dev/full")
    assert "No space left" in refuse(1, "heatmap", file, "-o", tmp_path / "full.png")


def test_the_date_of_a_pdf(file, tmp_path):
    plot("heatmap", file, "-o", tmp_path / "a.pdf")
    plot("heatmap", file, "-o", tmp_path / "b.pdf", SOURCE_DATE_EPOCH="1700000000")
    assert b"CreationDate" not in (tmp_path / "a.pdf").read_bytes()
    assert b"20231114221320Z" in (tmp_path / "b.pdf").read_bytes()


# Figures that cannot be drawn


@pytest.mark.parametrize("words, sentence", [
    (["heatmap", "FILE", "--layer", "decoder.7.self", "-o", "a.png"], "valid: encoder.0.self"),
    (["heatmap", "FILE", "--layer", "1", "-o", "a.png"], "may be any of"),
    (["heatmap", "FILE", "--head", "4", "-o", "a.png"], "has no head 4 (valid: 0 to 3)"),
    (["heatmap", "FILE", "--sample", "2", "-o", "a.png"], "has no sample 2 (valid: 0 to 1)"),
    (["tokens", "FILE", "--query", "8", "-o", "a.png"], "--query: there is no query 8: they are 0 to 7"),
    (["heatmap", "FILE", "-o", "a.gif"], "must end in .png, .svg or .pdf"),
    (["heatmap", "FILE", "-o", "a"], "must end in .png, .svg or .pdf"),
    (["heatmap", "FILE"], "where to? give -o"),
    (["picture", "FILE", "-o", "a.png"], "no kind 'picture' (valid: heatmap, heads"),
    (["heatmpa", "FILE", "-o", "a.png"], "no kind 'heatmpa': did you mean 'heatmap'?"),
    (["heatmap", "FILE", "--query", "3", "-o", "a.png"], "--query is not an option of heatmap (it is of tokens)"),
    (["heatmap", "FILE", "--tokens", "a b c d e", "-o", "a.png"], "5 tokens were given, but encoder.0.self has 8 keys"),
    (["heatmap", "FILE", "--query-tokens", "a", "-o", "a.png"], "in encoder.0.self the queries are the keys"),
    (["rollout", "FILE", "--query-tokens", "a", "-o", "a.png"], "--query-tokens is not an option of rollout"),
    (["heatmap", "FILE", "--head-weights", "1,2", "-o", "a.png"], "is not an option of heatmap (it is of aggregate)"),
    (["similarity", "FILE", "--head", "3", "-o", "a.png"], "--head is not an option of similarity"),
    (["layers", "FILE", "--layer", "1", "-o", "a.png"], "--layer is not an option of layers"),
    (["entropy", "HISTORY", "--causal", "-o", "a.png"], "--causal is not an option of entropy"),
    (["heatmap", "FILE", "--metric", "entropy", "-o", "a.png"], "of heatmap (it is of entropy, series)"),
    (["spectrum", "FILE", "--tokens", "a", "-o", "a.png"], "--tokens is not an option of spectrum"),
    (["heatmap"], "heatmap of what"),
    ([], "draw what? attnctl plot KIND"),
    (["heatmap", "FILE", "--colormap", "jet", "-o", "a.png"], "valid: viridis, cividis"),
    (["heatmap", "FILE", "--cmap", "hot", "-o", "a.png"], "no option --cmap: did you mean --colormap?"),
    (["heatmap", "FILE", "--vmin", "1", "--vmax", "1", "-o", "a.png"], "--vmin must be less"),
    (["heatmap", "FILE", "--size", "3.3x", "-o", "a.png"], "valid: inches such as 3.3x2.8"),
    (["heatmap", "FILE", "--dpi", "nan", "-o", "a.png"], "valid: a number from"),
    (["heatmap", "FILE", "--dpi", "2400", "--size", "50x50", "-o", "a.png"], "million pixels"),
    (["heatmap", "FILE", "--every-head", "-o", "a.png"], "needs -o FOLDER/"),
    (["heatmap", "FILE", "--every-layer", "--every-head", "-o", "{layer}.png"], "needs {head}"),
    (["similarity", "FILE", "--every-head", "-o", "x/"], "--every-head is not an option of similarity"),
    (["heatmap", "FILE", "--every-head", "--head", "1", "-o", "x/"], "either --head or --every-head"),
    (["layers", "FILE", "--site", "encoder.cross", "-o", "a.png"],
     "no 'encoder.cross' (valid: encoder.self, decoder.self, decoder.cross)"),
    (["layers", "FILE", "--site", "self", "-o", "a.png"], "may be any of encoder.self, decoder.self: say which"),
    (["layers", "FILE", "--site", "1", "-o", "a.png"], "--site: there is no '1' (valid: encoder.self"),
    (["rollout", "FILE", "--site", "cross", "-o", "a.png"], "no 'cross' (valid: encoder.self, decoder.self)"),
    (["aggregate", "FILE", "--head-weights", "1,2", "-o", "a.png"], "2 of them, but 4 heads"),
    (["aggregate", "FILE", "--head-weights", "1,x", "-o", "a.png"], "one per head"),
    (["heatmap", "nothing.npz", "-o", "a.png"], "No such file"),
    (["heatmap", "FILE", "--nonsense", "-o", "a.png"], "no option --nonsense"),
    (["heatmap", "FILE", "-o"], "-o needs a value"),
    (["series", "FILE", "-o", "a.png"],
     "series needs a job, or a file of attnctl export; FILE is a file of arrays"),
    (["series", "LABELS", "-o", "a.png"], "line 1: not the names of an export's columns"),
    (["series", "HISTORY", "--metric", "entropy_normalised", "-o", "a.png"], "did you mean 'entropy_normalized'?"),
    (["series", "HISTORY", "--metric", "loss", "-o", "a.png"], "valid: entropy_normalized"),
    (["series", "HISTORY", "--layer", "9", "-o", "a.png"], "in layer 9"),
    (["entropy", "nothing.csv", "-o", "a.png"], "No such file"),
    (["entropy", "HISTORY", "-o", "x/"], "is one figure"),
])
def test_bad_input(words, sentence, file, history, tmp_path):
    names = {"FILE": file, "HISTORY": history, "LABELS": __file__}
    sentence = sentence.replace("FILE", str(file))
    assert sentence in refuse(2, *[names.get(word, word) for word in words], cwd=tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_source_answers_each_request_once(file, maps, monkeypatch):
    from attnd import plots
    from attnd.plots.read import SourceError

    monkeypatch.setenv("ATTND_ATTNCTL", os.path.abspath(ATTNCTL))
    with plots.Source(file) as source:
        for head in ("max", -1, "0x1"):
            with pytest.raises(SourceError, match="no such head .valid: a number from 0, mean, all."):
                source.maps("decoder.0.self", head=head)
        for text in ("x" * 600, "x\nmap 0 0 0"):
            with pytest.raises(SourceError, match="xxxx|x map 0 0 0"):
                source.find(text)
        assert np.array_equal(source.maps("decoder.0.self", head=1).weights[0], maps["decoder.0.self"][0, 1])


def test_a_source_that_cannot_be_run_leaves_nothing_open(file, monkeypatch):
    from attnd import plots

    monkeypatch.setenv("ATTND_ATTNCTL", "/nonexistent/attnctl")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        plots.Source(file)
    assert os.listdir("/proc/self/fd") == before


def test_a_recording_has_no_history(tmp_path):
    (tmp_path / "run.rec").write_bytes(b"\x89attnd\r\n")
    assert refuse(2, "entropy", "run.rec", "-o", "a.png", cwd=tmp_path) == (
        "entropy needs a job, or a file of attnctl export; run.rec is a recording")


@pytest.mark.parametrize("words, asked", [(["--from", 99], " from 99"), (["--to", 3], " to 3"),
                                          (["--from", 50, "--to", 60], " from 50 to 60")])
def test_a_range_without_a_window_is_a_finding(words, asked, history, tmp_path):
    said = refuse(1, "series", history, *words, "-o", tmp_path / "a.png")
    assert said == f"{history} has no window of entropy_normalized{asked}: its windows end at 4 to 49"


def test_a_long_list_of_metrics_is_cut_between_names(history, tmp_path):
    row = json.loads(history.read_text().splitlines()[0])
    names = [f"metric_number_{i}" for i in range(85)]
    (tmp_path / "many.jsonl").write_text("".join(json.dumps(dict(row, metric=name)) + "\n" for name in names))
    said = refuse(2, "series", "many.jsonl", "--metric", "loss", "-o", "a.png", cwd=tmp_path)
    assert said == (f"--metric: 'loss': not in many.jsonl (valid: {', '.join(names[:10])}, ..., 85 in all: "
                    "see its column metric)")


def test_nothing_to_draw(tmp_path):
    np.save(tmp_path / "decoder.0.self.npy", np.full((1, 2, 3, 3), np.nan, np.float32))
    said = refuse(1, "heatmap", tmp_path / "decoder.0.self.npy", "-o", tmp_path / "a.png")
    assert "no entry of the map is a number" in said
    np.save(tmp_path / "decoder.0.self.npy", np.zeros((1, 2, 0, 0), np.float32))
    assert "is empty" in refuse(2, "heatmap", tmp_path / "decoder.0.self.npy", "-o", tmp_path / "a.png")


def test_what_attnd_is_asked_needs_attnd():
    done = run("heatmap", "some-job", "--endpoint", "ipc:///nowhere/attnd", "--timeout", "0.2", "-o", "/tmp/never.png")
    assert done.returncode == 3 and "cannot reach attnd at ipc:///nowhere/attnd" in done.stderr
    done = run("entropy", "some-job", "--endpoint", "ipc:///nowhere/attnd", "--timeout", "0.2", "-o", "/tmp/never.png")
    assert done.returncode == 3 and "cannot reach attnd at ipc:///nowhere/attnd" in done.stderr


def test_help_names_every_kind():
    done = run("--help")
    assert done.returncode == 0 and all(f"  {kind} " in done.stdout for kind in MAPS + PAST)


def options_of(*words):
    done = run(*words, "--help")
    assert done.returncode == 0 and done.stderr == ""
    return {line.split()[0][2:] for line in done.stdout.splitlines() if line.startswith("  --")}, done.stdout


@pytest.mark.parametrize("kind", MAPS + PAST)
def test_the_help_of_a_kind_is_of_its_options(kind):
    every, _ = options_of()
    own, text = options_of(kind)
    assert own < every and {"output", "format", "title", "size", "run", "endpoint", "help"} <= own
    assert ("query" in own) == (kind == "tokens") and ("metric" in own) == (kind in PAST)
    assert max(map(len, text.splitlines())) <= 80
    assert f"usage: attnctl plot {kind} " in text and f"  attnctl plot {kind} " in text


def test_completion_offers_the_options_of_a_kind():
    done = subprocess.run([ATTNCTL, "__complete", "plot", "entropy", "gpt", "--"], capture_output=True, text=True)
    offered = {line.split("\t")[0][2:] for line in done.stdout.splitlines()}
    assert offered == options_of("entropy")[0]
