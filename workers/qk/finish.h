/* SPDX-License-Identifier: MIT */
/* qk_finish: from a row's sums to its metrics. One owner at a time. */
#ifndef WORKERS_QK_FINISH_H
#define WORKERS_QK_FINISH_H

#include "workers/rows/block.h"
#include "workers/qk/kernel.h"
#include "workers/rows/row_batch.h"

/* The values that the rows of a head share, and the sums of theirs that are still to be added to
 * it. */
struct qk_finish {
    const struct qk_kernels *kernel;
    const struct attention *a;
    struct head_block *head;
    uint32_t sample, local_window;
    double slope;                                    /* base 2 logits per logit */
    double first_inverse_length, first_value_length; /* of key 0 */
    const float *first_value;                        /* [value_dim]; NULL = no values */
    const uint32_t *first_same; /* the first key with the same token; NULL = no tokens */
    struct row_batch batch;
    struct row_values values;
    struct row_totals logits, cosines;
};

/* The values of a row besides its sums. */
struct qk_row_extra {
    double inverse_length; /* 1 / |q|; 0 for a zero vector */
    const float *output;   /* [value_dim] A V without key 0, relative to the row's maximum; NULL =
                              none */
};

/* Begins a head: what is above `batch` is set. `memory` is of row_values_bytes(1). */
void qk_finish_begin(struct qk_finish *f, enum isa isa, void *memory);
/* Finishes rows[count]; `room` holds QK_FINISH_ROOM(count) floats. Returns 0 or ERR_MEMORY. */
int qk_finish_rows(struct qk_finish *f, const struct qk_row *row, const struct qk_row_extra *extra,
                   uint32_t count, float *room);
#define QK_FINISH_ROOM(count) (2 * QK_LANES * (size_t)(count))
/* Adds all that is left to the head. Returns 0 or ERR_MEMORY. */
int qk_finish_end(struct qk_finish *f);

#endif
