/* SPDX-License-Identifier: MIT */
/* qk_finish: key 0 is put back, everything is divided by the sum, in f64.
 *
 * Logits are in base 2 here. With `max` the row's largest logit of all its keys, `down` =
 * 2^(row->max - max) turns what the sums are relative to, and `first` = 2^(logit of key 0 - max) is
 * the share of key 0, before the division by Z = down * z + first. All exponentials of a batch of
 * rows are taken in one go by the vector kernel. */
#include "qk_finish.h"

#include "err.h"
#include "occurrence.h"
#include <math.h>

#define LN2 0.69314718055994530942

/* Arguments and results of a row's exponentials. */
enum {
    EXP_TOP,                     /* QK_TOP of them */
    EXP_NEAR = EXP_TOP + QK_TOP, /* 3 */
    EXP_LOW = EXP_NEAR + 3,
    EXP_DOWN,
    EXP_FIRST,
    EXP_COUNT
};
_Static_assert(EXP_COUNT <= QK_LANES, "a row's exponentials fill one vector");

/* A row as it is finished. */
struct state {
    const struct qk_row *row;
    const float *exp;
    float sum[QK_SUMS];
    double max, first_logit; /* base 2, first_logit -infinity when key 0 is excluded */
    double down, first;      /* see above */
    double z, scale;         /* Z and 1 / Z */
    double keys;             /* valid keys, key 0 included */
    bool has_first;
};

static double capped(const struct attention *a, double product)
{
    double s = a->qk.scale * product;
    return a->qk.softcap > 0 ? a->qk.softcap * tanh(s / a->qk.softcap) : s;
}

#define LOG2E 1.44269504088896340736

/* The logit of a captured product, in the row's base 2. */
static double captured(const struct qk_finish *f, double product)
{
    return f->a->qk.softcap > 0 ? capped(f->a, product) * LOG2E : f->slope * product;
}

static float lowest(const struct qk_row *row)
{
    float low = row->low[0];
    for (uint32_t l = 1; l < QK_LANES; l++) {
        low = row->low[l] < low ? row->low[l] : low;
    }
    return low;
}

static void set_arguments(const struct qk_finish *f, const struct qk_row *row, float *exp)
{
    double first = isnan(row->first) ? -INFINITY : captured(f, (double)row->first);
    double max = fmax(first, (double)row->max);
    for (uint32_t k = 0; k < QK_LANES; k++) {
        exp[k] = -INFINITY;
    }
    for (uint32_t k = 0; k < QK_TOP && row->top[k] > -INFINITY; k++) {
        exp[EXP_TOP + k] = (float)(f->slope * (double)row->top[k] - max);
    }
    for (uint32_t k = 0; k < 3; k++) {
        if (!isnan(row->near[k])) {
            exp[EXP_NEAR + k] = (float)(captured(f, (double)row->near[k]) - max);
        }
    }
    if (row->count > 0) {
        exp[EXP_LOW] = (float)(f->slope * (double)lowest(row) - max);
    }
    exp[EXP_DOWN] = (float)((double)row->max - max);
    exp[EXP_FIRST] = (float)(first - max);
}

static struct state begin_row(const struct qk_finish *f, const struct qk_row *row, const float *exp)
{
    struct state s = {.row = row, .exp = exp, .has_first = !isnan(row->first)};
    f->kernel->add_lanes(row, s.sum);
    s.first_logit = s.has_first ? captured(f, (double)row->first) : -INFINITY;
    s.max = fmax(s.first_logit, (double)row->max);
    s.down = row->count > 0 ? (double)exp[EXP_DOWN] : 0;
    s.first = s.has_first ? (double)exp[EXP_FIRST] : 0;
    s.z = s.down * (double)s.sum[QK_Z] + s.first;
    s.scale = 1 / s.z;
    s.keys = (double)row->count + s.has_first;
    return s;
}

/* ln Z - sum e ln e / Z, e relative to the largest logit */
static double entropy(const struct state *s)
{
    double w = 0;
    if (s->row->count > 0) {
        w = s->down *
            ((double)s->sum[QK_W] + ((double)s->row->max - s->max) * (double)s->sum[QK_Z]);
    }
    w += s->has_first ? s->first * (s->first_logit - s->max) : 0;
    double h = log(s->z) - LN2 * w * s->scale;
    return h > 0 ? h : 0;
}

/* The same of the sums alone, which key 0 is not in. */
static double entropy_sans_first(const struct state *s)
{
    double z = (double)s->sum[QK_Z];
    if (s->keys < 3 || !(s->down * s->scale > 0)) {
        return NAN;
    }
    double h = log(z) - LN2 * (double)s->sum[QK_W] / z;
    return (h > 0 ? h : 0) / log(s->row->count);
}

static double confidence(const struct state *s)
{
    double top = s->row->count > 0 ? (double)s->exp[EXP_TOP] : 0;
    return fmin(1, (top > s->first ? top : s->first) * s->scale);
}

/* 1 - the 8 largest; key 0 takes the place of the smallest of the others when it is larger */
static double tail_mass(const struct state *s)
{
    if (s->keys <= QK_TOP) {
        return 0;
    }
    double sum = 0, last = (double)s->exp[EXP_TOP + QK_TOP - 1];
    last = s->row->count < QK_TOP ? 0 : last;
    for (uint32_t k = 0; k + 1 < QK_TOP; k++) {
        sum += (double)s->exp[EXP_TOP + k];
    }
    sum += s->has_first && s->first > last ? s->first : last;
    return fmax(0, 1 - sum * s->scale);
}

static double position_of_first(const struct state *s)
{
    return fabs((double)s->row->position);
}

static double mean_distance(const struct state *s)
{
    double rest = s->down * (double)s->sum[QK_DISTANCE];
    return (rest + s->first * position_of_first(s)) * s->scale;
}

static double largest_distance(const struct state *s)
{
    double begin = fabs((double)s->row->position - (double)s->row->begin);
    double last = fabs((double)s->row->position - (double)(s->row->end - 1));
    return begin > last ? begin : last;
}

static double local_mass(const struct qk_finish *f, const struct state *s)
{
    bool first = position_of_first(s) <= f->local_window;
    return (s->down * (double)s->sum[QK_LOCAL] + (first ? s->first : 0)) * s->scale;
}

/* A[i, p + offset]; NaN where that is no position of the sample, or without self-attention. */
static double at_offset(const struct qk_finish *f, const struct state *s, int offset)
{
    int64_t j = s->row->position + offset;
    if (!f->a->self || j < 0 || (uint64_t)j >= attention_position_count(f->a, f->sample)) {
        return NAN;
    }
    if (j == 0) {
        return s->first * s->scale;
    }
    uint32_t k = (uint32_t)(offset + 1);
    return isnan(s->row->near[k]) ? 0 : (double)s->exp[EXP_NEAR + k] * s->scale;
}

/* Whether the query's token was there before, and where for the first time. */
static bool occurs(const struct qk_finish *f, const struct state *s, uint32_t *ret_first)
{
    int64_t p = s->row->position;
    if (f->first_same == NULL || p >= attention_key_count(f->a, f->sample)) {
        return false;
    }
    *ret_first = f->first_same[p];
    return *ret_first < p;
}

static void put_occurrences(const struct qk_finish *f, const struct state *s, double *ret_duplicate,
                            double *ret_induction)
{
    uint32_t first;
    *ret_duplicate = *ret_induction = NAN;
    if (occurs(f, s, &first)) {
        double at_first = first == 0 ? s->first : 0;
        *ret_duplicate = (s->down * (double)s->row->duplicate + at_first) * s->scale;
        *ret_induction = s->down * (double)s->row->induction * s->scale;
    }
}

/* Largest logit, as users see it. */
static double largest_logit(const struct qk_finish *f, const struct state *s)
{
    double unit = f->a->qk.softcap > 0 ? 1 : f->a->qk.scale;
    double rest = s->row->count > 0 ? unit * (double)s->row->top[0] : -INFINITY;
    return s->has_first ? fmax(rest, capped(f->a, (double)s->row->first)) : rest;
}

static void put_values(const struct qk_finish *f, const struct state *s,
                       double ret_value[METRIC_ROW_COUNT])
{
    double h = entropy(s), mean = mean_distance(s), largest = largest_distance(s);
    ret_value[METRIC_ENTROPY] = h;
    ret_value[METRIC_ENTROPY_NORMALIZED] = s->keys >= 2 ? h / log(s->keys) : NAN;
    ret_value[METRIC_EFFECTIVE_KEYS] = exp(h);
    ret_value[METRIC_CONFIDENCE] = confidence(s);
    ret_value[METRIC_DIAGONAL] = at_offset(f, s, 0);
    ret_value[METRIC_LOCAL_MASS] = local_mass(f, s);
    ret_value[METRIC_MEAN_DISTANCE] = mean;
    ret_value[METRIC_MEAN_DISTANCE_NORMALIZED] = largest > 0 ? mean / largest : NAN;
    ret_value[METRIC_PREVIOUS_TOKEN] = at_offset(f, s, -1);
    ret_value[METRIC_NEXT_TOKEN] = at_offset(f, s, 1);
    ret_value[METRIC_FIRST_TOKEN] = s->row->position >= 1 ? s->first * s->scale : NAN;
    ret_value[METRIC_ENTROPY_SANS_FIRST] = entropy_sans_first(s);
    ret_value[METRIC_TAIL_MASS] = tail_mass(s);
    put_occurrences(f, s, &ret_value[METRIC_DUPLICATE_TOKEN], &ret_value[METRIC_INDUCTION]);
    ret_value[METRIC_SINK_DEFICIT] = NAN;
    ret_value[METRIC_MAX_LOGIT] = largest_logit(f, s);
}

static void merge_one(struct moments *into, double x)
{
    struct moments one = {.n = 1, .mean = x, .min = x, .max = x};
    moments_merge(into, &one);
}

/* A: the sums are of e - shift, e = A Z / down. */
static void merge_entries(struct head_block *head, const struct state *s)
{
    struct moments row = {0};
    if (s->row->count > 0) {
        double n = s->row->count, unit = s->down * s->scale, mean = (double)s->sum[QK_Z] / n;
        double off = mean - (double)s->row->shift;
        double m2 = fmax(0, (double)s->sum[QK_SQUARES] - n * off * off);
        row = (struct moments){.n = s->row->count,
                               .mean = mean * unit,
                               .m2 = m2 * unit * unit,
                               .min = fmin((double)s->exp[EXP_LOW] * s->scale, mean * unit),
                               .max = fmin(1, (double)s->exp[EXP_TOP] * s->scale)};
    }
    if (s->has_first) {
        merge_one(&row, s->first * s->scale);
    }
    moments_merge(&head->entries, &row);
}

static void merge_logits(struct head_block *head, const struct qk_finish *f, const struct state *s)
{
    struct moments row = {0};
    if (s->row->count > 0) {
        double unit = f->a->qk.softcap > 0 ? 1 : f->a->qk.scale, n = s->row->count;
        double off = (double)s->sum[QK_LOGIT] / n;
        double m2 = fmax(0, (double)s->sum[QK_LOGIT_SQUARES] - n * off * off);
        row = (struct moments){.n = s->row->count,
                               .mean = unit * ((double)s->row->logit_shift + off),
                               .m2 = unit * unit * m2,
                               .min = unit * (double)lowest(s->row),
                               .max = unit * (double)s->row->top[0]};
    }
    if (s->has_first) {
        merge_one(&row, capped(f->a, (double)s->row->first));
    }
    moments_merge(&head->logits, &row);
}

static void merge_cosines(struct head_block *head, const struct qk_finish *f, const struct state *s,
                          double inverse_length)
{
    struct moments row = {0};
    if (!(inverse_length > 0)) {
        return;
    }
    if (s->row->cosines > 0) {
        double n = s->row->cosines, sum = (double)s->sum[QK_COSINE];
        double low = (double)s->row->cosine_low[0], high = (double)s->row->cosine_high[0];
        for (uint32_t l = 1; l < QK_LANES; l++) {
            low = fmin(low, (double)s->row->cosine_low[l]);
            high = fmax(high, (double)s->row->cosine_high[l]);
        }
        double m2 = fmax(0, (double)s->sum[QK_COSINE_SQUARES] - sum * sum / n);
        row = (struct moments){.n = s->row->cosines,
                               .mean = sum / n * inverse_length,
                               .m2 = m2 * inverse_length * inverse_length,
                               .min = low * inverse_length,
                               .max = high * inverse_length};
    }
    if (s->has_first && f->first_inverse_length > 0) {
        merge_one(&row, (double)s->row->first * f->first_inverse_length * inverse_length);
    }
    moments_merge(&head->cosine, &row);
}

/* ln N - sum y ln y / N, y = e |v_j|, N = sum y */
static double norm_weighted_entropy(const struct qk_finish *f, const struct state *s)
{
    double rest = s->down * (double)s->sum[QK_VALUE], first = s->first * f->first_value_length;
    double sum = rest + first, logs = 0;
    if (s->row->count > 0 && s->down > 0) {
        logs = s->down * ((double)s->sum[QK_VALUE_LOG] +
                          ((double)s->row->max - s->max) * (double)s->sum[QK_VALUE]);
    }
    logs += first > 0 ? first * log2(first) : 0;
    double h = log(sum) - LN2 * logs / sum;
    return sum > 0 ? fmax(0, h) : NAN;
}

static void add_output(const struct qk_finish *f, const struct state *s, const float *output)
{
    double sum = 0;
    for (uint32_t c = 0; c < f->a->qk.value_dim; c++) {
        double x = s->down * (double)output[c] + s->first * (double)f->first_value[c];
        sum += x * x;
    }
    double entropy = norm_weighted_entropy(f, s);
    moments_add(&f->head->output_norm, sqrt(sum) * s->scale);
    if (!isnan(entropy)) {
        moments_add(&f->head->norm_weighted_entropy, entropy);
    }
}

/* Locality's sums, from the values of one row. */
static void add_neighbours(struct head_block *head, const double value[METRIC_ROW_COUNT])
{
    double previous = value[METRIC_PREVIOUS_TOKEN], next = value[METRIC_NEXT_TOKEN];
    head->neighbour_sum += (isnan(previous) ? 0 : previous) + (isnan(next) ? 0 : next);
    head->neighbour_count += (uint64_t)!isnan(previous) + (uint64_t)!isnan(next);
}

static int finish_row(const struct qk_finish *f, const struct state *s,
                      const struct qk_row_extra *extra)
{
    double value[METRIC_ROW_COUNT];
    put_values(f, s, value);
    add_neighbours(f->head, value);
    merge_entries(f->head, s);
    merge_logits(f->head, f, s);
    merge_cosines(f->head, f, s, extra->inverse_length);
    if (extra->output != NULL) {
        add_output(f, s, extra->output);
    }
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        f->batch->value[m][f->batch->count] = value[m];
    }
    f->batch->count++;
    return f->batch->count == QK_BATCH ? qk_finish_flush(f) : 0;
}

int qk_finish_rows(const struct qk_finish *f, const struct qk_row *row,
                   const struct qk_row_extra *extra, uint32_t count, float *room)
{
    for (uint32_t r = 0; r < count; r++) {
        set_arguments(f, &row[r], room + (size_t)r * QK_LANES);
    }
    f->kernel->exp2(room, (size_t)count * QK_LANES);
    int rc = 0;
    for (uint32_t r = 0; rc == 0 && r < count; r++) {
        struct state s = begin_row(f, &row[r], room + (size_t)r * QK_LANES);
        rc = finish_row(f, &s, &extra[r]);
    }
    return rc;
}

int qk_finish_flush(const struct qk_finish *f)
{
    int rc = 0;
    for (uint32_t m = 0; rc == 0 && m < METRIC_ROW_COUNT; m++) {
        for (uint32_t r = 0; rc == 0 && r < f->batch->count; r++) {
            rc = dist_add(&f->head->row[m], f->batch->value[m][r]);
        }
    }
    f->batch->count = 0;
    return rc;
}
