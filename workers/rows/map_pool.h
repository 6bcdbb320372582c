/* SPDX-License-Identifier: MIT */
/* map_pool: the head-mean map of a message, averaged over the samples and pooled into at most 128 x
 * 128 cells, for people to look at.
 *
 * With T queries (keys) in n = min(T, 128) rows (columns), row r takes the queries from floor(r T /
 * n) up to floor((r + 1) T / n). A cell is the mean of the finite entries in it, as they were sent,
 * of every sample, without its padding; NaN without any.
 *
 * Owned by one thread at a time: each part of a message fills one of its own, for its rows. */
#ifndef WORKERS_ROWS_MAP_POOL_H
#define WORKERS_ROWS_MAP_POOL_H

#include "workers/base/attention.h"

#define MAP_POOL_MAX 128

/* A finished map. Immutable. */
struct layer_map {
    uint32_t queries, keys; /* of the message */
    uint32_t rows, columns; /* at most MAP_POOL_MAX */
    const uint16_t *values; /* [rows][columns] IEEE half precision, rounded to nearest even */
};

struct map_pool {
    uint32_t queries, keys, rows, columns; /* as in layer_map */
    uint32_t heads;
    uint32_t first, count; /* the rows that are here; 0 = off */
    double *sum;           /* [count][columns], of the finite entries, over the heads; owned */
    uint64_t *missing;     /* [count][columns], entries that are not finite, or padding; owned */
    uint64_t *added;       /* [count], rows of the message's maps; owned */
};

/* For queries [begin, end) of the message. Returns 0 or ERR_MEMORY. */
int map_pool_init(struct map_pool *pool, const struct attention *a, uint32_t begin, uint32_t end);
void map_pool_clear(struct map_pool *pool);
/* Bytes of one for `queries` of the message. */
size_t map_pool_bytes(uint32_t queries, uint32_t keys, uint32_t part);

/* The cell, of n, that holds entry i of T. */
uint32_t map_pool_cell(uint32_t i, uint32_t T, uint32_t n);

/* Adds row i of one sample, summed over the heads: its finite entries at the keys [key, key_end).
 */
void map_pool_add_row(struct map_pool *pool, uint32_t i, const double *row, uint32_t key,
                      uint32_t key_end);
/* Adds the sum of `rows` such rows that are in one row of cells (map_pool_cell) and finite. */
void map_pool_add_sums(struct map_pool *pool, uint32_t cell, const double *sum, uint32_t rows);
/* Says of such a row in this row of cells that its keys outside of [key, key_end) are padding; they
 * count as 0 in the sum. */
void map_pool_hide(struct map_pool *pool, uint32_t cell, uint32_t key, uint32_t key_end);
/* Adds the rows of a part. */
void map_pool_merge(struct map_pool *into, const struct map_pool *from);

/* The cells of a pool that has all rows: [rows][columns]. */
void map_pool_values(const struct map_pool *pool, uint16_t *ret_values);

/* To the nearest, ties to even; beyond the largest half infinity. */
uint16_t map_pool_half(double x);

#endif
