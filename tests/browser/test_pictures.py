# SPDX-License-Identifier: MIT
"""Maps as they are drawn: the colour of each cell, the texts of the axes, the file that is saved, the bars on a phone."""
import base64
import struct
import xml.dom.minidom

import numpy as np
import pytest
from conftest import JOB, module_text
from harness import wait_until

# The pixels of the first map of a figure, as [rows][columns] of RGBA.
PIXELS = """
const done = arguments[1], picture = document.querySelector(arguments[0] + ' svg image'), image = new Image();
image.onload = () => {
  const canvas = document.createElement('canvas'), context = canvas.getContext('2d');
  canvas.width = image.width; canvas.height = image.height;
  context.drawImage(image, 0, 0);
  done([image.height, image.width, [...context.getImageData(0, 0, image.width, image.height).data]]);
};
image.src = picture.getAttribute('href');
"""
# The file that a button of a figure saves: its name, and its bytes in base64.
SAVED = """
const done = arguments[1], make = URL.createObjectURL, blobs = [];
URL.createObjectURL = (blob) => { blobs.push(blob); return make.call(URL, blob); };
HTMLAnchorElement.prototype.click = function () {
  const reader = new FileReader();
  reader.onload = () => done([this.download, reader.result.split(',')[1]]);
  reader.readAsDataURL(blobs[blobs.length - 1]);
};
document.querySelector(arguments[0]).click();
"""
HEAD = f"#/head?job={JOB}&stack=decoder&layer=1&site=self&head=3"


def most_cells(values):
    """The range of the colours of all cells but the few with the largest weights, where these are far above."""
    top, most = max(np.nanquantile(values, 0.99), np.nanmedian(np.nanmax(values, 1))), np.nanmax(values)
    return np.nanmin(values), top if top < 0.8 * most else most


RANGES = {"auto": most_cells, "full": lambda values: (np.nanmin(values), np.nanmax(values)),
          "row": lambda values: (np.nanmin(values[-1]), np.nanmax(values[-1]))}


@pytest.mark.parametrize("mode", ["full", "row", "auto"])
def test_each_cell_has_the_colour_of_its_weight(site, page, mode):
    page.open(site, HEAD).ready()
    page.choose("map colours", mode)
    values = np.array(site.api("maps", job=JOB, stack="decoder", layer=1, site="self", head=3)["values"][0], float)
    visible = np.tril(np.ones_like(values, bool)) & values.any(0)
    low, high = RANGES[mode](np.where(visible, values, np.nan))
    beside = {"full": set(), "row": {"of row"}, "auto": {"to 1"} if high < 1 else set()}[mode]
    wait_until(lambda: {"of row", "to 1"} & set(page.texts(".picture svg text")) == beside, "the scale")
    rows, columns, data = page.driver.execute_async_script(PIXELS, ".picture")
    pixels = np.array(data).reshape(rows, columns, 4)
    assert values.shape == (rows, columns) and values[0, 0] == 1
    assert (pixels[..., 3] == 255 * visible).all(), "what a causal mask hides, and padding, is left clear"
    for r, c in ((rows - 1, 0), (rows - 1, 3)) + (() if mode == "row" else ((0, 0), (5, 3), (rows // 2, 1))):
        at = min(255, int(256 * (values[r, c] - low) / (high - low)))
        color = page.js("const {r, g, b} = d3.rgb(d3.interpolateViridis(arguments[0] / 255)); return [r, g, b]", at)
        assert np.abs(pixels[r, c, :3] - color).max() <= 4, (r, c)


def texts_of(document):
    return {node.firstChild.data for node in document.getElementsByTagName("text") if node.firstChild}


@pytest.mark.parametrize("ending", ["SVG", "PNG"])
def test_a_map_is_saved_with_its_image_and_its_texts(site, page, ending):
    page.open(site, HEAD).ready()
    box = page.js("const b = document.querySelector('.picture svg').viewBox.baseVal; return [b.width, b.height]")
    name, data = page.driver.execute_async_script(SAVED, f".picture .tools button[title='save as {ending}']")
    data = base64.b64decode(data)
    run = site.api("runs", job=JOB)["runs"][0]["run"][:8]
    assert name == f"attnd-{JOB}-{run}-decoder.1.self.h3-map.{ending.lower()}"
    if ending == "PNG":
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        size = struct.unpack(">II", data[16:24])
        assert abs(size[0] - 2 * box[0]) <= 2
        assert min(abs(size[1] - 2 * (box[1] + room)) for room in (39, 55.6)) <= 2, "under two lines, or three with padding"
        return
    document = xml.dom.minidom.parseString(data)
    texts = texts_of(document)
    assert {"key position", "query position", f"{JOB} · run {run} · decoder.1.self.h3"} <= texts
    assert any(text.startswith("Newest map · map of step ") for text in texts)
    assert [node.getAttribute("href")[:22] for node in document.getElementsByTagName("image")] == ["data:image/png;base64,"]
    assert b"http" not in data.replace(b"http://www.w3.org/", b""), "it needs nothing from elsewhere"


@pytest.mark.parametrize("address, selector, what, parts", [
    (f"#/layer?job={JOB}", ".grid.small .tools button", "encoder.0.self.h0-map", {"key position"}),
    (HEAD, ".figure.wide .tools button", "decoder.1.self.h3-entropy_normalized", {"median", "p10 to p90, like the median within 1.1 to 9.1 %"}),
    (f"#/overview?job={JOB}", ".heat .tools button", None, {"an alert fires", "entropy_normalized: low and high are bad"})])
def test_what_is_saved_can_be_read_alone(site, page, address, selector, what, parts):
    page.open(site, address).ready()
    name, data = page.driver.execute_async_script(SAVED, selector)
    document = xml.dom.minidom.parseString(base64.b64decode(data))
    run = site.api("runs", job=JOB)["runs"][0]["run"][:8]
    assert name.startswith(f"attnd-{JOB}-{run}-") and (what is None or name.endswith(f"{run}-{what}.svg"))
    assert parts <= texts_of(document), "what its colours are"
    assert what != "encoder.0.self.h0-map" or any(text.startswith("map of step") for text in texts_of(document))
    assert not (what or "").endswith("map") or document.getElementsByTagName("linearGradient"), "a scale"
    assert page.count(".unseen") == 0


def test_the_name_of_an_axis_stands_beside_its_ticks(site, page):
    page.open(site, f"#/head?job={JOB}&metric=importance").ready()
    gap = page.js("""const root = document.querySelector('.figure.wide svg'), box = (e) => e.getBoundingClientRect();
        const name = [...root.querySelectorAll(':scope > text')].find((e) => e.textContent === 'importance');
        return Math.min(...[...root.querySelectorAll('g:nth-of-type(2) .tick text')].map((e) => box(e).left)) - box(name).right""")
    assert gap >= 0


def test_kinds_of_attention_have_names_and_colours(site, page):
    page.open(site, f"#/model?job={JOB}").ready()
    assert page.texts("text.kind") == ["encoder self", "decoder self", "decoder cross"]
    colors = page.js("return [...document.querySelectorAll('.figure.wide path.line')].map((e) => getComputedStyle(e).stroke)")
    assert len(set(colors)) == len(colors) == 3


def test_rollout_goes_up_layer_by_layer_and_stays_in_the_address(site, page):
    page.open(site, f"#/model?job={JOB}&rollout=encoder&upto=0").ready()
    rollout = site.api("rollout", job=JOB, stack="encoder")
    slider = "input[aria-label='rollout up to layer']"
    for level in (0, 1):
        page.js("const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('input'))", slider, level)
        assert f"layers 0 to {rollout['layers'][level]}, step {rollout['step']}" in page.text(".stack > .grid:last-child header")
        page.keys(".stack > .grid:last-child svg", "ArrowDown")
        read = float(page.readout().rsplit(": ", 1)[1])
        assert abs(read - rollout["values"][level][1][0]) < 1e-3
    assert "upto=1" in page.hash()


def test_the_strongest_pairs_lead_to_their_query_on_a_phone(site, page):
    page.open(site, f"#/tokens?job={JOB}&stack=encoder&layer=1&site=self&head=0&query=3", width=390, height=844).ready()
    values = np.array(site.api("maps", job=JOB, stack="encoder", layer=1, site="self", head=0)["values"][0])
    query = int(np.argmax(values) // values.shape[1])
    page.click("tbody tr button")
    wait_until(lambda: f"query={query}" in page.hash(), "the query of the strongest pair")
    size = page.js("const s = document.querySelector('.bar[data-key]').closest('svg');"
                   "return s.getBoundingClientRect().width / s.viewBox.baseVal.width")
    assert size > 0.95, "the texts of the bars are not shrunk"


def test_queries_and_keys_of_cross_attention_have_their_own_texts(site, page):
    for kind in ("cross", "self"):
        where = dict(stack="decoder", layer=0, site=kind, head=0)
        found = site.api("maps", job=JOB, **where)
        seen = [[{"\n": "↵", "\t": "⇥"}.get(text, text) for text in found[name] or found["labels"]] for name in ("q_labels", "labels")]
        page.open(site, f"#/head?job={JOB}&" + "&".join(f"{name}={value}" for name, value in where.items())).ready()
        page.keys(".picture svg", "ArrowDown", *["ArrowRight"] * 4)
        query, key = page.readout().split(" → ")
        assert (found["q_labels"] is not None) == (kind == "cross")
        assert query == f"query 1 “\u2068{seen[0][1]}\u2069”" and key.startswith(f"key 4 “\u2068{seen[1][4]}\u2069”: ")


def alone(page, module, script):
    """What `script` returns of a module `m` of the page, and of a box of 320 px that it may draw into."""
    return page.driver.execute_async_script(f"""
        const done = arguments[0], box = document.createElement('div'), m = {module_text(module)};
        box.style.width = '320px';
        document.querySelector('main').replaceChildren(box);
        Promise.resolve().then(() => {{ {script} }}).then(done, (error) => done(String(error)))""")


def test_a_time_axis_has_its_ends_when_there_is_room_for_one_tick_only(site, page):
    page.open(site, f"#/head?job={JOB}").ready()
    ticks = alone(page, "chart.js", """m.drawChart(box, {x: [51, 146], lines: [{name: 'a', values: [0.25, 0.5], class: 'line'}]});
        return [...box.querySelectorAll('g:first-of-type .tick text')].map((e) => e.textContent)""")
    assert ticks == ["51", "146"]


def test_a_number_with_none_before_and_after_is_a_ring(site, page):
    page.open(site, f"#/head?job={JOB}").ready()
    x = alone(page, "chart.js", """m.drawChart(box, {lines: [{name: 'a', x: [1, 3, 5, 7], values: [1, NaN, 2, null], class: 'line'},
        {name: 'b', x: [2, 7], values: [1, 2], class: 'line second'}]});
        return [...box.querySelectorAll('circle.alone')].map((e) => e.getAttribute('class'))""")
    assert x == ["line alone", "line alone"]


def test_pairs_stand_out_by_what_they_have_over_an_even_spread(site, page):
    page.open(site, f"#/head?job={JOB}").ready()
    weights = [1, 0, 0, 0, 0.65, 0.35, 0, 0, 0.3, 0.3, 0.4, 0, 0.1, 0.1, 0.1, 0.7]
    pairs = alone(page, "cells.js", f"return m.strongestPairs({{stack: 'decoder', rows: 4, columns: 4, queries: 4, keys: 4, causal: true, values: {weights}}}, 3)")
    assert [(pair["row"], pair["column"], round(pair["times"], 3)) for pair in pairs] == [(3, 3, 2.8), (1, 0, 1.3), (2, 2, 1.2)]
    assert alone(page, "cells.js", f"return m.looksCausal({{rows: 4, columns: 4, values: {weights}}})")


def test_a_head_that_looks_at_one_key_is_not_clipped(site, page):
    """Of 256 queries each has one weight near 1: far fewer than one cell in a hundred."""
    page.open(site, f"#/head?job={JOB}").ready()
    high = alone(page, "cells.js", """const n = 256, values = new Float32Array(n * n).fill(1e-4);
        for (let r = 0; r < n; r++) values[r * n + (r * 7) % n] = 0.9 + 0.1 * (r / n);
        const map = {stack: 'encoder', rows: n, columns: n, values};
        return m.rangeOf(map, m.hiddenCells(map), 'auto')""")
    assert high["high"] == high["most"] > 0.99
