/* SPDX-License-Identifier: MIT */
#include "daemon/base/stats.h"

const char *const counter_name[COUNT_COUNT] = {
#define COUNTER(symbol, name, exposed, unit, help) [COUNT_##symbol] = name,
#include "daemon/base/stats.def"
#undef COUNTER
};

void stats_add(struct stats *stats, enum counter counter, uint64_t amount)
{
    atomic_fetch_add_explicit(&stats->counter[counter], amount, memory_order_relaxed);
}

void stats_received(struct stats *stats, uint64_t bytes)
{
    stats_add(stats, COUNT_RECEIVED, 1);
    stats_add(stats, COUNT_BYTES, bytes);
}

uint64_t stats_drop(struct stats *stats, int code)
{
    return atomic_fetch_add_explicit(&stats->dropped[err_index(code)], 1, memory_order_relaxed);
}

uint64_t stats_get(struct stats *stats, enum counter counter)
{
    return atomic_load_explicit(&stats->counter[counter], memory_order_relaxed);
}

uint64_t stats_lost(struct stats *stats)
{
    uint64_t found = stats_get(stats, COUNT_FOUND); /* first: it never exceeds the other */
    return stats_get(stats, COUNT_LOST) - found;
}

uint64_t stats_dropped(struct stats *stats, int index)
{
    return atomic_load_explicit(&stats->dropped[index], memory_order_relaxed);
}

uint64_t stats_dropped_total(struct stats *stats)
{
    uint64_t total = 0;
    for (int i = 0; i < ERR_COUNT; i++) {
        total += stats_dropped(stats, i);
    }
    return total;
}
