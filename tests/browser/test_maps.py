# SPDX-License-Identifier: MIT
"""Maps of many heads: thumbnails of a model, a layer on one scale, lines between tokens, and windows that have passed."""
import re
import numpy as np
import pytest
import torch
from conftest import JOB
from harness import Trainer, softmax_maps, wait_until
from test_page import shown
from test_pictures import alone

import attnd

LAYER = dict(stack="decoder", layer=1, site="self")
PLACE = "&".join(f"{name}={value}" for name, value in LAYER.items())
MANY, MARKED = 1024, "<b>bold</b>&amp;"

# The colours at the middle of each cell of a thumbnail: [rows][columns] of RGBA; of a row of the list, and a head.
THUMB = """
const [at, head, rows, columns, side] = arguments, gap = 3, canvas = document.querySelectorAll('.thumb-row')[at].querySelector('canvas');
const context = canvas.getContext('2d'), out = [];
for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++)
  out.push([...context.getImageData(head * (side + gap) + Math.floor((c + 0.5) * side / columns), Math.floor((r + 0.5) * side / rows), 1, 1).data]);
return out;
"""


def viridis(page, shares):
    """The colours of numbers from 0 to 1, as tables of colours have them."""
    return np.array(page.js("return arguments[0].map((x) => { const {r, g, b} = d3.rgb(d3.interpolateViridis(Math.min(255, Math.floor(256 * x)) / 255));"
                            "return [r, g, b]; })", [float(x) for x in np.clip(shares, 0, 1)]))


def maps_of(daemon, job=JOB, **what):
    return np.array(daemon.api("maps", job=job, **what)["values"], float)


def thumbs_drawn(page, count):
    wait_until(lambda: page.count(".thumbs canvas") >= count, "the thumbnails")


def past(site, at):
    """Where the window `at` ends, in the run that is shown."""
    return site.api("grid", job=JOB)["windows"]["last"][at]


def test_thumbnails_have_the_colours_of_the_weights(site, page):
    page.open(site, f"#/model?job={JOB}").ready()
    thumbs_drawn(page, 6)
    page.choose("scale", "limits")
    for name, value in (("from weight", 0.05), ("to weight", 0.5)):
        page.js("const b = document.querySelector(`input[aria-label='${arguments[0]}']`); b.value = arguments[1]; b.dispatchEvent(new Event('change'))", name, value)
    names = page.js("return [...document.querySelectorAll('.thumb-block')].flatMap((b) => [...b.querySelectorAll('.thumb-name a')].map((a) => b.querySelector('h3').textContent + ' ' + a.textContent))")
    assert names == [f"{kind} L{i}" for kind in ("encoder self-attention", "decoder self-attention", "decoder cross attention") for i in (0, 1)]
    wait_until(lambda: "0.05 – 0.5" in page.texts(".thumb-bar")[3], "the limits")
    side = page.js("return document.querySelector('.thumbs canvas').height")
    for head in (0, 3):
        values = maps_of(site, head=head, **LAYER)[0]
        pixels = np.array(page.js(THUMB, 3, head, *values.shape, side)).reshape(*values.shape, 4)
        visible = np.tril(np.ones_like(values, bool)) & values.any(0) & values.any(1)[:, None]
        assert ((pixels[..., 3] == 255) == visible).all(), "what the mask hides, and padding, is clear"
        wanted = viridis(page, (values[visible] - 0.05) / 0.45)
        assert np.abs(pixels[visible][:, :3] - wanted).max() <= 4
    page.screenshot("thumbnails-1440-light")
    page.choose("scale", "layer")


def test_thumbnails_are_reached_by_keys_and_say_what_stands_out(site, page):
    page.open(site, f"#/model?job={JOB}").ready()
    thumbs_drawn(page, 6)
    page.keys(".thumbs", *["ArrowDown"] * 4, *["ArrowRight"] * 2)
    said = page.readout()
    assert said.startswith("decoder.1.self.h2\nquery ") and said.count("an even spread") == 3
    page.keys(".thumbs", "Enter")
    wait_until(lambda: "#/head" in page.hash(), "the head")
    assert "layer=1" in page.hash() and "head=2" in page.hash()


def test_maps_of_a_layer_share_one_scale(site, page):
    page.open(site, f"#/layer?job={JOB}&{PLACE}").ready()
    page.choose("map colours", "full")
    values = maps_of(site, **LAYER)
    visible = np.tril(np.ones(values.shape[1:], bool)) & values.any(1)[:, None] & values.any(2)[..., None]
    low, high = values[visible].min(), values[visible].max()
    wait_until(lambda: len(page.texts(".wide > .body > div > .legend .tick text")) == 3, "one bar")
    pixels = page.driver.execute_async_script("""const done = arguments[0];
        Promise.all([...document.querySelectorAll('.grid.small image')].map((picture) => new Promise((drawn) => {
            const image = new Image();
            image.onload = () => { const canvas = document.createElement('canvas'), context = canvas.getContext('2d');
                canvas.width = image.width; canvas.height = image.height; context.drawImage(image, 0, 0);
                drawn([...context.getImageData(0, 0, image.width, image.height).data]); };
            image.src = picture.getAttribute('href'); }))).then(done)""")
    pixels = np.array(pixels).reshape(*values.shape, 4)
    wanted = viridis(page, (values[visible] - low) / (high - low))
    assert np.abs(pixels[visible][:, :3] - wanted).max() <= 4
    page.choose("scale", "map")
    wait_until(lambda: "each map has its own scale" in page.text(".wide > .body .legend"), "that maps have their own")
    page.choose("scale", "layer")
    page.choose("map colours", "auto")
    assert [len(page.texts(f".grid.small .figure:nth-child({i}) .top li")) for i in range(1, 5)] == [3] * 4, "positions that stand out"


def test_lines_have_the_weights_of_the_heads_that_are_chosen(site, page):
    page.open(site, f"#/head?job={JOB}&{PLACE}&head=3&lines=1,3").ready()
    wait_until(lambda: page.count("svg.head-lines line"), "the lines")
    assert page.texts(".head-toggle[aria-pressed=true]") == ["1", "3"]
    page.keys("svg.head-lines", *["ArrowDown"] * 6)
    row = maps_of(site, **LAYER)[:, 5]
    said = page.readout().splitlines()
    assert said[0].startswith("query 5 ") and len(said) == 6
    ends = page.js("return [...document.querySelectorAll('svg.head-lines line')].map((l) => l.getAttribute('stroke-width'))")
    widths = sorted((float(x) for x in ends), reverse=True)
    weights = np.sort(row[[1, 3], :6].ravel())[::-1]
    np.testing.assert_allclose(widths, 0.5 + 2.5 * weights[weights > 0] / weights[0], rtol=1e-5)
    marks = page.texts("svg.head-lines text.weight")
    means = row[[1, 3], :6].mean(0)
    assert sorted(float(text.split()[0]) for text in marks) == sorted(
        float(f"{100 * x:.1f}" if x < 0.1 else f"{100 * x:.0f}") for x in means if x >= 0.01)
    page.screenshot("lines-1440-light")
    page.js("document.querySelector(\".head-toggle[aria-label='lines of head 0']\").click()")
    wait_until(lambda: "lines=0%2C1%2C3" in page.hash(), "the head in the address")
    wait_until(lambda: len(page.texts(".head-toggle[aria-pressed=true]")) == 3, "its lines")


def test_a_head_goes_through_its_windows(site, page):
    at = past(site, 3)
    page.open(site, f"#/head?job={JOB}&{PLACE}&head=2&at=step{at}").ready()
    grid = site.api("grid", job=JOB, metric="first_token", **LAYER)
    wait_until(lambda: "Numbers of the window" in page.text(".numbers header"), "its numbers")
    rows = dict(row.split("\t")[:2] for row in page.text(".numbers tbody").splitlines())
    assert rows["first_token"] == shown(float(np.float32(grid["layers"][0]["values"][2][3])))
    kept = site.api("map", kind="heads", last=at, job=JOB, **LAYER)
    wait_until(lambda: f"window of step {at - 4} to {at}" in page.text(".picture header"), "its map")
    page.keys(".picture svg", *["ArrowDown"] * 9, *["ArrowRight"] * 3)
    assert page.text("#tooltip").endswith(shown(kept["values"][2][9][3])) and page.texts(".head-toggle[aria-pressed=true]") == ["2"]
    assert "step" in page.text(".time")
    page.slide(5)
    wait_until(lambda: f"to {past(site, 5)}" in page.text(".picture header"), "the other window")
    assert f"at=step{past(site, 5)}" in page.hash()
    assert page.count(".figure.wide .now") == 1


def test_layers_and_the_model_go_through_their_windows(site, page):
    at = past(site, 2)
    page.open(site, f"#/layer?job={JOB}&{PLACE}&at=step{at}").ready()
    wait_until(lambda: "Numbers of the window" in page.text("main"), "its numbers")
    grid = site.api("grid", job=JOB, metric="entropy_normalized", **LAYER)
    column = page.js("return [...document.querySelectorAll('main table tbody tr')].map((row) => row.children[2].textContent)")
    assert page.texts(".grid.small h2") == [f"head {head}" for head in range(4)], "maps that were kept of the window"
    assert column == [shown(float(np.float32(head[2]))) for head in grid["layers"][0]["values"]]
    page.screenshot("layer-past-1440-light")
    page.open(site, f"#/model?job={JOB}&at=step{at}").ready()
    assert f"step {at}" in page.text(".time") and f"step {at}" in page.text(".figure.wide header")
    assert page.count("circle.dot") == 24
    page.open(site, f"#/layer?job={JOB}&{PLACE}&at=nonsense").ready()
    assert "at=nonsense names no window of this run" in page.text("main")


@pytest.fixture(scope="module")
def strange(module_site):
    """Four layers of as many heads as attnd takes, 4,096 in all; none has tokens. Another job has one window, maps with NaN, and names with markup."""
    one = module_site("window.unit=step", "window.length=1", "window.every=1")
    rng = np.random.default_rng(2)
    many = Trainer(one.daemon, "many")
    for layer in range(4):
        many.attention(softmax_maps(rng, 1, MANY, 4, 4), layer=layer)
    weights = softmax_maps(rng, 1, 3, 6, 6)
    weights[0, 1] = np.nan
    weights[0, 2, 3, 2:] = np.nan
    odd = Trainer(one.daemon, "odd")
    for step in (0, 1):
        odd.attention(weights, step=step, module=MARKED, labels=[MARKED] * 6)
    for job in ("many", "odd"):
        wait_until(lambda: one.api("maps", job=job, size=2, head=0, or_null=1), "its maps")  # noqa: B023
    return one


def test_four_thousand_heads_are_drawn_as_one_comes_to_them(strange, page):
    for view in ("model", "layer"):
        page.open(strange, f"#/{view}?job=many").ready()
        thumbs_drawn(page, 1)
        assert page.count(".thumbs canvas") < page.count(".thumb-tile")
        page.screenshot(f"many-{view}-1440-light")
    page.open(strange, "#/head?job=many&head=1023").ready()
    assert page.texts(".head-toggle") == ["1023"], "a list has the others"
    page.choose("head to add", "7")
    wait_until(lambda: page.texts(".head-toggle") == ["7", "1023"], "another head")


def test_numbers_of_a_thousand_heads_are_drawn_as_one_comes_to_them(strange, page):
    page.open(strange, "#/layer?job=many").ready()
    wait_until(lambda: len(page.rows()) == 64, "the first rows")
    assert page.js("return document.querySelector('table').ariaRowCount") == str(MANY + 1)
    assert page.count("svg rect.bar") == 32
    assert f"the first 32 of {MANY} heads, together" in page.text("main")
    page.js("const box = document.querySelector('.scroll'); box.scrollTop = box.scrollHeight")
    wait_until(lambda: [row[0] for row in page.rows()] == [str(head) for head in range(128)], "the next rows")
    page.js("[...document.querySelectorAll('th button')].find((one) => one.textContent === 'confidence').click()")
    (live,) = strange.api("live", job="many", stack="decoder", layer=0, site="self")
    most = np.argsort(-np.array(live["heads"]["confidence"]), kind="stable")[:64]
    assert [int(row[0]) for row in page.rows()] == list(most) and page.js("return document.querySelector('.scroll').scrollTop") == 0
    assert page.js("return document.querySelector('[aria-sort]').textContent + document.querySelector('[aria-sort]').ariaSort") == "confidencedescending"


def test_numbers_that_only_some_layers_have_get_columns_there(own_site, page):
    one, rng = own_site(), np.random.default_rng(5)
    trainer = Trainer(one.daemon, JOB)
    always = ["entropy_normalized", "first_token", "previous_token", "local_mass", "confidence"]
    of_output = ["importance_gradient", "output_norm", "write_norm", "residual_share"]
    q = rng.normal(size=(1, 2, 8, 4)).astype(np.float32)
    output = dict(dout=q, wo_r=rng.normal(size=(2, 3, 4)).astype(np.float32), x_norm=np.full((1, 8), 2, np.float32))
    tokens = np.tile(np.arange(4, dtype=np.int32), 2)[None]

    def headers():
        return page.texts("main table th")

    trainer.attention(softmax_maps(rng, 1, 2, 6, 6), layer=0)
    trainer.qk(q, q, v=q, scale=0.5, causal=True, tokens=tokens, layer=1, **output)
    wait_until(lambda: len(one.api("live", job=JOB, or_null=1) or []) == 2, "both layers")
    page.open(one, f"#/layer?job={JOB}&stack=decoder&layer=0&site=self").ready()
    assert headers() == ["head", "role", *always, "importance"]
    page.open(one, f"#/layer?job={JOB}&stack=decoder&layer=1&site=self").ready()
    assert headers() == ["head", "role", *always, "max_logit", "importance", *of_output, "induction"]
    heads = one.api("live", job=JOB, layer=1)[0]["heads"]
    title = page.js("return [...document.querySelectorAll('.figure')].find((one) => one.textContent.includes('Importance of')).innerText")
    assert "by gradients" in title and "importance_gradient: what the loss makes of it" in title
    bars = [text for text in page.texts(".grid svg text") if text.startswith("head ")]
    assert bars == [f"head {head}" for head in np.argsort(heads["importance_gradient"])[::-1]], "the better score is shown"
    assert [row[-5:] for row in page.rows()] == [[shown(heads[name][h]) for name in (*of_output, "induction")] for h in range(2)]
    trainer.qk(q, q, v=q, scale=0.5, causal=True, step=1, layer=1, **output)  # without tokens
    wait_until(lambda: [row[-1] for row in page.rows()] == ["–", "–"], "the next message")
    assert headers()[-1] == "induction", "a column that is there stays"


def test_maps_of_a_thousand_heads_come_in_as_few_cells_as_are_shown(strange, page):
    page.open(strange, "#/layer?job=many").ready()
    thumbs_drawn(page, 1)
    maps = page.js("return performance.getEntriesByType('resource').map((one) => one.name).filter((url) => url.includes('/maps?'))")
    parts = [url for url in maps if "size=16" in url]
    assert len(parts) == MANY // 256 and len(maps) == len(parts) + 2, "beside these the mean and the largest over the heads"


@pytest.mark.parametrize("view", ["model", "layer", "head"])
def test_names_with_markup_and_maps_with_nan_are_drawn_soundly(strange, page, view):
    page.open(strange, f"#/{view}?job=odd&head=2", width=390, dark=True).ready()
    assert page.js("return [...document.querySelectorAll('main b, main i')].filter((e) => e.textContent === 'bold').length") == 0
    page.js("document.querySelectorAll('main .why').forEach((advice) => advice.remove())")  # which may speak of NaN
    assert "undefined" not in page.text("main") and "NaN" not in page.text("main")
    assert page.fits()


def test_the_scale_of_thumbnails_covers_most_cells(site, page):
    page.open(site, f"#/model?job={JOB}").ready()
    scale = alone(page, "thumb_paint.js", """const values = new Float32Array(10000).fill(0.01); values.fill(0.2, 0, 150); values.fill(1, 0, 20);
        return m.scaleOfThumbs({values})""")
    assert scale[0] == 0 and 0.2 <= scale[1] < 0.21 and scale[2] == 1


# ------------------------------------------------------------------------------------- projection matrices

def described(page, figure, *keys):
    """The text about the cell that keys lead to, from the first one."""
    page.keys(f".{figure} svg[tabindex]", *keys)
    return page.text("#tooltip")


def test_matrices_of_a_layer_are_compared_and_decomposed(site, page):
    where = "&".join(f"{name}={value}" for name, value in {**LAYER, "site": "cross"}.items())
    weights = site.api("live", job=JOB, tier="weights", **{**LAYER, "site": "cross"})[0]["weights"]
    page.open(site, f"#/layer?job={JOB}&{where}").ready()
    page.choose("matrix", "wv")
    assert described(page, "alike", "ArrowRight", "ArrowRight") == \
        f"key heads 0 and 2: cosine {shown(weights['wv']['head_correlation'][0][2])}"
    page.choose("spectrum of", "wv_wo")
    heads = {name: values[1] for name, values in weights["wv_wo"]["heads"].items()}
    assert described(page, "spectra", "ArrowDown", "ArrowRight") == \
        f"head 1: singular value 2 is {shown(heads['singular_values'][1])}; norm {shown(heads['spectral_norm'])}, " \
        f"stable rank {shown(heads['stable_rank'])}, effective rank {shown(heads['effective_rank_entropy'])}, " \
        f"log10 of the condition {shown(heads['condition_number'])}"
    page.screenshot("matrices-1440-light")
    page.open(site, f"#/layer?job={JOB}&{where}&at=step{past(site, 3)}").ready()
    assert page.js("return [...document.querySelectorAll('.alike, .spectra')].map((e) => e.hidden)") == [True, True]


def test_newer_matrices_replace_older_ones_and_no_number_of_attention(own_site, page):
    one, rng = own_site(), np.random.default_rng(4)
    trainer = Trainer(one.daemon, JOB)
    trainer.attention(softmax_maps(rng, 1, 2, 6, 6), step=3, **LAYER)
    given = dict(heads=2, head_dim=4, **LAYER)
    page.open(one, f"#/layer?job={JOB}").ready()
    assert page.js("return document.querySelector('.alike').hidden")
    for step in (4, 5):
        trainer.projections(wq=rng.normal(size=(8, 8)).astype(np.float32), step=step, **given)
        wait_until(lambda: f"step {step}" in page.text(".alike .sub"), "what came")
    assert page.texts("select[aria-label='spectrum of'] option") == ["W_q"]
    assert "step 3" in page.texts(".figure .sub")
    assert one.api("live", job=JOB)[0]["tier"] == "attention"


def test_numbers_of_matrices_are_drawn_over_the_run(own_site, page):
    """Of windows in which matrices came; also after a restart, when no message is in memory."""
    one, rng = own_site("window.unit=step"), np.random.default_rng(4)
    trainer, norms = Trainer(one.daemon, JOB), {}
    for step in range(12):
        trainer.attention(softmax_maps(rng, 1, 2, 6, 6), step=step, **LAYER)
        if step % 3 == 1:
            given = {name: rng.normal(size=(8, 8)) for name in ("wq", "wk")}
            trainer.projections(**given, heads=2, head_dim=4, step=step, **LAYER)
            norms[step] = [np.linalg.norm(given["wq"][4 * h:4 * h + 4].T @ given["wk"][4 * h:4 * h + 4], 2) for h in range(2)]
    trainer.event("bye", step=11)
    one.wait_ended(JOB)

    def drawn():
        page.choose("number of it", "spectral_norm")
        wait_until(lambda: "wq_wk.spectral_norm" in page.text("#weights h2 ~ .stack .figure h2"), "the norms")
        page.keys("#weights .series svg[tabindex]", "End")
        assert page.texts("select[aria-label='matrix over the run'] option:checked") == ["W_qᵀ W_k, compares"]
        return page.text("#tooltip")

    page.open(one, f"#/layer?job={JOB}").ready()
    told = drawn()
    assert all(f"head {head} {shown(norms[10][head])}" in " ".join(told.split()) for head in range(2))
    assert "step 10" in told
    assert page.texts("select[aria-label='matrix over the run'] option") == ["W_qᵀ W_k, compares", "W_q", "W_k"]
    wait_until(lambda: "step 10" in page.text(".spectra .sub"), "the newest")
    page.screenshot("weights-1440-light")
    assert page.texts("optgroup[label='of matrices'] option")[:2] == ["wq_wk.spectral_norm", "wq_wk.condition_number"]
    assert one.daemon.stop() == 0
    one.daemon.start()
    page.open(one, f"#/layer?job={JOB}").ready()
    assert drawn() == told
    page.choose("matrix over the run", "wk")
    wait_until(lambda: "wk.spectral_norm" in page.text("#weights h2 ~ .stack .figure h2"), "the norms of another matrix")
    page.open(one, f"#/model?job={JOB}&metric=wq.spectral_norm").ready()
    assert "largest singular value of the head's W_q" in page.text("main") and "No layer has" not in page.text("main")


class Letters(torch.nn.Module):
    """Two layers of causal attention over letters."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(26, 32)
        self.layers = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
        self.out = torch.nn.Linear(32, 26)

    def forward(self, letters):
        seen = torch.triu(torch.full((letters.shape[1],) * 2, float("-inf")), 1)
        return self.out(self.layers(self.embed(letters), mask=seen))


def train_by_rows(site, steps=10):
    model = Letters()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    with attnd.watch(model, job=JOB, endpoint=site.daemon.endpoint("ingest"), every=1, tier="rows", wait=60.0, linger=60.0,
                     labels=list("abcdefghijklmnopqrstuvwxyz")):
        for step in range(steps):
            letters = torch.randint(26, (2, 40), generator=torch.Generator().manual_seed(step))
            torch.nn.functional.cross_entropy(model(letters)[:, 1:].flatten(0, 1), letters[:, :-1].flatten()).backward()
            optimizer.step()
            optimizer.zero_grad()


def test_a_training_that_sends_rows_alone_has_maps_everywhere(own_site, page):
    """Of the newest message and of windows; the page says that their cells were made in the training."""
    one = own_site("window.unit=step", "window.length=5", "window.every=5", "maps.size=16", "maps.every=0s")
    train_by_rows(one)
    one.wait_ended(JOB)
    assert {map_["tier"] for map_ in one.api("live", job=JOB)} == {"rows"}
    page.open(one, f"#/head?job={JOB}&{PLACE}&head=2").ready()
    wait_until(lambda: "Newest map" in page.text(".picture header"), "the map of the head")
    assert re.search(r"map of step 9, sample [01] of 2, pooled to 16 × 16 by the training", page.text(".picture header"))
    page.screenshot("head-of-rows-1440-light")
    page.open(one, f"#/layer?job={JOB}&{PLACE}").ready()
    wait_until(lambda: any("by the training, 40 queries" in text for text in page.texts(".figure header")), "the maps of the layer")
    page.screenshot("layer-of-rows-1440-light")
    page.open(one, f"#/model?job={JOB}").ready()
    thumbs_drawn(page, 2)
    page.screenshot("model-of-rows-1440-light")
    page.open(one, f"#/head?job={JOB}&{PLACE}&head=2&at=step{past(one, 0)}").ready()
    wait_until(lambda: "kept in 16 × 16 cells, window of step 0 to 4" in page.text(".picture header"), "the map of the window")
    assert page.complaints() == []