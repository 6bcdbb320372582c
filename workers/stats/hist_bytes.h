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
#include <string.h>

/* Most bytes of a histogram of `buckets` buckets. */
size_t hist_bytes_max(uint32_t buckets);
/* How many buckets they use. */
uint32_t hist_bytes_used(const uint8_t *bytes, size_t size);
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

/* Without an instruction for it, which not every x86-64 has, this is faster than a call. */
static inline uint32_t hist_block_keys(uint32_t used)
{
    used -= used >> 1 & 0x55;
    used = (used & 0x33) + (used >> 2 & 0x33);
    return (used + (used >> 4)) & 0xf;
}

static inline const uint8_t *hist_block_end(const struct hist_block *block)
{
    return block->counts + hist_block_keys(block->used) * block->width;
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

/* hist_key_halve, from keys to indices, with all that does not depend on the key worked out before.
 */
struct hist_halving {
    int32_t zero_from, zero_to; /* index of key 0 */
    int32_t before, shift, after;
};

static inline struct hist_halving hist_halving_between(uint32_t from, uint32_t to)
{
    uint32_t shift = to - from;
    return (struct hist_halving){.zero_from = hist_key_max(from),
                                 .zero_to = hist_key_max(to),
                                 .before = (1 << shift) - 2 - hist_key_offset(from),
                                 .shift = (int32_t)shift,
                                 .after = hist_key_offset(to) + 1};
}

static inline uint32_t hist_halve_key(const struct hist_halving *h, int32_t key)
{
    int32_t magnitude = key < 0 ? -key : key;
    int32_t halved = ((magnitude + h->before) >> h->shift) + h->after;
    return (uint32_t)(h->zero_to + (key > 0 ? halved : key < 0 ? -halved : 0));
}

/* Writes the block of these counts, of which those not in `used` are 0; returns its end, and writes
 * up to 4 bytes past it. */
static inline uint8_t *hist_block_put(uint8_t *to, uint32_t skipped, uint32_t used,
                                      const uint32_t count[HIST_BLOCK])
{
    uint32_t largest = 0;
    for (uint32_t i = 0; i < HIST_BLOCK; i++) {
        largest |= count[i];
    }
    uint32_t width = hist_block_width(largest);
    to = hist_block_write(to, skipped, used, width);
    if (used == HIST_BLOCK_FULL && width == 1) {
        for (uint32_t i = 0; i < HIST_BLOCK; i++) {
            to[i] = (uint8_t)count[i];
        }
        return to + HIST_BLOCK;
    }
    for (uint32_t i = 0; i < HIST_BLOCK; i++) {
        memcpy(to, &count[i], sizeof count[i]);
        to += (0u - (used >> i & 1)) & width;
    }
    return to;
}

#endif
