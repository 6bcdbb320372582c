# SPDX-License-Identifier: MIT
"""What a head does, since when, and what it did before, as the pages of a head and of a layer say it; and by rank."""
import sqlite3

import numpy as np
import pytest
from harness import Trainer, softmax_maps, wait_until
from test_ranks_and_jobs import PARTS  # of e2e
from test_roles import train

from layer_state import LayerState

STEPS = 24
ROLES = {
    0: lambda step: "mixed" if step < 4 else "previous_token" if step < 14 else ("induction", 0.83),
    1: lambda step: "mixed" if step == 20 else "first_token",
    2: lambda step: "uniform",
    3: lambda step: ("first_token", "diagonal")[step // 2 % 2] if step < 22 else "previous_token",
}


@pytest.fixture
def course(own_site):
    """The site, whose disk is later than a page first asks for what it was told of, and what goes on with the run."""
    site = own_site("window.unit=step", "window.length=1", "window.every=1", "window.timeout=1h", "history.commit=2500ms")
    trainer = Trainer(site.daemon, "gpt")

    def go_on(first, steps):
        train(site.daemon, [[role(step) for role in ROLES.values()] for step in range(first, first + steps)],
              trainer=trainer, first=first)

    def stored(windows):
        layers = (site.api("layers", job="gpt", or_null=1) or {"layers": []})["layers"]
        return layers and layers[0]["tracks"][0]["windows"] >= windows

    return site, go_on, lambda windows: wait_until(lambda: stored(windows), f"{windows} windows")


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
        wait_until(lambda: "role" in page.facts(), "the role")
        said = page.facts()
        assert {name: said.get(name) for name in want} == want
    page.open(site, "#/head?job=gpt&layer=0&head=0").ready()
    wait_until(lambda: "role" in page.facts(), "the role")


def test_the_page_of_a_layer_says_what_emerged(course, page):
    site, go_on, wait_for = course
    go_on(0, 15)
    wait_for(14)
    page.open(site, "#/layer?job=gpt&layer=0").ready()
    wait_until(lambda: page.texts("td.text")[:3] == ["previous_token since step 4", "first_token", "uniform"],
               "the roles: of the first window of another one nobody knows yet whether it stays")
    assert [text.split(" ")[0] for text in page.texts(".figure header .sub") if text in ("previous_token", "first_token", "uniform")] \
        [:3] == ["previous_token", "first_token", "uniform"], "the maps say the same"
    go_on(15, STEPS - 15)
    wait_for(STEPS - 1)
    wait_until(lambda: page.texts("td.text")[:3] == ["induction since step 14", "first_token", "uniform"],
               "since when, without loading the page again")
    wait_until(lambda: page.js("return document.querySelector('.time input').max") == str(STEPS - 1), "all windows, likewise")


def test_changes_beyond_those_that_are_told_are_hinted_at(course, page):
    site, go_on, wait_for = course
    go_on(0, STEPS)
    wait_for(STEPS - 1)
    page.open(site, "#/head?job=gpt&layer=0&head=3").ready()
    wait_until(lambda: "before" in page.facts(), "the earlier roles")
    assert page.facts()["before"].startswith("…, ") and page.facts()["before"].count("until") == 7


@pytest.fixture
def world(own_site):
    """A run of 20 ranks; in head 1 of layer 1 rank 18 is another. A hub would have its ranks by node."""
    site = own_site("window.unit=step", "window.length=4", "window.every=2", "window.timeout=1h")
    rng, means = np.random.default_rng(7), np.zeros((20, 2))
    trainers = [Trainer(site.daemon, "job", rank, world=20, run=b"r" * 16) for rank in range(20)]
    for step in range(5):
        for rank, trainer in enumerate(trainers):
            maps = softmax_maps(rng, 1, 2, 16, 16)
            if rank == 18:
                maps[:, 1] = np.eye(16)
            trainer.attention(maps, layer=1, step=step)
            means[rank] = [rng.uniform(2.2, 2.22), 0 if rank == 18 else rng.uniform(2.2, 2.22)]
    for trainer in trainers:
        trainer.event("bye")
    wait_until(lambda: site.api("ranks", job="job", last=5, or_null=1), "the windows")
    return site, means


def ranks(page):
    return page.js("return [...document.querySelectorAll('.ranks li')].map(e => e.innerText.match(/[^\\s\\u2068\\u2069]+/g).join(' '))")


def test_the_odd_rank_of_a_head_is_marked_and_its_node_named(world, page):
    site, means = world
    page.open(site, "#/head?job=job&layer=1&head=1").ready()
    wait_until(lambda: len(ranks(page)) == 16, "the first ranks, and the odd one")
    assert ranks(page)[-1] == "rank 18 0 odd" and ranks(page)[0].startswith("rank 0 2.") and "and 4 more" in page.text("main")
    assert page.texts("h3")[0] == "Entropy by rank, step 2 to 5"
    with sqlite3.connect(site.daemon.history_path + ".parts") as parts:
        parts.executescript(PARTS)
        for rank, mean in enumerate(means):
            state = LayerState(2)
            state.add({"entropy": np.repeat(mean[None, :, None], 4, 2)}, keys=16, rank=rank)
            parts.execute("INSERT INTO nodes VALUES(?, ?, ?)", (rank, bytes([rank]) * 8, f"gpu-node-{rank // 2}"))
            parts.execute("INSERT INTO parts VALUES(NULL, 2, 1, 1, 6, ?, 1, 0, 0, ?)", (rank, state.pack()))
    parts.close()
    for width, dark in ((1440, False), (1440, True), (390, False)):
        page.open(site, "#/head?job=job&layer=1&head=1", width=width, dark=dark).ready()
        wait_until(lambda: ranks(page)[-1:] == ["rank 18 0 odd gpu-node-9"], "its node")
        assert page.fits()
        page.screenshot(f"ranks-of-a-head-{width}-{'dark' if dark else 'light'}")
