/* SPDX-License-Identifier: MIT */
/* latency: how long things took, counted by classes from 100 us to 10 s. Any thread adds, without
 * a lock, for some nanoseconds; a reader sees each class whole, and the newest addition perhaps in
 * its class and not yet in the sum. */
#ifndef DAEMON_BASE_LATENCY_H
#define DAEMON_BASE_LATENCY_H

#include <stdatomic.h>
#include <stdint.h>

/* Classes with an upper bound; one more has what is beyond. */
#define LATENCY_BOUNDS 16
extern const uint64_t latency_bound_ns[LATENCY_BOUNDS]; /* inclusive, ascending */

enum latency_kind {
#define LATENCY(symbol, name, help) LATENCY_##symbol,
#include "daemon/base/latency.def"
#undef LATENCY
    LATENCY_COUNT
};
extern const char *const latency_name[LATENCY_COUNT];
extern const char *const latency_help[LATENCY_COUNT];

struct latency {
    _Atomic uint64_t count[LATENCY_BOUNDS + 1]; /* by class, not cumulative */
    _Atomic uint64_t sum_ns;
};

void latency_add(struct latency *latency, uint64_t ns);
/* From one moment to a later one; a clock that seems to have gone back counts as no time. */
void latency_add_between(struct latency *latency, uint64_t from_ns, uint64_t to_ns);

#endif
