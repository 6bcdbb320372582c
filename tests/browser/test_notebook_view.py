# SPDX-License-Identifier: MIT
"""attnd.notebook.view in a real browser: as a notebook shows it, with its numbers, and without a request."""
import re

import numpy as np
import pytest
from conftest import JOB, wait_until

from attnd import Control, notebook

NOTEBOOK = "<!doctype html><style>* { color: red !important; font-size: 60px !important; display: block }</style><body>"
HOSTILE = ["<b>bold</b>", "</script><script>document.title = 'taken'</script>", "<!--", "\u202eback", "", "six"]


def softmax(*shape, causal=False, seed=1):
    logits = np.random.default_rng(seed).normal(size=shape) * 2
    if causal:
        logits = np.where(np.tri(shape[-2], shape[-1], dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


@pytest.fixture
def cell(page, tmp_path):
    """Shows a view in a page with styles of its own, as a notebook is; the browser looks into the view then."""

    def show(view):
        (tmp_path / "notebook.html").write_text(NOTEBOOK + view._repr_html_(), encoding="utf-8")
        page.driver.switch_to.default_content()
        page.driver.get((tmp_path / "notebook.html").as_uri())
        page.driver.switch_to.frame(page.driver.find_element("tag name", "iframe"))
        wait_until(lambda: page.js("return 'drawn' in document.documentElement.dataset"), "the view is drawn")
        return page

    yield show
    page.driver.switch_to.default_content()


def shown_map(page):
    """Every number of the map in the picture, as it is read out: the keys go from cell to cell."""
    read = page.js("""
        const svg = document.querySelector('.figure.picture .body svg'), said = [], [rows, columns] = arguments;
        const press = (key) => svg.dispatchEvent(new KeyboardEvent('keydown', {key}));
        press('ArrowUp'); press('ArrowLeft');
        for (let r = 0; r < rows; r++) {
            for (let c = 0; c < columns; c++) {
                said.push(document.getElementById('readout').textContent);
                press('ArrowRight');
            }
            for (let c = 0; c < columns; c++) press('ArrowLeft');
            press('ArrowDown');
        }
        return said;""", 6, 6)
    numbers = [text.rpartition(": ")[2] for text in read]
    return np.array([np.nan if text == "–" else float(text) for text in numbers]).reshape(6, 6)


def test_the_numbers_are_those_of_the_arrays(cell):
    weights = softmax(2, 3, 6, 6, causal=True)
    weights[1, 2, 4] = np.nan
    page = cell(notebook.view(weights, tokens=HOSTILE))
    np.testing.assert_allclose(shown_map(page), weights[0, 0], rtol=1e-3, atol=1e-6)
    page.choose("layer", "decoder.1.self")
    page.choose("head", "2")
    np.testing.assert_allclose(shown_map(page), weights[1, 2], rtol=1e-3, atol=1e-6)
    rows = np.nan_to_num(weights)
    entropy = -np.where(rows > 0, rows * np.log(np.where(rows > 0, rows, 1)), 0).sum(-1)
    valid = np.isfinite(weights).all(-1)
    heads = (entropy * valid).sum(-1) / valid.sum(-1)
    means = [float(text) for text in page.texts(".average")]
    np.testing.assert_allclose(means, heads.mean(1), rtol=6e-3)


def test_text_of_tokens_stays_text_and_nothing_is_asked_for(cell):
    page = cell(notebook.view(softmax(1, 2, 6, 6), tokens=HOSTILE, title="<img src=x onerror=document.title='taken'>"))
    assert page.count("main b, main img, main script") == 0
    assert "<img" in page.text("h1") and "taken" not in page.js("return document.title").replace("='taken'", "")
    texts = page.texts(".head-lines text")
    assert any("<b>bold</b>" in text for text in texts)
    assert page.js("return getComputedStyle(document.querySelector('h2')).color") != "rgb(255, 0, 0)"
    assert page.js("return performance.getEntriesByType('resource').filter((e) => !/^(data|blob):/.test(e.name)).length") == 0


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 1, 3, 7), (2, 2048, 5, 5)])
def test_small_and_many(cell, shape):
    page = cell(notebook.view(softmax(*shape)))
    assert len(page.texts(".thumb-row")) == shape[0]
    wait_until(lambda: page.js("return document.querySelector('.thumb-tile canvas') !== null"), "thumbnails are drawn")


def test_a_thumbnail_opens_its_head(cell):
    page = cell(notebook.view({"encoder.0.self": softmax(2, 4, 4), "decoder.0.cross": softmax(2, 3, 4)},
                              tokens={"encoder": list("abcd"), "decoder": list("xyz")}))
    wait_until(lambda: page.js("return document.querySelectorAll('.thumb-tile canvas').length === 2"), "thumbnails are drawn")
    page.js("""const tile = document.querySelectorAll('.thumb-tile')[1], box = tile.getBoundingClientRect();
               tile.firstChild.dispatchEvent(new MouseEvent('click', {bubbles: true, clientX: box.right - 8, clientY: box.top + 4}))""")
    assert page.text(".figure.picture h2") == "decoder.0.cross.h1"
    assert {"x", "y", "z", "a", "b", "c", "d"} <= {re.sub(r"[^a-z]", "", text[-3:]) for text in page.texts(".head-lines text")}


def test_a_job_is_shown_as_attnd_has_it(cell, site):
    with Control(site.daemon.endpoint("control")) as control:
        page = cell(notebook.view(JOB, control=control))
    found = site.api("maps", job=JOB, stack="encoder", layer=0, site="self")
    weights = np.array(found["values"][0], float)
    page.choose("layer", "encoder.0.self")
    assert f"{found['queries']} queries × {found['keys']} keys" in page.text(".figure.picture .sub")
    read = page.texts(".pairs li")
    query, key, share = re.match(r"query (\d+).* → key (\d+).*: ([\d.]+) %", read[0]).groups()
    assert abs(100 * weights[int(query), int(key)] - float(share)) <= 0.5
    assert len(page.texts(".thumb-row")) == len(site.api("live", job=JOB))
