/* SPDX-License-Identifier: MIT */
#include "workers/stats/hist_bytes.h"

#include "proto/err.h"

#define BLOCKS_MAX ((HIST_KEYS + HIST_BLOCK - 1) / HIST_BLOCK)

size_t hist_bytes_max(uint32_t buckets)
{
    size_t used = buckets < HIST_LIMIT_MIN ? HIST_LIMIT_MIN
                  : buckets < HIST_KEYS    ? buckets
                                           : HIST_KEYS;
    size_t blocks = used < BLOCKS_MAX ? used : BLOCKS_MAX;
    return 1 + 3 * blocks + 4 * used + 4; /* the last 4: hist_block_put writes past the end */
}

/* Reading */

uint32_t hist_bytes_used(const uint8_t *bytes, size_t size)
{
    const uint8_t *at = bytes + 1, *end = bytes + size;
    uint32_t used = 0;
    for (struct hist_block block = {0}; at < end; at = hist_block_end(&block), block.index++) {
        hist_block_read(at, &block);
        used += hist_block_keys(block.used);
    }
    return used;
}

static void hist_bytes_append(struct hist *h, const struct hist_block *block)
{
    int32_t first = (int32_t)(block->index * HIST_BLOCK) - hist_key_max(h->halvings);
    const uint8_t *at = block->counts;
    for (uint32_t used = block->used; used != 0; used &= used - 1, at += block->width) {
        h->buckets[h->used++] = (struct bucket){.key = first + __builtin_ctz(used),
                                                .count = hist_block_count(at, block->width)};
    }
}

int hist_bytes_read(const uint8_t *bytes, size_t size, struct hist *h)
{
    const uint8_t *at = bytes + 1, *end = bytes + size;
    if (hist_reserve(h, hist_bytes_used(bytes, size)) != 0) {
        return ERR_MEMORY;
    }
    h->halvings = bytes[0];
    h->used = 0;
    for (struct hist_block block = {0}; at < end; at = hist_block_end(&block), block.index++) {
        hist_block_read(at, &block);
        hist_bytes_append(h, &block);
    }
    return 0;
}

/* Checking */

/* `width` and `keys` are constants where this is inlined and blocks are full. */
static inline bool counts_are_there(const uint8_t *counts, uint32_t keys, uint32_t width,
                                    uint32_t *ret_largest, uint64_t *total)
{
    uint32_t largest = 0, zeros = 0;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < keys; i++) {
        uint32_t count = hist_block_count(counts + i * width, width);
        zeros |= count == 0;
        largest |= count;
        sum += count;
    }
    *ret_largest = largest;
    *total += sum;
    return !zeros;
}

/* Whether no count is zero, and they are no wider than they need be. */
static bool counts_are_sound(const struct hist_block *block, uint64_t *total)
{
    uint32_t keys = hist_block_keys(block->used), largest;
    bool there;
    if (block->width == 1) {
        there = keys == HIST_BLOCK ? counts_are_there(block->counts, HIST_BLOCK, 1, &largest, total)
                                   : counts_are_there(block->counts, keys, 1, &largest, total);
    } else if (block->width == 2) {
        there = keys == HIST_BLOCK ? counts_are_there(block->counts, HIST_BLOCK, 2, &largest, total)
                                   : counts_are_there(block->counts, keys, 2, &largest, total);
    } else {
        there = counts_are_there(block->counts, keys, block->width, &largest, total);
    }
    return there && hist_block_width(largest) == block->width;
}

/* The block from `at` on, of a histogram whose largest index is `last`. */
static bool block_is_sound(const uint8_t *at, const uint8_t *end, uint32_t last,
                           struct hist_block *block, uint64_t *total)
{
    if (end - at < (ptrdiff_t)hist_block_lead(at)) {
        return false;
    }
    hist_block_read(at, block);
    return block->used != 0 &&
           block->index * HIST_BLOCK + 31 - (uint32_t)__builtin_clz(block->used) <= last &&
           end - block->counts >= hist_block_end(block) - block->counts &&
           counts_are_sound(block, total);
}

bool hist_bytes_check(const uint8_t *bytes, size_t size, struct hist_extent *ret_extent)
{
    if (size < 2 || bytes[0] > HIST_HALVINGS_MAX) {
        return false;
    }
    const uint8_t *at = bytes + 1, *end = bytes + size;
    int32_t key_max = hist_key_max(bytes[0]);
    struct hist_extent extent = {.used = 0};
    for (struct hist_block block = {0}; at < end; at = hist_block_end(&block), block.index++) {
        if (!block_is_sound(at, end, 2 * (uint32_t)key_max, &block, &extent.total)) {
            return false;
        }
        int32_t first = (int32_t)(block.index * HIST_BLOCK) - key_max;
        extent.lowest = extent.used > 0 ? extent.lowest : first + __builtin_ctz(block.used);
        extent.highest = first + 31 - __builtin_clz(block.used);
        extent.used += hist_block_keys(block.used);
    }
    *ret_extent = extent;
    return true;
}
