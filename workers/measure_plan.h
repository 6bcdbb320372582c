/* SPDX-License-Identifier: MIT */
/* measure_plan: the passes over a message; shared by the code that runs them and the code that
 * estimates their cost. */
#ifndef WORKERS_MEASURE_PLAN_H
#define WORKERS_MEASURE_PLAN_H

#include "workers/measure.h"

/* A group that needs all heads of the layer. */
static inline bool measure_across(const struct measure_plan *plan, enum metric_group group)
{
    return plan->whole && plan->group[group];
}

static inline bool wants_head_pairs(const struct measure_plan *plan)
{
    return measure_across(plan, METRIC_GROUP_PAIRS) && plan->head_pairs;
}

/* A mean over all heads. */
static inline bool wants_pooled_map(const struct measure_plan *plan)
{
    return plan->whole && plan->pooled_map;
}

static inline bool wants_weighted(const struct attention *a, const struct measure_plan *plan)
{
    return measure_across(plan, METRIC_GROUP_CORE) && plan->head_weights &&
           plan->head_weight_count == a->heads;
}

static inline bool wants_gradient(const struct attention *a, const struct measure_plan *plan)
{
    return measure_across(plan, METRIC_GROUP_IMPORTANCE) && a->grad;
}

static inline bool wants_maps_of_qk(const struct attention *a, const struct measure_plan *plan)
{
    return !a->weights && a->queries <= plan->qk_maps_max_size && a->keys <= plan->qk_maps_max_size;
}

static inline bool wants_spectra(const struct attention *a, const struct measure_plan *plan)
{
    return a->weights && plan->group[METRIC_GROUP_SPECTRUM] &&
           a->queries <= plan->spectrum_max_size && a->keys <= plan->spectrum_max_size;
}

static inline bool wants_qk_spectra(const struct attention *a, const struct measure_plan *plan)
{
    return !a->weights && plan->group[METRIC_GROUP_SPECTRUM] &&
           a->qk.head_dim <= plan->spectrum_max_size;
}

/* How many jobs the rows are cut into. */
uint32_t measure_parts(const struct attention *a, const struct measure_plan *plan);

#endif
