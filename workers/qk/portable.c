/* SPDX-License-Identifier: MIT */
/* qk_portable: the kernels of tier `qk` by the compiler's vector extensions. */
#include "workers/qk/kernel.h"

#include "workers/simd/portable.h"

/* By halves. */
SIMD_INLINE float v_sum(vf v)
{
    float lane[SIMD_WIDTH];
    v_store(lane, v);
    for (uint32_t half = SIMD_WIDTH / 2; half > 0; half /= 2) {
        for (uint32_t l = 0; l < half; l++) {
            lane[l] += lane[l + half];
        }
    }
    return lane[0];
}

SIMD_INLINE float v_highest(vf v)
{
    float lane[SIMD_WIDTH];
    v_store(lane, v);
    for (uint32_t l = 1; l < SIMD_WIDTH; l++) {
        lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    }
    return lane[0];
}

/* Four lanes are not eight: no bound. */
SIMD_INLINE float v_eighth(vf v)
{
    (void)v;
    return -INFINITY;
}

SIMD_INLINE uint32_t collect(float *out, vf v, vf bound, uint32_t n)
{
    uint32_t bits = v_mask_bits(v_and(v_less(bound, v), v_mask_of_bits((1u << n) - 1)));
    uint32_t count = 0;
    for (; bits != 0; bits &= bits - 1) {
        out[count++] = v[__builtin_ctz(bits)];
    }
    return count;
}

static void insert_top(float top[QK_TOP], const float *x, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        uint32_t at = QK_TOP;
        for (; at > 0 && x[k] > top[at - 1]; at--) {
            if (at < QK_TOP) {
                top[at] = top[at - 1];
            }
        }
        if (at < QK_TOP) {
            top[at] = x[k];
        }
    }
}

#define QK_KERNEL qk_kernel_portable
#include "workers/qk/kernel.inc"
