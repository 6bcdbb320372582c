/* SPDX-License-Identifier: MIT */
/* qk_avx512: the kernels of tier `qk` by AVX-512. */
#include "workers/qk/kernel.h"

#include "workers/simd/avx512.h"

#include "workers/qk/avx.h"

SIMD_INLINE float v_sum(vf v)
{
    return sum_8(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

SIMD_INLINE __m256 v_fold_highest(vf v)
{
    return _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

SIMD_INLINE float v_highest(vf v)
{
    return highest_8(v_fold_highest(v));
}

SIMD_INLINE float v_eighth(vf v)
{
    return lowest_8(v_fold_highest(v));
}

/* Without a branch: which vectors hold one is as good as random. */
SIMD_INLINE uint32_t collect(float *out, vf v, vf bound, uint32_t n)
{
    __mmask16 in = (__mmask16)(n < SIMD_WIDTH ? (1u << n) - 1 : 0xffff);
    __mmask16 above = _mm512_mask_cmp_ps_mask(in, v, bound, _CMP_GT_OQ);
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps(above, v));
    return (uint32_t)__builtin_popcount(above);
}

#define QK_EXP2_FINITE
SIMD_INLINE vf exp2_fraction(vf f);

/* By instructions that need no clamp: 0 where 2^x is below all f32. */
SIMD_INLINE vf exp2_finite(vf x)
{
    vf n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return _mm512_scalef_ps(exp2_fraction(_mm512_sub_ps(x, n)), n);
}

#define QK_KERNEL qk_kernel_avx512
#include "workers/qk/kernel.inc"
