/* SPDX-License-Identifier: MIT */
/* spectrum_lanczos: Lanczos's method on A^T A with full reorthogonalisation.
 *
 * A^T A v is one pass over A (each row is used twice while it is in cache), and A^T A itself never
 * exists: a product's rounding is that of two products with A, so that a value s is off by about
 * 2^-24 s1 and not by its square root. Vectors are f32; the tridiagonal matrix T, its values and
 * all scalar products are f64.
 *
 * How it stops, and what keeps it honest:
 *   - a value of T is within its residual, beta_k times the last entry of its vector, of some
 *     eigenvalue of A^T A: that bound, and not a stagnation, is what has to meet the tolerance.
 *   - the start is the sum of the rows, near the first vector of an attention map, plus a
 *     pseudo-random vector, always the same: no direction is left out by symmetry.
 *   - one sequence sees one copy of a multiple value (an identity, two equal documents in one
 *     map). When it ends early it begins again with a fresh vector; and when the values have
 *     converged, a short sequence in the orthogonal complement of all vectors looks for anything
 *     larger than the last of them.
 *   - T is as exact as f32 of its largest entry. An attention sink has s1 = sqrt(T) and the others
 *     far below: the first vector is then fixed, and T is about the others. A map whose 16th value
 *     is still too small for T is reported as not converged.
 *   - what has not converged after STEPS_MAX steps, or was found to lack something, is reported as
 *     not converged, and the caller computes all values.
 * No result depends on time or on other threads. Parlett 1998, The symmetric eigenvalue problem;
 * for the start and the complement: Halko, Martinsson and Tropp 2011. */
#include "workers/linear/spectrum_internal.h"
#include "proto/err.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <string.h>

enum {
    STEPS_MAX = 200,
    PROBE_STEPS = 12,
    VECTORS_MAX = STEPS_MAX + PROBE_STEPS + 1,
    STEPS_MIN = 8, /* before anything is judged: a hidden direction grows meanwhile */
    APART_MIN = 4, /* steps between tests */
    APART_MAX = 24,
};

/* Residuals allowed, relative to eigenvalues of A^T A. The values are then far better than
 * promised: LEADING_TOLERANCE is not about them, but about a value whose vector the start happens
 * to lack nearly. Among values as close as at the edge of a bulk it appears late; that it is
 * missing when all residuals are this small is about as likely. */
#define NORM_TOLERANCE    1e-4
#define LEADING_TOLERANCE 2e-5
/* The complement may exceed the last value by so much. */
#define PROBE_TOLERANCE 1e-3
/* T's entries are rounded to f32 of the largest: eigenvalues below this share of it are not told
 * from rounding, except that what is below NOTHING, of a matrix that has nothing else, is zero. */
#define FLOOR   4e-6
#define NOTHING 1e-9
/* The first vector is kept when the others' eigenvalues are below this share of it. */
#define LOCK_BELOW    3e-3
#define LOCK_RESIDUAL 1e-6
/* A vector of which orthogonalisation leaves this share is rounding. */
#define BREAKDOWN 2e-6
/* The share of the first eigenvalue below which nothing but rounding is left of the matrix. */
#define EXHAUSTED    1e-12
#define RANDOM_SHARE 0.3f

struct lanczos {
    struct spectrum_vectors a;
    const struct spectrum_kernels *kernel;
    uint32_t dimension; /* used length of a vector */
    uint32_t limit;     /* steps that make sense */
    float *basis;       /* [VECTORS_MAX][a.stride], orthonormal */
    float *share;       /* [VECTORS_MAX] */
    uint64_t random;
    uint32_t begin, end; /* vectors of the sequence: T has the entries [begin, end) */
    double alpha[VECTORS_MAX], beta[VECTORS_MAX];
    double first; /* the largest alpha so far: a lower bound of the first eigenvalue */
    bool exhausted;
};

static float *vector(const struct lanczos *l, uint32_t i)
{
    return l->basis + i * l->a.stride;
}

/* Scales x to length 1; returns what the length was. */
static double normalise(const struct lanczos *l, float *x)
{
    double norm = sqrt(spectrum_dot(x, x, l->a.length));
    float factor = norm > 0 ? (float)(1 / norm) : 0;
    for (uint32_t i = 0; i < l->dimension; i++) {
        x[i] *= factor;
    }
    return norm;
}

/* Uniform in -1 .. 1: Vigna's splitmix64. */
static void spectrum_lanczos_fill_random(struct lanczos *l, float *x)
{
    memset(x, 0, l->a.stride * sizeof *x);
    for (uint32_t i = 0; i < l->dimension; i++) {
        uint64_t z = l->random += 0x9e3779b97f4a7c15u;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        x[i] = (float)(z >> 40) * 0x1p-23f - 1;
    }
}

/* Takes from x what it has of the first `count` basis vectors. Twice is enough. */
static void orthogonalise(const struct lanczos *l, uint32_t count, float *x)
{
    int rows = (int)count, columns = (int)l->a.length, stride = (int)l->a.stride;
    for (int pass = 0; pass < 2 && count > 0; pass++) {
        cblas_sgemv(CblasRowMajor, CblasNoTrans, rows, columns, 1, l->basis, stride, x, 1, 0,
                    l->share, 1);
        cblas_sgemv(CblasRowMajor, CblasTrans, rows, columns, -1, l->basis, stride, l->share, 1, 1,
                    x, 1);
    }
}

/* Makes basis vector `at` a fresh one. */
static void spectrum_lanczos_begin_anew(struct lanczos *l, uint32_t at)
{
    float *x = vector(l, at);
    spectrum_lanczos_fill_random(l, x);
    normalise(l, x);
    orthogonalise(l, at, x);
    normalise(l, x);
}

/* One step: extends T by vector `end`, and the basis by the next one. */
static void extend(struct lanczos *l)
{
    uint32_t k = l->end;
    const float *v = vector(l, k);
    float *z = vector(l, k + 1);
    memset(z, 0, l->a.stride * sizeof *z);
    l->kernel->gram(&l->a, v, z);
    double before = sqrt(spectrum_dot(z, z, l->a.length));
    l->alpha[k] = spectrum_dot(z, v, l->a.length);
    l->first = fmax(l->first, l->alpha[k]);
    orthogonalise(l, k + 1, z);
    l->beta[k] = normalise(l, z);
    l->end = k + 1;
    if (l->alpha[k] <= EXHAUSTED * l->first && l->beta[k] <= EXHAUSTED * l->first) {
        l->exhausted = true;
        l->beta[k] = 0;
    } else if (l->beta[k] <= BREAKDOWN * before) {
        l->beta[k] = 0;
        spectrum_lanczos_begin_anew(l, k + 1);
    }
}

/* The eigenvalues of T without its last `leave` rows, descending. Returns whether LAPACK's
 * root-free QL converged. */
static bool solve(const struct lanczos *l, uint32_t leave, double *ret_value)
{
    lapack_int n = (lapack_int)(l->end - l->begin - leave), info = 0;
    double value[VECTORS_MAX], beside[VECTORS_MAX];
    memcpy(value, l->alpha + l->begin, (size_t)n * sizeof *value);
    memcpy(beside, l->beta + l->begin, (size_t)n * sizeof *beside);
    LAPACK_dsterf(&n, value, beside, &info);
    for (lapack_int i = 0; i < n; i++) {
        ret_value[i] = fmax(value[n - 1 - i], 0);
    }
    return info == 0;
}

/* a / b of an interlacing pair: at most 1, also where rounding leaves 0 / 0. */
static double spectrum_lanczos_share(double a, double b)
{
    return b > 0 && a < b ? fmax(a, 0) / b : 1;
}

/* The last entry of the i-th vector of T: its square is
 *     prod_j (value_i - shorter_j) / prod_{j != i} (value_i - value_j)
 * with the values of T without its last row, which interlace. */
static double last_entry(const double *value, const double *shorter, uint32_t count, uint32_t i)
{
    double product = 1;
    for (uint32_t j = 0; j < i; j++) {
        product *= spectrum_lanczos_share(shorter[j] - value[i], value[j] - value[i]);
    }
    for (uint32_t j = i; j + 1 < count; j++) {
        product *= spectrum_lanczos_share(value[i] - shorter[j], value[i] - value[j + 1]);
    }
    return sqrt(product);
}

/* The largest residual among the first `wanted` values of T, as a multiple of what is allowed; NaN
 * when LAPACK fails. */
static double worst_residual(const struct lanczos *l, uint32_t wanted, const double *value)
{
    uint32_t count = l->end - l->begin;
    double beta = l->beta[l->end - 1], shorter[VECTORS_MAX], worst = 0;
    if (beta > 0 && !solve(l, 1, shorter)) {
        return NAN;
    }
    for (uint32_t i = 0; beta > 0 && i < wanted && i < count; i++) {
        double tolerance = i == 0 ? NORM_TOLERANCE : LEADING_TOLERANCE;
        double residual = beta * last_entry(value, shorter, count, i);
        worst = fmax(worst, residual / (tolerance * fmax(value[i], FLOOR * value[0])));
    }
    return worst;
}

/* Keeps the first vector of T as basis vector 0, when it is by far the largest and known well, and
 * begins anew beside it. T, whose entries are as exact as its largest one allows, is then about the
 * others alone. Returns whether it did. */
static bool lock_first(struct lanczos *l)
{
    lapack_int n = STEPS_MIN, info = 0;
    double value[STEPS_MIN], beside[STEPS_MIN], turn[STEPS_MIN * STEPS_MIN], work[2 * STEPS_MIN];
    memcpy(value, l->alpha, sizeof value);
    memcpy(beside, l->beta, sizeof beside);
    LAPACK_dstev("V", &n, value, beside, turn, &n, work, &info);
    const double *last = turn + (STEPS_MIN - 1) * STEPS_MIN; /* of the largest value */
    double residual = l->beta[STEPS_MIN - 1] * fabs(last[STEPS_MIN - 1]);
    if (info != 0 || value[STEPS_MIN - 2] > LOCK_BELOW * value[STEPS_MIN - 1] ||
        residual > LOCK_RESIDUAL * value[STEPS_MIN - 1]) {
        return false;
    }
    float *ritz = vector(l, STEPS_MIN);
    for (uint32_t i = 0; i < STEPS_MIN; i++) {
        l->share[i] = (float)last[i];
    }
    cblas_sgemv(CblasRowMajor, CblasTrans, STEPS_MIN, (int)l->a.length, 1, l->basis,
                (int)l->a.stride, l->share, 1, 0, ritz, 1);
    normalise(l, ritz);
    memcpy(l->basis, ritz, l->a.length * sizeof *ritz);
    l->alpha[0] = value[STEPS_MIN - 1];
    l->begin = l->end = 1;
    spectrum_lanczos_begin_anew(l, 1);
    return true;
}

/* Whether the complement of the basis holds an eigenvalue above `least`, as far as a short sequence
 * from a fresh vector can see. */
static bool complement_has_more(struct lanczos *l, double least)
{
    double value[VECTORS_MAX];
    l->begin = l->end;
    spectrum_lanczos_begin_anew(l, l->end);
    for (uint32_t i = 0; i < PROBE_STEPS && l->end < l->dimension && !l->exhausted; i++) {
        extend(l);
    }
    return l->end > l->begin &&
           (!solve(l, 0, value) || value[0] > least * (1 + PROBE_TOLERANCE) + 1e-9 * l->first);
}

/* Whether none of the values lies where f32 cannot tell it from rounding, unless it is nothing but
 * rounding. */
static bool distinct(const struct lanczos *l, uint32_t wanted, const double *value)
{
    uint32_t count = l->end - l->begin;
    for (uint32_t i = 0; i < wanted && i < count; i++) {
        bool nothing = l->exhausted && value[i] <= NOTHING * value[0];
        if (value[i] < FLOOR * value[0] && !nothing) {
            return false;
        }
    }
    return true;
}

/* Residuals fall by a factor per step. Returns how many steps until the next test: most of what
 * the last two tests foretell. */
static uint32_t steps_to_go(uint32_t steps, double before, double now)
{
    if (!(now < before)) {
        return APART_MAX;
    }
    double foretold = 0.8 * steps * log(now) / log(before / now);
    return (uint32_t)fmin(fmax(foretold, (double)APART_MIN), (double)APART_MAX);
}

static void extend_by(struct lanczos *l, uint32_t steps)
{
    for (uint32_t i = 0; i < steps && l->end < l->limit && !l->exhausted; i++) {
        extend(l);
    }
}

/* Extends T until its first `wanted` values have converged. Returns whether they did. */
static bool iterate(struct lanczos *l, uint32_t wanted, double *ret_value)
{
    uint32_t apart = wanted > STEPS_MIN ? wanted : STEPS_MIN;
    double before = INFINITY;
    for (;;) {
        extend_by(l, apart);
        double worst = solve(l, 0, ret_value) ? worst_residual(l, wanted, ret_value) : (double)NAN;
        if (worst <= 1 && (l->exhausted || l->end - l->begin >= wanted)) {
            return distinct(l, wanted, ret_value);
        }
        if (isnan(worst) || l->exhausted || l->end >= l->limit) {
            return false;
        }
        apart = isinf(before) ? STEPS_MIN : steps_to_go(apart, before, worst);
        before = worst;
    }
}

/* Writes the wanted values; 0 where the matrix has none. Returns whether they converged. */
static bool spectrum_lanczos_find_values(struct lanczos *l, uint32_t wanted, double *ret_value)
{
    double value[VECTORS_MAX] = {0};
    uint32_t locked = 0;
    if (wanted > 1) {
        extend_by(l, STEPS_MIN);
        locked = !l->exhausted && lock_first(l);
    }
    if (!iterate(l, wanted - locked, value)) {
        return false;
    }
    ret_value[0] = sqrt(locked ? l->alpha[0] : value[0]);
    for (uint32_t i = 1; i < wanted; i++) {
        ret_value[i] = sqrt(value[i - locked]);
    }
    double least = value[wanted - 1 - locked];
    return wanted == 1 || l->exhausted || !complement_has_more(l, least);
}

/* |A|_F^2, and the first vector. Rows are summed in f32 lanes, across rows in f64. */
static double spectrum_lanczos_begin(struct lanczos *l)
{
    float *start = vector(l, 0), *noise = vector(l, 1);
    double squares = 0;
    memset(start, 0, l->a.stride * sizeof *start);
    for (uint32_t i = 0; i < l->a.count; i++) {
        const float *row = l->a.data + i * l->a.stride;
        float lane[SPECTRUM_LANES] = {0};
        for (size_t j = 0; j < l->a.length; j += SPECTRUM_LANES) {
            for (size_t k = 0; k < SPECTRUM_LANES; k++) {
                lane[k] += row[j + k] * row[j + k];
                start[j + k] += row[j + k];
            }
        }
        for (size_t k = 0; k < SPECTRUM_LANES; k++) {
            squares += (double)lane[k];
        }
    }
    spectrum_lanczos_fill_random(l, noise);
    normalise(l, noise);
    normalise(l, start);
    for (uint32_t i = 0; i < l->dimension; i++) {
        start[i] += RANDOM_SHARE * noise[i];
    }
    normalise(l, start);
    return squares;
}

int lanczos_values(const struct matrix *m, uint32_t wanted, const struct spectrum_kernels *kernel,
                   struct scratch *scratch, struct leading_values *ret)
{
    struct lanczos l = {.kernel = kernel};
    uint32_t shorter = m->rows < m->columns ? m->rows : m->columns;
    uint32_t longer = m->rows < m->columns ? m->columns : m->rows;
    if (longer > INT32_MAX - 2 * SPECTRUM_LANES) {
        return ERR_MEMORY;
    }
    size_t length = spectrum_padded(shorter), stride = spectrum_stride(length);
    uint64_t count = ((uint64_t)longer + VECTORS_MAX) * stride + VECTORS_MAX;
    float *at = count > SIZE_MAX / 16 ? NULL : scratch_take(scratch, (size_t)count * sizeof(float));
    if (!at) {
        return ERR_MEMORY;
    }
    l.a = (struct spectrum_vectors){at, length, stride, longer};
    l.dimension = shorter;
    l.limit = shorter < STEPS_MAX ? shorter : STEPS_MAX;
    l.basis = at + longer * stride;
    l.share = l.basis + VECTORS_MAX * stride;
    ret->converged = false;
    ret->count = wanted;
    double peak = matrix_peak(m), scale = matrix_scale(peak);
    if (!isfinite(peak)) {
        return 0;
    }
    matrix_load_f32(m, scale, m->rows < m->columns, &l.a);
    ret->squares = spectrum_lanczos_begin(&l);
    ret->converged = spectrum_lanczos_find_values(&l, wanted, ret->value);
    ret->unit = 1 / scale;
    return 0;
}
