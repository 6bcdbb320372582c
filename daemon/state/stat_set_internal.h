/* SPDX-License-Identifier: MIT */
/* stat_set_internal: the bytes of a stat_set. Private to the files of stat_set, and inline: a merge
 * reads fifty numbers in half a microsecond.
 *
 * A mask of the slots (16 bytes), and then for each slot in it, ascending:
 *
 *     1 byte      flags, below
 *     1,2,4,8     count n
 *     4 or 8      mean, unless n = 0
 *     8           M2, unless all values are the same
 *     8 or 16     min and max, unless all values are the same
 *     0, 4, 8     the newest value
 *     1 or 2      size of the histogram, and the histogram (workers/stats/hist_sum.h), unless all
 * values are the same: its one bucket is then that of the mean
 *
 * Numbers are little-endian, and f32 where that is the same number. Everything is a function of the
 * numbers, so equal statistics have equal bytes. */
#ifndef DAEMON_STATE_STAT_SET_INTERNAL_H
#define DAEMON_STATE_STAT_SET_INTERNAL_H

#include "workers/stats/hist_pair.h"
#include "workers/stats/hist_sum.h"
#include "daemon/state/stat_set.h"

#include <float.h>
#include <math.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers are kept as memory has them");

enum {
    FLAG_SAME = 1, /* all values are the same */
    FLAG_MEAN_F32 = 2,
    FLAG_RANGE_F32 = 4, /* min and max */
    FLAG_LAST = 8,      /* two bits: LAST_* */
    FLAG_COUNT = 32,    /* two bits: log2 of the bytes of n */
    FLAG_LONG = 128,    /* the size of the histogram has two bytes */
};

enum stat_last { LAST_NONE, LAST_IS_MEAN, LAST_F32, LAST_F64 };

/* Without the histogram. */
#define STAT_NUMBERS_MAX (1 + 8 + 8 + 8 + 16 + 8 + 2)

/* Reading */

static inline double stat_load_real(const uint8_t **at, bool f32)
{
    double real;
    float single;
    if (f32) {
        memcpy(&single, *at, sizeof single);
        *at += sizeof single;
        return (double)single;
    }
    memcpy(&real, *at, sizeof real);
    *at += sizeof real;
    return real;
}

static inline uint64_t stat_load_count(const uint8_t **at, uint32_t bytes)
{
    uint64_t n = 0;
    /* Each size of its own: a constant number of bytes is one instruction. */
    if (bytes == 1) {
        n = (*at)[0];
    } else if (bytes == 2) {
        memcpy(&n, *at, 2);
    } else if (bytes == 4) {
        memcpy(&n, *at, 4);
    } else {
        memcpy(&n, *at, 8);
    }
    *at += bytes;
    return n;
}

static inline enum stat_last stat_last_of(uint32_t flags)
{
    return flags / FLAG_LAST & 3;
}

static inline uint32_t stat_count_bytes(uint32_t flags)
{
    return 1u << (flags / FLAG_COUNT & 3);
}

static inline void stat_load_moments(const uint8_t **at, uint32_t flags, struct moments *m)
{
    m->n = stat_load_count(at, stat_count_bytes(flags));
    if (m->n == 0) {
        m->mean = m->m2 = m->min = m->max = 0;
        return;
    }
    m->mean = stat_load_real(at, flags & FLAG_MEAN_F32);
    if (flags & FLAG_SAME) {
        m->m2 = 0;
        m->min = m->max = m->mean;
        return;
    }
    m->m2 = stat_load_real(at, false);
    m->min = stat_load_real(at, flags & FLAG_RANGE_F32);
    m->max = stat_load_real(at, flags & FLAG_RANGE_F32);
}

static inline double stat_load_last(const uint8_t **at, uint32_t flags, double mean)
{
    switch (stat_last_of(flags)) {
    case LAST_IS_MEAN:
        return mean;
    case LAST_F32:
        return stat_load_real(at, true);
    case LAST_F64:
        return stat_load_real(at, false);
    default:
        return NAN;
    }
}

static inline const uint8_t *stat_read_record(const uint8_t *at, bool has_hist,
                                              struct stat_record *stat)
{
    stat->begin = at;
    uint32_t flags = *at++;
    stat_load_moments(&at, flags, &stat->moments);
    stat->last = stat_load_last(&at, flags, stat->moments.mean);
    stat->hist = NULL;
    stat->hist_size = 0;
    if (has_hist && !(flags & FLAG_SAME)) {
        stat->hist_size = *at++;
        if (flags & FLAG_LONG) {
            stat->hist_size |= (uint32_t)*at++ << 8;
        }
        stat->hist = at;
        at += stat->hist_size;
    }
    stat->end = at;
    return at;
}

/* Takes the lowest slot of a mask; STAT_SLOTS when it is empty. */
static inline uint32_t stat_take_slot(struct stat_mask *mask)
{
    for (uint32_t w = 0; w < STAT_WORDS; w++) {
        if (mask->bits[w] != 0) {
            uint32_t slot = w * 64 + (uint32_t)__builtin_ctzll(mask->bits[w]);
            mask->bits[w] &= mask->bits[w] - 1;
            return slot;
        }
    }
    return STAT_SLOTS;
}

/* Writing */

static inline bool stat_same_bits(double a, double b)
{
    return memcmp(&a, &b, sizeof a) == 0;
}

static inline bool stat_is_f32(double x)
{
    return fabs(x) <= (double)FLT_MAX && (double)(float)x == x;
}

static inline void stat_store_real(uint8_t **to, double x, bool f32)
{
    if (f32) {
        float single = (float)x;
        memcpy(*to, &single, sizeof single);
        *to += sizeof single;
    } else {
        memcpy(*to, &x, sizeof x);
        *to += sizeof x;
    }
}

static inline uint32_t stat_flags_of_moments(const struct moments *m)
{
    uint32_t flags = m->n < 1u << 8    ? 0
                     : m->n < 1u << 16 ? FLAG_COUNT
                     : m->n >> 32 == 0 ? 2 * FLAG_COUNT
                                       : 3 * FLAG_COUNT;
    if (stat_same_bits(m->m2, 0) && stat_same_bits(m->min, m->mean) &&
        stat_same_bits(m->max, m->mean)) {
        flags |= FLAG_SAME;
    }
    if (stat_is_f32(m->mean)) {
        flags |= FLAG_MEAN_F32;
    }
    if (stat_is_f32(m->min) && stat_is_f32(m->max)) {
        flags |= FLAG_RANGE_F32;
    }
    return flags;
}

static inline uint32_t stat_flags_of_last(double last, const struct moments *m)
{
    return FLAG_LAST * (isnan(last)                                 ? LAST_NONE
                        : m->n > 0 && stat_same_bits(last, m->mean) ? LAST_IS_MEAN
                        : stat_is_f32(last)                         ? LAST_F32
                                                                    : LAST_F64);
}

static inline uint8_t *stat_write_numbers(uint8_t *to, uint32_t flags, const struct moments *m,
                                          double last)
{
    *to++ = (uint8_t)flags;
    memcpy(to, &m->n, sizeof m->n);
    to += stat_count_bytes(flags);
    if (m->n > 0) {
        stat_store_real(&to, m->mean, flags & FLAG_MEAN_F32);
    }
    if (m->n > 0 && !(flags & FLAG_SAME)) {
        stat_store_real(&to, m->m2, false);
        stat_store_real(&to, m->min, flags & FLAG_RANGE_F32);
        stat_store_real(&to, m->max, flags & FLAG_RANGE_F32);
    }
    if (stat_last_of(flags) >= LAST_F32) {
        stat_store_real(&to, last, stat_last_of(flags) == LAST_F32);
    }
    return to;
}

/* A histogram that is there as bytes, or is in a sum, which is left empty. */
struct stat_hist_source {
    const uint8_t *bytes;
    uint32_t size;
    struct hist_sum *sum; /* when bytes is NULL; NULL: the number has no histogram */
    uint32_t limit;
};

/* The size comes first, so the histogram is written where it will be when that takes one byte, and
 * moved when it takes two. */
static inline uint8_t *stat_write_hist(uint8_t *to, const struct stat_hist_source *hist,
                                       uint8_t *flags)
{
    uint32_t size = hist->size;
    if (hist->bytes) {
        memcpy(to + 1, hist->bytes, size);
    } else {
        size = (uint32_t)hist_sum_write(hist->sum, hist->limit, to + 1);
    }
    if (size > UINT8_MAX) {
        memmove(to + 2, to + 1, size);
        to[1] = (uint8_t)(size >> 8);
        *flags |= FLAG_LONG;
    }
    to[0] = (uint8_t)size;
    return to + (size > UINT8_MAX ? 2 : 1) + size;
}

static inline uint8_t *stat_write(uint8_t *to, const struct moments *m, double last,
                                  const struct stat_hist_source *hist)
{
    uint8_t *begin = to;
    uint32_t flags = stat_flags_of_moments(m);
    flags |= stat_flags_of_last(last, m);
    to = stat_write_numbers(to, flags, m, last);
    bool has_hist = hist->bytes || hist->sum;
    if (has_hist && !(flags & FLAG_SAME)) {
        to = stat_write_hist(to, hist, begin);
    } else if (has_hist && !hist->bytes) {
        hist_sum_clear(hist->sum);
    }
    return to;
}

static inline uint32_t stat_saturated(uint64_t n)
{
    return n < UINT32_MAX ? (uint32_t)n : UINT32_MAX;
}

/* Adds a number's histogram; it may have none. */
static inline void stat_add_hist(struct hist_sum *sum, const struct stat_record *stat)
{
    if (stat->hist) {
        hist_sum_add_bytes(sum, stat->hist, stat->hist_size);
    } else if (stat->moments.n > 0) {
        hist_sum_add_value(sum, stat->moments.mean, stat_saturated(stat->moments.n));
    }
}

/* Most bytes of a set whose histograms have at most `buckets`. */
static inline size_t stat_set_size_max(uint32_t buckets)
{
    return sizeof(struct stat_mask) + STAT_SLOTS * STAT_NUMBERS_MAX +
           STAT_HISTS * hist_bytes_max(buckets);
}

/* Takes what was written to bytes[], up to `to`: room for the mask, and the numbers that it says.
 */
static inline int stat_set_store(struct stat_set *set, uint8_t *bytes, const struct stat_mask *mask,
                                 const uint8_t *to)
{
    size_t size = (size_t)(to - bytes);
    memcpy(bytes, mask, sizeof *mask);
    return stat_set_assign(set, bytes, size > sizeof *mask ? (uint32_t)size : 0);
}

#endif
