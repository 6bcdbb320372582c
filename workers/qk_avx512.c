/* SPDX-License-Identifier: MIT */
/* qk_avx512: the kernels of tier `qk` by AVX-512. */
#include "qk_kernel.h"

#include "simd_avx512.h"

SIMD_INLINE float v_sum_half(__m256 v)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float v_highest_half(__m256 v)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float v_lowest_half(__m256 v)
{
    __m128 four = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float v_sum(vf v)
{
    return v_sum_half(_mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}

SIMD_INLINE __m256 v_fold_highest(vf v)
{
    return _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
}

SIMD_INLINE float v_highest(vf v)
{
    return v_highest_half(v_fold_highest(v));
}

SIMD_INLINE float v_eighth(vf v)
{
    return v_lowest_half(v_fold_highest(v));
}

/* Without a branch: which vectors hold one is as good as random. */
SIMD_INLINE uint32_t collect(float *out, vf v, vf bound, uint32_t n)
{
    __mmask16 in = (__mmask16)(n < SIMD_WIDTH ? (1u << n) - 1 : 0xffff);
    __mmask16 above = _mm512_mask_cmp_ps_mask(in, v, bound, _CMP_GT_OQ);
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps(above, v));
    return (uint32_t)__builtin_popcount(above);
}

/* Each new one goes where it belongs, and pushes what is smaller down a place: every place takes
 * the larger of what it has and of the smaller of the new one and what the place above had. */
static void insert_top(float top[QK_TOP], const float *x, uint32_t n)
{
    __m256 list = _mm256_loadu_ps(top), above_all = _mm256_set1_ps(INFINITY);
    __m256i down = _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6);
    for (uint32_t k = 0; k < n; k++) {
        __m256 above = _mm256_blend_ps(_mm256_permutevar8x32_ps(list, down), above_all, 1);
        list = _mm256_max_ps(list, _mm256_min_ps(above, _mm256_set1_ps(x[k])));
    }
    _mm256_storeu_ps(top, list);
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
#include "qk_kernel.inc"
