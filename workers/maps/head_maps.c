/* SPDX-License-Identifier: MIT */
/* A row of cells at a time, every head's, so that the maximum over heads needs only the largest
 * entries of these queries. The rows of a few queries of a head are added up key by key in f32
 * (across/kernel.h), and then the keys of each cell in f64. Numbers that are not finite, or too
 * large for f32, show in the sums; such a row of cells is made again by the reference, entry by
 * entry. */
#include "workers/maps/head_maps.h"

#include "workers/across/kernel.h"
#include "proto/err.h"
#include "workers/maps/head_maps_internal.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Queries added up in f32: an error of at most 16 units of the last place. */
#define QUERIES_AT_ONCE 16

/* The working memory of maps; all in the scratch. */
struct making {
    const struct attention *a;
    struct head_maps *maps;
    const struct across_kernels *kernel; /* NULL: the reference alone */
    double *sum;          /* [heads + 1][columns] of a row of cells; the last is max */
    double *share;        /* [columns]: 1 / keys in it */
    double *work;         /* of the reference */
    float *key_sum;       /* [keys] of one head and a few queries */
    float *largest;       /* [QUERIES_AT_ONCE][keys] */
    uint32_t *column_end; /* [columns]: the keys of column c end here */
};

uint64_t head_maps_bytes(uint32_t heads, uint32_t queries, uint32_t keys, uint32_t size)
{
    double map =
        (double)map_shrink_side(queries, size) * map_shrink_side(keys, size) * sizeof(float);
    double bytes = (double)sizeof(struct head_maps) + map * ((double)heads + 2);
    return bytes < 0x1p62 ? (uint64_t)bytes : UINT64_C(1) << 62;
}

uint64_t head_maps_scratch(uint32_t heads, uint32_t keys, uint32_t size)
{
    double columns = map_shrink_side(keys, size);
    double bytes = columns * (((double)heads + 4) * sizeof(double) + sizeof(uint32_t)) +
                   keys * (2.0 * sizeof(double) + (QUERIES_AT_ONCE + 1.0) * sizeof(float));
    return bytes < 0x1p62 ? (uint64_t)bytes : UINT64_C(1) << 62;
}

/* Where the map begins and ends; a sample of padding alone has the whole. */
static struct attention_extent head_maps_extent(const struct attention *a, uint32_t sample)
{
    struct attention_extent extent = attention_extent(a, sample);
    if (extent.query_end == 0) {
        extent = (struct attention_extent){.query_end = a->queries, .key_end = a->keys};
    }
    return extent;
}

/* Maps of this shape, with cells that are not filled. */
static struct head_maps *head_maps_alloc(const struct head_maps *shape)
{
    uint64_t bytes = head_maps_bytes(shape->heads, shape->rows, shape->columns, UINT32_MAX);
    struct head_maps *maps = bytes < SIZE_MAX ? malloc((size_t)bytes) : NULL;
    if (maps) {
        *maps = *shape;
        maps->values = (float *)(maps + 1);
        maps->max = maps->values + (size_t)maps->heads * maps->rows * maps->columns;
        maps->mean = maps->max + (size_t)maps->rows * maps->columns;
    }
    return maps;
}

static struct head_maps *maps_new(const struct attention *a, uint32_t sample, uint32_t size)
{
    sample = sample < a->batch ? sample : a->batch - 1;
    struct attention_extent extent = head_maps_extent(a, sample);
    uint32_t queries = extent.query_end - extent.query, keys = extent.key_end - extent.key;
    struct head_maps shape = {
        .heads = a->heads,
        .queries = queries,
        .keys = keys,
        .first_query = extent.query,
        .first_key = extent.key,
        .queries_sent = a->queries,
        .keys_sent = a->keys,
        .rows = map_shrink_side(queries, size),
        .columns = map_shrink_side(keys, size),
        .sample = sample,
    };
    return head_maps_alloc(&shape);
}

void head_maps_free(struct head_maps **maps)
{
    free(*maps);
    *maps = NULL;
}

/* The sums over a few queries, of each key, into the cells that the keys are in. */
static void add_keys(const struct making *m, double *sum)
{
    uint32_t columns = m->maps->columns;
    if (columns == m->maps->keys) {
        for (uint32_t c = 0; c < columns; c++) {
            sum[c] += (double)m->key_sum[c];
        }
        return;
    }
    for (uint32_t c = 0, j = 0; c < columns; c++) {
        double part = 0;
        for (; j < m->column_end[c]; j++) {
            part += (double)m->key_sum[j];
        }
        sum[c] += part;
    }
}

/* Adds one row of a head to its map. `i` is a query of the message. */
static void head_maps_accumulate(const struct making *m, uint32_t h, uint32_t i, float *largest)
{
    const struct attention *a = m->a;
    size_t entry = dtype_size(a->dtype);
    size_t row = ((size_t)m->maps->sample * a->heads + h) * a->queries + i;
    const unsigned char *source =
        (const unsigned char *)a->weights + (row * a->keys + m->maps->first_key) * entry;
    for (uint32_t j = 0, keys = m->maps->keys; j < keys; j += ACROSS_CHUNK) {
        uint32_t n = keys - j < ACROSS_CHUNK ? keys - j : ACROSS_CHUNK;
        m->kernel->accumulate(source + j * entry, a->dtype, n, m->key_sum + j, largest + j);
    }
}

static void add_largest(const struct making *m, uint32_t queries)
{
    uint32_t keys = m->maps->keys;
    memset(m->key_sum, 0, keys * sizeof *m->key_sum);
    for (uint32_t i = 0; i < queries; i++) {
        for (uint32_t j = 0; j < keys; j++) {
            m->key_sum[j] += m->largest[(size_t)i * keys + j];
        }
    }
    add_keys(m, m->sum + (size_t)m->a->heads * m->maps->columns);
}

/* These queries of the message, QUERIES_AT_ONCE at most, of all heads. */
static void add_queries(const struct making *m, const uint32_t *query, uint32_t count)
{
    uint32_t keys = m->maps->keys;
    for (size_t k = 0; k < (size_t)count * keys; k++) {
        m->largest[k] = -INFINITY;
    }
    for (uint32_t h = 0; h < m->a->heads; h++) {
        memset(m->key_sum, 0, keys * sizeof *m->key_sum);
        for (uint32_t n = 0; n < count; n++) {
            head_maps_accumulate(m, h, query[n], m->largest + (size_t)n * keys);
        }
        add_keys(m, m->sum + (size_t)h * m->maps->columns);
    }
    add_largest(m, count);
}

/* A row of cells of a head, from the sums over `queries` of them; whether all are finite. */
static bool end_row(const struct making *m, uint32_t h, uint32_t queries, float *ret_row)
{
    const double *sum = m->sum + (size_t)h * m->maps->columns;
    double share = 1.0 / queries;
    unsigned finite = 1;
    for (uint32_t c = 0; c < m->maps->columns; c++) {
        double mean = sum[c] * m->share[c] * share;
        finite &= fabs(mean) <= (double)FLT_MAX;
        ret_row[c] = (float)mean;
    }
    return finite;
}

/* Row r of the cells of every head and of the maximum. */
static void head_maps_make_row(const struct making *m, uint32_t r)
{
    struct head_maps *maps = m->maps;
    uint32_t begin = maps->first_query + map_shrink_edge(r, maps->queries, maps->rows);
    uint32_t end = maps->first_query + map_shrink_edge(r + 1, maps->queries, maps->rows);
    uint32_t query[QUERIES_AT_ONCE], count = 0, shown = 0;
    memset(m->sum, 0, ((size_t)maps->heads + 1) * maps->columns * sizeof *m->sum);
    for (uint32_t i = begin; i < end && m->kernel; i++) {
        if (head_maps_shows(m->a, maps, i)) {
            query[count++] = i;
            shown++;
        }
        if (count == QUERIES_AT_ONCE || (count > 0 && i + 1 == end)) {
            add_queries(m, query, count);
            count = 0;
        }
    }
    for (uint32_t h = 0; h <= maps->heads; h++) {
        float *row = maps->values + ((size_t)h * maps->rows + r) * maps->columns;
        if (!m->kernel || !end_row(m, h, shown, row)) {
            head_maps_row_ref(m->a, maps, h, r, m->work, row);
        }
    }
}

/* The mean over heads of each cell; `sum` has room for a row of them. */
static void average(struct head_maps *maps, double *sum)
{
    size_t count = (size_t)maps->rows * maps->columns;
    for (uint32_t r = 0; r < maps->rows; r++) {
        size_t row = (size_t)r * maps->columns;
        memset(sum, 0, maps->columns * sizeof *sum);
        for (uint32_t h = 0; h < maps->heads; h++) {
            for (uint32_t c = 0; c < maps->columns; c++) {
                sum[c] += (double)maps->values[h * count + row + c];
            }
        }
        for (uint32_t c = 0; c < maps->columns; c++) {
            maps->mean[row + c] = (float)(sum[c] / maps->heads);
        }
    }
}

int head_maps_new(const struct attention *a, uint32_t sample, uint32_t size, enum isa isa,
                  struct scratch *scratch, struct head_maps **ret_maps)
{
    uint64_t bytes = head_maps_scratch(a->heads, a->keys, size);
    void *memory = bytes < SIZE_MAX ? scratch_take(scratch, (size_t)bytes) : NULL;
    struct head_maps *maps = memory ? maps_new(a, sample, size) : NULL;
    if (!maps) {
        return ERR_MEMORY;
    }
    const struct kernels *kernels = kernels_of(isa);
    struct making making = {.a = a, .maps = maps, .kernel = kernels ? kernels->across : NULL};
    size_t columns = maps->columns;
    making.sum = memory;
    making.share = making.sum + ((size_t)a->heads + 1) * columns;
    making.work = making.share + columns;
    making.key_sum = (float *)(void *)(making.work + 2 * (size_t)a->keys + 2 * columns);
    making.largest = making.key_sum + maps->keys;
    making.column_end = (uint32_t *)(void *)(making.largest + QUERIES_AT_ONCE * (size_t)maps->keys);
    for (uint32_t c = 0; c < columns; c++) {
        making.column_end[c] = map_shrink_edge(c + 1, maps->keys, maps->columns);
        making.share[c] =
            1.0 / (making.column_end[c] - map_shrink_edge(c, maps->keys, maps->columns));
    }
    for (uint32_t r = 0; r < maps->rows; r++) {
        scratch_pause(scratch);
        head_maps_make_row(&making, r);
    }
    average(maps, making.sum);
    *ret_maps = maps;
    return 0;
}

/* In f32, exactly: the exponent is moved by a multiplication, which numbers near 0 survive too. */
static float head_maps_half(uint16_t code)
{
    uint32_t bits = (uint32_t)(code & 0x8000) << 16 | (uint32_t)(code & 0x7fff) << 13;
    float x;
    memcpy(&x, &bits, sizeof x);
    return (code & 0x7c00) == 0x7c00 ? NAN : x * 0x1p112F;
}

int head_maps_given(const struct head_maps *shape, const void *halves, struct head_maps **ret_maps)
{
    struct head_maps *maps = head_maps_alloc(shape);
    double *row = malloc(shape->columns * sizeof *row);
    if (!maps || !row) {
        free(row);
        head_maps_free(&maps);
        return ERR_MEMORY;
    }
    size_t cells = (size_t)maps->rows * maps->columns;
    for (size_t at = 0; at < maps->heads * cells; at++) {
        uint16_t code;
        memcpy(&code, (const char *)halves + at * sizeof code, sizeof code);
        maps->values[at] = head_maps_half(code);
    }
    for (size_t i = 0; i < cells; i++) {
        maps->max[i] = NAN;
    }
    for (size_t at = 0; at < maps->heads * cells && !head_maps_pooled(maps); at++) {
        maps->max[at % cells] = fmaxf(maps->max[at % cells], maps->values[at]);
    }
    average(maps, row);
    free(row);
    *ret_maps = maps;
    return 0;
}

void head_maps_add_weighted(const struct head_maps *maps, const double *weight, double *sum)
{
    size_t count = (size_t)maps->rows * maps->columns;
    for (uint32_t h = 0; h < maps->heads; h++) {
        const float *map = maps->values + h * count;
        for (size_t i = 0; i < count; i++) {
            sum[i] += weight[h] * (double)map[i];
        }
    }
}
