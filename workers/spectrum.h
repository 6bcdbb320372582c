/* SPDX-License-Identifier: MIT */
/* spectrum: the singular values of one head's attention map, by LAPACK (dgesdd, values only).
 *
 * The map is the valid rectangle [q_len x k_len] of one sample, as sent. Computed in f64; ranks are
 * judged with the eps of the dtype that was sent. Any thread; OpenBLAS must have been set to one
 * thread. */
#ifndef WORKERS_SPECTRUM_H
#define WORKERS_SPECTRUM_H

#include "attention.h"
#include "block.h"
#include "metric.h"

/* NaN where a number does not exist: an empty or non-finite map, a condition number of a map of
 * short rank (it is infinite), singular values past min(q_len, k_len). */
struct spectrum {
    double singular_values[SINGULAR_VALUES_MAX]; /* descending */
    double spectral_norm;                        /* s1 */
    double condition_number;                     /* log10(s1 / s_min) */
    double rank;                                 /* number of s > s1 * max(m, n) * eps */
    double effective_rank;                       /* number of s > 0.01 s1 */
};

/* Call once before the first thread: one LAPACK thread per caller. */
void spectrum_global_init(void);

/* Returns 0 or ERR_MEMORY. */
int spectrum_compute(const struct attention *a, uint32_t sample, uint32_t head,
                     struct scratch *scratch, struct spectrum *ret_spectrum);

#endif
