/* SPDX-License-Identifier: MIT */
/* The passes of across_kernel.h by the vector extensions of the compiler. */
#include "workers/across/kernel.h"
#include "workers/simd/portable.h"

#define ACROSS_KERNEL across_kernel_portable
#include "workers/across/kernel.inc"
