/* SPDX-License-Identifier: MIT */
/* row_metrics: one small function per formula, entry after entry, compiled without vectorising:
 * written to be checked against KERNELS.md by eye. A formula returns NaN where its number does not
 * exist; a distribution ignores that. */
#include "workers/rows/row_metrics.h"

#include "workers/rows/occurrence.h"
#include <math.h>

/* The keys whose weight is not tail. */
#define HEAD_KEYS 8

/* |p - j| */
static uint64_t row_metrics_distance(const struct row *r, uint32_t j)
{
    return r->position > j ? r->position - j : j - r->position;
}

/* -sum A ln A; 0 ln 0 = 0, and weights below zero by rounding count as 0. */
static double row_metrics_entropy(const struct row *r)
{
    double sum = 0;
    for (uint32_t k = 0; k < r->n; k++) {
        if (r->weight[k] > 0) {
            sum -= r->weight[k] * log(r->weight[k]);
        }
    }
    return sum;
}

/* H / ln n */
static double entropy_normalized(const struct row *r, double h)
{
    return r->n >= 2 ? h / log(r->n) : NAN;
}

/* The row without its first key, made a distribution: H / ln of the number of its keys. */
static double entropy_sans_first(const struct row *r)
{
    uint32_t first = r->key[0] == r->first;
    struct row rest = {.n = r->n - first, .weight = r->weight + first};
    double sum = row_sum(&rest), h = 0;
    if (r->n < 3 || !(sum > 0)) {
        return NAN;
    }
    for (uint32_t k = 0; k < rest.n; k++) {
        double share = rest.weight[k] / sum;
        h -= share > 0 ? share * log(share) : 0;
    }
    return h / log(rest.n);
}

/* max A */
static double confidence(const struct row *r)
{
    double max = r->weight[0];
    for (uint32_t k = 1; k < r->n; k++) {
        max = r->weight[k] > max ? r->weight[k] : max;
    }
    return max;
}

/* 1 - the sum of the largest weights */
static double tail_mass(const struct row *r)
{
    double largest[HEAD_KEYS] = {0}; /* descending */
    uint32_t count = 0;
    for (uint32_t k = 0; k < r->n; k++) {
        if (count == HEAD_KEYS && !(r->weight[k] > largest[HEAD_KEYS - 1])) {
            continue;
        }
        uint32_t at = count < HEAD_KEYS ? count++ : HEAD_KEYS - 1;
        for (; at > 0 && r->weight[k] > largest[at - 1]; at--) {
            largest[at] = largest[at - 1];
        }
        largest[at] = r->weight[k];
    }
    struct row head = {.n = count, .weight = largest};
    return 1 - row_sum(&head);
}

/* sum A |p - j| */
static double mean_distance(const struct row *r)
{
    double sum = 0;
    for (uint32_t k = 0; k < r->n; k++) {
        sum += r->weight[k] * (double)row_metrics_distance(r, r->key[k]);
    }
    return sum;
}

/* By the largest distance there is: that of the first or of the last key. */
static double mean_distance_normalized(const struct row *r, double mean)
{
    double first = (double)row_metrics_distance(r, r->key[0]),
           last = (double)row_metrics_distance(r, r->key[r->n - 1]);
    double largest = first > last ? first : last;
    return largest > 0 ? mean / largest : NAN;
}

/* sum of A over |p - j| <= w */
static double row_metrics_local_mass(const struct row *r, uint32_t window)
{
    double sum = 0;
    for (uint32_t k = 0; k < r->n; k++) {
        sum += row_metrics_distance(r, r->key[k]) <= window ? r->weight[k] : 0;
    }
    return sum;
}

/* A[i, p + offset], where that is a position of the sample; self-attention only. */
static double row_metrics_at_offset(const struct row_context *c, const struct row *r, int offset)
{
    uint64_t j = r->position + (uint64_t)(int64_t)offset; /* p = 0, offset = -1: past the end */
    return c->a->self && j < attention_position_count(c->a, c->sample)
               ? row_weight_of(r, (uint32_t)j)
               : NAN;
}

/* A[i, f], p > f */
static double first_token(const struct row *r)
{
    return r->position > r->first ? row_weight_of(r, r->first) : NAN;
}

/* sum of A[i, j + offset] over the earlier positions j of the query's token; none is before key[0]
 */
static double at_occurrences(const struct row_context *c, const struct row *r, uint32_t offset)
{
    if (!c->previous || r->position >= attention_key_count(c->a, c->sample) ||
        c->previous[r->position] == OCCURRENCE_NONE) {
        return NAN;
    }
    double sum = 0;
    uint32_t j = c->previous[r->position];
    for (; j != OCCURRENCE_NONE && j + offset >= r->key[0]; j = c->previous[j]) {
        sum += row_weight_of(r, j + offset);
    }
    return sum;
}

/* The numbers of a row that is a distribution, or was one before dropout. */
static void row_metrics_of_keys(const struct row_context *context, const struct row *r,
                                double ret_value[METRIC_ROW_COUNT])
{
    double h = row_metrics_entropy(r), mean = mean_distance(r);
    ret_value[METRIC_ENTROPY] = h;
    ret_value[METRIC_ENTROPY_NORMALIZED] = entropy_normalized(r, h);
    ret_value[METRIC_EFFECTIVE_KEYS] = exp(h);
    ret_value[METRIC_CONFIDENCE] = confidence(r);
    ret_value[METRIC_DIAGONAL] = row_metrics_at_offset(context, r, 0);
    ret_value[METRIC_LOCAL_MASS] = row_metrics_local_mass(r, context->local_window);
    ret_value[METRIC_MEAN_DISTANCE] = mean;
    ret_value[METRIC_MEAN_DISTANCE_NORMALIZED] = mean_distance_normalized(r, mean);
    ret_value[METRIC_PREVIOUS_TOKEN] = row_metrics_at_offset(context, r, -1);
    ret_value[METRIC_NEXT_TOKEN] = row_metrics_at_offset(context, r, 1);
    ret_value[METRIC_FIRST_TOKEN] = first_token(r);
    ret_value[METRIC_ENTROPY_SANS_FIRST] = entropy_sans_first(r);
    ret_value[METRIC_TAIL_MASS] = tail_mass(r);
    ret_value[METRIC_INDUCTION] = at_occurrences(context, r, 1);
    ret_value[METRIC_DUPLICATE_TOKEN] = at_occurrences(context, r, 0);
}

/* Beside a learned sink they are of A / S, S = sum A, and 1 - S is what the sink took. */
void row_metrics(const struct row_context *context, const struct row *r,
                 double ret_value[METRIC_ROW_COUNT])
{
    struct row keys = *r;
    double sum = context->a->learned_sink ? row_sum(r) : NAN;
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        ret_value[m] = NAN;
    }
    ret_value[METRIC_SINK_DEFICIT] = 1 - sum;
    if (context->a->learned_sink) {
        for (uint32_t k = 0; k < r->n; k++) {
            context->share[k] = r->weight[k] / sum;
        }
        keys.weight = context->share;
    }
    if (!(sum <= 0)) { /* NaN: there is no sink */
        row_metrics_of_keys(context, &keys, ret_value);
    }
}

/* Locality: both neighbours, where they are positions of this sample. */
static void add_neighbour(struct head_block *head, double weight)
{
    if (!isnan(weight)) {
        head->neighbour_sum += weight;
        head->neighbour_count++;
    }
}

int row_metrics_add(struct head_block *head, const struct row_context *context, const struct row *r)
{
    double value[METRIC_ROW_COUNT];
    row_metrics(context, r, value);
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        int rc = dist_add(&head->row[m], value[m]);
        if (rc < 0) {
            return rc;
        }
    }
    row_merge_moments(&head->entries, r->weight, r->n);
    add_neighbour(head, value[METRIC_PREVIOUS_TOKEN]);
    add_neighbour(head, value[METRIC_NEXT_TOKEN]);
    return 0;
}
