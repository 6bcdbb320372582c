/* SPDX-License-Identifier: MIT */
/* dist: the distribution of one number: count, mean, M2, min, max, and a histogram for quantiles.
 *
 * Mergeable: any split of the values over blocks, samples, ranks or windows, merged in any order,
 * has the same count, min, max and histogram bit for bit, and the same mean and variance up to f64
 * rounding (Chan, Golub and LeVeque 1983). Not locked: one owner at a time. */
#ifndef WORKERS_DIST_H
#define WORKERS_DIST_H

#include <stddef.h>
#include <stdint.h>

/* Running moments; no allocation. A zeroed struct is empty. */
struct moments {
    uint64_t n;
    double mean, m2; /* m2: sum of squared deviations from the mean */
    double min, max; /* meaningless while n = 0 */
};

void moments_add(struct moments *m, double x);
void moments_merge(struct moments *into, const struct moments *from);
/* Unbiased (n - 1), as torch; NaN for n < 2. */
double moments_variance(const struct moments *m);
double moments_std(const struct moments *m);
/* NaN for n = 0. */
double moments_mean(const struct moments *m);

/* Histogram with buckets (2^(k/32), 2^((k+1)/32)] on either side of zero: a relative width of 2.2
 * %, so a quantile is within 1.1 % of a value that was seen. |x| < 2^-40 counts as zero, |x| > 2^40
 * as 2^40. The used buckets are kept as a sorted list: 8 bytes each, at most HIST_KEYS
 * (2561 either side, and zero). The index comes from the exponent and a table, not from log(), and
 * is exact at the bounds. */
#define HIST_KEY_MAX  2561
#define HIST_KEYS     (2 * HIST_KEY_MAX + 1)
#define HIST_KEYS_PAD 16 /* places past the last that may be touched */

struct bucket {
    int32_t key;    /* monotone in x; 0 is the zero bucket, negative keys are negative values */
    uint32_t count; /* saturates */
};

struct hist {
    struct bucket *buckets; /* sorted by key; owned */
    uint32_t used, capacity;
};

/* x must be finite. Return 0 or ERR_MEMORY, then without effect. */
int hist_add(struct hist *h, double x);
int hist_merge(struct hist *into, const struct hist *from);
void hist_clear(struct hist *h);
/* The key of a value, and the middle (geometric) of a bucket. */
int32_t hist_key(double x);
double hist_key_middle(int32_t key);
/* The largest x with this key (of the last bucket, and of those past it: 2^40); monotone in the
 * key. */
double hist_key_bound(int32_t key);

struct dist {
    struct moments moments;
    struct hist hist;
};

/* Non-finite x is ignored. Return 0 or ERR_MEMORY, then without effect. */
int dist_add(struct dist *d, double x);
int dist_merge(struct dist *into, const struct dist *from);
/* The value at rank ceil(q * n) of the sorted values, to the width of a bucket, clamped to
 * [min, max]; NaN when empty. 0 <= q <= 1. */
double dist_quantile(const struct dist *d, double q);
void dist_clear(struct dist *d);

/* Doubles the width of the buckets until at most so many are used (>= 2). The result depends on the
 * values only, not on how they came together or when this was called: merging limited histograms
 * and limiting again gives what one pass over everything would have given. */
void dist_limit(struct dist *d, uint32_t buckets);
/* Half the relative width of a bucket: no quantile is off by more. */
double dist_quantile_error(const struct dist *d);
/* Jensen-Shannon divergence of the two histograms as distributions over the buckets of the coarser
 * one; natural logarithm, 0 to ln 2. NaN when one is empty. */
double dist_js(const struct dist *a, const struct dist *b);

/* Values counted together, to be added at once: with a dense table of counters nothing is searched
 * for. A kernel counts, and lists the counters that it used; `count` is all zero between uses. */
struct dist_counts {
    struct moments moments;
    uint32_t used;
    struct bucket list[HIST_KEYS + HIST_KEYS_PAD]; /* sorted by key */
    uint32_t count[HIST_KEYS + HIST_KEYS_PAD];     /* by key + HIST_KEY_MAX */
};
/* Adds moments and list. Returns 0 or ERR_MEMORY, then without effect. */
int dist_add_counts(struct dist *d, const struct dist_counts *counts);
#endif
