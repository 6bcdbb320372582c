/* SPDX-License-Identifier: MIT */
/* frame: what the rows of one query share (block_fast.c): which keys they see, and which numbers
 * they have. */
#ifndef WORKERS_ROWS_FRAME_H
#define WORKERS_ROWS_FRAME_H

#include "workers/rows/row_kernels.h"

/* The values that the rows (b, 0..H, i) share. */
struct frame {
    uint32_t b, i, n;
    bool counts; /* the query is valid */
    bool has[SINGLE_COUNT];
    bool has_occurrences;
    float largest_distance;
    struct row_job job;
};

/* Whether the row sees key j. */
bool frame_key_valid(const struct row_job *job, uint64_t j);
/* attention_query_valid; the job's holes are set. */
bool frame_query_valid(const struct attention *a, const struct row_job *job, uint32_t b,
                       uint32_t i);
/* Narrows [begin, end) to the outermost valid keys; returns how many are valid. */
uint32_t frame_narrow(struct row_job *job);
/* For a frame with a valid key. */
void frame_set_singles(struct frame *frame, const struct attention *a);
void frame_set_distances(struct frame *frame, uint32_t window);

#endif
