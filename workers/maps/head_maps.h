/* SPDX-License-Identifier: MIT */
/* head_maps: the map of each head of one sample, pooled into at most `size` x `size` cells, and the
 * largest weight over the heads pooled in the same way: for people to look at.
 *
 * The map ends where the sample does (attention_extent): padding around it is not part of it, and
 * queries inside that are padding add to no cell. A sample that is padding as a whole has all of
 * them, without a number.
 *
 * Cells as in map_pool.h: of T queries (keys) in n = min(T, size) rows (columns), row r takes the
 * queries from floor(r T / n) up to floor((r + 1) T / n); a cell is the mean of the finite entries
 * in it, as they were sent, NaN without any, or when f32 cannot hold it. With T <= size that is the
 * map itself. The maximum over the heads is taken of the entries, before it is pooled; of those
 * that are NaN nothing is taken. Any thread. */
#ifndef WORKERS_MAPS_HEAD_MAPS_H
#define WORKERS_MAPS_HEAD_MAPS_H

#include "workers/base/attention.h"
#include "workers/base/isa.h"
#include "workers/base/scratch.h"

struct head_maps {
    uint32_t heads;
    uint32_t queries, keys;           /* that it is of */
    uint32_t first_query, first_key;  /* of the message; what is before them is padding */
    uint32_t queries_sent, keys_sent; /* of the message, with padding */
    uint32_t rows, columns;
    uint32_t sample;
    float *values; /* [heads][rows][columns] */
    float *max;    /* [rows][columns]; in the same memory, as is */
    float *mean;   /* [rows][columns] of the heads; NaN where a head has none */
};

/* `sample` beyond the batch is its last one. a->weights must be there. Returns 0 or ERR_MEMORY. */
int head_maps_new(const struct attention *a, uint32_t sample, uint32_t size, enum isa isa,
                  struct scratch *scratch, struct head_maps **ret_maps);
/* Takes maps that were made elsewhere, of `shape`, which has all but pointers: cells in half
 * precision; infinities become NaN. `max` is NaN where the maps are pooled, since it is not known.
 * Returns 0 or ERR_MEMORY. */
int head_maps_given(const struct head_maps *shape, const void *halves, struct head_maps **ret_maps);
/* Whether cells are of several entries. */
static inline bool head_maps_pooled(const struct head_maps *maps)
{
    return maps->rows < maps->queries || maps->columns < maps->keys;
}
/* Accepts NULL. */
void head_maps_free(struct head_maps **maps);
/* Bytes that they take at most, of these queries and keys, and those that making them takes; both
 * saturate. */
uint64_t head_maps_bytes(uint32_t heads, uint32_t queries, uint32_t keys, uint32_t size);
uint64_t head_maps_scratch(uint32_t heads, uint32_t keys, uint32_t size);

/* Adds weight[h] A_h of every head to the cells of sum[rows][columns]; NaN where a head has none.
 */
void head_maps_add_weighted(const struct head_maps *maps, const double *weight, double *sum);

#endif
