/* SPDX-License-Identifier: MIT */
/* cost: what capturing costs a run, as each of its ranks measures it. Pure; one thread. */
#ifndef DAEMON_RUN_COST_H
#define DAEMON_RUN_COST_H

#include "proto/header.h"

struct capture_cost {
    double step_seconds;    /* of a step in which nothing is captured; 0: the rank has not told */
    double capture_seconds; /* that a captured one takes in addition */
};

/* One per rank index, grown on demand. A zeroed struct is empty. */
struct capture_costs {
    struct capture_cost *of_rank; /* owned */
    uint32_t count;
    uint32_t largest; /* index of the rank that pays most; none when `count` is 0 */
};

/* The part of a step that capturing takes when every step is captured; at most 1e9. */
double cost_ratio(const struct capture_cost *cost);

/* A rank's hello tells, or does not. Returns 0 or ERR_MEMORY. */
int costs_take(struct capture_costs *costs, uint32_t rank_index, const struct header *hello);
/* The one of the rank that pays most; NULL when none has told. Borrowed until the next hello. */
const struct capture_cost *costs_largest(const struct capture_costs *costs);
void costs_clear(struct capture_costs *costs);

#endif
