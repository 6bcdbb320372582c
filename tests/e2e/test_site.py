# SPDX-License-Identifier: MIT
"""Every command and every program of the documentation site, and of clients/python/EXAMPLES.md, does what its page says,
with a real daemon.

tests/frameworks/test_site.py runs those that need more than PyTorch, and builds the site; test_recipes.py there runs
those of the page of recipes.
"""
import importlib.util
import json
import re

import pytest
from site_pages import PAGES, ROOT, Reader, WarmPython, blocks, for_frameworks, script

if not all(map(importlib.util.find_spec, ("torch", "matplotlib"))):
    pytest.skip("no PyTorch or no matplotlib", allow_module_level=True)

BEGINS = "start"  # its job is looked at by others
ALONE = ("alerts", "ci")  # start a daemon of their own
ELSEWHERE = "recipes"
TOGETHER = ("look", "attach", "gpu", "notebook", "trouble", "nodes")
SAYS = {"nodes": (r"attnd 0.* at tcp://127.0.0.1:", r"^first .* 1/1 "), "attach": (r"^by-hand .* ended ", ),
        "look": (r"^HEAD +DISTANCE", r"^\(4, 32, 32\)$")}
NOT_RUN = {("start", "sh"): "the tests run what they have built", ("index", "python"): "tests/e2e/test_readme.py does"}


def what_is_run(page):
    return script(block for block in blocks(page) if not block["reason"] and not for_frameworks(block))


@pytest.fixture(scope="module")
def python():
    warm = WarmPython()
    yield warm.path
    warm.close()


@pytest.fixture(scope="module")
def shared(python):
    """A reader who has done what the first page says."""
    reader = Reader(python)
    try:
        reader.does(what_is_run(BEGINS))
        yield reader
    finally:
        reader.leaves()


@pytest.fixture
def reader(python):
    one = Reader(python)
    yield one
    one.leaves()


def test_every_block_of_every_page_is_run_or_says_why_not():
    left_out = {(page.stem, block["language"]): block["reason"]
                for page in PAGES.glob("*.md") for block in blocks(page.stem) if block["reason"]}
    assert left_out == NOT_RUN
    pages = {page.stem for page in PAGES.glob("*.md") if any(not block["reason"] for block in blocks(page.stem))}
    assert pages == {BEGINS, *ALONE, *TOGETHER, ELSEWHERE}


def test_the_front_page_has_the_block_of_the_readme():
    (block,) = blocks("index")
    assert block["text"] in (ROOT / "README.md").read_text(encoding="utf-8")


def test_start(shared):
    assert shared.made("heads.png").read_bytes().startswith(b"\x89PNG")
    said = shared.log.read_text(errors="replace")
    assert re.search(r"^first, run [0-9a-f]{8}, epoch 2, step 28$", said, re.M)
    assert re.search(r"^encoder\.1\.self( +0\.9\d+){4} +1\.layers\.1\.self_attn$", said, re.M)


@pytest.mark.parametrize("page", TOGETHER)
def test_a_page_that_goes_on_from_the_first(shared, page):
    shared.does(what_is_run(page))
    for name in re.findall(r"(?:-o |> |save(?:fig)?\(\")([\w.]+\.(?:png|svg|pdf|csv|html))", what_is_run(page)):
        assert shared.made(name).stat().st_size > 100, name
    said = shared.log.read_text(errors="replace")
    for line in SAYS.get(page, ()):
        assert re.search(line, said, re.M), f"{line}:\n{said[-6000:]}"


def trains(page):
    """What such a page says, with the program of the first."""
    return script(block for block in blocks(BEGINS) if block["title"]) + what_is_run(page)


def test_examples(reader):
    reader.does(what_is_run(ROOT / "clients" / "python" / "EXAMPLES.md"))
    drawn = [*reader.made(".").glob("*.png"), *reader.made("figures").glob("*.png")]
    assert len(drawn) == 11 + 6 * 4 and all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    statistics = json.loads(reader.made("statistics.json").read_text())
    assert {stack: len(sites) for stack, sites in statistics.items()} == {"encoder": 2, "decoder": 4}
    said = reader.log.read_text(errors="replace")
    assert re.search(r"^\(4, 32, 32\)$", said, re.M) and re.search(r"^example, run [0-9a-f]{8}, epoch 3, step 1\d$", said, re.M)


def test_alerts(reader):
    reader.does(trains("alerts"))
    said = [json.loads(line) for line in reader.made("alerts.jsonl").read_text().splitlines()]
    assert {event["rule"] for event in said} == {"too_even"} and {event["state"] for event in said} >= {"firing"}
    assert "exit status 1" in reader.log.read_text(errors="replace")


def test_ci(reader):
    reader.does(trains("ci"))
    said = reader.log.read_text(errors="replace")
    assert "too_even" in said and re.search(r"^exit status 1$", said, re.M)
