/* SPDX-License-Identifier: MIT */
/* clock: time in nanoseconds. State machines never ask; their callers pass the time in. */
#ifndef DAEMON_BASE_CLOCK_H
#define DAEMON_BASE_CLOCK_H

#include <stdint.h>

/* Since some start; never goes back. */
uint64_t clock_monotonic_ns(void);

/* Since 1970; may jump. */
uint64_t clock_wall_ns(void);

#endif
