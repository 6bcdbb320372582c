# SPDX-License-Identifier: MIT
"""A tab that is left open: what comes in a day of windows of two minutes does not pile up in it."""
import time

import numpy as np
import pytest

from harness import Trainer, softmax_maps, wait_until

LAYERS, HEADS, WINDOWS = 2, 8, 720
GROWTH_BYTES_MAX = 1 << 20


def heap_bytes(page):
    """The least of several collections: what still comes, or is being drawn, is held for a moment by Chromium."""
    found = []
    for _ in range(10):
        page.driver.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        found.append(page.driver.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"])
        time.sleep(0.2)
    return min(found)


def elements(page):
    return page.count("*")


def wait_for_window(page, number):
    wait_until(lambda: page.js("return document.querySelector('main').innerText.includes(arguments[0])", str(number)),
               f"window {number}")
    page.ready()


def publish(place, trainer, maps, epochs):
    """No faster than attnd computes: beyond ingest.budget it would drop some, the newest window perhaps."""
    for epoch in epochs:
        for layer in range(LAYERS):
            trainer.attention(maps[epoch % len(maps)], layer=layer, epoch=epoch, step=epoch)
        trainer.event("epoch_end", epoch=epoch)
        if epoch % 100 == 99:
            place.daemon.settled((epoch + 1) * (LAYERS + 1))


@pytest.mark.long
@pytest.mark.parametrize("address", ["#/overview", "#/head?stack=decoder&layer=0&site=self&head=1"])
def test_a_tab_of_a_day_stays_small(own_site, page, address):
    place = own_site("http.live_interval=0s", "metrics.spectrum=false")
    trainer, rng = Trainer(place.daemon, "day"), np.random.default_rng(3)
    maps = [softmax_maps(rng, 1, HEADS, 8, 8) for _ in range(16)]
    publish(place, trainer, maps, range(20))
    page.open(place, address).ready()
    publish(place, trainer, maps, range(20, WINDOWS // 3))
    place.daemon.call("flush")
    wait_for_window(page, WINDOWS // 3 - 1)
    before = heap_bytes(page), elements(page)
    publish(place, trainer, maps, range(WINDOWS // 3, WINDOWS))
    place.daemon.call("flush")
    wait_for_window(page, WINDOWS - 1)
    after = heap_bytes(page), elements(page)
    assert after[0] - before[0] < GROWTH_BYTES_MAX, (before, after)
    assert after[1] < 2 * before[1], (before, after)
