# SPDX-License-Identifier: MIT
"""What a head does, since when, and what it did before, as the pages of a head and of a layer say it."""
import pytest
from conftest import Site
from harness import Trainer, wait_until
from test_roles import train  # of e2e

STEPS = 24
ROLES = {
    0: lambda step: "mixed" if step < 4 else "previous_token" if step < 14 else ("induction", 0.83),
    1: lambda step: "mixed" if step == 20 else "first_token",
    2: lambda step: "uniform",
    3: lambda step: ("first_token", "diagonal")[step // 2 % 2] if step < 22 else "previous_token",
}


@pytest.fixture
def course():
    """The site, and what goes on with the run."""
    site = Site("window.unit=step", "window.length=1", "window.every=1", "window.timeout=1h")
    trainer = Trainer(site.daemon, "gpt")

    def go_on(first, steps):
        train(site.daemon, [[role(step) for role in ROLES.values()] for step in range(first, first + steps)],
              trainer=trainer, first=first)

    def stored(windows):
        layers = (site.api("layers", job="gpt", or_null=1) or {"layers": []})["layers"]
        return layers and layers[0]["tracks"][0]["windows"] >= windows

    yield site, go_on, lambda windows: wait_until(lambda: stored(windows), f"{windows} windows")
    site.close()


def facts(page):
    """The facts beside the series, by name."""
    return dict(zip(page.texts(".facts dt"), page.texts(".facts dd")))


def test_the_page_of_a_head_says_since_when(course, page):
    site, go_on, wait_for = course
    go_on(0, STEPS)
    wait_for(STEPS - 1)  # the newest window is open
    expected = {
        0: dict(role="induction since step 14 (0.84 of its weight)", before="mixed until step 3, previous_token until step 13"),
        1: dict(role="first_token since step 0 or before (0.83 of its weight), in 22 of 23 windows", before=None),
        2: dict(role="uniform since step 0 or before (entropy_normalized 1)", before=None),
    }
    for number, want in expected.items():
        page.open(site, f"#/head?job=gpt&layer=0&head={number}").ready()
        wait_until(lambda: "role" in facts(page), "the role")
        said = facts(page)
        assert {name: said.get(name) for name in want} == want
        assert "pattern" not in said, "the newest message says the same"
    page.open(site, "#/head?job=gpt&layer=0&head=0").ready()
    wait_until(lambda: "role" in facts(page), "the role")
    page.screenshot("role-of-a-head-1440-light")


def test_the_page_of_a_layer_says_what_emerged(course, page):
    site, go_on, wait_for = course
    go_on(0, 15)
    wait_for(14)
    page.open(site, "#/layer?job=gpt&layer=0").ready()
    wait_until(lambda: page.texts("td.text")[:3] == ["induction", "first_token", "uniform"],
               "the newest patterns: of the first window of a role nobody knows yet whether it stays")
    go_on(15, STEPS - 15)
    wait_for(STEPS - 1)
    wait_until(lambda: page.texts("td.text")[:3] == ["induction since step 14", "first_token", "uniform"],
               "since when, without loading the page again")
    page.screenshot("roles-of-a-layer-1440-light")


def test_changes_beyond_those_that_are_told_are_hinted_at(course, page):
    site, go_on, wait_for = course
    go_on(0, STEPS)
    wait_for(STEPS - 1)
    page.open(site, "#/head?job=gpt&layer=0&head=3").ready()
    wait_until(lambda: "before" in facts(page), "the earlier roles")
    assert facts(page)["before"].startswith("…, ") and facts(page)["before"].count("until") == 7
