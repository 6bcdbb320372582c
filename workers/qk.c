/* SPDX-License-Identifier: MIT */
/* qk: tiles of queries by keys. The products of a tile come from one sgemm (and A V from another);
 * the kernels of an instruction set fold each tile into its rows (qk_kernel.h), and what a row's
 * sums say is worked out when its last tile is in (qk_finish.c).
 *
 * Order: samples, key heads, the heads that read them, blocks of queries, tiles of keys. Tiles that
 * no row of the block can see are skipped, so causal attention costs half.
 *
 * What is out of the ordinary is known before any product, from the lengths of the vectors:
 *     a NaN in the query, or in a key that the row sees     the row is unsound, whatever the rest
 *     a length that is infinite, above 2^40, or not 0 and below 2^-40, or |scale q k| that may
 *     exceed 2^15, where f32 has no digits left for the difference of two logits
 *                                                           the row goes through the reference
 * so the tiles need no checks: their products are finite, and no f32 over- or underflows. */
#include "qk.h"

#include "err.h"
#include "occurrence.h"
#include "qk_finish.h"
#include "qk_kernel.h"
#include "qk_ref.h"
#include "row.h"
#include <assert.h>
#include <cblas.h>
#include <math.h>
#include <string.h>

#define TILE_ROWS   64
#define TILE_KEYS   512
#define TILE_STRIDE (TILE_KEYS + 2 * QK_LANES)
#define LENGTH_MAX  0x1p40
#define LENGTH_MIN  0x1p-40
#define LOGIT_MAX   0x1p15

/* What a row may see; the same for all heads. */
struct span {
    uint32_t begin, end; /* first valid key, one past the last */
    bool valid;          /* the query is */
    bool holes;
};

/* How many keys before j are of a kind: a row's number of them is a difference. */
struct counts {
    uint32_t nan;  /* a NaN in the key */
    uint32_t odd;  /* key or value only the reference can handle */
    uint32_t zero; /* zero vectors */
    uint32_t lost; /* a value that is not finite */
};

/* Everything qk_compute works with. */
struct work {
    const struct qk_kernel *kernel;
    enum isa isa;
    struct block *block;
    const struct attention *a;
    uint32_t row_begin, row_end;
    bool core, values;
    uint32_t sample, kv, head; /* current */
    /* by row, of the sample */
    struct span *span;
    /* by key, of the key head */
    float *inverse_length, *value_length, *value_log;
    double *key_length;
    struct counts *before; /* [keys + 1] */
    double longest_key;    /* of those that are not odd */
    float *first_value;
    /* by key, of the sample: chains of equal tokens; NULL without */
    uint32_t *next_same, *first_same, *sort;
    /* tile */
    float *query, *key, *value, *product, *output, *room, *vector;
    uint32_t *list;
    struct qk_row *row;
    struct qk_row_extra *extra;
    void *columns; /* row_values_bytes */
    struct qk_finish finish;
    struct qk_ref ref;
};

/* Memory. */

struct carver {
    unsigned char *memory; /* NULL: only counts */
    uint64_t bytes;
};

static void *carve(struct carver *c, uint64_t count, size_t size)
{
    void *piece = c->memory != NULL ? c->memory + c->bytes : NULL;
    c->bytes += (count * size + 63) / 64 * 64;
    return piece;
}

static void carve_all(struct work *w, struct carver *c)
{
    const struct attention *a = w->a;
    uint64_t keys = (uint64_t)a->keys + QK_LANES, d = a->qk.head_dim;
    uint64_t dv = w->values ? a->qk.value_dim : 0, longest = d > dv ? d : dv;
    bool tokens = w->core && a->self && a->tokens != NULL;
    w->span = carve(c, w->row_end - w->row_begin, sizeof *w->span);
    w->inverse_length = carve(c, keys, sizeof *w->inverse_length);
    w->value_length = carve(c, w->values ? keys : 0, sizeof *w->value_length);
    w->value_log = carve(c, w->values ? keys : 0, sizeof *w->value_log);
    w->key_length = carve(c, a->keys, sizeof *w->key_length);
    w->before = carve(c, (uint64_t)a->keys + 1, sizeof *w->before);
    w->next_same = carve(c, tokens ? a->keys : 0, sizeof *w->next_same);
    w->first_same = carve(c, tokens ? a->keys : 0, sizeof *w->first_same);
    w->sort = carve(c, tokens ? 3 * (uint64_t)a->keys : 0, sizeof *w->sort);
    w->list = carve(c, a->keys > TILE_KEYS ? a->keys : TILE_KEYS, sizeof *w->list);
    w->first_value = carve(c, dv, sizeof *w->first_value);
    w->vector = carve(c, longest + QK_LANES, sizeof *w->vector);
    w->query = carve(c, TILE_ROWS * d + QK_LANES, sizeof *w->query);
    w->key = carve(c, TILE_KEYS * d + QK_LANES, sizeof *w->key);
    w->value = carve(c, TILE_KEYS * dv + QK_LANES, sizeof *w->value);
    w->product = carve(c, TILE_ROWS * TILE_STRIDE, sizeof *w->product);
    w->output = carve(c, TILE_ROWS * dv, sizeof *w->output);
    w->room = carve(c, QK_ROOM(TILE_KEYS), sizeof *w->room);
    w->row = carve(c, TILE_ROWS, sizeof *w->row);
    w->extra = carve(c, TILE_ROWS, sizeof *w->extra);
    w->columns = carve(c, row_values_bytes(1), 1);
}

static int take_work(struct work *w, struct scratch *scratch)
{
    struct carver count = {0};
    carve_all(w, &count);
    size_t ref_bytes = qk_ref_bytes(w->a);
    if (ref_bytes == 0 || count.bytes > SIZE_MAX / 2) {
        return ERR_MEMORY;
    }
    unsigned char *memory = scratch_take(scratch, (size_t)count.bytes + ref_bytes);
    if (memory == NULL) {
        return ERR_MEMORY;
    }
    carve_all(w, &(struct carver){.memory = memory});
    qk_ref_init(&w->ref, w->block, w->a, memory + count.bytes);
    if (!w->core || !w->a->self || w->a->tokens == NULL) {
        w->next_same = w->first_same = NULL;
    }
    return 0;
}

/* The sample: what rows may see, and chains of tokens. */

static struct span span_of(const struct work *w, uint32_t i)
{
    const struct attention *a = w->a;
    struct span s = {.valid = attention_query_valid(a, w->sample, i)};
    if (!s.valid) {
        return s;
    }
    attention_key_range(a, w->sample, i, &s.begin, &s.end);
    if (a->mask != NULL || (a->documents != NULL && a->self)) {
        uint32_t n = attention_valid_keys(a, w->sample, i, w->list);
        s.begin = n > 0 ? w->list[0] : 0;
        s.end = n > 0 ? w->list[n - 1] + 1 : 0;
        s.holes = s.end - s.begin != n;
    }
    return s;
}

static void link_tokens(const struct work *w)
{
    uint32_t keys = attention_key_count(w->a, w->sample);
    uint32_t *previous = w->sort + 2 * (size_t)w->a->keys;
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

static void begin_sample(struct work *w, uint32_t b)
{
    w->sample = b;
    for (uint32_t i = w->row_begin; i < w->row_end; i++) {
        w->span[i - w->row_begin] = span_of(w, i);
    }
    if (w->next_same != NULL) {
        link_tokens(w);
    }
    qk_ref_sample(&w->ref, b);
}

/* The key head: lengths of keys and values. */

/* In f64, by eight lanes that the compiler may keep in vectors. */
static double length_of(const float *x, uint32_t n)
{
    double sum[8] = {0};
    uint32_t c = 0;
    for (; c + 8 <= n; c += 8) {
        for (uint32_t l = 0; l < 8; l++) {
            sum[l] += (double)x[c + l] * (double)x[c + l];
        }
    }
    for (; c < n; c++) {
        sum[0] += (double)x[c] * (double)x[c];
    }
    return sqrt(((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7])));
}

static size_t element_bytes(enum dtype dtype)
{
    return dtype == DTYPE_F64 ? 8 : dtype == DTYPE_F32 ? 4 : 2;
}

/* Elements [first, first + n) of a tensor as f32, converted to `room` or, aligned f32, in place. */
static const float *elements(const struct work *w, const void *tensor, enum dtype dtype,
                             size_t first, size_t n, float *room)
{
    const unsigned char *p = (const unsigned char *)tensor + first * element_bytes(dtype);
    if (dtype == DTYPE_F32 && (uintptr_t)p % sizeof(float) == 0) {
        return (const float *)(const void *)p;
    }
    w->kernel->load(p, dtype, n, room);
    return room;
}

/* Element 0 of the vector of key j. */
static size_t key_begin_of(const struct work *w, uint32_t j, uint32_t dim)
{
    return (((size_t)w->sample * w->a->qk.kv_heads + w->kv) * w->a->keys + j) * dim;
}

/* The length of a vector that an f64 tensor may hold and f32 may not. */
static double exact_length(const struct work *w, const void *tensor, enum dtype dtype, size_t first,
                           uint32_t n)
{
    attention_load(tensor, dtype, first, n, w->ref.vector);
    return qk_ref_length(w->ref.vector, n);
}

static double vector_length(const struct work *w, const void *tensor, enum dtype dtype,
                            size_t first, uint32_t n)
{
    double length = length_of(elements(w, tensor, dtype, first, n, w->vector), n);
    bool usual = length >= LENGTH_MIN && length <= LENGTH_MAX;
    return usual ? length : exact_length(w, tensor, dtype, first, n);
}

/* Only the reference can handle it. */
static bool is_odd(double length)
{
    return !isnan(length) && length > 0 && !(length >= LENGTH_MIN && length <= LENGTH_MAX);
}

static void measure_value(struct work *w, uint32_t j, struct counts *counts)
{
    const struct qk *qk = &w->a->qk;
    size_t first = key_begin_of(w, j, qk->value_dim);
    double length = vector_length(w, qk->v, qk->v_dtype, first, qk->value_dim);
    counts->lost += isfinite(length) == 0;
    counts->odd += isfinite(length) && is_odd(length);
    w->value_length[j] = isfinite(length) ? (float)length : 0;
    w->value_log[j] = isfinite(length) && length > 0 ? (float)log2(length) : 0;
}

static void measure_keys(struct work *w)
{
    const struct qk *qk = &w->a->qk;
    uint32_t keys = attention_key_count(w->a, w->sample);
    struct counts counts = {0};
    w->longest_key = 0;
    for (uint32_t j = 0; j < keys; j++) {
        w->before[j] = counts;
        size_t first = key_begin_of(w, j, qk->head_dim);
        double length = vector_length(w, qk->k, qk->k_dtype, first, qk->head_dim);
        counts.nan += isnan(length) != 0;
        counts.odd += is_odd(length);
        counts.zero += length <= 0;
        w->key_length[j] = length;
        w->inverse_length[j] = length > 0 && !is_odd(length) ? (float)(1 / length) : 0;
        if (length > w->longest_key && !is_odd(length)) {
            w->longest_key = length;
        }
        if (w->values) {
            measure_value(w, j, &counts);
        }
    }
    w->before[keys] = counts;
}

static void add_key_norms(struct work *w)
{
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

/* For the rows that do not see them: their weight 0 times that must be 0. */
static void zero_infinite(float *x, size_t n)
{
    for (size_t c = 0; c < n; c++) {
        x[c] = isfinite(x[c]) ? x[c] : 0;
    }
}

static void begin_key_head(struct work *w, uint32_t kv)
{
    const struct qk *qk = &w->a->qk;
    w->kv = kv;
    measure_keys(w);
    if (w->core && w->row_begin == 0 && w->row_end > 0) {
        add_key_norms(w);
    }
    if (w->values) {
        w->kernel->load((const unsigned char *)qk->v +
                            key_begin_of(w, 0, qk->value_dim) * element_bytes(qk->v_dtype),
                        qk->v_dtype, qk->value_dim, w->first_value);
        zero_infinite(w->first_value, qk->value_dim);
    }
}

/* Rows. */

enum verdict { ROW_SOUND, ROW_UNSOUND, ROW_REFERENCE };

static enum verdict judge(const struct work *w, const struct span *span, double query_length)
{
    const struct counts *from = &w->before[span->begin], *to = &w->before[span->end];
    bool nan = isnan(query_length) || to->nan != from->nan;
    if (span->begin == span->end || (nan && !span->holes)) {
        return ROW_UNSOUND;
    }
    double bound = fabs(w->a->qk.scale) * query_length * w->longest_key;
    bool usual = w->a->qk.scale >= 0 && bound <= LOGIT_MAX && isfinite(w->a->qk.softcap);
    bool lost = to->lost != from->lost && span->holes;
    return usual && !nan && !lost && !is_odd(query_length) && to->odd == from->odd ? ROW_SOUND
                                                                                   : ROW_REFERENCE;
}

static void begin_row(const struct work *w, uint32_t i, double query_length, uint32_t at)
{
    const struct span *span = &w->span[i - w->row_begin];
    const struct counts *from = &w->before[span->begin], *to = &w->before[span->end];
    struct qk_row *row = &w->row[at];
    *row = (struct qk_row){.max = -INFINITY,
                           .first = NAN,
                           .near = {NAN, NAN, NAN},
                           .duplicate_next = OCCURRENCE_NONE,
                           .induction_next = OCCURRENCE_NONE,
                           .begin = span->begin,
                           .end = span->end,
                           .index = i,
                           .position = (int64_t)attention_position(w->a, i),
                           .holes = span->holes,
                           .zeros = to->zero != from->zero};
    for (uint32_t l = 0; l < QK_LANES; l++) {
        row->low[l] = row->cosine_low[l] = INFINITY;
        row->cosine_high[l] = -INFINITY;
    }
    for (uint32_t k = 0; k < QK_TOP; k++) {
        row->top[k] = -INFINITY;
    }
    if (w->first_same != NULL && row->position < attention_key_count(w->a, w->sample)) {
        row->duplicate_next = row->induction_next = w->first_same[row->position];
    }
    bool output = w->values && to->lost == from->lost;
    w->extra[at] = (struct qk_row_extra){
        .inverse_length = query_length > 0 ? 1 / query_length : 0,
        .output = output ? w->output + (size_t)at * w->a->qk.value_dim : NULL};
}

static void count_row(struct block *block, bool sound)
{
    block->rows += sound;
    block->invalid_rows += !sound;
    if (sound) {
        block->row_sum_error = 0;
    }
}

/* Takes query i of the current head: into the tile's rows, or where else it belongs. Returns 0 or
 * ERR_MEMORY. */
static int take_row(struct work *w, uint32_t i, uint32_t *active)
{
    const struct qk *qk = &w->a->qk;
    const struct span *span = &w->span[i - w->row_begin];
    if (!span->valid) {
        return 0;
    }
    size_t first = (((size_t)w->sample * w->a->heads + w->head) * w->a->queries + i) * qk->head_dim;
    double length = vector_length(w, qk->q, qk->q_dtype, first, qk->head_dim);
    enum verdict verdict = judge(w, span, length);
    if (verdict == ROW_REFERENCE) {
        return qk_ref_row(&w->ref, w->block, w->head, i);
    }
    count_row(w->block, verdict == ROW_SOUND);
    if (w->core && isfinite(length)) {
        moments_add(&w->block->head[w->head].q_norm, length);
    }
    if (w->core && verdict == ROW_SOUND) {
        const void *q = (const unsigned char *)qk->q + first * element_bytes(qk->q_dtype);
        w->kernel->load(q, qk->q_dtype, qk->head_dim, w->query + (size_t)*active * qk->head_dim);
        begin_row(w, i, length, *active);
        ++*active;
    }
    return 0;
}

/* Tiles. */

/* Values of a tile, those that are not finite as zeros: nobody who sees them has an output. */
static const float *tile_values(const struct work *w, uint32_t begin, uint32_t end)
{
    const struct qk *qk = &w->a->qk;
    size_t n = (size_t)(end - begin) * qk->value_dim;
    const float *v =
        elements(w, qk->v, qk->v_dtype, key_begin_of(w, begin, qk->value_dim), n, w->value);
    if (w->before[begin].lost == w->before[end].lost &&
        w->before[begin].odd == w->before[end].odd) {
        return v;
    }
    memmove(w->value, v, n * sizeof *v);
    zero_infinite(w->value, n);
    return w->value;
}

static void add_output(const struct work *w, const float *weights, uint32_t rows, uint32_t begin,
                       uint32_t end)
{
    uint32_t dim = w->a->qk.value_dim;
    for (uint32_t r = 0; r < rows; r++) {
        float factor = w->row[r].rescale;
        for (uint32_t c = 0; factor < 1 && c < dim; c++) {
            w->output[(size_t)r * dim + c] *= factor;
        }
    }
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)dim, (int)(end - begin),
                1, weights, TILE_STRIDE, tile_values(w, begin, end), (int)dim, 1, w->output,
                (int)dim);
}

static void run_tile(const struct work *w, struct qk_tile *tile, uint32_t begin, uint32_t end)
{
    const struct qk *qk = &w->a->qk;
    uint32_t d = qk->head_dim;
    const float *key = elements(w, qk->k, qk->k_dtype, key_begin_of(w, begin, d),
                                (size_t)(end - begin) * d, w->key);
    /* Key 0 stands apart: key 1 is the one to be aligned. */
    tile->product = w->product + (begin == 0 ? QK_LANES - 1 : 0);
    tile->key_begin = begin;
    tile->key_end = end;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)tile->rows, (int)(end - begin),
                (int)d, 1, w->query, (int)d, key, (int)d, 0, tile->product, TILE_STRIDE);
    w->kernel->fold_tile(tile);
    if (w->values) {
        add_output(w, tile->product, tile->rows, begin, end);
    }
}

/* Base 2 logits per logit of the sums: a product, or a capped logit. */
static float slope_of(const struct attention *a)
{
    const double log2e = 1.44269504088896340736;
    return (float)(a->qk.softcap > 0 ? log2e : log2e * a->qk.scale);
}

static struct qk_tile prepare_tile(const struct work *w, uint32_t rows)
{
    const struct attention *a = w->a;
    bool cap = a->qk.softcap > 0;
    size_t b = w->sample;
    return (struct qk_tile){
        .stride = TILE_STRIDE,
        .rows = rows,
        .row = w->row,
        .holes = {.mask = a->mask == NULL ? NULL : a->mask + b * a->queries * a->keys,
                  .documents = a->documents == NULL || !a->self
                                   ? NULL
                                   : (const unsigned char *)a->documents + b * a->keys * 4,
                  .keys = a->keys},
        .slope = slope_of(a),
        .scale = (float)a->qk.scale,
        .cap = cap ? (float)a->qk.softcap : 0,
        .window = w->block->plan.local_window,
        .inverse_length = w->inverse_length,
        .value_length = w->values ? w->value_length : NULL,
        .value_log = w->values ? w->value_log : NULL,
        .occurrence = w->next_same,
        .keep = w->values || w->next_same != NULL,
        .room = w->room,
        .key = w->list};
}

static void begin_finish(struct work *w)
{
    w->finish = (struct qk_finish){.kernel = w->kernel,
                                   .a = w->a,
                                   .head = &w->block->head[w->head],
                                   .sample = w->sample,
                                   .local_window = w->block->plan.local_window,
                                   .slope = (double)slope_of(w->a),
                                   .first_inverse_length = (double)w->inverse_length[0],
                                   .first_value_length = w->values ? (double)w->value_length[0] : 0,
                                   .first_value = w->values ? w->first_value : NULL,
                                   .first_same = w->first_same};
    qk_finish_begin(&w->finish, w->isa, w->columns);
}

/* The rows that were taken, from their first tile to their metrics. */
static int run_rows(struct work *w, uint32_t rows)
{
    uint32_t begin = UINT32_MAX, end = 0;
    for (uint32_t r = 0; r < rows; r++) {
        begin = w->row[r].begin < begin ? w->row[r].begin : begin;
        end = w->row[r].end > end ? w->row[r].end : end;
    }
    struct qk_tile tile = prepare_tile(w, rows);
    if (w->values) {
        memset(w->output, 0, (size_t)rows * w->a->qk.value_dim * sizeof *w->output);
    }
    while (begin < end) {
        uint32_t next = end - begin > TILE_KEYS ? begin + TILE_KEYS : end;
        run_tile(w, &tile, begin, next);
        begin = next;
    }
    return qk_finish_rows(&w->finish, w->row, w->extra, rows, w->room);
}

static int run_head(struct work *w, uint32_t h)
{
    int rc = 0;
    w->head = h;
    begin_finish(w);
    for (uint32_t i = w->row_begin; rc == 0 && i < w->row_end;) {
        uint32_t rows = 0;
        for (; rc == 0 && rows < TILE_ROWS && i < w->row_end; i++) {
            rc = take_row(w, i, &rows);
        }
        if (rc == 0 && rows > 0) {
            rc = run_rows(w, rows);
        }
    }
    return rc == 0 ? qk_finish_end(&w->finish) : rc;
}

static int run_sample(struct work *w, uint32_t b)
{
    int rc = 0;
    uint32_t group = w->a->heads / w->a->qk.kv_heads;
    begin_sample(w, b);
    for (uint32_t kv = 0; rc == 0 && kv < w->a->qk.kv_heads; kv++) {
        begin_key_head(w, kv);
        for (uint32_t h = kv * group; rc == 0 && h < (kv + 1) * group; h++) {
            rc = run_head(w, h);
        }
    }
    return rc;
}

static const struct qk_kernel *kernel_of(enum isa isa)
{
    switch (isa) {
#if defined(__x86_64__)
    case ISA_AVX512:
        return &qk_kernel_avx512;
    case ISA_AVX2:
        return &qk_kernel_avx2;
#endif
    default:
        return &qk_kernel_portable;
    }
}

int qk_compute(struct block *block, const struct attention *a, uint32_t row_begin, uint32_t row_end,
               enum isa isa, struct scratch *scratch)
{
    if (isa == ISA_SCALAR) {
        return qk_compute_ref(block, a, row_begin, row_end, scratch);
    }
    assert(block->batch == a->batch && block->heads == a->heads && row_end <= a->queries);
    assert(a->qk.kv_heads > 0 && a->heads % a->qk.kv_heads == 0 && row_begin <= row_end);
    struct work w = {.kernel = kernel_of(isa),
                     .isa = isa,
                     .block = block,
                     .a = a,
                     .row_begin = row_begin,
                     .row_end = row_end,
                     .core = block->plan.group[METRIC_GROUP_CORE],
                     .values = block->plan.group[METRIC_GROUP_CORE] && a->qk.v != NULL};
    int rc = take_work(&w, scratch);
    for (uint32_t b = 0; rc == 0 && b < a->batch; b++) {
        rc = run_sample(&w, b);
    }
    return rc;
}
