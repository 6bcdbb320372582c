/* SPDX-License-Identifier: MIT */
/* The scalar reference of row_sums: row after row, formula after formula, in f64.
 *
 * `top` is what weights are relative to before they are divided by Z: the largest logit of all, or
 * 0 where the sums are of weights and nothing is divided. A key of the rest with e = exp(s -
 * largest) has the weight e unit, unit = exp(largest - top) / Z. */
#include "workers/rows/row_sums_internal.h"

#include "proto/err.h"

#include <float.h>
#include <math.h>

/* A sound row. */
struct scaled {
    const struct sent_sums *rows;
    const struct row_numbers *row;
    double top, z, unit, first; /* `first`: the weight of the key apart */
    double log_unit, log_first; /* of these, where they are above 0 */
    double sum;                 /* of all weights, before a sink takes its share or sums divide */
    double kept;                /* how much of its weights a sink leaves */
    bool apart_first;           /* the key apart is the first one */
};

static double row_sums_ref_weight(double exponent)
{
    return exponent > -INFINITY ? exp(exponent) : 0;
}

static struct scaled row_sums_ref_scale(const struct sent_sums *rows, const struct row_numbers *row,
                                        double sink)
{
    double largest = row->sum[ROW_SUM_LARGEST], first = row->sum[ROW_SUM_FIRST];
    double total = largest > -INFINITY ? row->sum[ROW_SUM_TOTAL] : 0;
    bool as_sent = rows->of_weights && !rows->learned_sink;
    struct scaled s = {.rows = rows, .row = row, .apart_first = row->apart == row->first};
    s.sum =
        rows->of_weights ? row_sums_ref_weight(largest) * total + row_sums_ref_weight(first) : 1;
    s.top = as_sent ? 0 : fmax(largest, first);
    if (s.top == -INFINITY) {
        s.top = 0;
    }
    s.z = as_sent
              ? 1
              : row_sums_ref_weight(largest - s.top) * total + row_sums_ref_weight(first - s.top);
    s.log_unit = largest - s.top - log(s.z);
    s.log_first = first - s.top - log(s.z);
    s.unit = row_sums_ref_weight(s.log_unit);
    s.first = row_sums_ref_weight(s.log_first);
    s.kept = rows->of_weights ? (as_sent ? 1 : s.sum) : 1 / (1 + exp(sink - s.top - log(s.z)));
    return s;
}

static bool row_sums_ref_sound(const struct scaled *s)
{
    double most = attention_tolerance(s->rows->dtype), off = s->sum - 1;
    bool is_whole = s->rows->dropout || (s->rows->learned_sink ? off <= most : fabs(off) <= most);
    return !s->rows->of_weights || (s->sum <= (double)FLT_MAX && is_whole);
}

/* sum A ln A over the rest */
static double row_sums_ref_rest_plogp(const struct scaled *s)
{
    const double *sum = s->row->sum;
    return s->unit > 0 ? s->unit * (sum[ROW_SUM_WEIGHTED] + s->log_unit * sum[ROW_SUM_TOTAL]) : 0;
}

static double row_sums_ref_first_plogp(const struct scaled *s)
{
    return s->first > 0 ? s->first * s->log_first : 0;
}

/* A distribution has no negative entropy; one weight above 1, after dropout, may mean it. */
static double row_sums_ref_entropy(const struct scaled *s)
{
    double h = -row_sums_ref_rest_plogp(s) - row_sums_ref_first_plogp(s);
    return h < 0 && fmax(s->unit, s->first) <= 1 ? 0 : h;
}

/* The rest made a distribution: shares A / r have the entropy ln r - (sum A ln A) / r. The key
 * apart is of the rest when it is not the first one. */
static double row_sums_ref_sans_first(const struct scaled *s)
{
    const double *sum = s->row->sum;
    double n = s->row->seen - s->row->with_first, r = 0, plogp = 0;
    if (s->row->seen < 3) {
        return NAN;
    }
    if (s->apart_first && s->unit > 0) { /* in the rest's own unit */
        r = sum[ROW_SUM_TOTAL];
        plogp = sum[ROW_SUM_WEIGHTED];
    } else if (!s->apart_first) {
        r = s->unit * sum[ROW_SUM_TOTAL] + s->first;
        plogp = row_sums_ref_rest_plogp(s) + row_sums_ref_first_plogp(s);
    }
    return r > 0 ? fmax(0, log(r) - plogp / r) / log(n) : NAN;
}

static bool row_sums_ref_divided(const struct scaled *s)
{
    return !s->rows->of_weights || s->rows->learned_sink;
}

/* The key apart takes the place of the eighth where it is larger. */
static double row_sums_ref_tail_mass(const struct scaled *s)
{
    double top = s->unit * s->row->sum[ROW_SUM_TOP] + s->first -
                 fmin(s->unit * s->row->sum[ROW_SUM_EIGHTH], s->first);
    if (!row_sums_ref_divided(s)) {
        return 1 - top;
    }
    return s->row->seen <= 8 ? 0 : fmax(0, 1 - top);
}

static double row_sums_ref_gap(const struct scaled *s)
{
    return fabs((double)s->row->place[ROW_PLACE_POSITION] - s->row->apart);
}

static double row_sums_ref_distance(const struct scaled *s)
{
    return s->unit * s->row->sum[ROW_SUM_DISTANCE] + s->first * row_sums_ref_gap(s);
}

/* A[i, p + step]; NaN where that is no position. */
static double row_sums_ref_at(const struct scaled *s, int step, enum row_sum sum)
{
    double at = (double)s->row->place[ROW_PLACE_POSITION] + step;
    if (at < 0 || at >= s->row->place[ROW_PLACE_POSITIONS]) {
        return NAN;
    }
    double weight = s->unit > 0 ? row_sums_ref_weight(s->row->sum[sum] - s->top) / s->z : 0;
    weight = row_sums_ref_divided(s) ? fmin(weight, 1) : weight;
    return weight + (at == s->row->apart ? s->first : 0);
}

/* Over the earlier occurrences of the query's token, or what follows them. */
static double row_sums_ref_occurrences(const struct scaled *s, enum row_sum sum, int with_apart)
{
    int32_t bits = s->row->place[ROW_PLACE_OCCURRENCE];
    return bits & ROW_OCCURRENCE_EARLIER
               ? s->unit * s->row->sum[sum] + (bits & with_apart ? s->first : 0)
               : NAN;
}

static void row_sums_ref_metrics(const struct scaled *s, double ret_value[METRIC_ROW_COUNT])
{
    const struct row_numbers *row = s->row;
    double h = row_sums_ref_entropy(s), n = row->seen;
    bool is_near = row_sums_ref_gap(s) <= s->rows->local_window;
    ret_value[METRIC_ENTROPY] = h;
    ret_value[METRIC_ENTROPY_NORMALIZED] = n >= 2 ? h / log(n) : NAN;
    ret_value[METRIC_EFFECTIVE_KEYS] = exp(h);
    ret_value[METRIC_CONFIDENCE] = fmax(s->unit, s->first);
    ret_value[METRIC_DIAGONAL] = row_sums_ref_at(s, 0, ROW_SUM_OWN);
    ret_value[METRIC_LOCAL_MASS] = s->unit * row->sum[ROW_SUM_LOCAL] + (is_near ? s->first : 0);
    ret_value[METRIC_MEAN_DISTANCE] = row_sums_ref_distance(s);
    ret_value[METRIC_MEAN_DISTANCE_NORMALIZED] =
        row->farthest > 0 ? row_sums_ref_distance(s) / row->farthest : NAN;
    ret_value[METRIC_PREVIOUS_TOKEN] = row_sums_ref_at(s, -1, ROW_SUM_PREVIOUS);
    ret_value[METRIC_NEXT_TOKEN] = row_sums_ref_at(s, 1, ROW_SUM_NEXT);
    ret_value[METRIC_FIRST_TOKEN] =
        row->place[ROW_PLACE_POSITION] > row->first ? (s->apart_first ? s->first : 0) : NAN;
    ret_value[METRIC_ENTROPY_SANS_FIRST] = row_sums_ref_sans_first(s);
    ret_value[METRIC_TAIL_MASS] = row_sums_ref_tail_mass(s);
    ret_value[METRIC_INDUCTION] =
        row_sums_ref_occurrences(s, ROW_SUM_INDUCTION, ROW_OCCURRENCE_BEHIND);
    ret_value[METRIC_DUPLICATE_TOKEN] =
        row_sums_ref_occurrences(s, ROW_SUM_DUPLICATE, ROW_OCCURRENCE_SAME);
    ret_value[METRIC_MAX_LOGIT] = s->top;
}

/* A row that a sink took all of has nothing but that. */
static int row_sums_ref_add_metrics(struct head_block *head, const struct scaled *s)
{
    double value[METRIC_ROW_COUNT];
    int rc = 0;
    for (int m = 0; m < METRIC_ROW_COUNT; m++) {
        value[m] = NAN;
    }
    if (s->z > 0) {
        row_sums_ref_metrics(s, value);
    }
    value[METRIC_SINK_DEFICIT] = 1 - s->kept;
    for (int m = 0; m < METRIC_ROW_COUNT && rc == 0; m++) {
        if (row_sums_have(s->rows, (enum metric)m)) {
            rc = dist_add(&head->row[m], value[m]);
        }
    }
    for (int m = METRIC_PREVIOUS_TOKEN; m <= METRIC_NEXT_TOKEN; m++) {
        if (row_sums_have(s->rows, (enum metric)m) && !isnan(value[m])) {
            head->neighbour_sum += value[m];
            head->neighbour_count++;
        }
    }
    return rc;
}
_Static_assert(METRIC_NEXT_TOKEN == METRIC_PREVIOUS_TOKEN + 1, "the neighbours");

/* n values of a sum and a sum of squares. */
static struct moments row_sums_ref_moments(double n, double sum, double squares, double min,
                                           double max)
{
    return (struct moments){.n = (uint64_t)n,
                            .mean = sum / n,
                            .m2 = fmax(0, squares - sum * sum / n),
                            .min = min,
                            .max = max};
}

static double row_sums_ref_squares(const struct scaled *s)
{
    return s->unit * s->unit * s->row->sum[ROW_SUM_SQUARE] + s->first * s->first;
}

static double row_sums_ref_total(const struct scaled *s)
{
    return (s->unit > 0 ? s->unit * s->row->sum[ROW_SUM_TOTAL] : 0) + s->first;
}

/* A key without a finite logit has the weight 0. */
static double row_sums_ref_least(const struct scaled *s)
{
    if (s->row->sum[ROW_SUM_FINITE] < s->row->seen || !(s->z > 0)) {
        return 0;
    }
    return fmin(row_sums_ref_weight(s->row->sum[ROW_SUM_SMALLEST] - s->top) / s->z,
                fmax(s->unit, s->first));
}

static void row_sums_ref_add_entries(struct head_block *head, const struct scaled *s)
{
    double kept = s->z > 0 ? s->kept : 0;
    struct moments m = row_sums_ref_moments(
        s->row->seen, kept * row_sums_ref_total(s), kept * kept * row_sums_ref_squares(s),
        kept * row_sums_ref_least(s), kept * fmax(s->unit, s->first));
    moments_merge(&head->entries, &m);
}

static void row_sums_ref_add_logits(struct head_block *head, const struct scaled *s)
{
    const double *sum = s->row->sum;
    double n = sum[ROW_SUM_FINITE];
    if (!row_sums_have(s->rows, METRIC_MEAN_LOGIT) || n == 0 || !isfinite(sum[ROW_SUM_SMALLEST]) ||
        !isfinite(sum[ROW_SUM_SHIFT]) || !isfinite(sum[ROW_SUM_LOGITS]) ||
        !isfinite(sum[ROW_SUM_LOGIT_SQUARES])) {
        return;
    }
    struct moments m = row_sums_ref_moments(n, sum[ROW_SUM_LOGITS], sum[ROW_SUM_LOGIT_SQUARES],
                                            sum[ROW_SUM_SMALLEST], s->top);
    m.mean += sum[ROW_SUM_SHIFT];
    moments_merge(&head->logits, &m);
}

/* No sum of squares came. */
static void row_sums_ref_add_cosines(struct head_block *head, const struct scaled *s)
{
    const double *sum = s->row->sum;
    double n = sum[ROW_SUM_COSINE_COUNT], length = sum[ROW_SUM_QUERY_LENGTH];
    double mean = sum[ROW_SUM_COSINES] / length / n, most = sum[ROW_SUM_COSINE_MAX] / length;
    if (row_sums_have(s->rows, METRIC_QK_COSINE) && n > 0 && length > 0 && isfinite(length) &&
        isfinite(mean) && isfinite(most)) {
        struct moments m = {.n = (uint64_t)n, .mean = mean, .min = mean, .max = most};
        moments_merge(&head->cosine, &m);
    }
}

/* sum P ln(P + 1e-8) with P the softmax of the row's weights, by its first term; all keys count,
 * and those that are not visible have the weight 0. */
static void row_sums_ref_add_importance(struct importance_block *share, const struct scaled *s)
{
    double keys = s->rows->keys, kept = s->z > 0 ? s->kept : 0;
    double unit = kept * s->unit, first = kept * s->first, power = unit;
    double grown = expm1(first), tilted = first * exp(first);
    for (int i = 0; i < ROW_SUMS_POWERS; i++, power *= unit) {
        double part = unit > 0 ? s->row->sum[row_sums_power[i]] * power : 0;
        grown += row_sums_grown[i] * part;
        tilted += row_sums_tilted[i] * part;
    }
    share->entropy += log(keys) + log1p(grown / keys) - tilted / (keys + grown) - 1e-8 * keys;
    struct moments m = row_sums_ref_moments(keys, kept * row_sums_ref_total(s),
                                            kept * kept * row_sums_ref_squares(s), 0, 1);
    moments_merge(&share->entries, &m);
}

/* All of its weights are 0. */
static void row_sums_ref_add_empty(struct importance_block *share, double keys)
{
    struct moments m = {.n = (uint64_t)keys};
    share->entropy -= log(1 / keys + 1e-8);
    moments_merge(&share->entries, &m);
}

static int row_sums_ref_add(struct block *block, const struct sent_sums *rows,
                            const struct row_numbers *row, uint32_t b, uint32_t h)
{
    enum row_verdict verdict = row_sums_judge(rows, row);
    struct head_block *head = &block->head[h];
    struct importance_block *share =
        block->importance ? &block->importance[(size_t)b * block->heads + h] : NULL;
    double sink = row_sums_sink(rows, h);
    struct scaled s = row_sums_ref_scale(rows, row, sink);
    bool core = block->plan.group[METRIC_GROUP_CORE];
    if (verdict == ROW_IMPOSSIBLE) {
        return ERR_ROWS;
    }
    if (share && (verdict == ROW_PADDING || verdict == ROW_BLIND)) {
        row_sums_ref_add_empty(share, rows->keys);
    }
    if (verdict == ROW_PADDING) {
        return 0;
    }
    if (core && row_sums_have(rows, METRIC_Q_NORM)) {
        moments_add_finite(&head->q_norm, row->sum[ROW_SUM_QUERY_LENGTH]);
    }
    if (verdict == ROW_SOUND && !(sink < INFINITY)) {
        verdict = ROW_UNSOUND;
    }
    if (verdict == ROW_SOUND && isfinite(s.sum)) {
        block->row_sum_error = fmax(block->row_sum_error, rows->of_weights ? fabs(s.sum - 1) : 0);
    }
    if (verdict == ROW_SOUND && share) {
        row_sums_ref_add_importance(share, &s);
    }
    if (verdict != ROW_SOUND || !row_sums_ref_sound(&s)) {
        block->invalid_rows++;
        return 0;
    }
    block->rows++;
    if (!core) {
        return 0;
    }
    row_sums_ref_add_entries(head, &s);
    row_sums_ref_add_logits(head, &s);
    row_sums_ref_add_cosines(head, &s);
    return row_sums_ref_add_metrics(head, &s);
}

int row_sums_compute_ref(struct block *block, const struct sent_sums *rows, uint32_t row_begin,
                         uint32_t row_end)
{
    struct row_chunk chunk;
    int rc = 0;
    row_sums_begin(&chunk);
    for (uint32_t h = 0; h < rows->heads && rc == 0; h++) {
        for (uint32_t b = 0; b < rows->batch && rc == 0; b++) {
            if (row_begin == 0 && block->plan.group[METRIC_GROUP_CORE]) {
                row_sums_add_keys(rows, b, h / (rows->heads / rows->kv_heads), NULL,
                                  &block->head[h].k_norm);
            }
            for (uint32_t i = row_begin; i < row_end && rc == 0; i++) {
                struct row_numbers row;
                row_sums_read(rows, b, h, i, 1, &chunk);
                row_sums_take(rows, &chunk, 0, &row);
                rc = row_sums_ref_add(block, rows, &row, b, h);
            }
        }
    }
    return rc;
}
