/* SPDX-License-Identifier: MIT */
/* spectrum_lapack: singular values and eigenvalues in f64 by LAPACK. Any thread. */
#ifndef WORKERS_LINEAR_SPECTRUM_LAPACK_H
#define WORKERS_LINEAR_SPECTRUM_LAPACK_H

#include "workers/linear/spectrum.h"

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

#endif
