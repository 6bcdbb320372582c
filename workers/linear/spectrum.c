/* SPDX-License-Identifier: MIT */
/* spectrum: selects the method for each number, and derives the numbers that follow from singular
 * values.
 *
 *     effort    f32, f16, bf16                          f64
 *     NORM      Lanczos, else all values                Lanczos in f32, else all values
 *     LEADING   Lanczos, else all values                Lanczos in f32, else all values
 *     FULL      bidiagonalisation in f32                LAPACK in f64
 *
 * "Else" is when Lanczos has not converged. Small matrices go to LAPACK in f64: nothing is gained
 * by anything else, and their rank is judged with a bound that f32 rounding comes near. Beyond that
 * size the bound, s1 max(m, n) eps, was never seen below 5 times the error of the f32 method. */
#include "workers/linear/spectrum.h"
#include "workers/linear/spectrum_internal.h"

#include <cblas.h>
#include <math.h>

/* Shorter sides up to this go to LAPACK. */
#define SMALL 128

double spectrum_eps(enum dtype dtype)
{
    return dtype == DTYPE_F64 ? 0x1p-52 : 0x1p-23;
}

void spectrum_global_init(void)
{
    openblas_set_num_threads(1);
}

void spectrum_none(struct spectrum *ret_spectrum)
{
    for (uint32_t i = 0; i < SINGULAR_VALUES_MAX; i++) {
        ret_spectrum->singular_values[i] = NAN;
    }
    for (uint32_t i = 0; i < LOW_RANK_COUNT; i++) {
        ret_spectrum->low_rank_error[i] = NAN;
    }
    ret_spectrum->spectral_norm = ret_spectrum->stable_rank = ret_spectrum->condition_number =
        ret_spectrum->rank = NAN;
    ret_spectrum->effective_rank = ret_spectrum->effective_rank_entropy =
        ret_spectrum->nuclear_norm = ret_spectrum->eigenvalue_2 = NAN;
}

static uint32_t spectrum_smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Number of values above a bound; the values descend. */
static uint32_t count_above(const double *values, uint32_t count, double bound)
{
    uint32_t n = 0;
    while (n < count && values[n] > bound) {
        n++;
    }
    return n;
}

/* sum_{i >= from} (s_i / s_0)^2, smallest first. */
static double spectrum_sum_squares(const double *s, uint32_t from, uint32_t count)
{
    double sum = 0;
    for (uint32_t i = count; i > from; i--) {
        sum += (s[i - 1] / s[0]) * (s[i - 1] / s[0]);
    }
    return sum;
}

/* exp(-sum p ln p), p = s / sum s. */
static double entropy_rank(const double *s, uint32_t count, double sum)
{
    double entropy = 0;
    for (uint32_t i = 0; i < count && s[i] > 0; i++) {
        double p = s[i] / sum;
        entropy -= p > 0 ? p * log(p) : 0;
    }
    return exp(entropy);
}

/* The rest of the squares when the first k values are taken away. */
static void describe_errors(const double *s, uint32_t count, double squares, double tail,
                            struct spectrum *ret)
{
    for (uint32_t i = 0; i < LOW_RANK_COUNT; i++) {
        uint32_t k = spectrum_smaller(low_rank[i], count);
        ret->low_rank_error[i] = sqrt((spectrum_sum_squares(s, k, count) + tail) / squares);
    }
}

static void describe_leading(const double *s, uint32_t count, double unit, struct spectrum *ret)
{
    ret->spectral_norm = s[0] * unit;
    for (uint32_t i = 0; i < count && i < SINGULAR_VALUES_MAX; i++) {
        ret->singular_values[i] = s[i] * unit;
    }
}

/* All from all values. `longer` is max(rows, columns). */
static void spectrum_describe_all(const struct singular_values *v, uint32_t longer, double eps,
                                  struct spectrum *ret)
{
    const double *s = v->value;
    double sum = 0; /* over s1: never overflows */
    describe_leading(s, v->count, v->unit, ret);
    uint32_t rank = count_above(s, v->count, s[0] * longer * eps);
    ret->rank = rank;
    ret->effective_rank = count_above(s, v->count, 0.01 * s[0]);
    if (s[0] == 0) {
        ret->nuclear_norm = 0;
        return;
    }
    for (uint32_t i = v->count; i > 0; i--) {
        sum += s[i - 1] / s[0];
    }
    ret->nuclear_norm = sum * ret->spectral_norm;
    ret->stable_rank = spectrum_sum_squares(s, 0, v->count);
    ret->effective_rank_entropy = entropy_rank(s, v->count, sum * s[0]);
    describe_errors(s, v->count, ret->stable_rank, 0, ret);
    if (rank == v->count) {
        ret->condition_number = log10(s[0] / s[v->count - 1]);
    }
}

/* Without a kernel by LAPACK, whatever the matrix. */
static int spectrum_compute_all(const struct matrix *m, double eps,
                                const struct spectrum_kernels *kernel, struct scratch *scratch,
                                struct spectrum *ret)
{
    struct singular_values v;
    bool small = spectrum_smaller(m->rows, m->columns) <= SMALL;
    int rc = !kernel || small || m->dtype == DTYPE_F64 ? lapack_values(m, scratch, &v)
                                                       : bidiagonal_values(m, kernel, scratch, &v);
    if (rc == 0 && v.value) {
        spectrum_describe_all(&v, m->rows > m->columns ? m->rows : m->columns, eps, ret);
    }
    return rc;
}

/* Returns 1 when done, 0 when all values are needed, or ERR_MEMORY. */
static int compute_leading(const struct matrix *m, enum spectrum_effort effort,
                           const struct spectrum_kernels *kernel, struct scratch *scratch,
                           struct spectrum *ret)
{
    uint32_t wanted = effort == SPECTRUM_NORM ? 1 : SINGULAR_VALUES_MAX;
    struct leading_values v;
    if (effort >= SPECTRUM_FULL || spectrum_smaller(m->rows, m->columns) <= SMALL) {
        return 0;
    }
    int rc = lanczos_values(m, wanted, kernel, scratch, &v);
    if (rc < 0 || !v.converged) {
        return rc;
    }
    /* Derives the numbers that follow from the leading values and |A|_F. */
    const double *s = v.value;
    ret->spectral_norm = s[0] * v.unit;
    if (s[0] > 0) {
        ret->stable_rank = v.squares / (s[0] * s[0]);
    }
    if (wanted > 1) {
        describe_leading(s, v.count, v.unit, ret);
    }
    if (wanted > 1 && s[0] > 0) {
        double known = spectrum_sum_squares(s, 0, v.count);
        describe_errors(s, v.count, fmax(ret->stable_rank, known),
                        fmax(ret->stable_rank - known, 0), ret);
    }
    return 1;
}

int spectrum_of_matrix(const struct matrix *matrix, double eps, enum spectrum_effort effort,
                       enum isa isa, struct scratch *scratch, struct spectrum *ret_spectrum)
{
    const struct spectrum_kernels *kernel = kernels_or_portable(isa)->spectrum;
    struct spectrum s;
    spectrum_none(&s);
    if (matrix->rows > 0 && matrix->columns > 0) {
        int rc = compute_leading(matrix, effort, kernel, scratch, &s);
        if (rc == 0) {
            rc = spectrum_compute_all(matrix, eps, kernel, scratch, &s);
        }
        if (rc < 0) {
            return rc;
        }
    }
    /* Takes back what the effort did not ask for, so that it does not depend on the method. */
    struct spectrum full = s;
    if (effort < SPECTRUM_FULL) {
        spectrum_none(&s);
        s.spectral_norm = full.spectral_norm;
        s.stable_rank = full.stable_rank;
        for (uint32_t i = 0; effort == SPECTRUM_LEADING && i < SINGULAR_VALUES_MAX; i++) {
            s.singular_values[i] = full.singular_values[i];
        }
        for (uint32_t i = 0; effort == SPECTRUM_LEADING && i < LOW_RANK_COUNT; i++) {
            s.low_rank_error[i] = full.low_rank_error[i];
        }
    }
    *ret_spectrum = s;
    return 0;
}

/* The valid rectangle. */
static struct matrix linear_spectrum_map_of(const struct attention *a, uint32_t sample,
                                            uint32_t head)
{
    size_t element = dtype_size(a->dtype);
    size_t first = ((size_t)sample * a->heads + head) * a->queries * a->keys;
    return (struct matrix){.data = (const unsigned char *)a->weights + first * element,
                           .dtype = a->dtype,
                           .rows = attention_query_count(a, sample),
                           .columns = attention_key_count(a, sample),
                           .stride = a->keys};
}

/* Second largest of the diagonal's magnitudes. */
static double triangular_eigenvalue_2(const struct matrix *m)
{
    double first = fabs(matrix_at(m, 0, 0)), second = NAN;
    for (uint32_t i = 1; i < m->rows; i++) {
        double x = fabs(matrix_at(m, i, i));
        second = fmax(second, fmin(first, x)); /* fmax leaves the NaN out */
        first = fmax(first, x);
    }
    return second;
}

/* dgeev takes a few milliseconds up to here. */
#define EIGENVALUES_SMALL 128

static int reference_eigenvalue_2(const struct matrix *m, struct scratch *scratch, double *ret)
{
    if (m->rows != m->columns || m->rows < 2) {
        return 0;
    }
    struct moduli moduli;
    int rc = lapack_moduli(m, scratch, &moduli);
    if (rc == 0) {
        *ret = moduli.second;
    }
    return rc;
}

/* The matrix is finite. */
static int compute_eigenvalue_2(const struct matrix *m, enum spectrum_effort effort,
                                struct scratch *scratch, double *ret)
{
    if (m->rows != m->columns || m->rows < 2 || effort < SPECTRUM_FULL) {
        return 0;
    }
    if (matrix_is_triangular(m)) {
        *ret = triangular_eigenvalue_2(m);
        return 0;
    }
    bool wanted = effort == SPECTRUM_EIGENVALUES || m->rows <= EIGENVALUES_SMALL;
    return wanted ? reference_eigenvalue_2(m, scratch, ret) : 0;
}

int spectrum_compute_ref(const struct attention *a, uint32_t sample, uint32_t head,
                         struct scratch *scratch, struct spectrum *ret_spectrum)
{
    struct matrix m = linear_spectrum_map_of(a, sample, head);
    struct spectrum s;
    spectrum_none(&s);
    if (m.rows > 0 && m.columns > 0) {
        int rc = spectrum_compute_all(&m, spectrum_eps(m.dtype), NULL, scratch, &s);
        if (rc == 0 && !isnan(s.spectral_norm)) {
            rc = reference_eigenvalue_2(&m, scratch, &s.eigenvalue_2);
        }
        if (rc < 0) {
            return rc;
        }
    }
    *ret_spectrum = s;
    return 0;
}

int spectrum_compute(const struct attention *a, uint32_t sample, uint32_t head,
                     enum spectrum_effort effort, enum isa isa, struct scratch *scratch,
                     struct spectrum *ret_spectrum)
{
    struct matrix m = linear_spectrum_map_of(a, sample, head);
    struct spectrum s;
    int rc = spectrum_of_matrix(&m, spectrum_eps(m.dtype), effort, isa, scratch, &s);
    if (rc == 0 && !isnan(s.spectral_norm)) {
        rc = compute_eigenvalue_2(&m, effort, scratch, &s.eigenvalue_2);
    }
    if (rc == 0) {
        *ret_spectrum = s;
    }
    return rc;
}
