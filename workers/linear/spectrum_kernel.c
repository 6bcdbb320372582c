/* SPDX-License-Identifier: MIT */
/* spectrum_kernel: which set of passes runs, and what all of them share. */
#include "workers/linear/spectrum_kernel.h"

const struct spectrum_kernel *spectrum_kernel_of(enum isa isa)
{
    switch (isa_available(isa) ? isa : ISA_PORTABLE) {
#ifdef __x86_64__
    case ISA_AVX512:
        return &spectrum_kernel_avx512;
    case ISA_AVX2:
        return &spectrum_kernel_avx2;
#endif
    default:
        return &spectrum_kernel_portable;
    }
}

double spectrum_dot(const float *a, const float *b, size_t n)
{
    double sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        for (size_t l = 0; l < 8; l++) {
            sum[l] += (double)a[i + l] * (double)b[i + l];
        }
    }
    for (; i < n; i++) {
        sum[0] += (double)a[i] * (double)b[i];
    }
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}
