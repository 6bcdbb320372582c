/* SPDX-License-Identifier: MIT */
/* occurrence: a stable radix sort of the positions by token; neighbours in the sorted order are
 * then neighbours in the chain.
 *
 * A hash table would be as fast on text, but the tokens come from the network, and a sort has no
 * worst case. Four passes of a byte each, fewer for small vocabularies: a byte that is the same
 * everywhere is skipped. */
#include "workers/rows/occurrence.h"

#include <stdbool.h>
#include <string.h>

#define RADIX 256

static uint32_t token_at(const int32_t *tokens, uint32_t j)
{
    uint32_t token;
    memcpy(&token, (const unsigned char *)tokens + (size_t)j * sizeof token, sizeof token);
    return token;
}

static uint32_t byte_at(const int32_t *tokens, uint32_t j, unsigned shift)
{
    return token_at(tokens, j) >> shift & (RADIX - 1);
}

/* Moves from[n] to `to`, sorted by the byte at `shift`; returns false when there was nothing to
 * do, then `to` is as it was. */
static bool sort_by_byte(const int32_t *tokens, uint32_t n, unsigned shift, const uint32_t *from,
                         uint32_t *to)
{
    uint32_t begin[RADIX] = {0};
    for (uint32_t k = 0; k < n; k++) {
        begin[byte_at(tokens, k, shift)]++;
    }
    if (begin[byte_at(tokens, 0, shift)] == n) {
        return false;
    }
    uint32_t sum = 0;
    for (uint32_t byte = 0; byte < RADIX; byte++) {
        uint32_t count = begin[byte];
        begin[byte] = sum;
        sum += count;
    }
    for (uint32_t k = 0; k < n; k++) {
        to[begin[byte_at(tokens, from[k], shift)]++] = from[k];
    }
    return true;
}

void occurrence_link(const int32_t *tokens, uint32_t n, uint32_t *order, uint32_t *ret_previous)
{
    if (n == 0) {
        return;
    }
    uint32_t *sorted = order, *spare = order + n;
    for (uint32_t j = 0; j < n; j++) {
        sorted[j] = j;
    }
    for (unsigned shift = 0; shift < 32; shift += 8) {
        if (sort_by_byte(tokens, n, shift, sorted, spare)) {
            uint32_t *swap = sorted;
            sorted = spare;
            spare = swap;
        }
    }
    ret_previous[sorted[0]] = OCCURRENCE_NONE;
    for (uint32_t k = 1; k < n; k++) {
        bool same = token_at(tokens, sorted[k]) == token_at(tokens, sorted[k - 1]);
        ret_previous[sorted[k]] = same ? sorted[k - 1] : OCCURRENCE_NONE;
    }
}
