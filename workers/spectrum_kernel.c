/* SPDX-License-Identifier: MIT */
/* spectrum_kernel: which set of passes runs. */
#include "spectrum_kernel.h"

const struct spectrum_kernel *spectrum_kernel_of(enum isa isa)
{
    if (!isa_available(isa)) {
        return NULL;
    }
    switch (isa) {
#ifdef __x86_64__
    case ISA_AVX512:
        return &spectrum_kernel_avx512;
    case ISA_AVX2:
        return &spectrum_kernel_avx2;
#endif
    default: /* the scalar level has no f32 twin: it runs the portable one */
        return &spectrum_kernel_portable;
    }
}

const struct spectrum_kernel *spectrum_kernel_best(void)
{
    return spectrum_kernel_of(isa_best());
}
