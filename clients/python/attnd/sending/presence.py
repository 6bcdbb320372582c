# SPDX-License-Identifier: MIT
"""presence: whether attnd is there and takes the messages of a job, and what people are told of that, in warnings: that it has gone,
and is back; that it is older than what the job asks for; that it refuses the job's key, and takes it again; that it is stopped.

Subscriptions tell it: attnd that is there subscribes, and to a prefix of its own when it refuses the job.
"""
from __future__ import annotations

import time
from typing import Callable, Dict, Optional, Tuple

from ..base import address as addresses, wire
from ..base.once import Once, log
from ..connection import keys as keyring
from ..connection.link import Link
from .outbox import Outbox
from .reliable import Lane, Wish

GONE_AFTER_S = 5.0  # without a subscriber; a daemon that is back sooner was only restarted
HOPE_S = 5.0  # between two looks at whether messages are taken again
TO_START = 'Start one: attnd &, or attnd.watch(..., start="auto"); python -m attnd says what is wrong'
REMOTE = "See whether attnd runs there, and whether the network and the firewalls let it through"


class Presence:
    """All on the sender thread, but for `say_next`, which any may set.

    lane     gives the reliable lane of the job
    relies   tells whether more than events went by it
    """

    def __init__(self, job: str, link: Link, outbox: Outbox, wish: Wish, lane: Callable[[], Lane], relies: Callable[[], bool]):
        self._job = job
        self._link = link
        self._outbox = outbox
        self._wish = wish
        self._lane = lane
        self._relies = relies
        self._once = Once(job)
        self._heard: Tuple[bytes, ...] = ()  # what is subscribed
        self._is_there = False  # tensors of the job are
        self._home: Optional[str] = None  # where the daemon is, or was last
        self._left_at: Optional[float] = None  # since when nobody subscribes to anything
        self._told_gone = False
        self._count_before: Dict[str, int] = {}  # it left
        self.hope: Optional[Tuple[float, int, bool]] = None  # see _look_whether_admitted
        self.say_next: Optional[Callable[[], str]] = None  # the end of the warning that attnd has gone; None: that is not told

    def notice(self, heard: Tuple[bytes, ...], is_there: bool) -> None:
        """Subscriptions have changed; `is_there`: tensors of the job are subscribed to."""
        self._heard, self._is_there = heard, is_there
        if is_there:
            self._home = self._link.endpoint
            if self._told_gone and self._left_at is not None:
                log.warning("job %s: attnd is back, at %s%s", self._job, self._home, self._say_missed(time.monotonic() - self._left_at))
            self._left_at, self._told_gone = None, False
            self._tell_old()
            if self._is_denied():
                self._tell_denied()
            elif "denied" in self._once and self.hope is None:  # attnd has read its list again, or was started again
                self._begin_to_hope()
        elif not heard and self._home is not None and self._left_at is None:
            self._left_at, self._count_before = time.monotonic(), dict(self._outbox.count)

    @property
    def was_there(self) -> bool:
        """Whether tensors of the job were subscribed to at any time."""
        return self._home is not None

    @property
    def what_helps(self) -> str:
        """A sentence for those whose attnd is not there."""
        return TO_START if self._link.endpoint is None or self._link.endpoint.startswith("ipc://") else REMOTE

    def idle_s(self, is_ending: bool) -> Optional[float]:
        """Seconds until tend() has something to tell by itself; None: until subscriptions change."""
        timers = [self._gone_in_s(is_ending), None if self.hope is None else max(0.0, self.hope[0] - time.monotonic())]
        return min((at for at in timers if at is not None), default=None)

    def tend(self, is_ending: bool) -> None:
        """Tells what is due. `is_ending`: the job ends."""
        if self._gone_in_s(is_ending) == 0:
            self._tell_gone()
        if self.hope is not None and time.monotonic() >= self.hope[0]:
            self._look_whether_admitted(*self.hope)

    # ------------------------------------------------------------------------------ it has gone, and is back

    def _gone_in_s(self, is_ending: bool) -> Optional[float]:
        """Seconds until it has to tell that the daemon has gone; None: it has not, or that is told, or the job ends."""
        if self._left_at is None or self._told_gone or self.say_next is None or is_ending:
            return None
        return max(0.0, self._left_at + GONE_AFTER_S - time.monotonic())

    def _tell_gone(self) -> None:
        assert self.say_next is not None
        self._told_gone = True
        what = "what goes by the reliable lane is kept for it, and nothing else is" if self._relies() else "nothing is"
        then = self.say_next() if addresses.is_here(str(self._home)) else REMOTE
        log.warning("job %s: attnd at %s has gone, or does not answer: %s captured until it is back; training goes "
                    "on. %s", self._job, self._home, what, then)

    def _say_missed(self, away_s: float) -> str:
        if not self._relies():
            return f": what follows is captured, {away_s:.0f} s were not"
        counts = [("kept for it, and sent now", self._lane().unacknowledged)]
        for name, what in (("skipped", "not captured"), ("dropped", "dropped")):
            count = self._outbox.count[name] - self._count_before[name]
            counts += [(what, count)] if count else []
        return f", after {away_s:.0f} s; messages " + "; ".join(f"{what}: {count}" for what, count in counts)

    def _tell_old(self) -> None:
        """That what the job asked for cannot be had, as attnd has no reliable lane."""
        if wire.event_topic(self._job).startswith(self._heard) and self._outbox.limits.reliable < 0 and (
                self._wish.asked or self._wish.directory is not None):
            self._once.warn("old", "attnd at %s has no reliable lane (it is an older version): messages go without acknowledgement, "
                            "and nothing is kept for it", self._home)

    def tell_stalled(self) -> None:
        """It takes nothing any more."""
        self._once.warn("stalled", "attnd at %s is stopped, or too busy: it takes nothing, and tensors are dropped and counted until "
                        "it does; training goes on. Further times are not told", self._home)

    # ------------------------------------------------------------------------------------ it refuses the job

    def take_denial(self) -> None:
        """An answer of the lane, which may be a late one, of before attnd read its list again: then it puts hope off."""
        is_late = self.hope is not None and not self._is_denied()
        self._tell_denied()
        if is_late:
            self._begin_to_hope(refused=1)

    def _is_denied(self) -> bool:
        """Whether attnd says by its subscriptions that it refuses this job."""
        return self._link.keys is not None and keyring.refusal_of(self._job, self._link.keys) in self._heard

    def _tell_denied(self) -> None:
        """That the messages are refused, because the key may not publish this job."""
        self.hope = None
        if self._link.keys is not None:
            self._once.warn("denied", "%s; training goes on, and attnd gets nothing of it. Further refusals are only counted",
                            keyring.denied(self._job, self._link.endpoint, self._link.keys))

    def _begin_to_hope(self, refused: int = 0) -> None:
        """Some of what is to come counts as sent, as it is refused."""
        self.hope = time.monotonic() + HOPE_S, self._outbox.count["sent"] + refused, False

    def _look_whether_admitted(self, at: float, sent: int, is_judged: bool) -> None:
        """Tells that messages are taken again: `is_judged`, some were sent when this was looked at last, and none was refused
        since. `sent` messages were when that began."""
        self.hope = at + HOPE_S, sent, self._outbox.count["sent"] > sent
        if is_judged and self._is_there:
            self.hope = None
            self._once.again("denied")
            log.warning("job %s: attnd at %s takes the messages of job %s again: what follows is captured", self._job, self._home,
                        self._job)
