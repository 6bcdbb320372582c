/* SPDX-License-Identifier: MIT */
/* Buckets
 * -------
 * Bounds are 2^(u/32). A positive x has the bound index u when 2^((u-1)/32) < x <= 2^(u/32); with
 * x = f * 2^e, 1 <= f < 2, that is u = 32 e + m for the smallest m with f <= 2^(m/32). e and f are
 * bit fields of x and 2^(m/32) is a table, so the same x has the same key on every machine: merged
 * histograms agree bit for bit, which log() from different libraries would not give. u runs from
 * -1280 (only 2^-40 itself: what is smaller is zero) to 1280; key = u + 1281 is 1..2561, and -key
 * for -x.
 *
 * Halving the resolution joins the buckets u = 2v - 1 and 2v to v = ceil(u / 2): their upper bound
 * is 2^(v/16), and 2^0 is a bound at every resolution. Since ceil(ceil(u / 2) / 2) = ceil(u / 4),
 * it does not matter in how many steps one gets there. Counting u from its smallest value makes it
 * a key again: key = v + 640 + 1.
 *
 * Why limiting gives what the values alone determine
 * --------------------------------------------------
 * Let K(V, s) be the number of buckets that the values V use at resolution s (finer = larger). More
 * values use no fewer buckets, and a finer resolution uses no fewer:
 *
 *     K(V, s) <= K(V + W, s)      K(V, s - 1) <= K(V, s)
 *
 * Let S(V) be the finest s > 2 with K(V, s) <= limit, or 2. A histogram of V, however it came
 * about, is never coarser than S(V): limiting it while it held only a part P of V went to S(P), and
 * S(P) >= S(V) by the first inequality; a merge goes to the coarser one of its two, both parts of
 * V. So the last hist_limit starts no coarser than S(V), and by the second inequality none of the
 * resolutions before S(V) will do: it ends exactly there. The counts are sums over the values, in
 * any order; saturating, they are min(sum, UINT32_MAX), which has no order either.
 *
 * At s = 2 magnitudes up to a cut count as zero, which follows from the largest magnitude alone,
 * and that is never cut. A part's cut is not above the whole's, because its largest magnitude is
 * not: what a part has given up, the whole gives up as well, and the whole does so with what is
 * left.
 *
 * Lists
 * -----
 * The list of used buckets is sorted by key and grows by doubling. A merge first counts the keys
 * that are new, reserves room for them, and then fills from the back in place: it either has its
 * whole effect or, out of memory, none. */
#include "workers/stats/hist.h"
#include "proto/err.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define STEPS          32 /* buckets per power of two */
#define MAGNITUDE_LOG2 40
#define CAPACITY_MIN   8

_Static_assert(HIST_BOUND_MAX == MAGNITUDE_LOG2 * STEPS, "as the header says");

/* 2^(m/32), correctly rounded. */
static const double step_bound[STEPS + 1] = {
    0x1.0000000000000p+0, 0x1.059b0d3158574p+0, 0x1.0b5586cf9890fp+0, 0x1.11301d0125b51p+0,
    0x1.172b83c7d517bp+0, 0x1.1d4873168b9aap+0, 0x1.2387a6e756238p+0, 0x1.29e9df51fdee1p+0,
    0x1.306fe0a31b715p+0, 0x1.371a7373aa9cbp+0, 0x1.3dea64c123422p+0, 0x1.44e086061892dp+0,
    0x1.4bfdad5362a27p+0, 0x1.5342b569d4f82p+0, 0x1.5ab07dd485429p+0, 0x1.6247eb03a5585p+0,
    0x1.6a09e667f3bcdp+0, 0x1.71f75e8ec5f74p+0, 0x1.7a11473eb0187p+0, 0x1.82589994cce13p+0,
    0x1.8ace5422aa0dbp+0, 0x1.93737b0cdc5e5p+0, 0x1.9c49182a3f090p+0, 0x1.a5503b23e255dp+0,
    0x1.ae89f995ad3adp+0, 0x1.b7f76f2fb5e47p+0, 0x1.c199bdd85529cp+0, 0x1.cb720dcef9069p+0,
    0x1.d5818dcfba487p+0, 0x1.dfc97337b9b5fp+0, 0x1.ea4afa2a490dap+0, 0x1.f50765b6e4540p+0,
    0x1.0000000000000p+1,
};

/* The key of 2^-40 <= x < 2^40. */
static int32_t magnitude_key(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int32_t exponent = (int32_t)(bits >> 52) - 1023;
    bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
    double f;
    memcpy(&f, &bits, sizeof f);
    /* 2^y <= 1 + y on [0, 1]: the m sought is never below the first five bits of the fraction. */
    int32_t m = (int32_t)((f - 1) * STEPS);
    while (f > step_bound[m]) {
        m++;
    }
    return (exponent + MAGNITUDE_LOG2) * STEPS + m + 1;
}

int32_t hist_key(double x)
{
    double magnitude = fabs(x);
    if (magnitude < ldexp(1, -MAGNITUDE_LOG2)) {
        return 0;
    }
    int32_t key = magnitude < ldexp(1, MAGNITUDE_LOG2) ? magnitude_key(magnitude) : HIST_KEY_MAX;
    return x < 0 ? -key : key;
}

/* 2^(u/32). */
static double bound_at(int32_t u)
{
    int32_t from_zero = u + MAGNITUDE_LOG2 * STEPS;
    return ldexp(step_bound[from_zero % STEPS], from_zero / STEPS - MAGNITUDE_LOG2);
}

/* ceil(u / 2^halvings) */
static int32_t stats_hist_halve(int32_t u, uint32_t halvings)
{
    return -(-u >> halvings);
}

int32_t hist_key_halve(int32_t key, uint32_t from, uint32_t to)
{
    if (key == 0) {
        return 0;
    }
    int32_t magnitude = key < 0 ? -key : key;
    magnitude = stats_hist_halve(magnitude - 1 - hist_key_offset(from), to - from) +
                hist_key_offset(to) + 1;
    return key < 0 ? -magnitude : magnitude;
}

static int32_t clamp_bound(int64_t u)
{
    return (int32_t)(u < -HIST_BOUND_MAX  ? -HIST_BOUND_MAX
                     : u > HIST_BOUND_MAX ? HIST_BOUND_MAX
                                          : u);
}

/* A bucket that sticks out of [2^-40, 2^40] has values only within. */
double hist_middle(int32_t key, uint32_t halvings)
{
    if (key == 0) {
        return 0;
    }
    int64_t u = (key < 0 ? -key : key) - 1 - hist_key_offset(halvings);
    double lower = bound_at(clamp_bound((u - 1) * (1 << halvings)));
    double middle = sqrt(lower * bound_at(clamp_bound(u * (1 << halvings))));
    return key < 0 ? -middle : middle;
}

/* Position of the first bucket whose key is not below `key`. */
static uint32_t hist_find(const struct hist *h, int32_t key)
{
    uint32_t begin = 0, end = h->used;
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        if (h->buckets[middle].key < key) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

/* Room for `buckets` in all. */
int hist_reserve(struct hist *h, uint32_t buckets)
{
    if (buckets <= h->capacity) {
        return 0;
    }
    uint32_t capacity = h->capacity > 0 ? h->capacity : CAPACITY_MIN;
    while (capacity < buckets) {
        capacity *= 2;
    }
    struct bucket *grown = realloc(h->buckets, capacity * sizeof *grown);
    if (!grown) {
        return ERR_MEMORY;
    }
    h->buckets = grown;
    h->capacity = capacity;
    return 0;
}

int32_t hist_cut(uint32_t halvings, int32_t largest)
{
    return halvings == HIST_HALVINGS_MAX && largest > HIST_SPAN ? largest - HIST_SPAN : 0;
}

/* Gives each bucket the key that `rekey` says, and joins neighbours that then have the same. */
static void rekey_all(struct hist *h, int32_t (*rekey)(int32_t key, const void *data),
                      const void *data)
{
    uint32_t used = 0;
    for (uint32_t i = 0; i < h->used; i++) {
        struct bucket next = {.key = rekey(h->buckets[i].key, data), .count = h->buckets[i].count};
        if (used > 0 && h->buckets[used - 1].key == next.key) {
            h->buckets[used - 1].count =
                hist_saturating_sum(h->buckets[used - 1].count, next.count);
        } else {
            h->buckets[used++] = next;
        }
    }
    h->used = used;
}

static int32_t rekey_cut(int32_t key, const void *cut)
{
    return key <= *(const int32_t *)cut && key >= -*(const int32_t *)cut ? 0 : key;
}

/* After any additions and halvings, values that are too small count as zero. */
static void stats_hist_cut(struct hist *h)
{
    if (h->used > 0 && h->halvings == HIST_HALVINGS_MAX) {
        int32_t lowest = -h->buckets[0].key, highest = h->buckets[h->used - 1].key;
        int32_t key = hist_cut(h->halvings, lowest > highest ? lowest : highest);
        rekey_all(h, rekey_cut, &key);
    }
}

static int32_t rekey_halve(int32_t key, const void *halvings)
{
    const uint32_t *from_to = halvings;
    return hist_key_halve(key, from_to[0], from_to[1]);
}

void hist_halve(struct hist *h, uint32_t halvings)
{
    const uint32_t from_to[2] = {h->halvings, halvings};
    if (h->halvings < halvings) {
        rekey_all(h, rekey_halve, from_to);
        h->halvings = halvings;
        stats_hist_cut(h);
    }
}

int hist_add(struct hist *h, double x)
{
    int32_t key = hist_key_halve(hist_key(x), 0, h->halvings);
    uint32_t at = hist_find(h, key);
    if (at < h->used && h->buckets[at].key == key) {
        h->buckets[at].count = hist_saturating_sum(h->buckets[at].count, 1);
        return 0;
    }
    if (hist_reserve(h, h->used + 1) < 0) {
        return ERR_MEMORY;
    }
    memmove(h->buckets + at + 1, h->buckets + at, (h->used - at) * sizeof *h->buckets);
    h->buckets[at] = (struct bucket){.key = key, .count = 1};
    h->used++;
    stats_hist_cut(h);
    return 0;
}

void hist_limit(struct hist *h, uint32_t buckets)
{
    while (h->used > buckets && h->halvings < HIST_HALVINGS_MAX) {
        hist_halve(h, h->halvings + 1);
    }
}

/* How many keys of list[n] are not in h. */
static uint32_t count_missing(const struct hist *h, const struct bucket *list, uint32_t n)
{
    uint32_t missing = 0, i = 0;
    for (uint32_t j = 0; j < n; j++) {
        while (i < h->used && h->buckets[i].key < list[j].key) {
            i++;
        }
        missing += i == h->used || h->buckets[i].key != list[j].key;
    }
    return missing;
}

/* Merges list[n] of the same resolution. */
static int merge_same(struct hist *into, const struct bucket *list, uint32_t n)
{
    uint32_t total = into->used + count_missing(into, list, n);
    if (hist_reserve(into, total) < 0) {
        return ERR_MEMORY;
    }
    /* From the back: the place written is never before the one read. */
    uint32_t i = into->used, j = n;
    for (uint32_t w = total; j > 0; w--) {
        struct bucket next = list[j - 1];
        if (i > 0 && into->buckets[i - 1].key > next.key) {
            next = into->buckets[--i];
        } else {
            j--;
            if (i > 0 && into->buckets[i - 1].key == next.key) {
                next.count = hist_saturating_sum(next.count, into->buckets[--i].count);
            }
        }
        into->buckets[w - 1] = next;
    }
    into->used = total;
    stats_hist_cut(into);
    return 0;
}

static int hist_copy_list(struct hist *into, const struct bucket *list, uint32_t n,
                          uint32_t halvings)
{
    if (hist_reserve(into, n) < 0) {
        return ERR_MEMORY;
    }
    memcpy(into->buckets, list, n * sizeof *list);
    into->used = n;
    into->halvings = halvings;
    return 0;
}

static int merge_list(struct hist *into, const struct bucket *list, uint32_t n, uint32_t halvings)
{
    if (n == 0) {
        return 0;
    }
    if (into->used == 0) {
        return hist_copy_list(into, list, n, halvings);
    }
    if (halvings < into->halvings) {
        /* Merges list[n] of a finer resolution. */
        struct hist halved = {0};
        int rc = hist_copy_list(&halved, list, n, halvings);
        if (rc == 0) {
            hist_halve(&halved, into->halvings);
            rc = merge_same(into, halved.buckets, halved.used);
        }
        hist_clear(&halved);
        return rc;
    }
    /* With room for everything nothing can fail once the resolution is lowered. */
    if (halvings > into->halvings && hist_reserve(into, into->used + n) < 0) {
        return ERR_MEMORY;
    }
    hist_halve(into, halvings);
    return merge_same(into, list, n);
}

int hist_merge_list(struct hist *into, const struct bucket *list, uint32_t n)
{
    return merge_list(into, list, n, 0);
}

int hist_merge(struct hist *into, const struct hist *from)
{
    return merge_list(into, from->buckets, from->used, from->halvings);
}

uint64_t hist_total(const struct hist *h)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < h->used; i++) {
        total += h->buckets[i].count;
    }
    return total;
}

int32_t hist_key_at(const struct hist *h, uint64_t rank)
{
    uint64_t seen = 0;
    for (uint32_t i = 0; i < h->used; i++) {
        seen += h->buckets[i].count;
        if (seen >= rank) {
            return h->buckets[i].key;
        }
    }
    return h->buckets[h->used - 1].key;
}

void hist_clear(struct hist *h)
{
    free(h->buckets);
    *h = (struct hist){0};
}
