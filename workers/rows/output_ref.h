/* SPDX-License-Identifier: MIT */
/* output_ref: what one row makes of the values, in f64: |A V|, the entropy of |A v_j|, |R_h A V|
 * and its share of |x|. Part of the scalar reference, and shared by those of weights and of queries
 * and keys. */
#ifndef WORKERS_ROWS_OUTPUT_REF_H
#define WORKERS_ROWS_OUTPUT_REF_H

#include "workers/rows/block.h"
#include "workers/rows/row.h"

/* Room, as much as the brackets say. */
struct output_ref {
    double *vector, *output, *written; /* [value_dim] */
    double *share;                     /* [keys] */
};

/* |x|, scaled against overflow; not finite when an element is not. */
double output_ref_length(const double *x, uint32_t n);
/* The first element of the vector of key j that head h reads, of key or value vectors of `dim`. */
size_t output_ref_vector(const struct attention *a, uint32_t b, uint32_t h, uint32_t j,
                         uint32_t dim);
/* Adds what the sound row (b, h, i) makes of a->qk.v to its head. A weight below zero by rounding
 * has no share of the entropy. */
void output_ref_add(const struct output_ref *work, const struct attention *a,
                    struct head_block *head, uint32_t b, uint32_t h, uint32_t i,
                    const struct row *r);

#endif
