/* SPDX-License-Identifier: MIT */
/* The passes of across_kernel.h by AVX2, FMA and F16C. */
#include "across_kernel.h"
#include "simd_avx2.h"

#define ACROSS_KERNEL across_kernel_avx2
#include "across_kernel.inc"
