/* SPDX-License-Identifier: MIT */
/* spectrum: singular values and what follows from them.
 *
 * Of one head's attention map: the valid rectangle [q_len x k_len] of one sample, as sent; or of
 * any matrix. Ranks are judged with the eps of the dtype that was sent. Any thread; OpenBLAS must
 * have been set to one thread. */
#ifndef WORKERS_SPECTRUM_H
#define WORKERS_SPECTRUM_H

#include "attention.h"
#include "metric.h"
#include "scratch.h"

enum spectrum_effort {
    SPECTRUM_NORM,    /* spectral_norm and stable_rank only: relative error <= 1e-4 */
    SPECTRUM_LEADING, /* and the first 16 values, low_rank_error: relative error <= 1e-3 */
    SPECTRUM_FULL     /* everything; values above 0.01 s1 to 1e-3 or better */
};

/* A dense matrix, row-major. */
struct matrix {
    const void *data;
    enum dtype dtype; /* F32, F64, F16 or BF16; data may be unaligned */
    uint32_t rows, columns;
    size_t stride; /* elements from row to row */
};

/* Call once before the first thread: one LAPACK thread per caller. */
void spectrum_global_init(void);

/* By LAPACK dgesdd and dgeev in f64: what the faster ways are compared with. Return 0 or
 * ERR_MEMORY. */
int spectrum_compute_ref(const struct attention *a, uint32_t sample, uint32_t head,
                         struct scratch *scratch, struct spectrum *ret_spectrum);
int spectrum_compute(const struct attention *a, uint32_t sample, uint32_t head,
                     enum spectrum_effort effort, struct scratch *scratch,
                     struct spectrum *ret_spectrum);

/* `eps` is the spacing of 1 in the dtype that was sent. eigenvalue_2 is left out. */
int spectrum_of_matrix(const struct matrix *matrix, double eps, enum spectrum_effort effort,
                       struct scratch *scratch, struct spectrum *ret_spectrum);
/* Spacing of 1: 2^-23, 2^-52, 2^-10, 2^-7 for f32, f64, f16, bf16. */
double spectrum_eps(enum dtype dtype);

#endif
