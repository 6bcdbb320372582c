/* SPDX-License-Identifier: MIT */
/* across_ref: the scalar reference of across, compiled without vectorising, and what the fast path
 * shares with it. */
#ifndef WORKERS_ACROSS_REF_H
#define WORKERS_ACROSS_REF_H

#include "proto/metric.h"
#include "workers/base/attention.h"
#include "workers/base/scratch.h"
#include "workers/stats/dist.h"

/* The gradient as weights: what attention_load_row reads. a->grad must be there. */
struct attention across_grad(const struct attention *a);

/* Adds n entries of a weighted map, source[h] being those of a head that takes part, to its
 * moments; `work` holds 2 * n. */
void across_map_entries_ref(struct moments *map, const unsigned char *const *source,
                            const double *weight, uint32_t heads, enum dtype dtype, uint32_t n,
                            double *work);
/* The heads that take part: their rows (b, h, i), and their weights. Returns how many. */
uint32_t across_map_sources(const struct attention *a, const double *weight, uint32_t b, uint32_t i,
                            const unsigned char **ret_source, double *ret_weight);

/* Row (b, h, i), whose n valid keys are in `key`; `work` holds 3 * keys. */
double across_gradient_row_ref(const struct attention *a, uint32_t b, uint32_t h, uint32_t i,
                               const uint32_t *key, uint32_t n, double *work);
/* Offers row i of one head's map; `work` holds 3 * keys, and `extent` is that of each sample.
 * Returns the new count. */
uint32_t across_head_row_ref(struct pair *pairs, uint32_t count, uint32_t limit,
                             const struct attention *a, const struct attention_extent *extent,
                             uint32_t h, uint32_t i, double *work);

int across_weighted_map_ref(struct moments *map, const struct attention *a, const double *weight,
                            uint32_t row_begin, uint32_t row_end, struct scratch *scratch);

#endif
