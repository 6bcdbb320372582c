/* SPDX-License-Identifier: MIT */
/* row_reduce: from the lanes of a pass to sums per row, a template over simd_*.h. Lanes of
 * SIMD_WIDTH rows are transposed, and summed with a row to a lane. */
#ifndef WORKERS_ROW_REDUCE_H
#define WORKERS_ROW_REDUCE_H

#include "row_pass.h"

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
    vf x[SIMD_WIDTH];
    rows_to_lanes(pass, LANES_MIN, slot, x);
    for (uint32_t half = W / 2; half > 0; half /= 2) {
        for (uint32_t l = 0; l < half; l++) {
            x[l] = v_min_bits(x[l], x[l + half]);
        }
    }
    return x[0];
}

/* Into `sorted`, descending, the smallest of which falls out. */
SIMD_INLINE void insert_sorted(vf *sorted, uint32_t n, vf x)
{
    for (uint32_t i = 0; i + 1 < n; i++) {
        vf low = v_min_bits(sorted[i], x);
        sorted[i] = v_max_bits(sorted[i], x);
        x = low;
    }
    sorted[n - 1] = v_max_bits(sorted[n - 1], x);
}

/* The 8 largest of the lanes' sorted lists: of level l (from 1) at most 8 / l can be among them.
 * Returns the rows of which a lane's last level is above the eighth: that lane may have had more.
 */
SIMD_INLINE vm top_of(const struct row_pass *pass, uint32_t slot, vf ret_top[TOP_KEYS])
{
    vf last = v_set(0);
    for (uint32_t i = 0; i < TOP_KEYS; i++) {
        ret_top[i] = v_set(0);
    }
    for (uint32_t l = 0; l < SIMD_TOP_LEVELS; l++) {
        vf x[SIMD_WIDTH], best[TOP_KEYS];
        const uint32_t n = TOP_KEYS / (l + 1);
        rows_to_lanes(pass, LANES_TOP + l, slot, x);
        for (uint32_t i = 0; i < n; i++) {
            best[i] = v_set(0);
        }
        for (uint32_t lane = 0; lane < W; lane++) {
            insert_sorted(l == 0 ? ret_top : best, n, x[lane]);
        }
        for (uint32_t i = 0; l > 0 && i < n; i++) {
            insert_sorted(ret_top, TOP_KEYS, best[i]);
        }
        last = best[0];
    }
    return v_less(ret_top[TOP_KEYS - 1], last);
}

SIMD_INLINE vf sum_top(const vf top[TOP_KEYS])
{
    vf a = v_add(v_add(top[7], top[6]), v_add(top[5], top[4]));
    vf b = v_add(v_add(top[3], top[2]), top[1]);
    return v_add(v_add(a, b), top[0]);
}

static uint32_t row_reduce(const struct row_pass *pass, struct row_batch *batch,
                           float ret_eighth[ROW_BATCH])
{
    uint32_t short_of = 0;
    for (uint32_t s = 0; s < ROW_BATCH; s += W) {
        vf sum = sum_of(pass, LANES_SUM, s), plogp = sum_of(pass, LANES_PLOGP, s);
        vf log2 = v_fma(v_set(LOG2_CONSTANT), sum, plogp);
        vf top[TOP_KEYS];
        short_of |= v_mask_bits(top_of(pass, s, top)) << s;
        v_store(batch->rest_sum + s, sum);
        v_store(batch->rest_plogp + s, v_mul(log2, v_set(LN2)));
        v_store(batch->squares + s, sum_of(pass, LANES_SQUARES, s));
        v_store(batch->distance + s, sum_of(pass, LANES_DISTANCE, s));
        v_store(batch->local_mass + s, sum_of(pass, LANES_LOCAL, s));
        v_store(batch->min + s, min_of(pass, s));
        v_store(batch->max + s, top[0]);
        v_store(batch->top + s, sum_top(top));
        v_store(ret_eighth + s, top[TOP_KEYS - 1]);
    }
    return short_of;
}

/* Sums and minima only. */
static void row_reduce_sums(const struct row_pass *pass, struct row_batch *batch)
{
    for (uint32_t s = 0; s < ROW_BATCH; s += W) {
        v_store(batch->rest_sum + s, sum_of(pass, LANES_SUM, s));
        v_store(batch->min + s, min_of(pass, s));
    }
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

/* Adds up what is above `least`, of which at least 8 keys hold as much. When no more than 8 are
 * above, the others of the 8 are equal to it. */
SIMD_INLINE float top_sum(enum dtype dtype, const struct row_job *job, const unsigned char *row,
                          float least)
{
    vf sum = v_set(0), count = v_set(0), one = v_set(1), bound = v_set(least);
    bool holes = job->mask != NULL || job->document != NULL;
    const struct walk w = walk_of(dtype, job, row, row);
    for (uint32_t k = job->begin / W; k * W < job->end; k++) {
        bool whole = !holes && k * W >= job->begin && job->end - k * W >= W;
        vf x = load_any(dtype, &w, k);
        vm above = v_less(bound, x);
        if (!whole) {
            above = v_and(above, valid_lanes(job, job->begin, job->end, k));
        }
        sum = v_select(above, v_add(sum, x), sum);
        count = v_select(above, v_add(count, one), count);
    }
    float lane[2][SIMD_WIDTH], total = 0, above = 0;
    v_store(lane[0], sum);
    v_store(lane[1], count);
    for (uint32_t l = 0; l < W; l++) {
        total += lane[0][l];
        above += lane[1][l];
    }
    return above <= TOP_KEYS ? total + (TOP_KEYS - above) * least : top_sum_deep(dtype, job, row);
}

#define TOP(dtype_name, dtype)                                                                     \
    static float top_##dtype_name(const struct row_job *job, const unsigned char *row,             \
                                  float least)                                                     \
    {                                                                                              \
        return top_sum(dtype, job, row, least);                                                    \
    }
TOP(f32, DTYPE_F32)
TOP(f16, DTYPE_F16)
TOP(bf16, DTYPE_BF16)
TOP(f64, DTYPE_F64)

#endif
