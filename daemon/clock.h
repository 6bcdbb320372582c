/* SPDX-License-Identifier: MIT */
/* clock: the two clocks, in nanoseconds. State machines never call these; their callers pass the
 * time in. */
#ifndef DAEMON_CLOCK_H
#define DAEMON_CLOCK_H

#include <stdint.h>

/* Since some start; never goes back. */
uint64_t clock_monotonic_ns(void);
/* Since 1970. */
uint64_t clock_real_ns(void);

#endif
