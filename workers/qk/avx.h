/* SPDX-License-Identifier: MIT */
/* qk_avx: what the kernels of tier `qk` by AVX2 and by AVX-512 do with eight lanes. Included by
 * these after their primitives. */
#ifndef WORKERS_QK_AVX_H
#define WORKERS_QK_AVX_H

#include "workers/qk/kernel.h"
#include <immintrin.h>

SIMD_INLINE float sum_8(__m256 v)
{
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float highest_8(__m256 v)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

SIMD_INLINE float lowest_8(__m256 v)
{
    __m128 four = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}

/* Each new one goes where it belongs, and pushes what is smaller down a place: every place takes
 * the larger of what it has and of the smaller of the new one and what the place above had. */
static inline void insert_top(float top[QK_TOP], const float *x, uint32_t n)
{
    __m256 list = _mm256_loadu_ps(top), above_all = _mm256_set1_ps(INFINITY);
    __m256i down = _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6);
    for (uint32_t k = 0; k < n; k++) {
        __m256 above = _mm256_blend_ps(_mm256_permutevar8x32_ps(list, down), above_all, 1);
        list = _mm256_max_ps(list, _mm256_min_ps(above, _mm256_set1_ps(x[k])));
    }
    _mm256_storeu_ps(top, list);
}

#endif
