/* SPDX-License-Identifier: MIT */
/* row_finish_tmpl: the kernels of row_batch, a template over simd.h. */
#ifndef WORKERS_ROWS_ROW_FINISH_TMPL_H
#define WORKERS_ROWS_ROW_FINISH_TMPL_H

#include "workers/rows/row_batch.h"
#include "workers/simd/math.h"

#include <float.h>

SIMD_INLINE vf v_where(vm m, vf x)
{
    return v_select(m, x, v_set(NAN));
}

/* Weights below FLT_MIN leave at most that times its logarithm each: all of a row stay below. */
#define ENTROPY_NOTHING 1e-30f

/* H of the whole row, in nats. A distribution has no negative entropy; what rounding makes negative
 * is 0, unless a weight above 1 (after dropout) means it, and one weight alone has exactly 0. */
SIMD_INLINE vf v_row_entropy(vf rest_plogp, vf first, vf max)
{
    vf own = v_mul(first, v_ln(v_max(first, v_set(FLT_MIN))));
    vf h = v_sub(v_sub(v_set(0), rest_plogp), own);
    vm rounded = v_and(v_less(h, v_set(ENTROPY_NOTHING)), v_less_equal(max, v_set(1)));
    return v_select(rounded, v_set(0), h);
}

/* The rest made a distribution: shares A / s have the entropy ln s - (sum A ln A) / s, in any unit
 * of A. */
SIMD_INLINE vf v_sans_first(vf rest_plogp, vf s, vf rest_keys)
{
    vf positive = v_max(s, v_set(FLT_MIN));
    vf h = v_sub(v_ln(positive), v_div(rest_plogp, positive));
    h = v_select(v_less(h, v_set(ENTROPY_NOTHING)), v_set(0), h);
    return v_div(h, v_ln(v_max(rest_keys, v_set(2))));
}

_Static_assert(METRIC_ROW_COUNT <= 32, "one bit each");

/* Makes the weights of SIMD_WIDTH slots from `s` shares of their sum; those of rows that sum to 0
 * are NaN. */
SIMD_INLINE void divide_by_sums(struct row_batch *b, uint32_t s)
{
    float *const share[] = {b->first,      b->max,       b->top,         b->distance,
                            b->local_mass, b->diagonal,  b->first_token, b->previous,
                            b->next,       b->induction, b->duplicate};
    vf rest = v_load(b->rest_sum + s), sum = v_add(rest, v_load(b->first + s));
    vf log = v_ln(v_max(sum, v_set(FLT_MIN)));
    vf plogp = v_sub(v_load(b->rest_plogp + s), v_mul(rest, log));
    v_store(b->rest_plogp + s, v_div(plogp, sum));
    for (size_t k = 0; k < sizeof share / sizeof share[0]; k++) {
        v_store(share[k] + s, v_div(v_load(share[k] + s), sum));
    }
}

/* SIMD_WIDTH slots from `s`; `sent`: before they were divided. */
SIMD_INLINE uint32_t finish_slots(const struct row_batch *b, const struct row_batch *sent,
                                  uint32_t s, float *const ret_value[METRIC_ROW_COUNT])
{
    vm sound = v_less(v_set(0), v_load(b->sound + s));
    vf keys = v_load(b->keys + s), sum = v_add(v_load(sent->rest_sum + s), v_load(sent->first + s));
    vf rest_plogp = v_load(b->rest_plogp + s), first = v_load(b->first + s);
    vf max = v_load(b->max + s), distance = v_load(b->distance + s);
    vf largest = v_load(b->largest_distance + s);
    vf h = v_row_entropy(rest_plogp, first, max);
    vf normalized = v_div(h, v_ln(v_max(keys, v_set(2))));
    vf unit_sum = v_load(b->unit_sum + s);
    vf sans = v_sans_first(v_load(b->unit_plogp + s), unit_sum, v_load(b->rest_keys + s));
    vm has_two = v_less(v_set(1), keys);
    vm has_rest = v_and(v_less(v_set(2), keys), v_less(v_set(0), unit_sum));
    const vf value[METRIC_ROW_COUNT] = {
        [METRIC_ENTROPY] = h,
        [METRIC_ENTROPY_NORMALIZED] = v_where(has_two, normalized),
        [METRIC_EFFECTIVE_KEYS] = v_where(v_less_equal(h, h), v_exp(h)), /* of NaN it may be any */
        [METRIC_CONFIDENCE] = max,
        [METRIC_DIAGONAL] = v_load(b->diagonal + s),
        [METRIC_LOCAL_MASS] = v_load(b->local_mass + s),
        [METRIC_MEAN_DISTANCE] = distance,
        [METRIC_MEAN_DISTANCE_NORMALIZED] =
            v_where(v_less(v_set(0), largest), v_div(distance, v_max(largest, v_set(FLT_MIN)))),
        [METRIC_PREVIOUS_TOKEN] = v_load(b->previous + s),
        [METRIC_NEXT_TOKEN] = v_load(b->next + s),
        [METRIC_FIRST_TOKEN] = v_load(b->first_token + s),
        [METRIC_ENTROPY_SANS_FIRST] = v_where(has_rest, sans),
        [METRIC_TAIL_MASS] = v_sub(v_set(1), v_load(b->top + s)),
        [METRIC_INDUCTION] = v_load(b->induction + s),
        [METRIC_DUPLICATE_TOKEN] = v_load(b->duplicate + s),
        [METRIC_SINK_DEFICIT] = v_sub(v_set(1), sum),
        [METRIC_MAX_LOGIT] = v_load(b->max_logit + s),
    };
    uint32_t gaps = 0, left = b->used > s ? b->used - s : 0;
    uint32_t used = (1u << (left < SIMD_WIDTH ? left : SIMD_WIDTH)) - 1;
    for (uint32_t m = 0; m < METRIC_ROW_COUNT; m++) {
        vm finite = v_and(sound, v_less_equal(v_abs(value[m]), v_set(FLT_MAX)));
        v_store(ret_value[m] + s, v_where(sound, value[m]));
        gaps |= (uint32_t)((v_mask_bits(finite) & used) != used) << m;
    }
    return gaps;
}

static uint32_t row_finish(const struct row_batch *batch, float *const ret_value[METRIC_ROW_COUNT])
{
    uint32_t gaps = 0;
    struct row_batch shares;
    const struct row_batch *b = batch;
    if (batch->learned_sink) {
        shares = *batch;
        for (uint32_t s = 0; s < ROW_BATCH; s += SIMD_WIDTH) {
            divide_by_sums(&shares, s);
        }
        b = &shares;
    }
    for (uint32_t s = 0; s < ROW_BATCH; s += SIMD_WIDTH) {
        gaps |= finish_slots(b, batch, s, ret_value);
    }
    return gaps;
}

/* In one pass, squares about the first: it is one of the n, so what its distance from the mean
 * costs is at most a factor of n of an f64's rounding. The last vector is filled up with it. */
static struct moments count_moments(const float *x, size_t n)
{
    vd sum = vd_zero(), about_first = vd_zero();
    vf first = v_set(x[0]), min = first, max = first;
    double about = (double)x[0];
    size_t k = 0;
    for (; k < n; k += SIMD_WIDTH) {
        vf v = v_load(x + k);
        if (n - k < SIMD_WIDTH) {
            v = v_select(v_mask_of_bits((1u << (n - k)) - 1), v, first);
        }
        vd wide = v_widen(v);
        sum = vd_add(sum, wide);
        about_first = vd_add_square(about_first, wide, about);
        min = v_min(v, min);
        max = v_max(v, max);
    }
    double mean = (vd_sum(sum) - (double)(k - n) * about) / (double)n, off = mean - about;
    double m2 = vd_sum(about_first) - (double)n * off * off;
    return (struct moments){.n = n,
                            .mean = mean,
                            .m2 = m2 > 0 ? m2 : 0,
                            .min = (double)v_least(min),
                            .max = (double)v_most(max)};
}

/* The used counters of the keys [begin, end] as a list; zeroes them. */
static void row_collect(struct dist_counts *counts, int32_t begin, int32_t end)
{
    uint32_t used = 0;
    for (int32_t key = begin; key <= end; key += SIMD_WIDTH) {
        int32_t *at = (int32_t *)&counts->count[key + HIST_KEY_MAX];
        int32_t *other = (int32_t *)&counts->other[key + HIST_KEY_MAX];
        vi count = v_add_i(v_load_i(at), v_load_i(other));
        vm some = v_less_i(v_set_i(0), count);
        if (v_any(some)) {
            v_store_i(at, v_set_i(0));
            v_store_i(other, v_set_i(0));
            used += v_store_pairs((int32_t *)(void *)&counts->list[used],
                                  v_add_i(v_set_i(key), v_lane_index_i()), count, some);
        }
    }
    counts->used = used;
}

/* Keys at a time: they go through memory, which is how lanes become addresses most cheaply. */
#define KEYS_AT_ONCE 256

static void row_count(const float *x, size_t n, struct dist_counts *counts)
{
    counts->moments = count_moments(x, n);
    uint32_t *zero = counts->count + HIST_KEY_MAX, *other = counts->other + HIST_KEY_MAX;
    int32_t key[KEYS_AT_ONCE];
    for (size_t begin = 0; begin < n; begin += KEYS_AT_ONCE) {
        uint32_t left = n - begin < KEYS_AT_ONCE ? (uint32_t)(n - begin) : KEYS_AT_ONCE;
        for (uint32_t k = 0; k < left; k += SIMD_WIDTH) {
            v_store_i(key + k, v_hist_key(v_load(x + begin + k)));
        }
        uint32_t k = 0;
        for (; k + 1 < left; k += 2) {
            zero[key[k]]++;
            other[key[k + 1]]++;
        }
        if (k < left) {
            zero[key[k]]++;
        }
    }
    vf least = v_set((float)counts->moments.min), most = v_set((float)counts->moments.max);
    v_store_i(key, v_hist_key(v_select(v_mask_of_bits(1), least, most)));
    row_collect(counts, key[0], key[1]);
}

#endif
