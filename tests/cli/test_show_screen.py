# SPDX-License-Identifier: MIT
"""attnctl show in a real terminal, tmux: what stands on the screen, at several sizes, with and without UTF-8 and
colours."""
import os
import re
import shlex
import subprocess
import time

import pytest
from invoke import ATTNCTL, npz
from test_show import columns, of_shape

PATIENCE_S = 30


class Screen:
    """A terminal of its own tmux server."""

    def __init__(self, directory, width, height, **environment):
        self.tmux = ["tmux", "-S", str(directory / "tmux"), "-f", "/dev/null"]
        # tmux asks its own locale whether it may use UTF-8.
        self.env = {key: value for key, value in os.environ.items()
                    if key not in ("NO_COLOR", "COLORTERM", "LC_ALL", "TMUX", "LANG")}
        self.env["LC_ALL"] = "C.UTF-8"
        self.environment = environment
        self.number = 0
        self.call("new-session", "-d", "-x", str(width), "-y", str(height), "sh")
        self.run("true")

    def call(self, *arguments):
        return subprocess.run(self.tmux + list(arguments), capture_output=True, text=True, encoding="utf-8", check=True,
                              env=self.env, timeout=PATIENCE_S).stdout

    def run(self, *command):
        """Runs it on an empty screen. Returns what stands there then, without the line that says that it has ended."""
        self.number += 1
        words = ["env", *(f"{key}={value}" for key, value in self.environment.items()), *map(str, command)]
        line = f"PS1=; clear; {shlex.join(words)}; echo ended '{self.number}' with $?"
        self.call("send-keys", "-l", line)
        self.call("send-keys", "Enter")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            text = self.call("capture-pane", "-p")
            ended = re.search(rf"^ended {self.number} with (\d+)$", text, re.M)
            if ended:
                self.status = int(ended[1])
                return text[:ended.start()].split("\n")[:-1]
            assert time.monotonic() < deadline, text
            time.sleep(0.02)

    def colored(self):
        return self.call("capture-pane", "-p", "-e")

    def close(self):
        subprocess.run(self.tmux + ["kill-server"], capture_output=True, timeout=PATIENCE_S)


@pytest.fixture
def screens(tmp_path):
    opened = []

    def make(width, height, **environment):
        directory = tmp_path / f"screen{len(opened)}"
        directory.mkdir()
        opened.append(Screen(directory, width, height, **environment))
        return opened[-1]

    yield make
    for screen in opened:
        screen.close()


@pytest.fixture
def maps(tmp_path):
    sizes = {"decoder.0.self": 6, "decoder.1.self": 90}
    return tmp_path / npz(**{name: of_shape(1, 1, 4, size, size, causal=True) for name, size in sizes.items()})


UTF8 = dict(LC_ALL="C.UTF-8", TERM="xterm-256color")
PLAIN = dict(LC_ALL="C.UTF-8", NO_COLOR="1")
WORDS = "the cat sat on the mat"


def framed(lines):
    return [line for line in lines if line.count("\u2502") == 2]


def test_a_small_map_stands_whole_on_a_small_screen(screens, maps):
    screen = screens(80, 24, **PLAIN)
    lines = screen.run(ATTNCTL, "show", maps, "--layer", 0, "--tokens", WORDS, "--only", "map,token")
    assert screen.status == 0
    rows = framed(lines)
    assert [row.split()[:2] for row in rows] == [[str(i), word] for i, word in enumerate(WORDS.split())]
    # The keys' names stand upright above their columns, of two each.
    first = rows[0].index("\u2502")
    above = lines[lines.index(rows[0]) - 3:lines.index(rows[0])]
    for key, word in enumerate(WORDS.split()):
        assert "".join(line.ljust(80)[first + 1 + 2 * key] for line in above).strip() == word
    # The first row has its whole weight on key 0, and nothing to the right.
    assert rows[0][first + 1:first + 13] == "\u2588\u2588" + " " * 10
    assert any(line.startswith("what query 5 'mat' attends to") for line in lines)
    assert not any("\x1b[3" in line or "\x1b[4" in line for line in screen.colored().split("\n"))


@pytest.mark.parametrize("width, height", [(80, 24), (200, 50), (40, 24), (30, 20)])
@pytest.mark.parametrize("environment", [UTF8, PLAIN, dict(UTF8, LC_ALL="C"), dict(PLAIN, LC_ALL="C")],
                         ids=["utf8-colour", "utf8", "ascii-colour", "ascii"])
def test_a_large_map_fits_any_screen(screens, maps, width, height, environment):
    screen = screens(width, height, **environment)
    lines = screen.run(ATTNCTL, "show", maps, "--layer", 1, "--only", "map")
    assert screen.status == 0
    assert lines[0].startswith("map of the mean over")  # nothing has scrolled away
    frame = "\u2502" if environment["LC_ALL"] != "C" else "|"
    rows = [line for line in lines if line.count(frame) == 2]
    inner = {line.rindex(frame) - line.index(frame) - 1 for line in rows}
    assert len(rows) >= 8 and len(inner) == 1 and max(map(len, rows)) <= width
    # Square: as many columns as twice its lines, give or take the last.
    assert abs(inner.pop() - 2 * len(rows)) <= 2
    numbers = [int(row.split(frame)[0]) for row in rows]
    assert numbers[0] == 0 and numbers == sorted(numbers) and numbers[-1] < 90
    assert ("".join(lines).isascii()) == (environment["LC_ALL"] == "C")


def test_colours_are_those_of_the_terminal(screens, maps):
    command = [ATTNCTL, "show", maps, "--layer", 1, "--only", "map"]
    screen = screens(80, 24, **UTF8)
    screen.run(*command)
    assert "\x1b[38;5;" in screen.colored() and "\u2580" in screen.colored()
    screen.environment = dict(UTF8, COLORTERM="truecolor")
    screen.run(*command)
    assert "\x1b[38;2;" in screen.colored()
    for plain in (dict(UTF8, NO_COLOR="1"), dict(UTF8, TERM="dumb"), dict(UTF8, TERM="vt100")):
        screen.environment = plain
        screen.run(*command)
        assert "\x1b[38;" not in screen.colored() and "\x1b[48;" not in screen.colored()


def test_columns_hold_with_any_token(screens, maps, tmp_path):
    """Wide, marked, from right to left, with control characters: percentages stand below each other."""
    labels = ["\u65e5\u672c", "\x1b]0;title\x07", "\u05e9\u05dc\u05d5\u05dd", "e\u0301", "\u202ecat", ""]
    (tmp_path / "labels").write_text("\n".join(labels) + "\n")
    for environment in (PLAIN, dict(PLAIN, LC_ALL="C")):
        screen = screens(80, 24, **environment)
        lines = screen.run(ATTNCTL, "show", maps, "--layer", 0, "--labels", tmp_path / "labels", "--only", "token",
                           "--token", 5)
        bars = [line for line in lines if " %" in line]
        assert len(bars) == 6
        assert len({columns(line[:line.index("%")]) for line in bars}) == 1, bars
        text = "\n".join(lines)
        assert "\\x1b]0;title\\x07" in text and "\\u202ecat" in text and '""' in text
    assert "\\u65e5" in text  # without UTF-8


def test_an_error_is_one_line(screens, maps):
    screen = screens(80, 24, **UTF8)
    lines = screen.run(ATTNCTL, "show", maps, "--layer", 0, "--head", 9)
    assert screen.status == 2
    assert lines == ["attnctl: --head: decoder.0.self has no head 9 (valid: 0 to 3)"]
