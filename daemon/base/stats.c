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

const uint64_t latency_bound_ns[LATENCY_BOUNDS] = {
    100000,   250000,    500000,    1000000,   2500000,    5000000,    10000000,   25000000,
    50000000, 100000000, 250000000, 500000000, 1000000000, 2500000000, 5000000000, 10000000000,
};

const char *const latency_name[LATENCY_COUNT] = {
#define LATENCY(symbol, name, help) [LATENCY_##symbol] = name,
#include "daemon/base/latency.def"
#undef LATENCY
};

const char *const latency_help[LATENCY_COUNT] = {
#define LATENCY(symbol, name, help) [LATENCY_##symbol] = help,
#include "daemon/base/latency.def"
#undef LATENCY
};

void latency_add(struct latency *latency, uint64_t ns)
{
    int i = 0;
    while (i < LATENCY_BOUNDS && ns > latency_bound_ns[i]) {
        i++;
    }
    atomic_fetch_add_explicit(&latency->count[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&latency->sum_ns, ns, memory_order_relaxed);
}

void latency_add_between(struct latency *latency, uint64_t from_ns, uint64_t to_ns)
{
    latency_add(latency, to_ns > from_ns ? to_ns - from_ns : 0);
}
