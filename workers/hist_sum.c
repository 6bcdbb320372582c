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
 * few vector instructions. Keys are counted from the lowest one of the resolution.
 *
 * The sum
 * -------
 * There are counters for every resolution, and what is added is added at its own: no key is
 * converted until all are added up, and then each key once. */
#include "hist_sum.h"
#include "err.h"

#include <stdlib.h>
#include <string.h>

#define FULL        0xffu
#define BLOCKS_MAX  ((HIST_KEYS + HIST_BLOCK - 1) / HIST_BLOCK) /* of a histogram */
#define SKIP_SHORT  0x80u
#define WIDTH_SHIFT 4

/* Where the counters of a resolution are. */
static const struct range {
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

static uint32_t saturating_sum(uint32_t a, uint32_t b)
{
    uint32_t sum = a + b;
    return sum | (0u - (sum < a));
}

static void add_at(struct hist_sum *sum, uint32_t halvings, uint32_t index, uint32_t count)
{
    uint32_t *at = counters(sum, halvings) + index;
    touch(sum, halvings, index / HIST_BLOCK);
    *at = saturating_sum(*at, count);
}

void hist_sum_add_value(struct hist_sum *sum, double x, uint32_t count)
{
    sum->resolutions |= 1;
    add_at(sum, 0, (uint32_t)(hist_key(x) + HIST_KEY_MAX), count);
}

/* hist_key_halve, from keys to indices, with all that does not depend on the key worked out before.
 */
struct halving {
    int32_t zero_from, zero_to; /* index of key 0 */
    int32_t before, shift, after;
};

static struct halving halving_between(uint32_t from, uint32_t to)
{
    uint32_t shift = to - from;
    return (struct halving){.zero_from = hist_key_max(from),
                            .zero_to = hist_key_max(to),
                            .before = (1 << shift) - 2 - hist_key_offset(from),
                            .shift = (int32_t)shift,
                            .after = hist_key_offset(to) + 1};
}

static inline uint32_t halve_key(const struct halving *h, int32_t key)
{
    int32_t magnitude = key < 0 ? -key : key;
    int32_t halved = ((magnitude + h->before) >> h->shift) + h->after;
    return (uint32_t)(h->zero_to + (key > 0 ? halved : key < 0 ? -halved : 0));
}

static uint32_t lowest_resolution(const struct hist_sum *sum)
{
    return 31 - (uint32_t)__builtin_clz(sum->resolutions | 1);
}

/* Neighbours that fall into one bucket are added up before they are added to it. */
void hist_sum_add(struct hist_sum *sum, const struct hist *h)
{
    uint32_t lowest = lowest_resolution(sum), to = lowest > h->halvings ? lowest : h->halvings;
    struct halving halving = halving_between(h->halvings, to);
    for (uint32_t i = 0; i < h->used;) {
        uint32_t index = halve_key(&halving, h->buckets[i].key), count = h->buckets[i].count;
        for (i++; i < h->used && halve_key(&halving, h->buckets[i].key) == index; i++) {
            count = saturating_sum(count, h->buckets[i].count);
        }
        add_at(sum, to, index, count);
    }
    sum->resolutions |= h->used > 0 ? 1u << to : 0;
}

/* The touched blocks of a resolution, one after the other; they are forgotten on the way. */
struct blocks {
    uint64_t *word, *end;
    uint32_t block; /* of the word's first */
};

static struct blocks all_blocks(struct hist_sum *sum, uint32_t halvings)
{
    uint64_t *word = &sum->touched[ranges[halvings].word];
    return (struct blocks){.word = word, .end = word + ranges[halvings].words};
}

static inline bool next_block(struct blocks *blocks, uint32_t *ret_block)
{
    while (*blocks->word == 0) {
        blocks->word++;
        blocks->block += 64;
        if (blocks->word == blocks->end) {
            return false;
        }
    }
    *ret_block = blocks->block + (uint32_t)__builtin_ctzll(*blocks->word);
    *blocks->word &= *blocks->word - 1;
    return true;
}

/* Moves all counts of one resolution to another. */
static void move(struct hist_sum *sum, uint32_t from, uint32_t to)
{
    struct halving halving = halving_between(from, to);
    struct blocks blocks = all_blocks(sum, from);
    uint32_t *count = counters(sum, from), block;
    while (next_block(&blocks, &block)) {
        for (uint32_t i = block * HIST_BLOCK; i < (block + 1) * HIST_BLOCK; i++) {
            if (count[i] > 0) {
                add_at(sum, to, halve_key(&halving, (int32_t)i - halving.zero_from), count[i]);
                count[i] = 0;
            }
        }
    }
    sum->resolutions = (sum->resolutions & ~(1u << from)) | 1u << to;
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

static inline void add_blocks(struct hist_sum *sum, const uint8_t *at, const uint8_t *end,
                              uint32_t width, uint32_t halvings)
{
    uint32_t *counter = counters(sum, halvings);
    for (uint32_t block = 0; at < end; block++) {
        at = read_skip(at, &block);
        uint32_t used = *at++;
        uint32_t *count = counter + block * HIST_BLOCK;
        touch(sum, halvings, block);
        if (used == FULL) {
            uint32_t next[HIST_BLOCK]; /* first all loads, so that the compiler takes 8 at once */
            for (uint32_t i = 0; i < HIST_BLOCK; i++) {
                next[i] = load(at + i * width, width);
            }
            for (uint32_t i = 0; i < HIST_BLOCK; i++) {
                count[i] = saturating_sum(count[i], next[i]);
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
    uint32_t width = width_of(bytes), halvings = halvings_of(bytes);
    sum->resolutions |= 1u << halvings;
    if (width == 1) {
        add_blocks(sum, at, end, 1, halvings);
    } else if (width == 2) {
        add_blocks(sum, at, end, 2, halvings);
    } else {
        add_blocks(sum, at, end, width, halvings);
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

static struct census take_census(struct hist_sum *sum, uint32_t halvings)
{
    struct census census = {0, 0};
    const struct range *range = &ranges[halvings];
    const uint32_t *counter = counters(sum, halvings);
    for (uint32_t w = 0; w < range->words; w++) {
        for (uint64_t left = sum->touched[range->word + w]; left != 0; left &= left - 1) {
            uint32_t block = w * 64 + (uint32_t)__builtin_ctzll(left);
            for (uint32_t i = block * HIST_BLOCK; i < (block + 1) * HIST_BLOCK; i++) {
                census.used += counter[i] != 0;
                census.largest |= counter[i]; /* as wide as the largest */
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

static int32_t magnitude_of(uint32_t index)
{
    int32_t key = (int32_t)index - hist_key_max(HIST_HALVINGS_MAX);
    return key < 0 ? -key : key;
}

static int32_t largest_magnitude(struct hist_sum *sum)
{
    const uint32_t *count = counters(sum, HIST_HALVINGS_MAX);
    int32_t largest = 0;
    for (uint32_t i = 0; i <= 2 * (uint32_t)hist_key_max(HIST_HALVINGS_MAX); i++) {
        if (count[i] > 0 && magnitude_of(i) > largest) {
            largest = magnitude_of(i);
        }
    }
    return largest;
}

/* At the lowest resolution: what is too small counts as zero. */
static void cut(struct hist_sum *sum)
{
    int32_t key = hist_cut(HIST_HALVINGS_MAX, largest_magnitude(sum));
    uint32_t zero = (uint32_t)hist_key_max(HIST_HALVINGS_MAX);
    uint32_t *count = counters(sum, HIST_HALVINGS_MAX), small = 0;
    for (uint32_t i = zero - (uint32_t)key; i <= zero + (uint32_t)key; i++) {
        small = saturating_sum(small, count[i]);
        count[i] = 0;
    }
    for (uint32_t i = (zero - (uint32_t)key) / HIST_BLOCK; i <= (zero + (uint32_t)key) / HIST_BLOCK;
         i++) {
        if (used_in(&count[i * HIST_BLOCK]) == 0) {
            sum->touched[ranges[HIST_HALVINGS_MAX].word + i / 64] &= ~(1ull << i % 64);
        }
    }
    if (small > 0) {
        add_at(sum, HIST_HALVINGS_MAX, zero, small);
    }
}

/* Brings everything to the lowest resolution in use, and further until it fits. Returns that one.
 */
static uint32_t settle(struct hist_sum *sum, uint32_t limit, struct census *ret_census)
{
    uint32_t halvings = lowest_resolution(sum);
    for (uint32_t from = 0; from < halvings; from++) {
        if (sum->resolutions >> from & 1) {
            move(sum, from, halvings);
        }
    }
    *ret_census = take_census(sum, halvings);
    while (ret_census->used > limit && halvings < HIST_HALVINGS_MAX) {
        move(sum, halvings, halvings + 1);
        *ret_census = take_census(sum, ++halvings);
    }
    if (halvings == HIST_HALVINGS_MAX) {
        cut(sum);
        *ret_census = take_census(sum, halvings);
    }
    return halvings;
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
    struct census census;
    uint32_t halvings = settle(sum, limit, &census), width = width_for(census.largest);
    struct blocks blocks = all_blocks(sum, halvings);
    uint8_t *to = bytes;
    *to++ = (uint8_t)(halvings | (width - 1) << WIDTH_SHIFT);
    for (uint32_t next = 0, block; next_block(&blocks, &block); next = block + 1) {
        to = write_block(to, counters(sum, halvings) + block * HIST_BLOCK, block - next, width);
    }
    sum->resolutions = 0;
    return census.used > 0 ? (size_t)(to - bytes) : 0;
}

void hist_sum_clear(struct hist_sum *sum)
{
    for (uint32_t halvings = 0; sum->resolutions != 0; halvings++, sum->resolutions >>= 1) {
        struct blocks blocks = all_blocks(sum, halvings);
        uint32_t block;
        while ((sum->resolutions & 1) && next_block(&blocks, &block)) {
            memset(counters(sum, halvings) + block * HIST_BLOCK, 0,
                   HIST_BLOCK * sizeof sum->count[0]);
        }
    }
}

size_t hist_bytes_max(uint32_t buckets)
{
    size_t used = buckets < HIST_LIMIT_MIN ? HIST_LIMIT_MIN
                  : buckets < HIST_KEYS    ? buckets
                                           : HIST_KEYS;
    size_t blocks = used < BLOCKS_MAX ? used : BLOCKS_MAX;
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
