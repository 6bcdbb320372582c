#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""scroll: tasks of the page's main thread while the maps of 100 layers with 128 heads are scrolled, by Chromium's trace.

usage: ATTND_BIN=build/daemon/attnd python3 tests/bench/scroll.py [LAYERS HEADS]
"""
import json
import os
import sys

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "browser"), os.path.join(HERE, "..", "e2e")]

from conftest import COUNTS_QUESTIONS, Page, Site, start_chromium, webdriver  # noqa: E402
from harness import Trainer, softmax_maps, wait_until  # noqa: E402

T, TURNS, BOUND_MS = 64, 60, 16
COUNT = "return document.querySelectorAll('.thumbs canvas').length"


def driver():
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    options.add_experimental_option("perfLoggingPrefs", {"traceCategories": "toplevel,devtools.timeline"})
    browser = start_chromium(options)
    browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": COUNTS_QUESTIONS})
    return browser


def events(browser):
    """What has been traced since the last call."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [message["params"] for message in messages if message["method"] == "Tracing.dataCollected"]


def events_until(page, name):
    """What has been traced up to now; Chromium gives it away in parts."""
    traced = []
    page.js("console.timeStamp(arguments[0])", name)
    wait_until(lambda: traced.extend(events(page.driver)) or any(
        event["name"] == "TimeStamp" and event["args"]["data"].get("message") == name for event in traced), "the trace")
    return traced


def scroll(page):
    box = page.js("const b = document.querySelector('.thumbs').getBoundingClientRect(); return [b.left + b.width / 2, b.top + b.height / 2]")
    for turn in range(TURNS):
        page.driver.execute_cdp_cmd("Input.dispatchMouseEvent", dict(
            type="mouseWheel", x=box[0], y=box[1], deltaX=40 if turn % 3 == 2 else 0, deltaY=120))
    wait_until(lambda: page.js("const t = document.querySelector('.thumbs'); return t.scrollTop > 0"), "that it has scrolled")
    wait_until(lambda: page.js("return [...document.querySelectorAll('.thumb-row')].every((row) => { const box = row.getBoundingClientRect(),"
                               " all = document.querySelector('.thumbs').getBoundingClientRect();"
                               " return box.bottom < all.top || box.top > all.bottom || row.querySelector('canvas'); })"), "what is in view")


def tasks_of(traced):
    """Wall and processor times in ms of the tasks on the thread that runs the page's functions."""
    threads = [(event["pid"], event["tid"]) for event in traced if event["name"] == "FunctionCall"]
    main = max(set(threads), key=threads.count)
    own = [event for event in traced if (event["pid"], event["tid"]) == main and event.get("ph") == "X" and "RunTask" in event["name"]]
    return np.array([[event["dur"], event.get("tdur", 0)] for event in own]).T / 1000


def main(layers=100, heads=128):
    site, rng = Site("maps.memory=2GiB", "ingest.budget=1GiB"), np.random.default_rng(1)
    browser = driver()
    try:
        trainer = Trainer(site.daemon, "wide")
        for layer in range(layers):
            trainer.attention(softmax_maps(rng, 1, heads, T, T, causal=True), layer=layer, causal=True)
            site.daemon.settled(layer + 1)
        page = Page(browser).open(site, "#/model?job=wide").ready()
        wait_until(lambda: page.js(COUNT) > 0, "thumbnails")
        events_until(page, "drawn")
        scroll(page)
        wall, processor = tasks_of(events_until(page, "scrolled"))
        print(json.dumps(dict(bench="scroll", layers=layers, heads=heads, tasks=len(wall), p95_ms=round(np.percentile(wall, 95), 2),
                              p99_ms=round(np.percentile(wall, 99), 2), max_ms=round(wall.max(), 2), over_bound=int((wall > BOUND_MS).sum()),
                              processor_p95_ms=round(np.percentile(processor, 95), 2), processor_max_ms=round(processor.max(), 2),
                              canvases=page.js(COUNT))))
    finally:
        browser.quit()
        site.close()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
