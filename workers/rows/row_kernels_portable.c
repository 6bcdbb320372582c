/* SPDX-License-Identifier: MIT */
/* row_kernels_portable: the kernels of ISA_PORTABLE. */
#include "workers/simd/portable.h"

#include "workers/rows/row_table.h"

const struct row_kernels row_kernels_portable = ROW_TABLE;
