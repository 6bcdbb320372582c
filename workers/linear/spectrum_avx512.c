/* SPDX-License-Identifier: MIT */
/* The passes of spectrum_kernel.h by AVX-512 F. */
#include "workers/linear/spectrum_kernel.h"

#include <immintrin.h>

#define LANES         16
#define V             __m512
#define GROUP         4
#define LOAD(p)       _mm512_load_ps(p)
#define STORE(p, v)   _mm512_store_ps(p, v)
#define SET(x)        _mm512_set1_ps(x)
#define ZERO()        _mm512_setzero_ps()
#define FMA(a, b, c)  _mm512_fmadd_ps(a, b, c)
#define FNMA(a, b, c) _mm512_fnmadd_ps(a, b, c)
#define sum_lanes(v)  _mm512_reduce_add_ps(v)
#define KERNEL        spectrum_kernel_avx512

#include "workers/linear/spectrum_kernel.inc"
