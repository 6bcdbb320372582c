/* SPDX-License-Identifier: MIT */
/* hist: a logarithmic histogram whose resolution follows the values.
 *
 * At full resolution the buckets are (2^(k/32), 2^((k+1)/32)] on either side of zero, and one for
 * zero; hist_limit halves the resolution while too many are used: base 2^(2^-s), s = 5 - halvings,
 * as the exponential histograms of OpenTelemetry have it. At the lowest, s = 2 (a value is known
 * to 9 %), what is smaller than about 2^-11.5 of the largest magnitude counts as zero: wider
 * buckets would blur what people look at for the sake of digits that mean nothing. |x| < 2^-40
 * counts as zero, |x| > 2^40 as 2^40. The index comes from the exponent and a table, not from
 * log(), and is exact at the bounds.
 *
 * Mergeable: any split of the values, merged and limited in any order, ends in the same histogram,
 * bit for bit. Not locked: one owner at a time. */
#ifndef WORKERS_STATS_HIST_H
#define WORKERS_STATS_HIST_H

#include <stddef.h>
#include <stdint.h>

#define HIST_BOUND_MAX 1280 /* bounds are 2^(u/32), -1280 <= u <= 1280 */
#define HIST_KEY_MAX   (2 * HIST_BOUND_MAX + 1)
#define HIST_KEYS      (2 * HIST_KEY_MAX + 1)
#define HIST_KEYS_PAD  16 /* places past the last that may be touched */

/* At the lowest resolution the buckets of HIST_SPAN magnitudes up to the largest one are
 * told from zero, so that at most HIST_LIMIT_MIN are used whatever the values are; without negative
 * ones 48. */
#define HIST_HALVINGS_MAX 3
#define HIST_SPAN         47
#define HIST_LIMIT_MIN    (2 * HIST_SPAN + 1)

struct bucket {
    int32_t key;    /* monotone in x; 0 is the zero bucket, negative keys are negative values */
    uint32_t count; /* saturates */
};

/* A zeroed struct is empty. */
struct hist {
    struct bucket *buckets; /* sorted by key; owned; 8 bytes each */
    uint32_t used, capacity;
    uint32_t halvings; /* of the resolution */
};

/* Room for `buckets` buckets. Returns 0 or ERR_MEMORY, then without effect. */
int hist_reserve(struct hist *h, uint32_t buckets);
/* x must be finite. Return 0 or ERR_MEMORY, then without effect. */
int hist_add(struct hist *h, double x);
int hist_merge(struct hist *into, const struct hist *from);
/* Adds a list sorted by key, at full resolution. */
int hist_merge_list(struct hist *into, const struct bucket *list, uint32_t n);
/* Halves the resolution so often, in all (at most HIST_HALVINGS_MAX); without effect when that is
 * done already. */
void hist_halve(struct hist *h, uint32_t halvings);
/* Halves the resolution until at most `buckets` are used. */
void hist_limit(struct hist *h, uint32_t buckets);
void hist_clear(struct hist *h);

/* The range that counts as zero at a resolution, where the largest magnitude has this key:
 * magnitudes up to the key that is returned. */
int32_t hist_cut(uint32_t halvings, int32_t largest);

/* min(a + b, UINT32_MAX) of two counts; without a branch, so that loops over it become vectors. */
static inline uint32_t hist_saturating_sum(uint32_t a, uint32_t b)
{
    uint32_t sum = a + b;
    return sum | (0u - (sum < a));
}

/* Sum of all counts. */
uint64_t hist_total(const struct hist *h);
/* The key at a rank counted from 1; there must be a bucket. */
int32_t hist_key_at(const struct hist *h, uint64_t rank);

/* The key of a value. */
int32_t hist_key(double x);
/* The offset of the keys of positive values after this number of halvings: key = u + offset + 1. */
static inline int32_t hist_key_offset(uint32_t halvings)
{
    return HIST_BOUND_MAX >> halvings;
}

/* The largest key after this number of halvings. */
static inline int32_t hist_key_max(uint32_t halvings)
{
    return -(-HIST_BOUND_MAX >> halvings) + hist_key_offset(halvings) + 1;
}

/* The key at a lower resolution, from <= to. */
int32_t hist_key_halve(int32_t key, uint32_t from, uint32_t to);
/* The middle (geometric) of a bucket of a histogram after this number of halvings. */
double hist_middle(int32_t key, uint32_t halvings);

#endif
