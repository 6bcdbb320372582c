# SPDX-License-Identifier: MIT
"""attnctl top in a terminal that can be read: tmux, with a server of its own per test."""
import os
import re
import subprocess
import sys
import uuid

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))

from harness import ATTNCTL, Attnd, wait_until  # noqa: E402

INTERVAL_S = 0.2  # between two looks of top


class Terminal:
    """A pane with a shell in it, as a user has; `environment` comes on top of what tmux gives."""

    def __init__(self, width=80, height=24, **environment):
        self.name = f"attnd-{uuid.uuid4().hex[:12]}"
        settings = {"LC_ALL": "C.UTF-8", **environment}
        arguments = [item for pair in settings.items() for item in ("-e", "=".join(pair))]
        self.tmux("new-session", "-d", "-x", str(width), "-y", str(height), *arguments, "sh")
        self.wait_for(r"^[#$]")

    def tmux(self, *arguments):
        environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        environment["LC_ALL"] = "C.UTF-8"
        return subprocess.run(["tmux", "-L", self.name, "-f", "/dev/null", *arguments], env=environment, text=True,
                              capture_output=True, check=True).stdout

    def text(self, *options):
        return self.tmux("capture-pane", "-p", *options)

    def lines(self):
        return self.text().split("\n")

    def wait_for(self, pattern):
        """Waits until the screen matches; returns the match."""
        def found():
            return re.search(pattern, self.text(), re.MULTILINE)

        try:
            return wait_until(found, pattern)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}") from None

    def type(self, *keys):
        self.tmux("send-keys", *keys)

    def run(self, command):
        self.tmux("send-keys", "-l", command)
        self.type("Enter")

    def resize(self, width, height):
        self.tmux("resize-window", "-x", str(width), "-y", str(height))

    def is_alternate(self):
        return self.tmux("display-message", "-p", "#{alternate_on}").strip() == "1"

    def shows_cursor(self):
        return self.tmux("display-message", "-p", "#{cursor_flag}").strip() == "1"

    def close(self):
        subprocess.run(["tmux", "-L", self.name, "kill-server"], capture_output=True, check=False)


@pytest.fixture
def open_terminal():
    opened = []

    def make(*arguments, **environment):
        opened.append(Terminal(*arguments, **environment))
        return opened[-1]

    yield make
    for terminal in opened:
        terminal.close()


@pytest.fixture(autouse=True)
def nothing_left_behind():
    yield
    while Attnd.all:
        Attnd.all.pop().discard()


def command(attnd, *arguments):
    """The line that starts top on an attnd."""
    return " ".join([os.path.abspath(ATTNCTL), "top", *arguments, "--endpoint", attnd.endpoint("control"),
                     "--interval", str(INTERVAL_S)])


@pytest.fixture
def open_top(open_terminal):
    """A terminal in which top is started on an attnd."""
    def make(attnd, *arguments, size=(), **environment):
        terminal = open_terminal(*size, **environment)
        terminal.run(command(attnd, *arguments))
        return terminal

    return make
