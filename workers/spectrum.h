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

/* NaN where a number does not exist (an empty or non-finite map, the condition number of a map of
 * short rank, values past min(rows, columns)) or was not asked for. */
struct spectrum {
    double singular_values[SINGULAR_VALUES_MAX]; /* descending */
    double low_rank_error[LOW_RANK_COUNT];       /* sqrt(sum_{i>k} s_i^2 / sum s_i^2) */
    double spectral_norm;                        /* s1 */
    double stable_rank;                          /* |A|_F^2 / s1^2 */
    /* SPECTRUM_FULL only */
    double condition_number;       /* log10(s1 / s_min) */
    double rank;                   /* number of s > s1 * max(m, n) * eps */
    double effective_rank;         /* number of s > 0.01 s1 */
    double effective_rank_entropy; /* exp(-sum p ln p), p = s / sum s */
    double nuclear_norm;           /* sum s */
    double eigenvalue_2;           /* second largest eigenvalue modulus, square maps */
};

enum spectrum_effort {
    SPECTRUM_NORM,    /* spectral_norm and stable_rank only: relative error <= 1e-4 */
    SPECTRUM_LEADING, /* and the first 16 values, low_rank_error: relative error <= 1e-3 */
    SPECTRUM_FULL     /* everything; values above 0.01 s1 to 1e-3 or better */
};

/* A dense matrix, row-major. */
struct matrix {
    const void *data;
    enum dtype dtype; /* F32 or F64 */
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
