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

static inline void dot_group(const float *const a[GROUP], const float *v, size_t length,
                             float ret[GROUP])
{
    vf sum[GROUP];
    for (int g = 0; g < GROUP; g++) {
        sum[g] = v_set(0);
    }
    for (size_t i = 0; i < length; i += SIMD_WIDTH) {
        vf x = v_load(v + i);
        for (int g = 0; g < GROUP; g++) {
            sum[g] = v_fma(v_load(a[g] + i), x, sum[g]);
        }
    }
    for (int g = 0; g < GROUP; g++) {
        ret[g] = spectrum_sum_lanes(sum[g]);
    }
}

static inline float dot_one(const float *a, const float *v, size_t length)
{
    vf sum = v_set(0);
    for (size_t i = 0; i < length; i += SIMD_WIDTH) {
        sum = v_fma(v_load(a + i), v_load(v + i), sum);
    }
    return spectrum_sum_lanes(sum);
}

static inline void add_group(float *z, const float *const a[GROUP], const float f[GROUP],
                             size_t length)
{
    vf factor[GROUP];
    for (int g = 0; g < GROUP; g++) {
        factor[g] = v_set(f[g]);
    }
    for (size_t i = 0; i < length; i += SIMD_WIDTH) {
        vf sum = v_load(z + i);
        for (int g = 0; g < GROUP; g++) {
            sum = v_fma(v_load(a[g] + i), factor[g], sum);
        }
        v_store(z + i, sum);
    }
}

static inline void add_one(float *z, const float *a, float f, size_t length)
{
    vf factor = v_set(f);
    for (size_t i = 0; i < length; i += SIMD_WIDTH) {
        v_store(z + i, v_fma(v_load(a + i), factor, v_load(z + i)));
    }
}

static inline void clear(float *z, size_t length)
{
    for (size_t i = 0; i < length; i += SIMD_WIDTH) {
        v_store(z + i, v_set(0));
    }
}

static void gram(const struct spectrum_vectors *a, const float *v, float *ret_z)
{
    clear(ret_z, a->length);
    uint32_t i = 0;
    for (; i + GROUP <= a->count; i += GROUP) {
        const float *row[GROUP];
        float dot[GROUP];
        for (uint32_t g = 0; g < GROUP; g++) {
            row[g] = a->data + (i + g) * a->stride;
        }
        dot_group(row, v, a->length, dot);
        add_group(ret_z, row, dot, a->length);
    }
    for (; i < a->count; i++) {
        const float *row = a->data + i * a->stride;
        add_one(ret_z, row, dot_one(row, v, a->length), a->length);
    }
}

/* The part of a step that runs along the columns, from row `from` on. */
struct along {
    const float *old_u, *old_x, *u;
    size_t length;
};

/* Applies the previous step to a group of columns and multiplies them with u. */
static inline void update_group(float *const a[GROUP], const struct along *l, const float y[GROUP],
                                const float v[GROUP], float ret_dot[GROUP])
{
    vf old_y[GROUP], old_v[GROUP], sum[GROUP];
    for (int g = 0; g < GROUP; g++) {
        old_y[g] = v_set(y[g]);
        old_v[g] = v_set(v[g]);
        sum[g] = v_set(0);
    }
    for (size_t i = 0; i < l->length; i += SIMD_WIDTH) {
        vf old_u = v_load(l->old_u + i), old_x = v_load(l->old_x + i), u = v_load(l->u + i);
        for (int g = 0; g < GROUP; g++) {
            vf x = v_fnma(old_v[g], old_x, v_fnma(old_y[g], old_u, v_load(a[g] + i)));
            v_store(a[g] + i, x);
            sum[g] = v_fma(x, u, sum[g]);
        }
    }
    for (int g = 0; g < GROUP; g++) {
        ret_dot[g] = spectrum_sum_lanes(sum[g]);
    }
}

static inline float update_one(float *a, const struct along *l, float y, float v)
{
    vf old_y = v_set(y), old_v = v_set(v), sum = v_set(0);
    for (size_t i = 0; i < l->length; i += SIMD_WIDTH) {
        vf x =
            v_fnma(old_v, v_load(l->old_x + i), v_fnma(old_y, v_load(l->old_u + i), v_load(a + i)));
        v_store(a + i, x);
        sum = v_fma(x, v_load(l->u + i), sum);
    }
    return spectrum_sum_lanes(sum);
}

/* Rows above `step` are done with: u, old_u and old_x are zero there. The first vector that holds
 * row `step` is where the work begins. */
static void step(const struct spectrum_vectors *a, const struct spectrum_step *s)
{
    size_t from = s->step / SPECTRUM_LANES * SPECTRUM_LANES, row = s->step - from;
    struct along l = {s->old_u + from, s->old_x + from, s->u + from, a->length - from};
    float *w = s->ret_w + from;
    clear(w, l.length);
    uint32_t j = s->step + 1;
    for (; j + GROUP <= a->count; j += GROUP) {
        float *column[GROUP];
        float dot[GROUP];
        for (uint32_t g = 0; g < GROUP; g++) {
            column[g] = a->data + (j + g) * a->stride + from;
        }
        update_group(column, &l, s->old_y + j, s->old_v + j, dot);
        for (uint32_t g = 0; g < GROUP; g++) {
            s->ret_y[j + g] = s->tau * dot[g];
            s->ret_row[j + g] = column[g][row] - s->ret_y[j + g];
        }
        add_group(w, (const float *const *)column, s->ret_row + j, l.length);
    }
    for (; j < a->count; j++) {
        float *column = a->data + j * a->stride + from;
        s->ret_y[j] = s->tau * update_one(column, &l, s->old_y[j], s->old_v[j]);
        s->ret_row[j] = column[row] - s->ret_y[j];
        add_one(w, column, s->ret_row[j], l.length);
    }
}

const struct spectrum_kernels SIMD_NAME(spectrum_kernels) = {.gram = gram, .step = step};
