/* SPDX-License-Identifier: MIT */
/* outputs: what rows of weights make of the values that were sent beside them: |A V|, the entropy
 * of |A v_j|, |R_h A V| and its share of |x|, into the moments of the heads. A pass of its own over
 * the weights; a->qk.v must be there. */
#ifndef WORKERS_ACROSS_OUTPUTS_H
#define WORKERS_ACROSS_OUTPUTS_H

#include "workers/rows/block.h"

/* Adds the sound rows of [row_begin, row_end), of every sample, to head[heads]. A row that sees a
 * value that is not finite has none of the numbers. Returns 0 or ERR_MEMORY. */
int outputs_compute(struct head_block *head, const struct attention *a, uint32_t row_begin,
                    uint32_t row_end, enum isa isa, struct scratch *scratch);
/* Bytes of scratch that it takes. */
uint64_t outputs_scratch(const struct attention *a);

#endif
