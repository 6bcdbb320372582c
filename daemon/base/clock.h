/* SPDX-License-Identifier: MIT */
/* clock: time in nanoseconds. State machines never ask; their callers pass the time in. */
#ifndef DAEMON_BASE_CLOCK_H
#define DAEMON_BASE_CLOCK_H

#include <stdint.h>

/* Since some start; never goes back. */
uint64_t clock_monotonic_ns(void);

/* Since 1970; may jump. */
uint64_t clock_wall_ns(void);

/* Processor time of the calling thread. */
uint64_t clock_thread_ns(void);

/* How long `then_ns` is ago; 0 when it is still to come: a state machine whose time stands still
 * while messages wait may know of something later. */
static inline uint64_t clock_since_ns(uint64_t then_ns, uint64_t now_ns)
{
    return now_ns > then_ns ? now_ns - then_ns : 0;
}

#endif
