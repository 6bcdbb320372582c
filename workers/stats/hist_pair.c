/* SPDX-License-Identifier: MIT */
#include "workers/stats/hist_pair.h"

#include <stdlib.h>
#include <string.h>

/* Adds a block's counts. `width` is a constant where this is inlined. Bits of `used` do not decide
 * where the code goes: nobody could guess them. */
static inline void pair_add_width(uint32_t *count, const struct hist_block *block, uint32_t width)
{
    uint32_t next[HIST_BLOCK], at = 0;
    for (uint32_t i = 0; i < HIST_BLOCK && block->used == HIST_BLOCK_FULL; i++) {
        next[i] = hist_block_count(block->counts + i * width, width);
    }
    for (uint32_t i = 0; i < HIST_BLOCK && block->used != HIST_BLOCK_FULL; i++) {
        uint32_t mask = 0u - (block->used >> i & 1);
        next[i] = mask & hist_block_count(block->counts + (at & mask), width);
        at += mask & width;
    }
    for (uint32_t i = 0; i < HIST_BLOCK; i++) {
        count[i] = hist_saturating_sum(count[i], next[i]);
    }
}

static inline void pair_add_block(uint32_t *count, const struct hist_block *block)
{
    if (block->width == 1) {
        pair_add_width(count, block, 1);
    } else if (block->width == 2) {
        pair_add_width(count, block, 2);
    } else {
        pair_add_width(count, block, block->width);
    }
}

/* Writing key by key, ascending */

struct hist_pair_writer {
    uint8_t *to;
    uint32_t next;  /* block after the last one written */
    uint32_t block; /* being filled */
    uint32_t used;  /* of its keys; the others' counts are 0 */
    uint32_t count[HIST_BLOCK];
};

static void pair_flush(struct hist_pair_writer *writer)
{
    if (writer->used == 0) {
        return;
    }
    writer->to =
        hist_block_put(writer->to, writer->block - writer->next, writer->used, writer->count);
    writer->next = writer->block + 1;
    writer->used = 0;
    memset(writer->count, 0, sizeof writer->count);
}

static inline void pair_put(struct hist_pair_writer *writer, uint32_t index, uint32_t count)
{
    uint32_t block = index / HIST_BLOCK, at = index % HIST_BLOCK;
    if (block != writer->block) {
        pair_flush(writer);
        writer->block = block;
    }
    writer->count[at] = hist_saturating_sum(writer->count[at], count);
    writer->used |= 1u << at;
}

static struct hist_pair_writer pair_begin(uint8_t *to, uint32_t halvings)
{
    *to = (uint8_t)halvings;
    return (struct hist_pair_writer){.to = to + 1};
}

static struct hist_span pair_end(struct hist_pair_writer *writer, const uint8_t *bytes)
{
    pair_flush(writer);
    return (struct hist_span){bytes, (uint32_t)(writer->to - bytes)};
}

struct hist_span hist_pair_single(struct hist_pair *pair, int side, double x, uint32_t count,
                                  uint32_t halvings)
{
    struct hist_pair_writer writer = pair_begin(pair->single[side], halvings);
    int32_t key = hist_key_halve(hist_key(x), 0, halvings);
    pair_put(&writer, (uint32_t)(key + hist_key_max(halvings)), count);
    return pair_end(&writer, pair->single[side]);
}

/* Lower resolutions */

/* The histogram after `halvings` halvings in all, at to[]. Keys keep their order. */
static struct hist_span pair_halve(struct hist_span span, uint32_t halvings, uint8_t *to)
{
    struct hist_halving halving = hist_halving_between(span.bytes[0], halvings);
    struct hist_pair_writer writer = pair_begin(to, halvings);
    const uint8_t *at = span.bytes + 1, *end = span.bytes + span.size;
    for (struct hist_block block = {0}; at < end; at = hist_block_end(&block), block.index++) {
        uint32_t count[HIST_BLOCK] = {0};
        hist_block_read(at, &block);
        pair_add_block(count, &block);
        for (uint32_t used = block.used; used != 0; used &= used - 1) {
            uint32_t i = (uint32_t)__builtin_ctz(used);
            int32_t key = (int32_t)(block.index * HIST_BLOCK + i) - halving.zero_from;
            pair_put(&writer, hist_halve_key(&halving, key), count[i]);
        }
    }
    return pair_end(&writer, to);
}

/* At the lowest resolution values that are too small count as zero. */

static int32_t pair_nearest_of_block(uint32_t used, int32_t first, int32_t nearest)
{
    for (; used != 0; used &= used - 1) {
        int32_t magnitude = abs(first + __builtin_ctz(used));
        nearest = magnitude > 0 && magnitude < nearest ? magnitude : nearest;
    }
    return nearest;
}

/* The least magnitude other than zero, INT32_MAX when there is none, and the largest. */
static void pair_magnitudes(struct hist_span span, int32_t *ret_nearest, int32_t *ret_farthest)
{
    const uint8_t *at = span.bytes + 1, *end = span.bytes + span.size;
    int32_t middle = hist_key_max(HIST_HALVINGS_MAX), nearest = INT32_MAX, farthest = 0;
    for (struct hist_block block = {0}; at < end; at = hist_block_end(&block), block.index++) {
        hist_block_read(at, &block);
        int32_t first = (int32_t)(block.index * HIST_BLOCK) - middle;
        int32_t low = abs(first + __builtin_ctz(block.used)),
                high = abs(first + 31 - __builtin_clz(block.used));
        farthest = low > farthest ? low : farthest;
        farthest = high > farthest ? high : farthest;
        if (first + HIST_BLOCK > -nearest && first < nearest) {
            nearest = pair_nearest_of_block(block.used, first, nearest);
        }
    }
    *ret_nearest = nearest;
    *ret_farthest = farthest;
}

static struct hist_span pair_cut(struct hist_span span, uint8_t *to)
{
    int32_t nearest, farthest;
    pair_magnitudes(span, &nearest, &farthest);
    int32_t cut = hist_cut(HIST_HALVINGS_MAX, farthest);
    if (nearest > cut) {
        return span;
    }
    struct hist_pair_writer writer = pair_begin(to, HIST_HALVINGS_MAX);
    const uint8_t *at = span.bytes + 1, *end = span.bytes + span.size;
    int32_t middle = hist_key_max(HIST_HALVINGS_MAX);
    for (struct hist_block block = {0}; at < end; block.index++) {
        hist_block_read(at, &block);
        int32_t first = (int32_t)(block.index * HIST_BLOCK) - middle;
        at = block.counts;
        for (uint32_t used = block.used; used != 0; used &= used - 1, at += block.width) {
            int32_t key = first + __builtin_ctz(used);
            key = abs(key) <= cut ? 0 : key;
            pair_put(&writer, (uint32_t)(key + middle), hist_block_count(at, block.width));
        }
    }
    return pair_end(&writer, to);
}

/* Sums */

struct hist_pair_reader {
    const uint8_t *at, *end; /* what follows the block */
    struct hist_block block; /* index UINT32_MAX: there are no more */
};

static inline void pair_next(struct hist_pair_reader *reader)
{
    if (reader->at == reader->end) {
        reader->block.index = UINT32_MAX;
        return;
    }
    reader->block.index++;
    hist_block_read(reader->at, &reader->block);
    reader->at = hist_block_end(&reader->block);
}

static struct hist_pair_reader pair_read(struct hist_span span)
{
    struct hist_pair_reader reader = {.block = {.index = UINT32_MAX}}; /* before 0 */
    if (span.size > 0) {
        reader.at = span.bytes + 1;
        reader.end = span.bytes + span.size;
    }
    pair_next(&reader);
    return reader;
}

/* Writes the blocks before `end` as they are: after the head of the first one, the very bytes.
 * *next: the block after the last one written. */
static inline uint8_t *pair_copy(uint8_t *to, struct hist_pair_reader *reader, uint32_t end,
                                 uint32_t *next, uint32_t *used)
{
    const uint8_t *from = reader->block.counts, *at = from;
    to = hist_block_write(to, reader->block.index - *next, reader->block.used, reader->block.width);
    while (reader->block.index < end) {
        *used += hist_block_keys(reader->block.used);
        *next = reader->block.index + 1;
        at = reader->at;
        pair_next(reader);
    }
    memcpy(to, from, (size_t)(at - from));
    return to + (at - from);
}

/* Two of one resolution; either may be empty. */
static struct hist_span pair_merge(struct hist_span a, struct hist_span b, uint32_t halvings,
                                   uint8_t *bytes, uint32_t *ret_used)
{
    struct hist_pair_reader left = pair_read(a), right = pair_read(b);
    uint8_t *to = bytes;
    uint32_t next = 0, used = 0;
    *to++ = (uint8_t)halvings;
    for (;;) {
        uint32_t i = left.block.index, k = right.block.index;
        if (i < k) {
            to = pair_copy(to, &left, k, &next, &used);
        } else if (k < i) {
            to = pair_copy(to, &right, i, &next, &used);
        } else if (i == UINT32_MAX) {
            break;
        } else {
            uint32_t skipped = i - next;
            uint32_t count[HIST_BLOCK] = {0};
            pair_add_block(count, &left.block);
            pair_add_block(count, &right.block);
            to = hist_block_put(to, skipped, left.block.used | right.block.used, count);
            used += hist_block_keys(left.block.used | right.block.used);
            next = i + 1;
            pair_next(&left);
            pair_next(&right);
        }
    }
    *ret_used = used;
    return (struct hist_span){bytes, (uint32_t)(to - bytes)};
}

struct hist_span hist_pair_sum(struct hist_pair *pair, struct hist_span a, struct hist_span b,
                               uint32_t limit)
{
    uint32_t low = a.size > 0 ? a.bytes[0] : 0, used;
    uint32_t halvings = b.size > 0 && b.bytes[0] > low ? b.bytes[0] : low;
    if (a.size + b.size == 0) {
        return (struct hist_span){NULL, 0};
    }
    if (a.size > 0 && low < halvings) {
        a = pair_halve(a, halvings, pair->room[0]);
    }
    if (b.size > 0 && b.bytes[0] < halvings) {
        b = pair_halve(b, halvings, pair->room[1]);
    }
    struct hist_span sum = pair_merge(a, b, halvings, pair->room[2], &used);
    for (uint32_t side = 0; used > limit && halvings < HIST_HALVINGS_MAX; side ^= 1) {
        sum = pair_halve(sum, ++halvings, pair->room[side]);
        used = hist_bytes_used(sum.bytes, sum.size);
    }
    if (halvings < HIST_HALVINGS_MAX) {
        return sum;
    }
    return pair_cut(sum, sum.bytes == pair->room[0] ? pair->room[1] : pair->room[0]);
}
