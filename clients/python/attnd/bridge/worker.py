# SPDX-License-Identifier: MIT
"""worker: a sink with a thread and a bounded queue of its own, so that one that fails or hangs stops no other.

Every item ends as exactly one of: written, skipped (the sink has it), failed, dropped (the queue was full, or close()
could not wait any longer).
"""
from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import Future
from typing import Any, Callable, Deque, Dict, Optional, Tuple, Union

from ..base.once import log
from .items import End, Item, Ledger, Run
from .sink import Sink, SinkGone

QUEUE_ITEMS = 4096  # a window of a layer is an item: some 10 KB with 7 metrics of 12 heads
COMMIT_S = 1.0  # how much of what was written a kill can make forgotten, and so written again
RUNS_OPEN_MAX = 32  # the one not written to for longest is ended, to be begun again when it must

_Question = Tuple[Run, "Future[Ledger]"]


class Worker:
    """Feeds one sink. offer(), recall() and close() belong to the bridge's thread, stats() to any."""

    def __init__(self, sink: Sink, queue_items: int = QUEUE_ITEMS):
        self.sink = sink
        self._queue: Deque[Union[Item, _Question]] = deque()
        self._bound = queue_items
        self._changed = threading.Condition()
        self._closing = False
        self._counts = dict.fromkeys(("written", "skipped", "failed", "dropped"), 0)
        self._said = False
        self._stuck = False  # did not take anything for as long as somebody waited
        self.gone = False  # the sink will never take anything again
        self._ledgers: Dict[Run, Ledger] = {}
        self._open: "OrderedDict[Run, bool]" = OrderedDict()  # to: has something to commit
        self._thread = threading.Thread(target=self._run, name=f"attnd-bridge-{sink.kind}", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------------------ the bridge's side

    def offer(self, item: Item, patience: float = 0.0) -> None:
        """Queues the item, or drops it and counts when there is no room after `patience` seconds; a sink that let
        somebody wait in vain is not waited for again until it has taken something."""
        with self._changed:
            if len(self._queue) >= self._bound and patience and not self._stuck:
                self._stuck = not self._changed.wait_for(lambda: len(self._queue) < self._bound or self.gone, patience)
            if self.gone:
                return  # nobody wants it
            if len(self._queue) >= self._bound:
                self._counts["dropped"] += not isinstance(item, End)
                self._say("it does not keep up: some results are dropped")
            else:
                self._queue.append(item)
                self._changed.notify_all()

    def recall(self, run: Run, patience: float) -> Optional[Ledger]:
        """A copy of what the sink has of a run; None when it does not say within `patience` seconds."""
        answer: "Future[Ledger]" = Future()
        with self._changed:
            self._queue.append((run, answer))
            self._changed.notify_all()
        try:
            return answer.result(patience)
        except Exception:  # a timeout, or whatever the sink raises: it is said when an item meets it
            return None

    def stats(self) -> Dict[str, int]:
        """How many items were written, skipped, failed, dropped, and how many are waiting."""
        with self._changed:
            waiting = sum(isinstance(entry, Item) and not isinstance(entry, End) for entry in self._queue)
            return {**self._counts, "waiting": waiting}

    def begin_close(self) -> None:
        """Ends after what is queued."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def finish_close(self, deadline: float) -> None:
        """Waits for the end, until the monotonic time `deadline` at most; what is still queued then is dropped."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            left = sum(isinstance(entry, Item) and not isinstance(entry, End) for entry in self._queue)
            self._queue.clear()
            self._counts["dropped"] += 0 if self.gone else left
        if self._thread.is_alive():
            log.warning("%s does not end: it is left behind, with %d results not written", self.sink.kind, left)
        lost = self._counts["failed"] + self._counts["dropped"]
        if lost:
            log.warning("%s: %d results were not written, %d were", self.sink.kind, lost, self._counts["written"])

    # ---------------------------------------------------------------------------------- its own thread

    def _run(self) -> None:
        committed = time.monotonic()
        while not self.gone:
            entry = self._next()
            if isinstance(entry, tuple):
                self._answer(*entry)
            elif entry is not None:
                self._guarded(self._take, entry)
            now = time.monotonic()
            if entry is None or now - committed >= COMMIT_S:
                for run in [run for run, dirty in self._open.items() if dirty]:
                    self._guarded(self._commit, run)
                committed = now
            if entry is None and self._closing and not self._queue:
                break
        for run in list(self._open):
            self._close_run(run, False)
        self._guarded(self.sink.close)

    def _next(self) -> Union[Item, _Question, None]:
        """The next entry, or None when there was none for a moment."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing, COMMIT_S)
            if not self._queue:
                return None
            self._stuck = False
            entry = self._queue.popleft()
            self._changed.notify_all()
            return entry

    def _answer(self, run: Run, answer: "Future[Ledger]") -> None:
        try:
            known = self._ledger(run)
            answer.set_result(Ledger(dict(known.positions), list(known.notes), known.written))
        except Exception as error:  # whatever a sink raises
            answer.set_exception(error)

    def _take(self, item: Item) -> None:
        if isinstance(item, End):
            self._end(item.run)
            return
        ledger = self._ledger(item.run)
        if not ledger.is_new(item):
            self._counts["skipped"] += 1
            return
        self._begin(item.run)
        self.sink.write(item)
        ledger.mark(item)
        self._counts["written"] += 1

    def _begin(self, run: Run) -> None:
        if run not in self._open:
            if len(self._open) >= RUNS_OPEN_MAX:
                self._close_run(next(iter(self._open)), False)
            self.sink.begin(run)
        self._open[run] = True
        self._open.move_to_end(run)

    def _ledger(self, run: Run) -> Ledger:
        if run not in self._ledgers:
            self._ledgers[run] = self.sink.recall(run)
        return self._ledgers[run]

    def _end(self, run: Run) -> None:
        """The run has ended. One that was closed before, or that nothing new came of, is told to the sink as well."""
        if run in self._open:
            self._close_run(run, True)
            return
        known = self._ledger(run)
        if known.positions or known.notes:
            self.sink.finish(run)
        self._ledgers.pop(run, None)

    def _close_run(self, run: Run, final: bool) -> None:
        """Never raises, and the run is not open afterwards: a sink that fails on one run would else take no other."""
        self._guarded(self._commit, run)
        dirty = self._open.pop(run)
        self._guarded(self.sink.end, run, final)
        if not dirty:  # else the sink does not know all that it has
            self._ledgers.pop(run, None)

    def _commit(self, run: Run) -> None:
        if self._open[run]:
            self.sink.commit(run, self._ledgers[run])
            self._open[run] = False

    def _guarded(self, call: Callable[..., None], *arguments: Any) -> None:
        """Exceptions of a sink stay here."""
        try:
            call(*arguments)
        except SinkGone as error:
            self.gone = True
            log.info("%s: %s", self.sink.kind, error)
        except Exception as error:
            item = arguments[0] if arguments and isinstance(arguments[0], Item) else None
            with self._changed:
                self._counts["failed"] += item is not None and not isinstance(item, End)
                self._say(f"{type(error).__name__}: {error}")

    def _say(self, text: str) -> None:
        """Once; what follows is counted."""
        if not self._said:
            self._said = True
            log.warning("%s: %s (said once; further ones are only counted)", self.sink.kind, text)
