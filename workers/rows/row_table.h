/* SPDX-License-Identifier: MIT */
/* row_table: the table of kernels of one instruction set, from the templates. Included last. */
#ifndef WORKERS_ROWS_ROW_TABLE_H
#define WORKERS_ROWS_ROW_TABLE_H

#include "workers/rows/map_kernels.h"
#include "workers/rows/row_finish.h"
#include "workers/rows/row_reduce.h"

#define BY_DTYPE(kernel)                                                                           \
    {                                                                                              \
        [DTYPE_F32] = kernel##_f32, [DTYPE_F16] = kernel##_f16, [DTYPE_BF16] = kernel##_bf16,      \
        [DTYPE_F64] = kernel##_f64,                                                                \
    }
#define BY_DTYPE_AND_MAPS(kernel)                                                                  \
    {                                                                                              \
        [DTYPE_F32] = {kernel##_f32, kernel##_maps_f32},                                           \
        [DTYPE_F16] = {kernel##_f16, kernel##_maps_f16},                                           \
        [DTYPE_BF16] = {kernel##_bf16, kernel##_maps_bf16},                                        \
        [DTYPE_F64] = {kernel##_f64, kernel##_maps_f64},                                           \
    }
#define ROW_TABLE                                                                                  \
    {                                                                                              \
        .width = SIMD_WIDTH, .core = BY_DTYPE_AND_MAPS(core), .rows = BY_DTYPE_AND_MAPS(rows),     \
        .maps = BY_DTYPE(maps), .reduce = row_reduce, .reduce_sums = row_reduce_sums,              \
        .ordinary = row_ordinary, .top = BY_DTYPE(top), .squares = BY_DTYPE(squares),              \
        .importance = BY_DTYPE(importance), .clear = map_clear, .moments = map_moments,            \
        .add_upper = map_add_upper, .add_sums = map_add_sums, .find = map_find,                    \
        .head_sums = BY_DTYPE(head_sums), .finish = row_finish, .count = row_count,                \
    }

#endif
