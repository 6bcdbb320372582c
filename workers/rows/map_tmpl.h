/* SPDX-License-Identifier: MIT */
/* map_tmpl: passes over rows as sent and rows of the across-head maps, a template over simd.h. */
#ifndef WORKERS_ROWS_MAP_TMPL_H
#define WORKERS_ROWS_MAP_TMPL_H

#include "workers/rows/row_pass_tmpl.h"

SIMD_INLINE double lanes_total(vf x)
{
    return vd_sum(v_widen(x));
}

/* The first n - j lanes of x, `other` in the others. */
SIMD_INLINE vf keep_part(vf x, uint32_t j, uint32_t n, vf other)
{
    return n - j >= W ? x : v_select(v_mask_of_bits((1u << (n - j)) - 1), x, other);
}

/* Sums and extremes of the elements of a row; squares are of deviations from `about`. */
struct spread {
    vf sum, squares, min, max;
};

SIMD_INLINE void add_spread(struct spread *s, vf x, vf deviation)
{
    s->sum = v_add(s->sum, x);
    s->squares = v_fma(deviation, deviation, s->squares);
}

/* A row's elements about a mean that is near, as 1 / keys is of a distribution: f32 lanes are
 * folded every SEGMENT vectors. Returns their moments, m2 not yet brought to the mean. */
SIMD_INLINE struct moments spread_of(enum dtype dtype, const struct walk *row, float about)
{
    double sum = 0, m2 = 0;
    uint32_t n = row->keys, whole = n / W;
    struct spread s = {.min = v_set(INFINITY), .max = v_set(-INFINITY)};
    for (uint32_t k = 0; k < whole;) {
        uint32_t end = whole - k > SEGMENT ? k + SEGMENT : whole;
        s.sum = s.squares = v_set(0);
        for (; k < end; k++) {
            vf x = load_whole(dtype, row, k);
            add_spread(&s, x, v_sub(x, v_set(about)));
            s.min = v_min(x, s.min);
            s.max = v_max(x, s.max);
        }
        sum += lanes_total(s.sum);
        m2 += lanes_total(s.squares);
    }
    if (n % W != 0) {
        vf x = load_any(dtype, row, whole), zero = v_set(0);
        s.sum = s.squares = zero;
        add_spread(&s, x, keep_part(v_sub(x, v_set(about)), whole * W, n, zero));
        s.min = v_min(keep_part(x, whole * W, n, s.min), s.min);
        s.max = v_max(keep_part(x, whole * W, n, s.max), s.max);
        sum += lanes_total(s.sum);
        m2 += lanes_total(s.squares);
    }
    return (struct moments){.n = n,
                            .mean = sum / n,
                            .m2 = m2,
                            .min = (double)v_least(s.min),
                            .max = (double)v_most(s.max)};
}

/* The share of m2 about a value that is about the mean; below it f32 has lost too much. */
#define SPREAD_LEFT 0.5

SIMD_INLINE struct moments moments_of(enum dtype dtype, const struct walk *row)
{
    float about = 1 / (float)row->keys;
    struct moments m = spread_of(dtype, row, about);
    double off = m.mean - (double)about, m2 = m.m2 - (double)m.n * off * off;
    if (m2 < SPREAD_LEFT * m.m2) {
        about = (float)m.mean;
        off = m.mean - (double)about;
        m2 = spread_of(dtype, row, about).m2 - (double)m.n * off * off;
    }
    m.m2 = m2 < 0 ? 0 : m2; /* NaN stays */
    return m;
}

/* The state of one map while it is made. */
struct map_sums {
    vf sum, min, max, squares, mean;
};

/* The sum by an fma: additions and comparisons share two of the four pipes of a Zen 4. */
SIMD_INLINE void add_entries(struct map_sums *m, vf x)
{
    m->sum = v_fma(x, v_set(1), m->sum);
    m->min = v_min(x, m->min);
    m->max = v_max(x, m->max);
}

SIMD_INLINE void add_deviations(struct map_sums *m, vf x)
{
    vf off = v_sub(x, m->mean);
    m->squares = v_fma(off, off, m->squares);
}

SIMD_INLINE struct moments finish_map(const struct map_sums *m, double sum, double squares,
                                      uint32_t n)
{
    double mean = sum / n, off = mean - (double)(float)mean;
    double m2 = squares - n * off * off;
    return (struct moments){.n = n,
                            .mean = mean,
                            .m2 = m2 < 0 ? 0 : m2, /* NaN stays */
                            .min = (double)v_least(m->min),
                            .max = (double)v_most(m->max)};
}

/* The lanes of the last vector that are entries. */
SIMD_INLINE vm last_lanes(uint32_t n)
{
    return v_mask_of_bits((1u << n % W) - 1);
}

SIMD_INLINE void add_both(struct map_sums *a, struct map_sums *b, const float *maps)
{
    add_entries(a, v_load(maps));
    add_entries(b, v_load(maps + W));
}

/* Sums and extremes of both maps. */
SIMD_INLINE void sum_maps(const float *maps, uint32_t n, struct map_sums *a, struct map_sums *b,
                          double ret_total[2])
{
    uint32_t whole = n / W;
    for (uint32_t k = 0; k < whole;) {
        uint32_t end = whole - k > SEGMENT ? k + SEGMENT : whole;
        a->sum = b->sum = v_set(0);
        for (; k < end; k++) {
            add_both(a, b, maps + (size_t)k * 2 * W);
        }
        ret_total[0] += lanes_total(a->sum);
        ret_total[1] += lanes_total(b->sum);
    }
    if (n % W != 0) {
        const float *last = maps + (size_t)whole * 2 * W;
        vf x = v_load(last), y = v_load(last + W);
        vm rest = last_lanes(n);
        ret_total[0] += lanes_total(v_select(rest, x, v_set(0)));
        ret_total[1] += lanes_total(v_select(rest, y, v_set(0)));
        a->min = v_min(v_select(rest, x, a->min), a->min);
        a->max = v_max(v_select(rest, x, a->max), a->max);
        b->min = v_min(v_select(rest, y, b->min), b->min);
        b->max = v_max(v_select(rest, y, b->max), b->max);
    }
}

/* Squared deviations from the means. */
SIMD_INLINE void square_maps(const float *maps, uint32_t n, struct map_sums *a, struct map_sums *b,
                             double ret_squares[2])
{
    uint32_t whole = n / W;
    for (uint32_t k = 0; k < whole;) {
        uint32_t end = whole - k > SEGMENT ? k + SEGMENT : whole;
        a->squares = b->squares = v_set(0);
        for (; k < end; k++) {
            add_deviations(a, v_load(maps + (size_t)k * 2 * W));
            add_deviations(b, v_load(maps + (size_t)k * 2 * W + W));
        }
        ret_squares[0] += lanes_total(a->squares);
        ret_squares[1] += lanes_total(b->squares);
    }
    if (n % W != 0) {
        const float *last = maps + (size_t)whole * 2 * W;
        vm rest = last_lanes(n);
        a->squares = b->squares = v_set(0);
        add_deviations(a, v_select(rest, v_load(last), a->mean));
        add_deviations(b, v_select(rest, v_load(last + W), b->mean));
        ret_squares[0] += lanes_total(a->squares);
        ret_squares[1] += lanes_total(b->squares);
    }
}

/* Sums and extremes, then squared deviations from the f32 mean, which are corrected for what that
 * is off by. */
static void map_moments(const float *maps, uint32_t n, struct moments ret_map[2])
{
    struct map_sums a = {.min = v_set(INFINITY), .max = v_set(-INFINITY)}, b = a;
    double total[2] = {0}, squares[2] = {0};
    sum_maps(maps, n, &a, &b, total);
    a.mean = v_set((float)(total[0] / n));
    b.mean = v_set((float)(total[1] / n));
    square_maps(maps, n, &a, &b, squares);
    ret_map[0] = finish_map(&a, total[0], squares[0], n);
    ret_map[1] = finish_map(&b, total[1], squares[1], n);
}

/* Entries of the maps that are finite, of vector k; those of the maximum also only where no head
 * has a NaN, which the sum shows. */
struct map_finite {
    vf sum, max;
    vm in_sum, in_max;
};

SIMD_INLINE struct map_finite finite_at(const float *maps, uint32_t n, uint32_t k)
{
    uint32_t left = n - k * W;
    vm lanes = v_mask_of_bits(left >= W ? ~0u : (1u << left) - 1);
    struct map_finite f = {.sum = v_load(maps + (size_t)k * 2 * W),
                           .max = v_load(maps + (size_t)k * 2 * W + W)};
    vf size = v_abs(f.sum), huge = v_set(FLT_MAX);
    f.in_sum = v_and(lanes, v_less_equal(size, huge));
    f.in_max =
        v_and(v_and(lanes, v_less_equal(size, v_set(INFINITY))), v_less_equal(v_abs(f.max), huge));
    return f;
}

SIMD_INLINE void add_finite(struct map_sums *m, vf *count, vf x, vm in)
{
    m->sum = v_add(m->sum, v_select(in, x, v_set(0)));
    m->min = v_min(v_select(in, x, m->min), m->min);
    m->max = v_max(v_select(in, x, m->max), m->max);
    *count = v_add(*count, v_select(in, v_set(1), v_set(0)));
}

/* As map_moments, of the finite entries alone. */
static void map_moments_finite(const float *maps, uint32_t n, struct moments ret_map[2])
{
    struct map_sums a = {.min = v_set(INFINITY), .max = v_set(-INFINITY)}, b = a;
    double total[2] = {0}, count[2] = {0}, squares[2] = {0};
    uint32_t k_end = (n + W - 1) / W;
    for (uint32_t k = 0; k < k_end;) {
        uint32_t end = k_end - k > SEGMENT ? k + SEGMENT : k_end;
        vf in_a = v_set(0), in_b = v_set(0);
        a.sum = b.sum = v_set(0);
        for (; k < end; k++) {
            struct map_finite f = finite_at(maps, n, k);
            add_finite(&a, &in_a, f.sum, f.in_sum);
            add_finite(&b, &in_b, f.max, f.in_max);
        }
        total[0] += lanes_total(a.sum);
        total[1] += lanes_total(b.sum);
        count[0] += lanes_total(in_a);
        count[1] += lanes_total(in_b);
    }
    a.mean = v_set((float)(total[0] / count[0]));
    b.mean = v_set((float)(total[1] / count[1]));
    for (uint32_t k = 0; k < k_end;) {
        uint32_t end = k_end - k > SEGMENT ? k + SEGMENT : k_end;
        a.squares = b.squares = v_set(0);
        for (; k < end; k++) {
            struct map_finite f = finite_at(maps, n, k);
            add_deviations(&a, v_select(f.in_sum, f.sum, a.mean));
            add_deviations(&b, v_select(f.in_max, f.max, b.mean));
        }
        squares[0] += lanes_total(a.squares);
        squares[1] += lanes_total(b.squares);
    }
    ret_map[0] = ret_map[1] = (struct moments){0};
    if (count[0] > 0) {
        ret_map[0] = finish_map(&a, total[0], squares[0], (uint32_t)count[0]);
    }
    if (count[1] > 0) {
        ret_map[1] = finish_map(&b, total[1], squares[1], (uint32_t)count[1]);
    }
}

/* With P and N the sums of the positive and of the negative entries, P <= H max and N = P - sum,
 * and the f32 sum is off by at most (H - 1) 2^-24 (P + N); doubled, for what is rounded here. */
SIMD_INLINE vf upper_of(const float *maps, uint32_t heads)
{
    float h = (float)heads;
    vf s = v_load(maps), m = v_max(v_load(maps + W), v_set(0));
    vf size = v_fma(m, v_set(2 * h), v_abs(s));
    return v_add(v_fma(size, v_set(h * 0x1p-22f), s), v_set(FLT_MIN));
}

static void map_add_upper(float *upper, const float *maps, uint32_t n, uint32_t heads)
{
    for (uint32_t j = 0; j < n; j += W) {
        v_store(upper + j, v_add(v_load(upper + j), upper_of(maps + 2 * (size_t)j, heads)));
    }
}

static void map_add_upper_finite(float *upper, float *missing, const float *maps, uint32_t n,
                                 uint32_t heads)
{
    for (uint32_t j = 0; j < n; j += W) {
        vm in = finite_at(maps, n, j / W).in_sum;
        vf most = v_select(in, upper_of(maps + 2 * (size_t)j, heads), v_set(0));
        v_store(upper + j, v_add(v_load(upper + j), most));
        v_store(missing + j, v_add(v_load(missing + j), v_select(in, v_set(0), v_set(1))));
    }
}

/* In f64, whatever the number of rows that are added up. */
static void map_add_sums(double *sum, const float *maps, uint32_t n)
{
    for (uint32_t j = 0; j < n; j += W) {
        for (uint32_t l = 0; l < W; l++) {
            sum[j + l] += (double)maps[2 * (size_t)j + l];
        }
    }
}

static uint32_t map_find(const float *x, uint32_t begin, uint32_t n, float bound)
{
    for (uint32_t j = begin; j < n; j += W) {
        if (v_any(v_less_equal(v_set(bound), keep_part(v_load(x + j), j, n, v_set(NAN))))) {
            return j;
        }
    }
    return n;
}

/* Head after head in f64, as the reference adds them. */
SIMD_INLINE void head_sums(enum dtype dtype, const unsigned char *row, size_t stride,
                           uint32_t heads, uint32_t n, double *ret_sum)
{
    double sum[SIMD_WIDTH] = {0};
    for (uint32_t h = 0; h < heads; h++, row += stride) {
        double x[SIMD_WIDTH] = {0};
        if (dtype == DTYPE_F64) {
            memcpy(x, row, n * sizeof x[0]);
        } else {
            float part[SIMD_WIDTH];
            v_store(part, n == W ? v_load_as(dtype, row) : v_load_part_as(dtype, row, n));
            for (uint32_t l = 0; l < W; l++) {
                x[l] = (double)part[l];
            }
        }
        for (uint32_t l = 0; l < W; l++) {
            sum[l] += x[l];
        }
    }
    memcpy(ret_sum, sum, n * sizeof sum[0]);
}

/* sum e^a - 1, sum a (e^a - 1); `small`: every a is in the range of v_expm1_small. */
SIMD_INLINE void expm1_sums(enum dtype dtype, bool small, const struct walk *row, double *ret_expm1,
                            double *ret_a_expm1)
{
    double expm1 = 0, a_expm1 = 0;
    uint32_t k_end = (row->keys + W - 1) / W;
    for (uint32_t k = 0; k < k_end;) {
        uint32_t end = k_end - k > SEGMENT ? k + SEGMENT : k_end;
        vf z = v_set(0), w = v_set(0);
        for (; k < end; k++) {
            vf a = load_any(dtype, row, k), e = small ? v_expm1_small(a) : v_expm1(a);
            z = v_add(z, e);
            w = v_fma(a, e, w);
        }
        expm1 += lanes_total(z);
        a_expm1 += lanes_total(w);
    }
    *ret_expm1 = expm1;
    *ret_a_expm1 = a_expm1;
}

SIMD_INLINE bool importance_row(enum dtype dtype, const unsigned char *row, uint32_t keys,
                                struct importance_sums *ret_sums)
{
    struct walk job = {.row = row, .keys = keys};
    struct moments m = moments_of(dtype, &job);
    /* NaN shows in the mean, wherever minimum and maximum leave it. */
    if (!(m.min >= (double)EXPM1_LEAST && m.max <= (double)EXPM1_MOST && isfinite(m.mean))) {
        return false;
    }
    double expm1, a_expm1;
    if (m.min >= 0 && m.max <= (double)EXPM1_SMALL) {
        expm1_sums(dtype, true, &job, &expm1, &a_expm1);
    } else {
        expm1_sums(dtype, false, &job, &expm1, &a_expm1);
    }
    *ret_sums =
        (struct importance_sums){.expm1 = expm1, .a_exp = a_expm1 + m.mean * keys, .entries = m};
    return true;
}

SIMD_INLINE float finite_most(enum dtype dtype, const unsigned char *row, uint32_t keys)
{
    struct walk job = {.row = row, .keys = keys};
    vf most = v_set(0);
    for (uint32_t k = 0; k * W < keys; k++) {
        vf size = v_abs(load_any(dtype, &job, k));
        most = v_max(v_select(v_less_equal(size, v_set(FLT_MAX)), size, v_set(0)), most);
    }
    return dtype == DTYPE_F64 ? INFINITY : v_most(most);
}

#define MAP_KERNELS(dtype_name, dtype)                                                             \
    static float finite_most_##dtype_name(const unsigned char *row, uint32_t keys)                 \
    {                                                                                              \
        return finite_most(dtype, row, keys);                                                      \
    }                                                                                              \
    static bool importance_##dtype_name(const unsigned char *row, uint32_t keys,                   \
                                        struct importance_sums *ret_sums)                          \
    {                                                                                              \
        return importance_row(dtype, row, keys, ret_sums);                                         \
    }                                                                                              \
    static void head_sums_##dtype_name(const unsigned char *row, size_t stride, uint32_t heads,    \
                                       uint32_t n, double *ret_sum)                                \
    {                                                                                              \
        head_sums(dtype, row, stride, heads, n, ret_sum);                                          \
    }
MAP_KERNELS(f32, DTYPE_F32)
MAP_KERNELS(f16, DTYPE_F16)
MAP_KERNELS(bf16, DTYPE_BF16)
MAP_KERNELS(f64, DTYPE_F64)

#endif
