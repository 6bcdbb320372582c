/* SPDX-License-Identifier: MIT */
#include "daemon/run/cost.h"

#include "daemon/base/grow.h"
#include "proto/err.h"

#include <stdlib.h>
#include <string.h>

#define RATIO_MAX 1e9

double cost_ratio(const struct capture_cost *cost)
{
    double ratio = cost->step_seconds > 0 ? cost->capture_seconds / cost->step_seconds : 0;
    return ratio < RATIO_MAX ? ratio : RATIO_MAX;
}

/* All ranks are looked at only when the one that paid most pays less. */
int costs_take(struct capture_costs *costs, uint32_t rank_index, const struct header *hello)
{
    if (!(hello->step_seconds > 0)) {
        return 0;
    }
    if (!grow_to(&costs->of_rank, rank_index, &costs->count, sizeof *costs->of_rank)) {
        return ERR_MEMORY;
    }
    struct capture_cost *cost = &costs->of_rank[rank_index];
    double before = cost_ratio(cost);
    *cost = (struct capture_cost){hello->step_seconds, hello->capture_seconds};
    uint32_t first = rank_index, end = rank_index + 1;
    if (rank_index == costs->largest && cost_ratio(cost) < before) {
        first = 0;
        end = costs->count;
    }
    for (uint32_t i = first; i < end; i++) {
        if (cost_ratio(&costs->of_rank[i]) >= cost_ratio(&costs->of_rank[costs->largest])) {
            costs->largest = i;
        }
    }
    return 0;
}

const struct capture_cost *costs_largest(const struct capture_costs *costs)
{
    const struct capture_cost *largest = costs->count > 0 ? &costs->of_rank[costs->largest] : NULL;
    return largest && largest->step_seconds > 0 ? largest : NULL;
}

void costs_clear(struct capture_costs *costs)
{
    free(costs->of_rank);
    *costs = (struct capture_costs){0};
}
