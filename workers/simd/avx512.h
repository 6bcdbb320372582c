/* SPDX-License-Identifier: MIT */
/* avx512: the vector words, whose contract is in portable.h, by AVX-512 F, BW, DQ and VL: sixteen
 * lanes. */
#ifndef WORKERS_SIMD_AVX512_H
#define WORKERS_SIMD_AVX512_H

#include "proto/tensor.h"

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#define SIMD_WIDTH      16
#define SIMD_TOP_LEVELS 3
#define SIMD_INLINE     static inline __attribute__((always_inline, unused))

typedef __m512 vf;
typedef __m512i vi;
typedef __mmask16 vm;

SIMD_INLINE vf v_set(float x)
{
    return _mm512_set1_ps(x);
}

SIMD_INLINE vi v_set_i(int32_t x)
{
    return _mm512_set1_epi32(x);
}

SIMD_INLINE vi v_lane_index_i(void)
{
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

SIMD_INLINE vf v_select(vm m, vf a, vf b)
{
    return _mm512_mask_blend_ps(m, b, a);
}

SIMD_INLINE vi v_select_i(vm m, vi a, vi b)
{
    return _mm512_mask_blend_epi32(m, b, a);
}

SIMD_INLINE vi v_min_i(vi a, vi b)
{
    return _mm512_min_epi32(a, b);
}

SIMD_INLINE vi v_max_i(vi a, vi b)
{
    return _mm512_max_epi32(a, b);
}

SIMD_INLINE uint32_t v_mask_bits(vm m)
{
    return m;
}

#include "workers/simd/avx.h"
#include "workers/simd/words.h"

SIMD_INLINE vf v_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

SIMD_INLINE vf v_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

SIMD_INLINE vf v_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}

SIMD_INLINE vf v_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}

SIMD_INLINE vm v_less(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}

SIMD_INLINE vm v_less_equal(vf a, vf b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}

SIMD_INLINE vm v_and(vm a, vm b)
{
    return (vm)(a & b);
}

SIMD_INLINE vm v_or(vm a, vm b)
{
    return (vm)(a | b);
}

SIMD_INLINE vm v_mask_of_bits(uint32_t bits)
{
    return (vm)bits;
}

SIMD_INLINE vi v_truncate(vf a)
{
    return _mm512_cvttps_epi32(a);
}

#define v_shift_right(a, bits) _mm512_srai_epi32((a), (bits))
#define v_shift_left(a, bits)  _mm512_slli_epi32((a), (bits))

SIMD_INLINE vm v_less_i(vi a, vi b)
{
    return _mm512_cmplt_epi32_mask(a, b);
}

SIMD_INLINE vf v_exponent(vf x)
{
    return _mm512_getexp_ps(x);
}

SIMD_INLINE vf v_exponent_some(vf x)
{
    return v_exponent(v_max_bits(x, v_set(0x1p-126f)));
}

SIMD_INLINE vf v_mantissa(vf x)
{
    return _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
}

SIMD_INLINE vf v_lookup32(const float *table, vi index)
{
    return _mm512_permutex2var_ps(_mm512_loadu_ps(table), index, _mm512_loadu_ps(table + 16));
}

SIMD_INLINE __mmask16 v_first(uint32_t n)
{
    return (__mmask16)((1u << n) - 1);
}

SIMD_INLINE vf v_from_halves(__m512d low, __m512d high)
{
    __m512 joined = _mm512_castps256_ps512(_mm512_cvtpd_ps(low));
    return _mm512_insertf32x8(joined, _mm512_cvtpd_ps(high), 1);
}

SIMD_INLINE vf v_from_bf16(__m256i code)
{
    return v_from_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(code), 16));
}

SIMD_INLINE vf v_load_as(enum dtype dtype, const unsigned char *p)
{
    switch (dtype) {
    case DTYPE_F64:
        return v_from_halves(_mm512_loadu_pd(p), _mm512_loadu_pd(p + 64));
    case DTYPE_F16:
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
    case DTYPE_BF16:
        return v_from_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p));
    default:
        return _mm512_loadu_ps(p);
    }
}

SIMD_INLINE vf v_load_part_as(enum dtype dtype, const unsigned char *p, uint32_t n)
{
    __mmask16 m = v_first(n);
    switch (dtype) {
    case DTYPE_F64:
        return v_from_halves(_mm512_maskz_loadu_pd((__mmask8)m, p),
                             _mm512_maskz_loadu_pd((__mmask8)(m >> 8), p + 64));
    case DTYPE_F16:
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, p));
    case DTYPE_BF16:
        return v_from_bf16(_mm256_maskz_loadu_epi16(m, p));
    default:
        return _mm512_maskz_loadu_ps(m, p);
    }
}

SIMD_INLINE vf v_load_part(const float *p, uint32_t n)
{
    return _mm512_maskz_loadu_ps(v_first(n), p);
}

SIMD_INLINE void v_store_part(float *p, vf v, uint32_t n)
{
    _mm512_mask_storeu_ps(p, v_first(n), v);
}

SIMD_INLINE vm v_mask_of_bytes(const uint8_t *p, uint32_t n)
{
    return _mm_cmpeq_epi8_mask(_mm_maskz_loadu_epi8(v_first(n), p), _mm_set1_epi8(1));
}

SIMD_INLINE vm v_mask_of_equal(const unsigned char *p, uint32_t n, int32_t own)
{
    __mmask16 m = v_first(n);
    return _mm512_mask_cmpeq_epi32_mask(m, _mm512_maskz_loadu_epi32(m, p), _mm512_set1_epi32(own));
}

/* Pairs of 32-bit, then of 64-bit elements within each quarter, then the quarters. */
SIMD_INLINE void v_transpose(vf r[SIMD_WIDTH])
{
    vf s[SIMD_WIDTH];
    for (uint32_t i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (uint32_t i = 0; i < 16; i += 4) {
        __m512d a = _mm512_castps_pd(s[i]), b = _mm512_castps_pd(s[i + 1]);
        __m512d c = _mm512_castps_pd(s[i + 2]), d = _mm512_castps_pd(s[i + 3]);
        r[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        r[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        r[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        r[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
    for (uint32_t i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_shuffle_f32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_shuffle_f32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (uint32_t i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_f32x4(s[i], s[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_f32x4(s[i], s[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_f32x4(s[i + 4], s[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_f32x4(s[i + 4], s[i + 12], 0xdd);
    }
}

SIMD_INLINE uint32_t v_store_pairs(int32_t *pairs, vi first, vi second, vm which)
{
    vi low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    vi high = _mm512_add_epi32(low, v_set_i(8));
    first = _mm512_maskz_compress_epi32(which, first);
    second = _mm512_maskz_compress_epi32(which, second);
    v_store_i(pairs, _mm512_permutex2var_epi32(first, low, second));
    v_store_i(pairs + SIMD_WIDTH, _mm512_permutex2var_epi32(first, high, second));
    return (uint32_t)__builtin_popcount(which);
}

/* The least lane, the largest; no lane is NaN. */
SIMD_INLINE float v_least(vf x)
{
    return _mm512_reduce_min_ps(x);
}

SIMD_INLINE float v_most(vf x)
{
    return _mm512_reduce_max_ps(x);
}

SIMD_INLINE float v_sum(vf x)
{
    return _mm512_reduce_add_ps(x);
}

/* The larger of each lane and the one eight further: what all of these reach, 8 lanes reach. */
SIMD_INLINE float v_eighth(vf x)
{
    return v_least(v_max(x, _mm512_shuffle_f32x4(x, x, 0x4e)));
}

/* Without a branch: which vectors hold one is as good as random. */
SIMD_INLINE uint32_t v_store_above(float *to, vf x, vf bound, uint32_t n)
{
    __mmask16 above = _mm512_mask_cmp_ps_mask(v_first(n), x, bound, _CMP_GT_OQ);
    _mm512_storeu_ps(to, _mm512_maskz_compress_ps(above, x));
    return (uint32_t)__builtin_popcount(above);
}

/* x 2^n, n an integer; 0 where that is below all f32. Only here: the others have no such
 * instruction. */
#define SIMD_SCALE
SIMD_INLINE vf v_scale(vf x, vf n)
{
    return _mm512_scalef_ps(x, n);
}

SIMD_INLINE vf v_round(vf x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* Codes of bf16, two vectors side by side, and their logarithms from a table: a mantissa of 7 bits
 * has 128 of them. Only here: the others cannot look up words. */
#define SIMD_CODES
static const uint16_t simd_log2_of_code[128] = {
    0,     736,   1466,  2190,  2909,  3623,  4331,  5034,  5732,  6425,  7112,  7795,  8473,
    9146,  9814,  10477, 11136, 11791, 12440, 13086, 13727, 14363, 14996, 15624, 16248, 16868,
    17484, 18096, 18704, 19308, 19909, 20505, 21098, 21687, 22272, 22854, 23433, 24007, 24579,
    25146, 25711, 26272, 26830, 27384, 27936, 28484, 29029, 29571, 30109, 30645, 31178, 31707,
    32234, 32758, 33279, 33797, 34312, 34825, 35334, 35841, 36346, 36847, 37346, 37842, 38336,
    38827, 39316, 39802, 40286, 40767, 41246, 41722, 42196, 42667, 43137, 43603, 44068, 44530,
    44990, 45448, 45904, 46357, 46809, 47258, 47705, 48150, 48593, 49034, 49472, 49909, 50344,
    50776, 51207, 51636, 52063, 52488, 52911, 53332, 53751, 54169, 54584, 54998, 55410, 55820,
    56229, 56635, 57040, 57443, 57845, 58245, 58643, 59039, 59434, 59827, 60219, 60609, 60997,
    61384, 61769, 62152, 62534, 62915, 63294, 63671, 64047, 64421, 64794, 65166,
};

struct codes_log2 {
    vi part[4]; /* of simd_log2_of_code */
};

SIMD_INLINE struct codes_log2 v_codes_log2(void)
{
    struct codes_log2 table;
    memcpy(&table, simd_log2_of_code, sizeof table);
    return table;
}

/* Words 2 l, 2 l + 1 of the result: word l, from `first`, of `low`, of `high`. */
SIMD_INLINE vi v_pair_words(vi low, vi high, int32_t first)
{
    vi l = v_add_i(v_lane_index_i(), v_set_i(first));
    vi which = v_or_i(l, v_shift_left(v_add_i(l, v_set_i(32)), 16));
    return _mm512_permutex2var_epi16(low, which, high);
}

/* The vector that begins with code `first`, 0 or 16. */
SIMD_INLINE vf v_of_codes(vi codes, int32_t first)
{
    return v_from_bits(v_pair_words(_mm512_setzero_si512(), codes, first));
}

/* 2^16 log2 of both vectors, to half a unit; finite for any code, right where it is normal and not
 * negative. */
SIMD_INLINE void v_log2_of_codes(vi codes, const struct codes_log2 *table, vf ret_log2[2])
{
    __mmask32 upper = _mm512_test_epi16_mask(codes, _mm512_set1_epi16(64));
    vi fraction = _mm512_permutex2var_epi16(table->part[0], codes, table->part[1]);
    vi other = _mm512_permutex2var_epi16(table->part[2], codes, table->part[3]);
    fraction = _mm512_mask_blend_epi16(upper, fraction, other);
    vi exponent = _mm512_sub_epi16(_mm512_srli_epi16(codes, 7), _mm512_set1_epi16(127));
    ret_log2[0] = v_convert(v_pair_words(fraction, exponent, 0));
    ret_log2[1] = v_convert(v_pair_words(fraction, exponent, 16));
}

SIMD_INLINE vi v_min_codes(vi a, vi b)
{
    return _mm512_min_epi16(a, b);
}

SIMD_INLINE vi v_max_codes(vi a, vi b)
{
    return _mm512_max_epi16(a, b);
}

SIMD_INLINE vd v_widen(vf x)
{
    return (vd){_mm512_cvtps_pd(_mm512_castps512_ps256(x)),
                _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1))};
}

SIMD_INLINE vd vd_add_square(vd sum, vd x, double mean)
{
    __m512d low = _mm512_sub_pd(x.low, _mm512_set1_pd(mean));
    __m512d high = _mm512_sub_pd(x.high, _mm512_set1_pd(mean));
    return (vd){_mm512_fmadd_pd(low, low, sum.low), _mm512_fmadd_pd(high, high, sum.high)};
}

SIMD_INLINE double vd_sum(vd a)
{
    return _mm512_reduce_add_pd(_mm512_add_pd(a.low, a.high));
}

/* Row sums, or minima by bit patterns, by halving: pairs of lanes of two rows side by side, then of
 * four, ... */
SIMD_INLINE vf v_join(bool least, vf a, vf b)
{
    return least ? v_min_bits(a, b) : v_add(a, b);
}

SIMD_INLINE vf v_join_rows(bool least, const float *rows)
{
    vf s[16];
    for (uint32_t i = 0; i < 16; i += 2) {
        vf a = v_load(rows + i * 16), b = v_load(rows + (i + 1) * 16);
        s[i / 2] = v_join(least, _mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    }
    for (uint32_t i = 0; i < 8; i += 2) {
        __m512d a = _mm512_castps_pd(s[i]), b = _mm512_castps_pd(s[i + 1]);
        s[i / 2] = v_join(least, _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                          _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    for (uint32_t i = 0; i < 4; i += 2) {
        s[i / 2] = v_join(least, _mm512_shuffle_f32x4(s[i], s[i + 1], 0x88),
                          _mm512_shuffle_f32x4(s[i], s[i + 1], 0xdd));
    }
    return v_join(least, _mm512_shuffle_f32x4(s[0], s[1], 0x88),
                  _mm512_shuffle_f32x4(s[0], s[1], 0xdd));
}

SIMD_INLINE vf v_sum_rows(const float *rows)
{
    return v_join_rows(false, rows);
}

SIMD_INLINE vf v_min_rows(const float *rows)
{
    return v_join_rows(true, rows);
}

#endif
