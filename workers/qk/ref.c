/* SPDX-License-Identifier: MIT */
/* qk_ref: the scalar reference of tier `qk`, one small function per formula of KERNELS.md, in f64,
 * compiled without vectorising. A row's logits are laid out side by side, its softmax is taken, and
 * the weights go through the formulas of the attention tier (row_metrics.c): both tiers agree on
 * the same data because there is one set of formulas. */
#include "workers/qk/internal.h"

#include "proto/err.h"
#include "workers/rows/occurrence.h"
#include "workers/rows/output_ref.h"
#include "workers/rows/row_metrics.h"
#include <assert.h>
#include <math.h>

static uint32_t qk_ref_larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

void qk_ref_lay(void *data, struct scratch_pieces *p)
{
    struct qk_ref *ref = data;
    const struct attention *a = &ref->a;
    uint64_t n = a->keys, d = a->qk.head_dim, dv = a->qk.value_dim;
    bool chains = ref->core && a->self && a->tokens;
    ref->query = scratch_carve(p, d, sizeof *ref->query);
    ref->vector =
        scratch_carve(p, qk_ref_larger(a->qk.head_dim, a->qk.value_dim), sizeof *ref->vector);
    ref->output = scratch_carve(p, dv, sizeof *ref->output);
    ref->written = scratch_carve(p, dv, sizeof *ref->written);
    ref->gradient = ref->has_gradient ? scratch_carve(p, dv, sizeof *ref->gradient) : NULL;
    ref->logit = scratch_carve(p, n, sizeof *ref->logit);
    ref->cosine = scratch_carve(p, n, sizeof *ref->cosine);
    ref->weight = scratch_carve(p, n, sizeof *ref->weight);
    ref->share = scratch_carve(p, n, sizeof *ref->share);
    ref->key = scratch_carve(p, n, sizeof *ref->key);
    ref->previous = chains ? scratch_carve(p, 3 * n, sizeof *ref->previous) : NULL;
}

struct qk_ref qk_ref_of(const struct block *block, const struct attention *a)
{
    struct qk_ref ref = {.a = *a,
                         .local_window = block->plan.local_window,
                         .core = block->plan.group[METRIC_GROUP_CORE] || block->plan.gradient,
                         .has_gradient = block->plan.gradient};
    ref.a.learned_sink = false;
    return ref;
}

void qk_ref_sample(struct qk_ref *ref, uint32_t b)
{
    ref->sample = b;
    if (ref->previous) {
        size_t n = ref->a.keys;
        occurrence_link(ref->a.tokens + b * n, attention_key_count(&ref->a, b), ref->previous + n,
                        ref->previous);
    }
}

/* Formulas. */

static double qk_ref_dot(const double *x, const double *y, uint32_t n)
{
    double sum = 0;
    for (uint32_t c = 0; c < n; c++) {
        sum += x[c] * y[c];
    }
    return sum;
}

/* scale q k, then softcap */
static double logit_of(const struct qk *qk, double product)
{
    double s = qk->scale * product;
    return qk->softcap > 0 ? qk->softcap * tanh(s / qk->softcap) : s;
}

/* Finite or -infinity, and finite somewhere. */
static bool logits_sound(const double *logit, uint32_t n)
{
    bool some = false;
    for (uint32_t k = 0; k < n; k++) {
        if (isnan(logit[k]) || logit[k] == INFINITY) {
            return false;
        }
        some = some || isfinite(logit[k]);
    }
    return some;
}

static double qk_ref_largest_of(const double *x, uint32_t n)
{
    double largest = x[0];
    for (uint32_t k = 1; k < n; k++) {
        largest = x[k] > largest ? x[k] : largest;
    }
    return largest;
}

/* exp(S - max) / sum */
static void qk_ref_softmax(const double *logit, uint32_t n, double *ret_weight)
{
    double largest = qk_ref_largest_of(logit, n), sum = 0;
    for (uint32_t k = 0; k < n; k++) {
        ret_weight[k] = exp(logit[k] - largest);
        sum += ret_weight[k];
    }
    for (uint32_t k = 0; k < n; k++) {
        ret_weight[k] /= sum;
    }
}

/* The row. */

static void load_query(const struct qk_ref *ref, uint32_t h, uint32_t i)
{
    const struct attention *a = &ref->a;
    size_t row = ((size_t)ref->sample * a->heads + h) * a->queries + i;
    attention_load(a->qk.q, a->qk.q_dtype, row * a->qk.head_dim, a->qk.head_dim, ref->query);
}

static void load_key(const struct qk_ref *ref, uint32_t h, uint32_t j)
{
    const struct qk *qk = &ref->a.qk;
    attention_load(qk->k, qk->k_dtype, output_ref_vector(&ref->a, ref->sample, h, j, qk->head_dim),
                   qk->head_dim, ref->vector);
}

static void load_value(const struct qk_ref *ref, uint32_t h, uint32_t j)
{
    const struct qk *qk = &ref->a.qk;
    attention_load(qk->v, qk->v_dtype, output_ref_vector(&ref->a, ref->sample, h, j, qk->value_dim),
                   qk->value_dim, ref->vector);
}

/* Logits and cosines of the row's n keys; the query is loaded. */
static void fill_logits(const struct qk_ref *ref, uint32_t h, uint32_t n, double query_length)
{
    const struct qk *qk = &ref->a.qk;
    for (uint32_t k = 0; k < n; k++) {
        load_key(ref, h, ref->key[k]);
        double product = qk_ref_dot(ref->query, ref->vector, qk->head_dim);
        ref->logit[k] = logit_of(qk, product);
        ref->cosine[k] = product / query_length / output_ref_length(ref->vector, qk->head_dim);
    }
}

/* sum |A dL/dA|, dL/dA = dO v_j, products that are not finite left out. */
static void qk_ref_add_gradient(const struct qk_ref *ref, struct head_block *head, uint32_t h,
                                uint32_t i, uint32_t n)
{
    const struct attention *a = &ref->a;
    size_t row = ((size_t)ref->sample * a->heads + h) * a->queries + i;
    uint32_t dim = a->qk.value_dim;
    attention_load(a->qk.dout, a->qk.dout_dtype, row * dim, dim, ref->gradient);
    for (uint32_t k = 0; k < n; k++) {
        load_value(ref, h, ref->key[k]);
        double product = fabs(ref->weight[k] * qk_ref_dot(ref->gradient, ref->vector, dim));
        head->gradient += isfinite(product) ? product : 0;
    }
}

/* Merges the finite ones of x[n], which it compacts. */
static void merge_finite(struct moments *into, double *x, uint32_t n)
{
    uint32_t kept = 0;
    for (uint32_t k = 0; k < n; k++) {
        double one = x[k];
        x[kept] = one;
        kept += isfinite(one) != 0;
    }
    row_merge_moments(into, x, kept);
}

static int add_core(struct qk_ref *ref, struct head_block *head, uint32_t h, uint32_t i, uint32_t n)
{
    qk_ref_softmax(ref->logit, n, ref->weight);
    struct row r = {.position = attention_position(&ref->a, i),
                    .first = attention_first_key(&ref->a, ref->sample, i),
                    .n = n,
                    .key = ref->key,
                    .weight = ref->weight};
    struct row_context context = {.a = &ref->a,
                                  .sample = ref->sample,
                                  .local_window = ref->local_window,
                                  .previous = ref->previous};
    int rc = row_metrics_add(head, &context, &r);
    if (rc == 0) {
        rc = dist_add(&head->row[METRIC_MAX_LOGIT], qk_ref_largest_of(ref->logit, n));
    }
    merge_finite(&head->logits, ref->logit, n);
    merge_finite(&head->cosine, ref->cosine, n);
    if (ref->a.qk.v) {
        struct output_ref work = {ref->vector, ref->output, ref->written, ref->share};
        output_ref_add(&work, &ref->a, head, ref->sample, h, i, &r);
    }
    if (ref->gradient) {
        qk_ref_add_gradient(ref, head, h, i, n);
    }
    return rc;
}

int qk_ref_row(struct qk_ref *ref, struct block *block, uint32_t h, uint32_t i)
{
    load_query(ref, h, i);
    double length = output_ref_length(ref->query, ref->a.qk.head_dim);
    uint32_t n = attention_valid_keys(&ref->a, ref->sample, i, ref->key);
    fill_logits(ref, h, n, length);
    bool sound = logits_sound(ref->logit, n);
    block->rows += sound;
    block->invalid_rows += !sound;
    if (sound) {
        block->row_sum_error = 0;
    }
    if (ref->core) {
        moments_add_finite(&block->head[h].q_norm, length);
    }
    return sound && ref->core ? add_core(ref, &block->head[h], h, i, n) : 0;
}

void qk_ref_weights(struct qk_ref *ref, uint32_t h, uint32_t i, float *ret_weight)
{
    load_query(ref, h, i);
    uint32_t n = attention_valid_keys(&ref->a, ref->sample, i, ref->key);
    fill_logits(ref, h, n, 1);
    bool sound = logits_sound(ref->logit, n);
    if (sound) {
        qk_ref_softmax(ref->logit, n, ref->weight);
    }
    for (uint32_t j = 0; j < ref->a.keys; j++) {
        ret_weight[j] = 0;
    }
    for (uint32_t k = 0; k < n; k++) {
        ret_weight[ref->key[k]] = sound ? (float)ref->weight[k] : NAN;
    }
}

/* All of a sample, whatever rows see them; once per message, with its first row. */
static void qk_ref_add_key_norms(struct qk_ref *ref, struct block *block, uint32_t h)
{
    uint32_t keys = attention_key_count(&ref->a, ref->sample);
    for (uint32_t j = 0; j < keys; j++) {
        load_key(ref, h, j);
        moments_add_finite(&block->head[h].k_norm,
                           output_ref_length(ref->vector, ref->a.qk.head_dim));
    }
}

static int qk_ref_add_row(struct qk_ref *ref, struct block *block, uint32_t i)
{
    int rc = 0;
    bool valid = attention_query_valid(&ref->a, ref->sample, i);
    for (uint32_t h = 0; rc == 0 && h < block->heads; h++) {
        if (i == 0 && ref->core) {
            qk_ref_add_key_norms(ref, block, h);
        }
        rc = valid ? qk_ref_row(ref, block, h, i) : 0;
    }
    return rc;
}

int qk_compute_ref(struct block *block, const struct attention *a, uint32_t row_begin,
                   uint32_t row_end, struct scratch *scratch)
{
    assert(block->batch == a->batch && block->heads == a->heads && row_end <= a->queries);
    assert(a->qk.kv_heads > 0 && a->heads % a->qk.kv_heads == 0);
    struct qk_ref ref = qk_ref_of(block, a);
    int rc = scratch_take_pieces(scratch, qk_ref_lay, &ref);
    for (uint32_t b = 0; rc == 0 && b < a->batch; b++) {
        qk_ref_sample(&ref, b);
        for (uint32_t i = row_begin; rc == 0 && i < row_end; i++) {
            scratch_pause(scratch);
            rc = qk_ref_add_row(&ref, block, i);
        }
    }
    return rc;
}
