/* SPDX-License-Identifier: MIT */
/* clock: time in nanoseconds. State machines never ask; their callers pass the time in. */
#ifndef DAEMON_CLOCK_H
#define DAEMON_CLOCK_H

#include <stdint.h>

/* Since some start; never goes back. */
uint64_t clock_monotonic_ns(void);

#endif
