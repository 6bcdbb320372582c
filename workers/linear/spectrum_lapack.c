/* SPDX-License-Identifier: MIT */
/* spectrum_lapack: dgesdd (divide and conquer, Gu and Eisenstat 1995) and dgeev, values only.
 *
 * LAPACK is column-major, our matrices are row-major: read without moving anything, a matrix is its
 * transpose, whose singular values and eigenvalues are the same. LAPACK's integers are 32 bits
 * wide; a matrix too large for them is reported as out of memory, since at 8 bytes an entry it
 * would not have fitted either. */
#include "workers/linear/spectrum_internal.h"
#include "proto/err.h"

#include <lapacke.h>
#include <math.h>

struct lapack_problem {
    lapack_int rows, columns; /* as LAPACK sees them */
    lapack_int work_count;
    uint32_t count;
    double *map, *values, *work; /* values: [2 * max(rows, columns)] */
    lapack_int *iwork;           /* [8 * count] */
};

typedef lapack_int solver(const struct lapack_problem *p, double *work, lapack_int work_count);

static lapack_int gesdd(const struct lapack_problem *p, double *work, lapack_int work_count)
{
    lapack_int one = 1, info = 0;
    double unused;
    LAPACK_dgesdd("N", &p->rows, &p->columns, p->map, &p->rows, p->values, &unused, &one, &unused,
                  &one, work, &work_count, p->iwork, &info);
    return info;
}

static lapack_int geev(const struct lapack_problem *p, double *work, lapack_int work_count)
{
    lapack_int one = 1, info = 0;
    double unused, *imaginary = !p->values ? NULL : p->values + p->count;
    LAPACK_dgeev("N", "N", &p->rows, p->map, &p->rows, p->values, imaginary, &unused, &one, &unused,
                 &one, work, &work_count, &info);
    return info;
}

static void lapack_lay(void *data, struct scratch_pieces *m)
{
    struct lapack_problem *p = data;
    p->map = scratch_carve(m, (uint64_t)p->rows * (uint64_t)p->columns, sizeof *p->map);
    p->values = scratch_carve(m, 2 * (uint64_t)p->count, sizeof *p->values);
    p->work = scratch_carve(m, (uint64_t)p->work_count, sizeof *p->work);
    p->iwork = scratch_carve(m, 8 * (uint64_t)p->count, sizeof *p->iwork);
}

/* Asks LAPACK how much work space it wants, and takes all from scratch. */
static int spectrum_lapack_take_problem(struct lapack_problem *p, const struct matrix *m,
                                        solver *solve, struct scratch *scratch)
{
    uint32_t count = m->rows < m->columns ? m->rows : m->columns;
    if (m->rows > INT32_MAX || m->columns > INT32_MAX || count > INT32_MAX / 8) {
        return ERR_MEMORY;
    }
    *p = (struct lapack_problem){
        .rows = (lapack_int)m->columns, .columns = (lapack_int)m->rows, .count = count};
    double answer = 0;
    if (solve(p, &answer, -1) != 0 || !(answer >= 1 && answer < INT32_MAX)) {
        return ERR_MEMORY;
    }
    p->work_count = (lapack_int)answer;
    /* The product of two factors below 2^31; its bytes might overflow. */
    bool fits = (uint64_t)m->rows * m->columns <= SIZE_MAX / 16;
    return fits ? scratch_take_pieces(scratch, lapack_lay, p) : ERR_MEMORY;
}

/* A positive info means that LAPACK did not converge: no number exists then. */
static bool solve_problem(const struct lapack_problem *p, const struct matrix *m, solver *solve)
{
    return matrix_load_f64(m, p->map) && solve(p, p->work, p->work_count) == 0;
}

int lapack_values(const struct matrix *m, struct scratch *scratch, struct singular_values *ret)
{
    struct lapack_problem p;
    int rc = spectrum_lapack_take_problem(&p, m, gesdd, scratch);
    if (rc == 0) {
        bool solved = solve_problem(&p, m, gesdd);
        *ret = (struct singular_values){
            .value = solved ? p.values : NULL, .count = p.count, .unit = 1};
    }
    return rc;
}

static struct moduli moduli_of(const double *real, const double *imaginary, uint32_t count)
{
    struct moduli m = {NAN, NAN, NAN};
    for (uint32_t i = 0; i < count; i++) {
        double modulus = hypot(real[i], imaginary[i]);
        m.smallest = fmin(m.smallest, modulus); /* NaN gives way */
        if (!(modulus <= m.largest)) {
            m.second = m.largest;
            m.largest = modulus;
        } else if (!(modulus <= m.second)) {
            m.second = modulus;
        }
    }
    return m;
}

int lapack_moduli(const struct matrix *m, struct scratch *scratch, struct moduli *ret)
{
    struct lapack_problem p;
    int rc = spectrum_lapack_take_problem(&p, m, geev, scratch);
    if (rc == 0) {
        *ret = solve_problem(&p, m, geev) ? moduli_of(p.values, p.values + p.count, p.count)
                                          : (struct moduli){NAN, NAN, NAN};
    }
    return rc;
}
