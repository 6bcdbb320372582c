# SPDX-License-Identifier: MIT
"""The page for everyone: what axe-core finds (where it is installed), and targets that can be hit."""
import glob
import importlib.util
import os

import pytest
from conftest import JOB, ROOT

VIEWS = {"home": "Runs", "overview": "Overview", "layer": "Layer", "head": "Head", "model": "Model", "tokens": "Tokens", "runs": "Compare"}
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
    """Findings about what the page shows, as [impact, rule, elements]."""
    page.js(axe_script())
    found = page.driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']}).then(({violations}) =>"
        "done(violations.map(({id, impact, nodes}) => [impact, id, nodes.map((node) => node.html.slice(0, 120)).slice(0, 3)])))")
    return [one for one in found if one[0] in ("serious", "critical", "moderate")]


def small_targets(page):
    targets = page.js(TARGETS)
    assert len(targets) > 10
    return [one for one in targets if min(one[1], one[2]) < SMALLEST_PX - 0.5]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width, dark", [(1440, False), (390, True)])
def test_every_view_is_for_everyone(site, page, view, width, dark):
    """It draws without complaint, axe finds nothing serious, and targets can be hit."""
    page.open(site, f"#/{view}?job={JOB}", width=width, dark=dark).ready()
    assert page.js("return document.documentElement.scrollWidth <= innerWidth"), "the page is wider than the window"
    assert page.js("return document.documentElement.dataset.theme") == ("dark" if dark else "light")
    assert page.text("#connection") == "connected" and (view == "home" or JOB in page.js("return document.title"))
    assert page.js("return document.querySelector('.tabs [aria-current]').textContent") == VIEWS[view]
    assert page.js("return document.querySelectorAll('main svg').length") > 0
    page.screenshot(f"{view}-{width}-{'dark' if dark else 'light'}")
    assert small_targets(page) == []
    assert serious(page) == []
