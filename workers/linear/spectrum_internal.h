/* SPDX-License-Identifier: MIT */
/* The ways of spectrum, and how they read a matrix, of any dtype and at any address. Any thread. */
#ifndef WORKERS_LINEAR_SPECTRUM_INTERNAL_H
#define WORKERS_LINEAR_SPECTRUM_INTERNAL_H

#include "workers/linear/spectrum.h"
#include "workers/linear/spectrum_kernel.h"

/* spectrum_matrix.c */

/* Largest magnitude; NaN when an entry is not finite. */
double matrix_peak(const struct matrix *m);

/* A power of two that brings the peak near 1; 1 when it is near enough as it is. */
double matrix_scale(double peak);

/* Writes m times `scale` (of matrix_scale, times at most 1 / peak) into ret's vectors, padded with
 * zeros: a vector per row, or per column when `transposed`. The entries are finite. */
void matrix_load_f32(const struct matrix *m, double scale, bool transposed,
                     struct spectrum_vectors *ret);
/* Writes the rows one after the other. Returns whether all entries are finite. */
bool matrix_load_f64(const struct matrix *m, double *ret);

/* Whether all entries above, or all below, the diagonal are zero. */
bool matrix_is_triangular(const struct matrix *m);
double matrix_at(const struct matrix *m, uint32_t i, uint32_t j);

/* spectrum_lapack.c: in f64 */

/* Descending, in the scratch they were computed in. */
struct singular_values {
    const double *value; /* NULL: the matrix is not finite, or LAPACK did not converge */
    uint32_t count;      /* min(rows, columns) */
    double unit;         /* what 1 stands for: a power of two */
};

/* Return 0 or ERR_MEMORY. The matrix is not empty. */
int lapack_values(const struct matrix *m, struct scratch *scratch, struct singular_values *ret);
/* The moduli of the eigenvalues of a square matrix; NaN where one does not exist. */
struct moduli {
    double smallest, second, largest;
};
int lapack_moduli(const struct matrix *m, struct scratch *scratch, struct moduli *ret);

/* spectrum_bidiagonal.c: all singular values in f32, faster than LAPACK */

/* The values are within a few 2^-24 of the largest. Returns 0 or ERR_MEMORY. */
int bidiagonal_values(const struct matrix *m, const struct spectrum_kernels *kernel,
                      struct scratch *scratch, struct singular_values *ret);

/* spectrum_lanczos.c: the leading singular values alone, in f32 */

struct leading_values {
    bool converged; /* else nothing below is set: compute them all */
    uint32_t count; /* of value: those asked for */
    double value[SINGULAR_VALUES_MAX];
    double squares; /* |A|_F^2 */
    double unit;    /* of value: a power of two */
};

/* The `wanted` largest (at most 16 and min(rows, columns)): the first to a relative error of 1e-4,
 * the others of 1e-3 of themselves, or 5e-5 of the first where that is more.
 * Returns 0 or ERR_MEMORY; NaN when an entry is not finite. */
int lanczos_values(const struct matrix *m, uint32_t wanted, const struct spectrum_kernels *kernel,
                   struct scratch *scratch, struct leading_values *ret);

#endif
