/* SPDX-License-Identifier: MIT */
/* learned: what a drift has learned, by its checkpoint. */
#ifndef TESTS_UNIT_DAEMON_STATE_LEARNED_H
#define TESTS_UNIT_DAEMON_STATE_LEARNED_H

#include "daemon/state/drift.h"

/* How many windows the longest baseline, or block that may become one, has. */
uint64_t learned_windows(const struct drift *drift);

#endif
