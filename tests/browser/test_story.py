# SPDX-License-Identifier: MIT
"""A run that collapses, attnd that is started again, and the run that follows, as one sees them on the page."""
import numpy as np
import pytest
from conftest import Site
from harness import Trainer, softmax_maps, wait_until
from test_page import shown

JOB, HEADS, T = "falling", 2, 8


def one_key():
    """Every query looks at the second key alone."""
    weights = np.zeros((1, HEADS, T, T), np.float32)
    weights[..., 1] = 1
    return weights


def cells(page):
    return page.js("return document.querySelectorAll('.heat .cell').length")


def marks(page):
    return page.js("return (document.querySelector('.heat .outline.firing').getAttribute('d') ?? '').length")


@pytest.fixture(scope="module")
def fallen():
    """Of two layers the first looks at one key only from step 6 on. The run goes on."""
    site = Site("window.unit=step", "window.length=2", "window.every=2", "window.rank_grace=0", "http.live_interval=0s")
    trainer, rng = Trainer(site.daemon, JOB), np.random.default_rng(5)
    for step in range(16):
        for layer in (0, 1):
            trainer.attention(one_key() if layer == 0 and step >= 6 else softmax_maps(rng, 1, HEADS, T, T), layer=layer, step=step)
    wait_until(lambda: any(alert["rule"] == "entropy_collapse" for alert in site.api("alerts")["firing"]), "the alert")
    wait_until(lambda: len((site.api("grid", job=JOB, or_null=1) or {"windows": {"last": []}})["windows"]["last"]) >= 7, "the windows")
    yield site
    site.close()


def test_a_collapse_shows_where_and_since_when(fallen, page):
    page.open(fallen, f"#/overview?job={JOB}").ready()
    (alert,) = [one for one in fallen.api("alerts", job=JOB)["firing"] if one["rule"] == "entropy_collapse"]
    assert (alert["layer"], alert["head"]) == (0, None) and alert["since"]["step"] >= 6
    text = page.text(".attention")
    assert "entropy_collapse" in text and f"since step {alert['since']['step']}" in text and alert["message"].startswith("each query looks at one key: ")
    assert marks(page) > 0
    page.keys(".heat svg", "ArrowRight")
    assert f"entropy_collapse since step {alert['since']['step']}" in page.text(".columns > .stack:last-child")
    page.screenshot("collapse-1440-light")
    page.js("const s = document.querySelector('.time input'); s.value = 0; s.dispatchEvent(new Event('input'))")
    assert marks(page) == 0 and "at other times" in page.text(".alerts header"), "nothing fired at the first window"
    page.open(fallen, f"#/head?job={JOB}&layer=0&head=1").ready()
    assert any("entropy_collapse" in text for text in page.texts(".figure.wide svg .over"))
    page.screenshot("collapse-head-1440-light")


def test_what_is_left_after_a_restart_and_the_run_that_follows(fallen, page):
    page.open(fallen, f"#/overview?job={JOB}&cell=decoder.0.self.h1").ready()
    first = fallen.api("runs", job=JOB)["runs"][0]["run"]
    fallen.daemon.stop()
    wait_until(lambda: page.js("return document.getElementById('connection').dataset.state") == "lost", "that the connection is lost")
    fallen.daemon.start()
    wait_until(lambda: page.text("#connection") == "connected" and cells(page) == 2 * HEADS, "the numbers of the history")
    grid = fallen.api("grid", job=JOB)["layers"][0]["values"]
    wait_until(lambda: page.text(".big") == shown(grid[1][-1]), "the number of the last window")
    page.open(fallen, f"#/head?job={JOB}&layer=0&head=1").ready()
    assert "kept in 8 × 8 cells" in page.text(".picture header") and page.texts(".figure.wide svg .line")
    page.open(fallen, f"#/overview?job={JOB}").ready()
    trainer = Trainer(fallen.daemon, JOB)
    trainer.attention(np.full((1, 3, T, T), 1 / T, np.float32), layer=5, step=0)
    wait_until(lambda: cells(page) == 3 and "newest active" in page.text("#run"), "the next run alone")
    assert first[:8] not in page.js("return document.querySelector('#run').selectedOptions[0].textContent")
    page.js("const s = document.getElementById('run'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))", first)
    wait_until(lambda: cells(page) == 2 * HEADS and f"run={first}" in page.js("return location.hash"), "the run before")
    page.complaints()  # of the time without attnd
