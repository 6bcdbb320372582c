/* SPDX-License-Identifier: MIT */
/* qk_work: one piece of scratch for everything, sized by counting and then carved.
 *
 * Extraordinary rows are known before any product, from the lengths of the vectors:
 *     a NaN in the query, or in a key that the row sees     the row is unsound, whatever the rest
 *     an infinity in the query                              unsound: no logit is finite
 *     an infinity in a key that the row sees                unsound, unless the logit is -infinity;
 *                                                           the key is then left out of the sums
 *     a length that is infinite, above 2^40, or not 0 and below 2^-40; |scale q k| that may exceed
 *     2^15, where f32 has no digits left for the difference of two logits; a negative scale
 *                                                           the row goes through the reference
 * so the tiles need no checks: their products are finite, and f32 neither over- nor underflows.
 * Keys are counted by kind from the left, so a row asks about its range by two subtractions. */
#include "workers/qk/internal.h"

#include "proto/err.h"
#include "workers/rows/occurrence.h"
#include "workers/rows/output_ref.h"
#include "workers/rows/row.h"
#include <cblas.h>
#include <float.h>
#include <math.h>
#include <string.h>

#define LENGTH_MAX 0x1p40
#define LENGTH_MIN 0x1p-40
#define LOGIT_MAX  0x1p15

/* Memory. */

static void qk_work_lay(void *data, struct scratch_pieces *c)
{
    struct qk_work *w = data;
    const struct attention *a = w->a;
    uint64_t keys = (uint64_t)a->keys + QK_LANES, d = a->qk.head_dim;
    uint64_t dv = w->values ? a->qk.value_dim : 0, longest = d > dv ? d : dv;
    bool tokens = w->core && a->self && a->tokens;
    w->span = scratch_carve(c, w->row_end - w->row_begin, sizeof *w->span);
    w->inverse_length = scratch_carve(c, keys, sizeof *w->inverse_length);
    w->value_length = scratch_carve(c, w->values ? keys : 0, sizeof *w->value_length);
    w->value_log = scratch_carve(c, w->values ? keys : 0, sizeof *w->value_log);
    w->key_length = scratch_carve(c, a->keys, sizeof *w->key_length);
    w->before = scratch_carve(c, (uint64_t)a->keys + 1, sizeof *w->before);
    w->usual = scratch_carve(c, a->keys, sizeof *w->usual);
    w->infinite_run = scratch_carve(c, a->keys, sizeof *w->infinite_run);
    w->run_key = scratch_carve(c, a->keys, sizeof *w->run_key);
    w->next_same = scratch_carve(c, tokens ? a->keys : 0, sizeof *w->next_same);
    w->first_same = scratch_carve(c, tokens ? a->keys : 0, sizeof *w->first_same);
    w->previous_same = scratch_carve(c, tokens ? a->keys : 0, sizeof *w->previous_same);
    w->sort = scratch_carve(c, tokens ? 2 * (uint64_t)a->keys : 0, sizeof *w->sort);
    w->list = scratch_carve(c, a->keys > QK_TILE_KEYS ? a->keys : QK_TILE_KEYS, sizeof *w->list);
    w->first_value = scratch_carve(c, dv, sizeof *w->first_value);
    uint64_t r = w->values && a->qk.wo_r ? a->qk.written_dim : 0, dg = w->gradient ? dv : 0;
    w->wo_r = scratch_carve(c, r * dv, sizeof *w->wo_r);
    w->first_written = scratch_carve(c, r, sizeof *w->first_written);
    w->written = scratch_carve(c, QK_TILE_ROWS * r, sizeof *w->written);
    w->dout = scratch_carve(c, QK_TILE_ROWS * dg, sizeof *w->dout);
    w->gradient_product = scratch_carve(c, w->gradient ? QK_TILE_ROWS * QK_TILE_STRIDE : 0,
                                        sizeof *w->gradient_product);
    w->gradient_row = scratch_carve(c, w->gradient ? QK_TILE_ROWS : 0, sizeof *w->gradient_row);
    w->vector = scratch_carve(c, longest + QK_LANES, sizeof *w->vector);
    w->query = scratch_carve(c, QK_TILE_ROWS * d + QK_LANES, sizeof *w->query);
    w->key = scratch_carve(c, QK_TILE_KEYS * d + QK_LANES, sizeof *w->key);
    w->value = scratch_carve(c, QK_TILE_KEYS * dv + QK_LANES, sizeof *w->value);
    w->product = scratch_carve(c, QK_TILE_ROWS * QK_TILE_STRIDE, sizeof *w->product);
    w->output = scratch_carve(c, QK_TILE_ROWS * dv, sizeof *w->output);
    size_t fold = QK_ROOM(QK_TILE_KEYS), finish = QK_FINISH_ROOM(QK_TILE_ROWS);
    w->room = scratch_carve(c, fold > finish ? fold : finish, sizeof *w->room);
    w->row = scratch_carve(c, QK_TILE_ROWS, sizeof *w->row);
    w->extra = scratch_carve(c, QK_TILE_ROWS, sizeof *w->extra);
    w->columns = scratch_carve(c, row_values_bytes(1), 1);
    qk_ref_lay(&w->ref, c);
}

uint64_t qk_scratch(const struct attention *a, uint32_t rows, bool gradient)
{
    struct qk_work w = {.a = a,
                        .row_end = rows,
                        .core = true,
                        .values = a->qk.v,
                        .gradient = gradient,
                        .ref = {.a = *a, .core = true, .has_gradient = gradient}};
    return scratch_bytes(qk_work_lay, &w);
}

int qk_work_begin(struct qk_work *w, struct scratch *scratch)
{
    w->kernel = kernels_or_portable(w->isa)->qk;
    w->scratch = scratch;
    w->ref = qk_ref_of(w->block, w->a);
    if (scratch_take_pieces(scratch, qk_work_lay, w) != 0) {
        return ERR_MEMORY;
    }
    if (!w->core || !w->a->self || !w->a->tokens) {
        w->next_same = w->previous_same = w->first_same = NULL;
    }
    return 0;
}

/* The sample: what rows may see, and chains of tokens. */

static struct qk_span span_of(const struct qk_work *w, uint32_t i)
{
    const struct attention *a = w->a;
    struct qk_span s = {.occurrence = OCCURRENCE_NONE,
                        .valid = attention_query_valid(a, w->sample, i)};
    if (!s.valid) {
        return s;
    }
    attention_key_range(a, w->sample, i, &s.begin, &s.end);
    if (a->mask || (a->documents && a->self)) {
        uint32_t n = attention_valid_keys(a, w->sample, i, w->list);
        s.begin = n > 0 ? w->list[0] : 0;
        s.end = n > 0 ? w->list[n - 1] + 1 : 0;
        s.has_holes = s.end - s.begin != n;
    }
    return s;
}

static void qk_work_link_tokens(const struct qk_work *w)
{
    uint32_t keys = attention_key_count(w->a, w->sample);
    uint32_t *previous = w->previous_same;
    occurrence_link(w->a->tokens + (size_t)w->sample * w->a->keys, keys, w->sort, previous);
    for (uint32_t j = 0; j < keys; j++) {
        w->next_same[j] = OCCURRENCE_NONE;
        w->first_same[j] = j;
        if (previous[j] != OCCURRENCE_NONE) {
            w->next_same[previous[j]] = j;
            w->first_same[j] = w->first_same[previous[j]];
        }
    }
}

/* Walks back from the query, so that what lies before its window costs nothing. */
static uint32_t first_seen(const struct qk_work *w, uint64_t position, uint32_t begin)
{
    if (position >= attention_key_count(w->a, w->sample)) {
        return OCCURRENCE_NONE;
    }
    if (begin <= 1) {
        return w->first_same[position];
    }
    uint32_t first = (uint32_t)position, j = w->previous_same[position];
    for (; j != OCCURRENCE_NONE && j >= begin - 1; j = w->previous_same[j]) {
        first = j;
    }
    return first;
}

void qk_work_begin_sample(struct qk_work *w, uint32_t b)
{
    w->sample = b;
    for (uint32_t i = w->row_begin; i < w->row_end; i++) {
        w->span[i - w->row_begin] = span_of(w, i);
    }
    if (w->next_same) {
        qk_work_link_tokens(w);
    }
    for (uint32_t i = w->row_begin; w->next_same && i < w->row_end; i++) {
        struct qk_span *span = &w->span[i - w->row_begin];
        if (span->valid) {
            span->occurrence = first_seen(w, attention_position(w->a, i), span->begin);
        }
    }
    qk_ref_sample(&w->ref, b);
}

/* The key head: lengths of keys and values. */

/* Elements [first, first + n) of a tensor as f32, converted to `room` or, aligned f32, in place. */
static const float *elements(const struct qk_work *w, const void *tensor, enum dtype dtype,
                             size_t first, size_t n, float *room)
{
    const unsigned char *p = (const unsigned char *)tensor + first * dtype_size(dtype);
    if (dtype == DTYPE_F32 && (uintptr_t)p % sizeof(float) == 0) {
        return (const float *)(const void *)p;
    }
    w->kernel->load(p, dtype, n, room);
    return room;
}

/* Element 0 of the vector of key j. */
static size_t key_begin_of(const struct qk_work *w, uint32_t j, uint32_t dim)
{
    return (((size_t)w->sample * w->a->qk.kv_heads + w->kv) * w->a->keys + j) * dim;
}

static bool has_infinity(const float *x, uint32_t n)
{
    unsigned any = 0;
    for (uint32_t c = 0; c < n; c++) {
        any |= fabsf(x[c]) > FLT_MAX;
    }
    return any != 0;
}

/* A NaN shows in the sum of squares; an infinity that shows there may be a square's. */
static double vector_length(const struct qk_work *w, const void *tensor, enum dtype dtype,
                            size_t first, uint32_t n)
{
    const float *x = elements(w, tensor, dtype, first, n, w->vector);
    double length = (double)w->kernel->length(x, n);
    if ((length >= LENGTH_MIN && length <= LENGTH_MAX) || isnan(length)) {
        return length;
    }
    if (isinf(length) && dtype != DTYPE_F64 && has_infinity(x, n)) {
        return INFINITY;
    }
    /* The length of a vector that f32, or its square, may not hold. */
    attention_load(tensor, dtype, first, n, w->ref.vector);
    return output_ref_length(w->ref.vector, n);
}

/* Only the reference can handle it. */
static bool qk_work_is_odd(double length)
{
    return !isnan(length) && length > 0 && !(length >= LENGTH_MIN && length <= LENGTH_MAX);
}

static void measure_value(struct qk_work *w, uint32_t j, struct qk_counts *counts)
{
    const struct qk *qk = &w->a->qk;
    size_t first = key_begin_of(w, j, qk->value_dim);
    double length = vector_length(w, qk->v, qk->v_dtype, first, qk->value_dim);
    counts->lost += isfinite(length) == 0;
    counts->odd += isfinite(length) && qk_work_is_odd(length);
    w->value_length[j] = isfinite(length) ? (float)length : 0;
    w->value_log[j] = isfinite(length) && length > 0 ? (float)log2(length) : 0;
}

/* Whether two keys have the same infinities. */
static bool infinities_alike(const struct qk_work *w, uint32_t j, uint32_t k)
{
    const struct qk *qk = &w->a->qk;
    unsigned differ = 0;
    const float *x =
        elements(w, qk->k, qk->k_dtype, key_begin_of(w, j, qk->head_dim), qk->head_dim, w->vector);
    const float *y =
        elements(w, qk->k, qk->k_dtype, key_begin_of(w, k, qk->head_dim), qk->head_dim, w->key);
    for (uint32_t c = 0; c < qk->head_dim; c++) {
        bool infinite = fabsf(x[c]) > FLT_MAX || fabsf(y[c]) > FLT_MAX;
        differ |= infinite && !(x[c] >= y[c] && x[c] <= y[c]);
    }
    return differ == 0;
}

static void note_infinite(const struct qk_work *w, uint32_t j, uint32_t index)
{
    uint32_t run = index > 0 ? w->infinite_run[index - 1] : UINT32_MAX;
    if (index == 0 || !infinities_alike(w, w->run_key[run], j)) {
        w->run_key[++run] = j;
    }
    w->infinite_run[index] = run;
}

static void measure_keys(struct qk_work *w)
{
    const struct qk *qk = &w->a->qk;
    uint32_t keys = attention_key_count(w->a, w->sample);
    struct qk_counts counts = {0};
    w->longest_key = 0;
    for (uint32_t j = 0; j < keys; j++) {
        w->before[j] = counts;
        size_t first = key_begin_of(w, j, qk->head_dim);
        double length = vector_length(w, qk->k, qk->k_dtype, first, qk->head_dim);
        bool infinite = isinf(length) && qk->k_dtype != DTYPE_F64;
        if (infinite) {
            note_infinite(w, j, counts.infinite);
        }
        w->usual[j] = !infinite;
        counts.infinite += infinite;
        counts.nan += isnan(length) != 0;
        counts.odd += qk_work_is_odd(length) && !infinite;
        counts.zero += length <= 0;
        w->key_length[j] = length;
        w->inverse_length[j] = length > 0 && !qk_work_is_odd(length) ? (float)(1 / length) : 0;
        if (length > w->longest_key && !qk_work_is_odd(length)) {
            w->longest_key = length;
        }
        if (w->values) {
            measure_value(w, j, &counts);
        }
    }
    w->before[keys] = counts;
}

/* Makes a value that is not finite zeros, and one of a key that rows see by the reference only.
 * Rows that do not see it have weight 0 there, and that times what is in its place must be 0. */
static void zero_extraordinary(const struct qk_work *w, uint32_t begin, uint32_t end, float *value)
{
    size_t dim = w->a->qk.value_dim;
    for (uint32_t j = begin; j < end; j++) {
        const struct qk_counts *from = &w->before[j], *to = &w->before[j + 1];
        if (from->lost != to->lost || from->odd != to->odd) {
            memset(value + (j - begin) * dim, 0, dim * sizeof *value);
        }
    }
}

void qk_work_begin_key_head(struct qk_work *w, uint32_t kv)
{
    w->kv = kv;
    measure_keys(w);
    if (w->core && w->row_begin == 0 && w->row_end > 0) {
        uint32_t keys = attention_key_count(w->a, w->sample), n = 0;
        for (uint32_t j = 0; j < keys; j++) {
            w->key_length[n] = w->key_length[j];
            n += isfinite(w->key_length[n]) != 0;
        }
        uint32_t group = w->a->heads / w->a->qk.kv_heads;
        for (uint32_t h = w->kv * group; h < (w->kv + 1) * group; h++) {
            row_merge_moments(&w->block->head[h].k_norm, w->key_length, n);
        }
    }
}

/* The head, and its rows' gradients. */

/* An element that f32 has as `rounded`. */
static double exact_element(const void *tensor, enum dtype dtype, size_t at, float rounded)
{
    double x = (double)rounded;
    if (dtype == DTYPE_F64) {
        attention_load(tensor, dtype, at, 1, &x);
    }
    return x;
}

/* Rows of n elements each as f32; where f32 or its squares may not hold them, a power of two is
 * taken out. Returns it, 1 otherwise; 0 when an element is not finite. */
static double load_scaled(const struct qk_work *w, const void *tensor, enum dtype dtype,
                          size_t first, uint32_t rows, uint32_t n, float *ret)
{
    const unsigned char *p = tensor;
    size_t count = (size_t)rows * n;
    w->kernel->load(p + first * dtype_size(dtype), dtype, count, ret);
    double length = (double)w->kernel->length(ret, count), largest = 0;
    if (length >= LENGTH_MIN && length <= LENGTH_MAX) {
        return 1;
    }
    for (size_t c = 0; c < count; c++) {
        double x = exact_element(tensor, dtype, first + c, ret[c]);
        largest = fabs(x) > largest || isnan(x) ? fabs(x) : largest;
    }
    if (!isfinite(largest)) {
        return 0;
    }
    int exponent = largest > 0 ? ilogb(largest) : 0;
    double factor = ldexp(1, -exponent);
    for (size_t c = 0; c < count; c++) {
        ret[c] = (float)(factor * exact_element(tensor, dtype, first + c, ret[c]));
    }
    return ldexp(1, exponent);
}

void qk_work_begin_head(struct qk_work *w, uint32_t h)
{
    const struct qk *qk = &w->a->qk;
    w->head = h;
    w->written_unit = 0;
    if (!w->values || !qk->wo_r) {
        return;
    }
    size_t first = (size_t)h * qk->written_dim * qk->value_dim;
    w->written_unit =
        load_scaled(w, qk->wo_r, DTYPE_F32, first, qk->written_dim, qk->value_dim, w->wo_r);
}

void qk_work_load_first(const struct qk_work *w, uint32_t j)
{
    const struct qk *qk = &w->a->qk;
    size_t at = key_begin_of(w, j, qk->value_dim) * dtype_size(qk->v_dtype);
    w->kernel->load((const unsigned char *)qk->v + at, qk->v_dtype, qk->value_dim, w->first_value);
    zero_extraordinary(w, j, j + 1, w->first_value);
    if (w->written_unit > 0) {
        cblas_sgemv(CblasRowMajor, CblasNoTrans, (int)qk->written_dim, (int)qk->value_dim, 1,
                    w->wo_r, (int)qk->value_dim, w->first_value, 1, 0, w->first_written, 1);
    }
}

/* A unit beyond is that of an f64: sums in it may pass f64 where the single products do not. */
#define UNIT_MAX 0x1p200

bool qk_work_load_gradient(struct qk_work *w, uint32_t i, uint32_t at)
{
    const struct qk *qk = &w->a->qk;
    size_t row = ((size_t)w->sample * w->a->heads + w->head) * w->a->queries + i;
    float *dout = w->dout + (size_t)at * qk->value_dim;
    double unit =
        load_scaled(w, qk->dout, qk->dout_dtype, row * qk->value_dim, 1, qk->value_dim, dout);
    if (unit <= 0) {
        memset(dout, 0, qk->value_dim * sizeof *dout);
    }
    w->gradient_row[at] = (struct qk_gradient){.unit = unit};
    return unit <= 0 || (unit >= 1 / UNIT_MAX && unit <= UNIT_MAX);
}

/* Rows and tiles. */

/* The parameters, whatever the vectors are. */
static bool usual_parameters(const struct qk *qk)
{
    bool scale = qk->scale >= LENGTH_MIN && qk->scale <= LENGTH_MAX;
    bool cap = qk->softcap <= 0 || (qk->softcap >= 0x1p-15 && qk->softcap <= LOGIT_MAX);
    return scale && cap;
}

/* Whether row i sees a key of a kind, `field` of its counts. */
static bool sees(const struct qk_work *w, uint32_t i, size_t field)
{
    const struct qk_span *span = &w->span[i - w->row_begin];
    const unsigned char *counts = (const unsigned char *)w->before + field;
    uint32_t before, after;
    memcpy(&before, counts + span->begin * sizeof *w->before, sizeof before);
    memcpy(&after, counts + span->end * sizeof *w->before, sizeof after);
    if (before == after || !span->has_holes) {
        return before != after;
    }
    const struct attention_holes holes = attention_row_holes(w->a, w->sample, i);
    for (uint32_t j = span->begin; j < span->end; j++) {
        memcpy(&before, counts + j * sizeof *w->before, sizeof before);
        memcpy(&after, counts + (j + 1) * sizeof *w->before, sizeof after);
        if (before != after && attention_hole_free(&holes, j)) {
            return true;
        }
    }
    return false;
}

bool qk_work_sees_lost(const struct qk_work *w, uint32_t i)
{
    return sees(w, i, offsetof(struct qk_counts, lost));
}

/* Whether the product with key j, which is infinite, is -infinity: the query is not 0 at its
 * infinities, and of the other sign. */
static bool product_is_least(const struct qk_work *w, const float *query, uint32_t j)
{
    const struct qk *qk = &w->a->qk;
    unsigned other = 0;
    const float *key =
        elements(w, qk->k, qk->k_dtype, key_begin_of(w, j, qk->head_dim), qk->head_dim, w->vector);
    for (uint32_t c = 0; c < qk->head_dim; c++) {
        other |= fabsf(key[c]) > FLT_MAX && !(query[c] * key[c] < -FLT_MAX);
    }
    return other == 0;
}

static size_t qk_work_query_begin(const struct qk_work *w, uint32_t i)
{
    size_t row = ((size_t)w->sample * w->a->heads + w->head) * w->a->queries + i;
    return row * w->a->qk.head_dim;
}

double qk_work_query_length(const struct qk_work *w, uint32_t i)
{
    const struct qk *qk = &w->a->qk;
    return vector_length(w, qk->q, qk->q_dtype, qk_work_query_begin(w, i), qk->head_dim);
}

static void qk_work_load_query(const struct qk_work *w, uint32_t i, uint32_t at)
{
    const struct qk *qk = &w->a->qk;
    const unsigned char *q = qk->q;
    w->kernel->load(q + qk_work_query_begin(w, i) * dtype_size(qk->q_dtype), qk->q_dtype,
                    qk->head_dim, w->query + (size_t)at * qk->head_dim);
}

/* The same for a row that sees infinite keys; its query is finite. */
static enum qk_verdict judge_infinite(const struct qk_work *w, uint32_t i, uint32_t at)
{
    const struct qk *qk = &w->a->qk;
    const struct qk_span *span = &w->span[i - w->row_begin];
    uint32_t from = w->before[span->begin].infinite, to = w->before[span->end].infinite;
    if (span->has_holes || qk->softcap > 0 || qk->q_dtype == DTYPE_F64) {
        return QK_REFERENCE;
    }
    if (to - from == span->end - span->begin) {
        return QK_UNSOUND;
    }
    qk_work_load_query(w, i, at);
    for (uint32_t r = w->infinite_run[from]; r <= w->infinite_run[to - 1]; r++) {
        if (!product_is_least(w, w->query + (size_t)at * qk->head_dim, w->run_key[r])) {
            return QK_UNSOUND;
        }
    }
    return QK_SOUND;
}

enum qk_verdict qk_work_judge(const struct qk_work *w, uint32_t i, uint32_t at, double query_length)
{
    const struct qk *qk = &w->a->qk;
    const struct qk_span *span = &w->span[i - w->row_begin];
    const struct qk_counts *from = &w->before[span->begin], *to = &w->before[span->end];
    bool infinite = isinf(query_length) && qk->q_dtype != DTYPE_F64 && !(qk->softcap > 0);
    if (span->begin == span->end || isnan(query_length) || infinite ||
        sees(w, i, offsetof(struct qk_counts, nan))) {
        return QK_UNSOUND;
    }
    double bound = qk->scale * query_length * w->longest_key;
    bool usual = usual_parameters(qk) && bound <= LOGIT_MAX;
    if (!usual || qk_work_is_odd(query_length) || to->odd != from->odd) {
        return QK_REFERENCE;
    }
    if (to->infinite != from->infinite) {
        return judge_infinite(w, i, at);
    }
    qk_work_load_query(w, i, at);
    return QK_SOUND;
}

const float *qk_work_keys(const struct qk_work *w, uint32_t begin, uint32_t end)
{
    const struct qk *qk = &w->a->qk;
    size_t n = (size_t)(end - begin) * qk->head_dim;
    return elements(w, qk->k, qk->k_dtype, key_begin_of(w, begin, qk->head_dim), n, w->key);
}

const float *qk_work_values(const struct qk_work *w, uint32_t begin, uint32_t end)
{
    const struct qk *qk = &w->a->qk;
    const struct qk_counts *from = &w->before[begin], *to = &w->before[end];
    size_t n = (size_t)(end - begin) * qk->value_dim;
    const float *v =
        elements(w, qk->v, qk->v_dtype, key_begin_of(w, begin, qk->value_dim), n, w->value);
    if (from->lost != to->lost || from->odd != to->odd) {
        memmove(w->value, v, n * sizeof *v);
        zero_extraordinary(w, begin, end, w->value);
        return w->value;
    }
    return v;
}
