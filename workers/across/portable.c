/* SPDX-License-Identifier: MIT */
/* The passes of across_kernel.h by the vector extensions of the compiler. */
#include "across_kernel.h"
#include "simd_portable.h"

#define ACROSS_KERNEL across_kernel_portable
#include "across_kernel.inc"
