# SPDX-License-Identifier: MIT
"""A real attnd with HTTP, a real training run in it, and headless Chromium to look at the page.

With the folder $ATTND_SCREENSHOTS each test leaves a picture of the page as it ends there, by the test's name.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import sys
import time
import urllib.parse
import urllib.request

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
CLIENT = os.path.join(ROOT, "clients", "python")
sys.path[:0] = [os.path.join(HERE, "..", "e2e"), CLIENT, os.path.join(CLIENT, "examples")]

import attnd  # noqa: E402
from attnd.notebook.bundle import bundle  # noqa: E402
from harness import PATIENCE_S, Attnd, wait_until  # noqa: E402

attnd.Publisher.__init__.__kwdefaults__["linger"] = PATIENCE_S  # what is sent last may take its time

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: apt install python3-selenium chromium-driver")
JOB = "chars-encoder-decoder"


def pytest_configure(config):
    config.addinivalue_line("markers", "long: run by the meson test browser-long alone")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    yield
    if "page" in item.funcargs:
        item.funcargs["page"].screenshot(re.sub(r"[^\w.-]+", "-", f"{item.path.stem}-{item.name}"))


def module_text(name):
    """A module of the page as an expression, whose value is what it exports."""
    return bundle(pathlib.Path(ROOT, "clients", "web"), name).strip()


class Site:
    """attnd with its page on one port, also after it has been started again."""

    def __init__(self, *settings, config=None):
        self.daemon = Attnd("http.enabled=true", "http.endpoint=tcp://127.0.0.1:*", "maps.every=100ms", *settings, config=config)
        Attnd.all.remove(self.daemon)  # it outlives a test
        self.port = int(self.daemon.call("config")["http.endpoint"].rsplit(":", 1)[1])
        CLOSED.discard(self.port)
        self.daemon.settings += (f"http.endpoint=tcp://127.0.0.1:{self.port}",)

    def api(self, path, **params):
        query = urllib.parse.urlencode(params)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def is_stored(self):
        """Whether the history has all that attnd has told of."""
        return not self.daemon.stats()["history"]["waiting"]

    def train(self, *arguments):
        """The README's example, in small, until it has ended."""
        import train_chars
        train_chars.SUBSCRIBER_WAIT_S = PATIENCE_S
        words = ("--batch", "4", "--text", os.path.join(CLIENT, "examples"), "--endpoint", self.daemon.endpoint("ingest"),
                 "--summaries", self.daemon.endpoint("publish"), "--wait", str(PATIENCE_S))
        assert train_chars.Trainer(train_chars.parse_arguments([*words, *arguments])).run()

    def wait_ended(self, job, runs=1):
        """Until the history has the ends of all runs of a job."""
        wait_until(lambda: [run["state"] for run in self.api("runs", job=job)["runs"]] == ["ended"] * runs,
                   f"{runs} runs of {job} in the history")

    def close(self):
        CLOSED.add(self.port)
        self.daemon.close()
        self.daemon.discard()


@pytest.fixture(scope="session")
def site():
    """A run of 2 + 2 layers with 4 heads over 60 steps in windows of 5, and a second run of the same job."""
    with sites() as open_site:
        one = open_site("window.unit=step", "window.length=5", "window.every=5", "window.also=[1 epoch]",
                        "metrics.similarity=true")
        for seed in ("1", "2"):
            one.train("--epochs", "2", "--steps-per-epoch", "30", "--seed", seed)
        one.wait_ended(JOB, runs=2)
        yield one


@contextlib.contextmanager
def sites():
    """Opens sites, as Site() does, and closes them in the end."""
    opened = []

    def open_site(*settings, **more):
        opened.append(Site(*settings, **more))
        return opened[-1]

    try:
        yield open_site
    finally:
        for one in opened:
            one.close()


@pytest.fixture(scope="module")
def module_site():
    with sites() as open_site:
        yield open_site


@pytest.fixture
def own_site(page):
    with sites() as open_site:
        yield open_site
        page.driver.get("about:blank")


CLOSED = set()  # ports of sites that were

# Counts what a page has asked for and not taken yet; event streams are taken for as long as they last.
COUNTS_QUESTIONS = """(() => {
    let open = 0;
    const counted = (ask) => function (...given) {
        const answer = ask.apply(this, given);
        open += 1;
        answer.catch(() => {}).finally(() => { open -= 1; });
        return answer;
    };
    window.fetch = counted(window.fetch);
    for (const name of ["json", "text", "arrayBuffer"]) Response.prototype[name] = counted(Response.prototype[name]);
    Object.defineProperty(window, "openQuestions", { get: () => open });
})()"""
QUIET_S = 10  # a page that follows a training is never quiet for long


class Page:
    """The page in a browser."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, site, address="", width=1440, height=900, dark=False):
        wait_until(site.is_stored, "the history, which a page asks when it is opened, and then when more comes")
        self.width = width
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500))
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(
            features=[dict(name="prefers-color-scheme", value="dark" if dark else "light")]))
        self.driver.get("about:blank")
        self.driver.get(f"http://127.0.0.1:{site.port}/{address}")
        return self

    def ready(self):
        """The view has drawn what it has, and what it asked for then."""
        wait_until(lambda: self.js("return performance.getEntriesByName('data').length"), "the view; it says: " + self.text("main"))
        until = time.monotonic() + QUIET_S
        while self.driver.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame("
                                               "() => setTimeout(() => done(openQuestions))))") and time.monotonic() < until:
            time.sleep(0.05)
        return self

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def text(self, selector):
        return self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def rows(self, selector="tbody tr"):
        """The texts of the cells of each row."""
        return self.js("return [...document.querySelectorAll(arguments[0])].map((row) => [...row.cells].map((e) => e.textContent))",
                       selector)

    def facts(self):
        """Those beside a series, by name."""
        return dict(zip(self.texts(".facts dt"), self.texts(".facts dd")))

    @contextlib.contextmanager
    def with_script(self, source):
        """Runs it in each page before the page's own."""
        added = self.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": source})
        yield
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)

    def count(self, selector):
        return self.js("return document.querySelectorAll(arguments[0]).length", selector)

    def hash(self):
        return self.js("return location.hash")

    def readout(self):
        """What is read out of the picture that the keys are in."""
        return self.js("return document.getElementById('readout').textContent")

    def fits(self):
        """Whether the page is no wider than the window was opened."""
        return self.js("return document.documentElement.scrollWidth") <= self.width

    def click(self, selector):
        self.js("document.querySelector(arguments[0]).click()", selector)

    def slide(self, at):
        """The slider of time to one of its places."""
        self.js("const s = document.querySelector('.time input'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))", at)

    def keys(self, selector, *names):
        """Keys pressed on an element that has the focus."""
        self.js("document.querySelector(arguments[0]).focus()", selector)
        for name in names:
            for kind in ("keyDown", "keyUp"):
                self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", dict(type=kind, key=name, code=name))

    def choose(self, label, value):
        wait_until(lambda: self.js("return document.querySelector(`select[aria-label='${arguments[0]}']`) !== null", label), label)
        self.js("const s = document.querySelector(`select[aria-label='${arguments[0]}']`); s.value = arguments[1];"
                "s.dispatchEvent(new Event('change', {bubbles: true}))", label, value)

    def screenshot(self, name):
        folder = os.environ.get("ATTND_SCREENSHOTS")
        if not folder:
            return
        os.makedirs(folder, exist_ok=True)
        size = self.js("return [innerWidth, Math.min(4000, document.documentElement.scrollHeight)]")
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    dict(width=size[0], height=size[1], deviceScaleFactor=1, mobile=size[0] < 500))
        self.driver.save_screenshot(os.path.join(folder, name + ".png"))

    def complaints(self):
        """What the browser's console has of errors; what an attnd says that the test has ended is none, 503 or nothing."""
        errors = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [text for text in errors
                if not ("Failed to load resource" in text and urllib.parse.urlsplit(text.split()[0]).port in CLOSED)]


def start_chromium(options):
    """With the distribution's driver: its selenium 4.24 has not the program that looks for one."""
    service = webdriver.chrome.service.Service(shutil.which("chromedriver") or "chromedriver")
    return webdriver.Chrome(options=options, service=service)


def open_browser():
    """A headless one, whose pages count their open questions."""
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb",
                 "--disable-site-isolation-trials", "--renderer-process-limit=1",  # each page would start processes of its own
                 "--disable-features=SpareRendererForSitePerProcess,BackForwardCache"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = start_chromium(options)
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COUNTS_QUESTIONS})
    return driver


@pytest.fixture(scope="session")
def browser():
    driver = open_browser()
    yield driver
    driver.quit()


@pytest.fixture
def page(browser):
    one = Page(browser)
    browser.get("about:blank")  # the page of the test before looks for its attnd, which has ended
    one.complaints()
    yield one
    assert one.complaints() == []
