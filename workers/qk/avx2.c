/* SPDX-License-Identifier: MIT */
/* qk_avx2: the kernels of tier `qk` by AVX2 and FMA. */
#include "workers/qk/kernel.h"

#include "workers/simd/avx2.h"

#include "workers/qk/avx.h"

SIMD_INLINE float v_sum(vf v)
{
    return sum_8(v);
}

SIMD_INLINE float v_highest(vf v)
{
    return highest_8(v);
}

SIMD_INLINE float v_eighth(vf v)
{
    return lowest_8(v);
}

SIMD_INLINE uint32_t collect(float *out, vf v, vf bound, uint32_t n)
{
    uint32_t bits = v_mask_bits(v_less(bound, v)) & ((1u << n) - 1), count = 0;
    if (bits != 0) {
        float lane[SIMD_WIDTH];
        v_store(lane, v);
        for (; bits != 0; bits &= bits - 1) {
            out[count++] = lane[__builtin_ctz(bits)];
        }
    }
    return count;
}

#define QK_KERNEL qk_kernel_avx2
#include "workers/qk/kernel.inc"
