/* SPDX-License-Identifier: MIT */
/* similarity_fast: similarity in f32 lanes, by the passes of an instruction set. */
#ifndef WORKERS_ACROSS_SIMILARITY_FAST_H
#define WORKERS_ACROSS_SIMILARITY_FAST_H

#include "workers/across/kernel.h"
#include "workers/across/similarity.h"

int similarity_compute_fast(struct similarity *s, const struct attention *a, uint32_t row_begin,
                            uint32_t row_end, const struct across_kernels *kernel,
                            struct scratch *scratch);

#endif
