/* SPDX-License-Identifier: MIT */
/* Sixteen rows of a head at a time, number by number, in loops that the compiler makes vectors of:
 * read, judged, brought to f64, and put into a row_batch, which makes metrics of them. Their
 * exponentials are one call of a kernel.
 *
 * Two things differ from what a row_batch is elsewhere. A sink beside logits is none of the keys:
 * what it leaves multiplies the entries alone, so moments of entries are added up here. And rows
 * that a judgement by whole vectors does not find in order are judged again, one by one. */
#include "workers/rows/row_sums_internal.h"

#include "proto/err.h"
#include "workers/rows/row_batch.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Exponentials of a row. */
enum { EXP_SHARE, EXP_FIRST, EXP_NEAR, EXP_LEAST = EXP_NEAR + 3, EXP_COUNT };

/* Sums of a head over its rows, beside its distributions. */
struct row_sums_totals {
    struct row_totals entries, logits, cosines;
    double lengths, length_count; /* |q| */
};

/* The work of one thread. */
struct row_sums_work {
    const struct sent_sums *rows;
    struct block *block;
    const struct row_kernels *kernels;
    struct row_values values;
    struct row_batch batch;
    struct row_chunk chunk;
    struct row_sums_totals totals;
    bool as_sent; /* weights that are not divided by their sum */
    double sink;  /* of the head; NaN: none */
    unsigned char *memory;
    float *deficit; /* [ROW_SUMS_KEPT + ROW_PAD] sink_deficit of rows */
    uint32_t deficits;
    uint32_t h, b;
    /* The rows of the chunk. */
    int32_t sound[ROW_BATCH]; /* 1 or 0 */
    double seen[ROW_BATCH], farthest[ROW_BATCH], apart[ROW_BATCH], gap[ROW_BATCH];
    double document[ROW_BATCH]; /* its first key */
    double with_first[ROW_BATCH];
    double fall[ROW_BATCH], fall_first[ROW_BATCH]; /* logits below `top` */
    double top[ROW_BATCH], z[ROW_BATCH], log_z[ROW_BATCH];
    double total[ROW_BATCH], unit[ROW_BATCH], first[ROW_BATCH];
    double kept[ROW_BATCH];
    float exp[EXP_COUNT][ROW_BATCH];
};

/* Deficits at a time. */
#define ROW_SUMS_KEPT 1024

static void row_sums_lay(void *data, struct scratch_pieces *pieces)
{
    struct row_sums_work *w = data;
    w->memory = scratch_carve(pieces, row_values_bytes(1), 1);
    w->deficit = scratch_carve(pieces, ROW_SUMS_KEPT + ROW_PAD, sizeof *w->deficit);
}

uint64_t row_sums_scratch(void)
{
    struct row_sums_work w = {.rows = NULL};
    return scratch_bytes(row_sums_lay, &w);
}

/* Judging */

#define EACH(s) for (uint32_t s = 0; s < ROW_BATCH; s++)

/* x is whole and within; the largest are beyond what f32 tells apart. */
static int32_t row_sums_counts(float x, float most)
{
    float small = x >= 0 && x <= 0x1p30f ? x : 0;
    return (x >= 0) & (x <= most) & (small == (float)(int32_t)small);
}

/* Slots of which all is in order; those of others are 0. */
static void row_sums_judge_all(struct row_sums_work *w, int32_t ret_sound[ROW_BATCH])
{
    static const enum row_sum shares[] = {
        ROW_SUM_LOCAL,   ROW_SUM_SQUARE,  ROW_SUM_POWER_3, ROW_SUM_POWER_4,   ROW_SUM_POWER_5,
        ROW_SUM_POWER_6, ROW_SUM_POWER_7, ROW_SUM_TOP,     ROW_SUM_DUPLICATE, ROW_SUM_INDUCTION};
    struct row_chunk *c = &w->chunk;
    int32_t(*p)[ROW_BATCH] = c->place;
    float(*x)[ROW_BATCH] = c->sum;
    int32_t keys = (int32_t)w->rows->keys, least = w->rows->column[ROW_SUM_APART] ? -1 : 0;
    float most = (float)keys;
    EACH(s)
    {
        float total = x[ROW_SUM_TOTAL][s];
        ret_sound[s] = (p[ROW_PLACE_VALID][s] == 1) & (p[ROW_PLACE_POSITION][s] >= 0) &
                       (p[ROW_PLACE_POSITIONS][s] >= 0) & (p[ROW_PLACE_FIRST][s] >= least) &
                       (p[ROW_PLACE_FIRST][s] < keys) & ((p[ROW_PLACE_WITH_FIRST][s] & ~1) == 0) &
                       (p[ROW_PLACE_SEEN][s] >= 0) & (p[ROW_PLACE_SEEN][s] <= keys) &
                       (p[ROW_PLACE_FARTHEST][s] >= 0) & (w->seen[s] >= 1) &
                       (w->seen[s] <= (double)keys) & (w->farthest[s] >= 0) &
                       (w->farthest[s] <= INT32_MAX) & (w->apart[s] >= 0) &
                       (w->apart[s] < (double)keys) &
                       ((p[ROW_PLACE_OCCURRENCE][s] & ~ROW_OCCURRENCE_ALL) == 0);
        ret_sound[s] &= (x[ROW_SUM_LARGEST][s] > -FLT_MAX) & (x[ROW_SUM_LARGEST][s] < FLT_MAX) &
                        (x[ROW_SUM_FIRST][s] < FLT_MAX) & (total >= 0.99f) &
                        (total <= 1.01f * most) & (x[ROW_SUM_WEIGHTED][s] >= -0.4f * most) &
                        (x[ROW_SUM_WEIGHTED][s] <= 1e-4f * total);
        ret_sound[s] &= (x[ROW_SUM_DISTANCE][s] >= 0) &
                        ((double)x[ROW_SUM_DISTANCE][s] <= 1.01 * (double)total * w->farthest[s]) &
                        (x[ROW_SUM_TOP][s] <= 8.08f) & (x[ROW_SUM_EIGHTH][s] >= 0) &
                        (x[ROW_SUM_EIGHTH][s] <= 1.01f);
    }
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        const float *share = x[shares[i]];
        EACH(s)
        {
            ret_sound[s] &= (share[s] >= 0) & (share[s] <= 1.01f * x[ROW_SUM_TOTAL][s]);
        }
    }
    for (int k = ROW_SUM_PREVIOUS; k <= ROW_SUM_NEXT; k++) {
        EACH(s)
        {
            float largest = x[ROW_SUM_LARGEST][s];
            ret_sound[s] &= x[k][s] <= largest + 1 + fabsf(largest) / 128;
        }
    }
    EACH(s)
    {
        ret_sound[s] &= row_sums_counts(x[ROW_SUM_FINITE][s], most) &
                        row_sums_counts(x[ROW_SUM_COSINE_COUNT][s], most) &
                        row_sums_counts(x[ROW_SUM_SEEN][s], most) &
                        row_sums_counts(x[ROW_SUM_FARTHEST][s], 0x1p30f) &
                        row_sums_counts(fabsf(x[ROW_SUM_APART][s]), most);
    }
}
_Static_assert(ROW_SUM_NEXT == ROW_SUM_PREVIOUS + 2, "the neighbours");

/* Finds where the rows are, by places and sums. */
static void row_sums_place(struct row_sums_work *w)
{
    struct row_chunk *c = &w->chunk;
    const uint8_t *column = w->rows->column;
    bool has_apart = column[ROW_SUM_APART];
    EACH(s)
    {
        double place = c->place[ROW_PLACE_FIRST][s], apart = (double)c->sum[ROW_SUM_APART][s];
        double later = apart < 0;
        apart = apart < 0 ? -1 - apart : apart;
        w->apart[s] = has_apart ? apart : place;
        w->document[s] = place < 0 ? apart - later : place;
        w->with_first[s] = place < 0 ? 1 - later : c->place[ROW_PLACE_WITH_FIRST][s];
        w->gap[s] = fabs(c->place[ROW_PLACE_POSITION][s] - w->apart[s]);
        w->seen[s] =
            column[ROW_SUM_SEEN] ? (double)c->sum[ROW_SUM_SEEN][s] : c->place[ROW_PLACE_SEEN][s];
        w->farthest[s] = column[ROW_SUM_FARTHEST] ? (double)c->sum[ROW_SUM_FARTHEST][s]
                                                  : c->place[ROW_PLACE_FARTHEST][s];
    }
}

static void row_sums_add_empty(struct row_sums_work *w, struct importance_block *share)
{
    double keys = w->rows->keys;
    struct moments m = {.n = w->rows->keys};
    share->entropy -= log(1 / keys + 1e-8);
    moments_merge(&share->entries, &m);
}

static struct importance_block *row_sums_share(const struct row_sums_work *w)
{
    const struct block *block = w->block;
    return block->importance ? &block->importance[(size_t)w->b * block->heads + w->h] : NULL;
}

/* Finds out which rows are sound; counts those that have no numbers. Returns 0 or ERR_ROWS. */
static int row_sums_sort(struct row_sums_work *w)
{
    struct importance_block *share = row_sums_share(w);
    row_sums_judge_all(w, w->sound);
    for (uint32_t s = 0; s < w->chunk.count; s++) {
        if (w->sound[s]) {
            continue;
        }
        struct row_numbers row;
        row_sums_take(w->rows, &w->chunk, s, &row);
        enum row_verdict verdict = row_sums_judge(w->rows, &row);
        if (verdict == ROW_IMPOSSIBLE) {
            return ERR_ROWS;
        }
        w->sound[s] = verdict == ROW_SOUND;
        w->block->invalid_rows += verdict == ROW_UNSOUND || verdict == ROW_BLIND;
        if (share && (verdict == ROW_PADDING || verdict == ROW_BLIND)) {
            row_sums_add_empty(w, share);
        }
    }
    for (uint32_t s = w->chunk.count; s < ROW_BATCH; s++) {
        w->sound[s] = 0;
    }
    return 0;
}

/* Scales */

/* Everything that weights are told from. The exponentials are of f32: of numbers below 87, so off
 * by 6e-6 of the smallest weights, and by less of larger ones. */
static void row_sums_scale(struct row_sums_work *w)
{
    float(*x)[ROW_BATCH] = w->chunk.sum;
    EACH(s)
    {
        double largest = (double)x[ROW_SUM_LARGEST][s], first = (double)x[ROW_SUM_FIRST][s];
        double top = w->as_sent ? 0 : largest > first ? largest : first;
        top = top > -DBL_MAX ? top : 0;
        w->top[s] = top;
        w->fall[s] = largest - top;
        w->fall_first[s] = first - top;
        w->exp[EXP_SHARE][s] = (float)w->fall[s];
        w->exp[EXP_FIRST][s] = (float)w->fall_first[s];
        w->exp[EXP_NEAR][s] = (float)((double)x[ROW_SUM_PREVIOUS][s] - top);
        w->exp[EXP_NEAR + 1][s] = (float)((double)x[ROW_SUM_OWN][s] - top);
        w->exp[EXP_NEAR + 2][s] = (float)((double)x[ROW_SUM_NEXT][s] - top);
        w->exp[EXP_LEAST][s] = (float)((double)x[ROW_SUM_SMALLEST][s] - top);
    }
    w->kernels->exp(w->exp[0], sizeof w->exp / sizeof(float));
    EACH(s)
    {
        double share = (double)w->exp[EXP_SHARE][s], one = (double)w->exp[EXP_FIRST][s];
        w->total[s] = share > 0 ? (double)x[ROW_SUM_TOTAL][s] : 0;
        double sum = share * w->total[s] + one;
        w->z[s] = w->as_sent ? 1 : sum;
        w->kept[s] = w->as_sent ? sum : 1; /* until weights are judged */
        w->unit[s] = share / w->z[s];
        w->first[s] = one / w->z[s];
    }
    for (uint32_t s = 0; s < ROW_BATCH; s++) {
        w->log_z[s] = w->as_sent ? 0 : w->sound[s] ? log(w->z[s]) : 0;
    }
}

/* Weights whose sum is off are not sound. */
static void row_sums_judge_weights(struct row_sums_work *w)
{
    const struct sent_sums *rows = w->rows;
    double most = attention_tolerance(rows->dtype);
    for (uint32_t s = 0; s < w->chunk.count; s++) {
        double sum = w->as_sent ? w->kept[s] : exp(w->top[s]) * w->z[s], off = sum - 1;
        if (!w->sound[s]) {
            continue;
        }
        if (isfinite(sum)) {
            w->block->row_sum_error = fmax(w->block->row_sum_error, fabs(off));
        }
        w->kept[s] = w->as_sent ? 1 : sum;
        bool sound = rows->dropout || (rows->learned_sink ? off <= most : fabs(off) <= most);
        w->block->invalid_rows += !sound;
        w->sound[s] = sound ? 1 : -1; /* it counts in the importance */
    }
}

static void row_sums_judge_sinks(struct row_sums_work *w)
{
    for (uint32_t s = 0; s < w->chunk.count; s++) {
        if (w->sound[s] && !isnan(w->sink)) {
            w->kept[s] = 1 / (1 + exp(w->sink - w->top[s] - w->log_z[s]));
        }
    }
}

/* Importance: one row's share, as importance_block has it. */
static void row_sums_add_importance(struct row_sums_work *w)
{
    struct importance_block *share = row_sums_share(w);
    double keys = w->rows->keys, n = 0, sums = 0, squares = 0;
    for (uint32_t s = 0; share && s < w->chunk.count; s++) {
        if (!w->sound[s]) {
            continue;
        }
        double kept = w->z[s] > 0 ? w->kept[s] : 0;
        double unit = kept > 0 ? kept * w->unit[s] : 0, first = kept > 0 ? kept * w->first[s] : 0;
        double power = unit, grown = expm1(first), tilted = first * exp(first);
        for (int i = 0; i < ROW_SUMS_POWERS && unit > 0; i++, power *= unit) {
            double part = (double)w->chunk.sum[row_sums_power[i]][s] * power;
            grown += row_sums_grown[i] * part;
            tilted += row_sums_tilted[i] * part;
        }
        share->entropy += log(keys) + log1p(grown / keys) - tilted / (keys + grown) - 1e-8 * keys;
        n += keys;
        sums += unit * w->total[s] + first;
        squares +=
            first * first + (unit > 0 ? unit * unit * (double)w->chunk.sum[ROW_SUM_SQUARE][s] : 0);
    }
    if (n > 0) {
        struct moments m = {
            .n = (uint64_t)n, .mean = sums / n, .m2 = fmax(0, squares - sums * sums / n), .max = 1};
        moments_merge(&share->entries, &m);
    }
}

/* Sums of a head */

static double row_sums_larger(double a, double b)
{
    return a > b ? a : b;
}

static double row_sums_smaller(double a, double b)
{
    return a < b ? a : b;
}

static void row_sums_add_to(struct row_totals *t, double n, double sum, double m2, float min,
                            float max)
{
    t->keys += n;
    t->sum += sum;
    t->square += sum * sum / n;
    t->m2 += row_sums_larger(m2, 0);
    t->min = min < t->min ? min : t->min;
    t->max = max > t->max ? max : t->max;
}

static void row_sums_add_entries(struct row_sums_work *w, uint32_t s)
{
    float(*x)[ROW_BATCH] = w->chunk.sum;
    double kept = w->z[s] > 0 ? w->kept[s] : 0, n = w->seen[s];
    double unit = kept > 0 ? kept * w->unit[s] : 0, first = kept > 0 ? kept * w->first[s] : 0;
    double square = unit > 0 ? unit * unit * (double)x[ROW_SUM_SQUARE][s] : 0;
    double sum = unit * w->total[s] + first;
    bool hidden = (double)x[ROW_SUM_FINITE][s] < n || !(kept > 0);
    double least = hidden ? 0 : kept * (double)w->exp[EXP_LEAST][s] / w->z[s];
    row_sums_add_to(&w->totals.entries, n, sum, square + first * first - sum * sum / n,
                    (float)least, (float)row_sums_larger(unit, first));
}

static void row_sums_add_logits(struct row_sums_work *w, uint32_t s)
{
    float(*x)[ROW_BATCH] = w->chunk.sum;
    double n = (double)x[ROW_SUM_FINITE][s], sum = (double)x[ROW_SUM_LOGITS][s];
    double squares = (double)x[ROW_SUM_LOGIT_SQUARES][s], shift = (double)x[ROW_SUM_SHIFT][s];
    if (n > 0 && isfinite(sum) && isfinite(squares) && isfinite(shift) &&
        isfinite(x[ROW_SUM_SMALLEST][s])) {
        row_sums_add_to(&w->totals.logits, n, n * shift + sum, squares - sum * sum / n,
                        x[ROW_SUM_SMALLEST][s], (float)w->top[s]);
    }
}

static void row_sums_add_cosines(struct row_sums_work *w, uint32_t s)
{
    float(*x)[ROW_BATCH] = w->chunk.sum;
    double n = (double)x[ROW_SUM_COSINE_COUNT][s], length = (double)x[ROW_SUM_QUERY_LENGTH][s];
    double sum = (double)x[ROW_SUM_COSINES][s] / length;
    double most = (double)x[ROW_SUM_COSINE_MAX][s] / length;
    if (n > 0 && length > 0 && isfinite(length) && isfinite(sum) && isfinite(most)) {
        row_sums_add_to(&w->totals.cosines, n, sum, 0, (float)(sum / n), (float)most);
    }
}

/* Every valid row has a query. */
static void row_sums_add_lengths(struct row_sums_work *w)
{
    const float *length = w->chunk.sum[ROW_SUM_QUERY_LENGTH];
    for (uint32_t s = 0; s < w->chunk.count; s++) {
        bool some = w->chunk.place[ROW_PLACE_VALID][s] == 1 && isfinite(length[s]);
        w->totals.lengths += some ? (double)length[s] : 0;
        w->totals.length_count += some;
    }
}

static void row_sums_add_totals(struct row_sums_work *w)
{
    bool logits = row_sums_have(w->rows, METRIC_MEAN_LOGIT);
    bool cosines = row_sums_have(w->rows, METRIC_QK_COSINE);
    for (uint32_t s = 0; s < w->chunk.count; s++) {
        if (w->sound[s] != 1) {
            continue;
        }
        row_sums_add_entries(w, s);
        if (logits) {
            row_sums_add_logits(w, s);
        }
        if (cosines) {
            row_sums_add_cosines(w, s);
        }
    }
    if (row_sums_have(w->rows, METRIC_Q_NORM)) {
        row_sums_add_lengths(w);
    }
}

static void row_sums_flush_totals(struct row_totals *t, struct moments *into)
{
    if (t->keys > 0) {
        double between = row_sums_larger(t->square - t->sum * t->sum / t->keys, 0);
        struct moments m = {.n = (uint64_t)t->keys,
                            .mean = t->sum / t->keys,
                            .m2 = t->m2 + between,
                            .min = (double)t->min,
                            .max = (double)t->max};
        moments_merge(into, &m);
    }
}

/* Into the batch */

/* Logits further below the largest than this are weights that f64 does not tell from 0. */
#define ROW_SUMS_FALL_MOST 744.4

/* The first key and all others: the key apart may be either. */
static void row_sums_put_rest(struct row_sums_work *w)
{
    struct row_batch *b = &w->batch;
    float(*x)[ROW_BATCH] = w->chunk.sum;
    EACH(s)
    {
        bool first = w->apart[s] == w->document[s];
        double unit = w->unit[s], one = w->first[s], total = w->total[s];
        double weighted = unit > 0 ? (double)x[ROW_SUM_WEIGHTED][s] : 0;
        double fall = unit > 0 ? w->fall[s] : 0, fall_first = one > 0 ? w->fall_first[s] : 0;
        double plogp = unit * (weighted + (fall - w->log_z[s]) * total);
        double own = one * (fall_first - w->log_z[s]);
        double share = (double)w->exp[EXP_SHARE][s], weight = (double)w->exp[EXP_FIRST][s];
        bool some = w->fall[s] > -ROW_SUMS_FALL_MOST;
        b->keys[s] = (float)w->seen[s];
        b->rest_keys[s] = (float)(w->seen[s] - w->with_first[s]);
        b->rest_sum[s] = (float)(unit * total + (first ? 0 : one));
        b->rest_plogp[s] = (float)(plogp + (first ? 0 : own));
        b->first[s] = (float)(first ? one : 0);
        b->unit_sum[s] = first ? (some ? x[ROW_SUM_TOTAL][s] : 0) : (float)(share * total + weight);
        b->unit_plogp[s] = first ? x[ROW_SUM_WEIGHTED][s]
                                 : (float)(share * (weighted + fall * total) + weight * fall_first);
        b->first_token[s] =
            w->chunk.place[ROW_PLACE_POSITION][s] > w->document[s] ? (float)(first ? one : 0) : NAN;
    }
}

static void row_sums_put_sums(struct row_sums_work *w)
{
    struct row_batch *b = &w->batch;
    float(*x)[ROW_BATCH] = w->chunk.sum;
    bool divided = !w->as_sent;
    double window = w->rows->local_window;
    EACH(s)
    {
        double unit = w->unit[s], one = w->first[s], max = row_sums_larger(unit, one);
        double of_unit = unit > 0 ? unit : 0; /* what is not looked at may be anything */
        double eighth = unit > 0 ? unit * (double)x[ROW_SUM_EIGHTH][s] : 0;
        double top = unit > 0 ? unit * (double)x[ROW_SUM_TOP][s] : 0;
        top += one - row_sums_smaller(eighth, one);
        b->squares[s] = 0; /* own_entries */
        b->min[s] = 0;
        b->max[s] = (float)(divided ? row_sums_smaller(max, 1) : max);
        b->top[s] = (float)(!divided ? top : w->seen[s] <= 8 ? 1 : row_sums_smaller(top, 1));
        b->distance[s] =
            (float)((unit > 0 ? of_unit * (double)x[ROW_SUM_DISTANCE][s] : 0) + one * w->gap[s]);
        b->largest_distance[s] = (float)w->farthest[s];
        b->local_mass[s] = (float)((unit > 0 ? of_unit * (double)x[ROW_SUM_LOCAL][s] : 0) +
                                   (w->gap[s] <= window ? one : 0));
        b->max_logit[s] = (float)w->top[s];
    }
}

/* A[i, p + step] */
static void row_sums_put_near(struct row_sums_work *w, int step, float ret_value[ROW_BATCH])
{
    int32_t(*p)[ROW_BATCH] = w->chunk.place;
    const float *exp = w->exp[EXP_NEAR + 1 + step];
    EACH(s)
    {
        double at = (double)p[ROW_PLACE_POSITION][s] + step;
        double value = (double)exp[s] / w->z[s] + (at == w->apart[s] ? w->first[s] : 0);
        ret_value[s] = at >= 0 && at < p[ROW_PLACE_POSITIONS][s] ? (float)value : NAN;
    }
}

static void row_sums_put_occurrences(struct row_sums_work *w, enum row_sum sum, int32_t with_apart,
                                     float ret_value[ROW_BATCH])
{
    const int32_t *bits = w->chunk.place[ROW_PLACE_OCCURRENCE];
    const float *x = w->chunk.sum[sum];
    EACH(s)
    {
        double value = w->unit[s] > 0 ? w->unit[s] * (double)x[s] : 0;
        value += bits[s] & with_apart ? w->first[s] : 0;
        ret_value[s] = bits[s] & ROW_OCCURRENCE_EARLIER ? (float)value : NAN;
    }
}

static int row_sums_flush_deficits(struct row_sums_work *w)
{
    int rc = 0;
    if (w->deficits > 0) {
        w->kernels->count(w->deficit, w->deficits, w->values.counts);
        rc = dist_add_counts(&w->block->head[w->h].row[METRIC_SINK_DEFICIT], w->values.counts);
        w->deficits = 0;
    }
    return rc;
}

/* The sums of the chunk's rows, as a row_batch has them. A row that a sink took all of has nothing
 * but that. */
static void row_sums_to_batch(struct row_sums_work *w)
{
    struct row_batch *b = &w->batch;
    b->used = w->chunk.count;
    EACH(s)
    {
        b->sound[s] = w->sound[s] == 1 && w->z[s] > 0 ? 1 : 0;
    }
    row_sums_put_rest(w);
    row_sums_put_sums(w);
    if (w->rows->self) {
        row_sums_put_near(w, -1, b->previous);
        row_sums_put_near(w, 0, b->diagonal);
        row_sums_put_near(w, 1, b->next);
    }
    if (w->values.exists[METRIC_DUPLICATE_TOKEN]) {
        row_sums_put_occurrences(w, ROW_SUM_DUPLICATE, ROW_OCCURRENCE_SAME, b->duplicate);
    }
    if (w->values.exists[METRIC_INDUCTION]) {
        row_sums_put_occurrences(w, ROW_SUM_INDUCTION, ROW_OCCURRENCE_BEHIND, b->induction);
    }
}

static int row_sums_add_deficits(struct row_sums_work *w)
{
    int rc = 0;
    for (uint32_t s = 0; s < w->chunk.count; s++) {
        if (w->sound[s] == 1) {
            w->deficit[w->deficits++] = (float)(1 - w->kept[s]);
        }
    }
    if (w->deficits > ROW_SUMS_KEPT - ROW_BATCH) {
        rc = row_sums_flush_deficits(w);
    }
    return rc;
}

static int row_sums_add_chunk(struct row_sums_work *w, bool core)
{
    row_sums_place(w);
    int rc = row_sums_sort(w);
    if (rc != 0) {
        return rc;
    }
    row_sums_scale(w);
    if (w->rows->of_weights) {
        row_sums_judge_weights(w);
    } else {
        row_sums_judge_sinks(w);
    }
    uint32_t sound = 0;
    for (uint32_t s = 0; s < w->chunk.count; s++) {
        sound += w->sound[s] == 1;
    }
    w->block->rows += sound;
    if (sound > 0 && !w->rows->of_weights) {
        w->block->row_sum_error = 0;
    }
    row_sums_add_importance(w);
    if (!core) {
        return 0;
    }
    row_sums_add_totals(w);
    row_sums_to_batch(w);
    rc = row_values_add(&w->values, &w->batch, &w->block->head[w->h]);
    if (rc == 0 && row_sums_have(w->rows, METRIC_SINK_DEFICIT)) {
        rc = row_sums_add_deficits(w);
    }
    return rc;
}

static int row_sums_add_head(struct row_sums_work *w, uint32_t begin, uint32_t end,
                             struct scratch *scratch)
{
    const struct sent_sums *rows = w->rows;
    bool core = w->block->plan.group[METRIC_GROUP_CORE];
    struct head_block *head = &w->block->head[w->h];
    int rc = 0;
    w->sink = row_sums_sink(rows, w->h);
    w->totals = (struct row_sums_totals){.entries = {.min = INFINITY, .max = -INFINITY}};
    w->totals.logits = w->totals.cosines = w->totals.entries;
    for (w->b = 0; w->b < rows->batch && rc == 0; w->b++) {
        for (uint32_t i = begin; i < end && rc == 0; i += ROW_BATCH) {
            uint32_t count = end - i < ROW_BATCH ? end - i : ROW_BATCH;
            row_sums_read(rows, w->b, w->h, i, count, &w->chunk);
            rc = row_sums_add_chunk(w, core);
        }
        scratch_pause(scratch);
    }
    if (rc == 0 && core) {
        struct moments lengths = {.n = (uint64_t)w->totals.length_count,
                                  .mean = w->totals.lengths / w->totals.length_count};
        row_sums_flush_totals(&w->totals.entries, &head->entries);
        row_sums_flush_totals(&w->totals.logits, &head->logits);
        row_sums_flush_totals(&w->totals.cosines, &head->cosine);
        moments_merge(&head->q_norm, &lengths);
        rc = row_values_flush(&w->values, head);
    }
    return rc == 0 ? row_sums_flush_deficits(w) : rc;
}

/* The lengths of a key head, once for all heads that read it. */
static void row_sums_add_key_lengths(struct block *block, const struct sent_sums *rows)
{
    uint32_t group = rows->heads / rows->kv_heads;
    for (uint32_t kv = 0; kv < rows->kv_heads; kv++) {
        struct moments lengths = {0};
        for (uint32_t b = 0; b < rows->batch; b++) {
            row_sums_add_keys(rows, b, kv, &lengths);
        }
        for (uint32_t h = kv * group; h < (kv + 1) * group; h++) {
            moments_merge(&block->head[h].k_norm, &lengths);
        }
    }
}

int row_sums_compute(struct block *block, const struct sent_sums *rows, uint32_t row_begin,
                     uint32_t row_end, enum isa isa, struct scratch *scratch)
{
    if (isa == ISA_SCALAR) {
        return row_sums_compute_ref(block, rows, row_begin, row_end);
    }
    struct row_sums_work w = {.rows = rows,
                              .block = block,
                              .kernels = kernels_or_portable(isa)->row,
                              .as_sent = rows->of_weights && !rows->learned_sink};
    int rc = scratch_take_pieces(scratch, row_sums_lay, &w);
    if (rc != 0) {
        return rc;
    }
    row_sums_begin(&w.chunk);
    row_values_begin(&w.values, w.memory, 1, w.kernels);
    w.values.own_entries = true;
    for (int m = 0; m < METRIC_ROW_COUNT; m++) {
        w.values.exists[m] = m != METRIC_SINK_DEFICIT && row_sums_have(rows, (enum metric)m);
    }
    if (row_begin == 0 && block->plan.group[METRIC_GROUP_CORE]) {
        row_sums_add_key_lengths(block, rows);
    }
    for (w.h = 0; w.h < rows->heads && rc == 0; w.h++) {
        rc = row_sums_add_head(&w, row_begin, row_end, scratch);
    }
    return rc;
}
