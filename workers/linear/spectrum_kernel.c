/* SPDX-License-Identifier: MIT */
/* spectrum_kernel: the common part of the passes of all instruction sets. */
#include "workers/linear/spectrum_kernel.h"

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
