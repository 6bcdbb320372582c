# SPDX-License-Identifier: MIT
"""attnd.watch(..., start="auto"): one daemon for all ranks, which belongs to no training, ends when nobody uses it, and
whose failure costs a training one warning."""
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from harness import ATTND, PATIENCE_S, Attnd, Trainer, wait_until
from web import Web, write_tokens

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")

TRAIN = """
import time, torch, attnd, attnd.capture.start as start
start.IDLE = "5s"
model = torch.nn.MultiheadAttention(8, 2, batch_first=True)
with attnd.watch(model, "auto", start="auto", every=1, steps="manual", wait=60) as w:
    until = time.monotonic() + 90
    while not w.stats()["sent_bytes"] and time.monotonic() < until:
        model(*[torch.randn(2, 4, 8)] * 3)
        w.step()
print("trained")
input()
"""

# Nine steps in windows of three.
WINDOWS = """
import time, torch, attnd, attnd.capture.start as start
start.IDLE = "5s"
model = torch.nn.MultiheadAttention(8, 2, batch_first=True)
with attnd.watch(model, "auto", start="auto", every=1, window="3 steps", steps="manual", wait=60) as w:
    for _ in range(9):
        model(*[torch.randn(2, 4, 8)] * 3)
        w.step()
    w.publisher.drain(60)
with attnd.Control() as control:
    until = time.monotonic() + 60
    while control.jobs()[0]["state"] != "ended" and time.monotonic() < until:
        time.sleep(0.01)
    print({key: control.summary("auto")[0]["window"][key] for key in ("unit", "first", "last", "length", "every")})
    print(control.stats()["dropped"])
"""

# A training without a program, one that starts its attnd, and one that finds one.
LEFT = """
import logging, os, time, torch, attnd, attnd.sending.presence, attnd.capture.start as start
attnd.sending.presence.GONE_AFTER_S = 0
start.AGAIN_S = 1
said = []
class Handler(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("attnd").addHandler(Handler())
model = torch.nn.MultiheadAttention(8, 2, batch_first=True)
def train(start, **keys):
    return attnd.watch(model, "left", start=start, every=1, steps="manual", **keys)
def train_until(w, done):
    until = time.monotonic() + 90
    while not done() and time.monotonic() < until:
        model(*[torch.randn(2, 4, 8)] * 3)
        w.step()
program, os.environ["ATTND_BIN"] = os.environ["ATTND_BIN"], "/nowhere/attnd"
with train("auto", wait=0) as w:
    train_until(w, lambda: said)
print(*said, sep=chr(10), flush=True)
os.environ["ATTND_BIN"] = program
for start in "auto", None:
    said.clear()
    input()
    with train(start, wait=60) as w:
        train_until(w, lambda: w.stats()["sent_bytes"])
        sent = w.stats()["sent_bytes"]
        print("trained", flush=True)
        train_until(w, lambda: len(said) == 2)
        train_until(w, lambda: w.stats()["sent_bytes"] > sent)
        print(w.stats()["sent_bytes"] > sent, *said, sep=chr(10), flush=True)
"""

RANK = """
import sys, attnd.capture.start as start
rank = start.starter_for("auto", None, None, int(sys.argv[1]))
rank.wait(60)
print("there" if start.addresses.knock(sys.argv[2], "ingest") is None else "not there", flush=True)
input()
"""

# As many at once as are asked for, each in a fork. All live until each has said what it finds.
RANKS = """
import os, sys, attnd.capture.start as start
found, said = os.pipe()
stays, ends = os.pipe()
for number in range(int(sys.argv[1])):
    if os.fork() == 0:
        os.close(ends)
        rank = start.starter_for("auto", None, sys.argv[3] or None, number)
        rank.wait(60)
        os.write(said, b"x" if start.addresses.knock(sys.argv[2], "ingest") is None else b"")
        os.close(said)
        os.read(stays, 1)
        sys.exit()
os.close(said)
while os.read(found, 1):
    print("there")
os.close(ends)
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
"""

# Rank 0 with one program after the other.
UNUSABLE = """
import os, sys, attnd.capture.start as start
for program in sys.argv[2:]:
    os.environ["ATTND_BIN"] = program
    rank = start.starter_for("auto", None, None, 0)
    rank.wait(60)
    rank.close()
    print("there" if start.addresses.knock(sys.argv[1], "ingest") is None else "not there", flush=True)
"""

TAKE_PORT = """
import fcntl, socket, struct
taken = socket.socket()
fcntl.ioctl(taken, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
taken.bind(("127.0.0.1", 5580))
taken.listen()
"""


class Host:
    """What the environment of a training says, and the processes of it."""

    def __init__(self, tmp_path):
        self.runtime = os.environ["XDG_RUNTIME_DIR"]  # as conftest.py has made it
        self.place = f"{self.runtime}/attnd"
        self.state = f"{tmp_path}/state/attnd"
        self.environment = {
            "PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": self.runtime, "OMP_NUM_THREADS": "1",
            "XDG_STATE_HOME": f"{tmp_path}/state", "PYTHONPATH": os.path.join(ROOT, "clients", "python"),
            "PYTHONDONTWRITEBYTECODE": "1", "ATTND_BIN": os.path.abspath(ATTND), "NOTIFY_SOCKET": f"{tmp_path}/none"}
        self.running = []

    def python(self, script, *arguments, before=(), **more):
        process = subprocess.Popen([*before, sys.executable, "-c", script, *arguments], env={**self.environment, **more}, text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   start_new_session=True)
        self.running.append(process)
        return process

    def rank(self, number=0, script=RANK, **more):
        return self.python(script, str(number), self.place, **more)

    def logged(self):
        return "".join(path.read_text(errors="replace") for path in Path(self.state).glob("*.log"))

    def pids(self):
        """Of all daemons that were started, dead or alive."""
        return [int(pid) for pid in re.findall(r"event=started .* pid=(\d+)", self.logged())]

    def leave(self):
        for process in self.running:
            process.kill()
            process.communicate()
        for pid in self.pids():
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def host(tmp_path):
    here = Host(tmp_path)
    yield here
    here.leave()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/cmdline") as command:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX" and "attnd" in command.read()
    except OSError:
        return False


def descriptors(pid):
    """Its pipes and sockets, which two processes have in common when one has inherited them."""
    links = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.add(os.readlink(path))
    return {link for link in links if link.startswith(("pipe:", "socket:"))}


def line_of(pipe):
    """The next line that a process says; one that says none fails the test."""
    lines = []
    reader = threading.Thread(target=lambda: lines.append(pipe.readline()), daemon=True)
    reader.start()
    reader.join(PATIENCE_S + 60)
    assert lines, "nothing was said"
    return lines[0]


def finish(process):
    """What a process has said once it may go on to its end; it was to say "trained" or "there"."""
    out, said = process.communicate("\n", timeout=PATIENCE_S + 60)
    assert process.returncode == 0, said
    return out.strip(), said


def test_the_daemon_belongs_to_nobody_and_ends_when_nobody_uses_it(host):
    training = host.python(TRAIN)
    assert line_of(training.stdout) == "trained\n"
    pid, = host.pids()
    assert os.getsid(pid) not in (os.getsid(0), training.pid) and os.getpgid(pid) != training.pid
    with open(f"/proc/{pid}/stat") as stat:
        parent, _, _, terminal = stat.read().rpartition(")")[2].split()[1:5]
    assert int(parent) not in (training.pid, os.getpid()) and terminal == "0"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    with open(f"/proc/{pid}/environ") as environment:
        assert "NOTIFY_SOCKET" not in environment.read()
    assert not descriptors(pid) & descriptors(training.pid)
    os.killpg(training.pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the daemon ends")
    assert "event=stopping reason=idle" in host.logged() and "event=stopped received=" in host.logged()
    _, said = training.communicate()
    assert said.splitlines()[1:] == [f"attnd: the page is {page}#/overview?job=auto on {os.uname().nodename}" for page in
                                     re.findall(r"http=tcp(://\S+)", host.logged()) for page in [f"http{page}/"]]
    assert re.fullmatch(rf"attnd: version \S+ was started \(process {pid}, log {host.state}/\S+\.log\); "
                        r"it ends when nobody has used it for 5s", said.splitlines()[0])


def test_the_one_that_is_started_has_the_windows_that_the_job_asks_for(host):
    window = {"unit": "step", "first": 6, "last": 8, "length": 3, "every": 3}
    assert finish(host.python(WINDOWS))[0].splitlines() == [str(window), "{}"]


@pytest.mark.parametrize("count, named", [(8, False), (2, True)])
def test_several_ranks_start_one(host, count, named):
    place = tempfile.mkdtemp(prefix="attnd-") if named else host.place
    try:
        out, words = finish(host.python(RANKS, str(count), place, place if named else ""))
        assert out.split() == ["there"] * count and len(host.pids()) == 1
        assert words.count("was started") == 1 and words.count("the page is http://") == 1
        assert "WARNING" not in words and len(words.splitlines()) == 2
    finally:
        if named:
            shutil.rmtree(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have ports of its own")
@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_has_ended_is_started_again(host, sig):
    """Beside somebody who has the default port: after a kill with its page where it was, else with a page that is told."""
    script = f"{TAKE_PORT}\nimport attnd.capture.start as start; start.LOOK_EVERY_S = start.AGAIN_S = 0.1\n{RANK}"
    rank = host.rank(script=script, before=("unshare", "--net"))
    assert line_of(rank.stdout) == "there\n"
    os.kill(host.pids()[0], sig)
    wait_until(lambda: len(host.pids()) == 2, "another one", 2 * PATIENCE_S)
    pages = re.findall(r"http=tcp(://127.0.0.1:\d+)", host.logged())
    told = [f"attnd: the page is http{page}/#/overview?job=auto on {os.uname().nodename}" for page in dict.fromkeys(pages)]
    lines = [line_of(rank.stderr).strip() for _ in range(2 + len(told))]
    assert [line for line in lines if "page" in line] == told and len(pages) == 2
    assert sum("was started" in line for line in lines) == 2 and finish(rank)[1] == ""
    assert sig == signal.SIGTERM or len(told) == 1


def test_a_training_says_that_attnd_is_not_there_that_it_has_gone_and_that_it_is_back(host):
    training = host.python(LEFT)
    assert line_of(training.stdout) == (
        "job left: attnd could not be started: /nowhere/attnd is not there: pip install 'attnd[daemon]' (with --find-links dist after "
        "deploy/wheel in a checkout of attnd), or have ATTND_BIN name one that is. Training goes on, and is captured once one runs\n")

    def leaves(kill, then):
        training.stdin.write("\n")
        training.stdin.flush()
        assert line_of(training.stdout) == "trained\n"
        kill()
        captured, gone, back = (line_of(training.stdout).strip() for _ in range(3))
        place = f"ipc://{host.place}/ingest"
        assert gone == f"job left: attnd at {place} has gone, or does not answer: nothing is captured until it is back; " \
                       f"training goes on. {then}"
        assert re.fullmatch(rf"job left: attnd is back, at {place}: what follows is captured, \d+ s were not", back)
        assert captured == "True"

    leaves(lambda: os.kill(host.pids()[0], signal.SIGKILL), "If it has ended, it is started again within 1 s")
    pid = host.pids()[-1]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "its end")
    daemon = Attnd(directory=host.place)
    leaves(lambda: (daemon.stop(signal.SIGKILL), daemon.start()), "Start it again: attnd")


def test_one_that_is_there_already_is_used(host):
    os.mkdir(host.place, 0o700)
    Attnd(directory=host.place)
    assert finish(host.rank(ATTND_BIN="/nowhere/attnd")) == ("there", "") and not host.pids()


def test_tcp_and_one_socket_are_not_started(host):
    script = "import attnd.capture.start as s; print(s.starter_for('auto', None, 'tcp://127.0.0.1:1', 0), " \
             "s.starter_for('auto', 'ipc:///tmp/none', None, 0))\ninput()"
    assert finish(host.python(script)) == ("None None", "")
    assert finish(host.python(script.replace("'tcp://127.0.0.1:1'", "None"), ATTND_ADDRESS="tcp://h:1")) == ("None None", "")


def executable(path, text, mode=0o755):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)
    return str(path)


def of_another_processor(path):
    start = bytearray(Path(ATTND).read_bytes()[:4096])
    start[18:20] = (4660).to_bytes(2, "little")
    return executable(path, bytes(start))


PROGRAMS = {
    "missing": (lambda path: str(path), "is not there: pip install"),
    "closed": (lambda path: executable(path, "#!/bin/sh\n", 0o644), "may not be executed: chmod \\+x"),
    "processor": (of_another_processor, r"cannot be run on this machine, \w+ \(Exec format error\): pip install"),
    "broken": (lambda path: executable(path, "#!/bin/sh\necho 'libm.so.6: cannot open shared object file' >&2; exit 127\n"),
               "does not run here .libm.so.6: cannot open shared object file.: pip install"),
    "loader": (lambda path: executable(path, "#!/lib/ld-of-another-libc\n"), "needs the loader of another C library"),
    "version": (lambda path: executable(path, '#!/bin/sh\n[ "$1" = --version ] && echo attnd 0.0.1 && exit\n'
                                        "echo \"attnd: unknown key 'shutdown.idle'\" >&2; exit 2\n"),
                r"attnd: unknown key 'shutdown.idle' \(its log is .*\) \(it is version 0.0.1, this client .*: pip install"),
}


def without_users(path):
    """An attnd in a namespace in which no user has a number, so that it knows nobody."""
    if subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode != 0:
        pytest.skip("no user namespace can be made here")
    return executable(path, f'#!/bin/sh\nexec unshare --user {os.path.abspath(ATTND)} "$@"\n')


def test_a_program_that_cannot_be_used_is_one_warning(host, tmp_path):
    programs = [make(tmp_path / name) for name, (make, _) in PROGRAMS.items()]
    out, said = finish(host.python(UNUSABLE, host.place, *programs))
    assert out.splitlines() == ["not there"] * len(PROGRAMS) and len(said.splitlines()) == len(PROGRAMS)
    for line, (_, expected) in zip(said.splitlines(), PROGRAMS.values()):
        assert re.search(expected, line) and line.startswith("job auto: attnd could not be started: ")
    assert finish(host.rank(1, ATTND_BIN=programs[0])) == ("not there", ""), "rank 0 tells"


def test_another_version_is_started_and_told(host, tmp_path):
    program = executable(tmp_path / "attnd", f'#!/bin/sh\n[ "$1" = --version ] && echo attnd 99.0.0 && exit\n'
                         f'exec {os.path.abspath(ATTND)} "$@"\n')
    out, said = finish(host.rank(ATTND_BIN=program))
    assert out == "there" and "attnd is version 99.0.0 and this client is version" in said


def warning_of_no_history(out, said):
    """The one warning, of an attnd that was started; it is ended here, as its log is not where others have theirs."""
    os.kill(int(re.search(r"process (\d+), log (\S+)\)", said)[1]), signal.SIGKILL)
    warning, = [line for line in said.splitlines() if line.startswith("job auto: ")]
    assert out == "there" and "attnd keeps no history: " in warning
    return warning


def test_a_home_that_cannot_be_written_costs_the_history_and_one_warning(host, tmp_path):
    (tmp_path / "file").write_text("no directory")
    out, said = finish(host.rank(XDG_STATE_HOME=f"{tmp_path}/file"))
    warning = warning_of_no_history(out, said)
    assert f"log {host.place}/attnd-" in said and f"{tmp_path}/file" in warning and "set XDG_STATE_HOME" in warning


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a disk")
def test_a_full_disk_costs_the_history_and_one_warning(host, tmp_path):
    """Of the state, log and history; the training sees one disk, the test another."""
    wrapped = f"""
import os, subprocess
os.mkdir({host.environment["XDG_STATE_HOME"]!r})
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", {host.environment["XDG_STATE_HOME"]!r}], check=True)
subprocess.run(["dd", "if=/dev/zero", "of={host.environment["XDG_STATE_HOME"]}/filler"], stderr=subprocess.DEVNULL)
{RANK}"""
    out, said = finish(host.rank(script=wrapped, before=("unshare", "--mount")))
    assert "disk is full. Mend that, or set XDG_STATE_HOME" in warning_of_no_history(out, said)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can have ports of its own")
def test_a_taken_port_is_another_port_of_the_page(host):
    """In a network where nobody else takes or leaves it."""
    script = f"""
import urllib.request
{TAKE_PORT}
{RANK}
print("<title" in urllib.request.urlopen(open("{host.place}/page").read().strip(), timeout={PATIENCE_S}).read().decode())
"""
    out, said = finish(host.rank(script=script, before=("unshare", "--net")))
    assert out.split() == ["there", "True"]
    port, = re.findall(r"^attnd: the page is http://127.0.0.1:(\d+)/#/overview\?job=auto on ", said, re.M)
    assert port != "5580" and len(said.splitlines()) == 2


def test_a_page_that_refuses_its_user_is_told_with_the_reason(host, tmp_path, monkeypatch):
    """By one that was started, and by one that was there and has a token."""
    program = without_users(tmp_path / "attnd")
    script = f"import attnd.capture.start as start; start.ANSWER_S = {PATIENCE_S}\n" + RANK
    out, said = finish(host.rank(script=script, ATTND_BIN=program))
    assert out == "there" and "event=http_users_unknown" in host.logged()
    assert re.fullmatch(r"attnd: the page is http://127.0.0.1:\d+/#/overview\?job=auto on \S+, but it refuses you: the kernel does "
                        "not say whose connection this is: it needs a token; this attnd has none: start it with "
                        "http.token_file; `python -m attnd` says how", said.splitlines()[1])
    pid, = host.pids()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), "its end")
    write_tokens(tmp_path / "token", "0123456789abcdef")
    monkeypatch.setattr("harness.ATTND", program)
    Web(f"http.token_file={tmp_path}/token", directory=host.place)
    out, said = finish(host.rank(script=script))
    assert re.fullmatch(r"attnd: the page is \S+ on \S+; it asks for a token of http.token_file\n", said)


def test_a_directory_that_others_can_write_to_is_one_warning(host):
    os.mkdir(host.place)
    os.chmod(host.place, 0o777)
    out, said = finish(host.rank())
    assert out == "not there" and len(said.splitlines()) == 1
    assert f"{host.place}: others can write to it (mode 0777): remove it, or have ATTND_ADDRESS name another" in said


def test_without_a_runtime_directory_it_is_in_tmp(person):
    wrapped = f"import os; os.environ.update(ATTND_BIN={os.path.abspath(ATTND)!r}, HOME={person.home!r}, " \
              f"XDG_RUNTIME_DIR='{person.home}/gone')\n{RANK}"
    rank = person.start(sys.executable, "-c", wrapped, "0", person.elsewhere, runtime=False, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, said = finish(rank)
    pid = int(re.search(r"process (\d+), log", said)[1])
    os.kill(pid, signal.SIGTERM)
    assert out == "there" and "could not" not in said
    wait_until(lambda: not alive(pid), "its end")


def test_an_idle_daemon_stays_while_a_trainer_is_connected():
    daemon = Attnd("shutdown.idle=5s")
    trainer = Trainer(daemon, "job")
    for _ in range(120):
        assert daemon.process.poll() is None
        trainer.socket.poll(50)
    trainer.close()
    daemon.context.destroy(linger=0)  # the connections of questions, too
    assert daemon.process.wait(PATIENCE_S) == 0 and "event=stopping reason=idle" in daemon.log_text()
