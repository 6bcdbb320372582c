/* SPDX-License-Identifier: MIT */
/* map_pool: the head-mean map of a message, averaged over the samples and pooled into at most 128 x
 * 128 cells, for people to look at.
 *
 * Of T queries (keys) in n = min(T, 128) rows (columns), row r takes the queries from floor(r T /
 * n) up to floor((r + 1) T / n). A cell is the mean of the finite entries in it, as they were sent,
 * of every sample; NaN without any.
 *
 * Owned by one thread at a time: each part of a message fills one of its own, for its rows. */
#ifndef WORKERS_MAP_POOL_H
#define WORKERS_MAP_POOL_H

#include <stddef.h>
#include <stdint.h>

#define MAP_POOL_MAX 128

/* A finished map. Immutable. */
struct layer_map {
    uint32_t queries, keys; /* of the message */
    uint32_t rows, columns; /* at most MAP_POOL_MAX */
    const uint16_t *values; /* [rows][columns] IEEE half precision, rounded to nearest even */
};

struct map_pool {
    uint32_t queries, keys, rows, columns; /* as in layer_map */
    uint32_t first, count;                 /* the rows that are here; 0 = off */
    double *sum;                           /* [count][columns], of finite entries; owned */
    uint64_t *entries;                     /* [count][columns], how many; owned */
};

/* For queries [begin, end) of the message. Returns 0 or ERR_MEMORY. */
int map_pool_init(struct map_pool *pool, uint32_t queries, uint32_t keys, uint32_t begin,
                  uint32_t end);
void map_pool_clear(struct map_pool *pool);
/* Bytes of one for so many queries of the message. */
size_t map_pool_bytes(uint32_t queries, uint32_t keys, uint32_t part);

/* Which of n cells entry i of T is in. */
uint32_t map_pool_cell(uint32_t i, uint32_t T, uint32_t n);

/* Adds row i of the head-mean map of one sample: its finite entries. */
void map_pool_add_row(struct map_pool *pool, uint32_t i, const double *row);
/* Adds what `rows` rows of one map row (map_pool_cell) add up to, over `heads` heads as well; all
 * are finite. */
void map_pool_add_sums(struct map_pool *pool, uint32_t row, const double *sum, uint32_t rows,
                       uint32_t heads);
/* Adds the rows of a part. */
void map_pool_merge(struct map_pool *into, const struct map_pool *from);

/* The cells of a pool that has all rows: [rows][columns]. */
void map_pool_values(const struct map_pool *pool, uint16_t *ret_values);

/* To the nearest, ties to even; beyond the largest half infinity. */
uint16_t map_pool_half(double x);

#endif
