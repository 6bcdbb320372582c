# SPDX-License-Identifier: MIT
"""`python -m attnd` on set-ups that are really broken: each is named, with what to do; and on one that is well."""
import http.server
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request

import msgpack
import pytest
import zmq
from harness import ATTND, PATIENCE_S, Attnd, Trainer, softmax_maps, wait_until
from test_start import PROGRAMS, executable, without_users

from attnd import doctor as checks
from attnd.doctor import examine
from attnd.sending.scalars import NOT_CAPTURED

PACKAGE = os.path.join(os.path.dirname(__file__), "..", "..", "clients", "python")
PAGE = ("http.enabled=true", "http.endpoint=tcp://127.0.0.1:*")


def doctor(*arguments, flags=(), well=False, **more):
    """{subject: [its lines, each with what to do]}. `well`: nothing may be wrong."""
    places = {name: os.environ[name] for name in ("XDG_RUNTIME_DIR", "XDG_STATE_HOME")}
    environment = {"PATH": "/usr/bin:/bin", "HOME": os.path.dirname(places["XDG_STATE_HOME"]), **places, "PYTHONPATH": PACKAGE,
                   "PYTHONDONTWRITEBYTECODE": "1", "ATTND_BIN": os.path.abspath(ATTND), **more}
    done = subprocess.run([sys.executable, *flags, "-m", "attnd", *arguments], env=environment, capture_output=True, text=True,
                          timeout=120)
    assert done.stderr == ""
    lines = re.sub(r"\n {6,}-> ", " -> ", done.stdout).splitlines()
    found = {}
    for line in lines[:-2]:
        found.setdefault(line.split()[0], []).append(" ".join(line.split()[1:]))
    wrong = sum(text.startswith("WRONG") for texts in found.values() for text in texts)
    notes = ", ".join(subject for subject, texts in found.items() if any(text.startswith("- ") and " -> " in text for text in texts))
    assert lines[-1] == (f"{wrong} thing{'s' * (wrong > 1)} wrong" if wrong else f"nothing is wrong; look at: {notes}" if notes else "all is well")
    assert done.returncode == (1 if wrong else 0) and not (well and wrong), done.stdout
    return found


def place():
    return f"{os.environ['XDG_RUNTIME_DIR']}/attnd"


def start(*settings, **more):
    os.makedirs(place(), 0o700, exist_ok=True)
    return Attnd(*settings, directory=place(), **more)


class Responder:
    """Answers control requests as an attnd of another version or with another clock would."""

    def __init__(self, directory, **ping):
        os.makedirs(directory, 0o700)
        self.ping = {"version": "0.1.0", "uptime_s": 1.0, "directory": directory, "ingest": "", **ping}
        self.context = zmq.Context()
        self.sockets = [self.context.socket(zmq.SUB), self.context.socket(zmq.ROUTER)]
        self.sockets[0].bind(f"ipc://{directory}/ingest")
        self.sockets[1].bind(f"ipc://{directory}/control")
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while not self.ended.is_set():
            if self.sockets[1].poll(20):
                *route, request = self.sockets[1].recv_multipart()
                _, number, method, _ = msgpack.unpackb(request)
                history = {"path": None, "reason": "switched off", "size": 0, "waiting": 0}
                answer = {"ping": self.ping, "jobs": [], "runs": {"runs": []}}.get(method, {"history": history})
                self.sockets[1].send_multipart([*route, msgpack.packb([1, number, None, answer])])

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.ended.set()
        self.thread.join()
        self.context.destroy(linger=0)


def test_all_is_well():
    start(*PAGE)
    found = doctor(well=True)
    assert re.fullmatch(r"ok http://127.0.0.1:\d+/", found["page"][0])
    assert re.fullmatch(r"ok attnd \S+ answers at ipc://\S+/attnd/control within \d+ ms, up \d+ s", found["daemon"][0])
    assert found["program"] == [f"ok {os.path.abspath(ATTND)} is version {found['client'][0].split()[2]}"]
    assert found["history"][0].startswith(f"ok {place()}/history.db, ") and found["clock"][0].startswith("ok ")
    assert "pyzmq" in found["packages"][0] and found["processor"]


def test_nothing_that_is_heavy_is_imported():
    """And importing attnd takes nothing but Python's own."""
    script = "import sys, attnd{}; heavy = {{'torch', 'numpy', 'zmq', 'msgpack', 'transformers', 'ctypes', 'subprocess'}}\n" \
             "print(sorted(heavy.intersection(sys.modules)))"
    for more, expected in (("", "[]"), (", attnd.doctor", "['subprocess']")):
        done = subprocess.run([sys.executable, "-c", script.format(more)], capture_output=True, text=True, check=True,
                              env={"PYTHONPATH": PACKAGE, "PYTHONDONTWRITEBYTECODE": "1"})
        assert done.stdout.strip() == expected


@pytest.mark.parametrize("version, state", [("1.12.1", "WRONG"), ("1.13.0a0", "ok"), ("2.15.1+cu132", "ok"), ("2.16.0", "-")])
def test_a_torch_that_was_not_tested(monkeypatch, version, state):
    monkeypatch.setattr(checks, "_version_of_package", lambda name: version if name == "torch" else None)
    found, = checks._about_frameworks()
    assert (found.state, found.text) == (state, f"torch {version}")
    assert ("newer than 2.15, the newest that attnd.watch was tested with" in found.remedy) == (version == "2.16.0")


def test_a_spool(tmp_path):
    directory = tmp_path / "spool"
    assert "made by the first" in doctor(ATTND_SPOOL=str(directory))["spool"][0]
    directory.mkdir()
    (directory / "0123456789abcdef-00000001.rec").write_bytes(bytes(2048))
    assert "1 files of 2 KiB" in doctor(ATTND_SPOOL=str(directory))["spool"][0]
    assert doctor(ATTND_SPOOL=str(directory / "0123456789abcdef-00000001.rec"))["spool"][0].startswith("WRONG")
    assert "spool" not in doctor()


def test_no_daemon():
    found = doctor()
    assert found["daemon"] == ['WRONG no attnd answers -> start one: attnd, or attnd.watch(..., start="auto")']
    assert " for an attnd without settings of its own, " in found["history"][0]


def test_a_socket_that_is_left_over():
    daemon = start()
    daemon.stop(signal.SIGKILL)
    assert (f"WRONG {place()}/ingest is left over by an attnd that has ended: nobody listens there -> "
            "start attnd again, which takes it over") in doctor()["address"]


def test_a_socket_that_is_left_over_beside_an_attnd_that_answers_or_elsewhere(tmp_path):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/control")
    report = checks.report([checks.Finding("client", checks.OK, "here"), *checks._about_sockets(str(tmp_path), checks.NOTE)])
    assert "is left over by an attnd that has ended" in report and report.endswith("\n\nnothing is wrong; look at: address")
    assert f"-> rm -r {tmp_path}: clients pass it over, as another attnd answers" in report
    (found,) = checks._about_sockets(str(tmp_path), checks.WRONG)
    assert found.remedy == f"start attnd there again, which takes it over: attnd --address {tmp_path}"


def test_a_directory_that_others_can_write_to():
    start()
    os.chmod(place(), 0o777)
    assert (f"WRONG {place()}: others can write to it (mode 0777); clients pass it over -> chmod 700 {place()} when it is "
            "yours, else remove it; then start attnd again") in doctor()["address"]


@pytest.mark.parametrize("version, older", [("0.0.9", "the daemon is older"), ("99.0.0", "the client is older")])
def test_a_daemon_of_another_version(version, older):
    with Responder(place(), version=version, time_ns=time.time_ns()):
        found = doctor()
    assert re.match(rf"WRONG attnd {version} answers at .*; this client is version \S+ -> {older}", found["daemon"][0])
    assert found["history"] == ["WRONG attnd keeps none: switched off -> set history.enabled to true"]


def test_a_clock_that_is_wrong():
    with Responder(place(), time_ns=time.time_ns() - 3600 * 10**9):
        found = doctor()
    assert re.match(r"WRONG attnd's clock is 3\d\d\d\.\d s behind this machine's -> set both clocks", found["clock"][0])


def test_a_training_of_which_nothing_is_captured(rng):
    daemon = start()
    deaf, heard = Trainer(daemon, "deaf"), Trainer(daemon, "heard")
    deaf.event("hello")
    heard.event("hello")
    heard.attention(softmax_maps(rng, 1, 1, 8, 8))
    wait_until(lambda: daemon.stats()["processed"] == 3, "what was sent")
    found = doctor(well=True)
    assert len(found["job"]) == 1
    assert found["job"][0].startswith("- attnd hears of deaf, and has no attention of it yet -> ")


def test_attention_that_a_training_leaves_out():
    daemon = start("history.commit=20ms")
    why = "layers.0: it computes 2 of its 4 heads on each rank"
    for job, settings in (("heard", {"lr": 0.5}), ("shared", {NOT_CAPTURED: f"{why}. Say which: tensor_parallel=(index, size)"})):
        Trainer(daemon, job).event("hello", settings=settings, layers=[dict(stack="decoder", layer=0, site="self", heads=4)])
    wait_until(lambda: any(NOT_CAPTURED in run["settings"] for run in daemon.call("runs")["runs"]), "the run in the history")
    found = doctor(well=True)
    assert found["job"] == [f"- attention of shared is not captured: {why} -> Say which: tensor_parallel=(index, size)"]


def test_a_disk_that_is_full(rng):
    daemon = start("history.commit=20ms", "history.checkpoint=100ms")
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    trainer = Trainer(daemon, "job")
    trainer.attention(softmax_maps(rng, 1, 1, 8, 8))
    trainer.event("epoch_end")
    reason = wait_until(lambda: daemon.stats()["history"]["reason"], "the disk is full")
    assert doctor()["history"] == [f"WRONG attnd keeps nothing new: {reason} -> make the file and its directory writable for this user: "
                                   "attnd then goes on by itself, and writes what it holds; if it ends before that, it loses it"]


def test_a_history_that_is_damaged(rng):
    daemon = start("history.commit=20ms")
    os.makedirs(f"{place()}/history.db.repaired")  # in the way of a repair
    trainer = Trainer(daemon, "job")
    trainer.attention(softmax_maps(rng, 1, 1, 8, 8))
    trainer.event("bye")
    wait_until(lambda: daemon.stats()["stored"] and not daemon.stats()["history"]["waiting"], "the history")
    with sqlite3.connect(f"{place()}/history.db", timeout=20) as database:
        wait_until(lambda: database.execute("UPDATE states SET data = x'0102'").rowcount > 0, "a state")
        database.commit()
    with pytest.raises(RuntimeError):
        daemon.call("history", job="job")
    wait_until(lambda: "others are answered" in daemon.stats()["history"]["damaged"], "no repair")
    assert re.match(r"WRONG \S+/history.db: the history is damaged: .* -> attnd's log says why it was not repaired: ",
                    doctor()["history"][0])


def test_a_history_that_cannot_be_read():
    os.makedirs(place(), 0o700)
    with open(f"{place()}/history.db", "w") as file:
        file.write("this is a letter")
    start()
    assert doctor()["history"][0].startswith(f"WRONG attnd keeps none: {place()}/history.db: the file is there and is not a "
                                          "database -> make the file")


def test_a_config_that_was_broken():
    daemon = start(config="plan: {every: 5}\n")
    daemon.rewrite("plan: {every: often}\n")
    wait_until(lambda: daemon.stats()["config_refused"], "the refusal")
    found = doctor()
    assert found["config"][0].startswith("WRONG attnd has refused its config") and "--check-config" in found["config"][0]


def test_a_page_that_refuses_its_user(tmp_path, monkeypatch):
    """What it says to do is done."""
    monkeypatch.setattr("harness.ATTND", without_users(tmp_path / "attnd"))
    daemon = start(*PAGE)
    found = doctor()
    make, setting = re.fullmatch(
        r"WRONG http://127.0.0.1:\d+/ refuses you: the kernel does not say whose connection this is: it needs a token; this "
        r"attnd has none: start it with http.token_file -> make a token: (\(.*> FILE\)); start attnd anew by "
        r"hand: kill \$\(pidof attnd\); sleep 1; attnd --set (\S+=FILE); the page then asks for what is in FILE", found["page"][0]).groups()
    token = tmp_path / "token"
    subprocess.run(make.replace("FILE", str(token)), shell=True, check=True)
    assert token.stat().st_mode & 0o777 == 0o600
    daemon.close()
    start(*PAGE, setting.replace("FILE", str(token)))
    found = doctor(well=True)
    assert found["page"][0].endswith(
        " -> give it a token of the file that http.token_file names (attnctl config)")
    page = re.match(r"- (\S+) asks for a token: the kernel does not say", found["page"][0])[1]
    question = urllib.request.Request(f"{page}api/v1/jobs", headers={"Authorization": f"Bearer {token.read_text().strip()}"})
    with urllib.request.urlopen(question, timeout=PATIENCE_S) as answer:
        assert answer.read() == b"[]"


def test_a_page_of_the_service_that_refuses_its_user(tmp_path, monkeypatch):
    """Its administrator can change that, and nobody else."""
    monkeypatch.setattr("harness.ATTND", without_users(tmp_path / "attnd"))
    monkeypatch.setattr("attnd.base.address.SERVICE", place())
    start(*PAGE)
    page, = (finding for finding in examine(place()) if finding.subject == "page")
    assert page.state == "WRONG" and " refuses you: the kernel does not say" in page.text
    assert page.remedy == ("ask the administrator of this service: the page answers root, members of the group attnd, users that "
                           "http.users names, and all who have a token of http.token_file")


def test_a_daemon_that_is_stopped():
    daemon = start()
    daemon.process.send_signal(signal.SIGSTOP)
    found = doctor()
    daemon.process.send_signal(signal.SIGCONT)
    assert found["daemon"][0].startswith("WRONG ") and "it is stopped (kill -CONT goes on), or very busy" in found["daemon"][0]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_cannot_be_used(tmp_path, program):
    make, expected = PROGRAMS[program]
    found = doctor(ATTND_BIN=make(tmp_path / "attnd"))
    if program == "version":
        assert re.match(r"WRONG \S+/attnd is version 0.0.1, this client \S+ -> pip install", found["program"][0])
    else:
        assert re.search(re.sub(": (?=pip|chmod|build)", " -> ", expected), found["program"][0]) and found["program"][0].startswith("WRONG ")


def test_no_program():
    found = doctor(ATTND_BIN="", PATH="/nowhere")
    assert found["program"][0].startswith("WRONG no attnd beside this Python's scripts, nor in PATH -> pip install")


def test_two_programs_and_two_clients(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, version in zip(folders, ("0.1.0", "0.0.8")):
        folder.mkdir()
        executable(folder / "attnd", f"#!/bin/sh\necho attnd {version}\n")
    package = tmp_path / "packages" / "attnd-0.0.7.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: attnd\nVersion: 0.0.7\n")
    found = doctor(ATTND_BIN="", PATH=f"{folders[0]}:{folders[1]}:/usr/bin:/bin",
                   PYTHONPATH=f"{PACKAGE}:{package.parent}")
    assert f"WRONG {folders[1]}/attnd is version 0.0.8: there are two, and this Python starts {folders[0]}/attnd -> remove " \
           "one of them, or have ATTND_BIN name the one to start" in found["program"]
    assert "but pip has installed 0.0.7: there are two -> uninstall one" in found["client"][0]


def test_a_port_of_somebody_else():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        server.RequestHandlerClass.log_message = lambda *said: None
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        address = f"tcp://127.0.0.1:{server.server_port}"
        for _ in range(5):
            found = doctor("--address", address)
            if "somebody who is silent" not in found["daemon"][0]:  # as the server is for as long as the machine stands still
                break
        server.shutdown()
        serving.join()
    assert found["address"] == [f"ok {address} (--address)"]
    assert f"{address} is a server of HTTP, not attnd" in found["daemon"][0] and "name another address" in found["daemon"][0]


def test_an_address_that_is_none():
    found = doctor(ATTND_ADDRESS="localhost:5570")
    assert found["address"] == ["WRONG ATTND_ADDRESS: 'localhost:5570': write tcp://localhost:5570 -> name a directory, or "
                                "leave ATTND_ADDRESS out"]


def test_no_runtime_directory(tmp_path):
    found = doctor(XDG_RUNTIME_DIR=f"{tmp_path}/gone")
    assert found["address"][0] == (f"WRONG XDG_RUNTIME_DIR is {tmp_path}/gone, which is no directory: attnd uses "
                                   f"/tmp/attnd-{os.geteuid()} -> unset it, or log in anew, so that the system makes it")


def test_packages_that_are_missing():
    """-S: without those of the distribution."""
    if subprocess.run([sys.executable, "-S", "-c", "import zmq"], capture_output=True).returncode == 0:
        pytest.skip("this Python has its packages without `site`")
    start()
    found = doctor(flags=["-S"])
    assert re.match(r"WRONG .*pyzmq.* cannot be imported by \S+ -> \S+ -m pip install ", found["packages"][0])
    assert found["daemon"][0].startswith("WRONG cannot be asked: ")
