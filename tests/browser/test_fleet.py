# SPDX-License-Identifier: MIT
"""The view of a fleet, of answers as a node and a hub give them."""
import contextlib
import json

import pytest
from conftest import JOB
from harness import wait_until
from test_access import serious, small_targets

WHO = dict(name="head", id="00112233aabbccdd", url="nats://rack:4222", connected=True, error=None)
RULE = dict(unit="step", length=100, every=100)


def node(number, **more):
    return dict(dict(id=f"{number:016x}", name=f"node-{number}", host="rack", version="0.2.0", heard_s=0.75, state="ok", behind=0,
                     unsent=0, unsent_bytes=0, outbox_lost=0, lacking=0, clock_s=0.01, refused=None, runs=1), **more)


NODE = dict(WHO, role="node", rows=120, bytes=25165824, unsent=3, unsent_bytes=614400, oldest_unsent_s=12.5, outbox_lost=2, sent=4711,
            resent=5, refused=None)
HUB = dict(
    WHO, role="hub", rows=40960, bytes=3650722202, waiting=1, received=41000, repeated=37, poisoned=3, windows_unknown=0,
    steps_disagree=0, gone=0, windows_lost=0, merged=960, corrected=12, runs_more=0,
    nodes=[node(1), node(10), node(2), node(3, state="silent", heard_s=95, behind=3, unsent=12, unsent_bytes=2516582, outbox_lost=4,
                                            lacking=7, clock_s=-3600.0),
           node(4, state="refused", refused="window.buckets is 8, the hub's first node has 32"), node(5, state="behind", behind=17),
           node(7, state="trouble", trouble="its history cannot be written: database or disk is full"),
           node(6, state="ended")],
    runs=[dict(job=JOB, run="ab" * 16, state="active", world=8, ranks=7, nodes=[f"{i:016x}" for i in (1, 2, 3)],
               waiting=[dict(RULE, last=499, **{"for": ["node-3"]})],
               partial=[dict(RULE, first=300, last=399, revision=1,
                             missing=[dict(name="node-3", reason="silent"), dict(name="node-4", reason="refused")]),
                        *(dict(RULE, first=first, last=first + 99, revision=0, missing=[dict(name="node-3", reason="silent")])
                          for first in (200, 100))],
               compared=dict(RULE, first=300, last=399, layers=4, count=18, odd=[
                   dict(rank=5, node="node-2", layers=3, windows=2, stack="decoder", layer=1, site="self", head=2, distance=8.3)])),
          dict(job="small", run="cd" * 16, state="ended", world=1, ranks=1, nodes=["0" * 16], waiting=[], partial=[])])
RANKS = dict(unit="step", first=300, last=399, ranks=[
    dict(rank=rank, node=f"node-{rank // 8}", rows=100, mean=[2 - (rank == 11), 2.5, 2.1, 1.9], distance=9.1 if rank == 11 else 0.4,
         odd=rank == 11) for rank in range(24)], odd=[11])
ANSWERS = """(() => {
    const ask = window.fetch;
    window.fleet = %s;
    window.ranks = %s;
    window.fetch = (url, ...more) => {
        const name = ["fleet", "ranks"].find((one) => String(url).includes(`/api/v1/${one}`));
        return name ? Promise.resolve(new Response(JSON.stringify(window[name]))) : ask(url, ...more);
    };
})()"""


@pytest.fixture
def fleet(page, site):
    """Opens the page of an attnd that answers so."""
    with contextlib.ExitStack() as scripts:
        def opened(answer, address="#/fleet", **more):
            scripts.enter_context(page.with_script(ANSWERS % (json.dumps(answer), json.dumps(RANKS))))
            return page.open(site, address, **more).ready()

        yield opened


@pytest.fixture
def hub(site):
    """As it answers of the run that the site has."""
    run = site.api("runs", job=JOB)["runs"][0]["run"]
    return dict(HUB, runs=[dict(HUB["runs"][0], run=run)])


def test_an_attnd_alone_says_how_to_begin(site, page):
    page.open(site, "#/overview").ready()
    assert "Fleet" not in page.texts("#tabs a")
    page.open(site, "#/fleet").ready()
    assert page.text("main").startswith("This attnd is alone: fleet.role is off.") and "fleet.url to NATS servers" in page.text("main")


@pytest.mark.parametrize("width, dark", [(1440, False), (390, True)])
def test_a_hub_shows_first_who_is_to_be_seen_to(page, fleet, width, dark):
    fleet(HUB, width=width, dark=dark)
    assert page.texts("tbody td:first-child") == ["node-3", "node-4", "node-7", "node-5", "node-1", "node-2", "node-6", "node-10"]
    assert page.texts("tr.late .badge") == ["silent", "refused", "trouble", "behind"]
    assert page.texts("tbody tr:first-child td")[2:8] == ["95 s ago", "3", "12 (2.4 MiB)", "4", "7", "−60 min"]
    assert "window.buckets is 8" in page.text("main") and "8, 4 to be seen to" in page.text("main")
    assert page.texts(".list li") == [
        "odd rank 5 of \u2068node-2\u2069 in 3 of 4 layers, most in decoder.1.self.h2 2 windows in a row",
        "1 of 8 ranks has not been heard of",
        "the window that ends at step 499 waits for node-3",
        "the window that ends at step 399 is without node-3 (silent), node-4 (refused), corrected",
        "2 windows that end at step 199 to 299 are without node-3 (silent)"]
    assert "40,960, 3.4 GiB" in page.text(".facts") and "3 messages: unreadable" in page.text(".facts")
    assert page.fits()


def test_runs_that_go_on_come_first_of_many(page, fleet):
    going, over = HUB["runs"]
    fleet(dict(HUB, runs=[over] * 150 + [dict(going, job=JOB)], runs_more=7))
    assert page.texts("h3 a")[0] == JOB and len(page.texts("h3 a")) == 100
    assert "And 58 more runs." in page.text("main")


def test_the_overview_leads_to_the_rank_that_is_odd(page, fleet, hub):
    fleet(hub, f"#/overview?job={JOB}")
    wait_until(lambda: "odd" in page.text(".attention"), "the ranks")
    text = " ".join(page.text(".attention").split())
    assert text.startswith("Needs attention") and "warning 18 ranks are odd by entropy, step 300 to 399" in text
    assert "critical 1 node to be seen to 1 window waits node-3 silent: last heard 95 s ago" in text and "And 17 more." in text
    assert "warning 1 of 8 ranks has not been heard of" in text and "checks passed" in text
    assert "warning windows are partial the window that ends at step 399 is without node-3 (silent), node-4 (refused)" in text
    page.screenshot("fleet-overview")
    page.js("[...document.querySelectorAll('.attention a.who')].find((a) => a.textContent.includes('rank 5')).click()")
    wait_until(lambda: "#/head" in page.hash(), "the head")
    assert {"layer=1", "head=2", "stack=decoder"} <= set(page.hash().split("?")[1].split("&"))


def test_the_head_names_the_odd_rank_of_many(page, fleet):
    fleet(HUB, f"#/head?job={JOB}")
    wait_until(lambda: page.texts(".ranks li"), "the ranks")
    assert len(page.texts(".ranks li")) == 16 and "and 8 more" in page.text(".ranks + .where")
    assert ["rank 11" in text and "odd" in text for text in page.texts(".ranks li.odd")] == [True]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("view", ["fleet", "overview", "head"])
def test_everyone_can_use_it(page, fleet, hub, view, dark):
    fleet(hub, f"#/{view}?job={JOB}", dark=dark, width=390 if dark else 1440)
    wait_until(lambda: "odd" in page.text("#view"), "the rank that is odd")
    assert small_targets(page) == [] and serious(page) == []


def test_the_focus_and_the_place_in_the_table_outlive_answers(page, fleet, hub):
    fleet(hub, width=390)
    wait_until(lambda: page.texts(".list a"), "the rank")
    page.js("const box = document.querySelector('.scroll'); box.focus(); box.scrollLeft = 100")
    page.js("window.fleet.nodes.push(window.fleet.nodes[0])")
    wait_until(lambda: len(page.texts("tbody tr")) == len(HUB["nodes"]) + 1, "the next answer")
    assert page.js("return [document.activeElement.className, document.activeElement.scrollLeft]") == ["scroll", 100]
    page.js("document.querySelector('.list a').focus()")
    page.js("window.fleet.nodes.pop()")
    wait_until(lambda: len(page.texts("tbody tr")) == len(HUB["nodes"]), "the answer after that")
    assert page.js("return document.activeElement.textContent").startswith("rank 5"), "the focus outlives answers"


def test_the_tab_counts_those_to_be_seen_to(page, fleet):
    fleet(HUB, f"#/overview?job={JOB}")
    wait_until(lambda: "Fleet 4" in page.texts("#tabs a"), "the tab")
    page.click("#tabs [data-view=fleet]")
    wait_until(lambda: page.texts("tr.late"), "the view")
    assert page.js("return document.title") == "Fleet · attnd"
    page.click("#tabs [data-view=overview]")
    wait_until(lambda: JOB in page.js("return document.title"), "the overview")


def test_a_hub_that_is_cut_off_says_so_and_heals(page, fleet):
    fleet(dict(HUB, connected=False, error="nats://rack:4222 cannot be reached (no server answers); attnd tries again"))
    assert page.text("main .note.error").startswith(
        "No connection: nats://rack:4222 cannot be reached (no server answers); attnd tries again. Windows wait")
    page.screenshot("fleet-hub-cut-off")
    page.js("window.fleet = arguments[0]", dict(HUB, nodes=[node(1)], runs=[]))
    wait_until(lambda: not page.text("main .note.error"), "the connection")
    assert "1, all well" in page.text("main") and "No node trains yet." in page.text("main")


def test_a_node_shows_its_outbox(page, fleet):
    fleet(NODE)
    assert page.texts(".facts dd")[3:] == ["120 rows, 24 MiB", "3 rows, 600 KiB; the oldest for 13 s", "4,711 rows, 5 re-sent", "2 rows"]
    page.screenshot("fleet-node")
    page.js("window.fleet = arguments[0]", dict(NODE, refused="window.buckets is 8", connected=False, error=None))
    wait_until(lambda: len(page.texts("main .note.error")) == 2, "what is wrong")
    assert page.texts("main .note.error")[1] == "The hub refuses this node: window.buckets is 8"
