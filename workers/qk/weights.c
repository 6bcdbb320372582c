/* SPDX-License-Identifier: MIT */
/* qk_weights: the map itself: the products of a tile's rows come from sgemm straight into the map,
 * and each row's softmax is taken in place; where a row sees one range of keys, and without
 * softcap, by passes that vectorise. Rows that are not ordinary (work.c) go through the
 * reference; those that are not sound are NaN at their keys, so that whoever measures the map
 * counts them. */
#include "workers/qk/internal.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

/* The map's rows [row_begin, row_end) of the current sample and head. */
static float *map_row(const struct qk_work *w, float *map, uint32_t i)
{
    size_t rows = w->row_end - w->row_begin;
    size_t head = (size_t)w->sample * w->a->heads + w->head;
    return map + (head * rows + (i - w->row_begin)) * w->a->keys;
}

/* Products to logits, those of excluded keys to -infinity; returns the largest. */
static float finish_logits(const struct qk_work *w, uint32_t i, float *row)
{
    const struct qk *qk = &w->a->qk;
    float largest = -INFINITY;
    uint32_t n = attention_valid_keys(w->a, w->sample, i, w->list), next = 0;
    for (uint32_t j = 0; j < w->a->keys; j++) {
        bool valid = next < n && w->list[next] == j;
        next += valid;
        double s = valid ? qk->scale * (double)row[j] : -INFINITY;
        s = valid && qk->softcap > 0 ? qk->softcap * tanh(s / qk->softcap) : s;
        row[j] = (float)s;
        largest = row[j] > largest ? row[j] : largest;
    }
    return largest;
}

/* exp(S - largest), 0 where S is -infinity; returns the sum. */
static double finish_exponentials(const struct qk_work *w, float largest, float *row)
{
    const float log2e = 0x1.715476p+0f;
    double sum = 0;
    for (uint32_t begin = 0; begin < w->a->keys; begin += QK_TILE_KEYS) {
        uint32_t left = w->a->keys - begin, n = left < QK_TILE_KEYS ? left : QK_TILE_KEYS;
        memset(w->room, 0, QK_TILE_KEYS * sizeof *w->room);
        for (uint32_t k = 0; k < n; k++) {
            w->room[k] = (row[begin + k] - largest) * log2e;
        }
        w->kernel->exp2(w->room, QK_TILE_KEYS);
        for (uint32_t k = 0; k < n; k++) {
            row[begin + k] = row[begin + k] > -INFINITY ? w->room[k] : 0;
            sum += (double)row[begin + k];
        }
    }
    return sum;
}

static void take_softmax_by_key(const struct qk_work *w, uint32_t i, float *row)
{
    double sum = finish_exponentials(w, finish_logits(w, i, row), row);
    for (uint32_t j = 0; j < w->a->keys; j++) {
        row[j] = (float)((double)row[j] / sum);
    }
}

static float qk_weights_largest_of(const float *x, uint32_t n)
{
    float largest = -INFINITY;
    for (uint32_t j = 0; j < n; j++) {
        largest = x[j] > largest ? x[j] : largest;
    }
    return largest;
}

/* Products of the n keys that are seen, n <= QK_TILE_KEYS, to exponentials; returns their sum. */
static double take_exponentials(const struct qk_work *w, float largest, float *x, uint32_t n)
{
    const float factor = (float)(w->a->qk.scale * 0x1.71547652b82fep+0);
    double sum[QK_LANES] = {0}, all = 0;
    memset(w->room, 0, QK_TILE_KEYS * sizeof *w->room);
    for (uint32_t j = 0; j < n; j++) {
        w->room[j] = (x[j] - largest) * factor;
    }
    w->kernel->exp2(w->room, QK_TILE_KEYS);
    memset(w->room + n, 0, (QK_TILE_KEYS - n) * sizeof *w->room);
    for (uint32_t j = 0; j < QK_TILE_KEYS; j += QK_LANES) {
        for (uint32_t k = 0; k < QK_LANES; k++) {
            sum[k] += (double)w->room[j + k];
        }
    }
    memcpy(x, w->room, n * sizeof *x);
    for (uint32_t k = 0; k < QK_LANES; k++) {
        all += sum[k];
    }
    return all;
}

static void take_softmax_of_range(const struct qk_work *w, const struct qk_span *span, float *row)
{
    float *x = row + span->begin;
    uint32_t n = span->end - span->begin;
    bool infinite = w->before[span->begin].infinite != w->before[span->end].infinite;
    for (uint32_t j = 0; infinite && j < n; j++) {
        x[j] = w->usual[span->begin + j] ? x[j] : -INFINITY;
    }
    float largest = qk_weights_largest_of(x, n);
    double sum = 0;
    for (uint32_t j = 0; j < n; j += QK_TILE_KEYS) {
        sum += take_exponentials(w, largest, x + j, n - j < QK_TILE_KEYS ? n - j : QK_TILE_KEYS);
    }
    const float share = (float)(1 / sum);
    for (uint32_t j = 0; j < n; j++) {
        x[j] *= share;
    }
    for (uint32_t j = 0; infinite && j < n; j++) {
        x[j] = w->usual[span->begin + j] ? x[j] : 0;
    }
    memset(row, 0, span->begin * sizeof *row);
    memset(row + span->end, 0, (w->a->keys - span->end) * sizeof *row);
}

static void take_softmax(const struct qk_work *w, uint32_t i, float *row)
{
    const struct qk_span *span = &w->span[i - w->row_begin];
    if (span->has_holes || w->a->qk.softcap > 0) {
        take_softmax_by_key(w, i, row);
    } else {
        take_softmax_of_range(w, span, row);
    }
}

/* Whether row i's products are worth taking; the query is then at its place `at`. If not, its
 * weights are set. */
static bool is_ordinary(struct qk_work *w, float *map, uint32_t i, uint32_t at)
{
    float *row = map_row(w, map, i);
    bool valid = w->span[i - w->row_begin].valid;
    enum qk_verdict verdict =
        valid ? qk_work_judge(w, i, at, qk_work_query_length(w, i)) : QK_UNSOUND;
    if (verdict == QK_REFERENCE) {
        qk_ref_weights(&w->ref, w->head, i, row);
    } else if (verdict == QK_UNSOUND) {
        uint32_t n = valid ? attention_valid_keys(w->a, w->sample, i, w->list) : 0;
        memset(row, 0, w->a->keys * sizeof *row);
        for (uint32_t k = 0; k < n; k++) {
            row[w->list[k]] = NAN;
        }
    }
    return verdict == QK_SOUND;
}

/* The rows from `begin` on that one sgemm can do: side by side, all ordinary. Returns how many. */
static uint32_t qk_weights_take_rows(struct qk_work *w, float *map, uint32_t begin)
{
    uint32_t rows = 0;
    while (rows < QK_TILE_ROWS && begin + rows < w->row_end &&
           is_ordinary(w, map, begin + rows, rows)) {
        rows++;
    }
    return rows;
}

/* Up to the last key that one of the rows sees. */
static void qk_weights_multiply(const struct qk_work *w, float *map, uint32_t begin, uint32_t rows)
{
    int d = (int)w->a->qk.head_dim;
    uint32_t keys = 0;
    for (uint32_t i = begin; i < begin + rows; i++) {
        uint32_t end = w->span[i - w->row_begin].end;
        keys = end > keys ? end : keys;
    }
    float *product = map_row(w, map, begin);
    for (uint32_t j = 0; j < keys; j += QK_TILE_KEYS) {
        uint32_t end = keys - j < QK_TILE_KEYS ? keys : j + QK_TILE_KEYS;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, (int)(end - j), d, 1,
                    w->query, d, qk_work_keys(w, j, end), d, 0, product + j, (int)w->a->keys);
    }
}

static void qk_weights_fill_head(struct qk_work *w, float *map)
{
    for (uint32_t i = w->row_begin; i < w->row_end;) {
        scratch_pause(w->scratch);
        uint32_t rows = qk_weights_take_rows(w, map, i);
        if (rows > 0) {
            qk_weights_multiply(w, map, i, rows);
        }
        for (uint32_t end = i + rows; i < end; i++) {
            take_softmax(w, i, map_row(w, map, i));
        }
        i += rows == 0; /* is_ordinary has filled it */
    }
}

int qk_weights(const struct attention *a, uint32_t row_begin, uint32_t row_end, float *ret_weights,
               enum isa isa, struct scratch *scratch)
{
    struct block nothing = {.batch = a->batch, .heads = a->heads};
    struct qk_work w = {
        .isa = isa, .block = &nothing, .a = a, .row_begin = row_begin, .row_end = row_end};
    int rc = qk_work_begin(&w, scratch);
    uint32_t group = a->heads / a->qk.kv_heads;
    for (uint32_t b = 0; rc == 0 && b < a->batch; b++) {
        qk_work_begin_sample(&w, b);
        for (uint32_t kv = 0; kv < a->qk.kv_heads; kv++) {
            qk_work_begin_key_head(&w, kv);
            for (w.head = kv * group; w.head < (kv + 1) * group; w.head++) {
                qk_weights_fill_head(&w, ret_weights);
            }
        }
    }
    return rc;
}
