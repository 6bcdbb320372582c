/* SPDX-License-Identifier: MIT */
/* map_of: attention with nothing but weights. */
#ifndef TESTS_UNIT_WORKERS_MAP_OF_H
#define TESTS_UNIT_WORKERS_MAP_OF_H

#include "workers/base/attention.h"

/* One sample; dtype is that of a gradient, too. */
static inline struct attention map_of(const void *weights, enum dtype dtype, uint32_t heads,
                                      uint32_t queries, uint32_t keys)
{
    return (struct attention){.weights = weights,
                              .dtype = dtype,
                              .grad_dtype = dtype,
                              .batch = 1,
                              .heads = heads,
                              .queries = queries,
                              .keys = keys};
}

#endif
