/* SPDX-License-Identifier: MIT */
/* dist: moments and a logarithmic histogram.
 *
 * Moments
 * -------
 * One value at a time by Welford (1962); two sets by the pairwise update of Chan, Golub and LeVeque
 * (1983). Both keep the sum of squared deviations itself, never a difference of two large sums.
 *
 * Buckets
 * -------
 * Bounds are 2^(u/32). A positive x has the bound index u when 2^((u-1)/32) < x <= 2^(u/32); with
 * x = f * 2^e, 1 <= f < 2, that is u = 32 e + m for the smallest m with f <= 2^(m/32). e and f are
 * bit fields of x and 2^(m/32) is a table, so the same x has the same key on every machine: merged
 * histograms agree bit for bit, which log() from different libraries would not give. u runs from
 * -1280 (only 2^-40 itself: what is smaller is zero) to 1280; key = u + 1281 is 1..2561, and -key
 * for -x.
 *
 * The list of used buckets is sorted by key and grows by doubling. A merge first counts the keys
 * that are new, reserves room for them, and then fills from the back in place: it either has its
 * whole effect or, out of memory, none. */
#include "dist.h"
#include "err.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define STEPS          32 /* buckets per power of two */
#define MAGNITUDE_LOG2 40
#define CAPACITY_MIN   8

_Static_assert(HIST_KEY_MAX == 2 * MAGNITUDE_LOG2 * STEPS + 1, "as the header says");

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

void moments_add(struct moments *m, double x)
{
    if (m->n == 0) {
        *m = (struct moments){.n = 1, .mean = x, .min = x, .max = x};
        return;
    }
    m->n++;
    double delta = x - m->mean;
    m->mean += delta / (double)m->n;
    m->m2 += delta * (x - m->mean);
    m->min = x < m->min ? x : m->min;
    m->max = x > m->max ? x : m->max;
}

void moments_merge(struct moments *into, const struct moments *from)
{
    if (from->n == 0) {
        return;
    }
    if (into->n == 0) {
        *into = *from;
        return;
    }
    double n = (double)(into->n + from->n);
    double share = (double)from->n / n;
    double delta = from->mean - into->mean;
    into->m2 += from->m2 + delta * delta * (double)into->n * share;
    into->mean += delta * share;
    into->n += from->n;
    into->min = from->min < into->min ? from->min : into->min;
    into->max = from->max > into->max ? from->max : into->max;
}

double moments_variance(const struct moments *m)
{
    return m->n >= 2 ? m->m2 / (double)(m->n - 1) : NAN;
}

double moments_std(const struct moments *m)
{
    return sqrt(moments_variance(m));
}

double moments_mean(const struct moments *m)
{
    return m->n > 0 ? m->mean : NAN;
}

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

/* The bound that a positive key includes; of 0, the one that zero's bucket excludes. */
static double magnitude_bound(int32_t key)
{
    int32_t u = key < 1 ? 0 : (key > HIST_KEY_MAX ? HIST_KEY_MAX : key) - 1;
    return ldexp(step_bound[u % STEPS], u / STEPS - MAGNITUDE_LOG2);
}

double hist_key_middle(int32_t key)
{
    if (key == 0) {
        return 0;
    }
    int32_t magnitude = key < 0 ? -key : key;
    double lower = magnitude > 1 ? magnitude_bound(magnitude - 1) : magnitude_bound(1);
    double middle = sqrt(lower * magnitude_bound(magnitude));
    return key < 0 ? -middle : middle;
}

double hist_key_bound(int32_t key)
{
    if (key > 0) {
        return magnitude_bound(key);
    }
    if (key == 0) {
        return nextafter(magnitude_bound(0), 0);
    }
    /* Of a negative bucket the largest x is the one next to the bound that its mirror image
     * excludes. */
    return key == -1 ? -magnitude_bound(0) : nextafter(-magnitude_bound(-key - 1), -INFINITY);
}

/* Position of the first bucket whose key is not below `key`. */
static uint32_t find(const struct hist *h, int32_t key)
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
static int reserve(struct hist *h, uint32_t buckets)
{
    if (buckets <= h->capacity) {
        return 0;
    }
    uint32_t capacity = h->capacity > 0 ? h->capacity : CAPACITY_MIN;
    while (capacity < buckets) {
        capacity *= 2;
    }
    struct bucket *grown = realloc(h->buckets, capacity * sizeof *grown);
    if (grown == NULL) {
        return ERR_MEMORY;
    }
    h->buckets = grown;
    h->capacity = capacity;
    return 0;
}

static uint32_t saturating_sum(uint32_t a, uint32_t b)
{
    return a > UINT32_MAX - b ? UINT32_MAX : a + b;
}

int hist_add(struct hist *h, double x)
{
    int32_t key = hist_key(x);
    uint32_t at = find(h, key);
    if (at < h->used && h->buckets[at].key == key) {
        h->buckets[at].count = saturating_sum(h->buckets[at].count, 1);
        return 0;
    }
    if (reserve(h, h->used + 1) < 0) {
        return ERR_MEMORY;
    }
    memmove(h->buckets + at + 1, h->buckets + at, (h->used - at) * sizeof *h->buckets);
    h->buckets[at] = (struct bucket){.key = key, .count = 1};
    h->used++;
    return 0;
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

/* Merges list[n], sorted by key. */
static int merge_list(struct hist *into, const struct bucket *list, uint32_t n)
{
    if (into->used == 0 && n > 0) {
        if (reserve(into, n) < 0) {
            return ERR_MEMORY;
        }
        memcpy(into->buckets, list, n * sizeof *list);
        into->used = n;
        return 0;
    }
    uint32_t total = into->used + count_missing(into, list, n);
    if (reserve(into, total) < 0) {
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
                next.count = saturating_sum(next.count, into->buckets[--i].count);
            }
        }
        into->buckets[w - 1] = next;
    }
    into->used = total;
    return 0;
}

int hist_merge(struct hist *into, const struct hist *from)
{
    return merge_list(into, from->buckets, from->used);
}

void hist_clear(struct hist *h)
{
    free(h->buckets);
    *h = (struct hist){0};
}

int dist_add(struct dist *d, double x)
{
    if (!isfinite(x)) {
        return 0;
    }
    int rc = hist_add(&d->hist, x);
    if (rc == 0) {
        moments_add(&d->moments, x);
    }
    return rc;
}

int dist_merge(struct dist *into, const struct dist *from)
{
    int rc = hist_merge(&into->hist, &from->hist);
    if (rc == 0) {
        moments_merge(&into->moments, &from->moments);
    }
    return rc;
}

int dist_add_counts(struct dist *d, const struct dist_counts *counts)
{
    if (counts->moments.n == 0) {
        return 0;
    }
    int rc = merge_list(&d->hist, counts->list, counts->used);
    if (rc == 0) {
        moments_merge(&d->moments, &counts->moments);
    }
    return rc;
}

/* The key at a rank counted from 1. */
static int32_t key_at(const struct hist *h, uint64_t rank)
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

double dist_quantile(const struct dist *d, double q)
{
    if (d->moments.n == 0) {
        return NAN;
    }
    uint64_t total = 0; /* not moments.n: a count may have saturated */
    for (uint32_t i = 0; i < d->hist.used; i++) {
        total += d->hist.buckets[i].count;
    }
    double rank = ceil(q * (double)total);
    double middle = hist_key_middle(key_at(&d->hist, rank > 1 ? (uint64_t)rank : 1));
    return fmin(fmax(middle, d->moments.min), d->moments.max);
}

double dist_quantile_error(const struct dist *d)
{
    (void)d;
    return exp2(0.5 / STEPS) - 1;
}

void dist_clear(struct dist *d)
{
    hist_clear(&d->hist);
    *d = (struct dist){0};
}
