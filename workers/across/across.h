/* SPDX-License-Identifier: MIT */
/* across: numbers that need a pass of their own over the weights: weighted maps over the heads, the
 * gradient score, the largest entries of each head. Each is off unless asked for. */
#ifndef WORKERS_ACROSS_ACROSS_H
#define WORKERS_ACROSS_ACROSS_H

#include "workers/base/attention.h"
#include "workers/stats/dist.h"
#include "workers/base/isa.h"
#include "proto/metric.h"
#include "workers/base/scratch.h"

/* Adds the entries of the map sum_h weight[h] A_h, as sent, rows [row_begin, row_end) of every
 * sample, to *map; entries that are not finite are left out. A head whose weight is 0 or NaN takes
 * no part, whatever it holds. Returns 0 or ERR_MEMORY. */
int across_weighted_map(struct moments *map, const struct attention *a, const double *weight,
                        uint32_t row_begin, uint32_t row_end, enum isa isa,
                        struct scratch *scratch);

/* Adds sum |A dL/dA| over the valid entries of sound rows to ret_score[heads]; products that are
 * not finite are left out. a->grad must be there. Returns 0 or ERR_MEMORY. */
int across_gradient(double *score, const struct attention *a, uint32_t row_begin, uint32_t row_end,
                    enum isa isa, struct scratch *scratch);
/* In place: divides by the l2 norm over the heads (Michel et al. 2019); all NaN when it is 0 or not
 * finite. */
void across_gradient_normalize(double *score, uint32_t heads);

/* Offers the entries of each head's map, averaged over the samples where they are finite, to its
 * list of the `limit` largest (ties: lower query, then lower key): pairs[heads][limit],
 * count[heads]. Returns 0 or ERR_MEMORY. */
int across_head_pairs(struct pair *pairs, uint32_t *count, uint32_t limit,
                      const struct attention *a, uint32_t row_begin, uint32_t row_end, enum isa isa,
                      struct scratch *scratch);
/* Merges the lists of later rows. */
void across_head_pairs_merge(struct pair *pairs, uint32_t *count, uint32_t limit, uint32_t heads,
                             const struct pair *from, const uint32_t *from_count);

#endif
