/* SPDX-License-Identifier: MIT */
/* spectrum: singular values and the numbers that follow from them.
 *
 * The spectrum of one head's attention map: the valid rectangle [q_len x k_len] of one sample, as
 * sent; or of any matrix. Ranks are judged with spectrum_eps of the dtype that was sent. Any
 * thread; OpenBLAS must have been set to one thread. */
#ifndef WORKERS_LINEAR_SPECTRUM_H
#define WORKERS_LINEAR_SPECTRUM_H

#include "workers/base/attention.h"
#include "workers/base/isa.h"
#include "proto/metric.h"
#include "workers/base/scratch.h"

enum spectrum_effort {
    SPECTRUM_NORM,    /* spectral_norm and stable_rank only: relative error <= 1e-4 */
    SPECTRUM_LEADING, /* and the first 16 values, low_rank_error: relative error <= 1e-3 */
    SPECTRUM_FULL,    /* everything, values above 0.01 s1 to 1e-3 or better; but eigenvalue_2 only
                         of maps that are triangular or small */
    SPECTRUM_EIGENVALUES /* eigenvalue_2 of all square maps: takes 10 to 30 times as long */
};

/* A dense matrix, row-major. */
struct matrix {
    const void *data;
    enum dtype dtype; /* F32, F64, F16 or BF16; data may be unaligned */
    uint32_t rows, columns;
    size_t stride; /* elements from row to row */
};

/* Sets every number to NaN. */
void spectrum_none(struct spectrum *ret_spectrum);

/* Call once before the first thread: one LAPACK thread per caller. */
void spectrum_global_init(void);

/* By LAPACK dgesdd and dgeev in f64: what the faster ways are compared with. Return 0 or
 * ERR_MEMORY. */
int spectrum_compute_ref(const struct attention *a, uint32_t sample, uint32_t head,
                         struct scratch *scratch, struct spectrum *ret_spectrum);
/* By the passes of an instruction set; ISA_SCALAR has no f32 twin and takes the portable ones. */
int spectrum_compute(const struct attention *a, uint32_t sample, uint32_t head,
                     enum spectrum_effort effort, enum isa isa, struct scratch *scratch,
                     struct spectrum *ret_spectrum);

/* `eps` as spectrum_eps gives it for what was sent. eigenvalue_2 is left out. */
int spectrum_of_matrix(const struct matrix *matrix, double eps, enum spectrum_effort effort,
                       enum isa isa, struct scratch *scratch, struct spectrum *ret_spectrum);
/* The epsilon that ranks are judged with: 2^-52 for f64, and f32's 2^-23 for all others: with the
 * spacing of bf16 the bound would pass s1 from 128 columns on, and every rank would be 0. */
double spectrum_eps(enum dtype dtype);

#endif
