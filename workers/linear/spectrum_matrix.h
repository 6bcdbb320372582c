/* SPDX-License-Identifier: MIT */
/* spectrum_matrix: reads a matrix of any dtype, which may be unaligned. Any thread. */
#ifndef WORKERS_LINEAR_SPECTRUM_MATRIX_H
#define WORKERS_LINEAR_SPECTRUM_MATRIX_H

#include "workers/linear/spectrum.h"
#include "workers/linear/spectrum_kernel.h"

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

#endif
