/* SPDX-License-Identifier: MIT */
/* qk: tiles of queries by keys. The products of a tile come from one sgemm (and A V from another);
 * the kernels of an instruction set fold each tile into its rows (qk/kernel.h), and what a row's
 * sums say is worked out when its last tile is in (finish.c).
 *
 * Order: samples, key heads, the heads that read them, blocks of queries, tiles of keys. Tiles that
 * no row of the block can see are skipped, so causal attention costs half. Rows that are out of the
 * ordinary never come here: see work.c. */
#include "workers/qk/internal.h"

#include <assert.h>
#include <cblas.h>
#include <math.h>
#include <string.h>

static void qk_begin_row(const struct qk_work *w, uint32_t i, double query_length, uint32_t at)
{
    const struct qk_span *span = &w->span[i - w->row_begin];
    const struct qk_counts *from = &w->before[span->begin], *to = &w->before[span->end];
    struct qk_row *row = &w->row[at];
    memset(row, 0, sizeof *row);
    row->max = -INFINITY;
    row->first = row->near[0] = row->near[1] = row->near[2] = NAN;
    row->duplicate_next = row->induction_next = span->occurrence;
    row->begin = span->begin;
    row->end = span->end;
    row->position = (int64_t)attention_position(w->a, i);
    row->first_key = attention_first_key(w->a, w->sample, i);
    row->with_first = row->first_key == span->begin;
    row->has_holes = span->has_holes;
    row->holes = attention_row_holes(w->a, w->sample, i);
    row->zeros = to->zero != from->zero;
    for (uint32_t l = 0; l < QK_LANES; l++) {
        row->low[l] = row->cosine_low[l] = INFINITY;
        row->cosine_high[l] = -INFINITY;
    }
    for (uint32_t k = 0; k < QK_TOP; k++) {
        row->top[k] = -INFINITY;
    }
    row->silent = to->infinite - from->infinite;
    row->silent_first = row->with_first && !w->usual[span->begin];
    if (row->silent > 0) { /* and there are no others */
        row->has_holes = true;
        row->holes = (struct attention_holes){.mask = w->usual};
    }
    bool output = w->values && !qk_work_sees_lost(w, i);
    w->extra[at] = (struct qk_row_extra){
        .inverse_length = query_length > 0 ? 1 / query_length : 0,
        .output = output ? w->output + (size_t)at * w->a->qk.value_dim : NULL,
        .written = w->written_unit > 0 ? w->written + (size_t)at * w->a->qk.written_dim : NULL,
        .x_norm = attention_x_norm(w->a, w->sample, i),
        .gradient = w->gradient ? &w->gradient_row[at] : NULL};
}

/* Takes query i of the current head: into the tile's rows, or where else it belongs. Returns 0 or
 * ERR_MEMORY. */
static int qk_take_row(struct qk_work *w, uint32_t i, uint32_t *active)
{
    if (!w->span[i - w->row_begin].valid) {
        return 0;
    }
    double length = qk_work_query_length(w, i);
    enum qk_verdict verdict = qk_work_judge(w, i, *active, length);
    if (verdict == QK_SOUND && w->gradient && !qk_work_load_gradient(w, i, *active)) {
        verdict = QK_REFERENCE;
    }
    if (verdict == QK_REFERENCE) {
        scratch_pause(w->scratch);
        return qk_ref_row(&w->ref, w->block, w->head, i);
    }
    bool sound = verdict == QK_SOUND;
    w->block->rows += sound;
    w->block->invalid_rows += !sound;
    if (sound) {
        w->block->row_sum_error = 0;
    }
    if (w->core && isfinite(length)) {
        moments_add(&w->block->head[w->head].q_norm, length);
    }
    if (w->core && verdict == QK_SOUND) {
        qk_begin_row(w, i, length, *active);
        ++*active;
    }
    return 0;
}

/* Tiles. */

static void qk_add_output(const struct qk_work *w, const struct qk_tile *tile, const float *values)
{
    uint32_t rows = tile->rows, keys = tile->key_end - tile->key_begin;
    uint32_t dim = w->a->qk.value_dim;
    for (uint32_t r = 0; r < rows; r++) {
        float factor = w->row[r].rescale;
        for (uint32_t c = 0; factor < 1 && c < dim; c++) {
            w->output[(size_t)r * dim + c] *= factor;
        }
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)dim, (int)keys, 1,
                tile->product, QK_TILE_STRIDE, values, (int)dim, 1, w->output, (int)dim);
}

/* dL/dA = dO V^T of the tile, beside its e. */
static void qk_add_gradient(const struct qk_work *w, const struct qk_tile *tile,
                            const float *values)
{
    int dim = (int)w->a->qk.value_dim;
    float *gradient = w->gradient_product + (tile->product - w->product);
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tile->rows,
                (int)(tile->key_end - tile->key_begin), dim, 1, w->dout, dim, values, dim, 0,
                gradient, QK_TILE_STRIDE);
    w->kernel->fold_gradient(tile, gradient, w->gradient_row);
}

static void run_tile(const struct qk_work *w, struct qk_tile *tile, uint32_t begin, uint32_t end)
{
    int d = (int)w->a->qk.head_dim;
    scratch_pause(w->scratch);
    /* Key 0 mostly stands apart: key 1 is the one to be aligned. */
    tile->product = w->product + (begin == 0 ? QK_LANES - 1 : 0);
    tile->key_begin = begin;
    tile->key_end = end;
    tile->infinite = w->before[begin].infinite != w->before[end].infinite;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tile->rows, (int)(end - begin), d, 1,
                w->query, d, qk_work_keys(w, begin, end), d, 0, tile->product, QK_TILE_STRIDE);
    w->kernel->fold_tile(tile);
    const float *values = w->values ? qk_work_values(w, begin, end) : NULL;
    if (w->gradient) {
        qk_add_gradient(w, tile, values);
    }
    if (w->values) {
        qk_add_output(w, tile, values);
    }
}

/* Base 2 logits per logit of the sums: a product, or a capped logit. */
static float slope_of(const struct attention *a)
{
    const double log2e = 1.44269504088896340736;
    return (float)(a->qk.softcap > 0 ? log2e : log2e * a->qk.scale);
}

/* Rows that see the same first key, together: its value is put back. */
static int finish_rows(struct qk_work *w, uint32_t rows)
{
    int rc = 0;
    for (uint32_t r = 0, n; rc == 0 && r < rows; r += n) {
        const struct qk_row *row = &w->row[r], *first = NULL;
        for (n = 0; r + n < rows; n++) {
            if (w->values && row[n].with_first) {
                if (first && row[n].begin != first->begin) {
                    break;
                }
                first = &row[n];
            }
        }
        if (first) {
            qk_work_load_first(w, first->begin);
        } else if (w->values) {
            memset(w->first_value, 0, w->a->qk.value_dim * sizeof *w->first_value);
            if (w->written_unit > 0) {
                memset(w->first_written, 0, w->a->qk.written_dim * sizeof *w->first_written);
            }
        }
        rc = qk_finish_rows(&w->finish, row, w->extra + r, n, w->room);
    }
    return rc;
}

/* The rows that were taken, from their first tile to their metrics. */
static int run_rows(struct qk_work *w, uint32_t rows)
{
    uint32_t begin = UINT32_MAX, end = 0;
    for (uint32_t r = 0; r < rows; r++) {
        begin = w->row[r].begin < begin ? w->row[r].begin : begin;
        end = w->row[r].end > end ? w->row[r].end : end;
    }
    const struct attention *a = w->a;
    struct qk_tile tile = {.stride = QK_TILE_STRIDE,
                           .rows = rows,
                           .row = w->row,
                           .slope = slope_of(a),
                           .scale = (float)a->qk.scale,
                           .cap = a->qk.softcap > 0 ? (float)a->qk.softcap : 0,
                           .window = w->block->plan.local_window,
                           .inverse_length = w->inverse_length,
                           .value_length = w->values ? w->value_length : NULL,
                           .value_log = w->values ? w->value_log : NULL,
                           .occurrence = w->next_same,
                           .keep = w->values || w->next_same,
                           .room = w->room,
                           .key = w->list};
    if (w->values) {
        memset(w->output, 0, (size_t)rows * a->qk.value_dim * sizeof *w->output);
    }
    while (begin < end) {
        uint32_t next = end - begin > QK_TILE_KEYS ? begin + QK_TILE_KEYS : end;
        run_tile(w, &tile, begin, next);
        begin = next;
    }
    if (w->written_unit > 0) {
        int r = (int)a->qk.written_dim, dim = (int)a->qk.value_dim;
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)rows, r, dim, 1, w->output, dim,
                    w->wo_r, dim, 0, w->written, r);
    }
    return finish_rows(w, rows);
}

static int run_head(struct qk_work *w, uint32_t h)
{
    int rc = 0;
    qk_work_begin_head(w, h);
    w->finish = (struct qk_finish){.kernel = w->kernel,
                                   .a = w->a,
                                   .head = &w->block->head[h],
                                   .sample = w->sample,
                                   .local_window = w->block->plan.local_window,
                                   .slope = (double)slope_of(w->a),
                                   .inverse_length = w->inverse_length,
                                   .value_length = w->values ? w->value_length : NULL,
                                   .first_value = w->values ? w->first_value : NULL,
                                   .first_written = w->first_written,
                                   .written_unit = w->written_unit,
                                   .first_same = w->first_same};
    qk_finish_begin(&w->finish, w->isa, w->columns);
    for (uint32_t i = w->row_begin; rc == 0 && i < w->row_end;) {
        uint32_t rows = 0;
        for (; rc == 0 && rows < QK_TILE_ROWS && i < w->row_end; i++) {
            rc = qk_take_row(w, i, &rows);
        }
        if (rc == 0 && rows > 0) {
            rc = run_rows(w, rows);
        }
    }
    return rc == 0 ? qk_finish_end(&w->finish) : rc;
}

int qk_compute(struct block *block, const struct attention *a, uint32_t row_begin, uint32_t row_end,
               enum isa isa, struct scratch *scratch)
{
    if (isa == ISA_SCALAR) {
        return qk_compute_ref(block, a, row_begin, row_end, scratch);
    }
    assert(block->batch == a->batch && block->heads == a->heads && row_end <= a->queries);
    assert(a->qk.kv_heads > 0 && a->heads % a->qk.kv_heads == 0 && row_begin <= row_end);
    bool core = block->plan.group[METRIC_GROUP_CORE] || block->plan.gradient;
    struct qk_work w = {.isa = isa,
                        .block = block,
                        .a = a,
                        .row_begin = row_begin,
                        .row_end = row_end,
                        .core = core,
                        .values = core && a->qk.v,
                        .gradient = block->plan.gradient};
    int rc = qk_work_begin(&w, scratch);
    uint32_t group = a->heads / a->qk.kv_heads;
    for (uint32_t b = 0; rc == 0 && b < a->batch; b++) {
        qk_work_begin_sample(&w, b);
        for (uint32_t kv = 0; rc == 0 && kv < a->qk.kv_heads; kv++) {
            qk_work_begin_key_head(&w, kv);
            for (uint32_t h = kv * group; rc == 0 && h < (kv + 1) * group; h++) {
                rc = run_head(&w, h);
            }
        }
    }
    return rc;
}
