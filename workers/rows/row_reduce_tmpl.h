/* SPDX-License-Identifier: MIT */
/* row_reduce_tmpl: from the lanes of a pass to sums per row, a template over simd.h. Lanes of
 * SIMD_WIDTH rows are transposed, and summed with a row to a lane. */
#ifndef WORKERS_ROWS_ROW_REDUCE_TMPL_H
#define WORKERS_ROWS_ROW_REDUCE_TMPL_H

#include "workers/rows/row_pass_tmpl.h"

#define TOP_KEYS 8

SIMD_INLINE void rows_to_lanes(const struct row_pass *pass, uint32_t quantity, uint32_t slot,
                               vf ret_lane[SIMD_WIDTH])
{
    for (uint32_t l = 0; l < W; l++) {
        ret_lane[l] = v_load(pass->lanes[quantity] + (slot + l) * W);
    }
    v_transpose(ret_lane);
}

SIMD_INLINE vf sum_of(const struct row_pass *pass, uint32_t quantity, uint32_t slot)
{
    return v_sum_rows(pass->lanes[quantity] + slot * W);
}

SIMD_INLINE vf min_of(const struct row_pass *pass, uint32_t slot)
{
    return v_min_rows(pass->lanes[LANES_MIN] + slot * W);
}

SIMD_INLINE void exchange(vf *high, vf *low)
{
    vf a = *high, b = *low;
    *high = v_max_bits(a, b);
    *low = v_min_bits(a, b);
}

/* Into s[0..n), descending, of which the least falls out; n is known where this is called, and the
 * steps are written out for them to stay in registers. */
SIMD_INLINE void insert_sorted(vf *s, uint32_t n, vf x)
{
    if (n > 1) {
        exchange(&s[0], &x);
    }
    if (n > 2) {
        exchange(&s[1], &x);
    }
    if (n > 4) {
        exchange(&s[2], &x);
        exchange(&s[3], &x);
        exchange(&s[4], &x);
        exchange(&s[5], &x);
        exchange(&s[6], &x);
    } else if (n > 3) {
        exchange(&s[2], &x);
    }
    s[n - 1] = v_max_bits(s[n - 1], x);
}

/* Sorts what rises and then falls, or the reverse. */
SIMD_INLINE void sort_bitonic(vf s[TOP_KEYS])
{
    exchange(&s[0], &s[4]);
    exchange(&s[1], &s[5]);
    exchange(&s[2], &s[6]);
    exchange(&s[3], &s[7]);
    for (uint32_t i = 0; i < TOP_KEYS; i += 4) {
        exchange(&s[i], &s[i + 2]);
        exchange(&s[i + 1], &s[i + 3]);
        exchange(&s[i], &s[i + 1]);
        exchange(&s[i + 2], &s[i + 3]);
    }
}

/* Batcher's odd-even merge sort, descending. */
SIMD_INLINE void sort_8(vf s[TOP_KEYS])
{
    for (uint32_t i = 0; i < TOP_KEYS; i += 4) {
        exchange(&s[i], &s[i + 1]);
        exchange(&s[i + 2], &s[i + 3]);
        exchange(&s[i], &s[i + 2]);
        exchange(&s[i + 1], &s[i + 3]);
        exchange(&s[i + 1], &s[i + 2]);
    }
    exchange(&s[0], &s[4]);
    exchange(&s[1], &s[5]);
    exchange(&s[2], &s[6]);
    exchange(&s[3], &s[7]);
    exchange(&s[2], &s[4]);
    exchange(&s[3], &s[5]);
    exchange(&s[1], &s[2]);
    exchange(&s[3], &s[4]);
    exchange(&s[5], &s[6]);
}

/* The 8 largest of each row's lane maxima, descending. */
SIMD_INLINE void top_of_maxima(const struct row_pass *pass, uint32_t slot, vf ret_top[TOP_KEYS])
{
    vf x[SIMD_WIDTH < 8 ? 8 : SIMD_WIDTH];
    for (uint32_t i = W; i < TOP_KEYS; i++) {
        x[i] = v_set(0);
    }
    rows_to_lanes(pass, LANES_TOP, slot, x);
    sort_8(x);
#if SIMD_WIDTH == 16
    sort_8(x + 8);
    for (uint32_t i = 0; i < TOP_KEYS; i++) {
        x[i] = v_max_bits(x[i], x[15 - i]);
    }
    sort_bitonic(x);
#endif
    memcpy(ret_top, x, TOP_KEYS * sizeof x[0]);
}

/* In level l (from 1) at most n = 8 / l can be among the 8 largest. Inserts them. */
SIMD_INLINE void insert_level(const struct row_pass *pass, uint32_t l, uint32_t n, uint32_t slot,
                              vf lower[TOP_KEYS], vf *ret_largest)
{
    vf x[SIMD_WIDTH], best[4];
    rows_to_lanes(pass, LANES_TOP + l - 1, slot, x);
    for (uint32_t i = 0; i < 4; i++) {
        best[i] = v_set(0);
    }
    for (uint32_t lane = 0; lane < W; lane++) {
        insert_sorted(best, n, x[lane]);
    }
    for (uint32_t i = 0; i < 4 && i < n; i++) {
        insert_sorted(lower, TOP_KEYS, best[i]);
    }
    *ret_largest = best[0];
}

/* The 8 largest of the lanes' sorted lists, in no order, and the least of them. Returns the rows of
 * which a lane's last level is above that: the lane may have had more. */
SIMD_INLINE vm top_of(const struct row_pass *pass, uint32_t slot, vf ret_top[TOP_KEYS],
                      vf *ret_least, vf *ret_max)
{
    vf lower[TOP_KEYS], last;
    for (uint32_t i = 0; i < TOP_KEYS; i++) {
        lower[i] = v_set(0);
    }
    insert_level(pass, 2, 4, slot, lower, &last);
    insert_level(pass, 3, 2, slot, lower, &last);
#if SIMD_TOP_LEVELS > 3
    insert_level(pass, 4, 2, slot, lower, &last);
#endif
#if SIMD_TOP_LEVELS > 4
    insert_level(pass, 5, 1, slot, lower, &last);
#endif
    top_of_maxima(pass, slot, ret_top);
    *ret_max = ret_top[0];
    /* Merges two sorted lists: the larger of i-th and (9 - i)-th. */
    for (uint32_t i = 0; i < TOP_KEYS; i++) {
        ret_top[i] = v_max_bits(ret_top[i], lower[TOP_KEYS - 1 - i]);
    }
    vf a = v_min_bits(v_min_bits(ret_top[0], ret_top[1]), v_min_bits(ret_top[2], ret_top[3]));
    vf b = v_min_bits(v_min_bits(ret_top[4], ret_top[5]), v_min_bits(ret_top[6], ret_top[7]));
    *ret_least = v_min_bits(a, b);
    return v_less(*ret_least, last);
}

SIMD_INLINE vf sum_top(const vf top[TOP_KEYS])
{
    vf a = v_add(v_add(top[0], top[1]), v_add(top[2], top[3]));
    vf b = v_add(v_add(top[4], top[5]), v_add(top[6], top[7]));
    return v_add(a, b);
}

/* Share of the squares about 0 below which those about the mean have lost too much to f32. */
#define SQUARES_LOST 0x1p-5f

/* sum (A - mean)^2 = sum A^2 - S mean */
SIMD_INLINE vf squares_about_mean(const struct row_batch *batch, uint32_t s, vf squares,
                                  vf rest_sum)
{
    vf sum = v_add(rest_sum, v_load(batch->first + s));
    vf mean = v_div(sum, v_load(batch->keys + s));
    return v_max(v_sub(squares, v_mul(sum, mean)), v_set(0));
}

static struct row_doubts row_reduce(const struct row_pass *pass, struct row_batch *batch,
                                    float ret_eighth[ROW_BATCH])
{
    struct row_doubts doubts = {0};
    for (uint32_t s = 0; s < ROW_BATCH; s += W) {
        vf sum = sum_of(pass, LANES_SUM, s), plogp = sum_of(pass, LANES_PLOGP, s);
        vf log2 = v_fma(v_set(LOG2_CONSTANT), sum, plogp);
        vf top[TOP_KEYS], least, max;
        doubts.top |= v_mask_bits(top_of(pass, s, top, &least, &max)) << s;
        v_store(batch->rest_sum + s, sum);
        v_store(batch->rest_plogp + s, v_mul(log2, v_set(LN2)));
        v_store(batch->unit_sum + s, sum);
        v_store(batch->unit_plogp + s, v_mul(log2, v_set(LN2)));
        vf about_zero = sum_of(pass, LANES_SQUARES, s);
        vf about_mean = squares_about_mean(batch, s, about_zero, sum);
        vm uniform = v_less(about_mean, v_mul(about_zero, v_set(SQUARES_LOST)));
        doubts.squares |= v_mask_bits(uniform) << s;
        v_store(batch->squares + s, about_mean);
        v_store(batch->distance + s, sum_of(pass, LANES_DISTANCE, s));
        v_store(batch->local_mass + s, sum_of(pass, LANES_LOCAL, s));
        v_store(batch->min + s, min_of(pass, s));
        v_store(batch->max + s, max);
        v_store(batch->top + s, sum_top(top));
        v_store(ret_eighth + s, least);
    }
    return doubts;
}

/* Sums and minima only. */
static void row_reduce_sums(const struct row_pass *pass, struct row_batch *batch)
{
    for (uint32_t s = 0; s < ROW_BATCH; s += W) {
        v_store(batch->rest_sum + s, sum_of(pass, LANES_SUM, s));
        v_store(batch->min + s, min_of(pass, s));
    }
}

static uint32_t row_ordinary(const struct row_batch *batch, float least, float most, bool core,
                             float *ret_error)
{
    uint32_t bits = 0;
    vf error = v_set(0), zero = v_set(0), huge = v_set(FLT_MAX);
    for (uint32_t s = 0; s < ROW_BATCH; s += W) {
        vf rest = v_load(batch->rest_sum + s), sum = v_add(rest, v_load(batch->first + s));
        vm good = v_and(v_less_equal(v_set(least), sum), v_less_equal(sum, v_set(most)));
        good = v_and(good, v_less_i(v_set_i(-1), v_bits(v_load(batch->min + s))));
        if (core) {
            vm some = v_or(v_less_equal(rest, zero), v_less_equal(v_set(ROW_REST_LEAST), rest));
            vf plogp = v_load(batch->rest_plogp + s);
            vm small =
                v_and(v_less_equal(v_set(ROW_PLOGP_LEAST), plogp), v_less_equal(plogp, huge));
            vm finite = v_and(v_less_equal(v_load(batch->squares + s), huge),
                              v_less_equal(v_load(batch->distance + s), huge));
            good = v_and(v_and(good, some), v_and(small, finite));
        }
        uint32_t used = batch->used > s ? batch->used - s : 0;
        good = v_and(good, v_mask_of_bits(used >= W ? ~0u : (1u << used) - 1));
        error = v_max(v_select(good, v_abs(v_sub(sum, v_set(1))), zero), error);
        bits |= v_mask_bits(good) << s;
    }
    *ret_error = v_most(error);
    return bits;
}

/* Eight levels deep, so that nothing can be lost; then the lanes one by one. */
SIMD_INLINE float top_sum_deep(enum dtype dtype, const struct row_job *job,
                               const unsigned char *row)
{
    const struct walk w = walk_of(dtype, job, row, row);
    vf top[TOP_KEYS];
    for (uint32_t i = 0; i < TOP_KEYS; i++) {
        top[i] = v_set(0);
    }
    for (uint32_t k = job->begin / W; k * W < job->end; k++) {
        vf x =
            v_select(valid_lanes(job, job->begin, job->end, k), load_any(dtype, &w, k), v_set(0));
        insert_sorted(top, TOP_KEYS, x);
    }
    float lane[TOP_KEYS][SIMD_WIDTH];
    uint32_t depth[SIMD_WIDTH] = {0};
    for (uint32_t i = 0; i < TOP_KEYS; i++) {
        v_store(lane[i], top[i]);
    }
    float sum = 0;
    for (uint32_t i = 0; i < TOP_KEYS; i++) {
        uint32_t best = 0;
        for (uint32_t l = 1; l < W; l++) {
            best = lane[depth[l]][l] > lane[depth[best]][best] ? l : best;
        }
        sum += lane[depth[best]][best];
        depth[best] = depth[best] + 1 < TOP_KEYS ? depth[best] + 1 : depth[best];
    }
    return sum;
}

struct above {
    vf sum, count;
};

SIMD_INLINE void add_above(struct above *above, vf least, vf x)
{
    vf more = v_select(v_less(least, x), v_set(1), v_set(0));
    above->sum = v_fma(more, x, above->sum);
    above->count = v_add(above->count, more);
}

/* Adds up what is above `least`, of which at least 8 keys hold as much. When no more than 8 are
 * above, the others of the 8 are equal to it. */
SIMD_INLINE float top_sum(enum dtype dtype, const struct row_job *job, const unsigned char *row,
                          float least)
{
    struct above above = {v_set(0), v_set(0)};
    const struct walk w = walk_of(dtype, job, row, row);
    bool holes = job->holes.mask || job->holes.document;
    uint32_t k_end = (job->end + W - 1) / W, whole = holes ? 0 : job->end / W;
    for (uint32_t k = job->begin / W; k < k_end; k++) {
        if (k * W >= job->begin) {
            for (; k < whole; k++) {
                add_above(&above, v_set(least), load_whole(dtype, &w, k));
            }
        }
        if (k < k_end) {
            vm valid = valid_lanes(job, job->begin, job->end, k);
            add_above(&above, v_set(least), v_select(valid, load_any(dtype, &w, k), v_set(0)));
        }
    }
    float keys = v_sum(above.count);
    return keys <= TOP_KEYS ? v_sum(above.sum) + (TOP_KEYS - keys) * least
                            : top_sum_deep(dtype, job, row);
}

SIMD_INLINE float squares_sum(enum dtype dtype, const struct row_job *job, const unsigned char *row,
                              float mean)
{
    const struct walk w = walk_of(dtype, job, row, row);
    double total = 0;
    uint32_t k_end = (job->end + W - 1) / W;
    for (uint32_t k = job->begin / W; k < k_end;) {
        uint32_t k1 = k_end - k > SEGMENT ? k + SEGMENT : k_end;
        vf sum = v_set(0);
        for (; k < k1; k++) {
            vm valid = valid_lanes(job, job->begin, job->end, k);
            vf off = v_sub(load_any(dtype, &w, k), v_set(mean));
            off = v_select(valid, off, v_set(0));
            sum = v_fma(off, off, sum);
        }
        total += vd_sum(v_widen(sum));
    }
    return (float)total;
}

#define SECOND_LOOK(dtype_name, dtype)                                                             \
    static float top_##dtype_name(const struct row_job *job, const unsigned char *row,             \
                                  float least)                                                     \
    {                                                                                              \
        return top_sum(dtype, job, row, least);                                                    \
    }                                                                                              \
    static float squares_##dtype_name(const struct row_job *job, const unsigned char *row,         \
                                      float mean)                                                  \
    {                                                                                              \
        return squares_sum(dtype, job, row, mean);                                                 \
    }
SECOND_LOOK(f32, DTYPE_F32)
SECOND_LOOK(f16, DTYPE_F16)
SECOND_LOOK(bf16, DTYPE_BF16)
SECOND_LOOK(f64, DTYPE_F64)

#endif
