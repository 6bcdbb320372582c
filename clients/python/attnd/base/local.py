# SPDX-License-Identifier: MIT
"""local: the attnd of this machine: its program, the directory of its state, and its page. Needs Python alone."""
from __future__ import annotations

import errno
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sysconfig
from contextlib import closing
from typing import List, Optional, Tuple
from urllib.parse import urlsplit

INSTALL = "pip install 'attnd[daemon]' (with --find-links dist after deploy/wheel in a checkout of attnd)"
_OTHERWISE = f"{INSTALL}, or build attnd here, from source"
VERSION_S = 10.0  # how long a program may take to say its version
_REFUSAL_MAX = 1 << 16  # bytes


class Unusable(Exception):
    """A program cannot be run: why, and what to do."""

    def __init__(self, why: str, remedy: str):
        super().__init__(f"{why}: {remedy}")
        self.why, self.remedy = why, remedy


def programs() -> List[str]:
    """Every file that may be the daemon, the one to use first: $ATTND_BIN alone when it is set; else beside the scripts
    of this Python, where a wheel installs it, then in PATH. Executable ones go before others."""
    named = os.environ.get("ATTND_BIN")
    if named:
        return [os.path.abspath(named)]
    folders = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", "posix_user"),
               *os.environ.get("PATH", os.defpath).split(os.pathsep)]
    found: List[str] = []
    for folder in folders:
        path = os.path.join(os.path.abspath(folder), "attnd")
        if os.path.isfile(path) and not any(os.path.samefile(path, other) for other in found):
            found.append(path)
    return sorted(found, key=lambda path: not os.access(path, os.X_OK))  # a stable order


def version_of(program: str) -> str:
    """The version that the program prints with --version: "0.1.0". Unusable."""
    if not os.path.exists(program):
        raise Unusable(f"{program} is not there", f"{INSTALL}, or have ATTND_BIN name one that is")
    if not os.access(program, os.X_OK) or os.path.isdir(program):
        raise Unusable(f"{program} may not be executed", f"chmod +x {program}, or {INSTALL}")
    try:
        done = subprocess.run([program, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=VERSION_S, cwd="/")
    except subprocess.TimeoutExpired:
        raise Unusable(f"{program} --version says nothing for {VERSION_S:.0f} s", _OTHERWISE) from None
    except OSError as error:
        why = "needs the loader of another C library (glibc), which this system lacks" if error.errno == errno.ENOENT else \
            f"cannot be run on this machine, {platform.machine()} ({error.strerror})"
        raise Unusable(f"{program} {why}", _OTHERWISE) from None
    said = re.match(r"attnd (\S+)", done.stdout.decode("utf-8", "replace"))
    if done.returncode == 0 and said:
        return said[1]
    if done.returncode == -signal.SIGILL:
        raise Unusable(f"{program} needs instructions that this processor lacks", "build attnd here, from source")
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    last = lines[-1] if lines else f"it ends with status {done.returncode}"
    raise Unusable(f"{program} does not run here ({last[:300]})", _OTHERWISE)


def version_order(version: str) -> Tuple[int, ...]:
    """Its numbers: versions are in the order of these."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def state_directory() -> Optional[str]:
    """Where attnd keeps its history unless it is told otherwise; None: there is no place for it."""
    state, home = os.environ.get("XDG_STATE_HOME", ""), os.environ.get("HOME", "")
    if state.startswith("/"):
        return f"{state}/attnd"
    if os.geteuid() == 0:
        return "/var/lib/attnd"
    return f"{home}/.local/state/attnd" if home.startswith("/") else None


def log_name() -> str:
    """The file in it that a started daemon logs to: homes may be shared by hosts."""
    return f"attnd-{socket.gethostname()}.log"


def page_of(directory: str) -> Optional[str]:
    """The address of the page of an attnd with its sockets there; None: it has none."""
    try:
        with open(os.path.join(directory, "page"), encoding="ascii", errors="replace") as file:
            return file.readline(256).strip() or None
    except OSError:
        return None


def page_refusal(page: str, timeout: float) -> Tuple[int, str]:
    """Asks the page for data, as this user and through no proxy: (401 or 403, attnd's reason) when it refuses them, else
    (0, "")."""
    from http import client  # late: most who import attnd never ask
    try:
        with closing(client.HTTPConnection(urlsplit(page).netloc, timeout=timeout)) as connection:
            connection.request("GET", "/api/v1/version")
            answer = connection.getresponse()
            if answer.status not in (401, 403):
                return 0, ""
            return answer.status, str(json.loads(answer.read(_REFUSAL_MAX))["error"]["message"])
    except (OSError, client.HTTPException, ValueError, TypeError, KeyError):
        return 0, ""
