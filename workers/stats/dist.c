/* SPDX-License-Identifier: MIT */
/* One value at a time by Welford (1962); two sets by the pairwise update of Chan, Golub and LeVeque
 * (1983). Both keep the sum of squared deviations itself, never a difference of two large sums. */
#include "workers/stats/dist.h"
#include "proto/err.h"

#include <math.h>
#include <string.h>

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

void moments_add_finite(struct moments *m, double x)
{
    if (isfinite(x)) {
        moments_add(m, x);
    }
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
    int rc = hist_merge_list(&d->hist, counts->list, counts->used);
    if (rc == 0) {
        moments_merge(&d->moments, &counts->moments);
    }
    return rc;
}

double dist_quantile(const struct dist *d, double q)
{
    if (d->moments.n == 0) {
        return NAN;
    }
    /* Not moments.n: a count may have saturated. */
    double total = (double)hist_total(&d->hist), rank = ceil(q * total);
    double min = d->moments.min, max = d->moments.max;
    if (rank <= 1 || rank >= total) {
        return rank <= 1 ? min : max;
    }
    int32_t key = hist_key_at(&d->hist, (uint64_t)rank);
    double middle = hist_middle(key, d->hist.halvings), half = 1 + dist_quantile_error(d);
    double low = fmin(middle / half, middle * half), high = fmax(middle / half, middle * half);
    if (key != 0 && (min > low || max < high)) {
        middle = copysign(sqrt(fmax(low, min) * fmin(high, max)), middle);
    }
    return fmin(fmax(middle, min), max);
}

void dist_limit(struct dist *d, uint32_t buckets)
{
    hist_limit(&d->hist, buckets);
}

double dist_quantile_error(const struct dist *d)
{
    return exp2(ldexp(1, (int)d->hist.halvings) / 64) - 1;
}

/* The contribution of a share p to the divergence, where the other one has the share q. */
static double dist_divergence(double p, double q)
{
    return p > 0 ? p * log(2 * p / (p + q)) : 0;
}

/* The buckets of a histogram one after the other, at a lower resolution and with what counts as
 * zero where there are larger values. */
struct hist_walk {
    const struct hist *hist;
    uint32_t at, halvings;
    int32_t cut;
    double total;
    int32_t key; /* INT32_MAX after the last */
    double share;
};

static int32_t walk_key(const struct hist_walk *w)
{
    if (w->at == w->hist->used) {
        return INT32_MAX;
    }
    int32_t key = hist_key_halve(w->hist->buckets[w->at].key, w->hist->halvings, w->halvings);
    return key <= w->cut && key >= -w->cut ? 0 : key;
}

static void walk_next(struct hist_walk *w)
{
    uint64_t count = 0;
    w->key = walk_key(w);
    while (w->key != INT32_MAX && walk_key(w) == w->key) {
        count += w->hist->buckets[w->at++].count;
    }
    w->share = (double)count / w->total;
}

static struct hist_walk walk_begin(const struct hist *h, uint32_t halvings)
{
    return (struct hist_walk){.hist = h, .halvings = halvings, .total = (double)hist_total(h)};
}

/* The key of its largest magnitude. */
static int32_t walk_largest(const struct hist_walk *w)
{
    const struct hist *h = w->hist;
    int32_t lowest = -h->buckets[0].key, highest = h->buckets[h->used - 1].key;
    return hist_key_halve(lowest > highest ? lowest : highest, h->halvings, w->halvings);
}

double dist_js(const struct dist *a, const struct dist *b)
{
    uint32_t halvings = a->hist.halvings > b->hist.halvings ? a->hist.halvings : b->hist.halvings;
    struct hist_walk p = walk_begin(&a->hist, halvings), q = walk_begin(&b->hist, halvings);
    double js = 0;
    if (a->hist.used == 0 || b->hist.used == 0) {
        return NAN;
    }
    int32_t of_p = walk_largest(&p), of_q = walk_largest(&q);
    p.cut = q.cut = hist_cut(p.halvings, of_p > of_q ? of_p : of_q);
    walk_next(&p);
    walk_next(&q);
    while (p.key != INT32_MAX || q.key != INT32_MAX) {
        int32_t key = p.key < q.key ? p.key : q.key;
        double in_p = p.key == key ? p.share : 0, in_q = q.key == key ? q.share : 0;
        js += dist_divergence(in_p, in_q) + dist_divergence(in_q, in_p);
        if (p.key == key) {
            walk_next(&p);
        }
        if (in_q > 0) {
            walk_next(&q);
        }
    }
    return fmin(fmax(js / 2, 0), log(2));
}

void dist_clear(struct dist *d)
{
    hist_clear(&d->hist);
    *d = (struct dist){0};
}
