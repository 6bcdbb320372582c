/* SPDX-License-Identifier: MIT */
/* qk: the row metrics of attention that is given by queries and keys (struct qk of attention.h),
 * by tiles with an online softmax (Milakov and Gimelshein 2018; Dao et al. 2022): the map is never
 * stored, memory is O(keys) per head.
 *
 * A row's soundness: its logits at valid keys are finite (-infinity at a valid key is weight 0) and
 * at least one key is left. Fills the same struct block as block_compute, without importance, maps
 * and pairs, plus the logit, cosine, norm and output statistics, and with plan.gradient the sum
 * |A dL/dA|, which goes through the core metrics even where their group is off. Any thread. */
#ifndef WORKERS_QK_QK_H
#define WORKERS_QK_QK_H

#include "workers/rows/block.h"
#include "workers/linear/spectrum.h"

/* The scalar reference, f64, row by row with the whole row in memory. Returns 0 or ERR_MEMORY. */
int qk_compute_ref(struct block *block, const struct attention *a, uint32_t row_begin,
                   uint32_t row_end, struct scratch *scratch);
/* Bytes of scratch that the other takes for `rows` rows. */
uint64_t qk_scratch(const struct attention *a, uint32_t rows, bool gradient);
int qk_compute(struct block *block, const struct attention *a, uint32_t row_begin, uint32_t row_end,
               enum isa isa, struct scratch *scratch);

/* Writes the weights of rows [row_begin, row_end) to ret_weights[B][H][rows][Tk], f32; excluded
 * keys are 0, rows of queries that are not valid are 0, rows that are not sound are NaN at their
 * valid keys. ISA_SCALAR takes the portable passes. Returns 0 or
 * ERR_MEMORY. */
int qk_weights(const struct attention *a, uint32_t row_begin, uint32_t row_end, float *ret_weights,
               enum isa isa, struct scratch *scratch);

/* Spectrum of scale * Q K^T of one sample and head over its valid queries and keys, unmasked and
 * without softcap, from the R factors of Q and K: head_dim x head_dim. `isa` as in
 * spectrum_of_matrix. Returns 0 or ERR_MEMORY. */
int qk_spectrum(const struct attention *a, uint32_t sample, uint32_t head, enum isa isa,
                struct scratch *scratch, struct spectrum *ret_spectrum);

#endif
