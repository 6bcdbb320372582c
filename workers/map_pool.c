/* SPDX-License-Identifier: MIT */
#include "map_pool.h"

#include "err.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static uint32_t cells_of(uint32_t T)
{
    return T < MAP_POOL_MAX ? T : MAP_POOL_MAX;
}

/* The last cell that begins at i or before: r T / n < i + 1. */
uint32_t map_pool_cell(uint32_t i, uint32_t T, uint32_t n)
{
    return (uint32_t)((((uint64_t)i + 1) * n - 1) / T);
}

static uint32_t edge_of(uint32_t r, uint32_t T, uint32_t n)
{
    return (uint32_t)((uint64_t)r * T / n);
}

/* One row more than the share, for cells that a part shares with its neighbours. */
size_t map_pool_bytes(uint32_t queries, uint32_t keys, uint32_t part)
{
    size_t rows = cells_of(queries), share = (size_t)((uint64_t)part * rows / queries) + 2;
    size_t cells = (share < rows ? share : rows) * cells_of(keys);
    return cells * (sizeof(double) + sizeof(uint64_t));
}

int map_pool_init(struct map_pool *pool, uint32_t queries, uint32_t keys, uint32_t begin,
                  uint32_t end)
{
    assert(begin < end && end <= queries && keys > 0);
    uint32_t rows = cells_of(queries), columns = cells_of(keys);
    uint32_t first = map_pool_cell(begin, queries, rows);
    uint32_t count = map_pool_cell(end - 1, queries, rows) + 1 - first;
    size_t cells = (size_t)count * columns;
    *pool = (struct map_pool){
        .queries = queries,
        .keys = keys,
        .rows = rows,
        .columns = columns,
        .first = first,
        .count = count,
        .sum = calloc(cells, sizeof *pool->sum),
        .entries = calloc(cells, sizeof *pool->entries),
    };
    if (pool->sum == NULL || pool->entries == NULL) {
        map_pool_clear(pool);
        return ERR_MEMORY;
    }
    return 0;
}

void map_pool_clear(struct map_pool *pool)
{
    free(pool->sum);
    free(pool->entries);
    *pool = (struct map_pool){0};
}

/* Where a row of cells begins. */
static size_t row_at(const struct map_pool *pool, uint32_t row)
{
    assert(row >= pool->first && row - pool->first < pool->count);
    return (size_t)(row - pool->first) * pool->columns;
}

void map_pool_add_row(struct map_pool *pool, uint32_t i, const double *row)
{
    size_t at = row_at(pool, map_pool_cell(i, pool->queries, pool->rows));
    for (uint32_t c = 0; c < pool->columns; c++) {
        uint32_t end = edge_of(c + 1, pool->keys, pool->columns);
        for (uint32_t j = edge_of(c, pool->keys, pool->columns); j < end; j++) {
            if (isfinite(row[j])) {
                pool->sum[at + c] += row[j];
                pool->entries[at + c]++;
            }
        }
    }
}

void map_pool_add_sums(struct map_pool *pool, uint32_t row, const double *sum, uint32_t rows,
                       uint32_t heads)
{
    size_t at = row_at(pool, row);
    for (uint32_t c = 0, j = 0; c < pool->columns; c++) {
        uint32_t begin = j, end = edge_of(c + 1, pool->keys, pool->columns);
        double total = 0;
        for (; j < end; j++) {
            total += sum[j];
        }
        pool->sum[at + c] += total / heads;
        pool->entries[at + c] += (uint64_t)(end - begin) * rows;
    }
}

void map_pool_merge(struct map_pool *into, const struct map_pool *from)
{
    if (from->count == 0) {
        return;
    }
    size_t at = row_at(into, from->first), cells = (size_t)from->count * from->columns;
    for (size_t i = 0; i < cells; i++) {
        into->sum[at + i] += from->sum[i];
        into->entries[at + i] += from->entries[i];
    }
}

void map_pool_values(const struct map_pool *pool, uint16_t *ret_values)
{
    size_t cells = (size_t)pool->count * pool->columns;
    for (size_t i = 0; i < cells; i++) {
        double mean = pool->sum[i] / (double)pool->entries[i]; /* 0 / 0 is NaN */
        ret_values[i] = map_pool_half(mean);
    }
}

/* Halves.
 *
 * From the f64 in one step: by way of an f32 it would be rounded twice. A half has 11 bits; below
 * 2^-14 they end at 2^-24. A magnitude that is rounded up to the next power of two carries into the
 * exponent by itself. */

#define HALF_SIGN      0x8000u
#define HALF_INFINITY  0x7c00u
#define HALF_NAN       0x7e00u
#define HALF_NORMAL    0x1p-14
#define HALF_OVERFLOWS 65520.0 /* half way between the largest and what would come next */
#define HALF_BIAS      15
#define HALF_FRACTION  10

static uint16_t magnitude_of(double x)
{
    if (!(x < HALF_OVERFLOWS)) {
        return HALF_INFINITY;
    }
    if (x < HALF_NORMAL) {
        return (uint16_t)rint(x * 0x1p+24);
    }
    int exponent = ilogb(x);
    double fraction = rint(ldexp(x, HALF_FRACTION - exponent)); /* 1024 to 2048 */
    return (uint16_t)(((exponent + HALF_BIAS - 1) << HALF_FRACTION) + (int)fraction);
}

uint16_t map_pool_half(double x)
{
    if (isnan(x)) {
        return HALF_NAN;
    }
    return (uint16_t)(magnitude_of(fabs(x)) | (signbit(x) ? HALF_SIGN : 0));
}
