/* SPDX-License-Identifier: MIT */
/* hist_bytes: a histogram as bytes, block by block: how windows keep it in memory and in states on
 * disk.
 *
 *     1 byte   halvings
 *     per block of 8 keys of which some are used, ascending:
 *       1 or 2 bytes  how many blocks are skipped before it, and how wide its counts are:
 *                     skipped << 2 | width - 1; from 48 blocks on the first byte is
 *                     (48 | skipped >> 8) << 2 | width - 1 and the second the rest of skipped
 *       1 byte        which of the 8 keys are used, lowest bit first
 *       their counts, `width` bytes each, little-endian: as many as the largest of them needs
 *
 * Used keys lie side by side for the most part, so a block's 8 counts are added to 8 counters in a
 * few vector instructions. Keys are counted from the lowest one of the resolution. A width for each
 * block, since the ends of a distribution have small counts. */
#ifndef WORKERS_STATS_HIST_BYTES_H
#define WORKERS_STATS_HIST_BYTES_H

#include "workers/stats/hist.h"

#include <stdbool.h>

/* Most bytes of a histogram of so many buckets. */
size_t hist_bytes_max(uint32_t buckets);
/* Reads a histogram into one that has had other contents. Returns 0 or ERR_MEMORY, then without
 * effect. */
int hist_bytes_read(const uint8_t *bytes, size_t size, struct hist *h);
/* The contents of a histogram as bytes. */
struct hist_extent {
    uint32_t used;           /* buckets */
    uint64_t total;          /* counts */
    int32_t lowest, highest; /* keys */
};

/* Whether bytes[size] are as hist_sum_write writes a histogram that is not empty. */
bool hist_bytes_check(const uint8_t *bytes, size_t size, struct hist_extent *ret_extent);

#define HIST_BLOCK      8     /* keys side by side that are written together */
#define HIST_BLOCK_FULL 0xffu /* used */
#define HIST_BLOCK_LONG 48u   /* skipped */

struct hist_block {
    uint32_t index; /* first key / 8 */
    uint32_t used, width;
    const uint8_t *counts; /* as many as bits in `used` */
};

static inline const uint8_t *hist_block_end(const struct hist_block *block)
{
    return block->counts + (uint32_t)__builtin_popcount(block->used) * block->width;
}

/* How many bytes come before the counts. */
static inline uint32_t hist_block_lead(const uint8_t *at)
{
    return at[0] >> 2 >= HIST_BLOCK_LONG ? 3 : 2;
}

/* Reads the head of a block whose index is block->index when none is skipped. */
static inline void hist_block_read(const uint8_t *at, struct hist_block *block)
{
    uint32_t skipped = *at >> 2;
    block->width = (*at++ & 3u) + 1;
    if (skipped >= HIST_BLOCK_LONG) {
        skipped = (skipped - HIST_BLOCK_LONG) << 8 | *at++;
    }
    block->index += skipped;
    block->used = *at++;
    block->counts = at;
}

/* Writes it; returns where the counts go. */
static inline uint8_t *hist_block_write(uint8_t *to, uint32_t skipped, uint32_t used,
                                        uint32_t width)
{
    if (skipped >= HIST_BLOCK_LONG) {
        *to++ = (uint8_t)((HIST_BLOCK_LONG | skipped >> 8) << 2 | (width - 1));
        *to++ = (uint8_t)skipped;
    } else {
        *to++ = (uint8_t)(skipped << 2 | (width - 1));
    }
    *to++ = (uint8_t)used;
    return to;
}

/* Bytes that a count takes, or the largest of several that are or-ed. */
static inline uint32_t hist_block_width(uint32_t largest)
{
    return (uint32_t)(39 - __builtin_clz(largest | 1)) / 8;
}

static inline uint32_t hist_block_count(const uint8_t *at, uint32_t width)
{
    uint32_t count = at[0];
    for (uint32_t i = 1; i < width; i++) {
        count |= (uint32_t)at[i] << 8 * i;
    }
    return count;
}

#endif
