/* SPDX-License-Identifier: MIT */
/* qk_finish: from a row's sums to its metrics. One owner at a time. */
#ifndef WORKERS_QK_FINISH_H
#define WORKERS_QK_FINISH_H

#include "block.h"
#include "qk_kernel.h"

/* Rows whose metrics are put into the distributions together. */
#define QK_BATCH 512

/* Row metrics of one head, waiting; NaN where one does not exist. */
struct qk_batch {
    double value[METRIC_ROW_COUNT][QK_BATCH];
    uint32_t count;
};

/* What the rows of a head have in common. */
struct qk_finish {
    const struct qk_kernel *kernel;
    const struct attention *a;
    struct head_block *head;
    struct qk_batch *batch;
    uint32_t sample, local_window;
    double slope;                                    /* base 2 logits per logit */
    double first_inverse_length, first_value_length; /* of key 0 */
    const float *first_value;                        /* [value_dim]; NULL = no values */
    const uint32_t *first_same; /* the first key with the same token; NULL = no tokens */
};

/* A finished row's query length, and what A V holds without key 0; NULL = no such number. */
struct qk_row_extra {
    double inverse_length; /* 1 / |q|; 0 for a zero vector */
    const float *output;   /* [value_dim], relative to the row's maximum */
};

/* Finishes rows[count]; `room` holds QK_FINISH_ROOM(count) floats. Returns 0 or ERR_MEMORY. */
int qk_finish_rows(const struct qk_finish *f, const struct qk_row *row,
                   const struct qk_row_extra *extra, uint32_t count, float *room);
#define QK_FINISH_ROOM(count) ((size_t)(count)*QK_LANES)
/* Puts what waits into the head's distributions. Returns 0 or ERR_MEMORY. */
int qk_finish_flush(const struct qk_finish *f);

#endif
