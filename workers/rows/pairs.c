/* SPDX-License-Identifier: MIT */
#include "workers/rows/pairs.h"

static bool comes_before(const struct pair *a, const struct pair *b)
{
    if (a->weight > b->weight || a->weight < b->weight) {
        return a->weight > b->weight;
    }
    return a->query < b->query || (a->query == b->query && a->key < b->key);
}

uint32_t pairs_offer(struct pair *pairs, uint32_t count, uint32_t limit, struct pair pair)
{
    uint32_t at = count;
    if (count == limit) {
        if (limit == 0 || !comes_before(&pair, &pairs[limit - 1])) {
            return count;
        }
        at--;
    } else {
        count++;
    }
    for (; at > 0 && comes_before(&pair, &pairs[at - 1]); at--) {
        pairs[at] = pairs[at - 1];
    }
    pairs[at] = pair;
    return count;
}
