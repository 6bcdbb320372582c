# SPDX-License-Identifier: MIT
"""The page as somebody sees it who opens it for the first time: what fires, why it matters, and since when; or that nothing does."""
import numpy as np
import pytest
from harness import Trainer, began, softmax_maps, wait_until
from test_access import serious
from test_page import shown, where

LAYERS, HEADS, T, STEPS, ONSET = 3, 8, 8, 14, 6
RUNS = {"falls": 1, "well": None, "broken": 0}  # the sick layer


def weights(rng, job, layer, step):
    """Healthy maps; in a layer that collapses nearly all weight is on the second key, of head 5 to nothing else."""
    maps = softmax_maps(rng, 1, HEADS, T, T)
    if step >= ONSET and RUNS[job] == layer and job == "falls":
        sharp = np.full((1, HEADS, T, T), 0.01 / (T - 1), np.float32)
        sharp[..., 1] = 0.99
        sharp[0, 5] = np.eye(T, dtype=np.float32)[1]
        maps = sharp
    if step >= ONSET and RUNS[job] == layer and job == "broken":
        maps[0, 3] = np.nan
    return maps


def publish(site, job, module=None):
    trainer, rng = Trainer(site.daemon, job), np.random.default_rng(5)
    for step in range(STEPS):
        for layer in range(LAYERS):
            trainer.attention(weights(rng, job, layer, step), layer=layer, step=step, **({"module": module} if module else {}))
    return trainer


@pytest.fixture(scope="module")
def looked(module_site):
    """A collapse that has ended, a healthy run, and one with a head of NaN."""
    site = module_site("window.unit=step", "window.length=2", "window.every=2", "window.rank_grace=0", "http.live_interval=0s",
                       config="rules: {mine: {metric: confidence, each: head, above: 0.999, job: sharp}, entropy_collapse: {for: 2},"
                              " little: {metric: output_norm, each: head, below: 0.1, job: well},"
                              " much: {metric: output_norm, each: head, above: 9, job: well}}\n")
    for job in RUNS:
        trainer = publish(site, job, module="<b>blocks.0</b>" if job == "well" else None)
        if job in ("well", "falls"):
            trainer.event("hello", step=STEPS - 1, step_seconds=0.5, capture_seconds=0.075)
            wait_until(lambda: site.api("plan", job=job)["cost"], "the cost")  # noqa: B023
        if job == "falls":
            trainer.event("bye", step=STEPS - 1)
            wait_until(lambda: any(run["job"] == "falls" and run["state"] == "ended" for run in site.api("runs")["runs"]), "its end")
        wait_until(lambda: ((site.api("verdict", job=job, or_null=1) or {}).get("step") or 0) >= STEPS - 1, "the last capture of " + job)  # noqa: B023
    return site


def attention(page):
    return " ".join(page.text(".attention").split())


def test_what_captures_cost_is_said_while_the_run_goes_on(looked, page):
    page.open(looked, "#/overview?job=well").ready()
    wait_until(lambda: page.text(".cost") == "capture: 0.3 % of step time", "the cost")
    page.open(looked, "#/overview?job=falls").ready()
    assert page.text(".cost") == ""
    looked.daemon.call("plan.set", job="well", layers="decoder.9.*")
    page.open(looked, "#/overview?job=well").ready()
    wait_until(lambda: page.text(".cost") == "nothing is captured: the job has none of layers=decoder.9.*", "that a plan takes nothing")
    page.screenshot("first-look-nothing-1440-light")
    looked.daemon.call("plan.reset", job="well")


def test_the_worst_alert_stands_first(looked, page):
    page.open(looked, "#/overview?job=falls").ready()
    wait_until(lambda: page.count(".timeline .line.bad"), "its line")
    verdict = looked.api("verdict", job="falls")
    worst = verdict["alerts"][0]
    assert (worst["layer"], worst["head"], worst["rule"]) == (1, None, "entropy_collapse")
    assert "head 5 has the lowest" in worst["message"]
    text = attention(page)
    assert text.startswith(f"Needs attention at the end of the run, step {verdict['step']} · 1 layer warning entropy_collapse 1 layer")
    assert "the last capture that passed" in page.js("return document.querySelector('.attention li [title]').title")
    assert f"{where(worst)} {worst['message']} {began(worst)}" in text and worst["why"] in text and worst["advice"] in text
    size = page.js("const s = (q) => parseFloat(getComputedStyle(document.querySelector(q)).fontSize);"
                   "return s('.trouble .who') / s('.trouble .soft')")
    assert size > 1.3 and page.js("return document.querySelector('.trouble .who').getBoundingClientRect().bottom") < 300
    assert {"decoder.1.self", "below 0.25", f"all other heads: {(LAYERS - 1) * HEADS}"} <= set(page.texts(".timeline svg text"))
    assert page.count(".timeline .threshold") == 1, "the bound is on its line"
    page.screenshot("first-look-falls-1440-light")
    assert serious(page) == []
    page.click(".trouble .who")
    wait_until(lambda: "#/layer" in page.hash(), "the layer")
    assert "layer=1" in page.hash()
    page.open(looked, "#/head?job=falls&stack=decoder&layer=1&site=self&head=5&metric=entropy_sans_first").ready()
    wait_until(lambda: "entropy_collapse: mean of a layer below 0.25" in page.text(".figure.wide .legend"), "the bound on the chart")
    assert page.count(".figure.wide svg .threshold") >= 1


def test_a_run_in_which_all_is_well_says_so_and_of_when(looked, page):
    page.open(looked, "#/overview?job=well").ready()
    step = looked.api("verdict", job="well")["step"]
    wait_until(lambda: "No alerts" in page.text(".attention"), "that all is well")
    assert f" checks passed up to step {step}; " in attention(page) and page.texts(".attention .trouble") == []
    assert "head_silent (needs projection matrices of the last two windows (weights_every=) and metrics.spectrum, or watch(residual=True))" in attention(page)
    assert "; little, much (needs watch(values=True))" in attention(page), "each reason once"
    assert page.count(".attention b, .heat b, main b") == page.js(
        "return document.querySelectorAll('.attention .soft b').length"), "names with markup are texts"


def test_attention_is_of_the_moment_that_the_slider_stands_at(looked, page):
    last = ONSET + 3
    (grid,) = looked.api("grid", job="falls", layer=1, metric="entropy_sans_first")["layers"]
    at = looked.api("grid", job="falls", metric="entropy_sans_first")["windows"]["last"].index(last)
    assert looked.api("verdict", job="falls")["step"] > last
    page.open(looked, f"#/overview?job=falls&at=step{last}").ready()
    wait_until(lambda: page.js("return document.querySelector('.timeline .rule')?.getAttribute('visibility')") == "visible", "the window")
    text = attention(page)
    assert "when the run ended" not in text
    assert text.startswith(f"Needed attention up to step {last} · 1 layer warning entropy_collapse 1 layer")
    value = float(np.mean([np.float32(values[at]) for values in grid["values"]]))
    assert shown(value) in page.texts(".timeline .sick tspan"), "the number of that window"
    assert f"At the newest step, {STEPS - 1}: alerts about 1 layer." in text and "Advice:" in text
    links = page.js("return [...document.querySelectorAll('.trouble a, .one-head a')].map((a) => a.hash)")
    assert links and all(f"at=step{last}" in link for link in links)
    page.screenshot("first-look-past-1440-light")
    assert serious(page) == []
    page.slide(0)
    wait_until(lambda: "No alerts" in page.text(".attention"), "that all was well")
    assert f"No alert fired up to step 1. At the newest step, {STEPS - 1}: alerts about 1 layer." in attention(page)
    assert all("at=step1" in link for link in page.js("return [...document.querySelectorAll('.tabs a')].map((a) => a.hash)"))
    page.click(".attention .body a")
    wait_until(lambda: attention(page).startswith("Needs attention at the end of the run"), "the newest moment")


def test_a_way_from_the_past_leads_to_the_same_moment(looked, page):
    last = ONSET + 3
    page.open(looked, f"#/overview?job=falls&at=step{last}&cell=decoder.1.self.h2").ready()
    for way in (".attention .who", ".one-head .links a", ".tabs a:nth-child(4)"):
        page.click(way)
        wait_until(lambda: "overview" not in page.hash(), "another view")
        assert f"at=step{last}" in page.hash()
        wait_until(lambda: page.text(".controls .time").endswith(f"step {last}"), "its slider at the same moment")
        page.js("history.back()")
        wait_until(lambda: page.text(".attention"), "the overview")


def test_every_chart_has_the_bounds_of_rules_and_the_onsets_of_alerts(looked, page):
    alerts = [alert for alert in looked.api("alerts", job="falls")["alerts"] if alert["layer"] == 1]
    rules, steps = {alert["rule"] for alert in alerts}, {alert["since"][1] for alert in alerts}
    bound = "entropy_collapse: mean of a layer below 0.25"
    (run,) = {alert["run"] for alert in alerts}
    other = wait_until(lambda: looked.api("runs", job="well")["runs"], "the other run in the history")[0]["run"]
    for address, chart, before in ((f"#/runs?a=falls/{run}&b=well/{other}&cell=decoder.1.self.h5&metric=entropy_sans_first", ".figure.wide", "A: "),
                                   ("#/layer?job=falls&stack=decoder&layer=1&site=self&metric=entropy_sans_first", ".figure.series", ""),
                                   ("#/head?job=falls&stack=decoder&layer=1&site=self&head=5&metric=entropy_sans_first", ".figure.wide", "")):
        page.open(looked, address).ready()
        assert page.count(f"{chart} .body svg .threshold") >= 1 and bound in page.text(f"{chart} .legend")
        events = page.texts(f"{chart} .body svg .event title")
        assert len(events) == len(steps) and all(event.startswith(before) and event.endswith(" began") for event in events), address
        assert set(", ".join(event.removeprefix(before).removesuffix(" began") for event in events).split(", ")) == rules
        page.screenshot(f"marks-{address[2:6].strip('?')}-1440-light")
    page.open(looked, "#/model?job=falls").ready()
    strips = "[aria-label='entropy_normalized by layer']"
    (told,) = page.texts(f"{strips} .onset title")
    assert told.startswith("decoder.1.self: ") and {one.split()[0] for one in told.partition(": ")[2].split(", ")} == {
        alert["rule"] for alert in looked.api("alerts", job="falls")["firing"] if alert["layer"] == 1}
    marked = """return [...document.querySelectorAll('.thumb-row')].flatMap((row) => [...row.querySelectorAll('.thumb-mark')].map(
        () => Number(row.querySelector('a').textContent.slice(1))))"""
    page.screenshot("marks-model-1440-light")
    page.open(looked, "#/model?job=broken").ready()
    wait_until(lambda: page.js(marked) == [0], "the mark of the head")
    page.open(looked, "#/model?job=broken&at=step1").ready()
    wait_until(lambda: page.count(".thumb-tile canvas") > 0, "the maps of the beginning")
    wait_until(lambda: page.js(marked) == [], "no mark before the onset")
    page.open(looked, "#/overview?job=falls&cell=decoder.1.self.h5&metric=entropy_sans_first").ready()
    assert page.js("return ['.threshold', '.line.bad'].map((s) => document.querySelectorAll(`.one-head svg ${s}`).length)") == [1, 1]


def test_the_page_of_a_head_says_what_fires_and_what_helps(looked, page):
    worst, last = looked.api("verdict", job="falls")["alerts"][0], ONSET + 3
    place = "#/head?job=falls&stack=decoder&layer=1&site=self&head=5"
    page.open(looked, place).ready()
    said = ".trouble[aria-label]"
    wait_until(lambda: worst["advice"] in page.text(said), "what helps")
    assert worst["rule"] in page.text(said) and "(mean of its heads, head 5 has the lowest)" in page.text(said)
    assert worst["why"] in page.text(said) and began(worst) in page.text(said)
    page.screenshot("head-alert-1440-light")
    assert serious(page) == []
    page.open(looked, f"{place}&at=step{last}", width=390, dark=True).ready()
    wait_until(lambda: worst["advice"] in page.text(said), "what fired then")
    assert page.fits()
    page.screenshot("head-alert-past-390-dark")
    page.slide(0)
    wait_until(lambda: page.texts(said) == [], "the window in which nothing fired")
    assert "at=step1" in page.js("return document.querySelector('a[rel=next]').hash")
    page.open(looked, "#/head?job=broken&stack=decoder&layer=0&site=self&head=3").ready()
    wait_until(lambda: "first_invalid" in page.text(said) and "Go back to the checkpoint" in page.text(said), "what fires for its rows")


def test_a_head_that_gives_everything_to_one_key_is_not_taken_for_padding(looked, page):
    maps = softmax_maps(np.random.default_rng(6), 1, HEADS, T, T)
    maps[0, 5] = np.eye(T, dtype=np.float32)[0]
    Trainer(looked.daemon, "one-key").attention(maps, step=0)
    wait_until(lambda: looked.api("maps", job="one-key", or_null=1), "its map")
    page.open(looked, "#/head?job=one-key&head=5").ready()
    wait_until(lambda: page.js("return document.querySelector('.picture image')"), "its map")
    assert not any(text.startswith("none") for text in page.texts(".picture svg text")), "no cell is hidden"
    assert f"100 %, {T} × an even spread" in page.texts(".picture .pairs li")[0]
    page.keys(".picture svg", "ArrowRight")
    assert page.text("#tooltip") == "query 0 → key 1: 0"
    page.open(looked, "#/model?job=one-key").ready()
    alpha = """const c = document.querySelector('.thumb-row').querySelector('canvas'), side = c.height;
        return [...c.getContext('2d').getImageData(5 * (side + 3), 0, side, side).data].filter((x, i) => i % 4 === 3 && x < 255).length"""
    wait_until(lambda: page.js("return [...document.querySelectorAll('.thumb-row')].every((row) => row.querySelector('canvas'))"), "the thumbnails")
    assert page.js(alpha) == 0, "nor is any pixel of its thumbnail"


def test_a_head_without_numbers_is_named_by_its_rule(looked, page):
    page.open(looked, "#/overview?job=broken").ready()
    head = looked.api("verdict", job="broken")["alerts"][0]
    assert (head["layer"], head["head"], head["rule"], head["value"]) == (0, 3, "first_invalid", 1)
    wait_until(lambda: "first_invalid" in page.text(".attention"), "the rule")
    text = attention(page)
    assert f"{where(head)}.h3 {head['message']} {began(head)}" in text and "Advice: Go back to the checkpoint" in text
    assert "metric=" not in page.js("return document.querySelector('.trouble .who').hash"), "it is no metric to choose"
    assert outlines(page) == 2, "the head, and its layer for invalid_rows"
    assert page.count(".heat .cell.missing") == 1 and page.texts(".heat .value.none") == ["–"]
    assert not any(word in page.text("body") for word in ("undefined", "null", "[object"))


def test_the_importance_of_a_head_for_which_an_alert_fires_is_marked(looked, page):
    trainer, rng = Trainer(looked.daemon, "sharp"), np.random.default_rng(4)
    for step in range(6):
        maps = softmax_maps(rng, 1, HEADS, T, T)
        maps[0, 5] = np.eye(T, dtype=np.float32)
        trainer.attention(maps, step=step)
    wait_until(lambda: (looked.api("verdict", job="sharp", or_null=1) or {}).get("alerts"), "the alert")
    page.open(looked, "#/layer?job=sharp").ready()
    wait_until(lambda: "■ head 5mine" in page.texts(".grid svg text"), "its mark")
    labels = [text for text in page.texts(".grid svg text") if "head" in text.split(" ")[:2]]
    assert len(labels) == HEADS and sum(text.startswith("■") for text in labels) == 1
    assert "■ an alert fires for this head, whatever its score" in page.texts(".grid svg text")


def outlines(page):
    return page.js("return (document.querySelector('.heat .outline.firing')?.getAttribute('d')?.match(/M/g) ?? []).length")


@pytest.mark.parametrize("width, dark", [(1440, True), (390, False)])
def test_cells_are_outlined_by_alerts_and_say_their_number(looked, page, width, dark):
    page.open(looked, "#/overview?job=falls&metric=entropy_sans_first", width=width, dark=dark).ready()
    wait_until(lambda: outlines(page) == 1, "the outline of the layer")
    assert page.texts(".legend .worse") == ["entropy_sans_first: low and high are bad"] and len(page.texts(".legend .bounds")) == 2
    page.choose("colour", "natural")
    wait_until(lambda: page.count(".legend .bound") == 2, "the bounds of rules on the scale")
    assert page.texts(".legend .tick text")[-1] == "1"
    page.choose("colour", "own")
    wait_until(lambda: page.texts(".legend .tick text") == [], "distances again")
    fills = [page.js("const {h, c} = d3.hcl(arguments[0]); return [h, c]", fill) for fill in
             page.js("return [...document.querySelectorAll('.heat .cell')].map((c) => c.getAttribute('fill'))")]
    blue = [chroma > 20 and 200 < hue < 320 for hue, chroma in fills]
    assert blue == [HEADS <= cell < 2 * HEADS for cell in range(LAYERS * HEADS)], "pale but for the layer that fell"
    if width == 1440:
        (live,) = looked.api("live", job="falls", layer=1)
        drawn = [float(text) for text in page.texts(".heat .value")][HEADS:2 * HEADS]
        np.testing.assert_allclose(drawn, live["heads"]["entropy_sans_first"], rtol=0.06, atol=1e-6)
    page.screenshot(f"first-look-cells-{width}-{'dark' if dark else 'light'}")
    page.slide(0)
    assert outlines(page) == 0, "at the first window nothing fired"


def test_many_heads_of_many_layers_stay_readable(own_site, page):
    """100 layers of 128 heads, or one of 4,096: each cell can be seen, on a phone in several lines per layer."""
    site = own_site("window.unit=step", "window.length=1", "window.every=1", "window.rank_grace=0", "metrics.spectrum=false", "limits.heads=4096")
    trainer, rng = Trainer(site.daemon, "large"), np.random.default_rng(2)
    maps = softmax_maps(rng, 1, 128, 4, 4)
    for layer in range(100):
        trainer.attention(maps, layer=layer, step=0)
    Trainer(site.daemon, "wide").attention(softmax_maps(rng, 1, 4096, 2, 2), step=0)
    site.daemon.settled(101)
    for job, width, count in (("wide", 1440, 4096), ("large", 1440, 12800), ("large", 390, 12800)):
        page.open(site, f"#/overview?job={job}", width=width).ready()
        cells = page.js("const c = [...document.querySelectorAll('.heat .cell')].map((e) => e.getBoundingClientRect());"
                        "const shown = document.querySelector('.heat .body').getBoundingClientRect();"
                        "return [c.length, Math.min(...c.map((b) => b.width)), Math.min(...c.map((b) => b.height)),"
                        "Math.max(...c.map((b) => b.right)) <= shown.right + 1]")
        assert cells[0] == count and cells[1] >= 5.5 and cells[2] >= 5.5 and cells[3], (job, width, cells)
        assert page.fits()
        page.screenshot(f"first-look-{job}-{width}-light")
    page.keys(".heat svg", "ArrowRight", "ArrowDown", "End")
    assert page.text(".columns > .stack:last-child h2") == "decoder.1.self.h0"


def test_layers_whose_numbers_have_stopped_are_named_beside_the_checks_that_pass(looked, page):
    trainer, rng = Trainer(looked.daemon, "halts"), np.random.default_rng(5)
    for step in range(28):
        for layer in range(LAYERS if step < 6 else 1):
            trainer.attention(softmax_maps(rng, 1, HEADS, T, T), layer=layer, step=step)
    wait_until(lambda: (looked.api("verdict", job="halts", or_null=1) or {}).get("step") == 27, "the last capture")
    page.open(looked, "#/overview?job=halts").ready()
    wait_until(lambda: "No numbers came in the last captures of decoder.1.self, decoder.2.self." in attention(page), "the layers")
    assert " checks passed up to step 27" in attention(page) and page.count(".attention.open") == 1, "it is not green"
    assert "of step 27, 2 layers of earlier ones" in page.text(".heat header")
    page.keys(".heat svg", "ArrowRight")
    assert "step" not in page.readout()
    page.keys(".heat svg", "ArrowDown")
    assert page.readout().endswith(", of step 5")
    page.screenshot("first-look-halts-1440-light")
