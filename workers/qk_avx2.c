/* SPDX-License-Identifier: MIT */
/* qk_avx2: the kernels of tier `qk` by AVX2 and FMA. */
#include "qk_kernel.h"

#include "simd_avx2.h"

SIMD_INLINE float v_sum(__m256 v)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float v_highest(__m256 v)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float v_lowest(__m256 v)
{
    __m128 four = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float v_eighth(vf v)
{
    return v_lowest(v);
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

#define QK_KERNEL qk_kernel_avx2
#include "qk_kernel.inc"
