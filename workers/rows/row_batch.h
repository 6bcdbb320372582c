/* SPDX-License-Identifier: MIT */
/* row_batch: from the sums over a row to its metrics, many rows at a time.
 *
 * A front end (the pass over weights, the online softmax over queries and keys) reduces each row to
 * a few sums. Sixteen rows side by side make a `struct row_batch`; logarithms and quotients are
 * then taken for all of them at once, and the values are kept in columns, one per metric, until
 * they go into the heads' distributions by the hundred.
 *
 *     row_values_begin -> { fill a batch, row_values_add } ... -> row_values_flush
 *
 * Owned by one thread. */
#ifndef WORKERS_ROWS_ROW_BATCH_H
#define WORKERS_ROWS_ROW_BATCH_H

#include "workers/rows/block.h"
#include "workers/rows/row_kernels.h"

#define ROW_BATCH 16

/* Struct of arrays. Sums are over valid keys; "rest" leaves out the row's first key
 * (attention_first_key), so that a sink that holds nearly all weight cannot drown it. Weights must
 * not be negative. */
struct row_batch {
    uint32_t used;               /* slots filled, from 0 */
    bool learned_sink;           /* metrics are of A / sum A */
    float sound[ROW_BATCH];      /* 1 = counts, 0 = leave out whatever the slot holds */
    float keys[ROW_BATCH];       /* n >= 1 */
    float rest_keys[ROW_BATCH];  /* n without the first key */
    float rest_sum[ROW_BATCH];   /* sum A */
    float rest_plogp[ROW_BATCH]; /* sum A ln A, of the rest too */
    /* Both of the rest's weights in a unit in which they are no denormals; 0 = the rest is 0. */
    float unit_sum[ROW_BATCH], unit_plogp[ROW_BATCH];
    float first[ROW_BATCH];   /* A at the first key; 0 when that is not valid */
    float squares[ROW_BATCH]; /* sum (A - mean)^2, mean = sum A / n */
    float min[ROW_BATCH], max[ROW_BATCH];
    float top[ROW_BATCH];              /* sum of the 8 largest */
    float distance[ROW_BATCH];         /* sum A |p - j| */
    float largest_distance[ROW_BATCH]; /* of a valid key */
    /* The value itself; NaN where it does not exist. */
    float local_mass[ROW_BATCH];
    float diagonal[ROW_BATCH], previous[ROW_BATCH], next[ROW_BATCH], first_token[ROW_BATCH];
    float induction[ROW_BATCH], duplicate[ROW_BATCH];
    float max_logit[ROW_BATCH];
};

/* Sums of one head from which the moments of its entries follow: between rows the variance is
 * sum n mean^2 - N M^2 = sum (s^2 / n) - (sum s)^2 / N, in f64, where the cancellation is below the
 * rounding of f32 weights. */
struct row_totals {
    double keys, sum, square, m2; /* of n, of the row sums s, of s^2 / n, of the rows' own M2 */
    float min, max;
};

struct row_values {
    const struct row_kernels *kernels;
    uint32_t heads, first;          /* rows come head after head: the k-th kept belongs to head
                                       (first + k) % heads */
    uint32_t used, capacity;        /* rows kept */
    uint32_t gaps;                  /* bits of the metrics of which some row has none */
    bool own_entries;               /* the front end adds the moments of the entries itself */
    bool exists[METRIC_ROW_COUNT];  /* false: NaN in every row, not looked at */
    float *value[METRIC_ROW_COUNT]; /* [capacity + ROW_BATCH] */
    float *column;                  /* [capacity]: one head's, side by side */
    struct row_totals *total;       /* [heads] */
    struct dist_counts *counts;
};

/* Bytes of memory, 64-byte aligned, that row_values_begin needs for `heads` heads. */
size_t row_values_bytes(uint32_t heads);
/* Empty values in that memory. A front end that has all rows of one head in turn passes heads = 1,
 * and flushes before the next head. `exists` is all true. */
void row_values_begin(struct row_values *values, void *memory, uint32_t heads,
                      const struct row_kernels *kernels);
/* Adds the batch's rows, and empties it; `head` is [heads], and takes what does not fit any more.
 * Returns 0 or ERR_MEMORY (the heads are then only good for clearing). */
int row_values_add(struct row_values *values, struct row_batch *batch, struct head_block *head);
/* Adds everything kept to the heads: distributions, moments of the entries, neighbours. */
int row_values_flush(struct row_values *values, struct head_block *head);

#endif
