/* SPDX-License-Identifier: MIT */
/* row_metrics: the formulas of all row metrics of KERNELS.md, in f64, for one sound row. Part of
 * the scalar reference, and shared by those of weights and of queries and keys. */
#ifndef WORKERS_ROWS_ROW_METRICS_H
#define WORKERS_ROWS_ROW_METRICS_H

#include "workers/rows/block.h"
#include "workers/rows/row.h"

/* Where the row is from. */
struct row_context {
    const struct attention *a;
    uint32_t sample;
    uint32_t local_window;    /* block_plan.local_window */
    double *share;            /* room for a row's weights; of a learned_sink only */
    const uint32_t *previous; /* [attention_key_count] occurrence_link of the sample's tokens; NULL
                                 = not sent, or cross-attention */
};

/* All row metrics of a row with at least one key; NaN where one does not exist, as max_logit never
 * does here. */
void row_metrics(const struct row_context *context, const struct row *r,
                 double ret_value[METRIC_ROW_COUNT]);
/* Adds the row to its head: row metrics, moments of the entries, locality. Returns 0 or ERR_MEMORY.
 */
int row_metrics_add(struct head_block *head, const struct row_context *context,
                    const struct row *r);

#endif
