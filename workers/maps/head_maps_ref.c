/* SPDX-License-Identifier: MIT */
#include "workers/maps/head_maps_internal.h"

#include <float.h>
#include <math.h>

bool head_maps_shows(const struct attention *a, const struct head_maps *maps, uint32_t i)
{
    struct attention_extent extent = {.query = maps->first_query,
                                      .query_end = maps->first_query + maps->queries};
    return attention_shown(a, &extent, maps->sample, i);
}

/* A row of the largest weights over the heads; -infinity where all are NaN. */
static void load_largest(const struct attention *a, uint32_t sample, uint32_t i, double *other,
                         double *ret_row)
{
    for (uint32_t j = 0; j < a->keys; j++) {
        ret_row[j] = -INFINITY;
    }
    for (uint32_t h = 0; h < a->heads; h++) {
        attention_load_row(a, sample, h, i, other);
        for (uint32_t j = 0; j < a->keys; j++) {
            ret_row[j] = other[j] > ret_row[j] ? other[j] : ret_row[j];
        }
    }
}

static void head_maps_ref_add_row(const double *row, uint32_t keys, uint32_t columns, double *sum,
                                  double *count)
{
    for (uint32_t c = 0; c < columns; c++) {
        uint32_t end = map_shrink_edge(c + 1, keys, columns);
        for (uint32_t j = map_shrink_edge(c, keys, columns); j < end; j++) {
            if (isfinite(row[j])) {
                sum[c] += row[j];
                count[c] += 1;
            }
        }
    }
}

void head_maps_row_ref(const struct attention *a, const struct head_maps *maps, uint32_t h,
                       uint32_t r, double *work, float *ret)
{
    uint32_t columns = maps->columns;
    double *row = work, *other = row + a->keys, *sum = other + a->keys, *count = sum + columns;
    for (uint32_t c = 0; c < columns; c++) {
        sum[c] = count[c] = 0;
    }
    uint32_t end = maps->first_query + map_shrink_edge(r + 1, maps->queries, maps->rows);
    uint32_t begin = maps->first_query + map_shrink_edge(r, maps->queries, maps->rows);
    for (uint32_t i = begin; i < end; i++) {
        if (!head_maps_shows(a, maps, i)) {
            continue;
        }
        if (h < a->heads) {
            attention_load_row(a, maps->sample, h, i, row);
        } else {
            load_largest(a, maps->sample, i, other, row);
        }
        head_maps_ref_add_row(row + maps->first_key, maps->keys, columns, sum, count);
    }
    for (uint32_t c = 0; c < columns; c++) {
        double mean = sum[c] / count[c]; /* 0 / 0 is NaN */
        ret[c] = fabs(mean) <= (double)FLT_MAX ? (float)mean : NAN;
    }
}
