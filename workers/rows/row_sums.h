/* SPDX-License-Identifier: MIT */
/* row_sums: a block of rows from the sums that one pass over the keys of each has left, wherever
 * that ran (proto/row_sum.def, PROTOCOL.md, type `rows`).
 *
 * The numbers are those of tier qk; of sums over weights those of tier attention that sums tell.
 * One that needs a sum that was not sent does not exist. */
#ifndef WORKERS_ROWS_ROW_SUMS_H
#define WORKERS_ROWS_ROW_SUMS_H

#include "proto/row_sum.h"
#include "workers/rows/block.h"

/* Borrowed pointers, C-contiguous; the tensors may be unaligned, and somebody may write to them at
 * any time. The rows of a sample are the same ones for all of its heads. */
struct sent_sums {
    const void *sums;              /* [S, batch, heads, rows] f32 */
    uint8_t column[ROW_SUM_COUNT]; /* 1 + the place in S; 0 = not sent */
    const void *places;            /* [ROW_PLACE_COUNT, batch or 1, rows] i32 */
    bool places_shared;            /* of all samples */
    const void *key_lengths;       /* [batch, kv_heads, keys] f32: |k|; NULL = not sent */
    const void *sinks;             /* [heads] f32: logits of learned sinks; NULL = not sent */
    const int32_t *k_len;          /* [batch] valid keys; NULL = all */
    uint32_t batch, heads, rows;   /* rows: that were taken */
    uint32_t queries, keys;        /* of the call */
    uint32_t kv_heads;             /* divides heads */
    uint32_t local_window;         /* of ROW_SUM_LOCAL, in positions */
    bool self;
    bool of_weights;   /* "logits" are ln A: nothing is divided by a sum, and sums are judged */
    enum dtype dtype;  /* of these weights: what is tolerated */
    bool dropout;      /* row sums are not judged */
    bool learned_sink; /* rows of weights may sum to less than 1 */
};

/* Whether all rows came, and with them what importance needs. */
bool row_sums_weigh(const struct sent_sums *rows);
/* Whether the sums that a metric needs came. */
bool row_sums_have(const struct sent_sums *rows, enum metric metric);

/* Adds the rows [row_begin, row_end) of every sample and head; `block` is of as many samples and
 * heads, and has no maps and no pairs. The lengths of the keys go in with row 0. Returns 0,
 * ERR_MEMORY or ERR_ROWS: a number cannot be. The block is then only good for block_clear. */
int row_sums_compute(struct block *block, const struct sent_sums *rows, uint32_t row_begin,
                     uint32_t row_end, enum isa isa, struct scratch *scratch);
/* The same by the scalar reference, one formula after the other in f64. */
int row_sums_compute_ref(struct block *block, const struct sent_sums *rows, uint32_t row_begin,
                         uint32_t row_end);

#endif
