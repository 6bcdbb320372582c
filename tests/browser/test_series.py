# SPDX-License-Identifier: MIT
"""Series that are looked into: a part of the run, smoothed lines, by mouse and by keys."""
import numpy as np
from conftest import JOB
from harness import Trainer, wait_until
from test_pictures import alone

HEAD = f"#/head?job={JOB}&stack=decoder&layer=1&site=self&head=3"
CHART = ".figure.wide svg"


def ticks(page):
    return [int(text) for text in page.texts(f"{CHART} > g:first-of-type .tick text")]


def drag(page, start, end):
    """From one share of the chart's width to another."""
    box = page.js(f"const b = document.querySelector('{CHART}').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]")
    y = box[1] + box[3] / 2
    places = [box[0] + share * box[2] for share in (start, (start + end) / 2, end)]
    for kind, x in (("mouseMoved", places[0]), ("mousePressed", places[0]), ("mouseMoved", places[1]), ("mouseMoved", places[2]), ("mouseReleased", places[2])):
        page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", dict(type=kind, x=x, y=y, button="left", buttons=int("Released" not in kind), clickCount=1))


def test_dragging_shows_a_part_of_the_run(site, page):
    page.open(site, HEAD).ready()
    points = f"return document.querySelector('{CHART} path.line').getAttribute('d').split('L').length"
    whole = page.js(points)
    drag(page, 0.4, 0.8)
    assert 2 <= page.js(points) < whole
    assert page.count(".brush") == 0
    page.js("[...document.querySelectorAll('.chart-tools button')].find((b) => b.textContent === 'whole run').click()")
    assert page.js(points) == whole


def test_keys_zoom_where_they_are_and_back(site, page):
    page.open(site, HEAD).ready()
    before = ticks(page)
    page.keys(CHART, "End", "+", "+")
    assert ticks(page)[0] > before[0] and ticks(page)[-1] >= before[-1]
    assert page.js("return document.activeElement === document.querySelector(arguments[0])", CHART)
    page.keys(CHART, "0")
    assert ticks(page) == before


def test_what_came_while_attnd_was_away_is_a_gap(own_site, page):
    site = own_site("window.unit=step", "window.length=1", "window.every=1", "window.rank_grace=0", "history.checkpoint=100ms")
    trainer, maps = Trainer(site.daemon, "killed"), np.full((1, 2, 8, 8), 1 / 8, np.float32)

    def windows(count):
        stored = (site.api("grid", job="killed", or_null=1) or {"windows": {"last": []}})["windows"]["last"]
        return len(stored) >= count

    for step in range(10):
        trainer.attention(maps, step=step)
    wait_until(lambda: windows(9), "windows of before")
    site.daemon.process.kill()
    site.daemon.process.wait()
    trainer.wait_forgotten()
    site.daemon.start()
    trainer.wait_subscribed()
    for step in range(60, 70):
        trainer.attention(maps, step=step)
    wait_until(lambda: windows(18), "windows of after")
    for view, path in (("head", ".figure.wide svg path.line"), ("layer", ".figure.series svg path.line:not(.one)")):
        page.open(site, f"#/{view}?job=killed").ready()
        pieces = page.js("return document.querySelector(arguments[0]).getAttribute('d').split('M').length - 1", path)
        assert pieces == 2, view
        assert page.js("return document.querySelectorAll(arguments[0].split(' path')[0] + ' circle.alone').length", path) == 0


def test_windows_that_come_less_often_are_no_gap(site, page):
    page.open(site, HEAD).ready()
    for x, pieces in (([0, 10, 20, 500, 510], [[0, 1, 2], [3, 4]]), ([0, 10, 20, 120, 220], [[0, 1, 2, 3, 4]]), ([3, 900], [[0, 1]]),
                      ([1, 2, 3, 50], [[0, 1, 2], [3]]), ([7], [[0]]), ([], [[]])):
        assert alone(page, "chart.js", f"return m.piecesOf({x})") == pieces, x


def test_lines_are_smoothed_over_the_numbers_there_are(site, page):
    page.open(site, HEAD).ready()
    got = alone(page, "chart_zoom.js", "return m.smoothed([1, 2, null, 4, 9, 1], 3)")
    np.testing.assert_allclose(np.array(got, float), [1.5, 1.5, np.nan, 6.5, 14 / 3, 5])
    page.open(site, HEAD).ready()
    page.choose("smoothing", "5")
    wait_until(lambda: page.count(f"{CHART} path.line.raw") == 2, "the lines as they are, faintly")
    assert "mean, mean of 5 windows" in page.text(".figure.wide .legend")
    page.choose("smoothing", "0")
    assert page.count(f"{CHART} path.line.raw") == 0
