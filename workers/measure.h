/* SPDX-License-Identifier: MIT */
/* measure: measures one message of any tier, in jobs that may run on any threads in any order. The
 * daemon runs them on its pool, attnctl analyze one after the other.
 *
 *     measure_new -> measure_run for each job 0 .. measure_jobs - 1 -> measure_finish -> result
 *
 * Jobs share nothing but the input, which is borrowed and only read. Steps that need all of the
 * message (the merge of the blocks, the map weighted by importance) are part of measure_finish. */
#ifndef WORKERS_MEASURE_H
#define WORKERS_MEASURE_H

#include "workers/across/across.h"
#include "workers/rows/block.h"
#include "workers/maps/head_maps.h"
#include "workers/rows/map_pool.h"
#include "workers/rows/row_sums.h"
#include "proto/pattern.h"
#include "workers/qk/qk.h"
#include "proto/metric.h"
#include "workers/across/similarity.h"
#include "workers/linear/spectrum.h"
#include "workers/linear/weights.h"

/* The contents of a message. */
enum tier { TIER_ATTENTION, TIER_QK, TIER_WEIGHTS, TIER_ROWS, TIER_COUNT };

/* Most row jobs and spectrum jobs of one message. */
#define MEASURE_ROW_JOBS_MAX      32
#define MEASURE_SPECTRUM_JOBS_MAX 32
/* Redundant pairs that are listed. */
#define REDUNDANT_PAIRS_MAX 100

struct measure_plan {
    bool group[METRIC_GROUP_COUNT];
    uint32_t threads; /* that may run jobs at once; for the cost */
    bool whole;       /* the message has all heads of its layer; without, nothing that goes
                         across heads: importance, aggregate, pairs, similarity */
    bool head_pairs;  /* top pairs of each head as well */
    bool pooled_map;  /* the map for people to look at (map_pool.h): of tier attention, and of
                         qk where its maps are made */
    uint32_t head_maps_size; /* cells a side of the maps of each head of one sample (head_maps.h);
                                of the same tiers; 0 = none; tier rows: whether those that it
                                brought are wanted */
    uint32_t head_maps_sample;
    uint32_t top_pairs;         /* 1..TOP_PAIRS_MAX */
    uint32_t local_window;      /* of local_mass, in positions */
    double redundant_js;        /* heads with a smaller head_js are redundant; nats */
    const double *head_weights; /* [head_weight_count] of aggregate.weighted; copied by
                                   measure_new; used when the message has as many heads */
    uint32_t head_weight_count;
    uint32_t spectrum_max_size; /* larger maps have no spectrum */
    uint32_t spectrum_sample;   /* of the batch; the last one when the batch is smaller */
    enum spectrum_effort spectrum_effort;
    uint64_t spectrum_budget_ns;      /* thread time for spectra; 0 = as long as they take */
    uint32_t spectrum_first;          /* the head that the budget begins with */
    bool (*should_yield)(void *data); /* whether others wait for this thread: a spectrum under a
                                  budget then gives way; NULL = never */
    void *yield_data;
    uint32_t weights_max_size;     /* tier weights: weights.whole_max_size */
    uint32_t eigenvalues_max_size; /* weights.eigenvalue_max_size */
    uint32_t qk_maps_max_size; /* tier qk: up to this size the map is made and measured as well */
    uint64_t block_entries;    /* entries per row job: the grain */
    enum isa isa;
};

/* One message's numbers, borrowed from the measure. NULL and NaN: off, or does not exist. */
struct measured {
    enum tier tier;
    uint32_t heads;
    uint64_t rows, invalid_rows;
    double row_sum_error;
    const struct head_block *head; /* [heads]: the distributions of the row metrics */
    double *value[METRIC_COUNT];   /* [heads] */
    double *vector[VECTOR_COUNT];  /* [heads][vector_info.width] */
    enum pattern *pattern;         /* [heads] */
    double sink_rate;
    uint32_t local_window; /* of local_mass */
    bool has_aggregate[AGGREGATE_COUNT];
    double aggregate[AGGREGATE_COUNT][MAP_STAT_COUNT];
    const struct pair *pairs; /* [pair_count] */
    uint32_t pair_count;
    const struct pair *head_pairs;   /* [heads][head_pair_limit] */
    const uint32_t *head_pair_count; /* [heads] */
    uint32_t head_pair_limit;
    const struct layer_map *map;       /* NULL: not asked for, or there is none */
    double *head_similarity, *head_js; /* [heads][heads] */
    const struct redundant_pair *redundant;
    uint32_t redundant_count, redundant_total; /* listed; in all */
    bool has_spectra;                          /* of the map or of Q K^T */
    uint32_t spectrum_next;                    /* the head the next budget should begin with */
    uint32_t spectra, spectra_skipped;    /* heads that had their turn, and those that had not */
    const struct weights_result *weights; /* tier weights */
};

/* Rows of a head that were left out as unsound; 0 with metrics.core off. */
uint64_t measured_invalid_rows(const struct measured *measured, uint32_t head);

struct measure;

/* Bytes that a measure and its results take at most; of weights also what is laid out meanwhile.
 * Saturates. */
uint64_t measure_cost(const struct attention *shape, const struct measure_plan *plan);
uint64_t measure_weights_cost(const struct weights *shape);
uint64_t measure_rows_cost(const struct sent_sums *shape, const struct measure_plan *plan);
/* Bytes of scratch that plan.threads may need for it, beyond what threads keep anyway (pool.h). It
 * counts once for all messages, because a thread works on one at a time. Saturates. */
uint64_t measure_scratch(const struct attention *shape, const struct measure_plan *plan);

/* Tiers attention and qk: `a` is copied, what it points to is borrowed until measure_free. B, H, Tq
 * and Tk must be at least 1. A sample of the rows (q_stride) has numbers of rows and entries only,
 * whatever the plan says: nothing across heads, no maps, no spectra. Returns 0 or ERR_MEMORY. */
int measure_new(const struct attention *a, const struct measure_plan *plan,
                struct measure **ret_measure);
/* Tier rows: `rows` as `a` above. `maps` are what came beside the sums, of shape `maps` and cells
 * in half precision (head_maps_given), borrowed too; NULL = none came. A number that cannot be is
 * ERR_ROWS of measure_finish. */
int measure_new_rows(const struct sent_sums *rows, const struct head_maps *maps, const void *halves,
                     const struct measure_plan *plan, struct measure **ret_measure);
/* Tier weights. */
int measure_new_weights(const struct weights *weights, const struct measure_plan *plan,
                        struct measure **ret_measure);
uint32_t measure_jobs(const struct measure *measure);
/* The kind of a job: rows; spectra, which may wait and give way; tier weights, which may take
 * seconds. */
enum measure_job { MEASURE_ROWS, MEASURE_SPECTRA, MEASURE_WEIGHTS };
enum measure_job measure_job_kind(const struct measure *measure, uint32_t job);

/* Runs a job, once, on any thread. Failures are kept for measure_finish. */
void measure_run(struct measure *measure, uint32_t job, struct scratch *scratch);
/* After all jobs have run. Returns 0, ERR_MEMORY or ERR_ROWS. */
int measure_finish(struct measure *measure, struct scratch *scratch);
/* After a successful measure_finish. */
const struct measured *measure_result(const struct measure *measure);
/* The maps of the heads, which become the caller's; NULL when they were not asked for or there are
 * none. */
struct head_maps *measure_take_head_maps(struct measure *measure);
void measure_free(struct measure **measure);

/* The numbers as results list them; borrowed from *measured. */
void measured_numbers(const struct measured *measured, struct layer_numbers *ret_numbers);

#endif
