# SPDX-License-Identifier: MIT
"""one_daemon: a plugin of pytest, with a daemon for all tests of a file. Test files name it in `pytest_plugins`."""
import pytest
from session import SETTINGS, Attnd, Session, report


@pytest.fixture(scope="module")
def stepwise():
    """A daemon whose windows are steps; each test has a job of its own on it. At the end, with `pytest -s`: how far off
    the numbers were."""
    daemon = Attnd(*SETTINGS)
    Attnd.all.remove(daemon)  # it outlives a test
    report.clear()
    yield daemon
    daemon.close()
    for name, summaries, worst in report:
        print(f"{name:<40} {summaries:>4} summaries, largest relative error {worst:.2e}")


@pytest.fixture(autouse=True)
def nothing_watched():
    """A test that fails leaves no watch to those after it."""
    yield
    for session in Session.all:
        session.close()
        session.watches.clear()
