/* SPDX-License-Identifier: MIT */
#include "daemon/base/latency.h"

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
