/* SPDX-License-Identifier: MIT */
/* qk_spectrum: with Q = U R_q and K = W R_k (thin, U and W orthonormal), Q K^T = U (R_q R_k^T) W^T
 * has the singular values of R_q R_k^T, which is head_dim x head_dim at most. A matrix with fewer
 * rows than columns is its own factor: there is nothing to gain.
 *
 * LAPACK is column-major: read without moving anything, Q [queries][d] is Q^T, and its LQ
 * factorisation Q^T = L W is the QR factorisation of Q, R_q = L^T. */
#include "workers/qk/qk.h"

#include "proto/err.h"
#include <cblas.h>
#include <lapacke.h>
#include <math.h>

static uint32_t qk_spectrum_smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t qk_spectrum_larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Work space of the factorisation, per row of what is factored. */
#define WORK_PER_ROW 64

/* Queries or keys on their way to their factor. */
struct side {
    double *x;                /* [rows][dim]; then L, dim x kept, by columns */
    uint32_t rows, dim, kept; /* kept: the smaller of both */
};

/* Loads the vectors; returns whether they are finite. */
static bool load_side(struct side *s, const void *data, enum dtype dtype, size_t first)
{
    bool finite = true;
    for (uint32_t i = 0; i < s->rows; i++) {
        double *row = s->x + (size_t)i * s->dim;
        attention_load(data, dtype, first + (size_t)i * s->dim, s->dim, row);
        for (uint32_t c = 0; c < s->dim; c++) {
            finite = finite && isfinite(row[c]);
        }
    }
    return finite;
}

/* Divides by the largest magnitude, so that nothing over- or underflows on the way, and returns it.
 */
static double scale_side(const struct side *s)
{
    double largest = 0;
    size_t n = (size_t)s->rows * s->dim;
    for (size_t k = 0; k < n; k++) {
        largest = fmax(largest, fabs(s->x[k]));
    }
    for (size_t k = 0; largest > 0 && k < n; k++) {
        s->x[k] /= largest;
    }
    return largest;
}

/* Leaves L, dim x kept by columns, with zeros above its diagonal. Returns whether LAPACK could. */
static bool factor_side(const struct side *s, double *tau, double *work)
{
    lapack_int d = (lapack_int)s->dim, rows = (lapack_int)s->rows, info = 0;
    lapack_int work_count = d * WORK_PER_ROW;
    if (s->rows <= s->dim) {
        return true; /* its own factor */
    }
    LAPACK_dgelqf(&d, &rows, s->x, &d, tau, work, &work_count, &info);
    for (uint32_t column = 1; column < s->kept; column++) {
        for (uint32_t row = 0; row < column; row++) {
            s->x[(size_t)column * s->dim + row] = 0;
        }
    }
    return info == 0;
}

struct problem {
    struct side q, k;
    double *tau, *work, *product;
};

static void problem_lay(void *data, struct scratch_pieces *m)
{
    struct problem *p = data;
    struct side *q = &p->q, *k = &p->k;
    q->x = scratch_carve(m, (uint64_t)q->rows * q->dim, sizeof *q->x);
    k->x = scratch_carve(m, (uint64_t)k->rows * k->dim, sizeof *k->x);
    p->tau = scratch_carve(m, q->dim, sizeof *p->tau);
    p->work = scratch_carve(m, (uint64_t)q->dim * WORK_PER_ROW, sizeof *p->work);
    p->product = scratch_carve(m, (uint64_t)q->kept * k->kept, sizeof *p->product);
}

static int qk_spectrum_take_problem(struct problem *p, struct scratch *scratch)
{
    const struct side *q = &p->q, *k = &p->k;
    bool fits = q->rows <= INT32_MAX && k->rows <= INT32_MAX && q->dim <= INT32_MAX / WORK_PER_ROW;
    return fits ? scratch_take_pieces(scratch, problem_lay, p) : ERR_MEMORY;
}

/* Sets product[q.kept][k.kept] and what its singular values are to be multiplied by: NaN when an
 * element is not finite. */
static double qk_spectrum_multiply(struct problem *p, const struct attention *a, uint32_t sample,
                                   uint32_t head)
{
    struct side *q = &p->q, *k = &p->k;
    uint32_t kv = head / (a->heads / a->qk.kv_heads);
    size_t q_first = ((size_t)sample * a->heads + head) * a->queries * q->dim;
    size_t k_first = ((size_t)sample * a->qk.kv_heads + kv) * a->keys * k->dim;
    if (!load_side(q, a->qk.q, a->qk.q_dtype, q_first) ||
        !load_side(k, a->qk.k, a->qk.k_dtype, k_first)) {
        return NAN;
    }
    double unit = fabs(a->qk.scale) * scale_side(q) * scale_side(k);
    if (!factor_side(q, p->tau, p->work) || !factor_side(k, p->tau, p->work)) {
        return NAN;
    }
    /* L_q^T L_k; what LAPACK has by columns are here the rows of L^T. */
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)q->kept, (int)k->kept, (int)q->dim, 1,
                q->x, (int)q->dim, k->x, (int)k->dim, 0, p->product, (int)k->kept);
    return unit;
}

/* The bound is that of queries x keys, though the matrix at hand is smaller. */
static double rank_eps(const struct attention *a, const struct problem *p)
{
    double eps = fmax(spectrum_eps(a->qk.q_dtype), spectrum_eps(a->qk.k_dtype));
    return eps * qk_spectrum_larger(p->q.rows, p->k.rows) /
           qk_spectrum_larger(p->q.kept, p->k.kept);
}

static int qk_spectrum_describe(struct problem *p, const struct attention *a, double unit,
                                enum isa isa, struct scratch *scratch, struct spectrum *ret)
{
    struct matrix product = {.data = p->product,
                             .dtype = DTYPE_F64,
                             .rows = p->q.kept,
                             .columns = p->k.kept,
                             .stride = p->k.kept};
    int rc = spectrum_of_matrix(&product, rank_eps(a, p), SPECTRUM_FULL, isa, scratch, ret);
    if (rc == 0) {
        /* The product's values are those of the small one times `unit`, which may be beyond f64. */
        for (uint32_t i = 0; i < SINGULAR_VALUES_MAX; i++) {
            ret->singular_values[i] *= unit;
        }
        ret->spectral_norm *= unit;
        ret->nuclear_norm *= unit;
    }
    return rc;
}

static struct side side_of(uint32_t rows, uint32_t dim)
{
    return (struct side){.rows = rows, .dim = dim, .kept = qk_spectrum_smaller(rows, dim)};
}

int qk_spectrum(const struct attention *a, uint32_t sample, uint32_t head, enum isa isa,
                struct scratch *scratch, struct spectrum *ret_spectrum)
{
    struct spectrum s;
    spectrum_none(&s);
    struct problem p = {.q = side_of(attention_query_count(a, sample), a->qk.head_dim),
                        .k = side_of(attention_key_count(a, sample), a->qk.head_dim)};
    int rc = 0;
    if (p.q.kept > 0 && p.k.kept > 0) {
        struct scratch own = {0}; /* the product outlives what spectrum_of_matrix takes */
        rc = qk_spectrum_take_problem(&p, &own);
        double unit = rc == 0 ? qk_spectrum_multiply(&p, a, sample, head) : NAN;
        if (!isnan(unit)) {
            rc = qk_spectrum_describe(&p, a, unit, isa, scratch, &s);
        }
        scratch_clear(&own);
    }
    if (rc == 0) {
        *ret_spectrum = s;
    }
    return rc;
}
