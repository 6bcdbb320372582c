/* SPDX-License-Identifier: MIT */
/* avx2: the vector words, whose contract is in portable.h, by AVX2, FMA and F16C: eight lanes. */
#ifndef WORKERS_SIMD_AVX2_H
#define WORKERS_SIMD_AVX2_H

#include "proto/tensor.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define SIMD_WIDTH      8
#define SIMD_TOP_LEVELS 4
#define SIMD_INLINE     static inline __attribute__((always_inline, unused))

typedef __m256 vf;
typedef __m256i vi;
typedef __m256 vm;

SIMD_INLINE vf v_set(float x)
{
    return _mm256_set1_ps(x);
}

SIMD_INLINE vi v_set_i(int32_t x)
{
    return _mm256_set1_epi32(x);
}

SIMD_INLINE vi v_lane_index_i(void)
{
    return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
}

SIMD_INLINE vf v_select(vm m, vf a, vf b)
{
    return _mm256_blendv_ps(b, a, m);
}

SIMD_INLINE vi v_select_i(vm m, vi a, vi b)
{
    return _mm256_blendv_epi8(b, a, (vi)m);
}

SIMD_INLINE vi v_min_i(vi a, vi b)
{
    return _mm256_min_epi32(a, b);
}

SIMD_INLINE vi v_max_i(vi a, vi b)
{
    return _mm256_max_epi32(a, b);
}

SIMD_INLINE uint32_t v_mask_bits(vm m)
{
    return (uint32_t)_mm256_movemask_ps(m);
}

#include "workers/simd/avx.h"
#include "workers/simd/words.h"

SIMD_INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

SIMD_INLINE vf v_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}

SIMD_INLINE vf v_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}

SIMD_INLINE vf v_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}

SIMD_INLINE vm v_less(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}

SIMD_INLINE vm v_less_equal(vf a, vf b)
{
    return _mm256_cmp_ps(a, b, _CMP_LE_OQ);
}

SIMD_INLINE vm v_and(vm a, vm b)
{
    return _mm256_and_ps(a, b);
}

SIMD_INLINE vm v_or(vm a, vm b)
{
    return _mm256_or_ps(a, b);
}

SIMD_INLINE vm v_mask_of_bits(uint32_t bits)
{
    __m256i lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    __m256i set = _mm256_and_si256(_mm256_set1_epi32((int32_t)bits), lanes);
    return v_from_bits(_mm256_cmpeq_epi32(set, lanes));
}

SIMD_INLINE vi v_truncate(vf a)
{
    return _mm256_cvttps_epi32(a);
}

#define v_shift_right(a, bits) _mm256_srai_epi32((a), (bits))
#define v_shift_left(a, bits)  _mm256_slli_epi32((a), (bits))

SIMD_INLINE vm v_less_i(vi a, vi b)
{
    return v_from_bits(_mm256_cmpgt_epi32(b, a));
}

SIMD_INLINE vf v_exponent(vf x)
{
    return v_convert(_mm256_sub_epi32(_mm256_srli_epi32(v_bits(x), 23), v_set_i(127)));
}

/* By shuffles, and bits 3 and 4 of the index: a gather is slow on AMD, and on Intel since 2023. */
SIMD_INLINE vf v_lookup32(const float *table, vi index)
{
    vf part[4];
    for (uint32_t i = 0; i < 4; i++) {
        part[i] = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table + 8 * i), index);
    }
    vf bit_3 = v_from_bits(_mm256_slli_epi32(index, 28));
    vf bit_4 = v_from_bits(_mm256_slli_epi32(index, 27));
    return _mm256_blendv_ps(_mm256_blendv_ps(part[0], part[1], bit_3),
                            _mm256_blendv_ps(part[2], part[3], bit_3), bit_4);
}

SIMD_INLINE vf v_from_halves(__m256d low, __m256d high)
{
    return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
}

SIMD_INLINE vf v_load_as(enum dtype dtype, const unsigned char *p)
{
    const void *at = p;
    switch (dtype) {
    case DTYPE_F64:
        return v_from_halves(_mm256_loadu_pd((const double *)at),
                             _mm256_loadu_pd((const double *)(const void *)(p + 32)));
    case DTYPE_F16:
        return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
    case DTYPE_BF16:
        return v_from_bits(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at)), 16));
    default:
        return _mm256_loadu_ps((const float *)at);
    }
}

SIMD_INLINE vm v_mask_of_bytes(const uint8_t *p, uint32_t n)
{
    uint8_t part[SIMD_WIDTH] = {0};
    memcpy(part, p, n);
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)part);
    return v_from_bits(_mm256_cmpeq_epi32(_mm256_cvtepu8_epi32(bytes), v_set_i(1)));
}

SIMD_INLINE vm v_mask_of_equal(const unsigned char *p, uint32_t n, int32_t own)
{
    int32_t id[SIMD_WIDTH] = {0};
    memcpy(id, p, n * sizeof id[0]);
    __m256i ids = _mm256_loadu_si256((const __m256i *)(const void *)id);
    vm same = v_from_bits(_mm256_cmpeq_epi32(ids, v_set_i(own)));
    return v_and(same, v_mask_of_bits((1u << n) - 1));
}

SIMD_INLINE void v_transpose(vf r[SIMD_WIDTH])
{
    vf s[SIMD_WIDTH];
    for (uint32_t i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (uint32_t i = 0; i < 8; i += 4) {
        __m256d a = _mm256_castps_pd(s[i]), b = _mm256_castps_pd(s[i + 1]);
        __m256d c = _mm256_castps_pd(s[i + 2]), d = _mm256_castps_pd(s[i + 3]);
        r[i] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
        r[i + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        r[i + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
        r[i + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
    }
    for (uint32_t i = 0; i < 4; i++) {
        s[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
        s[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
    }
    memcpy(r, s, sizeof s);
}

/* The least lane, the largest; no lane is NaN. */
SIMD_INLINE float v_least(vf x)
{
    __m128 half = _mm_min_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_min_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_min_ss(half, _mm_movehdup_ps(half)));
}

SIMD_INLINE float v_most(vf x)
{
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

SIMD_INLINE float v_sum(vf x)
{
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

SIMD_INLINE float v_eighth(vf x)
{
    return v_least(x);
}

SIMD_INLINE vd v_widen(vf x)
{
    return (vd){_mm256_cvtps_pd(_mm256_castps256_ps128(x)),
                _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}

SIMD_INLINE vd vd_add_square(vd sum, vd x, double mean)
{
    __m256d low = _mm256_sub_pd(x.low, _mm256_set1_pd(mean));
    __m256d high = _mm256_sub_pd(x.high, _mm256_set1_pd(mean));
    return (vd){_mm256_fmadd_pd(low, low, sum.low), _mm256_fmadd_pd(high, high, sum.high)};
}

SIMD_INLINE double vd_sum(vd a)
{
    __m256d sum = _mm256_add_pd(a.low, a.high);
    __m128d half = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
}

/* Row sums by halving: pairs of lanes of two rows side by side, then of four, then of eight. */
SIMD_INLINE vf v_sum_rows(const float *rows)
{
    vf s[4];
    for (uint32_t i = 0; i < 8; i += 2) {
        s[i / 2] = _mm256_hadd_ps(v_load(rows + i * 8), v_load(rows + (i + 1) * 8));
    }
    vf low = _mm256_hadd_ps(s[0], s[1]), high = _mm256_hadd_ps(s[2], s[3]);
    return v_add(_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31));
}

SIMD_INLINE vf v_min_rows(const float *rows)
{
    vf r[SIMD_WIDTH];
    for (uint32_t i = 0; i < SIMD_WIDTH; i++) {
        r[i] = v_load(rows + i * SIMD_WIDTH);
    }
    v_transpose(r);
    vf a = v_min_bits(v_min_bits(r[0], r[1]), v_min_bits(r[2], r[3]));
    vf b = v_min_bits(v_min_bits(r[4], r[5]), v_min_bits(r[6], r[7]));
    return v_min_bits(a, b);
}

#include "workers/simd/narrow.h"

#endif
