/* SPDX-License-Identifier: MIT */
/* row: part of the scalar reference, compiled without vectorising. */
#include "workers/rows/row.h"

#include <math.h>

void row_gather(const double *sent, const uint32_t *key, uint32_t n, double *ret_weight)
{
    for (uint32_t k = 0; k < n; k++) {
        ret_weight[k] = sent[key[k]];
    }
}

double row_sum(const struct row *r)
{
    double sum = 0;
    for (uint32_t k = 0; k < r->n; k++) {
        sum += r->weight[k];
    }
    return sum;
}

/* Finite, and not negative beyond rounding. */
static bool weights_sound(const struct row *r, double negative_bound)
{
    for (uint32_t k = 0; k < r->n; k++) {
        if (!isfinite(r->weight[k]) || r->weight[k] < negative_bound) {
            return false;
        }
    }
    return true;
}

static bool sum_sound(const struct attention *a, double sum)
{
    if (a->dropout) {
        return true;
    }
    double tolerance = attention_tolerance(a->dtype);
    return a->learned_sink ? sum <= 1 + tolerance : fabs(sum - 1) <= tolerance;
}

bool row_sound(const struct attention *a, const struct row *r, double sum)
{
    return r->n > 0 && weights_sound(r, attention_negative_bound(a->dtype)) && sum_sound(a, sum);
}

double row_weight_of(const struct row *r, uint32_t j)
{
    uint32_t begin = 0, end = r->n;
    while (begin < end) {
        uint32_t middle = begin + (end - begin) / 2;
        if (r->key[middle] < j) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin < r->n && r->key[begin] == j ? r->weight[begin] : 0;
}

/* Mean, then squared deviations. */
static struct moments row_moments_of(const double *x, uint32_t n)
{
    if (n == 0) {
        return (struct moments){0};
    }
    double sum = 0;
    for (uint32_t k = 0; k < n; k++) {
        sum += x[k];
    }
    struct moments m = {.n = n, .mean = sum / n, .min = x[0], .max = x[0]};
    for (uint32_t k = 0; k < n; k++) {
        double deviation = x[k] - m.mean;
        m.m2 += deviation * deviation;
        m.min = x[k] < m.min ? x[k] : m.min;
        m.max = x[k] > m.max ? x[k] : m.max;
    }
    return m;
}

void row_merge_moments(struct moments *into, const double *x, uint32_t n)
{
    struct moments m = row_moments_of(x, n);
    moments_merge(into, &m);
}
