/* SPDX-License-Identifier: MIT */
/* across_row: how the fast paths of similarity and across load one row's valid weights, in f32, and
 * judge it. The verdict is that of row_sound; it reports where f32 cannot decide. */
#ifndef WORKERS_ACROSS_ROW_H
#define WORKERS_ACROSS_ROW_H

#include "workers/across/kernel.h"
#include "workers/base/attention.h"

/* The valid keys of one row (b, i), ascending. */
struct across_keys {
    uint32_t b, i, n;
    const uint32_t *key;
};

enum across_verdict {
    ACROSS_UNSOUND,
    ACROSS_SOUND,
    ACROSS_UNSURE /* too close to a bound, or the sum overflows: ask the reference */
};

/* Writes the weights at the valid keys of head h side by side. `ret` has room for all keys. */
void across_load(const struct across_kernels *kernel, const struct attention *a, uint32_t h,
                 const struct across_keys *keys, float *ret);
/* `ret_judged` is of all n weights. */
enum across_verdict across_judge(const struct across_kernels *kernel, const struct attention *a,
                                 const float *weight, uint32_t n, struct across_judged *ret_judged);

#endif
