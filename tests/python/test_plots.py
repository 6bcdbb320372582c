# SPDX-License-Identifier: MIT
"""attnd.plots: what is drawn are the numbers that were given, read back from the figures' artists; what is masked, padding
or no number is shown as such; texts stay apart at every size; and nothing of a session changes."""
import os
import json
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib")
import reference_heads
from attnd import plots
from attnd.base.metrics import UNITS
from attnd.plots import cells, command, derive, labels, layout, read, scale, style
from reference_rows import Attention, judge

ROOT = pathlib.Path(__file__).resolve().parents[2]
H, T, S = 4, 12, 8
WORDS = [f"word{index}" for index in range(T)]


def attend(seed, queries, keys, heads=H, causal=False):
    logits = 2 * np.random.default_rng(seed).normal(size=(heads, queries, keys))
    if causal:
        logits = np.where(np.tril(np.ones((queries, keys), bool)), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return (weights / weights.sum(-1, keepdims=True)).astype(np.float32)


ENCODER, DECODER, CROSS = attend(0, S, S), attend(1, T, T, causal=True), attend(2, T, S)
PADDED = CROSS.copy()
PADDED[:, -3:] = 0
LAYERS = {"decoder.0.self": DECODER, "decoder.1.self": DECODER}
NOTHING = np.full((2, 4, 4), np.nan)


def timeline(layers=2, heads=3, windows=10, **more):
    rows = [(f"decoder.{layer}.self", head) for layer in range(layers) for head in range(heads)]
    mean = np.random.default_rng(5).uniform(0.2, 0.9, (len(rows), windows))
    return plots.Timeline("entropy_normalized", 10 * np.arange(1, windows + 1), mean, rows, job="gpt", **more)


FIGURES = {
    "heatmap": lambda **look: plots.heatmap(CROSS, name="decoder.0.cross", **look),
    "heads": lambda **look: plots.heads(DECODER, name="decoder.0.self", causal=True, **look),
    "layers": lambda **look: plots.layers({"decoder.0.self": DECODER, "decoder.1.self": DECODER[::-1]}, **look),
    "flow": lambda **look: plots.flow(plots.Maps(ENCODER, "encoder.1.self"), plots.Maps(DECODER, "decoder.1.self", causal=True),
                                      plots.Maps(CROSS, "decoder.1.cross"), **look),
    "aggregate": lambda **look: plots.aggregate(CROSS, name="decoder.0.cross", head_weights=[1, 0, -1, 0.5], **look),
    "rollout": lambda **look: plots.rollout({"encoder.0.self": ENCODER, "encoder.1.self": ENCODER}, **look),
    "similarity": lambda **look: plots.similarity(ENCODER, name="encoder.0.self", **look),
    "spectrum": lambda **look: plots.spectrum(CROSS, name="decoder.0.cross", **look),
    "tokens": lambda **look: plots.tokens(CROSS, name="decoder.0.cross", **look),
    "entropy": lambda **look: plots.entropy(timeline(), **look),
    "series": lambda **look: plots.series(timeline(alerts=[(50, "resolved"), (70, "firing"), (90, "firing_at_end")]), **look),
}
PANELS = {"heads": 4, "layers": 2, "flow": 3, "aggregate": 5}


def images(figure):
    found = [image for ax in figure.axes for image in ax.images if image.get_gid().startswith("map-")]
    return sorted(found, key=lambda image: int(image.get_gid()[4:]))


def bars(figure):
    return [ax.attnd_bar for ax in figure.axes if hasattr(ax, "attnd_bar")]


def texts(figure):
    """That are seen, and where: [(text, left, bottom, right, top)] in points."""
    import matplotlib.text

    with style.context():
        figure.set_dpi(72)
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        found = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]
        return [(text.get_text(), *text.get_window_extent(renderer).extents) for text in found if _is_shown(text)]


def _is_shown(text):
    axes = getattr(text, "axes", None)
    return axes is None or not any(text in (tick.label2,) and not tick.label2.get_visible()
                                   for axis in (axes.xaxis, axes.yaxis) for tick in axis.get_major_ticks())


def words(figure):
    return {text for text, *_ in texts(figure)}


def check_data(image, values):
    assert np.array_equal(np.ma.filled(image.get_array(), np.nan), values.astype(np.float32), equal_nan=True)


# The numbers


def test_maps_are_those_that_were_given():
    check_data(images(plots.heatmap(CROSS))[0], CROSS.mean(0, dtype=np.float64))
    check_data(images(plots.heatmap(CROSS, head=2))[0], CROSS[2])
    one = plots.heatmap(plots.Maps(CROSS[2], head=2))
    check_data(images(one)[0], CROSS[2])
    assert "head 2" in words(one)
    check_data(images(plots.heatmap(np.stack([ENCODER, ENCODER[::-1]]), head=0, sample=1))[0], ENCODER[-1])
    for head, image in enumerate(images(plots.heads(CROSS))):
        check_data(image, CROSS[head])
    for layer, image in enumerate(images(plots.layers(np.stack([CROSS, CROSS[::-1]]), head=0))):
        check_data(image, (CROSS[0], CROSS[-1])[layer])
    for image, maps in zip(images(plots.flow(ENCODER, DECODER, CROSS, head=1)), (ENCODER, DECODER, CROSS)):
        check_data(image, maps[1])
    check_data(images(plots.entropy(timeline()))[0], timeline().mean)


def test_tensors_of_torch():
    weights = torch.tensor(CROSS, requires_grad=True)
    check_data(images(plots.heatmap(weights, head=1))[0], CROSS[1])
    check_data(images(plots.heatmap(weights.to(torch.bfloat16), head=1))[0], weights[1].to(torch.bfloat16).float().detach().numpy())


def test_aggregates():
    a = CROSS.astype(np.float64)
    importance = reference_heads.importance(reference_heads.importance_scores(torch.from_numpy(a[None])))
    expected = [a.sum(0), a.mean(0), a.max(0), np.einsum("h,hij->ij", [1, 0, -1, 0.5], a),
                np.einsum("h,hij->ij", importance, a)]
    for image, want in zip(images(FIGURES["aggregate"]()), expected):
        assert np.allclose(image.get_array(), want, atol=1e-6)
    given = plots.aggregate(CROSS, importance=[0, 0, 0, 1])
    check_data(images(given)[-1], CROSS[3])


def test_rollout():
    expected = np.eye(S)
    for layer in (ENCODER, ENCODER[::-1] ** 2):
        step = 0.5 * (layer.astype(np.float64).mean(0) + np.eye(S))
        expected = step / step.sum(-1, keepdims=True) @ expected
    figure = plots.rollout([ENCODER, ENCODER[::-1] ** 2])
    assert np.allclose(images(figure)[0].get_array(), expected, atol=1e-6)


def test_what_is_derived_is_what_the_engine_computes():
    """By the references that the kernels are tested with; one row is unsound, and padding is all 0."""
    weights = DECODER.copy()
    weights[1, 4] = np.nan
    weights[:, -2:] = 0
    valid = np.tril(np.ones((T, T), bool))
    sent = Attention(torch.from_numpy(weights[None].astype(np.float64)), causal=True)
    expected = reference_heads.similarity(sent, judge(sent), 0)
    classes = np.where(valid, 0, 1)
    assert np.allclose(derive.cosine(weights, classes), expected["head_similarity"], atol=1e-9)
    assert np.allclose(derive.jensen_shannon(weights, classes), expected["head_js"], atol=1e-9)
    check_data(images(plots.similarity(weights, causal=True, name="decoder.0.self", padding=None))[0],
               derive.cosine(weights, classes))
    importance = reference_heads.importance(reference_heads.importance_scores(sent.weights))
    assert np.allclose(derive.importance(weights), importance)
    assert np.allclose(derive.singular_values(CROSS), np.linalg.svd(CROSS.astype(np.float64), compute_uv=False))


def test_matrices_and_values_of_the_engine_are_taken():
    matrix = np.array([[1, 0.25], [0.25, 1]])
    figure = plots.similarity(CROSS[:2], matrix=matrix)
    check_data(images(figure)[0], matrix)
    assert {"0.25", "1.00", "cosine similarity"} <= words(figure)
    figure = plots.spectrum(CROSS[:2], values=[[4, 2, 1], [3, 2, 1]])
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[4, 2, 1], [3, 2, 1]]


def test_the_spectrum_of_many_heads_has_their_median():
    weights = attend(3, 24, 24, 20)
    figure = plots.spectrum(weights)
    lines = figure.axes[0].lines
    values = np.linalg.svd(weights.astype(np.float64), compute_uv=False)[:, :16]
    assert len(lines) == 21 and np.allclose(lines[-1].get_ydata(), np.median(values, axis=0))
    assert {"head 0", "to head 19, in order", "median of the heads", "index, of the 16 largest of 24"} <= words(figure)


def test_bars_of_a_query():
    figure = plots.tokens(CROSS, head=3, query=4, key_tokens=WORDS[:S])
    patches = figure.axes[0].patches
    assert np.allclose([bar.get_height() for bar in patches], CROSS[3, 4])
    colours = {bar.get_facecolor() for bar in patches}
    marked = [i for i, bar in enumerate(patches) if bar.get_facecolor() == patches[int(CROSS[3, 4].argmax())].get_facecolor()]
    assert marked == sorted(np.argsort(-CROSS[3, 4])[:3]) and len(colours) == 2
    assert any(text.endswith(f"query {T - 4}") for text in words(plots.tokens(PADDED)))


def test_many_keys_have_the_largest_in_the_legend():
    weights = np.full((1, 2000, 2000), 1e-4, np.float32)
    weights[..., [100, 1010, 1999]] = 0.2
    shown = words(plots.tokens(weights, key_tokens=[f"t{i}" for i in range(2000)]))
    assert "the three largest: 100 “t100”, 1010 “t1010”, 1999 “t1999”" in shown


def test_series_is_the_median_in_a_band():
    data = timeline(layers=1, heads=9, alerts=[(50, "firing"), (60, "firing_at_end")])
    figure = plots.series(data)
    axes = figure.axes[0]
    assert np.allclose(axes.lines[-1].get_ydata(), np.median(data.mean, axis=0))
    assert [list(line.get_ydata()) for line in axes.lines[2:11]] == data.mean.tolist(), "every head, thinly, after the alerts"
    band = axes.collections[0].get_paths()[0].vertices
    low, high = np.quantile(data.mean, [0.1, 0.9], axis=0)
    assert band[:, 1].max() == pytest.approx(high.max()) and band[:, 1].min() == pytest.approx(low.min())
    assert [line.get_linestyle() for line in axes.lines[:2]] == ["--", "-"] and "alert firing at end" in words(figure)
    one = plots.Timeline("entropy", data.steps, data.mean[:1], [("decoder.0.self", 2)], data.mean[:1] - 0.1,
                         data.mean[:1] + 0.1, band="std")
    assert {"decoder.0.self, head 2", "one standard deviation", "entropy (nats)", "step"} <= words(plots.series(one))


def test_units_are_those_of_the_metrics():
    table = (ROOT / "proto" / "metric.def").read_text()
    units = dict(re.findall(r'^METRIC\(\w+, "([\w.]+)", \w+, \w+, "([^"]+)",', table, re.MULTILINE))
    assert {name: unit for name, unit in units.items() if unit != "1"} == UNITS


# Ranges and what is no weight


def test_one_range_for_heads_and_one_for_each_site():
    figure = plots.heads(CROSS)
    assert len(bars(figure)) == 1 and {image.get_clim() for image in images(figure)} == {(0, float(CROSS.max()))}
    figure = plots.flow(ENCODER, DECODER, CROSS)
    assert [image.get_clim() for image in images(figure)] == [
        (0, pytest.approx(float(maps.mean(0).max()))) for maps in (ENCODER, DECODER, CROSS)] and len(bars(figure)) == 3


def test_a_range_that_is_given():
    figure = plots.heatmap(CROSS, head=0, vmin=0.1, vmax=0.2, cmap="magma")
    assert images(figure)[0].get_clim() == (0.1, 0.2) and images(figure)[0].get_cmap().name == "magma"
    assert bars(figure)[0].range.below and bars(figure)[0].range.above


def test_a_few_large_weights_do_not_hide_the_others():
    values = np.random.default_rng(1).uniform(0.001, 0.05, (40, 40)).astype(np.float32)
    values[0, 0] = 1
    figure = plots.heatmap(values)
    assert images(figure)[0].get_clim()[1] == pytest.approx(np.quantile(values, 0.995)) and bars(figure)[0].range.above
    values[:2, :10] = 1
    assert images(plots.heatmap(values))[0].get_clim() == (0, 1)


def test_masks_and_padding_are_not_weights_of_zero():
    padded = np.zeros((H, T, T), np.float32)
    padded[:, :7, :7] = attend(5, 7, 7, causal=True)
    figure = plots.heatmap(padded, head=0, causal=True)
    image, colours = images(figure)[0], images(figure)[0].colours()
    behind = np.ones((T, T), bool)
    behind[:7, :7] = False
    hidden = ~behind & ~np.tril(np.ones((T, T), bool))
    assert np.array_equal(np.ma.getmaskarray(image.get_array()), behind | hidden)
    assert (colours[behind] == (0xdd, 0xe3, 0xeb, 255)).all() and (colours[hidden] == (0xf1, 0xf1, 0xf1, 255)).all()
    assert {"masked (causal)", "padding"} <= words(figure)
    away = np.zeros((1, T, T), np.float32)
    away[..., :7] = attend(5, T, 7, 1)
    assert "padding" not in words(plots.heatmap(away, name="decoder.0.self")), "a model may look away from the last keys"
    assert "padding" in words(plots.heatmap(CROSS, padding=(9, 5)))
    given = plots.heatmap(CROSS, mask=CROSS[0] > 0.2)
    assert np.array_equal(np.ma.getmaskarray(images(given)[0].get_array()), CROSS[0] > 0.2)


def test_what_is_no_number_is_hatched():
    weights = np.full((2, 4, 4), 0.25, np.float32)
    weights[0, 2] = np.nan
    weights[1, 0, 0] = np.inf
    figure = plots.heads(weights)
    assert {"not a number: 4 cells", "infinite: 1 cell"} <= words(figure)
    assert (images(figure)[0].colours()[2, :, 3] == 0).all() and images(figure)[1].colours()[0, 0, 3] == 0
    assert all(ax.patches[0].get_hatch() for ax in figure.axes[:1])


def test_large_maps_are_pooled_in_pixels_and_whole_on_paper():
    values = np.zeros((800, 800), np.float32)
    values[:, ::2] = 1
    image = images(plots.heatmap(values))[0]
    assert image.colours().shape[:2] == (800, 800)
    pooled = image.colours(800, 100)
    middle = np.round(255 * np.array(image.to_rgba(0.5)))
    assert np.abs(pooled.astype(int) - middle).max() <= 3
    means, classes = cells.pool(np.arange(16.0).reshape(4, 4), np.array([[0, 0, 1, 1]] * 4, np.uint8), 2, 2)
    assert means[:, 0].tolist() == [2.5, 10.5] and classes.tolist() == [[0, 1], [0, 1]]


POOLED = plots.Maps(attend(4, 16, 16), "decoder.3.self", queries=1024, keys=1024, causal=True, step=7, key_tokens=["x"] * 1024)


def test_pooled_maps_say_so_and_keep_their_positions():
    figure = plots.heatmap(POOLED)
    assert any("pooled to 16 x 16" in text for text in words(figure)) and "key position" in words(figure)
    assert figure.axes[0].get_xlim() == (-0.5, 1023.5)


def test_an_offset_of_the_queries():
    figure = plots.heatmap(attend(0, 4, 12), causal=True, q_offset=8)
    assert figure.axes[0].get_ylim() == (11.5, 7.5)
    assert np.array_equal(images(figure)[0].classes, np.where(np.tri(4, 12, 8, bool), 0, 1))


# Looks


def test_colour_maps_are_those_of_matplotlib():
    """The table that a figure is drawn with, from low to high."""
    import matplotlib
    from attnd.plots.names import COLORMAPS

    for name in {*COLORMAPS, "gray_r", "RdBu_r"}:
        image = images(plots.heatmap(np.arange(256.0).reshape(1, 256), cmap=name, vmin=0, vmax=256))[0]
        assert np.array_equal(image.colours()[0, :, :3], np.round(255 * matplotlib.colormaps[name](np.arange(256))[:, :3])), name


def test_a_figure_can_be_changed():
    figure = plots.heatmap(CROSS, head=0)
    image, (bar,) = images(figure)[0], bars(figure)
    image.set_clim(0.1, 0.3)
    image.set_cmap("gray")
    assert bar.ax.get_ylim() == pytest.approx((0.1, 0.3)) and bar.range.below and bar.range.above and bar.cells.get_cmap().name == "gray"
    figure.suptitle("mine")
    figure.axes[0].set_xlabel("here")
    assert {"mine", "here"} <= words(figure)


@pytest.mark.parametrize("kind", FIGURES)
def test_axes_of_the_user(kind):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mine = Figure(figsize=(9, 4))
    FigureCanvasAgg(mine)
    axes = [mine.add_subplot(1, 5, index + 1) for index in range(5)]
    figure = FIGURES[kind](ax=axes if kind in PANELS else axes[1], title="mine")
    assert figure is mine
    drawn = [ax for ax in axes if ax.has_data()]
    assert drawn == (axes[:PANELS[kind]] if kind in PANELS else axes[1:2])
    assert kind in PANELS or "mine" in words(mine)
    bars = [ax.child_axes for ax in drawn]
    assert all(len(bar) == (kind not in ("spectrum", "tokens", "series")) for bar in bars)
    for bar in bars:
        while bar:
            bar[0].remove()
    if kind in ("heatmap", "flow"):
        figure.canvas.draw()


@pytest.mark.parametrize("title, lines", [
    ("one line", "one line"), ("", None),
    ("decoder.11.cross, mean of 16 heads, query 112 of the first, step 100000",
     "decoder.11.cross, mean of 16 heads,\nquery 112 of the first, step 100000"),
    ("a\nb<c>", "a↵b<c>"),
])
def test_titles(title, lines):
    figure = plots.heatmap(CROSS, title=title)
    assert (figure._suptitle.get_text() if figure._suptitle else None) == lines


def test_rows_of_heads_are_full():
    figure = plots.heads(np.full((10, 8, 8), 0.125, np.float32))
    assert len({round(image.axes.get_position().x0, 4) for image in images(figure)}) == 5
    page = layout.Page(72 * figure.get_size_inches()[0])
    found = {count: layout.choose_columns(count, page) for count in (5, 8, 10, 12, 32, 36, 48, 64)}
    assert found == {5: 5, 8: 4, 10: 5, 12: 4, 32: 8, 36: 6, 48: 8, 64: 8}
    assert plots.heads(np.full((32, 8, 8), 0.125, np.float32)).get_size_inches()[1] <= 9


def check_texts(figure):
    """That they neither lie on one another nor are cut off."""
    wide, high = figure.get_size_inches() * 72
    boxes = texts(figure)
    for index, (one, l1, b1, r1, t1) in enumerate(boxes):
        assert l1 >= -1 and b1 >= -1 and r1 <= wide + 1 and t1 <= high + 1, (one, "is cut off")
        for other, l2, b2, r2, t2 in boxes[:index]:
            assert r1 <= l2 + 1 or r2 <= l1 + 1 or t1 <= b2 + 1.5 or t2 <= b1 + 1.5, (one, other)


@pytest.mark.parametrize("kind, size", [
    *((kind, size) for kind in FIGURES for size in (None, (1, 1))),
    *((kind, size) for kind in ("heads", "tokens") for size in (0.5, 1, (3.3, 1), (1.5, 3), (0.6, 0.6), (2, 1.2)))])
def test_texts_stay_apart_at_every_size(kind, size):
    """A small figure leaves titles and ticks out, or is refused."""
    try:
        figure = FIGURES[kind](size=size)
    except plots.TooSmall as error:
        assert f": too small for {'a chart' if kind in ('spectrum', 'tokens', 'series') else f'{PANELS.get(kind, 1)} panel'}" in str(error)
        return
    check_texts(figure)
    for image in images(figure):
        box = image.axes.get_window_extent()
        assert min(box.width, box.height) >= 2.9 and max(box.width, box.height) >= 11.9
    if isinstance(size, tuple):
        assert (figure.get_size_inches() >= np.array(size) - 1e-6).all()


# Texts of tokens


def test_tokens_at_both_axes():
    figure = plots.heatmap(CROSS, key_tokens=WORDS[:S], query_tokens=[word.upper() for word in WORDS])
    assert {"word3", "WORD3", "key token", "query token"} <= words(figure) and "key position" not in words(figure)


def test_texts_of_every_kind_are_drawn_without_a_warning(recwarn):
    given = ["\u05e9\u05dc\u05d5\u05dd", "<b>&\"", "bell\x07", "\u6f22\u5b57", "", "a" * 300, "e\u0301\u0301", "   "]
    for kind in (plots.heatmap, plots.heads, plots.tokens):
        figure = kind(np.full((1, 8, 8), 0.125, np.float32), key_tokens=given, name="decoder.0.self")
        shown = words(figure)
        assert {given[0], given[1], "bell·", given[3], "∅", given[6], "␣␣␣"} <= shown
        assert any(text.startswith("aaa") and text.endswith("…") and len(text) < 40 for text in shown)
    for ending in ("png", "svg", "pdf"):
        plots.render(figure, ending, dpi=50)
    emoji = plots.heatmap(np.full((1, 4, 4), 0.25, np.float32), key_tokens=["😀", "👩‍🚀", "$x_1$", "\udc80"])
    assert {"😀", "$x_1$", "\ufffd"} <= words(emoji)
    plots.render(emoji, "svg")
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_ticks_of_many_tokens_are_positions():
    figure = plots.heatmap(np.full((1, 200, 200), 1 / 200, np.float32), key_tokens=[f"token{i}" for i in range(200)])
    assert "100" in words(figure) and not any(text.startswith("token") for text in words(figure))


def test_the_largest_of_thinned_tokens_are_told():
    weights = np.full((1, 50, 50), 0.001, np.float32)
    weights[..., [10, 11, 13]] = 0.2
    figure = plots.tokens(weights, key_tokens=[f"word{i}" for i in range(50)])
    places = sorted(left for text, left, *_ in texts(figure) if text.startswith("word"))
    assert "the three largest: 10 “word10”, 11 “word11”, 13 “word13”" in words(figure) and 10 < len(places) < 30
    assert np.diff(places).min() > 6.5


@pytest.mark.parametrize("low, high, most, expected", [
    (0, 1, 5, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]), (0, 23, 9, ["0", "5", "10", "15", "20"]),
    (-0.1, 0.1, 4, ["\u22120.10", "\u22120.05", "0.00", "0.05", "0.10"]), (0, 3e7, 3, ["0", "1e+07", "2e+07", "3e+07"]),
])
def test_round_numbers(low, high, most, expected):
    assert scale.texts(scale.ticks(low, high, most)) == expected


def test_powers_of_ten():
    assert scale.power_texts(scale.powers(1e-5, 2, 8)) == ["10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²", "10⁻¹", "10⁰"]
    assert scale.power_texts(scale.powers(0.3, 8, 8)) == ["0.5", "1", "2", "5"]


def test_text_is_cut():
    with style.context():
        assert style.shorten("e" * 90, 8, 20) in ["e" * n + "…" for n in range(1, 9)]
        assert style.shorten("short", 8, 200) == "short" and labels.clean("a\tb\n") == "a⇥b↵"


def test_fonts():
    assert style.font_instead("No Such Font") == "DejaVu Sans" and style.font_instead("serif") is None
    assert style.font_instead("No Such Font, dejavu sans mono") is None
    assert plots.heatmap(CROSS, font="serif")._suptitle.get_fontfamily()[0] == "DejaVu Serif"


# Files


@pytest.mark.parametrize("kind, ending", [("heads", "png"), ("heads", "svg"), ("similarity", "pdf"), ("series", "svg")])
def test_the_same_bytes_twice(kind, ending):
    data = [plots.render(FIGURES[kind](), ending, dpi=60) for _ in range(2)]
    assert data[0] == data[1] and data[0].startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])
    assert b"atplotlib" not in data[0] or ending == "svg"


def test_save_names_its_figures(tmp_path):
    told = plots.save(f"{tmp_path}/many/", "heatmap", LAYERS, every_layer=True, every_head=True, dpi=30)
    expected = {f"heatmap-{name}-h{head:02}.png" for name in LAYERS for head in range(H)}
    assert {path.name for path in (tmp_path / "many").iterdir()} == expected == {pathlib.Path(one.figure).name for one in told}
    assert json.loads(told[1].json()) == {"figure": f"{tmp_path}/many/heatmap-decoder.0.self-h01.png", "kind": "heatmap",
                                          "layer": "decoder.0.self", "head": 1}
    plots.save(tmp_path / "{layer}" / "a.svg", "heads", LAYERS, every_layer=True)
    assert b"decoder.1.self" in (tmp_path / "decoder.1.self" / "a.svg").read_bytes()
    plots.save(tmp_path / "one.pdf", "series", timeline())
    assert (tmp_path / "one.pdf").read_bytes().startswith(b"%PDF")


def test_save_leaves_out_layers_without_a_number_and_tells_its_progress(tmp_path):
    seen, ended = [], []
    told = types.SimpleNamespace(show=lambda done, all_: seen.append((done, all_)), end=lambda: ended.append(True))
    layers = {"decoder.0.self": np.full((1, 2, 2), np.nan), "decoder.1.self": DECODER}
    assert [one.layer for one in plots.save(f"{tmp_path}/", "heatmap", layers, every_layer=True, dpi=30, progress=told)] == [
        "decoder.1.self"]
    assert seen == [(0, 2), (1, 2)] and ended


def test_a_notebook_shows_it():
    data, size = plots.heatmap(CROSS)._repr_png_()
    assert data.startswith(b"\x89PNG") and size["width"] == 363


def test_nothing_of_a_session_changes(tmp_path):
    script = """
import sys, warnings
import matplotlib
matplotlib.rcParams["font.size"] = 31
def settings():  # to read the backend is to choose one
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if not name.startswith("backend")}
before = settings()
from attnd import plots
assert "attnd.plots.style" not in sys.modules, "lazily"
figure = plots.heatmap([[0.5, 0.5], [0.25, 0.75]])
plots.write(figure, sys.argv[1] + "/a.png")
plots.write(figure, sys.argv[1] + "/a.pdf")
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
assert figure._suptitle.get_fontsize() == 8
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=120,
                   env={**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python")})


REFUSED = [
    (lambda: plots.heatmap(CROSS, sample=1), plots.PlotError, "no sample 1"),
    (lambda: plots.heatmap(CROSS, head=4), plots.PlotError, "no head 4: they are 0 to 3"),
    (lambda: plots.tokens(PADDED, query=11), plots.NothingToDraw, "query 11 attends to nothing"),
    (lambda: plots.tokens(CROSS, query=12), plots.PlotError, "no query 12: they are 0 to 11"),
    (lambda: timeline(alerts=[(50, True)]), ValueError, "valid: firing, resolved, firing_at_end"),
    (lambda: plots.heatmap([[0.25, 0.75], [0.5, 0.5]], vmin=5), plots.AllBelow, "^5: above all values, which are 0.25 to 0.75$"),
    (lambda: plots.heatmap(CROSS, vmin=1, vmax=0), plots.PlotError, "vmin must be less"),
    (lambda: plots.heatmap(CROSS, cmap="jett"), plots.PlotError, "no colour map 'jett'"),
    (lambda: plots.similarity(POOLED), plots.NotWhole, "similarity needs whole maps.*raise maps.size to 1024"),
    (lambda: plots.spectrum(POOLED), plots.NotWhole, "the spectrum needs whole maps.*raise maps.size to 1024"),
    (lambda: plots.heatmap(CROSS, key_tokens=["a", "b", "c"]), plots.PlotError, "key_tokens: 3 texts of 8 tokens"),
    (lambda: plots.save("a.png", "heads", LAYERS, every_layer=True), plots.PlotError, "one figure would replace another"),
    (lambda: plots.save("a.jpg", "heatmap", CROSS), plots.PlotError, "must end in .png, .svg or .pdf"),
    (lambda: plots.heatmap(np.full((3, 1, 1, 2, 2), 0.5)), plots.PlotError, re.escape("not of the shape [3, 1, 1, 2, 2]; choose")),
    (lambda: plots.heads(np.full((3, 1, 1, 1, 2, 2), 0.5)), plots.PlotError, re.escape("before the last three: array[0, 0, 0]")),
    (lambda: plots.heatmap([[1], [0.5, 0.5]]), plots.PlotError, "the parts of these differ in shape|numbers, not list"),  # by numpy
    (lambda: plots.heatmap(None), plots.PlotError, "maps are numbers, not NoneType"),
    (lambda: plots.heatmap(LAYERS), plots.PlotError, "maps are numbers, not dict"),
    (lambda: plots.heatmap(DECODER, mask=np.eye(3, dtype=bool)), plots.PlotError,
     re.escape("mask: its shape is [3, 3], and that of a map [12, 12]")),
    (lambda: plots.heatmap(DECODER, ax=3), plots.PlotError, "ax: Axes of matplotlib, one for each panel, not int"),
    (lambda: plots.layers(None), plots.PlotError, "layers are a list of maps, .*, not NoneType"),
    (lambda: plots.rollout(None), plots.PlotError, "layers are a list of maps, .*, not NoneType"),
    (lambda: plots.heatmap(DECODER, tokens=WORDS), TypeError, "'tokens' .about maps there are name, key_tokens, query_tokens, "),
    *((lambda kind=kind: kind(NOTHING), plots.NothingToDraw, "no entry of the maps? is a number")
      for kind in (plots.heatmap, plots.heads, plots.aggregate)),
    *((lambda kind=kind: kind([NOTHING, NOTHING]), plots.NothingToDraw, "no entry of the maps is a number")
      for kind in (plots.layers, plots.rollout)),
    (lambda: plots.heatmap(NOTHING[0]), plots.NothingToDraw, "no entry of the map is a number"),
    *((lambda draw=draw: draw(wrong=1), TypeError, "unexpected keyword argument 'wrong'") for draw in FIGURES.values()),
    *((lambda kind=kind: FIGURES[kind](ax=FIGURES["heatmap"]().axes[0]), plots.PlotError, "1 axes for") for kind in PANELS)]


@pytest.mark.parametrize("draw, error, said", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_a_sentence(draw, error, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        draw()


def test_one_head_with_numbers_is_drawn():
    one = NOTHING.copy()
    one[1] = np.eye(4)
    plots.aggregate(one)
    plots.rollout([NOTHING, one])


def test_what_attnctl_says_is_in_the_error(tmp_path, monkeypatch):
    program = tmp_path / "attnctl"
    program.write_text("#!/bin/sh\ncase $1 in export) printf 'attnctl: no such job: %s\\n' $2 >&2; exit 1;; esac\nkill -9 $$\n")
    program.chmod(0o755)
    monkeypatch.setenv("ATTND_ATTNCTL", str(program))
    with pytest.raises(read.SourceError, match="^no such job: gpt$") as found:
        plots.timeline("gpt", layer=2)
    assert found.value.code == 1
    with pytest.raises(read.SourceError, match="^attnctl alerts ended with status -9$"):
        read._alerts("gpt", "entropy", lambda name, head: True, {})


def test_a_user_without_a_home_gets_figures(monkeypatch):
    import pwd

    def nobody(number):
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.delenv("HOME", raising=False)
    with pytest.raises(RuntimeError):
        pathlib.Path.home()  # as matplotlib asks for it
    command._make_sure_of_home()
    assert pathlib.Path.home() == pathlib.Path("/")
    monkeypatch.setenv("HOME", "/mine")
    command._make_sure_of_home()
    assert pathlib.Path.home() == pathlib.Path("/mine")


def test_a_layer_of_a_timeline_is_a_number_or_a_text(tmp_path):
    export = tmp_path / "export.csv"
    export.write_text("""job,last_unit,run,step,stack,layer,site,head,metric,mean,std,p10,p90
gpt,0,3f35,45,decoder,0,self,0,entropy_normalized,0.9,0.1,0.8,1
gpt,0,3f35,45,decoder,1,self,0,entropy_normalized,0.7,0.1,0.6,0.8
""")
    for layer in (0, "0", "decoder.0.self"):
        assert plots.timeline(str(export), layer=layer).rows == [("decoder.0.self", 0)]
    with pytest.raises(read.SourceError, match="in layer 9$"):
        plots.timeline(str(export), layer=9)
