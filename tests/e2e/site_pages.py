# SPDX-License-Identifier: MIT
"""Pages as what they tell a reader to do, and a place in which that is done: those of the documentation site, and others.

Shell blocks and programs of a page are run in their order. A program with a title is written to a file of that name.
A block is left out when the line above it says why: <!-- not run: REASON -->.
"""
import ast
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

from harness import ATTND, PATIENCE_S, free_ports, wait_until

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ROOT / "deploy" / "site" / "pages"
BLOCK = re.compile(r'^(?:<!-- not run: (?P<reason>[^\n]*) -->\n)?```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n'
                   r"(?P<text>.*?)^```$", re.S | re.M)
FRAMEWORKS = {"transformers", "lightning", "accelerate", "pandas"}  # tests/frameworks runs what imports them
END = "end_of_the_block"


def blocks(page):
    """The blocks of a page that a reader would run, as matches of BLOCK, whether or not they are run here. A page is the
    name of one of the site, or a path."""
    text = (PAGES / f"{page}.md" if isinstance(page, str) else page).read_text(encoding="utf-8")
    found = list(BLOCK.finditer(text))
    assert len(re.findall(r"^```", text, re.M)) == 2 * len(found), f"{page}: a block that is not understood"
    return [block for block in found if block["language"] != "text"]


def imported(program):
    """The packages that a program imports."""
    names = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
    return names


def for_frameworks(block):
    """What a block needs beyond PyTorch 1.13, whose launcher does not run on Python 3.11."""
    if block["language"] == "sh":
        return {"torchrun"} if "torch.distributed.run" in block["text"] else set()
    return imported(block["text"]) & FRAMEWORKS


def script(chosen):
    """What a reader types: blocks as one shell script."""
    lines = []
    for block in chosen:
        assert block["language"] in ("sh", "python"), f"a block of an unknown kind: {block['language']}"
        if block["language"] == "sh":
            lines.append(block["text"])
        elif block["title"]:
            lines.append(f"cat > {block['title']} <<'{END}'\n{block['text']}{END}\n")
        else:
            lines.append(f"python3 - <<'{END}'\n{block['text']}{END}\n")
    return "".join(lines)


class Reader:
    """Somebody with attnd, attnctl and the Python client in reach, in an empty directory."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="site-"))  # a socket's path is short
        self.log = self.directory / "log"
        self.groups = []
        self.port = free_ports(5)
        for name in ("run", "bin", "work"):
            (self.directory / name).mkdir(mode=0o700)
        for name, target in (("attnd", ATTND), ("attnctl", os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")),
                             ("python3", sys.executable)):
            program = self.directory / "bin" / name
            program.write_text(f'#!/bin/sh\nexec "{os.path.abspath(target)}" "$@"\n')
            program.chmod(0o700)
        self.environment = {**os.environ, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
                            "PYTHONPATH": str(ROOT / "clients" / "python"), "ATTND_PYTHON": sys.executable,
                            "XDG_RUNTIME_DIR": str(self.directory / "run"),
                            "XDG_STATE_HOME": str(self.directory / "state")}
        self.environment.pop("ATTND_ADDRESS", None)

    def does(self, text):
        """Runs a script; what it leaves in the background goes on. The default ports may be another's."""
        with open(self.log, "ab") as log:
            process = subprocess.Popen(["bash", "-euxo", "pipefail", "-c", text.replace(":5570", f":{self.port}")],
                                       cwd=self.directory / "work", env=self.environment, start_new_session=True,
                                       stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.groups.append(process.pid)
        status = process.wait(4 * PATIENCE_S)
        assert status == 0, f"exit status {status}:\n" + self.log.read_text(errors="replace")[-6000:]

    def made(self, name):
        """A file that a page says how to make."""
        return self.directory / "work" / name

    def leaves(self):
        for group in self.groups:
            self._signal(group, signal.SIGTERM)
            try:
                wait_until(lambda one=group: not self._signal(one, 0), "the end of what a page has started")
            finally:
                self._signal(group, signal.SIGKILL)
        for pid in self._started_by_trainings():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _started_by_trainings(self):
        """start="auto" leaves attnd in a session of its own."""
        logs = "".join(path.read_text() for path in (self.directory / "state" / "attnd").glob("*.log"))
        for pid in map(int, re.findall(r" event=started .* pid=(\d+)", logs)):
            try:
                command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
            except FileNotFoundError:
                continue
            if os.path.basename(ATTND).encode() in command:
                yield pid

    @staticmethod
    def _signal(group, number):
        """Whether there was anybody to signal."""
        try:
            os.killpg(group, number)
        except ProcessLookupError:
            return False
        return True
