/* SPDX-License-Identifier: MIT */
/* across: which way a pass goes, and what is left to do once its blocks are merged. */
#include "across.h"
#include "across_ref.h"

#include <assert.h>
#include <math.h>

int across_weighted_map(struct moments *map, const struct attention *a, const double *weight,
                        uint32_t row_begin, uint32_t row_end, enum isa isa, struct scratch *scratch)
{
    assert(row_end <= a->queries);
    (void)isa;
    return across_weighted_map_ref(map, a, weight, row_begin, row_end, scratch);
}

int across_gradient(double *score, const struct attention *a, uint32_t row_begin, uint32_t row_end,
                    enum isa isa, struct scratch *scratch)
{
    assert(a->grad != NULL && row_end <= a->queries);
    (void)isa;
    return across_gradient_ref(score, a, row_begin, row_end, scratch);
}

/* Scores are sums of magnitudes: the largest is divided out first, so that no square overflows or
 * vanishes. */
void across_gradient_normalize(double *score, uint32_t heads)
{
    double largest = 0, squares = 0;
    for (uint32_t h = 0; h < heads; h++) {
        largest = score[h] > largest || isnan(score[h]) ? score[h] : largest;
    }
    for (uint32_t h = 0; h < heads; h++) {
        double share = score[h] / largest;
        squares += share * share;
    }
    bool exists = largest > 0 && isfinite(largest) && isfinite(squares);
    for (uint32_t h = 0; h < heads; h++) {
        score[h] = exists ? score[h] / largest / sqrt(squares) : NAN;
    }
}

int across_head_pairs(struct pair *pairs, uint32_t *count, uint32_t limit,
                      const struct attention *a, uint32_t row_begin, uint32_t row_end, enum isa isa,
                      struct scratch *scratch)
{
    assert(limit > 0 && row_end <= a->queries);
    (void)isa;
    return across_head_pairs_ref(pairs, count, limit, a, row_begin, row_end, scratch);
}

void across_head_pairs_merge(struct pair *pairs, uint32_t *count, uint32_t limit, uint32_t heads,
                             const struct pair *from, const uint32_t *from_count)
{
    for (uint32_t h = 0; h < heads; h++) {
        size_t list = (size_t)h * limit;
        for (uint32_t k = 0; k < from_count[h]; k++) {
            count[h] = across_offer(pairs + list, count[h], limit, from[list + k]);
        }
    }
}
