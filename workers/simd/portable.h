/* SPDX-License-Identifier: MIT */
/* portable: the vector words of the kernels by the vector extensions of GCC and clang: four lanes,
 * which NEON and SSE2 both have; a 64-bit Arm build runs on this one. simd.h includes it.
 *
 * The contract of all of them:
 *   vf, vi, vm      SIMD_WIDTH floats, 32-bit integers, truth values
 *   v_fma, v_fnma   a * b + c, c - a * b; rounded once where the machine can, twice here
 *   v_min, v_max    the second operand when one is NaN
 *   v_min_bits, v_max_bits
 *                   of the bit patterns as signed integers: right for numbers that are not
 *                   negative, and the minimum is negative when any number had its sign bit set
 *   v_exponent      floor(log2 x), v_mantissa: x / 2^exponent in [1, 2); x normal, positive
 *   v_exponent_some the same, and for 0 something finite, as v_mantissa has
 *   v_load_as       SIMD_WIDTH elements of a dtype at any address, rounded to f32
 *   v_load_part_as  the first n of them, zeros after; touches no byte past them
 *   v_transpose     of SIMD_WIDTH vectors, in place
 *   vd              SIMD_WIDTH doubles; v_widen is exact
 *   v_sum_rows      the sum of each of SIMD_WIDTH rows of SIMD_WIDTH, row i in lane i
 *   v_store_pairs   (first, second) of the lanes in the mask, side by side; returns how many, and
 *                   may write SIMD_WIDTH pairs
 *   v_min_rows      the least of each, by bit patterns
 *   v_eighth        a value that 8 lanes are not below, -infinity where there are fewer
 *   v_store_above   those of the first n lanes that exceed the bound, side by side; returns how
 *                   many, and may write SIMD_WIDTH floats
 *   v_insert_top    the 8 largest of what is there and of x[n], descending
 *   v_lookup32      table[index], 0 <= index < 32 */
#ifndef WORKERS_SIMD_PORTABLE_H
#define WORKERS_SIMD_PORTABLE_H

#include "proto/tensor.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define SIMD_WIDTH      4
#define SIMD_TOP_LEVELS 5
#define SIMD_INLINE     static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef vi vm;

SIMD_INLINE vf v_set(float x)
{
    return (vf){x, x, x, x};
}

SIMD_INLINE vi v_set_i(int32_t x)
{
    return (vi){x, x, x, x};
}

SIMD_INLINE vi v_lane_index_i(void)
{
    return (vi){0, 1, 2, 3};
}

SIMD_INLINE vf v_select(vm m, vf a, vf b)
{
    return (vf)((m & (vi)a) | (~m & (vi)b));
}

SIMD_INLINE vi v_select_i(vm m, vi a, vi b)
{
    return (m & a) | (~m & b);
}

SIMD_INLINE vi v_min_i(vi a, vi b)
{
    return v_select_i((vm)(a < b), a, b);
}

SIMD_INLINE vi v_max_i(vi a, vi b)
{
    return v_select_i((vm)(a > b), a, b);
}

/* Bit l is lane l. */
SIMD_INLINE uint32_t v_mask_bits(vm m)
{
    return ((uint32_t)m[0] & 1) | ((uint32_t)m[1] & 2) | ((uint32_t)m[2] & 4) |
           ((uint32_t)m[3] & 8);
}

#include "workers/simd/words.h"

SIMD_INLINE vf v_fma(vf a, vf b, vf c)
{
    return a * b + c;
}

SIMD_INLINE vf v_fnma(vf a, vf b, vf c)
{
    return c - a * b;
}

SIMD_INLINE vf v_min(vf a, vf b)
{
    return v_select((vm)(a < b), a, b);
}

SIMD_INLINE vf v_max(vf a, vf b)
{
    return v_select((vm)(a > b), a, b);
}

SIMD_INLINE vm v_less(vf a, vf b)
{
    return (vm)(a < b);
}

SIMD_INLINE vm v_less_equal(vf a, vf b)
{
    return (vm)(a <= b);
}

SIMD_INLINE vm v_and(vm a, vm b)
{
    return a & b;
}

SIMD_INLINE vm v_or(vm a, vm b)
{
    return a | b;
}

SIMD_INLINE vm v_mask_of_bits(uint32_t bits)
{
    vi lanes = {1, 2, 4, 8};
    return (vm)((v_set_i((int32_t)bits) & lanes) != v_set_i(0));
}

/* Towards zero. */
SIMD_INLINE vi v_truncate(vf a)
{
    return __builtin_convertvector(a, vi);
}

#define v_shift_right(a, bits) ((a) >> (bits))
#define v_shift_left(a, bits)  ((a) << (bits))

SIMD_INLINE vm v_less_i(vi a, vi b)
{
    return (vm)(a < b);
}

SIMD_INLINE vf v_exponent(vf x)
{
    return v_convert(((vi)x >> 23) - v_set_i(127));
}

SIMD_INLINE vf v_lookup32(const float *table, vi index)
{
    return (vf){table[index[0]], table[index[1]], table[index[2]], table[index[3]]};
}

SIMD_INLINE vi v_load_u16(const unsigned char *p)
{
    uint16_t code[SIMD_WIDTH];
    memcpy(code, p, sizeof code);
    return (vi){code[0], code[1], code[2], code[3]};
}

/* The fraction and exponent moved to their places in an f32, and the exponent's bias made up for by
 * an exact multiplication, which is right for denormals too. */
SIMD_INLINE vf v_from_f16(vi code)
{
    vi magnitude = (code & v_set_i(0x7fff)) << 13;
    vi special = (vi)((code & v_set_i(0x7c00)) == v_set_i(0x7c00)) & v_set_i(0x7f800000);
    vi sign = (code & v_set_i(0x8000)) << 16;
    vi bits = (vi)((vf)magnitude * v_set(0x1p112f)) | special | sign;
    return (vf)bits;
}

SIMD_INLINE vf v_from_f64(const unsigned char *p)
{
    double x[SIMD_WIDTH];
    memcpy(x, p, sizeof x);
    return (vf){(float)x[0], (float)x[1], (float)x[2], (float)x[3]};
}

SIMD_INLINE vf v_load_as(enum dtype dtype, const unsigned char *p)
{
    vf v;
    switch (dtype) {
    case DTYPE_F64:
        return v_from_f64(p);
    case DTYPE_F16:
        return v_from_f16(v_load_u16(p));
    case DTYPE_BF16:
        return (vf)(v_load_u16(p) << 16);
    default:
        memcpy(&v, p, sizeof v);
        return v;
    }
}

/* Returns which of the first n bytes are 1. */
SIMD_INLINE vm v_mask_of_bytes(const uint8_t *p, uint32_t n)
{
    vm m = {0};
    for (uint32_t l = 0; l < n; l++) {
        m[l] = p[l] == 1 ? -1 : 0;
    }
    return m;
}

/* Returns which of the first n integers, at any address, are `own`. */
SIMD_INLINE vm v_mask_of_equal(const unsigned char *p, uint32_t n, int32_t own)
{
    int32_t id[SIMD_WIDTH] = {0};
    memcpy(id, p, n * sizeof id[0]);
    vm m = {0};
    for (uint32_t l = 0; l < n; l++) {
        m[l] = id[l] == own ? -1 : 0;
    }
    return m;
}

SIMD_INLINE void v_transpose(vf r[SIMD_WIDTH])
{
    for (uint32_t i = 0; i < SIMD_WIDTH; i++) {
        for (uint32_t j = 0; j < i; j++) {
            float swap = r[i][j];
            r[i][j] = r[j][i];
            r[j][i] = swap;
        }
    }
}

/* The least lane, the largest; no lane is NaN. */
SIMD_INLINE float v_least(vf x)
{
    float a = x[0] < x[1] ? x[0] : x[1], b = x[2] < x[3] ? x[2] : x[3];
    return a < b ? a : b;
}

SIMD_INLINE float v_most(vf x)
{
    float a = x[0] > x[1] ? x[0] : x[1], b = x[2] > x[3] ? x[2] : x[3];
    return a > b ? a : b;
}

/* By halves. */
SIMD_INLINE float v_sum(vf x)
{
    return (x[0] + x[2]) + (x[1] + x[3]);
}

SIMD_INLINE float v_eighth(vf x)
{
    (void)x;
    return -INFINITY;
}

SIMD_INLINE void v_insert_top(float top[8], const float *x, uint32_t n)
{
    for (uint32_t k = 0; k < n; k++) {
        uint32_t at = 8;
        for (; at > 0 && x[k] > top[at - 1]; at--) {
            if (at < 8) {
                top[at] = top[at - 1];
            }
        }
        if (at < 8) {
            top[at] = x[k];
        }
    }
}

typedef struct {
    double lane[SIMD_WIDTH];
} vd;

SIMD_INLINE vd vd_zero(void)
{
    return (vd){{0}};
}

SIMD_INLINE vd v_widen(vf x)
{
    return (vd){{(double)x[0], (double)x[1], (double)x[2], (double)x[3]}};
}

SIMD_INLINE vd vd_add(vd a, vd b)
{
    for (uint32_t l = 0; l < SIMD_WIDTH; l++) {
        a.lane[l] += b.lane[l];
    }
    return a;
}

SIMD_INLINE vd vd_mul(vd a, vd b)
{
    for (uint32_t l = 0; l < SIMD_WIDTH; l++) {
        a.lane[l] *= b.lane[l];
    }
    return a;
}

/* sum + (x - mean)^2 */
SIMD_INLINE vd vd_add_square(vd sum, vd x, double mean)
{
    for (uint32_t l = 0; l < SIMD_WIDTH; l++) {
        sum.lane[l] += (x.lane[l] - mean) * (x.lane[l] - mean);
    }
    return sum;
}

SIMD_INLINE double vd_sum(vd a)
{
    return (a.lane[0] + a.lane[1]) + (a.lane[2] + a.lane[3]);
}

SIMD_INLINE vf v_sum_rows(const float *rows)
{
    vf r[SIMD_WIDTH];
    for (uint32_t i = 0; i < SIMD_WIDTH; i++) {
        r[i] = v_load(rows + i * SIMD_WIDTH);
    }
    v_transpose(r);
    return (r[0] + r[2]) + (r[1] + r[3]);
}

SIMD_INLINE vf v_min_rows(const float *rows)
{
    vf r[SIMD_WIDTH];
    for (uint32_t i = 0; i < SIMD_WIDTH; i++) {
        r[i] = v_load(rows + i * SIMD_WIDTH);
    }
    v_transpose(r);
    return v_min_bits(v_min_bits(r[0], r[1]), v_min_bits(r[2], r[3]));
}

#include "workers/simd/narrow.h"

#endif
