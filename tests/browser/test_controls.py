# SPDX-License-Identifier: MIT
"""Everything that can be set on the overview and in the header, by mouse and by keys, and that it is in the address."""
import numpy as np
from conftest import JOB
from harness import wait_until
from test_page import shown, where


def pick(page, selector, value):
    page.js("const s = document.querySelector(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))", selector, value)


NOTES_THE_FIRST_THEME = "requestAnimationFrame(() => setTimeout(() => { window.firstTheme = document.documentElement.dataset.theme; }));"


def test_theme_and_colours_are_kept(site, page):
    page.open(site, f"#/overview?job={JOB}").ready()
    before = page.js("return document.querySelector('.heat .cell').getAttribute('fill')")
    pick(page, "#theme", "dark")
    assert page.js("return document.documentElement.dataset.theme") == "dark"
    pick(page, "#color-map", "cividis")
    wait_until(lambda: page.js("return document.querySelector('.heat .cell')?.getAttribute('fill')") not in (None, before), "other colours")
    with page.with_script(NOTES_THE_FIRST_THEME):
        page.open(site, f"#/overview?job={JOB}").ready()
    assert page.js("return firstTheme") == "dark", "the first frame has it"
    assert page.js("return [document.documentElement.dataset.theme, document.getElementById('color-map').value]") == ["dark", "cividis"]
    pick(page, "#theme", "auto")
    pick(page, "#color-map", "viridis")


def test_the_means_of_layers_stand_beside_them(site, page):
    page.open(site, f"#/overview?job={JOB}").ready()
    means = {where(one): np.mean(one["heads"]["entropy_normalized"]["mean"]) for one in site.api("summary", job=JOB)}
    order = ["encoder.0.self", "encoder.1.self", "decoder.0.self", "decoder.1.self", "decoder.0.cross", "decoder.1.cross"]
    np.testing.assert_allclose([float(text) for text in page.texts(".heat .average")], [means[name] for name in order], rtol=6e-3)


def test_the_time_line_leads_to_a_window(site, page):
    page.open(site, f"#/overview?job={JOB}").ready()
    steps = site.api("grid", job=JOB)["windows"]["step"]
    wait_until(lambda: page.js("return document.querySelector('.timeline svg') !== null"), "the time line")
    page.keys(".timeline svg", "ArrowLeft", "ArrowLeft")
    wait_until(lambda: f"at=step{steps[-2]}" in page.hash(), "the window")
    assert f"step {steps[-2]}" in page.text(".controls .time")
    assert page.readout().startswith(f"step {steps[-2]}\nloss ")
    assert page.js("return document.activeElement.closest('.timeline') !== null"), "the focus stays where it was"
    page.keys(".timeline svg", "Home")
    wait_until(lambda: f"at=step{steps[0]}" in page.hash(), "the first window")


def test_the_run_is_played_to_its_end(site, page):
    at = site.api("grid", job=JOB)["windows"]["last"][-3]
    page.open(site, f"#/overview?job={JOB}&at=step{at}").ready()
    assert "stop" in page.js("const button = document.querySelector('.time button'); button.click(); return button.innerText")
    wait_until(lambda: page.text(".controls .time").endswith("end of the run") and "play" in page.text(".time button"), "the end")
    assert "at=" not in page.hash()


def test_an_older_run_shows_its_own_numbers(site, page):
    old = site.api("runs", job=JOB)["runs"][-1]["run"]
    page.open(site, f"#/overview?job={JOB}&cell=decoder.1.self.h2").ready()
    pick(page, "#run", old)
    wait_until(lambda: f"run={old}" in page.hash(), "the run")
    (layer,) = [one for one in site.api("grid", job=JOB, run=old)["layers"] if where(one) == "decoder.1.self"]
    page.open(site, f"#/overview?job={JOB}&run={old}&cell=decoder.1.self.h2").ready()
    assert page.text(".big") == shown(float(np.float32(layer["values"][2][-1])))
    page.open(site, f"#/head?job={JOB}&run={old}&stack=decoder&layer=1&site=self&head=2").ready()
    page.keys(".figure.wide svg", "End")
    assert page.text("#tooltip").split(",")[0].endswith("mean " + shown(layer["values"][2][-1]))


def test_a_run_is_compared_with_another_by_head(site, page):
    page.open(site, f"#/runs?job={JOB}").ready()
    second = page.texts("tbody tr:nth-child(2) button")[0]
    page.click("tbody tr:nth-child(2) button")
    wait_until(lambda: page.text(".figure h2") == f"entropy_normalized of {second}", "its series")
    assert f"cell={second}" in page.hash()
    page.choose("metric", "first_token")
    wait_until(lambda: page.text(".figure h2") == f"first_token of {second}", "the other metric")
