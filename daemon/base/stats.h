/* SPDX-License-Identifier: MIT */
/* stats: the daemon's counters, drops by reason, and how long things took. Any thread adds;
 * readers see each counter whole. */
#ifndef DAEMON_BASE_STATS_H
#define DAEMON_BASE_STATS_H

#include "proto/err.h"
#include "daemon/base/latency.h"
#include <stdatomic.h>
#include <stdint.h>

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
