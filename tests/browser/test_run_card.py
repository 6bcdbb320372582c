# SPDX-License-Identifier: MIT
"""Runs are people's own on the page: star, name, tags, notes, archive, and deleting, by mouse and by keys."""
import urllib.parse

import pytest
from harness import Trainer, wait_until
from test_access import serious
from test_runs import end, publish, runs_of

SETTINGS = ("window.unit=step", "window.length=1", "window.every=1", "window.rank_grace=0", "http.live_interval=0s")
LONG = "a name of many words that no column has room for, so that it ends in dots"


@pytest.fixture
def three(own_site):
    """Runs that have ended, and one that goes on: (site, {job: digits})."""
    site, runs = own_site(*SETTINGS), {}
    for job in ("first", "second", "goes-on"):
        trainer = Trainer(site.daemon, job)
        publish(trainer, range(3), layers=2)
        runs[job] = trainer.run.hex()
        if job != "goes-on":
            end(site, trainer, 2)
        wait_until(lambda: runs_of(site, job), f"{job} in the history")  # noqa: B023
    return site, runs


def jobs(page):
    return page.texts(".home tbody td.run a")


def stored(site, job):
    return runs_of(site, job)[0]


def press(page, key):
    """Where the focus is, with what the browser itself does for the key."""
    more = dict(Enter=dict(text="\r", windowsVirtualKeyCode=13), Escape=dict(windowsVirtualKeyCode=27))[key]
    for kind in ("keyDown", "keyUp"):
        page.driver.execute_cdp_cmd("Input.dispatchKeyEvent", dict(type=kind, key=key, code=key, **more))


def type_text(page, text):
    page.driver.execute_cdp_cmd("Input.insertText", dict(text=text))


def edit(page, job, runs):
    return f"button[aria-label='edit {job} / {runs[job][:8]}']"


def star(page, job, runs):
    return f"button[aria-label='star {job} / {runs[job][:8]}']"


def test_a_star_a_name_tags_and_notes_are_kept_and_shown(three, page):
    site, runs = three
    page.open(site, "#/").ready()
    wait_until(lambda: sorted(jobs(page)) == ["first", "goes-on", "second"], "the list")
    page.click(star(page, "second", runs))  # by mouse
    wait_until(lambda: stored(site, "second")["star"], "the star")
    wait_until(lambda: page.js("return document.querySelector(arguments[0]).ariaPressed", star(page, "second", runs)) == "true", "that it shows")
    page.js("document.querySelector(arguments[0]).focus()", edit(page, "first", runs))  # by keys
    press(page, "Enter")
    wait_until(lambda: page.count("dialog.card"), "the dialog")
    type_text(page, "exp 1 <b>")
    page.js("document.querySelectorAll('dialog.card input')[1].focus()")
    type_text(page, "b a, b")
    page.js("document.querySelector('dialog.card textarea').focus()")
    type_text(page, "one\ntwo")
    page.screenshot("run-card-dialog-1440-light")
    page.js("document.querySelectorAll('dialog.card input')[0].focus()")
    press(page, "Enter")
    wait_until(lambda: page.count("dialog.card") == 0, "that the dialog closes")
    said = stored(site, "first")
    assert (said["name"], said["tags"], said["notes"], said["star"]) == ("exp 1 <b>", ["a", "b"], "one\ntwo", False)
    wait_until(lambda: "exp 1 <b>" in jobs(page) and "first" not in jobs(page), "the name in the list")
    assert page.texts(".home .tag") == ["a", "b"] and page.fits()
    assert page.js("return document.activeElement.ariaLabel") == f"edit first / {runs['first'][:8]}"
    page.screenshot("run-card-list-1440-light")
    page.open(site, f"#/overview?job=first&run={runs['first']}").ready()
    wait_until(lambda: page.text(".card-line b") == "exp 1 <b>", "the name on the run's page")
    assert page.text(".card-line .notes") == "one\ntwo" and page.texts(".card-line .tag") == ["a", "b"]
    assert page.js("return document.getElementById('run').selectedOptions[0].textContent").startswith("exp 1 <b>: ")
    page.screenshot("run-card-overview-1440-light")
    page.open(site, "#/?search=exp").ready()
    wait_until(lambda: jobs(page) == ["exp 1 <b>"], "that a search finds names")


def test_archived_runs_are_hidden_behind_a_filter(three, page):
    site, runs = three
    page.open(site, "#/").ready()
    wait_until(lambda: len(jobs(page)) == 3, "the list")
    assert page.js("return document.querySelector('.home').previousSibling.querySelector('[type=checkbox]').offsetParent") is None
    page.click(edit(page, "second", runs))
    wait_until(lambda: page.count("dialog.card"), "the dialog")
    page.click("dialog.card .tick input")
    page.click("dialog.card form .buttons button")
    wait_until(lambda: sorted(jobs(page)) == ["first", "goes-on"], "that it is hidden")
    assert stored(site, "second")["archived"]
    page.click(".controls label.pick input[type=checkbox]")
    wait_until(lambda: len(jobs(page)) == 3 and "archived=shown" in page.hash(), "that the filter shows it")
    assert "archived (1)" in page.text(".controls")


def test_a_run_is_deleted_after_it_was_asked_twice(three, page):
    site, runs = three
    page.open(site, f"#/overview?job=first&run={runs['first']}").ready()
    page.click(".card-line .edit")
    wait_until(lambda: page.count("dialog.card .delete"), "the dialog")
    page.click("dialog.card .delete")
    wait_until(lambda: "frees" in page.text("dialog.card"), "what it frees")
    assert "of the history. It cannot be undone." in page.text("dialog.card")
    assert page.js("return document.activeElement.textContent") == "keep it" and stored(site, "first")
    page.screenshot("run-card-delete-1440-light")
    page.click("dialog.card .delete")
    wait_until(lambda: "Deleted: " in page.text("dialog.card"), "that it is done")
    assert runs_of(site, "first") == [] and page.readout().startswith("Deleted: ")
    press(page, "Enter")
    wait_until(lambda: page.count("dialog.card") == 0 and page.hash() in ("#/", "#/home"), "the list")
    wait_until(lambda: sorted(jobs(page)) == ["goes-on", "second"], "that it has gone")
    page.click(edit(page, "goes-on", runs))
    wait_until(lambda: page.count("dialog.card .delete"), "the dialog")
    page.click("dialog.card .delete")
    wait_until(lambda: "its training goes on" in page.text("dialog.card"), "why it is not deleted")
    assert any("409" in text for text in page.complaints())  # the browser tells of it
    press(page, "Escape")
    wait_until(lambda: page.count("dialog.card") == 0, "that Escape closes it")


def test_a_phone_has_it_too(three, page):
    site, runs = three
    site.daemon.call("run.set", job="first", run=runs["first"], name=LONG, tags=["tag"], star=True, notes="notes\n" * 40)
    page.open(site, "#/", width=390, height=844).ready()
    wait_until(lambda: LONG in jobs(page), "the name")
    assert page.fits()
    page.screenshot("run-card-list-390-light")
    page.click(edit(page, "first", runs))
    wait_until(lambda: page.count("dialog.card"), "the dialog")
    assert page.fits() and page.js("return document.querySelector('dialog.card').getBoundingClientRect().right") <= 390
    page.screenshot("run-card-dialog-390-light")
    page.open(site, "#/overview?" + urllib.parse.urlencode(dict(job="first", run=runs["first"])), width=390, height=844, dark=True).ready()
    wait_until(lambda: page.text(".card-line b") == LONG, "the name on the run's page")
    assert page.fits()
    page.screenshot("run-card-overview-390-dark")


def test_list_and_dialog_can_be_read_out(three, page):
    site, runs = three
    page.open(site, "#/").ready()
    wait_until(lambda: len(jobs(page)) == 3, "the list")
    assert serious(page) == []
    page.click(edit(page, "first", runs))
    wait_until(lambda: page.count("dialog.card"), "the dialog")
    assert serious(page) == []
