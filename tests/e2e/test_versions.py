# SPDX-License-Identifier: MIT
"""One version everywhere: meson.build says it, and all else that says it agrees. Files of earlier ones are understood."""
import gzip
import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from harness import ATTNCTL, ATTND, Attnd

ROOT = Path(__file__).resolve().parents[2]
HISTORIES = ROOT / "tests" / "golden" / "histories"
sys.path.insert(0, str(HISTORIES))
import make_history  # noqa: E402

REMOVED = ("trouble",)  # metrics that are kept and no longer shown: PROTOCOL.md, Decoding
BUILD = Path(ATTND).resolve().parents[1]
VERSION = re.search(r"version: '([0-9.]+)'", (ROOT / "meson.build").read_text()).group(1)


def said(*command):
    environment = dict(os.environ, PYTHONPATH=str(ROOT / "clients" / "python"))
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()


@pytest.mark.parametrize("program, name", [(ATTND, "attnd"), (ATTNCTL, "attnctl")])
def test_programs_say_the_version(program, name):
    assert said(program, "--version") == f"{name} {VERSION}"


def test_the_python_client_says_it():
    assert said(sys.executable, "-c", "import attnd; print(attnd.__version__)") == VERSION


def test_the_client_asks_for_the_daemon_of_its_version():
    project = (ROOT / "clients" / "python" / "pyproject.toml").read_text()
    assert re.findall(r"attnd-bin==([^\"]+)", project) == [VERSION]


def test_pkg_config_and_the_library_say_it():
    pc = next(BUILD.glob("meson-private/attn.pc")).read_text()
    assert re.search(r"^Version: (.*)$", pc, re.M).group(1) == VERSION
    assert (BUILD / "clients" / "c" / f"libattn.so.{VERSION}").exists()


def test_all_pages_of_the_manual_say_it():
    pages = [page for page in BUILD.glob("clients/cli/**/*.[18]") if page.is_file()]
    assert {"attnd.8", "attnctl.1"} <= {page.name for page in pages}
    assert {re.search(r'"attnd ([0-9.]+)"', page.read_text()).group(1) for page in pages} == {VERSION}


def schema_of(database):
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


@pytest.mark.parametrize("path", sorted(HISTORIES.glob("*.db.gz")), ids=lambda path: path.name.split(".")[0])
def test_a_history_of_an_earlier_schema_says_what_it_always_said(path, tmp_path):
    """None is ever edited: see its README."""
    database, name = tmp_path / "history.db", path.name[:-len(".db.gz")]
    database.write_bytes(gzip.decompress(path.read_bytes()))
    assert name == f"schema-{schema_of(database)}"
    attnd = Attnd(*make_history.SETTINGS, f"history.path={database}")
    always = json.loads((HISTORIES / f"{name}.json").read_text())
    always["metrics"] = [metric for metric in always["metrics"] if metric not in REMOVED]
    assert make_history.said(attnd) == always
    assert attnd.call("alerts", job=make_history.JOB)["alerts"][0]["state"] == "firing_at_end", "it was a resolved one"
    attnd.close()
    schema = (ROOT / "daemon" / "store" / "schema.c").read_text()
    assert schema_of(database) == max(map(int, re.findall(r"version_(\d+)", schema)))


def test_a_request_that_attnd_is_too_old_for_says_what_to_update():
    attnd = Attnd()
    ask = "from attnd.results import control\ncontrol.__version__ = {!r}\ntry:\n    control.Control(address={!r}).call('dance')\n" \
          "except control.ControlError as error:\n    print(error)"
    assert said(sys.executable, "-c", ask.format(VERSION, attnd.directory)) == "the method is unknown: dance (method_unknown)"
    assert said(sys.executable, "-c", ask.format("99.0.0", attnd.directory)) == (
        f"the method is unknown: dance; attnd {VERSION} is too old for what was asked, update attnd (method_unknown)")
