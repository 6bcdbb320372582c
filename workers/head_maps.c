/* SPDX-License-Identifier: MIT */
#include "head_maps.h"

#include "err.h"
#include "map_pool.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What one row of the message's maps is worked on with. */
struct rows {
    const struct attention *a;
    struct head_maps *maps;
    uint32_t *column_end; /* [columns]: keys of column c end here */
    uint32_t *
        count; /* [heads + 1][columns] finite entries in the row of cells so far; the last is max */
    double *sum;    /* [heads + 1][columns] */
    float *row;     /* [keys] */
    float *largest; /* [keys] */
    double *wide;   /* [keys] */
};

static uint32_t cells(uint32_t T, uint32_t size)
{
    return T < size ? T : size;
}

uint64_t head_maps_bytes(uint32_t heads, uint32_t queries, uint32_t keys, uint32_t size)
{
    uint64_t map = (uint64_t)cells(queries, size) * cells(keys, size) * sizeof(float);
    return sizeof(struct head_maps) + map * ((uint64_t)heads + 2);
}

static struct head_maps *maps_new(const struct attention *a, uint32_t sample, uint32_t size)
{
    uint64_t bytes = head_maps_bytes(a->heads, a->queries, a->keys, size);
    struct head_maps *maps = bytes < SIZE_MAX ? malloc((size_t)bytes) : NULL;
    if (maps == NULL) {
        return NULL;
    }
    *maps = (struct head_maps){
        .heads = a->heads,
        .queries = a->queries,
        .keys = a->keys,
        .rows = cells(a->queries, size),
        .columns = cells(a->keys, size),
        .sample = sample < a->batch ? sample : a->batch - 1,
        .values = (float *)(maps + 1),
    };
    maps->max = maps->values + (size_t)a->heads * maps->rows * maps->columns;
    maps->mean = maps->max + (size_t)maps->rows * maps->columns;
    return maps;
}

void head_maps_free(struct head_maps **maps)
{
    free(*maps);
    *maps = NULL;
}

static void rows_clear(struct rows *r)
{
    free(r->column_end);
    free(r->count);
    free(r->sum);
    free(r->row);
    free(r->largest);
    free(r->wide);
}

/* Returns 0 or ERR_MEMORY. */
static int rows_init(struct rows *r, const struct attention *a, struct head_maps *maps)
{
    size_t sums = ((size_t)a->heads + 1) * maps->columns;
    *r = (struct rows){
        .a = a,
        .maps = maps,
        .column_end = malloc(maps->columns * sizeof *r->column_end),
        .count = calloc(sums, sizeof *r->count),
        .sum = calloc(sums, sizeof *r->sum),
        .row = malloc(a->keys * sizeof *r->row),
        .largest = malloc(a->keys * sizeof *r->largest),
        .wide = malloc(a->keys * sizeof *r->wide),
    };
    if (!r->column_end || !r->count || !r->sum || !r->row || !r->largest || !r->wide) {
        rows_clear(r);
        return ERR_MEMORY;
    }
    for (uint32_t c = 0; c < maps->columns; c++) {
        r->column_end[c] = (uint32_t)(((uint64_t)c + 1) * a->keys / maps->columns);
    }
    return 0;
}

static void load_row(struct rows *r, uint32_t h, uint32_t i)
{
    const struct attention *a = r->a;
    if (a->dtype == DTYPE_F32) {
        size_t first =
            (((size_t)r->maps->sample * a->heads + h) * a->queries + i) * a->keys * sizeof(float);
        memcpy(r->row, (const char *)a->weights + first, a->keys * sizeof(float));
        return;
    }
    attention_load_row(a, r->maps->sample, h, i, r->wide);
    for (uint32_t j = 0; j < a->keys; j++) {
        r->row[j] = (float)r->wide[j];
    }
}

/* The finite ones among entries [begin, end). */
static void add_finite(const float *row, uint32_t begin, uint32_t end, double *sum, uint32_t *count)
{
    for (uint32_t j = begin; j < end; j++) {
        *sum += isfinite(row[j]) ? row[j] : 0;
        *count += isfinite(row[j]) != 0;
    }
}

/* Adds a row of entries to sums of cells. A sum that is not finite is made again, entry by entry.
 */
static void add_row(const struct rows *r, const float *row, double *sum, uint32_t *count)
{
    uint32_t begin = 0;
    for (uint32_t c = 0; c < r->maps->columns; c++) {
        uint32_t end = r->column_end[c];
        float part = 0;
        for (uint32_t j = begin; j < end; j++) {
            part += row[j];
        }
        if (isfinite(part)) {
            sum[c] += part;
            count[c] += end - begin;
        } else {
            add_finite(row, begin, end, &sum[c], &count[c]);
        }
        begin = end;
    }
}

/* NaN is never the largest, unless there is nothing else. */
static void take_largest(float *largest, const float *row, uint32_t keys, bool first)
{
    if (first) {
        memcpy(largest, row, keys * sizeof *row);
        return;
    }
    for (uint32_t j = 0; j < keys; j++) {
        largest[j] = row[j] > largest[j] || isnan(largest[j]) ? row[j] : largest[j];
    }
}

static void add_query(struct rows *r, uint32_t i)
{
    uint32_t heads = r->a->heads, columns = r->maps->columns;
    for (uint32_t h = 0; h < heads; h++) {
        load_row(r, h, i);
        add_row(r, r->row, r->sum + (size_t)h * columns, r->count + (size_t)h * columns);
        take_largest(r->largest, r->row, r->a->keys, h == 0);
    }
    add_row(r, r->largest, r->sum + (size_t)heads * columns, r->count + (size_t)heads * columns);
}

/* The means of a row of cells, whose sums then begin again. */
static void end_row(struct rows *r, uint32_t row)
{
    struct head_maps *maps = r->maps;
    for (uint32_t h = 0; h <= maps->heads; h++) {
        double *sum = r->sum + (size_t)h * maps->columns;
        uint32_t *count = r->count + (size_t)h * maps->columns;
        float *out = maps->values + ((size_t)h * maps->rows + row) * maps->columns;
        for (uint32_t c = 0; c < maps->columns; c++) {
            out[c] = count[c] > 0 ? (float)(sum[c] / count[c]) : NAN;
        }
    }
    size_t sums = ((size_t)maps->heads + 1) * maps->columns;
    memset(r->sum, 0, sums * sizeof *r->sum);
    memset(r->count, 0, sums * sizeof *r->count);
}

static void average(struct head_maps *maps)
{
    size_t count = (size_t)maps->rows * maps->columns;
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (uint32_t h = 0; h < maps->heads; h++) {
            sum += maps->values[h * count + i];
        }
        maps->mean[i] = (float)(sum / maps->heads);
    }
}

int head_maps_new(const struct attention *a, uint32_t sample, uint32_t size,
                  struct head_maps **ret_maps)
{
    struct head_maps *maps = maps_new(a, sample, size);
    struct rows r;
    if (maps == NULL || rows_init(&r, a, maps) != 0) {
        head_maps_free(&maps);
        return ERR_MEMORY;
    }
    for (uint32_t row = 0, i = 0; row < maps->rows; row++) {
        uint32_t end = (uint32_t)(((uint64_t)row + 1) * a->queries / maps->rows);
        for (; i < end; i++) {
            add_query(&r, i);
        }
        end_row(&r, row);
    }
    rows_clear(&r);
    average(maps);
    *ret_maps = maps;
    return 0;
}

void head_maps_weighted(const struct head_maps *maps, const double *weight, float *ret)
{
    size_t count = (size_t)maps->rows * maps->columns;
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (uint32_t h = 0; h < maps->heads; h++) {
            sum += weight[h] * maps->values[h * count + i];
        }
        ret[i] = (float)sum;
    }
}

/* Row i of norm(0.5 (A + I)) into `out`. */
static void residual_row(const float *row, uint32_t i, uint32_t n, double keys_per_cell,
                         double *out)
{
    double sum = 0;
    for (uint32_t j = 0; j < n; j++) {
        out[j] = 0.5 * keys_per_cell * row[j] + (i == j ? 0.5 : 0);
        sum += out[j];
    }
    for (uint32_t j = 0; j < n; j++) {
        out[j] = isfinite(sum) && sum > 0 ? out[j] / sum : (i == j);
    }
}

void rollout_add(const float *map, uint32_t n, uint32_t keys, double *rollout, double *work)
{
    double *row = work + (size_t)n * n;
    for (uint32_t i = 0; i < n; i++) {
        double *out = work + (size_t)i * n;
        residual_row(map + (size_t)i * n, i, n, (double)keys / n, row);
        memset(out, 0, n * sizeof *out);
        for (uint32_t k = 0; k < n; k++) {
            for (uint32_t j = 0; row[k] != 0 && j < n; j++) {
                out[j] += row[k] * rollout[(size_t)k * n + j];
            }
        }
    }
    memcpy(rollout, work, (size_t)n * n * sizeof *work);
}
