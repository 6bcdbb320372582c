/* SPDX-License-Identifier: MIT */
/* similarity: how alike the heads of a layer are, over the rows that are sound in both heads.
 *
 *     cosine  of the two heads' weights at valid keys, all rows flattened into one vector
 *     js      mean over rows of the Jensen-Shannon divergence in nats, 0 .. ln 2 (Lin 1991)
 *
 * Sums per pair of heads, mergeable over blocks of rows. A pass of its own over the weights: it
 * costs nothing when it is off. One owner at a time. */
#ifndef WORKERS_ACROSS_SIMILARITY_H
#define WORKERS_ACROSS_SIMILARITY_H

#include "workers/base/attention.h"
#include "workers/base/isa.h"
#include "proto/metric.h"
#include "workers/base/scratch.h"

struct similarity {
    uint32_t heads;
    double *dot;    /* [heads][heads] sum of A_g A_h */
    double *square; /* [heads][heads] sum of A_g^2 over the rows sound in g and h */
    double *js;     /* [heads][heads] sum over rows */
    uint64_t *rows; /* [heads][heads] */
};

/* Returns 0 or ERR_MEMORY. */
int similarity_init(struct similarity *s, uint32_t heads);
/* Adds the rows [row_begin, row_end) of every sample, by the instruction set (ISA_SCALAR: the
 * reference). Returns 0 or ERR_MEMORY. */
int similarity_compute(struct similarity *s, const struct attention *a, uint32_t row_begin,
                       uint32_t row_end, enum isa isa, struct scratch *scratch);
void similarity_merge(struct similarity *into, const struct similarity *from);
void similarity_clear(struct similarity *s);
/* Bytes that a similarity of `heads` heads takes. */
uint64_t similarity_bytes(uint32_t heads);

/* ret[heads][heads], symmetric; NaN where no row is sound in both, or a head is all zero there
 * (cosine). The diagonal is 1 and 0. */
void similarity_cosine(const struct similarity *s, double *ret);
void similarity_js(const struct similarity *s, double *ret);

/* The pairs with js below the bound, most alike first, ties by g, then h: at most `max` of them
 * into ret_pairs. Returns how many there are in all. */
uint32_t similarity_redundant(const struct similarity *s, double bound, uint32_t max,
                              struct redundant_pair *ret_pairs);

#endif
