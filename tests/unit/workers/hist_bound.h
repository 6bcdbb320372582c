/* SPDX-License-Identifier: MIT */
/* hist_bound: the bounds of the buckets at full resolution, by long doubles instead of the table
 * that hist.c has. */
#ifndef TESTS_UNIT_WORKERS_HIST_BOUND_H
#define TESTS_UNIT_WORKERS_HIST_BOUND_H

#include "workers/stats/hist.h"

#include <math.h>

/* The bound that a positive key includes; of 0, the one that zero's bucket excludes. */
static inline double hist_bound_magnitude(int32_t key)
{
    int32_t u = (key < 1 ? 1 : key > HIST_KEY_MAX ? HIST_KEY_MAX : key) - 1;
    return (double)ldexpl(exp2l((long double)(u % 32) / 32), u / 32 - 40);
}

/* The largest x with this key (of the last bucket, and of those past it: 2^40). In a negative
 * bucket it is the one next to the bound that its mirror image excludes. */
static inline double hist_bound_of(int32_t key)
{
    if (key > 0) {
        return hist_bound_magnitude(key);
    }
    if (key == 0) {
        return nextafter(hist_bound_magnitude(0), 0);
    }
    return key == -1 ? -hist_bound_magnitude(0)
                     : nextafter(-hist_bound_magnitude(-key - 1), -INFINITY);
}

#endif
