/* SPDX-License-Identifier: MIT */
/* outputs: rows are judged and their shares |A v_j| added up in f32, one by one; A V is one sgemm
 * for up to 128 rows of a head, whose weights lie side by side, 0 at excluded keys; R_h A V is a
 * dgemm of that, so that nothing has to be known of the sizes in R_h.
 *
 * Values are divided by a power of two, which brings the longest of a head to between 1 and 2: f32
 * has room for whatever dtype they came in. Rows go through the reference where f32 cannot judge
 * them, where weights after dropout are large, and where their shares are small beside that longest
 * value, so that f32 may have lost some. A value that is not finite is zeros here: rows that see it
 * are left out. */
#include "workers/across/outputs.h"

#include "proto/err.h"
#include "workers/across/row.h"
#include "workers/rows/output_ref.h"

#include <assert.h>
#include <cblas.h>
#include <math.h>
#include <string.h>

#define PRODUCT_ROWS    128       /* of one sgemm, at most */
#define PRODUCT_WEIGHTS (1 << 18) /* at once, unless that is less than 8 rows */
#define PRODUCT_KEYS    512

/* A sum of weights above this leaves what f32 is right for. */
#define SUM_MOST 4.0
/* A row whose shares add up to less, in units of the longest value: by the reference. */
#define SHARES_LEAST 0x1p-20
/* Between these a sum of squares in f32 is right. */
#define SQUARES_LEAST 0x1p-80
#define SQUARES_MOST  0x1p80
/* The power of two that is divided out is no smaller. */
#define EXPONENT_LEAST (-1000)

static const double LN2 = 0.69314718055994530942;

/* A row that waits for the product. */
struct outputs_row {
    double entropy; /* NaN = none */
    double x_norm;  /* NaN = none */
};

struct outputs_pass {
    const struct across_kernels *kernel; /* NULL: all rows go through the reference */
    const struct attention *a;
    struct head_block *head;
    uint32_t rows_most, rows; /* how many fit, how many wait */
    uint32_t begin, end;      /* the keys that they see */
    uint32_t sample, kv;
    /* of the values of the key head */
    double unit;    /* the power of two */
    bool some, any; /* of their lengths: above 0; not finite */
    float *length;  /* [keys] in units; 0 of a value that is not finite */
    double *exact;  /* [keys] as they are */
    /* of the head */
    bool writes;
    double *wo_r; /* [written_dim][value_dim] */
    /* by key */
    uint32_t *all, *list; /* 0, 1, 2, ...; the valid ones of a row with holes */
    float *weight, *gathered;
    /* the product */
    float *weights;  /* [rows_most][keys] */
    float *value;    /* [PRODUCT_KEYS][value_dim] */
    float *output;   /* [rows_most][value_dim] */
    double *wide;    /* the same */
    double *written; /* [rows_most][written_dim] */
    double *vector;  /* [value_dim] */
    struct outputs_row *row;
    /* the reference */
    double *sent, *sent_weight; /* [keys] */
    struct output_ref room;
};

/* Memory. */

static uint32_t rows_most(const struct attention *a)
{
    uint32_t rows = PRODUCT_WEIGHTS / a->keys;
    rows = rows < 8 ? 8 : rows;
    return rows > PRODUCT_ROWS ? PRODUCT_ROWS : rows;
}

static void outputs_lay(void *data, struct scratch_pieces *m)
{
    struct outputs_pass *p = data;
    const struct attention *a = p->a;
    uint64_t keys = a->keys, dim = a->qk.value_dim, r = a->qk.wo_r ? a->qk.written_dim : 0;
    p->rows_most = rows_most(a);
    p->length = scratch_carve(m, keys, sizeof *p->length);
    p->exact = scratch_carve(m, keys, sizeof *p->exact);
    p->wo_r = scratch_carve(m, r * dim, sizeof *p->wo_r);
    p->all = scratch_carve(m, keys, sizeof *p->all);
    p->list = scratch_carve(m, keys, sizeof *p->list);
    p->weight = scratch_carve(m, keys, sizeof *p->weight);
    p->gathered = scratch_carve(m, keys, sizeof *p->gathered);
    p->weights = scratch_carve(m, p->rows_most * keys, sizeof *p->weights);
    p->value = scratch_carve(m, PRODUCT_KEYS * dim, sizeof *p->value);
    p->output = scratch_carve(m, p->rows_most * dim, sizeof *p->output);
    p->wide = scratch_carve(m, p->rows_most * dim, sizeof *p->wide);
    p->written = scratch_carve(m, p->rows_most * r, sizeof *p->written);
    p->vector = scratch_carve(m, dim, sizeof *p->vector);
    p->row = scratch_carve(m, p->rows_most, sizeof *p->row);
    p->sent = scratch_carve(m, keys, sizeof *p->sent);
    p->sent_weight = scratch_carve(m, keys, sizeof *p->sent_weight);
    p->room.vector = p->vector;
    p->room.output = scratch_carve(m, dim, sizeof *p->room.output);
    p->room.written = scratch_carve(m, dim, sizeof *p->room.written);
    p->room.share = scratch_carve(m, keys, sizeof *p->room.share);
}

uint64_t outputs_scratch(const struct attention *a)
{
    struct outputs_pass p = {.a = a};
    return scratch_bytes(outputs_lay, &p);
}

/* The values of a key head. */

static size_t outputs_value_at(const struct outputs_pass *p, uint32_t j)
{
    const struct attention *a = p->a;
    return (((size_t)p->sample * a->qk.kv_heads + p->kv) * a->keys + j) * a->qk.value_dim;
}

/* The length of value j; not finite when an element is not. */
static double outputs_length(const struct outputs_pass *p, uint32_t j)
{
    const struct qk *qk = &p->a->qk;
    const unsigned char *v = qk->v;
    size_t first = outputs_value_at(p, j), size = dtype_size(qk->v_dtype);
    double squares = 0;
    bool usual = true;
    for (uint32_t c = 0; usual && c < qk->value_dim; c += ACROSS_CHUNK) {
        uint32_t rest = qk->value_dim - c, n = rest < ACROSS_CHUNK ? rest : ACROSS_CHUNK;
        p->kernel->load(v + (first + c) * size, 0, qk->v_dtype, n, p->value);
        struct across_products one = p->kernel->products(p->value, p->value, n);
        squares += one.sum;
        usual = one.finite;
    }
    if (usual && squares >= SQUARES_LEAST && squares <= SQUARES_MOST) {
        return sqrt(squares);
    }
    attention_load(qk->v, qk->v_dtype, first, qk->value_dim, p->vector);
    return output_ref_length(p->vector, qk->value_dim);
}

static void outputs_begin_key_head(struct outputs_pass *p, uint32_t kv)
{
    uint32_t keys = attention_key_count(p->a, p->sample);
    double longest = 0;
    p->kv = kv;
    p->any = false;
    for (uint32_t j = 0; j < keys; j++) {
        double length = p->exact[j] = outputs_length(p, j);
        p->any = p->any || !isfinite(length);
        longest = isfinite(length) && length > longest ? length : longest;
    }
    p->some = longest > 0;
    int exponent = p->some ? ilogb(longest) : 0;
    p->unit = ldexp(1, exponent < EXPONENT_LEAST ? EXPONENT_LEAST : exponent);
    for (uint32_t j = 0; j < keys; j++) {
        p->length[j] = isfinite(p->exact[j]) ? (float)(p->exact[j] / p->unit) : 0;
    }
}

/* Values [begin, begin + n) in units, into p->value. */
static void outputs_load_values(const struct outputs_pass *p, uint32_t begin, uint32_t n)
{
    const struct qk *qk = &p->a->qk;
    size_t dim = qk->value_dim, first = outputs_value_at(p, begin);
    const double factor = 1 / p->unit;
    if (qk->v_dtype == DTYPE_F64) {
        for (uint32_t j = 0; j < n; j++) {
            attention_load(qk->v, qk->v_dtype, first + j * dim, qk->value_dim, p->vector);
            for (size_t c = 0; c < dim; c++) {
                p->value[j * dim + c] = (float)(p->vector[c] * factor);
            }
        }
    } else {
        const unsigned char *v = qk->v;
        p->kernel->load(v + first * dtype_size(qk->v_dtype), 0, qk->v_dtype, (uint32_t)(n * dim),
                        p->value);
        for (size_t c = 0; c < n * dim; c++) {
            p->value[c] = (float)((double)p->value[c] * factor);
        }
    }
    for (uint32_t j = 0; p->any && j < n; j++) {
        if (!isfinite(p->exact[begin + j])) {
            memset(p->value + j * dim, 0, dim * sizeof *p->value);
        }
    }
}

/* Rows. */

static struct across_keys outputs_keys(const struct outputs_pass *p, uint32_t i)
{
    const struct attention *a = p->a;
    struct across_keys keys = {.b = p->sample, .i = i, .key = p->list};
    if (a->mask || (a->documents && a->self)) {
        keys.n = attention_valid_keys(a, p->sample, i, p->list);
        return keys;
    }
    uint32_t begin, end;
    attention_key_range(a, p->sample, i, &begin, &end);
    keys.n = end - begin;
    keys.key = p->all + begin;
    return keys;
}

static bool outputs_sees_lost(const struct outputs_pass *p, const struct across_keys *keys)
{
    for (uint32_t k = 0; p->any && k < keys->n; k++) {
        if (!isfinite(p->exact[keys->key[k]])) {
            return true;
        }
    }
    return false;
}

/* The lengths of the values at the row's keys, side by side. */
static const float *outputs_lengths(const struct outputs_pass *p, const struct across_keys *keys)
{
    uint32_t first = keys->key[0], width = keys->key[keys->n - 1] - first + 1;
    if (width == keys->n) {
        return p->length + first;
    }
    for (uint32_t k = 0; k < keys->n; k++) {
        p->gathered[k] = p->length[keys->key[k]];
    }
    return p->gathered;
}

/* The row's weights, which are in p->weight, wait for the product. */
static void outputs_add_row(struct outputs_pass *p, const struct across_keys *keys, double entropy)
{
    uint32_t first = keys->key[0], end = keys->key[keys->n - 1] + 1;
    float *weights = p->weights + (size_t)p->rows * p->a->keys;
    memset(weights, 0, p->a->keys * sizeof *weights);
    for (uint32_t k = 0; end - first > keys->n && k < keys->n; k++) {
        weights[keys->key[k]] = p->weight[k];
    }
    if (end - first == keys->n) {
        memcpy(weights + first, p->weight, keys->n * sizeof *weights);
    }
    p->begin = p->rows == 0 || first < p->begin ? first : p->begin;
    p->end = p->rows == 0 || end > p->end ? end : p->end;
    p->row[p->rows++] = (struct outputs_row){.entropy = entropy,
                                             .x_norm = attention_x_norm(p->a, p->sample, keys->i)};
}

/* The row as sent is gathered, judged, and handed to the formulas. */
static void outputs_add_exact(const struct outputs_pass *p, uint32_t h, uint32_t i)
{
    const struct attention *a = p->a;
    uint32_t n = attention_valid_keys(a, p->sample, i, p->list);
    attention_load_row(a, p->sample, h, i, p->sent);
    row_gather(p->sent, p->list, n, p->sent_weight);
    struct row r = {
        .position = attention_position(a, i), .n = n, .key = p->list, .weight = p->sent_weight};
    if (row_sound(a, &r, row_sum(&r))) {
        output_ref_add(&p->room, a, &p->head[h], p->sample, h, i, &r);
    }
}

static void outputs_take_row(struct outputs_pass *p, uint32_t h, uint32_t i)
{
    if (!attention_query_valid(p->a, p->sample, i)) {
        return;
    }
    if (!p->kernel) {
        outputs_add_exact(p, h, i);
        return;
    }
    struct across_judged judged;
    struct across_keys keys = outputs_keys(p, i);
    across_load(p->kernel, p->a, h, &keys, p->weight);
    enum across_verdict verdict = across_judge(p->kernel, p->a, p->weight, keys.n, &judged);
    if (verdict == ACROSS_UNSOUND || outputs_sees_lost(p, &keys)) {
        return;
    }
    if (verdict == ACROSS_SOUND && judged.sum <= SUM_MOST) {
        const float *length = outputs_lengths(p, &keys);
        struct across_shares shares = {0};
        for (uint32_t k = 0; k < keys.n; k += ACROSS_CHUNK) {
            uint32_t rest = keys.n - k, n = rest < ACROSS_CHUNK ? rest : ACROSS_CHUNK;
            struct across_shares one = p->kernel->shares(p->weight + k, length + k, n);
            shares.sum += one.sum;
            shares.logs += one.logs;
        }
        bool zero = !(judged.sum > 0) && !(judged.min < 0) && p->a->dtype != DTYPE_F64;
        if (zero || !p->some) {
            outputs_add_row(p, &keys, NAN);
            return;
        }
        if (shares.sum >= SHARES_LEAST) {
            double entropy = log(shares.sum) - LN2 * shares.logs / shares.sum;
            outputs_add_row(p, &keys, entropy > 0 ? entropy : 0);
            return;
        }
    }
    outputs_add_exact(p, h, i);
}

/* The product. */

static void outputs_multiply(const struct outputs_pass *p)
{
    int rows = (int)p->rows, dim = (int)p->a->qk.value_dim, stride = (int)p->a->keys;
    memset(p->output, 0, (size_t)rows * (size_t)dim * sizeof *p->output);
    for (uint32_t j = p->begin; j < p->end; j += PRODUCT_KEYS) {
        uint32_t rest = p->end - j, n = rest < PRODUCT_KEYS ? rest : PRODUCT_KEYS;
        outputs_load_values(p, j, n);
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, dim, (int)n, 1, p->weights + j,
                    stride, p->value, dim, 1, p->output, dim);
    }
    for (size_t c = 0; c < (size_t)rows * (size_t)dim; c++) {
        p->wide[c] = (double)p->output[c];
    }
    if (p->writes) {
        int r = (int)p->a->qk.written_dim;
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, r, dim, 1, p->wide, dim, p->wo_r,
                    dim, 0, p->written, r);
    }
}

/* |x|, x in units. */
static double outputs_norm(const struct outputs_pass *p, const double *x, uint32_t n)
{
    double sum = 0;
    for (uint32_t c = 0; c < n; c++) {
        sum += x[c] * x[c];
    }
    return sqrt(sum) * p->unit;
}

/* The rows that wait, through to the head's numbers. */
static void outputs_finish(struct outputs_pass *p, struct head_block *head)
{
    const struct qk *qk = &p->a->qk;
    if (p->rows > 0) {
        outputs_multiply(p);
    }
    for (uint32_t r = 0; r < p->rows; r++) {
        double norm = outputs_norm(p, p->wide + (size_t)r * qk->value_dim, qk->value_dim);
        moments_add_finite(&head->output_norm, norm);
        moments_add_finite(&head->norm_weighted_entropy, isfinite(norm) ? p->row[r].entropy : NAN);
        if (p->writes) {
            norm = outputs_norm(p, p->written + (size_t)r * qk->written_dim, qk->written_dim);
            moments_add_finite(&head->write_norm, norm);
            moments_add_finite(&head->residual_share, norm / p->row[r].x_norm);
        }
    }
    p->rows = 0;
}

static void outputs_run_head(struct outputs_pass *p, uint32_t h, uint32_t begin, uint32_t end,
                             struct scratch *scratch)
{
    const struct qk *qk = &p->a->qk;
    p->writes = qk->wo_r;
    for (uint32_t r = 0; p->writes && r < qk->written_dim; r++) {
        double *row = p->wo_r + (size_t)r * qk->value_dim;
        attention_load(qk->wo_r, DTYPE_F32, ((size_t)h * qk->written_dim + r) * qk->value_dim,
                       qk->value_dim, row);
        p->writes = isfinite(output_ref_length(row, qk->value_dim));
    }
    for (uint32_t i = begin; i < end; i++) {
        if (!p->kernel) { /* a row takes long, and none waits for the others */
            scratch_pause(scratch);
        }
        outputs_take_row(p, h, i);
        if (p->rows == p->rows_most) {
            scratch_pause(scratch);
            outputs_finish(p, &p->head[h]);
        }
    }
    scratch_pause(scratch);
    outputs_finish(p, &p->head[h]);
}

int outputs_compute(struct head_block *head, const struct attention *a, uint32_t row_begin,
                    uint32_t row_end, enum isa isa, struct scratch *scratch)
{
    assert(a->qk.v && a->heads % a->qk.kv_heads == 0 && row_end <= a->queries);
    struct outputs_pass p = {.kernel = across_kernels_of(isa), .a = a, .head = head};
    if (scratch_take_pieces(scratch, outputs_lay, &p) != 0) {
        return ERR_MEMORY;
    }
    for (uint32_t j = 0; j < a->keys; j++) {
        p.all[j] = j;
    }
    uint32_t group = a->heads / a->qk.kv_heads;
    for (p.sample = 0; p.sample < a->batch; p.sample++) {
        for (uint32_t kv = 0; kv < a->qk.kv_heads; kv++) {
            if (p.kernel) {
                outputs_begin_key_head(&p, kv);
            }
            for (uint32_t h = kv * group; h < (kv + 1) * group; h++) {
                outputs_run_head(&p, h, row_begin, row_end, scratch);
            }
        }
    }
    return 0;
}
