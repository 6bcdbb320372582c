/* SPDX-License-Identifier: MIT */
/* words: the words that are plain arithmetic on vectors, which the compiler has for every width.
 * Included by the header of an instruction set once it has vf, vi and vm, and the words that these
 * need. */
#ifndef WORKERS_SIMD_WORDS_H
#define WORKERS_SIMD_WORDS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* vi, whose lanes need not be of 32 bits for the compiler; vectors at any address. */
typedef int32_t v_lanes_i __attribute__((vector_size(4 * SIMD_WIDTH)));
typedef vf v_at __attribute__((aligned(1), may_alias));
typedef vi v_at_i __attribute__((aligned(1), may_alias));

SIMD_INLINE vf v_load(const float *p)
{
    return *(const v_at *)(const void *)p;
}

SIMD_INLINE void v_store(float *p, vf v)
{
    *(v_at *)(void *)p = v;
}

SIMD_INLINE vi v_load_i(const int32_t *p)
{
    return *(const v_at_i *)(const void *)p;
}

SIMD_INLINE void v_store_i(int32_t *p, vi v)
{
    *(v_at_i *)(void *)p = v;
}

SIMD_INLINE vi v_bits(vf a)
{
    return (vi)a;
}

SIMD_INLINE vf v_from_bits(vi a)
{
    return (vf)a;
}

SIMD_INLINE vf v_add(vf a, vf b)
{
    return a + b;
}

SIMD_INLINE vf v_sub(vf a, vf b)
{
    return a - b;
}

SIMD_INLINE vf v_mul(vf a, vf b)
{
    return a * b;
}

SIMD_INLINE vf v_div(vf a, vf b)
{
    return a / b;
}

SIMD_INLINE vi v_add_i(vi a, vi b)
{
    return (vi)((v_lanes_i)a + (v_lanes_i)b);
}

SIMD_INLINE vi v_sub_i(vi a, vi b)
{
    return (vi)((v_lanes_i)a - (v_lanes_i)b);
}

SIMD_INLINE vi v_and_i(vi a, vi b)
{
    return a & b;
}

SIMD_INLINE vi v_or_i(vi a, vi b)
{
    return a | b;
}

SIMD_INLINE vf v_abs(vf a)
{
    return v_from_bits(v_and_i(v_bits(a), v_set_i(0x7fffffff)));
}

SIMD_INLINE vf v_min_bits(vf a, vf b)
{
    return v_from_bits(v_min_i(v_bits(a), v_bits(b)));
}

SIMD_INLINE vf v_max_bits(vf a, vf b)
{
    return v_from_bits(v_max_i(v_bits(a), v_bits(b)));
}

SIMD_INLINE vf v_convert(vi a)
{
    return __builtin_convertvector((v_lanes_i)a, vf);
}

SIMD_INLINE vf v_lane_index(void)
{
    return v_convert(v_lane_index_i());
}

SIMD_INLINE bool v_any(vm m)
{
    return v_mask_bits(m) != 0;
}

#endif
