/* SPDX-License-Identifier: MIT */
/* finite: which weights as sent are NaN or infinite, by their bits: f32 sums that are not finite
 * may also have overflowed. For rows that are not ordinary; any thread. */
#ifndef WORKERS_ROWS_FINITE_H
#define WORKERS_ROWS_FINITE_H

#include "workers/rows/row_kernels.h"

/* Whether n elements, at any address, are all finite. */
bool finite_entries(const unsigned char *row, enum dtype dtype, uint32_t n);
/* Whether the row's valid keys are all finite. */
bool finite_row(const struct row_job *job, const unsigned char *row, enum dtype dtype);

#endif
