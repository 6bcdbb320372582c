/* SPDX-License-Identifier: MIT */
/* spectrum_lapack: singular values and eigenvalues in f64 by LAPACK. Any thread. */
#ifndef WORKERS_SPECTRUM_LAPACK_H
#define WORKERS_SPECTRUM_LAPACK_H

#include "spectrum.h"

/* Descending, in the scratch they were computed in. */
struct singular_values {
    const double *value; /* NULL: the matrix is not finite, or LAPACK did not converge */
    uint32_t count;      /* min(rows, columns) */
    double unit;         /* what 1 stands for: a power of two */
};

/* Return 0 or ERR_MEMORY. The matrix is not empty. */
int lapack_values(const struct matrix *m, struct scratch *scratch, struct singular_values *ret);
/* Second largest modulus; NaN when it does not exist. Square matrices. */
int lapack_eigenvalue_2(const struct matrix *m, struct scratch *scratch, double *ret);

#endif
