# SPDX-License-Identifier: MIT
"""What a training reports itself stands over the metrics: loss and learning rate, of one run or of several."""
import numpy as np
import pytest
from conftest import module_text
from harness import Trainer, softmax_maps, wait_until

HEADS, T, STEPS = 2, 8, 12
HEAD = "#/head?job={}&stack=decoder&layer=0&site=self&head=0"
CHART = ".figure.wide svg"


def publish(place, job, log=None, settings=None, epochs=False, clock=0):
    """A run of a few steps; `log(step)`: what it logs there."""
    rng = np.random.default_rng(3)
    trainer = Trainer(place.daemon, job)
    trainer.event("hello", **({"settings": settings} if settings else {}))
    for step in range(STEPS):
        epoch = step // 4 if epochs else 0
        trainer.attention(softmax_maps(rng, 1, HEADS, T, T), step=step, epoch=epoch, time_ns=10**18 + clock + step)
        values = log(step) if log else None
        if values:
            trainer.event("log", step=step, epoch=epoch, values=values, time_ns=5 + step)
        if epochs and step % 4 == 3:
            trainer.event("epoch_end", epoch=epoch, step=step)
    trainer.event("bye", step=STEPS - 1)
    wait_until(lambda: any(run["run"] == trainer.run.hex() and run["state"] == "ended"
                           for run in (place.api("runs", job=job, or_null=1) or {"runs": []})["runs"]), "the run in the history")
    return trainer.run.hex()


def falling(step):
    return {"loss": 3.0 - step / 10, "lr": 1e-3 * (step + 1)}


@pytest.fixture(scope="module")
def place(module_site):
    return module_site("window.unit=step", "window.length=2", "window.every=2", "window.rank_grace=0")


def strips(page, chart=CHART):
    return page.js("return [...document.querySelectorAll(`${arguments[0]} .context > title`)].map((t) => t.textContent)", chart)


def points(page, selector=f"{CHART} .context path.line"):
    """[[x, y], ...] of a line, in px of the picture."""
    path = page.js("return document.querySelector(arguments[0])?.getAttribute('d') ?? ''", selector)
    return [[float(x) for x in one.split(",")] for one in path.strip("MZ").replace("M", "L").split("L") if one]


def axis(page):
    """The px of a step: from the ticks of the chart's own axis."""
    found = page.js(f"""return [...document.querySelectorAll('{CHART} > g:first-of-type .tick')].map((t) =>
        [Number(t.textContent), t.transform.baseVal.consolidate().matrix.e])""")
    (a, at_a), (b, at_b) = found[0], found[-1]
    return lambda step: at_a + (step - a) * (at_b - at_a) / (b - a)


def test_loss_and_learning_rate_stand_over_a_head_at_its_steps(place, page):
    publish(place, "falling", falling)
    page.open(place, HEAD.format("falling")).ready()
    assert strips(page) == ["loss", "lr"]
    drawn, px = points(page), axis(page)
    assert len(drawn) == STEPS
    np.testing.assert_allclose([x for x, _ in drawn], [px(step) for step in range(STEPS)], atol=0.6)
    heights = [y for _, y in drawn]
    assert heights == sorted(heights) and heights[-1] < 0  # it falls, above the chart
    page.keys(CHART, "End")
    assert "loss 1.9" in page.text("#tooltip") and "lr 0.012" in page.text("#tooltip")
    page.screenshot("context-head")
    page.open(place, "#/layer?job=falling&stack=decoder&layer=0&site=self").ready()
    assert strips(page, ".figure.series svg") == ["loss", "lr"]


def test_the_time_line_has_the_loss_and_the_spread_of_the_heads_at_each_window(place, page):
    publish(place, "timed", falling)
    page.open(place, "#/overview?job=timed").ready()
    wait_until(lambda: page.texts(".timeline svg text.name tspan"), "the time line")
    assert {"loss", "median, p10 to p90median, p10 to p90"} <= set(page.texts(".timeline svg text"))
    box = page.js("const b = document.querySelector('.timeline svg .lane').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]")
    page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", dict(type="mouseMoved", x=box[0] + box[2] - 3, y=box[1] + box[3] / 2))
    wait_until(lambda: page.text("#tooltip").startswith("step 11\nloss 1.9"), "the last window under the pointer")
    (grid,) = place.api("grid", job="timed")["layers"]
    middle = np.median([np.float32(head[-1]) for head in grid["values"]])
    assert abs(float(page.text("#tooltip").split()[-1]) - middle) < 1e-3


@pytest.mark.parametrize("values, since, step, said", [
    ([4, 3, 2, 5, 6], 3, None, "Loss 6; best before step 3: 2."), ([4, 3, 2, 5, 6], 3, 3, "Loss 5; best before step 3: 2."),
    ([4, 3, 2.83701, 2.83702], 3, None, "Loss 2.837."),
    ([4, 3, None, None], 1, None, "Loss NaN, first at step 2."), ([4, 3], 0, None, "Loss 3."), ([], 0, None, "")])
def test_what_the_loss_did_is_said_by_its_numbers(place, page, values, since, step, said):
    page.open(place).ready()
    log = [dict(name="loss", step=list(range(len(values))), value=values)] if values else []
    assert page.js(f"const {{lossText}} = {module_text('timeline.js')}; return lossText(...arguments)", log, since, step) == said


@pytest.mark.parametrize("condition, value, is_before, said", [
    ("below", 0.2, False, "below 0.25"), ("below", 0.2707, False, "back above 0.25"), ("below", 0.9, True, "above 0.25"),
    ("above", 0.3, False, "above 0.25"), ("above", 0.2, False, "back below 0.25"), ("above", None, False, "above 0.25")])
def test_a_number_that_is_back_within_its_bound_is_said_to_be(page, condition, value, is_before, said):
    ask = f"const {{boundText}} = {module_text('rules.js')}, [condition, value, isBefore] = arguments; return boundText({{condition}}, 0.25, value ?? NaN, isBefore)"
    assert page.js(ask, condition, value, is_before) == said


def test_epochs_are_placed_by_their_steps_whatever_the_clock_says(own_site, page):
    site = own_site("window.rank_grace=0")
    publish(site, "epochs", falling, epochs=True, clock=10**17)
    page.open(site, HEAD.format("epochs")).ready()
    drawn, px = points(page), axis(page)
    # Epochs 0, 1, 2 end with steps 3, 7, 11.
    np.testing.assert_allclose([x for x, _ in drawn], [px((step - 3) / 4) for step in range(STEPS)], atol=0.6)


@pytest.mark.parametrize("log, titles, said", [
    (None, [], None),
    (lambda step: {"loss": 2.0} if step == 5 else None, ["loss"], None),
    (lambda step: {"loss": 2.0 if step < 6 else None}, ["loss"], "not finite since step 6"),
    (lambda step: {"loss": None}, ["loss"], "not finite since step 0"),
    (lambda step: {"<b>nll</b>": 1.0 + step, "norm": 7}, ["<b>nll</b>"], None),
    (lambda step: {"accuracy": step}, ["accuracy"], None)], ids=["none", "one", "diverged", "never", "markup", "other"])
def test_any_log_is_drawn_as_it_is(place, page, request, log, titles, said):
    job = "odd-" + request.node.callspec.id
    publish(place, job, log)
    page.open(place, HEAD.format(job)).ready()
    assert strips(page) == titles
    assert page.texts(f"{CHART} .context .broken") == ([said] if said else [])
    assert page.count(f"{CHART} path.line") >= 2
    if request.node.callspec.id == "one":
        assert page.count(f"{CHART} .context circle.alone") == 1


def test_what_is_logged_while_one_looks_is_drawn(place, page):
    rng, trainer = np.random.default_rng(3), Trainer(place.daemon, "ongoing")
    for step in range(6):
        trainer.attention(softmax_maps(rng, 1, HEADS, T, T), step=step)
    wait_until(lambda: (place.api("layers", job="ongoing", or_null=1) or {"layers": []})["layers"], "a window")
    page.open(place, HEAD.format("ongoing")).ready()
    assert strips(page) == []
    trainer.event("log", step=5, values={"loss": 1.0})
    wait_until(lambda: strips(page) == ["loss"], "the loss")
    trainer.event("bye", step=5)


def test_runs_are_compared_with_the_one_before_and_with_any_more(place, page):
    runs = [publish(place, "tried", lambda step, i=i: {"loss": 3.0 + i - step / 10},
                    {"learning_rate": 10.0**-i, "seed": 7, "name": "<i>x</i>"}) for i in range(4)]
    page.open(place, f"#/runs?job=tried&run={runs[2]}").ready()
    assert page.js("return document.querySelector(`select[aria-label='A']`).value") == f"tried/{runs[2]}"
    assert page.js("return document.querySelector(`select[aria-label='B']`).value") == f"tried/{runs[1]}"
    legend = page.texts(".figure.wide .legend span")
    assert [text[:2] for text in legend if "below" not in text and "above" not in text] == ["A:", "B:"]
    rows = {row[0]: row[1:] for row in page.rows(".figure:not(.wide) tbody tr")}
    assert rows["learning_rate"] == ["0.01", "0.1"] and not {"seed", "name"} & set(rows)
    page.click(".overlay summary")
    for run in (runs[0], runs[3]):
        page.js("[...document.querySelectorAll('.overlay label')].find((l) => l.textContent.includes(arguments[0])).click()", f"tried / {run[:8]}")
        wait_until(lambda: run in page.hash(), "the run in the address")
        page.ready()
        page.js("document.querySelector('.overlay')?.setAttribute('open', '')")
    wait_until(lambda: page.count(f"{CHART} > path.line") == 4, "four lines")
    assert page.count(f"{CHART} .context path.line") == 4
    colours = page.js(f"return [...document.querySelectorAll('{CHART} > path.line')].map((p) => getComputedStyle(p).stroke)")
    assert len(set(colours)) == 4
    page.js("document.querySelector('.overlay').removeAttribute('open')")


def test_of_a_run_that_is_followed_only_what_is_new_is_asked_for(place, page):
    trainer, maps = Trainer(place.daemon, "goes-on"), softmax_maps(np.random.default_rng(4), 1, HEADS, T, T)

    def train(steps):
        for step in steps:
            trainer.attention(maps, step=step)
            trainer.event("log", step=step, values={"loss": 3.0 - step / 10})

    train(range(6))
    wait_until(lambda: (place.api("log", job="goes-on", or_null=1) or {"series": [{"step": []}]})["series"][0]["step"][-1:] == [5], "the log")
    wait_until(lambda: place.api("live", job="goes-on", or_null=1), "its layer")
    page.open(place, HEAD.format("goes-on")).ready()
    wait_until(lambda: len(points(page)) == 6, "the loss")
    train(range(6, 9))
    wait_until(lambda: len(points(page)) == 9, "what is new of it")
    asked = [url.partition("from=")[2].partition("&")[0] for url in
             page.js("return performance.getEntriesByType('resource').map((one) => one.name).filter((url) => url.includes('/log?'))")]
    assert asked[0] == "" and asked.count("") <= 2 and "5" in asked, asked
