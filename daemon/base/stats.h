/* SPDX-License-Identifier: MIT */
/* stats: the daemon's counters, drops by reason, and how long things took. Any thread adds;
 * readers see each counter whole. */
#ifndef DAEMON_BASE_STATS_H
#define DAEMON_BASE_STATS_H

#include "proto/err.h"

#include <stdatomic.h>
#include <stdint.h>

/* latency: how long things took, counted by classes from 100 us to 10 s. Any thread adds, without
 * a lock, for some nanoseconds; a reader sees each class whole, and the newest addition perhaps in
 * its class and not yet in the sum. */

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

enum counter {
#define COUNTER(symbol, name, exposed, unit, help) COUNT_##symbol,
#include "daemon/base/stats.def"
#undef COUNTER
    COUNT_COUNT
};

struct stats {
    _Atomic uint64_t counter[COUNT_COUNT];
    _Atomic uint64_t dropped[ERR_COUNT]; /* by err_index */
    struct latency latency[LATENCY_COUNT];
    _Atomic uint64_t config_read_ns; /* when a config was last taken, ns since 1970 */
    _Atomic uint32_t config_refused; /* the last one that was read: 1 = it was not taken */
};

extern const char *const counter_name[COUNT_COUNT];

void stats_add(struct stats *stats, enum counter counter, uint64_t amount);
/* One message and its bytes. */
void stats_received(struct stats *stats, uint64_t bytes);
/* `code` is an error of err.def. Returns how often it was counted before. */
uint64_t stats_drop(struct stats *stats, int code);
uint64_t stats_get(struct stats *stats, enum counter counter);
/* Messages that were lost: COUNT_LOST without those that came after all. */
uint64_t stats_lost(struct stats *stats);
uint64_t stats_dropped(struct stats *stats, int index);
uint64_t stats_dropped_total(struct stats *stats);

#endif
