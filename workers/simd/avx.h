/* SPDX-License-Identifier: MIT */
/* avx: words that AVX2 and AVX-512 have in the same way. */
#ifndef WORKERS_SIMD_AVX_H
#define WORKERS_SIMD_AVX_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>

/* In eight lanes. Each new one goes where it belongs, and pushes what is smaller down a place:
 * every place takes the larger of what it has and of the smaller of the new one and what the place
 * above had. */
SIMD_INLINE void v_insert_top(float top[8], const float *x, uint32_t n)
{
    __m256 list = _mm256_loadu_ps(top), above_all = _mm256_set1_ps(INFINITY);
    __m256i down = _mm256_setr_epi32(0, 0, 1, 2, 3, 4, 5, 6);
    for (uint32_t k = 0; k < n; k++) {
        __m256 above = _mm256_blend_ps(_mm256_permutevar8x32_ps(list, down), above_all, 1);
        list = _mm256_max_ps(list, _mm256_min_ps(above, _mm256_set1_ps(x[k])));
    }
    _mm256_storeu_ps(top, list);
}

typedef double v_half __attribute__((vector_size(4 * SIMD_WIDTH)));
typedef struct {
    v_half low, high;
} vd;

SIMD_INLINE vd vd_zero(void)
{
    return (vd){{0}, {0}};
}

SIMD_INLINE vd vd_add(vd a, vd b)
{
    return (vd){a.low + b.low, a.high + b.high};
}

SIMD_INLINE vd vd_mul(vd a, vd b)
{
    return (vd){a.low * b.low, a.high * b.high};
}

#endif
