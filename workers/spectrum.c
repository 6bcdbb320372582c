/* SPDX-License-Identifier: MIT */
/* spectrum: singular values by LAPACK's divide and conquer, values only.
 *
 * LAPACK is column-major, our maps are row-major: read without moving anything, a map [q_len][keys]
 * is the transposed matrix, k_len x q_len with leading dimension `keys`. Its singular values are
 * the same, so nothing is transposed, and the padding to the right of k_len is skipped by the
 * leading dimension.
 *
 * One take of scratch holds everything: the map, the singular values, LAPACK's own work space.
 * LAPACK's integers are 32 bits wide; a map too large for them is reported as out of memory, since
 * at 8 bytes an entry it would not have fitted either. */
#include "spectrum.h"
#include "err.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>

/* Spacing of 1 in the dtype that was sent. */
static double dtype_eps(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F64:
        return 0x1p-52;
    case DTYPE_F16:
        return 0x1p-10;
    case DTYPE_BF16:
        return 0x1p-7;
    default:
        return 0x1p-23;
    }
}

void spectrum_global_init(void)
{
    openblas_set_num_threads(1);
}

static void set_nan(struct spectrum *s)
{
    for (uint32_t i = 0; i < SINGULAR_VALUES_MAX; i++) {
        s->singular_values[i] = NAN;
    }
    s->spectral_norm = s->condition_number = s->rank = s->effective_rank = NAN;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* One map as LAPACK sees it. */
struct problem {
    lapack_int rows, columns, stride; /* k_len, q_len, keys */
    lapack_int work_count;
    uint32_t count; /* min(rows, columns): number of singular values */
    double *map, *values, *work;
    lapack_int *iwork; /* [8 * count] */
};

static lapack_int gesdd(const struct problem *p, double *work, lapack_int work_count)
{
    lapack_int one = 1, info = 0;
    double unused;
    LAPACK_dgesdd("N", &p->rows, &p->columns, p->map, &p->stride, p->values, &unused, &one, &unused,
                  &one, work, &work_count, p->iwork, &info);
    return info;
}

/* Asks LAPACK how much work space it wants. Returns 0 or ERR_MEMORY. */
static int query_work(struct problem *p)
{
    double answer = 0;
    if (gesdd(p, &answer, -1) != 0 || !(answer >= 1 && answer < INT32_MAX)) {
        return ERR_MEMORY;
    }
    p->work_count = (lapack_int)answer;
    return 0;
}

/* Sizes the problem and carves it from scratch. Returns 0 or ERR_MEMORY. */
static int take_problem(struct problem *p, uint32_t queries, uint32_t keys, uint32_t stride,
                        struct scratch *scratch)
{
    uint32_t count = smaller(queries, keys);
    if (stride > INT32_MAX || queries > INT32_MAX || count > INT32_MAX / 8) {
        return ERR_MEMORY;
    }
    *p = (struct problem){.rows = (lapack_int)keys,
                          .columns = (lapack_int)queries,
                          .stride = (lapack_int)stride,
                          .count = count};
    if (query_work(p) < 0) {
        return ERR_MEMORY;
    }
    /* Below 2^62 + 2^32 doubles: the product of two int32 and three int32 do not overflow 64 bits,
     * but times 8 they might. */
    uint64_t map_count = (uint64_t)queries * stride;
    uint64_t f64_count = map_count + count + (uint64_t)p->work_count;
    if (f64_count > SIZE_MAX / 16) {
        return ERR_MEMORY;
    }
    p->map =
        scratch_take(scratch, f64_count * sizeof(double) + (size_t)count * 8 * sizeof(lapack_int));
    if (p->map == NULL) {
        return ERR_MEMORY;
    }
    p->values = p->map + map_count;
    p->work = p->values + count;
    p->iwork = (lapack_int *)(void *)(p->work + p->work_count);
    return 0;
}

/* Loads the valid rows; returns whether their valid keys are all finite. */
static bool load_map(const struct problem *p, const struct attention *a, uint32_t sample,
                     uint32_t head)
{
    bool finite = true;
    for (lapack_int i = 0; i < p->columns; i++) {
        double *row = p->map + (size_t)i * (size_t)p->stride;
        attention_load_row(a, sample, head, (uint32_t)i, row);
        for (lapack_int j = 0; j < p->rows; j++) {
            finite = finite && isfinite(row[j]);
        }
    }
    return finite;
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

static void describe(const struct problem *p, double eps, struct spectrum *ret)
{
    const double *s = p->values;
    for (uint32_t i = 0; i < p->count && i < SINGULAR_VALUES_MAX; i++) {
        ret->singular_values[i] = s[i];
    }
    double longer = p->rows > p->columns ? p->rows : p->columns;
    uint32_t rank = count_above(s, p->count, s[0] * longer * eps);
    ret->spectral_norm = s[0];
    ret->rank = rank;
    ret->effective_rank = count_above(s, p->count, 0.01 * s[0]);
    if (rank == p->count) {
        ret->condition_number = log10(s[0] / s[p->count - 1]);
    }
}

int spectrum_compute_ref(const struct attention *a, uint32_t sample, uint32_t head,
                         struct scratch *scratch, struct spectrum *ret_spectrum)
{
    struct spectrum s;
    set_nan(&s);
    uint32_t queries = attention_query_count(a, sample);
    uint32_t keys = attention_key_count(a, sample);
    if (queries > 0 && keys > 0) {
        struct problem p;
        int rc = take_problem(&p, queries, keys, a->keys, scratch);
        if (rc < 0) {
            return rc;
        }
        /* A positive info means that LAPACK did not converge: no number exists then either. */
        if (load_map(&p, a, sample, head) && gesdd(&p, p.work, p.work_count) == 0) {
            describe(&p, dtype_eps(a->dtype), &s);
        }
    }
    *ret_spectrum = s;
    return 0;
}
