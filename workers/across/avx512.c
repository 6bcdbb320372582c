/* SPDX-License-Identifier: MIT */
/* The passes of across_kernel.h by AVX-512 F, BW, DQ and VL. */
#include "workers/across/kernel.h"
#include "workers/simd/avx512.h"

#define ACROSS_KERNEL across_kernel_avx512
#include "workers/across/kernel.inc"
