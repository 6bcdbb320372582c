/* SPDX-License-Identifier: MIT */
/* row_kernels_avx2: the kernels of ISA_AVX2. */
#include "workers/simd/avx2.h"

#include "workers/rows/row_table.h"

const struct row_kernels row_kernels_avx2 = ROW_TABLE;
