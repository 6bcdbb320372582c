/* SPDX-License-Identifier: MIT */
/* qk_ref: the scalar reference of tier `qk` row by row, for qk_compute_ref and for the rows that
 * the fast path leaves to it. One owner at a time. */
#ifndef WORKERS_QK_REF_H
#define WORKERS_QK_REF_H

#include "workers/rows/block.h"

/* Room for one row; carved from memory the caller owns. */
struct qk_ref {
    struct attention a; /* borrowed, but for learned_sink: a softmax leaves nothing to a sink */
    uint32_t sample, local_window;
    bool core;
    double *query, *vector, *output;         /* [head_dim], [either], [value_dim] */
    double *logit, *cosine, *weight, *share; /* [keys] */
    uint32_t *key;                           /* [keys] */
    uint32_t *previous; /* [keys] chains of the sample's tokens, then room to sort; NULL without */
};

/* Bytes that a reference takes; 0 when that overflows. */
size_t qk_ref_bytes(const struct attention *a);
/* `memory` is 64-byte aligned. */
void qk_ref_init(struct qk_ref *ref, const struct block *block, const struct attention *a,
                 void *memory);
/* Makes sample b the current one. */
void qk_ref_sample(struct qk_ref *ref, uint32_t b);
/* Adds row (b, h, i), whose query must be valid. Returns 0 or ERR_MEMORY. */
int qk_ref_row(struct qk_ref *ref, struct block *block, uint32_t h, uint32_t i);

/* The weights of row (b, h, i), whatever its query: ret_weight[keys], 0 at excluded keys, NaN at
 * valid ones when the row is not sound. */
void qk_ref_weights(struct qk_ref *ref, uint32_t h, uint32_t i, float *ret_weight);

/* |x|, scaled against overflow; not finite when an element is not. */
double qk_ref_length(const double *x, uint32_t n);

#endif
