/* SPDX-License-Identifier: MIT */
/* Senders are strangers: whatever the tensors hold, a row gets numbers that some attention could
 * have, or a verdict against the row. Sums come in f32, from kernels that rescale sums as the pass
 * over the keys goes on, so each bound has room for rounding. */
#include "workers/rows/row_sums_internal.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define CACHE_LINE 64

const double row_sums_grown[ROW_SUMS_POWERS] = {
    0x1.000000135208ap+0, 0x1.ffffe272a3dcfp-2,  0x1.555901b8c991bp-3, 0x1.54fe267e62000p-5,
    0x1.14e214db1d24bp-7, 0x1.40df1970a4927p-10, 0x1.44b41d6edb6dbp-12};
const double row_sums_tilted[ROW_SUMS_POWERS] = {
    0x1.000000a25a0eap+0, 0x1.ffff83d9b0c9cp-1, 0x1.0007b60886653p-1, 0x1.549e8e4bdf623p-3,
    0x1.5d51047fa6db8p-5, 0x1.c819fcdb04922p-8, 0x1.2e7e59996db6ep-9};
const enum row_sum row_sums_power[ROW_SUMS_POWERS] = {
    ROW_SUM_TOTAL,   ROW_SUM_SQUARE,  ROW_SUM_POWER_3, ROW_SUM_POWER_4,
    ROW_SUM_POWER_5, ROW_SUM_POWER_6, ROW_SUM_POWER_7};

static bool row_sums_read_has_all(const struct sent_sums *rows, const enum row_sum *sums,
                                  size_t count)
{
    bool all = true;
    for (size_t i = 0; i < count; i++) {
        all = all && rows->column[sums[i]];
    }
    return all;
}

bool row_sums_weigh(const struct sent_sums *rows)
{
    return rows->rows == rows->queries && !rows->dropout &&
           row_sums_read_has_all(rows, row_sums_power, ROW_SUMS_POWERS);
}

bool row_sums_have(const struct sent_sums *rows, enum metric metric)
{
    static const enum row_sum logits[] = {ROW_SUM_FINITE, ROW_SUM_SHIFT, ROW_SUM_LOGITS,
                                          ROW_SUM_LOGIT_SQUARES, ROW_SUM_SMALLEST};
    const uint8_t *has = rows->column;
    switch (metric) {
    case METRIC_LOCAL_MASS:
        return has[ROW_SUM_LOCAL];
    case METRIC_DIAGONAL:
        return rows->self && has[ROW_SUM_OWN];
    case METRIC_PREVIOUS_TOKEN:
        return rows->self && has[ROW_SUM_PREVIOUS];
    case METRIC_NEXT_TOKEN:
        return rows->self && has[ROW_SUM_NEXT];
    case METRIC_LOCALITY:
        return rows->self && has[ROW_SUM_PREVIOUS] && has[ROW_SUM_NEXT];
    case METRIC_TAIL_MASS:
        return has[ROW_SUM_TOP] && has[ROW_SUM_EIGHTH];
    case METRIC_INDUCTION:
        return rows->self && has[ROW_SUM_INDUCTION];
    case METRIC_DUPLICATE_TOKEN:
        return rows->self && has[ROW_SUM_DUPLICATE];
    case METRIC_SINK_DEFICIT:
        return rows->of_weights ? rows->learned_sink : rows->sinks != NULL;
    case METRIC_MAX_LOGIT:
        return !rows->of_weights;
    case METRIC_MIN:
        return has[ROW_SUM_FINITE] && has[ROW_SUM_SMALLEST];
    case METRIC_STD:
    case METRIC_VARIANCE:
        return has[ROW_SUM_SQUARE];
    case METRIC_MAX_ABS_LOGIT:
    case METRIC_MEAN_LOGIT:
    case METRIC_STD_LOGIT:
        return !rows->of_weights &&
               row_sums_read_has_all(rows, logits, sizeof logits / sizeof logits[0]);
    case METRIC_QK_COSINE:
    case METRIC_QK_COSINE_MAX:
        return !rows->of_weights && has[ROW_SUM_COSINES] && has[ROW_SUM_COSINE_COUNT] &&
               has[ROW_SUM_QUERY_LENGTH] && (metric == METRIC_QK_COSINE || has[ROW_SUM_COSINE_MAX]);
    case METRIC_Q_NORM:
        return !rows->of_weights && has[ROW_SUM_QUERY_LENGTH];
    case METRIC_K_NORM:
        return !rows->of_weights && rows->key_lengths;
    case METRIC_OUTPUT_NORM:
    case METRIC_NORM_WEIGHTED_ENTROPY:
    case METRIC_WRITE_NORM:
    case METRIC_RESIDUAL_SHARE:
        return false;
    default:
        return true;
    }
}

static float row_sums_read_f32(const void *tensor, size_t at)
{
    float x;
    memcpy(&x, (const char *)tensor + at * sizeof x, sizeof x);
    return x;
}

void row_sums_read(const struct sent_sums *rows, uint32_t b, uint32_t h, uint32_t i, uint32_t count,
                   struct row_chunk *chunk)
{
    size_t all = (size_t)rows->batch * rows->heads * rows->rows;
    size_t at = ((size_t)b * rows->heads + h) * rows->rows + i;
    size_t places = (size_t)(rows->places_shared ? 1 : rows->batch) * rows->rows;
    size_t place = (size_t)(rows->places_shared ? 0 : b) * rows->rows + i;
    /* The next rows are asked for: no more than a few lines lie side by side, which the machine
     * does not see coming. */
    size_t lines = at + 2 * (size_t)count <= all ? count * sizeof(float) / CACHE_LINE : 0;
    chunk->count = count;
    for (int s = 0; s < ROW_SUM_COUNT; s++) {
        if (rows->column[s]) {
            size_t from = (size_t)(rows->column[s] - 1) * all + at;
            const char *sums = (const char *)rows->sums + from * sizeof(float);
            memcpy(chunk->sum[s], sums, count * sizeof(float));
            for (size_t line = 0; line < lines; line++) {
                __builtin_prefetch(sums + count * sizeof(float) + line * CACHE_LINE);
            }
        }
    }
    for (int k = 0; k < ROW_PLACE_COUNT; k++) {
        size_t from = (size_t)k * places + place;
        memcpy(chunk->place[k], (const char *)rows->places + from * sizeof(int32_t),
               count * sizeof(int32_t));
    }
}

void row_sums_begin(struct row_chunk *chunk)
{
    *chunk = (struct row_chunk){.count = 0};
    for (int s = 0; s < ROW_CHUNK; s++) {
        chunk->sum[ROW_SUM_PREVIOUS][s] = chunk->sum[ROW_SUM_OWN][s] = -INFINITY;
        chunk->sum[ROW_SUM_NEXT][s] = -INFINITY;
    }
}

/* The sums over the keys but the one apart may be anything where no such key is visible. */
static void row_sums_read_clear(struct row_numbers *row)
{
    static const enum row_sum rest[] = {
        ROW_SUM_TOTAL,     ROW_SUM_WEIGHTED, ROW_SUM_DISTANCE, ROW_SUM_LOCAL,   ROW_SUM_SQUARE,
        ROW_SUM_POWER_3,   ROW_SUM_POWER_4,  ROW_SUM_POWER_5,  ROW_SUM_POWER_6, ROW_SUM_POWER_7,
        ROW_SUM_TOP,       ROW_SUM_EIGHTH,   ROW_SUM_PREVIOUS, ROW_SUM_OWN,     ROW_SUM_NEXT,
        ROW_SUM_DUPLICATE, ROW_SUM_INDUCTION};
    for (size_t i = 0; i < sizeof rest / sizeof rest[0]; i++) {
        row->sum[rest[i]] = 0;
    }
}

void row_sums_take(const struct sent_sums *rows, const struct row_chunk *chunk, uint32_t slot,
                   struct row_numbers *ret_row)
{
    for (int s = 0; s < ROW_SUM_COUNT; s++) {
        ret_row->sum[s] = (double)chunk->sum[s][slot];
    }
    if (ret_row->sum[ROW_SUM_LARGEST] == -INFINITY) {
        row_sums_read_clear(ret_row);
    }
    for (int k = 0; k < ROW_PLACE_COUNT; k++) {
        ret_row->place[k] = chunk->place[k][slot];
    }
    const int32_t *p = ret_row->place;
    double apart = ret_row->sum[ROW_SUM_APART];
    bool is_later = rows->column[ROW_SUM_APART] && apart < 0;
    ret_row->seen = rows->column[ROW_SUM_SEEN] ? ret_row->sum[ROW_SUM_SEEN] : p[ROW_PLACE_SEEN];
    ret_row->farthest =
        rows->column[ROW_SUM_FARTHEST] ? ret_row->sum[ROW_SUM_FARTHEST] : p[ROW_PLACE_FARTHEST];
    ret_row->apart = !rows->column[ROW_SUM_APART] ? p[ROW_PLACE_FIRST]
                     : is_later                   ? -1 - apart
                                                  : apart;
    ret_row->first = p[ROW_PLACE_FIRST];
    ret_row->with_first = p[ROW_PLACE_WITH_FIRST] == 1;
    if (p[ROW_PLACE_FIRST] < 0) {
        ret_row->first = ret_row->apart - is_later;
        ret_row->with_first = !is_later;
    }
    if (rows->column[ROW_SUM_WITH_FIRST]) {
        ret_row->with_first = ret_row->sum[ROW_SUM_WITH_FIRST] == 1;
    }
}

static bool row_sums_read_within(double x, double least, double most)
{
    return x >= least && x <= most; /* no NaN is */
}

static bool row_sums_read_counts(double x, double most)
{
    return row_sums_read_within(x, 0, most) && x == floor(x);
}

static bool row_sums_read_places(const struct sent_sums *rows, const struct row_numbers *row)
{
    const int32_t *p = row->place;
    double keys = rows->keys;
    bool has_apart = rows->column[ROW_SUM_APART];
    return p[ROW_PLACE_POSITION] >= 0 && p[ROW_PLACE_POSITIONS] >= 0 &&
           row_sums_read_within(p[ROW_PLACE_FIRST], has_apart ? -1 : 0, keys - 1) &&
           row_sums_read_within(p[ROW_PLACE_WITH_FIRST], 0, 1) &&
           row_sums_read_within(p[ROW_PLACE_SEEN], 0, keys) && p[ROW_PLACE_FARTHEST] >= 0 &&
           row_sums_read_within(p[ROW_PLACE_OCCURRENCE], 0, ROW_OCCURRENCE_ALL) &&
           row_sums_read_counts(row->sum[ROW_SUM_WITH_FIRST], 1) &&
           row_sums_read_counts(row->seen, keys);
}

/* `largest` is over the neighbours too, but another kernel may have computed a neighbour. */
static bool row_sums_read_neighbour(const struct row_numbers *row, enum row_sum sum)
{
    double largest = row->sum[ROW_SUM_LARGEST];
    return row->sum[sum] <= largest + 1 + fabs(largest) / 128;
}

/* The sums over the keys but the one apart, of which there are some. */
static bool row_sums_read_rest(const struct sent_sums *rows, const struct row_numbers *row)
{
    static const enum row_sum shares[] = {
        ROW_SUM_LOCAL,   ROW_SUM_SQUARE,  ROW_SUM_POWER_3, ROW_SUM_POWER_4,   ROW_SUM_POWER_5,
        ROW_SUM_POWER_6, ROW_SUM_POWER_7, ROW_SUM_TOP,     ROW_SUM_DUPLICATE, ROW_SUM_INDUCTION};
    const double *s = row->sum;
    double keys = rows->keys, total = s[ROW_SUM_TOTAL];
    double most = total * (1.01 + fabs(s[ROW_SUM_LARGEST]) * 0x1p-16); /* of other tiles */
    bool sound = row_sums_read_within(total, 0.99, 1.01 * keys) &&
                 row_sums_read_within(s[ROW_SUM_WEIGHTED], -0.4 * keys, 1e-4 * total) &&
                 row_sums_read_within(s[ROW_SUM_DISTANCE], 0, most * row->farthest) &&
                 s[ROW_SUM_TOP] <= 8.08 && row_sums_read_within(s[ROW_SUM_EIGHTH], 0, 1.01);
    for (size_t i = 0; i < sizeof shares / sizeof shares[0]; i++) {
        sound = sound && row_sums_read_within(s[shares[i]], 0, most);
    }
    return sound && row_sums_read_neighbour(row, ROW_SUM_PREVIOUS) &&
           row_sums_read_neighbour(row, ROW_SUM_OWN) && row_sums_read_neighbour(row, ROW_SUM_NEXT);
}

enum row_verdict row_sums_judge(const struct sent_sums *rows, const struct row_numbers *row)
{
    const double *s = row->sum;
    double keys = rows->keys;
    if (row->place[ROW_PLACE_VALID] == 0) {
        return ROW_PADDING;
    }
    if (row->place[ROW_PLACE_VALID] != 1 || !row_sums_read_places(rows, row)) {
        return ROW_IMPOSSIBLE;
    }
    if (row->seen == 0) {
        return ROW_BLIND;
    }
    if (!(s[ROW_SUM_LARGEST] < INFINITY && s[ROW_SUM_FIRST] < INFINITY) ||
        (!rows->of_weights && s[ROW_SUM_LARGEST] == -INFINITY && s[ROW_SUM_FIRST] == -INFINITY)) {
        return ROW_UNSOUND;
    }
    if (!row_sums_read_counts(row->apart, keys - 1) ||
        !row_sums_read_counts(row->farthest, INT32_MAX) ||
        !row_sums_read_counts(s[ROW_SUM_FINITE], keys) ||
        !row_sums_read_counts(s[ROW_SUM_COSINE_COUNT], keys) ||
        (s[ROW_SUM_LARGEST] > -INFINITY && !row_sums_read_rest(rows, row))) {
        return ROW_IMPOSSIBLE;
    }
    return ROW_SOUND;
}

void row_sums_add_keys(const struct sent_sums *rows, uint32_t b, uint32_t kv,
                       const struct row_kernels *kernels, struct moments *into)
{
    uint32_t keys = rows->k_len && (uint32_t)rows->k_len[b] < rows->keys ? (uint32_t)rows->k_len[b]
                                                                         : rows->keys;
    size_t at = ((size_t)b * rows->kv_heads + kv) * rows->keys;
    double sum = 0;
    uint64_t n = 0;
    if (rows->key_lengths && kernels) {
        const char *lengths = (const char *)rows->key_lengths + at * sizeof(float);
        n = kernels->finite_sum(lengths, keys, &sum);
    }
    for (uint32_t j = 0; rows->key_lengths && !kernels && j < keys; j++) {
        float length = row_sums_read_f32(rows->key_lengths, at + j);
        bool is_finite = fabsf(length) <= FLT_MAX;
        sum += is_finite ? (double)length : 0;
        n += is_finite;
    }
    if (n > 0) { /* only the mean of key lengths is asked for */
        struct moments lengths = {.n = n, .mean = sum / (double)n};
        moments_merge(into, &lengths);
    }
}

double row_sums_sink(const struct sent_sums *rows, uint32_t h)
{
    return rows->sinks && !rows->of_weights ? (double)row_sums_read_f32(rows->sinks, h) : -INFINITY;
}
