# SPDX-License-Identifier: MIT
"""A job that was started twice: each view shows one of the two runs, also when attnd has been started again since."""
import numpy as np
import pytest
from harness import Trainer, softmax_maps, wait_until
from test_page import shown
from test_pictures import alone

JOB, PADDED, HEADS, T = "twice", "padded", 4, 8
OLD, NEW = "11" * 16, "22" * 16
KEPT = 5  # keys that are not padding


def windows(site, run):
    grid = site.api("grid", job=JOB, run=run, or_null=1)
    return grid["windows"]["last"] if grid else []


def padded():
    """The last keys have no weight, and the last query neither."""
    weights = np.zeros((1, 2, T, T), np.float32)
    weights[..., :-1, :KEPT] = softmax_maps(np.random.default_rng(3), 1, 2, T - 1, KEPT)
    return weights


@pytest.fixture(scope="module")
def twice(module_site):
    """The older run has two layers and six windows, the newer one a layer and a window. A layer's first map is its newest."""
    site = module_site("window.unit=step", "window.length=2", "window.every=2", "window.rank_grace=0", "maps.every=1h")
    rng, site.sent = np.random.default_rng(7), {}
    for run, layers, steps in ((OLD, (0, 1), 13), (NEW, (0,), 3)):
        trainer = Trainer(site.daemon, JOB, run=bytes.fromhex(run))
        for step in range(steps):
            for layer in layers:
                site.sent[run, layer, step] = softmax_maps(rng, 1, HEADS, T, T, causal=True)
                trainer.attention(site.sent[run, layer, step], layer=layer, step=step, causal=True)
            # Each message of a layer that is not known yet has a map, and the first one afterwards.
            wait_until(lambda: site.api("maps", job=JOB, run=run, layer=layers[-1], or_null=1), "the first map")  # noqa: B023
        wait_until(lambda: windows(site, run) == list(range(1, steps - 1, 2)), "the windows")  # noqa: B023
    Trainer(site.daemon, PADDED).attention(padded(), step=0)
    wait_until(lambda: site.api("maps", job=PADDED, or_null=1), "the map of the other job")
    return site


def layers_to_choose(page):
    return page.js("return [...document.querySelector(\"select[aria-label='layer']\").options].map((o) => o.value)")


def last_window(site, layer, metric="entropy_normalized"):
    grid = site.api("grid", job=JOB, run=OLD, layer=layer, metric=metric)
    return [float(np.float32(head[-1])) for head in grid["layers"][0]["values"]]


def by_numpy(site, layer):
    """Means over the rows of the last window, by metric: of each head."""
    last = windows(site, OLD)[-1]
    maps = [site.sent[OLD, layer, step][0] for step in (last - 1, last) if (OLD, layer, step) in site.sent]
    rows, keys = np.concatenate(maps, axis=1).astype(float), np.tile(np.arange(T) + 1, len(maps))  # [HEADS, T or 2 T, T]
    entropy = -np.sum(rows * np.log(np.where(rows > 0, rows, 1)), axis=-1)
    return {"entropy_normalized": (entropy / np.log(np.maximum(keys, 2)))[:, keys > 1].mean(1), "confidence": rows.max(-1).mean(1),
            "first_token": rows[:, keys > 1, 0].mean(1)}


def column(page, name):
    """What stands below a heading of the last table."""
    return page.js("""const table = [...document.querySelectorAll('main table')].pop();
        const at = [...table.querySelectorAll('th')].findIndex((th) => th.textContent === arguments[0]);
        return [...table.querySelectorAll('tbody tr')].map((row) => row.children[at].textContent)""", name)


def check_the_older_run(site, page):
    page.open(site, f"#/layer?job={JOB}&run={OLD}&stack=decoder&layer=0&site=self").ready()
    assert layers_to_choose(page) == ["decoder.0.self", "decoder.1.self"]
    for metric, truth in by_numpy(site, 0).items():
        told = last_window(site, 0, metric)
        assert column(page, metric) == [shown(value) for value in told], "the page has the numbers of the API"
        np.testing.assert_allclose(told, truth, atol=1e-5)  # as numpy has them
    assert f"Numbers of the last window last window, step {windows(site, OLD)[-1]}" in " ".join(page.text("main").split())
    assert all(f"run={OLD}" in href for href in page.js("return [...document.querySelectorAll('tbody a')].map((a) => a.href)"))
    page.open(site, f"#/model?job={JOB}&run={OLD}").ready()
    assert page.count("circle.dot") == 2 * HEADS
    wait_until(lambda: page.count(".thumbs canvas") == 2, "the maps of both layers")
    assert page.texts(".figure.wide .note:not([hidden])") == [], "maps of heads, of the newest message or of the last window"
    page.keys(".thumbs", "ArrowDown", "ArrowRight")
    assert page.readout().startswith("decoder.0.self.h1\nquery ")


def test_an_older_run_is_shown_alone(twice, page):
    check_the_older_run(twice, page)
    page.open(twice, f"#/layer?job={JOB}").ready()
    assert layers_to_choose(page) == ["decoder.0.self"]
    (live,) = twice.api("live", job=JOB)
    assert live["run"] == NEW and column(page, "entropy_normalized") == [shown(x) for x in live["heads"]["entropy_normalized"]]


def test_the_step_of_a_map_and_that_of_the_numbers_stand_together(twice, page):
    page.open(twice, f"#/head?job={JOB}&head=1").ready()
    step = twice.api("maps", job=JOB)["step"]
    assert step < 2 and f"map of step {step}, sample 0; numbers are of step 2" in page.text(".picture header")


def test_both_runs_have_their_own_windows_and_links(twice, page):
    page.open(twice, f"#/runs?job={JOB}&a={JOB}/{OLD}&b={JOB}/{NEW}").ready()
    steps = page.js("return document.querySelector('.figure.wide path.line').getAttribute('d').split('L').length")
    assert steps == len(windows(twice, OLD)) == 6, "one line, not broken by windows of the other run"
    assert page.count(".figure.wide circle.line.second.alone") == 1
    links = page.js("return [...document.querySelectorAll('tbody tr:first-child a')].map((a) => a.href)")
    assert f"run={OLD}" in links[0] and f"run={NEW}" in links[1]


def test_padding_is_grey_and_no_query_to_begin_with(twice, page):
    page.open(twice, f"#/tokens?job={PADDED}").ready()
    assert page.text(".time b") == str(KEPT - 1)
    assert all(int(query) < T - 1 and int(key) < KEPT and times.endswith("×") for query, key, _, times in page.rows())
    page.open(twice, f"#/head?job={PADDED}&head=1").ready()
    assert any(text.startswith("none") for text in page.texts(".picture svg text")), "the scale says what grey is"


@pytest.fixture(scope="module")
def told(twice):
    """A job that says how long its sample is: 5 tokens of 8. Its padding has weights, which say nothing."""
    weights = softmax_maps(np.random.default_rng(4), 1, 2, T, T)
    weights[..., :KEPT] = softmax_maps(np.random.default_rng(3), 1, 2, T, KEPT)
    weights[..., KEPT:] = 0
    for layer in (0, 1):
        Trainer(twice.daemon, "told", run=bytes.fromhex(NEW)).attention(weights, layer=layer, step=0, q_len=[KEPT], k_len=[KEPT], labels=list("abcdefgh"))
    wait_until(lambda: twice.api("maps", job="told", layer=1, or_null=1), "the maps")
    found = twice.api("maps", job="told")
    assert [found[name] for name in ("queries", "keys", "queries_sent", "keys_sent")] == [KEPT, KEPT, T, T]
    return found


def picture_size(page):
    return page.js("return document.querySelector('.picture svg')?.getAttribute('aria-label') ?? ''").partition(", ")[2]


def test_padding_is_shown_when_it_is_asked_for(twice, told, page):
    page.open(twice, "#/head?job=told&head=1").ready()
    assert picture_size(page) == f"{KEPT} by {KEPT}" and "3 queries and 3 keys of padding left out" in page.text(".picture header")
    page.js("[...document.querySelectorAll('.controls label')].find((l) => l.textContent === 'padding').click()")
    wait_until(lambda: picture_size(page) == f"{T} by {T}", "the padding")
    assert "padding=shown" in page.hash() and "left out" not in page.text(".picture header")
    page.keys(".picture svg", "ArrowDown", "ArrowDown", "ArrowRight")
    assert page.text("#tooltip") == f"query 2 “\u2068c\u2069” → key 1 “\u2068b\u2069”: {shown(told['values'][1][2][1])}"
    page.keys(".picture svg", *["ArrowRight"] * 7)
    assert page.text("#tooltip") == "query 2 “\u2068c\u2069” → key 7 “\u2068[pad]\u2069”: –"
    assert all("[pad]" not in text for text in page.texts(".picture .pairs li"))
    page.screenshot("padding-shown-1440-light")
    page.js("[...document.querySelectorAll('.tabs a')].find((a) => a.textContent === 'Tokens').click()")
    wait_until(lambda: len(page.texts(".strip .token")) == T, "the keys of padding among the others")
    assert page.texts(".strip .token")[KEPT:] == ["[pad]"] * 3 and len(page.texts(".bar[data-key]")) == KEPT
    page.js("[...document.querySelectorAll('.controls label')].find((l) => l.textContent === 'padding').click()")
    wait_until(lambda: page.texts(".strip .token") == list("abcde"), "the keys of the sample alone")
    assert "padding" not in page.hash()


@pytest.mark.parametrize("view, count, part", [
    ("layer", 3, "[aria-label*='over the heads'], .grid.small svg"), ("model", 2, "[aria-label^='rollout'], [aria-label^='Decoder']")])
def test_every_map_has_its_padding_when_it_is_asked_for(twice, told, page, view, count, part):
    sizes = "return [...document.querySelectorAll(arguments[0])].map((s) => s.getAttribute('aria-label').split(', ').pop())"
    for asked, size in (("", f"{KEPT} by {KEPT}"), ("&padding=shown", f"{T} by {T}")):
        page.open(twice, f"#/{view}?job=told{asked}").ready()
        wait_until(lambda: page.js(sizes, part).count(size) >= count - (view == "model"), "maps of this size")  # noqa: B023
        assert page.js("return document.querySelector('.controls input[type=checkbox]').checked") == bool(asked)


def test_padding_stands_where_the_message_had_it(twice, page):
    """Two queries and three keys before the sample, one query after it; as numbers, by the page's own module."""
    page.open(twice, f"#/tokens?job={PADDED}").ready()
    found = alone(page, "cells.js", """m.showPadding(true);
        const {values, ...rest} = m.asShown({rows: 2, columns: 2, queries: 2, keys: 2, queries_sent: 5, keys_sent: 5, first_query: 2, first_key: 3,
            q_offset: 0, site: 'self', stack: 'decoder', labels: ['x', 'y'], q_labels: null, values: Float32Array.of(1, 2, 3, 4)});
        return {...rest, values: [...values].map((x) => Number.isNaN(x) ? null : x)}""")
    wanted = np.full((5, 5), np.nan)
    wanted[2:4, 3:5] = [[1, 2], [3, 4]]
    np.testing.assert_array_equal(np.array(found["values"], float).reshape(5, 5), wanted)
    assert found["labels"] == ["[pad]"] * 3 + ["x", "y"] and (found["rows"], found["columns"], found["q_offset"]) == (5, 5, 1)


@pytest.mark.parametrize("view, part", [("layer", ".grid.small image"), ("tokens", ".bar[data-key]"), ("head", ".picture image")])
def test_a_first_map_is_drawn_where_the_note_was(twice, page, view, part):
    trainer, rng = Trainer(twice.daemon, f"later-{view}"), np.random.default_rng(1)
    trainer.projections(wq=rng.normal(size=(8, 12)).astype(np.float32), heads=2, head_dim=4)
    wait_until(lambda: twice.api("live", job=trainer.job, or_null=1), "the layer")
    page.open(twice, f"#/{view}?job={trainer.job}").ready()
    wait_until(lambda: "There is no map of this layer" in page.text("main"), "that there is no map yet")
    trainer.attention(softmax_maps(rng, 1, 2, T, T), step=1)
    wait_until(lambda: page.js("return document.querySelector(arguments[0])?.isConnected", part), "the map")
    assert "There is no map of this layer" not in page.text("main")


def test_what_is_left_of_both_runs_after_a_restart(twice, page):
    twice.daemon.stop()
    twice.daemon.start()
    check_the_older_run(twice, page)
    where = dict(job=JOB, run=OLD, stack="decoder", layer=1, site="self")
    stored = twice.api("map", **where)
    page.open(twice, "#/layer?" + "&".join(f"{name}={value}" for name, value in where.items())).ready()
    kept = f"kept in {T} × {T} cells, window of step {stored['first']} to {stored['last']}"
    assert kept in page.text("main") and page.texts(".grid.small h2") == [f"head {head}" for head in range(HEADS)]
    seen = page.js("return [...document.querySelectorAll('.stack > .grid > .figure')].filter((f) => !f.hidden).map((f) => f.querySelector('h2').textContent)")
    assert seen == ["mean over heads", "Importance of the heads"], "no empty cards"
    page.keys(".stack > .grid .figure:not([hidden]) svg", "ArrowDown", "ArrowDown", "ArrowRight")
    assert page.text("#tooltip") == f"query 2 → key 1: {shown(stored['values'][2][1])}"
    page.screenshot("layer-restarted-1440-light")
    windows = twice.api("grid", metric="entropy_normalized", **where)["windows"]
    page.open(twice, f"#/layer?at=step{windows['step'][0]}&" + "&".join(f"{name}={value}" for name, value in where.items())).ready()
    ends = f"window of step {windows['first'][0]} to {windows['last'][0]}"
    wait_until(lambda: ends in page.text(".figure.wide header"), "the map of the first window")
    wait_until(lambda: "numbers are of" not in page.text(".figure.wide header"), "its numbers: " + page.text(".figure.wide header"))
    assert "last window" not in page.text("main")
    page.screenshot("layer-moment-1440-light")
    page.open(twice, "#/head?head=2&" + "&".join(f"{name}={value}" for name, value in where.items())).ready()
    assert f"{kept}; numbers are of the last window, step 13" in page.text(".picture header")
    page.keys(".picture svg", "ArrowDown", "ArrowDown", "ArrowRight")
    assert page.text("#tooltip") == f"query 2 → key 1: {shown(twice.api('map', kind='heads', **where)['values'][2][2][1])}"
    assert page.texts(".picture image") == [""]
    assert shown(last_window(twice, 1)[2]) in page.text("main table") and "heads take turns" not in page.text("main")
    page.screenshot("head-restarted-1440-light")
    page.open(twice, f"#/model?job={JOB}&run={OLD}").ready()
    assert "No layer has" not in page.text("main") and "not kept over a restart" in page.text(".stack > .grid:last-child")
    assert page.count("main image") == 1, "a mean map in the flow"
    wait_until(lambda: page.js("return [...document.querySelectorAll('.thumb-tile')].map((t) => t.querySelectorAll('canvas').length)") == [1, 1], "the maps of two layers")
    page.screenshot("model-restarted-1440-light")
    page.open(twice, f"#/tokens?job={JOB}&run={OLD}&layer=1&head=2", width=390, dark=True).ready()
    assert page.text(".time b") == str(T - 1) and "not kept over a restart" in page.text("main")
    page.complaints()  # of the time without attnd
