/* SPDX-License-Identifier: MIT */
/* The passes of spectrum_kernel.h by AVX2 and FMA. */
#include "workers/linear/spectrum_kernel.h"

#include <immintrin.h>

#define LANES         8
#define V             __m256
#define GROUP         4
#define LOAD(p)       _mm256_load_ps(p)
#define STORE(p, v)   _mm256_store_ps(p, v)
#define SET(x)        _mm256_set1_ps(x)
#define ZERO()        _mm256_setzero_ps()
#define FMA(a, b, c)  _mm256_fmadd_ps(a, b, c)
#define FNMA(a, b, c) _mm256_fnmadd_ps(a, b, c)
#define KERNEL        spectrum_kernel_avx2

static inline float sum_lanes(__m256 v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#include "workers/linear/spectrum_kernel.inc"
