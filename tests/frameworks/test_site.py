# SPDX-License-Identifier: MIT
"""The documentation site: programs of its pages that need a framework, and the build, which refuses what is broken.

tests/e2e/test_site.py runs the other programs and all commands."""
import pathlib
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from site_pages import PAGES, Reader, blocks, for_frameworks, script

NEEDING = [(needs, block) for page in sorted(PAGES.glob("*.md")) for block in blocks(page.stem)
           for needs in for_frameworks(block)]
STARTED = "attnd &\nattnctl ping\n"
# The blocks and the command that come before a block; what `attnctl jobs` or the block says in the end.
BEFORE = {"pandas": ("start", "python3 train.py\n"), "torchrun": ("nodes", "")}
AFTER = {"wandb": r"^wandb: +attnd/lowest_entropy \d", "pandas": r"^head +0 +1 +2 +3$", "torchrun": r"^two-ranks .* 2/2 "}


@pytest.mark.parametrize("needs, block", [pytest.param(*one, id=one[0]) for one in NEEDING])
def test_a_program_that_needs_a_framework(needs, block):
    if needs != "torchrun":
        pytest.importorskip(needs, reason=f"{needs} is not installed")
    page, command = BEFORE.get(needs, (None, ""))
    files = [one for one in blocks(page) if one["title"]] if page else []
    reader = Reader()
    try:
        reader.does(STARTED + script(files) + command + script([block]) + "attnctl jobs\n")
        said = reader.log.read_text(errors="replace")
        assert re.search(AFTER[needs], said, re.M), said
    finally:
        reader.leaves()


def build(root, site):
    return subprocess.run([root / "deploy" / "site" / "build", "--installed", site], text=True, capture_output=True,
                          timeout=300)


@pytest.fixture(scope="module")
def mkdocs():
    if not (ROOT / "build-site-python" / "requirements.txt").exists():
        pytest.skip("mkdocs is not installed (deploy/site/build installs it)")


def test_the_site_is_whole(mkdocs, tmp_path):
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    front = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "clients/web/overview.png" in front and (tmp_path / "site" / "clients/web/overview.png").exists()
    python = (tmp_path / "site" / "python.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in python for name in ("watch", "Watch.epoch_end", "Publisher.publish_qk", "Control"))
    c = (tmp_path / "site" / "c.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in c for name in ("attn_plan", "attn_publish_qk", "attn_control_new_at", "attn_compare"))


def what_is_no_source(folder, names):
    built = [name for name in names if name.startswith("build")] if pathlib.Path(folder) == ROOT else []
    return built + [".git", "__pycache__", "fuzz"]


def test_what_is_broken_is_refused(mkdocs, tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(ROOT, copy, ignore=what_is_no_source)
    (copy / "build-site-python").symlink_to(ROOT / "build-site-python")
    with open(copy / "config" / "README.md", "a", encoding="utf-8") as page:
        page.write("\n[a](../gone.c)\n[b](../proto/PROTOCOL.md#gone)\nnot a list:\n- at all\n")
    with open(copy / "deploy" / "site" / "pages" / "ci.md", "a", encoding="utf-8") as page:
        page.write('\n[c](gone.md)\n\n<script src="https://example.com/x.js"></script>\n')
    done = build(copy, tmp_path / "site")
    assert done.returncode == 1
    for what in ("gone.c", "#gone", "gone.md", "a list needs an empty line", "ci.html loads from elsewhere"):
        assert what in done.stderr, f"{what} is not in:\n{done.stderr}"
