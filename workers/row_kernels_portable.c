/* SPDX-License-Identifier: MIT */
/* row_kernels_portable: the kernels of ISA_PORTABLE. */
#include "simd_portable.h"

#include "row_finish.h"

const struct row_kernels row_kernels_portable = {
    .finish = row_finish,
    .count = row_count,
};
