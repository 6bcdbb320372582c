/* SPDX-License-Identifier: MIT */
/* The parts that the files of measure share: the passes over a message, for the code that runs them
 * and the code that estimates their cost, and the way from the merged state to the numbers. */
#ifndef WORKERS_MEASURE_INTERNAL_H
#define WORKERS_MEASURE_INTERNAL_H

#include "workers/across/outputs.h"
#include "workers/linear/spectra.h"
#include "workers/measure.h"
#include "workers/rows/first_key.h"

/* A group that needs all heads of the layer. */
static inline bool measure_across(const struct measure_plan *plan, enum metric_group group)
{
    return plan->whole && plan->group[group];
}

/* The plan, without what needs the whole map when the message has a sample of its rows. */
static inline struct measure_plan measure_plan_for(const struct attention *a,
                                                   const struct measure_plan *plan)
{
    struct measure_plan of_rows = *plan;
    if (attention_sampled(a)) {
        of_rows.group[METRIC_GROUP_IMPORTANCE] = of_rows.group[METRIC_GROUP_PAIRS] = false;
        of_rows.group[METRIC_GROUP_SIMILARITY] = of_rows.group[METRIC_GROUP_SPECTRUM] = false;
        of_rows.pooled_map = false;
        of_rows.head_maps_size = of_rows.qk_maps_max_size = of_rows.head_weight_count = 0;
    }
    return of_rows;
}

/* The plan without what sums over rows do not tell. Maps that came beside them may be wanted. */
static inline struct measure_plan measure_plan_of_rows(const struct sent_sums *rows,
                                                       const struct measure_plan *plan)
{
    struct measure_plan of_rows = *plan;
    of_rows.group[METRIC_GROUP_IMPORTANCE] =
        plan->group[METRIC_GROUP_IMPORTANCE] && row_sums_weigh(rows);
    of_rows.group[METRIC_GROUP_PAIRS] = of_rows.group[METRIC_GROUP_SIMILARITY] = false;
    of_rows.group[METRIC_GROUP_SPECTRUM] = false;
    of_rows.qk_maps_max_size = of_rows.head_weight_count = 0;
    of_rows.local_window = rows->local_window;
    return of_rows;
}

/* Their shape, without weights and without queries and keys. */
static inline struct attention measure_shape_of_rows(const struct sent_sums *rows)
{
    return (struct attention){.batch = rows->batch,
                              .heads = rows->heads,
                              .queries = rows->rows,
                              .keys = rows->keys,
                              .self = rows->self};
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
    return measure_across(plan, METRIC_GROUP_IMPORTANCE) && (a->weights ? a->grad : a->qk.dout);
}

/* Numbers of the values that were sent beside weights; `block` is without the group core where
 * queries and keys have given them. */
static inline bool wants_outputs(const struct attention *a, const struct block_plan *block)
{
    return a->weights && a->qk.v && block->group[METRIC_GROUP_CORE];
}

/* Numbers of rows that begin at other keys than key 0. */
static inline bool wants_first_keys(const struct attention *a, const struct measure_plan *plan)
{
    return plan->group[METRIC_GROUP_CORE] && first_key_differs(a);
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

/* How many jobs the rows are cut into; of tier rows. */
uint32_t measure_parts(const struct attention *a, const struct measure_plan *plan);
uint32_t measure_parts_of_rows(const struct sent_sums *rows, const struct measure_plan *plan);

/* The results after all jobs, merged; NULL = off. */
struct measure_state {
    const struct attention *attention;
    const struct measure_plan *plan;
    const struct sent_sums *rows; /* tier rows; else NULL */
    const struct block *block;
    const struct similarity *similarity;
    const double *gradient; /* [heads], not yet normalised; of tier qk it is in the block */
    const struct moments *weighted;
    const struct spectra *spectra; /* of the map, or of Q K^T */
    const struct pair *head_pairs;
    const uint32_t *head_pair_count;
};

/* Bytes of the numbers of a message with `heads` heads. */
size_t measure_numbers_bytes(uint32_t heads, bool similarity);
/* Fills *ret_measured with pointers into *ret_storage (free) and into the state. One more pass over
 * the weights for the map weighted by importance. Returns 0 or ERR_MEMORY. */
int measure_numbers(struct measure_state *state, struct scratch *scratch,
                    struct measured *ret_measured, void **ret_storage);
/* Adds what only the map has (importance, aggregate, pairs, similarity, spectrum) to the numbers
 * that came from queries and keys; both must outlive *into. */
void measure_numbers_add_maps(struct measured *into, const struct measured *maps);

/* Bytes of the numbers of a message of tier weights with `heads` heads. */
size_t measure_numbers_matrix_bytes(uint32_t heads);
/* The numbers of each head's matrices as values of *measured, which points into *ret_storage
 * (free). One that no head has is left out. Returns 0 or ERR_MEMORY. */
int measure_numbers_matrices(const struct weights_result *weights, struct measured *measured,
                             void **ret_storage);

#endif
