/* SPDX-License-Identifier: MIT */
/* spectrum_kernel: the two passes over a matrix in f32 that the spectrum spends its time in, one
 * table per instruction set (kernels_of). Any thread; nothing is allocated. */
#ifndef WORKERS_LINEAR_SPECTRUM_KERNEL_H
#define WORKERS_LINEAR_SPECTRUM_KERNEL_H

#include "workers/base/isa.h"

#include <stdint.h>

/* Vectors start at multiples of this many floats and are padded with zeros to one. */
#define SPECTRUM_LANES 16

/* `count` vectors of `length` floats, `stride` apart; 64-byte aligned, length and stride multiples
 * of SPECTRUM_LANES. */
struct spectrum_vectors {
    float *data;
    size_t length, stride;
    uint32_t count;
};

/* One step of the bidiagonalisation, see spectrum_bidiagonal.c. Vectors along a column (length):
 * old_u, old_x, u, w; along the row (count): old_y, old_v, ret_y, ret_row. */
struct spectrum_step {
    uint32_t step; /* columns after `step` are passed; their entries from row `step` on count */
    float tau;
    const float *old_u, *old_x, *old_y, *old_v;
    const float *u;
    float *ret_y, *ret_row, *ret_w;
};

/* Floats of a vector, padded; floats from vector to vector: not a multiple of 1 KiB, which would
 * put neighbours into the same few lines of the cache. */
static inline size_t spectrum_padded(size_t length)
{
    return (length + SPECTRUM_LANES - 1) / SPECTRUM_LANES * SPECTRUM_LANES;
}

static inline size_t spectrum_stride(size_t padded)
{
    return padded % 256 == 0 ? padded + SPECTRUM_LANES : padded;
}

struct spectrum_kernels {
    /* ret_z = sum_i (a_i . v) a_i, that is A^T A v for vectors that are rows. */
    void (*gram)(const struct spectrum_vectors *a, const float *v, float *ret_z);
    /* For every column a_j with j > step:
     *     a_j -= old_y[j] old_u + old_v[j] old_x
     *     y[j] = tau a_j . u;  row[j] = a_j[step] - y[j];  w += row[j] a_j      (w from zero) */
    void (*step)(const struct spectrum_vectors *a, const struct spectrum_step *s);
};

/* a . b, summed in f64. */
double spectrum_dot(const float *a, const float *b, size_t n);

#endif
