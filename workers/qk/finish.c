/* SPDX-License-Identifier: MIT */
/* qk_finish: a row's first key is put back, and everything is divided by the sum, in f64; what
 * follows from the weights' sums is row_batch's.
 *
 * Logits are in base 2 here. With `max` the row's largest logit of all its keys, `down` =
 * 2^(row->max - max) turns what the sums are relative to, and `first` = 2^(logit of the first key -
 * max) is the share of that key, before the division by Z = down * z + first. All exponentials of a
 * batch of rows are taken in one go by the vector kernel. */
#include "workers/qk/internal.h"

#include <math.h>
#include <string.h>

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
_Static_assert(sizeof(struct qk_totals) <= QK_LANES * sizeof(float), "and its totals another");

/* A row as it is finished. */
struct state {
    const struct qk_row *row;
    const float *exp;
    const struct qk_totals *totals;
    double max, first_logit; /* base 2, first_logit -infinity when it is excluded */
    double down, first;      /* see above */
    double z, scale, unit;   /* Z, 1 / Z, down / Z */
    double keys;             /* valid keys, the first included */
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

/* As fmax and fmin, of numbers and without a call. */
static double qk_finish_larger(double a, double b)
{
    return a > b ? a : b;
}

static double qk_finish_smaller(double a, double b)
{
    return a < b ? a : b;
}

static void set_arguments(const struct qk_finish *f, const struct qk_row *row,
                          const struct qk_totals *totals, float *exp)
{
    double first = isnan(row->first) ? -INFINITY : captured(f, (double)row->first);
    double max = qk_finish_larger(first, (double)row->max);
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
        exp[EXP_LOW] = (float)(f->slope * (double)totals->low - max);
    }
    exp[EXP_DOWN] = (float)((double)row->max - max);
    exp[EXP_FIRST] = (float)(first - max);
}

static struct state qk_finish_begin_row(const struct qk_finish *f, const struct qk_row *row,
                                        const struct qk_totals *totals, const float *exp)
{
    struct state s = {.row = row, .totals = totals, .exp = exp, .has_first = !isnan(row->first)};
    s.first_logit = s.has_first ? captured(f, (double)row->first) : -INFINITY;
    s.max = qk_finish_larger(s.first_logit, (double)row->max);
    s.down = row->count > 0 ? (double)exp[EXP_DOWN] : 0;
    s.first = s.first_logit > -INFINITY ? (double)exp[EXP_FIRST] : 0;
    s.z = s.down * (double)totals->sum[QK_Z] + s.first;
    s.scale = 1 / s.z;
    s.unit = s.down * s.scale;
    s.keys = (double)row->count + (row->silent_first ? 0 : s.has_first) + row->silent;
    return s;
}

/* sum A ln A over all keys but the first: A = e unit, so ln A = ln 2 (x - max) + ln unit. */
static double rest_plogp(const struct state *s)
{
    if (s->row->count == 0 || !(s->down > 0)) {
        return 0;
    }
    double log_unit = LN2 * ((double)s->row->max - s->max) - log(s->z);
    return s->unit * (LN2 * (double)s->totals->sum[QK_W] + log_unit * (double)s->totals->sum[QK_Z]);
}

static double largest_weight(const struct state *s)
{
    double top = s->row->count > 0 ? (double)s->exp[EXP_TOP] : 0;
    return qk_finish_smaller(1, (top > s->first ? top : s->first) * s->scale);
}

static double smallest_weight(const struct state *s)
{
    double low = s->row->count > 0 ? (double)s->exp[EXP_LOW] : INFINITY;
    if (s->row->silent > 0) {
        return 0;
    }
    return (s->has_first ? qk_finish_smaller(low, s->first) : low) * s->scale;
}

/* The sum of the 8 largest weights: the first key takes the place of the smallest when it is
 * larger. */
static double top_weights(const struct state *s)
{
    double sum = 0, last = s->row->count >= QK_TOP ? (double)s->exp[EXP_TOP + QK_TOP - 1] : 0;
    if (s->keys <= QK_TOP) {
        return 1;
    }
    for (uint32_t k = 0; k + 1 < QK_TOP; k++) {
        sum += (double)s->exp[EXP_TOP + k];
    }
    return qk_finish_smaller(1, (sum + qk_finish_larger(last, s->first)) * s->scale);
}

/* sum (A - 1/n)^2: of the rest about its own mean, then between the rest, the weights 0 and the
 * first key */
static double squares(const struct state *s)
{
    double n = s->row->count, share = 1 / s->keys, sum = 0;
    if (s->row->count > 0) {
        double mean = (double)s->totals->sum[QK_Z] / n, off = mean - (double)s->row->shift;
        double m2 = qk_finish_larger(0, (double)s->totals->sum[QK_SQUARES] - n * off * off);
        double between = mean * s->unit - share;
        sum = m2 * s->unit * s->unit + n * between * between;
    }
    double first = s->first * s->scale - share;
    sum += s->row->silent * share * share;
    return s->first_logit > -INFINITY ? sum + first * first : sum;
}

static double position_of(const struct state *s)
{
    return (double)s->row->position;
}

/* |p - f| of the first key, where that is seen. */
static double first_distance(const struct state *s)
{
    return fabs(position_of(s) - (double)s->row->begin);
}

static double largest_distance(const struct state *s)
{
    double begin = fabs(position_of(s) - (double)s->row->begin);
    double last = fabs(position_of(s) - (double)(s->row->end - 1));
    return begin > last ? begin : last;
}

static double qk_finish_local_mass(const struct qk_finish *f, const struct state *s)
{
    double first = first_distance(s) <= f->local_window ? s->first * s->scale : 0;
    return s->unit * (double)s->totals->sum[QK_LOCAL] + first;
}

/* A[i, p + offset]; NaN where that is no position of the sample, or without self-attention. */
static double qk_finish_at_offset(const struct qk_finish *f, const struct state *s, int offset)
{
    int64_t j = s->row->position + offset;
    if (!f->a->self || j < 0 || (uint64_t)j >= attention_position_count(f->a, f->sample)) {
        return NAN;
    }
    if (s->has_first && j == s->row->begin) {
        return s->first * s->scale;
    }
    uint32_t k = (uint32_t)(offset + 1);
    return isnan(s->row->near[k]) ? 0 : (double)s->exp[EXP_NEAR + k] * s->scale;
}

static bool same_token(const struct qk_finish *f, int64_t j, int64_t p)
{
    const int32_t *tokens = f->a->tokens + (size_t)f->sample * f->a->keys; /* at any address */
    return memcmp(tokens + j, tokens + p, sizeof *tokens) == 0;
}

/* Over the earlier occurrences of the query's token, and what follows them. */
static void put_occurrences(const struct qk_finish *f, const struct state *s, float *ret_duplicate,
                            float *ret_induction)
{
    int64_t p = s->row->position;
    *ret_duplicate = *ret_induction = NAN;
    if (!f->first_same || p >= attention_key_count(f->a, f->sample) || f->first_same[p] == p) {
        return;
    }
    double first = s->first * s->scale;
    int64_t j = s->row->begin;
    double same = j < p && same_token(f, j, p) ? first : 0;
    double behind = j > 0 && j <= p && same_token(f, j - 1, p) ? first : 0;
    *ret_duplicate = (float)(s->unit * (double)s->row->duplicate + same);
    *ret_induction = (float)(s->unit * (double)s->row->induction + behind);
}

/* The factor from a logit of the sums to the unit that users see. */
static double logit_unit(const struct qk_finish *f)
{
    return f->a->qk.softcap > 0 ? 1 : f->a->qk.scale;
}

static double largest_logit(const struct qk_finish *f, const struct state *s)
{
    double rest = s->row->count > 0 ? logit_unit(f) * (double)s->row->top[0] : -INFINITY;
    return s->has_first ? qk_finish_larger(rest, capped(f->a, (double)s->row->first)) : rest;
}

/* Weights that the reference cannot tell from 0, in base 2: of f64. */
#define REST_LEAST_LOG2 -1074.0

static void put_row(struct qk_finish *f, const struct state *s)
{
    struct row_batch *b = &f->batch;
    uint32_t slot = b->used++;
    b->sound[slot] = 1;
    b->keys[slot] = (float)s->keys;
    b->rest_keys[slot] = (float)(s->row->count + s->row->silent - s->row->silent_first);
    b->rest_sum[slot] = (float)(s->unit * (double)s->totals->sum[QK_Z]);
    b->rest_plogp[slot] = (float)rest_plogp(s);
    bool rest = s->row->count > 0 && (double)s->row->max - s->max > REST_LEAST_LOG2;
    b->unit_sum[slot] = rest ? s->totals->sum[QK_Z] : 0;
    b->unit_plogp[slot] = (float)(LN2 * (double)s->totals->sum[QK_W]);
    b->first[slot] = (float)(s->first * s->scale);
    b->squares[slot] = (float)squares(s);
    b->min[slot] = (float)smallest_weight(s);
    b->max[slot] = (float)largest_weight(s);
    b->top[slot] = (float)top_weights(s);
    b->distance[slot] = (float)(s->unit * (double)s->totals->sum[QK_DISTANCE] +
                                s->first * s->scale * first_distance(s));
    b->largest_distance[slot] = (float)largest_distance(s);
    b->local_mass[slot] = (float)qk_finish_local_mass(f, s);
    b->diagonal[slot] = (float)qk_finish_at_offset(f, s, 0);
    b->previous[slot] = (float)qk_finish_at_offset(f, s, -1);
    b->next[slot] = (float)qk_finish_at_offset(f, s, 1);
    b->first_token[slot] = s->row->position > s->row->first_key ? b->first[slot] : NAN;
    put_occurrences(f, s, &b->duplicate[slot], &b->induction[slot]);
    b->max_logit[slot] = (float)largest_logit(f, s);
}

/* Logits and cosines. */

/* n values of a sum, sum of squared deviations, min and max. */
static void add_to(struct row_totals *t, double n, double sum, double m2, double min, double max)
{
    t->keys += n;
    t->sum += sum;
    t->square += sum * sum / n;
    t->m2 += qk_finish_larger(m2, 0);
    t->min = (float)min < t->min ? (float)min : t->min;
    t->max = (float)max > t->max ? (float)max : t->max;
}

static void add_logits(struct qk_finish *f, const struct state *s)
{
    double unit = logit_unit(f), n = s->row->count, from_shift = (double)s->totals->sum[QK_LOGIT];
    if (s->row->count > 0) {
        double sum = unit * (n * (double)s->row->logit_shift + from_shift);
        double m2 = (double)s->totals->sum[QK_LOGIT_SQUARES] - from_shift * from_shift / n;
        add_to(&f->logits, n, sum, unit * unit * m2, unit * (double)s->totals->low,
               unit * (double)s->row->top[0]);
    }
    if (s->first_logit > -INFINITY) {
        double first = capped(f->a, (double)s->row->first);
        add_to(&f->logits, 1, first, 0, first, first);
    }
}

static void add_cosines(struct qk_finish *f, const struct state *s, double inverse_length)
{
    double n = s->row->cosines, sum = (double)s->totals->sum[QK_COSINE];
    if (inverse_length > 0 && s->row->cosines > 0) {
        double m2 = (double)s->totals->sum[QK_COSINE_SQUARES] - sum * sum / n;
        add_to(&f->cosines, n, inverse_length * sum, inverse_length * inverse_length * m2,
               inverse_length * (double)s->totals->cosine_low,
               inverse_length * (double)s->totals->cosine_high);
    }
    double first_inverse = s->has_first ? (double)f->inverse_length[s->row->begin] : 0;
    if (inverse_length > 0 && s->first_logit > -INFINITY && first_inverse > 0) {
        double first = (double)s->row->first * first_inverse * inverse_length;
        add_to(&f->cosines, 1, first, 0, first, first);
    }
}

static void flush_totals(struct row_totals *t, struct moments *into)
{
    if (t->keys > 0) {
        double between = qk_finish_larger(t->square - t->sum * t->sum / t->keys, 0);
        struct moments m = {.n = (uint64_t)t->keys,
                            .mean = t->sum / t->keys,
                            .m2 = t->m2 + between,
                            .min = (double)t->min,
                            .max = (double)t->max};
        moments_merge(into, &m);
    }
    *t = (struct row_totals){.min = INFINITY, .max = -INFINITY};
}

/* Values. */

/* ln N - sum y ln y / N, y = e |v_j|, N = sum y */
static double norm_weighted_entropy(const struct qk_finish *f, const struct state *s)
{
    double rest = s->down * (double)s->totals->sum[QK_VALUE],
           first = s->has_first ? s->first * (double)f->value_length[s->row->begin] : 0;
    double sum = rest + first, logs = 0;
    if (rest > 0) {
        logs = s->down * ((double)s->totals->sum[QK_VALUE_LOG] +
                          ((double)s->row->max - s->max) * (double)s->totals->sum[QK_VALUE]);
    }
    logs += first > 0 ? first * log2(first) : 0;
    return sum > 0 ? qk_finish_larger(0, log(sum) - LN2 * logs / sum) : NAN;
}

/* |x| over all keys, x without the first key and of it. */
static double whole_norm(const struct state *s, const float *rest, const float *first, uint32_t n)
{
    double sum = 0;
    for (uint32_t c = 0; c < n; c++) {
        double x = s->down * (double)rest[c] + s->first * (double)first[c];
        sum += x * x;
    }
    return sqrt(sum) * s->scale;
}

static void qk_finish_add_output(const struct qk_finish *f, const struct state *s,
                                 const struct qk_row_extra *extra)
{
    double norm = whole_norm(s, extra->output, f->first_value, f->a->qk.value_dim);
    double entropy = norm_weighted_entropy(f, s);
    moments_add(&f->head->output_norm, norm);
    if (!isnan(entropy)) {
        moments_add(&f->head->norm_weighted_entropy, entropy);
    }
    if (extra->written) {
        double written =
            f->written_unit * whole_norm(s, extra->written, f->first_written, f->a->qk.written_dim);
        moments_add(&f->head->write_norm, written);
        if (!isnan(extra->x_norm)) {
            moments_add(&f->head->residual_share, written / extra->x_norm);
        }
    }
}

static void qk_finish_add_gradient(const struct qk_finish *f, const struct state *s,
                                   const struct qk_gradient *gradient)
{
    double sum = s->down * gradient->sum + s->first * gradient->first;
    f->head->gradient += gradient->unit * sum * s->scale;
}

void qk_finish_begin(struct qk_finish *f, enum isa isa, void *memory)
{
    f->batch.used = 0;
    row_values_begin(&f->values, memory, 1, kernels_or_portable(isa)->row);
    f->values.exists[METRIC_INDUCTION] = f->first_same != NULL;
    f->values.exists[METRIC_DUPLICATE_TOKEN] = f->first_same != NULL;
    f->values.exists[METRIC_SINK_DEFICIT] = false;
    f->values.exists[METRIC_DIAGONAL] = f->a->self;
    f->values.exists[METRIC_PREVIOUS_TOKEN] = f->a->self;
    f->values.exists[METRIC_NEXT_TOKEN] = f->a->self;
    f->logits = f->cosines = (struct row_totals){.min = INFINITY, .max = -INFINITY};
}

int qk_finish_rows(struct qk_finish *f, const struct qk_row *row, const struct qk_row_extra *extra,
                   uint32_t count, float *room)
{
    struct qk_totals *totals = (struct qk_totals *)(void *)(room + (size_t)count * QK_LANES);
    for (uint32_t r = 0; r < count; r++) {
        f->kernel->add_lanes(&row[r], &totals[r]);
        set_arguments(f, &row[r], &totals[r], room + (size_t)r * QK_LANES);
    }
    f->kernel->exp2(room, (size_t)count * QK_LANES);
    int rc = 0;
    for (uint32_t r = 0; rc == 0 && r < count; r++) {
        struct state s = qk_finish_begin_row(f, &row[r], &totals[r], room + (size_t)r * QK_LANES);
        put_row(f, &s);
        add_logits(f, &s);
        add_cosines(f, &s, extra[r].inverse_length);
        if (extra[r].output) {
            qk_finish_add_output(f, &s, &extra[r]);
        }
        if (extra[r].gradient) {
            qk_finish_add_gradient(f, &s, extra[r].gradient);
        }
        rc = f->batch.used == ROW_BATCH ? row_values_add(&f->values, &f->batch, f->head) : 0;
    }
    return rc;
}

int qk_finish_end(struct qk_finish *f)
{
    int rc = row_values_add(&f->values, &f->batch, f->head);
    if (rc == 0) {
        rc = row_values_flush(&f->values, f->head);
    }
    flush_totals(&f->logits, &f->head->logits);
    flush_totals(&f->cosines, &f->head->cosine);
    return rc;
}
