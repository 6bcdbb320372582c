/* SPDX-License-Identifier: MIT */
/* spectrum_kernel: which set of passes this machine runs. */
#include "spectrum_kernel.h"

/* The scalar level has no f32 twin of its own: it runs the portable one. */
const struct spectrum_kernel *spectrum_kernel_of(enum isa isa)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    if (isa == ISA_AVX512) {
        return __builtin_cpu_supports("avx512f") ? &spectrum_kernel_avx512 : NULL;
    }
    if (isa == ISA_AVX2) {
        bool both = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        return both ? &spectrum_kernel_avx2 : NULL;
    }
#endif
    return isa <= ISA_PORTABLE ? &spectrum_kernel_portable : NULL;
}

const struct spectrum_kernel *spectrum_kernel_best(void)
{
    enum isa isa = ISA_COUNT - 1;
    while (spectrum_kernel_of(isa) == NULL) {
        isa--;
    }
    return spectrum_kernel_of(isa);
}
