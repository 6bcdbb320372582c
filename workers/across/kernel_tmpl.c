/* SPDX-License-Identifier: MIT */
/* across/kernel_tmpl: the passes of across/kernel.h, written once.
 *
 * A pass runs whole vectors, then one that is partly zeros. Where a zero would count (minimum,
 * maximum), the lanes past the end are put back to the neutral element. Numbers that are not finite
 * are found by what they do to a sum, which costs nothing; a sum that overflows looks the same, and
 * the caller finds out which it was. */
#include "workers/across/kernel.h"
#include "workers/simd/simd.h"

#include <float.h>

/* Four sums side by side: one addition need not wait for the other. */
static double sum_lanes(vf v)
{
    float lane[SIMD_WIDTH];
    v_store(lane, v);
    double sum[4] = {0};
    for (uint32_t l = 0; l < SIMD_WIDTH; l++) {
        sum[l % 4] += (double)lane[l];
    }
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Elements [k, k + SIMD_WIDTH) of n, zeros past the end. */
SIMD_INLINE vf load_at(const float *x, uint32_t k, uint32_t n)
{
    return n - k >= SIMD_WIDTH ? v_load(x + k) : v_load_part(x + k, n - k);
}

SIMD_INLINE vf load_at_as(enum dtype dtype, const unsigned char *p, uint32_t k, uint32_t n)
{
    p += (size_t)k * dtype_size(dtype);
    return n - k >= SIMD_WIDTH ? v_load_as(dtype, p) : v_load_part_as(dtype, p, n - k);
}

/* Into the second cache. The address may be past the end of the tensor: nothing is read there, and
 * it is worked out as a number, since a pointer there is not allowed. */
SIMD_INLINE void prefetch(const unsigned char *p, ptrdiff_t offset)
{
    __builtin_prefetch((const void *)((uintptr_t)p + (uintptr_t)offset), 0, 2);
}

/* Keeps the first n lanes; `other` in the rest. */
SIMD_INLINE vf first_lanes(vf v, uint32_t n, vf other)
{
    return v_select(v_less(v_lane_index(), v_set((float)n)), v, other);
}

/* Calls an always inlined function with its dtype as a constant. */
#define FOR_DTYPE(dtype, call)                                                                     \
    switch (dtype) {                                                                               \
    case DTYPE_F64:                                                                                \
        call(DTYPE_F64);                                                                           \
        break;                                                                                     \
    case DTYPE_F16:                                                                                \
        call(DTYPE_F16);                                                                           \
        break;                                                                                     \
    case DTYPE_BF16:                                                                               \
        call(DTYPE_BF16);                                                                          \
        break;                                                                                     \
    default:                                                                                       \
        call(DTYPE_F32);                                                                           \
    }

/* Weighted maps. */

/* Heads taken together, so that the map is loaded and stored once for all of them. */
#define GROUP 8

/* v + sum over `count` heads of w x, at [k, k + SIMD_WIDTH). */
SIMD_INLINE vf add_heads(vf v, const unsigned char *const *source, const float *weight,
                         uint32_t count, enum dtype dtype, uint32_t k, uint32_t n)
{
    for (uint32_t h = 0; h < count; h++) {
        prefetch(source[h], (ptrdiff_t)((k + ACROSS_CHUNK) * dtype_size(dtype)));
        v = v_fma(v_set(weight[h]), load_at_as(dtype, source[h], k, n), v);
    }
    return v;
}

SIMD_INLINE void add_group(const unsigned char *const *source, const float *weight, uint32_t count,
                           enum dtype dtype, uint32_t n, float *map)
{
    uint32_t k = 0;
    for (; n - k >= SIMD_WIDTH; k += SIMD_WIDTH) {
        v_store(map + k, add_heads(v_load(map + k), source, weight, count, dtype, k, n));
    }
    if (k < n) {
        vf v = add_heads(v_load_part(map + k, n - k), source, weight, count, dtype, k, n);
        v_store_part(map + k, v, n - k);
    }
}

SIMD_INLINE void weigh_as(enum dtype dtype, const unsigned char *const *source, const float *weight,
                          uint32_t heads, uint32_t n, float *ret)
{
    uint32_t h = 0;
    for (; heads - h >= GROUP; h += GROUP) {
        add_group(source + h, weight + h, GROUP, dtype, n, ret);
    }
    for (; h < heads; h++) {
        add_group(source + h, weight + h, 1, dtype, n, ret);
    }
}

static void weigh(const unsigned char *const *source, const float *weight, uint32_t heads,
                  enum dtype dtype, uint32_t n, float *ret)
{
    memset(ret, 0, n * sizeof *ret);
#define CALL(constant) weigh_as(constant, source, weight, heads, n, ret)
    FOR_DTYPE(dtype, CALL)
#undef CALL
}

/* sum ((x - mean) / scale)^2 */
static double sum_squares(const float *x, uint32_t n, float mean, float scale)
{
    vf squares = v_set(0), shift = v_set(mean), inverse = v_set(1 / scale);
    for (uint32_t k = 0; k < n; k += SIMD_WIDTH) {
        vf d = v_mul(v_sub(load_at(x, k, n), shift), inverse);
        d = n - k >= SIMD_WIDTH ? d : first_lanes(d, n - k, v_set(0));
        squares = v_fma(d, d, squares);
    }
    return sum_lanes(squares);
}

/* In two passes; deviations are divided by the largest value, so that no square overflows or
 * vanishes. The mean is rounded to f32 for them, which shifts every deviation by the same amount:
 * it is taken out again. */
static struct across_moments moments(const float *x, uint32_t n)
{
    vf sum = v_set(0), least = v_set(INFINITY), most = v_set(-INFINITY);
    uint32_t k = 0;
    for (; n - k >= SIMD_WIDTH; k += SIMD_WIDTH) {
        vf v = v_load(x + k);
        sum = v_add(sum, v);
        least = v_min(v, least);
        most = v_max(v, most);
    }
    if (k < n) {
        vf v = v_load_part(x + k, n - k);
        sum = v_add(sum, v);
        least = v_min(first_lanes(v, n - k, least), least);
        most = v_max(first_lanes(v, n - k, most), most);
    }
    struct across_moments m = {
        .mean = sum_lanes(sum) / n, .min = v_least(least), .max = v_most(most)};
    m.finite = isfinite(m.mean);
    if (m.finite) {
        float scale = fmaxf(fmaxf(fabsf(m.min), fabsf(m.max)), FLT_MIN), mean = (float)m.mean;
        double shift = (m.mean - (double)mean) / (double)scale;
        double squares = sum_squares(x, n, mean, scale) - n * shift * shift;
        m.m2 = fmax(squares, 0) * (double)scale * (double)scale;
    }
    return m;
}

/* Rows. */

static struct across_judged judge(const float *x, uint32_t n)
{
    vf sum = v_set(0), least = v_set(0);
    for (uint32_t k = 0; k < n; k += SIMD_WIDTH) {
        vf v = load_at(x, k, n);
        sum = v_add(sum, v);
        least = v_min(v, least);
    }
    struct across_judged judged = {.sum = sum_lanes(sum), .min = v_least(least)};
    judged.finite = isfinite(judged.sum);
    return judged;
}

SIMD_INLINE void load_as(enum dtype dtype, const unsigned char *source, ptrdiff_t next, uint32_t n,
                         float *ret)
{
    uint32_t k = 0;
    for (; n - k >= SIMD_WIDTH; k += SIMD_WIDTH) {
        prefetch(source, next + (ptrdiff_t)(k * dtype_size(dtype)));
        v_store(ret + k, load_at_as(dtype, source, k, n));
    }
    if (k < n) {
        v_store_part(ret + k, load_at_as(dtype, source, k, n), n - k);
    }
}

static void load(const unsigned char *source, ptrdiff_t next, enum dtype dtype, uint32_t n,
                 float *ret){
#define CALL(constant) load_as(constant, source, next, n, ret)
    FOR_DTYPE(dtype, CALL)
#undef CALL
}

SIMD_INLINE void accumulate_as(enum dtype dtype, const unsigned char *source, uint32_t n,
                               float *sum, float *largest)
{
    uint32_t k = 0;
    for (; n - k >= SIMD_WIDTH; k += SIMD_WIDTH) {
        vf v = load_at_as(dtype, source, k, n);
        prefetch(source, (ptrdiff_t)((k + ACROSS_CHUNK) * dtype_size(dtype)));
        v_store(sum + k, v_add(v_load(sum + k), v));
        v_store(largest + k, v_max(v, v_load(largest + k)));
    }
    if (k < n) {
        vf v = load_at_as(dtype, source, k, n);
        v_store_part(sum + k, v_add(v_load_part(sum + k, n - k), v), n - k);
        v_store_part(largest + k, v_max(v, v_load_part(largest + k, n - k)), n - k);
    }
}

static void accumulate(const unsigned char *source, enum dtype dtype, uint32_t n, float *sum,
                       float *largest)
{
#define CALL(constant) accumulate_as(constant, source, n, sum, largest)
    FOR_DTYPE(dtype, CALL)
#undef CALL
}

static struct across_products products(const float *x, const float *g, uint32_t n)
{
    vf sum = v_set(0), most = v_set(0);
    for (uint32_t k = 0; k < n; k += SIMD_WIDTH) {
        vf slope = v_abs(load_at(g, k, n));
        sum = v_fma(v_abs(load_at(x, k, n)), slope, sum);
        most = v_max(slope, most);
    }
    struct across_products p = {.sum = sum_lanes(sum), .largest = v_most(most)};
    p.finite = isfinite(p.sum);
    return p;
}

SIMD_INLINE struct across_largest largest_as(enum dtype dtype, const unsigned char *source,
                                             uint32_t n)
{
    vf most = v_set(-INFINITY), spoilt = v_set(0);
    for (uint32_t k = 0; k < n; k += SIMD_WIDTH) {
        vf v = load_at_as(dtype, source, k, n);
        vm finite = v_less(v_abs(v), v_set(INFINITY));
        spoilt = v_fma(v, v_set(0), spoilt);
        v = v_select(finite, v, v_set(-INFINITY));
        v = n - k >= SIMD_WIDTH ? v : first_lanes(v, n - k, v_set(-INFINITY));
        most = v_max(v, most);
    }
    return (struct across_largest){.max = v_most(most), .finite = isfinite(sum_lanes(spoilt))};
}

static struct across_largest largest(const unsigned char *source, enum dtype dtype, uint32_t n)
{
    struct across_largest found;
#define CALL(constant) found = largest_as(constant, source, n)
    FOR_DTYPE(dtype, CALL)
#undef CALL
    return found;
}

/* Similarity. */

/* x log2 y, y normal and positive. On [1, 2) log2 m is a polynomial in m - 3/2, at most 3e-7 away
 * (a Chebyshev fit refined to equal ripples). */
SIMD_INLINE vf x_log2(vf x, vf y)
{
    vf t = v_sub(v_mantissa(y), v_set(1.5f));
    vf p = v_fma(v_set(0x1.efa0b8p-7f), t, v_set(-0x1.9b9f18p-6f));
    p = v_fma(p, t, v_set(0x1.31a772p-5f));
    p = v_fma(p, t, v_set(-0x1.212292p-4f));
    p = v_fma(p, t, v_set(0x1.23eecep-3f));
    p = v_fma(p, t, v_set(-0x1.4853d8p-2f));
    p = v_fma(p, t, v_set(0x1.ec7072p-1f));
    p = v_fma(p, t, v_set(0x1.2b803ep-1f));
    return v_mul(x, v_add(v_exponent(y), p));
}

/* The smallest normal number is added to every half, so that 0 has a logarithm: 0 log2 0 becomes
 * 1e-36. */
SIMD_INLINE vf halve_at(const float *x, float factor, uint32_t k, uint32_t n)
{
    return v_fma(load_at(x, k, n), v_set(factor), v_set(FLT_MIN));
}

/* The lanes past the end are the smallest normal number, too. */
static struct across_shares shares(const float *x, const float *length, uint32_t n)
{
    vf sum = v_set(0), logs = v_set(0);
    for (uint32_t k = 0; k < n; k += SIMD_WIDTH) {
        vf weight = v_max(load_at(x, k, n), v_set(0));
        vf y = v_fma(weight, load_at(length, k, n), v_set(FLT_MIN));
        sum = v_add(sum, y);
        logs = v_add(logs, x_log2(y, y));
    }
    return (struct across_shares){.sum = sum_lanes(sum), .logs = sum_lanes(logs)};
}

static double halve(const float *x, float factor, uint32_t n, const struct across_halves *ret)
{
    vf squares = v_set(0);
    uint32_t k = 0;
    for (; n - k >= SIMD_WIDTH; k += SIMD_WIDTH) {
        vf half = halve_at(x, factor, k, n);
        v_store(ret->half + k, half);
        v_store(ret->entropy + k, x_log2(half, v_add(half, half)));
        squares = v_fma(half, half, squares);
    }
    if (k < n) {
        vf half = halve_at(x, factor, k, n);
        v_store_part(ret->half + k, half, n - k);
        v_store_part(ret->entropy + k, x_log2(half, v_add(half, half)), n - k);
        squares = v_fma(half, half, squares);
    }
    return sum_lanes(squares);
}

/* The divergence of two heads, at [k, k + SIMD_WIDTH). With m = p/2 + q/2 it is
 *     p/2 log2 p + q/2 log2 q - m log2 m,
 * where the heads agree the three cancel exactly, since all come from the same log2. */
SIMD_INLINE vf diverge(vf p, vf p_entropy, vf q, vf q_entropy)
{
    vf m = v_add(p, q);
    return v_sub(v_add(p_entropy, q_entropy), x_log2(m, m));
}

static void pair(const struct across_halves *g, const struct across_halves *h, uint32_t n,
                 double *ret_js, double *ret_dot)
{
    vf js = v_set(0), dot = v_set(0);
    uint32_t k = 0;
    for (; n - k >= SIMD_WIDTH; k += SIMD_WIDTH) {
        vf p = v_load(g->half + k), q = v_load(h->half + k);
        js = v_add(js, diverge(p, v_load(g->entropy + k), q, v_load(h->entropy + k)));
        dot = v_fma(p, q, dot);
    }
    if (k < n) {
        vf p = v_load_part(g->half + k, n - k), q = v_load_part(h->half + k, n - k);
        vf p_entropy = v_load_part(g->entropy + k, n - k);
        vf q_entropy = v_load_part(h->entropy + k, n - k);
        p = v_max(p, v_set(FLT_MIN)); /* past the end too: a logarithm, to be left out */
        vf rest = diverge(p, p_entropy, q, q_entropy);
        js = v_add(js, first_lanes(rest, n - k, v_set(0)));
        dot = v_fma(p, q, dot);
    }
    *ret_js = sum_lanes(js);
    *ret_dot = sum_lanes(dot);
}

static void pairs(const struct across_halves *g, const struct across_halves *others, uint32_t count,
                  uint32_t n, double *ret_js, double *ret_dot)
{
    for (uint32_t h = 0; h < count; h++) {
        pair(g, &others[h], n, &ret_js[h], &ret_dot[h]);
    }
}

const struct across_kernels SIMD_NAME(across_kernels) = {
    .weigh = weigh,
    .moments = moments,
    .load = load,
    .judge = judge,
    .products = products,
    .accumulate = accumulate,
    .shares = shares,
    .largest = largest,
    .halve = halve,
    .pairs = pairs,
};
