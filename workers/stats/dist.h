/* SPDX-License-Identifier: MIT */
/* dist: the distribution of one number: count, mean, M2, min, max, and a histogram for quantiles.
 *
 * Mergeable: any split of the values over blocks, samples, ranks or windows, merged in any order,
 * has the same count, min, max and histogram bit for bit, and the same mean and variance up to f64
 * rounding (Chan, Golub and LeVeque 1983). Not locked: one owner at a time. */
#ifndef WORKERS_STATS_DIST_H
#define WORKERS_STATS_DIST_H

#include "workers/stats/hist.h"

/* Running moments; no allocation. A zeroed struct is empty. */
struct moments {
    uint64_t n;
    double mean, m2; /* m2: sum of squared deviations from the mean */
    double min, max; /* meaningless while n = 0 */
};

void moments_add(struct moments *m, double x);
/* Leaves out what is not finite. */
void moments_add_finite(struct moments *m, double x);
void moments_merge(struct moments *into, const struct moments *from);
/* Unbiased (n - 1), as torch; NaN for n < 2. */
double moments_variance(const struct moments *m);
double moments_std(const struct moments *m);
/* NaN for n = 0. */
double moments_mean(const struct moments *m);

struct dist {
    struct moments moments;
    struct hist hist;
};

/* Non-finite x is ignored. Return 0 or ERR_MEMORY, then without effect. */
int dist_add(struct dist *d, double x);
int dist_merge(struct dist *into, const struct dist *from);
/* The value at rank ceil(q * n) of the sorted values: the first and the last exactly, any other as
 * the geometric middle of its bucket, or of the part of it that is in [min, max]; NaN when empty.
 * 0 <= q <= 1. */
double dist_quantile(const struct dist *d, double q);
void dist_clear(struct dist *d);

/* Doubles the width of the buckets while more than `buckets` are used, down to the lowest
 * resolution of hist.h. The result depends on the values only, not on how they came together or
 * when this was called: merging limited histograms and limiting again gives what one pass over
 * everything would have given. */
void dist_limit(struct dist *d, uint32_t buckets);
/* Half the relative width of a bucket: 1.1 % at full resolution, and then 2.2, 4.4 and 9.1 %. No
 * quantile is off by more than this, or, at the lowest resolution, than 2^-11.5 of the largest
 * magnitude, where that is more. */
double dist_quantile_error(const struct dist *d);
/* Jensen-Shannon divergence of the two histograms as distributions over the buckets of the coarser
 * one; natural logarithm, 0 to ln 2. NaN when one is empty. */
double dist_js(const struct dist *a, const struct dist *b);

/* Values counted together, to be added at once: with a dense table of counters nothing is searched
 * for. A kernel counts, and lists the counters that it used; `count` and `other` are all zero
 * between uses. Every other value is counted in `other`: a counter that was just stored is not
 * there to be loaded at once. */
struct dist_counts {
    struct moments moments;
    uint32_t used;
    struct bucket list[HIST_KEYS + HIST_KEYS_PAD]; /* sorted by key */
    uint32_t count[HIST_KEYS + HIST_KEYS_PAD];     /* by key + HIST_KEY_MAX */
    uint32_t other[HIST_KEYS + HIST_KEYS_PAD];     /* the same */
};
/* Adds moments and list. Returns 0 or ERR_MEMORY, then without effect. */
int dist_add_counts(struct dist *d, const struct dist_counts *counts);
#endif
