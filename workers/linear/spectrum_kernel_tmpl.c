/* SPDX-License-Identifier: MIT */
/* spectrum_kernel_tmpl: the passes of spectrum_kernel.h, written once.
 *
 * Four vectors of the matrix go side by side: what they share (v, z, u, ...) is loaded once for all
 * of them, and their sums keep the multiplier busy; the loops over a group are unrolled into
 * registers. The vectors of an incomplete last group go one by one. A group is still in the first
 * or second level of the cache when its second use comes. */
#include "workers/linear/spectrum_kernel.h"
#include "workers/simd/simd.h"

#define GROUP 4

/* Neighbours first among four lanes: the order decides the last bit. */
SIMD_INLINE float spectrum_sum_lanes(vf v)
{
    return SIMD_WIDTH == 4 ? (v[0] + v[1]) + (v[2] + v[3]) : v_sum(v);
}

/* `count`, GROUP or 1, is known where these are called. */

SIMD_INLINE void dot_group(const float *const *a, uint32_t count, const float *v, size_t length,
                           float *ret)
{
    vf sum[GROUP];
    for (uint32_t g = 0; g < count; g++) {
        sum[g] = v_set(0);
    }
    for (size_t i = 0; i < length; i += SIMD_WIDTH) {
        vf x = v_load(v + i);
        for (uint32_t g = 0; g < count; g++) {
            sum[g] = v_fma(v_load(a[g] + i), x, sum[g]);
        }
    }
    for (uint32_t g = 0; g < count; g++) {
        ret[g] = spectrum_sum_lanes(sum[g]);
    }
}

SIMD_INLINE void add_group(float *z, const float *const *a, uint32_t count, const float *f,
                           size_t length)
{
    vf factor[GROUP];
    for (uint32_t g = 0; g < count; g++) {
        factor[g] = v_set(f[g]);
    }
    for (size_t i = 0; i < length; i += SIMD_WIDTH) {
        vf sum = v_load(z + i);
        for (uint32_t g = 0; g < count; g++) {
            sum = v_fma(v_load(a[g] + i), factor[g], sum);
        }
        v_store(z + i, sum);
    }
}

static inline void clear(float *z, size_t length)
{
    for (size_t i = 0; i < length; i += SIMD_WIDTH) {
        v_store(z + i, v_set(0));
    }
}

/* Vectors [i, i + count). */
SIMD_INLINE void gram_group(const struct spectrum_vectors *a, uint32_t i, uint32_t count,
                            const float *v, float *z)
{
    const float *row[GROUP];
    float dot[GROUP];
    for (uint32_t g = 0; g < count; g++) {
        row[g] = a->data + (i + g) * a->stride;
    }
    dot_group(row, count, v, a->length, dot);
    add_group(z, row, count, dot, a->length);
}

static void gram(const struct spectrum_vectors *a, const float *v, float *ret_z)
{
    clear(ret_z, a->length);
    uint32_t i = 0;
    for (; i + GROUP <= a->count; i += GROUP) {
        gram_group(a, i, GROUP, v, ret_z);
    }
    for (; i < a->count; i++) {
        gram_group(a, i, 1, v, ret_z);
    }
}

/* The part of a step that runs along the columns, from row `from` on. */
struct along {
    const float *old_u, *old_x, *u;
    size_t length;
};

/* Applies the previous step to a group of columns and multiplies them with u. */
SIMD_INLINE void update_group(float *const *a, uint32_t count, const struct along *l,
                              const float *y, const float *v, float *ret_dot)
{
    vf old_y[GROUP], old_v[GROUP], sum[GROUP];
    for (uint32_t g = 0; g < count; g++) {
        old_y[g] = v_set(y[g]);
        old_v[g] = v_set(v[g]);
        sum[g] = v_set(0);
    }
    for (size_t i = 0; i < l->length; i += SIMD_WIDTH) {
        vf old_u = v_load(l->old_u + i), old_x = v_load(l->old_x + i), u = v_load(l->u + i);
        for (uint32_t g = 0; g < count; g++) {
            vf x = v_fnma(old_v[g], old_x, v_fnma(old_y[g], old_u, v_load(a[g] + i)));
            v_store(a[g] + i, x);
            sum[g] = v_fma(x, u, sum[g]);
        }
    }
    for (uint32_t g = 0; g < count; g++) {
        ret_dot[g] = spectrum_sum_lanes(sum[g]);
    }
}

/* Columns [j, j + count). */
SIMD_INLINE void step_group(const struct spectrum_vectors *a, const struct spectrum_step *s,
                            const struct along *l, uint32_t j, uint32_t count, size_t from,
                            float *w)
{
    float *column[GROUP], dot[GROUP];
    for (uint32_t g = 0; g < count; g++) {
        column[g] = a->data + (j + g) * a->stride + from;
    }
    update_group(column, count, l, s->old_y + j, s->old_v + j, dot);
    for (uint32_t g = 0; g < count; g++) {
        s->ret_y[j + g] = s->tau * dot[g];
        s->ret_row[j + g] = column[g][s->step - from] - s->ret_y[j + g];
    }
    add_group(w, (const float *const *)column, count, s->ret_row + j, l->length);
}

/* Rows above `step` are done with: u, old_u and old_x are zero there. The first vector that holds
 * row `step` is where the work begins. */
static void step(const struct spectrum_vectors *a, const struct spectrum_step *s)
{
    size_t from = s->step / SPECTRUM_LANES * SPECTRUM_LANES;
    struct along l = {s->old_u + from, s->old_x + from, s->u + from, a->length - from};
    float *w = s->ret_w + from;
    clear(w, l.length);
    uint32_t j = s->step + 1;
    for (; j + GROUP <= a->count; j += GROUP) {
        step_group(a, s, &l, j, GROUP, from, w);
    }
    for (; j < a->count; j++) {
        step_group(a, s, &l, j, 1, from, w);
    }
}

const struct spectrum_kernels SIMD_NAME(spectrum_kernels) = {.gram = gram, .step = step};
