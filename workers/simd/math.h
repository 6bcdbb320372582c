/* SPDX-License-Identifier: MIT */
/* math: logarithms, exponentials and histogram keys of the kernels, written once over the words.
 *
 * The polynomials are minimax fits (linear programming on a dense grid, coefficients then rounded
 * to f32). */
#ifndef WORKERS_SIMD_MATH_H
#define WORKERS_SIMD_MATH_H

#include "workers/simd/simd.h"
#include "workers/stats/dist.h"

/* For entropies: log2 m on [1, 2] by a polynomial of degree 5 that is exact at both ends, so that
 * log2 is continuous and log2 1 = 0; elsewhere at most 1.6e-5 away (1.1e-5 nats), and since weights
 * sum to 1 so is the entropy. Its constant is left out and added once per row, times the sum of the
 * weights: LOG2_CONSTANT is minus what the others give at m = 1 in the order they are added. */
#define LOG2_1 0x1.46d8c8p+2f
#define LOG2_2 -0x1.c8d090p+1f
#define LOG2_3 0x1.a432eep+0f
#define LOG2_4 -0x1.ad629ep-2f
#define LOG2_5 0x1.71dc7ap-5f
#define LOG2_CONSTANT                                                                              \
    (-(float)((float)((float)((float)(LOG2_5 + LOG2_4) + LOG2_3) + LOG2_2) + LOG2_1))

#define LN2 0x1.62e42ep-1f

/* log2 x - LOG2_CONSTANT, x normal and positive; something finite for 0. */
SIMD_INLINE vf v_log2_shifted(vf x)
{
    vf m = v_mantissa(x);
    vf p = v_fma(v_set(LOG2_5), m, v_set(LOG2_4));
    p = v_fma(p, m, v_set(LOG2_3));
    p = v_fma(p, m, v_set(LOG2_2));
    p = v_fma(p, m, v_set(LOG2_1));
    return v_fma(p, m, v_exponent_some(x));
}

/* ln x to 2 units in the last place, x normal and positive; ln 1 = 0. m is brought to
 * [sqrt(1/2), sqrt(2)], then ln m = t + t^2 P(t), t = m - 1. */
SIMD_INLINE vf v_ln(vf x)
{
    vf m = v_mantissa(x), e = v_exponent(x);
    vm upper = v_less(v_set(0x1.6a09e6p+0f), m);
    m = v_select(upper, v_mul(m, v_set(0.5f)), m);
    e = v_select(upper, v_add(e, v_set(1)), e);
    vf t = v_sub(m, v_set(1));
    vf p = v_fma(v_set(0x1.6718e2p-4f), t, v_set(-0x1.246ab8p-3f));
    p = v_fma(p, t, v_set(0x1.30f760p-3f));
    p = v_fma(p, t, v_set(-0x1.536c6ep-3f));
    p = v_fma(p, t, v_set(0x1.98e40ap-3f));
    p = v_fma(p, t, v_set(-0x1.000484p-2f));
    p = v_fma(p, t, v_set(0x1.5556b2p-2f));
    p = v_fma(p, t, v_set(-0x1.fffffcp-2f));
    vf ln_m = v_fma(v_mul(t, t), p, t);
    /* ln 2 in two parts, the first short enough for its product with e to be exact. */
    return v_fma(e, v_set(0x1.62e4p-1f), v_fma(e, v_set(0x1.7f7d1cp-20f), ln_m));
}

/* e^x, relative error 1e-7; x is clamped to [-87, 88]. */
SIMD_INLINE vf v_exp(vf x)
{
    x = v_min(v_max(x, v_set(-87)), v_set(88));
    vf k = v_sub(v_fma(x, v_set(0x1.715476p+0f), v_set(0x1.8p23f)), v_set(0x1.8p23f));
    vf r = v_fma(k, v_set(-0x1.62e4p-1f), x);
    r = v_fma(k, v_set(-0x1.7f7d1cp-20f), r);
    vf p = v_fma(v_set(0x1.6d8104p-10f), r, v_set(0x1.126e5cp-7f));
    p = v_fma(p, r, v_set(0x1.5555e6p-5f));
    p = v_fma(p, r, v_set(0x1.555436p-3f));
    p = v_fma(p, r, v_set(0x1.fffffcp-2f));
    p = v_fma(v_mul(r, r), p, r);
    vf scale = v_from_bits(v_shift_left(v_add_i(v_truncate(k), v_set_i(127)), 23));
    return v_fma(scale, p, scale);
}

/* e^x - 1 where EXPM1_LEAST <= x <= EXPM1_MOST, relative error 1e-8 before rounding: no range
 * reduction. */
#define EXPM1_LEAST -0.0625f
#define EXPM1_MOST  2.0f
SIMD_INLINE vf v_expm1(vf x)
{
    vf p = v_fma(v_set(0x1.9c3616p-18f), x, v_set(0x1.ac5fb6p-17f));
    p = v_fma(p, x, v_set(0x1.cb007ap-13f));
    p = v_fma(p, x, v_set(0x1.675028p-10f));
    p = v_fma(p, x, v_set(0x1.1155d8p-7f));
    p = v_fma(p, x, v_set(0x1.55521ap-5f));
    p = v_fma(p, x, v_set(0x1.55555cp-3f));
    p = v_fma(p, x, v_set(0.5f));
    return v_fma(v_mul(x, x), p, x);
}

/* The same where 0 <= x <= EXPM1_SMALL, relative error 4e-9 before rounding. */
#define EXPM1_SMALL 0.25f
SIMD_INLINE vf v_expm1_small(vf x)
{
    vf p = v_fma(v_set(0x1.2e8062p-7f), x, v_set(0x1.53c17ep-5f));
    p = v_fma(p, x, v_set(0x1.555dc8p-3f));
    p = v_fma(p, x, v_set(0x1.ffffe4p-2f));
    return v_fma(v_mul(x, x), p, x);
}

/* The largest f32 not above 2^(m/32): an f32 is above one exactly when it is above the other. */
static const float simd_step_bound[32] = {
    0x1.000000p+0f, 0x1.059b0cp+0f, 0x1.0b5586p+0f, 0x1.11301cp+0f, 0x1.172b82p+0f, 0x1.1d4872p+0f,
    0x1.2387a6p+0f, 0x1.29e9dep+0f, 0x1.306fe0p+0f, 0x1.371a72p+0f, 0x1.3dea64p+0f, 0x1.44e086p+0f,
    0x1.4bfdacp+0f, 0x1.5342b4p+0f, 0x1.5ab07cp+0f, 0x1.6247eap+0f, 0x1.6a09e6p+0f, 0x1.71f75ep+0f,
    0x1.7a1146p+0f, 0x1.825898p+0f, 0x1.8ace54p+0f, 0x1.93737ap+0f, 0x1.9c4918p+0f, 0x1.a5503ap+0f,
    0x1.ae89f8p+0f, 0x1.b7f76ep+0f, 0x1.c199bcp+0f, 0x1.cb720cp+0f, 0x1.d5818cp+0f, 0x1.dfc972p+0f,
    0x1.ea4afap+0f, 0x1.f50764p+0f,
};

/* hist_key of finite x. 32 log2 f, f the mantissa, is first guessed by a parabola to within 0.3,
 * which leaves two candidates for the smallest m with f <= 2^(m/32); the table decides. */
SIMD_INLINE vi v_hist_key(vf x)
{
    vf magnitude = v_abs(x);
    vi bits = v_bits(magnitude);
    vf y = v_sub(v_mantissa(magnitude), v_set(1));
    vf bow = v_mul(v_mul(y, v_sub(v_set(1), y)), v_set(0.344f));
    vi m = v_truncate(v_fma(v_add(y, bow), v_set(32), v_set(0.5f)));
    m = v_min_i(m, v_set_i(31));
    vm above = v_less(v_lookup32(simd_step_bound, m), v_mantissa(magnitude));
    m = v_select_i(above, v_add_i(m, v_set_i(1)), m);
    vi key = v_add_i(v_shift_left(v_sub_i(v_shift_right(bits, 23), v_set_i(127 - 40)), 5), m);
    key = v_min_i(v_add_i(key, v_set_i(1)), v_set_i(HIST_KEY_MAX));
    key = v_select_i(v_less(magnitude, v_set(0x1p-40f)), v_set_i(0), key);
    return v_select_i(v_less(x, v_set(0)), v_sub_i(v_set_i(0), key), key);
}

#endif
