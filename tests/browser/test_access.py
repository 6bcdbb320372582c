# SPDX-License-Identifier: MIT
"""The page for everyone: what axe-core finds (where it is installed), targets that can be hit, and keys that reach them."""
import glob
import importlib.util
import os

import pytest
from conftest import JOB, ROOT
from harness import wait_until
from selenium.webdriver import ActionChains, Keys

VIEWS = {"home": "Runs", "overview": "Overview", "overview?at=step29": "Overview", "layer": "Layer", "head": "Head",
         "head?at=step29": "Head", "model": "Model", "tokens": "Tokens", "runs": "Compare"}
SMALLEST_PX = 24

# Controls that are shown, but for links within a sentence, as [what it is, width, height].
TARGETS = """
const found = [];
for (const one of document.querySelectorAll("a[href], button, select, input, summary")) {
    const box = one.getBoundingClientRect(), style = getComputedStyle(one);
    if (!box.width || style.visibility === "hidden" || one.classList.contains("skip")) continue;
    if (one.tagName === "A" && style.display === "inline" && one.closest("p")) continue;
    found.push([`${one.tagName} ${one.getAttribute("aria-label") ?? one.textContent}`, box.width, box.height]);
}
return found;
"""
# Controls without a name.
UNNAMED = """
return [...document.querySelectorAll("select, input, button, a, svg[tabindex]")].filter((one) =>
    !(one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.length)).map((one) => one.outerHTML.slice(0, 80));
"""

# The element that has the focus: a name, whether that can be seen, whether it is in the window; null for none.
FOCUS = """
const one = document.activeElement, box = one.getBoundingClientRect(), style = getComputedStyle(one);
if (one === document.body) return null;
one.dataset.reached = "";
return [one.outerHTML.slice(0, 80), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, box.bottom > 0 && box.top < innerHeight];
"""

# All that takes the focus, of what is shown, and has not had it.
UNREACHED = """
return [...document.querySelectorAll("a[href], button, select, input, summary, [tabindex='0']")].filter((one) =>
    one.getClientRects().length && !one.disabled && one.dataset.reached === undefined).map((one) => one.outerHTML.slice(0, 80));
"""


def axe_script():
    """Of the package in this Python, or in the environment that deploy/frameworks has made."""
    spec = importlib.util.find_spec("axe_core_python")
    places = list(spec.submodule_search_locations) if spec else glob.glob(
        os.path.join(ROOT, "build-frameworks", "lib", "python3*", "site-packages", "axe_core_python"))
    if not places:
        pytest.skip("no axe-core: pip install axe-core-python, or deploy/frameworks --install")
    with open(os.path.join(places[0], "axe.min.js"), encoding="utf-8") as file:
        return file.read()


def serious(page):
    """Findings about what the page shows, of any impact, as [impact, rule, elements]."""
    page.js(axe_script())
    return page.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(({violations}) =>"
        "done(violations.map(({id, impact, nodes}) => [impact, id, nodes.map((node) => node.html.slice(0, 120)).slice(0, 3)])))")


def small_targets(page):
    targets = page.js(TARGETS)
    assert len(targets) > 10
    return [one for one in targets if min(one[1], one[2]) < SMALLEST_PX - 0.5]


def address(view):
    return f"#/{view}{'&' if '?' in view else '?'}job={JOB}"


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width, height", [(1440, 900), pytest.param(390, 844, marks=pytest.mark.long)])
def test_every_view_is_for_everyone(site, page, view, width, height):
    """It draws without complaint, axe finds nothing, controls have names, and targets can be hit, in light and dark."""
    for dark in (False, True):
        page.open(site, address(view), width=width, height=height, dark=dark).ready()
        assert page.fits()
        assert page.js("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
        wait_until(lambda: page.text("#connection") == "connected", "the events")
        assert view == "home" or JOB in page.js("return document.title")
        assert page.js("return document.querySelector('.tabs [aria-current]').textContent") == VIEWS[view]
        assert page.count("main svg") > 0
        page.screenshot(f"{view.replace('?', '-')}-{width}-{'dark' if dark else 'light'}")
        assert page.js(UNNAMED) == [] == small_targets(page)
        assert serious(page) == []


@pytest.mark.parametrize("view", [pytest.param(view, marks=() if view in ("home", "overview", "head") else pytest.mark.long) for view in VIEWS])
def test_keys_reach_everything_and_the_focus_is_seen(site, page, view):
    """An element that is drawn anew during a walk is reached by the next, which goes on from there or begins again."""
    page.open(site, address(view)).ready()
    reached, walks, unreached = [], 0, None
    while unreached != [] and walks < 4:
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        reached.append(page.js(FOCUS))
        if reached[-1] is None:
            walks, unreached = walks + 1, page.js(UNREACHED)
        assert len(reached) < 500, "it goes round"
    assert len(reached) > 10 and [one for one in reached if one and not all(one)] == [] == unreached
