/* SPDX-License-Identifier: MIT */
/* The passes of spectrum_kernel.h by the compiler's vector extensions: any machine with vectors of
 * four floats. */
#include "workers/linear/spectrum_kernel.h"

typedef float v4 __attribute__((vector_size(16), may_alias));

#define LANES         4
#define V             v4
#define GROUP         4
#define LOAD(p)       (*(const v4 *)(const void *)(p))
#define STORE(p, v)   (*(v4 *)(void *)(p) = (v))
#define SET(x)        ((v4){(x), (x), (x), (x)})
#define ZERO()        ((v4){0, 0, 0, 0})
#define FMA(a, b, c)  ((c) + (a) * (b))
#define FNMA(a, b, c) ((c) - (a) * (b))
#define sum_lanes(v)  (((v)[0] + (v)[1]) + ((v)[2] + (v)[3]))
#define KERNEL        spectrum_kernel_portable

#include "workers/linear/spectrum_kernel.inc"
