# SPDX-License-Identifier: MIT
"""Every view on a real run: the numbers that stand there are the API's, and the API's are those of the summaries."""
import math
import re
import sqlite3
import urllib.parse
import urllib.request
import xml.dom.minidom

import attnd
import numpy as np
import pytest
from conftest import JOB
from harness import Trainer, softmax_maps, wait_until


def shown(number):
    """As the page writes it: four digits, or three and an exponent, without zeros at the end."""
    if number is None or math.isnan(number):
        return "–"
    if number and not 1e-3 <= abs(number) < 1e5:
        digits, exponent = f"{number:.2e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent):+d}"
    return np.format_float_positional(float(f"{number:.4g}"), trim="-")


def where(live):
    return f"{live['stack']}.{live['layer']}.{live['site']}"


def test_the_api_has_the_numbers_of_the_summaries(site):
    control = attnd.Control(site.daemon.endpoint("control"))
    by_layer = {where(summary): summary for summary in control.summary(JOB)}
    assert len(by_layer) == 6
    for summary in site.api("summary", job=JOB):
        for metric in ("entropy_normalized", "first_token", "variance"):
            assert summary["heads"][metric] == by_layer[where(summary)]["heads"][metric]
    grid = site.api("grid", job=JOB)
    for layer in grid["layers"]:
        assert [head[-1] for head in layer["values"]] == by_layer[where(layer)]["heads"]["entropy_normalized"]["mean"]
    control.close()


def test_few_requests_go_before_the_first_numbers(site, page):
    """Each costs a round trip, and none is put twice: a question that is put before the page's modules run is theirs."""
    page.open(site, f"#/overview?job={JOB}").ready()
    urls = page.js("const data = performance.getEntriesByName('data')[0].startTime; return performance.getEntriesByType('resource')"
                   ".filter((e) => e.startTime < data && !e.name.endsWith('icon.svg')).map((e) => e.name)")
    names = [urllib.parse.urlsplit(url).path for url in urls]
    assets = [name for name in names if name.startswith("/assets/")]
    assert sorted(assets) == ["/assets/d3.min.js", "/assets/main.js"]
    assert len(names) - len(assets) <= 11 and names.count("/api/v1/jobs") == names.count("/api/v1/metrics") == 1
    assert names.index("/api/v1/jobs") < len(assets) + 4, "before the modules run"
    asked = [url for url in urls if "/api/v1/" in url]
    assert len(asked) == len(set(asked)), "a question that is put early is another than that of the modules"
    assert names.index("/api/v1/grid") < names.index("/api/v1/rules"), "the longest answer is asked for before the modules run"
    asked = "return performance.getEntriesByType('resource').map((e) => e.name).filter((name) => name.includes('/api/v1/summary?'))"
    wait_until(lambda: page.js(asked), "the last windows")
    assert ["metrics=entropy_normalized" in name for name in page.js(asked)] == [True], "all numbers of a large model are megabytes"


@pytest.mark.parametrize("width", [1200, 1280, 1440])
def test_the_header_has_one_line(site, page, width):
    page.open(site, f"#/overview?job={JOB}", width=width).ready()
    tops, bottoms = page.js("const boxes = [...document.querySelectorAll('.bar > :not(h1, .grow)')].map((e) => e.getBoundingClientRect());"
                            "return [boxes.map((box) => box.top), boxes.map((box) => box.bottom)]")
    assert max(tops) < min(bottoms) and "step 59" in page.text("#where")
    assert page.fits()


NOTES_THE_FIRST_QUESTION = """const ask = window.fetch;
window.fetch = function (...given) { window.askedWhile ??= document.readyState; return ask.apply(this, given); };"""


def test_the_frame_of_the_page_waits_for_nothing(site, page):
    with urllib.request.urlopen(f"http://127.0.0.1:{site.port}/") as answer:
        named = set(re.findall(r'(?:src|href)="(/[^"]*)"', answer.read().decode()))
    assert named == {"/assets/icon.svg"}, "other files compete with the first paint"
    with page.with_script(NOTES_THE_FIRST_QUESTION):
        page.open(site, f"#/overview?job={JOB}").ready()
    assert page.js("return askedWhile") != "loading", "questions come after the frame is there"


def test_the_overview_asks_for_the_numbers_that_it_shows(site, page):
    asked = "return performance.getEntriesByType('resource').map((e) => e.name).filter((name) => name.includes('/api/v1/live?'))"
    page.open(site, f"#/overview?job={JOB}").ready()
    assert ["metrics=entropy_normalized" in name for name in page.js(asked)] == [True] * 2  # of attention and of matrices
    page.choose("metric", "confidence")
    wait_until(lambda: len(page.js(asked)) == 4, "the other metric")
    assert all("metrics=entropy_normalized%2Cconfidence" in name for name in page.js(asked)[2:])
    page.js("location.hash = arguments[0]", f"#/head?job={JOB}&stack=decoder&layer=1&site=self&head=3")
    wait_until(lambda: len(page.js(asked)) == 6, "all numbers of one layer")
    assert all("layer=1" in name and "metrics=" not in name for name in page.js(asked)[4:])
    (live,) = site.api("live", job=JOB, stack="decoder", layer=1, site="self")
    wait_until(lambda: shown(live["heads"]["mean_distance"][3]) in page.text(".numbers table"), "its numbers")


def test_the_numbers_of_the_chosen_head_are_asked_for(own_site, page):
    own = own_site()
    Trainer(own.daemon, "goes-on").attention(softmax_maps(np.random.default_rng(5), 1, 2, 8, 8), step=0)
    wait_until(lambda: own.api("live", job="goes-on", or_null=1), "a run that goes on")
    page.open(own, "#/overview?job=goes-on&cell=decoder.0.self.h1").ready()
    wait_until(lambda: "importance" in page.text(".one-head"), "the chosen head's")


def test_the_overview_colours_each_head_by_its_number(site, page):
    page.open(site, f"#/overview?job={JOB}").ready()
    lives = site.api("summary", job=JOB)  # the run has ended: of its last window
    values = {f"{where(live)}.h{head}": value for live in lives for head, value in enumerate(live["heads"]["entropy_normalized"]["mean"])}
    cells = page.count(".heat .cell")
    assert cells == len(values) == 24
    order = sorted(lives, key=lambda live: (["encoder self", "decoder self", "decoder cross"].index(f"{live['stack']} {live['site']}"), live["layer"]))
    page.choose("colour", "natural")
    bright = page.js("return [...document.querySelectorAll('.heat .cell')].map((c) => d3.lab(c.getAttribute('fill')).l)")
    drawn = [values[f"{where(live)}.h{head}"] for live in order for head in range(4)]
    by_value = np.array(bright)[np.argsort(drawn)]
    span = max(drawn) - min(drawn)  # how far apart the heads are is the training's affair
    assert np.diff(by_value).min() > -0.5 and by_value[-1] > by_value[0] + 60 * span, "viridis is the brighter the more"
    page.choose("colour", "own")
    page.keys(".heat svg", "ArrowRight", "ArrowDown", "ArrowRight")
    name = page.text(".columns > .stack:last-child h2")
    assert name == "encoder.1.self.h1" and page.text(".big") == shown(values[name])
    assert f"{name}: {shown(values[name])}" in page.readout()
    assert "cell=encoder.1.self.h1" in page.hash()
    page.keys(".heat svg", "Enter")
    wait_until(lambda: "#/head" in page.hash(), "the head")


def test_the_slider_goes_through_the_run(site, page):
    page.open(site, f"#/overview?job={JOB}&cell=decoder.0.self.h2").ready()
    grid = site.api("grid", job=JOB)
    series = next(layer for layer in grid["layers"] if where(layer) == "decoder.0.self")["values"][2]
    for at in (0, 5, len(series) - 1):
        page.slide(at)
        assert page.text(".big") == shown(float(np.float32(series[at])))
        assert f"step {grid['windows']['last'][at]}" in page.text(".time") and f"at=step{grid['windows']['last'][at]}" in page.hash()
    page.open(site, f"#/overview?job={JOB}&cell=decoder.0.self.h2&at=step{grid['windows']['last'][3]}").ready()
    assert page.text(".big") == shown(float(np.float32(series[3])))


def test_metric_and_statistic_can_be_chosen(site, page):
    page.open(site, f"#/overview?job={JOB}").ready()
    page.choose("metric", "first_token")
    wait_until(lambda: "first_token" in page.text(".heat header"), "the other metric")
    page.choose("statistic", "p90")
    wait_until(lambda: "statistic=p90" in page.hash(), "the statistic")
    wait_until(lambda: "each head's own range" in page.text(".legend"), "distances, unless another colour is chosen")
    page.choose("colour", "natural")
    wait_until(lambda: page.texts(".legend .tick text")[-1:] == ["1"], "the natural range")
    page.choose("colour", "auto")
    wait_until(lambda: page.texts(".legend .tick text")[-1:] not in ([], ["1"]), "the range of the run")
    page.choose("colour", "own")


def test_a_head_has_its_series_its_numbers_and_its_map(site, page):
    page.open(site, f"#/head?job={JOB}&stack=decoder&layer=1&site=self&head=3").ready()
    history = site.api("history", job=JOB, stack="decoder", layer=1, site="self", head=3, metric="entropy_normalized")
    page.keys(".figure.wide svg", "End")
    last, text = history["values"], page.text("#tooltip")
    names = {"mean": "mean", "median": "p50", "min": "min", "max": "max", "p10": "p10", "p90": "p90"}
    numbers = [f"{name} {shown(last[key][-1])}" for name, key in names.items()]
    (loss,) = site.api("log", job=JOB)["series"]  # the example logs it
    assert f"step {history['windows']['last'][-1]}: " + ", ".join([*numbers, f"loss {shown(loss['value'][-1])}"]) == text
    (live,) = site.api("live", job=JOB, stack="decoder", layer=1, site="self")
    rows = dict(row.split("\t")[:2] for row in page.text("table tbody").splitlines())
    for metric in ("entropy", "first_token", "importance", "variance"):
        assert rows[metric] == (shown(live["heads"][metric][3]) or rows[metric])
    (role,) = site.api("roles", job=JOB, stack="decoder", layer=1, site="self", head=3)["heads"]
    assert f"role {role['role']}" in " ".join(page.text(".facts").split())
    (summary,) = site.api("summary", job=JOB, stack="decoder", layer=1, site="self")
    drift = summary["drift"]["entropy_normalized"]
    moved = f"{shown(drift['delta'][3])}, shift {shown(drift['shift'][3])}"
    wait_until(lambda: moved in page.text(".facts"), "the distance from the baseline")
    maps = site.api("maps", job=JOB, stack="decoder", layer=1, site="self", head=3)
    page.keys(".picture svg", "ArrowDown", "ArrowDown")
    assert page.text("#tooltip").endswith(shown(maps["values"][0][2][0]) or "")
    page.driver.find_element("partial link text", "previous head").click()
    wait_until(lambda: "head=2" in page.hash(), "the other head")


def test_a_layer_has_all_its_heads(site, page):
    page.open(site, f"#/layer?job={JOB}&stack=encoder&layer=1&site=self").ready()
    assert page.texts(".grid.small h2") == [f"head {head}" for head in range(4)]
    together = [title for title in page.texts(".figure h2") if "head" in title and "over" in title or "weighted" in title]
    assert together == ["mean over heads", "largest over heads"], "sum and weighted mean look like the mean: the API has them"
    for kind in ("sum", "importance"):
        assert site.api("maps", job=JOB, stack="encoder", layer=1, site="self", kind=kind)["kind"] == kind
    (live,) = site.api("live", job=JOB, stack="encoder", layer=1, site="self")
    ranking = np.argsort(live["heads"]["importance"])[::-1]
    bars = [text for text in page.texts(".grid svg text") if text.startswith("head ")]
    assert bars == [f"head {head}" for head in ranking]
    assert "importance: variance and entropy score, sums to 1" in page.texts(".grid svg text")
    page.js("[...document.querySelectorAll('th button')].find((b) => b.textContent === 'entropy_normalized').click()")
    order = [int(text) for text in page.texts("tbody tr td:first-child")]
    assert order == list(np.argsort(live["heads"]["entropy_normalized"])[::-1])


def test_the_model_has_flow_and_rollout(site, page):
    page.open(site, f"#/model?job={JOB}").ready()
    assert [text.split(":")[0] for text in page.texts(".figure h2") if ": " in text] == ["Encoder", "Cross", "Decoder"]
    assert page.count("circle.dot") == 24
    rollout = site.api("rollout", job=JOB, stack="decoder")
    assert f"layers 0 to {rollout['layers'][-1]}, step {rollout['step']}" in page.text(".stack > .grid:last-child header")
    page.keys(".stack > .grid:last-child svg", "ArrowDown", "ArrowDown")
    assert page.text("#tooltip").endswith(shown(rollout["values"][-1][2][0]) or "")


def test_tokens_show_where_a_query_looks(site, page):
    page.open(site, f"#/tokens?job={JOB}&stack=decoder&layer=0&site=self&head=1&query=7").ready()
    values = np.array(site.api("maps", job=JOB, stack="decoder", layer=0, site="self", head=1)["values"][0], float)
    row = values[7][:8][values.any(0)[:8]]  # the keys it may see
    lengths = np.array(page.js("return [...document.querySelectorAll('.bar[data-key]')].map((b) => b.width.baseVal.value)"))
    np.testing.assert_allclose(lengths / lengths.max(), np.maximum(row, 0.5 / lengths.max() * max(row)) / max(row), atol=0.01)
    page.keys(".time input", "ArrowRight")
    wait_until(lambda: "query=8" in page.hash(), "the next query")


def test_two_runs_are_compared(site, page):
    page.open(site, f"#/runs?job={JOB}").ready()
    a, b = (run["run"] for run in site.api("runs", job=JOB)["runs"])
    compared = site.api("compare", job=JOB, run=a, job_b=JOB, run_b=b)["heads"]
    first = page.text("tbody tr").split()
    assert first[0] == f"{where(compared[0])}.h{compared[0]['head']}" and first[1] == shown(compared[0]["distance"])


def test_pictures_are_saved_as_they_stand(site, page):
    page.open(site, f"#/overview?job={JOB}").ready()
    page.js("window.saved = []; URL.createObjectURL = (blob) => { window.saved.push(blob); return 'blob:none'; };"
            "HTMLAnchorElement.prototype.click = function () { window.named = this.download; };"
            "document.querySelector('.heat .tools button').click()")
    text = page.driver.execute_async_script("const done = arguments[0]; window.saved[0].text().then(done)")
    document = xml.dom.minidom.parseString(text)
    texts = [node.firstChild.data for node in document.getElementsByTagName("text") if node.firstChild]
    assert "decoder, cross attention" in texts and any("entropy_normalized" in one for one in texts)
    assert len(document.getElementsByTagName("rect")) > 24 and "class=" not in text
    assert page.js("return window.named").endswith(".svg")


def test_what_comes_shows_at_once_and_a_lost_connection_heals(own_site, page):
    site = own_site("http.live_interval=0s")
    page.open(site)
    line = f'with attnd.watch(model, job="my-model", address="{site.daemon.directory}") as w:'
    wait_until(lambda: line in page.text("main pre"), "the line that attaches a job to this attnd")
    page.screenshot("empty-1440-light")
    trainer, rng = Trainer(site.daemon, "fresh"), np.random.default_rng(1)
    trainer.attention(softmax_maps(rng, 1, 3, 8, 8), step=1)
    wait_until(lambda: page.texts(".home .run a") == ["fresh"], "the new job")
    page.click(".home .run a")
    wait_until(lambda: page.count(".heat .cell") == 3, "its heads")
    page.keys(".heat svg", "ArrowRight")
    trainer.attention(np.full((1, 3, 8, 8), 1 / 8, np.float32), step=2)
    wait_until(lambda: page.text(".big") == "1", "the newest number")
    site.daemon.stop()
    wait_until(lambda: "attnd has not answered since" in page.text("#lost"), "that attnd does not answer")
    assert page.text(".big") == "1" and page.texts("main .error") == [], "said once, over what came before"
    page.screenshot("stopped-1440-light")
    site.daemon.start()
    wait_until(lambda: page.text("#connection") == "connected" and page.js("return document.getElementById('lost').hidden"), "that it is back")
    trainer = Trainer(site.daemon, "second")
    trainer.attention(softmax_maps(rng, 1, 3, 8, 8), step=1)
    wait_until(lambda: "second" in page.text("#job"), "the job of after the gap")
    page.driver.get("about:blank")
    page.complaints()  # of the time without a connection


def test_a_damaged_history_is_said_over_all_views(own_site, page):
    """attnd repairs it once; when a question meets damage again, it stays."""
    site = own_site("history.commit=20ms")
    daemon, rng = site.daemon, np.random.default_rng(1)
    page.open(site)
    for times, said in (1, "of its windows could not be read"), (2, "The history is damaged: "):
        trainer = Trainer(daemon, f"job{times}")
        trainer.attention(softmax_maps(rng, 1, 3, 8, 8), step=1)
        trainer.event("epoch_end", epoch=0)
        daemon.settled(2 * times)
        wait_until(lambda: daemon.stats()["stored"] and not daemon.stats()["history"]["waiting"], "the history")
        assert said not in page.text("#history")
        with sqlite3.connect(daemon.history_path, timeout=20) as database:
            assert database.execute("UPDATE states SET data = x'0102'").rowcount > 0
        with pytest.raises(RuntimeError):
            daemon.call("history", job=f"job{times}")
        wait_until(lambda: said in page.text("#history"), said)
    page.complaints()  # of what could not be read


def test_strange_names_and_addresses_are_only_text(site, page):
    for address in ("#/nowhere", "#/head?job=nobody&layer=99", f"#/head?job={JOB}&stack=%3Cb%3E&layer=x&head=-5", "#/overview?job=%3Cscript%3Ealert(1)%3C/script%3E",
                    f"#/overview?job={JOB}&metric=none&at=999&cell=a.b.c", f"#/tokens?job={JOB}&query=1e9"):
        page.open(site, address)
        wait_until(lambda: len(page.text("main")) > 20 and "Loading" not in page.text("main"), address)
    assert page.count("main script") == 0
