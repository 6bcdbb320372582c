/* SPDX-License-Identifier: MIT */
/* spectrum_bidiagonal: all singular values in f32, faster than LAPACK. Any thread. */
#ifndef WORKERS_LINEAR_SPECTRUM_BIDIAGONAL_H
#define WORKERS_LINEAR_SPECTRUM_BIDIAGONAL_H

#include "workers/linear/spectrum_lapack.h"
#include "workers/linear/spectrum_kernel.h"

/* The values are within a few 2^-24 of the largest. Returns 0 or ERR_MEMORY. */
int bidiagonal_values(const struct matrix *m, const struct spectrum_kernels *kernel,
                      struct scratch *scratch, struct singular_values *ret);

#endif
