/* SPDX-License-Identifier: MIT */
/* isa: the ladder. __builtin_cpu_supports asks the processor and, by xgetbv, whether the system
 * saves the wide registers; its state is set up before main, and asking for it again is harmless.
 */
#include "workers/base/isa.h"

#include "proto/err.h"
#include "workers/rows/row_kernels.h"
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

const char *const isa_name[ISA_COUNT] = {
    [ISA_SCALAR] = "scalar",
    [ISA_PORTABLE] = "portable",
    [ISA_AVX2] = "avx2",
    [ISA_AVX512] = "avx512",
};

#if defined(__x86_64__)
/* Not among the names that clang 14 knows. Its registers are those of AVX. */
static bool has_f16c(void)
{
    unsigned eax, ebx, ecx, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

static bool has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

const struct row_kernels *row_kernels_of(enum isa isa)
{
    switch (isa) {
    case ISA_PORTABLE:
        return &row_kernels_portable;
    case ISA_AVX2:
        return &row_kernels_avx2;
    case ISA_AVX512:
        return &row_kernels_avx512;
    default:
        return NULL;
    }
}
#else
static bool has_avx2(void)
{
    return false;
}

static bool has_avx512(void)
{
    return false;
}

const struct row_kernels *row_kernels_of(enum isa isa)
{
    return isa == ISA_PORTABLE ? &row_kernels_portable : NULL;
}
#endif

bool isa_available(enum isa isa)
{
    switch (isa) {
    case ISA_SCALAR:
    case ISA_PORTABLE:
        return true;
    case ISA_AVX2:
        return has_avx2();
    case ISA_AVX512:
        return has_avx512();
    default:
        return false;
    }
}

enum isa isa_best(void)
{
    return isa_available(ISA_AVX512) ? ISA_AVX512
           : isa_available(ISA_AVX2) ? ISA_AVX2
                                     : ISA_PORTABLE;
}

int isa_parse(const char *name, size_t len, enum isa *ret_isa)
{
    if (len == strlen("auto") && memcmp(name, "auto", len) == 0) {
        *ret_isa = isa_best();
        return 0;
    }
    for (int isa = 0; isa < ISA_COUNT; isa++) {
        if (len == strlen(isa_name[isa]) && memcmp(name, isa_name[isa], len) == 0 &&
            isa_available((enum isa)isa)) {
            *ret_isa = (enum isa)isa;
            return 0;
        }
    }
    return ERR_ARGUMENT;
}
