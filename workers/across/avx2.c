/* SPDX-License-Identifier: MIT */
/* The passes of across_kernel.h by AVX2, FMA and F16C. */
#include "workers/across/kernel.h"
#include "workers/simd/avx2.h"

#define ACROSS_KERNEL across_kernel_avx2
#include "workers/across/kernel.inc"
