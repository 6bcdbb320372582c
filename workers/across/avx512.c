/* SPDX-License-Identifier: MIT */
/* The passes of across_kernel.h by AVX-512 F, BW, DQ and VL. */
#include "across_kernel.h"
#include "simd_avx512.h"

#define ACROSS_KERNEL across_kernel_avx512
#include "across_kernel.inc"
