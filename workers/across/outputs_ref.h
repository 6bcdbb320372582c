/* SPDX-License-Identifier: MIT */
/* outputs_ref: the scalar reference of outputs, row by row. */
#ifndef WORKERS_ACROSS_OUTPUTS_REF_H
#define WORKERS_ACROSS_OUTPUTS_REF_H

#include "workers/rows/block.h"
#include "workers/rows/output_ref.h"

/* A message, and room for one row of it. */
struct outputs_ref {
    const struct attention *a;
    struct output_ref room;
    double *sent, *weight; /* [keys] */
    uint32_t *key;         /* [keys] */
};

/* Bytes of the room, which `memory` of the next one has. */
uint64_t outputs_ref_bytes(const struct attention *a);
void outputs_ref_begin(struct outputs_ref *ref, const struct attention *a, void *memory);
/* Row (b, h, i), whose query is valid, when it is sound. */
void outputs_ref_row(const struct outputs_ref *ref, struct head_block *head, uint32_t b, uint32_t h,
                     uint32_t i);
/* As outputs_compute. */
int outputs_ref_compute(struct head_block *head, const struct attention *a, uint32_t row_begin,
                        uint32_t row_end, struct scratch *scratch);

#endif
