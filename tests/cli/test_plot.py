# SPDX-License-Identifier: MIT
"""attnctl plot as a user sees it: figures are read back, the colours of their cells from the pixels and their texts
from SVG, and compared with numbers that numpy works out. tests/python/test_plots.py has the figures themselves, kind by kind;
here is what files and options make of them."""
import json
from pathlib import Path

import numbers_f64 as f64
import numpy as np
import pytest
from figures import VIRIDIS, bar_table, read_png, steps_of
from invoke import npz
from plotted import MAPS, PAST, H, S, T, drawn, file, history, maps, maps_of, plot, refuse, run  # noqa: F401


def source_of(kind, file, history):
    return history if kind in PAST else file


def expected_steps(values, low, high):
    return np.clip(np.floor(256 * (values.astype(np.float64) - low) / (high - low)), 0, 255).astype(int)


def png():
    return read_png(Path("a.png").read_bytes())


def check_map(svg, index, values, low=0.0, high=None):
    """The cells of a map are the numbers, to one of 256 steps."""
    cells = svg.maps[index][1]
    assert cells.shape[:2] == values.shape
    steps = steps_of(cells, bar_table(svg))
    assert np.abs(steps - expected_steps(values, low, values.max() if high is None else high)).max() <= 1


# Pixels


def test_cells_have_the_colours_of_their_numbers():
    values = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    svg = drawn("heatmap", values[None, None])
    plot("heatmap", "decoder.0.self.npy", "--dpi", 144, "-o", "a.png")
    pixels, dpi = png()
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


def test_colour_maps(file):
    """tests/python/test_plots.py has all of them."""
    for name, low, high in (("hot", (11, 0, 0), (255, 255, 255)), ("RdBu_r", (5, 48, 97), (103, 0, 31))):
        table = bar_table(drawn("heatmap", file, "--colormap", name))
        assert (tuple(table[0]), tuple(table[-1])) == (low, high)


def test_range_that_is_given(file, maps):
    svg = drawn("heatmap", file, "--layer", "decoder.0.cross", "--head", 1, "--vmin", 0.1, "--vmax", 0.2)
    check_map(svg, 0, maps["decoder.0.cross"][0, 1], 0.1, 0.2)
    assert len(svg.tips) == 2, "values beyond both ends"


def test_large_maps_are_pooled_in_pixels_and_whole_on_paper():
    values = np.zeros((1, 1, 800, 800), np.float32)
    values[..., ::2] = 1
    svg = drawn("heatmap", values, "--size", "3x3")
    plot("heatmap", "decoder.0.self.npy", "--dpi", 72, "--size", "3x3", "-o", "a.png")
    (x, y, width, height), cells = svg.maps[0]
    assert cells.shape[:2] == (800, 800)
    pixels, _ = png()
    middle = steps_of(pixels[int(y + height / 2), int(x) + 3:int(x + width) - 3], bar_table(svg))
    assert np.all((middle > 90) & (middle < 166)), "about half of the cells of each pixel are 1"


# Kinds


@pytest.mark.parametrize("kind", ["heads", "flow", "entropy"])
def test_pixels_are_where_svg_has_its_cells(kind, file, history):
    """A little below and right of each cell's upper left corner, where no number is written into it."""
    words = [source_of(kind, file, history), *["--causal"] * (kind in MAPS), "--dpi", 288]
    maps = drawn(kind, *words).maps
    plot(kind, *words, "-o", "a.png")
    pixels, _ = png()
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
def test_texts(kind, texts, file, history):
    svg = drawn(kind, source_of(kind, file, history))
    assert [text for text in texts if text not in svg.texts] == []
    width, height = svg.size
    for text, left, top, right, bottom in svg.boxes():
        assert left >= -1 and top >= 0 and right <= width + 1 and bottom <= height, (text, "is cut off")


def test_a_small_figure_is_refused(file):
    """tests/python/test_plots.py has more sizes and all kinds."""
    said = refuse(2, "heads", file, "-o", "a.svg", "--size", "0.6x0.6")
    assert said.startswith("--size: 0.6x0.6: too small for 4 panels: give it more inches")


CROSS = ["decoder.0.cross", "decoder.1.cross"]


@pytest.mark.parametrize("kind, options, expected", [
    ("heads", ["--layer", "decoder.1.cross"], lambda maps: maps["decoder.1.cross"][0]),
    ("layers", ["--site", "decoder.cross", "--head", 2, "--sample", 1], lambda maps: [maps[name][1, 2] for name in CROSS]),
    ("layers", ["--site", "cross"], lambda maps: [maps[name][0].mean(0) for name in CROSS])])
def test_heads_and_layers_share_one_range(kind, options, expected, file, maps):
    svg, expected = drawn(kind, file, *options), expected(maps)
    assert len(svg.maps) == len(expected) and len(svg.bars) == 1
    for index, values in enumerate(expected):
        check_map(svg, index, values, high=max(map(np.max, expected)))


def test_a_site_is_as_much_of_its_name_as_only_one_has(file):
    assert "encoder, rollout through 2 layers" in drawn("rollout", file, "--site", "encoder").texts


def test_flow_has_three_sites_of_their_own_range(file, maps):
    svg = drawn("flow", file, "--layer", 1, "--head", 0)
    assert len(svg.bars) == 3 and svg.texts.count("attention weight") == 1
    assert all(max(place[2:]) > 90 for place, _ in svg.maps)
    for index, name in enumerate(("encoder.1.self", "decoder.1.self", "decoder.1.cross")):
        check_map(svg, index, maps[name][0, 0])


def test_aggregates(file, maps):
    svg = drawn("aggregate", file, "--layer", "decoder.0.cross", "--head-weights", "1,0,-1,0.5")
    a = maps["decoder.0.cross"][0].astype(np.float64)
    weighted = np.einsum("h,hij->ij", [1, 0, -1, 0.5], a)
    for index, values in enumerate((a.sum(0), a.mean(0), a.max(0))):
        check_map(svg, index, values)
    check_map(svg, 3, weighted, low=weighted.min())
    check_map(svg, 4, np.einsum("h,hij->ij", f64.measured(a[None], np.ones((1, *a.shape[1:]), bool)).values["importance"], a))


def test_rollout(file, maps):
    expected = np.eye(T)
    for layer in range(2):
        step = 0.5 * (maps[f"decoder.{layer}.self"][0].astype(np.float64).mean(0) + np.eye(T))
        expected = step / step.sum(-1, keepdims=True) @ expected
    check_map(drawn("rollout", file, "--site", "decoder.self"), 0, expected)


def test_similarity(file, maps):
    flat = maps["decoder.0.cross"][0].reshape(H, -1).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    svg = drawn("similarity", file, "--layer", "decoder.0.cross")
    check_map(svg, 0, flat @ flat.T)
    svg = drawn("similarity", file, "--layer", "decoder.0.cross", "--js")
    assert "Jensen-Shannon divergence (nats)" in svg.texts


def span(values):
    """From 0 at the first one to 1 at the last."""
    return (values - values[0]) / (values[-1] - values[0])


def test_spectrum(file, maps):
    svg = drawn("spectrum", file, "--layer", "decoder.1.cross")
    points = svg.lines("#0072b2")[0]
    values = np.log(np.linalg.svd(maps["decoder.1.cross"][0, 0].astype(np.float64), compute_uv=False))
    heights = -points[:, 1]
    assert len(points) == S
    assert np.allclose(span(heights), span(values), atol=2e-3)


def test_the_spectrum_of_one_token():
    svg = drawn("spectrum", np.ones((1, 4, 1, 1), np.float32))
    assert {"head 0", "head 3", "index", "1"} <= set(svg.texts) and not {"0.9", "1.1"} & set(svg.texts)


def test_tokens(file, maps):
    svg = drawn("tokens", file, "--layer", "decoder.0.cross", "--head", 3, "--query", 4)
    marked, rest = svg.areas("#0072b2")[:3], svg.areas("#a9bcd0")[:S - 3]
    bars = sorted(marked + rest, key=lambda bar: bar[:, 0].min())
    heights = np.array([np.ptp(bar[:, 1]) for bar in bars])
    row = maps["decoder.0.cross"][0, 3, 4]
    assert np.allclose(heights / heights.max(), row / row.max(), atol=2e-3)
    assert [i for i, bar in enumerate(bars) if any(bar is one for one in marked)] == sorted(np.argsort(-row)[:3])


def test_the_query_of_tokens_is_none_of_padding(maps):
    padded = maps["encoder.0.self"].copy()
    padded[:, :, 5] = np.nan
    padded[:, :, 6:] = 0
    file = npz(**{"encoder.0.self": padded})
    assert "encoder.0.self, mean of 4 heads, query 4" in drawn("tokens", file).texts
    assert refuse(1, "tokens", file, "--query", 7, "-o", "b.svg") == (
        "there is nothing to draw: query 7 attends to nothing (all 0: padding?)")
    assert "no value is a number" in refuse(1, "tokens", file, "--query", 5, "-o", "b.svg")


@pytest.mark.parametrize("kind", PAST)
def test_csv_and_json_of_export_are_alike(kind, history):
    plot(kind, history, "-o", "a.svg")
    plot(kind, history.with_suffix(".csv"), "-o", "b.svg")
    assert Path("a.svg").read_bytes() == Path("b.svg").read_bytes()


def test_windows_from_and_to(history):
    svg = drawn("entropy", history, "--from", 14, "--to", 39, "--head", 1)
    assert svg.maps[0][1].shape[:2] == (2, 6)


def test_entropy_is_a_row_per_head(history):
    svg = drawn("entropy", history)
    heads = [[(1 + head) / 4 * 0.95 ** window for window in range(10)] for head in range(3)]
    values = np.array(heads + heads)
    cells = svg.maps[0][1]
    assert cells[5, 3, 3] == 0, "what is missing is left out"
    steps = steps_of(cells, bar_table(svg))
    steps[5, 3] = expected_steps(values, 0, 0.75)[5, 3]
    assert np.abs(steps - expected_steps(values, 0, 0.75)).max() <= 1


def test_series_is_the_median_in_a_band(history):
    svg = drawn("series", history, "--layer", 0, "--metric", "entropy_normalized")
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


@pytest.mark.parametrize("percentiles", [True, False])
def test_series_of_a_head_has_the_band_of_its_windows(percentiles, history):
    rows = [json.loads(row) for row in history.read_text().splitlines()]
    kept = [{key: row[key] for key in row if percentiles or key != "p10"} for row in rows]
    Path("run.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    svg = drawn("series", "run.jsonl", "--layer", "decoder.0", "--head", 1)
    line = max(svg.lines("#0072b2"), key=len)[:, 1]
    mean = 0.5 * 0.95 ** np.arange(10)
    low, high = (np.full(10, 0.15), np.full(10, 0.85)) if percentiles else (mean - 0.1, mean + 0.1)
    wanted = sorted(((edge - mean[0]) / (mean[-1] - mean[0]) for edge in (low, high)), key=lambda edge: edge[0])
    assert np.allclose(band_of(svg, line), wanted, atol=5e-3)
    assert ("10th to 90th percentile" if percentiles else "one standard deviation") in svg.texts
    assert "decoder.0.self, head 1" in svg.texts


# Marks, texts


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_not_a_weight_of_zero(causal):
    weights = maps_of(5, 7, 7, causal)
    svg = drawn("heatmap", np.pad(weights, ((0, 0), (0, 0), (0, 5), (0, 5))), "--head", 0, *["--causal"] * causal)
    cells = svg.maps[0][1]
    behind = np.ones((12, 12), bool)
    behind[:7, :7] = False
    assert "padding" in svg.texts and ("masked (causal)" in svg.texts) == causal
    assert np.all(cells[behind][:, :3] == (0xDD, 0xE3, 0xEB))
    shown = np.tril(np.ones((7, 7), bool)) if causal else np.ones((7, 7), bool)
    steps = steps_of(cells[:7, :7], bar_table(svg))
    assert np.abs(steps - expected_steps(weights[0, 0], 0, weights[0, 0].max()))[shown].max() <= 1


def test_vmin_above_everything():
    assert refuse(2, "heatmap", np.array([[[[0.25, 0.75], [0.5, 0.5]]]], np.float32), "--vmin", 5, "-o", "a.svg") == (
        "--vmin: 5: above all values, which are 0.25 to 0.75")


@pytest.mark.parametrize("kind", MAPS)
def test_one_token(kind):
    tokens = [] if kind in ("similarity", "spectrum") else ["--tokens", "x"]
    assert drawn(kind, np.ones((1, 2, 1, 1), np.float32), *tokens).texts


def test_texts_of_tokens():
    words = ["\u05e9\u05dc\u05d5\u05dd", "<b>&\"", "bell\x07", "\u6f22\u5b57", "", "a" * 300, "e\u0301\u0301", "   "]
    weights = np.full((1, 1, 8, 8), 0.125, np.float32)
    Path("labels").write_text("\n".join(words) + "\n")
    for kind in ("heatmap", "heads", "tokens"):
        svg = drawn(kind, weights, "--labels", "labels")
        assert {words[0], words[1], "bell\u00b7", words[3], "\u2205", words[6], "\u2423\u2423\u2423"} <= set(svg.texts)
        assert "key token" in svg.texts and "key position" not in svg.texts
        assert any(text.startswith("aaa") and text.endswith("\u2026") and len(text) < 40 for text in svg.texts)
    assert "a\u21b5b<c>" in drawn("heatmap", weights, "--title", "a\nb<c>").texts


def test_texts_of_the_queries_of_cross_attention(file):
    encoder, decoder = [f"key{i}" for i in range(S)], [f"query{i}" for i in range(T)]
    Path("queries").write_text("\n".join(decoder) + "\n")
    words = ["--tokens", " ".join(encoder), "--query-labels", "queries"]
    assert set(encoder) | set(decoder) <= set(drawn("heatmap", file, "--layer", "decoder.0.cross", *words).texts)
    texts = drawn("flow", file, "--size", "20x8", *words).texts
    assert [texts.count(text) for text in ("key3", "query3")] == [3, 3], "of the decoder's self-attention too"


def test_a_font_that_is_not_installed_is_said(file):
    done = run("heatmap", file, "--font", "No Such Font", "-o", "a.svg")
    assert done.returncode == 0 and Path("a.svg").exists()
    assert done.stderr.startswith("attnctl: font 'No Such Font' is not installed: ")
    assert done.stderr.endswith(" is used\n")
    used = done.stderr[:-1].split(": ")[-1].removesuffix(" is used")
    for font in (used.upper(), f"No Such Font, {used}"):
        plot("heatmap", file, "--font", font, "-o", "a.svg")


def test_a_size_that_is_given(file):
    for size, shape in (("3.3x2", (200, 330)), ("2x5", (500, 200))):
        plot("heads", file, "--size", size, "--dpi", 100, "-o", "a.png")
        assert png()[0].shape[:2] == shape


def test_a_figure_of_many_rows_fits_a_page():
    svg = drawn("heads", np.full((1, 24, 8, 8), 0.125, np.float32), "--columns", 3)
    assert svg.size[1] == 9 * 72 and all(place[2] == place[3] for place, _ in svg.maps)
