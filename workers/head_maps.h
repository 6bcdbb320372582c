/* SPDX-License-Identifier: MIT */
/* head_maps: the map of each head of one sample, pooled into at most `size` x `size` cells, and the
 * largest weight over the heads pooled in the same way: for people to look at.
 *
 * Cells as in map_pool.h: of T queries (keys) in n = min(T, size) rows (columns), row r takes the
 * queries from floor(r T / n) up to floor((r + 1) T / n); a cell is the mean of the finite entries
 * in it, as they were sent, NaN without any. With T <= size that is the map itself. The maximum
 * over the heads is taken of the entries, before it is pooled. Any thread. */
#ifndef WORKERS_HEAD_MAPS_H
#define WORKERS_HEAD_MAPS_H

#include "attention.h"

#include <stddef.h>

struct head_maps {
    uint32_t heads;
    uint32_t queries, keys; /* of the message */
    uint32_t rows, columns;
    uint32_t sample;
    float *values; /* [heads][rows][columns] */
    float *max;    /* [rows][columns]; in the same memory, as is */
    float *mean;   /* [rows][columns] of the heads; NaN where a head has none */
};

/* `sample` beyond the batch is its last one. a->weights must be there. Returns 0 or ERR_MEMORY. */
int head_maps_new(const struct attention *a, uint32_t sample, uint32_t size,
                  struct head_maps **ret_maps);
/* Accepts NULL. */
void head_maps_free(struct head_maps **maps);
/* Bytes that they take; saturates. */
uint64_t head_maps_bytes(uint32_t heads, uint32_t queries, uint32_t keys, uint32_t size);

/* sum_h weight[h] A_h over the heads, of the cells: ret[rows][columns]. NaN where a head has none.
 */
void head_maps_weighted(const struct head_maps *maps, const double *weight, float *ret);

/* Attention rollout (Abnar and Zuidema 2020) over the layers of a stack:
 *     R_0 = I;  R_l = norm(0.5 (A_l + I)) R_{l-1}
 * where A_l is the mean map over heads of layer l, and norm divides each row by its sum. `map` is
 * [n][n], of mean weights per cell; `keys` are the keys that it stands for: with more keys than
 * cells a row of cells is first multiplied with the keys per cell, so that it sums to what a row of
 * A does. A row that is not finite, or sums to 0, is taken as I's. `rollout` is R_{l-1} and becomes
 * R_l; `work` has room for n * (n + 1) numbers. */
void rollout_add(const float *map, uint32_t n, uint32_t keys, double *rollout, double *work);

#endif
