/* SPDX-License-Identifier: MIT */
#include "workers/rows/map_pool.h"

#include "proto/err.h"

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
    size_t count = share < rows ? share : rows;
    return count * (cells_of(keys) * (sizeof(double) + sizeof(uint64_t)) + sizeof(uint64_t));
}

int map_pool_init(struct map_pool *pool, const struct attention *a, uint32_t begin, uint32_t end)
{
    assert(begin < end && end <= a->queries && a->keys > 0);
    uint32_t rows = cells_of(a->queries), columns = cells_of(a->keys);
    uint32_t first = map_pool_cell(begin, a->queries, rows);
    uint32_t count = map_pool_cell(end - 1, a->queries, rows) + 1 - first;
    size_t cells = (size_t)count * columns;
    *pool = (struct map_pool){
        .queries = a->queries,
        .keys = a->keys,
        .rows = rows,
        .columns = columns,
        .heads = a->heads,
        .first = first,
        .count = count,
        .sum = calloc(cells, sizeof *pool->sum),
        .missing = calloc(cells, sizeof *pool->missing),
        .added = calloc(count, sizeof *pool->added),
    };
    if (!pool->sum || !pool->missing || !pool->added) {
        map_pool_clear(pool);
        return ERR_MEMORY;
    }
    return 0;
}

void map_pool_clear(struct map_pool *pool)
{
    free(pool->sum);
    free(pool->missing);
    free(pool->added);
    *pool = (struct map_pool){0};
}

/* The row of cells as it is counted here. */
static uint32_t row_here(const struct map_pool *pool, uint32_t cell)
{
    assert(cell >= pool->first && cell - pool->first < pool->count);
    return cell - pool->first;
}

void map_pool_add_row(struct map_pool *pool, uint32_t i, const double *row, uint32_t key,
                      uint32_t key_end)
{
    uint32_t r = row_here(pool, map_pool_cell(i, pool->queries, pool->rows));
    size_t at = (size_t)r * pool->columns;
    pool->added[r]++;
    for (uint32_t c = 0; c < pool->columns; c++) {
        uint32_t end = edge_of(c + 1, pool->keys, pool->columns);
        for (uint32_t j = edge_of(c, pool->keys, pool->columns); j < end; j++) {
            if (j >= key && j < key_end && isfinite(row[j])) {
                pool->sum[at + c] += row[j];
            } else {
                pool->missing[at + c]++;
            }
        }
    }
}

/* As many keys as cells, or columns of whole keys: the edges without a division for each. */
void map_pool_add_sums(struct map_pool *pool, uint32_t cell, const double *sum, uint32_t rows)
{
    uint32_t r = row_here(pool, cell), columns = pool->columns;
    double *to = pool->sum + (size_t)r * columns;
    pool->added[r] += rows;
    if (columns == pool->keys) {
        for (uint32_t c = 0; c < columns; c++) {
            to[c] += sum[c];
        }
        return;
    }
    uint32_t whole = pool->keys / columns, rest = pool->keys % columns, over = 0;
    for (uint32_t c = 0, j = 0; c < columns; c++) {
        over += rest;
        uint32_t end = j + whole + (over >= columns);
        over -= over >= columns ? columns : 0;
        for (; j < end; j++) {
            to[c] += sum[j];
        }
    }
}

/* The keys [begin, end), cell by cell. */
static void miss_keys(const struct map_pool *pool, uint64_t *missing, uint32_t begin, uint32_t end)
{
    while (begin < end) {
        uint32_t c = map_pool_cell(begin, pool->keys, pool->columns);
        uint32_t next = edge_of(c + 1, pool->keys, pool->columns);
        next = next < end ? next : end;
        missing[c] += next - begin;
        begin = next;
    }
}

void map_pool_hide(struct map_pool *pool, uint32_t cell, uint32_t key, uint32_t key_end)
{
    uint64_t *missing = pool->missing + (size_t)row_here(pool, cell) * pool->columns;
    miss_keys(pool, missing, 0, key);
    miss_keys(pool, missing, key_end, pool->keys);
}

void map_pool_merge(struct map_pool *into, const struct map_pool *from)
{
    if (from->count == 0) {
        return;
    }
    uint32_t r = row_here(into, from->first);
    size_t at = (size_t)r * into->columns, cells = (size_t)from->count * from->columns;
    for (size_t i = 0; i < cells; i++) {
        into->sum[at + i] += from->sum[i];
        into->missing[at + i] += from->missing[i];
    }
    for (uint32_t i = 0; i < from->count; i++) {
        into->added[r + i] += from->added[i];
    }
}

void map_pool_values(const struct map_pool *pool, uint16_t *ret_values)
{
    for (uint32_t r = 0; r < pool->count; r++) {
        for (uint32_t c = 0; c < pool->columns; c++) {
            size_t at = (size_t)r * pool->columns + c;
            uint32_t keys =
                edge_of(c + 1, pool->keys, pool->columns) - edge_of(c, pool->keys, pool->columns);
            uint64_t entries = pool->added[r] * keys - pool->missing[at];
            /* 0 / 0 is NaN */
            ret_values[at] = map_pool_half(pool->sum[at] / pool->heads / (double)entries);
        }
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

static uint16_t map_pool_magnitude_of(double x)
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
    return (uint16_t)(map_pool_magnitude_of(fabs(x)) | (signbit(x) ? HALF_SIGN : 0));
}
