/* SPDX-License-Identifier: MIT */
#include "workers/maps/rollout.h"

#include "workers/maps/map_shrink.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* Row i of norm(0.5 (A + I)). */
static void residual_row(const float *row, uint32_t i, uint32_t n, uint32_t keys, double *ret)
{
    double sum = 0;
    for (uint32_t j = 0; j < n; j++) {
        uint32_t count = map_shrink_edge(j + 1, keys, n) - map_shrink_edge(j, keys, n);
        ret[j] = 0.5 * (count * (double)row[j] + (i == j ? 1 : 0));
        sum += ret[j];
    }
    bool sound = isfinite(sum) && sum > 0;
    for (uint32_t j = 0; j < n; j++) {
        ret[j] = sound ? ret[j] / sum : (i == j ? 1 : 0);
    }
}

void rollout_add(const float *map, uint32_t n, uint32_t keys, double *rollout, double *work)
{
    double *row = work + (size_t)n * n;
    memset(work, 0, (size_t)n * n * sizeof *work);
    for (uint32_t i = 0; i < n; i++) {
        double *out = work + (size_t)i * n;
        residual_row(map + (size_t)i * n, i, n, keys, row);
        for (uint32_t k = 0; k < n; k++) {
            for (uint32_t j = 0; j < n; j++) {
                out[j] += row[k] * rollout[(size_t)k * n + j];
            }
        }
    }
    memcpy(rollout, work, (size_t)n * n * sizeof *work);
}
