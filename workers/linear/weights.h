/* SPDX-License-Identifier: MIT */
/* weights: the projection matrices of an attention layer (tier `weights`): spectra whole and per
 * head, of the products that a head applies, and how alike the heads' slices are.
 *
 *     W_q [heads * head_dim, in]   head h: rows [h d, (h + 1) d)
 *     W_k, W_v [kv_heads * head_dim, in]   head h reads slice h / (heads / kv_heads)
 *     W_o [out, heads * head_dim]  head h: columns [h d, (h + 1) d)
 *     W_q W_k^T per head: W_q,h^T W_k,h, in x in: what head h compares
 *     W_v W_o per head:   W_o,h W_v,h, out x in: what head h writes
 *
 * The products are of rank <= head_dim; their spectra come from the factors, never from the in x in
 * matrix. Any thread. */
#ifndef WORKERS_LINEAR_WEIGHTS_H
#define WORKERS_LINEAR_WEIGHTS_H

#include "workers/linear/spectrum.h"

struct projection_matrix {
    const void *data; /* [out, in], C-contiguous, may be unaligned; NULL = not sent */
    enum dtype dtype; /* F32, F64, F16 or BF16 */
    uint32_t out, in;
};

struct weights {
    struct projection_matrix matrix[PROJECTION_COUNT];
    uint32_t heads, kv_heads, head_dim;
    enum isa isa;                 /* of the spectra */
    bool without_spectra;         /* only the correlation of heads */
    uint32_t whole_max_size;      /* larger matrices have no spectrum as a whole, nor have
                                     heads of a larger dimension; 0 = no bound */
    uint32_t eigenvalue_max_size; /* larger square matrices have no eigenvalue range: it costs six
                                     times everything else; 0 = no bound */
};

/* Whether the shapes fit together (heads * head_dim and so on). Returns 0 or ERR_SHAPE. */
int weights_check(const struct weights *w);
/* Returns 0 or ERR_MEMORY; *ret_result is then empty. A matrix with an entry that is not finite has
 * no numbers. */
int weights_compute(const struct weights *w, struct scratch *scratch,
                    struct weights_result *ret_result);
void weights_result_clear(struct weights_result *result);
/* The number of a metric of kind MATRIX that one of the heads has; NaN when there is none. Heads
 * that share a slice of keys or values have its number each. */
double weights_number(const struct weights_result *result, enum metric metric, uint32_t head);

#endif
