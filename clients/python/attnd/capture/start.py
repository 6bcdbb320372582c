# SPDX-License-Identifier: MIT
"""start: an attnd for a training that finds none, `attnd.watch(..., start="auto")`.

A thread looks whether one answers (address.py), and starts one if not: now, and when it has gone later, at most once
in AGAIN_S. Ranks that do so at once wait for each other at a lock in the directory of its sockets; the one that gets it
looks once more. The daemon belongs to nobody: it has a session of its own and init for a parent, has none of the
training's descriptors, and ends when nobody has used it for IDLE. Nothing here raises. The training never waits for it;
watch() does, before the first step and within its `wait`.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from typing import Any, Optional
from urllib.parse import quote

import zmq

from .. import __version__
from ..base import address as addresses
from ..base.exits import closed_at_exit
from ..base.local import INSTALL, Unusable, log_name, page_of, page_refusal, programs, state_directory, version_of
from ..base.once import log
from ..base.wire import printable
from ..results.control import Control, ControlError

IDLE = "1h"  # shutdown.idle of what is started
LOOK_EVERY_S = 10.0  # whether it is still there; costs some 15 microseconds
AGAIN_S = 60.0
READY_S = 20.0  # it takes some 50 ms
ANSWER_S = 0.5
_PAUSE_S = 0.02
_PAUSE_ENDING_S = 0.5  # until one that is about to end has gone
_LOG_MAX = 1 << 20  # then it begins anew
START_IT = "Start it again: attnd"
_RUNS_ALREADY = "another attnd runs here"  # of daemon/base/directory.c
_OF_SERVICES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
# Its parent is the shell, which ends at once.
_DETACHED = ("/bin/sh", "-c", '"$@" >&2 & echo "$!"', "sh")


class Failed(Exception):
    """It cannot be started; the text says why, and what to do."""


class Starter:
    """Sees to it that an attnd runs. Any thread.

    job        for messages
    directory  of the sockets; None: where clients of this user look, and whoever answers there will do
    tells      whether this process is the one that says where the page is, and what went wrong
    """

    def __init__(self, job: str, directory: Optional[str], tells: bool):
        self._job = job
        self._directory = directory
        self._tells = tells
        self._closed = threading.Event()
        self._looked = threading.Event()
        self.has_failed = False  # none could be started
        self._page: Optional[str] = ""  # that was told last; None: there is none
        _live.add(self)
        threading.Thread(target=self._run, name="attnd-start", daemon=True).start()

    def wait(self, timeout: float) -> float:
        """Until an attnd answers, or the time is over. The seconds that took; all of them when none can be started."""
        began = time.monotonic()
        self._looked.wait(max(0.0, timeout))
        return timeout if self.has_failed else time.monotonic() - began

    def say_next(self) -> str:
        """Says what happens when attnd has gone, as a sentence."""
        return START_IT if self.has_failed else f"If it has ended, it is started again within {AGAIN_S:.0f} s"

    def close(self) -> None:
        """Starts none from now on. Does not wait; idempotent."""
        self._closed.set()

    # ------------------------------------------------------------------------------------ on its thread

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                pause_s = LOOK_EVERY_S
                if self._found() is None:
                    self._start()
                    pause_s = AGAIN_S
                self._tell_page()
                self._looked.set()
                self._closed.wait(pause_s)
        except (Failed, Unusable) as why:
            self._fail(str(why))
        except OSError as error:
            self._fail(f"{error.filename or 'this system'}: {error.strerror}; start attnd by hand")
        except Exception:
            self._fail("see below; start attnd by hand", exc_info=True)
        finally:
            self._looked.set()

    def _fail(self, why: str, **more: Any) -> None:
        self.has_failed = True
        if self._tells and not self._closed.is_set():  # at the end of the program nothing is told any more
            log.warning("job %s: attnd could not be started: %s. Training goes on, and is captured once one runs",
                        self._job, why, **more)

    def _found(self) -> Optional[str]:
        """The directory of one that answers."""
        if self._directory is not None:
            return self._directory if addresses.knock(self._directory, "ingest") is None else None
        endpoint = addresses.find("ingest")
        return None if endpoint is None else os.path.dirname(endpoint[len("ipc://"):])

    def _start(self) -> None:
        """Starts one, or finds one that another process has started meanwhile. Failed, Unusable, OSError."""
        deadline = time.monotonic() + READY_S
        found = programs()
        if not found:
            raise Failed(f"there is no program attnd beside this Python's scripts or in PATH: {INSTALL}, or have "
                         "ATTND_BIN name it")
        version = version_of(found[0])
        place = _make_place(self._directory)
        lock = os.open(f"{place}/start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while not _try_lock(lock):
                self._pause(_PAUSE_S, deadline, f"{place}/start.lock is held by a process that does not get on")
                if self._found() is not None:
                    return
            while self._found() is None:
                why = self._launch(found[0], version, place, deadline)
                if why is None:
                    return
                if _RUNS_ALREADY not in why:
                    is_ours = version == __version__
                    raise Failed(why if is_ours else f"{why} (it is version {version}, this client {__version__}: {INSTALL})")
                self._pause(_PAUSE_ENDING_S, deadline, why)
        finally:
            os.close(lock)

    def _pause(self, seconds: float, deadline: float, why: str) -> None:
        if time.monotonic() >= deadline:
            raise Failed(why)
        time.sleep(seconds)

    def _launch(self, program: str, version: str, place: str, deadline: float) -> Optional[str]:
        """Starts the program and waits until it answers: None; or has ended: why."""
        path = _log_path(place)
        where = () if self._directory is None else ("--address", self._directory)
        environment = {name: value for name, value in os.environ.items() if name not in _OF_SERVICES}
        with open(path, "ab") as file:
            if file.tell() > _LOG_MAX:
                file.truncate(0)
            begun = os.fstat(file.fileno()).st_size
            shell = subprocess.run([*_DETACHED, program, *where, "--set", f"shutdown.idle={IDLE}"], cwd="/",
                                   env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file,
                                   start_new_session=True, timeout=READY_S, check=True)
        pid = int(shell.stdout)
        while True:
            directory = self._found()
            if directory is not None and _answers(directory, ANSWER_S):
                self._tell_started(directory, pid, path, version)
                return None
            if _has_ended(pid):
                return None if directory is not None else f"{_said_since(path, begun)} (its log is {path})"
            self._pause(_PAUSE_S, deadline, f"{program} (process {pid}) does not get ready in {READY_S:.0f} s; its log "
                        f"is {path}")

    def _tell_started(self, directory: str, pid: int, path: str, version: str) -> None:
        """Whoever starts it tells, whatever its rank: nobody else knows."""
        _say(f"version {version} was started (process {pid}, log {path}); it ends when nobody has used it for {IDLE}")
        if version != __version__:
            log.warning("job %s: attnd is version %s and this client is version %s: what one of them does not know is "
                        "left out. %s brings both to one version", self._job, version, __version__, INSTALL)
        try:
            history = Control(address=directory).stats()["history"]
        except (OSError, ControlError, zmq.ZMQError, KeyError):
            return
        if history["path"] is None:
            log.warning("job %s: attnd keeps no history: %s. Mend that, or set XDG_STATE_HOME to a place that "
                        "can be written, and end attnd (kill %d)", self._job, printable(history["reason"]), pid)

    def _tell_page(self) -> None:
        """Where it is now, unless that was told: one that is started again may have another port."""
        directory = self._found() if self._tells else None
        if directory is None or page_of(directory) == self._page or not _answers(directory, READY_S):
            return
        page = page_of(directory)
        if page is not None and page != self._page:
            status, why = page_refusal(page, ANSWER_S)
            refused = {401: "; it asks for a token of http.token_file",
                       403: f", but it refuses you: {why}; `python -m attnd` says how"}.get(status, "")
            _say(f"the page is {page}#/overview?job={quote(self._job, safe='')} on {os.uname().nodename}{refused}")
        self._page = page


_live = closed_at_exit()  # before pyzmq's own handler


def starter_for(job: str, endpoint: Optional[str], address: Any, rank: int) -> Optional[Starter]:
    """One for the attnd that these name; None: they name one socket, or may name another machine."""
    if endpoint is not None:
        return None
    named = os.fspath(address or os.environ.get("ATTND_ADDRESS") or "")
    try:
        if named and not addresses.endpoint(named, "ingest").startswith("ipc://"):
            return None
    except addresses.AddressError:  # whoever connects to it will say so
        return None
    return Starter(job, named.rstrip("/") or None, local_rank(rank) == 0)


def local_rank(rank: int) -> int:
    """Among the ranks of this host."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK"):
        if os.environ.get(name, "").isdigit():
            return int(os.environ[name])
    return rank


def _make_place(directory: Optional[str]) -> str:
    """Makes the directory in which the daemon will have its sockets, as it would do itself. Failed."""
    own = addresses.own_places(os.geteuid(), os.environ.get("XDG_RUNTIME_DIR"))
    refused = ""
    for place in own if directory is None else [directory]:
        try:
            os.mkdir(place, 0o700)
        except FileExistsError:
            pass
        except OSError as error:
            refused = f"{place}: cannot make this directory: {error.strerror}"
            continue
        why = addresses.distrust(place, os.geteuid())
        if why:
            raise Failed(f"{why}: remove it, or have ATTND_ADDRESS name another directory")
        return place
    raise Failed(f"{refused}; have ATTND_ADDRESS name a directory that can be made")


def _try_lock(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _log_path(place: str) -> str:
    """In the directory of attnd's state, or, where that cannot be written, beside the sockets."""
    state = state_directory()
    for folder in (state, place):
        if folder is None:
            continue
        path = os.path.join(folder, log_name())
        try:
            os.makedirs(folder, 0o700, exist_ok=True)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
            return path
        except OSError:
            continue
    raise Failed(f"neither {state} nor {place} can be written: free some space, or set XDG_STATE_HOME to another place")


def _answers(directory: str, timeout: float) -> bool:
    """Whether it has begun to serve, with its page."""
    try:
        return bool(Control(address=directory, timeout=timeout).ping())
    except (OSError, ControlError, zmq.ZMQError):
        return False


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "ZX"  # in a container nobody may wait for it
    except (OSError, IndexError):
        return True


def _said_since(path: str, begun: int) -> str:
    """The last line that the program has written."""
    with open(path, "rb") as file:
        file.seek(begun)
        lines = file.read(1 << 16).decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:500] if said else "it ended at once and said nothing"


def _say(text: str) -> None:
    """To whoever looks at the training; no warning."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # nobody looks
        print(f"attnd: {text}", file=sys.stderr, flush=True)
