/* SPDX-License-Identifier: MIT */
/* simd: the vector words of the instruction set that a file is compiled for. A template NAME_tmpl.c
 * or NAME_tmpl.h is kernels written once over these words; meson.build compiles each NAME_tmpl.c
 * once per instruction set, with its flags and SIMD_AVX2 or SIMD_AVX512, into a table of its own:
 * SIMD_NAME(row_kernels) is row_kernels_avx2. Nothing else includes this. The contract of the words
 * is in portable.h; a 64-bit Arm build has only those. */
#ifndef WORKERS_SIMD_SIMD_H
#define WORKERS_SIMD_SIMD_H

#if defined(SIMD_AVX512)
#include "workers/simd/avx512.h"
#define SIMD_NAME(name) name##_avx512
#elif defined(SIMD_AVX2)
#include "workers/simd/avx2.h"
#define SIMD_NAME(name) name##_avx2
#else
#include "workers/simd/portable.h"
#define SIMD_NAME(name) name##_portable
#endif

#endif
