/* SPDX-License-Identifier: MIT */
/* row_kernels_tmpl: the table of row kernels of one instruction set. */
#include "workers/simd/simd.h"

#include "workers/rows/map_tmpl.h"
#include "workers/rows/row_finish_tmpl.h"
#include "workers/rows/row_reduce_tmpl.h"
#include "workers/rows/row_sums_tmpl.h"

#define BY_DTYPE(kernel)                                                                           \
    {                                                                                              \
        [DTYPE_F32] = kernel##_f32, [DTYPE_F16] = kernel##_f16, [DTYPE_BF16] = kernel##_bf16,      \
        [DTYPE_F64] = kernel##_f64,                                                                \
    }
#define BY_DTYPE_AND_MAPS(kernel)                                                                  \
    {                                                                                              \
        [DTYPE_F32] = {kernel##_f32, kernel##_begin_f32, kernel##_maps_f32},                       \
        [DTYPE_F16] = {kernel##_f16, kernel##_begin_f16, kernel##_maps_f16},                       \
        [DTYPE_BF16] = {kernel##_bf16, kernel##_begin_bf16, kernel##_maps_bf16},                   \
        [DTYPE_F64] = {kernel##_f64, kernel##_begin_f64, kernel##_maps_f64},                       \
    }

const struct row_kernels SIMD_NAME(row_kernels) = {
    .width = SIMD_WIDTH,
    .core = BY_DTYPE_AND_MAPS(core),
    .rows = BY_DTYPE_AND_MAPS(rows),
    .maps = BY_DTYPE(maps),
    .reduce = row_reduce,
    .reduce_sums = row_reduce_sums,
    .ordinary = row_ordinary,
    .top = BY_DTYPE(top),
    .squares = BY_DTYPE(squares),
    .importance = BY_DTYPE(importance),
    .moments = map_moments,
    .moments_finite = map_moments_finite,
    .finite_most = BY_DTYPE(finite_most),
    .add_upper = map_add_upper,
    .add_upper_finite = map_add_upper_finite,
    .add_sums = map_add_sums,
    .find = map_find,
    .head_sums = BY_DTYPE(head_sums),
    .finish = row_finish,
    .sums = row_sums_all,
    .totals = row_sums_totals,
    .finite_sum = row_sums_finite,
    .count = row_count,
};
