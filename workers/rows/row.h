/* SPDX-License-Identifier: MIT */
/* row: one attention row as it counts: its valid keys and their weights, without excluded keys. For
 * the scalar references, which share here how a row is gathered and judged. */
#ifndef WORKERS_ROWS_ROW_H
#define WORKERS_ROWS_ROW_H

#include "workers/base/attention.h"
#include "workers/stats/dist.h"

struct row {
    uint64_t position;    /* where the query stands: attention_position */
    uint32_t first;       /* attention_first_key */
    uint32_t n;           /* number of valid keys */
    const uint32_t *key;  /* ascending */
    const double *weight; /* [n] */
};

/* Picks the weights of the row's keys from the row as sent: ret_weight[n]. */
void row_gather(const double *sent, const uint32_t *key, uint32_t n, double *ret_weight);
double row_sum(const struct row *r);
/* Whether the row counts, given its sum (rule 2 of KERNELS.md). */
bool row_sound(const struct attention *a, const struct row *r, double sum);
/* A[i, j]; 0 when key j is excluded. */
double row_weight_of(const struct row *r, uint32_t j);
/* Merges the moments of x[n], taken in two passes: the accuracy of Welford's update without its
 * division for every entry. x must be finite. */
void row_merge_moments(struct moments *into, const double *x, uint32_t n);

#endif
