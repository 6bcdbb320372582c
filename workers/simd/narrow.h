/* SPDX-License-Identifier: MIT */
/* narrow: words for instruction sets that neither load a part of a vector nor compress one; by way
 * of memory. */
#ifndef WORKERS_SIMD_NARROW_H
#define WORKERS_SIMD_NARROW_H

SIMD_INLINE vf v_exponent_some(vf x)
{
    return v_exponent(x);
}

SIMD_INLINE vf v_mantissa(vf x)
{
    return v_from_bits(v_or_i(v_and_i(v_bits(x), v_set_i(0x7fffff)), v_set_i(0x3f800000)));
}

SIMD_INLINE vf v_load_part_as(enum dtype dtype, const unsigned char *p, uint32_t n)
{
    unsigned char part[SIMD_WIDTH * 8] = {0};
    memcpy(part, p, n * (dtype == DTYPE_F64 ? 8u : dtype == DTYPE_F32 ? 4u : 2u));
    return v_load_as(dtype, part);
}

SIMD_INLINE vf v_load_part(const float *p, uint32_t n)
{
    return v_load_part_as(DTYPE_F32, (const unsigned char *)p, n);
}

SIMD_INLINE void v_store_part(float *p, vf v, uint32_t n)
{
    memcpy(p, &v, n * sizeof *p);
}

SIMD_INLINE uint32_t v_store_pairs(int32_t *pairs, vi first, vi second, vm which)
{
    int32_t a[SIMD_WIDTH], b[SIMD_WIDTH];
    uint32_t n = 0;
    v_store_i(a, first);
    v_store_i(b, second);
    for (uint32_t bits = v_mask_bits(which); bits != 0; bits &= bits - 1) {
        int lane = __builtin_ctz(bits);
        pairs[2 * n] = a[lane];
        pairs[2 * n + 1] = b[lane];
        n++;
    }
    return n;
}

SIMD_INLINE uint32_t v_store_above(float *to, vf x, vf bound, uint32_t n)
{
    uint32_t bits = v_mask_bits(v_less(bound, x)) & ((1u << n) - 1), count = 0;
    if (bits != 0) {
        float lane[SIMD_WIDTH];
        v_store(lane, x);
        for (; bits != 0; bits &= bits - 1) {
            to[count++] = lane[__builtin_ctz(bits)];
        }
    }
    return count;
}

#endif
