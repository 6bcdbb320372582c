# SPDX-License-Identifier: MIT
"""origins: whether the sums of a captured call travel (rows.py), where they are computed and of which rows, and when maps go along."""
from __future__ import annotations

import functools
from dataclasses import replace
from typing import Dict, Optional, Tuple

from ..base.plan import Plan, drawn, some
from ..forms.seen import Seen, Weights, device_of, keys_of, makes_by_head, precision_of, shape_of
from ..sending.head_maps import Turns
from ..sending.publisher import Publisher
from .accelerator import MADE_MAX, MADE_WHOLE_MAX, ROWS_MAX, Accelerator, computes
from .calls import Context, beyond_device, logits_of
from .cost import Cost
from .rows import Origin

ROWS_ON_DEVICE = 256  # query rows that an accelerator takes of a call whose plan says nothing of rows
WHOLE_EVERY = 16  # captures of an attention there, of which one takes all rows of a sample


class Origins:
    """The origins of the sums of one watch, which asks from the training thread. `sends_values`: tensors travel, whatever
    the plan says."""

    def __init__(self, publisher: Publisher, cost: Cost, sends_values: bool):
        self._publisher = publisher
        self._sends_values = sends_values
        self.accelerator = Accelerator(publisher.job, cost)
        self._captures: Dict[str, int] = {}  # of each attention: those that an accelerator took as it liked
        self._maps = Turns()

    def of(self, path: str, seen: Seen, plan: Plan, epoch: int, step: int, cross: bool, context: Context
           ) -> Tuple[Plan, Context]:
        """The part of a call that is taken, and its context: with the origin of the sums that travel instead of tensors, if they
        do. At most now and then maps go along."""
        if plan.tier == "raw" or self._sends_values or not self._publisher.limits.rows:
            return plan, context
        computer = None
        if not computes(device_of(seen)):
            if plan.tier != "rows":
                return plan, context
        else:
            there, taken = self.plan_on_device(path, seen, plan, cross, context, (self._publisher.run, step))
            if not self.accelerator.is_trusted or not self._fits_device(seen, there, cross, taken):
                return plan, context
            computer, plan, context = self.accelerator, there, taken
        side = self._publisher.maps_side
        if side:
            heads, queries = shape_of(seen)[1:3]
            weights = heads * queries * keys_of(seen)  # of the maps of a sample
            if computer is not None and 0 < plan.rows < queries:
                side = 0  # they need all rows
            elif not self._maps.take(path, epoch, step, plan.every, self._publisher.maps_every, weights):
                side = 0
        return plan, context._replace(sums=Origin(step, side, computer, cross))

    def is_of_device(self, seen: Seen, plan: Plan) -> bool:
        """Whether an accelerator computes the sums, if they travel."""
        return plan.tier != "raw" and self._publisher.limits.rows and computes(device_of(seen))

    def plan_on_device(self, path: str, seen: Seen, plan: Plan, cross: bool, context: Context, at: Tuple[str, int]
                       ) -> Tuple[Plan, Context]:
        """The part of a call that an accelerator computes: at most ROWS_MAX rows, or MADE_MAX logits; and where the plan says
        nothing of them, some of each sample, and now and then all of one sample, drawn `at` this run and step: maps, and numbers
        of the map as a whole, need those."""
        (heads, queries), samples = shape_of(seen)[1:3], context.samples
        rows_max = whole_max = ROWS_MAX
        if makes_by_head(seen):
            rows_max, whole_max = (min(ROWS_MAX, most // keys_of(seen)) for most in (MADE_MAX, MADE_WHOLE_MAX))
        most = max(1, rows_max // (heads * samples.taken))
        taken = min(most, plan.rows or ROWS_ON_DEVICE)
        if not plan.rows:
            if queries <= taken:
                return plan, context
            captures = self._captures[path] = self._captures.get(path, len(self._captures) - 1) + 1  # layers take turns
            if captures % WHOLE_EVERY == 0 and heads * queries <= whole_max:
                row = range(samples.of)[samples.rows][drawn(samples.taken, *at, context.microbatch)]
                one = context._replace(samples=some(range(row, row + 1), samples.of))
                if self._fits_device(seen, plan, cross, one):
                    return plan, one
        return _of_rows(plan, taken), context

    def _fits_device(self, seen: Seen, plan: Plan, cross: bool, context: Context) -> bool:
        if beyond_device(seen, plan, cross, context) is not None:
            return False
        if isinstance(seen, Weights):
            return True
        return self.accelerator.is_fast_for(logits_of(seen, plan, context.samples.taken), seen.q, precision_of(seen), seen.documents and seen.documents[0])


@functools.lru_cache(16)
def _of_rows(plan: Plan, rows: int) -> Plan:
    return replace(plan, rows=rows)
