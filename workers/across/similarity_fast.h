/* SPDX-License-Identifier: MIT */
/* similarity_fast: similarity in f32 lanes, by the passes of an instruction set. */
#ifndef WORKERS_SIMILARITY_FAST_H
#define WORKERS_SIMILARITY_FAST_H

#include "across_kernel.h"
#include "similarity.h"

int similarity_compute_fast(struct similarity *s, const struct attention *a, uint32_t row_begin,
                            uint32_t row_end, const struct across_kernel *kernel,
                            struct scratch *scratch);

#endif
