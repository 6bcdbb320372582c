/* SPDX-License-Identifier: MIT */
/* spectrum_bidiagonal: Householder's reduction to a bidiagonal matrix with one pass over the
 * matrix per step, then LAPACK's dqds on the bidiagonal.
 *
 * The rest of the matrix is in cache at best, so the passes dominate the cost. Golub and Kahan's
 * step
 *
 *     column k:  u, tau with (I - tau u u^T) a_k = d_k e_k;   y = tau A^T u
 *     row k:     v, sigma that map row k of A - u y^T to e_k; x = (A - u y^T) v
 *     A <- A - u y^T - sigma x v^T
 *
 * reads A for y, again for A v, and again to update it: LAPACK does the first two in matrix-vector
 * products, the last one for a block of steps in a matrix product. Here one pass does all three:
 *
 *   - v is row k without its first entry's share, v = (r - beta e) / (r_1 - beta) with
 *     r_j = a_kj - y_j; and r_j is known as soon as column j has been multiplied with u. So
 *     w = A r is summed column by column behind y, and A v = (w - beta a_{k+1}) / (r_1 - beta).
 *   - the update of a step is applied by the pass of the next one, column by column before use.
 *
 * (The reordering is Howell et al. 2008, "cache efficient bidiagonalization using BLAS 2.5
 * operators".) It is backward stable as LAPACK's: a singular value is off by a few 2^-24 of the
 * largest. That is what decides against the Gram matrix, which costs the same and loses half of the
 * digits. Norms and scalar products of vectors are summed in f64. */
#include "workers/linear/spectrum_internal.h"
#include "proto/err.h"

#include <lapacke.h>
#include <math.h>
#include <string.h>

/* Against the peak: less is taken for zero. f32 cannot hold what it would be divided by. */
#define NEGLIGIBLE 1e-30

struct reduction {
    struct spectrum_vectors a; /* the longer side along the vectors */
    uint32_t rows;             /* used length of a vector */
    double negligible;
    float *u, *old_u, *x, *w;        /* along the vectors: [a.length] */
    float *y, *v;                    /* across: [a.count] */
    float *diagonal, *beside, *work; /* [a.count], [a.count], [4 * a.count] */
    double *values;                  /* [a.count] */
};

/* Turns x into the vector h, h_0 = 1, for which (I - tau h h^T) x = beta e_0. */
static void reflect(float *x, size_t n, double negligible, float *ret_tau, float *ret_beta)
{
    double first = (double)x[0], rest = spectrum_dot(x + 1, x + 1, n - 1);
    if (sqrt(rest) <= negligible) {
        memset(x, 0, n * sizeof *x);
        x[0] = 1;
        *ret_tau = 0;
        *ret_beta = (float)first;
        return;
    }
    double beta = -copysign(sqrt(first * first + rest), first);
    double divisor = first - beta; /* no cancellation: the signs differ */
    float factor = (float)(1 / divisor);
    for (size_t i = 1; i < n; i++) {
        x[i] *= factor;
    }
    x[0] = 1;
    *ret_tau = (float)(-divisor / beta);
    *ret_beta = (float)beta;
}

/* Brings column k up to date and takes its reflection. Returns tau. */
static float reflect_column(struct reduction *r, uint32_t k)
{
    const float *column = r->a.data + k * r->a.stride;
    float tau, y = r->y[k], v = r->v[k];
    memset(r->u, 0, k * sizeof *r->u);
    for (uint32_t i = k; i < r->rows; i++) {
        r->u[i] = column[i] - y * r->old_u[i] - v * r->x[i];
    }
    reflect(r->u + k, r->rows - k, r->negligible, &tau, &r->diagonal[k]);
    return tau;
}

/* Takes the reflection of row k and what it does to the columns: x. */
static void reflect_row(struct reduction *r, uint32_t k)
{
    uint32_t n = r->a.count - k - 1;
    float *y = r->y + k + 1, *v = r->v + k + 1, sigma;
    const float *next = r->a.data + (k + 1) * r->a.stride;
    double first = (double)v[0];
    reflect(v, n, r->negligible, &sigma, &r->beside[k]);
    memset(r->x, 0, (k + 1) * sizeof *r->x);
    float beta = r->beside[k], share = sigma * (float)spectrum_dot(y, v, n);
    float factor = sigma == 0 ? 0 : sigma * (float)(1 / (first - (double)beta));
    for (uint32_t i = k + 1; i < r->rows; i++) {
        r->x[i] = (r->w[i] - beta * next[i]) * factor - share * r->u[i];
    }
}

static void reduce(struct reduction *r, const struct spectrum_kernels *kernel)
{
    for (uint32_t k = 0; k < r->a.count; k++) {
        float tau = reflect_column(r, k);
        if (k + 1 == r->a.count) {
            return;
        }
        kernel->step(&r->a, &(struct spectrum_step){.step = k,
                                                    .tau = tau,
                                                    .old_u = r->old_u,
                                                    .old_x = r->x,
                                                    .old_y = r->y,
                                                    .old_v = r->v,
                                                    .u = r->u,
                                                    .ret_y = r->y,
                                                    .ret_row = r->v,
                                                    .ret_w = r->w});
        reflect_row(r, k);
        float *u = r->u;
        r->u = r->old_u;
        r->old_u = u;
    }
}

static void reduction_lay(void *data, struct scratch_pieces *m)
{
    struct reduction *r = data;
    size_t along = r->a.length, across = spectrum_padded(r->a.count);
    r->a.data = scratch_carve(m, (uint64_t)r->a.count * r->a.stride, sizeof *r->a.data);
    r->u = scratch_carve(m, along, sizeof *r->u);
    r->old_u = scratch_carve(m, along, sizeof *r->old_u);
    r->x = scratch_carve(m, along, sizeof *r->x);
    r->w = scratch_carve(m, along, sizeof *r->w);
    r->y = scratch_carve(m, across, sizeof *r->y);
    r->v = scratch_carve(m, across, sizeof *r->v);
    r->diagonal = scratch_carve(m, across, sizeof *r->diagonal);
    r->beside = scratch_carve(m, across, sizeof *r->beside);
    r->work = scratch_carve(m, 4 * across, sizeof *r->work);
    r->values = scratch_carve(m, across, sizeof *r->values);
}

static int take_reduction(struct reduction *r, const struct matrix *m, struct scratch *scratch)
{
    uint32_t longer = m->rows > m->columns ? m->rows : m->columns;
    uint32_t count = m->rows < m->columns ? m->rows : m->columns;
    size_t length = spectrum_padded(longer), stride = spectrum_stride(length);
    *r = (struct reduction){.a = {NULL, length, stride, count}, .rows = longer};
    if (longer > INT32_MAX || (uint64_t)count * stride > SIZE_MAX / 16 ||
        scratch_take_pieces(scratch, reduction_lay, r) != 0) {
        return ERR_MEMORY;
    }
    /* u to v lie one behind the other. The first step has no step before it; padding stays zero. */
    memset(r->u, 0, (size_t)(r->diagonal - r->u) * sizeof *r->u);
    return 0;
}

int bidiagonal_values(const struct matrix *m, const struct spectrum_kernels *kernel,
                      struct scratch *scratch, struct singular_values *ret)
{
    struct reduction r;
    int rc = take_reduction(&r, m, scratch);
    if (rc < 0) {
        return rc;
    }
    *ret = (struct singular_values){.value = NULL, .count = r.a.count, .unit = 1};
    double peak = matrix_peak(m);
    if (!isfinite(peak)) {
        return 0;
    }
    double scale = matrix_scale(peak);
    r.negligible = NEGLIGIBLE * (peak * scale);
    matrix_load_f32(m, scale, m->columns < m->rows, &r.a);
    reduce(&r, kernel);
    /* The values of the bidiagonal; dqds is exact relative to each of them. */
    lapack_int n = (lapack_int)r.a.count, none = 0, one = 1, info = 0;
    float unused;
    LAPACK_sbdsqr("U", &n, &none, &none, &none, r.diagonal, r.beside, &unused, &one, &unused, &one,
                  &unused, &one, r.work, &info);
    for (uint32_t i = 0; i < r.a.count; i++) {
        r.values[i] = (double)r.diagonal[i];
    }
    if (info == 0) {
        ret->value = r.values;
        ret->unit = 1 / scale;
    }
    return 0;
}
