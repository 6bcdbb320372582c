/* SPDX-License-Identifier: MIT */
/* There are counters for every resolution, and what is added is added at its own: no key is
 * converted until all are added up, and then each key once. */
#include "workers/stats/hist_sum.h"

#include <stdlib.h>
#include <string.h>

/* Where the counters of a resolution are. */
static const struct counter_range {
    uint16_t word, words, block;
} ranges[HIST_HALVINGS_MAX + 1] = {{0, 11, 0}, {11, 6, 641}, {17, 3, 962}, {20, 2, 1123}};

static void touch(struct hist_sum *sum, uint32_t halvings, uint32_t block)
{
    sum->touched[ranges[halvings].word + block / 64] |= 1ull << block % 64;
}

static uint32_t *counters(struct hist_sum *sum, uint32_t halvings)
{
    return &sum->count[ranges[halvings].block * HIST_BLOCK];
}

static void add_at(struct hist_sum *sum, uint32_t halvings, uint32_t index, uint32_t count)
{
    uint32_t *at = counters(sum, halvings) + index;
    touch(sum, halvings, index / HIST_BLOCK);
    *at = hist_saturating_sum(*at, count);
}

void hist_sum_add_value(struct hist_sum *sum, double x, uint32_t count)
{
    sum->resolutions |= 1;
    add_at(sum, 0, (uint32_t)(hist_key(x) + HIST_KEY_MAX), count);
}

static uint32_t lowest_resolution(const struct hist_sum *sum)
{
    return 31 - (uint32_t)__builtin_clz(sum->resolutions | 1);
}

/* Neighbours that fall into one bucket are added up before they are added to it. */
void hist_sum_add(struct hist_sum *sum, const struct hist *h)
{
    uint32_t lowest = lowest_resolution(sum), to = lowest > h->halvings ? lowest : h->halvings;
    struct hist_halving halving = hist_halving_between(h->halvings, to);
    for (uint32_t i = 0; i < h->used;) {
        uint32_t index = hist_halve_key(&halving, h->buckets[i].key), count = h->buckets[i].count;
        for (i++; i < h->used && hist_halve_key(&halving, h->buckets[i].key) == index; i++) {
            count = hist_saturating_sum(count, h->buckets[i].count);
        }
        add_at(sum, to, index, count);
    }
    sum->resolutions |= h->used > 0 ? 1u << to : 0;
}

/* The touched blocks of a resolution, one after the other. */
struct blocks {
    const uint64_t *word, *end;
    uint64_t left;  /* of *word */
    uint32_t first; /* block of *word */
};

static struct blocks all_blocks(const struct hist_sum *sum, uint32_t halvings)
{
    const uint64_t *word = &sum->touched[ranges[halvings].word];
    return (struct blocks){.word = word, .end = word + ranges[halvings].words, .left = *word};
}

static inline bool next_block(struct blocks *blocks, uint32_t *ret_block)
{
    while (blocks->left == 0) {
        if (++blocks->word == blocks->end) {
            blocks->word--;
            return false;
        }
        blocks->left = *blocks->word;
        blocks->first += 64;
    }
    *ret_block = blocks->first + (uint32_t)__builtin_ctzll(blocks->left);
    blocks->left &= blocks->left - 1;
    return true;
}

/* Its counters are all zero. */
static void hist_sum_forget(struct hist_sum *sum, uint32_t halvings)
{
    memset(&sum->touched[ranges[halvings].word], 0,
           ranges[halvings].words * sizeof sum->touched[0]);
    sum->resolutions &= ~(1u << halvings);
}

/* Moves all counts of one resolution to another. */
static void hist_sum_move(struct hist_sum *sum, uint32_t from, uint32_t to)
{
    struct hist_halving halving = hist_halving_between(from, to);
    struct blocks blocks = all_blocks(sum, from);
    uint32_t *count = counters(sum, from), block;
    while (next_block(&blocks, &block)) {
        for (uint32_t i = block * HIST_BLOCK; i < (block + 1) * HIST_BLOCK; i++) {
            if (count[i] > 0) {
                add_at(sum, to, hist_halve_key(&halving, (int32_t)i - halving.zero_from), count[i]);
                count[i] = 0;
            }
        }
    }
    hist_sum_forget(sum, from);
    sum->resolutions |= 1u << to;
}

/* Adds a block's counts; returns what follows them. `width` is a constant where this is inlined. */
static inline const uint8_t *hist_sum_add_block(uint32_t *count, const struct hist_block *block,
                                                uint32_t width)
{
    const uint8_t *at = block->counts;
    if (block->used != HIST_BLOCK_FULL) {
        for (uint32_t used = block->used; used != 0; used &= used - 1, at += width) {
            uint32_t *next = &count[__builtin_ctz(used)];
            *next = hist_saturating_sum(*next, hist_block_count(at, width));
        }
        return at;
    }
    uint32_t next[HIST_BLOCK]; /* first all loads, so that the compiler takes 8 at once */
    for (uint32_t i = 0; i < HIST_BLOCK; i++) {
        next[i] = hist_block_count(at + i * width, width);
    }
    for (uint32_t i = 0; i < HIST_BLOCK; i++) {
        count[i] = hist_saturating_sum(count[i], next[i]);
    }
    return at + HIST_BLOCK * width;
}

void hist_sum_add_bytes(struct hist_sum *sum, const uint8_t *bytes, size_t size)
{
    const uint8_t *at = bytes + 1, *end = bytes + size;
    uint32_t halvings = bytes[0], *counter = counters(sum, halvings);
    sum->resolutions |= 1u << halvings;
    for (struct hist_block block = {0}; at < end; block.index++) {
        hist_block_read(at, &block);
        uint32_t *count = counter + block.index * HIST_BLOCK;
        touch(sum, halvings, block.index);
        at = block.width == 1   ? hist_sum_add_block(count, &block, 1)
             : block.width == 2 ? hist_sum_add_block(count, &block, 2)
                                : hist_sum_add_block(count, &block, block.width);
    }
}

/* Writing */

static uint32_t hist_sum_count_used(struct hist_sum *sum, uint32_t halvings)
{
    struct blocks blocks = all_blocks(sum, halvings);
    const uint32_t *count = counters(sum, halvings);
    uint32_t used = 0, block;
    while (next_block(&blocks, &block)) {
        for (uint32_t i = block * HIST_BLOCK; i < (block + 1) * HIST_BLOCK; i++) {
            used += count[i] != 0;
        }
    }
    return used;
}

static inline uint32_t used_in(const uint32_t *count)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < HIST_BLOCK; i++) {
        used |= (uint32_t)(count[i] != 0) << i;
    }
    return used;
}

static int32_t hist_sum_magnitude_of(uint32_t index, uint32_t halvings)
{
    return abs((int32_t)index - hist_key_max(halvings));
}

static int32_t hist_sum_largest_magnitude(struct hist_sum *sum, uint32_t halvings)
{
    struct blocks blocks = all_blocks(sum, halvings);
    const uint32_t *count = counters(sum, halvings);
    int32_t largest = 0;
    for (uint32_t block; next_block(&blocks, &block);) {
        for (uint32_t i = block * HIST_BLOCK; i < (block + 1) * HIST_BLOCK; i++) {
            int32_t magnitude = count[i] > 0 ? hist_sum_magnitude_of(i, halvings) : 0;
            largest = magnitude > largest ? magnitude : largest;
        }
    }
    return largest;
}

/* Values that are too small at this resolution count as zero. */
static void hist_sum_cut(struct hist_sum *sum, uint32_t halvings)
{
    int32_t key = hist_cut(halvings, hist_sum_largest_magnitude(sum, halvings));
    struct blocks blocks = all_blocks(sum, halvings);
    uint32_t *count = counters(sum, halvings), small = 0, block;
    while (key > 0 && next_block(&blocks, &block)) {
        for (uint32_t i = block * HIST_BLOCK; i < (block + 1) * HIST_BLOCK; i++) {
            if (hist_sum_magnitude_of(i, halvings) <= key) {
                small = hist_saturating_sum(small, count[i]);
                count[i] = 0;
            }
        }
    }
    if (small > 0) {
        add_at(sum, halvings, (uint32_t)hist_key_max(halvings), small);
    }
}

/* Brings everything to the lowest resolution in use, and further until it fits. Returns that one.
 */
static uint32_t hist_sum_settle(struct hist_sum *sum, uint32_t limit)
{
    uint32_t halvings = lowest_resolution(sum);
    for (uint32_t from = 0; from < halvings; from++) {
        if (sum->resolutions >> from & 1) {
            hist_sum_move(sum, from, halvings);
        }
    }
    for (; halvings < HIST_HALVINGS_MAX && hist_sum_count_used(sum, halvings) > limit; halvings++) {
        hist_sum_move(sum, halvings, halvings + 1);
    }
    if (halvings == HIST_HALVINGS_MAX) {
        hist_sum_cut(sum, halvings);
    }
    return halvings;
}

size_t hist_sum_write(struct hist_sum *sum, uint32_t limit, uint8_t *bytes)
{
    if (sum->resolutions == 0) {
        return 0;
    }
    uint32_t halvings = hist_sum_settle(sum, limit), next = 0, block;
    struct blocks blocks = all_blocks(sum, halvings);
    uint8_t *to = bytes;
    *to++ = (uint8_t)halvings;
    while (next_block(&blocks, &block)) {
        uint32_t *count = counters(sum, halvings) + block * HIST_BLOCK, used = used_in(count);
        if (used != 0) { /* else its counts were cut */
            to = hist_block_put(to, block - next, used, count);
            memset(count, 0, HIST_BLOCK * sizeof *count);
            next = block + 1;
        }
    }
    hist_sum_forget(sum, halvings);
    return (size_t)(to - bytes);
}

void hist_sum_clear(struct hist_sum *sum)
{
    for (uint32_t halvings = 0; sum->resolutions != 0; halvings++) {
        struct blocks blocks = all_blocks(sum, halvings);
        for (uint32_t block; next_block(&blocks, &block);) {
            memset(counters(sum, halvings) + block * HIST_BLOCK, 0,
                   HIST_BLOCK * sizeof sum->count[0]);
        }
        hist_sum_forget(sum, halvings);
    }
}
