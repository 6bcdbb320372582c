# SPDX-License-Identifier: MIT
"""doctor: `python -m attnd` says what is installed, where attnd is, whether it answers, and what to do about mistakes.

Each check gives findings: a state, a sentence about what is there, and one about what to do. It asks, and changes
nothing; only the programs are run, with --version. Packages are not imported: their metadata has their versions. A
package that is missing is a finding too, so the modules that need ZeroMQ are imported late.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import platform
import shutil
import socket as unix
import sys
import time
from importlib import metadata
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from . import __version__
from .base import address as addresses, endings
from .base.local import (INSTALL, Unusable, log_name, page_of, page_refusal, programs, state_directory, version_of,
                         version_order)

NEEDED = ("numpy", "pyzmq", "msgpack")
FRAMEWORKS = ("torch", "transformers", "lightning", "pytorch-lightning", "flash-attn", "xformers")
TORCH_OLDEST = (1, 13)
TORCH_NEWEST = (2, 15)  # of those that tests/frameworks ran with
ANSWER_S = 6.0
CLOCK_S = 2.0  # from here on the clocks of two machines are not one
FREE_BYTES = 256 << 20  # less is a disk that is as good as full
PAGE_PORT = 5580
GIVE_TOKEN = 'make a token: (umask 077; python3 -c "import secrets; print(secrets.token_hex())" > FILE); start attnd anew ' \
             "by hand: kill $(pidof attnd); sleep 1; attnd --set http.token_file=FILE; the page then asks for what is in FILE"
ASK_SERVICE = "ask the administrator of this service: the page answers root, members of the group attnd, users that " \
              "http.users names, and all who have a token of http.token_file"
OK, NOTE, WRONG = "ok", "-", "WRONG"


class Finding(NamedTuple):
    """A finding about a subject: `state` is OK, NOTE (neither well nor wrong) or WRONG, `remedy` what to do."""
    subject: str
    state: str
    text: str
    remedy: str = ""


class Daemon(NamedTuple):
    """An attnd that answered: its place ("" on another machine), its answers to `ping`, `stats` and `jobs` (None and none:
    this key may not ask for them), which runs have said that attention of theirs is not captured (none without a history),
    how far its clock is ahead of ours (None when it does not say), and how long `ping` took."""
    place: str
    ping: Dict[str, Any]
    stats: Optional[Dict[str, Any]]
    runs: Sequence[Dict[str, Any]]
    uncaptured: Dict[str, str]
    skew_s: Optional[float]
    answer_s: float


Findings = Iterator[Finding]


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Prints the findings. Exit status: 0 all is well, 1 something is wrong, 2 the arguments are."""
    parser = argparse.ArgumentParser(
        "python -m attnd", description="Says what of attnd is installed, where the daemon is, and whether it answers. "
        "Exit status 1: something is wrong.")
    parser.add_argument("--address", help="the daemon: a directory or tcp://host:port; default: $ATTND_ADDRESS, else "
                        "the one that answers on this machine")
    findings = examine(parser.parse_args(arguments).address)
    try:
        print(report(findings), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(any(finding.state == WRONG for finding in findings))


def report(findings: Sequence[Finding]) -> str:
    """The findings as aligned text, and last the verdict."""
    widest = max(len(finding.subject) for finding in findings)
    return "\n".join([*(line(finding, widest) for finding in findings), "", verdict(findings)])


def line(finding: Finding, widest: int) -> str:
    """A finding as text, with what to do below it. `widest`: characters that subjects take."""
    remedy = f"\n{'':{widest}}         -> {finding.remedy}" if finding.remedy else ""
    return f"{finding.subject:{widest}}  {finding.state:5}  {finding.text}{remedy}"


def verdict(findings: Sequence[Finding]) -> str:
    """Whether all is well: nothing is wrong, and no note says what to do."""
    wrong = sum(finding.state == WRONG for finding in findings)
    notes = ", ".join(dict.fromkeys(finding.subject for finding in findings if finding.state == NOTE and finding.remedy))
    return f"{wrong} thing{'s' * (wrong > 1)} wrong" if wrong else f"nothing is wrong; look at: {notes}" if notes else "all is well"


def examine(address: Optional[str] = None) -> List[Finding]:
    """All findings, in the order in which they are best read."""
    findings = [*_about_client(), *_about_packages(), *_about_frameworks(), *_about_processor()]
    found: List[Daemon] = []
    about_daemon = list(_about_daemon(address, found.append))
    daemon = found[0] if found else None
    findings += _about_programs(daemon is not None)
    findings += about_daemon
    findings += _about_history(daemon, address or os.environ.get("ATTND_ADDRESS"))
    findings += _about_spool(os.environ.get("ATTND_SPOOL"))
    return findings


# ---------------------------------------------------------------------------------------- what is installed

def _about_client() -> Findings:
    folder = os.path.dirname(os.path.abspath(__file__))
    installed = _version_of_package("attnd")
    what = f"attnd {__version__} in {folder}, Python {platform.python_version()}"
    if installed is not None and installed != __version__:
        yield Finding("client", WRONG, f"{what}; but pip has installed {installed}: there are two",
                      "uninstall one: pip uninstall attnd, or take the other out of PYTHONPATH")
    else:
        yield Finding("client", OK, what)


def _version_of_package(name: str) -> Optional[str]:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _about_packages() -> Findings:
    versions = {name: _version_of_package(name) for name in NEEDED}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Finding("packages", WRONG, f"{' and '.join(missing)} cannot be imported by {sys.executable}",
                      f"{sys.executable} -m pip install {' '.join(missing)}")
    else:
        yield Finding("packages", OK, ", ".join(f"{name} {version}" for name, version in versions.items()))


def _about_frameworks() -> Findings:
    versions = {name: version for name in FRAMEWORKS for version in (_version_of_package(name),) if version is not None}
    seen = ", ".join(f"{name} {version}" for name, version in versions.items())
    if "torch" not in versions:
        yield Finding("frameworks", NOTE, seen or "none", "attnd.watch needs torch; the rest of the client does not")
    elif version_order(versions["torch"]) < TORCH_OLDEST:
        yield Finding("frameworks", WRONG, seen, "attnd.watch needs torch 1.13 or newer")
    elif version_order(versions["torch"])[:2] > TORCH_NEWEST:
        yield Finding("frameworks", NOTE, seen, "newer than {}.{}, the newest that attnd.watch was tested with: compare the losses "
                      "of a few steps with and without it".format(*TORCH_NEWEST))
    else:
        yield Finding("frameworks", OK, seen)


def _about_processor() -> Findings:
    machine, flags = platform.machine(), []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if machine != "x86_64":
        yield Finding("processor", OK, machine)
    elif "avx2" in flags and "fma" in flags:
        yield Finding("processor", OK, f"{machine} with {'AVX-512' if 'avx512f' in flags else 'AVX2'}")
    else:
        yield Finding("processor", NOTE, f"{machine} without AVX2",
                      "attnd computes with its portable kernels, which are slower")


def _about_programs(is_answered: bool) -> Findings:
    found = programs()
    if not found:
        yield Finding("program", NOTE if is_answered else WRONG, "no attnd beside this Python's scripts, nor in PATH",
                      f"{INSTALL}; another machine's attnd is named by ATTND_ADDRESS=tcp://host:port")
        return
    versions: Dict[str, str] = {}
    for place, program in enumerate(found):
        try:
            versions[program] = version_of(program)
        except Unusable as why:
            yield Finding("program", NOTE if place else WRONG, why.why, why.remedy)
    for program, version in versions.items():
        if version != __version__ and program == found[0]:
            yield Finding("program", WRONG, f"{program} is version {version}, this client {__version__}", INSTALL)
        elif version != versions.get(found[0], version):
            yield Finding("program", WRONG, f"{program} is version {version}: there are two, and this Python starts "
                          f"{found[0]}", "remove one of them, or have ATTND_BIN name the one to start")
        else:
            yield Finding("program", OK, f"{program} is version {version}")


# ---------------------------------------------------------------------------------------- the daemon

def _about_daemon(given: Optional[str], found: Callable[[Daemon], None]) -> Findings:
    """Where it is, whether it answers, and what that says about it; `found` takes one that answers."""
    name = given or os.environ.get("ATTND_ADDRESS")
    what = "--address" if given else "ATTND_ADDRESS"
    if name:
        try:
            endpoint: Optional[str] = addresses.endpoint(name, "control")
        except addresses.AddressError as error:
            yield Finding("address", WRONG, f"{what}: {error}", f"name a directory, or leave {what} out")
            return
        yield Finding("address", OK, f"{name} ({what})")
        place = name.rstrip("/") or "/"
        if os.path.isdir(place):
            yield from _about_sockets(place, WRONG)
        elif name.startswith("/"):
            yield Finding("address", WRONG, f"{place} is no directory", f"start attnd --address {place}, or name another place")
    else:
        endpoint = addresses.find("control")
        yield from _about_places(NOTE if endpoint else WRONG)
        if endpoint is None:
            yield Finding("daemon", WRONG, "no attnd answers", _how_to_start())
            yield from _about_port()
            return
    yield from _about_answer(name, str(endpoint), found)


def _how_to_start() -> str:
    folder = state_directory()
    log = os.path.join(folder, log_name()) if folder else ""
    last = f"; the log of the last start is {log}" if os.path.exists(log) else ""
    return f'start one: attnd, or attnd.watch(..., start="auto"){last}'


def _about_places(state: str) -> Findings:
    """The directories in which clients of this user look; `state` of those that are of no use."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    uid = os.geteuid()
    looked = addresses.places(uid, runtime)
    if runtime and not os.path.isdir(runtime):
        yield Finding("address", WRONG, f"XDG_RUNTIME_DIR is {runtime}, which is no directory: attnd uses "
                      f"{addresses.own_places(uid, None)[0]}", "unset it, or log in anew, so that the system makes it")
    elif not runtime and not os.path.isdir(f"/run/user/{uid}"):
        yield Finding("address", NOTE, f"there is no runtime directory (XDG_RUNTIME_DIR): attnd uses "
                      f"{addresses.own_places(uid, None)[0]}")
    else:
        yield Finding("address", OK, f"looked for in {', '.join(looked)}")
    for place in looked:
        why = addresses.distrust(place, os.geteuid())
        if why:
            yield Finding("address", state, f"{why}; clients pass it over",
                          f"chmod 700 {place} when it is yours, else remove it; then start attnd again")
        elif why is None:
            yield from _about_sockets(place, state)


def _about_sockets(place: str, state: str) -> Findings:
    """Names what keeps clients from a daemon there."""
    left = [name for name in addresses.SOCKETS if os.path.exists(f"{place}/{name}")]
    knocked = addresses.knock(place, "control")
    if left and knocked == "":
        yield Finding("address", state,
                      f"{place}/{left[0]} is left over by an attnd that has ended: nobody listens there",
                      _about_left_over(place, state))
    elif knocked:
        yield Finding("address", state, f"{knocked} ({place}/control)",
                      "join the group of the service (attnd), or ask its administrator" if place == addresses.SERVICE
                      else f"chmod 600 {place}/control, or start attnd again")


def _about_left_over(place: str, state: str) -> str:
    """An attnd that is started again takes over the sockets of the place where it would be, and no others."""
    if place == addresses.SERVICE:
        return "start the service again (systemctl restart attnd), or ask its administrator"
    if state == NOTE:
        return f"rm -r {place}: clients pass it over, as another attnd answers"
    if place == addresses.own_places(os.geteuid(), os.environ.get("XDG_RUNTIME_DIR"))[0]:
        return "start attnd again, which takes it over"
    return f"start attnd there again, which takes it over: attnd --address {place}"


def _about_port() -> Findings:
    """Whether the page of an attnd that is started now gets the port that is expected."""
    with unix.socket(unix.AF_INET, unix.SOCK_STREAM) as attempt:
        attempt.settimeout(ANSWER_S)
        if attempt.connect_ex(("127.0.0.1", PAGE_PORT)) == 0:
            yield Finding("page", NOTE, f"port {PAGE_PORT} of this machine is taken by another program",
                          "attnd will have its page at another one, which attnctl page says")


def _about_answer(name: Optional[str], endpoint: str, found: Callable[[Daemon], None]) -> Findings:
    try:
        from .base.wire import printable
        from .results.control import Control, ControlError, KeysError
        from .sending.scalars import NOT_CAPTURED
    except ImportError as error:
        yield Finding("daemon", WRONG, f"cannot be asked: {error}",
                      f"{sys.executable} -m pip install {' '.join(NEEDED)}")
        return
    place = os.path.dirname(endpoint[len("ipc://"):]) if endpoint.startswith("ipc://") else ""
    try:
        with Control(address=name or place, timeout=ANSWER_S) as control:
            asked, began = time.time_ns(), time.monotonic()
            ping = control.ping()
            answer_s = time.monotonic() - began
            skew_s = None if "time_ns" not in ping else (ping["time_ns"] - asked) / 1e9 - answer_s / 2
            stats, runs, uncaptured = None, [], {}
            try:
                stats, runs = control.stats(), control.jobs()
                uncaptured = {run["run"]: printable(str(run["settings"][NOT_CAPTURED])) for run in control.call("runs")["runs"]
                              if NOT_CAPTURED in run["settings"]}
            except ControlError as error:
                if error.code not in ("access", "history_off"):
                    raise
            daemon = Daemon(place, ping, stats, runs, uncaptured, skew_s, answer_s)
    except KeysError as error:
        yield Finding("daemon", WRONG, str(error), "see attnctl ping, which tries the same keys")
    except TimeoutError as error:
        yield Finding("daemon", WRONG, str(error), _about_silence(place))
    except (OSError, ControlError, ValueError, TypeError, KeyError) as error:
        yield Finding("daemon", WRONG, f"what answers at {endpoint} is not attnd: {error}", "name attnd's own address")
    else:
        found(daemon)
        yield from _about_found(daemon, endpoint)


def _about_silence(place: str) -> str:
    if not place:
        return "see that attnd runs there, and that its ports can be reached from here; or name another address"
    if addresses.knock(place, "control") is None:
        return "it is stopped (kill -CONT goes on), or very busy: look at its log, or end it and start it again"
    return _how_to_start()


def _about_found(daemon: Daemon, endpoint: str) -> Findings:
    version = str(daemon.ping.get("version"))
    what = f"attnd {version} answers at {endpoint} within {1000 * daemon.answer_s:.0f} ms"
    if version != __version__:
        older = "daemon" if version_order(version) < version_order(__version__) else "client"
        remedy = f"{INSTALL}, then end attnd and start it again" if older == "daemon" else "pip install --upgrade attnd"
        yield Finding("daemon", WRONG, f"{what}; this client is version {__version__}",
                      f"the {older} is older, and what it does not know is left out: {remedy}")
    else:
        yield Finding("daemon", OK, f"{what}, up {daemon.ping.get('uptime_s', 0):.0f} s")
    if daemon.stats and daemon.stats.get("config_refused"):
        yield Finding("config", WRONG, "attnd has refused its config when it read it again; the settings from before "
                      "hold", "attnd --check-config FILE says why; then kill -HUP attnd")
    if daemon.place:
        yield _about_page(daemon.place)
    yield from _about_runs(daemon)
    if daemon.skew_s is None:
        yield Finding("clock", NOTE, "this attnd is too old to say what time it is")
    elif abs(daemon.skew_s) > CLOCK_S + daemon.answer_s:
        side = "ahead of" if daemon.skew_s > 0 else "behind"
        yield Finding("clock", WRONG, f"attnd's clock is {abs(daemon.skew_s):.1f} s {side} this machine's",
                      "set both clocks (NTP: timedatectl, chronyc): the times of runs are wrong")
    else:
        yield Finding("clock", OK, f"{1000 * abs(daemon.skew_s):.0f} ms from attnd's")


def _about_runs(daemon: Daemon) -> Findings:
    """The trainings that go on and say that attention of theirs is not captured, and those of which attnd has none; before
    their first captured step that is nothing odd."""
    runs = [run for run in daemon.runs if run["state"] not in endings.OVER]
    told = {str(run["job"]): daemon.uncaptured[run["run"]] for run in runs if run["run"] in daemon.uncaptured}
    for job, what in sorted(told.items()):
        text, _, remedy = what.partition(". ")
        yield Finding("job", NOTE, f"attention of {job} is not captured: {text}",
                      remedy or 'the page "Forms of attention" of the documentation says what is captured, and what helps')
    for job in sorted({str(run["job"]) for run in runs if not run["layers"]} - set(told)):
        yield Finding("job", NOTE, f"attnd hears of {job}, and has no attention of it yet",
                      "if that stays so, the training's log has a warning of attnd that says why: the model is not called "
                      "itself, runs without gradients, or its attention cannot be seen")


def _about_page(place: str) -> Finding:
    page = page_of(place)
    if page is None:
        return Finding("page", NOTE, "there is none: http.enabled is false")
    status, why = page_refusal(page, ANSWER_S)
    if status == 403:
        return Finding("page", WRONG, f"{page} refuses you: {why}",
                       ASK_SERVICE if place == addresses.SERVICE else GIVE_TOKEN)
    if status == 401:
        return Finding("page", NOTE, f"{page} asks for a token: {why}",
                       "give it a token of the file that http.token_file names (attnctl config)")
    return Finding("page", OK, page)


# ---------------------------------------------------------------------------------------- the history

def _about_history(daemon: Optional[Daemon], address: Optional[str]) -> Findings:
    if daemon is None:
        if address and not address.startswith("/"):
            return  # that of another machine
        folder = state_directory()
        if folder is None:
            yield Finding("history", WRONG, "there is no place for it: neither XDG_STATE_HOME nor HOME is set",
                          "set one of them")
            return
        yield from _about_disk(folder, " for an attnd without settings of its own")
        return
    if daemon.stats is None:
        yield Finding("history", NOTE, "attnd tells of it to a key with the role read only")
        return
    history = daemon.stats.get("history", {})
    path, reason = history.get("path"), history.get("reason")
    if history.get("damaged"):
        what, _, advice = history["damaged"].partition("; ")
        yield Finding("history", WRONG, f"{path}: {what}", advice)
    elif path is None or reason:
        yield Finding("history", WRONG, f"attnd keeps {'none' if path is None else 'nothing new'}: {reason}",
                      _about_reason(str(reason), path is not None))
    elif not daemon.place:
        yield Finding("history", OK, f"{path} on attnd's machine, {_bytes(history['size'])}")
    else:
        yield from _about_disk(path, f", {_bytes(history['size'])}")


def _about_reason(reason: str, is_open: bool) -> str:
    """`is_open`: attnd has its history, and tries again and again to write to it."""
    if "switched off" in reason or "history.enabled" in reason:
        return "set history.enabled to true"
    if "another attnd" in reason:
        return "one attnd per history: end the other one, or give this one its own history.path (or XDG_STATE_HOME)"
    is_full = "full" in reason or "No space" in reason
    what = "free some space there" if is_full else "make the file and its directory writable for this user"
    if is_open:
        return f"{what}: attnd then goes on by itself, and writes what it holds; if it ends before that, it loses it"
    return f"{what}, or set history.path (or XDG_STATE_HOME) to another {'disk' if is_full else 'place'}; then start attnd again"


def _about_disk(path: str, more: str = "") -> Findings:
    """The disk that has, or would have, this path."""
    there = path
    while not os.path.exists(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Finding("history", WRONG, f"{there}: {error.strerror}", "set XDG_STATE_HOME to a place that can be read")
        return
    what = f"{path}{more}, {_bytes(free)} are free there"
    if free < FREE_BYTES:
        yield Finding("history", WRONG, what,
                      "free some space, or set XDG_STATE_HOME (or history.path) to another disk")
    elif not os.access(there, os.W_OK):
        yield Finding("history", WRONG, f"{there} cannot be written",
                      "set XDG_STATE_HOME (or history.path) to a place that can")
    else:
        yield Finding("history", OK, what)


def _about_spool(directory: Optional[str]) -> Findings:
    """Where trainers keep what attnd has not acknowledged, when a directory is named."""
    if not directory:
        return
    try:
        sizes = [entry.stat().st_size for entry in os.scandir(directory) if entry.name.endswith(".rec")]
    except FileNotFoundError:
        yield Finding("spool", OK, f"{directory} (ATTND_SPOOL) is made by the first training")
        return
    except OSError as error:
        yield Finding("spool", WRONG, f"{directory} (ATTND_SPOOL): {error.strerror}", "name a directory that can be read")
        return
    if os.access(directory, os.W_OK | os.X_OK):
        yield Finding("spool", OK, f"{directory} (ATTND_SPOOL), {len(sizes)} files of {_bytes(sum(sizes))} for attnd to "
                      "acknowledge; the next training sends what nobody holds")
    else:
        yield Finding("spool", WRONG, f"{directory} (ATTND_SPOOL) cannot be written", "name a directory that can")


def _bytes(count: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
