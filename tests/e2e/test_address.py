# SPDX-License-Identifier: MIT
"""Where attnd listens: in a directory of its own, which nobody else gets into, and which comes back."""
import fcntl
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from harness import ATTND, PATIENCE_S, Attnd, Reader, Trainer, free_ports, softmax_maps, wait_log, wait_until

SOCKETS = ("ingest", "publish", "control", "tap", "reliable")
REASON = ("over TCP any user of this machine, and any web page, could speak to attnd: leave it out, and attnd listens on "
          "Unix sockets that only its user reaches, or configure keys, or set insecure: true (--set insecure=true)")
# The default config of the version before sockets were the default.
OLD_CONFIG = Path(__file__).with_name("attnd-0.1.0.yaml")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


@pytest.fixture
def runtime():
    return Path(os.environ["XDG_RUNTIME_DIR"])


class Placed(Attnd):
    """A daemon that finds its place by its arguments and its environment; its log lies elsewhere."""

    def __init__(self, place, *arguments, umask=-1, **environment):
        self.place, self.arguments, self.umask, self.environment = str(place), arguments, umask, environment
        super().__init__()

    def endpoint(self, name):
        return f"ipc://{self.place}/{name}"

    def start(self):
        command = [ATTND, "--set", f"history.path={self.history_path}", "--set", "http.enabled=false", *self.arguments]
        self.log = open(os.path.join(self.directory, "log"), "a+b")
        self.process = subprocess.Popen(command, stderr=self.log, umask=self.umask, env={**os.environ, **self.environment})
        wait_until(lambda: "event=started" in self.log_text() or self.process.poll() is not None, "the start")
        assert self.process.poll() is None, self.log_text()
        assert self.call("ping")["directory"] == self.place

    def logged(self, event):
        return wait_until(lambda: f"event={event} " in self.log_text(), f"{event} in the log")


def refused(*arguments, status=1, **environment):
    """The one line that attnd ends with, after those about keys that are no more."""
    result = subprocess.run([ATTND, "--set", "history.enabled=false", "--set", "http.enabled=false", *arguments],
                            capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, **environment})
    assert result.returncode == status, result.stderr
    lines = [line for line in result.stderr.splitlines() if "no longer a setting (now " not in line]
    assert len(lines) == 1 and lines[0].startswith("attnd: "), result.stderr
    return lines[0][len("attnd: "):]


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def inodes(place):
    return {name: os.lstat(place / name).st_ino for name in SOCKETS}


def modes(place):
    return {name: mode(place / name) for name in SOCKETS}


def knock(path):
    """The answer to somebody else who connects there."""
    program = f"import socket; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-I", "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    return result.stderr.splitlines()[-1] if result.returncode else "let in"


def test_the_runtime_directory_is_the_place(runtime):
    attnd = Placed(runtime / "attnd")
    shown = attnd.call("config")
    assert [shown[f"{name}.endpoint"] for name in SOCKETS] == [attnd.endpoint(name) for name in SOCKETS]
    wait_log(attnd, f"ingest={attnd.endpoint('ingest')} publish={attnd.endpoint('publish')}")


def test_print_config_shows_the_endpoints_in_force(runtime):
    shown = subprocess.run([ATTND, "--print-config"], capture_output=True, text=True, check=True).stdout
    assert all(f"  endpoint: ipc://{runtime}/attnd/{name}\n" in shown for name in SOCKETS)
    assert not (runtime / "attnd").exists()


def test_the_variable_and_the_option(runtime):
    named, told = runtime / "named", runtime / "told"
    Placed(named, ATTND_ADDRESS=str(named)).close()
    Placed(told, "--address", f"{told}/", ATTND_ADDRESS=str(named))
    assert not (runtime / "attnd").exists()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_nobody_else_gets_in_whatever_the_umask(runtime, umask):
    attnd = Placed(runtime / "attnd", umask=umask)
    assert mode(runtime / "attnd") == 0o700
    assert modes(runtime / "attnd") == dict.fromkeys(SOCKETS, 0o600)
    assert mode(attnd.history_path) & 0o077 == 0


def assert_heard(attnd, rng):
    reader, trainer = Reader(attnd, "live/"), Trainer(attnd, "job")
    trainer.attention(softmax_maps(rng, 1, 2, 8, 8))
    assert reader.next()[0].startswith("live/job/")


@as_root
def test_another_user_cannot_connect(runtime):
    attnd = Placed(runtime / "attnd")
    runtime.chmod(0o755)
    assert knock(runtime / "attnd" / "control").startswith("PermissionError")
    (runtime / "attnd").chmod(0o755)
    assert knock(runtime / "attnd" / "control").startswith("PermissionError")
    (runtime / "attnd" / "control").chmod(0o666)
    assert knock(runtime / "attnd" / "control") == "let in"  # so it was these modes that kept it out


def test_a_directory_for_the_group_has_sockets_for_the_group(runtime):
    place = runtime / "service"
    place.mkdir()
    place.chmod(0o750)
    attnd = Placed(place, "--address", str(place))
    assert modes(place) == dict.fromkeys(SOCKETS, 0o660)


def test_a_directory_that_others_write_to(runtime):
    (runtime / "attnd").mkdir()
    for bits in (0o770, 0o702, 0o1777):
        (runtime / "attnd").chmod(bits)
        expected = f"{runtime}/attnd: others can write to it (mode {bits:04o}): remove it, or give another --address"
        assert refused() == refused("--address", f"{runtime}/attnd") == expected
    assert not list((runtime / "attnd").iterdir())


def test_one_that_others_look_into_is_taken_only_when_it_is_named(runtime):
    (runtime / "attnd").mkdir()
    (runtime / "attnd").chmod(0o755)
    assert "others can look into it (mode 0755): chmod 700 it" in refused()
    named = runtime / "named"
    named.mkdir()
    named.chmod(0o755)
    attnd = Placed(named, "--address", str(named))
    assert mode(named / "control") == 0o600


@as_root
def test_the_directory_of_somebody_else(runtime):
    (runtime / "attnd").mkdir(mode=0o700)
    os.chown(runtime / "attnd", 65534, 65534)
    assert refused() == f"{runtime}/attnd: belongs to user 65534: remove it, or give another --address"


class Stranger:
    """A user of whom nobody else has anything in /tmp, with an attnd."""

    def __init__(self, runtime):
        self.user = 60000 + os.getpid() % 5000
        self.place = Path(f"/tmp/attnd-{self.user}")
        self.directory = tempfile.mkdtemp()
        program = shutil.copy(ATTND, self.directory)
        os.chmod(self.directory, 0o755)
        environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
        self.log = open(os.path.join(self.directory, "log"), "w+")
        command = ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", program, "--set",
                   "history.enabled=false", "--set", "http.enabled=false"]
        self.process = subprocess.Popen(command, env={**environment, **runtime}, stderr=self.log)

    def text(self):
        self.log.seek(0)
        return self.log.read()

    def wait(self, text, times=1):
        wait_until(lambda: self.text().count(text) >= times or self.process.poll() is not None, text)
        assert self.text().count(text) >= times, self.text()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.rmtree(self.directory)


@as_root
@pytest.mark.parametrize("runtime", [{}, {"XDG_RUNTIME_DIR": "/nowhere/at/all"}, {"XDG_RUNTIME_DIR": "relative"}])
def test_without_a_runtime_directory_it_is_in_tmp(runtime):
    with Stranger(runtime) as attnd:
        attnd.wait(f"control=ipc://{attnd.place}/control")
        assert mode(attnd.place) == 0o700 and os.lstat(attnd.place).st_uid == attnd.user


def test_a_second_attnd_changes_nothing(runtime):
    attnd = Placed(runtime / "attnd")
    files = inodes(runtime / "attnd")
    expected = f"{runtime}/attnd: another attnd runs here: stop it, or give this one another --address"
    assert refused() == refused("--address", str(runtime / "attnd")) == expected
    assert files == inodes(runtime / "attnd")
    assert attnd.call("ping")
    attnd.close()
    Placed(runtime / "attnd").close()


def test_one_that_has_no_lock_is_heard_by_its_answer(runtime):
    (runtime / "attnd").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{runtime}/attnd/publish")
        other.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for client in clients:  # more than it has room for: it is busy, and still there
            client.setblocking(False)
            client.connect_ex(f"{runtime}/attnd/publish")
        assert "publish: Address already in use" in refused()
        for client in clients:
            client.close()


def test_what_a_killed_one_left_is_taken_over(runtime, rng):
    attnd = Placed(runtime / "attnd")
    attnd.stop(signal.SIGKILL)
    assert (runtime / "attnd" / "ingest").exists()
    attnd.start()
    assert_heard(attnd, rng)


def test_a_directory_that_vanishes_comes_back(runtime, rng):
    """Connections go on, newcomers find it, and a second attnd still does not get in."""
    attnd = Placed(runtime / "attnd")
    trainer, reader = Trainer(attnd, "job"), Reader(attnd, "live/")
    shutil.rmtree(runtime / "attnd")
    trainer.attention(softmax_maps(rng, 1, 2, 8, 8), step=0)
    assert reader.next()[1]["step"] == 0
    attnd.logged("directory_taken")
    wait_until(lambda: attnd.log_text().count("event=socket_bound_again") == 5, "five sockets")
    assert mode(runtime / "attnd") == 0o700 and mode(runtime / "attnd" / "ingest") == 0o600
    later, heard = Trainer(attnd, "later"), Reader(attnd, "live/later/")
    for step, sender in enumerate((trainer, later), start=1):
        sender.attention(softmax_maps(rng, 1, 2, 8, 8), step=step)
    assert heard.next()[1]["step"] == 2
    attnd.settled(3)
    assert "another attnd runs here" in refused()


def test_a_socket_that_vanishes_comes_back(runtime):
    attnd = Placed(runtime / "attnd")
    for name in SOCKETS:
        (runtime / "attnd" / name).unlink()
        wait_until(lambda: f"event=socket_bound_again key={name}.endpoint" in attnd.log_text(), name)
    (runtime / "attnd" / "memory").unlink()
    wait_until((runtime / "attnd" / "memory").is_socket, "memory")
    Trainer(attnd, "job").close()
    assert "directory_taken" not in attnd.log_text()


def test_the_page_is_told_again_after_the_directory_vanished(runtime):
    attnd = Placed(runtime / "attnd", "--set", "http.enabled=true", "--set", "http.endpoint=tcp://127.0.0.1:*")
    told = (runtime / "attnd" / "page").read_text()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\n", told)
    shutil.rmtree(runtime / "attnd")
    wait_until((runtime / "attnd" / "page").exists, "the page's file")
    assert (runtime / "attnd" / "page").read_text() == told
    attnd.close()
    assert not (runtime / "attnd" / "page").exists()


def test_another_attnd_that_was_faster_keeps_the_directory(runtime):
    """Between its vanishing and the next look somebody else may start there."""
    attnd = Placed(runtime / "attnd", "--address", str(runtime / "attnd"))
    os.kill(attnd.process.pid, signal.SIGSTOP)
    shutil.rmtree(runtime / "attnd")
    other = Placed(runtime / "attnd")
    files = inodes(runtime / "attnd")
    os.kill(attnd.process.pid, signal.SIGCONT)
    attnd.logged("directory_lost")
    assert files == inodes(runtime / "attnd")
    assert attnd.stop() == 0
    assert other.call("ping")


@as_root
def test_it_moves_when_even_the_parent_has_gone():
    """As after a logout: to where clients of this user look as well."""
    parent = tempfile.mkdtemp()
    os.chmod(parent, 0o777)
    with Stranger({"XDG_RUNTIME_DIR": parent}) as attnd:
        attnd.wait(f"control=ipc://{parent}/attnd/control")
        shutil.rmtree(parent)
        attnd.wait(f"event=directory_moved directory={attnd.place} ")
        attnd.wait(f"endpoint=ipc://{attnd.place}/", times=4)
        assert mode(attnd.place) == 0o700


def test_tcp_is_refused_wherever_it_is_said(tmp_path):
    for name in SOCKETS:
        assert refused("--set", f"{name}.endpoint=tcp://127.0.0.1:7000", status=2) == (
            f"{name}.endpoint: 'tcp://127.0.0.1:7000': {REASON}")
    assert refused("--address", "tcp://127.0.0.1:7000", status=2) == f"--address: 'tcp://127.0.0.1:7000': {REASON}"
    assert refused(status=2, ATTND_ADDRESS="tcp://[::1]:7000") == f"$ATTND_ADDRESS: 'tcp://[::1]:7000': {REASON}"
    assert refused("--address", "localhost:7000", status=2) == "--address: 'localhost:7000': write tcp://localhost:7000"


def test_the_config_of_before_is_refused_with_its_line(tmp_path):
    """And taken without the rule that is no more and with the one key more, unless it is for Unix sockets."""
    assert refused("--check-config", str(OLD_CONFIG), status=2).startswith(
        f"{OLD_CONFIG}:476: rules.drift.statistic: 'abs_z': is now abs_shift, whose unit is ")
    without = tmp_path / "attnd.yaml"
    without.write_text(re.sub(r"  drift:\n    metric: .*\n(    .*\n)*", "", OLD_CONFIG.read_text()))
    expected = f"{without}:10: ingest.endpoint: 'tcp://127.0.0.1:5570': {REASON}"
    assert refused("--config", str(without), status=2) == expected
    assert refused("--check-config", str(without), status=2) == expected
    taken = subprocess.run([ATTND, "--check-config", str(without), "--set", "insecure=true"], capture_output=True, text=True)
    assert taken.returncode == 0, taken.stderr
    assert f"attnd: {without}:22: ingest.receive_queue: '4': no longer a setting (now " in taken.stderr


def test_a_tcp_address_is_five_ports_and_the_log_says_so(rng):
    base = free_ports(5)

    class Insecure(Placed):
        def endpoint(self, name):
            return f"tcp://127.0.0.1:{base + SOCKETS.index(name)}"

    attnd = Insecure("", "--address", f"tcp://127.0.0.1:{base}", "--set", "insecure=true")
    wait_log(attnd, "level=warning event=insecure")
    said = subprocess.run([ATTND, "--help"], capture_output=True, text=True).stdout.split()
    assert "tcp://host:port and the four ports above it" in " ".join(said)
    assert_heard(attnd, rng)


def test_sockets_of_tcp_that_are_handed_over_need_the_key_too():
    with socket.create_server(("127.0.0.1", 0)) as held:
        descriptor = fcntl.fcntl(held, fcntl.F_DUPFD, 50)
        become = (f"import os, sys; os.dup2({descriptor}, 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', "
                  "LISTEN_FDNAMES='ingest'); os.execv(sys.argv[1], sys.argv[1:])")
        result = subprocess.run([sys.executable, "-c", become, ATTND], capture_output=True, text=True,
                                pass_fds=[descriptor], timeout=PATIENCE_S)
        os.close(descriptor)
    assert result.returncode == 1
    assert "socket 1 of LISTEN_FDS, 'ingest': over TCP anybody could speak to attnd" in result.stderr
