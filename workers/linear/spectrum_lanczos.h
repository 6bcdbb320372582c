/* SPDX-License-Identifier: MIT */
/* spectrum_lanczos: the leading singular values alone, in f32. Any thread. */
#ifndef WORKERS_LINEAR_SPECTRUM_LANCZOS_H
#define WORKERS_LINEAR_SPECTRUM_LANCZOS_H

#include "proto/metric.h"
#include "workers/base/scratch.h"
#include "workers/linear/spectrum.h"
#include "workers/linear/spectrum_kernel.h"

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
