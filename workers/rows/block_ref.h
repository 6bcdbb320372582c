/* SPDX-License-Identifier: MIT */
/* block_ref: the parts of the scalar reference, for kernels that leave extraordinary rows to it. */
#ifndef WORKERS_ROWS_BLOCK_REF_H
#define WORKERS_ROWS_BLOCK_REF_H

#include "workers/rows/block.h"

/* Each array holds `keys` elements, but for the last two. */
struct block_work {
    const struct block *block;
    const struct attention *a;
    double *sent;       /* one row, all keys, as sent */
    double *weight;     /* its valid weights, gathered; then finite map entries */
    double *softmax;    /* exp of the row, for importance */
    double *sum, *max;  /* over heads, of one (b, i) */
    double *pair_sum;   /* over samples, of the head-mean row i */
    uint32_t *key;      /* valid keys of (b, i) */
    uint32_t *pair_n;   /* samples in pair_sum */
    uint32_t *previous; /* [batch][keys] chains of equal tokens, then [2][keys] to sort; NULL
                           without */
    struct attention_extent *extent; /* [batch]; when there are pairs or a pool */
};

/* Whether anything is computed of the maps across the heads. */
bool block_ref_across(const struct block *block);

/* The scratch_lay of a block_work of which `block` and `a` are set, and its beginning after that.
 */
void block_ref_lay(void *work, struct scratch_pieces *pieces);
void block_ref_begin(const struct block_work *w);

/* One row of a valid query: judged, counted, its metrics added. Returns 0 or ERR_MEMORY. */
int block_ref_row(struct block *block, const struct attention *a, const struct block_work *w,
                  uint32_t b, uint32_t h, uint32_t i);
/* One row's part of the importance score. */
void block_ref_importance(struct block *block, const struct attention *a,
                          const struct block_work *w, uint32_t b, uint32_t h, uint32_t i);
/* Statistics of row i of the maps of one sample. */
void block_ref_maps(struct block *block, const struct attention *a, const struct block_work *w,
                    uint32_t b, uint32_t i);
/* Row i of the sum map of one sample, for block->pool. */
void block_ref_pool(struct block *block, const struct attention *a, const struct block_work *w,
                    uint32_t b, uint32_t i);
/* Offers the pairs of query i. */
void block_ref_pairs(struct block *block, const struct attention *a, const struct block_work *w,
                     uint32_t i);

#endif
