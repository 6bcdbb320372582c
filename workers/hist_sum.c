/* SPDX-License-Identifier: MIT */
/* The bytes of a histogram
 * ------------------------
 *     1 byte   halvings | (width - 1) << 4
 *     per block of 8 keys of which some are used, ascending:
 *       1 or 2 bytes  how many blocks are skipped before it: below 128, or the low 7 bits with the
 *                     high bit set and then the rest
 *       1 byte        which of the 8 keys are used, lowest bit first
 *       their counts, `width` bytes each, little-endian; width (1..4) is that of the largest count
 *
 * Used keys lie side by side for the most part, so a block's 8 counts are added to 8 counters in a
 * few vector instructions. Keys are counted from the lowest one of the resolution. */
#include "hist_sum.h"
#include "err.h"

#include <stdlib.h>
#include <string.h>

#define FULL        0xffu
#define SKIP_SHORT  0x80u
#define WIDTH_SHIFT 4

static void touch(struct hist_sum *sum, uint32_t block)
{
    sum->touched[block / 64] |= 1ull << block % 64;
}

static uint32_t saturating_sum(uint32_t a, uint32_t b)
{
    uint32_t sum = a + b;
    return sum | (0u - (sum < a));
}

static void add_at(struct hist_sum *sum, uint32_t index, uint32_t count)
{
    touch(sum, index / HIST_BLOCK);
    sum->count[index] = saturating_sum(sum->count[index], count);
}

static uint32_t index_of(int32_t key, uint32_t halvings)
{
    return (uint32_t)(key + hist_key_max(halvings));
}

/* The index after more halvings; never larger. */
static uint32_t index_halve(uint32_t index, uint32_t from, uint32_t to)
{
    return index_of(hist_key_halve((int32_t)index - hist_key_max(from), from, to), to);
}

/* Lowers the resolution in place: an index never grows, so what is written to is read already. */
static void halve(struct hist_sum *sum, uint32_t halvings)
{
    uint32_t from = sum->halvings;
    if (halvings <= from) {
        return;
    }
    sum->halvings = halvings;
    for (uint32_t w = 0; w < HIST_BLOCK_WORDS; w++) {
        uint64_t blocks = sum->touched[w];
        sum->touched[w] = 0;
        for (; blocks != 0; blocks &= blocks - 1) {
            uint32_t begin = (w * 64 + (uint32_t)__builtin_ctzll(blocks)) * HIST_BLOCK;
            for (uint32_t i = begin; i < begin + HIST_BLOCK; i++) {
                uint32_t count = sum->count[i];
                sum->count[i] = 0;
                if (count > 0) {
                    add_at(sum, index_halve(i, from, halvings), count);
                }
            }
        }
    }
}

void hist_sum_add_value(struct hist_sum *sum, double x, uint32_t count)
{
    add_at(sum, index_of(hist_key_halve(hist_key(x), 0, sum->halvings), sum->halvings), count);
}

void hist_sum_add(struct hist_sum *sum, const struct hist *h)
{
    halve(sum, h->halvings);
    for (uint32_t i = 0; i < h->used; i++) {
        int32_t key = hist_key_halve(h->buckets[i].key, h->halvings, sum->halvings);
        add_at(sum, index_of(key, sum->halvings), h->buckets[i].count);
    }
}

/* Reading bytes. `width` is a constant where these are inlined. */

static inline uint32_t load(const uint8_t *at, uint32_t width)
{
    uint32_t count = at[0];
    for (uint32_t i = 1; i < width; i++) {
        count |= (uint32_t)at[i] << 8 * i;
    }
    return count;
}

static inline const uint8_t *read_skip(const uint8_t *at, uint32_t *block)
{
    uint32_t skip = *at++;
    if (skip >= SKIP_SHORT) {
        skip = skip - SKIP_SHORT + ((uint32_t)*at++ << 7);
    }
    *block += skip;
    return at;
}

/* At the sum's own resolution. */
static inline void add_blocks(struct hist_sum *sum, const uint8_t *at, const uint8_t *end,
                              uint32_t width)
{
    for (uint32_t block = 0; at < end; block++) {
        at = read_skip(at, &block);
        uint32_t used = *at++;
        uint32_t *count = &sum->count[block * HIST_BLOCK];
        touch(sum, block);
        if (used == FULL) {
            for (uint32_t i = 0; i < HIST_BLOCK; i++) {
                count[i] = saturating_sum(count[i], load(at + i * width, width));
            }
            at += HIST_BLOCK * width;
            continue;
        }
        for (; used != 0; used &= used - 1, at += width) {
            uint32_t i = (uint32_t)__builtin_ctz(used);
            count[i] = saturating_sum(count[i], load(at, width));
        }
    }
}

/* Of a finer resolution than the sum's. */
static void add_finer(struct hist_sum *sum, const uint8_t *at, const uint8_t *end, uint32_t width,
                      uint32_t halvings)
{
    for (uint32_t block = 0; at < end; block++) {
        at = read_skip(at, &block);
        uint32_t used = *at++;
        for (; used != 0; used &= used - 1, at += width) {
            uint32_t index = block * HIST_BLOCK + (uint32_t)__builtin_ctz(used);
            add_at(sum, index_halve(index, halvings, sum->halvings), load(at, width));
        }
    }
}

static uint32_t halvings_of(const uint8_t *bytes)
{
    return bytes[0] & ((1u << WIDTH_SHIFT) - 1);
}

static uint32_t width_of(const uint8_t *bytes)
{
    return (bytes[0] >> WIDTH_SHIFT) + 1u;
}

void hist_sum_add_bytes(struct hist_sum *sum, const uint8_t *bytes, size_t size)
{
    const uint8_t *at = bytes + 1, *end = bytes + size;
    uint32_t width = width_of(bytes);
    halve(sum, halvings_of(bytes));
    if (sum->halvings != halvings_of(bytes)) {
        add_finer(sum, at, end, width, halvings_of(bytes));
    } else if (width == 1) {
        add_blocks(sum, at, end, 1);
    } else if (width == 2) {
        add_blocks(sum, at, end, 2);
    } else {
        add_blocks(sum, at, end, width);
    }
}

/* Writing */

static uint32_t width_for(uint32_t largest)
{
    return (uint32_t)(39 - __builtin_clz(largest | 1)) / 8;
}

/* What is to be known before the first count is written. */
struct census {
    uint32_t used, largest;
};

static struct census take_census(const struct hist_sum *sum)
{
    struct census census = {0, 0};
    for (uint32_t w = 0; w < HIST_BLOCK_WORDS; w++) {
        for (uint64_t blocks = sum->touched[w]; blocks != 0; blocks &= blocks - 1) {
            uint32_t block = w * 64 + (uint32_t)__builtin_ctzll(blocks);
            const uint32_t *count = &sum->count[block * HIST_BLOCK];
            for (uint32_t i = 0; i < HIST_BLOCK; i++) {
                census.used += count[i] != 0;
                census.largest |= count[i]; /* as wide as the largest */
            }
        }
    }
    return census;
}

static inline uint32_t used_in(const uint32_t *count)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < HIST_BLOCK; i++) {
        used |= (uint32_t)(count[i] != 0) << i;
    }
    return used;
}

/* Writes up to 3 bytes past the end. */
static inline uint8_t *write_block(uint8_t *to, uint32_t *count, uint32_t skip, uint32_t width)
{
    if (skip >= SKIP_SHORT) {
        *to++ = (uint8_t)(skip | SKIP_SHORT);
        skip >>= 7;
    }
    *to++ = (uint8_t)skip;
    uint32_t used = used_in(count);
    *to++ = (uint8_t)used;
    for (; used != 0; used &= used - 1, to += width) {
        uint32_t *next = &count[__builtin_ctz(used)];
        memcpy(to, next, sizeof *next);
        *next = 0;
    }
    return to;
}

size_t hist_sum_write(struct hist_sum *sum, uint32_t limit, uint8_t *bytes)
{
    struct census census = take_census(sum);
    while (census.used > limit && sum->halvings < HIST_HALVINGS_MAX) {
        halve(sum, sum->halvings + 1);
        census = take_census(sum);
    }
    uint32_t width = width_for(census.largest);
    uint8_t *to = bytes;
    *to++ = (uint8_t)(sum->halvings | (width - 1) << WIDTH_SHIFT);
    uint32_t next = 0;
    for (uint32_t w = 0; w < HIST_BLOCK_WORDS; w++) {
        for (uint64_t blocks = sum->touched[w]; blocks != 0; blocks &= blocks - 1) {
            uint32_t block = w * 64 + (uint32_t)__builtin_ctzll(blocks);
            to = write_block(to, &sum->count[block * HIST_BLOCK], block - next, width);
            next = block + 1;
        }
        sum->touched[w] = 0;
    }
    sum->halvings = 0;
    return census.used > 0 ? (size_t)(to - bytes) : 0;
}

void hist_sum_clear(struct hist_sum *sum)
{
    for (uint32_t w = 0; w < HIST_BLOCK_WORDS; w++) {
        for (uint64_t blocks = sum->touched[w]; blocks != 0; blocks &= blocks - 1) {
            uint32_t block = w * 64 + (uint32_t)__builtin_ctzll(blocks);
            memset(&sum->count[block * HIST_BLOCK], 0, HIST_BLOCK * sizeof sum->count[0]);
        }
        sum->touched[w] = 0;
    }
    sum->halvings = 0;
}

size_t hist_bytes_max(uint32_t buckets)
{
    size_t used = buckets < HIST_LIMIT_MIN ? HIST_LIMIT_MIN
                  : buckets < HIST_KEYS    ? buckets
                                           : HIST_KEYS;
    size_t blocks = used < HIST_BLOCKS ? used : HIST_BLOCKS;
    return 1 + 3 * blocks + 4 * used + 3; /* the last 3: see write_block */
}

/* Reading one histogram */

static uint32_t count_used(const uint8_t *bytes, size_t size)
{
    const uint8_t *at = bytes + 1, *end = bytes + size;
    uint32_t total = 0, width = width_of(bytes);
    for (uint32_t block = 0; at < end; block++) {
        at = read_skip(at, &block);
        uint32_t used = (uint32_t)__builtin_popcount(*at++);
        total += used;
        at += used * width;
    }
    return total;
}

int hist_bytes_read(const uint8_t *bytes, size_t size, struct hist *h)
{
    const uint8_t *at = bytes + 1, *end = bytes + size;
    uint32_t n = count_used(bytes, size), width = width_of(bytes);
    if (n > h->capacity) {
        struct bucket *grown = realloc(h->buckets, n * sizeof *grown);
        if (grown == NULL) {
            return ERR_MEMORY;
        }
        h->buckets = grown;
        h->capacity = n;
    }
    h->halvings = halvings_of(bytes);
    h->used = 0;
    int32_t zero = hist_key_max(h->halvings);
    for (uint32_t block = 0; at < end; block++) {
        at = read_skip(at, &block);
        for (uint32_t used = *at++; used != 0; used &= used - 1, at += width) {
            int32_t index = (int32_t)(block * HIST_BLOCK) + __builtin_ctz(used);
            h->buckets[h->used++] = (struct bucket){.key = index - zero, .count = load(at, width)};
        }
    }
    return 0;
}

/* The bytes of one block from *at on, the first of which may be the `block`-th. Returns what
 * follows, or NULL. */
static const uint8_t *check_block(const uint8_t *at, const uint8_t *end, const uint8_t *bytes,
                                  uint32_t *block, struct census *census, uint64_t *total)
{
    if (end - at < 2 || (*at >= SKIP_SHORT && end - at < 3)) {
        return NULL;
    }
    at = read_skip(at, block);
    uint32_t used = *at++, width = width_of(bytes);
    uint32_t largest_index = 2 * (uint32_t)hist_key_max(halvings_of(bytes));
    if (used == 0 || *block * HIST_BLOCK + 31 - (uint32_t)__builtin_clz(used) > largest_index ||
        (size_t)(end - at) < (size_t)__builtin_popcount(used) * width) {
        return NULL;
    }
    for (; used != 0; used &= used - 1, at += width) {
        uint32_t count = load(at, width);
        if (count == 0) {
            return NULL;
        }
        census->used++;
        census->largest |= count;
        *total += count;
    }
    return at;
}

bool hist_bytes_check(const uint8_t *bytes, size_t size, uint32_t *ret_used, uint64_t *ret_total)
{
    struct census census = {0, 0};
    uint64_t total = 0;
    if (size < 2 || bytes[0] >> WIDTH_SHIFT > 3 || halvings_of(bytes) > HIST_HALVINGS_MAX) {
        return false;
    }
    const uint8_t *at = bytes + 1, *end = bytes + size;
    for (uint32_t block = 0; at < end; block++) {
        at = check_block(at, end, bytes, &block, &census, &total);
        if (at == NULL) {
            return false;
        }
    }
    *ret_used = census.used;
    *ret_total = total;
    return width_for(census.largest) == width_of(bytes);
}
