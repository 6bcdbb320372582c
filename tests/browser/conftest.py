# SPDX-License-Identifier: MIT
"""A real attnd with HTTP, a real training run in it, and headless Chromium to look at the page.

Screenshots are kept in the folder $ATTND_SCREENSHOTS, if that is set.
"""
import json
import os
import subprocess
import sys
import urllib.parse
import urllib.request

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
sys.path[:0] = [os.path.join(HERE, "..", "e2e"), os.path.join(ROOT, "clients", "python")]

from harness import PATIENCE_S, Attnd, wait_until  # noqa: E402

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium: apt install python3-selenium chromium-driver")
TRAIN = os.path.join(ROOT, "clients", "python", "examples", "train_chars.py")
JOB = "chars-encoder-decoder"


class Site:
    """attnd with its page on one port, also after it has been started again."""

    def __init__(self, *settings):
        self.daemon = Attnd("http.enabled=true", "http.endpoint=tcp://127.0.0.1:*", "maps.every=100ms", *settings)
        Attnd.all.remove(self.daemon)  # it outlives a test
        self.port = int(self.daemon.call("config")["http.endpoint"].rsplit(":", 1)[1])
        self.daemon.settings += (f"http.endpoint=tcp://127.0.0.1:{self.port}",)

    def api(self, path, **params):
        query = urllib.parse.urlencode(params)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/{path}?{query}", timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def train(self, *arguments):
        """The README's example, until it has ended."""
        subprocess.run([sys.executable, TRAIN, "--endpoint", self.daemon.endpoint("ingest"), "--summaries",
                        self.daemon.endpoint("publish"), *arguments],
                       check=True, stdout=subprocess.DEVNULL, timeout=300)

    def close(self):
        self.daemon.close()
        self.daemon.discard()


@pytest.fixture(scope="session")
def site():
    """A run of 2 + 2 layers with 4 heads over 60 steps in windows of 5, and a second run of the same job."""
    one = Site("window.unit=step", "window.length=5", "window.every=5", "metrics.similarity=true")
    for seed in ("1", "2"):
        one.train("--epochs", "2", "--steps-per-epoch", "30", "--seed", seed)
    wait_until(lambda: [run["state"] for run in one.api("runs", job=JOB)["runs"]] == ["ended", "ended"], "both runs in the history")
    yield one
    one.close()


class Page:
    """The page in a browser."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, site, address="", width=1440, height=900, dark=False):
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                    dict(width=width, height=height, deviceScaleFactor=1, mobile=width < 500))
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dict(
            features=[dict(name="prefers-color-scheme", value="dark" if dark else "light")]))
        self.driver.get("about:blank")
        self.driver.get(f"http://127.0.0.1:{site.port}/{address}")
        return self

    def ready(self):
        """The view has drawn what it has."""
        wait_until(lambda: self.js("return performance.getEntriesByName('data').length"), "the view; it says: " + self.text("main"))
        return self

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def text(self, selector):
        return self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def texts(self, selector):
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

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
        """What the browser's console has of errors."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="session")
def browser():
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options)
    yield driver
    driver.quit()


@pytest.fixture
def page(browser):
    one = Page(browser)
    browser.get("about:blank")  # the page of the test before looks for its attnd, which has ended
    one.complaints()
    yield one
    assert one.complaints() == []
