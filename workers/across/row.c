/* SPDX-License-Identifier: MIT */
/* across_row: a row is read in one stretch from its first valid key to its last; holes are closed
 * afterwards, where it lies in the cache. */
#include "workers/across/row.h"

#include <math.h>

void across_load(const struct across_kernels *kernel, const struct attention *a, uint32_t h,
                 const struct across_keys *keys, float *ret)
{
    if (keys->n == 0) {
        return;
    }
    uint32_t first = keys->key[0], width = keys->key[keys->n - 1] - first + 1;
    size_t row = ((size_t)keys->b * a->heads + h) * a->queries + keys->i;
    const unsigned char *source = a->weights;
    source += (row * a->keys + first) * dtype_size(a->dtype);
    /* As far as the row that is loaded after it: the next head's, or the first head's next one. */
    ptrdiff_t head = (ptrdiff_t)a->queries, last = (ptrdiff_t)a->heads - 1;
    ptrdiff_t rows = h < a->heads - 1 ? head : 1 - last * head;
    kernel->load(source, rows * (ptrdiff_t)(a->keys * dtype_size(a->dtype)), a->dtype, width, ret);
    for (uint32_t k = 0; width > keys->n && k < keys->n; k++) {
        ret[k] = ret[keys->key[k] - first];
    }
}

/* How far f32 may be off: lanes that add 512 weights each, which sum to about 1. */
#define SUM_ERROR 2e-5
/* The error of a weight that was f64. */
#define WEIGHT_ERROR 1e-7

/* Whether x is below a bound: certainly, certainly not, or within the error. */
static enum across_verdict below(double x, double bound, double error)
{
    if (error > 0 && fabs(x - bound) <= error) {
        return ACROSS_UNSURE;
    }
    return x < bound ? ACROSS_UNSOUND : ACROSS_SOUND;
}

enum across_verdict across_judge(const struct across_kernels *kernel, const struct attention *a,
                                 const float *weight, uint32_t n, struct across_judged *ret_judged)
{
    struct across_judged all = {.finite = true};
    for (uint32_t k = 0; k < n; k += ACROSS_CHUNK) {
        uint32_t rest = n - k;
        struct across_judged one =
            kernel->judge(weight + k, rest < ACROSS_CHUNK ? rest : ACROSS_CHUNK);
        all.sum += one.sum;
        all.min = one.min < all.min ? one.min : all.min;
        all.finite = all.finite && one.finite;
    }
    *ret_judged = all;
    if (n == 0) {
        return ACROSS_UNSOUND;
    }
    if (!ret_judged->finite) {
        /* Some weight is not finite, or far above 1 in magnitude: the sum or the sign is wrong
         * then, unless neither is judged. */
        return a->dropout ? ACROSS_UNSURE : ACROSS_UNSOUND;
    }
    double bound = attention_negative_bound(a->dtype), sum = ret_judged->sum;
    enum across_verdict sign =
        below((double)ret_judged->min, bound, a->dtype == DTYPE_F64 ? -WEIGHT_ERROR * bound : 0);
    double error = a->learned_sink ? sum - 1 : fabs(sum - 1);
    enum across_verdict total =
        a->dropout ? ACROSS_SOUND : below(attention_tolerance(a->dtype), error, SUM_ERROR);
    if (sign == ACROSS_UNSOUND || total == ACROSS_UNSOUND) {
        return ACROSS_UNSOUND;
    }
    return sign == ACROSS_SOUND ? total : ACROSS_UNSURE;
}
