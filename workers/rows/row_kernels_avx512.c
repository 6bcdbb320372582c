/* SPDX-License-Identifier: MIT */
/* row_kernels_avx512: the kernels of ISA_AVX512. */
#include "workers/simd/avx512.h"

#include "workers/rows/row_table.h"

const struct row_kernels row_kernels_avx512 = ROW_TABLE;
