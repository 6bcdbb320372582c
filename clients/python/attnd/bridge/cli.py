# SPDX-License-Identifier: MIT
"""cli: the bridge as a program.

attnd is found as attnctl finds it: by an address, or by --endpoint, the one where it answers, which is asked where it
publishes.
Exit status: 0 done; 1 something was not written; 2 wrong usage or a missing package; 3 attnd cannot be reached.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
from typing import List, NoReturn, Optional, Sequence

from ..results.control import DEFAULT_TIMEOUT_S, Control, ControlError
from .jsonl import JsonLinesSink
from .mlflow import MlflowSink
from .pump import Bridge
from .selection import IMAGES, METRICS, STATISTICS, Selection
from .sink import MissingPackage, Sink
from .tensorboard import TensorBoardSink
from .trackio import TrackioSink
from .wandb import WandbSink

DONE, NOT_ALL, USAGE, UNREACHABLE = 0, 1, 2, 3


class Unreachable(Exception):
    """No attnd; the text says where."""


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs until Ctrl-C or SIGTERM; the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="attnd.bridge: %(message)s")
    try:
        bridge = _make(options)
    except Unreachable as error:
        print(f"attnd.bridge: {error}", file=sys.stderr)
        return UNREACHABLE
    except KeyboardInterrupt:
        return DONE
    except (MissingPackage, ValueError, OSError) as error:
        print(f"attnd.bridge: {error}", file=sys.stderr)
        return USAGE
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: bridge.stop())
    with contextlib.redirect_stdout(sys.stderr if options.sink == "trackio" else sys.stdout):  # it tells what it does
        bridge.run(until_end=options.until_end)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)  # a second one does not wait for the sinks
        bridge.close(timeout=options.linger)
    return _report(bridge, options)


def _report(bridge: Bridge, options: argparse.Namespace) -> int:
    sink = bridge.stats()[options.sink]
    lost = sink["failed"] + sink["dropped"]
    if options.json:
        tally = {"sink": options.sink, "written": sink["written"], "skipped": sink["skipped"], "lost": lost}
        print(json.dumps(tally), file=sys.stderr if _is_stdout_taken(options) else sys.stdout)
    elif not options.quiet:
        print(f"attnd.bridge: {sink['written']} written, {sink['skipped']} already there, {lost} lost", file=sys.stderr)
    return NOT_ALL if sink["failed"] or sink["dropped"] else DONE


def _is_stdout_taken(options: argparse.Namespace) -> bool:
    return options.sink == "jsonl" and options.file is None


def _make(options: argparse.Namespace) -> Bridge:
    images = () if options.sink == "jsonl" else options.images
    selection = Selection(metrics=options.metrics, statistics=options.statistics, layers=options.layers, images=images,
                          every=options.every)
    endpoint, address = options.endpoint or None, options.address or None
    if endpoint and address:
        raise ValueError("--address and --endpoint: give one of them")
    if not (endpoint or address or os.environ.get("ATTND_ADDRESS")) and os.environ.get("ATTND_ENDPOINT"):
        raise ValueError("ATTND_ENDPOINT is not read: name attnd in ATTND_ADDRESS")
    summaries = options.summaries or _summaries(endpoint, address, options.timeout)
    past = not _is_stdout_taken(options) if options.past is None else options.past
    return Bridge(_sink(options), summaries, address=address, control=endpoint or "", jobs=options.job, selection=selection,
                  window=options.window, live=options.live, past=past)


def _sink(options: argparse.Namespace) -> Sink:
    if options.sink == "tensorboard":
        return TensorBoardSink(options.directory)
    if options.sink == "wandb":
        return WandbSink(options.project, options.entity, options.directory, "offline" if options.offline else None)
    if options.sink == "trackio":
        return TrackioSink(options.project, options.space)
    if options.sink == "mlflow":
        return MlflowSink(options.uri, options.experiment)
    return JsonLinesSink(options.file)


def _summaries(endpoint: Optional[str], address: Optional[str], timeout: float) -> Optional[str]:
    """Where attnd publishes; None: that follows from its address. Unreachable when nobody answers."""
    try:
        with Control(endpoint, timeout, address=address) as control:
            config = control.config()
            return _reachable(str(config["publish.endpoint"]), endpoint) if endpoint else None
    except (TimeoutError, ConnectionError, ControlError, KeyError) as error:
        where = f" at {endpoint or address}" if endpoint or address else ""
        raise Unreachable(f"cannot reach attnd{where}: is it running? start it with `attnd`; join group attnd if it runs"
                          f" as a service; or name it with --address, or --summaries to wait for it ({error})") from None


def _reachable(bound: str, control: str) -> str:
    """A wildcard host becomes the control endpoint's, or this machine when that is no tcp."""
    host, _, port = bound.rpartition(":")
    if host not in ("tcp://*", "tcp://0.0.0.0", "tcp://[::]"):
        return bound
    return f"{control.rpartition(':')[0] if control.startswith('tcp://') else 'tcp://127.0.0.1'}:{port}"


# ------------------------------------------------------------------------------------- command line

def _patterns(text: str) -> List[str]:
    return [part for part in text.replace(",", " ").split() if part]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    """As attnctl reads it: "2", "2s" or "500ms"; 1 ms to an hour."""
    number, factor = (text[:-2], 1e-3) if text.endswith("ms") else (text[:-1] if text.endswith("s") else text, 1.0)
    try:
        seconds = float(number) * factor
    except ValueError:
        seconds = 0.0
    if not 1e-3 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: must be 1ms to 3600s")
    return seconds


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong; the usage is long."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _common() -> _Parser:
    common = _Parser(add_help=False)
    add = common.add_argument
    add("--address", help="which attnd: a directory of sockets or tcp://host:port; default $ATTND_ADDRESS, else the"
        " one that answers on this machine")
    add("--endpoint", help="exactly the socket where it answers, instead of an address")
    add("--timeout", type=_seconds, default=DEFAULT_TIMEOUT_S, metavar="SECONDS",
        help=f"how long to wait for an answer; default {DEFAULT_TIMEOUT_S:g}")
    add("--summaries", metavar="ENDPOINT", help="exactly the socket where it publishes")
    add("--job", action="append", default=[], help="only this job, or those that match a pattern ('run-*'); may be repeated")
    add("--metrics", type=_patterns, default=METRICS, metavar="PATTERNS",
        help=f"comma-separated, * and ? allowed; default {','.join(METRICS)}")
    add("--statistics", type=_patterns, default=STATISTICS, metavar="PATTERNS",
        help="mean,std,min,max,p10,p50,p90,p99,last,count,drift.delta,drift.shift,drift.js,drift.change; default "
             f"{','.join(STATISTICS)}")
    add("--layers", type=_patterns, default=("*",), metavar="PATTERNS", help="such as 'decoder.*.self'; default all")
    add("--images", type=_patterns, default=IMAGES, metavar="PATTERNS",
        help=f"metrics that get heat maps; '' = none; default {','.join(IMAGES)}")
    add("--every", type=_count, default=1, metavar="N", help="only every N-th window")
    add("--window", help="such as '1 epoch' or '100 steps every 10'; default: attnd's primary windows")
    add("--live", action="store_true", help="single messages too, as <metric>.live")
    add("--past", action="store_true", default=None,
        help="first what the history has and the sink has not; the default but for stdout")
    add("--no-past", dest="past", action="store_false", help="only what comes from now on")
    add("--until-end", action="store_true", help="end when the runs that were going on have ended")
    add("--linger", type=float, default=30.0, metavar="SECONDS", help="time limit for writing the rest at the end; default 30")
    add("--quiet", action="store_true", help="no tally at the end")
    add("--json", action="store_true",
        help="the tally as JSON, to standard output; of jsonl without FILE, to standard error")
    return common


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=os.environ.get("ATTND_BRIDGE_NAME", "python -m attnd.bridge"),
        description="Forwards attnd's summaries and alerts, until Ctrl-C.")
    sinks = parser.add_subparsers(dest="sink", required=True, metavar="SINK")
    common = [_common()]
    one = sinks.add_parser("tensorboard", parents=common, help="event files, a directory per run")
    one.add_argument("directory", metavar="DIRECTORY", help="where TensorBoard is pointed to")
    one = sinks.add_parser("wandb", parents=common, help="Weights & Biases, a run per run")
    one.add_argument("--project", default="attnd", help="default %(default)s")
    one.add_argument("--entity", help="team or user")
    one.add_argument("--directory", help="where W&B keeps its files; default $WANDB_DIR, else here")
    one.add_argument("--offline", action="store_true", help="write files only: wandb sync sends them later")
    one = sinks.add_parser("trackio", parents=common, help="Trackio, a run per run")
    one.add_argument("--project", default="attnd", help="default %(default)s")
    one.add_argument("--space", help="Hugging Face Space to log to; default $TRACKIO_SPACE_ID, else files in $TRACKIO_DIR")
    one = sinks.add_parser("mlflow", parents=common, help="MLflow, a run per run")
    one.add_argument("--uri", help="tracking store; default $MLFLOW_TRACKING_URI")
    one.add_argument("--experiment", help="default: one per job, of its name")
    one = sinks.add_parser("jsonl", parents=common, help="a line of JSON per window and layer")
    one.add_argument("file", nargs="?", metavar="FILE", help="appended to; default stdout")
    return parser
