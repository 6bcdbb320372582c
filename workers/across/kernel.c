/* SPDX-License-Identifier: MIT */
/* across_kernel: which set of passes an instruction set runs. */
#include "workers/across/kernel.h"

const struct across_kernel *across_kernel_of(enum isa isa)
{
    if (!isa_available(isa)) {
        return NULL;
    }
    switch (isa) {
#ifdef __x86_64__
    case ISA_AVX512:
        return &across_kernel_avx512;
    case ISA_AVX2:
        return &across_kernel_avx2;
#endif
    case ISA_PORTABLE:
        return &across_kernel_portable;
    default:
        return NULL;
    }
}
