/* SPDX-License-Identifier: MIT */
/* row_kernels: the table of kernels that an instruction set fills; one file row_kernels_NAME.c
 * each, compiled with its own flags from the same templates. Immutable; any thread. */
#ifndef WORKERS_ROW_KERNELS_H
#define WORKERS_ROW_KERNELS_H

#include "dist.h"
#include "isa.h"
#include "metric.h"
#include "tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct row_batch;

struct row_kernels {
    /* Metrics of the batch's rows: ret_value[metric][0..ROW_BATCH), NaN where one does not exist
     * or the row is not sound; what belongs to slots that are not used means nothing. */
    void (*finish)(const struct row_batch *batch, float *const ret_value[METRIC_ROW_COUNT]);
    /* Counts x[n], all finite, into empty counts. */
    void (*count)(const float *x, size_t n, struct dist_counts *counts);
};

extern const struct row_kernels row_kernels_portable;
#if defined(__x86_64__)
extern const struct row_kernels row_kernels_avx2, row_kernels_avx512;
#endif
/* NULL when the build does not have it; ISA_SCALAR has none. */
const struct row_kernels *row_kernels_of(enum isa isa);

#endif
