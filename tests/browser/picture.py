# SPDX-License-Identifier: MIT
"""Takes the README's picture: the page of a training in which one head loses what it had learned, at a known step.

    python3 tests/browser/picture.py [--attnd build/daemon/attnd] [clients/web/overview.png]

Needs torch 1.13 or newer, selenium and Chromium.
"""
import argparse
import os
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
SEED, STEPS = 1102, 400


def main() -> None:
    parser = argparse.ArgumentParser(description="Takes the README's picture.")
    parser.add_argument("--attnd", default=str(ROOT / "build/daemon/attnd"))
    parser.add_argument("out", nargs="?", default=str(ROOT / "clients/web/overview.png"))
    options = parser.parse_args()
    os.environ["ATTND_BIN"] = options.attnd
    sys.path[:0] = [str(ROOT / "tests/verdict"), str(pathlib.Path(__file__).parent)]
    from conftest import Page, Site, open_browser  # before runs, which has another one in its path
    import runs
    site = Site(*runs.SETTINGS)
    driver = open_browser()
    runs.torch.set_num_threads(1)
    try:
        told = runs.judge(runs.train(runs.Daemon(site.daemon), "gpt-small", "GQA", "uniform", STEPS, SEED, logs=True))
        assert told["right"], told
        page = Page(driver).open(site, "#/overview?job=gpt-small", height=980).ready()
        assert "head_uniform" in page.text(".attention") and page.js("return document.querySelector('.timeline .line.bad') !== null")
        driver.save_screenshot(options.out)
    finally:
        driver.quit()
        site.close()


if __name__ == "__main__":
    main()
