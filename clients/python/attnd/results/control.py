# SPDX-License-Identifier: MIT
"""control: questions to a running daemon.

MessagePack-RPC over a DEALER, one frame each way:

    request [0, id, method, params]      params is a map
    reply   [1, id, error, result]       error is nil, or a map {code, message}

ZeroMQ never says that nobody is there; so every call has a deadline.
"""
from __future__ import annotations

import os
import time
import weakref
from typing import Any, Dict, Optional, Sequence, Tuple

import msgpack
import zmq

from .. import __version__
from ..base import wire
from ..base.local import version_order
from ..base.wire import printable
from ..connection.link import Link
from . import past

DEFAULT_TIMEOUT_S = 5.0
LOOK_KEYS_S = 1.0  # without an answer: whether it is the keys
LOOK_EVERY_S = 0.05  # somebody waits for an answer meanwhile
PLAN_KEYS = ("every", "layers", "heads", "samples", "rows", "tier")


class ControlError(Exception):
    """The daemon refused a request. `code` is one of its reasons, such as 'job_unknown'."""

    def __init__(self, code: str, message: str):
        self.code, self.message = printable(code), printable(message)
        super().__init__(f"{self.message} ({self.code})" if message else self.code)


class KeysError(ConnectionError):
    """attnd does not let this client in: the sentence says why."""


class Control:
    """A connection to the daemon's control socket.

    timeout   seconds per call
    address   the daemon: a directory or "tcp://host:port" (see address.py); default $ATTND_ADDRESS, else the one that
              answers on this machine when something is asked
    endpoint  exactly its control socket, instead of an address

    Every method raises TimeoutError when no answer came in time, ControlError when the daemon refused, and ConnectionError
    when something answered that is not attnd. The error says who listens there instead; finding that out takes 2 s at
    most. One thread at a time. ValueError for a bad address or endpoint.
    """

    def __init__(self, endpoint: Optional[str] = None, timeout: float = DEFAULT_TIMEOUT_S, *, address: Any = None):
        self._timeout = timeout
        self._last_id = 0
        self._link = Link(zmq.DEALER, "control", endpoint, address, _set_options, LOOK_EVERY_S)
        self._socket = self._link.socket
        # Holds the socket: collected in a cycle with its context it could make the context wait for ever.
        self._finalizer = weakref.finalize(self, self._link.close)

    @property
    def directory(self) -> Optional[str]:
        """The directory of the sockets by which attnd was reached; None: it was not yet, or otherwise."""
        endpoint = self._link.endpoint or ""
        return os.path.dirname(endpoint[len("ipc://"):]) if endpoint.startswith("ipc://") else None

    def ping(self) -> Any:
        """The daemon's version and uptime."""
        return self.call("ping")

    def jobs(self) -> Any:
        """The known jobs with their state, layers and counters."""
        return self.call("jobs")

    def summary(self, job: str, **where: Any) -> Any:
        """The newest summaries of a run; `where` narrows them down: run, stack, layer, site, window."""
        return self.call("summary", {"job": job, **where})

    def live(self, job: str, **where: Any) -> Any:
        """The newest live values of a run's layers; `where` narrows them down: run, stack, layer, site;
        tier="weights" asks for those of the projection matrices."""
        return self.call("live", {"job": job, **where})

    def stats(self) -> Any:
        """The daemon's own counters."""
        return self.call("stats")

    def fleet(self) -> Any:
        """This attnd among those of other machines: a dict with `role`: "off", "node" or "hub"; and more of the latter."""
        return self.call("fleet")

    def config(self) -> Any:
        """The configuration in force."""
        return self.call("config")

    def flush(self, job: Optional[str] = None) -> Any:
        """Publishes what the open windows of one job, or of all, hold now, as partial; they stay open."""
        return self.call("flush", {} if job is None else {"job": job})

    def plan(self, job: Optional[str] = None) -> Any:
        """The capture plan of a job: a dict of job, pattern, from ("default", "cost", "config" or "set"), every (0 =
        nothing), layers, heads, samples and rows (0 = all), tier, and cost: None until the job has told what capturing
        costs it, else a dict whose `message` says it; note: why it takes nothing of an active job, or None. Without a
        job the list of all plans; the first one whose pattern matches a job holds for it."""
        return self.call("plan.get", past.given(job=job))

    def set_plan(self, job: str, **keys: Any) -> Any:
        """Changes what a job is asked to capture, from now on and until the daemon ends: every=10,
        layers="decoder.*.self", heads="0-3,7", samples=0, rows=64, tier="rows". `job` may be a pattern ("gpt-*"); what
        is not named stays as it is. The plan as of `plan`; ControlError when a value is none, TypeError for another key."""
        for key in keys:
            if key not in PLAN_KEYS:
                raise TypeError(f"set_plan() has no key {key!r} (valid: {', '.join(PLAN_KEYS)})")
        return self.call("plan.set", past.given(job=job, **keys))

    def reset_plan(self, job: str) -> Any:
        """Forgets what was set for exactly this name or pattern; the plan that is in force then. ControlError when
        nothing was set."""
        return self.call("plan.reset", {"job": job})

    def runs(self, job: Optional[str] = None) -> Any:
        """The runs in the history, newest first: dicts of job, run, state, world, first_ns, last_ns, epoch, step, of what
        people say of it (name, notes, tags, star, archived), and of settings: what the training was started with, as far
        as it said so."""
        return self.call("runs", past.given(job=job, limit=past.LIMIT_MAX))["runs"]

    def log(self, job: str, run: Optional[str] = None) -> Any:
        """The numbers that the training of a run reported itself, such as its loss: dicts of name, and of step, epoch,
        time_ns and value, lists of one entry per point; a value is None where it was not finite."""
        return self.call("log", past.given(job=job, run=run))["series"]

    def windows(self, job: str, run: Optional[str] = None, **where: Any) -> Any:
        """A run in the history: its layers, the windows of each, and their metrics."""
        return self.call("windows", past.given(job=job, run=run, **where))

    def history(self, job: str, run: Optional[str] = None, *, stack: Optional[str] = None, layer: Optional[int] = None,
                site: Optional[str] = None, head: Optional[int] = None, metric: Optional[str] = None,
                window: Optional[str] = None, from_: Optional[int] = None, to: Optional[int] = None,
                limit: Optional[int] = None, statistics: Optional[Sequence[str]] = None) -> Dict[str, Any]:
        """How a metric of a layer went from window to window.

        Returns a dict: `windows` to arrays [W] of `first`, `last`, `epoch`, `step`, `time_ns` (uint64) and
        `partial` (bool); `values` to an array of float64 per statistic (mean, std, min, max, p10, p50, p90, p99, last,
        count; NaN = there is none): [heads, W], or [W] with `head` given or for a number of the whole layer;
        `heads`, what they are of; and `job`, `run`, `metric`, `unit`, `length`, `every`, `more`, and of the newest
        window `rows` and, where these are a sample, `rows_of`.

        run     its first digits; default: the newest
        window  "1 epoch", "100 steps every 10"; default: the primary one of the config
        from_   and `to`: the epochs, steps or seconds that the windows end in, both included
        limit   at most so many windows, the newest unless `from_` is given; default: all, however many
        """
        params = past.given(job=job, run=run, stack=stack, layer=layer, site=site, head=head, metric=metric,
                            window=window, to=to, statistics=None if statistics is None else list(statistics))
        if limit is not None:
            return past.unpack(self.call("history", past.given(**params, limit=limit, packed=True, from_=from_)))
        return past.collect(lambda **page: self.call("history", {**params, **page}), from_ or 0)

    def map(self, job: str, run: Optional[str] = None, *, stack: Optional[str] = None, layer: Optional[int] = None,
            site: Optional[str] = None, window: Optional[str] = None, last: Optional[int] = None) -> Any:
        """A layer's mean map over its heads, pooled to at most 128 x 128, as float32 [rows, columns]: of the
        newest window, or of the one that ends with `last`."""
        return past.unpack_map(self.call("map", past.given(job=job, run=run, stack=stack, layer=layer, site=site,
                                                           window=window, last=last, packed=True)))

    def maps(self, job: str, run: Optional[str] = None, *, stack: Optional[str] = None, layer: Optional[int] = None,
             site: Optional[str] = None, head: Optional[int] = None, kind: Optional[str] = None) -> Dict[str, Any]:
        """The newest map of each head of a layer, of one sample, pooled to at most 128 x 128 by default.

        Returns a dict: `values`, float32 [heads, rows, columns] (NaN: nothing there, or a head in slices over ranks that
        has not come), or [rows, columns] with `head` given or another `kind`; `heads`, which they are; `labels`, the
        texts of the keys or None, `q_labels` those of the queries of cross-attention; `queries` and `keys`, which are
        shown: without padding, from `first_query` and `first_key` on of `queries_sent` and `keys_sent`; `step`, `epoch`,
        `sample`, `causal`, ...

        kind   "heads" (default), or one map of all: "mean", "sum", "max", "weighted" (metrics.head_weights), "importance"

        ControlError 'no_map' says why there is none.
        """
        answer = self.call("maps", past.given(job=job, run=run, stack=stack, layer=layer, site=site, head=head, kind=kind,
                                              packed=True))
        return past.unpack_maps(answer, len(answer["heads"]) if answer["heads"] is not None and head is None else None)

    def rollout(self, job: str, run: Optional[str] = None, *, stack: Optional[str] = None) -> Dict[str, Any]:
        """Attention rollout (Abnar and Zuidema 2020) through the self-attention of a stack, from the newest maps: a dict
        of `values`, float32 [layers, rows, columns]: what each position has of each input after that layer; `layers`;
        `labels`; `exact`: false when maps were pooled, are of different steps, or a layer is missing."""
        answer = self.call("rollout", past.given(job=job, run=run, stack=stack, packed=True))
        return past.unpack_maps(answer, len(answer["layers"]))

    def roles(self, job: str, run: Optional[str] = None, **where: Any) -> Any:
        """Names what each head of a run in the history does, and since when: dicts of stack, layer, site, head; `role`,
        such as "induction"; `evidence`, the numbers that decide: dicts of metric, value, and at_least or at_most;
        `emerged`, the `{window, epoch, step}` since which it has its role (None: nobody saw it emerge, it may be older);
        `spans`, the roles that it has had: dicts of role, since, until, windows and others; `changes`, how often it
        changed. `where` narrows them down: stack, layer, site, head; window."""
        return self.call("roles", past.given(job=job, run=run, **where))["heads"]

    def ranks(self, job: str, run: Optional[str] = None, **where: Any) -> Any:
        """The mean entropy of each head of a layer by rank, in its newest window or the one that ends with `last`: a dict
        of `ranks`: dicts of rank, node (None: not known), rows, mean (per head), distance from the median of the ranks and
        odd; `odd`, the ranks that are the odd ones out; and whose window it is. `where`: stack, layer, site, window, last."""
        return self.call("ranks", past.given(job=job, run=run, **where))

    def alerts(self, job: Optional[str] = None, run: Optional[str] = None, **where: Any) -> Any:
        """A dict: `firing`, the alerts that fire now, or fired when their run ended (`state`: `firing_at_end`); `alerts`,
        all that was told, newest first (None without a history); `more`; `unmeasured`, the layers of each run that no
        numbers came of in the last windows, 8 at most. `where` narrows them down: rule, severity, state, from_, to,
        limit."""
        return self.call("alerts", past.given(job=job, run=run, **where))

    def compare(self, a: str, b: str, **where: Any) -> Any:
        """The heads of two runs by how differently they behave: `a` and `b` are "job" (its newest run) or
        "job/run". A dict: `heads`, most different first, each with `distance` (the mean Jensen-Shannon divergence of
        its metrics, 0 to ln 2) and `metrics`; `only_a`, `only_b`; `a`, `b`; `more`. `where`: metric, window, windows
        (how many of each run, newest first), from_, to, limit."""
        job, _, run = a.partition("/")
        job_b, _, run_b = b.partition("/")
        return self.call("compare", past.given(job=job, run=run or None, job_b=job_b, run_b=run_b or None, **where))

    def call(self, method: str, params: Optional[Dict[str, Any]] = None) -> Any:
        """Calls any method with a map of parameters; its result as decoded MessagePack."""
        deadline = time.monotonic() + self._timeout
        self._reach(deadline)
        self._last_id += 1
        request = msgpack.packb([0, self._last_id, method, params or {}], use_bin_type=True)
        try:
            self._socket.send(request, zmq.DONTWAIT)
        except zmq.Again:  # attnd turned the key away, or as many are queued as ZeroMQ takes: nobody answered for long
            raise self._no_answer(method) from None
        error, result = self._reply(method, deadline)
        if error is None:
            return result
        if isinstance(error, dict):
            code, message = str(error.get("code", "error")), str(error.get("message", ""))
            if code == "method_unknown" and method != "ping":
                version = str(self.ping().get("version"))
                old = version_order(version) < version_order(__version__)
                remedy = f"; attnd {version} is too old for what was asked, update attnd" if old else ""
                message += f": {method}{remedy}"
            raise ControlError(code, message)
        raise ControlError("error", str(error))

    def _reach(self, deadline: float) -> None:
        """Waits until there is somebody to ask. Late answers to earlier calls are thrown away."""
        self._link.tend()
        while not self._link.up:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(self._link.where)
            if self._link.wait(left):
                self._socket.recv_multipart()
            self._link.tend()

    def _reply(self, method: str, deadline: float) -> Tuple[Any, Any]:
        """(error, result) of the newest request; late answers to earlier ones are skipped."""
        look = min(time.monotonic() + LOOK_KEYS_S, deadline)
        while True:
            left = max(0.0, look - time.monotonic())
            if not self._link.wait(left):
                if left == 0.0 and look == deadline:
                    raise self._no_answer(method)
                if left == 0.0:
                    look = deadline
                    self._check_keys()
                continue
            frames = self._socket.recv_multipart()
            try:
                frame, = frames
                kind, number, error, result = msgpack.unpackb(frame, raw=False, strict_map_key=False)
                if kind != 1:
                    raise ValueError(kind)
            except Exception as cause:
                raise ConnectionError(self._explained(f"{self._link.endpoint}: not an answer of attnd")) from cause
            if number == self._last_id:
                return error, result

    def _check_keys(self) -> Optional[str]:
        """KeysError when they are wrong; "": attnd lets this client in; None: that is not known."""
        why = self._link.wrong_keys()
        if why:
            raise KeysError(why)
        return why

    def _no_answer(self, method: str) -> TimeoutError:
        return TimeoutError(self._explained(f"{self._link.endpoint}: no answer to {method} within {self._timeout:g} s"))

    def _explained(self, sentence: str) -> str:
        """With who listens instead, as far as that is known. KeysError when it is the keys."""
        why = None if self._check_keys() == "" else self._link.wrong_name()
        return sentence if why is None else f"{sentence}: {why}"

    def close(self) -> None:
        """Disconnects. Idempotent."""
        self._finalizer()

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()


def _set_options(socket: "zmq.Socket[Any]") -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, wire.RESULT_BYTES_MAX)
