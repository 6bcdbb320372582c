/* SPDX-License-Identifier: MIT */
/* row_kernels: the functions that block_fast and row_batch call, one table per instruction set
 * (kernels_of), by row_kernels_tmpl.c. Immutable; any thread. */
#ifndef WORKERS_ROWS_ROW_KERNELS_H
#define WORKERS_ROWS_ROW_KERNELS_H

#include "workers/base/attention.h"
#include "workers/stats/dist.h"
#include "workers/base/isa.h"
#include "proto/metric.h"
#include "proto/tensor.h"

struct row_batch;
struct row_chunk;
struct row_rules;
struct row_scaled;
struct sums_counted;
struct sums_totals;

/* Single weights that a pass picks out of a row. */
enum row_single { SINGLE_FIRST, SINGLE_DIAGONAL, SINGLE_PREVIOUS, SINGLE_NEXT, SINGLE_COUNT };
#define KEY_NONE UINT32_MAX

#define ROW_PAD 16 /* the widest vector */

/* The values that the rows of one query share. Their valid keys are [begin, end), with holes. */
struct row_job {
    uint32_t keys, begin, end;
    struct attention_holes holes;
    uint64_t position;               /* of the query */
    uint32_t local_begin, local_end; /* the keys of local_mass */
    uint32_t single[SINGLE_COUNT];   /* valid keys, or KEY_NONE */
    const uint32_t *occurrence[2];   /* valid keys of induction, of duplicate_token */
    uint32_t occurrences[2];
    float *maps; /* row (b, i) of the sum and max maps: ROW_MAPS_FLOATS(keys) */
};

/* Sum and maximum over the heads lie vector by vector in turn: in two arrays a store to one would
 * wait for loads from the other whenever they are a multiple of 4 KiB apart. */
#define ROW_MAPS_FLOATS(keys) (2 * ((size_t)(keys) + ROW_PAD))

/* A pass leaves job->maps alone, begins them with its row, the first head's, or adds to them. */
enum row_maps { ROW_MAPS_NONE, ROW_MAPS_BEGIN, ROW_MAPS_ADD, ROW_MAPS_COUNT };

/* The result of a pass over a row: lanes to be summed across, of sixteen rows side by side. */
enum lane_sum {
    LANES_SUM,      /* A, without the first key */
    LANES_PLOGP,    /* A (log2 A - LOG2_CONSTANT), without the first key */
    LANES_SQUARES,  /* A^2 */
    LANES_DISTANCE, /* A |p - j| */
    LANES_LOCAL,
    LANES_MIN,
    LANES_TOP, /* levels: the largest of each lane, the second largest, ... */
    LANES_COUNT = LANES_TOP + 5
};

struct row_pass {
    float lanes[LANES_COUNT][ROW_PAD * ROW_PAD]; /* [][slot][width] */
    float single[SINGLE_COUNT][ROW_PAD];         /* 0 for KEY_NONE */
    float occurrence[2][ROW_PAD];
};

/* Sums over one row as sent, for the importance score. */
struct importance_sums {
    double expm1, a_exp; /* sum e^a - 1, sum a e^a */
    struct moments entries;
};

/* Bits of the slots that want a second look: `top` may not have kept all of the 8 largest,
 * `squares` are of a row too near to uniform. */
struct row_doubts {
    uint32_t top, squares;
};

#define KERNEL_DTYPES 4 /* DTYPE_F32 to DTYPE_F64 */

/* A rest of a row below this is left to the reference: its shares would be made of denormals. */
#define ROW_REST_LEAST 1e-25f
/* The same for entropies whose exponential leaves f32. */
#define ROW_PLOGP_LEAST -80.0f
/* Bytes of weights to fetch early: a few times what the memory's latency is worth. */
#define ROW_AHEAD 8192u
/* One row, its first element at any address, into its slot; `next` is the row to be fetched early,
 * ROW_AHEAD further in the order of work, or the next one when rows are longer. */
typedef void row_kernel(const struct row_job *job, const unsigned char *row,
                        const unsigned char *next, struct row_pass *pass, uint32_t slot);

struct row_kernels {
    uint32_t width; /* of a vector */
    /* job->maps take the row on the way. `rows`, for when the group core is off, leaves sums and
     * minima only; `maps` looks at no mask. */
    row_kernel *core[KERNEL_DTYPES][ROW_MAPS_COUNT];
    row_kernel *rows[KERNEL_DTYPES][ROW_MAPS_COUNT];
    void (*maps[KERNEL_DTYPES])(enum row_maps maps, const struct row_job *job,
                                const unsigned char *row, const unsigned char *next);
    /* Sums across lanes, into the batch, of which keys and first are there already; and the eighth
     * largest weight that was kept. */
    struct row_doubts (*reduce)(const struct row_pass *pass, struct row_batch *batch,
                                float ret_eighth[ROW_PAD]);
    void (*reduce_sums)(const struct row_pass *pass, struct row_batch *batch); /* after `rows` */
    /* Bits of the slots whose row sum is within [least, most], without a negative weight and
     * without anything that f32 sums are not right for (ROW_*); their largest |sum - 1|. */
    uint32_t (*ordinary)(const struct row_batch *batch, float least, float most, bool core,
                         float *ret_error);
    /* The sum of a row's 8 largest weights, of which none is below `least`. */
    float (*top[KERNEL_DTYPES])(const struct row_job *job, const unsigned char *row, float least);
    /* sum (A - mean)^2 */
    float (*squares[KERNEL_DTYPES])(const struct row_job *job, const unsigned char *row,
                                    float mean);
    /* Returns false when an entry is outside what the kernel takes. */
    bool (*importance[KERNEL_DTYPES])(const unsigned char *row, uint32_t keys,
                                      struct importance_sums *ret_sums);
    /* Moments of n entries of the sum map, of the max map; not finite when an entry is not. */
    void (*moments)(const float *maps, uint32_t n, struct moments ret_map[2]);
    /* Moments of the finite entries alone, those of the max map where the sum is no NaN; n = 0
     * without any. */
    void (*moments_finite)(const float *maps, uint32_t n, struct moments ret_map[2]);
    /* A magnitude that none of a row's finite weights exceeds; infinity for f64. */
    float (*finite_most[KERNEL_DTYPES])(const unsigned char *row, uint32_t keys);
    /* Adds to upper[n] what the sum over `heads` heads may be at most. */
    void (*add_upper)(float *upper, const float *maps, uint32_t n, uint32_t heads);
    /* The same where the sum is finite; elsewhere adds 1 to missing[n]. */
    void (*add_upper_finite)(float *upper, float *missing, const float *maps, uint32_t n,
                             uint32_t heads);
    /* Adds n entries of the sum map; touches up to ROW_PAD more. */
    void (*add_sums)(double *sum, const float *maps, uint32_t n);
    /* The first j >= begin with x[j] >= bound, rounded down to a whole vector; n if there is none.
     */
    uint32_t (*find)(const float *x, uint32_t begin, uint32_t n, float bound);
    /* Exact sums over heads of up to `width` neighbouring entries; heads are `stride` bytes apart.
     */
    void (*head_sums[KERNEL_DTYPES])(const unsigned char *row, size_t stride, uint32_t heads,
                                     uint32_t n, double *ret_sum);
    /* Metrics of the batch's rows: ret_value[metric][0..ROW_BATCH), NaN where one does not exist
     * or the row is not sound; what belongs to slots that are not used means nothing. Returns bits
     * of the metrics that are not finite in every row. */
    uint32_t (*finish)(const struct row_batch *batch, float *const ret_value[METRIC_ROW_COUNT]);
    /* Sums of ROW_BATCH rows, from one of a chunk on, into the batch and beside it; `used` and
     * `sound` are the caller's. Returns bits of the rows of which everything is in order
     * (row_sums_internal.h). */
    uint32_t (*sums)(const struct row_rules *rules, const struct row_chunk *chunk, uint32_t from,
                     struct row_scaled *scaled, struct row_batch *batch);
    /* Adds them to the sums of their head. */
    void (*totals)(const struct row_chunk *chunk, uint32_t from, const struct row_scaled *scaled,
                   const struct sums_counted *counted, struct sums_totals *into);
    /* Sums up those of x[n], n > 0, at any address, that are finite; returns how many. */
    uint32_t (*finite_sum)(const void *x, uint32_t n, double *ret_sum);
    /* Counts x[n], n > 0, all finite, into empty counts; reads up to ROW_PAD more. */
    void (*count)(const float *x, size_t n, struct dist_counts *counts);
};

#endif
