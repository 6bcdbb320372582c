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
FRAMEWORKS = {"pandas", "wandb"}  # tests/frameworks runs what imports them
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


# Has loaded what takes seconds to load, and is forked for each program that a page runs: one at a time.
WARM = """
import atexit, gc, json, os, runpy, socket, sys, threading, traceback
import matplotlib.backends.backend_agg, matplotlib.backends.backend_pdf, matplotlib.backends.backend_svg, matplotlib.pyplot, torch
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(sys.argv[1] + ".new")
server.listen()
gc.freeze()
os.rename(sys.argv[1] + ".new", sys.argv[1])
while True:
    client, _ = server.accept()
    said, files, _, _ = socket.recv_fds(client, 1 << 20, 3)
    child = os.fork()
    if child == 0:
        break
    client.send(bytes([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 255]))
    for one in (client.detach(), *files):
        os.close(one)
words, directory, environment = json.loads(said)
for one in (server.detach(), client.detach()):
    os.close(one)
for number, one in enumerate(files):
    os.dup2(one, number)
    os.close(one)
os.chdir(directory)
os.environ.clear()
os.environ.update(environment)
sys.argv = words[1:] if words[0] == "-m" else ["-c", *words[2:]] if words[0] == "-c" else words
sys.path.insert(0, os.path.dirname(words[0]))
status = 0
try:
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] in ("-", "-c"):
        exec(sys.stdin.read() if words[0] == "-" else words[1], {"__name__": "__main__"})
    else:
        runpy.run_path(words[0], run_name="__main__")
except SystemExit as end:
    if isinstance(end.code, str):
        print(end.code, file=sys.stderr)
    status = end.code if isinstance(end.code, int) else int(end.code is not None)
except BaseException:
    status = traceback.print_exc() or 1
threading._shutdown()
atexit._run_exitfuncs()
sys.stdout.flush()
os._exit(status)  # to take all apart that was loaded takes long
"""
ASK = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.connect(sys.argv[1])
socket.send_fds(server, [json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()], [0, 1, 2])
sys.exit(server.recv(1)[0])
"""


class WarmPython:
    """A Python whose programs have PyTorch and matplotlib at once. `path`: what runs them."""

    def __init__(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="warm-"))
        self.path, listens, ask = (self.directory / name for name in ("python3", "listens", "ask"))
        ask.write_text(ASK)
        self.path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{ask}" "{listens}" "$@"\n')
        self.path.chmod(0o700)
        self.process = subprocess.Popen([sys.executable, "-c", WARM, listens],
                                        env={**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python")})
        wait_until(lambda: listens.exists() or self.process.poll() is not None, "a Python with PyTorch", 4 * PATIENCE_S)

    def close(self):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.directory)


class Reader:
    """Somebody with attnd, attnctl and the Python client in reach, in an empty directory."""

    def __init__(self, python=sys.executable):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="site-"))  # a socket's path is short
        self.log = self.directory / "log"
        self.groups = []
        self.port = free_ports(5)
        for name in ("run", "bin", "work"):
            (self.directory / name).mkdir(mode=0o700)
        for name, target in (("attnd", ATTND), ("attnctl", os.environ.get("ATTNCTL_BIN", "build/clients/cli/attnctl")),
                             ("python3", python)):
            program = self.directory / "bin" / name
            program.write_text(f'#!/bin/sh\nexec "{os.path.abspath(target)}" "$@"\n')
            program.chmod(0o700)
        self.environment = {**os.environ, "PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}",
                            "PYTHONPATH": str(ROOT / "clients" / "python"), "ATTND_PYTHON": str(python),
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
