/* SPDX-License-Identifier: MIT */
/* The two ways of similarity: the scalar reference, compiled without vectorising, and the passes of
 * an instruction set, which leave to the reference what is out of the ordinary. */
#ifndef WORKERS_ACROSS_SIMILARITY_INTERNAL_H
#define WORKERS_ACROSS_SIMILARITY_INTERNAL_H

#include "workers/across/kernel.h"
#include "workers/across/similarity.h"

/* The contribution of one row to a pair of heads that are both sound in it. */
struct similarity_share {
    double dot, square_g, square_h;
    double js; /* NaN: has none */
};
void similarity_add(struct similarity *s, uint32_t g, uint32_t h,
                    const struct similarity_share *share);

/* Doubles that similarity_row_ref works on, besides `keys` indices. */
size_t similarity_ref_doubles(uint32_t heads, uint32_t keys);
/* Row i of sample b, all pairs; its n valid keys are in `key`. */
void similarity_row_ref(struct similarity *s, const struct attention *a, uint32_t b, uint32_t i,
                        const uint32_t *key, uint32_t n, double *work);

#endif
